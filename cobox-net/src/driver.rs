//! Drives the engine: one engine thread, one swarm task, and the tasks of each connection.
//!
//! The engine's inbox has no length of its own; what fills it is bounded elsewhere: control frames by a
//! byte budget, fetches by the engine's own limits, everything else by what this device does.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cobox_store::blind::Store;
use cobox_store::format::agreement::Paper;
use cobox_store::format::invite::JoinRequest;
use cobox_store::format::seeding::SeedRequest;
use cobox_store::id::{FolderNo, LogId, PackId, hash};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::link::{Link, prove};
use crate::node::{GrantRule, NetConfig, OrderRule, REQUEST_WAIT};
use crate::offers::{OFFERS_QUEUED, Offered, weigh_offers};
use crate::orders::{Desk, Waiting, desk, obey};
use crate::peer_id::PeerId;
use crate::provers::Provers;
use crate::speaking::{announced, speaking};
use crate::status::{Connection, NetStatus, PeerStatus};
use crate::swarm::{self, Command, Event, Idle};
use crate::sync::{Ask, Conn, Engine, Failure, Input, Keep, Moves, Output, Reply, TICK};
use crate::tally::Tally;
use crate::transfer::control::{Heard, INBOX_KIB, Overflow, Reader, Rooms};
use crate::transfer::pull::{Batcher, Job};
use crate::transfer::room::{Name, Party};
use crate::transfer::serve::READERS_MAX;
use crate::transfer::{Buffers, CREDIT_SLICES, Tap};
use crate::wire::Contact;

/// Threads for the network: sealing a connection and moving its bytes keeps two busy.
const THREADS_MAX: usize = 4;
/// Threads that wait for the disk: packs in flight, packs being read, proofs and the batcher.
const BLOCKING_MAX: usize = 24;
/// Requests to join that wait for the program; a seeder's nobody reads.
const JOINS_MAX: usize = 64;
/// Papers that the daemon has not taken yet: one of each kind from 64 seeders of 64 folders.
const PAPERS_QUEUED_MAX: usize = 4 * 64 * 64;
/// How long starting waits for its addresses.
const LISTEN_WAIT: Duration = Duration::from_secs(2);
/// How long ending waits for what is being stored.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(10);

type Report = Result<Vec<(Option<Conn>, PeerStatus)>>;

enum Message {
    Input(Input, Option<Heard>),
    /// The store changed; which folders is in `changed`.
    Wake,
    Report(FolderNo, SyncSender<Report>),
    Contacts(FolderNo, SyncSender<Vec<Contact>>),
    WithMembers(SyncSender<BTreeSet<FolderNo>>),
    Moves(Keep, SyncSender<Moves>),
    Stop,
}

/// What all tasks of a node share.
pub struct Shared {
    pub store: Arc<Store>,
    pub seed: Zeroizing<[u8; 32]>,
    pub me: PeerId,
    pub tap: Tap,
    pub credit: Arc<Semaphore>,
    pub inbox: Arc<Semaphore>,
    pub rooms: Rooms,
    pub readers: Arc<Semaphore>,
    pub provers: Arc<Provers>,
    pub batcher: Batcher,
    pub buffers: Buffers,
    pub links: Mutex<HashMap<Conn, Arc<Link>>>,
    joins: Mutex<Vec<(FolderNo, JoinRequest)>>,
    seeds: Mutex<Vec<(FolderNo, SeedRequest)>>,
    papers: Mutex<Vec<(FolderNo, PeerId, Paper)>>,
    engine: UnboundedSender<Message>,
    commands: UnboundedSender<Command>,
    tickets: Mutex<HashMap<u64, SyncSender<Result<Reply, Failure>>>>,
    pub grants: Option<GrantRule>,
    pub tally: Arc<Tally>,
    offers: Sender<Offered>,
    pub orders: Option<OrderRule>,
    waiting: Desk,
}

/// A running node.
pub struct Driver {
    pub me: PeerId,
    shared: Arc<Shared>,
    listening: swarm::Listening,
    next_ticket: AtomicU64,
    runtime: Mutex<Option<Runtime>>,
    engine_thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Random bytes from the operating system.
pub fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| Error::Store(cobox_store::Error::Random))?;
    Ok(bytes)
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Shared {
    pub fn input(&self, input: Input) {
        self.input_with(input, None);
    }

    pub fn input_with(&self, input: Input, heard: Option<Heard>) {
        // Nobody listens once the node has ended.
        let _ = self.engine.send(Message::Input(input, heard));
    }

    pub fn close(&self, conn: Conn) {
        let _ = self.commands.send(Command::Close { conn });
    }
}

