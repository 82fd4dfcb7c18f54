//! When a copy counts: the rule that turns a seeder's newest receipt into "claimed" or "proved".
//!
//! A copy is proved when the newest receipt covers the folder's heads, the seeder holds every live pack
//! (its digest of them is ours), and every sample was proved. Green is proved, never merely sent.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use cobox_net::{PeerId, PeerStatus, SessionState};
use cobox_store::blind::tables::{Table, key};
use cobox_store::blind::{PackState, Store};
use cobox_store::format::entry::LogHead;
use cobox_store::format::receipt::{Receipt, live_set_digest};
use cobox_store::id::{FolderNo, PackId};

use super::folder::FolderState;
use crate::exit::Outcome;
use crate::report::Holding;

/// The live packs of a folder as of `heads`.
pub(crate) struct LiveSet {
    pub heads: Vec<LogHead>,
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
        if let Some(set) =
            cached.as_ref().filter(|set| set.heads == heads && (set.missing == 0 || set.seen == seen))
        {
            return Ok(Arc::clone(set));
        }
        let (mut packs, mut pack_bytes, mut missing) = (BTreeSet::new(), 0u64, 0u64);
        self.store().packs_live(self.no(), &mut |pack, state| {
            packs.insert(pack.id);
            pack_bytes = pack_bytes.saturating_add(pack.size);
            missing += u64::from(state == PackState::Missing);
        })?;
        let digest = live_set_digest(&packs);
        let set = Arc::new(LiveSet { heads, packs: Arc::new(packs), pack_bytes, missing, digest, seen });
        *cached = Some(Arc::clone(&set));
        Ok(set)
    }

    /// The newest receipt of a seeder, if one that verifies is stored.
    pub fn receipt(&self, seeder: PeerId) -> Outcome<Option<Receipt>> {
        newest_receipt(self.store(), self.no(), seeder)
    }

    /// What the newest receipt and the open session say about a seeder's copy.
    pub fn standing(&self, seeder: PeerId, live: &LiveSet, peer: Option<&PeerStatus>) -> Outcome<Standing> {
        let receipt = self.receipt(seeder)?;
        let proved_at_ms = receipt.as_ref().map(|receipt| receipt.time_ms);
        // A connected seeder that says it lacks something lost it since it proved it.
        let lost = peer.is_some_and(|peer| peer.session == SessionState::Open && !peer.is_caught_up());
        let holding = if !lost && receipt.is_some_and(|receipt| covers(&receipt, live)) {
            Holding::Proved
        } else if peer.is_some_and(PeerStatus::is_caught_up) {
            Holding::Claimed
        } else {
            Holding::Behind
        };
        Ok(Standing { holding, proved_at_ms })
    }
}

fn newest_receipt(store: &Store, no: FolderNo, seeder: PeerId) -> Outcome<Option<Receipt>> {
    let folder = store.folder_id(no)?;
    let wanted = seeder.to_bytes();
    Ok(store.receipts(no)?.into_iter().find(|receipt| receipt.seeder == wanted && receipt.folder == folder))
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
mod tests {
    use cobox_store::id::{EntryHash, FolderId, LogId};

    use super::*;

    fn head(log: u8, seq: u64) -> LogHead {
        LogHead { log: LogId([log; 32]), seq, hash: EntryHash([u8::try_from(seq).expect("small"); 32]) }
    }

    fn live(heads: Vec<LogHead>) -> LiveSet {
        let packs: BTreeSet<PackId> = [PackId([1; 32]), PackId([2; 32])].into();
        let digest = live_set_digest(&packs);
        LiveSet { heads, packs: Arc::new(packs), pack_bytes: 2, missing: 0, digest, seen: 0 }
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
        assert!(!covers(&lacking, &live) && !covers(&unproved, &live) && !covers(&foreign, &live));
    }

    #[test]
    fn receipt_of_a_seeder_that_is_further_reaches() {
        let mut newer = receipt(&live(vec![head(1, 9), head(2, 1)]));
        newer.live_set_digest = [0; 32];
        assert!(reaches(&newer, &[head(1, 4)]));
    }
}
