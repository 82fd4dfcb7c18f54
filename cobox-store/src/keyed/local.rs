//! Sealing of what stays on this device: values of rows, and names in keys.

use crate::error::Result;
use crate::id::Ino;

/// The keys of one folder's local rows.
pub struct LocalKeys;

impl LocalKeys {
    /// Seals a row's value; it opens under the same `key` only. Adds 40 bytes.
    #[must_use]
    pub fn seal(&self, key: &[u8], value: &[u8]) -> Vec<u8> {
        let _ = (key, value);
        todo!()
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`crate::Error::Sealed`].
    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let _ = (key, sealed);
        todo!()
    }

    /// What stands in a key instead of a name.
    #[must_use]
    pub fn name_hash(&self, parent: &Ino, name_key: &[u8]) -> [u8; 16] {
        let _ = (parent, name_key);
        todo!()
    }
}
