//! Engines that have many folders, and share only some: what brings those together that they share, and what becomes of
//! the others. Frames arrive at once and in order; only the test moves the clock.

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_net::sync::{Conn, Engine, Identity, Input, Output, Place, Side, TICK, signed_bytes};
use cobox_net::wire::{Frame, GrantAnswer};
use cobox_net::{PeerId, SessionState};
use cobox_store::blind::{Store, StoreKind};
use cobox_store::format::access::UnverifiedRecord;
use cobox_store::format::address::SeederAddress;
use cobox_store::id::{FolderId, FolderNo, KemKey, hash};
use common::Made;
use common::puppet::{log_of, peer_of, tcp};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

struct Node {
    engine: Engine,
    store: Arc<Store>,
    key: SigningKey,
    peer: PeerId,
}

/// Engines and connections between them.
struct Meeting {
    nodes: Vec<Node>,
    links: Vec<[(usize, Conn); 2]>,
    waiting: VecDeque<(usize, Input)>,
    now: Instant,
    next: u64,
    /// Connections that an engine closed.
    closed: usize,
    /// What is in session with whom: a node, its number of the folder, and the connection.
    open: BTreeSet<(usize, FolderNo, Conn)>,
    /// Grants that a node was asked for, how often, and by whom last. Nobody decides on them.
    offered: BTreeMap<FolderId, (usize, PeerId)>,
    /// Folders whose offers get no answer.
    unanswered: BTreeSet<FolderId>,
    /// `Open` frames that were sent.
    opens: usize,
    _dir: tempfile::TempDir,
}

impl Meeting {
    fn new(kinds: &[StoreKind]) -> Self {
        let dir = common::memory_dir();
        let node = |(at, kind): (usize, &StoreKind)| {
            let store = Store::create(&dir.path().join(at.to_string()), *kind).expect("creates");
            let key = SigningKey::from_bytes(&hash(format!("node {at}").as_bytes()));
            let peer = peer_of(&key);
            let mut engine = Engine::new(Arc::clone(&store), peer);
            // Devices say in each of their folders where they are.
            engine.step(Input::Listening { addresses: vec![tcp(at as u8, 1)], now_ms: 1 }, Instant::now());
            Node { engine, store, key, peer }
        };
        let nodes = kinds.iter().enumerate().map(node).collect();
        Self {
            nodes,
            links: Vec::new(),
            waiting: VecDeque::new(),
            now: Instant::now(),
            next: 1,
            closed: 0,
            open: BTreeSet::new(),
            offered: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            opens: 0,
            _dir: dir,
        }
    }

    fn address(&self, at: usize) -> SeederAddress {
        let peer_id = self.nodes[at].peer.to_bytes();
        SeederAddress { peer_id, kem: KemKey([1; 32]), addresses: vec![tcp(9, 1)] }
    }

    /// A node has a folder, as a seeder or as this device of it, under these secrets.
    fn has(&mut self, at: usize, made: &Made, key: Option<&SigningKey>, secrets: &[[u8; 32]]) -> FolderNo {
        let no = made.import(&self.nodes[at].store);
        let identity = match key.cloned() {
            Some(key) => Identity::Member {
                log: log_of(&key),
                signer: Arc::new(move |text| key.sign(&signed_bytes(text)).to_bytes()),
            },
            None => Identity::Seeder,
        };
        let secrets = secrets.iter().map(|secret| Zeroizing::new(*secret)).collect();
        self.say(at, Input::Folder { no, identity, secrets });
        no
    }

    /// A folder is offered to another node.
    fn names(&mut self, at: usize, no: FolderNo, to: usize) {
        let peers = vec![(self.nodes[to].peer, vec![tcp(9, 1)])];
        self.say(at, Input::Peers { no, peers });
    }

    fn say(&mut self, at: usize, input: Input) {
        self.waiting.push_back((at, input));
        while let Some((at, input)) = self.waiting.pop_front() {
            for output in self.nodes[at].engine.step(input, self.now) {
                self.done(at, output);
            }
        }
    }

    fn other(&self, at: usize, conn: Conn) -> Option<(usize, Conn)> {
        let link = self.links.iter().find(|ends| ends.contains(&(at, conn)))?;
        Some(link[usize::from(link[0] == (at, conn))])
    }

