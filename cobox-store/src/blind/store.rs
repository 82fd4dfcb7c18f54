//! A store: one folder on the disk with the database of all folders that this device or seeder holds.
//!
//! It owns the lock, the format file, the folder numbers and the settings; packs, logs and the access log
//! are in their own files as further methods of [`Store`]. Opens nothing that is sealed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};
use rustix::fs::{FlockOperation, flock};

use super::access::AccessLogs;
use super::batch::{Batch, Durability};
use super::db::{Before, Db};
use super::listing::LISTED;
use super::logs::Logs;
use super::ordinals::Ordinals;
use super::reserve;
use super::retention::HoldClock;
use super::slices::Slices;
use super::tables::{STORE, Table, key};
use super::wants::Wants;
use super::watch::Watch;
use crate::error::{Error, Result, is_full};
use crate::format::access::{Act, Record, Role};
use crate::id::{FolderId, FolderNo};

/// The layout of rows and files that this program writes in a device's store; one of format 1 becomes one when it is
/// opened, and its rows are written anew as they change.
pub const STORE_FORMAT: u32 = 2;
/// The layout of a seeder's store, and the oldest that is read.
const STORE_FORMAT_FIRST: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "LOCK";
const NEXT_FOLDER: &[u8] = b"next folder";

/// Whose store it is; a seeder's is never opened as a device's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreKind {
    /// A member's device.
    Device,
    /// A seeder.
    Seeder,
}

impl StoreKind {
    fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Seeder => "seeder",
        }
    }

    fn format(self) -> u32 {
        match self {
            Self::Device => STORE_FORMAT,
            Self::Seeder => STORE_FORMAT_FIRST,
        }
    }
}

/// Whether an addition was news.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// It was stored.
    New,
    /// It was here already.
    Known,
}

/// Room on the disk of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpace {
    /// The disk's size.
    pub total_bytes: u64,
    /// What this process may still write.
    pub free_bytes: u64,
}

#[derive(Default)]
struct Folders {
    by_id: HashMap<FolderId, FolderNo>,
    by_no: BTreeMap<FolderNo, FolderId>,
}

/// An open store. Shared by `Arc`; all methods may be called from any thread.
pub struct Store {
    dir: PathBuf,
    kind: StoreKind,
    db: Db,
    watch: Watch,
    folders: RwLock<Folders>,
    pub(super) wants: Wants,
    pub(super) slices: Slices,
    pub(super) ordinals: Mutex<Ordinals>,
    /// Whether the sums of what was left here were compared with what there is.
    pub(super) locators_summed: AtomicBool,
    pub(super) access_logs: AccessLogs,
    pub(super) logs: Logs,
    /// One change of admins, or one command, at a time.
    pub(super) owners: Mutex<()>,
    /// One step of a patrol at a time.
    pub(super) patrolling: Mutex<()>,
    pub(super) hold_clock: HoldClock,
    // Held as long as the store is open; the last field, so that it is dropped after the database.
    _lock: File,
}

impl Store {
    /// Makes a new store in `dir`, which may exist but holds no store.
    ///
    /// # Errors
    /// [`Error::Io`] when `dir` holds a store already or cannot be written; [`Error::Locked`].
    pub fn create(dir: &Path, kind: StoreKind) -> Result<Arc<Self>> {
        let at = |source| Error::Io { path: dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at)?;
        if dir.join(FORMAT_FILE).exists() {
            return Err(at(ErrorKind::AlreadyExists.into()));
        }
        let lock = lock(dir)?;
        let db = Db::create(dir)?;
        // The last file to appear: a crash before it leaves what `create` accepts again.
        write_format(dir, kind).map_err(at)?;
        Self::start(dir, kind, db, lock)
    }

    /// Opens the store in `dir`.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::StoreFormat`] (nothing is touched then), [`Error::Locked`] while
    /// another process or handle has it open. A full disk is no error: what is there is read, and nothing written.
    pub fn open(dir: &Path, kind: StoreKind) -> Result<Arc<Self>> {
        let found = check_format(dir, kind)?;
        let lock = lock(dir)?;
        let path = dir.to_owned();
        let update = move || -> Result<()> {
            write_format(&path, kind).map_err(|source| match source.kind() {
                kind if is_full(kind) => Error::NoSpace,
                _ => Error::Io { path: path.clone(), source },
            })
        };
        // Before the first row that an older program could not read. There may be room for it while the database
        // has given its reserve up, and at no other moment.
        let before: Option<Before> = if found == kind.format() { None } else { Some(Box::new(update)) };
        let db = Db::open(dir, before)?;
        Self::start(dir, kind, db, lock)
    }

