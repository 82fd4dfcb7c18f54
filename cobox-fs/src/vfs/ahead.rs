//! Chunks that will be read soon, opened by threads beside the one that answers.
//!
//! A request that spans several chunks has them opened side by side, and a reader that goes through a file
//! in order finds the next ones open already. What is opened here lands in the folder's chunk cache and
//! nowhere else: a failure is left for the reader to meet, and nothing is asked of other devices.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use cobox_store::Error;
use cobox_store::format::content::{ChunkRef, Content, Extent};
use cobox_store::format::pack::ChunkType;
use cobox_store::id::PackId;
use cobox_store::keyed::Reader;
use parking_lot::{Condvar, Mutex};

use super::Vfs;
use super::content::extents_in;
use super::file::File;
use super::rechunk::Span;

/// Threads that open chunks; with the one that answers, two processors are busy and a disk has a queue.
pub const THREADS: usize = 3;
/// Chunks that are opened by one thread at a time: some 256 KiB, which a disk reads in hardly more time than
/// one chunk, and a quarter of the kernel's largest request, so that all threads have a part in it.
const GROUP_CHUNKS: usize = 4;
/// Groups that wait for a thread: two of the kernel's largest requests. What comes on top is opened by its
/// reader.
const WAITING_MAX: usize = 8;
/// Groups around what scattered readers met that wait: a mebibyte's. They wait behind all others.
const AROUND_MAX: usize = 4;
/// How far ahead of a sequential reader chunks are opened. It is the most that is opened in vain for a
/// reader that stops, and small beside the cache in which it lands.
const AHEAD_BYTES: u64 = 2 * 1024 * 1024;
/// A request that is behind by no more than this belongs to a sequential reader all the same: the kernel
/// sends several at a time, and they are answered by several threads.
const LATE_BYTES: u64 = 4 * 1024 * 1024;
/// Requests in order after which a reader counts as sequential.
const IN_ORDER_MIN: u32 = 2;
/// Jumps after which a reader counts as scattered: one that looks at a head, a tail and an index makes fewer.
const JUMPS_MIN: u32 = 4;
/// A larger request of a scattered reader has its chunks opened whole: it needs most of one.
const PART_BYTES_MAX: u64 = 16 * 1024;
/// Around what a scattered reader meets for the first time, so much is opened for it: it is read with a few
/// requests to the disk, and in a file that it goes through it comes to all of it.
const AROUND_BYTES: u64 = 1024 * 1024;
/// In larger files nothing is opened around: the digests of all their pages may not be kept, and in the
/// largest a scattered reader seldom comes to the same place.
const AROUND_FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// What is opened around is looked up so far at a time, until there is enough: another member's extents may be tiny.
const AROUND_STEP_BYTES: u64 = 64 * 1024;

/// How a file is being read.
#[derive(Clone, Copy, Default, Debug)]
pub struct Reading {
    /// Where the furthest request ended.
    end: u64,
    /// Requests that went on from there.
    in_order: u32,
    /// Up to where chunks were asked for.
    asked: u64,
    /// Requests for another place since it last went on in order.
    jumps: u32,
    /// Around which places something was opened: each is once, while the file is open.
    around: Around,
}

/// A bit for each [`AROUND_BYTES`] of the largest file in which something is opened around.
#[derive(Clone, Copy, Default, Debug)]
struct Around([u64; (AROUND_FILE_BYTES_MAX / AROUND_BYTES / 64) as usize]);

impl Around {
    /// What there is around `at`, the first time.
    fn first(&mut self, at: u64) -> Option<Range<u64>> {
        let place = at / AROUND_BYTES;
        let word = self.0.get_mut(usize::try_from(place / 64).ok()?)?;
        let bit = 1 << (place % 64);
        let is_first = *word & bit == 0;
        *word |= bit;
        is_first.then_some(place * AROUND_BYTES..(place + 1) * AROUND_BYTES)
    }
}

/// What a request tells of its reader.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Pattern {
    /// Nothing is known of what it will read next.
    Unknown,
    /// It goes on in order, and this should be opened.
    Ahead(Range<u64>),
    /// It reads here and there.
    Scattered,
}

