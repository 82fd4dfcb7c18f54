//! The sync engine: decides what is asked, sent and pushed. It has no sockets, no clock and no thread.
//!
//! [`Engine::step`] takes one [`Input`] and the time, reads and writes small things in the store (heads,
//! entries, the access log), and returns what the driver must do. Packs are moved by the driver: the
//! engine only says which pack to fetch from whom, and hears how it went. Called by `crate::node`'s
//! engine thread and by the simulation in `tests/`.

mod access;
mod asks;
mod calls;
mod contacts;
mod dial;
mod entries;
mod forks;
mod handshake;
mod join;
mod knocks;
mod moved;
mod near;
mod offers;
mod place;
mod plan;
mod printed;
mod reach;
mod report;
mod seeding;
mod sessions;
mod settle;
mod state;
mod strangers;
mod tokens;
mod turns;
mod unkept;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_store::blind::Store;
use cobox_store::format::agreement::Paper;
use cobox_store::format::invite::JoinRequest;
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::Challenge;
use cobox_store::format::seeding::SeedRequest;
use cobox_store::id::{FolderId, FolderNo, LogId, PackId};

pub use asks::{Ask, Failure, Reply};
pub use dial::{Dialer, LINKS, PAUSE_MAX, PAUSE_MIN, SHUFFLE_EVERY, Want};
pub use handshake::{Binding, SESSION_CONTEXT, Speaker, signed_bytes};
pub use moved::Moves;
pub use place::Place;
pub use plan::SMALL_BYTES_MAX;
pub use seeding::{Ordered, PAPERS_MAX};
pub use settle::Work;
pub use unkept::{Keep, MOVES_MAX};

use crate::node::{Signer, SwarmKey};
use crate::peer_id::PeerId;
use crate::tally::{Refusal, Tally};
use crate::wire::{Frame, GrantAnswer, QuestionId, SessionId, Whereabouts};
use state::{Connection, Folder, Lack, Session, Stage};
use strangers::STRANGER_WAIT;

/// How often the driver sends [`Input::Tick`].
pub const TICK: Duration = Duration::from_millis(50);
/// A handshake that takes longer has failed.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// How long nothing is fetched after the disk or the quota was full.
const FULL_WAIT: Duration = Duration::from_secs(3);

/// A connection, named by the driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Conn(pub u64);

/// Who dialed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// We did.
    Dialer,
    /// The peer did.
    Listener,
}

/// Who we are in a folder.
#[derive(Clone)]
pub enum Identity {
    /// A seeder: our peer id is our key.
    Seeder,
    /// A member's device.
    Member {
        /// Its key of the folder.
        log: LogId,
        /// Signs with that key.
        signer: Signer,
    },
}

/// How fetching a pack went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// It is stored.
    Done,
    /// The peer does not have it.
    NotHere,
    /// The peer sent bytes that are not the pack's.
    Lied,
    /// The connection broke; what arrived is kept.
    Broken,
    /// No room on the disk, or none left of the quota.
    Full,
    /// The store failed.
    Failed,
}

