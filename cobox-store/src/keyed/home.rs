//! A device's store with its keys: made once, unlocked at each start.
//!
//! In the device's folder: `slots` (the wrapped master key), `high-water` (see `highwater.rs`), and
//! `store` (RocksDB). The member's 32 bytes are never kept: only the locator's keys and the first
//! recovery public keys.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::admission;
use super::epoch;
use super::folder::{Folder, Opening, boxes, save_epochs, sign_record};
use super::highwater::HighWater;
use super::kept;
use super::keyring::Keyring;
use super::label::{LABEL_BYTES_MAX, LabelKey, LabelOf};
use super::local::LocalKeys;
use super::secret::{MemberSecret, Secret32};
use super::slots::{self, PassphraseCost, Unlock};
use crate::blind::kembox::{self, KemSecret, Purpose};
use crate::blind::tables::STORE;
use crate::blind::{Batch, Durability, Store, StoreKind, Table, key};
use crate::error::{Error, Result};
use crate::format::access::{Act, Device, NewEpoch, Record, Role};
use crate::format::device::{DeviceRow, FolderRow};
use crate::format::locator::LOCATOR_FOLDERS_MAX;
use crate::id::{FolderId, FolderNo, KemKey, LogId, MemberId};

/// Setting: the first index that a new folder may take.
const INDEX_FLOOR: &str = "index floor";
/// Version of Unicode whose normalisation names are compared by (unicode-normalization 0.1.25).
const UNICODE: [u8; 2] = [16, 0];

/// A folder of this device, as lists show it.
#[derive(Clone, Debug)]
pub struct FolderInfo {
    /// Its number in this store.
    pub no: FolderNo,
    /// Which folder.
    pub id: FolderId,
    /// What the member calls it.
    pub name: String,
    /// By which index its recovery keys are derived.
    pub index: u32,
}

/// An unlocked device.
pub struct Home {
    pub(super) store: Arc<Store>,
    pub(super) local: LocalKeys,
    pub(super) device: DeviceRow,
    master: Secret32,
    marks: Arc<HighWater>,
    folders: Mutex<BTreeMap<FolderNo, Arc<Folder>>>,
    /// Creating and recovering folders, one at a time: names and indices are unique.
    pub(super) changing: Mutex<()>,
}

/// The keys of a device that is about to join a folder.
pub(super) struct NewDevice {
    sign_seed: Secret32,
    kem_seed: Secret32,
    pub(super) sign: SigningKey,
    pub(super) kem: KemSecret,
}

impl NewDevice {
    pub(super) fn random() -> Result<Self> {
        let (sign_seed, kem_seed) = (Secret32::random()?, Secret32::random()?);
        let (sign, kem) =
            (SigningKey::from_bytes(sign_seed.expose()), KemSecret::from_seed(kem_seed.expose()));
        Ok(Self { sign_seed, kem_seed, sign, kem })
    }

    /// The keys of a row that was kept.
    pub(super) fn of_row(row: &FolderRow) -> Self {
        let sign_seed = Secret32::take(&mut row.sign_seed.clone());
        let kem_seed = Secret32::take(&mut row.kem_seed.clone());
        let (sign, kem) =
            (SigningKey::from_bytes(sign_seed.expose()), KemSecret::from_seed(kem_seed.expose()));
        Self { sign_seed, kem_seed, sign, kem }
    }

    pub(super) fn describe(
        &self,
        member: MemberId,
        recovery_kem: KemKey,
        role: Role,
        label: &str,
        key: &LabelKey,
    ) -> Device {
        Device {
            log: LogId(self.sign.verifying_key().to_bytes()),
            kem: self.kem.public(),
            member,
            recovery_kem,
            role,
            label: key.seal(LabelOf::Device, label),
        }
    }

    pub(super) fn row(&self, index: u32, name: &str) -> FolderRow {
        FolderRow {
            index,
            name: name.to_owned(),
            sign_seed: Zeroizing::new(*self.sign_seed.expose()),
            kem_seed: Zeroizing::new(*self.kem_seed.expose()),
        }
    }
}

impl Home {
    /// Makes a device in the empty or missing folder `dir`, for a new member.
    ///
    /// # Errors
    /// When there is a device already, or the store or the slots cannot be written.
    pub fn init(dir: &Path, label: &str, unlock: Unlock) -> Result<(Arc<Self>, MemberSecret)> {
        let secret = MemberSecret::generate()?;
        Ok((Self::init_recovered(dir, label, unlock, &secret)?, secret))
    }

