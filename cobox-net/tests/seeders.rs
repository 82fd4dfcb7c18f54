//! Seeders among themselves: two members, three seeders, links between all pairs that come and go, and then
//! no member at all. Each seed is one history. At its end every seeder holds everything that any of them
//! was given: what came late, what its disk lost, and, for one that begins again with an empty disk, all.

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_net::PeerId;
use cobox_net::sync::{Conn, Engine, Fetched, Identity, Input, Output, Place, Side, TICK};
use cobox_net::wire::{Frame, GrantAnswer, SessionId, decode_frame};
use cobox_store::blind::{Batch, Durability, PackStatus, Step, Store, StoreKind, Table, key as row_key};
use cobox_store::format::SLICE_BYTES;
use cobox_store::format::access::UnverifiedRecord;
use cobox_store::format::address::SeederAddress;
use cobox_store::format::entry::{Entry, Header};
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::{Outboard, slice_len};
use cobox_store::id::{EntryHash, EpochId, FolderNo, KemKey, LogId, PackId, hash};
use common::{Made, bytes};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

const MEMBERS: usize = 2;
const NODES: usize = 5;
const SEEDS: u64 = 25;
/// With `COBOX_SOAK`.
const SEEDS_SOAK: u64 = 3_000;
/// A round of the patrol is due at any time.
const ALWAYS: u64 = 0;

struct Rng(blake3::OutputReader);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        let mut word = [0; 8];
        self.0.fill(&mut word);
        usize::try_from(u64::from_le_bytes(word) % bound as u64).expect("small")
    }
}

struct Link {
    ends: [(usize, Conn); 2],
    pipes: [VecDeque<(Instant, Vec<u8>)>; 2],
}

struct Fetch {
    node: usize,
    from: usize,
    at: Instant,
    conn: Conn,
    session: SessionId,
    no: FolderNo,
    pack: PackRef,
}

struct Sim {
    now: Instant,
    rng: Rng,
    made: Made,
    keys: Vec<SigningKey>,
    stores: Vec<Arc<Store>>,
    /// A store that has never seen the folder, for a seeder whose disk is lost.
    spare: Arc<Store>,
    nos: Vec<Option<FolderNo>>,
    engines: Vec<Engine>,
    /// Pairs of nodes, lower first, that reach each other.
    reach: BTreeSet<(usize, usize)>,
    links: BTreeMap<u64, Link>,
    numbers: u64,
    fetches: Vec<Fetch>,
    dials: VecDeque<(usize, PeerId)>,
    heads: BTreeMap<usize, (u64, EntryHash)>,
    packs: Vec<PackId>,
}

