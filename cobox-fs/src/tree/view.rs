//! Questions about the tree: what a name stands for, what an inode is, what a directory shows.
//!
//! A view changes nothing. Over stored rows it answers the file system; over [`super::Tx::peek`] it
//! answers about changes that are not stored yet.

use super::names::{self, CONFLICT_DIGITS, CONFLICT_DIGITS_MAX, name_key};
use super::row::{Head, LinkRow, NodeRow, Note, Row, RowKey, Slot, SlotEntry, SlotHash, Versions};
use super::tx::{NameHash, Policy, Read};
use cobox_store::Error;
use cobox_store::format::content::Content;
use cobox_store::format::op::Kind;
use cobox_store::id::{Ino, LinkId, OpId};

/// The label of the device whose log has this number, for conflict names.
pub type Labels<'a> = &'a dyn Fn(u64) -> String;

/// The stored notes, for names that do not tell which slot they came from.
pub type Notes<'a> = &'a dyn Fn() -> Result<Vec<Note>, Error>;

/// A name in a directory, as people see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// The name, a conflict name where it is not the one that was given.
    pub name: Vec<u8>,
    /// The link behind it.
    pub link: LinkId,
    /// The inode behind it.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Which version of a file it is.
    pub version: Version,
}

/// Which version of a file's content a name shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// The one that shows under the file's name. Its number is `names::number(ino)`.
    Winner,
    /// Another head, beside the file.
    Conflict(OpId),
}

/// What `stat` shows of an inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attrs {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Nanoseconds since 1970, to the millisecond.
    pub ctime_ns: i64,
    /// Owner on the device that set it.
    pub uid: u32,
    /// Group on the device that set it.
    pub gid: u32,
    /// The op that set owner and group last, for "the owner is kept on the device that set it".
    pub owner_set_by: OpId,
    /// Device number.
    pub rdev: u32,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Names; of a directory 2 and its visible subdirectories; 0 for the dead.
    pub nlink: u64,
    /// Bytes of content or target.
    pub size: u64,
}

/// Read-only questions.
pub struct View<'a> {
    read: Read<'a>,
    name_hash: NameHash<'a>,
    labels: Labels<'a>,
    notes: Notes<'a>,
    pub(crate) policy: Policy,
}

impl<'a> View<'a> {
    /// A view over the rows that `read` returns.
    #[must_use]
    pub fn new(
        read: Read<'a>,
        name_hash: NameHash<'a>,
        labels: Labels<'a>,
        notes: Notes<'a>,
        policy: Policy,
    ) -> Self {
        Self { read, name_hash, labels, notes, policy }
    }

