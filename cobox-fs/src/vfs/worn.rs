//! Which packs are worn, which of them nobody needs because others hold what they hold, and which to write again.
//!
//! Computes only. The rule that keeps everything readable is in [`cover`]: each chunk that is needed stays in a pack
//! that is not let go of and was found sound (`docs/decisions/0020-packs-are-merged-by-copying.md`).

use std::collections::{BTreeSet, HashMap};

use cobox_store::format::PACK_BYTES_TARGET;
use cobox_store::format::pack::PackRef;
use cobox_store::format::release::RELEASE_PACKS_MAX;
use cobox_store::id::{EpochId, PackId};

/// What counts as worn, and how much is done at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// A pack below this is small …
    pub small_bytes: u64,
    /// … if it also has fewer chunks: one that is full of tiny chunks cannot be merged with anything.
    pub small_chunks: u64,
    /// Fewer small packs than these are left alone, so that what was merged is not merged again each time.
    pub small_packs_min: usize,
    /// Bytes that one run writes again at the most: all seeders have to fetch them.
    pub rewrite_bytes_max: u64,
}

impl Limits {
    /// A small pack is below an eighth of the target, and 16 of them fill two at the most, so that a merge leaves an
    /// eighth as many. A run sends 256 MiB at the most: four minutes at 10 Mbit/s, and less than 1 % of a usual quota.
    pub const STANDARD: Self = Self {
        small_bytes: PACK_BYTES_TARGET / 8,
        small_chunks: 512,
        small_packs_min: 16,
        rewrite_bytes_max: 256 << 20,
    };
}

/// A pack of which something is needed and that is worth writing again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Worn {
    /// Which.
    pub pack: PackRef,
    /// Milliseconds since 1970, by its author's clock.
    pub added_ms: u64,
    /// Whose keys seal it, if all that list it agree.
    pub epoch: Option<EpochId>,
    /// Bytes of its chunks that something needs.
    pub needed_bytes: u64,
    /// How many chunks that are.
    pub needed_chunks: u64,
}

impl Worn {
    /// Whether less than half of it is needed: then writing the rest again costs less than it gives back. Small packs
    /// are mostly padding, and are merged by number.
    #[must_use]
    pub fn is_mostly_dead(&self, limits: &Limits) -> bool {
        self.pack.size >= limits.small_bytes && self.needed_bytes < self.pack.size / 2
    }

    /// Whether it is one of many that could be one.
    #[must_use]
    pub fn is_small(&self, limits: &Limits) -> bool {
        self.pack.size < limits.small_bytes && self.needed_chunks < limits.small_chunks
    }
}

/// The worn packs that one run looks at, oldest first: those that give most back for what they cost, and then small
/// ones, within what one run may write again.
#[must_use]
pub fn considered(mut worn: Vec<Worn>, limits: &Limits) -> Vec<Worn> {
    let share = |pack: &Worn| pack.needed_bytes.saturating_mul(1 << 20) / pack.pack.size.max(1);
    worn.sort_unstable_by_key(|pack| match pack.is_mostly_dead(limits) {
        true => (0, share(pack), pack.pack.id),
        false => (1, pack.added_ms, pack.pack.id),
    });
    let mut left = limits.rewrite_bytes_max;
    worn.retain(|pack| {
        let fits = pack.needed_bytes <= left;
        left -= if fits { pack.needed_bytes } else { 0 };
        fits
    });
    worn.truncate(RELEASE_PACKS_MAX);
    worn.sort_unstable_by_key(|pack| (pack.added_ms, pack.pack.id));
    worn
}

/// Packs that may go although something of them is needed, and the packs that have it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Covered {
    /// They may go …
    pub packs: BTreeSet<PackId>,
    /// … as long as these stay.
    pub homes: BTreeSet<PackId>,
}

