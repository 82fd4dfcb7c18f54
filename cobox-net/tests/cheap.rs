//! What a peer can have an engine do with a few bytes. Counted, not timed.

mod common;

use std::time::Duration;

use cobox_net::PeerId;
use cobox_net::sync::{Conn, Input, Output, Place, TICK};
use cobox_net::wire::{Frame, SessionId};
use cobox_store::format::entry::LogHead;
use cobox_store::id::{EntryHash, PackId};
use common::puppet::{Puppet, Stage, key, log_of};
use ed25519_dalek::SigningKey;

/// A peer says that it has so many entries of a device.
fn tell(stage: &mut Stage, from: &Puppet, of: &SigningKey, seq: u64) -> Vec<Output> {
    let head =
        LogHead { log: log_of(of), seq, hash: EntryHash([u8::try_from(seq % 251).expect("small"); 32]) };
    stage.say(from, Frame::LogHeads { session: from.session, heads: vec![head] })
}

#[test]
fn heads_and_packs_that_are_no_news_settle_nothing() {
    let device = key(1);
    let mut stage = Stage::new(9_001, &[&device]);
    let peer = stage.enter(&device);
    let outputs = tell(&mut stage, &peer, &device, 3);
    assert_eq!(peer.asked(&outputs), Some(1), "the first news is looked at at once");
    let before = stage.engine.work().settled;
    for _ in 0..1000 {
        tell(&mut stage, &peer, &device, 3);
        tell(&mut stage, &peer, &device, 2);
        stage.say(&peer, Frame::Have { session: peer.session, packs: vec![PackId([9; 32])] });
    }
    assert_eq!(stage.engine.work().settled - before, 0);
}

#[test]
fn news_without_end_settle_a_folder_now_and_then_and_keep_nobody_else_waiting() {
    const TICKS: u64 = 200;
    let (greedy, other, elsewhere) = (key(1), key(2), key(3));
    let mut stage = Stage::new(9_002, &[&greedy, &other]);
    let (first, no) = (stage.enter(&greedy), stage.no);
    let second = stage.enter(&other);
    let before = stage.engine.work().settled;
    for tick in 0..TICKS {
        for seq in 0..100 {
            tell(&mut stage, &first, &greedy, 1 + tick * 100 + seq);
        }
        stage.pass(TICK);
    }
    let settled = stage.engine.work().settled - before;
    assert!(settled <= 2 * TICKS + 40, "{settled} times in {TICKS} ticks");

    for seq in 0..100 {
        tell(&mut stage, &first, &greedy, 1_000_000 + seq);
    }
    let at_once = tell(&mut stage, &second, &other, 1);
    assert_eq!(second.asked(&at_once), None, "the folder has had its turns");
    let outputs = stage.pass(TICK);
    assert_eq!(second.asked(&outputs), Some(1), "with the next tick");
    let before = stage.engine.work().settled;
    stage.input(Input::Changed { no });
    assert_eq!(stage.engine.work().settled - before, 1, "what is written here waits for nobody");
    stage.another(9_003, &[&elsewhere]);
    let third = stage.enter(&elsewhere);
    for seq in 0..100 {
        tell(&mut stage, &first, &greedy, 2_000_000 + seq);
    }
    let outputs = tell(&mut stage, &third, &elsewhere, 1);
    assert_eq!(third.asked(&outputs), Some(1), "another folder has turns of its own");
}

/// Folders of one device, in the order in which it got them: their secrets.
fn many(stage: &mut Stage, count: u64) -> Vec<[u8; 32]> {
    let mut secrets = vec![stage.made.swarm];
    for seed in 1..count {
        stage.another(9_100 + seed, &[]);
        secrets.push(stage.made.swarm);
    }
    secrets
}

fn accepted(outputs: &[Output], on: Conn) -> bool {
    let accepts =
        |output: &Output| matches!(output, Output::Send { conn, frame: Frame::Accept { .. } } if *conn == on);
    outputs.iter().any(accepts)
}

const FOLDERS: u64 = 300;

#[test]
fn peer_that_opens_many_folders_has_each_found_behind_the_last() {
    let mut stage = Stage::new(9_100, &[]);
    let secrets = many(&mut stage, FOLDERS);
    let peer = PeerId::of_key([5; 32]);
    let conn = stage.dial(peer, Place::Other);
    for (at, swarm) in (1u32..).zip(&secrets) {
        let outputs = stage.open(conn, peer, SessionId(2 * at), *swarm);
        assert!(accepted(&outputs, conn), "folder {at}");
    }
    let names = stage.engine.work().names;
    assert!(names <= 3 * FOLDERS, "{names} names were made for {FOLDERS} folders");
}

#[test]
fn opening_what_is_not_here_without_end_costs_a_bounded_time_and_keeps_no_newcomer_waiting() {
    const CONNS: u32 = 100;
    const OPENS: u32 = 64;
    let mut stage = Stage::new(9_100, &[]);
    let secrets = many(&mut stage, FOLDERS);
    let place = |host| Place::V4([192, 0, 2, host]);
    for number in 0..CONNS {
        let peer = PeerId::of_key([7; 32]);
        let conn = stage.dial(peer, place(1));
        for at in 1..=OPENS {
            stage.open(conn, peer, SessionId(2 * at), [u8::try_from(number).expect("few"); 32]);
        }
    }
    let names = stage.engine.work().names;
    assert!(names < (1 << 20) + 2 * FOLDERS, "{names} names were made");
    assert!(stage.closed.is_empty(), "whoever asks no more than it may waits");
    let peer = PeerId::of_key([8; 32]);
    let conn = stage.dial(peer, place(2));
    let outputs = stage.open(conn, peer, SessionId(2), secrets[usize::try_from(FOLDERS / 2).expect("few")]);
    assert!(!accepted(&outputs, conn), "it waits in line");
    assert!(accepted(&stage.pass(TICK), conn), "with those from other places, and not behind them all");
    let before = stage.engine.work().names;
    stage.pass(Duration::from_secs(1));
    let names = stage.engine.work().names - before;
    assert!((100_000..600_000).contains(&names), "{names} names in a second");
    stage.pass(Duration::from_secs(20));
    let before = stage.engine.work().names;
    stage.pass(Duration::from_secs(20));
    assert_eq!(stage.engine.work().names, before, "who waited too long has given up");
}
