//! The seeder: an unattended node that holds ciphertext, serves it, and proves that it does.
//!
//! [`run`] is the program's body; [`commands`] is what a running seeder answers over the Unix socket in
//! its data folder. It links no code that opens chunks, packs, entries or epochs.

mod allowance;
pub mod api;
pub mod asking;
pub mod commands;
mod console;
mod contracts;
mod heard;
pub mod holding;
pub mod identity;
pub mod keeping;
pub mod leaving;
pub mod limits;
pub mod orders;
pub mod owner;
mod pending;
mod places;
pub mod redeem;
pub mod report;
pub mod rules;
#[cfg(test)]
mod testing;

use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cobox_store::blind::{Store, StoreKind};

use crate::http::Place;
use crate::node::{LanDiscovery, NetConfig, Node, Speaks};
use crate::patrol::{self, Pace};
use holding::Holding;
use identity::Identity;
pub use rules::Accept;

/// Where a seeder listens unless told otherwise.
pub const LISTEN_DEFAULT: [&str; 2] = ["/ip4/0.0.0.0/tcp/7740", "/ip4/0.0.0.0/udp/7740/quic-v1"];

/// Exit codes of the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It did not work.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Not reached.
    NotReached = 3,
    /// Refused by permission or policy.
    Refused = 4,
    /// Damage was found.
    Damage = 5,
}

impl Exit {
    /// What it is called in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotReached => "not-reached",
            Self::Refused => "refused",
            Self::Damage => "damaged",
        }
    }
}

/// Why a command did not work, as a sentence, and the exit code.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// For people.
    pub text: String,
    /// Whether what was named does not exist: in HTTP a status of its own.
    pub missing: bool,
}

impl Failure {
    /// A plain failure.
    pub fn failed(text: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, text: text.into(), missing: false }
    }

    /// What was named does not exist.
    pub fn missing(text: impl Into<String>) -> Self {
        Self { missing: true, ..Self::failed(text) }
    }
}

impl From<cobox_store::Error> for Failure {
    fn from(error: cobox_store::Error) -> Self {
        if let cobox_store::Error::Broken { path, .. } = &error {
            let text = format!(
                "The store cannot be opened: {}. It was left as it is. Look at the disk's health. To begin again under the same name, \
                 move {} and the file FORMAT beside it away, keep the file identity, and start: members and other seeders bring \
                 their folders again.",
                chain(&error).trim_end_matches('.'),
                path.display()
            );
            return Self { exit: Exit::Damage, ..Self::failed(text) };
        }
        Self::failed(match &error {
            cobox_store::Error::Locked { path } => {
                format!("Another seeder is already running on {}.", path.display())
            }
            error => format!("The store failed: {}.", chain(error)),
        })
    }
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        Self::failed(match &error {
            crate::Error::Taken { address } => format!(
                "Another program listens on {address} already, perhaps another seeder. Stop it, or give this one another \
                 address with --listen."
            ),
            error => format!("{}.", chain(error)),
        })
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// How a seeder runs.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Its data folder; made if it does not exist.
    pub data: PathBuf,
    /// Multiaddresses to listen on.
    pub listen: Vec<String>,
    /// Multiaddresses to put into its address besides, and first: a name, or what a router forwards to it.
    pub announce: Vec<String>,
    /// Whether devices on the local network find it, by mDNS.
    pub lan: LanDiscovery,
    /// See [`Accept`].
    pub accept: Accept,
    /// How often and how fast what is stored is read for damage.
    pub pace: Pace,
    /// Where the API answers on TCP, besides the socket in the data folder.
    pub http: Option<Place>,
}

/// Whoever asks for the status of a seeder that does not run has its store for as long: one that starts just then waits.
const STORE_WAIT: Duration = Duration::from_secs(5);
const STORE_POLL: Duration = Duration::from_millis(20);

/// Opens the store, or makes it on the first run.
///
/// # Errors
/// When it is in use and stays so, or cannot be opened.
pub fn open_store(data: &Path) -> Result<Arc<Store>, Failure> {
    let deadline = Instant::now() + STORE_WAIT;
    loop {
        match try_store(data) {
            Err(cobox_store::Error::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(STORE_POLL);
            }
            opened => return Ok(opened?),
        }
    }
}

fn try_store(data: &Path) -> cobox_store::error::Result<Arc<Store>> {
    match Store::open(data, StoreKind::Seeder) {
        // Where there is something else, making a store fails and says so.
        Err(cobox_store::Error::NotAStore { .. }) => Store::create(data, StoreKind::Seeder),
        opened => opened,
    }
}

/// Makes a folder that nobody else on the machine may look into.
fn make_private(data: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(data)
}

