//! An agreement as people read it, and as JSON: the same on both sides.

use cobox_store::blind::Access;
use cobox_store::blind::contracts::{Agreed, Proposal};
use cobox_store::format::agreement::{Side, SignedTerms, Terms};
use cobox_store::id::hex;
use serde::{Deserialize, Serialize};

use crate::peer_id::PeerId;
use crate::shown;

/// How far an agreement is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The folder's side proposed it, and the seeder has not answered.
    Proposed,
    /// The seeder declined it.
    Declined,
    /// The seeder signed, and the folder's side has not.
    Offered,
    /// Both signed.
    Agreed,
    /// Both signed, and one gave notice.
    Ending,
    /// It is over.
    Ended,
}

impl Stage {
    /// In a sentence.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Declined => "declined",
            Self::Offered => "offered by the seeder",
            Self::Agreed => "agreed",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }
}

/// A notice that was given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NoticeView {
    /// `folder` or `seeder`.
    pub by: String,
    /// When the agreement ends by it, in milliseconds since 1970.
    pub at_ms: u64,
}

/// An agreement.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgreementView {
    /// What it is called: the hash of what is signed, in hex.
    pub id: String,
    /// The folder's id in hex.
    pub folder: String,
    /// The seeder's peer id.
    pub seeder: String,
    /// How far it is.
    pub stage: Stage,
    /// How much may be stored.
    pub quota_bytes: u64,
    /// From when, in milliseconds since 1970.
    pub from_ms: u64,
    /// Until when by the text; 0 for no end.
    pub until_ms: u64,
    /// When it ends, by the text or by notice; 0 for no end.
    pub ends_ms: u64,
    /// How long before an end a side says so.
    pub notice_ms: u64,
    /// How often the seeder is asked for proofs.
    pub audit_ms: u64,
    /// Where the seeder stands.
    pub place: String,
    /// Who runs it.
    pub organisation: String,
    /// How to reach them.
    pub contact: String,
    /// How to reach the people whose folder it is.
    pub member_contact: String,
    /// Who gave notice, and of when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<NoticeView>,
    /// The signed bytes, in hex.
    pub signed_bytes: String,
    /// The seeder's signature over them, in hex; empty before it signed.
    pub seeder_signature: String,
    /// The access record by which the folder's side signed, in hex; empty before it signed.
    pub record: String,
    /// The key of the device that signed or proposed for the folder, in hex.
    pub signed_by: String,
}

impl AgreementView {
    fn of(terms: &Terms, stage: Stage) -> Self {
        let seeder =
            PeerId::from_bytes(&terms.seeder).map_or_else(|| hex(&terms.seeder), |id| id.to_string());
        Self {
            id: terms.hash().to_hex(),
            folder: terms.folder.to_hex(),
            seeder,
            stage,
            quota_bytes: terms.quota_bytes,
            from_ms: terms.from_ms,
            until_ms: terms.until_ms,
            ends_ms: terms.until_ms,
            notice_ms: terms.notice_ms,
            audit_ms: terms.audit_ms,
            place: terms.place.clone(),
            organisation: terms.organisation.clone(),
            contact: terms.contact.clone(),
            member_contact: terms.member_contact.clone(),
            notice: None,
            signed_bytes: hex(&terms.encode()),
            seeder_signature: String::new(),
            record: String::new(),
            signed_by: String::new(),
        }
    }

    /// Of what the folder's side proposed.
    #[must_use]
    pub fn proposed(proposal: &Proposal, stage: Stage) -> Self {
        Self { signed_by: proposal.by.to_hex(), ..Self::of(&proposal.terms, stage) }
    }

    /// Of what was proposed with a grant that waits.
    #[must_use]
    pub fn asked(terms: &Terms) -> Self {
        Self::of(terms, Stage::Proposed)
    }

    /// The seeder gave notice, and the folder's side has not written it down.
    pub fn ending(&mut self, at_ms: u64) {
        if self.notice.as_ref().is_none_or(|notice| at_ms < notice.at_ms) {
            self.notice = Some(NoticeView { by: "seeder".to_owned(), at_ms });
            self.stage = Stage::Ending;
            self.ends_ms = at_ms;
        }
    }

    /// Of what the seeder signed alone.
    #[must_use]
    pub fn offered(signed: &SignedTerms) -> Self {
        Self { seeder_signature: hex(&signed.signature), ..Self::of(&signed.terms, Stage::Offered) }
    }