    /// An inode's row; the root always has one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn node(&self, ino: Ino) -> Result<Option<Box<NodeRow>>, Error> {
        Ok(match (self.read)(&RowKey::Node(ino))? {
            Some(Row::Node(row)) => Some(row),
            _ if ino == Ino::ROOT => Some(NodeRow::root()),
            _ => None,
        })
    }

    /// A link's row.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn link(&self, link: LinkId) -> Result<Option<LinkRow>, Error> {
        Ok(match (self.read)(&RowKey::Link(link))? {
            Some(Row::Link(row)) => Some(row),
            _ => None,
        })
    }

    /// Key of the row that lists `name` in `parent`.
    #[must_use]
    pub fn slot_key(&self, parent: Ino, name: &[u8]) -> RowKey {
        RowKey::Dirent(parent, SlotHash((self.name_hash)(&parent, &name_key(name, self.policy.case))))
    }

    pub(crate) fn slot(&self, parent: Ino, name: &[u8]) -> Result<Slot, Error> {
        self.slot_row(&self.slot_key(parent, name))
    }

    pub(crate) fn slot_at(&self, parent: Ino, hash: SlotHash) -> Result<Slot, Error> {
        self.slot_row(&RowKey::Dirent(parent, hash))
    }

    fn slot_row(&self, key: &RowKey) -> Result<Slot, Error> {
        Ok(match (self.read)(key)? {
            Some(Row::Dirent(slot)) => slot,
            _ => Slot::default(),
        })
    }

    pub(crate) fn row(&self, key: &RowKey) -> Result<Option<Row>, Error> {
        (self.read)(key)
    }

    /// What `name` in `parent` shows; conflict names included.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Shown>, Error> {
        let slot = self.slot(parent, name)?;
        if let Some(entry) = self.winner(&slot) {
            return Ok(Some(shown(entry, entry.name.clone(), Version::Winner)));
        }
        let mut has_form = false;
        for origin in names::conflict_origins(name) {
            has_form = true;
            let slot = self.slot(parent, &origin)?;
            let shown = self.visible_names(parent, &slot)?.into_iter().find(|shown| shown.name == name);
            if shown.is_some() {
                return Ok(shown);
            }
        }
        if has_form { self.lookup_cut(parent, name) } else { Ok(None) }
    }

    /// A conflict name that was cut to fit into 255 bytes does not tell its origin: the notes of its directory do.
    fn lookup_cut(&self, parent: Ino, name: &[u8]) -> Result<Option<Shown>, Error> {
        for note in (self.notes)()? {
            let Note::Slot(dir, hash) = note else { continue };
            if dir == parent {
                let slot = self.slot_at(parent, hash)?;
                let shown = self.visible_names(parent, &slot)?.into_iter().find(|shown| shown.name == name);
                if shown.is_some() {
                    return Ok(shown);
                }
            }
        }
        Ok(None)
    }

    /// The names that one slot shows: the winner, the losers and the other versions of each file.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn visible_names(&self, parent: Ino, slot: &Slot) -> Result<Vec<Shown>, Error> {
        let Some(winner) = self.winner(slot) else {
            return Ok(Vec::new());
        };
        let mut names = vec![shown(winner, winner.name.clone(), Version::Winner)];
        for entry in &slot.entries {
            if entry.link != winner.link {
                let name = self.free_name(parent, &entry.name, entry.placed, &names)?;
                names.push(shown(entry, name, Version::Winner));
            }
        }
        for entry in slot.entries.iter().filter(|entry| entry.versions == Versions::Several) {
            let Some(node) = self.node(entry.ino)? else { continue };
            for head in node.shown_heads().into_iter().skip(1) {
                let name = self.free_name(parent, &entry.name, head.id, &names)?;
                names.push(shown(entry, name, Version::Conflict(head.id)));
            }
        }
        Ok(names)
    }

    /// A conflict name that nothing else in the directory has.
    fn free_name(&self, parent: Ino, name: &[u8], id: OpId, taken: &[Shown]) -> Result<Vec<u8>, Error> {
        let label = (self.labels)(id.log);
        let mut digits = CONFLICT_DIGITS;
        loop {
            let candidate = names::conflict_name(name, &label, id, digits);
            let clash = taken.iter().any(|shown| shown.name == candidate)
                || !self.slot(parent, &candidate)?.entries.is_empty();
            if !clash || digits >= CONFLICT_DIGITS_MAX {
                return Ok(candidate);
            }
            digits += CONFLICT_DIGITS;
        }
    }

    /// The entry that keeps the clean name: the oldest directory, else the newest placement.
    pub(crate) fn winner<'s>(&self, slot: &'s Slot) -> Option<&'s SlotEntry> {
        let rules = &self.policy.rules;
        let age = |entry: &&SlotEntry| (entry.placed, entry.link);
        let dirs = slot.entries.iter().filter(|entry| entry.kind == Kind::Dir && rules.directory_keeps_name);
        let dir = if rules.oldest_directory_keeps_name { dirs.min_by_key(age) } else { dirs.max_by_key(age) };
        let newest = || slot.entries.iter().max_by_key(age);
        dir.or_else(|| if rules.newest_keeps_name { newest() } else { slot.entries.iter().min_by_key(age) })
    }

    /// What `stat` shows.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn attrs(&self, ino: Ino) -> Result<Option<Attrs>, Error> {
        Ok(self.node(ino)?.map(|node| node.attrs()))
    }

    /// The content that shows under the file's name; `None` for a file that was never written.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn content(&self, ino: Ino) -> Result<Option<Head>, Error> {
        Ok(self.node(ino)?.and_then(|node| node.shown_heads().first().map(|head| (*head).clone())))
    }

    /// A version by the op that wrote it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn head(&self, ino: Ino, id: OpId) -> Result<Option<Head>, Error> {
        Ok(self.node(ino)?.and_then(|node| node.heads.into_iter().find(|head| head.id == id)))
    }

    /// Directory and raw name of the (first) visible link of an inode; `None` for the root and the dead.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn place(&self, ino: Ino) -> Result<Option<(Ino, Vec<u8>)>, Error> {
        let Some(node) = self.node(ino)? else {
            return Ok(None);
        };
        let Some(link) = node.links.first().copied().or(node.revived) else {
            return Ok(None);
        };
        Ok(self.link(link)?.and_then(|row| row.place().map(|place| (place.parent, place.name.clone()))))
    }

    /// Whether no name leads to it any more. What never existed is dead.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn is_dead(&self, ino: Ino) -> Result<bool, Error> {
        let Some(node) = self.node(ino)? else {
            return Ok(true);
        };
        Ok(match (node.kind, node.links.first()) {
            (Kind::Dir, Some(link)) => {
                node.visible_children == 0 && self.link(*link)?.is_none_or(|row| row.dots.is_empty())
            }
            (Kind::Dir, None) => ino != Ino::ROOT,
            _ => node.links.is_empty() && node.revived.is_none(),
        })
    }

    /// An extended attribute; `None` where it is not set. Their names are in [`NodeRow::xattrs`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn xattr(&self, ino: Ino, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(match (self.read)(&RowKey::Xattr(ino, key.to_vec()))? {
            Some(Row::Xattr(row)) => row.value,
            _ => None,
        })
    }
}

