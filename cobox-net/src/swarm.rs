//! libp2p's transports, connections and addresses, behind plain types.
//!
//! One task owns the swarm. It hears [`Command`]s and tells [`Event`]s; streams leave it as byte streams.
//! Two peers keep one connection: where both dialed, the one dialed by the smaller peer id stays.

mod missed;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncWrite, StreamExt as _};
use libp2p::connection_limits::{Behaviour as Limits, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::upgrade::Version;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
#[cfg(test)]
use libp2p::swarm::{Config as Settings, dummy};
use libp2p::swarm::{ConnectionId, DialError, ListenError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm, Transport as _, dns, identify, identity, mdns, noise, ping, quic, tcp};
use missed::{HUNG_UP, missed};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use zeroize::Zeroizing;

use crate::behaviour::{Kind, StreamReady, Streams};
use crate::doorway::{Doorway, Width};
use crate::error::{Error, Result};
use crate::handshakes::{UNDER_WAY_MAX, Yielding, place_of};
use crate::muxer;
use crate::node::{Dialing, LanDiscovery, NetConfig};
use crate::peer_id::PeerId;
use crate::status::Transport;
use crate::sync::{Conn, Place, Side};
use crate::tally::{Refusal, Tally};

/// Connections of a whole node: more than any small box serves at once, fewer than its file descriptors.
const CONNECTIONS_MAX: u32 = 4096;
/// Inbound connections whose handshake is under way over TCP and QUIC, and as many that gave way (`handshakes.rs`) and
/// whose end libp2p has not seen yet.
const PENDING_MAX: u32 = 2 * 2 * UNDER_WAY_MAX as u32;
/// How long a handshake may take.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Inbound connections that opened no control stream yet: each may fill the windows of a few streams, so more
/// of them would take more memory than a small box has. A dialer opens the stream in the same breath in which it ends the
/// handshake: an honest one is there within three round trips over a satellite (0.6 s each), and speaks as soon as the node
/// has read what it said. The longer strangers say nothing, the fewer newcomers find a place: at least 32 in a second.
pub const SILENT: Width = Width { most: 64, per_place: 32, patience: Duration::from_secs(2) };
/// Inbound streams of one connection that agree on a protocol at once: control, bulk, ping and identify's two. Each
/// holds a window of 256 KiB before anybody looks at it; libp2p's own limit is 128.
const NEGOTIATING_MAX: usize = 6;
/// Two while both sides dialed, and one being replaced.
const CONNECTIONS_PER_PEER: u32 = 3;
/// QUIC's window for one stream: 2.5 MB fill 1 Gbit/s at 20 ms, and 10 MB overshoot (measured).
const QUIC_STREAM_WINDOW: u32 = 2_500_000;
/// Streams of one connection together: two bulk streams and control.
const QUIC_CONNECTION_WINDOW: u32 = 6_000_000;
/// How often a connection is pinged: shows round trips, and finds dead connections (`link.rs`).
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a ping may take: packs on a slow line may be in front of the answer.
const PING_WAIT: Duration = Duration::from_secs(15);
/// How often the local network is asked who is there, besides at the start: finds who came while a cable was
/// pulled.
const LAN_QUERY_EVERY: Duration = Duration::from_secs(30);

/// A stream without libp2p's types.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
/// See [`Duplex`].
pub type ByteStream = Pin<Box<dyn Duplex>>;

/// What the swarm is told.
pub enum Command {
    /// Dial a peer at binary multiaddresses.
    Dial { peer: PeerId, addresses: Vec<Vec<u8>> },
    /// Close a connection.
    Close { conn: Conn },
    /// Close everything and end.
    Stop,
}

/// How a connection came about, and where from.
#[derive(Clone, Copy)]
pub struct Way {
    pub transport: Transport,
    pub place: Place,
}

/// What the swarm tells.
pub enum Event {
    /// A stream of a connection is ready.
    Stream { conn: Conn, peer: PeerId, side: Side, way: Way, kind: Kind, stream: ByteStream },
    /// A connection is being closed, which takes a while where the peer takes nothing.
    Ending { conn: Conn },
    /// A connection ended.
    Down { conn: Conn },
    /// Dialing failed; why, as a sentence.
    DialFailed { peer: PeerId, error: String },
    /// The peer was reached, and hung up before a word was said.
    HungUp { peer: PeerId, error: String },
    /// A ping came back.
    Rtt { conn: Conn, rtt: Duration },
    /// Where others may reach us changed.
    Listening { addresses: Vec<Vec<u8>> },
    /// A peer is on the local network, at these addresses beside others.
    Seen { peer: PeerId, addresses: Vec<Vec<u8>> },
    /// It is no longer at these.
    Unseen { peer: PeerId, addresses: Vec<Vec<u8>> },
}

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
struct Behaviour {
    // First, so that a connection too many is refused before anybody hears of it.
    limits: Limits,
    streams: Streams,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    lan: Toggle<mdns::tokio::Behaviour>,
}

/// Addresses that are listened on: binary and text.
pub type Listening = Arc<Mutex<Vec<(Vec<u8>, String)>>>;

/// A swarm that listens and is not run yet.
pub struct Idle {
    swarm: Swarm<Behaviour>,
    dialing: Dialing,
    listening: Listening,
    tally: Arc<Tally>,
}

struct Known {
    conn: Conn,
    peer: PeerId,
    side: Side,
    way: Way,
    /// Whether its control stream is there.
    speaks: bool,
    /// Its number among those that say nothing yet, where the peer dialed.
    silent: Option<u64>,
}

/// Base58 of a peer id's bytes; hex where they are none.
pub fn peer_text(bytes: &[u8]) -> String {
    libp2p::PeerId::from_bytes(bytes).map_or_else(|_| cobox_store::id::hex(bytes), |peer| peer.to_base58())
}

/// What [`peer_text`] writes, read back.
pub fn peer_bytes(text: &str) -> Option<Vec<u8>> {
    text.parse::<libp2p::PeerId>().ok().map(libp2p::PeerId::to_bytes)
}

/// The verifying key's peer id of an Ed25519 seed.
pub fn peer_of_seed(seed: &Zeroizing<[u8; 32]>) -> PeerId {
    PeerId::of_key(ed25519_dalek::SigningKey::from_bytes(seed).verifying_key().to_bytes())
}

/// Builds the transports and listens.
///
/// # Errors
/// When an address is not usable or is in use.
pub fn listen(seed: &Zeroizing<[u8; 32]>, config: &NetConfig, tally: Arc<Tally>) -> Result<Idle> {
    let mut copy = Zeroizing::new(**seed);
    let key = identity::Keypair::ed25519_from_bytes(&mut copy[..]).expect("32 bytes are a seed");
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_established(Some(CONNECTIONS_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER));
    let public = key.public();
    let behaviour = Behaviour {
        limits: Limits::new(limits),
        streams: Streams::default(),
        identify: identify::Behaviour::new(
            identify::Config::new("/cobox/1".to_owned(), public.clone())
                .with_agent_version("cobox/1".to_owned())
                .with_hide_listen_addrs(true),
        ),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_EVERY).with_timeout(PING_WAIT)),
        lan: look_around(config.lan, public.to_peer_id()).into(),
    };
    let settings = libp2p::swarm::Config::with_tokio_executor();
    let settings = settings.with_max_negotiating_inbound_streams(NEGOTIATING_MAX);
    let transport = transport(&key, Arc::clone(&tally))?;
    let mut swarm = Swarm::new(transport, behaviour, public.to_peer_id(), settings);
    let mut addresses: Vec<(&String, Multiaddr)> = Vec::new();
    for text in &config.listen {
        addresses.push((text, usable(text)?));
    }
    // All before the first is listened on: IPv6 on all addresses takes IPv4 with it where it is only tried.
    if let Some((text, _)) = addresses.iter().find(|(_, address)| is_taken(address)) {
        return Err(Error::Taken { address: (*text).clone() });
    }
    for (text, address) in addresses {
        let bad = || Error::BadAddress { text: text.clone() };
        swarm.listen_on(address).map_err(|error| match error {
            libp2p::TransportError::MultiaddrNotSupported(_) => bad(),
            libp2p::TransportError::Other(source) => Error::Listen { address: text.clone(), source },
        })?;
    }
    Ok(Idle { swarm, dialing: config.dialing, listening: Arc::default(), tally })
}

