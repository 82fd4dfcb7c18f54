//! What a seeder answered to an order, as text for people. It may say anything: what is no answer that is known here is
//! left to whoever shows it.

use std::fmt::Write as _;

use cobox_net::agreement::AgreementView;
use cobox_net::seeder::commands::{Answer, FolderStatus, Waiting};
use cobox_net::seeder::leaving::Why;
use cobox_net::seeder::report::{AdminView, CodeView, CommandView};

use super::units::{bytes, counted, name, packs, span, time};
use crate::contracts::ManageReport;

/// Adds one line; writing to a `String` cannot fail.
macro_rules! line {
    ($text:expr, $($format:tt)*) => {
        writeln!($text, $($format)*).expect("writing to a String cannot fail")
    };
}

/// The answer, where it is one that is known.
#[must_use]
pub fn answer(report: &ManageReport) -> Option<String> {
    let mut text = String::new();
    match serde_json::from_value(report.answer.clone()).ok()? {
        Answer::Status {
            peer_id,
            listen,
            folders,
            disk_free_bytes,
            paused,
            owned: _,
            running: _,
            address: _,
        } => {
            let state = if paused { "paused" } else { "running" };
            line!(text, "{} ({}), {state}", report.seeder, plain(&peer_id));
            listen.iter().for_each(|address| line!(text, "  listens on {}", plain(address)));
            line!(text, "  {} free on its disk", bytes(disk_free_bytes));
            folders.iter().for_each(|one| folder(&mut text, report, one));
            if folders.is_empty() {
                line!(text, "  it holds no folder");
            }
        }
        Answer::Pending { grants } => waiting(&mut text, report, &grants),
        Answer::Accepted { folder, quota_bytes, until_ms } => {
            line!(
                text,
                "It holds {} from now on: {}{}.",
                called(report, &folder),
                bytes(quota_bytes),
                end(until_ms)
            );
        }
        Answer::Refused { folder } => line!(text, "{} is refused.", called(report, &folder)),
        Answer::Already { folder } => line!(text, "It holds {} already.", called(report, &folder)),
        Answer::Admins { admins, codes } => people(&mut text, &admins, &codes),
        Answer::Agreements { agreements } => agreed(&mut text, report, &agreements),
        Answer::Report { paused, waiting: grants, agreements, commands, refused, folders } => {
            line!(text, "{}", if paused { "It is paused." } else { "It is not paused." });
            waiting(&mut text, report, &grants);
            agreed(&mut text, report, &agreements);
            for note in &folders {
                let (folder, end) = (called(report, &note.folder), end(note.until_ms));
                line!(text, "  {folder}:{end}, {}", heard(note.heard_ms));
                note.warnings.iter().for_each(|warning| line!(text, "    {}", plain(warning)));
            }
            commands.iter().for_each(|command| taken(&mut text, command));
            for refusal in &refused {
                let who = by(&refusal.name, &refusal.admin);
                let (what, why) = (plain(&refusal.what), plain(&refusal.why));
                line!(text, "  {}  {who} was refused {what}: {why}", time(refusal.at_ms));
            }
        }
        _ => return None,
    }
    Some(text)
}

fn plain(text: &str) -> String {
    name(text.as_bytes()).into_owned()
}

/// A folder by its name here, or else by the beginning of its id.
fn called(report: &ManageReport, folder: &str) -> String {
    let named = report.names.iter().find(|named| named.folder == folder).map(|named| plain(&named.name));
    named.unwrap_or_else(|| format!("the folder {}", plain(folder.get(..8).unwrap_or(folder))))
}

fn end(until_ms: u64) -> String {
    if until_ms == 0 { " without an end".to_owned() } else { format!(" until {}", time(until_ms)) }
}

/// An admin by name and the beginning of the key.
fn by(named: &str, key: &str) -> String {
    format!("{} {}", plain(named), plain(key.get(..8).unwrap_or(key))).trim_start().to_owned()
}

fn heard(heard_ms: Option<u64>) -> String {
    let said = |heard_ms| format!("a member was last heard of {}", time(heard_ms));
    heard_ms.map_or_else(|| "no member was heard of yet".to_owned(), said)
}

fn folder(text: &mut String, report: &ManageReport, folder: &FolderStatus) {
    let quota = folder.quota_bytes.map_or_else(|| "no limit".to_owned(), bytes);
    let used = bytes(folder.pack_bytes.saturating_add(folder.entry_bytes));
    line!(text, "  {}: {used} of {quota} in {}", called(report, &folder.folder), packs(folder.packs));
    if folder.packs_missing > 0 {
        line!(text, "    {} not there yet", counted(folder.packs_missing, "pack is", "packs are"));
    }
    line!(text, "    {} connected", counted(folder.peers, "peer is", "peers are"));
    line!(text, "    {}", heard(folder.heard_ms));
    folder.warnings.iter().for_each(|warning| line!(text, "    {}", plain(warning)));
    if let Some(leaving) = &folder.leaving {
        let why = match leaving.why {
            Why::Revoked => "an admin of the folder ended the grant",
            Why::Unseeded => "it was let go",
            Why::Ended => "its time is over",
        };
        line!(text, "    leaving since {}: {why}; nothing new is taken", time(leaving.since_ms));
    }
    let left = |ms: u64| span(std::time::Duration::from_millis(ms));
    if let Some(left_ms) = folder.leaving_in_ms {
        line!(text, "    all of it goes when the seeder has run for {} more", left(left_ms));
    }
    if folder.held_bytes > 0 {
        let next =
            folder.held_next_ms.map(|ms| format!("; the first goes in {}", left(ms))).unwrap_or_default();
        line!(text, "    {} of it were released and are kept for a while{next}", bytes(folder.held_bytes));
    }
    if folder.packs_damaged > 0 {
        let damaged = packs(folder.packs_damaged);
        line!(text, "    damage was found in {damaged}, of which {} not mended yet", folder.packs_unmended);
    }
    if folder.rows_damaged {
        line!(
            text,
            "    DAMAGED: rows of its database; `cobox-seeder status` on its machine says what to do"
        );
    }
}

