//! The one database of a store: RocksDB, and the only file that names its types.
//!
//! Column families ([`families`]): rows, the journal of written bytes, and slices of packs. Large packs enter `bulk` as
//! finished files ([`Db::ingest`]), so their bytes are written once and no compaction touches them;
//! nothing is compressed, because everything of size is ciphertext. A disk that refuses writes (full,
//! read-only, failing) is survived in place: see [`Db::commit`]. Called by the rest of [`crate::blind`], and by the layers above for
//! their own tables.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RecursiveRwLock, RecursiveRwLockReadGuard};
use rocksdb::{
    ColumnFamily, DB, Direction, ErrorKind, IngestExternalFileOptions, IteratorMode, ReadOptions,
    SstFileWriter, WriteBatch, WriteOptions,
};

pub use self::families::Settled;
use self::families::{bulk, bulk_options, create_rocksdb, open_rocksdb, open_stored, open_to_read};
use super::batch::{Batch, Change, Durability, Generation};
use super::reserve::Reserve;
use super::tables::{STORE, Table, key};
use super::trouble::Trouble;
use crate::error::{Error, Result};

/// Less than a slice, so that slices go to a file from where they lie, without a stop in a buffer.
const SST_BUFFER_BYTES: u64 = 32 * 1024;
/// Up to so many rows a prefix is deleted row by row; beyond, by a range tombstone, which costs every
/// later read that passes it.
const POINT_DELETES_MAX: usize = 256;

/// What RocksDB says went wrong.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct DbFailure(rocksdb::Error);

impl DbFailure {
    /// Whether bytes on the disk are not what was written.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.0.kind() == ErrorKind::Corruption
    }

    /// Whether a file is not there. RocksDB has no kind of its own for it.
    pub(super) fn is_missing_file(&self) -> bool {
        self.0.as_ref().contains("No such file or directory")
    }
}

impl From<rocksdb::Error> for Error {
    fn from(source: rocksdb::Error) -> Self {
        // RocksDB has no kinds of its own for them: the texts are those of strerror(3).
        let text = source.as_ref();
        if text.contains("No space left on device") || text.contains("uota exceeded") {
            Self::NoSpace
        } else if text.contains("Read-only file system") {
            Self::ReadOnlyDisk
        } else {
            Self::Db(DbFailure(source))
        }
    }
}

/// What has to be on the disk before the first row of this program.
pub(super) type Before = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// Whether the database looks at the checksum of a block before it takes it apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// It does: a block that the disk changed is found.
    Checked,
    /// It does not: whoever reads finds out by itself.
    Ignored,
}

/// The database. All methods may be called from any thread.
pub struct Db {
    path: PathBuf,
    // Recursive: a scan's visitor may read again while a reopening waits.
    open: RecursiveRwLock<Option<DB>>,
    reserve: Reserve,
    /// Gone once it was done.
    before: Mutex<Option<Before>>,
    trouble: Trouble,
    files: AtomicU64,
    /// Commits so far, and how many of the first of them are durable.
    commits: AtomicU64,
    durable: AtomicU64,
    /// Changed only while `open` is held for writing.
    reopened: AtomicU64,
    #[cfg(test)]
    tail: Mutex<tests::Tail>,
    #[cfg(test)]
    visited: AtomicU64,
}

impl Db {
    /// Makes the database in `store_dir`, or opens what an interrupted attempt left there.
    ///
    /// # Errors
    /// When it cannot be made. Nothing that was written is touched.
    pub(super) fn create(store_dir: &Path) -> Result<Self> {
        Self::start(store_dir, None, create_rocksdb)
    }

    /// Opens the database in `store_dir`. Before the first row is written `before` has to succeed: it is
    /// called while the reserve is given up, and where there is no room for it even then, again at each
    /// later trial; until then nothing is written. On a disk without room for anything the database is there to be read.
    ///
    /// # Errors
    /// [`Error::Broken`] where files of it are missing or damaged, which are left as they are, or when it cannot be opened.
    pub(super) fn open(store_dir: &Path, before: Option<Before>) -> Result<Self> {
        Self::start(store_dir, before, open_stored)
    }

