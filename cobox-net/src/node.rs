//! The facade: one node of the network, for a daemon or a seeder.
//!
//! A [`Node`] owns its own threads, so its methods may be called from anywhere that is not an async
//! task: most return at once, and those that ask a peer (`audit`, `locator_*`, `recovery_*`) wait for
//! the answer, at most [`REQUEST_WAIT`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cobox_store::blind::Store;
use cobox_store::format::access::Record;
use cobox_store::format::address::SeederAddress;
use cobox_store::format::locator::Locator;
use cobox_store::format::receipt::Receipt;
use cobox_store::id::{FolderId, FolderNo, LocatorId, LogId, MemberId};
use zeroize::Zeroizing;

use crate::error::Result;
use crate::peer_id::PeerId;
use crate::status::NetStatus;

/// How long a question to a peer may take, connecting included.
pub const REQUEST_WAIT: Duration = Duration::from_secs(30);

/// A folder's swarm secret, which is proved to peers and never sent.
pub type SwarmKey = Zeroizing<[u8; 32]>;

/// Signs a session's transcript with a key of the folder: `"cobox/v1/session" ‖ H(transcript)`.
pub type Signer = Arc<dyn Fn(&[u8]) -> [u8; 64] + Send + Sync>;

/// What a member's node must know to sync a folder.
#[derive(Clone)]
pub struct FolderSecrets {
    /// The folder's number in the store.
    pub no: FolderNo,
    /// Swarm secrets of all epochs, newest first; never empty.
    pub swarm: Vec<SwarmKey>,
    /// Signs with the device's key of the folder.
    pub signer: Signer,
    /// That key.
    pub log: LogId,
}

/// A member's recovery key of one folder, for a device that has nothing but the words.
#[derive(Clone)]
pub struct RecoverySigner {
    /// The key.
    pub member: MemberId,
    /// Signs like [`FolderSecrets::signer`].
    pub sign: Signer,
}

/// How a node meets the world.
#[derive(Clone, Debug, Default)]
pub struct NetConfig {
    /// Multiaddresses to listen on, as text; none for a node that only dials.
    pub listen: Vec<String>,
    /// Appends every plaintext frame to this file; `COBOX_FRAME_TAP` sets it too. A debugging aid.
    pub frame_tap: Option<PathBuf>,
}

/// A node. Clones share it.
#[derive(Clone)]
pub struct Node {}

impl Node {
    /// Starts listening and dialing. `identity` is the Ed25519 seed of the peer id.
    ///
    /// # Errors
    /// When an address is not usable or is in use.
    pub fn start(store: Arc<Store>, identity: Zeroizing<[u8; 32]>, config: NetConfig) -> Result<Self> {
        todo!()
    }

    /// Syncs a folder from now on; a second call replaces its secrets (a new epoch).
    pub fn add_folder(&self, secrets: FolderSecrets) {
        todo!()
    }

    /// Stops syncing a folder.
    pub fn remove_folder(&self, no: FolderNo) {
        todo!()
    }

    /// Replaces the peers that are dialed for a folder: its seeders.
    pub fn set_peers(&self, no: FolderNo, peers: Vec<SeederAddress>) {
        todo!()
    }

    /// Dials at once, without waiting for the next attempt.
    pub fn connect(&self, address: &SeederAddress) {
        todo!()
    }

    /// This node's own peer id.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        todo!()
    }

    /// Addresses that the node listens on, as binary multiaddresses, wildcards expanded.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<Vec<u8>> {
        todo!()
    }

    /// The same, as text.
    #[must_use]
    pub fn listen_texts(&self) -> Vec<String> {
        todo!()
    }

    /// What is known about a folder's peers; waits for the engine a moment.
    ///
    /// # Errors
    /// When the folder was not added, or the store fails.
    pub fn status(&self, no: FolderNo) -> Result<NetStatus> {
        todo!()
    }

    /// Challenges a peer over the live packs, verifies each proof, and stores the signed receipt.
    ///
    /// # Errors
    /// When the peer has no open session or cannot prove what it holds.
    pub fn audit(&self, no: FolderNo, peer: PeerId) -> Result<Receipt> {
        todo!()
    }

    /// Leaves a locator with a seeder that has accepted one of our folders.
    ///
    /// # Errors
    /// When the seeder is not reached or refuses.
    pub fn locator_publish(&self, seeder: &SeederAddress, locator: &Locator) -> Result<()> {
        todo!()
    }

    /// Asks a seeder for a locator; the answer is verified.
    ///
    /// # Errors
    /// When the seeder is not reached.
    pub fn locator_fetch(&self, seeder: &SeederAddress, id: LocatorId) -> Result<Option<Locator>> {
        todo!()
    }

    /// Fetches a folder's access log with a recovery key named in it.
    ///
    /// # Errors
    /// When the seeder is not reached, or does not have the folder or the key in it.
    pub fn recovery_fetch_access(
        &self,
        seeder: &SeederAddress,
        folder: FolderId,
        signer: &RecoverySigner,
    ) -> Result<Vec<Record>> {
        todo!()
    }

    /// Closes every connection and stops the threads.
    pub fn shutdown(&self) {
        todo!()
    }
}
