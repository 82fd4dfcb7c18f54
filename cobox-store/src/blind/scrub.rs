//! stub
use std::ops::ControlFlow;
use super::store::Store;
use crate::error::Result;
use crate::format::pack::PackRef;
use crate::id::{FolderNo, PackId};
/// What a check found of one pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackHealth { /// Every slice matches.
 Sound, /// It went back to missing.
 Damaged }
/// What a check found of a folder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport { /// Packs read.
 pub packs: u64, /// Bytes read.
 pub bytes: u64, /// Those that were marked damaged.
 pub damaged: Vec<PackId> }
#[allow(unused_variables, missing_docs)]
impl Store {
    pub fn check_packs(&self, no: FolderNo, visit: &mut dyn FnMut(PackRef, PackHealth) -> ControlFlow<()>) -> Result<CheckReport> { todo!() }
}
