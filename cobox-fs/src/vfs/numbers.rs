//! Which node the kernel means by a number.
//!
//! Numbers follow from the tree's ids, so they are the same after a restart. A number is known here as
//! long as the kernel remembers it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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

/// An inode of the tree under its number, which holds the first half of its id but for the top bit.
struct Inode {
    rest: [u8; 8],
    lookups: u32,
    top: bool,
}

impl Inode {
    /// What `number` and this say together.
    fn ino(&self, number: u64) -> Ino {
        let first = number | if self.top { TOP } else { 0 };
        let mut ino = [0; 16];
        ino[..8].copy_from_slice(&first.to_le_bytes());
        ino[8..].copy_from_slice(&self.rest);
        Ino(ino)
    }

    /// `None` for an id that its number does not tell, such as the root's.
    fn of(ino: &Ino) -> Option<(u64, Self)> {
        let (first, rest) = ino.0.split_first_chunk()?;
        let first = u64::from_le_bytes(*first);
        let inode = Self { rest: rest.try_into().ok()?, lookups: 0, top: first & TOP != 0 };
        (names::number(ino) == first & !TOP).then_some((first & !TOP, inode))
    }
}

/// The bit of an id's first half that its number lacks.
const TOP: u64 = 1 << 63;

/// Anything else.
struct Known {
    node: NodeRef,
    lookups: u64,
}

/// Numbers of a part.
#[derive(Default)]
struct Shard {
    inodes: HashMap<u64, Inode>,
    /// Few: other versions of files, and ids that their numbers do not tell.
    others: HashMap<u64, Known>,
}

impl Shard {
    fn get(&self, number: u64) -> Option<NodeRef> {
        match self.inodes.get(&number) {
            Some(inode) => Some(NodeRef::Tree(inode.ino(number))),
            None => self.others.get(&number).map(|known| known.node.clone()),
        }
    }

    /// Takes a number out, and how often it was looked up.
    fn take(&mut self, number: u64) -> u64 {
        let inode = self.inodes.remove(&number).map(|inode| u64::from(inode.lookups));
        inode.or_else(|| self.others.remove(&number).map(|known| known.lookups)).unwrap_or_default()
    }

    fn put(&mut self, node: &NodeRef, lookups: u64) {
        let inode = if let NodeRef::Tree(ino) = node { Inode::of(ino) } else { None };
        match (inode, u32::try_from(lookups)) {
            (Some((number, inode)), Ok(lookups)) => {
                self.inodes.insert(number, Inode { lookups, ..inode });
            }
            _ => {
                self.others.insert(node.number(), Known { node: node.clone(), lookups });
            }
        }
    }

    /// A listing of a large directory that the kernel forgot gives its memory back.
    fn shrink(&mut self) {
        if self.inodes.capacity() > 4 * self.inodes.len().max(SHRINK_ABOVE) {
            let entries = self.inodes.len();
            self.inodes.shrink_to(2 * entries);
        }
    }
}

/// Parts of the table. One that grows needs twice its memory for a moment: of a part, not of all.
const SHARDS: usize = 64;
/// Entries below which a part is not worth shrinking.
const SHRINK_ABOVE: usize = 1024;

/// Numbers the kernel remembers: 25 bytes for each place in a table, of which half to seven eighths are taken. The
/// kernel bounds how many.
pub struct Numbers {
    shards: [Mutex<Shard>; SHARDS],
    /// Directories that a call removed and the kernel remembers: those it takes for dead for as long as it does. One that
    /// comes back with what another device put into it is another one to the kernel, by its generation.
    removed: Mutex<HashMap<u64, u64>>,
    /// How many those are, so that nobody looks where there are none.
    removed_count: AtomicUsize,
    last_generation: AtomicU64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            removed: Mutex::default(),
            removed_count: AtomicUsize::new(0),
            last_generation: AtomicU64::new(0),
        }
    }
}

