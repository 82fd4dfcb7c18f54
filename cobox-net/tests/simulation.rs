//! The engine alone, simulated: devices and seeders on links that break, nodes that restart, one peer that
//! is slow and one that lies, and a clock that is data. Each seed is one history; at its end everybody
//! must hold everything. `COBOX_SOAK` asks for fifty times as many, `COBOX_SEED` for one.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_net::PeerId;
use cobox_net::sync::{Conn, Engine, Fetched, Identity, Input, Output, Place, Side, TICK};
use cobox_net::wire::{Frame, decode_frame};
use cobox_store::blind::{PackStatus, Store, StoreKind};
use cobox_store::format::SLICE_BYTES;
use cobox_store::format::address::SeederAddress;
use cobox_store::format::entry::{Entry, Header};
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::{Outboard, slice_len};
use cobox_store::id::{EntryHash, EpochId, FolderNo, KemKey, LogId, PackId, hash};
use common::{Made, bytes};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

const DEVICES: usize = 3;
const SEEDERS: usize = 2;
const NODES: usize = DEVICES + SEEDERS;
const SEEDS: u64 = 200;
/// The seeder that sends wrong bytes for a while.
const LIAR: usize = NODES - 1;

struct Rng(blake3::OutputReader);

impl Rng {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new_derive_key("net simulation").update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, bound: u64) -> u64 {
        let mut word = [0; 8];
        self.0.fill(&mut word);
        u64::from_le_bytes(word) % bound
    }
}

/// One direction of one connection: frames in order, each with the moment it arrives.
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
    session: cobox_net::wire::SessionId,
    no: FolderNo,
    pack: PackRef,
    wire: u64,
}

struct Sim {
    now: Instant,
    rng: Rng,
    engines: Vec<Engine>,
    stores: Vec<Arc<Store>>,
    nos: Vec<FolderNo>,
    keys: Vec<SigningKey>,
    made: Made,
    wires: BTreeMap<u64, Wire>,
    next_wire: u64,
    next_conn: u64,
    fetches: Vec<Fetch>,
    dials: VecDeque<(usize, PeerId)>,
    chains: BTreeMap<usize, (u64, EntryHash)>,
    packs: Vec<PackId>,
    slow: usize,
    lying: bool,
}

fn peer(key: &SigningKey) -> PeerId {
    PeerId::of_key(key.verifying_key().to_bytes())
}

impl Sim {
    fn new(seed: u64, stores: &[Arc<Store>]) -> Self {
        let mut made = Made::new(1_000_000 + seed);
        let keys: Vec<SigningKey> =
            (0..NODES)
                .map(|at| {
                    if at == 0 { made.founder.clone() } else { SigningKey::from_bytes(&[at as u8 + 40; 32]) }
                })
                .collect();
        for key in &keys[1..DEVICES] {
            made.admit(key);
        }
        for key in &keys[DEVICES..] {
            let address = SeederAddress {
                peer_id: peer(key).to_bytes(),
                kem: KemKey([1; 32]),
                addresses: vec![vec![1]],
            };
            made.grant_with(&address, 1 << 40, [0; 80]);
        }
        let nos = stores.iter().map(|store| made.import(store)).collect();
        let mut sim = Self {
            now: Instant::now(),
            rng: Rng::new(seed),
            engines: Vec::new(),
            stores: stores.to_vec(),
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
            slow: (seed % NODES as u64) as usize,
            lying: true,
        };
        for at in 0..NODES {
            let engine = Engine::new(Arc::clone(&sim.stores[at]), peer(&sim.keys[at]));
            sim.engines.push(engine);
            sim.configure(at);
        }
        sim
    }

