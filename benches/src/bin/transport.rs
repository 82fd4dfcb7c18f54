//! What the wire alone carries between two ends on this machine: a plain TCP socket, libp2p's TCP
//! (Noise, Yamux) and libp2p's QUIC, one stream, with and without verifying each 64 KiB slice.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::pin::Pin;
use std::task::Poll;
use std::thread;
use std::time::Instant;

use cobox_benches::{load, random_bytes};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, Transport, TransportEvent};
use libp2p::core::{Endpoint, upgrade};
use libp2p::{Multiaddr, PeerId, identity, noise, quic, tcp, yamux};

const TOTAL_BYTES: usize = 512 << 20;
const MESSAGE_BYTES: usize = 256 * 1024;
const SLICE_BYTES: usize = 64 * 1024;
const RUNS: usize = 3;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    println!(
        "load {}; {} MiB in messages of 256 KiB, both ends on this machine; median of {RUNS}",
        load(),
        TOTAL_BYTES >> 20
    );
    let message = random_bytes(1, MESSAGE_BYTES);
    for verified in [Check::None, Check::Slices] {
        print("plain TCP socket", verified, &mut || plain(&message, verified))?;
        print("libp2p TCP, Noise, Yamux", verified, &mut || muxed(Wire::Tcp, &message, verified))?;
        print("libp2p QUIC", verified, &mut || muxed(Wire::Quic, &message, verified))?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Check {
    None,
    Slices,
}

#[derive(Clone, Copy)]
enum Wire {
    Tcp,
    Quic,
}

fn print(name: &str, check: Check, run: &mut dyn FnMut() -> Result<f64, Failure>) -> Result<(), Failure> {
    let mut seconds = (0..RUNS).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
    seconds.sort_by(f64::total_cmp);
    let how = match check {
        Check::None => "",
        Check::Slices => ", each slice hashed",
    };
    println!("{:<44} {:>8.0} MB/s", format!("{name}{how}"), TOTAL_BYTES as f64 / 1e6 / seconds[RUNS / 2]);
    Ok(())
}

fn examine(check: Check, bytes: &[u8]) {
    if let Check::Slices = check {
        for slice in bytes.chunks(SLICE_BYTES) {
            std::hint::black_box(blake3::hash(slice));
        }
    }
}

fn plain(message: &[u8], check: Check) -> Result<f64, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let start = Instant::now();
    thread::scope(|scope| {
        let sender = scope.spawn(move || -> std::io::Result<()> {
            let mut stream = TcpStream::connect(address)?;
            (0..TOTAL_BYTES / MESSAGE_BYTES).try_for_each(|_| stream.write_all(message))
        });
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; MESSAGE_BYTES];
        for _ in 0..TOTAL_BYTES / MESSAGE_BYTES {
            stream.read_exact(&mut buffer)?;
            examine(check, &buffer);
        }
        sender.join().expect("the sender does not panic")?;
        Ok(start.elapsed().as_secs_f64())
    })
}

fn transport(wire: Wire) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Failure> {
    let key = identity::Keypair::generate_ed25519();
    Ok(match wire {
        Wire::Tcp => tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .upgrade(upgrade::Version::V1Lazy)
            .authenticate(noise::Config::new(&key)?)
            .multiplex(yamux::Config::default())
            .boxed(),
        Wire::Quic => quic::tokio::Transport::new(quic::Config::new(&key))
            .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
            .boxed(),
    })
}

fn muxed(wire: Wire, message: &[u8], check: Check) -> Result<f64, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        let mut listener = transport(wire)?;
        let address: Multiaddr = match wire {
            Wire::Tcp => "/ip4/127.0.0.1/tcp/0".parse()?,
            Wire::Quic => "/ip4/127.0.0.1/udp/0/quic-v1".parse()?,
        };
        listener.listen_on(ListenerId::next(), address)?;
        let (found, address) = tokio::sync::oneshot::channel();
        let receiver = tokio::spawn(receive(listener, found, check));
        let mut dialer = transport(wire)?;
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dial = dialer.dial(address.await?, options).map_err(|error| error.to_string())?;
        let driver = tokio::spawn(async move {
            poll_fn(|cx| -> Poll<()> {
                let _event = Pin::new(&mut dialer).poll(cx);
                Poll::Pending
            })
            .await
        });
        let (_, muxer) = dial.await?;
        let mut stream = open(muxer, Direction::Out).await?;
        let start = Instant::now();
        for _ in 0..TOTAL_BYTES / MESSAGE_BYTES {
            stream.write_all(message).await?;
        }
        stream.flush().await?;
        let mut done = [0];
        stream.read_exact(&mut done).await?;
        let seconds = start.elapsed().as_secs_f64();
        receiver.await??;
        driver.abort();
        Ok(seconds)
    })
}

#[derive(Clone, Copy)]
enum Direction {
    In,
    Out,
}

/// The first stream of a connection; a task keeps driving the connection behind it.
async fn open(mut muxer: StreamMuxerBox, direction: Direction) -> Result<SubstreamBox, Failure> {
    let (found, stream) = tokio::sync::oneshot::channel();
    let mut found = Some(found);
    tokio::spawn(poll_fn(move |cx| {
        if found.is_some() {
            let opened = match direction {
                Direction::In => muxer.poll_inbound_unpin(cx),
                Direction::Out => muxer.poll_outbound_unpin(cx),
            };
            if let Poll::Ready(Ok(stream)) = opened {
                drop(found.take().map(|found| found.send(stream)));
            }
        }
        match muxer.poll_unpin(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }));
    Ok(stream.await?)
}

async fn receive(
    mut listener: Boxed<(PeerId, StreamMuxerBox)>,
    found: tokio::sync::oneshot::Sender<Multiaddr>,
    check: Check,
) -> Result<(), Failure> {
    let mut found = Some(found);
    let upgrade = loop {
        match poll_fn(|cx| Pin::new(&mut listener).poll(cx)).await {
            TransportEvent::NewAddress { listen_addr, .. } => {
                if let Some(found) = found.take() {
                    drop(found.send(listen_addr));
                }
            }
            TransportEvent::Incoming { upgrade, .. } => break upgrade,
            _ => {}
        }
    };
    let driver = tokio::spawn(async move {
        poll_fn(|cx| -> Poll<()> {
            let _event = Pin::new(&mut listener).poll(cx);
            Poll::Pending
        })
        .await
    });
    let (_, muxer) = upgrade.await?;
    let mut stream = open(muxer, Direction::In).await?;
    let mut buffer = vec![0; MESSAGE_BYTES];
    for _ in 0..TOTAL_BYTES / MESSAGE_BYTES {
        stream.read_exact(&mut buffer).await?;
        examine(check, &buffer);
    }
    stream.write_all(&[1]).await?;
    stream.flush().await?;
    driver.abort();
    Ok(())
}
