//! Sealing without a nonce of its own, for short values of which there are very many: `tag16 ‖ ciphertext`.
//!
//! The construction is SIV (Rogaway and Shrimpton, "Deterministic Authenticated-Encryption", 2006): a keyed hash of
//! name and plaintext is the tag, and the nonce of a stream cipher under another key. Nothing random is needed and
//! 24 bytes are spared; what shows is that a value is the one that stood under this very name before. Called by
//! [`super::local`].

use blake3::Hasher;
use chacha20::XChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use subtle::ConstantTimeEq as _;

use super::secret::Secret32;
use crate::error::{Error, Result};

const TAG_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;

/// The two keys: one for what is hidden, one for tags.
pub(super) struct SivKeys {
    stream: Secret32,
    tags: Secret32,
}

impl SivKeys {
    pub(super) fn new(stream: Secret32, tags: Secret32) -> Self {
        Self { stream, tags }
    }

    /// Seals `plain`; it opens under the same `name` only.
    pub(super) fn seal(&self, name: &[u8], plain: &[u8]) -> Vec<u8> {
        let tag = self.tag(name, plain);
        let mut sealed = Vec::with_capacity(TAG_BYTES + plain.len());
        sealed.extend_from_slice(&tag);
        sealed.extend_from_slice(plain);
        self.apply(&tag, &mut sealed[TAG_BYTES..]);
        sealed
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`Error::Sealed`].
    pub(super) fn open(&self, name: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let (tag, hidden) = sealed.split_first_chunk::<TAG_BYTES>().ok_or(Error::Sealed)?;
        let mut plain = hidden.to_vec();
        self.apply(tag, &mut plain);
        if bool::from(self.tag(name, &plain).ct_eq(tag)) { Ok(plain) } else { Err(Error::Sealed) }
    }

    // format.md §1.5
    fn tag(&self, name: &[u8], plain: &[u8]) -> [u8; TAG_BYTES] {
        let name_bytes = u32::try_from(name.len()).expect("a name is shorter than 4 GiB");
        let mut hasher = Hasher::new_keyed(self.tags.expose());
        hasher.update(&name_bytes.to_le_bytes()).update(name).update(plain);
        hasher.finalize().as_bytes()[..TAG_BYTES].try_into().expect("32 bytes hold 16")
    }

    fn apply(&self, tag: &[u8; TAG_BYTES], bytes: &mut [u8]) {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..TAG_BYTES].copy_from_slice(tag);
        XChaCha20::new(self.stream.expose().into(), &nonce.into()).apply_keystream(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(byte: u8) -> SivKeys {
        SivKeys::new(Secret32::take(&mut [byte; 32]), Secret32::take(&mut [byte + 1; 32]))
    }

    #[test]
    fn sealed_row_with_any_bit_flipped_is_refused() {
        let sealed = keys(1).seal(b"name", b"plain");
        assert_eq!(sealed.len(), 16 + 5);
        assert_eq!(keys(1).open(b"name", &sealed).expect("opens"), b"plain");
        for bit in 0..sealed.len() * 8 {
            let mut bent = sealed.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(keys(1).open(b"name", &bent), Err(Error::Sealed)), "bit {bit}");
        }
        assert!(keys(2).open(b"name", &sealed).is_err());
        for len in 0..sealed.len() {
            assert!(keys(1).open(b"name", &sealed[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn name_and_value_that_share_a_boundary_seal_to_different_bytes() {
        let keys = keys(1);
        assert!(keys.open(b"nam", &keys.seal(b"name", b"plain")).is_err());
        assert_ne!(keys.tag(b"ab", b"c"), keys.tag(b"a", b"bc"));
        assert_ne!(keys.seal(b"a", b"x"), keys.seal(b"b", b"x"));
    }

    #[test]
    fn equal_values_under_two_names_share_no_keystream() {
        let keys = keys(1);
        let (one, other) = (keys.seal(b"a", &[0; 64]), keys.seal(b"b", &[0; 64]));
        assert_ne!(one[16..], other[16..]);
        // XChaCha20 of the tag and zeros, worked out apart: the layout is that of format.md.
        let mut stream = [0u8; 64];
        let mut nonce = [0; 24];
        nonce[..16].copy_from_slice(&one[..16]);
        XChaCha20::new(&[1; 32].into(), &nonce.into()).apply_keystream(&mut stream);
        assert_eq!(one[16..], stream);
    }
}
