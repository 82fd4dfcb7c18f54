//! Durable rows of dirty files: a mark (size, time, base content) and a journal of what was written
//! since that base.
//!
//! Replaying the journal in order over the base gives the file. A new base begins a new journal. Small
//! amounts go through the write-ahead log; larger ones become chunks in packs first, so that bulk data
//! is written once.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cobox_store::Error;
use cobox_store::blind::tables::{Table, key};
use cobox_store::blind::{Batch, Durability};
use cobox_store::format::content::{ChunkRef, Content};
use cobox_store::format::{DecodeError, Reader, SEEN_MAX, Writer};
use cobox_store::id::{Ino, OpId, PackId};
use parking_lot::Mutex;

use super::content::ChunkIo;
use super::file::{File, Inner, Saved};
use super::filemap::{FileMap, SEGMENT_BYTES, Source};
use super::rechunk::{self, Alignment, Tail};
use super::{ABSENT_WAIT_MS, Errno, Vfs, survive};

/// More written bytes than this become chunks before they are saved.
const JOURNAL_ROWS_BYTES_MAX: u64 = 1024 * 1024;
/// A journal longer than this is replaced by chunks: bounds what a restart replays.
const JOURNAL_BYTES_MAX: u64 = 16 * 1024 * 1024;
const VERSION: u8 = 1;
const RECORD_BYTES: u8 = 0;
const RECORD_HOLE: u8 = 1;

/// What a mark says.
struct Mark {
    ino: Ino,
    size: u64,
    mtime_ns: Option<i64>,
    based_on: Vec<OpId>,
    base: Content,
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.fixed(&self.ino.0);
        writer.u64(self.size);
        writer.u8(u8::from(self.mtime_ns.is_some()));
        writer.i64(self.mtime_ns.unwrap_or(0));
        writer.op_ids(&self.based_on);
        self.base.encode(&mut writer);
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version(VERSION, "dirty mark")?;
        let ino = reader.ino("ino")?;
        let size = reader.u64("size")?;
        let has_mtime = reader.flag("mtime")?;
        let mtime_ns = reader.i64("mtime")?;
        let based_on = reader.op_ids(SEEN_MAX, "heads")?;
        let base = Content::decode(&mut reader)?;
        reader.finish()?;
        Ok(Self { ino, size, mtime_ns: has_mtime.then_some(mtime_ns), based_on, base })
    }
}

impl Vfs {
    /// Turns what was written into chunks; with [`Tail::Leave`] an incomplete last chunk stays.
    ///
    /// The caller holds the file's `io` lock.
    pub(super) fn settle(&self, file: &File, tail: Tail) -> Result<(), Errno> {
        self.settle_until(file, tail, Instant::now() + Duration::from_millis(ABSENT_WAIT_MS))
    }

    /// Like [`Self::settle`]; waits for bytes of other devices until then.
    pub(super) fn settle_until(&self, file: &File, tail: Tail, until: Instant) -> Result<(), Errno> {
        let (snapshot, alignment) = {
            let inner = file.inner();
            (inner.map.clone(), inner.alignment())
        };
        if !snapshot.is_changed() {
            return Ok(());
        }
        let (content, settled) = loop {
            let seen = self.folder.store().watch().seen();
            match self.settle_now(&snapshot, alignment, tail) {
                Ok(done) => break done,
                Err((Error::Absent(_), packs)) if !packs.is_empty() => self.wait_for(&packs, seen, until)?,
                Err((error, _)) => return Err(error.into()),
            }
        };
        let stamp = snapshot.stamp();
        let mut inner = file.inner();
        // Without the snapshot its buffers belong to the map alone again; before the lock a write could
        // make one of them newer, and it would be sealed twice.
        drop(snapshot);
        if settled > 0 || content.size() == 0 && tail == Tail::Take {
            self.take_base(&mut inner, content, stamp, settled);
        }
        Ok(())
    }

    /// Seals a snapshot; where bytes around the change are on other devices, says in which packs.
    fn settle_now(
        &self,
        snapshot: &FileMap,
        alignment: Alignment,
        tail: Tail,
    ) -> Result<(Content, u64), (Error, Vec<PackId>)> {
        let absent: Mutex<Vec<ChunkRef>> = Mutex::default();
        let read = |chunk_type, chunk| {
            let result = self.folder.read_chunk(chunk_type, chunk);
            if matches!(result, Err(Error::Absent(_))) {
                absent.lock().push(chunk);
            }
            result
        };
        let settled =
            self.with_io(|io| rechunk::settle(ChunkIo { read: &read, ..io }, snapshot, alignment, tail));
        settled.map_err(|error| {
            let packs =
                absent.lock().iter().filter_map(|chunk| self.folder.pack_of(*chunk).ok().flatten()).collect();
            (error, packs)
        })
    }

