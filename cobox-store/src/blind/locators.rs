//! Locators that members leave at a seeder: opaque, one per id, the newest wins.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::batch::{Batch, Durability};
use super::store::{Added, Store};
use super::tables::{STORE, Table, key};
use crate::error::{Error, Result};
use crate::format::locator::{Locator, UnverifiedLocator};
use crate::id::{FolderId, LocatorId, MemberId};

/// Locators that one member of a folder may leave: it has one of its own, and those of the devices that it lends.
pub const LOCATORS_PER_MEMBER_MAX: usize = 64;
/// Bytes of all locators that one member of a folder may leave.
pub const LOCATOR_BYTES_PER_MEMBER_MAX: u64 = 4 << 20;
/// Bytes of all locators that one folder's members may leave: its admins list as many members as they like.
pub const LOCATOR_BYTES_PER_FOLDER_MAX: u64 = 64 << 20;

/// Who leaves a locator: a member, by a folder that lists it. A device's network identity says nothing, since it can
/// have as many as it likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaver {
    /// The folder.
    pub folder: FolderId,
    /// The member.
    pub member: MemberId,
}

impl Leaver {
    fn key(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        let (folder, member) = bytes.split_at_mut(32);
        folder.copy_from_slice(&self.folder.0);
        member.copy_from_slice(&self.member.0);
        bytes
    }
}

/// The rows that say who left a locator, and how much that is.
struct Books<'a> {
    store: &'a Store,
    batch: Batch,
}

