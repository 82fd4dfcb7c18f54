//! Building and opening packs (`docs/format.md`, "Packs"): `chunk* ‖ directory ‖ fill ‖ footer`.
//!
//! [`PackBuilder`] is the open pack of a folder: it can be read while it grows. A closed pack is opened
//! again before anyone relies on it.

use std::collections::HashMap;
use std::sync::Arc;

use super::aead;
use super::epoch::EpochKeys;
use super::random::random;
use super::seal::{self, SealedChunk};
use crate::error::{Error, Result};
use crate::format::codec::{Reader, Writer};
use crate::format::pack::{
    ChunkType, DIRECTORY_ROW_BYTES, DirectoryRow, FOOTER_BYTES, Footer, SEALED_OVERHEAD_BYTES,
    decode_directory, encode_directory, size_class,
};
use crate::format::proof::Outboard;
use crate::format::{PACK_BYTES_TARGET, PACK_CHUNKS_MAX};
use crate::id::{ChunkTag, PackId};

const DIRECTORY_CONTEXT: &[u8] = b"cobox/v1/pack directory";
const FOOTER_CONTEXT: &[u8] = b"cobox/v1/pack footer";

/// A chunk's place in a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) chunk_type: ChunkType,
}

/// Rows with the offsets that follow from their lengths.
pub(super) fn places(rows: &[DirectoryRow]) -> impl Iterator<Item = (ChunkTag, Place)> {
    let mut offset = 0;
    rows.iter().map(move |row| {
        let place = Place { offset, len: row.len, chunk_type: row.chunk_type };
        // A decoded directory's lengths add up to 16 MiB at the most.
        offset += row.len;
        (row.tag, place)
    })
}

/// A pack that still grows.
pub(super) struct PackBuilder {
    pub(super) keys: Arc<EpochKeys>,
    bytes: Vec<u8>,
    rows: Vec<DirectoryRow>,
    at: HashMap<ChunkTag, Place>,
}

/// A pack with everything that belongs to it.
pub(super) struct ClosedPack {
    pub(super) keys: Arc<EpochKeys>,
    pub(super) bytes: Vec<u8>,
    pub(super) outboard: Outboard,
    pub(super) rows: Vec<DirectoryRow>,
}

/// What makes two packs of the same chunks differ.
pub(super) struct PackNonces {
    pub(super) directory: [u8; 32],
    pub(super) footer: [u8; 32],
    pub(super) fill: [u8; 32],
}

impl PackNonces {
    fn fresh() -> Self {
        Self { directory: random(), footer: random(), fill: random() }
    }
}

/// Bytes of a sealed directory of `rows` rows.
fn directory_bytes(rows: usize) -> usize {
    2 + rows * DIRECTORY_ROW_BYTES + SEALED_OVERHEAD_BYTES
}

