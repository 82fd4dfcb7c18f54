//! Engines on a network that is data: who can dial whom, who sees whom on a local network, cables that break,
//! nodes that restart, and a clock that only the test moves. The same seed gives the same history.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_net::PeerId;
use cobox_net::sync::{Conn, Engine, Fetched, Identity, Input, Keep, Output, Place, Side, TICK};
use cobox_net::wire::{Frame, SessionId, Whereabouts, decode_frame};
use cobox_store::blind::{PackStatus, Store, StoreKind};
use cobox_store::format::SLICE_BYTES;
use cobox_store::format::address::SeederAddress;
use cobox_store::format::entry::{Entry, Header, LogHead};
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::{Outboard, slice_len};
use cobox_store::id::{EntryHash, EpochId, FolderNo, KemKey, LogId, PackId, hash};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

#[path = "sim/restarts.rs"]
mod restarts;

pub use super::world::World;
use super::{Made, bytes};

/// Numbers that follow from a seed.
pub struct Rng(blake3::OutputReader);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new_derive_key("net simulation").update(&seed.to_le_bytes()).finalize_xof())
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        let mut word = [0; 8];
        self.0.fill(&mut word);
        u64::from_le_bytes(word) % bound
    }

    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
}

/// How long a driver waits until it says that a connection is late.
const LATE_WAIT: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Pipe(VecDeque<(Instant, Vec<u8>)>);

struct Wire {
    ends: [(usize, Conn); 2],
    pipes: [Pipe; 2],
}

struct Fetch {
    node: usize,
    from: usize,
    at: Instant,
    conn: Conn,
    session: SessionId,
    no: FolderNo,
    pack: PackRef,
    wire: u64,
    /// When the other node began to stand still while this was on its way.
    waits_since: Option<Instant>,
}

pub struct Sim {
    pub world: World,
    pub now: Instant,
    began: Instant,
    pub rng: Rng,
    pub engines: Vec<Engine>,
    pub stores: Vec<Arc<Store>>,
    pub nos: Vec<FolderNo>,
    keys: Vec<SigningKey>,
    made: Made,
    wires: BTreeMap<u64, Wire>,
    next_wire: u64,
    next_conn: u64,
    fetches: Vec<Fetch>,
    dials: VecDeque<(usize, PeerId, Vec<Vec<u8>>)>,
    chains: BTreeMap<usize, (u64, EntryHash)>,
    packs: Vec<PackId>,
    /// The address of each node now; a restart may change it.
    addresses: Vec<Vec<u8>>,
    /// What each program kept when its node ended last, and what a seeder had said of itself.
    kept: Vec<(Whereabouts, Option<(Vec<Vec<u8>>, u64)>)>,
    /// Who dialed whom, and how often.
    pub dialed: BTreeMap<(usize, usize), u32>,
    /// The side of a division that each node is on.
    pub side: Vec<u8>,
    /// Chance that a transfer breaks at a slice, one in so many; 0 for never.
    pub breaks: u64,
    /// Nodes that stand still: nothing goes to them or comes from them, and no connection breaks.
    still: BTreeSet<usize>,
    /// Connections of which a node was told that they are late.
    late: BTreeSet<(usize, Conn)>,
    /// Nodes that keep access records to themselves, and take none.
    pub withholding: Vec<usize>,
    /// Frames and their bytes that were sent over connections older than this.
    pub sent: (u64, u64),
    counted: u64,
    /// Fetches that were let go.
    pub let_go: u64,
    /// Hash of everything that happened.
    trace: blake3::Hasher,
}

/// `/ip4/10.0.<node>.0/tcp/7741`; a restart may count the last number up.
fn place(at: usize) -> Vec<u8> {
    vec![4, 10, 0, at as u8, 0, 6, 0x1e, 0x3d]
}

pub fn peer(key: &SigningKey) -> PeerId {
    PeerId::of_key(key.verifying_key().to_bytes())
}

