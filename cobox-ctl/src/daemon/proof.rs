//! When a copy counts: the rule that turns a seeder's newest receipt into "claimed" or "proved".
//!
//! A copy is proved when the newest receipt covers the folder's heads, the seeder holds every live pack
//! (its digest of them is ours), and every sample and entry was proved. Green is proved, never merely sent.
//! A proof ages by this device's clock: it is late first, and past the folder's tolerance it counts no more.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_net::{PeerId, PeerStatus, SessionState};
use cobox_store::blind::receipts::KeptReceipt;
use cobox_store::blind::tables::{Table, key};
use cobox_store::blind::{PackState, Store};
use cobox_store::format::entry::LogHead;
use cobox_store::format::receipt::{Receipt, live_set_digest};
use cobox_store::id::{FolderNo, PackId, RecordHash};

use super::chores::BUSY_MS;
use super::folder::FolderState;
use super::let_go;
use super::policy::{Age, Policy};
use crate::exit::Outcome;
use crate::report::Holding;

/// For so long what was written is on its way to a seeder, and no copy that is missing: longer than a box needs to start
/// again or to come back from a poor line, and shorter than what anybody would call an outage.
pub(crate) const SYNC_GRACE: Duration = Duration::from_secs(5 * 60);
/// One that says for so long that it lost something means it: in a moment something may have been freed here and not there.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(5);

/// The live packs of a folder as of `heads`.
pub(crate) struct LiveSet {
    pub heads: Vec<LogHead>,
    /// Heads of the access log, whose releases count.
    access: Vec<RecordHash>,
    pub packs: Arc<BTreeSet<PackId>>,
    pub pack_bytes: u64,
    /// How many are not on this device.
    pub missing: u64,
    pub digest: [u8; 32],
    /// Changes whenever anything in the store does; a cached set with `missing` packs ages by it.
    seen: u64,
}

/// What is known of a seeder's copy.
pub(crate) struct Standing {
    pub holding: Holding,
    pub proved_at_ms: Option<u64>,
}

impl FolderState {
    fn store(&self) -> &Arc<Store> {
        self.folder.store()
    }

    /// Whether something that was written waits for a mount to be sent: after a crash, or a mount that
    /// ended on a full disk.
    pub fn has_unsent(&self) -> Outcome<bool> {
        let mut found = false;
        for table in [Table::Pending, Table::DirtyMark] {
            self.store().db().scan(&key(self.no(), table, &[]), &[], &mut |_, _| {
                found = true;
                ControlFlow::Break(())
            })?;
        }
        Ok(found)
    }

    /// The live packs now; scanned again only when heads moved, or missing packs may have come.
    pub fn live_set(&self) -> Outcome<Arc<LiveSet>> {
        let mut cached = self.live.lock();
        let seen = self.store().watch().seen();
        let heads = self.store().log_heads(self.no())?;
        let access = self.store().access(self.no())?.heads.clone();
        let same = |set: &&Arc<LiveSet>| set.heads == heads && set.access == access;
        if let Some(set) = cached.as_ref().filter(same).filter(|set| set.missing == 0 || set.seen == seen) {
            return Ok(Arc::clone(set));
        }
        let (mut packs, mut pack_bytes, mut missing) = (BTreeSet::new(), 0u64, 0u64);
        self.store().packs_live(self.no(), &mut |pack, state| {
            packs.insert(pack.id);
            pack_bytes = pack_bytes.saturating_add(pack.size);
            missing += u64::from(state == PackState::Missing);
        })?;
        let digest = live_set_digest(&packs);
        let set =
            Arc::new(LiveSet { heads, access, packs: Arc::new(packs), pack_bytes, missing, digest, seen });
        *cached = Some(Arc::clone(&set));
        Ok(set)
    }

    /// The newest receipt of a seeder, if one that verifies is stored.
    pub fn receipt(&self, seeder: PeerId) -> Outcome<Option<KeptReceipt>> {
        newest_receipt(self.store(), self.no(), seeder)
    }