/// What happened.
pub enum Input {
    /// A control stream is ready. `nonce` is fresh randomness.
    Up { conn: Conn, peer: PeerId, side: Side, place: Place, nonce: [u8; 32] },
    /// A connection is being closed: what comes over it still counts, and its end is told later.
    Ending { conn: Conn },
    /// A connection ended.
    Down { conn: Conn },
    /// Dialing a peer failed.
    DialFailed { peer: PeerId, error: String },
    /// A peer was reached, and hung up before a word was said.
    HungUp { peer: PeerId, error: String },
    /// A frame came in.
    Frame { conn: Conn, frame: Frame },
    /// A folder is to be synced, or its secrets changed.
    Folder { no: FolderNo, identity: Identity, secrets: Vec<SwarmKey> },
    /// A folder is not to be synced any more.
    FolderGone { no: FolderNo },
    /// Whom to dial for a folder, besides the devices that are known of it.
    Peers { no: FolderNo, peers: Vec<(PeerId, Vec<Vec<u8>>)> },
    /// Where this node listens, and the time.
    Listening { addresses: Vec<Vec<u8>>, now_ms: u64 },
    /// What was known of a folder's devices before this node began.
    Recall { no: FolderNo, known: Whereabouts },
    /// A peer was seen on the local network, at these addresses beside others.
    Seen { peer: PeerId, addresses: Vec<Vec<u8>> },
    /// It is no longer seen at these.
    Unseen { peer: PeerId, addresses: Vec<Vec<u8>> },
    /// Dial this peer now.
    Connect { peer: PeerId, addresses: Vec<Vec<u8>> },
    /// The store changed.
    Changed { no: FolderNo },
    /// A fetch ended.
    Fetched { conn: Conn, session: SessionId, no: FolderNo, pack: PackId, how: Fetched },
    /// A peer owes us packs and brings nothing of them any more, or does again.
    Late { conn: Conn, late: bool },
    /// A peer asked for a pack that is not here.
    Denied { conn: Conn, session: SessionId, pack: PackId },
    /// The owner decided on a grant that this peer offered first: for everybody who waits for that.
    GrantDecided { peer: PeerId, folder: FolderId, answer: GrantAnswer },
    /// What a peer offered was looked at.
    OfferWeighed { peer: PeerId },
    /// What this node says to it by itself: to that peer alone, as anybody may offer anything.
    OfferAnswered { peer: PeerId, folder: FolderId, answer: GrantAnswer },
    /// Somebody here wants something of a peer; the answer bears `ticket`.
    Ask { ticket: u64, peer: PeerId, addresses: Vec<Vec<u8>>, ask: Ask, deadline: Instant },
    /// What this seeder lays before a folder's devices; replaces what it laid there before.
    Papers { no: FolderNo, papers: Vec<Vec<u8>> },
    /// The answer to an [`Output::Ordered`].
    Answered { conn: Conn, frame: Box<Frame> },
    /// Time passed.
    Tick,
}

/// What the driver must do.
#[derive(Debug)]
pub enum Output {
    /// Send a frame on the control stream.
    Send { conn: Conn, frame: Frame },
    /// Close the connection.
    Close { conn: Conn },
    /// Dial.
    Dial { peer: PeerId, addresses: Vec<Vec<u8>> },
    /// The peer may ask for packs of this folder; as this device, if it is one.
    Opened { conn: Conn, session: SessionId, no: FolderNo, log: Option<LogId> },
    /// It may not any more.
    Closed { conn: Conn, session: SessionId },
    /// Fetch a pack; answer with [`Input::Fetched`].
    Fetch { conn: Conn, session: SessionId, no: FolderNo, pack: PackRef },
    /// End this fetch now, as broken: its session has ended, or somebody waits for the pack, and another peer may send it
    /// sooner. Said again until it has ended.
    LetGo { conn: Conn, session: SessionId, pack: PackId },
    /// Answer a challenge on the control stream.
    Prove { conn: Conn, session: SessionId, no: FolderNo, question: QuestionId, challenge: Challenge },
    /// Somebody asks us to hold a folder, with encoded records that nobody has looked at; answer with
    /// [`Input::OfferWeighed`], and then [`Input::OfferAnswered`] if there is something to say.
    GrantOffered { peer: PeerId, records: Vec<Vec<u8>> },
    /// Somebody with an invite asks to be let in; an admin's device answers with a record.
    JoinAsked { no: FolderNo, request: JoinRequest },
    /// A seeder with a code asks for a grant; an admin's device answers with a record.
    SeedAsked { no: FolderNo, request: Box<SeedRequest> },
    /// A seeder of the folder laid this before us.
    Paper { no: FolderNo, peer: PeerId, paper: Box<Paper> },
    /// Somebody wants to become an admin, or to have something done; answer with [`Input::Answered`].
    Ordered { conn: Conn, peer: PeerId, question: QuestionId, ordered: Ordered },
    /// The end of an [`Input::Ask`].
    Reply { ticket: u64, reply: Result<Reply, Failure> },
}

/// The engine of one node.
pub struct Engine {
    store: Arc<Store>,
    me: PeerId,
    folders: BTreeMap<FolderNo, Folder>,
    conns: BTreeMap<Conn, Connection>,
    dialer: Dialer,
    /// Folders to be settled: at the end of this step if there is a turn left, in any case, and at the next tick.
    dirty: BTreeSet<FolderNo>,
    pressing: BTreeSet<FolderNo>,
    later: BTreeSet<FolderNo>,
    /// Folders of which only the fetches are to be looked at.
    to_plan: BTreeSet<FolderNo>,
    /// Folders that have packs in flight, and those that wait for a place.
    fetching: BTreeSet<FolderNo>,
    lines: turns::Lines,
    knocks: knocks::Knocks,
    work: Work,
    asks: Vec<asks::Pending>,
    /// Peers that sent wrong bytes, and until when nothing is fetched from them.
    liars: HashMap<PeerId, Instant>,
    absent_since: Option<Instant>,
    /// Where we listen, and what we said of it.
    own: moved::Own,
    /// Peers on the local network.
    lan: BTreeMap<PeerId, near::Neighbour>,
    meetings: near::Meetings,
    next_shuffle: Option<Instant>,
    /// Peers whose grant offer is being looked at: one at a time of each.
    deciding: BTreeSet<PeerId>,
    /// Papers that came faster than they are heard: they are said once a session, so they wait for their turn.
    late_papers: Vec<seeding::LatePaper>,
    tally: Arc<Tally>,
    out: Vec<Output>,
}

