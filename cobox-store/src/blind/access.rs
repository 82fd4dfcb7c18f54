//! The access log of a folder, resolved: who may do what.
//!
//! Records form a DAG (`graph.rs`). A record is kept if its author was allowed it by what it builds on;
//! which of those that are kept count is decided over all of them (`resolve.rs`). Neither depends on the
//! order of arrival.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use super::batch::{Batch, Durability};
use super::contracts::{Agreed, Proposal, SeedState};
use super::effects::stage_effects;
use super::graph::{Bits, Graph};
use super::resolve::{Counts, Scope, View, decide};
use super::store::{Added, Store};
use super::summary::{Given, summarise};
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::access::{Act, Device, NewEpoch, Record, Role, SeederGrant, UnverifiedRecord};
use crate::format::membership::OpenInvite;
use crate::format::release::{Call, Release};
use crate::format::seeding::{CopiesPolicy, OpenSeed};
use crate::id::{EntryHash, EpochId, FolderId, FolderNo, InviteKey, KemKey, LogId, MemberId, RecordHash};

/// A person in a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The recovery key for boxes.
    pub kem: KemKey,
    /// The highest role of the member's devices.
    pub role: Role,
}

/// Where the log of a device that may not write ends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogEnd {
    /// The last entry that counts; 0 for none.
    pub seq: u64,
    /// What it may be: more than one only where the device signed two with that number.
    pub hashes: BTreeSet<EntryHash>,
}

/// How far an invite is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InviteState {
    /// It can be redeemed, until it expires.
    Open,
    /// An admin took it back.
    Void,
    /// A device joined with it.
    Used(LogId),
    /// Two devices came at the same time, and neither was let in.
    Clashed,
}

/// The resolved state of an access log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// Of which folder.
    pub folder: FolderId,
    /// The record that began it.
    pub genesis: Record,
    /// Devices by their logs, with the roles they have now.
    pub devices: BTreeMap<LogId, Device>,
    /// Devices that were listed once and are no more, or whose listing fell.
    pub former: BTreeMap<LogId, Device>,
    /// Members by their recovery keys.
    pub members: BTreeMap<MemberId, Member>,
    /// Ends of logs whose devices do not write (any more).
    pub ends: BTreeMap<LogId, LogEnd>,
    /// Entries of those logs that removals and vouches name: what leads to them counts, in whichever branch.
    pub named: BTreeMap<LogId, BTreeSet<(u64, EntryHash)>>,
    /// Grants with their records, earlier ones first.
    pub seeders: Vec<(RecordHash, SeederGrant)>,
    /// The latest grant of each seeder that has none any more, and when it was taken back, in milliseconds
    /// since 1970 by the clock of whoever did.
    pub revoked: Vec<(u64, SeederGrant)>,
    /// The newest agreement with each seeder.
    pub agreements: Vec<Agreed>,
    /// What waits for a seeder's answer.
    pub proposals: Vec<Proposal>,
    /// How many copies the group wants, where it said so.
    pub policy: Option<CopiesPolicy>,
    /// Codes that a seeder redeems.
    pub seed_codes: BTreeMap<InviteKey, (OpenSeed, SeedState)>,
    /// Calls to acknowledge that are not over for good, by their records.
    pub calls: BTreeMap<RecordHash, Arc<Call>>,
    /// Releases of packs, by their records.
    pub releases: BTreeMap<RecordHash, Arc<Release>>,
    /// Invites.
    pub invites: BTreeMap<InviteKey, (OpenInvite, InviteState)>,
    /// Epochs with the parents of their records.
    pub epochs: BTreeMap<EpochId, (Arc<NewEpoch>, Vec<RecordHash>)>,
    /// Records that no record builds on, ascending.
    pub heads: Vec<RecordHash>,
    /// Epochs that no epoch builds on, ascending.
    pub epoch_heads: Vec<EpochId>,
    /// Those of them whose keys are not boxed to exactly the devices and members that their author knew
    /// of: somebody was left out, or let in.
    pub odd_epochs: Vec<EpochId>,
    /// Those of them that only who is here now knows; ascending.
    pub sealing: Vec<EpochId>,
}

impl Access {
    /// What a device may do; `None` for a stranger.
    #[must_use]
    pub fn role_of(&self, log: &LogId) -> Option<Role> {
        self.devices.get(log).map(|device| device.role)
    }

    /// Whether a device is listed, or was.
    #[must_use]
    pub fn has_listed(&self, log: &LogId) -> bool {
        self.devices.contains_key(log) || self.former.contains_key(log)
    }

