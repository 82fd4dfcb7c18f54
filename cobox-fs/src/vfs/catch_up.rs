//! Applying entries of other logs that the store has received, in causal order.
//!
//! How far each log was applied is kept in one row per log, in the same batch as the rows that the
//! entry changes. Entries whose dependencies are missing wait in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use cobox_store::Error;
use cobox_store::blind::tables::{Table, key};
use cobox_store::blind::{Batch, Branches, Durability};
use cobox_store::format::entry::{Body, Entry, LogHead};
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::format::{Reader, Writer};
use cobox_store::id::{Ino, LogId};

use super::sequencer::{OrderRule, now_ms};
use super::{Errno, Invalidate, Vfs};
use crate::tree::{Touched, names};

const VERSION: u8 = 1;
/// An entry whose clock is further ahead of ours waits until it is not: clocks only grow, so that one author
/// whose clock is wrong, or lies, would otherwise move everybody's for good.
pub const CLOCK_AHEAD_MAX_MS: u64 = 10 * 60 * 1000;
/// Before this (the beginning of 2026) our own clock is not set, and says nothing about others.
const CLOCK_SET_FROM_MS: u64 = 1_767_225_600_000;

/// How far each log other than ours was applied.
#[derive(Default)]
pub struct Applied {
    heads: BTreeMap<LogId, LogHead>,
    /// Entries that people were told about because they cannot be applied.
    told: BTreeSet<(LogId, u64)>,
    /// Logs whose next entry has a clock too far ahead: what it says, in milliseconds since 1970.
    ahead: BTreeMap<LogId, u64>,
    /// The tree is being made anew: our own entries are applied again, too.
    pub(super) anew: bool,
}

impl Applied {
    /// The heads that our entries depend on.
    #[must_use]
    pub fn deps(&self) -> Vec<LogHead> {
        self.heads.values().copied().collect()
    }

    fn seq(&self, log: &LogId) -> u64 {
        self.heads.get(log).map_or(0, |head| head.seq)
    }

    /// How far a log or branch was applied; `None` for a branch whose beginning was not reached.
    fn reached(&self, branches: &Branches, log: &LogId) -> Option<u64> {
        match (self.heads.get(log), branches.get(log)) {
            (Some(head), _) => Some(head.seq),
            (None, None) => Some(0),
            (None, Some(branch)) => {
                (self.reached(branches, &branch.parent)? >= branch.from - 1).then_some(branch.from - 1)
            }
        }
    }

    /// The heads of logs that were applied beyond the place where they fork, as is known by now.
    pub(super) fn beyond_forks(&self, branches: &Branches) -> Vec<LogHead> {
        let beyond = |head: &&LogHead| branches.limit(&head.log).is_some_and(|limit| head.seq > limit);
        self.heads.values().filter(beyond).copied().collect()
    }

    /// Forgets all, for the tree is made anew.
    pub(super) fn begin_anew(&mut self) {
        *self = Self { anew: true, ..Self::default() };
    }

    /// The tree is made anew, our own log with it.
    pub(super) fn end_anew(&mut self, own: &LogId) {
        self.anew = false;
        self.heads.remove(own);
    }
}

