//! What a crash left: packs that are here and that nothing refers to.
//!
//! A pack is stored before the rows that lead to it, so that a crash between the two costs space and
//! nothing else. A member's device asks for this when it opens a folder; a seeder has no such packs,
//! because it fetches only what entries name.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::batch::{Batch, Durability};
use super::pack_info::info_key;
use super::store::Store;
use super::tables::{Table, key};
use crate::error::Result;
use crate::id::{FolderNo, PackId};

impl Store {
    /// Removes the packs of a folder that no entry names and that are not in `kept`; returns how many.
    ///
    /// Nothing else may store packs of the folder meanwhile.
    ///
    /// # Errors
    /// When the store fails; what was not removed is removed by the next call.
    pub fn packs_sweep(&self, no: FolderNo, kept: &HashSet<PackId>) -> Result<u64> {
        let mut live: HashSet<[u8; 32]> = HashSet::new();
        // What was released goes when nothing uses it, and not here.
        for table in [Table::Live, Table::Released] {
            self.db().scan(&key(no, table, &[]), &[], &mut |id, _| {
                live.extend(<[u8; 32]>::try_from(id));
                ControlFlow::Continue(())
            })?;
        }
        let mut unnamed: Vec<PackId> = Vec::new();
        self.db().scan(&key(no, Table::PackInfo, &[]), &[], &mut |id, _| {
            let id = <[u8; 32]>::try_from(id).ok().filter(|id| !live.contains(id)).map(PackId);
            unnamed.extend(id.filter(|id| !kept.contains(id)));
            ControlFlow::Continue(())
        })?;
        for pack in &unnamed {
            self.pack_forget(no, *pack)?;
        }
        let count = unnamed.len() as u64;
        if count > 0 {
            tracing::info!(folder = no.0, packs = count, "packs that nothing refers to were removed");
        }
        Ok(count)
    }

    fn pack_forget(&self, no: FolderNo, pack: PackId) -> Result<()> {
        let held = self.ordinals.lock();
        let Some(info) = self.pack_info(no, pack)? else { return Ok(()) };
        let mut batch = Batch::default();
        batch.delete(&info_key(no, pack));
        batch.delete(&key(no, Table::Outboard, &pack.0));
        info.ordinal.stage_garbage(&mut batch);
        self.db().commit(batch, Durability::Unsynced)?;
        drop(held);
        self.remove_ordinals(&[info.ordinal]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::packs::PackStatus;
    use super::super::testing::{Author, Founder, new_store, pack_bytes};
    use super::*;
    use crate::format::proof::Outboard;

    #[test]
    fn sweep_takes_only_packs_that_nothing_refers_to() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let packs: Vec<_> = (1..4).map(|seed| pack_bytes(seed, 1 << 18)).collect();
        let outboards: Vec<_> = packs.iter().map(|bytes| Outboard::of(bytes)).collect();
        let refs: Vec<_> = outboards.iter().map(Outboard::pack).collect();
        let mut author = Author::new(&founder, &store, no);
        store.entry_add(no, &author.write(&[refs[0]], b"body")).expect("taken");
        for (outboard, bytes) in outboards.iter().zip(&packs) {
            store.pack_put(no, outboard.pack(), outboard, bytes).expect("stored");
        }
        assert_eq!(store.packs_sweep(no, &HashSet::from([refs[1].id])).expect("swept"), 1);
        let there = |at: usize| store.pack_status(no, refs[at].id).expect("reads");
        assert_eq!(there(0), PackStatus::Complete(refs[0]));
        assert_eq!(there(1), PackStatus::Complete(refs[1]));
        assert_eq!(there(2), PackStatus::Unknown);
        assert_eq!(store.slice(no, refs[2].id, 0).expect("reads"), None);
        assert_eq!(store.packs_sweep(no, &HashSet::from([refs[1].id])).expect("swept"), 0);
    }
}
