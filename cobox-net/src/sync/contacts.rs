//! Where a folder's devices are: each says so itself, signed, and who proved the folder passes it on.
//!
//! A contact never leaves its folder's sessions. What it says of its device's peer id is that device's word alone,
//! until a peer of that id proves which device it is: so no device takes another's place, and the addresses of
//! several that claim one peer id are all tried.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use cobox_store::format::access::{ADDRESS_BYTES_MAX, ADDRESSES_MAX};
use cobox_store::id::{FolderNo, LogId};

use super::dial::{LINKS, SHUFFLE_EVERY, Want};
use super::reach::{SAID_MAX, Source, dialable};
use super::state::Folder;
use super::{Conn, Engine, Identity, Output, Side};
use crate::peer_id::PeerId;
use crate::rotation::next_behind;
use crate::status::PeerKind;
use crate::wire::{CONTACTS_MAX, Contact, Frame, SessionId, Whereabouts};

/// Folders that are looked at in a tick of which there is nothing to tell by now.
const EMPTY_MAX: usize = 64;

/// Who told a contact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Teller {
    /// The program kept it.
    Kept,
    /// A peer.
    Peer(Conn),
}

/// What a contact was worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Learnt {
    /// It is newer than what was known.
    News,
    /// A later word of that device is known.
    Outdated,
    Nothing,
}

impl Engine {
    /// Signs where this device is, for a folder's peers.
    pub(super) fn say_where(&mut self, no: FolderNo) {
        let (me, said_ms, addresses) = (self.me, self.own.said_ms, self.own.at.clone());
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let Identity::Member { log, signer } = &folder.identity else { return };
        let (log, signer) = (*log, signer.clone());
        if said_ms == 0 || folder.contacts.get(&log).is_some_and(|own| own.said_ms == said_ms) {
            return;
        }
        let mut contact = Contact { peer: me, log, said_ms, addresses, signature: [0; 64] };
        contact.signature = signer(&contact.signed_text(folder.id));
        folder.keep_own_word(contact);
        folder.contacts_news = true;
        self.dirty.insert(no);
    }

    /// Takes what was kept, as far as the devices are still listed.
    pub(super) fn recall(&mut self, no: FolderNo, known: Whereabouts) {
        for contact in known.contacts {
            self.learn(no, contact, Teller::Kept);
        }
        if let Some(folder) = self.folders.get_mut(&no) {
            for (log, said_ms) in known.came {
                if folder.access.devices.contains_key(&log) {
                    // A folder is recalled again with each change of its access log: what was kept may be old.
                    let came = folder.came.entry(log).or_default();
                    *came = said_ms.max(*came);
                }
            }
        }
        self.look_for_devices(no);
        self.regroup(no);
    }

    /// What is known of where a folder's peers are, for a program to keep: seeders first.
    #[must_use]
    pub fn contacts(&self, no: FolderNo) -> Vec<Contact> {
        let me = self.me;
        let Some(folder) = self.folders.get(&no) else { return Vec::new() };
        let others = folder.contacts.values().filter(|contact| contact.peer != me);
        let (seeders, devices): (Vec<&Contact>, Vec<&Contact>) =
            others.partition(|contact| folder.is_of_seeder(contact));
        let all = seeders.into_iter().chain(folder.past.values()).chain(devices);
        all.take(CONTACTS_MAX).cloned().collect()
    }

    /// Keeps a contact that is newer than what is known. Nothing is done with one that its device did not sign.
    fn learn(&mut self, no: FolderNo, contact: Contact, teller: Teller) -> Learnt {
        let Some(folder) = self.folders.get_mut(&no) else { return Learnt::Nothing };
        let known = folder.contacts.get(&contact.log).map(|known| known.said_ms);
        let fits = contact.addresses.iter().all(|address| address.len() <= ADDRESS_BYTES_MAX);
        if known.is_some_and(|known| known > contact.said_ms) {
            if teller == Teller::Kept && contact.is_genuine(folder.id) {
                folder.keep_past(contact);
            }
            return Learnt::Outdated;
        }
        let again = known == Some(contact.said_ms);
        if !fits || again || !contact.is_genuine(folder.id) {
            return Learnt::Nothing;
        }
        if !folder.lists(&contact) {
            // It is told once, and the record that lists the device may be on its way.
            folder.keep_unlisted(contact, teller);
            return Learnt::Nothing;
        }
        if !folder.believes(&contact) {
            return Learnt::Nothing;
        }
        if folder.own_log(self.me) == contact.log {
            self.hear_ourselves(no, contact.said_ms);
            return Learnt::Nothing;
        }
        if known.is_none() && folder.contacts.len() >= CONTACTS_MAX {
            let Some(oldest) = folder.oldest_of_devices(self.me) else { return Learnt::Nothing };
            folder.contacts.remove(&oldest);
        }
        let log = contact.log;
        if let Some(before) = folder.contacts.insert(log, contact) {
            folder.keep_past(before);
        }
        folder.contacts_news = true;
        if teller != Teller::Kept {
            self.note_whereabouts(no, log);
        }
        Learnt::News
    }

