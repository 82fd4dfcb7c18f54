//! `doctor`: what is wrong on this machine, and what to do about it. It changes nothing and starts nothing.

use std::path::Path;

use serde::Serialize;

use super::alive::is_answering;
use super::secrets::PassphraseFrom;
use crate::control::Request;
use crate::paths::Paths;
use crate::render::units;
use crate::report::{FolderReport, Holding, StatusReport};

/// Below this a few large writes fill the disk.
const DISK_LOW_BYTES: u64 = 1 << 30;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub what: String,
    pub well: bool,
    /// What to do; empty where all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// All that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub findings: Vec<Finding>,
    pub log: std::path::PathBuf,
}

impl Report {
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.well)
    }

    fn good(&mut self, what: impl Into<String>) {
        self.findings.push(Finding { what: what.into(), well: true, advice: String::new() });
    }

    fn bad(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.findings.push(Finding { what: what.into(), well: false, advice: advice.into() });
    }
}

/// Looks at the machine, the device, the daemon and the folders.
pub(crate) fn examine(paths: &Paths) -> Report {
    let mut report = Report { findings: Vec::new(), log: paths.log_file() };
    machine(&mut report);
    if !paths.has_device() {
        report.bad(
            format!("There is no device at {}.", paths.home.display()),
            "Set one up with `cobox-ctl init --label NAME`, or get everything back with `cobox-ctl recover`.",
        );
        return report;
    }
    report.good(format!("There is a device at {}.", paths.home.display()));
    match is_answering(paths) {
        Ok(true) => report.good("The daemon is running."),
        Ok(false) => {
            report.bad(
                "The daemon is not running, so nothing is mounted or sent.",
                "Start it with `cobox-ctl daemon start`.",
            );
            return report;
        }
        Err(problem) => {
            report.bad(problem.message, problem.hint);
            return report;
        }
    }
    let from = PassphraseFrom::Prompt;
    match super::client::ask::<StatusReport>(paths, from, &Request::Status { folder: None }, &mut |_| ()) {
        Ok(status) => folders(&mut report, &status),
        Err(problem) => report.bad(problem.message, problem.hint),
    }
    report
}

fn machine(report: &mut Report) {
    if Path::new("/dev/fuse").exists() {
        report.good("The kernel can mount with FUSE.");
    } else {
        report.bad(
            "There is no /dev/fuse, so nothing can be mounted.",
            "Load the kernel module (`modprobe fuse`), or give the container `--device /dev/fuse`.",
        );
    }
    let root = rustix::process::geteuid().is_root();
    let helper = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("fusermount3").exists()));
    // fusermount3 mounts for others, but they open the device themselves.
    let denied = std::fs::File::options().read(true).write(true).open("/dev/fuse").err();
    let denied = denied.filter(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    if denied.is_some() {
        report.bad(
            "This user may not open /dev/fuse, so it can mount nothing.",
            "Let it: `chmod 666 /dev/fuse` is what distributions set; a container needs `--device /dev/fuse`.",
        );
    } else if root || helper {
        report.good("This user can mount.");
    } else {
        report
            .bad("fusermount3 is missing, without which only root can mount.", "Install the package fuse3.");
    }
}

fn folders(report: &mut Report, status: &StatusReport) {
    if status.disk_free_bytes < DISK_LOW_BYTES {
        report.bad(
            format!("The disk of the store has only {} left.", units::bytes(status.disk_free_bytes)),
            "Free some space: writes to the mount fail when it is full.",
        );
    } else {
        report.good(format!("The disk of the store has {} left.", units::bytes(status.disk_free_bytes)));
    }
    for folder in &status.folders {
        one_folder(report, folder);
    }
}

fn one_folder(report: &mut Report, folder: &FolderReport) {
    let name = &folder.name;
    if let Some(mount) = &folder.mount
        && let Some(problem) = &mount.problem
    {
        report.bad(
            format!("{name} should be mounted at {}: {problem}", mount.dir.display()),
            "Mount it again with `cobox-ctl mount`, or forget it with `cobox-ctl umount`.",
        );
    }
    for alarm in &folder.alarms {
        report.bad(format!("{name}: {}", alarm.what), alarm.advice.clone());
    }
    if folder.local.packs_lost > 0 {
        report.bad(
            format!(
                "{name}: {} not whole on this machine, and no seeder is known to hold it all.",
                units::counted(folder.local.packs_lost, "pack is", "packs are")
            ),
            "Connect a seeder or a device that has them; if there is none, look at the disk's health and copy away what can still be read.",
        );
    }
    if folder.seeders.is_empty() {
        report.bad(
            format!("{name} has no seeder: everything in it is on this machine only."),
            format!("Add one with `cobox-ctl seeder add {name} ADDR --quota 50G`."),
        );
    }
    for seeder in &folder.seeders {
        let short: String = seeder.peer_id.chars().take(16).collect();
        let problem = seeder.problem.clone().unwrap_or_default();
        if seeder.link != "connected" {
            report.bad(
                format!("{name}: seeder {short}… is {}. {problem}", seeder.link),
                "Check that it is running, that nothing blocks its address, and that its owner accepted the folder.",
            );
        } else if !problem.is_empty() {
            report
                .bad(format!("{name}: seeder {short}…: {problem}"), "Ask its owner, or add another seeder.");
        } else if seeder.holding == Holding::Late {
            report.bad(
                format!("{name}: the last proof of seeder {short}… is old."),
                format!("Challenge it with `cobox-ctl seeder audit {name}`."),
            );
        } else if seeder.holding == Holding::Proved {
            report.good(format!("{name}: seeder {short}… proved its copy."));
        } else {
            report.good(format!("{name}: seeder {short}… is connected, and its copy is on its way."));
        }
    }
}

/// For people.
pub(crate) fn text(report: &Report) -> String {
    let mut lines = String::new();
    for finding in &report.findings {
        lines += &format!("{}  {}\n", if finding.well { "ok    " } else { "WRONG " }, finding.what);
        if !finding.advice.is_empty() {
            lines += &format!("        {}\n", finding.advice);
        }
    }
    lines += &format!("The daemon's log is {}.\n", report.log.display());
    lines
}
