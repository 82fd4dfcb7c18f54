//! A transaction: the rows that an op changes, laid over the rows that are stored.
//!
//! It never writes: the caller takes [`Tx::into_changes`] and commits them with the op.

use super::names::{CaseRule, name_key};
use super::row::{DirMoveRow, LinkRow, NodeRow, Note, Row, RowKey, Slot, SlotHash, XattrRow};
use cobox_store::Error;
use cobox_store::id::{Ino, LinkId, OpId};
use std::collections::BTreeMap;

/// Reads a stored row.
pub type Read<'a> = &'a dyn Fn(&RowKey) -> Result<Option<Row>, Error>;

/// A keyed hash of `(parent, name_key)`, so that stored keys show no names on a locked device.
pub type NameHash<'a> = &'a dyn Fn(&Ino, &[u8]) -> [u8; 16];

/// The rules of a folder that are fixed when it is created.
#[derive(Clone, Copy, Default, Debug)]
pub struct Policy {
    /// How names are compared.
    pub case: CaseRule,
    pub(crate) rules: super::Rules,
}

impl Policy {
    /// A folder's policy.
    #[must_use]
    pub fn new(case: CaseRule) -> Self {
        Self { case, rules: super::Rules::default() }
    }
}

/// What the kernel must forget after a remote op.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Touched {
    /// Attributes, content or, of a directory, the list of entries.
    Inode(Ino),
    /// What a name stands for, or whether it does; conflict names of the same slot may differ as well.
    Name {
        /// The directory.
        parent: Ino,
        /// The raw name.
        name: Vec<u8>,
    },
}

struct Cell {
    row: Option<Row>,
    changed: bool,
    /// The note that is stored beside the stored row.
    noted: Option<Note>,
}

/// Changed rows over stored rows.
pub struct Tx<'a> {
    read: Read<'a>,
    name_hash: NameHash<'a>,
    cells: BTreeMap<RowKey, Cell>,
    pub(crate) touched: Vec<Touched>,
}

macro_rules! typed_rows {
    ($($get:ident, $get_mut:ident, $variant:ident($key:ty) -> $row:ty;)*) => {
        $(
            pub(crate) fn $get(&mut self, key: $key) -> Result<Option<&$row>, Error> {
                match self.cell(RowKey::$variant(key))?.row.as_ref() {
                    Some(Row::$variant(row)) => Ok(Some(row)),
                    _ => Ok(None),
                }
            }

            pub(crate) fn $get_mut(&mut self, key: $key) -> Result<Option<&mut $row>, Error> {
                let cell = self.cell(RowKey::$variant(key))?;
                match cell.row.as_mut() {
                    Some(Row::$variant(row)) => {
                        cell.changed = true;
                        Ok(Some(row))
                    }
                    _ => Ok(None),
                }
            }
        )*
    };
}

impl<'a> Tx<'a> {
    /// Nothing changed yet.
    #[must_use]
    pub fn new(read: Read<'a>, name_hash: NameHash<'a>) -> Self {
        Self { read, name_hash, cells: BTreeMap::new(), touched: Vec::new() }
    }

    /// A row as this transaction sees it; a reader for a [`super::View`] on top of unsaved changes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn peek(&self, key: &RowKey) -> Result<Option<Row>, Error> {
        match self.cells.get(key) {
            Some(cell) => Ok(cell.row.clone()),
            None => (self.read)(key),
        }
    }

    /// The rows to store (`None`: to delete), each with the change of its note.
    pub fn into_changes(self) -> impl Iterator<Item = (RowKey, Option<Row>)> {
        self.cells.into_iter().filter(|(_, cell)| cell.changed).flat_map(|(key, cell)| {
            let note = cell.row.as_ref().and_then(|row| row.note(&key));
            let changed = match (cell.noted, note) {
                (None, Some(note)) => Some((RowKey::Note(note), Some(Row::Note(note)))),
                (Some(note), None) => Some((RowKey::Note(note), None)),
                _ => None,
            };
            std::iter::once((key, cell.row)).chain(changed)
        })
    }

    typed_rows! {
        link, link_mut, Link(LinkId) -> LinkRow;
        dir_move, dir_move_mut, DirMove(OpId) -> DirMoveRow;
    }

    pub(crate) fn node(&mut self, ino: Ino) -> Result<Option<&NodeRow>, Error> {
        Ok(self.node_cell(ino)?.row.as_ref().and_then(Row::as_node))
    }

    pub(crate) fn node_mut(&mut self, ino: Ino) -> Result<Option<&mut NodeRow>, Error> {
        let cell = self.node_cell(ino)?;
        cell.changed |= cell.row.is_some();
        Ok(cell.row.as_mut().and_then(Row::as_node_mut))
    }

    /// The root has a row once something about it changed; before, it is what it is in every folder.
    fn node_cell(&mut self, ino: Ino) -> Result<&mut Cell, Error> {
        let cell = self.cell(RowKey::Node(ino))?;
        if ino == Ino::ROOT && cell.row.is_none() {
            cell.row = Some(Row::Node(NodeRow::root()));
        }
        Ok(cell)
    }

    pub(crate) fn slot_mut(&mut self, parent: Ino, slot: SlotHash) -> Result<&mut Slot, Error> {
        let cell = self.cell(RowKey::Dirent(parent, slot))?;
        cell.changed = true;
        match cell.row.get_or_insert_with(|| Row::Dirent(Slot::default())) {
            Row::Dirent(slot) => Ok(slot),
            _ => unreachable!("a reader returns the row that its key names"),
        }
    }

    pub(crate) fn xattr(&mut self, ino: Ino, key: &[u8]) -> Result<Option<&XattrRow>, Error> {
        match self.cell(RowKey::Xattr(ino, key.to_vec()))?.row.as_ref() {
            Some(Row::Xattr(row)) => Ok(Some(row)),
            _ => Ok(None),
        }
    }

    pub(crate) fn newest_dir_move(&mut self) -> Result<Option<OpId>, Error> {
        match self.cell(RowKey::NewestDirMove)?.row.as_ref() {
            Some(Row::NewestDirMove(id)) => Ok(Some(*id)),
            _ => Ok(None),
        }
    }

    pub(crate) fn put(&mut self, key: RowKey, row: Row) {
        self.replace(key, Some(row));
    }

    pub(crate) fn delete(&mut self, key: RowKey) {
        self.replace(key, None);
    }

    /// Rows that may have a note are read before they are replaced.
    fn replace(&mut self, key: RowKey, row: Option<Row>) {
        let noted = self.cells.get(&key).and_then(|cell| cell.noted);
        self.cells.insert(key, Cell { row, changed: true, noted });
    }

    pub(crate) fn slot_hash(&self, parent: &Ino, name: &[u8], policy: &Policy) -> SlotHash {
        SlotHash((self.name_hash)(parent, &name_key(name, policy.case)))
    }

    fn cell(&mut self, key: RowKey) -> Result<&mut Cell, Error> {
        match self.cells.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let row = (self.read)(entry.key())?;
                let noted = row.as_ref().and_then(|row| row.note(entry.key()));
                Ok(entry.insert(Cell { row, changed: false, noted }))
            }
        }
    }
}