    /// Our own word from before, with a clock that was ahead: it is said again, later than that.
    fn hear_ourselves(&mut self, no: FolderNo, said_ms: u64) {
        if said_ms == u64::MAX {
            return;
        }
        match self.folders.get(&no).map(|folder| &folder.identity) {
            Some(Identity::Member { .. }) => {
                self.own.said_ms = self.own.said_ms.max(said_ms.saturating_add(1));
                self.say_where(no);
            }
            Some(Identity::Seeder) => self.hear_word(said_ms),
            _ => {}
        }
    }

    /// Tells every peer of the folder what it was not told yet.
    pub(super) fn tell_contacts(&mut self, no: FolderNo, now: Instant) {
        if self.folders.get(&no).is_none_or(|folder| !folder.contacts_news) {
            return;
        }
        self.say_where_as_seeder(no);
        let Some(folder) = self.folders.get_mut(&no) else { return };
        folder.contacts_news = false;
        for (conn, id) in folder.sessions.clone() {
            let news = self.contacts_for(conn, id);
            let Some(connection) = self.conns.get_mut(&conn) else { continue };
            // The first word of a folder is told at once, and heard at once. What is told later keeps a pace: the address of a
            // device changes in all its folders at one moment.
            let later = connection.said_contacts.contains(&no);
            if news.is_empty() {
                continue;
            }
            if later && (!connection.untold.is_empty() || !connection.telling.take(now)) {
                connection.untold.insert(no, ());
            } else {
                self.send_contacts(conn, id, &news);
            }
        }
    }

    /// What the peer of a session was not told yet.
    fn contacts_for(&self, conn: Conn, id: SessionId) -> Vec<Contact> {
        let session = self.conns.get(&conn).and_then(|connection| connection.sessions.get(&id));
        let Some(session) = session.filter(|session| session.is_open()) else { return Vec::new() };
        let speaker = self.speaker(conn, id);
        let contacts = self.folders.get(&session.no).into_iter().flat_map(|folder| folder.contacts.values());
        let is_news = |contact: &&Contact| match session.told_contacts.get(&contact.log) {
            Some(at) => *at < contact.said_ms,
            // A device hears its own word only if it said an older one: its clock was ahead then.
            None => speaker != Some(contact.log),
        };
        contacts.filter(is_news).cloned().collect()
    }

