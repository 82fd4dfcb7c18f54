//! When a folder is settled: its whole state is compared with what each of its peers was told.
//!
//! That costs in proportion to its sessions and logs, and a short frame asks for it. So what peers say settles a folder
//! at once only so often, and beyond that with the next tick, for all of them together: who has the first news waits for
//! nothing, and whoever has news without end keeps no other folder waiting. What the store says has turns of its own,
//! so that what is written here does not wait for heads; entries of peers are stored, too, and take such turns as well.
//!
//! Where a fetch brought nothing, or a place became free, only the folder's fetches are looked at, now and then, too.

use std::time::{Duration, Instant};

use cobox_store::id::FolderNo;

use super::state::Folder;
use super::{Engine, Fetched, Input, TICK};

/// Times that a folder is settled at once, one after the other: a file that was written is three or four frames of a
/// peer. One more each [`TICK`] for what peers say, and each [`HERE_EVERY`] for what the store says, for answers that brought
/// what was asked for, and for its fetches.
const AT_ONCE_MAX: u32 = 32;
/// See [`AT_ONCE_MAX`]: each is an entry or a record that was signed and stored, or costs much less.
const HERE_EVERY: Duration = Duration::from_millis(5);
/// Pages of missing packs that are gone through when a folder is settled,
const ROUNDS_SETTLED: u32 = 8;
/// and when only its fetches are looked at: what was begun of one, and the next.
pub(super) const ROUNDS_LOOKED: u32 = 2;

/// What an engine did that costs it most, counted since it began: for tests, which count and do not measure time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Work {
    /// Times that a folder was settled.
    pub settled: u64,
    /// Times that it was looked what a folder fetches next.
    pub planned: u64,
    /// Names of folders that were made to find the one that a peer opens.
    pub names: u64,
    /// Missing packs that were read from the store to find one to be fetched.
    pub listed: u64,
}

/// What had a folder be settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// A peer said something.
    Peers,
    /// A connection ended.
    Gone,
    /// Something changed in the store.
    Here,
    /// What comes by itself only as often as it may.
    Bounded,
}

impl Cause {
    pub fn of(input: &Input) -> Self {
        match input {
            Input::Frame { .. } | Input::Up { .. } | Input::Denied { .. } => Self::Peers,
            // That it has nothing is told with a few bytes.
            Input::Fetched { how, .. } if *how != Fetched::Done => Self::Peers,
            Input::Down { .. } => Self::Gone,
            Input::Changed { .. } => Self::Here,
            _ => Self::Bounded,
        }
    }
}

/// How often a folder may be settled at once.
#[derive(Default)]
pub(super) struct Haste {
    spent: u32,
    since: Option<Instant>,
}

impl Haste {
    fn take(&mut self, every: Duration, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let earned = now.duration_since(since).as_millis() / every.as_millis();
        if earned > 0 {
            self.spent = self.spent.saturating_sub(u32::try_from(earned).unwrap_or(u32::MAX));
            self.since = Some(now);
        }
        let granted = self.spent < AT_ONCE_MAX;
        self.spent += u32::from(granted);
        granted
    }
}

impl Folder {
    /// Whether its fetches are looked at now.
    pub fn may_look(&mut self, cause: Cause, now: Instant) -> bool {
        cause == Cause::Bounded || self.by_fetches.take(HERE_EVERY, now)
    }
}

impl Engine {
    /// What the engine did since it began.
    #[must_use]
    pub fn work(&self) -> Work {
        self.work
    }

    /// Settles folders that were marked, or leaves them for the next tick.
    pub(super) fn settle_due(&mut self, cause: Cause, now: Instant) {
        let pressing = std::mem::take(&mut self.pressing);
        for no in std::mem::take(&mut self.dirty) {
            let Some(folder) = self.folders.get_mut(&no) else { continue };
            let has_turn = match cause {
                Cause::Bounded => true,
                Cause::Peers | Cause::Gone => folder.by_peers.take(TICK, now),
                Cause::Here => folder.by_store.take(HERE_EVERY, now),
            };
            // A reader waits for as little as can be: for what it asked for now, or has to be asked of another peer.
            let reads = || cause != Cause::Peers && !self.store.wants(no).is_empty();
            let mut presses = || pressing.contains(&no) && folder.by_answers.take(HERE_EVERY, now);
            let at_once = has_turn || presses() || reads();
            if at_once {
                self.later.remove(&no);
                self.settle(no, now);
            } else {
                self.later.insert(no);
            }
        }
        for no in std::mem::take(&mut self.to_plan) {
            let Some(folder) = self.folders.get_mut(&no) else { continue };
            if folder.may_look(cause, now) || pressing.contains(&no) {
                self.plan_or_warn(no, ROUNDS_LOOKED, now);
            } else {
                self.later.insert(no);
            }
        }
        self.give_turns(cause, now);
    }

    /// Brings everybody up to date on a folder that changed.
    fn settle(&mut self, no: FolderNo, now: Instant) {
        self.work.settled += 1;
        self.to_plan.remove(&no);
        if let Err(error) = self.refresh(no, now) {
            tracing::warn!(no = no.0, %error, "the folder's state cannot be read");
            return;
        }
        self.tell_forks(no);
        self.tell_papers(no);
        self.tell_contacts(no, now);
        self.push_entries(no);
        self.announce(no, now);
        self.pull(no, now);
        self.plan_or_warn(no, ROUNDS_SETTLED, now);
    }

    pub(super) fn plan_or_warn(&mut self, no: FolderNo, rounds: u32, now: Instant) {
        self.work.planned += 1;
        if let Err(error) = self.plan(no, rounds, now) {
            tracing::warn!(no = no.0, %error, "missing packs cannot be listed");
        }
    }
}
