//! What the engine remembers: folders, connections, and a folder's sessions on them. Plain data.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_store::blind::{Access, Branches};
use cobox_store::format::entry::LogHead;
use cobox_store::format::pack::PackRef;
use cobox_store::id::{FolderId, FolderNo, InviteKey, LogId, PackId, RecordHash};

use super::calls::Call;
use super::contacts::Teller;
use super::settle::Haste;
use super::tokens::{HEARD, SAID, Tokens};
use super::turns::Waiting;
use super::{Conn, Identity, Place, Side};
use crate::node::SwarmKey;
use crate::peer_id::PeerId;
use crate::status::PeerKind;
use crate::wire::{Contact, SessionId};

/// One connection.
pub(super) struct Connection {
    pub peer: PeerId,
    pub side: Side,
    /// Where it comes from, where the peer dialed.
    pub place: Place,
    pub nonce: [u8; 32],
    pub their_nonce: Option<[u8; 32]>,
    pub next_session: u32,
    pub next_question: u32,
    pub sessions: BTreeMap<SessionId, Session>,
    pub offer: Offer,
    /// How much the peer may still ask, offer, offer beyond what is heard, and tell of where devices are.
    pub questions: Tokens,
    pub offers: Tokens,
    pub unheard: Tokens,
    pub words: Tokens,
    /// How much it may be told of that, folders of which it was not told yet, and the last one of those that it was.
    pub telling: Tokens,
    pub untold: BTreeMap<FolderNo, ()>,
    pub last_told: Option<FolderNo>,
    /// Folders in which the peer told where devices are, those in which it was told, and those that it took out: the first of
    /// each is heard in any case, and not of each session, of which there may be any number. Both ends reckon alike, so that
    /// they stay while a folder is away.
    pub heard_contacts: BTreeSet<FolderNo>,
    pub said_contacts: BTreeSet<FolderNo>,
    pub left: BTreeSet<FolderNo>,
    pub used_at: Instant,
    /// It owes us packs, and nothing of them comes.
    pub late: bool,
    /// It is being closed.
    pub ends: bool,
    /// The folder that the peer opened last, the session of ours for one that it opened, and how often in succession it
    /// opened what was not found at once; see [`super::knocks`].
    pub found: Option<FolderNo>,
    pub met: Option<SessionId>,
    pub vain: u32,
    /// Folders whose grant the peer offered, and of which it was told that nobody has decided yet.
    pub undecided: BTreeSet<FolderId>,
    /// Folders that wait for their turn to be offered, the one that had it last, and the one whose answer is waited for
    /// since when.
    pub to_offer: BTreeSet<FolderNo>,
    pub last_offered: Option<FolderNo>,
    pub offered: Option<(FolderNo, Instant)>,
}

impl Connection {
    /// One on which nothing was said yet.
    pub fn new(peer: PeerId, (side, place): (Side, Place), nonce: [u8; 32], now: Instant) -> Self {
        Self {
            peer,
            side,
            place,
            nonce,
            their_nonce: None,
            // The dialer's sessions are even, the listener's odd.
            next_session: if side == Side::Dialer { 2 } else { 1 },
            next_question: 1,
            sessions: BTreeMap::new(),
            offer: Offer::None,
            questions: Tokens::full(HEARD, now),
            offers: Tokens::full(HEARD, now),
            unheard: Tokens::full(HEARD, now),
            words: Tokens::full(HEARD, now),
            telling: Tokens::full(SAID, now),
            untold: BTreeMap::new(),
            last_told: None,
            heard_contacts: BTreeSet::new(),
            said_contacts: BTreeSet::new(),
            left: BTreeSet::new(),
            used_at: now,
            late: false,
            ends: false,
            found: None,
            met: None,
            vain: 0,
            undecided: BTreeSet::new(),
            to_offer: BTreeSet::new(),
            last_offered: None,
            offered: None,
        }
    }
}

/// A grant offer on a connection.
#[derive(Default)]
pub(super) enum Offer {
    #[default]
    None,
    /// Encoded records, not looked at.
    Arriving { records: Vec<Vec<u8>>, bytes: usize },
    /// Too much is on its way already: the rest of it is not kept.
    Skipped { bytes: usize },
}

impl Offer {
    /// How much came of it.
    pub fn came(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Arriving { bytes, .. } | Self::Skipped { bytes } => *bytes,
        }
    }

    /// How much of it is kept.
    pub fn kept(&self) -> usize {
        if let Self::Arriving { bytes, .. } = self { *bytes } else { 0 }
    }
}

