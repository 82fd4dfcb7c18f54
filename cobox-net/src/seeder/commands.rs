//! What people ask of a seeder: JSON lines over a Unix socket in its data folder, one request each.

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cobox_store::blind::owners::NO_ISSUER;
use cobox_store::blind::{PackHealth, Rows, Store};
use cobox_store::format::command::Order;
use cobox_store::id::{AdminKey, InviteKey};
use serde::{Deserialize, Serialize};

use super::heard;
use super::holding::{Holding, Settled};
use super::leaving::Leaving;
use super::orders::{Orders, RefusalView};
use super::owner::{Console, claim_text, console_secret};
use super::report::{AdminView, CodeView, CommandView, FolderNote};
use super::{Exit, Failure};
use crate::agreement::AgreementView;
use crate::driver::now_ms;
use crate::nearing::percent;
use crate::node::Node;

/// How long a command other than a scrub may take.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Request {
    /// What it holds.
    Status,
    /// Which grants wait.
    Pending,
    /// Take a grant.
    Accept {
        /// Its id, whole, as it was listed.
        id: String,
    },
    /// Refuse a grant.
    Refuse {
        /// Beginning of the folder's id.
        id: String,
    },
    /// Read every pack.
    Scrub,
    /// The code that makes whoever redeems it the owner.
    Claim {
        /// Also where there is an owner: all admins are dismissed, and no other code is open any more.
        #[serde(default)]
        reset: bool,
    },
    /// Redeem a seed code.
    Seed {
        /// The code.
        code: String,
    },
    /// Whether a seed code still waits.
    Seeking {
        /// The key of the code, in hex.
        key: String,
    },
    /// Let a folder go.
    Unseed {
        /// Beginning of the folder's id.
        folder: String,
    },
    /// Change how much of a folder is taken.
    Quota {
        /// Beginning of the folder's id.
        folder: String,
        /// How much.
        quota_bytes: u64,
        /// Until when; 0 for no end.
        until_ms: u64,
    },
    /// Take part in nothing until told to go on.
    Pause,
    /// Go on.
    Resume,
    /// Who commands the seeder.
    Admins,
    /// Dismiss an admin, or take back a code.
    Dismiss {
        /// Its key in hex.
        key: String,
    },
    /// What waits, what was ordered, refused and agreed.
    Report,
    /// Agreements.
    Agreements,
    /// Give notice of the end of an agreement.
    #[serde(rename = "end-agreement")]
    EndAgreement {
        /// Beginning of the folder's id.
        folder: String,
    },
}

/// One folder in a status.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct FolderStatus {
    pub folder: String,
    pub packs: u64,
    pub pack_bytes: u64,
    pub entry_bytes: u64,
    pub quota_bytes: Option<u64>,
    /// When the grant or the agreement ends, ms since 1970; 0 for no end.
    #[serde(default)]
    pub until_ms: u64,
    pub packs_missing: u64,
    pub peers: u64,
    /// When a member's device had a session open, ms since 1970; after a restart known to the hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ms: Option<u64>,
    /// The folder is to be held no longer; what is here stays for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
    /// How much of the quota is used, in percent.
    #[serde(default)]
    pub used_percent: u64,
    /// What its owner should know, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Packs in which damage was found since the folder is here.
    pub packs_damaged: u64,
    /// Those of them that no other holder has mended yet.
    pub packs_unmended: u64,
    /// When everything was last read for damage, ms since 1970; 0 for never.
    pub scrubbed_ms: u64,
    /// Bytes that were released and are kept for a while.
    pub held_bytes: u64,
    /// How much longer the seeder has to run until the first of them go, in ms.
    pub held_next_ms: Option<u64>,
    /// How much longer the seeder has to run until the folder goes, because its grant ended or was taken back.
    pub leaving_in_ms: Option<u64>,
    /// Rows of the database itself are damaged, which no other holder can mend in place.
    pub rows_damaged: bool,
}

/// The answer to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Answer {
    Status {
        running: bool,
        peer_id: String,
        listen: Vec<String>,
        folders: Vec<FolderStatus>,
        disk_free_bytes: u64,
        /// Whether it takes part in nothing for now.
        #[serde(default)]
        paused: bool,
        /// Whether somebody owns it.
        #[serde(default)]
        owned: bool,
        /// Where members reach it: what `seeder add` takes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    Pending {
        grants: Vec<Waiting>,
    },
    Accepted {
        folder: String,
        quota_bytes: u64,
        until_ms: u64,
    },
    Refused {
        folder: String,
    },
    Already {
        folder: String,
    },
    Scrub {
        packs: u64,
        bytes: u64,
        damaged: Vec<String>,
    },
    Claim {
        /// None where it has an owner.
        code: Option<String>,
    },
    Seeking {
        key: String,
        waiting: bool,
        /// Why what was granted was not taken.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
    },
    Admins {
        admins: Vec<AdminView>,
        codes: Vec<CodeView>,
    },
    Agreements {
        agreements: Vec<AgreementView>,
    },
    Report {
        paused: bool,
        waiting: Vec<Waiting>,
        agreements: Vec<AgreementView>,
        commands: Vec<CommandView>,
        refused: Vec<RefusalView>,
        /// One per folder that is held.
        #[serde(default)]
        folders: Vec<FolderNote>,
    },
    Said {
        text: String,
    },
    Failed {
        exit: u8,
        text: String,
        /// The last number of the admin who was refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        /// It is certain that the command that was refused was not done earlier.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        undone: bool,
    },
}