/// A store that is somebody's, without the key by which members know whose.
fn lost_identity(data: &Path) -> Failure {
    let text = format!(
        "The file identity is missing in {}, but there are folders that members gave to the seeder that it names. Put it back from a \
         copy. Without it this box is a stranger to them: start a new seeder with another --data, and have it granted their \
         folders.",
        data.display()
    );
    Failure { exit: Exit::Damage, ..Failure::failed(text) }
}

/// Runs until `stop` is set. Prints the address once it listens.
///
/// # Errors
/// When the data folder or an address cannot be used.
pub fn run(options: &RunOptions, stop: &Arc<AtomicBool>) -> Result<(), Failure> {
    make_private(&options.data)
        .map_err(|error| Failure::failed(format!("{} cannot be made: {error}.", options.data.display())))?;
    // The store's lock comes first: it is what keeps a second seeder out.
    let store = open_store(&options.data)?;
    if !Identity::exists(&options.data) && !store.folders()?.is_empty() {
        return Err(lost_identity(&options.data));
    }
    let identity = Identity::open_or_create(&options.data)?;
    let seed = identity.seed.clone();
    let holding = Holding::new(Arc::clone(&store), identity, options.accept.clone(), &options.data)?;
    let rule = Arc::clone(&holding);
    let orders = orders::Orders::new(Arc::clone(&holding))?;
    // The node asks the rule, and the rule needs the node: it is put here once there is one.
    let place: Arc<parking_lot::Mutex<Option<Node>>> = Arc::default();
    let (inner, obeying) = (Arc::clone(&place), Arc::clone(&orders));
    let obey: crate::node::OrderRule = Arc::new(move |peer, question, ordered| {
        let node = inner.lock().clone()?;
        obeying.answer(&node, peer, question, ordered)
    });
    let config = NetConfig {
        listen: options.listen.clone(),
        announce: options.announce.clone(),
        speaks: Speaks::AsSeeder { word: places::last_word(&store)? },
        lan: options.lan,
        frame_tap: None,
        grants: Some(Arc::new(move |peer, records| rule.decide(peer, records))),
        orders: Some(obey),
        ..NetConfig::default()
    };
    let (patrolled, kept) = (Arc::clone(&store), Arc::clone(&store));
    let node = Node::start(store, seed, config)?;
    let address = holding.identity.address(node.addresses());
    identity::save_address(&options.data, &address)?;
    for text in node.listen_texts() {
        tracing::info!(address = text, "listening");
    }
    // Nobody may be reading, which is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{}", address.to_text());
    invite_owner(&holding, &node)?;
    *place.lock() = Some(node.clone());
    holding.attach(&node);
    let socket = console::Socket::bind(&options.data)?;
    let api = api::start(&options.data, options.http.as_ref(), &holding, &orders, &node)?;
    let answering = socket.answer(Arc::clone(&holding), orders, node.clone(), Arc::clone(stop));
    let seeking = {
        let (holding, node, ending) = (Arc::clone(&holding), node.clone(), Arc::clone(stop));
        std::thread::spawn(move || holding.seek(&node, &|| ending.load(Ordering::SeqCst)))
    };
    let (pace, ending) = (options.pace, Arc::clone(stop));
    let patrol =
        std::thread::spawn(move || patrol::walk(&patrolled, pace, &|| ending.load(Ordering::SeqCst)));
    let (keeper, ending) = (node.clone(), Arc::clone(stop));
    let keeping =
        std::thread::spawn(move || keeping::keep(&kept, &keeper, &|| ending.load(Ordering::SeqCst)));
    let ending = Arc::clone(stop);
    holding.follow(&move || ending.load(Ordering::SeqCst));
    api.stop();
    holding.detach();
    *place.lock() = None;
    node.shutdown();
    let _ = seeking.join();
    let _ = answering.join();
    let _ = patrol.join();
    let _ = keeping.join();
    tracing::info!("stopped");
    Ok(())
}

/// Shows the code that makes somebody the owner, while nobody is. It goes to standard output alone, never to
/// the log.
fn invite_owner(holding: &Holding, node: &Node) -> Result<(), Failure> {
    let Some(secret) = owner::console_secret(&holding.store, owner::Console::First)? else { return Ok(()) };
    let code = owner::claim_text(node.peer_id(), &node.addresses(), &secret)?;
    tracing::info!("nobody owns this seeder yet: `cobox-seeder claim` shows the code that makes an owner");
    let _ = writeln!(std::io::stdout(), "Nobody owns this seeder yet. {}", owner::claim_hint(&code));
    Ok(())
}

/// How often the socket looks whether the seeder is to stop.
pub(crate) const STOP_LOOK: Duration = Duration::from_millis(200);
/// How long a stop waits for an answer that is being given.
pub(crate) const STOP_WAIT: Duration = Duration::from_secs(10);
