//! Tests of the asking side without a network.

use std::time::Duration;

use cobox_store::blind::StoreKind;
use tokio::sync::mpsc::UnboundedReceiver;

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
    let (session, pack) = (SessionId(1), PackId([7; 32]));
    let outboard = OutboardWish::Skip;
    Pending { session, pack, pieces, permit: None, outboard, next: 0, end: 2, size: 1 << 20 }
}

#[test]
fn answer_to_a_fetch_that_was_let_go_is_dropped_and_the_stream_goes_on() {
    let mut asks = Asks::default();
    asks.pending.insert(1, pending(None));
    let slices = vec![0; 2 * 65_536];
    assert!(
        hand_on(&mut asks, BulkFrame::Slices { ask: 1, first: 0, bytes: &slices }.encode(), None).is_ok()
    );
    assert!(hand_on(&mut asks, BulkFrame::Done { ask: 1 }.encode(), None).is_ok());
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
    asks.pending.insert(1, Pending { end: 6, ..pending(Some(pieces)) });
    let slices = vec![0; 5 * 65_536];
    let frame = |ask, first, count: usize| {
        BulkFrame::Slices { ask, first, bytes: &slices[..count * 65_536] }.encode()
    };
    assert!(hand_on(&mut asks, frame(1, 0, 3), None).is_err(), "less than a frame takes");
    assert!(hand_on(&mut asks, frame(1, 0, 4), None).is_ok());
    assert!(matches!(got.try_recv(), Ok(Piece::Slices { first: 0, .. })));
    assert!(hand_on(&mut asks, frame(1, 0, 4), None).is_err(), "twice");
    assert!(hand_on(&mut asks, frame(1, 4, 4), None).is_err(), "past the end");
    assert!(hand_on(&mut asks, frame(1, 4, 1), None).is_err(), "less than the rest");
    assert!(hand_on(&mut asks, frame(2, 0, 2), None).is_err(), "another ask");
    assert!(hand_on(&mut asks, BulkFrame::Done { ask: 1 }.encode(), None).is_err(), "too early");
    assert!(hand_on(&mut asks, frame(1, 4, 2), None).is_ok(), "the rest");
    assert!(hand_on(&mut asks, BulkFrame::Done { ask: 1 }.encode(), None).is_ok());
}

#[test]
fn ask_is_forgotten_with_its_last_slices_and_nothing_but_its_end_may_follow() {
    let slices = vec![0; 2 * 65_536];
    let answer = |ask| BulkFrame::Slices { ask, first: 0, bytes: &slices }.encode();
    let done = |ask| BulkFrame::Done { ask }.encode();
    let two = || {
        let mut asks = Asks::default();
        asks.pending.extend([1, 2].map(|number| (number, pending(None))));
        assert!(hand_on(&mut asks, answer(1), None).is_ok());
        assert_eq!(asks.pending.len(), 1, "who never says that it is done has nothing grow");
        asks
    };
    for other in [answer(2), done(2), BulkFrame::NotHere { ask: 2 }.encode(), answer(1)] {
        assert!(hand_on(&mut two(), other, None).is_err());
    }
    let mut asks = two();
    for frame in [done(1), answer(2), done(2)] {
        assert!(hand_on(&mut asks, frame, None).is_ok());
    }
    assert!(hand_on(&mut asks, done(2), None).is_err(), "said twice");
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
    let frame = BulkFrame::Slices { ask: 16, first: 0, bytes: &[0; 4 * 65_536] }.encode();
    assert!(hand_on(&mut one, frame, None).is_ok());
    let Ok(Piece::Slices { permit: Some(permit), .. }) = got.try_recv() else { panic!("it is handed on") };
    assert_eq!((permit.0.num_permits(), permit.1.is_none()), (4, true));
    // One that stays silent for longer ends.
    assert!(Watch::new((0, 0), began).step(&mut other, (0, 0), late + STALL_WAIT).is_err());
}

/// A stream that has all that it owes ready to be read, with what it asked for still to be stored.
struct Burst {
    reading: Pin<Box<dyn Future<Output = Result<()>>>>,
    asks: Arc<Mutex<Asks>>,
    pieces: UnboundedReceiver<Piece>,
    held: Vec<Piece>,
}

impl Burst {
    fn new(node: &Arc<Semaphore>) -> Self {
        let mut asks = owing(node, STREAM_SLICES);
        asks.keep(0);
        Self::of(asks, node)
    }

