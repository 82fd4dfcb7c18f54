//! The cut: what was written becomes content, content becomes ops, ops become entries.
//!
//! All files are captured at one instant, so that a database and its journal agree. Content is
//! published as a pending op first, in one batch with the removal of the file's dirty rows, and after
//! the packs that it names are durable; entries then carry the pending ops. So a crash anywhere keeps
//! everything, and no entry is signed twice.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cobox_store::Error;
use cobox_store::blind::Batch;
use cobox_store::blind::tables::{Table, key};
use cobox_store::format::content::Content;
use cobox_store::format::op::OpGroup;
use cobox_store::format::{GROUP_OPS_MAX, Reader};
use cobox_store::id::OpId;

use super::file::{File, Times};
use super::filemap::FileMap;
use super::rechunk::{Alignment, Tail};
use super::sequencer::now_ms;
use super::survive::is_gone;
use super::{Cut, Errno, Vfs, coalesce};
use crate::tree::{self, PosixError, ops};

/// A file that stays open and is never synced waits this long.
const OPEN_FILE_WAIT: Duration = Duration::from_secs(30);
/// Files that are dirty at every cut are taken at this pace, which doubles up to [`BUSY_WAIT_MAX`].
const BUSY_WAIT_MIN: Duration = Duration::from_millis(200);
/// See [`BUSY_WAIT_MIN`].
const BUSY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Groups that one call of the log takes: far below what an entry's index could not count.
const GROUPS_MAX: usize = 8192;
/// After so much written to the journal a cut takes back the room of what was removed from it: what is left
/// is written again, and that is little.
const RECLAIM_BYTES: u64 = 64 * 1024 * 1024;
/// Files whose content is sealed by one thread of two at a time.
const PARALLEL_FILES: usize = 8;

/// The pace of files that are dirty at every cut.
pub struct Busy {
    next: Instant,
    wait: Duration,
}

impl Default for Busy {
    fn default() -> Self {
        Self { next: Instant::now(), wait: BUSY_WAIT_MIN }
    }
}

/// A file as it was at the instant of the cut.
struct Captured {
    file: Arc<File>,
    map: FileMap,
    alignment: Alignment,
    times: Times,
}

/// A file's content after sealing.
struct Settled {
    captured: Captured,
    content: Content,
}

impl Vfs {
    /// Turns what is pending into entries.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`; what could not be written stays and is tried again.
    pub fn cut(&self, why: Cut) -> Result<(), Errno> {
        if self.is_read_only() {
            return Ok(());
        }
        let _one = self.cutting.lock();
        self.journaled_bytes.store(0, Ordering::Relaxed);
        let published = self.publish(why);
        let written = self.write_pending();
        if written.is_ok() {
            self.last_cut_ms.store(now_ms(), Ordering::Relaxed);
            self.reclaim(RECLAIM_BYTES);
        }
        published.and(written)
    }

    /// Takes the room back that removed rows of the journal occupy, where at least so much was written to it.
    pub(super) fn reclaim(&self, least_bytes: u64) {
        let written = self.unreclaimed_bytes.load(Ordering::Relaxed);
        if written < least_bytes {
            return;
        }
        match self.folder.store().db().reclaim() {
            Ok(()) => saturating_sub(&self.unreclaimed_bytes, written),
            Err(error) => tracing::debug!(%error, "room of removed rows stays taken until the next cut"),
        }
    }

    fn publish(&self, why: Cut) -> Result<(), Errno> {
        let captured = self.capture(why);
        if captured.is_empty() {
            return Ok(());
        }
        let (settled, failed) = self.settle_all(captured);
        // What waits for other devices is no failure of a cut that comes by itself; whoever asked is told.
        let asked = matches!(why, Cut::Unmount | Cut::Now);
        let failed = failed.filter(|error| asked || !matches!(error, Error::Absent(_)));
        self.folder.flush_packs()?;
        let mut result = failed.map_or(Ok(()), |error| Err(Errno::from(error)));
        for done in settled {
            if let Err(error) = self.publish_one(done) {
                result = Err(error);
            }
        }
        result
    }

    /// Takes all files that are due, at one instant.
    fn capture(&self, why: Cut) -> Vec<Captured> {
        let _frozen = self.freeze.write();
        let all = matches!(why, Cut::Unmount | Cut::Now);
        let mut busy = self.busy.lock();
        let busy_due = all || busy.next <= Instant::now();
        let mut again = false;
        let mut captured = Vec::new();
        let files: Vec<Arc<File>> = self.files.lock().values().cloned().collect();
        for file in files {
            let mut inner = file.inner();
            let Some(since) = inner.dirty_since else { continue };
            let open = inner.writers > 0;
            let due = all
                || if open {
                    busy_due && (inner.settled_by_user || since.elapsed() >= OPEN_FILE_WAIT)
                } else {
                    true
                };
            if !due {
                continue;
            }
            again |= open && inner.busy;
            inner.busy = open;
            let (map, alignment) = (inner.map.clone(), inner.alignment());
            let times = inner.times;
            drop(inner);
            captured.push(Captured { file, map, alignment, times });
        }
        if busy_due {
            busy.wait = if again { (busy.wait * 2).min(BUSY_WAIT_MAX) } else { BUSY_WAIT_MIN };
            busy.next = Instant::now() + busy.wait;
        }
        captured
    }