    fn start(
        store_dir: &Path,
        before: Option<Before>,
        open: impl FnOnce(&Path) -> Result<DB>,
    ) -> Result<Self> {
        let path = store_dir.join("db");
        let reserve = Reserve::new(store_dir);
        // After a crash on a full disk, opening itself needs the room that the reserve gives.
        reserve.release()?;
        let (opened, is_full) = match open(&path) {
            Err(Error::NoSpace) => (open_to_read(&path).map_err(|_| Error::NoSpace)?, true),
            opened => (opened?, false),
        };
        let db = Self {
            open: RecursiveRwLock::new(Some(opened)),
            path,
            reserve,
            before: Mutex::new(before),
            trouble: Trouble::default(),
            files: AtomicU64::new(0),
            // What was replayed after a crash may be in the page cache only.
            commits: AtomicU64::new(1),
            durable: AtomicU64::new(0),
            reopened: AtomicU64::new(0),
            #[cfg(test)]
            tail: Mutex::default(),
            #[cfg(test)]
            visited: AtomicU64::new(0),
        };
        if is_full {
            db.trouble.begin(&Error::NoSpace);
            return Ok(db);
        }
        db.remove_leftover_files()?;
        let prepared = match db.prepare() {
            Err(error) if !matches!(error, Error::NoSpace) => return Err(error),
            prepared => prepared,
        };
        if prepared.and_then(|()| db.reserve.fill()).is_err() {
            db.trouble.begin(&Error::NoSpace);
        }
        Ok(db)
    }

