//! Joining a folder again with nothing but the member's words and its access log.

use std::sync::Arc;

use super::folder::{Folder, sign_record};
use super::home::{Home, NewDevice, check_name};
use super::keyring::Keyring;
use super::secret::MemberSecret;
use crate::blind::Store;
use crate::error::{Error, Result};
use crate::format::access::{Act, Record, Role};
use crate::id::FolderNo;

impl Home {
    /// Joins a folder again: takes its access log, opens the epochs with the recovery key, admits this
    /// device in the member's name, and begins an epoch that is boxed to it too.
    ///
    /// `records` come from anywhere and in any order; the store checks each. A folder that this device has
    /// joined before is returned as it is.
    ///
    /// # Errors
    /// [`Error::NotAMember`] when the records do not name the member of `index`, [`Error::UnknownEpoch`]
    /// when no box opens, [`Error::BadName`], or when the store refuses a record.
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
            return self.folder(info.no);
        }
        check_name(name, &known)?;
        let no = self.store.folder_add(genesis)?;
        add_all(&self.store, no, &records)?;
        let access = self.store.access(no)?;
        let recovery = secret.recovery(index);
        let member = access.members.get(&recovery.member()).ok_or(Error::NotAMember)?;
        let (role, recovery_kem) = (member.role, member.kem);
        let keyring = Keyring::open(&access, std::collections::BTreeMap::new(), &recovery.kem)?;
        let new = NewDevice::random()?;
        let device =
            new.describe(recovery.member(), recovery_kem, role, &self.device.label, &keyring.labels());
        let admit =
            sign_record(&recovery.sign, access.folder, access.heads.clone(), Act::AddDevice { device });
        // The keys and the opened epochs first: a device must never be listed whose keys are lost.
        self.folder_keep(no, &new.row(index, name), &keyring)?;
        self.store.access_add(no, &admit)?;
        let folder = self.folder(no)?;
        if role >= Role::Write {
            folder.rotate()?;
        }
        Ok(folder)
    }
}

/// Adds records whose parents may come later in the list.
fn add_all(store: &Store, no: FolderNo, records: &[Record]) -> Result<()> {
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
