//! Joining a folder with a code: the request, and what follows once an admin's device let us in.

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::folder::Folder;
use super::home::{FolderInfo, Home, NewDevice, check_name};
use super::invite::InviteKeys;
use super::keyring::Keyring;
use super::label::LabelOf;
use super::recover::add_all;
use crate::blind::tables::STORE;
use crate::blind::{Access, Batch, Durability, Table, key};
use crate::error::{Error, Result};
use crate::format::access::{Act, Record, SEALED_LABEL_BYTES};
use crate::format::device::FolderRow;
use crate::format::invite::{FOLDER_PREFIX_BYTES, InviteCode, JoinRequest};
use crate::format::locator::LOCATOR_FOLDERS_MAX;
use crate::format::membership::Redemption;
use crate::id::{InviteKey, LogId};

fn join_key(invite: InviteKey) -> Vec<u8> {
    key(STORE, Table::Secret, &[b"join".as_slice(), &invite.0].concat())
}

impl Home {
    /// What to ask with a code. The device's keys are kept, so that asking again, also after a crash, asks
    /// for the same device: an invite is good for one.
    ///
    /// # Errors
    /// [`Error::TooManyFolders`], or when the store fails.
    pub fn join_request(&self, code: &InviteCode) -> Result<JoinRequest> {
        let _one_at_a_time = self.changing.lock();
        let keys = InviteKeys::of(code);
        let row = match self.join_row(keys.invite())? {
            Some(row) => row,
            None => self.join_begin(keys.invite())?,
        };
        let device = NewDevice::of_row(&row);
        let (member, recovery_kem) = *self
            .device
            .recovery
            .get(row.index as usize)
            .ok_or(Error::TooManyFolders(LOCATOR_FOLDERS_MAX))?;
        let mut request = JoinRequest {
            folder: code.folder,
            redemption: Redemption { invite: keys.invite(), signature: [0; 64] },
            log: LogId(device.sign.verifying_key().to_bytes()),
            kem: device.kem.public(),
            member,
            recovery_kem,
            label: [0; SEALED_LABEL_BYTES],
        };
        request.redemption.signature = keys.sign(&request.signed_bytes());
        request.label = keys.label.seal(LabelOf::Device, &self.device.label);
        Ok(request)
    }

    fn join_row(&self, invite: InviteKey) -> Result<Option<FolderRow>> {
        let row_key = join_key(invite);
        let Some(sealed) = self.store.db().get(&row_key)? else { return Ok(None) };
        Ok(Some(FolderRow::decode(&Zeroizing::new(self.local.open(&row_key, &sealed)?))?))
    }

    fn join_begin(&self, invite: InviteKey) -> Result<FolderRow> {
        let index = self.next_index()?;
        let row = NewDevice::random()?.row(index, "");
        let row_key = join_key(invite);
        let mut batch = Batch::default();
        batch.put(&row_key, &self.local.seal(&row_key, &row.encode()));
        self.store.db().commit(batch, Durability::Synced)?;
        self.raise_index_floor(index)?;
        Ok(row)
    }

    /// Joins with the access log that lists our device; `None` while it has no epoch for us yet. The name
    /// is the folder's own without another one.
    ///
    /// A folder that this device is in is returned as it is. One that it was removed from goes on under the keys of
    /// the request, with all that is here; what was handed out of it must not be used any more, and what nobody else has
    /// is written again by whoever opens the tree next, see [`Folder::set_back`].
    ///
    /// # Errors
    /// [`Error::NotAMember`] when the log does not list us, or is of another folder than the code's;
    /// [`Error::BadName`], [`Error::NameTaken`]; or when the store refuses a record.
    pub fn join_finish(
        &self,
        code: &InviteCode,
        name: Option<&str>,
        records: &[Record],
    ) -> Result<Option<Arc<Folder>>> {
        let _one_at_a_time = self.changing.lock();
        let invite = InviteKeys::of(code).invite();
        let is_genesis = |record: &&Record| matches!(record.content().act, Act::Genesis { .. });
        let genesis = records.iter().find(is_genesis).ok_or(Error::NotAMember)?;
        let folder = genesis.folder();
        if folder.0[..FOLDER_PREFIX_BYTES] != code.folder {
            return Err(Error::NotAMember);
        }
        let known = self.folders()?;
        if let Some(info) = known.iter().find(|info| info.id == folder) {
            return self.join_again(info, invite, name, records);
        }
        let row = self.join_row(invite)?.ok_or(Error::NotAMember)?;
        if let Some(name) = name {
            check_name(name, &known)?;
        }
        let no = self.store.folder_add(genesis)?;
        add_all(&self.store, no, records)?;
        let access = self.store.access(no)?;
        let device = NewDevice::of_row(&row);
        if !access.devices.contains_key(&LogId(device.sign.verifying_key().to_bytes())) {
            return Err(Error::NotAMember);
        }
        let Some(keyring) = newest_keys(&access, &device)? else { return Ok(None) };
        let name = match (name, &genesis.content().act) {
            (Some(name), _) => name.to_owned(),
            (None, Act::Genesis { name, .. }) => keyring.labels().open(LabelOf::Folder, name)?,
            _ => return Err(Error::NotAMember),
        };
        check_name(&name, &known)?;
        self.epochs_keep(no, &keyring)?;
        let mut batch = Batch::default();
        self.stage_folder_row(no, &device.row(row.index, &name), &mut batch);
        batch.delete(&join_key(invite));
        self.store.db().commit(batch, Durability::Synced)?;
        self.folder(no).map(Some)
    }

    /// A folder of this device, of which its log is not the first.
    fn join_again(
        &self,
        info: &FolderInfo,
        invite: InviteKey,
        name: Option<&str>,
        records: &[Record],
    ) -> Result<Option<Arc<Folder>>> {
        let folder = self.folder(info.no)?;
        add_all(&self.store, info.no, records)?;
        let access = self.store.access(info.no)?;
        if access.devices.contains_key(&folder.log()) {
            return Ok(Some(folder));
        }
        let former = self.folder_row(info.no)?.ok_or(Error::NoSuchName)?;
        let row = self.join_row(invite)?.ok_or(Error::NotAMember)?;
        let device = NewDevice::of_row(&row);
        if !access.devices.contains_key(&LogId(device.sign.verifying_key().to_bytes())) {
            return Err(Error::NotAMember);
        }
        let Some(keyring) = newest_keys(&access, &device)? else { return Ok(None) };
        let name = name.unwrap_or(&info.name);
        if name != info.name {
            check_name(name, &self.folders()?)?;
        }
        self.epochs_keep(info.no, &keyring)?;
        let mut batch = Batch::default();
        folder.stage_former(&former, &mut batch)?;
        self.stage_folder_row(info.no, &device.row(row.index, name), &mut batch);
        batch.delete(&join_key(invite));
        self.store.db().commit(batch, Durability::Synced)?;
        tracing::info!(folder = %info.id, "a device that was removed is let in again, under a fresh log");
        drop(folder);
        self.folder_reopen(info.no).map(Some)
    }
}

/// The keys that a device was given; `None` while nobody has begun an epoch for it.
fn newest_keys(access: &Access, device: &NewDevice) -> Result<Option<Keyring>> {
    match Keyring::open(access, BTreeMap::new(), &device.kem) {
        Ok(keyring) => Ok(Some(keyring)),
        Err(Error::UnknownEpoch(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
