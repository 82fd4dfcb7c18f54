//! The kernel's mount table, read from `/proc/self/mountinfo` (proc(5)).
//!
//! Asking the table never touches a mounted file system, so it works while one of them is dead or hung.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRow {
    /// The kernel's number of this mount; given to another one when the mount is gone.
    pub id: u64,
    /// `major:minor` of the mounted file system, as `/sys/class/bdi` names it.
    pub device: Device,
    /// Where it is mounted.
    pub dir: PathBuf,
    /// Its type, for example `fuse.cobox`.
    pub fs_type: String,
    /// What is mounted, for example `cobox`.
    pub source: String,
}

/// A device number in its two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Major number; 0 for file systems without a disk.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Reads the whole table, in mounting order.
///
/// # Errors
/// When `/proc` is not there.
pub fn read() -> io::Result<Vec<TableRow>> {
    Ok(std::fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(parse_row).collect())
}

/// The topmost mount exactly at `dir` (an absolute path without symbolic links), if any.
///
/// # Errors
/// When `/proc` is not there.
pub fn top_at(dir: &Path) -> io::Result<Option<TableRow>> {
    Ok(read()?.into_iter().rfind(|row| row.dir == dir))
}

/// `36 35 98:0 /root /dir options [tags] - type source options`
fn parse_row(line: &[u8]) -> Option<TableRow> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = parse_device(fields.nth(1)?)?;
    let dir = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    fields.find(|field| *field == b"-")?;
    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    Some(TableRow { id, device, dir, fs_type, source })
}

fn parse_device(field: &[u8]) -> Option<Device> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Undoes the table's octal escapes of space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                out.push(
                    digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
                );
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_with_spaces_and_tags_is_read() {
        let line = br"61 27 0:52 / /mnt/my\040drive rw,nosuid shared:5 - fuse.cobox cobox rw,user_id=0";
        let row = parse_row(line).expect("well formed");
        assert_eq!((row.id, row.device), (61, Device { major: 0, minor: 52 }));
        assert_eq!(row.dir, Path::new("/mnt/my drive"));
        assert_eq!((row.fs_type.as_str(), row.source.as_str()), ("fuse.cobox", "cobox"));
    }

    #[test]
    fn malformed_rows_are_passed_over() {
        for line in [&b""[..], b"1 2", b"1 2 x:y / /d o - t s", b"1 2 0:1 / /d rw"] {
            assert_eq!(parse_row(line), None);
        }
    }

    #[test]
    fn backslash_without_octal_stays() {
        assert_eq!(unescape(br"a\134b\9"), br"a\b\9");
    }

    #[test]
    fn own_table_has_a_root() {
        assert!(top_at(Path::new("/")).expect("procfs").is_some());
    }
}
