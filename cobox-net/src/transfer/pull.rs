//! The asking side of a bulk stream: asks for slices within the credit, stores them as they arrive.
//!
//! One task asks and one reads for each stream; each pack in flight has a task that asks for its missing
//! slices. What arrives of large ones is verified and stored in [`large`]. A break keeps what has arrived. Whether
//! a stream brings what it owes is looked at in [`pace`].

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use cobox_store::blind::{PackStatus, Store};
use cobox_store::format::DecodeError;
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::{Outboard, slice_count, slice_len};
use cobox_store::id::{FolderNo, PackId};
use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use parking_lot::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedSender, channel, unbounded_channel};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use self::large::{failed, store_pieces};
use self::pace::{Arrived, credit_for, watch};
use super::{Buffers, STREAM_SLICES, Tap, Way};
use crate::error::{Error, Result};
use crate::swarm::ByteStream;
use crate::sync::{Fetched, SMALL_BYTES_MAX};
use crate::wire::{Ask, BulkFrame, FRAME_SLICES_MAX, OutboardWish, SLICES_OFFSET, SessionId, decode_bulk};

/// Slices in one ask: 1 MiB keeps a stream busy and the order of asks fair.
const ASK_SLICES: u64 = 16;
/// Asks that wait for credit, or to be sent.
const ASKS_QUEUED: usize = 64;
/// A chaining value, of which an outboard has one for each slice.
const VALUE_BYTES: u64 = 32;
/// Small packs stored together: one commit for many.
const BATCH_PACKS: usize = 64;

/// What arrives for one ask.
enum Piece {
    Outboard(Vec<u8>),
    /// The whole frame, so that nothing is copied; the permit is given back when its slices are stored.
    Slices {
        first: u64,
        frame: Vec<u8>,
        permit: Option<Permit>,
    },
    NotHere,
}

/// Credit for slices: of the stream's, and of the node's. While they are owed a slow stream has none of that
/// ([`pace`]); what arrives always has.
struct Permit(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

struct Pending {
    session: SessionId,
    pack: PackId,
    /// `None` once the fetch was let go: the rest of its answer is dropped.
    pieces: Option<UnboundedSender<Piece>>,
    permit: Option<Permit>,
    /// What of the outboard is still to come: it comes once, and before the slices.
    outboard: OutboardWish,
    next: u64,
    end: u64,
    size: u64,
}

#[derive(Default)]
struct Asks {
    /// Asks of which something is still to come.
    pending: HashMap<u32, Pending>,
    /// The ask whose last slices came: that it is done is said next, and is all that may come next.
    ended: Option<u32>,
    next: u32,
    closed: bool,
    heard_at: Option<Instant>,
    /// What arrived waits for credit of the node's, and nothing more is read meanwhile: it is not the peer that is slow.
    waits: bool,
    /// Told of asks that are added while it waits.
    more: Arc<Notify>,
    /// Fetches that have not ended, and how they are told that they are let go.
    fetches: HashMap<(SessionId, PackId), Arc<Notify>>,
}

/// Fetches packs over one stream. Clones share it.
#[derive(Clone)]
pub struct Puller {
    store: Arc<Store>,
    credit: Arc<Semaphore>,
    own_credit: Arc<Semaphore>,
    asks: Arc<Mutex<Asks>>,
    frames: Sender<Vec<u8>>,
    batcher: Batcher,
    buffers: Buffers,
}

/// What a puller works with.
pub struct Means {
    pub store: Arc<Store>,
    /// Of the whole node.
    pub credit: Arc<Semaphore>,
    pub batcher: Batcher,
    pub buffers: Buffers,
    pub tap: Tap,
    /// Counts what arrives.
    pub received: Arc<AtomicU64>,
    /// Hears when the stream becomes late, and when it is no longer.
    pub late: Arc<dyn Fn(bool) + Send + Sync>,
}

/// What a fetch is about.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub session: SessionId,
    pub no: FolderNo,
    pub pack: PackRef,
}

