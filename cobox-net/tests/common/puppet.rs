//! One engine among peers whose every word the test speaks: they have keys and prove a folder, and send what they like.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_net::PeerId;
use cobox_net::sync::{
    Binding, Conn, Engine, Identity, Input, Output, Place, Side, Speaker, TICK, signed_bytes,
};
use cobox_net::wire::{Contact, Frame, Proof, SessionId};
use cobox_store::blind::{Store, StoreKind};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::entry::{Entry, Header};
use cobox_store::format::pack::PackRef;
use cobox_store::id::{EntryHash, EpochId, FolderNo, KemKey, LogId, PackId, hash};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use super::{Made, bytes};

/// A peer of the engine: a device of the folder, or what claims to be one.
pub struct Puppet {
    pub conn: Conn,
    pub session: SessionId,
    pub peer: PeerId,
    pub key: SigningKey,
}

/// The engine of a folder's founder, and the time.
pub struct Stage {
    pub engine: Engine,
    pub store: Arc<Store>,
    pub no: FolderNo,
    pub made: Made,
    pub now: Instant,
    /// Connections that the engine wanted closed.
    pub closed: Vec<Conn>,
    /// Connections over which it asked for packs, once for each.
    pub fetches: Vec<Conn>,
    /// The same with the packs, until a test takes them.
    pub flying: VecDeque<(Conn, SessionId, FolderNo, PackId)>,
    me: PeerId,
    next: u64,
    _dir: tempfile::TempDir,
}

pub fn key(at: u8) -> SigningKey {
    SigningKey::from_bytes(&[at; 32])
}

pub fn log_of(key: &SigningKey) -> LogId {
    LogId(key.verifying_key().to_bytes())
}

/// The peer id of a device: another key than the folder's.
pub fn peer_of(key: &SigningKey) -> PeerId {
    PeerId::of_key(SigningKey::from_bytes(&hash(&key.to_bytes())).verifying_key().to_bytes())
}

/// `/ip4/10.0.0.<host>/tcp/<port>`.
pub fn tcp(host: u8, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![4, 10, 0, 0, host, 6, high, low]
}

/// What a device says of where it is; the peer it names may be another's.
pub fn contact(made: &Made, key: &SigningKey, peer: PeerId, said_ms: u64, addresses: &[Vec<u8>]) -> Contact {
    let (log, addresses) = (log_of(key), addresses.to_vec());
    let mut contact = Contact { peer, log, said_ms, addresses, signature: [0; 64] };
    contact.signature = key.sign(&signed_bytes(&contact.signed_text(made.id()))).to_bytes();
    contact
}

/// The engine's nonce of a connection, and the peer's.
fn nonces(conn: Conn) -> [[u8; 32]; 2] {
    [hash(&conn.0.to_le_bytes()), hash(&[conn.0.to_le_bytes(), [1; 8]].concat())]
}

/// A chain of entries without packs.
pub fn chain(made: &Made, key: &SigningKey, len: u64) -> Vec<Entry> {
    chain_of(made, key, len, &|_| vec![])
}

/// A chain of entries that list these packs.
fn chain_of(made: &Made, key: &SigningKey, len: u64, packs: &dyn Fn(u64) -> Vec<PackRef>) -> Vec<Entry> {
    let mut prev = EntryHash([0; 32]);
    let entry = |seq| {
        let body = bytes(seq, 100);
        let header = Header {
            folder: made.id(),
            log: log_of(key),
            seq,
            prev,
            access_heads: vec![made.epoch],
            epoch: EpochId(made.epoch.0),
            packs: packs(seq),
            body_size: 100,
            body_hash: hash(&body),
        };
        prev = header.hash();
        let signature = key.sign(&header.signed_bytes()).to_bytes();
        Entry::new(header, signature, body)
    };
    (1..=len).map(entry).collect()
}

impl Stage {
    /// A folder in which these devices are listed beside the founder.
    pub fn new(seed: u64, devices: &[&SigningKey]) -> Self {
        let made = Made::new(seed);
        let founder = made.founder.clone();
        let me = peer_of(&founder);
        let identity = Identity::Member {
            log: log_of(&founder),
            signer: Arc::new(move |text| founder.sign(&signed_bytes(text)).to_bytes()),
        };
        Self::begin(made, devices, me, identity, |engine| engine)
    }

