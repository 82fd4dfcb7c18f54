//! Audits: what of a challenge's entries is here, and the newest receipt of each seeder.

use std::ops::ControlFlow;
use std::time::{SystemTime, UNIX_EPOCH};

use super::batch::{Batch, Durability};
use super::store::Store;
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::PROOF_ENTRY_BYTES_MAX;
use crate::format::codec::{Reader, Writer};
use crate::format::entry::UnverifiedEntry;
use crate::format::proof::{Challenge, EntriesDigest};
use crate::format::receipt::{Receipt, UnverifiedReceipt};
use crate::id::FolderNo;

/// A receipt that was kept, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptReceipt {
    /// What the seeder signed.
    pub receipt: Receipt,
    /// When it came, milliseconds since 1970 by this device's clock: the seeder's own may be any.
    pub at_ms: u64,
}

/// What of a challenge's entries is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntriesProof {
    /// How many, sound.
    pub proved: u16,
    /// Over those, in the challenge's order.
    pub digest: [u8; 32],
}

impl Store {
    /// Leaves in `challenge` the entries that are here, up to [`PROOF_ENTRY_BYTES_MAX`] together, and
    /// digests them: what an honest answer says.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn challenge_entries(&self, no: FolderNo, challenge: &mut Challenge) -> Result<EntriesProof> {
        let (mut kept, mut bytes_left) = (Vec::new(), PROOF_ENTRY_BYTES_MAX);
        let mut digest = EntriesDigest::new(&challenge.nonce);
        for sample in std::mem::take(&mut challenge.entries) {
            let Some(bytes) = self.entry_bytes(no, sample.log, sample.seq)? else { continue };
            let Some(left) = bytes_left.checked_sub(bytes.len()) else { break };
            bytes_left = left;
            digest.add(sample, &bytes);
            kept.push(sample);
        }
        challenge.entries = kept;
        Ok(EntriesProof { proved: count(challenge.entries.len()), digest: digest.finish() })
    }

    /// Answers for the entries of a challenge: those that are here and verify. A challenge that would have
    /// more read than [`PROOF_ENTRY_BYTES_MAX`] is answered in part.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn answer_entries(&self, no: FolderNo, challenge: &Challenge) -> Result<EntriesProof> {
        let (mut proved, mut bytes_left) = (0, PROOF_ENTRY_BYTES_MAX);
        let mut digest = EntriesDigest::new(&challenge.nonce);
        for sample in &challenge.entries {
            let Some(bytes) = self.entry_bytes(no, sample.log, sample.seq)? else { continue };
            let Some(left) = bytes_left.checked_sub(bytes.len()) else { break };
            bytes_left = left;
            if UnverifiedEntry::decode(&bytes).ok().and_then(|entry| entry.verify().ok()).is_none() {
                tracing::error!(log = %sample.log, seq = sample.seq, "the disk changed an entry");
                continue;
            }
            digest.add(*sample, &bytes);
            proved += 1;
        }
        Ok(EntriesProof { proved: count(proved), digest: digest.finish() })
    }

    /// Keeps a receipt instead of the seeder's one before; durable on return. The caller has checked that
    /// it answers a nonce of ours: the last to come is the newest, whatever the seeder's clock says.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn receipt_put(&self, no: FolderNo, receipt: &Receipt) -> Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.receipt_put_at(no, receipt, u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The same, come at `at_ms`.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn receipt_put_at(&self, no: FolderNo, receipt: &Receipt, at_ms: u64) -> Result<()> {
        let mut row = Writer::new();
        row.u64(at_ms);
        row.fixed(&receipt.encode());
        let mut batch = Batch::default();
        batch.put(&key(no, Table::Receipt, &receipt.seeder), &row.into_bytes());
        self.db().commit(batch, Durability::Synced)?;
        self.watch().bump(no);
        Ok(())
    }

    /// Drops the receipt of a seeder that failed to prove what it says; durable on return.
    ///
    /// # Errors
    /// See [`super::Db::commit`].
    pub fn receipt_forget(&self, no: FolderNo, seeder: &[u8]) -> Result<()> {
        let mut batch = Batch::default();
        batch.delete(&key(no, Table::Receipt, seeder));
        self.db().commit(batch, Durability::Synced)?;
        self.watch().bump(no);
        Ok(())
    }

    /// The newest receipt of each seeder, ascending by peer id, verified again. One that the disk changed
    /// proves nothing and is left out: the next audit brings another.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn receipts(&self, no: FolderNo) -> Result<Vec<KeptReceipt>> {
        let mut receipts = Vec::new();
        self.db().scan(&key(no, Table::Receipt, &[]), &[], &mut |_, row| {
            match decode(row) {
                Ok(kept) => receipts.push(kept),
                Err(error) => tracing::warn!(%error, "a kept receipt does not verify"),
            }
            ControlFlow::Continue(())
        })?;
        Ok(receipts)
    }
}

