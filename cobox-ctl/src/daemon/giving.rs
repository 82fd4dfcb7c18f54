//! Giving space back: what `prune` does, and what the daemon does unasked. It answers other admins' calls and
//! goes on with its own; it never calls by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cobox_fs::vfs::release::is_due;
use cobox_fs::vfs::{Called, Copies, Errno, Plan, Released, Survey, Vfs, VfsOptions};
use cobox_store::format::access::{Role, SeederGrant};
use cobox_store::format::release::Cut as LogCut;
use cobox_store::id::{FolderNo, LogId};

use super::agreements::limits;
use super::chores::spawn;
use super::folder::FolderState;
use super::status::grants;
use super::{Daemon, now_ms};
use crate::exit::{Exit, Outcome, Problem};
use crate::report::{PruneReport, PruneState};

/// How often a folder is looked at: a call is answered within this time, and a release follows the last answer.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// The same for a folder that is not mounted.
const OPEN_EVERY: Duration = Duration::from_secs(60);
/// How long `prune` waits for proofs of what it wrote again; what it did not wait for, the next one goes on with.
const PROOF_WAIT: Duration = Duration::from_secs(60);
/// Per cent of a grant that writing again fills at the most: at this share people are warned.
const QUOTA_SHARE: u64 = 95;
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
    let _turn = state.turn()?;
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
        let mut report = match how {
            Prune::Dry => with_tree(&state, |vfs| {
                let room_bytes = room_for_merging(&state)?;
                let (survey, plan) = vfs.survey_and_plan(room_bytes).map_err(unready)?;
                let mut report = report_of(&survey, PruneState::Looked);
                planned(&mut report, &plan, room_bytes);
                Ok(report)
            })?,
            Prune::Now => self.prune_now(&state)?,
        };
        report.folder = state.folder.name();
        report.held_here_bytes = state.folder.store().held(state.no())?.bytes;
        Ok(report)
    }

    /// Goes on with what was called for; else writes worn packs again, has it proved, and calls.
    fn prune_now(&self, state: &FolderState) -> Outcome<PruneReport> {
        let access = state.folder.store().access(state.no())?;
        if access.role_of(&state.folder.log()) != Some(Role::Admin) {
            return Err(Problem::new(
                Exit::Refused,
                "Only an admin's device may release what the folder does not need any more.".to_owned(),
                "Ask an admin to run it; `prune --dry-run` shows what could go.",
            ));
        }
        let released = with_tree(state, |vfs| vfs.release_dead().map_err(unready))?;
        if !matches!(released, Released::NotCalled | Released::Void) {
            return with_tree(state, |vfs| {
                let survey = vfs.survey().map_err(unready)?;
                finish(state, vfs, report_of(&survey, PruneState::Waiting), released)
            });
        }
        let room_bytes = room_for_merging(state)?;
        let (plan, made) = with_tree(state, |vfs| match vfs.merge_worn(room_bytes) {
            Err(Errno::EROFS) => Ok((Plan::default(), Vec::new())),
            merged => Ok(merged.map_err(unready)?),
        })?;
        // Others take their place only once as many seeders as the folder wants proved that they hold them. What is
        // listed from here on is not among it.
        let listed = state.folder.store().log_heads(state.no())?;
        let mut listed: LogCut = listed.into_iter().map(|head| (head.log, head.seq)).collect();
        listed.sort_unstable();
        let copies = if made.is_empty() && plan.covered.packs.is_empty() {
            Copies::Lacking
        } else {
            match self.wait(&state.folder.name(), state.policy().copies, Some(PROOF_WAIT), &mut |_| Ok(())) {
                Ok(_) => Copies::Proved(listed),
                Err(problem) => {
                    tracing::info!(folder = %state.folder.id(), %problem, "merged packs wait for their copies");
                    Copies::Lacking
                }
            }
        };
        with_tree(state, |vfs| {
            let mut report = call(state, vfs, &copies)?;
            report.merged_packs = made.len() as u64;
            report.merged_bytes = made.iter().map(|pack| pack.size).sum();
            let waits = copies == Copies::Lacking && !(made.is_empty() && plan.covered.packs.is_empty());
            if waits && report.state == PruneState::Nothing {
                report.state = PruneState::Copies;
            }
            Ok(report)
        })
    }
}

