//! Seals and stows chunks beside the thread that cuts them.
//!
//! The thread that cuts hands over chunks in order and goes on; workers take one at a time, so chunks
//! lie in packs nearly as they do in the file. While one worker waits for the disk the others seal.
//! Without workers each chunk is sealed where it is handed over.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use cobox_store::Error;
use cobox_store::format::content::Extent;
use cobox_store::format::pack::ChunkType;
use parking_lot::{Condvar, Mutex};

use super::content::ChunkIo;

/// Threads beside the one that cuts: one for the disk, one for another processor.
const WORKERS: usize = 2;
/// Bytes that wait, a pack's worth: with more the thread that cuts helps.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The number of a chunk that was handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(usize);

/// Whether there is enough to seal for threads of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Sealed where it is handed over.
    Little,
    /// Sealed by workers.
    Much,
}

/// Chunks on their way to packs.
pub struct Lane<'a> {
    io: ChunkIo<'a>,
    work: Work,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    waiting_bytes: usize,
    sealed: Vec<Option<Extent>>,
    failed: Option<Error>,
    closed: bool,
}

impl State {
    fn next(&mut self) -> Option<Job> {
        let job = self.waiting.pop_front()?;
        self.waiting_bytes -= job.range.len();
        Some(job)
    }
}

struct Job {
    slot: usize,
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

/// Lets the workers end, also where cutting fails.
struct Closing<'a, 'b>(&'b Lane<'a>);

impl Drop for Closing<'_, '_> {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl<'a> Lane<'a> {
    /// Runs `cut`, which hands chunks over; returns what it returns and the extents of all chunks.
    ///
    /// # Errors
    /// When cutting, or storing a chunk, fails.
    pub fn run<R>(
        io: ChunkIo<'a>,
        work: Work,
        cut: impl FnOnce(&Self) -> Result<R, Error>,
    ) -> Result<(R, Vec<Option<Extent>>), Error> {
        let lane = Self { io, work, state: Mutex::default(), changed: Condvar::new() };
        let result = match work {
            Work::Little => cut(&lane),
            Work::Much => std::thread::scope(|scope| {
                for _ in 0..WORKERS {
                    scope.spawn(|| lane.work());
                }
                let _closing = Closing(&lane);
                let result = cut(&lane);
                lane.help(0);
                result
            }),
        };
        let state = lane.state.into_inner();
        match state.failed {
            Some(error) => Err(error),
            None => Ok((result?, state.sealed)),
        }
    }

    /// Hands over one chunk: a part of `bytes`.
    ///
    /// # Errors
    /// When storing this chunk fails, or one before did.
    pub fn push(&self, bytes: &Arc<Vec<u8>>, range: Range<usize>) -> Result<Slot, Error> {
        let slot = {
            let mut state = self.state.lock();
            if state.failed.is_some() {
                // The error itself is what `run` returns.
                return Err(Error::NoSpace);
            }
            let slot = state.sealed.len();
            state.sealed.push(None);
            state.waiting_bytes += range.len();
            state.waiting.push_back(Job { slot, bytes: Arc::clone(bytes), range });
            slot
        };
        if self.work == Work::Much {
            self.changed.notify_one();
        }
        self.help(if self.work == Work::Much { WAITING_BYTES_MAX } else { 0 });
        Ok(Slot(slot))
    }

    /// Seals in this thread until no more than `left` bytes wait.
    fn help(&self, left: usize) {
        loop {
            let mut state = self.state.lock();
            if state.waiting_bytes <= left {
                return;
            }
            let Some(job) = state.next() else { return };
            drop(state);
            self.seal(&job);
        }
    }

    fn work(&self) {
        loop {
            let mut state = self.state.lock();
            let job = loop {
                match state.next() {
                    Some(job) => break job,
                    None if state.closed => return,
                    None => self.changed.wait(&mut state),
                }
            };
            drop(state);
            self.seal(&job);
        }
    }

    fn seal(&self, job: &Job) {
        let sealed = (self.io.seal)(ChunkType::Data, job.bytes.get(job.range.clone()).unwrap_or(&[]));
        let len = sealed.plain_len;
        let stowed = (self.io.stow)(sealed);
        let mut state = self.state.lock();
        match stowed {
            Ok(chunk) => {
                if let Some(done) = state.sealed.get_mut(job.slot) {
                    *done = Some(Extent::Data { len, chunk });
                }
            }
            Err(error) => {
                // What waits need not be sealed.
                state.waiting.clear();
                state.waiting_bytes = 0;
                state.failed.get_or_insert(error);
            }
        }
    }
}

/// The extent of a chunk that was handed over to a lane that has ended.
#[must_use]
pub fn extent_of(sealed: &[Option<Extent>], slot: Slot) -> Extent {
    sealed.get(slot.0).copied().flatten().expect("a lane that did not fail has sealed every chunk")
}

#[cfg(test)]
mod tests {
    use cobox_store::format::content::ChunkRef;
    use cobox_store::id::{ChunkTag, EpochId, hash};
    use cobox_store::keyed::SealedChunk;

    use super::*;

    fn run_with(
        work: Work,
        stow: &(dyn Fn(SealedChunk) -> Result<ChunkRef, Error> + Sync),
    ) -> Result<Vec<Extent>, Error> {
        let io = ChunkIo {
            read: &|_, chunk| Err(Error::Absent(chunk.tag)),
            seal: &|chunk_type, plain| SealedChunk {
                chunk: ChunkRef { epoch: EpochId([1; 32]), tag: ChunkTag(hash(plain)) },
                chunk_type,
                bytes: plain.to_vec(),
                plain_len: u32::try_from(plain.len()).expect("small"),
            },
            stow,
            next_cut: &|_, _| None,
        };
        let (slots, sealed) = Lane::run(io, work, |lane| {
            let mut slots = Vec::new();
            for batch in 0..30u8 {
                let bytes = Arc::new(vec![batch; 1 << 20]);
                for part in 0..10usize {
                    slots.push(lane.push(&bytes, part * 1000..part * 1000 + usize::from(batch) + 1)?);
                }
            }
            Ok(slots)
        })?;
        Ok(slots.into_iter().map(|slot| extent_of(&sealed, slot)).collect())
    }

    #[test]
    fn chunks_come_back_in_the_order_in_which_they_were_handed_over() {
        for work in [Work::Little, Work::Much] {
            let extents = run_with(work, &|sealed| Ok(sealed.chunk)).expect("sealed");
            assert_eq!(extents.len(), 300);
            for (at, extent) in extents.into_iter().enumerate() {
                let batch = u8::try_from(at / 10).expect("30 batches");
                let plain = vec![batch; usize::from(batch) + 1];
                let chunk = ChunkRef { epoch: EpochId([1; 32]), tag: ChunkTag(hash(&plain)) };
                assert_eq!(extent, Extent::Data { len: u32::from(batch) + 1, chunk });
            }
        }
    }

    #[test]
    fn chunk_that_cannot_be_stored_ends_the_lane_with_its_error() {
        for work in [Work::Little, Work::Much] {
            let result = run_with(work, &|sealed| {
                if sealed.plain_len == 17 { Err(Error::Sealed) } else { Ok(sealed.chunk) }
            });
            assert!(matches!(result, Err(Error::Sealed)));
        }
    }
}