    /// The same where the engine is a seeder with this key, which said nothing before, and is at `10.0.0.250`.
    pub fn seeding(seed: u64, devices: &[&SigningKey], key: &SigningKey) -> Self {
        let mut made = Made::new(seed);
        let me = PeerId::of_key(key.verifying_key().to_bytes());
        let address =
            SeederAddress { peer_id: me.to_bytes(), kem: KemKey([1; 32]), addresses: vec![vec![1]] };
        made.grant_with(&address, 1 << 40, [0; 80]);
        let key = key.clone();
        let signer = move |text: &[u8]| key.sign(&signed_bytes(text)).to_bytes();
        let mut stage = Self::begin(made, devices, me, Identity::Seeder, |engine| {
            engine.saying_where(Arc::new(signer), None)
        });
        stage.input(Input::Listening { addresses: vec![tcp(250, 7740)], now_ms: 10 });
        stage
    }

    fn begin(
        mut made: Made,
        devices: &[&SigningKey],
        me: PeerId,
        identity: Identity,
        with: impl FnOnce(Engine) -> Engine,
    ) -> Self {
        let dir = super::memory_dir();
        devices.iter().for_each(|key| {
            made.admit(key);
        });
        let member = matches!(identity, Identity::Member { .. });
        let kind = if member { StoreKind::Device } else { StoreKind::Seeder };
        let store = Store::create(&dir.path().join("store"), kind).expect("creates");
        let no = made.import(&store);
        let engine = with(Engine::new(Arc::clone(&store), me));
        let mut stage = Self {
            engine,
            store,
            no,
            made,
            now: Instant::now(),
            closed: vec![],
            fetches: vec![],
            flying: VecDeque::new(),
            me,
            next: 1,
            _dir: dir,
        };
        let secrets = vec![Zeroizing::new(stage.made.swarm)];
        stage.input(Input::Folder { no, identity, secrets });
        stage
    }

    /// Another folder of the same founder's device, with these devices; what is done from now on is about it, and what was
    /// given back about the one before.
    pub fn another(&mut self, seed: u64, devices: &[&SigningKey]) -> (FolderNo, Made) {
        let mut made = Made::new(seed);
        devices.iter().for_each(|key| {
            made.admit(key);
        });
        let no = made.import(&self.store);
        let founder = made.founder.clone();
        let before = (std::mem::replace(&mut self.no, no), std::mem::replace(&mut self.made, made));
        let identity = Identity::Member {
            log: log_of(&founder),
            signer: Arc::new(move |text| founder.sign(&signed_bytes(text)).to_bytes()),
        };
        let secrets = vec![Zeroizing::new(self.made.swarm)];
        self.input(Input::Folder { no, identity, secrets });
        before
    }

    pub fn input(&mut self, input: Input) -> Vec<Output> {
        let outputs = self.engine.step(input, self.now);
        self.closed.extend(outputs.iter().filter_map(|output| match output {
            Output::Close { conn } => Some(*conn),
            _ => None,
        }));
        let asked = outputs.iter().filter_map(|output| match output {
            Output::Fetch { conn, session, no, pack } => Some((*conn, *session, *no, pack.id)),
            _ => None,
        });
        self.flying.extend(asked.clone());
        self.fetches.extend(asked.map(|(conn, ..)| conn));
        outputs
    }

    /// Lets time pass; what the engine did meanwhile.
    pub fn pass(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut done = Vec::new();
        while self.now < end {
            self.now += TICK;
            done.extend(self.input(Input::Tick));
        }
        done
    }

    /// A device dials the engine and proves the folder.
    pub fn enter(&mut self, key: &SigningKey) -> Puppet {
        self.enter_as(key, peer_of(key))
    }