    /// Devices dial seeders; the seeders dial each other.
    fn configure(&mut self, at: usize) {
        let no = self.nos[at];
        let key = self.keys[at].clone();
        let identity = if at < DEVICES {
            Identity::Member {
                log: LogId(key.verifying_key().to_bytes()),
                signer: Arc::new(move |transcript| {
                    key.sign(&cobox_net::sync::signed_bytes(transcript)).to_bytes()
                }),
            }
        } else {
            Identity::Seeder
        };
        let secrets = vec![Zeroizing::new(self.made.swarm)];
        self.input(at, Input::Folder { no, identity, secrets });
        let peers = self.keys[DEVICES..].iter().map(|key| (peer(key), vec![vec![1]])).collect();
        self.input(at, Input::Peers { no, peers });
    }

    fn input(&mut self, at: usize, input: Input) {
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
            Output::Send { conn, frame } => {
                let delay = self.rng.below(if at == self.slow { 400 } else { 20 });
                if let Some((id, side)) = self.wire_of(at, conn) {
                    let arrives = self.now + Duration::from_millis(delay);
                    let wire = self.wires.get_mut(&id).expect("just found");
                    let last = wire.pipes[side].0.back().map_or(arrives, |(moment, _)| *moment);
                    wire.pipes[side].0.push_back((arrives.max(last), frame.encode()));
                }
            }
            Output::Close { conn } => {
                if let Some((id, _)) = self.wire_of(at, conn) {
                    self.cut(id);
                }
            }
            Output::Dial { peer, .. } => self.dials.push_back((at, peer)),
            Output::Fetch { conn, session, no, pack } => {
                let Some((wire, side)) = self.wire_of(at, conn) else {
                    self.input(at, Input::Fetched { conn, session, no, pack: pack.id, how: Fetched::Broken });
                    return;
                };
                let from = self.wires[&wire].ends[1 - side].0;
                let moment = self.now
                    + Duration::from_millis(self.rng.below(if from == self.slow { 900 } else { 60 }));
                self.fetches.push(Fetch { node: at, from, at: moment, conn, session, no, pack, wire });
            }
            _ => {}
        }
    }

    fn connect(&mut self, from: usize, to_peer: PeerId) {
        let to = self.keys.iter().position(|key| peer(key) == to_peer).expect("a node");
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
    fn cut(&mut self, id: u64) {
        let Some(wire) = self.wires.remove(&id) else { return };
        for (at, conn) in wire.ends {
            self.input(at, Input::Down { conn });
        }
    }

    /// The engine forgets everything; the store keeps what it has.
    fn restart(&mut self, at: usize) {
        let mine: Vec<u64> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.ends.iter().any(|end| end.0 == at))
            .map(|(id, _)| *id)
            .collect();
        for id in mine {
            self.cut(id);
        }
        self.fetches.retain(|fetch| fetch.node != at);
        self.dials.retain(|dial| dial.0 != at);
        self.engines[at] = Engine::new(Arc::clone(&self.stores[at]), peer(&self.keys[at]));
        self.configure(at);
    }

    fn write(&mut self, at: usize) {
        let size = [4096, 8192, 256 * 1024, 1 << 20][self.rng.below(4) as usize];
        let pack = bytes(self.rng.below(u64::MAX), size);
        let outboard = Outboard::of(&pack);
        let (seq, prev) = self.chains.get(&at).copied().unwrap_or((0, EntryHash([0; 32])));
        let body = bytes(seq, 100);
        let header = Header {
            folder: self.made.id(),
            log: LogId(self.keys[at].verifying_key().to_bytes()),
            seq: seq + 1,
            prev,
            access_heads: vec![self.made.epoch],
            epoch: EpochId(self.made.epoch.0),
            packs: vec![outboard.pack()],
            body_size: body.len() as u32,
            body_hash: hash(&body),
        };
        let signature = self.keys[at].sign(&header.signed_bytes()).to_bytes();
        self.packs.push(outboard.pack().id);
        self.chains.insert(at, (seq + 1, header.hash()));
        let (store, no) = (Arc::clone(&self.stores[at]), self.nos[at]);
        store.packs_put(no, &[(outboard, pack)]).expect("stores");
        store.entry_add(no, &Entry::new(header, signature, body)).expect("takes");
        self.input(at, Input::Changed { no });
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
            if self.rng.below(40) == 0 {
                return Fetched::Broken;
            }
            let len = slice_len(fetch.pack.size, index);
            let range = from.pack_range(from_no, fetch.pack.id, index * SLICE_BYTES, len);
            let mut slice = range.expect("reads").expect("is complete");
            if self.lying && fetch.from == LIAR {
                slice[0] ^= 1;
            }
            match receiver.put_slice(index, &slice) {
                Ok(_) => {}
                Err(cobox_store::Error::PackDamaged(_)) => return Fetched::Lied,
                Err(error) => panic!("cannot store: {error}"),
            }
        }
        receiver.flush().expect("stores");
        Fetched::Done
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            for at in 0..NODES {
                self.input(at, Input::Tick);
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to)) = self.dials.pop_front() {
            if self.rng.below(4) == 0 {
                self.input(from, Input::DialFailed { peer: to, error: "off".to_owned() });
            } else {
                self.connect(from, to);
            }
        }
        for id in self.wires.keys().copied().collect::<Vec<_>>() {
            for side in 0..2 {
                while let Some(wire) = self.wires.get_mut(&id) {
                    let due = wire.pipes[side].0.front().is_some_and(|(at, _)| *at <= self.now);
                    let Some((_, bytes)) = due.then(|| wire.pipes[side].0.pop_front()).flatten() else {
                        break;
                    };
                    let (to, conn) = wire.ends[1 - side];
                    let frame: Frame = decode_frame(&bytes).expect("engines send what decodes");
                    self.input(to, Input::Frame { conn, frame });
                }
            }
        }
        let now = self.now;
        let (due, later): (Vec<Fetch>, Vec<Fetch>) =
            std::mem::take(&mut self.fetches).into_iter().partition(|fetch| fetch.at <= now);
        self.fetches = later;
        for fetch in due {
            let how = self.transfer(&fetch);
            let Fetch { node, conn, session, no, pack, .. } = fetch;
            self.input(node, Input::Fetched { conn, session, no, pack: pack.id, how });
        }
    }

    fn settled(&self) -> bool {
        let heads = |at: usize| self.stores[at].log_heads(self.nos[at]).expect("heads");
        let first = heads(0);
        (0..NODES).all(|at| {
            heads(at) == first
                && self.packs.iter().all(|pack| {
                    matches!(self.stores[at].pack_status(self.nos[at], *pack), Ok(PackStatus::Complete(_)))
                })
        })
    }
}

