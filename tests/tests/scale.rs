//! Large directories, large sparse files, deep trees and many open files on a real mount: all answers are
//! right, and the daemon stays below the memory that `docs/semantics.md` promises.
//!
//! The short form has 10,000 entries, `COBOX_SOAK` a million. Costs are printed: processor time of the
//! daemon for each entry, because wall time tells more of the machine's load.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use cobox_tests::load::Rng;
use cobox_tests::process::{Device, can_mount};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::process::{Resource, getrlimit, setrlimit};

/// The daemon's memory at the most, whatever it is asked (`docs/semantics.md`, section 8).
const MEMORY_BYTES_MAX: u64 = 300 << 20;
const ENTRIES: u64 = 10_000;
const ENTRIES_SOAK: u64 = 1_000_000;
const DEPTH: usize = 1000;
const OPEN_FILES: u64 = 1000;
const SPARSE_BYTES: u64 = 100 << 30;
/// Clock ticks of `/proc/PID/stat`, the same on every Linux that programs see.
const TICKS_PER_SECOND: f64 = 100.0;

struct Scene {
    device: Device,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new(test: &str) -> Option<Self> {
        if !can_mount(test) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut device = Device::new(dir.path(), "device");
        let words = dir.path().join("words");
        let words = words.to_str().expect("a temporary path is text");
        device.ctl(&["init", "--label", "large", "--no-passphrase", "--words-out", words]).ok();
        device.start();
        device.ctl(&["folder", "create", "docs"]).ok();
        device.mount("docs");
        Some(Self { device, _dir: dir })
    }

    fn proc(&self, file: &str) -> String {
        let pid = self.device.pid().expect("the daemon runs");
        fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the daemon runs")
    }

    fn peak_bytes(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux says it");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
        kib << 10
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = self.proc("stat");
        // The program's name stands in brackets and may hold blanks; user and system time are the 12th and
        // 13th field after it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / TICKS_PER_SECOND
    }

    /// Runs `work` and prints what it cost for each of `count`.
    fn cost(&self, what: &str, count: u64, work: impl FnOnce()) {
        let (cpu, wall) = (self.cpu_seconds(), Instant::now());
        work();
        let each = |seconds: f64| seconds * 1e6 / count as f64;
        let (cpu, wall) = (each(self.cpu_seconds() - cpu), each(wall.elapsed().as_secs_f64()));
        let peak = self.peak_bytes() >> 20;
        println!("{count:>8} {what:<7} {cpu:>7.0} us of the daemon, {wall:>7.0} us in all; peak {peak} MiB");
    }

    fn assert_small(&self) {
        let peak = self.peak_bytes();
        assert!(peak < MEMORY_BYTES_MAX, "the daemon took {} MiB", peak >> 20);
    }
}

fn entry(dir: &Path, at: u64) -> PathBuf {
    dir.join(format!("entry-{at:07}"))
}

fn fill_list_and_empty(scene: &Scene, count: u64) {
    let dir = scene.device.mount.join(format!("d{count}"));
    fs::create_dir(&dir).expect("mkdir");
    scene.cost("create", count, || {
        for at in 0..count {
            File::create_new(entry(&dir, at)).expect("creates");
        }
    });
    scene.cost("list", count, || {
        let mut names: Vec<OsString> =
            fs::read_dir(&dir).expect("opendir").map(|name| name.expect("readdir").file_name()).collect();
        names.sort_unstable();
        assert_eq!(names.len() as u64, count);
        names.dedup();
        assert_eq!(names.len() as u64, count, "a name was listed twice");
    });
    scene.cost("stat", count, || {
        for at in 0..count {
            assert_eq!(fs::metadata(entry(&dir, at)).expect("stat").len(), 0);
        }
    });
    assert!(!entry(&dir, count).exists());
    assert!(fs::remove_dir(&dir).is_err(), "it is not empty");
    scene.cost("delete", count, || {
        for at in 0..count {
            fs::remove_file(entry(&dir, at)).expect("unlinks");
        }
    });
    assert_eq!(fs::read_dir(&dir).expect("opendir").count(), 0);
    fs::remove_dir(&dir).expect("rmdir");
}

