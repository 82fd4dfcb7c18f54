//! Ops: one change to the tree each (`docs/format.md`, "Ops"), and the groups that are never split.
//!
//! An op's id is not written with it: op `i` of a group has the id `(group.hlc + i, author's log)`.

use super::codec::{DecodeError, Reader, Writer};
use super::content::Content;
use super::{
    GROUP_OPS_MAX, NAME_BYTES_MAX, SEEN_MAX, TARGET_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use crate::id::{Ino, LinkId, OpId};

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A regular file.
    File = 0,
    /// A directory.
    Dir = 1,
    /// A symbolic link.
    Symlink = 2,
    /// A named pipe; replicates as an inert node.
    Fifo = 3,
    /// A Unix socket's name; replicates as an inert node.
    Socket = 4,
    /// A character device; replicates as an inert node.
    CharDev = 5,
    /// A block device; replicates as an inert node.
    BlockDev = 6,
}

impl Kind {
    /// Reads the byte that `kind as u8` writes.
    ///
    /// # Errors
    /// For any other byte.
    pub fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        Ok(match byte {
            0 => Self::File,
            1 => Self::Dir,
            2 => Self::Symlink,
            3 => Self::Fifo,
            4 => Self::Socket,
            5 => Self::CharDev,
            6 => Self::BlockDev,
            _ => return Err(DecodeError::Invalid { field: "kind" }),
        })
    }
}

/// Permission bits, set-id bits and the sticky bit: the lower twelve of `st_mode`.
pub const MODE_MASK: u32 = 0o7777;

/// The attributes that an [`Op::Attr`] sets; `None` leaves one alone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AttrChange {
    /// Permission bits, within [`MODE_MASK`].
    pub mode: Option<u32>,
    /// Nanoseconds since 1970.
    pub mtime_ns: Option<i64>,
    /// Numeric user id on the author's device.
    pub uid: Option<u32>,
    /// Numeric group id on the author's device.
    pub gid: Option<u32>,
}

/// A new inode with its first name. The inode's id is [`Ino`]`= H16(parent, name_key, kind, g)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Make {
    /// The directory.
    pub parent: Ino,
    /// The name, 1 to 255 raw bytes without `/` and NUL, neither `.` nor `..`.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The smallest value whose inode id was unused at the author.
    pub generation: u32,
    /// Permission bits.
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Numeric user id on the author's device.
    pub uid: u32,
    /// Numeric group id on the author's device.
    pub gid: u32,
    /// Device number of a device node, else 0.
    pub rdev: u32,
    /// Target of a symbolic link, else empty.
    pub target: Vec<u8>,
}

/// One change to the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A new inode.
    Make(Make),
    /// A further name of a file. Its link id is `H16(op id)`.
    Link {
        /// The file.
        ino: Ino,
        /// The directory.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// A name goes elsewhere.
    Move {
        /// Which name.
        link: LinkId,
        /// To which directory.
        parent: Ino,
        /// Under which name.
        name: Vec<u8>,
        /// The dots it supersedes.
        seen_dots: Vec<OpId>,
    },
    /// A name goes away.
    Unlink {
        /// Which name.
        link: LinkId,
        /// The dots it removes.
        seen_dots: Vec<OpId>,
        /// The content heads the author had seen.
        seen_heads: Vec<OpId>,
        /// Whether it was the last name at the author.
        last: bool,
    },
    /// A dead but visible directory becomes live before something changes below it.
    Revive {
        /// The directory's link.
        link: LinkId,
    },
    /// New content.
    Put {
        /// The file.
        ino: Ino,
        /// The heads it supersedes.
        parents: Vec<OpId>,
        /// The content; its digest is derived.
        content: Content,
        /// Nanoseconds since 1970.
        mtime_ns: i64,
    },
    /// New attributes.
    Attr {
        /// Of what.
        ino: Ino,
        /// Which.
        change: AttrChange,
    },
    /// An extended attribute.
    Xattr {
        /// Of what.
        ino: Ino,
        /// Full name, `user.` included.
        key: Vec<u8>,
        /// `None` removes it.
        value: Option<Vec<u8>>,
    },
    /// A losing head becomes a file of its own.
    Fork {
        /// The file.
        ino: Ino,
        /// Which head.
        head: OpId,
    },
    /// A conflict is settled.
    Keep {
        /// The file.
        ino: Ino,
        /// The head that stays.
        take: OpId,
        /// The heads that go.
        drop: Vec<OpId>,
    },
    /// An idle device's acknowledgement: only the entry's dependencies count.
    Ack,
    /// A pinned checkpoint.
    Snap {
        /// The checkpoint's root chunk tag and epoch, as 64 bytes.
        checkpoint: [u8; 64],
        /// What people call it.
        label: Vec<u8>,
    },
}

