//! The story: from 24 words, over what a seeder holds, to the bytes of files.

use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use super::{noise, seed};
use crate::blind::kembox::{self, KemSecret, Purpose};
use crate::format::access::{Act, Device, KeyBox, NewEpoch, Record, Role, SeederGrant, Unsigned};
use crate::format::address::SeederAddress;
use crate::format::content::{ChunkRef, Content, Extent};
use crate::format::device::PendingRow;
use crate::format::entry::{Body, Entry, Header, LogHead};
use crate::format::locator::{Locator, LocatorFolder};
use crate::format::op::{Kind, Make, Op, OpGroup};
use crate::format::pack::ChunkType;
use crate::id::{EntryHash, EpochId, FolderId, Ino, KemKey, LogId, OpId, RecordHash, derive, hex};
use crate::keyed::epoch::{self, EpochKeys};
use crate::keyed::label::{LabelKey, LabelOf};
use crate::keyed::pack::{ClosedPack, PackBuilder, PackNonces};
use crate::keyed::seal::SealedChunk;
use crate::keyed::secret::{MemberSecret, RecoveryKeys, Secret32};
use crate::keyed::{aead, locator, log, seal};

const HLC: u64 = 1_790_000_000_000 << 16;

/// Everything the story is made of.
pub(super) struct Story {
    pub(super) secret: MemberSecret,
    pub(super) folder: FolderId,
    pub(super) records: Vec<Record>,
    pub(super) entries: Vec<Entry>,
    pub(super) bodies: Vec<Body>,
    pub(super) packs: Vec<ClosedPack>,
    pub(super) locator: Locator,
    pub(super) locator_folders: Vec<LocatorFolder>,
    pub(super) seeder: SeederAddress,
    files: Vec<(&'static str, Vec<u8>)>,
}

fn secret(name: &str) -> Secret32 {
    Secret32::take(&mut seed(name))
}

fn nonce(name: &str) -> [u8; 24] {
    seed(name)[..24].try_into().expect("32 bytes hold 24")
}

struct Who {
    sign: SigningKey,
    kem: KemSecret,
}

impl Who {
    fn named(name: &str) -> Self {
        Self {
            sign: SigningKey::from_bytes(&seed(&format!("{name} sign"))),
            kem: KemSecret::from_seed(&seed(&format!("{name} kem"))),
        }
    }

    fn log(&self) -> LogId {
        LogId(self.sign.verifying_key().to_bytes())
    }

    fn device(&self, recovery: &RecoveryKeys, label: &str) -> Device {
        let labels = LabelKey::new(&secret("epoch 1"));
        let sealed = labels.seal_at(LabelOf::Device, label, &nonce(label));
        Device {
            log: self.log(),
            kem: self.kem.public(),
            member: recovery.member(),
            recovery_kem: recovery.kem_key(),
            role: Role::Admin,
            label: sealed.try_into().expect("padded"),
        }
    }
}

fn record(sign: &SigningKey, folder: FolderId, parents: Vec<RecordHash>, act: Act) -> Record {
    let author = sign.verifying_key().to_bytes();
    let content = Unsigned { folder, parents, author, issued_ms: 1_790_000_000_000, act };
    let signature = sign.sign(&content.signed_bytes()).to_bytes();
    Record::new(content, signature)
}

fn key_box(purpose: Purpose, folder: FolderId, to: KemKey, aad: &[u8; 32], boxed: &Secret32) -> KeyBox {
    let sealed = kembox::seal_from_seed(
        purpose,
        folder,
        to,
        aad,
        boxed.expose(),
        &derive("test vectors", &[&to.0, aad]),
    );
    KeyBox { recipient: to, sealed: sealed.expect("a usable key") }
}

fn new_epoch(
    folder: FolderId,
    of: &Secret32,
    people: &[KemKey],
    seeders: &[KemKey],
    older: &[&EpochKeys],
) -> NewEpoch {
    let commit = epoch::commit(of);
    let swarm = epoch::swarm_secret(of, folder);
    let mut boxes: Vec<KeyBox> =
        people.iter().map(|to| key_box(Purpose::Epoch, folder, *to, &commit, of)).collect();
    boxes.sort_by_key(|key_box| key_box.recipient);
    let swarm_boxes =
        seeders.iter().map(|to| key_box(Purpose::Swarm, folder, *to, &commit, &swarm)).collect();
    let wrap_key = Secret32::derived("epoch wrap", &[of.expose(), &folder.0]);
    let wrap = |keys: &&EpochKeys| {
        let sealed = aead::seal_at(wrap_key.expose(), &keys.id().0, &nonce("wrap"), keys.secret().expose());
        (keys.id(), sealed.try_into().expect("32 bytes and the overhead"))
    };
    NewEpoch { commit, boxes, swarm_boxes, previous: older.iter().map(wrap).collect() }
}

/// `plain ‖ run` as a zstd frame of one raw and one run-length block (RFC 8878, section 3.1.1), so that a
/// reader needs no more of zstd than these.
fn zstd_frame(plain: &[u8], byte: u8, run: u32) -> (Vec<u8>, Vec<u8>) {
    let block = |last: u32, kind: u32, size: u32| (last | kind << 1 | size << 3).to_le_bytes()[..3].to_vec();
    let plain_len = u32::try_from(plain.len()).expect("short");
    // One segment, with the content's size in four bytes and no checksum.
    let header = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &(plain_len + run).to_le_bytes()].concat();
    let frame = [header, block(0, 0, plain_len), plain.to_vec(), block(1, 1, run), vec![byte]].concat();
    (frame, [plain, &vec![byte; run as usize]].concat())
}

