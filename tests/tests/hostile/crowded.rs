//! A member that has a folder open on many connections: large frames that come as slowly as they may, answers that
//! are asked for and not read, and folders that are opened again and again.

use cobox_net::wire::{LocatorAnswer, QuestionId, SessionId};
use cobox_store::format::entry::{Entry, Header};
use cobox_store::format::locator::{LOCATOR_STEP_BYTES, Locator};
use cobox_store::format::pack::SEALED_OVERHEAD_BYTES;
use cobox_store::id::{EpochId, LogId, hash};

use ed25519_dalek::Signer as _;

use super::session::{MANY, SESSION, enter, enter_all, greet, opening, persons, receive, send};
use super::*;

/// Of these so many may have the folder open.
const DEVICE_CONNS_MAX: usize = 4;
/// A body that makes an entry almost as large as a frame may be.
const LARGE_BYTES: usize = 900_000;

/// The member's next entry, with a body of this size.
fn entry(member: &Member, len: usize) -> Entry {
    let body = bytes(member.seq, len);
    let header = Header {
        folder: member.folder,
        log: LogId(member.key.verifying_key().to_bytes()),
        seq: member.seq + 1,
        prev: member.prev,
        access_heads: vec![member.epoch],
        epoch: EpochId(member.epoch.0),
        packs: Vec::new(),
        body_size: u32::try_from(body.len()).expect("short"),
        body_hash: hash(&body),
    };
    let signature = member.key.sign(&header.signed_bytes()).to_bytes();
    Entry::new(header, signature, body)
}

fn enter_large(member: &mut Member, len: usize) {
    let next = entry(member, len);
    member.store.entry_add(member.no, &next).expect("taken");
    (member.seq, member.prev) = (next.header().seq, next.header().hash());
}

/// Writes a large frame as slowly as it is borne: 16 KiB in 30 seconds, with some to spare.
async fn creep((_stranger, mut control): (Stranger, SubstreamBox)) {
    const PART: [u8; 2048] = [0; 2048];
    const EVERY: Duration = Duration::from_secs(2);
    if control.write_all(&length(LARGE_BYTES)).await.is_err() {
        return;
    }
    while control.write_all(&PART).await.is_ok() && control.flush().await.is_ok() {
        tokio::time::sleep(EVERY).await;
    }
}

