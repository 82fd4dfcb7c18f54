//! The engine among liars: a seeder that hides, replays, reorders, bends and invents what it sends and never stops,
//! and a device that signs two histories. Links break, nodes restart, one peer is slow. Honest nodes end with
//! everything, take nothing that nobody signed, and never queue without bound.
//!
//! Time and chance are data: `COBOX_SEED=n` plays the history of that seed again, frame by frame; `COBOX_SOAK` asks for
//! fifty times as many.

mod common;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_net::PeerId;
use cobox_net::sync::{Conn, Engine, Fetched, Identity, Input, Output, Place, Side, TICK};
use cobox_net::wire::{Frame, SessionId, decode_frame};
use cobox_store::blind::{PackStatus, Store, StoreKind};
use cobox_store::format::SLICE_BYTES;
use cobox_store::format::address::SeederAddress;
use cobox_store::format::entry::{Entry, Header, LogHead};
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::{Outboard, slice_len};
use cobox_store::id::{EntryHash, EpochId, FolderNo, KemKey, LogId, PackId, RecordHash, hash};
use common::puppet::{Stage, key};
use common::{Made, bytes};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

const DEVICES: usize = 3;
/// The device that signs two histories.
const TWOFACED: usize = 2;
const HONEST_SEEDER: usize = 3;
/// The seeder that lies.
const LIAR: usize = 4;
const NODES: usize = 5;
const SEEDS: u64 = 200;
/// Bytes under way at once, all links together: what the engines' own bounds on answers allow, and far below
/// what an answer to every lie would be.
const UNDERWAY_BYTES_MAX: usize = 32 << 20;

struct Dice(blake3::OutputReader);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new_derive_key("liars").update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, bound: u64) -> u64 {
        let mut word = [0; 8];
        self.0.fill(&mut word);
        u64::from_le_bytes(word) % bound
    }

    fn fill(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.fill(&mut bytes);
        bytes
    }
}

type Pipe = VecDeque<(Instant, Vec<u8>)>;

struct Wire {
    ends: [(usize, Conn); 2],
    pipes: [Pipe; 2],
}

struct Fetch {
    node: usize,
    at: Instant,
    conn: Conn,
    session: SessionId,
    no: FolderNo,
    pack: PackRef,
    wire: u64,
}

struct Sim {
    began: Instant,
    now: Instant,
    dice: Dice,
    engines: Vec<Engine>,
    stores: Vec<Arc<Store>>,
    nos: Vec<FolderNo>,
    keys: Vec<SigningKey>,
    made: Made,
    wires: BTreeMap<u64, Wire>,
    next: u64,
    fetches: Vec<Fetch>,
    dials: VecDeque<(usize, PeerId)>,
    /// Entries that somebody signed, and how far each device's chains are.
    signed: HashSet<EntryHash>,
    chains: BTreeMap<(usize, u8), (u64, EntryHash)>,
    packs: Vec<PackId>,
    /// Entries that the liar keeps back to send them later.
    kept: Vec<Frame>,
    slow: usize,
    trace: blake3::Hasher,
}

fn peer(key: &SigningKey) -> PeerId {
    PeerId::of_key(key.verifying_key().to_bytes())
}

fn log_of(key: &SigningKey) -> LogId {
    LogId(key.verifying_key().to_bytes())
}

