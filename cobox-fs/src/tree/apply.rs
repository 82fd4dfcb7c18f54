//! One function for local and remote ops.

use super::tx::{Policy, Touched, Tx};
use cobox_store::Error;
use cobox_store::format::op::Op;
use cobox_store::id::{Ino, OpId};

/// Applies one op and returns what the kernel must forget.
///
/// Ops must come in causal order (those of one log in its order), each exactly once; any such order
/// gives the same tree. An op that names something unknown changes nothing.
///
/// # Errors
/// When the store cannot be read; then the transaction must be dropped.
pub fn apply(tx: &mut Tx<'_>, id: OpId, op: &Op, policy: &Policy) -> Result<Vec<Touched>, Error> {
    todo!()
}

/// Removes the rows of an inode that no other device has ever heard of: its `Make` and everything
/// after it were dropped before a cut. Its id may then be used again.
///
/// # Errors
/// When the store cannot be read.
pub fn forget_unpublished(tx: &mut Tx<'_>, ino: Ino) -> Result<(), Error> {
    todo!()
}