    fn of(mut asks: Asks, node: &Arc<Semaphore>) -> Self {
        let (sender, pieces) = unbounded_channel();
        let (mut bytes, slices) = (Vec::new(), vec![7; 4 * 65_536]);
        for number in asks.oldest_first() {
            let pending = asks.pending.get_mut(&number).expect("it owes");
            pending.pieces = Some(sender.clone());
            let part = |first| BulkFrame::Slices { ask: number, first, bytes: &slices }.encode();
            let parts = [0, 4, 8, 12].into_iter().take_while(|first| u64::from(*first) < pending.end);
            for frame in parts.map(part).chain([BulkFrame::Done { ask: number }.encode()]) {
                bytes.extend(u32::try_from(frame.len()).expect("short").to_le_bytes());
                bytes.extend(frame);
            }
        }
        let stream: ByteStream = Box::pin(futures::io::Cursor::new(bytes));
        let arrived = Arc::new(Arrived { bytes: Arc::default(), frames: AtomicU64::new(0) });
        let counted = Counted { stream: stream.split().0, arrived };
        let asks = Arc::new(Mutex::new(asks));
        let buffers = Buffers::default();
        let reading =
            Box::pin(read_pieces(counted, Arc::clone(&asks), Arc::clone(node), buffers, Tap::default()));
        Self { reading, asks, pieces, held: Vec::new() }
    }

    /// Reads on as far as it goes; slices that wait to be stored.
    async fn read(&mut self) -> usize {
        // More often than there are frames, as a task has to yield now and then.
        for _ in 0..100 {
            tokio::task::yield_now().await;
            if futures::poll!(self.reading.as_mut()).is_ready() {
                self.reading = Box::pin(std::future::pending());
            }
        }
        self.held.extend(std::iter::from_fn(|| self.pieces.try_recv().ok()));
        self.held.iter().filter(|piece| matches!(piece, Piece::Slices { .. })).count() * 4
    }
}

#[test]
fn slow_streams_that_bring_all_they_owe_at_once_are_read_as_the_node_has_credit() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
    runtime.block_on(async {
        let node = Arc::new(Semaphore::new(CREDIT_SLICES));
        let mut streams: Vec<Burst> = (0..4).map(|_| Burst::new(&node)).collect();
        let mut came = 0;
        for _ in 0..4 * STREAM_SLICES {
            let mut waiting = 0;
            for stream in &mut streams {
                waiting += stream.read().await;
            }
            assert!(waiting <= CREDIT_SLICES, "{waiting} slices wait to be stored");
            if waiting == 0 {
                break;
            }
            // Who has all and is to wait is not taken for late: nothing of what it has is read.
            for stream in &streams {
                let began = Instant::now();
                let mut asks = stream.asks.lock();
                if asks.waits {
                    let late = Watch::new((0, 0), began).step(&mut asks, (0, 0), began + 2 * STALL_WAIT);
                    assert!(matches!(late, Ok(None)), "it is ended for our own wait");
                }
            }
            came += waiting;
            streams.iter_mut().for_each(|stream| stream.held.clear());
        }
        assert_eq!(came, 4 * STREAM_SLICES, "all of it came in the end");
        assert_eq!(node.available_permits(), CREDIT_SLICES);
    });
}

/// A stream that owes one frame, for which it has so much of the node's credit.
fn owing_a_frame(node: &Arc<Semaphore>, kept: u32) -> Asks {
    let own = Arc::new(Semaphore::new(STREAM_SLICES)).try_acquire_many_owned(4).expect("there is credit");
    let of_node = (kept > 0).then(|| Arc::clone(node).try_acquire_many_owned(kept).expect("there is credit"));
    let mut asks = Asks { next: 1, ..Asks::default() };
    asks.pending.insert(1, Pending { permit: Some(Permit(own, of_node)), end: 4, ..pending(None) });
    asks
}

