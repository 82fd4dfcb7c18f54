//! Giving space back: which packs nobody needs, and how all devices come to agree on it.
//!
//! An admin's device looks which packs have no chunk that its tree reaches, and *calls*: it asks every device
//! that writes to acknowledge all entries of that moment (the cut). Each answers with an entry that says so,
//! and from then on lists again whatever it refers to that its own tree does not reach (`reused` below).
//! When all have answered, packs are released whose chunks were dead at the cut and that nothing since, up to
//! the answers, mentions or brings back. `docs/decisions/0013-calls-and-releases.md` says why that is enough.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use cobox_store::blind::tables::{Table, key};
use cobox_store::blind::{Batch, Durability, Freed};
use cobox_store::format::access::Role;
use cobox_store::format::content::{ChunkRef, Content};
use cobox_store::format::entry::Body;
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::format::pack::PackRef;
use cobox_store::format::release::{Cut as LogCut, RELEASE_PACKS_MAX, Release};
use cobox_store::format::{Reader, Writer};
use cobox_store::id::{LogId, OpId, PackId, RecordHash};
use cobox_store::keyed::Folder;
use cobox_store::{Error, blind::HOLD_YOUNG_MS};

use super::chunks::beyond;
use super::file::File;
use super::merge::Copies;
use super::rows::Change;
use super::sequencer::{Sequencer, now_ms};
use super::survey::{DeadPack, Survey, covers, is_dead_file};
use super::worn::Covered;
use super::{Cut, Errno, Vfs};
use crate::tree::{Row, RowKey, View};

const VERSION: u8 = 1;

/// How a call went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Called {
    /// Every device that writes is asked now.
    Out(Survey),
    /// Nothing is dead.
    Nothing(Survey),
    /// An earlier call is not over.
    Before,
    /// A log forked: see [`Released::Forked`].
    Forked,
    /// Entries of these logs, which ended, count and are not applied here: what they need is not known.
    Lacking(Vec<LogId>),
}

/// How far a release is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Released {
    /// Nobody called.
    NotCalled,
    /// These devices have not answered.
    Waiting(Vec<LogId>),
    /// Something came back to life, or a log turned out longer: call again.
    Void,
    /// These packs were released.
    Done(Vec<PackRef>),
    /// A device was two copies at once. One of them may have answered for both, and cuts speak of logs: nothing is
    /// released in such a folder.
    Forked,
}

/// Rules of giving space back, for tests that show that breaking any of them is noticed.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rule {
    /// What is reused and not reached is listed again.
    ListAgain = 1,
    /// What a dead file was made of counts as not reached.
    DeadIsNotReached = 2,
    /// All devices that write have to answer.
    AllAnswer = 3,
    /// What entries since the cut mention stays.
    MentionedStays = 4,
    /// A file that comes back since the cut makes the call void.
    ComebackIsVoid = 5,
    /// A fresh device writes nothing before it has all that was called for.
    FreshCatchesUp = 6,
    /// A device acknowledges what it has applied only.
    AcknowledgeApplied = 7,
    /// Who answered a call that comes before its own releases nothing by its own.
    GiveWay = 8,
}

/// What this device means with a pack when it calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Candidate {
    /// Nothing needs it.
    Dead = 0,
    /// Others hold what is needed of it …
    Covered = 1,
    /// … and this is one of them.
    Home = 2,
}

/// What this device called for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Calling {
    pub(super) call: RecordHash,
    pub(super) cut: LogCut,
}

fn answered_key(folder: &Folder, call: &RecordHash) -> Vec<u8> {
    key(folder.no(), Table::Misc, &[&b"answered"[..], &folder.log().0, &call.0].concat())
}

fn calling_key(folder: &Folder) -> Vec<u8> {
    key(folder.no(), Table::Misc, b"calling")
}

