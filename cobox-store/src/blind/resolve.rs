//! Which records of an access log count, by strong removal (`docs/format.md`, "Resolving").
//!
//! A pure function of a set of records: no clock, no order of arrival. A removal, or a lower role, voids
//! what its target did without having known of it, and what depended on that. Between removals that void
//! one another those count that others vouched for before they knew better, so that a dismissed admin
//! cannot turn it around by records with an old past.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::access::Member;
use super::graph::{Bits, Bound, Deed, Graph, Node, Nth, Place, Target};
use crate::format::access::{Act, Device, Role};
use crate::id::{InviteKey, LogId, MemberId};

/// Logs of a folder, of devices that were removed too: an entry names the heads of the others, and there
/// is room for so many.
const LOGS_MAX: usize = crate::format::DEPS_MAX;

/// Whether each deed counts.
pub(super) type Counts = Vec<bool>;

/// The state that a record stands on: the deeds it builds on that count.
pub(super) struct View<'a> {
    pub(super) graph: &'a Graph,
    /// The deeds it builds on; `None` for all.
    pub(super) seen: Option<&'a Bits>,
    pub(super) counts: &'a [bool],
}

impl<'a> View<'a> {
    fn has(&self, deed: Deed) -> bool {
        self.seen.is_none_or(|seen| seen.get(deed)) && self.counts.get(deed).copied().unwrap_or(false)
    }