/// The ops of one call: applied together or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpGroup {
    /// Clock of the first op; op `i` has `hlc + i`.
    pub hlc: u64,
    /// At least one.
    pub ops: Vec<Op>,
}

impl OpGroup {
    /// The ops with their ids, written by the log of number `log`.
    pub fn with_ids(&self, log: u64) -> impl Iterator<Item = (OpId, &Op)> {
        (self.hlc..).zip(&self.ops).map(move |(hlc, op)| (OpId { hlc, log }, op))
    }

    /// Clock of the last op.
    #[must_use]
    pub fn hlc_last(&self) -> u64 {
        self.hlc.saturating_add((self.ops.len() as u64).saturating_sub(1))
    }

    /// Appends the encoding.
    pub fn encode(&self, writer: &mut Writer) {
        writer.u64(self.hlc);
        writer.count(self.ops.len());
        for op in &self.ops {
            op.encode(writer);
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "op group";
        let hlc = reader.u64(field)?;
        let count = reader.count(GROUP_OPS_MAX, 1, field)?;
        if count == 0 || hlc.checked_add(count as u64).is_none() {
            return Err(DecodeError::Invalid { field });
        }
        let ops = (0..count).map(|_| Op::decode(reader)).collect::<Result<_, _>>()?;
        Ok(Self { hlc, ops })
    }
}

/// Whether `name` may stand in a directory.
#[must_use]
pub fn is_legal_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

fn decode_name(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let name = reader.bytes16(NAME_BYTES_MAX, "name")?;
    if is_legal_name(name) { Ok(name.to_vec()) } else { Err(DecodeError::Invalid { field: "name" }) }
}

fn decode_mode(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let mode = reader.u32("mode")?;
    if mode & !MODE_MASK == 0 { Ok(mode) } else { Err(DecodeError::Invalid { field: "mode" }) }
}

impl Make {
    fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.parent.0);
        writer.bytes16(&self.name);
        writer.u8(self.kind as u8);
        writer.u32(self.generation);
        writer.u32(self.mode);
        writer.i64(self.mtime_ns);
        writer.u32(self.uid);
        writer.u32(self.gid);
        match self.kind {
            Kind::Symlink => writer.bytes16(&self.target),
            Kind::CharDev | Kind::BlockDev => writer.u32(self.rdev),
            Kind::File | Kind::Dir | Kind::Fifo | Kind::Socket => {}
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut make = Self {
            parent: reader.ino("parent")?,
            name: decode_name(reader)?,
            kind: Kind::from_byte(reader.u8("kind")?)?,
            generation: reader.u32("generation")?,
            mode: decode_mode(reader)?,
            mtime_ns: reader.i64("mtime")?,
            uid: reader.u32("uid")?,
            gid: reader.u32("gid")?,
            rdev: 0,
            target: Vec::new(),
        };
        match make.kind {
            Kind::Symlink => {
                make.target = reader.bytes16(TARGET_BYTES_MAX, "target")?.to_vec();
                if make.target.is_empty() || make.target.contains(&0) {
                    return Err(DecodeError::Invalid { field: "target" });
                }
            }
            Kind::CharDev | Kind::BlockDev => make.rdev = reader.u32("rdev")?,
            Kind::File | Kind::Dir | Kind::Fifo | Kind::Socket => {}
        }
        Ok(make)
    }
}