    fn start(dir: &Path, kind: StoreKind, db: Db, lock: File) -> Result<Arc<Self>> {
        let folders = read_folders(&db)?;
        let ordinals = Ordinals::load(&db)?;
        let hold_clock = HoldClock::load(&db)?;
        let store = Arc::new(Self {
            dir: dir.to_owned(),
            kind,
            db,
            watch: Watch::default(),
            folders: RwLock::new(folders),
            wants: Wants::default(),
            slices: Slices::default(),
            ordinals: Mutex::new(ordinals),
            locators_summed: AtomicBool::new(false),
            access_logs: AccessLogs::default(),
            logs: Logs::default(),
            owners: Mutex::default(),
            patrolling: Mutex::default(),
            hold_clock,
            _lock: lock,
        });
        // Where the disk takes no writes now, the next opening does it.
        if let Err(error) = store.resume_effects() {
            tracing::warn!(%error, "what follows from some access records waits");
        }
        Ok(store)
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A device's or a seeder's.
    #[must_use]
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// The database, for the tables of the layers above.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Tells of changes.
    #[must_use]
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// All folders, by number.
    ///
    /// # Errors
    /// None today; the signature leaves room for stores that read them from the disk.
    pub fn folders(&self) -> Result<Vec<(FolderNo, FolderId)>> {
        Ok(self.folders.read().by_no.iter().map(|(no, id)| (*no, *id)).collect())
    }

    /// The local number of a folder.
    ///
    /// # Errors
    /// [`Error::UnknownFolder`].
    pub fn folder_no(&self, id: FolderId) -> Result<FolderNo> {
        self.folders.read().by_id.get(&id).copied().ok_or(Error::UnknownFolder(id))
    }

    /// The folder with a local number.
    ///
    /// # Errors
    /// [`Error::UnknownFolderNo`].
    pub fn folder_id(&self, no: FolderNo) -> Result<FolderId> {
        self.folders.read().by_no.get(&no).copied().ok_or(Error::UnknownFolderNo(no))
    }

    /// Takes a folder into the store, by the record that begins it; adding it twice changes nothing.
    ///
    /// # Errors
    /// [`Error::Access`] when it is no genesis, or its founder is not its author and an admin.
    pub fn folder_add(&self, genesis: &Record) -> Result<FolderNo> {
        let content = genesis.content();
        let right = matches!(&content.act, Act::Genesis { device, .. }
            if device.log.0 == content.author && device.role == Role::Admin);
        if !right {
            return Err(Error::Access { record: genesis.hash() });
        }
        let id = genesis.folder();
        let mut folders = self.folders.write();
        if let Some(no) = folders.by_id.get(&id) {
            return Ok(*no);
        }
        let counter = key(STORE, Table::Counter, NEXT_FOLDER);
        let next =
            self.db.get(&counter)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        // Of a folder that left, the number is not used again: somebody may still mean the old one.
        let next = u32::try_from(next).unwrap_or(u32::MAX);
        let no = FolderNo(folders.by_no.last_key_value().map_or(1, |(no, _)| no.0 + 1).max(next));
        let mut batch = Batch::default();
        batch.put(&counter, &(u64::from(no.0) + 1).to_le_bytes());
        batch.put(&key(STORE, Table::FolderById, &id.0), &no.0.to_le_bytes());
        batch.put(&key(STORE, Table::FolderByNo, &no.0.to_be_bytes()), &id.0);
        batch.put(&key(no, Table::BlindSetting, LISTED), &[]);
        super::access::stage_record(no, 0, genesis, &mut batch);
        self.db.commit(batch, Durability::Synced)?;
        folders.by_id.insert(id, no);
        folders.by_no.insert(no, id);
        drop(folders);
        self.watch.bump(no);
        Ok(no)
    }

    /// What is kept in memory of a folder goes with it.
    pub(super) fn forget_folder(&self, no: FolderNo, id: FolderId) {
        let mut folders = self.folders.write();
        folders.by_id.remove(&id);
        folders.by_no.remove(&no);
        drop(folders);
        self.access_logs.forget(no);
        self.logs.totals.lock().remove(&no);
    }

    /// Room on the disk.
    ///
    /// # Errors
    /// When the disk cannot be asked.
    pub fn disk(&self) -> Result<DiskSpace> {
        let (total_bytes, free_bytes) = reserve::space(&self.dir)?;
        Ok(DiskSpace { total_bytes, free_bytes })
    }

    /// A setting of a folder, or of the store ([`STORE`]). Not sealed: never for secrets or names.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn setting(&self, no: FolderNo, name: &str) -> Result<Option<Vec<u8>>> {
        self.db.get(&key(no, Table::BlindSetting, name.as_bytes()))
    }

