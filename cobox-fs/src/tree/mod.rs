//! The replicated tree: state is a pure function of a causally closed set of ops.
//!
//! No I/O, no clock, no randomness and no store handle: rows come in through a reader and go out as a
//! list of changes. [`apply()`] is the one way in, for local and remote ops alike; [`View`] answers
//! questions; [`ops`] turns system calls into ops. The rules are in `docs/format.md`, "Tree".

mod apply;
pub mod names;
pub mod ops;
pub mod row;
mod tx;
mod view;

pub use apply::{apply, forget_unpublished};
pub use names::CaseRule;
pub use ops::PosixError;
pub use row::{Row, RowKey};
pub use tx::{NameHash, Policy, Read, Touched, Tx};
pub use view::{Attrs, Labels, Shown, Version, View};

/// One switch for each merge rule, so that tests can show that breaking any of them is noticed.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a set of switches is what it is")]
pub(crate) struct Rules {
    /// A slot's clean name goes to a directory first.
    pub directory_keeps_name: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { directory_keeps_name: true }
    }
}
