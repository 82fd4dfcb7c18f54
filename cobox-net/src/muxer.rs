//! Many streams over one TCP connection: Yamux, with bounds on what a peer may have us keep.
//!
//! `yamux` keeps what a peer sent until the stream's owner reads it, within the window that was granted. Two things
//! make that more than it seems. A stream's window doubles while the peer sends much in a round trip, and the
//! peer has a say in how long that takes; libp2p's own muxer leaves the sum at a gibibyte and has no setter. And
//! each data frame is kept in an allocation of its own, so that frames of one byte take sixty times what the window
//! counts. Here the sum of windows is bounded, and so are the small frames that nobody has read (`unread.rs`).
//!
//! Specification: <https://github.com/hashicorp/yamux/blob/master/spec.md>, spoken by libp2p as `/yamux/1.0.0`.

mod unread;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use unread::{Counted, Unread, Watched};
use yamux::{Connection, ConnectionError, Mode, Stream};

/// Streams of one connection, in both directions: three carry frames, and identify and pings open six at the most.
const STREAMS_MAX: usize = 16;
/// What all windows of a connection together may grow beyond what each stream begins with: one that takes it all
/// fills 100 Mbit/s at 140 ms.
const GROWTH_BYTES_MAX: usize = 1_500_000;

/// Agrees on Yamux.
#[derive(Clone, Copy, Default)]
pub struct Upgrade;

impl Upgrade {
    fn begin<C: AsyncRead + AsyncWrite + Unpin>(socket: C, mode: Mode) -> Muxer<C> {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS_MAX);
        let begin_with = STREAMS_MAX * yamux::DEFAULT_CREDIT as usize;
        config.set_max_connection_receive_window(Some(begin_with + GROWTH_BYTES_MAX));
        let unread = Unread::default();
        let connection = Connection::new(Watched::new(socket, unread.clone()), config, mode);
        Muxer { connection, unread, arrived: VecDeque::new(), waiting: None }
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
    unread: Unread,
    /// Streams that came while nobody asked for one: `yamux` moves a connection on only by handing out the next. At
    /// most [`STREAMS_MAX`], as it ends a connection that has more.
    arrived: VecDeque<Counted>,
    /// Who asked when there was none.
    waiting: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Counted, ConnectionError>> {
        let next = ready!(self.connection.poll_next_inbound(context));
        Poll::Ready(next.unwrap_or(Err(ConnectionError::Closed)).map(|stream| self.counted(stream)))
    }

    fn counted(&self, stream: Stream) -> Counted {
        Counted::new(stream, self.unread.clone())
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
        self.get_mut().connection.poll_close(context)
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
