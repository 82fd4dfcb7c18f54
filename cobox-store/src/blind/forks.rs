//! Logs that forked: which device signed two entries that follow one, and the proofs.
//!
//! A proof makes both of them begin branches (`branches.rs`), at everybody who has it. Nothing that is here is
//! taken back, and what others hold of either branch is taken as before.

use std::ops::ControlFlow;

use super::access::Access;
use super::batch::{Batch, Durability};
use super::branches::{BRANCHES_MAX, branch_id};
use super::effects::stage_fork_effects;
use super::logs::entry_key;
use super::store::{Added, Store};
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::entry::LogHead;
use crate::format::equivocation::{Equivocation, UnverifiedEquivocation};
use crate::id::{EntryHash, FolderNo, LogId, hash};

const SIGNATURE_BYTES: usize = 64;
/// Proofs of branches that were too many, of one folder, in memory: 16 KiB each at the most.
const SPARE_MAX: usize = 64;

fn proof_key(no: FolderNo, proof: &Equivocation) -> Vec<u8> {
    let mut stored = entry_key(no, Table::Equivocation, proof.log(), proof.seq());
    stored.extend_from_slice(&hash(&proof.encode()));
    stored
}

impl Store {
    /// The proofs that logs of a folder forked.
    ///
    /// # Errors
    /// When the disk cannot be read, or changed a proof.
    pub fn proofs(&self, no: FolderNo) -> Result<Vec<Equivocation>> {
        let mut proofs = Vec::new();
        let mut wrong = Ok(());
        self.db().scan(&key(no, Table::Equivocation, &[]), &[], &mut |_, row| {
            match UnverifiedEquivocation::decode(row).map(UnverifiedEquivocation::verify) {
                Ok(Ok(proof)) => proofs.push(proof),
                Ok(Err(_)) => wrong = Err(Error::Sealed),
                Err(error) => wrong = Err(error.into()),
            }
            if wrong.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        wrong.map(|()| proofs)
    }

    /// Takes a proof that a log forked; durable on return. Both of its entries begin branches from then on,
    /// at once or when what they follow is here.
    ///
    /// # Errors
    /// [`Error::UnknownFolder`] for a proof of another folder; [`Error::NotPermitted`] when the log is of no
    /// device of this one; [`Error::Equivocation`] when its device made too many branches.
    pub fn equivocation_add(&self, no: FolderNo, proof: &Equivocation) -> Result<Added> {
        let _one = self.logs.adding();
        let log = proof.log();
        let access = self.access(no)?;
        if proof.folder() != access.folder {
            return Err(Error::UnknownFolder(proof.folder()));
        }
        if !access.may_write(&log) && !self.parts(no, &access, proof)? {
            return Err(Error::NotPermitted { log });
        }
        let branches = self.branches(no)?;
        let known = proof.entries().iter().all(|first| branches.get(&branch_id(&log, first)).is_some());
        if known || branches.waiting.contains(proof) {
            return Ok(Added::Known);
        }
        match self.forks_within(no, proof)? {
            Some(within) => self.fork(no, within, proof)?,
            None if branches.waiting.iter().filter(|other| other.log() == log).count() >= BRANCHES_MAX => {
                return Err(Error::Equivocation { log, seq: proof.seq() });
            }
            None => self.keep_proof(no, proof, Batch::default())?,
        }
        Ok(Added::New)
    }

    /// Whether a proof about a device that was removed is about what is here. Nothing of it begins anew, but who
    /// holds one of the two calls it what all others do.
    fn parts(&self, no: FolderNo, access: &Access, proof: &Equivocation) -> Result<bool> {
        let (log, seq) = (proof.log(), proof.seq());
        if access.ends.get(&log).is_none_or(|end| end.seq < seq) {
            return Ok(false);
        }
        for hash in proof.entries() {
            if self.holder(no, &LogHead { log, seq, hash })?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes the proofs of branches that were too many, as far as somebody needs them by now.
    pub(super) fn take_spare(&self, no: FolderNo) -> Result<()> {
        let spare = self.logs.spare.lock().remove(&no).unwrap_or_default();
        for proof in spare {
            match self.equivocation_add(no, &proof) {
                // It is kept again.
                Ok(_) | Err(Error::Equivocation { .. } | Error::NotPermitted { .. }) => {}
                // Somebody writes to that log at this moment.
                Err(Error::Chain { .. }) => self.keep_spare(no, &proof),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn keep_spare(&self, no: FolderNo, proof: &Equivocation) {
        let mut spare = self.logs.spare.lock();
        let of_folder = spare.entry(no).or_default();
        if of_folder.len() < SPARE_MAX && !of_folder.contains(proof) {
            of_folder.push(proof.clone());
        }
    }

    /// Begins the branches of a proof that waited for what they follow.
    pub(super) fn fork_waiting(&self, no: FolderNo, log: LogId) -> Result<()> {
        for proof in self.branches(no)?.waiting.iter().filter(|proof| proof.log() == log) {
            if let Some(within) = self.forks_within(no, proof)? {
                self.fork(no, within, proof)?;
            }
        }
        Ok(())
    }

    /// Begins the branches of a proof off `within`; durable on return.
    pub(super) fn fork(&self, no: FolderNo, within: LogId, proof: &Equivocation) -> Result<()> {
        // No entry of this device comes between what is read and what is moved.
        let _held = self.hold(no, within)?;
        let mut batch = Batch::default();
        let staged = self.stage_branches(no, within, proof, &mut batch);
        if matches!(staged, Err(Error::Equivocation { .. })) {
            self.keep_spare(no, proof);
        }
        staged?;
        stage_fork_effects(no, &mut batch);
        self.keep_proof(no, proof, batch)?;
        self.settle_fork(no)?;
        let (log, seq) = (proof.log(), proof.seq());
        tracing::error!(%log, seq, "a device signed two entries that follow one: its log goes on in branches");
        Ok(())
    }

    fn keep_proof(&self, no: FolderNo, proof: &Equivocation, mut batch: Batch) -> Result<()> {
        batch.put(&proof_key(no, proof), &proof.encode());
        self.db().commit(batch, Durability::Synced)?;
        self.logs.branches.lock().remove(&no);
        self.logs.totals.lock().remove(&no);
        self.watch().bump(no);
        Ok(())
    }

    /// The name of an entry that is here.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn entry_hash(&self, no: FolderNo, log: LogId, seq: u64) -> Result<Option<EntryHash>> {
        self.stored_hash(no, self.branches(no)?.owner(log, seq), seq)
    }

    /// The name of the entry whose row lies under this log or branch itself.
    pub(super) fn stored_hash(&self, no: FolderNo, id: LogId, seq: u64) -> Result<Option<EntryHash>> {
        let row = self.db().get(&entry_key(no, Table::EntryHeader, id, seq))?;
        let header = row.as_ref().and_then(|row| row.get(..row.len().checked_sub(SIGNATURE_BYTES)?));
        Ok(header.map(|header| EntryHash(hash(header))))
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::testing::{Author, Founder, add_device, device_of, new_store, sign_record};
    use super::*;
    use crate::format::access::{Act, Record, Role};
    use crate::format::entry::Entry;

    fn heads(store: &Store, no: FolderNo) -> Vec<(LogId, u64)> {
        store.log_heads(no).expect("reads").into_iter().map(|head| (head.log, head.seq)).collect()
    }

    /// A founder's log of `first`, then two branches: `ours` of two entries and `theirs` of one.
    struct Forked {
        founder: Founder,
        log: LogId,
        first: Entry,
        ours: Vec<Entry>,
        theirs: Vec<Entry>,
    }

    impl Forked {
        fn new() -> Self {
            let founder = Founder::new(1);
            let (_dir, store, no) = new_store(&founder);
            let mut author = Author::new(&founder, &store, no);
            let first = author.write(&[], b"first");
            let mut clone = author.alike();
            let ours = vec![author.write(&[], b"ours"), author.write(&[], b"ours too")];
            let theirs = vec![clone.write(&[], b"theirs")];
            Self { founder, log: author.log(), first, ours, theirs }
        }

        fn store(&self, entries: &[&[Entry]]) -> (tempfile::TempDir, std::sync::Arc<Store>, FolderNo) {
            let (dir, store, no) = new_store(&self.founder);
            let _ = Author::new(&self.founder, &store, no);
            store.entry_add(no, &self.first).expect("adds");
            for entry in entries.iter().copied().flatten() {
                assert_eq!(store.entry_add(no, entry).expect("adds"), Added::New);
                assert_eq!(store.entry_add(no, entry).expect("is here"), Added::Known);
            }
            (dir, store, no)
        }

        fn branch(&self, entries: &[Entry]) -> LogId {
            branch_id(&self.log, &entries[0].header().hash())
        }
    }

    #[test]
    fn forked_log_is_kept_in_branches_whichever_comes_first() {
        let forked = Forked::new();
        let (_a, one, one_no) = forked.store(&[&forked.ours, &forked.theirs]);
        let (_b, other, other_no) = forked.store(&[&forked.theirs, &forked.ours]);
        let mut expected =
            vec![(forked.log, 1), (forked.branch(&forked.ours), 3), (forked.branch(&forked.theirs), 2)];
        expected.sort_unstable();
        for (store, no) in [(&one, one_no), (&other, other_no)] {
            assert_eq!(heads(store, no), expected);
            // A branch is read from the first entry on.
            let branch = forked.branch(&forked.ours);
            assert_eq!(store.entry(no, branch, 1).expect("reads").as_ref(), Some(&forked.first));
            assert_eq!(store.entry(no, branch, 3).expect("reads").as_ref(), Some(&forked.ours[1]));
            assert_eq!(store.entry(no, forked.log, 2).expect("reads"), None);
            assert_eq!(store.proofs(no).expect("reads").len(), 1);
            let bytes: usize = forked
                .ours
                .iter()
                .chain(&forked.theirs)
                .chain([&forked.first])
                .map(|entry| entry.encode().len())
                .sum();
            assert_eq!(store.usage(no).expect("counts").entry_bytes, bytes as u64);
        }
    }

    #[test]
    fn bodies_that_are_kept_in_another_form_move_into_a_branch_as_they_were_sent() {
        let forked = Forked::new();
        let (_dir, store, no) = forked.store(&[&forked.ours]);
        let before = store.usage(no).expect("counts").entry_bytes;
        store.set_body_maker(Box::new(|_, _, _, _, kept| Ok(kept.iter().rev().copied().collect())));
        let kept = |log: LogId, seq: u64| entry_key(no, Table::EntryKept, log, seq);
        for seq in 1..=3 {
            let sent = entry_key(no, Table::EntryBody, forked.log, seq);
            let mut body = store.db().get(&sent).expect("reads").expect("is there");
            body.reverse();
            let mut batch = Batch::default();
            batch.delete(&sent);
            batch.put(&kept(forked.log, seq), &body);
            store.db().commit(batch, Durability::Unsynced).expect("commits");
        }
        assert_eq!(store.entry(no, forked.log, 3).expect("reads").as_ref(), Some(&forked.ours[1]));
        assert_eq!(store.entry_add(no, &forked.theirs[0]).expect("adds"), Added::New);
        let branch = forked.branch(&forked.ours);
        for (seq, entry) in [(1, &forked.first), (2, &forked.ours[0]), (3, &forked.ours[1])] {
            assert_eq!(store.entry(no, branch, seq).expect("reads").as_ref(), Some(entry));
        }
        let left = |seq| store.db().contains(&kept(forked.log, seq)).expect("reads");
        assert_eq!([1, 2, 3].map(left), [true, false, false]);
        let more = forked.theirs[0].encode().len() as u64;
        assert_eq!(store.usage(no).expect("counts").entry_bytes, before + more);
    }

    #[test]
    fn proof_forks_a_log_that_is_here_or_comes_later() {
        let forked = Forked::new();
        let (_a, one, one_no) = forked.store(&[&forked.ours, &forked.theirs]);
        let proof = one.proofs(one_no).expect("reads").remove(0);
        let sent = UnverifiedEquivocation::decode(&proof.encode()).expect("decodes").verify().expect("holds");
        let (_b, there, no) = forked.store(&[&forked.theirs]);
        assert_eq!(there.equivocation_add(no, &sent).expect("adds"), Added::New);
        assert_eq!(there.equivocation_add(no, &sent).expect("is here"), Added::Known);
        assert!(heads(&there, no).contains(&(forked.branch(&forked.theirs), 2)));
        assert!(heads(&there, no).contains(&(forked.branch(&forked.ours), 1)), "what it follows is here");
        // Nothing of the log is here yet.
        let (dir, later, no) = new_store(&forked.founder);
        let _ = Author::new(&forked.founder, &later, no);
        assert_eq!(later.equivocation_add(no, &sent).expect("adds"), Added::New);
        assert_eq!(later.equivocation_add(no, &sent).expect("is here"), Added::Known);
        assert!(heads(&later, no).is_empty());
        later.entry_add(no, &forked.first).expect("adds");
        for entry in forked.theirs.iter().chain(&forked.ours) {
            later.entry_add(no, entry).expect("adds");
        }
        assert_eq!(heads(&later, no), heads(&one, one_no));
        drop(later);
        let later = Store::open(dir.path(), super::super::store::StoreKind::Seeder).expect("opens");
        assert_eq!(heads(&later, no), heads(&one, one_no));
        assert_eq!(later.branches(no).expect("reads"), one.branches(one_no).expect("reads"));
    }

    #[test]
    fn branch_that_forks_again_and_an_earlier_fork_found_later_give_one_state() {
        let founder = Founder::new(1);
        let (_dir, made, no) = new_store(&founder);
        let mut author = Author::new(&founder, &made, no);
        let mut lines: Vec<Vec<Entry>> = vec![vec![author.write(&[], b"0"), author.write(&[], b"1")]];
        let mut early = author.alike();
        lines[0].push(author.write(&[], b"2"));
        lines[0].push(author.write(&[], b"3"));
        let (mut late, mut third) = (author.alike(), author.alike());
        lines[0].push(author.write(&[], b"4"));
        lines.push((0..4).map(|at| early.write(&[], &[10 + at])).collect());
        lines.push((0..2).map(|at| late.write(&[], &[20 + at])).collect());
        lines.push((0..2).map(|at| third.write(&[], &[30 + at])).collect());
        let mut seen = None;
        for order in [[0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2], [0, 3, 2, 1]] {
            let (_dir, store, no) = new_store(&founder);
            let _ = Author::new(&founder, &store, no);
            for line in order {
                for entry in &lines[line] {
                    store.entry_add(no, entry).expect("adds");
                }
            }
            let state = (store.log_heads(no).expect("reads"), (*store.branches(no).expect("reads")).clone());
            assert_eq!(*seen.get_or_insert_with(|| state.clone()), state, "order {order:?}");
        }
    }

    #[test]
    fn device_that_makes_branches_without_end_is_stopped() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let author = Author::new(&founder, &store, no);
        let mut taken = 0;
        for at in 0..200u8 {
            match store.entry_add(no, &author.draft(&[], &[at])) {
                Ok(_) => taken += 1,
                Err(error) => assert!(matches!(error, Error::Equivocation { .. }), "{error}"),
            }
        }
        assert_eq!(taken, BRANCHES_MAX);
    }

    #[test]
    fn removed_device_begins_no_branch() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let author = Author::new(&founder, &store, no);
        let leaver = SigningKey::from_bytes(&[50; 32]);
        let added = add_device(&founder.key, &founder, &author.heads(), device_of(&leaver, 60, Role::Write));
        store.access_add(no, &added).expect("admitted");
        let mut leaving = author.with_key(leaver);
        let (first, twin) = (leaving.draft(&[], b"one"), leaving.draft(&[], b"two"));
        store.entry_add(no, &first).expect("adds");
        let last = LogHead { log: leaving.log(), seq: 1, hash: first.header().hash() };
        let removal = sign_record(&founder.key, &founder, &[added.hash()], Act::RemoveDevice { last });
        store.access_add(no, &removal).expect("admitted");
        assert!(matches!(store.entry_add(no, &twin), Err(Error::NotPermitted { .. })));
        assert_eq!(heads(&store, no), [(leaving.log(), 1)]);
        // What is here is called what all call it who know of the other; of that nothing is taken.
        let proof = Equivocation::of(&first, &twin).expect("two entries");
        assert_eq!(store.equivocation_add(no, &proof).expect("adds"), Added::New);
        let ours = branch_id(&leaving.log(), &first.header().hash());
        assert_eq!(heads(&store, no), [(ours, 1)]);
        assert!(matches!(store.entry_add(no, &twin), Err(Error::NotPermitted { .. })));
        let _ = leaving.write(&[], b"");
        let proof = Equivocation::of(&leaving.alike().draft(&[], b"3"), &leaving.draft(&[], b"4"));
        let later = store.equivocation_add(no, &proof.expect("two entries"));
        assert!(matches!(later, Err(Error::NotPermitted { .. })), "neither of the two is here");
    }

    /// A device that was copied and wrote `ours` and `theirs`, somebody who stays, and the device's removal by
    /// who has seen `theirs`.
    fn removed_while_it_was_two() -> (Founder, [Record; 3], SigningKey, Entry, [Vec<Entry>; 2], Entry) {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let author = Author::new(&founder, &store, no);
        let (leaver, stayer) = (SigningKey::from_bytes(&[50; 32]), SigningKey::from_bytes(&[51; 32]));
        let device = device_of(&leaver, 60, Role::Write);
        let added = add_device(&founder.key, &founder, &author.heads(), device);
        let device = device_of(&stayer, 61, Role::Read);
        let second = add_device(&founder.key, &founder, &[added.hash()], device);
        let mut leaving = author.with_key(leaver);
        let first = leaving.write(&[], b"first");
        let mut copy = leaving.alike();
        let junk = leaving.draft(&[], b"made up later");
        let ours = (0..2u8).map(|at| leaving.write(&[], &[at])).collect();
        let theirs: Vec<Entry> = (10..13u8).map(|at| copy.write(&[], &[at])).collect();
        let last = LogHead { log: copy.log(), seq: copy.seq, hash: copy.prev };
        let removal = sign_record(&founder.key, &founder, &[second.hash()], Act::RemoveDevice { last });
        (founder, [added, second, removal], stayer, first, [ours, theirs], junk)
    }

    #[test]
    fn branches_of_a_removed_device_are_taken_once_somebody_who_stays_names_them() {
        let (founder, [added, second, removal], stayer, first, [ours, theirs], junk) =
            removed_while_it_was_two();
        let store_with = |entries: &[Entry]| {
            let (dir, store, no) = new_store(&founder);
            let _ = Author::new(&founder, &store, no);
            for record in [&added, &second] {
                store.access_add(no, record).expect("admitted");
            }
            std::iter::once(&first).chain(entries).for_each(|entry| {
                store.entry_add(no, entry).expect("adds");
            });
            store.access_add(no, &removal).expect("admitted");
            (dir, store, no)
        };
        let (_a, one, one_no) = store_with(&ours);
        let (_b, other, other_no) = store_with(&theirs);
        // The removal names one of them.
        theirs.iter().for_each(|entry| assert_eq!(one.entry_add(one_no, entry).expect("adds"), Added::New));
        // The other is in the past of nothing that counts, and may be made up, until one who stays had it.
        for entry in &ours {
            assert!(other.entry_add(other_no, entry).is_err());
        }
        let last = LogHead { log: first.header().log, seq: 3, hash: ours[1].header().hash() };
        let vouch = sign_record(&stayer, &founder, &[removal.hash()], Act::Vouch { last });
        for (store, no) in [(&one, one_no), (&other, other_no)] {
            store.access_add(no, &vouch).expect("admitted");
        }
        ours.iter().for_each(|entry| assert_eq!(other.entry_add(other_no, entry).expect("adds"), Added::New));
        assert_eq!(heads(&one, one_no), heads(&other, other_no));
        assert_eq!(heads(&one, one_no).iter().map(|(_, seq)| *seq).max(), Some(4));
        for (store, no) in [(&one, one_no), (&other, other_no)] {
            assert!(matches!(store.entry_add(no, &junk), Err(Error::NotPermitted { .. })));
        }
    }

    #[test]
    fn branch_of_a_removed_device_that_others_build_on_is_taken() {
        let (founder, [added, second, removal], _, first, [ours, theirs], _) = removed_while_it_was_two();
        let (_dir, store, no) = new_store(&founder);
        let _ = Author::new(&founder, &store, no);
        for record in [&added, &second] {
            store.access_add(no, record).expect("admitted");
        }
        std::iter::once(&first).chain(&theirs).for_each(|entry| {
            store.entry_add(no, entry).expect("adds");
        });
        store.access_add(no, &removal).expect("admitted");
        assert!(store.entry_add(no, &ours[0]).is_err());
        let head = LogHead { log: first.header().log, seq: 3, hash: ours[1].header().hash() };
        store.name_entry(no, &head).expect("names");
        ours.iter().for_each(|entry| assert_eq!(store.entry_add(no, entry).expect("adds"), Added::New));
    }

    #[test]
    fn branch_beyond_the_cap_is_taken_when_others_build_on_it() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let author = Author::new(&founder, &store, no);
        let all: Vec<Entry> = (0..40u8).map(|at| author.draft(&[], &[at])).collect();
        let (taken, refused) = all.split_at(BRANCHES_MAX);
        taken.iter().for_each(|entry| assert_eq!(store.entry_add(no, entry).expect("adds"), Added::New));
        for entry in refused {
            assert!(matches!(store.entry_add(no, entry), Err(Error::Equivocation { .. })));
        }
        let named =
            |at: usize| (refused[at].header().hash(), branch_id(&author.log(), &refused[at].header().hash()));
        // One is named by the log, as by somebody who knew of no fork, the other as a branch.
        let (hash, branch) = named(2);
        store.name_entry(no, &LogHead { log: author.log(), seq: 1, hash }).expect("names");
        assert!(store.branches(no).expect("reads").get(&branch).is_some(), "its proof was kept");
        let (hash, branch) = named(5);
        store.name_entry(no, &LogHead { log: branch, seq: 1, hash }).expect("names");
        for at in [2, 5] {
            assert_eq!(store.entry_add(no, &refused[at]).expect("adds"), Added::New);
        }
        for at in [0, 3, 7] {
            assert!(store.entry_add(no, &refused[at]).is_err(), "nobody built on it");
        }
        assert_eq!(heads(&store, no).len(), BRANCHES_MAX + 2);
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
        let stranger = Author::new(&founder, &store, no).with_key(SigningKey::from_bytes(&[99; 32]));
        let proof = Equivocation::of(&stranger.draft(&[], b"a"), &stranger.draft(&[], b"b")).expect("two");
        assert!(matches!(store.equivocation_add(no, &proof), Err(Error::NotPermitted { .. })));
        assert!(store.proofs(no).expect("reads").is_empty());
    }
}
