//! Finds out who keeps a mount busy, from `/proc` alone: it reads links and tables and never calls
//! into the mount itself.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{HeldBy, Holder};
use super::table::{self, Device};

/// Names that a message can still show; a mount that hundreds of processes use is no more busy.
const HOLDERS_MAX: usize = 8;

/// Who holds the mount at `dir`. Processes that the caller may not inspect are missing.
pub fn find(dir: &Path, device: Option<Device>) -> Vec<Holder> {
    let mut holders: Vec<Holder> = table::read()
        .unwrap_or_default()
        .into_iter()
        .filter(|row| row.dir != dir && row.dir.starts_with(dir))
        .map(|row| Holder::Mount { dir: row.dir })
        .collect();
    let Ok(processes) = fs::read_dir("/proc") else { return holders };
    for process in processes.flatten() {
        if holders.len() >= HOLDERS_MAX {
            break;
        }
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(by) = held_by(&process.path(), dir, device) {
            holders.push(Holder::Process { pid, name: name_of(&process.path()), by });
        }
    }
    holders.truncate(HOLDERS_MAX);
    holders
}

fn name_of(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).map_or_else(|_| "?".into(), |name| name.trim_end().to_owned())
}

fn held_by(process: &Path, dir: &Path, device: Option<Device>) -> Option<HeldBy> {
    let links = [("cwd", HeldBy::WorkingDirectory), ("root", HeldBy::Root), ("exe", HeldBy::Program)];
    let inside = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(dir));
    if let Some((_, by)) = links.into_iter().find(|(link, _)| inside(process.join(link))) {
        return Some(by);
    }
    let open_files = fs::read_dir(process.join("fd")).ok().into_iter().flatten().flatten();
    if open_files.into_iter().any(|file| inside(file.path())) {
        return Some(HeldBy::OpenFile);
    }
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    String::from_utf8_lossy(&maps)
        .lines()
        .any(|line| maps_device(line).is_some_and(|found| Some(found) == device))
        .then_some(HeldBy::Mapping)
}

/// The device of a line of `/proc/PID/maps`: `address perms offset major:minor inode path`.
fn maps_device(line: &str) -> Option<Device> {
    let (major, minor) = line.split_ascii_whitespace().nth(3)?.split_once(':')?;
    Some(Device { major: u32::from_str_radix(major, 16).ok()?, minor: u32::from_str_radix(minor, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_of_a_mapping_is_read_as_hexadecimal() {
        let line = "7f0c1000-7f0c2000 rw-s 00000000 00:3f 42 /mnt/file";
        assert_eq!(maps_device(line), Some(Device { major: 0, minor: 0x3f }));
        assert_eq!(maps_device("7f0c1000-7f0c2000 rw-p"), None);
    }

    #[test]
    fn open_file_of_this_process_is_found() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().canonicalize().expect("canonical");
        let _open = fs::File::create(dir.join("file")).expect("create");
        let own = std::process::id();
        let found = find(&dir, None);
        assert!(found.iter().any(|holder| matches!(
            holder,
            Holder::Process { pid, by: HeldBy::OpenFile, .. } if *pid == own
        )));
    }
}
