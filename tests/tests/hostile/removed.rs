//! A device that was removed and goes on signing.
//!
//! Seeders see no clock: an entry's is sealed. What an author can set back is the state of the access log that the
//! entry claims to be of.

use cobox_net::sync::Binding;
use cobox_net::wire::SessionId;
use cobox_store::format::access::Record;
use cobox_store::format::entry::{Entry, LogHead, UnverifiedEntry};
use cobox_store::id::{EntryHash, LogId};

use super::session::{SESSION, opening, talk, talk_until};
use super::*;

/// What ends an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// What a question after all others is answered with.
    Told,
    /// The end of a log's entries: who is of the folder gets one after the other, and then that.
    EntriesEnd,
}

/// What the seeder says when a device opens its folder's session and goes on with these frames.
fn ask(
    rig: &Rig,
    runtime: &tokio::runtime::Runtime,
    who: &Member,
    frames: &[Frame],
    until: Until,
) -> Vec<Frame> {
    let all = |binding: &Binding| {
        let opening = opening(binding, &who.swarm, who.folder, &who.key);
        opening.into_iter().chain(frames.iter().map(Frame::encode)).collect()
    };
    let is_end = |frame: &Frame| matches!(frame, Frame::EntriesEnd { .. });
    let said = match until {
        Until::Told => runtime.block_on(talk(rig, all)),
        Until::EntriesEnd => runtime.block_on(talk_until(rig, all, is_end)),
    };
    said.iter().map(|frame| decode_frame(frame).expect("a frame")).collect()
}

fn entries_of(log: LogId, frames: &[Frame]) -> Vec<Entry> {
    let entries = frames.iter().filter_map(|frame| match frame {
        Frame::Entry { entry, .. } => UnverifiedEntry::decode(entry).ok()?.verify().ok(),
        _ => None,
    });
    entries.filter(|entry| entry.header().log == log).collect()
}

fn knows(rig: &Rig, runtime: &tokio::runtime::Runtime, who: &Member, record: &Record) -> bool {
    let want = Frame::AccessWant { session: SESSION, have: Vec::new() };
    let said = ask(rig, runtime, who, &[want], Until::Told);
    let wanted = record.encode();
    said.iter().any(|frame| matches!(frame, Frame::Records { records, .. } if records.contains(&wanted)))
}

#[test]
fn entries_of_a_removed_device_are_refused_whoever_brings_them_and_whatever_past_they_claim() {
    let rig = Rig::new();
    let mut made = Made::new(31);
    made.grant(&rig.address, 1 << 30);
    let bobs_key = SigningKey::from_bytes(&[32; 32]);
    let before = made.admit(&bobs_key).hash();
    let founder = rig.connected(&made, &made.founder);
    let mut bob = rig.connected(&made, &bobs_key);
    let log = LogId(bobs_key.verifying_key().to_bytes());
    for seed in 0..3 {
        bob.write(&[bytes(310 + seed, PACK_BYTES / 16)]);
    }
    let last = LogHead { log, seq: bob.seq, hash: bob.prev };
    bob.wait_caught_up(rig.peer);
    until("the founder has what Bob wrote", || {
        founder.store.log_head(founder.no, log).expect("reads") == Some(last)
    });
    bob.node.shutdown();
    let removal = made.remove(last);
    founder.store.access_add(founder.no, &removal).expect("taken");
    let runtime = runtime();
    until("the seeder knows of the removal", || knows(&rig, &runtime, &founder, &removal));

    let refused = rig.metric("cobox_refusals_total{what=\"entry\"}");
    let late = [before, removal.hash(), bob.epoch].map(|head| bob.next_entry(&[], head));
    let brought = |session: SessionId| {
        let entry = |late: &Entry| Frame::Entry { session, entry: late.encode() };
        let mut frames: Vec<Frame> = late.iter().map(entry).collect();
        frames.push(Frame::EntriesWant { session, log, from: 1 });
        frames
    };
    // By himself: he is told what the access log says, and nothing else.
    let said = ask(&rig, &runtime, &bob, &brought(SESSION), Until::Told);
    assert!(matches!(said.first(), Some(Frame::Accept { .. })), "he knows the folder's secret: {said:?}");
    assert!(entries_of(log, &said).is_empty(), "{said:?}");
    // By a friend who is still of the folder: what he wrote before is there, and nothing later.
    let said = ask(&rig, &runtime, &founder, &brought(SESSION), Until::EntriesEnd);
    let hashes: Vec<EntryHash> = entries_of(log, &said).iter().map(|entry| entry.header().hash()).collect();
    assert_eq!(hashes.len() as u64, last.seq, "{said:?}");
    assert_eq!(hashes.last(), Some(&last.hash));
    let end = said.iter().rev().find_map(|frame| match frame {
        Frame::EntriesEnd { log: of, next, .. } if *of == log => Some(*next),
        _ => None,
    });
    assert_eq!(end, Some(last.seq + 1));
    assert_eq!(rig.metric("cobox_refusals_total{what=\"entry\"}"), refused + late.len() as u64);
    // And a member takes them from nobody.
    for entry in &late {
        assert!(founder.store.entry_add(founder.no, entry).is_err());
    }
    assert_eq!(founder.store.log_head(founder.no, log).expect("reads"), Some(last));
    rig.assert_sound();
}
