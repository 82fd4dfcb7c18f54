//! Agreements and seed codes of a folder, as its access log has them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::graph::{Deed, Graph, Node};
use crate::format::access::Act;
use crate::format::agreement::{Notice, SignedTerms, Terms};
use crate::format::seeding::OpenSeed;
use crate::id::{InviteKey, LogId, RecordHash, TermsHash};

/// Terms that the folder's side would agree on; the newest for its seeder, and not answered yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// The record that holds them.
    pub record: RecordHash,
    /// Whose device proposes.
    pub by: LogId,
    /// By that device's clock, milliseconds since 1970.
    pub issued_ms: u64,
    /// What.
    pub terms: Terms,
}

/// The newest agreement with a seeder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// The record that holds it, and is the folder's signature.
    pub record: RecordHash,
    /// Whose device signed for the folder.
    pub by: LogId,
    /// By that device's clock, milliseconds since 1970.
    pub issued_ms: u64,
    /// What, with the seeder's signature.
    pub signed: SignedTerms,
    /// The notice with the earliest end, if a side gave one.
    pub notice: Option<Notice>,
    /// When the agreement ends by it: when it says, but not before the agreed span after it was written down.
    pub notice_ends_ms: u64,
    /// Other terms that were agreed on with this seeder: they do not come back.
    pub before: Vec<TermsHash>,
    /// Whether the seeder was granted the folder anew by somebody who knew of this agreement, and of the notice
    /// if there is one.
    pub renewed: bool,
}

impl Agreed {
    /// When it ends, by its terms or by notice; 0 for no end.
    #[must_use]
    pub fn until_ms(&self) -> u64 {
        let ends =
            [self.signed.terms.until_ms, self.notice.as_ref().map_or(0, |_| self.notice_ends_ms.max(1))];
        ends.into_iter().filter(|end| *end > 0).min().unwrap_or(0)
    }

    /// Whether it says at a time how much the seeder takes and until when: also once it is over, unless a grant
    /// came after it.
    #[must_use]
    pub fn binds(&self, now_ms: u64) -> bool {
        let ends_ms = self.until_ms();
        !(self.renewed && ends_ms != 0 && now_ms >= ends_ms)
    }
}

/// How far a seed code is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SeedState {
    /// It can be redeemed, until it expires.
    Open,
    /// An admin took it back.
    Void,
    /// This seeder (its peer id) was granted the folder with it.
    Used(Vec<u8>),
    /// Two seeders came at the same time, and neither was granted anything.
    Clashed,
}

fn counted<'a>(graph: &'a Graph, counts: &'a [bool]) -> impl Iterator<Item = (Deed, &'a Node)> {
    graph.canonical.iter().filter(|deed| counts[**deed]).map(|deed| (*deed, graph.node(*deed)))
}

/// An Agree, by the terms that it names.
struct Agree<'a> {
    deed: Deed,
    node: &'a Node,
    signed: &'a SignedTerms,
    terms: TermsHash,
}

/// The Agrees of each seeder, by place, without those that build on one of the same terms: they say nothing
/// new, and an old signature that is shown again is one of them.
fn originals<'a>(graph: &'a Graph, counts: &'a [bool]) -> BTreeMap<&'a [u8], Vec<Agree<'a>>> {
    let mut found: BTreeMap<&[u8], Vec<Agree<'_>>> = BTreeMap::new();
    let mut known: HashMap<TermsHash, Vec<Deed>> = HashMap::new();
    for (deed, node) in counted(graph, counts) {
        let Act::Agree(signed) = node.act() else { continue };
        let terms = signed.terms.hash();
        let same = known.entry(terms).or_default();
        // Ancestors have a lower place, so they are here already.
        if same.iter().any(|deed| node.seen.get(*deed)) {
            continue;
        }
        same.push(deed);
        found.entry(&signed.terms.seeder).or_default().push(Agree { deed, node, signed, terms });
    }
    found
}

