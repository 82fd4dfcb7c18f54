//! One change after the other: takes a lock in the calling thread, builds the ops of a call, applies
//! them, and commits the pending ops with the rows they change in one unsynced batch.
//!
//! A crash keeps a prefix of the changes. No disk is synced and no bulk data is sealed under this lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use cobox_store::Error;
use cobox_store::blind::tables::{Table, key};
use cobox_store::blind::{Batch, Durability};
use cobox_store::format::Writer;
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::id::{Ino, OpId};
use cobox_store::keyed::Secret32;

use super::rows::Change;
use super::{Errno, Vfs};
use crate::tree::{self, PosixError, Row, RowKey, Touched, Tx, View};

/// Nanoseconds of a millisecond.
pub const NS_PER_MS: i64 = 1_000_000;

/// Rules of the order in which ops take effect, for tests that show that breaking any of them is noticed.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OrderRule {
    /// An entry waits until everything that it builds on was applied.
    CausesFirst,
    /// The next op's clock is greater than that of our last one.
    ClockGrows,
    /// What is applied moves our clock, so that our next op is later than everything that was seen.
    ClockFollows,
    /// An entry whose clock is too far ahead of ours waits.
    FarAheadWaits,
    /// One that our own clock has passed already does not.
    PassedIsTaken,
}

/// What the lock guards.
#[derive(Debug)]
pub struct Sequencer {
    /// The clock of the newest op seen, ours or not.
    hlc_last: u64,
    /// Its milliseconds, for who does not hold the lock.
    clock_ms: Arc<AtomicU64>,
    /// The clock when an entry of another log was applied last.
    pub remote_hlc: u64,
    /// Where the counter of each millisecond begins.
    begin: u64,
    /// The rule that a test breaks.
    pub(super) broken: Option<OrderRule>,
}

impl Sequencer {
    /// Begins the counters of milliseconds somewhere in their lower half: copies of one device sign with one log
    /// number, and until they have heard of one another their ops of one millisecond must not have one name.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn new() -> Result<Self, Error> {
        let [low, high, ..] = *Secret32::random()?.expose();
        let begin = u64::from(u16::from_le_bytes([low, high]) >> 1);
        Ok(Self { hlc_last: 0, clock_ms: Arc::default(), remote_hlc: 0, begin, broken: None })
    }

    pub(super) fn keeps(&self, rule: OrderRule) -> bool {
        self.broken != Some(rule)
    }

    /// The clock of the newest op seen, ours or not.
    pub fn hlc_last(&self) -> u64 {
        self.hlc_last
    }

    /// Sets the clock: to that of an op that was seen, or back to what it was before one that was not kept.
    pub fn set_hlc_last(&mut self, hlc: u64) {
        self.hlc_last = hlc;
        self.clock_ms.store(hlc >> 16, Ordering::Relaxed);
    }

    /// Milliseconds of the clock, also for who does not hold the lock.
    pub fn clock_ms(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.clock_ms)
    }

    /// Moves beyond ops that wait from an earlier run; nothing older is taken back.
    pub fn see(&mut self, pending: &[OpGroup]) {
        self.set_hlc_last(self.hlc_last.max(pending.last().map_or(0, OpGroup::hlc_last)));
        self.remote_hlc = self.hlc_last;
    }

    /// Takes `count` consecutive clock values, greater than all before and not behind the wall clock.
    pub fn take(&mut self, count: usize) -> u64 {
        let least = if self.keeps(OrderRule::ClockGrows) { self.hlc_last + 1 } else { 0 };
        let hlc = (now_ms() << 16 | self.begin).max(least);
        self.set_hlc_last(hlc + (count as u64).max(1) - 1);
        hlc
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX >> 16))
}

/// Nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos().try_into().unwrap_or(i64::MAX))
}