    fn send_contacts(&mut self, conn: Conn, id: SessionId, news: &[Contact]) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if let Some(session) = connection.sessions.get_mut(&id) {
            connection.said_contacts.insert(session.no);
            session.told_contacts.extend(news.iter().map(|contact| (contact.log, contact.said_ms)));
        }
        for contacts in news.chunks(CONTACTS_MAX) {
            self.send(conn, Frame::Contacts { session: id, contacts: contacts.to_vec() });
        }
    }

    /// Tells what had to wait, as far as that may be by now: each folder in turn.
    pub(super) fn tell_late_contacts(&mut self, now: Instant) {
        let waits = self.conns.iter().filter(|(_, connection)| !connection.untold.is_empty());
        for conn in waits.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            // A folder of which there is nothing to tell by now costs nothing of the pace, but some of a tick.
            let mut empty = 0;
            while let Some(connection) = self.conns.get_mut(&conn)
                && !connection.untold.is_empty()
                && empty < EMPTY_MAX
                && connection.telling.take(now)
                && let Some(no) = next_behind(&connection.untold, &mut connection.last_told)
            {
                connection.untold.remove(&no);
                let session = self.session_on(conn, no).map(|(id, _)| (id, self.contacts_for(conn, id)));
                match session.filter(|(_, news)| !news.is_empty()) {
                    Some((id, news)) => self.send_contacts(conn, id, &news),
                    None => {
                        empty += 1;
                        let connection = self.conns.get_mut(&conn);
                        connection.into_iter().for_each(|connection| connection.telling.give_back());
                    }
                }
            }
        }
    }

    pub(super) fn on_contacts(&mut self, conn: Conn, id: SessionId, contacts: Vec<Contact>, now: Instant) {
        let Some(no) = self.access_folder(conn, id) else { return };
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        // Each costs a check of a signature. The first word of a folder is bounded as folders are: two peers may have hundreds
        // in common. A session may begin as often as its peer likes.
        let first = connection.heard_contacts.insert(no);
        if !first && !connection.words.take(now) {
            // No peer that keeps the pace. A new connection tells them again.
            self.out.push(Output::Close { conn });
            return;
        }
        let mut news = false;
        for contact in contacts {
            let Some(folder) = self.folders.get_mut(&no) else { return };
            let listed = folder.lists(&contact);
            let (log, said_ms) = (contact.log, contact.said_ms);
            let own = self.speaker(conn, id) == Some(log);
            let Some(session) = self.session(conn, id) else { return };
            if listed {
                // Of listed devices only: a peer can make up any number of others.
                let told = session.told_contacts.entry(log).or_default();
                *told = said_ms.max(*told);
            }
            let learnt = self.learn(no, contact, Teller::Peer(conn));
            news |= learnt == Learnt::News;
            if own && learnt == Learnt::Outdated {
                if let Some(folder) = self.folders.get_mut(&no) {
                    folder.contacts_news = true;
                }
                self.dirty.insert(no);
            }
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
        let mut contacts = std::mem::take(&mut folder.contacts);
        contacts.retain(|_, contact| folder.lists(contact));
        let mut past = std::mem::take(&mut folder.past);
        past.retain(|_, contact| folder.lists(contact));
        (folder.contacts, folder.past) = (contacts, past);
        let access = &folder.access;
        folder.proved.retain(|log, _| access.devices.contains_key(log));
        folder.came.retain(|log, _| access.devices.contains_key(log));
        folder.calls.retain(|log, _| access.devices.contains_key(log));
        for (teller, contact) in std::mem::take(&mut folder.unlisted).into_values() {
            self.learn(no, contact, teller);
        }
        self.regroup(no);
    }

    /// Puts together whom a folder is offered and who is dialed for it: those whom the program named, and the
    /// folder's devices. A seeder waits for devices to come.
    pub(super) fn regroup(&mut self, no: FolderNo) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let mut wishes: Vec<(PeerId, Vec<Vec<u8>>, Want)> = Vec::new();
        for (peer, addresses) in &folder.named {
            if !folder.names_seeder(peer) {
                wishes.push((*peer, addresses.clone(), Want::Some));
                continue;
            }
            // Its own word is the newest; what its grant says stays true if it moved back.
            let mut all = folder.said_by_seeder(peer, &self.own.at);
            let granted = addresses.iter().filter(|address| !all.contains(address)).cloned();
            let granted: Vec<Vec<u8>> = granted.collect();
            all.extend(granted);
            wishes.push((*peer, all, Want::Always));
        }
        for (peer, said) in folder.said_of_others(self.me, &self.own.at) {
            match wishes.iter_mut().find(|(named, _, _)| *named == peer) {
                Some((_, addresses, Want::Some)) => {
                    // Its own word is newer than what a code said; what the code said stays true if it is not its own.
                    let at = if folder.proved.values().any(|proved| *proved == peer) {
                        0
                    } else {
                        addresses.len()
                    };
                    addresses.splice(at..at, said);
                }
                Some(_) => {}
                None => wishes.push((peer, said, Want::Some)),
            }
        }
        folder.peers = wishes.iter().map(|(peer, _, _)| *peer).collect();
        self.dialer.set(no, &wishes);
        for peer in &folder.peers {
            if let Some(near) = self.lan.get(peer) {
                self.dialer.seen(*peer, near.addresses());
            }
        }
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

    /// The device behind a peer, if it proved or said who it is.
    pub(super) fn log_of(folder: &Folder, peer: &PeerId) -> Option<LogId> {
        let proved = folder.proved.iter().find(|(_, proved)| *proved == peer).map(|(log, _)| *log);
        let device = |contact: &&Contact| contact.peer == *peer && !folder.is_of_seeder(contact);
        let said = || folder.contacts.values().find(device);
        proved.or_else(|| said().map(|contact| contact.log))
    }

    /// A peer proved which device it is: others that claim its peer id are not believed any more.
    pub(super) fn prove(&mut self, no: FolderNo, peer: PeerId, log: LogId) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        if folder.proved.get(&log) == Some(&peer) {
            return;
        }
        // A home that joined again is another device under the same peer id.
        folder.proved.retain(|_, proved| *proved != peer);
        folder.proved.insert(log, peer);
        let mut contacts = std::mem::take(&mut folder.contacts);
        contacts.retain(|_, contact| folder.believes(contact));
        folder.contacts = contacts;
        self.regroup(no);
    }

    /// Which of the folder's keys the peer of a session proved to have.
    fn speaker(&self, conn: Conn, id: SessionId) -> Option<LogId> {
        let connection = self.conns.get(&conn)?;
        let session = connection.sessions.get(&id)?;
        let seeder = || (session.kind == PeerKind::Seeder).then(|| LogId(*connection.peer.key()));
        session.log.or_else(seeder)
    }
}