    /// Whether a device may write entries.
    #[must_use]
    pub fn may_write(&self, log: &LogId) -> bool {
        self.role_of(log) >= Some(Role::Write)
    }

    /// Whether an entry counts: its device may write, or its log ends no earlier.
    #[must_use]
    pub fn admits(&self, log: &LogId, seq: u64, hash: &EntryHash) -> bool {
        self.may_write(log)
            || self
                .ends
                .get(log)
                .is_some_and(|end| seq < end.seq || (seq == end.seq && end.hashes.contains(hash)))
    }

    /// The epoch to seal with: the greatest of those that nobody else knows, so that all devices choose
    /// the same. `None` until somebody begins one after a removal.
    #[must_use]
    pub fn epoch(&self) -> Option<EpochId> {
        self.sealing.last().copied()
    }

    /// The latest grant to a seeder.
    #[must_use]
    pub fn seeder(&self, peer_id: &[u8]) -> Option<&SeederGrant> {
        self.seeders.iter().rev().map(|(_, grant)| grant).find(|grant| grant.peer_id == peer_id)
    }

    /// The agreement with a seeder.
    #[must_use]
    pub fn agreement(&self, peer_id: &[u8]) -> Option<&Agreed> {
        self.agreements.iter().find(|agreed| agreed.signed.terms.seeder == peer_id)
    }

    /// What was proposed to a seeder and waits for its answer.
    #[must_use]
    pub fn proposal(&self, peer_id: &[u8]) -> Option<&Proposal> {
        self.proposals.iter().find(|proposal| proposal.terms.seeder == peer_id)
    }

    /// The latest grant to a seeder that was taken back, and when.
    #[must_use]
    pub fn revoked_seeder(&self, peer_id: &[u8]) -> Option<&(u64, SeederGrant)> {
        self.revoked.iter().find(|(_, grant)| grant.peer_id == peer_id)
    }
}

/// The logs of all folders, as far as they were read.
#[derive(Default)]
pub(super) struct AccessLogs(Mutex<HashMap<FolderNo, AccessLog>>);

/// All admitted records of one folder, and what follows from them as far as it was asked for.
pub(super) struct AccessLog {
    folder: FolderId,
    graph: Graph,
    /// Records that no record builds on.
    heads: BTreeSet<RecordHash>,
    epochs: BTreeMap<EpochId, (Arc<NewEpoch>, Vec<RecordHash>)>,
    calls: BTreeMap<RecordHash, Arc<Call>>,
    releases: BTreeMap<RecordHash, Arc<Release>>,
    counts: Option<Arc<Counts>>,
    resolved: Option<Arc<Access>>,
}

impl AccessLogs {
    pub(super) fn forget(&self, no: FolderNo) {
        self.0.lock().remove(&no);
    }
}

impl Store {
    /// The resolved state.
    ///
    /// # Errors
    /// [`Error::UnknownFolderNo`], or when the disk cannot be read.
    pub fn access(&self, no: FolderNo) -> Result<Arc<Access>> {
        self.with_log(no, |log| Ok(log.resolved()))
    }

    /// Whether a record is in the log.
    ///
    /// # Errors
    /// See [`Self::access`].
    pub fn access_has(&self, no: FolderNo, record: &RecordHash) -> Result<bool> {
        self.with_log(no, |log| Ok(log.graph.nth(record).is_some()))
    }

    /// Takes a record into the log; durable on return.
    ///
    /// # Errors
    /// [`Error::Premature`] when parents are missing; [`Error::Access`] when its author was not permitted
    /// to do this, by what the record builds on.
    pub fn access_add(&self, no: FolderNo, record: &Record) -> Result<Added> {
        // No entry is between its check and its commit while the rules change.
        let _still = self.logs.adding();
        let added = self.with_log(no, |log| {
            if log.graph.nth(&record.hash()).is_some() {
                return Ok(Added::Known);
            }
            log.admit(record)?;
            let mut batch = Batch::default();
            stage_record(no, log.graph.nodes.len() as u64, record, &mut batch);
            stage_effects(no, record, &mut batch);
            self.db().commit(batch, Durability::Synced)?;
            log.insert(record.clone());
            Ok(Added::New)
        })?;
        if added == Added::New {
            self.settle_effects(no, record)?;
            self.watch().bump(no);
        }
        Ok(added)
    }

