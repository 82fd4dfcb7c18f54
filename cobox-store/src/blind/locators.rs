//! Locators that members leave at a seeder: opaque, one per id, the newest wins.

use std::ops::ControlFlow;

use super::batch::{Batch, Durability};
use super::store::{Added, Store};
use super::tables::{STORE, Table, key};
use crate::error::{Error, Result};
use crate::format::locator::{Locator, UnverifiedLocator};
use crate::id::LocatorId;

/// Locators that one person may leave: there is one for the person's folders, and another when its words change.
pub const LOCATORS_PER_PERSON_MAX: usize = 64;
/// Bytes of all locators that one person may leave.
pub const LOCATOR_BYTES_PER_PERSON_MAX: u64 = 4 << 20;

impl Store {
    /// Keeps a locator that `person` leaves (any name of up to 255 bytes), unless the one that is here has the same or a higher number;
    /// durable on return.
    ///
    /// # Errors
    /// [`Error::Quota`] when the person has left too many or too much; when the disk cannot be read or
    /// written.
    pub fn locator_put(&self, person: &[u8], locator: &Locator) -> Result<Added> {
        // Held over reading and writing, so that of two locators the newer one stays.
        let _held = self.ordinals.lock();
        if self.locator(locator.id())?.is_some_and(|ours| ours.seq >= locator.seq) {
            return Ok(Added::Known);
        }
        let bytes = locator.encode();
        let (mut count, mut total) = (1, bytes.len() as u64);
        let mut wrong = Ok(());
        self.db().scan(&left_by(person, &[]), &[], &mut |id, size| {
            // The one that is replaced makes room.
            if id == locator.id().0 {
                return ControlFlow::Continue(());
            }
            count += 1;
            match <[u8; 8]>::try_from(size) {
                Ok(size) => total = total.saturating_add(u64::from_le_bytes(size)),
                Err(_) => wrong = Err(Error::Sealed),
            }
            ControlFlow::Continue(())
        })?;
        wrong?;
        if count > LOCATORS_PER_PERSON_MAX || total > LOCATOR_BYTES_PER_PERSON_MAX {
            return Err(Error::Quota { quota_bytes: LOCATOR_BYTES_PER_PERSON_MAX });
        }
        let mut batch = Batch::default();
        batch.put(&left_by(person, &locator.id().0), &(bytes.len() as u64).to_le_bytes());
        batch.put(&key(STORE, Table::Locator, &locator.id().0), &bytes);
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

/// The key of what `person` left: the length keeps one's rows apart from another's.
fn left_by(person: &[u8], id: &[u8]) -> Vec<u8> {
    let length = u8::try_from(person.len()).expect("a name is short");
    key(STORE, Table::LocatorOf, &[&[length], person, id].concat())
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::super::testing::{Founder, new_store};
    use super::*;
    use crate::format::locator::{LOCATOR_BYTES_MAX, LOCATOR_STEP_BYTES};
    use crate::format::pack::SEALED_OVERHEAD_BYTES;

    const PEER: &[u8] = b"peer";

    fn make(seed: u64, seq: u64, steps: usize) -> Locator {
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&seed.to_le_bytes());
        let key = SigningKey::from_bytes(&secret);
        let mut locator = Locator {
            key: key.verifying_key().to_bytes(),
            seq,
            sealed: vec![0; steps * LOCATOR_STEP_BYTES + SEALED_OVERHEAD_BYTES],
            signature: [0; 64],
        };
        locator.signature = key.sign(&locator.signed_bytes()).to_bytes();
        locator
    }

    #[test]
    fn locator_with_a_lower_number_does_not_replace_a_newer_one() {
        let (_dir, store, _) = new_store(&Founder::new(1));
        let make = |seq| make(1, seq, 1);
        assert_eq!(store.locator(make(1).id()).expect("reads"), None);
        assert_eq!(store.locator_put(PEER, &make(5)).expect("puts"), Added::New);
        assert_eq!(store.locator_put(PEER, &make(4)).expect("puts"), Added::Known);
        assert_eq!(store.locator(make(1).id()).expect("reads"), Some(make(5)));
        assert_eq!(store.locator_put(PEER, &make(6)).expect("puts"), Added::New);
        assert_eq!(store.locator(make(1).id()).expect("reads"), Some(make(6)));
    }

    #[test]
    fn locators_beyond_a_persons_share_are_refused_and_its_own_still_change() {
        let (_dir, store, _) = new_store(&Founder::new(1));
        for seed in 0..LOCATORS_PER_PERSON_MAX as u64 {
            store.locator_put(PEER, &make(seed, 1, 1)).expect("puts");
        }
        let beyond = make(LOCATORS_PER_PERSON_MAX as u64, 1, 1);
        assert!(matches!(store.locator_put(PEER, &beyond), Err(Error::Quota { .. })));
        assert_eq!(store.locator(beyond.id()).expect("reads"), None);
        assert_eq!(store.locator_put(PEER, &make(3, 2, 1)).expect("replaces"), Added::New);
        assert_eq!(store.locator_put(b"peer of another", &beyond).expect("puts"), Added::New);
    }

    #[test]
    fn locators_of_too_many_bytes_from_one_peer_are_refused() {
        let (_dir, store, _) = new_store(&Founder::new(1));
        let steps = LOCATOR_BYTES_MAX / LOCATOR_STEP_BYTES;
        let fit = LOCATOR_BYTES_PER_PERSON_MAX / make(0, 1, steps).encode().len() as u64;
        assert!(fit < LOCATORS_PER_PERSON_MAX as u64);
        for seed in 0..fit {
            store.locator_put(PEER, &make(seed, 1, steps)).expect("puts");
        }
        assert!(matches!(store.locator_put(PEER, &make(fit, 1, steps)), Err(Error::Quota { .. })));
    }
}
