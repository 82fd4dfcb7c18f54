//! Agreements with seeders: proposing, agreeing to what a seeder signed, giving notice; and seed codes.
//!
//! A seeder lays what it signed before every device of the folder until it is in the access log. An admin's
//! device puts it there: by itself where it is exactly what was proposed, else when a person says so.

use cobox_net::PeerId;
use cobox_net::agreement::{AgreementView, Stage};
use cobox_net::nearing::Limited;
use cobox_store::blind::contracts::{Agreed, SeedState};
use cobox_store::format::access::Role;
use cobox_store::format::agreement::{Paper, SignedTerms, Terms};
use cobox_store::format::invite::{CodeFor, InviteCode};
use cobox_store::id::InviteKey;
use cobox_store::keyed::Admission;
use cobox_store::keyed::seeding::seed_code_key;

use super::departing::chosen_seeder;
use super::folder::FolderState;
use super::seeders::parse_address;
use super::status::{address_of, grants};
use super::{Daemon, now_ms};
use crate::contracts::{
    AgreementsReport, ProposeReport, SeedCodeLine, SeedCodeReport, SeedCodesReport, Wishes,
};
use crate::control::Shortfall;
use crate::exit::{Outcome, Problem};
use crate::report::Alarm;

/// What a seeder signed of its own accord, sealed like every setting that shows something.
fn offer_name(peer_id: PeerId) -> String {
    format!("seeder-offer {peer_id}")
}

fn declined_name(peer_id: PeerId) -> String {
    format!("seeder-declined {peer_id}")
}

impl Daemon {
    /// Proposes terms to a seeder of the folder, or to one that is granted the folder with them.
    pub fn agreement_propose(&self, folder: &str, seeder: &str, wishes: &Wishes) -> Outcome<ProposeReport> {
        let state = self.folder(folder)?;
        let address = match chosen_seeder(&state, seeder) {
            Ok((_, grant)) => address_of(&grant),
            Err(problem) => parse_address(seeder).map_err(|_| problem)?,
        };
        let now_ms = now_ms();
        let terms = Terms {
            folder: state.folder.id(),
            seeder: address.peer_id.clone(),
            quota_bytes: wishes.quota_bytes,
            from_ms: if wishes.from_ms == 0 { now_ms } else { wishes.from_ms },
            until_ms: wishes.until_ms,
            notice_ms: wishes.notice_ms,
            audit_ms: wishes.audit_ms,
            place: wishes.place.trim().to_owned(),
            organisation: wishes.organisation.trim().to_owned(),
            contact: wishes.contact.trim().to_owned(),
            member_contact: wishes.member_contact.trim().to_owned(),
        };
        if !terms.is_sound() || (terms.until_ms != 0 && terms.until_ms <= now_ms) {
            return Err(Problem::usage(
                "These terms make no sense.",
                "The quota is above 0, the end is still to come and after the beginning, proofs are asked for every 1m to 365d, and place, \
                 organisation and contacts are lines of up to 200 bytes.",
            ));
        }
        let access = state.folder.store().access(state.no())?;
        if access.agreement(&address.peer_id).is_some_and(|agreed| agreed.before.contains(&terms.hash())) {
            return Err(Problem::refused(
                "These very terms were agreed on before, and replaced since.",
                "Give another beginning with --from, so that they are not the old ones.",
            ));
        }
        let granted = access.seeder(&address.peer_id).map(|grant| (grant.quota_bytes, grant.until_ms));
        if access.proposal(&address.peer_id).map(|proposal| &proposal.terms) != Some(&terms) {
            state.folder.propose(terms.clone())?;
        }
        // The grant comes last: a seeder that is new to the folder is shown both at once. It is only ever raised
        // here; what is less counts once both sides signed it.
        raise_grant(&state, &address, granted, &terms)?;
        self.locator_version.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.tell_network(&state)?;
        self.node.connect(&address);
        let access = state.folder.store().access(state.no())?;
        let agreement = access.proposal(&address.peer_id).map_or_else(
            || AgreementView::asked(&terms),
            |proposal| AgreementView::proposed(proposal, Stage::Proposed),
        );
        Ok(ProposeReport { folder: state.folder.name(), agreement })
    }

    /// Agreements of one folder or all: in force and over, proposed, offered, declined.
    pub fn agreements(&self, folder: Option<&str>) -> Outcome<AgreementsReport> {
        let mut agreements = Vec::new();
        for state in self.chosen(folder)? {
            let access = state.folder.store().access(state.no())?;
            let now_ms = now_ms();
            agreements.extend(
                access.agreements.iter().map(|agreed| AgreementView::agreed(agreed, &access, now_ms)),
            );
            for proposal in &access.proposals {
                let declined = PeerId::from_bytes(&proposal.terms.seeder)
                    .map(|peer_id| state.folder.store().setting(state.no(), &declined_name(peer_id)))
                    .transpose()?
                    .flatten();
                let declined = declined.as_deref() == Some(&proposal.terms.hash().0);
                let stage = if declined { Stage::Declined } else { Stage::Proposed };
                agreements.push(AgreementView::proposed(proposal, stage));
            }
            for offer in offers(&state)? {
                agreements.push(AgreementView::offered(&offer));
            }
        }
        Ok(AgreementsReport { agreements })
    }

