//! Giving space back: what `prune` does, and what the daemon does unasked. It answers other admins' calls and
//! goes on with its own; it never calls by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cobox_fs::vfs::release::is_due;
use cobox_fs::vfs::{Called, Errno, Released, Survey, Vfs, VfsOptions};
use cobox_store::format::access::Role;
use cobox_store::id::{FolderNo, LogId};

use super::Daemon;
use super::chores::spawn;
use super::folder::FolderState;
use crate::exit::{Exit, Outcome, Problem};
use crate::report::{PruneReport, PruneState};

/// How often a folder is looked at: a call is answered within this time, and a release follows the last answer.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// The same for a folder that is not mounted.
const OPEN_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether to end.
const TICK: Duration = Duration::from_millis(500);

/// Whether `prune` only says what it would do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Prune {
    /// It only says so.
    Dry,
    /// It does it.
    Now,
}

/// Starts the thread that answers calls.
pub(crate) fn start_giver(daemon: &Arc<Daemon>) -> Outcome<JoinHandle<()>> {
    let daemon = Arc::clone(daemon);
    spawn("giver", move || {
        let mut looked: BTreeMap<FolderNo, Instant> = BTreeMap::new();
        while !daemon.is_ending() {
            for state in daemon.folders() {
                // Opening a tree that is not mounted costs more than looking at one that is.
                let every = if state.vfs().is_some() { LOOK_EVERY } else { OPEN_EVERY };
                if looked.get(&state.no()).is_some_and(|at| at.elapsed() < every) {
                    continue;
                }
                looked.insert(state.no(), Instant::now());
                if let Err(problem) = go_on(&state) {
                    tracing::warn!(folder = %state.folder.id(), %problem, "space is given back later");
                }
            }
            std::thread::sleep(TICK);
        }
    })
}

/// Answers, releases what all have answered for, and frees what was released.
fn go_on(state: &FolderState) -> Outcome<()> {
    if !is_due(&state.folder)? {
        return Ok(());
    }
    with_tree(state, |vfs| {
        if may_write(state)? {
            vfs.acknowledge()?;
            if let Released::Done(packs) = vfs.release_dead()? {
                let bytes: u64 = packs.iter().map(|pack| pack.size).sum();
                tracing::info!(folder = %state.folder.id(), packs = packs.len(), bytes, "packs were released");
            }
        }
        vfs.drop_released()?;
        Ok(())
    })
}

fn may_write(state: &FolderState) -> Outcome<bool> {
    Ok(state.folder.store().access(state.no())?.may_write(&state.folder.log()))
}

/// The folder's tree: as it is mounted, or opened for as long.
fn with_tree<R>(state: &FolderState, work: impl FnOnce(&Vfs) -> Outcome<R>) -> Outcome<R> {
    let _turn = state.mount_turn.lock();
    if let Some(vfs) = state.vfs() {
        return work(&vfs);
    }
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let vfs = Vfs::open(Arc::clone(&state.folder), VfsOptions { uid, gid, read_only: false })?;
    let done = work(&vfs);
    vfs.shutdown()?;
    done
}

impl Daemon {
    /// `prune`.
    pub fn prune(&self, folder: &str, how: Prune) -> Outcome<PruneReport> {
        let state = self.folder(folder)?;
        let mut report = with_tree(&state, |vfs| match how {
            Prune::Dry => Ok(report_of(&vfs.survey().map_err(unready)?, PruneState::Looked)),
            Prune::Now => prune_now(&state, vfs),
        })?;
        report.folder = state.folder.name();
        report.held_here_bytes = state.folder.store().held(state.no())?.bytes;
        Ok(report)
    }
}

fn prune_now(state: &FolderState, vfs: &Vfs) -> Outcome<PruneReport> {
    let access = state.folder.store().access(state.no())?;
    if access.role_of(&state.folder.log()) != Some(Role::Admin) {
        return Err(Problem::new(
            Exit::Refused,
            "Only an admin's device may release what the folder does not need any more.".to_owned(),
            "Ask an admin to run it; `prune --dry-run` shows what could go.",
        ));
    }
    let mut survey = None;
    let mut released = vfs.release_dead().map_err(unready)?;
    if matches!(released, Released::NotCalled | Released::Void) {
        match vfs.call_for_release().map_err(unready)? {
            Called::Out(found) => survey = Some(found),
            Called::Nothing(found) => return Ok(report_of(&found, PruneState::Nothing)),
            Called::Before => {}
            Called::Forked => return Err(forked()),
            Called::Lacking(logs) => return Err(lacking(&labels(state, &logs))),
        }
        // This device answers too, and where it is alone that is all.
        vfs.acknowledge()?;
        released = vfs.release_dead().map_err(unready)?;
    }
    let survey = match survey {
        Some(survey) => survey,
        None => vfs.survey().map_err(unready)?,
    };
    let mut report = report_of(&survey, PruneState::Waiting);
    match released {
        Released::Done(packs) => {
            report.state = PruneState::Released;
            report.released_packs = packs.len() as u64;
            report.released_bytes = packs.iter().map(|pack| pack.size).sum();
            vfs.drop_released()?;
        }
        Released::Waiting(logs) => {
            report.waits_for = labels(state, &logs);
        }
        Released::NotCalled | Released::Void => report.state = PruneState::Void,
        Released::Forked => return Err(forked()),
    }
    Ok(report)
}

fn labels(state: &FolderState, logs: &[LogId]) -> Vec<String> {
    logs.iter().map(|log| state.folder.label_of(log).unwrap_or_else(|| log.to_string())).collect()
}

/// What was written before a device was removed counts, and may need anything.
fn lacking(labels: &[String]) -> Problem {
    Problem::new(
        Exit::NotReached,
        format!(
            "Changes that {} wrote before it was removed are known to others and not here: what they need, nobody \
             here can say.",
            labels.join(", ")
        ),
        "Try again once the devices and seeders that have them were online. Where nobody has them any more, nothing \
         can be released in this folder: to give its space back, copy what is in it into a new folder.",
    )
}

fn forked() -> Problem {
    Problem::refused(
        "A device of this folder was in use as two copies at once: what one of them needs, the other cannot say.",
        "Nothing is released in this folder. To give its space back, copy what is in it into a new folder.",
    )
}

fn report_of(survey: &Survey, state: PruneState) -> PruneReport {
    PruneReport {
        folder: String::new(),
        state,
        packs: survey.packs,
        pack_bytes: survey.pack_bytes,
        live_bytes: survey.live_bytes,
        dead_packs: survey.dead.len() as u64,
        dead_bytes: survey.dead.iter().map(|dead| dead.pack.size).sum(),
        half_dead_packs: survey.half_dead_packs,
        half_dead_bytes: survey.half_dead_bytes,
        released_packs: 0,
        released_bytes: 0,
        waits_for: Vec::new(),
        held_here_bytes: 0,
    }
}

/// Why the tree could not be looked at as a whole.
fn unready(errno: Errno) -> Problem {
    match errno {
        Errno::EBUSY => Problem::new(
            Exit::NotReached,
            "Programs write to the folder without a pause, so that what it needs cannot be counted."
                .to_owned(),
            "Try again when less is written.",
        ),
        Errno::EIO => Problem::new(
            Exit::NotReached,
            "A part of the folder's tree is not on this device, so that what it needs cannot be counted."
                .to_owned(),
            "Wait until everything has arrived (`cobox-ctl status`), or run it on another admin's device.",
        ),
        errno => errno.into(),
    }
}
