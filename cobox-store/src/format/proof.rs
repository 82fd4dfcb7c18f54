//! Verification of parts of a pack, and proofs of possession (`docs/format.md`, "Outboards and proofs").
//!
//! A pack's id is its plain BLAKE3 hash, which is a binary tree over leaves of 1 KiB. The outboard keeps
//! one chaining value per 64 KiB slice: with it any slice is checked alone, and a leaf is proved with
//! its sibling values. This is Bao (<https://github.com/oconnor663/bao>) with chunk groups of 64,
//! written as a flat list because every inner node follows from it.

use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::codec::{DecodeError, Reader, Writer};
use super::entry::LogHead;
use super::pack::{PackRef, is_size_class};
use super::{PACK_BYTES_MAX, PROOF_SAMPLES, SLICE_BYTES};
use crate::id::{LogId, PackId};

/// BLAKE3's own chunk: the leaf of its tree.
pub const LEAF_BYTES: u64 = 1024;
/// Siblings from a leaf to the root of the largest pack: 16 MiB is 2^14 leaves.
pub const PROOF_SIBLINGS_MAX: usize = (PACK_BYTES_MAX / LEAF_BYTES).ilog2() as usize;

/// How many slices a pack of `size` bytes has.
#[must_use]
pub fn slice_count(size: u64) -> u64 {
    size.div_ceil(SLICE_BYTES)
}

/// How many bytes slice `index` of a pack of `size` bytes has; 0 past the end.
#[must_use]
pub fn slice_len(size: u64, index: u64) -> usize {
    let start = index.saturating_mul(SLICE_BYTES);
    usize::try_from(size.saturating_sub(start).min(SLICE_BYTES)).expect("a slice is 64 KiB")
}

/// One chaining value per slice, or none where the pack is a single slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outboard {
    pack: PackRef,
    values: Vec<ChainingValue>,
}

/// An outboard does not hash to the pack it is said to be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the outboard does not belong to pack {0}")]
pub struct WrongOutboard(pub PackId);

impl Outboard {
    /// Hashes a whole pack.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let size = bytes.len() as u64;
        if slice_count(size) < 2 {
            return Self {
                pack: PackRef { id: PackId(*blake3::hash(bytes).as_bytes()), size },
                values: Vec::new(),
            };
        }
        let slices = (0u64..).zip(bytes.chunks(SLICE_BYTES as usize));
        let values: Vec<ChainingValue> =
            slices.map(|(index, slice)| subtree_value(slice, index * SLICE_BYTES)).collect();
        Self { pack: PackRef { id: root_of(&values), size }, values }
    }

    /// Takes chaining values from a peer or the disk.
    ///
    /// # Errors
    /// When they do not hash to `pack.id`, or are not as many as its size says.
    pub fn verify(pack: PackRef, values: Vec<ChainingValue>) -> Result<Self, WrongOutboard> {
        let right = if slice_count(pack.size) < 2 {
            values.is_empty()
        } else {
            values.len() as u64 == slice_count(pack.size) && root_of(&values) == pack.id
        };
        if right { Ok(Self { pack, values }) } else { Err(WrongOutboard(pack.id)) }
    }

    /// Of which pack.
    #[must_use]
    pub fn pack(&self) -> PackRef {
        self.pack
    }

    /// The chaining values, one after the other: the stored and sent encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.values.concat()
    }

    /// Reads what [`Self::encode`] wrote and verifies it.
    ///
    /// # Errors
    /// See [`Self::verify`].
    pub fn decode(pack: PackRef, bytes: &[u8]) -> Result<Self, WrongOutboard> {
        let (values, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || pack.size > PACK_BYTES_MAX {
            return Err(WrongOutboard(pack.id));
        }
        Self::verify(pack, values.to_vec())
    }

    /// Whether `bytes` are slice `index` of the pack.
    #[must_use]
    pub fn slice_matches(&self, index: u64, bytes: &[u8]) -> bool {
        if bytes.is_empty() || bytes.len() != slice_len(self.pack.size, index) {
            return false;
        }
        match usize::try_from(index).ok().and_then(|at| self.values.get(at)) {
            Some(value) => subtree_value(bytes, index * SLICE_BYTES) == *value,
            None => self.values.is_empty() && *blake3::hash(bytes).as_bytes() == self.pack.id.0,
        }
    }

    /// Proves leaf `leaf` of the pack; `slice` is the slice it lies in.
    ///
    /// `None` when there is no such leaf, or `slice` has the wrong length.
    #[must_use]
    pub fn prove_leaf(&self, leaf: u64, slice: &[u8]) -> Option<LeafProof> {
        let leaves_per_slice = SLICE_BYTES / LEAF_BYTES;
        let index = leaf / leaves_per_slice;
        if slice.is_empty() || slice.len() != slice_len(self.pack.size, index) {
            return None;
        }
        let mut siblings = Vec::new();
        slice_siblings(&self.values, usize::try_from(index).ok()?, &mut siblings);
        let leaves: Vec<&[u8]> = slice.chunks(LEAF_BYTES as usize).collect();
        let within = usize::try_from(leaf % leaves_per_slice).ok()?;
        let bytes = leaves.get(within)?.to_vec();
        leaf_siblings(&leaves, within, index * SLICE_BYTES, &mut siblings);
        siblings.reverse();
        Some(LeafProof { leaf: bytes, siblings })
    }
}

