//! `init` and `recover`: making a device, before any daemon can run.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cobox_net::{NetConfig, Node, RecoverySigner};
use cobox_store::format::access::Record;
use cobox_store::format::address::SeederAddress;
use cobox_store::format::locator::{Locator, LocatorFolder};
use cobox_store::id::{FolderId, RecordHash};
use cobox_store::keyed::{Home, MemberSecret, Unlock};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::args::{Init, Recover};
use super::client::ask;
use super::secrets::{
    PassphraseFrom, existing_passphrase, new_passphrase, on_terminal, read_secret, show_and_ask_back,
    words_file, write_words,
};
use crate::control::Request;
use crate::exit::{Exit, Outcome, Problem};
use crate::paths::{Paths, private_dir};
use crate::render::progress::Progress;
use crate::report::ArriveReport;

/// The same lock once more, for who opens it next: nobody types a passphrase again that was just typed.
fn typed(unlock: &Unlock) -> Option<Zeroizing<String>> {
    match unlock {
        Unlock::Passphrase(typed) => Some(typed.clone()),
        Unlock::KeyFile(_) => None,
    }
}

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

/// Removes a half-made device when something goes wrong before it is whole. Where the program itself ends before that, a
/// mark says so to the next: nobody has the words of such a device. Whoever sets one up holds the mark locked.
struct Unfinished<'a> {
    paths: &'a Paths,
    _mark: std::fs::File,
    made_key: bool,
    keep: bool,
}

/// What the mark says where the key file was there before, and is not to be removed.
const FOUND_KEY: &[u8] = b"the key was there before\n";
/// And where it was not.
const NO_KEY: &[u8] = b"there was no key\n";

impl<'a> Unfinished<'a> {
    fn begin(paths: &'a Paths) -> Outcome<Self> {
        let problem = |error: std::io::Error| mark_problem(paths, "written", &error);
        let at = paths.unfinished();
        let mark = std::fs::File::options().create(true).truncate(false).read(true).write(true).open(&at);
        let mut mark = mark.map_err(problem)?;
        if mark.try_lock().is_err() || !is_at(&mark, &at) {
            return Err(Problem::refused(
                format!("A device is being set up at {} just now.", paths.home.display()),
                "Go on there, or end it and run this again.",
            ));
        }
        let mut before = Vec::new();
        mark.read_to_end(&mut before).map_err(problem)?;
        let made_key = if before.is_empty() { !paths.key.exists() } else { before == NO_KEY };
        if !before.is_empty() {
            remove(paths, made_key).map_err(|error| mark_problem(paths, "cleared up after", &error))?;
        } else if Home::is_made(&paths.store) {
            // It was finished since this program looked.
            std::fs::remove_file(&at).map_err(|error| mark_problem(paths, "removed", &error))?;
            require_no_device(paths)?;
        } else {
            mark.write_all(if made_key { NO_KEY } else { FOUND_KEY }).map_err(problem)?;
            mark.sync_all().and_then(|()| sync_dir(&paths.home)).map_err(problem)?;
        }
        Ok(Self { paths, _mark: mark, made_key, keep: false })
    }

    /// The person has its words: should this program end now, the next goes on with the device.
    fn has_words(&self) -> Outcome<()> {
        std::fs::remove_file(self.paths.unfinished())
            .and_then(|()| sync_dir(&self.paths.home))
            .map_err(|error| mark_problem(self.paths, "removed", &error))
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
        // Where this fails the mark stays, and whoever sets a device up next is told of it.
        if remove(self.paths, self.made_key).is_ok() {
            let _ = std::fs::remove_file(self.paths.unfinished());
        }
    }
}

/// Removes what a device that is not whole has; what is not there is no failure.
fn remove(paths: &Paths, made_key: bool) -> std::io::Result<()> {
    let gone = |removed: std::io::Result<()>| match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(std::fs::remove_dir_all(&paths.store))?;
    if made_key { gone(std::fs::remove_file(&paths.key)) } else { Ok(()) }
}

fn mark_problem(paths: &Paths, done: &str, error: &std::io::Error) -> Problem {
    Problem::failed_with(
        format!("{} cannot be {done}: {error}.", paths.unfinished().display()),
        "No device was set up, and words that were shown open nothing. Check the disk and who owns the folder, then try again.",
    )
}

