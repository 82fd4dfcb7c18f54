//! A `NetworkBehaviour` of ours: a few long-lived streams per connection.
//!
//! The dialer opens the control stream; each side opens one bulk stream, over which it asks for packs.
//! A second stream of one kind is dropped. `swarm.rs`, this, `handshakes.rs` and `muxer.rs` name
//! libp2p's types, and no other file.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    Stream, StreamProtocol, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use crate::wire::{BULK_PROTOCOL, CONTROL_PROTOCOL};

const CONTROL: StreamProtocol = StreamProtocol::new(CONTROL_PROTOCOL);
const BULK: StreamProtocol = StreamProtocol::new(BULK_PROTOCOL);

/// Which of a connection's streams.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Control frames in both directions.
    Control,
    /// We ask, the peer sends packs.
    BulkOurs,
    /// The peer asks, we send packs.
    BulkTheirs,
}

/// A stream is ready, or could not be opened.
#[derive(Debug)]
pub struct StreamReady {
    pub connection: ConnectionId,
    pub kind: Kind,
    /// `None` when the peer does not speak the protocol.
    pub stream: Option<Stream>,
}

/// Opens and collects streams.
#[derive(Default)]
pub struct Streams {
    ready: VecDeque<StreamReady>,
}

/// One connection's part.
pub struct Handler {
    to_open: VecDeque<Kind>,
    inbound: Vec<Kind>,
    ready: VecDeque<(Kind, Option<Stream>)>,
}

impl Handler {
    fn new(to_open: &[Kind], inbound: &[Kind]) -> Self {
        Self { to_open: to_open.iter().copied().collect(), inbound: inbound.to_vec(), ready: VecDeque::new() }
    }
}

/// Agrees on one of some protocols and hands out the bare stream.
#[derive(Clone, Debug)]
pub struct Bare(Vec<StreamProtocol>);

impl UpgradeInfo for Bare {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Bare {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Bare {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = (Kind, Option<Stream>);
    type InboundProtocol = Bare;
    type OutboundProtocol = Bare;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Kind;

    fn listen_protocol(&self) -> SubstreamProtocol<Bare, ()> {
        SubstreamProtocol::new(Bare(vec![CONTROL, BULK]), ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Bare, Kind, Self::ToBehaviour>> {
        if let Some(event) = self.ready.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        if let Some(kind) = self.to_open.pop_front() {
            let protocol = if kind == Kind::Control { CONTROL } else { BULK };
            let protocol = SubstreamProtocol::new(Bare(vec![protocol]), kind);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Bare, Bare, (), Kind>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, name),
                ..
            }) => {
                let kind = if name == CONTROL { Kind::Control } else { Kind::BulkTheirs };
                // Each kind once: whatever else a peer opens is dropped, which resets it.
                if let Some(at) = self.inbound.iter().position(|open| *open == kind) {
                    self.inbound.swap_remove(at);
                    self.ready.push_back((kind, Some(stream)));
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info,
            }) => {
                self.ready.push_back((info, Some(stream)));
            }
            ConnectionEvent::DialUpgradeError(failed) => self.ready.push_back((failed.info, None)),
            _ => {}
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = StreamReady;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(&[Kind::BulkOurs], &[Kind::Control, Kind::BulkTheirs]))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(&[Kind::Control, Kind::BulkOurs], &[Kind::BulkTheirs]))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        let (kind, stream) = event;
        self.ready.push_back(StreamReady { connection, kind, stream });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<StreamReady, THandlerInEvent<Self>>> {
        match self.ready.pop_front() {
            Some(event) => Poll::Ready(ToSwarm::GenerateEvent(event)),
            None => Poll::Pending,
        }
    }
}
