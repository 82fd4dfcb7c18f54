//! The locator (`docs/format.md`, "Locator"): what a member's 24 words find on any of their seeders.
//!
//! The outside is opaque, padded, signed and numbered; the inside, under the locator's own key, lists
//! the member's folders.

use ed25519_dalek::{Signature, VerifyingKey};

use super::access::{ADDRESSES_MAX, WrongSignature};
use super::address::SeederAddress;
use super::codec::{DecodeError, Reader, Writer};
use super::pack::SEALED_OVERHEAD_BYTES;
use crate::id::{FolderId, LocatorId, derive, hash};

/// What is signed is this and the hash of the clear fields and the sealed part.
pub const LOCATOR_CONTEXT: &[u8] = b"cobox/v1/locator";
/// A sealed locator is a multiple of this many bytes, less the overhead of sealing.
pub const LOCATOR_STEP_BYTES: usize = 4096;
/// A sealed locator at the most: about 200 folders with three seeders each.
pub const LOCATOR_BYTES_MAX: usize = 128 * 1024;
/// Folders in one locator: as many as a device keeps recovery keys for.
pub const LOCATOR_FOLDERS_MAX: usize = 64;

/// One folder in a locator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocatorFolder {
    /// Which.
    pub folder: FolderId,
    /// By which index its recovery keys are derived.
    pub index: u32,
    /// What the member calls it.
    pub name: Vec<u8>,
    /// Who holds it.
    pub seeders: Vec<SeederAddress>,
}

/// The padded plaintext of a locator: `u32 length ‖ payload ‖ zeros`.
#[must_use]
pub fn encode_folders(folders: &[LocatorFolder]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u32(0);
    writer.count(folders.len());
    for folder in folders {
        writer.fixed(&folder.folder.0);
        writer.u32(folder.index);
        writer.bytes16(&folder.name);
        writer.count(folder.seeders.len());
        for seeder in &folder.seeders {
            writer.bytes16(&seeder.encode());
        }
    }
    let mut bytes = writer.into_bytes();
    let payload_bytes = u32::try_from(bytes.len() - 4).expect("a locator is short");
    bytes[..4].copy_from_slice(&payload_bytes.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(LOCATOR_STEP_BYTES), 0);
    bytes
}

/// Reads what [`encode_folders`] wrote.
///
/// # Errors
/// On anything no writer produces.
pub fn decode_folders(bytes: &[u8]) -> Result<Vec<LocatorFolder>, DecodeError> {
    let mut outer = Reader::new(bytes);
    let payload = outer.bytes32(LOCATOR_BYTES_MAX, "locator")?;
    let right_length = (payload.len() + 4).next_multiple_of(LOCATOR_STEP_BYTES) == bytes.len();
    if !right_length || outer.rest().iter().any(|byte| *byte != 0) {
        return Err(DecodeError::Invalid { field: "locator padding" });
    }
    let mut reader = Reader::new(payload);
    let count = reader.count(LOCATOR_FOLDERS_MAX, 40, "locator")?;
    let folders = (0..count).map(|_| decode_folder(&mut reader)).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok(folders)
}

fn decode_folder(reader: &mut Reader<'_>) -> Result<LocatorFolder, DecodeError> {
    let folder = reader.folder_id("locator folder")?;
    let index = reader.u32("locator folder")?;
    let name = reader.bytes16(255, "locator folder")?.to_vec();
    let count = reader.count(ADDRESSES_MAX, 2, "locator seeders")?;
    let seeders = (0..count)
        .map(|_| SeederAddress::decode(reader.bytes16(usize::from(u16::MAX), "locator seeder")?))
        .collect::<Result<_, _>>()?;
    Ok(LocatorFolder { folder, index, name, seeders })
}