    /// Makes a device of a member who has the words already.
    ///
    /// # Errors
    /// As [`Self::init`].
    pub fn init_recovered(
        dir: &Path,
        label: &str,
        unlock: Unlock,
        secret: &MemberSecret,
    ) -> Result<Arc<Self>> {
        Self::init_at_cost(dir, label, &unlock, secret, PassphraseCost::STANDARD)
    }

    /// As [`Self::init_recovered`], at another cost of guessing the passphrase.
    ///
    /// # Errors
    /// As [`Self::init`].
    #[doc(hidden)]
    pub fn init_at_cost(
        dir: &Path,
        label: &str,
        unlock: &Unlock,
        secret: &MemberSecret,
        cost: PassphraseCost,
    ) -> Result<Arc<Self>> {
        let io = |source| Error::Io { path: dir.to_owned(), source };
        if slots::exist(dir) {
            return Err(io(std::io::ErrorKind::AlreadyExists.into()));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        remove_unfinished(&dir.join("data"))?;
        let master = Secret32::random()?;
        let local = LocalKeys::new(&master, &[0; 32]);
        let store = Store::create(&dir.join("data"), StoreKind::Device)?;
        let row_key = key(STORE, Table::Secret, b"device");
        let mut batch = Batch::default();
        batch.put(&row_key, &local.seal(&row_key, &device_row(label, secret)?.encode()));
        store.db().commit(batch, Durability::Synced)?;
        // The slots come last: where they are, the device is whole.
        slots::create(dir, &master, unlock, cost)?;
        Self::assemble(dir, master, store)
    }

    /// Unlocks a device.
    ///
    /// # Errors
    /// [`Error::WrongKey`] for a wrong passphrase or key file, [`Error::Locked`] when it is in use.
    pub fn open(dir: &Path, unlock: Unlock) -> Result<Arc<Self>> {
        let master = slots::open(dir, &unlock)?;
        let store = Store::open(&dir.join("data"), StoreKind::Device)?;
        Self::assemble(dir, master, store)
    }

    fn assemble(dir: &Path, master: Secret32, store: Arc<Store>) -> Result<Arc<Self>> {
        let local = LocalKeys::new(&master, &[0; 32]);
        let row_key = key(STORE, Table::Secret, b"device");
        let sealed = store.db().get(&row_key)?.ok_or_else(|| Error::NotAStore { path: dir.to_owned() })?;
        let device = DeviceRow::decode(&Zeroizing::new(local.open(&row_key, &sealed)?))?;
        let marks = Arc::new(HighWater::open(dir)?);
        kept::make_bodies(&store, &master);
        let (folders, changing) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { store, local, device, master, marks, folders, changing }))
    }

    /// Whether there is a whole device at `dir`, and not what an interrupted set-up left.
    #[must_use]
    pub fn is_made(dir: &Path) -> bool {
        slots::exist(dir)
    }

    /// Whether a person must be asked before [`Self::open`].
    ///
    /// # Errors
    /// [`Error::NotAStore`] when there is no device at `dir`.
    pub fn needs_passphrase(dir: &Path) -> Result<bool> {
        slots::need_passphrase(dir)
    }

    /// Where everything is stored.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What people call this device.
    #[must_use]
    pub fn label(&self) -> String {
        self.device.label.clone()
    }

    /// The Ed25519 seed of this device's libp2p identity.
    ///
    /// # Errors
    /// None today; the seed was read when the device was unlocked.
    pub fn net_key(&self) -> Result<Zeroizing<[u8; 32]>> {
        Ok(self.device.net_seed.clone())
    }

    /// Begins a folder: its genesis and its first epoch, for this device and the member's words.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::NameTaken`], [`Error::TooManyFolders`], or when the store fails.
    pub fn folder_create(&self, name: &str) -> Result<Arc<Folder>> {
        let _one_at_a_time = self.changing.lock();
        let known = self.folders()?;
        check_name(name, &known)?;
        let index = self.next_index()?;
        let Some((member, recovery_kem)) = self.device.recovery.get(index as usize).copied() else {
            return Err(Error::TooManyFolders(LOCATOR_FOLDERS_MAX));
        };
        let (new, secret) = (NewDevice::random()?, Secret32::random()?);
        let labels = LabelKey::new(&secret);
        let device = new.describe(member, recovery_kem, Role::Admin, &self.device.label, &labels);
        let act = Act::Genesis {
            nonce: *Secret32::random()?.expose(),
            fold_case: false,
            unicode: UNICODE,
            device,
            name: labels.seal(LabelOf::Folder, name),
        };
        let genesis = sign_record(&new.sign, FolderId([0; 32]), Vec::new(), act);
        let folder = genesis.folder();
        let commit = epoch::commit(&secret);
        let people = [new.kem.public(), recovery_kem].into_iter();
        let boxes = boxes(people, |to| kembox::seal(Purpose::Epoch, folder, to, &commit, secret.expose()))?;
        let epoch = NewEpoch { commit, boxes, swarm_boxes: Vec::new(), previous: Vec::new() };
        let epoch = sign_record(&new.sign, folder, vec![genesis.hash()], Act::NewEpoch(epoch));
        self.folder_add(&new.row(index, name), &[genesis, epoch])
    }

    /// Keeps new folders off the recovery keys of `index`: another folder of the member has them, which
    /// this device did not join.
    ///
    /// # Errors
    /// When the store fails.
    pub fn reserve_index(&self, index: u32) -> Result<()> {
        let _one_at_a_time = self.changing.lock();
        self.raise_index_floor(index)
    }

    /// [`Self::reserve_index`] for callers that hold `changing`.
    pub(super) fn raise_index_floor(&self, index: u32) -> Result<()> {
        let floor = self.index_floor()?.max(index.saturating_add(1));
        self.store.setting_put(FolderNo(0), INDEX_FLOOR, &floor.to_le_bytes())
    }

    /// The index that the next folder takes.
    pub(super) fn next_index(&self) -> Result<u32> {
        let used = self.folders()?.iter().map(|info| info.index + 1).max().unwrap_or(0);
        let index = used.max(self.index_floor()?);
        // The last keys are those that seeders of this member know.
        if self.owned()?.iter().any(|owned| u32::from(owned.recovery) == index) {
            return Err(Error::TooManyFolders(LOCATOR_FOLDERS_MAX));
        }
        Ok(index)
    }

    fn index_floor(&self) -> Result<u32> {
        let floor = self.store.setting(FolderNo(0), INDEX_FLOOR)?;
        Ok(floor.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes))
    }

    /// Stores a folder's records and this device's keys for it, and opens it.
    fn folder_add(&self, row: &FolderRow, records: &[Record]) -> Result<Arc<Folder>> {
        let (genesis, others) = records.split_first().ok_or(Error::NotAMember)?;
        let no = self.store.folder_add(genesis)?;
        for record in others {
            self.store.access_add(no, record)?;
        }
        let mut batch = Batch::default();
        self.stage_folder_row(no, row, &mut batch);
        self.store.db().commit(batch, Durability::Synced)?;
        self.folder(no)
    }

    /// Adds the row of this device's keys for a folder.
    pub(super) fn stage_folder_row(&self, no: FolderNo, row: &FolderRow, batch: &mut Batch) {
        let row_key = key(no, Table::Secret, b"folder");
        batch.put(&row_key, &self.local.seal(&row_key, &row.encode()));
    }

    /// Keeps the epochs of a folder that were opened.
    pub(super) fn epochs_keep(&self, no: FolderNo, keyring: &Keyring) -> Result<()> {
        let folder = self.store.folder_id(no)?;
        save_epochs(&self.store, no, &LocalKeys::new(&self.master, &folder.0), keyring)
    }

    pub(super) fn folder_row(&self, no: FolderNo) -> Result<Option<FolderRow>> {
        let row_key = key(no, Table::Secret, b"folder");
        let Some(sealed) = self.store.db().get(&row_key)? else { return Ok(None) };
        Ok(Some(FolderRow::decode(&Zeroizing::new(self.local.open(&row_key, &sealed)?))?))
    }

    /// The folders of this device, in the order of their numbers.
    ///
    /// # Errors
    /// When the store fails.
    pub fn folders(&self) -> Result<Vec<FolderInfo>> {
        let mut infos = Vec::new();
        for (no, id) in self.store.folders()? {
            // A folder whose set-up was interrupted has no row and is not shown.
            if let Some(row) = self.folder_row(no)? {
                infos.push(FolderInfo { no, id, name: row.name.clone(), index: row.index });
            }
        }
        infos.sort_by_key(|info| info.no.0);
        Ok(infos)
    }

    /// Whether a folder that comes to this device may be called so.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::NameTaken`], or when the store fails.
    pub fn name_is_free(&self, name: &str) -> Result<()> {
        check_name(name, &self.folders()?)
    }

    /// Removes a folder from this device, its keys too; durable on return. What was handed out of it must not be used
    /// any more, and its recovery keys are taken by no other folder.
    ///
    /// # Errors
    /// [`Error::NoSuchName`], or when the store fails: then it may be asked for again.
    pub fn folder_leave(&self, no: FolderNo) -> Result<()> {
        let _one_at_a_time = self.changing.lock();
        let row = self.folder_row(no)?.ok_or(Error::NoSuchName)?;
        self.raise_index_floor(row.index)?;
        self.folders.lock().remove(&no);
        self.store.folder_remove(no)
    }

    /// A folder by its number; the same one each time.
    ///
    /// # Errors
    /// [`Error::NoSuchName`] when this device has no keys of it, or when the store fails.
    pub fn folder(&self, no: FolderNo) -> Result<Arc<Folder>> {
        let mut folders = self.folders.lock();
        if let Some(folder) = folders.get(&no) {
            return Ok(folder.clone());
        }
        let row = self.folder_row(no)?.ok_or(Error::NoSuchName)?;
        let folder = admission::open_folder(self, no, row)?;
        folders.insert(no, folder.clone());
        Ok(folder)
    }

    /// Opens a folder anew whose log cannot go on: under a fresh one, where the device may write. What was
    /// handed out before stays as it is, and must not be used any more.
    ///
    /// # Errors
    /// See [`Self::folder`].
    pub fn folder_renew(&self, no: FolderNo) -> Result<Arc<Folder>> {
        let _one_at_a_time = self.changing.lock();
        self.folder_reopen(no)
    }

    /// Opens a folder anew, with the keys that its row has now.
    pub(super) fn folder_reopen(&self, no: FolderNo) -> Result<Arc<Folder>> {
        self.folders.lock().remove(&no);
        self.folder(no)
    }

    pub(super) fn opening(&self, no: FolderNo) -> Opening<'_> {
        Opening {
            store: &self.store,
            no,
            master: &self.master,
            marks: &self.marks,
            device_label: &self.device.label,
        }
    }

    /// A folder by the name its member gave it.
    ///
    /// # Errors
    /// [`Error::NoSuchName`].
    pub fn folder_by_name(&self, name: &str) -> Result<Arc<Folder>> {
        let info = self.folders()?.into_iter().find(|info| info.name == name).ok_or(Error::NoSuchName)?;
        self.folder(info.no)
    }
}

