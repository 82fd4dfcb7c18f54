//! How a dial failed: whether nobody was reached, or somebody who hung up, and why, as a sentence for people.

use std::error::Error;
use std::io;

use libp2p::Multiaddr;
use libp2p::core::transport::TransportError;
use libp2p::swarm::DialError;

use super::Event;
use crate::peer_id::PeerId;
use crate::shown::places;
use crate::unreached::{inner, is_end, reasons};

/// What is said of a peer that ends a connection before a word was said.
pub const HUNG_UP: &str = "it hung up at once, as one does that has too many connections";

/// What is told of a dial that failed.
pub fn missed(peer: PeerId, error: &DialError) -> Event {
    match error {
        DialError::Transport(tried)
            if !is_wrong(tried) && tried.iter().any(|(_, error)| is_hang_up(error)) =>
        {
            Event::HungUp { peer, error: HUNG_UP.to_owned() }
        }
        _ => Event::DialFailed { peer, error: text(error) },
    }
}

type Tried = (Multiaddr, TransportError<io::Error>);

/// Whether another peer answers.
fn is_wrong(tried: &[Tried]) -> bool {
    tried.iter().any(|(_, error)| error.to_string().contains("eer id"))
}

/// Whether somebody took the connection and broke it off in the handshake. Another program that listens there says something
/// else, or waits.
fn is_hang_up(error: &TransportError<io::Error>) -> bool {
    let TransportError::Other(error) = error else { return false };
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let (mut shook, mut ended) = (false, false);
    while let Some(error) = cause {
        // libp2p keeps the type to itself.
        shook |= matches!(error.to_string().as_str(), "Multistream select failed" | "Handshake failed");
        ended |= is_end(error);
        cause = inner(error);
    }
    shook && ended
}

/// Why dialing failed, as a sentence for people.
fn text(error: &DialError) -> String {
    match error {
        DialError::WrongPeerId { obtained, address } => {
            format!("another peer ({obtained}) answers at {address}")
        }
        DialError::LocalPeerId { .. } => "the address is this device's own".to_owned(),
        DialError::NoAddresses => "no address is known".to_owned(),
        DialError::Denied { .. } => "too many connections are open".to_owned(),
        DialError::Transport(tried) => {
            let wrong = is_wrong(tried);
            let list: Vec<String> = tried.iter().map(|(address, _)| address.to_string()).collect();
            if wrong {
                format!("another peer answers at {}", places(&list))
            } else {
                let why = reasons(tried.iter().map(|(_, error)| error as &(dyn Error + 'static)));
                format!("nothing answers at {} ({why})", places(&list))
            }
        }
        other => other.to_string(),
    }
}
