//! One engine and a peer that proved the folder and works against it. Every word is spoken by the test, and only the
//! test moves the clock.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use cobox_net::sync::{Conn, Fetched, Input, Output, Place, TICK};
use cobox_net::wire::{CONTACTS_MAX, Contact, Frame, LocatorAnswer, QuestionId, SeedingFrame, SessionId};
use cobox_net::{PeerId, SessionState};
use cobox_store::blind::locators::LOCATORS_PER_MEMBER_MAX;
use cobox_store::format::agreement::{Held, Paper};
use cobox_store::format::entry::{Entry, LogHead};
use cobox_store::format::locator::{LOCATOR_STEP_BYTES, Locator};
use cobox_store::format::pack::SEALED_OVERHEAD_BYTES;
use cobox_store::id::{FolderNo, PackId, TermsHash};
use common::puppet::{Puppet, Stage, chain, contact, key, log_of, peer_of, tcp};
use ed25519_dalek::Signer as _;

/// How the hostile peer answers when it is asked for entries.
#[derive(Clone, Copy, Debug)]
enum Stalling {
    /// Again and again with an entry that is here already.
    Known,
    /// One new entry now and then, and never an end.
    Drip,
    /// One new entry now and then, and the end after each.
    DripAndEnd,
    /// Not at all, while somebody else pushes entries of that log that are here.
    Silent,
}

/// Time until the engine has a log of 40 entries, of which an honest peer that comes later has all.
fn stalled_for(how: Stalling) -> Duration {
    let (writer, hostile, honest) = (key(50), key(51), key(52));
    let mut stage = Stage::new(1, &[&writer, &hostile, &honest]);
    let entries = chain(&stage.made, &writer, 40);
    stage.store.entry_add(stage.no, &entries[0]).expect("takes");
    let heads = vec![LogHead { log: log_of(&writer), seq: 40, hash: entries[39].header().hash() }];
    let hostile = stage.enter(&hostile);
    let asked = stage.say(&hostile, Frame::LogHeads { session: hostile.session, heads: heads.clone() });
    assert_eq!(hostile.asked(&asked), Some(2));
    let honest = stage.enter(&honest);
    let mut outputs = stage.say(&honest, Frame::LogHeads { session: honest.session, heads });
    let (began, mut ticks) = (stage.now, 0u64);
    let mut asked = true;
    while stage.reached(&writer) < 40 {
        assert!(ticks < 20 * 60 * 20, "{how:?}: stalled at {}", stage.reached(&writer));
        answer(&mut stage, &honest, &entries, outputs);
        stage.now += TICK;
        outputs = stage.input(Input::Tick);
        asked |= hostile.asked(&outputs).is_some();
        ticks += 1;
        // Each nine seconds: a second less than what a pull may stand still.
        if ticks.is_multiple_of(9 * 20) {
            outputs.extend(stall(&mut stage, how, (&hostile, &honest), &entries, &mut asked));
        }
    }
    stage.now - began
}

fn stall(
    stage: &mut Stage,
    how: Stalling,
    (hostile, honest): (&Puppet, &Puppet),
    entries: &[Entry],
    asked: &mut bool,
) -> Vec<Output> {
    let reached = stage.reached(&key(50));
    let next = &entries[usize::try_from(reached).expect("few")];
    match how {
        Stalling::Known => stage.say(hostile, hostile.entry(&entries[0])),
        Stalling::Silent => stage.say(honest, honest.entry(&entries[0])),
        Stalling::Drip => stage.say(hostile, hostile.entry(next)),
        Stalling::DripAndEnd if *asked => {
            *asked = false;
            let mut outputs = stage.say(hostile, hostile.entry(next));
            let end =
                Frame::EntriesEnd { session: hostile.session, log: log_of(&key(50)), next: reached + 2 };
            outputs.extend(stage.say(hostile, end));
            *asked |= hostile.asked(&outputs).is_some();
            outputs
        }
        Stalling::DripAndEnd => Vec::new(),
    }
}

/// An honest peer answers as soon as it is asked.
fn answer(stage: &mut Stage, honest: &Puppet, entries: &[Entry], outputs: Vec<Output>) {
    let Some(from) = honest.asked(&outputs) else { return };
    for entry in &entries[usize::try_from(from - 1).expect("few")..] {
        stage.say(honest, honest.entry(entry));
    }
    let end = Frame::EntriesEnd { session: honest.session, log: log_of(&key(50)), next: 41 };
    stage.say(honest, end);
}

