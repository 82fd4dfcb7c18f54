//! Ending a seeder's grant: what must move first, the record that ends it, and telling the seeder.
//!
//! A seeder that was removed is dialed until it has the record, and no longer: from then on it keeps what it
//! has for a while, by its own clock, and counts as nobody's copy.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cobox_net::agreement::{AgreementView, Stage};
use cobox_net::{PeerId, SessionState};
use cobox_store::format::access::SeederGrant;

use super::folder::FolderState;
use super::status::grants;
use super::{Daemon, now_ms};
use crate::control::Shortfall;
use crate::exit::{Outcome, Problem};
use crate::render::units::{bytes, time};
use crate::report::SeederRemoveReport;

/// How long `seeder remove` waits for the seeder to learn of it.
const TELL_WAIT: Duration = Duration::from_secs(10);
const TELL_POLL: Duration = Duration::from_millis(100);
/// A seeder that was not reached for so long has had no reason to keep anything for as long.
const TELL_FOR_MS: u64 = 30 * 24 * 60 * 60 * 1000;

impl Daemon {
    /// Ends a seeder's grant.
    pub fn seeder_remove(
        &self,
        folder: &str,
        chosen: &str,
        shortfall: Shortfall,
    ) -> Outcome<SeederRemoveReport> {
        let state = self.folder(folder)?;
        let (peer_id, grant) = chosen_seeder(&state, chosen)?;
        let access = state.folder.store().access(state.no())?;
        if let Some(agreed) = access.agreement(&grant.peer_id) {
            let view = AgreementView::agreed(agreed, &access, now_ms());
            if view.stage != Stage::Ended {
                return Err(agreed_on(&state.folder.name(), peer_id, &view));
            }
        }
        let copies_left = self.copies_without(&state, peer_id)?;
        let copies_wanted = state.policy().copies;
        if copies_left < copies_wanted && shortfall == Shortfall::Refuse {
            return Err(self.must_move_first(&state, peer_id, copies_left)?);
        }
        state.folder.revoke_seeder(&grant.peer_id)?;
        self.locator_version.fetch_add(1, Ordering::SeqCst);
        self.tell_network(&state)?;
        tracing::info!(folder = %state.folder.id(), "a seeder was removed");
        let deadline = Instant::now() + TELL_WAIT;
        let mut told = self.note_told(&state)?;
        while !told && Instant::now() < deadline && !self.is_ending() {
            std::thread::sleep(TELL_POLL);
            told = self.note_told(&state)?;
        }
        Ok(SeederRemoveReport {
            folder: state.folder.name(),
            peer_id: peer_id.to_string(),
            told,
            copies_left,
            copies_wanted,
        })
    }

    /// Copies that would be proved without this seeder.
    pub fn copies_without(&self, state: &FolderState, peer_id: PeerId) -> Outcome<u32> {
        let report = self.folder_report(state)?;
        let others = report.seeders.iter().filter(|seeder| seeder.peer_id != peer_id.to_string());
        Ok(u32::try_from(others.filter(|seeder| seeder.holding.is_proved()).count()).unwrap_or(u32::MAX))
    }

    /// Why a seeder cannot go yet, and what has to move before it can.
    pub fn must_move_first(
        &self,
        state: &FolderState,
        peer_id: PeerId,
        copies_left: u32,
    ) -> Outcome<Problem> {
        let report = self.folder_report(state)?;
        let name = &report.name;
        let mut what = format!(
            "Without {peer_id}, {name} would have {copies_left} proved copies, and should have {}: {} in {} packs must be with \
             another seeder first.",
            report.copies_wanted,
            bytes(report.local.pack_bytes),
            report.local.packs,
        );
        if report.local.packs_missing > 0 {
            what += &format!(" {} of those packs are not on this device either.", report.local.packs_missing);
        }
        let others = report.seeders.iter().filter(|seeder| seeder.peer_id != peer_id.to_string());
        for other in others.filter(|other| !other.holding.is_proved()) {
            what += &format!(
                " {} still lacks {} or has not proved it.",
                other.peer_id,
                bytes(other.bytes_to_send)
            );
        }
        Ok(Problem::refused(
            what,
            format!(
                "Add one with `cobox-ctl seeder add {name} ADDR --quota 50G`, then `cobox-ctl wait {name} --copies {}`, and remove \
                 this one afterwards; --force removes it all the same.",
                report.copies_wanted.saturating_add(1),
            ),
        ))
    }

    /// Writes down which removed seeders have the record by now, and stops dialing them; whether all have.
    pub fn note_told(&self, state: &FolderState) -> Outcome<bool> {
        let waiting = departing(state)?;
        if waiting.is_empty() {
            return Ok(true);
        }
        let peers = self.node.status(state.no())?.peers;
        let all = waiting.len();
        let mut left = all;
        for (at_ms, peer_id, _) in waiting {
            let knows = peers.iter().any(|peer| {
                peer.peer == peer_id && peer.session == SessionState::Restricted && peer.knows_access
            });
            if knows {
                state.folder.store().setting_put(state.no(), &told_name(peer_id), &at_ms.to_le_bytes())?;
                left -= 1;
                tracing::info!(folder = %state.folder.id(), "a removed seeder knows of it");
                state.access_told.lock().clear();
            }
        }
        if left < all {
            self.tell_network(state)?;
        }
        Ok(left == 0)
    }
}

/// Why a seeder with an agreement is not removed: both sides signed that its end is said in advance.
fn agreed_on(folder: &str, peer_id: PeerId, view: &AgreementView) -> Problem {
    let advice = if view.notice.is_some() {
        format!("Notice was given: it ends at {}. Remove the seeder then.", time(view.ends_ms))
    } else {
        format!(
            "Give notice with `cobox-ctl agreement end {folder} {peer_id}`, and remove the seeder when it has passed."
        )
    };
    Problem::refused(
        format!("There is an agreement on {folder} with {peer_id}, which a removal would break."),
        advice,
    )
}

fn told_name(peer_id: PeerId) -> String {
    format!("seeder-told {peer_id}")
}

/// Seeders that were removed and may not know it yet.
pub(crate) fn departing(state: &FolderState) -> Outcome<Vec<(u64, PeerId, SeederGrant)>> {
    let store = state.folder.store();
    let access = store.access(state.no())?;
    let mut found = Vec::new();
    for (at_ms, grant) in &access.revoked {
        let Some(peer_id) = PeerId::from_bytes(&grant.peer_id) else { continue };
        let told = store.setting(state.no(), &told_name(peer_id))?;
        if told.as_deref() != Some(&at_ms.to_le_bytes()) && now_ms() < at_ms.saturating_add(TELL_FOR_MS) {
            found.push((*at_ms, peer_id, grant.clone()));
        }
    }
    Ok(found)
}

/// The one seeder that a person means by the beginning of its id.
pub(crate) fn chosen_seeder(state: &FolderState, chosen: &str) -> Outcome<(PeerId, SeederGrant)> {
    let all = grants(state)?;
    let mut fitting =
        all.into_iter().filter(|(peer_id, _)| !chosen.is_empty() && peer_id.to_string().starts_with(chosen));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Problem::missing(
            format!("{} has no seeder whose id begins with {chosen:?}.", state.folder.name()),
            "`cobox-ctl seeder list FOLDER` shows them.",
        )),
        _ => Err(Problem::missing(
            format!("More than one seeder's id begins with {chosen:?}."),
            "Give more of it; `cobox-ctl seeder list FOLDER` shows them.",
        )),
    }
}
