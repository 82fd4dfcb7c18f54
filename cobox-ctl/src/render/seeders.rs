//! Seeders of a folder, as text for people.

use std::fmt::Write as _;

use super::units::{bytes, entries, packs, rate, time};
use crate::report::{Holding, SeederReport};

/// Adds one line; writing to a `String` cannot fail.
macro_rules! line {
    ($text:expr, $($format:tt)*) => {
        writeln!($text, $($format)*).expect("writing to a String cannot fail")
    };
}

/// `seeder list`, and the seeders of `status`.
#[must_use]
pub fn seeders(seeders: &[SeederReport]) -> String {
    let mut text = String::new();
    for seeder in seeders {
        let path = seeder.path.as_ref().map(|path| format!(", {path}")).unwrap_or_default();
        let rtt = seeder.rtt_ms.map(|rtt| format!(", {rtt} ms")).unwrap_or_default();
        line!(text, "  seeder   {} ({}{path}{rtt})", seeder.peer_id, seeder.link);
        let until =
            if seeder.until_ms == 0 { String::new() } else { format!(" until {}", time(seeder.until_ms)) };
        let whereabouts = seeder.whereabouts();
        if !whereabouts.is_empty() {
            let contact = seeder.contact.as_ref().map(|contact| format!(" ({contact})")).unwrap_or_default();
            line!(text, "           {whereabouts}{contact}");
        }
        line!(text, "           may store {}{until}", bytes(seeder.quota_bytes));
        text += &holding(seeder);
        if let (Holding::Behind | Holding::Claimed | Holding::LetGo, Some(ms)) =
            (seeder.holding, seeder.proved_at_ms)
        {
            line!(text, "           gave its last proof {}", time(ms));
        }
        if let Some(problem) = &seeder.problem {
            line!(text, "           {problem}");
        }
    }
    if seeders.is_empty() {
        line!(text, "  no seeder: everything is on this machine only");
    }
    text
}

/// What is known of a seeder's copy, as one line.
fn holding(seeder: &SeederReport) -> String {
    let mut text = String::new();
    match seeder.holding {
        Holding::Proved => {
            let when = seeder.proved_at_ms.map(time).unwrap_or_default();
            line!(text, "           proved that it holds everything, {when}");
        }
        Holding::Late => {
            let when = seeder.proved_at_ms.map(time).unwrap_or_default();
            line!(text, "           proved that it holds everything, {when}; the next proof is late");
        }
        Holding::Expired => {
            let when = seeder.proved_at_ms.map(time).unwrap_or_default();
            line!(text, "           proved that it holds everything, {when}: too long ago to count");
        }
        Holding::Claimed => {
            line!(text, "           says that it holds everything; this is not proved yet")
        }
        Holding::Following => {
            let when = seeder.proved_at_ms.map(time).unwrap_or_default();
            line!(
                text,
                "           proved that it held everything, {when}; what was written since is not proved yet"
            );
        }
        Holding::Syncing => {
            let when = seeder.proved_at_ms.map(time).unwrap_or_default();
            let waits =
                if seeder.link == "connected" { "is on its way" } else { "waits until it is reached" };
            line!(text, "           proved that it held everything, {when}; what was written since {waits}");
        }
        Holding::LetGo => line!(text, "           keeps what it has for a while, and takes nothing new"),
        Holding::Behind if seeder.link == "connected" && !seeder.told => {
            line!(text, "           has not told yet what it lacks");
        }
        Holding::Behind => line!(
            text,
            "           lacks {} and {} ({}), {}",
            entries(seeder.entries_behind),
            packs(seeder.packs_to_send),
            bytes(seeder.bytes_to_send),
            rate(seeder.rate)
        ),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeder_that_has_not_told_yet_what_it_lacks_is_not_said_to_lack_anything() {
        let said = |told: bool| {
            let seeder = serde_json::json!({
                "peer_id": "12D3", "address": "", "quota_bytes": 1, "until_ms": 0, "link": "connected", "rtt_ms": null,
                "path": null, "told": told, "entries_behind": 0, "packs_to_send": 0, "bytes_to_send": 0, "bytes_sent": 0,
                "rate": 0, "holding": "behind", "proved_at_ms": null,
            });
            let seeder: SeederReport = serde_json::from_value(seeder).expect("a report");
            seeders(&[seeder])
        };
        assert!(said(false).contains("has not told yet what it lacks"), "{}", said(false));
        assert!(!said(false).contains("lacks 0"), "{}", said(false));
        assert!(said(true).contains("lacks 0 entries and 0 packs"), "{}", said(true));
    }
}