/// Which of `worn` others cover: all chunks that are needed of one (`needed`, in the same order) lie in packs that stay
/// and that are sound. `holders` says which live packs hold a chunk. The older goes, the newer stays.
pub fn cover<E>(
    worn: &[Worn],
    needed: &[Vec<u128>],
    holders: &HashMap<u128, Vec<PackId>>,
    sound: &mut dyn FnMut(PackId) -> Result<bool, E>,
) -> Result<Covered, E> {
    let mut covered = Covered::default();
    for (pack, chunks) in worn.iter().zip(needed) {
        let id = pack.pack.id;
        // What others rely on stays, and what is not needed at all is not covered but dead.
        if covered.homes.contains(&id) || chunks.is_empty() {
            continue;
        }
        let mut homes = BTreeSet::new();
        let mut whole = true;
        for chunk in chunks {
            let mut found = None;
            for other in holders.get(chunk).into_iter().flatten() {
                if *other != id && !covered.packs.contains(other) && sound(*other)? {
                    found = Some(*other);
                    break;
                }
            }
            match found {
                Some(home) => drop(homes.insert(home)),
                None => whole = false,
            }
            if !whole {
                break;
            }
        }
        if whole {
            covered.packs.insert(id);
            covered.homes.append(&mut homes);
        }
    }
    Ok(covered)
}

