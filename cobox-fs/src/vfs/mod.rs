//! The file system without the kernel: every call of the mount as a method, answered from local state.
//!
//! [`Vfs`] is shared by the adapter's threads. A metadata call takes the folder's sequencer, builds an op
//! group, commits it unsynced with the rows it changes, and replies. File data waits in per-inode maps
//! until `fsync`, close or a cut. Nothing here calls the kernel or the network.

pub mod attr;
pub mod errno;

use std::sync::Arc;
use std::time::Duration;

use cobox_store::id::PackId;
use cobox_store::keyed::Folder;

pub use attr::{
    Attr, Creator, DirEntry, Fallocate, FsyncKind, Full, Kind, Listing, OpenFlags, RenameFlags, SetAttr, StatFs,
    Whence, XattrSet,
};
pub use errno::Errno;

/// Node number of the root directory, as the kernel demands.
pub const ROOT: u64 = 1;
/// How long a read waits for bytes that other devices hold before it fails with `EIO`.
pub const ABSENT_WAIT_MS: u64 = 30_000;

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

/// What the daemon knows and a file cannot: `.cobox/status.json` and `user.cobox.*`.
pub trait StatusSource: Send + Sync {
    /// The JSON text of `.cobox/status.json`.
    fn status_json(&self) -> String;
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

/// A mounted folder.
pub struct Vfs {
    folder: Arc<Folder>,
    options: VfsOptions,
}

/// The threads that cut and catch up; they end when this is dropped.
pub struct Background {
    _threads: Vec<std::thread::JoinHandle<()>>,
}

/// Receives what the kernel must forget; called from the catch-up thread, never from a request.
pub type Notifier = Box<dyn Fn(Vec<Invalidate>) + Send + Sync>;

#[expect(unused_variables, reason = "signatures first")]
impl Vfs {
    /// Opens the folder's tree: replays what was pending, catches up with entries in the store.
    pub fn open(folder: Arc<Folder>, options: VfsOptions) -> Result<Arc<Self>, Errno> {
        todo!()
    }
    /// The folder.
    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }
    /// Gives the daemon's knowledge to `.cobox` and `user.cobox.*`.
    pub fn set_status_source(&self, source: Arc<dyn StatusSource>) {
        todo!()
    }
    /// Sets who is told what the kernel must forget.
    pub fn set_notifier(&self, notifier: Notifier) {
        todo!()
    }
    /// Finds a name; counts one lookup.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr, Errno> {
        todo!()
    }
    /// Takes back `count` lookups.
    pub fn forget(&self, ino: u64, count: u64) {
        todo!()
    }
    pub fn getattr(&self, ino: u64, fh: Option<u64>) -> Result<Attr, Errno> {
        todo!()
    }
    pub fn setattr(&self, ino: u64, change: &SetAttr) -> Result<Attr, Errno> {
        todo!()
    }
    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        todo!()
    }
    /// Makes a file, FIFO, socket or device node; counts one lookup, as all makers do.
    pub fn mknod(&self, parent: u64, name: &[u8], kind: Kind, by: Creator, rdev: u32) -> Result<Attr, Errno> {
        todo!()
    }
    pub fn mkdir(&self, parent: u64, name: &[u8], by: Creator) -> Result<Attr, Errno> {
        todo!()
    }
    pub fn symlink(&self, parent: u64, name: &[u8], target: &[u8], by: Creator) -> Result<Attr, Errno> {
        todo!()
    }
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        todo!()
    }
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        todo!()
    }
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr, Errno> {
        todo!()
    }
    pub fn rename(
        &self, parent: u64, name: &[u8], new_parent: u64, new_name: &[u8], flags: RenameFlags,
    ) -> Result<(), Errno> {
        todo!()
    }
    pub fn open_file(&self, ino: u64, flags: OpenFlags) -> Result<u64, Errno> {
        todo!()
    }
    pub fn create(&self, parent: u64, name: &[u8], by: Creator, flags: OpenFlags) -> Result<(Attr, u64), Errno> {
        todo!()
    }
    /// Reads; waits up to [`ABSENT_WAIT_MS`] for absent bytes.
    pub fn read(&self, fh: u64, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        todo!()
    }
    /// Reads without ever waiting for other devices.
    pub fn read_now(&self, fh: u64, offset: u64, len: u32) -> Result<ReadOutcome, Errno> {
        todo!()
    }
    /// Reads; waits up to `deadline` for absent bytes, then `EIO`.
    pub fn read_wait(&self, fh: u64, offset: u64, len: u32, deadline: Duration) -> Result<Vec<u8>, Errno> {
        todo!()
    }
    pub fn write(&self, fh: u64, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        todo!()
    }
    /// `close(2)` of one descriptor: what was written survives the death of this process.
    pub fn flush(&self, fh: u64) -> Result<(), Errno> {
        todo!()
    }
    pub fn release(&self, fh: u64) -> Result<(), Errno> {
        todo!()
    }
    pub fn fsync(&self, fh: u64, kind: FsyncKind) -> Result<(), Errno> {
        todo!()
    }
    pub fn fallocate(&self, fh: u64, mode: Fallocate, offset: u64, len: u64) -> Result<(), Errno> {
        todo!()
    }
    pub fn lseek(&self, fh: u64, offset: u64, whence: Whence) -> Result<u64, Errno> {
        todo!()
    }
    pub fn copy_file_range(&self, from: u64, from_offset: u64, to: u64, to_offset: u64, len: u64) -> Result<u64, Errno> {
        todo!()
    }
    pub fn opendir(&self, ino: u64) -> Result<u64, Errno> {
        todo!()
    }
    /// Lists from `offset` on (0 = the start); `.` and `..` come first.
    pub fn readdir(
        &self, fh: u64, offset: u64, listing: Listing,
        visit: &mut dyn FnMut(DirEntry<'_>, Option<&Attr>) -> Full,
    ) -> Result<(), Errno> {
        todo!()
    }
    pub fn releasedir(&self, fh: u64) {
        todo!()
    }
    pub fn fsyncdir(&self, fh: u64) -> Result<(), Errno> {
        todo!()
    }
    pub fn statfs(&self) -> Result<StatFs, Errno> {
        todo!()
    }
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        todo!()
    }
    pub fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], how: XattrSet) -> Result<(), Errno> {
        todo!()
    }
    /// Names of the extended attributes, without separators.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>, Errno> {
        todo!()
    }
    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<(), Errno> {
        todo!()
    }
    /// Turns what is pending into entries.
    pub fn cut(&self, why: Cut) -> Result<(), Errno> {
        todo!()
    }
    /// `syncfs(2)`: everything written so far survives power loss.
    pub fn sync_all(&self) -> Result<(), Errno> {
        todo!()
    }
    /// Cuts and syncs; calls after it fail.
    pub fn shutdown(&self) -> Result<(), Errno> {
        todo!()
    }
    /// Applies entries of other devices that the store has received.
    pub fn catch_up(&self) -> Result<Vec<Invalidate>, Errno> {
        todo!()
    }
    pub fn stats(&self) -> VfsStats {
        todo!()
    }
    /// Starts the cutter and the catch-up thread.
    pub fn start_background(self: &Arc<Self>) -> Background {
        todo!()
    }
    pub fn set_connected(&self, link: Link) {
        todo!()
    }
}
