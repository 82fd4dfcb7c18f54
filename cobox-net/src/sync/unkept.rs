//! What a seeder's program is to keep of where devices are. Each time is a write to the disk, and what brings it about is
//! said by devices: one that says something new all the time has its folder written once a minute, and nobody else's later.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cobox_store::id::FolderNo;

use crate::wire::Whereabouts;

/// How often a folder is kept. A power cut takes what was learned since: calls that were not needed.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// Folders that are kept in one go: where all devices of a seeder with thousands of folders come to its new place, others
/// wait for the disk, too.
pub const MOVES_MAX: usize = 64;

/// What a program asks for, to keep it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// What was not kept for a while.
    Due,
    /// Whatever is not kept yet: it is about to end.
    All,
}

/// Folders that are to be kept.
#[derive(Default)]
pub(super) struct Unkept {
    /// Of which something new is known since the program asked last.
    fresh: BTreeSet<FolderNo>,
    /// Those that wait, who waits longest first.
    line: BTreeSet<(Instant, FolderNo)>,
    waiting: BTreeSet<FolderNo>,
    /// When each was kept last, as far as that matters.
    kept: BTreeMap<FolderNo, Instant>,
    /// What was known of those that were taken out of the engine meanwhile, as a pause does.
    gone: BTreeMap<FolderNo, Whereabouts>,
}

impl Unkept {
    /// Something new is known.
    pub fn note(&mut self, no: FolderNo) {
        self.fresh.insert(no);
    }

    /// Whether something of the folder is to be kept.
    pub fn has(&self, no: FolderNo) -> bool {
        self.fresh.contains(&no) || self.waiting.contains(&no)
    }

    /// The folder leaves the engine, with this.
    pub fn put_aside(&mut self, no: FolderNo, known: Whereabouts) {
        self.gone.insert(no, known);
    }

    /// What was put aside.
    pub fn take_back(&mut self, no: FolderNo) -> Option<Whereabouts> {
        self.gone.remove(&no)
    }

    /// Those that are kept now; no more than a program can write in a moment.
    pub fn take(&mut self, keep: Keep, now: Instant) -> Vec<FolderNo> {
        self.kept.retain(|_, at| now < *at + KEEP_EVERY);
        for no in std::mem::take(&mut self.fresh) {
            if self.waiting.insert(no) {
                let due = self.kept.get(&no).map_or(now, |at| *at + KEEP_EVERY);
                self.line.insert((due, no));
            }
        }
        let mut taken = Vec::new();
        while let Some((due, no)) = self.line.first().copied()
            && (keep == Keep::All || due <= now)
            && taken.len() < MOVES_MAX
        {
            self.line.pop_first();
            self.waiting.remove(&no);
            self.kept.insert(no, now);
            taken.push(no);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_that_changes_all_the_time_is_kept_once_a_minute_and_others_at_once() {
        let (mut unkept, start) = (Unkept::default(), Instant::now());
        let (mut busy, mut other) = (0, 0);
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            unkept.note(FolderNo(1));
            if second == 301 {
                unkept.note(FolderNo(2));
            }
            for no in unkept.take(Keep::Due, now) {
                *if no == FolderNo(1) { &mut busy } else { &mut other } += 1;
            }
            assert_eq!(other, u32::from(second >= 301), "{second}");
        }
        assert_eq!(busy, 10);
        // Nothing is lost when the program ends.
        assert_eq!(unkept.take(Keep::All, start + Duration::from_secs(600)), [FolderNo(1)]);
        assert_eq!(unkept.take(Keep::All, start + Duration::from_secs(600)), []);
    }

    #[test]
    fn folders_that_change_all_the_time_do_not_keep_one_behind_them_from_being_kept() {
        let (mut unkept, start) = (Unkept::default(), Instant::now());
        let many = 10 * u32::try_from(MOVES_MAX).expect("a few");
        let mut kept = BTreeMap::new();
        for turn in 0..30 {
            (0..many).for_each(|no| unkept.note(FolderNo(no)));
            let now = start + Duration::from_secs(turn * 60);
            let taken = unkept.take(Keep::Due, now);
            assert_eq!(taken.len(), MOVES_MAX);
            taken.into_iter().for_each(|no| *kept.entry(no).or_insert(0) += 1);
        }
        assert!((0..many).all(|no| kept.get(&FolderNo(no)) == Some(&3)));
    }
}
