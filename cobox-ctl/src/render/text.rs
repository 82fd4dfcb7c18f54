//! Reports as text for people.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::health::{FolderHealth, HealthReport, Light};
use super::seeders::seeders;
use super::units::{bytes, counted, entries, name, packs, span, time};
use crate::report::{
    AlarmSettings, AlarmTest, ApiReport, ArriveReport, AuditReport, CheckReport, FolderReport, Holding,
    KeyReport, LeaveReport, PeerReport, PolicyOf, SeederAddReport, SeederRemoveReport, StatusReport,
    WaitReport,
};

/// Adds one line; writing to a `String` cannot fail.
macro_rules! line {
    ($text:expr, $($format:tt)*) => {
        writeln!($text, $($format)*).expect("writing to a String cannot fail")
    };
}

/// After `init`.
#[must_use]
pub fn init(home: &Path, words: Option<&Path>, no_passphrase: bool) -> String {
    let mut text = String::new();
    line!(text, "This device is set up in {}.", home.display());
    if let Some(words) = words {
        line!(
            text,
            "The 24 words are in {}. Put them where this machine's loss cannot reach them.",
            words.display()
        );
    }
    if no_passphrase {
        line!(text, "Its keys are locked with a key file: whoever can read this user's files can open them.");
    }
    line!(text, "Go on with `cobox-ctl folder create NAME`.");
    text
}

/// After `recover`.
#[must_use]
pub fn recovered(report: &ArriveReport) -> String {
    let mut text = String::new();
    if report.folders.is_empty() {
        line!(text, "The words are right, and this member has no folder yet.");
    }
    for folder in &report.folders {
        line!(
            text,
            "{}: {} here, {} of content is fetched as it is read.",
            folder.name,
            counted(folder.local.entries, "entry is", "entries are"),
            bytes(folder.local.pack_bytes)
        );
    }
    for name in &report.alone {
        line!(
            text,
            "{name} has no seeder, and no other device is connected: it is here as this device had it, and nobody was asked for more."
        );
    }
    line!(text, "Freshness is {}.", report.freshness);
    if let Some(folder) = report.folders.first() {
        line!(text, "Go on with `cobox-ctl mount {} DIR`.", folder.name);
    }
    text
}

/// `status`.
#[must_use]
pub fn status(report: &StatusReport) -> String {
    let mut text = format!("{} ({})\n", name(report.label.as_bytes()), report.peer_id);
    if report.folders.is_empty() {
        line!(text, "It has no folder yet: `cobox-ctl folder create NAME` makes one.");
    }
    for one in &report.folders {
        text += &folder(one);
    }
    text
}

/// `folder list`.
#[must_use]
pub fn folders(folders: &[FolderReport]) -> String {
    let mut text = String::new();
    for folder in folders {
        let place = folder
            .mount
            .as_ref()
            .filter(|mount| mount.problem.is_none())
            .map_or_else(|| "not mounted".to_owned(), |mount| mount.dir.display().to_string());
        line!(text, "{}  {}  {place}", folder.name, folder.id.get(..8).unwrap_or(&folder.id));
    }
    if folders.is_empty() {
        line!(text, "There is no folder yet: `cobox-ctl folder create NAME` makes one.");
    }
    text
}

/// `folder show`, and each folder of `status`.
#[must_use]
pub fn folder(folder: &FolderReport) -> String {
    let mut text = format!("\n{}\n", folder.name);
    match &folder.mount {
        None => line!(text, "  not mounted"),
        Some(mount) => {
            let (dir, how) = (mount.dir.display(), if mount.read_only { ", read-only" } else { "" });
            match &mount.problem {
                None => line!(text, "  mounted at {dir}{how}"),
                Some(problem) => line!(text, "  not mounted, and wanted at {dir}: {problem}"),
            }
        }
    }
    for alarm in &folder.alarms {
        line!(text, "  WRONG    {} {}", alarm.what, alarm.advice);
    }
    if let Some(count @ 1..) = folder.conflicts {
        line!(text, "  settle   {count}: `cobox-ctl conflicts {}` says what met", folder.name);
    }
    let local = &folder.local;
    line!(
        text,
        "  local    {} in {}, {}",
        bytes(local.pack_bytes),
        packs(local.packs),
        entries(local.entries)
    );
    let elsewhere = local.packs_missing.saturating_sub(local.packs_lost);
    if elsewhere > 0 {
        line!(
            text,
            "           {} elsewhere and fetched when read",
            counted(elsewhere, "pack is", "packs are")
        );
    }
    if local.packs_lost > 0 {
        line!(
            text,
            "           {} not whole here, and no seeder is known to hold it all",
            counted(local.packs_lost, "pack is", "packs are")
        );
    }
    if local.pending_ops > 0 || local.dirty_bytes > 0 {
        line!(
            text,
            "           {} and {} are not in an entry yet",
            counted(local.pending_ops, "change", "changes"),
            bytes(local.dirty_bytes)
        );
    }
    let late = if folder.copies_late > 0 { format!(" ({} late)", folder.copies_late) } else { String::new() };
    line!(
        text,
        "  copies   {} of {} proved{late}, {} claimed",
        folder.copies_proved,
        folder.copies_wanted,
        folder.copies_claimed
    );
    text += &seeders(&folder.seeders);
    text += &devices(&folder.devices);
    text
}

