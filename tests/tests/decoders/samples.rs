//! Valid encodings of every layout, for the mutations to begin from.

use cobox_net::wire;
use cobox_store::format::access::{
    Act, BOX_BYTES, Device, KeyBox, NewEpoch, Record, Role, SEALED_LABEL_BYTES, SeederGrant, Unsigned,
    WRAPPED_EPOCH_BYTES,
};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::agreement::{Held, Notice, Paper, Side, SignedTerms, Terms};
use cobox_store::format::command::{Claim, Command, Rank, one_of_each};
use cobox_store::format::content::{ChunkRef, Content, Extent, Node};
use cobox_store::format::device::{DeviceRow, FolderRow, Mark, PendingRow, TagRow};
use cobox_store::format::entry::{Body, Entry, Header, LogHead, UnverifiedEntry};
use cobox_store::format::equivocation::Equivocation;
use cobox_store::format::invite::{Hint, InviteCode, JoinRequest};
use cobox_store::format::locator::{LOCATOR_STEP_BYTES, Locator, LocatorFolder, encode_folders};
use cobox_store::format::membership::{OpenInvite, Redemption, WRAPPED_LABEL_KEY_BYTES, redemption_bytes};
use cobox_store::format::op::{AttrChange, Kind, Make, Op, OpGroup};
use cobox_store::format::owned::OwnedRow;
use cobox_store::format::pack::{
    ChunkType, DirectoryRow, Footer, PackRef, SEALED_OVERHEAD_BYTES, encode_directory,
};
use cobox_store::format::proof::{Challenge, Outboard};
use cobox_store::format::receipt::{Receipt, live_set_digest, peer_id_of};
use cobox_store::format::release::{Call, Release};
use cobox_store::format::seeding::{CopiesPolicy, OpenSeed, RedeemedSeed, SeedRequest};
use cobox_store::format::slots::{Slot, SlotKind, WRAPPED_KEY_BYTES, encode_slots};
use cobox_store::format::{SLICE_BYTES, Writer};
use cobox_store::id::{
    AdminKey, ChainId, ChunkTag, ClaimKey, EntryHash, EpochId, FolderId, Ino, InviteKey, KemKey, LinkId,
    LogId, MemberId, OpId, PackId, RecordHash, hash,
};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

/// Valid encodings by decoder, in the order of the list of decoders.
pub fn samples() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let pack = pack();
    let outboard = Outboard::of(&pack);
    let challenge = Challenge::draw(
        &[outboard.pack()],
        &[LogHead { log: log(), seq: 4, hash: EntryHash([1; 32]) }],
        &[1; 32],
    );
    vec![
        ("entry", vec![entry(1, &[5; 60]), entry(2, &[6; 300])]),
        ("equivocation", vec![equivocation().encode()]),
        ("body", vec![body().encode()]),
        ("record", records().iter().map(Record::encode).collect()),
        ("group", ops().into_iter().map(|op| written(|writer| group(vec![op]).encode(writer))).collect()),
        ("content", contents().iter().map(|content| written(|writer| content.encode(writer))).collect()),
        ("node", nodes().iter().map(Node::encode).collect()),
        ("directory", vec![written(|writer| encode_directory(&rows(), writer))]),
        (
            "footer",
            vec![Footer { directory_offset: 99, directory_len: 2 + 3 * 37 + 40, chunk_count: 3 }.encode()],
        ),
        (
            "outboard",
            vec![
                [&outboard.pack().id.0[..], &(pack.len() as u64).to_le_bytes(), &outboard.encode()].concat(),
            ],
        ),
        ("proof", proofs(&pack, &outboard)),
        ("challenge", vec![written(|writer| challenge.encode(writer))]),
        ("locator", vec![locator(1).encode(), locator(2).encode()]),
        ("folders", vec![encode_folders(&folders()), encode_folders(&[])]),
        ("address", vec![address().encode()]),
        ("address_text", vec![address().to_text().into_bytes()]),
        ("invite_code", vec![invite_code().to_text().expect("fits").as_bytes().to_vec()]),
        ("join_request", vec![join_request().encode()]),
        ("receipt", vec![receipt().encode()]),
        ("frame", frames()),
        ("bulk_frame", bulk_frames()),
        ("slots", slots()),
        ("mark", vec![mark().encode().to_vec()]),
        ("device_row", vec![device_row().encode().to_vec()]),
        ("folder_row", vec![folder_row().encode().to_vec()]),
        ("tag_row", vec![tag_row().encode()]),
        ("pending_row", vec![pending_row().encode()]),
        ("paper", papers()),
        ("claim", vec![claim().encode()]),
        ("command", commands()),
        ("seed_request", vec![seed_request().encode()]),
        ("owned_row", vec![owned_row().encode().to_vec()]),
    ]
}

fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new();
    write(&mut writer);
    writer.into_bytes()
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn log() -> LogId {
    LogId(key().verifying_key().to_bytes())
}

fn pack() -> Vec<u8> {
    let mut bytes = vec![0; 3 * SLICE_BYTES as usize];
    for (at, piece) in bytes.chunks_mut(32).enumerate() {
        piece.copy_from_slice(&hash(&at.to_le_bytes()));
    }
    bytes
}

fn entry(seq: u64, body: &[u8]) -> Vec<u8> {
    let header = Header {
        folder: FolderId([1; 32]),
        log: log(),
        seq,
        prev: EntryHash([if seq == 1 { 0 } else { 9 }; 32]),
        access_heads: vec![RecordHash([2; 32]), RecordHash([3; 32])],
        epoch: EpochId([3; 32]),
        packs: vec![
            PackRef { id: PackId([4; 32]), size: 4096 },
            PackRef { id: PackId([3; 32]), size: 8 << 20 },
        ],
        body_size: u32::try_from(body.len()).expect("short"),
        body_hash: hash(body),
    };
    let signature = key().sign(&header.signed_bytes()).to_bytes();
    Entry::new(header, signature, body.to_vec()).encode()
}

fn equivocation() -> Equivocation {
    let one =
        |body: &[u8]| UnverifiedEntry::decode(&entry(2, body)).expect("an entry").verify().expect("signed");
    Equivocation::of(&one(&[5; 60]), &one(&[6; 60])).expect("two entries with one number")
}

fn group(ops: Vec<Op>) -> OpGroup {
    OpGroup { hlc: 99, ops }
}

fn body() -> Body {
    Body {
        deps: vec![LogHead { log: LogId([1; 32]), seq: 4, hash: EntryHash([2; 32]) }],
        hlc: 900,
        groups: vec![group(ops()), OpGroup { hlc: 500, ops: vec![Op::Ack] }],
        directories: vec![None, Some(rows())],
        state_sum: [8; 32],
    }
}

fn make(kind: Kind, rdev: u32, target: &[u8]) -> Op {
    Op::Make(Make {
        parent: Ino::ROOT,
        name: b"name".to_vec(),
        kind,
        generation: 0,
        mode: 0o644,
        mtime_ns: -1,
        uid: 1,
        gid: 2,
        rdev,
        target: target.to_vec(),
    })
}

fn ops() -> Vec<Op> {
    let (ino, link) = (Ino([3; 16]), LinkId([4; 16]));
    let ids = vec![OpId { hlc: 1, log: 2 }, OpId { hlc: 1, log: 3 }];
    let change = AttrChange { mode: Some(0o755), mtime_ns: Some(5), uid: Some(1), gid: Some(1) };
    let mut ops = vec![
        make(Kind::File, 0, b""),
        make(Kind::Symlink, 0, b"target"),
        make(Kind::BlockDev, 7, b""),
        Op::Link { ino, parent: Ino::ROOT, name: vec![0xff] },
        Op::Move { link, parent: ino, name: b"x".to_vec(), seen_dots: ids.clone() },
        Op::Unlink { link, seen_dots: ids.clone(), seen_heads: ids.clone(), last: true },
        Op::Revive { link },
        Op::Attr { ino, change },
        Op::Attr { ino, change: AttrChange { gid: Some(1), ..AttrChange::default() } },
        Op::Xattr { ino, key: b"user.k".to_vec(), value: Some(vec![1; 30]) },
        Op::Xattr { ino, key: b"user.k".to_vec(), value: None },
        Op::Fork { ino, head: ids[0] },
        Op::Keep { ino, take: ids[0], drop: vec![ids[1]] },
        Op::Ack,
        Op::Snap { checkpoint: [9; 64], label: b"label".to_vec() },
    ];
    ops.extend(contents().into_iter().map(|content| Op::Put {
        ino,
        parents: ids.clone(),
        content,
        mtime_ns: 5,
    }));
    ops
}

