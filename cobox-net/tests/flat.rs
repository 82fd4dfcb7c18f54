//! What a new entry costs: a seeder the same however many other folders it holds, and a device its body once however many
//! peers listen. Counted, not timed.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cobox_net::PeerId;
use cobox_net::sync::{Conn, Engine, Identity, Input, Output, Place, Side, signed_bytes};
use cobox_net::wire::Frame;
use cobox_store::blind::{Batch, Durability, Store, StoreKind, Table, key};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::entry::{Entry, Header};
use cobox_store::id::{EntryHash, EpochId, FolderNo, KemKey, LogId, hash};
use common::{Made, bytes};
use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

const CONN: Conn = Conn(1);

fn entry(made: &Made, seq: u64, prev: EntryHash) -> Entry {
    entry_of(made, seq, prev, 200)
}

fn entry_of(made: &Made, seq: u64, prev: EntryHash, body_bytes: usize) -> Entry {
    let body = bytes(seq, body_bytes);
    let header = Header {
        folder: made.id(),
        log: LogId(made.founder.verifying_key().to_bytes()),
        seq,
        prev,
        access_heads: vec![made.epoch],
        epoch: EpochId(made.epoch.0),
        packs: vec![],
        body_size: u32::try_from(body.len()).expect("short"),
        body_hash: hash(&body),
    };
    Entry::new(header.clone(), made.founder.sign(&header.signed_bytes()).to_bytes(), body)
}

/// Listens on [`CONN`]; the device has a connection for each.
struct Listener(Engine, Arc<Store>, FolderNo);

/// Passes frames between a device, which is 0, and its listeners.
fn pass(device: &mut Engine, listeners: &mut [Listener], begin: Vec<(usize, Input)>, now: &mut Instant) {
    let mut inputs: std::collections::VecDeque<(usize, Input)> = begin.into();
    for _ in 0..100 {
        *now += Duration::from_millis(50);
        (0..=listeners.len()).for_each(|at| inputs.push_back((at, Input::Tick)));
        while let Some((at, input)) = inputs.pop_front() {
            let listener = at.checked_sub(1);
            let engine = listener.map_or(&mut *device, |at| &mut listeners[at].0);
            for output in engine.step(input, *now) {
                let Output::Send { conn, frame } = output else { continue };
                if listener.is_some() {
                    inputs.push_back((0, Input::Frame { conn: Conn(at as u64), frame }));
                } else {
                    inputs.push_back((conn.0 as usize, Input::Frame { conn: CONN, frame }));
                }
            }
        }
    }
}

/// As a member keeps what it has opened: here the body backwards, by a maker that counts.
fn keep_otherwise(store: &Store, no: FolderNo, entry: &Entry) {
    let header = entry.header();
    let row = |table| key(no, table, &[&header.log.0[..], &header.seq.to_be_bytes()].concat());
    let mut batch = Batch::default();
    batch.delete(&row(Table::EntryBody));
    batch.put(&row(Table::EntryKept), &entry.body().iter().rev().copied().collect::<Vec<u8>>());
    store.db().commit(batch, Durability::Unsynced).expect("commits");
}

#[test]
fn body_of_a_new_entry_is_made_once_for_all_peers_and_not_at_all_where_it_is_too_long_to_push() {
    const SEEDERS: u8 = 3;
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut made = Made::new(1);
    let peer = |number: u8| PeerId::of_key([number; 32]);
    for number in 1..=SEEDERS {
        let address =
            SeederAddress { peer_id: peer(number).to_bytes(), kem: KemKey(hash(b"kem")), addresses: vec![] };
        made.grant(&address, 1 << 30);
    }
    let store = Store::create(&dir.path().join("device"), StoreKind::Device).expect("creates");
    let no = made.import(&store);
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    store.set_body_maker(Box::new(move |_, _, _, _, kept| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(kept.iter().rev().copied().collect())
    }));
    let bodies = || count.swap(0, Ordering::Relaxed);
    let mut now = Instant::now();
    let secrets = || vec![Zeroizing::new(made.swarm)];
    let mut device = Engine::new(Arc::clone(&store), peer(9));
    let founder = made.founder.clone();
    let identity = Identity::Member {
        log: LogId(founder.verifying_key().to_bytes()),
        signer: Arc::new(move |transcript| founder.sign(&signed_bytes(transcript)).to_bytes()),
    };
    device.step(Input::Folder { no, identity, secrets: secrets() }, now);
    device.step(Input::Peers { no, peers: (1..=SEEDERS).map(|at| (peer(at), vec![])).collect() }, now);
    let (mut listeners, mut begin) = (Vec::new(), Vec::new());
    for number in 1..=SEEDERS {
        let theirs = Store::create(&dir.path().join(number.to_string()), StoreKind::Seeder).expect("creates");
        let there = made.import(&theirs);
        let mut engine = Engine::new(Arc::clone(&theirs), peer(number));
        engine.step(Input::Folder { no: there, identity: Identity::Seeder, secrets: secrets() }, now);
        listeners.push(Listener(engine, theirs, there));
        let (conn, at) = (Conn(u64::from(number)), usize::from(number));
        let up =
            |conn, peer, side, nonce| Input::Up { conn, peer, side, place: Place::Other, nonce: [nonce; 32] };
        begin.push((at, up(CONN, peer(9), Side::Listener, 100 + number)));
        begin.push((0, up(conn, peer(number), Side::Dialer, 200 + number)));
    }
    pass(&mut device, &mut listeners, begin, &mut now);
    let mut prev = EntryHash([0; 32]);
    for (seq, body_bytes) in [(1, 2000), (2, 60_000), (3, 100_000)] {
        let entry = entry_of(&made, seq, prev, body_bytes);
        prev = entry.header().hash();
        store.entry_add(no, &entry).expect("taken");
        keep_otherwise(&store, no, &entry);
        bodies();
        let outputs = device.step(Input::Changed { no }, now);
        let pushed = |output: &&Output| matches!(output, Output::Send { frame: Frame::Entry { .. }, .. });
        let pushes = outputs.iter().filter(pushed).count();
        let expected = if body_bytes < 64 * 1024 { (3, 1) } else { (0, 0) };
        assert_eq!((pushes, bodies()), expected, "entry of {body_bytes} bytes");
        let send = |output| match output {
            Output::Send { conn, frame } => Some((conn.0 as usize, Input::Frame { conn: CONN, frame })),
            _ => None,
        };
        let begin = outputs.into_iter().filter_map(send).collect();
        pass(&mut device, &mut listeners, begin, &mut now);
        for Listener(_, theirs, there) in &listeners {
            assert_eq!(theirs.entry(*there, entry.header().log, seq).expect("reads"), Some(entry.clone()));
        }
    }
}