fn history(seed: u64, stores: &[Arc<Store>]) {
    let mut sim = Sim::new(seed, stores);
    for _ in 0..12 {
        match sim.rng.below(6) {
            0..=2 => {
                let at = sim.rng.below(DEVICES as u64) as usize;
                sim.write(at);
            }
            3 => {
                let at = sim.rng.below(NODES as u64) as usize;
                sim.restart(at);
            }
            _ => {
                let ids: Vec<u64> = sim.wires.keys().copied().collect();
                if !ids.is_empty() {
                    let id = ids[sim.rng.below(ids.len() as u64) as usize];
                    sim.cut(id);
                }
            }
        }
        let ms = sim.rng.below(1500);
        sim.run_for(Duration::from_millis(ms));
    }
    sim.lying = false;
    sim.write(0);
    for _ in 0..300 {
        if sim.settled() {
            break;
        }
        sim.run_for(Duration::from_secs(1));
    }
    assert!(sim.settled(), "seed {seed}: not everybody holds everything");
    let heads: u64 = sim.chains.values().map(|(seq, _)| *seq).sum();
    for at in 0..DEVICES {
        // A session that has only just opened is not caught up yet.
        let mut behind = Vec::new();
        for _ in 0..60 {
            sim.run_for(Duration::from_secs(1));
            let report = sim.engines[at].report(sim.nos[at]).expect("reads").expect("known");
            let open =
                report.into_iter().filter(|(_, status)| status.session == cobox_net::SessionState::Open);
            behind = open.filter(|(_, status)| !status.is_caught_up()).collect();
            if behind.is_empty() {
                break;
            }
        }
        assert!(behind.is_empty(), "seed {seed}: {heads} entries, {behind:?}");
    }
}

