//! Which pack is fetched next, and from whom.
//!
//! What a device lacks is a scan of the folder's own missing keys. Readers' wishes go first. A pack is
//! asked of one peer at a time; a peer that does not have it says so, and says again when it has. The pack is then put
//! back before the others, and the scan goes on from where it was. A peer that is late is asked last, and what a reader
//! waits for is then asked of another one.

use std::time::{Duration, Instant};

use cobox_store::blind::{PackStatus, Store};
use cobox_store::error::Result;
use cobox_store::format::pack::PackRef;
use cobox_store::id::{FolderNo, PackId};

use super::state::{Flight, Session};
use super::{Conn, Engine, Fetched, Output, Stage, Work};
use crate::peer_id::PeerId;
use crate::status::SessionState;
use crate::tally::Refusal;
use crate::wire::{Frame, HAVE_MAX, SessionId};

/// A pack up to this size is fetched in one piece and stored together with others.
pub const SMALL_BYTES_MAX: u64 = 256 * 1024;
/// Large packs in flight in the whole node: two that are being stored, one that arrives, one that is asked
/// for. Each has a receiver that buffers up to 8 MiB. As many again may be with peers that are late.
const LARGE_FLYING_MAX: usize = 4;
/// Small packs in flight in the whole node; their bytes are bounded by the transfer's credit too.
pub(super) const SMALL_FLYING_MAX: usize = 128;
/// Missing packs read from the store at once.
const PAGE: usize = 256;
/// How long nothing is fetched from a peer that sent wrong bytes.
const LIAR_WAIT: Duration = Duration::from_secs(60);
/// How long a peer's word that it lacks a pack is believed.
const ABSENT_WAIT: Duration = Duration::from_secs(20);
/// Packs remembered of what a peer said it lacks. Beyond that it is asked for what readers wait for and for nothing else,
/// until it is asked again for all of them.
const REMEMBERED_MAX: usize = 65_536;
/// Packs that one peer asked for in vain and is told of when they come: it may name any, and asks again by itself.
const DENIED_MAX: usize = 4096;

/// Whether a pack is fetched by itself.
pub(super) const fn is_large(size: u64) -> bool {
    size > SMALL_BYTES_MAX
}

/// Why a pack is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Somebody waits for it.
    OfAReader,
    /// It is missing.
    OfTheScan,
}

impl Wish {
    /// Whether the peer may be asked: of what it lacks only so much is remembered beside what readers wait for.
    fn fits(self, session: &Session) -> bool {
        self == Self::OfAReader || session.absent.len() < REMEMBERED_MAX
    }
}

impl Engine {
    /// Asks for what is missing, and goes through so many pages of it where nothing of them can be asked for.
    pub(super) fn plan(&mut self, no: FolderNo, rounds: u32, now: Instant) -> Result<()> {
        let mut waited = self.leave_line(no);
        let Some(folder) = self.folders.get(&no) else { return Ok(()) };
        if folder.full_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        let anyone = folder.sessions.iter().any(|(conn, id)| {
            self.conns
                .get(conn)
                .and_then(|connection| connection.sessions.get(id))
                .is_some_and(|s| s.is_open())
        });
        if !anyone {
            for pack in self.store.wants(no) {
                self.give_up_in_vain(no, pack, now);
            }
            return Ok(());
        }
        if self.store.grant_ended(no)? {
            // What is here stays and is served. Only who lacks something has to say that it takes no more.
            if !self.store.packs_missing(no, None, 1)?.is_empty() {
                self.set_full(no, now);
            }
            return Ok(());
        }
        self.plan_wishes(no, now)?;
        // Where nobody may be asked for more, the scan stands still: what follows comes before what was asked for already.
        if !self.some_may_be_asked(no) {
            return Ok(());
        }
        for _ in 0..rounds {
            let Some(folder) = self.folders.get_mut(&no) else { return Ok(()) };
            if folder.plan.queue.is_empty() && !refill(&self.store, no, folder, &mut self.work)? {
                return Ok(());
            }
            loop {
                let Some(folder) = self.folders.get_mut(&no) else { return Ok(()) };
                let Some(pack) = folder.plan.queue.front().copied() else { break };
                // What nobody may be asked for takes no turn.
                let whom = self.whom(no, pack, Wish::OfTheScan, now);
                if whom.is_some() && !self.takes_turn(no, pack, waited.take(), now) {
                    return Ok(());
                }
                if let Some(folder) = self.folders.get_mut(&no) {
                    folder.plan.queue.pop_front();
                }
                if let Some(whom) = whom {
                    self.fetch(no, pack, whom);
                }
            }
        }
        Ok(())
    }

