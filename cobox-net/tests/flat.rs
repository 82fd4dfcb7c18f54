//! What a new entry costs a seeder does not depend on how many other folders it holds: counted, not timed.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_net::PeerId;
use cobox_net::sync::{Conn, Engine, Identity, Input, Output, Place, Side, signed_bytes};
use cobox_store::blind::{Store, StoreKind};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::entry::{Entry, Header};
use cobox_store::id::{EntryHash, EpochId, FolderNo, KemKey, LogId, hash};
use common::{Made, bytes};
use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

const CONN: Conn = Conn(1);

fn entry(made: &Made, seq: u64, prev: EntryHash) -> Entry {
    let body = bytes(seq, 200);
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