/// Whether a file is the one that is there under its name.
fn is_at(file: &std::fs::File, path: &Path) -> bool {
    let (Ok(file), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (file.dev(), file.ino()) == (there.dev(), there.ino())
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
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
    let unfinished = Unfinished::begin(paths)?;
    let file = args.words_out.as_deref().map(words_file).transpose()?;
    let made = make_device(paths, &args.label, unlock, file).and_then(|()| unfinished.has_words());
    if let Err(problem) = made {
        // A file of words that open nothing would only puzzle, and stand in the way of the next try.
        if let Some(path) = &args.words_out {
            let _ = std::fs::remove_file(path);
        }
        return Err(problem);
    }
    unfinished.finished();
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
    let parse = |text: &String| crate::daemon::parse_address(text);
    let addresses: Vec<SeederAddress> = args.seeder.iter().map(parse).collect::<Outcome<_>>()?;
    let network = crate::daemon::only_dialing(&paths.home)?;
    let secret = MemberSecret::from_words(&read_secret(&args.words_file)?)?;
    let passphrase;
    if paths.has_device() {
        // A recovery that was interrupted goes on, and a device whose store was set back joins again.
        let unlock = unlock_again(paths, passphrase_file)?;
        passphrase = typed(&unlock);
        let home = open_again(paths, unlock, &secret)?;
        progress.say("this device is the words' own: going on with it");
        rejoin(home, network, &secret, &addresses, progress)?;
    } else {
        let unlock = choose_unlock(paths, passphrase_file, args.no_passphrase)?;
        passphrase = typed(&unlock);
        private_dir(&paths.home)?;
        let unfinished = Unfinished::begin(paths)?;
        progress.say("asking the seeder what the words open");
        let home = Home::init_recovered(&paths.store, &args.label, unlock, &secret)?;
        unfinished.has_words()?;
        rejoin(home, network, &secret, &addresses, progress)?;
        unfinished.finished();
    }
    progress.say("starting the daemon, which fetches the entries");
    let request = Request::Arrive { timeout_ms: u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX) };
    let passphrase =
        passphrase.as_ref().map_or_else(|| PassphraseFrom::option(passphrase_file), PassphraseFrom::Typed);
    ask(paths, passphrase, &request, &mut |step| progress.step(step))
}

/// What opens the device that is there.
fn unlock_again(paths: &Paths, passphrase_file: Option<&PathBuf>) -> Outcome<Unlock> {
    Ok(if Home::needs_passphrase(&paths.store)? {
        Unlock::Passphrase(existing_passphrase(PassphraseFrom::option(passphrase_file))?)
    } else {
        Unlock::KeyFile(paths.key.clone())
    })
}

/// Opens the device that is there, if it is of these words and no daemon runs.
fn open_again(paths: &Paths, unlock: Unlock, secret: &MemberSecret) -> Outcome<Arc<Home>> {
    let home = Home::open(&paths.store, unlock)?;
    if home.is_of(secret) {
        return Ok(home);
    }
    Err(Problem::refused(
        format!("There is a device at {} already, and it was made with other words.", paths.home.display()),
        "Use it, or set COBOX_HOME to another folder for a second one.",
    ))
}

/// Joins every folder of the locator.
fn rejoin(
    home: Arc<Home>,
    network: NetConfig,
    secret: &MemberSecret,
    addresses: &[SeederAddress],
    progress: &mut Progress,
) -> Outcome<()> {
    let node = Node::start(Arc::clone(home.store()), home.net_key()?, network)?;
    let joined = rejoin_folders(&home, &node, secret, addresses, progress);
    node.shutdown();
    // The network's threads may hold the store a moment longer; whoever starts the daemon waits for its lock.
    joined
}