impl Puller {
    /// Takes over a stream; the future runs until it ends.
    pub fn start(stream: ByteStream, means: Means) -> (Self, impl Future<Output = Result<()>> + Send) {
        let Means { store, credit, batcher, buffers, tap, received, late } = means;
        let of_node = Arc::clone(&credit);
        let (read, write) = stream.split();
        let (frames, queued) = channel(ASKS_QUEUED);
        let asks: Arc<Mutex<Asks>> = Arc::default();
        let puller = Self {
            store,
            credit,
            own_credit: Arc::new(Semaphore::new(STREAM_SLICES)),
            asks: Arc::clone(&asks),
            frames,
            batcher,
            buffers: buffers.clone(),
        };
        let run = async move {
            let arrived: Arc<Arrived> = Arc::new(Arrived { bytes: received, frames: AtomicU64::new(0) });
            let read = Counted { stream: read, arrived: Arc::clone(&arrived) };
            let reading = read_pieces(read, Arc::clone(&asks), of_node, buffers, tap.clone());
            let writing = write_asks(write, queued, tap);
            let watching = watch(Arc::clone(&asks), arrived, late);
            let ended = tokio::select! { end = reading => end, end = writing => end, end = watching => end };
            let mut asks = asks.lock();
            asks.closed = true;
            asks.pending.clear();
            ended
        };
        (puller, run)
    }

    /// Fetches one pack and stores it.
    pub async fn fetch(self, job: Job) -> Fetched {
        let (asks, key) = (Arc::clone(&self.asks), (job.session, job.pack.id));
        let gone: Arc<Notify> = Arc::default();
        asks.lock().fetches.insert(key, Arc::clone(&gone));
        let how = if job.pack.size <= SMALL_BYTES_MAX {
            self.fetch_small(job, &gone).await
        } else {
            self.fetch_large(job, &gone).await
        };
        asks.lock().fetches.remove(&key);
        how
    }

    /// Ends a fetch as broken; what still comes of it is dropped, and its credit is free.
    pub fn let_go(&self, session: SessionId, pack: PackId) {
        let mut asks = self.asks.lock();
        if let Some(gone) = asks.fetches.get(&(session, pack)) {
            gone.notify_one();
        }
        for pending in asks.pending.values_mut() {
            if (pending.session, pending.pack) == (session, pack) {
                (pending.pieces, pending.permit) = (None, None);
            }
        }
    }

    async fn fetch_small(self, job: Job, gone: &Notify) -> Fetched {
        let (pieces_in, mut pieces) = unbounded_channel();
        let all = 0..slice_count(job.pack.size);
        if self.ask(job, all, OutboardWish::Skip, &pieces_in, gone).await.is_none() {
            return Fetched::Broken;
        }
        drop(pieces_in);
        let mut bytes = Vec::with_capacity(usize::try_from(job.pack.size).expect("a small pack"));
        let mut permits = Vec::new();
        loop {
            match pieces.recv().await {
                Some(Piece::Slices { frame, permit, .. }) => {
                    bytes.extend_from_slice(&frame[SLICES_OFFSET..]);
                    permits.push(permit);
                    // That it was all is not waited for.
                    if bytes.len() as u64 >= job.pack.size {
                        break;
                    }
                }
                Some(Piece::NotHere) => return Fetched::NotHere,
                Some(Piece::Outboard(_)) => return Fetched::Lied,
                None => return Fetched::Broken,
            }
        }
        self.batcher.put(job, bytes, permits).await
    }

    async fn fetch_large(self, job: Job, gone: &Notify) -> Fetched {
        let store = Arc::clone(&self.store);
        let known = tokio::task::spawn_blocking(move || known(&store, job)).await;
        let (outboard, missing) = match known {
            Ok(Ok(Some(known))) => known,
            Ok(Ok(None)) => return Fetched::Done,
            _ => return Fetched::Failed,
        };
        let mut wish = if outboard.is_some() { OutboardWish::Skip } else { OutboardWish::Send };
        let (pieces_in, pieces) = unbounded_channel();
        let storing = store_pieces(Arc::clone(&self.store), self.buffers.clone(), job, outboard, pieces);
        tokio::pin!(storing);
        for range in runs(&missing) {
            tokio::select! {
                how = &mut storing => return how,
                asked = self.ask(job, range, wish, &pieces_in, gone) => if asked.is_none() { break },
            }
            wish = OutboardWish::Skip;
        }
        drop(pieces_in);
        storing.await
    }

