//! Names: how two spellings become one slot, how ids follow from names, and what a loser is called.
//!
//! Everything here is a pure function of its arguments; `docs/format.md`, "Tree", is the normative text.

use cobox_store::format::NAME_BYTES_MAX;
use cobox_store::format::op::Kind;
use cobox_store::id::{Ino, LinkId, OpId, derive};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Whether names that differ only in case are one name; fixed when the folder is created.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum CaseRule {
    /// `a` and `A` are two names, as on every Unix.
    #[default]
    Sensitive,
    /// `a` and `A` are one name, for folders shared with Windows and macOS.
    Folded,
}

/// The name at the root that CoBox answers itself; no op may create it.
pub const RESERVED_NAME: &[u8] = b".cobox";

fn first16(full: [u8; 32]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&full[..16]);
    short
}

/// What of a name counts when two names are compared: NFC, folded if the folder folds case.
///
/// A name that is not UTF-8 is its raw bytes.
#[must_use]
pub fn name_key(name: &[u8], case: CaseRule) -> Vec<u8> {
    if name.is_ascii() {
        return match case {
            CaseRule::Sensitive => name.to_vec(),
            CaseRule::Folded => name.to_ascii_lowercase(),
        };
    }
    let Ok(text) = std::str::from_utf8(name) else {
        return name.to_vec();
    };
    match case {
        CaseRule::Sensitive if is_nfc_quick(text.chars()) == IsNormalized::Yes => name.to_vec(),
        CaseRule::Sensitive => text.nfc().collect::<String>().into_bytes(),
        CaseRule::Folded => {
            text.nfc().collect::<String>().to_lowercase().nfc().collect::<String>().into_bytes()
        }
    }
}

/// The inode that a `Make` creates.
#[must_use]
pub fn ino_of(parent: &Ino, kind: Kind, generation: u32, key: &[u8]) -> Ino {
    Ino(first16(derive("ino", &[&parent.0, &[kind as u8], &generation.to_le_bytes(), key])))
}

/// The generation that is tried first. What can never change (a target, a device number) is in it: two
/// symbolic links of one name that are made at the same time are one where they are equal, and two where not.
#[must_use]
pub fn first_generation(kind: Kind, target: &[u8], rdev: u32) -> u32 {
    let full = match kind {
        Kind::Symlink => derive("generation", &[target]),
        Kind::CharDev | Kind::BlockDev => derive("generation", &[&rdev.to_le_bytes()]),
        _ => return 0,
    };
    u32::from_le_bytes([full[0], full[1], full[2], full[3]])
}

/// The first name of an inode.
#[must_use]
pub fn first_link(ino: &Ino, parent: &Ino, key: &[u8]) -> LinkId {
    LinkId(first16(derive("link", &[&ino.0, &parent.0, key])))
}

/// A further name, created by the `Link` op of that id.
#[must_use]
pub fn hard_link(id: OpId) -> LinkId {
    LinkId(first16(derive("hard link", &[&id.hlc.to_le_bytes(), &id.log.to_le_bytes()])))
}

/// The inode and the link of a head that became a file of its own.
#[must_use]
pub fn fork_of(ino: &Ino, head: OpId) -> (Ino, LinkId) {
    let full = derive("fork", &[&ino.0, &head.hlc.to_le_bytes(), &head.log.to_le_bytes()]);
    let mut link = [0; 16];
    link.copy_from_slice(&full[16..]);
    (Ino(first16(full)), LinkId(link))
}

/// The inode number that programs see: 1 for the root, never below 16 or with the top bit for others.
#[must_use]
pub fn number(ino: &Ino) -> u64 {
    if *ino == Ino::ROOT {
        return 1;
    }
    let low = u64::from_le_bytes(ino.0[..8].try_into().expect("16 bytes hold 8")) & (u64::MAX >> 1);
    if low < 16 { low + 16 } else { low }
}

/// Digits of an id in the first form of a conflict name; longer forms are used when that is taken.
pub const CONFLICT_DIGITS: usize = 4;
/// All the digits that an id has.
pub const CONFLICT_DIGITS_MAX: usize = 24;

/// `stem (conflict LABEL 20261003-142233 k3f9).ext`, at most 255 bytes, for the loser written by `id`.
#[must_use]
pub fn conflict_name(name: &[u8], label: &str, id: OpId, digits: usize) -> Vec<u8> {
    let (stem, extension) = split_extension(name);
    let middle =
        format!(" (conflict {} {} {})", clean_label(label), utc(id.unix_ms()), id_digits(id, digits));
    let room = NAME_BYTES_MAX - middle.len();
    let extension = if extension.len() < room { extension } else { &[] };
    let stem = cut_text(stem, room - extension.len());
    [stem, middle.as_bytes(), extension].concat()
}