impl AttrChange {
    fn encode(&self, writer: &mut Writer) {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        writer.u8(bit(self.mode.is_some(), 1)
            | bit(self.mtime_ns.is_some(), 2)
            | bit(self.uid.is_some(), 4)
            | bit(self.gid.is_some(), 8));
        if let Some(mode) = self.mode {
            writer.u32(mode);
        }
        if let Some(mtime_ns) = self.mtime_ns {
            writer.i64(mtime_ns);
        }
        if let Some(uid) = self.uid {
            writer.u32(uid);
        }
        if let Some(gid) = self.gid {
            writer.u32(gid);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mask = reader.u8("attribute mask")?;
        if mask == 0 || mask & !0b1111 != 0 {
            return Err(DecodeError::Invalid { field: "attribute mask" });
        }
        Ok(Self {
            mode: if mask & 1 == 0 { None } else { Some(decode_mode(reader)?) },
            mtime_ns: if mask & 2 == 0 { None } else { Some(reader.i64("mtime")?) },
            uid: if mask & 4 == 0 { None } else { Some(reader.u32("uid")?) },
            gid: if mask & 8 == 0 { None } else { Some(reader.u32("gid")?) },
        })
    }
}

impl Op {
    /// Appends the encoding: a type byte and the fields in order.
    pub fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Make(make) => {
                writer.u8(1);
                make.encode(writer);
            }
            Self::Link { ino, parent, name } => {
                writer.u8(2);
                writer.fixed(&ino.0);
                writer.fixed(&parent.0);
                writer.bytes16(name);
            }
            Self::Move { link, parent, name, seen_dots } => {
                writer.u8(3);
                writer.fixed(&link.0);
                writer.fixed(&parent.0);
                writer.bytes16(name);
                writer.op_ids(seen_dots);
            }
            Self::Unlink { link, seen_dots, seen_heads, last } => {
                writer.u8(4);
                writer.fixed(&link.0);
                writer.op_ids(seen_dots);
                writer.op_ids(seen_heads);
                writer.u8(u8::from(*last));
            }
            Self::Revive { link } => {
                writer.u8(5);
                writer.fixed(&link.0);
            }
            Self::Put { ino, parents, content, mtime_ns } => {
                writer.u8(6);
                writer.fixed(&ino.0);
                writer.op_ids(parents);
                content.encode(writer);
                writer.i64(*mtime_ns);
            }
            Self::Attr { ino, change } => {
                writer.u8(7);
                writer.fixed(&ino.0);
                change.encode(writer);
            }
            Self::Xattr { ino, key, value } => {
                writer.u8(8);
                writer.fixed(&ino.0);
                writer.bytes16(key);
                writer.u8(u8::from(value.is_some()));
                if let Some(value) = value {
                    writer.bytes16(value);
                }
            }
            Self::Fork { ino, head } => {
                writer.u8(9);
                writer.fixed(&ino.0);
                writer.op_id(*head);
            }
            Self::Keep { ino, take, drop } => {
                writer.u8(10);
                writer.fixed(&ino.0);
                writer.op_id(*take);
                writer.op_ids(drop);
            }
            Self::Ack => writer.u8(11),
            Self::Snap { checkpoint, label } => {
                writer.u8(12);
                writer.fixed(checkpoint);
                writer.bytes16(label);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8("op type")? {
            1 => Self::Make(Make::decode(reader)?),
            2 => Self::Link {
                ino: reader.ino("ino")?,
                parent: reader.ino("parent")?,
                name: decode_name(reader)?,
            },
            3 => Self::Move {
                link: reader.link_id("link")?,
                parent: reader.ino("parent")?,
                name: decode_name(reader)?,
                seen_dots: reader.op_ids(SEEN_MAX, "seen dots")?,
            },
            4 => Self::Unlink {
                link: reader.link_id("link")?,
                seen_dots: reader.op_ids(SEEN_MAX, "seen dots")?,
                seen_heads: reader.op_ids(SEEN_MAX, "seen heads")?,
                last: reader.flag("last")?,
            },
            5 => Self::Revive { link: reader.link_id("link")? },
            6 => Self::Put {
                ino: reader.ino("ino")?,
                parents: reader.op_ids(SEEN_MAX, "parents")?,
                content: Content::decode(reader)?,
                mtime_ns: reader.i64("mtime")?,
            },
            7 => Self::Attr { ino: reader.ino("ino")?, change: AttrChange::decode(reader)? },
            8 => Self::Xattr {
                ino: reader.ino("ino")?,
                key: decode_xattr_name(reader)?,
                value: if reader.flag("xattr presence")? {
                    Some(reader.bytes16(XATTR_VALUE_BYTES_MAX, "xattr value")?.to_vec())
                } else {
                    None
                },
            },
            9 => Self::Fork { ino: reader.ino("ino")?, head: reader.op_id("head")? },
            10 => Self::Keep {
                ino: reader.ino("ino")?,
                take: reader.op_id("take")?,
                drop: reader.op_ids(SEEN_MAX, "drop")?,
            },
            11 => Self::Ack,
            12 => Self::Snap {
                checkpoint: reader.array("checkpoint")?,
                label: reader.bytes16(NAME_BYTES_MAX, "label")?.to_vec(),
            },
            _ => return Err(DecodeError::Invalid { field: "op type" }),
        })
    }
}

