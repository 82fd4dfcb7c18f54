//! A disk that refuses writes: what is known of it, and whether it may be over.
//!
//! RocksDB refuses all writes after one that failed, so [`super::db`] opens it anew; here is decided when
//! that may help. Nothing here touches the database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::db::DbFailure;
use super::reserve::Reserve;
use crate::error::{Error, Result, is_full};

/// Between two trials of a disk that failed or is read-only, or of opening the database anew: each costs a
/// write and an fsync, or the replay of the log, while all others wait. The mount retries once a second.
const TRIAL_PAUSE: Duration = Duration::from_millis(500);

/// What keeps the disk from taking writes.
enum Cause {
    Full,
    ReadOnly,
    Failing(DbFailure),
    Io(std::path::PathBuf, std::io::ErrorKind),
}

impl Cause {
    fn of(error: &Error) -> Self {
        match error {
            Error::NoSpace => Self::Full,
            Error::ReadOnlyDisk => Self::ReadOnly,
            Error::Db(failure) => Self::Failing(failure.clone()),
            Error::Io { path, source } => match source.kind() {
                std::io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
                kind if is_full(kind) => Self::Full,
                kind => Self::Io(path.clone(), kind),
            },
            _ => Self::Full,
        }
    }

    fn error(&self) -> Error {
        match self {
            Self::Full => Error::NoSpace,
            Self::ReadOnly => Error::ReadOnlyDisk,
            Self::Failing(failure) => Error::Db(failure.clone()),
            Self::Io(path, kind) => Error::Io { path: path.clone(), source: (*kind).into() },
        }
    }
}

struct Now {
    cause: Cause,
    /// When the disk was tried last in vain.
    tried: Option<Instant>,
}

/// Whether the disk takes writes.
#[derive(Default)]
pub(super) struct Trouble {
    on: AtomicBool,
    now: Mutex<Option<Now>>,
}

impl Trouble {
    /// Whether a write failed and none has succeeded since.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// A write failed with `error`.
    pub(super) fn begin(&self, error: &Error) {
        let mut now = self.now.lock();
        if now.is_none() {
            tracing::error!(%error, "the disk of the store refuses writes until this is over");
            *now = Some(Now { cause: Cause::of(error), tried: None });
            self.on.store(true, Ordering::Release);
        }
    }

    /// Opening the database anew failed with `error`.
    pub(super) fn goes_on(&self, error: &Error) {
        *self.now.lock() = Some(Now { cause: Cause::of(error), tried: Some(Instant::now()) });
    }

    /// It is over.
    pub(super) fn end(&self) {
        *self.now.lock() = None;
        self.on.store(false, Ordering::Release);
    }

    /// What a write fails with now.
    pub(super) fn error(&self) -> Error {
        self.now.lock().as_ref().map_or(Error::NoSpace, |now| now.cause.error())
    }

    /// Tries the disk, not too often.
    ///
    /// # Errors
    /// What is still wrong.
    pub(super) fn may_be_over(&self, reserve: &Reserve) -> Result<()> {
        let mut now = self.now.lock();
        let Some(now) = now.as_mut() else { return Ok(()) };
        if now.tried.is_some_and(|tried| tried.elapsed() < TRIAL_PAUSE) {
            return Err(now.cause.error());
        }
        let tried = match &now.cause {
            // Only looks: cheap enough for every write.
            Cause::Full if !reserve.has_room()? => return Err(Error::NoSpace),
            // A quota does not show in what the disk says is free.
            Cause::Full => reserve.try_room(),
            _ => reserve.try_disk(),
        };
        if let Err(error) = tried {
            now.cause = Cause::of(&error);
            now.tried = Some(Instant::now());
            return Err(error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_that_is_tried_in_vain_is_not_tried_again_at_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let reserve = Reserve::new(&dir.path().join("missing"));
        let trouble = Trouble::default();
        assert!(!trouble.is_on());
        trouble.begin(&Error::ReadOnlyDisk);
        assert!(trouble.is_on());
        assert!(matches!(trouble.may_be_over(&reserve), Err(Error::Io { .. })));
        std::fs::create_dir(dir.path().join("missing")).expect("makes a folder");
        assert!(matches!(trouble.may_be_over(&reserve), Err(Error::Io { .. })), "not at once");
        let start = Instant::now();
        while trouble.may_be_over(&reserve).is_err() {
            assert!(start.elapsed() < 20 * TRIAL_PAUSE);
            std::thread::yield_now();
        }
        trouble.end();
        assert!(!trouble.is_on());
    }

    #[test]
    fn error_of_a_refused_write_names_the_cause() {
        let trouble = Trouble::default();
        trouble.begin(&Error::ReadOnlyDisk);
        trouble.begin(&Error::NoSpace);
        assert!(matches!(trouble.error(), Error::ReadOnlyDisk), "the first failure is the cause");
        trouble.goes_on(&Error::NoSpace);
        assert!(matches!(trouble.error(), Error::NoSpace));
    }
}
