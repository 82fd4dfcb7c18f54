//! The facade: one node of the network, for a daemon or a seeder.
//!
//! A [`Node`] owns its own threads, so its methods may be called from anywhere that is not an async
//! task: most return at once, and those that ask a peer (`audit`, `locator_*`, `recovery_*`) wait for
//! the answer, at most [`REQUEST_WAIT`].

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cobox_store::blind::Store;
use cobox_store::blind::owners::Outcome;
use cobox_store::format::DecodeError;
use cobox_store::format::access::Record;
use cobox_store::format::address::SeederAddress;
use cobox_store::format::agreement::Paper;
use cobox_store::format::invite::{Hint, JoinRequest};
use cobox_store::format::locator::Locator;
use cobox_store::format::receipt::Receipt;
use cobox_store::format::seeding::SeedRequest;
use cobox_store::id::{FolderId, FolderNo, LocatorId, LogId, MemberId};
use zeroize::Zeroizing;

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::peer_id::PeerId;
use crate::status::{Connection, NetStatus};
use crate::sync::{Ask, Identity, Input, Keep, Ordered, Reply};
use crate::wire::{
    ClaimAnswer, GrantAnswer, QuestionId, SeedingFrame, Whereabouts, decode_contacts, decode_whereabouts,
    encode_contacts, encode_whereabouts, encode_word,
};

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

/// Decides on a grant that a member offers; called on a thread that may wait. `None` when the records are
/// no grant of this node.
pub type GrantRule = Arc<dyn Fn(PeerId, Vec<Record>) -> Option<(FolderId, GrantAnswer)> + Send + Sync>;

/// Answers claims and commands; called on a thread that may wait, one at a time. `None` for no answer.
pub type OrderRule = Arc<dyn Fn(PeerId, QuestionId, Ordered) -> Option<SeedingFrame> + Send + Sync>;
/// Whether a node looks for peers on the local network, and lets them find it. What that tells the network
/// is in `docs/threat-model.md`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LanDiscovery {
    /// By mDNS.
    On,
    /// Not at all.
    #[default]
    Off,
}

/// Whether a node calls others.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Dialing {
    /// Whom it knows.
    #[default]
    On,
    /// Nobody: whoever is to be reached counts as not reached.
    Off,
}

/// As whom a node says where it is (`docs/format.md` §14.5).
#[derive(Clone, Default, Debug)]
pub enum Speaks {
    /// As the device of each folder, with its key there.
    #[default]
    AsDevice,
    /// As a seeder, with its peer id's key.
    AsSeeder {
        /// What [`Node::moves`] said of it last.
        word: Option<Vec<u8>>,
    },
}

/// How a node meets the world.
#[derive(Clone, Default)]
pub struct NetConfig {
    /// Multiaddresses to listen on, as text; none for a node that only dials.
    pub listen: Vec<String>,
    /// Multiaddresses to give to others besides, as text: a name, or what a router forwards.
    pub announce: Vec<String>,
    /// As whom it says where it is.
    pub speaks: Speaks,
    /// Whether peers on the local network are found.
    pub lan: LanDiscovery,
    /// Whether others are called.
    pub dialing: Dialing,
    /// Appends every plaintext frame to this file; `COBOX_FRAME_TAP` names one too. A debugging aid.
    pub frame_tap: Option<PathBuf>,
    /// What a seeder says to grants; without it they are refused.
    pub grants: Option<GrantRule>,
    /// Who obeys claims and commands; without it they are not answered.
    pub orders: Option<OrderRule>,
}

/// A node. Clones share it; it ends with [`Node::shutdown`] or the last clone.
#[derive(Clone)]
pub struct Node {
    driver: Arc<Driver>,
    announced: Arc<[Vec<u8>]>,
}

impl Node {
    /// Starts listening and dialing. `identity` is the Ed25519 seed of the peer id.
    ///
    /// # Errors
    /// When an address is not usable or is in use.
    pub fn start(store: Arc<Store>, identity: Zeroizing<[u8; 32]>, mut config: NetConfig) -> Result<Self> {
        if config.frame_tap.is_none() {
            config.frame_tap = std::env::var_os("COBOX_FRAME_TAP").map(PathBuf::from);
        }
        let usable = |text: &String| crate::swarm::usable(text).map(|address| address.to_vec());
        let announced = config.announce.iter().map(usable).collect::<Result<_>>()?;
        Ok(Self { driver: Driver::start(store, identity, config)?, announced })
    }

    /// Syncs a folder from now on; a second call replaces its secrets (a new epoch).
    pub fn add_folder(&self, secrets: FolderSecrets) {
        let identity = Identity::Member { log: secrets.log, signer: secrets.signer };
        self.driver.input(Input::Folder { no: secrets.no, identity, secrets: secrets.swarm });
    }

    /// Holds a folder as a seeder from now on, or replaces its secrets.
    pub fn seed_folder(&self, no: FolderNo, swarm: Vec<SwarmKey>) {
        self.driver.input(Input::Folder { no, identity: Identity::Seeder, secrets: swarm });
    }

