//! A mixed load on a mount that knows what it was promised, so that the promise can be checked after
//! the daemon was killed at any moment.
//!
//! Each worker owns a directory and remembers, per file, the last version that `fsync` acknowledged and
//! the versions it tried to write after it. After a crash every file must hold one of these, whole.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A small deterministic generator (SplitMix64, Steele et al., OOPSLA 2014).
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.draw().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}

const PAGE_BYTES: u64 = 4096;
const PAGES: u64 = 32;
const DOCUMENTS: u64 = 6;

/// What one kind of file was promised: the acknowledged version and the attempts after it.
#[derive(Default, Clone)]
struct Versions {
    acknowledged: Option<Vec<u8>>,
    attempts: Vec<Vec<u8>>,
}

impl Versions {
    fn attempt(&mut self, bytes: Vec<u8>) {
        self.attempts.push(bytes);
    }

    fn acknowledge(&mut self) {
        if let Some(last) = self.attempts.pop() {
            self.acknowledged = Some(last);
            self.attempts.clear();
        }
    }

    fn admits(&self, found: Option<&[u8]>) -> bool {
        found == self.acknowledged.as_deref()
            || self.attempts.iter().any(|tried| Some(tried.as_slice()) == found)
    }

    /// After a check: what was found is the state that the next attempts build on.
    fn settle(&mut self, found: Option<Vec<u8>>) {
        self.acknowledged = found;
        self.attempts.clear();
    }
}

/// One worker's directory and memory; it outlives crashes of the daemon.
pub struct Worker {
    dir: PathBuf,
    rng: Rng,
    documents: BTreeMap<u64, Versions>,
    pages: BTreeMap<u64, Versions>,
    journal: Vec<u8>,
    journal_acknowledged: usize,
    /// How many `fsync` calls were acknowledged so far.
    pub acknowledged: u64,
}

impl Worker {
    /// A worker in `root/name`, with its own seed.
    #[must_use]
    pub fn new(root: &Path, name: &str, seed: u64) -> Self {
        Self {
            dir: root.join(name),
            rng: Rng::new(seed),
            documents: BTreeMap::new(),
            pages: BTreeMap::new(),
            journal: Vec::new(),
            journal_acknowledged: 0,
            acknowledged: 0,
        }
    }

