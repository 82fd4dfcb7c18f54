//! Conflicts as text for people: for `cobox-ctl conflicts` and `.cobox/conflicts`.

use std::fmt::Write as _;

use super::units::{bytes, local_time, name};
use crate::conflicts::bytes_of;
use crate::conflicts::{
    Act, ConflictKind, ConflictReport, ConflictsReport, FolderConflicts, KeepHow, KeepReport,
};

/// Digits of a member's id that tell people apart.
const MEMBER_DIGITS: usize = 8;

/// `conflicts`.
#[must_use]
pub fn list(report: &ConflictsReport) -> String {
    report.folders.iter().map(folder).collect()
}

/// One folder.
#[must_use]
pub fn folder(report: &FolderConflicts) -> String {
    let count = report.conflicts.len();
    if count == 0 {
        return format!("{}: nothing to settle.\n", report.folder);
    }
    let mut text = format!("{}: {count} to look at\n", report.folder);
    let several = several_members(report);
    for conflict in &report.conflicts {
        write(&mut text, conflict, several);
    }
    text += "\n`cobox-ctl conflicts keep PATH` keeps what that name shows and drops the others; with --both all stay,\n\
             each as a file of its own. Removing or renaming one in the file manager settles it too.\n";
    text
}

/// Whether ids of members tell anything.
fn several_members(report: &FolderConflicts) -> bool {
    let mut members = report.conflicts.iter().flat_map(|one| &one.acts).filter_map(|act| act.member.as_ref());
    let first = members.next();
    members.any(|member| Some(member) != first)
}

fn write(text: &mut String, conflict: &ConflictReport, several: bool) {
    let slash = if conflict.kind == ConflictKind::DirectoryReturned { "/" } else { "" };
    let mut line = |line: String| writeln!(text, "{line}").expect("writing to a String cannot fail");
    line(format!("\n{}{slash}", name(&bytes_of(&conflict.path, conflict.path_hex.as_deref()))));
    line(format!("  {}", conflict.what));
    for act in &conflict.acts {
        line(format!("    {}", sentence(act, several)));
    }
}

fn sentence(act: &Act, several: bool) -> String {
    let member = act.member.as_ref().filter(|_| several);
    let member = member.map(|id| format!(" (member {})", id.get(..MEMBER_DIGITS).unwrap_or(id)));
    let shown = act.name.as_ref().map(|shown| bytes_of(shown, act.name_hex.as_deref()));
    let what = match (&shown, act.bytes) {
        (Some(shown), Some(size)) => format!(": {}, {}", name(shown), bytes(size)),
        (Some(shown), None) => format!(": {}", name(shown)),
        _ => String::new(),
    };
    format!(
        "{}  {}{} {}{what}",
        local_time(act.at_ms),
        name(act.device.as_bytes()),
        member.unwrap_or_default(),
        act.act
    )
}

/// `conflicts keep`.
#[must_use]
pub fn kept(report: &KeepReport) -> String {
    let path = bytes_of(&report.path, report.path_hex.as_deref());
    let path = name(&path);
    match (report.changes, report.kept) {
        (0, _) => format!("There is nothing to settle at {path} in {}.\n", report.folder),
        (_, KeepHow::This) => format!("{path} is kept as it is in {}.\n", report.folder),
        (_, KeepHow::Both) => {
            format!("What was at {path} in {} has names of its own now.\n", report.folder)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(device: &str, member: &str) -> Act {
        Act {
            act: "wrote".into(),
            name: Some("f.txt".into()),
            name_hex: None,
            bytes: Some(1536),
            device: device.into(),
            member: Some(member.into()),
            at_ms: 1_791_037_353_000,
        }
    }

    #[test]
    fn list_says_who_wrote_what_and_when() {
        let conflict = ConflictReport {
            path: "d/f.txt".into(),
            path_hex: None,
            kind: ConflictKind::Versions,
            what: "2 versions of it were written at the same time".into(),
            acts: vec![act("LAPTOP", "00112233445566"), act("PHONE", "00112233445566")],
        };
        let mut report = FolderConflicts { folder: "photos".into(), conflicts: vec![conflict] };
        let text = folder(&report);
        assert!(text.contains("photos: 1 to look at"), "{text}");
        assert!(text.contains("LAPTOP wrote: f.txt, 1.5 KiB"), "{text}");
        assert!(!text.contains("member"), "one person needs no telling apart: {text}");
        report.conflicts[0].path_hex = Some("66ff".into());
        report.conflicts[0].acts[0].name_hex = Some("66fe".into());
        let text = folder(&report);
        assert!(text.contains("\n'f'$'\\377'\n") && text.contains("wrote: 'f'$'\\376', 1.5"), "{text}");
        report.conflicts[0].acts[1].member = Some("aabbccddeeff".into());
        assert!(folder(&report).contains("PHONE (member aabbccdd) wrote"), "{}", folder(&report));
    }
}