    fn done(&mut self, at: usize, output: Output) {
        match output {
            Output::Send { conn, frame } => {
                self.opens += usize::from(matches!(frame, Frame::Open { .. }));
                if let Some((to, conn)) = self.other(at, conn) {
                    self.waiting.push_back((to, Input::Frame { conn, frame }));
                }
            }
            Output::Close { conn } => {
                let Some(other) = self.other(at, conn) else { return };
                self.closed += 1;
                self.links.retain(|ends| !ends.contains(&other));
                for (at, conn) in [(at, conn), other] {
                    self.open.retain(|(of, _, over)| (*of, *over) != (at, conn));
                    self.waiting.push_back((at, Input::Down { conn }));
                }
            }
            Output::Dial { peer, .. } => {
                let to = self.nodes.iter().position(|node| node.peer == peer).expect("a node");
                self.link(at, to);
            }
            Output::Opened { conn, no, .. } => {
                self.open.insert((at, no, conn));
            }
            Output::GrantOffered { peer, records } => {
                let first =
                    UnverifiedRecord::decode(&records[0]).expect("decodes").verify().expect("a genesis");
                let folder = first.folder();
                self.offered.entry(folder).or_insert((0, peer)).0 += 1;
                self.waiting.push_back((at, Input::OfferWeighed { peer }));
                if !self.unanswered.contains(&folder) {
                    let answer = GrantAnswer::Pending;
                    self.waiting.push_back((at, Input::OfferAnswered { peer, folder, answer }));
                }
            }
            _ => {}
        }
    }

    fn link(&mut self, from: usize, to: usize) {
        let ends = [(from, Conn(self.next)), (to, Conn(self.next + 1))];
        self.next += 2;
        self.links.push(ends);
        for (side, (at, conn)) in [Side::Dialer, Side::Listener].into_iter().zip(ends) {
            let peer = self.nodes[if at == from { to } else { from }].peer;
            let up = Input::Up { conn, peer, side, place: Place::Other, nonce: hash(&conn.0.to_le_bytes()) };
            self.waiting.push_back((at, up));
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            (0..self.nodes.len()).for_each(|at| self.say(at, Input::Tick));
        }
    }

    /// How many folders a node has in session.
    fn in_session(&self, at: usize) -> usize {
        self.open.iter().filter(|(of, ..)| *of == at).count()
    }
}

const DEVICE: usize = 0;
const SEEDER: usize = 1;

/// A device has so many folders and offers all of them to a seeder, which holds every third. Of the others it was granted
/// all or none.
fn third_shared(seed: u64, folders: u64, granted: bool) -> Meeting {
    let mut meeting = Meeting::new(&[StoreKind::Device, StoreKind::Seeder]);
    let address = meeting.address(SEEDER);
    for at in 0..folders {
        let mut made = Made::new(seed + at);
        let shared = at % 3 == 2;
        if shared || granted {
            made.grant_with(&address, 1 << 40, [0; 80]);
        }
        // Epochs went by in those that are not shared: each is opened under several secrets.
        let past = [hash(b"one"), hash(b"two"), made.swarm];
        let secrets = if shared { &past[2..] } else { &past };
        let founder = made.founder.clone();
        let no = meeting.has(DEVICE, &made, Some(&founder), secrets);
        if shared {
            meeting.has(SEEDER, &made, None, &past[2..]);
        }
        meeting.names(DEVICE, no, SEEDER);
    }
    meeting
}

#[test]
fn peers_of_which_one_lacks_most_folders_of_the_other_have_all_in_session_that_they_share() {
    const SHARED: usize = 100;
    for granted in [false, true] {
        let mut meeting = third_shared(11_000, 3 * SHARED as u64, granted);
        meeting.pass(Duration::from_secs(20));
        assert_eq!(meeting.closed, 0, "granted: {granted}");
        let open = [meeting.in_session(DEVICE), meeting.in_session(SEEDER)];
        assert_eq!(open, [SHARED; 2], "granted: {granted}");
    }
}

#[test]
fn grants_of_many_folders_are_each_offered_soon_and_the_connection_stays() {
    const GRANTED: usize = 140;
    let mut meeting = third_shared(12_000, GRANTED as u64 / 2 * 3, true);
    meeting.pass(TICK);
    // The first of them at once, and those beyond as fast as offers are heard.
    assert!(meeting.offered.len() >= 60, "{}", meeting.offered.len());
    meeting.pass(Duration::from_secs(100));
    // An end hears four more a second, and those that wait for a decision are offered again between them.
    assert_eq!(meeting.offered.len(), GRANTED);
    assert_eq!(meeting.closed, 0);
    let most = meeting.offered.values().map(|(times, _)| *times).max();
    assert!(most < Some(15), "{most:?} times");
}