    /// Waits for credit and sends an ask; `None` when the stream has ended, or the fetch was let go.
    async fn ask(
        &self,
        job: Job,
        slices: std::ops::Range<u64>,
        outboard: OutboardWish,
        pieces: &UnboundedSender<Piece>,
        gone: &Notify,
    ) -> Option<()> {
        let count = u32::try_from(slices.end - slices.start).expect("a few slices");
        // Its place among what is to be sent comes first: from the moment that it is owed nothing ends it unsent.
        let place = async { Some((self.frames.reserve().await.ok()?, self.permit(count).await?)) };
        let (place, permit) = tokio::select! {
            biased;
            () = gone.notified() => return None,
            place = place => place?,
        };
        let number = {
            let mut asks = self.asks.lock();
            if asks.closed {
                return None;
            }
            if asks.pending.is_empty() {
                asks.heard_at = Some(Instant::now());
            }
            asks.next = asks.next.wrapping_add(1);
            let number = asks.next;
            let pending = Pending {
                session: job.session,
                pack: job.pack.id,
                pieces: Some(pieces.clone()),
                permit: Some(permit),
                outboard,
                next: slices.start,
                end: slices.end,
                size: job.pack.size,
            };
            asks.pending.insert(number, pending);
            if asks.waits {
                asks.more.notify_one();
            }
            number
        };
        let short = |value: u64| u16::try_from(value).expect("a pack has at most 256 slices");
        let ask = Ask {
            ask: number,
            session: job.session,
            pack: job.pack,
            outboard,
            first: short(slices.start),
            count: short(slices.end - slices.start),
        };
        place.send(BulkFrame::Ask(ask).encode());
        Some(())
    }

    /// Waits for credit; `None` when the stream has ended.
    async fn permit(&self, slices: u32) -> Option<Permit> {
        let credit = async {
            let own = Arc::clone(&self.own_credit).acquire_many_owned(slices).await.ok()?;
            let all = Arc::clone(&self.credit).acquire_many_owned(slices).await.ok()?;
            Some(Permit(own, Some(all)))
        };
        tokio::select! {
            biased;
            () = self.frames.closed() => None,
            credit = credit => credit,
        }
    }
}

/// What of a pack is here: its outboard, and the slices that are not; `None` when it is complete.
type Known = Option<(Option<Outboard>, Vec<u64>)>;

fn known(store: &Store, job: Job) -> cobox_store::error::Result<Known> {
    Ok(match store.pack_status(job.no, job.pack.id)? {
        PackStatus::Complete(_) => None,
        PackStatus::Partial(_, have) => match store.outboard(job.no, job.pack.id)? {
            Some(outboard) => Some((Some(outboard), have.missing().collect())),
            None => Some((None, (0..slice_count(job.pack.size)).collect())),
        },
        PackStatus::Missing(_) | PackStatus::Unknown => {
            Some((None, (0..slice_count(job.pack.size)).collect()))
        }
    })
}

/// Contiguous runs of at most [`ASK_SLICES`].
fn runs(missing: &[u64]) -> Vec<std::ops::Range<u64>> {
    let mut runs: Vec<std::ops::Range<u64>> = Vec::new();
    for index in missing {
        match runs.last_mut() {
            Some(run) if run.end == *index && run.end - run.start < ASK_SLICES => run.end += 1,
            _ => runs.push(*index..*index + 1),
        }
    }
    runs
}