fn compressed(keys: &EpochKeys, frame: &[u8], plain: &[u8]) -> SealedChunk {
    let plain_len = u32::try_from(plain.len()).expect("a chunk is below 4 GiB");
    let sealed = seal::seal_packed(keys, ChunkType::Data, [&[1], frame].concat(), plain_len);
    let opened = seal::open(keys, ChunkType::Data, sealed.chunk.tag, sealed.bytes.clone()).expect("opens");
    assert_eq!(*opened, *plain);
    sealed
}

fn raw(keys: &EpochKeys, plains: &[Vec<u8>]) -> Vec<SealedChunk> {
    plains.iter().map(|plain| seal::seal(keys, ChunkType::Data, plain)).collect()
}

fn pack(keys: &Arc<EpochKeys>, name: &str, chunks: &[SealedChunk]) -> (ClosedPack, Vec<Extent>) {
    let mut builder = PackBuilder::new(keys.clone());
    let mut extents = Vec::new();
    for sealed in chunks {
        extents.push(Extent::Data { len: sealed.plain_len, chunk: sealed.chunk });
        builder.push(sealed);
    }
    let part = |part: &str| seed(&format!("{name} {part}"));
    let nonces = PackNonces { directory: part("directory"), footer: part("footer"), fill: part("fill") };
    (builder.close_at(&nonces), extents)
}

fn make(name: &str) -> (Ino, Op) {
    let material =
        [Ino::ROOT.0.as_slice(), &[Kind::File as u8], &0u32.to_le_bytes(), name.as_bytes()].concat();
    let ino = Ino(derive("ino", &[&material])[..16].try_into().expect("32 bytes hold 16"));
    let make = Make {
        parent: Ino::ROOT,
        name: name.as_bytes().to_vec(),
        kind: Kind::File,
        generation: 0,
        mode: 0o644,
        mtime_ns: 1_790_000_000_000_000_000,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        target: Vec::new(),
    };
    (ino, Op::Make(make))
}

fn put(ino: Ino, parents: Vec<OpId>, content: Content) -> Op {
    Op::Put { ino, parents, content, mtime_ns: 1_790_000_000_000_000_000 }
}

/// One entry after `before`, of the device `who`.
struct Writing<'a> {
    who: &'a Who,
    keys: &'a EpochKeys,
    heads: Vec<RecordHash>,
    deps: Vec<LogHead>,
    groups: Vec<OpGroup>,
    packs: Vec<PendingRow>,
}

fn entry(writing: Writing<'_>, before: Option<&Entry>) -> (Entry, Body) {
    let (seq, prev) =
        before.map_or((1, EntryHash([0; 32])), |entry| (entry.header().seq + 1, entry.header().hash()));
    let body = Body {
        deps: writing.deps,
        hlc: writing.groups.last().map_or(HLC, OpGroup::hlc_last),
        groups: writing.groups,
        directories: writing.packs.iter().map(|row| Some(row.directory.clone())).collect(),
        state_sum: [0; 32],
    };
    let header = Header {
        folder: writing.keys.folder(),
        log: writing.who.log(),
        seq,
        prev,
        access_heads: writing.heads,
        epoch: writing.keys.id(),
        packs: writing.packs.iter().map(|row| row.pack).collect(),
        body_size: 0,
        body_hash: [0; 32],
    };
    let (header, sealed) = log::seal_body(writing.keys, header, &body, &seed("entry"));
    let signature = writing.who.sign.sign(&header.signed_bytes()).to_bytes();
    (Entry::new(header, signature, sealed), body)
}