#[test]
fn grant_that_another_member_asked_for_first_is_told_to_everybody_who_waits_for_it() {
    let mut meeting =
        Meeting::new(&[StoreKind::Device, StoreKind::Device, StoreKind::Seeder, StoreKind::Device]);
    let (first, second, seeder, stranger) = (0, 1, 2, 3);
    let mut made = Made::new(13_000);
    let keys = [made.founder.clone(), meeting.nodes[second].key.clone()];
    made.admit(&keys[1]);
    made.grant_with(&meeting.address(seeder), 1 << 40, [0; 80]);
    let secrets = [made.swarm];
    for at in [first, second] {
        let no = meeting.has(at, &made, Some(&keys[at]), &secrets);
        meeting.names(at, no, seeder);
    }
    // Somebody who waits for another folder.
    let mut other = Made::new(13_001);
    other.grant_with(&meeting.address(seeder), 1 << 40, [0; 80]);
    let no = meeting.has(stranger, &other, Some(&other.founder.clone()), &[other.swarm]);
    meeting.names(stranger, no, seeder);
    meeting.pass(Duration::from_secs(200));
    assert_eq!((meeting.offered.len(), meeting.in_session(seeder)), (2, 0));
    // So long that each looks again rarely, and not in the next moment.
    let opens = meeting.opens;
    meeting.pass(TICK);
    assert_eq!(meeting.opens, opens);
    meeting.has(seeder, &made, None, &secrets);
    let answer = GrantAnswer::Accepted;
    let peer = meeting.nodes[first].peer;
    meeting.say(seeder, Input::GrantDecided { peer, folder: made.id(), answer });
    let open = [first, second, seeder, stranger].map(|at| meeting.in_session(at));
    assert_eq!(open, [1, 1, 2, 0], "at once, and nobody else");
    assert_eq!(meeting.closed, 0);
}

#[test]
fn refusal_of_a_grant_is_told_to_everybody_who_waits_for_it() {
    let mut meeting = Meeting::new(&[StoreKind::Device, StoreKind::Device, StoreKind::Seeder]);
    let (second, seeder) = (1, 2);
    let mut made = Made::new(13_100);
    let keys = [made.founder.clone(), meeting.nodes[second].key.clone()];
    made.admit(&keys[1]);
    made.grant_with(&meeting.address(seeder), 1 << 40, [0; 80]);
    let secrets = [made.swarm];
    let mut nos = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let no = meeting.has(at, &made, Some(key), &secrets);
        meeting.names(at, no, seeder);
        nos.push(no);
    }
    meeting.pass(Duration::from_secs(10));
    let (peer, folder) = (meeting.nodes[0].peer, made.id());
    meeting.say(seeder, Input::GrantDecided { peer, folder, answer: GrantAnswer::Refused });
    for (at, no) in nos.into_iter().enumerate() {
        let report = meeting.nodes[at].engine.report(no).expect("reads").expect("known");
        let refused = report.iter().any(|(_, status)| status.session == SessionState::Refused);
        assert!(refused, "{report:?}");
    }
}

/// What a node shows of its peers in a folder.
fn shown(meeting: &Meeting, at: usize, no: FolderNo) -> Vec<SessionState> {
    let report = meeting.nodes[at].engine.report(no).expect("reads").expect("known");
    report.into_iter().map(|(_, status)| status.session).collect()
}

#[test]
fn refusal_that_a_strangers_offer_gets_by_itself_is_told_to_the_stranger_alone() {
    let mut meeting = Meeting::new(&[StoreKind::Device, StoreKind::Seeder, StoreKind::Device]);
    let stranger = 2;
    let mut made = Made::new(13_200);
    made.grant_with(&meeting.address(SEEDER), 1 << 40, [0; 80]);
    let founder = made.founder.clone();
    let no = meeting.has(DEVICE, &made, Some(&founder), &[made.swarm]);
    meeting.names(DEVICE, no, SEEDER);
    meeting.link(stranger, SEEDER);
    meeting.pass(Duration::from_secs(1));
    assert_eq!(shown(&meeting, DEVICE, no), [SessionState::Pending]);
    // It offered the folder's first records and made-up ones.
    let (peer, folder) = (meeting.nodes[stranger].peer, made.id());
    meeting.say(SEEDER, Input::OfferAnswered { peer, folder, answer: GrantAnswer::Refused });
    assert_eq!(shown(&meeting, DEVICE, no), [SessionState::Pending], "nobody has decided");
    let peer = meeting.nodes[DEVICE].peer;
    meeting.say(SEEDER, Input::OfferAnswered { peer, folder, answer: GrantAnswer::Refused });
    assert_eq!(shown(&meeting, DEVICE, no), [SessionState::Refused]);
}

