//! The tree's rows in the store, sealed, and a bounded cache of them.
//!
//! Keys show neither names nor ids that follow from names: they hold keyed hashes. The cache holds what
//! the store holds, also that a row is absent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;
use std::sync::Arc;

use cobox_store::Error;
use cobox_store::blind::tables::{Table, key};
use cobox_store::blind::{Batch, Durability, Generation};
use cobox_store::format::content::Content;
use cobox_store::id::{Ino, OpId};
use cobox_store::keyed::Folder;
use parking_lot::{Mutex, RwLock};

use crate::tree::row::{Note, Slot, SlotHash};
use crate::tree::short::{Long, Shorts, Unknown};
use crate::tree::{Row, RowKey};

/// Memory of one generation of the cache, as [`weight`] counts it; there are two. Some 50,000 files
/// with their names.
const GENERATION_BYTES: usize = 20 << 20;

/// Rows of one folder.
pub struct Rows {
    folder: Arc<Folder>,
    cache: Mutex<Cache>,
    shorts: RwLock<Shorts>,
    /// What rows were spelled with in full since the last were installed.
    unknown: Mutex<Unknown>,
    /// Contents of files that changed, while somebody asks for them.
    noted: Mutex<Option<Vec<Content>>>,
}

/// As long as it lives, contents of files that change are noted.
pub struct Noting<'a>(&'a Rows);

impl Noting<'_> {
    /// Those that were noted so far.
    pub fn take(&self) -> Vec<Content> {
        self.0.noted.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        *self.0.noted.lock() = None;
    }
}

/// Two generations: what is used moves to the young one; when that is full, the old one goes.
#[derive(Default)]
struct Cache {
    young: HashMap<RowKey, Option<Row>>,
    young_bytes: usize,
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

    fn put(&mut self, key: RowKey, row: Option<Row>) {
        if self.young_bytes >= GENERATION_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += weight(&key, row.as_ref());
        match self.young.entry(key) {
            Entry::Occupied(mut entry) => {
                self.young_bytes -= weight(entry.key(), entry.get().as_ref());
                entry.insert(row);
            }
            Entry::Vacant(entry) => {
                entry.insert(row);
            }
        }
    }

    fn forget(&mut self) {
        self.version += 1;
        self.young = HashMap::new();
        self.young_bytes = 0;
        self.old = HashMap::new();
    }
}

/// Bytes of memory that a cached row takes, near enough: its place in a table that is half full, and
/// what it points to.
fn weight(key: &RowKey, row: Option<&Row>) -> usize {
    let in_table = 2 * size_of::<(RowKey, Option<Row>)>();
    let in_key = if let RowKey::Xattr(_, name) = key { name.len() } else { 0 };
    in_table + in_key + row.map_or(0, Row::heap_bytes)
}

/// A changed row, or `None` for one that goes.
pub type Change = (RowKey, Option<Row>);

impl Rows {
    /// The rows of `folder`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(folder: Arc<Folder>) -> Result<Self, Error> {
        let prefix = key(folder.no(), Table::Short, b"");
        let (mut shorts, mut failed) = (Shorts::default(), None);
        folder.store().db().scan(&prefix, &[], &mut |rest, sealed| {
            let stored = [&prefix[..], rest].concat();
            let opened = folder.local().open_row(&stored, sealed).and_then(|plain| Ok(Long::decode(&plain)?));
            match (opened, <[u8; 8]>::try_from(rest)) {
                (Ok(long), Ok(number)) => shorts.insert(u64::from_be_bytes(number), long),
                (Err(error), _) => failed = Some(error),
                (Ok(_), Err(_)) => {}
            }
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let (cache, noted, unknown) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { folder, cache, shorts: RwLock::new(shorts), unknown, noted })
    }

    /// Opens a row and reads it; `row_key` says what kind of row it is.
    ///
    /// # Errors
    /// When it does not open.
    pub fn read(&self, row_key: &RowKey, stored: &[u8], sealed: &[u8]) -> Result<Row, Error> {
        let plain = self.folder.local().open_row(stored, sealed)?;
        Ok(Row::decode(row_key, &plain, &self.shorts.read())?)
    }

