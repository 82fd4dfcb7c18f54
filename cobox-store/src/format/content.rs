//! What a file's bytes are made of (`docs/format.md`, "Content"): inline bytes, a short list of
//! extents, or the root of an extent tree whose nodes are chunks.
//!
//! An extent names `(epoch, tag)`, never a pack, so packs can be merged without touching the tree.
//! The digest of a file is the hash of this encoding, so saving a large file costs what changed.

use super::codec::{DecodeError, Reader, Writer};
use super::{CHUNK_BYTES_MAX, EXTENTS_INLINE_MAX, INLINE_BYTES_MAX, TREE_FANOUT, TREE_HEIGHT_MAX};
use crate::id::{ChunkTag, EpochId, derive};

/// A chunk as the tree names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkRef {
    /// The epoch whose keys sealed the chunk.
    pub epoch: EpochId,
    /// The chunk's name.
    pub tag: ChunkTag,
}

/// A run of a file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// `len` zero bytes that take no space.
    Hole {
        /// Bytes; never 0, and never beside another hole.
        len: u64,
    },
    /// The whole plaintext of one chunk.
    Data {
        /// Bytes of plaintext, 1 to [`CHUNK_BYTES_MAX`].
        len: u32,
        /// Where they are.
        chunk: ChunkRef,
    },
}

impl Extent {
    /// How many bytes of the file it covers.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Hole { len } => *len,
            Self::Data { len, .. } => u64::from(*len),
        }
    }

    /// Whether it covers nothing; no decoded extent does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// At most [`INLINE_BYTES_MAX`] bytes, here.
    Inline(Vec<u8>),
    /// At most [`EXTENTS_INLINE_MAX`] extents, here.
    Extents(Vec<Extent>),
    /// An extent tree.
    Tree {
        /// The root node's chunk.
        root: ChunkRef,
        /// 1 where the root holds extents.
        height: u8,
        /// Bytes of the file.
        size: u64,
    },
}

impl Content {
    /// The content of an empty file.
    #[must_use]
    pub fn empty() -> Self {
        Self::Inline(Vec::new())
    }

    /// Bytes of memory outside the value itself.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.capacity(),
            Self::Extents(extents) => size_of_val(&extents[..]),
            Self::Tree { .. } => 0,
        }
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Extents(extents) => extents.iter().map(Extent::len).sum(),
            Self::Tree { size, .. } => *size,
        }
    }

    /// The hash by which two heads are known to be equal.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut writer = Writer::new();
        self.encode(&mut writer);
        derive("content digest", &[&writer.into_bytes()])
    }

    /// Appends the encoding.
    pub fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Inline(bytes) => {
                writer.u8(0);
                writer.bytes16(bytes);
            }
            Self::Extents(extents) => {
                writer.u8(1);
                encode_extents(extents, writer);
            }
            Self::Tree { root, height, size } => {
                writer.u8(2);
                encode_chunk_ref(*root, writer);
                writer.u8(*height);
                writer.u64(*size);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "content";
        match reader.u8(field)? {
            0 => Ok(Self::Inline(reader.bytes16(INLINE_BYTES_MAX, field)?.to_vec())),
            1 => {
                let extents = decode_extents(reader, EXTENTS_INLINE_MAX)?;
                if extents.is_empty() {
                    return Err(DecodeError::Invalid { field });
                }
                Ok(Self::Extents(extents))
            }
            2 => {
                let root = decode_chunk_ref(reader)?;
                let height = reader.u8(field)?;
                let size = reader.u64(field)?;
                if height == 0 || height > TREE_HEIGHT_MAX || size > i64::MAX as u64 {
                    return Err(DecodeError::Invalid { field });
                }
                Ok(Self::Tree { root, height, size })
            }
            _ => Err(DecodeError::Invalid { field }),
        }
    }
}

/// A node of an extent tree: the plaintext of a chunk of type `Node`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// Height 1.
    Leaf(Vec<Extent>),
    /// Height 2 and more: child nodes with the bytes of file they cover.
    Inner(Vec<(u64, ChunkRef)>),
}

const NODE_VERSION: u8 = 1;

impl Node {
    /// Bytes of the file below this node.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Leaf(extents) => extents.iter().map(Extent::len).sum(),
            Self::Inner(children) => children.iter().map(|(size, _)| *size).sum(),
        }
    }

    /// The node's plaintext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(NODE_VERSION);
        match self {
            Self::Leaf(extents) => {
                writer.u8(0);
                encode_extents(extents, &mut writer);
            }
            Self::Inner(children) => {
                writer.u8(1);
                writer.count(children.len());
                for (size, chunk) in children {
                    writer.u64(*size);
                    encode_chunk_ref(*chunk, &mut writer);
                }
            }
        }
        writer.into_bytes()
    }

    /// Reads a node's plaintext.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "extent node";
        let mut reader = Reader::new(bytes);
        reader.version(NODE_VERSION, field)?;
        let node = match reader.u8(field)? {
            0 => Self::Leaf(decode_extents(&mut reader, TREE_FANOUT)?),
            1 => {
                let count = reader.count(TREE_FANOUT, 72, field)?;
                let mut total = 0u64;
                let mut children = Vec::with_capacity(count);
                for _ in 0..count {
                    let size = reader.u64(field)?;
                    total = total
                        .checked_add(size)
                        .filter(|sum| size > 0 && *sum <= i64::MAX as u64)
                        .ok_or(DecodeError::Invalid { field })?;
                    children.push((size, decode_chunk_ref(&mut reader)?));
                }
                Self::Inner(children)
            }
            _ => return Err(DecodeError::Invalid { field }),
        };
        reader.finish()?;
        if node.size() == 0 {
            return Err(DecodeError::Invalid { field });
        }
        Ok(node)
    }
}

