//! What the daemon does unasked: tells mounts and network what changed, leaves locators with seeders,
//! and challenges them.
//!
//! Three threads. The keeper only looks at local state. The courier asks seeders, which may take half a
//! minute each, so nothing waits for it. The patrol reads what is stored, slowly.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cobox_fs::vfs::Link;
use cobox_net::patrol::{self, Pace};
use cobox_net::{PeerId, PeerStatus, SessionState};
use cobox_store::format::address::SeederAddress;

use super::folder::{Done, FolderState};
use super::proof::{Lack, covers};
use super::status::{address_of, grants};
use super::{Daemon, TICK, now_ms};
use crate::exit::{Outcome, Problem};

/// The keeper looks at most this often, however busy the store is.
const KEEPER_PAUSE: Duration = Duration::from_millis(100);
/// After a failed audit or locator.
const RETRY: Duration = Duration::from_secs(30);
/// A copy that is claimed is challenged once nothing moved for so long, so that a busy folder is not
/// audited at each cut.
const SETTLED: Duration = Duration::from_secs(5);
/// In a folder where something always moves nothing settles: there a seeder is challenged in the midst of it, once its
/// last proof is this old.
pub(super) const BUSY_MS: u64 = 60 * 1000;

pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Outcome<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| Problem::failed(format!("A thread cannot be started: {error}.")))
}

/// Starts the thread that watches local state.
pub(crate) fn start_keeper(daemon: &Arc<Daemon>) -> Outcome<JoinHandle<()>> {
    let daemon = Arc::clone(daemon);
    spawn("keeper", move || {
        while !daemon.is_ending() {
            let seen = daemon.home.store().watch().seen();
            daemon.answer_joins();
            daemon.answer_seeds();
            daemon.read_papers();
            for state in daemon.folders() {
                if let Err(problem) = keep(&daemon, &state) {
                    tracing::warn!(folder = %state.folder.id(), %problem, "will be tried again");
                }
            }
            std::thread::sleep(KEEPER_PAUSE);
            let _ = daemon.home.store().watch().wait(seen, TICK);
        }
    })
}

fn keep(daemon: &Arc<Daemon>, state: &Arc<FolderState>) -> Outcome<()> {
    if daemon.renew(state)? || daemon.take_over(state)? {
        return Ok(());
    }
    daemon.tend(state)?;
    daemon.tell_network(state)?;
    daemon.note_told(state)?;
    daemon.keep_contacts(state)?;
    if let Some(vfs) = state.vfs() {
        let peers = daemon.node.status(state.no())?.peers;
        let connected = peers.iter().any(|peer| peer.session == SessionState::Open);
        vfs.set_connected(if connected { Link::Up } else { Link::Down });
    }
    Ok(())
}

/// Starts the thread that reads what is stored for damage, a little at a time.
pub(crate) fn start_patrol(daemon: &Arc<Daemon>) -> Outcome<JoinHandle<()>> {
    let daemon = Arc::clone(daemon);
    let pace = Pace { every: patrol::DEVICE_EVERY, bytes_per_s: patrol::BYTES_PER_S };
    spawn("patrol", move || patrol::walk(daemon.home.store(), pace, &|| daemon.is_ending()))
}

/// Starts the thread that asks seeders.
pub(crate) fn start_courier(daemon: &Arc<Daemon>) -> Outcome<JoinHandle<()>> {
    let daemon = Arc::clone(daemon);
    spawn("courier", move || {
        let mut moved = std::collections::BTreeMap::new();
        while !daemon.is_ending() {
            for state in daemon.folders() {
                let heads = state.folder.store().log_heads(state.no()).unwrap_or_default();
                let since = moved.entry(state.no()).or_insert_with(|| (heads.clone(), Instant::now()));
                if since.0 != heads {
                    *since = (heads, Instant::now());
                }
                let settled = since.1.elapsed() >= SETTLED;
                if let Err(problem) = visit(&daemon, &state, settled) {
                    tracing::debug!(folder = %state.folder.id(), %problem, "seeders were not visited");
                }
            }
            std::thread::sleep(TICK);
        }
    })
}