    fn some_may_be_asked(&self, no: FolderNo) -> bool {
        let Some(folder) = self.folders.get(&no) else { return false };
        let session = |(conn, id): &(Conn, SessionId)| self.conns.get(conn)?.sessions.get(id);
        folder
            .sessions
            .iter()
            .filter_map(session)
            .any(|session| session.is_open() && Wish::OfTheScan.fits(session))
    }

    fn plan_wishes(&mut self, no: FolderNo, now: Instant) -> Result<()> {
        for id in self.store.wants(no) {
            self.let_go_if_late(no, id, now);
            match self.store.pack_status(no, id)? {
                PackStatus::Missing(pack) | PackStatus::Partial(pack, _) if self.room_for(pack) => {
                    if let Some(whom) = self.whom(no, pack, Wish::OfAReader, now) {
                        self.fetch(no, pack, whom);
                    }
                    self.give_up_in_vain(no, id, now);
                }
                PackStatus::Missing(pack) | PackStatus::Partial(pack, _) if !self.flies(no, id) => {
                    self.reader_waits(no, pack);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a pack was asked for, and has neither come nor failed yet.
    fn flies(&self, no: FolderNo, pack: PackId) -> bool {
        self.folders.get(&no).is_some_and(|folder| folder.plan.flying.contains_key(&pack))
    }

    /// Ends a reader's wait for a pack that no peer may still send.
    fn give_up_in_vain(&self, no: FolderNo, pack: PackId, now: Instant) {
        let Some(folder) = self.folders.get(&no) else { return };
        if self.flies(no, pack) {
            return;
        }
        let may_send = |(conn, id): &(Conn, SessionId)| {
            let Some(connection) = self.conns.get(conn) else { return false };
            let barred = self.liars.get(&connection.peer).is_some_and(|until| now < *until);
            connection.sessions.get(id).is_some_and(|session| match session.stage {
                Stage::Opening { .. } | Stage::Accepted { .. } => true,
                Stage::Open => !barred && !session.absent.contains(&pack),
                _ => false,
            })
        };
        let greeting = |peer: &PeerId| {
            self.conns.values().any(|connection| connection.peer == *peer && connection.their_nonce.is_none())
        };
        let reached = |peer: &PeerId| self.dialer.is_reaching(peer) || greeting(peer);
        if !folder.sessions.iter().any(may_send) && !folder.peers.iter().any(reached) {
            self.store.give_up(no, pack);
        }
    }

    /// Looks again at what readers wait for, where a dial may have ended.
    pub(super) fn look_at_wishes(&mut self) {
        let waited_for = self.folders.keys().filter(|no| !self.store.wants(**no).is_empty());
        self.dirty.extend(waited_for.copied().collect::<Vec<_>>());
    }

    /// Ends a fetch that a reader waits for where its peer is late and another one may have the pack.
    fn let_go_if_late(&mut self, no: FolderNo, pack: PackId, now: Instant) {
        let flight = self.folders.get(&no).and_then(|folder| folder.plan.flying.get(&pack)).copied();
        let Some(flight) = flight.filter(|flight| !flight.let_go && self.is_late(flight.conn)) else {
            return;
        };
        if self.best(no, pack, Wish::OfAReader, now).is_none_or(|(conn, _)| self.is_late(conn)) {
            return;
        }
        let flying = self.folders.get_mut(&no).and_then(|folder| folder.plan.flying.get_mut(&pack));
        if let Some(flight) = flying {
            flight.let_go = true;
        }
        self.out.push(Output::LetGo { conn: flight.conn, session: flight.session, pack });
    }

    /// Ends the fetches over a session that ended. Each keeps its place until it has ended: a peer that closes and opens
    /// again would else have another one begun for each.
    pub(super) fn let_go_of(&mut self, conn: Conn, id: SessionId, no: FolderNo) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        for (pack, flight) in &mut folder.plan.flying {
            if (flight.conn, flight.session) == (conn, id) && !flight.let_go {
                flight.let_go = true;
                self.out.push(Output::LetGo { conn, session: id, pack: *pack });
            }
        }
    }

    /// Says it again: a fetch that had not begun yet did not hear that it is to end.
    pub(super) fn let_go_again(&mut self) {
        let fetching = self.fetching.iter().filter_map(|no| self.folders.get(no));
        let flights = fetching.flat_map(|folder| &folder.plan.flying);
        self.out.extend(flights.filter(|(_, flight)| flight.let_go).map(|(pack, flight)| Output::LetGo {
            conn: flight.conn,
            session: flight.session,
            pack: *pack,
        }));
    }

    /// Gives the places of fetches free whose connection has gone: nothing holds these up any more.
    pub(super) fn forget_flights(&mut self, conn: Conn) {
        for no in self.fetching.clone() {
            let Some(folder) = self.folders.get_mut(&no) else { continue };
            let before = folder.plan.flying.len();
            folder.plan.flying.retain(|_, flight| flight.conn != conn);
            if folder.plan.flying.len() < before {
                folder.plan.rescan = true;
                self.to_plan.insert(no);
            }
            if folder.plan.flying.is_empty() {
                self.fetching.remove(&no);
            }
        }
        self.next_turn();
    }

    pub(super) fn is_late(&self, conn: Conn) -> bool {
        self.conns.get(&conn).is_some_and(|connection| connection.late)
    }

    pub(super) fn late(&mut self, conn: Conn, late: bool) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.late = late;
        for no in connection.sessions.values().map(|session| session.no) {
            if let Some(folder) = self.folders.get_mut(&no) {
                // What there was no room for while it was late.
                folder.plan.rescan |= !late;
                self.dirty.insert(no);
            }
        }
        self.next_turn();
    }

    pub(super) fn room_for(&self, pack: PackRef) -> bool {
        self.room_among(pack, false)
    }

    /// Whether there is a free place for a pack of a kind.
    pub(super) fn has_room(&self, large: bool) -> bool {
        self.room_of_kind(large, false)
    }

    fn room_among(&self, pack: PackRef, late: bool) -> bool {
        self.room_of_kind(is_large(pack.size), late)
    }

    /// Whether another such pack may fly, with peers that are late or with the others. Peers may become late one after
    /// the other, so that both together are bounded, too.
    fn room_of_kind(&self, large: bool, late: bool) -> bool {
        let fetching = self.fetching.iter().filter_map(|no| self.folders.get(no));
        let flights = fetching.flat_map(|folder| folder.plan.flying.values());
        let (mut all, mut among) = (0, 0);
        for flight in flights.filter(|flight| is_large(flight.size) == large) {
            all += 1;
            among += usize::from(self.is_late(flight.conn) == late);
        }
        let most = if large { LARGE_FLYING_MAX } else { SMALL_FLYING_MAX };
        among < most && all < 2 * most
    }

    /// Who may have a pack: those that are late last, then the least busy.
    fn best(&self, no: FolderNo, pack: PackId, wish: Wish, now: Instant) -> Option<(Conn, SessionId)> {
        let sessions = self.folders.get(&no)?.sessions.iter();
        let may_have = sessions.filter_map(|(conn, id)| {
            let connection = self.conns.get(conn)?;
            let session = connection.sessions.get(id)?;
            let barred = self.liars.get(&connection.peer).is_some_and(|until| now < *until);
            let lacks = session.absent.contains(&pack) || !wish.fits(session);
            let may = session.is_open() && !barred && !lacks;
            may.then_some((connection.late, session.fetching, *conn, *id))
        });
        may_have.min().map(|(_, _, conn, id)| (conn, id))
    }

    /// Whom to ask for a pack: the best peer that may have it. Nobody where it is on its way, or where that peer is late and
    /// there is no room among such.
    fn whom(&self, no: FolderNo, pack: PackRef, wish: Wish, now: Instant) -> Option<(Conn, SessionId)> {
        if self.flies(no, pack.id) {
            return None;
        }
        let (conn, id) = self.best(no, pack.id, wish, now)?;
        (!self.is_late(conn) || self.room_among(pack, true)).then_some((conn, id))
    }

    fn fetch(&mut self, no: FolderNo, pack: PackRef, (conn, id): (Conn, SessionId)) {
        if let Some(session) = self.session(conn, id) {
            session.fetching += 1;
        }
        if let Some(folder) = self.folders.get_mut(&no) {
            let flight = Flight { conn, session: id, size: pack.size, let_go: false };
            folder.plan.flying.insert(pack.id, flight);
            self.fetching.insert(no);
        }
        self.out.push(Output::Fetch { conn, session: id, no, pack });
    }

    pub(super) fn fetched(
        &mut self,
        (conn, id): (Conn, SessionId),
        no: FolderNo,
        pack: PackId,
        how: Fetched,
        now: Instant,
    ) {
        let flight = self.folders.get(&no).and_then(|folder| folder.plan.flying.get(&pack));
        let own = flight.filter(|flight| (flight.conn, flight.session) == (conn, id));
        let Some(size) = own.map(|flight| flight.size) else {
            // The connection has gone, but what had arrived was enough.
            if how == Fetched::Done {
                self.came_late(no, pack);
            }
            return;
        };
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.plan.flying.remove(&pack);
            if folder.plan.flying.is_empty() {
                self.fetching.remove(&no);
            }
            // Of one that was not there, what is lacking is the same.
            folder.surveyed &= how == Fetched::NotHere;
        }
        let peer = self.conns.get(&conn).map(|connection| connection.peer);
        if let Some(session) = self.session(conn, id) {
            session.fetching = session.fetching.saturating_sub(1);
            if matches!(how, Fetched::NotHere | Fetched::Lied) {
                session.absent.insert(pack);
            }
        }
        match how {
            Fetched::Done if self.open_folder(conn, id) == Some(no) => {
                self.tell_waiting(no, pack);
                self.dirty.insert(no);
            }
            Fetched::Done => self.came_late(no, pack),
            Fetched::NotHere => {}
            Fetched::Lied => {
                self.tally.refuse(Refusal::Pack);
                if let Some(peer) = peer {
                    tracing::warn!(%peer, %pack, "a peer sent bytes that are not the pack's");
                    self.liars.insert(peer, now + LIAR_WAIT);
                }
            }
            Fetched::Broken => {}
            Fetched::Full | Fetched::Failed => self.set_full(no, now),
        }
        if how != Fetched::Done {
            self.nothing_came(no, PackRef { id: pack, size }, how);
        }
        self.next_turn();
    }

    /// A pack came whose session has ended. A peer may end sessions at will, so that this waits for the next tick.
    fn came_late(&mut self, no: FolderNo, pack: PackId) {
        self.tell_waiting(no, pack);
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.surveyed = false;
            folder.plan.rescan = true;
            self.later.insert(no);
        }
    }

