//! Sealing of what is written while it streams, beside the program that writes.
//!
//! A writer offers a file once enough of it is in memory and goes on; one thread seals. The writer waits
//! only when it is [`STREAM_BYTES_MAX`] ahead. Where sealing fails, the thread leaves the file alone and
//! the next write, `fsync` or close seals in the program's own call, which gets the error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::file::File;
use super::rechunk::Tail;
use super::{Errno, STREAM_BYTES, STREAM_BYTES_MAX, Vfs};

/// Files that wait for the thread; the writers of more seal by themselves.
const WAITING_MAX: usize = 16;

/// Who seals a file while it is written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Stream {
    /// Nobody at the moment.
    #[default]
    Idle,
    /// It waits for the thread.
    Waiting,
    /// The thread could not: its writers do, so that they get the error.
    Failed,
}

/// Files on their way to the thread that seals.
#[derive(Default)]
pub struct Streamer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether the thread runs; without it writers seal by themselves.
    runs: bool,
    waiting: VecDeque<Arc<File>>,
}

/// The answer to an offer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Offer {
    Taken,
    Refused,
}

impl Streamer {
    fn offer(&self, file: &Arc<File>) -> Offer {
        let mut state = self.state.lock();
        if !state.runs || state.waiting.len() >= WAITING_MAX {
            return Offer::Refused;
        }
        {
            let mut inner = file.inner();
            match inner.stream {
                Stream::Failed => return Offer::Refused,
                Stream::Waiting => return Offer::Taken,
                Stream::Idle => inner.stream = Stream::Waiting,
            }
        }
        state.waiting.push_back(Arc::clone(file));
        self.changed.notify_one();
        Offer::Taken
    }

    /// The next file; `None` at the end.
    fn next(&self, stop: &AtomicBool) -> Option<Arc<File>> {
        let mut state = self.state.lock();
        loop {
            if stop.load(Ordering::SeqCst) {
                state.runs = false;
                for file in state.waiting.drain(..) {
                    file.inner().stream = Stream::Idle;
                }
                return None;
            }
            state.runs = true;
            if let Some(file) = state.waiting.pop_front() {
                return Some(file);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Makes the thread look whether it should end.
    pub fn wake(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }
}

impl Vfs {
    /// Has a file sealed that has `in_memory` written bytes in memory; waits only where it is far ahead.
    pub(super) fn stream(&self, file: &Arc<File>, in_memory: u64) -> Result<(), Errno> {
        let offer = self.streamer.offer(file);
        let soon = file.inner().stream_bytes();
        let far = STREAM_BYTES_MAX.max(soon + STREAM_BYTES);
        let (io, bound) = match offer {
            Offer::Taken if in_memory < far => return Ok(()),
            // It grows faster than it is sealed.
            Offer::Taken => (Some(file.io.lock()), far),
            Offer::Refused => (file.io.try_lock(), soon),
        };
        let Some(_io) = io else { return Ok(()) };
        if file.inner().map.mem_bytes() >= bound {
            self.settle(file, Tail::Leave)?;
            let mut inner = file.inner();
            if inner.stream == Stream::Failed {
                inner.stream = Stream::Idle;
            }
        }
        Ok(())
    }

    /// Seals offered files until the mount ends.
    pub(super) fn stream_loop(&self, stop: &AtomicBool) {
        while let Some(file) = self.streamer.next(stop) {
            let io = file.io.lock();
            let due = {
                let mut inner = file.inner();
                inner.stream = Stream::Idle;
                inner.map.mem_bytes() >= inner.stream_bytes()
            };
            // Waiting for other devices is for the writer: here it would hold up other files.
            if due && let Err(errno) = self.settle_until(&file, Tail::Leave, Instant::now()) {
                tracing::debug!(errno = errno.0, "a file could not be sealed while it is written");
                file.inner().stream = Stream::Failed;
            }
            // A writer that waits goes first.
            MutexGuard::unlock_fair(io);
        }
    }
}