/// A leaf and the values beside its path, from the bottom up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeafProof {
    /// 1 to 1,024 bytes.
    pub leaf: Vec<u8>,
    /// At most [`PROOF_SIBLINGS_MAX`].
    pub siblings: Vec<ChainingValue>,
}

impl LeafProof {
    /// Whether this proves leaf `leaf` of `pack`, to anyone who knows its id and size.
    #[must_use]
    pub fn proves(&self, pack: PackRef, leaf: u64) -> bool {
        let leaves = pack.size.div_ceil(LEAF_BYTES);
        let start = leaf.saturating_mul(LEAF_BYTES);
        if leaf >= leaves || self.leaf.len() as u64 != (pack.size - start).min(LEAF_BYTES) {
            return false;
        }
        if leaves == 1 {
            return self.siblings.is_empty() && *blake3::hash(&self.leaf).as_bytes() == pack.id.0;
        }
        // From the root down: on which side of each split the leaf lies.
        let mut turns = Vec::new();
        let (mut at, mut count) = (leaf, leaves);
        while count > 1 {
            let left = left_count(count);
            turns.push(at < left);
            (at, count) = if at < left { (at, left) } else { (at - left, count - left) };
        }
        if turns.len() != self.siblings.len() {
            return false;
        }
        let mut value = subtree_value(&self.leaf, start);
        for (level, (is_left, sibling)) in turns.iter().rev().zip(&self.siblings).enumerate() {
            let (left, right) = if *is_left { (&value, sibling) } else { (sibling, &value) };
            if level + 1 == turns.len() {
                return *merge_subtrees_root(left, right, Mode::Hash).as_bytes() == pack.id.0;
            }
            value = merge_subtrees_non_root(left, right, Mode::Hash);
        }
        false
    }

    /// Appends the encoding.
    pub fn encode(&self, writer: &mut Writer) {
        writer.bytes16(&self.leaf);
        writer.u8(u8::try_from(self.siblings.len()).expect("at most 14 siblings"));
        for sibling in &self.siblings {
            writer.fixed(sibling);
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "proof";
        let leaf = reader.bytes16(LEAF_BYTES as usize, field)?.to_vec();
        let count = usize::from(reader.u8(field)?);
        if leaf.is_empty() || count > PROOF_SIBLINGS_MAX {
            return Err(DecodeError::Invalid { field });
        }
        let siblings = (0..count).map(|_| reader.array(field)).collect::<Result<_, _>>()?;
        Ok(Self { leaf, siblings })
    }
}

/// One question of an audit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Which pack.
    pub pack: PackRef,
    /// Which leaf of 1 KiB.
    pub leaf: u64,
}

/// An entry that an audit asks for: its bytes, header and body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntrySample {
    /// Of which log.
    pub log: LogId,
    /// Its number, from 1.
    pub seq: u64,
}

