//! Agreements at the seeder: what it signed, what it declined, the notices it gave, and how they bind it.
//!
//! Proposals come with the access log. What the seeder answers is laid before the folder's devices again and
//! again, until one of them has put it into the access log.

use std::collections::BTreeSet;

use cobox_store::blind::Access;
use cobox_store::blind::contracts::Agreed;
use cobox_store::blind::retention::HOLD_MS;
use cobox_store::error::Result;
use cobox_store::format::agreement::{Held, Notice, Paper, Side, SignedTerms, Terms};
use cobox_store::format::{Reader, Writer};
use cobox_store::id::{FolderId, FolderNo, TermsHash};
use ed25519_dalek::{Signer as _, SigningKey};

use super::holding::Holding;
use super::leaving::{Leaving, Why};
use super::limits::Limits;
use super::{Exit, Failure};
use crate::agreement::{AgreementView, Stage};
use crate::driver::now_ms;
use crate::nearing::{Ending, Limited, News};

/// Settings of a folder: a paper each, or the hash of terms.
const SIGNED: &str = "seeder-signed";
const NOTICE: &str = "seeder-notice";
const DECLINED: &str = "seeder-declined";
/// When notice by the folder's side was first seen here: terms and a time.
const NOTICED: &str = "seeder-noticed";

impl Holding {
    fn me(&self) -> Vec<u8> {
        self.identity.peer().to_bytes()
    }

