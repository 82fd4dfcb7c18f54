//! Obeys admins: checks a claim or a command, takes its number, does it once, and keeps the answer.
//!
//! Nothing here runs a program, names a path or brings an update. Who was refused, and why, is logged and
//! shown in the report.

use std::collections::VecDeque;
use std::sync::Arc;

use cobox_store::blind::owners::{ANSWER_BYTES_MAX, Begin, Claimed, OpenClaim, Outcome, Refusal};
use cobox_store::format::command::{Claim, Command, Order, UnverifiedCommand};
use cobox_store::id::{AdminKey, ChainId, FolderId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::commands::{self, Answer};
use super::holding::{Holding, Pause};
use super::leaving::{Leaving, Why};
use super::limits::{Kept, Limits};
use super::{Exit, Failure, report};
use crate::driver::now_ms;
use crate::node::Node;
use crate::peer_id::PeerId;
use crate::sync::Ordered;
use crate::wire::{ClaimAnswer, GrantAnswer, QuestionId, SeedingFrame};

/// Refusals that are remembered for the report.
const REFUSALS_KEPT: usize = 64;

/// A command or claim that was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RefusalView {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Whose key it bore, in hex.
    pub admin: String,
    /// What that admin is called, if there is or was one.
    pub name: String,
    /// From which peer id it came.
    pub peer: String,
    /// What was ordered.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// Obeys, and remembers what it refused.
pub struct Orders {
    holding: Arc<Holding>,
    refused: Mutex<VecDeque<RefusalView>>,
}

impl Orders {
    /// Reports what the last end of the program cut off, and is ready.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn new(holding: Arc<Holding>) -> Result<Arc<Self>, Failure> {
        for cut in holding.store.commands_interrupted()? {
            tracing::warn!(admin = %cut.admin, seq = cut.seq, what = cut.word,
                "a command was cut off by the end of the program: it is not done again");
        }
        Ok(Arc::new(Self { holding, refused: Mutex::default() }))
    }

    /// Answers a claim or a command.
    pub fn answer(
        &self,
        node: &Node,
        peer: PeerId,
        question: QuestionId,
        ordered: Ordered,
    ) -> Option<SeedingFrame> {
        match ordered {
            Ordered::Claim(bytes) => {
                let answer = self.claim(peer, &bytes);
                Some(SeedingFrame::Claimed { question, answer })
            }
            Ordered::Command(bytes) => {
                let (outcome, text) = self.command(node, peer, &bytes)?;
                Some(SeedingFrame::Obeyed { question, outcome, text })
            }
        }
    }

    fn claim(&self, peer: PeerId, bytes: &[u8]) -> ClaimAnswer {
        let Ok(claim) = Claim::decode(bytes) else { return ClaimAnswer::Refused };
        let refused = |why: &str| {
            self.note_refusal(peer, claim.admin, "claim", why);
            ClaimAnswer::Refused
        };
        if claim.seeder != *self.holding.identity.peer().key() {
            return refused("it is for another seeder");
        }
        let mut chain = [0; 16];
        if getrandom::fill(&mut chain).is_err() {
            return ClaimAnswer::Refused;
        }
        match self.holding.store.claim_redeem(&claim, ChainId(chain), now_ms()) {
            Ok(Claimed::Yes(admin)) => {
                let Some(rank) = admin.rank else { return ClaimAnswer::Refused };
                tracing::info!(admin = %admin.key, name = admin.name, ?rank, "an admin commands this seeder");
                ClaimAnswer::Taken { chain: admin.chain, rank, seq: admin.seq }
            }
            Ok(Claimed::No) => refused("its code is not open"),
            Err(error) => {
                tracing::warn!(%error, "a claim cannot be taken");
                ClaimAnswer::Refused
            }
        }
    }

    /// `None` where the number could not be taken: then nothing is done, and whoever asks may ask again.
    fn command(&self, node: &Node, peer: PeerId, bytes: &[u8]) -> Option<(Outcome, String)> {
        let unverified = UnverifiedCommand::decode(bytes).ok()?;
        let admin = unverified.admin();
        let Ok(command) = unverified.verify() else {
            // Whoever has no key learns nothing of those who have.
            self.note_refusal(peer, admin, "a command", "the signature is wrong");
            return Some((Outcome::Refused, refused_text("the signature is wrong", None, Undone::Yes)));
        };
        let word = command.order.word();
        if command.seeder != *self.holding.identity.peer().key() {
            return Some(self.refuse(peer, admin, word, "it is for another seeder", Undone::Yes));
        }
        match self.holding.store.command_begin(&command, now_ms()) {
            Ok(Begin::Refused(why)) => Some(self.refuse(peer, admin, word, refusal(why), Undone::after(why))),
            Ok(Begin::Before(taken)) => {
                tracing::info!(%admin, seq = taken.seq, "a command came again and got its answer");
                Some((taken.outcome, taken.text))
            }
            Ok(Begin::Fresh(author)) => {
                // After the number is on the disk, and before anything is done: one line for each execution.
                tracing::info!(%admin, name = author.name, seq = command.seq, what = word, "obeying a command");
                let (outcome, text) = self.carry_out(node, &command);
                tracing::info!(%admin, seq = command.seq, outcome = outcome.word(), "a command was carried out");
                if let Err(error) = self.holding.store.command_finish(&command, outcome, &text) {
                    tracing::error!(%error, seq = command.seq, "the answer to a command cannot be kept");
                }
                Some((outcome, text))
            }
            Err(error) => {
                tracing::error!(%error, "a command's number cannot be written down: nothing was done");
                None
            }
        }
    }

    fn carry_out(&self, node: &Node, command: &Command) -> (Outcome, String) {
        let answered = self.obey(node, &command.order, command.admin);
        let (outcome, answer) = match answered {
            Ok(answer) => (Outcome::Done, answer),
            Err(failure) => (Outcome::Failed, commands::failed(&failure)),
        };
        let text = serde_json::to_string(&answer).unwrap_or_default();
        if text.len() <= ANSWER_BYTES_MAX {
            return (outcome, text);
        }
        let long = Answer::Said {
            text: format!(
                "It is done, and the answer is too long to send ({} bytes): ask at the seeder's console.",
                text.len()
            ),
        };
        (outcome, serde_json::to_string(&long).unwrap_or_default())
    }

    /// Does one thing: of the console, which is the owner's and no author's, or of an admin whose rank was
    /// checked.
    ///
    /// # Errors
    /// When it does not work, with the reason.
    pub fn obey(&self, node: &Node, order: &Order, author: AdminKey) -> Result<Answer, Failure> {
        let holding = &self.holding;
        let said = |text: String| Ok(Answer::Said { text });
        match order {
            Order::Seed { id } => Ok(commands::settled(holding.settle(id, GrantAnswer::Accepted)?)),
            Order::Refuse { id } => Ok(commands::settled(holding.settle(id, GrantAnswer::Refused)?)),
            Order::SeedCode { code } => {
                holding.redeem_later(code)?;
                said("The code is kept, and the addresses in it are asked until an admin of the folder has granted it.".into())
            }
            Order::Unseed { folder } => self.unseed(*folder),
            Order::Quota { folder, quota_bytes, until_ms } => {
                self.quota(*folder, Limits { quota_bytes: *quota_bytes, until_ms: *until_ms })
            }
            Order::Pause | Order::Resume => {
                let paused = matches!(order, Order::Pause);
                holding.pause(if paused { Pause::Begin } else { Pause::End }, node)?;
                said(
                    if paused { "It takes part in nothing until it is resumed." } else { "It goes on." }
                        .into(),
                )
            }
            Order::Status => commands::running_status(holding, node),
            Order::Report => self.report(),
            Order::Admins => report::admins(&holding.store),
            Order::Invite { claim, rank, expires_ms, name } => {
                let open = OpenClaim {
                    key: *claim,
                    rank: *rank,
                    expires_ms: *expires_ms,
                    name: name.clone(),
                    secret: [0; 16],
                    issuer: author,
                };
                self.invite(&open)
            }
            Order::Dismiss { key } => self.dismiss(*key),
            Order::EndAgreement { folder } => {
                Ok(Answer::Agreements { agreements: vec![holding.end_agreement(*folder)?] })
            }
        }
    }

    fn invite(&self, claim: &OpenClaim) -> Result<Answer, Failure> {
        let now_ms = now_ms();
        if claim.expires_ms <= now_ms {
            return Err(Failure::failed(
                "A code for an admin must have an end that is to come. Say for how long it is good.",
            ));
        }
        self.holding.store.claim_open(claim, now_ms)?;
        Ok(Answer::Said { text: format!("The code {} is open.", claim.key) })
    }

    pub(super) fn dismiss(&self, key: AdminKey) -> Result<Answer, Failure> {
        let store = &self.holding.store;
        let other_owner = store
            .admins()?
            .iter()
            .any(|admin| admin.key != key && admin.rank == Some(cobox_store::format::command::Rank::Owner));
        let is_admin = store.admins()?.iter().any(|admin| admin.key == key && admin.rank.is_some());
        if is_admin && !other_owner {
            return Err(Failure {
                exit: Exit::Refused,
                text: "The seeder would be left without an owner. Add another first, or use `cobox-seeder claim --reset` at its console."
                    .to_owned(), missing: false });
        }
        let dismissed = is_admin && store.admin_dismiss(key)?;
        if dismissed || store.claim_void(cobox_store::id::ClaimKey(key.0))? {
            Ok(Answer::Said { text: format!("{key} commands this seeder no longer.") })
        } else {
            Err(Failure::missing(format!("There is no admin and no open code {key}.")))
        }
    }

    pub(super) fn unseed(&self, folder: FolderId) -> Result<Answer, Failure> {
        let holding = &self.holding;
        let no = holding.store.folder_no(folder)?;
        if let Some(view) = holding.binding(no)? {
            return Err(Failure {
                exit: Exit::Refused,
                text: format!(
                    "There is an agreement on this folder{}. Give notice instead: it is taken out when the agreement ends.",
                    match view.ends_ms {
                        0 => String::new(),
                        ms => format!(", until {}", crate::shown::time(ms)),
                    }
                ),
                missing: false,
            });
        }
        Leaving::forget(&holding.store, no)?;
        holding.leave(no, Why::Unseeded)?;
        holding.refresh(no);
        Ok(Answer::Said {
            text: "Nothing new is taken into the folder. What is here stays for at least 30 days, so that it can be fetched."
                .to_owned(),
        })
    }

    pub(super) fn quota(&self, folder: FolderId, limits: Limits) -> Result<Answer, Failure> {
        let holding = &self.holding;
        let no = holding.store.folder_no(folder)?;
        if let Some(view) = holding.binding(no)?
            && (limits.quota_bytes < view.quota_bytes || limits.ends_before(view.ends_ms))
        {
            let agreed = Limits { quota_bytes: view.quota_bytes, until_ms: view.ends_ms };
            return Err(Failure {
                exit: Exit::Refused,
                text: format!(
                    "{}, {}, were agreed on for this folder. Less needs another agreement; an earlier end needs notice.",
                    crate::shown::bytes(agreed.quota_bytes),
                    agreed.end()
                ),
                missing: false,
            });
        }
        if limits.ends_before(now_ms().saturating_add(1)) {
            return Err(Failure::failed("That end has come already. To let the folder go, unseed it."));
        }
        if limits.quota_bytes == 0 {
            return Err(Failure::failed("A quota of nothing is no quota. To let the folder go, unseed it."));
        }
        Leaving::forget(&holding.store, no)?;
        limits.keep(&holding.store, no, Kept::Accepted)?;
        // What members granted beyond that was refused by this: it is no question any more.
        if let Some(grant) = holding.store.access(no)?.seeder(&holding.identity.peer().to_bytes()) {
            Limits::of(grant).keep(&holding.store, no, Kept::Refused)?;
        }
        holding.refresh(no);
        let now = holding.store.usage(no)?;
        Ok(Answer::Accepted {
            folder: folder.to_hex(),
            quota_bytes: now.quota_bytes.unwrap_or(0),
            until_ms: now.until_ms.unwrap_or(0),
        })
    }

    /// What waits, what was ordered, what was refused, and what was agreed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn report(&self) -> Result<Answer, Failure> {
        report::report(&self.holding, self.refused.lock().iter().cloned().collect())
    }

    fn refuse(
        &self,
        peer: PeerId,
        admin: AdminKey,
        what: &str,
        why: &str,
        undone: Undone,
    ) -> (Outcome, String) {
        self.note_refusal(peer, admin, what, why);
        let admins = self.holding.store.admins().unwrap_or_default();
        // A device that was set back to an older copy goes on from here.
        let seq = admins.into_iter().find(|known| known.key == admin).map(|known| known.seq);
        (Outcome::Refused, refused_text(why, seq, undone))
    }

    fn note_refusal(&self, peer: PeerId, admin: AdminKey, what: &str, why: &str) {
        let admins = self.holding.store.admins().unwrap_or_default();
        let name =
            admins.into_iter().find(|known| known.key == admin).map_or(String::new(), |known| known.name);
        tracing::warn!(%admin, name, %peer, what, why, "refused an order");
        let mut refused = self.refused.lock();
        if refused.len() >= REFUSALS_KEPT {
            refused.pop_front();
        }
        refused.push_back(RefusalView {
            at_ms: now_ms(),
            admin: admin.to_hex(),
            name,
            peer: peer.to_string(),
            what: what.to_owned(),
            why: why.to_owned(),
        });
    }
}