    /// What the newest receipt and the open session say about a seeder's copy.
    pub fn standing(
        &self,
        seeder: PeerId,
        live: &LiveSet,
        peer: Option<&PeerStatus>,
        now_ms: u64,
    ) -> Outcome<Standing> {
        let kept = self.receipt(seeder)?;
        let contact = match peer.filter(|peer| peer.has_told()) {
            None => Contact::None,
            Some(peer) if peer.is_caught_up() => Contact::CaughtUp,
            Some(_) => Contact::Lacking,
        };
        let holding = match let_go::gone_ms(self, seeder)? {
            Some(_) => Holding::LetGo,
            None => match judge(kept.as_ref(), live, contact, &self.policy(), now_ms) {
                Holding::Behind | Holding::Claimed if self.follows(seeder, live, peer, now_ms) => {
                    Holding::Following
                }
                Holding::Behind if self.is_syncing(seeder, live, peer, kept.as_ref(), now_ms) => {
                    Holding::Syncing
                }
                // What it says after an answer that did not hold counts for nothing.
                Holding::Claimed if self.has_failed(seeder) => Holding::Behind,
                holding => holding,
            },
        };
        Ok(Standing { holding, proved_at_ms: kept.map(|kept| kept.at_ms) })
    }

    /// Whether a seeder's last answer to an audit did not hold.
    fn has_failed(&self, seeder: PeerId) -> bool {
        self.seeders.lock().get(&seeder).is_some_and(|notes| notes.failed)
    }

    /// Whether a connected seeder proved a moment ago, in this session, that it holds everything, and only lacks what
    /// was written since.
    fn follows(&self, seeder: PeerId, live: &LiveSet, peer: Option<&PeerStatus>, now_ms: u64) -> bool {
        let Some(lack) = peer.and_then(Lack::told) else { return false };
        let seeders = self.seeders.lock();
        let notes =
            seeders.get(&seeder).filter(|notes| notes.problem.is_none() && notes.done.proved.is_some());
        let proved = notes.and_then(|notes| notes.proved.clone());
        drop(seeders);
        proved.is_some_and(|(proved, at_ms)| is_following(&proved, at_ms, live, lack, now_ms))
    }
}

