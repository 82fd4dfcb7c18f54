//! Hostile peers and members against the seeder that ships, over real sockets: memory stays under its cap,
//! nothing panics, the disk stays within the quota, and a member of another folder goes on.
//!
//! `docs/threat-model.md` has these and all other attacks in one table.

#[path = "../../../cobox-net/tests/common/mod.rs"]
mod common;
mod crowded;
mod guess;
mod removed;
mod session;
mod slow;
mod stranger;
mod windows;

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use cobox_net::PeerId;
use cobox_net::wire::{BULK_PROTOCOL, CONTROL_PROTOCOL, Frame, decode_frame};
use cobox_store::format::address::SeederAddress;
use cobox_tests::http::{exchange, request, unix};
use cobox_tests::load::Rng;
use cobox_tests::memory::resident_bytes;
use cobox_tests::process::{Seeder, until};
use common::{Made, Member, bytes};
use ed25519_dalek::SigningKey;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::core::muxing::SubstreamBox;
use stranger::Stranger;

/// What a seeder may take under attack: the unit's `MemoryHigh=`.
const MEMORY_CAP_BYTES: u64 = 512 << 20;
/// What the member of another folder writes in one measurement, and how often it is taken: the median says more than one.
const WRITE_BYTES: usize = 24 << 20;
const MEASUREMENTS: usize = 5;
/// Connections of the crowd.
const PEERS: usize = 150;
/// One pack of it.
const PACK_BYTES: usize = 2 << 20;

fn soak() -> usize {
    std::env::var("COBOX_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

struct Rig {
    seeder: Seeder,
    address: SeederAddress,
    peer: PeerId,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut seeder = Seeder::new(dir.path(), "seeder");
        seeder.start_with(&[("COBOX_LOG", "warn")]);
        let address = SeederAddress::from_text(&seeder.address()).expect("an address");
        let peer = PeerId::from_bytes(&address.peer_id).expect("a peer id");
        Self { seeder, address, peer, _dir: dir }
    }

    fn pid(&self) -> u32 {
        self.seeder.pid().expect("it runs")
    }

    /// A member whose folder the seeder holds.
    fn member(&self, seed: u64, quota_bytes: u64) -> Member {
        let mut made = Made::new(seed);
        made.grant(&self.address, quota_bytes);
        let key = made.founder.clone();
        self.connected(&made, &key)
    }

    /// A device of a folder that was granted to the seeder.
    fn connected(&self, made: &Made, key: &SigningKey) -> Member {
        let member = Member::new(made, key, &[]);
        member.node.set_peers(member.no, vec![self.address.clone()]);
        until("the folder is held", || {
            member.peer(self.peer).is_some_and(|peer| peer.session == cobox_net::SessionState::Open)
        });
        member
    }

    /// How fast a member's packs reach the seeder, in MB/s.
    fn rate(&self, member: &mut Member, seed: u64) -> f64 {
        let mut rates: Vec<f64> =
            (0..MEASUREMENTS as u64).map(|round| self.rate_once(member, 100 * seed + round)).collect();
        rates.sort_by(f64::total_cmp);
        rates[MEASUREMENTS / 2]
    }

    fn rate_once(&self, member: &mut Member, seed: u64) -> f64 {
        let started = Instant::now();
        for number in 0..WRITE_BYTES / PACK_BYTES {
            member.write(&[bytes(seed * 1000 + number as u64, PACK_BYTES)]);
        }
        member.wait_caught_up(self.peer);
        WRITE_BYTES as f64 / 1e6 / started.elapsed().as_secs_f64()
    }

    fn metric(&self, begin: &str) -> u64 {
        let socket = self.seeder.data.join("api.sock");
        let answer = exchange(unix(&socket), &request("GET", "/metrics", &[], None));
        let value = answer.body.lines().find_map(|line| line.strip_prefix(begin)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {begin}: {}", answer.body))
    }

    /// It lives, it took no more memory than it may, and nothing in it panicked.
    fn assert_sound(&self) {
        let peak = resident_bytes(self.pid(), "VmHWM");
        println!("peak {} MiB", peak >> 20);
        assert!(peak < MEMORY_CAP_BYTES, "the seeder took {} MiB", peak >> 20);
        let log = std::fs::read_to_string(self.seeder.data.with_extension("log")).expect("reads");
        assert!(!log.contains("panicked"), "{log}");
    }

    fn port(&self) -> Option<u16> {
        let text = self.address.addresses.first()?;
        // A binary multiaddress of TCP over IPv4: code 4, four bytes, code 6, two bytes.
        Some(u16::from_be_bytes([*text.get(6)?, *text.get(7)?]))
    }

    fn tcp(&self) -> Option<TcpStream> {
        TcpStream::connect(("127.0.0.1", self.port()?)).ok()
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a length").to_le_bytes()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts")
}

/// Sockets that say nothing, or nonsense, or half a handshake.
fn crowd_of_sockets(rig: &Rig) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for number in 0..400 {
        let Some(mut stream) = rig.tcp() else { continue };
        let begin: &[u8] = match number % 4 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\n\r\n",
            // Multistream's and Noise's names, and then nothing.
            2 => b"\x13/multistream/1.0.0\n\x07/noise\n",
            _ => b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff",
        };
        drop(stream.write_all(begin));
        held.push(stream);
    }
    held
}

