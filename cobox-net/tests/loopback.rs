//! Whole nodes on loopback: members and seeders with hand-made folders over TCP and QUIC.

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use cobox_net::patrol::{Pace, SEEDER_EVERY};
use cobox_net::seeder::Accept;
use cobox_net::seeder::commands::{Answer, Request, ask_running};
use cobox_net::{Error, LanDiscovery, SessionState, Transport};
use cobox_store::blind::{Batch, Durability, PackStatus, Table, key as table_key};
use cobox_store::format::access::BOX_BYTES;
use cobox_store::format::receipt::live_set_digest;
use cobox_store::id::{LocatorId, MemberId};
use common::{Made, Member, Seeding, bytes, until};
use ed25519_dalek::{Signer as _, SigningKey};

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const MIB: usize = 1 << 20;

fn to_a_seeder_and_proved(transport: &str, expected: Transport) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::new(dir.path(), transport);
    let mut made = Made::new(1);
    made.grant(&seeder.address(), 1 << 30);
    let key = made.founder.clone();
    let mut member = Member::new(&made, &key, &[]);
    member.write(&[bytes(1, 8 * MIB), bytes(2, 4096), bytes(3, 256 * 1024)]);
    member.node.set_peers(member.no, vec![seeder.address()]);
    member.wait_caught_up(seeder.peer());
    let status = member.peer(seeder.peer()).expect("a peer");
    assert_eq!(status.transport, Some(expected));
    assert!(status.bytes_sent >= 8 * MIB as u64);
    let receipt = member.node.audit(member.no, seeder.peer()).expect("proves");
    assert!(receipt.is_whole());
    assert_eq!(receipt.packs_held, 3);
    assert_eq!(receipt.heads, member.store.log_heads(member.no).expect("heads"));
    // News goes at once.
    let start = Instant::now();
    member.write(&[bytes(4, 4096)]);
    member.wait_caught_up(seeder.peer());
    println!("one small entry and its pack: {:?}", start.elapsed());
    assert_eq!(member.store.receipts(member.no).expect("receipts").len(), 1);
    member.node.shutdown();
}

#[test]
fn packs_over_tcp_reach_a_seeder_and_are_proved() {
    to_a_seeder_and_proved(TCP, Transport::Tcp);
}

#[test]
fn packs_over_quic_reach_a_seeder_and_are_proved() {
    to_a_seeder_and_proved(QUIC, Transport::Quic);
}

#[test]
fn second_member_gets_everything_from_the_seeder_alone() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::new(dir.path(), TCP);
    let mut made = Made::new(2);
    made.grant(&seeder.address(), 1 << 30);
    let other_key = SigningKey::from_bytes(&[9; 32]);
    let key = made.founder.clone();
    let mut first = Member::new(&made, &key, &[]);
    first.node.set_peers(first.no, vec![seeder.address()]);
    let packs = first.write(&[bytes(1, 8 * MIB), bytes(2, 8192), bytes(3, MIB)]);
    first.wait_caught_up(seeder.peer());
    first.node.shutdown();
    // Only now is the second device admitted: it brings its own admission.
    made.admit(&other_key);
    let second = Member::new(&made, &other_key, &[]);
    second.node.set_peers(second.no, vec![seeder.address()]);
    until("all packs arrive", || {
        let whole = |pack| matches!(second.store.pack_status(second.no, pack), Ok(PackStatus::Complete(_)));
        packs.iter().all(|pack| whole(pack.id))
    });
    second.node.shutdown();
}