#[test]
fn grant_that_is_taken_while_its_folder_cannot_be_opened_waits_and_is_opened_once_it_can() {
    let mut meeting = Meeting::new(&[StoreKind::Device, StoreKind::Device, StoreKind::Seeder]);
    let seeder = 2;
    let mut made = Made::new(13_300);
    let keys = [made.founder.clone(), meeting.nodes[1].key.clone()];
    made.admit(&keys[1]);
    made.grant_with(&meeting.address(seeder), 1 << 40, [0; 80]);
    for (at, key) in keys.iter().enumerate() {
        let no = meeting.has(at, &made, Some(key), &[made.swarm]);
        meeting.names(at, no, seeder);
    }
    meeting.pass(Duration::from_secs(1));
    let (peer, folder, answer) = (meeting.nodes[0].peer, made.id(), GrantAnswer::Accepted);
    let opens = meeting.opens;
    // A rule takes it, and so does the owner, while the seeder pauses.
    meeting.say(seeder, Input::OfferAnswered { peer, folder, answer });
    meeting.say(seeder, Input::GrantDecided { peer, folder, answer });
    assert_eq!(meeting.opens, opens, "it would be opened in vain, and offered again, without end");
    meeting.has(seeder, &made, None, &[made.swarm]);
    assert_eq!([0, 1, seeder].map(|at| meeting.in_session(at)), [1, 1, 2], "at once");
}

#[test]
fn answer_that_nobody_has_decided_which_comes_after_the_decision_is_told_as_what_is_true() {
    let (mut meeting, all) = granted(13_400, 1, 1);
    assert_eq!(meeting.offered.len(), 1, "it is weighed");
    let (_, made) = &all[0];
    // Another member's offer of the same grant was accepted meanwhile.
    meeting.has(SEEDER, made, None, &[made.swarm]);
    assert_eq!(meeting.in_session(DEVICE), 0, "it was not said yet that it waits");
    let (peer, folder) = (meeting.nodes[DEVICE].peer, made.id());
    meeting.say(SEEDER, Input::OfferAnswered { peer, folder, answer: GrantAnswer::Pending });
    assert_eq!(meeting.in_session(DEVICE), 1);
}

/// A device whose grants of some folders wait for their turn to be offered.
fn granted(seed: u64, folders: u64, unanswered: usize) -> (Meeting, Vec<(FolderNo, Made)>) {
    let mut meeting = Meeting::new(&[StoreKind::Device, StoreKind::Seeder]);
    let address = meeting.address(SEEDER);
    let all: Vec<(FolderNo, Made)> = (0..folders)
        .map(|at| {
            let mut made = Made::new(seed + at);
            made.grant_with(&address, 1 << 40, [0; 80]);
            let founder = made.founder.clone();
            (meeting.has(DEVICE, &made, Some(&founder), &[made.swarm]), made)
        })
        .collect();
    meeting.unanswered = all[..unanswered].iter().map(|(_, made)| made.id()).collect();
    for (no, _) in &all {
        meeting.names(DEVICE, *no, SEEDER);
    }
    (meeting, all)
}

#[test]
fn folders_whose_offers_get_no_answer_keep_those_behind_them_waiting_for_one_turn_each() {
    let (mut meeting, all) = granted(14_000, 12, 4);
    meeting.pass(Duration::from_secs(13));
    assert_eq!(meeting.offered.len(), all.len(), "each of the first takes three seconds");
    meeting.pass(Duration::from_secs(200));
    let times: Vec<usize> = meeting.offered.values().map(|(times, _)| *times).collect();
    assert!(times.iter().all(|times| (3..40).contains(times)), "{times:?}");
}

#[test]
fn folder_whose_grant_is_taken_back_before_its_turn_is_not_offered() {
    let (mut meeting, mut all) = granted(14_050, 3, 1);
    let peer = meeting.nodes[SEEDER].peer;
    let (no, second) = &mut all[1];
    let revoked = second.revoke_seeder(&peer.to_bytes());
    meeting.nodes[DEVICE].store.access_add(*no, &revoked).expect("an admin's");
    let no = *no;
    meeting.say(DEVICE, Input::Changed { no });
    meeting.pass(Duration::from_secs(10));
    assert!(meeting.offered.contains_key(&all[2].1.id()), "the turn was the next one's");
    assert!(!meeting.offered.contains_key(&all[1].1.id()));
}