    fn those<'b>(&'b self, deeds: Option<&'b Vec<Deed>>) -> impl Iterator<Item = &'a Node> + 'b {
        let deeds = deeds.map_or(&[][..], Vec::as_slice).iter();
        deeds.filter(|deed| self.has(**deed)).map(|deed| self.graph.node(*deed))
    }

    fn listed(&self, log: &LogId) -> Option<(&'a Node, &'a Device)> {
        let first = self.those(self.graph.by_log.get(log)).min_by_key(|node| node.place())?;
        Some((first, first.device()?))
    }

    /// A device as it was listed first.
    pub(super) fn device(&self, log: &LogId) -> Option<&'a Device> {
        self.listed(log).map(|(_, device)| device)
    }

    fn member_removed(&self, member: &MemberId) -> bool {
        self.those(self.graph.by_member.get(member))
            .any(|node| matches!(node.act(), Act::RemoveMember { .. }))
    }

    fn last_role(&self, member: &MemberId) -> Option<(Place, Role)> {
        let set = self.those(self.graph.by_member.get(member)).filter_map(|node| match node.act() {
            Act::SetRole { role, .. } => Some((node.place(), *role)),
            _ => None,
        });
        set.max_by_key(|(place, _)| *place)
    }

    /// What a device may do.
    pub(super) fn role(&self, log: &LogId) -> Option<Role> {
        let (node, device) = self.listed(log)?;
        let ended = self.those(self.graph.device_ends.get(log)).next().is_some();
        if ended || self.member_removed(&device.member) {
            return None;
        }
        match self.last_role(&device.member) {
            Some((place, role)) if place > node.place() || is_recovered(node) => Some(role),
            _ => Some(device.role),
        }
    }

    /// A person, while not removed; the devices may all have gone.
    pub(super) fn member(&self, member: &MemberId) -> Option<Member> {
        if self.member_removed(member) {
            return None;
        }
        let all = || {
            let nodes = self.those(self.graph.by_member.get(member));
            nodes.filter_map(|node| Some((node, node.device()?)))
        };
        let (_, first) = all().min_by_key(|(node, _)| node.place())?;
        let set = self.last_role(member);
        // What the recovery key listed took the member's role and gives none.
        let given = all().filter(|(node, _)| !is_recovered(node));
        let later = given.filter(|(node, _)| set.is_none_or(|(place, _)| node.place() > place));
        let role = later.map(|(_, device)| device.role).chain(set.map(|(_, role)| role)).max()?;
        Some(Member { kem: first.recovery_kem, role })
    }

    fn has_admin(&self) -> bool {
        self.graph.by_log.keys().any(|log| self.role(log) == Some(Role::Admin))
    }

    /// Whether the founder's recovery key stands in for admins that are all gone.
    fn is_last_resort(&self, author: &[u8; 32]) -> bool {
        let founder = self.graph.nodes.first().and_then(Node::device);
        founder.is_some_and(|device| device.member.0 == *author && !self.member_removed(&device.member))
            && !self.has_admin()
    }

    /// Whether `author` may do this here.
    pub(super) fn permits(&self, author: &[u8; 32], act: &Act) -> bool {
        let role = self.role(&LogId(*author));
        let admin = || role == Some(Role::Admin) || self.is_last_resort(author);
        match act {
            Act::Genesis { .. } => false,
            Act::GrantSeeder(_) | Act::RevokeSeeder { .. } | Act::Call(_) | Act::Release(_) => admin(),
            Act::Propose(_) | Act::Agree(_) | Act::EndAgreement(_) | Act::Policy(_) => admin(),
            Act::OpenSeed(open) => !self.graph_knows_invite(&open.code) && admin(),
            Act::RedeemSeed(redeemed) => {
                let given = (redeemed.grant.quota_bytes, redeemed.grant.until_ms);
                self.open_seed(&redeemed.code) == Some(given) && admin()
            }
            Act::OpenInvite(open) => !self.graph_knows_invite(&open.invite) && admin(),
            Act::VoidInvite { invite } => self.graph_knows_invite(invite) && admin(),
            Act::NewEpoch(_) => role >= Some(Role::Write),
            Act::AddDevice { device } => {
                let member = self.member(&device.member);
                // A recovery key adds devices of its own member, at the role the member has.
                let recovers =
                    device.member.0 == *author && member.is_some_and(|member| member.role == device.role);
                // So does a device, at its own role: it goes on under a fresh log where the old one cannot.
                let succeeds = role == Some(device.role)
                    && self.device(&LogId(*author)).is_some_and(|old| old.member == device.member);
                self.is_new(device, member) && (recovers || succeeds || admin())
            }
            Act::Redeem { device, redemption } => {
                let fresh = self.member(&device.member).is_none();
                fresh
                    && self.is_new(device, None)
                    && self.open_role(&redemption.invite) == Some(device.role)
                    && admin()
            }
            Act::RemoveDevice { last } => self.role(&last.log).is_some() && admin(),
            Act::RemoveMember { member, logs } => {
                self.member(member).is_some() && self.are_logs_of(member, logs) && admin()
            }
            Act::SetRole { member, role, logs } => {
                *role >= Role::Read
                    && self.member(member).is_some()
                    && self.are_logs_of(member, logs)
                    && admin()
            }
            Act::Vouch { last } => {
                // Only where a log may have an end: its device writes no more, or never counted.
                let mut listings = self.graph.by_log.get(&last.log).into_iter().flatten();
                let known = listings.any(|deed| self.seen.is_none_or(|seen| seen.get(*deed)));
                known && self.role(&last.log) < Some(Role::Write) && role >= Some(Role::Read)
            }
        }
    }

    fn is_new(&self, device: &Device, member: Option<Member>) -> bool {
        device.role >= Role::Read
            && self.listed(&device.log).is_none()
            && !self.member_removed(&device.member)
            && member.is_none_or(|member| member.kem == device.recovery_kem)
            && self.graph.by_log.keys().filter(|log| self.listed(log).is_some()).count() < LOGS_MAX
    }

    fn are_logs_of(&self, member: &MemberId, logs: &[crate::format::entry::LogHead]) -> bool {
        logs.iter().all(|end| self.listed(&end.log).is_some_and(|(_, device)| device.member == *member))
    }

    fn graph_knows_invite(&self, invite: &InviteKey) -> bool {
        let opens = |node: &Node| matches!(node.act(), Act::OpenInvite(_) | Act::OpenSeed(_));
        self.those(self.graph.by_invite.get(invite)).any(opens)
    }

    /// The role of an invite that can still be redeemed.
    fn open_role(&self, invite: &InviteKey) -> Option<Role> {
        self.open(invite, |act| match act {
            Act::OpenInvite(open) => Some(open.role),
            _ => None,
        })
    }

    /// Quota and end of a seed code that can still be redeemed.
    fn open_seed(&self, code: &InviteKey) -> Option<(u64, u64)> {
        self.open(code, |act| match act {
            Act::OpenSeed(open) => Some((open.quota_bytes, open.until_ms)),
            _ => None,
        })
    }

    /// What a code that can still be redeemed gives.
    fn open<T: Ord>(&self, code: &InviteKey, given: impl Fn(&Act) -> Option<T>) -> Option<T> {
        let (mut first, mut spent) = (None, false);
        for node in self.those(self.graph.by_invite.get(code)) {
            match node.act() {
                // Of two that open one key at once the first stands.
                Act::OpenInvite(_) | Act::OpenSeed(_) => {
                    first = [first, Some((node.place(), given(node.act())))].into_iter().flatten().min();
                }
                _ => spent = true,
            }
        }
        first.filter(|_| !spent).and_then(|(_, given)| given)
    }
}

