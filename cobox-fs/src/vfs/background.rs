//! The threads behind a mount: one cuts, one seals what streams in, one applies what other devices sent,
//! two open chunks before they are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Cut, Link, Permission, Vfs, ahead};

/// Quiet time after which a cut follows, with a peer connected.
const IDLE: Duration = Duration::from_millis(50);
/// Longest wait after the first op, with a peer connected.
const CONNECTED_MAX: Duration = Duration::from_millis(200);
/// Wait after the first op without a peer.
const OFFLINE_MAX: Duration = Duration::from_secs(60);
/// Groups that a cut does not wait to grow beyond: one entry's worth.
const GROUPS_FULL: u64 = 4096;
/// Bytes of pending ops that a cut does not wait to grow beyond: a quarter of an entry's body.
const BYTES_FULL: u64 = 256 * 1024;
/// Bytes of the journal that a cut does not wait to grow beyond: then writers do not come to the bound of
/// what waits in memory, and what is copied into a mount takes its room twice only so far.
const JOURNAL_FULL_BYTES: u64 = super::DIRTY_BYTES_MAX / 2;
/// Without a peer nobody waits for an entry: then this many times as much gathers, and what is made and
/// removed meanwhile is never sealed.
const OFFLINE_TIMES: u64 = 4;
/// Priority of the thread that cuts (`nice(2)`): programs that wait for an answer go first, and it still
/// gets a quarter of a processor that is busy, so its lag is bounded.
const CUT_NICENESS: i32 = 5;
/// How often files that stay open are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Wait after a cut that failed, for example on a full disk.
const RETRY: Duration = Duration::from_secs(1);
/// A wake-up of the store that was lost is made up for after this.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);

/// Tells the cutter that there is work.
#[derive(Default)]
pub struct Wake {
    state: Mutex<WakeState>,
    changed: Condvar,
}

#[derive(Default)]
struct WakeState {
    first: Option<Instant>,
    last: Option<Instant>,
    asleep: bool,
}

impl Wake {
    /// An op was made.
    pub fn note_op(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.first.get_or_insert(now);
        state.last = Some(now);
        if state.asleep {
            self.changed.notify_all();
        }
    }

    /// A file was closed, so its content can be taken.
    pub fn note_close(&self) {
        self.note_op();
    }
}

/// The threads that cut, seal, catch up and read ahead; they end when this is dropped.
pub struct Background {
    stop: Arc<AtomicBool>,
    vfs: Arc<Vfs>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        {
            let _state = self.vfs.wake.state.lock();
            self.vfs.wake.changed.notify_all();
        }
        self.vfs.streamer.wake();
        self.vfs.ahead.wake();
        self.vfs.folder().store().watch().bump(self.vfs.folder().no());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the mount panicked");
            }
        }
    }
}

impl Vfs {
    /// Starts the cutter, the thread that seals, the catch-up thread and those that read ahead.
    pub fn start_background(self: &Arc<Self>) -> Background {
        let stop = Arc::new(AtomicBool::new(false));
        let loops: [(&str, fn(&Self, &AtomicBool)); 3] =
            [("cut", Self::cut_loop), ("stream", Self::stream_loop), ("catch-up", Self::catch_up_loop)];
        let ahead: (&str, fn(&Self, &AtomicBool)) = ("ahead", Self::ahead_loop);
        let threads = loops
            .into_iter()
            .chain(std::iter::repeat_n(ahead, ahead::THREADS))
            .filter_map(|(name, run)| {
                let (vfs, stop) = (Arc::clone(self), Arc::clone(&stop));
                let started =
                    std::thread::Builder::new().name(format!("cobox-{name}")).spawn(move || run(&vfs, &stop));
                started
                    .map_err(|error| tracing::error!(%error, name, "a thread of the mount does not start"))
                    .ok()
            })
            .collect();
        Background { stop, vfs: Arc::clone(self), threads }
    }

    /// Says whether a peer of the folder is connected.
    pub fn set_connected(&self, link: Link) {
        self.connected.store(link == Link::Up, Ordering::Relaxed);
        let _state = self.wake.state.lock();
        self.wake.changed.notify_all();
    }

