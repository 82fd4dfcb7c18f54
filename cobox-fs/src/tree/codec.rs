//! The local encoding of rows.
//!
//! Rows are a cache, so their encoding has versions of its own and is never sent. Each file has three: its inode, its
//! link and its name. They are spelled shortly ([`super::short`]), because they are most of what a small file takes.

mod first;

use super::row::{
    DirMoveRow, Head, LinkRow, Listed, MoveEffect, NodeRow, Note, Placement, Row, RowKey, Seen, Slot,
    SlotEntry, SlotHash, Stamped, Versions, XattrRow,
};
use super::short::{Shorts, Spelled, Speller, Unknown};
use cobox_store::format::op::Kind;
use cobox_store::format::{
    DecodeError, NAME_BYTES_MAX, Reader, TARGET_BYTES_MAX, Writer, XATTR_NAME_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
};
use cobox_store::id::OpId;

/// The version of rows of which there are few.
const ROW_VERSION: u8 = 1;
/// The version of an inode's, a link's and a name's row.
const SHORT_VERSION: u8 = 2;
/// Lists inside rows grow with concurrency and hard links, as writers like: what was written is read, and the bytes that
/// are left of a row bound it.
const LIST_MAX: usize = usize::MAX;

impl Row {
    /// The row's bytes. What `shorts` does not know is spelled in full, and noted in `unknown`.
    #[must_use]
    pub fn encode(&self, shorts: &Shorts, unknown: &mut Unknown) -> Vec<u8> {
        let mut speller = Speller::new(shorts, unknown);
        let is_short = matches!(self, Self::Node(_) | Self::Link(_) | Self::Dirent(_));
        speller.writer.u8(if is_short { SHORT_VERSION } else { ROW_VERSION });
        match self {
            Self::Node(row) => row.encode(&mut speller),
            Self::Link(row) => row.encode(&mut speller),
            Self::Dirent(slot) => slot.encode(&mut speller),
            Self::Xattr(row) => {
                speller.writer.op_id(row.id);
                speller.writer.u8(u8::from(row.value.is_some()));
                speller.writer.fixed(row.value.as_deref().unwrap_or_default());
            }
            Self::DirMove(row) => row.encode(&mut speller.writer),
            Self::NewestDirMove(id) => speller.writer.op_id(*id),
            Self::Note(note) => note.encode(&mut speller.writer),
        }
        speller.writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote, with these shorts or fewer, or the first version; `key` says what kind of row
    /// it is.
    ///
    /// # Errors
    /// On anything that was never written.
    pub fn decode(key: &RowKey, bytes: &[u8], shorts: &Shorts) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let is_short = bytes.first() == Some(&SHORT_VERSION)
            && matches!(key, RowKey::Node(_) | RowKey::Link(_) | RowKey::Dirent(..));
        reader.version(if is_short { SHORT_VERSION } else { ROW_VERSION }, "row")?;
        let row = match key {
            RowKey::Node(_) if is_short => {
                Self::Node(Box::new(NodeRow::decode(&mut Spelled::new(&mut reader, shorts))?))
            }
            RowKey::Node(_) => Self::Node(Box::new(NodeRow::decode_first(&mut reader)?)),
            RowKey::Link(_) if is_short => {
                Self::Link(LinkRow::decode(&mut Spelled::new(&mut reader, shorts))?)
            }
            RowKey::Link(_) => Self::Link(LinkRow::decode_first(&mut reader)?),
            RowKey::Dirent(..) if is_short => {
                Self::Dirent(Slot::decode(&mut Spelled::new(&mut reader, shorts))?)
            }
            RowKey::Dirent(..) => Self::Dirent(Slot::decode_first(&mut reader)?),
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

    fn encode(&self, speller: &mut Speller<'_>) {
        let parts = self.parts();
        speller.writer.u16(parts);
        speller.writer.u8(self.kind as u8);
        speller.number(u64::from(self.generation));
        speller.op_id(self.made);
        speller.number(u64::from(self.mode.value));
        speller.writer.i64(self.mtime_ns.value);
        speller.number(u64::from(self.uid.value));
        speller.number(u64::from(self.gid.value));
        for (bit, id) in [
            (part::MODE, self.mode.id),
            (part::MTIME, self.mtime_ns.id),
            (part::UID, self.uid.id),
            (part::GID, self.gid.id),
            (part::ENTRIES, self.entries_changed),
            (part::CHANGED, self.changed),
        ] {
            if parts & bit != 0 {
                speller.op_id_near(id);
            }
        }
        speller.number(self.links.len() as u64);
        self.links.iter().for_each(|link| speller.writer.fixed(&link.0));
        if parts & part::RDEV != 0 {
            speller.writer.u32(self.rdev);
        }
        if parts & part::TARGET != 0 {
            speller.bytes(&self.target);
        }
        if let Some((id, link)) = self.unlinked {
            speller.op_id_near(id);
            speller.writer.fixed(&link.0);
        }
        if let Some(link) = self.revived {
            speller.writer.fixed(&link.0);
        }
        if parts & part::CHILDREN != 0 {
            speller.number(self.visible_children);
            speller.number(self.visible_dirs);
        }
        if parts & part::HEADS != 0 {
            speller.number(self.heads.len() as u64);
            self.heads.iter().for_each(|head| head.encode(self.mtime_ns.value, speller));
        }
        if parts & part::XATTRS != 0 {
            speller.number(self.xattrs.len() as u64);
            self.xattrs.iter().for_each(|name| speller.bytes(name));
        }
    }

    fn decode(spelled: &mut Spelled<'_, '_>) -> Result<Self, DecodeError> {
        let field = "node row";
        let parts = spelled.reader.u16(field)?;
        if parts & !part::ALL != 0 {
            return Err(DecodeError::Invalid { field });
        }
        let has = |bit: u16| parts & bit != 0;
        let kind = Kind::from_byte(spelled.reader.u8(field)?)?;
        let generation = spelled.narrow(field)?;
        let made = spelled.op_id(field)?;
        let (mode, mtime) = (spelled.narrow(field)?, spelled.reader.i64(field)?);
        let (uid, gid) = (spelled.narrow(field)?, spelled.narrow(field)?);
        let mut stamp = |bit: u16, default: OpId| {
            if has(bit) { spelled.op_id_near(field) } else { Ok(default) }
        };
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
        let links = spelled.count(LIST_MAX, 16, field)?;
        row.links = (0..links).map(|_| spelled.reader.link_id(field)).collect::<Result<_, _>>()?;
        row.rdev = if has(part::RDEV) { spelled.reader.u32(field)? } else { 0 };
        if has(part::TARGET) {
            row.target = spelled.bytes(TARGET_BYTES_MAX, field)?.to_vec();
        }
        if has(part::UNLINKED) {
            row.unlinked = Some((spelled.op_id_near(field)?, spelled.reader.link_id(field)?));
        }
        row.last_unlinked = has(part::LAST);
        row.revived = if has(part::REVIVED) { Some(spelled.reader.link_id(field)?) } else { None };
        if has(part::CHILDREN) {
            (row.visible_children, row.visible_dirs) = (spelled.number(field)?, spelled.number(field)?);
        }
        if has(part::HEADS) {
            let heads = spelled.count(LIST_MAX, 4, field)?;
            row.heads = (0..heads).map(|_| Head::decode(mtime, spelled)).collect::<Result<_, _>>()?;
        }
        if has(part::XATTRS) {
            let names = spelled.count(LIST_MAX, 1, field)?;
            let name = |_| spelled.bytes(XATTR_NAME_BYTES_MAX, field).map(<[u8]>::to_vec);
            row.xattrs = (0..names).map(name).collect::<Result<_, _>>()?;
        }
        if row.parts() == parts { Ok(row) } else { Err(DecodeError::Invalid { field }) }
    }
}

/// Bits of the flags of a head.
mod head {
    pub const SEEN: u8 = 1;
    pub const SETTLED: u8 = 1 << 1;
    /// Its time is not that of the inode.
    pub const MTIME: u8 = 1 << 2;
}

impl Head {
    fn encode(&self, mtime_ns: i64, speller: &mut Speller<'_>) {
        speller.op_id_near(self.id);
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        speller.writer.u8(bit(self.seen == Seen::ByLastUnlink, head::SEEN)
            | bit(self.settled.is_some(), head::SETTLED)
            | bit(self.mtime_ns != mtime_ns, head::MTIME));
        if let Some(id) = self.settled {
            speller.op_id_near(id);
        }
        if self.mtime_ns != mtime_ns {
            speller.writer.i64(self.mtime_ns);
        }
        speller.content(&self.content);
    }

    fn decode(mtime_ns: i64, spelled: &mut Spelled<'_, '_>) -> Result<Self, DecodeError> {
        let field = "head";
        let id = spelled.op_id_near(field)?;
        let flags = spelled.reader.u8(field)?;
        if flags & !(head::SEEN | head::SETTLED | head::MTIME) != 0 {
            return Err(DecodeError::Invalid { field });
        }
        let has = |bit: u8| flags & bit != 0;
        Ok(Self {
            id,
            seen: if has(head::SEEN) { Seen::ByLastUnlink } else { Seen::Not },
            settled: if has(head::SETTLED) { Some(spelled.op_id_near(field)?) } else { None },
            mtime_ns: if has(head::MTIME) { spelled.reader.i64(field)? } else { mtime_ns },
            content: spelled.content()?,
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

/// Bits above the kind in the first byte of a link and of an entry of a slot.
mod flag {
    /// Listed; of a slot's entry, several versions.
    pub const SET: u8 = 1 << 3;
    /// One placement, which is the only dot.
    pub const PLAIN: u8 = 1 << 4;
    pub const KIND: u8 = SET - 1;
}

impl LinkRow {
    fn is_plain(&self) -> bool {
        matches!((&self.dots[..], &self.places[..]), ([dot], [place]) if *dot == place.id)
    }

    fn encode(&self, speller: &mut Speller<'_>) {
        let plain = self.is_plain();
        let listed = if self.listed == Listed::Yes { flag::SET } else { 0 };
        speller.writer.u8(self.kind as u8 | listed | if plain { flag::PLAIN } else { 0 });
        speller.writer.fixed(&self.ino.0);
        if !plain {
            speller.number(self.dots.len() as u64);
            self.dots.iter().for_each(|dot| speller.op_id_near(*dot));
            speller.number(self.places.len() as u64);
        }
        for place in &self.places {
            speller.op_id_near(place.id);
            speller.writer.fixed(&place.parent.0);
            speller.bytes(&place.name);
        }
    }

    fn decode(spelled: &mut Spelled<'_, '_>) -> Result<Self, DecodeError> {
        let field = "link row";
        let flags = spelled.reader.u8(field)?;
        if flags & !(flag::KIND | flag::SET | flag::PLAIN) != 0 {
            return Err(DecodeError::Invalid { field });
        }
        let kind = Kind::from_byte(flags & flag::KIND)?;
        let listed = if flags & flag::SET != 0 { Listed::Yes } else { Listed::No };
        let plain = flags & flag::PLAIN != 0;
        let ino = spelled.reader.ino(field)?;
        let mut dots = Vec::new();
        let places = if plain {
            1
        } else {
            let count = spelled.count(LIST_MAX, 1, field)?;
            dots = (0..count).map(|_| spelled.op_id_near(field)).collect::<Result<_, _>>()?;
            spelled.count(LIST_MAX, 18, field)?
        };
        let place = |_| {
            Ok(Placement {
                id: spelled.op_id_near(field)?,
                parent: spelled.reader.ino(field)?,
                name: spelled.bytes(NAME_BYTES_MAX, field)?.to_vec(),
            })
        };
        let places: Vec<Placement> = (0..places).map(place).collect::<Result<_, DecodeError>>()?;
        if plain {
            dots.extend(places.iter().map(|place| place.id));
        }
        let row = Self { ino, kind, listed, dots, places };
        let ascending = row.dots.iter().zip(row.dots.iter().skip(1)).all(|(one, next)| one < next);
        if row.is_plain() == plain && ascending { Ok(row) } else { Err(DecodeError::Invalid { field }) }
    }
}

impl Slot {
    fn encode(&self, speller: &mut Speller<'_>) {
        speller.number(self.entries.len() as u64);
        for entry in &self.entries {
            let several = if entry.versions == Versions::Several { flag::SET } else { 0 };
            speller.writer.u8(entry.kind as u8 | several);
            speller.writer.fixed(&entry.link.0);
            speller.writer.fixed(&entry.ino.0);
            speller.op_id_near(entry.placed);
            speller.bytes(&entry.name);
        }
    }

    fn decode(spelled: &mut Spelled<'_, '_>) -> Result<Self, DecodeError> {
        let field = "slot row";
        let count = spelled.count(LIST_MAX, 35, field)?;
        let entry = |_| {
            let flags = spelled.reader.u8(field)?;
            if flags & !(flag::KIND | flag::SET) != 0 {
                return Err(DecodeError::Invalid { field });
            }
            Ok(SlotEntry {
                kind: Kind::from_byte(flags & flag::KIND)?,
                versions: if flags & flag::SET != 0 { Versions::Several } else { Versions::One },
                link: spelled.reader.link_id(field)?,
                ino: spelled.reader.ino(field)?,
                placed: spelled.op_id_near(field)?,
                name: spelled.bytes(NAME_BYTES_MAX, field)?.to_vec(),
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
