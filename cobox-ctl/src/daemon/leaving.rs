//! Leaving a folder: this device lets go of all that it has of it, and nobody else loses anything.
//!
//! Nothing is written into the folder: the device stays in its list until an admin removes it, and the words
//! still find the folder at its seeders.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cobox_net::{PeerId, SessionState};
use cobox_store::format::access::Role;

use super::Daemon;
use super::folder::FolderState;
use super::seeders::why;
use super::status::grants;
use crate::control::Shortfall;
use crate::exit::{Outcome, Problem};
use crate::render::units::bytes;
use crate::report::{FolderReport, Holding, LeaveReport};

impl Daemon {
    /// Removes everything of a folder from this device, or says what would be lost.
    pub fn folder_leave(self: &Arc<Self>, name: &str, shortfall: Shortfall) -> Outcome<LeaveReport> {
        let state = self.folder(name)?;
        if shortfall == Shortfall::Refuse {
            let report = self.folder_report(&state)?;
            may_leave(&state, &report)?;
            self.ask_again(&state, &report)?;
        }
        // What was written last is in entries once the mount is off, and may be nowhere else.
        let wanted = state.unmount_for_good()?;
        let report = self.folder_report(&state)?;
        if shortfall == Shortfall::Refuse
            && let Err(problem) = may_leave(&state, &report)
        {
            if let Some(wanted) = wanted {
                state.mount(self, wanted)?;
            }
            return Err(problem);
        }
        // Nobody opens its tree or audits it meanwhile.
        let (_turn, _audit) = (state.turn()?, state.audit.lock());
        state.replaced.store(true, Ordering::Release);
        self.forget(&state);
        self.node.remove_folder(state.no());
        if let Err(error) = self.home.folder_leave(state.no()) {
            // All of it is still there.
            state.replaced.store(false, Ordering::Release);
            self.adopt(Arc::clone(&state.folder))?;
            return Err(error.into());
        }
        self.locator_version.fetch_add(1, Ordering::SeqCst);
        tracing::info!(folder = %state.folder.id(), "this device has left a folder");
        Ok(LeaveReport {
            folder: report.name,
            id: report.id,
            copies_proved: report.copies_proved,
            removed_bytes: report.local.pack_bytes,
        })
    }

    /// Has those seeders prove once more on whose copies this device leaves: what is removed here is gone at once, and a
    /// proof of this morning says nothing of a disk that broke at noon.
    fn ask_again(&self, state: &FolderState, report: &FolderReport) -> Outcome<()> {
        // A device that was removed is answered by no seeder, and the folder is the others' to look after.
        if report.removed || is_empty(state, report)? {
            return Ok(());
        }
        let (mut proved, mut others) = (0, String::new());
        let counts = |peer_id: PeerId| {
            let mut seeders = report.seeders.iter();
            seeders.any(|seeder| seeder.holding.is_proved() && seeder.peer_id == peer_id.to_string())
        };
        for (peer_id, _) in grants(state)?.into_iter().filter(|(peer_id, _)| counts(*peer_id)) {
            if proved >= report.copies_wanted {
                break;
            }
            match self.proves_now(state, peer_id)? {
                Ok(()) => proved += 1,
                Err(why) => others += &format!(" {peer_id}: {why}"),
            }
        }
        if proved >= report.copies_wanted {
            return Ok(());
        }
        let name = &report.name;
        Err(Problem::refused(
            format!(
                "Before its copy here is removed, the seeders of {name} were asked again: {proved} of {} proved now what they \
                 hold.{others}",
                report.copies_wanted
            ),
            format!(
                "Nothing was removed. Try again once they answer (`cobox-ctl seeder audit {name}` asks them); `cobox-ctl folder \
                 leave {name} --force` leaves all the same."
            ),
        ))
    }

    /// Whether a seeder proves now that it holds everything, or why it does not.
    fn proves_now(&self, state: &FolderState, peer_id: PeerId) -> Outcome<Result<(), String>> {
        let status = self.node.status(state.no())?;
        let peer = status.peers.iter().find(|peer| peer.peer == peer_id);
        // Whoever is not connected would be waited for.
        let Some(peer) = peer.filter(|peer| peer.session == SessionState::Open) else {
            let why = why(peer.and_then(|peer| peer.error.clone()));
            return Ok(Err(format!("It does not answer for this folder now{why}.")));
        };
        if peer.has_told() && !peer.is_caught_up() {
            return Ok(Err("It says that it lacks something.".to_owned()));
        }
        let proof = self.challenge(state, peer_id);
        if proof.holding == Holding::Proved {
            return Ok(Ok(()));
        }
        Ok(Err(proof.problem.unwrap_or_else(|| "It proved something else than what is here.".to_owned())))
    }
}

/// A folder of which nothing was ever written: nobody has to hold it.
fn is_empty(state: &FolderState, report: &FolderReport) -> Outcome<bool> {
    Ok(report.local.entries == 0 && !state.has_unsent()?)
}

/// Refuses where something would be lost: content that only this device is known to have, or the last admin.
fn may_leave(state: &FolderState, report: &FolderReport) -> Outcome<()> {
    let name = &report.name;
    let access = state.folder.store().access(state.no())?;
    let is_empty = is_empty(state, report)?;
    if report.removed && !is_empty && (report.copies_proved < report.copies_wanted || state.has_unsent()?) {
        return Err(Problem::refused(
            format!("This device was removed from {name}, and what is only here is sent to nobody."),
            state.way_back(&access),
        ));
    }
    if !is_empty && (report.copies_proved < report.copies_wanted || state.has_unsent()?) {
        return Err(Problem::refused(
            format!(
                "{name} has {} of {} proved copies: {} that are here may be nowhere else.",
                report.copies_proved,
                report.copies_wanted,
                bytes(report.local.pack_bytes)
            ),
            format!(
                "Wait for them with `cobox-ctl wait {name} --copies {}`; `cobox-ctl folder leave {name} --force` leaves all the same.",
                report.copies_wanted
            ),
        ));
    }
    let own = state.folder.log();
    let others = || access.devices.iter().filter(|(log, _)| **log != own);
    let is_admin = access.role_of(&own) == Some(Role::Admin);
    if is_admin && others().count() > 0 && !others().any(|(_, device)| device.role == Role::Admin) {
        return Err(Problem::refused(
            format!("Nobody else is an admin of {name}: the others could let nobody in, and remove nobody."),
            format!(
                "Recover this member's words on another machine first; `cobox-ctl folder leave {name} --force` leaves all the same."
            ),
        ));
    }
    Ok(())
}