impl Engine {
    /// An engine without folders or connections.
    #[must_use]
    pub fn new(store: Arc<Store>, me: PeerId) -> Self {
        Self {
            store,
            me,
            folders: BTreeMap::new(),
            conns: BTreeMap::new(),
            dialer: Dialer::new(*me.key()),
            dirty: BTreeSet::new(),
            pressing: BTreeSet::new(),
            later: BTreeSet::new(),
            to_plan: BTreeSet::new(),
            fetching: BTreeSet::new(),
            lines: turns::Lines::default(),
            knocks: knocks::Knocks::default(),
            work: Work::default(),
            asks: Vec::new(),
            liars: HashMap::new(),
            absent_since: None,
            own: moved::Own::default(),
            lan: BTreeMap::new(),
            meetings: near::Meetings::default(),
            next_shuffle: None,
            deciding: BTreeSet::new(),
            late_papers: Vec::new(),
            tally: Arc::default(),
            out: Vec::new(),
        }
    }

    /// The same, with refusals counted in `tally`.
    #[must_use]
    pub fn counting(self, tally: Arc<Tally>) -> Self {
        Self { tally, ..self }
    }

    /// Takes one input and says what follows from it.
    pub fn step(&mut self, input: Input, now: Instant) -> Vec<Output> {
        let cause = settle::Cause::of(&input);
        self.take(input, now);
        self.try_asks(now);
        self.settle_due(cause, now);
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, input: Input, now: Instant) {
        match input {
            Input::Up { conn, peer, side, place, nonce } => self.up(conn, peer, (side, place), nonce, now),
            Input::Ending { conn } => self.ending(conn),
            Input::Down { conn } => self.down(conn, now),
            Input::DialFailed { peer, error } => {
                self.dialer.failed(peer, error, now);
                self.look_at_wishes();
            }
            Input::HungUp { peer, error } => {
                self.dialer.hung_up(peer, error, now);
                self.look_at_wishes();
            }
            Input::Frame { conn, frame } => self.frame(conn, frame, now),
            Input::Folder { no, identity, secrets } => self.folder(no, identity, secrets, now),
            Input::FolderGone { no } => self.folder_gone(no, now),
            Input::Peers { no, peers } => self.peers(no, &peers, now),
            Input::Listening { addresses, now_ms } => self.listening(addresses, now_ms, now),
            Input::Recall { no, known } => self.recall(no, known),
            Input::Seen { peer, addresses } => self.seen(peer, &addresses, now),
            Input::Unseen { peer, addresses } => self.unseen(peer, &addresses),
            Input::Connect { peer, addresses } => self.dialer.once(peer, addresses, now + STRANGER_WAIT),
            Input::Changed { no } => self.mark(no),
            Input::Fetched { conn, session, no, pack, how } => {
                self.fetched((conn, session), no, pack, how, now);
            }
            Input::Late { conn, late } => self.late(conn, late),
            Input::Denied { conn, session, pack } => self.denied(conn, session, pack),
            Input::GrantDecided { peer, folder, answer } => self.grant_decided(peer, folder, answer),
            Input::OfferWeighed { peer } => self.offer_weighed(peer),
            Input::OfferAnswered { peer, folder, answer } => self.offer_answered(peer, folder, answer),
            Input::Ask { ticket, peer, addresses, ask, deadline } => {
                self.ask(ticket, peer, addresses, ask, deadline);
            }
            Input::Papers { no, papers } => self.papers(no, papers),
            Input::Answered { conn, frame } => self.send(conn, *frame),
            Input::Tick => self.tick(now),
        }
    }

    fn send(&mut self, conn: Conn, frame: Frame) {
        match &frame {
            Frame::Refuse { .. } => self.tally.refuse(Refusal::Session),
            Frame::GrantAnswer { answer: GrantAnswer::Refused, .. } => self.tally.refuse(Refusal::Grant),
            _ => {}
        }
        self.out.push(Output::Send { conn, frame });
    }

