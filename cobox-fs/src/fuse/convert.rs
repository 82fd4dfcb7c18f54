//! Between the words of the kernel's protocol and those of [`crate::vfs`]. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, OpenAccMode, TimeOrNow};
use rustix::fs::{FallocateFlags, OFlags};

use crate::vfs::{Attr, Errno, Fallocate, Kind, OpenFlags, RenameFlags, Whence, XattrSet};

/// What `stat(2)` reports as the best size of a transfer; also the unit in which the kernel caches.
const BLOCK_BYTES: u32 = 4_096;
/// `SEEK_DATA` and `SEEK_HOLE` of lseek(2).
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// `XATTR_CREATE` and `XATTR_REPLACE` of setxattr(2).
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;
const SET_ID_BITS: u32 = 0o6000;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;
const MODE_BITS: u32 = 0o7777;

pub fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.0)
}

pub fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime_ns),
        mtime: time(attr.mtime_ns),
        ctime: time(attr.ctime_ns),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.perm & MODE_BITS).unwrap_or_default(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// The attributes of a name that does not exist: node number 0 makes the kernel remember that.
pub fn no_attr() -> FileAttr {
    attr(&Attr {
        ino: 0,
        size: 0,
        blocks: 0,
        mtime_ns: 0,
        atime_ns: 0,
        ctime_ns: 0,
        kind: Kind::File,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
    })
}

pub fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDev => FileType::CharDevice,
        Kind::BlockDev => FileType::BlockDevice,
    }
}

/// The kind of a `mknod(2)` mode; directories and links have calls of their own.
pub fn kind_of_mode(mode: u32) -> Option<Kind> {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::RegularFile => Some(Kind::File),
        rustix::fs::FileType::Fifo => Some(Kind::Fifo),
        rustix::fs::FileType::Socket => Some(Kind::Socket),
        rustix::fs::FileType::CharacterDevice => Some(Kind::CharDev),
        rustix::fs::FileType::BlockDevice => Some(Kind::BlockDev),
        _ => None,
    }
}

pub fn permissions(mode: u32) -> u32 {
    mode & MODE_BITS
}

fn time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    let time = if ns < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

/// Nanoseconds since 1970, held at the ends of what fits (the years 1677 and 2262).
///
/// fuser 0.18 takes the nanoseconds of a time before 1970 backwards, although timespec(3) counts them
/// forwards from the second; that is put right here.
pub fn nanoseconds(time: TimeOrNow, now: SystemTime) -> i64 {
    let time = match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => now,
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => {
            let distance = before.duration();
            let whole_seconds = i128::from(distance.as_secs()) * 1_000_000_000;
            i64::try_from(i128::from(distance.subsec_nanos()) - whole_seconds).unwrap_or(i64::MIN)
        }
    }
}

/// `O_APPEND` is left out on purpose: the kernel gives every write its offset under the inode's lock,
/// and pages written back from a mapping come through any open file, appending ones included.
pub fn open_flags(flags: fuser::OpenFlags) -> OpenFlags {
    let mode = flags.acc_mode();
    let bits = OFlags::from_bits_retain(flags.0.cast_unsigned());
    OpenFlags {
        read: mode != OpenAccMode::O_WRONLY,
        write: mode != OpenAccMode::O_RDONLY,
        truncate: bits.contains(OFlags::TRUNC),
        append: false,
        exclusive: bits.contains(OFlags::EXCL),
    }
}

pub fn rename_flags(flags: fuser::RenameFlags) -> Option<RenameFlags> {
    match flags {
        none if none.is_empty() => Some(RenameFlags::Replace),
        fuser::RenameFlags::RENAME_NOREPLACE => Some(RenameFlags::NoReplace),
        fuser::RenameFlags::RENAME_EXCHANGE => Some(RenameFlags::Exchange),
        _ => None,
    }
}

pub fn fallocate_mode(mode: i32) -> Option<Fallocate> {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let zero_keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    match FallocateFlags::from_bits_retain(mode.cast_unsigned()) {
        none if none.is_empty() => Some(Fallocate::Extend),
        FallocateFlags::KEEP_SIZE => Some(Fallocate::KeepSize),
        FallocateFlags::ZERO_RANGE => Some(Fallocate::ZeroRange),
        both if both == punch => Some(Fallocate::PunchHole),
        both if both == zero_keep => Some(Fallocate::ZeroRangeKeepSize),
        _ => None,
    }
}

