//! Sizes, times and names as every program of this project shows them to people.

use std::borrow::Cow;
use std::fmt::Write as _;

const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// `1536` as `1.5 KiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// Milliseconds since 1970 as `2026-11-22 23:04 UTC`.
#[must_use]
pub fn time(unix_ms: u64) -> String {
    let (year, month, day) = civil(unix_ms / DAY_MS);
    let minute = unix_ms % DAY_MS / 60_000;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minute / 60, minute % 60)
}

/// A span in the largest unit that it is a whole number of: `30 days`, `12 hours`.
#[must_use]
pub fn span(ms: u64) -> String {
    let units = [(DAY_MS, "day"), (3_600_000, "hour"), (60_000, "minute"), (1000, "second")];
    let fits = units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    let (count, name) = fits.map_or((ms, "millisecond"), |(unit, name)| (ms / unit, name));
    if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
}

/// Addresses at which one peer was looked for, without what people need not read: its id, which stands beside them, and
/// this machine's own loopback where there is any other.
#[must_use]
pub fn places(addresses: &[String]) -> String {
    let place = |text: &String| -> String {
        text.rsplit_once("/p2p/").map_or(text.as_str(), |(place, _)| place).to_owned()
    };
    let (near, far): (Vec<String>, Vec<String>) = addresses
        .iter()
        .map(place)
        .partition(|text| text.starts_with("/ip4/127.") || text.starts_with("/ip6/::1/"));
    if far.is_empty() { near.join(", ") } else { far.join(", ") }
}

/// Whether a letter does something to a terminal, or to the order of the letters around it, instead of being seen:
/// control characters, line and paragraph separators, and marks of direction (Unicode, "Bidirectional Algorithm", UAX #9).
#[must_use]
pub fn is_odd(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

/// A count with its noun: `1 folder`, `2 folders`.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A name that somebody else chose, as it may stand in a line on a terminal: as it is, or, where it has letters that are
/// [odd](is_odd) or bytes that are no text, quoted as shells read it and `ls` shows it: `'a'$'\\n''b'`.
#[must_use]
pub fn name(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(is_odd) => Cow::Borrowed(text),
        _ => Cow::Owned(quoted(bytes)),
    }
}

fn quoted(bytes: &[u8]) -> String {
    let (mut text, mut escaping) = (String::from("'"), false);
    let mut turn = |text: &mut String, escaped: bool| {
        if escaping != escaped {
            text.push_str(if escaped { "'$'" } else { "''" });
            escaping = escaped;
        }
    };
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            turn(&mut text, is_odd(letter));
            match letter {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\'' => text.push_str("'\\''"),
                odd if is_odd(odd) => octal(&mut text, odd.encode_utf8(&mut [0; 4]).as_bytes()),
                plain => text.push(plain),
            }
        }
        if !chunk.invalid().is_empty() {
            turn(&mut text, true);
            octal(&mut text, chunk.invalid());
        }
    }
    text.push('\'');
    text
}

fn octal(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "\\{byte:03o}").expect("writing to a String cannot fail");
    }
}

/// Year, month and day of a day since 1970 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
#[must_use]
pub fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_would_write_on_a_terminal_is_quoted_as_ls_does() {
        assert_eq!(name("Ann's laptop, größer".as_bytes()), "Ann's laptop, größer");
        assert_eq!(name(b"a\nb"), "'a'$'\\n''b'");
        assert_eq!(name(b"\x1b[31mred"), "''$'\\033''[31mred'");
        assert_eq!(name(b"it's \xff\xfe"), "'it'\\''s '$'\\377\\376'");
        assert_eq!(name("a\u{202e}b".as_bytes()), "'a'$'\\342\\200\\256''b'");
        assert_eq!(name("a\u{9b}b".as_bytes()), "'a'$'\\302\\233''b'");
    }

    #[test]
    fn one_thing_is_not_several() {
        let said = [0, 1, 2].map(|count| counted(count, "copy", "copies"));
        assert_eq!(said, ["0 copies", "1 copy", "2 copies"]);
    }

    #[test]
    fn places_are_shown_without_peer_ids_and_without_loopback_where_there_are_others() {
        let texts = |all: &[&str]| places(&all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let (near, far) = ("/ip4/127.0.0.1/tcp/7740/p2p/12D3K", "/ip4/10.0.0.4/udp/7740/quic-v1/p2p/12D3K");
        assert_eq!(texts(&[near, far]), "/ip4/10.0.0.4/udp/7740/quic-v1");
        assert_eq!(texts(&[near]), "/ip4/127.0.0.1/tcp/7740");
        assert_eq!(texts(&["/dns4/box.example/tcp/1"]), "/dns4/box.example/tcp/1");
        assert_eq!(texts(&[]), "");
    }

    #[test]
    fn sizes_and_times_are_shown_in_one_unit() {
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5), "5 B");
        assert_eq!(bytes(50 << 30), "50.0 GiB");
        assert_eq!(span(90_000), "90 seconds");
        assert_eq!(span(24 * 3_600_000), "1 day");
        assert_eq!(span(0), "0 milliseconds");
        assert_eq!(time(0), "1970-01-01 00:00 UTC");
        assert_eq!(time(1_795_388_640_000), "2026-11-22 23:04 UTC");
    }
}
