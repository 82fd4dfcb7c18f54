//! Where files are cut: FastCDC (Xia et al., 2020) with gear tables seeded per folder.
//!
//! The seed keeps a stranger from computing where a known file would be cut; applying it costs nothing.

use std::sync::Arc;

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

use crate::format::{CHUNK_BYTES_AVG, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};

/// Whether more bytes of the file follow those that were passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// More will come.
    More,
    /// These are the last.
    Last,
}

/// Cuts files of one folder. Cheap to clone; has no state of its own.
#[derive(Clone)]
pub struct Chunker(Arc<Tables>);

struct Tables {
    gear: Vec<u64>,
    gear_shifted: Vec<u64>,
    mask_small: u64,
    mask_large: u64,
}

impl Chunker {
    /// Cuts by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (gear, gear_shifted) = get_gear_with_seed(seed);
        let (mask_small, mask_large) = select_masks(CHUNK_BYTES_AVG, Normalization::Level1);
        Self(Arc::new(Tables {
            gear: gear.into_owned(),
            gear_shifted: gear_shifted.into_owned(),
            mask_small,
            mask_large,
        }))
    }

    /// The length of the next chunk at the start of `data`, or `None` when more bytes are needed (or
    /// there are none).
    ///
    /// Where `data` is followed by more, [`CHUNK_BYTES_MAX`] bytes are always enough.
    #[must_use]
    pub fn next_cut(&self, data: &[u8], end: End) -> Option<usize> {
        if data.is_empty() {
            return None;
        }
        let tables = &*self.0;
        let (_, len) = cut_gear(
            data,
            CHUNK_BYTES_MIN,
            CHUNK_BYTES_AVG,
            CHUNK_BYTES_MAX,
            tables.mask_small,
            tables.mask_large,
            tables.mask_small << 1,
            tables.mask_large << 1,
            &tables.gear,
            &tables.gear_shifted,
        );
        // A cut at the end of what is there may only be where the bytes end, unless it is the maximum.
        let settled = len < data.len() || len == CHUNK_BYTES_MAX;
        (end == End::Last || settled).then_some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cuts(chunker: &Chunker, data: &[u8]) -> Vec<usize> {
        let mut at = 0;
        std::iter::from_fn(|| {
            let len = chunker.next_cut(&data[at..], End::Last)?;
            at += len;
            Some(len)
        })
        .collect()
    }

    fn streamed_cuts(chunker: &Chunker, data: &[u8], step: usize) -> Vec<usize> {
        let (mut found, mut start) = (Vec::new(), 0);
        for seen in (0..data.len()).step_by(step) {
            while let Some(len) = chunker.next_cut(&data[start..seen], End::More) {
                found.push(len);
                start += len;
            }
        }
        found.extend(cuts(chunker, &data[start..]));
        found
    }

    #[test]
    fn chunks_are_within_bounds_and_cover_the_data() {
        let data = noise(5_000_001, 1);
        let found = cuts(&Chunker::new(42), &data);
        assert_eq!(found.iter().sum::<usize>(), data.len());
        let (_, whole) = found.split_last().expect("some chunks");
        assert!(whole.iter().all(|len| (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(len)));
        let mean = data.len() / found.len();
        assert!((40_000..120_000).contains(&mean), "mean {mean}");
    }

    #[test]
    fn same_seed_cuts_alike_and_another_differs() {
        let data = noise(3_000_000, 2);
        assert_eq!(cuts(&Chunker::new(7), &data), cuts(&Chunker::new(7), &data));
        assert_ne!(cuts(&Chunker::new(7), &data), cuts(&Chunker::new(8), &data));
    }

    #[test]
    fn streamed_cuts_equal_those_of_the_whole() {
        let mut data = noise(2_000_003, 3);
        data.extend(vec![0; 700_001]);
        let chunker = Chunker::new(9);
        for step in [1_000, 4_096, 65_535, 131_072, 1 << 20] {
            assert_eq!(streamed_cuts(&chunker, &data, step), cuts(&chunker, &data), "step {step}");
        }
    }

    #[test]
    fn insertion_moves_few_cuts() {
        let data = noise(4_000_000, 4);
        let mut longer = data.clone();
        longer.splice(1_000_000..1_000_000, *b"inserted");
        let chunker = Chunker::new(1);
        let ends = |data: &[u8]| {
            let mut at = 0;
            let total = data.len();
            cuts(&chunker, data)
                .into_iter()
                .map(move |len| {
                    at += len;
                    total - at
                })
                .collect::<std::collections::BTreeSet<_>>()
        };
        let (before, after) = (ends(&data), ends(&longer));
        assert!(after.difference(&before).count() < after.len() / 2);
    }
}
