//! Opening folders on a connection: who may see what, decided once per session.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use cobox_store::id::{FolderNo, LogId, MemberId};

use super::handshake::{Binding, Speaker};
use super::state::{Folder, GrantSaid, Session, Stage};
use super::{Conn, Engine, FULL_WAIT, HANDSHAKE_WAIT, Identity, Output, Place, Side};
use crate::peer_id::PeerId;
use crate::status::PeerKind;
use crate::tally::Refusal;
use crate::wire::{Frame, Proof, SessionId};

/// Swarm secrets tried with one peer, newest first: a peer that is more epochs behind learns of the
/// newer ones from somebody else.
pub(super) const SECRETS_MAX: usize = 8;
/// Connections on which one device has a folder open: one, one that takes its place, and a few of a copy of it that
/// does not know yet that it is one.
const DEVICE_CONNS_MAX: usize = 4;
/// Connections on which a folder is open at once, as others dialed them: twice as many as a folder has peers.
const FOLDER_CONNS_MAX: usize = 128;
/// The same of peers that know the folder's secret and are not listed: who waits to be, and who was removed.
const UNLISTED_CONNS_MAX: usize = 16;
/// How long a refused folder is not offered again.
pub(super) const REFUSED_WAIT: std::time::Duration = FULL_WAIT;

/// Who shares the places of a folder, so that those with the most give way.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Crowd {
    /// The devices of a person; all seeders.
    Person(Option<MemberId>),
    /// Who is not listed and comes from one place: keys, and peer ids, anybody makes as many as it likes.
    Place(Place),
}

impl Engine {
    pub(super) fn binding(&self, conn: Conn, session: SessionId, opener: Side) -> Option<Binding> {
        let connection = self.conns.get(&conn)?;
        let (mine, theirs) = (connection.nonce, connection.their_nonce?);
        Some(match opener {
            // Here `Dialer` stands for "we open".
            Side::Dialer => Binding {
                opener: self.me,
                responder: connection.peer,
                opener_nonce: mine,
                responder_nonce: theirs,
                session,
            },
            Side::Listener => Binding {
                opener: connection.peer,
                responder: self.me,
                opener_nonce: theirs,
                responder_nonce: mine,
                session,
            },
        })
    }

    /// Offers every folder that this peer is one of, and all to one that was seen on the local network.
    pub(super) fn open_all(&mut self, conn: Conn, now: Instant) {
        let Some(peer) = self.conns.get(&conn).map(|connection| connection.peer) else { return };
        let folders: Vec<FolderNo> = self
            .folders
            .iter()
            .filter(|(_, folder)| folder.peers.contains(&peer) || self.is_offered_near(folder, &peer))
            .map(|(no, _)| *no)
            .collect();
        for no in folders {
            self.open(conn, no, 0, now);
        }
    }

    /// Offers a folder to every connected peer that is one of its peers.
    pub(super) fn open_everywhere(&mut self, no: FolderNo, now: Instant) {
        let Some(folder) = self.folders.get(&no) else { return };
        let conns: Vec<Conn> = self
            .conns
            .iter()
            .filter(|(_, connection)| {
                connection.their_nonce.is_some() && folder.peers.contains(&connection.peer)
            })
            .map(|(conn, _)| *conn)
            .collect();
        for conn in conns {
            self.open(conn, no, 0, now);
        }
    }

    /// The session of a folder on a connection, and how far it is.
    pub(super) fn session_on(&self, conn: Conn, no: FolderNo) -> Option<(SessionId, Stage)> {
        let sessions = &self.folders.get(&no)?.sessions;
        let (_, id) = sessions.range((conn, SessionId(0))..=(conn, SessionId(u32::MAX))).next()?;
        Some((*id, self.conns.get(&conn)?.sessions.get(id)?.stage))
    }

    /// Sends `Open`, unless the folder has a session that works or is being opened on this connection.
    pub(super) fn open(&mut self, conn: Conn, no: FolderNo, secret_at: usize, now: Instant) {
        let grant = match self.session_on(conn, no) {
            None => GrantSaid::default(),
            Some((id, Stage::Refused { .. } | Stage::Offered { .. })) => {
                let grant = self.session(conn, id).map(|session| session.grant);
                self.drop_session(conn, id);
                grant.unwrap_or_default()
            }
            Some(_) => return,
        };
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let id = SessionId(connection.next_session);
        connection.next_session = connection.next_session.wrapping_add(2);
        let Some(binding) = self.binding(conn, id, Side::Dialer) else { return };
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let Some(secret) = folder.secrets.get(secret_at) else { return };
        let (blinded, proof) = (binding.blinded(secret), binding.proof(secret, Speaker::Opener));
        folder.sessions.insert((conn, id));
        if let Some(connection) = self.conns.get_mut(&conn) {
            let mut session = Session::new(no, Stage::Opening { since: now }, secret_at);
            session.grant = grant;
            connection.sessions.insert(id, session);
        }
        self.send(conn, Frame::Open { session: id, blinded, proof });
    }

