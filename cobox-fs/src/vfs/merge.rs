//! Writing worn packs again, and finding those that may go because others hold what is needed of them.
//!
//! Nothing is let go of here: that is `release.rs`, for packs of both kinds.

use std::collections::{BTreeSet, HashMap, HashSet};

use cobox_store::blind::Batch;
use cobox_store::format::pack::{DirectoryRow, PackRef};
use cobox_store::format::release::Cut as LogCut;
use cobox_store::id::{LogId, PackId};

use super::chunks::{Chunks, short};
use super::survey::{Survey, covers};
use super::worn::{Covered, Limits, Worn, considered, cover, to_copy, to_rewrite};
use super::{Errno, Vfs};

/// Whether what was written last is at as many seeders as the folder wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Copies {
    /// They proved it of all that entries up to this cut list: packs of these may take the place of others.
    Proved(LogCut),
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
    /// How many more are worth it, for which there is no room.
    pub kept_back: usize,
    /// Chunks of them that lie nowhere else, each once.
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

/// Which packs may stand in for others.
struct Homes {
    /// Entries that say what is in a pack that holds something of a worn one.
    places: HashMap<PackId, Vec<At>>,
    /// Packs that releases name.
    named: HashSet<PackId>,
    /// Those that were looked at.
    known: HashMap<PackId, bool>,
}

/// Worn packs, what is needed of them, and who holds that.
struct Look {
    worn: Vec<Worn>,
    rows: Vec<Vec<DirectoryRow>>,
    needed: Vec<(PackId, Vec<u128>)>,
    holders: HashMap<u128, Vec<PackId>>,
    homes: Homes,
}

impl Vfs {
    /// Other limits, for the tests.
    #[doc(hidden)]
    pub fn set_merge_limits(&self, limits: Limits) {
        *self.limits.lock() = limits;
    }

    pub(super) fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// What the folder's packs hold, and what is to be done about worn ones where so much may be written again.
    ///
    /// # Errors
    /// See [`Self::survey`].
    pub fn survey_and_plan(&self, room_bytes: u64) -> Result<(Survey, Plan), Errno> {
        let (cut, reached) = self.reach_at_a_cut()?;
        let survey = self.survey_of(&cut, &reached)?;
        let plan = self.plan(&cut, &reached, &survey, room_bytes)?;
        Ok((survey, plan))
    }

    /// Writes again what is needed of worn packs, in packs of the full size that an entry lists, as far as that is no
    /// more than `room_bytes`. The old ones stay.
    ///
    /// # Errors
    /// See [`Self::survey`]; `EROFS`, `ENOSPC`.
    pub fn merge_worn(&self, room_bytes: u64) -> Result<(Plan, Vec<PackRef>), Errno> {
        if self.is_read_only() || !self.may_begin()? {
            return Err(Errno::EROFS);
        }
        // What was copied before a crash is listed, and not copied again.
        self.list_stored()?;
        let (_, plan) = self.survey_and_plan(room_bytes)?;
        let Some(epoch) = self.folder.merging_epoch()?.filter(|_| !plan.rows.is_empty()) else {
            return Ok((plan, Vec::new()));
        };
        let made = self.folder.copy_chunks(epoch, &mut plan.rows.iter().copied())?;
        self.list_stored()?;
        let bytes: u64 = made.iter().map(|pack| pack.size).sum();
        tracing::info!(folder = %self.folder.id(), from = plan.rewrite.len(), to = made.len(), bytes, "packs were merged");
        Ok((plan, made))
    }

    /// Writes an entry that lists the packs that are stored and in no entry, if there are any.
    fn list_stored(&self) -> Result<(), Errno> {
        let _one = self.cutting.lock();
        if !self.folder.has_unlisted() {
            return Ok(());
        }
        let (hlc, deps) = {
            let mut sequencer = self.sequencer.lock();
            // Later than all that lists the packs whose place they take.
            (sequencer.take(1), self.applied.lock().deps())
        };
        self.folder.write_entries(hlc, Vec::new(), deps, Batch::default())?;
        Ok(())
    }