/// Stores for so many devices and seeders, used by one history after the other.
pub fn stores(dir: &std::path::Path, devices: usize, seeders: usize) -> Vec<Arc<Store>> {
    let kind = |at| if at < devices { StoreKind::Device } else { StoreKind::Seeder };
    let make = |at: usize| Store::create(&dir.join(at.to_string()), kind(at)).expect("creates");
    (0..devices + seeders).map(make).collect()
}

impl Sim {
    /// `stores` has the devices' first, then the seeders'.
    pub fn new(seed: u64, world: World, stores: Vec<Arc<Store>>) -> Self {
        let mut made = Made::new(2_000_000 + seed);
        let nodes = world.nodes();
        let key = |at: usize| SigningKey::from_bytes(&hash(format!("node {at} of {seed}").as_bytes()));
        let keys: Vec<SigningKey> =
            (0..nodes).map(|at| if at == 0 { made.founder.clone() } else { key(at) }).collect();
        for key in &keys[world.devices..] {
            let address = SeederAddress {
                peer_id: peer(key).to_bytes(),
                kem: KemKey([1; 32]),
                addresses: vec![vec![1]],
            };
            made.grant_with(&address, 1 << 40, [0; 80]);
        }
        let before = made.records.len();
        for key in &keys[1..world.devices] {
            made.admit(key);
        }
        let import = |(at, store): (usize, &Arc<Store>)| {
            let known = before + world.knows[at].saturating_sub(1);
            let no = store.folder_add(&made.records[0]).expect("a genesis");
            made.records[1..known].iter().for_each(|record| {
                store.access_add(no, record).expect("admitted");
            });
            no
        };
        let nos = stores.iter().enumerate().map(import).collect();
        let began = Instant::now();
        let mut sim = Self {
            now: began,
            began,
            rng: Rng::new(seed),
            engines: Vec::new(),
            nos,
            keys,
            made,
            wires: BTreeMap::new(),
            next_wire: 0,
            next_conn: 1,
            fetches: Vec::new(),
            dials: VecDeque::new(),
            chains: BTreeMap::new(),
            packs: Vec::new(),
            addresses: (0..nodes).map(place).collect(),
            kept: vec![<_>::default(); nodes],
            dialed: BTreeMap::new(),
            side: vec![0; nodes],
            breaks: 40,
            still: BTreeSet::new(),
            late: BTreeSet::new(),
            withholding: Vec::new(),
            sent: (0, 0),
            counted: u64::MAX,
            let_go: 0,
            trace: blake3::Hasher::new(),
            stores,
            world,
        };
        for at in 0..nodes {
            sim.engines.push(sim.engine(at));
            sim.configure(at);
        }
        sim
    }

    fn configure(&mut self, at: usize) {
        let no = self.nos[at];
        let key = self.keys[at].clone();
        let identity = if at < self.world.devices {
            Identity::Member {
                log: LogId(key.verifying_key().to_bytes()),
                signer: Arc::new(move |text| key.sign(&cobox_net::sync::signed_bytes(text)).to_bytes()),
            }
        } else {
            Identity::Seeder
        };
        let secrets = vec![Zeroizing::new(self.made.swarm)];
        self.input(at, Input::Folder { no, identity, secrets });
        let now_ms = u64::try_from((self.now - self.began).as_millis()).expect("a short history") + 1;
        self.input(at, Input::Listening { addresses: vec![self.addresses[at].clone()], now_ms });
        let known = self.kept[at].0.clone();
        self.input(at, Input::Recall { no, known });
        let hinted = self.world.hints.iter().filter(|(from, _)| *from == at).map(|(_, to)| *to);
        let named: Vec<usize> = (self.world.devices..self.world.nodes()).chain(hinted).collect();
        let peers = named.into_iter().map(|to| (peer(&self.keys[to]), vec![place(to)])).collect();
        self.input(at, Input::Peers { no, peers });
        self.look_around(at);
    }

