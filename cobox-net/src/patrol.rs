//! The thread that lets the store's patrol walk while little else happens: `cobox-seeder run` and `coboxd`
//! start it. What it finds is fetched again by the sync engine, which sees the packs missing.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cobox_store::blind::{Step, Store};

/// How often rounds begin, and how fast they read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// From the end of one round to the next.
    pub every: Duration,
    /// Read in a second.
    pub bytes_per_s: u64,
}

/// A seeder reads all it holds within a week, or as fast as [`BYTES_PER_S`] goes.
pub const SEEDER_EVERY: Duration = Duration::from_secs(7 * 24 * 3600);
/// A member's device reads monthly: what it reads in daily work is checked as it is opened.
pub const DEVICE_EVERY: Duration = Duration::from_secs(30 * 24 * 3600);
/// A tenth of a slow disk's speed, and of a small processor's hashing: 1 TB in 35 hours.
pub const BYTES_PER_S: u64 = 8 << 20;

/// Read in one step: a pack, or many small ones.
const STEP_BYTES: u64 = 4 << 20;
/// How long the store must be quiet before a step.
const QUIET: Duration = Duration::from_secs(1);
/// A store that is never quiet is read all the same, a step each so often.
const BUSY_WAIT: Duration = Duration::from_secs(8);
/// How often it is looked whether a round is due, and after a failure.
const REST: Duration = Duration::from_secs(10);
/// How often it is looked whether to end.
const LOOK: Duration = Duration::from_millis(200);

/// Walks until `stop` says so.
pub fn walk(store: &Arc<Store>, pace: Pace, stop: &dyn Fn() -> bool) {
    let every_ms = u64::try_from(pace.every.as_millis()).unwrap_or(u64::MAX);
    while !stop() {
        let began = Instant::now();
        let mut read = false;
        for (no, folder) in store.folders().unwrap_or_default() {
            // Most folders rest most of the time: nothing is waited for on their account.
            if !store.patrol(no).is_ok_and(|patrol| patrol.is_due(every_ms, now_ms())) {
                continue;
            }
            if stop() || !pause_until_quiet(store, stop) {
                return;
            }
            match store.patrol_step(no, every_ms, now_ms(), STEP_BYTES) {
                Ok(Step::Rest) => {}
                Ok(Step::Read { bytes, damaged }) => {
                    read = true;
                    for pack in damaged {
                        tracing::error!(%folder, %pack, "a pack is damaged on the disk; it is fetched again");
                    }
                    pause(Duration::from_millis(bytes * 1000 / pace.bytes_per_s.max(1)), stop);
                }
                Err(error) => {
                    tracing::warn!(%folder, %error, "the patrol cannot read");
                    pause(REST, stop);
                }
            }
        }
        if !read {
            pause(REST.min(pace.every).saturating_sub(began.elapsed()).max(LOOK), stop);
        }
    }
}

/// Waits until nothing has changed in the store for a moment; `false` when it is to end.
fn pause_until_quiet(store: &Store, stop: &dyn Fn() -> bool) -> bool {
    let began = Instant::now();
    loop {
        let seen = store.watch().seen();
        let quiet_from = Instant::now();
        while quiet_from.elapsed() < QUIET && store.watch().seen() == seen {
            if stop() {
                return false;
            }
            let _ = store.watch().wait(seen, LOOK);
        }
        if store.watch().seen() == seen || began.elapsed() >= BUSY_WAIT {
            return true;
        }
    }
}

fn pause(time: Duration, stop: &dyn Fn() -> bool) {
    let began = Instant::now();
    while !stop() && began.elapsed() < time {
        std::thread::sleep(LOOK.min(time));
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
