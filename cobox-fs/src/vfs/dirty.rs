//! Durable rows of dirty files: a mark (size, time, base content) and a journal of what was written
//! since that base.
//!
//! Replaying the journal in order over the base gives the file. A new base begins a new journal. Small
//! amounts and scattered overwrites go through the write-ahead log; long runs become chunks in packs
//! first, so that bulk data is written once.

use std::collections::HashSet;
use std::ops::{ControlFlow, Range};
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
use super::file::{File, Inner, Saved, Times};
use super::filemap::{FileMap, Piece, SEGMENT_BYTES, Source};
use super::rechunk::{self, Alignment, Tail};
use super::{ABSENT_WAIT_MS, Errno, SCATTERED_BYTES_MAX, Vfs, survive};

/// More written bytes than this become chunks before they are saved, unless they are scattered: then
/// sealing writes sixteen times as much as the journal does.
const JOURNAL_ROWS_BYTES_MAX: u64 = 1024 * 1024;
/// A journal longer than this is replaced by chunks: bounds what a restart replays. Above
/// [`SCATTERED_BYTES_MAX`], so that what scattered writes leave in memory fits.
const JOURNAL_BYTES_MAX: u64 = 48 * 1024 * 1024;
/// Short pieces share a row up to this: a row costs as much as a page of bytes.
const ROW_BYTES: u64 = 64 * 1024;
/// Rows that are committed together at the most: bounds what a save adds to memory.
const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Up to so many rows are removed by their numbers; of more, those that are there are looked up.
const NUMBERED_DELETES_MAX: u32 = 4096;
const VERSION: u8 = 2;
/// Marks without the time of the change.
const VERSION_UNTIMED: u8 = 1;
const RECORD_BYTES: u8 = 0;
const RECORD_HOLE: u8 = 1;

/// What a mark says.
#[derive(PartialEq, Debug)]
struct Mark {
    ino: Ino,
    size: u64,
    times: Times,
    based_on: Vec<OpId>,
    base: Content,
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.fixed(&self.ino.0);
        writer.u64(self.size);
        writer.u8(u8::from(self.times.mtime_ns.is_some()));
        writer.i64(self.times.mtime_ns.unwrap_or(0));
        writer.u64(self.times.changed_ms);
        writer.op_ids(&self.based_on);
        self.base.encode(&mut writer);
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let timed = match reader.u8("dirty mark")? {
            VERSION => true,
            VERSION_UNTIMED => false,
            found => return Err(DecodeError::Version { field: "dirty mark", found }),
        };
        let ino = reader.ino("ino")?;
        let size = reader.u64("size")?;
        let has_mtime = reader.flag("mtime")?;
        let mtime_ns = Some(reader.i64("mtime")?).filter(|_| has_mtime);
        let changed_ms = if timed { reader.u64("ctime")? } else { 0 };
        let based_on = reader.op_ids(SEEN_MAX, "heads")?;
        let base = Content::decode(&mut reader)?;
        reader.finish()?;
        Ok(Self { ino, size, times: Times { mtime_ns, changed_ms }, based_on, base })
    }
}

/// What rows do not hold yet of a file, taken at one instant: sealed without holding up its writers.
pub struct Unsaved {
    mark: Mark,
    records: Vec<(u64, Piece)>,
    /// Rows of an older base.
    stale: Range<u32>,
    first_row: u32,
    stamp: u64,
    journal_bytes: u64,
}

impl Unsaved {
    /// Takes what is not saved and the numbers of its rows; `None` where all is.
    fn take(ino: Ino, inner: &mut Inner) -> Option<Self> {
        let stamp = inner.map.stamp();
        if !inner.is_dirty() || inner.is_saved() {
            return None;
        }
        let written = inner.map.unsaved().filter(|(_, piece)| !matches!(piece.source, Source::Base));
        let records: Vec<(u64, Piece)> = written.map(|(start, piece)| (start, piece.clone())).collect();
        let mark = Mark {
            ino,
            size: inner.map.size(),
            times: inner.times,
            based_on: inner.based_on.clone(),
            base: (**inner.map.base()).clone(),
        };
        let saved = inner.saved;
        let journal_bytes = saved.journal_bytes + records.iter().map(|(_, piece)| memory(piece)).sum::<u64>();
        let (stale, first_row) = (saved.first_row..saved.base_row, saved.next_row);
        let taken = Self { mark, records, stale, first_row, stamp, journal_bytes };
        // From here on the numbers are taken: a commit that fails may still have left rows.
        let rows = u32::try_from(taken.rows().count()).expect("fewer rows than bytes in memory");
        inner.saved = Saved { has_mark: true, next_row: first_row + rows, ..saved };
        Some(taken)
    }

