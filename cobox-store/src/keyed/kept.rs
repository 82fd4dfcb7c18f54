//! Entries' bodies as a member keeps them: what they say, compressed, instead of the bytes that were sent.
//!
//! A body is padded ciphertext, in which nothing compresses; what it says does, to a third. Sealing it again with the
//! nonce it had gives the same bytes to the bit, so a peer that asks gets what it would have got. A body for which
//! that does not hold, or that is not worth it, is kept as it is.

use zstd::bulk::{Compressor, Decompressor};

use super::aead;
use super::epoch::EpochKeys;
use super::folder::{Folder, epoch_of_store};
use super::local::LocalKeys;
use super::secret::Secret32;
use crate::blind::{Batch, Store, Table, key};
use crate::error::{Error, Result};
use crate::format::entry::{Entry, Header};
use crate::format::{DecodeError, ENTRY_BODY_BYTES_MAX, Reader, Writer};
use crate::id::{FolderNo, LogId, hash};

/// Shorter bodies stay as they are: nonce and seal of the row are half of what would be spared.
const BODY_BYTES_MIN: usize = 1024;
/// It compresses a whole entry's body in some milliseconds, and half as much again as the fastest.
const LEVEL: i32 = 3;
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;

fn kept_key(no: FolderNo, within: LogId, seq: u64) -> Vec<u8> {
    key(no, Table::EntryKept, &[&within.0[..], &seq.to_be_bytes()].concat())
}

fn fault() -> Error {
    DecodeError::Invalid { field: "kept body" }.into()
}

// format.md §15.2
fn shorten(keys: &EpochKeys, header: &Header, body: &[u8]) -> Result<Vec<u8>> {
    let plain = aead::open(keys.log.expose(), &hash(&header.encode_start()), body)?;
    let nonce = body.get(..NONCE_BYTES).ok_or(Error::Sealed)?;
    let zstd = Compressor::new(LEVEL).and_then(|mut zstd| zstd.compress(&plain)).map_err(|_| fault())?;
    let mut writer = Writer::new();
    writer.u8(VERSION);
    writer.fixed(nonce);
    writer.u32(u32::try_from(plain.len()).map_err(|_| fault())?);
    writer.fixed(&zstd);
    Ok(writer.into_bytes())
}

fn restore(keys: &EpochKeys, header: &Header, kept: &[u8]) -> Result<Vec<u8>> {
    let field = "kept body";
    let mut reader = Reader::new(kept);
    reader.version(VERSION, field)?;
    let nonce = reader.array(field)?;
    let bytes = reader.u32(field)? as usize;
    if bytes > ENTRY_BODY_BYTES_MAX {
        return Err(fault());
    }
    let zstd = reader.rest();
    let opened = Decompressor::new().and_then(|mut decompressor| decompressor.decompress(zstd, bytes));
    let plain = opened.map_err(|_| fault())?;
    if plain.len() != bytes {
        return Err(fault());
    }
    Ok(aead::seal_at(keys.log.expose(), &hash(&header.encode_start()), &nonce, &plain))
}

/// Has the store make bodies of what is kept of them, for all folders of a device, whether or not they are open.
pub(super) fn make_bodies(store: &Store, master: &Secret32) {
    let master = Secret32::take(&mut master.expose().clone());
    store.set_body_maker(Box::new(move |store, no, within, header, sealed| {
        let local = LocalKeys::new(&master, &header.folder.0);
        let keys = epoch_of_store(store, no, header.folder, &local, header.epoch)?
            .ok_or(Error::UnknownEpoch(header.epoch))?;
        let kept = local.open_row(&kept_key(no, within, header.seq), sealed)?;
        restore(&keys, header, &kept)
    }));
}