    /// All records, parents before children.
    ///
    /// # Errors
    /// See [`Self::access`].
    pub fn access_records(&self, no: FolderNo) -> Result<Vec<Record>> {
        self.with_log(no, |log| Ok(log.graph.nodes.iter().map(|node| node.record.clone()).collect()))
    }

    fn with_log<T>(&self, no: FolderNo, work: impl FnOnce(&mut AccessLog) -> Result<T>) -> Result<T> {
        let mut logs = self.access_logs.0.lock();
        if let Some(log) = logs.get_mut(&no) {
            return work(log);
        }
        let log = self.read_log(no)?;
        work(logs.entry(no).or_insert(log))
    }

    fn read_log(&self, no: FolderNo) -> Result<AccessLog> {
        self.folder_id(no)?;
        let mut records = Vec::new();
        let mut wrong = Ok(());
        self.db().scan(&key(no, Table::AccessRecord, &[]), &[], &mut |_, bytes| {
            match UnverifiedRecord::decode(bytes).map(UnverifiedRecord::verify) {
                Ok(Ok(record)) => records.push(record),
                Ok(Err(_)) => wrong = Err(Error::Sealed),
                Err(error) => wrong = Err(error.into()),
            }
            if wrong.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        wrong?;
        let mut records = records.into_iter();
        let mut log = AccessLog::new(records.next().ok_or(Error::UnknownFolderNo(no))?);
        for record in records {
            if log.graph.seen_by(&record.content().parents).is_none() {
                return Err(Error::Sealed);
            }
            log.insert(record);
        }
        Ok(log)
    }
}

/// Adds the rows of a record at `position` of its log.
pub(super) fn stage_record(no: FolderNo, position: u64, record: &Record, batch: &mut Batch) {
    batch.put(&key(no, Table::AccessRecord, &position.to_be_bytes()), &record.encode());
    batch.put(&key(no, Table::AccessByHash, &record.hash().0), &position.to_be_bytes());
}

impl AccessLog {
    /// A log that begins with its genesis.
    pub(super) fn new(genesis: Record) -> Self {
        let mut log = Self {
            folder: genesis.folder(),
            graph: Graph::default(),
            heads: BTreeSet::new(),
            epochs: BTreeMap::new(),
            calls: BTreeMap::new(),
            releases: BTreeMap::new(),
            counts: None,
            resolved: None,
        };
        log.insert(genesis);
        log
    }

    /// Takes a record whose parents are here, without asking whether it may.
    pub(super) fn insert(&mut self, record: Record) {
        let content = record.content();
        for parent in &content.parents {
            self.heads.remove(parent);
        }
        let hash = record.hash();
        self.heads.insert(hash);
        match &content.act {
            Act::NewEpoch(epoch) => {
                let kept = (Arc::new(epoch.clone()), content.parents.clone());
                self.epochs.insert(EpochId(hash.0), kept);
            }
            Act::Call(call) => drop(self.calls.insert(hash, Arc::new(call.clone()))),
            Act::Release(release) => drop(self.releases.insert(hash, Arc::new(release.clone()))),
            _ => {}
        }
        let (deeds, contested) = (self.graph.deeds.len(), !self.graph.bounds.is_empty());
        self.graph.insert(record);
        // Between removals it matters who built on what; without any, only deeds matter.
        if self.graph.deeds.len() > deeds || contested {
            self.counts = None;
        }
        self.resolved = None;
    }

    /// Whether the rules admit `record` after its ancestors.
    pub(super) fn admit(&mut self, record: &Record) -> Result<()> {
        let content = record.content();
        let refused = || Error::Access { record: record.hash() };
        if record.folder() != self.folder || matches!(content.act, Act::Genesis { .. }) {
            return Err(refused());
        }
        let (parents, seen) = self.graph.seen_by(&content.parents).ok_or(Error::Premature)?;
        let newest = self.heads.iter().all(|head| content.parents.contains(head));
        let counts = if newest {
            self.counts()
        } else {
            let bounded = self.graph.bounds.iter().any(|bound| seen.get(bound.deed));
            let past = if bounded { self.graph.past_of(&parents) } else { Bits::default() };
            Arc::new(decide(&self.graph, Scope::Past(&seen, &past)))
        };
        let view = View { graph: &self.graph, seen: Some(&seen), counts: &counts };
        if view.permits(&content.author, &content.act) { Ok(()) } else { Err(refused()) }
    }

    fn counts(&mut self) -> Arc<Counts> {
        let graph = &self.graph;
        Arc::clone(self.counts.get_or_insert_with(|| Arc::new(decide(graph, Scope::All))))
    }

    /// The state that follows from all records.
    pub(super) fn resolved(&mut self) -> Arc<Access> {
        let counts = self.counts();
        let fresh = || {
            let heads = self.heads.iter().copied().collect();
            let given = Given { epochs: &self.epochs, calls: &self.calls, releases: &self.releases };
            Arc::new(summarise(self.folder, &self.graph, &counts, heads, &given))
        };
        Arc::clone(self.resolved.get_or_insert_with(fresh))
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::testing::{Founder, add_device, device_of, grant, new_epoch, new_store, sign_record};
    use super::*;

    #[test]
    fn records_in_any_order_give_the_same_state() {
        let founder = Founder::new(1);
        let (dir, store, no) = new_store(&founder);
        let reader = SigningKey::from_bytes(&[50; 32]);
        let epoch = new_epoch(&founder.key, &founder, &[founder.hash()], 1);
        let other_epoch = new_epoch(&founder.key, &founder, &[founder.hash()], 2);
        let device = device_of(&reader, 60, Role::Write);
        let added = add_device(&founder.key, &founder, &[epoch.hash()], device);
        let grant = grant(&founder.key, &founder, &[epoch.hash(), other_epoch.hash()], 7);
        let third = new_epoch(&reader, &founder, &[added.hash()], 3);
        for record in [&epoch, &other_epoch, &added, &grant, &third] {
            assert_eq!(store.access_add(no, record).expect("admitted"), Added::New);
            assert_eq!(store.access_add(no, record).expect("admitted"), Added::Known);
        }
        let (_dir, other, other_no) = new_store(&founder);
        assert!(matches!(other.access_add(other_no, &third), Err(Error::Premature)));
        for record in [&other_epoch, &epoch, &grant, &added, &third] {
            other.access_add(other_no, record).expect("admitted");
        }
        let state = store.access(no).expect("reads");
        assert_eq!(*state, *other.access(other_no).expect("reads"));
        assert_eq!(state.devices.len(), 2);
        let mut heads = vec![grant.hash(), third.hash()];
        heads.sort_unstable();
        assert_eq!(state.heads, heads);
        assert_eq!(state.epoch_heads.len(), 2);
        drop(store);
        let store = Store::open(dir.path(), super::super::store::StoreKind::Seeder).expect("opens");
        assert_eq!(*store.access(no).expect("reads"), *state);
        assert_eq!(store.access_records(no).expect("reads").len(), 6);
    }

    #[test]
    fn record_of_an_author_without_the_role_is_refused() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let parents = [founder.hash()];
        let (reader, writer) = (SigningKey::from_bytes(&[50; 32]), SigningKey::from_bytes(&[51; 32]));
        let first = add_device(&founder.key, &founder, &parents, device_of(&reader, 60, Role::Read));
        let second = add_device(&founder.key, &founder, &parents, device_of(&writer, 61, Role::Write));
        store.access_add(no, &first).expect("admitted");
        store.access_add(no, &second).expect("admitted");
        let stranger = SigningKey::from_bytes(&[99; 32]);
        let both = {
            let mut both = vec![first.hash(), second.hash()];
            both.sort_unstable();
            both
        };
        let more = device_of(&stranger, 62, Role::Read);
        for refused in [
            new_epoch(&reader, &founder, &both, 1),
            grant(&writer, &founder, &both, 1),
            add_device(&writer, &founder, &both, more.clone()),
            new_epoch(&stranger, &founder, &both, 1),
            // The writer is not a device yet in what this record builds on.
            new_epoch(&writer, &founder, &[first.hash()], 1),
            add_device(&founder.key, &founder, &both, device_of(&reader, 60, Role::Admin)),
        ] {
            assert!(matches!(store.access_add(no, &refused), Err(Error::Access { .. })));
        }
        store.access_add(no, &new_epoch(&writer, &founder, &both, 1)).expect("writers rotate");
        assert!(store.access_add(no, &Founder::new(2).genesis).is_err());
    }

    #[test]
    fn epoch_boxed_to_a_stranger_or_without_a_member_is_an_alarm() {
        use crate::format::access::{BOX_BYTES, KeyBox};
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let device = founder.device();
        let mut parents = vec![founder.hash()];
        let mut begin = |mut recipients: Vec<KemKey>| {
            recipients.sort_unstable();
            let boxes = recipients
                .into_iter()
                .map(|recipient| KeyBox { recipient, sealed: [0; BOX_BYTES] })
                .collect();
            let epoch = NewEpoch { commit: [9; 32], boxes, swarm_boxes: vec![], previous: vec![] };
            let record = sign_record(&founder.key, &founder, &parents, Act::NewEpoch(epoch));
            store.access_add(no, &record).expect("admitted");
            parents = vec![record.hash()];
            (EpochId(record.hash().0), store.access(no).expect("reads").odd_epochs.clone())
        };
        let (everyone, stranger) = (vec![device.kem, device.recovery_kem], KemKey([9; 32]));
        assert_eq!(begin(everyone.clone()).1, []);
        let (id, odd) = begin([everyone.clone(), vec![stranger]].concat());
        assert_eq!(odd, [id]);
        let (id, odd) = begin(vec![device.kem]);
        assert_eq!(odd, [id]);
        assert_eq!(begin(everyone).1, [], "an epoch after it is right again");
    }

    #[test]
    fn recovery_key_adds_only_its_own_member_at_the_members_role() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let recovery = SigningKey::from_bytes(&founder.recovery_seed);
        let fresh = SigningKey::from_bytes(&[70; 32]);
        let mut device = founder.device();
        device.log = LogId(fresh.verifying_key().to_bytes());
        let mut lower = device.clone();
        lower.role = Role::Write;
        let mut other_member = device.clone();
        other_member.member = MemberId([9; 32]);
        let mut other_kem = device.clone();
        other_kem.recovery_kem = KemKey([9; 32]);
        let parents = [founder.hash()];
        for refused in [lower, other_member, other_kem] {
            let record = add_device(&recovery, &founder, &parents, refused);
            assert!(matches!(store.access_add(no, &record), Err(Error::Access { .. })));
        }
        let record = add_device(&recovery, &founder, &parents, device.clone());
        store.access_add(no, &record).expect("recovers");
        assert!(store.access(no).expect("reads").may_write(&device.log));
        let epoch = sign_record(&recovery, &founder, &[record.hash()], new_epoch_act(4));
        assert!(store.access_add(no, &epoch).is_err(), "a recovery key does nothing else");
    }

    fn new_epoch_act(number: u8) -> Act {
        Act::NewEpoch(NewEpoch { commit: [number; 32], boxes: vec![], swarm_boxes: vec![], previous: vec![] })
    }

    #[test]
    fn revoked_seeder_is_granted_no_more_until_it_is_granted_again() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let first = grant(&founder.key, &founder, &[founder.hash()], 7);
        let Act::GrantSeeder(granted) = first.content().act.clone() else { panic!("a grant") };
        let peer_id = granted.peer_id.clone();
        let revoke = sign_record(
            &founder.key,
            &founder,
            &[first.hash()],
            Act::RevokeSeeder { peer_id: peer_id.clone() },
        );
        // A grant that knew nothing of the revocation does not outlive it.
        let beside =
            sign_record(&founder.key, &founder, &[founder.hash()], Act::GrantSeeder(granted.clone()));
        let again = sign_record(&founder.key, &founder, &[revoke.hash()], Act::GrantSeeder(granted.clone()));
        store.access_add(no, &first).expect("admitted");
        assert!(store.access(no).expect("reads").seeder(&peer_id).is_some());
        for record in [&revoke, &beside] {
            store.access_add(no, record).expect("admitted");
            let access = store.access(no).expect("reads");
            assert_eq!(access.seeder(&peer_id), None);
            assert_eq!(access.revoked_seeder(&peer_id).map(|(_, grant)| grant), Some(&granted));
        }
        store.access_add(no, &again).expect("admitted");
        let access = store.access(no).expect("reads");
        assert_eq!((access.seeder(&peer_id), access.revoked.len()), (Some(&granted), 0));
        let stranger = SigningKey::from_bytes(&[99; 32]);
        let act = Act::RevokeSeeder { peer_id };
        let refused = sign_record(&stranger, &founder, &[again.hash()], act);
        assert!(matches!(store.access_add(no, &refused), Err(Error::Access { .. })));
    }

    #[test]
    fn epoch_chosen_is_the_greatest_that_nothing_supersedes() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        assert_eq!(store.access(no).expect("reads").epoch(), None);
        let mut parents = vec![founder.hash()];
        for number in 0..5 {
            let epoch = new_epoch(&founder.key, &founder, &parents, number);
            store.access_add(no, &epoch).expect("admitted");
            assert_eq!(store.access(no).expect("reads").epoch(), Some(EpochId(epoch.hash().0)));
            parents = vec![epoch.hash()];
        }
    }
}