#[test]
fn offer_of_a_folder_that_is_gone_or_open_keeps_no_other_waiting_for_its_answer() {
    let (mut meeting, all) = granted(14_100, 4, 2);
    assert_eq!(meeting.offered.len(), 1, "its answer is waited for");
    meeting.say(DEVICE, Input::FolderGone { no: all[0].0 });
    assert_eq!(meeting.offered.len(), 2, "the next one at once");
    // The seeder got the second one in another way, and opens it itself.
    let (_, second) = &all[1];
    let no = meeting.has(SEEDER, second, None, &[second.swarm]);
    meeting.names(SEEDER, no, DEVICE);
    assert_eq!(meeting.in_session(SEEDER), 1);
    assert_eq!(meeting.offered.len(), 4, "and those behind it, one after the other");
}

#[test]
fn devices_with_many_folders_learn_where_one_of_them_moved_to_and_no_connection_is_closed() {
    const SHARED: u64 = 200;
    let mut meeting = Meeting::new(&[StoreKind::Device, StoreKind::Seeder, StoreKind::Device]);
    let other = 2;
    let mut nos = Vec::new();
    for at in 0..SHARED {
        let mut made = Made::new(15_000 + at);
        let keys = [made.founder.clone(), meeting.nodes[other].key.clone()];
        made.admit(&keys[1]);
        made.grant_with(&meeting.address(SEEDER), 1 << 40, [0; 80]);
        meeting.has(SEEDER, &made, None, &[made.swarm]);
        for (at, key) in [DEVICE, other].into_iter().zip(&keys) {
            let no = meeting.has(at, &made, Some(key), &[made.swarm]);
            meeting.names(at, no, SEEDER);
            nos.extend((at == other).then_some(no));
        }
    }
    meeting.pass(Duration::from_secs(1));
    assert_eq!((meeting.in_session(SEEDER), meeting.closed), (2 * SHARED as usize, 0));
    meeting.say(DEVICE, Input::Listening { addresses: vec![tcp(77, 7)], now_ms: 1_000_000 });
    let known = |meeting: &Meeting| {
        let contacts = |no: &FolderNo| meeting.nodes[other].engine.contacts(*no);
        nos.iter().filter(|no| contacts(no).iter().any(|contact| contact.addresses == [tcp(77, 7)])).count()
    };
    meeting.pass(TICK);
    assert!(known(&meeting) >= 30, "{} at once", known(&meeting));
    meeting.pass(Duration::from_secs(SHARED));
    assert_eq!((known(&meeting), meeting.closed), (SHARED as usize, 0));
}

#[test]
fn seeder_that_takes_out_many_folders_at_once_and_goes_on_keeps_its_connections() {
    const SHARED: u64 = 150;
    let mut meeting = Meeting::new(&[StoreKind::Device, StoreKind::Seeder]);
    let address = meeting.address(SEEDER);
    let mut held = Vec::new();
    for at in 0..SHARED {
        let mut made = Made::new(16_000 + at);
        made.grant_with(&address, 1 << 40, [0; 80]);
        held.push((meeting.has(SEEDER, &made, None, &[made.swarm]), made.swarm));
        let founder = made.founder.clone();
        let no = meeting.has(DEVICE, &made, Some(&founder), &[made.swarm]);
        meeting.names(DEVICE, no, SEEDER);
    }
    meeting.pass(Duration::from_secs(1));
    assert_eq!((meeting.in_session(DEVICE), meeting.closed), (SHARED as usize, 0));
    let hold = |(no, secret): &(FolderNo, [u8; 32])| Input::Folder {
        no: *no,
        identity: Identity::Seeder,
        secrets: vec![Zeroizing::new(*secret)],
    };
    held.iter().for_each(|(no, _)| meeting.say(SEEDER, Input::FolderGone { no: *no }));
    meeting.pass(Duration::from_secs(60));
    meeting.open.clear();
    held.iter().for_each(|folder| meeting.say(SEEDER, hold(folder)));
    meeting.pass(Duration::from_secs(60));
    assert_eq!((meeting.in_session(DEVICE), meeting.closed), (SHARED as usize, 0));
}