/// TCP and QUIC, to addresses and to names.
fn transport(key: &identity::Keypair, tally: Arc<Tally>) -> Result<Boxed<(libp2p::PeerId, StreamMuxerBox)>> {
    let other = |error: noise::Error| Error::Transport(std::io::Error::other(error));
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key).map_err(other)?)
        .multiplex(muxer::Upgrade)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let mut config = quic::Config::new(key);
    config.max_stream_data = QUIC_STREAM_WINDOW;
    config.max_connection_data = QUIC_CONNECTION_WINDOW;
    let quic = quic::tokio::Transport::new(config).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let both = tcp.or_transport(quic).map(|opened, _| opened.into_inner());
    let named = dns::tokio::Transport::system(both).map_err(Error::Transport)?;
    Ok(TransportTimeout::new(Yielding::around(named.boxed(), tally), HANDSHAKE_WAIT).boxed())
}

/// Whether somebody listens there: libp2p would share a TCP port with another that shares it too, and take over half of
/// its connections.
fn is_taken(address: &Multiaddr) -> bool {
    let ip = address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::from(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::from(ip)),
        _ => None,
    });
    let Some(ip) = ip else { return false };
    let tried = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(TcpListener::bind((ip, port)).map(drop)),
        Protocol::Udp(port) => Some(UdpSocket::bind((ip, port)).map(drop)),
        _ => None,
    });
    // Whatever else is wrong with it, listening says.
    matches!(tried, Some(Err(error)) if error.kind() == ErrorKind::AddrInUse)
}

