//! Logs that end: a seeder that holds more of one than counts sets it back.
//!
//! Nothing is deleted. What lies beyond the end is not told, not counted and not served as live any more,
//! and comes back without the network should a later vouch say that it counts. A member's device is never
//! set back: it vouches for all it has before it takes more.

use std::collections::BTreeSet;

use super::access::Access;
use super::batch::{Batch, Durability};
use super::logs::{ENTRY_TABLES, HeadRow, entry_key};
use super::store::{Store, StoreKind};
use super::tables::{Table, key};
use crate::error::Result;
use crate::format::access::{Act, Record};
use crate::format::entry::{Entry, UnverifiedEntry};
use crate::id::{EntryHash, FolderNo, LogId, PackId};

impl Store {
    /// Brings the logs of a seeder to their ends, after `record` was taken.
    pub(super) fn settle_ends(&self, no: FolderNo, record: &Record) -> Result<()> {
        let matters = matches!(
            record.content().act,
            Act::RemoveDevice { .. } | Act::RemoveMember { .. } | Act::SetRole { .. } | Act::Vouch { .. }
        );
        if self.kind() != StoreKind::Seeder || !matters {
            return Ok(());
        }
        let access = self.access(no)?;
        let branches = self.branches(no)?;
        for head in self.log_heads(no)? {
            if !access.admits(&branches.origin(&head.log), head.seq, &head.hash) {
                self.set_back(no, &access, head.log, head.seq)?;
            }
        }
        let branched = branches.iter().map(|(id, _)| id);
        for log in access.devices.keys().chain(access.ends.keys()).chain(branched) {
            self.bring_back(no, *log)?;
        }
        Ok(())
    }

    /// Makes the last entry that counts the head of its log.
    fn set_back(&self, no: FolderNo, access: &Access, log: LogId, from: u64) -> Result<()> {
        let (mut seq, mut packs, mut bytes) = (from, BTreeSet::new(), 0);
        let mut kept = EntryHash([0; 32]);
        let branches = self.branches(no)?;
        let (device, begin) = (branches.origin(&log), branches.get(&log).map_or(1, |branch| branch.from));
        while seq >= begin {
            let Some(entry) = self.entry_unchecked(no, log, seq)? else { break };
            let hash = entry.header().hash();
            if access.admits(&device, seq, &hash) {
                kept = hash;
                break;
            }
            packs.extend(entry.header().packs.iter().map(|pack| pack.id));
            bytes += entry.encode().len() as u64;
            seq -= 1;
        }
        let row = self.head_row(no, log)?;
        let mut batch = Batch::default();
        let head_key = key(no, Table::LogHead, &log.0);
        if seq < begin {
            batch.delete(&head_key);
        } else {
            let row = HeadRow { seq, hash: kept, bytes: row.bytes.saturating_sub(bytes) };
            batch.put(&head_key, &row.encode());
        }
        self.db().commit(batch, Durability::Synced)?;
        self.unlist_beyond(no, (log, seq), &packs)?;
        self.logs.totals.lock().remove(&no);
        tracing::info!(%log, from, seq, "a log that ends was set back");
        Ok(())
    }

    /// Adds the removal of entries of a device's own log that nobody takes, those after `seq`.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn stage_cut_off(&self, no: FolderNo, log: LogId, seq: u64, batch: &mut Batch) -> Result<()> {
        let head = self.head_row(no, log)?;
        let (mut bytes, mut packs) = (0, BTreeSet::new());
        for beyond in seq + 1..=head.seq {
            packs.extend(self.entry_unchecked(no, log, beyond)?.iter().flat_map(packs_of));
            bytes += self.entry_bytes(no, log, beyond)?.map_or(0, |bytes| bytes.len() as u64);
            for table in ENTRY_TABLES {
                batch.delete(&entry_key(no, table, log, beyond));
            }
        }
        self.stage_unlisted(no, (log, seq), &packs, batch)?;
        let head_key = key(no, Table::LogHead, &log.0);
        match self.entry_hash(no, log, seq)? {
            Some(hash) => {
                let row = HeadRow { seq, hash, bytes: head.bytes.saturating_sub(bytes) };
                batch.put(&head_key, &row.encode());
            }
            None => batch.delete(&head_key),
        }
        self.logs.totals.lock().remove(&no);
        Ok(())
    }

    /// Takes entries again that were set aside and count now.
    fn bring_back(&self, no: FolderNo, log: LogId) -> Result<()> {
        loop {
            let next = self.head_row(no, log)?.seq + 1;
            if !self.db().contains(&entry_key(no, Table::EntryHeader, log, next))? {
                return Ok(());
            }
            let Some(entry) = self.entry(no, log, next)? else { return Ok(()) };
            let mut batch = Batch::default();
            // It may still lie beyond the end, or have no room.
            let Ok(staged) = self.entry_stage(no, &entry, &mut batch) else { return Ok(()) };
            self.db().commit(batch, Durability::Synced)?;
            self.entry_committed(no, staged);
        }
    }

    /// An entry as it was stored, without its signature checked again.
    pub(super) fn entry_unchecked(&self, no: FolderNo, log: LogId, seq: u64) -> Result<Option<Entry>> {
        let Some(bytes) = self.entry_bytes(no, log, seq)? else { return Ok(None) };
        let entry = UnverifiedEntry::decode(&bytes)?.verify();
        Ok(entry.ok())
    }
}