    /// Replaces what a snapshot held by its content.
    pub(super) fn take_base(&self, inner: &mut Inner, content: Content, stamp: u64, settled: u64) {
        inner.stowed |= !matches!(content, Content::Inline(_));
        inner.map.rebase(Arc::new(content), stamp, settled);
        inner.saved.at = None;
        inner.saved.next_row = 0;
        inner.saved.journal_bytes = 0;
    }

    /// Makes the chunks of a file's base durable. The caller holds the file's `io` lock.
    pub(super) fn flush_stowed(&self, file: &File) -> Result<(), Errno> {
        if file.inner().stowed {
            self.folder.flush_packs()?;
            file.inner().stowed = false;
        }
        Ok(())
    }

    /// Saves a dirty file's state: it survives the death of this process, and power loss if synced.
    ///
    /// The caller holds the file's `io` lock.
    pub(super) fn save(&self, file: &File, durability: Durability) -> Result<(), Errno> {
        let (unsaved, stowed, journal) = {
            let inner = file.inner();
            (inner.map.mem_bytes(), inner.stowed, inner.saved.journal_bytes)
        };
        if unsaved > JOURNAL_ROWS_BYTES_MAX || journal > JOURNAL_BYTES_MAX || (stowed && unsaved > 0) {
            self.settle(file, Tail::Take)?;
        }
        self.flush_stowed(file)?;
        let mut batch = Batch::default();
        let staged = self.stage_dirty(file.ino, &file.inner(), &mut batch);
        let synced = durability == Durability::Synced;
        if staged.is_none() && !synced {
            return Ok(());
        }
        if synced {
            // A row of its own, so that there is something to sync: the log is one, and syncing it
            // covers all that was committed before.
            batch.put(&key(self.folder.no(), Table::Misc, b"synced"), b"");
        }
        self.folder.store().db().commit(batch, durability)?;
        if let Some((saved, stamp)) = staged {
            let mut inner = file.inner();
            inner.map.mark_saved(stamp);
            inner.saved = saved;
        }
        Ok(())
    }

    /// Adds rows that bring the saved state of a dirty file up to now; none when it is.
    pub(super) fn stage_dirty(&self, ino: Ino, inner: &Inner, batch: &mut Batch) -> Option<(Saved, u64)> {
        let stamp = inner.map.stamp();
        let at = Some((stamp, inner.mtime_ns));
        if !inner.is_dirty() || inner.saved.at == at {
            return None;
        }
        let mut saved = Saved { at, ..inner.saved };
        let prefix = self.journal_prefix(&ino);
        if inner.saved.next_row == 0 {
            batch.delete_prefix(&prefix);
        }
        for (start, piece) in inner.map.unsaved() {
            let mut writer = Writer::new();
            match &piece.source {
                Source::Base => continue,
                Source::Hole => {
                    writer.u8(RECORD_HOLE);
                    writer.u64(start);
                    writer.u64(piece.len);
                }
                Source::Mem(slice) => {
                    writer.u8(RECORD_BYTES);
                    writer.u64(start);
                    writer.bytes32(slice.bytes());
                }
            }
            let stored = [&prefix[..], &saved.next_row.to_be_bytes()].concat();
            let record = writer.into_bytes();
            saved.next_row += 1;
            saved.journal_bytes += record.len() as u64;
            batch.put(&stored, &self.folder.local().seal(&stored, &record));
        }
        // Never 0 again: 0 asks for the old journal to go.
        saved.next_row = saved.next_row.max(1);
        let mark = Mark {
            ino,
            size: inner.map.size(),
            mtime_ns: inner.mtime_ns,
            based_on: inner.based_on.clone(),
            base: (**inner.map.base()).clone(),
        };
        let stored = self.mark_key(&ino);
        batch.put(&stored, &self.folder.local().seal(&stored, &mark.encode()));
        Some((saved, stamp))
    }

    /// Adds the removal of a file's saved state.
    pub(super) fn unstage_dirty(&self, ino: &Ino, batch: &mut Batch) {
        batch.delete(&self.mark_key(ino));
        batch.delete_prefix(&self.journal_prefix(ino));
        batch.delete(&self.survives_key(ino));
    }

