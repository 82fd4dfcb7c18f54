//! All that a seeder can do: keep packs, logs and the access log of a folder, without any key that opens
//! them. Members build on the same store; what needs keys is in [`crate::keyed`].

pub mod access;
pub mod batch;
pub mod branches;
#[cfg(test)]
mod dags;
mod damage;
pub mod db;
mod ends;
pub mod forks;
mod graph;
pub mod have;
pub mod kembox;
pub mod locators;
pub mod logs;
mod ordinals;
mod pack_info;
pub mod packs;
mod ranges;
pub mod receipts;
pub mod receive;
mod reserve;
mod resolve;
pub mod scrub;
mod slices;
pub mod store;
mod summary;
mod sweep;
pub mod tables;
#[cfg(test)]
mod testing;
mod trouble;
pub mod usage;
pub mod wants;
pub mod watch;

pub use access::{Access, InviteState, LogEnd, Member};
pub use batch::{Batch, Durability, Generation};
pub use branches::{Branch, Branches};
pub use db::Db;
pub use have::Have;
pub use logs::EntryStaged;
pub use packs::{PackState, PackStatus};
pub use receive::{Progress, Receiver};
pub use scrub::{CheckReport, PackHealth};
pub use store::{Added, DiskSpace, Store, StoreKind};
pub use tables::{STORE, Table, key};
pub use usage::Usage;
pub use watch::Watch;