impl From<PosixError> for Errno {
    fn from(error: PosixError) -> Self {
        match error {
            PosixError::NoEntry => Self::ENOENT,
            PosixError::Exists => Self::EEXIST,
            PosixError::NotDir => Self::ENOTDIR,
            PosixError::IsDir => Self::EISDIR,
            PosixError::NotEmpty => Self::ENOTEMPTY,
            PosixError::Invalid => Self::EINVAL,
            PosixError::NameTooLong => Self::ENAMETOOLONG,
            PosixError::NotPermitted => Self::EPERM,
            PosixError::TooManyLinks => Self::EMLINK,
            PosixError::NoXattr => Self::ENODATA,
            PosixError::XattrNameTooLong => Self::ERANGE,
            PosixError::XattrTooBig => Self::E2BIG,
            PosixError::Busy => Self::EBUSY,
            PosixError::Store(error) => error.into(),
        }
    }
}

/// When a file was changed whose change becomes an op later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Nanoseconds since 1970 by the wall clock: what `stat` shows as the time of the content.
    pub mtime_ns: i64,
    /// Milliseconds since 1970 by the clock of ops: what it shows as the time of the change.
    pub changed_ms: u64,
}

impl Vfs {
    /// Now, and not behind any op that was seen.
    pub(super) fn moment(&self) -> Moment {
        let mtime_ns = now_ns();
        let wall_ms = u64::try_from(mtime_ns / NS_PER_MS).unwrap_or(0);
        Moment { mtime_ns, changed_ms: wall_ms.max(self.clock_ms.load(Ordering::Relaxed)) }
    }

