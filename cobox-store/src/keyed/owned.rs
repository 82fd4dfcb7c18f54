//! Seeders that this device commands: claiming them, and signing commands to them.
//!
//! Each seeder gets a key of its own, so that two of them cannot find out that one person commands both. A
//! command's number is written down before the command is handed out, and the command itself stays until
//! its answer came, so that it can be sent again as it was.

use std::ops::ControlFlow;

use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use super::home::Home;
use super::secret::{MemberSecret, Secret32};
use crate::blind::tables::STORE;
use crate::blind::{Batch, Durability, Table, key};
use crate::error::{Error, Result};
use crate::format::access::ADDRESSES_MAX;
use crate::format::address::SeederAddress;
use crate::format::codec::DecodeError;
use crate::format::command::{ADMIN_NAME_BYTES_MAX, Claim, Command, Order, Rank};
use crate::format::invite::InviteCode;
use crate::format::locator::LOCATOR_FOLDERS_MAX;
use crate::format::owned::OwnedRow;
use crate::format::receipt::peer_key;
use crate::id::{AdminKey, ChainId, ClaimKey};

/// Commands are good for so long: a seeder that was off takes none that its owner forgot about.
pub const COMMAND_VALID_MS: u64 = 10 * 60 * 1000;
/// Recovery keys, counted from the last, that a member's seeders may use.
pub const OWNED_MAX: usize = 16;
/// Commands that a device gives at the most: a thousand each second for more than a hundred years. A seeder may
/// say any number, and one from which a device cannot count on would lock it out.
const SEQ_MAX: u64 = 1 << 42;
/// What is wrong with a number above [`SEQ_MAX`].
const NUMBER: DecodeError = DecodeError::Invalid { field: "command number" };
/// No recovery key.
const NO_RECOVERY: u8 = 255;

/// A number that a seeder says it took last.
fn believable(seq: u64) -> Result<u64> {
    if seq <= SEQ_MAX { Ok(seq) } else { Err(NUMBER.into()) }
}

fn row_key(seeder: &[u8; 32]) -> Vec<u8> {
    key(STORE, Table::Secret, &[b"seeder".as_slice(), seeder].concat())
}

fn claiming_key(claim: ClaimKey) -> Vec<u8> {
    key(STORE, Table::Secret, &[b"claim".as_slice(), &claim.0].concat())
}

/// A claim that was signed, and what is needed when it is answered.
pub struct Claiming {
    /// What to send.
    pub claim: Claim,
    seed: Zeroizing<[u8; 32]>,
    recovery: u8,
}

/// The key of a claim code.
fn code_key(code: &InviteCode) -> SigningKey {
    SigningKey::from_bytes(Secret32::derived("claim", &[code.secret.as_ref()]).expose())
}

/// A fresh claim code without hints, for another admin; and its key.
///
/// # Errors
/// [`Error::Random`].
pub fn fresh_claim_secret() -> Result<(Zeroizing<[u8; 16]>, ClaimKey)> {
    let mut secret = Zeroizing::new([0; 16]);
    getrandom::fill(secret.as_mut()).map_err(|_| Error::Random)?;
    let seed = Secret32::derived("claim", &[secret.as_ref()]);
    let claim = ClaimKey(SigningKey::from_bytes(seed.expose()).verifying_key().to_bytes());
    Ok((secret, claim))
}

/// The key under which this device commands a seeder.
#[must_use]
pub fn own_key(owned: &OwnedRow) -> AdminKey {
    AdminKey(SigningKey::from_bytes(&owned.sign_seed).verifying_key().to_bytes())
}