#[test]
fn simulated_histories_end_with_everybody_holding_everything() {
    common::play(common::seeds(SEEDS), stores, history);
}

fn stores(dir: &std::path::Path) -> Vec<Arc<Store>> {
    let kind = |at| if at < DEVICES { StoreKind::Device } else { StoreKind::Seeder };
    (0..NODES).map(|at| Store::create(&dir.join(at.to_string()), kind(at)).expect("creates")).collect()
}

/// An entry of device 0 without packs.
fn bare_entry(sim: &Sim, seq: u64, prev: EntryHash, body: &[u8]) -> Entry {
    let header = Header {
        folder: sim.made.id(),
        log: LogId(sim.keys[0].verifying_key().to_bytes()),
        seq,
        prev,
        access_heads: vec![sim.made.epoch],
        epoch: EpochId(sim.made.epoch.0),
        packs: vec![],
        body_size: body.len() as u32,
        body_hash: hash(body),
    };
    let signature = sim.keys[0].sign(&header.signed_bytes()).to_bytes();
    Entry::new(header, signature, body.to_vec())
}

#[test]
fn log_that_forked_reaches_everybody_with_all_branches() {
    let dir = common::memory_dir();
    let stores = stores(dir.path());
    // How many entries the branches have in common, how long they are, and who holds which.
    for (seed, common, length) in [(0, 1, 2), (1, 0, 1), (2, 40, 30), (3, 3, 300)] {
        let mut sim = Sim::new(9_000 + seed, &stores);
        let mut trunk: Vec<Entry> = Vec::new();
        let mut prev = EntryHash([0; 32]);
        for seq in 1..=common {
            trunk.push(bare_entry(&sim, seq, prev, &[1; 100]));
            prev = trunk.last().expect("pushed").header().hash();
        }
        let branch = |kind: u8| {
            let (mut entries, mut prev): (Vec<Entry>, _) = (Vec::new(), prev);
            for seq in common + 1..=common + length + u64::from(kind) {
                entries.push(bare_entry(&sim, seq, prev, &[kind; 100]));
                prev = entries.last().expect("pushed").header().hash();
            }
            entries
        };
        let branches = [branch(2), branch(3), branch(4)];
        for (at, branch) in [(0, &branches[0]), (DEVICES, &branches[1]), (1, &branches[2])] {
            for entry in trunk.iter().chain(branch) {
                stores[at].entry_add(sim.nos[at], entry).expect("takes");
            }
            let no = sim.nos[at];
            sim.input(at, Input::Changed { no });
        }
        let heads = |sim: &Sim, at: usize| stores[at].log_heads(sim.nos[at]).expect("reads");
        let whole = |sim: &Sim, at: usize| {
            let heads = heads(sim, at);
            branches.iter().all(|branch| {
                let last = branch.last().expect("not empty").header();
                heads.iter().any(|head| (head.seq, head.hash) == (last.seq, last.hash()))
            })
        };
        for _ in 0..300 {
            if (0..NODES).all(|at| whole(&sim, at)) {
                break;
            }
            sim.run_for(Duration::from_secs(1));
        }
        let lacking: Vec<usize> = (0..NODES).filter(|at| !whole(&sim, *at)).collect();
        assert!(lacking.is_empty(), "seed {seed}: nodes {lacking:?} lack a branch");
        for at in 0..NODES {
            assert_eq!(heads(&sim, at), heads(&sim, 0), "seed {seed}: node {at}");
            sim.run_for(Duration::from_secs(1));
            for (_, status) in sim.engines[at].report(sim.nos[at]).expect("reads").expect("known") {
                assert!(
                    status.session != cobox_net::SessionState::Open || status.is_caught_up(),
                    "seed {seed}: node {at}: {status:?}"
                );
            }
        }
    }
}

