//! Changes of rows and small slices that are made together; [`super::Db::commit`] makes them.

/// When a commit is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// On return: it survives power loss.
    Synced,
    /// It survives the death of the process; power loss may take it, but only with all later commits.
    Unsynced,
}

/// One step of a batch.
pub(super) enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeletePrefix(Vec<u8>),
    PutBulk(Vec<u8>, Vec<u8>),
}

/// Changes that become visible, and durable, together and in order.
#[derive(Default)]
pub struct Batch {
    pub(super) changes: Vec<Change>,
    pub(super) made_at: Option<Generation>,
    bytes: usize,
}

/// How often a database was opened anew beneath its users: what was read before may have changed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Generation(pub(super) u64);

impl Batch {
    /// Writes a row.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.bytes += key.len() + value.len();
        self.changes.push(Change::Put(key.to_vec(), value.to_vec()));
    }

    /// Writes a row that was made for it.
    pub fn put_owned(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.changes.push(Change::Put(key, value));
    }

    /// Removes a row, if it is there.
    pub fn delete(&mut self, key: &[u8]) {
        self.bytes += key.len();
        self.changes.push(Change::Delete(key.to_vec()));
    }

    /// Removes all rows whose keys begin with `prefix`, also those written earlier in this batch.
    ///
    /// Rows that another thread commits below the prefix at the same time may stay.
    pub fn delete_prefix(&mut self, prefix: &[u8]) {
        self.bytes += prefix.len();
        self.changes.push(Change::DeletePrefix(prefix.to_vec()));
    }

    /// Writes a slice of a small pack; see [`super::Db::ingest`] for large ones.
    pub fn put_bulk(&mut self, key: &[u8], value: &[u8]) {
        self.bytes += key.len() + value.len();
        self.changes.push(Change::PutBulk(key.to_vec(), value.to_vec()));
    }

    /// Says when what this batch follows from was read: a database opened anew since then refuses it.
    pub fn made_at(&mut self, generation: Generation) {
        self.made_at = Some(generation);
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds the changes of `other` after these.
    pub fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.made_at = self.made_at.or(other.made_at);
        self.changes.extend(other.changes);
    }
}
