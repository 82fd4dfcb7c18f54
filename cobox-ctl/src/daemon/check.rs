//! `check`: reads everything that this device stores, and says what does not hold.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use cobox_store::blind::{PackHealth, PackState};
use cobox_store::format::entry::LogHead;

use super::Daemon;
use super::folder::FolderState;
use crate::exit::Outcome;
use crate::report::{CheckReport, FolderCheck, WaitProgress};

/// More sentences than this are not read; the count says the rest.
const DAMAGE_LISTED_MAX: usize = 100;

impl Daemon {
    /// Checks the chosen folders: every entry's chain, signature and body, every slice of every pack.
    pub fn check(&self, folder: Option<&str>, tell: super::wait::Tell<'_>) -> Outcome<CheckReport> {
        let mut folders = Vec::new();
        for state in self.chosen(folder)? {
            let mut found = check_folder(&state, tell)?;
            let local = self.folder_report(&state)?.local;
            found.packs_missing = local.packs_missing.saturating_sub(local.packs_lost);
            if local.packs_lost > 0 {
                // Ahead of the list, which may be cut short: this is what cannot be mended.
                found.damage.insert(0, lost(local.packs_lost));
            }
            folders.push(found);
        }
        Ok(CheckReport { folders })
    }
}

fn check_folder(state: &FolderState, tell: super::wait::Tell<'_>) -> Outcome<FolderCheck> {
    let store = state.folder.store();
    let mut found = FolderCheck {
        name: state.folder.name(),
        entries: 0,
        packs: 0,
        bytes: 0,
        packs_missing: 0,
        damage: Vec::new(),
    };
    for head in store.log_heads(state.no())? {
        check_log(state, &head, &mut found)?;
    }
    let mut total = 0u64;
    store.packs_live(state.no(), &mut |pack, pack_state| match pack_state {
        PackState::Complete => total = total.saturating_add(pack.size),
        PackState::Missing => {}
    })?;
    let mut done = 0u64;
    let mut problem = None;
    let report = store.check_packs(state.no(), &mut |pack, health| {
        done = done.saturating_add(pack.size);
        if health == PackHealth::Damaged {
            let what = "does not match its hash; what is damaged is fetched again where a seeder has it";
            add(&mut found.damage, format!("Pack {} {what}.", pack.id));
        }
        match tell(&progress(done, total)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(gone) => {
                problem = Some(gone);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(problem) = problem {
        return Err(problem);
    }
    (found.packs, found.bytes) = (report.packs, report.bytes);
    Ok(found)
}

fn check_log(state: &FolderState, head: &LogHead, found: &mut FolderCheck) -> Outcome<()> {
    let mut hashes = BTreeSet::new();
    for seq in 1..=head.seq {
        found.entries += 1;
        let read = state.folder.store().entry(state.no(), head.log, seq);
        let entry = match read {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                add(&mut found.damage, format!("Entry {seq} of log {} is missing.", head.log));
                continue;
            }
            Err(error) => {
                let why = crate::advice::chain(&error);
                add(&mut found.damage, format!("Entry {seq} of log {} cannot be read: {why}.", head.log));
                continue;
            }
        };
        hashes.insert(entry.header().hash());
        if let Err(error) = state.folder.open_entry(&entry) {
            let why = crate::advice::chain(&error);
            add(&mut found.damage, format!("Entry {seq} of log {} does not open: {why}.", head.log));
        }
    }
    if head.seq > 0 && !hashes.contains(&head.hash) {
        add(&mut found.damage, format!("Log {} does not end in its head.", head.log));
    }
    Ok(())
}

/// What cannot be fetched again, as far as is known.
fn lost(packs: u64) -> String {
    let (are, them) = if packs == 1 { ("pack is", "it") } else { ("packs are", "them") };
    format!(
        "{packs} {are} damaged or not wholly on this device, and no seeder is known to hold {them}: what of {them} is sound stays readable."
    )
}

fn add(damage: &mut Vec<String>, sentence: String) {
    match damage.len() {
        0..DAMAGE_LISTED_MAX => damage.push(sentence),
        DAMAGE_LISTED_MAX => damage.push("There is more.".to_owned()),
        _ => {}
    }
}

fn progress(bytes_done: u64, bytes_total: u64) -> WaitProgress {
    WaitProgress {
        stage: "reading".to_owned(),
        copies_proved: 0,
        copies_wanted: 0,
        bytes_done,
        bytes_total,
        rate: 0,
        eta_s: None,
        missing: String::new(),
    }
}
