//! How far this device has written its logs, kept outside the database.
//!
//! A database restored from an older copy would sign entries a second time under numbers that are
//! taken. The mark is written after each commit, so it is never ahead of an honest database.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::format::device::{MARK_BYTES, Mark};
use crate::format::locator::LOCATOR_FOLDERS_MAX;
use crate::id::LogId;

const FILE: &str = "high-water";
/// Each log has two places in turn, so that a torn write leaves the mark before it.
const PLACES_PER_LOG: u64 = 2;
/// A log per folder, and as many again for logs given up; older ones are never needed.
const LOGS_MAX: usize = LOCATOR_FOLDERS_MAX * 16;

/// The marks of one device.
pub(super) struct HighWater {
    path: PathBuf,
    file: File,
    logs: Mutex<BTreeMap<LogId, (u64, Mark)>>,
}

impl HighWater {
    /// Opens the file in `dir`, or makes it.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let io = |source| Error::Io { path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        let mut logs: BTreeMap<LogId, (u64, Mark)> = BTreeMap::new();
        let places =
            (file.metadata().map_err(io)?.len() / MARK_BYTES as u64).min(LOGS_MAX as u64 * PLACES_PER_LOG);
        for place in 0..places {
            let mut bytes = [0; MARK_BYTES];
            file.read_exact_at(&mut bytes, place * MARK_BYTES as u64).map_err(io)?;
            let Some(mark) = Mark::decode(&bytes) else { continue };
            let known = logs.entry(mark.log).or_insert((place / PLACES_PER_LOG, mark));
            if mark.seq > known.1.seq {
                known.1 = mark;
            }
        }
        Ok(Self { file, logs: Mutex::new(logs), path: path.clone() })
    }

    /// The mark of `log`.
    pub(super) fn get(&self, log: &LogId) -> Option<Mark> {
        self.logs.lock().get(log).map(|(_, mark)| *mark)
    }

    /// Raises a mark; durable on return.
    pub(super) fn raise(&self, mark: Mark) -> Result<()> {
        let place = {
            let mut logs = self.logs.lock();
            let next = logs.values().map(|(place, _)| place + 1).max().unwrap_or(0);
            let entry = logs.entry(mark.log).or_insert((next, mark));
            entry.1 = mark;
            entry.0 * PLACES_PER_LOG + mark.seq % PLACES_PER_LOG
        };
        let write = || {
            self.file.write_all_at(&mark.encode(), place * MARK_BYTES as u64)?;
            self.file.sync_data()
        };
        write().map_err(|source| Error::Io { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::EntryHash;

    #[test]
    fn marks_survive_reopening_and_a_torn_write() {
        let dir = tempfile::tempdir().expect("a folder");
        let mark = |log: u8, seq| Mark { log: LogId([log; 32]), seq, hash: EntryHash([seq as u8; 32]) };
        let marks = HighWater::open(dir.path()).expect("opens");
        for (log, seq) in [(1, 1), (2, 1), (1, 2), (1, 3)] {
            marks.raise(mark(log, seq)).expect("written");
        }
        let again = HighWater::open(dir.path()).expect("opens");
        assert_eq!(again.get(&LogId([1; 32])), Some(mark(1, 3)));
        assert_eq!(again.get(&LogId([2; 32])), Some(mark(2, 1)));
        assert_eq!(again.get(&LogId([3; 32])), None);
        again.file.write_all_at(b"torn", MARK_BYTES as u64 + 50).expect("written");
        let torn = HighWater::open(dir.path()).expect("opens");
        assert_eq!(torn.get(&LogId([1; 32])), Some(mark(1, 2)));
        torn.raise(mark(4, 9)).expect("written");
        let after = HighWater::open(dir.path()).expect("opens");
        assert_eq!(after.get(&LogId([4; 32])), Some(mark(4, 9)));
        assert_eq!(after.get(&LogId([2; 32])), Some(mark(2, 1)));
    }
}