#[test]
fn peer_that_answers_as_slowly_as_it_may_does_not_keep_entries_from_us() {
    // Nothing new for ten seconds ends a pull; whatever it brings, it ends after a minute.
    for (how, most_s) in
        [(Stalling::Known, 10), (Stalling::Silent, 10), (Stalling::Drip, 60), (Stalling::DripAndEnd, 10)]
    {
        let took = stalled_for(how);
        assert!(took <= Duration::from_secs(most_s + 1), "{how:?}: {took:?}");
    }
}

/// Where a peer is dialed.
fn dialed(outputs: &[Output], peer: PeerId) -> Option<Vec<Vec<u8>>> {
    outputs.iter().find_map(|output| match output {
        Output::Dial { peer: to, addresses } if *to == peer => Some(addresses.clone()),
        _ => None,
    })
}

#[test]
fn device_that_claims_anothers_peer_id_does_not_take_its_addresses() {
    let victim = key(60);
    // Some before and some behind the victim in the order of keys.
    let liars: Vec<_> = (61..67).map(key).collect();
    assert!(liars.iter().any(|liar| log_of(liar) < log_of(&victim)));
    assert!(liars.iter().any(|liar| log_of(liar) > log_of(&victim)));
    let mut stage = Stage::new(2, &[vec![&victim], liars.iter().collect()].concat());
    let (peer, at) = (peer_of(&victim), tcp(1, 7741));
    let junk: Vec<Vec<u8>> = (1..=16).map(|port| tcp(66, port)).collect();
    let claims: Vec<Contact> =
        liars.iter().map(|liar| contact(&stage.made, liar, peer, 9_000_000, &junk)).collect();
    let liar = stage.enter(&liars[0]);
    let true_one = contact(&stage.made, &victim, peer, 5, std::slice::from_ref(&at));
    let mut outputs = stage.say_contacts(&liar, [vec![true_one], claims.clone()].concat());
    outputs.extend(stage.pass(TICK));
    let tried = dialed(&outputs, peer).expect("it is dialed");
    assert!(tried.contains(&at) && tried.len() > 1, "{tried:?}");
    // Once it answered, and proved which device it is, nobody else is believed to be there.
    let there = stage.enter(&victim);
    stage.input(Input::Down { conn: there.conn });
    let later = |claim: &Contact| {
        let liar = liars.iter().find(|liar| log_of(liar) == claim.log).expect("one of them");
        contact(&stage.made, liar, peer, 9_000_001, &junk)
    };
    let later: Vec<Contact> = claims.iter().map(later).collect();
    let mut outputs = stage.say_contacts(&liar, later);
    outputs.extend(stage.pass(Duration::from_secs(5)));
    assert_eq!(dialed(&outputs, peer), Some(vec![at]));
}

#[test]
fn device_makes_nobody_knock_at_its_own_doors_or_at_names() {
    let liar = key(70);
    let mut stage = Stage::new(3, &[&liar]);
    stage.input(Input::Listening { addresses: vec![tcp(9, 7741)], now_ms: 1 });
    let ip = |ip: [u8; 4]| [&[4][..], &ip, &[6, 0, 80]].concat();
    let mut bad = vec![
        ip([127, 0, 0, 1]),
        ip([0, 0, 0, 0]),
        ip([224, 0, 0, 251]),
        ip([255, 255, 255, 255]),
        ip([169, 254, 169, 254]),
        tcp(1, 0),
        [&[54, 9][..], b"host.home", &[6, 0, 80]].concat(),
        [&tcp(1, 80)[..], &[0xdd, 3]].concat(),
        [&[41][..], &[0; 10], &[255, 255, 127, 0, 0, 1, 6, 0, 80]].concat(),
        b"no address at all".to_vec(),
        vec![],
    ];
    let stranger = PeerId::of_key([1; 32]);
    let from = stage.enter(&liar);
    let told = contact(&stage.made, &liar, stranger, 1, &bad);
    let mut outputs = stage.say_contacts(&from, vec![told]);
    outputs.extend(stage.input(Input::Seen { peer: PeerId::of_key([2; 32]), addresses: bad.clone() }));
    outputs.extend(stage.pass(Duration::from_secs(60)));
    // Only what is linked to one network may be dialed there.
    let linked = |addresses: Vec<Vec<u8>>| addresses == [ip([169, 254, 169, 254])];
    assert_eq!(dialed(&outputs, stranger), None);
    assert!(dialed(&outputs, PeerId::of_key([2; 32])).is_none_or(linked), "{outputs:?}");
    bad.truncate(5);
    bad.push(tcp(1, 80));
    let told = contact(&stage.made, &liar, stranger, 2, &bad);
    stage.say_contacts(&from, vec![told]);
    let outputs = stage.pass(Duration::from_secs(5));
    assert_eq!(dialed(&outputs, stranger), Some(vec![tcp(1, 80)]));
}

