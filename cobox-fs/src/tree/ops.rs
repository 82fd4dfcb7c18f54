//! Builders: each turns one system call into the group of ops that has its effect, or into the error
//! that POSIX asks for. They read a [`View`] and change nothing.

use super::names::{self, RESERVED_NAME, name_key};
use super::row::{Head, LinkRow, NodeRow};
use super::view::{Shown, Version, View};
use cobox_store::Error;
use cobox_store::format::content::Content;
use cobox_store::format::op::{AttrChange, Kind, MODE_MASK, Make, Op, is_legal_name};
use cobox_store::format::{
    NAME_BYTES_MAX, SEEN_MAX, TARGET_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
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

/// Hard links of one file at the most: half of what the list in a row can count, as devices may add
/// links at the same time.
pub const LINKS_MAX: usize = 32_000;

impl PosixError {
    /// The number that a system call returns; the caller maps [`PosixError::Store`] itself.
    #[must_use]
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        use rustix::io::Errno;
        Some(match self {
            Self::NoEntry => Errno::NOENT,
            Self::Exists => Errno::EXIST,
            Self::NotDir => Errno::NOTDIR,
            Self::IsDir => Errno::ISDIR,
            Self::NotEmpty => Errno::NOTEMPTY,
            Self::Invalid => Errno::INVAL,
            Self::NameTooLong => Errno::NAMETOOLONG,
            Self::NotPermitted => Errno::PERM,
            Self::TooManyLinks => Errno::MLINK,
            Self::NoXattr => Errno::NODATA,
            Self::XattrNameTooLong => Errno::RANGE,
            Self::XattrTooBig => Errno::TOOBIG,
            Self::Busy => Errno::BUSY,
            Self::Store(_) => return None,
        })
    }
}

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
    check_name(view, parent, name)?;
    let mut ops = revive_above(view, parent)?;
    if view.lookup(parent, name)?.is_some() {
        return Err(PosixError::Exists);
    }
    match (node.kind, node.target.len()) {
        (Kind::Symlink, 0) => return Err(PosixError::NoEntry),
        (Kind::Symlink, len) if len > TARGET_BYTES_MAX => return Err(PosixError::NameTooLong),
        (Kind::Symlink, _) if node.target.contains(&0) => return Err(PosixError::Invalid),
        _ => {}
    }
    let key = name_key(name, view.policy.case);
    let first = names::first_generation(node.kind, &node.target, node.rdev);
    let used = |nth: u32| -> Result<bool, Error> {
        let ino = names::ino_of(&parent, node.kind, first.wrapping_add(nth), &key);
        Ok(number_taken(names::number(&ino)) || view.node(ino)?.is_some())
    };
    let nth = first_unused(&used)?.ok_or(PosixError::TooManyLinks)?;
    let generation = first.wrapping_add(nth);
    let is_device = matches!(node.kind, Kind::CharDev | Kind::BlockDev);
    let is_symlink = node.kind == Kind::Symlink;
    ops.push(Op::Make(Make {
        parent,
        name: name.to_vec(),
        kind: node.kind,
        generation,
        mode: node.mode & MODE_MASK,
        mtime_ns: node.mtime_ns,
        uid: node.uid,
        gid: node.gid,
        rdev: if is_device { node.rdev } else { 0 },
        target: if is_symlink { node.target } else { Vec::new() },
    }));
    Ok((ops, names::ino_of(&parent, node.kind, generation, &key)))
}

/// The first unused generation. Used ones form a prefix (whoever made one had seen those below), so
/// doubling and halving find the end even for a lock file that was made a million times.
fn first_unused(used: &dyn Fn(u32) -> Result<bool, Error>) -> Result<Option<u32>, Error> {
    if !used(0)? {
        return Ok(Some(0));
    }
    let (mut taken, mut step) = (0u32, 1u32);
    let mut free = loop {
        let Some(probe) = taken.checked_add(step) else { return Ok(None) };
        if !used(probe)? {
            break probe;
        }
        taken = probe;
        step = step.saturating_mul(2);
    };
    while free - taken > 1 {
        let middle = taken + (free - taken) / 2;
        if used(middle)? { taken = middle } else { free = middle }
    }
    Ok(Some(free))
}

/// `link`.
///
/// # Errors
/// EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EMLINK, EPERM for directories, or the store's.
pub fn link(view: &View<'_>, ino: Ino, parent: Ino, name: &[u8]) -> Ops {
    check_name(view, parent, name)?;
    let node = live_node(view, ino)?;
    if node.kind == Kind::Dir {
        return Err(PosixError::NotPermitted);
    }
    let mut ops = revive_above(view, parent)?;
    if view.lookup(parent, name)?.is_some() {
        return Err(PosixError::Exists);
    }
    if node.links.len() >= LINKS_MAX {
        return Err(PosixError::TooManyLinks);
    }
    if let Some(link) = node.revived {
        // Only a link with a dot counts beside the new one.
        ops.push(Op::Revive { link });
    }
    ops.push(Op::Link { ino, parent, name: name.to_vec() });
    Ok(ops)
}

