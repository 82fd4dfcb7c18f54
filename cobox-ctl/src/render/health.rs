//! Health of a folder: how many copies are proved, how many there should be, and how old the proofs are.
//!
//! The exit codes are for cron and monitoring: 0 all green, 3 something amber (not proved yet, or not in time), 1 something
//! red (fewer copies than there should be, or this device was removed), 5 something lost.

use serde::{Deserialize, Serialize};

use super::units::time;
use crate::exit::Exit;
use crate::report::{FolderReport, Holding, SeederReport, StatusReport};

const REMOVED: &str =
    "this device was removed: nothing new reaches it, and what is written here is sent to nobody";

/// A colour that says how sure the copies are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Light {
    /// Enough copies are proved.
    Green,
    /// Enough copies are claimed, or were proved until minutes ago; not all are proved now, or their proofs are late.
    Amber,
    /// Too few, or a pack is whole nowhere that is known, or this device was removed.
    Red,
}

/// One folder's health.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct FolderHealth {
    /// What the member calls it.
    pub folder: String,
    /// In one word.
    pub light: Light,
    /// Copies that are proved, in proofs that count.
    pub copies: u32,
    /// Those of them whose proof should have been renewed by now.
    pub copies_late: u32,
    /// How many there should be.
    pub copies_wanted: u32,
    /// How long a proof counts, in milliseconds.
    pub tolerance_ms: u64,
    /// When the newest proof was given, in milliseconds since 1970, also where it does not count now; null when there is
    /// none.
    pub proved_at_ms: Option<u64>,
    /// Packs that are neither whole on this device nor known to be at a seeder.
    pub packs_lost: u64,
    /// Seeders that do not count now, and why; and that this device was removed.
    pub missing: Vec<String>,
}

/// All folders' health.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct HealthReport {
    /// One per folder.
    pub folders: Vec<FolderHealth>,
}

impl HealthReport {
    /// The worst of all folders, as an exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let worst = self.folders.iter().map(|folder| folder.light).max().unwrap_or(Light::Green);
        match worst {
            _ if self.folders.iter().any(|folder| folder.packs_lost > 0) => Exit::Damaged,
            Light::Red => Exit::Failed,
            Light::Amber => Exit::NotReached,
            Light::Green => Exit::Done,
        }
    }
}

/// Judges what the daemon reports.
#[must_use]
pub fn of(status: &StatusReport) -> HealthReport {
    HealthReport { folders: status.folders.iter().map(judge).collect() }
}

/// Seeders of whose copies a device that does not have everything itself can say nothing: after a recovery it has no
/// proof of theirs, and what it lacks lies with them.
fn unheard(folder: &FolderReport) -> u32 {
    if folder.local.packs_missing == 0 {
        return 0;
    }
    u32::try_from(folder.seeders.iter().filter(|seeder| is_unheard(seeder)).count()).unwrap_or(u32::MAX)
}

fn is_unheard(seeder: &SeederReport) -> bool {
    let is_away = matches!(seeder.link.as_str(), "offline" | "connecting");
    seeder.holding == Holding::Behind && is_away && seeder.proved_at_ms.is_none()
}

/// Seeders that are no copy now, and of which it is too soon to say that there should be one more.
fn on_their_way(folder: &FolderReport) -> u32 {
    let syncing = folder.seeders.iter().filter(|seeder| seeder.holding == Holding::Syncing).count();
    unheard(folder).saturating_add(u32::try_from(syncing).unwrap_or(u32::MAX))
}