fn visit(daemon: &Daemon, state: &FolderState, settled: bool) -> Outcome<()> {
    let peers = daemon.node.status(state.no())?.peers;
    let live = state.live_set()?;
    for (peer_id, grant) in grants(state)? {
        let open = peers.iter().find(|peer| peer.peer == peer_id && peer.session == SessionState::Open);
        note_session(state, peer_id, open);
        if let Err(problem) = state.note_loss(peer_id, &live, open) {
            tracing::warn!(%problem, "what a seeder lost cannot be kept in mind");
        }
        state.note_covered(peer_id, &live)?;
        let Some(peer) = open.filter(|_| !daemon.is_ending()) else { continue };
        if wants_locator(daemon, state, peer_id)
            && let Err(problem) = renew(daemon, state, peer_id, &address_of(&grant))
        {
            tracing::warn!(%problem, "a seeder has no newest locator yet");
        }
        if wants_audit(state, peer, settled)? {
            let _ =
                daemon.audit(state, peer_id).map_err(|problem| tracing::warn!(%problem, "an audit failed"));
        }
    }
    Ok(())
}

/// What was given over an earlier session may be gone: the seeder's disk may be a new one.
fn note_session(state: &FolderState, peer_id: PeerId, open: Option<&PeerStatus>) {
    let mut seeders = state.seeders.lock();
    let notes = seeders.entry(peer_id).or_default();
    if open.is_some() && !notes.was_open {
        notes.done = Done::default();
        notes.unlike = None;
    }
    notes.was_open = open.is_some();
    notes.lack = open.and_then(Lack::told);
    notes.lacks = open.is_some_and(|peer| peer.has_told() && !peer.is_caught_up());
}

/// Leaves the locator with a seeder of the folder, whatever it was given before.
pub(crate) fn renew_locator(daemon: &Daemon, state: &FolderState, peer_id: PeerId) -> Outcome<()> {
    match grants(state)?.into_iter().find(|(granted, _)| *granted == peer_id) {
        Some((_, grant)) => renew(daemon, state, peer_id, &address_of(&grant)),
        None => Ok(()),
    }
}

fn renew(daemon: &Daemon, state: &FolderState, peer_id: PeerId, seeder: &SeederAddress) -> Outcome<()> {
    let version = daemon.locator_version.load(Ordering::SeqCst);
    let started = Instant::now();
    let left = leave_locator(daemon, seeder);
    let mut seeders = state.seeders.lock();
    let done = &mut seeders.entry(peer_id).or_default().done;
    done.locator_tried = Some(started);
    if left.is_ok() {
        done.locator = Some((version, started));
    }
    left
}

/// Replaces the locator that a seeder keeps: another device of the member may have left it, and joined
/// folders that this one has not.
fn leave_locator(daemon: &Daemon, seeder: &SeederAddress) -> Outcome<()> {
    let older = daemon.node.locator_fetch(seeder, daemon.home.locator_keys().id())?;
    let locator = daemon.home.locator_make_over(older.as_ref())?;
    Ok(daemon.node.locator_publish(seeder, &locator)?)
}

fn due(last: Option<Instant>) -> bool {
    last.is_none_or(|last| last.elapsed() >= RETRY)
}

fn wants_locator(daemon: &Daemon, state: &FolderState, peer_id: PeerId) -> bool {
    let seeders = state.seeders.lock();
    let Some(notes) = seeders.get(&peer_id) else { return true };
    let newest = daemon.locator_version.load(Ordering::SeqCst);
    // A new version is offered at once; only a failure waits.
    match notes.done.locator {
        Some((version, _)) => version != newest,
        None => due(notes.done.locator_tried),
    }
}

