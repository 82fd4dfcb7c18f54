//! Questions to a peer whose connection, or session, ends before the answer, and such as nobody answers.

mod common;

use std::sync::Arc;
use std::time::Duration;

use cobox_net::sync::{Ask, Conn, Failure, Input, Output, Place, Reply, TICK};
use cobox_net::wire::{ClaimAnswer, Frame, LocatorAnswer, QuestionId, SeedingFrame};
use cobox_net::{PeerId, RecoverySigner};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::entry::LogHead;
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::{Challenge, EntriesDigest, LeafProof, Outboard};
use cobox_store::format::receipt::{Receipt, live_set_digest};
use cobox_store::format::seeding::SeedRequest;
use cobox_store::id::{InviteKey, KemKey, LocatorId, MemberId, PackId, hash};
use common::puppet::{Puppet, Stage, key};
use ed25519_dalek::{Signer as _, SigningKey};

/// How long the engine waits for the answer to a short question before it asks again.
const AGAIN: Duration = Duration::from_secs(5);

fn ask(stage: &mut Stage, peer: PeerId, ask: Ask) -> Vec<Output> {
    let deadline = stage.now + Duration::from_secs(30);
    stage.input(Input::Ask { ticket: 7, peer, addresses: Vec::new(), ask, deadline })
}

/// Questions that a peer was asked on a connection.
fn asked(outputs: &[Output], on: Conn) -> Vec<&Frame> {
    let frames = outputs.iter().filter_map(|output| match output {
        Output::Send { conn, frame } if *conn == on => Some(frame),
        _ => None,
    });
    let is_question = |frame: &&Frame| {
        matches!(
            frame,
            Frame::Challenge { .. }
                | Frame::LocatorPut { .. }
                | Frame::LocatorGet { .. }
                | Frame::Recover { .. }
                | Frame::Redeem { .. }
                | Frame::Seeding(
                    SeedingFrame::Claim { .. }
                        | SeedingFrame::Command { .. }
                        | SeedingFrame::RedeemSeed { .. }
                )
        )
    };
    frames.filter(is_question).collect()
}

fn replies(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Reply { ticket: 7, .. })).count()
}

/// One of each that needs no invite; those that go over a session are the last two.
fn questions(stage: &Stage) -> Vec<Ask> {
    let address = SeederAddress { peer_id: vec![1; 38], kem: KemKey([1; 32]), addresses: Vec::new() };
    let request =
        SeedRequest { folder: [1; 16], code: InviteKey([2; 32]), signature: [0; 64], seeder: address };
    let signer = RecoverySigner { member: MemberId([3; 32]), sign: Arc::new(|_| [0; 64]) };
    vec![
        Ask::Claim(vec![1; 9]),
        Ask::Command(vec![1; 9]),
        Ask::LocatorGet(LocatorId([1; 32])),
        Ask::Recover { folder: stage.made.id(), signer },
        Ask::RedeemSeed(Box::new(request)),
        Ask::LocatorPut(vec![1; 9]),
        Ask::Audit { no: stage.no, entropy: [1; 32] },
    ]
}

fn seeder(seed: u64) -> (Stage, Puppet, Puppet) {
    let (device, seeder) = (key(1), key(2));
    let mut stage = Stage::new(seed, &[&device]);
    let first = stage.enter_seeder(&seeder);
    let second = stage.enter_seeder(&seeder);
    (stage, first, second)
}

#[test]
fn question_on_a_connection_that_is_being_closed_is_asked_on_another_at_once() {
    let (stage, ..) = seeder(9_500);
    for at in 0..questions(&stage).len() {
        let (mut stage, first, second) = seeder(9_501 + at as u64);
        let question = questions(&stage).remove(at);
        let outputs = ask(&mut stage, first.peer, question);
        assert_eq!((asked(&outputs, first.conn).len(), asked(&outputs, second.conn).len()), (1, 0), "{at}");
        let outputs = stage.input(Input::Ending { conn: first.conn });
        assert_eq!((asked(&outputs, first.conn).len(), asked(&outputs, second.conn).len()), (0, 1), "{at}");
        let outputs = stage.input(Input::Down { conn: first.conn });
        assert!(asked(&outputs, second.conn).is_empty(), "{at}: it is asked there already");
        let outputs = ask(&mut stage, first.peer, Ask::Claim(vec![2; 9]));
        assert_eq!(asked(&outputs, second.conn).len(), 1, "{at}");
    }
}

