//! What the kernel is told to forget, and what it may have read meanwhile.
//!
//! The kernel keeps names, attributes, pages and listings until it hears of a change. A listing is put together from
//! answers to a program that holds the directory open: an answer that was made before a change may be taken in after
//! the kernel was told of that. So whoever had it open then may have left an old listing, and the kernel is told again
//! a moment later, and when the last of them closes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cobox_store::Error;
use cobox_store::id::Ino;
use parking_lot::{Mutex, RwLock};

use super::{Errno, Invalidate, Notifier, Vfs};
use crate::tree::row::Note;
use crate::tree::{Touched, names};

/// When the kernel is told again of a directory that is being listed: long after any answer was taken in that was
/// on its way, but by a program that gets no processor.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether a listing may lack a change that the kernel was told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outdated {
    /// It does not.
    No,
    /// It was open when the kernel was told.
    Perhaps,
}

/// Programs that have a directory open.
struct Listings {
    open: usize,
    /// When the kernel was told last, in the order of [`Told::moment`].
    told: u64,
    /// When the kernel is told again.
    again: Option<Instant>,
}

/// The kernel's knowledge of a mount.
#[derive(Default)]
pub struct Told {
    notifier: RwLock<Option<Arc<Notifier>>>,
    /// Open directories under their numbers.
    listings: Mutex<HashMap<u64, Listings>>,
    /// Counts the times that the kernel was told of something.
    moment: AtomicU64,
    /// What decides how devices are called, when the kernel was told of that last.
    labels: Mutex<Option<[u8; 32]>>,
    /// What the catch-up thread tells the kernel next.
    later: Mutex<Vec<Invalidate>>,
}

impl Told {
    /// Sets who tells the kernel.
    pub fn set_notifier(&self, notifier: Notifier) {
        *self.notifier.write() = Some(Arc::new(notifier));
    }

    /// Notes that a directory was opened; says when.
    pub fn open_listing(&self, number: u64) -> u64 {
        let none = Listings { open: 0, told: 0, again: None };
        let mut listings = self.listings.lock();
        listings.entry(number).or_insert(none).open += 1;
        self.moment.load(Ordering::Relaxed)
    }

    /// Notes that a directory was closed by one of those that had it open, since `opened`.
    pub fn close_listing(&self, number: u64, opened: u64) -> Outdated {
        let mut all = self.listings.lock();
        let Entry::Occupied(mut listings) = all.entry(number) else { return Outdated::No };
        let outdated = if listings.get().told > opened { Outdated::Perhaps } else { Outdated::No };
        listings.get_mut().open -= 1;
        if listings.get().open == 0 {
            listings.remove();
        }
        outdated
    }

    /// What [`Vfs::tell_later`] was given.
    pub fn take_later(&self) -> Vec<Invalidate> {
        std::mem::take(&mut *self.later.lock())
    }

    /// What the kernel is to be told again by now.
    fn take_again(&self) -> Vec<Invalidate> {
        let now = Instant::now();
        let mut listings = self.listings.lock();
        let due = listings.iter_mut().filter(|(_, open)| open.again.is_some_and(|again| again <= now));
        due.map(|(number, open)| {
            open.again = None;
            Invalidate::Node(*number)
        })
        .collect()
    }

    /// Notes which of these may be missed by those that have a directory open.
    fn note_listings(&self, changes: &[Invalidate]) {
        let mut listings = self.listings.lock();
        if listings.is_empty() {
            return;
        }
        // Under the lock: who opens it from here on has not opened it before.
        let moment = self.moment.fetch_add(1, Ordering::Relaxed) + 1;
        let from = Instant::now() + AGAIN;
        for change in changes {
            let Invalidate::Node(number) = change else { continue };
            if let Some(open) = listings.get_mut(number) {
                open.told = moment;
                open.again = Some(from);
            }
        }
    }
}

impl Vfs {
    /// Tells the kernel, which must not be waiting for the caller.
    pub(super) fn tell(&self, changes: Vec<Invalidate>) {
        self.told.note_listings(&changes);
        self.notify(changes);
    }

    /// Tells the kernel once more what it may have missed.
    pub(super) fn tell_again(&self) {
        self.notify(self.told.take_again());
    }

