//! Inbound handshakes: how many are under way at once, and which of them gives way to a newcomer.
//!
//! Whoever begins as many as a node takes part in and goes on with none would keep everybody else out for as long as a
//! handshake may take; so some give way (`doorway.rs`). libp2p refuses what comes beyond a limit and ends none that it has
//! begun; so here a transport of ours makes each handshake a future that can be ended.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::future::{AbortHandle, Abortable};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Transport};
use parking_lot::Mutex;

use crate::doorway::{Doorway, Width};
use crate::sync::Place;
use crate::tally::{Refusal, Tally};

/// Handshakes over TCP that a node takes part in at once, and the same over QUIC. Who comes over TCP has shown that it is
/// where it says; over QUIC it may say what it likes, so those end none over TCP.
pub const UNDER_WAY_MAX: usize = 256;
/// Of them from one place: a house behind one address comes back at once after its line was down.
const PER_PLACE_MAX: usize = 32;
/// Whoever takes longer stands still, where others wait. It is four round trips over a satellite (0.6 s each) and the
/// work of a small box with 256 of them: an honest handshake is done by then. The more of them stand still, the fewer
/// newcomers find a place: at least 85 in a second.
const PATIENCE: Duration = Duration::from_secs(3);
/// Newcomers that are refused before others have a turn.
const REFUSED_AT_ONCE: usize = 64;

type Opened = (PeerId, StreamMuxerBox);
type Upgrade = <Boxed<Opened> as Transport>::ListenerUpgrade;

/// Where a connection with this remote address comes from.
pub fn place_of(address: &Multiaddr) -> Place {
    let ip = address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    });
    ip.map_or(Place::Other, Place::of)
}

const WIDTH: Width = Width { most: UNDER_WAY_MAX, per_place: PER_PLACE_MAX, patience: PATIENCE };

/// Handshakes that are under way.
type UnderWay = Arc<Mutex<Doorway<AbortHandle>>>;

/// Another handshake took its place.
#[derive(Debug)]
struct GaveWay;

impl fmt::Display for GaveWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "too many handshakes were under way, and this one stood still or its address had most of them",
        )
    }
}

impl std::error::Error for GaveWay {}

/// One handshake, until it is done, has given way or is dropped.
pub struct Handshake {
    upgrade: Abortable<Upgrade>,
    number: u64,
    under_way: UnderWay,
}

impl Future for Handshake {
    type Output = io::Result<Opened>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(Pin::new(&mut self.upgrade).poll(context));
        Poll::Ready(done.unwrap_or_else(|_| Err(io::Error::other(GaveWay))))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        drop(self.under_way.lock().end(self.number));
    }
}

/// A transport whose inbound handshakes give way.
pub struct Yielding {
    inner: Boxed<Opened>,
    over_tcp: UnderWay,
    over_quic: UnderWay,
    tally: Arc<Tally>,
}

impl Yielding {
    /// Around `inner`; counts those that gave way, or were refused, as connections refused.
    pub fn around(inner: Boxed<Opened>, tally: Arc<Tally>) -> Self {
        let none = || Arc::new(Mutex::new(Doorway::new(WIDTH)));
        Self { inner, over_tcp: none(), over_quic: none(), tally }
    }

    fn begin(&self, from: &Multiaddr, upgrade: Upgrade, now: Instant) -> Option<Handshake> {
        let quic = from.iter().any(|part| matches!(part, Protocol::QuicV1));
        let under_way = if quic { &self.over_quic } else { &self.over_tcp };
        let (abort, registration) = AbortHandle::new_pair();
        let begun = under_way.lock().begin(place_of(from), abort, now);
        if !matches!(begun, Ok((_, None))) {
            self.tally.refuse(Refusal::Connection);
        }
        let (number, gone) = begun.ok()?;
        if let Some(gone) = gone {
            gone.abort();
        }
        let upgrade = Abortable::new(upgrade, registration);
        Some(Handshake { upgrade, number, under_way: Arc::clone(under_way) })
    }
}

