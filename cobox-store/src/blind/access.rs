//! The access log of a folder, resolved: who may do what.
//!
//! Records form a DAG. Whether a record is admitted depends on its ancestors only, and the resolved
//! state is folded over all admitted records in a canonical order, so neither depends on the order
//! of arrival. Nothing here is ever revoked yet: a removal would be one more pass over the admitted
//! records before they are folded.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use super::batch::{Batch, Durability};
use super::store::{Added, Store};
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::access::{Act, Device, NewEpoch, Record, Role, SeederGrant, UnverifiedRecord};
use crate::id::{EpochId, FolderId, FolderNo, KemKey, LogId, MemberId, RecordHash};

/// A person in a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The recovery key for boxes.
    pub kem: KemKey,
    /// The highest role of the member's devices.
    pub role: Role,
}

/// The resolved state of an access log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// Of which folder.
    pub folder: FolderId,
    /// The record that began it.
    pub genesis: Record,
    /// Devices by their logs.
    pub devices: BTreeMap<LogId, Device>,
    /// Members by their recovery keys.
    pub members: BTreeMap<MemberId, Member>,
    /// Grants with their records, earlier ones first.
    pub seeders: Vec<(RecordHash, SeederGrant)>,
    /// Epochs with the parents of their records.
    pub epochs: BTreeMap<EpochId, (NewEpoch, Vec<RecordHash>)>,
    /// Records that no record builds on, ascending.
    pub heads: Vec<RecordHash>,
    /// Epochs that no epoch builds on, ascending.
    pub epoch_heads: Vec<EpochId>,
    /// Those of them whose keys are not boxed to exactly the devices and members that their author knew
    /// of: somebody was left out, or let in.
    pub odd_epochs: Vec<EpochId>,
}

impl Access {
    /// What a device may do; `None` for a stranger.
    #[must_use]
    pub fn role_of(&self, log: &LogId) -> Option<Role> {
        self.devices.get(log).map(|device| device.role)
    }

    /// Whether a device may write entries.
    #[must_use]
    pub fn may_write(&self, log: &LogId) -> bool {
        self.role_of(log) >= Some(Role::Write)
    }

    /// The epoch to seal with: the greatest of the heads, so that all devices choose the same.
    #[must_use]
    pub fn epoch(&self) -> Option<EpochId> {
        self.epoch_heads.last().copied()
    }

    /// The latest grant to a seeder.
    #[must_use]
    pub fn seeder(&self, peer_id: &[u8]) -> Option<&SeederGrant> {
        self.seeders.iter().rev().map(|(_, grant)| grant).find(|grant| grant.peer_id == peer_id)
    }
}

/// The logs of all folders, as far as they were read.
#[derive(Default)]
pub(super) struct AccessLogs(Mutex<HashMap<FolderNo, Graph>>);

/// All admitted records of one folder.
struct Graph {
    nodes: HashMap<RecordHash, Node>,
    /// Parents before children, as they arrived.
    order: Vec<RecordHash>,
    resolved: Arc<Access>,
}

struct Node {
    record: Record,
    /// Longest way from the genesis.
    depth: u32,
}

impl Store {
    /// The resolved state.
    ///
    /// # Errors
    /// [`Error::UnknownFolderNo`], or when the disk cannot be read.
    pub fn access(&self, no: FolderNo) -> Result<Arc<Access>> {
        self.with_graph(no, |graph| Ok(Arc::clone(&graph.resolved)))
    }

    /// Takes a record into the log; durable on return.
    ///
    /// # Errors
    /// [`Error::Premature`] when parents are missing; [`Error::Access`] when its author was not permitted
    /// to do this, by what the record builds on.
    pub fn access_add(&self, no: FolderNo, record: &Record) -> Result<Added> {
        let added = self.with_graph(no, |graph| {
            let hash = record.hash();
            if graph.nodes.contains_key(&hash) {
                return Ok(Added::Known);
            }
            let folder = graph.resolved.folder;
            graph.admit(folder, record)?;
            let mut batch = Batch::default();
            stage_record(no, graph.order.len() as u64, record, &mut batch);
            self.db().commit(batch, Durability::Synced)?;
            graph.insert(record.clone());
            graph.resolved = Arc::new(graph.resolve(Arc::clone(&graph.resolved)));
            Ok(Added::New)
        })?;
        if added == Added::New {
            self.watch().bump(no);
        }
        Ok(added)
    }