#[test]
fn streams_that_have_too_little_credit_for_a_frame_each_all_go_on() {
    const TRIMMED: usize = 85;
    const STREAMS: usize = 95;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
    runtime.block_on(async {
        let node = Arc::new(Semaphore::new(CREDIT_SLICES));
        let stream = |at| Burst::of(owing_a_frame(&node, if at < TRIMMED { 3 } else { 0 }), &node);
        let mut streams: Vec<Burst> = (0..STREAMS).map(stream).collect();
        assert_eq!(node.available_permits(), 1, "between them they have nearly all of it");
        let mut ask = Box::pin(Arc::clone(&node).acquire_many_owned(4));
        assert!(futures::poll!(ask.as_mut()).is_pending(), "it is the first in line");
        let (mut came, mut asked) = (0, false);
        for _ in 0..STREAMS {
            let mut waiting = 0;
            for stream in &mut streams {
                waiting += stream.read().await;
            }
            assert!(waiting <= CREDIT_SLICES, "{waiting} slices wait to be stored");
            came += waiting;
            streams.iter_mut().for_each(|stream| stream.held.clear());
            asked = asked || futures::poll!(ask.as_mut()).is_ready();
        }
        assert_eq!((came, asked), (4 * STREAMS, true), "all of it came in the end");
        assert_eq!(node.available_permits(), CREDIT_SLICES);
    });
}

#[test]
fn frame_that_waits_for_credit_keeps_its_place_in_line_when_its_stream_asks_for_more() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
    runtime.block_on(async {
        let node = Arc::new(Semaphore::new(CREDIT_SLICES));
        let mut asks = owing_a_frame(&node, 0);
        let (sender, _pieces) = unbounded_channel();
        asks.pending.get_mut(&1).expect("it owes").pieces = Some(sender);
        let asks = Mutex::new(asks);
        let mut others = Arc::clone(&node).try_acquire_many_owned(256).expect("all of it");
        let frame = BulkFrame::Slices { ask: 1, first: 0, bytes: &[0; 4 * 65_536] }.encode();
        let waiting = credit_for(&asks, &node, &frame);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        let mut behind = Box::pin(Arc::clone(&node).acquire_many_owned(4));
        assert!(futures::poll!(behind.as_mut()).is_pending());
        asks.lock().more.notify_one();
        assert!(futures::poll!(waiting.as_mut()).is_pending(), "there is none yet");
        drop(others.split(4));
        let credit = futures::poll!(waiting);
        assert!(matches!(credit, Poll::Ready(Ok(Some(_)))), "it came first");
        assert!(futures::poll!(behind).is_pending());
    });
}

#[test]
fn stream_that_waits_for_credit_takes_what_its_own_later_asks_were_given() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
    runtime.block_on(async {
        let node = Arc::new(Semaphore::new(CREDIT_SLICES));
        let mut asks = owing(&node, 32);
        let (oldest, newest) = (u32::MAX - 2, u32::MAX - 1);
        let (sender, _pieces) = unbounded_channel();
        asks.pending.get_mut(&oldest).expect("it owes").pieces = Some(sender);
        asks.keep(0);
        // The wait is not the peer's.
        asks.heard_at = Instant::now().checked_sub(2 * STALL_WAIT);
        let mut others = Arc::clone(&node).try_acquire_many_owned(256).expect("all of it");
        // Three slices that it asked for later have credit: one is short.
        let later = |asks: &mut Asks, part| {
            asks.pending.get_mut(&newest).and_then(|it| it.permit.as_mut()).expect("it owes").1 = part;
        };
        later(&mut asks, others.split(3));
        let asks = Mutex::new(asks);
        let frame = BulkFrame::Slices { ask: oldest, first: 0, bytes: &[0; 4 * 65_536] }.encode();
        let waiting = credit_for(&asks, &node, &frame);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert!(asks.lock().waits);
        // It asks for more, and its ask stood in line before what waits.
        {
            let mut asks = asks.lock();
            later(&mut asks, others.split(16));
            asks.more.notify_one();
        }
        let Poll::Ready(Ok(Some(credit))) = futures::poll!(waiting) else {
            panic!("it holds what it waits for")
        };
        assert_eq!(credit.num_permits(), 4);
        let mut asks = asks.lock();
        assert!(!asks.waits);
        let step = Watch::new((0, 0), Instant::now()).step(&mut asks, (0, 0), Instant::now());
        assert!(matches!(step, Ok(None)), "it is ended between its wait and what it brought");
    });
}