    /// Works until `stop` or the first error, which is how a killed daemon shows.
    pub fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && self.step().is_ok() {}
    }

    fn step(&mut self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        match self.rng.below(8) {
            0..=2 => self.save_document(),
            3 | 4 => self.append_journal(),
            5 | 6 => self.write_page(),
            _ => self.make_noise(),
        }
    }

    /// As an editor saves: a new file, fsync, rename over the old one, fsync of the directory.
    fn save_document(&mut self) -> io::Result<()> {
        let number = self.rng.below(DOCUMENTS);
        let len = [10, 900, 5_000, 70_000, 400_000][self.rng.below(5) as usize];
        let bytes = self.rng.bytes(len);
        let versions = self.documents.entry(number).or_default();
        versions.attempt(bytes.clone());
        let temporary = self.dir.join(format!("document-{number}.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.dir.join(format!("document-{number}")))?;
        File::open(&self.dir)?.sync_all()?;
        versions.acknowledge();
        self.acknowledged += 1;
        Ok(())
    }

    /// As a log grows: append, and fsync now and then.
    fn append_journal(&mut self) -> io::Result<()> {
        let len = 1 + self.rng.below(3000) as usize;
        let bytes = self.rng.bytes(len);
        self.journal.extend_from_slice(&bytes);
        let mut file = OpenOptions::new().append(true).create(true).open(self.dir.join("journal"))?;
        file.write_all(&bytes)?;
        if self.rng.below(2) == 0 {
            file.sync_data()?;
            self.journal_acknowledged = self.journal.len();
            self.acknowledged += 1;
        }
        Ok(())
    }

    /// As a database writes: a page in place, then fsync.
    fn write_page(&mut self) -> io::Result<()> {
        let page = self.rng.below(PAGES);
        let bytes = self.rng.bytes(PAGE_BYTES as usize);
        let versions = self.pages.entry(page).or_default();
        versions.attempt(bytes.clone());
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(self.dir.join("pages"))?;
        file.write_all_at(&bytes, page * PAGE_BYTES)?;
        file.sync_all()?;
        versions.acknowledge();
        self.acknowledged += 1;
        Ok(())
    }

    /// Changes that nobody asked to be durable: they may or may not survive.
    fn make_noise(&mut self) -> io::Result<()> {
        let number = self.rng.below(20);
        let path = self.dir.join(format!("noise-{number}"));
        match self.rng.below(4) {
            0 => {
                let len = self.rng.below(200_000) as usize;
                fs::write(path, self.rng.bytes(len))
            }
            1 => ignore_absent(fs::remove_file(path)),
            2 => ignore_absent(fs::rename(path, self.dir.join(format!("noise-{}", self.rng.below(20))))),
            _ => {
                let below = self.dir.join(format!("noise-dir-{number}"));
                fs::create_dir_all(&below)?;
                fs::write(below.join("leaf"), b"x")?;
                fs::remove_dir_all(below)
            }
        }
    }

    /// Compares the directory with what was promised.
    ///
    /// # Errors
    /// A sentence about the first broken promise.
    pub fn check(&mut self) -> Result<(), String> {
        for (number, versions) in &mut self.documents {
            let found = read(&self.dir.join(format!("document-{number}")))?;
            if !versions.admits(found.as_deref()) {
                return Err(format!(
                    "{}: document {number} is no version that was written",
                    self.dir.display()
                ));
            }
            versions.settle(found);
        }
        self.check_journal()?;
        self.check_pages()
    }

    fn check_journal(&mut self) -> Result<(), String> {
        let found = read(&self.dir.join("journal"))?.unwrap_or_default();
        let whole = found.len() >= self.journal_acknowledged && self.journal.starts_with(&found);
        if !whole {
            return Err(format!(
                "{}: the journal has {} bytes, {} were acknowledged of {}",
                self.dir.display(),
                found.len(),
                self.journal_acknowledged,
                self.journal.len()
            ));
        }
        self.journal = found;
        self.journal_acknowledged = self.journal.len();
        Ok(())
    }

    fn check_pages(&mut self) -> Result<(), String> {
        let path = self.dir.join("pages");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let lost = self.pages.values().any(|versions| versions.acknowledged.is_some());
                self.pages.clear();
                return if lost { Err(format!("{} is gone", path.display())) } else { Ok(()) };
            }
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        for (page, versions) in &mut self.pages {
            let mut bytes = Vec::new();
            let read = file
                .seek(SeekFrom::Start(page * PAGE_BYTES))
                .and_then(|_| io::Read::by_ref(&mut file).take(PAGE_BYTES).read_to_end(&mut bytes));
            read.map_err(|error| format!("{}: {error}", path.display()))?;
            // A page that was never acknowledged may be a hole, or beyond the end.
            let hole = versions.acknowledged.is_none() && bytes.iter().all(|byte| *byte == 0);
            if !hole && !versions.admits(Some(&bytes)) {
                return Err(format!("{}: page {page} is no version that was written", path.display()));
            }
            versions.settle(if hole { None } else { Some(bytes) });
        }
        Ok(())
    }
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_without_a_crash_passes_and_finds_a_lost_byte() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut worker = Worker::new(dir.path(), "w", 7);
        for _ in 0..60 {
            worker.step().expect("a plain disk works");
        }
        assert_eq!(worker.check(), Ok(()));
        let journal = dir.path().join("w/journal");
        let mut bytes = fs::read(&journal).expect("there is a journal");
        bytes[0] ^= 1;
        fs::write(&journal, bytes).expect("a plain disk works");
        assert!(worker.check().is_err());
    }
}
