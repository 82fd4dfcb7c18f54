//! Who may command a seeder, and which commands it has taken (`docs/format.md`, "Owners and commands").
//!
//! A command's number is on the disk before anything is done, and what came of it after: one that comes
//! again gets the answer that was kept, and one that was cut off by a crash is reported, never done
//! again.

use std::ops::ControlFlow;

use super::batch::{Batch, Durability};
use super::store::Store;
use super::tables::{STORE, Table, key};
use crate::error::{Error, Result};
use crate::format::codec::{DecodeError, Reader};
use crate::format::command::{Claim, Command, Rank};
use crate::id::{AdminKey, ChainId, ClaimKey, hash};
use rows::{
    admin_key, claim_key, command_key, command_prefix, decode_admin, decode_claim, decode_taken,
    encode_admin, encode_claim, encode_taken, used_key,
};

/// Admins that a seeder has at once.
pub const ADMINS_MAX: usize = 64;
/// Dismissed admins that are remembered, for reports: their commands are refused either way.
pub const DISMISSED_KEPT: usize = 32;
/// Codes that are open at once.
pub const CLAIMS_MAX: usize = 16;
/// Answers that are kept of each registration: whoever asks again does so soon.
pub const ANSWERS_KEPT: u64 = 64;
/// An answer at the most: a status of a thousand folders is cut.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Whoever may command the seeder, or might once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// The key that signs.
    pub key: AdminKey,
    /// What may be ordered; `None` once dismissed.
    pub rank: Option<Rank>,
    /// This registration.
    pub chain: ChainId,
    /// The last number that was taken.
    pub seq: u64,
    /// The key that may claim this place again; zeros for none.
    pub recovery: ClaimKey,
    /// For people.
    pub name: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
}

/// A code with which somebody becomes an admin.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenClaim {
    /// Its public key.
    pub key: ClaimKey,
    /// As what.
    pub rank: Rank,
    /// Until when; 0 for no end.
    pub expires_ms: u64,
    /// What it is called.
    pub name: String,
    /// Its secret, where the seeder made it itself and shows it at its console; else zeros.
    pub secret: [u8; 16],
    /// The admin who opened it, and with whose dismissal it closes; [`NO_ISSUER`] for the console.
    pub issuer: AdminKey,
}

/// In place of an admin: the console, or, in a row of before issuers were kept, nobody knows.
pub const NO_ISSUER: AdminKey = AdminKey([0; 32]);

impl OpenClaim {
    fn is_of_console(&self) -> bool {
        self.secret != [0; 16]
    }

    fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms != 0 && self.expires_ms < now_ms
    }
}

/// What became of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// Its number is taken, and nothing is known yet.
    Begun = 0,
    /// It was done.
    Done = 1,
    /// It was tried, and did not work.
    Failed = 2,
    /// The seeder went down between: it was done or was not, and is not done again.
    Interrupted = 3,
    /// It was not obeyed.
    Refused = 4,
}

impl Outcome {
    /// Reads its byte.
    ///
    /// # Errors
    /// On any other byte.
    pub fn from_byte(byte: u8) -> std::result::Result<Self, DecodeError> {
        let all = [Self::Begun, Self::Done, Self::Failed, Self::Interrupted, Self::Refused];
        all.into_iter().find(|known| *known as u8 == byte).ok_or(DecodeError::Invalid { field: "outcome" })
    }

    /// For lists.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Refused => "refused",
        }
    }
}

/// A command that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Whose.
    pub admin: AdminKey,
    /// Of which registration.
    pub chain: ChainId,
    /// Its number.
    pub seq: u64,
    /// Of its bytes.
    pub hash: [u8; 32],
    /// When, milliseconds since 1970 by the seeder's clock.
    pub at_ms: u64,
    /// What it was, in a word.
    pub word: String,
    /// How far it is.
    pub outcome: Outcome,
    /// The answer.
    pub text: String,
}

