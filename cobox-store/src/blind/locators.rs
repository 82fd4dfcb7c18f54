//! stub
use super::store::{Added, Store};
use crate::error::Result;
use crate::format::locator::Locator;
use crate::id::LocatorId;
#[allow(unused_variables, missing_docs)]
impl Store {
    pub fn locator_put(&self, locator: &Locator) -> Result<Added> { todo!() }
    pub fn locator(&self, id: LocatorId) -> Result<Option<Locator>> { todo!() }
}
