//! Reads whose bytes other devices hold wait here, so that they never pin a thread that serves the
//! kernel. A few threads, a bounded queue, a deadline.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::ReplyData;
use parking_lot::Mutex;

use super::convert;
use super::guard::guarded;
use super::teller::Queue;
use crate::vfs::{ABSENT_WAIT_MS, Errno, Vfs};

/// Threads that wait. Each waits for one read; the packs of the reads behind it are asked for already,
/// so they are mostly there when its turn comes.
const THREADS: usize = 4;
/// Reads that may wait. The kernel has at most 64 read-ahead requests under way (`MAX_BACKGROUND`),
/// the rest are programs that wait in `read(2)`.
const QUEUE_MAX: usize = 256;

/// A read that waits.
pub struct WaitingRead {
    pub ino: u64,
    pub fh: u64,
    pub offset: u64,
    pub len: u32,
    pub reply: ReplyData,
}

/// The same, and since when.
type Since = (Instant, WaitingRead);

/// The pool; its threads end when it is dropped.
pub struct Waiters {
    queue: Option<SyncSender<Since>>,
    /// Who must know which files are waited for.
    told: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Waiters {
    pub fn start(vfs: &Arc<Vfs>, told: &Arc<Queue>) -> std::io::Result<Self> {
        let (queue, receiver) = sync_channel(QUEUE_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = (0..THREADS)
            .map(|index| {
                let (vfs, receiver, told) = (Arc::clone(vfs), Arc::clone(&receiver), Arc::clone(told));
                std::thread::Builder::new()
                    .name(format!("fuse-wait-{index}"))
                    .spawn(move || serve(&vfs, &receiver, &told))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { queue: Some(queue), told: Arc::clone(told), threads })
    }

    /// Takes a read over. When too many wait already, it fails at once as it would at its deadline.
    pub fn take(&self, read: WaitingRead) {
        let Some(queue) = &self.queue else { return read.reply.error(convert::errno(Errno::EIO)) };
        let ino = read.ino;
        self.told.read_waits(ino);
        let sent = queue.try_send((Instant::now(), read));
        if let Err(TrySendError::Full((_, read)) | TrySendError::Disconnected((_, read))) = sent {
            tracing::warn!(waiting = QUEUE_MAX, "too many reads wait for other devices");
            read.reply.error(convert::errno(Errno::EIO));
            self.told.read_ended(ino);
        }
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a waiting read panicked");
            }
        }
    }
}

fn serve(vfs: &Vfs, queue: &Mutex<Receiver<Since>>, told: &Queue) {
    loop {
        let next = queue.lock().recv();
        let Ok((since, read)) = next else { return };
        let left = Duration::from_millis(ABSENT_WAIT_MS).saturating_sub(since.elapsed());
        match guarded("read_wait", read.fh, || vfs.read_wait(read.fh, read.offset, read.len, left)) {
            Ok(bytes) => read.reply.data(&bytes),
            Err(errno) => read.reply.error(convert::errno(errno)),
        }
        told.read_ended(read.ino);
    }
}
