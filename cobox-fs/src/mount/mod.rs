//! A folder mounted as a drive: checks the mount point, attaches the kernel, serves, and takes the
//! mount off again. Called by the daemon and by tests; the calls of the kernel are answered in
//! [`crate::fuse`].

mod attach;
mod error;
mod holders;
mod point;
mod table;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use error::{HeldBy, Holder, MountError};
pub use point::{Cleared, FS_TYPE, check_mount_point, clear_stale};

use crate::fuse::Session;
use crate::vfs::{Cut, Vfs};
use attach::Detached;
use table::{Device, TableRow};

/// A process that just ended may hold the mount for a moment longer while the kernel closes its files;
/// a busy mount of which nobody is known to be the holder is tried again for so long.
const BUSY_RETRY_MS: u64 = 500;
const BUSY_PAUSE_MS: u64 = 20;
/// How long the last calls may take after the mount is off. It only runs out when another mount
/// namespace (a container, a service) has a copy of the mount.
const SESSION_END_MS: u64 = 5_000;
/// Read-ahead of sequential reads in KiB. FUSE begins with 128, which leaves the chunk cache idle
/// between requests; only root may raise it, and without it reads are slower but right.
const READ_AHEAD_KIB: u32 = 1_024;

/// How a folder is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// Other users of the machine may use the mount, as far as modes allow.
    pub allow_other: bool,
    /// The kernel refuses every change.
    pub read_only: bool,
}

/// A live mount. Dropping it takes the mount out of the tree at once, even while it is used;
/// [`Mount::unmount`] is the orderly way.
pub struct Mount {
    dir: PathBuf,
    row: TableRow,
    vfs: Arc<Vfs>,
    session: Session,
}

impl Mount {
    /// Mounts `vfs` at `dir` and serves it on threads of its own. A mount that a crashed daemon left
    /// there is detached first.
    ///
    /// # Errors
    /// What [`check_mount_point`] says, `HoldsStore`, `AllowOtherForbidden`, and the failures of the
    /// kernel or of `fusermount3`.
    pub fn new(vfs: Arc<Vfs>, dir: &Path, options: MountOptions) -> Result<Self, MountError> {
        clear_stale(dir)?;
        check_mount_point(dir)?;
        let dir = point::resolve(dir)?;
        refuse_own_store(&vfs, &dir)?;
        let connection = attach::attach(&dir, &options)?;
        let served = table::top_at(&dir)
            .map_err(|source| point::os(&dir, "mounted", source))?
            .ok_or_else(|| point::os(&dir, "mounted", rustix::io::Errno::NOENT.into()))
            .and_then(|row| {
                let session = Session::start(Arc::clone(&vfs), connection, clones())
                    .map_err(|source| point::os(&dir, "served", source))?;
                Ok((row, session))
            });
        match served {
            Ok((row, session)) => {
                raise_read_ahead(row.device);
                tracing::info!(folder = %short_id(&vfs), "mounted");
                Ok(Self { dir, row, vfs, session })
            }
            Err(error) => {
                if let Err(left) = attach::detach_lazily(&dir) {
                    tracing::warn!(error = %left, "a mount that could not be served stays");
                }
                Err(error)
            }
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is mounted.
    #[must_use]
    pub fn vfs(&self) -> &Arc<Vfs> {
        &self.vfs
    }

    /// Whether the kernel still uses the mount; false after somebody else unmounted it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.session.is_live()
    }

    /// Whether the mount is where programs find it: one that was taken out of the tree while a program used it lives
    /// on for that program alone.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        // Where the system does not say, the mount is believed.
        self.is_live() && self.place().map_or(true, |place| place.is_some())
    }

    /// Says who uses the mount, without taking it off.
    ///
    /// # Errors
    /// `Busy` with the holders that the caller may see, or the failures of the kernel.
    pub fn refuse_if_held(&self) -> Result<(), MountError> {
        let Some(place) = self.place()? else { return Ok(()) };
        let holders = holders::find(&place, Some(self.row.device));
        if holders.is_empty() { Ok(()) } else { Err(self.busy(holders)) }
    }