/// The names that [`conflict_name`] may have made `shown` from, if nothing was cut off. Several, where
/// the name itself has that form; at most 23, as each takes 11 bytes; none, where it has not that form.
pub fn conflict_origins(shown: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const MARK: &[u8] = b" (conflict ";
    let origin = |start: usize| {
        let (stem, rest) = shown.split_at_checked(start)?;
        let end = rest.iter().position(|byte| *byte == b')')?;
        Some([stem, rest.get(end + 1..)?].concat())
    };
    shown
        .windows(MARK.len())
        .enumerate()
        .filter(|(_, window)| *window == MARK)
        .filter_map(move |(at, _)| origin(at))
}

/// A label as it may stand in a name: no `/`, NUL, control character or `)`, and at most 48 bytes.
fn clean_label(label: &str) -> String {
    let clean: String =
        label.chars().map(|c| if c.is_control() || matches!(c, '/' | '(' | ')') { '-' } else { c }).collect();
    let cut = cut_text(clean.as_bytes(), 48);
    String::from_utf8_lossy(cut).into_owned()
}

/// Splits `a.tar.gz` into `a` and `.tar.gz`, `a.txt` into `a` and `.txt`; a leading dot is no extension.
fn split_extension(name: &[u8]) -> (&[u8], &[u8]) {
    let Some(dot) = name.iter().rposition(|byte| *byte == b'.').filter(|at| *at > 0) else {
        return (name, &[]);
    };
    let before = name.get(..dot).unwrap_or(name);
    let at = match before.strip_suffix(b".tar") {
        Some(stem) if !stem.is_empty() => stem.len(),
        _ => dot,
    };
    name.split_at(at)
}

/// The longest prefix of at most `max` bytes that does not end inside a character.
fn cut_text(text: &[u8], max: usize) -> &[u8] {
    let Some(mut prefix) = text.get(..max) else {
        return text;
    };
    // A continuation byte after the cut means that the cut is inside a character.
    while text.get(prefix.len()).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000) && !prefix.is_empty() {
        prefix = prefix.split_last().map_or(prefix, |(_, rest)| rest);
        if prefix.len() + 4 < max {
            return text.get(..max).unwrap_or(text);
        }
    }
    prefix
}

/// Base-32 digits of an id's hash, in lower case.
fn id_digits(id: OpId, digits: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let full = derive("conflict digits", &[&id.hlc.to_le_bytes(), &id.log.to_le_bytes()]);
    full.iter().take(digits).map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()
}

/// `20261003-142233` for milliseconds since 1970; the calendar is Howard Hinnant's `civil_from_days`.
fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: OpId = OpId { hlc: 1_791_037_353_000 << 16, log: 7 };

    #[test]
    fn conflict_name_keeps_the_extension_and_tells_its_origin() {
        let shown = conflict_name(b"a.tar.gz", "anna's laptop", ID, 4);
        let text = String::from_utf8(shown.clone()).expect("text");
        assert!(text.starts_with("a (conflict anna's laptop 20261003-142233 "), "{text}");
        assert!(text.ends_with(").tar.gz"), "{text}");
        assert_eq!(conflict_origins(&shown).collect::<Vec<_>>(), [b"a.tar.gz"]);
        let twice = conflict_name(b"a.b (conflict x) y", "l", ID, 4);
        assert!(conflict_origins(&twice).any(|origin| origin == b"a.b (conflict x) y"));
    }

    #[test]
    fn conflict_name_of_a_long_name_is_legal_text() {
        for name in ["é".repeat(127), "x".repeat(255), format!("a.{}", "é".repeat(126)), ".x".repeat(127)] {
            let shown = conflict_name(name.as_bytes(), &"ü/".repeat(80), ID, CONFLICT_DIGITS_MAX);
            assert!(cobox_store::format::op::is_legal_name(&shown));
            assert!(String::from_utf8(shown).is_ok());
        }
        let raw = conflict_name(&[0x80; 255], "l", ID, 4);
        assert!(cobox_store::format::op::is_legal_name(&raw));
    }

    #[test]
    fn name_key_of_two_spellings_is_one() {
        let (composed, apart) = ("é".as_bytes(), "e\u{301}".as_bytes());
        assert_eq!(name_key(composed, CaseRule::Sensitive), name_key(apart, CaseRule::Sensitive));
        assert_ne!(name_key(b"A", CaseRule::Sensitive), name_key(b"a", CaseRule::Sensitive));
        assert_eq!(name_key("É".as_bytes(), CaseRule::Folded), name_key(apart, CaseRule::Folded));
        assert_eq!(name_key(&[0xff, b'A'], CaseRule::Folded), vec![0xff, b'A']);
    }

    #[test]
    fn number_of_an_inode_is_never_reserved() {
        assert_eq!(number(&Ino::ROOT), 1);
        assert_eq!(number(&Ino([0, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0])), 16);
        assert!(number(&Ino([0xff; 16])) <= i64::MAX as u64);
    }
}
