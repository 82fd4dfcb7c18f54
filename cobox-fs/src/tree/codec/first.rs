//! Rows as the first version of CoBox wrote them: they are read, and written anew in the short way when they
//! change.

use cobox_store::format::content::Content;
use cobox_store::format::op::Kind;
use cobox_store::format::{DecodeError, NAME_BYTES_MAX, Reader, TARGET_BYTES_MAX, XATTR_NAME_BYTES_MAX};
use cobox_store::id::OpId;

use super::super::row::{
    Head, LinkRow, Listed, NodeRow, Placement, Seen, Slot, SlotEntry, Stamped, Versions,
};
use super::part;

/// Counts were 16 bits wide.
const LIST_MAX: usize = u16::MAX as usize;

impl NodeRow {
    pub(super) fn decode_first(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
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
            row.heads = (0..heads).map(|_| Head::decode_first(reader)).collect::<Result<_, _>>()?;
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
    fn decode_first(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
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

impl LinkRow {
    pub(super) fn decode_first(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
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
    pub(super) fn decode_first(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
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

#[cfg(test)]
pub(crate) mod writing {
    use cobox_store::format::Writer;

    use super::super::super::row::Row;

    use super::*;

    impl Row {
        /// The row as the first version wrote it.
        pub(crate) fn encode_first(&self) -> Vec<u8> {
            let mut writer = Writer::new();
            writer.u8(1);
            match self {
                Self::Node(row) => row.encode_first(&mut writer),
                Self::Link(row) => row.encode_first(&mut writer),
                Self::Dirent(slot) => slot.encode_first(&mut writer),
                other => return other.encode(&Default::default(), &mut Default::default()),
            }
            writer.into_bytes()
        }
    }

    impl NodeRow {
        fn encode_first(&self, writer: &mut Writer) {
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
                self.heads.iter().for_each(|head| head.encode_first(writer));
            }
            if parts & part::XATTRS != 0 {
                writer.count(self.xattrs.len());
                self.xattrs.iter().for_each(|name| writer.bytes16(name));
            }
        }
    }

    impl Head {
        fn encode_first(&self, writer: &mut Writer) {
            writer.op_id(self.id);
            writer.u8(u8::from(self.seen == Seen::ByLastUnlink));
            writer.u8(u8::from(self.settled.is_some()));
            if let Some(id) = self.settled {
                writer.op_id(id);
            }
            writer.i64(self.mtime_ns);
            self.content.encode(writer);
        }
    }

    impl LinkRow {
        fn encode_first(&self, writer: &mut Writer) {
            writer.fixed(&self.ino.0);
            writer.u8(self.kind as u8);
            writer.u8(u8::from(self.listed == Listed::Yes));
            writer.op_ids(&self.dots);
            writer.count(self.places.len());
            self.places.iter().for_each(|place| place.encode(writer));
        }
    }

    impl Slot {
        fn encode_first(&self, writer: &mut Writer) {
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
    }
}
