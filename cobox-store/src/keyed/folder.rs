//! A folder with its keys in memory: who this device is in it, and which epochs it can open.
//!
//! Chunks are in `chunks.rs`, entries in `log.rs`, the index in `index.rs`; all of them are this type's
//! methods because they need its keys and its store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer as _, SigningKey};
use parking_lot::{Mutex, RwLock};

use super::admission;
use super::cache::{CACHE_BYTES_MAX, ChunkCache};
use super::chunker::Chunker;
use super::epoch::{self, EpochKeys};
use super::highwater::HighWater;
use super::keyring::{Keyring, open_boxes};
use super::label::LabelOf;
use super::local::LocalKeys;
use super::log::LogWriter;
use super::packer::Packer;
use super::pages::{PAGES_BYTES_MAX, Pages};
use super::secret::{SESSION_CONTEXT, Secret32};
use crate::blind::kembox::{self, KemSecret, Purpose};
use crate::blind::{Access, Batch, Durability, Store, Table, key};
use crate::error::{Error, Result};
use crate::format::access::{Act, BOX_BYTES, KeyBox, NewEpoch, Record, Unsigned, UnverifiedRecord};
use crate::format::address::SeederAddress;
use crate::format::device::FolderRow;
use crate::format::{HEADS_MAX, PREVIOUS_EPOCHS_MAX};
use crate::id::{EpochId, FolderId, FolderNo, KemKey, LogId, RecordHash, hash};

/// A folder that this device can read and, where its role allows, write.
pub struct Folder {
    store: Arc<Store>,
    no: FolderNo,
    id: FolderId,
    index: u32,
    name: String,
    device_label: String,
    log: LogId,
    log_number: u64,
    pub(super) sign: SigningKey,
    kem: KemSecret,
    /// Keys of the devices that this one was before it joined again.
    former: Vec<KemSecret>,
    local: LocalKeys,
    pub(super) chunker: Chunker,
    pub(super) keyring: RwLock<Keyring>,
    seen_heads: Mutex<Vec<RecordHash>>,
    pub(super) packer: Packer,
    pub(super) cache: ChunkCache,
    pub(super) pages: Pages,
    pub(super) marks: Arc<HighWater>,
    pub(super) writer: Mutex<LogWriter>,
}

/// What a folder is opened with.
pub(super) struct Opening<'a> {
    pub(super) store: &'a Arc<Store>,
    pub(super) no: FolderNo,
    pub(super) master: &'a Secret32,
    pub(super) marks: &'a Arc<HighWater>,
    pub(super) device_label: &'a str,
}

impl Opening<'_> {
    /// Opens a folder of which this device has a row.
    pub(super) fn open(&self, row: &FolderRow) -> Result<Folder> {
        let (store, no) = (self.store.clone(), self.no);
        let id = store.folder_id(no)?;
        let local = LocalKeys::new(self.master, &id.0);
        let access = store.access(no)?;
        let kem = KemSecret::from_seed(&row.kem_seed);
        let mut known = load_epochs(&store, no, id, &local, &access)?;
        let former = admission::former_keys(&store, no, &local)?;
        former.iter().for_each(|kem| open_boxes(&access, &mut known, kem));
        let keyring = Keyring::open(&access, known, &kem)?;
        save_epochs(&store, no, &local, &keyring)?;
        let sign = SigningKey::from_bytes(&row.sign_seed);
        let log = LogId(sign.verifying_key().to_bytes());
        let writer = LogWriter::open(&store, no, log, &local, self.marks)?;
        let folder = Folder {
            id,
            no,
            index: row.index,
            name: row.name.clone(),
            device_label: self.device_label.to_owned(),
            log,
            log_number: log.number(),
            sign,
            kem,
            former,
            local,
            chunker: Chunker::new(keyring.first.chunker_seed()),
            keyring: RwLock::new(keyring),
            seen_heads: Mutex::new(access.heads.clone()),
            packer: Packer::default(),
            cache: ChunkCache::new(CACHE_BYTES_MAX),
            pages: Pages::new(PAGES_BYTES_MAX)?,
            marks: self.marks.clone(),
            writer: Mutex::new(writer),
            store,
        };
        let pending = folder.pending_load()?;
        let kept = pending.iter().map(|row| row.pack.id).collect();
        folder.packer.resume(pending);
        if let Err(error) = folder.store.packs_sweep(no, &kept) {
            tracing::warn!(folder = %id, %error, "packs that nothing refers to stay until the next start");
        }
        Ok(folder)
    }
}

