//! Which directories may become a mount point, and what a crash has left on them.

use std::io;
use std::path::{Path, PathBuf};

use super::attach;
use super::error::MountError;
use super::table;

/// The type under which the kernel lists our mounts.
pub const FS_TYPE: &str = "fuse.cobox";

/// Symbolic links followed in the last component of a mount point, as many as the kernel follows.
const SYMLINKS_MAX: usize = 40;

/// Says whether `dir` can be mounted upon: an existing, empty directory with nothing mounted on it.
/// It never looks at the inside of a mount, so a dead one cannot hang it.
///
/// # Errors
/// `Missing`, `NotADirectory`, `NotEmpty`, `AlreadyMounted`, `NoPermission` or `Os`.
pub fn check_mount_point(dir: &Path) -> Result<(), MountError> {
    let dir = resolve(dir)?;
    if let Some(row) = table::top_at(&dir).map_err(|source| os(&dir, "inspected", source))? {
        return Err(MountError::AlreadyMounted { dir, fs_type: row.fs_type, source_name: row.source });
    }
    let metadata = std::fs::metadata(&dir).map_err(|source| refine(&dir, source))?;
    if !metadata.is_dir() {
        return Err(MountError::NotADirectory { dir });
    }
    let mut entries = std::fs::read_dir(&dir).map_err(|source| refine(&dir, source))?;
    if entries.next().is_some() { Err(MountError::NotEmpty { dir }) } else { Ok(()) }
}

/// Detaches what a dead daemon left mounted at `dir`. Only a mount of our own type whose server is
/// gone is touched; everything else is left as it is. Says whether something was detached.
///
/// # Errors
/// `Missing`, or `Os` and the helper's errors when the dead mount cannot be detached.
pub fn clear_stale(dir: &Path) -> Result<Cleared, MountError> {
    let dir = resolve(dir)?;
    let mut cleared = Cleared::Nothing;
    // Several crashes may have stacked several dead mounts. Each turn removes one or ends the loop.
    while let Some(row) = table::top_at(&dir).map_err(|source| os(&dir, "inspected", source))? {
        if row.fs_type != FS_TYPE || !is_dead(&dir) {
            break;
        }
        attach::detach_lazily(&dir)?;
        tracing::warn!("a mount left by a dead daemon was detached");
        cleared = Cleared::Detached;
    }
    Ok(cleared)
}

/// What [`clear_stale`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleared {
    /// Nothing of ours was dead there.
    Nothing,
    /// A dead mount was detached.
    Detached,
}

/// The absolute path of `dir` without symbolic links. The directory itself may be a dead mount, on
/// which every call fails, so only its parent is asked when it does not answer.
pub(super) fn resolve(dir: &Path) -> Result<PathBuf, MountError> {
    let mut dir = std::path::absolute(dir).map_err(|source| os(dir, "resolved", source))?;
    for _ in 0..SYMLINKS_MAX {
        match std::fs::canonicalize(&dir) {
            Ok(found) => return Ok(found),
            Err(source) if is_disconnected(&source) => {}
            Err(source) => return Err(refine(&dir, source)),
        }
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(dir) };
        let parent = std::fs::canonicalize(parent).map_err(|source| refine(&dir, source))?;
        let joined = parent.join(name);
        match std::fs::read_link(&joined) {
            Ok(target) => dir = parent.join(target),
            Err(_) => return Ok(joined),
        }
    }
    Err(os(&dir, "resolved", io::Error::from(rustix::io::Errno::LOOP)))
}

/// Asks for the file system's figures, which the kernel never answers itself: the attributes of a root
/// whose server just died come from its cache for a moment longer.
fn is_dead(dir: &Path) -> bool {
    rustix::fs::statfs(dir).err().is_some_and(|error| is_disconnected(&error.into()))
}

/// "Transport endpoint is not connected", the answer of a FUSE mount whose server died; and
/// "connection aborted", the answer of one that was aborted.
fn is_disconnected(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    code == Some(Errno::NOTCONN.raw_os_error()) || code == Some(Errno::CONNABORTED.raw_os_error())
}

fn refine(dir: &Path, source: io::Error) -> MountError {
    let dir = dir.to_path_buf();
    match source.kind() {
        io::ErrorKind::NotFound => MountError::Missing { dir },
        io::ErrorKind::NotADirectory => MountError::NotADirectory { dir },
        io::ErrorKind::PermissionDenied => MountError::NoPermission { dir },
        _ => MountError::Os { dir, verb: "inspected", source },
    }
}

pub(super) fn os(dir: &Path, verb: &'static str, source: io::Error) -> MountError {
    MountError::Os { dir: dir.to_path_buf(), verb, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directory_is_named() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join("none");
        assert!(matches!(check_mount_point(&dir), Err(MountError::Missing { dir: named }) if named == dir));
    }

    #[test]
    fn file_is_not_a_directory() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let file = temp.path().join("file");
        std::fs::write(&file, b"x").expect("write");
        assert!(matches!(check_mount_point(&file), Err(MountError::NotADirectory { .. })));
        assert!(matches!(check_mount_point(&file.join("x")), Err(MountError::NotADirectory { .. })));
    }

    #[test]
    fn directory_with_a_file_is_not_empty() {
        let temp = tempfile::tempdir().expect("temporary directory");
        std::fs::write(temp.path().join("file"), b"x").expect("write");
        assert!(matches!(check_mount_point(temp.path()), Err(MountError::NotEmpty { .. })));
    }

    #[test]
    fn foreign_mount_is_named_and_not_cleared() {
        let proc = Path::new("/proc");
        assert!(
            matches!(check_mount_point(proc), Err(MountError::AlreadyMounted { fs_type, .. }) if fs_type == "proc")
        );
        assert_eq!(clear_stale(proc).expect("untouched"), Cleared::Nothing);
    }

    #[test]
    fn symlink_to_an_empty_directory_is_followed() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let (real, link) = (temp.path().join("real"), temp.path().join("link"));
        std::fs::create_dir(&real).expect("create");
        std::os::unix::fs::symlink(&real, &link).expect("symlink");
        check_mount_point(&link).expect("usable");
        assert_eq!(resolve(&link).expect("resolved"), std::fs::canonicalize(&real).expect("canonical"));
    }
}
