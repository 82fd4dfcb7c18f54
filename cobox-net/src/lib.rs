//! CoBox in motion: the wire, the sync engine, libp2p, and the seeder.
//!
//! Three layers. [`wire`] is every sent byte. [`sync`] is a sans-IO engine that decides what is asked,
//! sent and pushed. [`node`] drives it over connections: `swarm`, `behaviour`, `handshakes` and `muxer` are the only
//! files that name libp2p's types, and `transfer` moves packs between streams and the store. Nothing here opens a
//! chunk, a pack, an entry or an epoch.

pub mod agreement;
mod behaviour;
mod doorway;
mod driver;
pub mod error;
mod handshakes;
pub mod heaps;
pub mod http;
mod link;
mod muxer;
pub mod nearing;
pub mod node;
mod offers;
mod orders;
pub mod patrol;
pub mod peer_id;
mod provers;
mod rotation;
pub mod seeder;
pub mod shown;
mod speaking;
pub mod status;
mod swarm;
pub mod sync;
pub mod tally;
mod transfer;
mod unreached;
pub mod wire;

pub use error::Error;
pub use node::{
    Dialing, FolderSecrets, GrantRule, LanDiscovery, NetConfig, Node, OrderRule, RecoverySigner, Speaks,
    SwarmKey,
};
pub use peer_id::PeerId;
pub use status::{Connection, NetStatus, Path, PeerKind, PeerStatus, SessionState, Transport};
