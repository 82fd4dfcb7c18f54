//! What an engine does with fetches whose session has ended: what comes of them, how they end, and what they hold
//! meanwhile.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use cobox_net::sync::{Conn, Fetched, Input, Output, TICK};
use cobox_net::wire::{Frame, Proof};
use cobox_store::format::proof::Outboard;
use cobox_store::id::PackId;
use common::bytes;
use common::puppet::{Puppet, Stage, key};

const SMALL_FLYING_MAX: usize = 128;
const LARGE_FLYING_MAX: usize = 4;

/// A device that is asked for as many large packs as may fly.
fn large(seed: u64) -> (Stage, Puppet) {
    let device = key(1);
    let mut stage = Stage::new(seed, &[&device]);
    stage.entry_of_packs(&device, 40, 1 << 20);
    let peer = stage.enter(&device);
    stage.pass(TICK);
    assert_eq!(stage.flying.len(), LARGE_FLYING_MAX);
    (stage, peer)
}

fn let_go(outputs: &[Output]) -> BTreeSet<PackId> {
    let packs = outputs.iter().filter_map(|output| match output {
        Output::LetGo { pack, .. } => Some(*pack),
        _ => None,
    });
    packs.collect()
}

fn flying(stage: &Stage) -> BTreeSet<PackId> {
    stage.flying.iter().map(|(.., pack)| *pack).collect()
}

#[test]
fn packs_that_come_after_their_session_ended_settle_their_folder_with_the_next_tick() {
    for cut in [false, true] {
        let device = key(1);
        let mut stage = Stage::new(9_300, &[]);
        for seed in 9_301..9_320 {
            stage.another(seed, &[]);
        }
        stage.another(9_320, &[&device]);
        stage.entries_of_packs(&device, 4);
        let peer = stage.enter(&device);
        stage.pass(TICK);
        let asked = std::mem::take(&mut stage.flying);
        assert_eq!(asked.len(), SMALL_FLYING_MAX);
        if cut {
            stage.input(Input::Down { conn: peer.conn });
        } else {
            stage.say(&peer, Frame::Close { session: peer.session });
        }
        let before = stage.engine.work().settled;
        for (conn, session, no, pack) in asked {
            stage.input(Input::Fetched { conn, session, no, pack, how: Fetched::Done });
        }
        assert_eq!(stage.engine.work().settled - before, 0, "cut: {cut}");
        stage.pass(TICK);
        assert_eq!(stage.engine.work().settled - before, 1, "cut: {cut}: that folder alone");
    }
}

#[test]
fn fetches_of_a_session_that_ended_are_let_go_and_keep_their_places_until_they_have_ended() {
    let (mut stage, peer) = large(9_330);
    let first = flying(&stage);
    let outputs = stage.say(&peer, Frame::Close { session: peer.session });
    assert_eq!(let_go(&outputs), first);
    for round in 0..8 {
        let outputs = stage.enter_again(&peer);
        assert!(outputs.iter().any(|output| matches!(output, Output::Opened { .. })), "{outputs:?}");
        let outputs = stage.pass(TICK);
        assert_eq!(let_go(&outputs), first, "whoever had not begun is told again");
        assert_eq!(stage.flying.len(), LARGE_FLYING_MAX, "round {round}");
        stage.say(&peer, Frame::Close { session: peer.session });
    }
    stage.enter_again(&peer);
    for (conn, session, no, pack) in std::mem::take(&mut stage.flying) {
        stage.input(Input::Fetched { conn, session, no, pack, how: Fetched::Broken });
    }
    let outputs = stage.pass(2 * TICK);
    assert_eq!((let_go(&outputs).len(), stage.flying.len()), (0, LARGE_FLYING_MAX));
}

#[test]
fn fetches_over_a_connection_that_ended_leave_their_places_at_once() {
    let (mut stage, peer) = large(9_340);
    stage.say(&peer, Frame::Close { session: peer.session });
    stage.input(Input::Down { conn: peer.conn });
    stage.flying.clear();
    stage.enter(&peer.key);
    let outputs = stage.pass(TICK);
    assert_eq!((let_go(&outputs).len(), stage.flying.len()), (0, LARGE_FLYING_MAX));
}

#[test]
fn session_that_its_peer_ends_by_refusing_or_answering_twice_is_served_nothing_more() {
    for way in 0..3 {
        let (mut stage, peer) = large(9_350);
        let (session, who) = (peer.session, Proof::Seeder);
        let word = match way {
            0 => Frame::Refuse { session },
            1 => Frame::Confirm { session, who },
            _ => Frame::Accept { session, proof: [0; 32], who },
        };
        let closes = |outputs: &[Output]| {
            let closed = |output: &&Output| matches!(output, Output::Closed { conn, session: of } if (*conn, *of) == (peer.conn, session));
            outputs.iter().filter(closed).count()
        };
        let asked = flying(&stage);
        let outputs = stage.say(&peer, word);
        assert_eq!((closes(&outputs), let_go(&outputs)), (1, asked), "way {way}");
        let outputs = stage.pass(Duration::from_secs(10));
        assert_eq!((closes(&outputs), stage.flying.len()), (0, LARGE_FLYING_MAX), "way {way}");
    }
}

#[test]
fn pack_that_came_meanwhile_is_not_asked_of_the_next_peer() {
    let (writer, other) = (key(1), key(2));
    let mut stage = Stage::new(9_360, &[&writer, &other]);
    let pack = bytes(1, 8192);
    let outboard = Outboard::of(&pack);
    stage.entry_of_pack(&writer, outboard.pack());
    stage.enter(&writer);
    stage.enter(&other);
    stage.pass(TICK);
    let (conn, session, no, id) = stage.flying.pop_front().expect("it is missing");
    stage.store.packs_put(no, &[(outboard, pack)]).expect("stores");
    stage.input(Input::Fetched { conn, session, no, pack: id, how: Fetched::NotHere });
    assert!(stage.flying.is_empty(), "it is here");
}

/// Whether a peer is told that a pack is here now.
fn tells(outputs: &[Output], on: Conn) -> bool {
    let have =
        |output: &Output| matches!(output, Output::Send { conn, frame: Frame::Have { .. } } if *conn == on);
    outputs.iter().any(have)
}

#[test]
fn peer_that_waits_for_a_pack_is_told_of_it_only_while_its_session_is_open() {
    for ended in [false, true] {
        let (writer, other) = (key(1), key(2));
        let mut stage = Stage::new(9_370, &[&writer, &other]);
        stage.entry_of_packs(&writer, 1, 4096);
        let from = stage.enter(&writer);
        let (conn, session, no, pack) = stage.flying.pop_front().expect("it is missing");
        assert_eq!(conn, from.conn);
        let waits = stage.enter(&other);
        stage.input(Input::Denied { conn: waits.conn, session: waits.session, pack });
        if ended {
            stage.say(&waits, Frame::Refuse { session: waits.session });
        }
        let outputs = stage.input(Input::Fetched { conn, session, no, pack, how: Fetched::Done });
        assert_eq!(tells(&outputs, waits.conn), !ended);
    }
}
