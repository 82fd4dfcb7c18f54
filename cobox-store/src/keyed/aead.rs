//! XChaCha20-Poly1305 with the nonce in front: `nonce24 ‖ ciphertext ‖ tag16`.
//!
//! Everything sealed under a long-lived key goes through here; chunks have a key each, see
//! [`super::seal`].

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use super::random::random;
use crate::error::{Error, Result};
use crate::format::pack::SEALED_OVERHEAD_BYTES;
use crate::id::hash;

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = SEALED_OVERHEAD_BYTES - NONCE_BYTES;

/// The nonce of `plain` for 32 random bytes: `KH(random, "nonce" ‖ H(plain))`, first 24 bytes.
///
/// If the randomness should ever repeat, two different plaintexts still have different nonces.
pub(super) fn hedged_nonce(random: &[u8; 32], plain: &[u8]) -> [u8; NONCE_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(random);
    hasher.update(b"nonce").update(&hash(plain));
    hasher.finalize().as_bytes()[..NONCE_BYTES].try_into().expect("32 bytes hold 24")
}

/// Seals with a fresh hedged nonce.
pub(super) fn seal(key: &[u8; 32], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    seal_at(key, aad, &hedged_nonce(&random(), plain), plain)
}

/// Seals a short value with a fresh random nonce, without the second hash.
pub(super) fn seal_local(cipher: &XChaCha20Poly1305, aad: &[u8], plain: &[u8]) -> Vec<u8> {
    seal_with(cipher, aad, &random(), plain)
}

/// Seals with a nonce that the caller answers for.
pub(super) fn seal_at(key: &[u8; 32], aad: &[u8], nonce: &[u8; NONCE_BYTES], plain: &[u8]) -> Vec<u8> {
    seal_with(&XChaCha20Poly1305::new(key.into()), aad, nonce, plain)
}

fn seal_with(cipher: &XChaCha20Poly1305, aad: &[u8], nonce: &[u8; NONCE_BYTES], plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(plain.len() + SEALED_OVERHEAD_BYTES);
    sealed.extend_from_slice(nonce);
    sealed.extend_from_slice(plain);
    let tag = cipher
        .encrypt_inout_detached(&XNonce::from(*nonce), aad, (&mut sealed[NONCE_BYTES..]).into())
        .expect("a value in memory is below the cipher's limit");
    sealed.extend_from_slice(&tag);
    sealed
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`Error::Sealed`].
pub(super) fn open(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    open_with(&XChaCha20Poly1305::new(key.into()), aad, sealed)
}

/// Opens with a cipher made before.
///
/// # Errors
/// [`Error::Sealed`].
pub(super) fn open_with(cipher: &XChaCha20Poly1305, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Error::Sealed)?;
    let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(Error::Sealed)?;
    let mut plain = body.to_vec();
    cipher
        .decrypt_inout_detached(&XNonce::from(*nonce), aad, plain.as_mut_slice().into(), &Tag::from(*tag))
        .map_err(|_| Error::Sealed)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_with_any_bit_flipped_is_refused() {
        let sealed = seal(&[1; 32], b"aad", b"plain");
        assert_eq!(open(&[1; 32], b"aad", &sealed).expect("opens"), b"plain");
        for bit in 0..sealed.len() * 8 {
            let mut bent = sealed.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open(&[1; 32], b"aad", &bent), Err(Error::Sealed)), "bit {bit}");
        }
        assert!(open(&[2; 32], b"aad", &sealed).is_err());
        assert!(open(&[1; 32], b"aae", &sealed).is_err());
        for len in 0..sealed.len() {
            assert!(open(&[1; 32], b"aad", &sealed[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn hedged_nonce_of_two_plaintexts_differs_even_with_broken_randomness() {
        assert_ne!(hedged_nonce(&[0; 32], b"a"), hedged_nonce(&[0; 32], b"b"));
    }
}