    fn notify(&self, changes: Vec<Invalidate>) {
        let notifier = self.told.notifier.read().clone();
        if let Some(notify) = notifier.filter(|_| !changes.is_empty()) {
            notify(changes);
        }
    }

    /// Has the catch-up thread tell the kernel: from within a call that could wait for itself.
    pub(super) fn tell_later(&self, changes: impl IntoIterator<Item = Invalidate>) {
        let mut later = self.told.later.lock();
        let before = later.len();
        later.extend(changes);
        if later.len() > before {
            self.folder.store().watch().bump(self.folder.no());
        }
    }

    /// Passes on how the rest of a call went whose change is made already: where it failed, the kernel takes it that nothing
    /// has changed.
    pub(super) fn tell_failed<T>(
        &self,
        parent: Ino,
        name: &[u8],
        rest: Result<T, Errno>,
    ) -> Result<T, Errno> {
        rest.inspect_err(|_| {
            let name = Touched::Name { parent, name: name.to_vec() };
            self.tell_later([Invalidate::Node(names::number(&parent)), Self::invalidation(name)]);
        })
    }

    /// Listings that name versions after devices, where those may be called otherwise than they were when the kernel read
    /// them.
    pub(super) fn take_renamed(&self) -> Result<Vec<Invalidate>, Error> {
        let state = self.folder.labels_state()?;
        let before = self.told.labels.lock().replace(state);
        if before.is_none_or(|before| before == state) {
            return Ok(Vec::new());
        }
        let notes = self.rows.notes(super::conflicts::NOTES_MAX)?;
        let parents = notes.into_iter().filter_map(|note| match note {
            Note::Slot(parent, _) => Some(parent),
            _ => None,
        });
        let parents: BTreeSet<Ino> = parents.collect();
        Ok(parents.iter().map(|parent| Invalidate::Node(names::number(parent))).collect())
    }

    /// Tells the kernel what a call changed in other directories than it knows: versions of a file show under all its
    /// names, and a directory that was removed elsewhere comes and goes with what is in it.
    pub(super) fn tell_beyond(&self, known: &[Ino], touched: Vec<Touched>) {
        let beyond: Vec<Invalidate> = touched
            .into_iter()
            .filter(|what| matches!(what, Touched::Name { parent, .. } if !known.contains(parent)))
            .flat_map(|what| {
                let parent = if let Touched::Name { parent, .. } = &what { *parent } else { Ino::ROOT };
                [Invalidate::Node(names::number(&parent)), Self::invalidation(what)]
            })
            .collect();
        if !beyond.is_empty() {
            self.tell_later(beyond);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: u64 = 77;

    #[test]
    fn listing_that_was_open_when_the_kernel_was_told_is_told_again_and_at_its_end() {
        let told = Told::default();
        let opened = told.open_listing(DIR);
        told.note_listings(&[Invalidate::Node(DIR + 1)]);
        assert!(told.take_again().is_empty(), "another directory");
        told.note_listings(&[Invalidate::Node(DIR)]);
        assert!(told.take_again().is_empty(), "not yet");
        told.listings.lock().get_mut(&DIR).expect("open").again = Some(Instant::now());
        assert_eq!(told.take_again(), [Invalidate::Node(DIR)]);
        assert!(told.take_again().is_empty(), "once");
        assert_eq!(told.close_listing(DIR, opened), Outdated::Perhaps);
    }

    #[test]
    fn listing_opened_after_the_kernel_was_told_is_not_outdated() {
        let told = Told::default();
        let first = told.open_listing(DIR);
        told.note_listings(&[Invalidate::Node(DIR)]);
        let second = told.open_listing(DIR);
        assert_eq!(
            told.close_listing(DIR, second),
            Outdated::No,
            "although another one has it open since before"
        );
        assert_eq!(told.close_listing(DIR, first), Outdated::Perhaps);
        let third = told.open_listing(DIR);
        assert_eq!(told.close_listing(DIR, third), Outdated::No);
        assert_eq!(told.close_listing(DIR, third), Outdated::No, "nobody has it open");
        assert!(told.listings.lock().is_empty());
    }
}