    /// A row.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let handle = self.handle();
        let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
        Ok(db.get_cf(families::of(db, key), key)?)
    }

    /// Whether a row is there.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn contains(&self, key: &[u8]) -> Result<bool> {
        let handle = self.handle();
        let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
        Ok(db.get_pinned_cf(families::of(db, key), key)?.is_some())
    }

    /// Visits rows whose keys begin with `prefix`, ascending, from `prefix ‖ from` on, until the
    /// visitor breaks. The visitor gets the key after the prefix.
    ///
    /// The rows are those of one instant; changes made meanwhile are not seen. A prefix that names no table
    /// visits all tables but the journal.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let handle = self.handle();
        let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
        #[cfg(test)]
        let visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> = &mut |key, value| {
            self.visited.fetch_add(1, Ordering::Relaxed);
            visit(key, value)
        };
        scan_from(db, families::of(db, prefix), prefix, from, visit)
    }

    /// Makes all changes of `batch`.
    ///
    /// After an error nothing of the batch is visible, everything acknowledged stays readable, and each
    /// further commit first looks whether the disk takes writes again: then the database is closed and
    /// opened beneath its users, because RocksDB keeps refusing writes after the first one that failed.
    /// A refused batch may appear whole at that moment, where only its sync failed: whoever builds on what
    /// was read calls [`Self::heal`] first and says so with [`Batch::made_at`].
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::ReadOnlyDisk`], or [`Error::Db`] when the disk fails.
    pub fn commit(&self, batch: Batch, durability: Durability) -> Result<()> {
        self.heal()?;
        match self.write(&batch, durability) {
            // The disk is not full any more: whoever made it reads again and repeats it.
            Ok(Written::TooOld) => Err(Error::NoSpace),
            written => self.note(written.map(drop)),
        }
    }

    /// How often the database was opened anew; what is cached above belongs to one generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.reopened.load(Ordering::Acquire))
    }

    /// Makes all commits so far durable: the log is one, so syncing it once covers them. Nothing to do
    /// where the last one was synced.
    ///
    /// # Errors
    /// See [`Self::commit`].
    pub fn sync(&self) -> Result<()> {
        if self.durable.load(Ordering::Acquire) >= self.commits.load(Ordering::Acquire) {
            return Ok(());
        }
        // A row, so that there is something to sync and concurrent calls share one.
        let mut batch = Batch::default();
        batch.put(&key(STORE, Table::BlindSetting, b"synced"), &[]);
        self.commit(batch, Durability::Synced)
    }

    /// A slice of a pack. A slice whose block is damaged on the disk counts as not there.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn bulk_get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.bulk_with(key, Checksum::Checked, <[u8]>::to_vec)
    }

    /// Like [`Self::bulk_get`], for who needs only a part of it: `work` sees the slice where it was read.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn bulk_with<R>(
        &self,
        key: &[u8],
        checksum: Checksum,
        work: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        let handle = self.handle();
        let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
        let mut options = ReadOptions::default();
        // Slices are large and rarely read twice: they must not push rows out of the cache.
        options.fill_cache(false);
        options.set_verify_checksums(checksum == Checksum::Checked);
        match db.get_pinned_cf_opt(bulk(db), key, &options) {
            Err(error) if error.kind() == ErrorKind::Corruption => {
                tracing::warn!(%error, "damaged block in bulk data");
                Ok(None)
            }
            other => Ok(other?.map(|slice| work(&slice))),
        }
    }

    /// Visits the slices with `from <= key < to`, ascending, until the visitor breaks; read from the disk at
    /// once as far as `ahead_bytes` beyond the first. A slice whose block is damaged ends the visit.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn bulk_run(
        &self,
        from: &[u8],
        to: &[u8],
        ahead_bytes: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let handle = self.handle();
        let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_iterate_upper_bound(to);
        options.set_readahead_size(ahead_bytes);
        let mut rows = db.raw_iterator_cf_opt(bulk(db), options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            rows.next();
        }
        match rows.status() {
            Err(error) if error.kind() == ErrorKind::Corruption => {
                tracing::warn!(%error, "damaged block in bulk data");
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Stores slices, keys strictly ascending, as one file that is written once and is durable on
    /// return. No rows: nothing is stored.
    ///
    /// # Errors
    /// [`Error::NoSpace`], or [`Error::Db`] when the disk fails; then nothing was stored.
    pub fn ingest(&self, rows: &mut dyn Iterator<Item = (Vec<u8>, &[u8])>) -> Result<()> {
        self.heal()?;
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let file = self.incoming().join(format!("{number}.sst"));
        // A disk that fills up here has not touched the database yet: nothing to reopen.
        let written = write_sst(&file, rows);
        let result = match written {
            Ok(Rows::Some) => {
                let ingested = self.ingest_file(&file);
                self.note(ingested)
            }
            Ok(Rows::None) => Ok(()),
            Err(error) => Err(error),
        };
        if result.is_err() {
            // Moved away on success; where this fails, the next opening removes it.
            let _ = std::fs::remove_file(&file);
        }
        result
    }

    /// Removes slices with `from <= key < to`: whole files at once, the rest by a tombstone. `to` is no
    /// key itself (RocksDB counts it as inside for files, as outside for tombstones).
    ///
    /// # Errors
    /// See [`Self::commit`].
    pub fn bulk_remove(&self, from: &[u8], to: &[u8]) -> Result<()> {
        self.heal()?;
        let removed = {
            let handle = self.handle();
            let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
            db.delete_file_in_range_cf(bulk(db), from, to)
                .and_then(|()| db.delete_range_cf(bulk(db), from, to))
                .map_err(Error::from)
        };
        self.note(removed)
    }

    /// The greatest bulk key below `end`.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn bulk_last_below(&self, end: &[u8]) -> Result<Option<Vec<u8>>> {
        let handle = self.handle();
        let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
        let mut rows = db.iterator_cf(bulk(db), IteratorMode::From(end, Direction::Reverse));
        let found = rows.find(|row| row.as_ref().map_or(true, |(key, _)| **key < *end)).transpose()?;
        Ok(found.map(|(key, _)| key.into_vec()))
    }

    fn handle(&self) -> RecursiveRwLockReadGuard<'_, Option<DB>> {
        self.open.read()
    }

    fn incoming(&self) -> PathBuf {
        self.path.join("incoming")
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<Written> {
        let handle = self.handle();
        let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
        if batch.made_at.is_some_and(|made_at| made_at != self.generation()) {
            return Ok(Written::TooOld);
        }
        #[cfg(test)]
        if self.tail.lock().catch(batch) {
            return Err(Error::NoSpace);
        }
        let mut writes = WriteBatch::with_capacity_bytes(batch.len_bytes() + 32 * batch.changes.len());
        for (at, change) in batch.changes.iter().enumerate() {
            match change {
                Change::Put(key, value) => writes.put_cf(families::of(db, key), key, value),
                Change::Delete(key) => writes.delete_cf(families::of(db, key), key),
                Change::PutBulk(key, value) => writes.put_cf(bulk(db), key, value),
                Change::DeletePrefix(prefix) => {
                    delete_prefix(db, prefix, batch.changes.get(..at).unwrap_or_default(), &mut writes)?;
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        // All that were counted before this one is written are in the log before it.
        let before = self.commits.load(Ordering::Acquire);
        db.write_opt(writes, &options)?;
        if durability == Durability::Synced {
            self.durable.fetch_max(before, Ordering::AcqRel);
        } else {
            self.commits.fetch_add(1, Ordering::AcqRel);
        }
        Ok(Written::Done)
    }

    fn ingest_file(&self, file: &Path) -> Result<()> {
        let handle = self.handle();
        let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        Ok(db.ingest_external_file_cf_opts(bulk(db), &options, vec![file])?)
    }

    /// After the first write that failed RocksDB refuses all others, whatever became of the disk.
    fn note<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.trouble.begin(error);
        }
        result
    }

    /// Where a write failed: opens the database anew if the disk takes writes again.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::ReadOnlyDisk`] or [`Error::Db`] as long as it does not; what was
    /// acknowledged stays readable.
    pub fn heal(&self) -> Result<()> {
        if !self.trouble.is_on() {
            return Ok(());
        }
        let mut open = self.open.write();
        if !self.trouble.is_on() {
            return Ok(());
        }
        self.trouble.may_be_over(&self.reserve)?;
        let reopened = self.reopen(&mut open);
        if let Err(error) = &reopened {
            self.trouble.goes_on(error);
        }
        reopened?;
        self.trouble.end();
        drop(open);
        #[cfg(test)]
        self.bring_back_tail();
        tracing::info!("the disk of the store takes writes again");
        Ok(())
    }

    fn reopen(&self, open: &mut Option<DB>) -> Result<()> {
        self.reserve.release()?;
        *open = None;
        self.reopened.fetch_add(1, Ordering::AcqRel);
        match open_rocksdb(&self.path) {
            Ok(db) => *open = Some(db),
            Err(error) => {
                // Readers go on with what is there; the next write tries again.
                *open = open_to_read(&self.path).ok();
                return Err(error);
            }
        }
        self.prepare()?;
        self.reserve.fill()
    }

    /// Does what comes before the first row, while the reserve is given up.
    fn prepare(&self) -> Result<()> {
        let mut before = self.before.lock();
        if let Some(act) = before.as_ref() {
            act()?;
        }
        *before = None;
        Ok(())
    }

    fn remove_leftover_files(&self) -> Result<()> {
        let incoming = self.incoming();
        let io = |source| Error::Io { path: incoming.clone(), source };
        std::fs::create_dir_all(&incoming).map_err(io)?;
        for file in std::fs::read_dir(&incoming).map_err(io)? {
            std::fs::remove_file(file.map_err(io)?.path()).map_err(io)?;
        }
        Ok(())
    }
}

