//! Whom a seeder calls that moved: devices that dialed it before, and have not since it said where it is now.
//!
//! Where they are is their own word, which may be anything. So a call is made to what one device said, at few addresses,
//! ever more rarely, and no more after some days; folders have their turns one after the other, and of a folder's
//! devices the one that was called least is next: who makes up devices delays nobody else's call by more than its turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use cobox_store::id::{FolderNo, LogId, hash};

use super::reach::{Source, dialable};
use super::state::Folder;
use super::{Dialer, Engine, Identity};
use crate::peer_id::PeerId;
use crate::wire::Contact;

/// Devices that know the new place come by themselves in this time: the pause between two attempts is at most
/// [`super::PAUSE_MAX`], but who is told calls at once.
const FIRST_CALLS: Duration = Duration::from_secs(15);
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
/// A device that says something new may be somewhere else, and its pauses begin anew; but not more often, since it can say
/// so all the time.
const ANEW_BY_WORD: Duration = Duration::from_secs(24 * 60 * 60);
/// The same of one that answered a call, as one does that cannot dial this seeder where it is: what it said besides may
/// still be others' addresses.
const ANEW_BY_ANSWER: Duration = Duration::from_secs(60 * 60);
/// Addresses of one device that are called: what a machine has on two cards.
const CALLED_AT_MAX: usize = 8;
/// How long nobody else's word of one peer is called: an attempt at addresses where nothing answers takes so long, and
/// takes the place of the next.
const PEER_RESTS: Duration = Duration::from_secs(30);
/// How long a call is remembered that counts for the same device in other folders, too: 3,600 calls.
const SHARED_FOR: Duration = Duration::from_secs(15 * 60);
/// Folders that are looked at in one step: 64 contacts each.
const LOOKS_MAX: usize = 32;

/// What is remembered of a device's calls.
#[derive(Clone, Copy, Default)]
pub(super) struct Call {
    called: u32,
    at: Option<Instant>,
    /// To how many-th place of this seeder that belongs.
    place: u32,
    /// Whether it said something new, or answered, since; and when its pauses began anew for that.
    said: bool,
    answered: bool,
    anew: Option<Instant>,
}

impl Call {
    /// The same where its pauses begin anew, if they do. The last call still counts, so that it is not called without end.
    fn begun_anew(mut self, place: u32, now: Instant) -> Self {
        if self.place != place {
            (self.called, self.place) = (0, place);
        }
        let over = |pause| self.anew.is_none_or(|at| now >= at + pause);
        if (self.said && over(ANEW_BY_WORD)) || (self.answered && over(ANEW_BY_ANSWER)) {
            (self.called, self.anew) = (self.called.min(1), Some(now));
            (self.said, self.answered) = (false, false);
        }
        self
    }

    /// When it is called next; `None` for no more.
    fn due(&self, now: Instant) -> Option<Instant> {
        let pause = CALL_PAUSE.saturating_mul(1 << self.called.saturating_sub(1).min(16)).min(CALL_PAUSE_MAX);
        (self.called < CALLS_MAX).then(|| self.at.map_or(now, |at| at + pause))
    }

    const fn made(&mut self, at: Instant) {
        (self.called, self.at) = (self.called.saturating_add(1), Some(at));
    }
}

/// When which folder is looked at, and what was called lately.
#[derive(Default)]
pub(super) struct Calls {
    /// Not before; `None` until this seeder has said where it is.
    from: Option<Instant>,
    /// Counts its places.
    place: u32,
    next: Option<Instant>,
    /// Folders that have somebody to call, or may have; those whose turn is first come first.
    line: BTreeSet<(Instant, FolderNo)>,
    turns: BTreeMap<FolderNo, Instant>,
    /// Folders of which something new is known.
    news: BTreeSet<FolderNo>,
    /// The last call of each peer, and a hash of where it was called; and all of them in order.
    lately: BTreeMap<PeerId, (Instant, [u8; 32])>,
    made: VecDeque<(Instant, PeerId)>,
}

/// Somebody to call.
struct Callee {
    log: LogId,
    peer: PeerId,
    addresses: Vec<Vec<u8>>,
}

impl Calls {
    /// This seeder begins, or its addresses changed for a moment.
    pub fn begin(&mut self, now: Instant) {
        self.from = Some(now + FIRST_CALLS);
    }

    /// It is somewhere else: whoever was called in vain is called again.
    pub const fn move_on(&mut self) {
        self.place = self.place.wrapping_add(1);
    }

    /// All folders may have somebody to call.
    pub fn look_at_all(&mut self, folders: impl Iterator<Item = FolderNo>) {
        self.news.extend(folders);
    }

    /// A folder may have somebody to call.
    pub fn look_at(&mut self, no: FolderNo) {
        self.news.insert(no);
    }

    fn set(&mut self, no: FolderNo, at: Option<Instant>) {
        if let Some(before) = self.turns.remove(&no) {
            self.line.remove(&(before, no));
        }
        if let Some(at) = at {
            self.turns.insert(no, at);
            self.line.insert((at, no));
        }
    }

    /// Gives folders with news their turn: not at once, since who has news to tell may be about to come.
    fn hear_news(&mut self, now: Instant) {
        let soon = now + FIRST_CALLS;
        for no in std::mem::take(&mut self.news) {
            let known = self.turns.get(&no).copied();
            self.set(no, Some(known.map_or(soon, |known| known.min(soon))));
        }
    }

