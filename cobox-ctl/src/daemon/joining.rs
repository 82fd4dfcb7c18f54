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
use cobox_store::keyed::InviteKeys;

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
                self.mount_wanted(joined.as_ref().unwrap_or(state));
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
        Ok(JoinReport {
            folder: state.folder.name(),
            id: state.folder.id().to_hex(),
            role: PersonRole::of(state.folder.role()?.ok_or(StoreError::NotAMember)?),
            entries,
            elapsed_ms,
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
        state.replaced.store(true, Ordering::Release);
        // Sessions that others restricted to what a removed device may know begin anew.
        self.node.remove_folder(state.no());
        keep_hints(&folder, &code.hints)?;
        self.adopt(folder).map(Some)
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