/// Whether a folder's tree has to be looked at for the sake of space: a call of somebody is not answered, one of
/// this device not over, or something was released and is still here.
///
/// # Errors
/// When the store fails.
pub fn is_due(folder: &Folder) -> Result<bool, Error> {
    let (store, no) = (folder.store(), folder.no());
    let access = store.access(no)?;
    if store.held(no)?.packs > 0 {
        return Ok(true);
    }
    if !access.may_write(&folder.log()) {
        return Ok(false);
    }
    for call in access.calls.keys() {
        if !store.db().contains(&answered_key(folder, call))? {
            return Ok(true);
        }
    }
    store.db().contains(&calling_key(folder))
}

impl Vfs {
    /// Breaks a rule, for the tests.
    #[doc(hidden)]
    pub fn break_release_rule(&self, rule: Rule) {
        self.broken_rule.store(rule as u8, Ordering::Relaxed);
    }

    pub(super) fn keeps(&self, rule: Rule) -> bool {
        self.broken_rule.load(Ordering::Relaxed) != rule as u8
    }

    /// Asks all devices that write to acknowledge, if anything is dead.
    ///
    /// # Errors
    /// See [`Self::survey`]; `EACCES` when this device is no admin.
    pub fn call_for_release(&self, copies: &Copies) -> Result<Called, Errno> {
        if self.has_forks()? {
            self.forget_call()?;
            return Ok(Called::Forked);
        }
        if self.calling()?.is_some() {
            return Ok(Called::Before);
        }
        // Before the tree is looked at: what comes back from then on is noted.
        self.forget_call()?;
        self.called.store(true, Ordering::SeqCst);
        let called = self.call_now(copies);
        if !matches!(called, Ok(Called::Out(_))) {
            self.called.store(false, Ordering::SeqCst);
        }
        called
    }

    fn has_forks(&self) -> Result<bool, Errno> {
        Ok(!self.folder.store().branches(self.folder.no())?.is_empty())
    }

    fn call_now(&self, copies: &Copies) -> Result<Called, Errno> {
        let (cut, reached) = self.reach_at_a_cut()?;
        let survey = self.survey_of(&cut, &reached)?;
        let covered = match copies {
            Copies::Proved(proved) => self.covered(&cut, proved, &reached, &survey)?,
            Copies::Lacking => Covered::default(),
        };
        if survey.dead.is_empty() && covered.packs.is_empty() {
            return Ok(Called::Nothing(survey));
        }
        let access = self.folder.store().access(self.folder.no())?;
        let lacking = access.ends.iter().filter(|(log, end)| covers(&cut, log) < end.seq);
        let lacking: Vec<LogId> = lacking.map(|(log, _)| *log).collect();
        if !lacking.is_empty() {
            return Ok(Called::Lacking(lacking));
        }
        let no = self.folder.no();
        let mut batch = Batch::default();
        let mut put =
            |pack: &PackId, what: Candidate| batch.put(&key(no, Table::Candidate, &pack.0), &[what as u8]);
        survey.dead.iter().for_each(|dead| put(&dead.pack.id, Candidate::Dead));
        covered.packs.iter().for_each(|pack| put(pack, Candidate::Covered));
        covered.homes.iter().for_each(|pack| put(pack, Candidate::Home));
        self.folder.store().db().commit(batch, Durability::Unsynced)?;
        let record = self.folder.call(cut.clone()).map_err(|_| Errno::EACCES)?;
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.fixed(&record.hash().0);
        writer.count(cut.len());
        for (log, seq) in &cut {
            writer.fixed(&log.0);
            writer.u64(*seq);
        }
        let mut batch = Batch::default();
        batch.put(&calling_key(&self.folder), &writer.into_bytes());
        self.folder.store().db().commit(batch, Durability::Synced)?;
        Ok(Called::Out(survey))
    }