impl Driver {
    /// See [`crate::Node::start`].
    pub fn start(store: Arc<Store>, seed: Zeroizing<[u8; 32]>, config: NetConfig) -> Result<Arc<Self>> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, THREADS_MAX);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(BLOCKING_MAX)
            .thread_name("cobox-net")
            .enable_all()
            .build()?;
        let (engine, messages) = unbounded_channel();
        let (commands, commands_end) = unbounded_channel();
        let (events_in, events) = unbounded_channel();
        let (offers, offered) = channel(OFFERS_QUEUED);
        let (waiting, ordered) = desk();
        let entered = runtime.enter();
        let tally: Arc<Tally> = Arc::default();
        let idle: Idle = swarm::listen(&seed, &config, Arc::clone(&tally))?;
        let listening = idle.listening();
        let me = swarm::peer_of_seed(&seed);
        let shared = Arc::new(Shared {
            store: Arc::clone(&store),
            me,
            seed,
            tap: Tap::open(config.frame_tap.as_deref())?,
            credit: Arc::new(Semaphore::new(CREDIT_SLICES)),
            inbox: Arc::new(Semaphore::new(INBOX_KIB)),
            rooms: Rooms::default(),
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            provers: Arc::default(),
            batcher: Batcher::start(Arc::clone(&store)),
            buffers: Buffers::default(),
            links: Mutex::default(),
            joins: Mutex::default(),
            seeds: Mutex::default(),
            papers: Mutex::default(),
            engine,
            commands,
            tickets: Mutex::default(),
            grants: config.grants,
            tally,
            offers,
            orders: config.orders,
            waiting,
        });
        drop(entered);
        runtime.spawn(idle.run(commands_end, events_in));
        runtime.spawn(hear_swarm(Arc::clone(&shared), events, announced(&config.announce)));
        runtime.spawn(weigh_offers(Arc::clone(&shared), offered));
        runtime.spawn(obey(Arc::clone(&shared), ordered));
        runtime.spawn(tick(Arc::downgrade(&shared)));
        let changed = watch_store(&shared);
        let worker = Worker {
            shared: Arc::clone(&shared),
            engine: speaking(&shared, config.speaks),
            changed,
            runtime: runtime.handle().clone(),
        };
        let thread = std::thread::Builder::new()
            .name("cobox-engine".to_owned())
            .spawn(move || worker.run(messages))?;
        let driver = Arc::new(Self {
            me,
            shared,
            listening,
            next_ticket: AtomicU64::new(1),
            runtime: Mutex::new(Some(runtime)),
            engine_thread: Mutex::new(Some(thread)),
        });
        driver.wait_listening(config.listen.len());
        Ok(driver)
    }

    /// Waits until every listener has said where it listens.
    fn wait_listening(&self, listeners: usize) {
        let deadline = Instant::now() + LISTEN_WAIT;
        while self.listening.lock().len() < listeners && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn input(&self, input: Input) {
        self.shared.input(input);
    }

    pub fn listening(&self) -> Vec<(Vec<u8>, String)> {
        self.listening.lock().clone()
    }

    pub fn connections(&self) -> Vec<Connection> {
        self.shared.links.lock().values().map(|link| link.connection()).collect()
    }

    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.shared.tally.counts()
    }

    pub fn status(&self, no: FolderNo) -> Result<NetStatus> {
        let (sender, receiver) = sync_channel(1);
        self.shared.engine.send(Message::Report(no, sender)).map_err(|_| Error::ShutDown)?;
        let found = receiver.recv_timeout(REQUEST_WAIT).map_err(|_| Error::ShutDown)??;
        let links = self.shared.links.lock();
        let peers = found
            .into_iter()
            .map(|(conn, mut status)| {
                if let Some(link) = conn.and_then(|conn| links.get(&conn)) {
                    link.describe(&mut status);
                }
                status
            })
            .collect();
        Ok(NetStatus { no, peers })
    }

    pub fn with_members(&self) -> Result<BTreeSet<FolderNo>> {
        let (sender, receiver) = sync_channel(1);
        self.shared.engine.send(Message::WithMembers(sender)).map_err(|_| Error::ShutDown)?;
        receiver.recv_timeout(REQUEST_WAIT).map_err(|_| Error::ShutDown)
    }

    pub fn moves(&self, keep: Keep) -> Result<Moves> {
        let (sender, receiver) = sync_channel(1);
        self.shared.engine.send(Message::Moves(keep, sender)).map_err(|_| Error::ShutDown)?;
        receiver.recv_timeout(REQUEST_WAIT).map_err(|_| Error::ShutDown)
    }

    pub fn contacts(&self, no: FolderNo) -> Result<Vec<Contact>> {
        let (sender, receiver) = sync_channel(1);
        self.shared.engine.send(Message::Contacts(no, sender)).map_err(|_| Error::ShutDown)?;
        receiver.recv_timeout(REQUEST_WAIT).map_err(|_| Error::ShutDown)
    }

    /// Asks a peer and waits for the reply.
    pub fn ask(&self, peer: PeerId, addresses: Vec<Vec<u8>>, ask: Ask) -> Result<Reply> {
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = sync_channel(1);
        self.shared.tickets.lock().insert(ticket, sender);
        let deadline = Instant::now() + REQUEST_WAIT;
        self.input(Input::Ask { ticket, peer, addresses, ask, deadline });
        // The engine keeps the deadline; a little more, in case it is busy.
        let reply = receiver.recv_timeout(REQUEST_WAIT + Duration::from_secs(5));
        self.shared.tickets.lock().remove(&ticket);
        match reply {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(failure)) => Err(match failure {
                Failure::NotReached => Error::NotReached { peer },
                Failure::Gone => Error::Gone { peer },
                Failure::Refused => Error::Refused { peer },
                Failure::Protocol => Error::Protocol { peer },
                Failure::NotProved(pack) => Error::NotProved { peer, pack },
                Failure::EntriesNotProved => Error::EntriesNotProved { peer },
                Failure::WrongReceipt => Error::WrongReceipt { peer },
                Failure::Store => Error::Store(cobox_store::Error::Premature),
            }),
            Err(_) => Err(Error::NotReached { peer }),
        }
    }

    pub fn take_seeds(&self) -> Vec<(FolderNo, SeedRequest)> {
        std::mem::take(&mut self.shared.seeds.lock())
    }

    pub fn take_papers(&self) -> Vec<(FolderNo, PeerId, Paper)> {
        std::mem::take(&mut self.shared.papers.lock())
    }

    pub fn take_joins(&self) -> Vec<(FolderNo, JoinRequest)> {
        std::mem::take(&mut self.shared.joins.lock())
    }

    pub fn shutdown(&self) {
        let _ = self.shared.commands.send(Command::Stop);
        let _ = self.shared.engine.send(Message::Stop);
        let runtime = self.runtime.lock().take();
        let thread = self.engine_thread.lock().take();
        self.shared.batcher.stop();
        self.shared.credit.close();
        self.shared.inbox.close();
        self.shared.links.lock().clear();
        // On a thread of its own: a runtime must not be waited for inside another one.
        let ended = std::thread::spawn(move || {
            if let Some(thread) = thread {
                let _ = thread.join();
            }
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(SHUTDOWN_WAIT);
            }
        });
        let _ = ended.join();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Passes the store's wake-ups on, many as one.
