//! Which slices of a pack are here: one bit a slice.

use crate::format::codec::{DecodeError, Reader, Writer};
use crate::format::proof::slice_count;

/// One bit for each slice of one pack: 256 bits for the largest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Have {
    slices: u64,
    bits: Vec<u8>,
}

impl Have {
    /// Nothing of a pack of `size` bytes.
    #[must_use]
    pub fn none(size: u64) -> Self {
        let slices = slice_count(size);
        Self { slices, bits: vec![0; usize::try_from(slices.div_ceil(8)).expect("a pack has few slices")] }
    }

    /// All of a pack of `size` bytes.
    #[must_use]
    pub fn all(size: u64) -> Self {
        let mut have = Self::none(size);
        (0..have.slices).for_each(|index| have.insert(index));
        have
    }

    /// Adds what `other`, of the same pack, has.
    pub fn join(&mut self, other: &Self) {
        self.bits.iter_mut().zip(&other.bits).for_each(|(ours, theirs)| *ours |= theirs);
    }

    /// How many slices the pack has.
    #[must_use]
    pub fn slices(&self) -> u64 {
        self.slices
    }

    /// Whether slice `index` is here.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        let byte = usize::try_from(index / 8).ok().and_then(|at| self.bits.get(at));
        index < self.slices && byte.is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }

    /// Notes that slice `index` is here; past the end it notes nothing.
    pub fn insert(&mut self, index: u64) {
        if index < self.slices
            && let Some(byte) = usize::try_from(index / 8).ok().and_then(|at| self.bits.get_mut(at))
        {
            *byte |= 1 << (index % 8);
        }
    }

    /// How many slices are here.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// Whether all slices are here.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count() == self.slices
    }

    /// Slices that are not here, ascending.
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.slices).filter(|index| !self.contains(*index))
    }

    /// The bits, least significant first.
    pub fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.bits);
    }

    /// Reads what [`Self::encode`] wrote for a pack of `size` bytes.
    ///
    /// # Errors
    /// When the bytes end first or bits past the end are set.
    pub fn decode(reader: &mut Reader<'_>, size: u64) -> Result<Self, DecodeError> {
        let mut have = Self::none(size);
        have.bits = reader.fixed(have.bits.len(), "have bits")?.to_vec();
        let past_end = have.bits.last().is_some_and(|last| {
            let used = have.slices % 8;
            used != 0 && last >> used != 0
        });
        if past_end { Err(DecodeError::Invalid { field: "have bits" }) } else { Ok(have) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::SLICE_BYTES;

    #[test]
    fn have_of_every_slice_is_full_and_round_trips() {
        for slices in [1, 7, 8, 9, 256] {
            let size = slices * SLICE_BYTES;
            let mut have = Have::none(size);
            have.insert(slices);
            assert_eq!(have.count(), 0);
            for index in 0..slices {
                assert!(!have.contains(index) && !have.is_full());
                have.insert(index);
            }
            assert!(have.is_full() && have.missing().next().is_none());
            let mut writer = Writer::new();
            have.encode(&mut writer);
            let bytes = writer.into_bytes();
            assert_eq!(Have::decode(&mut Reader::new(&bytes), size), Ok(have));
        }
    }

    #[test]
    fn have_with_bits_past_the_end_is_refused() {
        assert!(Have::decode(&mut Reader::new(&[0b10]), 5).is_err());
    }
}
