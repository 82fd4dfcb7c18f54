//! The rows that cache the tree's state, and their local encoding.
//!
//! Rows are a cache: deleting them and replaying the logs gives them back. So their encoding has a
//! version of its own and is never sent. The common row (a file with one name, made and not changed)
//! is kept short, because each create and delete writes four of them.

use cobox_store::format::content::Content;
use cobox_store::format::op::Kind;
use cobox_store::format::{
    DecodeError, NAME_BYTES_MAX, Reader, TARGET_BYTES_MAX, Writer, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
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
    /// The newest change of anything about it. Local: devices may differ after a race.
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

    /// The row's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(ROW_VERSION);
        match self {
            Self::Node(row) => row.encode(&mut writer),
            Self::Link(row) => row.encode(&mut writer),
            Self::Dirent(slot) => slot.encode(&mut writer),
            Self::Xattr(row) => {
                writer.op_id(row.id);
                writer.u8(u8::from(row.value.is_some()));
                writer.fixed(row.value.as_deref().unwrap_or_default());
            }
            Self::DirMove(row) => row.encode(&mut writer),
            Self::NewestDirMove(id) => writer.op_id(*id),
        }
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote; `key` says what kind of row it is.
    ///
    /// # Errors
    /// On anything [`Self::encode`] does not write.
    pub fn decode(key: &RowKey, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version(ROW_VERSION, "row")?;
        let row = match key {
            RowKey::Node(_) => Self::Node(Box::new(NodeRow::decode(&mut reader)?)),
            RowKey::Link(_) => Self::Link(LinkRow::decode(&mut reader)?),
            RowKey::Dirent(..) => Self::Dirent(Slot::decode(&mut reader)?),
            RowKey::Xattr(..) => Self::Xattr(XattrRow::decode(&mut reader)?),
            RowKey::DirMove(_) => Self::DirMove(DirMoveRow::decode(&mut reader)?),
            RowKey::NewestDirMove => Self::NewestDirMove(reader.op_id("newest move")?),
        };
        reader.finish()?;
        Ok(row)
    }
}

const ROW_VERSION: u8 = 1;
/// Lists inside rows grow with concurrency and hard links only; their count is 16 bits wide.
const LIST_MAX: usize = u16::MAX as usize;

/// Bits of the first field of a node row: which rare parts follow.
mod part {
    pub const MODE: u16 = 1;
    pub const MTIME: u16 = 1 << 1;
    pub const UID: u16 = 1 << 2;
    pub const GID: u16 = 1 << 3;
    pub const RDEV: u16 = 1 << 4;
    pub const TARGET: u16 = 1 << 5;
    pub const HEADS: u16 = 1 << 6;
    pub const UNLINKED: u16 = 1 << 7;
    pub const LAST: u16 = 1 << 8;
    pub const REVIVED: u16 = 1 << 9;
    pub const CHILDREN: u16 = 1 << 10;
    pub const ENTRIES: u16 = 1 << 11;
    pub const CHANGED: u16 = 1 << 12;
    pub const XATTRS: u16 = 1 << 13;
    pub const ALL: u16 = (1 << 14) - 1;
}

impl NodeRow {
    fn parts(&self) -> u16 {
        let bit = |set: bool, bit: u16| if set { bit } else { 0 };
        bit(self.mode.id != self.made, part::MODE)
            | bit(self.mtime_ns.id != self.made, part::MTIME)
            | bit(self.uid.id != self.made, part::UID)
            | bit(self.gid.id != self.made, part::GID)
            | bit(self.rdev != 0, part::RDEV)
            | bit(!self.target.is_empty(), part::TARGET)
            | bit(!self.heads.is_empty(), part::HEADS)
            | bit(self.unlinked.is_some(), part::UNLINKED)
            | bit(self.last_unlinked, part::LAST)
            | bit(self.revived.is_some(), part::REVIVED)
            | bit(self.visible_children != 0, part::CHILDREN)
            | bit(self.entries_changed != OpId::ZERO, part::ENTRIES)
            | bit(self.changed != self.made, part::CHANGED)
            | bit(!self.xattrs.is_empty(), part::XATTRS)
    }