impl Books<'_> {
    fn number(&self, row: &[u8]) -> Result<u64> {
        let Some(bytes) = self.store.db().get(row)? else { return Ok(0) };
        <[u8; 8]>::try_from(bytes.as_slice()).map(u64::from_le_bytes).map_err(|_| Error::Sealed)
    }

    /// How many locators a member left, and their bytes: no more rows than it may leave.
    fn of_member(&self, owner: &[u8; 64]) -> Result<(usize, u64)> {
        let (mut count, mut bytes, mut wrong) = (0, 0u64, Ok(()));
        self.store.db().scan(&left_by(owner, &[]), &[], &mut |_, size| {
            let Ok(size) = <[u8; 8]>::try_from(size).map(u64::from_le_bytes) else {
                wrong = Err(Error::Sealed);
                return ControlFlow::Break(());
            };
            count += 1;
            bytes = bytes.saturating_add(size);
            ControlFlow::Continue(())
        })?;
        wrong.map(|()| (count, bytes))
    }

    /// Takes a locator off its leaver's share; who that was, and how much it was.
    fn take_off(&mut self, id: &[u8; 32]) -> Result<Option<([u8; 64], u64)>> {
        let Some(owner) = self.store.db().get(&key(STORE, Table::LocatorBy, id))? else { return Ok(None) };
        let owner = <[u8; 64]>::try_from(owner.as_slice()).map_err(|_| Error::Sealed)?;
        let row = left_by(&owner, id);
        let size = self.number(&row)?;
        self.batch.delete(&row);
        Ok(Some((owner, size)))
    }

    /// Once, before the first change: makes the rows by locator and by folder agree with those by member. They are not
    /// there in a store that was written before there were any, and miss what an older program left or replaced, where
    /// one ran in between. Rows that name a peer count nothing, and go.
    fn begin(&mut self) -> Result<()> {
        if self.store.locators_summed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (mut rows, mut wrong) = (BTreeMap::new(), Ok(()));
        let mut sums: BTreeMap<[u8; 32], u64> = BTreeMap::new();
        let batch = &mut self.batch;
        self.store.db().scan(&key(STORE, Table::LocatorOf, &[]), &[], &mut |row, size| {
            let parts = row.split_first().filter(|(length, _)| **length == 64);
            let parts = parts.and_then(|(_, rest)| rest.split_first_chunk::<64>());
            let Some((owner, id)) = parts else {
                batch.delete(&key(STORE, Table::LocatorOf, row));
                return ControlFlow::Continue(());
            };
            let Ok(size) = <[u8; 8]>::try_from(size).map(u64::from_le_bytes) else {
                wrong = Err(Error::Sealed);
                return ControlFlow::Break(());
            };
            let sum = sums.entry(folder_of(owner)).or_default();
            *sum = sum.saturating_add(size);
            rows.insert(key(STORE, Table::LocatorBy, id), owner.to_vec());
            ControlFlow::Continue(())
        })?;
        wrong?;
        let sums = sums.into_iter();
        rows.extend(sums.map(|(of, sum)| (key(STORE, Table::LocatorSum, &of), sum.to_le_bytes().to_vec())));
        for table in [Table::LocatorBy, Table::LocatorSum] {
            self.store.db().scan(&key(STORE, table, &[]), &[], &mut |row, value| {
                let row = key(STORE, table, row);
                match rows.remove(&row) {
                    Some(right) if right == value => {}
                    Some(right) => batch.put(&row, &right),
                    None => batch.delete(&row),
                }
                ControlFlow::Continue(())
            })?;
        }
        rows.iter().for_each(|(row, value)| batch.put(row, value));
        let batch = std::mem::take(batch);
        if !batch.changes.is_empty() {
            self.store.db().commit(batch, Durability::Unsynced)?;
        }
        self.store.locators_summed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Store {
    /// Keeps a locator that `leaver` leaves, unless the one that is here has the same or a higher number;
    /// durable on return. Reads what that member left, and nothing of what others did.
    ///
    /// # Errors
    /// [`Error::Quota`] when the member or the folder has left too many or too much; when the disk cannot be read or
    /// written.
    pub fn locator_put(&self, leaver: Leaver, locator: &Locator) -> Result<Added> {
        // Held over reading and writing, so that of two locators the newer one stays.
        let _held = self.ordinals.lock();
        let before = self.locator(locator.id())?;
        if before.as_ref().is_some_and(|ours| ours.seq >= locator.seq) {
            return Ok(Added::Known);
        }
        let mut books = Books { store: self, batch: Batch::default() };
        books.begin()?;
        let bytes = locator.encode();
        let size = bytes.len() as u64;
        let (id, owner) = (locator.id().0, leaver.key());
        let sum_of = |folder: &[u8; 32]| key(STORE, Table::LocatorSum, folder);
        // The one that is replaced makes room, whoever left it.
        let replaced = books.take_off(&id)?;
        let (mut count, mut of_member) = books.of_member(&owner)?;
        let mut of_folder = books.number(&sum_of(&leaver.folder.0))?;
        if let Some((other, freed)) = replaced {
            let others = folder_of(&other);
            if other == owner {
                (count, of_member) = (count.saturating_sub(1), of_member.saturating_sub(freed));
            }
            if others == leaver.folder.0 {
                of_folder = of_folder.saturating_sub(freed);
            } else {
                let left = books.number(&sum_of(&others))?.saturating_sub(freed);
                books.batch.put(&sum_of(&others), &left.to_le_bytes());
            }
        }
        (of_member, of_folder) = (of_member.saturating_add(size), of_folder.saturating_add(size));
        if count >= LOCATORS_PER_MEMBER_MAX || of_member > LOCATOR_BYTES_PER_MEMBER_MAX {
            return Err(Error::Quota { quota_bytes: LOCATOR_BYTES_PER_MEMBER_MAX });
        }
        if of_folder > LOCATOR_BYTES_PER_FOLDER_MAX {
            return Err(Error::Quota { quota_bytes: LOCATOR_BYTES_PER_FOLDER_MAX });
        }
        let mut batch = books.batch;
        batch.put(&left_by(&owner, &id), &size.to_le_bytes());
        batch.put(&key(STORE, Table::LocatorBy, &id), &owner);
        batch.put(&sum_of(&leaver.folder.0), &of_folder.to_le_bytes());
        batch.put(&key(STORE, Table::Locator, &id), &bytes);
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

/// The key of what somebody left. The length comes first because peers were counted once, whose ids are shorter.
fn left_by(owner: &[u8; 64], id: &[u8]) -> Vec<u8> {
    key(STORE, Table::LocatorOf, &[&[64], owner.as_slice(), id].concat())
}

fn folder_of(owner: &[u8; 64]) -> [u8; 32] {
    *owner.first_chunk().expect("a folder comes first")
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::super::testing::{Founder, new_store};
    use super::*;
    use crate::format::locator::{LOCATOR_BYTES_MAX, LOCATOR_STEP_BYTES};
    use crate::format::pack::SEALED_OVERHEAD_BYTES;

    const MEMBER: Leaver = member(1, 1);

    const fn member(folder: u8, member: u8) -> Leaver {
        Leaver { folder: FolderId([folder; 32]), member: MemberId([member; 32]) }
    }

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
        assert_eq!(store.locator_put(MEMBER, &make(5)).expect("puts"), Added::New);
        assert_eq!(store.locator_put(MEMBER, &make(4)).expect("puts"), Added::Known);
        assert_eq!(store.locator(make(1).id()).expect("reads"), Some(make(5)));
        assert_eq!(store.locator_put(MEMBER, &make(6)).expect("puts"), Added::New);
        assert_eq!(store.locator(make(1).id()).expect("reads"), Some(make(6)));
    }

    #[test]
    fn locators_beyond_a_members_share_are_refused_and_its_own_still_change() {
        let (_dir, store, _) = new_store(&Founder::new(1));
        for seed in 0..LOCATORS_PER_MEMBER_MAX as u64 {
            store.locator_put(MEMBER, &make(seed, 1, 1)).expect("puts");
        }
        let beyond = make(LOCATORS_PER_MEMBER_MAX as u64, 1, 1);
        assert!(matches!(store.locator_put(MEMBER, &beyond), Err(Error::Quota { .. })));
        assert_eq!(store.locator(beyond.id()).expect("reads"), None);
        assert_eq!(store.locator_put(MEMBER, &make(3, 2, 1)).expect("replaces"), Added::New);
        assert_eq!(store.locator_put(member(1, 2), &beyond).expect("puts"), Added::New);
    }

    #[test]
    fn locators_of_too_many_bytes_from_one_member_are_refused() {
        let (_dir, store, _) = new_store(&Founder::new(1));
        let steps = LOCATOR_BYTES_MAX / LOCATOR_STEP_BYTES;
        let fit = LOCATOR_BYTES_PER_MEMBER_MAX / make(0, 1, steps).encode().len() as u64;
        assert!(fit < LOCATORS_PER_MEMBER_MAX as u64);
        for seed in 0..fit {
            store.locator_put(MEMBER, &make(seed, 1, steps)).expect("puts");
        }
        assert!(matches!(store.locator_put(MEMBER, &make(fit, 1, steps)), Err(Error::Quota { .. })));
    }

    #[test]
    fn made_up_members_of_one_folder_leave_others_their_room() {
        let (_dir, store, _) = new_store(&Founder::new(1));
        let steps = LOCATOR_BYTES_MAX / LOCATOR_STEP_BYTES;
        let fit = LOCATOR_BYTES_PER_FOLDER_MAX / make(0, 1, steps).encode().len() as u64;
        let by = |number: u64| member(1, u8::try_from(number / 16).expect("few members"));
        for seed in 0..fit {
            store.locator_put(by(seed), &make(seed, 1, steps)).expect("puts");
        }
        let beyond = make(fit, 1, steps);
        assert!(matches!(store.locator_put(member(1, 255), &beyond), Err(Error::Quota { .. })));
        assert_eq!(store.locator_put(member(2, 255), &beyond).expect("another folder"), Added::New);
        // One that is left again by another folder counts there alone.
        assert_eq!(store.locator_put(member(2, 0), &make(0, 2, steps)).expect("puts"), Added::New);
        assert_eq!(store.locator_put(member(1, 255), &make(fit + 1, 1, steps)).expect("puts"), Added::New);
    }

    #[test]
    fn locator_is_put_without_reading_what_others_left() {
        let (_dir, store, _) = new_store(&Founder::new(1));
        for number in 0..200u64 {
            let by = member(u8::try_from(number % 4).expect("few folders"), 9);
            store.locator_put(by, &make(number, 1, 1)).expect("puts");
        }
        store.locator_put(MEMBER, &make(1000, 1, 1)).expect("puts");
        let before = store.db().visited();
        assert_eq!(store.locator_put(MEMBER, &make(1000, 2, 1)).expect("replaces"), Added::New);
        assert_eq!(store.locator_put(MEMBER, &make(1001, 1, 1)).expect("puts"), Added::New);
        let rows = store.db().visited() - before;
        assert!(rows <= 6, "{rows} rows were read where the member has two");
    }

    #[test]
    fn locators_left_before_there_were_rows_by_folder_count_and_give_way() {
        let (dir, store, _) = new_store(&Founder::new(1));
        let steps = LOCATOR_BYTES_MAX / LOCATOR_STEP_BYTES;
        let fit = LOCATOR_BYTES_PER_FOLDER_MAX / make(0, 1, steps).encode().len() as u64;
        for seed in 0..fit {
            let by = member(1, u8::try_from(seed / 16).expect("few members"));
            store.locator_put(by, &make(seed, 1, steps)).expect("puts");
        }
        // What an older program wrote, with a row of the time when peers were counted.
        let mut batch = Batch::default();
        batch.delete_prefix(&key(STORE, Table::LocatorBy, &[]));
        batch.delete_prefix(&key(STORE, Table::LocatorSum, &[]));
        batch.put(&key(STORE, Table::LocatorOf, &[&[38][..], &[7; 38], &[8; 32]].concat()), &[1; 8]);
        store.db().commit(batch, Durability::Synced).expect("writes");
        let store = reopened(&dir, store);
        let beyond = make(fit, 1, steps);
        assert!(matches!(store.locator_put(member(1, 255), &beyond), Err(Error::Quota { .. })));
        assert_eq!(store.locator_put(member(2, 0), &make(0, 2, steps)).expect("moves"), Added::New);
        assert_eq!(store.locator_put(member(1, 255), &beyond).expect("there is room"), Added::New);
        assert_eq!(count(&store, Table::LocatorOf), fit + 1, "one for each, and none of a peer");
        let size = beyond.encode().len() as u64;
        assert_eq!(sums(&store), [(1, fit * size), (2, size)]);
    }

    #[test]
    fn locators_that_an_older_program_left_and_replaced_in_between_count_as_they_are() {
        let (dir, store, _) = new_store(&Founder::new(1));
        let size = |locator: &Locator| locator.encode().len() as u64;
        let (kept, moved) = (make(1, 1, 1), make(2, 1, 1));
        store.locator_put(member(1, 1), &kept).expect("puts");
        store.locator_put(member(1, 1), &moved).expect("puts");
        // It writes table 14 alone: another one in a folder of its own, and one that moves and grows.
        let (added, grown) = (make(3, 1, 2), make(2, 2, 3));
        let mut batch = Batch::default();
        batch.put(&left_by(&member(3, 1).key(), &added.id().0), &size(&added).to_le_bytes());
        batch.put(&key(STORE, Table::Locator, &added.id().0), &added.encode());
        batch.delete(&left_by(&member(1, 1).key(), &moved.id().0));
        batch.put(&left_by(&member(2, 1).key(), &grown.id().0), &size(&grown).to_le_bytes());
        batch.put(&key(STORE, Table::Locator, &grown.id().0), &grown.encode());
        store.db().commit(batch, Durability::Synced).expect("writes");
        let store = reopened(&dir, store);
        let last = make(4, 1, 1);
        store.locator_put(member(4, 1), &last).expect("puts");
        assert_eq!(count(&store, Table::LocatorBy), 4);
        let right = [(1, size(&kept)), (2, size(&grown)), (3, size(&added)), (4, size(&last))];
        assert_eq!(sums(&store), right);
        // Each is taken off who left it: none is counted twice.
        store.locator_put(member(4, 1), &make(3, 2, 1)).expect("moves");
        store.locator_put(member(4, 1), &make(2, 3, 1)).expect("moves");
        assert_eq!(count(&store, Table::LocatorOf), 4);
        assert_eq!(sums(&store), [(1, size(&kept)), (2, 0), (3, 0), (4, 3 * size(&last))]);
    }

    fn reopened(dir: &tempfile::TempDir, store: std::sync::Arc<Store>) -> std::sync::Arc<Store> {
        drop(store);
        Store::open(dir.path(), crate::blind::StoreKind::Seeder).expect("opens")
    }

    fn count(store: &Store, table: Table) -> u64 {
        let mut rows = 0;
        let each = &mut |_: &[u8], _: &[u8]| {
            rows += 1;
            ControlFlow::Continue(())
        };
        store.db().scan(&key(STORE, table, &[]), &[], each).expect("reads");
        rows
    }

    /// The first bytes of folders, and what is written as left there.
    fn sums(store: &Store) -> Vec<(u8, u64)> {
        let mut folders = Vec::new();
        let each = &mut |folder: &[u8], sum: &[u8]| {
            folders.push((folder[0], u64::from_le_bytes(sum.try_into().expect("eight bytes"))));
            ControlFlow::Continue(())
        };
        store.db().scan(&key(STORE, Table::LocatorSum, &[]), &[], each).expect("reads");
        folders
    }
}