/// Calls, and releases at once where this device is the only one that writes.
fn call(state: &FolderState, vfs: &Vfs, copies: &Copies) -> Outcome<PruneReport> {
    let survey = match vfs.call_for_release(copies).map_err(unready)? {
        Called::Out(found) => found,
        Called::Nothing(found) => return Ok(report_of(&found, PruneState::Nothing)),
        Called::Before => vfs.survey().map_err(unready)?,
        Called::Forked => return Err(forked()),
        Called::Lacking(logs) => return Err(lacking(&labels(state, &logs))),
    };
    // This device answers too, and where it is alone that is all.
    vfs.acknowledge()?;
    let released = vfs.release_dead().map_err(unready)?;
    finish(state, vfs, report_of(&survey, PruneState::Waiting), released)
}

fn finish(
    state: &FolderState,
    vfs: &Vfs,
    mut report: PruneReport,
    released: Released,
) -> Outcome<PruneReport> {
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

/// Bytes that may be written again: nothing where fewer seeders hold the folder than it wants.
fn room_for_merging(state: &FolderState) -> Outcome<u64> {
    let found = grants(state)?;
    if found.len() < usize::try_from(state.policy().copies).unwrap_or(usize::MAX) {
        return Ok(0);
    }
    let store = state.folder.store();
    let used = store.usage(state.no())?;
    let used_bytes = used.pack_bytes.saturating_add(used.entry_bytes);
    let held_bytes = store.kept_elsewhere(state.no(), now_ms())?;
    let access = store.access(state.no())?;
    let room = |(_, grant): &(_, SeederGrant)| {
        let (quota_bytes, _) = limits(grant, access.agreement(&grant.peer_id));
        room_within(quota_bytes, used_bytes, held_bytes)
    };
    Ok(found.iter().map(room).min().unwrap_or(0))
}

/// What leaves a seeder below [`QUOTA_SHARE`] of what it grants, since old and new packs count side by side until the
/// release; and below that of twice as much with what it keeps of earlier ones, since it refuses all entries there.
fn room_within(quota_bytes: u64, used_bytes: u64, held_bytes: u64) -> u64 {
    let share = |bytes: u64| bytes / 100 * QUOTA_SHARE;
    let live = share(quota_bytes).saturating_sub(used_bytes);
    live.min(share(quota_bytes.saturating_mul(2)).saturating_sub(used_bytes.saturating_add(held_bytes)))
}

fn planned(report: &mut PruneReport, plan: &Plan, room_bytes: u64) {
    report.covered_packs = plan.covered.packs.len() as u64;
    report.covered_bytes = plan.covered_bytes;
    report.rewrite_packs = plan.rewrite.len() as u64;
    report.rewrite_bytes = plan.rewrite_bytes();
    report.copied_bytes = plan.copied_bytes();
    report.room_bytes = room_bytes;
    report.kept_back_packs = plan.kept_back as u64;
    let rewritten = report.rewrite_bytes.saturating_sub(report.copied_bytes);
    report.comes_back_bytes = report.dead_bytes + report.covered_bytes + rewritten;
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
        covered_packs: 0,
        covered_bytes: 0,
        rewrite_packs: 0,
        rewrite_bytes: 0,
        copied_bytes: 0,
        kept_back_packs: 0,
        room_bytes: 0,
        comes_back_bytes: 0,
        merged_packs: 0,
        merged_bytes: 0,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_again_fills_neither_the_grant_nor_what_is_kept_beside_it() {
        assert_eq!(room_within(1000, 0, 0), 950);
        assert_eq!(room_within(1000, 900, 0), 50);
        assert_eq!(room_within(1000, 950, 0), 0);
        assert_eq!(room_within(1000, 400, 950), 550);
        assert_eq!(room_within(1000, 400, 1400), 100);
        assert_eq!(room_within(1000, 400, 1500), 0);
        assert_eq!(room_within(0, 400, 0), 0);
        assert_eq!(room_within(u64::MAX, u64::MAX, u64::MAX), 0);
    }
}
