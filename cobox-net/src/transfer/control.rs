//! The control stream: frames in both directions, bounded in bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use cobox_store::blind::owners::Outcome;
use futures::io::{BufReader, ReadHalf, WriteHalf};
use futures::{AsyncReadExt as _, FutureExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::parts::{PART_BYTES, Parts};
use super::room::{Held, Party, ROOM_KIB, Room};
use super::{STALL_WAIT, Tap, Way, read_length};
use crate::error::{Error, Result};
use crate::swarm::ByteStream;
use crate::wire::{FRAME_BYTES_MAX, Frame, SeedingFrame, decode_frame};

/// KiB of frames that were read and wait for the engine, in the whole node.
pub const INBOX_KIB: usize = 8 * 1024;
/// Bytes that wait to be sent to one peer; a peer that reads more slowly than it asks is dropped.
const OUTBOX_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The same of what anybody is answered, to a peer that has no folder open: thousands of answers that a folder is not here.
/// Such peers may be many, and whoever is honest reads them as they come.
const STRANGER_BYTES_MAX: usize = 256 * 1024;
/// What a frame takes in memory beside its bytes, as it waits: its place in the queue, and what the allocator keeps of it.
/// A refusal is five bytes.
const FRAME_COST: usize = 64;

/// An answer is made when no more than this waits: enough to keep a line busy while the next one is read.
const OUTBOX_BYTES_LOW: usize = 256 * 1024;
/// Frames of one peer that wait for the engine: who says much is heard in turn with who says little.
const TURNS: usize = 32;
/// Bytes of questions that wait until the peer has read the answers to earlier ones. A question beyond is dropped, and
/// its asker asks again.
const ASKS_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a frame that are read without asking for room: what a peer says every day.
const SMALL_BYTES_MAX: usize = 8 * 1024;
/// KiB of larger frames that are arriving from peers without a session: a grant offer or two.
const STRANGERS_KIB: usize = 4 * 1024;

/// Room for frames that are arriving, and for answers that are not sent yet. A frame takes its room before its bytes
/// come, and gives it back when it is whole or late: many peers that begin a large frame and go slow cannot fill the
/// memory, strangers among them cannot keep members waiting, and members not those of other folders.
#[derive(Clone)]
pub struct Rooms {
    strangers: Arc<Semaphore>,
    arriving: Room,
    answers: Room,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            strangers: Arc::new(Semaphore::new(STRANGERS_KIB)),
            arriving: Room::new(ROOM_KIB),
            answers: Room::new(ROOM_KIB),
        }
    }
}

/// Where frames for one peer are put.
#[derive(Clone)]
pub struct Outbox {
    sender: UnboundedSender<Queued>,
    queue: Arc<Queue>,
}

/// The other end of an [`Outbox`].
pub struct OutboxEnd {
    receiver: UnboundedReceiver<Queued>,
    queue: Arc<Queue>,
}

/// For whom a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// The peer has a folder open.
    Member,
    /// It has none, and may be anybody.
    Stranger,
}

/// A frame that waits.
struct Queued {
    bytes: Vec<u8>,
    /// Whether it counts among what strangers are answered.
    reader: Reader,
}

impl Queued {
    fn cost(&self) -> usize {
        self.bytes.len() + FRAME_COST
    }
}

#[derive(Default)]
struct Queue {
    bytes: AtomicUsize,
    /// Of them those that strangers are answered.
    strange: AtomicUsize,
    shorter: Notify,
    /// The stream has ended: nothing is sent any more.
    closed: AtomicBool,
}

impl Drop for OutboxEnd {
    fn drop(&mut self) {
        self.queue.closed.store(true, Ordering::Release);
        self.queue.shorter.notify_waiters();
    }
}

/// A pair of ends.
pub fn outbox() -> (Outbox, OutboxEnd) {
    let (sender, receiver) = unbounded_channel();
    let queue: Arc<Queue> = Arc::default();
    (Outbox { sender, queue: Arc::clone(&queue) }, OutboxEnd { receiver, queue })
}