    /// Stops syncing a folder.
    pub fn remove_folder(&self, no: FolderNo) {
        self.driver.input(Input::FolderGone { no });
    }

    /// Replaces the peers that are dialed for a folder: its seeders.
    pub fn set_peers(&self, no: FolderNo, peers: Vec<SeederAddress>) {
        let peers = peers
            .into_iter()
            .filter_map(|peer| Some((PeerId::from_bytes(&peer.peer_id)?, peer.addresses)))
            .collect();
        self.driver.input(Input::Peers { no, peers });
    }

    /// Takes what [`Self::contacts`] said before, if it is that.
    pub fn recall(&self, no: FolderNo, contacts: &[u8]) {
        let known = decode_contacts(contacts).map(|contacts| Whereabouts { contacts, came: Vec::new() });
        self.recall_known(no, known);
    }

    /// Takes what [`Self::moves`] said before of a folder, if it is that.
    pub fn recall_whereabouts(&self, no: FolderNo, known: &[u8]) {
        self.recall_known(no, decode_whereabouts(known));
    }

    fn recall_known(&self, no: FolderNo, known: std::result::Result<Whereabouts, DecodeError>) {
        match known {
            Ok(known) => self.driver.input(Input::Recall { no, known }),
            Err(error) => tracing::warn!(no = no.0, %error, "what was known of devices cannot be read"),
        }
    }

    /// What a seeder is to keep, as far as it changed: its own word, and what is known of each folder's devices.
    ///
    /// # Errors
    /// When the node has ended.
    pub fn moves(&self, keep: Keep) -> Result<(Option<Vec<u8>>, Vec<(FolderNo, Vec<u8>)>)> {
        let (word, folders) = self.driver.moves(keep)?;
        let word = word.map(|(addresses, said_ms)| encode_word(&addresses, said_ms));
        Ok((word, folders.iter().map(|(no, known)| (*no, encode_whereabouts(known))).collect()))
    }

    /// Where the folder's other devices said they are, for [`Self::recall`] after a restart.
    ///
    /// # Errors
    /// When the node has ended.
    pub fn contacts(&self, no: FolderNo) -> Result<Vec<u8>> {
        self.driver.contacts(no).map(|contacts| encode_contacts(&contacts))
    }

    /// Dials at once, without waiting for the next attempt.
    pub fn connect(&self, address: &SeederAddress) {
        if let Some(peer) = PeerId::from_bytes(&address.peer_id) {
            self.driver.input(Input::Connect { peer, addresses: address.addresses.clone() });
        }
    }

    /// Says what the owner decided on a grant that was pending, to everybody who waits for that.
    pub fn grant_decided(&self, peer: PeerId, folder: FolderId, answer: GrantAnswer) {
        self.driver.input(Input::GrantDecided { peer, folder, answer });
    }

