//! How long what was released is kept, and how its space comes back.
//!
//! The hold clock counts the time that this store was in use, by a clock that never jumps: the time of day
//! has no say, so that neither a clock that is set forward nor who sets it makes anything go early. A store
//! that is switched off keeps what it holds for that much longer. The caller says how much time went by.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::batch::{Batch, Durability};
use super::db::Db;
use super::listing::Listing;
use super::ordinals::Ordinal;
use super::pack_info::info_key;
use super::store::Store;
use super::tables::{STORE, Table, key};
use crate::error::{Error, Result};
use crate::format::codec::{DecodeError, Reader, Writer};
use crate::format::release::Release;
use crate::id::{FolderNo, LogId, PackId};

/// What was released is kept so long: a month in which a group can notice that a stolen device gave its past
/// away (`DESIGN`, promise 6).
pub const HOLD_MS: u64 = 30 * 24 * 3600 * 1000;
/// What both its admin and this store know to be younger than this when it is released is kept so long: files
/// that change all day, of which no older state needs anything.
pub const HOLD_YOUNG_MS: u64 = 48 * 3600 * 1000;
/// One call adds this at the most: more means that the caller was not there, or lies.
pub const ADVANCE_MS_MAX: u64 = 10 * 60 * 1000;
/// Packs that go in one batch, so that no lock is held for long.
const BATCH_PACKS: usize = 256;

const CLOCK: &[u8] = b"hold clock";
/// The setting that says until when a folder is kept that nobody wants here any more.
const LEAVING: &str = "leaving";

/// The hold clock.
#[derive(Default)]
pub(super) struct HoldClock(AtomicU64);

/// A released pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hold {
    pub(super) size: u64,
    /// By the hold clock.
    pub(super) until_ms: u64,
}

/// What a store keeps of a folder that was released.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first of them goes, milliseconds of this store's being in use from now.
    pub next_ms: Option<u64>,
}

/// What went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Freed {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Hold {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u64(self.size);
        writer.u64(self.until_ms);
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, DecodeError> {
        let field = "released pack";
        let mut reader = Reader::new(bytes);
        let hold = Self { size: reader.u64(field)?, until_ms: reader.u64(field)? };
        reader.finish()?;
        Ok(hold)
    }
}

impl HoldClock {
    pub(super) fn load(db: &Db) -> Result<Self> {
        let row = db.get(&key(STORE, Table::Counter, CLOCK))?;
        let now = row.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        Ok(Self(AtomicU64::new(now)))
    }
}

impl Store {
    /// What the hold clock says.
    pub(super) fn hold_now_ms(&self) -> u64 {
        self.hold_clock.0.load(Ordering::Acquire)
    }

    /// Until when a pack is kept that is released now.
    pub(super) fn hold_for(
        &self,
        pack: PackId,
        listings: &BTreeMap<LogId, Listing>,
        releases: &[Arc<Release>],
    ) -> Hold {
        let now_ms = self.hold_now_ms();
        let said =
            !releases.is_empty() && releases.iter().all(|release| release.young.binary_search(&pack).is_ok());
        // An admin alone cannot make anything young, nor can a store that has it since today only.
        let seen = listings.values().map(|listing| listing.seen_ms).min();
        let young = said && seen.is_some_and(|seen_ms| now_ms.saturating_sub(seen_ms) < HOLD_YOUNG_MS);
        let for_ms = if young { HOLD_YOUNG_MS } else { HOLD_MS };
        Hold { size: 0, until_ms: now_ms.saturating_add(for_ms) }
    }

    /// Tells that the store was in use for so long since the last call, [`ADVANCE_MS_MAX`] at the most, and
    /// removes what has been kept long enough. Works on a full disk.
    ///
    /// # Errors
    /// When the disk fails; what did not go goes with a later call.
    pub fn retention_advance(&self, elapsed_ms: u64) -> Result<Freed> {
        let elapsed_ms = elapsed_ms.min(ADVANCE_MS_MAX);
        let now_ms = self.hold_clock.0.fetch_add(elapsed_ms, Ordering::AcqRel).saturating_add(elapsed_ms);
        let mut freed = Freed::default();
        match self.free_due(now_ms, &mut freed) {
            Err(Error::NoSpace) => {
                self.db().make_room()?;
                let freeing = self.free_due(now_ms, &mut freed);
                self.db().keep_room();
                freeing?;
            }
            freeing => freeing?,
        }
        if freed.packs > 0 {
            tracing::info!(packs = freed.packs, bytes = freed.bytes, "released packs went");
        }
        Ok(freed)
    }