    /// What to do about worn packs that entries up to `cut` list.
    fn plan(&self, cut: &LogCut, reached: &Chunks, survey: &Survey, room_bytes: u64) -> Result<Plan, Errno> {
        let Some(mut look) = self.look(cut, cut, reached, survey)? else { return Ok(Plan::default()) };
        let covered = self.cover(&mut look)?;
        let Look { worn, rows, needed, holders, mut homes } = look;
        let is_covered = |pack: &&Worn| covered.packs.contains(&pack.pack.id);
        let covered_bytes = worn.iter().filter(is_covered).map(|pack| pack.pack.size).sum();
        let (epoch, mut left) = (self.folder.merging_epoch()?, Vec::new());
        for (pack, rows) in worn.iter().zip(&rows).filter(|(pack, _)| !is_covered(pack)) {
            let Some(epoch) = epoch.filter(|epoch| pack.epoch == Some(*epoch)) else { continue };
            // One of which something is not here would be left over, and written again each time.
            if self.folder.can_copy(epoch, rows)? {
                left.push(*pack);
            }
        }
        let rewrite = to_rewrite(left, room_bytes, &self.limits());
        let chosen: BTreeSet<PackId> = rewrite.packs.iter().map(|pack| pack.pack.id).collect();
        let mut sound = |pack| self.is_home(&mut homes, pack);
        let mut copied = to_copy(&chosen, &needed, (&holders, &covered), &mut sound)?;
        let of_chosen = worn.iter().zip(rows).filter(|(pack, _)| chosen.contains(&pack.pack.id));
        let rows =
            of_chosen.flat_map(|(_, rows)| rows).filter(|row| copied.remove(&short(&row.tag))).collect();
        Ok(Plan { covered_bytes, covered, rewrite: rewrite.packs, kept_back: rewrite.kept_back, rows })
    }

    /// Worn packs that entries up to `cut` list and whose needed chunks lie in others, which entries up to `proved`
    /// list.
    pub(super) fn covered(
        &self,
        cut: &LogCut,
        proved: &LogCut,
        reached: &Chunks,
        survey: &Survey,
    ) -> Result<Covered, Errno> {
        match self.look(cut, proved, reached, survey)? {
            Some(mut look) => self.cover(&mut look),
            None => Ok(Covered::default()),
        }
    }

    fn cover(&self, look: &mut Look) -> Result<Covered, Errno> {
        let homes = &mut look.homes;
        cover(&look.needed, &look.holders, &mut |pack| self.is_home(homes, pack))
    }

    fn look(
        &self,
        cut: &LogCut,
        proved: &LogCut,
        reached: &Chunks,
        survey: &Survey,
    ) -> Result<Option<Look>, Errno> {
        let worn = considered(survey.worn.clone(), self.folder.merging_epoch()?, &self.limits());
        if worn.is_empty() {
            return Ok(None);
        }
        let rows = self.needed_rows(cut, reached, &worn)?;
        let chunks = |rows: &Vec<DirectoryRow>| rows.iter().map(|row| short(&row.tag)).collect();
        let needed: Vec<(PackId, Vec<u128>)> =
            worn.iter().zip(&rows).map(|(pack, rows)| (pack.pack.id, chunks(rows))).collect();
        let wanted: HashSet<u128> = needed.iter().flat_map(|(_, chunks)| chunks).copied().collect();
        let both: LogCut = cut.iter().map(|(log, seq)| (*log, covers(proved, log).min(*seq))).collect();
        let holders = self.holders(&both, &wanted)?;
        let named = self.named_by_releases()?;
        let homes = Homes { places: self.places(cut, &holders)?, named, known: HashMap::new() };
        Ok(Some(Look { worn, rows, needed, holders, homes }))
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

    /// Which live packs entries say to hold chunks.
    fn holders(&self, cut: &LogCut, wanted: &HashSet<u128>) -> Result<HashMap<u128, Vec<PackId>>, Errno> {
        let live = self.live_packs()?;
        let mut holders: HashMap<u128, Vec<PackId>> = HashMap::new();
        self.each_listing(cut, &mut |_, pack, directory, _| {
            let chunks = directory.iter().map(|row| short(&row.tag)).filter(|chunk| wanted.contains(chunk));
            for chunk in chunks.filter(|_| live.contains(&pack.id)) {
                let of_chunk = holders.entry(chunk).or_default();
                if !of_chunk.contains(&pack.id) {
                    of_chunk.push(pack.id);
                }
            }
        })?;
        Ok(holders)
    }

    /// All entries that say what is in one of these packs, also those that say so of other chunks: what anybody says
    /// of a home is believed when it is released.
    fn places(
        &self,
        cut: &LogCut,
        holders: &HashMap<u128, Vec<PackId>>,
    ) -> Result<HashMap<PackId, Vec<At>>, Errno> {
        let mut places: HashMap<PackId, Vec<At>> =
            holders.values().flatten().map(|pack| (*pack, Vec::new())).collect();
        self.each_listing(cut, &mut |at, pack, _, _| {
            if let Some(of_pack) = places.get_mut(&pack.id) {
                of_pack.push(at);
            }
        })?;
        Ok(places)
    }

    /// Whether a pack may stand in for others: no release names it, and it holds what all entries say of it.
    fn is_home(&self, homes: &mut Homes, pack: PackId) -> Result<bool, Errno> {
        if let Some(known) = homes.known.get(&pack) {
            return Ok(*known);
        }
        let listed = homes.places.get(&pack).map(Vec::as_slice).unwrap_or_default();
        let is = !homes.named.contains(&pack) && self.is_sound(pack, listed)?;
        homes.known.insert(pack, is);
        Ok(is)
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