impl Sim {
    fn new(seed: u64, stores: &[Arc<Store>]) -> Self {
        let mut made = Made::new(7_000_000 + seed);
        let key = |at: usize| SigningKey::from_bytes(&[u8::try_from(at).expect("few") + 40; 32]);
        let keys: Vec<SigningKey> =
            (0..NODES).map(|at| if at == 0 { made.founder.clone() } else { key(at) }).collect();
        for key in &keys[1..DEVICES] {
            made.admit(key);
        }
        for key in &keys[DEVICES..] {
            let (peer_id, kem) = (peer(key).to_bytes(), KemKey([1; 32]));
            made.grant_with(&SeederAddress { peer_id, kem, addresses: vec![vec![1]] }, 1 << 40, [0; 80]);
        }
        let nos = stores.iter().map(|store| made.import(store)).collect();
        let now = Instant::now();
        let mut sim = Self {
            began: now,
            now,
            dice: Dice::new(seed),
            engines: Vec::new(),
            stores: stores.to_vec(),
            nos,
            keys,
            made,
            wires: BTreeMap::new(),
            next: 1,
            fetches: Vec::new(),
            dials: VecDeque::new(),
            signed: HashSet::new(),
            chains: BTreeMap::new(),
            packs: Vec::new(),
            kept: Vec::new(),
            slow: usize::try_from(seed % NODES as u64).expect("few"),
            trace: blake3::Hasher::new(),
        };
        for at in 0..NODES {
            sim.engines.push(Engine::new(Arc::clone(&sim.stores[at]), peer(&sim.keys[at])));
            sim.configure(at);
        }
        sim
    }

    /// Devices dial seeders; the seeders dial each other.
    fn configure(&mut self, at: usize) {
        let (no, key) = (self.nos[at], self.keys[at].clone());
        let log = log_of(&key);
        let signer = move |transcript: &[u8]| key.sign(&cobox_net::sync::signed_bytes(transcript)).to_bytes();
        let identity =
            if at < DEVICES { Identity::Member { log, signer: Arc::new(signer) } } else { Identity::Seeder };
        let secrets = vec![Zeroizing::new(self.made.swarm)];
        self.input(at, Input::Folder { no, identity, secrets });
        let peers = self.keys[DEVICES..].iter().map(|key| (peer(key), vec![vec![1]])).collect();
        self.input(at, Input::Peers { no, peers });
    }