#[test]
fn seeder_stopped_in_the_middle_resumes() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut seeder = Seeding::new(dir.path(), TCP);
    let mut made = Made::new(3);
    made.grant(&seeder.address(), 1 << 30);
    let key = made.founder.clone();
    let mut member = Member::new(&made, &key, &[]);
    for at in 0..6 {
        member.write(&[bytes(at, 16 * MIB)]);
    }
    member.node.set_peers(member.no, vec![seeder.address()]);
    until("something was sent", || {
        member.peer(seeder.peer()).is_some_and(|status| status.bytes_sent > 20 << 20)
    });
    seeder.stop();
    until("the member notices", || {
        member.peer(seeder.peer()).is_some_and(|status| status.session == SessionState::Offline)
    });
    seeder.start();
    member.wait_caught_up(seeder.peer());
    member.restart();
    member.node.set_peers(member.no, vec![seeder.address()]);
    member.wait_caught_up(seeder.peer());
    assert!(member.node.audit(member.no, seeder.peer()).expect("proves").is_whole());
    member.node.shutdown();
}

#[test]
fn bulk_in_both_directions_at_once_does_not_deadlock() {
    for transport in [TCP, QUIC] {
        let mut made = Made::new(4);
        let other_key = SigningKey::from_bytes(&[8; 32]);
        made.admit(&other_key);
        let key = made.founder.clone();
        let mut first = Member::new(&made, &key, &[transport]);
        let mut second = Member::new(&made, &other_key, &[transport]);
        let mut packs = Vec::new();
        for at in 0..8 {
            packs.extend(first.write(&[bytes(at, 8 * MIB)]));
            packs.extend(second.write(&[bytes(100 + at, 8 * MIB)]));
        }
        first.node.set_peers(first.no, vec![second.address()]);
        second.node.set_peers(second.no, vec![first.address()]);
        for member in [&first, &second] {
            until("both hold everything", || {
                let whole =
                    |pack| matches!(member.store.pack_status(member.no, pack), Ok(PackStatus::Complete(_)));
                packs.iter().all(|pack| whole(pack.id))
            });
        }
        first.node.shutdown();
        second.node.shutdown();
    }
}

#[test]
fn seeder_that_stopped_holds_its_store_no_more_whoever_was_asking() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut seeder = Seeding::new(dir.path(), TCP);
    let ask = || {
        let mut asking = UnixStream::connect(dir.path().join("seeder.sock")).expect("connects");
        asking.write_all(b"{\"verb\":\"status\"}\n").expect("writes");
        asking
    };
    // One who says nothing at the console, one who listens for news, and one whose answer is just being given.
    let silent = UnixStream::connect(dir.path().join("seeder.sock")).expect("connects");
    let mut news = UnixStream::connect(dir.path().join("api.sock")).expect("connects");
    news.write_all(b"GET /v1/events HTTP/1.1\r\nHost: seeder\r\n\r\n").expect("writes");
    let mut begin = [0; 12];
    news.read_exact(&mut begin).expect("reads");
    assert_eq!(&begin, b"HTTP/1.1 200");
    // Whoever came first at the console is heard by then.
    assert!(ask().read_to_end(&mut Vec::new()).expect("reads") > 0);
    let asking = ask();
    seeder.stop();
    drop(seeder.store());
    drop((silent, news, asking));
}

