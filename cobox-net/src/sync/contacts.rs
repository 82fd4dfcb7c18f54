//! Where a folder's devices are: each says so itself, signed, and who proved the folder passes it on; and peers
//! that were seen on the local network.
//!
//! A contact never leaves its folder's sessions. A neighbour may be a stranger: it is offered this node's
//! folders under blinded ids, and learns nothing from them unless it proves the folder itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cobox_store::format::access::{ADDRESS_BYTES_MAX, ADDRESSES_MAX};
use cobox_store::id::{FolderNo, LogId};

use super::dial::{LINKS, SHUFFLE_EVERY, Want};
use super::state::Folder;
use super::{Conn, Engine, Identity, Output, STRANGER_WAIT, Side};
use crate::peer_id::PeerId;
use crate::status::PeerKind;
use crate::wire::{CONTACTS_MAX, Contact, Frame, SessionId};

/// Neighbours that are remembered: far more than a home or an office shows, and a bound for who makes them up.
const NEIGHBOURS_MAX: usize = 256;
/// How long a neighbour that had none of our folders is left alone.
const NEIGHBOUR_WAIT: Duration = Duration::from_secs(600);
/// Folders that are offered to a neighbour: all that a device may have.
const OFFERED_MAX: usize = 64;

/// A peer on the local network.
pub(super) struct Neighbour {
    addresses: Vec<Vec<u8>>,
    meet_at: Instant,
}

impl Engine {
    /// Where this node listens changed.
    pub(super) fn listening(&mut self, addresses: Vec<Vec<u8>>, now_ms: u64) {
        let said_ms = now_ms.max(self.own.1.saturating_add(1));
        self.own = (fitting(addresses), said_ms);
        for no in self.folders.keys().copied().collect::<Vec<_>>() {
            self.say_where(no);
        }
    }

    /// Signs where this device is, for a folder's peers.
    pub(super) fn say_where(&mut self, no: FolderNo) {
        let (me, (addresses, said_ms)) = (self.me, self.own.clone());
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let Identity::Member { log, signer } = &folder.identity else { return };
        let (log, signer) = (*log, signer.clone());
        if said_ms == 0 || folder.contacts.get(&log).is_some_and(|own| own.said_ms == said_ms) {
            return;
        }
        let mut contact = Contact { peer: me, log, said_ms, addresses, signature: [0; 64] };
        contact.signature = signer(&contact.signed_text(folder.id));
        folder.contacts.insert(log, contact);
        folder.contacts_news = true;
        self.dirty.insert(no);
    }

    /// Takes what was kept, as far as the devices are still listed.
    pub(super) fn recall(&mut self, no: FolderNo, contacts: Vec<Contact>) {
        for contact in contacts {
            self.learn(no, contact);
        }
        self.regroup(no);
    }

    /// What is known of a folder's devices, for a program to keep.
    #[must_use]
    pub fn contacts(&self, no: FolderNo) -> Vec<Contact> {
        let me = self.me;
        let folder = self.folders.get(&no);
        let contacts = folder.into_iter().flat_map(|folder| folder.contacts.values());
        contacts.filter(|contact| contact.peer != me).take(CONTACTS_MAX).cloned().collect()
    }

    /// Keeps a contact that is newer than what is known; `true` if it was.
    fn learn(&mut self, no: FolderNo, contact: Contact) -> bool {
        let Some(folder) = self.folders.get_mut(&no) else { return false };
        let known = folder.contacts.get(&contact.log).map(|known| known.said_ms);
        let fits = contact.addresses.iter().all(|address| address.len() <= ADDRESS_BYTES_MAX);
        let listed = folder.access.devices.contains_key(&contact.log);
        if fits && !listed && folder.unlisted.len() < CONTACTS_MAX {
            // It is told once, and the record that lists the device may be on its way.
            folder.unlisted.insert(contact.log, contact);
            return false;
        }
        if !fits
            || !listed
            || known.is_some_and(|known| known >= contact.said_ms)
            || !contact.is_genuine(folder.id)
        {
            return false;
        }
        if let Identity::Member { log, .. } = &folder.identity
            && *log == contact.log
        {
            // Our own word from before, with a clock that was ahead: say it again, later than that.
            if contact.said_ms < u64::MAX {
                self.own.1 = self.own.1.max(contact.said_ms.saturating_add(1));
                self.say_where(no);
            }
            return false;
        }
        if known.is_none() && folder.contacts.len() >= CONTACTS_MAX {
            let oldest = folder.contacts.values().filter(|old| old.peer != self.me);
            let Some(oldest) = oldest.min_by_key(|old| old.said_ms).map(|old| old.log) else { return false };
            folder.contacts.remove(&oldest);
        }
        folder.contacts.insert(contact.log, contact);
        folder.contacts_news = true;
        true
    }