fn look_around(lan: LanDiscovery, me: libp2p::PeerId) -> Option<mdns::tokio::Behaviour> {
    if lan == LanDiscovery::Off {
        return None;
    }
    let config = mdns::Config { query_interval: LAN_QUERY_EVERY, ..mdns::Config::default() };
    mdns::tokio::Behaviour::new(config, me)
        .map_err(|error| tracing::warn!(%error, "peers on the local network cannot be looked for"))
        .ok()
}

/// Addresses that are worth telling others: not those of this machine alone, unless there are no others.
fn shareable(listening: &[(Vec<u8>, String)]) -> Vec<Vec<u8>> {
    let parsed = listening.iter().filter_map(|(bytes, _)| Multiaddr::try_from(bytes.clone()).ok());
    let (local, others): (Vec<Multiaddr>, Vec<Multiaddr>) = parsed
        .filter(|address| {
            let useless = |part: Protocol<'_>| match part {
                Protocol::Ip4(ip) => ip.is_unspecified() || ip.is_link_local(),
                Protocol::Ip6(ip) => ip.is_unspecified() || ip.is_unicast_link_local(),
                _ => false,
            };
            !address.iter().any(useless)
        })
        .partition(|address| {
            address.iter().any(|part| match part {
                Protocol::Ip4(ip) => ip.is_loopback(),
                Protocol::Ip6(ip) => ip.is_loopback(),
                _ => false,
            })
        });
    let chosen = if others.is_empty() { local } else { others };
    chosen.iter().map(Multiaddr::to_vec).collect()
}

/// An address without the peer id at its end.
fn without_peer(mut address: Multiaddr) -> Vec<u8> {
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address.to_vec()
}

fn by_peer(found: Vec<(libp2p::PeerId, Multiaddr)>) -> BTreeMap<PeerId, Vec<Vec<u8>>> {
    let mut of: BTreeMap<PeerId, Vec<Vec<u8>>> = BTreeMap::new();
    for (peer, address) in found {
        if let Some(peer) = PeerId::from_bytes(&peer.to_bytes()) {
            of.entry(peer).or_default().push(without_peer(address));
        }
    }
    of
}

/// A multiaddress with TCP or QUIC.
pub fn usable(text: &str) -> Result<Multiaddr> {
    let address = text.parse().ok().filter(|address| transport_of(address).is_some());
    address.ok_or_else(|| Error::BadAddress { text: text.to_owned() })
}

fn transport_of(address: &Multiaddr) -> Option<Transport> {
    address.iter().find_map(|part| match part {
        Protocol::QuicV1 => Some(Transport::Quic),
        Protocol::Tcp(_) => Some(Transport::Tcp),
        _ => None,
    })
}

impl Idle {
    /// Addresses that are listened on; filled while the swarm runs.
    pub fn listening(&self) -> Listening {
        Arc::clone(&self.listening)
    }