fn row(pack: &ClosedPack) -> PendingRow {
    PendingRow { pack: pack.outboard.pack(), epoch: pack.keys.id(), directory: pack.rows.clone() }
}

/// Genesis, first epoch, grant, a second device by the words, second epoch.
fn access(secret_words: &MemberSecret, seeder: &SeederAddress) -> (Vec<Record>, Vec<Arc<EpochKeys>>) {
    let (one, two, recovery) = (Who::named("device 1"), Who::named("device 2"), secret_words.recovery(0));
    let labels = LabelKey::new(&secret("epoch 1"));
    let name = labels.seal_at(LabelOf::Folder, "Familie", &nonce("name")).try_into().expect("padded");
    let device = one.device(&recovery, "Büro");
    let act = Act::Genesis { nonce: seed("genesis"), fold_case: false, unicode: [16, 0], device, name };
    let genesis = record(&one.sign, FolderId([0; 32]), vec![], act);
    let folder = genesis.folder();
    let people = [one.kem.public(), recovery.kem_key()];
    let first = new_epoch(folder, &secret("epoch 1"), &people, &[], &[]);
    let first = record(&one.sign, folder, vec![genesis.hash()], Act::NewEpoch(first));
    let old = Arc::new(EpochKeys::new(folder, EpochId(first.hash().0), secret("epoch 1")));
    let swarm = key_box(Purpose::Swarm, folder, seeder.kem, &old.id().0, &old.swarm_secret());
    let grant = Act::GrantSeeder(SeederGrant {
        peer_id: seeder.peer_id.clone(),
        kem: seeder.kem,
        quota_bytes: 50_000_000_000,
        until_ms: 0,
        addresses: seeder.addresses.clone(),
        swarm_epoch: old.id(),
        swarm_box: swarm.sealed,
    });
    let grant = record(&one.sign, folder, vec![first.hash()], grant);
    let device = two.device(&recovery, "laptop");
    let admit = record(&recovery.sign, folder, vec![grant.hash()], Act::AddDevice { device });
    let people = [one.kem.public(), two.kem.public(), recovery.kem_key()];
    let second = new_epoch(folder, &secret("epoch 2"), &people, &[seeder.kem], &[&old]);
    let second = record(&two.sign, folder, vec![admit.hash()], Act::NewEpoch(second));
    let new = Arc::new(EpochKeys::new(folder, EpochId(second.hash().0), secret("epoch 2")));
    (vec![genesis, first, grant, admit, second], vec![old, new])
}

/// Makes the story.
pub(super) fn told() -> Story {
    let words = MemberSecret::fixed(seed("member"));
    let peer_id = [&[0, 36, 8, 1, 18, 32], seed("peer").as_slice()].concat();
    let addresses = vec![vec![4, 192, 0, 2, 7, 6, 0x0f, 0xa1]];
    let seeder =
        SeederAddress { peer_id, kem: KemSecret::from_seed(&seed("seeder kem")).public(), addresses };
    let (records, epochs) = access(&words, &seeder);
    let folder = records[0].folder();
    let (one, two) = (Who::named("device 1"), Who::named("device 2"));

    let plains = [noise("chunk 1", 1500), noise("chunk 2", 900)];
    let (pack_one, mut extents) = pack(&epochs[0], "pack 1", &raw(&epochs[0], &plains));
    extents.insert(1, Extent::Hole { len: 5000 });
    let ((hello, make_hello), (data, make_data)) = (make("hello.txt"), make("daten.bin"));
    let first_put = OpId { hlc: HLC + 1, log: one.log().number() };
    let groups = vec![
        OpGroup { hlc: HLC, ops: vec![make_hello, put(hello, vec![], Content::Inline(b"hello".to_vec()))] },
        OpGroup { hlc: HLC + 16, ops: vec![make_data, put(data, vec![], Content::Extents(extents))] },
    ];
    let heads = vec![records[2].hash()];
    let writing =
        Writing { who: &one, keys: &epochs[0], heads, deps: vec![], groups, packs: vec![row(&pack_one)] };
    let (entry_one, body_one) = entry(writing, None);

    let later = noise("chunk 3", 2000);
    let (frame, run) = zstd_frame(b"repeated: ", b'=', 7000);
    let mut chunks = raw(&epochs[1], std::slice::from_ref(&later));
    chunks.push(compressed(&epochs[1], &frame, &run));
    let (pack_two, extents) = pack(&epochs[1], "pack 2", &chunks);
    let later = [later, run].concat();
    let groups =
        vec![OpGroup { hlc: HLC + 65536, ops: vec![put(hello, vec![first_put], Content::Extents(extents))] }];
    let deps = vec![LogHead { log: one.log(), seq: 1, hash: entry_one.header().hash() }];
    let heads = vec![records[4].hash()];
    let writing = Writing { who: &two, keys: &epochs[1], heads, deps, groups, packs: vec![row(&pack_two)] };
    let (entry_two, body_two) = entry(writing, None);

    let locator_folders =
        vec![LocatorFolder { folder, index: 0, name: b"Familie".to_vec(), seeders: vec![seeder.clone()] }];
    let locator = locator::seal(&words.locator(), 1_790_000_000_000, &locator_folders, &seed("locator"));
    let data_bytes = [plains[0].clone(), vec![0; 5000], plains[1].clone()].concat();
    Story {
        secret: words,
        folder,
        records,
        entries: vec![entry_one, entry_two],
        bodies: vec![body_one, body_two],
        packs: vec![pack_one, pack_two],
        locator,
        locator_folders,
        seeder,
        files: vec![("hello.txt", later), ("daten.bin", data_bytes)],
    }
}

