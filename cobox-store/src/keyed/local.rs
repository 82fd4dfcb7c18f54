//! Sealing of what stays on this device: values of rows, and names in keys.
//!
//! On a locked device nothing can be read: neither values, nor names, nor which chunks are there.

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::KeyInit as _;

use super::aead;
use super::secret::Secret32;
use super::siv::SivKeys;
use crate::error::Result;
use crate::format::content::ChunkRef;
use crate::id::Ino;

/// The keys of one folder's local rows, or of the device's own.
pub struct LocalKeys {
    cipher: XChaCha20Poly1305,
    rows: SivKeys,
    names: Secret32,
    tags: Secret32,
}

impl LocalKeys {
    /// Derives the keys of `scope` (a folder's id, or zeros) from the device's master key.
    #[must_use]
    pub fn new(master: &Secret32, scope: &[u8; 32]) -> Self {
        let part = |purpose| Secret32::derived(purpose, &[master.expose(), scope]);
        Self {
            cipher: XChaCha20Poly1305::new(part("local values").expose().into()),
            rows: SivKeys::new(part("local rows"), part("local row tags")),
            names: part("local names"),
            tags: part("local tags"),
        }
    }

    /// Seals a row's value; it opens under the same `key` only. Adds 40 bytes.
    #[must_use]
    pub fn seal(&self, key: &[u8], value: &[u8]) -> Vec<u8> {
        aead::seal_local(&self.cipher, key, value)
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`crate::Error::Sealed`].
    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        aead::open_with(&self.cipher, key, sealed)
    }

    /// Seals the value of a row of the tree; it opens under the same `key` only. Adds 16 bytes. The same value under
    /// the same key gives the same bytes.
    #[must_use]
    pub fn seal_row(&self, key: &[u8], value: &[u8]) -> Vec<u8> {
        self.rows.seal(key, value)
    }

    /// Opens what [`Self::seal_row`] made, or [`Self::seal`] in a store of format 1.
    ///
    /// # Errors
    /// [`crate::Error::Sealed`].
    pub fn open_row(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        self.rows.open(key, sealed).or_else(|_| self.open(key, sealed))
    }

    /// What stands in a key instead of a name.
    #[must_use]
    pub fn name_hash(&self, parent: &Ino, name_key: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(self.names.expose());
        hasher.update(&parent.0).update(name_key);
        first16(hasher.finalize().as_bytes())
    }

    /// What stands in a key instead of a chunk's name.
    #[must_use]
    pub(super) fn tag_hash(&self, chunk: &ChunkRef) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(self.tags.expose());
        hasher.update(&chunk.epoch.0).update(&chunk.tag.0);
        first16(hasher.finalize().as_bytes())
    }
}

fn first16(bytes: &[u8; 32]) -> [u8; 16] {
    bytes[..16].try_into().expect("32 bytes hold 16")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_under_another_key_or_scope_is_refused() {
        let master = Secret32::take(&mut [1; 32]);
        let keys = LocalKeys::new(&master, &[2; 32]);
        let sealed = keys.seal(b"row", b"value");
        assert_eq!(keys.open(b"row", &sealed).expect("opens"), b"value");
        assert!(keys.open(b"rox", &sealed).is_err());
        assert!(LocalKeys::new(&master, &[3; 32]).open(b"row", &sealed).is_err());
        assert_ne!(sealed, keys.seal(b"row", b"value"));
    }

    #[test]
    fn row_sealed_in_either_way_opens_under_its_own_key_alone() {
        let master = Secret32::take(&mut [1; 32]);
        let keys = LocalKeys::new(&master, &[2; 32]);
        for sealed in [keys.seal(b"row", b"value"), keys.seal_row(b"row", b"value")] {
            assert_eq!(keys.open_row(b"row", &sealed).expect("opens"), b"value");
            assert!(keys.open_row(b"rox", &sealed).is_err());
            assert!(LocalKeys::new(&master, &[3; 32]).open_row(b"row", &sealed).is_err());
        }
        assert!(keys.open(b"row", &keys.seal_row(b"row", &[7; 60])).is_err());
    }

    #[test]
    fn name_hash_depends_on_parent_and_folder() {
        let master = Secret32::take(&mut [1; 32]);
        let keys = LocalKeys::new(&master, &[2; 32]);
        let hash = keys.name_hash(&Ino::ROOT, b"a");
        assert_eq!(hash, keys.name_hash(&Ino::ROOT, b"a"));
        assert_ne!(hash, keys.name_hash(&Ino([1; 16]), b"a"));
        assert_ne!(hash, LocalKeys::new(&master, &[3; 32]).name_hash(&Ino::ROOT, b"a"));
    }
}
