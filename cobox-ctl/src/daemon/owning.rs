//! Seeders that this member commands: claiming one, and telling it what to do.
//!
//! A command is signed and written down before it is sent. If its answer does not come, the next call asks for
//! it first, with the same bytes: the seeder does nothing twice, and says what came of it.

use std::sync::Arc;

use cobox_net::PeerId;
use cobox_net::seeder::commands::Answer;
use cobox_net::seeder::owner::claim_about;
use cobox_net::wire::ClaimAnswer;
use cobox_store::blind::owners::Outcome as Came;
use cobox_store::format::address::SeederAddress;
use cobox_store::format::command::{Order, UnverifiedCommand};
use cobox_store::format::invite::{CodeFor, HINT_ADDRESSES_MAX, Hint, InviteCode};
use cobox_store::format::owned::OwnedRow;
use cobox_store::format::receipt::{peer_id_of, peer_key};
use cobox_store::id::{AdminKey, FolderId, KemKey};
use cobox_store::keyed::MemberSecret;
use cobox_store::keyed::owned::{Claiming, fresh_claim_secret, own_key};
use serde_json::Value;

use super::folder::FolderState;
use super::seeders::parse_address;
use super::{Daemon, now_ms};
use crate::contracts::{AdminRank, FolderName, ManageReport, OwnedReport, OwnedsReport, Told};
use crate::control::Sure;
use crate::exit::{Exit, Outcome, Problem};

/// Letters of what a seeder said about an earlier command: it may say anything, at any length.
const SAID_LETTERS_MAX: usize = 500;

fn hint_of(address: &SeederAddress) -> Outcome<Hint> {
    let peer = peer_key(&address.peer_id).ok_or_else(|| Problem::failed("The seeder's key is not known."))?;
    let mut addresses = address.addresses.clone();
    addresses.truncate(HINT_ADDRESSES_MAX * 4);
    Ok(Hint { peer, addresses })
}

fn owned_report(owned: &OwnedRow) -> OwnedReport {
    let peer_id = PeerId::from_bytes(&owned.address.peer_id);
    OwnedReport {
        name: owned.name.clone(),
        peer_id: peer_id.map(|id| id.to_string()).unwrap_or_default(),
        rank: AdminRank::of(owned.rank),
        seq: owned.seq,
        unanswered: !owned.unanswered.is_empty(),
        words_claim: owned.recovery != 255,
    }
}

impl Daemon {
    /// Becomes an admin of a seeder, with a code.
    pub fn seeder_claim(&self, code: &str, name: Option<&str>) -> Outcome<OwnedReport> {
        let code = InviteCode::from_text_for(CodeFor::Claim, code).map_err(|_| {
            Problem::usage(
                "This is not a seeder's claim code, or it was mistyped.",
                "Use the line that `cobox-seeder claim` or `seeder manage BOX admins add` printed, whole and unchanged.",
            )
        })?;
        let hint = code.hints.first().cloned().filter(|hint| {
            // The code says whose it is; a code that was put together from two is none.
            claim_about(PeerId::of_key(hint.peer)) == code.folder
        });
        let hint = hint.ok_or_else(|| Problem::usage("The code names no seeder.", "Ask for another one."))?;
        let _turn = self.owning.lock();
        let claiming = self.home.claim_begin(&code, hint.peer)?;
        let answer = self.node.claim(&hint, claiming.claim.encode()).map_err(|error| match error {
            cobox_net::Error::Refused { .. } => Problem::refused(
                "The seeder did not take the code: it was used, taken back, or has expired.",
                "`cobox-seeder claim` on the seeder's own machine shows one that is good, and `--reset` one more where it has an owner.",
            ),
            error => error.into(),
        })?;
        // Of its address the code says what a claim needs; the box key comes with the grants that it takes.
        let address = SeederAddress {
            peer_id: peer_id_of(&hint.peer),
            kem: KemKey([0; 32]),
            addresses: hint.addresses,
        };
        self.claimed(&claiming, address, name, answer)
    }

