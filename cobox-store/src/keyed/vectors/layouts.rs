//! Layouts alone: bytes that a decoder must take, and bytes with one fault that it must refuse.

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use super::story::{Story, chunk_ref, told};
use super::{codes, noise, seed};
use crate::format::access::{Act, Device, Record, Role, SEALED_LABEL_BYTES, Unsigned, UnverifiedRecord};
use crate::format::address::SeederAddress;
use crate::format::codec::{Reader, Writer};
use crate::format::content::{Content, Extent, Node};
use crate::format::entry::{Body, LogHead, UnverifiedEntry};
use crate::format::locator::{UnverifiedLocator, decode_folders, encode_folders};
use crate::format::op::{Op, OpGroup};
use crate::format::pack::{Footer, PackRef, decode_directory, encode_directory};
use crate::format::proof::{Challenge, LeafProof, Outboard};
use crate::format::release::{self, Call, Release};
use crate::format::seeding::CopiesPolicy;
use crate::format::{membership, seeding};
use crate::id::{EntryHash, FolderId, Ino, KemKey, LinkId, LogId, MemberId, OpId, PackId, RecordHash, hex};
use crate::keyed::MemberSecret;

/// The cases of one layout, each checked against the decoder as it is added.
pub(super) struct Cases {
    /// Decodes and encodes again; `None` where the bytes are refused.
    again: fn(&[u8], &Value) -> Option<Vec<u8>>,
    pub(super) cases: Vec<Value>,
}

impl Cases {
    pub(super) fn new(again: fn(&[u8], &Value) -> Option<Vec<u8>>) -> Self {
        Self { again, cases: Vec::new() }
    }

    pub(super) fn add(&mut self, name: &str, bytes: &[u8], accept: &str, extra: Value) {
        let mut case = json!({ "name": name, "hex": hex(bytes), "accept": accept == "accept" });
        if let (Some(case), Value::Object(extra)) = (case.as_object_mut(), extra) {
            case.extend(extra);
        }
        let again = (self.again)(bytes, &case);
        match accept {
            "accept" => assert_eq!(again.as_deref(), Some(bytes), "{name}"),
            _ => assert_eq!(again, None, "{name}"),
        }
        self.cases.push(case);
    }

    /// A good case, and the faults that every layout knows.
    pub(super) fn with_faults(mut self, name: &str, bytes: &[u8], extra: Value) -> Self {
        self.add(name, bytes, "accept", extra.clone());
        self.add(&format!("{name}, cut short"), &bytes[..bytes.len() - 1], "refuse", extra.clone());
        self.add(&format!("{name}, one byte more"), &[bytes, &[0]].concat(), "refuse", extra);
        self
    }

    fn refuse(mut self, name: &str, bytes: &[u8], extra: Value) -> Self {
        self.add(name, bytes, "refuse", extra);
        self
    }
}

pub(super) fn set(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    assert_ne!(bytes[at], value);
    bytes[at] = value;
    bytes
}

pub(super) fn bent(bytes: &[u8], at: usize) -> Vec<u8> {
    set(bytes, at, bytes[at] ^ 1)
}