    fn key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.identity.seed)
    }

    /// Signs terms; durable on return. Devices of the folder are told from then on.
    pub(super) fn sign(&self, no: FolderNo, terms: &Terms) -> Result<()> {
        let _signing = self.signing.lock();
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
        let held = match Leaving::read(&self.store, no)? {
            Some(Leaving { why: Why::Unseeded, since_ms }) => Held::Until(since_ms.saturating_add(HOLD_MS)),
            _ => Held::On,
        };
        // Said each time: whoever was told that the folder goes must learn that it stays.
        let mut papers = vec![Paper::Held(held).encode()];
        if let Some(signed) = self.signed(no)? {
            // A proposal that came after it asks for another answer.
            let newer = access.proposal(&me).is_some_and(|proposal| proposal.terms != signed.terms);
            // What was replaced is not agreed on again.
            let known = agreed.is_some_and(|agreed| {
                agreed.signed.terms == signed.terms || agreed.before.contains(&signed.terms.hash())
            });
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

    /// The agreement of a folder, with its notice by this seeder's clock: what the folder's side says takes effect
    /// no earlier than the agreed span after this seeder saw it, whatever time the record bears.
    fn agreed(&self, no: FolderNo, access: &Access) -> Result<Option<Agreed>> {
        let Some(mut agreed) = access.agreement(&self.me()).cloned() else { return Ok(None) };
        if agreed.notice.as_ref().is_some_and(|notice| notice.by == Side::Folder) {
            let terms = &agreed.signed.terms;
            let seen_ms = self.notice_seen_ms(no, terms.hash())?;
            agreed.notice_ends_ms = agreed.notice_ends_ms.max(seen_ms.saturating_add(terms.notice_ms));
        }
        Ok(Some(agreed))
    }

    /// When notice of these terms was first seen: now, and durable on return, where it was not before.
    fn notice_seen_ms(&self, no: FolderNo, terms: TermsHash) -> Result<u64> {
        if let Some(bytes) = self.store.setting(no, NOTICED)? {
            let mut reader = Reader::new(&bytes);
            let (of, seen_ms) = (reader.array("notice")?, reader.u64("notice")?);
            reader.finish()?;
            if terms.0 == of {
                return Ok(seen_ms);
            }
        }
        let seen_ms = now_ms();
        let mut writer = Writer::new();
        writer.fixed(&terms.0);
        writer.u64(seen_ms);
        self.store.setting_put(no, NOTICED, &writer.into_bytes())?;
        Ok(seen_ms)
    }

    /// What the agreement allows, with its end by text or by notice.
    pub(super) fn agreed_limits(&self, no: FolderNo, access: &Access) -> Result<Option<Limits>> {
        let Some(agreed) = self.agreed(no, access)?.filter(|agreed| agreed.binds(now_ms())) else {
            return Ok(None);
        };
        let terms = &agreed.signed.terms;
        // Terms that were signed since count as soon as this side signed them.
        if self.signed(no)?.is_some_and(|signed| signed.terms != *terms) {
            return Ok(None);
        }
        let told = Limits { quota_bytes: terms.quota_bytes, until_ms: agreed.until_ms() };
        // A notice of ours that nobody wrote down yet counts too; once it is, both sides count from there.
        let ours = self.notice(no)?.filter(|notice| notice.terms == terms.hash() && agreed.notice.is_none());
        Ok(Some(match ours {
            Some(notice) => told.min(Limits { until_ms: notice.at_ms.max(1), ..told }),
            None => told,
        }))
    }

    /// What terms leave of a grant: those that were agreed on, or that this side signed as they were proposed. What
    /// a grant says beyond them is no question to the owner, who answered it by signing.
    pub(super) fn within_terms(&self, no: FolderNo, access: &Access, granted: Limits) -> Result<Limits> {
        if let Some(agreed) = self.agreed_limits(no, access)? {
            return Ok(granted.min(agreed));
        }
        let proposed = access.proposal(&self.me()).map(|proposal| &proposal.terms);
        let signed = self.signed(no)?.filter(|signed| Some(&signed.terms) == proposed);
        Ok(signed.map_or(granted, |signed| granted.min(Limits::of_terms(&signed.terms))))
    }

    /// The agreement of a folder, if one binds now.
    pub(super) fn binding(&self, no: FolderNo) -> Result<Option<AgreementView>> {
        let access = self.store.access(no)?;
        let Some(agreed) = self.agreed(no, &access)? else { return Ok(None) };
        let view = AgreementView::agreed(&agreed, &access, now_ms());
        Ok((view.stage != Stage::Ended).then_some(view))
    }

    /// Everything about agreements: those in force and over, proposed, offered and declined.
    pub fn agreements(&self) -> std::result::Result<Vec<AgreementView>, Failure> {
        let mut views = Vec::new();
        for (no, _) in self.store.folders()? {
            let access = self.store.access(no)?;
            views.extend(
                self.agreed(no, &access)?.map(|agreed| AgreementView::agreed(&agreed, &access, now_ms())),
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
        let none = || Failure {
            exit: Exit::Refused,
            text: "No agreement on this folder is in force.".to_owned(),
            missing: false,
        };
        let agreed = self.agreed(no, &access)?.ok_or_else(none)?;
        let terms = &agreed.signed.terms;
        let now_ms = now_ms();
        if AgreementView::agreed(&agreed, &access, now_ms).stage == Stage::Ended {
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
        let mut view = AgreementView::agreed(&agreed, &access, now_ms);
        if let Some(notice) = self.notice(no)? {
            view.ending(notice.at_ms);
        }
        Ok(view)
    }

    /// Warns the owner of folders that are nearly full or whose end comes, and notes ends that have come.
    pub(super) fn look_at_limits(&self) {
        let node = self.node.lock().clone().filter(|_| !self.is_paused());
        let there = node.and_then(|node| node.with_members().ok());
        for (no, folder) in self.store.folders().unwrap_or_default() {
            if let Err(error) = self.look_at_limit(no, folder, there.as_ref()) {
                tracing::warn!(%folder, %error, "a folder's limits cannot be read");
            }
        }
    }

    fn look_at_limit(
        &self,
        no: FolderNo,
        folder: FolderId,
        there: Option<&BTreeSet<FolderNo>>,
    ) -> Result<()> {
        let usage = self.store.usage(no)?;
        let until_ms = usage.until_ms.unwrap_or(0);
        if until_ms != 0 && now_ms() >= until_ms && Leaving::read(&self.store, no)?.is_none() {
            self.leave(no, Why::Ended)?;
        }
        self.look_at_members(no, folder, there)?;
        // Who let it go, or took it back, knows that it ended.
        if Leaving::read(&self.store, no)?.is_some_and(|leaving| leaving.why != Why::Ended) {
            return Ok(());
        }
        let limited = self.limited(no)?;
        let news = self.watched.lock().entry(no).or_default().limits.look(&limited, now_ms());
        for news in news {
            let (used, quota, until_ms) = (limited.used, limited.quota_bytes, limited.ends_ms);
            match news {
                News::Level(level) => {
                    tracing::warn!(%folder, level, used, quota, "a folder is nearly full");
                }
                News::End(Ending::Over) => tracing::warn!(%folder, until_ms, "the time of a folder is over"),
                News::End(_) => tracing::warn!(%folder, until_ms, "the time of a folder comes to its end"),
            }
        }
        Ok(())
    }

    /// Notes whether members are among those who are there, if anybody can be, and tells of silence.
    fn look_at_members(
        &self,
        no: FolderNo,
        folder: FolderId,
        there: Option<&BTreeSet<FolderNo>>,
    ) -> Result<()> {
        let now_ms = now_ms();
        match there {
            Some(there) if there.contains(&no) => self.hear(no, now_ms)?,
            Some(_) => {}
            None => self.deafen(no, now_ms),
        }
        self.look_at_silence(no, folder, now_ms)
    }

    fn limited(&self, no: FolderNo) -> Result<Limited> {
        let usage = self.store.usage(no)?;
        Ok(Limited {
            used: usage.pack_bytes.saturating_add(usage.entry_bytes),
            quota_bytes: usage.quota_bytes.unwrap_or(u64::MAX),
            ends_ms: usage.until_ms.unwrap_or(0),
            notice_ms: self.binding(no)?.map(|view| view.notice_ms),
        })
    }

    /// What the owner should know about a folder, in sentences.
    pub(super) fn warnings(&self, no: FolderNo) -> Result<Vec<String>> {
        let mut said = self.limited(no)?.warnings(now_ms());
        said.extend(self.silence_text(no)?);
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cobox_store::format::access::Act;

    use super::super::orders::Orders;
    use super::super::testing::{Folder, Scene};
    use super::super::{Accept, Exit};
    use super::*;
    use crate::wire::GrantAnswer;

    const HOUR_MS: u64 = 60 * 60 * 1000;
    const GRANTED: Limits = Limits { quota_bytes: 200, until_ms: 0 };

    fn agreed() -> (Scene, Folder, FolderNo, Terms) {
        let scene = Scene::new(Accept::Any);
        let mut folder = Folder::new(1).grant(&scene, GRANTED);
        scene.offer(&folder);
        let signed = scene.signed(&folder, 100, HOUR_MS);
        folder.sign(Act::Agree(signed.clone()));
        let no = scene.learn(&folder);
        assert!(scene.holding.binding(no).expect("reads").is_some());
        (scene, folder, no, signed.terms)
    }

    #[test]
    fn quota_does_not_end_an_agreement_nor_anything_at_a_time_that_has_been() {
        let (scene, folder, no, _) = agreed();
        let orders = Orders::new(Arc::clone(&scene.holding)).expect("starts");
        let limits = |quota_bytes, until_ms| Limits { quota_bytes, until_ms };
        for less in [limits(200, 1), limits(200, now_ms() + HOUR_MS), limits(99, 0)] {
            let refused = orders.quota(folder.id(), less).expect_err("another was agreed on");
            assert_eq!(refused.exit, Exit::Refused, "{refused:?}");
        }
        assert_eq!(scene.holding.store.usage(no).expect("reads").until_ms.unwrap_or(0), 0);
        orders.quota(folder.id(), limits(150, 0)).expect("it is more than was agreed on");

        let other = Folder::new(2).grant(&scene, GRANTED);
        scene.offer(&other);
        orders.quota(other.id(), limits(50, 1)).expect_err("that has been");
        orders.quota(other.id(), limits(50, now_ms() + HOUR_MS)).expect("nothing was agreed on");
    }

    #[test]
    fn notice_by_the_folder_counts_from_when_the_seeder_saw_it() {
        let (scene, mut folder, no, terms) = agreed();
        let before_ms = now_ms();
        let seeder = terms.seeder.clone();
        // The clock of who signs stands at 0, and so does the end that is asked for.
        let notice = Notice { folder: folder.id(), seeder, terms: terms.hash(), at_ms: 1, by: Side::Folder };
        folder.sign(Act::EndAgreement(notice));
        scene.learn(&folder);
        let until = || scene.holding.store.usage(no).expect("reads").until_ms.unwrap_or(0);
        let ends_ms = until();
        assert!((before_ms + HOUR_MS..=now_ms() + HOUR_MS).contains(&ends_ms), "{ends_ms}");
        let view = scene.holding.binding(no).expect("reads").expect("it still binds");
        assert_eq!((view.stage, view.ends_ms), (Stage::Ending, ends_ms));
        // Looking again later does not move it.
        scene.holding.refresh(no);
        assert_eq!(until(), ends_ms);
    }

    #[test]
    fn end_of_a_grant_is_told_when_it_nears_and_when_it_came() {
        let scene = Scene::new(Accept::Any);
        let words = |until_ms| {
            let folder = Folder::new(if until_ms > now_ms() { 3 } else { 4 });
            let folder = folder.grant(&scene, Limits { quota_bytes: 200, until_ms });
            scene.offer(&folder);
            let no = scene.learn(&folder);
            scene.holding.look_at_limits();
            let told = scene.holding.told_words();
            let told = told.into_iter().filter(|(told, _)| *told == no).map(|(_, word)| word);
            told.collect::<Vec<_>>()
        };
        assert_eq!(words(now_ms() + HOUR_MS), ["ends"]);
        assert_eq!(words(now_ms() - 1), ["ended"]);
    }

    #[test]
    fn grant_beyond_terms_that_were_signed_is_no_question_to_the_owner() {
        let scene = Scene::new(Accept::Owner);
        let mut folder = Folder::new(1).grant(&scene, GRANTED);
        scene.offer(&folder);
        let holding = &scene.holding;
        let accept = || {
            let waiting = holding.list_pending();
            assert_eq!(waiting.len(), 1, "{waiting:?}");
            holding.settle(&waiting[0].id(), GrantAnswer::Accepted).expect("it is accepted");
            assert_eq!(holding.list_pending().len(), 0);
        };
        accept();
        let signed = scene.signed(&folder, 100, HOUR_MS);
        folder.sign(Act::Propose(signed.terms.clone()));
        scene.learn(&folder);
        accept();
        folder.sign(Act::Agree(signed));
        scene.learn(&folder);
        assert_eq!(holding.list_pending().len(), 0, "{:?}", holding.list_pending());
        // More than that is a question again.
        let more = scene.signed(&folder, 150, HOUR_MS);
        folder.sign(Act::Propose(more.terms));
        scene.learn(&folder);
        accept();
    }
}
