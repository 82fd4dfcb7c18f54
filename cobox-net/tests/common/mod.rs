//! Folders made by hand, keyless members and seeders for the tests: real signatures, made-up contents.

#![allow(dead_code)]

pub mod puppet;
pub mod sim;
pub mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cobox_net::patrol::{self, Pace};
use cobox_net::seeder::commands::{Answer, Request, ask_running};
use cobox_net::seeder::identity::{Identity, saved_address};
use cobox_net::seeder::{Accept, RunOptions, run};
use cobox_net::{FolderSecrets, LanDiscovery, NetConfig, Node, PeerId, PeerStatus};
use cobox_store::blind::kembox::{Purpose, seal};
use cobox_store::blind::{Store, StoreKind};
use cobox_store::format::access::{
    Act, BOX_BYTES, Device, NewEpoch, Record, Role, SEALED_LABEL_BYTES, SeederGrant, Unsigned,
};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::entry::{Entry, Header, LogHead};
use cobox_store::format::membership::{OpenInvite, WRAPPED_LABEL_KEY_BYTES};
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::Outboard;
use cobox_store::format::release::Release;
use cobox_store::id::{
    EntryHash, EpochId, FolderId, FolderNo, InviteKey, KemKey, LogId, MemberId, PackId, RecordHash, hash,
};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

/// A temporary folder in memory where there is one: a simulation is not about disks.
pub fn memory_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("temporary folder")
}

/// Seeds of a random test: `count` of them, fifty times as many where `COBOX_SOAK` is set, or the one in `COBOX_SEED`.
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    let one = std::env::var("COBOX_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    let times = if std::env::var_os("COBOX_SOAK").is_some() { 50 } else { 1 };
    one.map_or(0..count * times, |seed| seed..seed + 1)
}

/// Plays the histories of these seeds. Each is a folder more in the stores, which are made anew now and then: they are in
/// memory, and thousands of folders in one are another test's subject.
pub fn play(
    seeds: std::ops::Range<u64>,
    stores: impl Fn(&Path) -> Vec<Arc<Store>>,
    history: impl Fn(u64, &[Arc<Store>]),
) {
    for first in seeds.clone().step_by(100) {
        let dir = memory_dir();
        let kept = stores(dir.path());
        (first..seeds.end.min(first + 100)).for_each(|seed| history(seed, &kept));
        println!("seeds up to {} are fine", seeds.end.min(first + 100) - 1);
    }
}

/// Polls until `done`, or fails the test.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `len` bytes that depend on `seed`.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("net test").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A folder with its founder, one epoch, and what was added since.
pub struct Made {
    pub founder: SigningKey,
    pub recovery: SigningKey,
    pub swarm: [u8; 32],
    pub records: Vec<Record>,
    pub epoch: RecordHash,
}

fn device(key: &SigningKey, recovery: &SigningKey, role: Role) -> Device {
    Device {
        log: LogId(key.verifying_key().to_bytes()),
        kem: KemKey(hash(&key.to_bytes())),
        member: MemberId(recovery.verifying_key().to_bytes()),
        recovery_kem: KemKey(hash(&recovery.to_bytes())),
        role,
        label: [0; SEALED_LABEL_BYTES],
    }
}

impl Made {
    pub fn new(seed: u64) -> Self {
        let key = |what: &str| SigningKey::from_bytes(&hash(format!("{what} {seed}").as_bytes()));
        let (founder, recovery) = (key("founder"), key("recovery"));
        let genesis = Act::Genesis {
            nonce: hash(&seed.to_le_bytes()),
            fold_case: false,
            unicode: [17, 0],
            device: device(&founder, &recovery, Role::Admin),
            name: [0; SEALED_LABEL_BYTES],
        };
        let mut made = Self {
            swarm: hash(format!("swarm {seed}").as_bytes()),
            founder,
            recovery,
            records: Vec::new(),
            epoch: RecordHash([0; 32]),
        };
        made.sign(genesis);
        let epoch = NewEpoch { commit: [7; 32], boxes: vec![], swarm_boxes: vec![], previous: vec![] };
        made.epoch = made.sign(Act::NewEpoch(epoch)).hash();
        made
    }

    fn sign(&mut self, act: Act) -> Record {
        let parents: Vec<RecordHash> = self.records.last().map(Record::hash).into_iter().collect();
        let folder = if parents.is_empty() { FolderId([0; 32]) } else { self.id() };
        let author = self.founder.verifying_key().to_bytes();
        let content = Unsigned { folder, parents, author, issued_ms: 0, act };
        let signature = self.founder.sign(&content.signed_bytes()).to_bytes();
        let record = Record::new(content, signature);
        self.records.push(record.clone());
        record
    }

    pub fn id(&self) -> FolderId {
        self.records[0].folder()
    }

