//! All that a member can do: keys, sealing, cutting, packing, writing and opening entries.
//!
//! Needs [`crate::blind`] for storage and [`crate::format`] for layouts. The seeder's build leaves this
//! module off. `docs/format.md` is the normative text of everything sealed here.

pub mod chunker;
pub mod folder;
pub mod home;
pub mod local;
pub mod seal;
pub mod secret;

pub use chunker::{Chunker, End};
pub use folder::Folder;
pub use home::{FolderInfo, Home, Unlock};
pub use local::LocalKeys;
pub use seal::SealedChunk;
pub use secret::{MemberSecret, Secret32};