    fn mark(&mut self, no: FolderNo) {
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.surveyed = false;
            folder.plan.rescan = true;
            self.dirty.insert(no);
        }
    }

    fn session(&mut self, conn: Conn, session: SessionId) -> Option<&mut Session> {
        self.conns.get_mut(&conn)?.sessions.get_mut(&session)
    }

    /// The folder of a session that may exchange entries and packs.
    fn open_folder(&self, conn: Conn, session: SessionId) -> Option<FolderNo> {
        let session = self.conns.get(&conn)?.sessions.get(&session)?;
        session.is_open().then_some(session.no)
    }

    fn up(&mut self, conn: Conn, peer: PeerId, (side, place): (Side, Place), nonce: [u8; 32], now: Instant) {
        self.dialer.up(peer);
        let connection = Connection::new(peer, (side, place), nonce, now);
        self.conns.insert(conn, connection);
        self.send(conn, Frame::Hello { nonce });
        self.drop_stranger();
    }

    fn down(&mut self, conn: Conn, now: Instant) {
        let Some(connection) = self.conns.remove(&conn) else { return };
        self.dialer.down(connection.peer, now);
        self.knocks.forget(conn);
        self.forget_flights(conn);
        for (id, session) in connection.sessions {
            self.forget_session(conn, id, session.no);
        }
        self.asks_lost(conn);
    }

    /// Ends what a session brings.
    fn stop_session(&mut self, conn: Conn, id: SessionId, no: FolderNo) {
        self.let_go_of(conn, id, no);
        self.asks_left(conn, id);
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.pulls.retain(|_, pull| (pull.conn, pull.session) != (conn, id));
        }
    }

    /// Removes what a folder remembers of a session that has gone.
    fn forget_session(&mut self, conn: Conn, id: SessionId, no: FolderNo) {
        self.stop_session(conn, id, no);
        let Some(folder) = self.folders.get_mut(&no) else { return };
        folder.sessions.remove(&(conn, id));
        folder.plan.rescan = true;
        self.dirty.insert(no);
        self.next_turn();
    }

    fn drop_session(&mut self, conn: Conn, id: SessionId) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if let Some(session) = connection.sessions.remove(&id) {
            if session.is_open() {
                self.out.push(Output::Closed { conn, session: id });
            }
            self.forget_session(conn, id, session.no);
        }
    }

    fn folder(&mut self, no: FolderNo, identity: Identity, secrets: Vec<SwarmKey>, now: Instant) {
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.identity = identity;
            folder.secrets = secrets;
        } else {
            let (Ok(id), Ok(access)) = (self.store.folder_id(no), self.store.access(no)) else {
                tracing::warn!(no = no.0, "a folder that is not in the store cannot be synced");
                return;
            };
            let folder = Folder::new(id, identity, secrets, access, now);
            self.folders.insert(no, folder);
            self.take_whereabouts_back(no);
            self.tell_undecided(id);
        }
        self.mark(no);
        self.say_where(no);
        self.open_everywhere(no, now);
        self.ask_neighbours(now);
    }

    fn folder_gone(&mut self, no: FolderNo, now: Instant) {
        let Some(folder) = self.folders.get(&no) else { return };
        for (conn, id) in folder.sessions.clone() {
            self.send(conn, Frame::Close { session: id });
            self.drop_session(conn, id);
            self.offer_no_more(conn, no, now);
        }
        self.leave_line(no);
        self.put_whereabouts_aside(no);
        self.folders.remove(&no);
        self.fetching.remove(&no);
        self.next_turn();
        self.dialer.set(no, &[]);
        self.dirty.remove(&no);
        self.later.remove(&no);
        self.to_plan.remove(&no);
    }

    fn peers(&mut self, no: FolderNo, peers: &[(PeerId, Vec<Vec<u8>>)], now: Instant) {
        let me = self.me;
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let before = std::mem::take(&mut folder.peers);
        folder.named = peers.iter().filter(|(peer, _)| *peer != me).cloned().collect();
        self.regroup(no);
        let now_peers = self.folders.get(&no).map(|folder| folder.peers.clone()).unwrap_or_default();
        let gone: BTreeSet<PeerId> = before.difference(&now_peers).copied().collect();
        self.leave(no, &gone);
        self.open_everywhere(no, now);
        for (peer, addresses) in self.dialer.due(now) {
            self.out.push(Output::Dial { peer, addresses });
        }
    }

    fn tick(&mut self, now: Instant) {
        for (peer, addresses) in self.dialer.due(now) {
            self.out.push(Output::Dial { peer, addresses });
        }
        // First: what is opened again waits for its turn until that was in vain.
        self.offer_again(now);
        self.retry_sessions(now);
        self.retry_access(now);
        self.meet_neighbours(now);
        self.shuffle(now);
        self.after_moving(now);
        self.forgive_liars(now);
        self.forget_absent(now);
        self.look_at_wishes();
        self.let_go_again();
        self.next_turn();
        self.dirty.append(&mut self.later);
        self.hear_late_papers(now);
        self.tell_late_contacts(now);
        self.answer_knocks(now);
        self.close_idle_strangers(now);
        for (no, folder) in &mut self.folders {
            let full_over = folder.full_until.is_some_and(|until| now >= until);
            if full_over {
                folder.full_until = None;
                folder.plan.rescan = true;
                folder.surveyed = false;
            }
            let due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
            let again = due(folder.pull_again) || due(folder.tell_lack) || !folder.pulls.is_empty();
            // With nobody to ask, a scan waits for a session, whose opening settles the folder.
            let scans = (folder.plan.rescan || folder.plan.scanning) && !folder.sessions.is_empty();
            if again || !folder.surveyed || scans {
                self.dirty.insert(*no);
            }
        }
    }

    /// Takes a token for a question from a peer; `false` when it asks too much.
    fn token(&mut self, conn: Conn, now: Instant) -> bool {
        let Some(connection) = self.conns.get_mut(&conn) else { return false };
        connection.used_at = now;
        connection.questions.take(now)
    }

    fn frame(&mut self, conn: Conn, frame: Frame, now: Instant) {
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if let Frame::Hello { nonce } = frame {
            if connection.their_nonce.replace(nonce).is_some() {
                self.tally.refuse(Refusal::Frame);
                self.out.push(Output::Close { conn });
                return;
            }
            self.open_all(conn, now);
            return;
        }
        if connection.their_nonce.is_none() {
            self.tally.refuse(Refusal::Frame);
            self.out.push(Output::Close { conn });
            return;
        }
        match frame {
            Frame::Hello { .. } => {}
            Frame::Open { session, blinded, proof } => self.on_open(conn, session, blinded, proof, now),
            Frame::Accept { session, proof, who } => self.on_accept(conn, session, proof, &who, now),
            Frame::Confirm { session, who } => self.on_confirm(conn, session, &who, now),
            Frame::Refuse { session } => self.on_refuse(conn, session, now),
            Frame::Close { session } => self.on_close(conn, session, now),
            Frame::AccessHeads { session, heads } => self.on_access_heads(conn, session, &heads, now),
            Frame::AccessWant { session, have } => self.on_access_want(conn, session, &have, now),
            Frame::Records { session, part, records } => self.on_records(conn, session, part, &records),
            Frame::LogHeads { session, heads } => self.on_log_heads(conn, session, &heads),
            Frame::EntriesWant { session, log, from } => self.on_entries_want(conn, session, log, from),
            Frame::Entry { session, entry } => self.on_entry(conn, session, &entry, now),
            Frame::EntriesEnd { session, log, next } => self.on_entries_end(conn, session, log, next, now),
            Frame::Behind { session, packs, bytes, full } => {
                if let Some(session) = self.session(conn, session) {
                    session.lack = Some(Lack { packs, bytes, full });
                }
            }
            Frame::Have { session, packs } => self.on_have(conn, session, &packs),
            Frame::Contacts { session, contacts } => self.on_contacts(conn, session, contacts, now),
            Frame::Equivocation { session, proof } => self.on_equivocation(conn, session, &proof),
            Frame::GrantOffer { part, records, .. } => self.on_grant_offer(conn, part, records, now),
            Frame::GrantAnswer { folder, answer } => self.on_grant_answer(conn, folder, answer, now),
            Frame::Recover { session, folder, member, signature } => {
                self.on_recover(conn, session, folder, member, &signature, now);
            }
            Frame::Redeem { session, signature, request } => {
                self.on_redeem(conn, session, &signature, &request, now);
            }
            Frame::JoinAsked { session, request } => self.on_join_asked(conn, session, &request, now),
            Frame::JoinWait { session } => self.on_join_wait(conn, session),
            Frame::Seeding(frame) => self.on_seeding(conn, frame, now),
            other => self.on_question(conn, other, now),
        }
    }
}
