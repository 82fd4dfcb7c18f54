//! `coboxd`: opens the store, mounts the folders, runs the network, and answers on the control socket.
//!
//! It composes and does nothing itself: sealing, the tree, the kernel and the wire are in their crates.
//! It holds the keys in memory until it ends; on disk they stay in their slots.

mod agreements;
mod alarm;
mod alarms;
mod check;
mod chores;
mod conflicts;
mod departing;
mod folder;
mod giving;
mod hooks;
mod joining;
mod leaving;
mod let_go;
mod members;
mod mounts;
mod network;
mod outbox;
mod owning;
mod policy;
mod proof;
mod seeders;
mod serve;
mod status;
mod unseen;
mod wait;

pub(crate) use giving::Prune;
pub(crate) use network::{keep_found, only_dialing};
pub(crate) use seeders::parse_address;
pub(crate) use serve::answer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cobox_net::Node;
use cobox_net::http::Server;
use cobox_store::id::FolderNo;
use cobox_store::keyed::{Home, Unlock};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::exit::{Outcome, Problem};
use crate::paths::{Paths, private_dir};
use folder::FolderState;

/// How long the background threads may take to notice the end.
pub(crate) const TICK: Duration = Duration::from_millis(500);

/// What all threads of the daemon share.
pub(crate) struct Daemon {
    pub paths: Paths,
    pub home: Arc<Home>,
    pub node: Node,
    folders: RwLock<BTreeMap<FolderNo, Arc<FolderState>>>,
    /// Counts what makes the locators on the seeders stale.
    pub locator_version: AtomicU64,
    pub unlocked_by: UnlockedBy,
    /// One command to a seeder at a time: its number is the next one.
    pub owning: Mutex<()>,
    api: Mutex<Option<Arc<Server>>>,
    ending: AtomicBool,
    end: Notify,
    ended: Mutex<bool>,
}

/// How the keys were unlocked, for `key show`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnlockedBy {
    /// Somebody typed it, or it came from a file.
    Passphrase,
    /// The key file.
    KeyFile,
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Runs the daemon until a signal or `daemon stop` ends it. `ready` is called once it answers.
///
/// # Errors
/// When the home cannot be opened or the socket not be made.
pub fn run(paths: Paths, unlock: Unlock, ready: impl FnOnce()) -> Outcome<()> {
    private_dir(&paths.run)?;
    let unlocked_by = match unlock {
        Unlock::Passphrase(_) => UnlockedBy::Passphrase,
        Unlock::KeyFile(_) => UnlockedBy::KeyFile,
    };
    let home = Home::open(&paths.store, unlock)?;
    // The store's lock is ours from here on, so a socket that is there is a dead daemon's.
    let listener = serve::listen(&paths)?;
    let seed = home.net_key()?;
    let node =
        network::start(&paths.home, |config| Node::start(Arc::clone(home.store()), seed.clone(), config))?;
    let daemon = Arc::new(Daemon {
        paths,
        home,
        node,
        folders: RwLock::default(),
        locator_version: AtomicU64::new(1),
        unlocked_by,
        owning: Mutex::new(()),
        api: Mutex::default(),
        ending: AtomicBool::new(false),
        end: Notify::new(),
        ended: Mutex::new(false),
    });
    for info in daemon.home.folders()? {
        daemon.adopt(daemon.home.folder(info.no)?)?;
    }
    daemon.remount();
    let mut background = vec![
        chores::start_keeper(&daemon)?,
        chores::start_courier(&daemon)?,
        chores::start_patrol(&daemon)?,
        giving::start_giver(&daemon)?,
        hooks::start_watcher(&daemon)?,
    ];
    background.extend(outbox::start_tellers(&daemon)?);
    // Before commands are answered: whoever got an answer finds the API, too.
    *daemon.api.lock() = Some(Arc::new(crate::api::start(&daemon)?));
    serve::start(&daemon, listener)?;
    tracing::info!(pid = std::process::id(), "ready");
    ready();
    wait_for_end(&daemon)?;
    daemon.shut_down();
    for thread in background {
        if thread.join().is_err() {
            tracing::error!("a background thread had died");
        }
    }
    Ok(())
}

