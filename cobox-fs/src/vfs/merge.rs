//! Writing worn packs again, and finding those that may go because others hold what is needed of them.
//!
//! Nothing is let go of here: that is `release.rs`, for packs of both kinds.

use std::collections::{BTreeSet, HashMap, HashSet};

use cobox_store::blind::Batch;
use cobox_store::format::pack::{DirectoryRow, PackRef};
use cobox_store::format::release::Cut as LogCut;
use cobox_store::id::{LogId, PackId};

use super::chunks::{Chunks, short};
use super::survey::Survey;
use super::worn::{Covered, Limits, Worn, considered, cover, to_rewrite};
use super::{Errno, Vfs};

/// Whether what was written last is at as many seeders as the folder wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// They proved it: packs that were written again may take the place of others.
    Proved,
    /// They did not: only what nobody needs may go.
    Lacking,
}

/// What is done about worn packs, or would be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Packs whose needed chunks others hold, and those others.
    pub covered: Covered,
    /// Their bytes.
    pub covered_bytes: u64,
    /// Packs whose needed chunks are to be written again.
    pub rewrite: Vec<Worn>,
    /// Chunks of them, each once.
    rows: Vec<DirectoryRow>,
}

impl Plan {
    /// Bytes of the packs that are to be written again.
    #[must_use]
    pub fn rewrite_bytes(&self) -> u64 {
        self.rewrite.iter().map(|pack| pack.pack.size).sum()
    }

    /// What of them is needed, and is sent again.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.len)).sum()
    }
}

/// Where an entry lists a pack with its directory.
type At = (LogId, u64);

impl Vfs {
    /// Other limits, for the tests.
    #[doc(hidden)]
    pub fn set_merge_limits(&self, limits: Limits) {
        *self.limits.lock() = limits;
    }

    pub(super) fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// What the folder's packs hold, and what is to be done about worn ones.
    ///
    /// # Errors
    /// See [`Self::survey`].
    pub fn survey_and_plan(&self) -> Result<(Survey, Plan), Errno> {
        let (cut, reached) = self.reach_at_a_cut()?;
        let survey = self.survey_of(&cut, &reached)?;
        let plan = self.plan(&cut, &reached, &survey)?;
        Ok((survey, plan))
    }

    /// Writes again what is needed of worn packs, in packs of the full size that an entry lists, if that is no more
    /// than `room_bytes`. The old ones stay.
    ///
    /// # Errors
    /// See [`Self::survey`]; `EROFS`, `ENOSPC`.
    pub fn merge_worn(&self, room_bytes: u64) -> Result<(Plan, Vec<PackRef>), Errno> {
        if self.is_read_only() {
            return Err(Errno::EROFS);
        }
        let (_, plan) = self.survey_and_plan()?;
        let (Some(epoch), false) =
            (self.folder.merging_epoch()?, plan.rewrite.is_empty() || plan.copied_bytes() > room_bytes)
        else {
            return Ok((plan, Vec::new()));
        };
        let made = self.folder.copy_chunks(epoch, &mut plan.rows.iter().copied())?;
        self.list_stored()?;
        let bytes: u64 = made.iter().map(|pack| pack.size).sum();
        tracing::info!(folder = %self.folder.id(), from = plan.rewrite.len(), to = made.len(), bytes, "packs were merged");
        Ok((plan, made))
    }

    /// Writes an entry that lists the packs that are stored and in no entry.
    fn list_stored(&self) -> Result<(), Errno> {
        if !self.may_begin()? {
            return Ok(());
        }
        let _one = self.cutting.lock();
        let (hlc, deps) = {
            let sequencer = self.sequencer.lock();
            (sequencer.hlc_last, self.applied.lock().deps())
        };
        self.folder.write_entries(hlc, Vec::new(), deps, Batch::default())?;
        Ok(())
    }

    /// What to do about worn packs that entries up to `cut` list.
    pub(super) fn plan(&self, cut: &LogCut, reached: &Chunks, survey: &Survey) -> Result<Plan, Errno> {
        let limits = self.limits();
        let worn = considered(survey.worn.clone(), &limits);
        if worn.is_empty() {
            return Ok(Plan::default());
        }
        let rows = self.needed_rows(cut, reached, &worn)?;
        let needed: Vec<Vec<u128>> =
            rows.iter().map(|rows| rows.iter().map(|row| short(&row.tag)).collect()).collect();
        let wanted: HashSet<u128> = needed.iter().flatten().copied().collect();
        let (holders, places) = self.holders(cut, &wanted)?;
        let named = self.named_by_releases()?;
        let mut known: HashMap<PackId, bool> = HashMap::new();
        let mut sound = |pack: PackId| {
            if let Some(sound) = known.get(&pack) {
                return Ok::<_, Errno>(*sound);
            }
            let is = !named.contains(&pack)
                && self.is_sound(pack, places.get(&pack).map(Vec::as_slice).unwrap_or_default())?;
            known.insert(pack, is);
            Ok(is)
        };
        let covered = cover(&worn, &needed, &holders, &mut sound)?;
        let rewrite = to_rewrite(&worn, &covered, self.folder.merging_epoch()?, &limits);
        let chosen: BTreeSet<PackId> = rewrite.iter().map(|pack| pack.pack.id).collect();
        let mut seen = HashSet::new();
        let of_chosen = worn.iter().zip(rows).filter(|(pack, _)| chosen.contains(&pack.pack.id));
        let rows = of_chosen.flat_map(|(_, rows)| rows).filter(|row| seen.insert(short(&row.tag))).collect();
        let bytes =
            worn.iter().filter(|pack| covered.packs.contains(&pack.pack.id)).map(|pack| pack.pack.size);
        Ok(Plan { covered_bytes: bytes.sum(), covered, rewrite, rows })
    }

