//! A seeder that moves: it says where it is now, signed, and calls devices that have not come since.
//!
//! What it says goes round like the word of any device (`contacts.rs`). A seeder waits for devices to come; but one that
//! has not come since the seeder's word changed may not know the new place, and there may be nobody else to pass it on.
//! So it is called where it said last that it is (`calls.rs`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cobox_store::id::{FolderNo, LogId};

use super::calls::Calls;
use super::contacts::fitting;
use super::reach::{Source, dialable};
use super::state::Folder;
use super::unkept::{Keep, Unkept};
use super::{Conn, Engine, Identity, Side};
use crate::node::Signer;
use crate::peer_id::PeerId;
use crate::wire::{CAME_MAX, Contact, Whereabouts};

/// Addresses come one after the other when a node begins, or a cable is put in: they are said when none came for so long.
const REST: Duration = Duration::from_secs(2);
/// How often a seeder says the same places anew because it said something later once. Where two boxes run with one key,
/// each of them hears the other's word as its own, and they would answer each other without end.
const ANEW_EVERY: Duration = Duration::from_secs(60);

/// Where this node listens, and what it said of that.
#[derive(Default)]
pub(super) struct Own {
    /// Where it listens.
    pub at: Vec<Vec<u8>>,
    /// When it said so last, by its clock.
    pub said_ms: u64,
    /// What only a seeder has.
    pub seeder: Option<Word>,
}

/// A seeder's word, and whom it calls.
pub(super) struct Word {
    signer: Signer,
    /// Where it said that it is.
    said: Vec<Vec<u8>>,
    /// Addresses changed: from when on they are said, and the time of the change by our clock.
    unsaid: Option<(Instant, u64)>,
    /// Devices that dialed it where it is and has not said yet.
    early: BTreeSet<(FolderNo, LogId)>,
    pub calls: Calls,
    /// The latest word of its own that it heard, and until when it does not answer it.
    heard_ms: u64,
    quiet_until: Option<Instant>,
    /// What the program has not kept yet.
    fresh_word: bool,
    pub unkept: Unkept,
}

/// What changed since the program asked last: its own word, and what is known of each folder's devices.
pub type Moves = (Option<(Vec<Vec<u8>>, u64)>, Vec<(FolderNo, Whereabouts)>);

impl Engine {
    /// The same, of a seeder: it signs with its peer id's key where it is. `word` is what it said last.
    #[must_use]
    pub fn saying_where(mut self, signer: Signer, word: Option<(Vec<Vec<u8>>, u64)>) -> Self {
        let (said, said_ms) = word.unwrap_or_default();
        self.own.said_ms = said_ms;
        self.own.seeder = Some(Word {
            signer,
            said,
            unsaid: None,
            early: BTreeSet::new(),
            calls: Calls::default(),
            heard_ms: 0,
            quiet_until: None,
            fresh_word: false,
            unkept: Unkept::default(),
        });
        self
    }

    /// Where this node listens changed.
    pub(super) fn listening(&mut self, addresses: Vec<Vec<u8>>, now_ms: u64, now: Instant) {
        self.own.at = fitting(addresses);
        match &mut self.own.seeder {
            Some(word) => {
                word.unsaid = Some((now + REST, now_ms));
                word.early.clear();
            }
            None => self.own.said_ms = now_ms.max(self.own.said_ms.saturating_add(1)),
        }
        for no in self.folders.keys().copied().collect::<Vec<_>>() {
            self.say_where(no);
            // Which addresses are worth dialing depends on where we are.
            self.regroup(no);
        }
    }