/// The peer does not read what it asked for; what it is counted as.
#[derive(Debug)]
pub struct Overflow(pub Reader);

impl Outbox {
    /// Queues a frame.
    ///
    /// # Errors
    /// When too much waits already; the connection should be closed then.
    pub fn send(&self, frame: &Frame, reader: Reader) -> Result<(), Overflow> {
        let reader = if is_for_anybody(frame) { reader } else { Reader::Member };
        let queued = Queued { bytes: frame.encode(), reader };
        let full = self.queue.bytes.fetch_add(queued.cost(), Ordering::Relaxed) > OUTBOX_BYTES_MAX;
        let too_much = reader == Reader::Stranger
            && self.queue.strange.fetch_add(queued.cost(), Ordering::Relaxed) > STRANGER_BYTES_MAX;
        if too_much && !full && matches!(frame, Frame::Refuse { .. }) {
            // Who opens thousands of folders that are not here, over a line that does not take the answers: it opens what got
            // none again.
            self.queue.bytes.fetch_sub(queued.cost(), Ordering::Relaxed);
            self.queue.strange.fetch_sub(queued.cost(), Ordering::Relaxed);
            return Ok(());
        }
        if full || too_much {
            return Err(Overflow(reader));
        }
        // A closed stream has its own end; nobody waits for this frame.
        let _ = self.sender.send(queued);
        Ok(())
    }

    /// Whether it has.
    pub fn is_low(&self) -> bool {
        self.queue.bytes.load(Ordering::Relaxed) <= OUTBOX_BYTES_LOW
    }

    /// Whether the stream has ended.
    pub fn is_closed(&self) -> bool {
        self.queue.closed.load(Ordering::Acquire)
    }

    /// Waits until the peer has read most of what was sent to it, or will not read any more.
    pub async fn low(&self) {
        loop {
            let shorter = self.queue.shorter.notified();
            tokio::pin!(shorter);
            shorter.as_mut().enable();
            if self.is_low() || self.is_closed() {
                return;
            }
            shorter.await;
        }
    }
}

/// Sends what is queued until the outbox or the stream ends. Of a large frame the peer must take a part within
/// [`STALL_WAIT`].
///
/// # Errors
/// When the stream fails, or the peer takes too long to read.
pub async fn write_loop(
    stream: WriteHalf<ByteStream>,
    mut end: OutboxEnd,
    tap: Tap,
    moved: Arc<AtomicU64>,
) -> Result<()> {
    let mut parts = Parts::new(stream);
    while let Some(queued) = end.receiver.recv().await {
        let frame = &queued.bytes;
        tap.note(Way::Out, &[frame]);
        let length = u32::try_from(frame.len()).expect("a frame is at most 1 MiB");
        for mut bytes in [&length.to_le_bytes()[..], frame] {
            // A slow link may take long over a large frame, as long as it moves.
            while !bytes.is_empty() {
                bytes = in_time(parts.push(bytes)).await?;
                moved.fetch_add(1, Ordering::Relaxed);
            }
        }
        end.queue.bytes.fetch_sub(queued.cost(), Ordering::Relaxed);
        if queued.reader == Reader::Stranger {
            end.queue.strange.fetch_sub(queued.cost(), Ordering::Relaxed);
        }
        end.queue.shorter.notify_waiters();
        if end.receiver.is_empty() {
            in_time(parts.flush()).await?;
        }
    }
    Ok(())
}

