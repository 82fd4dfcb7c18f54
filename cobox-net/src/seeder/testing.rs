//! A seeder's state without a network, and folders whose founder grants it something: for tests.

use std::sync::Arc;

use cobox_store::blind::kembox::{Purpose, seal};
use cobox_store::blind::{Store, StoreKind};
use cobox_store::format::access::{
    Act, Device, NewEpoch, Record, Role, SEALED_LABEL_BYTES, SeederGrant, Unsigned,
};
use cobox_store::format::agreement::{SignedTerms, Terms};
use cobox_store::id::{EpochId, FolderId, FolderNo, KemKey, LogId, MemberId, RecordHash, hash};
use ed25519_dalek::{Signer as _, SigningKey};

use super::Accept;
use super::holding::Holding;
use super::identity::Identity;
use super::limits::Limits;
use crate::peer_id::PeerId;
use crate::wire::GrantAnswer;

/// A seeder that does not run.
pub(super) struct Scene {
    pub(super) holding: Arc<Holding>,
    _dir: tempfile::TempDir,
}

impl Scene {
    pub(super) fn new(accept: Accept) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = Store::create(&dir.path().join("store"), StoreKind::Seeder).expect("creates");
        let identity = Identity::open_or_create(dir.path()).expect("makes keys");
        let holding = Holding::new(store, identity, accept, dir.path()).expect("opens");
        Self { holding, _dir: dir }
    }

    /// Offers the folder as it is now.
    pub(super) fn offer(&self, folder: &Folder) -> GrantAnswer {
        let from = PeerId::of_key([9; 32]);
        self.holding.decide(from, folder.records.clone()).expect("an answer").1
    }

    /// Has what the folder's founder signed since.
    pub(super) fn learn(&self, folder: &Folder) -> FolderNo {
        let no = self.holding.store.folder_no(folder.id()).expect("it is held");
        for record in folder.records.iter().skip(1) {
            self.holding.store.access_add(no, record).expect("admitted");
        }
        self.holding.refresh(no);
        no
    }

    /// Terms with this seeder that it has signed, without an end.
    pub(super) fn signed(&self, folder: &Folder, quota_bytes: u64, notice_ms: u64) -> SignedTerms {
        let terms = Terms {
            folder: folder.id(),
            seeder: self.holding.identity.peer().to_bytes(),
            quota_bytes,
            from_ms: 1,
            until_ms: 0,
            notice_ms,
            audit_ms: 24 * 60 * 60 * 1000,
            place: String::new(),
            organisation: String::new(),
            contact: String::new(),
            member_contact: String::new(),
        };
        let signature = SigningKey::from_bytes(&self.holding.identity.seed).sign(&terms.signed_bytes());
        SignedTerms { terms, signature: signature.to_bytes() }
    }
}

/// A folder, as its founder's device writes its access log.
pub(super) struct Folder {
    founder: SigningKey,
    epoch: RecordHash,
    pub(super) records: Vec<Record>,
}

impl Folder {
    pub(super) fn new(number: u8) -> Self {
        let founder = SigningKey::from_bytes(&[number; 32]);
        let mut folder = Self { founder, epoch: RecordHash([0; 32]), records: Vec::new() };
        let device = Device {
            log: LogId(folder.founder.verifying_key().to_bytes()),
            kem: KemKey(hash(&[number])),
            member: MemberId(
                SigningKey::from_bytes(&[number, 1].repeat(16).try_into().expect("32"))
                    .verifying_key()
                    .to_bytes(),
            ),
            recovery_kem: KemKey(hash(&[number, 2])),
            role: Role::Admin,
            label: [0; SEALED_LABEL_BYTES],
        };
        folder.sign(Act::Genesis {
            nonce: [number; 32],
            fold_case: false,
            unicode: [17, 0],
            device,
            name: [0; SEALED_LABEL_BYTES],
        });
        let epoch = NewEpoch { commit: [7; 32], boxes: vec![], swarm_boxes: vec![], previous: vec![] };
        folder.epoch = folder.sign(Act::NewEpoch(epoch)).hash();
        folder
    }

    pub(super) fn id(&self) -> FolderId {
        self.records[0].folder()
    }

    /// Signs on top of all there is, with a clock that stands at 0.
    pub(super) fn sign(&mut self, act: Act) -> Record {
        let parents: Vec<RecordHash> = self.records.last().map(Record::hash).into_iter().collect();
        let folder = if parents.is_empty() { FolderId([0; 32]) } else { self.id() };
        let author = self.founder.verifying_key().to_bytes();
        let content = Unsigned { folder, parents, author, issued_ms: 0, act };
        let signature = self.founder.sign(&content.signed_bytes()).to_bytes();
        let record = Record::new(content, signature);
        self.records.push(record.clone());
        record
    }

    pub(super) fn grant(mut self, scene: &Scene, limits: Limits) -> Self {
        let identity = &scene.holding.identity;
        let (kem, epoch) = (identity.kem.public(), EpochId(self.epoch.0));
        let swarm_box = seal(Purpose::Swarm, self.id(), kem, &epoch.0, &[5; 32]).expect("a valid key");
        self.sign(Act::GrantSeeder(SeederGrant {
            peer_id: identity.peer().to_bytes(),
            kem,
            quota_bytes: limits.quota_bytes,
            until_ms: limits.until_ms,
            addresses: vec![],
            swarm_epoch: epoch,
            swarm_box,
        }));
        self
    }
}
