//! The rows that cache the tree's state.
//!
//! Deleting them and replaying the logs gives them back.

use cobox_store::format::content::Content;
use cobox_store::format::op::Kind;
use cobox_store::id::{Ino, LinkId, OpId};

/// The keyed hash of a name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotHash(pub [u8; 16]);

/// Which row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RowKey {
    /// [`Row::Node`].
    Node(Ino),
    /// [`Row::Link`].
    Link(LinkId),
    /// [`Row::Dirent`]: the directory, and which slot of it.
    Dirent(Ino, SlotHash),
    /// [`Row::Xattr`]: of what, and the full name. The name must not be stored in the clear.
    Xattr(Ino, Vec<u8>),
    /// [`Row::DirMove`].
    DirMove(OpId),
    /// [`Row::NewestDirMove`]: one per folder.
    NewestDirMove,
    /// [`Row::Note`].
    Note(Note),
}

/// Where a person may have to look: kept beside the rows it points at, so that a list of conflicts need
/// not read the whole tree. It follows from that one row alone ([`Row::note`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Note {
    /// A name with several things or versions behind it.
    Slot(Ino, SlotHash),
    /// A removed file that an unseen edit brought back.
    Node(Ino),
    /// A removed directory that something in it keeps visible.
    Link(LinkId),
    /// A move of a directory that was skipped.
    Move(OpId),
}

/// A row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Row {
    /// An inode, dead ones included.
    Node(Box<NodeRow>),
    /// A name of an inode, removed ones included.
    Link(LinkRow),
    /// What stands under one name.
    Dirent(Slot),
    /// An extended attribute, removed ones included.
    Xattr(XattrRow),
    /// A move of a directory.
    DirMove(DirMoveRow),
    /// The greatest id of a [`Row::DirMove`].
    NewestDirMove(OpId),
    /// Repeats its key, which is not stored in the clear.
    Note(Note),
}

/// A field that the greatest op id decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamped<T> {
    /// The value.
    pub value: T,
    /// Who set it.
    pub id: OpId,
}

impl<T> Stamped<T> {
    pub(crate) fn set(&mut self, value: T, id: OpId) {
        if id > self.id {
            *self = Self { value, id };
        }
    }
}

/// A version of a file's content that nothing superseded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// The `Put` that wrote it.
    pub id: OpId,
    /// The bytes.
    pub content: Content,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Whether someone who removed the file's last name had seen it.
    pub seen: Seen,
    /// The op (`Fork` or `Keep`) that took it out of the file, if one did.
    pub settled: Option<OpId>,
}

/// Whether a head was known to someone who removed the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It keeps the file alive.
    Not,
    /// It goes with the file.
    ByLastUnlink,
}

/// An inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRow {
    /// What it is.
    pub kind: Kind,
    /// Of its id.
    pub generation: u32,
    /// The greatest `Make` of it; decides `rdev` and `target`.
    pub made: OpId,
    /// Permission bits.
    pub mode: Stamped<u32>,
    /// Nanoseconds since 1970; of a directory, as set and not as changed by its entries.
    pub mtime_ns: Stamped<i64>,
    /// Owner.
    pub uid: Stamped<u32>,
    /// Group.
    pub gid: Stamped<u32>,
    /// Device number of a device node.
    pub rdev: u32,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Versions of the content, ascending by id.
    pub heads: Vec<Head>,
    /// Of a directory its one link; of others the links that have a dot, ascending.
    pub links: Vec<LinkId>,
    /// The greatest `Unlink` of any of its links.
    pub unlinked: Option<(OpId, LinkId)>,
    /// Whether some `Unlink` said that it removed the last name.
    pub last_unlinked: bool,
    /// The removed link that an unseen edit brings back.
    pub revived: Option<LinkId>,
    /// Visible links that stand in this directory.
    pub visible_children: u64,
    /// How many of them are directories.
    pub visible_dirs: u64,
    /// The newest change of this directory's entries. Local: devices may differ after a race.
    pub entries_changed: OpId,
    /// The newest change of anything about it. Local: devices may differ after a race, and content that was written
    /// here counts as of then, ahead of its op ([`keep_changed`]).
    pub changed: OpId,
    /// Names of the extended attributes that are set, ascending.
    pub xattrs: Vec<Vec<u8>>,
}

