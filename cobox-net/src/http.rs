//! `/metrics` and `/healthz` over HTTP, on a Unix socket or on loopback, for whoever watches machines.
//!
//! A few lines of HTTP/1.1 suffice for two pages that only this machine may ask for: one request per
//! connection, GET alone, everything bounded, one connection at a time. What is said holds no names.

use std::io::{self, Read as _, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request line and the headers of a scraper: far less.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// A client that is slower is given up; the next one waits meanwhile.
const CLIENT_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked whether to end.
const LOOK: Duration = Duration::from_millis(200);

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HttpAddress {
    /// `unix:PATH`; only its owner may connect.
    Unix(PathBuf),
    /// `127.0.0.1:PORT` or `[::1]:PORT`; everyone on this machine may.
    Loopback(SocketAddr),
}

impl std::str::FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(_) => Err("only this machine may ask: give 127.0.0.1:PORT, [::1]:PORT or unix:PATH".to_owned()),
            Err(_) => Err("write it like 127.0.0.1:9740 or unix:/run/cobox/metrics.sock".to_owned()),
        }
    }
}

/// A page that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Whether all is well; a page that says no comes with status 503.
    pub status: PageStatus,
    /// Plain text.
    pub text: String,
}

/// The status of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageStatus {
    /// 200.
    Well,
    /// 503.
    Unwell,
}

/// Answers a path; `None` where there is no such page.
pub type Pages = Arc<dyn Fn(&str) -> Option<Page> + Send + Sync>;

enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

trait Stream: io::Read + Write {}
impl<T: io::Read + Write> Stream for T {}

/// Answers on a thread until `stop` says so.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(
    address: &HttpAddress,
    pages: Pages,
    stop: Arc<dyn Fn() -> bool + Send + Sync>,
) -> io::Result<JoinHandle<()>> {
    let listener = match address {
        HttpAddress::Unix(path) => {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Listener::Unix(listener, path.clone())
        }
        HttpAddress::Loopback(address) => {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Listener::Tcp(listener)
        }
    };
    std::thread::Builder::new().name("http".to_owned()).spawn(move || {
        while !stop() {
            match listener.accept() {
                Ok(mut stream) => {
                    let _ = converse(&mut *stream, &pages);
                }
                Err(_) => std::thread::park_timeout(LOOK),
            }
        }
        if let Listener::Unix(_, path) = &listener {
            let _ = std::fs::remove_file(path);
        }
    })
}

/// The same for a flag.
pub fn until(flag: &Arc<AtomicBool>) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let flag = Arc::clone(flag);
    Arc::new(move || flag.load(Ordering::SeqCst))
}

impl Listener {
    fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(CLIENT_WAIT))?;
                stream.set_write_timeout(Some(CLIENT_WAIT))?;
                Ok(Box::new(stream))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(CLIENT_WAIT))?;
                stream.set_write_timeout(Some(CLIENT_WAIT))?;
                Ok(Box::new(stream))
            }
        }
    }
}

fn converse(stream: &mut dyn Stream, pages: &Pages) -> io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    let started = std::time::Instant::now();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let len = stream.read(&mut part)?;
        request.extend_from_slice(part.get(..len).unwrap_or_default());
        if len == 0 || request.len() > REQUEST_BYTES_MAX || started.elapsed() > CLIENT_WAIT {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&request);
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (status, text) = match (words.next(), words.next()) {
        (Some("GET"), Some(target)) => {
            let path = target.split('?').next().unwrap_or_default();
            match pages(path) {
                Some(Page { status: PageStatus::Well, text }) => ("200 OK", text),
                Some(Page { status: PageStatus::Unwell, text }) => ("503 Service Unavailable", text),
                None => ("404 Not Found", "There are /metrics and /healthz.\n".to_owned()),
            }
        }
        _ => ("405 Method Not Allowed", "Only GET.\n".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    stream.flush()
}

/// Text in the exposition format of Prometheus
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
#[derive(Default)]
pub struct Metrics(String);

impl Metrics {
    /// One metric with a value for each folder, or one for the whole with an empty label.
    pub fn add(&mut self, name: &str, kind: &str, help: &str, values: impl IntoIterator<Item = (String, f64)>) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        self.0 += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (folder, value) in values {
            if folder.is_empty() {
                self.0 += &format!("{name} {value}\n");
            } else {
                self.0 += &format!("{name}{{folder=\"{folder}\"}} {value}\n");
            }
        }
    }

    /// The page.
    #[must_use]
    pub fn page(self) -> Page {
        Page { status: PageStatus::Well, text: self.0 }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_this_machine_may_be_listened_for() {
        assert!("127.0.0.1:9740".parse::<HttpAddress>().is_ok());
        assert!("[::1]:9740".parse::<HttpAddress>().is_ok());
        assert!("unix:/run/x".parse::<HttpAddress>().is_ok());
        for text in ["0.0.0.0:9740", "192.168.1.1:80", "unix:", "9740", ""] {
            assert!(text.parse::<HttpAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn pages_are_served_and_everything_else_is_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("http");
        let stop = Arc::new(AtomicBool::new(false));
        let pages: Pages = Arc::new(|path| {
            (path == "/metrics").then(|| {
                let mut metrics = Metrics::default();
                metrics.add("cobox_test", "gauge", "A test.", [("00ff".to_owned(), 2.0)]);
                metrics.page()
            })
        });
        let thread = serve(&HttpAddress::Unix(path.clone()), pages, until(&stop)).expect("listens");
        let ask = |request: &str| {
            let mut stream = UnixStream::connect(&path).expect("connects");
            stream.write_all(request.as_bytes()).expect("sends");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("reads");
            answer
        };
        let answer = ask("GET /metrics?x HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("cobox_test{folder=\"00ff\"} 2\n"), "{answer}");
        assert!(ask("GET /else HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        stop.store(true, Ordering::SeqCst);
        thread.join().expect("ends");
        assert!(!path.exists());
    }
}