impl PackBuilder {
    pub(super) fn new(keys: Arc<EpochKeys>) -> Self {
        Self { keys, bytes: Vec::new(), rows: Vec::new(), at: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether a chunk of `len` sealed bytes still fits the target size and the directory.
    pub(super) fn has_room(&self, len: usize) -> bool {
        let full = self.bytes.len() + len + directory_bytes(self.rows.len() + 1) + FOOTER_BYTES;
        self.rows.len() < PACK_CHUNKS_MAX && full as u64 <= PACK_BYTES_TARGET
    }

    /// Appends a chunk; the caller has asked [`Self::has_room`] and [`Self::find`].
    pub(super) fn push(&mut self, sealed: &SealedChunk) {
        let len = u32::try_from(sealed.bytes.len()).expect("a chunk is short");
        let offset = u32::try_from(self.bytes.len()).expect("a pack is short");
        let chunk_type = sealed.chunk_type;
        self.bytes.extend_from_slice(&sealed.bytes);
        self.rows.push(DirectoryRow { chunk_type, tag: sealed.chunk.tag, len });
        self.at.insert(sealed.chunk.tag, Place { offset, len, chunk_type });
    }

    pub(super) fn find(&self, tag: &ChunkTag) -> Option<Place> {
        self.at.get(tag).copied()
    }

    pub(super) fn slice(&self, place: Place) -> &[u8] {
        let start = place.offset as usize;
        &self.bytes[start..start + place.len as usize]
    }

    /// Gives the places away, before closing.
    pub(super) fn take_places(&mut self) -> HashMap<ChunkTag, Place> {
        std::mem::take(&mut self.at)
    }

    /// Seals the directory and the footer, hashes, and opens what was made.
    ///
    /// # Errors
    /// [`Error::Sealed`] when it does not open: bad memory or a bad program, and nothing is stored.
    pub(super) fn close(self) -> Result<ClosedPack> {
        let closed = self.close_at(&PackNonces::fresh());
        let opened = open_pack(&closed.keys, &closed.bytes)?;
        let sample = usize::from_le_bytes(random()) % opened.len();
        let (tag, place) = places(&opened).nth(sample).ok_or(Error::Sealed)?;
        let start = place.offset as usize;
        let sealed = closed.bytes[start..start + place.len as usize].to_vec();
        seal::open(&closed.keys, place.chunk_type, tag, sealed)?;
        if opened == closed.rows { Ok(closed) } else { Err(Error::Sealed) }
    }

    pub(super) fn close_at(self, nonces: &PackNonces) -> ClosedPack {
        let Self { keys, mut bytes, rows, .. } = self;
        let mut writer = Writer::new();
        encode_directory(&rows, &mut writer);
        let directory = writer.into_bytes();
        let nonce = aead::hedged_nonce(&nonces.directory, &directory);
        let directory =
            aead::seal_at(keys.pack.expose(), &keys.pack_aad(DIRECTORY_CONTEXT), &nonce, &directory);
        let footer = Footer {
            directory_offset: bytes.len() as u64,
            directory_len: u32::try_from(directory.len()).expect("a directory is short"),
            chunk_count: u16::try_from(rows.len()).expect("at most 4096 chunks"),
        }
        .encode();
        let nonce = aead::hedged_nonce(&nonces.footer, &footer);
        let footer = aead::seal_at(keys.pack.expose(), &keys.pack_aad(FOOTER_CONTEXT), &nonce, &footer);
        bytes.extend_from_slice(&directory);
        let filled = bytes.len();
        let size = size_class((filled + FOOTER_BYTES) as u64);
        bytes.resize(usize::try_from(size).expect("a pack fits memory") - FOOTER_BYTES, 0);
        blake3::Hasher::new_keyed(&nonces.fill).finalize_xof().fill(&mut bytes[filled..]);
        bytes.extend_from_slice(&footer);
        let outboard = Outboard::of(&bytes);
        ClosedPack { keys, bytes, outboard, rows }
    }
}

impl ClosedPack {
    pub(super) fn id(&self) -> PackId {
        self.outboard.pack().id
    }

    pub(super) fn slice(&self, place: Place) -> &[u8] {
        let start = place.offset as usize;
        &self.bytes[start..start + place.len as usize]
    }
}

/// Reads a pack's footer and directory, so that an index can be built from packs alone.
///
/// # Errors
/// [`Error::Sealed`] when it was not sealed under `keys`, or a decode error.
pub fn open_pack(keys: &EpochKeys, bytes: &[u8]) -> Result<Vec<DirectoryRow>> {
    let at = bytes.len().checked_sub(FOOTER_BYTES).ok_or(Error::Sealed)?;
    let footer = aead::open(keys.pack.expose(), &keys.pack_aad(FOOTER_CONTEXT), &bytes[at..])?;
    let footer = Footer::decode(&footer, bytes.len() as u64)?;
    let start = usize::try_from(footer.directory_offset).map_err(|_| Error::Sealed)?;
    let sealed = bytes.get(start..start + footer.directory_len as usize).ok_or(Error::Sealed)?;
    let directory = aead::open(keys.pack.expose(), &keys.pack_aad(DIRECTORY_CONTEXT), sealed)?;
    let mut reader = Reader::new(&directory);
    let rows = decode_directory(&mut reader)?;
    reader.finish()?;
    let chunk_bytes: u64 = rows.iter().map(|row| u64::from(row.len)).sum();
    if rows.len() != usize::from(footer.chunk_count) || chunk_bytes != footer.directory_offset {
        return Err(Error::Sealed);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::super::seal::tests::{keys, noise};
    use super::*;
    use crate::format::pack::is_size_class;

    fn built(chunks: usize) -> ClosedPack {
        let mut builder = PackBuilder::new(Arc::new(keys()));
        for at in 0..chunks {
            let sealed = seal::seal(&builder.keys, ChunkType::Data, &noise(1000 + at, 7));
            assert!(builder.has_room(sealed.bytes.len()));
            builder.push(&sealed);
        }
        builder.close().expect("closes")
    }

    #[test]
    fn pack_opens_to_its_directory_and_chunks() {
        let pack = built(40);
        assert!(is_size_class(pack.bytes.len() as u64));
        assert_eq!(pack.id().0, *blake3::hash(&pack.bytes).as_bytes());
        let rows = open_pack(&pack.keys, &pack.bytes).expect("opens");
        assert_eq!(rows.len(), 40);
        for (at, (tag, place)) in places(&rows).enumerate() {
            let plain =
                seal::open(&pack.keys, place.chunk_type, tag, pack.slice(place).to_vec()).expect("opens");
            assert_eq!(*plain, noise(1000 + at, 7));
        }
    }

    #[test]
    fn pack_with_a_bent_footer_or_directory_is_refused() {
        let pack = built(2);
        let len = pack.bytes.len();
        let directory = pack.rows.iter().map(|row| row.len as usize).sum::<usize>();
        for at in (directory..directory + directory_bytes(2)).chain(len - FOOTER_BYTES..len) {
            let mut bent = pack.bytes.clone();
            bent[at] ^= 1;
            assert!(open_pack(&pack.keys, &bent).is_err(), "byte {at}");
        }
        assert!(open_pack(&pack.keys, &pack.bytes[..len - 1]).is_err());
        assert!(open_pack(&pack.keys, &[]).is_err());
        let other = EpochKeys::new(keys().folder(), crate::id::EpochId([9; 32]), keys().secret().clone());
        assert!(open_pack(&other, &pack.bytes).is_err());
    }

    #[test]
    fn two_packs_of_the_same_chunks_differ() {
        assert_ne!(built(1).id(), built(1).id());
    }
}