    /// Runs until [`Command::Stop`].
    pub async fn run(self, mut commands: UnboundedReceiver<Command>, events: UnboundedSender<Event>) {
        let Self { swarm, dialing: dials, listening, tally } = self;
        let mut runner = Runner {
            swarm,
            dials,
            listening,
            tally,
            events,
            known: HashMap::new(),
            silent: Doorway::new(SILENT),
            dialing: HashMap::new(),
            awaited: BTreeSet::new(),
            next: 1,
        };
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Dial { peer, addresses }) => runner.dial(peer, addresses),
                    Some(Command::Close { conn }) => runner.close(conn),
                    Some(Command::Stop) | None => return,
                },
                event = runner.swarm.select_next_some() => runner.event(event),
            }
        }
    }
}

struct Runner {
    swarm: Swarm<Behaviour>,
    dials: Dialing,
    listening: Listening,
    tally: Arc<Tally>,
    events: UnboundedSender<Event>,
    known: HashMap<ConnectionId, Known>,
    silent: Doorway<ConnectionId>,
    dialing: HashMap<ConnectionId, PeerId>,
    /// Who was to be dialed, and neither speaks nor was said to have failed since.
    awaited: BTreeSet<PeerId>,
    next: u64,
}

impl Runner {
    fn tell(&self, event: Event) {
        // The node is going away when nobody hears; the next command ends this task.
        let _ = self.events.send(event);
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Vec<u8>>) {
        if self.dials == Dialing::Off {
            self.tell(Event::DialFailed { peer, error: "this device's network is off".to_owned() });
            return;
        }
        let Ok(name) = libp2p::PeerId::from_bytes(&peer.to_bytes()) else { return };
        let addresses: Vec<Multiaddr> =
            addresses.into_iter().filter_map(|bytes| Multiaddr::try_from(bytes).ok()).collect();
        if addresses.is_empty() {
            self.tell(Event::DialFailed { peer, error: "none of its addresses can be used".to_owned() });
            return;
        }
        let options = DialOpts::peer_id(name)
            .addresses(addresses)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        let id = options.connection_id();
        self.awaited.insert(peer);
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dialing.insert(id, peer);
            }
            // What comes of the connection that there is, or is about to be, comes of this.
            Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => self.give_up(peer, missed(peer, &error)),
        }
    }

    /// Says that a peer that was to be dialed was not reached, unless another connection of it may still speak: whoever
    /// waits for it hears of each attempt how it ended.
    fn give_up(&mut self, peer: PeerId, missed: Event) {
        let others = self.known.values().any(|known| known.peer == peer)
            || self.dialing.values().any(|dialed| *dialed == peer);
        if !others && self.awaited.remove(&peer) {
            self.tell(missed);
        }
    }

    fn close(&mut self, conn: Conn) {
        let id = self.known.iter().find(|(_, known)| known.conn == conn).map(|(id, _)| *id);
        if let Some(id) = id {
            self.end(id);
        }
    }

    /// Closes a connection that is known, and says so: what is asked on it would get no answer.
    fn end(&mut self, id: ConnectionId) {
        self.swarm.close_connection(id);
        if let Some(known) = self.known.get(&id) {
            self.tell(Event::Ending { conn: known.conn });
        }
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                self.listening.lock().push((address.to_vec(), address.to_string()));
                self.tell_listening();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.lock().retain(|(_, text)| *text != address.to_string());
                self.tell_listening();
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.dialing.remove(&connection_id);
                let side = if endpoint.is_dialer() { Side::Dialer } else { Side::Listener };
                let remote = endpoint.get_remote_address();
                let transport = transport_of(remote).unwrap_or(Transport::Tcp);
                let way = Way { transport, place: place_of(remote) };
                match PeerId::from_bytes(&peer_id.to_bytes()) {
                    Some(peer) => self.established(connection_id, peer, side, way),
                    // A key that no address of ours can name.
                    None => {
                        self.swarm.close_connection(connection_id);
                    }
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                if let Some(known) = self.known.remove(&connection_id) {
                    self.ended(known);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(peer) = self.dialing.remove(&connection_id) {
                    self.give_up(peer, missed(peer, &error));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Streams(StreamReady {
                connection, kind, stream, ..
            })) => {
                self.stream(connection, kind, stream);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { connection, result, .. })) => {
                self.pinged(connection, result);
            }
            SwarmEvent::IncomingConnectionError { error: ListenError::Denied { .. }, .. } => {
                self.tally.refuse(Refusal::Connection);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Lan(mdns::Event::Discovered(found))) => self.seen(found),
            SwarmEvent::Behaviour(BehaviourEvent::Lan(mdns::Event::Expired(gone))) => self.unseen(gone),
            SwarmEvent::ListenerClosed { reason: Err(error), .. }
            | SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "listening failed");
            }
            _ => {}
        }
    }

    fn tell_listening(&self) {
        let addresses = shareable(&self.listening.lock());
        self.tell(Event::Listening { addresses });
    }

    /// Only answers count. libp2p keeps a connection's first failure to itself, and later ones are failures to
    /// open a stream.
    fn pinged(&mut self, id: ConnectionId, result: std::result::Result<Duration, ping::Failure>) {
        if let (Ok(rtt), Some(known)) = (result, self.known.get(&id)) {
            self.tell(Event::Rtt { conn: known.conn, rtt });
        }
    }

    /// What is remembered of it, and what is believed, the engine decides.
    fn seen(&self, found: Vec<(libp2p::PeerId, Multiaddr)>) {
        for (peer, addresses) in by_peer(found) {
            self.tell(Event::Seen { peer, addresses });
        }
    }

    fn unseen(&self, gone: Vec<(libp2p::PeerId, Multiaddr)>) {
        for (peer, addresses) in by_peer(gone) {
            self.tell(Event::Unseen { peer, addresses });
        }
    }

    fn established(&mut self, id: ConnectionId, peer: PeerId, side: Side, way: Way) {
        let me = PeerId::from_bytes(&self.swarm.local_peer_id().to_bytes());
        let keep = if me.is_some_and(|me| me < peer) { Side::Dialer } else { Side::Listener };
        let others: Vec<(ConnectionId, Side)> = self
            .known
            .iter()
            .filter(|(_, known)| known.peer == peer)
            .map(|(id, known)| (*id, known.side))
            .collect();
        let conn = Conn(self.next);
        self.next += 1;
        let silent = if side == Side::Listener { self.wait_for_word(id, way.place) } else { None };
        self.known.insert(id, Known { conn, peer, side, way, speaks: false, silent });
        for (other, other_side) in others {
            if other_side != side {
                self.end(if side == keep { other } else { id });
            } else if side == Side::Dialer {
                self.end(other);
            }
        }
    }

    /// A connection has to say something before too many others come: its number until then. One of those that say nothing
    /// may have to go, or this one.
    fn wait_for_word(&mut self, id: ConnectionId, place: Place) -> Option<u64> {
        let begun = self.silent.begin(place, id, Instant::now());
        let (number, gone) = match begun {
            Ok((number, gone)) => (Some(number), gone),
            Err(id) => (None, Some(id)),
        };
        if let Some(gone) = gone {
            self.tally.refuse(Refusal::Connection);
            self.end(gone);
        }
        number
    }

    fn ended(&mut self, known: Known) {
        self.silent_no_more(known.silent);
        self.tell(Event::Down { conn: known.conn });
        let peer = known.peer;
        let missed = if known.side == Side::Dialer && !known.speaks {
            Event::HungUp { peer, error: HUNG_UP.to_owned() }
        } else {
            Event::DialFailed { peer, error: "the connection ended".to_owned() }
        };
        self.give_up(peer, missed);
    }

    fn silent_no_more(&mut self, number: Option<u64>) {
        if let Some(number) = number {
            self.silent.end(number);
        }
    }

    fn stream(&mut self, id: ConnectionId, kind: Kind, stream: Option<libp2p::Stream>) {
        let Some(known) = self.known.get_mut(&id) else { return };
        let (control, there) = (kind == Kind::Control, stream.is_some());
        known.speaks |= control && there;
        let silent = if control { known.silent.take() } else { None };
        let Known { conn, peer, side, way, .. } = *known;
        self.silent_no_more(silent);
        match stream {
            Some(stream) => {
                if kind == Kind::Control {
                    self.awaited.remove(&peer);
                }
                let stream: ByteStream = Box::pin(stream);
                self.tell(Event::Stream { conn, peer, side, way, kind, stream });
            }
            None => self.end(id),
        }
    }
}

#[cfg(test)]
mod tests;