    /// Takes the mount off, waits for the calls under way, and turns everything written into entries.
    /// A mount that somebody took off already is no error. When it is busy, it stays and keeps working.
    ///
    /// # Errors
    /// `Busy` with the holders, or the failures of the kernel or of `fusermount3`.
    pub fn unmount(&self) -> Result<(), MountError> {
        if self.is_live() {
            self.detach_unless_busy()?;
            if !self.session.wait_end(Duration::from_millis(SESSION_END_MS)) {
                return Err(self.busy(Vec::new()));
            }
        }
        self.settle();
        Ok(())
    }

    /// Takes the mount out of the tree even while it is used: for the end of the daemon, after
    /// [`Mount::unmount`] said `Busy`. Programs that use it get errors once the daemon is gone.
    ///
    /// # Errors
    /// The failures of the kernel or of `fusermount3`.
    pub fn unmount_lazily(&self) -> Result<(), MountError> {
        if let Some(place) = self.place()? {
            attach::detach_lazily(&place)?;
        }
        self.settle();
        Ok(())
    }

    fn detach_unless_busy(&self) -> Result<(), MountError> {
        let Some(place) = self.place()? else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_millis(BUSY_RETRY_MS);
        loop {
            if attach::detach(&place)? == Detached::Gone {
                return Ok(());
            }
            let holders = holders::find(&place, Some(self.row.device));
            if !holders.is_empty() || Instant::now() >= deadline {
                return Err(self.busy(holders));
            }
            std::thread::sleep(Duration::from_millis(BUSY_PAUSE_MS));
        }
    }

    /// Where this mount is now: its directory may have been renamed along with a parent. Numbers of
    /// mounts and devices are used again at once, so a mount that ended is never looked for; one that
    /// ends just now could only be mistaken for another that began at the same place in that moment,
    /// or, when it is elsewhere, for one whose both numbers agree.
    fn place(&self) -> Result<Option<PathBuf>, MountError> {
        let rows = table::read().map_err(|source| point::os(&self.dir, "unmounted", source))?;
        let same = |row: &&TableRow| row.id == self.row.id && row.device == self.row.device;
        let exact = rows.iter().find(|row| **row == self.row);
        let found = exact.or_else(|| rows.iter().find(same)).filter(|_| self.is_live());
        Ok(found.map(|row| row.dir.clone()))
    }

    fn busy(&self, holders: Vec<Holder>) -> MountError {
        MountError::Busy { dir: self.dir.clone(), holders }
    }

    fn settle(&self) {
        if let Err(errno) = self.vfs.cut(Cut::Unmount) {
            tracing::warn!(errno = errno.0, "what was written waits for the next start to be sent");
        }
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount")
            .field("dir", &self.dir)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.is_live() {
            return;
        }
        let place = self.place().ok().flatten();
        if let Some(Err(error)) = place.map(|place| attach::detach_lazily(&place)) {
            tracing::warn!(%error, "a mount stays behind");
        }
    }
}

/// Whether each serving thread gets a descriptor of its own, which ordinary users can only have where
/// the FUSE device is open to them.
fn clones() -> crate::fuse::Descriptors {
    if attach::device_opens() {
        crate::fuse::Descriptors::PerThread
    } else {
        crate::fuse::Descriptors::Shared
    }
}

fn refuse_own_store(vfs: &Vfs, dir: &Path) -> Result<(), MountError> {
    let store = vfs.folder().store().dir();
    let store = std::fs::canonicalize(store).unwrap_or_else(|_| store.to_path_buf());
    if store.starts_with(dir) || dir.starts_with(&store) {
        return Err(MountError::HoldsStore { dir: dir.to_path_buf() });
    }
    Ok(())
}

fn raise_read_ahead(device: Device) {
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.major, device.minor);
    if let Err(error) = std::fs::write(path, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%error, "read-ahead stays at the kernel's default");
    }
}

fn short_id(vfs: &Vfs) -> String {
    let mut id = vfs.folder().id().to_string();
    id.truncate(8);
    id
}