/// `unlink`; of a conflict name: that version goes, the file stays. Where a file is removed that has
/// conflict entries, each of them becomes a file of its own first.
///
/// # Errors
/// ENOENT, EISDIR, ENOTDIR, or the store's.
pub fn unlink(view: &View<'_>, parent: Ino, name: &[u8]) -> Ops {
    let shown = find(view, parent, name)?;
    if shown.kind == Kind::Dir {
        return Err(PosixError::IsDir);
    }
    let mut ops = revive_above(view, parent)?;
    ops.extend(removal(view, parent, &shown)?);
    Ok(ops)
}

/// `rmdir`.
///
/// # Errors
/// ENOENT, ENOTDIR, ENOTEMPTY, or the store's.
pub fn rmdir(view: &View<'_>, parent: Ino, name: &[u8]) -> Ops {
    let shown = find(view, parent, name)?;
    if shown.kind != Kind::Dir {
        return Err(PosixError::NotDir);
    }
    let mut ops = revive_above(view, parent)?;
    ops.extend(removal(view, parent, &shown)?);
    Ok(ops)
}

/// `renameat2`; empty when there is nothing to do.
///
/// # Errors
/// All that `rename(2)` lists, or the store's.
pub fn rename(view: &View<'_>, from: (Ino, &[u8]), to: (Ino, &[u8]), how: Rename) -> Ops {
    let source = find(view, from.0, from.1)?;
    check_name(view, to.0, to.1)?;
    let mut ops = revive_above(view, from.0)?;
    for op in revive_above(view, to.0)? {
        if !ops.contains(&op) {
            ops.push(op);
        }
    }
    if source.kind == Kind::Dir && is_inside(view, to.0, source.ino)? {
        return Err(PosixError::Invalid);
    }
    let target = view.lookup(to.0, to.1)?;
    match how {
        Rename::Exchange => {
            ops.extend(exchange(view, (from, &source), (to, &target.ok_or(PosixError::NoEntry)?))?);
            return Ok(ops);
        }
        Rename::NoReplace if target.is_some() => return Err(PosixError::Exists),
        Rename::NoReplace | Rename::Replace => {}
    }
    if let Some(target) = &target {
        if target.link == source.link && target.version == source.version {
            // Only the spelling may change, on a folder that folds names.
            return if from == to { Ok(Vec::new()) } else { Ok(with_move(view, ops, &source, to)?) };
        }
        match (source.version, target.version) {
            (Version::Winner, Version::Winner) if target.ino == source.ino => return Ok(Vec::new()),
            (Version::Conflict(take), Version::Winner) if target.ino == source.ino => {
                let drop = heads_like(view, target.ino, None)?;
                ops.push(Op::Keep { ino: source.ino, take, drop });
                return Ok(ops);
            }
            _ => {}
        }
        match (source.kind == Kind::Dir, target.kind == Kind::Dir) {
            (true, false) => return Err(PosixError::NotDir),
            (false, true) => return Err(PosixError::IsDir),
            _ => {}
        }
        ops.extend(removal(view, to.0, target)?);
    }
    with_move(view, ops, &source, to)
}

fn exchange(view: &View<'_>, a: ((Ino, &[u8]), &Shown), b: ((Ino, &[u8]), &Shown)) -> Ops {
    let ((from, source), (to, target)) = (a, b);
    if source.version != Version::Winner || target.version != Version::Winner {
        return Err(PosixError::Invalid);
    }
    if source.ino == target.ino {
        return Ok(Vec::new());
    }
    check_name(view, from.0, from.1)?;
    if target.kind == Kind::Dir && is_inside(view, from.0, target.ino)? {
        return Err(PosixError::Invalid);
    }
    let ops = with_move(view, Vec::new(), source, to)?;
    with_move(view, ops, target, from)
}

/// New content for a file; supersedes the heads in `based_on` (those the writer had open), what equals
/// them, and what was settled before. After the group is applied, the new head's id is the id of the
/// last op.
///
/// # Errors
/// ENOENT, EISDIR, or the store's.
pub fn put(view: &View<'_>, ino: Ino, based_on: &[OpId], content: Content, mtime_ns: i64) -> Ops {
    let node = view.node(ino)?.ok_or(PosixError::NoEntry)?;
    match node.kind {
        Kind::File => {}
        Kind::Dir => return Err(PosixError::IsDir),
        _ => return Err(PosixError::Invalid),
    }
    let base: Vec<&Head> = node.heads.iter().filter(|head| based_on.contains(&head.id)).collect();
    let goes = |head: &&Head| {
        head.settled.is_some()
            || base.iter().any(|other| other.id == head.id || other.content == head.content)
    };
    let parents = node.heads.iter().filter(goes).map(|head| head.id).take(SEEN_MAX).collect();
    Ok(vec![Op::Put { ino, parents, content, mtime_ns }])
}

