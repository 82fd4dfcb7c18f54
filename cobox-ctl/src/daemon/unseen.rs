//! Before the log of a device ends: are entries of it elsewhere that have not arrived here?
//!
//! A removal names the last entry that this device knows. What another device has beyond it that device vouches for by
//! itself; what only seeders have is lost. So a device that is behind, most of all one that was just recovered from the
//! words, waits for what others say they have, and otherwise says what would be lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cobox_net::{PeerId, PeerStatus, SessionState};
use cobox_store::blind::Access;
use cobox_store::id::LogId;

use super::Daemon;
use super::folder::FolderState;
use super::members::{asking, label};
use super::status::grants;
use super::wait::Tell;
use crate::control::Unseen;
use crate::exit::{Exit, Outcome, Problem};

/// How long somebody may take to say what it has, and what is on its way to arrive: a removal is often urgent.
const HEARD_WAIT: Duration = Duration::from_secs(10);
/// How long what is said must hold: heads come in several frames.
const QUIET: Duration = Duration::from_millis(300);
/// How long seeders that are not connected may take to become so.
const DIAL_WAIT: Duration = Duration::from_secs(3);
/// What is waited for.
const ASKING: &str = "others are asked what they have";
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
    /// Refuses to end these logs while others have entries of them that are not here, and where nobody waits for the
    /// answer any more: who gave up the waiting did not want the removal.
    pub(super) fn require_seen(
        &self,
        state: &FolderState,
        logs: &[LogId],
        unseen: Unseen,
        tell: Tell<'_>,
    ) -> Outcome<()> {
        if unseen == Unseen::Accept {
            return Ok(());
        }
        let (started, mut quiet_since) = (Instant::now(), None);
        loop {
            let heard = self.heard(state, logs, started.elapsed() < DIAL_WAIT)?;
            if matches!(heard, Heard::Alone) {
                return Ok(());
            }
            // Before each look and after the last one: nothing is done for who has gone.
            tell(&asking(ASKING))?;
            match &heard {
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
        if !peers.iter().any(PeerStatus::has_told) {
            return Ok(Heard::Nobody);
        }
        Ok(Heard::Lacking(lacking(&peers, logs), if opening { Others::Coming } else { Others::None }))
    }
}

/// Entries of these logs that peers have and we do not, by device, as far as the peers told.
fn lacking(peers: &[PeerStatus], logs: &[LogId]) -> BTreeMap<LogId, u64> {
    // A device that is to go has no say in it: it may claim any number of entries.
    let goes = |peer: &PeerStatus| peer.log.is_some_and(|log| logs.contains(&log));
    let others = peers.iter().filter(|peer| peer.has_told() && !goes(peer));
    let mut lacking: BTreeMap<LogId, u64> = BTreeMap::new();
    for (log, entries) in others.flat_map(|peer| &peer.ahead).filter(|(log, _)| logs.contains(log)) {
        let most = lacking.entry(*log).or_default();
        *most = (*most).max(*entries);
    }
    lacking
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
                format!(
                    "{entries} {word} of {}",
                    cobox_net::shown::name(label(&state.folder, log).as_bytes())
                )
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

#[cfg(test)]
mod tests {
    use cobox_net::PeerKind;

    use super::*;

    /// A peer that told that it has so many entries of these logs beyond ours; a seeder where it is no device.
    fn peer(number: u8, log: Option<LogId>, ahead: &[(LogId, u64)]) -> PeerStatus {
        let kind = if log.is_some() { PeerKind::Member } else { PeerKind::Seeder };
        PeerStatus {
            log,
            session: SessionState::Open,
            knows_access: true,
            told_lack: true,
            entries_to_receive: ahead.iter().map(|(_, entries)| *entries).sum(),
            ahead: ahead.to_vec(),
            ..PeerStatus::unheard(PeerId::of_key([number; 32]), kind)
        }
    }

    #[test]
    fn device_that_is_to_be_removed_has_no_say_in_what_others_have_of_it() {
        let (goes, stays) = (LogId([1; 32]), LogId([2; 32]));
        let claims = peer(1, Some(goes), &[(goes, u64::MAX)]);
        assert_eq!(lacking(std::slice::from_ref(&claims), &[goes]), BTreeMap::new());
        let seeder = peer(2, None, &[(goes, 2), (stays, 7)]);
        let other = peer(3, Some(stays), &[(goes, 3)]);
        let silent = PeerStatus { told_lack: false, ..peer(4, None, &[(goes, 9)]) };
        let all = [claims, seeder, other, silent];
        assert_eq!(lacking(&all, &[goes]), BTreeMap::from([(goes, 3)]));
        // A second device of the person that is to go speaks for neither.
        let both = BTreeMap::from([(goes, 2), (stays, 7)]);
        assert_eq!(lacking(&all, &[goes, stays]), both);
    }
}
