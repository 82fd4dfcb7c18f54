//! A pack (`docs/format.md`, "Packs"): `chunk* ‖ sealed directory ‖ fill ‖ sealed footer`.
//!
//! Only the plaintext layouts of the directory and the footer are here; sealing them is
//! [`crate::keyed`]'s work, and a seeder sees one opaque string of bytes.

use super::codec::{DecodeError, Reader, Writer};
use super::{CHUNK_BYTES_MAX, PACK_BYTES_MAX, PACK_BYTES_MIN, PACK_CHUNKS_MAX, padme};
use crate::id::{ChunkTag, PackId};

/// What a chunk holds; part of its name and of its associated data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ChunkType {
    /// A piece of a file.
    Data = 0,
    /// A node of an extent tree.
    Node = 1,
    /// A page of a checkpoint.
    Page = 2,
}

impl ChunkType {
    /// Reads the byte that `kind as u8` writes.
    ///
    /// # Errors
    /// For any other byte.
    pub fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        match byte {
            0 => Ok(Self::Data),
            1 => Ok(Self::Node),
            2 => Ok(Self::Page),
            _ => Err(DecodeError::Invalid { field: "chunk type" }),
        }
    }
}

/// Bytes that sealing adds to a chunk: the flag byte and the AEAD tag.
pub const CHUNK_OVERHEAD_BYTES: usize = 1 + 16;
/// Bytes that sealing with an explicit nonce adds: 24 of nonce and 16 of tag.
pub const SEALED_OVERHEAD_BYTES: usize = 24 + 16;
/// One row of a directory: type, tag, length.
pub const DIRECTORY_ROW_BYTES: usize = 37;
/// Plaintext of a footer: version, suite, directory offset, directory length, chunk count, 8 zeros.
pub const FOOTER_PLAIN_BYTES: usize = 24;
/// A sealed footer: the last bytes of every pack.
pub const FOOTER_BYTES: usize = FOOTER_PLAIN_BYTES + SEALED_OVERHEAD_BYTES;

/// One chunk in a pack's directory; rows stand in the order of the chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryRow {
    /// What the chunk holds.
    pub chunk_type: ChunkType,
    /// Its name.
    pub tag: ChunkTag,
    /// Its sealed length in bytes.
    pub len: u32,
}

/// A pack as entries and seeders name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PackRef {
    /// BLAKE3 of the pack.
    pub id: PackId,
    /// Bytes of the pack, a size class.
    pub size: u64,
}

/// Appends a directory: a count and the rows.
pub fn encode_directory(rows: &[DirectoryRow], writer: &mut Writer) {
    writer.count(rows.len());
    for row in rows {
        writer.u8(row.chunk_type as u8);
        writer.fixed(&row.tag.0);
        writer.u32(row.len);
    }
}

/// Reads what [`encode_directory`] wrote.
///
/// # Errors
/// On anything no writer produces.
pub fn decode_directory(reader: &mut Reader<'_>) -> Result<Vec<DirectoryRow>, DecodeError> {
    let field = "pack directory";
    let count = reader.count(PACK_CHUNKS_MAX, DIRECTORY_ROW_BYTES, field)?;
    if count == 0 {
        return Err(DecodeError::Invalid { field });
    }
    let rows: Vec<DirectoryRow> = (0..count).map(|_| decode_row(reader)).collect::<Result<_, _>>()?;
    if rows.iter().map(|row| u64::from(row.len)).sum::<u64>() > PACK_BYTES_MAX {
        return Err(DecodeError::Invalid { field });
    }
    Ok(rows)
}

fn decode_row(reader: &mut Reader<'_>) -> Result<DirectoryRow, DecodeError> {
    let row = DirectoryRow {
        chunk_type: ChunkType::from_byte(reader.u8("chunk type")?)?,
        tag: reader.chunk_tag("chunk tag")?,
        len: reader.u32("chunk length")?,
    };
    let len = row.len as usize;
    if len <= CHUNK_OVERHEAD_BYTES || len > CHUNK_BYTES_MAX + CHUNK_OVERHEAD_BYTES {
        return Err(DecodeError::Invalid { field: "chunk length" });
    }
    Ok(row)
}

/// Where the directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    /// Offset of the sealed directory: the chunks end there.
    pub directory_offset: u64,
    /// Length of the sealed directory.
    pub directory_len: u32,
    /// Rows in the directory.
    pub chunk_count: u16,
}

impl Footer {
    /// The footer's plaintext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u8(super::SUITE);
        writer.u64(self.directory_offset);
        writer.u32(self.directory_len);
        writer.u16(self.chunk_count);
        writer.fixed(&[0; 8]);
        writer.into_bytes()
    }

    /// Reads a footer of a pack of `pack_bytes`.
    ///
    /// # Errors
    /// On anything no writer produces, also a directory that does not lie inside the pack.
    pub fn decode(bytes: &[u8], pack_bytes: u64) -> Result<Self, DecodeError> {
        let field = "pack footer";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        reader.suite()?;
        let footer = Self {
            directory_offset: reader.u64(field)?,
            directory_len: reader.u32(field)?,
            chunk_count: reader.u16(field)?,
        };
        let zeros: [u8; 8] = reader.array(field)?;
        reader.finish()?;
        let end = footer.directory_offset.saturating_add(u64::from(footer.directory_len));
        let room = pack_bytes.saturating_sub(FOOTER_BYTES as u64);
        let count = usize::from(footer.chunk_count);
        let len_right =
            footer.directory_len as usize == 2 + count * DIRECTORY_ROW_BYTES + SEALED_OVERHEAD_BYTES;
        if zeros != [0; 8] || count == 0 || count > PACK_CHUNKS_MAX || end > room || !len_right {
            return Err(DecodeError::Invalid { field });
        }
        Ok(footer)
    }
}

/// The size class of a pack that must hold `bytes`.
#[must_use]
pub fn size_class(bytes: u64) -> u64 {
    padme(bytes.max(PACK_BYTES_MIN))
}

/// Whether `size` is the size of some pack: a size class within the bounds.
#[must_use]
pub fn is_size_class(size: u64) -> bool {
    (PACK_BYTES_MIN..=PACK_BYTES_MAX).contains(&size) && padme(size) == size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn footer_round_trips_and_must_point_inside() {
        let footer = Footer { directory_offset: 100, directory_len: 2 + 37 + 40, chunk_count: 1 };
        let bytes = footer.encode();
        assert_eq!(bytes.len(), FOOTER_PLAIN_BYTES);
        assert_eq!(Footer::decode(&bytes, 4096), Ok(footer));
        assert!(Footer::decode(&bytes, 150).is_err());
    }

    #[test]
    fn directory_round_trips() {
        let rows = vec![DirectoryRow { chunk_type: ChunkType::Node, tag: ChunkTag([1; 32]), len: 18 }; 3];
        let mut writer = Writer::new();
        encode_directory(&rows, &mut writer);
        let bytes = writer.into_bytes();
        assert_eq!(decode_directory(&mut Reader::new(&bytes)), Ok(rows));
    }

    #[test]
    fn size_classes_are_bounded() {
        assert!(is_size_class(4096) && is_size_class(8 << 20) && is_size_class(16 << 20));
        assert!(!is_size_class(4095) && !is_size_class(4097) && !is_size_class(32 << 20));
        assert_eq!(size_class(1), 4096);
    }
}
