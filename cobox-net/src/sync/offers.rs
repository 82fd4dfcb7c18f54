//! Grant offers, as they arrive and as they are made. Anybody may send one, so here is only counted and passed on.
//!
//! What an offer says is looked at outside the engine, one offer at a time (`crate::offers`), because each of
//! its records costs a check of a signature.

use std::ops::Bound;
use std::time::Instant;

use cobox_store::format::access::{Act, UnverifiedRecord};
use cobox_store::id::{FolderId, FolderNo};

use super::sessions::REFUSED_WAIT;
use super::state::{GrantSaid, Offer, Stage};
use super::{Conn, Engine, Output};
use crate::peer_id::PeerId;
use crate::wire::{Frame, GrantAnswer, Part, SessionId, split_records};

/// Bytes of records in one grant offer: an access log of a folder with thousands of devices.
const OFFER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of all offers that are arriving: two large ones, or very many of usual size.
const OFFERS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Folders that a connection is told of when they are decided on: as many as an owner is shown at all. Who waits for more
/// looks again by itself.
const UNDECIDED_MAX: usize = 64;
/// How often the pause doubles while a folder is not there: its owner decides, or its turn to be offered has not come. Each
/// time it is looked for there in vain, under each secret. Of a decision the peer tells.
const VAIN_DOUBLES: u32 = 4;

impl Engine {
    pub(super) fn on_grant_offer(&mut self, conn: Conn, part: Part, records: Vec<Vec<u8>>, now: Instant) {
        let Some(connection) = self.conns.get(&conn) else { return };
        let peer = connection.peer;
        let fresh = matches!(connection.offer, Offer::None);
        // A token for each offer. One beyond is not heard, and some such end nothing: a peer may have many folders that are not
        // here. It makes its offers one after the other, so that more than some are not honest.
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let heard = !fresh || connection.offers.take(now);
        let much = !heard && !connection.unheard.take(now);
        // A look at what costs nothing to see. A part that brings nothing and says that more follows could go on for ever.
        let empty = part == Part::More && records.is_empty();
        let wrong = empty || fresh && heard && !records.first().is_some_and(|first| begins(first));
        let listens = heard && !matches!(connection.offer, Offer::Skipped { .. });
        let arriving: usize = match listens {
            true => self.conns.values().map(|connection| connection.offer.kept()).sum(),
            false => 0,
        };
        let deciding = self.deciding.contains(&peer);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.used_at = now;
        let bytes: usize = records.iter().map(Vec::len).sum();
        let offered = connection.offer.came() + bytes;
        if wrong || much || offered > OFFER_BYTES_MAX {
            connection.offer = Offer::None;
            self.out.push(Output::Close { conn });
            return;
        }
        // The member offers again while it waits, so nothing is lost by not listening now.
        let skipped = !heard || deciding || arriving + bytes > OFFERS_BYTES_MAX;
        let before = std::mem::replace(&mut connection.offer, Offer::None);
        let offer = match before {
            Offer::Skipped { .. } => Offer::Skipped { bytes: offered },
            _ if skipped => Offer::Skipped { bytes: offered },
            Offer::None => Offer::Arriving { records, bytes },
            Offer::Arriving { records: mut all, .. } => {
                all.extend(records);
                Offer::Arriving { records: all, bytes: offered }
            }
        };
        match (part, offer) {
            (Part::More, offer) => connection.offer = offer,
            (Part::Last, Offer::Arriving { records, .. }) => {
                self.deciding.insert(peer);
                self.out.push(Output::GrantOffered { peer, records });
            }
            (Part::Last, _) => {}
        }
    }

    /// An offer was looked at, whatever came of it: the next of this peer is heard.
    pub(super) fn offer_weighed(&mut self, peer: PeerId) {
        self.deciding.remove(&peer);
    }

    /// Says what came of a peer's offer, to that peer alone.
    pub(super) fn offer_answered(&mut self, peer: PeerId, folder: FolderId, answer: GrantAnswer) {
        let answer = self.now_true(folder, answer);
        let mut told = Vec::new();
        for (conn, connection) in self.conns.iter_mut().filter(|(_, connection)| connection.peer == peer) {
            let waiting = &mut connection.undecided;
            if answer != GrantAnswer::Pending {
                waiting.remove(&folder);
            } else if waiting.len() < UNDECIDED_MAX {
                waiting.insert(folder);
            }
            told.push(*conn);
        }
        for conn in told {
            self.send(conn, Frame::GrantAnswer { folder, answer });
        }
    }