/// Why a command is not obeyed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nobody with this key was ever an admin.
    Unknown,
    /// The admin was dismissed.
    Dismissed,
    /// It is of an earlier registration.
    OtherChain,
    /// Its number was used by another command, or so long ago that its answer is gone.
    Replayed,
    /// Its time is over, or it is from the future.
    Expired,
    /// The admin may not order this.
    OutOfScope,
}

/// What is to be done with a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Begin {
    /// Its number is taken: do it, once, and say what came of it.
    Fresh(Admin),
    /// It was taken before, and this came of it.
    Before(Box<Taken>),
    /// Nothing.
    Refused(Refusal),
}

/// How a claim ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claimed {
    /// The device is an admin.
    Yes(Admin),
    /// The code is not open, or its time is over.
    No,
}

/// Commands that were issued so much ahead of the seeder's clock are refused, as folders do with entries.
const SKEW_MS: u64 = 10 * 60 * 1000;

impl Store {
    /// All admins, dismissed ones too, ascending by key.
    ///
    /// # Errors
    /// When the disk cannot be read, or changed it.
    pub fn admins(&self) -> Result<Vec<Admin>> {
        self.rows(Table::Admin, decode_admin)
    }

    /// Whether somebody commands this seeder.
    ///
    /// # Errors
    /// As [`Self::admins`].
    pub fn has_owner(&self) -> Result<bool> {
        Ok(self.admins()?.iter().any(|admin| admin.rank == Some(Rank::Owner)))
    }

    /// Whether a key commands this seeder now.
    ///
    /// # Errors
    /// As [`Self::admins`].
    pub fn is_admin(&self, admin: AdminKey) -> Result<bool> {
        let Some(bytes) = self.db().get(&admin_key(admin))? else { return Ok(false) };
        Ok(decode_admin(&admin.0, &bytes)?.rank.is_some())
    }

    /// Whether a claim's key is of a code that is open or was used, or takes the place of a lost device.
    ///
    /// # Errors
    /// As [`Self::admins`].
    pub fn is_claim_known(&self, claim: ClaimKey) -> Result<bool> {
        Ok(self.db().contains(&claim_key(claim))?
            || self.db().contains(&used_key(claim))?
            || self.admins()?.iter().any(|admin| admin.rank.is_some() && admin.recovery == claim))
    }

    /// Codes that are open.
    ///
    /// # Errors
    /// As [`Self::admins`].
    pub fn claims(&self) -> Result<Vec<OpenClaim>> {
        self.rows(Table::Claim, decode_claim)
    }

    /// Opens a code; durable on return.
    ///
    /// # Errors
    /// [`Error::TooMany`] when too many are open.
    pub fn claim_open(&self, claim: &OpenClaim, now_ms: u64) -> Result<()> {
        let _held = self.owners.lock();
        let mut batch = Batch::default();
        let (over, open): (Vec<_>, Vec<_>) =
            self.claims()?.into_iter().partition(|other| other.is_over(now_ms));
        over.iter().for_each(|other| batch.delete(&claim_key(other.key)));
        if open.len() >= CLAIMS_MAX {
            return Err(Error::TooMany { what: "codes", max: CLAIMS_MAX });
        }
        batch.put(&claim_key(claim.key), &encode_claim(claim));
        self.db().commit(batch, Durability::Synced)
    }

    /// The console's code: the one that is open, or else `fresh`, which is opened; `None` where the seeder has
    /// an owner. Whatever else is open does not stand in its way. Durable on return.
    ///
    /// # Errors
    /// When the disk cannot be read or written.
    pub fn claim_console(&self, fresh: OpenClaim) -> Result<Option<OpenClaim>> {
        let _held = self.owners.lock();
        if self.has_owner()? {
            return Ok(None);
        }
        if let Some(open) = self.claims()?.into_iter().find(OpenClaim::is_of_console) {
            return Ok(Some(open));
        }
        let mut batch = Batch::default();
        batch.put(&claim_key(fresh.key), &encode_claim(&fresh));
        self.db().commit(batch, Durability::Synced)?;
        Ok(Some(fresh))
    }