impl Reading {
    /// Notes a request and says which range beyond it should be opened.
    fn note(&mut self, range: &Range<u64>) -> Pattern {
        let scattered = |jumps| {
            let few = range.end - range.start <= PART_BYTES_MAX;
            if few && jumps >= JUMPS_MIN { Pattern::Scattered } else { Pattern::Unknown }
        };
        let near = range.start.saturating_add(LATE_BYTES) >= self.end;
        if near && range.end <= self.end {
            return scattered(self.jumps);
        }
        let gap = range.start.saturating_sub(self.end);
        if !near || gap > range.end - range.start {
            // Another place of the file, from which it may go on.
            let jumps = self.jumps.saturating_add(1);
            *self = Self { end: range.end, in_order: 0, asked: range.end, jumps, around: self.around };
            return scattered(jumps);
        }
        self.in_order = self.in_order.saturating_add(1);
        self.end = range.end;
        if self.in_order < IN_ORDER_MIN {
            return scattered(self.jumps);
        }
        self.jumps = 0;
        let from = self.asked.max(range.end);
        self.asked = range.end.saturating_add(AHEAD_BYTES).max(from);
        Pattern::Ahead(from..self.asked)
    }
}

/// Groups of chunks that wait to be opened.
#[derive(Default)]
pub struct Ahead {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Threads that take them; without any, readers open everything themselves.
    threads: usize,
    waiting: VecDeque<Vec<ChunkRef>>,
    /// The same for scattered readers.
    around: VecDeque<Vec<ChunkRef>>,
}

impl Ahead {
    /// Has chunks opened, as many as there is room for.
    fn ask(&self, chunks: &[ChunkRef], reader: Reader) {
        let mut state = self.state.lock();
        if state.threads == 0 {
            return;
        }
        let (queue, most) = match reader {
            Reader::InOrder => (&mut state.waiting, WAITING_MAX),
            Reader::Scattered => (&mut state.around, AROUND_MAX),
        };
        let room = most.saturating_sub(queue.len());
        for group in chunks.chunks(GROUP_CHUNKS).take(room) {
            queue.push_back(group.to_vec());
            self.changed.notify_one();
        }
    }

    /// Has the chunks of a request opened, but for those with which its reader begins.
    pub fn ask_beyond_first(&self, spans: &[Span]) {
        let chunks: Vec<ChunkRef> = spans.iter().filter_map(Span::chunk).skip(GROUP_CHUNKS).collect();
        if !chunks.is_empty() {
            self.ask(&chunks, Reader::InOrder);
        }
    }

    /// Makes the threads look whether they should end.
    pub fn wake(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    fn enter(&self) {
        self.state.lock().threads += 1;
    }

    /// The next group; `None` at the end.
    fn next(&self, stop: &AtomicBool) -> Option<(Vec<ChunkRef>, Reader)> {
        let mut state = self.state.lock();
        loop {
            if stop.load(Ordering::SeqCst) {
                state.threads -= 1;
                state.waiting.clear();
                state.around.clear();
                return None;
            }
            if let Some(group) = state.waiting.pop_front() {
                return Some((group, Reader::InOrder));
            }
            if let Some(group) = state.around.pop_front() {
                return Some((group, Reader::Scattered));
            }
            self.changed.wait(&mut state);
        }
    }
}

impl Vfs {
    /// Notes a read of a file, has opened what its reader will want next, and says how it reads.
    pub(super) fn read_on(&self, file: &File, base: &Content, range: &Range<u64>, spans: &[Span]) -> Reader {
        if matches!(base, Content::Inline(_)) {
            return Reader::InOrder;
        }
        let pattern = file.reading.lock().note(range);
        match pattern {
            Pattern::Unknown => Reader::InOrder,
            Pattern::Ahead(next) => {
                self.open_ahead(base, next);
                Reader::InOrder
            }
            Pattern::Scattered => {
                let is_new =
                    |span: &&Span| span.chunk().is_some_and(|chunk| !self.folder.reads_parts_of(chunk));
                if base.size() <= AROUND_FILE_BYTES_MAX
                    && let Some(span) = spans.iter().find(is_new)
                    && let Some(around) = file.reading.lock().around.first(span.start)
                {
                    self.open_around(base, around, spans);
                }
                Reader::Scattered
            }
        }
    }

