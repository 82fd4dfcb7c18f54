//! The open pack of a folder, and the packs on their way to the disk.
//!
//! Chunks are sealed before they come here, and packs are closed and stored outside the lock, in the
//! thread whose chunk did not fit any more. Everything stowed can be read at once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::epoch::EpochKeys;
use super::pack::{ClosedPack, PackBuilder, Place};
use super::seal::SealedChunk;
use crate::blind::Durability;
use crate::error::{Error, Result};
use crate::format::content::ChunkRef;
use crate::format::device::PendingRow;
use crate::id::{ChunkTag, EpochId};

/// Packs that are being closed and stored at one time: one for the disk, one for the processor.
const CLOSING_MAX: usize = 2;

/// Takes a closed pack to the disk, with its index rows.
pub(super) type Storer<'a> = &'a dyn Fn(&ClosedPack, Durability) -> Result<PendingRow>;

#[derive(Default)]
pub(super) struct Packer {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    open: Option<PackBuilder>,
    closing: Vec<Closing>,
    stored: Vec<PendingRow>,
    next: u64,
    unsynced: Sync,
    health: Health,
}

/// Whether rows of stored packs may still be in the write-ahead log's buffer.
#[derive(Default, PartialEq, Eq)]
enum Sync {
    #[default]
    Done,
    Due,
}

/// Whether a pack was lost because it did not open after it was closed.
#[derive(Default, PartialEq, Eq)]
enum Health {
    #[default]
    Good,
    Broken,
}

struct Closing {
    number: u64,
    epoch: EpochId,
    at: HashMap<ChunkTag, Place>,
    stage: Stage,
}

enum Stage {
    /// Its directory is being sealed.
    Sealing,
    /// A thread stores it.
    Storing(Arc<ClosedPack>),
    /// Storing failed; the next thread that comes tries again.
    Waiting(Arc<ClosedPack>),
}

impl Packer {
    /// Takes over the packs that an earlier run stored and no entry names.
    pub(super) fn resume(&self, stored: Vec<PendingRow>) {
        self.state.lock().stored = stored;
    }

    /// Takes a pack that was stored without having been the open one.
    pub(super) fn adopt(&self, row: PendingRow) {
        self.state.lock().stored.push(row);
    }

    /// Whether a chunk is in memory.
    pub(super) fn holds(&self, chunk: &ChunkRef) -> bool {
        self.state.lock().holds(chunk)
    }