#[test]
fn strangers_offers_are_heard_one_at_a_time_and_never_looked_into() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let store = Store::create(dir.path(), StoreKind::Seeder).expect("creates");
    let made = Made::new(77);
    let stranger = PeerId::of_key([9; 32]);
    let mut engine = Engine::new(store, PeerId::of_key([1; 32]));
    let (conn, now) = (Conn(1), Instant::now());
    let mut step = |input| engine.step(input, now);
    step(Input::Up { conn, peer: stranger, side: Side::Listener, place: Place::Other, nonce: [1; 32] });
    step(Input::Frame { conn, frame: Frame::Hello { nonce: [2; 32] } });
    // No record after the first is genuine, which nobody looks at here.
    let genesis = made.records[0].encode();
    let offer = |first: &[u8], part| Input::Frame {
        conn,
        frame: Frame::GrantOffer {
            session: cobox_net::wire::SessionId(1),
            part,
            records: vec![first.to_vec(), vec![7; 300]],
        },
    };
    use cobox_net::wire::Part::{Last, More};
    let offered = |outputs: &[Output]| {
        outputs.iter().filter(|output| matches!(output, Output::GrantOffered { .. })).count()
    };
    assert!(step(offer(&genesis, More)).is_empty());
    let outputs = step(offer(&[7; 300], Last));
    assert!(matches!(&outputs[..], [Output::GrantOffered { records, .. }] if records.len() == 4));
    assert_eq!(offered(&step(offer(&genesis, Last))), 0, "one is being looked at");
    step(Input::OfferWeighed { peer: stranger });
    assert_eq!(offered(&step(offer(&genesis, Last))), 1);
    step(Input::OfferWeighed { peer: stranger });
    let closed = |outputs: &[Output]| outputs.iter().any(|output| matches!(output, Output::Close { .. }));
    assert!(closed(&step(offer(&[7; 300], Last))), "no folder begins like that");
    assert!(step(offer(&genesis, More)).is_empty());
    let session = cobox_net::wire::SessionId(1);
    let nothing = Frame::GrantOffer { session, part: More, records: Vec::new() };
    assert!(closed(&step(Input::Frame { conn, frame: nothing })), "it could go on for ever");
    // What is offered beyond is not heard, and ends nothing as long as it is not much: a peer may have many folders that are
    // not here.
    let (mut heard, mut unheard) = (0, 0);
    while unheard < 1000 {
        let outputs = step(offer(&genesis, Last));
        if closed(&outputs) {
            break;
        }
        let offered = offered(&outputs);
        (heard, unheard) = (heard + offered, unheard + 1 - offered);
        step(Input::OfferWeighed { peer: stranger });
    }
    assert!((30..100).contains(&heard), "{heard} offers in one instant");
    assert!((30..100).contains(&unheard), "{unheard} offers beyond them");
    // What it asks beside them has tokens of its own, and so do offers beside what it asks.
    use cobox_net::wire::{QuestionId, SeedingFrame};
    let claim = |at| Frame::Seeding(SeedingFrame::Claim { question: QuestionId(at), claim: vec![1] });
    let mut ordered = 0;
    for at in 0..1000 {
        let outputs = step(Input::Frame { conn, frame: claim(at) });
        ordered += outputs.iter().filter(|output| matches!(output, Output::Ordered { .. })).count();
    }
    assert!((30..100).contains(&ordered), "{ordered} claims in one instant");
    let mut later = |input| engine.step(input, now + Duration::from_secs(1));
    (0..1000).for_each(|at| drop(later(Input::Frame { conn, frame: claim(at) })));
    assert_eq!(offered(&later(offer(&genesis, Last))), 1);
}