    /// Says where this seeder is, if that changed, and calls who has not come since.
    pub(super) fn after_moving(&mut self, now: Instant) {
        let Some(word) = &mut self.own.seeder else { return };
        if let Some((_, now_ms)) = word.unsaid.take_if(|(at, _)| now >= *at) {
            let set = |list: &[Vec<u8>]| list.iter().cloned().collect::<BTreeSet<_>>();
            // One that listens nowhere for a moment is not believed to stay so.
            let moved = !self.own.at.is_empty() && set(&self.own.at) != set(&word.said);
            word.calls.begin(now);
            word.calls.look_at_all(self.folders.keys().copied());
            if moved {
                word.said.clone_from(&self.own.at);
                word.calls.move_on();
                self.say_anew(now_ms.max(self.own.said_ms.saturating_add(1)));
            }
            let Some(word) = &mut self.own.seeder else { return };
            for (no, log) in std::mem::take(&mut word.early) {
                self.note_came(no, log);
            }
        }
        let Some(word) = &mut self.own.seeder else { return };
        if word.heard_ms > self.own.said_ms && word.quiet_until.is_none_or(|until| now >= until) {
            word.quiet_until = Some(now + ANEW_EVERY);
            let said_ms = word.heard_ms.saturating_add(1);
            word.calls.look_at_all(self.folders.keys().copied());
            self.say_anew(said_ms);
        }
        self.call_who_has_not_come(now);
    }

    /// This seeder's own word from before, with a clock that was ahead, or from another copy of it: it is said again, later
    /// than that.
    pub(super) fn hear_word(&mut self, said_ms: u64) {
        if let Some(word) = &mut self.own.seeder {
            word.heard_ms = word.heard_ms.max(said_ms);
        }
    }

    /// Says where it is as of another time.
    fn say_anew(&mut self, said_ms: u64) {
        self.own.said_ms = said_ms;
        if let Some(word) = &mut self.own.seeder {
            word.fresh_word = true;
        }
        for (no, folder) in self.folders.iter_mut().filter(|(_, folder)| !folder.sessions.is_empty()) {
            folder.contacts_news = true;
            self.dirty.insert(*no);
        }
    }

    /// Signs a seeder's word for a folder, once there is somebody to tell it: a box with thousands of folders does not
    /// sign for each when a cable is put in.
    pub(super) fn say_where_as_seeder(&mut self, no: FolderNo) {
        let (me, said_ms) = (self.me, self.own.said_ms);
        let Some(word) = self.own.seeder.as_ref().filter(|word| !word.said.is_empty()) else { return };
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let log = LogId(*me.key());
        let known = folder.contacts.get(&log).is_some_and(|own| own.said_ms == said_ms);
        if known || !matches!(folder.identity, Identity::Seeder) || folder.sessions.is_empty() {
            return;
        }
        let addresses = word.said.clone();
        let mut contact = Contact { peer: me, log, said_ms, addresses, signature: [0; 64] };
        contact.signature = (word.signer)(&contact.signed_text(folder.id));
        folder.keep_own_word(contact);
    }

    /// A device opened a session: one that dialed knows a place at which this seeder is.
    pub(super) fn device_came(&mut self, conn: Conn, no: FolderNo, log: LogId) {
        let Some(connection) = self.conns.get(&conn) else { return };
        let Some(word) = &mut self.own.seeder else { return };
        if connection.side == Side::Dialer {
            // It was called, and is told where we are. If it cannot come all the same, it is called again.
            word.calls.look_at(no);
            if let Some(folder) = self.folders.get_mut(&no) {
                folder.note_answered(&log);
            }
            return;
        }
        if word.unsaid.is_some() {
            word.early.insert((no, log));
        }
        self.note_came(no, log);
    }

    fn note_came(&mut self, no: FolderNo, log: LogId) {
        let (Some(word), Some(folder)) = (&mut self.own.seeder, self.folders.get_mut(&no)) else { return };
        if folder.came.insert(log, self.own.said_ms) != Some(self.own.said_ms) {
            word.unkept.note(no);
        }
    }

    /// Something new is known of where a device is.
    pub(super) fn note_whereabouts(&mut self, no: FolderNo, log: LogId) {
        if let (Some(word), Some(folder)) = (&mut self.own.seeder, self.folders.get_mut(&no)) {
            word.unkept.note(no);
            word.calls.look_at(no);
            folder.note_said(&log);
        }
    }

