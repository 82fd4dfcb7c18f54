//! A share of the inbound handshakes for each place on the network.
//!
//! A node takes part in so many handshakes at once (`PENDING_MAX` in `swarm.rs`). Whoever begins that many and goes on
//! with none would keep everybody else out for as long as a handshake may take; with a share, one place
//! fills an eighth of them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::sync::Place;

/// Handshakes that one place has under way: a house behind one address comes back at once after its line was
/// down, and has fewer devices; who is refused dials again.
pub const PENDING_PER_PLACE: usize = 32;

/// Where a connection with this remote address comes from.
pub fn place_of(address: &Multiaddr) -> Place {
    let ip = address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    });
    ip.map_or(Place::Other, Place::of)
}

/// A place has its share of the handshakes under way.
#[derive(Debug)]
struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PENDING_PER_PLACE} handshakes from one address are under way")
    }
}

impl std::error::Error for TooMany {}

/// Refuses a handshake from a place that has its share.
#[derive(Default)]
pub struct Handshakes {
    under_way: HashMap<ConnectionId, Place>,
    of_place: HashMap<Place, usize>,
}

impl Handshakes {
    fn begin(&mut self, id: ConnectionId, place: Place) -> Result<(), TooMany> {
        let count = self.of_place.entry(place).or_default();
        if *count >= PENDING_PER_PLACE {
            return Err(TooMany);
        }
        *count += 1;
        self.under_way.insert(id, place);
        Ok(())
    }

    fn end(&mut self, id: ConnectionId) {
        let Some(place) = self.under_way.remove(&id) else { return };
        if let Some(count) = self.of_place.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                self.of_place.remove(&place);
            }
        }
    }
}

impl NetworkBehaviour for Handshakes {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.begin(id, place_of(remote)).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.end(id);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) = event {
            self.end(connection_id);
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        place_of(&text.parse().expect("an address"))
    }

    #[test]
    fn place_with_its_share_is_refused_and_another_is_not() {
        let mut handshakes = Handshakes::default();
        let (flood, other) = (place("/ip4/192.0.2.1/tcp/1"), place("/ip4/192.0.2.2/tcp/1"));
        for id in 0..PENDING_PER_PLACE {
            handshakes.begin(ConnectionId::new_unchecked(id), flood).expect("within its share");
        }
        let next = ConnectionId::new_unchecked(1000);
        assert!(handshakes.begin(next, flood).is_err(), "more than its share");
        handshakes.end(next);
        assert!(handshakes.begin(next, flood).is_err(), "the end of a refused one gave room");
        handshakes.begin(next, other).expect("another place has its own share");
        handshakes.end(ConnectionId::new_unchecked(0));
        handshakes.begin(ConnectionId::new_unchecked(2000), flood).expect("one has ended");
    }

    #[test]
    fn counts_of_places_that_went_are_not_kept() {
        let mut handshakes = Handshakes::default();
        for id in 0..1000 {
            let id = ConnectionId::new_unchecked(id);
            handshakes.begin(id, place(&format!("/ip6/2001:db8:{id}::1/tcp/1"))).expect("its first");
            handshakes.end(id);
            handshakes.end(id);
        }
        assert!(handshakes.of_place.is_empty() && handshakes.under_way.is_empty());
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
