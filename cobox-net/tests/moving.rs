//! Seeders and devices that are somewhere else one day are found again, and nobody makes others look in the wrong place.

mod common;

use std::time::Duration;

use cobox_net::PeerId;
use cobox_net::sync::{Identity, Input, Keep, Output, Place};
use cobox_net::wire::{Contact, Frame, Whereabouts};
use cobox_store::id::hash;
use common::puppet::{Stage, contact, log_of, peer_of, tcp};
use common::sim::{Sim, stores};
use common::world::World;
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

/// Nodes with these numbers of devices and seeders, of which those dial each other, after they met.
fn met(
    seed: u64,
    dir: &std::path::Path,
    (devices, seeders): (usize, usize),
    dials: &[(usize, usize)],
) -> Sim {
    let nodes = devices + seeders;
    let world =
        World { devices, seeders, dials: dials.to_vec(), knows: vec![devices; nodes], ..World::default() };
    let mut sim = Sim::new(seed, world, stores(&dir.join(seed.to_string()), devices, seeders));
    sim.breaks = 0;
    sim.write_of(0, 4096);
    assert_eq!(sim.settle(Duration::from_secs(120)), None);
    sim.run_for(Duration::from_secs(60));
    sim
}

/// Two nodes are connected within so long.
fn meets(sim: &mut Sim, one: usize, other: usize, most: Duration) -> bool {
    let end = sim.now + most;
    while sim.now < end && !sim.linked(one, other) {
        sim.run_for(Duration::from_secs(1));
    }
    sim.linked(one, other)
}

fn cut_all(sim: &mut Sim) {
    sim.connections().into_iter().for_each(|id| sim.cut(id));
}

#[test]
fn seeder_that_moved_calls_the_device_which_then_comes_by_itself() {
    let dir = common::memory_dir();
    for seed in 0..20 {
        let mut sim = met(seed, dir.path(), (1, 1), &[(0, 1), (1, 0)]);
        sim.move_away(1);
        sim.dialed.clear();
        assert!(meets(&mut sim, 0, 1, Duration::from_secs(600)), "seed {seed}: nobody found anybody");
        assert!(sim.dialed.contains_key(&(1, 0)), "seed {seed}: it was found without a call");
        sim.run_for(Duration::from_secs(5));
        // It was told, and keeps it.
        sim.world.dials.retain(|pair| *pair == (0, 1));
        sim.restart(0);
        assert!(meets(&mut sim, 0, 1, Duration::from_secs(120)), "seed {seed}: the device forgot it");
        sim.write_of(0, 4096);
        assert_eq!(sim.settle(Duration::from_secs(120)), None, "seed {seed}");
    }
}

#[test]
fn seeder_that_moves_again_and_again_is_found_each_time() {
    let dir = common::memory_dir();
    let mut sim = met(1, dir.path(), (2, 1), &[(0, 2), (1, 2), (2, 0), (2, 1)]);
    for turn in 0..6 {
        sim.move_away(2);
        for device in 0..2 {
            assert!(meets(&mut sim, device, 2, Duration::from_secs(600)), "turn {turn}: device {device}");
        }
        sim.run_for(Duration::from_secs(40));
    }
}

#[test]
fn another_seeder_or_member_passes_on_where_a_seeder_is() {
    let dir = common::memory_dir();
    for seed in 0..20 {
        // Nobody can call the device; seeders dial each other.
        let mut sim = met(seed, dir.path(), (1, 2), &[(0, 1), (0, 2), (1, 2), (2, 1)]);
        sim.move_away(1);
        assert!(
            meets(&mut sim, 0, 1, Duration::from_secs(300)),
            "seed {seed}: the other seeder said nothing"
        );
        // Nobody can call device 0, and only device 1 can be called.
        let mut sim = met(seed + 100, dir.path(), (2, 1), &[(0, 1), (0, 2), (1, 2), (2, 1)]);
        sim.move_away(2);
        assert!(
            meets(&mut sim, 0, 2, Duration::from_secs(600)),
            "seed {seed}: the other member said nothing"
        );
    }
}