    /// The same under another network identity: a device can have as many as it likes.
    pub fn enter_as(&mut self, key: &SigningKey, peer: PeerId) -> Puppet {
        let (puppet, outputs) = self.greet_as(key, peer, Place::Other);
        assert!(
            outputs.iter().any(|output| matches!(output, Output::Opened { .. })),
            "the session is not open: {outputs:?}"
        );
        puppet
    }

    /// The same from somewhere, also by a device that is not listed; what the engine does then.
    pub fn greet(&mut self, key: &SigningKey, place: Place) -> (Puppet, Vec<Output>) {
        self.greet_as(key, peer_of(key), place)
    }

    /// A seeder is granted the folder, dials the engine and proves that it knows the folder.
    pub fn enter_seeder(&mut self, key: &SigningKey) -> Puppet {
        let peer = peer_of(key);
        let address =
            SeederAddress { peer_id: peer.to_bytes(), kem: KemKey([1; 32]), addresses: vec![vec![1]] };
        let grant = self.made.grant_with(&address, 1 << 40, [0; 80]);
        self.store.access_add(self.no, &grant).expect("an admin's");
        self.input(Input::Changed { no: self.no });
        let (puppet, outputs) = self.greet_with(key, peer, Place::Other, &|_| Proof::Seeder);
        assert!(outputs.iter().any(|output| matches!(output, Output::Opened { .. })), "{outputs:?}");
        puppet
    }

    fn greet_as(&mut self, key: &SigningKey, peer: PeerId, place: Place) -> (Puppet, Vec<Output>) {
        let who = self.word_of(key);
        self.greet_with(key, peer, place, &who)
    }

