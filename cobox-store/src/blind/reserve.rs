//! Room kept back on the disk, so that a full disk never keeps the database from opening.
//!
//! A file of preallocated bytes beside the database. It is given up while RocksDB opens (replaying its
//! log needs room) and taken again afterwards. Used by [`super::db`] only.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::error::{Error, Result, is_full};

/// As much as replaying a full set of memtables needs.
const RESERVE_BYTES_MAX: u64 = 64 << 20;
/// On a small disk: a sixteenth of it.
const RESERVE_DISK_PARTS: u64 = 16;

/// Written to see whether a disk that failed takes writes again: a write of RocksDB's at the least.
const TRIAL_BYTES: usize = 64 << 10;

/// The reserve of one store.
pub(super) struct Reserve {
    path: PathBuf,
}

/// Bytes of a disk: all, and those this process may take.
pub(super) fn space(dir: &Path) -> Result<(u64, u64)> {
    let stat = statvfs(dir).map_err(|errno| Error::Io { path: dir.to_owned(), source: errno.into() })?;
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}

impl Reserve {
    pub(super) fn new(store_dir: &Path) -> Self {
        Self { path: store_dir.join("reserve") }
    }

    /// Gives the room back to the disk.
    pub(super) fn release(&self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(Error::Io { path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// Takes the room again.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when it is not there.
    pub(super) fn fill(&self) -> Result<()> {
        let (wanted_bytes, _) = self.wanted_and_free()?;
        match allocate(&self.path, wanted_bytes) {
            Err(source) if is_full(source.kind()) => {
                self.release()?;
                Err(Error::NoSpace)
            }
            // Not every file system preallocates; there the store works without a reserve.
            Err(source) if source.kind() == ErrorKind::Unsupported => Ok(()),
            Err(source) => Err(Error::Io { path: self.path.clone(), source }),
            Ok(()) => Ok(()),
        }
    }

    /// Whether the disk has room for the reserve and a quarter more.
    pub(super) fn has_room(&self) -> Result<bool> {
        let (wanted_bytes, free_bytes) = self.wanted_and_free()?;
        let held_bytes = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        Ok(free_bytes + held_bytes >= wanted_bytes + wanted_bytes / 4)
    }

    /// Takes that room from the disk, and gives it back.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`]: the disk does not give it.
    pub(super) fn try_room(&self) -> Result<()> {
        let (wanted_bytes, _) = self.wanted_and_free()?;
        let held_bytes = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        let more_bytes = (wanted_bytes + wanted_bytes / 4).saturating_sub(held_bytes);
        let path = self.trial_path();
        let taken = match allocate(&path, more_bytes) {
            Err(source) if source.kind() == ErrorKind::Unsupported => Ok(()),
            taken => taken,
        };
        self.end_trial(taken)
    }

    /// Writes something to the disk and takes it away.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::ReadOnlyDisk`], [`Error::Io`]: the disk does not take it.
    pub(super) fn try_disk(&self) -> Result<()> {
        let written = File::create(self.trial_path()).and_then(|mut file| {
            file.write_all(&[0x5a; TRIAL_BYTES])?;
            file.sync_all()
        });
        self.end_trial(written)
    }

    fn trial_path(&self) -> PathBuf {
        self.path.with_file_name("trial")
    }

    fn end_trial(&self, tried: std::io::Result<()>) -> Result<()> {
        let path = self.trial_path();
        let removed = match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(source),
            _ => Ok(()),
        };
        tried.and(removed).map_err(|source| match source.kind() {
            kind if is_full(kind) => Error::NoSpace,
            ErrorKind::ReadOnlyFilesystem => Error::ReadOnlyDisk,
            _ => Error::Io { path, source },
        })
    }

    fn wanted_and_free(&self) -> Result<(u64, u64)> {
        let (total_bytes, free_bytes) = space(self.path.parent().unwrap_or(&self.path))?;
        Ok((RESERVE_BYTES_MAX.min(total_bytes / RESERVE_DISK_PARTS), free_bytes))
    }
}

fn allocate(path: &Path, bytes: u64) -> std::io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let file: File = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
}
