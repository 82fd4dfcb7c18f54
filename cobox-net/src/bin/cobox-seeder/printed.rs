//! What `cobox-seeder` prints: a seeder's answers as lines for people.

use std::io::Write as _;
use std::path::Path;

use cobox_net::agreement::AgreementView;
use cobox_net::seeder::commands::{Answer, FolderStatus};
use cobox_net::seeder::leaving::Why;
use cobox_net::seeder::owner::claim_hint;
use cobox_net::seeder::report::{AdminView, CodeView};
use cobox_net::shown::{bytes as size, counted, time};

/// Prints what a seeder answered.
pub fn print_answer(answer: &Answer, data: &Path) {
    match answer {
        Answer::Status { running, peer_id, listen, folders, disk_free_bytes, paused, owned, .. } => {
            let state = match (*running, *paused) {
                (true, true) => "paused",
                (true, false) => "running",
                (false, _) => "not running",
            };
            print_line(&format!("seeder {peer_id}, {state}"));
            listen.iter().for_each(|address| print_line(&format!("listens on {address}")));
            print_line(&format!("{} free on the disk", size(*disk_free_bytes)));
            if !owned {
                print_line(&format!("nobody owns it yet: cobox-seeder claim --data {}", data.display()));
            }
            folders.iter().for_each(print_folder);
        }
        Answer::Pending { grants } if grants.is_empty() => print_line("no grant waits"),
        Answer::Pending { grants } => {
            for grant in grants {
                print_line(&format!(
                    "{}  {}{}, asked for by {}",
                    grant.id,
                    size(grant.quota_bytes),
                    end(grant.until_ms),
                    grant.from
                ));
                if let Some(view) = &grant.agreement {
                    print_line("Accepting it signs this:");
                    print_line(&view.document());
                }
            }
            print_line(&format!("Take one with: cobox-seeder accept ID --data {}", data.display()));
        }
        Answer::Already { folder } => print_line(&format!("already accepted: {folder}")),
        Answer::Accepted { folder, quota_bytes, until_ms } => {
            print_line(&format!("accepted: {folder}, {}{}", size(*quota_bytes), end(*until_ms)));
        }
        Answer::Refused { folder } => print_line(&format!("refused: {folder}")),
        Answer::Scrub { packs, bytes, damaged } => {
            let packs = counted(*packs, "pack", "packs");
            print_line(&format!("{packs}, {} read, {} damaged", size(*bytes), damaged.len()));
            damaged.iter().for_each(|pack| print_line(&format!("damaged: {pack}")));
        }
        other => print_about_owners(other),
    }
}

fn print_folder(folder: &FolderStatus) {
    let quota = folder.quota_bytes.map_or("no limit".to_owned(), size);
    print_line(&format!(
        "folder {}: {} of {quota}, {}, {} of them not here yet, {} connected",
        &folder.folder[..8.min(folder.folder.len())],
        size(folder.pack_bytes + folder.entry_bytes),
        counted(folder.packs, "pack", "packs"),
        folder.packs_missing,
        counted(folder.peers, "peer", "peers"),
    ));
    print_line(&format!("    {}", heard(folder.heard_ms)));
    folder.warnings.iter().for_each(|warning| print_line(&format!("    {warning}")));
    if let Some(leaving) = &folder.leaving {
        let why = match leaving.why {
            Why::Revoked => "an admin of the folder ended the grant",
            Why::Unseeded => "it was let go",
            Why::Ended => "its time is over",
        };
        print_line(&format!("    leaving since {}: {why}; nothing new is taken", time(leaving.since_ms)));
    }
    print_held(folder);
    print_damage(folder);
}

