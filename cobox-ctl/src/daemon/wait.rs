//! `wait`: until enough seeders have proved that they hold all that was written before it was asked;
//! and the same the other way round after a recovery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_fs::vfs::{Cut, Errno};
use cobox_net::{PeerId, PeerKind, PeerStatus, SessionState};
use cobox_store::blind::receipts::KeptReceipt;
use cobox_store::format::entry::LogHead;
use cobox_store::id::FolderNo;

use super::Daemon;
use super::chores::renew_locator;
use super::folder::FolderState;
use super::let_go;
use super::proof::reaches;
use super::status::{damaged, grants};
use crate::exit::{Exit, Outcome, Problem};
use crate::render::units;
use crate::report::{ArriveReport, FolderReport, Holding, ProofReport, WaitProgress, WaitReport};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(250);
/// After an audit that did not succeed, so that a failing seeder is not asked without pause.
const AUDIT_RETRY: Duration = Duration::from_secs(1);
/// How often a device that waits for entries looks.
const LOOK: Duration = Duration::from_millis(50);
/// A wait without an end is over when for so long there are not enough seeders whose owners hold the folder: one who has
/// just taken it again is heard of within a moment.
const LET_GO_FOR: Duration = Duration::from_secs(10);
/// What a device that has all entries it heard of waits for seeders that said nothing yet: they may know newer ones.
const QUIET: Duration = Duration::from_secs(2);

/// Takes progress; an error means that nobody listens any more.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(&WaitProgress) -> Outcome<()>;

/// What one turn of a wait found.
struct Turn {
    proved: Vec<ProofReport>,
    /// The seeder that is nearest to the next proof.
    nearest: Option<PeerStatus>,
    caught_up: Vec<PeerId>,
    /// Seeders whose owners did not let the folder go.
    holders: u32,
    problems: Vec<String>,
}

impl Daemon {
    /// Waits until `copies` seeders proved all that is live now.
    pub fn wait(
        &self,
        folder: &str,
        copies: u32,
        timeout: Option<Duration>,
        tell: Tell<'_>,
    ) -> Outcome<WaitReport> {
        let state = self.folder(folder)?;
        let seeders = grants(&state)?.len();
        if seeders < usize::try_from(copies).unwrap_or(usize::MAX) {
            return Err(too_few(folder, seeders, copies));
        }
        let started = Instant::now();
        let deadline = timeout.map(|timeout| started + timeout);
        if let Some(vfs) = state.vfs() {
            vfs.cut(Cut::Now).map_err(|errno| unreached(&state, errno))?;
        }
        let is_writable =
            state.mount_report().is_some_and(|mount| !mount.read_only && mount.problem.is_none());
        if !is_writable && state.has_unsent()? {
            return Err(Problem::failed_with(
                format!("{folder} has changes that no entry carries yet, so no seeder can prove them."),
                "Mount it for writing, so that they are sent: `cobox-ctl mount`.",
            ));
        }
        let target = state.live_set()?;
        let (mut audited, mut hopeless) = (BTreeMap::<PeerId, Instant>::new(), None::<Instant>);
        loop {
            let turn = self.look(&state, &target.heads, started)?;
            let proved = u32::try_from(turn.proved.len()).unwrap_or(u32::MAX);
            let progress = progress(&turn, target.pack_bytes, copies);
            if proved >= copies {
                let (packs, pack_bytes) = (target.packs.len() as u64, target.pack_bytes);
                return Ok(WaitReport {
                    folder: state.folder.name(),
                    copies_proved: proved,
                    seeders: turn.proved,
                    packs,
                    pack_bytes,
                    bytes_sent: self.sent(&state)?,
                    elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                });
            }
            tell(&progress)?;
            if self.is_ending() {
                return Err(Problem::failed("The daemon is ending."));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(not_reached(&progress, &turn.problems));
            }
            hopeless = hopeless.or_else(|| Some(Instant::now())).filter(|_| turn.holders < copies);
            if deadline.is_none() && hopeless.is_some_and(|since| since.elapsed() >= LET_GO_FOR) {
                return Err(never(&progress, &turn.problems));
            }
            let ready = turn.caught_up.into_iter().find(|peer_id| {
                audited.get(peer_id).is_none_or(|last: &Instant| last.elapsed() >= AUDIT_RETRY)
            });
            if let Some(peer_id) = ready {
                // What it ran into is noted with the seeder and told in the next turn.
                let asked = self.audit(&state, peer_id).and_then(|_| renew_locator(self, &state, peer_id));
                audited.insert(peer_id, Instant::now());
                if asked.is_ok() {
                    continue;
                }
            }
            let pause = deadline
                .map_or(TELL, |deadline| TELL.min(deadline.saturating_duration_since(Instant::now())));
            std::thread::sleep(pause);
        }
    }

