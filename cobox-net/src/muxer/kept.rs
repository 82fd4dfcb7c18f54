//! What a connection has us keep: everything that came for its streams and was not read.
//!
//! Below Yamux the headers of incoming frames are looked at as they pass, above it what is read of each stream. Both
//! tell one account, which counts what a frame takes, not what its window counts. While it is full, nothing more is
//! read from the socket: who sends much to somebody busy is not cut off for it, and who never lets a stream be read
//! is found as any peer that stands still.

use std::collections::{HashMap, VecDeque};
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;
use yamux::Stream;

/// Bytes that are kept before no more are read: a few milliseconds of the fastest line, so that readers are not waited
/// for; times the connections that strangers may have (192), what a small box can spare.
const KEPT_BYTES_MAX: u64 = 1 << 20;
/// What a frame takes beside its bytes: a vector, its place in a queue, and its place here.
const FRAME_COST: u64 = 72;
/// A frame's body at the most. We send 16 KiB (`transfer/parts.rs`); Yamux makes room for all of it at once.
const BODY_BYTES_MAX: u32 = yamux::DEFAULT_CREDIT;
/// Version, type, flags, stream and length: 1, 1, 2, 4 and 4 bytes, big-endian.
const HEADER_BYTES: usize = 12;
/// The type of a frame that `length` bytes follow.
const DATA: u8 = 0;
/// The type of a frame that may begin a stream too; nothing follows.
const WINDOW_UPDATE: u8 = 1;
/// The flag of a frame that begins a stream.
const SYN: u8 = 1;

/// The account of one connection.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Account>>);

#[derive(Default)]
struct Account {
    streams: HashMap<u32, Waiting>,
    /// A stream that began with the frame that was just read. Yamux hands it out before it reads the next, or refuses
    /// it and says so to nobody here.
    newcomer: Option<(u32, Waiting)>,
    /// What all of it takes.
    bytes: u64,
    /// Streams that nobody has any more.
    dropped: usize,
    /// Who would read on from the socket.
    reader: Option<Waker>,
    is_closed: bool,
}

/// What came for a stream.
#[derive(Default)]
struct Waiting {
    /// Bytes of each frame that are not read, oldest first.
    frames: VecDeque<u32>,
    is_dropped: bool,
    /// Who waits for more.
    reader: Option<Waker>,
}

impl Waiting {
    fn cost(&self) -> u64 {
        self.frames.iter().map(|bytes| u64::from(*bytes) + FRAME_COST).sum()
    }
}

impl Account {
    const fn is_full(&self) -> bool {
        self.bytes >= KEPT_BYTES_MAX
    }

    fn wake_reader(&mut self) {
        if !self.is_full()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }

    fn begin(&mut self, stream: u32) {
        self.forget_newcomer();
        if !self.streams.contains_key(&stream) {
            self.newcomer = Some((stream, Waiting::default()));
        }
    }

    fn forget_newcomer(&mut self) {
        if let Some((_, gone)) = self.newcomer.take() {
            self.bytes -= gone.cost();
        }
    }

    /// What comes for a stream that there is not, Yamux throws away.
    fn came(&mut self, stream: u32, bytes: u32) {
        let newcomer = self.newcomer.as_mut().filter(|(number, _)| *number == stream);
        let waiting = self.streams.get_mut(&stream).or(newcomer.map(|(_, waiting)| waiting));
        if bytes > 0
            && let Some(waiting) = waiting
        {
            waiting.frames.push_back(bytes);
            self.bytes += u64::from(bytes) + FRAME_COST;
        }
    }

    fn read(&mut self, stream: u32, mut bytes: u64) {
        let Some(waiting) = self.streams.get_mut(&stream) else { return };
        while bytes > 0
            && let Some(front) = waiting.frames.front_mut()
        {
            let taken = u64::from(*front).min(bytes);
            *front -= u32::try_from(taken).expect("at most what is left of the frame");
            let mut cost = taken;
            if *front == 0 {
                waiting.frames.pop_front();
                cost += FRAME_COST;
            }
            bytes -= taken;
            self.bytes -= cost;
        }
        self.wake_reader();
    }

    /// Streams that were dropped are gone.
    fn collect(&mut self) {
        if self.dropped > 0 {
            let gone: u64 = self
                .streams
                .extract_if(|_, waiting| waiting.is_dropped)
                .map(|(_, waiting)| waiting.cost())
                .sum();
            self.bytes -= gone;
            self.dropped = 0;
        }
    }
}