/// The Agree that counts among those of one seeder: the last by place of terms that no other terms replaced.
fn newest<'a, 'b>(agrees: &'b [Agree<'a>]) -> Option<&'b Agree<'a>> {
    let builds_on = |later: &Agree<'_>, terms| {
        later.terms != terms
            && agrees.iter().any(|agree| agree.terms == terms && later.node.seen.get(agree.deed))
    };
    let replaced: HashSet<TermsHash> = agrees
        .iter()
        .map(|agree| agree.terms)
        .filter(|terms| agrees.iter().any(|later| builds_on(later, *terms)))
        .collect();
    // Where forks replace one another, nothing says which came last.
    agrees.iter().rev().find(|agree| !replaced.contains(&agree.terms)).or(agrees.last())
}

/// The newest agreement with each seeder, ascending by peer id.
pub(super) fn agreements(graph: &Graph, counts: &[bool]) -> Vec<Agreed> {
    let mut agreed: BTreeMap<&[u8], Agreed> = BTreeMap::new();
    // What a grant must build on to come after the agreement.
    let mut last: BTreeMap<&[u8], Deed> = BTreeMap::new();
    for (seeder, agrees) in originals(graph, counts) {
        let Some(agree) = newest(&agrees) else { continue };
        let before: BTreeSet<TermsHash> = agrees.iter().map(|other| other.terms).collect();
        let one = Agreed {
            record: agree.node.hash,
            by: LogId(*agree.node.author()),
            issued_ms: agree.node.record.content().issued_ms,
            signed: agree.signed.clone(),
            notice: None,
            notice_ends_ms: 0,
            before: before.into_iter().filter(|terms| *terms != agree.terms).collect(),
            renewed: false,
        };
        agreed.insert(seeder, one);
        last.insert(seeder, agree.deed);
    }
    for (deed, node) in counted(graph, counts) {
        let Act::EndAgreement(notice) = node.act() else { continue };
        let Some(one) = agreed.get_mut(notice.seeder.as_slice()) else { continue };
        // An agreement is not ended before it was made, whatever a clock says.
        let given_ms = node.record.content().issued_ms.max(one.issued_ms);
        let ends_ms = notice.at_ms.max(given_ms.saturating_add(one.signed.terms.notice_ms));
        let earlier = one.notice.is_none() || ends_ms < one.notice_ends_ms;
        if earlier && one.signed.terms.hash() == notice.terms {
            (one.notice, one.notice_ends_ms) = (Some(notice.clone()), ends_ms);
            last.insert(&notice.seeder, deed);
        }
    }
    for (_, node) in counted(graph, counts) {
        let Some(grant) = node.act().grant() else { continue };
        let Some(one) = agreed.get_mut(grant.peer_id.as_slice()) else { continue };
        one.renewed |= last.get(grant.peer_id.as_slice()).is_some_and(|deed| node.seen.get(*deed));
    }
    agreed.into_values().collect()
}

/// The newest proposal for each seeder that no agreement knew of, ascending by peer id.
pub(super) fn proposals(graph: &Graph, counts: &[bool]) -> Vec<Proposal> {
    let mut newest: BTreeMap<&[u8], (Deed, Proposal)> = BTreeMap::new();
    for (deed, node) in counted(graph, counts) {
        let Act::Propose(terms) = node.act() else { continue };
        let proposal = Proposal {
            record: node.hash,
            by: LogId(*node.author()),
            issued_ms: node.record.content().issued_ms,
            terms: terms.clone(),
        };
        newest.insert(&terms.seeder, (deed, proposal));
    }
    for (seeder, agrees) in originals(graph, counts) {
        let settled = newest.get(seeder).is_some_and(|(deed, proposal)| {
            let terms = proposal.terms.hash();
            agrees.iter().any(|agree| agree.node.seen.get(*deed) || agree.terms == terms)
        });
        if settled {
            newest.remove(seeder);
        }
    }
    newest.into_values().map(|(_, proposal)| proposal).collect()
}

