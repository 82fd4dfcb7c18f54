//! Sealing and opening chunks (`docs/format.md`, "Chunks").
//!
//! `pt' = flag ‖ bytes`, `tag = KH(K_id, type ‖ pt')`, `k = DK("object key", K_obj ‖ tag)`, and the chunk
//! is ChaCha20-Poly1305 of `pt'` under `k` with nonce 0: `k` depends on the plaintext, so it never
//! meets a second one. Opening recomputes the tag, which commits to the key.

use std::cell::RefCell;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _};
use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use subtle::ConstantTimeEq as _;
use zstd::bulk::{Compressor, Decompressor};

use super::epoch::EpochKeys;
use super::plain::Plain;
use super::secret::Secret32;
use crate::error::{Error, Result};
use crate::format::CHUNK_BYTES_MAX;
use crate::format::content::ChunkRef;
use crate::format::pack::{CHUNK_OVERHEAD_BYTES, ChunkType};
use crate::id::ChunkTag;

const TAG_BYTES: usize = 16;
/// What ChaCha20 makes at a time.
const BLOCK_BYTES: u64 = 64;
const FLAG_RAW: u8 = 0;
const FLAG_ZSTD: u8 = 1;
/// zstd's usual level: on pieces as small as chunks it is as fast as the first, and finds a twentieth more.
const LEVEL: i32 = 3;
/// Compressing starts with a look at this much from the chunk's middle (headers compress, bodies
/// often do not) …
const PROBE_BYTES: usize = 2048;
/// … at a level that only finds what is easy, and goes on where that saves a sixteenth.
const PROBE_LEVEL: i32 = -5;
/// Below this the probe costs as much as compressing.
const PROBE_FROM_BYTES: usize = 4 * PROBE_BYTES;

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

struct Codec {
    compressor: Compressor<'static>,
    probe: Compressor<'static>,
    decompressor: Decompressor<'static>,
    scratch: Vec<u8>,
}

thread_local! {
    static CODEC: RefCell<Option<Codec>> = const { RefCell::new(None) };
}

fn with_codec<T>(work: impl FnOnce(&mut Codec) -> T) -> T {
    CODEC.with_borrow_mut(|codec| {
        work(codec.get_or_insert_with(|| Codec {
            compressor: Compressor::new(LEVEL).expect("level 3 exists and a context is small"),
            probe: Compressor::new(PROBE_LEVEL).expect("negative levels exist and a context is small"),
            decompressor: Decompressor::new().expect("a context is small"),
            scratch: vec![0; CHUNK_BYTES_MAX],
        }))
    })
}

/// `flag ‖ bytes` with room for the tag: compressed where that is smaller.
fn pack_plain(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plain.len() + CHUNK_OVERHEAD_BYTES);
    let compressed = with_codec(|codec| {
        if !looks_compressible(codec, plain) {
            return false;
        }
        // The room is one byte short of the plaintext: what does not get smaller fails early.
        let room = plain.len().saturating_sub(1);
        match codec.compressor.compress_to_buffer(plain, &mut codec.scratch[..room]) {
            Ok(len) => {
                out.push(FLAG_ZSTD);
                out.extend_from_slice(&codec.scratch[..len]);
                true
            }
            Err(_) => false,
        }
    });
    if !compressed {
        out.push(FLAG_RAW);
        out.extend_from_slice(plain);
    }
    out
}

fn looks_compressible(codec: &mut Codec, plain: &[u8]) -> bool {
    if plain.len() < PROBE_FROM_BYTES {
        return true;
    }
    let start = plain.len() / 2;
    let sample = &plain[start..start + PROBE_BYTES];
    let room = PROBE_BYTES - PROBE_BYTES / 16;
    codec.probe.compress_to_buffer(sample, &mut codec.scratch[..room]).is_ok()
}

/// Seals one chunk.
///
/// # Panics
/// When `plain` is empty or longer than [`CHUNK_BYTES_MAX`]: no caller cuts such chunks.
#[must_use]
pub fn seal(keys: &EpochKeys, chunk_type: ChunkType, plain: &[u8]) -> SealedChunk {
    assert!(!plain.is_empty() && plain.len() <= CHUNK_BYTES_MAX, "a chunk of {} bytes", plain.len());
    let plain_len = u32::try_from(plain.len()).expect("a chunk is below 4 GiB");
    seal_packed(keys, chunk_type, pack_plain(plain), plain_len)
}

