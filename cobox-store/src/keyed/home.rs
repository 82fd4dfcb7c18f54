//! A device's store with its keys: made once, unlocked at each start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::folder::Folder;
use super::secret::MemberSecret;
use crate::blind::Store;
use crate::error::Result;
use crate::format::access::Record;
use crate::format::locator::{Locator, LocatorFolder};
use crate::id::{FolderId, FolderNo};

/// How the key slots are opened.
pub enum Unlock {
    /// Something a person types.
    Passphrase(Zeroizing<String>),
    /// A file with 32 random bytes that only its owner can read; made where it is missing at set-up.
    KeyFile(PathBuf),
}

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
    store: Arc<Store>,
}

impl Home {
    /// Makes a device in the empty or missing folder `dir`, for a new member.
    ///
    /// # Errors
    /// When the store or the slots cannot be written.
    pub fn init(dir: &Path, label: &str, unlock: Unlock) -> Result<(Arc<Self>, MemberSecret)> {
        let _ = (dir, label, unlock);
        todo!()
    }

    /// Makes a device of a member who has the words already.
    ///
    /// # Errors
    /// When the store or the slots cannot be written.
    pub fn init_recovered(dir: &Path, label: &str, unlock: Unlock, secret: &MemberSecret) -> Result<Arc<Self>> {
        let _ = (dir, label, unlock, secret);
        todo!()
    }

    /// Unlocks a device.
    ///
    /// # Errors
    /// [`crate::Error::WrongKey`] for a wrong passphrase or key file.
    pub fn open(dir: &Path, unlock: Unlock) -> Result<Arc<Self>> {
        let _ = (dir, unlock);
        todo!()
    }

    /// Whether a person must be asked before [`Self::open`].
    ///
    /// # Errors
    /// When there is no device at `dir`.
    pub fn needs_passphrase(dir: &Path) -> Result<bool> {
        let _ = dir;
        todo!()
    }

    /// Where everything is stored.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What people call this device.
    #[must_use]
    pub fn label(&self) -> String {
        todo!()
    }

    /// Begins a folder.
    ///
    /// # Errors
    /// When the store fails or 64 folders exist already.
    pub fn folder_create(&self, name: &str) -> Result<Arc<Folder>> {
        let _ = name;
        todo!()
    }

    /// The folders of this device, in the order of their numbers.
    ///
    /// # Errors
    /// When the store fails.
    pub fn folders(&self) -> Result<Vec<FolderInfo>> {
        todo!()
    }

    /// A folder by its number.
    ///
    /// # Errors
    /// When this device has no keys of it.
    pub fn folder(&self, no: FolderNo) -> Result<Arc<Folder>> {
        let _ = no;
        todo!()
    }

    /// A folder by the name its member gave it.
    ///
    /// # Errors
    /// [`crate::Error::NoSuchName`].
    pub fn folder_by_name(&self, name: &str) -> Result<Arc<Folder>> {
        let _ = name;
        todo!()
    }

    /// Joins a folder again with the member's words: takes its access log, opens the epochs, and admits
    /// this device by the recovery key.
    ///
    /// # Errors
    /// When the records do not name the member at `index`, or no box opens.
    pub fn folder_recover(
        &self,
        secret: &MemberSecret,
        index: u32,
        name: &str,
        records: Vec<Record>,
    ) -> Result<Arc<Folder>> {
        let _ = (secret, index, name, records);
        todo!()
    }

    /// The locator as it should be on every seeder now.
    ///
    /// # Errors
    /// When the store fails.
    pub fn locator_make(&self) -> Result<Locator> {
        todo!()
    }

    /// What a locator of the member says.
    ///
    /// # Errors
    /// [`crate::Error::Sealed`] when it is not this member's.
    pub fn locator_open(secret: &MemberSecret, locator: &Locator) -> Result<Vec<LocatorFolder>> {
        let _ = (secret, locator);
        todo!()
    }

    /// The Ed25519 seed of this device's libp2p identity.
    ///
    /// # Errors
    /// When the store fails.
    pub fn net_key(&self) -> Result<Zeroizing<[u8; 32]>> {
        todo!()
    }
}
