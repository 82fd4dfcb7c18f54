//! Logs of a folder's devices: which entries are here, and what they refer to.
//!
//! Only verified [`Entry`] values come in; here it is checked that they continue their log, that
//! their author may write, and that they fit the quota. An entry and the references to its packs become
//! visible in one batch, so whatever the device lacks is a scan of the `missing` rows.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use super::batch::{Batch, Durability};
use super::branches::{Branches, Place};
use super::store::{Added, Store};
use super::tables::{Table, key};
use super::usage::Totals;
use crate::error::{Error, Result};
use crate::format::codec::{DecodeError, Reader, Writer};
use crate::format::entry::{Entry, Header, LogHead, UnverifiedEntry};
use crate::format::equivocation::Equivocation;
use crate::format::pack::PackRef;
use crate::id::{EntryHash, FolderNo, LogId};

/// Makes an entry's body of its row of [`Table::EntryKept`] within a log or branch.
pub type BodyMaker = Box<dyn Fn(&Store, FolderNo, LogId, &Header, &[u8]) -> Result<Vec<u8>> + Send + Sync>;

/// All rows of an entry.
pub(super) const ENTRY_TABLES: [Table; 3] = [Table::EntryHeader, Table::EntryBody, Table::EntryKept];

type Claims = Mutex<HashMap<(FolderNo, LogId), EntryHash>>;

/// What the log layer keeps in memory.
#[derive(Default)]
pub(super) struct Logs {
    /// Entries that were staged and not yet committed: no second entry may take their place.
    claims: Arc<Claims>,
    /// One remote entry at a time: two peers often deliver the same one.
    adding: Mutex<()>,
    /// Branches of each folder, as far as they were read.
    pub(super) branches: Mutex<HashMap<FolderNo, Arc<Branches>>>,
    /// Entries that others build on and that were not here when they were named.
    pub(super) named: Mutex<HashMap<FolderNo, BTreeSet<LogHead>>>,
    /// Proofs of branches that were too many, for when somebody needs one of them.
    pub(super) spare: Mutex<HashMap<FolderNo, Vec<Equivocation>>>,
    /// Makes bodies that are kept in another form: a member's store has one.
    body_maker: OnceLock<BodyMaker>,
    /// Folder totals, as far as they were counted.
    pub(super) totals: Mutex<HashMap<FolderNo, Totals>>,
}

/// An entry whose rows a batch holds. Hand it to [`Store::entry_committed`] after the commit; dropping
/// it instead gives the number free again.
#[must_use]
pub struct EntryStaged {
    claims: Arc<Claims>,
    no: FolderNo,
    log: LogId,
    seq: u64,
    packs: Vec<PackRef>,
    grown: Totals,
}

impl Drop for EntryStaged {
    fn drop(&mut self) {
        self.claims.lock().remove(&(self.no, self.log));
    }
}

/// The row of a log's head.
pub(super) struct HeadRow {
    pub(super) seq: u64,
    pub(super) hash: EntryHash,
    /// Bytes of all entries up to here.
    pub(super) bytes: u64,
}

impl Logs {
    /// Held while an entry is between its check and its commit.
    pub(super) fn adding(&self) -> MutexGuard<'_, ()> {
        self.adding.lock()
    }
}

impl HeadRow {
    const NONE: Self = Self { seq: 0, hash: EntryHash([0; 32]), bytes: 0 };

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u64(self.seq);
        writer.fixed(&self.hash.0);
        writer.u64(self.bytes);
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "log head";
        let mut reader = Reader::new(bytes);
        let row =
            Self { seq: reader.u64(field)?, hash: reader.entry_hash(field)?, bytes: reader.u64(field)? };
        reader.finish()?;
        Ok(row)
    }
}

/// The key of a row about one entry.
pub(super) fn entry_key(no: FolderNo, table: Table, log: LogId, seq: u64) -> Vec<u8> {
    key(no, table, &[&log.0[..], &seq.to_be_bytes()].concat())
}

