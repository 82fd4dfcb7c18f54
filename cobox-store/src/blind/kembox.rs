//! Boxes of 32-byte secrets, to a device's, a member's or a seeder's key (`docs/format.md`, "Boxes").
//!
//! HPKE (RFC 9180), base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. It opens no
//! chunk, pack, entry or epoch: the seeder uses it for swarm secrets only, and the purpose in `info`
//! keeps those apart from epochs.

use std::convert::Infallible;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{
    Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _, single_shot_open,
    single_shot_seal_with_rng,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{Error, Result};
use crate::format::access::BOX_BYTES;
use crate::id::{FolderId, KemKey};

const ENCAPPED_BYTES: usize = 32;

/// What a boxed secret is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// An epoch's secret; `aad` is the epoch's commit.
    Epoch,
    /// A swarm secret; `aad` is the epoch's id.
    Swarm,
}

impl Purpose {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Epoch => b"cobox/v1/epoch box",
            Self::Swarm => b"cobox/v1/swarm box",
        }
    }
}

fn info(purpose: Purpose, folder: FolderId, recipient: KemKey) -> Vec<u8> {
    [purpose.text(), &folder.0, &recipient.0].concat()
}

/// The secret half of a [`KemKey`]; zeroed when dropped (by `x25519-dalek`), and never printed.
pub struct KemSecret {
    secret: <X25519HkdfSha256 as Kem>::PrivateKey,
    public: KemKey,
}

impl KemSecret {
    /// The key pair that follows from 32 random bytes (RFC 9180, `DeriveKeyPair`).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let (secret, public) = X25519HkdfSha256::derive_keypair(seed);
        Self { secret, public: KemKey(public.to_bytes().into()) }
    }

    /// What others box to.
    #[must_use]
    pub fn public(&self) -> KemKey {
        self.public
    }

    /// Opens a box to this key.
    ///
    /// # Errors
    /// [`Error::Sealed`] when it was made to another key, for another purpose or folder, with another
    /// `aad`, or was changed.
    pub fn open(
        &self,
        purpose: Purpose,
        folder: FolderId,
        aad: &[u8; 32],
        sealed: &[u8; BOX_BYTES],
    ) -> Result<Zeroizing<[u8; 32]>> {
        let (encapped, ciphertext) = sealed.split_at(ENCAPPED_BYTES);
        let encapped =
            <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapped).map_err(|_| Error::Sealed)?;
        let opened = single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &self.secret,
            &encapped,
            &info(purpose, folder, self.public),
            ciphertext,
            aad,
        );
        let opened = Zeroizing::new(opened.map_err(|_| Error::Sealed)?);
        let mut secret = Zeroizing::new([0; 32]);
        if opened.len() != secret.len() {
            return Err(Error::Sealed);
        }
        secret.copy_from_slice(&opened);
        Ok(secret)
    }
}

/// Boxes a secret to `recipient`.
///
/// # Errors
/// [`Error::Sealed`] when `recipient` is no usable key; [`Error::Random`].
pub fn seal(
    purpose: Purpose,
    folder: FolderId,
    recipient: KemKey,
    aad: &[u8; 32],
    secret: &[u8; 32],
) -> Result<[u8; BOX_BYTES]> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(|_| Error::Random)?;
    seal_from_seed(purpose, folder, recipient, aad, secret, &seed)
}

/// [`seal`] with randomness that the caller answers for; the test vectors are made with it.
pub(crate) fn seal_from_seed(
    purpose: Purpose,
    folder: FolderId,
    recipient: KemKey,
    aad: &[u8; 32],
    secret: &[u8; 32],
    seed: &[u8; 32],
) -> Result<[u8; BOX_BYTES]> {
    let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&recipient.0).map_err(|_| Error::Sealed)?;
    let (encapped, ciphertext) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &key,
        &info(purpose, folder, recipient),
        secret,
        aad,
        &mut Drawn::new(seed),
    )
    .map_err(|_| Error::Sealed)?;
    [&encapped.to_bytes()[..], &ciphertext].concat().try_into().map_err(|_| Error::Sealed)
}

/// Randomness for one box: drawn before it is needed, because HPKE takes only sources that cannot fail,
/// and stretched by BLAKE3.
struct Drawn(blake3::OutputReader);

impl Drawn {
    fn new(seed: &[u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("cobox 2026-11 v1 box randomness");
        hasher.update(seed);
        Self(hasher.finalize_xof())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        bytes
    }
}

impl TryRng for Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.array()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.array()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.zeroize();
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Drawn {}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: FolderId = FolderId([1; 32]);

    #[test]
    fn box_opens_for_its_recipient_purpose_folder_and_aad_only() {
        let (ours, other) = (KemSecret::from_seed(&[2; 32]), KemSecret::from_seed(&[3; 32]));
        let sealed = seal(Purpose::Epoch, FOLDER, ours.public(), &[4; 32], &[5; 32]).expect("seals");
        assert_eq!(*ours.open(Purpose::Epoch, FOLDER, &[4; 32], &sealed).expect("opens"), [5; 32]);
        assert!(other.open(Purpose::Epoch, FOLDER, &[4; 32], &sealed).is_err());
        assert!(ours.open(Purpose::Swarm, FOLDER, &[4; 32], &sealed).is_err());
        assert!(ours.open(Purpose::Epoch, FolderId([9; 32]), &[4; 32], &sealed).is_err());
        assert!(ours.open(Purpose::Epoch, FOLDER, &[9; 32], &sealed).is_err());
        for at in 0..sealed.len() {
            let mut bent = sealed;
            bent[at] ^= 1;
            assert!(ours.open(Purpose::Epoch, FOLDER, &[4; 32], &bent).is_err(), "byte {at}");
        }
    }

    #[test]
    fn boxes_of_one_secret_differ() {
        let key = KemSecret::from_seed(&[2; 32]).public();
        let make = || seal(Purpose::Swarm, FOLDER, key, &[4; 32], &[5; 32]).expect("seals");
        assert_ne!(make(), make());
    }

    #[test]
    fn box_to_a_key_of_low_order_is_refused() {
        assert!(seal(Purpose::Swarm, FOLDER, KemKey([0; 32]), &[4; 32], &[5; 32]).is_err());
    }
}