impl Folder {
    /// Adds to `batch`, which may hold the entry, that its body is kept compressed. It is within `within`: its author's
    /// log or a branch.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stage_kept(&self, within: LogId, entry: &Entry, batch: &mut Batch) -> Result<()> {
        let (header, body) = (entry.header(), entry.body());
        if body.len() < BODY_BYTES_MIN {
            return Ok(());
        }
        // Only by keys that are there whenever the store is, whatever becomes of this folder's own.
        let stored = epoch_of_store(self.store(), self.no(), self.id(), self.local(), header.epoch)?;
        let Some(keys) = stored else { return Ok(()) };
        let Ok(kept) = shorten(&keys, header, body) else { return Ok(()) };
        let row_key = kept_key(self.no(), within, header.seq);
        let sealed = self.local().seal_row(&row_key, &kept);
        if sealed.len() < body.len() && restore(&keys, header, &kept).is_ok_and(|made| made == body) {
            batch.delete(&key(
                self.no(),
                Table::EntryBody,
                &[&within.0[..], &header.seq.to_be_bytes()].concat(),
            ));
            batch.put_owned(row_key, sealed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blind::Durability;
    use crate::format::op::{Op, OpGroup};
    use crate::keyed::{Home, MemberSecret, PassphraseCost, Unlock};

    fn unlock() -> Unlock {
        Unlock::Passphrase(zeroize::Zeroizing::new("pass".into()))
    }

    fn groups(count: u64) -> Vec<OpGroup> {
        (1..=count).map(|at| OpGroup { hlc: at << 16, ops: vec![Op::Ack; 9] }).collect()
    }

    #[test]
    fn entry_that_is_kept_compressed_is_given_to_the_bit_also_while_its_folder_is_not_open() {
        let dir = tempfile::tempdir().expect("a folder");
        let secret = MemberSecret::generate().expect("randomness");
        let home =
            Home::init_at_cost(dir.path(), "d", &unlock(), &secret, PassphraseCost::cheapest_for_tests());
        let home = home.expect("a home");
        let folder = home.folder_create("f").expect("created");
        let (no, log) = (folder.no(), folder.log());
        folder.write_entries(1 << 30, groups(1), Vec::new(), Batch::default()).expect("written");
        folder.write_entries(2 << 30, groups(500), Vec::new(), Batch::default()).expect("written");
        let row = |store: &Store, table, seq: u64| {
            store.db().get(&key(no, table, &[&log.0[..], &seq.to_be_bytes()].concat())).expect("reads")
        };
        // A short one is as it was sent; of the long one a third is left.
        assert!(
            row(home.store(), Table::EntryBody, 1).is_some()
                && row(home.store(), Table::EntryKept, 1).is_none()
        );
        assert!(row(home.store(), Table::EntryBody, 2).is_none());
        let kept = row(home.store(), Table::EntryKept, 2).expect("is there").len();
        let entry = home.store().entry(no, log, 2).expect("verifies").expect("is there");
        assert!(kept * 3 < entry.body().len(), "{kept} of {}", entry.body().len());
        let usage = home.store().usage(no).expect("counts").entry_bytes;
        drop((folder, home));
        let home = Home::open(dir.path(), unlock()).expect("opens");
        assert_eq!(home.store().entry(no, log, 2).expect("verifies"), Some(entry));
        assert_eq!(home.store().usage(no).expect("counts").entry_bytes, usage);
        // On a locked device there is nothing to give.
        drop(home);
        let store = Store::open(&dir.path().join("data"), crate::blind::StoreKind::Device).expect("opens");
        assert_eq!(store.entry(no, log, 2).expect("reads"), None);
    }

    #[test]
    fn kept_body_that_the_disk_changed_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let secret = MemberSecret::generate().expect("randomness");
        let home =
            Home::init_at_cost(dir.path(), "d", &unlock(), &secret, PassphraseCost::cheapest_for_tests());
        let folder = home.expect("a home").folder_create("f").expect("created");
        folder.write_entries(1 << 30, groups(500), Vec::new(), Batch::default()).expect("written");
        let row_key = kept_key(folder.no(), folder.log(), 1);
        let mut sealed = folder.store().db().get(&row_key).expect("reads").expect("is there");
        sealed[40] ^= 1;
        let mut batch = Batch::default();
        batch.put(&row_key, &sealed);
        folder.store().db().commit(batch, Durability::Unsynced).expect("commits");
        assert!(folder.store().entry(folder.no(), folder.log(), 1).is_err());
    }

    #[test]
    fn kept_body_that_no_writer_makes_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let secret = MemberSecret::generate().expect("randomness");
        let home =
            Home::init_at_cost(dir.path(), "d", &unlock(), &secret, PassphraseCost::cheapest_for_tests());
        let folder = home.expect("a home").folder_create("f").expect("created");
        folder.write_entries(1 << 30, groups(500), Vec::new(), Batch::default()).expect("written");
        let entry = folder.store().entry(folder.no(), folder.log(), 1).expect("reads").expect("is there");
        let keys =
            epoch_of_store(folder.store(), folder.no(), folder.id(), folder.local(), entry.header().epoch);
        let keys = keys.expect("reads").expect("is kept");
        let kept = shorten(&keys, entry.header(), entry.body()).expect("is compressed");
        assert_eq!(restore(&keys, entry.header(), &kept).expect("is made"), entry.body());
        for len in 0..kept.len() {
            assert!(restore(&keys, entry.header(), &kept[..len]).is_err(), "{len} bytes");
        }
        let mut long = kept.clone();
        long[25..29].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(restore(&keys, entry.header(), &long).is_err());
        long[25..29].copy_from_slice(&(ENTRY_BODY_BYTES_MAX as u32).to_le_bytes());
        assert!(restore(&keys, entry.header(), &long).is_err());
        assert!(shorten(&keys, entry.header(), &entry.body()[1..]).is_err());
    }
}
