//! Whose turn it is where several folders have packs to fetch.
//!
//! Packs in flight are bounded for the whole node. Whoever sends slowly on purpose, or has a slow line, would hold all
//! places with the packs of one folder, and each place that becomes free would be that folder's again. So a
//! folder that found no room waits in line: first who has the fewest packs in flight, and of those who came first.

use std::time::Instant;

use cobox_store::format::pack::PackRef;
use cobox_store::id::FolderNo;

use super::Engine;
use super::plan::is_large;
use super::state::{Flight, Plan};

/// A folder in line.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    since: Instant,
    /// For a place among the large packs, or the small ones.
    large: bool,
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
        let goes_first = |plan: &Plan| {
            let waits = plan.waiting.filter(|waiting| waiting.large == large);
            waits.is_some_and(|waiting| (self.flying_of(plan, large), waiting.since) < (own, since))
        };
        let others_first =
            || self.folders.iter().any(|(other, folder)| *other != no && goes_first(&folder.plan));
        if self.room_for(pack) && !others_first() {
            return true;
        }
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.plan.waiting = Some(Waiting { since, large });
        }
        false
    }

    /// Flights with peers that are late have places of their own, and are not held against who waits for them.
    fn flying_of(&self, plan: &Plan, large: bool) -> usize {
        let counts = |flight: &&Flight| is_large(flight.size) == large && !self.is_late(flight.conn);
        plan.flying.values().filter(counts).count()
    }

    /// A place may have become free: who waits in line looks again.
    pub(super) fn next_turn(&mut self) {
        let waiting = self.folders.iter().filter(|(_, folder)| folder.plan.waiting.is_some());
        self.to_plan.extend(waiting.map(|(no, _)| *no).collect::<Vec<_>>());
    }
}
