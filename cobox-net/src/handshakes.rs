//! Inbound handshakes: a newcomer is always let in, and the oldest of the place that has most under way gives way to it.
//!
//! A node takes part in so many handshakes at once. Whoever begins that many and goes on with none, from one address or
//! from many, would keep everybody else out for as long as a handshake may take. libp2p refuses what comes beyond a
//! limit and ends none that it has begun; so here a transport of ours makes each handshake a future that can be ended.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::{AbortHandle, Abortable};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Transport};
use parking_lot::Mutex;

use crate::sync::Place;
use crate::tally::{Refusal, Tally};

/// Handshakes that a node takes part in at once.
pub const UNDER_WAY_MAX: usize = 256;
/// Of them from one place: a house behind one address comes back at once after its line was down, and has fewer
/// devices; whose handshake had to give way dials again.
pub const PER_PLACE_MAX: usize = 32;

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

/// Handshakes that are under way, by their numbers: who began first has the lowest.
#[derive(Default)]
struct UnderWay {
    all: BTreeMap<u64, (Place, AbortHandle)>,
    of_place: BTreeMap<Place, BTreeSet<u64>>,
    next: u64,
}

impl UnderWay {
    /// Takes another one in; whether one had to give way.
    fn begin(&mut self, place: Place, abort: AbortHandle) -> (u64, bool) {
        let own = self.of_place.get(&place).map_or(0, BTreeSet::len);
        let most = if own >= PER_PLACE_MAX {
            Some(place)
        } else if self.all.len() >= UNDER_WAY_MAX {
            let crowds = self.of_place.iter();
            crowds.max_by_key(|(_, of)| (of.len(), Reverse(of.first().copied()))).map(|(place, _)| *place)
        } else {
            None
        };
        let oldest = most.and_then(|most| self.of_place.get(&most)?.first().copied());
        let gone = oldest.and_then(|oldest| self.end(oldest));
        if let Some(gone) = &gone {
            gone.abort();
        }
        let number = self.next;
        self.next += 1;
        self.all.insert(number, (place, abort));
        self.of_place.entry(place).or_default().insert(number);
        (number, gone.is_some())
    }

    fn end(&mut self, number: u64) -> Option<AbortHandle> {
        let (place, abort) = self.all.remove(&number)?;
        if let Some(of) = self.of_place.get_mut(&place) {
            of.remove(&number);
            if of.is_empty() {
                self.of_place.remove(&place);
            }
        }
        Some(abort)
    }
}

/// Another handshake took its place.
#[derive(Debug)]
struct GaveWay;

impl fmt::Display for GaveWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many handshakes were under way, and this was the oldest")
    }
}

impl std::error::Error for GaveWay {}

/// One handshake, until it is done, has given way or is dropped.
pub struct Handshake {
    upgrade: Abortable<Upgrade>,
    number: u64,
    under_way: Arc<Mutex<UnderWay>>,
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
        self.under_way.lock().end(self.number);
    }
}

/// A transport whose inbound handshakes give way.
pub struct Yielding {
    inner: Boxed<Opened>,
    under_way: Arc<Mutex<UnderWay>>,
    tally: Arc<Tally>,
}

impl Yielding {
    /// Around `inner`; counts those that gave way as connections refused.
    pub fn around(inner: Boxed<Opened>, tally: Arc<Tally>) -> Self {
        Self { inner, under_way: Arc::default(), tally }
    }

    fn begin(&self, place: Place, upgrade: Upgrade) -> Handshake {
        let (abort, registration) = AbortHandle::new_pair();
        let (number, gave_way) = self.under_way.lock().begin(place, abort);
        if gave_way {
            self.tally.refuse(Refusal::Connection);
        }
        let upgrade = Abortable::new(upgrade, registration);
        Handshake { upgrade, number, under_way: Arc::clone(&self.under_way) }
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
        let event = ready!(Pin::new(&mut self.inner).poll(context));
        let place = match &event {
            TransportEvent::Incoming { send_back_addr, .. } => place_of(send_back_addr),
            _ => Place::Other,
        };
        Poll::Ready(event.map_upgrade(|upgrade| self.begin(place, upgrade)))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn place(text: &str) -> Place {
        place_of(&text.parse().expect("an address"))
    }

    /// A transport that nobody listens with, and a handshake of it that goes on with nothing.
    fn node() -> (Yielding, Arc<Tally>) {
        let tally: Arc<Tally> = Arc::default();
        let inner = libp2p::core::transport::dummy::DummyTransport::<Opened>::new().boxed();
        (Yielding::around(inner, Arc::clone(&tally)), tally)
    }

    fn begun(node: &Yielding, place: Place) -> Handshake {
        node.begin(place, Box::pin(std::future::pending()))
    }

    /// Those that have given way.
    fn gone(handshakes: &mut [Handshake]) -> Vec<usize> {
        let ended = |(at, one): (usize, &mut Handshake)| one.now_or_never().map(|_| at);
        handshakes.iter_mut().enumerate().filter_map(ended).collect()
    }

    #[test]
    fn newcomer_from_elsewhere_is_let_in_beside_a_crowd_from_many_places() {
        let (node, tally) = node();
        let crowd = |at: usize| place(&format!("/ip4/192.0.2.{}/tcp/1", at % 16));
        let mut flood: Vec<Handshake> = (0..UNDER_WAY_MAX - 1).map(|at| begun(&node, crowd(at))).collect();
        let mut early = begun(&node, place("/ip4/198.51.100.1/tcp/1"));
        assert!(gone(&mut flood).is_empty(), "there is room for all of these");
        let mut late = begun(&node, place("/ip4/198.51.100.2/tcp/1"));
        assert_eq!(gone(&mut flood), [0], "the oldest of those with the most");
        flood.extend((0..1000).map(|at| begun(&node, crowd(at))));
        assert!(early.poll_unpin(&mut Context::from_waker(futures::task::noop_waker_ref())).is_pending());
        assert!(late.poll_unpin(&mut Context::from_waker(futures::task::noop_waker_ref())).is_pending());
        assert_eq!(gone(&mut flood).len(), 1001, "the crowd gives way to itself");
        assert_eq!(node.under_way.lock().all.len(), UNDER_WAY_MAX);
        assert_eq!(tally.counts()[Refusal::Connection as usize].1, 1001);
    }

    #[test]
    fn place_with_its_share_gives_way_to_itself_and_no_other_does() {
        let (node, _) = node();
        let (flood, other) = (place("/ip4/192.0.2.1/tcp/1"), place("/ip4/192.0.2.2/tcp/1"));
        let mut first = begun(&node, other);
        let mut many: Vec<Handshake> = (0..PER_PLACE_MAX + 3).map(|_| begun(&node, flood)).collect();
        assert_eq!(gone(&mut many), [0, 1, 2]);
        assert!((&mut first).now_or_never().is_none(), "another place has its own share");
        drop(many.split_off(PER_PLACE_MAX));
        many.push(begun(&node, flood));
        assert!(gone(&mut many[3..]).is_empty(), "some have ended");
    }

    #[test]
    fn handshakes_that_ended_are_not_kept() {
        let (node, _) = node();
        for id in 0..1000 {
            drop(begun(&node, place(&format!("/ip6/2001:db8:{id}::1/tcp/1"))));
        }
        let kept = node.under_way.lock();
        assert!(kept.all.is_empty() && kept.of_place.is_empty());
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
