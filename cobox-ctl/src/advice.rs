//! Errors of the libraries as sentences: what happened, what to do, and which exit code it means.

use cobox_fs::mount::MountError;
use cobox_fs::vfs::Errno;
use cobox_net::Error as NetError;
use cobox_store::Error as StoreError;

use crate::exit::{Exit, Problem};

/// An error with everything below it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(source) = below {
        text = format!("{text}: {source}");
        below = source.source();
    }
    text
}

/// First letter upper case, full stop at the end.
fn sentence(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), letters.as_str()),
        None => String::new(),
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let (code, hint) = store_advice(&error);
        Self::new(code, sentence(&chain(&error)), hint)
    }
}

fn store_advice(error: &StoreError) -> (Exit, &'static str) {
    use StoreError as E;
    match error {
        E::NoSpace => (
            Exit::Failed,
            "Free some space on the disk that holds the store, or have its quota raised where it has one. Nothing is lost; writes work again as soon as there is room.",
        ),
        E::ReadOnlyDisk => (
            Exit::Failed,
            "Make the file system that holds the store writable again (`mount -o remount,rw`). Nothing is lost; writes work again as soon as it is.",
        ),
        E::Db(_) => (
            Exit::Failed,
            "Look at the disk's health and at the log (`cobox-ctl doctor` says where it is); `cobox-ctl check` reads everything.",
        ),
        E::Broken { .. } => (
            Exit::Damaged,
            "It was left as it is. Look at the disk's health, and keep a copy of these files: what no seeder holds is nowhere else. \
             `cobox-ctl recover` with your words and an empty COBOX_HOME gives back what your seeders hold.",
        ),
        E::Io { .. } => (Exit::Failed, "Check that the file is there and that you may read and write it."),
        E::Locked { .. } => (
            Exit::Refused,
            "A daemon with this home is running already. Use it (`cobox-ctl daemon status`), or end it with `cobox-ctl daemon stop`.",
        ),
        E::StoreFormat { .. } => (
            Exit::Refused,
            "Another version of CoBox wrote this store. It was left untouched: use that version, or a newer one that knows both.",
        ),
        E::NotAStore { .. } => (
            Exit::Refused,
            "Check COBOX_HOME. For a new device use `cobox-ctl init`, for a lost one `cobox-ctl recover`.",
        ),
        E::Decode(_) | E::Entry { .. } | E::Chain { .. } | E::Sealed => (
            Exit::Damaged,
            "Nothing wrong was taken over. If it comes from this disk, `cobox-ctl check` says how much is damaged; another copy can be fetched from a seeder.",
        ),
        E::Equivocation { .. } | E::RolledBack { .. } => (
            Exit::Damaged,
            "This device was copied or set back from a backup. It goes on under a fresh key by itself as soon as no program uses its mount; where that does not help (`cobox-ctl doctor` says), run `cobox-ctl recover` in this home. Nothing that was written is lost.",
        ),
        E::NotPermitted { .. } | E::Access { .. } => {
            (Exit::Refused, "Ask an admin of the folder, or use a device that may do this.")
        }
        E::Premature => (Exit::Failed, "Wait until the folder has caught up with a seeder, then try again."),
        E::UnknownFolder(_) | E::NoSuchName => {
            (Exit::Failed, "`cobox-ctl folder list` shows the folders of this device.")
        }
        E::PackDamaged(_) => (
            Exit::Damaged,
            "It is fetched again from a seeder that has it. If this happens more than once, look at the disk's health.",
        ),
        _ => key_advice(error),
    }
}

/// What concerns packs on their way, keys and names.
fn key_advice(error: &StoreError) -> (Exit, &'static str) {
    use StoreError as E;
    match error {
        E::PackUnknown(_) => (Exit::Failed, "It was ignored."),
        E::Quota { .. } => (
            Exit::Refused,
            "Give the seeder more room with `cobox-ctl seeder add` and a larger --quota, or add another seeder.",
        ),
        E::Absent(_) => (
            Exit::Failed,
            "Connect to a seeder that holds the bytes; `cobox-ctl status` says which are reachable.",
        ),
        E::WrongKey => {
            (Exit::Refused, "Check the passphrase (or the key file) and try again. Nothing was changed.")
        }
        E::UnknownEpoch(_) => (
            Exit::Refused,
            "This device was not given the folder's newest keys yet; connect to a seeder, then try again.",
        ),
        E::Words(_) => (
            Exit::Refused,
            "Compare them with what you wrote down: 24 English words, in order; one wrong or swapped word is enough.",
        ),
        E::BadName => (Exit::Usage, "Choose another name, of 1 to 127 printable bytes."),
        E::NameTaken { .. } => (Exit::Usage, "Give this one another name."),
        E::TooManyFolders(_) => (Exit::Refused, "Leave a folder that is not needed any more."),
        E::KeyFileMode { .. } => {
            (Exit::Refused, "Close it with `chmod 600` if nobody else can have read it.")
        }
        E::NotAMember => (
            Exit::Refused,
            "These words or this code belong to another folder, or the device was removed from it.",
        ),
        E::InviteSpent => (
            Exit::Refused,
            "It was used, taken back, or has expired, so that nobody comes in by it. `cobox-ctl folder invite` makes a new one for a \
             person, `cobox-ctl seeder code` one for a seeder.",
        ),
        E::Random => (Exit::Failed, "The system's random generator is not ready; try again in a moment."),
        _ => (Exit::Failed, "The daemon's log says more."),
    }
}

