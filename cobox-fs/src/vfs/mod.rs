//! The file system without the kernel: every call of the mount as a method, answered from local state.
//!
//! [`Vfs`] is shared by the adapter's threads. A metadata call takes the folder's sequencer, builds an op
//! group, commits it unsynced with the rows it changes, and replies. File data waits in per-inode maps
//! until `fsync`, close or a cut. Nothing here calls the kernel or the network.

mod ahead;
mod anew;
pub mod attr;
mod background;
mod branches;
mod catch_up;
mod chunks;
mod coalesce;
mod conflicts;
pub mod content;
mod cut;
mod damage;
mod dir;
mod dirty;
pub mod errno;
mod file;
pub mod filemap;
mod io;
mod lane;
mod magic;
pub mod merge;
mod meta;
mod numbers;
pub mod rechunk;
pub mod release;
mod rows;
mod sequencer;
mod space;
mod stream;
mod survey;
mod survive;
mod told;
mod turns;
pub mod worn;
mod xattr;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use cobox_store::format::content::ChunkRef;
use cobox_store::id::{Ino, PackId};
use cobox_store::keyed::Folder;
use parking_lot::{Mutex, RwLock};

pub use crate::tree::conflicts::{Conflict, Keep, Named, VersionOf, What};
pub use attr::{
    Attr, Creator, DirEntry, Fallocate, FsyncKind, Full, Kind, Listing, OpenFlags, RenameFlags, SetAttr,
    StatFs, Whence, XattrSet,
};
pub use background::Background;
pub use catch_up::CLOCK_AHEAD_MAX_MS;
pub use damage::{Harm, HurtSlices};
pub use errno::Errno;
pub use merge::{Copies, Plan};
pub use release::{Called, Released};
#[doc(hidden)]
pub use sequencer::OrderRule;
pub use survey::{DeadPack, Survey};

use crate::tree::{CaseRule, Policy};
use file::{File, Handles};

/// Node number of the root directory, as the kernel demands.
pub const ROOT: u64 = 1;
/// How long a read waits for bytes that other devices hold before it fails with `EIO`.
pub const ABSENT_WAIT_MS: u64 = 30_000;

/// Written bytes in memory, all files together; more make writers wait until chunks are sealed.
pub const DIRTY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A file with this much in memory is sealed as far as its chunks are complete: sixty-four chunks, so
/// that the nodes of its extent tree are not written for each.
pub const STREAM_BYTES: u64 = 4 * 1024 * 1024;
/// With this much of one file in memory its writer waits for the sealing: four packs, so that one is
/// written to the disk while others are made, and two such files stay within [`DIRTY_BYTES_MAX`].
pub const STREAM_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Random overwrites of one file wait for each other up to this: more of them fall into one chunk, which is
/// then sealed once. Below [`DIRTY_BYTES_MAX`] by what other files need meanwhile.
pub const SCATTERED_BYTES_MAX: u64 = 40 * 1024 * 1024;

/// How a folder is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VfsOptions {
    /// Who owns what another device made.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Refuses every change with `EROFS`.
    pub read_only: bool,
}

/// Why ops are turned into entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Nothing changed for a while.
    Idle,
    /// Enough has gathered.
    Full,
    /// The mount ends: files still open are taken too.
    Unmount,
    /// Somebody asked: files still open are taken too.
    Now,
}

/// Whether a peer of the folder is connected: decides how long a cut waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// Cut soon.
    Up,
    /// Gather for a minute.
    Down,
}

/// What the device may do with the folder, which an admin can change while it is mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permission {
    /// Read it.
    Read,
    /// Change it.
    Write,
}

/// Something the kernel must forget because another device changed it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Invalidate {
    /// Attributes and cached pages of a node.
    Node(u64),
    /// A name in a directory.
    Name {
        /// The directory's node number.
        parent: u64,
        /// The name.
        name: Vec<u8>,
    },
}

/// A read that is answered now, or one that other devices must help with.
#[derive(Debug)]
pub enum ReadOutcome {
    /// The bytes; shorter than asked only at the end of the file.
    Ready(Vec<u8>),
    /// These packs are not on this device; [`Vfs::read_wait`] asks for them and waits.
    Waiting(Vec<PackId>),
}