pub fn whence(whence: i32) -> Option<Whence> {
    match whence {
        SEEK_DATA => Some(Whence::Data),
        SEEK_HOLE => Some(Whence::Hole),
        _ => None,
    }
}

pub fn xattr_set(flags: i32) -> Option<XattrSet> {
    match flags {
        0 => Some(XattrSet::Any),
        XATTR_CREATE => Some(XattrSet::Create),
        XATTR_REPLACE => Some(XattrSet::Replace),
        _ => None,
    }
}

/// The mode after a write, truncation or change of owner took the set-id bits, as the kernel's own file
/// systems take them: set-gid without group-execute marks mandatory locking and stays. `None` when
/// nothing changes.
pub fn without_set_id(attr: &Attr) -> Option<u32> {
    if attr.kind != Kind::File || attr.perm & SET_ID_BITS == 0 {
        return None;
    }
    let mut mode = attr.perm & !SET_UID;
    if mode & GROUP_EXECUTE != 0 {
        mode &= !SET_GID;
    }
    (mode != attr.perm).then_some(mode)
}

/// Attribute names as `listxattr(2)` wants them: each ended by a zero byte.
pub fn joined_names(names: &[Vec<u8>]) -> Vec<u8> {
    names.iter().flat_map(|name| name.iter().copied().chain(std::iter::once(0))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: Kind, perm: u32) -> Attr {
        Attr {
            ino: 2,
            size: 0,
            blocks: 0,
            mtime_ns: 0,
            atime_ns: 0,
            ctime_ns: 0,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
        }
    }

    #[test]
    fn far_away_times_are_held_at_the_ends() {
        for ns in [0, 1, 1_700_000_000_123_456_789, -5_000_000_000, i64::MAX] {
            assert_eq!(nanoseconds(TimeOrNow::SpecificTime(time(ns)), UNIX_EPOCH), ns);
        }
        let far = Duration::from_secs(1 << 40);
        assert_eq!(nanoseconds(TimeOrNow::SpecificTime(UNIX_EPOCH + far), UNIX_EPOCH), i64::MAX);
        assert_eq!(nanoseconds(TimeOrNow::SpecificTime(UNIX_EPOCH - far), UNIX_EPOCH), i64::MIN);
        assert_eq!(nanoseconds(TimeOrNow::Now, time(7)), 7);
    }

    #[test]
    fn nanoseconds_before_1970_count_forwards() {
        // What fuser makes of the timespec { tv_sec: -5, tv_nsec: 1 }.
        let from_fuser = UNIX_EPOCH - Duration::new(5, 1);
        let ns = nanoseconds(TimeOrNow::SpecificTime(from_fuser), UNIX_EPOCH);
        assert_eq!(ns, -4_999_999_999);
        assert_eq!(time(ns), UNIX_EPOCH - Duration::new(4, 999_999_999));
    }

    #[test]
    fn set_id_bits_are_taken_from_files_only() {
        assert_eq!(without_set_id(&node(Kind::File, 0o4755)), Some(0o755));
        assert_eq!(without_set_id(&node(Kind::File, 0o6771)), Some(0o771));
        assert_eq!(without_set_id(&node(Kind::File, 0o2744)), None);
        assert_eq!(without_set_id(&node(Kind::File, 0o755)), None);
        assert_eq!(without_set_id(&node(Kind::Dir, 0o2755)), None);
    }

    #[test]
    fn append_is_never_passed_on() {
        let bits = OFlags::APPEND | OFlags::WRONLY | OFlags::TRUNC;
        let flags = open_flags(fuser::OpenFlags(bits.bits().cast_signed()));
        assert!(flags.write && flags.truncate && !flags.read && !flags.append && !flags.exclusive);
    }

    #[test]
    fn unknown_modes_are_refused() {
        assert_eq!(fallocate_mode(0x03), Some(Fallocate::PunchHole));
        assert_eq!(fallocate_mode(0x11), Some(Fallocate::ZeroRangeKeepSize));
        assert_eq!(fallocate_mode(0x08), None);
        assert_eq!(rename_flags(fuser::RenameFlags::RENAME_WHITEOUT), None);
        assert_eq!(whence(0), None);
        assert_eq!(xattr_set(3), None);
        assert_eq!(kind_of_mode(0o040_755), None);
        assert_eq!(kind_of_mode(0o010_644), Some(Kind::Fifo));
    }

    #[test]
    fn names_are_ended_by_zero_bytes() {
        assert_eq!(joined_names(&[b"user.a".to_vec(), b"user.b".to_vec()]), b"user.a\0user.b\0");
    }
}
