//! Calls on names and attributes.

use std::sync::Arc;

use cobox_store::format::NAME_BYTES_MAX;
use cobox_store::format::content::Content;
use cobox_store::format::op::{AttrChange, Kind, MODE_MASK, Op};
use cobox_store::id::Ino;

use super::attr::{Creator, RenameFlags, SetAttr};
use super::file::{File, Times};
use super::numbers::{ConflictRef, MAGIC_DIR, NodeRef, Report};
use super::sequencer::{NS_PER_MS, now_ns};
use super::{Attr, Errno, Invalidate, ROOT, Vfs, content};
use crate::tree::names::{self, RESERVED_NAME};
use crate::tree::ops::{self, NewNode, Rename};
use crate::tree::{Attrs, View};

/// Leaves that are read to count the holes of a large file: 64,000 extents, some 4 GiB.
const LEAVES_COUNTED: usize = 512;
const BLOCK_BYTES: u64 = 512;
const SETGID: u32 = 0o2000;
/// Access times that are remembered.
const ATIMES_MAX: usize = 65_536;

impl Vfs {
    /// The inode behind a number; conflict entries and `.cobox` are none.
    pub(super) fn inode(&self, number: u64) -> Result<Ino, Errno> {
        match self.numbers.get(number)? {
            NodeRef::Tree(ino) => Ok(ino),
            NodeRef::Conflict(_) => Err(Errno::ENOTDIR),
            NodeRef::MagicDir | NodeRef::MagicReport(_) => Err(Errno::EACCES),
        }
    }

    /// The inode behind a number, about to be changed: a conflict entry becomes a file.
    fn inode_to_change(&self, number: u64) -> Result<Ino, Errno> {
        match self.numbers.get(number)? {
            NodeRef::Conflict(conflict) => self.fork(&conflict),
            _ => self.inode(number),
        }
    }

    pub(super) fn find(&self, parent: u64, name: &[u8]) -> Result<NodeRef, Errno> {
        match self.numbers.get(parent)? {
            NodeRef::MagicDir => {
                let report = Report::ALL.into_iter().find(|report| report.name() == name);
                return report.map(NodeRef::MagicReport).ok_or(Errno::ENOENT);
            }
            _ if parent == ROOT && name == RESERVED_NAME => return Ok(NodeRef::MagicDir),
            _ => {}
        }
        let parent = self.inode(parent)?;
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let shown = self.view(|view| view.lookup(parent, name))?.ok_or(Errno::ENOENT)?;
        Ok(NodeRef::of(parent, shown))
    }

