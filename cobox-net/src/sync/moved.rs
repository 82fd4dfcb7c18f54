//! A seeder that moves: it says where it is now, signed, and calls devices that have not come since.
//!
//! What it says goes round like the word of any device (`contacts.rs`). A seeder waits for devices to come; but one that
//! has not come since the seeder's word changed may not know the new place, and there may be nobody else to pass it on.
//! So it is called where it said last that it is: a few at a time, ever more rarely, and no more after some days.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use cobox_store::id::{FolderNo, LogId};

use super::contacts::fitting;
use super::reach::{Source, dialable};
use super::state::Folder;
use super::{Conn, Engine, Identity, Side};
use crate::node::Signer;
use crate::peer_id::PeerId;
use crate::wire::{CAME_MAX, Contact, Whereabouts};

/// Addresses come one after the other when a node begins, or a cable is put in: they are said when none came for so long.
const REST: Duration = Duration::from_secs(2);
/// Devices that know the new place come by themselves in this time: the pause between two attempts is at most
/// [`super::PAUSE_MAX`], but who is told calls at once.
const FIRST_CALLS: Duration = Duration::from_secs(15);
/// How often it is looked who has not come: one look at every contact.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How often one of them is called: four in a second are nothing to a small box.
const CALL_EVERY: Duration = Duration::from_millis(250);
/// How long one is tried, over which a device answers that is there.
const CALL_FOR: Duration = Duration::from_secs(1);
/// The pause after the first call of a device; it doubles.
const CALL_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause.
const CALL_PAUSE_MAX: Duration = Duration::from_secs(6 * 60 * 60);
/// Calls of one device that end it: after about a week it is somewhere else, or off for good.
const CALLS_MAX: u32 = 40;
/// Addresses of one device that are called: what a machine has on two cards.
const CALLED_AT_MAX: usize = 8;

/// Folders of which it is said at once what changed: each is a write to the disk, and where all devices of a seeder with
/// thousands of folders come to its new place, others wait for the disk, too.
pub const MOVES_MAX: usize = 64;

/// Where this node listens, and what it said of that.
#[derive(Default)]
pub(super) struct Own {
    /// Where it listens.
    pub at: Vec<Vec<u8>>,
    /// When it said so last, by its clock.
    pub said_ms: u64,
    /// What only a seeder has.
    seeder: Option<Word>,
}

/// A seeder's word, and whom it calls.
struct Word {
    signer: Signer,
    /// Where it said that it is.
    said: Vec<Vec<u8>>,
    /// Addresses changed: from when on they are said, and the time of the change by our clock.
    unsaid: Option<(Instant, u64)>,
    /// Devices that dialed it where it is and has not said yet.
    early: BTreeSet<(FolderNo, LogId)>,
    next_look: Option<Instant>,
    next_call: Option<Instant>,
    calls: BTreeMap<PeerId, Call>,
    queue: VecDeque<(PeerId, Vec<Vec<u8>>)>,
    /// What the program has not kept yet.
    fresh_word: bool,
    fresh: BTreeSet<FolderNo>,
}

/// A device that has not come.
#[derive(Clone, Copy, Default)]
struct Call {
    called: u32,
    at: Option<Instant>,
}

/// What changed since the program asked last: its own word, and what is known of each folder's devices.
pub type Moves = (Option<(Vec<Vec<u8>>, u64)>, Vec<(FolderNo, Whereabouts)>);