    /// What is needed of each of `worn`, in their order.
    fn needed_rows(
        &self,
        cut: &LogCut,
        reached: &Chunks,
        worn: &[Worn],
    ) -> Result<Vec<Vec<DirectoryRow>>, Errno> {
        let at: HashMap<PackId, usize> = worn.iter().zip(0..).map(|(pack, at)| (pack.pack.id, at)).collect();
        let mut needed: Vec<Vec<DirectoryRow>> = vec![Vec::new(); worn.len()];
        self.each_listing(cut, &mut |_, pack, directory, _| {
            if let Some(rows) = at.get(&pack.id).and_then(|at| needed.get_mut(*at)) {
                rows.extend(directory.iter().filter(|row| reached.has(&row.tag)));
            }
        })?;
        Ok(needed)
    }

    /// Which live packs entries say to hold chunks, and where they say so.
    fn holders(&self, cut: &LogCut, wanted: &HashSet<u128>) -> Result<Holders, Errno> {
        let live = self.live_packs()?;
        let (mut holders, mut places): Holders = Default::default();
        self.each_listing(cut, &mut |at, pack, directory, _| {
            if !live.contains(&pack.id) {
                return;
            }
            let mut holds = false;
            for row in directory {
                let chunk = short(&row.tag);
                if wanted.contains(&chunk) {
                    holds = true;
                    let of_chunk = holders.entry(chunk).or_default();
                    if !of_chunk.contains(&pack.id) {
                        of_chunk.push(pack.id);
                    }
                }
            }
            if holds {
                places.entry(pack.id).or_default().push(at);
            }
        })?;
        Ok((holders, places))
    }

    /// Whether a pack holds what all these entries say of it.
    fn is_sound(&self, pack: PackId, listed: &[At]) -> Result<bool, Errno> {
        for (log, seq) in listed {
            let Some((entry, body)) = self.opened(*log, *seq)? else { return Ok(false) };
            for (known, directory) in entry.header().packs.iter().zip(&body.directories) {
                let Some(directory) = directory.as_ref().filter(|_| known.id == pack) else { continue };
                if !self.folder.is_sound(entry.header().epoch, pack, directory)? {
                    return Ok(false);
                }
            }
        }
        Ok(!listed.is_empty())
    }

    /// Packs that releases name which count.
    pub(super) fn named_by_releases(&self) -> Result<HashSet<PackId>, Errno> {
        let access = self.folder.store().access(self.folder.no())?;
        let of = |release: &cobox_store::format::release::Release| {
            release.packs.iter().chain(&release.young).copied().collect::<Vec<_>>()
        };
        Ok(access.releases.values().flat_map(|release| of(release)).collect())
    }

    /// Candidates that were covered when this device called, and still are: all that is needed of them lies in packs that
    /// were found sound then and that nothing lets go of.
    pub(super) fn still_covered(
        &self,
        cut: &LogCut,
        reached: &Chunks,
        (packs, homes): (&BTreeSet<PackId>, &BTreeSet<PackId>),
    ) -> Result<Vec<PackRef>, Errno> {
        if packs.is_empty() {
            return Ok(Vec::new());
        }
        let (live, named) = (self.live_packs()?, self.named_by_releases()?);
        // Also for what the tree reached when it was called, and does not any more: others may still reach it.
        if homes.iter().any(|home| !live.contains(home) || named.contains(home)) {
            return Ok(Vec::new());
        }
        let (mut kept, mut needed): (HashSet<u128>, HashMap<PackId, (PackRef, Vec<u128>)>) =
            Default::default();
        self.each_listing(cut, &mut |_, pack, directory, _| {
            if !live.contains(&pack.id) {
                return;
            }
            if homes.contains(&pack.id) {
                kept.extend(directory.iter().map(|row| short(&row.tag)));
            }
            if packs.contains(&pack.id) {
                let chunks = directory.iter().filter(|row| reached.has(&row.tag)).map(|row| short(&row.tag));
                needed.entry(pack.id).or_insert((pack, Vec::new())).1.extend(chunks);
            }
        })?;
        let mut covered: Vec<PackRef> = needed
            .into_values()
            .filter(|(_, chunks)| chunks.iter().all(|chunk| kept.contains(chunk)))
            .map(|(pack, _)| pack)
            .collect();
        covered.sort_unstable_by_key(|pack| pack.id);
        Ok(covered)
    }
}

/// Packs that hold a chunk, and the entries that say so of a pack.
type Holders = (HashMap<u128, Vec<PackId>>, HashMap<PackId, Vec<At>>);