/// Before a conflict entry is written to: it becomes a file of its own, under the name it shows in
/// `parent`. Returns the ops and the new inode.
///
/// # Errors
/// ENOENT, or the store's.
pub fn fork(view: &View<'_>, shown: &Shown, parent: Ino) -> Result<(Vec<Op>, Ino), PosixError> {
    let Version::Conflict(head) = shown.version else { return Err(PosixError::Invalid) };
    fork_to(view, shown.ino, head, (parent, &shown.name))
}

/// `chmod`, `chown`, `utimens`.
///
/// # Errors
/// ENOENT, or the store's.
pub fn attr(view: &View<'_>, ino: Ino, change: AttrChange) -> Ops {
    view.node(ino)?.ok_or(PosixError::NoEntry)?;
    let change = AttrChange { mode: change.mode.map(|mode| mode & MODE_MASK), ..change };
    if change == AttrChange::default() { Ok(Vec::new()) } else { Ok(vec![Op::Attr { ino, change }]) }
}

/// `setxattr`.
///
/// # Errors
/// EEXIST, ENODATA, ERANGE, E2BIG, ENOENT, or the store's.
pub fn set_xattr(view: &View<'_>, ino: Ino, key: &[u8], value: &[u8], how: XattrSet) -> Ops {
    let present = has_xattr(view, ino, key)?;
    match how {
        XattrSet::Create if present => return Err(PosixError::Exists),
        XattrSet::Replace if !present => return Err(PosixError::NoXattr),
        _ => {}
    }
    if value.len() > XATTR_VALUE_BYTES_MAX {
        return Err(PosixError::XattrTooBig);
    }
    Ok(vec![Op::Xattr { ino, key: key.to_vec(), value: Some(value.to_vec()) }])
}

/// `removexattr`.
///
/// # Errors
/// ENODATA, ENOENT, or the store's.
pub fn remove_xattr(view: &View<'_>, ino: Ino, key: &[u8]) -> Ops {
    if !has_xattr(view, ino, key)? {
        return Err(PosixError::NoXattr);
    }
    Ok(vec![Op::Xattr { ino, key: key.to_vec(), value: None }])
}

fn has_xattr(view: &View<'_>, ino: Ino, key: &[u8]) -> Result<bool, PosixError> {
    if key.is_empty() || key.contains(&0) {
        return Err(PosixError::Invalid);
    }
    if key.len() > XATTR_NAME_BYTES_MAX {
        return Err(PosixError::XattrNameTooLong);
    }
    let node = view.node(ino)?.ok_or(PosixError::NoEntry)?;
    Ok(node.xattrs.binary_search_by(|name| name.as_slice().cmp(key)).is_ok())
}

fn check_name(view: &View<'_>, parent: Ino, name: &[u8]) -> Result<(), PosixError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(PosixError::NameTooLong);
    }
    if !is_legal_name(name) {
        return Err(PosixError::Invalid);
    }
    if is_reserved(view, parent, name) {
        return Err(PosixError::NotPermitted);
    }
    Ok(())
}

/// Whether CoBox itself answers there.
fn is_reserved(view: &View<'_>, parent: Ino, name: &[u8]) -> bool {
    parent == Ino::ROOT && name_key(name, view.policy.case) == RESERVED_NAME
}

fn live_node(view: &View<'_>, ino: Ino) -> Result<Box<NodeRow>, PosixError> {
    if view.is_dead(ino)? {
        return Err(PosixError::NoEntry);
    }
    view.node(ino)?.ok_or(PosixError::NoEntry)
}

fn live_link(view: &View<'_>, link: LinkId) -> Result<LinkRow, PosixError> {
    view.link(link)?.ok_or(PosixError::NoEntry)
}

fn find(view: &View<'_>, parent: Ino, name: &[u8]) -> Result<Shown, PosixError> {
    if view.node(parent)?.is_some_and(|node| node.kind != Kind::Dir) {
        return Err(PosixError::NotDir);
    }
    if is_reserved(view, parent, name) {
        return Err(PosixError::Busy);
    }
    view.lookup(parent, name)?.ok_or(PosixError::NoEntry)
}