fn peer(key: &SigningKey) -> PeerId {
    PeerId::of_key(key.verifying_key().to_bytes())
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Sim {
    fn new(seed: u64, stores: &[Arc<Store>]) -> Self {
        let mut made = Made::new(5_000_000 + seed);
        let mut keys = vec![made.founder.clone()];
        keys.extend((1..NODES).map(|at| SigningKey::from_bytes(&[at as u8 + 60; 32])));
        made.admit(&keys[1]);
        for key in &keys[MEMBERS..] {
            let addresses = vec![vec![1]];
            let address = SeederAddress { peer_id: peer(key).to_bytes(), kem: KemKey([1; 32]), addresses };
            made.grant_with(&address, 1 << 40, [0; 80]);
        }
        let hasher = blake3::Hasher::new_derive_key("seeders").update(&seed.to_le_bytes()).finalize_xof();
        let mut sim = Self {
            now: Instant::now(),
            rng: Rng(hasher),
            made,
            engines: Vec::new(),
            stores: stores[..NODES].to_vec(),
            spare: Arc::clone(&stores[NODES]),
            nos: vec![None; NODES],
            keys,
            reach: BTreeSet::new(),
            links: BTreeMap::new(),
            numbers: 0,
            fetches: Vec::new(),
            dials: VecDeque::new(),
            heads: BTreeMap::new(),
            packs: Vec::new(),
        };
        // In every other history one seeder was off when the members granted it.
        let absent = if seed.is_multiple_of(2) { NODES - 1 } else { NODES };
        for at in 0..NODES {
            if at != absent {
                sim.nos[at] = Some(sim.made.import(&sim.stores[at]));
            }
            sim.engines.push(Engine::new(Arc::clone(&sim.stores[at]), peer(&sim.keys[at])));
            sim.configure(at);
        }
        sim
    }

    /// Everybody dials the granted seeders, whose addresses stand in their grants.
    fn configure(&mut self, at: usize) {
        let Some(no) = self.nos[at] else { return };
        let key = self.keys[at].clone();
        let identity = if at >= MEMBERS {
            Identity::Seeder
        } else {
            Identity::Member {
                log: LogId(key.verifying_key().to_bytes()),
                signer: Arc::new(move |transcript| {
                    key.sign(&cobox_net::sync::signed_bytes(transcript)).to_bytes()
                }),
            }
        };
        let secrets = vec![Zeroizing::new(self.made.swarm)];
        self.input(at, Input::Folder { no, identity, secrets });
        let granted = self.stores[at].access(no).expect("reads").seeders.clone();
        let peers = granted
            .iter()
            .filter_map(|(_, grant)| Some((PeerId::from_bytes(&grant.peer_id)?, grant.addresses.clone())));
        let peers = peers.collect();
        self.input(at, Input::Peers { no, peers });
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn input(&mut self, at: usize, input: Input) {
        for output in self.engines[at].step(input, self.now) {
            self.output(at, output);
        }
    }

    fn link_of(&self, at: usize, conn: Conn) -> Option<(u64, usize)> {
        self.links.iter().find_map(|(id, link)| {
            link.ends.iter().position(|end| *end == (at, conn)).map(|side| (*id, side))
        })
    }

    fn output(&mut self, at: usize, output: Output) {
        match output {
            Output::Send { conn, frame } => {
                let arrives = self.now + Duration::from_millis(self.rng.below(30) as u64);
                if let Some((id, side)) = self.link_of(at, conn) {
                    let pipe = &mut self.links.get_mut(&id).expect("just found").pipes[side];
                    let last = pipe.back().map_or(arrives, |(moment, _)| *moment);
                    pipe.push_back((arrives.max(last), frame.encode()));
                }
            }
            Output::Close { conn } => {
                if let Some((id, _)) = self.link_of(at, conn) {
                    self.cut(id);
                }
            }
            Output::Dial { peer, .. } => self.dials.push_back((at, peer)),
            Output::Fetch { conn, session, no, pack } => match self.link_of(at, conn) {
                Some((id, side)) => {
                    let from = self.links[&id].ends[1 - side].0;
                    let moment = self.now + Duration::from_millis(self.rng.below(80) as u64);
                    self.fetches.push(Fetch { node: at, from, at: moment, conn, session, no, pack });
                }
                None => {
                    self.input(at, Input::Fetched { conn, session, no, pack: pack.id, how: Fetched::Broken });
                }
            },
            Output::GrantOffered { peer, records } => {
                for (position, bytes) in records.iter().enumerate() {
                    let record =
                        UnverifiedRecord::decode(bytes).expect("decodes").verify().expect("verifies");
                    if position == 0 {
                        self.nos[at] = Some(self.stores[at].folder_add(&record).expect("a genesis"));
                    } else {
                        let no = self.nos[at].expect("just added");
                        self.stores[at].access_add(no, &record).expect("admitted");
                    }
                }
                self.configure(at);
                let answer = GrantAnswer::Accepted;
                self.input(at, Input::OfferWeighed { peer });
                self.input(at, Input::OfferAnswered { peer, folder: self.made.id(), answer });
            }
            _ => {}
        }
    }

    fn dial(&mut self, from: usize, to_peer: PeerId) {
        let to = self.keys.iter().position(|key| peer(key) == to_peer).expect("a node");
        if !self.reach.contains(&pair(from, to)) {
            self.input(from, Input::DialFailed { peer: to_peer, error: "no way".to_owned() });
            return;
        }
        let (here, there) = (Conn(self.number()), Conn(self.number()));
        let id = self.number();
        self.links.insert(id, Link { ends: [(from, here), (to, there)], pipes: Default::default() });
        let (me, nonce) = (peer(&self.keys[from]), |conn: Conn| hash(&conn.0.to_le_bytes()));
        let (mine, theirs) = (nonce(here), nonce(there));
        let up = |conn, peer, side, nonce| Input::Up { conn, peer, side, place: Place::Other, nonce };
        self.input(from, up(here, to_peer, Side::Dialer, mine));
        self.input(to, up(there, me, Side::Listener, theirs));
    }

    fn cut(&mut self, id: u64) {
        let Some(link) = self.links.remove(&id) else { return };
        for (at, conn) in link.ends {
            self.input(at, Input::Down { conn });
        }
    }

    /// Who reaches whom from now on.
    fn set_reach(&mut self, reach: BTreeSet<(usize, usize)>) {
        self.reach = reach;
        let broken =
            self.links.iter().filter(|(_, link)| !self.reach.contains(&pair(link.ends[0].0, link.ends[1].0)));
        for id in broken.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut(id);
        }
    }

    fn restart(&mut self, at: usize) {
        let mine = self.links.iter().filter(|(_, link)| link.ends.iter().any(|end| end.0 == at));
        for id in mine.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.cut(id);
        }
        self.fetches.retain(|fetch| fetch.node != at);
        self.dials.retain(|dial| dial.0 != at);
        self.engines[at] = Engine::new(Arc::clone(&self.stores[at]), peer(&self.keys[at]));
        self.configure(at);
    }

    fn write(&mut self, at: usize) {
        let size = [4096, 12 << 10, 256 << 10, 1 << 20][self.rng.below(4)];
        let pack = bytes(self.rng.below(usize::MAX) as u64, size);
        let outboard = Outboard::of(&pack);
        let (seq, prev) = self.heads.get(&at).copied().unwrap_or((0, EntryHash([0; 32])));
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
        self.heads.insert(at, (seq + 1, header.hash()));
        let (store, no) = (Arc::clone(&self.stores[at]), self.nos[at].expect("a member"));
        store.packs_put(no, &[(outboard, pack)]).expect("stores");
        store.entry_add(no, &Entry::new(header, signature, body)).expect("takes");
        self.input(at, Input::Changed { no });
    }

    /// What a driver's transfer does, with whatever both disks hold.
    fn transfer(&mut self, fetch: &Fetch) -> Fetched {
        let Some((id, side)) = self.link_of(fetch.node, fetch.conn) else { return Fetched::Broken };
        let (from, to) = (Arc::clone(&self.stores[fetch.from]), Arc::clone(&self.stores[fetch.node]));
        let (Some(from_no), Some(no)) = (self.nos[fetch.from], self.nos[fetch.node]) else {
            return Fetched::NotHere;
        };
        let whole = matches!(from.pack_status(from_no, fetch.pack.id), Ok(PackStatus::Complete(_)));
        let outboard = from.outboard(from_no, fetch.pack.id).ok().flatten().filter(|_| whole);
        let Some(outboard) = outboard else {
            let (other, conn) = self.links[&id].ends[1 - side];
            self.input(other, Input::Denied { conn, session: fetch.session, pack: fetch.pack.id });
            return Fetched::NotHere;
        };
        let mut receiver = to.pack_receive(no, fetch.pack, outboard).expect("begins");
        for index in receiver.needed() {
            if self.rng.below(60) == 0 {
                return Fetched::Broken;
            }
            let len = slice_len(fetch.pack.size, index);
            let range = from.pack_range(from_no, fetch.pack.id, index * SLICE_BYTES, len);
            let slice = range.expect("reads").expect("is complete");
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
            while let Some((from, to)) = self.dials.pop_front() {
                self.dial(from, to);
            }
            self.deliver();
            let now = self.now;
            let (due, later) =
                std::mem::take(&mut self.fetches).into_iter().partition(|fetch| fetch.at <= now);
            self.fetches = later;
            let due: Vec<Fetch> = due;
            for fetch in due {
                let how = self.transfer(&fetch);
                let Fetch { node, conn, session, no, pack, .. } = fetch;
                self.input(node, Input::Fetched { conn, session, no, pack: pack.id, how });
                if let Some(no) = self.nos[node] {
                    self.input(node, Input::Changed { no });
                }
            }
        }
    }

    fn deliver(&mut self) {
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            for side in 0..2 {
                while let Some(link) = self.links.get_mut(&id) {
                    let due = link.pipes[side].front().is_some_and(|(at, _)| *at <= self.now);
                    let Some((_, bytes)) = due.then(|| link.pipes[side].pop_front()).flatten() else { break };
                    let (to, conn) = link.ends[1 - side];
                    let frame: Frame = decode_frame(&bytes).expect("engines send what decodes");
                    self.input(to, Input::Frame { conn, frame });
                }
            }
        }
    }

    /// Whether a node holds all entries and all packs.
    fn holds_all(&self, at: usize) -> bool {
        let Some(no) = self.nos[at] else { return false };
        let heads = self.stores[at].log_heads(no).expect("reads");
        let found: BTreeMap<LogId, u64> = heads.iter().map(|head| (head.log, head.seq)).collect();
        let log = |at: &usize| LogId(self.keys[*at].verifying_key().to_bytes());
        self.heads.iter().all(|(at, (seq, _))| found.get(&log(at)) == Some(seq))
            && self
                .packs
                .iter()
                .all(|pack| matches!(self.stores[at].pack_status(no, *pack), Ok(PackStatus::Complete(_))))
    }

    fn until(&mut self, what: &str, seed: u64, done: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            if done(self) {
                return;
            }
            self.run_for(Duration::from_secs(1));
        }
        panic!("seed {seed}: {what}");
    }

    fn random_reach(&mut self) -> BTreeSet<(usize, usize)> {
        let pairs = (0..NODES).flat_map(|a| (a + 1..NODES).map(move |b| (a, b)));
        pairs.filter(|_| self.rng.below(3) > 0).collect()
    }

    /// Flips a byte of what a seeder stored: of a slice, or of an outboard, which loses the whole pack.
    fn damage(&mut self, at: usize, pack: PackId) {
        let (store, no) = (Arc::clone(&self.stores[at]), self.nos[at].expect("holds the folder"));
        let mut batch = Batch::default();
        if self.rng.below(4) == 0 {
            batch.put(&row_key(no, Table::Outboard, &pack.0), b"bent");
        } else {
            // version, size, ordinal
            let info =
                store.db().get(&row_key(no, Table::PackInfo, &pack.0)).expect("reads").expect("is here");
            let ordinal = u64::from_le_bytes(info[9..17].try_into().expect("eight bytes"));
            let slices =
                u64::from_le_bytes(info[1..9].try_into().expect("eight bytes")).div_ceil(SLICE_BYTES);
            let index = self.rng.below(usize::try_from(slices).expect("small")) as u32;
            let slice_key = [&ordinal.to_be_bytes()[..], &index.to_be_bytes()].concat();
            let mut slice = store.db().bulk_get(&slice_key).expect("reads").expect("is here");
            slice[17] ^= 4;
            batch.put_bulk(&slice_key, &slice);
        }
        store.db().commit(batch, Durability::Unsynced).expect("commits");
    }

    /// A whole round of a seeder's patrol; how many packs it found damaged.
    fn patrol(&mut self, at: usize) -> usize {
        let (store, no) = (Arc::clone(&self.stores[at]), self.nos[at].expect("holds the folder"));
        let (before, mut found) = (store.patrol(no).expect("reads").rounds, 0);
        while store.patrol(no).expect("reads").rounds == before {
            if let Step::Read { damaged, .. } = store.patrol_step(no, ALWAYS, 1, 1 << 20).expect("reads") {
                found += damaged.len();
            }
        }
        self.input(at, Input::Changed { no });
        found
    }
}