/// The questions of one audit, bound to a nonce that the receipt repeats.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// Random, fresh.
    pub nonce: [u8; 32],
    /// At most [`PROOF_SAMPLES`].
    pub samples: Vec<Sample>,
    /// At most [`PROOF_SAMPLES`].
    pub entries: Vec<EntrySample>,
}

/// Digests the bytes of entries under a challenge's nonce: who does not have them cannot have worked it
/// out before, whatever hashes it keeps.
pub struct EntriesDigest(blake3::Hasher);

impl EntriesDigest {
    /// Of no entry yet.
    #[must_use]
    pub fn new(nonce: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_keyed(nonce))
    }

    /// Adds an entry as it is sent: `header ‖ signature ‖ body`.
    pub fn add(&mut self, sample: EntrySample, bytes: &[u8]) {
        self.0.update(&sample.log.0).update(&sample.seq.to_le_bytes());
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }

    /// The digest.
    #[must_use]
    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// Last entries of logs that are asked for before others are drawn, so that a log that was set back shows
/// in the first audit; the rest of the samples is left for old entries.
const LAST_ENTRIES: usize = 64;

/// Entries up to `heads`: all where they are few, else the last ones and others drawn uniformly.
fn draw_entries(heads: &[LogHead], below: &mut impl FnMut(u64) -> u64) -> Vec<EntrySample> {
    let total = heads.iter().fold(0u64, |sum, head| sum.saturating_add(head.seq));
    if total <= PROOF_SAMPLES as u64 {
        let of = |head: &LogHead| {
            let log = head.log;
            (1..=head.seq).map(move |seq| EntrySample { log, seq })
        };
        return heads.iter().flat_map(of).collect();
    }
    let skipped = if heads.len() > LAST_ENTRIES { below(heads.len() as u64) } else { 0 };
    let last = heads.iter().cycle().skip(usize::try_from(skipped).expect("below a usize"));
    let last = last.take(heads.len().min(LAST_ENTRIES)).filter(|head| head.seq > 0);
    let mut samples: Vec<EntrySample> =
        last.map(|head| EntrySample { log: head.log, seq: head.seq }).collect();
    while samples.len() < PROOF_SAMPLES {
        let mut at = below(total);
        for head in heads {
            if at < head.seq {
                samples.push(EntrySample { log: head.log, seq: at + 1 });
                break;
            }
            at -= head.seq;
        }
    }
    samples
}

impl Challenge {
    /// Draws packs uniformly, then leaves, then entries up to `heads`, from the caller's randomness.
    ///
    /// `entropy` seeds an extendable hash, so that the same seed asks the same questions. Where there
    /// are no more packs than samples, every pack is asked at least once, and likewise every entry.
    #[must_use]
    pub fn draw(packs: &[PackRef], heads: &[LogHead], entropy: &[u8; 32]) -> Self {
        let mut stream = blake3::Hasher::new_derive_key("cobox 2026-11 v1 audit samples");
        stream.update(entropy);
        let mut stream = stream.finalize_xof();
        let mut nonce = [0; 32];
        stream.fill(&mut nonce);
        let mut below = |bound: u64| {
            let mut word = [0; 16];
            stream.fill(&mut word);
            // 128 random bits modulo less than 2^64: the bias is below 2^-64.
            u64::try_from(u128::from_le_bytes(word) % u128::from(bound)).expect("below a u64")
        };
        let mut samples = Vec::new();
        for at in 0..if packs.is_empty() { 0 } else { PROOF_SAMPLES } {
            let index = if packs.len() <= PROOF_SAMPLES && at < packs.len() {
                at
            } else {
                usize::try_from(below(packs.len() as u64)).expect("below a usize")
            };
            let pack = packs[index];
            samples.push(Sample { pack, leaf: below(pack.size.div_ceil(LEAF_BYTES)) });
        }
        Self { nonce, samples, entries: draw_entries(heads, &mut below) }
    }

