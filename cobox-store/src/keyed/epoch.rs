//! The keys of one epoch (`docs/format.md`, "Epochs").
//!
//! `E` is 32 random bytes; everything else follows from it, the folder and the epoch's record.

use super::aead;
use super::secret::Secret32;
use crate::error::{Error, Result};
use crate::format::SUITE;
use crate::format::access::WRAPPED_EPOCH_BYTES;
use crate::format::pack::ChunkType;
use crate::id::{EpochId, FolderId, derive};

/// What a chunk's associated data begins with.
const CHUNK_CONTEXT: &[u8] = b"cobox/v1/chunk";

/// All keys of one epoch.
pub struct EpochKeys {
    folder: FolderId,
    id: EpochId,
    secret: Secret32,
    pub(super) chunk_id: Secret32,
    pub(super) chunk_object: Secret32,
    pub(super) pack: Secret32,
    pub(super) log: Secret32,
}

impl EpochKeys {
    /// Derives the keys of epoch `id` of `folder` from its secret `E`.
    #[must_use]
    pub fn new(folder: FolderId, id: EpochId, secret: Secret32) -> Self {
        let part = |purpose| Secret32::derived(purpose, &[secret.expose(), &folder.0, &id.0]);
        Self {
            chunk_id: part("chunk id"),
            chunk_object: part("chunk object"),
            pack: part("pack"),
            log: part("log"),
            folder,
            id,
            secret,
        }
    }

    /// Which epoch.
    #[must_use]
    pub fn id(&self) -> EpochId {
        self.id
    }

    /// Of which folder.
    #[must_use]
    pub fn folder(&self) -> FolderId {
        self.folder
    }

    /// `E`, for boxes and for the sealed local copy.
    #[must_use]
    pub fn secret(&self) -> &Secret32 {
        &self.secret
    }

    /// The secret by which peers of the folder know each other.
    #[must_use]
    pub fn swarm_secret(&self) -> Secret32 {
        swarm_secret(&self.secret, self.folder)
    }

    pub(super) fn chunk_aad(&self, chunk_type: ChunkType) -> Vec<u8> {
        [CHUNK_CONTEXT, &[SUITE, chunk_type as u8], &self.folder.0, &self.id.0].concat()
    }

    pub(super) fn pack_aad(&self, part: &[u8]) -> Vec<u8> {
        [part, &[SUITE], &self.folder.0, &self.id.0].concat()
    }

    /// The first 8 bytes of `DK("chunker seed", E ‖ folder)`; asked of a folder's first epoch only.
    #[must_use]
    pub(super) fn chunker_seed(&self) -> u64 {
        let full = Secret32::derived("chunker seed", &[self.secret.expose(), &self.folder.0]);
        u64::from_le_bytes(full.expose()[..8].try_into().expect("32 bytes hold 8"))
    }
}

/// `DK("epoch commit", E)`: what the record shows of `E`.
#[must_use]
pub fn commit(secret: &Secret32) -> [u8; 32] {
    derive("epoch commit", &[secret.expose()])
}

/// `DK("swarm secret", E ‖ folder)`.
#[must_use]
pub fn swarm_secret(secret: &Secret32, folder: FolderId) -> Secret32 {
    Secret32::derived("swarm secret", &[secret.expose(), &folder.0])
}

/// Wraps an earlier epoch's secret under a newer one's.
#[must_use]
pub fn wrap(newer: &Secret32, folder: FolderId, older: &EpochKeys) -> [u8; WRAPPED_EPOCH_BYTES] {
    let key = Secret32::derived("epoch wrap", &[newer.expose(), &folder.0]);
    let sealed = aead::seal(key.expose(), &older.id.0, older.secret.expose());
    sealed.try_into().expect("32 bytes and the overhead")
}

/// Opens what [`wrap`] made.
///
/// # Errors
/// [`Error::Sealed`].
pub fn unwrap(newer: &Secret32, folder: FolderId, older: EpochId, wrapped: &[u8]) -> Result<Secret32> {
    let key = Secret32::derived("epoch wrap", &[newer.expose(), &folder.0]);
    let plain = zeroize::Zeroizing::new(aead::open(key.expose(), &older.0, wrapped)?);
    let mut bytes: [u8; 32] = plain.as_slice().try_into().map_err(|_| Error::Sealed)?;
    Ok(Secret32::take(&mut bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapped_epoch_opens_under_its_successor_only() {
        let folder = FolderId([1; 32]);
        let old = EpochKeys::new(folder, EpochId([2; 32]), Secret32::take(&mut [3; 32]));
        let new = Secret32::take(&mut [4; 32]);
        let wrapped = wrap(&new, folder, &old);
        assert_eq!(unwrap(&new, folder, old.id(), &wrapped).expect("opens").expose(), &[3; 32]);
        assert!(unwrap(&new, folder, EpochId([9; 32]), &wrapped).is_err());
        assert!(unwrap(&new, FolderId([9; 32]), old.id(), &wrapped).is_err());
        assert!(unwrap(old.secret(), folder, old.id(), &wrapped).is_err());
    }

    #[test]
    fn keys_of_two_epochs_share_nothing() {
        let secret = || Secret32::take(&mut [3; 32]);
        let one = EpochKeys::new(FolderId([1; 32]), EpochId([2; 32]), secret());
        let other = EpochKeys::new(FolderId([1; 32]), EpochId([5; 32]), secret());
        assert_ne!(one.chunk_id.expose(), other.chunk_id.expose());
        assert_ne!(one.chunk_id.expose(), one.chunk_object.expose());
        assert_ne!(one.pack.expose(), one.log.expose());
    }
}
