//! What the kernel asks about a node, in the words of `stat(2)` and `statvfs(3)`.

pub use cobox_store::format::op::Kind;

/// Attributes of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Node number; the root's is [`crate::vfs::ROOT`].
    pub ino: u64,
    /// Bytes of a file or of a link's target.
    pub size: u64,
    /// Blocks of 512 bytes that hold data; holes do not count.
    pub blocks: u64,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Nanoseconds since 1970; local to this device.
    pub atime_ns: i64,
    /// Nanoseconds since 1970; when the last op on this node was made.
    pub ctime_ns: i64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id bits, sticky bit.
    pub perm: u32,
    /// Hard links; 2 and the subdirectories for a directory.
    pub nlink: u32,
    /// Owner as this device shows it.
    pub uid: u32,
    /// Group as this device shows it.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
}

/// A change of attributes; `None` leaves one alone. The adapter resolves "now" before it calls.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SetAttr {
    /// Permission bits, set-id bits, sticky bit.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// New length of a file.
    pub size: Option<u64>,
    /// Nanoseconds since 1970.
    pub mtime_ns: Option<i64>,
    /// Nanoseconds since 1970; stays on this device.
    pub atime_ns: Option<i64>,
    /// The open file through which the change comes, if any.
    pub fh: Option<u64>,
}

/// Owner and mode of something new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Creator {
    /// Permission bits after the umask.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group of the calling process; a set-gid directory's group takes its place.
    pub gid: u32,
}

/// Answer to `statfs(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatFs {
    /// Bytes of one block, 4096.
    pub block_bytes: u32,
    /// Blocks of the disk below.
    pub blocks: u64,
    /// Those that the folder does not occupy, whoever has them.
    pub blocks_free: u64,
    /// Blocks that can still be written.
    pub blocks_available: u64,
    /// Nodes that could exist; there is no fixed number.
    pub nodes: u64,
    /// Nodes that can still be made.
    pub nodes_free: u64,
    /// Longest name in bytes.
    pub name_bytes_max: u32,
}

/// One name of a directory listing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirEntry<'a> {
    /// Node number.
    pub ino: u64,
    /// Where the listing goes on after this one.
    pub offset: u64,
    /// What it is.
    pub kind: Kind,
    /// The name's bytes.
    pub name: &'a [u8],
}

/// What a listing's receiver says after each name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// There is room for more.
    No,
    /// This name did not fit; the listing goes on with it next time.
    Yes,
}

/// Whether a listing carries attributes (and counts as a lookup of each name).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listing {
    /// Names and kinds.
    Names,
    /// `readdirplus`: each name but `.` and `..` counts as looked up once.
    Plus,
}

/// How much an `fsync` covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FsyncKind {
    /// `fdatasync(2)`.
    Data,
    /// `fsync(2)`.
    All,
}

/// `SEEK_DATA` and `SEEK_HOLE`; the kernel does the other kinds itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    /// The next byte at or after the offset that is data.
    Data,
    /// The next byte at or after the offset that is in a hole; the end of the file is one.
    Hole,
}

/// `setxattr(2)`'s flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrSet {
    /// Makes or replaces.
    Any,
    /// Fails with `EEXIST` when it exists.
    Create,
    /// Fails with `ENODATA` when it does not exist.
    Replace,
}

/// `renameat2(2)`'s flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameFlags {
    /// Replaces what has the new name.
    Replace,
    /// `RENAME_NOREPLACE`.
    NoReplace,
    /// `RENAME_EXCHANGE`.
    Exchange,
}

/// `fallocate(2)`'s modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallocate {
    /// Mode 0: the file is at least as long as the range's end.
    Extend,
    /// `KEEP_SIZE`: nothing visible happens.
    KeepSize,
    /// `PUNCH_HOLE | KEEP_SIZE`.
    PunchHole,
    /// `ZERO_RANGE`, longer if need be.
    ZeroRange,
    /// `ZERO_RANGE | KEEP_SIZE`.
    ZeroRangeKeepSize,
}

/// How a file is opened; the adapter reads it out of the flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenFlags {
    /// Opened for reading.
    pub read: bool,
    /// Opened for writing.
    pub write: bool,
    /// `O_TRUNC`.
    pub truncate: bool,
    /// `O_APPEND`: every write goes to the end.
    pub append: bool,
    /// `O_EXCL` on create.
    pub exclusive: bool,
}
