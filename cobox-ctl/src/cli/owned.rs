//! Verbs about seeders that this member commands: claiming one, and telling it what to do.

use std::io::{BufRead, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use cobox_store::format::invite::{CodeFor, InviteCode};
use serde_json::Value;
use zeroize::Zeroizing;

use super::agreement::code_and_picture;
use super::args::{date, size, span};
use super::member::Yes;
use super::secrets::{on_terminal, read_secret};
use super::{Answer, Session};
use crate::contracts::{AdminRank, ManageReport, OwnedReport, OwnedsReport, Told};
use crate::control::{Request, Words};
use crate::exit::{Exit, Outcome, Problem};
use crate::render::orders;

/// A code with its hints, and room for spaces that came in between.
const CODE_BYTES_MAX: u64 = 16 * 1024;

/// `seeder claim`.
#[derive(Args, Debug)]
pub struct Claim {
    /// What `cobox-seeder claim` prints; read from standard input where it is `-` or absent. Better there: other users of the
    /// machine see arguments
    pub code: Option<String>,
    /// What you will call the seeder
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Take the place of a device that was lost: the file with the 24 words; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "code", requires = "seeder")]
    pub words_file: Option<PathBuf>,
    /// With --words-file: the seeder's address
    #[arg(long, value_name = "ADDR", requires = "words_file")]
    pub seeder: Option<String>,
}

/// `seeder manage`.
#[derive(Args, Debug)]
pub struct Manage {
    /// What you call the seeder, or the beginning of its id
    pub seeder: String,
    /// What it is told
    #[command(subcommand)]
    pub order: OrderVerb,
}

/// What a seeder can be told. The list is closed: nothing runs a program or names a path.
#[derive(Subcommand, Debug)]
pub enum OrderVerb {
    /// What it holds, and how full it is
    Status,
    /// What waits, what was ordered, what was refused and why, and what was agreed
    Report,
    /// Take a grant that waits, by its id in the report, or redeem a seed code
    Seed {
        /// The id, or the code; `-` reads it from standard input
        what: String,
    },
    /// Refuse a grant that waits
    Refuse {
        /// Its id in the report
        id: String,
    },
    /// Let a folder go: nothing new is taken, and what it has stays for at least 30 days
    Unseed {
        /// The folder's name here, or its whole id
        folder: String,
    },
    /// Change how much of a folder it takes, within what members granted
    Quota {
        /// The folder's name here, or its whole id
        folder: String,
        /// How much, like 50G
        #[arg(value_parser = size)]
        quota: u64,
        /// The last day; no end without it
        #[arg(long, value_parser = date, value_name = "DATE")]
        until: Option<u64>,
    },
    /// Take part in nothing until resumed
    Pause,
    /// Go on after a pause
    Resume,
    /// Who commands it: list, add, remove
    #[command(subcommand)]
    Admins(AdminsVerb),
    /// Give notice of an agreement's end, for the seeder
    EndAgreement {
        /// The folder's name here, or its whole id
        folder: String,
    },
}

/// `seeder manage BOX admins`.
#[derive(Subcommand, Debug)]
pub enum AdminsVerb {
    /// Who commands it, and which codes are open
    List,
    /// Make a code with which one more device may command it
    Add {
        /// What the code is called in lists
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What the new admin may order: watchers look, keepers decide what is held, owners change admins too
        #[arg(long, value_enum, default_value_t = RankArg::Keeper)]
        rank: RankArg,
        /// How long the code is good
        #[arg(long, value_parser = span, default_value = "72h", value_name = "SPAN")]
        expires: Duration,
    },
    /// Dismiss an admin, or take a code back
    Remove {
        /// The whole key, as `admins list` shows it
        key: String,
        #[command(flatten)]
        yes: Yes,
    },
}

/// A rank on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RankArg {
    /// Looks
    Watcher,
    /// Looks, and decides what is held
    Keeper,
    /// Everything
    Owner,
}

impl RankArg {
    fn rank(self) -> AdminRank {
        match self {
            Self::Watcher => AdminRank::Watcher,
            Self::Keeper => AdminRank::Keeper,
            Self::Owner => AdminRank::Owner,
        }
    }
}

