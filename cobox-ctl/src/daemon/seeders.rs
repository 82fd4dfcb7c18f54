//! Seeders of a folder: granting, dialing, challenging.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cobox_net::{Error as NetError, FolderSecrets, PeerId, SessionState};
use cobox_store::format::address::SeederAddress;
use cobox_store::id::PackId;
use zeroize::Zeroizing;

use super::departing::departing;
use super::folder::FolderState;
use super::let_go;
use super::proof::covers;
use super::status::{address_of, grants};
use super::{Daemon, now_ms};
use crate::exit::{Exit, Outcome, Problem};
use crate::report::{AuditReport, Holding, ProofReport, SeederAddReport};

/// How long `seeder add` waits to say whether the seeder took the grant: a connection over a slow link takes a few round
/// trips of under a second. One attempt that gets no answer takes ten, and there is time for another one.
const ADD_WAIT: Duration = Duration::from_secs(20);
const ADD_POLL: Duration = Duration::from_millis(100);
/// How long a folder may be waiting before `seeder add` says that somebody has to accept it: a seeder that takes it by
/// its rule answers so within moments, but not at first.
const RULE_WAIT: Duration = Duration::from_secs(2);
/// One who says that it holds everything may prove something else for so long without a word to anybody: a release or an
/// entry of which only one of the two has heard travels in moments.
const UNLIKE_MAX: Duration = Duration::from_secs(5 * 60);

impl Daemon {
    /// Gives the network a folder's newest secrets and seeders, if the access log moved since.
    pub fn tell_network(&self, state: &FolderState) -> Outcome<()> {
        let heads = state.folder.store().access(state.no())?.heads.clone();
        let mut told = state.access_told.lock();
        if *told == heads {
            return Ok(());
        }
        state.folder.refresh()?;
        let folder = Arc::clone(&state.folder);
        self.node.add_folder(FolderSecrets {
            no: state.no(),
            swarm: state
                .folder
                .swarm_secrets()
                .iter()
                .map(|secret| Zeroizing::new(*secret.expose()))
                .collect(),
            signer: Arc::new(move |transcript| folder.sign_session(transcript)),
            log: state.folder.log(),
        });
        let mut peers: Vec<SeederAddress> =
            grants(state)?.iter().map(|(_, grant)| address_of(grant)).collect();
        // Those that were removed are called until they know it.
        peers.extend(departing(state)?.iter().map(|(_, _, grant)| address_of(grant)));
        for hinted in state.hinted() {
            match peers.iter_mut().find(|known| known.peer_id == hinted.peer_id) {
                // It may have moved since it was granted.
                Some(known) => {
                    let fresh = hinted.addresses.into_iter().filter(|one| !known.addresses.contains(one));
                    let fresh: Vec<Vec<u8>> = fresh.collect();
                    known.addresses.extend(fresh);
                }
                None => peers.push(hinted),
            }
        }
        self.node.set_peers(state.no(), peers);
        *told = heads;
        Ok(())
    }

    /// Grants a seeder, dials it, and says how it answered.
    pub fn seeder_add(
        &self,
        folder: &str,
        address: &str,
        quota_bytes: u64,
        until_ms: u64,
    ) -> Outcome<SeederAddReport> {
        let state = self.folder(folder)?;
        if quota_bytes == 0 || (until_ms != 0 && until_ms <= now_ms()) {
            return Err(Problem::usage(
                "A grant of nothing, or one that has ended, would store nothing.",
                "Give a quota above 0 and a day that is still to come.",
            ));
        }
        let address = parse_address(address)?;
        let peer_id = PeerId::from_bytes(&address.peer_id).ok_or_else(bad_address)?;
        state.folder.grant_seeder(&address, quota_bytes, until_ms)?;
        self.locator_version.fetch_add(1, Ordering::SeqCst);
        self.tell_network(&state)?;
        self.node.connect(&address);
        let deadline = Instant::now() + ADD_WAIT;
        let mut pending_since = None;
        loop {
            let peers = self.node.status(state.no())?.peers;
            let peer = peers.into_iter().find(|peer| peer.peer == peer_id);
            let session = peer.as_ref().map_or(SessionState::Offline, |peer| peer.session);
            let waits_more = match session {
                SessionState::Open | SessionState::Refused => false,
                SessionState::Pending => pending_since.get_or_insert_with(Instant::now).elapsed() < RULE_WAIT,
                _ => Instant::now() < deadline,
            };
            if waits_more {
                std::thread::sleep(ADD_POLL);
                continue;
            }
            let link = match session {
                SessionState::Open => "connected",
                SessionState::Pending => "pending",
                SessionState::Refused => {
                    return Err(Problem::refused(
                        format!(
                            "The seeder {peer_id} refused the folder{}.",
                            why(peer.and_then(|peer| peer.error))
                        ),
                        "The grant is recorded, but this seeder stores nothing: ask its owner.",
                    ));
                }
                _ => {
                    return Err(Problem::new(
                        Exit::NotReached,
                        format!(
                            "The seeder {peer_id} was not reached{}.",
                            why(peer.and_then(|peer| peer.error))
                        ),
                        "The grant is recorded and the daemon keeps trying: check that the seeder is running and that nothing blocks its address.",
                    ));
                }
            };
            let (folder, gone_ms) = (state.folder.name(), let_go::gone_ms(&state, peer_id)?);
            let link = if gone_ms.is_some() { "pending" } else { link }.to_owned();
            return Ok(SeederAddReport { folder, peer_id: peer_id.to_string(), link, gone_ms, quota_bytes });
        }
    }