    /// Begins anew: nobody commands the seeder, no code is open but `fresh`, and all of that at once. Says who
    /// was dismissed. Durable on return.
    ///
    /// # Errors
    /// When the disk cannot be read or written: then nothing changed.
    pub fn owners_reset(&self, fresh: &OpenClaim) -> Result<Vec<Admin>> {
        let _held = self.owners.lock();
        let mut batch = Batch::default();
        let mut admins = self.admins()?;
        let active: Vec<Admin> = admins.iter().filter(|admin| admin.rank.is_some()).cloned().collect();
        for admin in &active {
            self.dismiss(&mut admins, admin.key, &mut batch)?;
        }
        self.claims()?.iter().for_each(|open| batch.delete(&claim_key(open.key)));
        batch.put(&claim_key(fresh.key), &encode_claim(fresh));
        self.db().commit(batch, Durability::Synced)?;
        Ok(active)
    }

    /// Takes back a code; whether there was one. Durable on return.
    ///
    /// # Errors
    /// When the disk cannot be read or written.
    pub fn claim_void(&self, claim: ClaimKey) -> Result<bool> {
        let _held = self.owners.lock();
        let there = self.db().contains(&claim_key(claim))?;
        let mut batch = Batch::default();
        batch.delete(&claim_key(claim));
        self.db().commit(batch, Durability::Synced)?;
        Ok(there)
    }

    /// Makes a device an admin, if its code is open, or it shows the recovery key of a place that is then its
    /// own. The same device asking again gets the same answer, and one that is an admin keeps its rank where
    /// the code gives a lower one, and its numbers. Durable on return.
    ///
    /// # Errors
    /// [`Error::TooMany`] when the list is full; when the disk cannot be read or written.
    pub fn claim_redeem(&self, claim: &Claim, chain: ChainId, now_ms: u64) -> Result<Claimed> {
        let _held = self.owners.lock();
        let mut admins = self.admins()?;
        let open = self.claims()?.into_iter().find(|open| open.key == claim.claim && !open.is_over(now_ms));
        let lost = admins.iter().find(|admin| {
            admin.recovery == claim.claim && admin.recovery != ClaimKey([0; 32]) && admin.rank.is_some()
        });
        let known = admins.iter().find(|admin| admin.key == claim.admin).cloned();
        let mut batch = Batch::default();
        let (rank, recovery, lost) = match (&open, lost.cloned()) {
            (Some(open), _) => {
                batch.delete(&claim_key(open.key));
                (open.rank, claim.recovery, None)
            }
            (None, Some(lost)) if lost.key == claim.admin => return Ok(Claimed::Yes(lost)),
            (None, Some(lost)) => (lost.rank.unwrap_or(Rank::Watcher), lost.recovery, Some(lost.key)),
            // The answer may have been lost on its way.
            (None, None) => {
                let before = self.db().get(&used_key(claim.claim))?;
                let same =
                    known.filter(|known| before.as_deref() == Some(&known.key.0) && known.rank.is_some());
                return Ok(same.map_or(Claimed::No, Claimed::Yes));
            }
        };
        if let Some(lost) = lost {
            self.dismiss(&mut admins, lost, &mut batch)?;
        }
        let fresh = Admin {
            key: claim.admin,
            rank: Some(rank),
            chain,
            seq: 0,
            recovery,
            name: claim.name.clone(),
            since_ms: now_ms,
        };
        // Whoever was dismissed and is given a code anew begins anew: nothing signed before counts.
        if known.as_ref().is_some_and(|known| known.rank.is_none()) {
            batch.delete_prefix(&key(STORE, Table::Command, &claim.admin.0));
        }
        let admin = match known.filter(|known| known.rank.is_some()) {
            Some(known) => {
                let recovery = if recovery == ClaimKey([0; 32]) { known.recovery } else { recovery };
                Admin { rank: known.rank.max(Some(rank)), recovery, name: fresh.name, ..known }
            }
            None if admins.iter().filter(|admin| admin.rank.is_some()).count() >= ADMINS_MAX => {
                return Err(Error::TooMany { what: "admins", max: ADMINS_MAX });
            }
            None => fresh,
        };
        batch.put(&admin_key(admin.key), &encode_admin(&admin));
        batch.put(&used_key(claim.claim), &admin.key.0);
        self.db().commit(batch, Durability::Synced)?;
        Ok(Claimed::Yes(admin))
    }

