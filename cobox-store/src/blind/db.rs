//! stub
use std::ops::ControlFlow;
use crate::error::Result;
/// When a commit is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// On return: it survives power loss.
    Synced,
    /// It survives the death of the process; power loss may take it, but only a suffix of commits.
    Unsynced,
}
/// The database.
pub struct Db;
/// Changes that become visible together.
#[derive(Default)]
pub struct Batch;
#[allow(unused_variables, missing_docs)]
impl Batch {
    pub fn put(&mut self, key: &[u8], value: &[u8]) { todo!() }
    pub fn delete(&mut self, key: &[u8]) { todo!() }
    pub fn delete_prefix(&mut self, prefix: &[u8]) { todo!() }
    pub fn put_bulk(&mut self, key: &[u8], value: &[u8]) { todo!() }
    pub fn len_bytes(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
    pub fn append(&mut self, other: Self) { todo!() }
}
#[allow(unused_variables, missing_docs)]
impl Db {
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> { todo!() }
    pub fn contains(&self, key: &[u8]) -> Result<bool> { todo!() }
    pub fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<()> { todo!() }
    pub fn commit(&self, batch: Batch, durability: Durability) -> Result<()> { todo!() }
    pub fn bulk_get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> { todo!() }
    pub fn ingest<'a>(&self, rows: &mut dyn Iterator<Item = (Vec<u8>, &'a [u8])>) -> Result<()> { todo!() }
}
