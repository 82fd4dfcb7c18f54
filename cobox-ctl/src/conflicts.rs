//! What the daemon answers about conflicts: the same objects for `--json` and `.cobox/conflicts.json`.

use serde::{Deserialize, Serialize};

/// What of a conflict is to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeepHow {
    /// This one; the others go.
    This,
    /// All, each as a file of its own.
    Both,
}

/// Conflicts of some folders.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConflictsReport {
    /// One per folder.
    pub folders: Vec<FolderConflicts>,
}

/// Conflicts of one folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FolderConflicts {
    /// What the member calls it.
    pub folder: String,
    /// In the order of paths.
    pub conflicts: Vec<ConflictReport>,
}

/// One thing that devices did at the same time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConflictReport {
    /// Where it is to be seen, from the root of the folder. Bytes that are no text are replaced.
    pub path: String,
    /// What happened.
    pub kind: ConflictKind,
    /// The same as a sentence.
    pub what: String,
    /// Who did what, and when; of versions and names the one that has the name first.
    pub acts: Vec<Act>,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictKind {
    /// A file has several versions.
    Versions,
    /// Several things have one name.
    Names,
    /// A move of a directory did not happen.
    MoveSkipped,
    /// A removed file is there again.
    FileCameBack,
    /// A removed directory is there again.
    DirectoryReturned,
}

/// What one device did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Act {
    /// `wrote`, `put`, `moved`, `removed`.
    pub act: String,
    /// The name that shows what it wrote or put there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How long that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The device's label.
    pub device: String,
    /// The id of its member in hex, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// When, by that device's clock, in milliseconds since 1970.
    pub at_ms: u64,
}

/// A conflict that was settled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeepReport {
    /// The folder's name here.
    pub folder: String,
    /// What was kept.
    pub path: String,
    /// How.
    pub kept: KeepHow,
    /// Changes that it took; 0 where nothing was to be settled.
    pub changes: u64,
}