/// A locator whose signature holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Locator {
    /// The locator's verifying key.
    pub key: [u8; 32],
    /// The higher one replaces the lower.
    pub seq: u64,
    /// Nonce, ciphertext and tag of [`encode_folders`].
    pub sealed: Vec<u8>,
    /// By `key`, over [`Self::signed_bytes`].
    pub signature: [u8; 64],
}

/// A locator as it came from a peer or the disk.
#[derive(Debug)]
pub struct UnverifiedLocator(Locator);

impl Locator {
    /// Under which id seeders keep it.
    #[must_use]
    pub fn id(&self) -> LocatorId {
        locator_id(&self.key)
    }

    /// What is signed.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.encode_start(&mut writer);
        [LOCATOR_CONTEXT, &hash(&writer.into_bytes())].concat()
    }

    fn encode_start(&self, writer: &mut Writer) {
        writer.u8(1);
        writer.u8(super::SUITE);
        writer.fixed(&self.key);
        writer.u64(self.seq);
        writer.bytes32(&self.sealed);
    }

    /// The whole encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.encode_start(&mut writer);
        writer.fixed(&self.signature);
        writer.into_bytes()
    }
}

impl UnverifiedLocator {
    /// Reads what [`Locator::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "locator";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        reader.suite()?;
        let key = reader.array(field)?;
        let seq = reader.u64(field)?;
        let sealed = reader.bytes32(LOCATOR_BYTES_MAX + SEALED_OVERHEAD_BYTES, field)?.to_vec();
        let signature = reader.array(field)?;
        reader.finish()?;
        let plain_bytes = sealed.len().checked_sub(SEALED_OVERHEAD_BYTES);
        if !plain_bytes.is_some_and(|len| len > 0 && len.is_multiple_of(LOCATOR_STEP_BYTES)) {
            return Err(DecodeError::Invalid { field });
        }
        Ok(Self(Locator { key, seq, sealed, signature }))
    }

    /// The bytes it was read from; what is read re-encodes to the same.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`WrongSignature`]; the locator is consumed either way.
    pub fn verify(self) -> Result<Locator, WrongSignature> {
        let Self(locator) = self;
        let key = VerifyingKey::from_bytes(&locator.key).map_err(|_| WrongSignature)?;
        key.verify_strict(&locator.signed_bytes(), &Signature::from_bytes(&locator.signature))
            .map_err(|_| WrongSignature)?;
        Ok(locator)
    }
}

/// The id of the locator with this verifying key.
#[must_use]
pub fn locator_id(key: &[u8; 32]) -> LocatorId {
    LocatorId(derive("locator id", &[key]))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;
    use crate::id::KemKey;

    #[test]
    fn folders_round_trip_and_are_padded() {
        let folders = vec![LocatorFolder {
            folder: FolderId([1; 32]),
            index: 3,
            name: b"photos".to_vec(),
            seeders: vec![SeederAddress { peer_id: vec![1], kem: KemKey([2; 32]), addresses: vec![vec![3]] }],
        }];
        let bytes = encode_folders(&folders);
        assert_eq!(bytes.len(), LOCATOR_STEP_BYTES);
        assert_eq!(decode_folders(&bytes), Ok(folders));
    }

    #[test]
    fn locator_with_any_bit_flipped_is_refused() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let mut locator = Locator {
            key: key.verifying_key().to_bytes(),
            seq: 1,
            sealed: vec![0; LOCATOR_STEP_BYTES + SEALED_OVERHEAD_BYTES],
            signature: [0; 64],
        };
        locator.signature = key.sign(&locator.signed_bytes()).to_bytes();
        let bytes = locator.encode();
        let read = UnverifiedLocator::decode(&bytes).expect("decodes").verify();
        assert_eq!(read, Ok(locator));
        for at in (0..bytes.len()).step_by(7) {
            let mut bent = bytes.clone();
            bent[at] ^= 4;
            assert!(UnverifiedLocator::decode(&bent).ok().and_then(|found| found.verify().ok()).is_none());
        }
    }
}