    /// Changes a setting; durable on return.
    ///
    /// # Errors
    /// See [`Db::commit`].
    pub fn setting_put(&self, no: FolderNo, name: &str, value: &[u8]) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(&key(no, Table::BlindSetting, name.as_bytes()), value);
        self.db.commit(batch, Durability::Synced)
    }
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| Error::Io { path: path.clone(), source })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { path: dir.to_owned() }),
        Err(errno) => Err(Error::Io { path, source: errno.into() }),
    }
}

fn write_format(dir: &Path, kind: StoreKind) -> std::io::Result<()> {
    let new = dir.join("FORMAT.new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "cobox-store {} {}", kind.format(), kind.name())?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(FORMAT_FILE))?;
    File::open(dir)?.sync_all()
}

fn check_format(dir: &Path, kind: StoreKind) -> Result<u32> {
    let path = dir.join(FORMAT_FILE);
    let not_a_store = || Error::NotAStore { path: dir.to_owned() };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
            return Err(not_a_store());
        }
        Err(source) => return Err(Error::Io { path, source }),
    };
    let mut words = text.split_ascii_whitespace();
    let version: Option<u32> =
        (words.next() == Some("cobox-store")).then(|| words.next()?.parse().ok()).flatten();
    match version {
        None => Err(not_a_store()),
        Some(found) if !(STORE_FORMAT_FIRST..=STORE_FORMAT).contains(&found) => {
            Err(Error::StoreFormat { found, known: kind.format() })
        }
        Some(_) if words.next() != Some(kind.name()) => Err(not_a_store()),
        Some(found) if found > kind.format() => Err(Error::StoreFormat { found, known: kind.format() }),
        Some(found) => Ok(found),
    }
}