    /// Says what the owner decided: several members offer one grant, and the owner is shown the first.
    pub(super) fn grant_decided(&mut self, peer: PeerId, folder: FolderId, answer: GrantAnswer) {
        let answer = self.now_true(folder, answer);
        if answer == GrantAnswer::Pending {
            self.offer_answered(peer, folder, answer);
        } else {
            self.tell_waiting_for(folder, answer, Some(peer));
        }
    }

    /// A folder is here now, in whatever way it came: who waits for that opens it.
    pub(super) fn tell_undecided(&mut self, folder: FolderId) {
        self.tell_waiting_for(folder, GrantAnswer::Accepted, None);
    }

    fn tell_waiting_for(&mut self, folder: FolderId, answer: GrantAnswer, and: Option<PeerId>) {
        let mut told = Vec::new();
        for (conn, connection) in &mut self.conns {
            let waited = connection.undecided.remove(&folder);
            told.extend((waited || Some(connection.peer) == and).then_some(*conn));
        }
        for conn in told {
            self.send(conn, Frame::GrantAnswer { folder, answer });
        }
    }

    /// That a grant was taken is said once the folder can be opened, which a pause puts off: whoever were told before would
    /// open it in vain and offer it again. And nobody is told that nothing was decided on a folder that is here: another
    /// member's offer of it was, while this one was weighed.
    fn now_true(&self, folder: FolderId, answer: GrantAnswer) -> GrantAnswer {
        match (answer, self.folder_known(folder).is_some()) {
            (GrantAnswer::Refused, _) => answer,
            (_, true) => GrantAnswer::Accepted,
            (_, false) => GrantAnswer::Pending,
        }
    }

    fn folder_known(&self, folder: FolderId) -> Option<FolderNo> {
        self.store.folder_no(folder).ok().filter(|no| self.folders.contains_key(no))
    }

    /// A peer to which a folder was granted does not have it. It is offered as soon as the peer has answered the offer before,
    /// or had time to: it looks at one of ours after the other, and each is a whole access log.
    pub(super) fn offer_grant(&mut self, conn: Conn, no: FolderNo, now: Instant) {
        let Some((id, _)) = self.session_on(conn, no) else { return };
        let Some(session) = self.session(conn, id) else { return };
        session.grant.vain = session.grant.vain.saturating_add(1);
        let taken = std::mem::take(&mut session.grant.taken);
        // One that was said to be taken is offered again after a pause.
        if !taken {
            if let Some(connection) = self.conns.get_mut(&conn) {
                connection.to_offer.insert(no);
            }
            self.offer_next(conn, now);
        }
        if let Some(session) = self.session(conn, id)
            && matches!(session.stage, Stage::Refused { .. })
        {
            session.stage = Stage::Refused { retry_at: session.grant.retry_at(now) };
        }
    }

    pub(super) fn offer_next(&mut self, conn: Conn, now: Instant) {
        loop {
            let Some(connection) = self.conns.get_mut(&conn) else { return };
            if connection.offered.is_some_and(|(_, at)| now < at + REFUSED_WAIT) {
                return;
            }
            connection.offered = None;
            let Some((no, id)) = self.next_to_offer(conn) else { return };
            if self.send_offer(conn, id, no, now)
                && let Some(connection) = self.conns.get_mut(&conn)
            {
                connection.offered = Some((no, now));
                return;
            }
        }
    }