fn wait_for_end(daemon: &Daemon) -> Outcome<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let problem = |error: std::io::Error| Problem::failed(format!("Signals cannot be received: {error}."));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(problem)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(problem)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(problem)?;
        let mut hang_up = signal(SignalKind::hangup()).map_err(problem)?;
        tokio::select! {
            _ = terminate.recv() => tracing::info!("asked to end by SIGTERM"),
            _ = interrupt.recv() => tracing::info!("asked to end by SIGINT"),
            _ = hang_up.recv() => tracing::info!("asked to end by SIGHUP"),
            () = daemon.end.notified() => tracing::info!("asked to end by the control socket"),
        }
        Ok(())
    })
}

impl Daemon {
    /// Whether everything should come to an end.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// The HTTP API, once it answers.
    pub fn api(&self) -> Option<Arc<Server>> {
        self.api.lock().clone()
    }

    /// All folders, in the order of their numbers.
    pub fn folders(&self) -> Vec<Arc<FolderState>> {
        self.folders.read().values().cloned().collect()
    }

    /// The folder as it is now: one that goes on under a fresh log is opened anew.
    pub fn folder_now(&self, state: &FolderState) -> Outcome<Arc<FolderState>> {
        let now = self.folders.read().get(&state.no()).cloned();
        now.ok_or_else(|| Problem::failed(format!("The folder {} is gone.", state.folder.name())))
    }

    /// A folder by its name.
    pub fn folder(&self, name: &str) -> Outcome<Arc<FolderState>> {
        self.folders().into_iter().find(|state| state.folder.name() == name).ok_or_else(|| {
            Problem::missing(
                format!("This device has no folder named {name:?}."),
                "`cobox-ctl folder list` shows its folders, `cobox-ctl folder create` makes one.",
            )
        })
    }

    /// The named folder, or all.
    pub fn chosen(&self, name: Option<&str>) -> Outcome<Vec<Arc<FolderState>>> {
        name.map_or_else(|| Ok(self.folders()), |name| Ok(vec![self.folder(name)?]))
    }

    /// Takes a folder into service: from now on it syncs.
    pub fn adopt(&self, folder: Arc<cobox_store::keyed::Folder>) -> Outcome<Arc<FolderState>> {
        let state = Arc::new(FolderState::new(folder));
        state.recall_watch();
        self.folders.write().insert(state.no(), Arc::clone(&state));
        self.tell_network(&state)?;
        self.recall_contacts(&state);
        Ok(state)
    }

    /// Takes a folder out of service.
    fn forget(&self, state: &FolderState) {
        self.folders.write().remove(&state.no());
    }

    /// Makes a folder and takes it into service.
    pub fn folder_create(&self, name: &str) -> Outcome<Arc<FolderState>> {
        let state = self.adopt(self.home.folder_create(name)?)?;
        self.locator_version.fetch_add(1, Ordering::SeqCst);
        Ok(state)
    }

    /// Ends everything, unless programs use a mount.
    pub fn shut_down_unless_in_use(self: &Arc<Self>) -> Outcome<()> {
        if !self.is_ending() {
            self.unmount_all_unless_in_use()?;
        }
        self.shut_down();
        Ok(())
    }

    /// Ends everything, once: mounts first, so that what was written is cut and can still be sent.
    pub fn shut_down(&self) {
        let mut ended = self.ended.lock();
        if *ended {
            return;
        }
        *ended = true;
        self.ending.store(true, Ordering::SeqCst);
        if let Some(api) = self.api.lock().take() {
            api.stop();
        }
        self.unmount_all();
        self.node.shutdown();
        // Once for each daemon and not for each mount: who unmounts a drive waits for it.
        match self.home.store().db().settle() {
            Ok(settled) => tracing::debug!(?settled, "superseded rows"),
            Err(error) => tracing::debug!(%error, "superseded rows keep their room until they are compacted"),
        }
        if let Err(error) = std::fs::remove_file(self.paths.socket()) {
            tracing::warn!(%error, "the control socket stays behind");
        }
        self.end.notify_one();
        tracing::info!("ended");
    }
}