#[test]
fn seeder_and_device_that_both_move_find_each_other_through_one_that_stays() {
    let dir = common::memory_dir();
    for seed in 0..20 {
        let mut sim = met(seed, dir.path(), (1, 2), &[(0, 1), (0, 2), (1, 2), (2, 1), (1, 0)]);
        sim.move_away(1);
        sim.move_away(0);
        assert!(meets(&mut sim, 0, 1, Duration::from_secs(600)), "seed {seed}");
        sim.write_of(0, 4096);
        assert_eq!(sim.settle(Duration::from_secs(120)), None, "seed {seed}");
    }
}

#[test]
fn seeder_that_did_not_move_calls_nobody_and_one_that_did_ever_more_rarely() {
    let dir = common::memory_dir();
    let mut sim = met(3, dir.path(), (1, 1), &[(0, 1), (1, 0)]);
    // The device is off for a day, and the seeder is started again where it was.
    sim.side = vec![0, 1];
    cut_all(&mut sim);
    sim.restart(1);
    sim.dialed.clear();
    sim.run_for(Duration::from_secs(3600));
    assert_eq!(sim.dialed.get(&(1, 0)), None, "the device knows where it is");
    sim.move_away(1);
    sim.run_for(Duration::from_secs(4 * 3600));
    let calls = sim.dialed.get(&(1, 0)).copied().unwrap_or(0);
    // Pauses of 1, 2, 4 minutes and so on; a call is a few attempts.
    assert!((8..=8 * 4).contains(&calls), "{calls} calls");
    sim.side = vec![0, 0];
    assert!(meets(&mut sim, 0, 1, Duration::from_secs(6 * 3600)), "and it is not given up");
}

/// Where a peer was dialed: the last list of addresses.
fn dialed(outputs: &[Output], peer: PeerId) -> Option<Vec<Vec<u8>>> {
    let mut dials = outputs.iter().filter_map(|output| match output {
        Output::Dial { peer: to, addresses } if *to == peer => Some(addresses.clone()),
        _ => None,
    });
    dials.next_back()
}

/// The key of a puppet's peer id.
fn key_of(puppet: &SigningKey) -> SigningKey {
    SigningKey::from_bytes(&hash(&puppet.to_bytes()))
}

#[test]
fn word_of_a_seeder_counts_whoever_brings_it_and_an_older_or_a_made_up_one_does_not() {
    let (device, moved) = (SigningKey::from_bytes(&[80; 32]), SigningKey::from_bytes(&[81; 32]));
    let mut stage = Stage::new(7, &[&device]);
    let (no, peer) = (stage.no, peer_of(&moved));
    let seeder = stage.enter_seeder(&moved);
    stage.input(Input::Down { conn: seeder.conn });
    stage.input(Input::Peers { no, peers: vec![(peer, vec![tcp(1, 7740)])] });
    let from = stage.enter(&device);
    let made = stage.made.id();
    let word = |stage: &Stage, said_ms, addresses: &[Vec<u8>]| {
        contact(&stage.made, &key_of(&moved), peer, said_ms, addresses)
    };
    let say = |stage: &mut Stage, said: Contact| {
        let mut outputs = stage.say_contacts(&from, vec![said]);
        outputs.extend(stage.pass(Duration::from_secs(60)));
        dialed(&outputs, peer).expect("it is called again and again")
    };
    let newest = word(&stage, 20, &[tcp(2, 7740)]);
    assert_eq!(say(&mut stage, newest.clone()), [tcp(2, 7740), tcp(1, 7740)]);
    let older = word(&stage, 10, &[tcp(3, 7740)]);
    assert_eq!(say(&mut stage, older), [tcp(2, 7740), tcp(1, 7740)]);
    let bent = Contact { said_ms: 30, addresses: vec![tcp(4, 7740)], ..newest.clone() };
    assert!(!bent.is_genuine(made));
    assert_eq!(say(&mut stage, bent), [tcp(2, 7740), tcp(1, 7740)]);
    // A device says that it has the seeder's peer id.
    let claim = contact(&stage.made, &device, peer, 40, &[tcp(5, 7740)]);
    assert_eq!(say(&mut stage, claim), [tcp(2, 7740), tcp(1, 7740)]);
    // Where it was is tried, too: it may go back. Names and places that nobody should dial are not.
    let name = [&[54, 9][..], b"host.home", &[6, 0, 80]].concat();
    let local = [&[4, 127, 0, 0, 1][..], &[6, 0, 80]].concat();
    let later = word(&stage, 50, &[name, local, tcp(6, 7740)]);
    assert_eq!(say(&mut stage, later), [tcp(6, 7740), tcp(2, 7740), tcp(1, 7740)]);
    // It is kept over a restart, both words of it.
    let kept = stage.engine.contacts(no).into_iter();
    let kept: Vec<u64> = kept.filter(|kept| kept.log.0 == *peer.key()).map(|kept| kept.said_ms).collect();
    assert_eq!(kept, [50, 20]);
}

