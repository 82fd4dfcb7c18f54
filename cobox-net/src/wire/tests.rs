//! Every frame goes out and comes back; what is cut, long or unknown does not.

use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::{EntrySample, Sample};
use cobox_store::id::EntryHash;

use super::*;

fn one_of_each() -> Vec<Frame> {
    let session = SessionId(7);
    let question = QuestionId(9);
    let log = LogId([1; 32]);
    let pack = PackRef { id: PackId([2; 32]), size: 4096 };
    let records = vec![vec![1; 200], vec![2; 300]];
    vec![
        Frame::Hello { nonce: [3; 32] },
        Frame::Open { session, blinded: [4; 32], proof: [5; 32] },
        Frame::Accept { session, proof: [6; 32], who: Proof::Seeder },
        Frame::Confirm { session, who: Proof::Member { log, signature: [7; 64] } },
        Frame::Refuse { session },
        Frame::Close { session },
        Frame::AccessHeads { session, heads: vec![RecordHash([8; 32])] },
        Frame::AccessWant { session, have: vec![] },
        Frame::Records { session, part: Part::Last, records: records.clone() },
        Frame::LogHeads { session, heads: vec![LogHead { log, seq: 4, hash: EntryHash([1; 32]) }] },
        Frame::EntriesWant { session, log, from: 3 },
        Frame::Entry { session, entry: vec![1, 2, 3] },
        Frame::EntriesEnd { session, log, next: 4 },
        Frame::Behind { session, packs: 1, bytes: 2, full: true },
        Frame::Have { session, packs: vec![pack.id] },
        Frame::Challenge {
            session,
            question,
            challenge: Challenge {
                nonce: [1; 32],
                samples: vec![Sample { pack, leaf: 3 }],
                entries: vec![EntrySample { log: LogId([4; 32]), seq: 2 }],
            },
        },
        Frame::Proofs {
            session,
            question,
            first: 1,
            proofs: vec![None, Some(LeafProof { leaf: vec![1; 1024], siblings: vec![[2; 32]; 2] })],
        },
        Frame::Receipt { session, question, receipt: vec![1] },
        Frame::Equivocation { session, proof: vec![1] },
        Frame::GrantOffer { session, part: Part::More, records },
        Frame::GrantAnswer { folder: FolderId([1; 32]), answer: GrantAnswer::Pending },
        Frame::LocatorPut { question, locator: vec![1; 10] },
        Frame::LocatorGet { question, id: LocatorId([2; 32]) },
        Frame::Locator { question, answer: LocatorAnswer::Found(vec![1]) },
        Frame::Locator { question, answer: LocatorAnswer::Refused },
        Frame::Recover { session, folder: FolderId([1; 32]), member: MemberId([2; 32]), signature: [3; 64] },
        Frame::Redeem { session, signature: [3; 64], request: vec![1; JOIN_REQUEST_BYTES] },
        Frame::JoinAsked { session, request: vec![2; JOIN_REQUEST_BYTES] },
        Frame::JoinWait { session },
        Frame::Contacts {
            session,
            contacts: vec![Contact {
                peer: crate::peer_id::PeerId::of_key([1; 32]),
                log,
                said_ms: 5,
                addresses: vec![vec![1; 8], vec![2; 9]],
                signature: [3; 64],
            }],
        },
    ]
}

#[test]
fn frame_of_every_type_round_trips_and_no_prefix_decodes_to_it() {
    for frame in one_of_each() {
        let bytes = frame.encode();
        assert_eq!(decode_frame(&bytes), Ok(frame.clone()));
        for end in 0..bytes.len() {
            assert_ne!(decode_frame(&bytes[..end]).as_ref(), Ok(&frame), "{end}");
        }
    }
}

#[test]
fn frame_of_any_bytes_reencodes_or_is_refused() {
    let mut stream = blake3::Hasher::new().update(b"frames").finalize_xof();
    let mut accepted = 0;
    for round in 0..20_000u32 {
        let mut bytes = vec![0; 1 + round as usize % 300];
        stream.fill(&mut bytes);
        bytes[0] %= 27;
        if let Ok(frame) = decode_frame(&bytes) {
            accepted += 1;
            assert_eq!(frame.encode(), bytes);
        }
        if let Ok(frame) = decode_bulk(&bytes) {
            assert_eq!(frame.encode(), bytes);
        }
    }
    assert!(accepted > 0);
}

#[test]
fn bulk_frame_of_every_type_round_trips() {
    let pack = PackRef { id: PackId([2; 32]), size: 1 << 20 };
    let ask = Ask { ask: 5, session: SessionId(1), pack, outboard: OutboardWish::Send, first: 12, count: 4 };
    let frames = [
        BulkFrame::Ask(ask),
        BulkFrame::Outboard { ask: 5, values: &[1; 64] },
        BulkFrame::Slices { ask: 5, first: 12, bytes: &[2; 65536] },
        BulkFrame::Done { ask: 5 },
        BulkFrame::NotHere { ask: 5 },
    ];
    for frame in frames {
        assert_eq!(decode_bulk(&frame.encode()), Ok(frame));
    }
    assert!(decode_bulk(&BulkFrame::Ask(Ask { count: 5, ..ask }).encode()).is_err());
}

#[test]
fn records_are_split_below_a_frame() {
    let lists = split_records(vec![vec![0; 300 * 1024]; 5]);
    assert_eq!(lists.iter().map(|(_, list)| list.len()).sum::<usize>(), 5);
    assert_eq!(lists.iter().filter(|(part, _)| *part == Part::Last).count(), 1);
    assert_eq!(split_records(vec![]), vec![(Part::Last, vec![])]);
}
