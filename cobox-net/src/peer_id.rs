//! The name of a program on the network: a libp2p peer id, as bytes.

use std::fmt;

use cobox_store::format::receipt::{peer_id_of, peer_key};

/// A libp2p peer id of an Ed25519 key. Prints in libp2p's usual base58.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// The peer id of a verifying key.
    #[must_use]
    pub fn of_key(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Reads multihash bytes; `None` for keys other than Ed25519.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        peer_key(bytes).map(Self)
    }

    /// Reads what `Display` writes.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        crate::swarm::peer_bytes(text).and_then(|bytes| Self::from_bytes(&bytes))
    }

    /// Multihash bytes, as grants and addresses hold them.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        peer_id_of(&self.0)
    }

    /// The verifying key.
    #[must_use]
    pub fn key(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::swarm::peer_text(&self.to_bytes()))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_id_text_round_trips_and_is_libp2p_base58() {
        let peer = PeerId::of_key([7; 32]);
        let text = peer.to_string();
        assert!(text.starts_with("12D3KooW"), "{text}");
        assert_eq!(PeerId::from_text(&text), Some(peer));
        assert_eq!(PeerId::from_text("nonsense"), None);
    }
}
