//! The records of one folder's access log as a graph: who builds on whom, indexed for the questions that
//! [`super::resolve`] asks. No I/O.
//!
//! A *deed* is a record that changes who may do what: everything but epochs and vouches, of which there
//! are many. Each record knows the deeds it builds on as a row of bits, so "was this known to that?" is
//! one look.

use std::collections::HashMap;

use crate::format::access::{Act, Device, Record, Role};
use crate::id::{InviteKey, LogId, MemberId, RecordHash};

/// A set of small numbers.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn get(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Puts `at` in; `false` where it was.
    pub(super) fn set(&mut self, at: usize) -> bool {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        let (word, bit) = (&mut self.0[at / 64], 1 << (at % 64));
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    fn join(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }
}

/// Number of a record, in the order of arrival: parents before children.
pub(super) type Nth = usize;
/// Number of a deed.
pub(super) type Deed = usize;

/// The order in which records are folded: by the longest way from the genesis, then by hash. Ancestors
/// come first, and all replicas agree on it.
pub(super) type Place = (u32, RecordHash);

/// A record in its place.
pub(super) struct Node {
    pub(super) record: Record,
    pub(super) hash: RecordHash,
    pub(super) depth: u32,
    pub(super) parents: Vec<Nth>,
    /// The deeds among its ancestors.
    pub(super) seen: Bits,
    pub(super) deed: Option<Deed>,
}

impl Node {
    pub(super) fn place(&self) -> Place {
        (self.depth, self.hash)
    }

    pub(super) fn author(&self) -> &[u8; 32] {
        &self.record.content().author
    }

    pub(super) fn act(&self) -> &Act {
        &self.record.content().act
    }

    /// Who used an invite or a seed code, if the record says so.
    pub(super) fn redeemer(&self) -> Option<&[u8]> {
        match self.act() {
            Act::Redeem { device, .. } => Some(&device.log.0),
            Act::RedeemSeed(redeemed) => Some(&redeemed.grant.peer_id),
            _ => None,
        }
    }

    /// The device that the record lists, if it lists one.
    pub(super) fn device(&self) -> Option<&Device> {
        match self.act() {
            Act::Genesis { device, .. } | Act::AddDevice { device } | Act::Redeem { device, .. } => {
                Some(device)
            }
            _ => None,
        }
    }
}

/// Whose rights a deed bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Device(LogId),
    Member(MemberId),
}

/// A removal, or a change of role, which takes rights away where it lowers it.
pub(super) struct Bound {
    pub(super) deed: Deed,
    pub(super) target: Target,
    /// What is left.
    pub(super) ceiling: Option<Role>,
    /// All it builds on, by [`Nth`].
    pub(super) past: Bits,
}

/// All records of one folder that were admitted.
#[derive(Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    by_hash: HashMap<RecordHash, Nth>,
    /// Deeds as records.
    pub(super) deeds: Vec<Nth>,
    /// Deeds in the order of folding.
    pub(super) canonical: Vec<Deed>,
    pub(super) bounds: Vec<Bound>,
    bound_of: HashMap<Deed, usize>,
    pub(super) by_log: HashMap<LogId, Vec<Deed>>,
    pub(super) by_member: HashMap<MemberId, Vec<Deed>>,
    pub(super) device_ends: HashMap<LogId, Vec<Deed>>,
    pub(super) by_invite: HashMap<InviteKey, Vec<Deed>>,
}

impl Graph {
    pub(super) fn nth(&self, hash: &RecordHash) -> Option<Nth> {
        self.by_hash.get(hash).copied()
    }

    pub(super) fn node(&self, deed: Deed) -> &Node {
        &self.nodes[self.deeds[deed]]
    }

    pub(super) fn bound(&self, deed: Deed) -> Option<usize> {
        self.bound_of.get(&deed).copied()
    }

    /// The deeds that a record with these parents builds on; `None` while one of them is missing.
    pub(super) fn seen_by(&self, parents: &[RecordHash]) -> Option<(Vec<Nth>, Bits)> {
        let mut seen = Bits::default();
        let mut numbers = Vec::with_capacity(parents.len());
        for parent in parents {
            let nth = self.nth(parent)?;
            let node = &self.nodes[nth];
            seen.join(&node.seen);
            if let Some(deed) = node.deed {
                seen.set(deed);
            }
            numbers.push(nth);
        }
        Some((numbers, seen))
    }

    /// `from` and everything they build on.
    pub(super) fn past_of(&self, from: &[Nth]) -> Bits {
        let mut past = Bits::default();
        let mut ahead: Vec<Nth> = from.iter().copied().filter(|nth| past.set(*nth)).collect();
        while let Some(nth) = ahead.pop() {
            ahead.extend(self.nodes[nth].parents.iter().copied().filter(|parent| past.set(*parent)));
        }
        past
    }

    /// Takes a record whose parents are here.
    ///
    /// # Panics
    /// When one is not.
    pub(super) fn insert(&mut self, record: Record) {
        let (parents, seen) = self.seen_by(&record.content().parents).expect("the caller saw the parents");
        let depth = parents.iter().map(|parent| self.nodes[*parent].depth + 1).max().unwrap_or(0);
        let (nth, hash) = (self.nodes.len(), record.hash());
        let is_deed = !matches!(record.content().act, Act::NewEpoch(_) | Act::Vouch { .. });
        let deed = is_deed.then_some(self.deeds.len());
        self.by_hash.insert(hash, nth);
        self.nodes.push(Node { record, hash, depth, parents, seen, deed });
        if let Some(deed) = deed {
            self.deeds.push(nth);
            let place = self.nodes[nth].place();
            let at = self.canonical.partition_point(|other| self.node(*other).place() < place);
            self.canonical.insert(at, deed);
            self.index(deed, nth);
        }
    }

    fn index(&mut self, deed: Deed, nth: Nth) {
        if let Some(device) = self.nodes[nth].device() {
            let (log, member) = (device.log, device.member);
            self.by_log.entry(log).or_default().push(deed);
            self.by_member.entry(member).or_default().push(deed);
        }
        let bound = match self.nodes[nth].act() {
            Act::RemoveDevice { last } => Some((Target::Device(last.log), None)),
            Act::RemoveMember { member, .. } => Some((Target::Member(*member), None)),
            Act::SetRole { member, role, .. } => Some((Target::Member(*member), Some(*role))),
            _ => None,
        };
        let invite = match self.nodes[nth].act() {
            Act::OpenInvite(open) => Some(open.invite),
            Act::VoidInvite { invite } => Some(*invite),
            Act::Redeem { redemption, .. } => Some(redemption.invite),
            Act::OpenSeed(open) => Some(open.code),
            Act::RedeemSeed(redeemed) => Some(redeemed.code),
            _ => None,
        };
        if let Some(invite) = invite {
            self.by_invite.entry(invite).or_default().push(deed);
        }
        if let Some((target, ceiling)) = bound {
            match target {
                Target::Device(log) => self.device_ends.entry(log).or_default().push(deed),
                Target::Member(member) => self.by_member.entry(member).or_default().push(deed),
            }
            let past = self.past_of(&self.nodes[nth].parents);
            self.bound_of.insert(deed, self.bounds.len());
            self.bounds.push(Bound { deed, target, ceiling, past });
        }
    }
}
