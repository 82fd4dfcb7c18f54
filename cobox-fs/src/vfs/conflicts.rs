//! What devices did at the same time, listed and settled: the calls behind `.cobox/conflicts` and
//! `cobox-ctl conflicts`.

use cobox_store::id::Ino;

use super::{Errno, Invalidate, Vfs};
use crate::tree::conflicts::{self, Conflict, Keep};
use crate::tree::{PosixError, Touched, names};

/// Notes that one list reads: a few thousand conflicts are more than a person settles one by one, and the
/// next list has the next ones.
pub const NOTES_MAX: usize = 10_000;

impl Vfs {
    /// What devices did at the same time and nobody has settled, in the order of paths.
    ///
    /// # Errors
    /// `EIO`.
    pub fn conflicts(&self) -> Result<Vec<Conflict>, Errno> {
        let notes = self.rows.notes(NOTES_MAX)?;
        Ok(self.view(|view| conflicts::conflicts(view, &notes))?)
    }

    /// Settles what stands at `path` (from the root of the folder); says how many changes it took, 0 where
    /// nothing was to be settled.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EISDIR` where a directory would have to go, `EROFS`, `EIO`.
    pub fn keep_conflict(&self, path: &[u8], how: Keep) -> Result<usize, Errno> {
        let mut parts: Vec<&[u8]> =
            path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        let name = parts.pop().ok_or(Errno::ENOENT)?;
        // Outside of the sequencer, as notes are read from the store; a note that went meanwhile settles nothing.
        let notes = self.rows.notes(NOTES_MAX)?;
        let (count, touched) = self.change_telling(|view| {
            let mut dir = Ino::ROOT;
            for part in &parts {
                dir = view.lookup(dir, part)?.ok_or(PosixError::NoEntry)?.ino;
            }
            if view.node(dir)?.is_none_or(|node| node.kind != cobox_store::format::op::Kind::Dir) {
                return Err(PosixError::NotDir);
            }
            let ops = conflicts::keep(view, (dir, name), &notes, how)?;
            let count = ops.len();
            Ok((ops, count))
        })?;
        // The kernel did not ask for this change, so it is told as if another device had made it.
        let reloaded = self.reload_clean(&touched);
        self.tell(touched.into_iter().map(Self::invalidation).collect());
        reloaded?;
        Ok(count)
    }

    /// Another version shows under the name of a file now, because a program renamed it over that: the kernel
    /// still has the pages of the one before.
    pub(super) fn show_settled(&self, ino: Ino) -> Result<(), Errno> {
        self.reload_clean(&[Touched::Inode(ino)])?;
        let number = names::number(&ino);
        self.stale.lock().insert(number);
        // Its attributes are told by the catch-up thread: from within a call that could wait for itself.
        self.tell_later([Invalidate::Node(number)]);
        Ok(())
    }

    /// Whether the kernel must read a file anew that is being opened; says so once.
    pub fn take_stale(&self, number: u64) -> bool {
        let mut stale = self.stale.lock();
        !stale.is_empty() && stale.remove(&number)
    }
}
