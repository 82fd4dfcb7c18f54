//! Before the log of a device ends: are entries of it elsewhere that have not arrived here?
//!
//! A removal names the last entry that this device knows. What another device has beyond it that device vouches for by
//! itself; what only seeders have is lost. So a device that is behind, most of all one that was just recovered from the
//! words, waits for what others say they have, and otherwise says what would be lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cobox_net::{PeerId, SessionState};
use cobox_store::blind::Access;
use cobox_store::id::LogId;

use super::Daemon;
use super::folder::FolderState;
use super::members::label;
use super::status::grants;
use crate::control::Unseen;
use crate::exit::{Exit, Outcome, Problem};

/// How long somebody may take to say what it has, and what is on its way to arrive: a removal is often urgent.
const HEARD_WAIT: Duration = Duration::from_secs(10);
/// How long what is said must hold: heads come in several frames.
const QUIET: Duration = Duration::from_millis(300);
/// How long seeders that are not connected may take to become so.
const DIAL_WAIT: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// What others have said.
enum Heard {
    /// There is nobody else who could have anything.
    Alone,
    /// Nobody has said what it has.
    Nobody,
    /// These entries are elsewhere and not here, by device; none where all is here.
    Lacking(BTreeMap<LogId, u64>, Others),
}

/// Whether somebody else is about to say what it has.
#[derive(PartialEq, Eq)]
enum Others {
    Coming,
    None,
}

impl Daemon {
    /// Refuses to end these logs while others have entries of them that are not here.
    pub(super) fn require_seen(&self, state: &FolderState, logs: &[LogId], unseen: Unseen) -> Outcome<()> {
        if unseen == Unseen::Accept {
            return Ok(());
        }
        let (started, mut quiet_since) = (Instant::now(), None);
        loop {
            let heard = self.heard(state, logs, started.elapsed() < DIAL_WAIT)?;
            match &heard {
                Heard::Alone => return Ok(()),
                Heard::Lacking(lacking, others) if lacking.is_empty() => {
                    let since = *quiet_since.get_or_insert_with(Instant::now);
                    let late = started.elapsed() > HEARD_WAIT;
                    if late || (since.elapsed() >= QUIET && *others == Others::None) {
                        return Ok(());
                    }
                }
                _ if started.elapsed() > HEARD_WAIT => return Err(problem(state, &heard)),
                _ => quiet_since = None,
            }
            std::thread::sleep(LOOK);
        }
    }

    fn heard(&self, state: &FolderState, logs: &[LogId], dialing: bool) -> Outcome<Heard> {
        let access = state.folder.store().access(state.no())?;
        if is_alone(state, &access, logs) {
            return Ok(Heard::Alone);
        }
        let peers = self.node.status(state.no())?.peers;
        let has_told = |seeder: &PeerId| peers.iter().any(|peer| peer.peer == *seeder && peer.has_told());
        let expected = dialing && !grants(state)?.iter().all(|(seeder, _)| has_told(seeder));
        let opening = expected
            || peers.iter().any(|peer| {
                peer.session == SessionState::Opening
                    || (peer.session == SessionState::Open && !peer.told_lack)
            });
        let mut told = peers.iter().filter(|peer| peer.has_told()).peekable();
        if told.peek().is_none() {
            return Ok(Heard::Nobody);
        }
        let mut lacking: BTreeMap<LogId, u64> = BTreeMap::new();
        // A device that is to go has no say in it: it may claim any number of entries.
        let others = told.filter(|peer| peer.log.is_none_or(|log| !logs.contains(&log)));
        for (log, entries) in others.flat_map(|peer| &peer.ahead).filter(|(log, _)| logs.contains(log)) {
            let most = lacking.entry(*log).or_default();
            *most = (*most).max(*entries);
        }
        Ok(Heard::Lacking(lacking, if opening { Others::Coming } else { Others::None }))
    }
}

/// Whether nobody is left who could have anything of these logs that is not here.
fn is_alone(state: &FolderState, access: &Access, logs: &[LogId]) -> bool {
    let own = state.folder.log();
    access.seeders.is_empty() && access.devices.keys().all(|log| *log == own || logs.contains(log))
}

fn problem(state: &FolderState, heard: &Heard) -> Problem {
    let hint = "Try again when they have arrived; --now ends the log all the same.";
    match heard {
        Heard::Lacking(lacking, _) => {
            let device = |(log, entries): (&LogId, &u64)| {
                let word = if *entries == 1 { "entry" } else { "entries" };
                format!("{entries} {word} of {}", label(&state.folder, log))
            };
            let list: Vec<String> = lacking.iter().map(device).collect();
            let what = format!(
                "{} are at others and not here yet. A removal now would leave them out: what only seeders have of them would be lost.",
                list.join(", ")
            );
            Problem::refused(what, hint)
        }
        _ => Problem::new(
            Exit::NotReached,
            "Nobody of the folder has said what it has, so there may be entries that are not here. A removal now would leave them out.",
            hint,
        ),
    }
}
