//! What is local, on its way, claimed and proved: for `status`, `.cobox/status.json` and `user.cobox.*`.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};

use cobox_fs::vfs::{FileState, StatusSource, Vfs};
use cobox_net::agreement::{AgreementView, Stage};
use cobox_net::{Path, PeerId, PeerKind, PeerStatus, SessionState, Transport};
use cobox_store::blind::PackState;
use cobox_store::blind::tables::{Table, key};
use cobox_store::format::access::SeederGrant;
use cobox_store::format::address::SeederAddress;
use cobox_store::id::PackId;

use super::folder::FolderState;
use super::let_go;
use super::policy::Age;
use super::proof::{LiveSet, covers, still_holds};
use super::{Daemon, now_ms};
use crate::exit::Outcome;
use crate::report::{
    FolderKey, FolderReport, Holding, KeyReport, LocalReport, PeerReport, SeederReport, StatusReport,
};

impl Daemon {
    /// Everything about the chosen folders.
    pub fn status(&self, folder: Option<&str>) -> Outcome<StatusReport> {
        let folders = self.chosen(folder)?;
        Ok(StatusReport {
            label: self.home.label(),
            peer_id: self.node.peer_id().to_string(),
            disk_free_bytes: self.home.store().disk()?.free_bytes,
            folders: folders.iter().map(|state| self.folder_report(state)).collect::<Outcome<_>>()?,
        })
    }

    /// Everything about one folder.
    pub fn folder_report(&self, state: &FolderState) -> Outcome<FolderReport> {
        self.folder_report_at(state, now_ms())
    }

    /// The same as it would be at another time.
    pub fn folder_report_at(&self, state: &FolderState, now_ms: u64) -> Outcome<FolderReport> {
        let live = live_now(state)?;
        let (policy, policy_of) = state.policy_and_whose();
        let peers = self.node.status(state.no())?.peers;
        let seeders: Vec<SeederReport> = grants(state)?
            .into_iter()
            .map(|(peer_id, grant)| {
                let peer = peers.iter().find(|peer| peer.peer == peer_id);
                seeder_report(state, &live, peer_id, &grant, peer, now_ms)
            })
            .collect::<Outcome<_>>()?;
        let count = |wanted: fn(Holding) -> bool| {
            u32::try_from(seeders.iter().filter(|seeder| wanted(seeder.holding)).count()).unwrap_or(u32::MAX)
        };
        Ok(FolderReport {
            name: state.folder.name(),
            id: state.folder.id().to_hex(),
            removed: state.folder.role()?.is_none(),
            mount: state.mount_report(),
            conflicts: state.conflicts_open()?,
            alarms: state
                .alarms()?
                .into_iter()
                .chain(super::agreements::alarms(state)?)
                .chain(state.watch.lock().alarms())
                .collect(),
            local: local_report(state, &live, packs_lost(state, &live, &seeders)?),
            copies_claimed: count(|holding| {
                holding.is_proved() || matches!(holding, Holding::Claimed | Holding::Following)
            }),
            copies_proved: count(Holding::is_proved),
            copies_late: count(|holding| holding == Holding::Late),
            copies_wanted: policy.copies,
            tolerance_ms: policy.tolerance_ms,
            policy_of,
            proved_at_ms: newest_proof(&seeders),
            devices: device_reports(state, &peers),
            seeders,
        })
    }

    /// The public side of the keys.
    pub fn keys(&self) -> KeyReport {
        let unlock = match self.unlocked_by {
            super::UnlockedBy::Passphrase => "passphrase",
            super::UnlockedBy::KeyFile => "key-file",
        };
        let folders = self.folders();
        KeyReport {
            label: self.home.label(),
            peer_id: self.node.peer_id().to_string(),
            unlock: unlock.to_owned(),
            folders: folders
                .iter()
                .map(|state| FolderKey {
                    name: state.folder.name(),
                    id: state.folder.id().to_hex(),
                    log: state.folder.log().to_hex(),
                })
                .collect(),
        }
    }
}

/// When a seeder last proved something. Also where no copy counts now: "never" would be said of a folder that was proved
/// a minute ago and written to since.
fn newest_proof(seeders: &[SeederReport]) -> Option<u64> {
    seeders.iter().filter_map(|seeder| seeder.proved_at_ms).max()
}

