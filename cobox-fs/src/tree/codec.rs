//! The local encoding of rows.
//!
//! Rows are a cache, so their encoding has a version of its own and is never sent. The common row (a
//! file with one name, made and not changed) is kept short, because each create and delete writes four.

use super::row::{
    DirMoveRow, Head, LinkRow, Listed, MoveEffect, NodeRow, Note, Placement, Row, RowKey, Seen, Slot,
    SlotEntry, SlotHash, Stamped, Versions, XattrRow,
};
use cobox_store::format::content::Content;
use cobox_store::format::op::Kind;
use cobox_store::format::{
    DecodeError, NAME_BYTES_MAX, Reader, TARGET_BYTES_MAX, Writer, XATTR_NAME_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
};
use cobox_store::id::OpId;

const ROW_VERSION: u8 = 1;
/// Lists inside rows grow with concurrency and hard links only; their count is 16 bits wide.
const LIST_MAX: usize = u16::MAX as usize;

impl Row {
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
            Self::Note(note) => note.encode(&mut writer),
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
            RowKey::Note(note) => {
                let read = Note::decode(&mut reader)?;
                if read != *note {
                    return Err(DecodeError::Invalid { field: "note" });
                }
                Self::Note(read)
            }
        };
        reader.finish()?;
        Ok(row)
    }
}

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
        let (mode, mtime, uid, gid) =
            (reader.u32(field)?, reader.i64(field)?, reader.u32(field)?, reader.u32(field)?);
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

impl Note {
    fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Slot(parent, hash) => {
                writer.u8(0);
                writer.fixed(&parent.0);
                writer.fixed(&hash.0);
            }
            Self::Node(ino) => {
                writer.u8(1);
                writer.fixed(&ino.0);
            }
            Self::Link(link) => {
                writer.u8(2);
                writer.fixed(&link.0);
            }
            Self::Move(id) => {
                writer.u8(3);
                writer.op_id(*id);
            }
        }
    }

    /// The bytes that its stored key is a hash of.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.encode(&mut writer);
        writer.into_bytes()
    }

    /// Reads the row of a note whose key is not known.
    ///
    /// # Errors
    /// On anything [`Row::encode`] does not write for a note.
    pub fn from_row(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version(ROW_VERSION, "row")?;
        let note = Self::decode(&mut reader)?;
        reader.finish()?;
        Ok(note)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "note";
        Ok(match reader.u8(field)? {
            0 => Self::Slot(reader.ino(field)?, SlotHash(reader.link_id(field)?.0)),
            1 => Self::Node(reader.ino(field)?),
            2 => Self::Link(reader.link_id(field)?),
            3 => Self::Move(reader.op_id(field)?),
            _ => return Err(DecodeError::Invalid { field }),
        })
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
