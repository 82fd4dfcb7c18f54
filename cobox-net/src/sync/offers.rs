//! Grant offers, as they arrive and as they are made. Anybody may send one, so here is only counted and passed on.
//!
//! What an offer says is looked at outside the engine, one offer at a time (`crate::offers`), because each of
//! its records costs a check of a signature.

use std::time::Instant;

use cobox_store::format::access::{Act, UnverifiedRecord};
use cobox_store::id::{FolderId, FolderNo};

use super::sessions::REFUSED_WAIT;
use super::state::{Offer, Session, Stage};
use super::{Conn, Engine, Output};
use crate::peer_id::PeerId;
use crate::wire::{Frame, GrantAnswer, Part, SessionId, split_records};

/// Bytes of records in one grant offer: an access log of a folder with thousands of devices.
const OFFER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of all offers that are arriving: two large ones, or very many of usual size.
const OFFERS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Folders that a connection is told of when they are decided on. Who waits for more looks again by itself.
const UNDECIDED_MAX: usize = 1024;
/// How often the pause doubles while the peer's owner decides: each time it is looked for there in vain, under each secret.
/// Of a decision it tells.
const UNDECIDED_DOUBLES: u32 = 4;

impl Engine {
    pub(super) fn on_grant_offer(&mut self, conn: Conn, part: Part, records: Vec<Vec<u8>>, now: Instant) {
        let arriving: usize = self.conns.values().map(|connection| connection.offer.bytes()).sum();
        let Some(connection) = self.conns.get(&conn) else { return };
        let peer = connection.peer;
        let fresh = matches!(connection.offer, Offer::None);
        // A token for each offer. One beyond is not heard and ends nothing: a peer may have many folders that are not here.
        let heard = !fresh || self.token(conn, now);
        // A look at what costs nothing to see.
        let wrong = fresh && heard && !records.first().is_some_and(|first| begins(first));
        let deciding = self.deciding.contains(&peer);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        connection.used_at = now;
        let bytes: usize = records.iter().map(Vec::len).sum();
        let offered = connection.offer.bytes() + bytes;
        if wrong || offered > OFFER_BYTES_MAX {
            connection.offer = Offer::None;
            self.out.push(Output::Close { conn });
            return;
        }
        // The member offers again while it waits, so nothing is lost by not listening now.
        let skipped = !heard || deciding || arriving + bytes > OFFERS_BYTES_MAX;
        let before = std::mem::replace(&mut connection.offer, Offer::None);
        let offer = match before {
            Offer::Skipped => Offer::Skipped,
            _ if skipped => Offer::Skipped,
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

    /// Tells the peer, and who else waits for it: several members offer one grant, and the owner is shown the first.
    pub(super) fn grant_decided(&mut self, peer: PeerId, folder: FolderId, answer: GrantAnswer) {
        let mut told = Vec::new();
        for (conn, connection) in &mut self.conns {
            let of_peer = connection.peer == peer;
            if answer != GrantAnswer::Pending {
                let waited = connection.undecided.remove(&folder);
                told.extend((of_peer || waited).then_some(*conn));
            } else if of_peer {
                if connection.undecided.len() < UNDECIDED_MAX {
                    connection.undecided.insert(folder);
                }
                told.push(*conn);
            }
        }
        for conn in told {
            self.send(conn, Frame::GrantAnswer { folder, answer });
        }
    }

    /// A folder is here now, in whatever way it came: who waits for that opens it.
    pub(super) fn tell_undecided(&mut self, folder: FolderId) {
        let waits = self.conns.iter().filter(|(_, connection)| connection.undecided.contains(&folder));
        for conn in waits.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            self.send(conn, Frame::GrantAnswer { folder, answer: GrantAnswer::Accepted });
        }
    }

    /// Offers a grant as soon as the peer has answered the one before, or had time to: it looks at one of ours after the
    /// other, and each is a whole access log.
    pub(super) fn offer_grant(&mut self, conn: Conn, no: FolderNo, now: Instant) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            if !connection.to_offer.contains(&no) {
                connection.to_offer.push_back(no);
            }
            self.offer_next(conn, now);
        }
    }

    pub(super) fn offer_next(&mut self, conn: Conn, now: Instant) {
        loop {
            let Some(connection) = self.conns.get_mut(&conn) else { return };
            if connection.offered.is_some_and(|(_, at)| now < at + REFUSED_WAIT) {
                return;
            }
            connection.offered = None;
            let Some(no) = connection.to_offer.pop_front() else { return };
            // One that is being opened again comes back when that was in vain.
            let waits = |session: &Session| {
                session.no == no && matches!(session.stage, Stage::Refused { .. } | Stage::Offered { .. })
            };
            let found = connection.sessions.iter().find(|(_, session)| waits(session)).map(|(id, _)| *id);
            if let Some(id) = found
                && self.send_offer(conn, id, no, now)
                && let Some(connection) = self.conns.get_mut(&conn)
            {
                connection.offered = Some((no, now));
                return;
            }
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
            session.stage = Stage::Offered { retry_at: now + REFUSED_WAIT };
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
        let Some(no) = self.folders.iter().find(|(_, known)| known.id == folder).map(|(no, _)| *no) else {
            return;
        };
        self.take_answer(conn, no, answer, now);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if connection.offered.is_some_and(|(offered, _)| offered == no) {
            connection.offered = None;
            self.offer_next(conn, now);
        }
    }

    fn take_answer(&mut self, conn: Conn, no: FolderNo, answer: GrantAnswer, now: Instant) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let Some(session) = connection.sessions.values_mut().find(|session| session.no == no) else { return };
        if !matches!(session.stage, Stage::Offered { .. } | Stage::Refused { .. }) {
            return;
        }
        match answer {
            GrantAnswer::Accepted => self.open(conn, no, 0, now),
            GrantAnswer::Pending => {
                session.undecided = UNDECIDED_DOUBLES.min(session.undecided + 1);
                session.stage = Stage::Offered { retry_at: now + REFUSED_WAIT * (1 << session.undecided) };
            }
            GrantAnswer::Refused => {
                session.grant_refused = true;
                session.stage = Stage::Refused { retry_at: now + REFUSED_WAIT * 10 };
            }
        }
    }
}

/// Whether a folder begins with this record.
fn begins(record: &[u8]) -> bool {
    UnverifiedRecord::decode(record).is_ok_and(|record| matches!(record.content().act, Act::Genesis { .. }))
}
