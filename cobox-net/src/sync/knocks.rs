//! Which folder a peer's `Open` means, and what looking for it may cost.
//!
//! A peer calls a folder by a name that is bound to the session and made from a secret (`handshake.rs`), so that it
//! tells a stranger nothing. It is found by making the name of one folder after the other: with thousands of them that
//! costs a thousand times what the frame did. So a few folders are tried at once: those that we offer the same peer, in
//! the same order, and those behind the last that it opened, as both sides have folders in much the same order. A peer
//! that belongs here is nearly always met there, whatever others ask for.
//!
//! What is left is looked for among all folders, and the names that this takes are bounded for the node. Where they are
//! used up it goes on piece by piece: half of them for those who have a folder open, half for others, and in each half
//! every person, or place, in turn, and of it every connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Instant;

use cobox_store::id::{FolderNo, MemberId};

use super::handshake::{Binding, Speaker};
use super::sessions::SECRETS_MAX;
use super::state::{Connection, Folder};
use super::{Conn, Engine, HANDSHAKE_WAIT, Output, Place, Side};
use crate::peer_id::PeerId;
use crate::rotation::next_behind;
use crate::wire::{Frame, SessionId};

/// Names that are made in searches in one go: a quarter of a second's work.
const NAMES_MAX: u64 = 1 << 20;
/// And so many more each millisecond: an eighth of a core, or half of a small one. Reckoned and not measured, so that a
/// history can be played again exactly.
const NAMES_PER_MS: u64 = 524;
/// What it counts for beside them that one was looked for in vain: the answer is made, sealed and sent, and is kept where
/// the peer does not read. So whoever asks, a node says it eight thousand times a second at the most, and half a mebibyte
/// of it waits in that time. It ends nothing: a peer may have many folders that are not here, and some that are.
const REFUSAL: u64 = 64;
/// Names that are made for one connection before the next one has its turn: a millisecond's.
const TURN: u64 = 512;
/// Folders that are tried at once, of those we offer the peer and of those behind the last it opened: what one side has
/// and the other does not is passed over.
const NEAR: usize = 8;
/// Names that are made for that: what a frame costs otherwise.
const NAMES_NEAR_MAX: u64 = 32;
/// How often in succession a connection may open what is not found like that, until it is found only in its turn.
const VAIN_MAX: u32 = 16;
/// `Open`s of one connection that wait. What comes beyond is dropped, and its asker asks again.
const KNOCKS_MAX: usize = 1024;

/// A folder, and which of its secrets a name was made from.
type Found = (FolderNo, usize);

/// An `Open` that waits.
#[derive(Clone, Copy)]
struct Knock {
    id: SessionId,
    blinded: [u8; 32],
    proof: [u8; 32],
    since: Instant,
}

/// How far a search is: behind the last that was found first, then up to it.
#[derive(Clone, Copy)]
struct Search {
    behind: Option<FolderNo>,
    until: Option<FolderNo>,
    again: Option<FolderNo>,
}

/// What came of a part of a search.
enum Part {
    Found(Found),
    InVain,
    GoesOn(Search),
}

/// Those of one connection that wait, and the search for the first of them.
#[derive(Default)]
struct Line {
    knocks: VecDeque<Knock>,
    search: Option<Search>,
    /// The turn it had last, or in which it began.
    turn: u64,
}

/// Who shares turns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Crowd {
    /// Whom we dialed.
    Dialed(PeerId),
    /// A person of a folder that is open; all seeders of one. Peer ids, anybody has as many as it likes.
    Person(FolderNo, Option<MemberId>),
    /// All others who come from one place.
    Place(Place),
}

/// Crowds, and the connections of each that wait: who had its turn first comes first.
type Ring = BTreeMap<Crowd, BTreeSet<(u64, Conn)>>;

/// Who waits, those we know and others.
#[derive(Default)]
struct Rings {
    known: Ring,
    others: Ring,
}

/// Those who wait, and what was spent.
#[derive(Default)]
pub(super) struct Knocks {
    lines: BTreeMap<Conn, Line>,
    turn: u64,
    last_known: Option<Crowd>,
    last_other: Option<Crowd>,
    spent: u64,
    since: Option<Instant>,
}

impl Rings {
    fn add(&mut self, crowd: Crowd, turn: u64, conn: Conn) {
        let ring = if matches!(crowd, Crowd::Place(_)) { &mut self.others } else { &mut self.known };
        ring.entry(crowd).or_default().insert((turn, conn));
    }
}

/// The next crowd's first connection.
fn next_of(ring: &mut Ring, last: &mut Option<Crowd>) -> Option<(Crowd, Conn)> {
    let crowd = next_behind(ring, last)?;
    let conns = ring.get_mut(&crowd)?;
    let (_, conn) = conns.pop_first()?;
    if conns.is_empty() {
        ring.remove(&crowd);
    }
    Some((crowd, conn))
}

