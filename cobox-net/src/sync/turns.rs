//! Whose turn it is where several folders have packs to fetch.
//!
//! Packs in flight are bounded for the whole node. Whoever sends slowly on purpose, or has a slow line, would hold all
//! places with the packs of one folder, and each place that becomes free would be that folder's again. So a
//! folder that found no room waits in line: first who has the fewest packs in flight, and of those who came first.
//!
//! A place that becomes free is given to the first in line, and nobody else is looked at: with thousands of folders in
//! line each pack that comes would else cost a look at all of them. Readers do not wait in line: folders of which one waits
//! for a pack come before, each of them in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use cobox_store::format::pack::PackRef;
use cobox_store::id::FolderNo;

use super::Engine;
use super::plan::{SMALL_FLYING_MAX, is_large};
use super::settle::{Cause, ROUNDS_LOOKED};
use super::state::{Flight, Plan};
use crate::rotation::next_behind;

/// Places that are given in one go: all of those that one connection may have held, which it leaves at once. What is left
/// is given with the next tick.
const GIVEN_MAX: usize = 2 * SMALL_FLYING_MAX;

/// A folder in line.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    since: Instant,
    /// For a place among the large packs, or the small ones.
    large: bool,
}

/// Those who wait for a place among the packs of one kind.
#[derive(Default)]
struct Line {
    /// Since when, and who.
    folders: BTreeSet<(Instant, FolderNo)>,
    /// Folders of which a reader waits for a pack, and the one that was looked at last.
    readers: BTreeMap<FolderNo, ()>,
    last_reader: Option<FolderNo>,
}

impl Line {
    /// Takes out the next folder of those of which a reader waits: each in turn.
    fn next_reader(&mut self) -> Option<FolderNo> {
        let next = next_behind(&self.readers, &mut self.last_reader)?;
        self.readers.remove(&next);
        Some(next)
    }
}

/// Who waits for a place.
#[derive(Default)]
pub(super) struct Lines {
    small: Line,
    large: Line,
    /// Whether a place may have become free.
    due: bool,
}

impl Lines {
    fn of(&mut self, large: bool) -> &mut Line {
        if large { &mut self.large } else { &mut self.small }
    }
}

impl Engine {
    /// Whether the folder may fetch this pack now. Where not, it waits in line from `waited` on, or from now.
    pub(super) fn takes_turn(
        &mut self,
        no: FolderNo,
        pack: PackRef,
        waited: Option<Waiting>,
        now: Instant,
    ) -> bool {
        let large = is_large(pack.size);
        let since = waited.filter(|waited| waited.large == large).map_or(now, |waited| waited.since);
        let Some(folder) = self.folders.get(&no) else { return false };
        let own = self.flying_of(&folder.plan, large);
        let others_first = || self.first_in_line(large).is_some_and(|(first, _)| first < (own, since));
        if self.room_for(pack) && !others_first() {
            return true;
        }
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.plan.waiting = Some(Waiting { since, large });
            self.lines.of(large).folders.insert((since, no));
        }
        false
    }

    /// Takes a folder out of the line; where it stood.
    pub(super) fn leave_line(&mut self, no: FolderNo) -> Option<Waiting> {
        let waiting = self.folders.get_mut(&no)?.plan.waiting.take()?;
        self.lines.of(waiting.large).folders.remove(&(waiting.since, no));
        Some(waiting)
    }

    /// Who has the fewest packs in flight, and came first of those. They are in the order in which they came, and few of
    /// them can have any in flight at all.
    fn first_in_line(&self, large: bool) -> Option<((usize, Instant), FolderNo)> {
        let line = if large { &self.lines.large } else { &self.lines.small };
        let mut first = None;
        for (since, no) in &line.folders {
            let Some(folder) = self.folders.get(no) else { continue };
            let flying = self.flying_of(&folder.plan, large);
            let place = ((flying, *since), *no);
            first = Some(first.map_or(place, |first: ((usize, Instant), FolderNo)| first.min(place)));
            if flying == 0 {
                break;
            }
        }
        first
    }

    /// Flights with peers that are late have places of their own, and are not held against who waits for them.
    fn flying_of(&self, plan: &Plan, large: bool) -> usize {
        let counts = |flight: &&Flight| is_large(flight.size) == large && !self.is_late(flight.conn);
        plan.flying.values().filter(counts).count()
    }

    /// A reader waits for this pack of a folder, and there was no room for it.
    pub(super) fn reader_waits(&mut self, no: FolderNo, pack: PackRef) {
        self.lines.of(is_large(pack.size)).readers.insert(no, ());
    }

    /// A place may have become free: who is first in line looks again.
    pub(super) fn next_turn(&mut self) {
        self.lines.due = true;
    }

    /// Gives the places that have become free to those who wait for them.
    pub(super) fn give_turns(&mut self, cause: Cause, now: Instant) {
        if !std::mem::take(&mut self.lines.due) {
            return;
        }
        for large in [false, true] {
            if !self.has_room(large) {
                continue;
            }
            for _ in 0..GIVEN_MAX {
                let next = if self.has_room(large) { self.lines.of(large).next_reader() } else { None };
                let Some(no) = next else { break };
                self.plan_or_warn(no, ROUNDS_LOOKED, now);
            }
            for _ in 0..GIVEN_MAX {
                let first = if self.has_room(large) { self.first_in_line(large) } else { None };
                let Some((_, no)) = first else { break };
                let Some(folder) = self.folders.get_mut(&no) else { break };
                if !folder.may_look(cause, now) {
                    // With the next tick.
                    self.later.insert(no);
                    break;
                }
                self.plan_or_warn(no, ROUNDS_LOOKED, now);
            }
        }
    }
}