fn data(len: u32, epoch: u8, tag: u8) -> Extent {
    Extent::Data { len, chunk: ChunkRef { epoch: EpochId([epoch; 32]), tag: ChunkTag([tag; 32]) } }
}

fn contents() -> Vec<Content> {
    let root = ChunkRef { epoch: EpochId([1; 32]), tag: ChunkTag([2; 32]) };
    vec![
        Content::empty(),
        Content::Inline(b"some bytes".to_vec()),
        Content::Extents(vec![data(5, 1, 9), Extent::Hole { len: 1 << 40 }, data(6, 2, 8), data(6, 1, 7)]),
        Content::Tree { root, height: 2, size: 1 << 33 },
    ]
}

fn nodes() -> Vec<Node> {
    let chunk = ChunkRef { epoch: EpochId([1; 32]), tag: ChunkTag([2; 32]) };
    vec![
        Node::Leaf(vec![data(1, 1, 1), Extent::Hole { len: 4 }, data(9, 2, 1)]),
        Node::Inner(vec![(9, chunk), (1, chunk)]),
    ]
}

fn rows() -> Vec<DirectoryRow> {
    let row = |chunk_type, len| DirectoryRow { chunk_type, tag: ChunkTag([1; 32]), len };
    vec![row(ChunkType::Data, 18), row(ChunkType::Node, 262_161), row(ChunkType::Page, 4096)]
}

fn proofs(pack: &[u8], outboard: &Outboard) -> Vec<Vec<u8>> {
    let slice = &pack[..SLICE_BYTES as usize];
    let proof = |leaf| outboard.prove_leaf(leaf, slice).expect("there is such a leaf");
    [0, 63].into_iter().map(|leaf| written(|writer| proof(leaf).encode(writer))).collect()
}

fn device() -> Device {
    Device {
        log: log(),
        kem: KemKey([2; 32]),
        member: MemberId([3; 32]),
        recovery_kem: KemKey([4; 32]),
        role: Role::Admin,
        label: [5; SEALED_LABEL_BYTES],
    }
}

/// A record of every act, signed.
pub fn records() -> Vec<Record> {
    let key_box = |recipient| KeyBox { recipient: KemKey([recipient; 32]), sealed: [2; BOX_BYTES] };
    let epoch = NewEpoch {
        commit: [1; 32],
        boxes: vec![key_box(1), key_box(2)],
        swarm_boxes: vec![key_box(3)],
        previous: vec![(EpochId([6; 32]), [7; WRAPPED_EPOCH_BYTES])],
    };
    let grant = SeederGrant {
        peer_id: peer_id_of(&log().0),
        kem: KemKey([8; 32]),
        quota_bytes: 1 << 40,
        until_ms: 0,
        addresses: vec![vec![4, 127, 0, 0, 1], vec![]],
        swarm_epoch: EpochId([6; 32]),
        swarm_box: [9; BOX_BYTES],
    };
    let (nonce, name) = ([0; 32], [1; SEALED_LABEL_BYTES]);
    let genesis = Act::Genesis { nonce, fold_case: false, unicode: [17, 0], device: device(), name };
    let acts = [genesis, Act::AddDevice { device: device() }, Act::GrantSeeder(grant), Act::NewEpoch(epoch)];
    acts.into_iter().chain(membership()).chain(giving_back()).chain(seeding()).map(signed_record).collect()
}

/// Acts by which space is given back.
fn giving_back() -> Vec<Act> {
    let cut = vec![(LogId([1; 32]), 3), (LogId([2; 32]), 1)];
    let (packs, young) = (vec![PackId([4; 32]), PackId([5; 32])], vec![PackId([3; 32])]);
    vec![Act::Call(Call { cut: cut.clone() }), Act::Release(Release { cut, packs, young })]
}

/// Acts by which people and devices come and go.
fn membership() -> Vec<Act> {
    let member = MemberId([3; 32]);
    let last = LogHead { log: LogId([1; 32]), seq: 4, hash: EntryHash([2; 32]) };
    let invite = InviteKey(log().0);
    let signature = key().sign(&redemption_bytes(FolderId([1; 32]), &device())).to_bytes();
    let label_key = [6; WRAPPED_LABEL_KEY_BYTES];
    vec![
        Act::RemoveDevice { last },
        Act::RemoveMember { member, logs: vec![last] },
        Act::SetRole { member, role: Role::Read, logs: vec![last] },
        Act::OpenInvite(OpenInvite { invite, role: Role::Write, expires_ms: 9, label_key }),
        Act::VoidInvite { invite },
        Act::RevokeSeeder { peer_id: peer_id_of(&log().0) },
        Act::Vouch { last },
        Act::Redeem { device: device(), redemption: Redemption { invite, signature } },
    ]
}

