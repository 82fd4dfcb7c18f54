//! CoBox at rest: formats, keys, sealing, packs, logs, and the one RocksDB.
//!
//! Three layers, each using only what stands left of it: [`format`] (pure codecs) ← [`blind`] (all that
//! a seeder can do) ← [`keyed`] (all that a member can do; a Cargo feature that the seeder's build
//! leaves off). No network and no FUSE here, and nothing is async.

pub mod blind;
pub mod error;
pub mod format;
pub mod id;
#[cfg(feature = "keyed")]
pub mod keyed;

pub use error::Error;