    /// Another peer may have it, or this one again after a pause.
    fn nothing_came(&mut self, no: FolderNo, pack: PackRef, how: Fetched) {
        let status = self.store.pack_status(no, pack.id);
        let lacking = matches!(status, Ok(PackStatus::Missing(_) | PackStatus::Partial(..)));
        let Some(folder) = self.folders.get_mut(&no) else { return };
        if how == Fetched::NotHere {
            // The scan goes on from where it is: it would else begin again for each that is told with a few bytes. What was
            // released meanwhile, or came another way, is not asked for again.
            if lacking {
                folder.plan.queue.push_front(pack);
            }
        } else {
            folder.plan.rescan = true;
        }
        self.to_plan.insert(no);
        if self.store.wants(no).contains(&pack.id) {
            self.pressing.insert(no);
        }
    }

    /// What only a peer may have that sent wrong bytes was passed over meanwhile.
    pub(super) fn forgive_liars(&mut self, now: Instant) {
        let before = self.liars.len();
        self.liars.retain(|_, until| now < *until);
        if self.liars.len() < before {
            self.folders.values_mut().for_each(|folder| folder.plan.rescan = true);
        }
    }

    /// Asks again, now and then, for what peers did not have: a lost notice must not stop a pack for ever.
    pub(super) fn forget_absent(&mut self, now: Instant) {
        if self.absent_since.is_some_and(|since| now < since + ABSENT_WAIT) {
            return;
        }
        self.absent_since = Some(now);
        for session in self.conns.values_mut().flat_map(|connection| connection.sessions.values_mut()) {
            if !session.absent.is_empty() {
                session.absent.clear();
                if let Some(folder) = self.folders.get_mut(&session.no) {
                    folder.plan.rescan = true;
                }
            }
        }
    }