fn decode_xattr_name(reader: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let key = reader.bytes16(XATTR_NAME_BYTES_MAX, "xattr name")?;
    if key.is_empty() || key.contains(&0) {
        return Err(DecodeError::Invalid { field: "xattr name" });
    }
    Ok(key.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Op> {
        let ino = Ino([3; 16]);
        let link = LinkId([4; 16]);
        let ids = vec![OpId { hlc: 1, log: 2 }, OpId { hlc: 1, log: 3 }];
        let make = |kind, rdev, target: &[u8]| {
            Op::Make(Make {
                parent: Ino::ROOT,
                name: b"n".to_vec(),
                kind,
                generation: 0,
                mode: 0o644,
                mtime_ns: -1,
                uid: 1,
                gid: 2,
                rdev,
                target: target.to_vec(),
            })
        };
        vec![
            make(Kind::File, 0, b""),
            make(Kind::Symlink, 0, b"t"),
            make(Kind::CharDev, 7, b""),
            Op::Link { ino, parent: Ino::ROOT, name: vec![0xff] },
            Op::Move { link, parent: ino, name: b"x".to_vec(), seen_dots: ids.clone() },
            Op::Unlink { link, seen_dots: ids.clone(), seen_heads: vec![], last: true },
            Op::Revive { link },
            Op::Put { ino, parents: ids.clone(), content: Content::Inline(b"hi".to_vec()), mtime_ns: 5 },
            Op::Attr {
                ino,
                change: AttrChange { mode: Some(0o7777), gid: Some(1), ..AttrChange::default() },
            },
            Op::Xattr { ino, key: b"user.k".to_vec(), value: Some(vec![]) },
            Op::Xattr { ino, key: b"user.k".to_vec(), value: None },
            Op::Fork { ino, head: ids[0] },
            Op::Keep { ino, take: ids[0], drop: vec![ids[1]] },
            Op::Ack,
            Op::Snap { checkpoint: [9; 64], label: b"l".to_vec() },
        ]
    }

    #[test]
    fn op_of_every_type_round_trips() {
        let group = OpGroup { hlc: 99, ops: one_of_each() };
        let mut writer = Writer::new();
        group.encode(&mut writer);
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        assert_eq!(OpGroup::decode(&mut reader), Ok(group));
        reader.finish().expect("nothing left");
    }

    #[test]
    fn names_that_would_escape_a_directory_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
            assert!(!is_legal_name(name));
        }
        assert!(is_legal_name(&[b'x'; 255]));
    }
}
