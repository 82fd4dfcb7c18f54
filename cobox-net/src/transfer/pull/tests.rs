//! Tests of the asking side without a network.

use std::time::Duration;

use super::super::CREDIT_SLICES;
use super::super::STALL_WAIT;
use super::pace::{LATE_BYTES, LATE_WAIT, Pace, Share, Watch};
use super::*;

#[test]
fn runs_of_missing_slices_are_contiguous_and_short() {
    assert_eq!(runs(&[]), vec![]);
    assert_eq!(runs(&[0, 1, 2, 5, 7, 8]), vec![0..3, 5..6, 7..9]);
    let all: Vec<u64> = (0..40).collect();
    assert_eq!(runs(&all), vec![0..16, 16..32, 32..40]);
}

fn pending(pieces: Option<UnboundedSender<Piece>>) -> Pending {
    let pack = PackId([7; 32]);
    Pending { session: SessionId(1), pack, pieces, permit: None, next: 0, end: 2, size: 1 << 20 }
}

#[test]
fn answer_to_a_fetch_that_was_let_go_is_dropped_and_the_stream_goes_on() {
    let mut asks = Asks::default();
    asks.pending.insert(1, pending(None));
    let slices = vec![0; 2 * 65_536];
    assert!(hand_on(&mut asks, BulkFrame::Slices { ask: 1, first: 0, bytes: &slices }.encode()).is_ok());
    assert!(hand_on(&mut asks, BulkFrame::Done { ask: 1 }.encode()).is_ok());
    assert!(asks.pending.is_empty(), "nothing is owed any more");
}

#[test]
fn stream_that_owes_is_late_until_something_comes_and_one_that_owes_nothing_never() {
    let began = Instant::now();
    let after = |ms| began + Duration::from_millis(ms);
    let mut pace = Pace { arrived: (0, 0), moved_at: began, late: false };
    assert_eq!(pace.look(false, (0, 0), after(10_000)), None, "it owes nothing");
    assert_eq!(pace.look(true, (0, 0), after(13_000)), None);
    assert_eq!(pace.look(true, (0, LATE_BYTES - 1), after(13_001)), Some(true));
    assert_eq!(pace.look(true, (0, LATE_BYTES - 1), after(14_000)), None, "said once");
    assert_eq!(pace.look(true, (1, LATE_BYTES), after(14_500)), Some(false));
    // A thin line brings parts of a frame.
    for tick in 1..100 {
        assert_eq!(pace.look(true, (1, LATE_BYTES * (1 + tick)), after(14_500 + tick * 2_900)), None);
    }
}

#[test]
fn stream_is_weighed_by_what_it_brought_while_it_owed() {
    let began = Instant::now();
    let after = |ms| began + Duration::from_millis(ms);
    let mut share = Share { bytes: 0, began };
    let mib = 1u64 << 20;
    assert_eq!(share.look(true, 3 * mib, after(2_500)), None);
    assert_eq!(share.look(true, 3 * mib, after(3_000)), Some(192), "1 MiB/s");
    assert_eq!(share.look(true, 3 * mib + 5_000, after(6_000)), Some(1), "less than a slice");
    assert_eq!(share.look(true, 3 * mib + 5_000, after(9_000)), Some(0));
    // A pause is not held against it.
    assert_eq!(share.look(false, 3 * mib + 5_000, after(20_000)), None);
    assert_eq!(share.look(true, 3 * mib + 5_000, after(20_500)), None);
    assert_eq!(share.look(true, 33 * mib, after(23_000)), Some(1920));
}

/// A stream that owes so many slices of 16 at a time, all of them with credit.
fn owing(node: &Arc<Semaphore>, slices: usize) -> Asks {
    let own = Arc::new(Semaphore::new(STREAM_SLICES));
    let mut asks = Asks { next: u32::MAX - 3, ..Asks::default() };
    for _ in 0..slices / 16 {
        let take = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_many_owned(16).expect("there is credit");
        let permit = Some(Permit(take(&own), Some(take(node))));
        asks.next = asks.next.wrapping_add(1);
        asks.pending.insert(asks.next, Pending { permit, end: 16, ..pending(None) });
    }
    asks
}