#[test]
fn audit_after_a_pack_was_lost_fails_and_the_pack_comes_back() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut seeder = Seeding::new(dir.path(), TCP);
    let mut made = Made::new(5);
    made.grant(&seeder.address(), 1 << 30);
    let key = made.founder.clone();
    let mut member = Member::new(&made, &key, &[]);
    let packs = member.write(&[bytes(1, MIB), bytes(2, MIB)]);
    member.node.set_peers(member.no, vec![seeder.address()]);
    member.wait_caught_up(seeder.peer());
    seeder.stop();
    // With the member away nobody can give the pack back.
    member.node.shutdown();
    let store = seeder.store();
    let no = store.folder_no(member.folder).expect("holds it");
    // Without a sound outboard nothing of the pack can be kept.
    let mut batch = Batch::default();
    batch.put(&table_key(no, Table::Outboard, &packs[0].id.0), b"bent");
    store.db().commit(batch, Durability::Synced).expect("commits");
    store.pack_mark_damaged(no, packs[0].id).expect("marks");
    drop(store);
    seeder.start();
    let store_dir = member.store.dir().to_owned();
    assert!(store_dir.exists());
    // A member that does not have the pack itself, so that it cannot heal the seeder.
    let lean = Member::new(&made, &key, &[]);
    for seq in 1..=member.seq {
        let log = member.store.log_heads(member.no).expect("heads")[0].log;
        let entry = member.store.entry(member.no, log, seq).expect("reads").expect("exists");
        lean.store.entry_add(lean.no, &entry).expect("taken");
    }
    lean.node.set_peers(lean.no, vec![seeder.address()]);
    until("a session", || {
        lean.peer(seeder.peer()).is_some_and(|status| status.session == SessionState::Open)
    });
    match lean.node.audit(lean.no, seeder.peer()) {
        Err(Error::NotProved { pack, .. }) => assert_eq!(pack, packs[0].id),
        other => panic!("the loss was not noticed: {other:?}"),
    }
    lean.node.shutdown();
    member.restart();
    member.node.set_peers(member.no, vec![seeder.address()]);
    member.wait_caught_up(seeder.peer());
    assert!(member.node.audit(member.no, seeder.peer()).expect("proves again").is_whole());
    member.node.shutdown();
}

#[test]
fn quota_that_is_too_small_stops_the_writer_and_says_so() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::new(dir.path(), TCP);
    let mut made = Made::new(6);
    made.grant(&seeder.address(), MIB as u64);
    let key = made.founder.clone();
    let mut member = Member::new(&made, &key, &[]);
    member.node.set_peers(member.no, vec![seeder.address()]);
    member.write(&[bytes(1, 4096)]);
    member.wait_caught_up(seeder.peer());
    member.write(&[bytes(2, 8 * MIB)]);
    until("the seeder says that it is full", || member.peer(seeder.peer()).is_some_and(|status| status.full));
    let status = member.peer(seeder.peer()).expect("a peer");
    assert!(!status.is_caught_up() && status.session == SessionState::Open, "{status:?}");
    member.node.shutdown();
}

#[test]
fn grant_that_does_not_open_is_refused() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::new(dir.path(), TCP);
    let mut made = Made::new(7);
    made.grant_with(&seeder.address(), 1 << 30, [1; BOX_BYTES]);
    let key = made.founder.clone();
    let member = Member::new(&made, &key, &[]);
    member.node.set_peers(member.no, vec![seeder.address()]);
    until("refused", || {
        member.peer(seeder.peer()).is_some_and(|status| {
            status.session == SessionState::Refused
                && status.error.as_ref().is_some_and(|text| text.contains("refused"))
        })
    });
    member.node.shutdown();
}

#[test]
fn stranger_without_a_grant_learns_nothing_and_gets_no_session() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::new(dir.path(), TCP);
    let made = Made::new(8);
    let key = made.founder.clone();
    let member = Member::new(&made, &key, &[]);
    member.node.set_peers(member.no, vec![seeder.address()]);
    until("refused", || {
        member.peer(seeder.peer()).is_some_and(|status| status.session == SessionState::Refused)
    });
    assert_eq!(member.node.locator_fetch(&seeder.address(), LocatorId([1; 32])).expect("answers"), None);
    member.node.shutdown();
}

#[test]
fn owner_accepts_a_pending_grant() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::with(dir.path(), TCP, Accept::Owner);
    let mut made = Made::new(9);
    made.grant(&seeder.address(), 1 << 30);
    let key = made.founder.clone();
    let mut member = Member::new(&made, &key, &[]);
    member.write(&[bytes(1, 4096)]);
    member.node.set_peers(member.no, vec![seeder.address()]);
    until("pending", || {
        member.peer(seeder.peer()).is_some_and(|status| status.session == SessionState::Pending)
    });
    let folder = made.id().to_hex();
    until("it is listed", || listed(&seeder.data, &folder).is_some());
    let (id, _) = listed(&seeder.data, &folder).expect("it was a moment ago");
    let unnamed = Request::Accept { id: folder[..8].to_owned() };
    ask_running(&seeder.data, &unnamed).expect_err("terms that nobody named");
    ask_running(&seeder.data, &Request::Accept { id }).expect("accepts");
    member.wait_caught_up(seeder.peer());
    member.node.shutdown();
}

