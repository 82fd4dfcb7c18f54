//! CoBox mounted: the replicated tree, the file system on top of it, and the FUSE adapter.

pub mod fuse;
pub mod mount;
pub mod tree;
pub mod vfs;