    /// Tells every peer of the folder what it was not told yet.
    pub(super) fn tell_contacts(&mut self, no: FolderNo) {
        let Some(folder) = self.folders.get_mut(&no).filter(|folder| folder.contacts_news) else { return };
        folder.contacts_news = false;
        let (contacts, sessions) = (folder.contacts.clone(), folder.sessions.clone());
        for (conn, id) in sessions {
            let Some(session) = self.session(conn, id).filter(|session| session.is_open()) else { continue };
            let news: Vec<Contact> = contacts
                .values()
                .filter(|contact| session.log != Some(contact.log))
                .filter(|contact| {
                    session.told_contacts.get(&contact.log).is_none_or(|at| *at < contact.said_ms)
                })
                .cloned()
                .collect();
            session.told_contacts.extend(news.iter().map(|contact| (contact.log, contact.said_ms)));
            for contacts in news.chunks(CONTACTS_MAX) {
                self.send(conn, Frame::Contacts { session: id, contacts: contacts.to_vec() });
            }
        }
    }

    pub(super) fn on_contacts(&mut self, conn: Conn, id: SessionId, contacts: Vec<Contact>, now: Instant) {
        let Some(no) = self.access_folder(conn, id) else { return };
        if !self.token(conn, now) {
            // Each costs a check of a signature. A new connection tells them again.
            self.out.push(Output::Close { conn });
            return;
        }
        let mut news = false;
        for contact in contacts {
            if let Some(session) = self.session(conn, id) {
                let told = session.told_contacts.entry(contact.log).or_default();
                *told = contact.said_ms.max(*told);
            }
            news |= self.learn(no, contact);
        }
        if news {
            self.regroup(no);
            self.open_everywhere(no, now);
            self.dirty.insert(no);
        }
    }

