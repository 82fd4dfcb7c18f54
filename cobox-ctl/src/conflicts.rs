//! What the daemon answers about conflicts: the same objects for `--json` and `.cobox/conflicts.json`.

use cobox_store::id::{hex, unhex};
use serde::{Deserialize, Serialize};

/// A name as text, and in hex where it is no text: bytes that are no UTF-8 are replaced in the one, and stand in the other.
#[must_use]
pub fn text_and_hex(name: &[u8]) -> (String, Option<String>) {
    let text = String::from_utf8_lossy(name);
    let lost = matches!(text, std::borrow::Cow::Owned(_));
    (text.into_owned(), lost.then(|| hex(name)))
}

/// The bytes of a name that is given as [`text_and_hex`] gives it.
#[must_use]
pub fn bytes_of(text: &str, in_hex: Option<&str>) -> Vec<u8> {
    in_hex.and_then(unhex).unwrap_or_else(|| text.as_bytes().to_vec())
}

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
    /// Where it is to be seen, from the root of the folder. Bytes that are no UTF-8 are replaced.
    pub path: String,
    /// The bytes of the path in hex, where it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
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
    /// The name that shows what it wrote or put there; of a move that did not happen, the path that it was to have. Bytes
    /// that are no UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The bytes of the name in hex, where it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_hex: Option<String>,
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
    /// What was kept, from the root of the folder. Bytes that are no UTF-8 are replaced.
    pub path: String,
    /// The bytes of the path in hex, where it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// How.
    pub kept: KeepHow,
    /// Changes that it took; 0 where nothing was to be settled.
    pub changes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_is_no_text_is_given_back_to_the_byte() {
        for name in [&b"plain"[..], "größer".as_bytes(), "\u{fffd}".as_bytes(), b"a\xff\nb", b"\xff\xfe", b""]
        {
            let (text, in_hex) = text_and_hex(name);
            assert_eq!(in_hex.is_some(), std::str::from_utf8(name).is_err(), "{name:?}");
            assert_eq!(bytes_of(&text, in_hex.as_deref()), name);
        }
    }
}
