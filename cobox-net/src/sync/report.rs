//! What the engine knows about a folder's peers, for people.

use std::collections::{BTreeMap, BTreeSet};

use cobox_store::format::entry::LogHead;
use cobox_store::id::{FolderNo, LogId};

use super::state::{Folder, Session};
use super::{Conn, Engine};
use crate::peer_id::PeerId;
use crate::status::{Path, PeerKind, PeerStatus, SessionState};
use crate::wire::Contact;

/// Entries whose packs are counted exactly in a report; beyond, the entries alone are shown.
const COUNTED_ENTRIES_MAX: u64 = 512;

impl Engine {
    /// The status of each peer of a folder, with the connection it is on; `None` for an unknown folder.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn report(
        &self,
        no: FolderNo,
    ) -> cobox_store::error::Result<Option<Vec<(Option<Conn>, PeerStatus)>>> {
        let Some(folder) = self.folders.get(&no) else { return Ok(None) };
        let heads: BTreeMap<_, _> =
            self.store.log_heads(no)?.into_iter().map(|head| (head.log, head)).collect();
        let mut found: BTreeMap<PeerId, (Option<Conn>, PeerStatus)> = BTreeMap::new();
        for peer in &folder.peers {
            let mut status = self.blank(*peer, folder);
            status.entries_behind = heads.values().map(|head| head.seq).sum();
            found.insert(*peer, (None, status));
        }
        for (conn, connection) in &self.conns {
            for session in connection.sessions.values().filter(|session| session.no == no) {
                if session.kind == PeerKind::Unknown && !folder.peers.contains(&connection.peer) {
                    // A neighbour that was offered the folder and has not shown that it has it.
                    continue;
                }
                let status = self.session_status(no, folder, &heads, connection.peer, session)?;
                let better = found.get(&connection.peer).is_none_or(|(_, old)| rank(old) <= rank(&status));
                if better {
                    found.insert(connection.peer, (Some(*conn), status));
                }
            }
        }
        Ok(Some(found.into_values().collect()))
    }

    /// Folders in which a member's device has a session open; all in one pass, for who asks about every one.
    #[must_use]
    pub fn with_members(&self) -> BTreeSet<FolderNo> {
        let sessions = self.conns.values().flat_map(|connection| connection.sessions.values());
        let open = sessions.filter(|session| session.is_open() && session.kind == PeerKind::Member);
        open.map(|session| session.no).collect()
    }

    fn blank(&self, peer: PeerId, folder: &Folder) -> PeerStatus {
        let seeder = folder.access.seeder(&peer.to_bytes()).is_some();
        let log = Self::log_of(folder, &peer);
        let contact = log.and_then(|log| folder.contacts.get(&log));
        let kind = match log {
            _ if seeder => PeerKind::Seeder,
            Some(_) => PeerKind::Member,
            None => PeerKind::Unknown,
        };
        PeerStatus {
            log,
            error: self.dialer.error(&peer).map(str::to_owned),
            note: self.why_not(peer, contact),
            packs_to_receive: folder.lack.packs,
            bytes_to_receive: folder.lack.bytes,
            ..PeerStatus::unheard(peer, kind)
        }
    }

    /// Why a peer is not called, as a sentence.
    fn why_not(&self, peer: PeerId, contact: Option<&Contact>) -> Option<String> {
        if contact?.addresses.is_empty() {
            return Some("it listens nowhere: it comes to others".to_owned());
        }
        let idle = !self.dialer.is_reaching(&peer);
        idle.then(|| "not needed now: enough other devices are linked".to_owned())
    }

    fn session_status(
        &self,
        no: FolderNo,
        folder: &Folder,
        heads: &BTreeMap<LogId, LogHead>,
        peer: PeerId,
        session: &Session,
    ) -> cobox_store::error::Result<PeerStatus> {
        let mut status = self.blank(peer, folder);
        status.path = Path::Direct;
        status.note = None;
        status.knows_access = session.said_access.as_ref().is_some_and(|theirs| {
            theirs.iter().eq(folder.access.heads.iter().take(cobox_store::format::HEADS_MAX))
        });
        status.session = Self::shown(session.stage);
        status.error = match status.session {
            SessionState::Refused if session.grant_refused => {
                Some("the seeder's owner refused the grant".to_owned())
            }
            SessionState::Refused => Some("the peer does not hold this folder".to_owned()),
            SessionState::Pending => Some("the seeder's owner has not accepted the grant yet".to_owned()),
            _ if self.liars.contains_key(&peer) => {
                Some("the peer sent bytes that are not the pack's".to_owned())
            }
            _ => None,
        };
        if session.kind != PeerKind::Unknown {
            status.kind = session.kind;
        }
        status.log = session.log.or(status.log);
        let (behind, to_receive) = Self::distance(folder, heads, &session.theirs);
        status.entries_to_receive = to_receive;
        status.ahead = Self::ahead(folder, heads, session);
        status.told_lack = session.lack.is_some() && session.told_heads;
        // A session has only just opened: nothing is known of what the peer lacks.
        if session.is_open() && !status.told_lack {
            return Ok(status);
        }
        status.entries_behind = behind;
        if let Some(lack) = session.lack {
            (status.packs_to_send, status.bytes_to_send, status.full) = (lack.packs, lack.bytes, lack.full);
            status.packs_lacking = lack.packs;
        }
        if status.entries_behind <= COUNTED_ENTRIES_MAX {
            for head in heads.values() {
                let theirs = session.theirs.get(&head.log).copied().unwrap_or(0);
                for seq in theirs.saturating_add(1)..=head.seq {
                    let Some((header, _)) = self.store.entry_header(no, head.log, seq)? else { continue };
                    let (packs, bytes) = header
                        .packs
                        .iter()
                        .fold((0, 0), |(packs, bytes), pack| (packs + 1, bytes + pack.size));
                    // What the peer said itself may be any number.
                    status.packs_to_send = status.packs_to_send.saturating_add(packs);
                    status.bytes_to_send = status.bytes_to_send.saturating_add(bytes);
                }
            }
        }
        Ok(status)
    }
}

impl Engine {
    /// How many entries of each device a peer said that it holds and may come here, the branches of a log together.
    fn ahead(folder: &Folder, heads: &BTreeMap<LogId, LogHead>, session: &Session) -> Vec<(LogId, u64)> {
        let mut ahead: BTreeMap<LogId, u64> = BTreeMap::new();
        for (log, seq) in &session.theirs {
            let more =
                Self::coming(folder, log, *seq).saturating_sub(heads.get(log).map_or(0, |head| head.seq));
            if more > 0 {
                let device = ahead.entry(folder.branches.origin(log)).or_default();
                // What the peer said itself may be any number.
                *device = device.saturating_add(more);
            }
        }
        ahead.into_iter().collect()
    }
}

fn rank(status: &PeerStatus) -> u8 {
    match status.session {
        SessionState::Offline => 0,
        SessionState::Refused => 1,
        SessionState::Opening => 2,
        SessionState::Pending => 3,
        SessionState::Restricted => 4,
        SessionState::Open => 5,
    }
}