    /// Gives numbers to what was spelled in full and is the folder's: a writer may name whatever epochs and logs it
    /// makes up. Numbers are used once they are stored, so that no row names one that is not; where the disk
    /// refuses them, rows stay longer.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    fn learn(&self) -> Result<(), Error> {
        // One thread at a time gives numbers; who reads rows is not kept waiting by the disk.
        let mut unknown = self.unknown.lock();
        if unknown.is_empty() {
            return Ok(());
        }
        let mut found: Vec<Long> = std::mem::take(&mut *unknown).into_iter().collect();
        let mut logs = None;
        found.retain(|long| match long {
            Long::Epoch(epoch) => self.folder.has_epoch(*epoch),
            // What never happened has an op of log 0.
            Long::Log(0) => true,
            Long::Log(number) => {
                logs.get_or_insert_with(|| self.folder.log_numbers().unwrap_or_default()).contains(number)
            }
        });
        let numbered: Vec<(u64, Long)> = {
            let shorts = self.shorts.read();
            found.retain(|long| !shorts.knows(long));
            shorts.free().zip(found).collect()
        };
        if numbered.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for (number, long) in &numbered {
            let stored = key(self.folder.no(), Table::Short, &number.to_be_bytes());
            let sealed = self.folder.local().seal_row(&stored, &long.encode());
            batch.put_owned(stored, sealed);
        }
        self.folder.store().db().commit(batch, Durability::Unsynced)?;
        let mut shorts = self.shorts.write();
        numbered.into_iter().for_each(|(number, long)| shorts.insert(number, long));
        Ok(())
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
            Some(sealed) => Some(self.read(row_key, &stored, &sealed)?),
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
        let shorts = self.shorts.read();
        let mut unknown = Unknown::default();
        for (row_key, row) in changes {
            let stored = self.stored_key(row_key);
            match row {
                Some(row) => {
                    let plain = row.encode(&shorts, &mut unknown);
                    let sealed = self.folder.local().seal_row(&stored, &plain);
                    batch.put_owned(stored, sealed);
                }
                None => batch.delete(&stored),
            }
        }
        drop(shorts);
        if !unknown.is_empty() {
            self.unknown.lock().merge(unknown);
        }
    }

    /// Notes the contents of all files that change from now on; the caller sees to it that nobody else does.
    pub fn note_contents(&self) -> Noting<'_> {
        *self.noted.lock() = Some(Vec::new());
        Noting(self)
    }

    /// Takes over changed rows after their batch was committed.
    pub fn install(&self, changes: Vec<Change>) {
        if let Err(error) = self.learn() {
            tracing::debug!(%error, "short numbers were not stored");
        }
        if let Some(noted) = self.noted.lock().as_mut() {
            let nodes = changes.iter().filter_map(|(_, row)| match row {
                Some(Row::Node(node)) => Some(node),
                _ => None,
            });
            noted.extend(nodes.flat_map(|node| node.heads.iter().map(|head| head.content.clone())));
        }
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
            if let Row::Dirent(slot) = self.read(&RowKey::Dirent(parent, SlotHash(hash)), &stored, &value)? {
                slots.push((SlotHash(hash), slot));
            }
        }
        Ok(slots)
    }

    /// Where people may have to look, in no order that means anything; at most `max`.
    ///
    /// # Errors
    /// When the store cannot be read or a row does not open.
    pub fn notes(&self, max: usize) -> Result<Vec<Note>, Error> {
        let prefix = key(self.folder.no(), Table::Note, b"");
        let mut notes = Vec::new();
        self.each(&prefix, max, &mut |_, plain| {
            notes.push(Note::from_row(plain)?);
            Ok(())
        })?;
        Ok(notes)
    }

    /// Makes the notes of a tree that an older version wrote, once.
    ///
    /// # Errors
    /// When the store cannot be read or written, or a row does not open.
    pub fn note_all_once(&self) -> Result<(), Error> {
        let (no, db) = (self.folder.no(), self.folder.store().db());
        let marker = key(no, Table::Misc, b"noted");
        if db.get(&marker)?.is_some() {
            return Ok(());
        }
        let mut found: Vec<(RowKey, Row)> = Vec::new();
        let mut slots = Vec::new();
        self.each(&key(no, Table::Dirent, b""), usize::MAX, &mut |rest, plain| {
            let hash = rest.get(16..).and_then(|hash| <[u8; 16]>::try_from(hash).ok()).unwrap_or_default();
            let hash = SlotHash(hash);
            let row_key = RowKey::Dirent(Ino::ROOT, hash);
            if let Row::Dirent(slot) = Row::decode(&row_key, plain, &self.shorts.read())? {
                slots.push((hash, slot));
            }
            Ok(())
        })?;
        for (hash, slot) in slots {
            let Some(first) = slot.entries.first() else { continue };
            let Some(Row::Link(link)) = self.get(&RowKey::Link(first.link))? else { continue };
            let parent = link.place().map_or(Ino::ROOT, |place| place.parent);
            for entry in &slot.entries {
                for row_key in [RowKey::Link(entry.link), RowKey::Node(entry.ino)] {
                    found.extend(self.get(&row_key)?.map(|row| (row_key, row)));
                }
            }
            found.push((RowKey::Dirent(parent, hash), Row::Dirent(slot)));
            found.retain(|(row_key, row)| row.note(row_key).is_some());
        }
        self.each(&key(no, Table::DirMove, b""), usize::MAX, &mut |rest, plain| {
            let (hlc, log) = rest.split_at_checked(8).unwrap_or_default();
            let number = |bytes: &[u8]| u64::from_be_bytes(<[u8; 8]>::try_from(bytes).unwrap_or_default());
            let row_key = RowKey::DirMove(OpId { hlc: number(hlc), log: number(log) });
            found.push((row_key.clone(), Row::decode(&row_key, plain, &self.shorts.read())?));
            Ok(())
        })?;
        let notes = found.iter().filter_map(|(row_key, row)| row.note(row_key));
        let changes: Vec<Change> = notes.map(|note| (RowKey::Note(note), Some(Row::Note(note)))).collect();
        let mut batch = Batch::default();
        self.stage(&changes, &mut batch);
        batch.put(&marker, &[]);
        db.commit(batch, Durability::Unsynced)?;
        self.install(changes);
        Ok(())
    }

    /// Opens at most `max` rows below a prefix, one after the other.
    fn each(
        &self,
        prefix: &[u8],
        max: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (mut done, mut failed) = (0, None);
        self.folder.store().db().scan(prefix, &[], &mut |rest, value| {
            let stored = [prefix, rest].concat();
            let opened = self.folder.local().open_row(&stored, value);
            if let Err(error) = opened.and_then(|plain| visit(rest, &plain)) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
            done += 1;
            if done >= max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_or(Ok(()), Err)
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
            RowKey::Note(note) => {
                key(no, Table::Note, &self.folder.local().name_hash(&Ino::ROOT, &note.to_bytes()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