impl FolderState {
    /// Notes what a seeder's newest proof covers, and since when that is not everything any more. Looks at a receipt only
    /// where something is live that was not before.
    pub fn note_covered(&self, seeder: PeerId, live: &Arc<LiveSet>) -> Outcome<()> {
        let same = |set: &Option<Arc<LiveSet>>| set.as_ref().is_some_and(|set| Arc::ptr_eq(set, live));
        if self.seeders.lock().get(&seeder).is_some_and(|notes| same(&notes.looked)) {
            return Ok(());
        }
        let covered = self.receipt(seeder)?.is_some_and(|kept| covers(&kept.receipt, live));
        let mut seeders = self.seeders.lock();
        let notes = seeders.entry(seeder).or_default();
        notes.looked = Some(Arc::clone(live));
        if covered {
            (notes.covered, notes.uncovered) = (Some(Arc::clone(live)), None);
        } else {
            notes.uncovered.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Forgets what a seeder had proved that says for some seconds that it lacks more than came since: it lost
    /// something, and must not count again as soon as it is not connected and says nothing. It is challenged anew once it
    /// says that it has everything.
    pub fn note_loss(&self, seeder: PeerId, live: &LiveSet, peer: Option<&PeerStatus>) -> Outcome<()> {
        let lack = peer.and_then(Lack::of_what_is_here);
        if !self.seeders.lock().entry(seeder).or_default().hear_loss(lack, live, Instant::now()) {
            return Ok(());
        }
        tracing::warn!(folder = %self.folder.id(), seeder = %seeder, "a seeder says that it lost something that it had proved");
        self.store().receipt_forget(self.no(), &seeder.to_bytes())?;
        Ok(())
    }

    /// Whether a seeder whose last proof counted for everything a moment ago just lacks what came since.
    fn is_syncing(
        &self,
        seeder: PeerId,
        live: &LiveSet,
        peer: Option<&PeerStatus>,
        kept: Option<&KeptReceipt>,
        now_ms: u64,
    ) -> bool {
        let counts = kept.is_some_and(|kept| self.policy().age(kept.at_ms, now_ms) != Age::Expired);
        let refused = peer.is_some_and(|peer| {
            matches!(peer.session, SessionState::Refused | SessionState::Pending) || peer.full
        });
        let lack = peer.and_then(Lack::told);
        // The time of what is not covered does not begin while all is.
        if kept.is_some_and(|kept| covers(&kept.receipt, live)) {
            return false;
        }
        let noted = {
            let mut seeders = self.seeders.lock();
            let notes = seeders.get_mut(&seeder).filter(|notes| !notes.failed && counts && !refused);
            // Whoever sees first that something is not covered has the time begin.
            notes.and_then(|notes| {
                Some((notes.covered.clone()?, *notes.uncovered.get_or_insert_with(Instant::now)))
            })
        };
        noted.is_some_and(|(covered, since)| is_syncing(&covered, since.elapsed(), live, lack))
    }
}

/// How much a connected seeder says that it lacks.
#[derive(Clone, Copy)]
pub(crate) struct Lack {
    entries: u64,
    packs: u64,
}

impl Lack {
    /// What it says, where it said something.
    pub fn told(peer: &PeerStatus) -> Option<Self> {
        peer.has_told().then_some(Self { entries: peer.entries_behind, packs: peer.packs_lacking })
    }

    /// The same where it speaks of what is known here: of entries and releases that are not here yet nobody can say
    /// whether they are new.
    pub fn of_what_is_here(peer: &PeerStatus) -> Option<Self> {
        Self::told(peer).filter(|_| peer.entries_to_receive == 0 && peer.knows_access)
    }

    /// Whether that is no more than what came after `proved`. One that lacks more has lost something.
    pub fn came_since(self, proved: &LiveSet, live: &LiveSet) -> bool {
        let entries = |set: &LiveSet| set.heads.iter().map(|head| head.seq).sum::<u64>();
        let new_packs = || u64::try_from(live.packs.difference(&proved.packs).count()).unwrap_or(u64::MAX);
        // Each seeder is looked at twice a second, and mostly lacks nothing.
        self.entries <= entries(live).saturating_sub(entries(proved))
            && (self.packs == 0 || self.packs <= new_packs())
    }
}

/// Whether what a seeder did not prove yet is so new that it may just be on its way. `uncovered` is for how long there
/// has been anything that its last proof does not cover, without a pause: it is not prolonged by more that is written.
fn is_syncing(covered: &LiveSet, uncovered: Duration, live: &LiveSet, lack: Option<Lack>) -> bool {
    uncovered <= SYNC_GRACE && lack.is_none_or(|lack| lack.came_since(covered, live))
}

/// Whether a seeder that proved `proved` at `at_ms` only lacks what came since, as far as it says. One proof may fail to
/// come.
fn is_following(proved: &LiveSet, at_ms: u64, live: &LiveSet, lack: Lack, now_ms: u64) -> bool {
    now_ms.abs_diff(at_ms) <= 2 * BUSY_MS && lack.came_since(proved, live)
}

/// Whether a seeder that proved `proved` holds these packs by that, whatever came since; `lack` is what it says that it
/// lacks, where it is connected.
pub(crate) fn still_holds(proved: &LiveSet, live: &LiveSet, lack: Option<Lack>, packs: &[PackId]) -> bool {
    // A file without packs lies in an entry, and only the heads say which entries are held.
    let has_all = !packs.is_empty() && packs.iter().all(|pack| proved.packs.contains(pack));
    // One that lacks more than came since lost something, and nobody here knows what.
    has_all && lack.is_none_or(|lack| lack.came_since(proved, live))
}

/// What a seeder says while it is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contact {
    /// It is not connected, or has said nothing yet.
    None,
    /// It says that it lacks something.
    Lacking,
    /// It says that it holds everything.
    CaughtUp,
}

/// What a kept receipt is worth now.
fn judge(
    kept: Option<&KeptReceipt>,
    live: &LiveSet,
    contact: Contact,
    policy: &Policy,
    now_ms: u64,
) -> Holding {
    // A connected seeder that says it lacks something lost it since it proved it.
    let kept = kept.filter(|kept| contact != Contact::Lacking && covers(&kept.receipt, live));
    match (kept.map(|kept| policy.age(kept.at_ms, now_ms)), contact) {
        (Some(Age::Fresh), _) => Holding::Proved,
        (Some(Age::Late), _) => Holding::Late,
        (_, Contact::CaughtUp) => Holding::Claimed,
        (Some(Age::Expired), _) => Holding::Expired,
        (None, _) => Holding::Behind,
    }
}

fn newest_receipt(store: &Store, no: FolderNo, seeder: PeerId) -> Outcome<Option<KeptReceipt>> {
    let folder = store.folder_id(no)?;
    let wanted = seeder.to_bytes();
    let fits = |kept: &KeptReceipt| kept.receipt.seeder == wanted && kept.receipt.folder == folder;
    Ok(store.receipts(no)?.into_iter().find(fits))
}

/// Whether `receipt` proves a copy of everything that is live.
pub(crate) fn covers(receipt: &Receipt, live: &LiveSet) -> bool {
    reaches(receipt, &live.heads) && receipt.live_set_digest == live.digest
}

/// Whether `receipt` proves a copy of all that entries up to `heads` added. The seeder may be further.
pub(crate) fn reaches(receipt: &Receipt, heads: &[LogHead]) -> bool {
    receipt.is_whole()
        && heads.iter().all(|head| {
            receipt.heads.iter().any(|held| {
                held.log == head.log
                    && (held.seq > head.seq || (held.seq == head.seq && held.hash == head.hash))
            })
        })
}

#[cfg(test)]
pub(super) mod tests {
    use cobox_store::id::{EntryHash, FolderId, LogId};

