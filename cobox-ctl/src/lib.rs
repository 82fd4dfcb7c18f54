//! CoBox in charge: the command line, and the daemon that composes store, mounts and network.
//!
//! [`cli`] reads the command line and speaks [`control`] with the daemon; [`daemon`] is the only place
//! where `cobox-fs` and `cobox-net` meet, over one store. [`advice`] turns every error into a sentence
//! that says what to do.

pub mod advice;
mod api;
pub mod cli;
pub mod conflicts;
pub mod contracts;
pub mod control;
pub mod daemon;
pub mod exit;
pub mod paths;
pub mod people;
pub mod render;
pub mod report;
