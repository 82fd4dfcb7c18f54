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
use crate::format::codec::{DecodeError, Reader, Writer};
use crate::format::command::{ADMIN_NAME_BYTES_MAX, Claim, Command, Rank};
use crate::id::{AdminKey, ChainId, ClaimKey, hash};

/// Admins that a seeder lists, dismissed ones too.
pub const ADMINS_MAX: usize = 64;
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
        let open = self.claims()?;
        let (over, open): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|other| other.expires_ms != 0 && other.expires_ms < now_ms);
        over.iter().for_each(|other| batch.delete(&claim_key(other.key)));
        if open.len() >= CLAIMS_MAX {
            return Err(Error::TooMany { what: "codes", max: CLAIMS_MAX });
        }
        batch.put(&claim_key(claim.key), &encode_claim(claim));
        self.db().commit(batch, Durability::Synced)
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
    /// own. The same device asking again gets the same answer. Durable on return.
    ///
    /// # Errors
    /// [`Error::TooMany`] when the list is full; when the disk cannot be read or written.
    pub fn claim_redeem(&self, claim: &Claim, chain: ChainId, now_ms: u64) -> Result<Claimed> {
        let _held = self.owners.lock();
        let admins = self.admins()?;
        let open = self
            .claims()?
            .into_iter()
            .find(|open| open.key == claim.claim && (open.expires_ms == 0 || now_ms <= open.expires_ms));
        let lost = admins.iter().find(|admin| {
            admin.recovery == claim.claim && admin.recovery != ClaimKey([0; 32]) && admin.rank.is_some()
        });
        let known = admins.iter().find(|admin| admin.key == claim.admin);
        let mut batch = Batch::default();
        let (rank, recovery) = match (&open, lost) {
            (Some(open), _) => {
                batch.delete(&claim_key(open.key));
                (open.rank, claim.recovery)
            }
            (None, Some(lost)) if lost.key == claim.admin => return Ok(Claimed::Yes(lost.clone())),
            (None, Some(lost)) => {
                batch.put(&admin_key(lost.key), &encode_admin(&Admin { rank: None, ..lost.clone() }));
                (lost.rank.unwrap_or(Rank::Watcher), lost.recovery)
            }
            // The answer may have been lost on its way.
            (None, None) => {
                let before = self.db().get(&used_key(claim.claim))?;
                let same =
                    known.filter(|known| before.as_deref() == Some(&known.key.0) && known.rank.is_some());
                return Ok(same.map_or(Claimed::No, |admin| Claimed::Yes(admin.clone())));
            }
        };
        // A key that was dismissed does not come back: another code is for another key.
        if known.is_some_and(|known| known.rank.is_none()) {
            return Ok(Claimed::No);
        }
        if known.is_none() && admins.len() >= ADMINS_MAX {
            return Err(Error::TooMany { what: "admins", max: ADMINS_MAX });
        }
        let admin = Admin {
            key: claim.admin,
            rank: Some(rank),
            chain,
            seq: 0,
            recovery,
            name: claim.name.clone(),
            since_ms: now_ms,
        };
        batch.put(&admin_key(admin.key), &encode_admin(&admin));
        batch.put(&used_key(claim.claim), &admin.key.0);
        self.db().commit(batch, Durability::Synced)?;
        Ok(Claimed::Yes(admin))
    }

    /// Dismisses an admin; whether there was one. Durable on return.
    ///
    /// # Errors
    /// When the disk cannot be read or written.
    pub fn admin_dismiss(&self, admin: AdminKey) -> Result<bool> {
        let _held = self.owners.lock();
        let Some(known) = self.admins()?.into_iter().find(|known| known.key == admin) else {
            return Ok(false);
        };
        let mut batch = Batch::default();
        batch.put(&admin_key(admin), &encode_admin(&Admin { rank: None, ..known }));
        self.db().commit(batch, Durability::Synced)?;
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

fn admin_key(admin: AdminKey) -> Vec<u8> {
    key(STORE, Table::Admin, &admin.0)
}

fn claim_key(claim: ClaimKey) -> Vec<u8> {
    key(STORE, Table::Claim, &claim.0)
}

fn used_key(claim: ClaimKey) -> Vec<u8> {
    key(STORE, Table::ClaimUsed, &claim.0)
}

fn command_prefix(admin: AdminKey, chain: ChainId) -> Vec<u8> {
    key(STORE, Table::Command, &[&admin.0[..], &chain.0].concat())
}

fn command_key(admin: AdminKey, chain: ChainId, seq: u64) -> Vec<u8> {
    [command_prefix(admin, chain), seq.to_be_bytes().to_vec()].concat()
}

fn encode_admin(admin: &Admin) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(1);
    writer.u8(admin.rank.map_or(0, |rank| rank as u8));
    writer.fixed(&admin.chain.0);
    writer.u64(admin.seq);
    writer.fixed(&admin.recovery.0);
    writer.u64(admin.since_ms);
    writer.bytes16(admin.name.as_bytes());
    writer.into_bytes()
}

