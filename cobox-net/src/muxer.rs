//! Many streams over one TCP connection: Yamux, with bounds on what a peer may have us keep.
//!
//! `yamux` keeps what a peer sent until the stream's owner reads it, within the window that was granted. Two things
//! make that more than it seems. A stream's window doubles while the peer sends much in a round trip, and the
//! peer has a say in how long that takes; libp2p's own muxer leaves the sum at a gibibyte and has no setter. And
//! each data frame is kept in an allocation of its own, so that frames of one byte take seventy times what the window
//! counts. Here all that waits to be read is counted (`kept.rs`), and while it is too much nothing more comes.
//!
//! Specification: <https://github.com/hashicorp/yamux/blob/master/spec.md>, spoken by libp2p as `/yamux/1.0.0`.

mod kept;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use kept::{Counted, Kept, Watched};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use tokio::time::Sleep;
use yamux::{Connection, ConnectionError, Mode, Stream};

/// Streams of one connection, in both directions: three carry frames, and identify and pings open six at the most.
const STREAMS_MAX: usize = 16;
/// What all windows of a connection together may grow beyond what each stream begins with. What is on its way takes
/// nothing here: 16 MiB fill 1 Gbit/s at 130 ms.
const GROWTH_BYTES_MAX: usize = 16 << 20;
/// How long a peer may take the last that is sent before a connection is closed. A peer that takes nothing would keep
/// it, and its place, for as long as it likes.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Agrees on Yamux.
#[derive(Clone, Copy, Default)]
pub struct Upgrade;

impl Upgrade {
    fn begin<C: AsyncRead + AsyncWrite + Unpin>(socket: C, mode: Mode) -> Muxer<C> {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_MAX);
        let begin_with = STREAMS_MAX * yamux::DEFAULT_CREDIT as usize;
        config.set_max_connection_receive_window(Some(begin_with + GROWTH_BYTES_MAX));
        let kept = Kept::default();
        let connection = Connection::new(Watched::new(socket, kept.clone()), config, mode);
        Muxer { connection, kept, arrived: VecDeque::new(), waiting: None, closing: None }
    }
}

impl UpgradeInfo for Upgrade {
    type Info = &'static str;
    type InfoIter = [&'static str; 1];

    fn protocol_info(&self) -> Self::InfoIter {
        ["/yamux/1.0.0"]
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Upgrade {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Self::begin(socket, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Upgrade {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Self::begin(socket, Mode::Client)))
    }
}

/// A connection and its streams.
pub struct Muxer<C> {
    connection: Connection<Watched<C>>,
    kept: Kept,
    /// Streams that came while nobody asked for one: `yamux` moves a connection on only by handing out the next. At
    /// most [`STREAMS_MAX`], as it ends a connection that has more.
    arrived: VecDeque<Counted>,
    /// Who asked when there was none.
    waiting: Option<Waker>,
    /// Until when the last may be taken.
    closing: Option<Pin<Box<Sleep>>>,
}

impl<C> Drop for Muxer<C> {
    fn drop(&mut self) {
        self.kept.close();
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Counted, ConnectionError>> {
        let next = ready!(self.connection.poll_next_inbound(context));
        Poll::Ready(next.unwrap_or(Err(ConnectionError::Closed)).map(|stream| self.counted(stream)))
    }

    fn counted(&self, stream: Stream) -> Counted {
        Counted::new(stream, self.kept.clone())
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Counted;
    type Error = ConnectionError;

    fn poll_inbound(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Counted, ConnectionError>> {
        let this = self.get_mut();
        if let Some(stream) = this.arrived.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = this.poll_next(context);
        if next.is_pending() {
            this.waiting = Some(context.waker().clone());
        }
        next
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Counted, ConnectionError>> {
        let this = self.get_mut();
        let stream = ready!(this.connection.poll_new_outbound(context))?;
        Poll::Ready(Ok(this.counted(stream)))
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let this = self.get_mut();
        this.kept.close();
        let closed = this.connection.poll_close(context);
        let wait = this.closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_WAIT)));
        if closed.is_pending() { wait.as_mut().poll(context).map(Ok) } else { closed }
    }

    fn poll(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        let this = self.get_mut();
        let stream = ready!(this.poll_next(context))?;
        this.arrived.push_back(stream);
        if let Some(waiting) = this.waiting.take() {
            waiting.wake();
        }
        // There may be more; others have their turn first.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Result;

    use futures::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A socket of a peer that neither sends nor takes anything.
    struct Stuck;

    impl AsyncRead for Stuck {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Stuck {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn close_ends_readers_and_itself_though_the_peer_takes_nothing() {
        let mut muxer = Upgrade::begin(Stuck, Mode::Client);
        let stream = poll_fn(|context| Pin::new(&mut muxer).poll_outbound(context)).await.expect("a stream");
        let (mut read, mut write) = stream.split();
        write.write_all(&[7; 1000]).await.expect("there is a window");
        let reader = tokio::spawn(async move { read.read(&mut [0]).await });
        let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut muxer).poll(context))).await;
        assert!(polled.is_pending(), "the connection ended by itself");
        // It waits before the close.
        tokio::task::yield_now().await;
        poll_fn(|context| Pin::new(&mut muxer).poll_close(context)).await.expect("it is closed");
        assert!(reader.await.expect("no panic").is_err(), "who reads waits on");
    }
}