impl Folder {
    /// The key under which this node says where it is.
    fn own_log(&self, me: PeerId) -> LogId {
        match &self.identity {
            Identity::Member { log, .. } => *log,
            Identity::Seeder => LogId(*me.key()),
        }
    }

    /// Keeps where this node is. There are no more than fit a frame also with it, since peers are told all in one.
    pub(super) fn keep_own_word(&mut self, contact: Contact) {
        if !self.contacts.contains_key(&contact.log) && self.contacts.len() >= CONTACTS_MAX {
            let any = || self.contacts.values().min_by_key(|old| old.said_ms).map(|old| old.log);
            let oldest = self.oldest_of_devices(contact.peer).or_else(any);
            oldest.and_then(|oldest| self.contacts.remove(&oldest));
        }
        self.contacts.insert(contact.log, contact);
    }

    /// Whose word makes room. Seeders stay where they are for years, and say so once.
    fn oldest_of_devices(&self, me: PeerId) -> Option<LogId> {
        let devices = self.contacts.values().filter(|old| old.peer != me && !self.is_of_seeder(old));
        devices.min_by_key(|old| old.said_ms).map(|old| old.log)
    }

    /// Whether the access log lists who said this.
    fn lists(&self, contact: &Contact) -> bool {
        self.access.devices.contains_key(&contact.log) || self.is_of_seeder(contact)
    }

    /// Whether a contact may be true: no other person's device proved that the peer id is its own. A device that joined
    /// again, under a fresh log, has its peer id still.
    fn believes(&self, contact: &Contact) -> bool {
        let member = |log: &LogId| self.access.devices.get(log).map(|device| device.member);
        let other = |log: &LogId| *log != contact.log && member(log) != member(&contact.log);
        !self.proved.iter().any(|(log, peer)| *peer == contact.peer && other(log))
    }

    /// Keeps the word of a device that is not listed yet. Who tells many gives up its own where there are too many.
    fn keep_unlisted(&mut self, contact: Contact, teller: Teller) {
        if self.unlisted.get(&contact.log).is_some_and(|(_, known)| known.said_ms >= contact.said_ms) {
            return;
        }
        self.unlisted.insert(contact.log, (teller, contact));
        if self.unlisted.len() > CONTACTS_MAX {
            let mut of: BTreeMap<Teller, usize> = BTreeMap::new();
            self.unlisted.values().for_each(|(teller, _)| *of.entry(*teller).or_default() += 1);
            let most = of.into_iter().max_by_key(|(teller, many)| (*many, *teller)).map(|(teller, _)| teller);
            let gone =
                self.unlisted.iter().find(|(_, (teller, _))| Some(*teller) == most).map(|(log, _)| *log);
            gone.and_then(|log| self.unlisted.remove(&log));
        }
    }

    /// Where others are by what devices said, each source in turn: one of them cannot fill the list.
    fn said_of_others(&self, me: PeerId, own: &[Vec<u8>]) -> BTreeMap<PeerId, Vec<Vec<u8>>> {
        let mut of: BTreeMap<PeerId, Vec<Vec<Vec<u8>>>> = BTreeMap::new();
        if matches!(self.identity, Identity::Seeder) {
            return BTreeMap::new();
        }
        // A seeder speaks for itself alone (`moved.rs`).
        let others = |contact: &&Contact| contact.peer != me && !self.names_seeder(&contact.peer);
        for contact in self.contacts.values().filter(others) {
            let said = dialable(&contact.addresses, Source::Far, own);
            of.entry(contact.peer).or_default().push(said);
        }
        let merge = |sources: Vec<Vec<Vec<u8>>>| {
            let mut merged: Vec<Vec<u8>> = Vec::new();
            for at in 0..SAID_MAX {
                for address in sources.iter().filter_map(|source| source.get(at)) {
                    if merged.len() < SAID_MAX && !merged.contains(address) {
                        merged.push(address.clone());
                    }
                }
            }
            merged
        };
        of.into_iter().map(|(peer, sources)| (peer, merge(sources))).collect()
    }
}

/// Addresses that fit a contact.
pub(super) fn fitting(mut addresses: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    // What is announced may be where it listens, too.
    let mut seen = BTreeSet::new();
    addresses.retain(|address| address.len() <= ADDRESS_BYTES_MAX && seen.insert(address.clone()));
    addresses.truncate(ADDRESSES_MAX);
    addresses
}
