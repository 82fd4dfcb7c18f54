//! All that a member can do: keys, sealing, cutting, packing, writing and opening entries.
//!
//! Needs [`crate::blind`] for storage and [`crate::format`] for layouts. The seeder's build leaves this
//! module off. `docs/format.md` is the normative text of everything sealed here.

mod admission;
mod aead;
mod cache;
pub mod chunker;
mod chunks;
pub mod epoch;
pub mod folder;
mod giving;
mod highwater;
pub mod home;
mod index;
pub mod invite;
mod join;
mod kept;
mod keyring;
pub mod label;
pub mod local;
pub mod locator;
mod log;
mod lru;
mod merge;
pub mod owned;
pub mod pack;
mod packer;
mod pages;
mod plain;
mod random;
mod recover;
mod removal;
pub mod seal;
pub mod secret;
pub mod seeding;
mod siv;
mod slots;
#[cfg(test)]
mod vectors;

pub use admission::{Rejoin, Standing};
pub use chunker::{Chunker, End};
pub use chunks::Reader;
pub use folder::Folder;
pub use home::{FolderInfo, Home};
pub use invite::{Admission, InviteKeys};
pub use local::LocalKeys;
pub use plain::Plain;
pub use removal::Tended;
pub use seal::SealedChunk;
pub use secret::{MemberSecret, Secret32};
pub use slots::{PassphraseCost, Unlock};
