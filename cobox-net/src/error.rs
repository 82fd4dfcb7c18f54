//! What can go wrong in motion.

use cobox_store::format::DecodeError;
use cobox_store::id::{FolderId, PackId};

use crate::peer_id::PeerId;

/// Every failure of this crate. Messages say what happened; programs say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be read or written.
    #[error("the store failed")]
    Store(#[from] cobox_store::Error),
    /// A peer sent bytes that no writer produces.
    #[error("malformed bytes from a peer")]
    Decode(#[from] DecodeError),
    /// A frame is longer than any frame may be.
    #[error("a frame of {bytes} bytes is too long")]
    FrameTooLong {
        /// What the peer announced.
        bytes: u64,
    },
    /// A stream or socket failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// An address that is not a multiaddress with TCP or QUIC.
    #[error("{text:?} is not an address this program can use")]
    BadAddress {
        /// What was given.
        text: String,
    },
    /// Somebody else listens on an address.
    #[error("another program listens on {address} already")]
    Taken {
        /// Which.
        address: String,
    },
    /// An address could not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The transport could not be set up.
    #[error("the network cannot be used")]
    Transport(#[source] std::io::Error),
    /// No session with this peer was reached in time.
    #[error("peer {peer} was not reached in time")]
    NotReached {
        /// Who.
        peer: PeerId,
    },
    /// The peer does not let us do this.
    #[error("peer {peer} refused")]
    Refused {
        /// Who.
        peer: PeerId,
    },
    /// The connection ended in the middle.
    #[error("peer {peer} went away")]
    Gone {
        /// Who.
        peer: PeerId,
    },
    /// The peer broke the protocol.
    #[error("peer {peer} broke the protocol")]
    Protocol {
        /// Who.
        peer: PeerId,
    },
    /// A proof does not hold, or is missing.
    #[error("peer {peer} could not prove that it holds pack {pack}")]
    NotProved {
        /// Who.
        peer: PeerId,
        /// The first pack without a proof.
        pack: PackId,
    },
    /// The peer says that it has entries whose bytes it could not prove.
    #[error("peer {peer} could not prove the entries that it says it has")]
    EntriesNotProved {
        /// Who.
        peer: PeerId,
    },
    /// A signed receipt does not fit the challenge or its signer.
    #[error("the receipt of peer {peer} does not hold")]
    WrongReceipt {
        /// Who.
        peer: PeerId,
    },
    /// The folder was not given to this node.
    #[error("folder {0} is not synced here")]
    UnknownFolder(FolderId),
    /// The node was shut down.
    #[error("the network was shut down")]
    ShutDown,
}

/// Shorthand of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