fn encode_chunk_ref(chunk: ChunkRef, writer: &mut Writer) {
    writer.fixed(&chunk.epoch.0);
    writer.fixed(&chunk.tag.0);
}

fn decode_chunk_ref(reader: &mut Reader<'_>) -> Result<ChunkRef, DecodeError> {
    Ok(ChunkRef { epoch: reader.epoch_id("epoch")?, tag: reader.chunk_tag("chunk tag")? })
}

/// Extents in a row share the epoch in nearly every file, so it is written once per run: a table of
/// epochs in order of first use, then the extents with an index into it.
fn encode_extents(extents: &[Extent], writer: &mut Writer) {
    let mut epochs: Vec<EpochId> = Vec::new();
    for extent in extents {
        if let Extent::Data { chunk, .. } = extent
            && !epochs.contains(&chunk.epoch)
        {
            epochs.push(chunk.epoch);
        }
    }
    writer.u8(u8::try_from(epochs.len()).expect("a node has at most 128 extents"));
    for epoch in &epochs {
        writer.fixed(&epoch.0);
    }
    writer.count(extents.len());
    for extent in extents {
        match extent {
            Extent::Hole { len } => {
                writer.u8(0);
                writer.u64(*len);
            }
            Extent::Data { len, chunk } => {
                let index = epochs.iter().position(|epoch| *epoch == chunk.epoch).expect("listed above");
                writer.u8(1);
                writer.u32(*len);
                writer.u8(u8::try_from(index).expect("a node has at most 128 extents"));
                writer.fixed(&chunk.tag.0);
            }
        }
    }
}

fn decode_extents(reader: &mut Reader<'_>, max: usize) -> Result<Vec<Extent>, DecodeError> {
    let field = "extents";
    let invalid = DecodeError::Invalid { field };
    let epoch_count = usize::from(reader.u8(field)?);
    if epoch_count > max {
        return Err(invalid);
    }
    let epochs = (0..epoch_count).map(|_| reader.epoch_id(field)).collect::<Result<Vec<_>, _>>()?;
    let count = reader.count(max, 9, field)?;
    let mut extents: Vec<Extent> = Vec::with_capacity(count);
    let mut epochs_used = 0;
    let mut total = 0u64;
    for _ in 0..count {
        let extent = match reader.u8(field)? {
            0 => Extent::Hole { len: reader.u64(field)? },
            1 => {
                let len = reader.u32(field)?;
                let index = usize::from(reader.u8(field)?);
                let epoch = *epochs.get(index).ok_or(invalid)?;
                // The table is in order of first use, so that one list has one encoding.
                if index > epochs_used || len as usize > CHUNK_BYTES_MAX {
                    return Err(invalid);
                }
                epochs_used = epochs_used.max(index + 1);
                Extent::Data { len, chunk: ChunkRef { epoch, tag: reader.chunk_tag(field)? } }
            }
            _ => return Err(invalid),
        };
        let beside_hole =
            matches!((extents.last(), &extent), (Some(Extent::Hole { .. }), Extent::Hole { .. }));
        total = total.checked_add(extent.len()).filter(|sum| *sum <= i64::MAX as u64).ok_or(invalid)?;
        if extent.is_empty() || beside_hole {
            return Err(invalid);
        }
        extents.push(extent);
    }
    let unique = epochs.iter().enumerate().all(|(at, epoch)| !epochs[..at].contains(epoch));
    if epochs_used != epoch_count || !unique {
        return Err(invalid);
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(len: u32, epoch: u8, tag: u8) -> Extent {
        Extent::Data { len, chunk: ChunkRef { epoch: EpochId([epoch; 32]), tag: ChunkTag([tag; 32]) } }
    }

    #[test]
    fn content_of_every_kind_round_trips() {
        let root = ChunkRef { epoch: EpochId([1; 32]), tag: ChunkTag([2; 32]) };
        for content in [
            Content::empty(),
            Content::Inline(vec![7; 1024]),
            Content::Extents(vec![
                data(5, 1, 9),
                Extent::Hole { len: 1 << 40 },
                data(6, 2, 8),
                data(6, 1, 7),
            ]),
            Content::Tree { root, height: 2, size: 1 << 33 },
        ] {
            let mut writer = Writer::new();
            content.encode(&mut writer);
            let bytes = writer.into_bytes();
            let mut reader = Reader::new(&bytes);
            assert_eq!(Content::decode(&mut reader), Ok(content));
            reader.finish().expect("nothing left");
        }
    }

    #[test]
    fn extents_with_two_holes_in_a_row_are_refused() {
        let node = Node::Leaf(vec![Extent::Hole { len: 1 }, Extent::Hole { len: 1 }]);
        assert!(Node::decode(&node.encode()).is_err());
    }

    #[test]
    fn extents_whose_sum_overflows_are_refused() {
        let node = Node::Leaf(vec![Extent::Hole { len: u64::MAX }, data(1, 1, 1)]);
        assert!(Node::decode(&node.encode()).is_err());
    }

    #[test]
    fn node_of_either_kind_round_trips() {
        let chunk = ChunkRef { epoch: EpochId([1; 32]), tag: ChunkTag([2; 32]) };
        for node in [Node::Leaf(vec![data(1, 1, 1)]), Node::Inner(vec![(9, chunk), (1, chunk)])] {
            assert_eq!(Node::decode(&node.encode()), Ok(node));
        }
    }
}