    /// Takes the next folder out of those that wait: each in turn, whatever comes of the others. One that is being opened
    /// again comes back if that is in vain, and one whose grant was taken back meanwhile is not offered.
    fn next_to_offer(&mut self, conn: Conn) -> Option<(FolderNo, SessionId)> {
        let connection = self.conns.get(&conn)?;
        let last = connection.last_offered;
        let behind = (last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let before = last.into_iter().flat_map(|last| connection.to_offer.range(..=last));
        let (mut found, mut gone) = (None, Vec::new());
        let id = connection.peer.to_bytes();
        let granted = |no: &FolderNo| self.folders.get(no)?.access.seeder(&id);
        for no in connection.to_offer.range(behind).chain(before) {
            match self.session_on(conn, *no).filter(|_| granted(no).is_some()) {
                Some((id, Stage::Refused { .. } | Stage::Offered { .. })) => {
                    found = Some((*no, id));
                    gone.push(*no);
                    break;
                }
                _ => gone.push(*no),
            }
        }
        let connection = self.conns.get_mut(&conn)?;
        gone.iter().for_each(|no| {
            connection.to_offer.remove(no);
        });
        connection.last_offered = found.map(|(no, _)| no).or(last);
        found
    }

    /// A folder is open on a connection, or not here any more: it is not offered, and what was offered needs no answer.
    pub(super) fn offer_no_more(&mut self, conn: Conn, no: FolderNo, now: Instant) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.to_offer.remove(&no);
        self.offer_ended(conn, no, now);
    }

    fn offer_ended(&mut self, conn: Conn, no: FolderNo, now: Instant) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if connection.offered.take_if(|(offered, _)| *offered == no).is_some() {
            self.offer_next(conn, now);
        }
    }

    /// Sends the folder's access log; whether it could be read.
    fn send_offer(&mut self, conn: Conn, id: SessionId, no: FolderNo, now: Instant) -> bool {
        let records = match self.store.access_records(no) {
            Ok(records) => records.iter().map(cobox_store::format::access::Record::encode).collect(),
            Err(error) => {
                tracing::warn!(no = no.0, %error, "the access log cannot be read");
                return false;
            }
        };
        if let Some(session) = self.session(conn, id) {
            // It may get no answer.
            session.stage = Stage::Offered { retry_at: session.grant.retry_at(now) };
        }
        for (part, records) in split_records(records) {
            self.send(conn, Frame::GrantOffer { session: id, part, records });
        }
        true
    }

    /// Offers what waits on each connection, where an offer got no answer.
    pub(super) fn offer_again(&mut self, now: Instant) {
        let waits = self.conns.iter().filter(|(_, connection)| !connection.to_offer.is_empty());
        for conn in waits.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            self.offer_next(conn, now);
        }
    }

    pub(super) fn on_grant_answer(
        &mut self,
        conn: Conn,
        folder: FolderId,
        answer: GrantAnswer,
        now: Instant,
    ) {
        if let Some(no) = self.folder_known(folder) {
            self.take_answer(conn, no, answer, now);
            self.offer_ended(conn, no, now);
        }
    }

    fn take_answer(&mut self, conn: Conn, no: FolderNo, answer: GrantAnswer, now: Instant) {
        let Some((id, stage)) = self.session_on(conn, no) else { return };
        let offered = match stage {
            Stage::Offered { .. } => true,
            Stage::Refused { .. } => false,
            _ => return,
        };
        let granted = |peer: PeerId| self.folders.get(&no)?.access.seeder(&peer.to_bytes()).map(drop);
        if self.conns.get(&conn).and_then(|connection| granted(connection.peer)).is_none() {
            return;
        }
        // To open a folder again costs both ends a signature. Who was not offered it has asked for that.
        if answer == GrantAnswer::Accepted && !offered && !self.token(conn, now) {
            return;
        }
        let Some(session) = self.session(conn, id) else { return };
        match answer {
            GrantAnswer::Accepted => {
                session.grant.taken = true;
                self.open(conn, no, 0, now);
            }
            GrantAnswer::Pending => {
                // It makes no offer of one that was none: an `Accepted` behind it would cost nothing.
                let retry_at = session.grant.retry_at(now);
                session.stage =
                    if offered { Stage::Offered { retry_at } } else { Stage::Refused { retry_at } };
            }
            GrantAnswer::Refused => {
                session.grant_refused = true;
                session.stage = Stage::Refused { retry_at: now + REFUSED_WAIT * 10 };
            }
        }
    }
}

impl GrantSaid {
    /// When to look again for a folder that is not there.
    pub fn retry_at(&self, now: Instant) -> Instant {
        now + REFUSED_WAIT * (1 << self.vain.saturating_sub(1).min(VAIN_DOUBLES))
    }
}

/// Whether a folder begins with this record.
fn begins(record: &[u8]) -> bool {
    UnverifiedRecord::decode(record).is_ok_and(|record| matches!(record.content().act, Act::Genesis { .. }))
}