    /// Has the chunks of a range opened for a reader that comes to them.
    fn open_ahead(&self, base: &Content, range: Range<u64>) {
        let range = range.start..range.end.min(base.size());
        if range.start >= range.end {
            return;
        }
        let mut chunks = Vec::new();
        let found = self.with_io(|io| {
            extents_in(io, base, range, &mut |_, extent| {
                if let Extent::Data { chunk, .. } = extent {
                    chunks.push(chunk);
                }
            })
        });
        // Where nodes are missing, the reader will be told.
        if found.is_ok() {
            self.ahead.ask(&chunks, Reader::InOrder);
        }
    }

    /// Has chunks of a range opened, but for those that the reader opens itself.
    fn open_around(&self, base: &Content, range: Range<u64>, own: &[Span]) {
        let (mut at, end) = (range.start, range.end.min(base.size()));
        let mut chunks: Vec<ChunkRef> = Vec::new();
        while at < end && chunks.len() < AROUND_MAX * GROUP_CHUNKS {
            let step = at..(at + AROUND_STEP_BYTES).min(end);
            at = step.end;
            let found = self.with_io(|io| {
                extents_in(io, base, step, &mut |_, extent| {
                    if let Extent::Data { chunk, .. } = extent
                        && chunks.last() != Some(&chunk)
                        && !own.iter().any(|span| span.chunk() == Some(chunk))
                        && !self.folder.reads_parts_of(chunk)
                    {
                        chunks.push(chunk);
                    }
                })
            });
            if found.is_err() {
                return;
            }
        }
        self.ahead.ask(&chunks, Reader::Scattered);
    }

    /// The bytes of spans, one after the other, as `append` reads them. All are tried, so that all absent packs are known at once;
    /// those of damaged packs go into `damaged`.
    ///
    /// # Errors
    /// When any of them cannot be read.
    pub(super) fn gather(
        &self,
        spans: &[Span],
        reader: Reader,
        append: impl Fn(&Span, &mut Vec<u8>) -> Result<(), Error>,
        damaged: &mut Vec<PackId>,
    ) -> Result<Vec<u8>, Error> {
        let len: u64 = spans.iter().map(|span| span.len).sum();
        let mut bytes = Vec::with_capacity(usize::try_from(len).expect("a request fits memory"));
        let chunks: Vec<ChunkRef> = spans.iter().filter_map(Span::chunk).collect();
        let mut groups = chunks.chunks(GROUP_CHUNKS);
        let mut left_in_group = 0usize;
        let mut failed = None;
        for span in spans {
            if span.chunk().is_some() && left_in_group == 0 {
                let group = groups.next().unwrap_or(&[]);
                left_in_group = group.len();
                if left_in_group > 1 && reader == Reader::InOrder {
                    self.folder.read_ahead(ChunkType::Data, group, Reader::InOrder);
                }
            }
            left_in_group = left_in_group.saturating_sub(usize::from(span.chunk().is_some()));
            match append(span, &mut bytes) {
                Ok(()) => {}
                Err(Error::PackDamaged(pack)) => damaged.push(pack),
                Err(error) => failed = Some(error),
            }
        }
        match (failed, damaged.first()) {
            (Some(error), _) => Err(error),
            (None, Some(pack)) => Err(Error::PackDamaged(*pack)),
            (None, None) => Ok(bytes),
        }
    }