/// Seals `flag ‖ bytes` as they are.
pub(super) fn seal_packed(
    keys: &EpochKeys,
    chunk_type: ChunkType,
    mut bytes: Vec<u8>,
    plain_len: u32,
) -> SealedChunk {
    let tag = tag_of(keys, chunk_type, &bytes);
    let auth = cipher(keys, &tag)
        .encrypt_inout_detached(&Nonce::default(), &keys.chunk_aad(chunk_type), bytes.as_mut_slice().into())
        .expect("a chunk is below the cipher's limit");
    bytes.extend_from_slice(&auth);
    SealedChunk { chunk: ChunkRef { epoch: keys.id(), tag }, chunk_type, bytes, plain_len }
}

/// Opens one chunk: AEAD, tag, then the plaintext. It is opened where it lies, so `sealed` is taken.
///
/// # Errors
/// [`Error::Sealed`] for anything that [`seal`] does not make.
pub fn open(keys: &EpochKeys, chunk_type: ChunkType, tag: ChunkTag, sealed: Vec<u8>) -> Result<Plain> {
    let mut plain = sealed;
    let auth = *plain.last_chunk::<TAG_BYTES>().ok_or(Error::Sealed)?;
    plain.truncate(plain.len() - TAG_BYTES);
    if plain.len() < 2 || plain.len() > CHUNK_BYTES_MAX + 1 {
        return Err(Error::Sealed);
    }
    cipher(keys, &tag)
        .decrypt_inout_detached(
            &Nonce::default(),
            &keys.chunk_aad(chunk_type),
            plain.as_mut_slice().into(),
            &Tag::from(auth),
        )
        .map_err(|_| Error::Sealed)?;
    if !bool::from(tag_of(keys, chunk_type, &plain).0.ct_eq(&tag.0)) {
        return Err(Error::Sealed);
    }
    match plain.first() {
        Some(&FLAG_RAW) => Ok(Plain::after(1, plain)),
        Some(&FLAG_ZSTD) => unpack(&plain[1..]).map(Plain::from),
        _ => Err(Error::Sealed),
    }
}

/// Decrypts bytes of the plaintext of a chunk, which begin at byte `at` of it and were sealed as they are. Whether
/// they are the chunk's is for the caller to know: its tags are over all of it.
pub(super) fn open_part(keys: &EpochKeys, tag: &ChunkTag, at: usize, bytes: &mut [u8]) {
    let key = object_key(keys, tag);
    let mut stream = ChaCha20::new(key.expose().into(), &Nonce::default());
    // The AEAD takes the first block for its own key (RFC 8439), and the flag goes before the plaintext.
    stream.seek(BLOCK_BYTES + 1 + at as u64);
    stream.apply_keystream(bytes);
}

/// Decompresses into a fixed room, so that no bomb can grow; what is not smaller compressed is not
/// canonical.
fn unpack(compressed: &[u8]) -> Result<Vec<u8>> {
    with_codec(|codec| {
        let len = codec
            .decompressor
            .decompress_to_buffer(compressed, codec.scratch.as_mut_slice())
            .map_err(|_| Error::Sealed)?;
        if len <= compressed.len() {
            return Err(Error::Sealed);
        }
        Ok(codec.scratch[..len].to_vec())
    })
}

fn tag_of(keys: &EpochKeys, chunk_type: ChunkType, packed: &[u8]) -> ChunkTag {
    let mut hasher = blake3::Hasher::new_keyed(keys.chunk_id.expose());
    hasher.update(&[chunk_type as u8]).update(packed);
    ChunkTag(*hasher.finalize().as_bytes())
}

fn cipher(keys: &EpochKeys, tag: &ChunkTag) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(object_key(keys, tag).expose().into())
}