/// A step of a stream, unless it takes longer than a stall may.
async fn in_time<T>(step: impl Future<Output = std::io::Result<T>>) -> Result<T> {
    match tokio::time::timeout(STALL_WAIT, step).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// A frame's share of the inbox, and of what its peer may have there.
pub struct Heard {
    _inbox: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl Heard {
    /// Something small besides frames, that the engine hears of on a peer's account. Waits until there is room.
    pub async fn small(inbox: &Arc<Semaphore>, turns: &Arc<Semaphore>) -> Option<Self> {
        let turn = Arc::clone(turns).acquire_owned().await.ok()?;
        let inbox = Arc::clone(inbox).acquire_owned().await.ok()?;
        Some(Self { _inbox: inbox, _turn: turn })
    }
}

/// What the reading side of a control stream needs.
pub struct Ear<P, H> {
    pub inbox: Arc<Semaphore>,
    pub rooms: Rooms,
    pub outbox: Outbox,
    pub tap: Tap,
    /// Counts what moves, also of a frame that is not whole yet.
    pub moved: Arc<AtomicU64>,
    /// Whose sessions are open on the connection; none of a stranger's.
    pub parties: P,
    /// Where frames go.
    pub hand_on: H,
}

/// Reads frames and hands them on, each with its share of the inbox. Questions that are answered at length wait until
/// the peer has read what it asked for before; reading goes on meanwhile, so that two peers that ask each other at once
/// cannot deadlock.
///
/// # Errors
/// When the stream ends, is late, or brings what no writer produces.
pub async fn read_loop<P, H>(stream: ReadHalf<ByteStream>, ear: Ear<P, H>) -> Result<()>
where
    P: Fn() -> Vec<Party>,
    H: FnMut(Frame, Heard),
{
    let mut stream = BufReader::new(stream);
    let turns = Arc::new(Semaphore::new(TURNS));
    let Ear { inbox, rooms, outbox, tap, moved, parties, mut hand_on } = ear;
    let mut asks = Asks::new(rooms.answers.clone(), outbox);
    loop {
        let next = read_one(&mut stream, &rooms, &moved, &parties);
        tokio::pin!(next);
        let bytes = loop {
            tokio::select! {
                bytes = &mut next => break bytes?,
                turn = asks.turn(&parties), if !asks.is_idle() => {
                    if let Some((frame, kib, turn)) = turn {
                        let Ok(inbox) = Arc::clone(&inbox).acquire_many_owned(kib).await else { return Ok(()) };
                        hand_on(frame, Heard { _inbox: inbox, _turn: turn });
                    }
                }
            }
        };
        tap.note(Way::In, &[&bytes]);
        let (frame, kib) = (decode_frame(&bytes)?, kib(bytes.len()));
        let ready = if is_ask(&frame) {
            asks.put(frame, bytes.len());
            // At once and in order, if nothing waits.
            asks.turn(&parties).now_or_never().flatten()
        } else {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return Ok(()) };
            Some((frame, kib, turn))
        };
        if let Some((frame, kib, turn)) = ready {
            let Ok(inbox) = Arc::clone(&inbox).acquire_many_owned(kib).await else { return Ok(()) };
            hand_on(frame, Heard { _inbox: inbox, _turn: turn });
        }
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).expect("a frame is at most 1 MiB")
}

async fn read_one(
    stream: &mut BufReader<ReadHalf<ByteStream>>,
    rooms: &Rooms,
    moved: &AtomicU64,
    parties: impl Fn() -> Vec<Party>,
) -> Result<Vec<u8>> {
    let length = read_length(stream, FRAME_BYTES_MAX).await?;
    let of = parties();
    let large = length > SMALL_BYTES_MAX;
    let _room = if large { rooms.arriving.take(&of, length.div_ceil(1024)).await } else { None };
    let _strange = if large && of.is_empty() {
        Some(rooms.strangers.acquire_many(kib(length)).await.map_err(|_| Error::ShutDown)?)
    } else {
        None
    };
    let mut bytes = vec![0; length];
    // A member's slow link may take long over a large frame, as long as it moves; a stranger's may not.
    for part in bytes.chunks_mut(if of.is_empty() { FRAME_BYTES_MAX } else { PART_BYTES }) {
        in_time(stream.read_exact(part)).await?;
        moved.fetch_add(1, Ordering::Relaxed);
    }
    Ok(bytes)
}

/// Questions whose answers may be a mebibyte and more.
fn is_ask(frame: &Frame) -> bool {
    matches!(frame, Frame::EntriesWant { .. } | Frame::AccessWant { .. } | Frame::Recover { .. })
}

/// What a peer is answered that has shown nothing: all else follows from what this node wants of it, or is for who knows a
/// folder, has a code or is an admin.
fn is_for_anybody(frame: &Frame) -> bool {
    match frame {
        Frame::Refuse { .. }
        | Frame::Locator { .. }
        | Frame::GrantAnswer { .. }
        | Frame::JoinWait { .. }
        | Frame::Seeding(SeedingFrame::Claimed { .. }) => true,
        // What came of an order that was obeyed may be long, and its admin need not have a folder here.
        Frame::Seeding(SeedingFrame::Obeyed { outcome, .. }) => *outcome == Outcome::Refused,
        _ => false,
    }
}

/// Questions that wait, and the room that the answer to the last one takes until it is sent.
struct Asks {
    waiting: VecDeque<(Frame, usize)>,
    bytes: usize,
    /// One at a time is with the engine.
    asking: Arc<Semaphore>,
    room: Room,
    held: Option<Held>,
    outbox: Outbox,
}

impl Asks {
    fn new(room: Room, outbox: Outbox) -> Self {
        let asking = Arc::new(Semaphore::new(1));
        Self { waiting: VecDeque::new(), bytes: 0, asking, room, held: None, outbox }
    }

    fn put(&mut self, frame: Frame, bytes: usize) {
        if self.bytes + bytes <= ASKS_BYTES_MAX {
            self.bytes += bytes;
            self.waiting.push_back((frame, bytes));
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.held.is_none()
    }

    /// Waits until the last answer was made and mostly sent, gives its room back, and takes the next question's.
    /// May be dropped at any time, and called again.
    async fn turn(
        &mut self,
        parties: &impl Fn() -> Vec<Party>,
    ) -> Option<(Frame, u32, OwnedSemaphorePermit)> {
        let asking = Arc::clone(&self.asking).acquire_owned().await.ok()?;
        self.outbox.low().await;
        self.held = None;
        if self.waiting.is_empty() {
            return None;
        }
        self.held = self.room.take(&parties(), FRAME_BYTES_MAX / 1024).await;
        let (frame, bytes) = self.waiting.pop_front()?;
        self.bytes -= bytes;
        Some((frame, kib(bytes), asking))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use cobox_store::id::FolderNo;
    use futures::{AsyncRead, AsyncWrite};

    use super::super::room::Name;
    use super::*;
    use crate::wire::{Part, QuestionId, SessionId};

    /// A line that brings so much, and takes so much, and then stands still.
    struct Thin {
        brings: Vec<u8>,
        takes: usize,
    }

    impl AsyncRead for Thin {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<std::io::Result<usize>> {
            let count = buffer.len().min(self.brings.len());
            if count == 0 {
                return Poll::Pending;
            }
            buffer[..count].copy_from_slice(&self.brings[..count]);
            self.brings.drain(..count);
            Poll::Ready(Ok(count))
        }
    }

    impl AsyncWrite for Thin {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            let count = buffer.len().min(self.takes);
            self.takes -= count;
            if count == 0 { Poll::Pending } else { Poll::Ready(Ok(count)) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn line(brings: Vec<u8>, takes: usize) -> ByteStream {
        Box::pin(Thin { brings, takes })
    }

    #[test]
    fn large_frame_that_is_on_its_way_is_a_sign_of_life_in_both_directions() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("builds");
        runtime.block_on(async {
            let half = 4 + FRAME_BYTES_MAX / 2;
            let parts = (FRAME_BYTES_MAX / 2 / PART_BYTES) as u64;
            let moved = Arc::new(AtomicU64::new(0));
            let length = u32::try_from(FRAME_BYTES_MAX).expect("a mebibyte").to_le_bytes();
            let arrived = [&length[..], &vec![7; FRAME_BYTES_MAX / 2]].concat();
            let mut stream = BufReader::new(line(arrived, 0).split().0);
            let member = || vec![Party { folder: FolderNo(1), who: Name([1; 32]) }];
            let rooms = Rooms::default();
            let reading = read_one(&mut stream, &rooms, &moved, member);
            tokio::pin!(reading);
            assert!(futures::poll!(reading.as_mut()).is_pending());
            assert_eq!(moved.load(Ordering::Relaxed), parts, "half of it has come");

            let (outbox, end) = outbox();
            let moved = Arc::new(AtomicU64::new(0));
            let large = Queued { bytes: vec![7; FRAME_BYTES_MAX], reader: Reader::Member };
            assert!(outbox.sender.send(large).is_ok(), "is queued");
            let writing =
                write_loop(line(Vec::new(), half).split().1, end, Tap::default(), Arc::clone(&moved));
            tokio::pin!(writing);
            assert!(futures::poll!(writing.as_mut()).is_pending());
            assert_eq!(moved.load(Ordering::Relaxed), 1 + parts, "its length and half of it have gone");
        });
    }

    /// How many such frames a peer may leave unread.
    fn unread(outbox: &Outbox, reader: Reader, frame: &Frame) -> usize {
        (0..).find(|_| outbox.send(frame, reader).is_err()).expect("some time it is too much")
    }

    #[test]
    fn answers_that_nobody_reads_are_counted_at_what_they_take_and_a_strangers_are_few() {
        let wait = Frame::JoinWait { session: SessionId(2) };
        let cost = wait.encode().len() + FRAME_COST;
        let (member, _end) = outbox();
        assert_eq!(unread(&member, Reader::Member, &wait), OUTBOX_BYTES_MAX / cost + 1);
        let (stranger, _end) = outbox();
        assert_eq!(unread(&stranger, Reader::Stranger, &wait), STRANGER_BYTES_MAX / cost + 1);
    }

    #[test]
    fn refusals_of_thousands_of_folders_that_a_slow_line_does_not_take_end_nothing_and_take_no_more_memory() {
        let refusal = Frame::Refuse { session: SessionId(2) };
        let (outbox, mut end) = outbox();
        (0..10_000).for_each(|at| assert!(outbox.send(&refusal, Reader::Stranger).is_ok(), "{at}"));
        let cost = refusal.encode().len() + FRAME_COST;
        let left = [&outbox.queue.bytes, &outbox.queue.strange].map(|left| left.load(Ordering::Relaxed));
        assert_eq!(left, [(STRANGER_BYTES_MAX / cost + 1) * cost; 2]);
        let queued = std::iter::from_fn(|| end.receiver.try_recv().ok()).count();
        assert_eq!(queued, STRANGER_BYTES_MAX / cost + 1);
    }

    #[test]
    fn long_answers_to_orders_that_were_obeyed_do_not_count_among_what_strangers_are_answered() {
        let (outbox, _end) = outbox();
        let text = "a".repeat(STRANGER_BYTES_MAX);
        let answer = |at, outcome| {
            let (question, text) = (QuestionId(at), text.clone());
            Frame::Seeding(SeedingFrame::Obeyed { question, outcome, text })
        };
        for at in 0..8 {
            assert!(outbox.send(&answer(at, Outcome::Done), Reader::Stranger).is_ok());
        }
        assert!(unread(&outbox, Reader::Stranger, &answer(9, Outcome::Refused)) <= 1);
    }

    #[test]
    fn what_this_node_offers_a_stranger_does_not_count_among_what_it_is_answered() {
        let (outbox, end) = outbox();
        let records = vec![vec![7; FRAME_BYTES_MAX / 2]];
        let offer = Frame::GrantOffer { session: SessionId(1), part: Part::More, records };
        let refusal = Frame::Refuse { session: SessionId(2) };
        for _ in 0..16 {
            assert!(
                outbox.send(&offer, Reader::Stranger).is_ok()
                    && outbox.send(&refusal, Reader::Stranger).is_ok()
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("builds");
        runtime.block_on(async {
            let line = line(Vec::new(), usize::MAX);
            let queue = Arc::clone(&outbox.queue);
            let writing = write_loop(line.split().1, end, Tap::default(), Arc::default());
            tokio::pin!(writing);
            assert!(futures::poll!(writing.as_mut()).is_pending());
            let left = [&queue.bytes, &queue.strange].map(|left| left.load(Ordering::Relaxed));
            assert_eq!(left, [0; 2], "what is read makes room");
        });
    }
}
