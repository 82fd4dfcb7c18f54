//! A folder with one device and one epoch: real signatures, made-up contents.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;
use std::sync::Arc;

use cobox_store::blind::{Store, StoreKind};
use cobox_store::format::access::{Act, Device, NewEpoch, Record, Role, SEALED_LABEL_BYTES, Unsigned};
use cobox_store::format::entry::{Entry, Header};
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::Outboard;
use cobox_store::format::release::Release;
use cobox_store::id::{
    EntryHash, EpochId, FolderId, FolderNo, KemKey, LogId, MemberId, PackId, RecordHash, hash,
};
use ed25519_dalek::{Signer as _, SigningKey};

/// An open store and the device that writes to it.
pub struct Folder {
    pub store: Arc<Store>,
    pub no: FolderNo,
    key: SigningKey,
    id: FolderId,
    epoch: RecordHash,
}

impl Folder {
    /// Opens or makes the store in `dir`, with the same folder each time.
    pub fn open(dir: &Path) -> Self {
        let store = match Store::open(dir, StoreKind::Seeder) {
            Err(cobox_store::Error::NotAStore { .. }) => Store::create(dir, StoreKind::Seeder),
            other => other,
        }
        .expect("store opens");
        let key = SigningKey::from_bytes(&[1; 32]);
        let genesis = genesis(&key);
        let no = store.folder_add(&genesis).expect("folder is added");
        let commit = NewEpoch { commit: [1; 32], boxes: vec![], swarm_boxes: vec![], previous: vec![] };
        let epoch = sign(&key, genesis.folder(), vec![genesis.hash()], Act::NewEpoch(commit));
        store.access_add(no, &epoch).expect("epoch is added");
        Self { store, no, key, id: genesis.folder(), epoch: epoch.hash() }
    }

    pub fn log(&self) -> LogId {
        LogId(self.key.verifying_key().to_bytes())
    }

    /// Stores these packs and an entry that lists them.
    pub fn add(&self, packs: &[Vec<u8>]) -> Vec<PackRef> {
        let packs: Vec<(Outboard, Vec<u8>)> =
            packs.iter().map(|bytes| (Outboard::of(bytes), bytes.clone())).collect();
        let refs: Vec<PackRef> = packs.iter().map(|(outboard, _)| outboard.pack()).collect();
        self.store.packs_put(self.no, &packs).expect("stored");
        self.store.entry_add(self.no, &self.next_entry(&refs, b"")).expect("taken");
        refs
    }

    /// Releases these packs, as far as entries until now list them.
    pub fn release(&self, packs: &[PackRef]) {
        let mut packs: Vec<PackId> = packs.iter().map(|pack| pack.id).collect();
        packs.sort_unstable();
        let head = self.store.log_head(self.no, self.log()).expect("head is read").expect("it wrote");
        let act = Act::Release(Release { cut: vec![(head.log, head.seq)], packs, young: Vec::new() });
        let heads = self.store.access(self.no).expect("access is read").heads.clone();
        let record = sign(&self.key, self.id, heads, act);
        self.store.access_add(self.no, &record).expect("an admin's");
    }

    /// The entry that continues the log as it is stored.
    pub fn next_entry(&self, packs: &[PackRef], body: &[u8]) -> Entry {
        let head = self.store.log_head(self.no, self.log()).expect("head is read");
        let (seq, prev) = head.map_or((0, EntryHash([0; 32])), |head| (head.seq, head.hash));
        let body = [&[0; 64], body].concat();
        let header = Header {
            folder: self.id,
            log: self.log(),
            seq: seq + 1,
            prev,
            access_heads: vec![self.epoch],
            epoch: EpochId(self.epoch.0),
            packs: packs.to_vec(),
            body_size: u32::try_from(body.len()).expect("short"),
            body_hash: hash(&body),
        };
        let signature = self.key.sign(&header.signed_bytes()).to_bytes();
        Entry::new(header, signature, body)
    }
}

fn genesis(key: &SigningKey) -> Record {
    let device = Device {
        log: LogId(key.verifying_key().to_bytes()),
        kem: KemKey([2; 32]),
        member: MemberId([3; 32]),
        recovery_kem: KemKey([4; 32]),
        role: Role::Admin,
        label: [0; SEALED_LABEL_BYTES],
    };
    let name = [0; SEALED_LABEL_BYTES];
    let act = Act::Genesis { nonce: [0; 32], fold_case: false, unicode: [17, 0], device, name };
    sign(key, FolderId([0; 32]), vec![], act)
}

fn sign(key: &SigningKey, folder: FolderId, parents: Vec<RecordHash>, act: Act) -> Record {
    let content = Unsigned { folder, parents, author: key.verifying_key().to_bytes(), issued_ms: 0, act };
    let signature = key.sign(&content.signed_bytes()).to_bytes();
    Record::new(content, signature)
}

/// Pseudo-random numbers and bytes that a seed repeats.
pub struct Dice(blake3::OutputReader);

impl Dice {
    pub fn new(seed: u64, round: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("cobox test dice");
        hasher.update(&seed.to_le_bytes()).update(&round.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        let mut word = [0; 8];
        self.0.fill(&mut word);
        u64::from_le_bytes(word) % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.fill(&mut bytes);
        bytes
    }
}
