//! Verifies and stores what arrives of a large pack, on a thread of those that wait for the disk.
//!
//! There are few of these threads, and packs are served and proofs made on them too. So one is taken when something has
//! arrived, and given back when all of that is in the receiver: a fetch whose peer is slow, or that waits for credit, has
//! none. What arrives meanwhile waits within its credit. Called by `pull.rs`.

use std::sync::Arc;

use cobox_store::Error as StoreError;
use cobox_store::blind::{Progress, Receiver, Store};
use cobox_store::format::proof::Outboard;
use tokio::sync::mpsc::UnboundedReceiver;

use super::super::Buffers;
use super::{Job, Piece};
use crate::sync::Fetched;
use crate::wire::SLICES_OFFSET;

/// A large pack of which something is still to come.
struct Arriving {
    store: Arc<Store>,
    buffers: Buffers,
    job: Job,
    /// Where it was known before the fetch.
    outboard: Option<Outboard>,
    /// Begun with the first piece, as soon as the outboard is known.
    receiver: Option<Receiver>,
    pieces: UnboundedReceiver<Piece>,
}

/// Verifies and stores what arrives, until the pack is complete or nothing more is to come.
pub(super) async fn store_pieces(
    store: Arc<Store>,
    buffers: Buffers,
    job: Job,
    outboard: Option<Outboard>,
    pieces: UnboundedReceiver<Piece>,
) -> Fetched {
    let mut arriving = Arriving { store, buffers, job, outboard, receiver: None, pieces };
    loop {
        let first = match (arriving.pieces.recv().await, &arriving.receiver) {
            (None, None) => return Fetched::Broken,
            (Some(Piece::NotHere), None) => return Fetched::NotHere,
            (first, _) => first,
        };
        let stored = tokio::task::spawn_blocking(move || match first {
            Some(first) => arriving.take_all(first).map_or(Ok(arriving), Err),
            None => Err(arriving.end()),
        });
        match stored.await {
            Ok(Ok(more)) => arriving = more,
            Ok(Err(how)) => return how,
            Err(_) => return Fetched::Failed,
        }
    }
}

impl Arriving {
    /// Takes a piece and those that came after it; how the fetch ended, if it did.
    fn take_all(&mut self, first: Piece) -> Option<Fetched> {
        let mut next = Some(first);
        while let Some(piece) = next {
            if let Some(how) = self.take(piece) {
                return Some(how);
            }
            next = self.pieces.try_recv().ok();
        }
        None
    }

    fn take(&mut self, piece: Piece) -> Option<Fetched> {
        if let Some(outboard) = self.outboard.take()
            && let Err(how) = self.begin(outboard)
        {
            return Some(how);
        }
        match (piece, &mut self.receiver) {
            (Piece::Outboard(values), None) => match Outboard::decode(self.job.pack, &values) {
                Ok(outboard) => self.begin(outboard).err(),
                Err(_) => Some(Fetched::Lied),
            },
            (Piece::Slices { first, frame, permit }, Some(receiver)) => {
                let progress = receiver.put_slices(first, frame, SLICES_OFFSET);
                self.buffers.give(receiver.take_spent());
                drop(permit);
                match progress {
                    Ok(Progress::Done) => Some(Fetched::Done),
                    Ok(Progress::More { .. }) => None,
                    Err(error) => Some(failed(&error)),
                }
            }
            (Piece::NotHere, _) => Some(Fetched::NotHere),
            _ => Some(Fetched::Lied),
        }
    }

    fn begin(&mut self, outboard: Outboard) -> Result<(), Fetched> {
        match self.store.pack_receive(self.job.no, self.job.pack, outboard) {
            Ok(begun) => self.receiver = Some(begun),
            Err(error) => return Err(failed(&error)),
        }
        Ok(())
    }

    /// Nothing more is to come: keeps what has.
    fn end(&mut self) -> Fetched {
        match self.receiver.as_mut().map(Receiver::flush) {
            Some(Ok(Progress::Done)) => Fetched::Done,
            Some(Err(error)) => failed(&error),
            _ => Fetched::Broken,
        }
    }
}

pub(super) fn failed(error: &StoreError) -> Fetched {
    match error {
        StoreError::NoSpace | StoreError::Quota { .. } => Fetched::Full,
        StoreError::PackDamaged(_) => Fetched::Lied,
        error => {
            tracing::warn!(%error, "a pack cannot be stored");
            Fetched::Failed
        }
    }
}
