//! stub
use zeroize::Zeroizing;
use crate::error::Result;
use crate::format::access::BOX_BYTES;
use crate::id::{FolderId, KemKey};
/// What a boxed secret is: part of the box's `info`, so that one can never pass for the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose { /// An epoch's secret; `aad` is the epoch's commit.
 Epoch, /// A swarm secret; `aad` is the epoch's id.
 Swarm }
/// Opens boxes.
pub struct KemSecret;
#[allow(unused_variables, missing_docs)]
impl KemSecret {
    pub fn from_seed(seed: &[u8; 32]) -> Self { todo!() }
    pub fn public(&self) -> KemKey { todo!() }
    pub fn open(&self, purpose: Purpose, folder: FolderId, aad: &[u8; 32], sealed: &[u8; BOX_BYTES]) -> Result<Zeroizing<[u8; 32]>> { todo!() }
}
/// Boxes a secret.
#[allow(unused_variables, missing_docs)]
pub fn seal(purpose: Purpose, folder: FolderId, recipient: KemKey, aad: &[u8; 32], secret: &[u8; 32]) -> Result<[u8; BOX_BYTES]> { todo!() }