    /// The rows with their numbers: short pieces share one.
    fn rows(&self) -> impl Iterator<Item = (u32, &[(u64, Piece)])> {
        let mut rest = &self.records[..];
        (self.first_row..).map_while(move |number| {
            let mut bytes = 0;
            let count = rest.iter().take_while(|(_, piece)| {
                let fits = bytes == 0 || bytes + memory(piece) <= ROW_BYTES;
                bytes += memory(piece).max(1);
                fits
            });
            let (row, more) = rest.split_at(count.count());
            rest = more;
            (!row.is_empty()).then_some((number, row))
        })
    }

    /// Notes that the rows were committed.
    pub fn note(&self, inner: &mut Inner) {
        inner.map.mark_saved(self.stamp);
        let saved = &mut inner.saved;
        saved.at = Some((self.stamp, self.mark.times));
        saved.first_row = saved.first_row.max(self.stale.end);
        saved.journal_bytes = self.journal_bytes;
    }
}

/// Written bytes of a piece.
fn memory(piece: &Piece) -> u64 {
    if matches!(piece.source, Source::Mem(_)) { piece.len } else { 0 }
}

/// Whether a file's written bytes should become chunks before its state is saved.
fn wants_chunks(inner: &Inner) -> bool {
    let mem_bytes = inner.map.mem_bytes();
    if inner.is_scattered() {
        return inner.saved.journal_bytes + inner.map.unsaved_bytes() > JOURNAL_BYTES_MAX;
    }
    let long = mem_bytes > JOURNAL_ROWS_BYTES_MAX || inner.saved.journal_bytes > JOURNAL_BYTES_MAX;
    long || (inner.stowed && mem_bytes > 0)
}

const _: () = assert!(SCATTERED_BYTES_MAX < JOURNAL_BYTES_MAX);

impl Vfs {
    /// Turns what was written into chunks; with [`Tail::Leave`] an incomplete last chunk stays.
    ///
    /// The caller holds the file's `io` lock.
    pub(super) fn settle(&self, file: &File, tail: Tail) -> Result<(), Errno> {
        self.settle_until(file, tail, Instant::now() + Duration::from_millis(ABSENT_WAIT_MS))
    }

