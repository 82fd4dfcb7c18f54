//! Peers on the local network: who was seen, and who of them is asked whether it has one of our folders.
//!
//! A neighbour may be a stranger, and anybody on the network can make any number of them up. It is offered this
//! node's folders under blinded ids, and learns nothing from them unless it proves the folder itself. A folder's own
//! devices never give way to strangers.

use std::time::{Duration, Instant};

use super::reach::{SAID_MAX, Source, dialable};
use super::state::Folder;
use super::{Conn, Engine, Identity, Output, STRANGER_WAIT};
use crate::peer_id::PeerId;

/// Neighbours that are remembered: far more than a home or an office shows, and a bound for who makes them up.
const NEIGHBOURS_MAX: usize = 256;
/// How long a neighbour that had none of our folders is left alone.
const NEIGHBOUR_WAIT: Duration = Duration::from_secs(600);
/// Strangers that are asked in one go: those of a home; and one more each [`MEET_EVERY`].
const MEETINGS_MAX: u32 = 16;
/// See [`MEETINGS_MAX`]: a network of hundreds is asked in about a minute.
const MEET_EVERY: Duration = Duration::from_millis(250);
/// Folders that are offered to a neighbour: all that a device may have.
const OFFERED_MAX: usize = 64;

/// A peer on the local network.
pub(super) struct Neighbour {
    addresses: Vec<Vec<u8>>,
    meet_at: Instant,
}

impl Neighbour {
    pub fn addresses(&self) -> &[Vec<u8>] {
        &self.addresses
    }
}

/// How many strangers may be asked now.
#[derive(Default)]
pub(super) struct Meetings {
    spent: u32,
    since: Option<Instant>,
}

impl Meetings {
    fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let earned = u32::try_from(now.duration_since(since).as_millis() / MEET_EVERY.as_millis());
        let earned = earned.unwrap_or(u32::MAX);
        if earned > 0 {
            self.spent = self.spent.saturating_sub(earned);
            self.since = Some(now);
        }
        let granted = self.spent < MEETINGS_MAX;
        self.spent += u32::from(granted);
        granted
    }
}

impl Engine {
    /// A peer is on the local network at these addresses, and at those it was seen at before.
    pub(super) fn seen(&mut self, peer: PeerId, addresses: &[Vec<u8>], now: Instant) {
        let said = dialable(addresses, Source::Lan, &self.own.at);
        if peer == self.me || said.is_empty() {
            return;
        }
        if !self.lan.contains_key(&peer) && self.lan.len() >= NEIGHBOURS_MAX && !self.make_room(peer, now) {
            return;
        }
        let near = self.lan.entry(peer).or_insert_with(|| Neighbour { addresses: Vec::new(), meet_at: now });
        let fresh: Vec<Vec<u8>> =
            said.into_iter().filter(|address| !near.addresses.contains(address)).collect();
        if fresh.is_empty() {
            return;
        }
        near.addresses.splice(0..0, fresh);
        near.addresses.truncate(SAID_MAX);
        near.meet_at = now;
        self.dialer.seen(peer, &near.addresses);
        self.meet_neighbours(now);
    }

    /// Makes a stranger give way: any for a device of ours, and for another stranger the one that was asked longest ago.
    fn make_room(&mut self, newcomer: PeerId, now: Instant) -> bool {
        let ours = self.is_ours(&newcomer);
        // Whether it is ours is looked up in all folders.
        let strangers =
            self.lan.iter().filter(|(peer, near)| (ours || near.meet_at > now) && !self.is_ours(peer));
        let Some(gone) = strangers.min_by_key(|(_, near)| near.meet_at).map(|(peer, _)| *peer) else {
            return false;
        };
        self.lan.remove(&gone);
        true
    }

    fn is_ours(&self, peer: &PeerId) -> bool {
        self.folders.values().any(|folder| folder.peers.contains(peer))
    }

    /// A peer is no longer seen at these addresses.
    pub(super) fn unseen(&mut self, peer: PeerId, addresses: &[Vec<u8>]) {
        let Some(near) = self.lan.get_mut(&peer) else { return };
        near.addresses.retain(|address| !addresses.contains(address));
        if near.addresses.is_empty() {
            self.lan.remove(&peer);
        }
    }

    /// Asks everybody on the local network again, because there is a folder that they may have.
    pub(super) fn ask_neighbours(&mut self, now: Instant) {
        self.lan.values_mut().for_each(|near| near.meet_at = near.meet_at.min(now));
    }

    /// Dials neighbours of whom nothing is known, as long as this device has folders; who waits longest first.
    pub(super) fn meet_neighbours(&mut self, now: Instant) {
        // Every tick comes here. A seeder meets nobody, and may have many neighbours and folders.
        if self.own.seeder.is_some() {
            return;
        }
        let waiting = self.lan.iter().filter(|(_, near)| now >= near.meet_at);
        let mut waiting: Vec<(Instant, PeerId)> = waiting.map(|(peer, near)| (near.meet_at, *peer)).collect();
        let mine = || self.folders.values().any(|folder| matches!(folder.identity, Identity::Member { .. }));
        if waiting.is_empty() || !mine() {
            return;
        }
        waiting.sort_unstable();
        let mut here = Vec::new();
        for (_, peer) in waiting {
            let conns = self.conns.iter().filter(|(_, connection)| connection.peer == peer);
            let conns: Vec<Conn> = conns.map(|(conn, _)| *conn).collect();
            let stranger = conns.is_empty() && !self.dialer.wants(&peer);
            if stranger && !self.meetings.take(now) {
                continue;
            }
            let Some(near) = self.lan.get_mut(&peer) else { continue };
            near.meet_at = now + NEIGHBOUR_WAIT;
            if stranger {
                self.dialer.once(peer, near.addresses.clone(), now + STRANGER_WAIT);
            }
            here.extend(conns);
        }
        for conn in here {
            if self.conns.get(&conn).is_some_and(|connection| connection.their_nonce.is_some()) {
                self.open_all(conn, now);
            }
        }
        for (peer, addresses) in self.dialer.due(now) {
            self.out.push(Output::Dial { peer, addresses });
        }
    }

    /// Whether a folder is offered to a peer because it is near.
    pub(super) fn is_offered_near(&self, folder: &Folder, peer: &PeerId) -> bool {
        matches!(folder.identity, Identity::Member { .. })
            && self.folders.len() <= OFFERED_MAX
            && self.lan.contains_key(peer)
    }
}