fn read_folders(db: &Db) -> Result<Folders> {
    let mut folders = Folders::default();
    db.scan(&key(STORE, Table::FolderByNo, &[]), &[], &mut |no, id| {
        if let (Ok(no), Ok(id)) = (no.try_into(), id.try_into()) {
            let (no, id) = (FolderNo(u32::from_be_bytes(no)), FolderId(id));
            folders.by_id.insert(id, no);
            folders.by_no.insert(no, id);
        }
        ControlFlow::Continue(())
    })?;
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Founder, new_store, pack_bytes};
    use super::*;
    use crate::format::proof::Outboard;

    #[test]
    fn store_opened_twice_is_locked() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let first = Store::create(dir.path(), StoreKind::Device).expect("creates");
        assert!(matches!(Store::open(dir.path(), StoreKind::Device), Err(Error::Locked { .. })));
        drop(first);
        Store::open(dir.path(), StoreKind::Device).expect("opens");
    }

    #[test]
    fn store_of_a_newer_format_is_refused_untouched() {
        let dir = tempfile::tempdir().expect("temporary folder");
        drop(Store::create(dir.path(), StoreKind::Device).expect("creates"));
        std::fs::write(dir.path().join(FORMAT_FILE), "cobox-store 3 device\n").expect("writes");
        std::fs::remove_dir_all(dir.path().join("db")).expect("removes");
        let opened = Store::open(dir.path(), StoreKind::Device);
        assert!(matches!(opened, Err(Error::StoreFormat { found: 3, known: 2 })));
        assert!(!dir.path().join("db").exists());
    }

    #[test]
    fn devices_store_of_format_1_becomes_one_of_format_2() {
        let dir = tempfile::tempdir().expect("temporary folder");
        drop(Store::create(dir.path(), StoreKind::Device).expect("creates"));
        let path = dir.path().join(FORMAT_FILE);
        let new = std::fs::read_to_string(&path).expect("reads");
        std::fs::write(&path, "cobox-store 1 device\n").expect("writes");
        assert!(matches!(Store::open(dir.path(), StoreKind::Seeder), Err(Error::NotAStore { .. })));
        drop(Store::open(dir.path(), StoreKind::Device).expect("opens"));
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), new);
        drop(Store::open(dir.path(), StoreKind::Device).expect("opens"));
    }

    #[test]
    fn folder_that_is_no_store_or_another_kind_is_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        assert!(matches!(Store::open(dir.path(), StoreKind::Device), Err(Error::NotAStore { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 0);
        drop(Store::create(dir.path(), StoreKind::Seeder).expect("creates"));
        assert!(matches!(Store::open(dir.path(), StoreKind::Device), Err(Error::NotAStore { .. })));
        assert!(matches!(Store::create(dir.path(), StoreKind::Seeder), Err(Error::Io { .. })));
    }

    #[test]
    fn folder_added_twice_keeps_its_number_and_survives_reopening() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = Store::create(dir.path(), StoreKind::Seeder).expect("creates");
        let (one, two) = (Founder::new(1), Founder::new(2));
        let no = store.folder_add(&one.genesis).expect("adds");
        assert_eq!(store.folder_add(&one.genesis).expect("adds"), no);
        let other = store.folder_add(&two.genesis).expect("adds");
        assert_ne!(no, other);
        store.setting_put(no, "name", b"value").expect("puts");
        drop(store);
        let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
        assert_eq!(store.folder_no(one.folder()).expect("knows"), no);
        assert_eq!(store.folder_id(other).expect("knows"), two.folder());
        assert_eq!(store.setting(no, "name").expect("reads").as_deref(), Some(&b"value"[..]));
        assert_eq!(store.access(no).expect("reads").genesis, one.genesis);
    }

    fn files(dir: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
        let entries =
            std::fs::read_dir(dir.join("db")).expect("lists").map(|entry| entry.expect("an entry").path());
        // RocksDB's own log, and the file that keeps others out.
        let is_said = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("LOG") || name == "LOCK"
        };
        entries
            .filter(|path| path.is_file() && !is_said(path))
            .map(|path| (path.clone(), std::fs::read(&path).expect("reads")))
            .collect()
    }

    #[test]
    fn database_that_lacks_a_file_is_left_as_it_is_however_often_it_is_opened() {
        let (dir, store, no) = new_store(&Founder::new(1));
        let data = dir.path().to_owned();
        let bytes = pack_bytes(1, 1 << 20);
        let outboard = Outboard::of(&bytes);
        store.pack_put(no, outboard.pack(), &outboard, &bytes).expect("puts");
        drop(store);
        let table = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "sst");
        let table = files(&data).keys().find(table).expect("a table").clone();
        // Each opening may begin a new manifest.
        let manifest = || {
            let current = std::fs::read_to_string(data.join("db/CURRENT")).expect("reads");
            data.join("db").join(current.trim())
        };
        let gone: [&dyn Fn() -> PathBuf; 3] = [&|| data.join("db/CURRENT"), &manifest, &|| table.clone()];
        for gone in gone {
            let gone = gone();
            let kept = std::fs::read(&gone).expect("reads");
            std::fs::remove_file(&gone).expect("removes");
            let before = files(&data);
            for _ in 0..3 {
                let opened = Store::open(&data, StoreKind::Seeder);
                assert!(matches!(opened, Err(Error::Broken { .. })), "{gone:?}: {:?}", opened.err());
                assert_eq!(files(&data), before, "{gone:?}");
            }
            let format = std::fs::read(data.join(FORMAT_FILE)).expect("reads");
            std::fs::remove_file(data.join(FORMAT_FILE)).expect("removes");
            assert!(matches!(Store::create(&data, StoreKind::Seeder), Err(Error::Broken { .. })), "{gone:?}");
            assert_eq!(files(&data), before, "{gone:?}");
            std::fs::write(data.join(FORMAT_FILE), format).expect("writes");
            std::fs::write(&gone, kept).expect("writes");
            let store = Store::open(&data, StoreKind::Seeder).expect("opens");
            assert!(store.pack_range(no, outboard.pack().id, 5, 100).expect("reads").is_some(), "{gone:?}");
        }
    }
}
