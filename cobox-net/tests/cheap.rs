//! What a peer can have an engine do with a few bytes. Counted, not timed.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use cobox_net::PeerId;
use cobox_net::sync::{Conn, Fetched, Input, Output, Place, TICK};
use cobox_net::wire::{Frame, GrantAnswer, SessionId};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::entry::LogHead;
use cobox_store::id::{EntryHash, KemKey, PackId};
use common::puppet::{Puppet, Stage, chain, key, log_of, peer_of, tcp};
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

#[test]
fn entries_that_a_peer_answers_one_at_a_time_settle_a_folder_now_and_then() {
    let device = key(1);
    let mut stage = Stage::new(9_006, &[&device]);
    let peer = stage.enter(&device);
    let entries = chain(&stage.made, &device, 299);
    let mut outputs = tell(&mut stage, &peer, &device, 300);
    let before = stage.engine.work().settled;
    let mut answered = 0;
    for entry in &entries {
        if peer.asked(&outputs).is_none() {
            break;
        }
        answered = entry.header().seq;
        stage.say(&peer, peer.entry(entry));
        let end = Frame::EntriesEnd { session: peer.session, log: log_of(&device), next: answered + 1 };
        outputs = stage.say(&peer, end);
    }
    let settled = stage.engine.work().settled - before;
    assert!((32..=70).contains(&answered) && settled <= 70, "{answered} answers settled it {settled} times");
    assert_eq!(peer.asked(&stage.pass(TICK)), Some(answered + 1), "with the next tick");
}

/// The peers that were asked for packs say one after the other that they have none of them, so often at the most; of
/// which packs.
fn have_none(stage: &mut Stage, at_most: usize) -> Vec<PackId> {
    let mut denied = Vec::new();
    while denied.len() < at_most
        && let Some((conn, session, no, pack)) = stage.flying.pop_front()
    {
        denied.push(pack);
        stage.now += TICK / 1000;
        stage.input(Input::Fetched { conn, session, no, pack, how: Fetched::NotHere });
    }
    denied
}

#[test]
fn packs_that_a_peer_does_not_have_are_asked_for_once_and_settle_nothing() {
    const PACKS: usize = 80 * 64;
    let device = key(1);
    let mut stage = Stage::new(9_004, &[&device]);
    stage.entries_of_packs(&device, 80);
    stage.enter(&device);
    stage.pass(TICK);
    let before = stage.engine.work();
    let (mut denied, mut ticks) = (Vec::new(), 0);
    while denied.len() < PACKS {
        denied.extend(have_none(&mut stage, 1000));
        stage.pass(TICK);
        ticks += 1;
        assert!(ticks < 200, "{} packs were asked for in {ticks} ticks", denied.len());
    }
    assert_eq!(denied.iter().collect::<BTreeSet<_>>().len(), PACKS, "each of them once");
    let settled = stage.engine.work().settled - before.settled;
    assert!(settled <= 2 * ticks, "{settled} times in {ticks} ticks");
    let listed = stage.engine.work().listed - before.listed;
    assert!(listed <= 3 * PACKS as u64, "{listed} packs were read to ask for {PACKS}");
}