/// Removes the store of a set-up that was interrupted before its keys were kept. One that holds a folder
/// is never touched.
fn remove_unfinished(data: &Path) -> Result<()> {
    let store = match Store::open(data, StoreKind::Device) {
        Ok(store) => store,
        Err(Error::NotAStore { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let empty = store.folders()?.is_empty();
    drop(store);
    let io = |source| Error::Io { path: data.to_owned(), source };
    if empty {
        std::fs::remove_dir_all(data).map_err(io)
    } else {
        Err(io(std::io::ErrorKind::AlreadyExists.into()))
    }
}

fn device_row(label: &str, secret: &MemberSecret) -> Result<DeviceRow> {
    let locator = secret.locator();
    let indices = 0..u32::try_from(LOCATOR_FOLDERS_MAX).expect("64");
    Ok(DeviceRow {
        label: label[..label.floor_char_boundary(LABEL_BYTES_MAX)].to_owned(),
        net_seed: Zeroizing::new(*Secret32::random()?.expose()),
        locator_sign: Zeroizing::new(*locator.sign_seed.expose()),
        locator_seal: Zeroizing::new(*locator.seal.expose()),
        recovery: indices
            .map(|index| {
                let keys = secret.recovery(index);
                (keys.member(), keys.kem_key())
            })
            .collect(),
    })
}

pub(super) fn check_name(name: &str, known: &[FolderInfo]) -> Result<()> {
    let legal = !name.is_empty()
        && name.len() <= LABEL_BYTES_MAX
        && !matches!(name, "." | "..")
        && !name.chars().any(|letter| letter == '/' || letter.is_control());
    if !legal {
        return Err(Error::BadName);
    }
    match known.iter().find(|info| info.name == name) {
        Some(info) => Err(Error::NameTaken { name: info.name.clone() }),
        None => Ok(()),
    }
}
