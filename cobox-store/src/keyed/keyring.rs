//! The epochs of a folder that this device can open.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::epoch::{self, EpochKeys};
use super::label::LabelKey;
use super::secret::Secret32;
use crate::blind::Access;
use crate::blind::kembox::{KemSecret, Purpose};
use crate::error::{Error, Result};
use crate::format::access::NewEpoch;
use crate::id::{EpochId, FolderId, RecordHash};

/// Keys by epoch; never empty once a folder is open.
#[derive(Clone)]
pub(super) struct Keyring {
    epochs: BTreeMap<EpochId, Arc<EpochKeys>>,
    /// The newest that opens: what is written is sealed under it.
    pub(super) current: Arc<EpochKeys>,
    /// The folder's first: labels and the chunker's seed follow from it.
    pub(super) first: Arc<EpochKeys>,
}

impl Keyring {
    /// Opens every epoch of `access` that `known` or a box for `kem` lead to.
    ///
    /// # Errors
    /// [`Error::UnknownEpoch`] when the first or every newest epoch stays closed.
    pub(super) fn open(
        access: &Access,
        known: BTreeMap<EpochId, Arc<EpochKeys>>,
        kem: &KemSecret,
    ) -> Result<Self> {
        let mut epochs = known;
        open_boxes(access, &mut epochs, kem);
        unwrap_earlier(access, &mut epochs);
        // Once this device was removed nothing newer opens; what it knows it can still read.
        let newest = access.sealing.iter().rev().chain(access.epoch_heads.iter().rev());
        let current = newest.filter_map(|id| epochs.get(id)).next().or(epochs.values().next_back()).cloned();
        let first = first_epoch(access).ok_or(Error::UnknownEpoch(EpochId([0; 32])))?;
        let current = current.ok_or(Error::UnknownEpoch(access.epoch().unwrap_or(first)))?;
        let first = epochs.get(&first).ok_or(Error::UnknownEpoch(first))?.clone();
        Ok(Self { epochs, current, first })
    }

    pub(super) fn get(&self, id: &EpochId) -> Option<&Arc<EpochKeys>> {
        self.epochs.get(id)
    }

    pub(super) fn epochs(&self) -> &BTreeMap<EpochId, Arc<EpochKeys>> {
        &self.epochs
    }

    pub(super) fn labels(&self) -> LabelKey {
        LabelKey::new(self.first.secret())
    }

    /// The current epoch's swarm secret, then the others'.
    pub(super) fn swarm_secrets(&self) -> Vec<Secret32> {
        let others = self.epochs.values().rev().filter(|keys| keys.id() != self.current.id());
        std::iter::once(&self.current).chain(others).map(|keys| keys.swarm_secret()).collect()
    }
}

/// Adds the epochs of `access` that have a box for `kem`.
pub(super) fn open_boxes(access: &Access, epochs: &mut BTreeMap<EpochId, Arc<EpochKeys>>, kem: &KemSecret) {
    for (id, (record, _)) in &access.epochs {
        if !epochs.contains_key(id)
            && let Some(secret) = open_box(access.folder, record, kem)
        {
            epochs.insert(*id, Arc::new(EpochKeys::new(access.folder, *id, secret)));
        }
    }
}

/// The epoch that stands directly on the genesis; the smallest where a broken founder made several.
fn first_epoch(access: &Access) -> Option<EpochId> {
    let genesis: RecordHash = access.genesis.hash();
    let stands_on_genesis = |(record, parents): &(Arc<NewEpoch>, Vec<RecordHash>)| {
        record.previous.is_empty() && parents.as_slice() == [genesis]
    };
    access.epochs.iter().find(|(_, epoch)| stands_on_genesis(epoch)).map(|(id, _)| *id)
}

/// `E` from the box for `kem`, if there is one and it holds what the record commits to.
fn open_box(folder: FolderId, record: &NewEpoch, kem: &KemSecret) -> Option<Secret32> {
    let recipient = kem.public();
    let key_box = record.boxes.iter().find(|key_box| key_box.recipient == recipient)?;
    let opened = kem.open(Purpose::Epoch, folder, &record.commit, &key_box.sealed);
    let secret = opened.ok().map(|mut bytes| Secret32::take(&mut bytes));
    let genuine = secret.filter(|secret| epoch::commit(secret) == record.commit);
    if genuine.is_none() {
        tracing::error!(%folder, "a device boxed something else than the epoch it announced");
    }
    genuine
}

fn unwrap_earlier(access: &Access, epochs: &mut BTreeMap<EpochId, Arc<EpochKeys>>) {
    let mut work: Vec<EpochId> = epochs.keys().copied().collect();
    while let Some(id) = work.pop() {
        let (Some((record, _)), Some(keys)) = (access.epochs.get(&id), epochs.get(&id).cloned()) else {
            continue;
        };
        for (older, wrapped) in &record.previous {
            let Some((announced, _)) = access.epochs.get(older) else { continue };
            if epochs.contains_key(older) {
                continue;
            }
            let opened = epoch::unwrap(keys.secret(), access.folder, *older, wrapped);
            match opened {
                Ok(secret) if epoch::commit(&secret) == announced.commit => {
                    epochs.insert(*older, Arc::new(EpochKeys::new(access.folder, *older, secret)));
                    work.push(*older);
                }
                _ => tracing::error!(folder = %access.folder, "an epoch does not open the one before it"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::folder::{new_epoch, sign_record};
    use super::super::{Home, MemberSecret, PassphraseCost, Unlock};
    use crate::format::access::{Act, UnverifiedRecord};

    use super::*;

    #[test]
    fn epochs_begun_at_once_without_end_leave_a_folder_that_opens_and_changes_its_keys() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let unlock = || Unlock::Passphrase(Zeroizing::new("pass".into()));
        let (secret, cost) =
            (MemberSecret::generate().expect("random"), PassphraseCost::cheapest_for_tests());
        let home =
            Home::init_at_cost(&dir.path().join("home"), "ann", &unlock(), &secret, cost).expect("a home");
        let folder = home.folder_create("club").expect("creates");
        let (store, no) = (folder.store(), folder.no());
        let access = store.access(no).expect("reads");
        // As a device that works against the others would: none builds on another.
        for _ in 0..100 {
            let keyring = folder.keyring.read().clone();
            let epoch = new_epoch(&access, &Secret32::random().expect("random"), &keyring).expect("seals");
            let record = sign_record(&folder.sign, folder.id(), access.heads.clone(), Act::NewEpoch(epoch));
            store.access_add(no, &record).expect("admitted");
        }
        folder.refresh().expect("reads");
        assert_eq!(store.access(no).expect("reads").epoch_heads.len(), 100);
        let record = folder.rotate().expect("begins another");
        UnverifiedRecord::decode(&record.encode()).expect("can be read again");
        let Act::NewEpoch(epoch) = &record.content().act else { panic!("an epoch") };
        assert_eq!(epoch.previous.len(), 100, "who joins later reads all of them");
        drop((folder, home));
        let home = Home::open(&dir.path().join("home"), unlock()).expect("opens");
        let folder = home.folder(no).expect("opens");
        assert_eq!(folder.keyring.read().epochs().len(), 102);
    }
}
