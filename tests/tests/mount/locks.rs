//! Locks between processes: flock(2) and fcntl(2), exclusion, waiting, and the end with the process.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use rustix::fs::FlockOperation;

use crate::drive::{Drive, PATIENCE};

/// Makes this test program take a lock for another test: one of [`WAYS`] and one of the words below.
const ROLE: &str = "COBOX_TEST_LOCK_ROLE";
/// The file to lock.
const PLACE: &str = "COBOX_TEST_LOCK_PLACE";
const WAYS: [&str; 2] = ["flock", "fcntl"];

/// Not a test of its own: what the child processes of the tests below do.
#[test]
fn child_process_takes_a_lock() {
    let (Ok(role), Some(place)) = (std::env::var(ROLE), std::env::var_os(PLACE)) else { return };
    let (way, how) = role.split_once(' ').expect("two words");
    let operation = match how {
        "shared" => FlockOperation::NonBlockingLockShared,
        "exclusive" => FlockOperation::NonBlockingLockExclusive,
        "waiting" => FlockOperation::LockExclusive,
        other => panic!("unknown: {other}"),
    };
    let file = OpenOptions::new().read(true).write(true).open(place).expect("open");
    println!("\nbegins");
    let taken = match way {
        "flock" => rustix::fs::flock(&file, operation),
        _ => rustix::fs::fcntl_lock(&file, operation),
    };
    println!("\n{}", if taken.is_ok() { "taken" } else { "refused" });
    std::io::stdin().read_to_end(&mut Vec::new()).expect("the other test ends the input");
}

/// A process that holds a lock, or waits for one, until it is dropped.
struct Locker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Locker {
    fn begin(file: &Path, way: &str, how: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "locks::child_process_takes_a_lock", "--nocapture", "--test-threads=1"])
            .env(ROLE, format!("{way} {how}"))
            .env(PLACE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut locker = Self { child, lines };
        assert_eq!(locker.says(&["begins"]), "begins");
        locker
    }

    /// The next line that is one of `words`.
    fn says(&mut self, words: &[&str]) -> String {
        self.lines
            .by_ref()
            .map(|line| line.expect("text"))
            .find(|line| words.contains(&line.as_str()))
            .expect("it says so")
    }

    fn outcome(&mut self) -> String {
        self.says(&["taken", "refused"])
    }

    fn is_asleep(&self) -> bool {
        // In /proc/PID/task/*/stat the state follows the program's name in brackets.
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("procfs");
        tasks.into_iter().all(|task| {
            let stat = fs::read_to_string(task.expect("procfs").path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['S', 'D']))
        })
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn try_lock(file: &Path, way: &str, how: &str) -> String {
    Locker::begin(file, way, how).outcome()
}

#[test]
fn exclusive_lock_keeps_other_processes_out_until_its_holder_dies() {
    let Some(drive) = Drive::mounted() else { return };
    let file = drive.path("f");
    fs::write(&file, b"x").expect("write");
    for way in WAYS {
        let mut holder = Locker::begin(&file, way, "exclusive");
        assert_eq!(holder.outcome(), "taken", "{way}");
        assert_eq!(try_lock(&file, way, "shared"), "refused", "{way}");
        assert_eq!(try_lock(&file, way, "exclusive"), "refused", "{way}");
        drop(holder);
        assert_eq!(try_lock(&file, way, "exclusive"), "taken", "{way} after its holder was killed");
    }
}

#[test]
fn shared_locks_go_together_and_keep_exclusive_ones_out() {
    let Some(drive) = Drive::mounted() else { return };
    let file = drive.path("f");
    fs::write(&file, b"x").expect("write");
    for way in WAYS {
        let mut one = Locker::begin(&file, way, "shared");
        let mut two = Locker::begin(&file, way, "shared");
        assert_eq!((one.outcome(), two.outcome()), ("taken".into(), "taken".into()), "{way}");
        drop(one);
        assert_eq!(try_lock(&file, way, "exclusive"), "refused", "{way}");
        drop(two);
        assert_eq!(try_lock(&file, way, "exclusive"), "taken", "{way}");
    }
}

#[test]
fn process_that_waits_gets_the_lock_when_its_holder_dies() {
    let Some(drive) = Drive::mounted() else { return };
    let file = drive.path("f");
    fs::write(&file, b"x").expect("write");
    for way in WAYS {
        let mut holder = Locker::begin(&file, way, "exclusive");
        assert_eq!(holder.outcome(), "taken", "{way}");
        let mut waiter = Locker::begin(&file, way, "waiting");
        let deadline = Instant::now() + PATIENCE;
        while !waiter.is_asleep() {
            assert!(Instant::now() < deadline, "{way}: it does not wait");
            std::thread::yield_now();
        }
        drop(holder);
        assert_eq!(waiter.outcome(), "taken", "{way}");
    }
}
