//! Strangers that have a seeder keep what nobody reads: windows that they made grow, and frames of a byte each.

use futures::io::{ReadHalf, WriteHalf};

use super::*;

const PING_PROTOCOL: &str = "/ipfs/ping/1.0.0";
/// How much more a connection may have the seeder take: what it keeps, and what is left over from bursts.
const CONNECTION_BYTES: u64 = 8 << 20;
/// A window as it begins.
const WINDOW_BYTES: u64 = 256 << 10;

fn resident(rig: &Rig) -> u64 {
    resident_bytes(rig.pid(), "VmRSS")
}

struct Filled {
    /// Bytes of pings that came back.
    answered: u64,
    /// Bytes that were taken after that.
    sent: u64,
    _stream: (ReadHalf<SubstreamBox>, WriteHalf<SubstreamBox>),
}

/// Sends pings and reads the answers until the seeder's window has grown; then reads no more, and sends what is taken.
async fn fill(stream: SubstreamBox) -> Filled {
    const PINGS: usize = 2048;
    /// Yamux believes for ten seconds that a round trip takes as long as the peer was idle for.
    const GROW: Duration = Duration::from_secs(8);
    const FULL: Duration = Duration::from_secs(2);
    let (pings, mut answers) = (vec![9; PINGS * 32], vec![0; PINGS * 32]);
    let started = Instant::now();
    let (mut read, mut write) = stream.split();
    let grown = async {
        while started.elapsed() < GROW {
            write.write_all(&pings).await.ok()?;
            write.flush().await.ok()?;
        }
        Some(())
    };
    let mut answered = 0;
    let reading = async {
        while let Ok(count @ 1..) = read.read(&mut answers).await {
            answered += count as u64;
        }
    };
    tokio::select! { _ = grown => {}, () = reading => {} }
    let mut sent = 0;
    while let Ok(Ok(())) = tokio::time::timeout(FULL, write.write_all(&pings)).await {
        sent += pings.len() as u64;
    }
    Filled { answered, sent, _stream: (read, write) }
}

#[test]
fn strangers_that_make_windows_grow_and_fill_them_take_little_memory() {
    const PEERS: u64 = 4;
    /// A round trip of this makes every burst on loopback seem to take less than two.
    const IDLE: Duration = Duration::from_secs(4);
    let rig = Rig::new();
    let runtime = runtime();
    let before = resident(&rig);
    let (peers, filled) = runtime.block_on(async {
        let mut peers = Vec::new();
        for _ in 0..PEERS {
            peers.push(Stranger::connect_idle(&rig.address, IDLE).await.expect("it listens"));
        }
        let filled = peers.iter().map(|peer| async move {
            let stream = peer.protocol(PING_PROTOCOL).await.expect("it answers pings");
            fill(stream).await
        });
        let filled = futures::future::join_all(filled).await;
        (peers, filled)
    });
    let grown = resident(&rig).saturating_sub(before);
    let (answered, sent) =
        filled.iter().fold((0, 0), |(answered, sent), one| (answered + one.answered, sent + one.sent));
    println!("{} KiB were answered, {} more taken", answered >> 10, sent >> 10);
    println!("the seeder grew by {} MiB", grown >> 20);
    assert!(answered > PEERS * WINDOW_BYTES, "the attack did not take place");
    assert!(grown < PEERS * CONNECTION_BYTES, "the seeder grew by {} MiB", grown >> 20);
    rig.assert_sound();
    drop((peers, filled));
}

/// Writes frames of one byte for as long as they are taken.
async fn dribble(mut stream: SubstreamBox) -> (SubstreamBox, u64) {
    const FRAMES: u64 = 250_000;
    const FULL: Duration = Duration::from_secs(2);
    let mut sent = 0;
    while sent < FRAMES && matches!(tokio::time::timeout(FULL, stream.write_all(b"x")).await, Ok(Ok(()))) {
        sent += 1;
    }
    (stream, sent)
}

#[test]
fn stranger_that_sends_frames_of_one_byte_takes_little_memory() {
    /// On as many the seeder waits for greetings, at least; of what comes after them it reads nothing.
    const GREETINGS: usize = 8;
    /// With three of the seeder's own not more than a connection may have.
    const STREAMS: usize = 12;
    let rig = Rig::new();
    let mut member = rig.member(51, 1 << 30);
    let runtime = runtime();
    let before = resident(&rig);
    let (peers, dribbled) = runtime.block_on(async {
        let peer = Stranger::connect(&rig.address).await.expect("it listens");
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let mut stream = peer.stream().await.expect("a stream");
            // A greeting that does not go on.
            stream.write_all(b"\x13").await.expect("it is taken");
            streams.push(stream);
        }
        let dribbled = streams.split_off(GREETINGS).into_iter().map(dribble);
        let dribbled = futures::future::join_all(dribbled).await;
        ((peer, streams), dribbled)
    });
    let grown = resident(&rig).saturating_sub(before);
    let sent: u64 = dribbled.iter().map(|(_, sent)| sent).sum();
    println!("{sent} frames were written; the seeder grew by {} MiB", grown >> 20);
    assert!(sent > 1000 && !peers.0.is_gone(), "the attack did not take place");
    assert!(grown < CONNECTION_BYTES, "the seeder grew by {} MiB", grown >> 20);
    member.write(&[bytes(51, PACK_BYTES)]);
    member.wait_caught_up(rig.peer);
    rig.assert_sound();
    drop((peers, dribbled));
}