impl Session<'_> {
    pub(super) fn claim(&self, args: &Claim) -> Outcome<Answer> {
        let name = args.name.clone();
        let request = match (&args.code, &args.words_file, &args.seeder) {
            (None, Some(file), Some(address)) => {
                let words = Words(read_secret(file)?.to_string());
                Request::SeederReclaim { address: address.clone(), words, name }
            }
            (code, ..) => Request::SeederClaim { code: secret(code.as_deref().unwrap_or("-"))?, name },
        };
        let report: OwnedReport = self.ask(&request)?;
        let text = format!(
            "This device commands {} ({}) as its {}. `cobox-ctl seeder manage {} status` asks what it holds.\n",
            report.name,
            report.peer_id,
            report.rank.word(),
            report.name
        );
        Answer::new(&report, text)
    }

    pub(super) fn owned(&self) -> Outcome<Answer> {
        let report: OwnedsReport = self.ask(&Request::SeederOwned)?;
        Answer::new(&report, owneds(&report))
    }

    pub(super) fn forget_owned(&self, name: &str, yes: Yes) -> Outcome<Answer> {
        let report: OwnedsReport =
            self.ask_who_is_sure(yes, &|sure| Request::SeederForget { name: name.to_owned(), sure })?;
        Answer::new(&report, owneds(&report))
    }

    pub(super) fn manage(&self, args: &Manage) -> Outcome<Answer> {
        let yes = match &args.order {
            OrderVerb::Admins(AdminsVerb::Remove { yes, .. }) => *yes,
            _ => Yes::default(),
        };
        let told = match &args.order {
            OrderVerb::Status => Told::Status,
            OrderVerb::Report => Told::Report,
            OrderVerb::Seed { what } => Told::Seed { what: secret(what)? },
            OrderVerb::Refuse { id } => Told::Refuse { id: id.clone() },
            OrderVerb::Unseed { folder } => Told::Unseed { folder: folder.clone() },
            OrderVerb::Quota { folder, quota, until } => {
                Told::Quota { folder: folder.clone(), quota_bytes: *quota, until_ms: until.unwrap_or(0) }
            }
            OrderVerb::Pause => Told::Pause,
            OrderVerb::Resume => Told::Resume,
            OrderVerb::Admins(AdminsVerb::List) => Told::AdminsList,
            OrderVerb::Admins(AdminsVerb::Add { name, rank, expires }) => Told::AdminsAdd {
                name: name.clone(),
                rank: rank.rank(),
                valid_ms: u64::try_from(expires.as_millis()).unwrap_or(u64::MAX),
            },
            OrderVerb::Admins(AdminsVerb::Remove { key, .. }) => Told::AdminsRemove { key: key.clone() },
            OrderVerb::EndAgreement { folder } => Told::EndAgreement { folder: folder.clone() },
        };
        let name = args.seeder.clone();
        let report: ManageReport = self.ask_who_is_sure(yes, &|sure| Request::SeederManage {
            name: name.clone(),
            told: told.clone(),
            sure,
        })?;
        let exit = match report.outcome.as_str() {
            "done" => Exit::Done,
            "refused" => Exit::Refused,
            // Nobody knows whether it was done.
            "interrupted" => Exit::NotReached,
            // What a seeder's own command line would have ended with.
            "failed" if report.answer.get("exit").and_then(Value::as_u64) == Some(4) => Exit::Refused,
            _ => Exit::Failed,
        };
        let text = managed(&report)?;
        Ok(Answer::new(&report, text)?.ending(exit))
    }
}

/// A code that was given, or the first lines of standard input that make one: whoever pastes it there need not end the
/// input, and a mail program may have broken it into several.
fn secret(given: &str) -> Outcome<String> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    code_from(&mut std::io::stdin().lock().take(CODE_BYTES_MAX))
}

fn code_from(input: &mut impl BufRead) -> Outcome<String> {
    let mut code = Zeroizing::new(String::with_capacity(4096));
    loop {
        let mut line = Zeroizing::new(String::new());
        input.read_line(&mut line).map_err(|error| {
            Problem::failed_with(format!("No code came: {error}."), "Give it on standard input.")
        })?;
        code.push_str(line.trim());
        if line.trim().is_empty() || InviteCode::from_text_for(CodeFor::Claim, &code).is_ok() {
            return Ok(code.to_string());
        }
        if on_terminal() {
            eprintln!("That is not all of the code, or it is mistyped: paste the rest, or press Enter.");
        }
    }
}