    fn free_due(&self, now_ms: u64, freed: &mut Freed) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(&key(STORE, Table::Counter, CLOCK), &now_ms.to_le_bytes());
        self.db().commit(batch, Durability::Unsynced)?;
        for (no, _) in self.folders()? {
            let due = |hold: &Hold, _: PackId| hold.until_ms <= now_ms;
            self.free_released(no, &due, freed)?;
        }
        Ok(())
    }

    /// Removes a folder's released packs, except those in use: what a member's device does, whose seeders keep
    /// them.
    ///
    /// # Errors
    /// See [`Self::retention_advance`].
    pub fn released_drop(&self, no: FolderNo, in_use: &dyn Fn(PackId) -> bool) -> Result<Freed> {
        let mut freed = Freed::default();
        self.free_released(no, &|_, pack| !in_use(pack), &mut freed)?;
        Ok(freed)
    }

    /// What is kept of a folder that was released.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn held(&self, no: FolderNo) -> Result<Held> {
        let (now_ms, mut held) = (self.hold_now_ms(), Held::default());
        self.scan_released(no, &mut |_, hold| {
            held.packs += 1;
            held.bytes += hold.size;
            let left = hold.until_ms.saturating_sub(now_ms);
            held.next_ms = Some(held.next_ms.map_or(left, |next| next.min(left)));
            ControlFlow::Continue(())
        })?;
        Ok(held)
    }

    fn scan_released(
        &self,
        no: FolderNo,
        visit: &mut dyn FnMut(PackId, Hold) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut wrong = Ok(());
        self.db().scan(&key(no, Table::Released, &[]), &[], &mut |id, value| match (
            id.try_into(),
            Hold::decode(value),
        ) {
            (Ok(id), Ok(hold)) => visit(PackId(id), hold),
            _ => {
                wrong = Err(DecodeError::Invalid { field: "released pack" });
                ControlFlow::Break(())
            }
        })?;
        Ok(wrong?)
    }

    fn free_released(
        &self,
        no: FolderNo,
        goes: &dyn Fn(&Hold, PackId) -> bool,
        freed: &mut Freed,
    ) -> Result<()> {
        let mut due = Vec::new();
        self.scan_released(no, &mut |pack, hold| {
            if goes(&hold, pack) {
                due.push((pack, hold));
            }
            ControlFlow::Continue(())
        })?;
        let mut all: Vec<Ordinal> = Vec::new();
        for part in due.chunks(BATCH_PACKS) {
            let mut ordinals: Vec<Ordinal> = Vec::new();
            let held = self.ordinals.lock();
            let mut batch = Batch::default();
            for (pack, hold) in part {
                // It may have been listed again a moment ago.
                if !self.db().contains(&key(no, Table::Released, &pack.0))? {
                    continue;
                }
                if let Some(info) = self.pack_info(no, *pack)? {
                    info.ordinal.stage_garbage(&mut batch);
                    ordinals.push(info.ordinal);
                }
                batch.delete(&info_key(no, *pack));
                batch.delete(&key(no, Table::Outboard, &pack.0));
                batch.delete(&key(no, Table::Released, &pack.0));
                freed.packs += 1;
                freed.bytes += hold.size;
            }
            self.db().commit(batch, Durability::Synced)?;
            drop(held);
            self.remove_ordinals(&ordinals);
            all.append(&mut ordinals);
        }
        if !due.is_empty() {
            self.logs.totals.lock().remove(&no);
        }
        self.compact_small(&all)
    }

    /// Large packs are files of their own, which went at once; small ones share files.
    pub(super) fn compact_small(&self, removed: &[Ordinal]) -> Result<()> {
        let small = || removed.iter().filter(|ordinal| ordinal.is_small());
        match (small().min(), small().max()) {
            (Some(first), Some(last)) => {
                self.db().bulk_compact(&first.slice_key(0), &last.0.saturating_add(1).to_be_bytes())
            }
            _ => Ok(()),
        }
    }

    /// Begins to count down to the end of a folder that nobody wants here any more; a countdown that runs goes on.
    ///
    /// # Errors
    /// See [`Db::commit`].
    pub fn leave_begin(&self, no: FolderNo) -> Result<()> {
        if self.leaving_in_ms(no)?.is_some() {
            return Ok(());
        }
        let until_ms = self.hold_now_ms().saturating_add(HOLD_MS);
        self.setting_put(no, LEAVING, &until_ms.to_le_bytes())
    }

    /// Ends the countdown: the folder stays.
    ///
    /// # Errors
    /// See [`Db::commit`].
    pub fn leave_cancel(&self, no: FolderNo) -> Result<()> {
        let row = key(no, Table::BlindSetting, LEAVING.as_bytes());
        if !self.db().contains(&row)? {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.delete(&row);
        self.db().commit(batch, Durability::Synced)
    }

    /// How much longer a folder is kept that nobody wants here any more, in milliseconds of this store's being
    /// in use; `None` while somebody does.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn leaving_in_ms(&self, no: FolderNo) -> Result<Option<u64>> {
        let until =
            self.setting(no, LEAVING)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        Ok(until.map(|until_ms| until_ms.saturating_sub(self.hold_now_ms())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::packs::PackStatus;
    use super::super::store::StoreKind;
    use super::super::testing::{Author, Founder, new_store, pack_bytes, sign_record};
    use super::*;
    use crate::format::access::Act;
    use crate::format::pack::PackRef;
    use crate::format::proof::Outboard;

    const DAY_MS: u64 = 24 * 3600 * 1000;

    fn pass(store: &Store, ms: u64) -> Freed {
        let mut freed = Freed::default();
        for at in (0..ms).step_by(usize::try_from(ADVANCE_MS_MAX).expect("small")) {
            let step = store.retention_advance(ADVANCE_MS_MAX.min(ms - at)).expect("goes on");
            freed.packs += step.packs;
            freed.bytes += step.bytes;
        }
        freed
    }

    fn bytes_on_disk(dir: &std::path::Path) -> u64 {
        let files = std::fs::read_dir(dir.join("db")).expect("lists").map(|file| file.expect("lists"));
        files
            .filter(|file| file.path().extension().is_some_and(|ext| ext == "sst"))
            .map(|file| file.metadata().map_or(0, |about| about.len()))
            .sum()
    }

    struct Case {
        dir: tempfile::TempDir,
        store: std::sync::Arc<Store>,
        no: FolderNo,
        founder: Founder,
        author: Author,
    }

    impl Case {
        fn new() -> Self {
            let founder = Founder::new(1);
            let (dir, store, no) = new_store(&founder);
            let author = Author::new(&founder, &store, no);
            Self { dir, store, no, founder, author }
        }

        /// Stores packs that an entry lists.
        fn write(&mut self, seeds: std::ops::Range<u64>, size: usize) -> Vec<PackRef> {
            let packs: Vec<_> =
                seeds.map(|seed| pack_bytes(seed, size)).map(|bytes| (Outboard::of(&bytes), bytes)).collect();
            let refs: Vec<PackRef> = packs.iter().map(|(outboard, _)| outboard.pack()).collect();
            self.store.packs_put(self.no, &packs).expect("puts");
            self.store.entry_add(self.no, &self.author.write(&refs, b"")).expect("adds");
            refs
        }

        fn release(&self, packs: &[PackRef], young: &[PackRef]) {
            let sorted = |packs: &[PackRef]| {
                let mut ids: Vec<PackId> = packs.iter().map(|pack| pack.id).collect();
                ids.sort_unstable();
                ids
            };
            let cut = vec![(self.author.log(), self.author.seq)];
            let act = Act::Release(Release { cut, packs: sorted(packs), young: sorted(young) });
            let heads = self.store.access(self.no).expect("reads").heads.clone();
            let record = sign_record(&self.founder.key, &self.founder, &heads, act);
            self.store.access_add(self.no, &record).expect("admitted");
        }

        fn is_here(&self, pack: &PackRef) -> bool {
            matches!(self.store.pack_status(self.no, pack.id), Ok(PackStatus::Complete(_)))
        }
    }

    #[test]
    fn released_packs_are_kept_for_30_days_of_use_and_then_their_bytes_are_gone_from_the_disk() {
        let mut case = Case::new();
        let large = case.write(0..3, 8 << 20);
        let small = case.write(10..200, 64 << 10);
        let kept = case.write(200..202, 1 << 20);
        pass(&case.store, 3 * DAY_MS);
        let all = [&large[..], &small[..]].concat();
        case.release(&all, &[]);
        let before = bytes_on_disk(case.dir.path());
        assert_eq!(pass(&case.store, 29 * DAY_MS), Freed::default());
        // Switched off for a year, or a clock that says so: nothing goes.
        let Case { dir, store, no, .. } = case;
        drop(store);
        case = Case { store: Store::open(dir.path(), StoreKind::Seeder).expect("opens"), dir, ..case };
        assert!(all.iter().all(|pack| case.is_here(pack)));
        let held = case.store.held(no).expect("reads");
        assert_eq!((held.packs, held.next_ms), (193, Some(DAY_MS)));
        case.store.retention_advance(u64::MAX).expect("goes on");
        assert!(all.iter().all(|pack| case.is_here(pack)), "one call cannot pass a day");
        let freed = pass(&case.store, DAY_MS);
        assert_eq!((freed.packs, freed.bytes), (193, (24 << 20) + (190 << 16)));
        assert!(!all.iter().any(|pack| case.is_here(pack)));
        assert!(kept.iter().all(|pack| case.is_here(pack)));
        let after = bytes_on_disk(case.dir.path());
        assert!(before > 35 << 20 && after < 4 << 20, "{before} bytes on the disk, {after} after");
        assert_eq!(case.store.usage(no).expect("counts").held_bytes, 0);
    }

    #[test]
    fn young_packs_go_after_two_days_only_if_the_store_knows_them_to_be_young() {
        let mut case = Case::new();
        let old = case.write(0..1, 4096);
        pass(&case.store, 3 * DAY_MS);
        let young = case.write(1..2, 4096);
        case.release(&[], &[&old[..], &young[..]].concat());
        pass(&case.store, 2 * DAY_MS + ADVANCE_MS_MAX);
        assert!(!case.is_here(&young[0]));
        assert!(case.is_here(&old[0]), "that an admin calls it young does not make it so");
        pass(&case.store, 28 * DAY_MS);
        assert!(!case.is_here(&old[0]));
    }

    #[test]
    fn folder_that_is_wanted_no_longer_counts_down_and_can_be_wanted_again() {
        let case = Case::new();
        case.store.leave_begin(case.no).expect("begins");
        pass(&case.store, 10 * DAY_MS);
        case.store.leave_begin(case.no).expect("goes on");
        assert_eq!(case.store.leaving_in_ms(case.no).expect("reads"), Some(20 * DAY_MS));
        case.store.leave_cancel(case.no).expect("ends");
        assert_eq!(case.store.leaving_in_ms(case.no).expect("reads"), None);
        case.store.leave_begin(case.no).expect("begins again");
        pass(&case.store, 30 * DAY_MS);
        assert_eq!(case.store.leaving_in_ms(case.no).expect("reads"), Some(0));
    }

    #[test]
    fn folder_takes_its_quota_twice_at_the_most_and_nothing_goes_early_for_it() {
        let mut case = Case::new();
        case.store.quota_set(case.no, 10 << 20, 0).expect("sets");
        let mut released = Vec::new();
        for first in [0, 100] {
            let packs = case.write(first..first + 8, 1 << 20);
            case.release(&packs, &[]);
            released.extend(packs);
        }
        // Sixteen MiB are held: four are left of twice the quota.
        case.write(200..203, 1 << 20);
        let refs: Vec<PackRef> =
            (300..302).map(|seed| Outboard::of(&pack_bytes(seed, 1 << 20)).pack()).collect();
        let beyond = case.author.draft(&refs, b"");
        assert!(matches!(case.store.entry_add(case.no, &beyond), Err(Error::Quota { .. })));
        assert!(released.iter().all(|pack| case.is_here(pack)));
        pass(&case.store, 30 * DAY_MS + ADVANCE_MS_MAX);
        case.store.entry_add(case.no, &beyond).expect("there is room again");
    }
}