#[test]
fn directory_with_many_entries_is_listed_whole_and_memory_stays_bounded() {
    let Some(scene) = Scene::new("directory_with_many_entries_is_listed_whole_and_memory_stays_bounded")
    else {
        return;
    };
    fill_list_and_empty(&scene, ENTRIES);
    if std::env::var_os("COBOX_SOAK").is_some() {
        fill_list_and_empty(&scene, ENTRIES_SOAK);
    }
    scene.assert_small();
}

#[test]
fn sparse_file_of_100_gib_takes_the_blocks_of_its_data_only() {
    let Some(mut scene) = Scene::new("sparse_file_of_100_gib_takes_the_blocks_of_its_data_only") else {
        return;
    };
    let path = scene.device.mount.join("sparse");
    let file = File::options().create_new(true).read(true).write(true).open(&path).expect("creates");
    file.write_all_at(&[b'a'; 4096], 0).expect("writes");
    file.write_all_at(&[b'z'; 4096], SPARSE_BYTES - 4096).expect("writes");
    file.sync_all().expect("syncs");
    drop(file);
    for round in 0..2 {
        let meta = fs::metadata(&path).expect("stat");
        assert_eq!(meta.len(), SPARSE_BYTES);
        // `du` counts these.
        assert!((16..=1024).contains(&meta.blocks()), "{} blocks", meta.blocks());
        let file = File::open(&path).expect("opens");
        let mut buffer = [1; 4096];
        for (at, byte) in [(0, b'a'), (50 << 30, 0), (SPARSE_BYTES - 4096, b'z')] {
            file.read_exact_at(&mut buffer, at).expect("reads");
            assert!(buffer.iter().all(|read| *read == byte), "at {at}");
        }
        drop(file);
        if round == 0 {
            scene.device.kill();
            scene.device.start();
            scene.device.await_mount();
        }
    }
    scene.assert_small();
}

#[test]
fn tree_a_thousand_levels_deep_is_made_walked_and_removed() {
    let Some(scene) = Scene::new("tree_a_thousand_levels_deep_is_made_walked_and_removed") else { return };
    let root = scene.device.mount.clone();
    // A path that long is longer than Linux takes: each step starts at the directory above.
    let open = |at: &dyn std::os::fd::AsFd, name: &Path| {
        openat(at.as_fd(), name, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    let mut at = open(&CWD, &root).expect("opens the root");
    for _ in 0..DEPTH {
        mkdirat(&at, "d", Mode::RWXU).expect("mkdir");
        at = open(&at, Path::new("d")).expect("opens");
    }
    mkdirat(&at, "leaf", Mode::RWXU).expect("mkdir");
    let mut at = open(&CWD, &root).expect("opens");
    for _ in 0..DEPTH {
        at = open(&at, Path::new("d")).expect("opens");
    }
    unlinkat(&at, "leaf", AtFlags::REMOVEDIR).expect("rmdir");
    for _ in 0..DEPTH {
        at = open(&at, Path::new("..")).expect("opens");
        unlinkat(&at, "d", AtFlags::REMOVEDIR).expect("rmdir");
    }
    assert_eq!(
        rustix::fs::fstat(&at).expect("stat").st_ino,
        fs::metadata(&root).expect("stat").ino(),
        "as many steps up lead back"
    );
    assert_eq!(fs::read_dir(&root).expect("lists").count(), 0);
    scene.assert_small();
}

#[test]
fn thousand_files_are_open_at_a_time_and_keep_what_was_written() {
    let Some(scene) = Scene::new("thousand_files_are_open_at_a_time_and_keep_what_was_written") else {
        return;
    };
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to its maximum it may be raised");
    let bytes = Rng::new(6).bytes(40_000);
    let path = |at: u64| scene.device.mount.join(format!("open-{at}"));
    let files: Vec<File> = (0..OPEN_FILES).map(|at| File::create_new(path(at)).expect("creates")).collect();
    for round in 0..3 {
        for (at, file) in (0..).zip(&files) {
            let shift = usize::try_from(at).expect("small");
            let text = bytes.get(shift..).expect("longer than the files are many");
            file.write_all_at(text, round * bytes.len() as u64).expect("writes");
        }
    }
    for file in &files {
        file.sync_all().expect("syncs");
    }
    drop(files);
    for at in 0..OPEN_FILES {
        let found = fs::read(path(at)).expect("reads");
        let shift = usize::try_from(at).expect("small");
        assert!(found.ends_with(bytes.get(shift..).expect("as written")), "file {at}");
    }
    println!("peak {} MiB", scene.peak_bytes() >> 20);
    scene.assert_small();
}