    /// This node's own peer id.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.driver.me
    }

    /// Where others may reach the node, as binary multiaddresses: what it announces, and then what it listens on.
    #[must_use]
    pub fn addresses(&self) -> Vec<Vec<u8>> {
        let listening = self.driver.listening().into_iter().map(|(bytes, _)| bytes);
        self.announced.iter().cloned().chain(listening).collect()
    }

    /// What it listens on, as text, wildcards expanded.
    #[must_use]
    pub fn listen_texts(&self) -> Vec<String> {
        self.driver.listening().into_iter().map(|(_, text)| text).collect()
    }

    /// All open connections.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        self.driver.connections()
    }

    /// What was refused since the node began, by kind; see [`crate::tally::Refusal`].
    #[must_use]
    pub fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.driver.refusals()
    }

    /// What is known about a folder's peers; waits for the engine a moment.
    ///
    /// # Errors
    /// When the folder was not added, or the store fails.
    pub fn status(&self, no: FolderNo) -> Result<NetStatus> {
        self.driver.status(no)
    }

    /// Folders in which a member's device has a session open now; costs one look for all of them.
    ///
    /// # Errors
    /// When the node ended.
    pub fn with_members(&self) -> Result<BTreeSet<FolderNo>> {
        self.driver.with_members()
    }

    /// Challenges a peer over the live packs, verifies each proof, and stores the signed receipt.
    ///
    /// # Errors
    /// When the peer has no open session or cannot prove what it holds.
    pub fn audit(&self, no: FolderNo, peer: PeerId) -> Result<Receipt> {
        match self.driver.ask(peer, Vec::new(), Ask::Audit { no, entropy: crate::driver::random()? })? {
            Reply::Receipt(receipt) => Ok(*receipt),
            _ => Err(Error::Protocol { peer }),
        }
    }

    /// Leaves a locator with a seeder that has accepted one of our folders.
    ///
    /// # Errors
    /// When the seeder is not reached or refuses.
    pub fn locator_publish(&self, seeder: &SeederAddress, locator: &Locator) -> Result<()> {
        let peer = peer_of(seeder)?;
        match self.driver.ask(peer, seeder.addresses.clone(), Ask::LocatorPut(locator.encode()))? {
            Reply::Stored => Ok(()),
            _ => Err(Error::Protocol { peer }),
        }
    }

    /// Asks a seeder for a locator; the answer is verified.
    ///
    /// # Errors
    /// When the seeder is not reached.
    pub fn locator_fetch(&self, seeder: &SeederAddress, id: LocatorId) -> Result<Option<Locator>> {
        let peer = peer_of(seeder)?;
        match self.driver.ask(peer, seeder.addresses.clone(), Ask::LocatorGet(id))? {
            Reply::Locator(found) => Ok(found.map(|found| *found)),
            _ => Err(Error::Protocol { peer }),
        }
    }

    /// Fetches a folder's access log with a recovery key named in it. What the recovering device then
    /// appends (its own AddDevice) reaches the seeder through [`Node::add_folder`]: a device that proves
    /// the swarm secret may always exchange access records.
    ///
    /// # Errors
    /// When the seeder is not reached, or does not have the folder or the key in it.
    pub fn recovery_fetch_access(
        &self,
        seeder: &SeederAddress,
        folder: FolderId,
        signer: &RecoverySigner,
    ) -> Result<Vec<Record>> {
        let peer = peer_of(seeder)?;
        let ask = Ask::Recover { folder, signer: signer.clone() };
        match self.driver.ask(peer, seeder.addresses.clone(), ask)? {
            Reply::Records(records) => Ok(records),
            _ => Err(Error::Protocol { peer }),
        }
    }

    /// Asks a peer of an invite's code to let a device in; `sign` signs with the invite's key. The access
    /// log once an admin has, `None` while the request is on its way.
    ///
    /// # Errors
    /// When the peer is not reached, or refuses: it does not know the invite as open.
    pub fn redeem(&self, hint: &Hint, request: &JoinRequest, sign: Signer) -> Result<Option<Vec<Record>>> {
        let peer = PeerId::of_key(hint.peer);
        let ask = Ask::Redeem { request: Box::new(request.clone()), signer: sign };
        match self.driver.ask(peer, hint.addresses.clone(), ask)? {
            Reply::Records(records) => Ok(Some(records)),
            Reply::Waiting => Ok(None),
            _ => Err(Error::Protocol { peer }),
        }
    }

    /// Requests to be let into our folders that came since the last call.
    #[must_use]
    pub fn take_joins(&self) -> Vec<(FolderNo, JoinRequest)> {
        self.driver.take_joins()
    }

    /// Asks a peer of a seed code for a grant. The access log once an admin has granted it, `None` while the
    /// request is on its way.
    ///
    /// # Errors
    /// When the peer is not reached, or refuses: it does not know the code as open.
    pub fn redeem_seed(&self, hint: &Hint, request: &SeedRequest) -> Result<Option<Vec<Record>>> {
        let peer = PeerId::of_key(hint.peer);
        let ask = Ask::RedeemSeed(Box::new(request.clone()));
        match self.driver.ask(peer, hint.addresses.clone(), ask)? {
            Reply::Records(records) => Ok(Some(records)),
            Reply::Waiting => Ok(None),
            _ => Err(Error::Protocol { peer }),
        }
    }

    /// Asks a seeder to become one of its admins; `claim` is encoded.
    ///
    /// # Errors
    /// When it is not reached, or refuses: the code is not open.
    pub fn claim(&self, seeder: &Hint, claim: Vec<u8>) -> Result<ClaimAnswer> {
        let peer = PeerId::of_key(seeder.peer);
        match self.driver.ask(peer, seeder.addresses.clone(), Ask::Claim(claim))? {
            Reply::Claimed(answer) => Ok(answer),
            _ => Err(Error::Protocol { peer }),
        }
    }

    /// Gives a seeder an order; `command` is encoded. Sent again on another connection where one breaks, which
    /// is harmless: a seeder does nothing twice.
    ///
    /// # Errors
    /// When it is not reached, or does not answer.
    pub fn command(&self, seeder: &Hint, command: Vec<u8>) -> Result<(Outcome, String)> {
        let peer = PeerId::of_key(seeder.peer);
        match self.driver.ask(peer, seeder.addresses.clone(), Ask::Command(command))? {
            Reply::Obeyed { outcome, text } => Ok((outcome, text)),
            _ => Err(Error::Protocol { peer }),
        }
    }

    /// Lays papers before a folder's devices, instead of those before.
    pub fn lay_papers(&self, no: FolderNo, papers: Vec<Vec<u8>>) {
        self.driver.input(Input::Papers { no, papers });
    }

    /// Requests of seeders that have a code, since the last call.
    #[must_use]
    pub fn take_seeds(&self) -> Vec<(FolderNo, SeedRequest)> {
        self.driver.take_seeds()
    }

    /// Papers of our folders' seeders that came since the last call.
    #[must_use]
    pub fn take_papers(&self) -> Vec<(FolderNo, PeerId, Paper)> {
        self.driver.take_papers()
    }

    /// Closes every connection and stops the threads; at most a few seconds.
    pub fn shutdown(&self) {
        self.driver.shutdown();
    }
}

fn peer_of(seeder: &SeederAddress) -> Result<PeerId> {
    let bad = || Error::BadAddress { text: seeder.to_text() };
    PeerId::from_bytes(&seeder.peer_id).ok_or_else(bad)
}
