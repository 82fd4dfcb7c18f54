//! Packs that a reader waits for right now: in memory only, so that the network fetches them first.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;

use super::store::Store;
use crate::id::{FolderNo, PackId};

/// Wanted packs of one folder at the most; older wishes fall out, and a reader that still waits
/// repeats its wish.
pub const WANTS_MAX: usize = 1024;

/// Wishes of all folders.
#[derive(Default)]
pub struct Wants(Mutex<HashMap<FolderNo, Wishes>>);

#[derive(Default)]
struct Wishes {
    /// Oldest first.
    open: Vec<PackId>,
    /// Nobody could fulfil these when they were asked for last; oldest first.
    given_up: Vec<(PackId, Instant)>,
}

impl Wants {
    pub(crate) fn forget(&self, no: FolderNo, pack: PackId) {
        if let Some(wishes) = self.0.lock().get_mut(&no) {
            wishes.open.retain(|wanted| *wanted != pack);
        }
    }
}

impl Store {
    /// Raises the priority of a pack that is not here; who waits watches [`Store::watch`].
    pub fn want(&self, no: FolderNo, pack: PackId) {
        {
            let mut all = self.wants.0.lock();
            let wants = &mut all.entry(no).or_default().open;
            if wants.contains(&pack) {
                return;
            }
            if wants.len() == WANTS_MAX {
                wants.remove(0);
            }
            wants.push(pack);
        }
        self.watch().bump(no);
    }

    /// What readers of a folder wait for, in the order they asked.
    #[must_use]
    pub fn wants(&self, no: FolderNo) -> Vec<PackId> {
        self.wants.0.lock().get(&no).map(|wishes| wishes.open.clone()).unwrap_or_default()
    }

    /// Says that no peer may still answer a wish: whoever waits for it need not go on.
    pub fn give_up(&self, no: FolderNo, pack: PackId) {
        {
            let mut all = self.wants.0.lock();
            let wishes = all.entry(no).or_default();
            wishes.open.retain(|wanted| *wanted != pack);
            wishes.given_up.retain(|(given_up, _)| *given_up != pack);
            if wishes.given_up.len() == WANTS_MAX {
                wishes.given_up.remove(0);
            }
            wishes.given_up.push((pack, Instant::now()));
        }
        self.watch().bump(no);
    }

    /// Whether a wish was given up at `since` or later.
    #[must_use]
    pub fn is_given_up(&self, no: FolderNo, pack: PackId, since: Instant) -> bool {
        let all = self.wants.0.lock();
        let same = |(given_up, at): &(PackId, Instant)| *given_up == pack && *at >= since;
        all.get(&no).is_some_and(|wishes| wishes.given_up.iter().any(same))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Founder, new_store};
    use super::*;

    #[test]
    fn wish_that_was_given_up_is_so_for_those_who_wait_and_not_for_who_asks_later() {
        let (_dir, store, no) = new_store(&Founder::new(1));
        let (since, pack) = (Instant::now(), PackId([1; 32]));
        store.want(no, pack);
        assert_eq!(store.wants(no), [pack]);
        assert!(!store.is_given_up(no, pack, since));
        store.give_up(no, pack);
        assert!(store.wants(no).is_empty());
        assert!(store.is_given_up(no, pack, since));
        let mut later = Instant::now();
        while later == since || store.is_given_up(no, pack, later) {
            later = Instant::now();
        }
        store.want(no, pack);
        assert_eq!(store.wants(no), [pack], "it can be asked for again");
    }

    #[test]
    fn wishes_of_both_kinds_are_bounded() {
        let (_dir, store, no) = new_store(&Founder::new(1));
        let since = Instant::now();
        let packs = (0..=WANTS_MAX as u32).map(|n| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&n.to_le_bytes());
            PackId(id)
        });
        let packs: Vec<PackId> = packs.collect();
        packs.iter().for_each(|pack| store.want(no, *pack));
        assert_eq!(store.wants(no).len(), WANTS_MAX);
        packs.iter().for_each(|pack| store.give_up(no, *pack));
        assert!(store.wants(no).is_empty());
        assert!(!store.is_given_up(no, packs[0], since), "the oldest fell out");
        assert!(store.is_given_up(no, packs[WANTS_MAX], since));
    }
}
