//! Memory that slow peers hold, shared so that whoever holds much of it keeps nobody else waiting.
//!
//! A frame that arrives takes room before its bytes come, and so does an answer before it is sent: both may take as
//! long as the peer's line. Who is slow on purpose, on many connections at once, would hold all of it. So one person
//! has room for two of the largest frames, a folder for eight, and there are 32. Called by `control.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use cobox_store::id::FolderNo;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire::FRAME_BYTES_MAX;

const FRAME_KIB: usize = FRAME_BYTES_MAX / 1024;
/// KiB of all frames that arrive, and of all answers that wait to be sent: four folders whose members are slow on
/// purpose leave nothing to others, and no fewer.
pub const ROOM_KIB: usize = 32 * FRAME_KIB;
/// KiB that one folder may hold.
const FOLDER_KIB: usize = 8 * FRAME_KIB;
/// KiB that one person may hold in one folder: two of the largest frames, for two devices, or for a connection and
/// the one that takes its place.
const PARTY_KIB: usize = 2 * FRAME_KIB;

/// Whose a session is: a member's, by the recovery key, or a seeder's, by its peer id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Party {
    /// In this folder.
    pub folder: FolderNo,
    /// What names it there, hashed.
    pub who: Name,
}

/// Hash of a member's recovery key, or of a seeder's peer id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(pub [u8; 32]);

/// KiB, lent to parties.
#[derive(Clone)]
pub struct Room(Arc<Shared>);

struct Shared {
    lent: Mutex<Lent>,
    freed: Notify,
}

struct Lent {
    free: usize,
    folders: HashMap<FolderNo, usize>,
    parties: HashMap<Party, usize>,
}

/// Room that is held until this is dropped.
pub struct Held {
    room: Room,
    party: Party,
    kib: usize,
}

impl Lent {
    fn take(&mut self, party: Party, kib: usize) -> bool {
        let of = |held: Option<&usize>| held.copied().unwrap_or(0);
        let (folder, own) = (of(self.folders.get(&party.folder)), of(self.parties.get(&party)));
        if kib > self.free || folder + kib > FOLDER_KIB || own + kib > PARTY_KIB {
            return false;
        }
        self.free -= kib;
        *self.folders.entry(party.folder).or_default() += kib;
        *self.parties.entry(party).or_default() += kib;
        true
    }

    fn give(&mut self, party: Party, kib: usize) {
        self.free += kib;
        if let Some(held) = self.folders.get_mut(&party.folder) {
            *held -= kib;
        }
        if let Some(held) = self.parties.get_mut(&party) {
            *held -= kib;
        }
        self.folders.retain(|_, held| *held > 0);
        self.parties.retain(|_, held| *held > 0);
    }
}

impl Room {
    /// So much room for all.
    pub fn new(kib: usize) -> Self {
        let lent = Lent { free: kib, folders: HashMap::new(), parties: HashMap::new() };
        Self(Arc::new(Shared { lent: Mutex::new(lent), freed: Notify::new() }))
    }

    /// Waits until one of `parties` may hold so much; of none if there are none.
    pub async fn take(&self, parties: &[Party], kib: usize) -> Option<Held> {
        if parties.is_empty() {
            return None;
        }
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            // From here on nothing that is given back is missed.
            freed.as_mut().enable();
            if let Some(held) = self.try_take(parties, kib) {
                return Some(held);
            }
            freed.await;
        }
    }

    fn try_take(&self, parties: &[Party], kib: usize) -> Option<Held> {
        let mut lent = self.0.lent.lock();
        let party = parties.iter().copied().find(|party| lent.take(*party, kib))?;
        Some(Held { room: self.clone(), party, kib })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.0.lent.lock().give(self.party, self.kib);
        self.room.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(folder: u32, who: u8) -> Party {
        Party { folder: FolderNo(folder), who: Name([who; 32]) }
    }

    fn fill(room: &Room, folder: u32, persons: u8) -> Vec<Held> {
        let tries = (0..persons).flat_map(|who| (0..4).map(move |_| party(folder, who)));
        tries.filter_map(|party| room.try_take(&[party], FRAME_KIB)).collect()
    }

    #[test]
    fn person_holds_two_frames_and_a_folder_eight() {
        let room = Room::new(ROOM_KIB);
        let one = fill(&room, 1, 1);
        assert_eq!(one.len(), 2);
        let others = fill(&room, 1, 100);
        assert_eq!(one.len() + others.len(), 8);
        let second = fill(&room, 2, 100);
        assert_eq!(second.len(), 8);
        assert_eq!(room.0.lent.lock().free, 16 * FRAME_KIB, "for others");
    }

    #[test]
    fn what_is_given_back_can_be_held_again_by_anybody() {
        let room = Room::new(4 * FRAME_KIB);
        for folder in 0..1000 {
            drop(fill(&room, folder, 2));
        }
        let lent = room.0.lent.lock();
        assert_eq!((lent.free, lent.folders.len(), lent.parties.len()), (4 * FRAME_KIB, 0, 0));
    }

    #[test]
    fn who_waits_goes_on_when_room_is_given_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
        runtime.block_on(async {
            let room = Room::new(2 * FRAME_KIB);
            let held = fill(&room, 1, 9);
            assert!(!held.is_empty());
            let all = [party(2, 7), party(2, 8)];
            let waiting = room.take(&all, FRAME_KIB);
            tokio::pin!(waiting);
            assert!(futures::poll!(waiting.as_mut()).is_pending());
            drop(held);
            assert!(waiting.await.is_some());
        });
    }
}