/// The ops that make dead but visible directories live, from `dir` up to the first live one: what
/// happens below a directory says that it is wanted.
fn revive_above(view: &View<'_>, dir: Ino) -> Ops {
    let mut ops = Vec::new();
    let mut cursor = dir;
    while cursor != Ino::ROOT {
        let node = view.node(cursor)?.ok_or(PosixError::NoEntry)?;
        if node.kind != Kind::Dir {
            return Err(PosixError::NotDir);
        }
        let link = *node.links.first().ok_or(PosixError::NoEntry)?;
        let row = live_link(view, link)?;
        if !row.dots.is_empty() {
            break;
        }
        if node.visible_children == 0 {
            return Err(PosixError::NoEntry);
        }
        ops.push(Op::Revive { link });
        cursor = row.place().ok_or(PosixError::NoEntry)?.parent;
    }
    Ok(ops)
}

/// Whether `inner` is `outer` or stands below it.
fn is_inside(view: &View<'_>, mut inner: Ino, outer: Ino) -> Result<bool, PosixError> {
    while inner != outer {
        let Some((parent, _)) = view.place(inner)? else { return Ok(false) };
        inner = parent;
    }
    Ok(true)
}

/// The ops that take what `shown` is out of `parent`.
fn removal(view: &View<'_>, parent: Ino, shown: &Shown) -> Ops {
    let node = view.node(shown.ino)?.ok_or(PosixError::NoEntry)?;
    if let Version::Conflict(head) = shown.version {
        let take = node.shown_heads().first().map_or(head, |winner| winner.id);
        let drop = heads_like(view, shown.ino, Some(head))?;
        return Ok(vec![Op::Keep { ino: shown.ino, take, drop }]);
    }
    if node.visible_children > 0 {
        return Err(PosixError::NotEmpty);
    }
    let row = live_link(view, shown.link)?;
    let last = node.links.iter().all(|link| *link == shown.link);
    let mut ops = Vec::new();
    if last && node.shown_heads().len() > 1 {
        let slot = view.slot(parent, row.place().map_or(&shown.name, |place| &place.name))?;
        for other in view.visible_names(parent, &slot)? {
            if other.link == shown.link && other.version != Version::Winner {
                ops.extend(fork(view, &other, parent)?.0);
            }
        }
    }
    let heads = node.heads.iter().filter(|_| last).map(|head| head.id);
    ops.push(Op::Unlink {
        link: shown.link,
        seen_dots: row.dots.iter().copied().take(SEEN_MAX).collect(),
        seen_heads: heads.take(SEEN_MAX).collect(),
        last,
    });
    Ok(ops)
}

/// `head` (`None`: the winner) and the heads of equal content.
fn heads_like(view: &View<'_>, ino: Ino, head: Option<OpId>) -> Result<Vec<OpId>, PosixError> {
    let node = view.node(ino)?.ok_or(PosixError::NoEntry)?;
    let shown = node.shown_heads();
    let like = match head {
        Some(id) => node.heads.iter().find(|head| head.id == id),
        None => shown.first().copied(),
    };
    let content = &like.ok_or(PosixError::NoEntry)?.content;
    let equal = node.heads.iter().filter(|head| head.settled.is_none() && head.content == *content);
    Ok(equal.map(|head| head.id).take(SEEN_MAX).collect())
}

fn fork_to(view: &View<'_>, ino: Ino, head: OpId, to: (Ino, &[u8])) -> Result<(Vec<Op>, Ino), PosixError> {
    let node = view.node(ino)?.ok_or(PosixError::NoEntry)?;
    let kept = node.heads.iter().find(|other| other.id == head).ok_or(PosixError::NoEntry)?;
    let (fork, link) = names::fork_of(&ino, head);
    let change = AttrChange {
        mode: Some(node.mode.value),
        uid: Some(node.uid.value),
        gid: Some(node.gid.value),
        mtime_ns: Some(kept.mtime_ns),
    };
    let mut ops = vec![
        Op::Fork { ino, head },
        Op::Move { link, parent: to.0, name: to.1.to_vec(), seen_dots: Vec::new() },
        Op::Put { ino: fork, parents: Vec::new(), content: kept.content.clone(), mtime_ns: kept.mtime_ns },
        Op::Attr { ino: fork, change },
    ];
    let twins: Vec<OpId> = heads_like(view, ino, Some(head))?.into_iter().filter(|id| *id != head).collect();
    if !twins.is_empty() {
        let take = node.shown_heads().first().map_or(head, |winner| winner.id);
        ops.push(Op::Keep { ino, take, drop: twins });
    }
    Ok((ops, fork))
}

/// Adds the op that brings `source` to its new name.
fn with_move(view: &View<'_>, mut ops: Vec<Op>, source: &Shown, to: (Ino, &[u8])) -> Ops {
    match source.version {
        Version::Conflict(head) => ops.extend(fork_to(view, source.ino, head, to)?.0),
        Version::Winner => ops.push(Op::Move {
            link: source.link,
            parent: to.0,
            name: to.1.to_vec(),
            seen_dots: live_link(view, source.link)?.dots.into_iter().take(SEEN_MAX).collect(),
        }),
    }
    Ok(ops)
}