/// Connections that are there to take memory: streams on which nothing is agreed, each filled to its window, and
/// large frames that are begun and never ended.
async fn crowd_of_peers(address: &SeederAddress) -> Vec<(Stranger, Vec<SubstreamBox>)> {
    let mut peers = Vec::new();
    // One after the other: from one address so many handshakes are not taken at once.
    for _ in 0..PEERS {
        peers.extend(Stranger::connect(address).await);
    }
    let crowd = peers.into_iter().enumerate().map(|(number, peer)| greedy_peer(peer, number));
    futures::future::join_all(crowd).await
}

async fn greedy_peer(peer: Stranger, number: usize) -> (Stranger, Vec<SubstreamBox>) {
    /// It stops reading at some point, which is not waited for.
    const SEND_WAIT: Duration = Duration::from_millis(200);
    let mut streams = Vec::new();
    if number.is_multiple_of(2) {
        for number in 0..40 {
            let Some(mut stream) = peer.stream().await else { break };
            // A name that does not end, or half of a greeting.
            let name = [&[0xff, 0x7f][..], &vec![b'x'; 200 << 10]].concat();
            let begun = if number % 2 == 0 { b"\x13/multistream/1.0.0\n\x20".to_vec() } else { name };
            drop(tokio::time::timeout(SEND_WAIT, stream.write_all(&begun)).await);
            drop(tokio::time::timeout(SEND_WAIT, stream.flush()).await);
            streams.push(stream);
        }
    } else if let Some(mut stream) = peer.protocol(CONTROL_PROTOCOL).await {
        let hello = Frame::Hello { nonce: [7; 32] }.encode();
        let begun = [&length(hello.len())[..], &hello, &length(1 << 20), &vec![0; 1_000_000]].concat();
        drop(tokio::time::timeout(SEND_WAIT, stream.write_all(&begun)).await);
        streams.push(stream);
    }
    (peer, streams)
}

#[test]
fn crowd_of_strangers_takes_neither_the_memory_nor_the_members_place() {
    let rig = Rig::new();
    let mut member = rig.member(1, 1 << 30);
    let alone = rig.rate(&mut member, 1);
    let runtime = runtime();
    let peers = runtime.block_on(crowd_of_peers(&rig.address));
    let sockets = crowd_of_sockets(&rig);
    println!("{} sockets and {} peers are connected", sockets.len(), peers.len());
    assert!(peers.len() > PEERS / 2, "the attack did not take place");
    let crowded = rig.rate(&mut member, 2);
    println!("{alone:.0} MB/s alone, {crowded:.0} MB/s in the crowd: {:.0} %", 100.0 * crowded / alone);
    assert!(member.node.audit(member.no, rig.peer).is_ok(), "it proves nothing any more");
    assert!(rig.metric("cobox_refusals_total{what=\"connection\"}") > 0, "nobody had to go");
    rig.assert_sound();
    drop((sockets, peers));
}

