//! Agreements at the seeder: what it signed, what it declined, the notices it gave, and how they bind it.
//!
//! Proposals come with the access log. What the seeder answers is laid before the folder's devices again and
//! again, until one of them has put it into the access log.

use cobox_store::blind::Access;
use cobox_store::error::Result;
use cobox_store::format::agreement::{Notice, Paper, Side, SignedTerms, Terms};
use cobox_store::id::{FolderId, FolderNo};
use ed25519_dalek::{Signer as _, SigningKey};

use super::holding::Holding;
use super::leaving::{Leaving, Why};
use super::limits::Limits;
use super::{Exit, Failure};
use crate::agreement::{AgreementView, Stage, warnings};
use crate::driver::now_ms;

/// Settings of a folder: a paper each, or the hash of terms.
const SIGNED: &str = "seeder-signed";
const NOTICE: &str = "seeder-notice";
const DECLINED: &str = "seeder-declined";

impl Holding {
    fn me(&self) -> Vec<u8> {
        self.identity.peer().to_bytes()
    }

    fn key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.identity.seed)
    }

    /// Signs terms; durable on return. Devices of the folder are told from then on.
    pub(super) fn sign(&self, no: FolderNo, terms: &Terms) -> Result<()> {
        if self.signed(no)?.is_some_and(|signed| signed.terms == *terms) {
            return Ok(());
        }
        let signature = self.key().sign(&terms.signed_bytes()).to_bytes();
        let paper = Paper::Signed(SignedTerms { terms: terms.clone(), signature });
        tracing::info!(no = no.0, terms = %terms.hash(), quota = terms.quota_bytes, "signed the terms of an agreement");
        self.store.setting_put(no, SIGNED, &paper.encode())
    }

    pub(super) fn decline(&self, no: FolderNo, terms: &Terms) -> Result<()> {
        tracing::info!(no = no.0, terms = %terms.hash(), "declined the terms of an agreement");
        self.store.setting_put(no, DECLINED, &terms.hash().0)
    }

    fn paper(&self, no: FolderNo, name: &str) -> Result<Option<Paper>> {
        self.store.setting(no, name)?.map(|bytes| Ok(Paper::decode(&bytes)?)).transpose()
    }

    fn signed(&self, no: FolderNo) -> Result<Option<SignedTerms>> {
        Ok(match self.paper(no, SIGNED)? {
            Some(Paper::Signed(signed)) => Some(signed),
            _ => None,
        })
    }

    fn notice(&self, no: FolderNo) -> Result<Option<Notice>> {
        Ok(match self.paper(no, NOTICE)? {
            Some(Paper::Ends(notice)) => Some(notice),
            _ => None,
        })
    }

    /// Terms that were proposed to this seeder and that it has not answered.
    pub(super) fn waiting_terms(&self, no: FolderNo, access: &Access) -> Result<Option<Terms>> {
        let Some(proposal) = access.proposal(&self.me()) else { return Ok(None) };
        let declined = self.store.setting(no, DECLINED)?;
        let answered = declined.as_deref() == Some(&proposal.terms.hash().0)
            || self.signed(no)?.is_some_and(|signed| signed.terms == proposal.terms);
        Ok((!answered).then(|| proposal.terms.clone()))
    }

    /// What devices of the folder have to be told and have not put into the access log.
    pub(super) fn papers(&self, no: FolderNo, access: &Access) -> Vec<Vec<u8>> {
        self.untold(no, access).unwrap_or_else(|error| {
            tracing::warn!(no = no.0, %error, "agreements cannot be read");
            Vec::new()
        })
    }

    fn untold(&self, no: FolderNo, access: &Access) -> Result<Vec<Vec<u8>>> {
        let me = self.me();
        let agreed = access.agreement(&me);
        let mut papers = Vec::new();
        if let Some(signed) = self.signed(no)? {
            // A proposal that came after it asks for another answer.
            let newer = access.proposal(&me).is_some_and(|proposal| proposal.terms != signed.terms);
            let known = agreed.is_some_and(|agreed| agreed.signed.terms == signed.terms);
            if !known && !newer {
                papers.push(Paper::Signed(signed).encode());
            }
        }
        if let (Some(notice), Some(agreed)) = (self.notice(no)?, agreed) {
            let known = agreed.notice.as_ref().is_some_and(|known| known.at_ms <= notice.at_ms);
            if notice.terms == agreed.signed.terms.hash() && !known {
                papers.push(Paper::Ends(notice).encode());
            }
        }
        if let Some(proposal) = access.proposal(&me) {
            let declined = self.store.setting(no, DECLINED)?;
            if declined.as_deref() == Some(&proposal.terms.hash().0) {
                papers.push(Paper::Declined(proposal.terms.hash()).encode());
            }
        }
        Ok(papers)
    }

    /// What the agreement allows, with its end by text or by notice.
    pub(super) fn agreed_limits(&self, no: FolderNo, access: &Access) -> Result<Option<Limits>> {
        let Some(agreed) = access.agreement(&self.me()).filter(|agreed| agreed.binds(now_ms())) else {
            return Ok(None);
        };
        let terms = &agreed.signed.terms;
        // Terms that were signed since count as soon as this side signed them.
        if self.signed(no)?.is_some_and(|signed| signed.terms != *terms) {
            return Ok(None);
        }
        let told = Limits { quota_bytes: terms.quota_bytes, until_ms: agreed.until_ms() };
        // A notice of ours that nobody wrote down yet counts too.
        let ours = self.notice(no)?.filter(|notice| notice.terms == terms.hash());
        Ok(Some(match ours {
            Some(notice) => told.min(Limits { until_ms: notice.at_ms.max(1), ..told }),
            None => told,
        }))
    }

    /// The agreement of a folder, if one binds now.
    pub(super) fn binding(&self, no: FolderNo) -> Result<Option<AgreementView>> {
        let access = self.store.access(no)?;
        let Some(agreed) = access.agreement(&self.me()) else { return Ok(None) };
        let view = AgreementView::agreed(agreed, &access, now_ms());
        Ok((view.stage != Stage::Ended).then_some(view))
    }

    /// Everything about agreements: those in force and over, proposed, offered and declined.
    pub fn agreements(&self) -> std::result::Result<Vec<AgreementView>, Failure> {
        let mut views = Vec::new();
        for (no, _) in self.store.folders()? {
            let access = self.store.access(no)?;
            views.extend(
                access.agreement(&self.me()).map(|agreed| AgreementView::agreed(agreed, &access, now_ms())),
            );
            if let Some(proposal) = access.proposal(&self.me()) {
                let declined = self.store.setting(no, DECLINED)?;
                let declined = declined.as_deref() == Some(&proposal.terms.hash().0);
                let stage = if declined { Stage::Declined } else { Stage::Proposed };
                views.push(AgreementView::proposed(proposal, stage));
            }
            let known =
                |signed: &SignedTerms| views.iter().any(|view| view.id == signed.terms.hash().to_hex());
            if let Some(signed) = self.signed(no)?.filter(|signed| !known(signed)) {
                views.push(AgreementView::offered(&signed));
            }
        }
        for pending in self.list_pending() {
            if let Some(terms) = pending.terms.filter(|terms| self.store.folder_no(terms.folder).is_err()) {
                views.push(AgreementView::asked(&terms));
            }
        }
        Ok(views)
    }

    /// Gives notice of an agreement's end, after the span that was agreed.
    pub fn end_agreement(&self, folder: FolderId) -> std::result::Result<AgreementView, Failure> {
        let no = self.store.folder_no(folder)?;
        let access = self.store.access(no)?;
        let none =
            || Failure { exit: Exit::Refused, text: "No agreement on this folder is in force.".to_owned() };
        let agreed = access.agreement(&self.me()).ok_or_else(none)?;
        let terms = &agreed.signed.terms;
        let now_ms = now_ms();
        if AgreementView::agreed(agreed, &access, now_ms).stage == Stage::Ended {
            return Err(none());
        }
        let after_notice = now_ms.saturating_add(terms.notice_ms);
        let end = agreed.until_ms();
        let at_ms = if end == 0 { after_notice } else { after_notice.min(end) };
        if self.notice(no)?.is_none_or(|notice| notice.terms != terms.hash()) {
            let mut notice =
                Notice { folder, seeder: self.me(), terms: terms.hash(), at_ms, by: Side::Folder };
            notice.by = Side::Seeder(self.key().sign(&notice.signed_bytes()).to_bytes());
            self.store.setting_put(no, NOTICE, &Paper::Ends(notice).encode())?;
            tracing::info!(%folder, at_ms, "gave notice of the end of an agreement");
        }
        self.refresh(no);
        let mut view = AgreementView::agreed(agreed, &access, now_ms);
        if let Some(notice) = self.notice(no)? {
            view.ending(notice.at_ms);
        }
        Ok(view)
    }

    /// Warns the owner of folders that are nearly full or whose end comes, and notes ends that have come.
    pub(super) fn look_at_limits(&self) {
        for (no, folder) in self.store.folders().unwrap_or_default() {
            if let Err(error) = self.look_at_limit(no, folder) {
                tracing::warn!(%folder, %error, "a folder's limits cannot be read");
            }
        }
    }

    fn look_at_limit(&self, no: FolderNo, folder: FolderId) -> Result<()> {
        let usage = self.store.usage(no)?;
        let until_ms = usage.until_ms.unwrap_or(0);
        if until_ms != 0 && now_ms() >= until_ms && Leaving::read(&self.store, no)?.is_none() {
            self.leave(no, Why::Ended)?;
        }
        let used = usage.pack_bytes.saturating_add(usage.entry_bytes);
        let percent = crate::agreement::percent(used, usage.quota_bytes.unwrap_or(0));
        let level = [95, 80].into_iter().find(|level| percent >= *level).unwrap_or(0);
        let before = self.warned.lock().insert(no, level).unwrap_or(0);
        if level > before {
            tracing::warn!(%folder, percent, used, quota = usage.quota_bytes, "a folder is nearly full");
        }
        Ok(())
    }

    /// What the owner should know about a folder, in sentences.
    pub(super) fn warnings(&self, no: FolderNo) -> Result<Vec<String>> {
        let usage = self.store.usage(no)?;
        let used = usage.pack_bytes.saturating_add(usage.entry_bytes);
        let notice_ms = self.binding(no)?.map(|view| view.notice_ms);
        let (quota, until_ms) = (usage.quota_bytes.unwrap_or(0), usage.until_ms.unwrap_or(0));
        Ok(warnings(used, quota, until_ms, notice_ms, now_ms()))
    }
}