    fn input(&mut self, at: usize, input: Input) {
        let outputs = self.engines[at].step(input, self.now);
        assert!(outputs.len() < 10_000, "{} things to do after one", outputs.len());
        for output in outputs {
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
                let frames = if at == LIAR { self.lie(frame) } else { vec![frame] };
                for frame in frames {
                    self.send(at, conn, &frame);
                }
            }
            Output::Close { conn } => {
                if let Some((id, _)) = self.wire_of(at, conn) {
                    self.cut(id);
                }
            }
            Output::Dial { peer, .. } => self.dials.push_back((at, peer)),
            Output::Fetch { conn, session, no, pack } => match self.wire_of(at, conn) {
                Some((wire, _)) => {
                    let at_ms = self.dice.below(200);
                    let moment = self.now + Duration::from_millis(at_ms);
                    self.fetches.push(Fetch { node: at, at: moment, conn, session, no, pack, wire });
                }
                None => {
                    self.input(at, Input::Fetched { conn, session, no, pack: pack.id, how: Fetched::Broken });
                }
            },
            _ => {}
        }
    }

    fn send(&mut self, at: usize, conn: Conn, frame: &Frame) {
        let Some((id, side)) = self.wire_of(at, conn) else { return };
        let late = match at {
            LIAR if self.dice.below(30) == 0 => 12_000,
            at if at == self.slow => 400,
            _ => 20,
        };
        let arrives = self.now + Duration::from_millis(self.dice.below(late));
        let bytes = frame.encode();
        self.trace.update(&self.now.duration_since(self.began).as_millis().to_le_bytes());
        self.trace.update(&id.to_le_bytes());
        self.trace.update(&bytes);
        let pipe = &mut self.wires.get_mut(&id).expect("just found").pipes[side];
        // The order of one stream is the network's promise; what the liar breaks it breaks before.
        let last = pipe.back().map_or(arrives, |(moment, _)| *moment);
        pipe.push_back((arrives.max(last), bytes));
    }

    /// What the liar sends in a frame's place.
    fn lie(&mut self, frame: Frame) -> Vec<Frame> {
        let chance = self.dice.below(8);
        let noise = self.dice.fill();
        match frame {
            Frame::Entry { session, mut entry } => match chance {
                // Hides it, bends it, or keeps it back and sends it when another is due.
                0 => vec![],
                1 => {
                    let at = usize::from(noise[0]) * entry.len() / 256;
                    entry[at] ^= 1 + (noise[1] & 0x7f);
                    vec![Frame::Entry { session, entry }]
                }
                2 | 3 => {
                    let frame = Frame::Entry { session, entry };
                    self.kept.push(frame);
                    if self.kept.len() > 3 { vec![self.kept.remove(0), self.kept.remove(1)] } else { vec![] }
                }
                _ => vec![Frame::Entry { session, entry: entry.clone() }, Frame::Entry { session, entry }],
            },
            Frame::LogHeads { session, mut heads } => {
                match (chance, heads.first_mut()) {
                    (0, _) => heads.clear(),
                    (1, Some(head)) => *head = LogHead { seq: 1, ..*head },
                    (2, Some(head)) => (head.seq, head.hash) = (head.seq + 1000, EntryHash(noise)),
                    (3, Some(head)) => head.hash = EntryHash(noise),
                    (4, Some(head)) => head.log = LogId(noise),
                    _ => {}
                }
                vec![Frame::LogHeads { session, heads }]
            }
            Frame::EntriesEnd { session, log, next } if chance < 3 => {
                vec![Frame::EntriesEnd { session, log, next: next.saturating_add(u64::from(noise[0])) }]
            }
            Frame::AccessHeads { session, .. } if chance < 2 => {
                vec![Frame::AccessHeads { session, heads: vec![RecordHash(noise)] }]
            }
            Frame::Records { session, part, mut records } if chance < 4 => {
                records.reverse();
                records.truncate(1 + usize::from(noise[0] % 3));
                vec![Frame::Records { session, part, records }]
            }
            Frame::Behind { session, .. } if chance < 4 => {
                vec![Frame::Have { session, packs: vec![PackId(noise)] }]
            }
            Frame::Equivocation { session, mut proof } if chance < 4 => {
                let at = usize::from(noise[0]) * proof.len() / 256;
                proof[at] ^= 1;
                vec![Frame::Equivocation { session, proof }]
            }
            other => vec![other],
        }
    }

    fn connect(&mut self, from: usize, to_peer: PeerId) {
        let to = self.keys.iter().position(|key| peer(key) == to_peer).expect("a node");
        let (here, there) = (Conn(self.next), Conn(self.next + 1));
        let wire = Wire { ends: [(from, here), (to, there)], pipes: Default::default() };
        self.wires.insert(self.next, wire);
        self.next += 2;
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
        let mine = |wire: &Wire| wire.ends.iter().any(|end| end.0 == at);
        let mine: Vec<u64> = self.wires.iter().filter(|(_, wire)| mine(wire)).map(|(id, _)| *id).collect();
        for id in mine {
            self.cut(id);
        }
        self.fetches.retain(|fetch| fetch.node != at);
        self.dials.retain(|dial| dial.0 != at);
        self.engines[at] = Engine::new(Arc::clone(&self.stores[at]), peer(&self.keys[at]));
        self.configure(at);
    }

    /// A device signs an entry, which comes into somebody's store.
    fn write(&mut self, at: usize, face: u8, into: usize) {
        let outboard_of = bytes(self.dice.below(u64::MAX), 4096);
        let outboard = Outboard::of(&outboard_of);
        let beginning = self.chains.get(&(at, 0)).copied().unwrap_or((0, EntryHash([0; 32])));
        let (seq, prev) = self.chains.get(&(at, face)).copied().unwrap_or(beginning);
        let body = [&[face; 60][..], &bytes(seq, 60)].concat();
        let header = Header {
            folder: self.made.id(),
            log: log_of(&self.keys[at]),
            seq: seq + 1,
            prev,
            access_heads: vec![self.made.epoch],
            epoch: EpochId(self.made.epoch.0),
            packs: vec![outboard.pack()],
            body_size: u32::try_from(body.len()).expect("short"),
            body_hash: hash(&body),
        };
        let signature = self.keys[at].sign(&header.signed_bytes()).to_bytes();
        let (store, no) = (Arc::clone(&self.stores[into]), self.nos[into]);
        let entry = Entry::new(header.clone(), signature, body);
        store.packs_put(no, &[(outboard.clone(), outboard_of)]).expect("stores");
        // The other face is not taken where what it follows has not arrived.
        if store.entry_add(no, &entry).is_ok() {
            self.signed.insert(header.hash());
            self.packs.push(outboard.pack().id);
            self.chains.insert((at, face), (seq + 1, header.hash()));
        }
        self.input(into, Input::Changed { no });
    }

    /// What a driver's transfer does.
    fn transfer(&mut self, fetch: &Fetch) -> Fetched {
        let Some(wire) = self.wires.get(&fetch.wire) else { return Fetched::Broken };
        let (other, conn) = wire.ends[usize::from(wire.ends[0] == (fetch.node, fetch.conn))];
        let (from, to) = (Arc::clone(&self.stores[other]), Arc::clone(&self.stores[fetch.node]));
        let (from_no, no, pack) = (self.nos[other], self.nos[fetch.node], fetch.pack);
        let whole = matches!(from.pack_status(from_no, pack.id), Ok(PackStatus::Complete(_)));
        let outboard = from.outboard(from_no, pack.id).expect("reads").filter(|_| whole);
        let Some(outboard) = outboard.filter(|_| other != LIAR || self.dice.below(3) > 0) else {
            self.input(other, Input::Denied { conn, session: fetch.session, pack: pack.id });
            return Fetched::NotHere;
        };
        let mut receiver = to.pack_receive(no, pack, outboard).expect("begins");
        for index in receiver.needed() {
            let range = from.pack_range(from_no, pack.id, index * SLICE_BYTES, slice_len(pack.size, index));
            let mut slice = range.expect("reads").expect("is complete");
            if other == LIAR && self.dice.below(2) == 0 {
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
            let pipes = self.wires.values().flat_map(|wire| &wire.pipes).flatten();
            let underway: usize = pipes.map(|(_, bytes)| bytes.len()).sum();
            assert!(underway < UNDERWAY_BYTES_MAX, "{underway} bytes are under way");
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to)) = self.dials.pop_front() {
            if self.dice.below(4) == 0 {
                self.input(from, Input::DialFailed { peer: to, error: "off".to_owned() });
            } else {
                self.connect(from, to);
            }
        }
        for id in self.wires.keys().copied().collect::<Vec<_>>() {
            for side in 0..2 {
                while let Some(wire) = self.wires.get_mut(&id) {
                    let pipe = &mut wire.pipes[side];
                    let due = pipe.front().is_some_and(|(at, _)| *at <= self.now);
                    let Some((_, bytes)) = due.then(|| pipe.pop_front()).flatten() else { break };
                    let (to, conn) = wire.ends[1 - side];
                    // What is no frame ends a connection in the driver.
                    match decode_frame(&bytes) {
                        Ok(frame) => self.input(to, Input::Frame { conn, frame }),
                        Err(_) => self.cut(id),
                    }
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

    /// Whether the honest hold all that was signed, and the same.
    fn settled(&self) -> bool {
        let heads = |at: usize| self.stores[at].log_heads(self.nos[at]).expect("heads");
        let first = heads(0);
        let mut tips = self.chains.iter();
        // A history may go on where another one ends.
        tips.all(|((at, _), (seq, tip))| {
            let head = LogHead { log: log_of(&self.keys[*at]), seq: *seq, hash: *tip };
            matches!(self.stores[0].holder(self.nos[0], &head), Ok(Some(_)))
        }) && (0..LIAR).all(|at| {
            let complete = |pack: &PackId| {
                matches!(self.stores[at].pack_status(self.nos[at], *pack), Ok(PackStatus::Complete(_)))
            };
            heads(at) == first && self.packs.iter().all(complete)
        })
    }

    /// Nobody holds what nobody signed.
    fn check_genuine(&self, seed: u64) {
        for at in 0..NODES {
            let (store, no) = (&self.stores[at], self.nos[at]);
            for head in store.log_heads(no).expect("heads") {
                for number in 1..=head.seq {
                    let entry = store.entry(no, head.log, number).expect("verifies").expect("is there");
                    let name = entry.header().hash();
                    assert!(self.signed.contains(&name), "seed {seed}: node {at} holds {name} of nobody");
                }
            }
        }
    }
}

/// Plays one history; returns the hash of all frames and when each was sent.
fn history(seed: u64, stores: &[Arc<Store>]) -> blake3::Hash {
    let mut sim = Sim::new(seed, stores);
    for _ in 0..12 {
        match sim.dice.below(8) {
            0..=2 => {
                let at = usize::try_from(sim.dice.below(DEVICES as u64)).expect("few");
                sim.write(at, 0, at);
            }
            // The other face of the two-faced device speaks where the first is not looking.
            3 if sim.chains.contains_key(&(TWOFACED, 0)) => sim.write(TWOFACED, 1, HONEST_SEEDER),
            4 => {
                let at = usize::try_from(sim.dice.below(NODES as u64)).expect("few");
                sim.restart(at);
            }
            _ => {
                let ids: Vec<u64> = sim.wires.keys().copied().collect();
                if !ids.is_empty() {
                    let at = sim.dice.below(ids.len() as u64);
                    sim.cut(ids[usize::try_from(at).expect("few")]);
                }
            }
        }
        let ms = sim.dice.below(1500);
        sim.run_for(Duration::from_millis(ms));
    }
    sim.write(0, 0, 0);
    for _ in 0..400 {
        if sim.settled() {
            break;
        }
        sim.run_for(Duration::from_secs(1));
    }
    if !sim.settled() {
        for at in 0..NODES {
            let lacking = sim.stores[at].packs_missing(sim.nos[at], None, 10).expect("reads").len();
            eprintln!("node {at} lacks {lacking} packs: {:?}", sim.stores[at].log_heads(sim.nos[at]));
        }
        panic!("seed {seed}: the honest do not hold everything");
    }
    sim.check_genuine(seed);
    sim.trace.finalize()
}

fn stores(dir: &std::path::Path) -> Vec<Arc<Store>> {
    let kind = |at| if at < DEVICES { StoreKind::Device } else { StoreKind::Seeder };
    (0..NODES).map(|at| Store::create(&dir.join(at.to_string()), kind(at)).expect("creates")).collect()
}

#[test]
fn honest_nodes_converge_among_liars_and_take_nothing_false() {
    common::play(common::seeds(SEEDS), stores, |seed, stores| {
        history(seed, stores);
    });
}

#[test]
fn same_seed_plays_the_same_history() {
    for seed in [3, 11] {
        let run = || {
            let dir = common::memory_dir();
            history(seed, &stores(dir.path()))
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}

#[test]
fn peer_that_sent_wrong_bytes_is_asked_again_after_a_minute() {
    let device = key(60);
    let mut stage = Stage::new(12, &[&device]);
    stage.entry_of_packs(&device, 40, 1 << 20);
    stage.enter(&device);
    stage.pass(TICK);
    while let Some((conn, session, no, pack)) = stage.flying.pop_front() {
        stage.input(Input::Fetched { conn, session, no, pack, how: Fetched::Lied });
    }
    stage.pass(Duration::from_secs(59));
    assert!(stage.flying.is_empty(), "nothing is fetched from it");
    stage.pass(Duration::from_secs(2));
    assert!(!stage.flying.is_empty(), "it is the only one that may have what is missing");
}
