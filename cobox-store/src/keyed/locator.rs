//! Making and opening the member's locator (`docs/format.md`, "Locator").

use std::collections::BTreeMap;

use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use super::aead;
use super::folder::now_ms;
use super::home::Home;
use super::random::random;
use super::secret::{LocatorKeys, MemberSecret, Secret32};
use crate::blind::tables::STORE;
use crate::blind::{Batch, Durability, Table, key};
use crate::error::{Error, Result};
use crate::format::SUITE;
use crate::format::access::ADDRESSES_MAX;
use crate::format::address::SeederAddress;
use crate::format::locator::{
    LOCATOR_CONTEXT, LOCATOR_FOLDERS_MAX, Locator, LocatorFolder, decode_folders, encode_folders,
};
use crate::id::FolderNo;

impl Home {
    /// The locator as it should be on every seeder now; each call's number is greater than the last one's.
    ///
    /// # Errors
    /// When the store fails.
    pub fn locator_make(&self) -> Result<Locator> {
        self.locator_make_over(None)
    }

    /// Like [`Self::locator_make`], in place of `older`, which a seeder keeps: folders that only another
    /// device of the member has joined stay in it.
    ///
    /// # Errors
    /// When the store fails, or `older` is not this member's.
    pub fn locator_make_over(&self, older: Option<&Locator>) -> Result<Locator> {
        let _one_at_a_time = self.changing.lock();
        let mut folders = Vec::new();
        for info in self.folders()? {
            let seeders = self.seeder_addresses(info.no)?;
            folders.push(LocatorFolder {
                folder: info.id,
                index: info.index,
                name: info.name.into_bytes(),
                seeders,
            });
        }
        let keys = self.locator_keys();
        let mut seq = self.next_locator_seq()?;
        if let Some(older) = older {
            seq = seq.max(older.seq.saturating_add(1));
            for kept in open(&keys, older)? {
                if folders.len() < LOCATOR_FOLDERS_MAX && folders.iter().all(|own| own.folder != kept.folder)
                {
                    folders.push(kept);
                }
            }
        }
        Ok(seal(&keys, seq, &folders, &random()))
    }

    /// The keys of the member's locator.
    #[must_use]
    pub fn locator_keys(&self) -> LocatorKeys {
        LocatorKeys {
            sign_seed: Secret32::take(&mut self.device.locator_sign.clone()),
            seal: Secret32::take(&mut self.device.locator_seal.clone()),
        }
    }

    /// What a locator of the member says.
    ///
    /// # Errors
    /// [`Error::Sealed`] when it is not this member's.
    pub fn locator_open(secret: &MemberSecret, locator: &Locator) -> Result<Vec<LocatorFolder>> {
        open(&secret.locator(), locator)
    }

    /// The newest grant of each seeder.
    fn seeder_addresses(&self, no: FolderNo) -> Result<Vec<SeederAddress>> {
        let access = self.store.access(no)?;
        let newest: BTreeMap<_, _> =
            access.seeders.iter().map(|(_, grant)| (&grant.peer_id, grant)).collect();
        Ok(newest
            .into_values()
            .take(ADDRESSES_MAX)
            .map(|grant| SeederAddress {
                peer_id: grant.peer_id.clone(),
                kem: grant.kem,
                addresses: grant.addresses.clone(),
            })
            .collect())
    }

    fn next_locator_seq(&self) -> Result<u64> {
        let row_key = key(STORE, Table::Setting, b"locator seq");
        let last = match self.store.db().get(&row_key)? {
            Some(sealed) => {
                let bytes = self.local.open(&row_key, &sealed)?;
                u64::from_le_bytes(bytes.try_into().map_err(|_| Error::Sealed)?)
            }
            None => 0,
        };
        let seq = now_ms().max(last.saturating_add(1));
        let mut batch = Batch::default();
        batch.put(&row_key, &self.local.seal(&row_key, &seq.to_le_bytes()));
        self.store.db().commit(batch, Durability::Synced)?;
        Ok(seq)
    }
}

fn associated_data(verifying_key: &[u8; 32], seq: u64) -> Vec<u8> {
    [LOCATOR_CONTEXT, &[SUITE], verifying_key, &seq.to_le_bytes()].concat()
}

/// Seals and signs a locator.
pub(super) fn seal(keys: &LocatorKeys, seq: u64, folders: &[LocatorFolder], entropy: &[u8; 32]) -> Locator {
    let sign: SigningKey = keys.sign();
    let verifying_key = sign.verifying_key().to_bytes();
    let plain = Zeroizing::new(encode_folders(folders));
    let nonce = aead::hedged_nonce(entropy, &plain);
    let sealed = aead::seal_at(keys.seal.expose(), &associated_data(&verifying_key, seq), &nonce, &plain);
    let mut locator = Locator { key: verifying_key, seq, sealed, signature: [0; 64] };
    locator.signature = sign.sign(&locator.signed_bytes()).to_bytes();
    locator
}

/// Opens a locator with its member's keys.
///
/// # Errors
/// [`Error::Sealed`] when it is another member's, or a decode error.
pub fn open(keys: &LocatorKeys, locator: &Locator) -> Result<Vec<LocatorFolder>> {
    if keys.sign().verifying_key().to_bytes() != locator.key {
        return Err(Error::Sealed);
    }
    let aad = associated_data(&locator.key, locator.seq);
    let plain = Zeroizing::new(aead::open(keys.seal.expose(), &aad, &locator.sealed)?);
    Ok(decode_folders(&plain)?)
}
