//! The tree's rows in the store, sealed, and a bounded cache of them.
//!
//! Keys show neither names nor ids that follow from names: they hold keyed hashes. The cache holds what
//! the store holds, also that a row is absent.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use cobox_store::Error;
use cobox_store::blind::tables::{Table, key};
use cobox_store::blind::{Batch, Generation};
use cobox_store::id::{Ino, OpId};
use cobox_store::keyed::Folder;
use parking_lot::Mutex;

use crate::tree::row::{Slot, SlotHash};
use crate::tree::{Row, RowKey};

/// Rows in one generation of the cache: two generations of some 300 bytes each are about 40 MB.
const GENERATION_ROWS: usize = 65_536;

/// Rows of one folder.
pub struct Rows {
    folder: Arc<Folder>,
    cache: Mutex<Cache>,
}

/// Two generations: what is used moves to the young one; when that is full, the old one goes.
#[derive(Default)]
struct Cache {
    young: HashMap<RowKey, Option<Row>>,
    old: HashMap<RowKey, Option<Row>>,
    /// Grows with every change, so that a reader never caches what was replaced while it read.
    version: u64,
    /// The opening of the database that the rows were read from.
    generation: Generation,
}

impl Cache {
    fn get(&mut self, key: &RowKey) -> Option<Option<Row>> {
        if let Some(row) = self.young.get(key) {
            return Some(row.clone());
        }
        let row = self.old.remove(key)?;
        self.put(key.clone(), row.clone());
        Some(row)
    }

    fn forget(&mut self) {
        self.version += 1;
        self.young.clear();
        self.old.clear();
    }

    fn put(&mut self, key: RowKey, row: Option<Row>) {
        if self.young.len() >= GENERATION_ROWS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, row);
    }
}

/// A changed row, or `None` for one that goes.
pub type Change = (RowKey, Option<Row>);

impl Rows {
    /// The rows of `folder`.
    #[must_use]
    pub fn new(folder: Arc<Folder>) -> Self {
        Self { folder, cache: Mutex::default() }
    }

    /// A row.
    ///
    /// # Errors
    /// When the store cannot be read or the row does not open.
    pub fn get(&self, row_key: &RowKey) -> Result<Option<Row>, Error> {
        let generation = self.folder.store().db().generation();
        let version = {
            let mut cache = self.cache.lock();
            if cache.generation != generation {
                // A change that was refused on a full disk may have appeared when it was opened anew.
                cache.forget();
                cache.generation = generation;
            }
            if let Some(row) = cache.get(row_key) {
                return Ok(row);
            }
            cache.version
        };
        let stored = self.stored_key(row_key);
        let row = match self.folder.store().db().get(&stored)? {
            Some(sealed) => Some(Row::decode(row_key, &self.folder.local().open(&stored, &sealed)?)?),
            None => None,
        };
        let mut cache = self.cache.lock();
        if cache.version == version {
            cache.put(row_key.clone(), row.clone());
        }
        Ok(row)
    }

    /// Adds changed rows to a batch.
    pub fn stage(&self, changes: &[Change], batch: &mut Batch) {
        for (row_key, row) in changes {
            let stored = self.stored_key(row_key);
            match row {
                Some(row) => {
                    let sealed = self.folder.local().seal(&stored, &row.encode());
                    batch.put_owned(stored, sealed);
                }
                None => batch.delete(&stored),
            }
        }
    }

    /// Takes over changed rows after their batch was committed.
    pub fn install(&self, changes: Vec<Change>) {
        let mut cache = self.cache.lock();
        cache.version += 1;
        for (row_key, row) in changes {
            cache.old.remove(&row_key);
            cache.put(row_key, row);
        }
    }

    /// Forgets everything that is cached.
    pub fn drop_cache(&self) {
        self.cache.lock().forget();
    }

    /// At most `max` slots of a directory in the order of their hashes, from `from` on.
    ///
    /// # Errors
    /// When the store cannot be read or a row does not open.
    pub fn slots(&self, parent: Ino, from: [u8; 16], max: usize) -> Result<Vec<(SlotHash, Slot)>, Error> {
        let prefix = key(self.folder.no(), Table::Dirent, &self.hidden(&parent));
        let mut sealed: Vec<([u8; 16], Vec<u8>)> = Vec::new();
        self.folder.store().db().scan(&prefix, &from, &mut |rest, value| {
            if let Ok(hash) = <[u8; 16]>::try_from(rest) {
                sealed.push((hash, value.to_vec()));
            }
            if sealed.len() >= max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let mut slots = Vec::with_capacity(sealed.len());
        for (hash, value) in sealed {
            let stored = [&prefix[..], &hash].concat();
            let plain = self.folder.local().open(&stored, &value)?;
            if let Row::Dirent(slot) = Row::decode(&RowKey::Dirent(parent, SlotHash(hash)), &plain)? {
                slots.push((SlotHash(hash), slot));
            }
        }
        Ok(slots)
    }

    /// What stands in a key for an inode.
    #[must_use]
    pub fn hidden(&self, ino: &Ino) -> [u8; 16] {
        self.folder.local().name_hash(ino, b"")
    }

    fn stored_key(&self, row_key: &RowKey) -> Vec<u8> {
        let no = self.folder.no();
        match row_key {
            RowKey::Node(ino) => key(no, Table::Node, &self.hidden(ino)),
            RowKey::Link(link) => key(no, Table::Link, &self.hidden(&Ino(link.0))),
            RowKey::Dirent(parent, slot) => key(no, Table::Dirent, &[self.hidden(parent), slot.0].concat()),
            RowKey::Xattr(ino, name) => {
                let hash = self.folder.local().name_hash(ino, name);
                key(no, Table::Xattr, &[self.hidden(ino), hash].concat())
            }
            RowKey::DirMove(OpId { hlc, log }) => {
                key(no, Table::DirMove, &[hlc.to_be_bytes(), log.to_be_bytes()].concat())
            }
            RowKey::NewestDirMove => key(no, Table::Misc, b"newest dir move"),
        }
    }
}
