//! The control stream: frames in both directions, bounded in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::io::{BufReader, ReadHalf, WriteHalf};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{STALL_WAIT, Tap, Way, read_length};
use crate::error::{Error, Result};
use crate::swarm::ByteStream;
use crate::wire::{FRAME_BYTES_MAX, Frame, decode_frame};

/// KiB of frames that were read and wait for the engine, in the whole node.
pub const INBOX_KIB: usize = 8 * 1024;
/// Bytes that wait to be sent to one peer; a peer that reads more slowly than it asks is dropped.
const OUTBOX_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of a frame that are read without asking for room: what a peer says every day.
const SMALL_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a frame that a peer with a session must bring, and any peer take, within [`STALL_WAIT`].
const PROGRESS_BYTES: usize = 16 * 1024;
/// KiB of larger frames that are arriving from peers without a session: a grant offer or two.
pub const STRANGERS_KIB: usize = 4 * 1024;
/// KiB of larger frames that are arriving from all others.
pub const ARRIVING_KIB: usize = 16 * 1024;

/// Room for frames that are arriving. A frame takes its room before its bytes come, and gives it back when it
/// is whole or late: many peers that begin a large frame and go slow cannot fill the memory, and strangers
/// among them cannot keep members waiting.
#[derive(Clone)]
pub struct Rooms {
    strangers: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            strangers: Arc::new(Semaphore::new(STRANGERS_KIB)),
            others: Arc::new(Semaphore::new(ARRIVING_KIB)),
        }
    }
}

/// Where frames for one peer are put.
#[derive(Clone)]
pub struct Outbox {
    sender: UnboundedSender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
}

/// The other end of an [`Outbox`].
pub struct OutboxEnd {
    receiver: UnboundedReceiver<Vec<u8>>,
    queued: Arc<AtomicUsize>,
}

/// A pair of ends.
pub fn outbox() -> (Outbox, OutboxEnd) {
    let (sender, receiver) = unbounded_channel();
    let queued = Arc::new(AtomicUsize::new(0));
    (Outbox { sender, queued: Arc::clone(&queued) }, OutboxEnd { receiver, queued })
}

/// The peer does not read what it asked for.
#[derive(Debug)]
pub struct Overflow;

impl Outbox {
    /// Queues a frame.
    ///
    /// # Errors
    /// When too much waits already; the connection should be closed then.
    pub fn send(&self, frame: &Frame) -> Result<(), Overflow> {
        let bytes = frame.encode();
        if self.queued.fetch_add(bytes.len(), Ordering::Relaxed) > OUTBOX_BYTES_MAX {
            return Err(Overflow);
        }
        // A closed stream has its own end; nobody waits for this frame.
        let _ = self.sender.send(bytes);
        Ok(())
    }
}

/// Sends what is queued until the outbox or the stream ends.
///
/// # Errors
/// When the stream fails, or the peer takes too long to read.
pub async fn write_loop(mut stream: WriteHalf<ByteStream>, mut end: OutboxEnd, tap: Tap) -> Result<()> {
    while let Some(frame) = end.receiver.recv().await {
        tap.note(Way::Out, &[&frame]);
        let length = u32::try_from(frame.len()).expect("a frame is at most 1 MiB");
        in_time(stream.write_all(&length.to_le_bytes())).await?;
        // A slow link may take long over a large frame, as long as it moves.
        for part in frame.chunks(PROGRESS_BYTES) {
            in_time(stream.write_all(part)).await?;
        }
        end.queued.fetch_sub(frame.len(), Ordering::Relaxed);
        if end.receiver.is_empty() {
            in_time(stream.flush()).await?;
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

/// Reads frames and hands them on, each with its share of the inbox.
///
/// # Errors
/// When the stream ends, is late, or brings what no writer produces.
pub async fn read_loop(
    stream: ReadHalf<ByteStream>,
    (inbox, rooms): (Arc<Semaphore>, Rooms),
    is_known: impl Fn() -> bool,
    tap: Tap,
    mut hand_on: impl FnMut(Frame, OwnedSemaphorePermit),
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let length = read_length(&mut stream, FRAME_BYTES_MAX).await?;
        let kib = u32::try_from(length.div_ceil(1024)).expect("a frame is at most 1 MiB");
        let known = is_known();
        let room = if known { &rooms.others } else { &rooms.strangers };
        let _room = match length {
            0..=SMALL_BYTES_MAX => None,
            _ => Some(room.acquire_many(kib).await.map_err(|_| Error::ShutDown)?),
        };
        let mut bytes = vec![0; length];
        // A member's slow link may take long over a large frame, as long as it moves; a stranger's may not.
        for part in bytes.chunks_mut(if known { PROGRESS_BYTES } else { FRAME_BYTES_MAX }) {
            in_time(stream.read_exact(part)).await?;
        }
        tap.note(Way::In, &[&bytes]);
        let Ok(permit) = Arc::clone(&inbox).acquire_many_owned(kib).await else { return Ok(()) };
        hand_on(decode_frame(&bytes)?, permit);
    }
}
