//! Programs that write, what each was promised and when, and whether a directory keeps to that.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cobox_tests::disk::Disk;
use cobox_tests::load::Rng;

const PAGE_BYTES: usize = 4096;
const PAGES: u64 = 400;

/// What a path held; `None` where it was absent.
pub type Held = Option<Arc<Vec<u8>>>;

/// Something that was done to be durable: by what time, and what it changed.
pub struct Step {
    pub begun: usize,
    /// When `fsync` had returned.
    promised: usize,
    changes: Vec<(PathBuf, Held)>,
    /// Names that may be there in between.
    passing: Option<PathBuf>,
}

/// One program that writes in a directory of its own.
pub struct Worker<'a> {
    dir: PathBuf,
    disk: &'a Disk,
    rng: Rng,
    pages: Vec<u8>,
    journal: Vec<u8>,
    steps: Vec<Step>,
}

impl<'a> Worker<'a> {
    pub fn new(mount: &Path, number: u64, disk: &'a Disk, seed: u64) -> Self {
        let dir = mount.join(format!("worker-{number}"));
        fs::create_dir(&dir).expect("makes a directory");
        Self { dir, disk, rng: Rng::new(seed), pages: Vec::new(), journal: Vec::new(), steps: Vec::new() }
    }

    pub fn run(mut self, steps: usize) -> (PathBuf, Vec<Step>) {
        sync(&self.dir).and_then(|()| sync(self.dir.parent().expect("it lies in the mount"))).expect("syncs");
        for _ in 0..steps {
            let begun = self.disk.position();
            let (changes, passing) = match self.rng.below(8) {
                0..=2 => self.save_document(),
                3 | 4 => self.append_journal(),
                5 | 6 => self.write_page(),
                _ => self.remove_document(),
            }
            .expect("a disk with power and room takes everything");
            let promised = self.disk.position();
            self.steps.push(Step { begun, promised, changes, passing });
            self.make_noise().expect("a disk with power and room takes everything");
        }
        (self.dir, self.steps)
    }

    /// As an editor saves: a new file, fsync, rename over the old one, fsync of the directory.
    fn save_document(&mut self) -> io::Result<(Vec<(PathBuf, Held)>, Option<PathBuf>)> {
        let len = [10, 900, 5_000, 70_000, 3_000_000][self.rng.below(5) as usize];
        let bytes = self.rng.bytes(len);
        let path = self.dir.join(format!("document-{}", self.rng.below(6)));
        let temporary = self.dir.join("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync(&self.dir)?;
        Ok((vec![(path, Some(Arc::new(bytes)))], Some(temporary)))
    }

    fn remove_document(&mut self) -> io::Result<(Vec<(PathBuf, Held)>, Option<PathBuf>)> {
        let path = self.dir.join(format!("document-{}", self.rng.below(6)));
        if path.exists() {
            fs::remove_file(&path)?;
        }
        sync(&self.dir)?;
        Ok((vec![(path, None)], None))
    }

    /// As a log grows. The first time the name is made durable, too.
    fn append_journal(&mut self) -> io::Result<(Vec<(PathBuf, Held)>, Option<PathBuf>)> {
        let path = self.dir.join("journal");
        let len = 1 + self.rng.below(3000) as usize;
        let bytes = self.rng.bytes(len);
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        if self.journal.is_empty() {
            sync(&self.dir)?;
        }
        self.journal.extend_from_slice(&bytes);
        Ok((vec![(path, Some(Arc::new(self.journal.clone())))], None))
    }

    /// As a database writes: a page in place, then fsync.
    fn write_page(&mut self) -> io::Result<(Vec<(PathBuf, Held)>, Option<PathBuf>)> {
        let path = self.dir.join("pages");
        let at = self.rng.below(PAGES) as usize * PAGE_BYTES;
        let bytes = self.rng.bytes(PAGE_BYTES);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        if self.pages.is_empty() {
            self.pages = self.rng.bytes(PAGES as usize * PAGE_BYTES);
            file.write_all_at(&self.pages, 0)?;
        }
        file.write_all_at(&bytes, at as u64)?;
        file.sync_all()?;
        sync(&self.dir)?;
        self.pages[at..at + PAGE_BYTES].copy_from_slice(&bytes);
        Ok((vec![(path, Some(Arc::new(self.pages.clone())))], None))
    }

    /// Changes that nobody asked to be durable: they may be lost, and what is there can be read.
    fn make_noise(&mut self) -> io::Result<()> {
        let path = self.dir.join(format!("noise-{}", self.rng.below(9)));
        let to = self.dir.join(format!("noise-{}", self.rng.below(9)));
        match self.rng.below(6) {
            0 | 1 => {
                let len = self.rng.below(200_000) as usize;
                fs::write(path, self.rng.bytes(len))
            }
            2 if path.exists() => fs::rename(path, to),
            3 if path.exists() => fs::remove_file(path),
            _ => Ok(()),
        }
    }
}

pub fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads all files of a directory.
fn read_all(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let paths = entries.map(|entry| entry.expect("lists").path());
    paths
        .map(|path| {
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, bytes)
        })
        .collect()
}

/// Compares a directory with what was promised at `position`.
pub fn check(dir: &Path, steps: &[Step], position: usize) -> Result<(), String> {
    if steps.first().is_none_or(|first| first.begun > position) {
        return Ok(());
    }
    let mut found = read_all(dir);
    let mut promised: BTreeMap<&Path, Held> = BTreeMap::new();
    for step in steps.iter().filter(|step| step.promised <= position) {
        promised.extend(step.changes.iter().map(|(path, held)| (path.as_path(), held.clone())));
    }
    // What was under way may be done, or not.
    let under_way = steps.iter().find(|step| step.promised > position && step.begun <= position);
    for (path, after) in under_way.iter().flat_map(|step| &step.changes) {
        let bytes = found.remove(path);
        let before = promised.get(path.as_path()).cloned().flatten();
        let same = |held: &Held| held.as_deref() == bytes.as_ref();
        // A file that is just being made may have nothing in it yet, or less than it will have.
        let begun =
            before.is_none() && (path.ends_with("pages") || bytes.as_ref().is_some_and(Vec::is_empty));
        if !same(&before) && !same(after) && !begun {
            return Err(format!("{}: neither as before nor as after", path.display()));
        }
        promised.remove(path.as_path());
    }
    if let Some(passing) = under_way.and_then(|step| step.passing.as_ref()) {
        found.remove(passing);
    }
    for (path, held) in promised {
        let bytes = found.remove(path);
        if held.as_deref() != bytes.as_ref() {
            let len = |bytes: Option<&Vec<u8>>| bytes.map(Vec::len);
            let (found, due) = (len(bytes.as_ref()), len(held.as_deref()));
            return Err(format!("{}: {found:?} bytes, not the {due:?} promised", path.display()));
        }
    }
    match found.keys().find(|path| !path.to_string_lossy().contains("/noise-")) {
        Some(path) => Err(format!("{} is there and should not be", path.display())),
        None => Ok(()),
    }
}