/// How far back a peer was asked for the entry at which its chain left ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Doubt {
    /// The log or branch that was asked for.
    pub asked_as: LogId,
    /// From which number on.
    pub from: u64,
    /// How far that was before what was asked for earlier.
    pub step: u64,
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// `Open` was sent.
    Opening { since: Instant },
    /// `Accept` was sent.
    Accepted { since: Instant },
    /// The peer refused, or did not answer; tried again at `retry_at`.
    Refused { retry_at: Instant },
    /// The grant was offered; tried again at `retry_at`.
    Offered { retry_at: Instant },
    /// The peer proved the swarm secret, but the access log does not list it yet.
    Restricted,
    /// Everything flows.
    Open,
}

/// One folder on one connection.
pub(super) struct Session {
    pub no: FolderNo,
    pub stage: Stage,
    /// Which of the folder's swarm secrets is used.
    pub secret_at: usize,
    pub kind: PeerKind,
    /// The device that proved itself, where the peer is a member.
    pub log: Option<LogId>,
    /// Entries the peer holds.
    pub theirs: BTreeMap<LogId, u64>,
    /// Heads the peer was told.
    pub told: BTreeMap<LogId, u64>,
    pub told_access: Option<Vec<RecordHash>>,
    /// Heads of the access log that the peer told last.
    pub said_access: Option<Vec<RecordHash>>,
    /// Hashes of the proofs of forks that the peer was told, or told us.
    pub told_forks: HashSet<[u8; 32]>,
    /// Logs that the peer continues from an entry that is not here, by their devices.
    pub doubts: HashMap<LogId, Doubt>,
    /// Access heads that the peer told, and when we asked for what is behind them last.
    pub their_access: Vec<RecordHash>,
    pub access_asked: Option<Instant>,
    /// Which contacts the peer was told, or told us: when each was said.
    pub told_contacts: BTreeMap<LogId, u64>,
    /// Hashes of the papers that the peer was told.
    pub told_papers: Vec<[u8; 32]>,
    pub told_lack: Option<Lack>,
    /// Whether the peer told its heads: they come after what it lacks.
    pub told_heads: bool,
    /// What the peer said it lacks.
    pub lack: Option<Lack>,
    /// Packs that the peer said it does not have.
    pub absent: HashSet<PackId>,
    /// Packs that the peer asked for in vain.
    pub denied: HashSet<PackId>,
    /// Logs that could not be continued from this peer, until when not to ask again.
    pub bad_logs: HashMap<LogId, Instant>,
    /// How long pulls of entries from it took, together.
    pub waited: Duration,
    /// Packs it is sending us.
    pub fetching: usize,
    pub grant_refused: bool,
    /// What came of its grant before.
    pub grant: GrantSaid,
}

/// What a peer made of a grant, from one opening of the folder to the next.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct GrantSaid {
    /// How often in succession the folder was not there.
    pub vain: u32,
    /// It was taken, and the folder is opened for that.
    pub taken: bool,
}

impl Session {
    pub fn new(no: FolderNo, stage: Stage, secret_at: usize) -> Self {
        Self {
            no,
            stage,
            secret_at,
            kind: PeerKind::Unknown,
            log: None,
            theirs: BTreeMap::new(),
            told: BTreeMap::new(),
            told_access: None,
            said_access: None,
            told_papers: Vec::new(),
            told_forks: HashSet::new(),
            doubts: HashMap::new(),
            their_access: Vec::new(),
            access_asked: None,
            told_contacts: BTreeMap::new(),
            told_lack: None,
            told_heads: false,
            lack: None,
            absent: HashSet::new(),
            denied: HashSet::new(),
            bad_logs: HashMap::new(),
            waited: Duration::ZERO,
            fetching: 0,
            grant_refused: false,
            grant: GrantSaid::default(),
        }
    }

    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }
}

/// Live packs that are not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Lack {
    pub packs: u64,
    pub bytes: u64,
    pub full: bool,
}

/// A pull of one log from one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pull {
    pub conn: Conn,
    pub session: SessionId,
    pub from: u64,
    /// When it was asked for, or brought something new last.
    pub since: Instant,
    pub asked_at: Instant,
}

