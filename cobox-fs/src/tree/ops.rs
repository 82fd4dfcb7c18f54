//! Builders: each turns one system call into the group of ops that has its effect, or into the error
//! that POSIX asks for. They read a [`View`] and change nothing.

use super::names::{self, RESERVED_NAME, name_key};
use super::row::{Head, LinkRow, NodeRow};
use super::view::{Shown, Version, View};
use cobox_store::Error;
use cobox_store::format::content::Content;
use cobox_store::format::op::{AttrChange, Kind, Make, Op, is_legal_name};
use cobox_store::format::{NAME_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use cobox_store::id::{Ino, LinkId, OpId};

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub enum PosixError {
    /// ENOENT.
    #[error("no such file or directory")]
    NoEntry,
    /// EEXIST.
    #[error("file exists")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDir,
    /// EISDIR.
    #[error("is a directory")]
    IsDir,
    /// ENOTEMPTY.
    #[error("directory not empty")]
    NotEmpty,
    /// EINVAL.
    #[error("invalid argument")]
    Invalid,
    /// ENAMETOOLONG.
    #[error("name too long")]
    NameTooLong,
    /// EPERM.
    #[error("operation not permitted")]
    NotPermitted,
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    /// ENODATA.
    #[error("no such attribute")]
    NoXattr,
    /// ERANGE.
    #[error("attribute name too long")]
    XattrNameTooLong,
    /// E2BIG.
    #[error("attribute value too long")]
    XattrTooBig,
    /// EBUSY.
    #[error("resource busy")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Hard links of one file at the most; as many as their list in a row may grow to is twice this.
pub const LINKS_MAX: usize = 32_000;

/// What to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewNode {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
}

/// `renameat2` without flags, or with one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rename {
    /// What stands at the new name goes.
    Replace,
    /// `RENAME_NOREPLACE`.
    NoReplace,
    /// `RENAME_EXCHANGE`.
    Exchange,
}

/// `setxattr` with or without a flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrSet {
    /// Create or replace.
    Any,
    /// `XATTR_CREATE`.
    Create,
    /// `XATTR_REPLACE`.
    Replace,
}

type Ops = Result<Vec<Op>, PosixError>;

/// `mknod`, `mkdir`, `symlink`, `open(O_CREAT)`: the ops and the new inode.
///
/// `number_taken` says that an inode number is in use by an open or remembered file.
///
/// # Errors
/// EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EINVAL, EPERM, or the store's.
pub fn make(
    view: &View<'_>,
    parent: Ino,
    name: &[u8],
    node: NewNode,
    number_taken: &dyn Fn(u64) -> bool,
) -> Result<(Vec<Op>, Ino), PosixError> {
    todo!()
}

/// `link`.
///
/// # Errors
/// EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EMLINK, EPERM for directories, or the store's.
pub fn link(view: &View<'_>, ino: Ino, parent: Ino, name: &[u8]) -> Ops {
    todo!()
}

/// `unlink`; of a conflict name: that version goes, the file stays.
///
/// # Errors
/// ENOENT, EISDIR, ENOTDIR, or the store's.
pub fn unlink(view: &View<'_>, parent: Ino, name: &[u8]) -> Ops {
    todo!()
}

/// `rmdir`.
///
/// # Errors
/// ENOENT, ENOTDIR, ENOTEMPTY, or the store's.
pub fn rmdir(view: &View<'_>, parent: Ino, name: &[u8]) -> Ops {
    todo!()
}

/// `renameat2`; empty when there is nothing to do.
///
/// # Errors
/// All that `rename(2)` lists, or the store's.
pub fn rename(view: &View<'_>, from: (Ino, &[u8]), to: (Ino, &[u8]), how: Rename) -> Ops {
    todo!()
}

/// New content for a file; supersedes the heads in `based_on` (those the writer had open), what equals
/// them, and what was settled before. After the group is applied, the new head's id is the id of the
/// last op.
///
/// # Errors
/// ENOENT, EISDIR, or the store's.
pub fn put(view: &View<'_>, ino: Ino, based_on: &[OpId], content: Content, mtime_ns: i64) -> Ops {
    todo!()
}

/// Content for the conflict entry `head`: it becomes a file of its own, under the name it shows.
/// Returns the ops and the new inode.
///
/// # Errors
/// ENOENT, or the store's.
pub fn fork(view: &View<'_>, shown: &Shown, parent: Ino) -> Result<(Vec<Op>, Ino), PosixError> {
    todo!()
}

/// `chmod`, `chown`, `utimens`.
///
/// # Errors
/// ENOENT, or the store's.
pub fn attr(view: &View<'_>, ino: Ino, change: AttrChange) -> Ops {
    todo!()
}

/// `setxattr`.
///
/// # Errors
/// EEXIST, ENODATA, ERANGE, E2BIG, ENOENT, or the store's.
pub fn set_xattr(view: &View<'_>, ino: Ino, key: &[u8], value: &[u8], how: XattrSet) -> Ops {
    todo!()
}

/// `removexattr`.
///
/// # Errors
/// ENODATA, ENOENT, or the store's.
pub fn remove_xattr(view: &View<'_>, ino: Ino, key: &[u8]) -> Ops {
    todo!()
}