/// The id and quota of the grant that waits for a folder.
fn listed(data: &std::path::Path, folder: &str) -> Option<(String, u64)> {
    match ask_running(data, &Request::Pending) {
        Ok(Some(Answer::Pending { grants })) => {
            let grant = grants.into_iter().find(|grant| grant.folder == folder)?;
            Some((grant.id, grant.quota_bytes))
        }
        _ => None,
    }
}

#[test]
fn newer_grant_does_not_raise_what_the_owner_accepted() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::with(dir.path(), TCP, Accept::Owner);
    let mut made = Made::new(13);
    made.grant(&seeder.address(), MIB as u64);
    let key = made.founder.clone();
    let mut member = Member::new(&made, &key, &[]);
    member.write(&[bytes(1, 4096)]);
    member.node.set_peers(member.no, vec![seeder.address()]);
    let id = made.id().to_hex();
    let asked = || listed(&seeder.data, &id).map(|(_, quota_bytes)| quota_bytes);
    let accept = || {
        let id = listed(&seeder.data, &id).map_or(id.clone(), |(id, _)| id);
        ask_running(&seeder.data, &Request::Accept { id }).expect("answers")
    };
    until("the grant waits", || asked() == Some(MIB as u64));
    assert!(matches!(accept(), Some(Answer::Accepted { .. })));
    assert!(matches!(accept(), Some(Answer::Already { .. })));
    member.wait_caught_up(seeder.peer());
    let raised = made.grant(&seeder.address(), 1 << 30);
    member.store.access_add(member.no, &raised).expect("admitted");
    until("the higher limit waits", || asked() == Some(1 << 30));
    let quota = || match ask_running(&seeder.data, &Request::Status) {
        Ok(Some(Answer::Status { folders, .. })) => folders[0].quota_bytes,
        other => panic!("no status: {other:?}"),
    };
    assert_eq!(quota(), Some(MIB as u64));
    assert!(matches!(accept(), Some(Answer::Accepted { .. })));
    until("the limit is raised", || quota() == Some(1 << 30) && asked().is_none());
    member.node.shutdown();
}

#[test]
fn recovery_key_fetches_the_access_log_and_no_other_key_does() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::new(dir.path(), TCP);
    let mut made = Made::new(10);
    made.grant(&seeder.address(), 1 << 30);
    let key = made.founder.clone();
    let member = Member::new(&made, &key, &[]);
    member.node.set_peers(member.no, vec![seeder.address()]);
    member.wait_caught_up(seeder.peer());
    let signer = |key: &SigningKey| {
        let signing = key.clone();
        cobox_net::RecoverySigner {
            member: MemberId(key.verifying_key().to_bytes()),
            sign: std::sync::Arc::new(move |transcript| {
                signing.sign(&cobox_net::sync::signed_bytes(transcript)).to_bytes()
            }),
        }
    };
    let fetched = member
        .node
        .recovery_fetch_access(&seeder.address(), made.id(), &signer(&made.recovery))
        .expect("the log comes");
    assert_eq!(fetched, made.records);
    let stranger = SigningKey::from_bytes(&[77; 32]);
    let refused = member.node.recovery_fetch_access(&seeder.address(), made.id(), &signer(&stranger));
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    member.node.shutdown();
}