fn print_about_owners(answer: &Answer) {
    match answer {
        Answer::Claim { code: Some(code) } => {
            print_line(&claim_hint(code));
        }
        Answer::Claim { code: None } => {
            print_line(
                "The seeder has an owner. `cobox-seeder claim --reset` dismisses all who command it, voids all codes, and shows a code for a new one.",
            );
        }
        Answer::Seeking { .. } => print_line("the code is asked for"),
        Answer::Admins { admins, codes } => print_admins(admins, codes),
        Answer::Agreements { agreements } => print_agreements(agreements),
        Answer::Report { paused, waiting, agreements, commands, refused, folders } => {
            print_line(if *paused { "paused" } else { "not paused" });
            print_line(&counted(waiting.len() as u64, "grant waits", "grants wait"));
            print_agreements(agreements);
            for note in folders {
                let folder = note.folder.get(..8).unwrap_or(&note.folder);
                print_line(&format!("folder {folder}:{}, {}", end(note.until_ms), heard(note.heard_ms)));
                note.warnings.iter().for_each(|warning| print_line(&format!("    {warning}")));
            }
            for taken in commands {
                let (at, by) = (time(taken.at_ms), by(&taken.name, &taken.admin));
                print_line(&format!("{at}  {by} {} ({}): {}", taken.what, taken.seq, taken.outcome));
            }
            for refusal in refused {
                let (at, by) = (time(refusal.at_ms), by(&refusal.name, &refusal.admin));
                print_line(&format!("{at}  refused: {by} {}: {}", refusal.what, refusal.why));
            }
        }
        Answer::Said { text } | Answer::Failed { text, .. } => print_line(text),
        _ => {}
    }
}

/// When a folder's members were there.
fn heard(heard_ms: Option<u64>) -> String {
    heard_ms.map_or_else(
        || "no member was heard of yet".to_owned(),
        |heard_ms| format!("a member was last heard of {}", time(heard_ms)),
    )
}

/// An admin by name and the beginning of the key.
fn by(name: &str, key: &str) -> String {
    format!("{name} {}", key.get(..8).unwrap_or(key)).trim_start().to_owned()
}

fn print_admins(admins: &[AdminView], codes: &[CodeView]) {
    for admin in admins {
        let since = time(admin.since_ms);
        print_line(&format!("{}  {:<9} {} since {since}", admin.key, admin.rank, admin.name));
    }
    for code in codes {
        print_line(&format!(
            "{}  a code for a {} is open ({}){}",
            code.key,
            code.rank,
            code.name,
            end(code.expires_ms)
        ));
    }
    if admins.is_empty() && codes.is_empty() {
        print_line("nobody commands this seeder over the network");
    }
}

fn print_agreements(agreements: &[AgreementView]) {
    for view in agreements {
        print_line(&format!(
            "{}  folder {}: {}, {}{}",
            view.id.get(..16).unwrap_or(&view.id),
            view.folder.get(..8).unwrap_or(&view.folder),
            view.stage.word(),
            size(view.quota_bytes),
            end(view.ends_ms)
        ));
    }
    if agreements.is_empty() {
        print_line("no agreements");
    }
}

/// Days and hours of the seeder's running.
fn running(ms: u64) -> String {
    let hours = ms.div_ceil(3_600_000);
    format!("{} {}", counted(hours / 24, "day", "days"), counted(hours % 24, "hour", "hours"))
}

fn print_held(folder: &FolderStatus) {
    if let Some(next_ms) = folder.held_next_ms {
        let held = size(folder.held_bytes);
        print_line(&format!("  {held} were released; the first of them go in {}", running(next_ms)));
    }
    if let Some(left_ms) = folder.leaving_in_ms {
        print_line(&format!("  the grant is over: all of the folder goes in {}", running(left_ms)));
    }
}

fn print_damage(folder: &FolderStatus) {
    match folder.scrubbed_ms {
        0 => print_line("  not read to its end for damage yet"),
        ms => print_line(&format!("  read for damage until {}", time(ms))),
    }
    if folder.packs_damaged > 0 {
        let unmended = match folder.packs_unmended {
            0 => "all of them mended by other holders".to_owned(),
            count => format!("{count} of them not mended yet: another holder must be reached"),
        };
        print_line(&format!(
            "  damage was found in {}, {unmended}",
            counted(folder.packs_damaged, "pack", "packs")
        ));
    }
    if folder.rows_damaged {
        print_line(
            "  DAMAGED: rows of its database. Stop the seeder, move the folder `db` and the file `FORMAT` of its data away and start it: members and other seeders offer the folders again",
        );
    }
}

/// Prints one line.
pub fn print_line(text: &str) {
    // A closed pipe is the reader's choice.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// When a grant ends, as words behind its size.
fn end(until_ms: u64) -> String {
    match until_ms {
        0 => " without an end".to_owned(),
        ms => format!(" until {}", time(ms)),
    }
}
