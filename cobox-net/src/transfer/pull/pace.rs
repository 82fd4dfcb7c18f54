//! Whether a stream brings what it owes, and how much of the node's credit it keeps meanwhile.
//!
//! One that brings next to nothing is late, which the engine hears; one that brings nothing at all is ended. Credit of
//! the node's that a stream holds and does not use keeps other streams waiting, so a slow one keeps as much as it brings
//! in some seconds. What it owes beyond that is bounded by its own credit, and finds the node's when it arrives: many
//! slow streams that bring all they owe at one moment would else fill the memory.
//!
//! What arrived waits for all of its credit in one go, and a stream that waits holds none: not in part, and not of its
//! other asks. So asks and frames stand in one line, and who is first in it is served by those that do not wait, each of
//! which stores what it has, brings what it owes, or is trimmed here. Called by `pull.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cobox_store::format::SLICE_BYTES;
use cobox_store::format::proof::slice_count;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::STALL_WAIT;
use super::Asks;
use crate::error::{Error, Result};
use crate::wire::{BulkFrame, decode_bulk};

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
        let mut left = slices;
        for number in self.oldest_first() {
            let permit = self.pending.get_mut(&number).and_then(|pending| pending.permit.as_mut());
            let Some(permit) = permit else { continue };
            let held = permit.1.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let kept = held.min(left);
            left -= kept;
            permit.1 = permit.1.as_mut().and_then(|permit| permit.split(kept)).filter(|_| kept > 0);
        }
    }

    /// Numbers begin anew at some time; the newest is the one that is nearest behind the next.
    pub(super) fn oldest_first(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.pending.keys().copied().collect();
        numbers.sort_unstable_by_key(|number| std::cmp::Reverse(self.next.wrapping_sub(*number)));
        numbers
    }

    /// The ask that a frame answers with slices that somebody takes, and how many. Of a fetch that was let go nothing is
    /// kept, and what was not asked for ends the stream.
    fn arriving(&self, frame: &[u8]) -> Option<(u32, u32)> {
        let BulkFrame::Slices { ask, bytes, .. } = decode_bulk(frame).ok()? else { return None };
        self.pending.get(&ask)?.pieces.as_ref()?;
        Some((ask, u32::try_from(slice_count(bytes.len() as u64)).ok()?))
    }

    /// Takes the node's credit for slices that arrived out of that of their ask, and of newer asks of the stream where it
    /// has less. Where all of them have less, it is given back: who waits for credit holds none that others wait for.
    fn draw(&mut self, ask: u32, slices: u32) -> Option<OwnedSemaphorePermit> {
        let mut drawn = Drawn { credit: None, lacks: usize::try_from(slices).ok()? };
        self.draw_from(ask, &mut drawn);
        if drawn.lacks > 0 {
            let newest_first = self.oldest_first().into_iter().rev();
            newest_first.for_each(|number| self.draw_from(number, &mut drawn));
        }
        drawn.credit.filter(|_| drawn.lacks == 0)
    }

    fn draw_from(&mut self, ask: u32, drawn: &mut Drawn) {
        let permit = self.pending.get_mut(&ask).and_then(|pending| pending.permit.as_mut());
        let Some(of_node) = permit.and_then(|permit| permit.1.as_mut()) else { return };
        let share = of_node.num_permits().min(drawn.lacks);
        let Some(part) = of_node.split(share).filter(|_| share > 0) else { return };
        drawn.lacks -= share;
        match &mut drawn.credit {
            Some(credit) => credit.merge(part),
            None => drawn.credit = Some(part),
        }
    }
}

/// Credit of the node's for what arrived, and for how many slices it is short.
struct Drawn {
    credit: Option<OwnedSemaphorePermit>,
    lacks: usize,
}

/// Waits until the node has credit for what a frame brings.
///
/// # Errors
/// When the node ends.
pub(super) async fn credit_for(
    asks: &Mutex<Asks>,
    node: &Arc<Semaphore>,
    frame: &[u8],
) -> Result<Option<OwnedSemaphorePermit>> {
    let (ask, slices, more) = {
        let mut asks = asks.lock();
        let Some((ask, slices)) = asks.arriving(frame) else { return Ok(None) };
        let drawn = asks.draw(ask, slices);
        if drawn.is_some() {
            return Ok(drawn);
        }
        asks.waits = true;
        (ask, slices, Arc::clone(&asks.more))
    };
    let in_line = Arc::clone(node).acquire_many_owned(slices);
    tokio::pin!(in_line);
    let credit = loop {
        tokio::select! {
            credit = &mut in_line => break credit.map_err(|_| Error::ShutDown)?,
            // The stream asked for more, and got credit that stood before this in line: its answer comes after this. What
            // is too little goes to who is first in line, and this keeps its place.
            () = more.notified() => {
                let drawn = asks.lock().draw(ask, slices);
                if let Some(credit) = drawn {
                    break credit;
                }
            }
        }
    };
    let mut asks = asks.lock();
    // In one go: what was owed meanwhile was owed by this node.
    (asks.waits, asks.heard_at) = (false, Some(Instant::now()));
    Ok(Some(credit))
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
        let owes = !asks.pending.is_empty() && !asks.waits;
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