    fn look(&self, state: &FolderState, target: &[LogHead], started: Instant) -> Outcome<Turn> {
        let peers = self.node.status(state.no())?.peers;
        let mut turn = Turn {
            proved: Vec::new(),
            nearest: None,
            caught_up: Vec::new(),
            holders: 0,
            problems: Vec::new(),
        };
        for (peer_id, _) in grants(state)? {
            if let Some(gone_ms) = let_go::gone_ms(state, peer_id)? {
                turn.problems.push(format!("{peer_id}: {}", let_go::sentence(gone_ms).trim_end_matches('.')));
                continue;
            }
            turn.holders += 1;
            let kept = state.receipt(peer_id)?.filter(|kept| reaches(&kept.receipt, target));
            let is_fresh = {
                let seeders = state.seeders.lock();
                let since = |at: Option<Instant>| at.is_some_and(|at| at >= started);
                seeders.get(&peer_id).is_some_and(|notes| {
                    since(notes.done.proved) && since(notes.done.locator.map(|(_, left)| left))
                })
            };
            // A copy counts when it was proved to this very wait, and the words alone would find it: the
            // seeder may have lost everything a moment ago.
            if let Some(KeptReceipt { receipt, at_ms }) = kept.filter(|_| is_fresh) {
                turn.proved.push(ProofReport {
                    peer_id: peer_id.to_string(),
                    holding: Holding::Proved,
                    samples: u64::from(receipt.samples_asked) + u64::from(receipt.entries_asked),
                    proved: u64::from(receipt.samples_proved) + u64::from(receipt.entries_proved),
                    time_ms: at_ms,
                    problem: None,
                });
                continue;
            }
            let peer = peers.iter().find(|peer| peer.peer == peer_id);
            let noted = state.seeders.lock().get(&peer_id).and_then(|notes| notes.problem.clone());
            turn.problems.extend(problem_of(peer_id, peer).or(noted));
            let Some(peer) = peer else { continue };
            if peer.is_caught_up() {
                turn.caught_up.push(peer_id);
            }
            let rank = |peer: &PeerStatus| (!peer.has_told(), peer.bytes_to_send);
            let nearer = turn.nearest.as_ref().is_none_or(|nearest| rank(peer) < rank(nearest));
            if nearer {
                turn.nearest = Some(peer.clone());
            }
        }
        Ok(turn)
    }

    fn sent(&self, state: &FolderState) -> Outcome<u64> {
        let peers = self.node.status(state.no())?.peers;
        Ok(peers.iter().filter(|peer| peer.kind == PeerKind::Seeder).map(|peer| peer.bytes_sent).sum())
    }

