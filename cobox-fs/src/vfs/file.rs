//! A file that is open or dirty, and the handles through which programs reach it.
//!
//! Two locks belong to a file: `inner` is held for memory work only; `io` is held while its bytes are
//! sealed, saved or published, and never taken while `inner` is held.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cobox_store::format::content::Content;
use cobox_store::id::{Ino, OpId};
use parking_lot::{Mutex, MutexGuard};

use super::ahead::Reading;
use super::filemap::FileMap;
use super::rechunk::Alignment;
use super::sequencer::Moment;
use super::stream::Stream;
use super::{Errno, OpenFlags, SCATTERED_BYTES_MAX, STREAM_BYTES};

/// Overwrites out of order after which a file is cut into fixed blocks: a few may be an editor's.
const RANDOM_WRITES: u32 = 4;
/// Smaller files are cut by content in any case: re-cutting them costs next to nothing.
const FIXED_BYTES_MIN: u64 = 1024 * 1024;
/// Block of a file with random overwrites: a database's page is at most this large.
const BLOCK_BYTES: u64 = 16 * 1024;
/// Block of such a file above [`LARGE_BYTES`]: keeps the extent tree of a disk image small.
const BLOCK_BYTES_LARGE: u64 = 64 * 1024;
/// See [`BLOCK_BYTES_LARGE`].
const LARGE_BYTES: u64 = 1024 * 1024 * 1024;

/// An open or dirty file.
pub struct File {
    /// Which inode.
    pub ino: Ino,
    /// Serialises sealing, saving and publishing of this file.
    pub io: Mutex<()>,
    /// How it is being read.
    pub reading: Mutex<Reading>,
    inner: Mutex<Inner>,
    dirty_bytes: Arc<AtomicU64>,
}

/// A file's state in memory.
pub struct Inner {
    /// Its bytes.
    pub map: FileMap,
    /// The heads that its base content shows.
    pub based_on: Vec<OpId>,
    /// Open handles.
    pub opens: u32,
    /// Open handles that may write.
    pub writers: u32,
    /// When it was changed last, while it is dirty.
    pub times: Times,
    /// Since when it differs from what the log says.
    pub dirty_since: Option<Instant>,
    /// Whether its state was asked to be durable, or it was closed, since the last cut.
    pub settled_by_user: bool,
    /// What durable rows hold.
    pub saved: Saved,
    /// The unlink of another device that its content outlives; any newer one is not in it.
    pub survives: Option<OpId>,
    /// Whether its base has chunks that no stored pack holds yet.
    pub stowed: bool,
    /// Whether it was published while open for writing, last time around.
    pub busy: bool,
    /// Who seals it while it is written.
    pub stream: Stream,
    last_write_end: u64,
    random_writes: u32,
}

/// When a dirty file was changed last.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Times {
    /// What `stat` shows as the time of its content; `None` where nobody set one.
    pub mtime_ns: Option<i64>,
    /// [`Moment::changed_ms`] of the last change, also of the time alone; zero where it is not known.
    pub changed_ms: u64,
}

/// What durable rows hold of a dirty file.
///
/// Rows are numbered upwards as long as the file is dirty; `first_row..next_row` may be in the store.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Saved {
    /// Stamp and times that the mark shows; `None` where it shows no state that counts.
    pub at: Option<(u64, Times)>,
    /// Whether a mark may be in the store.
    pub has_mark: bool,
    /// Number of the oldest journal row that may be in the store.
    pub first_row: u32,
    /// Number of the first row that belongs to the base; those before must go with the next mark.
    pub base_row: u32,
    /// Number of the next journal row.
    pub next_row: u32,
    /// Bytes in the rows that belong to the base.
    pub journal_bytes: u64,
}

impl Saved {
    /// Notes that the rows so far belong to an older base.
    pub fn rebased(&mut self) {
        *self = Self { at: None, base_row: self.next_row, journal_bytes: 0, ..*self };
    }
}

/// Access to the state that keeps the count of dirty bytes right.
pub struct InnerGuard<'a> {
    guard: MutexGuard<'a, Inner>,
    before: u64,
    dirty_bytes: &'a AtomicU64,
}

impl std::ops::Deref for InnerGuard<'_> {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.guard
    }
}

impl std::ops::DerefMut for InnerGuard<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.guard
    }
}

impl Drop for InnerGuard<'_> {
    fn drop(&mut self) {
        let after = self.guard.map.mem_bytes();
        if after >= self.before {
            self.dirty_bytes.fetch_add(after - self.before, Ordering::Relaxed);
        } else {
            self.dirty_bytes.fetch_sub(self.before - after, Ordering::Relaxed);
        }
    }
}