/// Those of `worn` that are to be written again under `epoch`.
#[must_use]
pub fn to_rewrite(worn: &[Worn], covered: &Covered, epoch: Option<EpochId>, limits: &Limits) -> Vec<Worn> {
    let left = || {
        let ours = |pack: &&Worn| epoch.is_some() && pack.epoch == epoch;
        worn.iter().filter(ours).filter(|pack| !covered.packs.contains(&pack.pack.id))
    };
    let enough = left().filter(|pack| pack.is_small(limits)).count() >= limits.small_packs_min;
    left().filter(|pack| pack.is_mostly_dead(limits) || (enough && pack.is_small(limits))).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Numbers that are the same each time.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    const EPOCH: EpochId = EpochId([7; 32]);
    const CHUNK_BYTES: u64 = 64 << 10;

    /// A folder of packs: which chunks each holds. Chunks have one size here.
    #[derive(Default)]
    struct Packs {
        chunks: Vec<(PackId, Vec<u128>)>,
        next: u64,
    }

    impl Packs {
        fn add(&mut self, chunks: Vec<u128>) {
            self.next += 1;
            let mut id = [0; 32];
            id[..8].copy_from_slice(&self.next.to_be_bytes());
            self.chunks.push((PackId(id), chunks));
        }

        fn worn(&self, live: &BTreeSet<u128>, limits: &Limits) -> (Vec<Worn>, Vec<Vec<u128>>) {
            let worn = self.chunks.iter().zip(0..).map(|((id, chunks), added_ms)| {
                let needed = chunks.iter().filter(|chunk| live.contains(chunk)).count() as u64;
                let size = chunks.len() as u64 * CHUNK_BYTES;
                Worn {
                    pack: PackRef { id: *id, size },
                    added_ms,
                    epoch: Some(EPOCH),
                    needed_bytes: needed * CHUNK_BYTES,
                    needed_chunks: needed,
                }
            });
            let is_worn =
                |pack: &Worn| pack.needed_bytes > 0 && (pack.is_mostly_dead(limits) || pack.is_small(limits));
            let worn = considered(worn.filter(is_worn).collect(), limits);
            let of =
                |pack: &Worn| self.chunks.iter().find(|(id, _)| *id == pack.pack.id).map(|found| &found.1);
            let needed = worn.iter().map(|pack| {
                let chunks = of(pack).expect("it is there").iter();
                chunks.filter(|chunk| live.contains(chunk)).copied().collect()
            });
            let needed = needed.collect();
            (worn, needed)
        }

        fn holders(&self) -> HashMap<u128, Vec<PackId>> {
            let mut holders: HashMap<u128, Vec<PackId>> = HashMap::new();
            for (id, chunks) in &self.chunks {
                chunks.iter().for_each(|chunk| holders.entry(*chunk).or_default().push(*id));
            }
            holders
        }
    }

    #[test]
    fn random_packs_keep_every_needed_chunk_in_a_sound_pack_and_come_to_rest() {
        for seed in 1..300 {
            let mut dice = Dice(seed);
            let limits = Limits {
                small_bytes: 4 * CHUNK_BYTES,
                small_chunks: 512,
                small_packs_min: 3,
                rewrite_bytes_max: 40 * CHUNK_BYTES,
            };
            let mut packs = Packs::default();
            for _ in 0..dice.below(40) + 1 {
                let len = 1 + dice.below(16);
                packs.add(
                    (0..len)
                        .map(|_| u128::from(dice.below(200)))
                        .collect::<BTreeSet<_>>()
                        .into_iter()
                        .collect(),
                );
            }
            let live: BTreeSet<u128> = (0..200).filter(|_| dice.below(3) == 0).collect();
            let bad: BTreeSet<PackId> =
                packs.chunks.iter().filter(|_| dice.below(8) == 0).map(|(id, _)| *id).collect();
            let reachable: BTreeSet<u128> = packs
                .chunks
                .iter()
                .flat_map(|(_, chunks)| chunks)
                .filter(|chunk| live.contains(chunk))
                .copied()
                .collect();
            let mut rounds = 0;
            loop {
                rounds += 1;
                assert!(rounds < 60, "seed {seed} never comes to rest");
                let (worn, needed) = packs.worn(&live, &limits);
                let total: u64 = worn.iter().map(|pack| pack.needed_bytes).sum();
                assert!(total <= limits.rewrite_bytes_max, "seed {seed}");
                let mut sound = |id: PackId| Ok::<_, Infallible>(!bad.contains(&id));
                let Ok(covered) = cover(&worn, &needed, &packs.holders(), &mut sound);
                assert!(covered.packs.is_disjoint(&covered.homes), "seed {seed}");
                assert!(covered.homes.is_disjoint(&bad), "seed {seed}: relies on what is not sound");
                let before = packs.chunks.len();
                packs.chunks.retain(|(id, _)| !covered.packs.contains(id));
                let kept: BTreeSet<u128> =
                    packs.chunks.iter().flat_map(|(_, chunks)| chunks).copied().collect();
                assert!(reachable.is_subset(&kept), "seed {seed}: a chunk is gone");
                let (worn, needed) = packs.worn(&live, &limits);
                let again = to_rewrite(&worn, &Covered::default(), Some(EPOCH), &limits);
                let of = |id: PackId| worn.iter().position(|pack| pack.pack.id == id);
                let copied: BTreeSet<u128> = again
                    .iter()
                    .filter_map(|pack| of(pack.pack.id))
                    .flat_map(|at| needed.get(at).expect("as many").clone())
                    .collect();
                let copied: Vec<u128> = copied.into_iter().collect();
                if copied.is_empty() && before == packs.chunks.len() {
                    break;
                }
                copied.chunks(16).for_each(|part| packs.add(part.to_vec()));
            }
        }
    }

    #[test]
    fn two_packs_that_hold_each_others_chunks_do_not_both_go() {
        let limits = Limits::STANDARD;
        let mut packs = Packs::default();
        packs.add(vec![1]);
        packs.add(vec![1]);
        let (worn, needed) = packs.worn(&[1].into(), &limits);
        let Ok(covered) = cover(&worn, &needed, &packs.holders(), &mut |_| Ok::<_, Infallible>(true));
        assert_eq!(covered.packs, [packs.chunks[0].0].into());
        assert_eq!(covered.homes, [packs.chunks[1].0].into());
    }

    #[test]
    fn few_small_packs_are_left_alone_and_so_is_what_is_of_another_epoch() {
        let limits = Limits::STANDARD;
        let mut packs = Packs::default();
        (0..15).for_each(|chunk| packs.add(vec![chunk]));
        let live: BTreeSet<u128> = (0..100).collect();
        let chosen = |packs: &Packs, epoch| {
            let (worn, _) = packs.worn(&live, &limits);
            to_rewrite(&worn, &Covered::default(), epoch, &limits).len()
        };
        assert_eq!(chosen(&packs, Some(EPOCH)), 0);
        packs.add(vec![15]);
        assert_eq!(chosen(&packs, Some(EPOCH)), 16);
        assert_eq!(chosen(&packs, Some(EpochId([8; 32]))), 0);
        assert_eq!(chosen(&packs, None), 0);
    }
}
