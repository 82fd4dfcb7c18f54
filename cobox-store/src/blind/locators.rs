//! Locators that members leave at a seeder: opaque, one per id, the newest wins.

use super::batch::{Batch, Durability};
use super::store::{Added, Store};
use super::tables::{STORE, Table, key};
use crate::error::{Error, Result};
use crate::format::locator::{Locator, UnverifiedLocator};
use crate::id::LocatorId;

impl Store {
    /// Keeps a locator unless the one that is here has the same or a higher number; durable on return.
    ///
    /// # Errors
    /// When the disk cannot be read or written.
    pub fn locator_put(&self, locator: &Locator) -> Result<Added> {
        // Held over reading and writing, so that of two locators the newer one stays.
        let _held = self.ordinals.lock();
        if self.locator(locator.id())?.is_some_and(|ours| ours.seq >= locator.seq) {
            return Ok(Added::Known);
        }
        let mut batch = Batch::default();
        batch.put(&key(STORE, Table::Locator, &locator.id().0), &locator.encode());
        self.db().commit(batch, Durability::Synced)?;
        Ok(Added::New)
    }

    /// The newest locator with this id, verified again.
    ///
    /// # Errors
    /// When the disk cannot be read, or changed it.
    pub fn locator(&self, id: LocatorId) -> Result<Option<Locator>> {
        let Some(bytes) = self.db().get(&key(STORE, Table::Locator, &id.0))? else { return Ok(None) };
        UnverifiedLocator::decode(&bytes)?.verify().map(Some).map_err(|_| Error::Sealed)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::super::testing::{Founder, new_store};
    use super::*;
    use crate::format::locator::LOCATOR_STEP_BYTES;
    use crate::format::pack::SEALED_OVERHEAD_BYTES;

    #[test]
    fn locator_with_a_lower_number_does_not_replace_a_newer_one() {
        let (_dir, store, _) = new_store(&Founder::new(1));
        let key = SigningKey::from_bytes(&[7; 32]);
        let make = |seq| {
            let mut locator = Locator {
                key: key.verifying_key().to_bytes(),
                seq,
                sealed: vec![0; LOCATOR_STEP_BYTES + SEALED_OVERHEAD_BYTES],
                signature: [0; 64],
            };
            locator.signature = key.sign(&locator.signed_bytes()).to_bytes();
            locator
        };
        assert_eq!(store.locator(make(1).id()).expect("reads"), None);
        assert_eq!(store.locator_put(&make(5)).expect("puts"), Added::New);
        assert_eq!(store.locator_put(&make(4)).expect("puts"), Added::Known);
        assert_eq!(store.locator(make(1).id()).expect("reads"), Some(make(5)));
        assert_eq!(store.locator_put(&make(6)).expect("puts"), Added::New);
        assert_eq!(store.locator(make(1).id()).expect("reads"), Some(make(6)));
    }
}