    /// A folder was recalled.
    pub(super) fn look_for_devices(&mut self, no: FolderNo) {
        if let Some(word) = &mut self.own.seeder {
            word.calls.look_at(no);
        }
    }

    /// What changed and was not kept yet, for a seeder's program to keep; of many folders what it can write in a moment.
    pub fn moves(&mut self, keep: Keep, now: Instant) -> Moves {
        let Some(word) = &mut self.own.seeder else { return (None, Vec::new()) };
        let fresh_word = std::mem::take(&mut word.fresh_word).then(|| (word.said.clone(), self.own.said_ms));
        let taken = word.unkept.take(keep, now).into_iter();
        let taken: Vec<(FolderNo, Option<Whereabouts>)> =
            taken.map(|no| (no, word.unkept.take_back(no))).collect();
        let known = |(no, aside): (FolderNo, Option<Whereabouts>)| {
            let here = || self.folders.contains_key(&no).then(|| self.whereabouts(no));
            Some((no, aside.or_else(here)?))
        };
        (fresh_word, taken.into_iter().filter_map(known).collect())
    }

    /// A folder leaves the engine: what is not kept yet of its devices is kept all the same.
    pub(super) fn put_whereabouts_aside(&mut self, no: FolderNo) {
        let unkept = self.own.seeder.as_ref().is_some_and(|word| word.unkept.has(no));
        let known = unkept.then(|| self.whereabouts(no));
        if let (Some(word), Some(known)) = (&mut self.own.seeder, known) {
            word.unkept.put_aside(no, known);
        }
    }

    /// It comes back.
    pub(super) fn take_whereabouts_back(&mut self, no: FolderNo) {
        let known = self.own.seeder.as_mut().and_then(|word| word.unkept.take_back(no));
        if let Some(known) = known {
            self.recall(no, known);
        }
    }

    /// What is known of a folder's devices, for a program to keep.
    #[must_use]
    pub fn whereabouts(&self, no: FolderNo) -> Whereabouts {
        let came = self.folders.get(&no).into_iter().flat_map(|folder| &folder.came);
        let came = came.take(CAME_MAX).map(|(log, at)| (*log, *at)).collect();
        Whereabouts { contacts: self.contacts(no), came }
    }
}

impl Folder {
    /// Whether this is a seeder's own word: signed with the key of its peer id, which the access log names.
    pub(super) fn is_of_seeder(&self, contact: &Contact) -> bool {
        contact.log.0 == *contact.peer.key() && self.names_seeder(&contact.peer)
    }

    /// One that was removed is called until it knows it.
    pub(super) fn names_seeder(&self, peer: &PeerId) -> bool {
        let id = peer.to_bytes();
        self.access.seeder(&id).is_some() || self.access.revoked_seeder(&id).is_some()
    }

    /// Where a seeder is by its own word, the last one first, and then by the one before: it may have gone back.
    pub(super) fn said_by_seeder(&self, peer: &PeerId, own: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let log = LogId(*peer.key());
        let words = [self.contacts.get(&log), self.past.get(&log)];
        let mut said: Vec<Vec<u8>> = Vec::new();
        for contact in words.into_iter().flatten().filter(|contact| contact.peer == *peer) {
            for address in dialable(&contact.addresses, Source::Far, own) {
                if !said.contains(&address) {
                    said.push(address);
                }
            }
        }
        said
    }

    /// Keeps the word that a seeder's newest took the place of.
    pub(super) fn keep_past(&mut self, contact: Contact) {
        let newer = self.past.get(&contact.log).is_none_or(|known| known.said_ms < contact.said_ms);
        let differs = self.contacts.get(&contact.log).is_some_and(|now| now.addresses != contact.addresses);
        if newer && differs && self.is_of_seeder(&contact) {
            self.past.insert(contact.log, contact);
        }
    }
}