fn object_key(keys: &EpochKeys, tag: &ChunkTag) -> Secret32 {
    Secret32::derived("object key", &[keys.chunk_object.expose(), &tag.0])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::id::{EpochId, FolderId};

    pub(crate) fn keys() -> EpochKeys {
        EpochKeys::new(FolderId([1; 32]), EpochId([2; 32]), Secret32::take(&mut [3; 32]))
    }

    pub(crate) fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Seals `packed` as it stands: what a hostile member could do.
    pub(crate) fn seal_packed(keys: &EpochKeys, chunk_type: ChunkType, packed: &[u8]) -> (ChunkTag, Vec<u8>) {
        let tag = tag_of(keys, chunk_type, packed);
        let mut bytes = packed.to_vec();
        let auth = cipher(keys, &tag)
            .encrypt_inout_detached(
                &Nonce::default(),
                &keys.chunk_aad(chunk_type),
                bytes.as_mut_slice().into(),
            )
            .expect("seals");
        bytes.extend_from_slice(&auth);
        (tag, bytes)
    }

    #[test]
    fn chunk_of_any_size_round_trips() {
        let keys = keys();
        for len in [1, 2, 100, 1024, 8191, 8192, 65_536, CHUNK_BYTES_MAX] {
            for plain in [noise(len, 1), vec![b'a'; len]] {
                let sealed = seal(&keys, ChunkType::Data, &plain);
                assert_eq!(sealed.plain_len as usize, len);
                assert!(sealed.bytes.len() <= len + CHUNK_OVERHEAD_BYTES);
                let opened =
                    open(&keys, ChunkType::Data, sealed.chunk.tag, sealed.bytes.clone()).expect("opens");
                assert_eq!(*opened, plain);
            }
        }
    }

    #[test]
    fn chunk_that_compresses_gets_smaller_and_noise_does_not_grow() {
        let keys = keys();
        let text = b"the same words again and again ".repeat(2000);
        assert!(seal(&keys, ChunkType::Data, &text).bytes.len() < text.len() / 10);
        let noise = noise(65_536, 1);
        assert_eq!(seal(&keys, ChunkType::Data, &noise).bytes.len(), noise.len() + CHUNK_OVERHEAD_BYTES);
    }

    #[test]
    fn chunk_with_any_bit_flipped_is_refused() {
        let keys = keys();
        let sealed = seal(&keys, ChunkType::Node, &noise(40, 2));
        for bit in 0..sealed.bytes.len() * 8 {
            let mut bent = sealed.bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let opened = open(&keys, ChunkType::Node, sealed.chunk.tag, bent);
            assert!(matches!(opened, Err(Error::Sealed)), "bit {bit}");
        }
        for len in 0..sealed.bytes.len() {
            assert!(open(&keys, ChunkType::Node, sealed.chunk.tag, sealed.bytes[..len].to_vec()).is_err());
        }
    }

    #[test]
    fn chunk_under_another_type_tag_epoch_or_folder_is_refused() {
        let keys = keys();
        let sealed = seal(&keys, ChunkType::Data, b"plain");
        let tag = sealed.chunk.tag;
        assert!(open(&keys, ChunkType::Node, tag, sealed.bytes.clone()).is_err());
        assert!(open(&keys, ChunkType::Data, ChunkTag([0; 32]), sealed.bytes.clone()).is_err());
        let secret = || Secret32::take(&mut [3; 32]);
        let epoch = EpochKeys::new(FolderId([1; 32]), EpochId([9; 32]), secret());
        assert!(open(&epoch, ChunkType::Data, tag, sealed.bytes.clone()).is_err());
        let folder = EpochKeys::new(FolderId([9; 32]), EpochId([2; 32]), secret());
        assert!(open(&folder, ChunkType::Data, tag, sealed.bytes.clone()).is_err());
    }

    #[test]
    fn chunk_of_hostile_member_is_refused() {
        let keys = keys();
        let bomb = zstd::bulk::compress(&vec![0; CHUNK_BYTES_MAX + 1], 1).expect("compresses");
        let grown = zstd::bulk::compress(&noise(100, 3), 1).expect("compresses");
        let cases = [
            [&[FLAG_ZSTD], bomb.as_slice()].concat(),
            [&[FLAG_ZSTD], grown.as_slice()].concat(),
            vec![FLAG_ZSTD, 1, 2, 3],
            vec![2, 1, 2, 3],
            vec![FLAG_RAW],
        ];
        for packed in cases {
            let (tag, bytes) = seal_packed(&keys, ChunkType::Data, &packed);
            assert!(matches!(open(&keys, ChunkType::Data, tag, bytes), Err(Error::Sealed)));
        }
    }
}
