//! Logs that forked: which device signed two entries with one number, and the proof.
//!
//! A proof closes its log: entries from the number on that are not here yet are refused, whoever brings
//! them. What is here stays, because others may have built on it. Of each log the earliest proof is kept.

use std::ops::ControlFlow;

use super::batch::{Batch, Durability};
use super::logs::entry_key;
use super::store::{Added, Store};
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::entry::Entry;
use crate::format::equivocation::{Equivocation, UnverifiedEquivocation};
use crate::id::{EntryHash, FolderNo, LogId, hash};

const SIGNATURE_BYTES: usize = 64;

fn fork_key(no: FolderNo, log: LogId, seq: u64) -> Vec<u8> {
    entry_key(no, Table::Equivocation, log, seq)
}

impl Store {
    /// All closed logs: where each forked, and the encoded proof.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn forks(&self, no: FolderNo) -> Result<Vec<(LogId, u64, Vec<u8>)>> {
        let mut forks: Vec<(LogId, u64, Vec<u8>)> = Vec::new();
        self.db().scan(&key(no, Table::Equivocation, &[]), &[], &mut |rest, proof| {
            let (log, seq) = rest.split_at(rest.len().min(LogId::LEN));
            if let (Ok(log), Ok(seq)) = (log.try_into(), seq.try_into())
                && forks.last().is_none_or(|(last, ..)| last.0 != log)
            {
                forks.push((LogId(log), u64::from_be_bytes(seq), proof.to_vec()));
            }
            ControlFlow::Continue(())
        })?;
        Ok(forks)
    }

    /// The proof that closes a log, if there is one.
    ///
    /// # Errors
    /// When the disk cannot be read, or changed the proof.
    pub fn equivocation(&self, no: FolderNo, log: LogId) -> Result<Option<Equivocation>> {
        let mut proof = None;
        self.db().scan(&key(no, Table::Equivocation, &log.0), &[], &mut |_, value| {
            proof = Some(value.to_vec());
            ControlFlow::Break(())
        })?;
        let Some(proof) = proof else { return Ok(None) };
        UnverifiedEquivocation::decode(&proof)?.verify().map(Some).map_err(|_| Error::Sealed)
    }

    /// From which number on a log takes no entries.
    pub(crate) fn forked_at(&self, no: FolderNo, log: LogId) -> Result<Option<u64>> {
        let mut forked = None;
        self.db().scan(&key(no, Table::Equivocation, &log.0), &[], &mut |seq, _| {
            forked = seq.try_into().ok().map(u64::from_be_bytes);
            ControlFlow::Break(())
        })?;
        Ok(forked)
    }

    /// Closes a log; durable on return. A proof that is no earlier than the one that is here is
    /// [`Added::Known`].
    ///
    /// # Errors
    /// [`Error::UnknownFolder`] for a proof of another folder; [`Error::NotPermitted`] when the log is of no
    /// device of this one.
    pub fn equivocation_add(&self, no: FolderNo, proof: &Equivocation) -> Result<Added> {
        let (log, seq) = (proof.log(), proof.seq());
        let access = self.access(no)?;
        if proof.folder() != access.folder {
            return Err(Error::UnknownFolder(proof.folder()));
        }
        if !access.devices.contains_key(&log) && !access.former.contains_key(&log) {
            return Err(Error::NotPermitted { log });
        }
        let before = self.forked_at(no, log)?;
        if before.is_some_and(|before| before <= seq) {
            return Ok(Added::Known);
        }
        let mut batch = Batch::default();
        if let Some(before) = before {
            batch.delete(&fork_key(no, log, before));
        }
        batch.put(&fork_key(no, log, seq), &proof.encode());
        self.db().commit(batch, Durability::Synced)?;
        tracing::error!(%log, seq, "a device signed two entries with one number: its log is closed");
        self.watch().bump(no);
        Ok(Added::New)
    }

    /// The name of an entry that is here.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn entry_hash(&self, no: FolderNo, log: LogId, seq: u64) -> Result<Option<EntryHash>> {
        let row = self.db().get(&entry_key(no, Table::EntryHeader, log, seq))?;
        let header = row.as_ref().and_then(|row| row.get(..row.len().checked_sub(SIGNATURE_BYTES)?));
        Ok(header.map(|header| EntryHash(hash(header))))
    }

    /// Whether the entry is the one that is here under its number; if not, that is proved.
    pub(super) fn check_known(&self, no: FolderNo, entry: &Entry) -> Result<()> {
        let (log, seq) = (entry.header().log, entry.header().seq);
        if self.entry_hash(no, log, seq)? == Some(entry.header().hash()) {
            return Ok(());
        }
        let ours = self.entry(no, log, seq)?.ok_or(Error::Chain { log, seq })?;
        let Some(proof) = Equivocation::of(&ours, entry) else { return Ok(()) };
        self.equivocation_add(no, &proof)?;
        Err(Error::Equivocation { log, seq })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Author, Founder, new_store};
    use super::*;

    #[test]
    fn proof_closes_the_log_from_the_fork_on_and_travels() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        let first = author.write(&[], b"first");
        let twin = author.draft(&[], b"twin");
        let (second, third) = (author.write(&[], b"second"), author.write(&[], b"third"));
        for entry in [&first, &second] {
            store.entry_add(no, entry).expect("adds");
        }
        assert!(matches!(store.entry_add(no, &twin), Err(Error::Equivocation { seq: 2, .. })));
        assert!(matches!(store.entry_add(no, &third), Err(Error::Equivocation { seq: 3, .. })));
        assert_eq!(store.entry_add(no, &second).expect("is here"), Added::Known);
        let proof = store.equivocation(no, author.log()).expect("reads").expect("is proved");
        assert_eq!((proof.log(), proof.seq()), (author.log(), 2));
        // Another seeder has the other branch; the proof alone closes the log there as well.
        let (_dir, other, other_no) = new_store(&founder);
        let _ = Author::new(&founder, &other, other_no);
        for entry in [&first, &twin] {
            other.entry_add(other_no, entry).expect("adds");
        }
        let sent = UnverifiedEquivocation::decode(&proof.encode()).expect("decodes").verify().expect("holds");
        assert_eq!(other.equivocation_add(other_no, &sent).expect("adds"), Added::New);
        assert_eq!(other.equivocation_add(other_no, &sent).expect("is here"), Added::Known);
        assert_eq!(other.forks(other_no).expect("reads"), [(author.log(), 2, proof.encode())]);
        assert!(matches!(other.entry_add(other_no, &third), Err(Error::Equivocation { .. })));
    }

    #[test]
    fn proof_of_another_folder_or_a_stranger_closes_nothing() {
        let (founder, other) = (Founder::new(1), Founder::new(2));
        let (_dir, store, no) = new_store(&founder);
        let (_other_dir, other_store, other_no) = new_store(&other);
        let author = Author::new(&other, &other_store, other_no);
        let proof =
            Equivocation::of(&author.draft(&[], b"a"), &author.draft(&[], b"b")).expect("two entries");
        assert!(matches!(store.equivocation_add(no, &proof), Err(Error::UnknownFolder(_))));
        let stranger =
            Author::new(&founder, &store, no).with_key(ed25519_dalek::SigningKey::from_bytes(&[99; 32]));
        let proof = Equivocation::of(&stranger.draft(&[], b"a"), &stranger.draft(&[], b"b")).expect("two");
        assert!(matches!(store.equivocation_add(no, &proof), Err(Error::NotPermitted { .. })));
        assert!(store.forks(no).expect("reads").is_empty());
    }
}
