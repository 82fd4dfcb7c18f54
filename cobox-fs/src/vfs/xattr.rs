//! Extended attributes: `user.*` replicate, `user.cobox.*` are answered here, all others are refused.

use std::collections::BTreeSet;

use cobox_store::blind::PackStatus;
use cobox_store::format::content::Extent;
use cobox_store::id::{Ino, PackId};

use super::attr::XattrSet;
use super::content;
use super::numbers::NodeRef;
use super::{Errno, FileState, Vfs};
use crate::tree::ops;

const OWN_PREFIX: &[u8] = b"user.cobox.";
/// Packs of one file that its state is computed from: 16 GiB of content.
const PACKS_MAX: usize = 2048;

impl Vfs {
    fn xattr_inode(&self, number: u64) -> Result<Ino, Errno> {
        match self.numbers.get(number)? {
            NodeRef::Tree(ino) => Ok(ino),
            NodeRef::Conflict(conflict) => Ok(conflict.shown.ino),
            NodeRef::MagicDir | NodeRef::MagicReport(_) => Err(Errno::ENODATA),
        }
    }

    /// Value of an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if !name.starts_with(b"user.") {
            return Err(Errno::EOPNOTSUPP);
        }
        let ino = self.xattr_inode(ino)?;
        if let Some(own) = name.strip_prefix(OWN_PREFIX) {
            return self.own_xattr(ino, own);
        }
        self.view(|view| view.xattr(ino, name))?.ok_or(Errno::ENODATA)
    }

    fn own_xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let source = self.status.read().clone().ok_or(Errno::ENODATA)?;
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENODATA)?;
        let (packs, state) = self.file_state(ino)?;
        source.xattr(name, &packs, state).ok_or(Errno::ENODATA)
    }

    /// The packs that hold a file's content, and where its newest state is.
    fn file_state(&self, ino: Ino) -> Result<(Vec<PackId>, FileState), Errno> {
        let content = self.view(|view| view.node(ino))?.ok_or(Errno::ENOENT)?.shown_content();
        let mut chunks = Vec::new();
        let size = content.size();
        let nodes_here = self.with_io(|io| {
            content::extents_in(io, &content, 0..size, &mut |_, extent| {
                if let Extent::Data { chunk, .. } = extent {
                    chunks.push(chunk);
                }
            })
        });
        let mut packs = BTreeSet::new();
        for chunk in chunks {
            if packs.len() >= PACKS_MAX {
                break;
            }
            packs.extend(self.folder.pack_of(chunk)?);
        }
        let mut state = if nodes_here.is_ok() { FileState::Local } else { FileState::Absent };
        let store = self.folder.store();
        for pack in &packs {
            if matches!(
                store.pack_status(self.folder.no(), *pack)?,
                PackStatus::Missing(_) | PackStatus::Partial(..)
            ) {
                state = FileState::Absent;
            }
        }
        if self.known_file(&ino).is_some_and(|file| file.inner().is_dirty()) {
            state = FileState::Dirty;
        }
        Ok((packs.into_iter().collect(), state))
    }

    fn check_settable(name: &[u8]) -> Result<(), Errno> {
        if !name.starts_with(b"user.") {
            return Err(Errno::EOPNOTSUPP);
        }
        if name.starts_with(OWN_PREFIX) { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `ERANGE`, `E2BIG`, `EOPNOTSUPP`.
    pub fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], how: XattrSet) -> Result<(), Errno> {
        Self::check_settable(name)?;
        let ino = self.xattr_inode(ino)?;
        let how = match how {
            XattrSet::Any => ops::XattrSet::Any,
            XattrSet::Create => ops::XattrSet::Create,
            XattrSet::Replace => ops::XattrSet::Replace,
        };
        self.change(&[], |view| ops::set_xattr(view, ino, name, value, how).map(|ops| (ops, ())))
    }

    /// Names of the extended attributes, without separators.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<Vec<u8>>, Errno> {
        match self.xattr_inode(ino) {
            Ok(ino) => Ok(self.view(|view| view.node(ino))?.ok_or(Errno::ENOENT)?.xattrs),
            Err(Errno::ENODATA) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<(), Errno> {
        Self::check_settable(name)?;
        let ino = self.xattr_inode(ino)?;
        self.change(&[], |view| ops::remove_xattr(view, ino, name).map(|ops| (ops, ())))
    }
}
