//! What the daemon is asked and answers about agreements, seed codes, and seeders that this member commands.

use cobox_net::agreement::AgreementView;
use cobox_store::format::command::Rank;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a person would agree on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Wishes {
    /// How much may be stored.
    pub quota_bytes: u64,
    /// From when, in milliseconds since 1970; 0 for now.
    pub from_ms: u64,
    /// Until when; 0 for no end.
    pub until_ms: u64,
    /// How long before its end a side says so.
    pub notice_ms: u64,
    /// How often proofs are asked for.
    pub audit_ms: u64,
    /// Where the seeder stands.
    pub place: String,
    /// Who runs it.
    pub organisation: String,
    /// How to reach them.
    pub contact: String,
    /// How to reach us.
    pub member_contact: String,
}

/// Terms that were proposed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProposeReport {
    /// Which folder.
    pub folder: String,
    /// What.
    pub agreement: AgreementView,
}

/// Agreements.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgreementsReport {
    /// In force and over, proposed, offered, declined.
    pub agreements: Vec<AgreementView>,
}

/// A seed code that was just opened. The code is in no other report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SeedCodeReport {
    /// The folder's name here.
    pub folder: String,
    /// What to hand over.
    pub code: String,
    /// What it is called in lists.
    pub key: String,
    /// How much whoever redeems it may store.
    pub quota_bytes: u64,
    /// Until when; 0 for no end.
    pub until_ms: u64,
    /// Until when the code is good.
    pub expires_ms: u64,
}

/// A seed code in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SeedCodeLine {
    /// What it is called.
    pub key: String,
    /// How much whoever redeems it may store.
    pub quota_bytes: u64,
    /// Until when; 0 for no end.
    pub until_ms: u64,
    /// Until when the code is good.
    pub expires_ms: u64,
    /// `open`, `expired`, `void`, `used` or `clashed`.
    pub state: String,
    /// Which seeder used it.
    pub used_by: Option<String>,
}

/// All seed codes of a folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SeedCodesReport {
    /// The folder's name here.
    pub folder: String,
    /// One per code.
    pub codes: Vec<SeedCodeLine>,
}

/// What an admin may do at a seeder, as people write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdminRank {
    /// Looks.
    Watcher,
    /// Looks, and decides what is held.
    Keeper,
    /// Everything, other admins too.
    Owner,
}

impl AdminRank {
    /// As a command has it.
    #[must_use]
    pub fn rank(self) -> Rank {
        match self {
            Self::Watcher => Rank::Watcher,
            Self::Keeper => Rank::Keeper,
            Self::Owner => Rank::Owner,
        }
    }

    /// As people write it.
    #[must_use]
    pub fn of(rank: Rank) -> Self {
        match rank {
            Rank::Watcher => Self::Watcher,
            Rank::Keeper => Self::Keeper,
            Rank::Owner => Self::Owner,
        }
    }

    /// In a sentence.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Watcher => "watcher",
            Self::Keeper => "keeper",
            Self::Owner => "owner",
        }
    }
}

/// A seeder that this device commands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OwnedReport {
    /// What the member calls it.
    pub name: String,
    /// Its libp2p identity.
    pub peer_id: String,
    /// What may be ordered.
    pub rank: AdminRank,
    /// The number of the last command.
    pub seq: u64,
    /// Whether its answer is still to come.
    pub unanswered: bool,
    /// Whether the 24 words can claim the place again.
    pub words_claim: bool,
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OwnedsReport {
    /// One per seeder.
    pub seeders: Vec<OwnedReport>,
}

/// What a seeder is told to do, as the command line says it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Told {
    /// What is held.
    Status,
    /// What waits, what was ordered, refused and agreed.
    Report,
    /// Take a grant that waits, or redeem a seed code.
    Seed {
        /// The id that the report showed, or the code.
        what: String,
    },
    /// Refuse a grant that waits.
    Refuse {
        /// Its id.
        id: String,
    },
    /// Let a folder go.
    Unseed {
        /// Its name here, or the beginning of its id.
        folder: String,
    },
    /// Change how much of a folder is taken.
    Quota {
        /// Its name here, or the beginning of its id.
        folder: String,
        /// How much.
        quota_bytes: u64,
        /// Until when; 0 for no end.
        until_ms: u64,
    },
    /// Take part in nothing.
    Pause,
    /// Go on.
    Resume,
    /// Who commands it.
    AdminsList,
    /// Make a code for another admin.
    AdminsAdd {
        /// What the code is called.
        name: String,
        /// As what.
        rank: AdminRank,
        /// How long the code is good.
        valid_ms: u64,
    },
    /// Dismiss an admin, or take back a code.
    AdminsRemove {
        /// The beginning of its key.
        key: String,
    },
    /// Give notice of an agreement's end, for the seeder.
    EndAgreement {
        /// The folder's name here, or the beginning of its id.
        folder: String,
    },
}

/// What a seeder answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ManageReport {
    /// What the member calls the seeder.
    pub seeder: String,
    /// The number of the command.
    pub seq: u64,
    /// `done`, `failed`, `refused` or `interrupted`.
    pub outcome: String,
    /// The seeder's own answer, as its own command line gives it.
    pub answer: Value,
    /// A code that was made, to hand over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What came of the command before, whose answer had not come then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<String>,
    /// What the member calls folders that the answer names by their ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<FolderName>,
}

/// What the member calls a folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FolderName {
    /// Its id in hex.
    pub folder: String,
    /// Its name here.
    pub name: String,
}
