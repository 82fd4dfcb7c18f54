//! Sealing and opening chunks (`docs/format.md`, "Chunks").

use crate::format::content::ChunkRef;
use crate::format::pack::ChunkType;

/// A chunk ready for a pack.
pub struct SealedChunk {
    /// Its name.
    pub chunk: ChunkRef,
    /// What it holds.
    pub chunk_type: ChunkType,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
    /// Bytes of its plaintext before compression.
    pub plain_len: u32,
}
