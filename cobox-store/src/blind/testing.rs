//! Folders, records and entries for the tests of this module: real signatures, made-up contents.

use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};

use super::store::{Store, StoreKind};
use crate::format::access::{
    Act, BOX_BYTES, Device, NewEpoch, Record, Role, SEALED_LABEL_BYTES, SeederGrant, Unsigned,
};
use crate::format::entry::{Entry, Header};
use crate::format::pack::PackRef;
use crate::id::{EntryHash, EpochId, FolderId, FolderNo, KemKey, LogId, MemberId, RecordHash, hash};

pub(super) struct Founder {
    pub(super) key: SigningKey,
    pub(super) recovery_seed: [u8; 32],
    pub(super) genesis: Record,
}

impl Founder {
    pub(super) fn new(number: u8) -> Self {
        let key = SigningKey::from_bytes(&[number; 32]);
        let recovery_seed = [number.wrapping_add(100); 32];
        let act = Act::Genesis {
            nonce: [number; 32],
            fold_case: false,
            unicode: [17, 0],
            device: device_of(&key, recovery_seed[0], Role::Admin),
            name: [0; SEALED_LABEL_BYTES],
        };
        let genesis = sign(&key, FolderId([0; 32]), &[], act);
        Self { key, recovery_seed, genesis }
    }

    pub(super) fn folder(&self) -> FolderId {
        self.genesis.folder()
    }

    pub(super) fn hash(&self) -> RecordHash {
        self.genesis.hash()
    }

    pub(super) fn device(&self) -> Device {
        device_of(&self.key, self.recovery_seed[0], Role::Admin)
    }
}

pub(super) fn device_of(key: &SigningKey, recovery: u8, role: Role) -> Device {
    let member = SigningKey::from_bytes(&[recovery; 32]).verifying_key().to_bytes();
    Device {
        log: LogId(key.verifying_key().to_bytes()),
        kem: KemKey(hash(&key.to_bytes())),
        member: MemberId(member),
        recovery_kem: KemKey(hash(&[recovery; 32])),
        role,
        label: [0; SEALED_LABEL_BYTES],
    }
}

fn sign(key: &SigningKey, folder: FolderId, parents: &[RecordHash], act: Act) -> Record {
    let mut parents = parents.to_vec();
    parents.sort_unstable();
    let content = Unsigned { folder, parents, author: key.verifying_key().to_bytes(), issued_ms: 0, act };
    let signature = key.sign(&content.signed_bytes()).to_bytes();
    Record::new(content, signature)
}

pub(super) fn sign_record(key: &SigningKey, founder: &Founder, parents: &[RecordHash], act: Act) -> Record {
    sign(key, founder.folder(), parents, act)
}

pub(super) fn add_device(
    key: &SigningKey,
    founder: &Founder,
    parents: &[RecordHash],
    device: Device,
) -> Record {
    sign_record(key, founder, parents, Act::AddDevice { device })
}

pub(super) fn new_epoch(key: &SigningKey, founder: &Founder, parents: &[RecordHash], number: u8) -> Record {
    let epoch = NewEpoch { commit: [number; 32], boxes: vec![], swarm_boxes: vec![], previous: vec![] };
    sign_record(key, founder, parents, Act::NewEpoch(epoch))
}

pub(super) fn grant(key: &SigningKey, founder: &Founder, parents: &[RecordHash], seeder: u8) -> Record {
    let grant = SeederGrant {
        peer_id: vec![seeder],
        kem: KemKey([seeder; 32]),
        quota_bytes: 1 << 30,
        until_ms: 0,
        addresses: vec![],
        swarm_epoch: EpochId([0; 32]),
        swarm_box: [0; BOX_BYTES],
    };
    sign_record(key, founder, parents, Act::GrantSeeder(grant))
}

/// A seeder's store with the founder's folder.
pub(super) fn new_store(founder: &Founder) -> (tempfile::TempDir, Arc<Store>, FolderNo) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let store = Store::create(dir.path(), StoreKind::Seeder).expect("creates");
    let no = store.folder_add(&founder.genesis).expect("adds");
    (dir, store, no)
}

/// A device that writes entries under one epoch.
pub(super) struct Author {
    key: SigningKey,
    folder: FolderId,
    epoch: RecordHash,
    pub(super) seq: u64,
    pub(super) prev: EntryHash,
}

impl Author {
    /// The founder, with a first epoch that is added to the store.
    pub(super) fn new(founder: &Founder, store: &Store, no: FolderNo) -> Self {
        let epoch = new_epoch(&founder.key, founder, &[founder.hash()], 1);
        store.access_add(no, &epoch).expect("admitted");
        let prev = EntryHash([0; 32]);
        Self { key: founder.key.clone(), folder: founder.folder(), epoch: epoch.hash(), seq: 0, prev }
    }

    pub(super) fn with_key(&self, key: SigningKey) -> Self {
        Self { key, folder: self.folder, epoch: self.epoch, seq: 0, prev: EntryHash([0; 32]) }
    }

    /// A copy of it.
    pub(super) fn alike(&self) -> Self {
        Self { key: self.key.clone(), ..*self }
    }

    /// What a record may build on at first.
    pub(super) fn heads(&self) -> Vec<RecordHash> {
        vec![self.epoch]
    }

    pub(super) fn log(&self) -> LogId {
        LogId(self.key.verifying_key().to_bytes())
    }

    /// The next entry, without remembering it.
    pub(super) fn draft(&self, packs: &[PackRef], body: &[u8]) -> Entry {
        let body = [&[0; 64], body].concat();
        let header = Header {
            folder: self.folder,
            log: self.log(),
            seq: self.seq + 1,
            prev: self.prev,
            access_heads: vec![self.epoch],
            epoch: EpochId(self.epoch.0),
            packs: packs.to_vec(),
            body_size: u32::try_from(body.len()).expect("short"),
            body_hash: hash(&body),
        };
        let signature = self.key.sign(&header.signed_bytes()).to_bytes();
        Entry::new(header, signature, body)
    }

    /// The next entry.
    pub(super) fn write(&mut self, packs: &[PackRef], body: &[u8]) -> Entry {
        let entry = self.draft(packs, body);
        self.seq += 1;
        self.prev = entry.header().hash();
        entry
    }
}

/// `size` bytes that depend on `seed`.
pub(super) fn pack_bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new_derive_key("test pack").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