#[test]
fn question_in_a_session_that_its_peer_ends_is_asked_in_another_at_once() {
    let (stage, ..) = seeder(9_520);
    for at in 5..questions(&stage).len() {
        let (mut stage, first, second) = seeder(9_521 + at as u64);
        let question = questions(&stage).remove(at);
        let outputs = ask(&mut stage, first.peer, question);
        assert_eq!(asked(&outputs, first.conn).len(), 1, "{at}");
        let outputs = stage.say(&first, Frame::Close { session: first.session });
        assert_eq!((asked(&outputs, first.conn).len(), asked(&outputs, second.conn).len()), (0, 1), "{at}");
    }
}

#[test]
fn question_that_is_dropped_without_a_word_is_sent_again_and_answered_once() {
    let (mut stage, first, _) = seeder(9_540);
    let outputs = ask(&mut stage, first.peer, Ask::Claim(vec![1; 9]));
    let sent: Vec<Frame> = asked(&outputs, first.conn).into_iter().cloned().collect();
    let outputs = stage.pass(AGAIN - 2 * TICK);
    assert!(asked(&outputs, first.conn).is_empty(), "not yet");
    let outputs = stage.pass(4 * TICK);
    let again: Vec<Frame> = asked(&outputs, first.conn).into_iter().cloned().collect();
    assert_eq!(again, sent, "the same question, so that either answer counts");
    let answer =
        || Frame::Seeding(SeedingFrame::Claimed { question: QuestionId(1), answer: ClaimAnswer::Refused });
    let outputs = stage.say(&first, answer());
    assert_eq!(replies(&outputs), 1);
    let outputs = stage.say(&first, answer());
    assert_eq!(replies(&outputs), 0, "the second answer is nobody's");
    assert!(asked(&stage.pass(2 * AGAIN), first.conn).is_empty());
}

#[test]
fn proof_that_takes_its_time_is_asked_for_once() {
    let (mut stage, first, second) = seeder(9_560);
    let audit = Ask::Audit { no: stage.no, entropy: [1; 32] };
    let outputs = ask(&mut stage, first.peer, audit);
    assert_eq!(asked(&outputs, first.conn).len(), 1);
    let outputs = stage.pass(3 * AGAIN);
    assert!(asked(&outputs, first.conn).is_empty() && asked(&outputs, second.conn).is_empty());
}

#[test]
fn answer_over_a_connection_that_is_being_closed_is_asked_for_elsewhere_and_counts_once() {
    let (mut stage, first, second) = seeder(9_570);
    let stranger = stage.dial(first.peer, Place::Other);
    ask(&mut stage, first.peer, Ask::LocatorGet(LocatorId([1; 32])));
    stage.input(Input::Ending { conn: first.conn });
    stage.input(Input::Down { conn: first.conn });
    stage.input(Input::Ending { conn: second.conn });
    let answer = |question| Frame::Locator { question: QuestionId(question), answer: LocatorAnswer::None };
    let late = stage.say(&second, answer(1));
    assert_eq!(replies(&late), 0, "it was asked on the third one since");
    let outputs = stage.input(Input::Frame { conn: stranger, frame: answer(1) });
    let replied = outputs
        .iter()
        .any(|output| matches!(output, Output::Reply { ticket: 7, reply: Ok(Reply::Locator(None)) }));
    assert!(replied, "{outputs:?}");
}

/// What the member knows when the answer of a seeder is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Knows {
    /// A release that the seeder had not heard of when it answered.
    Release,
    /// The same, and the seeder said so before it was asked.
    ReleaseBefore,
    /// That the seeder has heard of a record that is not here.
    Less,
    /// What the seeder knows.
    Same,
}

/// What a seeder signs that holds these packs and every entry.
fn receipt(
    stage: &Stage,
    seeder: &Puppet,
    challenge: &Challenge,
    heads: Vec<LogHead>,
    live: &[PackId],
) -> Receipt {
    let count = |many: usize| u16::try_from(many).expect("few");
    let mut entries = EntriesDigest::new(&challenge.nonce);
    for sample in &challenge.entries {
        let bytes = stage.store.entry_bytes(stage.no, sample.log, sample.seq).expect("reads");
        entries.add(*sample, &bytes.expect("is here"));
    }
    let secret = SigningKey::from_bytes(&hash(&key(2).to_bytes()));
    let mut receipt = Receipt {
        folder: stage.made.id(),
        seeder: seeder.peer.to_bytes(),
        nonce: challenge.nonce,
        heads,
        packs_held: live.len() as u64,
        packs_lacking: 0,
        samples_asked: count(challenge.samples.len()),
        samples_proved: count(challenge.samples.len()),
        entries_asked: count(challenge.entries.len()),
        entries_proved: count(challenge.entries.len()),
        entries_digest: entries.finish(),
        live_set_digest: live_set_digest(live),
        time_ms: 5,
        signature: [0; 64],
    };
    receipt.signature = secret.sign(&receipt.signed_bytes()).to_bytes();
    receipt
}

