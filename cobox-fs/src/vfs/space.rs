//! Room on the disk under the store: refuses early what could not be kept later.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cobox_store::blind::Durability;
use cobox_store::format::NAME_BYTES_MAX;

use super::attr::StatFs;
use super::{Errno, Vfs};

/// Kept free beyond what is written and not stored yet: room for RocksDB to flush and compact what has
/// been acknowledged, and for ops that free space.
const RESERVE_BYTES: u64 = 48 * 1024 * 1024;
/// How long a measurement of the disk counts: what is written meanwhile is counted as dirty.
const MEASURED_FOR: Duration = Duration::from_millis(50);
const BLOCK_BYTES: u64 = 4096;
/// A number of nodes that no disk reaches: there is no table of them to fill.
const NODES: u64 = 1 << 40;

/// How long a count of what the folder occupies serves: packs that are not here are counted one by one.
const OCCUPIED_FOR: Duration = Duration::from_millis(500);

/// What the folder occupied when it was counted last.
pub struct Occupied {
    at: Instant,
    bytes: u64,
}

/// When the disk was measured last, and what was free.
pub struct Measured {
    at: Instant,
    free_bytes: u64,
}

impl Vfs {
    /// Refuses a write of `bytes` that could not be stored.
    pub(super) fn room(&self, bytes: u64) -> Result<(), Errno> {
        let mut measured = self.measured.lock();
        let free_bytes = match &*measured {
            Some(last) if last.at.elapsed() < MEASURED_FOR => last.free_bytes,
            _ => {
                let free_bytes = self.folder.store().disk()?.free_bytes;
                *measured = Some(Measured { at: Instant::now(), free_bytes });
                free_bytes
            }
        };
        drop(measured);
        let waiting = self.dirty_bytes.load(Ordering::Relaxed).saturating_add(bytes);
        if free_bytes.saturating_sub(waiting) < RESERVE_BYTES { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// `statfs(2)`: the size of the disk below, what the folder occupies of it, and what can still be written. What others
    /// have of the disk, and the reserve, are neither: what a disk keeps for its administrator stands there elsewhere.
    ///
    /// # Errors
    /// When the disk cannot be asked.
    pub fn statfs(&self) -> Result<StatFs, Errno> {
        let disk = self.folder.store().disk()?;
        let waiting = self.dirty_bytes.load(Ordering::Relaxed);
        let free = disk.free_bytes.saturating_sub(waiting).saturating_sub(RESERVE_BYTES);
        let used = self.occupied_bytes()?.saturating_add(waiting);
        // What waits to be stored may be more than the disk holds.
        let blocks = (disk.total_bytes / BLOCK_BYTES).max(used.div_ceil(BLOCK_BYTES) + free / BLOCK_BYTES);
        Ok(StatFs {
            block_bytes: u32::try_from(BLOCK_BYTES).expect("4096 fits"),
            blocks,
            blocks_free: blocks.saturating_sub(used.div_ceil(BLOCK_BYTES)),
            blocks_available: free / BLOCK_BYTES,
            nodes: NODES,
            nodes_free: NODES,
            name_bytes_max: u32::try_from(NAME_BYTES_MAX).expect("255 fits"),
        })
    }

    fn occupied_bytes(&self) -> Result<u64, Errno> {
        let mut occupied = self.occupied.lock();
        if let Some(last) = &*occupied
            && last.at.elapsed() < OCCUPIED_FOR
        {
            return Ok(last.bytes);
        }
        let bytes = self.folder.store().bytes_here(self.folder.no())?;
        *occupied = Some(Occupied { at: Instant::now(), bytes });
        Ok(bytes)
    }

    /// Makes all metadata changes so far durable.
    pub(super) fn sync_log(&self) -> Result<(), Errno> {
        Ok(self.folder.store().db().sync()?)
    }

    /// `fsync(2)` of a directory: names made so far survive power loss.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`.
    pub fn fsyncdir(&self, _fh: u64) -> Result<(), Errno> {
        self.sync_log()
    }

    /// `syncfs(2)`: everything written so far survives power loss.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`.
    pub fn sync_all(&self) -> Result<(), Errno> {
        let files: Vec<_> = self.files.lock().values().cloned().collect();
        for file in files {
            if file.inner().is_dirty() && !self.view(|view| super::survive::is_gone(view, &file))? {
                let _io = file.io.lock();
                self.save(&file, Durability::Unsynced)?;
            }
        }
        self.sync_log()
    }
}