#[test]
fn word_of_a_peer_that_is_no_seeder_of_the_folder_is_not_used() {
    let (device, stranger) = (SigningKey::from_bytes(&[82; 32]), SigningKey::from_bytes(&[83; 32]));
    let mut stage = Stage::new(8, &[&device]);
    let from = stage.enter(&device);
    let peer = peer_of(&stranger);
    let word = contact(&stage.made, &key_of(&stranger), peer, 5, &[tcp(66, 80)]);
    let mut outputs = stage.say_contacts(&from, vec![word]);
    outputs.extend(stage.pass(Duration::from_secs(60)));
    assert_eq!(dialed(&outputs, peer), None);
    assert_eq!(stage.engine.contacts(stage.no).len(), 0, "nor kept");
}

/// A seeder at another place than the one at which these devices dialed it; it remembers what they said last.
fn moved(seed: u64, devices: &[&SigningKey], said: &dyn Fn(&Stage) -> Vec<Contact>) -> Stage {
    let mut stage = Stage::seeding(seed, devices, &SigningKey::from_bytes(&[90; 32]));
    let came = devices.iter().map(|key| (log_of(key), 5)).collect();
    let known = Whereabouts { contacts: said(&stage), came };
    stage.input(Input::Recall { no: stage.no, known });
    stage
}