    /// The folder whose turn it is.
    fn turn(&mut self, now: Instant) -> Option<FolderNo> {
        let (_, no) = self.line.first().copied().filter(|(at, _)| *at <= now)?;
        self.set(no, None);
        Some(no)
    }

    fn note(&mut self, peer: PeerId, at: [u8; 32], now: Instant) {
        self.lately.insert(peer, (now, at));
        self.made.push_back((now, peer));
        while let Some((made, peer)) =
            self.made.front().copied().filter(|(made, _)| now >= *made + SHARED_FOR)
        {
            self.made.pop_front();
            if self.lately.get(&peer).is_some_and(|(last, _)| *last == made) {
                self.lately.remove(&peer);
            }
        }
    }

    /// Who of a folder is called, and when it is looked at again.
    fn choose(
        &self,
        folder: &mut Folder,
        (me, own, said_ms): (PeerId, &[Vec<u8>], u64),
        dialer: &Dialer,
        now: Instant,
    ) -> (Option<Callee>, Option<Instant>) {
        let mut known = std::mem::take(&mut folder.calls);
        let (mut first, mut again) = (None::<(Call, Callee)>, None::<Instant>);
        let sooner =
            |again: &mut Option<Instant>, at: Instant| *again = Some(again.map_or(at, |known| known.min(at)));
        for contact in folder.not_come(said_ms).filter(|contact| contact.peer != me) {
            let mut addresses = dialable(&contact.addresses, Source::Far, own);
            addresses.truncate(CALLED_AT_MAX);
            if addresses.is_empty() {
                continue;
            }
            let call = known.entry(contact.log).or_default();
            *call = call.begun_anew(self.place, now);
            let lately = self.lately.get(&contact.peer).copied();
            // The same device in another folder, at the same place: that was its call here, too.
            let shared = lately
                .filter(|(at, place)| call.at.is_none_or(|own| own < *at) && *place == hash_of(&addresses));
            if let Some((at, _)) = shared.filter(|_| call.due(now).is_some_and(|due| due <= now)) {
                call.made(at);
            }
            let Some(due) = call.due(now) else { continue };
            let rests = lately.map(|(at, _)| at + PEER_RESTS).filter(|until| now < *until);
            let here = dialer.is_connected(&contact.peer) || dialer.wants(&contact.peer);
            if let Some(later) = here.then_some(now + CALL_PAUSE).or(rests) {
                sooner(&mut again, due.max(later));
                continue;
            }
            if due > now {
                sooner(&mut again, due);
                continue;
            }
            let callee = Callee { log: contact.log, peer: contact.peer, addresses };
            let before = |first: &(Call, Callee)| (call.called, call.at) < (first.0.called, first.0.at);
            match &first {
                // It has its turn after the other folders.
                Some(known) if !before(known) => sooner(&mut again, now),
                Some(_) => {
                    sooner(&mut again, now);
                    first = Some((*call, callee));
                }
                None => first = Some((*call, callee)),
            }
        }
        let callee = first.map(|(_, callee)| callee);
        if let Some(callee) = &callee
            && let Some(call) = known.get_mut(&callee.log)
        {
            call.made(now);
            if let Some(due) = call.due(now) {
                sooner(&mut again, due);
            }
        }
        folder.calls = known;
        (callee, again)
    }
}

impl Engine {
    /// Calls the next device that has not come, if it is time.
    pub(super) fn call_who_has_not_come(&mut self, now: Instant) {
        let Self { own, folders, dialer, me, .. } = self;
        let (at, said_ms) = (&own.at, own.said_ms);
        let Some(calls) = own.seeder.as_mut().map(|word| &mut word.calls) else { return };
        calls.hear_news(now);
        if calls.from.is_none_or(|from| now < from) || calls.next.is_some_and(|at| now < at) {
            return;
        }
        for _ in 0..LOOKS_MAX {
            let Some(no) = calls.turn(now) else { return };
            let Some(folder) = folders.get_mut(&no) else { continue };
            let (callee, again) = calls.choose(folder, (*me, at, said_ms), dialer, now);
            calls.set(no, again);
            if let Some(Callee { peer, addresses, .. }) = callee {
                calls.next = Some(now + CALL_EVERY);
                calls.note(peer, hash_of(&addresses), now);
                dialer.once(peer, addresses, now + CALL_FOR);
                return;
            }
        }
    }
}

impl Folder {
    /// Devices that dialed this seeder before it said where it is, and not since, where they said that they are.
    fn not_come(&self, said_ms: u64) -> impl Iterator<Item = &Contact> {
        let seeder = matches!(self.identity, Identity::Seeder);
        self.contacts.values().filter(move |contact| {
            seeder
                && self.came.get(&contact.log).is_some_and(|came| *came != said_ms)
                && self.access.devices.contains_key(&contact.log)
                && !self.names_seeder(&contact.peer)
        })
    }

    /// A device said something new of where it is.
    pub(super) fn note_said(&mut self, log: &LogId) {
        if let Some(call) = self.calls.get_mut(log) {
            call.said = true;
        }
    }

    /// A device was called, and is told where this seeder is.
    pub(super) fn note_answered(&mut self, log: &LogId) {
        if let Some(call) = self.calls.get_mut(log) {
            call.answered = true;
        }
    }
}

fn hash_of(addresses: &[Vec<u8>]) -> [u8; 32] {
    let parts =
        addresses.iter().flat_map(|address| [&(address.len() as u64).to_le_bytes()[..], address].concat());
    hash(&parts.collect::<Vec<u8>>())
}
