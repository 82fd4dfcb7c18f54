//! A folder leaves the store: all its rows, records, entries and packs.

use std::ops::ControlFlow;

use super::batch::{Batch, Durability};
use super::effects::stage_no_effects;
use super::ordinals::Ordinal;
use super::store::Store;
use super::tables::{STORE, Table, key};
use crate::error::Result;
use crate::id::{FolderNo, PackId};

impl Store {
    /// Removes a folder with everything of it; durable on return. Nobody may use it any more.
    ///
    /// # Errors
    /// [`crate::Error::UnknownFolderNo`], or when the disk fails: then all of it is there, or what is left goes
    /// when the store is opened again.
    pub fn folder_remove(&self, no: FolderNo) -> Result<()> {
        let id = self.folder_id(no)?;
        let held = self.ordinals.lock();
        let mut packs = Vec::new();
        self.db().scan(&key(no, Table::PackInfo, &[]), &[], &mut |id, _| {
            packs.extend(id.try_into().map(PackId));
            ControlFlow::Continue(())
        })?;
        let mut batch = Batch::default();
        let mut ordinals: Vec<Ordinal> = Vec::new();
        for pack in packs {
            if let Some(info) = self.pack_info(no, pack)? {
                info.ordinal.stage_garbage(&mut batch);
                ordinals.push(info.ordinal);
            }
        }
        batch.delete_prefix(&no.0.to_be_bytes());
        stage_no_effects(no, &mut batch);
        batch.delete(&key(STORE, Table::FolderById, &id.0));
        batch.delete(&key(STORE, Table::FolderByNo, &no.0.to_be_bytes()));
        self.db().commit(batch, Durability::Synced)?;
        self.forget_folder(no, id);
        drop(held);
        self.remove_ordinals(&ordinals);
        self.compact_small(&ordinals)?;
        tracing::info!(folder = %id, packs = ordinals.len(), "a folder was removed");
        self.watch().bump(no);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::StoreKind;
    use super::super::testing::{Author, Founder, new_store, pack_bytes};
    use super::*;
    use crate::error::Error;
    use crate::format::proof::Outboard;

    #[test]
    fn folder_that_leaves_takes_everything_with_it_and_may_come_again() {
        let founder = Founder::new(1);
        let (dir, store, no) = new_store(&founder);
        let other = Founder::new(2);
        let other_no = store.folder_add(&other.genesis).expect("adds");
        let mut author = Author::new(&founder, &store, no);
        let packs: Vec<_> = [1 << 20, 4096]
            .into_iter()
            .map(|size| pack_bytes(size as u64, size))
            .map(|bytes| (Outboard::of(&bytes), bytes))
            .collect();
        store.packs_put(no, &packs).expect("puts");
        let refs: Vec<_> = packs.iter().map(|(outboard, _)| outboard.pack()).collect();
        store.entry_add(no, &author.write(&refs, b"")).expect("adds");
        store.folder_remove(no).expect("removes");
        assert!(matches!(store.access(no), Err(Error::UnknownFolderNo(_))));
        assert_eq!(store.folders().expect("lists"), [(other_no, other.folder())]);
        drop(store);
        let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
        let mut left = 0;
        store
            .db()
            .scan(&no.0.to_be_bytes(), &[], &mut |_, _| {
                left += 1;
                ControlFlow::Continue(())
            })
            .expect("scans");
        assert_eq!(left, 0);
        assert_eq!(store.db().bulk_last_below(&[0xff; 12]).expect("reads"), None);
        let again = store.folder_add(&founder.genesis).expect("adds");
        assert!(store.log_heads(again).expect("reads").is_empty());
    }
}