    /// Like [`Self::settle`]; waits for bytes of other devices until then.
    pub(super) fn settle_until(&self, file: &File, tail: Tail, until: Instant) -> Result<(), Errno> {
        let since = Instant::now();
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
                Err((Error::Absent(_), packs)) if !packs.is_empty() => {
                    self.wait_for(&packs, seen, since..until)?
                }
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
    pub(super) fn settle_now(
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
        inner.saved.rebased();
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
        if wants_chunks(&file.inner()) {
            self.settle(file, Tail::Take)?;
        }
        self.flush_stowed(file)?;
        let taken = Unsaved::take(file.ino, &mut file.inner());
        let Some(taken) = taken else {
            return if durability == Durability::Synced { self.sync_log() } else { Ok(()) };
        };
        let db = self.folder.store().db();
        let mut batch = Batch::default();
        self.stage_mark(&taken, &mut batch);
        for (number, records) in taken.rows() {
            // The mark is first: a crash in between leaves a part of what nobody was promised.
            if batch.len_bytes() >= COMMIT_BYTES_MAX {
                db.commit(std::mem::take(&mut batch), Durability::Unsynced)?;
            }
            self.stage_row(taken.mark.ino, number, records, &mut batch);
        }
        db.commit(batch, durability)?;
        taken.note(&mut file.inner());
        Ok(())
    }

    /// Adds rows that bring the saved state of a dirty file up to now; none when it is.
    ///
    /// [`Unsaved::note`] takes them over after the commit.
    pub(super) fn stage_dirty(&self, ino: Ino, inner: &mut Inner, batch: &mut Batch) -> Option<Unsaved> {
        let taken = Unsaved::take(ino, inner)?;
        self.stage_mark(&taken, batch);
        for (number, records) in taken.rows() {
            self.stage_row(ino, number, records, batch);
        }
        Some(taken)
    }

    fn stage_mark(&self, taken: &Unsaved, batch: &mut Batch) {
        let ino = &taken.mark.ino;
        self.delete_rows(ino, taken.stale.clone(), batch);
        let stored = self.mark_key(ino);
        let sealed = self.folder.local().seal(&stored, &taken.mark.encode());
        batch.put_owned(stored, sealed);
    }

    fn stage_row(&self, ino: Ino, number: u32, records: &[(u64, Piece)], batch: &mut Batch) {
        let mut writer = Writer::new();
        for (start, piece) in records {
            match &piece.source {
                Source::Base => {}
                Source::Hole => {
                    writer.u8(RECORD_HOLE);
                    writer.u64(*start);
                    writer.u64(piece.len);
                }
                Source::Mem(slice) => {
                    writer.u8(RECORD_BYTES);
                    writer.u64(*start);
                    writer.bytes32(slice.bytes());
                }
            }
        }
        let stored = self.row_key(&ino, number);
        let sealed = self.folder.local().seal(&stored, &writer.into_bytes());
        self.journaled_bytes.fetch_add(sealed.len() as u64, Ordering::Relaxed);
        self.unreclaimed_bytes.fetch_add(sealed.len() as u64, Ordering::Relaxed);
        batch.put_owned(stored, sealed);
    }

    /// Adds the removal of a file's saved state.
    pub(super) fn unstage_dirty(&self, ino: &Ino, inner: &Inner, batch: &mut Batch) {
        if inner.saved.has_mark {
            batch.delete(&self.mark_key(ino));
        }
        self.delete_rows(ino, inner.saved.first_row..inner.saved.next_row, batch);
        if inner.survives.is_some() {
            batch.delete(&self.survives_key(ino));
        }
    }

    fn delete_rows(&self, ino: &Ino, rows: Range<u32>, batch: &mut Batch) {
        if rows.len() > NUMBERED_DELETES_MAX as usize {
            batch.delete_prefix(&self.journal_prefix(ino));
        } else {
            rows.for_each(|number| batch.delete(&self.row_key(ino, number)));
        }
    }

    fn row_key(&self, ino: &Ino, number: u32) -> Vec<u8> {
        [&self.journal_prefix(ino)[..], &number.to_be_bytes()].concat()
    }

    /// Adds the marks of dirty files whose base has another id now.
    pub(super) fn stage_based_on(&self, id: &dyn Fn(OpId) -> OpId, batch: &mut Batch) -> Result<(), Error> {
        for (stored, value) in self.stored_marks()? {
            let mut mark = Mark::decode(&self.folder.local().open(&stored, &value)?)?;
            let before = mark.based_on.clone();
            mark.based_on.iter_mut().for_each(|base| *base = id(*base));
            mark.based_on.sort_unstable();
            if mark.based_on != before {
                batch.put(&stored, &self.folder.local().seal(&stored, &mark.encode()));
            }
        }
        Ok(())
    }

    /// The rows of all marks, sealed.
    fn stored_marks(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        let prefix = key(self.folder.no(), Table::DirtyMark, b"");
        let mut sealed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        self.folder.store().db().scan(&prefix, &[], &mut |rest, value| {
            sealed.push(([&prefix[..], rest].concat(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        Ok(sealed)
    }

    /// Removes journals and notes of files that have no mark: a crash left them.
    fn sweep_dirty(&self) -> Result<(), Error> {
        let mut marked: HashSet<Vec<u8>> = HashSet::new();
        let mut left: HashSet<Vec<u8>> = HashSet::new();
        let (no, db) = (self.folder.no(), self.folder.store().db());
        let marks = key(no, Table::DirtyMark, b"");
        db.scan(&marks, &[], &mut |hidden, _| {
            marked.insert(hidden.to_vec());
            ControlFlow::Continue(())
        })?;
        let mut look = |prefix: Vec<u8>| {
            db.scan(&prefix, &[], &mut |rest, _| {
                if let Some(hidden) = rest.get(..16).filter(|hidden| !marked.contains(*hidden)) {
                    left.insert([&prefix[..], hidden].concat());
                }
                ControlFlow::Continue(())
            })
        };
        look(key(no, Table::Dirty, b""))?;
        look(key(no, Table::Misc, b"survives"))?;
        if left.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        left.iter().for_each(|prefix| batch.delete_prefix(prefix));
        db.commit(batch, Durability::Unsynced)
    }

    fn mark_key(&self, ino: &Ino) -> Vec<u8> {
        key(self.folder.no(), Table::DirtyMark, &self.rows.hidden(ino))
    }

    fn journal_prefix(&self, ino: &Ino) -> Vec<u8> {
        key(self.folder.no(), Table::Dirty, &self.rows.hidden(ino))
    }

    /// Brings back the dirty files of the last run.
    pub(super) fn load_dirty(&self) -> Result<(), Error> {
        if let Err(error) = self.sweep_dirty() {
            tracing::warn!(%error, "rows that a crash left stay until the next start");
        }
        for (stored, value) in self.stored_marks()? {
            let mark = Mark::decode(&self.folder.local().open(&stored, &value)?)?;
            let survives = self.survives_row(&mark.ino)?;
            if self.view(|view| view.is_dead(mark.ino))?
                && !self.view(|view| survive::outlives(view, mark.ino, survives))?
            {
                let mut batch = Batch::default();
                batch.delete(&stored);
                batch.delete_prefix(&self.journal_prefix(&mark.ino));
                batch.delete(&self.survives_key(&mark.ino));
                self.folder.store().db().commit(batch, Durability::Unsynced)?;
                continue;
            }
            let ino = mark.ino;
            let file = File::new(ino, mark.base, mark.based_on, Arc::clone(&self.dirty_bytes));
            let (rows, bytes) = self.replay(&ino, &mut file.inner().map)?;
            {
                let mut inner = file.inner();
                inner.map.truncate(mark.size);
                inner.changed(self.moment());
                inner.times = mark.times;
                inner.settled_by_user = true;
                inner.survives = survives;
                let stamp = inner.map.stamp();
                inner.map.mark_saved(stamp);
                let at = Some((stamp, inner.times));
                let (next_row, journal_bytes) = (rows, bytes);
                inner.saved = Saved { at, has_mark: true, next_row, journal_bytes, ..Saved::default() };
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
                replay_row(&plain, map).map_err(Error::from)
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

/// Lays the records of one row over the map.
fn replay_row(row: &[u8], map: &mut FileMap) -> Result<(), DecodeError> {
    let field = "dirty row";
    let mut reader = Reader::new(row);
    while reader.left() > 0 {
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
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_round_trips_and_one_without_the_time_of_the_change_is_read() {
        let times = Times { mtime_ns: Some(-5), changed_ms: 1_700_000_000_123 };
        let (ino, base) = (Ino([7; 16]), Content::Inline(vec![1, 2, 3]));
        let mark = Mark { ino, size: 9, times, based_on: vec![OpId { hlc: 4, log: 2 }], base };
        let bytes = mark.encode();
        assert_eq!(Mark::decode(&bytes).expect("reads").times, times);
        assert_eq!(Mark::decode(&bytes), Ok(mark));
        // The first version: all but the eight bytes behind the version, the inode, the size, and the time with its flag.
        let at = 1 + 16 + 8 + 1 + 8;
        let mut first = [&bytes[..at], &bytes[at + 8..]].concat();
        first[0] = VERSION_UNTIMED;
        let read = Mark::decode(&first).expect("reads");
        assert_eq!((read.times, read.size), (Times { changed_ms: 0, ..times }, 9));
        first[0] = VERSION + 1;
        assert_eq!(
            Mark::decode(&first),
            Err(DecodeError::Version { field: "dirty mark", found: VERSION + 1 })
        );
    }
}