    /// Appends the encoding.
    pub fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.nonce);
        writer.count(self.samples.len());
        for sample in &self.samples {
            writer.fixed(&sample.pack.id.0);
            writer.u64(sample.pack.size);
            writer.u64(sample.leaf);
        }
        writer.count(self.entries.len());
        for sample in &self.entries {
            writer.fixed(&sample.log.0);
            writer.u64(sample.seq);
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "challenge";
        let nonce = reader.array(field)?;
        let count = reader.count(PROOF_SAMPLES, 48, field)?;
        let mut samples = Vec::with_capacity(count);
        for _ in 0..count {
            let pack = PackRef { id: reader.pack_id(field)?, size: reader.u64(field)? };
            let leaf = reader.u64(field)?;
            if !is_size_class(pack.size) || leaf >= pack.size.div_ceil(LEAF_BYTES) {
                return Err(DecodeError::Invalid { field });
            }
            samples.push(Sample { pack, leaf });
        }
        let count = reader.count(PROOF_SAMPLES, 40, field)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let sample = EntrySample { log: reader.log_id(field)?, seq: reader.u64(field)? };
            if sample.seq == 0 {
                return Err(DecodeError::Invalid { field });
            }
            entries.push(sample);
        }
        Ok(Self { nonce, samples, entries })
    }
}

/// The largest power of two below `count`: how many of `count` leaves the left subtree has.
fn left_count(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// The chaining value of a subtree that is not the root.
fn subtree_value(bytes: &[u8], offset: u64) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

fn inner_value(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [only] => *only,
        _ => {
            let (left, right) = split(values);
            merge_subtrees_non_root(&inner_value(left), &inner_value(right), Mode::Hash)
        }
    }
}

fn root_of(values: &[ChainingValue]) -> PackId {
    let (left, right) = split(values);
    PackId(*merge_subtrees_root(&inner_value(left), &inner_value(right), Mode::Hash).as_bytes())
}

fn split<T>(items: &[T]) -> (&[T], &[T]) {
    items.split_at(usize::try_from(left_count(items.len() as u64)).expect("half of a slice"))
}

/// Values beside the path to slice `index`, from the top down.
fn slice_siblings(values: &[ChainingValue], index: usize, siblings: &mut Vec<ChainingValue>) {
    if values.len() < 2 {
        return;
    }
    let (left, right) = split(values);
    if index < left.len() {
        siblings.push(inner_value(right));
        slice_siblings(left, index, siblings);
    } else {
        siblings.push(inner_value(left));
        slice_siblings(right, index - left.len(), siblings);
    }
}

