//! Which grants and agreements a seeder takes without asking its owner.

use std::path::Path;

use cobox_store::format::agreement::Terms;
use serde::{Deserialize, Serialize};

use super::Failure;
use super::limits::Limits;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Whose grants are taken without asking the owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Accept {
    /// None: `cobox-seeder accept ID` decides.
    Owner,
    /// Everybody's: for tests and closed networks.
    Any,
    /// Those within limits.
    Rule(Rule),
}

/// Limits within which grants are taken, as the owner wrote them into a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// For one folder at the most.
    pub folder_bytes_max: u64,
    /// For all folders together at the most.
    pub total_bytes_max: u64,
    /// Folders at the most.
    pub folders_max: usize,
    /// The end lies so many days ahead at the most; without it a grant may have no end.
    #[serde(default)]
    pub days_max: Option<u64>,
    /// Terms must name this place, or none.
    #[serde(default)]
    pub place: String,
    /// The same for who runs the seeder.
    #[serde(default)]
    pub organisation: String,
    /// The same for how to reach them.
    #[serde(default)]
    pub contact: String,
}

/// What the seeder gives to others than the folder that asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    /// How many.
    pub folders: usize,
    /// What they may take.
    pub bytes: u64,
}

impl Accept {
    /// Whether a grant is taken without asking.
    #[must_use]
    pub fn takes(&self, limits: Limits, terms: Option<&Terms>, given: Given, now_ms: u64) -> bool {
        match self {
            Self::Owner => false,
            Self::Any => true,
            Self::Rule(rule) => rule.takes(limits, terms, given, now_ms),
        }
    }
}

impl Rule {
    /// Reads a rule from a JSON file.
    ///
    /// # Errors
    /// When the file cannot be read, or says something that is not known.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::failed(format!("{} cannot be read: {error}.", path.display())))?;
        serde_json::from_str(&text).map_err(|error| {
            Failure::failed(format!(
                "{} is not a rule: {error}. A rule is JSON like {{\"folder_bytes_max\": 50000000000, \"total_bytes_max\": 500000000000, \
                 \"folders_max\": 20, \"days_max\": 366, \"place\": \"\", \"organisation\": \"\", \"contact\": \"\"}}.",
                path.display()
            ))
        })
    }

    fn takes(&self, limits: Limits, terms: Option<&Terms>, given: Given, now_ms: u64) -> bool {
        let total = given.bytes.checked_add(limits.quota_bytes);
        let ends = match (self.days_max, limits.until_ms) {
            (None, _) => true,
            (Some(_), 0) => false,
            (Some(days), until_ms) => until_ms <= now_ms.saturating_add(days.saturating_mul(DAY_MS)),
        };
        // What is signed about the seeder must be what its owner says of it.
        let is_ours = |said: &String, ours: &String| said.is_empty() || said == ours;
        limits.quota_bytes <= self.folder_bytes_max
            && total.is_some_and(|total| total <= self.total_bytes_max)
            && given.folders < self.folders_max
            && ends
            && terms.is_none_or(|terms| {
                is_ours(&terms.place, &self.place)
                    && is_ours(&terms.organisation, &self.organisation)
                    && is_ours(&terms.contact, &self.contact)
            })
    }
}

#[cfg(test)]
mod tests {
    use cobox_store::format::receipt::peer_id_of;
    use cobox_store::id::FolderId;

    use super::*;

    fn rule() -> Rule {
        serde_json::from_str(
            r#"{"folder_bytes_max": 100, "total_bytes_max": 250, "folders_max": 3, "days_max": 10, "place": "here"}"#,
        )
        .expect("a rule")
    }

    #[test]
    fn grant_is_taken_within_every_limit_and_no_further() {
        let now_ms = 1000 * DAY_MS;
        let limits = |quota_bytes, days: u64| Limits {
            quota_bytes,
            until_ms: if days == 0 { 0 } else { now_ms + days * DAY_MS },
        };
        let takes = |limits, folders, bytes| rule().takes(limits, None, Given { folders, bytes }, now_ms);
        assert!(takes(limits(100, 10), 2, 150));
        assert!(!takes(limits(101, 10), 0, 0), "too much for one folder");
        assert!(!takes(limits(100, 10), 2, 151), "too much in all");
        assert!(!takes(limits(100, 10), 3, 0), "too many folders");
        assert!(!takes(limits(100, 11), 0, 0), "too long");
        assert!(!takes(limits(100, 0), 0, 0), "without an end");
        assert!(!takes(limits(u64::MAX, 1), 1, u64::MAX));
        let mut endless = rule();
        endless.days_max = None;
        assert!(endless.takes(limits(100, 0), None, Given { folders: 0, bytes: 0 }, now_ms));
    }

    #[test]
    fn terms_that_say_something_else_of_the_seeder_wait_for_the_owner() {
        let terms = |place: &str| Terms {
            folder: FolderId([1; 32]),
            seeder: peer_id_of(&[2; 32]),
            quota_bytes: 1,
            from_ms: 0,
            until_ms: 5,
            notice_ms: 0,
            audit_ms: DAY_MS,
            place: place.into(),
            organisation: String::new(),
            contact: String::new(),
            member_contact: "anything".into(),
        };
        let limits = Limits { quota_bytes: 1, until_ms: 5 };
        let given = Given { folders: 0, bytes: 0 };
        for (place, taken) in [("", true), ("here", true), ("elsewhere", false)] {
            assert_eq!(rule().takes(limits, Some(&terms(place)), given, 0), taken, "{place:?}");
        }
    }

    #[test]
    fn rule_with_an_unknown_word_is_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("rule");
        std::fs::write(
            &file,
            r#"{"folder_bytes_max": 1, "total_bytes_max": 1, "folders_max": 1, "days": 3}"#,
        )
        .expect("writes");
        assert!(Rule::read(&file).expect_err("refused").text.contains("days"));
    }
}