/// `peers`.
#[must_use]
pub fn peers(folders: &[FolderReport]) -> String {
    let mut text = String::new();
    for folder in folders {
        line!(text, "{}", folder.name);
        for seeder in &folder.seeders {
            let path = seeder.path.as_ref().map(|path| format!(", {path}")).unwrap_or_default();
            line!(text, "  seeder   {} ({}{path})", seeder.peer_id, seeder.link);
            if let Some(problem) = &seeder.problem {
                line!(text, "           {problem}");
            }
        }
        text += &devices(&folder.devices);
        if folder.seeders.is_empty() && folder.devices.is_empty() {
            line!(text, "  nobody else is known: `cobox-ctl folder invite` lets others in");
        }
    }
    text
}

/// The other devices of a folder.
fn devices(devices: &[PeerReport]) -> String {
    let mut text = String::new();
    for device in devices {
        let label = name(device.label.as_deref().unwrap_or("a device").as_bytes());
        let path = device.path.as_ref().map(|path| format!(", {path}")).unwrap_or_default();
        let rtt = device.rtt_ms.map(|rtt| format!(", {rtt} ms")).unwrap_or_default();
        let since = device.since_ms.map(|since| format!(", since {}", time(since))).unwrap_or_default();
        line!(text, "  device   {label} {} ({}{path}{rtt}{since})", device.peer_id, device.link);
        if let Some(problem) = device.problem.as_ref().filter(|_| device.link != "connected") {
            line!(text, "           {problem}");
        }
    }
    text
}

/// `seeder add`.
#[must_use]
pub fn seeder_added(report: &SeederAddReport) -> String {
    let state = match (report.gone_ms, report.link.as_str()) {
        (Some(gone_ms), _) => format!(
            "Its owner let this folder go: it takes nothing, and deletes what it has no earlier than {}, unless its owner accepts \
             the folder again (`cobox-seeder pending`, then `cobox-seeder accept`).",
            time(gone_ms)
        ),
        (None, "connected") => "It accepted, and receives everything from now on.".to_owned(),
        (None, _) => {
            "It was told; its owner has to accept the folder (`cobox-seeder pending`, then `cobox-seeder accept`)."
                .to_owned()
        }
    };
    format!("{} may store {} of {}. {state}\n", report.peer_id, bytes(report.quota_bytes), report.folder)
}

/// `seeder remove`.
#[must_use]
pub fn seeder_removed(report: &SeederRemoveReport) -> String {
    let told = if report.told {
        "It knows, and takes nothing more."
    } else {
        "It was not reached; the daemon tells it as soon as it is."
    };
    format!(
        "{} holds {} no longer: it counts as no copy and is not called any more. {told} It keeps what it has for at least 30 days by its own \
         clock; `seeder add` brings it back.\nOf {} wanted, {} left.\n",
        report.peer_id,
        report.folder,
        counted(report.copies_wanted.into(), "proved copy", "proved copies"),
        counted(report.copies_left.into(), "is", "are")
    )
}

/// `folder leave`.
#[must_use]
pub fn left(report: &LeaveReport) -> String {
    format!(
        "{} is removed from this device: {} and its keys. {} with seeders, and other devices keep what they \
         have. This device stays in the folder's list until an admin removes it (`cobox-ctl member list`), and the 24 words \
         still find the folder.\n",
        report.folder,
        bytes(report.removed_bytes),
        counted(report.copies_proved.into(), "proved copy is", "proved copies are")
    )
}

/// `seeder audit`.
#[must_use]
pub fn audited(report: &AuditReport) -> String {
    let mut text = String::new();
    for proof in &report.proofs {
        let verdict = match (&proof.problem, proof.holding) {
            (Some(problem), _) => problem.clone(),
            (None, Holding::Proved) => "it holds everything.".to_owned(),
            (None, _) => "it holds what it has, and lacks what is newer.".to_owned(),
        };
        line!(
            text,
            "{}: {} of {} proved; {verdict}",
            proof.peer_id,
            proof.proved,
            counted(proof.samples, "sample", "samples")
        );
    }
    text
}

/// `wait`.
#[must_use]
pub fn waited(report: &WaitReport) -> String {
    let mut text = String::new();
    let elapsed = Duration::from_millis(report.elapsed_ms);
    line!(
        text,
        "{}: {} of {} ({}), after {}.",
        report.folder,
        counted(report.copies_proved.into(), "proved copy", "proved copies"),
        bytes(report.pack_bytes),
        packs(report.packs),
        span(elapsed)
    );
    for proof in &report.seeders {
        line!(
            text,
            "  {}: {} of {} proved, {}",
            proof.peer_id,
            proof.proved,
            counted(proof.samples, "sample", "samples"),
            time(proof.time_ms)
        );
    }
    text
}