    /// What mDNS does, both ways.
    fn look_around(&mut self, at: usize) {
        for (one, other) in self.world.near.clone() {
            if (one == at || other == at) && one != other && self.side[one] == self.side[other] {
                let addresses = vec![self.addresses[other].clone()];
                let input = Input::Seen { peer: peer(&self.keys[other]), addresses };
                if one < self.engines.len() {
                    self.input(one, input);
                }
            }
        }
    }

    pub fn input(&mut self, at: usize, input: Input) {
        for output in self.engines[at].step(input, self.now) {
            self.output(at, output);
        }
    }

    fn wire_of(&self, at: usize, conn: Conn) -> Option<(u64, usize)> {
        self.wires.iter().find_map(|(id, wire)| {
            wire.ends.iter().position(|end| *end == (at, conn)).map(|side| (*id, side))
        })
    }

    fn output(&mut self, at: usize, output: Output) {
        match output {
            Output::Send { frame: Frame::Records { .. }, .. } if self.withholding.contains(&at) => {}
            Output::Send { conn, frame } => {
                let delay = self.rng.below(20);
                let bytes = frame.encode();
                self.trace.update(&[at as u8]).update(&bytes);
                if let Some((id, side)) = self.wire_of(at, conn) {
                    if id < self.counted {
                        self.sent = (self.sent.0 + 1, self.sent.1 + bytes.len() as u64);
                    }
                    let arrives = self.now + Duration::from_millis(delay);
                    let wire = self.wires.get_mut(&id).expect("just found");
                    let last = wire.pipes[side].0.back().map_or(arrives, |(moment, _)| *moment);
                    wire.pipes[side].0.push_back((arrives.max(last), bytes));
                }
            }
            Output::Close { conn } => {
                if let Some((id, _)) = self.wire_of(at, conn) {
                    self.cut(id);
                }
            }
            Output::Dial { peer, addresses } => self.dials.push_back((at, peer, addresses)),
            Output::Fetch { conn, session, no, pack } => {
                let Some((wire, side)) = self.wire_of(at, conn) else {
                    self.input(at, Input::Fetched { conn, session, no, pack: pack.id, how: Fetched::Broken });
                    return;
                };
                let from = self.wires[&wire].ends[1 - side].0;
                let moment = self.now + Duration::from_millis(self.rng.below(60));
                let waits_since = None;
                self.fetches.push(Fetch {
                    node: at,
                    from,
                    at: moment,
                    conn,
                    session,
                    no,
                    pack,
                    wire,
                    waits_since,
                });
            }
            Output::LetGo { conn, session, pack } => {
                let same = |fetch: &Fetch| {
                    (fetch.node, fetch.conn, fetch.session, fetch.pack.id) == (at, conn, session, pack)
                };
                if let Some(found) = self.fetches.iter().position(same) {
                    let no = self.fetches.remove(found).no;
                    self.let_go += 1;
                    self.input(at, Input::Fetched { conn, session, no, pack, how: Fetched::Broken });
                }
            }
            _ => {}
        }
    }

    /// An attempt succeeds where one can dial the other at one of the addresses, and now and then does not.
    fn attempt(&mut self, from: usize, to_peer: PeerId, addresses: &[Vec<u8>]) {
        let to = self.keys.iter().position(|key| peer(key) == to_peer).expect("a node");
        *self.dialed.entry((from, to)).or_default() += 1;
        let reaches = self.world.dials.contains(&(from, to))
            && !self.still.contains(&from)
            && !self.still.contains(&to)
            && self.side[from] == self.side[to]
            && addresses.contains(&self.addresses[to]);
        if !reaches || self.rng.one_in(8) {
            self.input(from, Input::DialFailed { peer: to_peer, error: "off".to_owned() });
            return;
        }
        let (here, there) = (Conn(self.next_conn), Conn(self.next_conn + 1));
        self.next_conn += 2;
        let wire = Wire { ends: [(from, here), (to, there)], pipes: Default::default() };
        self.wires.insert(self.next_wire, wire);
        self.next_wire += 1;
        let nonces = [hash(&here.0.to_le_bytes()), hash(&there.0.to_le_bytes())];
        let me = peer(&self.keys[from]);
        let up = |conn, peer, side, nonce| Input::Up { conn, peer, side, place: Place::Other, nonce };
        self.input(from, up(here, to_peer, Side::Dialer, nonces[0]));
        self.input(to, up(there, me, Side::Listener, nonces[1]));
    }

