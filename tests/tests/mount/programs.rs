//! Programs that people use, on a real mount.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use cobox_fs::vfs::{FileState, StatusSource, Vfs};
use cobox_store::id::PackId;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::drive::{Drive, noise};

/// Runs a program in `dir` and returns what it printed; `None` when it is not installed.
fn run(dir: &Path, words: &[&str]) -> Option<String> {
    let (program, arguments) = words.split_first().expect("a program");
    let mut command = Command::new(program);
    // Git reads no configuration of this machine.
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", dir).env("LC_ALL", "C");
    let output = match command.args(arguments).current_dir(dir).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: no {program} on this machine");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?} failed: {errors}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn git_commits_and_finds_nothing_wrong() {
    let Some(mut drive) = Drive::mounted() else { return };
    let repository = drive.path("project");
    fs::create_dir_all(repository.join("src/deep")).expect("mkdir");
    for index in 0..200u64 {
        fs::write(repository.join(format!("src/deep/{index}.txt")), noise(700, index)).expect("write");
    }
    let git = |words: &[&str]| {
        let identity =
            ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"];
        run(&repository, &[&identity[..], words].concat())
    };
    if git(&["init", "-q"]).is_none() {
        return;
    }
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "first"]);
    fs::write(repository.join("src/deep/7.txt"), b"changed").expect("write");
    fs::rename(repository.join("src/deep/8.txt"), repository.join("moved.txt")).expect("rename");
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "second"]);
    git(&["gc", "-q"]);
    drive.remount();
    assert_eq!(git(&["status", "--porcelain"]).as_deref(), Some(""));
    assert_eq!(git(&["log", "--format=%s"]).as_deref(), Some("second\nfirst\n"));
    git(&["fsck", "--full", "--strict"]);
    git(&["clone", "-q", ".", "../clone"]);
    run(&drive.at, &["diff", "-r", "--exclude=.git", "project", "clone"]);
}

#[test]
fn tar_brings_back_what_it_took() {
    let Some(mut drive) = Drive::mounted() else { return };
    let from = drive.path("from");
    fs::create_dir_all(from.join("a/b")).expect("mkdir");
    for (index, len) in [0, 10, 5000, 300_000].into_iter().enumerate() {
        fs::write(from.join(format!("a/b/{index}")), noise(len, index as u64)).expect("write");
    }
    std::os::unix::fs::symlink("b/0", from.join("a/link")).expect("symlink");
    fs::hard_link(from.join("a/b/1"), from.join("a/hard")).expect("link");
    fs::create_dir(drive.path("to")).expect("mkdir");
    if run(&drive.at, &["tar", "-C", "from", "-cf", "all.tar", "."]).is_none() {
        return;
    }
    run(&drive.at, &["tar", "-C", "to", "-xpf", "all.tar"]);
    drive.remount();
    run(&drive.at, &["diff", "-r", "from", "to"]);
    run(&drive.at, &["tar", "-C", "to", "--compare", "-f", "all.tar"]);
}

#[test]
fn program_runs_from_the_mount() {
    let Some(drive) = Drive::mounted() else { return };
    let Some(found) = run(&drive.at, &["sh", "-c", "command -v sleep"]) else { return };
    fs::copy(found.trim(), drive.path("sleep")).expect("copy");
    run(&drive.at, &["./sleep", "0"]);
}

#[test]
fn program_that_runs_cannot_be_written_or_cut() {
    let Some(drive) = Drive::mounted() else { return };
    let Some(found) = run(&drive.at, &["sh", "-c", "command -v cat"]) else { return };
    let path = drive.path("cat");
    let size = fs::copy(found.trim(), &path).expect("copy");
    let mut running =
        Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        assert_eq!(opened.map(drop), Err(Errno::TXTBSY), "{flags:?}");
        assert_eq!(fs::metadata(&path).expect("stat").len(), size, "{flags:?}");
    }
    drop(running.stdin.take());
    assert!(running.wait().expect("ends").success());
    fs::write(&path, b"free now").expect("write");
}

#[test]
fn reserved_directory_is_not_listed() {
    let Some(drive) = Drive::mounted() else { return };
    fs::write(drive.path("f"), b"x").expect("write");
    let Some(listed) = run(&drive.at, &["find", "."]) else { return };
    assert_eq!(listed.lines().collect::<Vec<_>>(), [".", "./f"]);
}

#[test]
fn report_is_read_afresh_and_cannot_be_written() {
    let Some(drive) = Drive::mounted() else { return };
    drive.vfs().set_status_source(std::sync::Arc::new(Growing(AtomicUsize::new(0))));
    let report = drive.path(".cobox/status.json");
    let (one, two) = (fs::read(&report).expect("read"), fs::read(&report).expect("read"));
    assert!(two.len() > one.len(), "the second report is newer");
    assert!(fs::write(&report, b"x").is_err());
    assert!(fs::write(drive.path(".cobox/f"), b"x").is_err());
    assert!(fs::remove_dir(drive.path(".cobox")).is_err());
}

/// A report that is longer each time.
struct Growing(AtomicUsize);

impl StatusSource for Growing {
    fn status_json(&self) -> String {
        format!("[{}]", "1,".repeat(self.0.fetch_add(1, Ordering::Relaxed)) + "1")
    }

    fn conflicts_text(&self, _: &Vfs) -> String {
        String::new()
    }

    fn conflicts_json(&self, _: &Vfs) -> String {
        String::new()
    }

    fn xattr(&self, _: &str, _: &[PackId], _: FileState) -> Option<Vec<u8>> {
        None
    }
}