impl Knocks {
    /// Whether names may be made in searches now.
    fn may(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        if ms > 0 {
            self.spent = self.spent.saturating_sub(ms.saturating_mul(NAMES_PER_MS));
            self.since = Some(now);
        }
        self.spent < NAMES_MAX
    }

    /// Whose turn it is: one of those we know, and one of the others.
    fn next(&mut self, rings: &mut Rings) -> Option<(Crowd, Conn)> {
        self.turn += 1;
        let Self { turn, last_known, last_other, .. } = self;
        let mut known = || next_of(&mut rings.known, last_known);
        let mut other = || next_of(&mut rings.others, last_other);
        if turn.is_multiple_of(2) { known().or_else(other) } else { other().or_else(known) }
    }

    /// Whether something that a connection opens is still looked for.
    pub fn waits(&self, conn: Conn) -> bool {
        self.lines.contains_key(&conn)
    }

    /// Forgets what a connection asked for.
    pub fn forget(&mut self, conn: Conn) {
        self.lines.remove(&conn);
    }
}

impl Search {
    fn behind(last: Option<FolderNo>) -> Self {
        Self { behind: last, until: None, again: last }
    }

    /// Goes on until so many names were made; how many it were.
    fn go_on(
        mut self,
        folders: &BTreeMap<FolderNo, Folder>,
        binding: &Binding,
        knock: &Knock,
        most: u64,
    ) -> (Part, u64) {
        let mut names = 0;
        loop {
            let behind = self.behind.map_or(Bound::Unbounded, Bound::Excluded);
            let until = self.until.map_or(Bound::Unbounded, Bound::Included);
            for (no, folder) in folders.range((behind, until)) {
                if names >= most {
                    return (Part::GoesOn(self), names);
                }
                self.behind = Some(*no);
                let (at, made) = fits(folder, binding, knock);
                names += made;
                if let Some(at) = at {
                    return (Part::Found((*no, at)), names);
                }
            }
            let Some(first) = self.again.take() else { return (Part::InVain, names) };
            (self.behind, self.until) = (None, Some(first));
        }
    }
}

/// Which of a folder's secrets a name was made from, newest first, and what that cost: passing over a folder is work too.
fn fits(folder: &Folder, binding: &Binding, knock: &Knock) -> (Option<usize>, u64) {
    let mut names = 0;
    let at = folder.secrets.iter().take(SECRETS_MAX).position(|secret| {
        names += 1;
        binding.blinded(secret) == knock.blinded && binding.proves(secret, Speaker::Opener, knock.proof)
    });
    (at, names.max(1))
}

/// Whether a session has a number that this side gave it.
fn is_ours(side: Side, id: SessionId) -> bool {
    id.0.is_multiple_of(2) == (side == Side::Dialer)
}

impl Engine {
    pub(super) fn on_open(
        &mut self,
        conn: Conn,
        id: SessionId,
        blinded: [u8; 32],
        proof: [u8; 32],
        now: Instant,
    ) {
        let Some(connection) = self.conns.get(&conn) else { return };
        if is_ours(connection.side, id) || connection.sessions.contains_key(&id) {
            // A peer that does not follow the rules.
            self.out.push(Output::Close { conn });
            return;
        }
        let knock = Knock { id, blinded, proof, since: now };
        let Some(binding) = self.binding(conn, id, Side::Listener) else { return };
        if connection.vain < VAIN_MAX {
            let (found, names) = self.near(connection, &binding, &knock);
            self.work.names += names;
            if let Some(found) = found {
                self.found(conn, &binding, found, now);
                return;
            }
        }
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.vain = connection.vain.saturating_add(1);
        connection.used_at = now;
        let alone = self.knocks.lines.is_empty();
        let turn = self.knocks.turn;
        let line = self.knocks.lines.entry(conn).or_insert_with(|| Line { turn, ..Line::default() });
        if line.knocks.len() < KNOCKS_MAX {
            line.knocks.push_back(knock);
        }
        // Beside others it waits for the next tick, in which all have their turns.
        if alone {
            self.answer_knocks(now);
        }
    }

    /// Looks for the folders of those who wait, as far as that may be now.
    pub(super) fn answer_knocks(&mut self, now: Instant) {
        if self.knocks.lines.is_empty() || !self.knocks.may(now) {
            return;
        }
        let mut rings = Rings::default();
        for (conn, line) in &self.knocks.lines {
            if let Some(connection) = self.conns.get(conn) {
                rings.add(self.crowd(connection), line.turn, *conn);
            }
        }
        while self.knocks.may(now) {
            let Some((crowd, conn)) = self.knocks.next(&mut rings) else { return };
            self.take_turn(conn, now);
            if let Some(line) = self.knocks.lines.get(&conn) {
                rings.add(crowd, line.turn, conn);
            }
        }
    }