    fn encode(&self, writer: &mut Writer) {
        let parts = self.parts();
        writer.u16(parts);
        writer.u8(self.kind as u8);
        writer.u32(self.generation);
        writer.op_id(self.made);
        writer.u32(self.mode.value);
        writer.i64(self.mtime_ns.value);
        writer.u32(self.uid.value);
        writer.u32(self.gid.value);
        for (bit, id) in [
            (part::MODE, self.mode.id),
            (part::MTIME, self.mtime_ns.id),
            (part::UID, self.uid.id),
            (part::GID, self.gid.id),
            (part::ENTRIES, self.entries_changed),
            (part::CHANGED, self.changed),
        ] {
            if parts & bit != 0 {
                writer.op_id(id);
            }
        }
        writer.count(self.links.len());
        self.links.iter().for_each(|link| writer.fixed(&link.0));
        if parts & part::RDEV != 0 {
            writer.u32(self.rdev);
        }
        if parts & part::TARGET != 0 {
            writer.bytes16(&self.target);
        }
        if let Some((id, link)) = self.unlinked {
            writer.op_id(id);
            writer.fixed(&link.0);
        }
        if let Some(link) = self.revived {
            writer.fixed(&link.0);
        }
        if parts & part::CHILDREN != 0 {
            writer.u64(self.visible_children);
            writer.u64(self.visible_dirs);
        }
        if parts & part::HEADS != 0 {
            writer.count(self.heads.len());
            self.heads.iter().for_each(|head| head.encode(writer));
        }
        if parts & part::XATTRS != 0 {
            writer.count(self.xattrs.len());
            self.xattrs.iter().for_each(|name| writer.bytes16(name));
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "node row";
        let parts = reader.u16(field)?;
        if parts & !part::ALL != 0 {
            return Err(DecodeError::Invalid { field });
        }
        let has = |bit: u16| parts & bit != 0;
        let kind = Kind::from_byte(reader.u8(field)?)?;
        let generation = reader.u32(field)?;
        let made = reader.op_id(field)?;
        let (mode, mtime, uid, gid) = (reader.u32(field)?, reader.i64(field)?, reader.u32(field)?, reader.u32(field)?);
        let mut stamp = |bit: u16, default: OpId| if has(bit) { reader.op_id(field) } else { Ok(default) };
        let mut row = Self {
            kind,
            generation,
            made,
            mode: Stamped { value: mode, id: stamp(part::MODE, made)? },
            mtime_ns: Stamped { value: mtime, id: stamp(part::MTIME, made)? },
            uid: Stamped { value: uid, id: stamp(part::UID, made)? },
            gid: Stamped { value: gid, id: stamp(part::GID, made)? },
            entries_changed: stamp(part::ENTRIES, OpId::ZERO)?,
            changed: stamp(part::CHANGED, made)?,
            ..*Self::root()
        };
        let links = reader.count(LIST_MAX, 16, field)?;
        row.links = (0..links).map(|_| reader.link_id(field)).collect::<Result<_, _>>()?;
        row.rdev = if has(part::RDEV) { reader.u32(field)? } else { 0 };
        if has(part::TARGET) {
            row.target = reader.bytes16(TARGET_BYTES_MAX, field)?.to_vec();
        }
        row.unlinked =
            if has(part::UNLINKED) { Some((reader.op_id(field)?, reader.link_id(field)?)) } else { None };
        row.last_unlinked = has(part::LAST);
        row.revived = if has(part::REVIVED) { Some(reader.link_id(field)?) } else { None };
        if has(part::CHILDREN) {
            (row.visible_children, row.visible_dirs) = (reader.u64(field)?, reader.u64(field)?);
        }
        if has(part::HEADS) {
            let heads = reader.count(LIST_MAX, 26, field)?;
            row.heads = (0..heads).map(|_| Head::decode(reader)).collect::<Result<_, _>>()?;
        }
        if has(part::XATTRS) {
            let names = reader.count(LIST_MAX, 2, field)?;
            let name = |_| reader.bytes16(XATTR_NAME_BYTES_MAX, field).map(<[u8]>::to_vec);
            row.xattrs = (0..names).map(name).collect::<Result<_, _>>()?;
        }
        if row.parts() == parts { Ok(row) } else { Err(DecodeError::Invalid { field }) }
    }
}

impl Head {
    fn encode(&self, writer: &mut Writer) {
        writer.op_id(self.id);
        writer.u8(u8::from(self.seen == Seen::ByLastUnlink));
        writer.u8(u8::from(self.settled.is_some()));
        if let Some(id) = self.settled {
            writer.op_id(id);
        }
        writer.i64(self.mtime_ns);
        self.content.encode(writer);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "head";
        Ok(Self {
            id: reader.op_id(field)?,
            seen: if reader.flag(field)? { Seen::ByLastUnlink } else { Seen::Not },
            settled: if reader.flag(field)? { Some(reader.op_id(field)?) } else { None },
            mtime_ns: reader.i64(field)?,
            content: Content::decode(reader)?,
        })
    }
}

impl Placement {
    fn encode(&self, writer: &mut Writer) {
        writer.op_id(self.id);
        writer.fixed(&self.parent.0);
        writer.bytes16(&self.name);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "placement";
        Ok(Self {
            id: reader.op_id(field)?,
            parent: reader.ino(field)?,
            name: reader.bytes16(NAME_BYTES_MAX, field)?.to_vec(),
        })
    }
}

impl LinkRow {
    fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.ino.0);
        writer.u8(self.kind as u8);
        writer.u8(u8::from(self.listed == Listed::Yes));
        writer.op_ids(&self.dots);
        writer.count(self.places.len());
        self.places.iter().for_each(|place| place.encode(writer));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "link row";
        let ino = reader.ino(field)?;
        let kind = Kind::from_byte(reader.u8(field)?)?;
        let listed = if reader.flag(field)? { Listed::Yes } else { Listed::No };
        let dots = reader.op_ids(LIST_MAX, field)?;
        let places = reader.count(LIST_MAX, 34, field)?;
        let places = (0..places).map(|_| Placement::decode(reader)).collect::<Result<_, _>>()?;
        Ok(Self { ino, kind, listed, dots, places })
    }
}