impl Folder {
    /// Which folder.
    #[must_use]
    pub fn id(&self) -> FolderId {
        self.id
    }

    /// Its number in this store.
    #[must_use]
    pub fn no(&self) -> FolderNo {
        self.no
    }

    /// By which index the member's recovery keys are derived.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What the member calls it.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// This device's log in the folder.
    #[must_use]
    pub fn log(&self) -> LogId {
        self.log
    }

    /// [`LogId::number`] of [`Self::log`].
    #[must_use]
    pub fn log_number(&self) -> u64 {
        self.log_number
    }

    /// Where it is stored.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The keys of its local rows.
    #[must_use]
    pub fn local(&self) -> &LocalKeys {
        &self.local
    }

    /// This device's label.
    #[must_use]
    pub fn device_label(&self) -> String {
        self.device_label.clone()
    }

    /// The label of the device that writes `log`, where it opens.
    #[must_use]
    pub fn label_of(&self, log: &LogId) -> Option<String> {
        let access = self.store.access(self.no).ok()?;
        let device = access.devices.get(log).or_else(|| access.former.get(log))?;
        self.keyring.read().labels().open(LabelOf::Device, &device.label).ok()
    }

    /// The label of the device whose [`LogId::number`] is `log_number`.
    #[must_use]
    pub fn label_of_number(&self, log_number: u64) -> Option<String> {
        let access = self.store.access(self.no).ok()?;
        // A removed device keeps its label: names that were made after it stay.
        let mut listed = access.devices.keys().chain(access.former.keys());
        let log = listed.find(|log| log.number() == log_number).copied();
        let branches = self.store.branches(self.no).ok()?;
        let branched = || branches.iter().find(|(id, _)| id.number() == log_number).map(|(_, it)| it.log);
        self.label_of(&log.or_else(branched)?)
    }

