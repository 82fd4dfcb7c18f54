//! What an access log amounts to, once it is known which of its deeds count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::access::{Access, InviteState, LogEnd};
use super::contracts;
use super::graph::{Bits, Graph, Node, Nth, Target};
use super::resolve::{Scope, View, decide, is_void};
use crate::format::access::{Act, Device, NewEpoch, Role, SeederGrant};
use crate::format::entry::LogHead;
use crate::format::membership::OpenInvite;
use crate::format::release::{Call, Release};
use crate::format::seeding::CopiesPolicy;
use crate::id::{EntryHash, EpochId, FolderId, InviteKey, KemKey, LogId, RecordHash};

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
    let (ends, named) = ends(graph, counts, &devices);
    let releases = those_that_count(graph, counts, given.releases);
    let mut calls = those_that_count(graph, counts, given.calls);
    retire(graph, counts, (&devices, &former), &mut calls, &releases);
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
        named,
        former,
        members,
        seeders,
        revoked,
        agreements: contracts::agreements(graph, counts),
        proposals: contracts::proposals(graph, counts),
        policy: policy(graph, counts),
        seed_codes: contracts::seed_codes(graph, counts),
        calls,
        releases,
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

/// Entries that a Vouch may carry a log beyond the end that the removal said: five a second without a pause, for
/// some five weeks of which the remover saw nothing. Without it, one word would leave a log open for ever
/// (format.md §4.7).
const VOUCHED_MAX: u64 = 1 << 24;

type Named = BTreeMap<LogId, BTreeSet<(u64, EntryHash)>>;

