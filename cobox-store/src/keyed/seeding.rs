//! What an admin's device signs about seeders: codes for them, grants to those that have one, agreements.

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::folder::{Folder, now_ms};
use super::secret::Secret32;
use crate::blind::contracts::SeedState;
use crate::blind::kembox::{self, Purpose};
use crate::error::{Error, Result};
use crate::format::access::{Act, Record, SeederGrant};
use crate::format::address::SeederAddress;
use crate::format::agreement::{Notice, Side, SignedTerms, Terms};
use crate::format::invite::{FOLDER_PREFIX_BYTES, InviteCode};
use crate::format::seeding::{CopiesPolicy, OpenSeed, RedeemedSeed, SeedRequest};
use crate::id::InviteKey;

use super::invite::Admission;

/// The name of a seed code in lists.
#[must_use]
pub fn seed_code_key(code: &InviteCode) -> InviteKey {
    let seed = Secret32::derived("seed", &[code.secret.as_ref()]);
    InviteKey(SigningKey::from_bytes(seed.expose()).verifying_key().to_bytes())
}

impl Folder {
    /// A grant with the swarm secret of the newest epoch in it.
    pub(super) fn make_grant(
        &self,
        address: &SeederAddress,
        quota_bytes: u64,
        until_ms: u64,
    ) -> Result<SeederGrant> {
        let keys = self.keyring.read().current.clone();
        let secret = keys.swarm_secret();
        let swarm_box = kembox::seal(Purpose::Swarm, self.id(), address.kem, &keys.id().0, secret.expose())?;
        Ok(SeederGrant {
            peer_id: address.peer_id.clone(),
            kem: address.kem,
            quota_bytes,
            until_ms,
            addresses: address.addresses.clone(),
            swarm_epoch: keys.id(),
            swarm_box,
        })
    }

    /// Opens a seed code; it has no hints yet.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when the device is no admin; or when the store fails.
    pub fn open_seed(&self, quota_bytes: u64, until_ms: u64, expires_ms: u64) -> Result<InviteCode> {
        self.require_admin()?;
        let mut secret = Zeroizing::new([0; 16]);
        getrandom::fill(secret.as_mut()).map_err(|_| Error::Random)?;
        let mut folder = [0; FOLDER_PREFIX_BYTES];
        folder.copy_from_slice(&self.id().0[..FOLDER_PREFIX_BYTES]);
        let code = InviteCode { folder, hints: Vec::new(), secret };
        let open = OpenSeed { code: seed_code_key(&code), quota_bytes, until_ms, expires_ms };
        self.add_record(Act::OpenSeed(open))?;
        Ok(code)
    }

    /// Takes a seed code back.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when the device is no admin, [`Error::InviteSpent`] when it is not open.
    pub fn void_seed(&self, code: InviteKey) -> Result<()> {
        self.require_admin()?;
        let access = self.store().access(self.no())?;
        match access.seed_codes.get(&code) {
            Some((_, SeedState::Open)) => self.add_record(Act::VoidInvite { invite: code }).map(drop),
            _ => Err(Error::InviteSpent),
        }
    }

    /// Grants the folder to a seeder that shows an open code.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when this device is no admin; [`Error::InviteSpent`] when the code was used,
    /// taken back or has expired.
    pub fn grant_seed(&self, request: &SeedRequest) -> Result<Admission> {
        self.require_admin()?;
        let access = self.store().access(self.no())?;
        let (open, state) = access.seed_codes.get(&request.code).ok_or(Error::InviteSpent)?;
        let ours = self.id().0[..FOLDER_PREFIX_BYTES] == request.folder;
        match state {
            SeedState::Used(peer_id) if *peer_id == request.seeder.peer_id => return Ok(Admission::Known),
            SeedState::Open if ours => {}
            _ => return Err(Error::InviteSpent),
        }
        if now_ms() > open.expires_ms {
            // So that seeders and other admins know it too.
            self.void_seed(request.code)?;
            return Err(Error::InviteSpent);
        }
        let grant = self.make_grant(&request.seeder, open.quota_bytes, open.until_ms)?;
        self.add_record(Act::RedeemSeed(RedeemedSeed {
            grant,
            code: request.code,
            signature: request.signature,
        }))?;
        tracing::info!(folder = %self.id(), "a seeder with a code was granted the folder");
        Ok(Admission::New)
    }

    /// Says for everybody how many copies there should be.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when the device is no admin; or when the store fails.
    pub fn want_copies(&self, policy: CopiesPolicy) -> Result<Record> {
        self.require_admin()?;
        self.add_record(Act::Policy(policy))
    }

    /// Proposes terms to a seeder.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when the device is no admin; or when the store fails.
    pub fn propose(&self, terms: Terms) -> Result<Record> {
        self.require_admin()?;
        self.add_record(Act::Propose(terms))
    }

    /// Agrees to terms that the seeder signed.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub fn agree(&self, signed: SignedTerms) -> Result<Record> {
        self.require_admin()?;
        self.add_record(Act::Agree(signed))
    }

    /// Writes down a notice: this side's, or one that the seeder signed.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub fn end_agreement(&self, notice: Notice) -> Result<Record> {
        self.require_admin()?;
        self.add_record(Act::EndAgreement(notice))
    }

    /// A notice of this side.
    #[must_use]
    pub fn notice(&self, terms: &Terms, at_ms: u64) -> Notice {
        Notice {
            folder: self.id(),
            seeder: terms.seeder.clone(),
            terms: terms.hash(),
            at_ms,
            by: Side::Folder,
        }
    }
}
