//! How a device becomes one of a folder's, so that a crash at any moment is made up for; and how one
//! whose store was set back goes on under a fresh log (`docs/format.md`, "Logs").
//!
//! The device's keys and the record that admits it are kept in one batch; the record enters the access
//! log after that, and again whenever the folder is opened until it is there. So no device is ever
//! listed whose keys are lost.

use std::ops::ControlFlow;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::folder::{Folder, sign_record};
use super::home::{Home, NewDevice};
use super::keyring::Keyring;
use super::local::LocalKeys;
use super::secret::{MemberSecret, Secret32};
use crate::blind::kembox::KemSecret;
use crate::blind::tables::STORE;
use crate::blind::{Batch, Durability, Store, Table, key};
use crate::error::{Error, Result};
use crate::format::access::{Act, Device, Record, Role, UnverifiedRecord};
use crate::format::device::{DeviceRow, FolderRow};
use crate::id::{FolderNo, LogId};

const FORMER: &[u8] = b"former kem";
const ADMISSION: &[u8] = b"admission";
const SET_BACK: &[u8] = b"set back";

/// Whether a device may go on with its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Yes.
    Good,
    /// The log was continued elsewhere, or the database is older than the log.
    RolledBack,
}

/// What became of a device that may not go on with its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejoin {
    /// It goes on under a fresh log.
    Done,
    /// An admin, or the member's words, must admit it again.
    NotPermitted,
}

impl Home {
    /// Keeps a device's keys with the record that admits it, and adds the record; `extra` is committed with
    /// the keys.
    pub(super) fn admit(
        &self,
        no: FolderNo,
        row: &FolderRow,
        admission: &Record,
        mut extra: Batch,
    ) -> Result<()> {
        extra.put(&key(no, Table::Setting, ADMISSION), &admission.encode());
        self.stage_folder_row(no, row, &mut extra);
        self.store.db().commit(extra, Durability::Synced)?;
        self.resume_admission(no)
    }

    /// Adds the record that admits this device, where a crash came between.
    pub(super) fn resume_admission(&self, no: FolderNo) -> Result<()> {
        let Some(bytes) = self.store.db().get(&key(no, Table::Setting, ADMISSION))? else { return Ok(()) };
        let admission = UnverifiedRecord::decode(&bytes)?.verify().map_err(|_| Error::Sealed)?;
        match self.store.access_add(no, &admission) {
            Err(Error::Access { record }) => {
                // The member was removed meanwhile: the folder stays readable, and says so when written.
                tracing::error!(folder = no.0, %record, "this device is not admitted");
                Ok(())
            }
            added => added.map(drop),
        }
    }

    /// After a recovery: begins an epoch that is boxed to the new keys, once. A device that joined again has
    /// the epochs that it had, and may not know yet for whom a new one would have to be.
    pub(super) fn end_admission(&self, folder: &Folder) -> Result<()> {
        let row = key(folder.no(), Table::Setting, ADMISSION);
        if !self.store.db().contains(&row)? {
            return Ok(());
        }
        let access = self.store.access(folder.no())?;
        let boxed = access
            .epoch_heads
            .iter()
            .filter_map(|id| access.epochs.get(id))
            .any(|(epoch, _)| epoch.boxes.iter().any(|key_box| key_box.recipient == folder.kem_key()));
        if !boxed && access.may_write(&folder.log()) && folder.set_back()?.is_none() {
            folder.rotate()?;
        }
        let mut batch = Batch::default();
        batch.delete(&row);
        self.store.db().commit(batch, Durability::Synced)
    }