#[test]
fn wrong_peer_at_an_address_is_named() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::new(dir.path(), TCP);
    let mut made = Made::new(11);
    let mut address = seeder.address();
    address.peer_id =
        cobox_net::PeerId::of_key(SigningKey::from_bytes(&[3; 32]).verifying_key().to_bytes()).to_bytes();
    made.grant(&seeder.address(), 1 << 30);
    let key = made.founder.clone();
    let member = Member::new(&made, &key, &[]);
    let wrong = cobox_net::PeerId::from_bytes(&address.peer_id).expect("valid");
    member.node.set_peers(member.no, vec![address]);
    until("the error is shown", || {
        member.peer(wrong).is_some_and(|status| {
            status.session == SessionState::Offline
                && status.error.as_ref().is_some_and(|text| text.contains("another peer"))
        })
    });
    member.node.shutdown();
}

#[test]
fn second_seeder_on_one_data_folder_is_refused() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::new(dir.path(), TCP);
    let options = cobox_net::seeder::RunOptions {
        pace: seeder.pace,
        data: seeder.data.clone(),
        listen: vec![TCP.to_owned()],
        announce: Vec::new(),
        lan: LanDiscovery::Off,
        accept: Accept::Any,
        http: None,
    };
    let failure =
        cobox_net::seeder::run(&options, &std::sync::Arc::default()).expect_err("the first one runs");
    assert!(failure.text.contains("already running"), "{}", failure.text);
}

#[test]
fn seeder_is_reached_by_a_name_that_it_announces() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let port =
        std::net::TcpListener::bind(("127.0.0.1", 0)).expect("binds").local_addr().expect("bound").port();
    let mut seeder = Seeding::new(dir.path(), TCP);
    seeder.stop();
    seeder.listen = vec![format!("/ip4/127.0.0.1/tcp/{port}")];
    seeder.announce = vec![format!("/dns4/localhost/tcp/{port}")];
    seeder.start();
    let mut address = seeder.address();
    assert_eq!(address.addresses.len(), 2, "the name, and where it listens");
    address.addresses.truncate(1);
    let mut made = Made::new(14);
    made.grant(&address, 1 << 30);
    let key = made.founder.clone();
    let member = Member::new(&made, &key, &[]);
    member.node.set_peers(member.no, vec![address]);
    member.wait_caught_up(seeder.peer());
    member.node.shutdown();
}

#[test]
fn name_that_is_no_multiaddress_is_not_announced() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let options = cobox_net::seeder::RunOptions {
        pace: Pace { every: SEEDER_EVERY, bytes_per_s: 1 << 20 },
        data: dir.path().to_owned(),
        listen: vec![TCP.to_owned()],
        announce: vec!["box.example.org".to_owned()],
        lan: LanDiscovery::Off,
        accept: Accept::Any,
        http: None,
    };
    let failure = cobox_net::seeder::run(&options, &std::sync::Arc::default()).expect_err("it is not usable");
    assert!(failure.text.contains("box.example.org"), "{}", failure.text);
}

#[test]
fn seeder_that_starts_while_somebody_looks_at_its_store_waits_for_it() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let looked_at = cobox_net::seeder::open_store(dir.path()).expect("makes one");
    let data = dir.path().to_owned();
    let starts = std::thread::spawn(move || cobox_net::seeder::open_store(&data).map(drop));
    // Long enough for a failure to show, and no more: one that comes late waits for nothing.
    std::thread::park_timeout(std::time::Duration::from_millis(100));
    assert!(!starts.is_finished(), "it did not wait");
    drop(looked_at);
    assert!(starts.join().expect("no panic").is_ok());
}

/// A measurement: `COBOX_SOAK=1`, alone, with `--nocapture`.
#[test]
fn gibibyte_to_a_seeder_is_timed() {
    if std::env::var_os("COBOX_SOAK").is_none() {
        println!("skipped: gibibyte_to_a_seeder_is_timed is a measurement");
        return;
    }
    for transport in [TCP, QUIC] {
        let dir = tempfile::tempdir().expect("temporary folder");
        let seeder = Seeding::new(dir.path(), transport);
        let mut made = Made::new(12);
        made.grant(&seeder.address(), 4 << 30);
        let key = made.founder.clone();
        let mut member = Member::new(&made, &key, &[]);
        for at in 0..128 {
            member.write(&[bytes(at, 8 * MIB)]);
        }
        let start = Instant::now();
        member.node.set_peers(member.no, vec![seeder.address()]);
        member.wait_caught_up(seeder.peer());
        println!("{transport}: {:.0} MB/s", 1073.7 / start.elapsed().as_secs_f64());
        member.node.shutdown();
    }
}

