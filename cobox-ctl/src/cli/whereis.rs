//! `whereis`: where the bytes of one file are, as the mount itself says.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::exit::{Outcome, Problem};
use crate::report::{Holding, StatusReport};

/// More than any value that the mount gives.
const XATTR_BYTES_MAX: usize = 256;

/// Where one file is.
#[derive(Debug, Serialize)]
pub(crate) struct WhereReport {
    pub path: PathBuf,
    pub folder: String,
    /// `local`, `on its way`, `proved` or `elsewhere`.
    pub state: String,
    /// Proved copies of this file.
    pub copies: u32,
    pub proved_at: Option<String>,
    /// Seeders that proved they hold all of the folder.
    pub seeders: Vec<String>,
}

pub(crate) fn of(path: &Path, status: &StatusReport) -> Outcome<WhereReport> {
    let folder = status.folders.iter().find(|folder| {
        folder.mount.as_ref().is_some_and(|mount| mount.problem.is_none() && path.starts_with(&mount.dir))
    });
    let folder = folder.ok_or_else(|| {
        Problem::failed_with(
            format!("{} is not inside a mounted folder.", path.display()),
            "`cobox-ctl status` shows what is mounted where.",
        )
    })?;
    let state = xattr(path, "user.cobox.state").ok_or_else(|| {
        let error =
            std::fs::symlink_metadata(path).err().map(|error| format!(": {error}")).unwrap_or_default();
        Problem::failed_with(
            format!("The mount says nothing about {}{error}.", path.display()),
            "Check the path.",
        )
    })?;
    let proved = folder.seeders.iter().filter(|seeder| seeder.holding == Holding::Proved);
    Ok(WhereReport {
        path: path.to_path_buf(),
        folder: folder.name.clone(),
        state,
        copies: xattr(path, "user.cobox.copies").and_then(|text| text.parse().ok()).unwrap_or(0),
        proved_at: xattr(path, "user.cobox.proved_at"),
        seeders: proved.map(|seeder| seeder.peer_id.clone()).collect(),
    })
}

fn xattr(path: &Path, name: &str) -> Option<String> {
    let mut value = [0u8; XATTR_BYTES_MAX];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(value.get(..len)?).into_owned())
}

pub(crate) fn text(report: &WhereReport) -> String {
    let mut lines = format!("{}\n  folder {}, {}\n", report.path.display(), report.folder, report.state);
    let proved = report.proved_at.as_ref().map(|time| format!(", the last at {time}")).unwrap_or_default();
    lines += &format!("  proved copies: {}{proved}\n", report.copies);
    for seeder in &report.seeders {
        lines += &format!("    {seeder}\n");
    }
    lines
}
