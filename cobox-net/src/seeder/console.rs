//! The console: a Unix socket in the data folder, on which a running seeder answers one request for each connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::commands::{ANSWER_WAIT, Answer, Request, carry_out, failed, scrub, socket_path};
use super::holding::Holding;
use super::orders::Orders;
use super::{Failure, STOP_LOOK, STOP_WAIT};
use crate::node::Node;

/// A request is a verb and an id.
const REQUEST_BYTES_MAX: u64 = 4096;
/// How long a thread takes to notice that its stream was cut.
const CUT_WAIT: Duration = Duration::from_secs(1);

/// Where a running seeder listens.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Replaces what a killed seeder left; the store's lock says that none is running.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(data: &Path) -> Result<Self, Failure> {
        let path = socket_path(data);
        let make = || -> std::io::Result<UnixListener> {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = make()
            .map_err(|error| Failure::failed(format!("{} cannot be made: {error}.", path.display())))?;
        Ok(Self { listener, path })
    }

    /// Answers on a thread until `stop` is set.
    pub fn answer(
        self,
        holding: Arc<Holding>,
        orders: Arc<Orders>,
        node: Node,
        stop: Arc<AtomicBool>,
    ) -> JoinHandle<()> {
        let Self { listener, path } = self;
        std::thread::spawn(move || {
            let mut answers = Answers::default();
            while !stop.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (holding, orders, node) =
                            (Arc::clone(&holding), Arc::clone(&orders), node.clone());
                        let stop = Arc::clone(&stop);
                        answers.begin(stream, move |stream| {
                            let ask = |request: &Request| match request {
                                Request::Scrub => scrub(&holding.store, &|| stop.load(Ordering::SeqCst)),
                                _ => carry_out(request, &holding, &orders, &node),
                            };
                            serve(stream, &ask)
                        });
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        std::thread::sleep(STOP_LOOK)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "commands cannot be heard");
                        std::thread::sleep(STOP_LOOK);
                    }
                }
            }
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::debug!(%error, "the socket was removed by somebody else");
            }
            // Who waits in its line is let go at once.
            drop(listener);
            answers.end();
        })
    }
}

/// Threads that answer, each with the stream that it reads and that ends with it.
#[derive(Default)]
struct Answers(Vec<(Weak<UnixStream>, JoinHandle<()>)>);

impl Answers {
    fn begin(
        &mut self,
        stream: UnixStream,
        answer: impl FnOnce(&UnixStream) -> std::io::Result<()> + Send + 'static,
    ) {
        self.0.retain(|(_, thread)| !thread.is_finished());
        let stream = Arc::new(stream);
        let kept = Arc::downgrade(&stream);
        let work = move || {
            if let Err(error) = answer(&stream) {
                tracing::debug!(%error, "a command was not answered");
            }
        };
        match std::thread::Builder::new().name("console".to_owned()).spawn(work) {
            Ok(thread) => self.0.push((kept, thread)),
            Err(error) => tracing::warn!(%error, "a command cannot be answered"),
        }
    }

    /// Hears nobody any more and waits for the answers that are being given, so that the store is free then: ten
    /// seconds, and a moment more for those whose readers do not take them.
    fn end(self) {
        let shut = |how| {
            for stream in self.0.iter().filter_map(|(stream, _)| stream.upgrade()) {
                let _ = stream.shutdown(how);
            }
        };
        shut(Shutdown::Read);
        if !self.is_done_by(Instant::now() + STOP_WAIT) {
            shut(Shutdown::Both);
            self.is_done_by(Instant::now() + CUT_WAIT);
        }
    }

    fn is_done_by(&self, until: Instant) -> bool {
        let is_done = || self.0.iter().all(|(_, thread)| thread.is_finished());
        while !is_done() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        is_done()
    }
}

fn serve(mut stream: &UnixStream, ask: &dyn Fn(&Request) -> Result<Answer, Failure>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    let mut line = String::new();
    BufReader::new(stream.take(REQUEST_BYTES_MAX)).read_line(&mut line)?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => ask(&request).unwrap_or_else(|failure| failed(&failure)),
        // It went before it had said all, or the seeder stops.
        Err(_) if !line.ends_with('\n') && (line.len() as u64) < REQUEST_BYTES_MAX => return Ok(()),
        Err(_) => failed(&Failure::failed("The request is not known.")),
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    stream.write_all(text.as_bytes())
}
