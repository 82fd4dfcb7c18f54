//! Packs that a reader waits for right now: in memory only, so that the network fetches them first.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::store::Store;
use crate::id::{FolderNo, PackId};

/// Wanted packs of one folder at the most; older wishes fall out, and a reader that still waits
/// repeats its wish.
pub const WANTS_MAX: usize = 1024;

/// Wishes of all folders, oldest first.
#[derive(Default)]
pub struct Wants(Mutex<HashMap<FolderNo, Vec<PackId>>>);

impl Wants {
    pub(crate) fn forget(&self, no: FolderNo, pack: PackId) {
        if let Some(wants) = self.0.lock().get_mut(&no) {
            wants.retain(|wanted| *wanted != pack);
        }
    }
}

impl Store {
    /// Raises the priority of a pack that is not here; who waits watches [`Store::watch`].
    pub fn want(&self, no: FolderNo, pack: PackId) {
        {
            let mut all = self.wants.0.lock();
            let wants = all.entry(no).or_default();
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
        self.wants.0.lock().get(&no).cloned().unwrap_or_default()
    }
}