/// Acts about seeders.
fn seeding() -> Vec<Act> {
    let redeemed = {
        let request = seed_request();
        let grant = SeederGrant {
            peer_id: request.seeder.peer_id,
            kem: request.seeder.kem,
            quota_bytes: 1 << 40,
            until_ms: 0,
            addresses: request.seeder.addresses,
            swarm_epoch: EpochId([6; 32]),
            swarm_box: [9; BOX_BYTES],
        };
        RedeemedSeed { grant, code: request.code, signature: request.signature }
    };
    vec![
        Act::Policy(CopiesPolicy { copies: 2, tolerance_ms: 604_800_000 }),
        Act::Propose(terms()),
        Act::Agree(signed_terms()),
        Act::EndAgreement(notice()),
        Act::EndAgreement(Notice { by: Side::Folder, ..notice() }),
        Act::OpenSeed(OpenSeed { code: redeemed.code, quota_bytes: 1 << 40, until_ms: 0, expires_ms: 9 }),
        Act::RedeemSeed(redeemed),
    ]
}

fn terms() -> Terms {
    Terms {
        folder: FolderId([1; 32]),
        seeder: peer_id_of(&log().0),
        quota_bytes: 50_000_000_000,
        from_ms: 1_795_000_000_000,
        until_ms: 1_826_000_000_000,
        notice_ms: 2_592_000_000,
        audit_ms: 86_400_000,
        place: "Leipzig".into(),
        organisation: "Kollektiv Süd".into(),
        contact: "box@example.org".into(),
        member_contact: String::new(),
    }
}

fn signed_terms() -> SignedTerms {
    let signature = key().sign(&terms().signed_bytes()).to_bytes();
    SignedTerms { terms: terms(), signature }
}

fn notice() -> Notice {
    let mut notice = Notice {
        folder: FolderId([1; 32]),
        seeder: peer_id_of(&log().0),
        terms: terms().hash(),
        at_ms: 1_800_000_000_000,
        by: Side::Folder,
    };
    notice.by = Side::Seeder(key().sign(&notice.signed_bytes()).to_bytes());
    notice
}

fn papers() -> Vec<Vec<u8>> {
    let held = Paper::Held(Held::Until(1_790_000_000_000));
    let all = [Paper::Signed(signed_terms()), Paper::Ends(notice()), Paper::Declined(terms().hash()), held];
    all.iter().map(Paper::encode).collect()
}

fn claim() -> Claim {
    let mut claim = Claim {
        seeder: [7; 32],
        claim: ClaimKey(log().0),
        admin: AdminKey(log().0),
        recovery: ClaimKey([0; 32]),
        name: "laptop".into(),
        claim_signature: [0; 64],
        admin_signature: [0; 64],
    };
    claim.claim_signature = key().sign(&claim.signed_bytes()).to_bytes();
    claim.admin_signature = claim.claim_signature;
    claim
}

fn commands() -> Vec<Vec<u8>> {
    let signed = |order| {
        let mut command = Command {
            seeder: [7; 32],
            admin: AdminKey(log().0),
            chain: ChainId([2; 16]),
            seq: 7,
            issued_ms: 1,
            expires_ms: 2,
            order,
            signature: [0; 64],
        };
        command.signature = key().sign(&command.signed_bytes()).to_bytes();
        command.encode()
    };
    one_of_each().into_iter().map(signed).collect()
}

fn seed_request() -> SeedRequest {
    let code = InviteKey(log().0);
    let mut request = SeedRequest { folder: [1; 16], code, signature: [0; 64], seeder: address() };
    request.signature = key().sign(&request.signed_bytes()).to_bytes();
    request
}

fn owned_row() -> OwnedRow {
    OwnedRow {
        name: "box".into(),
        address: address(),
        sign_seed: Zeroizing::new([1; 32]),
        chain: ChainId([2; 16]),
        rank: Rank::Owner,
        seq: 9,
        recovery: 63,
        unanswered: commands().remove(5),
    }
}