fn decode(row: &[u8]) -> Result<KeptReceipt> {
    let mut reader = Reader::new(row);
    let at_ms = reader.u64("receipt row")?;
    let receipt = UnverifiedReceipt::decode(reader.rest())?.verify().map_err(|_| Error::Sealed)?;
    Ok(KeptReceipt { receipt, at_ms })
}

fn count(many: usize) -> u16 {
    u16::try_from(many).expect("a challenge has at most 459 entries")
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::super::testing::{Author, Founder, new_store};
    use super::*;
    use crate::format::receipt::peer_id_of;

    #[test]
    fn receipt_with_an_older_time_replaces_the_one_before() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let make = |seeder: u8, time_ms| {
            let key = SigningKey::from_bytes(&[seeder; 32]);
            let mut receipt = Receipt {
                folder: founder.folder(),
                seeder: peer_id_of(&key.verifying_key().to_bytes()),
                nonce: [0; 32],
                heads: vec![],
                packs_held: 0,
                packs_lacking: 0,
                samples_asked: 0,
                samples_proved: 0,
                entries_asked: 0,
                entries_proved: 0,
                entries_digest: [0; 32],
                live_set_digest: [0; 32],
                time_ms,
                signature: [0; 64],
            };
            receipt.signature = key.sign(&receipt.signed_bytes()).to_bytes();
            receipt
        };
        // A clock that was far ahead once must not keep every later receipt out.
        for (seeder, time_ms) in [(1, u64::MAX), (2, 3), (1, 4)] {
            store.receipt_put_at(no, &make(seeder, time_ms), 70 + time_ms % 10).expect("puts");
        }
        let kept = store.receipts(no).expect("reads");
        let mut times: Vec<(u64, u64)> = kept.iter().map(|kept| (kept.receipt.time_ms, kept.at_ms)).collect();
        times.sort_unstable();
        assert_eq!(times, [(3, 73), (4, 74)]);
        let mut batch = Batch::default();
        batch.put(&key(no, Table::Receipt, &kept[0].receipt.seeder), &[7; 300]);
        store.db().commit(batch, Durability::Synced).expect("commits");
        assert_eq!(store.receipts(no).expect("one damaged row is no reason to stop"), kept[1..]);
    }

    #[test]
    fn entries_that_are_gone_or_changed_are_not_proved() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        for at in 0..5u8 {
            store.entry_add(no, &author.write(&[], &[at; 100])).expect("adds");
        }
        let heads = store.log_heads(no).expect("heads");
        let mut challenge = Challenge::draw(&[], &heads, &[1; 32]);
        let honest = store.challenge_entries(no, &mut challenge).expect("reads");
        assert_eq!(honest.proved, 5);
        assert_eq!(store.answer_entries(no, &challenge).expect("reads"), honest);
        let log = heads[0].log;
        let body = |seq: u64| key(no, Table::EntryBody, &[&log.0[..], &seq.to_be_bytes()].concat());
        let mut batch = Batch::default();
        batch.delete(&body(2));
        store.db().commit(batch, Durability::Synced).expect("commits");
        let hashes_only = store.answer_entries(no, &challenge).expect("reads");
        assert!(hashes_only.proved == 4 && hashes_only.digest != honest.digest);
        let mut batch = Batch::default();
        batch.put(&body(3), &[9; 64]);
        store.db().commit(batch, Durability::Synced).expect("commits");
        assert_eq!(store.answer_entries(no, &challenge).expect("reads").proved, 3);
        // The entry that is not here is not asked of others either: nobody here could check the answer.
        assert_eq!(store.challenge_entries(no, &mut challenge).expect("reads").proved, 4);
    }
}
