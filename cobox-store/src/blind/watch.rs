//! Wake-ups between those who share a store: "folder F changed, look again".
//!
//! Level-triggered: a waiter re-reads the store, so losing or merging wake-ups is harmless. It carries
//! no data and knows no order.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::id::FolderNo;

type Subscriber = Box<dyn Fn(FolderNo) + Send + Sync>;

/// A counter that grows with every change, and those who want to hear of it.
#[derive(Default)]
pub struct Watch {
    changes: Mutex<u64>,
    changed: Condvar,
    subscribers: Mutex<Vec<std::sync::Arc<Subscriber>>>,
}

impl Watch {
    /// Says that `no` changed: wakes all waiters and calls all subscribers in this thread.
    pub fn bump(&self, no: FolderNo) {
        *self.changes.lock() += 1;
        self.changed.notify_all();
        // Called outside the lock, so that a subscriber may bump or subscribe itself.
        let subscribers = self.subscribers.lock().clone();
        for subscriber in subscribers {
            subscriber(no);
        }
    }

    /// The number to hand to [`Self::wait`]; read it before reading the store.
    #[must_use]
    pub fn seen(&self) -> u64 {
        *self.changes.lock()
    }

    /// Waits until something changed since `seen`, or `timeout`; returns what [`Self::seen`] would.
    #[must_use]
    pub fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let deadline = Instant::now() + timeout;
        let mut changes = self.changes.lock();
        while *changes == seen {
            if self.changed.wait_until(&mut changes, deadline).timed_out() {
                break;
            }
        }
        *changes
    }

    /// Calls `subscriber` after every change, in the thread that made it: it must only pass the word on.
    pub fn subscribe(&self, subscriber: Box<dyn Fn(FolderNo) + Send + Sync>) {
        self.subscribers.lock().push(std::sync::Arc::new(subscriber));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn wait_after_a_change_returns_at_once() {
        let watch = Watch::default();
        let seen = watch.seen();
        watch.bump(FolderNo(1));
        assert_ne!(watch.wait(seen, Duration::from_secs(60)), seen);
    }

    #[test]
    fn wait_without_a_change_times_out() {
        let watch = Watch::default();
        assert_eq!(watch.wait(0, Duration::from_millis(1)), 0);
    }

    #[test]
    fn change_in_another_thread_wakes_waiters_and_subscribers() {
        let watch = Arc::new(Watch::default());
        let heard = Arc::new(AtomicU32::new(0));
        let inner = Arc::clone(&heard);
        watch.subscribe(Box::new(move |no| inner.store(no.0, Ordering::SeqCst)));
        let seen = watch.seen();
        let bumper = Arc::clone(&watch);
        let thread = std::thread::spawn(move || bumper.bump(FolderNo(7)));
        assert_ne!(watch.wait(seen, Duration::from_secs(60)), seen);
        thread.join().expect("joins");
        assert_eq!(heard.load(Ordering::SeqCst), 7);
    }
}