#[test]
fn members_that_write_large_frames_slowly_keep_no_other_folder_waiting() {
    /// 64 kbit/s.
    const LINE_BYTES_PER_S: usize = 8000;
    let rig = Rig::new();
    let mut other = rig.member(41, 1 << 30);
    let (_founder, hostile) = persons(&rig, 42);
    let alone = rig.rate(&mut other, 41);
    let runtime = runtime();
    let entered = runtime.block_on(enter_all(&rig, &hostile));
    assert_eq!(entered.len(), MANY, "the attack did not take place");
    let slow: Vec<_> = entered.into_iter().map(|peer| runtime.spawn(creep(peer))).collect();
    // All of them have begun.
    std::thread::sleep(Duration::from_secs(1));
    let started = Instant::now();
    enter_large(&mut other, LARGE_BYTES);
    other.wait_caught_up(rig.peer);
    println!("a large entry of another folder took {:?}", started.elapsed());
    let crowded = rig.rate(&mut other, 49);
    println!("{alone:.0} MB/s alone, {crowded:.0} MB/s beside them: {:.0} %", 100.0 * crowded / alone);
    // And one whose line is slow, but not on purpose.
    let honest = rig.member(43, 1 << 30);
    let (next, started) = (entry(&honest, LARGE_BYTES / 15), Instant::now());
    runtime.block_on(async {
        let (_stranger, mut control) = enter(&rig, &honest).await.expect("it listens");
        let frame = Frame::Entry { session: SESSION, entry: next.encode() }.encode();
        let frame = [&length(frame.len())[..], &frame].concat();
        for part in frame.chunks(LINE_BYTES_PER_S / 2) {
            control.write_all(part).await.expect("it reads");
            control.flush().await.expect("it reads");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let want = Frame::EntriesWant { session: SESSION, log: next.header().log, from: 1 };
        send(&mut control, &want.encode()).await.expect("it reads");
        loop {
            let frame = receive(&mut control).await.expect("it answers");
            match decode_frame(&frame) {
                Ok(Frame::Entry { entry, .. }) if entry == next.encode() => break,
                Ok(Frame::EntriesEnd { .. }) => panic!("its entry was not taken"),
                _ => {}
            }
        }
    });
    println!("one of {} bytes over a slow line took {:?}", LARGE_BYTES / 15, started.elapsed());
    let left = slow.iter().filter(|one| !one.is_finished()).count();
    assert!(left > MANY / 2, "{} had gone before it was measured", MANY - left);
    rig.assert_sound();
}

#[test]
fn members_that_ask_and_do_not_read_take_little_memory() {
    /// Each answer is one entry.
    const ASKS: usize = 15;
    let rig = Rig::new();
    let mut other = rig.member(44, 1 << 30);
    let (mut founder, hostile) = persons(&rig, 45);
    enter_large(&mut founder, LARGE_BYTES);
    founder.wait_caught_up(rig.peer);
    let log = LogId(founder.key.verifying_key().to_bytes());
    let alone = rig.rate(&mut other, 44);
    let runtime = runtime();
    let asking = runtime.block_on(async {
        let mut entered = enter_all(&rig, &hostile).await;
        let want = Frame::EntriesWant { session: SESSION, log, from: 1 }.encode();
        for (_, control) in &mut entered {
            for _ in 0..ASKS {
                // Who is thrown out takes no more.
                if send(control, &want).await.is_none() {
                    break;
                }
            }
        }
        entered
    });
    assert_eq!(asking.len(), MANY, "the attack did not take place");
    let crowded = rig.rate(&mut other, 46);
    println!("{alone:.0} MB/s alone, {crowded:.0} MB/s beside them: {:.0} %", 100.0 * crowded / alone);
    assert!(other.node.audit(other.no, rig.peer).is_ok(), "it proves nothing any more");
    rig.assert_sound();
    drop(asking);
}

/// Whether the other side has ended it within a few seconds.
async fn is_gone(control: &mut SubstreamBox) -> bool {
    let ended = async { while receive(control).await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(3), ended).await.is_ok()
}

#[test]
fn device_on_many_connections_keeps_the_newest_few() {
    let rig = Rig::new();
    let member = rig.member(47, 1 << 30);
    let left = runtime().block_on(async {
        let mut entered = enter_all(&rig, std::slice::from_ref(&member)).await;
        assert_eq!(entered.len(), MANY);
        let newest = entered.split_off(MANY - (DEVICE_CONNS_MAX - 1));
        let mut left = 0;
        for (_, control) in &mut entered {
            left += usize::from(!is_gone(control).await);
        }
        for (_, mut control) in newest {
            let want = Frame::AccessWant { session: SESSION, have: Vec::new() };
            send(&mut control, &want.encode()).await.expect("the newest stay");
        }
        left
    });
    assert!(left <= 1, "{left} of the older ones are still there");
    rig.assert_sound();
}

#[test]
fn folder_opened_again_and_again_ends_the_connection() {
    /// More than anybody has a reason for, whatever is earned meanwhile.
    const TIMES: u32 = 1000;
    let rig = Rig::new();
    let member = rig.member(48, 1 << 30);
    let opened = runtime().block_on(async {
        let (_stranger, mut control, mut binding) = greet(&rig).await.expect("it listens");
        for number in 1..TIMES {
            binding.session = SessionId(2 * number);
            for frame in opening(&binding, &member.swarm, member.folder, &member.key) {
                if send(&mut control, &frame).await.is_none() {
                    return number;
                }
            }
            if receive(&mut control).await.is_none() {
                return number;
            }
        }
        TIMES
    });
    assert!(opened < TIMES, "it was opened without end");
    let mut member = member;
    member.write(&[bytes(48, PACK_BYTES)]);
    member.wait_caught_up(rig.peer);
    rig.assert_sound();
}

/// A locator that nobody has left yet.
fn locator(number: u8) -> Vec<u8> {
    let key = SigningKey::from_bytes(&[number; 32]);
    let sealed = vec![0; LOCATOR_STEP_BYTES + SEALED_OVERHEAD_BYTES];
    let mut locator = Locator { key: key.verifying_key().to_bytes(), seq: 1, sealed, signature: [0; 64] };
    locator.signature = key.sign(&locator.signed_bytes()).to_bytes();
    locator.encode()
}

#[test]
fn member_leaves_no_more_locators_under_many_peer_ids() {
    /// Of one member.
    const LOCATORS_MAX: usize = 64;
    /// As many questions as a connection may ask at once.
    const EACH: u8 = 40;
    let rig = Rig::new();
    let member = rig.member(52, 1 << 30);
    let stored = runtime().block_on(async {
        let mut stored = 0;
        for round in 0..2 {
            let (_stranger, mut control) = enter(&rig, &member).await.expect("it is a device of the folder");
            for number in 0..EACH {
                let question = QuestionId(u32::from(number));
                let put = Frame::LocatorPut { question, locator: locator(1 + round * EACH + number) };
                send(&mut control, &put.encode()).await.expect("it reads");
            }
            let mut answers = 0;
            while answers < EACH {
                let frame = receive(&mut control).await.expect("it answers");
                if let Ok(Frame::Locator { answer, .. }) = decode_frame(&frame) {
                    answers += 1;
                    stored += usize::from(answer == LocatorAnswer::Stored);
                }
            }
        }
        stored
    });
    assert_eq!(stored, LOCATORS_MAX);
    rig.assert_sound();
}