    /// Admits another device.
    pub fn admit(&mut self, key: &SigningKey) -> Record {
        let recovery = SigningKey::from_bytes(&hash(&key.to_bytes()));
        self.sign(Act::AddDevice { device: device(key, &recovery, Role::Write) })
    }

    /// Removes a device, whose log ends here.
    pub fn remove(&mut self, last: LogHead) -> Record {
        self.sign(Act::RemoveDevice { last })
    }

    /// Releases these packs, as far as the founder's log listed them up to `seq`.
    pub fn release(&mut self, seq: u64, packs: &[PackRef]) -> Record {
        let mut packs: Vec<PackId> = packs.iter().map(|pack| pack.id).collect();
        packs.sort_unstable();
        let log = LogId(self.founder.verifying_key().to_bytes());
        self.sign(Act::Release(Release { cut: vec![(log, seq)], packs, young: Vec::new() }))
    }

    /// Opens an invite.
    pub fn invite(&mut self, invite: &SigningKey) -> Record {
        self.sign(Act::OpenInvite(OpenInvite {
            invite: InviteKey(invite.verifying_key().to_bytes()),
            role: Role::Write,
            expires_ms: u64::MAX,
            label_key: [0; WRAPPED_LABEL_KEY_BYTES],
        }))
    }

    /// Grants a seeder.
    pub fn grant(&mut self, address: &SeederAddress, quota_bytes: u64) -> Record {
        let epoch = EpochId(self.epoch.0);
        let swarm_box =
            seal(Purpose::Swarm, self.id(), address.kem, &epoch.0, &self.swarm).expect("a valid key");
        self.grant_with(address, quota_bytes, swarm_box)
    }

    /// Grants a seeder with this box.
    pub fn grant_with(
        &mut self,
        address: &SeederAddress,
        quota_bytes: u64,
        swarm_box: [u8; BOX_BYTES],
    ) -> Record {
        self.sign(Act::GrantSeeder(SeederGrant {
            peer_id: address.peer_id.clone(),
            kem: address.kem,
            quota_bytes,
            until_ms: 0,
            addresses: address.addresses.clone(),
            swarm_epoch: EpochId(self.epoch.0),
            swarm_box,
        }))
    }

    /// Takes a seeder's grant back.
    pub fn revoke_seeder(&mut self, peer_id: &[u8]) -> Record {
        self.sign(Act::RevokeSeeder { peer_id: peer_id.to_vec() })
    }

    /// Puts all records into a store.
    pub fn import(&self, store: &Store) -> FolderNo {
        let no = store.folder_add(&self.records[0]).expect("a genesis");
        for record in &self.records[1..] {
            store.access_add(no, record).expect("admitted");
        }
        no
    }
}

/// A device without keys to seal: its packs and bodies are random bytes.
pub struct Member {
    pub dir: tempfile::TempDir,
    pub store: Arc<Store>,
    pub no: FolderNo,
    pub key: SigningKey,
    pub swarm: [u8; 32],
    pub folder: FolderId,
    pub epoch: RecordHash,
    pub node: Node,
    pub seq: u64,
    pub prev: EntryHash,
}

impl Member {
    pub fn new(made: &Made, key: &SigningKey, listen: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = Store::create(&dir.path().join("store"), StoreKind::Device).expect("creates");
        let no = made.import(&store);
        let node = Self::start(&store, no, key, made.swarm, listen);
        let (folder, epoch, swarm) = (made.id(), made.epoch, made.swarm);
        Self {
            dir,
            store,
            no,
            key: key.clone(),
            swarm,
            folder,
            epoch,
            node,
            seq: 0,
            prev: EntryHash([0; 32]),
        }
    }

    fn start(store: &Arc<Store>, no: FolderNo, key: &SigningKey, swarm: [u8; 32], listen: &[&str]) -> Node {
        let seed = Zeroizing::new(hash(&[b"peer", &key.to_bytes()[..]].concat()));
        let listen = listen.iter().map(|text| (*text).to_owned()).collect();
        let config = NetConfig { listen, ..NetConfig::default() };
        let node = Node::start(Arc::clone(store), seed, config).expect("starts");
        let signing = key.clone();
        node.add_folder(FolderSecrets {
            no,
            swarm: vec![Zeroizing::new(swarm)],
            signer: Arc::new(move |transcript| {
                signing.sign(&cobox_net::sync::signed_bytes(transcript)).to_bytes()
            }),
            log: LogId(key.verifying_key().to_bytes()),
        });
        node
    }

    /// Ends the node and begins again with a new one on the same store.
    pub fn restart(&mut self) {
        self.node.shutdown();
        self.node = Self::start(&self.store, self.no, &self.key, self.swarm, &[]);
    }