fn bent(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// The story as a vector, with the ways to break it.
pub(super) fn story() -> Value {
    let story = told();
    let hexes = |all: &[Vec<u8>]| all.iter().map(|bytes| hex(bytes)).collect::<Vec<_>>();
    let records: Vec<Vec<u8>> = story.records.iter().map(Record::encode).collect();
    let entries: Vec<Vec<u8>> = story.entries.iter().map(Entry::encode).collect();
    let packs: Vec<Vec<u8>> = story.packs.iter().map(|pack| pack.bytes.clone()).collect();
    let other = MemberSecret::fixed(seed("stranger"));
    let files: serde_json::Map<String, Value> =
        story.files.iter().map(|(name, bytes)| ((*name).to_owned(), json!(hex(bytes)))).collect();
    let locator = story.locator.encode();
    let last = entries[1].len() - 1;
    let broken = json!([
        { "name": "other words", "change": { "words": other.words().as_str() } },
        { "name": "locator with a bent signature", "change": { "locator": hex(&bent(&locator, locator.len() - 1)) } },
        { "name": "locator with a bent inside", "change": { "locator": hex(&bent(&locator, 200)) } },
        { "name": "no first epoch", "change": { "records": hexes(&[&records[..1], &records[2..]].concat()) } },
        { "name": "bent record", "change": { "records": hexes(&[vec![bent(&records[0], 90)], records[1..].to_vec()].concat()) } },
        { "name": "entry with a bent body", "change": { "entries": hexes(&[entries[0].clone(), bent(&entries[1], last)]) } },
        { "name": "entry with a bent header", "change": { "entries": hexes(&[bent(&entries[0], 66), entries[1].clone()]) } },
        { "name": "entry twice", "change": { "entries": hexes(&[entries[0].clone(), entries[0].clone(), entries[1].clone()]) } },
        { "name": "pack with a bent chunk", "change": { "packs": hexes(&[bent(&packs[0], 7), packs[1].clone()]) } },
        { "name": "pack with bent fill", "change": { "packs": hexes(&[packs[0].clone(), bent(&packs[1], 4000)]) } },
        { "name": "a pack is missing", "change": { "packs": hexes(&packs[..1]) } },
    ]);
    json!({
        "kind": "story",
        "words": story.secret.words().as_str(),
        "locator": hex(&locator),
        "records": hexes(&records),
        "entries": hexes(&entries),
        "packs": hexes(&packs),
        "expect": {
            "locator_id": story.locator.id().to_hex(),
            "folder_id": story.folder.to_hex(),
            "folder_name": "Familie",
            "device_label": "Büro",
            "files": files,
        },
        "broken": broken,
    })
}

/// A reference to a chunk of the story.
pub(super) fn chunk_ref(story: &Story) -> ChunkRef {
    ChunkRef { epoch: story.packs[0].keys.id(), tag: story.packs[0].rows[0].tag }
}