impl From<MountError> for Problem {
    fn from(error: MountError) -> Self {
        use MountError as E;
        let (code, hint) = match &error {
            E::Missing { .. } => (Exit::Refused, "Make the directory first (`mkdir`)."),
            E::NotADirectory { .. } => (Exit::Refused, "Choose an empty directory."),
            E::NotEmpty { .. } => {
                (Exit::Refused, "Mounting would hide what lies there. Choose an empty directory.")
            }
            E::NoPermission { .. } => (Exit::Refused, "Choose a directory that you own."),
            E::AlreadyMounted { .. } => (
                Exit::Refused,
                "Unmount it first (`cobox-ctl umount` or `umount`), or choose another directory.",
            ),
            E::HoldsStore { .. } => (Exit::Refused, "Choose a directory apart from the device's own files."),
            E::AllowOtherForbidden => (
                Exit::Refused,
                "Ask the machine's administrator to add that line, or mount without --allow-other.",
            ),
            E::NoFuse(_) => (
                Exit::Failed,
                "Load the kernel module (`modprobe fuse`), or give the container `--device /dev/fuse`.",
            ),
            E::NoHelper(_) => (Exit::Failed, "Install the package fuse3."),
            E::HelperRefused { .. } => {
                (Exit::Failed, "Check that you own the directory and may mount with FUSE.")
            }
            E::Busy { holders, .. } if holders.is_empty() => (
                Exit::Refused,
                "Whoever uses it belongs to other users, whom only root can name (`sudo fuser -vm DIR`). \
                 Close those programs, then try again.",
            ),
            E::Busy { .. } => {
                (Exit::Refused, "Close those programs, or leave the directory, then try again.")
            }
            _ => (Exit::Failed, "The daemon's log says more."),
        };
        Self::new(code, sentence(&chain(&error)), hint)
    }
}

impl From<NetError> for Problem {
    fn from(error: NetError) -> Self {
        use NetError as E;
        let (code, hint) = match error {
            E::Store(inner) => return inner.into(),
            E::Decode(_) | E::FrameTooLong { .. } | E::Protocol { .. } => (
                Exit::Failed,
                "The other side does not speak CoBox properly: check the address and update both sides. Nothing it sent was kept.",
            ),
            E::Io(_) | E::Gone { .. } => {
                (Exit::Failed, "Nothing is lost: it resumes by itself when the connection is back.")
            }
            E::BadAddress { .. } => {
                (Exit::Usage, "Use the line that `cobox-seeder address` prints, whole and unchanged.")
            }
            E::Taken { .. } => (
                Exit::Failed,
                "Stop it, or choose another address: README.md says how a device is told where it listens.",
            ),
            E::Listen { .. } => (Exit::Failed, "Choose another address: it may be none of this machine's."),
            E::Transport(_) => (Exit::Failed, "Check the machine's network, then start again."),
            E::NotReached { .. } => (
                Exit::NotReached,
                "Check that the seeder is running and that nothing blocks its address. It is tried again by itself.",
            ),
            E::Refused { .. } => (
                Exit::Refused,
                "Ask the seeder's owner to accept this folder (`cobox-seeder pending`, then `cobox-seeder accept`).",
            ),
            E::NotProved { .. } | E::EntriesNotProved { .. } | E::WrongReceipt { .. } => (
                Exit::Damaged,
                "Do not count on this seeder's copy: ask its owner to run `cobox-seeder scrub`, and add another seeder.",
            ),
            E::UnknownFolder(_) => {
                (Exit::Failed, "`cobox-ctl folder list` shows the folders of this device.")
            }
            E::ShutDown => (Exit::Failed, "The daemon is ending; try again in a moment."),
            _ => (Exit::Failed, "The daemon's log says more."),
        };
        Self::new(code, sentence(&chain(&error)), hint)
    }
}