    /// Agrees to what a seeder signed of its own accord.
    pub fn agreement_accept(&self, folder: &str, id: &str) -> Outcome<AgreementsReport> {
        let state = self.folder(folder)?;
        let fits = |signed: &SignedTerms| is_named(&signed.terms.hash().to_hex(), id);
        let mut found = offers(&state)?.into_iter().filter(fits);
        let (Some(signed), None) = (found.next(), found.next()) else {
            return Err(Problem::missing(
                "No single offer of a seeder is meant by that.",
                format!(
                    "Name it by its id, or the first {ID_LETTERS_MIN} letters of it or more. `cobox-ctl agreement list FOLDER` shows what seeders \
                     offered; a proposal of yours is for the seeder to accept."
                ),
            ));
        };
        let address = grants(&state)?.into_iter().find(|(_, grant)| grant.peer_id == signed.terms.seeder);
        // Before the agreement: a grant that comes after one outlives it.
        if let Some((_, grant)) = address {
            let granted = Some((grant.quota_bytes, grant.until_ms));
            raise_grant(&state, &address_of(&grant), granted, &signed.terms)?;
        }
        state.folder.agree(signed)?;
        self.tell_network(&state)?;
        self.agreements(Some(folder))
    }

    /// Gives notice of an agreement's end, or says what must move first.
    pub fn agreement_end(
        &self,
        folder: &str,
        seeder: &str,
        shortfall: Shortfall,
    ) -> Outcome<AgreementsReport> {
        let state = self.folder(folder)?;
        let (peer_id, grant) = chosen_seeder(&state, seeder)?;
        let access = state.folder.store().access(state.no())?;
        let none = || {
            Problem::refused(
                format!("There is no agreement with {peer_id} in force."),
                "`cobox-ctl seeder remove` ends a grant without an agreement.",
            )
        };
        let agreed = access.agreement(&grant.peer_id).ok_or_else(none)?;
        if AgreementView::agreed(agreed, &access, now_ms()).stage == Stage::Ended {
            return Err(none());
        }
        let copies_left = self.copies_without(&state, peer_id)?;
        if copies_left < state.policy().copies && shortfall == Shortfall::Refuse {
            return Err(self.must_move_first(&state, peer_id, copies_left)?);
        }
        let terms = &agreed.signed.terms;
        let after_notice = now_ms().saturating_add(terms.notice_ms);
        let at_ms = match agreed.until_ms() {
            0 => after_notice,
            end => after_notice.min(end),
        };
        state.folder.end_agreement(state.folder.notice(terms, at_ms))?;
        self.tell_network(&state)?;
        self.agreements(Some(folder))
    }

    /// Takes what seeders laid before us.
    pub fn read_papers(&self) {
        for (no, peer_id, paper) in self.node.take_papers() {
            let Some(state) = self.folders().into_iter().find(|state| state.no() == no) else { continue };
            if let Err(problem) = read_paper(&state, peer_id, paper) {
                tracing::warn!(folder = %state.folder.id(), %problem, "a seeder's paper was not taken");
            }
        }
    }