fn decode_admin(rest: &[u8], value: &[u8]) -> std::result::Result<Admin, DecodeError> {
    let field = "admin";
    let key = AdminKey(rest.try_into().map_err(|_| DecodeError::Invalid { field })?);
    let mut reader = Reader::new(value);
    reader.version(1, field)?;
    let rank = match reader.u8(field)? {
        0 => None,
        byte => Some(Rank::from_byte(byte)?),
    };
    let admin = Admin {
        key,
        rank,
        chain: ChainId(reader.array(field)?),
        seq: reader.u64(field)?,
        recovery: ClaimKey(reader.array(field)?),
        since_ms: reader.u64(field)?,
        name: name(&mut reader)?,
    };
    reader.finish()?;
    Ok(admin)
}

fn encode_claim(claim: &OpenClaim) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(1);
    writer.u8(claim.rank as u8);
    writer.u64(claim.expires_ms);
    writer.fixed(&claim.secret);
    writer.bytes16(claim.name.as_bytes());
    writer.into_bytes()
}

fn decode_claim(rest: &[u8], value: &[u8]) -> std::result::Result<OpenClaim, DecodeError> {
    let field = "claim";
    let key = ClaimKey(rest.try_into().map_err(|_| DecodeError::Invalid { field })?);
    let mut reader = Reader::new(value);
    reader.version(1, field)?;
    let claim = OpenClaim {
        key,
        rank: Rank::from_byte(reader.u8(field)?)?,
        expires_ms: reader.u64(field)?,
        secret: reader.array(field)?,
        name: name(&mut reader)?,
    };
    reader.finish()?;
    Ok(claim)
}

fn encode_taken(taken: &Taken) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(1);
    writer.fixed(&taken.hash);
    writer.u64(taken.at_ms);
    writer.u8(taken.outcome as u8);
    writer.bytes16(taken.word.as_bytes());
    writer.bytes32(taken.text.as_bytes());
    writer.into_bytes()
}

fn decode_taken(
    admin: AdminKey,
    chain: ChainId,
    seq: u64,
    value: &[u8],
) -> std::result::Result<Taken, DecodeError> {
    let field = "command";
    let mut reader = Reader::new(value);
    reader.version(1, field)?;
    let taken = Taken {
        admin,
        chain,
        seq,
        hash: reader.array(field)?,
        at_ms: reader.u64(field)?,
        outcome: Outcome::from_byte(reader.u8(field)?)?,
        word: utf8(reader.bytes16(ADMIN_NAME_BYTES_MAX, field)?)?,
        text: utf8(reader.bytes32(ANSWER_BYTES_MAX, field)?)?,
    };
    reader.finish()?;
    Ok(taken)
}

fn name(reader: &mut Reader<'_>) -> std::result::Result<String, DecodeError> {
    utf8(reader.bytes16(ADMIN_NAME_BYTES_MAX, "name")?)
}

fn utf8(bytes: &[u8]) -> std::result::Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid { field: "text" })
}

#[cfg(test)]
mod tests;