    /// Finds a name; counts one lookup.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr, Errno> {
        let node = self.find(parent, name)?;
        let attr = self.attr_of(&node)?;
        self.numbers.remember(&node);
        Ok(attr)
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, ino: u64, count: u64) {
        self.numbers.forget(ino, count);
    }

    /// `stat(2)`.
    ///
    /// # Errors
    /// `ESTALE`, `ENOENT`.
    pub fn getattr(&self, ino: u64, fh: Option<u64>) -> Result<Attr, Errno> {
        match self.numbers.get(ino) {
            Ok(node) => self.attr_of(&node),
            Err(error) => {
                let (file, _) = self.handles.file(fh.ok_or(error)?)?;
                self.attr_of(&NodeRef::Tree(file.ino))
            }
        }
    }

    pub(super) fn attr_of(&self, node: &NodeRef) -> Result<Attr, Errno> {
        match node {
            NodeRef::Tree(ino) => self.inode_attr(*ino),
            NodeRef::Conflict(conflict) => self.conflict_attr(conflict),
            NodeRef::MagicDir => Ok(self.magic_attr(MAGIC_DIR, Kind::Dir, 0)),
            NodeRef::MagicReport(report) => {
                Ok(self.magic_attr(report.number(), Kind::File, self.report_text(*report).len() as u64))
            }
        }
    }

    fn magic_attr(&self, ino: u64, kind: Kind, size: u64) -> Attr {
        let now = now_ns();
        Attr {
            ino,
            size,
            blocks: size.div_ceil(BLOCK_BYTES),
            mtime_ns: now,
            atime_ns: now,
            ctime_ns: now,
            kind,
            perm: if kind == Kind::Dir { 0o555 } else { 0o444 },
            nlink: if kind == Kind::Dir { 2 } else { 1 },
            uid: self.options.uid,
            gid: self.options.gid,
            rdev: 0,
        }
    }

    fn inode_attr(&self, ino: Ino) -> Result<Attr, Errno> {
        let node = self.view(|view| view.node(ino))?.ok_or(Errno::ENOENT)?;
        let mut attr = self.plain_attr(names::number(&ino), &node.attrs());
        if attr.kind != Kind::File {
            attr.atime_ns = self.atime(&ino).unwrap_or(attr.mtime_ns);
            return Ok(attr);
        }
        let dirty = self.known_file(&ino).filter(|file| file.inner().is_dirty());
        match dirty {
            Some(file) => self.add_dirty(&mut attr, &file),
            None => attr.blocks = self.blocks(&node.shown_content()),
        }
        attr.atime_ns = self.atime(&ino).unwrap_or(attr.mtime_ns);
        Ok(attr)
    }

    fn conflict_attr(&self, conflict: &ConflictRef) -> Result<Attr, Errno> {
        if self.view(|view| view.node(conflict.fork))?.is_some() {
            return self.inode_attr(conflict.fork);
        }
        let node = self.view(|view| view.node(conflict.shown.ino))?.ok_or(Errno::ENOENT)?;
        let head = node.heads.iter().find(|head| head.id == conflict.head).ok_or(Errno::ENOENT)?;
        let mut attr = self.plain_attr(names::number(&conflict.fork), &node.attrs());
        attr.size = head.content.size();
        attr.blocks = self.blocks(&head.content);
        attr.mtime_ns = head.mtime_ns;
        attr.atime_ns = head.mtime_ns;
        attr.nlink = 1;
        Ok(attr)
    }

    fn plain_attr(&self, ino: u64, attrs: &Attrs) -> Attr {
        // Owners are kept on the device that set them; elsewhere the mounting user is shown.
        let ours = attrs.owner_set_by.log == self.folder.log_number();
        Attr {
            ino,
            size: attrs.size,
            blocks: 0,
            mtime_ns: attrs.mtime_ns,
            atime_ns: attrs.mtime_ns,
            ctime_ns: attrs.ctime_ns,
            kind: attrs.kind,
            perm: attrs.mode & MODE_MASK,
            nlink: u32::try_from(attrs.nlink).unwrap_or(u32::MAX),
            uid: if ours { attrs.uid } else { self.options.uid },
            gid: if ours { attrs.gid } else { self.options.gid },
            rdev: attrs.rdev,
        }
    }

    fn add_dirty(&self, attr: &mut Attr, file: &File) {
        let (size, times, base, base_bytes, mem_bytes) = {
            let inner = file.inner();
            let base_bytes: u64 = inner
                .map
                .pieces()
                .filter(|(_, piece)| matches!(piece.source, super::filemap::Source::Base))
                .map(|(_, piece)| piece.len)
                .sum();
            (inner.map.size(), inner.times, Arc::clone(inner.map.base()), base_bytes, inner.map.mem_bytes())
        };
        attr.size = size;
        attr.mtime_ns = times.mtime_ns.unwrap_or(attr.mtime_ns);
        let changed_ns = i64::try_from(times.changed_ms).unwrap_or(i64::MAX).saturating_mul(NS_PER_MS);
        attr.ctime_ns = attr.ctime_ns.max(changed_ns);
        let base_blocks = self.blocks(&base) * BLOCK_BYTES;
        attr.blocks = (base_blocks.min(base_bytes) + mem_bytes).div_ceil(BLOCK_BYTES);
    }

    /// Blocks of 512 bytes that hold data.
    fn blocks(&self, content: &Content) -> u64 {
        if let Content::Tree { root, .. } = content
            && let Some(bytes) = self.allocated.lock().get(root)
        {
            return bytes.div_ceil(BLOCK_BYTES);
        }
        // Where nodes are not on this device, all counts as data.
        let counted = self.with_io(|io| content::allocated_bytes(io, content, LEAVES_COUNTED));
        if let (Content::Tree { root, .. }, Ok(bytes)) = (content, &counted) {
            let mut allocated = self.allocated.lock();
            if allocated.len() >= ATIMES_MAX {
                allocated.clear();
            }
            allocated.insert(*root, *bytes);
        }
        counted.unwrap_or(content.size()).div_ceil(BLOCK_BYTES)
    }

    fn atime(&self, ino: &Ino) -> Option<i64> {
        self.atimes.lock().get(ino).copied()
    }

    /// `chmod`, `chown`, `truncate`, `utimens`.
    ///
    /// # Errors
    /// `EROFS`, `EACCES`, `EINVAL`, `ENOSPC`.
    pub fn setattr(&self, number: u64, change: &SetAttr) -> Result<Attr, Errno> {
        if self.is_read_only() {
            return Err(Errno::EROFS);
        }
        let ino = match self.numbers.get(number) {
            Ok(_) => self.inode_to_change(number)?,
            Err(error) => self.handles.file(change.fh.ok_or(error)?)?.0.ino,
        };
        if let Some(size) = change.size {
            self.set_size(ino, size)?;
        }
        let mut ops_change = AttrChange {
            mode: change.mode.map(|mode| mode & MODE_MASK),
            mtime_ns: change.mtime_ns,
            uid: change.uid,
            gid: change.gid,
        };
        if let (Some(mtime_ns), Some(file)) = (change.mtime_ns, self.known_file(&ino))
            && self.set_dirty_mtime(&file, mtime_ns)?
        {
            // It travels with the content.
            ops_change.mtime_ns = None;
        }
        if ops_change != AttrChange::default() {
            self.change(&[], |view| ops::attr(view, ino, ops_change).map(|ops| (ops, ())))?;
        }
        if let Some(atime_ns) = change.atime_ns {
            let mut atimes = self.atimes.lock();
            if atimes.len() >= ATIMES_MAX {
                atimes.clear();
            }
            atimes.insert(ino, atime_ns);
        }
        self.inode_attr(ino)
    }

    /// Sets the time of a file whose content the log does not know yet; false where it does.
    fn set_dirty_mtime(&self, file: &File, mtime_ns: i64) -> Result<bool, Errno> {
        let _io = file.io.lock();
        let saved = {
            let mut inner = file.inner();
            if !inner.is_dirty() {
                return Ok(false);
            }
            inner.times = Times { mtime_ns: Some(mtime_ns), changed_ms: self.moment().changed_ms };
            inner.saved.at.is_some()
        };
        if saved {
            self.save(file, cobox_store::blind::Durability::Unsynced)?;
        }
        Ok(true)
    }

    fn set_size(&self, ino: Ino, size: u64) -> Result<(), Errno> {
        if size > i64::MAX as u64 {
            return Err(Errno::EFBIG);
        }
        let (file, closed) = {
            let _frozen = self.freeze.read();
            self.with_file(ino, |file| {
                let mut inner = file.inner();
                if inner.map.size() != size {
                    inner.map.truncate(size);
                }
                inner.changed(self.moment());
                inner.opens == 0
            })?
        };
        // Also where only its times changed: what is told of them later builds on that.
        if closed {
            let _io = file.io.lock();
            self.save(&file, cobox_store::blind::Durability::Unsynced)?;
            file.inner().settled_by_user = true;
        }
        self.wake.note_close();
        Ok(())
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` for anything else.
    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        let ino = self.inode(ino)?;
        let node = self.view(|view| view.node(ino))?.ok_or(Errno::ENOENT)?;
        if node.kind == Kind::Symlink { Ok(node.target) } else { Err(Errno::EINVAL) }
    }

    fn make(&self, parent: u64, name: &[u8], mut node: NewNode) -> Result<Attr, Errno> {
        if parent == ROOT && name == RESERVED_NAME {
            return Err(Errno::EEXIST);
        }
        let parent = self.inode(parent)?;
        // Whatever is open is known to the kernel by its number.
        let taken = |number: u64| self.numbers.is_known(number);
        let ino = self.change(&[parent], |view| {
            inherit_group(view, parent, &mut node)?;
            ops::make(view, parent, name, node, &taken)
        })?;
        let node = NodeRef::Tree(ino);
        let attr = self.tell_failed(parent, name, self.attr_of(&node))?;
        self.numbers.remember(&node);
        Ok(attr)
    }

    /// Makes a file, FIFO, socket or device node; counts one lookup, as all makers do.
    ///
    /// # Errors
    /// What `mknod(2)` says.
    pub fn mknod(&self, parent: u64, name: &[u8], kind: Kind, by: Creator, rdev: u32) -> Result<Attr, Errno> {
        if matches!(kind, Kind::Dir | Kind::Symlink) {
            return Err(Errno::EINVAL);
        }
        let rdev = if matches!(kind, Kind::CharDev | Kind::BlockDev) { rdev } else { 0 };
        self.make(parent, name, new_node(kind, by, rdev, Vec::new()))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// What `mkdir(2)` says.
    pub fn mkdir(&self, parent: u64, name: &[u8], by: Creator) -> Result<Attr, Errno> {
        self.make(parent, name, new_node(Kind::Dir, by, 0, Vec::new()))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// What `symlink(2)` says.
    pub fn symlink(&self, parent: u64, name: &[u8], target: &[u8], by: Creator) -> Result<Attr, Errno> {
        let by = Creator { mode: 0o777, ..by };
        self.make(parent, name, new_node(Kind::Symlink, by, 0, target.to_vec()))
    }

    /// Removes a name.
    ///
    /// # Errors
    /// What `unlink(2)` says.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        let parent = self.dir_to_change(parent, name)?;
        let ino = self.change_removing(&[parent], |view| {
            let found = view.lookup(parent, name)?.map(|shown| shown.ino);
            ops::unlink(view, parent, name).map(|ops| (ops, found))
        })?;
        self.tell_failed(parent, name, self.drop_dead(ino))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// What `rmdir(2)` says.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        let parent = self.dir_to_change(parent, name)?;
        let removed = self.change_removing(&[parent], |view| {
            let found = view.lookup(parent, name)?.map(|shown| shown.ino);
            ops::rmdir(view, parent, name).map(|ops| (ops, found))
        })?;
        removed.iter().for_each(|dir| self.numbers.note_removed(names::number(dir)));
        Ok(())
    }

    /// Distinguishes a directory that came back from the removed one under its number, which the kernel still remembers.
    #[must_use]
    pub fn generation(&self, ino: u64) -> u64 {
        self.numbers.generation(ino)
    }

    /// Adds a name to a file.
    ///
    /// # Errors
    /// What `link(2)` says.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr, Errno> {
        let parent = self.dir_to_change(parent, name)?;
        let ino = self.inode_to_change(ino)?;
        self.change(&[parent], |view| ops::link(view, ino, parent, name).map(|ops| (ops, ())))?;
        let node = NodeRef::Tree(ino);
        let attr = self.tell_failed(parent, name, self.attr_of(&node))?;
        self.numbers.remember(&node);
        Ok(attr)
    }

    /// `renameat2(2)`.
    ///
    /// # Errors
    /// What it says.
    pub fn rename(
        &self,
        parent: u64,
        name: &[u8],
        new_parent: u64,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let from = self.dir_to_change(parent, name)?;
        let to = self.dir_to_change(new_parent, new_name)?;
        let how = match flags {
            RenameFlags::Replace => Rename::Replace,
            RenameFlags::NoReplace => Rename::NoReplace,
            RenameFlags::Exchange => Rename::Exchange,
        };
        let (moved, replaced, settled) = self.change(&[from, to], |view| {
            let (moved, replaced) = (view.lookup(from, name)?, view.lookup(to, new_name)?);
            let ops = ops::rename(view, (from, name), (to, new_name), how)?;
            let settled = ops.iter().any(|op| matches!(op, Op::Keep { .. }));
            Ok((ops, (moved, replaced, settled)))
        })?;
        if from != to {
            // Their `..` is another one, which the kernel keeps in their own listings.
            let exchanged = replaced.as_ref().filter(|_| how == Rename::Exchange);
            let dirs = moved.iter().chain(exchanged).filter(|shown| shown.kind == Kind::Dir);
            self.tell_later(dirs.map(|shown| Invalidate::Node(names::number(&shown.ino))));
        }
        let Some(replaced) = replaced else { return Ok(()) };
        let is_same = moved.is_some_and(|moved| moved.ino == replaced.ino);
        if replaced.kind == Kind::Dir && how != Rename::Exchange && !is_same {
            self.numbers.note_removed(names::number(&replaced.ino));
        }
        let shown = if settled { self.show_settled(replaced.ino) } else { Ok(()) };
        let rest = shown.and_then(|()| self.drop_dead(Some(replaced.ino)));
        self.tell_failed(from, name, self.tell_failed(to, new_name, rest))
    }

    fn dir_to_change(&self, parent: u64, name: &[u8]) -> Result<Ino, Errno> {
        if parent == ROOT && name == RESERVED_NAME {
            return Err(Errno::EBUSY);
        }
        self.inode(parent)
    }

    /// What was written to a closed file goes with its last name.
    fn drop_dead(&self, ino: Option<Ino>) -> Result<(), Errno> {
        let Some(ino) = ino else { return Ok(()) };
        let Some(file) = self.known_file(&ino) else { return Ok(()) };
        if file.inner().opens == 0 && self.view(|view| super::survive::is_gone(view, &file))? {
            self.discard(&file)?;
            self.drop_if_idle(&ino);
        }
        Ok(())
    }
}

fn new_node(kind: Kind, by: Creator, rdev: u32, target: Vec<u8>) -> NewNode {
    NewNode { kind, mode: by.mode & MODE_MASK, mtime_ns: now_ns(), uid: by.uid, gid: by.gid, rdev, target }
}

/// A set-gid directory gives its group to what is made in it, and the bit to directories.
fn inherit_group(view: &View<'_>, parent: Ino, node: &mut NewNode) -> Result<(), cobox_store::Error> {
    if let Some(directory) = view.attrs(parent)?
        && directory.mode & SETGID != 0
    {
        node.gid = directory.gid;
        if node.kind == Kind::Dir {
            node.mode |= SETGID;
        }
    }
    Ok(())
}