    /// Seals the captured files, in two threads when there are many.
    fn settle_all(&self, captured: Vec<Captured>) -> (Vec<Settled>, Option<Error>) {
        let settle_part = |part: Vec<Captured>| {
            let mut done = Vec::with_capacity(part.len());
            let mut failed = None;
            for one in part {
                match self.settle_captured(one) {
                    Ok(settled) => done.extend(settled),
                    Err(error) => failed = Some(error),
                }
            }
            (done, failed)
        };
        if captured.len() < PARALLEL_FILES {
            return settle_part(captured);
        }
        let mut left = captured;
        let right = left.split_off(left.len() / 2);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| settle_part(right));
            let (mut done, failed) = settle_part(left);
            let (more, failed_too) = other.join().expect("sealing does not panic");
            done.extend(more);
            (done, failed.or(failed_too))
        })
    }

    fn settle_captured(&self, captured: Captured) -> Result<Option<Settled>, Error> {
        if self.view(|view| is_gone(view, &captured.file))? {
            return Ok(None);
        }
        let result = {
            let _io = captured.file.io.lock();
            self.settle_now(&captured.map, captured.alignment, Tail::Take)
        };
        match result {
            Ok((content, _)) => Ok(Some(Settled { captured, content })),
            Err((error, packs)) => {
                // Changed in part, and the rest is on other devices: stays dirty until it is here.
                if let Error::Absent(tag) = &error {
                    tracing::warn!(chunk = %tag, "a changed file waits for bytes of other devices");
                }
                packs.iter().for_each(|pack| self.folder.store().want(self.folder.no(), *pack));
                Err(error)
            }
        }
    }

    /// Makes one file's content an op, and its dirty rows what has been written since.
    fn publish_one(&self, settled: Settled) -> Result<(), Errno> {
        let Settled { captured: Captured { file, map, times, .. }, content } = settled;
        let _io = file.io.lock();
        self.flush_stowed(&file)?;
        let based_on = file.inner().based_on.clone();
        let mtime_ns = times.mtime_ns.unwrap_or_else(super::sequencer::now_ns);
        let changed = Cell::new(OpId::ZERO);
        let (stamp, settled_to) = (map.stamp(), map.size());
        let base_then = Arc::clone(map.base());
        drop(map);
        let mut restage = None;
        let op_content = content.clone();
        let owed = RefCell::new(Batch::default());
        let result = self.change_with(
            &[],
            |view| {
                if is_gone(view, &file)? {
                    return Err(PosixError::NoEntry);
                }
                changed.set(view.node(file.ino)?.ok_or(PosixError::NoEntry)?.changed);
                self.owe_reused(view, &file, &based_on, &op_content, &mut owed.borrow_mut())?;
                ops::put(view, file.ino, &based_on, op_content, mtime_ns).map(|ops| (ops, ()))
            },
            |head, changes, batch| {
                batch.append(owed.take());
                tree::keep_changed(changes, file.ino, changed.get(), times.changed_ms);
                let mut inner = file.inner();
                let since = inner.map.stamp() != stamp;
                if Arc::ptr_eq(inner.map.base(), &base_then) {
                    inner.map.rebase(Arc::new(content.clone()), stamp, settled_to);
                } else {
                    // Sealed again since it was captured: its base may hold newer bytes, and stays.
                    inner.map.mark_unsaved();
                }
                inner.based_on = vec![head];
                inner.stowed = false;
                self.unstage_dirty(&file.ino, &inner, batch);
                inner.saved.rebased();
                if since || inner.map.is_changed() || inner.times != times {
                    restage = self.stage_dirty(file.ino, &mut inner, batch);
                }
            },
        );
        match result {
            Ok(_) => {
                let mut inner = file.inner();
                match restage {
                    Some(taken) => {
                        taken.note(&mut inner);
                        inner.dirty_since = Some(Instant::now());
                    }
                    None if !inner.map.is_changed() && inner.times == times => inner.published(),
                    // Changed since.
                    None => {
                        inner.saved = super::file::Saved::default();
                        inner.dirty_since = Some(Instant::now());
                    }
                }
                drop(inner);
                self.drop_if_idle(&file.ino);
                Ok(())
            }
            // Its last name went meanwhile: nobody will ask for the content.
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => {
                file.inner().not_published(based_on);
                Err(error)
            }
        }
    }

    /// Writes all pending groups as entries.
    fn write_pending(&self) -> Result<(), Errno> {
        if !self.may_begin()? {
            return Ok(());
        }
        loop {
            // Most of them are read while programs go on; groups are only ever added behind.
            let begin = self.pending_begin.load(Ordering::Relaxed);
            let mut groups = self.pending_from(begin, GROUPS_MAX)?;
            let (groups, hlc, deps, answer) = {
                let mut sequencer = self.sequencer.lock();
                let behind = groups.last().map_or(0, |last| last.hlc + 1);
                groups.extend(self.pending_from(behind, GROUPS_MAX - groups.len())?);
                let all = groups.len() < GROUPS_MAX;
                let mut groups = self.annihilate(&sequencer, groups)?;
                let answer = if all { self.answer(&mut sequencer)? } else { None };
                groups.extend(answer.iter().map(|(group, _)| group.clone()));
                (groups, sequencer.hlc_last(), self.applied.lock().deps(), answer)
            };
            if groups.is_empty() {
                self.pending_bytes.store(0, Ordering::Relaxed);
                return Ok(());
            }
            let count = groups.len() as u64 - u64::from(answer.is_some());
            let next = groups.last().map_or(0, |last| last.hlc + 1);
            let is_answer = |group: &&OpGroup| answer.as_ref().is_some_and(|(own, _)| own.hlc == group.hlc);
            let waiting = groups.iter().filter(|group| !is_answer(group));
            let keys: Vec<Vec<u8>> = waiting.map(|group| self.pending_key(group.hlc)).collect();
            let hlc = groups.last().map_or(hlc, OpGroup::hlc_last).max(hlc);
            // Each entry takes the rows of the groups that it carries: a group that was written is never
            // written again, nor taken back as if nobody knew it.
            let written = |group: &OpGroup, batch: &mut Batch| match &answer {
                Some((own, calls)) if own.hlc == group.hlc => self.stage_answered(calls, batch),
                _ => batch.delete(&self.pending_key(group.hlc)),
            };
            if let Err(error) = self.folder.write_groups(hlc, groups, deps, Batch::default(), &written) {
                let db = self.folder.store().db();
                let gone = keys.iter().filter(|stored| matches!(db.contains(stored), Ok(false))).count();
                saturating_sub(&self.pending_groups, gone as u64);
                return Err(error.into());
            }
            // Else each cut would pass the removed rows of all before it that are not compacted yet.
            self.pending_begin.fetch_max(next, Ordering::Relaxed);
            tracing::debug!(groups = count, "cut");
            saturating_sub(&self.pending_groups, count);
        }
    }

    /// At most `max` pending groups, oldest first.
    pub(super) fn pending(&self, max: usize) -> Result<Vec<OpGroup>, Error> {
        self.pending_from(0, max)
    }

    /// At most `max` pending groups whose clock is not before `hlc`, oldest first.
    fn pending_from(&self, hlc: u64, max: usize) -> Result<Vec<OpGroup>, Error> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let prefix = key(self.folder.no(), Table::Pending, b"");
        let mut sealed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        self.folder.store().db().scan(&prefix, &hlc.to_be_bytes(), &mut |rest, value| {
            sealed.push(([&prefix[..], rest].concat(), value.to_vec()));
            if sealed.len() >= max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let mut groups = Vec::with_capacity(sealed.len());
        for (stored, value) in sealed {
            let plain = self.folder.local().open(&stored, &value)?;
            let mut reader = Reader::new(&plain);
            let group = OpGroup::decode(&mut reader)?;
            reader.finish()?;
            debug_assert!(group.ops.len() <= GROUP_OPS_MAX);
            groups.push(group);
        }
        Ok(groups)
    }

    /// Drops what was made and removed since the last cut, and attributes that were set again.
    ///
    /// The caller holds the sequencer: nobody else changes rows meanwhile.
    fn annihilate(
        &self,
        sequencer: &super::sequencer::Sequencer,
        groups: Vec<OpGroup>,
    ) -> Result<Vec<OpGroup>, Error> {
        let log = self.folder.log_number();
        let mut gone = Vec::new();
        for made in coalesce::made_files(&groups, log, self.policy.case) {
            let free = made.hlc > sequencer.remote_hlc
                && !self.files.lock().contains_key(&made.ino)
                && !self.numbers.is_known(crate::tree::names::number(&made.ino));
            if free && self.view(|view| view.is_dead(made.ino))? {
                gone.push(made);
            }
        }
        let kept = coalesce::without(&groups, log, &gone);
        if kept == groups {
            return Ok(groups);
        }
        let (changes, ()) = self.in_tx(|tx| {
            for made in &gone {
                crate::tree::forget_unpublished(tx, made.ino)?;
            }
            Ok(())
        })?;
        let mut batch = Batch::default();
        self.rows.stage(&changes, &mut batch);
        for group in &groups {
            batch.delete(&self.pending_key(group.hlc));
        }
        for group in &kept {
            self.stage_pending(group, &mut batch);
        }
        self.folder.store().db().commit(batch, cobox_store::blind::Durability::Unsynced)?;
        self.rows.install(changes);
        saturating_sub(&self.pending_groups, (groups.len() - kept.len()) as u64);
        Ok(kept)
    }
}

pub(super) fn saturating_sub(counter: &std::sync::atomic::AtomicU64, count: u64) {
    let _ =
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| Some(value.saturating_sub(count)));
}