    /// A connection breaks: what is on the way is lost.
    pub fn cut(&mut self, id: u64) {
        let Some(wire) = self.wires.remove(&id) else { return };
        for (at, conn) in wire.ends {
            self.input(at, Input::Down { conn });
        }
    }

    /// A node stands still, or goes on.
    pub fn stand_still(&mut self, at: usize, still: bool) {
        if still {
            self.still.insert(at);
        } else {
            self.still.remove(&at);
        }
    }

    /// Tells nodes which of their connections owe packs and stand still for as long as a driver waits.
    fn watch_late(&mut self) {
        for fetch in &mut self.fetches {
            let still = self.still.contains(&fetch.from) || self.still.contains(&fetch.node);
            fetch.waits_since = still.then(|| fetch.waits_since.unwrap_or(self.now));
        }
        let waits = |fetch: &&Fetch| fetch.waits_since.is_some_and(|since| self.now >= since + LATE_WAIT);
        let late = self.fetches.iter().filter(waits).map(|fetch| (fetch.node, fetch.conn));
        // What was let go is owed as well: a connection is late until its node goes on.
        let stays = |(at, conn): &&(usize, Conn)| {
            self.wire_of(*at, *conn)
                .is_some_and(|(id, side)| self.still.contains(&self.wires[&id].ends[1 - side].0))
        };
        let now_late: BTreeSet<(usize, Conn)> = late.chain(self.late.iter().filter(stays).copied()).collect();
        let before = std::mem::replace(&mut self.late, now_late.clone());
        for (at, conn) in before.symmetric_difference(&now_late) {
            self.input(*at, Input::Late { conn: *conn, late: now_late.contains(&(*at, *conn)) });
        }
    }

    /// Counts anew what is sent over the connections that there are now: how many.
    pub fn count(&mut self) -> usize {
        (self.counted, self.sent) = (self.next_wire, (0, 0));
        self.wires.len()
    }

    pub fn connections(&self) -> Vec<u64> {
        self.wires.keys().copied().collect()
    }

    /// Whether two nodes are connected.
    pub fn linked(&self, one: usize, other: usize) -> bool {
        self.wires.values().any(|wire| {
            let ends = [wire.ends[0].0, wire.ends[1].0];
            ends.contains(&one) && ends.contains(&other)
        })
    }

    /// Divides the nodes; connections from one side to another break.
    pub fn divide(&mut self, side: Vec<u8>) {
        self.side = side;
        let crosses = |wire: &Wire| self.side[wire.ends[0].0] != self.side[wire.ends[1].0];
        let torn: Vec<u64> = self.wires.iter().filter(|(_, wire)| crosses(wire)).map(|(id, _)| *id).collect();
        torn.into_iter().for_each(|id| self.cut(id));
    }

    /// All are on one side again, and see their neighbours.
    pub fn heal(&mut self) {
        self.side.fill(0);
        (0..self.world.nodes()).for_each(|at| self.look_around(at));
    }

    /// A device writes an entry with a pack, under the newest access records that it knows.
    pub fn write(&mut self, at: usize) {
        let size = [4096, 8192, 256 * 1024, 1 << 20][self.rng.index(4)];
        self.write_of(at, size);
    }