fn watch_store(shared: &Arc<Shared>) -> Arc<Mutex<BTreeSet<FolderNo>>> {
    let changed: Arc<Mutex<BTreeSet<FolderNo>>> = Arc::default();
    let (inner, weak): (_, Weak<Shared>) = (Arc::clone(&changed), Arc::downgrade(shared));
    shared.store.watch().subscribe(Box::new(move |no| {
        let Some(shared) = weak.upgrade() else { return };
        let first = {
            let mut changed = inner.lock();
            let first = changed.is_empty();
            changed.insert(no);
            first
        };
        if first {
            let _ = shared.engine.send(Message::Wake);
        }
    }));
    changed
}

async fn tick(shared: Weak<Shared>) {
    let mut ticks: u32 = 0;
    loop {
        tokio::time::sleep(TICK).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.engine.send(Message::Input(Input::Tick, None)).is_err() {
            return;
        }
        ticks = ticks.wrapping_add(1);
        if ticks.is_multiple_of(20) {
            let links: Vec<Arc<Link>> = shared.links.lock().values().cloned().collect();
            for link in links {
                link.measure();
                if link.is_dead() {
                    tracing::debug!(peer = %link.peer, "a peer has gone without a word");
                    shared.close(link.conn);
                }
            }
        }
    }
}