impl Vfs {
    /// Reads how far each log was applied, and the clock of everything that was.
    pub(super) fn load_applied(&self) -> Result<(), Error> {
        let prefix = key(self.folder.no(), Table::Applied, b"");
        let mut sealed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        self.folder.store().db().scan(&prefix, &[], &mut |rest, value| {
            sealed.push(([&prefix[..], rest].concat(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        let mut hlc_last = 0;
        for (stored, value) in sealed {
            let plain = self.folder.local().open(&stored, &value)?;
            let mut reader = Reader::new(&plain);
            reader.version(VERSION, "applied")?;
            let head = LogHead {
                log: reader.log_id("applied")?,
                seq: reader.u64("applied")?,
                hash: reader.entry_hash("applied")?,
            };
            hlc_last = hlc_last.max(reader.u64("applied")?);
            reader.finish()?;
            self.applied.lock().heads.insert(head.log, head);
        }
        // Our own entries say how far our clock was; their ops are applied when they are made.
        let own = self.folder.log();
        if let Some(head) = self.folder.store().log_head(self.folder.no(), own)?
            && let Some(entry) = self.folder.store().entry(self.folder.no(), own, head.seq)?
        {
            let body = self.folder.open_entry(&entry)?;
            hlc_last = hlc_last.max(body.hlc).max(body.groups.last().map_or(0, OpGroup::hlc_last));
        }
        let mut sequencer = self.sequencer.lock();
        let hlc_last = sequencer.hlc_last().max(hlc_last);
        sequencer.set_hlc_last(hlc_last);
        // Across a restart it is unknown when the last entry came: nothing older is taken back.
        sequencer.remote_hlc = hlc_last;
        Ok(())
    }

    /// Applies entries of other devices that the store has received; returns what the kernel must
    /// forget.
    ///
    /// An entry that its author made wrong stops its own log and what builds on it, and nothing else.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`; what was applied before stays.
    pub fn catch_up(&self) -> Result<Vec<Invalidate>, Errno> {
        let _one = self.catching_up.lock();
        if self.is_stale()? {
            // Entries of a log that forked were applied as if it had not: see [`Self::is_stale`].
            if self.applied.lock().told.insert((self.folder.log(), u64::MAX)) {
                tracing::warn!(folder = %self.folder.id(), "nothing is applied before the tree is made anew");
            }
            return Ok(Vec::new());
        }
        let mut touched: BTreeSet<Touched> = BTreeSet::new();
        let done = self.apply_all(&mut touched);
        let told = touched.into_iter().map(Self::invalidation);
        match done {
            Ok(()) => Ok(told.collect()),
            Err(errno) => {
                // What was applied before is told all the same.
                self.tell_later(told);
                Err(errno)
            }
        }
    }

    fn apply_all(&self, touched: &mut BTreeSet<Touched>) -> Result<(), Errno> {
        let mut progress = true;
        while progress {
            progress = false;
            for head in self.folder.store().log_heads(self.folder.no())? {
                let own = head.log == self.folder.log() && !self.applied.lock().anew;
                if own && !self.is_continued_elsewhere(&head)? {
                    continue;
                }
                loop {
                    match self.apply_next(&head, touched) {
                        Ok(true) => progress = true,
                        Ok(false) => break,
                        Err(Errno::EIO) => {
                            self.tell_stuck(&head.log, "cannot be applied");
                            break;
                        }
                        Err(errno) => return Err(errno),
                    }
                }
            }
        }
        self.behind.store(!self.may_begin()?, Ordering::Relaxed);
        Ok(())
    }

    /// Whether our own log holds entries that this store did not write: it was set back, or copied. They
    /// are applied as anyone's, after those that it did write.
    fn is_continued_elsewhere(&self, head: &LogHead) -> Result<bool, Error> {
        let written = self.folder.written()?;
        if written.is_some_and(|written| head.seq <= written.seq) {
            return Ok(false);
        }
        let mut applied = self.applied.lock();
        if let Some(written) = written
            && !applied.heads.contains_key(&written.log)
        {
            tracing::error!(folder = %self.folder.id(), "entries of this device's own log come from elsewhere");
            applied.heads.insert(written.log, written);
        }
        Ok(true)
    }

    /// Says once that a log's next entry waits for more than other entries.
    fn tell_stuck(&self, log: &LogId, why: &str) {
        let mut applied = self.applied.lock();
        let seq = applied.seq(log) + 1;
        if applied.told.insert((*log, seq)) {
            tracing::error!(folder = %self.folder.id(), %log, seq, "an entry of another device {why}");
        }
    }

    /// What an entry's clock says, if that is too far ahead; what our own clock has passed already never is.
    fn is_ahead(&self, body: &Body) -> Option<u64> {
        let newest = body.groups.last().map_or(0, OpGroup::hlc_last).max(body.hlc);
        let now = now_ms();
        let sequencer = self.sequencer.lock();
        let passed = newest <= sequencer.hlc_last() && sequencer.keeps(OrderRule::PassedIsTaken);
        let ahead = now >= CLOCK_SET_FROM_MS
            && newest >> 16 > now.saturating_add(CLOCK_AHEAD_MAX_MS)
            && sequencer.keeps(OrderRule::FarAheadWaits)
            && !passed;
        ahead.then_some(newest >> 16)
    }

    /// Logs whose entries wait because their device's clock was too far ahead, with what it said, in
    /// milliseconds since 1970; they are applied when ours comes within [`CLOCK_AHEAD_MAX_MS`] of that.
    #[must_use]
    pub fn held_for_clock(&self) -> Vec<(LogId, u64)> {
        self.applied.lock().ahead.iter().map(|(log, ms)| (*log, *ms)).collect()
    }

    /// Breaks a rule, for the tests.
    #[doc(hidden)]
    pub fn break_order_rule(&self, rule: OrderRule) {
        self.sequencer.lock().broken = Some(rule);
    }

    pub(super) fn invalidation(touched: Touched) -> Invalidate {
        match touched {
            Touched::Inode(ino) => Invalidate::Node(names::number(&ino)),
            Touched::Name { parent, name } => Invalidate::Name { parent: names::number(&parent), name },
        }
    }

    /// Applies the next entry of a log; false when there is none or it must wait.
    fn apply_next(&self, head: &LogHead, touched: &mut BTreeSet<Touched>) -> Result<bool, Errno> {
        let store = self.folder.store();
        let branches = store.branches(self.folder.no())?;
        let Some(reached) = self.applied.lock().reached(&branches, &head.log) else { return Ok(false) };
        let next = reached + 1;
        if next > head.seq {
            return Ok(false);
        }
        let Some(entry) = store.entry(self.folder.no(), head.log, next)? else { return Ok(false) };
        let body = match self.folder.open_entry(&entry) {
            Ok(body) => body,
            Err(Error::UnknownEpoch(epoch)) => {
                // Its key comes with a record that is on its way.
                self.folder.refresh()?;
                tracing::debug!(%epoch, "an entry waits for its epoch");
                match self.folder.open_entry(&entry) {
                    Ok(body) => body,
                    Err(Error::UnknownEpoch(_)) => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        };
        if !self.deps_applied(&branches, &body)? {
            return Ok(false);
        }
        if let Some(ms) = self.is_ahead(&body) {
            self.tell_stuck(&head.log, "waits: its clock is far ahead of ours");
            self.applied.lock().ahead.insert(head.log, ms);
            return Ok(false);
        }
        self.apply_entry(head.log, &entry, &body, touched)?;
        Ok(true)
    }

    fn deps_applied(&self, branches: &Branches, body: &Body) -> Result<bool, Error> {
        let own = self.folder.log();
        for dep in &body.deps {
            // An entry may build on a branch that is not here yet, and that is taken because it does.
            let Some(log) = self.dep_log(branches, dep)? else {
                self.folder.store().name_entry(self.folder.no(), dep)?;
                return Ok(false);
            };
            let (have, anew) = {
                let applied = self.applied.lock();
                (applied.reached(branches, &log).unwrap_or(0), applied.anew)
            };
            let have = if log == own && !anew {
                have.max(self.folder.written()?.map_or(0, |head| head.seq))
            } else {
                have
            };
            if have < dep.seq && self.sequencer.lock().keeps(OrderRule::CausesFirst) {
                self.folder.store().name_entry(self.folder.no(), dep)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the tree holds ops of a log that forked as those of the log itself: it is made anew when the
    /// folder is opened next, and nothing is applied before.
    ///
    /// # Errors
    /// When the store fails.
    pub fn is_stale(&self) -> Result<bool, Error> {
        let branches = self.folder.store().branches(self.folder.no())?;
        if branches.is_empty() {
            return Ok(false);
        }
        if self.applied.lock().anew {
            return Ok(false);
        }
        // What this device wrote in a branch is in the tree as the branch's, once that was made anew.
        let limit = branches.limit(&self.folder.log());
        let written = self.folder.written()?.filter(|head| limit.is_some_and(|limit| head.seq > limit));
        let own = match written {
            Some(head) => {
                let within = self.folder.store().holder(self.folder.no(), &head)?;
                within.and_then(|within| self.applied.lock().reached(&branches, &within)) < Some(head.seq)
            }
            None => false,
        };
        Ok(own || !self.applied.lock().beyond_forks(&branches).is_empty())
    }

    fn apply_entry(
        &self,
        within: LogId,
        entry: &Entry,
        body: &Body,
        told: &mut BTreeSet<Touched>,
    ) -> Result<(), Errno> {
        let header = entry.header();
        let log = within.number();
        let mut sequencer = self.sequencer.lock();
        let db = self.folder.store().db();
        db.heal()?;
        let mut batch = Batch::default();
        batch.made_at(db.generation());
        let own = header.log == self.folder.log() && !self.applied.lock().anew;
        let meant = if own { self.take_own(body, &mut batch)? } else { self.meant(within, body)? };
        let (changes, touched) = self.apply_groups(log, meant.as_ref().unwrap_or(&body.groups))?;
        self.rows.stage(&changes, &mut batch);
        let survivors = self.survivors(&changes, &mut batch)?;
        self.note_comebacks(&changes, &mut batch)?;
        self.folder.index_entry(entry, body, &mut batch)?;
        self.folder.stage_kept(within, entry, &mut batch)?;
        let head = LogHead { log: within, seq: header.seq, hash: header.hash() };
        let hlc = body.groups.last().map_or(0, OpGroup::hlc_last).max(body.hlc).max(sequencer.hlc_last());
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.fixed(&head.log.0);
        writer.u64(head.seq);
        writer.fixed(&head.hash.0);
        writer.u64(hlc);
        let stored = key(self.folder.no(), Table::Applied, &head.log.0);
        batch.put(&stored, &self.folder.local().seal(&stored, &writer.into_bytes()));
        self.folder.store().db().commit(batch, Durability::Unsynced)?;
        // Before the rows are seen: who finds the file dead must find that it survives.
        for (file, unlink) in survivors {
            file.inner().survives = Some(unlink);
        }
        self.rows.install(changes);
        told.extend(touched.iter().cloned());
        {
            let mut applied = self.applied.lock();
            applied.heads.insert(head.log, head);
            applied.ahead.remove(&within);
        }
        if sequencer.keeps(OrderRule::ClockFollows) {
            sequencer.set_hlc_last(hlc);
        }
        sequencer.remote_hlc = hlc;
        self.reload_clean(&touched)
    }

    /// The groups of an entry of our own log that this store did not write, without the ops that wait here
    /// to be written and were applied when they were made; they wait no longer.
    fn take_own(&self, body: &Body, batch: &mut Batch) -> Result<Option<Vec<OpGroup>>, Error> {
        let waiting = self.pending(usize::MAX)?;
        let made: BTreeSet<u64> =
            waiting.iter().flat_map(|group| (group.hlc..).take(group.ops.len())).collect();
        let mut groups = body.groups.clone();
        for group in &mut groups {
            if waiting.iter().any(|own| own.hlc == group.hlc) {
                batch.delete(&self.pending_key(group.hlc));
                super::cut::saturating_sub(&self.pending_groups, 1);
            }
            for (hlc, op) in (group.hlc..).zip(&mut group.ops) {
                if made.contains(&hlc) {
                    *op = Op::Ack;
                }
            }
        }
        Ok(Some(groups))
    }

    /// Open files that are not dirty show the new content; dirty ones keep theirs.
    pub(super) fn reload_clean(&self, touched: &[Touched]) -> Result<(), Errno> {
        let inos: BTreeSet<Ino> = touched
            .iter()
            .filter_map(|what| if let Touched::Inode(ino) = what { Some(*ino) } else { None })
            .collect();
        for ino in inos {
            let Some(file) = self.known_file(&ino) else { continue };
            let Some(node) = self.view(|view| view.node(ino))? else { continue };
            let heads = node.shown_heads();
            let based_on: Vec<_> = heads.first().map(|head| head.id).into_iter().collect();
            let mut inner = file.inner();
            if !inner.is_dirty() && inner.based_on != based_on {
                inner.reload(node.shown_content(), based_on);
            }
        }
        Ok(())
    }
}