impl Kept {
    fn open(&self, stream: u32) {
        let mut account = self.0.lock();
        let began = account.newcomer.take_if(|(number, _)| *number == stream);
        let waiting = began.map(|(_, waiting)| waiting).unwrap_or_default();
        if let Some(before) = account.streams.insert(stream, waiting) {
            account.bytes -= before.cost();
            account.dropped -= usize::from(before.is_dropped);
        }
    }

    /// Whether there is more to wait for; who waits is woken at the end.
    fn wait(&self, stream: u32, context: &Context<'_>) -> bool {
        let mut account = self.0.lock();
        if account.is_closed {
            return false;
        }
        if let Some(waiting) = account.streams.get_mut(&stream) {
            waiting.reader = Some(context.waker().clone());
        }
        true
    }

    /// Yamux keeps a stream that was dropped until it has looked for such, and what still comes for it.
    fn drop_stream(&self, stream: u32) {
        let mut account = self.0.lock();
        if let Some(waiting) = account.streams.get_mut(&stream) {
            waiting.is_dropped = true;
            account.dropped += 1;
        }
    }

    /// Ends the streams for who waits for more of them: Yamux does not, when a connection is closed from this side.
    pub fn close(&self) {
        let mut account = self.0.lock();
        account.is_closed = true;
        account.streams.values_mut().filter_map(|waiting| waiting.reader.take()).for_each(Waker::wake);
    }
}

/// The socket under Yamux.
pub struct Watched<C> {
    socket: C,
    kept: Kept,
    header: [u8; HEADER_BYTES],
    /// Bytes of `header` that are there.
    filled: usize,
    /// Bytes of the body that are still to come.
    body_bytes: u32,
    /// The peer does not take what we write. Yamux looks for dropped streams before each read, but not then.
    is_stuck: bool,
}

impl<C> Watched<C> {
    pub const fn new(socket: C, kept: Kept) -> Self {
        Self { socket, kept, header: [0; HEADER_BYTES], filled: 0, body_bytes: 0, is_stuck: false }
    }

    /// Looks at the next bytes, in pieces of any size.
    fn pass(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let body = bytes.len().min(self.body_bytes as usize);
            self.body_bytes -= u32::try_from(body).expect("at most what is left of the body");
            bytes = bytes.get(body..).unwrap_or_default();
            let room = self.header.get_mut(self.filled..).unwrap_or_default();
            let count = bytes.len().min(room.len());
            for (to, from) in room.iter_mut().zip(bytes) {
                *to = *from;
            }
            bytes = bytes.get(count..).unwrap_or_default();
            self.filled += count;
            if self.filled == HEADER_BYTES {
                self.filled = 0;
                self.begin()?;
            }
        }
        Ok(())
    }

    /// A header is complete.
    fn begin(&mut self) -> Result<()> {
        let [_, kind, _, flags, s0, s1, s2, s3, length @ ..] = self.header;
        let (stream, length) = (u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes(length));
        let mut account = self.kept.0.lock();
        if matches!(kind, DATA | WINDOW_UPDATE) && flags & SYN != 0 {
            account.begin(stream);
        }
        if kind == DATA {
            if length > BODY_BYTES_MAX {
                return Err(Error::new(ErrorKind::InvalidData, "a frame of Yamux's is larger than a window"));
            }
            self.body_bytes = length;
            account.came(stream, length);
        }
        Ok(())
    }

    /// Ready while more may come.
    fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        let mut account = self.kept.0.lock();
        if !self.is_stuck {
            account.collect();
        }
        if !account.is_full() {
            return Poll::Ready(());
        }
        account.reader = Some(context.waker().clone());
        Poll::Pending
    }

    const fn is_between_frames(&self) -> bool {
        self.filled == 0 && self.body_bytes == 0
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Watched<C> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        if this.is_between_frames() {
            ready!(this.poll_room(context));
        }
        let count = ready!(Pin::new(&mut this.socket).poll_read(context, buffer))?;
        this.pass(buffer.get(..count).unwrap_or_default())?;
        Poll::Ready(Ok(count))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Watched<C> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.socket).poll_write(context, bytes);
        this.is_stuck = written.is_pending();
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_close(context)
    }
}

/// A stream of Yamux's that tells what is read of it.
pub struct Counted {
    stream: Stream,
    kept: Kept,
}