impl File {
    /// A file as the tree has it.
    #[must_use]
    pub fn new(ino: Ino, base: Content, based_on: Vec<OpId>, dirty_bytes: Arc<AtomicU64>) -> Self {
        let inner = Inner {
            map: FileMap::new(Arc::new(base)),
            based_on,
            opens: 0,
            writers: 0,
            times: Times::default(),
            dirty_since: None,
            settled_by_user: false,
            saved: Saved::default(),
            survives: None,
            stowed: false,
            busy: false,
            stream: Stream::Idle,
            last_write_end: 0,
            random_writes: 0,
        };
        Self { ino, io: Mutex::new(()), reading: Mutex::default(), inner: Mutex::new(inner), dirty_bytes }
    }

    /// Its state.
    pub fn inner(&self) -> InnerGuard<'_> {
        let guard = self.inner.lock();
        InnerGuard { before: guard.map.mem_bytes(), guard, dirty_bytes: &self.dirty_bytes }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.dirty_bytes.fetch_sub(self.inner.get_mut().map.mem_bytes(), Ordering::Relaxed);
    }
}

impl Inner {
    /// Whether it differs from what the log says.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty_since.is_some()
    }

    /// Whether durable rows hold its state as it is.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        self.saved.at == Some((self.map.stamp(), self.times))
    }

    /// Notes a change.
    pub fn changed(&mut self, at: Moment) {
        self.times = Times { mtime_ns: Some(at.mtime_ns), changed_ms: at.changed_ms };
        self.settled_by_user = false;
        self.dirty_since.get_or_insert_with(Instant::now);
    }

    /// Writes; `offset` is where.
    pub fn write(&mut self, offset: u64, data: &[u8], now: Moment) {
        if offset < self.map.size() && offset != self.last_write_end {
            self.random_writes = self.random_writes.saturating_add(1);
        }
        self.last_write_end = offset + data.len() as u64;
        self.map.write(offset, data);
        self.changed(now);
    }

    /// Whether random overwrites wait in memory: sealing them together writes a chunk once where many
    /// of them fall into it.
    #[must_use]
    pub fn is_scattered(&self) -> bool {
        self.alignment() != Alignment::ByContent && self.map.is_scattered()
    }

    /// With this much in memory it is sealed while it is written.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        if self.map.mem_bytes() >= STREAM_BYTES && self.is_scattered() {
            SCATTERED_BYTES_MAX
        } else {
            STREAM_BYTES
        }
    }

    /// How its chunks are cut.
    #[must_use]
    pub fn alignment(&self) -> Alignment {
        if self.random_writes < RANDOM_WRITES || self.map.size() < FIXED_BYTES_MIN {
            return Alignment::ByContent;
        }
        Alignment::Fixed(if self.map.size() > LARGE_BYTES { BLOCK_BYTES_LARGE } else { BLOCK_BYTES })
    }

    /// Takes over what the log says; only for a file that is not dirty.
    pub fn reload(&mut self, base: Content, based_on: Vec<OpId>) {
        self.map = FileMap::new(Arc::new(base));
        self.based_on = based_on;
    }

    /// Notes that the log could not be told, and that what rows hold is not sure: all of it is saved anew.
    pub fn not_published(&mut self, based_on: Vec<OpId>) {
        self.based_on = based_on;
        self.saved.rebased();
        self.stowed = true;
        self.map.mark_unsaved();
    }

    /// Notes that the log says what the file is.
    pub fn published(&mut self) {
        self.times = Times::default();
        self.dirty_since = None;
        self.saved = Saved::default();
    }
}

/// What a handle refers to.
#[derive(Clone)]
pub enum Handle {
    /// A file of the tree.
    File {
        /// Which.
        file: Arc<File>,
        /// What the program may do.
        flags: OpenFlags,
    },
    /// Text that was made when it was opened.
    Text(Arc<Vec<u8>>),
    /// A directory that is being listed, and since when ([`super::told::Told::open_listing`]).
    Dir(super::numbers::NodeRef, u64),
}

/// Open handles.
#[derive(Default)]
pub struct Handles {
    open: Mutex<HashMap<u64, Handle>>,
    last: AtomicU64,
}

impl Handles {
    /// Adds a handle.
    pub fn add(&self, handle: Handle) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(number, handle);
        number
    }

    /// A handle.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, number: u64) -> Result<Handle, Errno> {
        self.open.lock().get(&number).cloned().ok_or(Errno::EBADF)
    }

    /// A handle of a file of the tree.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn file(&self, number: u64) -> Result<(Arc<File>, OpenFlags), Errno> {
        match self.get(number)? {
            Handle::File { file, flags } => Ok((file, flags)),
            Handle::Text(_) | Handle::Dir(..) => Err(Errno::EBADF),
        }
    }

    /// Removes a handle.
    pub fn remove(&self, number: u64) -> Option<Handle> {
        self.open.lock().remove(&number)
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.lock().len()
    }
}