    use super::*;
    use crate::daemon::folder::SeederNotes;
    use cobox_net::PeerKind;

    fn head(log: u8, seq: u64) -> LogHead {
        LogHead { log: LogId([log; 32]), seq, hash: EntryHash([u8::try_from(seq).expect("small"); 32]) }
    }

    pub fn live(heads: Vec<LogHead>) -> LiveSet {
        let packs: BTreeSet<PackId> = [PackId([1; 32]), PackId([2; 32])].into();
        let digest = live_set_digest(&packs);
        LiveSet {
            heads,
            access: Vec::new(),
            packs: Arc::new(packs),
            pack_bytes: 2,
            missing: 0,
            digest,
            seen: 0,
        }
    }

    fn receipt(live: &LiveSet) -> Receipt {
        Receipt {
            folder: FolderId([0; 32]),
            seeder: Vec::new(),
            nonce: [0; 32],
            heads: live.heads.clone(),
            packs_held: 2,
            packs_lacking: 0,
            samples_asked: 9,
            samples_proved: 9,
            entries_asked: 5,
            entries_proved: 5,
            entries_digest: [0; 32],
            live_set_digest: live.digest,
            time_ms: 0,
            signature: [0; 64],
        }
    }

    #[test]
    fn receipt_over_the_live_set_counts() {
        let live = live(vec![head(1, 4), head(2, 7)]);
        assert!(covers(&receipt(&live), &live));
    }

    #[test]
    fn receipt_with_an_older_head_does_not_count() {
        let now = live(vec![head(1, 5)]);
        assert!(!covers(&receipt(&live(vec![head(1, 4)])), &now));
        assert!(!covers(&receipt(&live(Vec::new())), &now));
    }

    #[test]
    fn receipt_with_another_entry_at_the_same_number_does_not_count() {
        let now = live(vec![head(1, 5)]);
        let mut other = receipt(&now);
        other.heads[0].hash = EntryHash([9; 32]);
        assert!(!reaches(&other, &now.heads));
    }

    #[test]
    fn receipt_that_lacks_a_pack_or_a_sample_does_not_count() {
        let live = live(vec![head(1, 4)]);
        let mut lacking = receipt(&live);
        lacking.packs_lacking = 1;
        let mut unproved = receipt(&live);
        unproved.samples_proved = 8;
        let mut foreign = receipt(&live);
        foreign.live_set_digest = [0; 32];
        let mut hashes_only = receipt(&live);
        hashes_only.entries_proved = 4;
        for bad in [lacking, unproved, foreign, hashes_only] {
            assert!(!covers(&bad, &live), "{bad:?}");
        }
    }

    #[test]
    fn proof_of_a_seeder_that_is_off_ages_by_the_clock() {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        let live = live(vec![head(1, 4)]);
        let policy = Policy::default();
        // The seeder's clock, a century ahead, changes nothing.
        let mut receipt = receipt(&live);
        receipt.time_ms = u64::MAX;
        let kept = KeptReceipt { receipt, at_ms: 1_000 * DAY_MS };
        let after =
            |days: u64, contact| judge(Some(&kept), &live, contact, &policy, kept.at_ms + days * DAY_MS);
        assert_eq!(after(1, Contact::None), Holding::Proved);
        assert_eq!(after(3, Contact::None), Holding::Late);
        assert_eq!(after(8, Contact::None), Holding::Expired);
        assert_eq!(after(8, Contact::CaughtUp), Holding::Claimed);
        assert_eq!(after(1, Contact::Lacking), Holding::Behind);
        assert_eq!(judge(None, &live, Contact::None, &policy, 0), Holding::Behind);
    }