/// Whether a recovery key listed the device.
fn is_recovered(node: &Node) -> bool {
    node.device().is_some_and(|device| device.member.0 == *node.author())
}

/// Part of a graph that is closed under ancestors.
#[derive(Clone, Copy)]
pub(super) enum Scope<'a> {
    All,
    /// The deeds that some record builds on, and all records it builds on.
    Past(&'a Bits, &'a Bits),
}

impl Scope<'_> {
    fn has_deed(&self, deed: Deed) -> bool {
        match self {
            Self::All => true,
            Self::Past(deeds, _) => deeds.get(deed),
        }
    }

    fn has(&self, nth: Nth) -> bool {
        match self {
            Self::All => true,
            Self::Past(_, nodes) => nodes.get(nth),
        }
    }
}

/// Says which deeds of the scope count.
pub(super) fn decide(graph: &Graph, scope: Scope<'_>) -> Counts {
    let resolver = Resolver { graph, scope };
    let contest = resolver.contest();
    let mut banned: BTreeSet<usize> = contest.forked.clone();
    // Each round bans at least one more bound, so it ends.
    loop {
        let (chosen, counts) = resolver.choose(&contest, &banned);
        let fallen: Vec<usize> = chosen.into_iter().filter(|at| !counts[graph.bounds[*at].deed]).collect();
        if fallen.is_empty() {
            return counts;
        }
        banned.extend(fallen);
    }
}

/// Whether one of the bounds that count voids a record that is no bound itself.
pub(super) fn is_void(graph: &Graph, counts: &[bool], nth: Nth) -> bool {
    let resolver = Resolver { graph, scope: Scope::All };
    let mut bounds = graph.bounds.iter().filter(|bound| counts.get(bound.deed) == Some(&true));
    bounds.any(|bound| resolver.hits(bound, nth))
}

/// Who stands against whom.
struct Contest {
    /// Bounds of the scope, in the order in which they are decided.
    order: Vec<usize>,
    /// For each, the bounds that would void it or what its author's rights rest on.
    threats: BTreeMap<usize, Vec<usize>>,
    /// Bounds whose author is shown to have hidden what it knew.
    forked: BTreeSet<usize>,
}

struct Resolver<'a> {
    graph: &'a Graph,
    scope: Scope<'a>,
}