/// An honest or a false answer of a seeder over a live set that is not the member's: what the member makes of it.
fn judged(knows: Knows) -> Result<Reply, Failure> {
    let founder_packs: Vec<(Outboard, Vec<u8>)> =
        (0..2).map(|seed| common::bytes(seed, 4096)).map(|bytes| (Outboard::of(&bytes), bytes)).collect();
    let refs: Vec<PackRef> = founder_packs.iter().map(|(outboard, _)| outboard.pack()).collect();
    let mut stage = Stage::new(9_700, &[]);
    let seeder = stage.enter_seeder(&key(2));
    let founder = stage.made.founder.clone();
    stage.entries_of(&founder, &refs);
    let heads = stage.store.log_heads(stage.no).expect("reads");
    stage.say(&seeder, Frame::LogHeads { session: seeder.session, heads: heads.clone() });
    let access = |stage: &Stage| stage.store.access(stage.no).expect("reads").heads.clone();
    let live_here = |stage: &Stage| {
        let mut live = Vec::new();
        stage.store.packs_live(stage.no, &mut |pack, _| live.push(pack.id)).expect("reads");
        live.sort_unstable();
        live
    };
    let mut said = access(&stage);
    let release = stage.made.release(1, &refs[..1]);
    let learn = |stage: &mut Stage| {
        stage.store.access_add(stage.no, &release).expect("an admin's");
        stage.input(Input::Changed { no: stage.no });
    };
    match knows {
        Knows::ReleaseBefore => learn(&mut stage),
        Knows::Less => said = vec![release.hash()],
        Knows::Release | Knows::Same => {}
    }
    stage.say(&seeder, Frame::AccessHeads { session: seeder.session, heads: said });
    let no = stage.no;
    let outputs = ask(&mut stage, seeder.peer, Ask::Audit { no, entropy: [1; 32] });
    if knows == Knows::Release {
        learn(&mut stage);
    }
    let question = asked(&outputs, seeder.conn);
    if let [Frame::Challenge { challenge, .. }] = &question[..] {
        // It proved all of that a while ago.
        let earlier = receipt(&stage, &seeder, challenge, heads.clone(), &live_here(&stage));
        stage.store.receipt_put(no, &earlier).expect("puts");
    }
    let [Frame::Challenge { session, question, challenge }] = &question[..] else { panic!("{question:?}") };
    let (session, question) = (*session, *question);
    let proofs = challenge.samples.iter().map(|sample| {
        let (outboard, bytes) =
            founder_packs.iter().find(|(it, _)| it.pack() == sample.pack).expect("its own");
        Some(outboard.prove_leaf(sample.leaf, bytes).expect("it is there"))
    });
    let proofs: Vec<Option<LeafProof>> = proofs.collect();
    for (at, part) in proofs.chunks(200).enumerate() {
        let first = u16::try_from(200 * at).expect("few");
        stage.say(&seeder, Frame::Proofs { session, question, first, proofs: part.to_vec() });
    }
    // The seeder that knows as much answers over one pack, and keeps the other to itself.
    let mut live: Vec<PackId> = refs.iter().map(|pack| pack.id).collect();
    if matches!(knows, Knows::Same | Knows::Less) {
        live.remove(0);
    }
    live.sort_unstable();
    let receipt = receipt(&stage, &seeder, challenge, heads, &live);
    let outputs = stage.say(&seeder, Frame::Receipt { session, question, receipt: receipt.encode() });
    let reply = outputs.into_iter().find_map(|output| match output {
        Output::Reply { ticket: 7, reply } => Some(reply),
        _ => None,
    });
    // However it was judged: nothing that is kept proves what is live here.
    let kept = stage.store.receipts(stage.no).expect("reads");
    let digest = live_set_digest(&live_here(&stage));
    assert!(kept.iter().all(|kept| kept.receipt.live_set_digest != digest), "{knows:?}: {kept:?}");
    reply.expect("it was judged")
}

#[test]
fn answer_over_other_releases_than_are_known_here_is_no_lie_and_one_over_the_same_is() {
    for knows in [Knows::Release, Knows::ReleaseBefore, Knows::Less] {
        let reply = judged(knows);
        assert!(matches!(reply, Ok(Reply::Receipt(_))), "{knows:?}: {:?}", reply.err());
    }
    assert!(matches!(judged(Knows::Same), Err(Failure::WrongReceipt)));
}