impl Slot {
    fn encode(&self, writer: &mut Writer) {
        writer.count(self.entries.len());
        for entry in &self.entries {
            writer.fixed(&entry.link.0);
            writer.fixed(&entry.ino.0);
            writer.u8(entry.kind as u8);
            writer.u8(u8::from(entry.versions == Versions::Several));
            writer.op_id(entry.placed);
            writer.bytes16(&entry.name);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "slot row";
        let count = reader.count(LIST_MAX, 52, field)?;
        let entry = |_| {
            Ok(SlotEntry {
                link: reader.link_id(field)?,
                ino: reader.ino(field)?,
                kind: Kind::from_byte(reader.u8(field)?)?,
                versions: if reader.flag(field)? { Versions::Several } else { Versions::One },
                placed: reader.op_id(field)?,
                name: reader.bytes16(NAME_BYTES_MAX, field)?.to_vec(),
            })
        };
        Ok(Self { entries: (0..count).map(entry).collect::<Result<_, DecodeError>>()? })
    }
}

impl XattrRow {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "xattr row";
        let id = reader.op_id(field)?;
        let value = if reader.flag(field)? { Some(reader.rest().to_vec()) } else { None };
        if value.as_ref().is_some_and(|value| value.len() > XATTR_VALUE_BYTES_MAX) {
            return Err(DecodeError::Invalid { field });
        }
        Ok(Self { id, value })
    }
}

impl DirMoveRow {
    fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.link.0);
        writer.fixed(&self.parent.0);
        writer.bytes16(&self.name);
        writer.u8(u8::from(self.previous.is_some()));
        if let Some(id) = self.previous {
            writer.op_id(id);
        }
        match &self.effect {
            MoveEffect::Skipped => writer.u8(0),
            MoveEffect::First => writer.u8(1),
            MoveEffect::Replaced(place) => {
                writer.u8(2);
                place.encode(writer);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "directory move";
        Ok(Self {
            link: reader.link_id(field)?,
            parent: reader.ino(field)?,
            name: reader.bytes16(NAME_BYTES_MAX, field)?.to_vec(),
            previous: if reader.flag(field)? { Some(reader.op_id(field)?) } else { None },
            effect: match reader.u8(field)? {
                0 => MoveEffect::Skipped,
                1 => MoveEffect::First,
                2 => MoveEffect::Replaced(Placement::decode(reader)?),
                _ => return Err(DecodeError::Invalid { field }),
            },
        })
    }
}