/// Where logs end whose devices may not write: as far as the remover or anyone who stays had them. And all that
/// those named.
fn ends(
    graph: &Graph,
    counts: &[bool],
    devices: &BTreeMap<LogId, Device>,
) -> (BTreeMap<LogId, LogEnd>, Named) {
    let writes = |log: &LogId| devices.get(log).is_some_and(|device| device.role >= Role::Write);
    let (mut told, mut vouched): (Vec<&LogHead>, Vec<&LogHead>) = (Vec::new(), Vec::new());
    for (nth, node) in graph.nodes.iter().enumerate() {
        let counted = node.deed.is_some_and(|deed| counts[deed]);
        match node.act() {
            Act::RemoveDevice { last } if counted => told.push(last),
            Act::RemoveMember { logs, .. } | Act::SetRole { logs, .. } if counted => told.extend(logs),
            Act::Vouch { last } => {
                let view = View { graph, seen: Some(&node.seen), counts };
                if view.role(&LogId(*node.author())).is_some() && !is_void(graph, counts, nth) {
                    vouched.push(last);
                }
            }
            _ => {}
        }
    }
    let mut from: BTreeMap<LogId, u64> = BTreeMap::new();
    for last in &told {
        let seq = from.entry(last.log).or_default();
        *seq = last.seq.max(*seq);
    }
    vouched.retain(|last| last.seq <= from.get(&last.log).unwrap_or(&0).saturating_add(VOUCHED_MAX));
    let mut ends: BTreeMap<LogId, LogEnd> = BTreeMap::new();
    let mut named = Named::new();
    for last in told.into_iter().chain(vouched).filter(|last| !writes(&last.log) && last.seq > 0) {
        named.entry(last.log).or_default().insert((last.seq, last.hash));
        let end = ends.entry(last.log).or_default();
        if last.seq > end.seq {
            *end = LogEnd { seq: last.seq, hashes: BTreeSet::new() };
        }
        if last.seq == end.seq {
            end.hashes.insert(last.hash);
        }
    }
    (ends, named)
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

/// Takes away the calls that are over for good, so that one that can never be answered stops nobody
/// (`docs/format.md`, section 4.9).
fn retire(
    graph: &Graph,
    counts: &[bool],
    (devices, former): (&BTreeMap<LogId, Device>, &BTreeMap<LogId, Device>),
    calls: &mut BTreeMap<RecordHash, Arc<Call>>,
    releases: &BTreeMap<RecordHash, Arc<Release>>,
) {
    let node = |hash: &RecordHash| graph.nth(hash).map(|nth| &graph.nodes[nth]);
    let callers: Vec<&Node> = calls.keys().filter_map(node).collect();
    let ends = |author: LogId, builds: &Node| {
        let member = devices.get(&author).or_else(|| former.get(&author)).map(|device| device.member);
        graph.bounds.iter().any(|bound| {
            let targets = match bound.target {
                Target::Device(log) => log == author,
                Target::Member(of) => Some(of) == member,
            };
            let ends = targets && bound.ceiling < Some(Role::Admin);
            ends && counts[bound.deed] && builds.seen.get(bound.deed)
        })
    };
    let is_over = |call: &Node| {
        let Some(deed) = call.deed else { return true };
        let author = LogId(*call.author());
        let later = || callers.iter().filter(|other| other.seen.get(deed));
        if later().any(|other| other.author() == call.author()) {
            return true;
        }
        if devices.get(&author).is_some_and(|device| device.role == Role::Admin) {
            return false;
        }
        let mut of_author = releases.keys().filter_map(node).filter(|it| it.author() == call.author());
        !of_author.any(|release| release.seen.get(deed)) || later().any(|other| ends(author, other))
    };
    calls.retain(|hash, _| node(hash).is_some_and(|call| !is_over(call)));
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

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::testing::{Author, Founder, add_device, device_of, new_store, sign_record};
    use super::*;
    use crate::format::access::Record;
    use crate::id::PackId;

    #[test]
    fn call_that_can_never_be_answered_is_over_when_its_author_calls_again_or_is_dismissed() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let author = Author::new(&founder, &store, no);
        let admin = SigningKey::from_bytes(&[51; 32]);
        let device = device_of(&admin, 61, Role::Admin);
        let add = |record: &Record| store.access_add(no, record).expect("admitted");
        let calls = || store.access(no).expect("reads").calls.keys().copied().collect::<Vec<_>>();
        let added = add_device(&founder.key, &founder, &author.heads(), device);
        let act = |seq: u64| Act::Call(Call { cut: vec![(author.log(), seq)] });
        let first = sign_record(&admin, &founder, &[added.hash()], act(1 << 40));
        let second = sign_record(&admin, &founder, &[first.hash()], act(1 << 41));
        add(&added);
        add(&first);
        assert_eq!(calls(), [first.hash()]);
        add(&second);
        assert_eq!(calls(), [second.hash()], "its author called again");
        let last = LogHead { log: LogId(admin.verifying_key().to_bytes()), seq: 0, hash: EntryHash([0; 32]) };
        let remove = |parent: &Record| {
            sign_record(&founder.key, &founder, &[parent.hash()], Act::RemoveDevice { last })
        };
        // One without a release: nothing can follow from it any more.
        let (_other_dir, other, other_no) = new_store(&founder);
        let _ = Author::new(&founder, &other, other_no);
        for record in [&added, &first, &second, &remove(&second)] {
            other.access_add(other_no, record).expect("admitted");
        }
        assert!(other.access(other_no).expect("reads").calls.is_empty());
        // One with a release asks until somebody else called who knew of the dismissal.
        let release = Release { cut: vec![(author.log(), 1)], packs: vec![PackId([1; 32])], young: vec![] };
        let release = sign_record(&admin, &founder, &[second.hash()], Act::Release(release));
        let removal = remove(&release);
        let beside = sign_record(&founder.key, &founder, &[release.hash()], act(1));
        add(&release);
        add(&removal);
        assert_eq!(calls(), [second.hash()]);
        add(&beside);
        assert!(calls().contains(&second.hash()), "its author was an admin by what that call builds on");
        add(&sign_record(&founder.key, &founder, &[removal.hash()], act(1)));
        assert!(!calls().contains(&second.hash()));
    }
}
