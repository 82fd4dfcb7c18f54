//! Whether a stream brings what it owes, and how much of the node's credit it keeps meanwhile.
//!
//! One that brings next to nothing is late, which the engine hears; one that brings nothing at all is ended. Credit of
//! the node's that a stream holds and does not use keeps other streams waiting, so a slow one keeps as much as it brings
//! in some seconds: what it owes beyond that is bounded by its own credit alone. Called by `pull.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cobox_store::format::SLICE_BYTES;
use parking_lot::Mutex;

use super::super::STALL_WAIT;
use super::Asks;
use crate::error::{Error, Result};

/// A stream that owes something is late when it brought neither a frame nor [`LATE_BYTES`] for so long.
pub(super) const LATE_WAIT: Duration = Duration::from_secs(3);
/// See [`LATE_WAIT`]: some 10 kbit/s.
pub(super) const LATE_BYTES: u64 = 4096;
/// How often that is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// A stream is weighed by what it brought in so long,
const SHARE_WAIT: Duration = Duration::from_secs(3);
/// and keeps so many times that of the node's credit: twelve seconds' worth. At 1 MB/s that is all it may have.
const SHARE_TIMES: u64 = 4;

/// What arrived over a stream.
pub(super) struct Arrived {
    pub(super) bytes: Arc<AtomicU64>,
    pub(super) frames: AtomicU64,
}

/// Whether a stream that owes something brings it.
pub(super) struct Pace {
    /// Frames and bytes that had arrived at `moved_at`.
    pub(super) arrived: (u64, u64),
    pub(super) moved_at: Instant,
    pub(super) late: bool,
}

impl Pace {
    /// Whether the stream is late now, where that has changed.
    pub(super) fn look(&mut self, owes: bool, arrived: (u64, u64), now: Instant) -> Option<bool> {
        if !owes || arrived.0 != self.arrived.0 || arrived.1 - self.arrived.1 >= LATE_BYTES {
            (self.arrived, self.moved_at) = (arrived, now);
        }
        let late = now.duration_since(self.moved_at) > LATE_WAIT;
        (late != self.late).then(|| {
            self.late = late;
            late
        })
    }
}

/// How much of the node's credit a stream keeps.
pub(super) struct Share {
    /// Bytes that had arrived at `began`, since when it has owed something.
    pub(super) bytes: u64,
    pub(super) began: Instant,
}

impl Share {
    /// Slices that it keeps, whenever it was weighed.
    pub(super) fn look(&mut self, owes: bool, bytes: u64, now: Instant) -> Option<usize> {
        if !owes {
            (self.bytes, self.began) = (bytes, now);
            return None;
        }
        if now.duration_since(self.began) < SHARE_WAIT {
            return None;
        }
        let brought = bytes.saturating_sub(self.bytes);
        (self.bytes, self.began) = (bytes, now);
        let slices = brought.saturating_mul(SHARE_TIMES).div_ceil(SLICE_BYTES);
        Some(usize::try_from(slices).unwrap_or(usize::MAX))
    }
}

impl Asks {
    /// Leaves the node's credit beyond so many slices to other streams, that of the newest asks first: they are
    /// answered last.
    pub(super) fn keep(&mut self, slices: usize) {
        let mut numbers: Vec<u32> = self.pending.keys().copied().collect();
        // Numbers begin anew at some time; the newest is the one that is nearest behind the next.
        numbers.sort_unstable_by_key(|number| std::cmp::Reverse(self.next.wrapping_sub(*number)));
        let mut left = slices;
        for number in numbers {
            let permit = self.pending.get_mut(&number).and_then(|pending| pending.permit.as_mut());
            let Some(permit) = permit else { continue };
            let held = permit.1.as_ref().map_or(0, tokio::sync::OwnedSemaphorePermit::num_permits);
            let kept = held.min(left);
            left -= kept;
            permit.1 = permit.1.as_mut().and_then(|permit| permit.split(kept)).filter(|_| kept > 0);
        }
    }
}

/// Both, of one stream.
pub(super) struct Watch {
    pace: Pace,
    share: Share,
}

impl Watch {
    pub(super) const fn new(arrived: (u64, u64), now: Instant) -> Self {
        let pace = Pace { arrived, moved_at: now, late: false };
        Self { pace, share: Share { bytes: arrived.1, began: now } }
    }

    /// Leaves credit of the node's to others, and tells whether the stream is late now, where that has changed.
    ///
    /// # Errors
    /// When something is owed and nothing comes: then the stream is to end.
    pub(super) fn step(
        &mut self,
        asks: &mut Asks,
        arrived: (u64, u64),
        now: Instant,
    ) -> Result<Option<bool>> {
        let owes = !asks.pending.is_empty();
        if owes && asks.heard_at.is_some_and(|heard| now.duration_since(heard) > STALL_WAIT) {
            return Err(Error::Io(std::io::ErrorKind::TimedOut.into()));
        }
        let change = self.pace.look(owes, arrived, now);
        let kept = self.share.look(owes, arrived.1, now);
        if self.pace.late {
            asks.keep(0);
        } else if let Some(slices) = kept {
            asks.keep(slices);
        }
        Ok(change)
    }
}

/// Says when the stream is late; ends it when something is owed and nothing comes.
pub(super) async fn watch(
    asks: Arc<Mutex<Asks>>,
    arrived: Arc<Arrived>,
    late: Arc<dyn Fn(bool) + Send + Sync>,
) -> Result<()> {
    let count = || (arrived.frames.load(Ordering::Relaxed), arrived.bytes.load(Ordering::Relaxed));
    let mut watch = Watch::new(count(), Instant::now());
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let change = watch.step(&mut asks.lock(), count(), Instant::now())?;
        if let Some(now_late) = change {
            late(now_late);
        }
    }
}
