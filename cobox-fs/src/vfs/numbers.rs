//! Which node the kernel means by a number.
//!
//! Numbers follow from the tree's ids, so they are the same after a restart. A number is known here as
//! long as the kernel remembers it.

use std::collections::HashMap;

use cobox_store::id::{Ino, OpId};
use parking_lot::{Mutex, MutexGuard};

use crate::tree::Shown;
use crate::tree::Version;
use crate::tree::names;

use super::{Errno, ROOT};

/// Number of `.cobox`; the tree's numbers begin at 16.
pub const MAGIC_DIR: u64 = 2;
/// Number of the first [`Report`]; the others follow.
const MAGIC_REPORTS: u64 = 3;

/// A text in `.cobox` that CoBox writes itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// `status.json`.
    Status,
    /// `conflicts`, in words.
    Conflicts,
    /// `conflicts.json`, the same for programs.
    ConflictsJson,
}

impl Report {
    /// All of them, in the order of their numbers and of a listing.
    pub const ALL: [Self; 3] = [Self::Status, Self::Conflicts, Self::ConflictsJson];

    /// Its name in `.cobox`.
    #[must_use]
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Status => b"status.json",
            Self::Conflicts => b"conflicts",
            Self::ConflictsJson => b"conflicts.json",
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u64 {
        let at = Self::ALL.iter().position(|report| *report == self).unwrap_or_default();
        MAGIC_REPORTS + at as u64
    }
}

/// What a number stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeRef {
    /// An inode of the tree.
    Tree(Ino),
    /// Another version of a file, beside it.
    Conflict(Box<ConflictRef>),
    /// `.cobox`.
    MagicDir,
    /// A file in it.
    MagicReport(Report),
}

/// Another version of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConflictRef {
    /// The directory it is seen in.
    pub parent: Ino,
    /// As the directory shows it.
    pub shown: Shown,
    /// Which version.
    pub head: OpId,
    /// The inode that it becomes when it is changed; gives it its number.
    pub fork: Ino,
}

impl NodeRef {
    /// What a name of the tree stands for.
    #[must_use]
    pub fn of(parent: Ino, shown: Shown) -> Self {
        match shown.version {
            Version::Winner => Self::Tree(shown.ino),
            Version::Conflict(head) => {
                let (fork, _) = names::fork_of(&shown.ino, head);
                Self::Conflict(Box::new(ConflictRef { parent, shown, head, fork }))
            }
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        match self {
            Self::Tree(ino) => names::number(ino),
            Self::Conflict(conflict) => names::number(&conflict.fork),
            Self::MagicDir => MAGIC_DIR,
            Self::MagicReport(report) => report.number(),
        }
    }
}

struct Known {
    node: NodeRef,
    lookups: u64,
}

/// Parts of the table. One that grows needs twice its memory for a moment: of a part, not of all.
const SHARDS: usize = 64;
/// Entries below which a part is not worth shrinking.
const SHRINK_ABOVE: usize = 1024;

/// Numbers the kernel remembers: some 50 bytes for each name in its cache, which it bounds.
pub struct Numbers([Mutex<HashMap<u64, Known>>; SHARDS]);

impl Default for Numbers {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Numbers {
    // Numbers are hashes already: any bits of them will do.
    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.0[number as usize % SHARDS].lock()
    }

    /// Counts one lookup of `node`.
    pub fn remember(&self, node: &NodeRef) {
        let number = node.number();
        let mut known = self.shard(number);
        let entry = known.entry(number).or_insert_with(|| Known { node: node.clone(), lookups: 0 });
        entry.lookups += 1;
        if entry.node != *node {
            entry.node = node.clone();
        }
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, number: u64, count: u64) {
        let mut known = self.shard(number);
        if let Some(entry) = known.get_mut(&number) {
            entry.lookups = entry.lookups.saturating_sub(count);
            if entry.lookups == 0 {
                known.remove(&number);
                // A listing of a large directory that the kernel forgot gives its memory back.
                if known.capacity() > 4 * known.len().max(SHRINK_ABOVE) {
                    let entries = known.len();
                    known.shrink_to(2 * entries);
                }
            }
        }
    }

    /// Whether the kernel remembers a number.
    #[must_use]
    pub fn is_known(&self, number: u64) -> bool {
        self.shard(number).contains_key(&number)
    }

    /// What a number stands for.
    ///
    /// # Errors
    /// `ESTALE` for a number that the kernel cannot remember.
    pub fn get(&self, number: u64) -> Result<NodeRef, Errno> {
        match number {
            ROOT => Ok(NodeRef::Tree(Ino::ROOT)),
            MAGIC_DIR => Ok(NodeRef::MagicDir),
            _ => match Report::ALL.into_iter().find(|report| report.number() == number) {
                Some(report) => Ok(NodeRef::MagicReport(report)),
                None => self.shard(number).get(&number).map(|known| known.node.clone()).ok_or(Errno::ESTALE),
            },
        }
    }

    /// A conflict that became a file of its own keeps its number.
    pub fn became_file(&self, conflict: &ConflictRef) {
        let number = names::number(&conflict.fork);
        if let Some(known) = self.shard(number).get_mut(&number) {
            known.node = NodeRef::Tree(conflict.fork);
        }
    }
}