    /// Forgets devices that are no longer listed, and looks again at those that were not.
    pub(super) fn forget_contacts(&mut self, no: FolderNo) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let access = &folder.access;
        folder.contacts.retain(|log, _| access.devices.contains_key(log));
        for contact in std::mem::take(&mut folder.unlisted).into_values() {
            self.learn(no, contact);
        }
        self.regroup(no);
    }

    /// Puts together whom a folder is offered and who is dialed for it: those whom the program named, and the
    /// folder's devices. A seeder waits for devices to come.
    pub(super) fn regroup(&mut self, no: FolderNo) {
        let me = self.me;
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let mut wishes: Vec<(PeerId, Vec<Vec<u8>>, Want)> = Vec::new();
        for (peer, addresses) in &folder.named {
            let seeder = folder.access.seeder(&peer.to_bytes()).is_some();
            wishes.push((*peer, addresses.clone(), if seeder { Want::Always } else { Want::Some }));
        }
        if matches!(folder.identity, Identity::Member { .. }) {
            for contact in folder.contacts.values().filter(|contact| contact.peer != me) {
                match wishes.iter_mut().find(|(peer, _, _)| *peer == contact.peer) {
                    // Its own word is newer than what a code said.
                    Some((_, addresses, Want::Some)) if !contact.addresses.is_empty() => {
                        addresses.clone_from(&contact.addresses);
                    }
                    Some(_) => {}
                    None => wishes.push((contact.peer, contact.addresses.clone(), Want::Some)),
                }
            }
        }
        folder.peers = wishes.iter().map(|(peer, _, _)| *peer).collect();
        self.dialer.set(no, &wishes);
        for peer in &folder.peers {
            if let Some(near) = self.lan.get(peer) {
                self.dialer.seen(*peer, &near.addresses);
            }
        }
    }

    /// A peer is on the local network; it may be a stranger.
    pub(super) fn seen(&mut self, peer: PeerId, addresses: Vec<Vec<u8>>, now: Instant) {
        let known = self.lan.contains_key(&peer);
        if peer == self.me || addresses.is_empty() || (!known && self.lan.len() >= NEIGHBOURS_MAX) {
            return;
        }
        let addresses = fitting(addresses);
        self.dialer.seen(peer, &addresses);
        self.lan.insert(peer, Neighbour { addresses, meet_at: now });
        self.meet_neighbours(now);
    }

    pub(super) fn unseen(&mut self, peer: PeerId) {
        self.lan.remove(&peer);
    }

    /// Asks everybody on the local network again, because there is a folder that they may have.
    pub(super) fn ask_neighbours(&mut self, now: Instant) {
        self.lan.values_mut().for_each(|near| near.meet_at = now);
    }

    /// Dials neighbours of whom nothing is known, as long as this device has folders.
    pub(super) fn meet_neighbours(&mut self, now: Instant) {
        let mine = self.folders.values().any(|folder| matches!(folder.identity, Identity::Member { .. }));
        if !mine || self.lan.values().all(|near| now < near.meet_at) {
            return;
        }
        let mut here = Vec::new();
        for (peer, near) in self.lan.iter_mut().filter(|(_, near)| now >= near.meet_at) {
            near.meet_at = now + NEIGHBOUR_WAIT;
            let conns = self.conns.iter().filter(|(_, connection)| connection.peer == *peer);
            let conns: Vec<Conn> = conns.map(|(conn, _)| *conn).collect();
            if conns.is_empty() && !self.dialer.wants(peer) {
                self.dialer.once(*peer, near.addresses.clone(), now + STRANGER_WAIT);
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

    /// Now and then makes a link more, and gives one up where there are too many: so that no two groups of
    /// devices are linked among themselves only.
    pub(super) fn shuffle(&mut self, now: Instant) {
        let first = SHUFFLE_EVERY * u32::from(self.me.key()[0]) / 256;
        let due = *self.next_shuffle.get_or_insert(now + first);
        if now < due {
            return;
        }
        self.next_shuffle = Some(now + SHUFFLE_EVERY);
        let members = |folder: &Folder| matches!(folder.identity, Identity::Member { .. });
        let folders: Vec<FolderNo> =
            self.folders.iter().filter(|(_, folder)| members(folder)).map(|(no, _)| *no).collect();
        // Half of those too many: the other ends give up links at the same time.
        let most = folders.iter().map(|no| self.dialer.linked(*no).saturating_sub(LINKS)).max().unwrap_or(0);
        for _ in 0..most.div_ceil(2) {
            self.give_up_one(&folders, now);
        }
        folders.into_iter().for_each(|no| self.dialer.one_more(no));
    }

    /// Closes the oldest link to a device that this one made, where no folder needs it.
    fn give_up_one(&mut self, folders: &[FolderNo], now: Instant) {
        let crowded: BTreeSet<FolderNo> =
            folders.iter().copied().filter(|no| self.dialer.linked(*no) > LINKS).collect();
        let spare = self.conns.iter().find(|(conn, connection)| {
            let idle = connection.sessions.values().all(|session| {
                session.kind == PeerKind::Member && session.fetching == 0 && crowded.contains(&session.no)
            });
            connection.side == Side::Dialer
                && idle
                && !connection.sessions.is_empty()
                && self.dialer.is_spare(&connection.peer)
                && !self.asks.iter().any(|pending| pending.conn() == Some(**conn))
        });
        if let Some((conn, connection)) = spare {
            let (conn, peer) = (*conn, connection.peer);
            self.dialer.rest(peer, now);
            self.out.push(Output::Close { conn });
            // It is gone for whoever counts links from here on.
            self.down(conn, now);
        }
    }

    /// The device behind a peer, if it said who it is.
    pub(super) fn log_of(folder: &Folder, peer: &PeerId) -> Option<LogId> {
        folder.contacts.values().find(|contact| contact.peer == *peer).map(|contact| contact.log)
    }
}

/// Addresses that fit a contact.
fn fitting(mut addresses: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    addresses.retain(|address| address.len() <= ADDRESS_BYTES_MAX);
    addresses.truncate(ADDRESSES_MAX);
    addresses
}