fn rejoin_folders(
    home: &Home,
    node: &Node,
    secret: &MemberSecret,
    addresses: &[SeederAddress],
    progress: &mut Progress,
) -> Outcome<()> {
    let locator = newest_locator(node, secret, addresses, progress)?;
    let here: Vec<FolderId> = home.folders()?.into_iter().map(|folder| folder.id).collect();
    let (mut joined, mut first_problem) = (0, None);
    for found in Home::locator_open(secret, &locator)? {
        // A folder that was skipped keeps its index: a new one must not get the same recovery keys.
        home.reserve_index(found.index)?;
        let name = String::from_utf8_lossy(&found.name).into_owned();
        progress.say(&format!("joining {name}"));
        match rejoin_folder(home, node, secret, addresses, &found, &name, progress) {
            Ok(()) => joined += 1,
            Err(problem)
                if problem.code == Exit::Refused
                    && found.seeders.is_empty()
                    && here.contains(&found.folder) =>
            {
                progress.say(&format!("{name} is here already, and nobody who was asked holds it"));
            }
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
    "The words still open it: run the same command again, with a seeder that holds it.";

/// The newest of the locators that the seeders keep.
fn newest_locator(
    node: &Node,
    secret: &MemberSecret,
    addresses: &[SeederAddress],
    progress: &mut Progress,
) -> Outcome<Locator> {
    let (mut newest, mut last): (Option<Locator>, Option<Problem>) = (None, None);
    for address in addresses {
        match node.locator_fetch(address, secret.locator().id()) {
            Ok(Some(found)) => {
                if let Some(known) = newest.as_ref().filter(|known| known.seq != found.seq) {
                    let older = known.seq.min(found.seq);
                    progress.say(&format!(
                        "one seeder's list of folders is older (number {older}) and was not used"
                    ));
                }
                if newest.as_ref().is_none_or(|known| known.seq < found.seq) {
                    newest = Some(found);
                }
            }
            Ok(None) => {}
            Err(error) => last = Some(error.into()),
        }
    }
    let nothing = || {
        Problem::refused(
            "The seeder keeps nothing for these words.",
            "Check that they are the right member's words, and try another seeder that keeps the folders.",
        )
    };
    newest.ok_or_else(|| last.unwrap_or_else(nothing))
}

fn rejoin_folder(
    home: &Home,
    node: &Node,
    secret: &MemberSecret,
    addresses: &[SeederAddress],
    found: &LocatorFolder,
    name: &str,
    progress: &mut Progress,
) -> Outcome<()> {
    let records = fetch_records(node, secret, addresses, found, progress)?;
    let folder = home.folder_recover(secret, found.index, name, records)?;
    // The folder is here all the same, and is not to be joined again for this.
    if let Err(problem) = crate::daemon::keep_found(&folder, addresses) {
        progress.say(&format!("where {name}'s seeders were found is not remembered: {}", problem.message));
    }
    Ok(())
}

/// The folder's access log, as all its seeders together know it: one alone could be behind, or hold back
/// what is newest.
fn fetch_records(
    node: &Node,
    secret: &MemberSecret,
    addresses: &[SeederAddress],
    found: &LocatorFolder,
    progress: &mut Progress,
) -> Outcome<Vec<Record>> {
    let keys = Arc::new(secret.recovery(found.index));
    let member = keys.member();
    let sign = Arc::new(move |transcript: &[u8]| keys.sign_session(transcript));
    let signer = RecoverySigner { member, sign };
    let others =
        found.seeders.iter().filter(|other| addresses.iter().all(|given| given.peer_id != other.peer_id));
    let mut last = Problem::new(Exit::NotReached, "No seeder of the folder was reached.", "Try again later.");
    let mut all: BTreeMap<RecordHash, Record> = BTreeMap::new();
    let mut counts: Vec<usize> = Vec::new();
    for seeder in addresses.iter().chain(others) {
        match node.recovery_fetch_access(seeder, found.folder, &signer) {
            Ok(records) => {
                counts.push(records.len());
                all.extend(records.into_iter().map(|record| (record.hash(), record)));
            }
            Err(error) => last = error.into(),
        }
    }
    for lacks in counts.iter().map(|count| all.len().saturating_sub(*count)).filter(|lacks| *lacks > 0) {
        progress.say(&format!("a seeder lacks {lacks} records of who may do what, which another one has"));
    }
    if all.is_empty() { Err(last) } else { Ok(all.into_values().collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> (tempfile::TempDir, Paths) {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| temp.path().join(name);
        let paths = Paths {
            home: at("home"),
            store: at("home/store"),
            key: at("key"),
            run: at("run"),
            log: at("log"),
        };
        private_dir(&paths.home).expect("made");
        (temp, paths)
    }

    #[test]
    fn device_whose_words_nobody_confirmed_is_none_and_gives_way() {
        let (_temp, paths) = places();
        let unlock = || Unlock::KeyFile(paths.key.clone());
        let begun = Unfinished::begin(&paths).expect("begins");
        drop(Home::init(&paths.store, "laptop", unlock()).expect("made"));
        assert_eq!(Unfinished::begin(&paths).err().expect("one at a time").code, Exit::Refused);
        assert!(Home::is_made(&paths.store), "and it touches nothing");
        // The terminal is closed while the words are shown.
        begun._mark.unlock().expect("as the end of the program does");
        std::mem::forget(begun);
        assert!(Home::is_made(&paths.store) && !paths.has_device());
        require_no_device(&paths).expect("it is set up anew");
        let begun = Unfinished::begin(&paths).expect("begins");
        assert!(!paths.store.exists() && !paths.key.exists());
        drop(Home::init(&paths.store, "laptop", unlock()).expect("made"));
        begun.has_words().expect("no mark any more");
        begun.finished();
        assert!(paths.has_device());
        // Somebody who looked before that comes now.
        assert_eq!(Unfinished::begin(&paths).err().expect("there is a device").code, Exit::Refused);
        assert!(paths.has_device() && paths.key.exists());
    }

    #[test]
    fn key_that_was_there_before_an_interrupted_set_up_stays() {
        let (_temp, paths) = places();
        std::fs::write(&paths.key, "of a store that was moved away").expect("written");
        let begun = Unfinished::begin(&paths).expect("begins");
        begun._mark.unlock().expect("as the end of the program does");
        std::mem::forget(begun);
        drop(Unfinished::begin(&paths).expect("begins anew"));
        assert!(paths.key.exists() && !paths.unfinished().exists());
    }

    #[test]
    fn device_that_failed_before_it_was_whole_leaves_nothing() {
        let (_temp, paths) = places();
        let begun = Unfinished::begin(&paths).expect("begins");
        drop(Home::init(&paths.store, "laptop", Unlock::KeyFile(paths.key.clone())).expect("made"));
        drop(begun);
        assert!(!paths.store.exists() && !paths.key.exists() && !paths.unfinished().exists());
    }
}