    /// Releases what this device called for, once all have answered.
    ///
    /// # Errors
    /// See [`Self::call_for_release`].
    pub fn release_dead(&self) -> Result<Released, Errno> {
        if self.has_forks()? {
            self.forget_call()?;
            return Ok(Released::Forked);
        }
        let Some(calling) = self.calling()? else { return Ok(Released::NotCalled) };
        let Some(cut) = self.release_cut(&calling)? else {
            self.forget_call()?;
            return Ok(Released::Void);
        };
        let cut = match cut {
            Ok(cut) => cut,
            Err(waiting) => return Ok(Released::Waiting(waiting)),
        };
        let (now, mut reached) = self.reach_at_a_cut()?;
        if self.keeps(Rule::MentionedStays) {
            self.take_mentioned(&calling.cut, &now, &mut reached)?;
        }
        // No answer of this device comes between looking whom it gave way to and the release.
        let _one = self.cutting.lock();
        if self.gave_way(&calling)? {
            self.forget_call()?;
            return Ok(Released::Void);
        }
        let lacking = self.lacks_of_releases(&now)?;
        if !lacking.is_empty() {
            return Ok(Released::Waiting(lacking));
        }
        let dead = self.survey_of(&calling.cut, &reached)?.dead;
        let candidates = self.candidates()?;
        let of = |what: Candidate| {
            candidates.iter().filter(move |(_, is)| **is == what).map(|(pack, _)| *pack).collect()
        };
        let (dead_then, covered_then, homes): (BTreeSet<_>, BTreeSet<_>, BTreeSet<_>) =
            (of(Candidate::Dead), of(Candidate::Covered), of(Candidate::Home));
        let covered = self.still_covered(&calling.cut, &reached, (&covered_then, &homes))?;
        // After all that was looked at: a file that came back meanwhile is among what is not known.
        if self.is_void()? {
            self.forget_call()?;
            return Ok(Released::Void);
        }
        // What others hold by now may have died since: then it is among the covered all the same.
        let mut goes: Vec<DeadPack> =
            dead.into_iter().filter(|dead| dead_then.contains(&dead.pack.id)).collect();
        // They go as old ones: whoever lacks the packs that hold the same has all of the time.
        goes.extend(covered.into_iter().map(|pack| DeadPack { pack, added_ms: 0 }));
        for part in goes.chunks(RELEASE_PACKS_MAX) {
            let is_young = |dead: &&DeadPack| now_ms().saturating_sub(dead.added_ms) < HOLD_YOUNG_MS;
            let mut packs: Vec<PackId> =
                part.iter().filter(|dead| !is_young(dead)).map(|dead| dead.pack.id).collect();
            let mut young: Vec<PackId> = part.iter().filter(is_young).map(|dead| dead.pack.id).collect();
            packs.sort_unstable();
            young.sort_unstable();
            let release = Release { cut: cut.clone(), packs, young };
            self.folder.release(release).map_err(|_| Errno::EACCES)?;
        }
        self.forget_call()?;
        Ok(Released::Done(goes.into_iter().map(|dead| dead.pack).collect()))
    }

    /// Answers calls of admins whose entries are all applied here; whether there was one.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`.
    pub fn acknowledge(&self) -> Result<bool, Errno> {
        if self.calls_to_answer()?.is_empty() || self.is_read_only() {
            return Ok(false);
        }
        self.answering.store(true, Ordering::SeqCst);
        let cut = self.cut(Cut::Idle);
        self.answering.store(false, Ordering::SeqCst);
        cut.map(|()| true)
    }