impl Call {
    fn is_due(&self, now: Instant) -> bool {
        let pause = CALL_PAUSE.saturating_mul(1 << self.called.saturating_sub(1).min(16)).min(CALL_PAUSE_MAX);
        self.called < CALLS_MAX && self.at.is_none_or(|at| now >= at + pause)
    }
}

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
            next_look: None,
            next_call: None,
            calls: BTreeMap::new(),
            queue: VecDeque::new(),
            fresh_word: false,
            fresh: BTreeSet::new(),
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
            if !self.own.at.is_empty() && set(&self.own.at) != set(&word.said) {
                word.said.clone_from(&self.own.at);
                self.say_anew(now_ms.max(self.own.said_ms.saturating_add(1)));
            }
            let Some(word) = &mut self.own.seeder else { return };
            word.next_look = Some(now + FIRST_CALLS);
            for (no, log) in std::mem::take(&mut word.early) {
                self.note_came(no, log);
            }
        }
        self.call_who_has_not_come(now);
    }

    /// Says the same places as of another time.
    pub(super) fn say_anew(&mut self, said_ms: u64) {
        self.own.said_ms = said_ms;
        if let Some(word) = &mut self.own.seeder {
            word.fresh_word = true;
            word.calls.clear();
            word.queue.clear();
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
            if let Some(call) = word.calls.get_mut(&connection.peer) {
                call.called = 1;
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
            word.fresh.insert(no);
        }
    }

    /// Something new is known of where devices are.
    pub(super) fn note_whereabouts(&mut self, no: FolderNo, peer: PeerId) {
        if let Some(word) = &mut self.own.seeder {
            word.fresh.insert(no);
            // It may be somewhere else now. The last call still counts, so that it is not called without end.
            if let Some(call) = word.calls.get_mut(&peer) {
                call.called = call.called.min(1);
            }
        }
    }

    /// What changed since the last call, for a seeder's program to keep; of many folders what it can write in a moment.
    pub fn moves(&mut self) -> Moves {
        let Some(word) = &mut self.own.seeder else { return (None, Vec::new()) };
        let fresh_word = std::mem::take(&mut word.fresh_word).then(|| (word.said.clone(), self.own.said_ms));
        let fresh: Vec<FolderNo> = std::iter::from_fn(|| word.fresh.pop_first()).take(MOVES_MAX).collect();
        (fresh_word, fresh.into_iter().map(|no| (no, self.whereabouts(no))).collect())
    }

    /// What is known of a folder's devices, for a program to keep.
    #[must_use]
    pub fn whereabouts(&self, no: FolderNo) -> Whereabouts {
        let came = self.folders.get(&no).into_iter().flat_map(|folder| &folder.came);
        let came = came.take(CAME_MAX).map(|(log, at)| (*log, *at)).collect();
        Whereabouts { contacts: self.contacts(no), came }
    }

    fn call_who_has_not_come(&mut self, now: Instant) {
        let (Some(word), said_ms) = (&mut self.own.seeder, self.own.said_ms) else { return };
        if word.next_look.is_some_and(|at| now >= at) && said_ms != 0 {
            word.next_look = Some(now + LOOK_EVERY);
            let here: BTreeSet<PeerId> = self.conns.values().map(|connection| connection.peer).collect();
            let mut missing: BTreeMap<PeerId, Vec<Vec<u8>>> = BTreeMap::new();
            for contact in self.folders.values().flat_map(|folder| folder.not_come(said_ms)) {
                let of = missing.entry(contact.peer).or_default();
                of.extend(dialable(&contact.addresses, Source::Far, &self.own.at));
            }
            missing.retain(|peer, of| {
                of.truncate(CALLED_AT_MAX);
                *peer != self.me && !here.contains(peer) && !of.is_empty()
            });
            // What is remembered of who is there stays: one that hangs up at once is not called again at once.
            word.calls.retain(|peer, _| missing.contains_key(peer) || here.contains(peer));
            let calls = &mut word.calls;
            word.queue =
                missing.into_iter().filter(|(peer, _)| calls.entry(*peer).or_default().is_due(now)).collect();
        }
        if word.next_call.is_some_and(|at| now < at) {
            return;
        }
        if let Some((peer, addresses)) = word.queue.pop_front() {
            word.next_call = Some(now + CALL_EVERY);
            let call = word.calls.entry(peer).or_default();
            (call.called, call.at) = (call.called + 1, Some(now));
            self.dialer.once(peer, addresses, now + CALL_FOR);
        }
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

    /// Devices that have not dialed this seeder since it said where it is, where they said that they are.
    fn not_come(&self, said_ms: u64) -> impl Iterator<Item = &Contact> {
        let seeder = matches!(self.identity, Identity::Seeder);
        self.contacts.values().filter(move |contact| {
            seeder
                && self.came.get(&contact.log) != Some(&said_ms)
                && self.access.devices.contains_key(&contact.log)
        })
    }
}