fn seeders() -> std::ops::Range<usize> {
    MEMBERS..NODES
}

/// Members write while links come and go; then each leaves once one seeder has what it wrote.
fn members_write_and_leave(sim: &mut Sim, seed: u64) {
    for _ in 0..10 {
        match sim.rng.below(5) {
            0..=2 => {
                let at = sim.rng.below(MEMBERS);
                sim.write(at);
            }
            3 => {
                let at = sim.rng.below(NODES);
                sim.restart(at);
            }
            _ => {
                let reach = sim.random_reach();
                sim.set_reach(reach);
            }
        }
        let ms = sim.rng.below(1200) as u64;
        sim.run_for(Duration::from_millis(ms));
    }
    sim.write(0);
    for member in 0..MEMBERS {
        // A seeder that never heard of the folder is not the one to leave it with.
        let keeper = MEMBERS + sim.rng.below(NODES - MEMBERS - 1);
        let reach = sim.random_reach().into_iter().filter(|(a, _)| *a >= MEMBERS).collect();
        sim.set_reach(reach);
        sim.reach.insert(pair(member, keeper));
        let log = LogId(sim.keys[member].verifying_key().to_bytes());
        let (seq, no) = (sim.heads.get(&member).map_or(0, |head| head.0), sim.nos[keeper].expect("holds it"));
        let own: Vec<PackId> = sim.packs.clone();
        sim.until("a seeder never got what a member wrote", seed, |sim| {
            let store = &sim.stores[keeper];
            let head = store.log_head(no, log).expect("reads").map_or(0, |head| head.seq);
            let here = |pack: &PackId| {
                let member_has = sim.stores[member].pack_status(sim.nos[member].expect("own"), *pack);
                let has = |status| matches!(status, Ok(PackStatus::Complete(_)));
                !has(member_has) || has(store.pack_status(no, *pack))
            };
            head == seq && own.iter().all(here)
        });
    }
}

