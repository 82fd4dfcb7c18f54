//! What devices did at the same time, listed and settled: the calls behind `.cobox/conflicts` and
//! `cobox-ctl conflicts`.

use cobox_store::id::{Ino, OpId};

use super::{Errno, Invalidate, Vfs};
use crate::tree::PosixError;
use crate::tree::conflicts::{self, Conflict, Keep};

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
        self.reload_clean(&touched)?;
        let told: Vec<Invalidate> = touched.into_iter().map(|what| Self::invalidation(what)).collect();
        let notifier = self.notifier.read().clone();
        if let Some(notify) = notifier.filter(|_| !told.is_empty()) {
            notify(told);
        }
        Ok(count)
    }

    /// The label of the device that wrote an op.
    #[must_use]
    pub fn author(&self, op: OpId) -> Option<String> {
        self.folder.label_of_number(op.log)
    }
}
