//! Pages of chunks that were opened whole before, so that a few bytes of a large file cost little work.
//!
//! A chunk's tag is over all of it: the first time all of it is opened and checked. Kept in memory are digests of
//! its sealed pages, between flag and tag, under a key of this process. A page that is read again and has its digest is
//! one that was checked, and is decrypted alone. Where it has another, the chunk is opened whole, which says what is wrong.
//! So is one that is read again soon, and soon again: it belongs into the cache of opened chunks.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::lru::{ENTRY_BYTES, Lru};
use super::secret::Secret32;
use crate::error::Result;
use crate::format::content::ChunkRef;
use crate::format::device::TagRow;
use crate::format::pack::CHUNK_OVERHEAD_BYTES;

/// Sealed bytes with a digest of their own. BLAKE3 hashes as much side by side with AVX-512; pages of a quarter
/// take more than twice the time for each byte.
const PAGE_BYTES: usize = 16 * 1024;
/// Half of a BLAKE3 hash: whoever wants to pass another page off has to find it without the key.
const DIGEST_BYTES: usize = 16;
/// Digests kept per folder, for some 700 MiB of chunks of the usual size.
pub(super) const PAGES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Within so many reads of pages a chunk is read again soon: programs read a quarter of the chunks that the cache holds over
/// and over, and who reads in far more than it holds meets one of 16 so soon by chance …
const SOON_READS: u64 = 256;
/// … and one of 256 twice in succession, after which it is opened whole.
const SOON_TIMES: u8 = 2;

/// What is sealed begins with a flag and ends with a tag.
pub(super) const FLAG_BYTES: usize = 1;
const TAG_BYTES: usize = CHUNK_OVERHEAD_BYTES - FLAG_BYTES;

type Digest = [u8; DIGEST_BYTES];

/// Digests of the chunks that were opened lately.
pub(super) struct Pages {
    key: Secret32,
    known: Mutex<Lru<ChunkRef, Arc<Known>>>,
    reads: AtomicU64,
}

/// What is known of a chunk that was opened.
pub(super) struct Known {
    /// Where it was read.
    pub(super) place: TagRow,
    /// None of a chunk that is compressed.
    digests: Vec<Digest>,
    /// At which read of pages it was read last; 0 before the first.
    last: AtomicU64,
    /// How often in succession it was read again soon.
    soon: AtomicU8,
}

impl Pages {
    pub(super) fn new(bytes_max: usize) -> Result<Self> {
        Ok(Self {
            key: Secret32::random()?,
            known: Mutex::new(Lru::new(bytes_max)),
            reads: AtomicU64::new(1),
        })
    }

    /// Digests of the pages of a sealed chunk, to be kept if it opens.
    pub(super) fn digests(&self, sealed: &[u8]) -> Vec<Digest> {
        let pages = sealed.get(FLAG_BYTES..sealed.len().saturating_sub(TAG_BYTES)).unwrap_or(&[]);
        pages.chunks(PAGE_BYTES).map(|page| self.digest(page)).collect()
    }

    fn digest(&self, page: &[u8]) -> Digest {
        let hash = blake3::keyed_hash(self.key.expose(), page);
        *hash.as_bytes().first_chunk().expect("32 bytes hold 16")
    }

    /// Keeps the digests of a chunk that was opened at `place` and lies there as it is; none of one that is compressed.
    pub(super) fn keep(&self, chunk: ChunkRef, place: TagRow, digests: Vec<Digest>) {
        let weight = ENTRY_BYTES + digests.len() * DIGEST_BYTES;
        self.known.lock().put(chunk, Arc::new(Known::new(place, digests)), weight);
    }

    pub(super) fn has(&self, chunk: &ChunkRef) -> bool {
        self.known.lock().has(chunk)
    }

    pub(super) fn get(&self, chunk: &ChunkRef) -> Option<Arc<Known>> {
        self.known.lock().get(chunk)
    }

    /// Notes that pages of a chunk are to be read, and says whether they are worth it.
    pub(super) fn reads(&self, known: &Known) -> bool {
        if known.digests.is_empty() {
            return false;
        }
        let now = self.reads.fetch_add(1, Ordering::Relaxed);
        let last = known.last.swap(now, Ordering::Relaxed);
        if last == 0 || now.saturating_sub(last) > SOON_READS {
            known.soon.store(0, Ordering::Relaxed);
            return true;
        }
        known.soon.fetch_add(1, Ordering::Relaxed).saturating_add(1) < SOON_TIMES
    }

    /// Whether `sealed` are the bytes `range` of what a chunk was sealed to, which are whole pages.
    pub(super) fn match_with(&self, known: &Known, range: &Range<usize>, sealed: &[u8]) -> bool {
        let first = range.start / PAGE_BYTES;
        sealed.len() == range.len()
            && sealed
                .chunks(PAGE_BYTES)
                .zip(first..)
                .all(|(page, at)| known.digests.get(at).is_some_and(|digest| *digest == self.digest(page)))
    }
}

impl Known {
    fn new(place: TagRow, digests: Vec<Digest>) -> Self {
        Self { place, digests, last: AtomicU64::new(0), soon: AtomicU8::new(0) }
    }