/// One folder.
pub(super) struct Folder {
    pub id: FolderId,
    pub identity: Identity,
    pub secrets: Vec<SwarmKey>,
    /// Whom the program named, and where they are.
    pub named: Vec<(PeerId, Vec<Vec<u8>>)>,
    /// What devices of the folder said of themselves, our own word among them.
    pub contacts: BTreeMap<LogId, Contact>,
    /// What seeders said before that, where it was something else.
    pub past: BTreeMap<LogId, Contact>,
    /// Devices that dialed this seeder, and when what it said of itself then was said.
    pub came: BTreeMap<LogId, u64>,
    /// Devices that this seeder called.
    pub calls: BTreeMap<LogId, Call>,
    /// Whether somebody may not have been told one of them.
    pub contacts_news: bool,
    /// The same of devices that the access log does not list yet.
    pub unlisted: BTreeMap<LogId, (Teller, Contact)>,
    /// The peer id under which each device proved itself last.
    pub proved: BTreeMap<LogId, PeerId>,
    /// Whom the folder is offered: those two.
    pub peers: BTreeSet<PeerId>,
    pub sessions: BTreeSet<(Conn, SessionId)>,
    pub heads: BTreeMap<LogId, LogHead>,
    pub access: Arc<Access>,
    /// Closed logs, where each forked, and the proofs.
    pub forks: Vec<Vec<u8>>,
    pub branches: Arc<Branches>,
    pub lack: Lack,
    pub surveyed: bool,
    pub next_survey: Instant,
    pub full_until: Option<Instant>,
    /// When to look again for entries that could not be asked for, or were not taken.
    pub pull_again: Option<Instant>,
    /// When devices are told what we lack, if we still do.
    pub tell_lack: Option<Instant>,
    pub pulls: HashMap<LogId, Pull>,
    pub plan: Plan,
    /// Who waits to be let in.
    pub joins: BTreeMap<InviteKey, Vec<u8>>,
    /// Seeders that wait for a grant.
    pub seeds: BTreeMap<InviteKey, Vec<u8>>,
    /// What this seeder lays before the folder's devices.
    pub papers: Vec<Vec<u8>>,
    /// How often what peers say, what the store says, and what was asked for and came settle the folder at once, and how
    /// often its fetches are looked at.
    pub by_peers: Haste,
    pub by_store: Haste,
    pub by_answers: Haste,
    pub by_fetches: Haste,
}

impl Folder {
    /// A folder of which nothing is known yet but what is given.
    pub fn new(
        id: FolderId,
        identity: Identity,
        secrets: Vec<SwarmKey>,
        access: Arc<Access>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            identity,
            secrets,
            named: Vec::new(),
            contacts: BTreeMap::new(),
            past: BTreeMap::new(),
            came: BTreeMap::new(),
            calls: BTreeMap::new(),
            contacts_news: true,
            unlisted: BTreeMap::new(),
            proved: BTreeMap::new(),
            peers: BTreeSet::new(),
            sessions: BTreeSet::new(),
            heads: BTreeMap::new(),
            access,
            forks: Vec::new(),
            branches: Arc::default(),
            lack: Lack::default(),
            surveyed: false,
            next_survey: now,
            full_until: None,
            pull_again: None,
            tell_lack: None,
            pulls: HashMap::new(),
            plan: Plan { rescan: true, ..Plan::default() },
            joins: BTreeMap::new(),
            seeds: BTreeMap::new(),
            papers: Vec::new(),
            by_peers: Haste::default(),
            by_store: Haste::default(),
            by_answers: Haste::default(),
            by_fetches: Haste::default(),
        }
    }
}

/// Which packs to fetch next.
#[derive(Default)]
pub(super) struct Plan {
    /// Where the scan of missing packs goes on; `None` at the start.
    pub cursor: Option<PackId>,
    /// Whether the scan has to begin again.
    pub rescan: bool,
    /// Whether the scan is between its start and its end.
    pub scanning: bool,
    pub queue: VecDeque<PackRef>,
    pub flying: BTreeMap<PackId, Flight>,
    /// Since when there was no room for the first of the queue.
    pub waiting: Option<Waiting>,
}

/// A pack that was asked for.
#[derive(Clone, Copy)]
pub(super) struct Flight {
    pub conn: Conn,
    pub session: SessionId,
    pub size: u64,
    /// It is to end: another peer can be asked, or its session has ended.
    pub let_go: bool,
}