impl Store {
    /// The last entry of each log, ascending by log.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn log_heads(&self, no: FolderNo) -> Result<Vec<LogHead>> {
        let mut heads = Vec::new();
        self.visit_heads(no, &mut |log, row| heads.push(LogHead { log, seq: row.seq, hash: row.hash }))?;
        Ok(heads)
    }

    /// The last entry of one log.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn log_head(&self, no: FolderNo, log: LogId) -> Result<Option<LogHead>> {
        let row = self.head_row(no, log)?;
        Ok((row.seq > 0).then_some(LogHead { log, seq: row.seq, hash: row.hash }))
    }

    /// An entry, verified again.
    ///
    /// # Errors
    /// [`Error::Entry`] or [`Error::Decode`] when the disk changed it.
    pub fn entry(&self, no: FolderNo, log: LogId, seq: u64) -> Result<Option<Entry>> {
        let Some(bytes) = self.entry_bytes(no, log, seq)? else { return Ok(None) };
        let entry = UnverifiedEntry::decode(&bytes)?.verify();
        entry.map(Some).map_err(|source| Error::Entry { log, source })
    }

    /// An entry as it is sent: `header ‖ signature ‖ body`.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn entry_bytes(&self, no: FolderNo, log: LogId, seq: u64) -> Result<Option<Vec<u8>>> {
        let log = self.branches(no)?.owner(log, seq);
        let Some(mut bytes) = self.db().get(&entry_key(no, Table::EntryHeader, log, seq))? else {
            return Ok(None);
        };
        let Some(body) = self.body_bytes(no, log, seq, &bytes)? else { return Ok(None) };
        bytes.extend_from_slice(&body);
        Ok(Some(bytes))
    }

    /// The header of an entry, as it was verified when it came, and how many bytes the entry has as it is sent. Its body is
    /// not looked at, and not made where it is kept in another form.
    ///
    /// # Errors
    /// [`Error::Decode`] when the disk changed it.
    pub fn entry_header(&self, no: FolderNo, log: LogId, seq: u64) -> Result<Option<(Header, u64)>> {
        let log = self.branches(no)?.owner(log, seq);
        let Some(signed) = self.db().get(&entry_key(no, Table::EntryHeader, log, seq))? else {
            return Ok(None);
        };
        let header = Header::decode(&mut Reader::new(&signed))?;
        let bytes = signed.len() as u64 + u64::from(header.body_size);
        Ok(Some((header, bytes)))
    }

    /// The body of an entry within a log or branch, whose signed header is `signed`.
    pub(super) fn body_bytes(
        &self,
        no: FolderNo,
        log: LogId,
        seq: u64,
        signed: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        let stored = entry_key(no, Table::EntryBody, log, seq);
        if let Some(body) = self.db().get(&stored)? {
            return Ok(Some(body));
        }
        let Some(maker) = self.logs.body_maker.get() else { return Ok(None) };
        match self.db().get(&entry_key(no, Table::EntryKept, log, seq))? {
            Some(kept) => maker(self, no, log, &Header::decode(&mut Reader::new(signed))?, &kept).map(Some),
            // Changed from one form into the other in between.
            None => self.db().get(&stored),
        }
    }

    /// Says who makes bodies of [`Table::EntryKept`]; the first one counts.
    pub fn set_body_maker(&self, maker: BodyMaker) {
        let _ = self.logs.body_maker.set(maker);
    }

    /// Checks an entry and puts its rows into `batch`: the entry, the log's head, its packs.
    ///
    /// The caller commits the batch [`Durability::Synced`] and then calls [`Self::entry_committed`]; a
    /// batch holds one entry.
    ///
    /// # Errors
    /// [`Error::Premature`] when an earlier entry or an access record is missing;
    /// [`Error::NotPermitted`], [`Error::UnknownEpoch`], [`Error::Quota`]; [`Error::Chain`] when it is here
    /// already, or does not continue the log; [`Error::Equivocation`] when another entry follows the same one.
    pub fn entry_stage(&self, no: FolderNo, entry: &Entry, batch: &mut Batch) -> Result<EntryStaged> {
        let header = entry.header();
        let (seq, hash) = (header.seq, header.hash());
        self.check_author(no, entry)?;
        let log = match self.place(no, entry)? {
            Place::Next(log) => log,
            Place::Known => return Err(Error::Chain { log: header.log, seq }),
            Place::Fork(..) => return Err(Error::Equivocation { log: header.log, seq }),
        };
        self.check_named(no, log, entry)?;
        let head = self.head_row(no, log)?;
        if seq != head.seq + 1 || header.prev != head.hash {
            return Err(Error::Chain { log, seq });
        }
        let mut signed = header.encode();
        signed.extend_from_slice(entry.signature());
        let entry_bytes = (signed.len() + entry.body().len()) as u64;
        let mut rows = Batch::default();
        rows.put(&entry_key(no, Table::EntryHeader, log, seq), &signed);
        rows.put(&entry_key(no, Table::EntryBody, log, seq), entry.body());
        let head = HeadRow { seq, hash, bytes: head.bytes + entry_bytes };
        rows.put(&key(no, Table::LogHead, &log.0), &head.encode());
        let mut grown = Totals { entry_bytes, ..Totals::default() };
        for pack in &header.packs {
            if self.stage_listing(no, (log, seq), *pack, &mut rows)? == Added::New {
                grown.packs += 1;
                grown.pack_bytes += pack.size;
                if self.db().contains(&key(no, Table::Released, &pack.id.0))? {
                    grown.unheld_bytes += pack.size;
                }
            }
        }
        self.check_quota(no, &grown)?;
        self.claim(no, log, seq, hash)?;
        let claims = Arc::clone(&self.logs.claims);
        let staged = EntryStaged { claims, no, log, seq, packs: header.packs.clone(), grown };
        // The log may have forked since its head was read.
        if self.head_row(no, log)?.seq + 1 != seq {
            return Err(Error::Chain { log, seq });
        }
        batch.append(rows);
        Ok(staged)
    }

    /// Tells that a staged entry is durable: counts it and wakes those who watch.
    pub fn entry_committed(&self, no: FolderNo, staged: EntryStaged) {
        if let Some(totals) = self.logs.totals.lock().get_mut(&no) {
            totals.add(&staged.grown);
        }
        // A pack may have come or gone between staging and commit, or a release of it.
        for pack in &staged.packs {
            if let Err(error) = self.settle_pack(no, pack.id) {
                tracing::warn!(%error, pack = %pack.id, "the list of missing packs was not updated");
            }
        }
        tracing::debug!(log = %staged.log, seq = staged.seq, "entry stored");
        self.watch().bump(no);
    }

    /// Stores an entry of another device; durable on return.
    ///
    /// # Errors
    /// See [`Self::entry_stage`]; one that is here already is [`Added::Known`].
    pub fn entry_add(&self, no: FolderNo, entry: &Entry) -> Result<Added> {
        let _one = self.logs.adding.lock();
        let header = entry.header();
        if header.folder != self.folder_id(no)? {
            return Err(Error::UnknownFolder(header.folder));
        }
        let place = self.place(no, entry);
        if matches!(place, Ok(Place::Known)) {
            return Ok(Added::Known);
        }
        self.check_author(no, entry)?;
        match place? {
            Place::Known | Place::Next(_) => {}
            Place::Fork(within, proof) => self.fork(no, within, &proof)?,
        }
        let mut batch = Batch::default();
        let staged = self.entry_stage(no, entry, &mut batch)?;
        self.db().commit(batch, Durability::Synced)?;
        self.entry_committed(no, staged);
        self.fork_waiting(no, header.log)?;
        Ok(Added::New)
    }

    /// Of a device that was removed nothing begins anew, whatever it signs, but for what others stand on.
    fn check_named(&self, no: FolderNo, within: LogId, entry: &Entry) -> Result<()> {
        let (log, seq) = (entry.header().log, entry.header().seq);
        let branches = self.branches(no)?;
        let begins = branches.get(&within).is_some_and(|branch| branch.from == seq);
        if !begins || self.access(no)?.may_write(&log) || !self.is_apart(no, &within)? {
            return Ok(());
        }
        let named = self.is_named(no, (log, seq), &entry.header().hash())?;
        if named { Ok(()) } else { Err(Error::NotPermitted { log }) }
    }

    fn check_author(&self, no: FolderNo, entry: &Entry) -> Result<()> {
        let header = entry.header();
        let access = self.access(no)?;
        if header.folder != access.folder {
            return Err(Error::UnknownFolder(header.folder));
        }
        for head in &header.access_heads {
            if !self.db().contains(&key(no, Table::AccessByHash, &head.0))? {
                return Err(Error::Premature);
            }
        }
        if !access.admits(&header.log, header.seq, &header.hash()) {
            return Err(Error::NotPermitted { log: header.log });
        }
        if !access.epochs.contains_key(&header.epoch) {
            return Err(Error::UnknownEpoch(header.epoch));
        }
        Ok(())
    }

    pub(super) fn head_row(&self, no: FolderNo, log: LogId) -> Result<HeadRow> {
        let row = self.db().get(&key(no, Table::LogHead, &log.0))?;
        Ok(row.map_or(Ok(HeadRow::NONE), |bytes| HeadRow::decode(&bytes))?)
    }

    fn visit_heads(&self, no: FolderNo, visit: &mut dyn FnMut(LogId, &HeadRow)) -> Result<()> {
        let mut wrong = Ok(());
        self.db().scan(&key(no, Table::LogHead, &[]), &[], &mut |log, value| {
            match (log.try_into(), HeadRow::decode(value)) {
                (Ok(log), Ok(row)) => visit(LogId(log), &row),
                (_, Err(error)) => wrong = Err(error),
                (Err(_), _) => wrong = Err(DecodeError::Invalid { field: "log head" }),
            }
            if wrong.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(wrong?)
    }

    /// Bytes of all entries of a folder.
    pub(super) fn count_entry_bytes(&self, no: FolderNo) -> Result<u64> {
        let mut bytes = 0;
        self.visit_heads(no, &mut |_, row| bytes += row.bytes)?;
        Ok(bytes)
    }

    /// Keeps others from adding to a log for as long as the value lives.
    pub(super) fn hold(&self, no: FolderNo, log: LogId) -> Result<EntryStaged> {
        self.claim(no, log, 0, EntryHash([0; 32]))?;
        let claims = Arc::clone(&self.logs.claims);
        Ok(EntryStaged { claims, no, log, seq: 0, packs: Vec::new(), grown: Totals::default() })
    }

    fn claim(&self, no: FolderNo, log: LogId, seq: u64, hash: EntryHash) -> Result<()> {
        let mut claims = self.logs.claims.lock();
        if claims.contains_key(&(no, log)) {
            return Err(Error::Chain { log, seq });
        }
        claims.insert((no, log), hash);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::packs::{PackState, PackStatus};
    use super::super::store::StoreKind;
    use super::super::testing::{Author, Founder, add_device, device_of, new_store, pack_bytes};
    use super::*;
    use crate::format::access::Role;
    use crate::format::proof::Outboard;

    #[test]
    fn entries_of_a_chain_are_stored_and_survive_reopening() {
        let founder = Founder::new(1);
        let (dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        let entries: Vec<Entry> = (0..5u8).map(|at| author.write(&[], &[at])).collect();
        assert!(matches!(store.entry_add(no, &entries[1]), Err(Error::Premature)));
        for entry in &entries {
            assert_eq!(store.entry_add(no, entry).expect("adds"), Added::New);
            assert_eq!(store.entry_add(no, entry).expect("adds"), Added::Known);
        }
        let bytes: usize = entries.iter().map(|entry| entry.encode().len()).sum();
        assert_eq!(store.usage(no).expect("counts").entry_bytes, bytes as u64);
        drop(store);
        let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
        let head = LogHead { log: author.log(), seq: 5, hash: author.prev };
        assert_eq!(store.log_heads(no).expect("reads"), [head]);
        assert_eq!(store.entry(no, author.log(), 3).expect("reads").as_ref(), Some(&entries[2]));
        assert_eq!(store.entry_bytes(no, author.log(), 4).expect("reads"), Some(entries[3].encode()));
        assert_eq!(store.entry(no, author.log(), 6).expect("reads"), None);
        let (header, size) = store.entry_header(no, author.log(), 3).expect("reads").expect("is there");
        assert_eq!((&header, size), (entries[2].header(), entries[2].encode().len() as u64));
        assert_eq!(store.entry_header(no, author.log(), 6).expect("reads"), None);
        assert_eq!(store.usage(no).expect("counts").entry_bytes, bytes as u64);
    }

    #[test]
    fn entry_of_an_author_who_may_not_write_is_refused() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let author = Author::new(&founder, &store, no);
        let reader = SigningKey::from_bytes(&[50; 32]);
        let mut entry = author.with_key(reader.clone());
        assert!(matches!(store.entry_add(no, &entry.draft(&[], b"")), Err(Error::NotPermitted { .. })));
        let parents = store.access(no).expect("reads").heads.clone();
        let device = device_of(&reader, 60, Role::Read);
        store.access_add(no, &add_device(&founder.key, &founder, &parents, device)).expect("admitted");
        assert!(matches!(store.entry_add(no, &entry.write(&[], b"")), Err(Error::NotPermitted { .. })));
        let other = Founder::new(2);
        let (_dir, other_store, other_no) = new_store(&other);
        let foreign = Author::new(&other, &other_store, other_no).draft(&[], b"");
        assert!(matches!(store.entry_add(no, &foreign), Err(Error::UnknownFolder(_))));
    }

    #[test]
    fn entry_under_unknown_access_heads_waits_for_them() {
        let founder = Founder::new(1);
        let (_dir, ahead, ahead_no) = new_store(&founder);
        let entry = Author::new(&founder, &ahead, ahead_no).draft(&[], b"");
        let (_dir, store, no) = new_store(&founder);
        assert!(matches!(store.entry_add(no, &entry), Err(Error::Premature)));
        for record in ahead.access_records(ahead_no).expect("reads").iter().skip(1) {
            store.access_add(no, record).expect("admitted");
        }
        store.entry_add(no, &entry).expect("adds");
    }

    #[test]
    fn entry_lists_its_absent_packs_as_missing_and_makes_present_ones_live() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        let outboards: Vec<(Outboard, Vec<u8>)> =
            (0..2).map(|seed| pack_bytes(seed, 4096)).map(|bytes| (Outboard::of(&bytes), bytes)).collect();
        let (here, away) = (outboards[0].0.pack(), outboards[1].0.pack());
        store.packs_put(no, &outboards[..1]).expect("puts");
        let entry = author.write(&[here, away], b"");
        store.entry_add(no, &entry).expect("adds");
        assert_eq!(store.packs_missing(no, None, 10).expect("scans"), [away]);
        assert_eq!(store.pack_status(no, away.id).expect("reads"), PackStatus::Missing(away));
        let mut live = Vec::new();
        store.packs_live(no, &mut |pack, state| live.push((pack, state))).expect("scans");
        live.sort_by_key(|(pack, _)| pack.id != here.id);
        assert_eq!(live, [(here, PackState::Complete), (away, PackState::Missing)]);
        let usage = store.usage(no).expect("counts");
        assert_eq!((usage.packs, usage.pack_bytes), (2, 8192));
        // A pack listed again counts once.
        store.entry_add(no, &author.write(&[here], b"")).expect("adds");
        assert_eq!(store.usage(no).expect("counts").pack_bytes, 8192);
    }

    #[test]
    fn entry_beyond_the_quota_is_refused_and_changes_nothing() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        let pack = |seed| Outboard::of(&pack_bytes(seed, 4096)).pack();
        store.quota_set(no, 6000, u64::MAX).expect("sets");
        store.entry_add(no, &author.write(&[pack(1)], b"")).expect("adds");
        let beyond = author.draft(&[pack(2)], b"");
        assert!(matches!(store.entry_add(no, &beyond), Err(Error::Quota { quota_bytes: 6000 })));
        assert_eq!(store.log_heads(no).expect("reads")[0].seq, 1);
        assert_eq!(store.packs_missing(no, None, 10).expect("scans").len(), 1);
        store.quota_set(no, 60_000, 5).expect("sets");
        assert!(store.grant_ended(no).expect("reads"));
        assert!(matches!(store.entry_add(no, &beyond), Err(Error::Quota { quota_bytes: 0 })));
        store.quota_set(no, 60_000, 0).expect("sets");
        store.entry_add(no, &beyond).expect("adds");
        assert_eq!(store.usage(no).expect("counts").quota_bytes, Some(60_000));
    }

    #[test]
    fn staged_entry_that_is_dropped_frees_its_number() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let author = Author::new(&founder, &store, no);
        let (first, second) = (author.draft(&[], b"first"), author.draft(&[], b"second"));
        let staged = store.entry_stage(no, &first, &mut Batch::default()).expect("stages");
        assert!(matches!(store.entry_add(no, &second), Err(Error::Chain { .. })));
        drop(staged);
        store.entry_add(no, &second).expect("adds");
    }
}