    pub fn address(&self) -> SeederAddress {
        SeederAddress {
            peer_id: self.node.peer_id().to_bytes(),
            kem: KemKey([0; 32]),
            addresses: self.node.addresses(),
        }
    }

    /// Stores a pack and writes an entry that adds it.
    pub fn write(&mut self, packs: &[Vec<u8>]) -> Vec<PackRef> {
        let outboards: Vec<(Outboard, Vec<u8>)> =
            packs.iter().map(|bytes| (Outboard::of(bytes), bytes.clone())).collect();
        self.store.packs_put(self.no, &outboards).expect("stored");
        let refs: Vec<PackRef> = outboards.iter().map(|(outboard, _)| outboard.pack()).collect();
        self.enter(&refs);
        refs
    }

    /// Writes an entry that adds these packs.
    pub fn enter(&mut self, packs: &[PackRef]) {
        let entry = self.next_entry(packs, self.epoch);
        self.store.entry_add(self.no, &entry).expect("taken");
        self.seq += 1;
        self.prev = entry.header().hash();
    }

    /// The next entry, as signed after this record of the access log; nobody has it yet.
    pub fn next_entry(&self, packs: &[PackRef], access_head: RecordHash) -> Entry {
        let body = bytes(self.seq, 200);
        let header = Header {
            folder: self.folder,
            log: LogId(self.key.verifying_key().to_bytes()),
            seq: self.seq + 1,
            prev: self.prev,
            access_heads: vec![access_head],
            epoch: EpochId(self.epoch.0),
            packs: packs.to_vec(),
            body_size: u32::try_from(body.len()).expect("short"),
            body_hash: hash(&body),
        };
        let signature = self.key.sign(&header.signed_bytes()).to_bytes();
        Entry::new(header, signature, body)
    }

    pub fn peer(&self, peer: PeerId) -> Option<PeerStatus> {
        let status = self.node.status(self.no).expect("a known folder");
        status.peers.into_iter().find(|status| status.peer == peer)
    }

    pub fn wait_caught_up(&self, peer: PeerId) {
        self.wait_for(peer, Duration::from_secs(60));
    }

    /// The same where it may take longer.
    pub fn wait_for(&self, peer: PeerId, most: Duration) {
        let deadline = Instant::now() + most;
        while !self.peer(peer).is_some_and(|status| status.is_caught_up()) {
            assert!(Instant::now() < deadline, "never caught up: {:#?}", self.peer(peer));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A seeder in this process.
pub struct Seeding {
    pub data: PathBuf,
    pub listen: Vec<String>,
    pub announce: Vec<String>,
    pub accept: Accept,
    pub pace: Pace,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Seeding {
    pub fn new(data: &Path, transport: &str) -> Self {
        Self::with(data, transport, Accept::Any)
    }

    pub fn with(data: &Path, transport: &str, accept: Accept) -> Self {
        let mut seeding = Self {
            data: data.to_owned(),
            listen: vec![transport.to_owned()],
            announce: Vec::new(),
            accept,
            pace: Pace { every: patrol::SEEDER_EVERY, bytes_per_s: patrol::BYTES_PER_S },
            stop: Arc::default(),
            thread: None,
        };
        seeding.start();
        // The same port again after a restart.
        let address = seeding.address();
        let text = seeding.texts(&address);
        seeding.listen = text;
        seeding
    }

    fn texts(&self, _: &SeederAddress) -> Vec<String> {
        match ask_running(&self.data, &Request::Status) {
            Ok(Some(Answer::Status { listen, .. })) => listen,
            other => panic!("no status: {other:?}"),
        }
    }

    pub fn start(&mut self) {
        self.stop = Arc::default();
        let _ = std::fs::remove_file(self.data.join("addresses"));
        let (stop, options) = (
            Arc::clone(&self.stop),
            RunOptions {
                data: self.data.clone(),
                listen: self.listen.clone(),
                announce: self.announce.clone(),
                lan: LanDiscovery::Off,
                accept: self.accept.clone(),
                pace: self.pace,
                http: None,
            },
        );
        self.thread = Some(std::thread::spawn(move || run(&options, &stop).expect("runs")));
        // A socket has its name a moment before it can be connected to.
        let answers = || matches!(ask_running(&self.data, &Request::Status), Ok(Some(_)));
        until("the seeder listens", || saved_address(&self.data).is_ok() && answers());
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the seeder did not panic");
        }
    }

    pub fn address(&self) -> SeederAddress {
        saved_address(&self.data).expect("it has listened")
    }

    pub fn peer(&self) -> PeerId {
        Identity::open(&self.data).expect("exists").peer()
    }

    /// Its store, while it is stopped.
    pub fn store(&self) -> Arc<Store> {
        Store::open(&self.data, StoreKind::Seeder).expect("opens")
    }
}

impl Drop for Seeding {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