    /// The sealed bytes of a chunk in memory.
    pub(super) fn read(&self, chunk: &ChunkRef) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        loop {
            if let Some(open) = state.open.as_ref().filter(|open| open.keys.id() == chunk.epoch)
                && let Some(place) = open.find(&chunk.tag)
            {
                return Some(open.slice(place).to_vec());
            }
            let found = state.closing.iter().find_map(|pack| pack.find(chunk).map(|place| (pack, place)));
            match found? {
                (Closing { stage: Stage::Sealing, .. }, _) => self.moved.wait(&mut state),
                (Closing { stage: Stage::Storing(pack) | Stage::Waiting(pack), .. }, place) => {
                    return Some(pack.slice(place).to_vec());
                }
            }
        }
    }

    /// Appends a chunk, and closes and stores the pack before where it is full or of another epoch.
    pub(super) fn push(&self, keys: &Arc<EpochKeys>, sealed: &SealedChunk, storer: Storer<'_>) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            if state.health == Health::Broken {
                return Err(Error::Sealed);
            }
            if state.holds(&sealed.chunk) {
                return Ok(());
            }
            let fits = |open: &PackBuilder| open.keys.id() == keys.id() && open.has_room(sealed.bytes.len());
            match state.open.as_mut() {
                Some(open) if fits(open) => {
                    open.push(sealed);
                    return Ok(());
                }
                None => state.open = Some(PackBuilder::new(keys.clone())),
                Some(_) => {
                    if state.closing.len() < CLOSING_MAX {
                        state = self.close_open(state, storer, Durability::Unsynced)?;
                    } else {
                        state = self.make_room(state, storer, Durability::Unsynced)?;
                    }
                }
            }
        }
    }

    /// Closes the open pack and returns when everything is stored and synced; `sync` is called where
    /// earlier rows may not be.
    pub(super) fn flush(&self, storer: Storer<'_>, sync: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut state = self.state.lock();
        if state.open.as_ref().is_some_and(|open| !open.is_empty()) {
            state = self.close_open(state, storer, Durability::Synced)?;
        }
        while !state.closing.is_empty() {
            state = self.make_room(state, storer, Durability::Synced)?;
        }
        if state.health == Health::Broken {
            return Err(Error::Sealed);
        }
        if state.unsynced == Sync::Due {
            state.unsynced = Sync::Done;
            drop(state);
            sync().inspect_err(|_| self.state.lock().unsynced = Sync::Due)?;
        }
        Ok(())
    }

    /// Packs that are stored and that no entry names yet.
    pub(super) fn stored(&self) -> Vec<PendingRow> {
        self.state.lock().stored.clone()
    }

    /// Entries name these packs now.
    pub(super) fn named(&self, packs: &[PendingRow]) {
        self.state.lock().stored.retain(|row| packs.iter().all(|named| named.pack.id != row.pack.id));
    }

    fn close_open<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        storer: Storer<'_>,
        durability: Durability,
    ) -> Result<MutexGuard<'a, State>> {
        let Some(mut open) = state.open.take() else { return Ok(state) };
        let number = state.next;
        state.next += 1;
        let at = open.take_places();
        state.closing.push(Closing { number, epoch: open.keys.id(), at, stage: Stage::Sealing });
        drop(state);
        let closed = open.close();
        let mut state = self.state.lock();
        match closed {
            Ok(closed) => {
                let closed = Arc::new(closed);
                state.set_stage(number, Stage::Storing(closed.clone()));
                self.moved.notify_all();
                self.store(state, number, &closed, storer, durability)
            }
            Err(error) => {
                state.health = Health::Broken;
                state.closing.retain(|pack| pack.number != number);
                self.moved.notify_all();
                Err(error)
            }
        }
    }

    /// Stores a pack that waits, or waits for one that is being stored.
    fn make_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        storer: Storer<'_>,
        durability: Durability,
    ) -> Result<MutexGuard<'a, State>> {
        let waiting = state.closing.iter().find_map(|pack| match &pack.stage {
            Stage::Waiting(closed) => Some((pack.number, closed.clone())),
            Stage::Sealing | Stage::Storing(_) => None,
        });
        let Some((number, closed)) = waiting else {
            self.moved.wait(&mut state);
            return Ok(state);
        };
        state.set_stage(number, Stage::Storing(closed.clone()));
        self.store(state, number, &closed, storer, durability)
    }

    fn store<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        number: u64,
        closed: &Arc<ClosedPack>,
        storer: Storer<'_>,
        durability: Durability,
    ) -> Result<MutexGuard<'a, State>> {
        drop(state);
        let stored = storer(closed, durability);
        let mut state = self.state.lock();
        match stored {
            Ok(row) => {
                state.closing.retain(|pack| pack.number != number);
                state.stored.push(row);
                if durability == Durability::Unsynced {
                    state.unsynced = Sync::Due;
                }
                self.moved.notify_all();
                Ok(state)
            }
            Err(error) => {
                state.set_stage(number, Stage::Waiting(closed.clone()));
                self.moved.notify_all();
                Err(error)
            }
        }
    }
}

impl State {
    fn holds(&self, chunk: &ChunkRef) -> bool {
        let open = self.open.as_ref().filter(|open| open.keys.id() == chunk.epoch);
        open.is_some_and(|open| open.find(&chunk.tag).is_some())
            || self.closing.iter().any(|pack| pack.find(chunk).is_some())
    }

    fn set_stage(&mut self, number: u64, stage: Stage) {
        if let Some(pack) = self.closing.iter_mut().find(|pack| pack.number == number) {
            pack.stage = stage;
        }
    }
}

impl Closing {
    fn find(&self, chunk: &ChunkRef) -> Option<Place> {
        if self.epoch == chunk.epoch { self.at.get(&chunk.tag).copied() } else { None }
    }
}