#[test]
fn eight_members_that_audit_one_seeder_at_one_moment_all_have_their_proof() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::new(dir.path(), TCP);
    let mut made = Made::new(40);
    made.grant(&seeder.address(), 1 << 30);
    let keys: Vec<SigningKey> = (0..7).map(|at| SigningKey::from_bytes(&[40 + at; 32])).collect();
    keys.iter().for_each(|key| drop(made.admit(key)));
    let founder = made.founder.clone();
    let mut members: Vec<Member> =
        [&founder].into_iter().chain(&keys).map(|key| Member::new(&made, key, &[])).collect();
    members[0].write(&[bytes(1, MIB), bytes(2, 4096)]);
    for member in &members {
        member.node.set_peers(member.no, vec![seeder.address()]);
        member.wait_caught_up(seeder.peer());
    }
    until("all have the entry", || {
        members.iter().all(|member| member.store.log_heads(member.no).is_ok_and(|heads| !heads.is_empty()))
    });
    // Each asks twice, as a `wait` and a chore of one device do.
    let peer = seeder.peer();
    let audit = |member: &Member| member.node.audit(member.no, peer).is_ok_and(|receipt| receipt.is_whole());
    let audit = &audit;
    let proofs: Vec<bool> = std::thread::scope(|threads| {
        let asked: Vec<_> =
            members.iter().chain(&members).map(|member| threads.spawn(move || audit(member))).collect();
        asked.into_iter().map(|one| one.join().expect("does not panic")).collect()
    });
    assert_eq!(proofs, [true; 16]);
    members.iter().for_each(|member| member.node.shutdown());
}

/// Writes, releases and audits at once, again and again: whether each answer was taken for what it is.
#[test]
fn audit_in_the_moment_of_a_release_takes_an_honest_seeder_for_no_liar() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let seeder = Seeding::new(dir.path(), TCP);
    let mut made = Made::new(60);
    made.grant(&seeder.address(), 1 << 30);
    let key = made.founder.clone();
    let mut member = Member::new(&made, &key, &[]);
    member.node.set_peers(member.no, vec![seeder.address()]);
    let rounds = if std::env::var_os("COBOX_SOAK").is_some() { 2_000 } else { 40 };
    let (mut proved, mut behind) = (0, 0);
    for round in 0..rounds {
        if round % 20 == 19 {
            // A peer answers 64 questions over one connection, and then four a second.
            member.restart();
            member.node.set_peers(member.no, vec![seeder.address()]);
        }
        let packs = member.write(&[bytes(3 * round, 4096), bytes(3 * round + 1, 64 << 10)]);
        member.wait_caught_up(seeder.peer());
        let release = made.release(member.seq, &packs[..1]);
        member.store.access_add(member.no, &release).expect("an admin's");
        // The seeder may or may not have heard of it.
        for _ in 0..2 {
            let receipt = member.node.audit(member.no, seeder.peer()).expect("it holds everything");
            let mut live = Vec::new();
            member.store.packs_live(member.no, &mut |pack, _| live.push(pack.id)).expect("reads");
            live.sort_unstable();
            let covers = receipt.live_set_digest == live_set_digest(&live);
            *(if covers { &mut proved } else { &mut behind }) += 1;
        }
    }
    println!("{proved} proofs of what is live, {behind} of what was");
    assert!(proved > 0 && proved + behind == 2 * rounds);
    member.node.shutdown();
}