    /// Challenges all seeders of a folder, or the one whose peer id begins with `chosen`.
    pub fn seeder_audit(&self, folder: &str, chosen: Option<&str>) -> Outcome<AuditReport> {
        let state = self.folder(folder)?;
        let all = grants(&state)?;
        let wanted: Vec<PeerId> = all
            .into_iter()
            .map(|(peer_id, _)| peer_id)
            .filter(|peer_id| chosen.is_none_or(|chosen| peer_id.to_string().starts_with(chosen)))
            .collect();
        if wanted.is_empty() {
            return Err(Problem::missing(
                chosen.map_or_else(
                    || format!("{folder} has no seeder."),
                    |chosen| format!("{folder} has no seeder whose id begins with {chosen:?}."),
                ),
                "`cobox-ctl seeder list` shows them, `cobox-ctl seeder add` adds one.",
            ));
        }
        let proofs: Vec<ProofReport> =
            wanted.into_iter().map(|peer_id| self.challenge(&state, peer_id)).collect();
        Ok(AuditReport { folder: state.folder.name(), proofs })
    }

    /// Asks a seeder now for a proof; what kept it from one is in the report.
    pub fn challenge(&self, state: &FolderState, peer_id: PeerId) -> ProofReport {
        self.audit(state, peer_id).unwrap_or_else(|problem| ProofReport {
            peer_id: peer_id.to_string(),
            holding: Holding::Behind,
            samples: 0,
            proved: 0,
            time_ms: 0,
            problem: Some(problem.message),
        })
    }

    fn moment(&self, state: &FolderState, peer_id: PeerId) -> Outcome<Moment> {
        let peers = self.node.status(state.no()).map(|status| status.peers).unwrap_or_default();
        let said = peers.iter().find(|peer| peer.peer == peer_id).map_or(Said::Nothing, |peer| match peer {
            peer if !peer.has_told() => Said::Nothing,
            peer if !peer.is_caught_up() => Said::Lacks,
            // This device is behind, or one of the two with releases: what it proves may be what is not here yet.
            peer if peer.entries_to_receive > 0 || !peer.knows_access => Said::More,
            _ => Said::Whole,
        });
        Ok(Moment { live: state.live_set()?.packs.clone(), said })
    }

