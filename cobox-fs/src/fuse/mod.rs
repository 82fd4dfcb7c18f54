//! The one place that knows fuser: the kernel's requests come in here and go to [`crate::vfs`].
//!
//! [`Session`] owns the threads of a mount: some that answer requests, four that wait for absent bytes
//! ([`waiters`]), and some that tell the kernel what other devices changed ([`teller`]). The last are threads of
//! their own because telling the kernel takes locks that a request under way may hold.

mod adapter;
mod convert;
mod guard;
mod teller;
mod waiters;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use fuser::{Config, INodeNo, SessionACL};
use parking_lot::Mutex;

use crate::vfs::{Invalidate, Vfs};
use adapter::Adapter;
use teller::{Queue, Teller, Word};

/// Threads that answer requests: two per processor, because some of them wait for the disk in `fsync`
/// while others compute; at least four, so that one slow disk does not hold up every program.
const THREADS_MIN: usize = 4;
const THREADS_MAX: usize = 16;

/// How the serving threads reach the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptors {
    /// A cloned descriptor for each thread: they do not contend for one queue of replies.
    PerThread,
    /// One for all.
    Shared,
}

/// The threads that serve one mount.
pub struct Session {
    live: Arc<AtomicBool>,
    ended: Mutex<Receiver<()>>,
}

impl Session {
    /// Greets the kernel over `connection` and serves it until the mount is gone.
    ///
    /// # Errors
    /// When the kernel speaks an unknown protocol or no thread can be started.
    pub fn start(vfs: Arc<Vfs>, connection: OwnedFd, descriptors: Descriptors) -> io::Result<Self> {
        let mut config = Config::default();
        config.n_threads = Some(thread_count());
        config.clone_fd = descriptors == Descriptors::PerThread;
        let queue = Queue::new();
        let adapter = Adapter::new(Arc::clone(&vfs), &queue)?;
        // The kernel itself keeps other users out unless the mount allows them; fuser's own check would
        // also refuse the last calls of a process that changed its user after it opened a file.
        let session = fuser::Session::from_fd(adapter, connection, SessionACL::All, config)?;
        let notifier = session.notifier();
        let teller = Teller::start(&queue, move |word| tell(&notifier, word))?;
        // After the mount ended there is no kernel to tell.
        vfs.set_notifier(Box::new(move |changes| queue.put(changes)));
        let (tell_end, ended) = sync_channel(1);
        let live = Arc::new(AtomicBool::new(true));
        let serving = Arc::clone(&live);
        std::thread::Builder::new().name("fuse-session".into()).spawn(move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "serving a mount ended early");
            }
            serving.store(false, Ordering::Release);
            drop(teller);
            // The receiver may be gone already; then nobody waits.
            let _ = tell_end.send(());
        })?;
        Ok(Self { live, ended: Mutex::new(ended) })
    }

    /// Whether the kernel is still served.
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// Waits until the kernel is no longer served. Says whether it came to that in time.
    pub fn wait_end(&self, timeout: Duration) -> bool {
        match self.ended.lock().recv_timeout(timeout) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("live", &self.is_live()).finish_non_exhaustive()
    }
}

fn thread_count() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors * 2).clamp(THREADS_MIN, THREADS_MAX)
}

/// The kernel answers "not found" for what it does not know, which fuser takes as success.
fn tell(notifier: &fuser::Notifier, word: &Word) -> io::Result<()> {
    match word {
        // From offset 0, length 0: attributes and all cached pages.
        Word::Whole(Invalidate::Node(ino)) => notifier.inval_inode(INodeNo(*ino), 0, 0),
        Word::Whole(Invalidate::Name { parent, name }) => {
            notifier.inval_entry(INodeNo(*parent), OsStr::from_bytes(name))
        }
        // From an offset before the first byte: no pages.
        Word::Attributes(ino) => notifier.inval_inode(INodeNo(*ino), -1, 0),
    }
}