/// What became of a batch.
#[derive(Debug)]
enum Written {
    Done,
    /// It follows from what was read before the database was opened anew.
    TooOld,
}

enum Rows {
    None,
    Some,
}

fn scan_from(
    db: &DB,
    family: &ColumnFamily,
    prefix: &[u8],
    from: &[u8],
    visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> Result<()> {
    let mut options = ReadOptions::default();
    if let Some(end) = successor(prefix) {
        options.set_iterate_upper_bound(end);
    }
    let mut rows = db.raw_iterator_cf_opt(family, options);
    rows.seek([prefix, from].concat());
    while let Some((key, value)) = rows.item() {
        let Some(rest) = key.strip_prefix(prefix) else { break };
        if visit(rest, value).is_break() {
            break;
        }
        rows.next();
    }
    Ok(rows.status()?)
}

fn delete_prefix(db: &DB, prefix: &[u8], earlier: &[Change], writes: &mut WriteBatch) -> Result<()> {
    for family in families::all_of(db, prefix) {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        scan_from(db, family, prefix, &[], &mut |rest, _| {
            keys.push([prefix, rest].concat());
            if keys.len() > POINT_DELETES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        match successor(prefix) {
            Some(end) if keys.len() > POINT_DELETES_MAX => writes.delete_range_cf(family, prefix, &end),
            _ => keys.iter().for_each(|key| writes.delete_cf(family, key)),
        }
    }
    for change in earlier {
        if let Change::Put(key, _) = change
            && key.starts_with(prefix)
        {
            writes.delete_cf(families::of(db, key), key);
        }
    }
    Ok(())
}

/// The least key that is greater than all keys with this prefix; none where the prefix is all 0xff.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

fn write_sst(file: &Path, rows: &mut dyn Iterator<Item = (Vec<u8>, &[u8])>) -> Result<Rows> {
    let mut options = bulk_options(None);
    options.set_writable_file_max_buffer_size(SST_BUFFER_BYTES);
    let mut writer = SstFileWriter::create(&options);
    let mut some = Rows::None;
    for (key, value) in rows {
        if matches!(some, Rows::None) {
            writer.open(file)?;
            some = Rows::Some;
        }
        writer.put(key, value)?;
    }
    if matches!(some, Rows::Some) {
        writer.finish()?;
    }
    Ok(some)
}

mod families;
mod room;
#[cfg(test)]
mod tests;
