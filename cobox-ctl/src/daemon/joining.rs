//! Joining a folder with an invite's code, and joining again after a removal.
//!
//! Whatever can be known beforehand is looked at before the code is shown to anybody: it is good once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use cobox_net::Error as NetError;
use cobox_store::Error as StoreError;
use cobox_store::format::access::Record;
use cobox_store::format::invite::{FOLDER_PREFIX_BYTES, InviteCode};
use cobox_store::keyed::{Folder, InviteKeys};

use super::Daemon;
use super::folder::FolderState;
use super::members::asking;
use super::network::keep_hints;
use super::wait::Tell;
use crate::exit::{Exit, Outcome, Problem};
use crate::people::{JoinReport, PersonRole};

/// Between two questions whether somebody let us in.
const JOIN_POLL: Duration = Duration::from_millis(500);
/// A code that was made a moment ago may not be known everywhere yet.
const REFUSED_FOR: Duration = Duration::from_secs(15);
/// How long the folder's present state may take to arrive before `join` says what is there.
const ARRIVE_WAIT: Duration = Duration::from_secs(30);

/// What one question to one peer of a code brought.
enum Answer {
    Records(Vec<Record>),
    Waiting,
    Refused,
    NotReached(String),
}

/// Joins with the access log that a peer sent; `None` while it has no keys for this device yet.
type Finish<'a> = &'a dyn Fn(&[Record]) -> Outcome<Option<Arc<FolderState>>>;

impl Daemon {
    /// Joins a folder with a code, and waits for its present state.
    pub fn join(
        self: &Arc<Self>,
        code: &str,
        name: Option<&str>,
        timeout: Duration,
        tell: Tell<'_>,
    ) -> Outcome<JoinReport> {
        let code = InviteCode::from_text(code).map_err(|_| {
            Problem::usage(
                "This is not an invite's code, or it was mistyped.",
                "Use the line that `cobox-ctl folder invite` printed, whole and unchanged.",
            )
        })?;
        let before = self.may_join(&code, name)?;
        let (started, deadline) = (Instant::now(), Instant::now() + timeout);
        let joined = match &before {
            Some(state) => {
                let finish = |records: &[Record]| self.join_again(state, &code, name, records);
                let joined = self.ask_to_join(&code, &finish, deadline, tell);
                // Under whichever log: it was taken off when an admin had answered.
                match &joined {
                    Ok(fresh) => self.mount_wanted(fresh),
                    // What let it in may have failed when it was let in already.
                    Err(_) if matches!(self.take_over(state), Ok(false)) => self.mount_wanted(state),
                    Err(_) => {}
                }
                joined
            }
            None => self.ask_to_join(&code, &|records| self.join_new(&code, name, records), deadline, tell),
        };
        let state = joined?;
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.locator_version.fetch_add(1, Ordering::SeqCst);
        if let Err(problem) = self.arrive(Some(state.no()), ARRIVE_WAIT, tell) {
            // It is joined all the same, and goes on arriving.
            tracing::info!(%problem, "the folder is still arriving");
        }
        let entries = state.folder.store().log_heads(state.no())?.iter().map(|head| head.seq).sum();
        let role = PersonRole::of(state.folder.role()?.ok_or(StoreError::NotAMember)?);
        if before.is_some() && role == PersonRole::Read {
            // What others never took of the former log is among what waits once the tree was made anew.
            state.with_tree(|_| Ok(()))?;
        }
        Ok(JoinReport {
            folder: state.folder.name(),
            id: state.folder.id().to_hex(),
            role,
            entries,
            elapsed_ms,
            unsent: role == PersonRole::Read && state.has_unsent()?,
        })
    }

    /// Refuses what would use the code up for nothing. The folder, where this device has it and was removed from it.
    fn may_join(&self, code: &InviteCode, name: Option<&str>) -> Outcome<Option<Arc<FolderState>>> {
        let is_meant = |state: &Arc<FolderState>| state.folder.id().0[..FOLDER_PREFIX_BYTES] == code.folder;
        let known = self.folders().into_iter().find(is_meant);
        if let Some(state) = &known
            && let Some(role) = state.folder.role()?
        {
            let role = match PersonRole::of(role) {
                PersonRole::Read => "a reader",
                PersonRole::Write => "a writer",
                PersonRole::Admin => "an admin",
            };
            return Err(Problem::refused(
                format!("You are in {} already, as {role}.", state.folder.name()),
                "The code was not used and stays good. It is for somebody else: your own other devices come by your 24 words \
                 (`cobox-ctl recover`), and what you may do is changed with `cobox-ctl member role`.",
            ));
        }
        let name = name.filter(|name| known.as_ref().is_none_or(|state| state.folder.name() != *name));
        name.map_or(Ok(()), |name| self.home.name_is_free(name)).map_err(called_otherwise)?;
        known.as_ref().map_or(Ok(()), |state| state.refuse_if_held())?;
        Ok(known)
    }