fn history(seed: u64, stores: &[Arc<Store>]) {
    let mut sim = Sim::new(seed, stores);
    members_write_and_leave(&mut sim, seed);
    // No member from here on.
    let among = |nodes: std::ops::Range<usize>| -> BTreeSet<(usize, usize)> {
        nodes.clone().flat_map(|a| nodes.clone().filter(move |b| a < *b).map(move |b| (a, b))).collect()
    };
    sim.set_reach(among(seeders()));
    sim.until("not every seeder holds everything", seed, |sim| seeders().all(|at| sim.holds_all(at)));
    // Their disks lose something, never all copies of one pack.
    let mut hurt = BTreeMap::from([(2, 0), (3, 0), (4, 0)]);
    for pack in sim.packs.clone() {
        let sound = MEMBERS + sim.rng.below(NODES - MEMBERS);
        for at in seeders().filter(|at| *at != sound) {
            if sim.rng.below(3) == 0 {
                sim.damage(at, pack);
                *hurt.get_mut(&at).expect("a seeder") += 1;
            }
        }
    }
    for at in seeders() {
        assert_eq!(sim.patrol(at), hurt[&at], "seed {seed}: seeder {at} did not find what its disk lost");
    }
    sim.until("damage was not mended", seed, |sim| seeders().all(|at| sim.holds_all(at)));
    for at in seeders() {
        assert_eq!(sim.patrol(at), 0, "seed {seed}: seeder {at} holds wrong bytes");
        let damage = sim.stores[at].damage(sim.nos[at].expect("holds it")).expect("reads");
        assert_eq!((damage.found, damage.unmended), (hurt[&at] as u64, 0), "seed {seed}: seeder {at}");
    }
    // One loses its disk and begins again under its name; then the others leave it alone.
    let lost = MEMBERS + sim.rng.below(NODES - MEMBERS);
    sim.stores[lost] = Arc::clone(&sim.spare);
    sim.nos[lost] = None;
    sim.restart(lost);
    sim.until("a seeder with an empty disk was not brought in", seed, |sim| sim.holds_all(lost));
    // A member that comes back finds everything with that one alone.
    sim.set_reach(BTreeSet::from([pair(1, lost)]));
    sim.until("the member did not get everything", seed, |sim| sim.holds_all(1));
}

#[test]
fn seeders_without_members_complete_heal_and_bring_in_one_another() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let kind = |at| if at < MEMBERS { StoreKind::Device } else { StoreKind::Seeder };
    let stores: Vec<Arc<Store>> = (0..=NODES)
        .map(|at| Store::create(&dir.path().join(at.to_string()), kind(at)).expect("creates"))
        .collect();
    let seeds = if std::env::var_os("COBOX_SOAK").is_some() { SEEDS_SOAK } else { SEEDS };
    let first = std::env::var("COBOX_SEED").ok().and_then(|text| text.parse().ok());
    for seed in first.map_or(0..seeds, |seed| seed..seed + 1) {
        history(seed, &stores);
    }
}