/// A grant that waits.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct Waiting {
    /// Names the folder and these terms.
    pub id: String,
    pub folder: String,
    pub from: String,
    pub quota_bytes: u64,
    pub until_ms: u64,
    /// What accepting it signs, for people; without it only the grant is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<AgreementView>,
}

pub(super) fn socket_path(data: &Path) -> PathBuf {
    data.join("seeder.sock")
}

pub(super) fn failed(failure: &Failure) -> Answer {
    Answer::Failed { exit: failure.exit as u8, text: failure.text.clone(), seq: None, undone: false }
}

/// Carries out a request, for the socket and for the API.
pub(super) fn carry_out(
    request: &Request,
    holding: &Holding,
    orders: &Orders,
    node: &Node,
) -> Result<Answer, Failure> {
    let order = match request {
        Request::Status => return running_status(holding, node),
        Request::Pending => return Ok(Answer::Pending { grants: waiting_grants(holding) }),
        Request::Scrub => return scrub(&holding.store, &|| false),
        Request::Report => return orders.report(),
        Request::Agreements => return Ok(Answer::Agreements { agreements: holding.agreements()? }),
        Request::Claim { reset } => {
            let how = if *reset { Console::Reset } else { Console::First };
            let secret = console_secret(&holding.store, how)?;
            let text = |secret: &[u8; 16]| claim_text(node.peer_id(), &node.addresses(), secret);
            let code = secret.map(|secret| text(&secret)).transpose()?;
            return Ok(Answer::Claim { code: code.map(|code| code.to_string()) });
        }
        Request::Seed { code } => {
            let key = holding.redeem_later(code)?.to_hex();
            return Ok(Answer::Seeking { key, waiting: true, refused: None });
        }
        Request::Seeking { key } => {
            let code = InviteKey::from_hex(key).ok_or_else(|| Failure::failed("That is no code's key."))?;
            let (waiting, refused) = (holding.is_waiting(code)?, holding.said_of(code));
            return Ok(Answer::Seeking { key: key.clone(), waiting, refused });
        }
        Request::Accept { id } => Order::Seed { id: id.clone() },
        Request::Refuse { id } => Order::Refuse { id: id.clone() },
        Request::Unseed { folder } => Order::Unseed { folder: holding.folder_named(folder)? },
        Request::Quota { folder, quota_bytes, until_ms } => Order::Quota {
            folder: holding.folder_named(folder)?,
            quota_bytes: *quota_bytes,
            until_ms: *until_ms,
        },
        Request::Pause => Order::Pause,
        Request::Resume => Order::Resume,
        Request::Admins => Order::Admins,
        Request::Dismiss { key } => Order::Dismiss {
            key: AdminKey::from_hex(key).ok_or_else(|| Failure::failed("That is no key in hex."))?,
        },
        Request::EndAgreement { folder } => Order::EndAgreement { folder: holding.folder_named(folder)? },
    };
    orders.obey(node, &order, NO_ISSUER)
}

/// What a running seeder holds.
pub(super) fn running_status(holding: &Holding, node: &Node) -> Result<Answer, Failure> {
    let peer_id = node.peer_id().to_string();
    let mut answer = status(&holding.store, peer_id, node.listen_texts())?;
    if let Answer::Status { running, folders, paused, address, .. } = &mut answer {
        *running = true;
        *address = Some(holding.identity.address(node.addresses()).to_text());
        *paused = holding.is_paused();
        for ((no, _), folder) in holding.store.folders()?.into_iter().zip(folders) {
            folder.warnings = holding.warnings(no)?;
            if let Ok(status) = node.status(no) {
                if heard::is_heard(&status) {
                    holding.hear(no, now_ms())?;
                }
                let open = status.peers.iter().filter(|peer| peer.session == crate::SessionState::Open);
                folder.peers = open.count() as u64;
            }
            folder.heard_ms = holding.heard_ms(no)?;
        }
    }
    Ok(answer)
}

pub(super) fn settled(settled: Settled) -> Answer {
    match settled {
        Settled::Accepted(folder, limits) => Answer::Accepted {
            folder: folder.to_hex(),
            quota_bytes: limits.quota_bytes,
            until_ms: limits.until_ms,
        },
        Settled::Refused(folder) => Answer::Refused { folder: folder.to_hex() },
        Settled::Before(folder) => Answer::Already { folder: folder.to_hex() },
    }
}