#[test]
fn peer_that_lacks_more_than_is_remembered_is_asked_no_more_for_a_while_and_then_for_the_rest() {
    const REMEMBERED: usize = 65_536;
    let device = key(1);
    let mut stage = Stage::new(9_005, &[&device]);
    stage.entries_of_packs(&device, 1030);
    stage.enter(&device);
    stage.pass(TICK);
    let (mut denied, mut asked) = (BTreeSet::new(), 0);
    // What it lacks is forgotten after twenty seconds.
    for _ in 0..310 {
        let now = have_none(&mut stage, 256);
        asked += now.len();
        denied.extend(now);
        stage.pass(TICK);
    }
    assert!((REMEMBERED..REMEMBERED + 256).contains(&asked), "{asked} were asked for");
    assert_eq!(denied.len(), asked, "each of them once");
    for _ in 0..40 {
        stage.pass(TICK);
        denied.extend(have_none(&mut stage, 256));
    }
    assert_eq!(denied.len(), 1030 * 64, "the rest comes before what was asked for already");
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

/// Folders that a stranger's connection opens in the tests below.
const OPENS: u32 = 64;

fn place(host: u8) -> Place {
    Place::V4([192, 0, 2, host])
}

/// So many connections from one place that open what is not here: more than may be looked for.
fn flood(stage: &mut Stage, conns: u32) {
    for number in 0..conns {
        let peer = PeerId::of_key([7; 32]);
        let conn = stage.dial(peer, place(1));
        for at in 1..=OPENS {
            stage.open(conn, peer, SessionId(2 * at), [u8::try_from(number).expect("few"); 32]);
        }
    }
}

#[test]
fn opening_what_is_not_here_without_end_costs_a_bounded_time_and_keeps_no_newcomer_waiting() {
    const CONNS: u32 = 100;
    let mut stage = Stage::new(9_100, &[]);
    let secrets = many(&mut stage, FOLDERS);
    flood(&mut stage, CONNS);
    let names = stage.engine.work().names;
    let near = 10 * 16 * u64::from(CONNS);
    assert!(names < (1 << 20) + 2 * FOLDERS + near, "{names} names were made");
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

#[test]
fn peer_that_belongs_here_has_all_its_folders_found_at_once_whatever_others_ask_for() {
    let mut stage = Stage::new(9_100, &[]);
    let mut secrets = vec![stage.made.swarm];
    let mut numbers = vec![stage.no];
    for seed in 1..FOLDERS {
        stage.another(9_100 + seed, &[]);
        secrets.push(stage.made.swarm);
        numbers.push(stage.no);
    }
    flood(&mut stage, 100);
    // Of every twentieth folder a device is known, and comes back.
    let peer = PeerId::of_key([8; 32]);
    for no in numbers.iter().skip(10).step_by(20) {
        stage.input(Input::Peers { no: *no, peers: vec![(peer, vec![tcp(9, 1)])] });
    }
    let conn = stage.dial(peer, place(2));
    for (at, swarm) in (1u32..).zip(secrets.iter().skip(10).step_by(20)) {
        let outputs = stage.open(conn, peer, SessionId(2 * at), *swarm);
        assert!(accepted(&outputs, conn), "folder {at}");
    }
    // Another is not known, and has all of them.
    let peer = PeerId::of_key([9; 32]);
    let conn = stage.dial(peer, place(3));
    for (at, swarm) in (1u32..).zip(&secrets) {
        let outputs = stage.open(conn, peer, SessionId(2 * at), *swarm);
        assert!(accepted(&outputs, conn), "folder {at}");
    }
    // Where the first one has to be looked for, those behind it come with it.
    let peer = PeerId::of_key([10; 32]);
    let conn = stage.dial(peer, place(4));
    for (at, swarm) in (1u32..).zip(secrets.iter().skip(200)) {
        assert!(!accepted(&stage.open(conn, peer, SessionId(2 * at), *swarm), conn));
    }
    let outputs = stage.pass(TICK);
    let accepts = outputs.iter().filter(|output| accepted(std::slice::from_ref(output), conn)).count();
    assert_eq!(accepts, secrets.len() - 200);
}

fn refusals(outputs: &[Output], on: &[Conn]) -> usize {
    let refuses = |output: &&Output| matches!(output, Output::Send { conn, frame: Frame::Refuse { .. } } if on.contains(conn));
    outputs.iter().filter(refuses).count()
}

#[test]
fn refusals_without_end_are_bounded_for_the_node_close_nothing_and_keep_no_newcomer_waiting() {
    const CONNS: u8 = 16;
    const SECONDS: usize = 10;
    let mut stage = Stage::new(9_150, &[]);
    let swarm = stage.made.swarm;
    let crowd: Vec<(Conn, PeerId)> = (0..CONNS)
        .map(|at| {
            let peer = PeerId::of_key([100 + at; 32]);
            (stage.dial(peer, place(at)), peer)
        })
        .collect();
    let conns: Vec<Conn> = crowd.iter().map(|(conn, _)| *conn).collect();
    let (mut refused, mut session) = (0, 2);
    for _ in 0..SECONDS * 20 {
        // A folder that is found at once costs next to nothing to look for: here it is one among one.
        for (conn, peer) in &crowd {
            for number in 0..100 {
                let outputs = stage.open(*conn, *peer, SessionId(session + 2 * number), [0xee; 32]);
                refused += refusals(&outputs, &conns);
            }
        }
        session += 200;
        refused += refusals(&stage.pass(TICK), &conns);
    }
    assert!(stage.closed.is_empty(), "an honest peer may have many folders that are not here");
    assert!((20_000..=9_000 * (SECONDS + 2)).contains(&refused), "{refused} in {SECONDS} s");
    let peer = PeerId::of_key([99; 32]);
    let conn = stage.dial(peer, place(99));
    assert!(accepted(&stage.open(conn, peer, SessionId(2), swarm), conn));
}

/// Ends so many of the fetches one after the other, with the pack; how many folders were looked at for what to fetch, and
/// settled.
fn come(stage: &mut Stage, packs: usize) -> u64 {
    let before = stage.engine.work();
    for _ in 0..packs {
        let (conn, session, no, pack) = stage.flying.pop_front().expect("all places are taken");
        stage.now += TICK / 1000;
        stage.input(Input::Fetched { conn, session, no, pack, how: Fetched::Done });
    }
    stage.engine.work().planned - before.planned
}

const SMALL_FLYING_MAX: usize = 128;

/// So many folders of one device, each of which lacks 256 small packs of it.
fn lacking(stage: &mut Stage, device: &SigningKey, folders: u64) -> Vec<Puppet> {
    let mut peers = Vec::new();
    for at in 0..folders {
        stage.another(9_500 + at, &[device]);
        stage.entries_of_packs(device, 4);
        peers.push(stage.enter(device));
    }
    stage.pass(TICK);
    assert_eq!(stage.flying.len(), SMALL_FLYING_MAX);
    peers
}

#[test]
fn pack_that_comes_has_one_folder_in_line_looked_at_however_many_wait() {
    const PACKS: usize = 500;
    let device = key(1);
    let planned = [10, 60].map(|folders| {
        let mut stage = Stage::new(9_400, &[]);
        lacking(&mut stage, &device, folders);
        let planned = come(&mut stage, PACKS);
        assert_eq!(stage.flying.len(), SMALL_FLYING_MAX, "each place that became free was taken");
        let of = |no| stage.flying.iter().filter(|flight| flight.2 == no).count();
        let shares: BTreeSet<usize> = stage.flying.iter().map(|flight| of(flight.2)).collect();
        assert!(shares.last() <= Some(&(SMALL_FLYING_MAX / folders as usize + 2)), "{shares:?}");
        planned
    });
    let most = 3 * PACKS as u64;
    assert!(planned.iter().all(|planned| *planned <= most), "{planned:?} for {PACKS} packs");
}

#[test]
fn pack_that_a_reader_waits_for_comes_before_those_of_folders_in_line() {
    let device = key(1);
    let mut stage = Stage::new(9_410, &[]);
    let peers = lacking(&mut stage, &device, 20);
    // The last of the folders, which is not the first in line.
    let (no, last) = (stage.no, peers.last().expect("some").conn);
    let flying: BTreeSet<PackId> = stage.flying.iter().map(|flight| flight.3).collect();
    let missing = stage.store.packs_missing(no, None, 1000).expect("reads");
    let wanted = missing.iter().rfind(|pack| !flying.contains(&pack.id)).expect("more than may fly").id;
    stage.store.want(no, wanted);
    stage.input(Input::Changed { no });
    assert!(stage.flying.iter().all(|flight| flight.3 != wanted), "there is no room");
    come(&mut stage, 1);
    let newest = stage.flying.back().expect("the place was taken");
    assert_eq!((newest.0, newest.3), (last, wanted));
}

#[test]
fn person_on_many_connections_has_the_turns_of_one() {
    let (greedy, other) = (key(1), key(2));
    let mut stage = Stage::new(9_100, &[&greedy, &other]);
    many(&mut stage, FOLDERS);
    stage.another(9_900, &[&greedy, &other]);
    let honest = stage.enter(&other);
    let crowd: Vec<Puppet> = (50..54).map(|id| stage.enter_as(&greedy, PeerId::of_key([id; 32]))).collect();
    let conns: Vec<Conn> = crowd.iter().map(|puppet| puppet.conn).collect();
    flood(&mut stage, 100);
    for at in 2..60 {
        for puppet in crowd.iter().chain([&honest]) {
            stage.open(puppet.conn, puppet.peer, SessionId(2 * at), [0xee; 32]);
        }
    }
    let outputs = stage.pass(2 * TICK);
    let (own, theirs) = (refusals(&outputs, &[honest.conn]), refusals(&outputs, &conns));
    assert!(theirs > 10 && own + 4 >= theirs, "{own} for one, {theirs} for a person on four connections");
}

#[test]
fn connection_has_its_turn_beside_many_others_of_its_place() {
    let mut stage = Stage::new(9_100, &[]);
    let secrets = many(&mut stage, FOLDERS);
    flood(&mut stage, 100);
    flood(&mut stage, 20);
    let peer = PeerId::of_key([8; 32]);
    let conn = stage.dial(peer, place(1));
    let outputs = stage.open(conn, peer, SessionId(2), secrets[150]);
    assert!(!accepted(&outputs, conn), "it waits in line");
    assert!(accepted(&stage.pass(3 * TICK), conn), "each connection has its turn, and not each folder");
}

#[test]
fn newcomer_whose_folder_is_looked_for_is_not_closed_for_a_crowd_from_elsewhere() {
    let mut stage = Stage::new(9_100, &[]);
    let secrets = many(&mut stage, FOLDERS);
    flood(&mut stage, 100);
    let peer = PeerId::of_key([8; 32]);
    let conn = stage.dial(peer, place(2));
    stage.open(conn, peer, SessionId(2), secrets[150]);
    stage.now += Duration::from_millis(1);
    let mut closed = Vec::new();
    for id in 0..200 {
        stage.dial(PeerId::of_key([id; 32]), place(1));
        for conn in std::mem::take(&mut stage.closed) {
            stage.input(Input::Down { conn });
            closed.push(conn);
        }
    }
    assert!(closed.len() > 100, "{} were closed", closed.len());
    assert!(!closed.contains(&conn), "it was idle for longest, since it waits");
    assert!(accepted(&stage.pass(TICK), conn));
}

/// What a seeder says to an offer: also what ends a session, or opens one, and means nothing then.
#[derive(Clone, Copy, Debug)]
enum Said {
    Answer(GrantAnswer),
    Nothing,
    RefusesAgain,
    Accepts,
    Closes,
    OpensItself,
}

/// A seeder has a granted folder not, and says this to the offer; how often it is opened there and offered in five minutes.
fn asked_again(seed: u64, answer: Said) -> (usize, usize) {
    let seeder = key(7);
    let peer = peer_of(&seeder);
    let mut stage = Stage::new(seed, &[]);
    let address =
        SeederAddress { peer_id: peer.to_bytes(), kem: KemKey([1; 32]), addresses: vec![tcp(9, 1)] };
    let grant = stage.made.grant_with(&address, 1 << 40, [0; 80]);
    stage.store.access_add(stage.no, &grant).expect("an admin's");
    let (no, folder) = (stage.no, stage.made.id());
    stage.input(Input::Changed { no });
    stage.input(Input::Peers { no, peers: vec![(peer, vec![tcp(9, 1)])] });
    let conn = stage.dial(peer, place(1));
    let (mut opened, mut offered, mut theirs) = (0, 0, 0);
    // The first was opened when it dialed.
    let mut outputs = stage.pass(Duration::from_secs(15));
    for _ in 0..Duration::from_secs(300).as_millis() / TICK.as_millis() {
        for output in std::mem::take(&mut outputs) {
            let frame = match output {
                Output::Send { conn: to, frame } if to == conn => frame,
                _ => continue,
            };
            let answer = match frame {
                Frame::Open { session, .. } => {
                    opened += 1;
                    Frame::Refuse { session }
                }
                Frame::GrantOffer { session, .. } => {
                    offered += 1;
                    match answer {
                        Said::Answer(answer) => Frame::GrantAnswer { folder, answer },
                        Said::Nothing => continue,
                        Said::RefusesAgain => Frame::Refuse { session },
                        Said::Closes => Frame::Close { session },
                        Said::OpensItself => {
                            theirs += 2;
                            stage.open(conn, peer, SessionId(theirs), stage.made.swarm);
                            Frame::Refuse { session: SessionId(theirs) }
                        }
                        Said::Accepts => {
                            Frame::Accept { session, proof: [7; 32], who: cobox_net::wire::Proof::Seeder }
                        }
                    }
                }
                _ => continue,
            };
            outputs.extend(stage.input(Input::Frame { conn, frame: answer }));
        }
        outputs.extend(stage.pass(TICK));
    }
    (opened, offered)
}

#[test]
fn folder_whose_grant_is_not_decided_is_opened_ever_more_rarely() {
    let (opened, offered) = asked_again(9_200, Said::Answer(GrantAnswer::Pending));
    assert!(offered > 3, "it is offered again: {offered} times");
    assert!(opened < 15, "{opened} times in five minutes");
}

#[test]
fn folder_that_is_said_to_be_taken_and_is_not_there_is_opened_ever_more_rarely() {
    let (opened, offered) = asked_again(9_201, Said::Answer(GrantAnswer::Accepted));
    assert!(offered > 3, "it is offered again: {offered} times");
    assert!(opened < 30, "{opened} times in five minutes");
}

#[test]
fn folder_whose_offers_get_no_answer_is_opened_and_offered_ever_more_rarely() {
    let all = [Said::Nothing, Said::RefusesAgain, Said::Accepts, Said::Closes, Said::OpensItself];
    for (at, said) in all.into_iter().enumerate() {
        let (opened, offered) = asked_again(9_202 + at as u64, said);
        assert!(offered > 3, "it is offered again: {offered} times");
        let few = opened < 15 && offered < 15;
        assert!(few, "{said:?}: {opened} times in five minutes, and offered {offered} times");
    }
}
