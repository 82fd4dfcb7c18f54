//! What an access log amounts to, once it is known which of its deeds count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::access::{Access, InviteState, LogEnd};
use super::contracts;
use super::graph::{Bits, Graph, Node, Nth};
use super::resolve::{Scope, View, decide, is_void};
use crate::format::access::{Act, Device, NewEpoch, Role, SeederGrant};
use crate::format::entry::LogHead;
use crate::format::membership::OpenInvite;
use crate::format::release::{Call, Release};
use crate::format::seeding::CopiesPolicy;
use crate::id::{EpochId, FolderId, InviteKey, KemKey, LogId, RecordHash};

/// Epochs with the parents of their records.
pub(super) type Epochs = BTreeMap<EpochId, (Arc<NewEpoch>, Vec<RecordHash>)>;

/// What records say at length, shared by all states that follow from them.
pub(super) struct Given<'a> {
    pub(super) epochs: &'a Epochs,
    pub(super) calls: &'a BTreeMap<RecordHash, Arc<Call>>,
    pub(super) releases: &'a BTreeMap<RecordHash, Arc<Release>>,
}

/// The resolved state.
pub(super) fn summarise(
    folder: FolderId,
    graph: &Graph,
    counts: &[bool],
    heads: Vec<RecordHash>,
    given: &Given<'_>,
) -> Access {
    let view = View { graph, seen: None, counts };
    let (devices, former) = people(graph, &view);
    let members: BTreeMap<_, _> =
        graph.by_member.keys().filter_map(|member| Some((*member, view.member(member)?))).collect();
    let ends = ends(graph, counts, &devices);
    let insiders: BTreeSet<KemKey> =
        devices.values().map(|device| device.kem).chain(members.values().map(|member| member.kem)).collect();
    let is_ours = |node: &Node| {
        matches!(node.act(), Act::NewEpoch(epoch)
            if devices.contains_key(&LogId(*node.author()))
                && epoch.boxes.iter().all(|sealed| insiders.contains(&sealed.recipient)))
    };
    let epoch_heads = uppermost(graph);
    let (seeders, revoked) = seeders(graph, counts);
    // What an epoch builds on is wrapped under it, so only the uppermost can be for nobody else.
    let ours = |id: &&EpochId| graph.nth(&RecordHash(id.0)).is_some_and(|nth| is_ours(&graph.nodes[nth]));
    let odd = |id: &&EpochId| graph.nth(&RecordHash(id.0)).is_some_and(|nth| !is_for_everyone(graph, nth));
    Access {
        folder,
        odd_epochs: epoch_heads.iter().filter(odd).copied().collect(),
        genesis: graph.nodes.first().expect("a log begins with its genesis").record.clone(),
        ends,
        former,
        members,
        seeders,
        revoked,
        agreements: contracts::agreements(graph, counts),
        proposals: contracts::proposals(graph, counts),
        policy: policy(graph, counts),
        seed_codes: contracts::seed_codes(graph, counts),
        calls: those_that_count(graph, counts, given.calls),
        releases: those_that_count(graph, counts, given.releases),
        invites: invites(graph, counts),
        epochs: given.epochs.clone(),
        heads,
        sealing: epoch_heads.iter().filter(ours).copied().collect(),
        devices,
        epoch_heads,
    }
}

fn people(graph: &Graph, view: &View<'_>) -> (BTreeMap<LogId, Device>, BTreeMap<LogId, Device>) {
    let (mut devices, mut former) = (BTreeMap::new(), BTreeMap::new());
    for (log, deeds) in &graph.by_log {
        let first = deeds.iter().map(|deed| graph.node(*deed)).min_by_key(|node| node.place());
        let counted = view.device(log);
        let Some(device) = counted.or_else(|| first.and_then(Node::device)) else { continue };
        match view.role(log) {
            Some(role) => devices.insert(*log, Device { role, ..device.clone() }),
            None => former.insert(*log, device.clone()),
        };
    }
    (devices, former)
}

/// Where logs end whose devices may not write: as far as the remover or anyone who stays had them.
fn ends(graph: &Graph, counts: &[bool], devices: &BTreeMap<LogId, Device>) -> BTreeMap<LogId, LogEnd> {
    let writes = |log: &LogId| devices.get(log).is_some_and(|device| device.role >= Role::Write);
    let mut ends: BTreeMap<LogId, LogEnd> = BTreeMap::new();
    let mut add = |last: &LogHead| {
        if writes(&last.log) || last.seq == 0 {
            return;
        }
        let end = ends.entry(last.log).or_default();
        if last.seq > end.seq {
            *end = LogEnd { seq: last.seq, hashes: BTreeSet::new() };
        }
        if last.seq == end.seq {
            end.hashes.insert(last.hash);
        }
    };
    for (nth, node) in graph.nodes.iter().enumerate() {
        let counted = node.deed.is_some_and(|deed| counts[deed]);
        match node.act() {
            Act::RemoveDevice { last } if counted => add(last),
            Act::RemoveMember { logs, .. } | Act::SetRole { logs, .. } if counted => {
                logs.iter().for_each(&mut add);
            }
            Act::Vouch { last } => {
                let view = View { graph, seen: Some(&node.seen), counts };
                if view.role(&LogId(*node.author())).is_some() && !is_void(graph, counts, nth) {
                    add(last);
                }
            }
            _ => {}
        }
    }
    ends
}