impl Counted {
    pub fn new(stream: Stream, kept: Kept) -> Self {
        kept.open(stream.id().val());
        Self { stream, kept }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.kept.drop_stream(self.stream.id().val());
    }
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        let number = this.stream.id().val();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(count)) => {
                this.kept.0.lock().read(number, count as u64);
                Poll::Ready(Ok(count))
            }
            Poll::Pending if !this.kept.wait(number, context) => {
                Poll::Ready(Err(ErrorKind::ConnectionAborted.into()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: u32 = 3;
    const RST: u8 = 8;

    fn frame(kind: u8, flags: u8, length: u32, body: usize) -> Vec<u8> {
        let header = [0, kind, 0, flags, 0, 0, 0, 3];
        [&header[..], &length.to_be_bytes(), &vec![7; body]].concat()
    }

    fn data(bytes: u32) -> Vec<u8> {
        frame(DATA, 0, bytes, bytes as usize)
    }

    /// A socket from which these bytes come, of a connection with a stream.
    fn watched(bytes: &[u8]) -> Watched<&[u8]> {
        let kept = Kept::default();
        kept.open(STREAM);
        Watched::new(bytes, kept)
    }

    /// Reads in pieces of this size until nothing more is read from the socket.
    fn read(watched: &mut Watched<&[u8]>, piece: usize) {
        let mut context = Context::from_waker(Waker::noop());
        let mut buffer = vec![0; piece];
        while let Poll::Ready(Ok(1..)) = Pin::new(&mut *watched).poll_read(&mut context, &mut buffer) {}
    }

    #[test]
    fn frames_cost_more_than_their_bytes_however_they_are_cut() {
        // A window update, whose length is no body's; an empty frame is not kept.
        let round = [data(1), frame(WINDOW_UPDATE, 0, 250_000, 0), data(0), data(100)].concat();
        let sent = round.repeat(20_000);
        for piece in [1, 5, 12, 13] {
            let mut watched = watched(&sent);
            read(&mut watched, piece);
            let left = watched.socket.len() / round.len();
            let taken = (20_000 - left) as u64 * (101 + 2 * FRAME_COST);
            assert!(taken.abs_diff(KEPT_BYTES_MAX) < 2000, "in pieces of {piece}: {taken}");
        }
    }

    #[test]
    fn what_is_read_makes_room() {
        let sent = data(1000).repeat(5000);
        let mut watched = watched(&sent);
        let mut total = 0;
        while !watched.socket.is_empty() {
            read(&mut watched, 12);
            let mut account = watched.kept.0.lock();
            let waiting: u64 =
                account.streams.values().flat_map(|waiting| &waiting.frames).map(|it| u64::from(*it)).sum();
            assert!(waiting > 0, "it stands still with room");
            account.read(STREAM, 777);
            account.read(STREAM, waiting - 777);
            assert_eq!(account.bytes, 0);
            total += waiting;
        }
        assert_eq!(total, 5_000_000);
    }

    #[test]
    fn streams_that_never_were_are_not_remembered() {
        let mut sent = Vec::new();
        for number in STREAM + 1..100_000 {
            let mut begin = frame(WINDOW_UPDATE, SYN | RST, 0, 0);
            begin.splice(4..8, number.to_be_bytes());
            sent.extend(begin);
            let mut begin = frame(DATA, SYN, 9, 9);
            begin.splice(4..8, number.to_be_bytes());
            sent.extend(begin);
        }
        let mut watched = watched(&sent);
        read(&mut watched, 12);
        assert!(watched.socket.is_empty());
        let account = watched.kept.0.lock();
        assert_eq!((account.streams.len(), account.bytes), (1, 9 + FRAME_COST));
    }

    #[test]
    fn dropped_stream_counts_until_yamux_has_looked_for_it() {
        let sent = data(1000).repeat(5000);
        let mut watched = watched(&sent);
        watched.is_stuck = true;
        watched.kept.drop_stream(STREAM);
        read(&mut watched, 12);
        assert!(watched.socket.len() > sent.len() / 2, "all of it was read");
        watched.is_stuck = false;
        read(&mut watched, 12);
        assert!(watched.socket.is_empty(), "nobody keeps it");
        assert_eq!(watched.kept.0.lock().bytes, 0);
    }

    #[test]
    fn frame_larger_than_a_window_ends_the_connection() {
        let sent = frame(DATA, 0, BODY_BYTES_MAX + 1, 0);
        let mut watched = watched(&sent);
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut watched).poll_read(&mut context, &mut [0; 12]);
        assert!(matches!(read, Poll::Ready(Err(error)) if error.kind() == ErrorKind::InvalidData));
    }
}
