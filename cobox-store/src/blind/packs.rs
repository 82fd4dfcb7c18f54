//! stub
use super::have::Have; use super::store::Store;
use crate::error::Result;
use crate::format::pack::PackRef;
use crate::format::proof::{Challenge, LeafProof, Outboard};
use crate::id::{FolderNo, PackId};
/// Whether a live pack is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackState { /// Wholly.
 Complete, /// Not, or only partly.
 Missing }
/// What is known of a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PackStatus { /// Nobody referred to it and nothing is here.
 Unknown, /// Entries refer to it; nothing is here.
 Missing(PackRef), /// Some slices are here.
 Partial(PackRef, Have), /// All are here.
 Complete(PackRef) }
/// What a folder takes in this store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage { /// Bytes of packs that are here or that entries refer to.
 pub pack_bytes: u64, /// Bytes of entries.
 pub entry_bytes: u64, /// Packs that are here or that entries refer to.
 pub packs: u64, /// The grant's limit.
 pub quota_bytes: Option<u64> }
#[allow(unused_variables, missing_docs)]
impl Store {
    pub fn pack_put(&self, no: FolderNo, pack: PackRef, outboard: &Outboard, bytes: &[u8]) -> Result<()> { todo!() }
    pub fn packs_put(&self, no: FolderNo, packs: &[(Outboard, Vec<u8>)]) -> Result<()> { todo!() }
    pub fn pack_status(&self, no: FolderNo, pack: PackId) -> Result<PackStatus> { todo!() }
    pub fn packs_live(&self, no: FolderNo, visit: &mut dyn FnMut(PackRef, PackState)) -> Result<()> { todo!() }
    pub fn packs_missing(&self, no: FolderNo, after: Option<PackId>, max: usize) -> Result<Vec<PackRef>> { todo!() }
    pub fn slice(&self, no: FolderNo, pack: PackId, index: u64) -> Result<Option<Vec<u8>>> { todo!() }
    pub fn outboard(&self, no: FolderNo, pack: PackId) -> Result<Option<Outboard>> { todo!() }
    pub fn pack_range(&self, no: FolderNo, pack: PackId, offset: u64, len: usize) -> Result<Option<Vec<u8>>> { todo!() }
    pub fn answer(&self, no: FolderNo, challenge: &Challenge) -> Result<Vec<Option<LeafProof>>> { todo!() }
    pub fn pack_mark_damaged(&self, no: FolderNo, pack: PackId) -> Result<()> { todo!() }
    pub fn usage(&self, no: FolderNo) -> Result<Usage> { todo!() }
    pub fn quota_set(&self, no: FolderNo, quota_bytes: u64, until_ms: u64) -> Result<()> { todo!() }
}