    /// Lets a device whose store was set back go on under a fresh log: by its own key where it may write, or
    /// by the member's words. A folder handed out before does not change; open it anew afterwards.
    ///
    /// What was written and is in no entry stays, and is written again under the fresh log by whoever
    /// opens the tree next; see [`Folder::set_back`].
    pub(super) fn rejoin(
        &self,
        folder: &Folder,
        row: &FolderRow,
        words: Option<&MemberSecret>,
    ) -> Result<Rejoin> {
        let access = self.store.access(folder.no())?;
        let listed = access.devices.get(&folder.log());
        let Some(old) = listed.or_else(|| access.former.get(&folder.log())) else {
            return Ok(Rejoin::NotPermitted);
        };
        let recovery = words.map(|words| words.recovery(row.index));
        // The words list a device at its person's role, and also where the device itself was removed.
        let role = match (&recovery, access.members.get(&old.member)) {
            (Some(_), Some(member)) => member.role,
            (Some(_), None) => return Ok(Rejoin::NotPermitted),
            (None, _) => old.role,
        };
        let signer: &SigningKey = match &recovery {
            Some(recovery) if recovery.member() == old.member => &recovery.sign,
            Some(_) => return Ok(Rejoin::NotPermitted),
            // A device may list another of its own member, at its own role.
            None if listed.is_some() && role >= Role::Write => folder.signing_key(),
            None => return Ok(Rejoin::NotPermitted),
        };
        if let Some(recovery) = &recovery {
            // Epochs that began while the device was out are boxed to the person's key, which is gone later.
            let known = folder.keyring.read().epochs().clone();
            self.epochs_keep(folder.no(), &Keyring::open(&access, known, &recovery.kem)?)?;
        }
        let new = NewDevice::random()?;
        let labels = folder.keyring.read().labels();
        let device: Device =
            new.describe(old.member, old.recovery_kem, role, &folder.device_label(), &labels);
        let admission = sign_record(signer, access.folder, access.heads.clone(), Act::AddDevice { device });
        let mut batch = Batch::default();
        // A copy of this device calls itself by the same name on the network: from the next start on it does not.
        let known = &self.device;
        let row_of_device = DeviceRow {
            label: known.label.clone(),
            net_seed: Zeroizing::new(*Secret32::random()?.expose()),
            locator_sign: known.locator_sign.clone(),
            locator_seal: known.locator_seal.clone(),
            recovery: known.recovery.clone(),
        };
        let row_key = key(STORE, Table::Secret, b"device");
        batch.put(&row_key, &self.local.seal(&row_key, &row_of_device.encode()));
        folder.stage_former(row, &mut batch)?;
        self.admit(folder.no(), &new.row(row.index, &row.name), &admission, batch)?;
        tracing::warn!(folder = %folder.id(), "the store was set back: this device goes on under a fresh log");
        Ok(Rejoin::Done)
    }
}

impl Folder {
    /// Adds to a batch what a fresh log has to know of the one before, whose keys are in `row`.
    pub(super) fn stage_former(&self, row: &FolderRow, batch: &mut Batch) -> Result<()> {
        // Boxes of epochs that are still on their way are for the key of the device that was.
        let former = key(self.no(), Table::Secret, &[FORMER, &self.log().0].concat());
        batch.put(&former, &self.local().seal(&former, row.kem_seed.as_slice()));
        // Once more before the tree was made anew: the ops that wait are still the first log's.
        if self.set_back()?.is_none() {
            let written = self.written()?.map_or(0, |head| head.seq);
            let row = [&self.log().0[..], &written.to_le_bytes()].concat();
            batch.put(&key(self.no(), Table::Setting, SET_BACK), &row);
        }
        Ok(())
    }

    /// Where a fresh log began and the tree was not made anew since: the log that waiting ops were
    /// made for, and the last of its entries whose ops this store held.
    ///
    /// # Errors
    /// When the store fails.
    pub fn set_back(&self) -> Result<Option<(LogId, u64)>> {
        let Some(row) = self.store().db().get(&key(self.no(), Table::Setting, SET_BACK))? else {
            return Ok(None);
        };
        let (log, seq) = row.split_first_chunk().ok_or(Error::Sealed)?;
        let seq = seq.try_into().map_err(|_| Error::Sealed)?;
        Ok(Some((LogId(*log), u64::from_le_bytes(seq))))
    }

    /// Adds to a batch that the tree was made anew after the store was set back.
    pub fn stage_made_anew(&self, batch: &mut Batch) {
        batch.delete(&key(self.no(), Table::Setting, SET_BACK));
    }
}

/// The keys for boxes of the devices that this one was.
pub(super) fn former_keys(store: &Store, no: FolderNo, local: &LocalKeys) -> Result<Vec<KemSecret>> {
    let prefix = key(no, Table::Secret, FORMER);
    let mut sealed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    store.db().scan(&prefix, &[], &mut |rest, value| {
        sealed.push(([&prefix[..], rest].concat(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    let mut keys = Vec::with_capacity(sealed.len());
    for (row_key, value) in sealed {
        let seed = Zeroizing::new(local.open(&row_key, &value)?);
        let seed: &[u8; 32] = seed.as_slice().try_into().map_err(|_| Error::Sealed)?;
        keys.push(KemSecret::from_seed(seed));
    }
    Ok(keys)
}

/// Opens a folder, lets it go on where a crash or an older copy of the store interrupted it.
pub(super) fn open_folder(home: &Home, no: FolderNo, row: FolderRow) -> Result<Arc<Folder>> {
    home.resume_admission(no)?;
    let folder = home.opening(no).open(&row)?;
    let rejoined =
        folder.standing() == Standing::RolledBack && home.rejoin(&folder, &row, None)? == Rejoin::Done;
    let folder = if rejoined {
        drop(folder);
        let row = home.folder_row(no)?.ok_or(Error::NoSuchName)?;
        home.opening(no).open(&row)?
    } else {
        folder
    };
    home.end_admission(&folder)?;
    Ok(Arc::new(folder))
}