impl Transport for Yielding {
    type Output = Opened;
    type Error = io::Error;
    type ListenerUpgrade = Handshake;
    type Dial = <Boxed<Opened> as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Handshake, io::Error>> {
        for _ in 0..REFUSED_AT_ONCE {
            match ready!(Pin::new(&mut self.inner).poll(context)) {
                TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } => {
                    // One that is refused ends here, and takes none of the places that libp2p has.
                    let Some(upgrade) = self.begin(&send_back_addr, upgrade, Instant::now()) else {
                        continue;
                    };
                    return Poll::Ready(TransportEvent::Incoming {
                        listener_id,
                        upgrade,
                        local_addr,
                        send_back_addr,
                    });
                }
                TransportEvent::NewAddress { listener_id, listen_addr } => {
                    return Poll::Ready(TransportEvent::NewAddress { listener_id, listen_addr });
                }
                TransportEvent::AddressExpired { listener_id, listen_addr } => {
                    return Poll::Ready(TransportEvent::AddressExpired { listener_id, listen_addr });
                }
                TransportEvent::ListenerClosed { listener_id, reason } => {
                    return Poll::Ready(TransportEvent::ListenerClosed { listener_id, reason });
                }
                TransportEvent::ListenerError { listener_id, error } => {
                    return Poll::Ready(TransportEvent::ListenerError { listener_id, error });
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use futures::FutureExt as _;

    use super::*;

    fn place(text: &str) -> Place {
        place_of(&text.parse().expect("an address"))
    }

    fn tcp(host: usize) -> Multiaddr {
        format!("/ip4/192.0.{}.{}/tcp/1", host / 256, host % 256).parse().expect("an address")
    }

    fn quic(host: usize) -> Multiaddr {
        format!("/ip4/192.0.{}.{}/udp/1/quic-v1", host / 256, host % 256).parse().expect("an address")
    }

    /// A transport that nobody listens with, and a clock.
    struct Node {
        inner: Yielding,
        now: Instant,
    }

    impl Node {
        fn new() -> Self {
            let inner = libp2p::core::transport::dummy::DummyTransport::<Opened>::new().boxed();
            Self { inner: Yielding::around(inner, Arc::default()), now: Instant::now() }
        }

        /// A handshake that goes on with nothing; `None` where it is refused.
        fn begun(&self, from: &Multiaddr) -> Option<Handshake> {
            self.inner.begin(from, Box::pin(std::future::pending()), self.now)
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }

        fn refused(&self) -> u64 {
            self.inner.tally.counts()[Refusal::Connection as usize].1
        }
    }

    /// Those that have given way.
    fn gone(handshakes: &mut [Handshake]) -> Vec<usize> {
        let ended = |(at, one): (usize, &mut Handshake)| one.now_or_never().map(|_| at);
        handshakes.iter_mut().enumerate().filter_map(ended).collect()
    }

    fn goes_on(handshake: &mut Handshake) -> bool {
        handshake.now_or_never().is_none()
    }

    #[test]
    fn newcomer_from_elsewhere_is_let_in_beside_a_crowd_from_many_places() {
        let node = Node::new();
        let crowd = |at: usize| tcp(at % 16);
        let mut flood: Vec<Handshake> =
            (0..UNDER_WAY_MAX - 1).filter_map(|at| node.begun(&crowd(at))).collect();
        let mut early = node.begun(&tcp(100)).expect("there is room");
        let mut late = node.begun(&tcp(101)).expect("the crowd has more");
        assert_eq!(gone(&mut flood), [240], "the newest of those with the most");
        let more = (0..1000).filter(|at| node.begun(&crowd(*at)).is_some()).count();
        assert!(more <= 1, "those who have as many as anybody are refused: {more}");
        assert!(goes_on(&mut early) && goes_on(&mut late));
        assert!(node.inner.over_tcp.lock().len() <= UNDER_WAY_MAX);
        assert!(node.refused() >= 1000);
    }

    /// So many peers, each from a place of its own or all from one, that come again until they are done; how many rounds
    /// it takes where a handshake takes three of them.
    fn rounds(peers: usize, from: &dyn Fn(usize) -> Multiaddr) -> usize {
        const TAKES: usize = 3;
        let mut node = Node::new();
        let mut waiting: BTreeSet<usize> = (0..peers).collect();
        let mut under_way: BTreeMap<usize, (usize, Handshake)> = BTreeMap::new();
        for round in 0..1000 {
            under_way.retain(|_, (_, handshake)| goes_on(handshake));
            let done: Vec<usize> = under_way
                .iter()
                .filter(|(_, (since, _))| since + TAKES <= round)
                .map(|(peer, _)| *peer)
                .collect();
            for peer in done {
                waiting.remove(&peer);
                under_way.remove(&peer);
            }
            if waiting.is_empty() {
                return round;
            }
            for peer in &waiting {
                if !under_way.contains_key(peer)
                    && let Some(handshake) = node.begun(&from(*peer))
                {
                    under_way.insert(*peer, (round, handshake));
                }
            }
            node.pass(Duration::from_millis(100));
        }
        panic!("{} are still waiting", waiting.len());
    }

    #[test]
    fn crowd_of_honest_peers_is_done_as_fast_as_there_is_room() {
        let apart = rounds(4 * UNDER_WAY_MAX, &tcp);
        assert!(apart <= 3 * 4 + 1, "{apart} rounds for four times as many as there is room for");
        let house = rounds(4 * PER_PLACE_MAX, &|_| tcp(1));
        assert!(house <= 3 * 4 + 1, "{house} rounds for a house");
        // Two houses and many who are alone.
        let mixed = rounds(4 * UNDER_WAY_MAX, &|peer| tcp(if peer < 64 { peer / 32 } else { peer }));
        assert!(mixed <= 3 * 8, "{mixed} rounds");
    }

    #[test]
    fn handshakes_that_stand_still_give_way_and_keep_nobody_out_for_long() {
        let mut node = Node::new();
        // Each from a place of its own, so that nobody has more than a newcomer.
        let mut flood: Vec<Handshake> = (0..UNDER_WAY_MAX).filter_map(|at| node.begun(&tcp(at))).collect();
        assert!(node.begun(&tcp(1000)).is_none(), "all of them may be honest");
        node.pass(PATIENCE + Duration::from_millis(1));
        let mut late = node.begun(&tcp(1000)).expect("they stand still");
        assert_eq!(gone(&mut flood), [0]);
        for at in 0..UNDER_WAY_MAX {
            flood.extend(node.begun(&tcp(2000 + at)));
        }
        assert!(goes_on(&mut late), "who came as late as others is not behind them");
    }

    #[test]
    fn place_with_its_share_gives_way_to_itself_and_no_other_does() {
        let mut node = Node::new();
        let mut first = node.begun(&tcp(2)).expect("there is room");
        let mut many: Vec<Handshake> = (0..PER_PLACE_MAX + 3).filter_map(|_| node.begun(&tcp(1))).collect();
        assert_eq!(many.len(), PER_PLACE_MAX, "those that are under way are not ended");
        assert!(gone(&mut many).is_empty());
        node.pass(PATIENCE + Duration::from_millis(1));
        many.extend((0..3).filter_map(|_| node.begun(&tcp(1))));
        assert_eq!(gone(&mut many), [0, 1, 2]);
        assert!(goes_on(&mut first), "another place has its own share");
        drop(many.split_off(PER_PLACE_MAX));
        many.extend(node.begun(&tcp(1)));
        assert!(gone(&mut many[3..]).is_empty(), "some have ended");
    }

    #[test]
    fn what_comes_over_quic_from_made_up_places_ends_nothing_over_tcp() {
        let mut node = Node::new();
        let mut over_tcp: Vec<Handshake> = (0..UNDER_WAY_MAX).filter_map(|at| node.begun(&tcp(at))).collect();
        node.pass(PATIENCE + Duration::from_millis(1));
        let flood: Vec<Handshake> = (0..4 * UNDER_WAY_MAX).filter_map(|at| node.begun(&quic(at))).collect();
        assert_eq!(flood.len(), UNDER_WAY_MAX);
        assert!(gone(&mut over_tcp).is_empty());
        assert!(node.begun(&tcp(1000)).is_some(), "and nobody is kept from TCP");
    }

    #[test]
    fn handshakes_that_ended_are_not_kept() {
        let node = Node::new();
        for id in 0..1000 {
            let from = format!("/ip6/2001:db8:{id}::1/tcp/1").parse().expect("an address");
            drop(node.begun(&from));
        }
        assert_eq!(node.inner.over_tcp.lock().len(), 0);
    }

    #[test]
    fn host_is_one_place_under_each_of_its_addresses() {
        assert_eq!(place("/ip6/2001:db8::1/tcp/1"), place("/ip6/2001:db8::ffff:0:0:2/udp/9/quic-v1"));
        assert_ne!(place("/ip6/2001:db8::1/tcp/1"), place("/ip6/2001:db8:0:1::1/tcp/1"));
        assert_eq!(place("/ip6/::ffff:192.0.2.1/tcp/1"), place("/ip4/192.0.2.1/udp/7/quic-v1"));
        assert_ne!(place("/ip4/192.0.2.1/tcp/1"), place("/ip4/192.0.2.2/tcp/1"));
        assert_eq!(place("/dns/example.org/tcp/1"), Place::Other);
    }
}