/// So many hosts, as far as a seeder can see, that keep many handshakes begun for as long as it is polled.
async fn flood_of_handshakes(port: u16, hosts: u8) {
    const BEGUN: usize = 300;
    let mut host = (0..hosts).map(|host| 2 + host).cycle();
    let mut begun: Vec<tokio::net::TcpStream> = Vec::new();
    let mut round = tokio::time::interval(Duration::from_millis(50));
    loop {
        round.tick().await;
        // Those that were refused or took too long are begun again.
        begun.retain(|stream| {
            matches!(stream.try_read(&mut [0; 64]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        });
        while begun.len() < BEGUN {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            let from = [127, 0, 0, host.next().expect("there is one")];
            socket.bind((from, 0).into()).expect("all of 127/8 is this machine");
            match socket.connect(([127, 0, 0, 1], port).into()).await {
                Ok(stream) => begun.push(stream),
                Err(_) => break,
            }
        }
    }
}

/// Newcomers come while so many hosts begin handshakes.
fn come_beside_a_flood(hosts: u8) {
    const NEWCOMERS: usize = 20;
    let rig = Rig::new();
    let runtime = runtime();
    let flood = runtime.spawn(flood_of_handshakes(rig.port().expect("it listens"), hosts));
    until("the flood is there", || rig.metric("cobox_refusals_total{what=\"connection\"}") > 100);
    // One try each: who dials again and again finds a place when the seeder gives up on handshakes.
    let came = (0..NEWCOMERS).filter(|_| runtime.block_on(Stranger::connect(&rig.address)).is_some()).count();
    println!("{came} of {NEWCOMERS} newcomers came in beside {hosts} hosts");
    assert_eq!(came, NEWCOMERS, "newcomers were kept out");
    let mut member = rig.member(9, 1 << 30);
    member.write(&[bytes(9, PACK_BYTES)]);
    member.wait_caught_up(rig.peer);
    assert!(!flood.is_finished(), "the flood had ended");
    rig.assert_sound();
}

#[test]
fn handshakes_begun_without_end_keep_no_newcomer_out() {
    come_beside_a_flood(1);
}

#[test]
fn handshakes_begun_without_end_from_many_addresses_keep_no_newcomer_out() {
    come_beside_a_flood(24);
}

/// Whether the other side ends a stream after this.
async fn is_ended(mut stream: SubstreamBox, sent: &[u8]) -> bool {
    if stream.write_all(sent).await.is_err() || stream.flush().await.is_err() {
        return true;
    }
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.is_ok()
}

#[test]
fn garbage_and_huge_lengths_end_the_connection_and_nothing_else() {
    let rig = Rig::new();
    let mut member = rig.member(3, 1 << 30);
    let seed = 11;
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    let hello = Frame::Hello { nonce: [7; 32] }.encode();
    runtime().block_on(async {
        for round in 0..60 * soak() {
            let protocol = if round % 3 == 2 { BULK_PROTOCOL } else { CONTROL_PROTOCOL };
            let greeting = [&length(hello.len())[..], &hello].concat();
            let size = usize::try_from(rng.below(3000)).expect("short") + 1;
            let mut frame = rng.bytes(size);
            // Every type there is, and some that are none.
            frame[0] = u8::try_from(round % 96).expect("a byte");
            // By luck it may be a frame, for a session that does not exist: that one is passed over.
            let is_frame = matches!(round % 6, 1 | 4) && decode_frame(&frame).is_ok();
            let sent = match round % 6 {
                0 => [&greeting[..], &length(1 << 31)].concat(),
                2 => length(1 << 20).to_vec(),
                3 => [&length(0)[..]].concat(),
                5 => [&length(frame.len())[..], &frame].concat(),
                _ => [&greeting[..], &length(frame.len()), &frame].concat(),
            };
            let peer = Stranger::connect(&rig.address).await.expect("it listens");
            let stream = peer.protocol(protocol).await.expect("it speaks");
            assert!(
                is_frame || is_ended(stream, &sent).await,
                "round {round}: {protocol} goes on after {:?}",
                &sent[..8.min(sent.len())]
            );
        }
    });
    assert!(rig.metric("cobox_refusals_total{what=\"frame\"}") > 20, "nothing was refused");
    member.write(&[bytes(5, PACK_BYTES)]);
    member.wait_caught_up(rig.peer);
    rig.assert_sound();
}

fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn tiny_entries_and_packs_stop_at_the_quota() {
    /// What RocksDB keeps beside the data: its logs, and files that a compaction is about to drop.
    const OVERHEAD_BYTES: u64 = 96 << 20;
    const QUOTA_BYTES: u64 = 1 << 20;
    let rig = Rig::new();
    let mut other = rig.member(5, 1 << 30);
    let alone = rig.rate(&mut other, 5);
    let mut greedy = rig.member(4, QUOTA_BYTES);
    // Some 400 bytes each: the quota is reached after some 2,500.
    let entries = 4000 * soak();
    for number in 0..entries {
        match number % 50 {
            0 => drop(greedy.write(&[bytes(number as u64, 4096)])),
            _ => greedy.enter(&[]),
        }
    }
    until("the quota is reached", || rig.metric("cobox_refusals_total{what=\"quota\"}") > 0);
    let crowded = rig.rate(&mut other, 6);
    println!("{alone:.0} MB/s alone, {crowded:.0} MB/s beside it: {:.0} %", 100.0 * crowded / alone);
    let label = &greedy.folder.to_hex()[..8];
    let held = rig.metric(&format!("cobox_grant_bytes{{folder=\"{label}\"}}"));
    assert!(held <= QUOTA_BYTES, "{held} bytes are held");
    let lawful = (2 * MEASUREMENTS * WRITE_BYTES) as u64 + QUOTA_BYTES;
    let disk = disk_bytes(&rig.seeder.data);
    println!("{} MiB on the disk for {} MiB", disk >> 20, lawful >> 20);
    assert!(disk < lawful + OVERHEAD_BYTES, "{disk} bytes on the disk");
    rig.assert_sound();
}

/// The other half of it: a million entries that the quota allows. All are taken, and cost the seeder no memory for each.
#[test]
fn million_tiny_entries_within_the_quota_are_taken_and_leave_memory_and_others_their_place() {
    /// What RocksDB keeps beside the data: its logs, files that a compaction is about to drop, and rows of an index.
    const OVERHEAD_BYTES: u64 = 128 << 20;
    let entries: u64 = if std::env::var_os("COBOX_SOAK").is_some() { 1_000_000 } else { 5_000 };
    let rig = Rig::new();
    let mut other = rig.member(5, 1 << 30);
    let alone = rig.rate(&mut other, 5);
    let mut member = rig.member(4, 1 << 30);
    let mut crowded = Vec::new();
    for number in 0..entries {
        match number % 100 {
            0 => drop(member.write(&[bytes(number, 4096)])),
            _ => member.enter(&[]),
        }
        // What it does to the others is seen in the midst of it.
        if number % (entries / 2) == entries / 4 {
            crowded.push(rig.rate_once(&mut other, 700 + number));
        }
    }
    let head = member.store.log_heads(member.no).expect("reads")[0].seq;
    member.wait_for(rig.peer, Duration::from_secs(1800));
    println!("{head} entries; {alone:.0} MB/s alone, {crowded:.0?} MB/s beside it");
    assert_eq!(head, entries);
    let label = &member.folder.to_hex()[..8];
    let held = rig.metric(&format!("cobox_grant_bytes{{folder=\"{label}\"}}"));
    let disk = disk_bytes(&rig.seeder.data);
    println!("{} MiB are held for it, {} MiB are on the disk", held >> 20, disk >> 20);
    let lawful = ((MEASUREMENTS + crowded.len()) * WRITE_BYTES) as u64 + held;
    assert!(held >= entries * 300 && disk < 2 * lawful + OVERHEAD_BYTES, "{disk} bytes on the disk");
    // One audit asks for old entries among them, and it has them all.
    assert!(member.node.audit(member.no, rig.peer).expect("it holds them").is_whole());
    rig.assert_sound();
}
