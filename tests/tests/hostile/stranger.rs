//! A peer that keeps to no rule: bare connections, bare streams, bytes as a test gives them.
//!
//! What the other side opens is answered with its own bytes: that agrees to every protocol and answers pings, so that
//! the connection is not closed for want of it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use cobox_net::PeerId;
use cobox_store::format::address::SeederAddress;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::core::muxing::{StreamMuxer as _, StreamMuxerBox, SubstreamBox};
use libp2p::core::transport::{DialOpts, PortUse, Transport as _};
use libp2p::core::{Endpoint, upgrade::Version};
use libp2p::{Multiaddr, identity, noise, tcp, yamux};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// How long the other side may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// A connection with TCP, Noise and Yamux done, and nothing agreed above.
pub struct Stranger {
    /// Under this key.
    pub peer: PeerId,
    wanted: UnboundedSender<oneshot::Sender<SubstreamBox>>,
}

impl Stranger {
    /// Connects under a fresh key, which makes a peer id that nobody saw before.
    pub async fn connect(address: &SeederAddress) -> Option<Self> {
        Self::connect_idle(address, Duration::ZERO).await
    }

    /// Connects, and says nothing on the connection for a while, not even answers to Yamux's own pings.
    pub async fn connect_idle(address: &SeederAddress, idle: Duration) -> Option<Self> {
        tokio::time::timeout(ANSWER_WAIT, Self::dial(address, idle)).await.ok()?
    }

    async fn dial(address: &SeederAddress, idle: Duration) -> Option<Self> {
        let key = identity::Keypair::generate_ed25519();
        let public = key.public().try_into_ed25519().ok()?.to_bytes();
        let mut transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&key).expect("a key"))
            .multiplex(yamux::Config::default())
            .boxed();
        let address = Multiaddr::try_from(address.addresses.first()?.clone()).ok()?;
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let (_, muxer) = transport.dial(address, options).ok()?.await.ok()?;
        let (wanted, asked) = unbounded_channel();
        tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            drive(muxer, asked).await;
        });
        Some(Self { peer: PeerId::of_key(public), wanted })
    }

    /// Whether the connection has ended.
    pub fn is_gone(&self) -> bool {
        self.wanted.is_closed()
    }

    /// A bare stream, on which nothing was said yet.
    pub async fn stream(&self) -> Option<SubstreamBox> {
        let (sender, receiver) = oneshot::channel();
        self.wanted.send(sender).ok()?;
        receiver.await.ok()
    }

    /// A stream of one of CoBox's protocols.
    pub async fn protocol(&self, name: &str) -> Option<SubstreamBox> {
        let mut stream = self.stream().await?;
        for line in ["/multistream/1.0.0\n", &format!("{name}\n")] {
            let length = u8::try_from(line.len()).expect("a short name");
            stream.write_all(&[&[length][..], line.as_bytes()].concat()).await.ok()?;
        }
        stream.flush().await.ok()?;
        // Both lines come back.
        let mut answer = vec![0; "/multistream/1.0.0\n".len() + name.len() + 1 + 2];
        stream.read_exact(&mut answer).await.ok()?;
        Some(stream)
    }
}

/// Sends back what comes.
async fn echo(mut stream: SubstreamBox) {
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        if stream.write_all(&bytes[..count]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// Moves a connection on, and opens streams as they are wanted.
async fn drive(mut muxer: StreamMuxerBox, mut asked: UnboundedReceiver<oneshot::Sender<SubstreamBox>>) {
    let mut waiting: VecDeque<oneshot::Sender<SubstreamBox>> = VecDeque::new();
    poll_fn(|context| {
        loop {
            match asked.poll_recv(context) {
                Poll::Ready(Some(sender)) => waiting.push_back(sender),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        while !waiting.is_empty() {
            match Pin::new(&mut muxer).poll_outbound(context) {
                Poll::Ready(Ok(stream)) => {
                    let _ = waiting.pop_front().map(|sender| sender.send(stream));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        loop {
            match Pin::new(&mut muxer).poll_inbound(context) {
                Poll::Ready(Ok(stream)) => drop(tokio::spawn(echo(stream))),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        match Pin::new(&mut muxer).poll(context) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}
