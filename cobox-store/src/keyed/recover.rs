//! Joining a folder again with nothing but the member's words and its access log.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::admission::{Rejoin, Standing};
use super::folder::{Folder, sign_record};
use super::home::{Home, NewDevice, check_name};
use super::keyring::Keyring;
use super::secret::MemberSecret;
use crate::blind::{Batch, Store};
use crate::error::{Error, Result};
use crate::format::access::{Act, Record};
use crate::id::FolderNo;

impl Home {
    /// Whether this device was made with these words.
    #[must_use]
    pub fn is_of(&self, secret: &MemberSecret) -> bool {
        *secret.locator().sign_seed.expose() == *self.device.locator_sign
    }

    /// Joins a folder again: takes its access log, opens the epochs with the recovery key, admits this
    /// device in the member's name, and begins an epoch that is boxed to it too.
    ///
    /// `records` come from anywhere and in any order; the store checks each. A folder that this device has
    /// joined before is returned as it is; one whose log cannot go on, because the store was set back, is
    /// joined under a fresh log. Interrupted anywhere, the next call or the next opening goes on.
    ///
    /// # Errors
    /// [`Error::NotAMember`] when the records do not name the member of `index`, [`Error::UnknownEpoch`]
    /// when no box opens, [`Error::BadName`], [`Error::NameTaken`], or when the store refuses a record.
    pub fn folder_recover(
        &self,
        secret: &MemberSecret,
        index: u32,
        name: &str,
        records: Vec<Record>,
    ) -> Result<Arc<Folder>> {
        let _one_at_a_time = self.changing.lock();
        let is_genesis = |record: &&Record| matches!(record.content().act, Act::Genesis { .. });
        let genesis = records.iter().find(is_genesis).ok_or(Error::NotAMember)?;
        let known = self.folders()?;
        if let Some(info) = known.iter().find(|info| info.id == genesis.folder()) {
            add_all(&self.store, info.no, &records)?;
            return self.folder_again(secret, info.no);
        }
        check_name(name, &known)?;
        let no = self.store.folder_add(genesis)?;
        add_all(&self.store, no, &records)?;
        let access = self.store.access(no)?;
        let recovery = secret.recovery(index);
        let member = access.members.get(&recovery.member()).ok_or(Error::NotAMember)?;
        let (role, recovery_kem) = (member.role, member.kem);
        let keyring = Keyring::open(&access, BTreeMap::new(), &recovery.kem)?;
        let new = NewDevice::random()?;
        let device =
            new.describe(recovery.member(), recovery_kem, role, &self.device.label, &keyring.labels());
        let admission =
            sign_record(&recovery.sign, access.folder, access.heads.clone(), Act::AddDevice { device });
        // The opened epochs first: the recovery key is gone when the folder is opened the next time.
        self.epochs_keep(no, &keyring)?;
        self.admit(no, &new.row(index, name), &admission, Batch::default())?;
        self.folder(no)
    }

    /// A folder that this device has joined before; under a fresh log where the old one cannot go on.
    fn folder_again(&self, secret: &MemberSecret, no: FolderNo) -> Result<Arc<Folder>> {
        let folder = self.folder(no)?;
        let row = self.folder_row(no)?.ok_or(Error::NoSuchName)?;
        // A device that was removed is none of the folder's any more; its person may bring it back.
        let listed = self.store.access(no)?.devices.contains_key(&folder.log());
        if listed && folder.standing() == Standing::Good
            || self.rejoin(&folder, &row, Some(secret))? != Rejoin::Done
        {
            return Ok(folder);
        }
        self.folder_reopen(no)
    }
}

/// Adds records whose parents may come later in the list.
pub(super) fn add_all(store: &Store, no: FolderNo, records: &[Record]) -> Result<()> {
    let mut left: Vec<&Record> = records.iter().collect();
    while !left.is_empty() {
        let before = left.len();
        let mut premature = Vec::new();
        for record in left {
            match store.access_add(no, record) {
                Ok(_) => {}
                Err(Error::Premature) => premature.push(record),
                Err(error) => return Err(error),
            }
        }
        if premature.len() == before {
            return Err(Error::Premature);
        }
        left = premature;
    }
    Ok(())
}