    /// Frees released packs that nothing here needs, if nothing is being written.
    ///
    /// The tree is looked at as it is at one moment while programs go on; they wait only while what they changed
    /// meanwhile is looked at.
    ///
    /// # Errors
    /// `EIO` when the tree cannot be read.
    pub fn drop_released(&self) -> Result<Option<Freed>, Errno> {
        let (store, no) = (self.folder.store(), self.folder.no());
        if store.held(no)?.packs == 0 {
            return Ok(Some(Freed::default()));
        }
        let Some(_walk) = self.walking.try_lock() else { return Ok(None) };
        if self.is_being_written()? {
            return Ok(None);
        }
        let mut used: HashSet<PackId> = HashSet::new();
        let mut problem = None;
        let mut led = Batch::default();
        let mut note = |chunk: ChunkRef| match self.folder.lead_to_kept(chunk, &mut led) {
            Ok(pack) => used.extend(pack),
            Err(error) => problem = Some(error),
        };
        let sequencer = self.sequencer.lock();
        let changed = self.rows.note_contents();
        let mut reached = self.reach(sequencer, &mut note)?;
        let _one = self.cutting.lock();
        let _frozen = self.freeze.write();
        let sequencer = self.sequencer.lock();
        if self.is_being_written()? {
            return Ok(None);
        }
        let mut contents = changed.take();
        drop(sequencer);
        let files: Vec<_> = self.files.lock().values().cloned().collect();
        contents.extend(files.iter().map(|file| file.inner().map.base().as_ref().clone()));
        self.with_io(|io| contents.iter().try_for_each(|content| reached.take(io, content, &mut note)))?;
        if let Some(error) = problem {
            return Err(error.into());
        }
        // Before the packs go to which the index led: else a crash would leave rows that lead nowhere.
        store.db().commit(led, Durability::Synced)?;
        Ok(Some(store.released_drop(no, &|pack| used.contains(&pack))?))
    }

    /// Whether something that programs wrote is in no entry yet.
    fn is_being_written(&self) -> Result<bool, Errno> {
        let files: Vec<_> = self.files.lock().values().cloned().collect();
        Ok(files.iter().any(|file| file.inner().is_dirty()) || !self.pending(1)?.is_empty())
    }

    /// Chunks that a file's new content refers to and that this device's tree may not reach: their packs are
    /// listed with the op. The caller holds the sequencer.
    pub(super) fn owe_reused(
        &self,
        view: &View<'_>,
        file: &File,
        based_on: &[OpId],
        content: &Content,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        if !self.folder.is_called()? || !self.keeps(Rule::ListAgain) {
            return Ok(());
        }
        let mut bases = Vec::new();
        if let Some(node) = view.node(file.ino)?
            && (!is_dead_file(&node) || !self.keeps(Rule::DeadIsNotReached))
        {
            let live = node.heads.into_iter().filter(|head| based_on.contains(&head.id));
            bases.extend(live.map(|head| head.content));
        }
        self.with_io(|io| beyond(io, content, &bases))?
            .iter()
            .try_for_each(|chunk| self.folder.owe(chunk, batch))
    }

    /// The same for ops that are made again from an older state of the tree: all that they refer to, and all of
    /// the files that they change.
    pub(super) fn owe_all(
        &self,
        groups: &[OpGroup],
        changes: &[Change],
        batch: &mut Batch,
    ) -> Result<(), Error> {
        if !self.folder.is_called()? {
            return Ok(());
        }
        for (_, row) in changes {
            let Some(Row::Node(node)) = row else { continue };
            for head in &node.heads {
                // What is not here was not written here: its author lists it, and the folder opens without.
                let Ok(chunks) = self.with_io(|io| beyond(io, &head.content, &[])) else { continue };
                chunks.iter().try_for_each(|chunk| self.folder.owe(chunk, batch))?;
            }
        }
        for op in groups.iter().flat_map(|group| &group.ops) {
            if let Op::Put { content, .. } = op {
                let chunks = self.with_io(|io| beyond(io, content, &[]))?;
                chunks.iter().try_for_each(|chunk| self.folder.owe(chunk, batch))?;
            }
        }
        Ok(())
    }

    /// Notes that a file came back to life, while this device waits for answers to its call.
    pub(super) fn note_comebacks(&self, changes: &[Change], batch: &mut Batch) -> Result<(), Error> {
        if !self.called.load(Ordering::SeqCst) || !self.keeps(Rule::ComebackIsVoid) {
            return Ok(());
        }
        for (row_key, row) in changes {
            let (RowKey::Node(_), Some(Row::Node(node))) = (row_key, row) else { continue };
            let was_dead =
                matches!(self.rows.get(row_key)?, Some(Row::Node(before)) if is_dead_file(&before));
            if was_dead && !is_dead_file(node) {
                batch.put(&self.void_key(), &[]);
            }
        }
        Ok(())
    }