/// `check`.
#[must_use]
pub fn checked(report: &CheckReport) -> String {
    let mut text = String::new();
    for folder in &report.folders {
        let found = match folder.damage.len() {
            0 => "everything holds".to_owned(),
            1 => "1 thing is damaged".to_owned(),
            many => format!("{many} things are damaged"),
        };
        line!(
            text,
            "{}: {found}; {} and {} read ({}).",
            folder.name,
            entries(folder.entries),
            packs(folder.packs),
            bytes(folder.bytes)
        );
        if folder.packs_missing > 0 {
            let elsewhere = counted(folder.packs_missing, "pack is", "packs are");
            line!(text, "  {elsewhere} elsewhere, which is no damage.");
        }
        for damage in &folder.damage {
            line!(text, "  {damage}");
        }
    }
    text
}

/// `health`.
#[must_use]
pub fn health(report: &HealthReport) -> String {
    let mut text = String::new();
    for folder in &report.folders {
        let light = match folder.light {
            Light::Green => "green",
            Light::Amber => "amber",
            Light::Red => "red",
        };
        let proved = folder
            .proved_at_ms
            .map_or_else(|| "never proved".to_owned(), |ms| format!("{} {}", proved_word(folder), time(ms)));
        line!(
            text,
            "{}: {light}, {} of {} proved, {proved}",
            folder.folder,
            folder.copies,
            counted(folder.copies_wanted.into(), "copy", "copies")
        );
        if folder.light != Light::Green {
            folder.missing.iter().for_each(|seeder| line!(text, "  {seeder}"));
        }
        if folder.packs_lost > 0 {
            line!(
                text,
                "  {} not whole here, and no seeder is known to hold it all",
                counted(folder.packs_lost, "pack is", "packs are")
            );
        }
    }
    text
}

/// What is said of the newest proof: where no copy counts now, it is one of what there was then.
fn proved_word(folder: &FolderHealth) -> &'static str {
    if folder.copies == 0 { "last proof" } else { "proved" }
}

/// `folder set`.
#[must_use]
pub fn folder_set(folder: &FolderReport) -> String {
    let whose = match folder.policy_of {
        PolicyOf::Folder => ", for all its members",
        PolicyOf::Device => ", for this device alone",
        PolicyOf::Nobody => "",
    };
    format!(
        "{} should have {}{whose}; a proof counts for {}. It has {} now.\n",
        folder.name,
        counted(folder.copies_wanted.into(), "proved copy", "proved copies"),
        span(Duration::from_millis(folder.tolerance_ms)),
        folder.copies_proved
    )
}

/// `alarm show`, and after `alarm set`.
#[must_use]
pub fn alarm(settings: &AlarmSettings) -> String {
    let mut text = String::new();
    let after = span(Duration::from_millis(settings.after_ms));
    line!(text, "Trouble that lasts {after} is told in the log and in `cobox-ctl status`");
    if let Some(program) = &settings.program {
        line!(text, "  and to the program {}", program.display());
    }
    if let Some(url) = &settings.url {
        line!(text, "  and to {url}");
    }
    if let Some(mail) = &settings.mail {
        line!(text, "  and by e-mail to {mail}");
    }
    text
}

/// `alarm test`.
#[must_use]
pub fn alarm_tested(report: &AlarmTest) -> String {
    let mut text = alarm(&report.settings);
    for problem in &report.problems {
        line!(text, "It did not work: {problem}.");
    }
    if report.problems.is_empty() {
        line!(text, "The test was delivered everywhere.");
    }
    text
}

/// `api`.
#[must_use]
pub fn api(report: &ApiReport) -> String {
    let mut text = format!("The HTTP API answers on the socket {}\n", report.socket.display());
    match (&report.listen, &report.token_file) {
        (Some(address), Some(file)) => {
            text += &format!("and at http://{address}/ for who shows the token in {}\n", file.display());
        }
        _ => text += "and on no address; `cobox-ctl api listen 127.0.0.1:7741` gives it one.\n",
    }
    text
}

/// `key show`.
#[must_use]
pub fn keys(report: &KeyReport) -> String {
    let mut text = format!("{} ({})\n", name(report.label.as_bytes()), report.peer_id);
    line!(text, "  locked with a {}", report.unlock.replace('-', " "));
    for folder in &report.folders {
        line!(text, "  {}: device key {}, folder {}", folder.name, folder.log, folder.id);
    }
    line!(text, "These are public. The 24 words are not on this device: nobody can show them again.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_that_was_proved_once_is_not_said_to_be_never_proved() {
        let said = |proved_at_ms: Option<u64>| {
            let folder = FolderHealth {
                folder: "docs".to_owned(),
                light: Light::Red,
                copies: 0,
                copies_late: 0,
                copies_wanted: 1,
                tolerance_ms: 1,
                proved_at_ms,
                packs_lost: 0,
                missing: Vec::new(),
            };
            health(&HealthReport { folders: vec![folder] })
        };
        assert!(said(None).contains("never proved"), "{}", said(None));
        assert!(said(Some(0)).contains("last proof 1970"), "{}", said(Some(0)));
    }
}