/// The newest grant of each seeder, with the peer id that the network knows it by.
pub(crate) fn grants(state: &FolderState) -> Outcome<Vec<(PeerId, SeederGrant)>> {
    let access = state.folder.store().access(state.no())?;
    let mut found: Vec<(PeerId, SeederGrant)> = Vec::new();
    for (_, grant) in &access.seeders {
        let Some(peer_id) = PeerId::from_bytes(&grant.peer_id) else { continue };
        if found.iter().any(|(known, _)| *known == peer_id) {
            continue;
        }
        found.push((peer_id, access.seeder(&grant.peer_id).unwrap_or(grant).clone()));
    }
    Ok(found)
}

/// The address in a grant.
pub(crate) fn address_of(grant: &SeederGrant) -> SeederAddress {
    SeederAddress { peer_id: grant.peer_id.clone(), kem: grant.kem, addresses: grant.addresses.clone() }
}

/// The live packs; scanned again when a pack that was here turned out damaged, which moves no head.
fn live_now(state: &FolderState) -> Outcome<Arc<LiveSet>> {
    let live = state.live_set()?;
    if live.missing > 0 || state.folder.store().packs_missing(state.no(), None, 1)?.is_empty() {
        return Ok(live);
    }
    *state.live.lock() = None;
    state.live_set()
}

/// How many live packs are not wholly here while no seeder is known to hold them: none that proved or
/// claims the whole folder, and none that proved these packs since the daemon began. While a seeder is not heard, only
/// what was damaged here counts: a device that never had the others cannot say that nobody has them.
fn packs_lost(state: &FolderState, live: &LiveSet, seeders: &[SeederReport]) -> Outcome<u64> {
    if live.missing == 0 || seeders.iter().any(SeederReport::may_have_all) {
        return Ok(0);
    }
    let granted: Vec<PeerId> = grants(state)?.into_iter().map(|(peer_id, _)| peer_id).collect();
    let notes = state.seeders.lock();
    let proved: Vec<_> =
        granted.iter().filter_map(|peer_id| Some(notes.get(peer_id)?.proved.clone()?.0)).collect();
    drop(notes);
    let unheard = seeders.iter().any(|seeder| !seeder.told);
    let damaged = damaged(state)?;
    let mut lost = 0;
    state.folder.store().packs_live(state.no(), &mut |pack, here| {
        let held = proved.iter().any(|live| live.packs.contains(&pack.id));
        let counts = !unheard || damaged.contains(&pack.id);
        lost += u64::from(here == PackState::Missing && !held && counts);
    })?;
    Ok(lost)
}