#[test]
fn outboard_that_is_unasked_or_late_or_twice_or_of_another_length_ends_the_stream() {
    let (values, bytes) = (vec![7; 32 * 17], vec![0; 2 * 65_536]);
    let outboard = |count: usize| BulkFrame::Outboard { ask: 1, values: &values[..32 * count] }.encode();
    let slices = || BulkFrame::Slices { ask: 1, first: 0, bytes: &bytes }.encode();
    let takes = |wish, frames: Vec<Vec<u8>>| {
        let (sender, mut got) = unbounded_channel();
        let mut asks = Asks::default();
        asks.pending.insert(1, Pending { outboard: wish, ..pending(Some(sender)) });
        let sound = frames.into_iter().all(|frame| hand_on(&mut asks, frame, None).is_ok());
        (sound, std::iter::from_fn(|| got.try_recv().ok()).count())
    };
    let (send, skip) = (OutboardWish::Send, OutboardWish::Skip);
    assert_eq!(takes(send, vec![outboard(16), slices()]), (true, 2));
    assert_eq!(takes(skip, vec![slices()]), (true, 1));
    assert_eq!(takes(skip, vec![outboard(16)]), (false, 0), "nobody wished for it");
    assert_eq!(takes(send, vec![outboard(16), outboard(16)]), (false, 1), "twice");
    assert_eq!(takes(send, vec![slices()]), (false, 0), "it comes first");
    for count in [0, 15, 17] {
        assert_eq!(takes(send, vec![outboard(count)]), (false, 0), "another pack's");
    }
}

/// A puller whose stream has ended, which it does not know before its future runs.
struct Bench {
    puller: Puller,
    run: Pin<Box<dyn Future<Output = Result<()>>>>,
    credit: Arc<Semaphore>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(slices: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let credit = Arc::new(Semaphore::new(slices));
        let means = Means {
            store: Store::create(&dir.path().join("store"), StoreKind::Seeder).expect("makes a store"),
            credit: Arc::clone(&credit),
            batcher: Batcher(Arc::default()),
            buffers: Buffers::default(),
            tap: Tap::default(),
            received: Arc::default(),
            late: Arc::new(|_| ()),
        };
        let (puller, run) = Puller::start(Box::pin(futures::io::Cursor::new(Vec::new())), means);
        Self { puller, run: Box::pin(run), credit, _dir: dir }
    }

    fn fetch(&self, pack: u8, size: u64) -> Pin<Box<dyn Future<Output = Fetched>>> {
        let pack = PackRef { id: PackId([pack; 32]), size };
        Box::pin(self.puller.clone().fetch(Job { session: SessionId(1), no: FolderNo(1), pack }))
    }
}

#[test]
fn fetch_that_waits_for_credit_ends_with_its_stream() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("builds");
    runtime.block_on(async {
        let bench = Bench::new(0);
        let mut fetch = bench.fetch(1, 4096);
        assert!(futures::poll!(fetch.as_mut()).is_pending());
        assert!(bench.run.await.is_err(), "the stream has ended");
        assert_eq!(futures::poll!(fetch.as_mut()), Poll::Ready(Fetched::Broken));
    });
}

#[test]
fn large_fetch_that_waits_for_credit_takes_no_thread() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().max_blocking_threads(1).build().expect("builds");
    runtime.block_on(async {
        let bench = Bench::new(0);
        let mut fetch = bench.fetch(1, 1 << 20);
        for _ in 0..3 {
            assert!(futures::poll!(fetch.as_mut()).is_pending());
            // What the fetch wants of the one thread comes before this.
            let free = tokio::time::timeout(STALL_WAIT, tokio::task::spawn_blocking(|| ())).await;
            assert!(free.is_ok(), "it waits on the thread that others need");
        }
    });
}

#[test]
fn fetch_that_ends_before_its_ask_is_sent_leaves_nothing_owed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("builds");
    runtime.block_on(async {
        let bench = Bench::new(CREDIT_SLICES);
        let packs = 0..=u8::try_from(ASKS_QUEUED).expect("few");
        let mut fetches: Vec<_> = packs.map(|pack| bench.fetch(pack, 4096)).collect();
        for fetch in &mut fetches {
            tokio::task::yield_now().await;
            assert!(futures::poll!(fetch.as_mut()).is_pending());
        }
        drop(fetches.pop());
        assert_eq!(bench.puller.asks.lock().pending.len(), ASKS_QUEUED, "the last one was not sent");
        assert_eq!(bench.credit.available_permits(), CREDIT_SLICES - ASKS_QUEUED);
    });
}