    /// Says what the device may do now; without the right to write every change is refused with `EROFS`, also
    /// through files that are open. What was written before and is in no entry stays on this device.
    pub fn set_permission(&self, permission: Permission) {
        self.forbidden.store(permission == Permission::Read, Ordering::Relaxed);
    }

    /// Whether every change is refused.
    pub(super) fn is_read_only(&self) -> bool {
        self.options.read_only
            || self.forbidden.load(Ordering::Relaxed)
            || self.behind.load(Ordering::Relaxed)
    }

    fn cut_loop(&self, stop: &AtomicBool) {
        // On Linux this is the calling thread's; where it is refused, it cuts as fast as all others work.
        let _ = rustix::process::nice(CUT_NICENESS);
        while !stop.load(Ordering::SeqCst) {
            let Some(why) = self.await_work(stop) else { continue };
            if let Err(errno) = self.cut(why) {
                tracing::warn!(errno = errno.0, "a cut failed and will be tried again");
                let mut state = self.wake.state.lock();
                state.first = Some(Instant::now());
                if !stop.load(Ordering::SeqCst) {
                    self.wake.changed.wait_for(&mut state, RETRY);
                }
            }
        }
    }

    /// Waits for something to cut; `None` when it was woken for nothing.
    fn await_work(&self, stop: &AtomicBool) -> Option<Cut> {
        let mut state = self.wake.state.lock();
        let now = Instant::now();
        let times = if self.connected.load(Ordering::Relaxed) { 1 } else { OFFLINE_TIMES };
        let full = self.pending_groups.load(Ordering::Relaxed) >= GROUPS_FULL * times
            || self.pending_bytes.load(Ordering::Relaxed) >= BYTES_FULL * times
            || self.journaled_bytes.load(Ordering::Relaxed) >= JOURNAL_FULL_BYTES;
        let due = match (state.first, state.last) {
            (Some(first), Some(last)) if self.connected.load(Ordering::Relaxed) => {
                Some((last + IDLE).min(first + CONNECTED_MAX))
            }
            (Some(first), _) => Some(first + OFFLINE_MAX),
            (None, _) => None,
        };
        let reason = match due {
            _ if full && state.first.is_some() => Some(Cut::Full),
            Some(due) if due <= now => Some(Cut::Idle),
            _ => None,
        };
        if reason.is_some() {
            // Open files that are dirty keep the timer going.
            let open_dirty = self.files.lock().values().any(|file| file.inner().is_dirty());
            state.first = open_dirty.then_some(now);
            state.last = open_dirty.then_some(now + LOOK);
            return reason;
        }
        if stop.load(Ordering::SeqCst) {
            return None;
        }
        let wait = due.map_or(LOOK, |due| due.saturating_duration_since(now).min(LOOK));
        // While a timer runs, ops need not wake this thread: it looks by itself, and soon enough for a
        // backlog that is full. To be woken by every op would cost each a switch of threads.
        state.asleep = state.first.is_none();
        self.wake.changed.wait_for(&mut state, wait.max(Duration::from_millis(1)));
        state.asleep = false;
        if state.first.is_none() && self.has_dirty() {
            state.first = Some(now);
            state.last = Some(now);
        }
        None
    }

    fn has_dirty(&self) -> bool {
        self.pending_groups.load(Ordering::Relaxed) > 0
            || self.files.lock().values().any(|file| file.inner().is_dirty())
    }

    fn catch_up_loop(&self, stop: &AtomicBool) {
        let watch = self.folder().store().watch();
        let mut seen = watch.seen();
        while !stop.load(Ordering::SeqCst) {
            let mut touched = self.catch_up().unwrap_or_else(|errno| {
                tracing::warn!(errno = errno.0, "entries could not be applied");
                Vec::new()
            });
            touched.append(&mut self.told.take_later());
            touched.extend(self.take_renamed().unwrap_or_else(|error| {
                tracing::warn!(%error, "names of versions may be shown as they were");
                Vec::new()
            }));
            self.tell(touched);
            self.tell_again();
            seen = watch.wait(seen, CATCH_UP_MAX);
        }
    }
}