    /// Opens chunks until the mount ends.
    pub(super) fn ahead_loop(&self, stop: &AtomicBool) {
        self.ahead.enter();
        while let Some((group, reader)) = self.ahead.next(stop) {
            self.folder.read_ahead(ChunkType::Data, &group, reader);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn ahead_of(reading: &mut Reading, range: Range<u64>) -> Option<Range<u64>> {
        match reading.note(&range) {
            Pattern::Ahead(next) if !next.is_empty() => Some(next),
            _ => None,
        }
    }

    #[test]
    fn sequential_reader_gets_each_byte_ahead_once() {
        let mut reading = Reading::default();
        let ahead: Vec<_> =
            (0..8).filter_map(|at| ahead_of(&mut reading, at * MIB..(at + 1) * MIB)).collect();
        assert_eq!(ahead.first().map(|next| next.start), Some(2 * MIB));
        assert!(ahead.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(ahead.last().map(|next| next.end), Some(8 * MIB + AHEAD_BYTES));
    }

    #[test]
    fn random_reader_gets_nothing_ahead_and_counts_as_scattered() {
        let mut reading = Reading::default();
        let places = [70, 3, 400, 20, 90, 5, 33, 200];
        let patterns = places.map(|at: u64| reading.note(&(at * 4 * MIB..at * 4 * MIB + 4096)));
        assert!(patterns[..3].iter().all(|pattern| *pattern == Pattern::Unknown));
        assert!(patterns[4..].iter().all(|pattern| *pattern == Pattern::Scattered));
        let large = 8 * MIB..8 * MIB + PART_BYTES_MAX + 1;
        assert_eq!(reading.note(&large), Pattern::Unknown);
    }

    #[test]
    fn scattered_reader_that_goes_on_in_order_is_sequential_again() {
        let mut reading = Reading::default();
        for at in [70, 3, 400, 20, 90, 5] {
            reading.note(&(at * 4 * MIB..at * 4 * MIB + 4096));
        }
        let start = 1000 * MIB;
        let ahead: Vec<_> = (0..8)
            .filter_map(|at| ahead_of(&mut reading, start + at * 4096..start + (at + 1) * 4096))
            .collect();
        assert!(!ahead.is_empty());
        assert_eq!(reading.note(&(0..4096)), Pattern::Unknown);
    }

    #[test]
    fn what_lies_around_a_place_is_opened_once() {
        let mut around = Around::default();
        assert_eq!(around.first(3 * MIB + 5), Some(3 * MIB..4 * MIB));
        assert_eq!(around.first(4 * MIB - 1), None);
        assert_eq!(around.first(4 * MIB), Some(4 * MIB..5 * MIB));
        assert_eq!(around.first(AROUND_FILE_BYTES_MAX - 1).map(|at| at.end), Some(AROUND_FILE_BYTES_MAX));
        assert_eq!(around.first(AROUND_FILE_BYTES_MAX), None);
        let mut reading = Reading::default();
        reading.around.first(0);
        for at in [70, 3, 400, 20] {
            reading.note(&(at * 4 * MIB..at * 4 * MIB + 4096));
        }
        assert_eq!(reading.around.first(0), None, "a jump does not forget it");
    }

    #[test]
    fn groups_around_wait_behind_those_ahead_and_take_none_of_their_places() {
        let ahead = Ahead::default();
        ahead.enter();
        let chunk = |at| ChunkRef {
            epoch: cobox_store::id::EpochId([0; 32]),
            tag: cobox_store::id::ChunkTag([at; 32]),
        };
        ahead.ask(&[chunk(1); 100], Reader::Scattered);
        ahead.ask(&[chunk(2); 100], Reader::InOrder);
        let stop = AtomicBool::new(false);
        let taken: Vec<Reader> = (0..WAITING_MAX + AROUND_MAX)
            .filter_map(|_| ahead.next(&stop).map(|(_, reader)| reader))
            .collect();
        assert_eq!(taken[..WAITING_MAX], [Reader::InOrder; WAITING_MAX]);
        assert_eq!(taken[WAITING_MAX..], [Reader::Scattered; AROUND_MAX]);
        assert!(ahead.state.lock().around.is_empty());
    }

    #[test]
    fn requests_out_of_order_still_count_as_sequential() {
        let mut reading = Reading::default();
        let order = [0, 2, 1, 3, 5, 4, 6, 7];
        let ahead = order.map(|at: u64| ahead_of(&mut reading, at * MIB / 2..(at + 1) * MIB / 2));
        assert!(ahead.iter().any(Option::is_some));
    }

    #[test]
    fn chunks_without_a_thread_are_not_kept() {
        let ahead = Ahead::default();
        let chunk =
            ChunkRef { epoch: cobox_store::id::EpochId([0; 32]), tag: cobox_store::id::ChunkTag([0; 32]) };
        ahead.ask(&[chunk], Reader::InOrder);
        assert!(ahead.state.lock().waiting.is_empty());
        ahead.enter();
        ahead.ask(&[chunk; WAITING_MAX * GROUP_CHUNKS + 5], Reader::InOrder);
        assert_eq!(ahead.state.lock().waiting.len(), WAITING_MAX);
    }
}