async fn write_asks(
    mut stream: WriteHalf<ByteStream>,
    mut frames: Receiver<Vec<u8>>,
    tap: Tap,
) -> Result<()> {
    while let Some(frame) = frames.recv().await {
        tap.note(Way::Out, &[&frame]);
        let length = u32::try_from(frame.len()).expect("an ask is short");
        stream.write_all(&[&length.to_le_bytes()[..], &frame].concat()).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// Counts bytes as they are read.
struct Counted {
    stream: ReadHalf<ByteStream>,
    arrived: Arc<Arrived>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(bytes)) = &read {
            self.arrived.bytes.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        read
    }
}

async fn read_pieces(
    mut stream: Counted,
    asks: Arc<Mutex<Asks>>,
    credit: Arc<Semaphore>,
    buffers: Buffers,
    tap: Tap,
) -> Result<()> {
    loop {
        let frame = buffers.read_frame(&mut stream).await?;
        tap.note(Way::In, &[&frame]);
        stream.arrived.frames.fetch_add(1, Ordering::Relaxed);
        let of_node = credit_for(&asks, &credit, &frame).await?;
        hand_on(&mut asks.lock(), frame, of_node)?;
    }
}

/// Gives a frame to the pack that asked for it, with the node's credit for it; anything that was not asked for ends the
/// stream. An ask is forgotten with its last slices, so that who leaves out the end of each has nothing grow here.
fn hand_on(asks: &mut Asks, frame: Vec<u8>, of_node: Option<OwnedSemaphorePermit>) -> Result<()> {
    const UNASKED: Error = Error::Decode(DecodeError::Invalid { field: "unasked slices" });
    asks.heard_at = Some(Instant::now());
    let decoded = decode_bulk(&frame)?;
    if let Some(ended) = asks.ended.take() {
        let said = matches!(decoded, BulkFrame::Done { ask } if ask == ended);
        return if said { Ok(()) } else { Err(UNASKED) };
    }
    let (ask, piece, ends) = match decoded {
        BulkFrame::Ask(_) | BulkFrame::Done { .. } => return Err(UNASKED),
        BulkFrame::Outboard { ask, values } => {
            let pending = asks.pending.get_mut(&ask).ok_or(UNASKED)?;
            // It takes no credit: what bounds it is that it comes once for an ask, and how long it is.
            let wished = std::mem::replace(&mut pending.outboard, OutboardWish::Skip) == OutboardWish::Send;
            if !wished || values.len() as u64 != VALUE_BYTES * slice_count(pending.size) {
                return Err(UNASKED);
            }
            (ask, Piece::Outboard(values.to_vec()), false)
        }
        BulkFrame::NotHere { ask } => (ask, Piece::NotHere, true),
        BulkFrame::Slices { ask, first, bytes } => {
            let pending = asks.pending.get_mut(&ask).ok_or(UNASKED)?;
            let (first, count) = (u64::from(first), slice_count(bytes.len() as u64));
            let expected: usize = (first..first + count).map(|index| slice_len(pending.size, index)).sum();
            // As many as a frame takes: a small pack comes whole, so that no part of one keeps credit from others.
            let due = FRAME_SLICES_MAX.min(pending.end.saturating_sub(pending.next));
            let early = pending.outboard == OutboardWish::Send;
            if early || first != pending.next || count != due || expected != bytes.len() {
                return Err(UNASKED);
            }
            pending.next += count;
            let share = usize::try_from(count).expect("a few slices");
            let of_stream = pending.permit.as_mut().and_then(|permit| permit.0.split(share));
            let permit = of_stream.map(|of_stream| Permit(of_stream, of_node));
            let ends = pending.next == pending.end;
            asks.ended = ends.then_some(ask);
            (ask, Piece::Slices { first, frame, permit }, ends)
        }
    };
    let pending = asks.pending.get(&ask).ok_or(UNASKED)?;
    if let Some(pieces) = &pending.pieces {
        // Who asked may have given up; the rest of its answer is dropped here.
        let _ = pieces.send(piece);
    }
    if ends {
        asks.pending.remove(&ask);
    }
    Ok(())
}

/// Stores small packs, many in one commit.
#[derive(Clone)]
pub struct Batcher(Arc<Mutex<Option<UnboundedSender<Whole>>>>);

/// A small pack that has arrived; its permits bound how many there are.
struct Whole {
    job: Job,
    bytes: Vec<u8>,
    _permits: Vec<Option<Permit>>,
    answer: oneshot::Sender<Fetched>,
}

impl Batcher {
    /// Starts the thread that stores them; it ends with [`Self::stop`].
    pub fn start(store: Arc<Store>) -> Self {
        let (sender, mut receiver) = unbounded_channel::<Whole>();
        tokio::task::spawn_blocking(move || {
            while let Some(first) = receiver.blocking_recv() {
                let mut batch = vec![first];
                while batch.len() < BATCH_PACKS {
                    let Ok(next) = receiver.try_recv() else { break };
                    batch.push(next);
                }
                store_batch(&store, batch);
            }
        });
        Self(Arc::new(Mutex::new(Some(sender))))
    }

    /// Lets the thread end once what has arrived is stored.
    pub fn stop(&self) {
        *self.0.lock() = None;
    }

    async fn put(&self, job: Job, bytes: Vec<u8>, permits: Vec<Option<Permit>>) -> Fetched {
        let (answer, answered) = oneshot::channel();
        let whole = Whole { job, bytes, _permits: permits, answer };
        let sent = self.0.lock().as_ref().is_some_and(|sender| sender.send(whole).is_ok());
        if !sent {
            return Fetched::Broken;
        }
        answered.await.unwrap_or(Fetched::Failed)
    }
}

fn store_batch(store: &Arc<Store>, batch: Vec<Whole>) {
    let mut folders: HashMap<FolderNo, (Vec<(Outboard, Vec<u8>)>, Vec<oneshot::Sender<Fetched>>)> =
        HashMap::new();
    for Whole { job, bytes, answer, _permits } in batch {
        let outboard = Outboard::of(&bytes);
        if outboard.pack() == job.pack {
            let (packs, answers) = folders.entry(job.no).or_default();
            packs.push((outboard, bytes));
            answers.push(answer);
        } else {
            // Nobody waits any more when the send fails.
            let _ = answer.send(Fetched::Lied);
        }
    }
    for (no, (packs, answers)) in folders {
        let how = match store.packs_put_made(no, &packs) {
            Ok(()) => Fetched::Done,
            Err(error) => failed(&error),
        };
        for answer in answers {
            let _ = answer.send(how);
        }
    }
}

mod large;
mod pace;
#[cfg(test)]
mod tests;
