//! Verbs about agreements with seeders, and about codes with which a seeder takes a folder.

use std::time::Duration;

use clap::{Args, Subcommand};
use cobox_net::agreement::AgreementView;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;

use super::args::{date, size, span};
use super::{Answer, Session};
use crate::contracts::{AgreementsReport, ProposeReport, SeedCodeReport, SeedCodesReport, Wishes};
use crate::control::{Request, Shortfall};
use crate::exit::{Outcome, Problem};
use crate::render::units::{bytes, time};

/// `agreement`.
#[derive(Subcommand, Debug)]
pub enum AgreementVerb {
    /// Propose terms to a seeder; it signs them by its owner's rule, or when its owner says so
    Propose(Propose),
    /// Agreements of one folder or all: in force, over, proposed, offered, declined
    List {
        /// The folder's name
        folder: Option<String>,
    },
    /// The whole text of an agreement, and who signed it
    Show {
        /// The folder's name
        folder: String,
        /// The beginning of the seeder's id, or of the agreement's; all of the folder without it
        which: Option<String>,
    },
    /// Sign what a seeder offered
    Accept {
        /// The folder's name
        folder: String,
        /// The agreement's id, or its first eight letters or more
        id: String,
    },
    /// Give notice: the agreement ends after the span of notice, or earlier by its own text
    End {
        /// The folder's name
        folder: String,
        /// The beginning of the seeder's id
        seeder: String,
        /// Also where too few proved copies would be left
        #[arg(long)]
        force: bool,
    },
}

/// `agreement propose`.
#[derive(Args, Debug)]
pub struct Propose {
    /// The folder's name
    pub folder: String,
    /// The beginning of the id of a seeder of the folder, or the address of a new one
    pub seeder: String,
    /// How much it may store, like 50G
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub quota: u64,
    /// The first day, like 2027-01-01; today without it
    #[arg(long, value_parser = date, value_name = "DATE")]
    pub from: Option<u64>,
    /// The last day, like 2027-12-31; no end without it
    #[arg(long, value_parser = date, value_name = "DATE")]
    pub until: Option<u64>,
    /// How long before an earlier end a side says so
    #[arg(long, value_parser = span, default_value = "30d", value_name = "SPAN")]
    pub notice: Duration,
    /// How often the seeder is asked for proofs
    #[arg(long, value_parser = span, default_value = "1d", value_name = "SPAN")]
    pub audit: Duration,
    /// Where the seeder stands
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub place: String,
    /// Who runs it
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub organisation: String,
    /// How to reach them
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub contact: String,
    /// How to reach you
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub my_contact: String,
}

/// `seeder code`.
#[derive(Args, Debug)]
pub struct SeedCode {
    /// The folder's name
    pub folder: String,
    /// How much whoever redeems it may store, like 50G
    #[arg(long, value_parser = size, required_unless_present_any = ["list", "void"], value_name = "SIZE")]
    pub quota: Option<u64>,
    /// The last day of the grant, like 2027-12-31; no end without it
    #[arg(long, value_parser = date, value_name = "DATE")]
    pub until: Option<u64>,
    /// How long the code is good
    #[arg(long, value_parser = span, default_value = "72h", value_name = "SPAN")]
    pub expires: Duration,
    /// List all codes instead
    #[arg(long, conflicts_with_all = ["quota", "void"])]
    pub list: bool,
    /// Take a code back instead: the beginning of its name in the list
    #[arg(long, conflicts_with = "quota", value_name = "CODE")]
    pub void: Option<String>,
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Session<'_> {
    pub(super) fn agreement(&self, verb: &AgreementVerb) -> Outcome<Answer> {
        let report: AgreementsReport = match verb {
            AgreementVerb::Propose(args) => return self.propose(args),
            AgreementVerb::Show { folder, which } => return self.show_agreement(folder, which.as_deref()),
            AgreementVerb::List { folder } => self.ask(&Request::AgreementList { folder: folder.clone() })?,
            AgreementVerb::Accept { folder, id } => {
                self.ask(&Request::AgreementAccept { folder: folder.clone(), id: id.clone() })?
            }
            AgreementVerb::End { folder, seeder, force } => {
                let (folder, seeder) = (folder.clone(), seeder.clone());
                let shortfall = if *force { Shortfall::Accept } else { Shortfall::Refuse };
                self.ask(&Request::AgreementEnd { folder, seeder, shortfall })?
            }
        };
        Answer::new(&report, agreements(&report.agreements))
    }

