//! Backpressure: a seeder that may use its idle memory and 64 MiB more is not killed by a fast writer.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use cobox_tests::load::Rng;
use cobox_tests::memory::resident_bytes;
use cobox_tests::process::{Device, Seeder, can_mount};

const ALLOWANCE_BYTES: u64 = 64 << 20;
const FILE_BYTES: usize = 400 << 20;

/// A memory limit for one process: control groups of version 2 or 1.
struct Limit(PathBuf);

impl Limit {
    fn set(pid: u32, bytes: u64) -> Option<Self> {
        let name = format!("cobox-test-{pid}");
        for (root, file) in
            [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
        {
            let dir = PathBuf::from(root).join(&name);
            if fs::create_dir(&dir).is_err() {
                continue;
            }
            let limit = Self(dir);
            // Without the controller the folder is an ordinary one, and nothing would be limited.
            let set = limit.0.join(file).exists()
                && fs::write(limit.0.join(file), bytes.to_string()).is_ok()
                && fs::write(limit.0.join("cgroup.procs"), pid.to_string()).is_ok();
            if set {
                return Some(limit);
            }
        }
        None
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // The processes in it end with the test; where one has not yet, the empty group stays behind.
        drop(fs::remove_dir(&self.0));
    }
}

#[test]
fn seeder_with_little_memory_survives_a_fast_writer() {
    let test = "seeder_with_little_memory_survives_a_fast_writer";
    if !can_mount(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    let pid = seeder.pid().expect("it runs");
    let idle = resident_bytes(pid, "VmRSS");
    let Some(_limit) = Limit::set(pid, idle + ALLOWANCE_BYTES) else {
        println!("skipped: {test}: no memory control group can be made here");
        return;
    };
    let mut device = Device::new(dir.path(), "device");
    let words = dir.path().join("words");
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "fast", "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.mount("docs");
    let mut rng = Rng::new(5);
    let mut file = fs::File::create(device.mount.join("large")).expect("creates");
    for _ in 0..FILE_BYTES >> 20 {
        file.write_all(&rng.bytes(1 << 20)).expect("writes");
    }
    file.sync_all().expect("syncs");
    drop(file);
    // Everything is sealed already when the seeder comes: nothing but the seeder slows the device down.
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "10G"]).ok();
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "110s"]).ok();
    let peak = resident_bytes(pid, "VmHWM");
    println!("idle {} MiB, peak {} MiB of memory", idle >> 20, peak >> 20);
    device.stop();
}