#[test]
fn what_is_said_of_devices_that_are_not_listed_is_not_remembered_of_a_peer() {
    let (liar, newcomer) = (key(71), key(72));
    let mut stage = Stage::new(4, &[&liar]);
    let from = stage.enter(&liar);
    let real = contact(&stage.made, &newcomer, peer_of(&newcomer), 5, &[tcp(1, 1)]);
    stage.say_contacts(&from, vec![Contact { said_ms: u64::MAX, ..real.clone() }]);
    list(&mut stage, &newcomer);
    let there = stage.enter(&newcomer);
    let outputs = stage.say_contacts(&there, vec![real.clone()]);
    assert!(from.told(&outputs).contains(&real), "{outputs:?}");
}

/// The founder admits a device.
fn list(stage: &mut Stage, device: &ed25519_dalek::SigningKey) -> Vec<Output> {
    let record = stage.made.admit(device);
    stage.store.access_add(stage.no, &record).expect("admitted");
    stage.input(Input::Changed { no: stage.no })
}

#[test]
fn device_whose_clock_was_ahead_hears_its_own_old_word_and_says_a_later_one() {
    let device = key(73);
    let mut stage = Stage::new(5, &[&device]);
    let old = contact(&stage.made, &device, peer_of(&device), 1_000_000, &[tcp(1, 1)]);
    let first = stage.enter(&device);
    let outputs = stage.say_contacts(&first, vec![old.clone()]);
    assert_eq!(first.told(&outputs), vec![], "it knows that");
    stage.input(Input::Down { conn: first.conn });
    // It moved, its clock was set right, and it began anew.
    let new = contact(&stage.made, &device, peer_of(&device), 1_000, &[tcp(2, 2)]);
    let again = stage.enter(&device);
    let outputs = stage.say_contacts(&again, vec![new]);
    assert_eq!(again.told(&outputs), vec![old]);
    assert_eq!(again.told(&stage.pass(Duration::from_secs(60))), vec![], "once is enough");
    // The other side of it: who hears that says it again, later.
    let founder = stage.made.founder.clone();
    let ours = contact(&stage.made, &founder, peer_of(&founder), 5_000, &[tcp(3, 3)]);
    stage.input(Input::Listening { addresses: vec![tcp(4, 4)], now_ms: 7 });
    let outputs = stage.say_contacts(&again, vec![ours]);
    let said = again.told(&outputs);
    assert!(said.iter().any(|said| said.said_ms == 5_001 && said.addresses == [tcp(4, 4)]), "{said:?}");
}

#[test]
fn word_of_a_device_that_is_not_listed_yet_gives_way_to_none_that_is_made_up() {
    let (liar, honest, newcomer) = (key(74), key(75), key(76));
    let mut stage = Stage::new(6, &[&liar, &honest]);
    let peer = peer_of(&newcomer);
    let real = contact(&stage.made, &newcomer, peer, 5, &[tcp(1, 1)]);
    let (from, other) = (stage.enter(&liar), stage.enter(&honest));
    stage.say_contacts(&other, vec![real.clone()]);
    // Nobody signed this, and it is newer.
    let forged = Contact { said_ms: 9, addresses: vec![tcp(66, 6)], ..real };
    stage.say_contacts(&from, vec![forged]);
    // Many are signed by keys that nobody knows.
    for at in 0..4u8 {
        let made_up = |to: u8| {
            let key = ed25519_dalek::SigningKey::from_bytes(&[
                to, at, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
                2, 2,
            ]);
            contact(&stage.made, &key, peer_of(&key), 100, &[tcp(66, 6)])
        };
        let many: Vec<Contact> = (0..CONTACTS_MAX as u8).map(made_up).collect();
        stage.say_contacts(&from, many);
    }
    let mut outputs = list(&mut stage, &newcomer);
    outputs.extend(stage.pass(Duration::from_secs(1)));
    assert_eq!(dialed(&outputs, peer), Some(vec![tcp(1, 1)]));
}

