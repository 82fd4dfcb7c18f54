//! stub
use super::db::Batch; use super::store::{Added, Store};
use crate::error::Result;
use crate::format::entry::{Entry, LogHead};
use crate::id::{FolderNo, LogId};
/// An entry that a batch holds.
#[must_use]
pub struct EntryStaged;
#[allow(unused_variables, missing_docs)]
impl Store {
    pub fn log_heads(&self, no: FolderNo) -> Result<Vec<LogHead>> { todo!() }
    pub fn log_head(&self, no: FolderNo, log: LogId) -> Result<Option<LogHead>> { todo!() }
    pub fn entry(&self, no: FolderNo, log: LogId, seq: u64) -> Result<Option<Entry>> { todo!() }
    pub fn entry_bytes(&self, no: FolderNo, log: LogId, seq: u64) -> Result<Option<Vec<u8>>> { todo!() }
    pub fn entry_stage(&self, no: FolderNo, entry: &Entry, batch: &mut Batch) -> Result<EntryStaged> { todo!() }
    pub fn entry_committed(&self, no: FolderNo, staged: EntryStaged) { todo!() }
    pub fn entry_add(&self, no: FolderNo, entry: &Entry) -> Result<Added> { todo!() }
}