impl Home {
    /// Seeders that this device commands, ascending by key.
    ///
    /// # Errors
    /// When the store fails.
    pub fn owned(&self) -> Result<Vec<OwnedRow>> {
        let prefix = key(STORE, Table::Secret, b"seeder");
        let mut sealed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        self.store.db().scan(&prefix, &[], &mut |rest, value| {
            sealed.push(([&prefix[..], rest].concat(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        let open = |(row_key, value): (Vec<u8>, Vec<u8>)| {
            Ok(OwnedRow::decode(&Zeroizing::new(self.local.open(&row_key, &value)?))?)
        };
        sealed.into_iter().map(open).collect()
    }

    fn owned_row(&self, seeder: &[u8; 32]) -> Result<OwnedRow> {
        let row = row_key(seeder);
        let sealed = self.store.db().get(&row)?.ok_or(Error::NoSuchName)?;
        Ok(OwnedRow::decode(&Zeroizing::new(self.local.open(&row, &sealed)?))?)
    }

    fn owned_known(&self, seeder: &[u8; 32]) -> Result<Option<OwnedRow>> {
        match self.owned_row(seeder) {
            Ok(owned) => Ok(Some(owned)),
            Err(Error::NoSuchName) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn owned_put(&self, seeder: &[u8; 32], owned: &OwnedRow, mut batch: Batch) -> Result<()> {
        let row = row_key(seeder);
        batch.put(&row, &self.local.seal(&row, &owned.encode()));
        self.store.db().commit(batch, Durability::Synced)
    }

    /// What to ask a seeder with its code. The key is kept, so that asking again, also after a crash, asks for
    /// the same admin: a code is good for one. Where this device commands the seeder already, the key is the
    /// one that it has: the code adds to what may be ordered, and takes nothing.
    ///
    /// # Errors
    /// When the store fails.
    pub fn claim_begin(&self, code: &InviteCode, seeder: [u8; 32]) -> Result<Claiming> {
        let _one_at_a_time = self.changing.lock();
        let kept = self.owned_known(&seeder)?.map(|owned| owned.recovery).filter(|kept| *kept != NO_RECOVERY);
        let recovery = if kept.is_some() { kept } else { self.free_recovery()? };
        let public = recovery
            .and_then(|index| self.device.recovery.get(usize::from(index)))
            .map_or(ClaimKey([0; 32]), |(member, _)| ClaimKey(member.0));
        self.claim_with(&code_key(code), seeder, public, recovery.unwrap_or(NO_RECOVERY))
    }

    /// What to ask a seeder with the words: one claim for each recovery key that a seeder may know.
    ///
    /// # Errors
    /// When the store fails.
    pub fn claims_of_words(&self, words: &MemberSecret, seeder: [u8; 32]) -> Result<Vec<Claiming>> {
        let _one_at_a_time = self.changing.lock();
        let indices = (LOCATOR_FOLDERS_MAX - OWNED_MAX..LOCATOR_FOLDERS_MAX).rev();
        let claims = indices.map(|index| {
            let index = u8::try_from(index).expect("64 folders");
            let keys = words.recovery(u32::from(index));
            self.claim_with(&keys.sign, seeder, ClaimKey(keys.member().0), index)
        });
        claims.collect()
    }

    fn claim_with(
        &self,
        signer: &SigningKey,
        seeder: [u8; 32],
        recovery_key: ClaimKey,
        recovery: u8,
    ) -> Result<Claiming> {
        let claim_key = ClaimKey(signer.verifying_key().to_bytes());
        let seed = self.claiming_seed(claim_key, &seeder)?;
        let admin = SigningKey::from_bytes(&seed);
        let label = self.label();
        let mut claim = Claim {
            seeder,
            claim: claim_key,
            admin: AdminKey(admin.verifying_key().to_bytes()),
            recovery: recovery_key,
            name: label[..label.floor_char_boundary(ADMIN_NAME_BYTES_MAX)]
                .chars()
                .filter(|letter| !letter.is_control())
                .collect(),
            claim_signature: [0; 64],
            admin_signature: [0; 64],
        };
        claim.claim_signature = signer.sign(&claim.signed_bytes()).to_bytes();
        claim.admin_signature = admin.sign(&claim.signed_bytes()).to_bytes();
        Ok(Claiming { claim, seed, recovery })
    }

    /// The seed for a claim: the one that commands the seeder already, the one that was kept, or a fresh one.
    fn claiming_seed(&self, claim: ClaimKey, seeder: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>> {
        if let Some(owned) = self.owned_known(seeder)? {
            return Ok(owned.sign_seed);
        }
        let row = claiming_key(claim);
        if let Some(sealed) = self.store.db().get(&row)? {
            let plain = Zeroizing::new(self.local.open(&row, &sealed)?);
            let (seed, about) = plain.split_first_chunk::<32>().ok_or(Error::Sealed)?;
            if about == seeder {
                return Ok(Zeroizing::new(*seed));
            }
        }
        let seed = Secret32::random()?;
        let plain = Zeroizing::new([seed.expose().as_slice(), seeder].concat());
        let mut batch = Batch::default();
        batch.put(&row, &self.local.seal(&row, &plain));
        self.store.db().commit(batch, Durability::Synced)?;
        Ok(Zeroizing::new(*seed.expose()))
    }

    /// The recovery key for the next seeder: from the last one down, as folders take them from the first up.
    fn free_recovery(&self) -> Result<Option<u8>> {
        let used: Vec<u8> = self.owned()?.into_iter().map(|owned| owned.recovery).collect();
        let folders = self.next_index()? as usize;
        let mut free = (LOCATOR_FOLDERS_MAX - OWNED_MAX..LOCATOR_FOLDERS_MAX)
            .rev()
            .filter(|index| *index >= folders)
            .filter_map(|index| u8::try_from(index).ok());
        Ok(free.find(|index| !used.contains(index)))
    }

    /// Keeps a seeder that took the claim.
    ///
    /// # Errors
    /// When the store fails, the address is not the seeder's, or its number is none that a device can have reached.
    pub fn claim_finish(
        &self,
        claiming: &Claiming,
        name: &str,
        address: SeederAddress,
        (chain, rank, seq): (ChainId, Rank, u64),
    ) -> Result<OwnedRow> {
        let _one_at_a_time = self.changing.lock();
        if peer_key(&address.peer_id) != Some(claiming.claim.seeder) {
            return Err(Error::NotAMember);
        }
        let seq = believable(seq)?;
        // The same registration goes on, with the numbers that it has; a command may be on its way.
        let before = self
            .owned_known(&claiming.claim.seeder)?
            .filter(|known| known.chain == chain && known.sign_seed == claiming.seed);
        let (sent, unanswered) = before.map_or((0, Vec::new()), |known| (known.seq, known.unanswered));
        let owned = OwnedRow {
            name: name[..name.floor_char_boundary(ADMIN_NAME_BYTES_MAX)].to_owned(),
            address,
            sign_seed: claiming.seed.clone(),
            chain,
            rank,
            seq: seq.max(sent),
            recovery: claiming.recovery,
            unanswered,
        };
        let mut batch = Batch::default();
        batch.delete(&claiming_key(claiming.claim.claim));
        self.owned_put(&claiming.claim.seeder, &owned, batch)?;
        Ok(owned)
    }

    /// Signs a command, and keeps it until its answer came. Durable on return.
    ///
    /// # Errors
    /// [`Error::NoSuchName`] when this device does not command the seeder; or when the store fails.
    pub fn command_make(&self, seeder: &[u8; 32], order: Order, now_ms: u64) -> Result<Command> {
        let _one_at_a_time = self.changing.lock();
        let mut owned = self.owned_row(seeder)?;
        let signer = SigningKey::from_bytes(&owned.sign_seed);
        owned.seq = owned.seq.checked_add(1).ok_or(Error::Decode(NUMBER))?;
        let mut command = Command {
            seeder: *seeder,
            admin: AdminKey(signer.verifying_key().to_bytes()),
            chain: owned.chain,
            seq: owned.seq,
            issued_ms: now_ms,
            expires_ms: now_ms.saturating_add(COMMAND_VALID_MS),
            order,
            signature: [0; 64],
        };
        command.signature = signer.sign(&command.signed_bytes()).to_bytes();
        owned.unanswered = command.encode();
        self.owned_put(seeder, &owned, Batch::default())?;
        Ok(command)
    }

    /// The answer to the last command came; `seq` is the seeder's last number, where it says so. One that no
    /// device can have reached is not taken over.
    ///
    /// # Errors
    /// As [`Self::command_make`].
    pub fn command_answered(&self, seeder: &[u8; 32], seq: u64) -> Result<()> {
        let _one_at_a_time = self.changing.lock();
        let mut owned = self.owned_row(seeder)?;
        owned.unanswered = Vec::new();
        owned.seq = owned.seq.max(believable(seq).unwrap_or(0));
        self.owned_put(seeder, &owned, Batch::default())
    }

    /// The seeder is to be found elsewhere too; an address of another one changes nothing. Where it was found
    /// before stays, after what is new, as far as there is room: it may say where it is reached from home alone.
    ///
    /// # Errors
    /// As [`Self::command_make`].
    pub fn owned_moved(&self, seeder: &[u8; 32], address: SeederAddress) -> Result<()> {
        let _one_at_a_time = self.changing.lock();
        if peer_key(&address.peer_id).as_ref() != Some(seeder) || address.addresses.is_empty() {
            return Ok(());
        }
        let mut owned = self.owned_row(seeder)?;
        let before = std::mem::replace(&mut owned.address, address);
        for known in &before.addresses {
            if owned.address.addresses.len() < ADDRESSES_MAX && !owned.address.addresses.contains(known) {
                owned.address.addresses.push(known.clone());
            }
        }
        if owned.address == before {
            return Ok(());
        }
        self.owned_put(seeder, &owned, Batch::default())
    }

    /// Forgets a seeder; it is not told.
    ///
    /// # Errors
    /// As [`Self::command_make`].
    pub fn owned_forget(&self, seeder: &[u8; 32]) -> Result<()> {
        let _one_at_a_time = self.changing.lock();
        self.owned_row(seeder)?;
        let mut batch = Batch::default();
        batch.delete(&row_key(seeder));
        self.store.db().commit(batch, Durability::Synced)
    }
}

#[cfg(test)]
mod tests;