    /// Of what both signed, as it stands at a time; `access` says whether the grant still stands.
    #[must_use]
    pub fn agreed(agreed: &Agreed, access: &Access, now_ms: u64) -> Self {
        let ends_ms = agreed.until_ms();
        let over = ends_ms != 0 && now_ms >= ends_ms;
        let stage = match &agreed.notice {
            _ if over || access.seeder(&agreed.signed.terms.seeder).is_none() => Stage::Ended,
            Some(_) => Stage::Ending,
            None => Stage::Agreed,
        };
        let notice = agreed.notice.as_ref().map(|notice| NoticeView {
            by: if notice.by == Side::Folder { "folder" } else { "seeder" }.to_owned(),
            at_ms: agreed.notice_ends_ms,
        });
        Self {
            ends_ms,
            notice,
            seeder_signature: hex(&agreed.signed.signature),
            record: agreed.record.to_hex(),
            signed_by: agreed.by.to_hex(),
            ..Self::of(&agreed.signed.terms, stage)
        }
    }

    /// The whole text, for people.
    #[must_use]
    pub fn document(&self) -> String {
        let line = |text: &str| if text.is_empty() { "not stated".to_owned() } else { text.to_owned() };
        let until = match self.until_ms {
            0 => "without an end".to_owned(),
            ms => shown::time(ms),
        };
        let mut text = format!(
            "AGREEMENT ON KEEPING A FOLDER ({})\n\n\
             The seeder {} keeps the folder {}, as ciphertext that it cannot read.\n\n\
             \x20 How much       up to {} ({} bytes); nothing beyond is taken\n\
             \x20 From           {}\n\
             \x20 Until          {until}\n\
             \x20 Notice         {} before a side ends it earlier\n\
             \x20 Proofs         asked for every {}\n\
             \x20 Place          {}\n\
             \x20 Organisation   {}\n\
             \x20 Contact        {}\n\
             \x20 Folder's side  {}\n\n",
            self.stage.word(),
            self.seeder,
            self.folder,
            shown::bytes(self.quota_bytes),
            self.quota_bytes,
            shown::time(self.from_ms),
            shown::span(self.notice_ms),
            shown::span(self.audit_ms),
            line(&self.place),
            line(&self.organisation),
            line(&self.contact),
            line(&self.member_contact),
        );
        text += "When it ends, the seeder takes nothing new and keeps what it has for at least 30 days by its own clock, so that it \
                 can be fetched or moved.\n\n";
        if let Some(notice) = &self.notice {
            text +=
                &format!("Notice was given by the {}: it ends {}.\n", notice.by, shown::time(notice.at_ms));
        }
        let signed = |signature: &str| {
            if signature.is_empty() { "has not signed".into() } else { signature.to_owned() }
        };
        text += &format!(
            "Hash of the signed bytes  {}\nSeeder's signature        {}\nFolder's signed record    {}\n",
            self.id,
            signed(&self.seeder_signature),
            signed(&self.record),
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use cobox_store::format::receipt::peer_id_of;
    use cobox_store::id::FolderId;

    use super::*;

    #[test]
    fn document_has_every_term_and_the_hash_of_what_is_signed() {
        let terms = Terms {
            folder: FolderId([1; 32]),
            seeder: peer_id_of(&[2; 32]),
            quota_bytes: 50 << 30,
            from_ms: 1_795_388_640_000,
            until_ms: 0,
            notice_ms: 30 * 24 * 3_600_000,
            audit_ms: 24 * 3_600_000,
            place: "Leipzig".into(),
            organisation: "Kollektiv".into(),
            contact: "box@example.org".into(),
            member_contact: String::new(),
        };
        let text = AgreementView::of(&terms, Stage::Proposed).document();
        for word in [
            "proposed",
            "50.0 GiB",
            "2026-11-22",
            "without an end",
            "30 days",
            "every 1 day",
            "Leipzig",
            "Kollektiv",
            "box@example.org",
            "not stated",
            "has not signed",
            &terms.hash().to_hex(),
        ] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        let ends = Terms { until_ms: 1_796_860_800_000, ..terms };
        let text = AgreementView::of(&ends, Stage::Proposed).document();
        let line = text.lines().find(|line| line.contains("Until")).expect("a line");
        assert_eq!(line.split_whitespace().collect::<Vec<_>>()[..2], ["Until", "2026-12-10"]);
    }
}