    /// Who a connection is by now: it was nobody when its first folders were opened.
    fn crowd(&self, connection: &Connection) -> Crowd {
        if connection.side == Side::Dialer {
            return Crowd::Dialed(connection.peer);
        }
        let Some(session) = connection.sessions.values().find(|session| session.is_open()) else {
            return Crowd::Place(connection.place);
        };
        let devices = self.folders.get(&session.no).map(|folder| &folder.access.devices);
        let device = session.log.and_then(|log| devices?.get(&log));
        Crowd::Person(session.no, device.map(|device| device.member))
    }

    fn take_turn(&mut self, conn: Conn, now: Instant) {
        let mut left = TURN;
        while left > 0 {
            let turn = self.knocks.turn;
            let Some(line) = self.knocks.lines.get_mut(&conn) else { return };
            line.turn = turn;
            let search = line.search.take();
            let Some(knock) = line.knocks.pop_front() else {
                self.knocks.forget(conn);
                return;
            };
            // Who waited for so long has given it up.
            if now > knock.since + HANDSHAKE_WAIT {
                continue;
            }
            let Some(binding) = self.binding(conn, knock.id, Side::Listener) else { continue };
            let (part, names) = self.part(conn, &binding, &knock, search, left);
            self.work.names += names;
            let cost = if matches!(part, Part::InVain) { names + REFUSAL } else { names };
            self.knocks.spent = self.knocks.spent.saturating_add(cost);
            left = left.saturating_sub(cost.max(1));
            match part {
                Part::Found(found) => self.found(conn, &binding, found, now),
                Part::InVain => self.send(conn, Frame::Refuse { session: knock.id }),
                Part::GoesOn(search) => {
                    let Some(line) = self.knocks.lines.get_mut(&conn) else { return };
                    line.knocks.push_front(knock);
                    line.search = Some(search);
                }
            }
        }
    }

    /// Looks for a folder for so many names: first near the last, which may have been found since it was asked for.
    fn part(
        &self,
        conn: Conn,
        binding: &Binding,
        knock: &Knock,
        search: Option<Search>,
        most: u64,
    ) -> (Part, u64) {
        let Some(connection) = self.conns.get(&conn) else { return (Part::InVain, 0) };
        let (search, tried) = match search {
            Some(search) => (search, 0),
            None => match self.near(connection, binding, knock) {
                (Some(found), names) => return (Part::Found(found), names),
                (None, names) => (Search::behind(connection.found), names),
            },
        };
        let (part, names) = search.go_on(&self.folders, binding, knock, most.saturating_sub(tried));
        (part, tried + names)
    }

    /// Tries a few folders, and says how many names that took.
    fn near(&self, connection: &Connection, binding: &Binding, knock: &Knock) -> (Option<Found>, u64) {
        let met = connection.met.map_or(Bound::Unbounded, Bound::Excluded);
        // Theirs lie between ours.
        let offered = connection.sessions.range((met, Bound::Unbounded)).take(2 * NEAR);
        let offered = offered.filter(|(id, _)| is_ours(connection.side, **id)).map(|(_, session)| session.no);
        let last = connection.found.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.folders.range((last, Bound::Unbounded)).take(NEAR).map(|(no, _)| *no);
        let mut names = 0;
        for no in offered.chain(behind).chain(connection.found) {
            if names >= NAMES_NEAR_MAX {
                break;
            }
            let Some(folder) = self.folders.get(&no) else { continue };
            let (at, made) = fits(folder, binding, knock);
            names += made;
            if let Some(at) = at {
                return (Some((no, at)), names);
            }
        }
        (None, names)
    }

    fn found(&mut self, conn: Conn, binding: &Binding, found: Found, now: Instant) {
        let (no, _) = found;
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if connection.sessions.contains_key(&binding.session) {
            // Opened twice under one number while it waited.
            self.out.push(Output::Close { conn });
            return;
        }
        (connection.found, connection.vain) = (Some(no), 0);
        let sessions = self.folders.get(&no).map(|folder| &folder.sessions);
        let mut here = sessions.into_iter().flat_map(|all| all.range((conn, SessionId(0))..));
        let ours = here.find(|(other, id)| *other != conn || is_ours(connection.side, *id));
        if let Some((_, id)) = ours.filter(|(other, _)| *other == conn) {
            connection.met = Some(*id);
        }
        self.admit(conn, binding, found, now);
    }
}
