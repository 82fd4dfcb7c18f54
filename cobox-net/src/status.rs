//! What a node knows about its peers: plain data for `status` and `wait`.

use cobox_store::id::{FolderNo, LogId};
use serde::{Deserialize, Serialize};

use crate::peer_id::PeerId;

/// One folder's peers.
#[derive(Clone, Debug)]
pub struct NetStatus {
    /// Which folder.
    pub no: FolderNo,
    /// Ascending by peer.
    pub peers: Vec<PeerStatus>,
}

/// One open connection, whatever folders are synced over it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Connection {
    /// Who, as a libp2p identity.
    pub peer: String,
    /// How the bytes travel.
    pub path: Path,
    /// Over what.
    pub transport: Option<Transport>,
    /// The last ping.
    pub rtt_ms: Option<u64>,
    /// Folders that are open on it.
    pub folders: u64,
    /// Pack bytes sent since it began.
    pub bytes_sent: u64,
    /// Pack bytes received since it began.
    pub bytes_received: u64,
    /// Bytes a second in both directions, over the last second.
    pub rate: u64,
}

/// How the bytes travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// No connection.
    None,
    /// From socket to socket.
    Direct,
}

/// Over what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP with Noise and Yamux.
    Tcp,
    /// QUIC.
    Quic,
}

/// What the peer is in this folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// Not proved yet.
    Unknown,
    /// A device of a member.
    Member,
    /// A seeder with a grant.
    Seeder,
}

/// How far the folder's session with the peer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// No connection; `error` says why.
    Offline,
    /// Connected, proofs are being exchanged.
    Opening,
    /// The seeder's owner has not accepted the grant yet.
    Pending,
    /// The peer does not take the folder.
    Refused,
    /// Proved the swarm secret but no listed key: access log only.
    Restricted,
    /// Everything flows.
    Open,
}

/// One peer in one folder.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Who.
    pub peer: PeerId,
    /// What it is.
    pub kind: PeerKind,
    /// Which device of the folder, once it said so.
    pub log: Option<LogId>,
    /// Since when it is connected, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// How the bytes travel.
    pub path: Path,
    /// Over what, while connected.
    pub transport: Option<Transport>,
    /// The last ping, while connected.
    pub rtt_ms: Option<u64>,
    /// How far the session is.
    pub session: SessionState,
    /// Why it is offline or refused, as a sentence.
    pub error: Option<String>,
    /// Why it is offline though nothing is wrong, as a sentence.
    pub note: Option<String>,
    /// Whether it told us the same heads of the access log as ours.
    pub knows_access: bool,
    /// Whether it told us what it lacks: before, it is neither caught up nor behind.
    pub told_lack: bool,
    /// Our entries that it lacks, as far as it told us; none before, and all of them while there is no session.
    pub entries_behind: u64,
    /// Live packs that it said it lacks; zero where it said nothing.
    pub packs_lacking: u64,
    /// Those, and the packs of entries it lacks.
    pub packs_to_send: u64,
    /// Bytes of those.
    pub bytes_to_send: u64,
    /// Its entries that we lack.
    pub entries_to_receive: u64,
    /// The same by the devices that wrote them, where there are any.
    pub ahead: Vec<(LogId, u64)>,
    /// Live packs that we lack, from whomever.
    pub packs_to_receive: u64,
    /// Bytes of those.
    pub bytes_to_receive: u64,
    /// Whether what it lacks is stuck: its disk or its quota is full.
    pub full: bool,
    /// Pack bytes sent since the connection began.
    pub bytes_sent: u64,
    /// Pack bytes received since the connection began.
    pub bytes_received: u64,
    /// Bytes a second in both directions, over the last second.
    pub rate: u64,
}

impl PeerStatus {
    /// A peer of which nothing was heard.
    #[must_use]
    pub const fn unheard(peer: PeerId, kind: PeerKind) -> Self {
        Self {
            peer,
            kind,
            log: None,
            since_ms: None,
            path: Path::None,
            transport: None,
            rtt_ms: None,
            session: SessionState::Offline,
            knows_access: false,
            told_lack: false,
            error: None,
            note: None,
            entries_behind: 0,
            packs_lacking: 0,
            packs_to_send: 0,
            bytes_to_send: 0,
            entries_to_receive: 0,
            ahead: Vec::new(),
            packs_to_receive: 0,
            bytes_to_receive: 0,
            full: false,
            bytes_sent: 0,
            bytes_received: 0,
            rate: 0,
        }
    }

    /// Whether the peer, as far as it told us, holds all that we hold.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.has_told() && self.entries_behind == 0 && self.packs_to_send == 0
    }

    /// Whether a session is open, and the peer told in it what it lacks.
    #[must_use]
    pub fn has_told(&self) -> bool {
        self.session == SessionState::Open && self.told_lack
    }
}