/// Where anybody was called.
fn calls(outputs: &[Output]) -> Vec<Vec<Vec<u8>>> {
    let dials = outputs.iter().filter_map(|output| match output {
        Output::Dial { addresses, .. } => Some(addresses.clone()),
        _ => None,
    });
    dials.collect()
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn device_that_says_something_new_all_the_time_is_called_ever_more_rarely_all_the_same() {
    for many_ids in [false, true] {
        let (liar, other) = (SigningKey::from_bytes(&[84; 32]), SigningKey::from_bytes(&[85; 32]));
        let mut stage = moved(9, &[&liar], &|_| vec![]);
        // The other one never came, and is not looked for.
        list(&mut stage, &other);
        let from = stage.enter(&other);
        let mut called = 0;
        for minute in 0..180u8 {
            let peer = PeerId::of_key([if many_ids { minute } else { 0 }; 32]);
            let said = contact(&stage.made, &liar, peer, u64::from(minute) + 1, &[tcp(minute, 80)]);
            called += calls(&stage.say_contacts(&from, vec![said])).len();
            called += calls(&stage.pass(Duration::from_secs(60))).len();
        }
        // After 1, 2, 4 … minutes, and once from the beginning.
        assert!((7..=12).contains(&called), "{called} calls");
    }
}

/// Lists one more device.
fn list(stage: &mut Stage, key: &SigningKey) {
    let record = stage.made.admit(key);
    stage.store.access_add(stage.no, &record).expect("an admin's");
    stage.input(Input::Changed { no: stage.no });
}

#[test]
fn devices_that_claim_anothers_peer_id_do_not_keep_a_seeder_from_calling_it() {
    let keys: Vec<SigningKey> = (100..120).map(|at| SigningKey::from_bytes(&[at; 32])).collect();
    let listed: Vec<&SigningKey> = keys.iter().collect();
    // The honest one stands behind the liars in every list.
    let honest = keys.iter().max_by_key(|key| log_of(key)).expect("there are some").clone();
    let place = tcp(1, 7741);
    let mut stage = moved(10, &listed, &|stage| {
        let word = |key: &&SigningKey| {
            let false_ones: Vec<Vec<u8>> = (1..=8).map(|port| tcp(66, port)).collect();
            let addresses = if log_of(key) == log_of(&honest) { vec![place.clone()] } else { false_ones };
            contact(&stage.made, key, peer_of(&honest), 5, &addresses)
        };
        listed.iter().map(word).collect()
    });
    let outputs = stage.pass(HOUR);
    let called = calls(&outputs);
    assert!(called.iter().any(|addresses| *addresses == [place.clone()]), "{called:?}");
    // Those that say the same are one call.
    assert!(called.len() <= 16, "{} calls", called.len());
}

#[test]
fn device_of_which_only_its_word_is_known_is_not_called() {
    let (came, only_said) = (SigningKey::from_bytes(&[86; 32]), SigningKey::from_bytes(&[87; 32]));
    let mut stage = moved(11, &[&came], &|_| vec![]);
    list(&mut stage, &only_said);
    let word = |stage: &Stage, key: &SigningKey, host| {
        contact(&stage.made, key, peer_of(key), 5, &[tcp(host, 7741)])
    };
    let contacts = vec![word(&stage, &came, 1), word(&stage, &only_said, 2)];
    stage.input(Input::Recall { no: stage.no, known: Whereabouts { contacts, came: vec![] } });
    let outputs = stage.pass(HOUR);
    assert_eq!(dialed(&outputs, peer_of(&only_said)), None);
    assert_eq!(dialed(&outputs, peer_of(&came)), Some(vec![tcp(1, 7741)]));
}

#[test]
fn two_boxes_with_one_key_do_not_answer_each_other_without_end() {
    let (device, box_key) = (SigningKey::from_bytes(&[88; 32]), SigningKey::from_bytes(&[90; 32]));
    let mut stage = moved(12, &[&device], &|_| vec![]);
    stage.pass(Duration::from_secs(5));
    let from = stage.enter(&device);
    let peer = PeerId::of_key(box_key.verifying_key().to_bytes());
    let mut said = 100;
    for _ in 0..600 {
        // The other box outdoes what it hears, each time and at once.
        let word = contact(&stage.made, &box_key, peer, said, &[tcp(251, 7740)]);
        let mut outputs = stage.say_contacts(&from, vec![word]);
        outputs.extend(stage.pass(Duration::from_secs(1)));
        let told = from.told(&outputs).into_iter().filter(|told| told.peer == peer);
        said = told.map(|told| told.said_ms + 1).max().unwrap_or(said).max(said);
    }
    assert!((108..=124).contains(&said), "{said}");
    assert!(stage.closed.is_empty(), "nobody is cut off for it");
}

#[test]
fn device_that_says_something_new_all_the_time_has_its_folder_written_once_a_minute() {
    let device = SigningKey::from_bytes(&[91; 32]);
    let mut stage = moved(13, &[&device], &|_| vec![]);
    stage.pass(Duration::from_secs(5));
    let from = stage.enter(&device);
    let (mut written, mut newest) = (0, 0);
    for second in 0..600u16 {
        let said_ms = u64::from(second) + 100;
        let said = contact(&stage.made, &device, from.peer, said_ms, &[tcp(2, 1000 + second)]);
        stage.say_contacts(&from, vec![said]);
        stage.pass(Duration::from_secs(1));
        if second % 2 == 0 {
            let (_, folders) = stage.engine.moves(Keep::Due, stage.now);
            written += folders.len();
        }
        newest = said_ms;
    }
    assert!((10..=11).contains(&written), "{written} times");
    assert!(stage.closed.is_empty(), "it keeps the pace");
    let (_, folders) = stage.engine.moves(Keep::All, stage.now);
    let last = folders.first().and_then(|(_, known)| known.contacts.first()).map(|kept| kept.said_ms);
    assert_eq!(last, Some(newest), "what was said since is kept when the program ends");
    assert!(stage.engine.moves(Keep::All, stage.now).1.is_empty());
}

#[test]
fn pause_and_a_recall_of_what_was_kept_before_lose_nothing_of_what_was_said_since() {
    let device = SigningKey::from_bytes(&[92; 32]);
    let mut stage = moved(14, &[&device], &|_| vec![]);
    stage.pass(Duration::from_secs(5));
    let from = stage.enter(&device);
    let say = |stage: &mut Stage, said_ms| {
        let said = contact(&stage.made, &device, from.peer, said_ms, &[tcp(2, 7741)]);
        stage.say_contacts(&from, vec![said]);
    };
    say(&mut stage, 100);
    let (_, kept) = stage.engine.moves(Keep::Due, stage.now);
    let [(no, old)] = kept.as_slice() else { panic!("{kept:?}") };
    let came = stage.engine.whereabouts(*no).came;
    assert!(came.iter().all(|(_, at)| *at == 10), "it dialed this place: {came:?}");
    say(&mut stage, 200);
    // With what is kept so far, the folder is told again, as with each record of its access log.
    let before_all = Whereabouts { came: vec![(log_of(&device), 5)], ..old.clone() };
    stage.input(Input::Recall { no: *no, known: before_all.clone() });
    assert_eq!(stage.engine.whereabouts(*no).came, came);
    stage.input(Input::FolderGone { no: *no });
    let secrets = vec![Zeroizing::new(stage.made.swarm)];
    stage.input(Input::Folder { no: *no, identity: Identity::Seeder, secrets });
    stage.input(Input::Recall { no: *no, known: before_all });
    let known = stage.engine.whereabouts(*no);
    assert_eq!((known.contacts.first().map(|known| known.said_ms), &known.came), (Some(200), &came));
    stage.input(Input::FolderGone { no: *no });
    let (_, folders) = stage.engine.moves(Keep::All, stage.now);
    assert_eq!(folders, [(*no, known)], "a pause does not end before it is kept");
}

#[test]
fn seeder_that_knows_where_all_are_tells_them_and_itself_in_one_frame() {
    let keys: Vec<SigningKey> = (0..65).map(|at| SigningKey::from_bytes(&[at; 32])).collect();
    let listed: Vec<&SigningKey> = keys.iter().collect();
    let mut stage = moved(15, &listed, &|stage| {
        let said = |(at, key): (usize, &&SigningKey)| {
            contact(&stage.made, key, peer_of(key), 1 + at as u64, &[tcp(2, 7741)])
        };
        listed.iter().enumerate().take(64).map(said).collect()
    });
    stage.pass(Duration::from_secs(5));
    let (puppet, mut outputs) = stage.greet(&keys[64], Place::Other);
    outputs.extend(stage.pass(Duration::from_secs(5)));
    let frames = outputs.iter().filter(|output| {
        matches!(output, Output::Send { conn, frame: Frame::Contacts { .. } } if *conn == puppet.conn)
    });
    assert_eq!(frames.count(), 1);
    let told = puppet.told(&outputs);
    assert_eq!(told.len(), 64);
    let me = SigningKey::from_bytes(&[90; 32]).verifying_key().to_bytes();
    assert!(told.iter().any(|told| told.log.0 == me), "it says where it is");
    assert!(told.iter().all(|told| told.said_ms > 1), "the oldest made room");
}