    /// Dismisses an admin, and closes the codes that it opened; whether there was one. Durable on return.
    ///
    /// # Errors
    /// When the disk cannot be read or written.
    pub fn admin_dismiss(&self, admin: AdminKey) -> Result<bool> {
        let _held = self.owners.lock();
        let mut admins = self.admins()?;
        let mut batch = Batch::default();
        let known = self.dismiss(&mut admins, admin, &mut batch)?;
        self.db().commit(batch, Durability::Synced)?;
        Ok(known)
    }

    /// Puts a dismissal into a batch: the admin's codes go with it, and the longest listed of too many that are
    /// dismissed is forgotten. Its key may come back with a code, under another chain: what it signed before is
    /// refused for that.
    fn dismiss(&self, admins: &mut Vec<Admin>, admin: AdminKey, batch: &mut Batch) -> Result<bool> {
        let Some(known) = admins.iter_mut().find(|known| known.key == admin) else { return Ok(false) };
        known.rank = None;
        batch.put(&admin_key(admin), &encode_admin(known));
        let opened =
            |open: &OpenClaim| open.issuer == admin || (open.issuer == NO_ISSUER && !open.is_of_console());
        self.claims()?.iter().filter(|open| opened(open)).for_each(|open| batch.delete(&claim_key(open.key)));
        let gone = || admins.iter().filter(|other| other.rank.is_none());
        if gone().count() > DISMISSED_KEPT
            && let Some(oldest) = gone().filter(|other| other.key != admin).min_by_key(|other| other.since_ms)
        {
            let oldest = oldest.key;
            batch.delete(&admin_key(oldest));
            batch.delete_prefix(&key(STORE, Table::Command, &oldest.0));
            self.db().scan(&key(STORE, Table::ClaimUsed, &[]), &[], &mut |claim, by| {
                if by == oldest.0 {
                    batch.delete(&key(STORE, Table::ClaimUsed, claim));
                }
                ControlFlow::Continue(())
            })?;
            admins.retain(|other| other.key != oldest);
        }
        Ok(true)
    }

    /// Takes a command's number, before anything is done. Durable on return.
    ///
    /// # Errors
    /// When the disk cannot be read or written: then nothing may be done.
    pub fn command_begin(&self, command: &Command, now_ms: u64) -> Result<Begin> {
        let _held = self.owners.lock();
        let Some(admin) = self.admins()?.into_iter().find(|admin| admin.key == command.admin) else {
            return Ok(Begin::Refused(Refusal::Unknown));
        };
        let refused = |why| Ok(Begin::Refused(why));
        let Some(rank) = admin.rank else { return refused(Refusal::Dismissed) };
        if admin.chain != command.chain {
            return refused(Refusal::OtherChain);
        }
        let row = command_key(command.admin, command.chain, command.seq);
        let digest = hash(&command.encode());
        if let Some(bytes) = self.db().get(&row)? {
            let taken = decode_taken(command.admin, command.chain, command.seq, &bytes)?;
            let same = taken.hash == digest;
            return if same { Ok(Begin::Before(Box::new(taken))) } else { refused(Refusal::Replayed) };
        }
        if command.seq <= admin.seq {
            return refused(Refusal::Replayed);
        }
        if now_ms > command.expires_ms || command.issued_ms > now_ms.saturating_add(SKEW_MS) {
            return refused(Refusal::Expired);
        }
        if command.order.rank() > rank {
            return refused(Refusal::OutOfScope);
        }
        let taken = Taken {
            admin: command.admin,
            chain: command.chain,
            seq: command.seq,
            hash: digest,
            at_ms: now_ms,
            word: command.order.word().to_owned(),
            outcome: Outcome::Begun,
            text: String::new(),
        };
        let mut batch = Batch::default();
        let admin = Admin { seq: command.seq, ..admin };
        batch.put(&admin_key(admin.key), &encode_admin(&admin));
        batch.put(&row, &encode_taken(&taken));
        self.forget_answers(&admin, &mut batch)?;
        self.db().commit(batch, Durability::Synced)?;
        Ok(Begin::Fresh(admin))
    }