    fn mark_key(&self, ino: &Ino) -> Vec<u8> {
        key(self.folder.no(), Table::DirtyMark, &self.rows.hidden(ino))
    }

    fn journal_prefix(&self, ino: &Ino) -> Vec<u8> {
        key(self.folder.no(), Table::Dirty, &self.rows.hidden(ino))
    }

    /// Brings back the dirty files of the last run.
    pub(super) fn load_dirty(&self) -> Result<(), Error> {
        let prefix = key(self.folder.no(), Table::DirtyMark, b"");
        let mut sealed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        self.folder.store().db().scan(&prefix, &[], &mut |rest, value| {
            sealed.push(([&prefix[..], rest].concat(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        for (stored, value) in sealed {
            let mark = Mark::decode(&self.folder.local().open(&stored, &value)?)?;
            let survives = self.survives_row(&mark.ino)?;
            if self.view(|view| view.is_dead(mark.ino))?
                && !self.view(|view| survive::outlives(view, mark.ino, survives))?
            {
                let mut batch = Batch::default();
                self.unstage_dirty(&mark.ino, &mut batch);
                self.folder.store().db().commit(batch, Durability::Unsynced)?;
                continue;
            }
            let ino = mark.ino;
            let file = File::new(ino, mark.base, mark.based_on, Arc::clone(&self.dirty_bytes));
            let (rows, bytes) = self.replay(&ino, &mut file.inner().map)?;
            {
                let mut inner = file.inner();
                inner.map.truncate(mark.size);
                inner.changed(mark.mtime_ns.unwrap_or_default());
                inner.mtime_ns = mark.mtime_ns;
                inner.settled_by_user = true;
                inner.survives = survives;
                let stamp = inner.map.stamp();
                inner.map.mark_saved(stamp);
                let at = Some((stamp, inner.mtime_ns));
                inner.saved = Saved { at, next_row: rows.max(1), journal_bytes: bytes };
            }
            self.files.lock().insert(ino, Arc::new(file));
        }
        Ok(())
    }

    /// Lays the journal over the map; returns its length in rows and bytes.
    fn replay(&self, ino: &Ino, map: &mut FileMap) -> Result<(u32, u64), Error> {
        let prefix = self.journal_prefix(ino);
        let (mut rows, mut bytes) = (0u32, 0u64);
        let mut failed: Option<Error> = None;
        self.folder.store().db().scan(&prefix, &[], &mut |rest, value| {
            let stored = [&prefix[..], rest].concat();
            let number = <[u8; 4]>::try_from(rest).map_or(0, u32::from_be_bytes);
            rows = rows.max(number + 1);
            let plain = self.folder.local().open(&stored, value);
            match plain.and_then(|plain| {
                bytes += plain.len() as u64;
                replay_record(&plain, map).map_err(Error::from)
            }) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok((rows, bytes)), Err)
    }
}

fn replay_record(record: &[u8], map: &mut FileMap) -> Result<(), DecodeError> {
    let field = "dirty row";
    let mut reader = Reader::new(record);
    let kind = reader.u8(field)?;
    let start = reader.u64(field)?;
    match kind {
        RECORD_BYTES => {
            let bytes = reader.bytes32(SEGMENT_BYTES * 2, field)?;
            map.write(start, bytes);
        }
        RECORD_HOLE => {
            let end = start.checked_add(reader.u64(field)?).ok_or(DecodeError::Invalid { field })?;
            if map.size() < end {
                map.truncate(end);
            }
            map.punch(start..end);
        }
        _ => return Err(DecodeError::Invalid { field }),
    }
    reader.finish()
}

impl Vfs {
    /// Brings the written bytes in memory below half of the bound, largest files first.
    pub(super) fn relieve(&self) -> Result<(), Errno> {
        let _one = self.relieving.lock();
        let mut files: Vec<(u64, Arc<File>)> = {
            let files = self.files.lock();
            files.values().map(|file| (file.inner().map.mem_bytes(), Arc::clone(file))).collect()
        };
        files.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (_, file) in files {
            if self.dirty_bytes.load(Ordering::Relaxed) <= super::DIRTY_BYTES_MAX / 2 {
                break;
            }
            let _io = file.io.lock();
            self.settle(&file, Tail::Take)?;
        }
        Ok(())
    }
}
