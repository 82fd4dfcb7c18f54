//! Why a folder could not be mounted or unmounted, precise enough that a person knows what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Every failure of mounting and unmounting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point does not exist.
    #[error("{} does not exist", dir.display())]
    Missing {
        /// The mount point.
        dir: PathBuf,
    },
    /// The mount point is a file.
    #[error("{} is not a directory", dir.display())]
    NotADirectory {
        /// The mount point.
        dir: PathBuf,
    },
    /// Mounting would hide what lies there.
    #[error("{} is not empty", dir.display())]
    NotEmpty {
        /// The mount point.
        dir: PathBuf,
    },
    /// The caller may not read or write the mount point.
    #[error("no permission to use {} as a mount point", dir.display())]
    NoPermission {
        /// The mount point.
        dir: PathBuf,
    },
    /// Something is mounted there.
    #[error("{} is already a mount point ({fs_type} from {source_name})", dir.display())]
    AlreadyMounted {
        /// The mount point.
        dir: PathBuf,
        /// Type of the file system, for example `fuse.cobox`.
        fs_type: String,
        /// What is mounted there.
        source_name: String,
    },
    /// The store lies in or below the mount point, so that the daemon would wait for itself.
    #[error("{} holds the store itself", dir.display())]
    HoldsStore {
        /// The mount point.
        dir: PathBuf,
    },
    /// `--allow-other` as an ordinary user needs a line in `/etc/fuse.conf`.
    #[error("allow-other needs the line user_allow_other in /etc/fuse.conf")]
    AllowOtherForbidden,
    /// The kernel has no FUSE, or its device is not there.
    #[error("/dev/fuse cannot be used")]
    NoFuse(#[source] io::Error),
    /// An ordinary user needs the helper of the package `fuse3`.
    #[error("fusermount3 cannot be run")]
    NoHelper(#[source] io::Error),
    /// The helper refused; its own words.
    #[error("fusermount3 refused: {message}")]
    HelperRefused {
        /// What it printed.
        message: String,
    },
    /// Processes use the mount.
    #[error("{} is in use{}", dir.display(), HolderList(holders))]
    Busy {
        /// The mount point.
        dir: PathBuf,
        /// Who uses it, as far as the caller may see.
        holders: Vec<Holder>,
    },
    /// Any other failure of the operating system.
    #[error("{} cannot be {verb}", dir.display())]
    Os {
        /// The mount point.
        dir: PathBuf,
        /// What was tried, as a participle.
        verb: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// A process, or another mount, that keeps a mount busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process with an open file, a mapping or its working directory in the mount.
    Process {
        /// Its number.
        pid: u32,
        /// Its short name.
        name: String,
        /// How it holds the mount.
        by: HeldBy,
    },
    /// Another file system mounted inside.
    Mount {
        /// Where.
        dir: PathBuf,
    },
}

/// The way in which a process holds a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// Its working directory.
    WorkingDirectory,
    /// Its root directory.
    Root,
    /// It runs a program from there.
    Program,
    /// An open file.
    OpenFile,
    /// A file mapped into memory.
    Mapping,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name, by } => {
                let how = match by {
                    HeldBy::WorkingDirectory => "working directory",
                    HeldBy::Root => "root directory",
                    HeldBy::Program => "running program",
                    HeldBy::OpenFile => "open file",
                    HeldBy::Mapping => "mapped file",
                };
                write!(f, "{name} ({pid}, {how})")
            }
            Self::Mount { dir } => write!(f, "mount at {}", dir.display()),
        }
    }
}

struct HolderList<'a>(&'a [Holder]);

impl fmt::Display for HolderList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, holder) in self.0.iter().enumerate() {
            write!(f, "{}{holder}", if index == 0 { " by " } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_names_its_holders() {
        let error = MountError::Busy {
            dir: "/m".into(),
            holders: vec![
                Holder::Process { pid: 7, name: "bash".into(), by: HeldBy::WorkingDirectory },
                Holder::Mount { dir: "/m/x".into() },
            ],
        };
        assert_eq!(error.to_string(), "/m is in use by bash (7, working directory), mount at /m/x");
    }
}
