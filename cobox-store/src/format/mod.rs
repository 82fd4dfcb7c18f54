//! Every stored and sent byte, as pure codecs: no I/O, no clock, no key, no randomness.
//!
//! `docs/format.md` is the normative text; each module names its section. The limits of all layouts
//! are here, in one place, with their reasons.

pub mod access;
pub mod address;
pub mod agreement;
pub mod codec;
pub mod command;
pub mod content;
pub mod device;
pub mod entry;
pub mod equivocation;
pub mod invite;
pub mod locator;
pub mod membership;
pub mod op;
pub mod owned;
pub mod pack;
pub mod proof;
pub mod receipt;
pub mod release;
pub mod seeding;
pub mod slots;

pub use codec::{DecodeError, Reader, SUITE, Writer};

/// The unit of transfer and verification inside a pack: big enough that hashing runs at full SIMD
/// width and a key in RocksDB costs nothing beside it, small enough to answer a cold read quickly.
pub const SLICE_BYTES: u64 = 64 * 1024;
/// A pack is closed once it holds this much: one object-store PUT, a few seconds on a slow uplink.
pub const PACK_BYTES_TARGET: u64 = 8 * 1024 * 1024;
/// No pack is larger; a seeder refuses it before reading.
pub const PACK_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The smallest size class of a pack: one file-system block.
pub const PACK_BYTES_MIN: u64 = 4 * 1024;
/// Chunks in a pack at the most: bounds the directory (37 bytes a row) to 148 KiB.
pub const PACK_CHUNKS_MAX: usize = 4096;
/// Packs that one entry adds at the most.
pub const ENTRY_PACKS_MAX: usize = 64;
/// A sealed entry body at the most: with its header it fits a frame of 1 MiB.
pub const ENTRY_BODY_BYTES_MAX: usize = 960 * 1024;
/// Access heads that an entry or record names at the most.
pub const HEADS_MAX: usize = 64;
/// Epochs that a new one wraps: those that were begun at once. More than there are members, since one of them may begin
/// any number; and 104 KiB of a frame.
pub const PREVIOUS_EPOCHS_MAX: usize = 1024;
/// Logs that an entry depends on at the most: devices of one folder.
pub const DEPS_MAX: usize = 1024;
/// Ops in one group: a group is one system call's effect.
pub const GROUP_OPS_MAX: usize = 4096;
/// Groups in one entry.
pub const ENTRY_GROUPS_MAX: usize = 16384;
/// A file name, as on any Unix.
pub const NAME_BYTES_MAX: usize = 255;
/// A symbolic link's target: Linux's PATH_MAX less the terminating zero.
pub const TARGET_BYTES_MAX: usize = 4095;
/// An extended attribute's name: Linux's XATTR_NAME_MAX.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// An extended attribute's value: Linux's XATTR_SIZE_MAX, less one so that the length fits 16 bits.
pub const XATTR_VALUE_BYTES_MAX: usize = 65535;
/// Content kept inside the op itself.
pub const INLINE_BYTES_MAX: usize = 1024;
/// Extents kept inside the op itself.
pub const EXTENTS_INLINE_MAX: usize = 16;
/// Children of one extent-tree node.
pub const TREE_FANOUT: usize = 128;
/// Height of an extent tree at the most: 128^8 extents of 16 KiB are more than any file.
pub const TREE_HEIGHT_MAX: u8 = 8;
/// Smallest, mean and largest chunk that the content-defined chunker cuts.
pub const CHUNK_BYTES_MIN: usize = 16 * 1024;
/// See [`CHUNK_BYTES_MIN`].
pub const CHUNK_BYTES_AVG: usize = 64 * 1024;
/// See [`CHUNK_BYTES_MIN`].
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Heads or dots that an op names at the most.
pub const SEEN_MAX: usize = 1024;
/// Audit samples that find 1 % loss with 99 % probability: ln 0.01 / ln 0.99.
pub const PROOF_SAMPLES: usize = 459;
/// Bytes of the entries of one challenge: what a small machine reads and hashes in half a second.
pub const PROOF_ENTRY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Devices, seeders or boxes in one folder.
pub const BOXES_MAX: usize = 4096;

/// The PADMÉ length of `len`: at most 12 % more, and only O(log log len) bits about it.
///
/// Source: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with
/// PURBs", PoPETs 2019(4), algorithm 1.
#[must_use]
pub fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let exponent = u64::from(len.ilog2());
    let kept_bits = u64::from(exponent.ilog2()) + 1;
    let mask = (1u64 << exponent.saturating_sub(kept_bits)) - 1;
    (len + mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::padme;

    #[test]
    fn padme_never_shrinks_and_adds_at_most_an_eighth() {
        for len in (0..100_000).chain((1 << 20)..(1 << 20) + 1000) {
            let padded = padme(len);
            assert!(padded >= len && padded <= len + len / 8 + 1, "{len} -> {padded}");
            assert_eq!(padme(padded), padded, "{len}");
        }
    }
}