impl Numbers {
    // Numbers are hashes already: any bits of them will do.
    fn shard(&self, number: u64) -> MutexGuard<'_, Shard> {
        self.shards[number as usize % SHARDS].lock()
    }

    /// Counts one lookup of `node`.
    pub fn remember(&self, node: &NodeRef) {
        let number = node.number();
        let mut shard = self.shard(number);
        if let (NodeRef::Tree(ino), Some(known)) = (node, shard.inodes.get_mut(&number))
            && known.ino(number) == *ino
            && let Some(lookups) = known.lookups.checked_add(1)
        {
            known.lookups = lookups;
            return;
        }
        let lookups = shard.take(number).saturating_add(1);
        shard.put(node, lookups);
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, number: u64, count: u64) {
        let mut shard = self.shard(number);
        let Some(node) = shard.get(number) else { return };
        match shard.take(number).saturating_sub(count) {
            0 => {
                shard.shrink();
                if self.removed_count.load(Ordering::Acquire) > 0 {
                    let mut removed = self.removed.lock();
                    removed.remove(&number);
                    self.removed_count.store(removed.len(), Ordering::Release);
                }
            }
            left => shard.put(&node, left),
        }
    }

    /// Notes that a call removed a directory.
    pub fn note_removed(&self, number: u64) {
        let shard = self.shard(number);
        if shard.get(number).is_some() {
            let mut removed = self.removed.lock();
            removed.insert(number, self.last_generation.fetch_add(1, Ordering::Relaxed) + 1);
            self.removed_count.store(removed.len(), Ordering::Release);
        }
    }

    /// The generation of a number: 0 but where the kernel remembers a directory that was removed.
    #[must_use]
    pub fn generation(&self, number: u64) -> u64 {
        if self.removed_count.load(Ordering::Acquire) == 0 {
            return 0;
        }
        self.removed.lock().get(&number).copied().unwrap_or_default()
    }

    /// Whether the kernel remembers a number.
    #[must_use]
    pub fn is_known(&self, number: u64) -> bool {
        self.shard(number).get(number).is_some()
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
                None => self.shard(number).get(number).ok_or(Errno::ESTALE),
            },
        }
    }

    /// A conflict that became a file of its own keeps its number.
    pub fn became_file(&self, conflict: &ConflictRef) {
        let number = names::number(&conflict.fork);
        let mut shard = self.shard(number);
        if shard.get(number).is_some() {
            let lookups = shard.take(number);
            shard.put(&NodeRef::Tree(conflict.fork), lookups);
        }
    }
}

#[cfg(test)]
mod tests {
    use cobox_store::format::op::Kind;
    use cobox_store::id::LinkId;

    use super::*;

    fn ino(first: u64, rest: u8) -> Ino {
        let mut ino = [rest; 16];
        ino[..8].copy_from_slice(&first.to_le_bytes());
        Ino(ino)
    }

    #[test]
    fn number_leads_back_to_its_node_until_all_lookups_are_taken_back() {
        let numbers = Numbers::default();
        // With and without the top bit, and ids whose number is another than their first half.
        for ino in [ino(77, 1), ino(TOP | 78, 2), ino(5, 3), ino(TOP | 6, 4), ino(u64::MAX, 5), Ino::ROOT] {
            let node = NodeRef::Tree(ino);
            let number = node.number();
            numbers.remember(&node);
            numbers.remember(&node);
            numbers.forget(number, 1);
            assert_eq!(numbers.get(number), Ok(node.clone()));
            assert!(numbers.is_known(number));
            numbers.forget(number, 1);
            assert!(!numbers.is_known(number));
        }
        assert_eq!(numbers.get(77), Err(Errno::ESTALE));
    }

    #[test]
    fn lookups_beyond_four_billion_are_counted() {
        let numbers = Numbers::default();
        let node = NodeRef::Tree(ino(77, 1));
        numbers.shard(77).put(&node, u64::from(u32::MAX));
        numbers.remember(&node);
        numbers.remember(&node);
        numbers.forget(77, u64::from(u32::MAX));
        assert_eq!(numbers.get(77), Ok(node));
        numbers.forget(77, 2);
        assert!(!numbers.is_known(77));
    }

    #[test]
    fn directory_that_was_removed_has_another_generation_as_long_as_the_kernel_remembers_it() {
        let numbers = Numbers::default();
        let dir = NodeRef::Tree(ino(77, 1));
        numbers.note_removed(77);
        assert_eq!(numbers.generation(77), 0, "the kernel does not know it");
        numbers.remember(&dir);
        numbers.note_removed(77);
        let first = numbers.generation(77);
        numbers.remember(&dir);
        numbers.note_removed(77);
        assert!(first > 0 && numbers.generation(77) > first);
        assert_eq!(numbers.generation(78), 0);
        numbers.forget(77, 1);
        assert!(numbers.generation(77) > first);
        numbers.forget(77, 1);
        assert_eq!((numbers.generation(77), numbers.removed_count.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn conflict_that_became_a_file_keeps_its_number_and_lookups() {
        let numbers = Numbers::default();
        let (file, head) = (ino(1 << 40, 9), OpId { hlc: 3, log: 4 });
        let (fork, _) = names::fork_of(&file, head);
        let shown = Shown {
            name: b"name".to_vec(),
            link: LinkId([5; 16]),
            ino: file,
            kind: Kind::File,
            version: Version::Conflict(head),
        };
        let node = NodeRef::of(Ino::ROOT, shown);
        let NodeRef::Conflict(conflict) = &node else { panic!("a version of a file") };
        let number = node.number();
        numbers.remember(&node);
        numbers.remember(&node);
        numbers.became_file(conflict);
        assert_eq!(numbers.get(number), Ok(NodeRef::Tree(fork)));
        numbers.forget(number, 2);
        assert!(!numbers.is_known(number));
    }
}