    /// Changes whenever a label may be another than before: with the access log, the branches and the epochs that are known.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn labels_state(&self) -> Result<[u8; 32]> {
        let (access, branches) = (self.store.access(self.no)?, self.store.branches(self.no)?);
        let counts = [branches.iter().count() as u64, self.keyring.read().epochs().len() as u64];
        let heads = access.heads.iter().flat_map(|head| head.0);
        Ok(hash(&heads.chain(counts.into_iter().flat_map(u64::to_le_bytes)).collect::<Vec<u8>>()))
    }

    /// [`LogId::number`] of every log that was ever listed, and of every branch of one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn log_numbers(&self) -> Result<BTreeSet<u64>> {
        let (access, branches) = (self.store.access(self.no)?, self.store.branches(self.no)?);
        let listed = access.devices.keys().chain(access.former.keys()).map(LogId::number);
        Ok(listed.chain(branches.iter().map(|(id, _)| id.number())).collect())
    }

    /// Whether this device has the keys of an epoch.
    #[must_use]
    pub fn has_epoch(&self, id: EpochId) -> bool {
        self.keyring.read().get(&id).is_some()
    }

    /// The swarm secret of the newest epoch.
    ///
    /// # Errors
    /// None today; a folder whose epochs are all closed is not opened.
    pub fn swarm_secret(&self) -> Result<Secret32> {
        Ok(self.keyring.read().current.swarm_secret())
    }

    /// The swarm secrets of all epochs, the newest first.
    #[must_use]
    pub fn swarm_secrets(&self) -> Vec<Secret32> {
        self.keyring.read().swarm_secrets()
    }

    /// Signs a session's transcript with the device's key for this folder.
    #[must_use]
    pub fn sign_session(&self, transcript: &[u8]) -> [u8; 64] {
        self.sign_bytes(&[SESSION_CONTEXT, &hash(transcript)].concat())
    }

    /// The key that boxes for this device are sealed to.
    pub(super) fn kem_key(&self) -> KemKey {
        self.kem.public()
    }

    /// The key that signs as this device.
    pub(super) fn signing_key(&self) -> &SigningKey {
        &self.sign
    }

    pub(super) fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        self.sign.sign(bytes).to_bytes()
    }

    /// The keys of one epoch, after a look at the access log where they are not known yet.
    pub(super) fn epoch_keys(&self, id: EpochId) -> Result<Arc<EpochKeys>> {
        let known = self.keyring.read().get(&id).cloned();
        if let Some(keys) = known {
            return Ok(keys);
        }
        self.refresh()?;
        self.keyring.read().get(&id).cloned().ok_or(Error::UnknownEpoch(id))
    }

    /// Reads the access log again and opens epochs that are new.
    ///
    /// # Errors
    /// When the store fails or no epoch opens any more.
    pub fn refresh(&self) -> Result<()> {
        let access = self.store.access(self.no)?;
        let mut seen = self.seen_heads.lock();
        if *seen == access.heads {
            return Ok(());
        }
        let mut known = self.keyring.read().epochs().clone();
        self.former.iter().for_each(|kem| open_boxes(&access, &mut known, kem));
        if !access.odd_epochs.is_empty() {
            tracing::error!(folder = %self.id, "an epoch is not boxed to exactly the devices and members");
        }
        let keyring = Keyring::open(&access, known, &self.kem)?;
        save_epochs(&self.store, self.no, &self.local, &keyring)?;
        *self.keyring.write() = keyring;
        *seen = access.heads.clone();
        Ok(())
    }

    /// Grants a seeder and adds the record locally.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when the device is no admin; or when the store fails.
    pub fn grant_seeder(&self, address: &SeederAddress, quota_bytes: u64, until_ms: u64) -> Result<Record> {
        self.require_admin()?;
        self.add_record(Act::GrantSeeder(self.make_grant(address, quota_bytes, until_ms)?))
    }

    /// Ends a seeder's grant and adds the record locally. The seeder keeps what it has for a while, by its own
    /// clock.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when the device is no admin; or when the store fails.
    pub fn revoke_seeder(&self, peer_id: &[u8]) -> Result<Record> {
        self.require_admin()?;
        self.add_record(Act::RevokeSeeder { peer_id: peer_id.to_vec() })
    }

    /// Begins a new epoch for all devices, members and seeders there are.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when the device may not write; or when the store fails.
    pub fn rotate(&self) -> Result<Record> {
        let access = self.store.access(self.no)?;
        if !access.may_write(&self.log) {
            return Err(Error::NotPermitted { log: self.log });
        }
        let keyring = self.keyring.read().clone();
        let record = self.add_record(Act::NewEpoch(new_epoch(&access, &Secret32::random()?, &keyring)?))?;
        self.refresh()?;
        Ok(record)
    }

    /// Signs a record by this device on top of all that is known, and adds it.
    pub(super) fn add_record(&self, act: Act) -> Result<Record> {
        let access = self.store.access(self.no)?;
        let record = sign_record(&self.sign, self.id, access.heads.clone(), act);
        // What nobody could read again would close the folder for good.
        UnverifiedRecord::decode(&record.encode())?;
        self.store.access_add(self.no, &record)?;
        Ok(record)
    }
}

/// Signs a record.
pub(super) fn sign_record(
    sign: &SigningKey,
    folder: FolderId,
    mut parents: Vec<RecordHash>,
    act: Act,
) -> Record {
    // A record names no more; the heads that are left wait for the next one.
    parents.truncate(HEADS_MAX);
    let author = sign.verifying_key().to_bytes();
    let content = Unsigned { folder, parents, author, issued_ms: now_ms(), act };
    let signature = sign.sign(&content.signed_bytes()).to_bytes();
    Record::new(content, signature)
}