fn owneds(report: &OwnedsReport) -> String {
    if report.seeders.is_empty() {
        return "This device commands no seeder. `cobox-seeder claim` on a seeder's machine shows a code for `cobox-ctl seeder claim`.\n"
            .to_owned();
    }
    let line = |owned: &OwnedReport| {
        let words = if owned.words_claim { "" } else { ", and the words do not open it" };
        let open = if owned.unanswered { ", a command is unanswered" } else { "" };
        format!("  {}  {} ({}{words}{open})\n", owned.name, owned.peer_id, owned.rank.word())
    };
    report.seeders.iter().map(line).collect()
}

fn managed(report: &ManageReport) -> Outcome<String> {
    let mut text = report.earlier.as_ref().map(|earlier| format!("{earlier}\n")).unwrap_or_default();
    if let Some(code) = &report.code {
        text += &format!(
            "{}\nWhoever runs `cobox-ctl seeder claim` with this code first commands {} too. It is good once.\n",
            code_and_picture(code)?,
            report.seeder
        );
        return Ok(text);
    }
    if report.outcome == "interrupted" {
        text += "The seeder went down in the middle: it was done or was not, and is not done again. Look with `seeder manage … status`.\n";
        return Ok(text);
    }
    match (orders::answer(report), report.answer.get("text").and_then(Value::as_str)) {
        (Some(known), _) => text += &known,
        (None, Some(said)) => text += &format!("{said}\n"),
        (None, None) => text += &outline(&report.answer, 0),
    }
    Ok(text)
}

/// A seeder's answer for people: one line for each value, indented. A seeder may send anything, so control
/// characters are left out, and it is only so deep.
fn outline(value: &Value, depth: usize) -> String {
    const DEPTH_MAX: usize = 6;
    let indent = "  ".repeat(depth);
    let clean = |text: &str| text.chars().filter(|letter| !letter.is_control()).collect::<String>();
    let plain = |value: &Value| match value {
        Value::String(text) => clean(text),
        other => clean(&other.to_string()),
    };
    match value {
        _ if depth >= DEPTH_MAX => String::new(),
        Value::Object(fields) => {
            let shown = fields.iter().filter(|(name, _)| name.as_str() != "answer");
            let lines = shown.map(|(name, value)| match value {
                Value::Object(_) => format!("{indent}{}\n{}", clean(name), outline(value, depth + 1)),
                Value::Array(items) if items.is_empty() => format!("{indent}{}: none\n", clean(name)),
                Value::Array(_) => format!("{indent}{}\n{}", clean(name), outline(value, depth + 1)),
                other => format!("{indent}{}: {}\n", clean(name), plain(other)),
            });
            lines.collect()
        }
        Value::Array(items) => {
            let lines = items.iter().map(|item| match item {
                Value::Object(_) | Value::Array(_) => {
                    let inner = outline(item, depth + 1);
                    let rest = inner.get(indent.len() + 2..).unwrap_or_default();
                    format!("{indent}- {rest}")
                }
                other => format!("{indent}- {}\n", plain(other)),
            });
            lines.collect()
        }
        other => format!("{indent}{}\n", plain(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use serde_json::json;

    use super::*;

    #[test]
    fn answer_of_a_seeder_is_an_outline_without_control_characters() {
        let answer = json!({
            "answer": "status",
            "running": true,
            "listen": ["/ip4/1", "\u{1b}[2Jgone"],
            "folders": [{ "folder": "ab", "packs": 3 }],
            "none": [],
        });
        let text = outline(&answer, 0);
        assert!(text.contains("running: true") && text.contains("- folder: ab\n    packs: 3"), "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("none: none"), "{text}");
    }

    #[test]
    fn code_that_was_broken_into_lines_is_read_and_what_follows_is_left() {
        let code = InviteCode { folder: [1; 16], hints: Vec::new(), secret: Zeroizing::new([9; 16]) };
        let text = code.to_text_for(CodeFor::Claim).expect("fits");
        let lines: Vec<&str> =
            text.as_bytes().chunks(20).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
        let mut input = Cursor::new(format!("{}\nnext line\n", lines.join("  \n ")));
        assert_eq!(code_from(&mut input).expect("a code"), *text);
        let mut rest = String::new();
        input.read_line(&mut rest).expect("reads");
        assert_eq!(rest, "next line\n");
        // What is no code ends with an empty line, or with the input.
        assert_eq!(code_from(&mut Cursor::new("cobox\nclaim\n\nmore")).expect("text"), "coboxclaim");
        assert_eq!(code_from(&mut Cursor::new("coboxclaim")).expect("text"), "coboxclaim");
    }
}
