//! What a seeder tells its owner and admins: who commands it, what was ordered and refused, what waits.

use cobox_store::blind::Store;
use cobox_store::blind::owners::{Admin, OpenClaim, Taken};
use cobox_store::format::command::Rank;
use serde::{Deserialize, Serialize};

use super::Failure;
use super::commands::{self, Answer};
use super::holding::Holding;
use super::orders::RefusalView;

/// An admin in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct AdminView {
    /// The key that signs, in hex.
    pub key: String,
    pub name: String,
    /// `owner`, `keeper`, `watcher`, or `dismissed`.
    pub rank: String,
    pub since_ms: u64,
    /// The number of the last command.
    pub seq: u64,
}

/// A code that is open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct CodeView {
    pub key: String,
    pub name: String,
    pub rank: String,
    /// 0 for no end.
    pub expires_ms: u64,
}

/// A command that was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct CommandView {
    pub at_ms: u64,
    pub admin: String,
    pub name: String,
    pub seq: u64,
    pub what: String,
    /// `done`, `failed`, `interrupted` (it may have been done or not, and is not done again) or `begun`.
    pub outcome: String,
}

/// What the owner should know of a folder that is held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[allow(missing_docs)]
pub struct FolderNote {
    pub folder: String,
    /// When the grant or the agreement ends; 0 for no end.
    pub until_ms: u64,
    /// When a member's device had a session open; after a restart known to the hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ms: Option<u64>,
    /// In sentences.
    pub warnings: Vec<String>,
}

fn rank_word(rank: Option<Rank>) -> &'static str {
    match rank {
        Some(Rank::Owner) => "owner",
        Some(Rank::Keeper) => "keeper",
        Some(Rank::Watcher) => "watcher",
        None => "dismissed",
    }
}

impl AdminView {
    fn of(admin: Admin) -> Self {
        Self {
            key: admin.key.to_hex(),
            name: admin.name,
            rank: rank_word(admin.rank).to_owned(),
            since_ms: admin.since_ms,
            seq: admin.seq,
        }
    }
}

impl CodeView {
    fn of(claim: OpenClaim) -> Self {
        let rank = rank_word(Some(claim.rank)).to_owned();
        Self { key: claim.key.to_hex(), name: claim.name, rank, expires_ms: claim.expires_ms }
    }
}

/// Who commands the seeder, and which codes are open.
///
/// # Errors
/// When the store cannot be read.
pub fn admins(store: &Store) -> Result<Answer, Failure> {
    Ok(Answer::Admins {
        admins: store.admins()?.into_iter().map(AdminView::of).collect(),
        codes: store.claims()?.into_iter().map(CodeView::of).collect(),
    })
}

/// What waits, what was ordered, what was refused, what was agreed, and what to know of each folder.
pub(super) fn report(holding: &Holding, refused: Vec<RefusalView>) -> Result<Answer, Failure> {
    let admins = holding.store.admins()?;
    let name = |taken: &Taken| {
        let known = admins.iter().find(|admin| admin.key == taken.admin);
        known.map_or(String::new(), |admin| admin.name.clone())
    };
    let commands = holding.store.commands()?.into_iter().map(|taken| CommandView {
        at_ms: taken.at_ms,
        admin: taken.admin.to_hex(),
        name: name(&taken),
        seq: taken.seq,
        what: taken.word,
        outcome: taken.outcome.word().to_owned(),
    });
    let mut folders = Vec::new();
    for (no, folder) in holding.store.folders()? {
        folders.push(FolderNote {
            folder: folder.to_hex(),
            until_ms: holding.store.usage(no)?.until_ms.unwrap_or(0),
            heard_ms: holding.heard_ms(no)?,
            warnings: holding.warnings(no)?,
        });
    }
    Ok(Answer::Report {
        paused: holding.is_paused(),
        waiting: commands::waiting_grants(holding),
        agreements: holding.agreements()?,
        commands: commands.collect(),
        refused,
        folders,
    })
}
