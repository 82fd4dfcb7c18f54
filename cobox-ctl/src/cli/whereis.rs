//! `whereis`: who holds the bytes of one file, as the mount itself says.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde::Serialize;

use crate::conflicts::{bytes_of, text_and_hex};
use crate::exit::{Outcome, Problem};
use crate::render::units::{name, time};
use crate::report::{FolderReport, StatusReport};

/// 64 seeders, each with its id and a time.
const XATTR_BYTES_MAX: usize = 8192;

/// Where one file is.
#[derive(Debug, Serialize)]
pub(crate) struct WhereReport {
    /// Bytes that are no UTF-8 are replaced.
    pub path: String,
    /// The bytes of the path in hex, where it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    pub folder: String,
    /// `local`, `on its way`, `proved` or `elsewhere`.
    pub state: String,
    /// Proved copies of this file.
    pub copies: u32,
    /// How many the folder should have.
    pub copies_wanted: u32,
    pub proved_at: Option<String>,
    /// Peer ids of those who proved it.
    pub seeders: Vec<String>,
    /// The same with the time of each one's last proof, and those who do not count.
    pub holders: Vec<HolderReport>,
}

/// A seeder of the file's folder.
#[derive(Debug, Serialize)]
pub(crate) struct HolderReport {
    pub peer_id: String,
    /// Whether it proved this file, in a proof that counts.
    pub proved: bool,
    /// When it proved it, or whatever it last proved of the folder; milliseconds since 1970.
    pub proved_at_ms: Option<u64>,
    /// `connected`, `offline` and so on.
    pub link: String,
    /// Where it stands, as agreed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Who runs it, as agreed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organisation: Option<String>,
}

/// Finds the folder of `path`, which is absolute, with a last part that may be a symbolic link.
pub(crate) fn of(path: &Path, status: &StatusReport) -> Outcome<WhereReport> {
    let folder = folder_of(path, status).ok_or_else(|| not_inside(path, status))?;
    // The kernel gives `user.*` attributes of files and directories only: a link lies in the folder's
    // entries, and is held where all of the folder is.
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink()) {
        return Ok(link_report(path, folder));
    }
    let state = xattr(path, "user.cobox.state").ok_or_else(|| {
        let error =
            std::fs::symlink_metadata(path).err().map(|error| format!(": {error}")).unwrap_or_default();
        Problem::failed_with(
            format!("The mount says nothing about {}{error}.", path.display()),
            "Check the path.",
        )
    })?;
    let proved = holders(&xattr(path, "user.cobox.holders").unwrap_or_default());
    Ok(report(path, folder, state, &proved))
}

fn folder_of<'a>(path: &Path, status: &'a StatusReport) -> Option<&'a FolderReport> {
    status.folders.iter().find(|folder| {
        folder.mount.as_ref().is_some_and(|mount| mount.problem.is_none() && path.starts_with(&mount.dir))
    })
}

fn not_inside(path: &Path, status: &StatusReport) -> Problem {
    let target = std::fs::canonicalize(path).ok().filter(|target| target != path);
    match target.filter(|target| folder_of(target, status).is_some()) {
        Some(target) => Problem::failed_with(
            format!("{} is a symbolic link outside of every mounted folder.", path.display()),
            format!("Ask for what it points at: {}", target.display()),
        ),
        None => Problem::failed_with(
            format!("{} is not inside a mounted folder.", path.display()),
            "`cobox-ctl status` shows what is mounted where.",
        ),
    }
}

fn link_report(path: &Path, folder: &FolderReport) -> WhereReport {
    let proved: Vec<(String, u64)> = folder
        .seeders
        .iter()
        .filter(|seeder| seeder.holding.is_proved())
        .filter_map(|seeder| Some((seeder.peer_id.clone(), seeder.proved_at_ms?)))
        .collect();
    let state = if proved.is_empty() { "on its way" } else { "proved" };
    report(path, folder, state.to_owned(), &proved)
}

/// Reads what the mount says: a peer id and a time on each line.
fn holders(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(peer_id, ms)| Some((peer_id.to_owned(), ms.parse().ok()?)))
        .collect()
}

fn report(path: &Path, folder: &FolderReport, state: String, proved: &[(String, u64)]) -> WhereReport {
    let (path, path_hex) = text_and_hex(path.as_os_str().as_bytes());
    let holders = folder.seeders.iter().map(|seeder| {
        let own = proved.iter().find(|(peer_id, _)| *peer_id == seeder.peer_id).map(|(_, ms)| *ms);
        HolderReport {
            peer_id: seeder.peer_id.clone(),
            proved: own.is_some(),
            proved_at_ms: own.or(seeder.proved_at_ms),
            link: seeder.link.clone(),
            place: seeder.place.clone(),
            organisation: seeder.organisation.clone(),
        }
    });
    WhereReport {
        path,
        path_hex,
        folder: folder.name.clone(),
        state,
        copies: u32::try_from(proved.len()).unwrap_or(u32::MAX),
        copies_wanted: folder.copies_wanted,
        proved_at: proved.iter().map(|(_, ms)| *ms).max().map(time),
        seeders: proved.iter().map(|(peer_id, _)| peer_id.clone()).collect(),
        holders: holders.collect(),
    }
}

fn xattr(path: &Path, name: &str) -> Option<String> {
    let mut value = [0u8; XATTR_BYTES_MAX];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(value.get(..len)?).into_owned())
}

pub(crate) fn text(report: &WhereReport) -> String {
    let mut lines = format!(
        "{}\n  folder {}, {}\n",
        name(&bytes_of(&report.path, report.path_hex.as_deref())),
        report.folder,
        report.state
    );
    lines += &format!("  {} of {} copies proved\n", report.copies, report.copies_wanted);
    for holder in &report.holders {
        let when = holder.proved_at_ms.map(time);
        let words = match (holder.proved, when) {
            (true, Some(when)) => format!("proved {when}"),
            (_, Some(when)) => format!("no proof of this file that counts; its last proof was {when}"),
            (_, None) => "never proved".to_owned(),
        };
        let said = [&holder.organisation, &holder.place];
        let whereabouts: String = said.into_iter().flatten().map(|text| format!("{text}, ")).collect();
        lines += &format!("    {} ({whereabouts}{}): {words}\n", holder.peer_id, holder.link);
    }
    lines
}