    pub fn write_of(&mut self, at: usize, size: usize) {
        let pack = bytes(self.rng.below(u64::MAX), size);
        let outboard = Outboard::of(&pack);
        let (seq, prev) = self.chains.get(&at).copied().unwrap_or((0, EntryHash([0; 32])));
        let body = bytes(seq, 100);
        let (store, no) = (Arc::clone(&self.stores[at]), self.nos[at]);
        let header = Header {
            folder: self.made.id(),
            log: LogId(self.keys[at].verifying_key().to_bytes()),
            seq: seq + 1,
            prev,
            access_heads: store.access(no).expect("reads").heads.clone(),
            epoch: EpochId(self.made.epoch.0),
            packs: vec![outboard.pack()],
            body_size: body.len() as u32,
            body_hash: hash(&body),
        };
        let signature = self.keys[at].sign(&header.signed_bytes()).to_bytes();
        self.packs.push(outboard.pack().id);
        self.chains.insert(at, (seq + 1, header.hash()));
        store.packs_put(no, &[(outboard, pack)]).expect("stores");
        store.entry_add(no, &Entry::new(header, signature, body)).expect("takes");
        self.input(at, Input::Changed { no });
    }

    /// What a reader of a node waits for; whether it has it.
    pub fn wish(&mut self, at: usize, pack: PackId) {
        self.stores[at].want(self.nos[at], pack);
        self.input(at, Input::Changed { no: self.nos[at] });
    }

    pub fn holds(&self, at: usize, pack: PackId) -> bool {
        matches!(self.stores[at].pack_status(self.nos[at], pack), Ok(PackStatus::Complete(_)))
    }

    /// Whether a node was asked for a pack by another one, and has not sent it.
    pub fn owes(&self, from: usize, to: usize) -> bool {
        self.fetches.iter().any(|fetch| (fetch.from, fetch.node) == (from, to))
    }

    /// Packs in the order in which they were written.
    pub fn packs(&self) -> &[PackId] {
        &self.packs
    }

    /// The first device removes another one at the last entry that it has of it; returns that entry's number.
    pub fn remove(&mut self, whom: usize) -> u64 {
        let log = self.log(whom);
        let last = self.head(0, whom).unwrap_or(LogHead { log, seq: 0, hash: EntryHash([0; 32]) });
        let record = self.made.remove(last);
        self.stores[0].access_add(self.nos[0], &record).expect("admitted");
        self.input(0, Input::Changed { no: self.nos[0] });
        last.seq
    }

    fn log(&self, at: usize) -> LogId {
        LogId(self.keys[at].verifying_key().to_bytes())
    }

    fn head(&self, at: usize, whose: usize) -> Option<LogHead> {
        let heads = self.stores[at].log_heads(self.nos[at]).expect("heads");
        heads.into_iter().find(|head| head.log == self.log(whose))
    }

    /// Whether two nodes have the same access log.
    pub fn knows_what(&self, one: usize, other: usize) -> bool {
        let heads = |at: usize| self.stores[at].access(self.nos[at]).expect("reads").heads.clone();
        heads(one) == heads(other)
    }

    /// How many entries of a device's log another node has.
    pub fn has(&self, at: usize, whose: usize) -> u64 {
        self.head(at, whose).map_or(0, |head| head.seq)
    }