    fn forget_answers(&self, admin: &Admin, batch: &mut Batch) -> Result<()> {
        let oldest = admin.seq.saturating_sub(ANSWERS_KEPT);
        let prefix = command_prefix(admin.key, admin.chain);
        self.db().scan(&prefix, &[], &mut |rest, _| {
            let seq = rest.try_into().map_or(u64::MAX, u64::from_be_bytes);
            if seq > oldest {
                return ControlFlow::Break(());
            }
            batch.delete(&[&prefix[..], rest].concat());
            ControlFlow::Continue(())
        })
    }

    /// Keeps what came of a command; durable on return.
    ///
    /// # Errors
    /// When the disk cannot be read or written: the command counts as interrupted then.
    pub fn command_finish(&self, command: &Command, outcome: Outcome, text: &str) -> Result<()> {
        let _held = self.owners.lock();
        let row = command_key(command.admin, command.chain, command.seq);
        let Some(bytes) = self.db().get(&row)? else { return Ok(()) };
        let taken = decode_taken(command.admin, command.chain, command.seq, &bytes)?;
        let text = &text[..text.floor_char_boundary(ANSWER_BYTES_MAX)];
        let mut batch = Batch::default();
        batch.put(&row, &encode_taken(&Taken { outcome, text: text.to_owned(), ..taken }));
        self.db().commit(batch, Durability::Synced)
    }

    /// Marks what was begun before the last end of the program as interrupted, and says what it was.
    /// Called once, before any command is taken.
    ///
    /// # Errors
    /// When the disk cannot be read or written.
    pub fn commands_interrupted(&self) -> Result<Vec<Taken>> {
        let _held = self.owners.lock();
        let cut: Vec<Taken> =
            self.commands()?.into_iter().filter(|taken| taken.outcome == Outcome::Begun).collect();
        let mut batch = Batch::default();
        for taken in &cut {
            let row = command_key(taken.admin, taken.chain, taken.seq);
            batch.put(&row, &encode_taken(&Taken { outcome: Outcome::Interrupted, ..taken.clone() }));
        }
        if !batch.is_empty() {
            self.db().commit(batch, Durability::Synced)?;
        }
        Ok(cut)
    }

    /// The commands that are remembered, oldest first.
    ///
    /// # Errors
    /// As [`Self::admins`].
    pub fn commands(&self) -> Result<Vec<Taken>> {
        let mut all = self.rows(Table::Command, |rest, value| {
            let mut reader = Reader::new(rest);
            let admin = AdminKey(reader.array("command")?);
            let chain = ChainId(reader.array("command")?);
            let seq = u64::from_be_bytes(reader.array("command")?);
            reader.finish()?;
            decode_taken(admin, chain, seq, value)
        })?;
        all.sort_by_key(|taken| (taken.at_ms, taken.seq));
        Ok(all)
    }

    fn rows<T>(
        &self,
        table: Table,
        decode: impl Fn(&[u8], &[u8]) -> std::result::Result<T, DecodeError>,
    ) -> Result<Vec<T>> {
        let (mut all, mut wrong) = (Vec::new(), Ok(()));
        self.db().scan(&key(STORE, table, &[]), &[], &mut |rest, value| match decode(rest, value) {
            Ok(row) => {
                all.push(row);
                ControlFlow::Continue(())
            }
            Err(error) => {
                wrong = Err(Error::from(error));
                ControlFlow::Break(())
            }
        })?;
        wrong.map(|()| all)
    }
}

mod rows;
#[cfg(test)]
mod tests;
