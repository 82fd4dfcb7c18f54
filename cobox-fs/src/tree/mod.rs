//! The replicated tree: state is a pure function of a causally closed set of ops.
//!
//! No I/O, no clock, no randomness and no store handle: rows come in through a reader and go out as a
//! list of changes. [`apply()`] is the one way in, for local and remote ops alike; [`View`] answers
//! questions; [`ops`] turns system calls into ops. The rules are in `docs/format.md`, "Tree".

mod apply;
mod codec;
pub mod conflicts;
mod dirs;
mod listing;
pub mod names;
pub mod ops;
pub mod row;
pub mod short;
mod tx;
mod view;

#[cfg(test)]
mod exhaust;
#[cfg(test)]
mod merges;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod settling;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod soak;

pub use apply::{apply, forget_unpublished};
pub use names::CaseRule;
pub use ops::PosixError;
pub use row::{NodeRow, Row, RowKey, keep_changed};
pub use tx::{NameHash, Policy, Read, Touched, Tx};
pub use view::{Attrs, Labels, Shown, Version, View};

/// The rules that decide which versions of a file show, where no [`Policy`] is at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadRules {
    /// Versions of equal content are one.
    pub equal_collapse: bool,
    /// The greatest op shows under the name.
    pub newest_shows: bool,
    /// Where settlements that crossed took all versions out, the one that was settled first shows.
    pub first_settled_shows: bool,
}

impl HeadRules {
    pub(crate) const RIGHT: Self =
        Self { equal_collapse: true, newest_shows: true, first_settled_shows: true };

    #[cfg(not(test))]
    pub(crate) fn now() -> Self {
        Self::RIGHT
    }

    /// In tests, what this thread broke.
    #[cfg(test)]
    pub(crate) fn now() -> Self {
        BROKEN_HEADS.get()
    }
}

#[cfg(test)]
thread_local! {
    pub(crate) static BROKEN_HEADS: std::cell::Cell<HeadRules> = const { std::cell::Cell::new(HeadRules::RIGHT) };
}

/// One switch for each merge rule, so that tests can show that breaking any of them is noticed.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a set of switches is what it is")]
pub(crate) struct Rules {
    /// A slot's clean name goes to a directory first.
    pub directory_keeps_name: bool,
    /// Of several directories the oldest.
    pub oldest_directory_keeps_name: bool,
    /// Where there is no directory, the newest placement.
    pub newest_keeps_name: bool,
    /// A directory that was made under two spellings has the oldest.
    pub oldest_spelling_counts: bool,
    /// `Move` and `Unlink` remove only the dots they saw.
    pub unseen_dots_stay: bool,
    /// `Put` supersedes only the heads it was based on.
    pub unseen_heads_stay: bool,
    /// The greatest op decides an attribute.
    pub newest_attr_wins: bool,
    /// The greatest op decides an extended attribute.
    pub newest_xattr_wins: bool,
    /// A removed file with an unseen head comes back.
    pub unseen_edit_revives: bool,
    /// A file dies only if some unlink said that it was the last.
    pub last_is_needed: bool,
    /// The link with the greatest unlink is the one that comes back.
    pub greatest_unlink_revives: bool,
    /// A removed directory with a visible child is visible.
    pub child_keeps_directory: bool,
    /// Moves of directories take effect in the order of their ids.
    pub moves_replay_in_order: bool,
    /// A move that would put a directory inside itself is skipped.
    pub cycles_are_skipped: bool,
    /// The greatest placement says where a file stands.
    pub newest_placement_wins: bool,
    /// The greatest `Make` decides a symbolic link's target.
    pub newest_make_wins: bool,
    /// `Keep` and `Fork` take heads out.
    pub settled_heads_hide: bool,
    /// `Revive` makes a link live.
    pub revive_counts: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            directory_keeps_name: true,
            oldest_directory_keeps_name: true,
            newest_keeps_name: true,
            oldest_spelling_counts: true,
            unseen_dots_stay: true,
            unseen_heads_stay: true,
            newest_attr_wins: true,
            newest_xattr_wins: true,
            unseen_edit_revives: true,
            last_is_needed: true,
            greatest_unlink_revives: true,
            child_keeps_directory: true,
            moves_replay_in_order: true,
            cycles_are_skipped: true,
            newest_placement_wins: true,
            newest_make_wins: true,
            settled_heads_hide: true,
            revive_counts: true,
        }
    }
}