#[test]
fn crowd_on_the_local_network_neither_hides_our_devices_nor_makes_us_dial_it_all() {
    let device = key(77);
    let mut stage = Stage::new(7, &[&device]);
    let stranger = |at: u16| {
        let [high, low] = at.to_be_bytes();
        PeerId::of_key(
            ed25519_dalek::SigningKey::from_bytes(
                &[&[high, low][..], &[3; 30]].concat().try_into().expect("32"),
            )
            .verifying_key()
            .to_bytes(),
        )
    };
    let mut outputs = Vec::new();
    for at in 0..2_000 {
        outputs.extend(stage.input(Input::Seen { peer: stranger(at), addresses: vec![tcp(66, at + 1)] }));
    }
    let crowd = |outputs: &[Output]| {
        let dials = outputs.iter().filter_map(|output| match output {
            Output::Dial { peer, .. } => Some(*peer),
            _ => None,
        });
        dials.collect::<BTreeSet<PeerId>>().len()
    };
    assert!(crowd(&outputs) <= 16, "{} at once", crowd(&outputs));
    let outputs = stage.pass(Duration::from_secs(10));
    assert!((1..=41).contains(&crowd(&outputs)), "{} in ten seconds", crowd(&outputs));
    // A device of ours is seen all the same, wherever it was before.
    let from = stage.enter(&device);
    let told = contact(&stage.made, &device, from.peer, 1, &[tcp(1, 1)]);
    stage.say_contacts(&from, vec![told]);
    stage.input(Input::Down { conn: from.conn });
    let mut outputs = stage.input(Input::Seen { peer: from.peer, addresses: vec![tcp(2, 2)] });
    outputs.extend(stage.pass(Duration::from_secs(3)));
    let tried = dialed(&outputs, from.peer).expect("it is dialed");
    assert!(tried.contains(&tcp(2, 2)), "{tried:?}");
    // Somebody who says something new of it all the time ends no pause more often than every two seconds.
    let mut dials = 0;
    for port in 1..=200 {
        let mut outputs = stage.input(Input::Seen { peer: from.peer, addresses: vec![tcp(67, port)] });
        stage.now += TICK;
        outputs.extend(stage.input(Input::Tick));
        if dialed(&outputs, from.peer).is_some() {
            dials += 1;
            stage.input(Input::DialFailed { peer: from.peer, error: "off".to_owned() });
        }
    }
    assert!(dials <= 25, "{dials} attempts in ten seconds");
}

#[test]
fn peer_that_has_not_told_what_it_lacks_is_neither_caught_up_nor_behind() {
    let second = key(60);
    let mut stage = Stage::new(9, &[&second]);
    let founder = stage.made.founder.clone();
    let mut entries = chain(&stage.made, &founder, 4);
    let later = entries.pop().expect("four");
    for entry in &entries {
        stage.store.entry_add(stage.no, entry).expect("takes");
    }
    stage.input(Input::Changed { no: stage.no });
    let peer = stage.enter(&second);
    let status = |stage: &Stage| {
        let report = stage.engine.report(stage.no).expect("reads").expect("is known");
        report
            .into_iter()
            .map(|(_, status)| status)
            .find(|status| status.peer == peer.peer)
            .expect("is there")
    };
    let known =
        |status: &cobox_net::PeerStatus| (status.told_lack, status.entries_behind, status.packs_to_send);
    let fresh = status(&stage);
    assert_eq!((fresh.session, known(&fresh)), (SessionState::Open, (false, 0, 0)));
    assert!(!fresh.has_told() && !fresh.is_caught_up());
    // Nor do heads alone make it caught up: packs may be missing.
    let heads = stage.store.log_heads(stage.no).expect("reads");
    stage.say(&peer, Frame::LogHeads { session: peer.session, heads });
    assert!(!status(&stage).is_caught_up());
    let behind = |packs| Frame::Behind { session: peer.session, packs, bytes: packs * 4096, full: false };
    stage.say(&peer, behind(2));
    assert_eq!(known(&status(&stage)), (true, 0, 2));
    stage.say(&peer, behind(0));
    assert!(status(&stage).is_caught_up());
    stage.store.entry_add(stage.no, &later).expect("takes");
    stage.input(Input::Changed { no: stage.no });
    assert_eq!(known(&status(&stage)), (true, 1, 0));
    assert!(!status(&stage).is_caught_up());
}

