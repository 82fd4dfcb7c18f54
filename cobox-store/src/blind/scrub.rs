//! Reads every slice of every complete pack and compares it with the outboard; needs no key.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::pack_info::{PackInfo, State};
use super::store::Store;
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::pack::PackRef;
use crate::format::proof::Outboard;
use crate::id::{FolderNo, PackId};

/// Packs listed at a time: the check of a pack takes far longer than a seek, and the list stays small.
const PAGE_PACKS: usize = 1024;

/// What a check found of one pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackHealth {
    /// Every slice matches.
    Sound,
    /// A slice does not; it was dropped and the pack, if live, went back to missing.
    Damaged,
}

/// What a check found of a folder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    /// Complete packs that were read.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that were damaged.
    pub damaged: Vec<PackId>,
    /// The slices that were, of each of them, ascending: they may be here again by the time that anybody looks.
    pub slices: BTreeMap<PackId, Vec<u64>>,
}

impl Store {
    /// Checks all complete packs, ascending by id, until the visitor breaks. Damaged ones lose
    /// the slices that are, and, if live, are missing again.
    ///
    /// # Errors
    /// When the disk cannot be read at all, or the database not written.
    pub fn check_packs(
        &self,
        no: FolderNo,
        visit: &mut dyn FnMut(PackRef, PackHealth) -> ControlFlow<()>,
    ) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let mut from = Vec::new();
        loop {
            let page = self.page(no, &from)?;
            let Some(last) = page.last() else { return Ok(report) };
            // The least key after the last of this page.
            from = [&last.0[..], &[0]].concat();
            for id in &page {
                let Some((pack, unsound)) = self.check_pack(no, *id)? else { continue };
                let health = if unsound.is_empty() { PackHealth::Sound } else { PackHealth::Damaged };
                report.packs += 1;
                report.bytes += pack.size;
                if health == PackHealth::Damaged {
                    report.damaged.push(pack.id);
                    report.slices.insert(pack.id, unsound);
                    self.pack_mark_damaged(no, pack.id)?;
                }
                if visit(pack, health).is_break() {
                    return Ok(report);
                }
            }
        }
    }

    /// Up to [`PAGE_PACKS`] packs that are here, wholly or in part, from a key on.
    pub(super) fn page(&self, no: FolderNo, from: &[u8]) -> Result<Vec<PackId>> {
        let mut page = Vec::new();
        self.db().scan(&key(no, Table::PackInfo, &[]), from, &mut |id, _| {
            page.extend(id.try_into().map(PackId));
            if page.len() < PAGE_PACKS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(page)
    }

    /// The slices of a pack that do not match; all of them without a sound outboard. `None` for a pack that is not
    /// complete (any more).
    pub(super) fn check_pack(&self, no: FolderNo, id: PackId) -> Result<Option<(PackRef, Vec<u64>)>> {
        let Some(info) = self.pack_info(no, id)? else { return Ok(None) };
        if info.state != State::Complete {
            return Ok(None);
        }
        let pack = PackRef { id, size: info.size };
        let indices = 0..crate::format::proof::slice_count(info.size);
        let unsound = match self.outboard(no, id) {
            Ok(Some(outboard)) => self.unsound_slices(&info, &outboard)?,
            Ok(None) => return Ok(None),
            Err(Error::PackDamaged(_)) => indices.collect(),
            Err(error) => return Err(error),
        };
        // It may have been freed while it was read, and come again: its row goes before its slices do.
        let same = |now: PackInfo| now.ordinal == info.ordinal;
        if !unsound.is_empty() && !self.pack_info(no, id)?.is_some_and(same) {
            return Ok(None);
        }
        Ok(Some((pack, unsound)))
    }

    fn unsound_slices(&self, info: &PackInfo, outboard: &Outboard) -> Result<Vec<u64>> {
        let mut unsound = Vec::new();
        for index in 0..crate::format::proof::slice_count(info.size) {
            let sound = match self.slice_of(info, outboard.pack().id, index) {
                Ok(slice) => slice.is_some_and(|bytes| outboard.slice_matches(index, &bytes)),
                Err(Error::PackDamaged(_)) => false,
                Err(error) => return Err(error),
            };
            if !sound {
                unsound.push(index);
            }
        }
        Ok(unsound)
    }
}
