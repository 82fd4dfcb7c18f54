//! All that a seeder can do: keep packs, logs and the access log of a folder, without any key that opens
//! them. Members build on the same store; what needs keys is in [`crate::keyed`].

pub mod access;
pub mod db;
pub mod have;
pub mod kembox;
pub mod locators;
pub mod logs;
pub mod packs;
pub mod receipts;
pub mod receive;
pub mod scrub;
pub mod store;
pub mod tables;
pub mod wants;
pub mod watch;

pub use access::{Access, Member};
pub use db::{Batch, Db, Durability};
pub use have::Have;
pub use logs::EntryStaged;
pub use packs::{PackState, PackStatus, Usage};
pub use receive::{Progress, Receiver};
pub use scrub::{CheckReport, PackHealth};
pub use store::{Added, DiskSpace, Store, StoreKind};
pub use tables::{Table, key};
pub use watch::Watch;