    fn who(&self, folder: &Folder, binding: &Binding, speaker: Speaker) -> Proof {
        match &folder.identity {
            Identity::Seeder => Proof::Seeder,
            Identity::Member { log, signer } => Proof::Member {
                log: *log,
                signature: signer(&binding.transcript(folder.id, speaker, &log.0)),
            },
        }
    }

    /// A peer opens a folder under one of its secrets.
    pub(super) fn admit(
        &mut self,
        conn: Conn,
        binding: &Binding,
        (no, secret_at): (FolderNo, usize),
        now: Instant,
    ) {
        let id = binding.session;
        let Some(side) = self.conns.get(&conn).map(|connection| connection.side) else { return };
        // Once each folder is opened for nothing; again, over what was theirs, only as often as questions are asked.
        let before = self.session_on(conn, no);
        let again = before.is_some_and(|(other, _)| other.0 % 2 == id.0 % 2);
        let grant = before.and_then(|(other, _)| self.session(conn, other)).map(|session| session.grant);
        if again && !self.token(conn, now) {
            self.tally.refuse(Refusal::Session);
            self.out.push(Output::Close { conn });
            return;
        }
        if !self.yield_to(conn, no, side) {
            return;
        }
        let Some(folder) = self.folders.get(&no) else { return };
        let Some(secret) = folder.secrets.get(secret_at) else { return };
        let answer = Frame::Accept {
            session: id,
            proof: binding.proof(secret, Speaker::Responder),
            who: self.who(folder, binding, Speaker::Responder),
        };
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.sessions.insert((conn, id));
        }
        if let Some(connection) = self.conns.get_mut(&conn) {
            let mut session = Session::new(no, Stage::Accepted { since: now }, secret_at);
            session.grant = grant.unwrap_or_default();
            connection.sessions.insert(id, session);
        }
        self.send(conn, answer);
    }

    /// Where both sides open one folder, the connection's dialer wins; `false` when that is us.
    fn yield_to(&mut self, conn: Conn, no: FolderNo, side: Side) -> bool {
        let Some((id, stage)) = self.session_on(conn, no) else { return true };
        let busy = !matches!(stage, Stage::Refused { .. } | Stage::Offered { .. });
        if busy && side == Side::Dialer {
            return false;
        }
        self.drop_session(conn, id);
        true
    }

    pub(super) fn on_accept(
        &mut self,
        conn: Conn,
        id: SessionId,
        proof: [u8; 32],
        who: &Proof,
        now: Instant,
    ) {
        let Some(session) = self.session(conn, id) else { return };
        let (no, at, stage) = (session.no, session.secret_at, session.stage);
        let Some(binding) = self.binding(conn, id, Side::Dialer) else { return };
        let Some(folder) = self.folders.get(&no) else { return };
        let right = matches!(stage, Stage::Opening { .. })
            && folder.secrets.get(at).is_some_and(|secret| binding.proves(secret, Speaker::Responder, proof));
        let judged = if right {
            self.judge(folder, &binding, Speaker::Responder, binding.responder, who)
        } else {
            None
        };
        let Some(judged) = judged else {
            self.fail_session(conn, id, now);
            return;
        };
        let confirm = Frame::Confirm { session: id, who: self.who(folder, &binding, Speaker::Opener) };
        self.send(conn, confirm);
        self.begin(conn, id, judged, who, now);
    }

    pub(super) fn on_confirm(&mut self, conn: Conn, id: SessionId, who: &Proof, now: Instant) {
        let Some(session) = self.session(conn, id) else { return };
        let (no, stage) = (session.no, session.stage);
        let Some(binding) = self.binding(conn, id, Side::Listener) else { return };
        let Some(folder) = self.folders.get(&no) else { return };
        let judged = if matches!(stage, Stage::Accepted { .. }) {
            self.judge(folder, &binding, Speaker::Opener, binding.opener, who)
        } else {
            None
        };
        match judged {
            Some(judged) => self.begin(conn, id, judged, who, now),
            None => {
                self.send(conn, Frame::Refuse { session: id });
                self.fail_session(conn, id, now);
            }
        }
    }

    /// What a proof entitles to: `None` when it does not hold.
    fn judge(
        &self,
        folder: &Folder,
        binding: &Binding,
        speaker: Speaker,
        peer: PeerId,
        who: &Proof,
    ) -> Option<(PeerKind, Stage)> {
        match who {
            Proof::Seeder => {
                let listed = folder.access.seeder(&peer.to_bytes()).is_some();
                Some((PeerKind::Seeder, if listed { Stage::Open } else { Stage::Restricted }))
            }
            Proof::Member { log, signature } => {
                let listed = folder.access.devices.contains_key(log);
                let stage = if listed { Stage::Open } else { Stage::Restricted };
                binding
                    .device_signed(folder.id, speaker, *log, signature)
                    .then_some((PeerKind::Member, stage))
            }
        }
    }

    fn begin(
        &mut self,
        conn: Conn,
        id: SessionId,
        (kind, stage): (PeerKind, Stage),
        who: &Proof,
        now: Instant,
    ) {
        let Some(session) = self.session(conn, id) else { return };
        session.kind = kind;
        session.stage = stage;
        session.grant = GrantSaid::default();
        if let Proof::Member { log, .. } = who {
            session.log = Some(*log);
        }
        let (no, log) = (session.no, session.log);
        tracing::debug!(no = no.0, ?kind, ?stage, "session");
        if stage == Stage::Open {
            let peer = self.conns.get(&conn).map(|connection| connection.peer);
            if let (Some(peer), Some(log)) = (peer, log) {
                self.prove(no, peer, log);
                self.device_came(conn, no, log);
            }
            self.out.push(Output::Opened { conn, session: id, no, log });
            if kind == PeerKind::Member {
                self.tell_joins(conn, id, no);
                self.tell_seeds(conn, id, no);
            }
        }
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.plan.rescan = true;
            folder.contacts_news = true;
        }
        self.dirty.insert(no);
        self.offer_no_more(conn, no, now);
        self.thin_out(no, stage, log);
    }

    /// Closes a connection where a device, or a folder, has too many: the oldest of the device, or of the crowd with the
    /// most. Else one member could take all places of the node, and one who was removed all of those who are to be let in.
    fn thin_out(&mut self, no: FolderNo, stage: Stage, log: Option<LogId>) {
        let Some(folder) = self.folders.get(&no) else { return };
        let inbound = folder.sessions.iter().filter_map(|(conn, id)| {
            let connection = self.conns.get(conn).filter(|it| it.side == Side::Listener)?;
            let session = connection.sessions.get(id).filter(|session| session.stage == stage)?;
            Some((*conn, session.log, connection.place))
        });
        let inbound: Vec<(Conn, Option<LogId>, Place)> = inbound.collect();
        let crowd = |log: Option<LogId>, place: Place| match stage {
            Stage::Open => {
                let device = log.and_then(|log| folder.access.devices.get(&log));
                Crowd::Person(device.map(|device| device.member))
            }
            _ => Crowd::Place(place),
        };
        let own = || inbound.iter().filter(|(_, other, _)| log.is_some() && *other == log);
        let most = if stage == Stage::Open { FOLDER_CONNS_MAX } else { UNLISTED_CONNS_MAX };
        let spare = if own().count() > DEVICE_CONNS_MAX {
            own().map(|(conn, ..)| *conn).min()
        } else if inbound.len() > most {
            let mut of: BTreeMap<Crowd, Vec<Conn>> = BTreeMap::new();
            inbound
                .iter()
                .for_each(|(conn, log, place)| of.entry(crowd(*log, *place)).or_default().push(*conn));
            let crowds = of.values().filter_map(|conns| Some((conns.len(), Reverse(*conns.iter().min()?))));
            crowds.max().map(|(_, Reverse(conn))| conn)
        } else {
            None
        };
        if let Some(conn) = spare {
            self.tally.refuse(Refusal::Connection);
            self.out.push(Output::Close { conn });
        }
    }

    /// Lets sessions flow whose peer has been listed since, and stops those whose peer no longer is.
    pub(super) fn rejudge(&mut self, no: FolderNo) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        folder.contacts_news = true;
        let access = folder.access.clone();
        let mut proved = Vec::new();
        for (conn, id) in folder.sessions.clone() {
            let Some(connection) = self.conns.get(&conn) else { continue };
            let peer = connection.peer;
            let Some(session) = connection.sessions.get(&id) else { continue };
            let listed = match (session.kind, session.log) {
                (PeerKind::Seeder, _) => access.seeder(&peer.to_bytes()).is_some(),
                (PeerKind::Member, Some(log)) => access.devices.contains_key(&log),
                _ => continue,
            };
            let (stage, log) = (session.stage, session.log);
            match (stage, listed) {
                (Stage::Restricted, true) => {
                    self.restage(conn, id, Stage::Open);
                    proved.extend(log.map(|log| (peer, log)));
                    self.out.push(Output::Opened { conn, session: id, no, log });
                }
                (Stage::Open, false) => self.restage(conn, id, Stage::Restricted),
                _ => {}
            }
        }
        for (peer, log) in proved {
            self.prove(no, peer, log);
        }
    }

    /// The peer takes no part in the folder any more, or not for now: a peer that is configured is asked again.
    pub(super) fn on_close(&mut self, conn: Conn, id: SessionId, now: Instant) {
        let Some(session) = self.session(conn, id) else { return };
        let (no, grant) = (session.no, session.grant);
        self.drop_session(conn, id);
        // A seeder that pauses takes all its folders out at once. Each of them once is bounded as they are.
        let first = self.conns.get_mut(&conn).is_some_and(|connection| connection.left.insert(no));
        if !first && !self.token(conn, now) {
            self.tally.refuse(Refusal::Session);
            self.out.push(Output::Close { conn });
            return;
        }
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        let Some(folder) = self.folders.get_mut(&no) else { return };
        if folder.peers.contains(&connection.peer) {
            let again = SessionId(connection.next_session);
            connection.next_session = connection.next_session.wrapping_add(2);
            let mut session = Session::new(no, Stage::Refused { retry_at: grant.retry_at(now) }, 0);
            session.grant = grant;
            connection.sessions.insert(again, session);
            folder.sessions.insert((conn, again));
        }
    }

    /// Ends sessions with peers that were configured, are no longer, and may not exchange entries.
    pub(super) fn leave(&mut self, no: FolderNo, gone: &BTreeSet<PeerId>) {
        let Some(folder) = self.folders.get(&no) else { return };
        for (conn, id) in folder.sessions.clone() {
            let Some(connection) = self.conns.get(&conn).filter(|conn| gone.contains(&conn.peer)) else {
                continue;
            };
            if connection.sessions.get(&id).is_some_and(|session| session.stage == Stage::Restricted) {
                self.send(conn, Frame::Close { session: id });
                self.drop_session(conn, id);
            }
        }
    }

    /// Changes how far a session is. Over one that is open no more, nothing is served and nothing comes.
    fn restage(&mut self, conn: Conn, id: SessionId, stage: Stage) {
        let Some(session) = self.session(conn, id) else { return };
        let (no, was_open) = (session.no, session.is_open());
        session.stage = stage;
        if was_open && stage != Stage::Open {
            self.out.push(Output::Closed { conn, session: id });
            self.stop_session(conn, id, no);
        }
    }

    fn fail_session(&mut self, conn: Conn, id: SessionId, now: Instant) {
        let Some(session) = self.session(conn, id) else { return };
        // What waits to be opened again waits no less for what is said of it meanwhile.
        if matches!(session.stage, Stage::Refused { .. } | Stage::Offered { .. }) {
            return;
        }
        let stage = Stage::Refused { retry_at: session.grant.retry_at(now) };
        let was_open = self.open_folder(conn, id);
        self.restage(conn, id, stage);
        // What it was asked for may come from others.
        self.dirty.extend(was_open);
    }

    pub(super) fn on_refuse(&mut self, conn: Conn, id: SessionId, now: Instant) {
        if self.recovery_refused(conn, id) {
            return;
        }
        let Some(session) = self.session(conn, id) else { return };
        let (no, at, opening) =
            (session.no, session.secret_at, matches!(session.stage, Stage::Opening { .. }));
        self.fail_session(conn, id, now);
        if !opening {
            return;
        }
        let Some(folder) = self.folders.get(&no) else { return };
        if at + 1 < folder.secrets.len().min(SECRETS_MAX) {
            self.open(conn, no, at + 1, now);
            return;
        }
        let Some(peer) = self.conns.get(&conn).map(|connection| connection.peer) else { return };
        // Seeders offer too: a granted seeder that was off while members were there, or that lost its disk,
        // is brought in by the others.
        if folder.access.seeder(&peer.to_bytes()).is_some() {
            self.offer_grant(conn, no, now);
        }
    }

    /// Gives up handshakes that take too long, and offers refused folders again.
    pub(super) fn retry_sessions(&mut self, now: Instant) {
        let (mut again, mut slow) = (Vec::new(), Vec::new());
        for (conn, connection) in &self.conns {
            for (id, session) in &connection.sessions {
                match session.stage {
                    Stage::Opening { since } | Stage::Accepted { since } if now > since + HANDSHAKE_WAIT => {
                        slow.push((*conn, *id));
                    }
                    Stage::Refused { retry_at } | Stage::Offered { retry_at } if now >= retry_at => {
                        again.push((*conn, *id, session.no, connection.peer));
                    }
                    _ => {}
                }
            }
        }
        for (conn, id) in slow {
            self.fail_session(conn, id, now);
        }
        for (conn, id, no, peer) in again {
            if self.folders.get(&no).is_some_and(|folder| folder.peers.contains(&peer)) {
                self.open(conn, no, 0, now);
            } else {
                self.drop_session(conn, id);
            }
        }
    }
}