    /// All records, parents before children.
    ///
    /// # Errors
    /// See [`Self::access`].
    pub fn access_records(&self, no: FolderNo) -> Result<Vec<Record>> {
        self.with_graph(no, |graph| {
            let records = graph.order.iter().filter_map(|hash| graph.nodes.get(hash));
            Ok(records.map(|node| node.record.clone()).collect())
        })
    }

    fn with_graph<T>(&self, no: FolderNo, work: impl FnOnce(&mut Graph) -> Result<T>) -> Result<T> {
        let mut logs = self.access_logs.0.lock();
        if let Some(graph) = logs.get_mut(&no) {
            return work(graph);
        }
        let graph = self.read_graph(no)?;
        work(logs.entry(no).or_insert(graph))
    }

    fn read_graph(&self, no: FolderNo) -> Result<Graph> {
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
        let genesis = records.next().ok_or(Error::UnknownFolderNo(no))?;
        let mut graph = Graph::new(genesis);
        for record in records {
            graph.insert(record);
        }
        graph.resolved = Arc::new(graph.resolve(Arc::clone(&graph.resolved)));
        Ok(graph)
    }
}

/// Adds the rows of a record at `position` of its log.
pub(super) fn stage_record(no: FolderNo, position: u64, record: &Record, batch: &mut Batch) {
    batch.put(&key(no, Table::AccessRecord, &position.to_be_bytes()), &record.encode());
    batch.put(&key(no, Table::AccessByHash, &record.hash().0), &position.to_be_bytes());
}

impl Graph {
    fn new(genesis: Record) -> Self {
        let empty = Access {
            folder: genesis.folder(),
            genesis: genesis.clone(),
            devices: BTreeMap::new(),
            members: BTreeMap::new(),
            seeders: Vec::new(),
            epochs: BTreeMap::new(),
            heads: Vec::new(),
            epoch_heads: Vec::new(),
            odd_epochs: Vec::new(),
        };
        let mut graph = Self { nodes: HashMap::new(), order: Vec::new(), resolved: Arc::new(empty) };
        graph.insert(genesis);
        graph.resolved = Arc::new(graph.resolve(Arc::clone(&graph.resolved)));
        graph
    }

    fn insert(&mut self, record: Record) {
        let parents = record.content().parents.iter().filter_map(|parent| self.nodes.get(parent));
        let depth = parents.map(|node| node.depth + 1).max().unwrap_or(0);
        let hash = record.hash();
        self.nodes.insert(hash, Node { record, depth });
        self.order.push(hash);
    }

    /// Whether the rules admit `record` after its ancestors.
    fn admit(&self, folder: FolderId, record: &Record) -> Result<()> {
        let content = record.content();
        let refused = || Error::Access { record: record.hash() };
        if record.folder() != folder || matches!(content.act, Act::Genesis { .. }) {
            return Err(refused());
        }
        if content.parents.iter().any(|parent| !self.nodes.contains_key(parent)) {
            return Err(Error::Premature);
        }
        let past = self.fold(&self.ancestors(&content.parents));
        if permitted(&past, &content.author, &content.act) { Ok(()) } else { Err(refused()) }
    }

    /// `from` and everything it builds on.
    fn ancestors(&self, from: &[RecordHash]) -> BTreeSet<RecordHash> {
        let mut found: BTreeSet<RecordHash> = from.iter().copied().collect();
        let mut ahead = from.to_vec();
        while let Some(hash) = ahead.pop() {
            for parent in self.nodes.get(&hash).map_or(&[][..], |node| &node.record.content().parents) {
                if found.insert(*parent) {
                    ahead.push(*parent);
                }
            }
        }
        found
    }

    /// Devices and members after the given records. The canonical order is by depth, then by hash:
    /// where two concurrent records admit one device, the first of them stands.
    fn fold(&self, records: &BTreeSet<RecordHash>) -> People {
        let mut people = People::default();
        for node in self.canonical(records) {
            match &node.record.content().act {
                Act::Genesis { device, .. } | Act::AddDevice { device } => people.add(device),
                Act::GrantSeeder(_) | Act::NewEpoch(_) => {}
            }
        }
        people
    }

