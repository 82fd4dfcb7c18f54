//! Calls on open files: open, read, write, close, fsync and what changes ranges.

use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cobox_store::Error;
use cobox_store::blind::Durability;
use cobox_store::format::content::ChunkRef;
use cobox_store::format::op::Kind;
use cobox_store::id::{Ino, PackId};
use cobox_store::keyed::Reader;
use parking_lot::Mutex;

use super::attr::{Creator, Fallocate, FsyncKind, OpenFlags, Whence};
use super::content::ChunkIo;
use super::file::{File, Handle};
use super::filemap::Source;
use super::numbers::NodeRef;
use super::rechunk::{self, Place, Span};
use super::survive::is_gone;
use super::{ABSENT_WAIT_MS, Attr, DIRTY_BYTES_MAX, Errno, ReadOutcome, Vfs};
use crate::tree::ops;

/// Largest file: what a signed 64-bit offset reaches.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// How often a waiting reader repeats its wish.
const WISH_MS: u64 = 1000;

impl Vfs {
    /// Chunks come from and go to the folder.
    pub(super) fn with_io<R>(&self, work: impl FnOnce(ChunkIo<'_>) -> R) -> R {
        let chunker = self.folder.chunker();
        work(ChunkIo {
            read: &|chunk_type, chunk| self.folder.read_chunk(chunk_type, chunk),
            seal: &|chunk_type, plain| self.folder.seal(chunk_type, plain),
            stow: &|sealed| self.folder.stow(sealed),
            next_cut: &|data, end| chunker.next_cut(data, end),
        })
    }

    /// The state of a file that is open or dirty.
    pub(super) fn known_file(&self, ino: &Ino) -> Option<Arc<File>> {
        self.files.lock().get(ino).cloned()
    }

    /// The state of a file, with `work` done before anyone can drop it again.
    pub(super) fn with_file<R>(&self, ino: Ino, work: impl Fn(&File) -> R) -> Result<(Arc<File>, R), Errno> {
        loop {
            {
                let files = self.files.lock();
                if let Some(file) = files.get(&ino) {
                    return Ok((Arc::clone(file), work(file)));
                }
            }
            // Read under the sequencer, so that no entry changes the file before it is known here.
            let _sequencer = self.sequencer.lock();
            let node = self.view(|view| view.node(ino))?.ok_or(Errno::ENOENT)?;
            if node.kind != Kind::File {
                return Err(if node.kind == Kind::Dir { Errno::EISDIR } else { Errno::EINVAL });
            }
            let heads = node.shown_heads();
            let based_on = heads.first().map(|head| head.id).into_iter().collect();
            let file =
                Arc::new(File::new(ino, node.shown_content(), based_on, Arc::clone(&self.dirty_bytes)));
            let mut files = self.files.lock();
            if let Entry::Vacant(place) = files.entry(ino) {
                let result = work(&file);
                place.insert(Arc::clone(&file));
                return Ok((file, result));
            }
        }
    }

    /// Forgets a file that nobody has open and that the log knows.
    pub(super) fn drop_if_idle(&self, ino: &Ino) {
        let mut files = self.files.lock();
        let idle = files.get(ino).is_some_and(|file| {
            let inner = file.inner();
            inner.opens == 0 && !inner.is_dirty()
        });
        if idle {
            files.remove(ino);
        }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// `EISDIR`, `EROFS`, `ESTALE`.
    pub fn open_file(&self, ino: u64, flags: OpenFlags) -> Result<u64, Errno> {
        if flags.write && self.is_read_only() {
            return Err(Errno::EROFS);
        }
        match self.numbers.get(ino)? {
            NodeRef::MagicReport(_) if flags.write => Err(Errno::EACCES),
            NodeRef::MagicReport(report) => {
                Ok(self.handles.add(Handle::Text(Arc::new(self.report_text(report).into_bytes()))))
            }
            NodeRef::MagicDir => Err(Errno::EISDIR),
            NodeRef::Tree(ino) => self.open_inode(ino, flags),
            NodeRef::Conflict(conflict) => {
                if flags.write || flags.truncate {
                    let ino = self.fork(&conflict)?;
                    return self.open_inode(ino, flags);
                }
                let head =
                    self.view(|view| view.head(conflict.shown.ino, conflict.head))?.ok_or(Errno::ENOENT)?;
                let counter = Arc::clone(&self.dirty_bytes);
                let file = Arc::new(File::new(conflict.fork, head.content, vec![head.id], counter));
                Ok(self.handles.add(Handle::File { file, flags }))
            }
        }
    }

    fn open_inode(&self, ino: Ino, flags: OpenFlags) -> Result<u64, Errno> {
        let (file, ()) = self.with_file(ino, |file| {
            let mut inner = file.inner();
            inner.opens += 1;
            inner.writers += u32::from(flags.write);
        })?;
        if flags.truncate && flags.write {
            let mut inner = file.inner();
            if inner.map.size() > 0 {
                inner.map.truncate(0);
                inner.changed(self.moment());
            }
        }
        Ok(self.handles.add(Handle::File { file, flags }))
    }

    /// Makes a file and opens it.
    ///
    /// # Errors
    /// What `open(2)` with `O_CREAT` says.
    pub fn create(
        &self,
        parent: u64,
        name: &[u8],
        by: Creator,
        flags: OpenFlags,
    ) -> Result<(Attr, u64), Errno> {
        let attr = match self.mknod(parent, name, Kind::File, by, 0) {
            Err(Errno::EEXIST) if !flags.exclusive => self.lookup(parent, name)?,
            other => other?,
        };
        match self.open_file(attr.ino, flags) {
            Ok(fh) => Ok((attr, fh)),
            Err(error) => {
                self.forget(attr.ino, 1);
                Err(error)
            }
        }
    }

    /// Reads; waits for absent bytes up to [`ABSENT_WAIT_MS`].
    ///
    /// # Errors
    /// `EBADF`, `EIO`.
    pub fn read(&self, fh: u64, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        self.read_wait(fh, offset, len, Duration::from_millis(ABSENT_WAIT_MS))
    }

    /// Reads without ever waiting for other devices.
    ///
    /// # Errors
    /// `EBADF`, `EIO`.
    pub fn read_now(&self, fh: u64, offset: u64, len: u32) -> Result<ReadOutcome, Errno> {
        let range = offset..offset.saturating_add(u64::from(len));
        let file = match self.handles.get(fh)? {
            Handle::Text(text) => {
                let from = usize::try_from(range.start).unwrap_or(usize::MAX).min(text.len());
                let to = usize::try_from(range.end).unwrap_or(usize::MAX).min(text.len());
                return Ok(ReadOutcome::Ready(text.get(from..to).unwrap_or(&[]).to_vec()));
            }
            Handle::Dir(..) => return Err(Errno::EISDIR),
            Handle::File { file, flags } if flags.read => file,
            Handle::File { .. } => return Err(Errno::EBADF),
        };
        let (pieces, base) = {
            let inner = file.inner();
            (inner.map.pieces_in(&range), Arc::clone(inner.map.base()))
        };
        let absent: Mutex<Vec<ChunkRef>> = Mutex::default();
        let mut damaged: Vec<PackId> = Vec::new();
        let note_absent = |chunk: ChunkRef, error: &Error| {
            if matches!(error, Error::Absent(_)) {
                absent.lock().push(chunk);
            }
        };
        let read = |chunk_type, chunk| {
            self.folder.read_chunk(chunk_type, chunk).inspect_err(|error| note_absent(chunk, error))
        };
        let read_part = |chunk, part: Range<usize>, bytes: &mut Vec<u8>| {
            let read = self.folder.read_part(chunk, &part).inspect_err(|error| note_absent(chunk, error));
            bytes.extend_from_slice(&read?.ok_or_else(rechunk::short)?);
            Ok(())
        };
        let bytes = self.with_io(|io| -> Result<Vec<u8>, Error> {
            let io = ChunkIo { read: &read, ..io };
            let mut spans = Vec::new();
            for (start, len, source) in pieces {
                match source {
                    Source::Mem(slice) => spans.push(Span { start, len, place: Place::Mem(slice) }),
                    Source::Hole => spans.push(Span { start, len, place: Place::Hole }),
                    Source::Base => rechunk::resolve_base(io, &base, &(start..start + len), &mut spans)?,
                }
            }
            self.ahead.ask_beyond_first(&spans);
            let reader = self.read_on(&file, &base, &range, &spans);
            let append = |span: &Span, bytes: &mut Vec<u8>| match reader {
                Reader::InOrder => rechunk::append(io, span, bytes),
                Reader::Scattered => rechunk::append_by(span, bytes, read_part),
            };
            self.gather(&spans, reader, append, &mut damaged)
        });
        match bytes {
            Ok(bytes) => Ok(ReadOutcome::Ready(bytes)),
            Err(Error::Absent(_) | Error::PackDamaged(_)) => {
                let mut packs = damaged;
                for chunk in absent.into_inner() {
                    packs.extend(self.folder.pack_of(chunk)?);
                }
                packs.sort_unstable();
                packs.dedup();
                if packs.is_empty() { Err(Errno::EIO) } else { Ok(ReadOutcome::Waiting(packs)) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads; waits for absent bytes up to `deadline`.
    ///
    /// # Errors
    /// `EBADF`; `EIO` after the deadline.
    pub fn read_wait(&self, fh: u64, offset: u64, len: u32, deadline: Duration) -> Result<Vec<u8>, Errno> {
        let since = Instant::now();
        let until = since + deadline;
        loop {
            let seen = self.folder.store().watch().seen();
            match self.read_now(fh, offset, len)? {
                ReadOutcome::Ready(bytes) => return Ok(bytes),
                ReadOutcome::Waiting(packs) => self.wait_for(&packs, seen, since..until)?,
            }
        }
    }

    /// Asks for packs and waits until the store changes; `EIO` once the time is over, or as soon as no peer
    /// may still answer.
    pub(super) fn wait_for(&self, packs: &[PackId], seen: u64, time: Range<Instant>) -> Result<(), Errno> {
        let left = time.end.saturating_duration_since(Instant::now());
        let store = self.folder.store();
        let in_vain = packs.iter().any(|pack| store.is_given_up(self.folder.no(), *pack, time.start));
        if left.is_zero() || in_vain {
            return Err(Errno::EIO);
        }
        for pack in packs {
            store.want(self.folder.no(), *pack);
        }
        let _ = store.watch().wait(seen, left.min(Duration::from_millis(WISH_MS)));
        Ok(())
    }

    /// Writes; returns how many bytes, which is all of them.
    ///
    /// # Errors
    /// `EBADF`, `EFBIG`, `ENOSPC`.
    pub fn write(&self, fh: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let (file, flags) = self.handles.file(fh)?;
        if !flags.write {
            return Err(Errno::EBADF);
        }
        if self.is_read_only() {
            return Err(Errno::EROFS);
        }
        let written = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
        self.room(u64::from(written))?;
        let in_memory = {
            let _frozen = self.freeze.read();
            let mut inner = file.inner();
            let at = if flags.append { inner.map.size() } else { offset };
            if at.checked_add(u64::from(written)).is_none_or(|end| end > FILE_BYTES_MAX) {
                return Err(Errno::EFBIG);
            }
            inner.write(at, data, self.moment());
            let in_memory = inner.map.mem_bytes();
            if in_memory >= inner.stream_bytes() { in_memory } else { 0 }
        };
        if in_memory > 0 {
            self.stream(&file, in_memory)?;
        }
        if self.dirty_bytes.load(Ordering::Relaxed) > DIRTY_BYTES_MAX {
            self.relieve()?;
        }
        Ok(written)
    }

    /// `close(2)` of one descriptor: what was written survives the death of this process.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`; the bytes stay in memory and are tried again.
    pub fn flush(&self, fh: u64) -> Result<(), Errno> {
        match self.handles.get(fh)? {
            Handle::File { file, flags } if flags.write => self.keep(&file, Durability::Unsynced),
            _ => Ok(()),
        }
    }

    fn keep(&self, file: &File, durability: Durability) -> Result<(), Errno> {
        if !file.inner().is_dirty() {
            return if durability == Durability::Synced { self.sync_log() } else { Ok(()) };
        }
        if durability == Durability::Unsynced {
            let mut inner = file.inner();
            if inner.is_saved() {
                inner.settled_by_user = true;
                return Ok(());
            }
        }
        // What has no name any more needs no rows.
        if self.view(|view| is_gone(view, file))? {
            return Ok(());
        }
        let _io = file.io.lock();
        self.save(file, durability)?;
        file.inner().settled_by_user = true;
        Ok(())
    }

    /// The last descriptor is closed.
    ///
    /// # Errors
    /// `EBADF`, `EIO`.
    pub fn release(&self, fh: u64) -> Result<(), Errno> {
        let Some(Handle::File { file, flags }) = self.handles.remove(fh) else { return Ok(()) };
        if self.known_file(&file.ino).is_none_or(|known| !Arc::ptr_eq(&known, &file)) {
            return Ok(());
        }
        let saved = if flags.write { self.keep(&file, Durability::Unsynced) } else { Ok(()) };
        let last = {
            let mut inner = file.inner();
            inner.opens = inner.opens.saturating_sub(1);
            inner.writers = inner.writers.saturating_sub(u32::from(flags.write));
            inner.opens == 0
        };
        if last {
            if file.inner().is_dirty() && self.view(|view| is_gone(view, &file))? {
                self.discard(&file)?;
            }
            self.drop_if_idle(&file.ino);
            self.wake.note_close();
        }
        saved
    }

    /// Forgets what was written to a file without a name.
    pub(super) fn discard(&self, file: &File) -> Result<(), Errno> {
        let _io = file.io.lock();
        let mut batch = cobox_store::blind::Batch::default();
        {
            let mut inner = file.inner();
            self.unstage_dirty(&file.ino, &inner, &mut batch);
            inner.published();
            inner.map.truncate(0);
        }
        if !batch.is_empty() {
            self.folder.store().db().commit(batch, Durability::Unsynced)?;
        }
        Ok(())
    }

    /// Makes a file durable on this device.
    ///
    /// # Errors
    /// `EBADF`, `ENOSPC`, `EIO`.
    pub fn fsync(&self, fh: u64, _kind: FsyncKind) -> Result<(), Errno> {
        match self.handles.get(fh)? {
            Handle::File { file, .. } => self.keep(&file, Durability::Synced),
            Handle::Text(_) | Handle::Dir(..) => self.sync_log(),
        }
    }

    /// `fallocate(2)`.
    ///
    /// # Errors
    /// `EBADF`, `EFBIG`, `EINVAL`, `ENOSPC`.
    pub fn fallocate(&self, fh: u64, mode: Fallocate, offset: u64, len: u64) -> Result<(), Errno> {
        let (file, flags) = self.handles.file(fh)?;
        if !flags.write {
            return Err(Errno::EBADF);
        }
        let end = offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Errno::EFBIG)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        // Reserving makes no promise that snapshots and seeders could keep; room is checked once.
        let reserves = matches!(mode, Fallocate::Extend | Fallocate::KeepSize);
        self.room(if reserves { len } else { 0 })?;
        let _frozen = self.freeze.read();
        let mut inner = file.inner();
        let before = (inner.map.stamp(), inner.map.size());
        match mode {
            Fallocate::Extend if end > before.1 => inner.map.truncate(end),
            Fallocate::Extend | Fallocate::KeepSize => {}
            Fallocate::PunchHole | Fallocate::ZeroRangeKeepSize => inner.map.punch(offset..end),
            Fallocate::ZeroRange => {
                if end > before.1 {
                    inner.map.truncate(end);
                }
                inner.map.punch(offset..end);
            }
        }
        if inner.map.stamp() != before.0 {
            inner.changed(self.moment());
        }
        Ok(())
    }

    /// `SEEK_DATA` and `SEEK_HOLE`.
    ///
    /// # Errors
    /// `ENXIO` at or behind the end; `EBADF`, `EIO`.
    pub fn lseek(&self, fh: u64, offset: u64, whence: Whence) -> Result<u64, Errno> {
        const STEP_BYTES: u64 = 64 * 1024 * 1024;
        let file = match self.handles.get(fh)? {
            Handle::File { file, .. } => file,
            Handle::Text(text) => {
                return if offset < text.len() as u64 { Ok(offset) } else { Err(Errno::ENXIO) };
            }
            Handle::Dir(..) => return Err(Errno::EINVAL),
        };
        let map = file.inner().map.clone();
        if offset >= map.size() {
            return Err(Errno::ENXIO);
        }
        let mut at = offset;
        while at < map.size() {
            let window = at..at.saturating_add(STEP_BYTES).min(map.size());
            for span in self.with_io(|io| rechunk::resolve(io, &map, &window))? {
                let is_hole = matches!(span.place, Place::Hole);
                if is_hole == (whence == Whence::Hole) {
                    return Ok(span.start.max(offset));
                }
            }
            at = window.end;
        }
        if whence == Whence::Hole { Ok(map.size()) } else { Err(Errno::ENXIO) }
    }

    /// `copy_file_range(2)`: left to the kernel, which reads and writes; equal bytes are stored once.
    ///
    /// # Errors
    /// Always `EOPNOTSUPP`, which makes the kernel do it.
    pub fn copy_file_range(
        &self,
        _from: u64,
        _at: u64,
        _to: u64,
        _to_at: u64,
        _len: u64,
    ) -> Result<u64, Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// A conflict entry becomes a file of its own under the name it shows.
    pub(super) fn fork(&self, conflict: &super::numbers::ConflictRef) -> Result<Ino, Errno> {
        if self.view(|view| view.node(conflict.fork))?.is_some() {
            self.numbers.became_file(conflict);
            return Ok(conflict.fork);
        }
        let ino = self.change(&[], |view| ops::fork(view, &conflict.shown, conflict.parent))?;
        self.numbers.became_file(conflict);
        Ok(ino)
    }
}
