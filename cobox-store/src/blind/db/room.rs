//! Space that comes back: compaction of what was removed, and room to remove anything on a full disk.

use super::families::{bulk, open_rocksdb, open_to_read};
use super::{Db, Ordering};
use crate::error::{Error, Result};

impl Db {
    /// Has the disk take back what removed slices with `from <= key < to` still occupy in files that they share
    /// with others: those files are written anew.
    ///
    /// # Errors
    /// See [`Self::commit`].
    pub fn bulk_compact(&self, from: &[u8], to: &[u8]) -> Result<()> {
        self.heal()?;
        let handle = self.handle();
        let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
        db.compact_range_cf(bulk(db), Some(from), Some(to));
        Ok(())
    }

    /// Gives the reserve up so that a full disk takes the few writes that removing things needs; for a moment
    /// only, until [`Self::keep_room`].
    ///
    /// # Errors
    /// When the database cannot be opened anew even so.
    pub fn make_room(&self) -> Result<()> {
        let mut open = self.open.write();
        self.reserve.release()?;
        *open = None;
        self.reopened.fetch_add(1, Ordering::AcqRel);
        let opened = open_rocksdb(&self.path).and_then(|db| {
            *open = Some(db);
            self.prepare()
        });
        match opened {
            Ok(()) => {
                self.trouble.end();
                Ok(())
            }
            Err(error) => {
                if open.is_none() {
                    // Readers go on as far as they can; the next write tries again.
                    *open = open_to_read(&self.path).ok();
                }
                self.trouble.begin(&error);
                Err(error)
            }
        }
    }

    /// Takes the reserve again; where there is no room for it, writes are refused as before.
    pub fn keep_room(&self) {
        if self.reserve.fill().is_err() {
            self.trouble.begin(&Error::NoSpace);
        }
    }
}