/// Decodes with `read` to the end, and encodes with `write`.
fn whole<T>(
    bytes: &[u8],
    read: impl Fn(&mut Reader<'_>) -> Option<T>,
    write: impl Fn(&T, &mut Writer),
) -> Option<Vec<u8>> {
    let mut reader = Reader::new(bytes);
    let value = read(&mut reader)?;
    reader.finish().ok()?;
    let mut writer = Writer::new();
    write(&value, &mut writer);
    Some(writer.into_bytes())
}

fn number(case: &Value, name: &str) -> Option<u64> {
    case.get(name)?.as_u64()
}

fn pack_of(case: &Value) -> Option<PackRef> {
    Some(PackRef { id: PackId::from_hex(case.get("pack")?.as_str()?)?, size: number(case, "size")? })
}

/// Signs an act as some admin.
fn sign(act: Act) -> Record {
    let key = SigningKey::from_bytes(&seed("admin"));
    let (folder, parents) = (FolderId([1; 32]), vec![RecordHash(seed("parent"))]);
    let author = key.verifying_key().to_bytes();
    let content = Unsigned { folder, parents, author, issued_ms: 1, act };
    let signature = key.sign(&content.signed_bytes()).to_bytes();
    Record::new(content, signature)
}

/// Records by which space is given back, and such that are wrong.
fn giving_back(mut records: Cases) -> Cases {
    for (number, act) in release::one_of_each().into_iter().enumerate() {
        records = records.with_faults(&format!("giving back {number}"), &sign(act).encode(), Value::Null);
    }
    let (log, other) = (LogId([1; 32]), LogId([2; 32]));
    let released = |cut: &[(LogId, u64)], packs: &[u8], young: &[u8]| {
        let ids = |numbers: &[u8]| numbers.iter().map(|number| PackId([*number; 32])).collect();
        let (packs, young) = (ids(packs), ids(young));
        sign(Act::Release(Release { cut: cut.to_vec(), packs, young })).encode()
    };
    let called = |cut: &[(LogId, u64)]| sign(Act::Call(Call { cut: cut.to_vec() })).encode();
    records
        .refuse("release of nothing", &released(&[(log, 1)], &[], &[]), Value::Null)
        .refuse("released packs out of order", &released(&[(log, 1)], &[2, 1], &[]), Value::Null)
        .refuse("pack released twice", &released(&[(log, 1)], &[1], &[1, 2]), Value::Null)
        .refuse("release up to entry 0", &released(&[(log, 0)], &[1], &[]), Value::Null)
        .refuse("cut out of order", &called(&[(other, 1), (log, 1)]), Value::Null)
}

/// A record of each act by which people, devices and seeders come and go.
fn comings_and_goings() -> Vec<Record> {
    let device = Device {
        log: LogId(seed("joining log")),
        kem: KemKey(seed("joining kem")),
        member: MemberId(seed("joining member")),
        recovery_kem: KemKey(seed("joining recovery kem")),
        role: Role::Write,
        label: [7; SEALED_LABEL_BYTES],
    };
    membership::one_of_each(&device).into_iter().chain(seeding::one_of_each()).map(sign).collect()
}

fn signed(story: &Story) -> Vec<(&'static str, Vec<Value>)> {
    let again = |bytes: &[u8], _: &Value| Some(UnverifiedRecord::decode(bytes).ok()?.verify().ok()?.encode());
    let mut records = Cases::new(again);
    for (name, record) in
        ["genesis", "first epoch", "grant", "add device", "second epoch"].iter().zip(&story.records)
    {
        records = records.with_faults(name, &record.encode(), Value::Null);
    }
    for (number, record) in comings_and_goings().iter().enumerate() {
        records = records.with_faults(&format!("coming and going {number}"), &record.encode(), Value::Null);
    }
    records = giving_back(records);
    let wanted = |copies, tolerance_ms| sign(Act::Policy(CopiesPolicy { copies, tolerance_ms })).encode();
    for (name, bytes) in [
        ("no copies wanted", wanted(0, 86_400_000)),
        ("65 copies wanted", wanted(65, 86_400_000)),
        ("proofs that count for a second", wanted(2, 1000)),
        ("proofs that count for longer than a year", wanted(2, 31_536_000_001)),
    ] {
        records = records.refuse(name, &bytes, Value::Null);
    }
    let genesis = story.records[0].encode();
    records = records
        .refuse("version 2", &set(&genesis, 0, 2), Value::Null)
        .refuse("suite 2", &set(&genesis, 1, 2), Value::Null)
        .refuse("bent signature", &bent(&genesis, genesis.len() - 40), Value::Null)
        .refuse("genesis of a folder", &bent(&genesis, 10), Value::Null);
    let again = |bytes: &[u8], _: &Value| Some(UnverifiedEntry::decode(bytes).ok()?.verify().ok()?.encode());
    let entry = story.entries[0].encode();
    let entries = Cases::new(again)
        .with_faults("entry", &entry, Value::Null)
        .refuse("version 2", &set(&entry, 0, 2), Value::Null)
        .refuse("suite 2", &set(&entry, 1, 2), Value::Null)
        .refuse("seq 0", &set(&entry, 66, 0), Value::Null)
        .refuse("seq 2 without a predecessor", &set(&entry, 66, 2), Value::Null)
        .refuse("bent body", &bent(&entry, entry.len() - 1), Value::Null);
    let again =
        |bytes: &[u8], _: &Value| Some(UnverifiedLocator::decode(bytes).ok()?.verify().ok()?.encode());
    let locator = story.locator.encode();
    let locators = Cases::new(again)
        .with_faults("locator", &locator, Value::Null)
        .refuse("another seq", &bent(&locator, 34), Value::Null)
        .refuse("version 2", &set(&locator, 0, 2), Value::Null);
    vec![("record", records.cases), ("entry", entries.cases), ("locator", locators.cases)]
}

fn bodies(story: &Story) -> Vec<(&'static str, Vec<Value>)> {
    let body = story.bodies[1].encode();
    let bodies = Cases::new(|bytes, _| Some(Body::decode(bytes).ok()?.encode()))
        .with_faults("body", &body, Value::Null)
        .refuse("padding that is not zero", &set(&body, body.len() - 1, 1), Value::Null);
    let again = |bytes: &[u8], _: &Value| whole(bytes, |r| OpGroup::decode(r).ok(), OpGroup::encode);
    let id = |hlc| OpId { hlc, log: 7 };
    let (ino, link) = (Ino([1; 16]), LinkId([2; 16]));
    let ops = vec![
        Op::Link { ino, parent: Ino::ROOT, name: b"second".to_vec() },
        Op::Move { link, parent: Ino::ROOT, name: vec![0xff, 0xfe], seen_dots: vec![id(1), id(2)] },
        Op::Unlink { link, seen_dots: vec![id(1)], seen_heads: vec![id(3)], last: true },
        Op::Revive { link },
        Op::Xattr { ino, key: b"user.a".to_vec(), value: Some(b"b".to_vec()) },
        Op::Xattr { ino, key: b"user.a".to_vec(), value: None },
        Op::Fork { ino, head: id(9) },
        Op::Keep { ino, take: id(9), drop: vec![id(8)] },
        Op::Ack,
    ];
    let encode = |ops: Vec<Op>| {
        let mut writer = Writer::new();
        OpGroup { hlc: 5 << 16, ops }.encode(&mut writer);
        writer.into_bytes()
    };
    let slash = encode(vec![Op::Link { ino, parent: Ino::ROOT, name: b"a/b".to_vec() }]);
    let order = encode(vec![Op::Keep { ino, take: id(9), drop: vec![id(8), id(7)] }]);
    let mut groups = Cases::new(again).with_faults("group", &encode(ops), Value::Null);
    for group in story.bodies.iter().flat_map(|body| &body.groups) {
        groups.add("group of the story", &encode(group.ops.clone()), "accept", Value::Null);
    }
    let groups = groups
        .refuse("no ops", &encode(vec![]), Value::Null)
        .refuse("a name with a slash", &slash, Value::Null)
        .refuse("op ids out of order", &order, Value::Null)
        .refuse("op type 13", &set(&encode(vec![Op::Ack]), 10, 13), Value::Null);
    vec![("body", bodies.cases), ("group", groups.cases)]
}

fn contents(story: &Story) -> Vec<(&'static str, Vec<Value>)> {
    let again = |bytes: &[u8], _: &Value| whole(bytes, |r| Content::decode(r).ok(), Content::encode);
    let encode = |content: &Content| {
        let mut writer = Writer::new();
        content.encode(&mut writer);
        writer.into_bytes()
    };
    let chunk = chunk_ref(story);
    let extents = vec![
        Extent::Data { len: 1500, chunk },
        Extent::Hole { len: 1 << 40 },
        Extent::Data { len: 1, chunk },
    ];
    let holes = vec![Extent::Hole { len: 1 }, Extent::Hole { len: 2 }];
    let tree = Content::Tree { root: chunk, height: 2, size: 1 << 30 };
    let contents = Cases::new(again)
        .with_faults("inline", &encode(&Content::Inline(b"hello".to_vec())), Value::Null)
        .with_faults("extents", &encode(&Content::Extents(extents.clone())), Value::Null)
        .with_faults("tree", &encode(&tree), Value::Null)
        .refuse("two holes side by side", &encode(&Content::Extents(holes)), Value::Null)
        .refuse("type 3", &[3, 0, 0], Value::Null);
    let leaf = Node::Leaf(extents).encode();
    let nodes = Cases::new(|bytes, _| Some(Node::decode(bytes).ok()?.encode()))
        .with_faults("leaf", &leaf, Value::Null)
        .with_faults("inner", &Node::Inner(vec![(1 << 20, chunk), (5, chunk)]).encode(), Value::Null)
        .refuse("version 2", &set(&leaf, 0, 2), Value::Null)
        .refuse("kind 2", &set(&leaf, 1, 2), Value::Null);
    vec![("content", contents.cases), ("node", nodes.cases)]
}

fn packs(story: &Story) -> Vec<(&'static str, Vec<Value>)> {
    let again = |bytes: &[u8], _: &Value| {
        whole(bytes, |r| decode_directory(r).ok(), |rows, w| encode_directory(rows, w))
    };
    let mut writer = Writer::new();
    encode_directory(&story.packs[0].rows, &mut writer);
    let directory = writer.into_bytes();
    let directories = Cases::new(again)
        .with_faults("directory", &directory, Value::Null)
        .refuse("no rows", &[0, 0], Value::Null)
        .refuse("chunk type 3", &set(&directory, 2, 3), Value::Null);
    let again =
        |bytes: &[u8], case: &Value| Some(Footer::decode(bytes, number(case, "size")?).ok()?.encode());
    let footer = Footer { directory_offset: 2434, directory_len: 116, chunk_count: 2 }.encode();
    let size = json!({ "size": 4096 });
    let footers = Cases::new(again)
        .with_faults("footer", &footer, size.clone())
        .refuse("reserved byte", &set(&footer, 23, 1), size.clone())
        .refuse("directory outside", &set(&footer, 3, 0x0f), size.clone())
        .refuse("directory of another length", &bent(&footer, 10), size);
    vec![("directory", directories.cases), ("footer", footers.cases)]
}

fn proofs() -> Vec<(&'static str, Vec<Value>)> {
    // Three slices: two full ones and a shorter last, whose last leaf is shorter too.
    let bytes = noise("proved pack", 2 * 65536 + 3 * 1024 + 100);
    let outboard = Outboard::of(&bytes);
    let pack = outboard.pack();
    let about = json!({ "pack": pack.id.to_hex(), "size": pack.size });
    let again = |bytes: &[u8], case: &Value| Some(Outboard::decode(pack_of(case)?, bytes).ok()?.encode());
    let values = outboard.encode();
    let outboards = Cases::new(again)
        .with_faults("outboard of three slices", &values, about)
        .refuse("bent value", &bent(&values, 40), json!({ "pack": pack.id.to_hex(), "size": pack.size }))
        .refuse("another size", &values, json!({ "pack": pack.id.to_hex(), "size": pack.size + 65536 }));
    let again = |bytes: &[u8], case: &Value| {
        whole(
            bytes,
            |reader| {
                LeafProof::decode(reader).ok().filter(|proof| {
                    pack_of(case)
                        .zip(number(case, "leaf"))
                        .is_some_and(|(pack, leaf)| proof.proves(pack, leaf))
                })
            },
            LeafProof::encode,
        )
    };
    let mut cases = Cases::new(again);
    for leaf in [0, 63, 64, 130, 131] {
        let start = (leaf / 64 * 65536) as usize;
        let slice = &bytes[start..bytes.len().min(start + 65536)];
        let mut writer = Writer::new();
        outboard.prove_leaf(leaf, slice).expect("there is such a leaf").encode(&mut writer);
        let proof = writer.into_bytes();
        let about = |leaf: u64| json!({ "pack": pack.id.to_hex(), "size": pack.size, "leaf": leaf });
        cases = cases
            .with_faults(&format!("leaf {leaf}"), &proof, about(leaf))
            .refuse(&format!("leaf {leaf}, bent"), &bent(&proof, 5), about(leaf))
            .refuse(&format!("leaf {leaf} as another"), &proof, about(leaf ^ 1));
    }
    let packs: Vec<PackRef> = (0..3).map(|at| PackRef { id: PackId([at; 32]), size: 4096 }).collect();
    let heads = [LogHead { log: LogId([9; 32]), seq: 2, hash: EntryHash([8; 32]) }];
    let mut challenge = Challenge::draw(&packs, &heads, &seed("challenge"));
    challenge.samples.truncate(3);
    let mut writer = Writer::new();
    challenge.encode(&mut writer);
    let bytes = writer.into_bytes();
    let again = |bytes: &[u8], _: &Value| whole(bytes, |r| Challenge::decode(r).ok(), Challenge::encode);
    let challenges = Cases::new(again).with_faults("challenge", &bytes, Value::Null).refuse(
        "a leaf outside",
        &set(&bytes, 75, 1),
        Value::Null,
    );
    let challenges = challenges.refuse("entry 0 of a log", &set(&bytes, bytes.len() - 8, 0), Value::Null);
    vec![("outboard", outboards.cases), ("proof", cases.cases), ("challenge", challenges.cases)]
}

fn people(story: &Story) -> Vec<(&'static str, Vec<Value>)> {
    let folders = encode_folders(&story.locator_folders);
    let folders = Cases::new(|bytes, _| Some(encode_folders(&decode_folders(bytes).ok()?)))
        .with_faults("folders", &folders, Value::Null)
        .refuse("padding that is not zero", &set(&folders, 4095, 1), Value::Null);
    let bytes = story.seeder.encode();
    let addresses = Cases::new(|bytes, _| Some(SeederAddress::decode(bytes).ok()?.encode()))
        .with_faults("address", &bytes, Value::Null)
        .refuse("version 2", &set(&bytes, 0, 2), Value::Null);
    let text = story.seeder.to_text().into_bytes();
    let again = |bytes: &[u8], _: &Value| {
        Some(SeederAddress::from_text(std::str::from_utf8(bytes).ok()?).ok()?.to_text().into_bytes())
    };
    let mut texts = Cases::new(again);
    texts.add("address", &text, "accept", Value::Null);
    let mistyped = set(&text, 30, if text[30] == b'a' { b'b' } else { b'a' });
    let texts = texts
        .refuse("a letter mistyped", &mistyped, Value::Null)
        .refuse("another beginning", &set(&text, 0, b'k'), Value::Null)
        .refuse("a digit that base32 lacks", &set(&text, 30, b'1'), Value::Null);
    let phrase = story.secret.words().as_bytes().to_vec();
    let again = |bytes: &[u8], _: &Value| {
        let secret = MemberSecret::from_words(std::str::from_utf8(bytes).ok()?).ok()?;
        Some(secret.words().as_bytes().to_vec())
    };
    let mut words = Cases::new(again);
    words.add("words", &phrase, "accept", Value::Null);
    let short =
        "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
    let words = words
        .refuse("wrong checksum", "abandon ".repeat(24).trim_end().as_bytes(), Value::Null)
        .refuse("twelve words", short.as_bytes(), Value::Null)
        .refuse("not a word", &set(&phrase, 0, b'x'), Value::Null);
    vec![
        ("folders", folders.cases),
        ("address", addresses.cases),
        ("address text", texts.cases),
        ("words", words.cases),
    ]
}

/// All layouts with their cases.
pub(super) fn all() -> Vec<(&'static str, Vec<Value>)> {
    let story = told();
    [signed(&story), bodies(&story), contents(&story), packs(&story), proofs(), people(&story), codes::all()]
        .concat()
}