#[test]
fn peer_has_told_what_it_knows_when_its_heads_have_come_and_not_before() {
    let second = key(60);
    let mut stage = Stage::new(10, &[&second]);
    let entries = chain(&stage.made, &second, 4);
    let peer = stage.enter(&second);
    let status = |stage: &Stage| {
        let report = stage.engine.report(stage.no).expect("reads").expect("is known");
        report
            .into_iter()
            .map(|(_, status)| status)
            .find(|status| status.peer == peer.peer)
            .expect("is there")
    };
    let lacks_nothing = Frame::Behind { session: peer.session, packs: 0, bytes: 0, full: false };
    stage.say(&peer, lacks_nothing);
    // A recovery that ended here would end with nothing.
    let early = status(&stage);
    assert_eq!((early.has_told(), early.entries_to_receive), (false, 0));
    let heads = vec![LogHead { log: log_of(&second), seq: 4, hash: entries[3].header().hash() }];
    stage.say(&peer, Frame::LogHeads { session: peer.session, heads });
    let told = status(&stage);
    assert_eq!((told.has_told(), told.entries_to_receive), (true, 4));
    // Who has nothing says so, too.
    stage.input(Input::Down { conn: peer.conn });
    let peer = stage.enter(&second);
    let lacks_nothing = Frame::Behind { session: peer.session, packs: 0, bytes: 0, full: false };
    stage.say(&peer, lacks_nothing);
    stage.say(&peer, Frame::LogHeads { session: peer.session, heads: Vec::new() });
    assert!(status(&stage).has_told());
}

#[test]
fn entries_beyond_the_end_of_a_log_are_neither_waited_for_nor_asked_for_again() {
    let (writer, other) = (key(60), key(61));
    let mut stage = Stage::new(13, &[&writer, &other]);
    let entries = chain(&stage.made, &writer, 9);
    for entry in &entries[..4] {
        stage.store.entry_add(stage.no, entry).expect("takes");
    }
    stage.input(Input::Changed { no: stage.no });
    let peer = stage.enter(&other);
    let head = |seq: usize| LogHead {
        log: log_of(&writer),
        seq: seq as u64,
        hash: entries[seq - 1].header().hash(),
    };
    stage.say(&peer, Frame::Behind { session: peer.session, packs: 0, bytes: 0, full: false });
    let outputs = stage.say(&peer, Frame::LogHeads { session: peer.session, heads: vec![head(9)] });
    assert_eq!(peer.asked(&outputs), Some(5));
    let to_receive = |stage: &Stage| {
        let report = stage.engine.report(stage.no).expect("reads").expect("is known");
        let mut found = report.into_iter().map(|(_, status)| status);
        let status = found.find(|status| status.peer == peer.peer).expect("is there");
        (status.entries_to_receive, status.ahead)
    };
    assert_eq!(to_receive(&stage), (5, vec![(log_of(&writer), 5)]));
    // The writer is removed at what is here.
    let record = stage.made.remove(head(4));
    stage.store.access_add(stage.no, &record).expect("admitted");
    stage.input(Input::Changed { no: stage.no });
    assert_eq!(to_receive(&stage), (0, vec![]));
    // What was asked for comes all the same, is refused, and is not asked for again.
    stage.say(&peer, peer.entry(&entries[4]));
    stage.say(&peer, Frame::EntriesEnd { session: peer.session, log: log_of(&writer), next: 6 });
    let outputs = stage.pass(Duration::from_secs(60));
    assert_eq!((peer.asked(&outputs), stage.reached(&writer), to_receive(&stage)), (None, 4, (0, vec![])));
}

