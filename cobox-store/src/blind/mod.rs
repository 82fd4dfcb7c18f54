//! All that a seeder can do: keep packs, logs and the access log of a folder, without any key that opens
//! them. Members build on the same store; what needs keys is in [`crate::keyed`].

pub mod access;
pub mod batch;
pub mod branches;
pub mod contracts;
#[cfg(test)]
mod dags;
mod damage;
pub mod db;
mod effects;
mod ends;
pub mod forks;
mod graph;
pub mod have;
pub mod kembox;
mod leaving;
mod listing;
pub mod locators;
pub mod logs;
mod named;
mod ordinals;
pub mod owners;
mod pack_info;
pub mod packs;
pub mod patrol;
mod ranges;
pub mod receipts;
pub mod receive;
mod reserve;
mod resolve;
pub mod retention;
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
pub use patrol::{Damage, Patrol, Rows, Step};
pub use receive::{Progress, Receiver};
pub use retention::{Freed, HOLD_MS, HOLD_YOUNG_MS, Held};
pub use scrub::{CheckReport, PackHealth};
pub use store::{Added, DiskSpace, Store, StoreKind};
pub use tables::{STORE, Table, key};
pub use usage::Usage;
pub use watch::Watch;