/// Counters for `status`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VfsStats {
    /// Bytes written by programs that no entry carries yet.
    pub dirty_bytes: u64,
    /// Op groups that no entry carries yet.
    pub pending_ops: u64,
    /// Files that no entry carries yet in their newest state.
    pub dirty_files: u64,
    /// Open file handles.
    pub open_files: u64,
    /// When the last cut ended, in milliseconds since 1970; 0 for never.
    pub last_cut_ms: u64,
}

/// What the daemon knows and a file cannot: the files in `.cobox` and `user.cobox.*`.
pub trait StatusSource: Send + Sync {
    /// The JSON text of `.cobox/status.json`.
    fn status_json(&self) -> String;
    /// The text of `.cobox/conflicts`, from [`Vfs::conflicts`].
    fn conflicts_text(&self, vfs: &Vfs) -> String;
    /// The same as JSON, for `.cobox/conflicts.json`.
    fn conflicts_json(&self, vfs: &Vfs) -> String;
    /// The value of `user.cobox.NAME` (`name` without the prefix) for the file whose content lies in
    /// `packs`; `None` where there is no such attribute.
    fn xattr(&self, name: &str, packs: &[PackId], state: FileState) -> Option<Vec<u8>>;
}

/// Where the newest state of a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileState {
    /// Written, not yet in an entry.
    Dirty,
    /// In an entry, and its bytes are on this device.
    Local,
    /// In an entry; some of its bytes are on other devices only.
    Absent,
}

/// Receives what the kernel must forget; called from the catch-up thread, never from a request.
pub type Notifier = Box<dyn Fn(Vec<Invalidate>) + Send + Sync>;

/// A mounted folder.
///
/// Locks, in the order in which they may be taken: `walking`, `cutting`, `catching_up`, `relieving`, a file's `io`,
/// `freeze`, `sequencer`, `files`, a file's `inner`, and the small ones that are held for one statement.
pub struct Vfs {
    folder: Arc<Folder>,
    options: VfsOptions,
    policy: Policy,
    rows: rows::Rows,
    sequencer: Mutex<sequencer::Sequencer>,
    /// [`sequencer::Sequencer::clock_ms`].
    clock_ms: Arc<AtomicU64>,
    numbers: numbers::Numbers,
    handles: Handles,
    /// Files that are open or dirty.
    files: Mutex<HashMap<Ino, Arc<File>>>,
    /// Held for writing at the instant of a cut.
    freeze: RwLock<()>,
    cutting: Mutex<()>,
    /// Held while released packs are freed.
    walking: Mutex<()>,
    catching_up: Mutex<()>,
    relieving: Mutex<()>,
    busy: Mutex<cut::Busy>,
    applied: Mutex<catch_up::Applied>,
    branch_ops: Mutex<branches::BranchOps>,
    measured: Mutex<Option<space::Measured>>,
    occupied: Mutex<Option<space::Occupied>>,
    /// Pending groups begin here: those before are in entries.
    pending_begin: AtomicU64,
    atimes: Mutex<HashMap<Ino, i64>>,
    allocated: Mutex<HashMap<ChunkRef, u64>>,
    status: RwLock<Option<Arc<dyn StatusSource>>>,
    /// Numbers of files that the kernel must read anew when they are opened.
    stale: Mutex<HashSet<u64>>,
    told: told::Told,
    wake: background::Wake,
    streamer: stream::Streamer,
    ahead: ahead::Ahead,
    connected: AtomicBool,
    forbidden: AtomicBool,
    /// Whether this device is new and lacks entries that an admin called for.
    behind: AtomicBool,
    /// Whether this device waits for answers to its call.
    called: AtomicBool,
    /// Whether the cut that runs answers calls.
    answering: AtomicBool,
    /// What counts as a worn pack.
    limits: Mutex<worn::Limits>,
    /// A [`release::Rule`] that a test breaks; 0 for none.
    broken_rule: AtomicU8,
    dirty_bytes: Arc<AtomicU64>,
    /// Bytes of journal rows since the last cut, and since the room of removed ones was taken back.
    journaled_bytes: AtomicU64,
    unreclaimed_bytes: AtomicU64,
    pending_groups: AtomicU64,
    pending_bytes: AtomicU64,
    last_cut_ms: AtomicU64,
}