#[test]
fn peers_that_become_late_one_after_the_other_do_not_have_us_ask_for_ever_more() {
    const LARGE_FLYING_MAX: usize = 4;
    let writer = key(60);
    let slow: Vec<_> = (100..112u8).map(key).collect();
    let mut stage = Stage::new(11, &[vec![&writer], slow.iter().collect()].concat());
    stage.entry_of_packs(&writer, 40, 1 << 20);
    let mut flying = Vec::new();
    for device in &slow {
        let peer = stage.enter(device);
        stage.pass(TICK);
        // It stands still from here on, as everybody before.
        stage.input(Input::Late { conn: peer.conn, late: true });
        stage.pass(TICK);
        flying.push(stage.fetches.len());
    }
    let (first, most) = (LARGE_FLYING_MAX, 2 * LARGE_FLYING_MAX);
    assert_eq!(flying, [vec![first], vec![most; slow.len() - 1]].concat());
}

/// A pack has come, or the fetch of it has broken, and another one may be asked for.
fn ends(stage: &mut Stage, flight: (Conn, SessionId, FolderNo, PackId)) {
    let (conn, session, no, pack) = flight;
    stage.input(Input::Fetched { conn, session, no, pack, how: Fetched::Broken });
    stage.pass(TICK);
}

#[test]
fn folder_whose_packs_come_slowly_does_not_keep_all_places_from_another() {
    const LARGE_FLYING_MAX: usize = 4;
    let (slow, writer) = (key(60), key(61));
    let mut stage = Stage::new(13, &[&slow]);
    stage.entry_of_packs(&slow, 40, 1 << 20);
    let trickles = stage.enter(&slow);
    stage.pass(TICK);
    assert_eq!(stage.fetches, [trickles.conn; LARGE_FLYING_MAX], "nobody else wants anything");
    let mut of_slow = std::mem::take(&mut stage.flying);
    let before = stage.another(14, &[&writer]);
    stage.entry_of_packs(&writer, 40, 1 << 20);
    let quick = stage.enter(&writer);
    stage.pass(TICK);
    assert!(stage.flying.is_empty(), "there is no room yet");
    // One pack of the slow folder arrives: the place is not its own again, and goes round in the other.
    let first = of_slow.pop_front().expect("a pack");
    ends(&mut stage, first);
    for round in 0..20 {
        let flight = stage.flying.pop_front().expect("somebody has the place");
        assert_eq!((flight.0, stage.flying.len()), (quick.conn, 0), "round {round}");
        ends(&mut stage, flight);
    }
    // With a second place both have as many, and each keeps its own.
    let second = of_slow.pop_front().expect("a pack");
    ends(&mut stage, second);
    assert_eq!(stage.flying.iter().map(|flight| flight.0).collect::<Vec<_>>(), [quick.conn; 2]);
    let third = of_slow.pop_front().expect("a pack");
    ends(&mut stage, third);
    let last = stage.flying.pop_back().expect("the place is taken");
    assert_eq!(last.0, trickles.conn, "the slow one goes on as well");
    drop(before);
}

#[test]
fn folder_with_too_many_connections_loses_the_oldest_of_whoever_has_most() {
    const FOLDER_CONNS_MAX: usize = 128;
    let (crowd, few) = (key(60), key(61));
    // A person with many devices: a writer may list further ones of its own.
    let listed: Vec<_> = (100..200u8).map(key).collect();
    let all: Vec<_> = [&crowd, &few].into_iter().chain(&listed).collect();
    let mut stage = Stage::new(7, &all);
    let first = stage.enter(&few);
    let mut open: Vec<Puppet> = (0..4).map(|_| stage.enter(&crowd)).collect();
    assert!(stage.closed.is_empty());
    // One more of the same device: its oldest goes.
    open.push(stage.enter(&crowd));
    assert_eq!(std::mem::take(&mut stage.closed), [open.remove(0).conn]);
    stage.input(Input::Down { conn: Conn(first.conn.0 + 1) });
    for device in &listed {
        open.push(stage.enter(device));
        if open.len() + 1 == FOLDER_CONNS_MAX {
            break;
        }
    }
    assert!(stage.closed.is_empty(), "all of them are within what a folder may have");
    while open.len() + 1 < FOLDER_CONNS_MAX {
        open.push(stage.enter(&listed[open.len() % listed.len()]));
    }
    assert!(stage.closed.is_empty());
    // Whoever comes now takes the place of the one with the most connections, and not of the oldest.
    let again = stage.enter(&few);
    assert_eq!(stage.closed.len(), 1);
    assert!(![first.conn, again.conn].contains(&stage.closed[0]), "{:?}", stage.closed);
}