    /// Whether every change is refused because this device is new and lacks entries that an admin called for.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed)
    }

    /// Whether this device may change anything: a fresh one first gets all that admins called for, so that it
    /// brings back nothing that others have buried and let go of.
    pub(super) fn may_begin(&self) -> Result<bool, Error> {
        if self.folder.written()?.is_some() || !self.keeps(Rule::FreshCatchesUp) {
            return Ok(true);
        }
        let (access, now) = (self.folder.store().access(self.folder.no())?, self.cut_now()?);
        for call in access.calls.values() {
            if !self.asked(&call.cut)?.is_none_or(|cut| covers_all(&now, &cut)) {
                tracing::info!(folder = %self.folder.id(), "nothing is written before others' entries are here");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The answer to calls, as the last op of an entry, and its rows. The caller holds the sequencer, and all that
    /// waits is in the same entries.
    pub(super) fn answer(
        &self,
        sequencer: &mut Sequencer,
    ) -> Result<Option<(OpGroup, Vec<RecordHash>)>, Error> {
        if !self.answering.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let calls = self.calls_to_answer()?;
        Ok((!calls.is_empty()).then(|| (OpGroup { hlc: sequencer.take(1), ops: vec![Op::Ack] }, calls)))
    }

    pub(super) fn stage_answered(&self, calls: &[RecordHash], batch: &mut Batch) {
        calls.iter().for_each(|call| batch.put(&answered_key(&self.folder, call), &[]));
    }

    /// Reads, when the folder is opened, whether this device waits for answers.
    pub(super) fn load_calling(&self) -> Result<(), Error> {
        self.called.store(self.calling()?.is_some(), Ordering::SeqCst);
        Ok(())
    }

    /// Ends what this device called for.
    pub(super) fn forget_call(&self) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.delete(&calling_key(&self.folder));
        batch.delete(&self.void_key());
        batch.delete_prefix(&key(self.folder.no(), Table::Candidate, &[]));
        self.folder.store().db().commit(batch, Durability::Unsynced)?;
        self.called.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn void_key(&self) -> Vec<u8> {
        key(self.folder.no(), Table::Misc, b"call is void")
    }

    fn is_void(&self) -> Result<bool, Error> {
        self.folder.store().db().contains(&self.void_key())
    }

    fn calling(&self) -> Result<Option<Calling>, Error> {
        let Some(row) = self.folder.store().db().get(&calling_key(&self.folder))? else { return Ok(None) };
        let field = "calling";
        let mut reader = Reader::new(&row);
        reader.version(VERSION, field)?;
        let call = reader.record_hash(field)?;
        let count = reader.count(cobox_store::format::DEPS_MAX, 40, field)?;
        let cut = (0..count)
            .map(|_| Ok((reader.log_id(field)?, reader.u64(field)?)))
            .collect::<Result<_, cobox_store::format::DecodeError>>()?;
        Ok(Some(Calling { call, cut }))
    }

    fn candidates(&self) -> Result<BTreeMap<PackId, Candidate>, Error> {
        let mut candidates = BTreeMap::new();
        self.folder.store().db().scan(
            &key(self.folder.no(), Table::Candidate, &[]),
            &[],
            &mut |id, what| {
                let what = match what {
                    [1] => Candidate::Covered,
                    [2] => Candidate::Home,
                    _ => Candidate::Dead,
                };
                candidates.extend(id.try_into().map(|id| (PackId(id), what)));
                ControlFlow::Continue(())
            },
        )?;
        Ok(candidates)
    }

    /// Calls that are not answered yet and whose entries are all applied.
    fn calls_to_answer(&self) -> Result<Vec<RecordHash>, Error> {
        let access = self.folder.store().access(self.folder.no())?;
        let (mut calls, now) = (Vec::new(), self.cut_now()?);
        for (record, call) in &access.calls {
            let Some(asked) = self.asked(&call.cut)? else { continue };
            let ready = !self.keeps(Rule::AcknowledgeApplied) || covers_all(&now, &asked);
            if ready && !self.folder.store().db().contains(&answered_key(&self.folder, record))? {
                calls.push(*record);
            }
        }
        Ok(calls)
    }

    /// What a call's cut still asks for: of logs that ended, what counts. `None` where it reaches into branches:
    /// nobody knows which it means, and no release that follows from it counts (`docs/format.md`, section 4.9).
    pub(super) fn asked(&self, cut: &LogCut) -> Result<Option<LogCut>, Error> {
        let (store, no) = (self.folder.store(), self.folder.no());
        let (access, branches) = (store.access(no)?, store.branches(no)?);
        let counts = |log: &LogId, seq: u64| {
            let end = access.ends.get(log).map_or(0, |end| end.seq);
            if access.may_write(log) { seq } else { seq.min(end) }
        };
        let asked: LogCut = cut.iter().map(|(log, seq)| (*log, counts(log, *seq))).collect();
        let forked = asked.iter().any(|(log, seq)| branches.limit(log).is_some_and(|limit| limit < *seq));
        Ok((!forked).then_some(asked))
    }

    /// Up to where listings are let go of, if all have answered: each device's answer, and the ends of logs.
    /// `None` when the call is void.
    fn release_cut(&self, calling: &Calling) -> Result<Option<Result<LogCut, Vec<LogId>>>, Errno> {
        let access = self.folder.store().access(self.folder.no())?;
        if self.is_void()? || !access.calls.contains_key(&calling.call) {
            return Ok(None);
        }
        let mut cut = BTreeMap::new();
        for (log, end) in &access.ends {
            // Longer than when it was called: what is in it was not looked at.
            if covers(&calling.cut, log) < end.seq {
                return Ok(None);
            }
            cut.insert(*log, end.seq);
        }
        let mut waiting = Vec::new();
        for (log, device) in &access.devices {
            if device.role < Role::Write {
                continue;
            }
            match self.answer_of(calling, *log)? {
                Some(seq) => {
                    cut.insert(*log, seq);
                }
                None if !self.keeps(Rule::AllAnswer) => {
                    cut.insert(*log, covers(&calling.cut, log));
                }
                None => waiting.push(*log),
            }
        }
        cut.retain(|_, seq| *seq > 0);
        Ok(Some(if waiting.is_empty() { Ok(cut.into_iter().collect()) } else { Err(waiting) }))
    }

    /// The entry with which a device answered, among those that are applied here.
    pub(super) fn answer_of(&self, calling: &Calling, log: LogId) -> Result<Option<u64>, Errno> {
        let last = covers(&self.cut_now()?, &log);
        for seq in covers(&calling.cut, &log) + 1..=last {
            let Some((entry, body)) = self.opened(log, seq)? else { return Ok(None) };
            let says = body.groups.iter().any(|group| group.ops.contains(&Op::Ack));
            if says
                && (!self.keeps(Rule::AcknowledgeApplied) || knows(&body, (log, seq), &calling.cut))
                && self.folder.builds_on(&entry.header().access_heads, &calling.call)?
            {
                return Ok(Some(seq));
            }
        }
        Ok(None)
    }
}

/// Whether a cut has all of another.
fn covers_all(cut: &LogCut, other: &LogCut) -> bool {
    other.iter().all(|(log, seq)| covers(cut, log) >= *seq)
}

/// Whether an entry's author had applied all of a cut.
fn knows(body: &Body, (log, seq): (LogId, u64), cut: &LogCut) -> bool {
    let of = |other: &LogId| body.deps.iter().find(|dep| dep.log == *other).map_or(0, |dep| dep.seq);
    cut.iter().all(|(other, wanted)| if *other == log { seq >= *wanted } else { of(other) >= *wanted })
}