impl From<Errno> for Problem {
    fn from(errno: Errno) -> Self {
        if errno == Errno::ENOSPC {
            return StoreError::NoSpace.into();
        }
        let text = std::io::Error::from_raw_os_error(errno.0);
        let hint = "The daemon's log says more; `cobox-ctl check` looks for damage.";
        Self::new(Exit::Failed, format!("The folder could not be worked on: {text}."), hint)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use cobox_net::PeerId;
    use cobox_store::error::WordsFault;
    use cobox_store::format::DecodeError;
    use cobox_store::id::{ChunkTag, EpochId, FolderId, LogId, PackId, RecordHash};

    use super::*;

    fn assert_helpful(problem: &Problem, code: Exit) {
        assert_eq!(problem.code, code, "{problem:?}");
        assert!(
            problem.message.starts_with(|letter: char| letter.is_uppercase()
                || letter.is_ascii_digit()
                || "/\"".contains(letter)),
            "{problem:?}"
        );
        assert!(problem.message.ends_with('.') && problem.hint.ends_with('.'), "{problem:?}");
    }

    #[test]
    fn store_errors_say_what_to_do() {
        use StoreError as E;
        let (path, log) = (PathBuf::from("/h/store"), LogId([1; 32]));
        let io = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let decode = DecodeError::Invalid { field: "entry" };
        let all = [
            (E::NoSpace, Exit::Failed),
            (E::ReadOnlyDisk, Exit::Failed),
            (E::Io { path: path.clone(), source: io() }, Exit::Failed),
            (E::Locked { path: path.clone() }, Exit::Refused),
            (E::StoreFormat { found: 9, known: 1 }, Exit::Refused),
            (E::NotAStore { path: path.clone() }, Exit::Refused),
            (E::Decode(decode), Exit::Damaged),
            (E::Chain { log, seq: 2 }, Exit::Damaged),
            (E::Equivocation { log, seq: 2 }, Exit::Damaged),
            (E::NotPermitted { log }, Exit::Refused),
            (E::Access { record: RecordHash([1; 32]) }, Exit::Refused),
            (E::Premature, Exit::Failed),
            (E::UnknownFolder(FolderId([1; 32])), Exit::Failed),
            (E::PackDamaged(PackId([1; 32])), Exit::Damaged),
            (E::PackUnknown(PackId([1; 32])), Exit::Failed),
            (E::Quota { quota_bytes: 5 }, Exit::Refused),
            (E::Absent(ChunkTag([1; 32])), Exit::Failed),
            (E::Sealed, Exit::Damaged),
            (E::WrongKey, Exit::Refused),
            (E::UnknownEpoch(EpochId([1; 32])), Exit::Refused),
            (E::Words(WordsFault::Checksum), Exit::Refused),
            (E::RolledBack { log }, Exit::Damaged),
            (E::NoSuchName, Exit::Failed),
            (E::BadName, Exit::Usage),
            (E::NameTaken { name: "club".into() }, Exit::Usage),
            (E::TooManyFolders(64), Exit::Refused),
            (E::KeyFileMode { path }, Exit::Refused),
            (E::NotAMember, Exit::Refused),
            (E::Random, Exit::Failed),
        ];
        for (error, code) in all {
            assert_helpful(&error.into(), code);
        }
    }

    #[test]
    fn mount_errors_say_what_to_do() {
        use MountError as E;
        let dir = PathBuf::from("/m");
        let io = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let all = [
            (E::Missing { dir: dir.clone() }, Exit::Refused),
            (E::NotADirectory { dir: dir.clone() }, Exit::Refused),
            (E::NotEmpty { dir: dir.clone() }, Exit::Refused),
            (E::NoPermission { dir: dir.clone() }, Exit::Refused),
            (E::HoldsStore { dir: dir.clone() }, Exit::Refused),
            (E::AllowOtherForbidden, Exit::Refused),
            (E::NoFuse(io()), Exit::Failed),
            (E::NoHelper(io()), Exit::Failed),
            (E::Busy { dir, holders: Vec::new() }, Exit::Refused),
        ];
        for (error, code) in all {
            assert_helpful(&error.into(), code);
        }
    }

    #[test]
    fn network_errors_say_what_to_do() {
        use NetError as E;
        let peer = PeerId::of_key([7; 32]);
        let all = [
            (E::Store(StoreError::NoSpace), Exit::Failed),
            (E::FrameTooLong { bytes: 1 << 30 }, Exit::Failed),
            (E::BadAddress { text: "x".into() }, Exit::Usage),
            (E::NotReached { peer }, Exit::NotReached),
            (E::Refused { peer }, Exit::Refused),
            (E::Gone { peer }, Exit::Failed),
            (E::Protocol { peer }, Exit::Failed),
            (E::NotProved { peer, pack: PackId([1; 32]) }, Exit::Damaged),
            (E::WrongReceipt { peer }, Exit::Damaged),
            (E::UnknownFolder(FolderId([1; 32])), Exit::Failed),
            (E::ShutDown, Exit::Failed),
        ];
        for (error, code) in all {
            assert_helpful(&error.into(), code);
        }
    }

    #[test]
    fn full_disk_of_the_mount_reads_like_a_full_disk() {
        assert_eq!(Problem::from(Errno::ENOSPC), Problem::from(StoreError::NoSpace));
        assert_helpful(&Errno::EIO.into(), Exit::Failed);
    }
}
