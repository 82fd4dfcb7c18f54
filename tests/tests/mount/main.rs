//! A real mount in the kernel of this machine: what programs see is compared with what POSIX promises
//! (`docs/semantics.md`). Without `/dev/fuse` every test says that it is skipped.

mod beside_native;
mod content;
mod drive;
mod listing;
mod locks;
mod names;
mod nodes;
mod points;
mod programs;
mod remote;