/// Packs that were here and turned out damaged.
pub(super) fn damaged(state: &FolderState) -> Outcome<BTreeSet<PackId>> {
    let mut found = BTreeSet::new();
    state.folder.store().db().scan(&key(state.no(), Table::Damaged, &[]), &[], &mut |pack, _| {
        found.extend(<[u8; 32]>::try_from(pack).ok().map(PackId));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn local_report(state: &FolderState, live: &LiveSet, packs_lost: u64) -> LocalReport {
    let stats = state.vfs().map(|vfs| vfs.stats()).unwrap_or_default();
    LocalReport {
        entries: live.heads.iter().map(|head| head.seq).sum(),
        packs: u64::try_from(live.packs.len()).unwrap_or(u64::MAX),
        pack_bytes: live.pack_bytes,
        packs_missing: live.missing,
        packs_lost,
        dirty_bytes: stats.dirty_bytes,
        pending_ops: stats.pending_ops,
    }
}

/// What is said of a seeder with which nothing is agreed any more.
const OVER: &str = "What was agreed with this seeder has ended: it takes nothing new, and removes the folder by its own clock. \
     Agree on something new with `cobox-ctl agreement propose`, or add another seeder.";

fn seeder_report(
    state: &FolderState,
    live: &LiveSet,
    peer_id: PeerId,
    grant: &SeederGrant,
    peer: Option<&PeerStatus>,
    now_ms: u64,
) -> Outcome<SeederReport> {
    let standing = state.standing(peer_id, live, peer, now_ms)?;
    let access = state.folder.store().access(state.no())?;
    let agreed = access.agreement(&grant.peer_id);
    let (quota_bytes, until_ms) = super::agreements::limits(grant, agreed);
    let terms = agreed.map(|agreed| &agreed.signed.terms);
    let said = |text: fn(&cobox_store::format::agreement::Terms) -> &String| {
        terms.map(text).filter(|text| !text.is_empty()).cloned()
    };
    let noted = state.seeders.lock().get(&peer_id).and_then(|notes| notes.problem.clone());
    let gone_ms = let_go::gone_ms(state, peer_id)?;
    let is_over =
        agreed.is_some_and(|agreed| AgreementView::agreed(agreed, &access, now_ms).stage == Stage::Ended);
    let over = is_over.then(|| OVER.to_owned());
    let full = peer.filter(|peer| peer.full).map(|_| {
        "The seeder cannot take more: its quota or its disk is full. Grant a larger --quota, or add another seeder."
            .to_owned()
    });
    Ok(SeederReport {
        peer_id: peer_id.to_string(),
        address: address_of(grant).to_text(),
        quota_bytes,
        until_ms,
        place: said(|terms| &terms.place),
        organisation: said(|terms| &terms.organisation),
        contact: said(|terms| &terms.contact),
        agreement: agreed.map(|agreed| agreed.signed.terms.hash().to_hex()),
        link: link(peer).to_owned(),
        problem: gone_ms
            .map(let_go::sentence)
            .or(over)
            .or(full)
            .or_else(|| peer.and_then(|peer| peer.error.clone()))
            .or(noted),
        rtt_ms: peer.and_then(|peer| peer.rtt_ms),
        path: peer.and_then(path_text),
        told: peer.is_some_and(PeerStatus::has_told),
        entries_behind: peer.map_or(0, |peer| peer.entries_behind),
        packs_to_send: peer.map_or(0, |peer| peer.packs_to_send),
        bytes_to_send: peer.map_or(0, |peer| peer.bytes_to_send),
        bytes_sent: peer.map_or(0, |peer| peer.bytes_sent),
        rate: peer.map_or(0, |peer| peer.rate),
        holding: standing.holding,
        proved_at_ms: standing.proved_at_ms,
        gone_ms,
        heard_at_ms: state.watch.lock().heard_at(&peer_id.to_string()),
    })
}

/// Peers that are no seeders: those that the access log lists as devices, and those that are still to say.
fn device_reports(state: &FolderState, peers: &[PeerStatus]) -> Vec<PeerReport> {
    let others = peers.iter().filter(|peer| peer.kind != PeerKind::Seeder);
    let report = |peer: &PeerStatus| PeerReport {
        peer_id: peer.peer.to_string(),
        label: peer.log.and_then(|log| state.folder.label_of(&log)),
        link: link(Some(peer)).to_owned(),
        problem: peer.error.clone().or_else(|| peer.note.clone()),
        path: path_text(peer),
        since_ms: peer.since_ms,
        rtt_ms: peer.rtt_ms,
        entries_behind: if peer.session == SessionState::Open { peer.entries_behind } else { 0 },
        entries_to_receive: peer.entries_to_receive,
        bytes_sent: peer.bytes_sent,
        bytes_received: peer.bytes_received,
    };
    others.map(report).collect()
}

fn link(peer: Option<&PeerStatus>) -> &'static str {
    match peer.map(|peer| peer.session) {
        None | Some(SessionState::Offline) => "offline",
        Some(SessionState::Opening) => "connecting",
        Some(SessionState::Pending) => "pending",
        Some(SessionState::Refused) => "refused",
        Some(SessionState::Restricted) => "restricted",
        Some(SessionState::Open) => "connected",
    }
}

fn path_text(peer: &PeerStatus) -> Option<String> {
    let path = match peer.path {
        Path::None => return None,
        Path::Direct => "direct",
    };
    let transport = match peer.transport {
        Some(Transport::Tcp) => " over TCP",
        Some(Transport::Quic) => " over QUIC",
        None => "",
    };
    Some(format!("{path}{transport}"))
}

/// What a mount shows about itself. Weak, because the daemon owns the mount.
pub(crate) struct FolderStatusSource {
    daemon: Weak<Daemon>,
    folder: Weak<FolderState>,
}

impl FolderStatusSource {
    pub fn new(daemon: &Arc<Daemon>, folder: &Arc<FolderState>) -> Self {
        Self { daemon: Arc::downgrade(daemon), folder: Arc::downgrade(folder) }
    }
}

/// A seeder that proved all packs of a file, in a proof that counts, and when.
struct Holder {
    peer_id: PeerId,
    proved_at_ms: u64,
}

/// Who holds a file: by the same rule as the folder's copies, or by a proof of its packs before newer
/// entries came.
fn holders_of(state: &FolderState, packs: &[PackId], now_ms: u64) -> Outcome<Vec<Holder>> {
    let live = state.live_set()?;
    let policy = state.policy();
    let counts = |at_ms: &u64| policy.age(*at_ms, now_ms) != Age::Expired;
    let mut holders = Vec::new();
    for (peer_id, _) in grants(state)? {
        if let_go::gone_ms(state, peer_id)?.is_some() {
            continue;
        }
        let noted =
            state.seeders.lock().get(&peer_id).map(|notes| (notes.lacks, notes.lack, notes.proved.clone()));
        let (lacks, lack, proved) = noted.unwrap_or_default();
        let kept = state.receipt(peer_id)?.filter(|kept| !lacks && covers(&kept.receipt, &live));
        let earlier = || {
            let (proved, at_ms) = proved?;
            still_holds(&proved, &live, lack, packs).then_some(at_ms)
        };
        let proved_at_ms = kept.map(|kept| kept.at_ms).filter(counts).or_else(|| earlier().filter(counts));
        holders.extend(proved_at_ms.map(|proved_at_ms| Holder { peer_id, proved_at_ms }));
    }
    Ok(holders)
}

impl StatusSource for FolderStatusSource {
    fn status_json(&self) -> String {
        let (Some(daemon), Some(folder)) = (self.daemon.upgrade(), self.folder.upgrade()) else {
            return "{}\n".to_owned();
        };
        let report = daemon.folder_report(&folder).map_err(|problem| tracing::warn!(%problem, "no status"));
        let text = report.ok().and_then(|report| serde_json::to_string_pretty(&report).ok());
        text.map_or_else(|| "{}\n".to_owned(), |text| text + "\n")
    }

    fn conflicts_text(&self, vfs: &Vfs) -> String {
        let report = self.folder.upgrade().and_then(|folder| folder.conflicts(vfs).ok());
        report.map_or_else(String::new, |report| crate::render::conflicts::folder(&report))
    }

    fn conflicts_json(&self, vfs: &Vfs) -> String {
        let report = self.folder.upgrade().and_then(|folder| folder.conflicts(vfs).ok());
        let text = report.and_then(|report| serde_json::to_string_pretty(&report).ok());
        text.map_or_else(|| "{}\n".to_owned(), |text| text + "\n")
    }

    fn xattr(&self, name: &str, packs: &[PackId], state: FileState) -> Option<Vec<u8>> {
        let folder = self.folder.upgrade()?;
        let holders = match state {
            FileState::Dirty => Vec::new(),
            _ => holders_of(&folder, packs, now_ms()).ok()?,
        };
        let text = match name {
            "state" => match (state, holders.len()) {
                (FileState::Dirty, _) => "local".to_owned(),
                (FileState::Local, 0) => "on its way".to_owned(),
                (FileState::Local, _) => "proved".to_owned(),
                (FileState::Absent, _) => "elsewhere".to_owned(),
            },
            "copies" => holders.len().to_string(),
            "proved_at" => {
                holders.iter().map(|holder| holder.proved_at_ms).max().map(crate::render::units::time)?
            }
            "holders" => {
                holders.iter().map(|holder| format!("{} {}\n", holder.peer_id, holder.proved_at_ms)).collect()
            }
            _ => return None,
        };
        Some(text.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_proof_is_told_also_where_no_copy_counts_now() {
        let seeder = |holding: &str, proved_at_ms: Option<u64>| -> SeederReport {
            serde_json::from_value(serde_json::json!({
                "peer_id": "12D3", "address": "", "quota_bytes": 1, "until_ms": 0, "link": "connected", "rtt_ms": null,
                "path": null, "entries_behind": 1, "packs_to_send": 0, "bytes_to_send": 0, "bytes_sent": 0, "rate": 0,
                "holding": holding, "proved_at_ms": proved_at_ms,
            }))
            .expect("a report")
        };
        let told = [seeder("behind", Some(7)), seeder("claimed", Some(9)), seeder("behind", None)];
        assert_eq!(newest_proof(&told), Some(9));
        assert_eq!(newest_proof(&[seeder("behind", None)]), None);
    }
}