    /// Takes the place of a lost device at a seeder, with the words.
    pub fn seeder_reclaim(&self, address: &str, words: &str, name: Option<&str>) -> Outcome<OwnedReport> {
        let address = parse_address(address)?;
        let secret = MemberSecret::from_words(words)?;
        if !self.home.is_of(&secret) {
            return Err(Problem::refused(
                "These are not the words of this device's member.",
                "Use the home that was recovered with them.",
            ));
        }
        let hint = hint_of(&address)?;
        let _turn = self.owning.lock();
        for claiming in self.home.claims_of_words(&secret, hint.peer)? {
            match self.node.claim(&hint, claiming.claim.encode()) {
                Ok(answer) => return self.claimed(&claiming, address, name, answer),
                Err(cobox_net::Error::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Problem::refused(
            "The seeder knows no key of these words.",
            "Whoever has the seeder's machine runs `cobox-seeder claim --reset` there and gives you the code.",
        ))
    }

    fn claimed(
        &self,
        claiming: &Claiming,
        address: SeederAddress,
        name: Option<&str>,
        answer: ClaimAnswer,
    ) -> Outcome<OwnedReport> {
        let ClaimAnswer::Taken { chain, rank, seq } = answer else {
            return Err(Problem::failed("The seeder gave another answer."));
        };
        let peer = PeerId::of_key(claiming.claim.seeder).to_string();
        let fallback = format!("box-{}", peer.get(peer.len().saturating_sub(6)..).unwrap_or_default());
        let known = self.home.owned()?.into_iter().find(|known| known.address.peer_id == address.peer_id);
        let name = name.map(str::to_owned).or(known.map(|known| known.name)).unwrap_or(fallback);
        let owned =
            self.home.claim_finish(claiming, &name, address, (chain, rank, seq)).map_err(|error| match error {
                cobox_store::Error::Decode(_) => Problem::refused(
                    "The seeder says that it took a command with a number that no device can have reached.",
                    "It is not kept here: something is wrong with that seeder. Whoever runs it can start with `cobox-seeder claim --reset`.",
                ),
                error => error.into(),
            })?;
        tracing::info!(rank = ?rank, "this device commands a seeder");
        Ok(owned_report(&owned))
    }

    /// Seeders that this device commands.
    pub fn owned(&self) -> Outcome<OwnedsReport> {
        Ok(OwnedsReport { seeders: self.home.owned()?.iter().map(owned_report).collect() })
    }

    fn owned_named(&self, name: &str) -> Outcome<(OwnedRow, [u8; 32])> {
        let all = self.home.owned()?;
        let fits = |owned: &&OwnedRow| {
            let peer_id = PeerId::from_bytes(&owned.address.peer_id).map(|id| id.to_string());
            owned.name == name || (name.len() >= 4 && peer_id.is_some_and(|id| id.starts_with(name)))
        };
        let exact: Vec<&OwnedRow> = all.iter().filter(|owned| owned.name == name).collect();
        let found: Vec<&OwnedRow> = if exact.is_empty() { all.iter().filter(fits).collect() } else { exact };
        let [owned] = found[..] else {
            return Err(Problem::missing(
                format!("This device commands no single seeder called {name:?}."),
                "`cobox-ctl seeder owned` lists those it commands. `cobox-seeder claim` on a seeder's own machine shows a code, and \
                 `cobox-ctl seeder claim --name NAME` reads it.",
            ));
        };
        let peer =
            peer_key(&owned.address.peer_id).ok_or_else(|| Problem::failed("Its key is not known."))?;
        Ok((owned.clone(), peer))
    }

    /// Forgets a seeder that this device commands.
    pub fn owned_forget(&self, name: &str, sure: Sure) -> Outcome<OwnedsReport> {
        let (owned, peer) = self.owned_named(name)?;
        if sure == Sure::No && !owned_report(&owned).words_claim {
            return Err(Problem::unsure(
                format!(
                    "This device could not command {} any more, and your words do not bring it back: only another of its owners \
                     or whoever has its machine could let this device in again.",
                    owned.name
                ),
                "Nothing was changed. Say --yes if that is what you want.",
            ));
        }
        self.home.owned_forget(&peer)?;
        self.owned()
    }

    /// Tells a seeder what to do, and waits for its answer.
    pub fn seeder_manage(&self, name: &str, told: &Told, sure: Sure) -> Outcome<ManageReport> {
        let _turn = self.owning.lock();
        let (owned, peer) = self.owned_named(name)?;
        let dismissed = match told {
            Told::AdminsRemove { key } => Some(admin_key(key)?),
            _ => None,
        };
        if sure == Sure::No && dismissed == Some(own_key(&owned)) {
            return Err(Problem::unsure(
                format!(
                    "You would dismiss the very device that you are at: {} would obey it no more, and only another of its owners \
                     could take that back.",
                    owned.name
                ),
                "Nothing was changed. Say --yes if that is what you want.",
            ));
        }
        let hint = hint_of(&owned.address)?;
        let earlier = self.settle_earlier(&owned, &peer, &hint)?;
        let (order, code) = self.order(&owned, told)?;
        let command = self.home.command_make(&peer, order, now_ms())?;
        let (came, text) = self.node.command(&hint, command.encode()).map_err(|error| {
            let problem = Problem::from(error);
            Problem::new(
                Exit::NotReached,
                format!("{} did not answer: {}", owned.name, problem.message),
                "The next `seeder manage` asks what came of it first, and nothing is done twice.",
            )
        })?;
        let (answer, last_seq) = read_answer(&text);
        self.home.command_answered(&peer, last_seq)?;
        let moved = answer.get("address").and_then(Value::as_str).and_then(|text| parse_address(text).ok());
        if let Some(address) = moved.filter(|moved| *moved != owned.address) {
            self.home.owned_moved(&peer, address)?;
        }
        let known = |state: &Arc<FolderState>| FolderName {
            folder: state.folder.id().to_hex(),
            name: state.folder.name(),
        };
        let names = self.folders().iter().map(known).filter(|named| text.contains(&named.folder)).collect();
        Ok(ManageReport {
            names,
            seeder: owned.name.clone(),
            seq: command.seq,
            outcome: came.word().to_owned(),
            answer,
            code: code.filter(|_| came == Came::Done),
            earlier,
        })
    }

    /// Asks for the answer to the command before, where it had not come.
    fn settle_earlier(&self, owned: &OwnedRow, peer: &[u8; 32], hint: &Hint) -> Outcome<Option<String>> {
        if owned.unanswered.is_empty() {
            return Ok(None);
        }
        let word = UnverifiedCommand::decode(&owned.unanswered)
            .ok()
            .and_then(|command| command.verify().ok())
            .map_or_else(|| "a command".to_owned(), |command| command.order.word().to_owned());
        let (came, text) = self.node.command(hint, owned.unanswered.clone())?;
        let (_, last_seq) = read_answer(&text);
        self.home.command_answered(peer, last_seq)?;
        Ok(Some(earlier(&owned.name, &word, came, &text)))
    }

    /// A command line as an order, and the code that it makes.
    fn order(&self, owned: &OwnedRow, told: &Told) -> Outcome<(Order, Option<String>)> {
        Ok((
            match told {
                Told::Status => Order::Status,
                Told::Report => Order::Report,
                Told::Seed { what } => match InviteCode::from_text_for(CodeFor::Seed, what) {
                    Ok(_) => Order::SeedCode { code: what.split_whitespace().collect() },
                    Err(_) => Order::Seed { id: id(what)? },
                },
                Told::Refuse { id: what } => Order::Refuse { id: id(what)? },
                Told::Unseed { folder } => Order::Unseed { folder: self.folder_meant(folder)? },
                Told::Quota { folder, quota_bytes, until_ms } => Order::Quota {
                    folder: self.folder_meant(folder)?,
                    quota_bytes: *quota_bytes,
                    until_ms: *until_ms,
                },
                Told::Pause => Order::Pause,
                Told::Resume => Order::Resume,
                Told::AdminsList => Order::Admins,
                Told::AdminsAdd { name, rank, valid_ms } => {
                    return self.invite_admin(owned, name, *rank, *valid_ms);
                }
                Told::AdminsRemove { key } => Order::Dismiss { key: admin_key(key)? },
                Told::EndAgreement { folder } => Order::EndAgreement { folder: self.folder_meant(folder)? },
            },
            None,
        ))
    }

    fn invite_admin(
        &self,
        owned: &OwnedRow,
        name: &str,
        rank: AdminRank,
        valid_ms: u64,
    ) -> Outcome<(Order, Option<String>)> {
        super::members::require_lifetime(valid_ms)?;
        let (secret, claim) = fresh_claim_secret()?;
        let peer = PeerId::from_bytes(&owned.address.peer_id)
            .ok_or_else(|| Problem::failed("The seeder's key is not known."))?;
        let text = cobox_net::seeder::owner::claim_text(peer, &owned.address.addresses, &secret)
            .map_err(|failure| Problem::failed(failure.text))?;
        let order = Order::Invite {
            claim,
            rank: rank.rank(),
            expires_ms: now_ms().saturating_add(valid_ms),
            name: name.chars().filter(|letter| !letter.is_control()).take(16).collect(),
        };
        Ok((order, Some(text.to_string())))
    }

    /// A folder by its name here, or by its whole id.
    fn folder_meant(&self, text: &str) -> Outcome<FolderId> {
        if let Some(id) = FolderId::from_hex(text) {
            return Ok(id);
        }
        self.folder(text).map(|state| state.folder.id()).map_err(|_| {
            Problem::failed_with(
                format!("No folder of this device is called {text:?}, and it is no whole id."),
                "`cobox-ctl seeder manage BOX status` shows the ids of the folders that the seeder holds.",
            )
        })
    }
}

/// What came of the command before, in a sentence. Of one that the seeder refuses now it may have lost the answer:
/// only where it says that it never took it was it certainly not done.
fn earlier(seeder: &str, word: &str, came: Came, text: &str) -> String {
    let undone = matches!(serde_json::from_str(text), Ok(Answer::Failed { undone: true, .. }));
    let said = read_answer(text).0;
    let said = said.get("text").and_then(Value::as_str).unwrap_or_default();
    let said: String = said.chars().filter(|letter| !letter.is_control()).take(SAID_LETTERS_MAX).collect();
    match came {
        Came::Done => format!("The command before, {word}, was done."),
        Came::Interrupted => format!(
            "The command before, {word}, was cut off when the seeder went down: it was done or was not, and is not done again."
        ),
        Came::Failed => format!("The command before, {word}, failed: {said}"),
        Came::Refused if undone => format!("The command before, {word}, was not done. {said}"),
        Came::Refused | Came::Begun => format!(
            "It is not known whether the command before, {word}, was done. {said} Ask `cobox-ctl seeder manage {seeder} status`."
        ),
    }
}

fn id(text: &str) -> Outcome<String> {
    if text.is_ascii() && text.len() <= 128 {
        Ok(text.to_owned())
    } else {
        Err(Problem::usage("This is no id of a grant that waits.", "`seeder manage BOX report` shows them."))
    }
}

fn admin_key(text: &str) -> Outcome<AdminKey> {
    AdminKey::from_hex(text).ok_or_else(|| {
        Problem::usage(
            "An admin or a code is named by its whole key.",
            "`seeder manage BOX admins list` shows keys.",
        )
    })
}

/// What a seeder answered, and its last number where it says so. A seeder may say anything: what is not JSON
/// is shown as text.
fn read_answer(text: &str) -> (Value, u64) {
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let last_seq = match serde_json::from_str(text) {
        Ok(Answer::Failed { seq, .. }) => seq.unwrap_or(0),
        _ => 0,
    };
    (value, last_seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_that_may_have_been_done_is_never_said_to_be_undone() {
        let refused = |undone: bool| {
            let answer =
                Answer::Failed { exit: 4, text: "It did not obey: dismissed.".into(), seq: Some(9), undone };
            serde_json::to_string(&answer).expect("JSON")
        };
        let said = |came, text: &str| earlier("box", "pause", came, text);
        assert!(said(Came::Refused, &refused(true)).contains("was not done. It did not obey"));
        // A seeder of before, or one that lost the answer, cannot say.
        for text in [refused(false), "{}".to_owned(), "nonsense".to_owned()] {
            let text = said(Came::Refused, &text);
            assert!(text.starts_with("It is not known whether"), "{text}");
            assert!(text.contains("seeder manage box status"), "{text}");
        }
        let text = said(Came::Failed, &refused(false));
        assert!(text.contains("failed: It did not obey") && !text.contains("not done"), "{text}");
        assert!(said(Came::Done, "{}").contains("was done"));
        assert!(said(Came::Interrupted, "{}").contains("it was done or was not"));
    }
}