fn invite_code() -> InviteCode {
    let hint = Hint { peer: log().0, addresses: vec![vec![4, 127, 0, 0, 1, 6, 0x0f, 0xa1]] };
    InviteCode { folder: [1; 16], hints: vec![hint], secret: Zeroizing::new([9; 16]) }
}

fn join_request() -> JoinRequest {
    let mut request = JoinRequest {
        folder: [1; 16],
        redemption: Redemption { invite: InviteKey(log().0), signature: [0; 64] },
        log: log(),
        kem: KemKey([2; 32]),
        member: MemberId([3; 32]),
        recovery_kem: KemKey([4; 32]),
        label: [5; SEALED_LABEL_BYTES],
    };
    request.redemption.signature = key().sign(&request.signed_bytes()).to_bytes();
    request
}

fn signed_record(act: Act) -> Record {
    let genesis = matches!(act, Act::Genesis { .. });
    let content = Unsigned {
        folder: FolderId([if genesis { 0 } else { 1 }; 32]),
        parents: if genesis { vec![] } else { vec![RecordHash([1; 32]), RecordHash([2; 32])] },
        author: log().0,
        issued_ms: 5,
        act,
    };
    let signature = key().sign(&content.signed_bytes()).to_bytes();
    Record::new(content, signature)
}

fn address() -> SeederAddress {
    SeederAddress {
        peer_id: peer_id_of(&log().0),
        kem: KemKey([1; 32]),
        addresses: vec![vec![4, 127, 0, 0, 1, 6, 0x0f, 0xa1]],
    }
}

fn folders() -> Vec<LocatorFolder> {
    vec![LocatorFolder {
        folder: FolderId([1; 32]),
        index: 3,
        name: b"photos".to_vec(),
        seeders: vec![address()],
    }]
}

fn locator(seq: u64) -> Locator {
    let sealed = vec![3; LOCATOR_STEP_BYTES + SEALED_OVERHEAD_BYTES];
    let mut locator = Locator { key: log().0, seq, sealed, signature: [0; 64] };
    locator.signature = key().sign(&locator.signed_bytes()).to_bytes();
    locator
}

fn receipt() -> Receipt {
    let mut receipt = Receipt {
        folder: FolderId([1; 32]),
        seeder: peer_id_of(&log().0),
        nonce: [2; 32],
        heads: vec![LogHead { log: LogId([3; 32]), seq: 9, hash: EntryHash([4; 32]) }],
        packs_held: 5,
        packs_lacking: 0,
        samples_asked: 459,
        samples_proved: 459,
        entries_asked: 9,
        entries_proved: 9,
        entries_digest: [6; 32],
        live_set_digest: live_set_digest(&[PackId([5; 32])]),
        time_ms: 6,
        signature: [0; 64],
    };
    receipt.signature = key().sign(&receipt.signed_bytes()).to_bytes();
    receipt
}