/// Values beside the path to leaf `at` inside one slice, from the top down.
fn leaf_siblings(leaves: &[&[u8]], at: usize, offset: u64, siblings: &mut Vec<ChainingValue>) {
    if leaves.len() < 2 {
        return;
    }
    let (left, right) = split(leaves);
    let right_offset = offset + left.len() as u64 * LEAF_BYTES;
    if at < left.len() {
        siblings.push(subtree_value(&right.concat(), right_offset));
        leaf_siblings(left, at, offset, siblings);
    } else {
        siblings.push(subtree_value(&left.concat(), offset));
        leaf_siblings(right, at - left.len(), right_offset, siblings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::EntryHash;

    fn pack(size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().update(&size.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    const SIZES: [usize; 9] = [1, 1024, 4096, 4608, 65536, 65537, 3 * 65536, 5 * 65536 + 1500, 1 << 20];

    #[test]
    fn outboard_root_is_the_plain_hash() {
        for size in SIZES {
            let bytes = pack(size);
            let outboard = Outboard::of(&bytes);
            assert_eq!(outboard.pack().id.0, *blake3::hash(&bytes).as_bytes(), "{size}");
            assert_eq!(Outboard::decode(outboard.pack(), &outboard.encode()), Ok(outboard));
        }
    }

    #[test]
    fn slice_with_a_flipped_bit_does_not_match() {
        for size in SIZES {
            let mut bytes = pack(size);
            let outboard = Outboard::of(&bytes);
            for index in 0..slice_count(size as u64) {
                let start = (index * SLICE_BYTES) as usize;
                let end = start + slice_len(size as u64, index);
                assert!(outboard.slice_matches(index, &bytes[start..end]));
                bytes[start] ^= 1;
                assert!(!outboard.slice_matches(index, &bytes[start..end]));
                bytes[start] ^= 1;
            }
            assert!(!outboard.slice_matches(slice_count(size as u64), &[]));
        }
    }

    #[test]
    fn every_leaf_is_proved_and_no_other() {
        for size in SIZES {
            let bytes = pack(size);
            let outboard = Outboard::of(&bytes);
            let leaves = (size as u64).div_ceil(LEAF_BYTES);
            for leaf in 0..leaves {
                let index = leaf * LEAF_BYTES / SLICE_BYTES;
                let start = (index * SLICE_BYTES) as usize;
                let slice = &bytes[start..start + slice_len(size as u64, index)];
                let proof = outboard.prove_leaf(leaf, slice).expect("there is such a leaf");
                assert!(proof.proves(outboard.pack(), leaf), "{size} {leaf}");
                assert!(!proof.proves(outboard.pack(), (leaf + 1) % leaves.max(2)));
                let mut bent = proof.clone();
                bent.leaf[0] ^= 1;
                assert!(!bent.proves(outboard.pack(), leaf));
            }
        }
    }

    #[test]
    fn challenge_over_few_packs_asks_every_one() {
        let packs: Vec<PackRef> = (0..200u8).map(|at| PackRef { id: PackId([at; 32]), size: 4096 }).collect();
        let challenge = Challenge::draw(&packs, &heads(&[3, 0, 2]), &[1; 32]);
        assert_eq!(challenge.samples.len(), PROOF_SAMPLES);
        assert!(packs.iter().all(|pack| challenge.samples.iter().any(|sample| sample.pack == *pack)));
        let numbers: Vec<(u8, u64)> =
            challenge.entries.iter().map(|sample| (sample.log.0[0], sample.seq)).collect();
        assert_eq!(numbers, [(0, 1), (0, 2), (0, 3), (2, 1), (2, 2)]);
        let mut writer = Writer::new();
        challenge.encode(&mut writer);
        let bytes = writer.into_bytes();
        assert_eq!(Challenge::decode(&mut Reader::new(&bytes)), Ok(challenge));
    }

    fn heads(lengths: &[u64]) -> Vec<LogHead> {
        (0u8..)
            .zip(lengths)
            .map(|(at, seq)| LogHead { log: LogId([at; 32]), seq: *seq, hash: EntryHash([at; 32]) })
            .collect()
    }

    #[test]
    fn challenge_over_many_entries_asks_the_last_of_each_log_and_others() {
        let heads = heads(&[100_000, 3, 700]);
        let challenge = Challenge::draw(&[], &heads, &[2; 32]);
        assert_eq!(challenge.entries.len(), PROOF_SAMPLES);
        for (sample, head) in challenge.entries.iter().zip(&heads) {
            assert_eq!((sample.log, sample.seq), (head.log, head.seq));
        }
        let drawn = &challenge.entries[heads.len()..];
        assert!(drawn.iter().any(|sample| sample.seq < 50_000));
        for sample in drawn {
            let head = heads.iter().find(|head| head.log == sample.log).expect("a log of ours");
            assert!((1..=head.seq).contains(&sample.seq));
        }
    }

    #[test]
    fn digest_of_entries_depends_on_nonce_bytes_and_place() {
        let sample = |seq| EntrySample { log: LogId([1; 32]), seq };
        let digest = |nonce: u8, parts: &[(u64, &[u8])]| {
            let mut digest = EntriesDigest::new(&[nonce; 32]);
            parts.iter().for_each(|(seq, bytes)| digest.add(sample(*seq), bytes));
            digest.finish()
        };
        let base = digest(1, &[(1, b"ab"), (2, b"c")]);
        assert_eq!(base, digest(1, &[(1, b"ab"), (2, b"c")]));
        for other in [digest(2, &[(1, b"ab"), (2, b"c")]), digest(1, &[(1, b"a"), (2, b"bc")])] {
            assert_ne!(base, other);
        }
        assert_ne!(base, digest(1, &[(1, b"ab"), (3, b"c")]));
    }
}