/// Judges one folder.
#[must_use]
pub fn judge(folder: &FolderReport) -> FolderHealth {
    let fresh = folder.copies_proved.saturating_sub(folder.copies_late);
    let light = if folder.local.packs_lost > 0 || folder.removed {
        Light::Red
    } else if fresh >= folder.copies_wanted {
        Light::Green
    } else if folder.copies_claimed.saturating_add(on_their_way(folder)) >= folder.copies_wanted {
        Light::Amber
    } else {
        Light::Red
    };
    let gone = |seeder: &SeederReport| {
        let when = seeder.gone_ms.map(|ms| format!(" no earlier than {}", time(ms))).unwrap_or_default();
        format!("its owner let the folder go, and what it has is deleted{when}")
    };
    let why = |seeder: &SeederReport| match seeder.holding {
        Holding::Proved | Holding::LetGo => None,
        Holding::Late => Some("its proof should have been renewed"),
        Holding::Claimed => Some("it says that it holds everything, and has not proved it yet"),
        Holding::Following => {
            Some("it proved what there was a moment ago, and not yet what was written since")
        }
        Holding::Syncing if seeder.link == "connected" => {
            Some("it proved what there was until minutes ago, and what was written since is on its way to it")
        }
        Holding::Syncing => Some(
            "it proved what there was until minutes ago, and is not reached now: what was written since waits for it",
        ),
        Holding::Expired => Some("its last proof is too old to count"),
        Holding::Behind if seeder.link == "connected" && !seeder.told => {
            Some("it has not told yet what it lacks")
        }
        Holding::Behind if is_unheard(seeder) => {
            Some("it is not reached, and has proved nothing to this device yet")
        }
        Holding::Behind => Some("it lacks something"),
    };
    let missing = folder.seeders.iter().filter_map(|seeder| {
        let whereabouts = seeder.whereabouts();
        let at = if whereabouts.is_empty() { String::new() } else { format!("{whereabouts}, ") };
        let let_go = (seeder.holding == Holding::LetGo).then(|| gone(seeder));
        let why = why(seeder).map(str::to_owned).or(let_go);
        why.map(|why| format!("{} ({at}{}): {why}", seeder.peer_id, seeder.link))
    });
    let removed = folder.removed.then(|| REMOVED.to_owned());
    FolderHealth {
        folder: folder.name.clone(),
        light,
        copies: folder.copies_proved,
        copies_late: folder.copies_late,
        copies_wanted: folder.copies_wanted,
        tolerance_ms: folder.tolerance_ms,
        proved_at_ms: folder.proved_at_ms,
        packs_lost: folder.local.packs_lost,
        missing: removed.into_iter().chain(missing).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::LocalReport;

    fn folder(copies_claimed: u32, copies_proved: u32, copies_late: u32) -> FolderReport {
        FolderReport {
            conflicts: None,
            name: "photos".into(),
            id: String::new(),
            removed: false,
            mount: None,
            local: LocalReport::default(),
            devices: Vec::new(),
            seeders: Vec::new(),
            copies_claimed,
            copies_proved,
            copies_late,
            copies_wanted: 2,
            policy_of: crate::report::PolicyOf::Nobody,
            tolerance_ms: 1,
            alarms: Vec::new(),
            proved_at_ms: None,
        }
    }

    #[test]
    fn copy_that_lacks_what_was_just_written_is_amber_and_no_copy() {
        let seeder = |holding: &str, link: &str| -> SeederReport {
            serde_json::from_value(serde_json::json!({
                "peer_id": "12D3", "address": "", "quota_bytes": 1, "until_ms": 0, "link": link, "rtt_ms": null,
                "path": null, "entries_behind": 1, "packs_to_send": 0, "bytes_to_send": 0, "bytes_sent": 0, "rate": 0,
                "holding": holding, "proved_at_ms": 5,
            }))
            .expect("a report")
        };
        let of = |holding| FolderReport { seeders: vec![seeder(holding, "offline")], ..folder(1, 1, 0) };
        let health = judge(&of("syncing"));
        assert_eq!((health.light, health.copies), (Light::Amber, 1), "{health:?}");
        assert!(health.missing[0].contains("waits for it"), "{health:?}");
        assert_eq!(judge(&of("behind")).light, Light::Red);
        let none = FolderReport { seeders: vec![seeder("syncing", "offline")], ..folder(0, 0, 0) };
        assert_eq!(judge(&none).light, Light::Red, "one is missing beside it");
    }

    #[test]
    fn claimed_or_late_copy_is_amber_and_only_a_proved_one_is_green() {
        assert_eq!(judge(&folder(1, 1, 0)).light, Light::Red);
        assert_eq!(judge(&folder(2, 1, 0)).light, Light::Amber);
        assert_eq!(judge(&folder(2, 2, 0)).light, Light::Green);
        assert_eq!(judge(&folder(2, 2, 1)).light, Light::Amber);
        let mut lost = folder(2, 2, 0);
        lost.local.packs_lost = 1;
        assert_eq!(judge(&lost).light, Light::Red);
        let removed = FolderReport { removed: true, ..folder(2, 2, 0) };
        assert_eq!((judge(&removed).light, judge(&removed).missing.len()), (Light::Red, 1));
    }

    #[test]
    fn exit_code_is_that_of_the_worst_folder() {
        let exit =
            |folders: &[FolderReport]| HealthReport { folders: folders.iter().map(judge).collect() }.exit();
        let (green, amber, red) = (folder(2, 2, 0), folder(2, 1, 0), folder(0, 0, 0));
        let mut lost = folder(2, 2, 0);
        lost.local.packs_lost = 1;
        assert_eq!(exit(&[]), Exit::Done);
        assert_eq!(exit(std::slice::from_ref(&green)), Exit::Done);
        assert_eq!(exit(&[green.clone(), amber.clone()]), Exit::NotReached);
        assert_eq!(exit(&[red.clone(), amber]), Exit::Failed);
        assert_eq!(exit(&[green, lost, red]), Exit::Damaged);
    }

    #[test]
    fn device_that_recovered_and_reaches_nobody_is_amber_and_not_damaged() {
        let seeder: SeederReport = serde_json::from_value(serde_json::json!({
            "peer_id": "12D3", "address": "", "quota_bytes": 1, "until_ms": 0, "link": "offline", "rtt_ms": null, "path": null,
            "entries_behind": 9, "packs_to_send": 0, "bytes_to_send": 0, "bytes_sent": 0, "rate": 0, "holding": "behind",
            "proved_at_ms": null,
        }))
        .expect("a report");
        let mut alone = folder(0, 0, 0);
        alone.seeders = vec![seeder.clone(), seeder];
        assert_eq!(
            judge(&alone).light,
            Light::Red,
            "everything is here, and they have nothing that is known"
        );
        alone.local.packs_missing = 3;
        let health = judge(&alone);
        assert_eq!(health.light, Light::Amber);
        assert!(health.missing[0].contains("not reached"), "{health:?}");
        // One that proved something once, and nothing newer, is behind.
        alone.seeders[0].proved_at_ms = Some(1);
        assert_eq!(judge(&alone).light, Light::Red);
    }
}