/// Whether it is certain that a command that is refused now was not done before either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Undone {
    Yes,
    /// It may have been taken before its author was dismissed, or its answer forgotten.
    Unknown,
}

impl Undone {
    fn after(why: Refusal) -> Self {
        match why {
            // Its number was not taken.
            Refusal::Expired | Refusal::OutOfScope => Self::Yes,
            Refusal::Unknown | Refusal::Dismissed | Refusal::OtherChain | Refusal::Replayed => Self::Unknown,
        }
    }
}

fn refused_text(why: &str, seq: Option<u64>, undone: Undone) -> String {
    let answer = Answer::Failed {
        exit: Exit::Refused as u8,
        text: format!("The seeder did not obey: {why}."),
        seq,
        undone: undone == Undone::Yes,
    };
    serde_json::to_string(&answer).unwrap_or_default()
}

fn refusal(why: Refusal) -> &'static str {
    match why {
        Refusal::Unknown => "its author is no admin of this seeder",
        Refusal::Dismissed => "its author was dismissed",
        Refusal::OtherChain => "it is of an earlier registration of its author",
        Refusal::Replayed => "its number was used before",
        Refusal::Expired => "its time is over, or it is from the future",
        Refusal::OutOfScope => "its author may not order this",
    }
}

#[cfg(test)]
mod killed;