/// The last in the order of folding.
fn policy(graph: &Graph, counts: &[bool]) -> Option<CopiesPolicy> {
    graph.canonical.iter().rev().filter(|deed| counts[**deed]).find_map(|deed| {
        match graph.node(*deed).act() {
            Act::Policy(policy) => Some(*policy),
            _ => None,
        }
    })
}

type Granted = Vec<(RecordHash, SeederGrant)>;

/// Grants that were not revoked, in the order of folding, and of each seeder that has none left the latest
/// one with the time of its revocation. Of a grant and a revocation that knew nothing of each other the
/// revocation counts.
fn seeders(graph: &Graph, counts: &[bool]) -> (Granted, Vec<(u64, SeederGrant)>) {
    let counted = || graph.canonical.iter().filter(|deed| counts[**deed]);
    let mut standing = Granted::new();
    let mut fallen: BTreeMap<Vec<u8>, (u64, SeederGrant)> = BTreeMap::new();
    for deed in counted() {
        let node = graph.node(*deed);
        let Some(grant) = node.act().grant() else { continue };
        let revoked = counted().filter(|other| !node.seen.get(**other)).find_map(|other| {
            let content = graph.node(*other).record.content();
            let names = matches!(&content.act, Act::RevokeSeeder { peer_id } if *peer_id == grant.peer_id);
            names.then_some(content.issued_ms)
        });
        match revoked {
            Some(at_ms) => drop(fallen.insert(grant.peer_id.clone(), (at_ms, grant.clone()))),
            None => standing.push((node.hash, grant.clone())),
        }
    }
    standing.iter().for_each(|(_, grant)| drop(fallen.remove(&grant.peer_id)));
    (standing, fallen.into_values().collect())
}

/// Of acts of one kind those that count.
fn those_that_count<T>(
    graph: &Graph,
    counts: &[bool],
    all: &BTreeMap<RecordHash, Arc<T>>,
) -> BTreeMap<RecordHash, Arc<T>> {
    let counted = |hash: &RecordHash| {
        graph.nth(hash).and_then(|nth| graph.nodes[nth].deed).is_some_and(|deed| counts[deed])
    };
    all.iter().filter(|(hash, _)| counted(hash)).map(|(hash, act)| (*hash, Arc::clone(act))).collect()
}

fn invites(graph: &Graph, counts: &[bool]) -> BTreeMap<InviteKey, (OpenInvite, InviteState)> {
    let mut invites = BTreeMap::new();
    for (invite, deeds) in &graph.by_invite {
        let mut open = None;
        let mut used = None;
        let (mut voided, mut redeemed) = (false, false);
        for deed in deeds {
            let node = graph.node(*deed);
            match node.act() {
                Act::OpenInvite(act) if counts[*deed] => {
                    let earlier = open.as_ref().is_none_or(|(place, _)| node.place() < *place);
                    open = if earlier { Some((node.place(), act.clone())) } else { open };
                }
                Act::VoidInvite { .. } if counts[*deed] => voided = true,
                Act::Redeem { device, .. } if counts[*deed] => used = Some(device.log),
                Act::Redeem { .. } => redeemed = true,
                _ => {}
            }
        }
        let state = match used {
            Some(log) => InviteState::Used(log),
            None if voided => InviteState::Void,
            None if redeemed => InviteState::Clashed,
            None => InviteState::Open,
        };
        if let Some((_, open)) = open {
            invites.insert(*invite, (open, state));
        }
    }
    invites
}

/// Whether an epoch's boxes are for the devices and members of what its record builds on.
fn is_for_everyone(graph: &Graph, nth: Nth) -> bool {
    let node = &graph.nodes[nth];
    let Act::NewEpoch(epoch) = node.act() else { return true };
    let bounded = graph.bounds.iter().any(|bound| node.seen.get(bound.deed));
    let past = if bounded { graph.past_of(&node.parents) } else { Bits::default() };
    let counts = decide(graph, Scope::Past(&node.seen, &past));
    let view = View { graph, seen: Some(&node.seen), counts: &counts };
    let listed = graph.by_log.keys().filter(|log| view.role(log).is_some());
    let devices = listed.filter_map(|log| view.device(log)).map(|device| device.kem);
    let members = graph.by_member.keys().filter_map(|member| view.member(member)).map(|member| member.kem);
    let expected: BTreeSet<KemKey> = devices.chain(members).collect();
    epoch.boxes.iter().map(|sealed| sealed.recipient).eq(expected)
}

/// Epochs that no epoch builds on, ascending.
fn uppermost(graph: &Graph) -> Vec<EpochId> {
    let mut below = vec![false; graph.nodes.len()];
    let mut found = Vec::new();
    for nth in (0..graph.nodes.len()).rev() {
        let node = &graph.nodes[nth];
        let named = matches!(node.act(), Act::NewEpoch(_));
        if named && !below[nth] {
            found.push(EpochId(node.hash.0));
        }
        if named || below[nth] {
            node.parents.iter().for_each(|parent: &Nth| below[*parent] = true);
        }
    }
    found.sort_unstable();
    found
}
