//! Health of a folder in two numbers: how many proved copies, and how old the proof is.

use serde::Serialize;

use crate::report::{FolderReport, StatusReport};

/// Without a target that the group set, a folder should exist in one proved copy besides this device's.
const COPIES_WANTED: u32 = 1;

/// A colour that says how sure the copies are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Light {
    /// Enough copies are proved.
    Green,
    /// Enough copies are claimed, not all are proved.
    Amber,
    /// Too few, or a pack is whole nowhere that is known.
    Red,
}

/// One folder's health.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FolderHealth {
    /// What the member calls it.
    pub folder: String,
    /// In one word.
    pub light: Light,
    /// Proved copies.
    pub copies: u32,
    /// How many there should be.
    pub copies_wanted: u32,
    /// When the youngest proof was given, in milliseconds since 1970.
    pub proved_at_ms: Option<u64>,
    /// Packs that are neither whole on this device nor known to be at a seeder.
    pub packs_lost: u64,
}

/// All folders' health.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HealthReport {
    /// One per folder.
    pub folders: Vec<FolderHealth>,
}

/// Judges what the daemon reports.
#[must_use]
pub fn of(status: &StatusReport) -> HealthReport {
    HealthReport { folders: status.folders.iter().map(judge).collect() }
}

fn judge(folder: &FolderReport) -> FolderHealth {
    let light = if folder.local.packs_lost > 0 {
        Light::Red
    } else if folder.copies_proved >= COPIES_WANTED {
        Light::Green
    } else if folder.copies_claimed >= COPIES_WANTED {
        Light::Amber
    } else {
        Light::Red
    };
    FolderHealth {
        folder: folder.name.clone(),
        light,
        copies: folder.copies_proved,
        copies_wanted: COPIES_WANTED,
        proved_at_ms: folder.proved_at_ms,
        packs_lost: folder.local.packs_lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::LocalReport;

    #[test]
    fn claimed_copy_is_amber_and_only_a_proved_one_is_green() {
        let folder = |copies_claimed, copies_proved| FolderReport {
            name: "photos".into(),
            id: String::new(),
            mount: None,
            local: LocalReport::default(),
            alarms: Vec::new(),
            seeders: Vec::new(),
            copies_claimed,
            copies_proved,
            proved_at_ms: None,
        };
        assert_eq!(judge(&folder(0, 0)).light, Light::Red);
        assert_eq!(judge(&folder(1, 0)).light, Light::Amber);
        assert_eq!(judge(&folder(1, 1)).light, Light::Green);
        let mut lost = folder(1, 1);
        lost.local.packs_lost = 1;
        assert_eq!(judge(&lost).light, Light::Red);
    }
}
