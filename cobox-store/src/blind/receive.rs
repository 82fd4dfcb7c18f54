//! stub
use std::sync::Arc;
use super::store::Store;
use crate::error::Result;
use crate::format::pack::PackRef;
use crate::format::proof::Outboard;
use crate::id::FolderNo;
/// What is left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress { /// So many slices are missing.
 More { /// How many.
 slices: u64 }, /// The pack is complete and durable.
 Done }
/// Takes a pack slice by slice.
pub struct Receiver;
#[allow(unused_variables, missing_docs)]
impl Receiver {
    pub fn put_slice(&mut self, index: u64, bytes: &[u8]) -> Result<Progress> { todo!() }
    pub fn flush(&mut self) -> Result<Progress> { todo!() }
    pub fn needed(&self) -> Vec<u64> { todo!() }
    pub fn pack(&self) -> PackRef { todo!() }
}
#[allow(unused_variables, missing_docs)]
impl Store {
    pub fn pack_receive(self: &Arc<Self>, no: FolderNo, pack: PackRef, outboard: Outboard) -> Result<Receiver> { todo!() }
}