impl Resolver<'_> {
    /// Deeds of the scope that list a device.
    fn listings(&self, log: &LogId) -> impl Iterator<Item = &Node> {
        let deeds = self.graph.by_log.get(log).into_iter().flatten();
        deeds.filter(|deed| self.scope.has_deed(**deed)).map(|deed| self.graph.node(*deed))
    }

    /// The member of a device, by the record that lists it first.
    fn member_of(&self, log: &LogId) -> Option<MemberId> {
        Some(self.listings(log).min_by_key(|node| node.place())?.device()?.member)
    }

    fn targets(&self, bound: &Bound, author: &[u8; 32]) -> bool {
        match bound.target {
            Target::Device(log) => log.0 == *author,
            Target::Member(member) => member.0 == *author || self.member_of(&LogId(*author)) == Some(member),
        }
    }

    /// Whether the bound and the record knew nothing of each other.
    fn apart(&self, bound: &Bound, nth: Nth) -> bool {
        nth != self.graph.deeds[bound.deed]
            && !bound.past.get(nth)
            && !self.graph.nodes[nth].seen.get(bound.deed)
    }

    fn hits(&self, bound: &Bound, nth: Nth) -> bool {
        let node = &self.graph.nodes[nth];
        let is_device = self.listings(&LogId(*node.author())).next().is_some();
        let needed = match node.act() {
            // What was sealed under an epoch must stay readable; who may seal under it is asked elsewhere.
            Act::Genesis { .. } | Act::NewEpoch(_) => return false,
            Act::Vouch { .. } => Role::Read,
            _ if !is_device => Role::Read,
            // A device of its own member: what it lists it may itself be.
            Act::AddDevice { device } if self.member_of(&LogId(*node.author())) == Some(device.member) => {
                device.role
            }
            _ => Role::Admin,
        };
        Some(needed) > bound.ceiling && self.targets(bound, node.author()) && self.apart(bound, nth)
    }

    /// The records that the rights of a record's author rest on, and the record itself.
    fn grounds(&self, nth: Nth) -> Vec<Nth> {
        let graph = self.graph;
        let mut found = BTreeSet::from([nth]);
        let mut ahead = vec![nth];
        while let Some(nth) = ahead.pop() {
            let node = &graph.nodes[nth];
            let log = LogId(*node.author());
            let member = self.member_of(&log).unwrap_or(MemberId(*node.author()));
            let of_device = graph.by_log.get(&log).into_iter().flatten();
            let of_member = graph.by_member.get(&member).into_iter().flatten();
            for deed in of_device.chain(of_member).filter(|deed| node.seen.get(**deed)) {
                if found.insert(graph.deeds[*deed]) {
                    ahead.push(graph.deeds[*deed]);
                }
            }
        }
        found.into_iter().collect()
    }

    fn contest(&self) -> Contest {
        let graph = self.graph;
        let here: Vec<usize> =
            (0..graph.bounds.len()).filter(|at| self.scope.has_deed(graph.bounds[*at].deed)).collect();
        let (mut threats, mut forked) = (BTreeMap::new(), BTreeSet::new());
        for at in &here {
            let bound = &graph.bounds[*at];
            let grounds = self.grounds(graph.deeds[bound.deed]);
            let mut against = Vec::new();
            for other in here.iter().copied().filter(|other| other != at) {
                let threat = &graph.bounds[other];
                let mut hit = grounds.iter().copied().filter(|nth| self.hits(threat, *nth)).peekable();
                if hit.peek().is_some() {
                    against.push(other);
                }
                if hit.any(|nth| self.hid_something(nth, threat)) {
                    forked.insert(*at);
                }
            }
            threats.insert(*at, against);
        }
        let mut order: Vec<(Reverse<usize>, Place, Place, usize)> = here
            .iter()
            .map(|at| {
                let bound = &graph.bounds[*at];
                let node = graph.node(bound.deed);
                (Reverse(self.backing(bound, &threats[at])), self.seniority(node), node.place(), *at)
            })
            .collect();
        order.sort_unstable();
        Contest { order: order.into_iter().map(|(.., at)| at).collect(), threats, forked }
    }

    /// Whether the member who signed record `nth` had signed one that `threat` knew, and left it out there:
    /// devices build on all they know, their own records first.
    fn hid_something(&self, nth: Nth, threat: &Bound) -> bool {
        let node = &self.graph.nodes[nth];
        let member = self.member_of_author(node.author());
        let past = self.graph.past_of(&node.parents);
        self.graph.nodes.iter().enumerate().any(|(other, signed)| {
            threat.past.get(other)
                && !past.get(other)
                && self.scope.has(other)
                && self.member_of_author(signed.author()) == member
        })
    }

    /// When the author was first listed: of two that remove one another and that nobody vouched for, the
    /// earlier stands.
    fn seniority(&self, node: &Node) -> Place {
        let log = LogId(*node.author());
        let as_device = self.listings(&log).map(Node::place).min();
        let of_member = self.graph.by_member.get(&MemberId(log.0)).into_iter().flatten();
        let as_member = of_member
            .filter(|deed| self.scope.has_deed(**deed))
            .map(|deed| self.graph.node(*deed).place())
            .min();
        as_device.or(as_member).unwrap_or_else(|| node.place())
    }

    fn member_of_author(&self, author: &[u8; 32]) -> MemberId {
        self.member_of(&LogId(*author)).unwrap_or(MemberId(*author))
    }

    /// Members who built on `bound` without having known of `threat`, and whom both authors knew.
    fn witnesses<'b>(
        &'b self,
        bound: &'b Bound,
        threat: &'b Bound,
    ) -> impl Iterator<Item = (Nth, MemberId)> + 'b {
        let author = self.member_of_author(self.graph.node(bound.deed).author());
        self.graph.nodes.iter().enumerate().filter_map(move |(nth, node)| {
            let timely = self.scope.has(nth) && node.seen.get(bound.deed) && !node.seen.get(threat.deed);
            if !timely || nth == self.graph.deeds[threat.deed] {
                return None;
            }
            let listed = self.graph.by_log.get(&LogId(*node.author()))?;
            let mut listed = listed.iter().map(|deed| self.graph.deeds[*deed]);
            let known = listed.any(|nth| bound.past.get(nth) && threat.past.get(nth));
            let member = self.member_of_author(node.author());
            (known && member != author).then_some((nth, member))
        })
    }

    /// How many members stand behind a bound against each of its threats; all, where there is none.
    fn backing(&self, bound: &Bound, threats: &[usize]) -> usize {
        let counts = threats.iter().map(|threat| {
            let witnesses = self.witnesses(bound, &self.graph.bounds[*threat]);
            witnesses.map(|(_, member)| member).collect::<HashSet<_>>().len()
        });
        counts.min().unwrap_or(usize::MAX)
    }

    /// Takes bounds in their order, each that is permitted and that no earlier one voids.
    fn choose(&self, contest: &Contest, banned: &BTreeSet<usize>) -> (BTreeSet<usize>, Counts) {
        let mut chosen = BTreeSet::new();
        let mut out = banned.clone();
        let mut counts = self.fold(&chosen);
        loop {
            let mut next = None;
            for at in contest.order.iter().filter(|at| !chosen.contains(*at)) {
                if out.contains(at) {
                    continue;
                }
                if !self.survives(*at, &contest.threats[at], &chosen) {
                    out.insert(*at);
                } else if self.is_permitted(self.graph.bounds[*at].deed, &counts) {
                    next = Some(*at);
                    break;
                }
            }
            let Some(at) = next else { return (chosen, counts) };
            chosen.insert(at);
            counts = self.fold(&chosen);
        }
    }

    /// Whether a bound stands beside those chosen: against each that voids it, somebody who stays vouched.
    fn survives(&self, at: usize, threats: &[usize], chosen: &BTreeSet<usize>) -> bool {
        let bounds = &self.graph.bounds;
        threats.iter().filter(|threat| chosen.contains(threat)).all(|threat| {
            self.witnesses(&bounds[at], &bounds[*threat]).any(|(nth, _)| {
                let author = self.graph.nodes[nth].author();
                !chosen.iter().map(|other| &bounds[*other]).any(|other| {
                    other.ceiling.is_none() && self.targets(other, author) && self.apart(other, nth)
                })
            })
        })
    }

    fn is_permitted(&self, deed: Deed, counts: &[bool]) -> bool {
        let node = self.graph.node(deed);
        let view = View { graph: self.graph, seen: Some(&node.seen), counts };
        matches!(node.act(), Act::Genesis { .. }) || view.permits(node.author(), node.act())
    }

    /// Which deeds count when exactly these bounds do.
    fn fold(&self, chosen: &BTreeSet<usize>) -> Counts {
        let first = self.fold_without(chosen, &HashSet::new());
        let conflicts = self.conflicts(&first);
        if conflicts.is_empty() { first } else { self.fold_without(chosen, &conflicts) }
    }

    fn fold_without(&self, chosen: &BTreeSet<usize>, conflicts: &HashSet<Deed>) -> Counts {
        let graph = self.graph;
        let mut counts = vec![false; graph.deeds.len()];
        for deed in graph.canonical.iter().copied().filter(|deed| self.scope.has_deed(*deed)) {
            let stands = match graph.bound(deed) {
                Some(at) => chosen.contains(&at),
                None => !chosen.iter().any(|at| self.hits(&graph.bounds[*at], graph.deeds[deed])),
            };
            counts[deed] = stands && !conflicts.contains(&deed) && self.is_permitted(deed, &counts);
        }
        counts
    }

    /// Redemptions of an invite that was voided, or redeemed by another device, at the same time.
    fn conflicts(&self, counts: &[bool]) -> HashSet<Deed> {
        let graph = self.graph;
        let mut void = HashSet::new();
        for deeds in graph.by_invite.values() {
            let here: Vec<Deed> =
                deeds.iter().copied().filter(|deed| self.scope.has_deed(*deed) && counts[*deed]).collect();
            for deed in &here {
                let Some(redeemer) = graph.node(*deed).redeemer() else { continue };
                let clashes = here.iter().any(|other| {
                    let node = graph.node(*other);
                    match node.act() {
                        // A void that knew of the redemption came too late.
                        Act::VoidInvite { .. } => !node.seen.get(*deed),
                        _ => node.redeemer().is_some_and(|twin| twin != redeemer),
                    }
                });
                if clashes {
                    void.insert(*deed);
                }
            }
        }
        void
    }
}
