//! stub
use super::store::Store;
use crate::error::Result;
use crate::id::FolderNo;
#[allow(unused_variables, missing_docs)]
impl Store {
    pub fn receipt_put(&self, no: FolderNo, seeder: &[u8], receipt: &[u8]) -> Result<()> { todo!() }
    /// (seeder, receipt)
    pub fn receipts(&self, no: FolderNo) -> Result<Vec<(Vec<u8>, Vec<u8>)>> { todo!() }
}