/// Where a link stands since which op.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The op that put it there.
    pub id: OpId,
    /// The directory.
    pub parent: Ino,
    /// The raw name.
    pub name: Vec<u8>,
}

/// A name of an inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkRow {
    /// Of what.
    pub ino: Ino,
    /// What that is.
    pub kind: Kind,
    /// Whether its slot lists it now.
    pub listed: Listed,
    /// Creating and moving ops that no later op removed, ascending.
    pub dots: Vec<OpId>,
    /// Of a directory: where it was made, then where it was moved to if it was. Of others, ascending:
    /// the placements of the dots and the greatest placement ever.
    pub places: Vec<Placement>,
}

/// Whether a slot lists a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listed {
    /// It is not to be seen.
    No,
    /// It is.
    Yes,
}

/// The visible links of one name, ascending by link.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Slot {
    /// At least one in a stored row.
    pub entries: Vec<SlotEntry>,
}

/// A visible link, with all that a directory listing needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotEntry {
    /// Which link.
    pub link: LinkId,
    /// Of what.
    pub ino: Ino,
    /// What that is.
    pub kind: Kind,
    /// The raw name it was given.
    pub name: Vec<u8>,
    /// Since when it stands here.
    pub placed: OpId,
    /// How many versions the listing shows.
    pub versions: Versions,
}

/// How many versions of a file's content are to be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Versions {
    /// At most one.
    One,
    /// Two or more: conflict entries stand beside the name.
    Several,
}

/// An extended attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XattrRow {
    /// Who set or removed it.
    pub id: OpId,
    /// `None` once removed.
    pub value: Option<Vec<u8>>,
}

/// A move of a directory, in a list that is sorted by op id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirMoveRow {
    /// The directory's link.
    pub link: LinkId,
    /// To where.
    pub parent: Ino,
    /// Under which name.
    pub name: Vec<u8>,
    /// The next smaller move.
    pub previous: Option<OpId>,
    /// What it did.
    pub effect: MoveEffect,
}

/// What a move of a directory did, given all smaller moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MoveEffect {
    /// It would have put the directory inside itself.
    Skipped,
    /// The directory was where it had been made.
    First,
    /// The directory had been moved here before.
    Replaced(Placement),
}

impl NodeRow {
    /// The root of every folder: nobody made it.
    #[must_use]
    pub fn root() -> Box<Self> {
        let stamp = OpId::ZERO;
        Box::new(Self {
            kind: Kind::Dir,
            generation: 0,
            made: stamp,
            mode: Stamped { value: 0o755, id: stamp },
            mtime_ns: Stamped { value: 0, id: stamp },
            uid: Stamped { value: 0, id: stamp },
            gid: Stamped { value: 0, id: stamp },
            rdev: 0,
            target: Vec::new(),
            heads: Vec::new(),
            links: Vec::new(),
            unlinked: None,
            last_unlinked: false,
            revived: None,
            visible_children: 0,
            visible_dirs: 0,
            entries_changed: stamp,
            changed: stamp,
            xattrs: Vec::new(),
        })
    }
}

/// Among changed rows, has a file count as changed when its content was written, and not when that became an op.
///
/// `stat` has shown that time since: whoever looks at a file, reads it and looks again (`tar`, git's index) must not
/// see a change that was none. `before` is [`NodeRow::changed`] without the op; `ms` is zero where the time is not
/// known, which leaves that of the op.
pub fn keep_changed(changes: &mut [(RowKey, Option<Row>)], ino: Ino, before: OpId, ms: u64) {
    let row = changes.iter_mut().find(|(key, _)| *key == RowKey::Node(ino));
    let node = row.and_then(|(_, row)| row.as_mut()?.as_node_mut());
    if let Some(node) = node.filter(|_| ms > 0) {
        // Never newer than the op, which is behind where the clock was set back since: what comes after the op is
        // newer than that and nothing more.
        let written = OpId { hlc: ms.saturating_mul(1 << 16), log: node.changed.log };
        node.changed = before.max(written.min(node.changed));
    }
}

