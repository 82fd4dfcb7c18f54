//! `init` and `recover`: making a device, before any daemon can run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cobox_net::{NetConfig, Node, RecoverySigner};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::locator::LocatorFolder;
use cobox_store::keyed::{Home, MemberSecret, Unlock};
use serde_json::{Value, json};

use super::args::{Init, Recover};
use super::client::ask;
use super::secrets::{new_passphrase, on_terminal, read_secret, show_and_ask_back, words_file, write_words};
use crate::control::Request;
use crate::exit::{Exit, Outcome, Problem};
use crate::paths::{Paths, private_dir};
use crate::render::progress::Progress;
use crate::report::ArriveReport;

/// The lock of a new device.
fn choose_unlock(paths: &Paths, passphrase_file: Option<&PathBuf>, no_passphrase: bool) -> Outcome<Unlock> {
    if no_passphrase {
        if let Some(dir) = paths.key.parent() {
            private_dir(dir)?;
        }
        Ok(Unlock::KeyFile(paths.key.clone()))
    } else {
        new_passphrase(passphrase_file).map(Unlock::Passphrase)
    }
}

/// Refuses to touch a device that is there.
fn require_no_device(paths: &Paths) -> Outcome<()> {
    if paths.has_device() {
        return Err(Problem::refused(
            format!("There is a device at {} already.", paths.home.display()),
            "Use it, or set COBOX_HOME to another folder for a second one.",
        ));
    }
    Ok(())
}

/// Says what to do where no device is.
///
/// # Errors
/// When there is none.
pub(crate) fn require_device(paths: &Paths) -> Outcome<()> {
    if paths.has_device() {
        return Ok(());
    }
    Err(Problem::failed_with(
        format!("There is no device at {} yet.", paths.home.display()),
        "Set one up with `cobox-ctl init --label NAME`, or get everything back with `cobox-ctl recover`.",
    ))
}

/// Removes a half-made device when something goes wrong before it is whole.
struct Unfinished<'a> {
    paths: &'a Paths,
    made_key: bool,
    keep: bool,
}

impl<'a> Unfinished<'a> {
    fn new(paths: &'a Paths) -> Self {
        Self { paths, made_key: !paths.key.exists(), keep: false }
    }

    fn finished(mut self) {
        self.keep = true;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let _ = std::fs::remove_dir_all(&self.paths.store);
        if self.made_key {
            let _ = std::fs::remove_file(&self.paths.key);
        }
    }
}

/// `init`.
///
/// # Errors
/// When a device is there, nobody can be shown the words, or the disk fails.
pub(crate) fn init(paths: &Paths, args: &Init, passphrase_file: Option<&PathBuf>) -> Outcome<Value> {
    require_no_device(paths)?;
    if args.words_out.is_none() && !on_terminal() {
        return Err(Problem::usage(
            "The 24 words cannot be shown, since this is not a terminal.",
            "Give --words-out FILE to have them written into a new file that only you can read.",
        ));
    }
    let unlock = choose_unlock(paths, passphrase_file, args.no_passphrase)?;
    private_dir(&paths.home)?;
    let file = args.words_out.as_deref().map(words_file).transpose()?;
    let unfinished = Unfinished::new(paths);
    let made = make_device(paths, &args.label, unlock, file);
    match made {
        Ok(()) => unfinished.finished(),
        Err(problem) => {
            // An empty file of words would only puzzle, and stand in the way of the next try.
            if let Some(path) = &args.words_out {
                let _ = std::fs::remove_file(path);
            }
            return Err(problem);
        }
    }
    Ok(json!({ "label": args.label, "home": paths.home, "words_file": args.words_out }))
}

fn make_device(paths: &Paths, label: &str, unlock: Unlock, file: Option<std::fs::File>) -> Outcome<()> {
    let (_home, secret) = Home::init(&paths.store, label, unlock)?;
    match file {
        Some(file) => write_words(file, &secret),
        None => show_and_ask_back(&secret),
    }
}