    /// Grants folders to seeders that have a code.
    pub fn answer_seeds(&self) {
        for (no, request) in self.node.take_seeds() {
            let Some(state) = self.folders().into_iter().find(|state| state.no() == no) else { continue };
            if !matches!(state.folder.role(), Ok(Some(Role::Admin))) {
                continue;
            }
            match state.folder.grant_seed(&request) {
                Ok(Admission::New) => {
                    self.locator_version.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                Ok(Admission::Known) => {}
                Err(error) => {
                    tracing::warn!(folder = %state.folder.id(), %error, "a seeder with a code was refused");
                }
            }
        }
    }

    /// Opens a seed code.
    pub fn seed_code(
        &self,
        folder: &str,
        quota_bytes: u64,
        until_ms: u64,
        valid_ms: u64,
    ) -> Outcome<SeedCodeReport> {
        let state = self.folder(folder)?;
        super::members::require_lifetime(valid_ms)?;
        if quota_bytes == 0 || (until_ms != 0 && until_ms <= now_ms()) {
            return Err(Problem::usage(
                "A grant of nothing, or one that has ended, would store nothing.",
                "Give a quota above 0 and a day that is still to come.",
            ));
        }
        let hints = self.hints(&state)?;
        if hints.is_empty() {
            return Err(Problem::failed_with(
                format!(
                    "Nobody could be asked: this device does not listen, and {folder} has no seeder yet."
                ),
                "Let the seeder's owner give you its address, and use `cobox-ctl seeder add`.",
            ));
        }
        let expires_ms = now_ms().saturating_add(valid_ms);
        let code = InviteCode { hints, ..state.folder.open_seed(quota_bytes, until_ms, expires_ms)? };
        let text = code
            .to_text_for(CodeFor::Seed)
            .map_err(|_| Problem::failed("The addresses do not fit into a code."))?;
        Ok(SeedCodeReport {
            folder: state.folder.name(),
            code: text.to_string(),
            key: seed_code_key(&code).to_hex(),
            quota_bytes,
            until_ms,
            expires_ms,
        })
    }

    /// All seed codes there were.
    pub fn seed_codes(&self, folder: &str) -> Outcome<SeedCodesReport> {
        let state = self.folder(folder)?;
        let access = state.folder.store().access(state.no())?;
        let codes = access.seed_codes.iter().map(|(key, (open, standing))| {
            let (word, used_by) = match standing {
                SeedState::Open if now_ms() > open.expires_ms => ("expired", None),
                SeedState::Open => ("open", None),
                SeedState::Void => ("void", None),
                SeedState::Clashed => ("clashed", None),
                SeedState::Used(peer_id) => ("used", PeerId::from_bytes(peer_id).map(|id| id.to_string())),
            };
            SeedCodeLine {
                key: key.to_hex(),
                quota_bytes: open.quota_bytes,
                until_ms: open.until_ms,
                expires_ms: open.expires_ms,
                state: word.to_owned(),
                used_by,
            }
        });
        Ok(SeedCodesReport { folder: state.folder.name(), codes: codes.collect() })
    }

    /// Takes a seed code back: by the beginning of its name, or the code itself.
    pub fn void_seed(&self, folder: &str, chosen: &str) -> Outcome<SeedCodesReport> {
        let state = self.folder(folder)?;
        let access = state.folder.store().access(state.no())?;
        let named = InviteCode::from_text_for(CodeFor::Seed, chosen).ok().map(|code| seed_code_key(&code));
        let fits =
            |key: &InviteKey| named.map_or_else(|| is_named(&key.to_hex(), chosen), |named| named == *key);
        let found: Vec<InviteKey> = access.seed_codes.keys().copied().filter(|key| fits(key)).collect();
        let [key] = found[..] else {
            return Err(Problem::missing(
                "No single seed code is meant by that.",
                format!(
                    "Give the code, or the first {ID_LETTERS_MIN} letters of its name or more. `cobox-ctl seeder code FOLDER --list` shows them."
                ),
            ));
        };
        state.folder.void_seed(key)?;
        self.seed_codes(folder)
    }
}

/// Grants what the terms say, where that is more or longer than what was granted.
fn raise_grant(
    state: &FolderState,
    address: &cobox_store::format::address::SeederAddress,
    granted: Option<(u64, u64)>,
    terms: &Terms,
) -> Outcome<()> {
    let (quota_bytes, until_ms) = granted.unwrap_or((0, 1));
    let later = if until_ms == 0 || terms.until_ms == 0 { 0 } else { until_ms.max(terms.until_ms) };
    let raised = (quota_bytes.max(terms.quota_bytes), later);
    if granted != Some(raised) {
        state.folder.grant_seeder(address, raised.0, raised.1)?;
    }
    Ok(())
}

/// Letters of an id that name something, at the least: eight show that somebody looked.
const ID_LETTERS_MIN: usize = 8;

fn is_named(id: &str, chosen: &str) -> bool {
    chosen.len() >= ID_LETTERS_MIN && id.starts_with(chosen)
}

/// Whether terms are agreed on, or were until others replaced them: an old signature is no offer.
fn was_agreed(agreed: &Agreed, terms: &Terms) -> bool {
    agreed.signed.terms == *terms || agreed.before.contains(&terms.hash())
}

/// What a seeder signed of its own accord and nobody agreed to.
fn offers(state: &FolderState) -> Outcome<Vec<SignedTerms>> {
    let access = state.folder.store().access(state.no())?;
    let mut found = Vec::new();
    for (peer_id, grant) in grants(state)? {
        let Some(bytes) = state.folder.store().setting(state.no(), &offer_name(peer_id))? else { continue };
        let Ok(Paper::Signed(signed)) = Paper::decode(&bytes) else { continue };
        let agreed = access.agreement(&grant.peer_id);
        if !agreed.is_some_and(|agreed| was_agreed(agreed, &signed.terms)) {
            found.push(signed);
        }
    }
    Ok(found)
}

fn read_paper(state: &FolderState, peer_id: PeerId, paper: Paper) -> Outcome<()> {
    let store = state.folder.store();
    let access = store.access(state.no())?;
    let is_admin = matches!(state.folder.role()?, Some(Role::Admin));
    let proposal = access.proposal(&peer_id.to_bytes());
    match paper {
        Paper::Signed(signed) => {
            let agreed = access.agreement(&signed.terms.seeder);
            if agreed.is_some_and(|agreed| was_agreed(agreed, &signed.terms)) {
                return Ok(());
            }
            if proposal.is_some_and(|proposal| proposal.terms == signed.terms) {
                if is_admin {
                    tracing::info!(folder = %state.folder.id(), "a seeder signed what was proposed");
                    state.folder.agree(signed)?;
                }
                return Ok(());
            }
            tracing::info!(folder = %state.folder.id(), "a seeder offers other terms");
            Ok(store.setting_put(state.no(), &offer_name(peer_id), &Paper::Signed(signed).encode())?)
        }
        Paper::Ends(notice) => {
            let known = access
                .agreement(&notice.seeder)
                .filter(|agreed| agreed.signed.terms.hash() == notice.terms)
                .is_some_and(|agreed| {
                    // What the record would say: no earlier than the agreed span from now.
                    let span_ms = agreed.signed.terms.notice_ms;
                    let ends_ms = notice.at_ms.max(now_ms().saturating_add(span_ms));
                    agreed.notice.is_none() || ends_ms < agreed.notice_ends_ms
                });
            if is_admin && known {
                tracing::warn!(folder = %state.folder.id(), at_ms = notice.at_ms, "a seeder gave notice");
                state.folder.end_agreement(notice)?;
            }
            Ok(())
        }
        Paper::Held(held) => Ok(super::let_go::note(state, peer_id, held)?),
        Paper::Declined(terms) => {
            let name = declined_name(peer_id);
            let new = store.setting(state.no(), &name)?.as_deref() != Some(&terms.0);
            if new && proposal.is_some_and(|proposal| proposal.terms.hash() == terms) {
                tracing::info!(folder = %state.folder.id(), "a seeder declined what was proposed");
                store.setting_put(state.no(), &name, &terms.0)?;
            }
            Ok(())
        }
    }
}

/// What to do about a quota that is nearly used, or an end that comes.
pub(crate) const LIMIT_ADVICE: &str = "Agree on more with `cobox-ctl agreement propose` (or `seeder add` with a larger --quota and a later --until), or \
     add another seeder and wait until it holds everything.";

/// How near each seeder's grant is to its limits.
pub(crate) fn limited(state: &FolderState) -> Outcome<Vec<(PeerId, Limited)>> {
    let access = state.folder.store().access(state.no())?;
    let usage = state.folder.store().usage(state.no())?;
    let used = usage.pack_bytes.saturating_add(usage.entry_bytes);
    let near = grants(state)?.into_iter().map(|(peer_id, grant)| {
        let agreed = access.agreement(&grant.peer_id);
        let (quota_bytes, ends_ms) = limits(&grant, agreed);
        let notice_ms = agreed.map(|agreed| agreed.signed.terms.notice_ms);
        (peer_id, Limited { used, quota_bytes, ends_ms, notice_ms })
    });
    Ok(near.collect())
}

/// What people must know about a folder's seeders: quotas that are nearly used, ends that come.
pub(crate) fn alarms(state: &FolderState) -> Outcome<Vec<Alarm>> {
    let mut found = Vec::new();
    for (peer_id, limited) in limited(state)? {
        for said in limited.warnings(now_ms()) {
            let what = format!("With the seeder {peer_id}: {said}.");
            found.push(Alarm { what, advice: LIMIT_ADVICE.to_owned() });
        }
    }
    Ok(found)
}

/// How much a seeder takes and until when, by its grant and by the agreement.
pub(crate) fn limits(
    grant: &cobox_store::format::access::SeederGrant,
    agreed: Option<&cobox_store::blind::contracts::Agreed>,
) -> (u64, u64) {
    let Some(agreed) = agreed.filter(|agreed| agreed.binds(now_ms())) else {
        return (grant.quota_bytes, grant.until_ms);
    };
    let ends = [grant.until_ms, agreed.until_ms()].into_iter().filter(|end| *end > 0).min();
    (grant.quota_bytes.min(agreed.signed.terms.quota_bytes), ends.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offer_is_named_by_eight_letters_or_more_and_by_nothing_else() {
        let id = "0123456789abcdef";
        for chosen in ["01234567", "0123456789", id] {
            assert!(is_named(id, chosen), "{chosen}");
        }
        for chosen in ["", "0", "0123456", "01234568", "0123456789abcdef0", "1234567890"] {
            assert!(!is_named(id, chosen), "{chosen}");
        }
    }
}