#[test]
fn two_slow_streams_leave_the_nodes_credit_to_a_third_and_owe_what_they_owed() {
    let node = Arc::new(Semaphore::new(CREDIT_SLICES));
    let (mut first, mut second) = (owing(&node, 192), owing(&node, 64));
    assert_eq!(node.available_permits(), 0, "between them they have all of it");
    first.keep(20);
    second.keep(1);
    assert_eq!(node.available_permits(), CREDIT_SLICES - 21);
    first.keep(192);
    assert_eq!(node.available_permits(), CREDIT_SLICES - 21, "what was left is not taken back");
    let of = |asks: &Asks, number: u32| {
        let permit = asks.pending[&number].permit.as_ref().expect("it owes");
        (permit.0.num_permits(), permit.1.as_ref().map_or(0, OwnedSemaphorePermit::num_permits))
    };
    let oldest = u32::MAX - 2;
    assert_eq!((of(&first, oldest), of(&first, oldest + 1)), ((16, 16), (16, 4)), "the oldest keep theirs");
    assert_eq!((of(&first, oldest + 2), of(&first, 0)), ((16, 0), (16, 0)), "and all count for the stream");
    first.keep(0);
    second.keep(0);
    assert_eq!(node.available_permits(), CREDIT_SLICES);
    assert_eq!((first.pending.len(), second.pending.len()), (12, 4));
}

#[test]
fn slices_that_were_not_asked_for_end_the_stream() {
    let (pieces, mut got) = unbounded_channel();
    let mut asks = Asks::default();
    asks.pending.insert(1, pending(Some(pieces)));
    let slices = vec![0; 65_536];
    let frame = |ask, first| BulkFrame::Slices { ask, first, bytes: &slices }.encode();
    assert!(hand_on(&mut asks, frame(1, 0)).is_ok());
    assert!(matches!(got.try_recv(), Ok(Piece::Slices { first: 0, .. })));
    assert!(hand_on(&mut asks, frame(1, 0)).is_err(), "twice");
    assert!(hand_on(&mut asks, frame(1, 2)).is_err(), "past the end");
    assert!(hand_on(&mut asks, frame(2, 0)).is_err(), "another ask");
    assert!(hand_on(&mut asks, BulkFrame::Done { ask: 1 }.encode()).is_err(), "too early");
}

/// A stream that owes all that its own credit and the node's allow: its asks, and how much it owes.
fn owing_all(credit: &Arc<Semaphore>) -> (Asks, u32) {
    let (own, mut asks, mut owed) = (Arc::new(Semaphore::new(STREAM_SLICES)), Asks::default(), 0);
    let share = u32::try_from(ASK_SLICES).expect("few");
    while let Ok(of_stream) = Arc::clone(&own).try_acquire_many_owned(share) {
        let Ok(of_node) = Arc::clone(credit).try_acquire_many_owned(share) else { break };
        let permit = Some(Permit(of_stream, Some(of_node)));
        owed += share;
        asks.pending.insert(owed, Pending { permit, end: ASK_SLICES, ..pending(None) });
    }
    asks.heard_at = Some(Instant::now());
    (asks, owed)
}

#[test]
fn two_streams_that_stand_still_leave_the_nodes_credit_to_others() {
    let credit = Arc::new(Semaphore::new(CREDIT_SLICES));
    let ((mut one, first), (mut other, second)) = (owing_all(&credit), owing_all(&credit));
    assert_eq!((first as usize, (first + second) as usize), (STREAM_SLICES, CREDIT_SLICES));
    assert_eq!(credit.available_permits(), 0, "nobody else may ask for anything");
    let began = Instant::now();
    let late = began + LATE_WAIT + Duration::from_millis(1);
    for asks in [&mut one, &mut other] {
        let mut watch = Watch::new((0, 0), began);
        assert!(matches!(watch.step(asks, (0, 0), began + LATE_WAIT), Ok(None)));
        assert!(matches!(watch.step(asks, (0, 0), late), Ok(Some(true))));
    }
    assert_eq!(credit.available_permits(), CREDIT_SLICES);
    // What comes all the same is taken, under the stream's own credit.
    let (pieces, mut got) = unbounded_channel();
    one.pending.get_mut(&16).expect("the first").pieces = Some(pieces);
    let frame = BulkFrame::Slices { ask: 16, first: 0, bytes: &[0; 65_536] }.encode();
    assert!(hand_on(&mut one, frame).is_ok());
    let Ok(Piece::Slices { permit: Some(permit), .. }) = got.try_recv() else { panic!("it is handed on") };
    assert_eq!((permit.0.num_permits(), permit.1.is_none()), (1, true));
    // One that stays silent for longer ends.
    assert!(Watch::new((0, 0), began).step(&mut other, (0, 0), late + STALL_WAIT).is_err());
}
