//! `check`: reads everything that this device stores, and says what does not hold: in the names of files,
//! since nobody knows packs.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use cobox_fs::vfs::{Harm, HurtSlices, Vfs, VfsOptions};
use cobox_store::blind::PackState;
use cobox_store::format::entry::LogHead;
use cobox_store::id::hex;

use super::Daemon;
use super::folder::FolderState;
use crate::conflicts::text_and_hex;
use crate::exit::Outcome;
use crate::report::{CheckReport, FolderCheck, WaitProgress};

/// More sentences than this are not read; the count says the rest.
const DAMAGE_LISTED_MAX: usize = 100;
/// Damaged packs whose files are looked for: half a terabyte of damage is a dead disk.
const DAMAGED_PACKS_MAX: usize = 65_536;

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
        packs_damaged: 0,
        files_damaged: Vec::new(),
        files_damaged_hex: Vec::new(),
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
    let mut report = store.check_packs(state.no(), &mut |pack, _| {
        done = done.saturating_add(pack.size);
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
    found.packs_damaged = report.damaged.len() as u64;
    // What was found and not what is damaged now: a connected seeder mends it while the rest is read.
    let hurt: HurtSlices = std::mem::take(&mut report.slices).into_iter().take(DAMAGED_PACKS_MAX).collect();
    if !hurt.is_empty() {
        name_files(state, &hurt, &mut found)?;
    }
    Ok(found)
}

/// Says which files the damage is in. A folder that is not mounted has its tree opened for as long.
fn name_files(state: &FolderState, hurt: &HurtSlices, found: &mut FolderCheck) -> Outcome<()> {
    let _turn = state.turn()?;
    let vfs = match state.vfs() {
        Some(vfs) => vfs,
        None => {
            let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            Vfs::open(Arc::clone(&state.folder), VfsOptions { uid, gid, read_only: true })?
        }
    };
    let mut files = 0u64;
    let mut paths = Vec::new();
    vfs.files_hurt(hurt, &mut |path, harm| {
        files += 1;
        if paths.len() < DAMAGE_LISTED_MAX {
            paths.push((path.to_vec(), harm));
        }
        ControlFlow::Continue(())
    })?;
    let mut is_text = true;
    for (path, harm) in &paths {
        let (text, in_hex) = text_and_hex(path);
        is_text &= in_hex.is_none();
        found.files_damaged.push(text);
        add(&mut found.damage, format!("{}: {}.", cobox_net::shown::name(path), harm_text(*harm)));
    }
    if !is_text {
        found.files_damaged_hex = paths.iter().map(|(path, _)| hex(path)).collect();
    }
    let more = files.saturating_sub(found.files_damaged.len() as u64);
    if more > 0 {
        found.damage.push(format!("{more} further files are damaged."));
    }
    if files == 0 {
        let packs = hurt.len();
        let are = if packs == 1 { "pack is" } else { "packs are" };
        add(&mut found.damage, format!("{packs} {are} damaged in places that no file needs now."));
    }
    Ok(())
}

/// What damage to a file is, for people.
fn harm_text(harm: Harm) -> &'static str {
    match harm {
        Harm::Damaged => {
            "its bytes on this disk are not what was written; they are fetched again where a seeder has them"
        }
        Harm::Mended => "it was damaged on this disk, and has been fetched again from another holder",
    }
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