async fn hear_swarm(shared: Arc<Shared>, mut events: UnboundedReceiver<Event>, announced: Vec<Vec<u8>>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Stream { conn, peer, side, way, kind, stream } => {
                let link = Arc::clone(
                    shared
                        .links
                        .lock()
                        .entry(conn)
                        .or_insert_with(|| Arc::new(Link::new(conn, peer, side, way))),
                );
                link.take(&shared, kind, stream);
            }
            Event::Ending { conn } => shared.input(Input::Ending { conn }),
            Event::Down { conn } => {
                shared.links.lock().remove(&conn);
                shared.input(Input::Down { conn });
            }
            Event::DialFailed { peer, error } => shared.input(Input::DialFailed { peer, error }),
            Event::HungUp { peer, error } => shared.input(Input::HungUp { peer, error }),
            Event::Listening { addresses } => {
                let addresses = announced.iter().cloned().chain(addresses).collect();
                shared.input(Input::Listening { addresses, now_ms: now_ms() });
            }
            Event::Seen { peer, addresses } => shared.input(Input::Seen { peer, addresses }),
            Event::Unseen { peer, addresses } => shared.input(Input::Unseen { peer, addresses }),
            Event::Rtt { conn, rtt } => {
                if let Some(link) = shared.links.lock().get(&conn) {
                    link.set_rtt(rtt);
                }
            }
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    engine: Engine,
    changed: Arc<Mutex<BTreeSet<FolderNo>>>,
    runtime: tokio::runtime::Handle,
}

impl Worker {
    fn run(mut self, mut messages: UnboundedReceiver<Message>) {
        while let Some(message) = messages.blocking_recv() {
            match message {
                Message::Input(input, permit) => {
                    self.step(input);
                    drop(permit);
                }
                Message::Wake => {}
                Message::Report(no, answer) => {
                    let report = self.engine.report(no).map_err(Error::from);
                    let _ = answer.send(report.and_then(|found| self.known(no, found)));
                }
                Message::WithMembers(answer) => {
                    let _ = answer.send(self.engine.with_members());
                }
                Message::Moves(keep, answer) => {
                    let _ = answer.send(self.engine.moves(keep, Instant::now()));
                }
                Message::Contacts(no, answer) => {
                    // Who asked may have stopped waiting.
                    let _ = answer.send(self.engine.contacts(no));
                }
                Message::Stop => return,
            }
            let changed = std::mem::take(&mut *self.changed.lock());
            for no in changed {
                self.step(Input::Changed { no });
            }
        }
    }

    fn known<T>(&self, no: FolderNo, found: Option<T>) -> Result<T> {
        match found {
            Some(found) => Ok(found),
            None => Err(Error::UnknownFolder(self.shared.store.folder_id(no)?)),
        }
    }

    fn step(&mut self, input: Input) {
        for output in self.engine.step(input, Instant::now()) {
            self.perform(output);
        }
    }

    fn link(&self, conn: Conn) -> Option<Arc<Link>> {
        self.shared.links.lock().get(&conn).cloned()
    }

    fn party(&self, link: &Link, folder: FolderNo, log: Option<LogId>) -> Party {
        let access = log.and_then(|_| self.shared.store.access(folder).ok());
        let device = access.as_ref().and_then(|access| access.devices.get(&log?));
        let who = device.map_or_else(|| hash(&link.peer.to_bytes()), |device| hash(&device.member.0));
        Party { folder, who: Name(who) }
    }