    /// What a driver's transfer does: slices from the other node's store, verified into this one's.
    fn transfer(&mut self, fetch: &Fetch) -> Fetched {
        if !self.wires.contains_key(&fetch.wire) {
            return Fetched::Broken;
        }
        let (from, to) = (Arc::clone(&self.stores[fetch.from]), Arc::clone(&self.stores[fetch.node]));
        let (from_no, no) = (self.nos[fetch.from], self.nos[fetch.node]);
        let whole = matches!(from.pack_status(from_no, fetch.pack.id), Ok(PackStatus::Complete(_)));
        let outboard = from.outboard(from_no, fetch.pack.id).expect("reads").filter(|_| whole);
        let Some(outboard) = outboard else {
            let (wire, here) = (&self.wires[&fetch.wire], (fetch.node, fetch.conn));
            let (other, conn) = wire.ends[usize::from(wire.ends[0] == here)];
            self.input(other, Input::Denied { conn, session: fetch.session, pack: fetch.pack.id });
            return Fetched::NotHere;
        };
        let mut receiver = to.pack_receive(no, fetch.pack, outboard).expect("begins");
        for index in receiver.needed() {
            if self.breaks > 0 && self.rng.one_in(self.breaks) {
                return Fetched::Broken;
            }
            let len = slice_len(fetch.pack.size, index);
            let range = from.pack_range(from_no, fetch.pack.id, index * SLICE_BYTES, len);
            let slice = range.expect("reads").expect("is complete");
            if let Err(error) = receiver.put_slice(index, &slice) {
                panic!("cannot store: {error}");
            }
        }
        receiver.flush().expect("stores");
        Fetched::Done
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            for at in 0..self.world.nodes() {
                self.input(at, Input::Tick);
            }
            self.deliver();
            self.watch_late();
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to, addresses)) = self.dials.pop_front() {
            self.attempt(from, to, &addresses);
        }
        for id in self.connections() {
            for side in 0..2 {
                while let Some((to, conn, bytes)) = self.arrived(id, side) {
                    let frame: Frame = decode_frame(&bytes).expect("engines send what decodes");
                    if !(matches!(frame, Frame::Records { .. }) && self.withholding.contains(&to)) {
                        self.input(to, Input::Frame { conn, frame });
                    }
                }
            }
        }
        let now = self.now;
        let due = |fetch: &Fetch| {
            fetch.at <= now && !self.still.contains(&fetch.from) && !self.still.contains(&fetch.node)
        };
        let (due, later): (Vec<Fetch>, Vec<Fetch>) =
            std::mem::take(&mut self.fetches).into_iter().partition(due);
        self.fetches = later;
        for fetch in due {
            let how = self.transfer(&fetch);
            let Fetch { node, conn, session, no, pack, .. } = fetch;
            self.input(node, Input::Fetched { conn, session, no, pack: pack.id, how });
        }
    }

    fn arrived(&mut self, id: u64, side: usize) -> Option<(usize, Conn, Vec<u8>)> {
        let now = self.now;
        let wire = self
            .wires
            .get_mut(&id)
            .filter(|wire| !wire.ends.iter().any(|end| self.still.contains(&end.0)))?;
        wire.pipes[side].0.front().filter(|(at, _)| *at <= now)?;
        let (_, bytes) = wire.pipes[side].0.pop_front()?;
        let (to, conn) = wire.ends[1 - side];
        Some((to, conn, bytes))
    }

    /// What is missing anywhere, as a sentence; `None` when everybody holds everything.
    pub fn lacking(&self) -> Option<String> {
        let written: u64 = self.chains.values().map(|(seq, _)| *seq).sum();
        (0..self.world.nodes()).find_map(|at| {
            let (store, no) = (&self.stores[at], self.nos[at]);
            let entries: u64 = store.log_heads(no).expect("heads").iter().map(|head| head.seq).sum();
            let whole =
                |pack: &&PackId| !matches!(store.pack_status(no, **pack), Ok(PackStatus::Complete(_)));
            let packs = self.packs.iter().filter(whole).count();
            (entries != written || packs > 0)
                .then(|| format!("node {at} has {entries} of {written} entries and lacks {packs} packs"))
        })
    }

    /// Runs until everybody holds everything, at most so long; what is missing then.
    pub fn settle(&mut self, most: Duration) -> Option<String> {
        let end = self.now + most;
        while self.now < end {
            self.lacking()?;
            self.run_for(Duration::from_secs(1));
        }
        self.lacking()
    }

    /// The same for two runs that went the same way.
    pub fn digest(&self) -> [u8; 32] {
        *self.trace.finalize().as_bytes()
    }
}