/// All seed codes there were.
pub(super) fn seed_codes(graph: &Graph, counts: &[bool]) -> BTreeMap<InviteKey, (OpenSeed, SeedState)> {
    let mut codes = BTreeMap::new();
    for (code, deeds) in &graph.by_invite {
        let mut open: Option<(super::graph::Place, OpenSeed)> = None;
        let (mut used, mut voided, mut redeemed) = (None, false, false);
        for deed in deeds {
            let node = graph.node(*deed);
            match node.act() {
                Act::OpenSeed(act)
                    if counts[*deed] && open.as_ref().is_none_or(|(place, _)| node.place() < *place) =>
                {
                    open = Some((node.place(), *act));
                }
                Act::VoidInvite { .. } if counts[*deed] => voided = true,
                Act::RedeemSeed(act) if counts[*deed] => used = Some(act.grant.peer_id.clone()),
                Act::RedeemSeed(_) => redeemed = true,
                _ => {}
            }
        }
        let state = match used {
            Some(peer_id) => SeedState::Used(peer_id),
            None if voided => SeedState::Void,
            None if redeemed => SeedState::Clashed,
            None => SeedState::Open,
        };
        if let Some((_, open)) = open {
            codes.insert(*code, (open, state));
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::super::access::Access;
    use super::super::testing::{Founder, new_store, sign_record};
    use super::*;
    use crate::blind::Store;
    use crate::error::Error;
    use crate::format::access::{BOX_BYTES, Record, SeederGrant};
    use crate::format::agreement::{Side, tests as agreements};
    use crate::format::seeding::{CopiesPolicy, RedeemedSeed, seed_bytes};
    use crate::id::{EpochId, FolderNo, KemKey};

    fn terms(founder: &Founder, quota_bytes: u64) -> Terms {
        Terms { folder: founder.folder(), quota_bytes, ..agreements::terms() }
    }

    fn signed(terms: Terms) -> SignedTerms {
        let signature = agreements::key().sign(&terms.signed_bytes()).to_bytes();
        SignedTerms { terms, signature }
    }

    struct Log {
        founder: Founder,
        store: std::sync::Arc<Store>,
        no: FolderNo,
        _dir: tempfile::TempDir,
    }

    impl Log {
        fn new() -> Self {
            let founder = Founder::new(1);
            let (dir, store, no) = new_store(&founder);
            Self { founder, store, no, _dir: dir }
        }

        fn sign(&self, parents: &[RecordHash], act: Act) -> Record {
            sign_record(&self.founder.key, &self.founder, parents, act)
        }

        /// Signs on top of all there is, and adds.
        fn add(&self, act: Act) -> Record {
            let record = self.sign(&self.access().heads, act);
            self.store.access_add(self.no, &record).expect("admitted");
            record
        }

        fn access(&self) -> std::sync::Arc<Access> {
            self.store.access(self.no).expect("reads")
        }
    }

    #[test]
    fn newest_policy_of_an_admin_counts_and_one_built_beside_it_changes_nothing_by_its_arrival() {
        let policy = |copies| CopiesPolicy { copies, tolerance_ms: 86_400_000 };
        let (log, other) = (Log::new(), Log::new());
        assert_eq!(log.access().policy, None);
        let base = log.access().heads.clone();
        let (two, three) = (log.sign(&base, Act::Policy(policy(2))), log.sign(&base, Act::Policy(policy(3))));
        for (log, order) in [(&log, [&two, &three]), (&other, [&three, &two])] {
            order.iter().for_each(|record| {
                log.store.access_add(log.no, record).expect("admitted");
            });
        }
        assert!(log.access().policy.is_some());
        assert_eq!(log.access().policy, other.access().policy, "the order of arrival does not matter");
        log.add(Act::Policy(policy(5)));
        assert_eq!(log.access().policy, Some(policy(5)));
        // Nobody but an admin says so.
        let stranger = ed25519_dalek::SigningKey::from_bytes(&[77; 32]);
        let forged = sign_record(&stranger, &log.founder, &log.access().heads, Act::Policy(policy(1)));
        assert!(matches!(log.store.access_add(log.no, &forged), Err(Error::Access { .. })));
        assert_eq!(log.access().policy, Some(policy(5)));
    }

    #[test]
    fn proposal_waits_until_an_agreement_knew_of_it_and_the_newest_of_each_counts() {
        let log = Log::new();
        let [small, large] = [5, 9].map(|bytes| terms(&log.founder, bytes));
        log.add(Act::Propose(small.clone()));
        assert_eq!(log.access().proposals.len(), 1);
        log.add(Act::Agree(signed(small.clone())));
        log.add(Act::Propose(large.clone()));
        let access = log.access();
        assert_eq!(access.agreement(&small.seeder).map(|agreed| &agreed.signed.terms), Some(&small));
        assert_eq!(access.proposal(&small.seeder).map(|proposal| &proposal.terms), Some(&large));
        log.add(Act::Agree(signed(large.clone())));
        let access = log.access();
        assert_eq!(access.agreement(&small.seeder).map(|agreed| &agreed.signed.terms), Some(&large));
        assert_eq!(access.proposal(&small.seeder), None);
    }

    #[test]
    fn notice_ends_the_terms_it_names_and_the_earliest_counts() {
        let log = Log::new();
        let agreed = terms(&log.founder, 5);
        log.add(Act::Agree(signed(agreed.clone())));
        let notice = |terms: &Terms, at_ms| Notice {
            folder: terms.folder,
            seeder: terms.seeder.clone(),
            terms: terms.hash(),
            at_ms,
            by: Side::Folder,
        };
        let until = || log.access().agreement(&agreed.seeder).expect("agreed").until_ms();
        assert_eq!(until(), agreed.until_ms);
        log.add(Act::EndAgreement(notice(&terms(&log.founder, 6), 3)));
        assert_eq!(until(), agreed.until_ms, "a notice of other terms ends nothing");
        let at_ms = log.access().agreement(&agreed.seeder).expect("agreed").issued_ms + agreed.notice_ms;
        log.add(Act::EndAgreement(notice(&agreed, at_ms + 700)));
        log.add(Act::EndAgreement(notice(&agreed, at_ms + 900)));
        assert_eq!(until(), at_ms + 700);
        // A grant that knew of the end comes after it; one that did not does not outlive it.
        let granted = |parents: &[RecordHash]| {
            let record = super::super::testing::grant(&log.founder.key, &log.founder, parents, 7);
            let Act::GrantSeeder(grant) = record.content().act.clone() else { panic!("a grant") };
            Act::GrantSeeder(SeederGrant { peer_id: agreed.seeder.clone(), ..grant })
        };
        let beside = log.sign(&[log.founder.hash()], granted(&[log.founder.hash()]));
        log.store.access_add(log.no, &beside).expect("admitted");
        let state = || log.access().agreement(&agreed.seeder).expect("agreed").clone();
        assert!(!state().renewed && state().binds(u64::MAX));
        log.add(granted(&log.access().heads));
        assert!(state().renewed && state().binds(at_ms + 699) && !state().binds(at_ms + 700));
    }

    #[test]
    fn notice_of_an_end_at_once_ends_after_the_agreed_span_and_not_before() {
        let log = Log::new();
        let agreed = Terms { notice_ms: 5_000, until_ms: 0, ..terms(&log.founder, 5) };
        let made = log.add(Act::Agree(signed(agreed.clone()))).content().issued_ms;
        for at_ms in [1, made, made + 4_999] {
            log.add(Act::EndAgreement(Notice {
                folder: agreed.folder,
                seeder: agreed.seeder.clone(),
                terms: agreed.hash(),
                at_ms,
                by: Side::Folder,
            }));
            let state = log.access().agreement(&agreed.seeder).expect("agreed").clone();
            assert_eq!(state.until_ms(), made + 5_000, "{at_ms}");
        }
    }

    #[test]
    fn agreement_that_was_replaced_does_not_come_back_with_its_old_signature() {
        let log = Log::new();
        let [old, new] = [9, 5].map(|bytes| terms(&log.founder, bytes));
        let current = || log.access().agreement(&old.seeder).expect("agreed").clone();
        let first = log.add(Act::Agree(signed(old.clone())));
        log.add(Act::Agree(signed(new.clone())));
        // On top of all; and beside what replaced it, on so much else that its place is higher.
        log.add(Act::Agree(signed(old.clone())));
        assert_eq!((&current().signed.terms, current().before), (&new, vec![old.hash()]));
        for start in [first.hash(), log.founder.hash()] {
            let mut end = start;
            for number in 0..9 {
                let other = Terms {
                    seeder: crate::format::receipt::peer_id_of(&[8; 32]),
                    ..terms(&log.founder, 100 + number)
                };
                let record = log.sign(&[end], Act::Propose(other));
                log.store.access_add(log.no, &record).expect("admitted");
                end = record.hash();
            }
            let replayed = log.sign(&[end], Act::Agree(signed(old.clone())));
            log.store.access_add(log.no, &replayed).expect("admitted");
            assert_eq!(current().signed.terms, new);
        }
        // Neither does it answer a proposal that waits, nor stand in the way of fresh terms.
        let third = terms(&log.founder, 7);
        log.add(Act::Propose(third.clone()));
        log.add(Act::Agree(signed(old.clone())));
        assert!(log.access().proposal(&old.seeder).is_some());
        log.add(Act::Agree(signed(third.clone())));
        assert_eq!(current().signed.terms, third);
    }

    #[test]
    fn agreement_that_the_seeder_did_not_sign_or_of_another_folder_is_no_record() {
        let log = Log::new();
        let mut forged = signed(terms(&log.founder, 5));
        forged.terms.quota_bytes = 6;
        let other = signed(agreements::terms());
        for act in [Act::Agree(forged), Act::Agree(other.clone()), Act::Propose(other.terms)] {
            let record = log.sign(&[log.founder.hash()], act);
            let read = crate::format::access::UnverifiedRecord::decode(&record.encode()).expect("decodes");
            assert!(read.verify().is_err());
        }
        let stranger = SigningKey::from_bytes(&[99; 32]);
        let act = Act::Propose(terms(&log.founder, 5));
        let record = sign_record(&stranger, &log.founder, &[log.founder.hash()], act);
        assert!(matches!(log.store.access_add(log.no, &record), Err(Error::Access { .. })));
    }

    fn redeemed(log: &Log, code: &SigningKey, seeder: u8, quota_bytes: u64) -> Act {
        let key = SigningKey::from_bytes(&[seeder; 32]).verifying_key().to_bytes();
        let grant = SeederGrant {
            peer_id: crate::format::receipt::peer_id_of(&key),
            kem: KemKey([seeder; 32]),
            quota_bytes,
            until_ms: 0,
            addresses: vec![],
            swarm_epoch: EpochId([6; 32]),
            swarm_box: [9; BOX_BYTES],
        };
        let folder = log.founder.folder().0[..16].try_into().expect("half an id");
        let (peer_id, kem) = (grant.peer_id.clone(), grant.kem);
        let seeder = crate::format::address::SeederAddress { peer_id, kem, addresses: vec![] };
        let signature = code.sign(&seed_bytes(folder, &seeder)).to_bytes();
        Act::RedeemSeed(RedeemedSeed { grant, code: InviteKey(code.verifying_key().to_bytes()), signature })
    }

    #[test]
    fn seed_code_is_good_once_and_for_what_it_says() {
        let log = Log::new();
        let key = SigningKey::from_bytes(&[30; 32]);
        let code = InviteKey(key.verifying_key().to_bytes());
        let open =
            log.add(Act::OpenSeed(OpenSeed { code, quota_bytes: 7, until_ms: 0, expires_ms: u64::MAX }));
        let state = || log.access().seed_codes[&code].1.clone();
        assert_eq!(state(), SeedState::Open);
        let more = log.sign(&[open.hash()], redeemed(&log, &key, 40, 8));
        assert!(matches!(log.store.access_add(log.no, &more), Err(Error::Access { .. })));
        let first = log.add(redeemed(&log, &key, 40, 7));
        let Act::RedeemSeed(used) = &first.content().act else { panic!("redeemed") };
        assert_eq!(state(), SeedState::Used(used.grant.peer_id.clone()));
        assert_eq!(log.access().seeder(&used.grant.peer_id), Some(&used.grant));
        let again = log.sign(&[first.hash()], redeemed(&log, &key, 41, 7));
        assert!(matches!(log.store.access_add(log.no, &again), Err(Error::Access { .. })));
        // Two that came at the same time are both refused.
        let beside = log.sign(&[open.hash()], redeemed(&log, &key, 41, 7));
        log.store.access_add(log.no, &beside).expect("admitted");
        assert_eq!(state(), SeedState::Clashed);
        assert!(log.access().seeders.is_empty());
    }
}