    fn perform(&self, output: Output) {
        match output {
            Output::Send { conn, frame } => {
                if let Some(link) = self.link(conn)
                    && let Err(Overflow(reader)) = link.send(&frame)
                {
                    match reader {
                        Reader::Member => tracing::warn!(peer = %link.peer, "a peer reads too slowly"),
                        Reader::Stranger => tracing::debug!(peer = %link.peer, "a stranger reads too slowly"),
                    }
                    self.shared.close(conn);
                }
            }
            Output::Close { conn } => self.shared.close(conn),
            Output::Dial { peer, addresses } => {
                let _ = self.shared.commands.send(Command::Dial { peer, addresses });
            }
            Output::Opened { conn, session, no, log } => {
                if let Some(link) = self.link(conn) {
                    link.open.lock().insert(session, no);
                    link.parties.lock().insert(session, self.party(&link, no, log));
                }
            }
            Output::Closed { conn, session } => {
                if let Some(link) = self.link(conn) {
                    link.open.lock().remove(&session);
                    link.parties.lock().remove(&session);
                }
            }
            Output::Fetch { conn, session, no, pack } => self.fetch(conn, Job { session, no, pack }),
            Output::LetGo { conn, session, pack } => {
                if let Some(link) = self.link(conn) {
                    link.let_go(session, pack);
                }
            }
            Output::Prove { conn, session, no, question, challenge } => {
                if let Some(link) = self.link(conn) {
                    self.runtime.spawn(prove(
                        Arc::clone(&self.shared),
                        link,
                        session,
                        no,
                        question,
                        challenge,
                    ));
                }
            }
            Output::GrantOffered { peer, records } => self.grant_offered(peer, records),
            Output::JoinAsked { no, request } => self.join_asked(no, request),
            Output::SeedAsked { no, request } => self.seed_asked(no, *request),
            Output::Paper { no, peer, paper } => self.paper(no, peer, *paper),
            Output::Ordered { conn, peer, question, ordered } => {
                let waiting = Waiting { conn, peer, question, ordered };
                if self.shared.waiting.put(&self.shared.store, waiting).is_err() {
                    tracing::debug!(%peer, "an order is not looked at now");
                }
            }
            Output::Reply { ticket, reply } => {
                if let Some(sender) = self.shared.tickets.lock().remove(&ticket) {
                    // Who asked may have stopped waiting.
                    let _ = sender.send(reply);
                }
            }
        }
    }

    fn fetch(&self, conn: Conn, job: Job) {
        let (shared, link) = (Arc::clone(&self.shared), self.link(conn));
        self.runtime.spawn(async move {
            let how = match link {
                Some(link) => link.fetch(job).await,
                None => crate::sync::Fetched::Broken,
            };
            let (session, no, pack): (_, _, PackId) = (job.session, job.no, job.pack.id);
            tracing::debug!(no = no.0, %pack, bytes = job.pack.size, ?how, "fetched");
            shared.input(Input::Fetched { conn, session, no, pack, how });
        });
    }

    /// Keeps a paper until the daemon takes it. Each seeder of each folder says one when a device begins, and none of them
    /// says it again.
    fn paper(&self, no: FolderNo, peer: PeerId, paper: Paper) {
        let mut papers = self.shared.papers.lock();
        let same = |(of, by, known): &(FolderNo, PeerId, Paper)| {
            (*of, *by) == (no, peer) && std::mem::discriminant(known) == std::mem::discriminant(&paper)
        };
        papers.retain(|known| !same(known));
        if papers.len() < PAPERS_QUEUED_MAX {
            papers.push((no, peer, paper));
            drop(papers);
            self.shared.store.watch().bump(no);
        }
    }

    fn seed_asked(&self, no: FolderNo, request: SeedRequest) {
        let same = |other: &SeedRequest| other.code == request.code && other.seeder == request.seeder;
        let mut seeds = self.shared.seeds.lock();
        if seeds.len() < JOINS_MAX && !seeds.iter().any(|(_, other)| same(other)) {
            seeds.push((no, request));
            drop(seeds);
            self.shared.store.watch().bump(no);
        }
    }

    /// Keeps a request for the program, and wakes it.
    fn join_asked(&self, no: FolderNo, request: JoinRequest) {
        let mut joins = self.shared.joins.lock();
        if joins.len() < JOINS_MAX && joins.iter().all(|(_, other)| other.log != request.log) {
            joins.push((no, request));
            drop(joins);
            self.shared.store.watch().bump(no);
        }
    }

    fn grant_offered(&self, peer: PeerId, records: Vec<Vec<u8>>) {
        if self.shared.offers.try_send((peer, records)).is_err() {
            tracing::debug!(%peer, "a grant offer is not looked at now");
            self.shared.input(Input::OfferWeighed { peer });
        }
    }
}
