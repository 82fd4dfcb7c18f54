//! Leaving a folder: this device lets go of all that it has of it, and nobody else loses anything.
//!
//! Nothing is written into the folder: the device stays in its list until an admin removes it, and the words
//! still find the folder at its seeders.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cobox_store::format::access::Role;

use super::Daemon;
use super::folder::FolderState;
use crate::control::Shortfall;
use crate::exit::{Outcome, Problem};
use crate::render::units::bytes;
use crate::report::{FolderReport, LeaveReport};

impl Daemon {
    /// Removes everything of a folder from this device, or says what would be lost.
    pub fn folder_leave(self: &Arc<Self>, name: &str, shortfall: Shortfall) -> Outcome<LeaveReport> {
        let state = self.folder(name)?;
        if shortfall == Shortfall::Refuse {
            may_leave(&state, &self.folder_report(&state)?)?;
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
}

/// Refuses where something would be lost: content that only this device is known to have, or the last admin.
fn may_leave(state: &FolderState, report: &FolderReport) -> Outcome<()> {
    let name = &report.name;
    let access = state.folder.store().access(state.no())?;
    let is_empty = report.local.entries == 0 && !state.has_unsent()?;
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