fn wants_audit(state: &FolderState, peer: &PeerStatus, settled: bool) -> Outcome<bool> {
    let tried = state.seeders.lock().get(&peer.peer).and_then(|notes| notes.audit_tried);
    if !peer.is_caught_up() || !due(tried) {
        return Ok(false);
    }
    let kept = state.receipt(peer.peer)?;
    let live = state.live_set()?;
    let access = state.folder.store().access(state.no())?;
    let agreed = access.agreement(&peer.peer.to_bytes()).map(|agreed| agreed.signed.terms.audit_ms);
    // The rhythm that was agreed on, where it is quicker than the folder's own.
    let renewal_ms = state.policy().renewal_ms().min(agreed.unwrap_or(u64::MAX));
    let kept = kept.filter(|kept| kept.receipt.is_whole());
    let proof = kept.map(|kept| Proof { at_ms: kept.at_ms, covers: covers(&kept.receipt, &live) });
    Ok(is_time(proof, settled, renewal_ms, now_ms()))
}

/// The last proof of a seeder, which lacked nothing then.
#[derive(Clone, Copy)]
struct Proof {
    at_ms: u64,
    /// Whether it is one of all that is live now.
    covers: bool,
}

/// Whether a seeder that says it holds everything is to be challenged. A busy folder is not left without proofs: what is
/// proved there is what the seeder held at that time.
fn is_time(proof: Option<Proof>, settled: bool, renewal_ms: u64, now_ms: u64) -> bool {
    let Some(proof) = proof else { return true };
    let age_ms = now_ms.abs_diff(proof.at_ms);
    if proof.covers { age_ms >= renewal_ms } else { settled || age_ms >= BUSY_MS.min(renewal_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENEWAL_MS: u64 = 24 * 60 * 60 * 1000;
    const START_MS: u64 = 1_000 * RENEWAL_MS;

    /// Looks each half second for `span_ms` at a folder in which something is written each `pause_ms`, and which the
    /// seeder has at once: when it is challenged, in milliseconds from the start.
    fn challenges(mut proof: Option<Proof>, pause_ms: u64, span_ms: u64) -> Vec<u64> {
        let (mut moved_ms, mut found) = (0, Vec::new());
        for at_ms in (0..span_ms).step_by(500) {
            if at_ms % pause_ms == 0 {
                moved_ms = at_ms;
                proof = proof.map(|proof| Proof { covers: false, ..proof });
            }
            let settled = u128::from(at_ms - moved_ms) >= SETTLED.as_millis();
            if is_time(proof, settled, RENEWAL_MS, START_MS + at_ms) {
                proof = Some(Proof { at_ms: START_MS + at_ms, covers: true });
                found.push(at_ms);
            }
        }
        found
    }

    #[test]
    fn folder_that_is_written_to_without_a_pause_is_proved_each_minute() {
        assert_eq!(challenges(None, 1_500, 180_000), [0, 60_000, 120_000]);
        let proof = Some(Proof { at_ms: START_MS, covers: true });
        assert_eq!(challenges(proof, 1_500, 100_000), [60_000]);
    }

    #[test]
    fn folder_that_comes_to_rest_is_proved_once_it_has() {
        let proof = Some(Proof { at_ms: START_MS, covers: true });
        assert_eq!(challenges(proof, 30_000, 60_000), [5_000, 35_000]);
        let (at_ms, now_ms) = (START_MS, START_MS + RENEWAL_MS);
        assert!(!is_time(Some(Proof { at_ms, covers: true }), true, RENEWAL_MS, now_ms - 1));
        assert!(is_time(Some(Proof { at_ms, covers: true }), true, RENEWAL_MS, now_ms));
        // One that is renewed each minute anyhow is not asked more often.
        assert!(!is_time(Some(Proof { at_ms, covers: false }), false, 30_000, at_ms + 29_999));
        assert!(is_time(Some(Proof { at_ms, covers: false }), false, 30_000, at_ms + 30_000));
    }
}
