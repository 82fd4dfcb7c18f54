//! Listeners and connections of the API: how many, how large, and for how long.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::gate::{Door, gate};
use super::socket::listen_private;
use super::{Fault, Place, Token};

/// Connections of one listener: a browser opens six, a scraper one. Further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 32;
/// A request's head that is not there after so long is not waited for; also how long a connection idles.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// Bytes of a head: a path of 4 KiB, escaped, and a token.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Header lines: browsers send some twenty.
const HEADERS_MAX: usize = 64;
/// Bytes of a body: like a line on the control socket.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Threads that wait in handlers: some for short questions beside what may wait for minutes.
const HANDLERS_MAX: usize = 12;
/// After running out of descriptors: let some connections end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A running API.
pub struct Server {
    router: Router,
    socket: PathBuf,
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    tcp: Mutex<Option<Tcp>>,
    /// Goes when the server does: connections of the socket end with it.
    _socket_open: watch::Sender<()>,
}

/// What answers on TCP.
struct Tcp {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    /// Goes with this: every connection that came in here ends then, also one that waits for events.
    open: watch::Sender<()>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Server {
    /// Answers on a Unix socket from now on.
    ///
    /// # Errors
    /// When the socket or the threads cannot be made.
    pub fn start(router: Router, socket: PathBuf) -> Result<Self, Fault> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(HANDLERS_MAX)
            .thread_name("api")
            .enable_all()
            .build()
            .map_err(|error| Fault::failed(format!("The API's threads cannot be started: {error}.")))?;
        let router = router.fallback(nothing_here).method_not_allowed_fallback(other_methods);
        let router = router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
        let entered = runtime.enter();
        let listener = listen_private(&socket)
            .and_then(UnixListener::from_std)
            .map_err(|error| Fault::failed(format!("{} cannot be made: {error}.", socket.display())))?;
        drop(entered);
        let inner = router.clone().layer(from_fn_with_state(Arc::new(Door::Socket), gate));
        let (socket_open, open) = watch::channel(());
        runtime.spawn(async move {
            let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            loop {
                let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => converse(stream, inner.clone(), seat, open.clone()),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        let handle = runtime.handle().clone();
        let (runtime, tcp) = (Mutex::new(Some(runtime)), Mutex::default());
        Ok(Self { router, socket, runtime, handle, tcp, _socket_open: socket_open })
    }

    /// Answers on TCP too, instead of where it did before: connections that came in there end.
    ///
    /// # Errors
    /// When it cannot listen there; then nothing changes.
    pub fn listen_tcp(&self, place: &Place, token: Token) -> Result<SocketAddr, Fault> {
        let mut tcp = self.tcp.lock();
        if tcp.as_ref().is_some_and(|tcp| tcp.address == place.address) {
            self.end_tcp(tcp.take());
        }
        let unusable = |error: std::io::Error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "Another program listens there already (`ss -ltnp` names it): choose another port, or 0 for any that is free."
                }
                std::io::ErrorKind::AddrNotAvailable => {
                    "It is no address of this machine: 127.0.0.1 is for this machine alone, 0.0.0.0 for all of its addresses."
                }
                std::io::ErrorKind::PermissionDenied => "Ports below 1024 are for root: choose a higher one.",
                _ => "Choose another address.",
            };
            Fault::of_exit(1, format!("The API cannot listen on {}: {error}.", place.address), hint)
        };
        let listener = std::net::TcpListener::bind(place.address).map_err(unusable)?;
        listener.set_nonblocking(true).map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let entered = self.handle.enter();
        let listener = TcpListener::from_std(listener).map_err(unusable)?;
        drop(entered);
        let door = Door::Tcp { token, address, reach: place.reach };
        let inner = self.router.clone().layer(from_fn_with_state(Arc::new(door), gate));
        let (sender, open) = watch::channel(());
        let accepting = self.handle.spawn(async move {
            let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            loop {
                let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => converse(stream, inner.clone(), seat, open.clone()),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        self.end_tcp(tcp.replace(Tcp { address, accepting, open: sender }));
        Ok(address)
    }

    /// Where it listens on TCP.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.lock().as_ref().map(|tcp| tcp.address)
    }

    /// Answers on TCP no more, whoever is connected.
    pub fn stop_tcp(&self) {
        self.end_tcp(self.tcp.lock().take());
    }

    fn end_tcp(&self, before: Option<Tcp>) {
        let Some(Tcp { accepting, open, .. }) = before else { return };
        accepting.abort();
        // Its socket is closed when the task is gone, and only then can the same address be taken again.
        let ended = std::time::Instant::now() + Duration::from_secs(2);
        while !accepting.is_finished() && std::time::Instant::now() < ended {
            std::thread::sleep(Duration::from_millis(2));
        }
        // Whoever came in with a token that may be another by now, or while it was on.
        drop(open);
    }

    /// Ends all of it; who is being answered may still be for a moment.
    pub fn stop(&self) {
        if let Some(runtime) = self.take_runtime() {
            runtime.shutdown_background();
        }
    }

    /// Ends all of it and waits, at most so long, until nothing that answers holds anything any more. Not for a
    /// handler, which would wait for itself.
    pub fn stop_and_wait(&self, at_most: Duration) {
        let Some(runtime) = self.take_runtime() else { return };
        // On a thread of its own: a runtime must not be waited for inside another one.
        let _ = std::thread::spawn(move || runtime.shutdown_timeout(at_most)).join();
    }

    fn take_runtime(&self) -> Option<Runtime> {
        let runtime = self.runtime.lock().take()?;
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(&self.socket);
        Some(runtime)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn nothing_here() -> Fault {
    Fault::missing("There is nothing at this path.", "The document at /openapi.json lists what there is.")
}

async fn other_methods() -> Fault {
    Fault::usage("This path has other methods.", "The document at /openapi.json lists them.").with_status(405)
}

fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    seat: OwnedSemaphorePermit,
    mut open: watch::Receiver<()>,
) {
    tokio::spawn(async move {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(HEAD_BYTES_MAX);
        let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::debug!(%error, "a connection to the API ended");
            },
            // Nothing is ever said here: it ends when the listener does.
            _ = open.changed() => tracing::debug!("a connection to the API was ended with its listener"),
        }
        drop(seat);
    });
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use axum::body::{Body, Bytes};
    use axum::routing::get;

    use super::*;
    use crate::http::Reach;

    /// A server with one path, whose answer begins and never ends, as a stream of events does.
    fn server(dir: &std::path::Path) -> Server {
        let endless = || async {
            let begin = futures::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"data: 1\n\n"))]);
            Body::from_stream(futures::StreamExt::chain(begin, futures::stream::pending()))
        };
        Server::start(Router::new().route("/events", get(endless)), dir.join("api.sock")).expect("starts")
    }

    /// Asks for the events, and reads until the first is there.
    fn listen(address: SocketAddr, token: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets a time");
        let request =
            format!("GET /events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("writes");
        let mut said = Vec::new();
        while !said.windows(7).any(|part| part == b"data: 1") {
            let mut part = [0; 512];
            let read = stream.read(&mut part).expect("reads");
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&part[..read]);
        }
        stream
    }

    fn is_ended(mut stream: TcpStream) -> bool {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        let read = stream.read_to_end(&mut Vec::new());
        !read.is_err_and(|error| matches!(error.kind(), TimedOut | WouldBlock))
    }

    #[test]
    fn listener_that_goes_or_is_replaced_ends_the_connections_that_came_in() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let server = server(dir.path());
        let path = dir.path().join("api.token");
        let place = Place { address: "127.0.0.1:0".parse().expect("an address"), reach: Reach::Loopback };
        let on = |place: &Place| {
            let token = Token::open_or_create(&path).expect("a token");
            let text = std::fs::read_to_string(&path).expect("reads").trim().to_owned();
            (server.listen_tcp(place, token).expect("listens"), text)
        };
        let (address, text) = on(&place);
        let before = listen(address, &text);
        // Another token at the same address: whoever showed the one before is out.
        std::fs::remove_file(&path).expect("removes");
        let (again, text) = on(&Place { address, ..place });
        assert_eq!(again, address);
        assert!(is_ended(before));
        let before = listen(address, &text);
        server.stop_tcp();
        assert!(is_ended(before));
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn server_that_was_waited_for_holds_nothing_that_a_handler_holds() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (held, (begun, begins)) = (Arc::new(()), std::sync::mpsc::channel());
        let inner = Arc::clone(&held);
        let slow = move || async move {
            let answer = move || {
                let _held = inner;
                begun.send(()).expect("somebody waits");
                std::thread::sleep(Duration::from_millis(200));
            };
            tokio::task::spawn_blocking(answer).await.expect("does not panic");
        };
        let server = Server::start(Router::new().route("/", get(slow)), dir.path().join("api.sock"));
        let server = server.expect("starts");
        let mut stream =
            std::os::unix::net::UnixStream::connect(dir.path().join("api.sock")).expect("connects");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("writes");
        begins.recv().expect("begins");
        server.stop_and_wait(Duration::from_secs(60));
        drop(server);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