/// `recover`.
///
/// # Errors
/// When the words are wrong, the seeder is not reached or does not know them, or entries do not arrive.
pub(crate) fn recover(
    paths: &Paths,
    args: &Recover,
    passphrase_file: Option<&PathBuf>,
    progress: &mut Progress,
) -> Outcome<ArriveReport> {
    require_no_device(paths)?;
    let address = crate::daemon::parse_address(&args.seeder)?;
    let secret = MemberSecret::from_words(&read_secret(&args.words_file)?)?;
    let unlock = choose_unlock(paths, passphrase_file, args.no_passphrase)?;
    private_dir(&paths.home)?;
    let unfinished = Unfinished::new(paths);
    progress.say("asking the seeder what the words open");
    rejoin(paths, &args.label, unlock, &secret, &address, progress)?;
    unfinished.finished();
    progress.say("starting the daemon, which fetches the entries");
    let request = Request::Arrive { timeout_ms: u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX) };
    ask(paths, passphrase_file, &request, &mut |step| progress.step(step))
}

/// Makes the device and joins every folder of the locator.
fn rejoin(
    paths: &Paths,
    label: &str,
    unlock: Unlock,
    secret: &MemberSecret,
    address: &SeederAddress,
    progress: &mut Progress,
) -> Outcome<()> {
    let home = Home::init_recovered(&paths.store, label, unlock, secret)?;
    let node = Node::start(Arc::clone(home.store()), home.net_key()?, NetConfig::default())?;
    let joined = rejoin_folders(&home, &node, secret, address, progress);
    node.shutdown();
    drop(node);
    joined?;
    wait_for_lock(home);
    Ok(())
}

/// The network's threads may hold the store a moment longer; the daemon needs its lock.
fn wait_for_lock(home: Arc<Home>) {
    const ROUNDS: u32 = 200;
    let store = Arc::downgrade(home.store());
    drop(home);
    for _ in 0..ROUNDS {
        if store.strong_count() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn rejoin_folders(
    home: &Home,
    node: &Node,
    secret: &MemberSecret,
    address: &SeederAddress,
    progress: &mut Progress,
) -> Outcome<()> {
    let locator = node.locator_fetch(address, secret.locator().id())?.ok_or_else(|| {
        Problem::refused(
            "The seeder keeps nothing for these words.",
            "Check that they are the right member's words, and try another seeder that keeps the folders.",
        )
    })?;
    let (mut joined, mut first_problem) = (0, None);
    for found in Home::locator_open(secret, &locator)? {
        // A folder that was skipped keeps its index: a new one must not get the same recovery keys.
        home.reserve_index(found.index)?;
        let name = String::from_utf8_lossy(&found.name).into_owned();
        progress.say(&format!("joining {name}"));
        match rejoin_folder(home, node, secret, address, &found, &name) {
            Ok(()) => joined += 1,
            Err(problem) => {
                progress.say(&format!("{name} could not be joined: {} {}", problem.message, RECOVER_LATER));
                first_problem = first_problem.or(Some(problem));
            }
        }
    }
    // One folder whose seeders are away must not keep the others from coming back.
    match first_problem {
        Some(problem) if joined == 0 => Err(problem),
        _ => Ok(()),
    }
}

/// What people can do about a folder that was skipped.
const RECOVER_LATER: &str =
    "The words still open it: recover once more, into another home, from a seeder that holds it.";

fn rejoin_folder(
    home: &Home,
    node: &Node,
    secret: &MemberSecret,
    address: &SeederAddress,
    found: &LocatorFolder,
    name: &str,
) -> Outcome<()> {
    let records = fetch_records(node, secret, address, found)?;
    home.folder_recover(secret, found.index, name, records)?;
    Ok(())
}

/// The folder's access log, from the seeder that was named or another one of the folder.
fn fetch_records(
    node: &Node,
    secret: &MemberSecret,
    address: &SeederAddress,
    found: &LocatorFolder,
) -> Outcome<Vec<cobox_store::format::access::Record>> {
    let keys = Arc::new(secret.recovery(found.index));
    let member = keys.member();
    let sign = Arc::new(move |transcript: &[u8]| keys.sign_session(transcript));
    let signer = RecoverySigner { member, sign };
    let others = found.seeders.iter().filter(|other| other.peer_id != address.peer_id);
    let mut last = Problem::new(Exit::NotReached, "No seeder of the folder was reached.", "Try again later.");
    for seeder in std::iter::once(address).chain(others) {
        match node.recovery_fetch_access(seeder, found.folder, &signer) {
            Ok(records) => return Ok(records),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}
