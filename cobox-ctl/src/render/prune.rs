//! What `prune` did or would do, as text for people.

use std::fmt::Write as _;

use super::units::{bytes, name, packs};
use crate::report::{PruneReport, PruneState};

/// Adds one line; writing to a `String` cannot fail.
macro_rules! line {
    ($text:expr, $($format:tt)*) => {
        writeln!($text, $($format)*).expect("writing to a String cannot fail")
    };
}

/// What `prune` would do about packs of which something is needed.
fn merging(text: &mut String, report: &PruneReport) {
    if report.covered_packs > 0 {
        line!(
            text,
            "  {} with {} can be released as well: what is needed there is also elsewhere.",
            packs(report.covered_packs),
            bytes(report.covered_bytes)
        );
    }
    if report.rewrite_packs > 0 {
        line!(
            text,
            "  Mostly dead or small: {} with {}, of which {} would be sent again, in packs of the full size.",
            packs(report.rewrite_packs),
            bytes(report.rewrite_bytes),
            bytes(report.copied_bytes)
        );
    }
    if report.kept_back_packs > 0 {
        line!(
            text,
            "  Mostly dead or small, and left as it is: {}. There are fewer seeders than the folder wants copies, or to write them again would fill what one of them grants.",
            packs(report.kept_back_packs)
        );
    }
    line!(
        text,
        "  In all {} come back at each seeder, 30 days after the release.",
        bytes(report.comes_back_bytes)
    );
}

/// `prune`.
#[must_use]
pub fn pruned(report: &PruneReport) -> String {
    let mut text = String::new();
    line!(
        text,
        "{}: {} in {}, of which files need {}.",
        report.folder,
        bytes(report.pack_bytes),
        packs(report.packs),
        bytes(report.live_bytes)
    );
    let dead = format!("{} with {}", packs(report.dead_packs), bytes(report.dead_bytes));
    match report.state {
        PruneState::Looked if report.dead_packs > 0 => line!(
            text,
            "  {dead} could be released now. Seeders keep them for 30 more days (2 days what is younger than that), and then the space is theirs again."
        ),
        PruneState::Looked => line!(text, "  No pack is without anything that is needed."),
        PruneState::Nothing => line!(text, "  Nothing can be released."),
        PruneState::Copies => line!(
            text,
            "  Too few seeders have proved yet that they hold what was written again; until then the old packs stay. Run it again."
        ),
        PruneState::Waiting => {
            line!(
                text,
                "  {dead} can be released once these devices have answered: {}.",
                report.waits_for.iter().map(|label| name(label.as_bytes())).collect::<Vec<_>>().join(", ")
            );
            line!(text, "  The daemon goes on by itself when they have been online.");
        }
        PruneState::Void => line!(text, "  Something came back to life meanwhile. Run it again."),
        PruneState::Released => line!(
            text,
            "  Released: {} with {}. Seeders keep that for 30 more days (2 days what is younger than that).",
            packs(report.released_packs),
            bytes(report.released_bytes)
        ),
    }
    if report.state == PruneState::Looked {
        merging(&mut text, report);
    } else if report.half_dead_packs > 0 {
        line!(
            text,
            "  {} held {} that nothing needs beside what is needed. What one run does is bounded: another may do more.",
            packs(report.half_dead_packs),
            bytes(report.half_dead_bytes)
        );
    }
    if report.merged_packs > 0 {
        line!(
            text,
            "  What is needed of worn packs was written again, as {} with {}.",
            packs(report.merged_packs),
            bytes(report.merged_bytes)
        );
    }
    if report.held_here_bytes > 0 {
        line!(text, "  {} of what was released is still on this device.", bytes(report.held_here_bytes));
    }
    text
}
