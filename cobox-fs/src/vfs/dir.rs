//! Listing directories.
//!
//! Order is the order of the names' keyed hashes, as in ext4. An offset is made of the hash and a
//! counter, so a listing goes on rightly after names were added or removed, and across restarts.

use cobox_store::format::op::Kind;

use super::attr::{Attr, DirEntry, Full, Listing};
use super::file::Handle;
use super::numbers::{MAGIC_DIR, NodeRef, Report};
use super::told::Outdated;
use super::{Errno, Invalidate, ROOT, Vfs};
use crate::tree::names;
use crate::tree::row::SlotHash;

/// Slots that are read at a time: a few times what fits one reply of the kernel's.
const SLOTS_READ: usize = 256;
/// Bits of an offset that count names whose hashes begin alike.
const COUNTER_BITS: u32 = 15;
/// Offsets of names begin here: 0 is the start, 1 follows `.`, 2 follows `..`.
const OFFSET_FIRST: u64 = 3;

/// The first 48 bits of a hash.
fn head_of(hash: &SlotHash) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.0[..8]);
    u64::from_be_bytes(bytes) >> 16
}

impl Vfs {
    /// Opens a directory for listing.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn opendir(&self, ino: u64) -> Result<u64, Errno> {
        let node = self.numbers.get(ino)?;
        if self.attr_of(&node)?.kind != Kind::Dir {
            return Err(Errno::ENOTDIR);
        }
        let opened = self.told.open_listing(ino);
        Ok(self.handles.add(Handle::Dir(node, opened)))
    }

    /// Ends a listing.
    pub fn releasedir(&self, fh: u64) {
        if let Some(Handle::Dir(node, opened)) = self.handles.remove(fh)
            && self.told.close_listing(node.number(), opened) == Outdated::Perhaps
        {
            self.tell_later([Invalidate::Node(node.number())]);
        }
    }

    /// Lists from `offset` on (0 = the start); `.` and `..` come first.
    ///
    /// # Errors
    /// `EBADF`, `EIO`.
    pub fn readdir(
        &self,
        fh: u64,
        offset: u64,
        listing: Listing,
        visit: &mut dyn FnMut(DirEntry<'_>, Option<&Attr>) -> Full,
    ) -> Result<(), Errno> {
        let Handle::Dir(node, _) = self.handles.get(fh)? else { return Err(Errno::ENOTDIR) };
        let mut lister = Lister { vfs: self, listing, visit };
        if offset < 1 && lister.dot(&node, 1, b".")? == Full::Yes {
            return Ok(());
        }
        if offset < 2 {
            let parent = self.parent_of(&node)?;
            if lister.dot(&parent, 2, b"..")? == Full::Yes {
                return Ok(());
            }
        }
        match node {
            NodeRef::Tree(ino) => lister.names(ino, offset.max(OFFSET_FIRST - 1)),
            NodeRef::MagicDir => {
                for (at, report) in (OFFSET_FIRST..).zip(Report::ALL).filter(|(at, _)| *at > offset) {
                    let node = NodeRef::MagicReport(report);
                    if lister.entry(&node, report.number(), Kind::File, at, report.name())? == Full::Yes {
                        break;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn parent_of(&self, node: &NodeRef) -> Result<NodeRef, Errno> {
        Ok(match node {
            NodeRef::Tree(ino) => match self.view(|view| view.place(*ino))? {
                Some((parent, _)) => NodeRef::Tree(parent),
                None => node.clone(),
            },
            _ => self.numbers.get(ROOT)?,
        })
    }
}

struct Lister<'a> {
    vfs: &'a Vfs,
    listing: Listing,
    visit: &'a mut dyn FnMut(DirEntry<'_>, Option<&Attr>) -> Full,
}

impl Lister<'_> {
    fn dot(&mut self, node: &NodeRef, offset: u64, name: &[u8]) -> Result<Full, Errno> {
        let attr = match self.listing {
            Listing::Names => None,
            Listing::Plus => Some(self.vfs.attr_of(node)?),
        };
        let entry = DirEntry { ino: node.number(), offset, kind: Kind::Dir, name };
        Ok((self.visit)(entry, attr.as_ref()))
    }

    fn entry(
        &mut self,
        node: &NodeRef,
        ino: u64,
        kind: Kind,
        offset: u64,
        name: &[u8],
    ) -> Result<Full, Errno> {
        let entry = DirEntry { ino, offset, kind, name };
        if self.listing == Listing::Names {
            return Ok((self.visit)(entry, None));
        }
        match self.vfs.attr_of(node) {
            Ok(attr) => {
                // Counted before the kernel can see it; taken back where there was no room.
                self.vfs.numbers.remember(node);
                let full = (self.visit)(entry, Some(&attr));
                if full == Full::Yes {
                    self.vfs.numbers.forget(ino, 1);
                }
                Ok(full)
            }
            // Removed while it was listed.
            Err(Errno::ENOENT) => Ok(Full::No),
            Err(error) => Err(error),
        }
    }

    /// Everything whose offset is greater than `after`.
    fn names(&mut self, parent: cobox_store::id::Ino, after: u64) -> Result<(), Errno> {
        let head = after.saturating_sub(OFFSET_FIRST) >> COUNTER_BITS;
        let mut from = [0u8; 16];
        from[..8].copy_from_slice(&(head << 16).to_be_bytes());
        let (mut last_head, mut counter) = (u64::MAX, 0u64);
        loop {
            let slots = self.vfs.rows.slots(parent, from, SLOTS_READ)?;
            let count = slots.len();
            let Some((last, _)) = slots.last() else { return Ok(()) };
            let next = u128::from_be_bytes(last.0).checked_add(1);
            for (hash, slot) in &slots {
                if head_of(hash) != last_head {
                    (last_head, counter) = (head_of(hash), 0);
                }
                for shown in self.vfs.view(|view| view.visible_names(parent, slot))? {
                    let offset = OFFSET_FIRST + (last_head << COUNTER_BITS | counter);
                    counter += 1;
                    if offset <= after
                        || (parent == cobox_store::id::Ino::ROOT && shown.name == names::RESERVED_NAME)
                    {
                        continue;
                    }
                    let (name, kind) = (shown.name.clone(), shown.kind);
                    let node = NodeRef::of(parent, shown);
                    let ino = node.number();
                    debug_assert_ne!(ino, MAGIC_DIR);
                    if self.entry(&node, ino, kind, offset, &name)? == Full::Yes {
                        return Ok(());
                    }
                }
            }
            match next {
                Some(next) if count == SLOTS_READ => from = next.to_be_bytes(),
                _ => return Ok(()),
            }
        }
    }
}
