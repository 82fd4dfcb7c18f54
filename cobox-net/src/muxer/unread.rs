//! How many small frames of a connection nobody has read.
//!
//! Below Yamux the headers of incoming frames are looked at as they pass, above it what is read of each stream. Both
//! tell one account, which is exact while a stream is read to its end now and then, and at most twice too low
//! otherwise. While too many wait, nothing more is read from the socket: who reads late is not cut off for it, and
//! who never reads is found as any peer that stands still.

use std::collections::HashMap;
use std::io::Result;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;
use yamux::Stream;

/// A data frame of fewer bytes is small. It takes some 64 bytes beside them: a vector, and its place in a queue.
const SMALL_BYTES: u32 = 128;
/// Small frames of a connection that may wait to be read: with all that surrounds them less than one stream's window.
const SMALL_UNREAD_MAX: u64 = 1024;
/// Version, type, flags, stream and length: 1, 1, 2, 4 and 4 bytes, big-endian.
const HEADER_BYTES: usize = 12;
/// The type of a frame that `length` bytes follow.
const DATA: u8 = 0;
/// The type of a frame that may begin a stream too; nothing follows.
const WINDOW_UPDATE: u8 = 1;
/// The flag of a frame that begins a stream.
const SYN: u8 = 1;

/// What came and was not read.
#[derive(Clone, Default)]
pub struct Unread(Arc<Mutex<Account>>);

#[derive(Default)]
struct Account {
    streams: HashMap<u32, Waiting>,
    /// Who would read on from the socket.
    reader: Option<Waker>,
}

#[derive(Default)]
struct Waiting {
    bytes: u64,
    small: u64,
}

impl Account {
    fn is_full(&self) -> bool {
        self.streams.values().map(|waiting| waiting.small).sum::<u64>() >= SMALL_UNREAD_MAX
    }

    fn wake_reader(&mut self) {
        if !self.is_full()
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }
}

impl Unread {
    fn open(&self, stream: u32) {
        self.0.lock().streams.entry(stream).or_default();
    }

    /// What comes for a stream that is not open, Yamux throws away.
    fn came(&self, stream: u32, bytes: u32) {
        if let Some(waiting) = self.0.lock().streams.get_mut(&stream) {
            waiting.bytes += u64::from(bytes);
            waiting.small += u64::from((1..SMALL_BYTES).contains(&bytes));
        }
    }

    /// Small frames go in proportion: where among the bytes they are is not known.
    fn read(&self, stream: u32, bytes: usize) {
        let mut account = self.0.lock();
        if let Some(waiting) = account.streams.get_mut(&stream) {
            let left = waiting.bytes.saturating_sub(bytes as u64);
            waiting.small = (waiting.small * left).div_ceil(waiting.bytes.max(1));
            waiting.bytes = left;
        }
        account.wake_reader();
    }

    fn close(&self, stream: u32) {
        let mut account = self.0.lock();
        account.streams.remove(&stream);
        account.wake_reader();
    }

    /// Ready while more may come.
    fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        let mut account = self.0.lock();
        if !account.is_full() {
            return Poll::Ready(());
        }
        account.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The socket under Yamux.
pub struct Watched<C> {
    socket: C,
    unread: Unread,
    header: [u8; HEADER_BYTES],
    /// Bytes of `header` that are there.
    filled: usize,
    /// Bytes of the body that are still to come.
    body_bytes: u32,
}

impl<C> Watched<C> {
    pub const fn new(socket: C, unread: Unread) -> Self {
        Self { socket, unread, header: [0; HEADER_BYTES], filled: 0, body_bytes: 0 }
    }

    /// Looks at the next bytes, in pieces of any size.
    fn pass(&mut self, mut bytes: &[u8]) {
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
                self.begin();
            }
        }
    }

    /// A header is complete.
    fn begin(&mut self) {
        let [_, kind, _, flags, s0, s1, s2, s3, length @ ..] = self.header;
        let (stream, length) = (u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes(length));
        if matches!(kind, DATA | WINDOW_UPDATE) && flags & SYN != 0 {
            self.unread.open(stream);
        }
        if kind == DATA {
            self.body_bytes = length;
            self.unread.came(stream, length);
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Watched<C> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        ready!(this.unread.poll_room(context));
        let count = ready!(Pin::new(&mut this.socket).poll_read(context, buffer))?;
        this.pass(buffer.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Watched<C> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(context, bytes)
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
    unread: Unread,
}

impl Counted {
    pub fn new(stream: Stream, unread: Unread) -> Self {
        unread.open(stream.id().val());
        Self { stream, unread }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.unread.close(self.stream.id().val());
    }
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        this.unread.read(this.stream.id().val(), count);
        Poll::Ready(Ok(count))
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

    fn frame(kind: u8, flags: u8, length: u32, body: usize) -> Vec<u8> {
        let header = [0, kind, 0, flags, 0, 0, 0, 3];
        [&header[..], &length.to_be_bytes(), &vec![7; body]].concat()
    }

    fn data(bytes: u32) -> Vec<u8> {
        frame(DATA, 0, bytes, bytes as usize)
    }

    fn is_full(watched: &Watched<()>) -> bool {
        watched.unread.0.lock().is_full()
    }

    #[test]
    fn small_frames_are_counted_however_they_are_cut() {
        // A window update, whose length is no body's, and larger frames between.
        let round =
            [data(1), frame(WINDOW_UPDATE, 0, 250_000, 0), data(SMALL_BYTES), data(SMALL_BYTES - 1), data(0)];
        let all = round.concat().repeat(SMALL_UNREAD_MAX as usize / 2 - 1);
        let sent = [frame(WINDOW_UPDATE, SYN, 0, 0), all, data(7), data(SMALL_BYTES)].concat();
        for piece in [1, 5, 12, 13, 1000, sent.len()] {
            let mut watched = Watched::new((), Unread::default());
            for bytes in sent.chunks(piece) {
                watched.pass(bytes);
            }
            assert!(!is_full(&watched), "in pieces of {piece}");
            watched.pass(&data(3));
            assert!(is_full(&watched), "in pieces of {piece}");
        }
    }

    #[test]
    fn small_frames_that_are_read_make_room_for_others() {
        let unread = Unread::default();
        let mut watched = Watched::new((), unread.clone());
        watched.pass(&frame(DATA, SYN, 1, 1));
        for _ in 0..10 * SMALL_UNREAD_MAX {
            watched.pass(&data(1));
            assert!(!is_full(&watched), "they are read");
            unread.read(STREAM, 1);
        }
        for _ in 1..SMALL_UNREAD_MAX {
            watched.pass(&data(1));
        }
        assert!(is_full(&watched));
        let mut context = Context::from_waker(Waker::noop());
        assert!(unread.poll_room(&context).is_pending());
        assert!(
            Pin::new(&mut Watched::new(&[7_u8; 4][..], unread.clone()))
                .poll_read(&mut context, &mut [0; 4])
                .is_pending()
        );
        unread.read(STREAM, 1);
        assert!(unread.poll_room(&context).is_ready());
        watched.pass(&data(1));
        unread.close(STREAM);
        watched.pass(&data(1));
        assert!(!is_full(&watched), "nobody keeps it");
    }
}