fn shown(entry: &SlotEntry, name: Vec<u8>, version: Version) -> Shown {
    Shown { name, link: entry.link, ino: entry.ino, kind: entry.kind, version }
}

impl NodeRow {
    /// The versions to be seen: the winner first, then the others from new to old; equal ones once.
    #[must_use]
    pub fn shown_heads(&self) -> Vec<&Head> {
        if self.heads.len() <= 1 {
            return self.heads.iter().collect();
        }
        let rules = super::HeadRules::now();
        let mut shown: Vec<&Head> = Vec::new();
        for head in self.heads.iter().rev().filter(|head| head.settled.is_none()) {
            if shown.iter().all(|other| other.content != head.content || !rules.equal_collapse) {
                shown.push(head);
            }
        }
        if !rules.newest_shows {
            shown.reverse();
        }
        if shown.is_empty() {
            // Two settlements took different heads out. The one that was settled first is the one
            // that the later settlement meant to keep.
            let order = |head: &&Head| (head.settled, std::cmp::Reverse(head.id));
            let heads = self.heads.iter();
            shown.extend(if rules.first_settled_shows {
                heads.min_by_key(order)
            } else {
                heads.max_by_key(order)
            });
        }
        shown
    }

    /// What `stat` shows.
    #[must_use]
    pub fn attrs(&self) -> Attrs {
        let (newest, by_entries) = match self.kind {
            Kind::Dir => {
                let newest = self.entries_changed.max(self.mtime_ns.id);
                (newest, newest != self.mtime_ns.id)
            }
            // Content of ours counts as of when it was written: see `keep_changed`.
            _ => (OpId::ZERO, false),
        };
        let size = match self.kind {
            Kind::Symlink => self.target.len() as u64,
            _ => self.shown_heads().first().map_or(0, |head| head.content.size()),
        };
        Attrs {
            kind: self.kind,
            mode: self.mode.value,
            mtime_ns: if by_entries { unix_ns(newest) } else { self.mtime_ns.value },
            ctime_ns: unix_ns(self.changed.max(newest)),
            uid: self.uid.value,
            gid: self.gid.value,
            owner_set_by: self.uid.id.max(self.gid.id),
            rdev: self.rdev,
            target: self.target.clone(),
            nlink: match self.kind {
                Kind::Dir => 2 + self.visible_dirs,
                _ => (self.links.len() as u64).max(u64::from(self.revived.is_some())),
            },
            size,
        }
    }

    /// The content under the file's name; empty for a file that was never written.
    #[must_use]
    pub fn shown_content(&self) -> Content {
        self.shown_heads().first().map_or_else(Content::empty, |head| head.content.clone())
    }
}

fn unix_ns(id: OpId) -> i64 {
    i64::try_from(id.unix_ms().saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}