/// Grants that wait, with the terms that taking them signs.
pub(super) fn waiting_grants(holding: &Holding) -> Vec<Waiting> {
    let waiting = holding.list_pending().into_iter().map(|pending| Waiting {
        id: pending.id(),
        folder: pending.folder.to_hex(),
        from: pending.asker(),
        quota_bytes: pending.limits.quota_bytes,
        until_ms: pending.limits.until_ms,
        agreement: pending.terms.as_ref().map(AgreementView::asked),
    });
    waiting.collect()
}

/// What a store holds.
///
/// # Errors
/// When it cannot be read.
pub fn status(store: &Store, peer_id: String, listen: Vec<String>) -> Result<Answer, Failure> {
    const PAGE: usize = 1024;
    let mut folders = Vec::new();
    for (no, id) in store.folders()? {
        let usage = store.usage(no)?;
        let (mut packs_missing, mut after) = (0, None);
        loop {
            let page = store.packs_missing(no, after, PAGE)?;
            packs_missing += page.len() as u64;
            after = page.last().map(|pack| pack.id);
            if page.len() < PAGE {
                break;
            }
        }
        let (damage, patrol) = (store.damage(no)?, store.patrol(no)?);
        let held = store.held(no)?;
        folders.push(FolderStatus {
            folder: id.to_hex(),
            packs: usage.packs,
            pack_bytes: usage.pack_bytes,
            entry_bytes: usage.entry_bytes,
            quota_bytes: usage.quota_bytes,
            until_ms: usage.until_ms.unwrap_or(0),
            packs_missing,
            peers: 0,
            heard_ms: heard::kept(store, no)?,
            leaving: Leaving::read(store, no)?,
            used_percent: percent(
                usage.pack_bytes.saturating_add(usage.entry_bytes),
                usage.quota_bytes.unwrap_or(u64::MAX),
            ),
            warnings: Vec::new(),
            packs_damaged: damage.found,
            packs_unmended: damage.unmended,
            held_bytes: held.bytes,
            held_next_ms: held.next_ms,
            leaving_in_ms: store.leaving_in_ms(no)?,
            scrubbed_ms: patrol.ended_ms,
            rows_damaged: patrol.rows == Rows::Damaged,
        });
    }
    let disk_free_bytes = store.disk()?.free_bytes;
    let (paused, owned) = (false, store.has_owner()?);
    Ok(Answer::Status {
        running: false,
        peer_id,
        listen,
        folders,
        disk_free_bytes,
        paused,
        owned,
        address: None,
    })
}

/// Reads every pack of every folder and checks it; damaged ones are fetched again.
///
/// # Errors
/// When the store cannot be read, or once `stop` says so.
pub fn scrub(store: &Store, stop: &dyn Fn() -> bool) -> Result<Answer, Failure> {
    let (mut packs, mut bytes, mut damaged) = (0, 0, Vec::new());
    for (no, _) in store.folders()? {
        let began_ms = now_ms();
        let report = store.check_packs(no, &mut |pack, health| {
            if health == PackHealth::Damaged {
                tracing::error!(pack = %pack.id, "a pack is damaged and will be fetched again");
            }
            if stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if stop() {
            return Err(Failure::failed("The seeder stops, and not all was read: scrub again once it runs."));
        }
        store.patrol_ended(no, &report, began_ms, now_ms())?;
        packs += report.packs;
        bytes += report.bytes;
        damaged.extend(report.damaged.iter().map(cobox_store::id::PackId::to_hex));
    }
    Ok(Answer::Scrub { packs, bytes, damaged })
}

/// Asks the seeder that runs on `data`; `None` when none does.
///
/// # Errors
/// When it does not answer.
pub fn ask_running(data: &Path, request: &Request) -> Result<Option<Answer>, Failure> {
    let Ok(stream) = UnixStream::connect(socket_path(data)) else { return Ok(None) };
    let ask = || -> std::io::Result<Answer> {
        if *request != Request::Scrub {
            stream.set_read_timeout(Some(ANSWER_WAIT))?;
        }
        let mut text = serde_json::to_string(request)?;
        text.push('\n');
        (&stream).write_all(text.as_bytes())?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    match ask() {
        Ok(Answer::Failed { exit, text, .. }) => {
            let exit = [Exit::Usage, Exit::NotReached, Exit::Refused, Exit::Damage]
                .into_iter()
                .find(|known| *known as u8 == exit)
                .unwrap_or(Exit::Failed);
            Err(Failure { exit, text, missing: false })
        }
        Ok(answer) => Ok(Some(answer)),
        Err(error) => {
            let why = match error.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => format!(
                    "it said nothing for {} seconds. If its process was stopped, `kill -CONT` lets it go on; if it hangs, end it and \
                     start it again",
                    ANSWER_WAIT.as_secs()
                ),
                _ => error.to_string(),
            };
            let text = format!("The seeder on {} does not answer: {why}.", data.display());
            Err(Failure { exit: Exit::NotReached, text, missing: false })
        }
    }
}