    /// Tells those who asked for a pack in vain that it is here now.
    fn tell_waiting(&mut self, no: FolderNo, pack: PackId) {
        let Some(folder) = self.folders.get(&no) else { return };
        for (conn, id) in folder.sessions.clone() {
            // Over one that has ended nothing is told, and its peer asks again where it comes back.
            let waits = |session: &mut Session| session.denied.remove(&pack) && session.is_open();
            if self.session(conn, id).is_some_and(waits) {
                self.send(conn, Frame::Have { session: id, packs: vec![pack] });
            }
        }
    }

    pub(super) fn denied(&mut self, conn: Conn, id: SessionId, pack: PackId) {
        let Some(no) = self.open_folder(conn, id) else { return };
        if matches!(self.store.pack_status(no, pack), Ok(PackStatus::Complete(_))) {
            self.send(conn, Frame::Have { session: id, packs: vec![pack] });
        } else if let Some(session) = self.session(conn, id)
            && session.denied.len() < DENIED_MAX
        {
            session.denied.insert(pack);
        }
    }

    pub(super) fn on_have(&mut self, conn: Conn, id: SessionId, packs: &[PackId]) {
        debug_assert!(packs.len() <= HAVE_MAX);
        let Some(no) = self.open_folder(conn, id) else { return };
        let Some(session) = self.session(conn, id) else { return };
        let before = session.absent.len();
        for pack in packs {
            session.absent.remove(pack);
        }
        if session.absent.len() == before {
            return;
        }
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.plan.rescan = true;
        }
        self.dirty.insert(no);
    }

    /// How a session is shown to people.
    pub(super) fn shown(stage: super::Stage) -> SessionState {
        match stage {
            super::Stage::Opening { .. } | super::Stage::Accepted { .. } => SessionState::Opening,
            super::Stage::Refused { .. } => SessionState::Refused,
            super::Stage::Offered { .. } => SessionState::Pending,
            super::Stage::Restricted => SessionState::Restricted,
            super::Stage::Open => SessionState::Open,
        }
    }
}

/// Reads the next page of missing packs; `false` when the scan is at its end.
fn refill(store: &Store, no: FolderNo, folder: &mut super::Folder, work: &mut Work) -> Result<bool> {
    let plan = &mut folder.plan;
    if !plan.scanning {
        if !plan.rescan {
            return Ok(false);
        }
        (plan.rescan, plan.scanning, plan.cursor) = (false, true, None);
    }
    let page = store.packs_missing(no, plan.cursor, PAGE)?;
    work.listed += page.len() as u64;
    plan.cursor = page.last().map(|pack| pack.id);
    plan.scanning = page.len() == PAGE;
    plan.queue = page.into_iter().filter(|pack| !plan.flying.contains_key(&pack.id)).collect();
    Ok(!plan.queue.is_empty() || plan.scanning)
}
