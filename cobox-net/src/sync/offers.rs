//! Grant offers as they arrive: anybody may send one, so here is only counted and passed on.
//!
//! What an offer says is looked at outside the engine, one offer at a time (`crate::offers`), because each of
//! its records costs a check of a signature.

use std::time::Instant;

use cobox_store::format::access::{Act, UnverifiedRecord};
use cobox_store::id::FolderId;

use super::state::Offer;
use super::{Conn, Engine, Output};
use crate::peer_id::PeerId;
use crate::wire::{Frame, GrantAnswer, Part};

/// Bytes of records in one grant offer: an access log of a folder with thousands of devices.
const OFFER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of all offers that are arriving: two large ones, or very many of usual size.
const OFFERS_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Engine {
    pub(super) fn on_grant_offer(&mut self, conn: Conn, part: Part, records: Vec<Vec<u8>>, now: Instant) {
        let arriving: usize = self.conns.values().map(|connection| connection.offer.bytes()).sum();
        let Some(connection) = self.conns.get(&conn) else { return };
        let peer = connection.peer;
        let fresh = matches!(connection.offer, Offer::None);
        // A token for each offer, and a look at what costs nothing to see.
        let wrong = fresh && !(self.token(conn, now) && records.first().is_some_and(|first| begins(first)));
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
        let skipped = deciding || arriving + bytes > OFFERS_BYTES_MAX;
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

    pub(super) fn grant_decided(&mut self, peer: PeerId, folder: FolderId, answer: GrantAnswer) {
        let conns: Vec<Conn> = self
            .conns
            .iter()
            .filter(|(_, connection)| connection.peer == peer)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in conns {
            self.send(conn, Frame::GrantAnswer { folder, answer });
        }
    }
}

/// Whether a folder begins with this record.
fn begins(record: &[u8]) -> bool {
    UnverifiedRecord::decode(record).is_ok_and(|record| matches!(record.content().act, Act::Genesis { .. }))
}