impl Vfs {
    /// Opens the folder's tree: brings back what was pending, catches up with entries in the store.
    ///
    /// # Errors
    /// `EIO` when the store cannot be read.
    pub fn open(folder: Arc<Folder>, options: VfsOptions) -> Result<Arc<Self>, Errno> {
        let sequencer = sequencer::Sequencer::new()?;
        let vfs = Self {
            rows: rows::Rows::open(Arc::clone(&folder))?,
            folder,
            options,
            policy: Policy::new(CaseRule::Sensitive),
            clock_ms: sequencer.clock_ms(),
            sequencer: Mutex::new(sequencer),
            numbers: numbers::Numbers::default(),
            handles: Handles::default(),
            files: Mutex::default(),
            freeze: RwLock::default(),
            cutting: Mutex::default(),
            walking: Mutex::default(),
            catching_up: Mutex::default(),
            relieving: Mutex::default(),
            busy: Mutex::default(),
            applied: Mutex::default(),
            branch_ops: Mutex::default(),
            measured: Mutex::default(),
            occupied: Mutex::default(),
            pending_begin: AtomicU64::new(0),
            atimes: Mutex::default(),
            allocated: Mutex::default(),
            status: RwLock::default(),
            stale: Mutex::default(),
            told: told::Told::default(),
            wake: background::Wake::default(),
            streamer: stream::Streamer::default(),
            ahead: ahead::Ahead::default(),
            connected: AtomicBool::new(false),
            forbidden: AtomicBool::new(false),
            behind: AtomicBool::new(false),
            called: AtomicBool::new(false),
            answering: AtomicBool::new(false),
            limits: Mutex::new(worn::Limits::STANDARD),
            broken_rule: AtomicU8::new(0),
            dirty_bytes: Arc::default(),
            journaled_bytes: AtomicU64::new(0),
            unreclaimed_bytes: AtomicU64::new(0),
            pending_groups: AtomicU64::new(0),
            pending_bytes: AtomicU64::new(0),
            last_cut_ms: AtomicU64::new(0),
        };
        vfs.load_applied()?;
        let anew = vfs.forget_tree()?;
        vfs.rows.note_all_once()?;
        if anew.is_some() {
            vfs.forget_call()?;
        }
        vfs.load_calling()?;
        if let Some(anew) = anew {
            vfs.sequencer.lock().see(&vfs.pending(usize::MAX)?);
            vfs.catch_up()?;
            vfs.end_anew(anew)?;
        }
        let pending = vfs.pending(usize::MAX)?;
        vfs.pending_groups.store(pending.len() as u64, Ordering::Relaxed);
        vfs.sequencer.lock().see(&pending);
        drop(pending);
        vfs.load_dirty()?;
        vfs.catch_up()?;
        Ok(Arc::new(vfs))
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Gives the daemon's knowledge to `.cobox` and `user.cobox.*`.
    pub fn set_status_source(&self, source: Arc<dyn StatusSource>) {
        *self.status.write() = Some(source);
    }

    /// Sets who is told what the kernel must forget.
    pub fn set_notifier(&self, notifier: Notifier) {
        self.told.set_notifier(notifier);
    }

    /// Forgets cached rows; the next questions are answered from the store.
    pub fn drop_caches(&self) {
        self.rows.drop_cache();
        self.allocated.lock().clear();
    }

    /// Counters for `status`.
    #[must_use]
    pub fn stats(&self) -> VfsStats {
        let dirty_files = self.files.lock().values().filter(|file| file.inner().is_dirty()).count();
        VfsStats {
            dirty_bytes: self.dirty_bytes.load(Ordering::Relaxed),
            pending_ops: self.pending_groups.load(Ordering::Relaxed),
            dirty_files: dirty_files as u64,
            open_files: self.handles.count() as u64,
            last_cut_ms: self.last_cut_ms.load(Ordering::Relaxed),
        }
    }

    /// Writes everything into entries and makes it durable; for the end of a mount.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`; what could not be written is kept as dirty rows where possible.
    pub fn shutdown(&self) -> Result<(), Errno> {
        let cut = self.cut(Cut::Unmount);
        let synced = cut.and(self.sync_all());
        self.reclaim(1);
        synced
    }
}