impl LinkRow {
    /// Where it stands, or would stand if it were visible. `None` for a fork that was given no name.
    #[must_use]
    pub fn place(&self) -> Option<&Placement> {
        if self.kind == Kind::Dir {
            return self.places.last();
        }
        self.places.iter().rev().find(|place| self.dots.contains(&place.id)).or_else(|| self.places.last())
    }
}

impl Row {
    /// The note that belongs beside this row, if one does.
    #[must_use]
    pub fn note(&self, key: &RowKey) -> Option<Note> {
        match (key, self) {
            (RowKey::Dirent(parent, hash), Self::Dirent(slot)) => {
                let several = |entry: &SlotEntry| entry.versions == Versions::Several;
                let noted = slot.entries.len() > 1 || slot.entries.iter().any(several);
                noted.then_some(Note::Slot(*parent, *hash))
            }
            (RowKey::Node(ino), Self::Node(node)) => node.revived.map(|_| Note::Node(*ino)),
            (RowKey::Link(link), Self::Link(row)) => {
                let returned = row.kind == Kind::Dir && row.listed == Listed::Yes && row.dots.is_empty();
                returned.then_some(Note::Link(*link))
            }
            (RowKey::DirMove(id), Self::DirMove(row)) => {
                (row.effect == MoveEffect::Skipped).then_some(Note::Move(*id))
            }
            _ => None,
        }
    }

    /// Bytes of memory outside the row itself, near enough for a cache's bound.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Node(row) => {
                let heads = row.heads.iter().map(|head| size_of::<Head>() + head.content.heap_bytes());
                let xattrs = row.xattrs.iter().map(|name| size_of::<Vec<u8>>() + name.len());
                size_of::<NodeRow>()
                    + row.target.len()
                    + heads.sum::<usize>()
                    + size_of_val(&row.links[..])
                    + xattrs.sum::<usize>()
            }
            Self::Link(row) => {
                let places = row.places.iter().map(|place| size_of::<Placement>() + place.name.len());
                size_of_val(&row.dots[..]) + places.sum::<usize>()
            }
            Self::Dirent(slot) => {
                slot.entries.iter().map(|entry| size_of::<SlotEntry>() + entry.name.len()).sum()
            }
            Self::Xattr(row) => row.value.as_ref().map_or(0, Vec::len),
            Self::DirMove(row) => row.name.len(),
            Self::NewestDirMove(_) | Self::Note(_) => 0,
        }
    }

    pub(crate) fn as_node(&self) -> Option<&NodeRow> {
        match self {
            Self::Node(row) => Some(row),
            _ => None,
        }
    }

    pub(crate) fn as_node_mut(&mut self) -> Option<&mut NodeRow> {
        match self {
            Self::Node(row) => Some(row),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_is_kept_between_what_was_before_and_the_op() {
        let (ino, id) = (Ino([3; 16]), |ms: u64| OpId { hlc: ms << 16, log: 4 });
        let kept = |ms: u64| {
            let node = NodeRow { changed: id(30), ..*NodeRow::root() };
            let mut changes =
                [(RowKey::NewestDirMove, None), (RowKey::Node(ino), Some(Row::Node(Box::new(node))))];
            keep_changed(&mut changes, ino, id(10), ms);
            changes[1].1.as_ref().and_then(Row::as_node).map(|node| node.changed)
        };
        assert_eq!(kept(20), Some(id(20)));
        // Before something else that was changed since; not known; and the clock was set back since.
        assert_eq!(kept(5), Some(id(10)));
        assert_eq!(kept(0), Some(id(30)));
        assert_eq!(kept(40), Some(id(30)));
        assert_eq!(kept(u64::MAX), Some(id(30)));
    }
}
