//! stub
use std::collections::BTreeMap;
use std::sync::Arc;
use super::store::{Added, Store};
use crate::error::Result;
use crate::format::access::{Device, NewEpoch, Record, Role, SeederGrant};
use crate::id::{EpochId, FolderId, FolderNo, KemKey, LogId, MemberId, RecordHash};
/// A person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member { /// Recovery key for boxes.
 pub kem: KemKey, /// Highest role of the member's devices.
 pub role: Role }
/// Who may do what.
#[allow(missing_docs)]
#[derive(Clone, Debug)]
pub struct Access {
    pub folder: FolderId, pub genesis: Record, pub devices: BTreeMap<LogId, Device>, pub members: BTreeMap<MemberId, Member>,
    pub seeders: Vec<(RecordHash, SeederGrant)>, pub epochs: BTreeMap<EpochId, (NewEpoch, Vec<RecordHash>)>,
    pub heads: Vec<RecordHash>, pub epoch_heads: Vec<EpochId>,
}
#[allow(unused_variables, missing_docs)]
impl Access {
    pub fn role_of(&self, log: &LogId) -> Option<Role> { todo!() }
    pub fn may_write(&self, log: &LogId) -> bool { todo!() }
    pub fn epoch(&self) -> Option<EpochId> { todo!() }
    pub fn seeder(&self, peer_id: &[u8]) -> Option<&SeederGrant> { todo!() }
}
#[allow(unused_variables, missing_docs)]
impl Store {
    pub fn access(&self, no: FolderNo) -> Result<Arc<Access>> { todo!() }
    pub fn access_add(&self, no: FolderNo, record: &Record) -> Result<Added> { todo!() }
    pub fn access_records(&self, no: FolderNo) -> Result<Vec<Record>> { todo!() }
}
