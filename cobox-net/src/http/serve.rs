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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
    tcp: Mutex<Option<(SocketAddr, JoinHandle<()>)>>,
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
        runtime.spawn(async move {
            let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            loop {
                let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => converse(stream, inner.clone(), seat),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        let handle = runtime.handle().clone();
        Ok(Self { router, socket, runtime: Mutex::new(Some(runtime)), handle, tcp: Mutex::default() })
    }

    /// Answers on TCP too, instead of where it did before.
    ///
    /// # Errors
    /// When it cannot listen there; then nothing changes.
    pub fn listen_tcp(&self, place: &Place, token: Token) -> Result<SocketAddr, Fault> {
        let mut tcp = self.tcp.lock();
        if tcp.as_ref().is_some_and(|(address, _)| *address == place.address) {
            self.end_tcp(tcp.take());
        }
        let unusable = |error: std::io::Error| {
            Fault::failed(format!("The API cannot listen on {}: {error}.", place.address))
        };
        let listener = std::net::TcpListener::bind(place.address).map_err(unusable)?;
        listener.set_nonblocking(true).map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let entered = self.handle.enter();
        let listener = TcpListener::from_std(listener).map_err(unusable)?;
        drop(entered);
        let door = Door::Tcp { token, address, reach: place.reach };
        let inner = self.router.clone().layer(from_fn_with_state(Arc::new(door), gate));
        let task = self.handle.spawn(async move {
            let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            loop {
                let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => converse(stream, inner.clone(), seat),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        self.end_tcp(tcp.replace((address, task)));
        Ok(address)
    }

    /// Where it listens on TCP.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.lock().as_ref().map(|(address, _)| *address)
    }

    /// Answers on TCP no more.
    pub fn stop_tcp(&self) {
        self.end_tcp(self.tcp.lock().take());
    }

    fn end_tcp(&self, before: Option<(SocketAddr, JoinHandle<()>)>) {
        let Some((_, task)) = before else { return };
        task.abort();
        // Its socket is closed when the task is gone, and only then can the same address be taken again.
        let ended = std::time::Instant::now() + Duration::from_secs(2);
        while !task.is_finished() && std::time::Instant::now() < ended {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends all of it.
    pub fn stop(&self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(&self.socket);
        }
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
) {
    tokio::spawn(async move {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_WAIT)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(HEAD_BYTES_MAX);
        let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the API ended");
        }
        drop(seat);
    });
}