    /// One challenge over what is live, and what its receipt is worth.
    pub fn audit(&self, state: &FolderState, peer_id: PeerId) -> Outcome<ProofReport> {
        let _turn = state.audit.lock();
        state.seeders.lock().entry(peer_id).or_default().audit_tried = Some(Instant::now());
        let live = state.live_set()?;
        let before = self.moment(state, peer_id)?;
        let started = Instant::now();
        let asked = match self.node.audit(state.no(), peer_id) {
            // A release may have reached the seeder in the moment of its answer: what it says twice it means.
            Err(NetError::WrongReceipt { .. }) => self.node.audit(state.no(), peer_id),
            answer => answer,
        };
        let after = self.moment(state, peer_id)?;
        let receipt = match asked {
            Ok(receipt) => receipt,
            Err(error) if is_on_its_way(&error, &before, &after) && !had_proved(state, peer_id, &error) => {
                return Ok(still_sending(state, peer_id));
            }
            Err(error) => {
                // Where this device is behind, what it asked for may have been released.
                let is_behind = [before.said, after.said].contains(&Said::More);
                let is_disproved = is_disproof(&error) && !is_behind;
                let problem = Problem::from(error);
                let mut seeders = state.seeders.lock();
                let notes = seeders.entry(peer_id).or_default();
                notes.problem = Some(problem.message.clone());
                if is_disproved {
                    notes.disprove();
                }
                return Err(problem);
            }
        };
        let now = state.live_set()?;
        let proved = [live, now].into_iter().find(|live| covers(&receipt, live));
        let is_unlike = proved.is_none() && receipt.packs_lacking == 0 && after.is_whole_as(&before);
        let mut seeders = state.seeders.lock();
        let notes = seeders.entry(peer_id).or_default();
        let lacks = || format!("It lacks {}.", crate::render::units::packs(receipt.packs_lacking));
        // An answer that proves nothing of what is live here makes good no earlier one that did not hold.
        notes.failed &= proved.is_none();
        notes.problem = is_for_long(&mut notes.unlike, is_unlike, started).then(|| UNLIKE.to_owned());
        if notes.problem.is_some() {
            notes.forget_proofs();
        }
        let problem = (receipt.packs_lacking > 0).then(lacks).or_else(|| notes.problem.clone());
        if let Some(live) = &proved {
            notes.proved = Some((Arc::clone(live), now_ms()));
            notes.done.proved = Some(started);
            (notes.covered, notes.uncovered, notes.looked) = (Some(Arc::clone(live)), None, None);
            notes.lacks = false;
        }
        let is_told = notes.problem.is_some();
        drop(seeders);
        if is_told {
            state.folder.store().receipt_forget(state.no(), &peer_id.to_bytes())?;
        }
        let ms = started.elapsed().as_millis();
        tracing::info!(folder = %state.folder.id(), samples = receipt.samples_asked, whole = proved.is_some(), ms, "audited");
        Ok(ProofReport {
            peer_id: peer_id.to_string(),
            holding: if proved.is_some() { Holding::Proved } else { Holding::Behind },
            samples: u64::from(receipt.samples_asked) + u64::from(receipt.entries_asked),
            proved: u64::from(receipt.samples_proved) + u64::from(receipt.entries_proved),
            time_ms: now_ms(),
            problem,
        })
    }
}

/// What a peer said of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// That it has everything, and nothing that is not here.
    Whole,
    /// That it has everything, and more than is here.
    More,
    Lacks,
    /// It is not connected, or has said nothing yet.
    Nothing,
}

/// What was live at one moment, and what the peer said of it.
struct Moment {
    live: Arc<BTreeSet<PackId>>,
    said: Said,
}

impl Moment {
    /// Whether the peer said that it holds everything, then and now, and nothing else was live.
    fn is_whole_as(&self, before: &Self) -> bool {
        (self.said, before.said) == (Said::Whole, Said::Whole) && self.live == before.live
    }
}

const UNLIKE: &str = "It says that it holds everything, but for more than five minutes its proofs were of something else \
     than what is live here. Ask its owner, and count on no copy there.";

/// Whether something that `is` so now has been at each look for longer than [`UNLIKE_MAX`]; `since` is when that began.
fn is_for_long(since: &mut Option<Instant>, is: bool, now: Instant) -> bool {
    *since = since.or(Some(now)).filter(|_| is);
    since.is_some_and(|since| now.saturating_duration_since(since) > UNLIKE_MAX)
}

/// Whether an answer shows that a seeder does not hold what it said.
fn is_disproof(error: &NetError) -> bool {
    matches!(
        error,
        NetError::NotProved { .. } | NetError::EntriesNotProved { .. } | NetError::WrongReceipt { .. }
    )
}

/// Whether what an audit missed may just be on its way: more was written while the peer was asked, or it says itself
/// that it lacks something. That is no copy, and no lie either.
fn is_on_its_way(error: &NetError, before: &Moment, after: &Moment) -> bool {
    let missed = matches!(error, NetError::NotProved { .. } | NetError::EntriesNotProved { .. });
    // One that goes as soon as it has answered has said nothing afterwards.
    let lacks = matches!(before.said, Said::Lacks | Said::Nothing) || after.said == Said::Lacks;
    missed && (lacks || before.live != after.live)
}

/// Whether an audit missed a pack that the seeder had proved: nothing that travels now explains that.
fn had_proved(state: &FolderState, peer_id: PeerId, error: &NetError) -> bool {
    let NetError::NotProved { pack, .. } = error else { return false };
    let proved = state.seeders.lock().get(&peer_id).and_then(|notes| {
        let proved = notes.proved.as_ref().map(|(proved, _)| proved);
        proved.or(notes.covered.as_ref()).cloned()
    });
    // What is not live any more may have been freed there.
    let is_live = || state.live_set().is_ok_and(|live| live.packs.contains(pack));
    proved.is_some_and(|proved| proved.packs.contains(pack)) && is_live()
}