fn packs_of(entry: &Entry) -> impl Iterator<Item = PackId> + '_ {
    entry.header().packs.iter().map(|pack| pack.id)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::testing::{Author, Founder, add_device, device_of, new_store, pack_bytes, sign_record};
    use super::*;
    use crate::error::Error;
    use crate::format::access::Role;
    use crate::format::entry::LogHead;
    use crate::format::pack::PackRef;
    use crate::id::{PackId, hash};

    fn pack(seed: u64) -> PackRef {
        PackRef { id: PackId(hash(&pack_bytes(seed, 4096))), size: 4096 }
    }

    #[test]
    fn log_beyond_its_end_is_set_back_and_returns_with_a_vouch() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        let (leaver, stayer) = (SigningKey::from_bytes(&[50; 32]), SigningKey::from_bytes(&[51; 32]));
        let first = add_device(&founder.key, &founder, &author.heads(), device_of(&leaver, 60, Role::Write));
        store.access_add(no, &first).expect("admitted");
        let second = add_device(&founder.key, &founder, &[first.hash()], device_of(&stayer, 61, Role::Read));
        store.access_add(no, &second).expect("admitted");
        store.entry_add(no, &author.write(&[pack(1)], b"founder")).expect("adds");
        let mut leaving = author.with_key(leaver.clone());
        let entries: Vec<Entry> =
            (0..4).map(|at| leaving.write(&[pack(at), pack(10 + at)], b"entry")).collect();
        let at = |seq: u64| LogHead {
            log: leaving.log(),
            seq,
            hash: entries[usize::try_from(seq).expect("small") - 1].header().hash(),
        };
        for entry in &entries[..3] {
            store.entry_add(no, entry).expect("adds");
        }
        let live = || {
            let mut live = Vec::new();
            store.packs_live(no, &mut |pack, _| live.push(pack.id)).expect("reads");
            live.len()
        };
        assert_eq!(live(), 6);
        let act = Act::RemoveDevice { last: at(1) };
        let removal = sign_record(&founder.key, &founder, &[second.hash()], act);
        store.access_add(no, &removal).expect("admitted");
        assert_eq!(store.log_head(no, leaving.log()).expect("reads"), Some(at(1)));
        // Pack 1 is the founder's too.
        assert_eq!(live(), 3);
        assert!(matches!(store.entry_add(no, &entries[1]), Err(Error::NotPermitted { .. })));
        let vouch = sign_record(&stayer, &founder, &[removal.hash()], Act::Vouch { last: at(2) });
        store.access_add(no, &vouch).expect("admitted");
        assert_eq!(store.log_head(no, leaving.log()).expect("reads"), Some(at(2)));
        assert_eq!(live(), 4);
        // No word leaves the log open for ever: it says of more entries than there can be, or of a number too many.
        let mut heads = vouch.hash();
        for seq in [u64::MAX, 2 + (1 << 24)] {
            let last = LogHead { log: leaving.log(), seq, hash: EntryHash([9; 32]) };
            let word = sign_record(&stayer, &founder, &[heads], Act::Vouch { last });
            store.access_add(no, &word).expect("admitted");
            heads = word.hash();
            let access = store.access(no).expect("reads");
            assert_eq!(access.ends.get(&leaving.log()).map(|end| end.seq), Some(2));
            assert_eq!(access.named.get(&leaving.log()).map(|named| named.len()), Some(2));
        }
        for entry in &entries[2..] {
            assert!(matches!(store.entry_add(no, entry), Err(Error::NotPermitted { .. })));
        }
        assert!(store.usage(no).expect("counts").entry_bytes > 0);
    }
}