    /// How a device proves itself.
    fn word_of<'key>(&self, key: &'key SigningKey) -> impl Fn(&Binding) -> Proof + use<'key> {
        let (log, folder) = (log_of(key), self.made.id());
        move |binding| {
            let transcript = binding.transcript(folder, Speaker::Opener, &log.0);
            Proof::Member { log, signature: key.sign(&signed_bytes(&transcript)).to_bytes() }
        }
    }

    fn greet_with(
        &mut self,
        key: &SigningKey,
        peer: PeerId,
        place: Place,
        who: &dyn Fn(&Binding) -> Proof,
    ) -> (Puppet, Vec<Output>) {
        let (conn, session) = (self.dial(peer, place), SessionId(2));
        let puppet = Puppet { conn, session, peer, key: key.clone() };
        let outputs = self.prove(&puppet, who);
        (puppet, outputs)
    }

    /// It opens the folder and says who it is.
    fn prove(&mut self, puppet: &Puppet, who: &dyn Fn(&Binding) -> Proof) -> Vec<Output> {
        let Puppet { conn, session, peer, .. } = *puppet;
        let binding = self.binding(conn, peer, session);
        self.open(conn, peer, session, self.made.swarm);
        let who = who(&binding);
        self.input(Input::Frame { conn, frame: Frame::Confirm { session, who } })
    }

    /// A device opens the folder once more on its connection, under the same number.
    pub fn enter_again(&mut self, puppet: &Puppet) -> Vec<Output> {
        let who = self.word_of(&puppet.key);
        self.prove(puppet, &who)
    }

    /// A peer dials the engine, and says nothing yet but that it is there.
    pub fn dial(&mut self, peer: PeerId, place: Place) -> Conn {
        let conn = Conn(self.next);
        self.next += 1;
        let [ours, theirs] = nonces(conn);
        self.input(Input::Up { conn, peer, side: Side::Listener, place, nonce: ours });
        self.input(Input::Frame { conn, frame: Frame::Hello { nonce: theirs } });
        conn
    }

    /// It opens the folder that has this secret, if there is one.
    pub fn open(&mut self, conn: Conn, peer: PeerId, session: SessionId, swarm: [u8; 32]) -> Vec<Output> {
        let binding = self.binding(conn, peer, session);
        let (blinded, proof) = (binding.blinded(&swarm), binding.proof(&swarm, Speaker::Opener));
        self.input(Input::Frame { conn, frame: Frame::Open { session, blinded, proof } })
    }

    fn binding(&self, conn: Conn, peer: PeerId, session: SessionId) -> Binding {
        let [responder_nonce, opener_nonce] = nonces(conn);
        Binding { opener: peer, responder: self.me, opener_nonce, responder_nonce, session }
    }

    /// A peer accepts what the engine opens, as its device or as this.
    pub fn accept(&mut self, puppet: &Puppet, session: SessionId, who: Option<&Proof>) -> Vec<Output> {
        let [opener_nonce, responder_nonce] = nonces(puppet.conn);
        let (opener, responder) = (self.me, puppet.peer);
        let binding = Binding { opener, responder, opener_nonce, responder_nonce, session };
        let log = log_of(&puppet.key);
        let device = || {
            let transcript = binding.transcript(self.made.id(), Speaker::Responder, &log.0);
            Proof::Member { log, signature: puppet.key.sign(&signed_bytes(&transcript)).to_bytes() }
        };
        let who = who.cloned().unwrap_or_else(device);
        let proof = binding.proof(&self.made.swarm, Speaker::Responder);
        self.say(puppet, Frame::Accept { session, proof, who })
    }

    /// A peer sends a frame.
    pub fn say(&mut self, from: &Puppet, frame: Frame) -> Vec<Output> {
        self.input(Input::Frame { conn: from.conn, frame })
    }

    pub fn say_contacts(&mut self, from: &Puppet, contacts: Vec<Contact>) -> Vec<Output> {
        self.say(from, Frame::Contacts { session: from.session, contacts })
    }

    /// Takes a device's first entry, which lists packs that nobody has sent yet.
    pub fn entry_of_packs(&mut self, key: &SigningKey, packs: u8, size: u64) {
        let pack = |at: u8| PackRef { id: PackId(hash(&[at])), size };
        self.take_chain(key, 1, &|_| (0..packs).map(pack).collect());
    }

    /// Takes a device's first entry, which lists these packs.
    pub fn entries_of(&mut self, key: &SigningKey, packs: &[PackRef]) {
        self.take_chain(key, 1, &|_| packs.to_vec());
    }

    /// Takes a device's first entry, which lists this pack.
    pub fn entry_of_pack(&mut self, key: &SigningKey, pack: PackRef) {
        self.take_chain(key, 1, &|_| vec![pack]);
    }

    /// Takes so many of a device's entries, each of which lists 64 small packs that nobody has sent yet.
    pub fn entries_of_packs(&mut self, key: &SigningKey, entries: u64) {
        let id = |seq: u64, at: u64| PackId(hash(&[seq, at].map(u64::to_le_bytes).concat()));
        self.take_chain(key, entries, &|seq| {
            (0..64).map(|at| PackRef { id: id(seq, at), size: 4096 }).collect()
        });
    }

    fn take_chain(&mut self, key: &SigningKey, len: u64, packs: &dyn Fn(u64) -> Vec<PackRef>) {
        for entry in chain_of(&self.made, key, len, packs) {
            self.store.entry_add(self.no, &entry).expect("takes");
        }
        self.input(Input::Changed { no: self.no });
    }

    /// How many entries of a device are here.
    pub fn reached(&self, key: &SigningKey) -> u64 {
        self.store.log_head(self.no, log_of(key)).expect("reads").map_or(0, |head| head.seq)
    }
}

impl Puppet {
    /// Entries that this peer is asked for: from which number on.
    pub fn asked(&self, outputs: &[Output]) -> Option<u64> {
        outputs.iter().find_map(|output| match output {
            Output::Send { conn, frame: Frame::EntriesWant { from, .. } } if *conn == self.conn => {
                Some(*from)
            }
            _ => None,
        })
    }

    /// Contacts that this peer is told.
    pub fn told(&self, outputs: &[Output]) -> Vec<Contact> {
        let told = outputs.iter().filter_map(|output| match output {
            Output::Send { conn, frame: Frame::Contacts { contacts, .. } } if *conn == self.conn => {
                Some(contacts.clone())
            }
            _ => None,
        });
        told.flatten().collect()
    }

    pub fn entry(&self, entry: &Entry) -> Frame {
        Frame::Entry { session: self.session, entry: entry.encode() }
    }
}