fn still_sending(state: &FolderState, peer_id: PeerId) -> ProofReport {
    let mut seeders = state.seeders.lock();
    let notes = seeders.entry(peer_id).or_default();
    (notes.problem, notes.lacks, notes.unlike) = (None, true, None);
    // Nothing failed: it is asked again as soon as it says that it has everything.
    notes.audit_tried = None;
    ProofReport {
        peer_id: peer_id.to_string(),
        holding: Holding::Behind,
        samples: 0,
        proved: 0,
        time_ms: now_ms(),
        problem: Some("It does not have everything yet.".to_owned()),
    }
}

/// What is known of the reason, to follow a sentence.
pub(super) fn why(error: Option<String>) -> String {
    error.map(|error| format!(": {}", error.trim_end_matches('.'))).unwrap_or_default()
}

fn bad_address() -> Problem {
    Problem::usage(
        "This is not the address of a seeder, or it was mistyped.",
        "Use the line that `cobox-seeder address` prints, whole and unchanged.",
    )
}

/// Reads an address as a person pasted it.
///
/// # Errors
/// When it is none.
pub(crate) fn parse_address(text: &str) -> Outcome<SeederAddress> {
    SeederAddress::from_text(text).map_err(|_| bad_address())
}

#[cfg(test)]
mod tests {
    use super::super::folder::{Done, SeederNotes};
    use super::super::proof::tests::live;
    use super::*;

    fn moment(packs: &[u8], said: Said) -> Moment {
        Moment { live: Arc::new(packs.iter().map(|pack| PackId([*pack; 32])).collect()), said }
    }

    #[test]
    fn seeder_that_still_gets_what_was_written_is_behind_and_does_not_lie() {
        let peer = PeerId::of_key([7; 32]);
        let missed = NetError::NotProved { peer, pack: PackId([1; 32]) };
        let (one, two) = (moment(&[1], Said::Whole), moment(&[1, 2], Said::Whole));
        assert!(is_on_its_way(&missed, &one, &two));
        assert!(is_on_its_way(&missed, &moment(&[1], Said::Lacks), &one));
        assert!(is_on_its_way(&missed, &one, &moment(&[1], Said::Lacks)));
        assert!(!is_on_its_way(&missed, &one, &one), "it said that it has everything");
        assert!(!is_on_its_way(&missed, &one, &moment(&[1], Said::Nothing)), "it goes once it has answered");
        assert!(is_on_its_way(&missed, &moment(&[1], Said::Nothing), &one), "it had not told yet");
        assert!(!is_on_its_way(&NetError::WrongReceipt { peer }, &one, &two));
    }

    #[test]
    fn seeder_that_says_it_is_whole_and_proves_something_else_is_told_of_after_minutes() {
        let (start, mut since) = (Instant::now(), None);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let most = u64::try_from(UNLIKE_MAX.as_millis()).expect("small");
        let whole = moment(&[1], Said::Whole);
        assert!(whole.is_whole_as(&moment(&[1], Said::Whole)));
        assert!(!whole.is_whole_as(&moment(&[1], Said::Lacks)), "it is still being sent");
        assert!(!whole.is_whole_as(&moment(&[1], Said::More)), "this device is behind");
        assert!(!whole.is_whole_as(&moment(&[2], Said::Whole)), "something was released or written");
        assert!(!is_for_long(&mut since, true, at(0)) && !is_for_long(&mut since, true, at(most)));
        assert!(is_for_long(&mut since, true, at(most + 1)));
        assert!(!is_for_long(&mut since, false, at(most + 2)), "it proved what is live");
        assert!(!is_for_long(&mut since, true, at(most + 3)), "it begins anew");
    }

    #[test]
    fn answer_that_does_not_hold_takes_with_it_what_was_proved_before() {
        let peer = PeerId::of_key([7; 32]);
        let lost = NetError::NotProved { peer, pack: PackId([1; 32]) };
        let wrong = [lost, NetError::EntriesNotProved { peer }, NetError::WrongReceipt { peer }];
        assert!(wrong.iter().all(is_disproof) && !is_disproof(&NetError::ShutDown));
        let done = Done { proved: Some(Instant::now()), ..Done::default() };
        let proved = Some((Arc::new(live(Vec::new())), 5));
        let covered = Some(Arc::new(live(Vec::new())));
        let mut notes = SeederNotes { proved, covered, done, ..SeederNotes::default() };
        notes.disprove();
        assert!(notes.proved.is_none() && notes.covered.is_none() && notes.done.proved.is_none());
        assert!(notes.failed, "it is not on its way either");
    }
}