    #[test]
    fn seeder_that_lacks_only_what_came_since_its_proof_follows() {
        let proved = live(vec![head(1, 4)]);
        let mut now = live(vec![head(1, 6)]);
        Arc::make_mut(&mut now.packs).insert(PackId([3; 32]));
        let follows =
            |entries, packs, at_ms| is_following(&proved, 1_000, &now, Lack { entries, packs }, at_ms);
        assert!(follows(2, 1, 2_000) && follows(0, 0, 1_000 + 2 * BUSY_MS));
        assert!(!follows(0, 0, 1_001 + 2 * BUSY_MS), "it was not proved for long");
        assert!(!follows(3, 0, 2_000) && !follows(0, 2, 2_000), "it lost something");
    }

    #[test]
    fn packs_that_were_proved_count_while_newer_ones_travel_and_not_where_the_seeder_lost_something() {
        let proved = live(vec![head(1, 4)]);
        let mut now = live(vec![head(1, 6)]);
        Arc::make_mut(&mut now.packs).insert(PackId([3; 32]));
        let lack = |entries, packs| Some(Lack { entries, packs });
        let holds = |lack, pack| still_holds(&proved, &now, lack, &[PackId([pack; 32])]);
        assert!(holds(None, 1) && holds(lack(0, 0), 2) && holds(lack(2, 1), 1));
        assert!(!holds(None, 3), "it is newer than the proof");
        assert!(!holds(lack(0, 2), 1) && !holds(lack(3, 0), 1), "it lost something");
        assert!(!still_holds(&proved, &now, None, &[]), "it lies in an entry");
    }

    #[test]
    fn copy_that_lacks_what_came_minutes_ago_is_on_its_way_and_what_was_lost_or_waits_for_longer_is_not() {
        let covered = live(vec![head(1, 4)]);
        let mut now = live(vec![head(1, 6)]);
        Arc::make_mut(&mut now.packs).insert(PackId([3; 32]));
        let lack = |entries, packs| Some(Lack { entries, packs });
        let syncing = |since, lack| is_syncing(&covered, since, &now, lack);
        assert!(syncing(Duration::ZERO, None) && syncing(SYNC_GRACE, None), "it is off for a moment");
        assert!(syncing(SYNC_GRACE, lack(2, 1)));
        assert!(!syncing(SYNC_GRACE + Duration::from_millis(1), None), "it is off");
        assert!(
            !syncing(Duration::ZERO, lack(3, 0)) && !syncing(Duration::ZERO, lack(0, 2)),
            "it lost something"
        );
    }

    #[test]
    fn seeder_that_says_for_seconds_that_it_lost_something_has_proved_nothing_any_more() {
        let now = live(vec![head(1, 5)]);
        let proved = Some((Arc::new(live(vec![head(1, 5)])), 5));
        let mut notes = SeederNotes { proved, ..SeederNotes::default() };
        let (whole, lost) = (Some(Lack { entries: 0, packs: 0 }), Some(Lack { entries: 0, packs: 1 }));
        let (start, mut said) = (Instant::now(), Vec::new());
        let mut hear = |lack, ms| {
            said.push(notes.hear_loss(lack, &now, start + Duration::from_millis(ms)));
        };
        // It says something else, or nothing that can be judged, in between.
        let before =
            [(lost, 0), (whole, 4_000), (lost, 6_000), (None, 8_000), (lost, 10_000), (lost, 14_999)];
        before.into_iter().for_each(|(lack, ms)| hear(lack, ms));
        hear(lost, 15_000);
        hear(lost, 60_000);
        assert_eq!(said, [false, false, false, false, false, false, true, false]);
        assert!(notes.proved.is_none() && !notes.failed, "it said so itself");
    }

    #[test]
    fn lack_of_what_is_not_here_yet_is_no_loss() {
        let peer = PeerId::of_key([7; 32]);
        let told = PeerStatus {
            session: SessionState::Open,
            told_lack: true,
            knows_access: true,
            packs_lacking: 3,
            ..PeerStatus::unheard(peer, PeerKind::Seeder)
        };
        assert!(Lack::of_what_is_here(&told).is_some_and(|lack| lack.packs == 3));
        for unsure in [
            PeerStatus { entries_to_receive: 1, ..told.clone() },
            PeerStatus { knows_access: false, ..told.clone() },
            PeerStatus { told_lack: false, ..told },
        ] {
            assert!(Lack::of_what_is_here(&unsure).is_none());
        }
    }

    #[test]
    fn receipt_of_a_seeder_that_is_further_reaches() {
        let mut newer = receipt(&live(vec![head(1, 9), head(2, 1)]));
        newer.live_set_digest = [0; 32];
        assert!(reaches(&newer, &[head(1, 4)]));
    }
}