    /// Goes on in a folder that this device was removed from: under the keys that an admin let in, with all that is
    /// here. Its mount is off afterwards.
    fn join_again(
        &self,
        state: &Arc<FolderState>,
        code: &InviteCode,
        name: Option<&str>,
        records: &[Record],
    ) -> Outcome<Option<Arc<FolderState>>> {
        // Nobody mounts it, or looks at the tree of the old one, meanwhile.
        let _turn = state.turn()?;
        state.stop_serving()?;
        let Some(folder) = self.home.join_finish(code, name, records)? else { return Ok(None) };
        // It is joined: what fails from here on keeps it out of service for no longer than it must.
        if let Err(problem) = keep_hints(&folder, &code.hints) {
            tracing::warn!(folder = %folder.id(), %problem, "whom the code named is not remembered");
        }
        self.serve_again(state, folder).map(Some)
    }

    /// Takes a folder into service in the place of what it was under other keys.
    fn serve_again(&self, state: &Arc<FolderState>, folder: Arc<Folder>) -> Outcome<Arc<FolderState>> {
        state.replaced.store(true, Ordering::Release);
        // Sessions that others restricted to what a removed device may know begin anew.
        self.node.remove_folder(state.no());
        self.adopt(folder).or_else(|problem| {
            tracing::warn!(folder = %state.folder.id(), %problem, "the network is told of it later");
            self.folder_now(state)
        })
    }

    /// Serves a folder under the keys that it has by now: whoever had them changed failed after their change was
    /// committed, and before the folder was in service again. `false` where all is as it should be.
    pub fn take_over(self: &Arc<Self>, state: &Arc<FolderState>) -> Outcome<bool> {
        let is_stale = |state: &Arc<FolderState>| match self.home.folder(state.no()) {
            Ok(folder) => Ok(Some(folder).filter(|folder| !Arc::ptr_eq(folder, &state.folder))),
            // It was left.
            Err(StoreError::NoSuchName) => Ok(None),
            Err(error) => Err(error),
        };
        if self.is_ending() || is_stale(state)?.is_none() {
            return Ok(false);
        }
        let fresh = {
            let _turn = state.mount_turn.lock();
            let is_now = self.folder_now(state).is_ok_and(|now| Arc::ptr_eq(&now, state));
            let Some(folder) = is_stale(state)?.filter(|_| is_now) else { return Ok(false) };
            tracing::warn!(folder = %folder.id(), "the folder goes on under the keys that it has now");
            state.stop_serving()?;
            self.serve_again(state, folder)?
        };
        self.mount_wanted(&fresh);
        self.locator_version.fetch_add(1, Ordering::SeqCst);
        Ok(true)
    }

    fn join_new(
        &self,
        code: &InviteCode,
        name: Option<&str>,
        records: &[Record],
    ) -> Outcome<Option<Arc<FolderState>>> {
        // The name that the folder itself has is sealed until then.
        let joined = self.home.join_finish(code, name, records).map_err(|error| {
            let problem = called_otherwise(error);
            let hint = "The code is this device's from now on, and good for it: run the same code again with --name.";
            if problem.code == Exit::Usage { Problem::new(problem.code, problem.message, hint) } else { problem }
        })?;
        let Some(folder) = joined else { return Ok(None) };
        // Before it syncs: whom the code named is dialed for the folder from now on.
        keep_hints(&folder, &code.hints)?;
        self.adopt(folder).map(Some)
    }