    fn canonical(&self, records: &BTreeSet<RecordHash>) -> Vec<&Node> {
        let mut nodes: Vec<(u32, &RecordHash, &Node)> = records
            .iter()
            .filter_map(|hash| self.nodes.get(hash).map(|node| (node.depth, hash, node)))
            .collect();
        nodes.sort_by_key(|(depth, hash, _)| (*depth, **hash));
        nodes.into_iter().map(|(_, _, node)| node).collect()
    }

    fn resolve(&self, before: Arc<Access>) -> Access {
        let all: BTreeSet<RecordHash> = self.nodes.keys().copied().collect();
        let people = self.fold(&all);
        let mut heads = all.clone();
        let mut seeders = Vec::new();
        let mut epochs = BTreeMap::new();
        for node in self.canonical(&all) {
            let content = node.record.content();
            for parent in &content.parents {
                heads.remove(parent);
            }
            match &content.act {
                Act::GrantSeeder(grant) => seeders.push((node.record.hash(), grant.clone())),
                Act::NewEpoch(epoch) => {
                    let id = EpochId(node.record.hash().0);
                    epochs.insert(id, (epoch.clone(), content.parents.clone()));
                }
                Act::Genesis { .. } | Act::AddDevice { .. } => {}
            }
        }
        let mut superseded = BTreeSet::new();
        for (id, (_, parents)) in epochs.iter() {
            // What a superseded epoch supersedes, its successor supersedes as well.
            if !superseded.contains(id) {
                superseded.extend(self.ancestors(parents).into_iter().map(|hash| EpochId(hash.0)));
            }
        }
        let epoch_heads: Vec<EpochId> =
            epochs.keys().filter(|id| !superseded.contains(id)).copied().collect();
        let odd = |id: &&EpochId| {
            epochs.get(id).is_some_and(|(epoch, parents)| !self.boxed_to_everyone(epoch, parents))
        };
        Access {
            folder: before.folder,
            genesis: before.genesis.clone(),
            odd_epochs: epoch_heads.iter().filter(odd).copied().collect(),
            devices: people.devices,
            members: people.members,
            seeders,
            heads: heads.into_iter().collect(),
            epoch_heads,
            epochs,
        }
    }

    /// Whether an epoch's boxes are for the devices and members of what its record builds on.
    fn boxed_to_everyone(&self, epoch: &NewEpoch, parents: &[RecordHash]) -> bool {
        let past = self.fold(&self.ancestors(parents));
        let devices = past.devices.values().map(|device| device.kem);
        let expected: BTreeSet<KemKey> =
            devices.chain(past.members.values().map(|member| member.kem)).collect();
        let boxed: BTreeSet<KemKey> = epoch.boxes.iter().map(|key_box| key_box.recipient).collect();
        boxed == expected
    }
}

#[derive(Default)]
struct People {
    devices: BTreeMap<LogId, Device>,
    members: BTreeMap<MemberId, Member>,
}

impl People {
    fn add(&mut self, device: &Device) {
        if self.devices.contains_key(&device.log) {
            return;
        }
        self.devices.insert(device.log, device.clone());
        let fresh = Member { kem: device.recovery_kem, role: device.role };
        let member = self.members.entry(device.member).or_insert(fresh);
        member.role = member.role.max(device.role);
    }
}

fn permitted(past: &People, author: &[u8; 32], act: &Act) -> bool {
    let role = past.devices.get(&LogId(*author)).map(|device| device.role);
    match act {
        Act::Genesis { .. } => false,
        Act::GrantSeeder(_) => role == Some(Role::Admin),
        Act::NewEpoch(_) => role >= Some(Role::Write),
        Act::AddDevice { device } => {
            let known = past.devices.contains_key(&device.log);
            let member = past.members.get(&device.member);
            let same_keys = member.is_none_or(|member| member.kem == device.recovery_kem);
            // A recovery key adds devices of its own member, at the role the member has.
            let recovers =
                device.member.0 == *author && member.is_some_and(|member| member.role == device.role);
            let fits = !known && same_keys && device.role >= Role::Read;
            fits && (role == Some(Role::Admin) || recovers)
        }
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