    fn propose(&self, args: &Propose) -> Outcome<Answer> {
        let wishes = Wishes {
            quota_bytes: args.quota,
            // A day is read as its end, and an agreement begins with it.
            from_ms: args.from.map_or(0, |end| (end + 1).saturating_sub(DAY_MS)),
            until_ms: args.until.unwrap_or(0),
            notice_ms: millis(args.notice),
            audit_ms: millis(args.audit),
            place: args.place.clone(),
            organisation: args.organisation.clone(),
            contact: args.contact.clone(),
            member_contact: args.my_contact.clone(),
        };
        let (folder, seeder) = (args.folder.clone(), args.seeder.clone());
        let report: ProposeReport = self.ask(&Request::AgreementPropose { folder, seeder, wishes })?;
        let text = format!(
            "{}\nIt waits for the seeder: its owner sees it in `cobox-seeder pending` and signs it with `cobox-seeder accept ID`, unless \
             its rule does. `cobox-ctl agreement list {}` shows when it is in force.\n",
            report.agreement.document(),
            report.folder
        );
        Answer::new(&report, text)
    }

    fn show_agreement(&self, folder: &str, which: Option<&str>) -> Outcome<Answer> {
        let report: AgreementsReport =
            self.ask(&Request::AgreementList { folder: Some(folder.to_owned()) })?;
        let fits = |view: &AgreementView| {
            which.is_none_or(|which| view.seeder.starts_with(which) || view.id.starts_with(which))
        };
        let found: Vec<AgreementView> = report.agreements.into_iter().filter(fits).collect();
        if found.is_empty() {
            return Err(Problem::failed_with(
                format!("{folder} has no such agreement."),
                "`cobox-ctl agreement list` shows all of them; `cobox-ctl agreement propose` makes one.",
            ));
        }
        let text = found.iter().map(AgreementView::document).collect::<Vec<_>>().join("\n");
        Answer::new(&json!({ "agreements": found }), text)
    }

    pub(super) fn seed_code(&self, args: &SeedCode) -> Outcome<Answer> {
        let folder = args.folder.clone();
        let report: SeedCodesReport = match (&args.void, args.quota) {
            (Some(code), _) => self.ask(&Request::SeedCodeVoid { folder, code: code.clone() })?,
            (None, Some(quota_bytes)) => {
                let request = Request::SeedCode {
                    folder,
                    quota_bytes,
                    until_ms: args.until.unwrap_or(0),
                    valid_ms: millis(args.expires),
                };
                let report: SeedCodeReport = self.ask(&request)?;
                return Answer::new(&report, opened(&report)?);
            }
            (None, None) => self.ask(&Request::SeedCodeList { folder })?,
        };
        Answer::new(&report, seed_codes(&report))
    }
}

/// A secret on a line of its own, then as a picture: upper case takes the least room in a QR code.
pub(super) fn code_and_picture(code: &str) -> Outcome<String> {
    let picture = QrCode::new(code.to_uppercase())
        .map_err(|error| Problem::failed(format!("The QR code cannot be drawn: {error}.")))?;
    // Light squares are drawn and dark ones left out, since most terminals are dark.
    let picture =
        picture.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(format!("{code}\n\n{picture}\n"))
}

fn opened(report: &SeedCodeReport) -> Outcome<String> {
    Ok(format!(
        "{}\nThe seeder whose owner runs `cobox-seeder seed CODE --data DIR` first may store {}{}. It is good once, until {}; an admin's \
         device must be online. The code says nothing about what is in the folder. `cobox-ctl seeder code {} --void {}` takes it back.\n",
        code_and_picture(&report.code)?,
        bytes(report.quota_bytes),
        until(report.until_ms),
        time(report.expires_ms),
        report.folder,
        report.key.get(..8).unwrap_or_default(),
    ))
}

fn until(until_ms: u64) -> String {
    if until_ms == 0 { " without an end".to_owned() } else { format!(" until {}", time(until_ms)) }
}

fn seed_codes(report: &SeedCodesReport) -> String {
    if report.codes.is_empty() {
        return format!("{} has had no seed codes.\n", report.folder);
    }
    let line = |line: &crate::contracts::SeedCodeLine| {
        let by = line.used_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let key = line.key.get(..8).unwrap_or_default();
        let (size, expires) = (bytes(line.quota_bytes), time(line.expires_ms));
        format!("  {key}  {size}{}, {}{by}, good until {expires}\n", until(line.until_ms), line.state)
    };
    report.codes.iter().map(line).collect()
}

fn agreements(all: &[AgreementView]) -> String {
    if all.is_empty() {
        return "There are no agreements. `cobox-ctl agreement propose FOLDER SEEDER --quota 50G` makes one.\n".to_owned();
    }
    let line = |view: &AgreementView| {
        let said = [&view.organisation, &view.place];
        let whereabouts: String =
            said.into_iter().filter(|text| !text.is_empty()).map(|text| format!("  {text}")).collect();
        let notice =
            view.notice.as_ref().map(|notice| format!(", notice by the {}", notice.by)).unwrap_or_default();
        format!(
            "{}  {}  {}{}{notice}\n  with {}{whereabouts}\n",
            view.id.get(..16).unwrap_or_default(),
            view.stage.word(),
            bytes(view.quota_bytes),
            until(view.ends_ms),
            view.seeder,
        )
    };
    all.iter().map(line).collect()
}