fn frames() -> Vec<Vec<u8>> {
    use cobox_store::blind::owners::Outcome;
    use wire::{
        ClaimAnswer, Frame, GrantAnswer, LocatorAnswer, Part, Proof, QuestionId, SeedingFrame, SessionId,
    };
    let (session, question) = (SessionId(7), QuestionId(9));
    let taken = ClaimAnswer::Taken { chain: ChainId([1; 16]), rank: Rank::Owner, seq: 4 };
    let (pack, records) = (outboard_small(), vec![vec![1; 200], vec![2; 300]]);
    let head = LogHead { log: log(), seq: 4, hash: EntryHash([1; 32]) };
    let challenge = Challenge::draw(&[pack], &[head], &[3; 32]);
    let frames = [
        Frame::Hello { nonce: [3; 32] },
        Frame::Open { session, blinded: [4; 32], proof: [5; 32] },
        Frame::Accept { session, proof: [6; 32], who: Proof::Seeder },
        Frame::Confirm { session, who: Proof::Member { log: log(), signature: [7; 64] } },
        Frame::Refuse { session },
        Frame::AccessHeads { session, heads: vec![RecordHash([8; 32])] },
        Frame::Records { session, part: Part::Last, records },
        Frame::LogHeads { session, heads: vec![head] },
        Frame::EntriesWant { session, log: log(), from: 3 },
        Frame::Entry { session, entry: entry(1, &[5; 60]) },
        Frame::Behind { session, packs: 1, bytes: 2, full: true },
        Frame::Have { session, packs: vec![pack.id] },
        Frame::Challenge { session, question, challenge },
        Frame::Proofs { session, question, first: 1, proofs: vec![None] },
        Frame::Receipt { session, question, receipt: receipt().encode() },
        Frame::GrantAnswer { folder: FolderId([1; 32]), answer: GrantAnswer::Pending },
        Frame::LocatorPut { question, locator: locator(1).encode() },
        Frame::Locator { question, answer: LocatorAnswer::Refused },
        Frame::Recover { session, folder: FolderId([1; 32]), member: MemberId([2; 32]), signature: [3; 64] },
        Frame::Redeem { session, signature: [3; 64], request: join_request().encode() },
        Frame::JoinAsked { session, request: join_request().encode() },
        Frame::JoinWait { session },
        Frame::Equivocation { session, proof: equivocation().encode() },
        Frame::Contacts {
            session,
            contacts: vec![wire::Contact {
                peer: cobox_net::PeerId::of_key([1; 32]),
                log: log(),
                said_ms: 5,
                addresses: vec![vec![1; 8], vec![2; 9]],
                signature: [3; 64],
            }],
        },
        Frame::Seeding(SeedingFrame::Paper { session, paper: papers().remove(0) }),
        Frame::Seeding(SeedingFrame::Claim { question, claim: claim().encode() }),
        Frame::Seeding(SeedingFrame::Claimed { question, answer: ClaimAnswer::Refused }),
        Frame::Seeding(SeedingFrame::Claimed { question, answer: taken }),
        Frame::Seeding(SeedingFrame::Command { question, command: commands().remove(0) }),
        Frame::Seeding(SeedingFrame::Obeyed { question, outcome: Outcome::Done, text: "{}".into() }),
        Frame::Seeding(SeedingFrame::RedeemSeed { session, request: seed_request().encode() }),
        Frame::Seeding(SeedingFrame::SeedAsked { session, request: seed_request().encode() }),
    ];
    frames.iter().map(Frame::encode).collect()
}

fn outboard_small() -> PackRef {
    PackRef { id: PackId([2; 32]), size: 4096 }
}

fn bulk_frames() -> Vec<Vec<u8>> {
    use wire::{Ask, BulkFrame, OutboardWish, SessionId};
    let ask = Ask {
        ask: 1,
        session: SessionId(7),
        pack: outboard_small(),
        outboard: OutboardWish::Send,
        first: 0,
        count: 1,
    };
    let frames = [
        BulkFrame::Ask(ask),
        BulkFrame::Outboard { ask: 1, values: &[1; 64] },
        BulkFrame::Slices { ask: 1, first: 0, bytes: &[5; 600] },
        BulkFrame::Done { ask: 1 },
        BulkFrame::NotHere { ask: 1 },
    ];
    frames.iter().map(BulkFrame::encode).collect()
}

fn slots() -> Vec<Vec<u8>> {
    let passphrase = SlotKind::Passphrase { salt: [1; 16], memory_kib: 65_536, passes: 3 };
    let slot = |kind| Slot { kind, wrapped: [2; WRAPPED_KEY_BYTES] };
    vec![encode_slots(&[slot(passphrase), slot(SlotKind::KeyFile)]), encode_slots(&[slot(SlotKind::KeyFile)])]
}

fn mark() -> Mark {
    Mark { log: log(), seq: 9, hash: EntryHash([4; 32]) }
}

fn device_row() -> DeviceRow {
    DeviceRow {
        label: "laptop".to_owned(),
        net_seed: Zeroizing::new([1; 32]),
        locator_sign: Zeroizing::new([2; 32]),
        locator_seal: Zeroizing::new([3; 32]),
        recovery: vec![(MemberId([4; 32]), KemKey([5; 32])); 3],
    }
}

fn folder_row() -> FolderRow {
    FolderRow {
        index: 3,
        name: "photos".to_owned(),
        sign_seed: Zeroizing::new([1; 32]),
        kem_seed: Zeroizing::new([2; 32]),
    }
}

fn tag_row() -> TagRow {
    TagRow { pack: PackId([1; 32]), offset: 70, len: 80, chunk_type: ChunkType::Data }
}

fn pending_row() -> PendingRow {
    PendingRow { pack: outboard_small(), epoch: EpochId([6; 32]), directory: rows() }
}