    /// Asks the tree as it is now.
    pub(super) fn view<R>(&self, ask: impl FnOnce(&View<'_>) -> R) -> R {
        self.view_over(&|row_key| self.rows.get(row_key), ask)
    }

    fn view_over<R>(
        &self,
        read: &dyn Fn(&RowKey) -> Result<Option<Row>, Error>,
        ask: impl FnOnce(&View<'_>) -> R,
    ) -> R {
        let name_hash = |parent: &Ino, name: &[u8]| self.folder.local().name_hash(parent, name);
        let labels = |log: u64| self.folder.label_of_number(log).unwrap_or_else(|| String::from("unknown"));
        let notes = || self.rows.notes(super::conflicts::NOTES_MAX);
        ask(&View::new(read, &name_hash, &labels, &notes, self.policy))
    }

    /// Makes one change: `build` says which ops, from the tree as it is now. `known` are the directories whose
    /// listings the kernel knows to change with the call.
    pub(super) fn change<R>(
        &self,
        known: &[Ino],
        build: impl FnOnce(&View<'_>) -> Result<(Vec<Op>, R), PosixError>,
    ) -> Result<R, Errno> {
        if self.is_read_only() {
            return Err(Errno::EROFS);
        }
        self.room(0)?;
        self.change_with(known, build, |_, _, _| {}).map(|(result, _)| result)
    }

    /// Like [`Self::change`], for a change that removes something: it may use the room that is kept free for that.
    pub(super) fn change_removing<R>(
        &self,
        known: &[Ino],
        build: impl FnOnce(&View<'_>) -> Result<(Vec<Op>, R), PosixError>,
    ) -> Result<R, Errno> {
        if self.is_read_only() {
            return Err(Errno::EROFS);
        }
        self.change_with(known, build, |_, _, _| {}).map(|(result, _)| result)
    }

    /// Like [`Self::change`], for a change that the kernel did not ask for: returns what it must forget.
    pub(super) fn change_telling<R>(
        &self,
        build: impl FnOnce(&View<'_>) -> Result<(Vec<Op>, R), PosixError>,
    ) -> Result<(R, Vec<Touched>), Errno> {
        if self.is_read_only() {
            return Err(Errno::EROFS);
        }
        self.room(0)?;
        self.commit_change(build, |_, _, _| {}).map(|(result, _, touched)| (result, touched))
    }

    /// Like [`Self::change`], also when space is short; `extra` may alter the rows that change and add others to
    /// the batch, knowing the id of the last op. Returns that id as well; without ops it is zero and `extra` is not called.
    pub(super) fn change_with<R>(
        &self,
        known: &[Ino],
        build: impl FnOnce(&View<'_>) -> Result<(Vec<Op>, R), PosixError>,
        extra: impl FnOnce(OpId, &mut [Change], &mut Batch),
    ) -> Result<(R, OpId), Errno> {
        let (result, last, touched) = self.commit_change(build, extra)?;
        self.tell_beyond(known, touched);
        Ok((result, last))
    }

    fn commit_change<R>(
        &self,
        build: impl FnOnce(&View<'_>) -> Result<(Vec<Op>, R), PosixError>,
        extra: impl FnOnce(OpId, &mut [Change], &mut Batch),
    ) -> Result<(R, OpId, Vec<Touched>), Errno> {
        let mut sequencer = self.sequencer.lock();
        // What was refused on a full disk may appear when there is room again: before anything builds on it.
        let db = self.folder.store().db();
        db.heal()?;
        let generation = db.generation();
        let (ops, result) = self.view(build)?;
        if ops.is_empty() {
            return Ok((result, OpId::ZERO, Vec::new()));
        }
        let before = sequencer.hlc_last;
        let group = OpGroup { hlc: sequencer.take(ops.len()), ops };
        let last = OpId { hlc: group.hlc_last(), log: self.folder.log_number() };
        let (mut changes, touched) =
            self.apply_groups(self.folder.log_number(), std::slice::from_ref(&group))?;
        let mut batch = Batch::default();
        batch.made_at(generation);
        extra(last, &mut changes, &mut batch);
        self.rows.stage(&changes, &mut batch);
        self.note_comebacks(&changes, &mut batch)?;
        let bytes = self.stage_pending(&group, &mut batch);
        if let Err(error) = self.folder.store().db().commit(batch, Durability::Unsynced) {
            sequencer.set_hlc_last(before);
            return Err(error.into());
        }
        self.rows.install(changes);
        drop(sequencer);
        self.pending_groups.fetch_add(1, Ordering::Relaxed);
        self.pending_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.wake.note_op();
        Ok((result, last, touched))
    }

    /// Applies groups of one log over the stored rows; nothing is stored yet.
    pub(super) fn apply_groups(
        &self,
        log: u64,
        groups: &[OpGroup],
    ) -> Result<(Vec<Change>, Vec<Touched>), Error> {
        self.in_tx(|tx| {
            let mut touched = Vec::new();
            for (id, op) in groups.iter().flat_map(|group| group.with_ids(log)) {
                touched.extend(tree::apply(tx, id, op, &self.policy)?);
            }
            Ok(touched)
        })
    }

    pub(super) fn in_tx<R>(
        &self,
        work: impl FnOnce(&mut Tx<'_>) -> Result<R, Error>,
    ) -> Result<(Vec<Change>, R), Error> {
        let read = |row_key: &RowKey| self.rows.get(row_key);
        let name_hash = |parent: &Ino, name: &[u8]| self.folder.local().name_hash(parent, name);
        let mut tx = Tx::new(&read, &name_hash);
        let result = work(&mut tx)?;
        Ok((tx.into_changes().collect(), result))
    }

    pub(super) fn pending_key(&self, hlc: u64) -> Vec<u8> {
        key(self.folder.no(), Table::Pending, &hlc.to_be_bytes())
    }

    /// Adds the row of a pending group; returns its bytes.
    pub(super) fn stage_pending(&self, group: &OpGroup, batch: &mut Batch) -> usize {
        let mut writer = Writer::new();
        group.encode(&mut writer);
        let bytes = writer.into_bytes();
        let stored = self.pending_key(group.hlc);
        let sealed = self.folder.local().seal(&stored, &bytes);
        batch.put_owned(stored, sealed);
        bytes.len()
    }
}