fn waiting(text: &mut String, report: &ManageReport, grants: &[Waiting]) {
    if grants.is_empty() {
        line!(text, "No grant waits.");
    }
    for grant in grants {
        let what = format!(
            "{} of {}{}",
            bytes(grant.quota_bytes),
            called(report, &grant.folder),
            end(grant.until_ms)
        );
        line!(text, "  {}  {what}, asked for by {}", plain(&grant.id), plain(&grant.from));
        if let Some(view) = &grant.agreement {
            line!(text, "  Taking it signs this:");
            view.document().lines().for_each(|part| line!(text, "    {}", plain(part)));
        }
    }
    if !grants.is_empty() {
        line!(text, "Take one with `cobox-ctl seeder manage {} seed ID`.", report.seeder);
    }
}

fn agreed(text: &mut String, report: &ManageReport, agreements: &[AgreementView]) {
    for view in agreements {
        let id = plain(view.id.get(..16).unwrap_or(&view.id));
        let what = format!("{}, {}{}", view.stage.word(), bytes(view.quota_bytes), end(view.ends_ms));
        line!(text, "  {id}  agreement on {}: {what}", called(report, &view.folder));
    }
    if agreements.is_empty() {
        line!(text, "There are no agreements.");
    }
}

fn people(text: &mut String, admins: &[AdminView], codes: &[CodeView]) {
    for admin in admins {
        let (key, rank) = (plain(&admin.key), plain(&admin.rank));
        line!(text, "  {key}  {rank:<9} {} since {}", plain(&admin.name), time(admin.since_ms));
    }
    for code in codes {
        let (key, rank) = (plain(&code.key), plain(&code.rank));
        line!(text, "  {key}  a code for a {rank} is open ({}){}", plain(&code.name), end(code.expires_ms));
    }
}

fn taken(text: &mut String, command: &CommandView) {
    let (who, what) = (by(&command.name, &command.admin), plain(&command.what));
    line!(text, "  {}  {who} {what} ({}): {}", time(command.at_ms), command.seq, plain(&command.outcome));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::contracts::FolderName;

    fn report(answer: Value) -> ManageReport {
        ManageReport {
            seeder: "box".to_owned(),
            seq: 1,
            outcome: "done".to_owned(),
            answer,
            code: None,
            earlier: None,
            names: vec![FolderName { folder: "ab".repeat(32), name: "photos".to_owned() }],
        }
    }

    fn held(folder: &str) -> Value {
        json!({
            "folder": folder, "packs": 1, "pack_bytes": 1024, "entry_bytes": 1024, "quota_bytes": 1u64 << 30, "packs_missing": 0,
            "peers": 2, "packs_damaged": 0, "packs_unmended": 0, "scrubbed_ms": 0, "held_bytes": 0, "held_next_ms": null,
            "leaving_in_ms": null, "rows_damaged": false, "warnings": ["\u{1b}[2J nearly full"],
        })
    }

    #[test]
    fn status_of_a_seeder_names_folders_as_this_device_does_and_says_sizes() {
        let folders = [held(&"ab".repeat(32)), held(&"cd".repeat(32))];
        let said = answer(&report(json!({
            "answer": "status", "running": true, "peer_id": "12D3", "listen": ["/ip4/1"], "folders": folders,
            "disk_free_bytes": 5u64 << 30,
        })));
        let said = said.expect("an answer that is known");
        assert!(said.contains("box (12D3), running") && said.contains("5.0 GiB free on its disk"), "{said}");
        assert!(said.contains("photos: 2.0 KiB of 1.0 GiB in 1 pack\n    2 peers are connected"), "{said}");
        assert!(said.contains("the folder cdcdcdcd: "), "{said}");
        assert!(!said.contains('_') && !said.contains('\u{1b}'), "{said}");
    }

    #[test]
    fn what_waits_at_a_seeder_is_said_with_how_to_take_it() {
        let grant = json!({ "id": "ab-1", "folder": "ab".repeat(32), "from": "12D3", "quota_bytes": 1024, "until_ms": 0 });
        let said = answer(&report(json!({
            "answer": "report", "paused": false, "waiting": [grant], "agreements": [], "refused": [],
            "folders": [{ "folder": "ab".repeat(32), "until_ms": 0, "heard_ms": 0, "warnings": ["it ends soon"] }],
            "commands": [{ "at_ms": 0, "admin": "00112233445566", "name": "ann", "seq": 4, "what": "pause", "outcome": "done" }],
        })));
        let said = said.expect("an answer that is known");
        assert!(said.contains("ab-1  1.0 KiB of photos without an end, asked for by 12D3"), "{said}");
        assert!(said.contains("`cobox-ctl seeder manage box seed ID`"), "{said}");
        assert!(said.contains("photos: without an end, a member was last heard of 1970"), "{said}");
        assert!(said.contains("    it ends soon"), "{said}");
        assert!(said.contains("ann 00112233 pause (4): done"), "{said}");
        assert_eq!(answer(&report(json!({ "answer": "said", "text": "It goes on." }))), None);
        assert_eq!(answer(&report(json!("nonsense"))), None);
    }
}
