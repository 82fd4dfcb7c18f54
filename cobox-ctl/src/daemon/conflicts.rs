//! What devices did at the same time: listed with who and when, and settled.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use cobox_fs::vfs::{Conflict, Errno, Keep, Vfs, VfsOptions, What};
use cobox_store::blind::Access;
use cobox_store::id::OpId;

use super::Daemon;
use super::folder::FolderState;
use crate::conflicts::{
    Act, ConflictKind, ConflictReport, ConflictsReport, FolderConflicts, KeepHow, KeepReport, text_and_hex,
};
use crate::exit::{Outcome, Problem};

impl Daemon {
    /// The conflicts of the chosen folders.
    pub fn conflicts(&self, folder: Option<&str>) -> Outcome<ConflictsReport> {
        let folders = self.chosen(folder)?;
        let folders = folders.iter().map(|state| state.with_tree(|vfs| state.conflicts(vfs)));
        Ok(ConflictsReport { folders: folders.collect::<Outcome<_>>()? })
    }

    /// Settles the conflict at an absolute path inside a mount.
    pub fn conflict_keep(&self, path: &[u8], how: KeepHow) -> Outcome<KeepReport> {
        let path = Path::new(OsStr::from_bytes(path));
        if !path.is_absolute() {
            return Err(Problem::usage(format!("{path:?} is not an absolute path."), ""));
        }
        let mounted = self.folders().into_iter().find_map(|state| {
            let (vfs, report) = (state.vfs()?, state.mount_report()?);
            let inside = path.strip_prefix(&report.dir).ok()?.to_path_buf();
            Some((state, vfs, inside))
        });
        let (state, vfs, inside) = mounted.ok_or_else(|| {
            Problem::missing(
                format!("{} is in no mounted folder of this device.", path.display()),
                "Mount the folder, and name the file by its path in the mount; `cobox-ctl status` shows the mounts.",
            )
        })?;
        let keep = match how {
            KeepHow::This => Keep::This,
            KeepHow::Both => Keep::Both,
        };
        let changes =
            vfs.keep_conflict(inside.as_os_str().as_bytes(), keep).map_err(|errno| refused(errno, path))?;
        let (path, path_hex) = text_and_hex(inside.as_os_str().as_bytes());
        Ok(KeepReport { folder: state.folder.name(), path, path_hex, kept: how, changes: changes as u64 })
    }
}

fn refused(errno: Errno, path: &Path) -> Problem {
    let path = path.display();
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => Problem::missing(
            format!("There is no {path} in the folder."),
            "`cobox-ctl conflicts` lists the names.",
        ),
        Errno::EISDIR | Errno::ENOTEMPTY => Problem::refused(
            format!(
                "A directory has the same name as {path}, and a directory is not removed to settle a conflict."
            ),
            "Keep all of them with --both, or move things yourself.",
        ),
        Errno::EROFS => Problem::refused(
            "This device may not change the folder, or the mount is read-only.",
            "Settle it on a device that may write.",
        ),
        other => other.into(),
    }
}

impl FolderState {
    /// Asks the tree; of a folder that is not mounted it is opened for as long.
    pub(super) fn with_tree<R>(&self, ask: impl FnOnce(&Vfs) -> Outcome<R>) -> Outcome<R> {
        let _turn = self.turn()?;
        let vfs = match self.vfs() {
            Some(vfs) => vfs,
            None => {
                let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
                Vfs::open(Arc::clone(&self.folder), VfsOptions { uid, gid, read_only: true })?
            }
        };
        ask(&vfs)
    }

    /// How many conflicts are open; `None` while it is not mounted.
    pub fn conflicts_open(&self) -> Outcome<Option<u64>> {
        match self.vfs() {
            Some(vfs) => Ok(Some(vfs.conflicts()?.len() as u64)),
            None => Ok(None),
        }
    }

    /// The conflicts of a tree, with who and when.
    pub fn conflicts(&self, vfs: &Vfs) -> Outcome<FolderConflicts> {
        let access = self.folder.store().access(self.no())?;
        let who = Who { state: self, access: &access };
        let conflicts = vfs.conflicts()?.iter().map(|conflict| who.report(conflict)).collect();
        Ok(FolderConflicts { folder: self.folder.name(), conflicts })
    }
}

struct Who<'a> {
    state: &'a FolderState,
    access: &'a Access,
}

impl Who<'_> {
    fn act(&self, act: &str, by: OpId) -> Act {
        let device = self.access.devices.iter().find(|(log, _)| log.number() == by.log);
        let label = self.state.folder.label_of_number(by.log);
        Act {
            act: act.to_owned(),
            name: None,
            name_hex: None,
            bytes: None,
            device: label.unwrap_or_else(|| "a device that is no longer here".to_owned()),
            member: device.map(|(_, device)| device.member.to_hex()),
            at_ms: by.unix_ms(),
        }
    }

    /// The same about something that has a name.
    fn act_on(&self, act: &str, by: OpId, name: &[u8]) -> Act {
        let (name, name_hex) = text_and_hex(name);
        Act { name: Some(name), name_hex, ..self.act(act, by) }
    }

    fn report(&self, conflict: &Conflict) -> ConflictReport {
        let (path, path_hex) = text_and_hex(&conflict.path);
        let (kind, what, acts) = match &conflict.what {
            What::Versions(versions) => {
                let act = |version: &cobox_fs::vfs::VersionOf| Act {
                    bytes: Some(version.bytes),
                    ..self.act_on("wrote", version.by, &version.name)
                };
                let what = format!("{} versions of it were written at the same time", versions.len());
                (ConflictKind::Versions, what, versions.iter().map(act).collect())
            }
            What::Names(named) => {
                let act = |named: &cobox_fs::vfs::Named| {
                    let made = if named.is_dir { "put a directory there" } else { "put it there" };
                    self.act_on(made, named.by, &named.name)
                };
                let what = format!("{} things were given this name at the same time", named.len());
                (ConflictKind::Names, what, named.iter().map(act).collect())
            }
            What::MoveSkipped { by, wanted } => {
                let what = format!(
                    "it was not moved to {}, which was moved below it at the same time",
                    cobox_net::shown::name(wanted)
                );
                (ConflictKind::MoveSkipped, what, vec![self.act_on("moved it", *by, wanted)])
            }
            What::FileCameBack { removed, changed } => {
                let wrote = changed.iter().map(|by| self.act("wrote", *by));
                let acts = std::iter::once(self.act("removed it", *removed)).chain(wrote).collect();
                let what = "it was removed and changed at the same time, and the change was kept".to_owned();
                (ConflictKind::FileCameBack, what, acts)
            }
            What::DirReturned { removed } => {
                let what =
                    "it was removed while something was put into it, and is there again for that".to_owned();
                (ConflictKind::DirectoryReturned, what, vec![self.act("removed it", *removed)])
            }
        };
        ConflictReport { path, path_hex, kind, what, acts }
    }
}