    fn ask_to_join(
        &self,
        code: &InviteCode,
        finish: Finish<'_>,
        deadline: Instant,
        tell: Tell<'_>,
    ) -> Outcome<Arc<FolderState>> {
        let ended = Arc::new(AtomicBool::new(false));
        let answers = self.ask_hints(code, &ended)?;
        let _end = Ending(ended);
        let (mut last, mut refused_since) = ("Nobody has answered yet.".to_owned(), None::<Instant>);
        loop {
            tell(&asking(&last))?;
            if self.is_ending() {
                return Err(Problem::failed("The daemon is ending."));
            }
            if Instant::now() >= deadline {
                return Err(Problem::new(
                    Exit::NotReached,
                    format!("Nobody has let this device in. {last}"),
                    "An admin's device must be online. Run the same command again; the code stays good until it expires.",
                ));
            }
            match answers.recv_timeout(JOIN_POLL) {
                Ok(Answer::Records(records)) => {
                    if let Some(state) = finish(&records)? {
                        return Ok(state);
                    }
                    "An admin let it in, and its keys are on their way.".clone_into(&mut last);
                }
                Ok(Answer::Waiting) => {
                    refused_since = None;
                    "The request was passed on, and no admin's device has answered.".clone_into(&mut last);
                }
                Ok(Answer::Refused) => {
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= REFUSED_FOR {
                        return Err(Problem::refused(
                            "The invite was used, taken back, or has expired.",
                            "Ask whoever invited you for a new one.",
                        ));
                    }
                }
                Ok(Answer::NotReached(problem)) => last = problem,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Problem::failed("The network was shut down."));
                }
            }
        }
    }

    /// Asks every peer of the code, each on a thread of its own: one that is away must not delay the others.
    fn ask_hints(
        &self,
        code: &InviteCode,
        ended: &Arc<AtomicBool>,
    ) -> Outcome<std::sync::mpsc::Receiver<Answer>> {
        let request = Arc::new(self.home.join_request(code)?);
        let (sender, answers) = channel();
        for hint in code.hints.clone() {
            let (node, request, sender) = (self.node.clone(), Arc::clone(&request), sender.clone());
            let (ended, keys) = (Arc::clone(ended), Arc::new(InviteKeys::of(code)));
            let ask = move || {
                while !ended.load(Ordering::SeqCst) {
                    let keys = Arc::clone(&keys);
                    let sign = Arc::new(move |transcript: &[u8]| keys.sign_session(transcript));
                    let answer = match node.redeem(&hint, &request, sign) {
                        Ok(Some(records)) => Answer::Records(records),
                        Ok(None) => Answer::Waiting,
                        Err(NetError::Refused { .. }) => Answer::Refused,
                        Err(NetError::ShutDown) => return,
                        Err(error) => Answer::NotReached(Problem::from(error).message),
                    };
                    if sender.send(answer).is_err() {
                        return;
                    }
                    std::thread::sleep(JOIN_POLL);
                }
            };
            std::thread::Builder::new()
                .name("join".into())
                .spawn(ask)
                .map_err(|error| Problem::failed(format!("A thread cannot be started: {error}.")))?;
        }
        Ok(answers)
    }
}

/// A name that another folder has, as who joins is told.
fn called_otherwise(error: StoreError) -> Problem {
    match error {
        StoreError::NameTaken { name } => Problem::usage(
            format!("You have a folder {name} already: give this one another name with --name."),
            "The code was not used and stays good.",
        ),
        other => other.into(),
    }
}

/// Tells the threads that ask to stop.
struct Ending(Arc<AtomicBool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cobox_net::{NetConfig, Node};
    use cobox_store::keyed::{Home, Unlock};
    use parking_lot::{Mutex, RwLock};

    use super::super::UnlockedBy;
    use super::*;
    use crate::paths::{Paths, private_dir};

    fn daemon(dir: &Path) -> Arc<Daemon> {
        let at = |name: &str| dir.join(name);
        let (home, run, log) = (at("home"), at("run"), at("log"));
        let paths = Paths { store: home.join("store"), key: at("key"), home, run, log };
        private_dir(&paths.home).expect("made");
        let (home, _) =
            Home::init(&paths.store, "laptop", Unlock::KeyFile(paths.key.clone())).expect("set up");
        let seed = home.net_key().expect("has one");
        let node = Node::start(Arc::clone(home.store()), seed, NetConfig::default()).expect("starts");
        Arc::new(Daemon {
            paths,
            home,
            node,
            folders: RwLock::default(),
            locator_version: std::sync::atomic::AtomicU64::new(1),
            unlocked_by: UnlockedBy::KeyFile,
            owning: Mutex::new(()),
            api: Mutex::default(),
            ending: AtomicBool::new(false),
            end: tokio::sync::Notify::new(),
            ended: Mutex::new(false),
        })
    }

    #[test]
    fn folder_whose_keys_changed_before_a_failure_is_served_again_without_a_restart() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let daemon = daemon(dir.path());
        let state = daemon.adopt(daemon.home.folder_create("club").expect("made")).expect("in service");
        assert_eq!(daemon.take_over(&state), Ok(false));
        // As after a second join that was committed, and whose folder did not come into service.
        let fresh = daemon.home.folder_renew(state.no()).expect("opens");
        daemon.node.remove_folder(state.no());
        assert_eq!(daemon.take_over(&state), Ok(true));
        let now = daemon.folder_now(&state).expect("in service");
        assert!(Arc::ptr_eq(&now.folder, &fresh) && !Arc::ptr_eq(&now, &state));
        assert!(state.turn().is_err(), "what was is not used any more");
        daemon.node.status(now.no()).expect("the network knows it");
        assert_eq!(daemon.take_over(&now), Ok(false));
        assert_eq!(daemon.take_over(&state), Ok(false), "whoever still has the old one changes nothing");
        daemon.node.shutdown();
    }
}