/// Milliseconds since 1970 by this machine's clock.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// An epoch of secret `secret` for everyone in `access`, wrapping the newest epochs that open.
pub(super) fn new_epoch(access: &Access, secret: &Secret32, keyring: &Keyring) -> Result<NewEpoch> {
    // Somebody may have begun any number at once. All seal with the greatest, so that those come first.
    let newest = access.epoch_heads.iter().rev().filter_map(|id| keyring.get(id)).take(PREVIOUS_EPOCHS_MAX);
    let mut previous: Vec<_> =
        newest.map(|older| (older.id(), epoch::wrap(secret, access.folder, older))).collect();
    previous.sort_unstable_by_key(|(id, _)| *id);
    let commit = epoch::commit(secret);
    let people = access
        .devices
        .values()
        .map(|device| device.kem)
        .chain(access.members.values().map(|member| member.kem));
    let seeders = access.seeders.iter().map(|(_, grant)| grant.kem);
    let swarm = epoch::swarm_secret(secret, access.folder);
    Ok(NewEpoch {
        commit,
        boxes: boxes(people, |recipient| {
            kembox::seal(Purpose::Epoch, access.folder, recipient, &commit, secret.expose())
        })?,
        // The epoch's id is the hash of the record that these boxes are in, so they name its commit.
        swarm_boxes: boxes(seeders, |recipient| {
            kembox::seal(Purpose::Swarm, access.folder, recipient, &commit, swarm.expose())
        })?,
        previous,
    })
}

/// One box per recipient, ascending.
pub(super) fn boxes(
    recipients: impl Iterator<Item = KemKey>,
    seal: impl Fn(KemKey) -> Result<[u8; BOX_BYTES]>,
) -> Result<Vec<KeyBox>> {
    let sorted: BTreeSet<KemKey> = recipients.collect();
    sorted.into_iter().map(|recipient| Ok(KeyBox { recipient, sealed: seal(recipient)? })).collect()
}

fn epoch_key(no: FolderNo, id: EpochId) -> Vec<u8> {
    key(no, Table::Secret, &[b"epoch".as_slice(), &id.0].concat())
}

/// The keys of an epoch that was opened before, where this device keeps them.
pub(super) fn epoch_of_store(
    store: &Store,
    no: FolderNo,
    folder: FolderId,
    local: &LocalKeys,
    id: EpochId,
) -> Result<Option<EpochKeys>> {
    let row_key = epoch_key(no, id);
    let Some(sealed) = store.db().get(&row_key)? else { return Ok(None) };
    let plain = zeroize::Zeroizing::new(local.open(&row_key, &sealed)?);
    let mut bytes: [u8; 32] = plain.as_slice().try_into().map_err(|_| Error::Sealed)?;
    Ok(Some(EpochKeys::new(folder, id, Secret32::take(&mut bytes))))
}

/// Epochs that were opened before: a device that lost its boxes in a rotation still reads its past.
fn load_epochs(
    store: &Store,
    no: FolderNo,
    folder: FolderId,
    local: &LocalKeys,
    access: &Access,
) -> Result<BTreeMap<EpochId, Arc<EpochKeys>>> {
    let mut known = BTreeMap::new();
    for id in access.epochs.keys() {
        let Some(keys) = epoch_of_store(store, no, folder, local, *id)? else { continue };
        known.insert(*id, Arc::new(keys));
    }
    Ok(known)
}

/// Keeps opened epochs, sealed.
pub(super) fn save_epochs(store: &Store, no: FolderNo, local: &LocalKeys, keyring: &Keyring) -> Result<()> {
    let mut batch = Batch::default();
    for (id, keys) in keyring.epochs() {
        let row_key = epoch_key(no, *id);
        if !store.db().contains(&row_key)? {
            batch.put(&row_key, &local.seal(&row_key, keys.secret().expose()));
        }
    }
    if batch.is_empty() { Ok(()) } else { store.db().commit(batch, Durability::Synced) }
}