#[test]
fn device_that_waits_to_be_let_in_keeps_its_place_beside_a_crowd_from_one_place() {
    const UNLISTED_CONNS_MAX: usize = 16;
    let (joining, later) = (key(60), key(61));
    let mut stage = Stage::new(12, &[]);
    let (house, other, crowd) =
        (Place::V4([192, 0, 2, 1]), Place::V4([192, 0, 2, 2]), Place::V4([198, 51, 100, 1]));
    let (first, _) = stage.greet(&joining, house);
    // Somebody who was removed still knows a past secret, and makes keys as it likes.
    let mut gone = 0;
    for at in 100..200u8 {
        stage.greet(&key(at), crowd);
        for conn in std::mem::take(&mut stage.closed) {
            assert_ne!(conn, first.conn, "it was there first, and it is alone");
            stage.input(Input::Down { conn });
            gone += 1;
        }
    }
    assert_eq!(gone, 1 + 100 - UNLISTED_CONNS_MAX);
    // Who comes when all places are taken finds one, too.
    let (second, _) = stage.greet(&later, other);
    assert_eq!(stage.closed.len(), 1);
    assert!(![first.conn, second.conn].contains(&stage.closed[0]));
    for device in [&joining, &later] {
        let opened = list(&mut stage, device);
        assert!(opened.iter().any(|output| matches!(output, Output::Opened { .. })), "{opened:?}");
    }
}

#[test]
fn device_under_ever_new_names_leaves_no_more_locators_than_one_member_may() {
    let device = key(70);
    let mut stage = Stage::new(8, &[&device]);
    let mut stored = 0;
    for number in 0..u8::try_from(LOCATORS_PER_MEMBER_MAX).expect("few") + 6 {
        let puppet = stage.enter_as(&device, peer_of(&key(80 + number)));
        let owner = key(number);
        let mut locator = Locator {
            key: owner.verifying_key().to_bytes(),
            seq: 1,
            sealed: vec![0; LOCATOR_STEP_BYTES + SEALED_OVERHEAD_BYTES],
            signature: [0; 64],
        };
        locator.signature = owner.sign(&locator.signed_bytes()).to_bytes();
        let put = Frame::LocatorPut { question: QuestionId(1), locator: locator.encode() };
        let outputs = stage.say(&puppet, put);
        let kept = |output: &&Output| {
            matches!(output, Output::Send { frame: Frame::Locator { answer: LocatorAnswer::Stored, .. }, .. })
        };
        stored += outputs.iter().filter(kept).count();
        stage.input(Input::Down { conn: puppet.conn });
    }
    assert_eq!(stored, LOCATORS_PER_MEMBER_MAX);
}

#[test]
fn last_word_of_a_seeder_that_said_too_much_is_heard_later_and_only_that() {
    let mut stage = Stage::new(6, &[]);
    let seeder = stage.enter_seeder(&key(90));
    let lay = |stage: &mut Stage, paper: &Paper| {
        let (session, paper) = (seeder.session, paper.encode());
        stage.say(&seeder, Frame::Seeding(SeedingFrame::Paper { session, paper }))
    };
    let heard = |outputs: Vec<Output>| -> Vec<Paper> {
        let papers = outputs.into_iter().filter_map(|output| match output {
            Output::Paper { paper, .. } => Some(*paper),
            _ => None,
        });
        papers.collect()
    };
    let (mut at_once, mut said) = (0, 0u16);
    while said < 500 {
        let mut terms = [0; 32];
        terms[..2].copy_from_slice(&said.to_le_bytes());
        at_once += heard(lay(&mut stage, &Paper::Declined(TermsHash(terms)))).len();
        said += 1;
    }
    assert!(at_once < 100, "{at_once} of {said}");
    // It says once a session that it let the folder go.
    let gone = Paper::Held(Held::Until(1_790_000_000_000));
    assert_eq!(heard(lay(&mut stage, &gone)), []);
    let later = heard(stage.pass(Duration::from_secs(20)));
    assert_eq!(later.last(), Some(&gone));
    assert!(later.len() <= 8, "what waits is bounded: {later:?}");
}