/// Passes frames until nobody has anything more to say.
fn talk(seeder: &mut Engine, member: &mut Engine, begin: Vec<(bool, Input)>, mut now: Instant) {
    let mut inputs: std::collections::VecDeque<(bool, Input)> = begin.into();
    for _ in 0..400 {
        now += Duration::from_millis(50);
        inputs.push_back((true, Input::Tick));
        inputs.push_back((false, Input::Tick));
        while let Some((to_seeder, input)) = inputs.pop_front() {
            let outputs = if to_seeder { seeder.step(input, now) } else { member.step(input, now) };
            for output in outputs {
                if let Output::Send { conn, frame } = output {
                    inputs.push_back((!to_seeder, Input::Frame { conn, frame }));
                }
            }
        }
    }
}

/// Frames that a seeder of `folders` folders sends when one of them has a new entry and one member listens.
fn frames_for_a_new_entry(folders: u64) -> usize {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (mine, theirs) = (PeerId::of_key([1; 32]), PeerId::of_key([2; 32]));
    let address = SeederAddress { peer_id: mine.to_bytes(), kem: KemKey(hash(b"kem")), addresses: vec![] };
    let store = Store::create(&dir.path().join("seeder"), StoreKind::Seeder).expect("creates");
    let mut seeder = Engine::new(Arc::clone(&store), mine);
    let now = Instant::now();
    let mut first: Option<(Made, FolderNo)> = None;
    for seed in 0..folders {
        let mut made = Made::new(seed);
        made.grant(&address, 1 << 30);
        let no = made.import(&store);
        let secrets = vec![Zeroizing::new(made.swarm)];
        seeder.step(Input::Folder { no, identity: Identity::Seeder, secrets }, now);
        first.get_or_insert((made, no));
    }
    let (made, no) = first.expect("there is one");
    let other = Store::create(&dir.path().join("member"), StoreKind::Device).expect("creates");
    let there = made.import(&other);
    let mut member = Engine::new(Arc::clone(&other), theirs);
    let key = made.founder.clone();
    let identity = Identity::Member {
        log: LogId(key.verifying_key().to_bytes()),
        signer: Arc::new(move |transcript| key.sign(&signed_bytes(transcript)).to_bytes()),
    };
    member.step(Input::Folder { no: there, identity, secrets: vec![Zeroizing::new(made.swarm)] }, now);
    member.step(Input::Peers { no: there, peers: vec![(mine, vec![])] }, now);
    let up = |peer, side, nonce| Input::Up { conn: CONN, peer, side, place: Place::Other, nonce };
    let begin = vec![(true, up(theirs, Side::Listener, [3; 32])), (false, up(mine, Side::Dialer, [4; 32]))];
    let first = entry(&made, 1, EntryHash([0; 32]));
    store.entry_add(no, &first).expect("taken");
    talk(&mut seeder, &mut member, begin, now);
    assert!(other.log_head(there, first.header().log).expect("reads").is_some(), "they do not sync");
    let second = entry(&made, 2, first.header().hash());
    store.entry_add(no, &second).expect("taken");
    let outputs = seeder.step(Input::Changed { no }, now + Duration::from_secs(60));
    outputs.iter().filter(|output| matches!(output, Output::Send { .. })).count()
}

#[test]
fn new_entry_costs_the_same_whether_a_seeder_holds_one_folder_or_many() {
    let many = if std::env::var_os("COBOX_SOAK").is_some() { 10_000 } else { 200 };
    let alone = frames_for_a_new_entry(1);
    assert!(alone > 0, "nobody was told");
    assert_eq!(frames_for_a_new_entry(many), alone);
}
