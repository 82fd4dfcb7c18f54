//! Taking devices and people out of a folder, changing what they may do, and what every device does when
//! it learns of that: it says how far it had the logs that end, and sees to an epoch of those who stay.

use super::folder::Folder;
use crate::blind::{Access, Branches};
use crate::error::{Error, Result};
use crate::format::access::{Act, Role};
use crate::format::entry::LogHead;
use crate::id::{EntryHash, EpochId, LogId, MemberId};

/// What [`Folder::tend`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tended {
    /// Logs that were vouched for.
    pub vouches: usize,
    /// A new epoch, if there was need for one.
    pub epoch: Option<EpochId>,
}

impl Folder {
    /// Removes one device. Its member stays, and the words still open the folder.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] when this device is no admin; [`Error::NotAMember`] when there is none.
    pub fn remove_device(&self, log: LogId) -> Result<()> {
        self.require_admin()?;
        let access = self.store().access(self.no())?;
        if !access.devices.contains_key(&log) {
            return Err(Error::NotAMember);
        }
        self.add_record(Act::RemoveDevice { last: self.end_of(log)? })?;
        self.tend().map(drop)
    }

    /// Removes a person with all devices and the recovery key.
    ///
    /// # Errors
    /// As [`Self::remove_device`].
    pub fn remove_member(&self, member: MemberId) -> Result<()> {
        self.require_admin()?;
        let logs = self.ends_of(member)?;
        self.add_record(Act::RemoveMember { member, logs })?;
        self.tend().map(drop)
    }

    /// Says what a person's devices may do from now on.
    ///
    /// # Errors
    /// As [`Self::remove_device`].
    pub fn set_role(&self, member: MemberId, role: Role) -> Result<()> {
        self.require_admin()?;
        let logs = if role >= Role::Write { Vec::new() } else { self.ends_of(member)? };
        self.add_record(Act::SetRole { member, role, logs })?;
        self.tend().map(drop)
    }

    fn ends_of(&self, member: MemberId) -> Result<Vec<LogHead>> {
        let access = self.store().access(self.no())?;
        if !access.members.contains_key(&member) {
            return Err(Error::NotAMember);
        }
        let listed = access.devices.iter().filter(|(_, device)| device.member == member);
        listed.map(|(log, _)| self.end_of(*log)).collect()
    }

    fn end_of(&self, log: LogId) -> Result<LogHead> {
        // Where the log forked, the longest of its branches.
        let branches = self.store().branches(self.no())?;
        let heads = self.store().log_heads(self.no())?.into_iter();
        let head = heads.filter(|head| branches.origin(&head.log) == log).max_by_key(|head| head.seq);
        let head = head.map(|head| LogHead { log, ..head });
        Ok(head.unwrap_or(LogHead { log, seq: 0, hash: EntryHash([0; 32]) }))
    }

    /// Does what each device owes the others after the access log changed. Cheap where nothing did.
    ///
    /// # Errors
    /// When the store fails.
    pub fn tend(&self) -> Result<Tended> {
        self.refresh()?;
        let mut tended = Tended { vouches: self.vouch()?, epoch: None };
        let access = self.store().access(self.no())?;
        if access.may_write(&self.log()) && self.wants_epoch(&access) {
            let record = self.rotate()?;
            tended.epoch = Some(EpochId(record.hash().0));
            tracing::info!(folder = %self.id(), "a new epoch for those who are here");
        }
        Ok(tended)
    }

    /// Vouches for what is here of logs that ended, where nobody said yet that they go as far.
    fn vouch(&self) -> Result<usize> {
        let access = self.store().access(self.no())?;
        if access.role_of(&self.log()).is_none() {
            return Ok(0);
        }
        let mut vouches = 0;
        let branches = self.store().branches(self.no())?;
        for mut head in self.store().log_heads(self.no())? {
            let unnamed = self.is_unnamed(&access, &branches, &head)?;
            // What lies in a branch was signed as its device's log.
            head.log = branches.origin(&head.log);
            let beyond = !access.admits(&head.log, head.seq, &head.hash);
            let ends = head.log != self.log() && (beyond || unnamed);
            if ends && (access.devices.contains_key(&head.log) || access.former.contains_key(&head.log)) {
                self.add_record(Act::Vouch { last: head })?;
                vouches += 1;
            }
        }
        Ok(vouches)
    }

    /// Whether a head is in a branch of a log that ended, of which nobody named an entry: who does not hold it takes
    /// nothing of it, and nothing that was built on it.
    fn is_unnamed(&self, access: &Access, branches: &Branches, head: &LogHead) -> Result<bool> {
        let Some(branch) = branches.get(&head.log).filter(|branch| head.seq >= branch.from) else {
            return Ok(false);
        };
        let Some(named) = access.named.get(&branch.log) else { return Ok(false) };
        for (seq, hash) in named {
            let named = LogHead { log: branch.log, seq: *seq, hash: *hash };
            let Some(within) = self.store().holder(self.no(), &named)? else { continue };
            if *seq >= branch.from && branches.line(within).iter().any(|(id, _)| *id == head.log) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether no epoch is for exactly those who are here: somebody left or came.
    fn wants_epoch(&self, access: &Access) -> bool {
        let Some((epoch, _)) = access.epoch().and_then(|id| access.epochs.get(&id)) else { return true };
        let is_admin = access.role_of(&self.log()) == Some(Role::Admin);
        let mut devices = access.devices.values();
        // Writers leave newcomers to the admins, so that not everybody begins an epoch at once.
        is_admin
            && devices.any(|device| {
                epoch.boxes.binary_search_by_key(&device.kem, |sealed| sealed.recipient).is_err()
            })
    }

    /// Sees to an epoch that nobody who left can open, before anything is sealed to be sent.
    pub(super) fn require_epoch(&self) -> Result<()> {
        self.refresh()?;
        let access = self.store().access(self.no())?;
        let current = self.keyring.read().current.id();
        if access.sealing.contains(&current) {
            return Ok(());
        }
        if !access.may_write(&self.log()) {
            return Err(Error::NotPermitted { log: self.log() });
        }
        self.rotate().map(drop)
    }
}
