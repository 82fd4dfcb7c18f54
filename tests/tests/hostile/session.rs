//! A folder's session spoken by hand, frame by frame.

use cobox_net::sync::{Binding, Speaker, signed_bytes};
use cobox_net::wire::{Proof, QuestionId, SessionId};
use cobox_store::id::{FolderId, LocatorId, LogId};
use ed25519_dalek::{Signer as _, SigningKey};

use super::*;

/// The number of the session that is opened.
pub const SESSION: SessionId = SessionId(2);
/// Connections of all members of a hostile folder, each under a peer id of its own.
pub const MANY: usize = 40;
/// Members of a hostile folder; each has as many connections as a device may have.
const PERSONS: u8 = 10;
/// How long all frames of one talk may take.
const TALK_WAIT: Duration = Duration::from_secs(60);

pub async fn send(stream: &mut SubstreamBox, frame: &[u8]) -> Option<()> {
    stream.write_all(&[&length(frame.len())[..], frame].concat()).await.ok()?;
    stream.flush().await.ok()
}

/// The next frame's bytes; `None` when the other side has ended.
pub async fn receive(stream: &mut SubstreamBox) -> Option<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.ok()?;
    let mut frame = vec![0; u32::from_le_bytes(head) as usize];
    stream.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

/// A connection on which both have said Hello, and what sessions on it are bound to.
pub async fn greet(rig: &Rig) -> Option<(Stranger, SubstreamBox, Binding)> {
    let stranger = Stranger::connect(&rig.address).await?;
    let mut control = stranger.protocol(CONTROL_PROTOCOL).await?;
    let nonce = [7; 32];
    send(&mut control, &Frame::Hello { nonce }.encode()).await?;
    let Frame::Hello { nonce: theirs } = decode_frame(&receive(&mut control).await?).ok()? else {
        return None;
    };
    let binding = Binding {
        opener: stranger.peer,
        responder: rig.peer,
        opener_nonce: nonce,
        responder_nonce: theirs,
        session: SESSION,
    };
    Some((stranger, control, binding))
}

/// The two frames with which a device opens a folder's session.
pub fn opening(binding: &Binding, swarm: &[u8; 32], folder: FolderId, key: &SigningKey) -> [Vec<u8>; 2] {
    let (blinded, proof) = (binding.blinded(swarm), binding.proof(swarm, Speaker::Opener));
    let log = LogId(key.verifying_key().to_bytes());
    let transcript = binding.transcript(folder, Speaker::Opener, &log.0);
    let who = Proof::Member { log, signature: key.sign(&signed_bytes(&transcript)).to_bytes() };
    let session = binding.session;
    [Frame::Open { session, blinded, proof }, Frame::Confirm { session, who }].map(|frame| frame.encode())
}

/// Connects as a device of the member's folder, which it is, and proves it.
pub async fn enter(rig: &Rig, member: &Member) -> Option<(Stranger, SubstreamBox)> {
    let (stranger, mut control, binding) = greet(rig).await?;
    for frame in opening(&binding, &member.swarm, member.folder, &member.key) {
        send(&mut control, &frame).await?;
    }
    // What it lacks it tells once the session is open.
    while !matches!(decode_frame(&receive(&mut control).await?), Ok(Frame::Behind { .. })) {}
    Some((stranger, control))
}

/// Sends these frames on a fresh connection, then a question that anybody may ask, and returns the bytes of all frames
/// that came before its answer. Frames are taken in order: what is not among them was never to come.
pub async fn talk(rig: &Rig, frames: impl FnOnce(&Binding) -> Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let question = Frame::LocatorGet { question: QuestionId(1), id: LocatorId([9; 32]) }.encode();
    let frames = |binding: &Binding| frames(binding).into_iter().chain([question]).collect();
    let mut answers = talk_until(rig, frames, |frame| matches!(frame, Frame::Locator { .. })).await;
    answers.pop();
    answers
}

/// Sends these frames on a fresh connection, and returns the bytes of all frames that came, to the last one.
pub async fn talk_until(
    rig: &Rig,
    frames: impl FnOnce(&Binding) -> Vec<Vec<u8>>,
    is_last: impl Fn(&Frame) -> bool,
) -> Vec<Vec<u8>> {
    let said = async {
        let (_stranger, mut control, binding) = greet(rig).await.expect("it listens");
        for frame in frames(&binding) {
            send(&mut control, &frame).await.expect("it reads");
        }
        let mut answers = Vec::new();
        loop {
            let frame = receive(&mut control).await.expect("it answers the last question");
            let last = decode_frame(&frame).is_ok_and(|frame| is_last(&frame));
            answers.push(frame);
            if last {
                return answers;
            }
        }
    };
    tokio::time::timeout(TALK_WAIT, said).await.expect("it answers")
}

/// The founder of a folder, who has connected, and members of it who have not.
pub fn persons(rig: &Rig, seed: u64) -> (Member, Vec<Member>) {
    let mut made = Made::new(seed);
    made.grant(&rig.address, 1 << 30);
    let keys: Vec<SigningKey> = (1..=PERSONS).map(|number| SigningKey::from_bytes(&[number; 32])).collect();
    for key in &keys {
        made.admit(key);
    }
    let founder = rig.connected(&made, &made.founder);
    // The seeder has heard of all of them.
    founder.wait_caught_up(rig.peer);
    let others = keys.iter().map(|key| Member::new(&made, key, &[])).collect();
    (founder, others)
}

/// Opens a folder on [`MANY`] connections, as its members in turn.
pub async fn enter_all(rig: &Rig, members: &[Member]) -> Vec<(Stranger, SubstreamBox)> {
    let mut entered = Vec::new();
    // One after the other: from one address so many handshakes are not taken at once.
    for number in 0..MANY {
        let member = &members[number % members.len()];
        let one = tokio::time::timeout(Duration::from_secs(20), enter(rig, member)).await;
        entered.extend(one.ok().flatten());
    }
    entered
}