    /// Whether it is known to have no pages, as it is compressed.
    pub(super) fn has_none(&self) -> bool {
        self.digests.is_empty()
    }

    /// The pages in which these bytes of its plaintext lie; `None` where it ends before.
    pub(super) fn pages_of(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let len = (self.place.len as usize).checked_sub(CHUNK_OVERHEAD_BYTES)?;
        if range.start > range.end || range.end > len {
            return None;
        }
        Some(range.start / PAGE_BYTES * PAGE_BYTES..range.end.next_multiple_of(PAGE_BYTES).min(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::ChunkType;
    use crate::id::{ChunkTag, EpochId, PackId};

    fn chunk(at: u8) -> ChunkRef {
        ChunkRef { epoch: EpochId([0; 32]), tag: ChunkTag([at; 32]) }
    }

    fn place(len: usize) -> TagRow {
        let len = u32::try_from(len).expect("a chunk is small");
        TagRow { pack: PackId([1; 32]), offset: 5, len, chunk_type: ChunkType::Data }
    }

    #[test]
    fn pages_of_a_range_hold_it_and_no_page_more() {
        let len = 2 * PAGE_BYTES + CHUNK_OVERHEAD_BYTES;
        let known = Known::new(place(len + 5), Vec::new());
        assert_eq!(known.pages_of(&(0..1)), Some(0..PAGE_BYTES));
        assert_eq!(known.pages_of(&(0..PAGE_BYTES)), Some(0..PAGE_BYTES));
        assert_eq!(known.pages_of(&(0..PAGE_BYTES + 1)), Some(0..2 * PAGE_BYTES));
        assert_eq!(known.pages_of(&(PAGE_BYTES - 1..PAGE_BYTES)), Some(0..PAGE_BYTES));
        assert_eq!(known.pages_of(&(PAGE_BYTES..PAGE_BYTES + 1)), Some(PAGE_BYTES..2 * PAGE_BYTES));
        let end = 2 * PAGE_BYTES + 5;
        assert_eq!(known.pages_of(&(end - 1..end)), Some(2 * PAGE_BYTES..end));
        assert_eq!(known.pages_of(&(end..end + 1)), None);
        assert_eq!(known.pages_of(&(5..usize::MAX)), None);
    }

    #[test]
    fn page_with_any_bit_flipped_or_of_another_place_does_not_match() {
        let pages = Pages::new(PAGES_BYTES_MAX).expect("random");
        let whole: Vec<u8> =
            (0..2 * PAGE_BYTES + 100 + CHUNK_OVERHEAD_BYTES).map(|at| (at * at / 7) as u8).collect();
        pages.keep(chunk(1), place(whole.len()), pages.digests(&whole));
        let known = pages.get(&chunk(1)).expect("is kept");
        let sealed = &whole[FLAG_BYTES..whole.len() - TAG_BYTES];
        let second = PAGE_BYTES..2 * PAGE_BYTES;
        assert!(pages.match_with(&known, &(0..sealed.len()), sealed));
        assert!(pages.match_with(&known, &second, &sealed[second.clone()]));
        assert!(!pages.match_with(&known, &second, &sealed[..PAGE_BYTES]));
        assert!(!pages.match_with(&known, &second, &sealed[PAGE_BYTES..2 * PAGE_BYTES - 1]));
        for bit in (0..PAGE_BYTES * 8).step_by(997) {
            let mut bent = sealed[second.clone()].to_vec();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(!pages.match_with(&known, &second, &bent), "bit {bit}");
        }
        assert!(!Pages::new(1).expect("random").match_with(&known, &second, &sealed[second.clone()]));
    }

    #[test]
    fn digests_over_their_bound_go_with_what_was_not_used() {
        let pages = Pages::new(3 * ENTRY_BYTES).expect("random");
        for at in 0..5 {
            pages.keep(chunk(at), place(10), Vec::new());
        }
        assert_eq!(
            (0..5).map(|at| pages.has(&chunk(at))).collect::<Vec<_>>(),
            [false, false, true, true, true]
        );
    }

    #[test]
    fn chunk_that_is_read_again_soon_or_has_no_pages_is_to_be_opened_whole() {
        let pages = Pages::new(PAGES_BYTES_MAX).expect("random");
        let known = |at| {
            pages.keep(chunk(at), place(100), pages.digests(&[at; 100]));
            pages.get(&chunk(at)).expect("is kept")
        };
        let (often, other) = (known(1), known(2));
        let wait = || (0..=SOON_READS).for_each(|_| _ = pages.reads(&other));
        assert!(pages.reads(&often));
        assert!(pages.reads(&often), "soon again, perhaps by chance");
        assert!(!pages.reads(&often), "three times in succession");
        wait();
        assert!(pages.reads(&often), "much later");
        wait();
        assert!(pages.reads(&often) && pages.reads(&often), "what was long ago does not count");
        assert!(!pages.reads(&often));
        pages.keep(chunk(3), place(100), Vec::new());
        assert!(!pages.reads(&pages.get(&chunk(3)).expect("is kept")));
    }
}
