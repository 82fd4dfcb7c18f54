//! stub
use std::path::Path;
use std::sync::Arc;
use super::db::Db; use super::wants::Wants; use super::watch::Watch;
use crate::error::Result;
use crate::format::access::Record;
use crate::id::{FolderId, FolderNo};
/// Whose store it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreKind { /// A member's device.
 Device, /// A seeder.
 Seeder }
/// Whether an addition was news.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added { /// It was stored.
 New, /// It was here already.
 Known }
/// Room on the disk of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpace { /// All.
 pub total_bytes: u64, /// Free for this process.
 pub free_bytes: u64 }
/// One store.
pub struct Store { pub(crate) wants: Wants }
#[allow(unused_variables, missing_docs)]
impl Store {
    pub fn create(dir: &Path, kind: StoreKind) -> Result<Arc<Self>> { todo!() }
    pub fn open(dir: &Path, kind: StoreKind) -> Result<Arc<Self>> { todo!() }
    pub fn dir(&self) -> &Path { todo!() }
    pub fn db(&self) -> &Db { todo!() }
    pub fn watch(&self) -> &Watch { todo!() }
    pub fn folders(&self) -> Result<Vec<(FolderNo, FolderId)>> { todo!() }
    pub fn folder_no(&self, id: FolderId) -> Result<FolderNo> { todo!() }
    pub fn folder_id(&self, no: FolderNo) -> Result<FolderId> { todo!() }
    pub fn folder_add(&self, genesis: &Record) -> Result<FolderNo> { todo!() }
    pub fn disk(&self) -> Result<DiskSpace> { todo!() }
    pub fn setting(&self, no: FolderNo, name: &str) -> Result<Option<Vec<u8>>> { todo!() }
    pub fn setting_put(&self, no: FolderNo, name: &str, value: &[u8]) -> Result<()> { todo!() }
}