    /// Waits until every folder has the entries that its seeders know, and `joined` those of whoever is connected.
    pub fn arrive(
        &self,
        joined: Option<FolderNo>,
        timeout: Duration,
        tell: Tell<'_>,
    ) -> Outcome<ArriveReport> {
        let deadline = Instant::now() + timeout;
        let (mut quiet_since, mut told): (Option<Instant>, Option<Instant>) = (None, None);
        // Entries that a seeder lacks and another one has: this device has none of its own yet.
        let mut behind_of: BTreeMap<PeerId, u64> = BTreeMap::new();
        loop {
            let mut alone = Vec::new();
            let Some((state, behind, peers)) = self.still_awaited(joined, &mut behind_of, &mut alone)? else {
                let since = *quiet_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= QUIET || self.all_told()? {
                    return self.arrived(&behind_of, alone);
                }
                std::thread::sleep(LOOK);
                continue;
            };
            quiet_since = None;
            let heads = state.folder.store().log_heads(state.no())?;
            let have: u64 = heads.iter().map(|head| head.seq).sum();
            let problem = keeps_waiting(behind, &peers);
            let progress = WaitProgress {
                stage: if behind == 0 { "connecting" } else { "receiving" }.to_owned(),
                copies_proved: 0,
                copies_wanted: 0,
                bytes_done: have,
                bytes_total: have.saturating_add(behind),
                rate: peers.iter().map(|peer| peer.rate).sum(),
                eta_s: None,
                missing: problem.clone(),
            };
            let total = progress.bytes_total;
            if told.is_none_or(|told| told.elapsed() >= TELL) {
                told = Some(Instant::now());
                tell(&progress)?;
            }
            if Instant::now() >= deadline {
                return Err(Problem::new(
                    Exit::NotReached,
                    not_arrived(&state.folder.name(), have, total, &problem),
                    "The daemon goes on fetching them: look again with `cobox-ctl status`.",
                ));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The first folder whose entries are still to come. Folders that nobody else could tell of are noted as `alone`: no
    /// seeder is granted them and no other device is connected, so that there is nobody to wait for. Somebody let this
    /// device into `joined` a moment ago, and is about to connect.
    fn still_awaited(
        &self,
        joined: Option<FolderNo>,
        behind_of: &mut BTreeMap<PeerId, u64>,
        alone: &mut Vec<String>,
    ) -> Outcome<Option<(Arc<FolderState>, u64, Vec<PeerStatus>)>> {
        for state in self.folders() {
            let peers = self.node.status(state.no())?.peers;
            let open: Vec<&PeerStatus> = peers.iter().filter(|peer| peer.has_told()).collect();
            if open.is_empty() && joined != Some(state.no()) && grants(&state)?.is_empty() {
                alone.push(state.folder.name());
                continue;
            }
            let behind: u64 = open.iter().map(|peer| peer.entries_to_receive).max().unwrap_or(0);
            let seeders = open.iter().filter(|peer| peer.kind == PeerKind::Seeder);
            for peer in seeders.filter(|peer| behind == 0 && peer.entries_behind > 0) {
                behind_of.insert(peer.peer, peer.entries_behind);
            }
            if open.is_empty() || behind > 0 {
                return Ok(Some((state, behind, peers)));
            }
        }
        Ok(None)
    }

    /// Whether every seeder of every folder has told what it knows, so that there is nobody to wait for.
    fn all_told(&self) -> Outcome<bool> {
        for state in self.folders() {
            let peers = self.node.status(state.no())?.peers;
            let told = |seeder: &PeerId| peers.iter().any(|peer| peer.peer == *seeder && peer.has_told());
            if !grants(&state)?.iter().all(|(seeder, _)| told(seeder)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn arrived(&self, behind_of: &BTreeMap<PeerId, u64>, alone: Vec<String>) -> Outcome<ArriveReport> {
        let folders: Vec<FolderReport> =
            self.folders().iter().map(|state| self.folder_report(state)).collect::<Outcome<_>>()?;
        let sources = folders
            .iter()
            .filter(|folder| !alone.contains(&folder.name))
            .map(|folder| folder.seeders.iter().filter(|seeder| seeder.link == "connected").count())
            .min()
            .unwrap_or(0);
        let freshness = if let Some((peer, entries)) = behind_of.first_key_value() {
            format!(
                "that of the newest of {sources} seeders; {peer} lacked {} that another one has",
                units::entries(*entries)
            )
        } else if sources > 1 {
            format!("{sources} seeders agree on what is newest")
        } else if sources == 1 {
            "unverified: only one seeder was asked, and it could hold back what is newest".to_owned()
        } else {
            "unverified: no seeder was asked".to_owned()
        };
        Ok(ArriveReport { folders, freshness, alone })
    }
}

/// Why what was written cannot be sent. A change to a file is sealed with the bytes around it, which may be elsewhere.
fn unreached(state: &FolderState, errno: Errno) -> Problem {
    let elsewhere = || Ok::<bool, Problem>(state.live_set()?.missing > 0 && damaged(state)?.is_empty());
    if errno != Errno::EIO || !elsewhere().unwrap_or(false) {
        return errno.into();
    }
    Problem::new(
        Exit::NotReached,
        format!(
            "Something that was written to {} cannot be sent yet: it changes files whose other bytes are elsewhere, with nobody \
             who is reached now.",
            state.folder.name()
        ),
        "It is kept here. Connect a seeder or a device that has the files, and wait again.",
    )
}

/// What keeps a device that waits for entries waiting, as a sentence: while somebody sends them, nothing.
fn keeps_waiting(behind: u64, peers: &[PeerStatus]) -> String {
    if behind > 0 {
        return String::new();
    }
    let counts = |peer: &&PeerStatus| peer.kind == PeerKind::Seeder || peer.error.is_some();
    let problems = peers.iter().filter(counts).filter_map(|peer| problem_of(peer.peer, Some(peer)));
    problems.collect::<Vec<_>>().join("; ")
}

fn not_arrived(folder: &str, have: u64, total: u64, problem: &str) -> String {
    let count = if total > have {
        format!("{have} of {} of {folder} arrived in time", units::entries(total))
    } else {
        format!("Nobody told in time which entries {folder} has")
    };
    if problem.is_empty() { format!("{count}.") } else { format!("{count}: {problem}.") }
}

fn problem_of(peer_id: PeerId, peer: Option<&PeerStatus>) -> Option<String> {
    let short = peer_id.to_string();
    let Some(peer) = peer else { return Some(format!("{short} was not dialed yet.")) };
    let error = peer.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    match peer.session {
        SessionState::Offline => Some(format!("{short} is not reached{error}")),
        SessionState::Opening => Some(format!("{short} is being connected{error}")),
        SessionState::Pending => Some(format!("{short} has not accepted the folder yet")),
        SessionState::Refused => Some(format!("{short} refuses the folder{error}")),
        SessionState::Restricted => Some(format!("{short} does not know this device yet")),
        SessionState::Open if peer.full => Some(format!(
            "{short} is full: its quota or its disk has no room for {}",
            units::packs(peer.packs_to_send)
        )),
        SessionState::Open => None,
    }
}

fn progress(turn: &Turn, total: u64, copies_wanted: u32) -> WaitProgress {
    let open = turn.nearest.as_ref().filter(|peer| peer.has_told());
    let to_send = open.map_or(total, |peer| peer.bytes_to_send);
    let rate = open.map_or(0, |peer| peer.rate);
    let stage = match open {
        None => "connecting",
        Some(peer) if peer.is_caught_up() => "proving",
        Some(_) => "sending",
    };
    WaitProgress {
        stage: stage.to_owned(),
        copies_proved: u32::try_from(turn.proved.len()).unwrap_or(u32::MAX),
        copies_wanted,
        bytes_done: total.saturating_sub(to_send),
        bytes_total: total.max(to_send),
        rate,
        eta_s: to_send.checked_div(rate),
        missing: turn.problems.join("; "),
    }
}

/// No time would bring more copies than there are seeders.
fn too_few(folder: &str, seeders: usize, copies: u32) -> Problem {
    let have = match seeders {
        0 => "no seeder".to_owned(),
        1 => "only one seeder".to_owned(),
        many => format!("only {many} seeders"),
    };
    let others = if copies == 1 { "one" } else { "others" };
    Problem::new(
        Exit::NotReached,
        format!("{folder} has {have}, so {copies} proved copies cannot come about."),
        format!(
            "Add {others} with `cobox-ctl seeder add {folder} ADDR --quota 50G`, or wait for fewer --copies."
        ),
    )
}

/// No time alone would bring them: their owners have to change their minds.
fn never(progress: &WaitProgress, problems: &[String]) -> Problem {
    Problem { hint: "Waiting longer brings no more copies.".to_owned(), ..not_reached(progress, problems) }
}

fn not_reached(progress: &WaitProgress, problems: &[String]) -> Problem {
    let left = progress.bytes_total.saturating_sub(progress.bytes_done);
    let why = if problems.is_empty() {
        format!("{} are still to be sent", crate::render::units::bytes(left))
    } else {
        problems.join("; ")
    };
    let hint = if problems.is_empty() {
        "The daemon goes on by itself: wait again, or look with `cobox-ctl status`."
    } else {
        "The daemon keeps trying: check those seeders, or add another with `cobox-ctl seeder add`."
    };
    Problem::new(
        Exit::NotReached,
        format!("{} of {} copies are proved: {why}.", progress.copies_proved, progress.copies_wanted),
        hint,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8, kind: PeerKind, session: SessionState, error: Option<&str>) -> PeerStatus {
        PeerStatus {
            session,
            error: error.map(str::to_owned),
            note: Some("not needed now: enough other devices are linked".to_owned()),
            ..PeerStatus::unheard(PeerId::of_key([number; 32]), kind)
        }
    }

    #[test]
    fn device_that_recovers_is_told_of_peers_only_while_it_waits_for_them() {
        use {PeerKind as Kind, SessionState as State};
        let idle = peer(1, Kind::Member, State::Offline, None);
        let seeder = peer(2, Kind::Seeder, State::Open, None);
        assert_eq!(keeps_waiting(743, &[idle.clone(), seeder.clone()]), "");
        assert_eq!(keeps_waiting(0, &[idle.clone(), seeder]), "");
        let away = peer(2, Kind::Seeder, State::Offline, Some("connection refused"));
        let name = away.peer.to_string();
        assert_eq!(
            keeps_waiting(0, &[idle, away.clone()]),
            format!("{name} is not reached: connection refused")
        );
        let pending = peer(3, Kind::Seeder, State::Pending, None);
        let also = format!("{} has not accepted the folder yet", pending.peer);
        assert!(keeps_waiting(0, &[away.clone(), pending]).ends_with(&format!("; {also}")));
        assert_eq!(keeps_waiting(743, &[away]), "", "another one sends them");
    }

    #[test]
    fn entries_that_did_not_arrive_are_counted() {
        assert_eq!(not_arrived("docs", 20, 743, ""), "20 of 743 entries of docs arrived in time.");
        let said = not_arrived("docs", 0, 0, "P is not reached: refused");
        assert_eq!(said, "Nobody told in time which entries docs has: P is not reached: refused.");
    }
}
