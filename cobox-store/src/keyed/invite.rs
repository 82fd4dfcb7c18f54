//! Inviting people, and letting in who has a code (`docs/format.md`, "Invites").
//!
//! The code's secret gives two keys: one that signs for the joining device, whose public half is in the
//! access log, and one that seals the device's label on its way past seeders. No secret of the folder
//! is in a code.

use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use super::folder::{Folder, now_ms};
use super::label::{LabelKey, LabelOf};
use super::secret::{SESSION_CONTEXT, Secret32};
use crate::blind::InviteState;
use crate::error::{Error, Result};
use crate::format::access::{Act, Role};
use crate::format::invite::{FOLDER_PREFIX_BYTES, InviteCode, JoinRequest};
use crate::format::membership::OpenInvite;
use crate::id::{InviteKey, hash};

/// What a device is called whose own name cannot be read.
const NAMELESS: &str = "new device";

/// The keys that follow from a code.
pub struct InviteKeys {
    sign: SigningKey,
    pub(super) label: LabelKey,
}

impl InviteKeys {
    /// Of a code.
    #[must_use]
    pub fn of(code: &InviteCode) -> Self {
        let sign = Secret32::derived("invite", &[code.secret.as_ref()]);
        let label = Secret32::derived("invite label", &[code.secret.as_ref()]);
        Self { sign: SigningKey::from_bytes(sign.expose()), label: LabelKey::of_invite(label) }
    }

    /// Which invite.
    #[must_use]
    pub fn invite(&self) -> InviteKey {
        InviteKey(self.sign.verifying_key().to_bytes())
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.sign.sign(bytes).to_bytes()
    }

    /// Signs a session's transcript with the invite's key.
    #[must_use]
    pub fn sign_session(&self, transcript: &[u8]) -> [u8; 64] {
        self.sign(&[SESSION_CONTEXT, &hash(transcript)].concat())
    }
}

/// How a request to join ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// The device is listed from now on.
    New,
    /// It was before.
    Known,
}

impl Folder {
    /// Opens an invite; the code has no hints yet.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when the device is no admin; or when the store fails.
    pub fn invite(&self, role: Role, expires_ms: u64) -> Result<InviteCode> {
        self.require_admin()?;
        let mut secret = Zeroizing::new([0; 16]);
        getrandom::fill(secret.as_mut()).map_err(|_| Error::Random)?;
        let mut folder = [0; FOLDER_PREFIX_BYTES];
        folder.copy_from_slice(&self.id().0[..FOLDER_PREFIX_BYTES]);
        let code = InviteCode { folder, hints: Vec::new(), secret };
        let keys = InviteKeys::of(&code);
        let label_key = self.keyring.read().labels().wrap(keys.invite(), &keys.label);
        self.add_record(Act::OpenInvite(OpenInvite { invite: keys.invite(), role, expires_ms, label_key }))?;
        Ok(code)
    }

    /// Takes an invite back.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when the device is no admin, [`Error::InviteSpent`] when it is not open.
    pub fn void_invite(&self, invite: InviteKey) -> Result<()> {
        self.require_admin()?;
        let access = self.store().access(self.no())?;
        match access.invites.get(&invite) {
            Some((_, InviteState::Open)) => self.add_record(Act::VoidInvite { invite }).map(drop),
            _ => Err(Error::InviteSpent),
        }
    }

    /// Lets in a device that shows an open invite, and begins an epoch that it can open.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when this device is no admin; [`Error::InviteSpent`] when the invite was
    /// used, taken back or has expired.
    pub fn admit(&self, request: &JoinRequest) -> Result<Admission> {
        self.require_admin()?;
        let access = self.store().access(self.no())?;
        let (open, state) = access.invites.get(&request.invite()).ok_or(Error::InviteSpent)?;
        let ours = self.id().0[..FOLDER_PREFIX_BYTES] == request.folder;
        match state {
            InviteState::Used(log) if *log == request.log => return Ok(Admission::Known),
            InviteState::Open if ours => {}
            _ => return Err(Error::InviteSpent),
        }
        if now_ms() > open.expires_ms {
            // So that seeders and other admins know it too.
            self.void_invite(request.invite())?;
            return Err(Error::InviteSpent);
        }
        let labels = self.keyring.read().labels();
        let label = labels
            .unwrap(request.invite(), &open.label_key)
            .and_then(|key| key.open(LabelOf::Device, &request.label))
            .unwrap_or_else(|_| NAMELESS.to_owned());
        let device = request.device(open.role, labels.seal(LabelOf::Device, &label));
        self.add_record(Act::Redeem { device, redemption: request.redemption })?;
        self.rotate()?;
        tracing::info!(folder = %self.id(), device = %request.log, "a device was let in");
        Ok(Admission::New)
    }

    pub(super) fn require_admin(&self) -> Result<()> {
        match self.role()? {
            Some(Role::Admin) => Ok(()),
            _ => Err(Error::NotPermitted { log: self.log() }),
        }
    }

    /// What this device may do here now; `None` once it was removed.
    ///
    /// # Errors
    /// When the store fails.
    pub fn role(&self) -> Result<Option<Role>> {
        Ok(self.store().access(self.no())?.role_of(&self.log()))
    }
}
