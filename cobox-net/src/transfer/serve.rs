//! The answering side of a bulk stream: reads asks, reads packs, sends slices.
//!
//! What is asked for before its session is open here waits a little ([`early`]).
//!
//! Three stages with short queues between them, so that the disk and the network work at once and a peer
//! that reads slowly holds at most a few MiB here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cobox_store::blind::Store;
use cobox_store::format::SLICE_BYTES;
use cobox_store::format::proof::slice_len;
use cobox_store::id::{FolderNo, PackId};
use futures::io::WriteHalf;
use futures::{AsyncRead, AsyncReadExt as _};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use self::early::Early;
pub use self::early::Sessions;
use super::control::Heard;
use super::parts::Parts;
use super::{Tap, Way, read_frame};
use crate::error::{Error, Result};
use crate::swarm::ByteStream;
use crate::wire::{Ask, BulkFrame, FRAME_SLICES_MAX, OutboardWish, SessionId, decode_bulk, slices_head};

/// Asks that wait; an asker has at most a credit's worth of them on the way.
const ASKS_MAX: usize = 512;
/// Bytes of an ask, with some to spare: what is longer is none, and is not waited for.
const ASK_BYTES_MAX: usize = 128;
/// Answers that wait to be sent, of up to 256 KiB each.
const ANSWERS_MAX: usize = 6;
/// Packs that a stream asked for in vain and the engine has not heard of yet.
pub const DENIALS_MAX: usize = 16;
/// Packs read at once in the whole node.
pub const READERS_MAX: usize = 4;

/// Which sessions may be served, and of which folder.
pub type OpenFolders = Arc<Mutex<Sessions>>;

/// What serving needs.
#[derive(Clone)]
pub struct Server {
    pub store: Arc<Store>,
    pub open: OpenFolders,
    pub readers: Arc<Semaphore>,
    pub tap: Tap,
    pub sent: Arc<AtomicU64>,
    /// Counts asks: who takes packs over a thin line may say nothing else.
    pub heard: Arc<AtomicU64>,
    pub inbox: Arc<Semaphore>,
    /// Of this stream, see [`DENIALS_MAX`].
    pub denials: Arc<Semaphore>,
    /// Hears of packs that were asked for in vain.
    pub denied: Arc<dyn Fn(SessionId, PackId, Heard) + Send + Sync>,
}

enum Answer {
    Slices { ask: u32, first: u16, bytes: Vec<u8> },
    Small(Vec<u8>),
}

/// Serves a stream until it ends.
///
/// # Errors
/// When the stream fails or brings what no asker sends.
pub async fn serve(stream: ByteStream, server: Server) -> Result<()> {
    let (read, write) = stream.split();
    let (asks_in, asks) = channel(ASKS_MAX);
    let (answers_in, answers) = channel(ANSWERS_MAX);
    let reading = read_asks(read, asks_in, server.tap.clone(), Arc::clone(&server.heard));
    let fetching = fetch_answers(asks, answers_in, server.clone());
    let writing = write_answers(write, answers, server);
    tokio::try_join!(reading, fetching, writing).map(|_| ())
}

async fn read_asks(
    mut stream: impl AsyncRead + Unpin,
    asks: Sender<Ask>,
    tap: Tap,
    heard: Arc<AtomicU64>,
) -> Result<()> {
    loop {
        let bytes = read_frame(&mut stream, ASK_BYTES_MAX).await?;
        heard.fetch_add(1, Ordering::Relaxed);
        tap.note(Way::In, &[&bytes]);
        let BulkFrame::Ask(ask) = decode_bulk(&bytes)? else {
            return Err(Error::Decode(cobox_store::format::DecodeError::Invalid { field: "ask" }));
        };
        if asks.send(ask).await.is_err() {
            return Ok(());
        }
    }
}

async fn fetch_answers(asks: Receiver<Ask>, answers: Sender<Answer>, server: Server) -> Result<()> {
    let mut asks = Early::new(asks, Arc::clone(&server.open));
    while let Some(ask) = asks.next().await {
        let mut at = Some(u64::from(ask.first));
        while let Some(from) = at {
            let Ok(permit) = Arc::clone(&server.readers).acquire_owned().await else { return Ok(()) };
            let no = server.open.lock().folder(ask.session);
            let store = Arc::clone(&server.store);
            let read = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                no.map_or(Ok(None), |no| read_sound(&store, no, &ask, from))
            });
            let found = match read.await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => {
                    tracing::warn!(pack = %ask.pack.id, %error, "a pack cannot be read");
                    None
                }
                Err(_) => return Ok(()),
            };
            let missing = found.is_none();
            let (list, next) = found
                .unwrap_or_else(|| (vec![Answer::Small(BulkFrame::NotHere { ask: ask.ask }.encode())], None));
            at = next;
            for answer in list {
                if answers.send(answer).await.is_err() {
                    return Ok(());
                }
            }
            // Who has no folder open here waits for none of its packs.
            if missing && no.is_some() {
                let Some(heard) = Heard::small(&server.inbox, &server.denials).await else { return Ok(()) };
                (server.denied)(ask.session, ask.pack.id, heard);
            }
        }
    }
    Ok(())
}

/// Answers to a part of an ask, and where the next part begins.
type Part = (Vec<Answer>, Option<u64>);

/// Like [`read_part`]; a pack that turns out to be damaged is fetched from others from now on.
fn read_sound(store: &Store, no: FolderNo, ask: &Ask, from: u64) -> cobox_store::error::Result<Option<Part>> {
    match read_part(store, no, ask, from) {
        Err(cobox_store::Error::PackDamaged(pack)) => store.pack_mark_damaged(no, pack).map(|()| None),
        read => read,
    }
}

/// The answers to an ask for one frame of slices from `from` on, and no more: a peer that reads slowly keeps a few
/// frames in memory, and never a pack. `None` where something of it is not here.
fn read_part(store: &Store, no: FolderNo, ask: &Ask, from: u64) -> cobox_store::error::Result<Option<Part>> {
    let mut answers = Vec::new();
    if ask.outboard == OutboardWish::Send && from == u64::from(ask.first) {
        let Some(outboard) = store.outboard(no, ask.pack.id)? else { return Ok(None) };
        answers
            .push(Answer::Small(BulkFrame::Outboard { ask: ask.ask, values: &outboard.encode() }.encode()));
    }
    let end = u64::from(ask.first) + u64::from(ask.count);
    let stop = end.min(from + FRAME_SLICES_MAX);
    if from < stop {
        let len: usize = (from..stop).map(|index| slice_len(ask.pack.size, index)).sum();
        match store.pack_range(no, ask.pack.id, from * SLICE_BYTES, len)? {
            Some(bytes) if bytes.len() == len => {
                let first = u16::try_from(from).expect("a pack has at most 256 slices");
                answers.push(Answer::Slices { ask: ask.ask, first, bytes });
            }
            _ => return Ok(None),
        }
    }
    if stop < end {
        return Ok(Some((answers, Some(stop))));
    }
    answers.push(Answer::Small(BulkFrame::Done { ask: ask.ask }.encode()));
    Ok(Some((answers, None)))
}

async fn write_answers(
    stream: WriteHalf<ByteStream>,
    mut answers: Receiver<Answer>,
    server: Server,
) -> Result<()> {
    let mut parts = Parts::new(stream);
    while let Some(answer) = answers.recv().await {
        let send = async {
            match &answer {
                Answer::Small(frame) => write_frame(&mut parts, &server.tap, &[], frame).await?,
                Answer::Slices { ask, first, bytes } => {
                    write_frame(&mut parts, &server.tap, &slices_head(*ask, *first), bytes).await?;
                    server.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
            }
            if answers.is_empty() { parts.flush().await } else { Ok(()) }
        };
        match tokio::time::timeout(super::STALL_WAIT, send).await {
            Ok(done) => done?,
            Err(_) => return Err(Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }
    Ok(())
}

async fn write_frame(parts: &mut Parts, tap: &Tap, head: &[u8], rest: &[u8]) -> std::io::Result<()> {
    tap.note(Way::Out, &[head, rest]);
    let length = u32::try_from(head.len() + rest.len()).expect("a bulk frame is short");
    for bytes in [&length.to_le_bytes()[..], head, rest] {
        parts.push_all(bytes).await?;
    }
    Ok(())
}

mod early;
#[cfg(test)]
mod tests {
    use cobox_store::blind::StoreKind;
    use cobox_store::format::pack::PackRef;

    use super::*;

    /// A server of nothing, and whose packs it was asked for in vain.
    struct Bench {
        server: Server,
        denied: Arc<Mutex<Vec<SessionId>>>,
        _dir: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a temporary folder");
            let denied: Arc<Mutex<Vec<SessionId>>> = Arc::default();
            let hears = Arc::clone(&denied);
            let server = Server {
                store: Store::create(&dir.path().join("store"), StoreKind::Seeder).expect("makes a store"),
                open: OpenFolders::default(),
                readers: Arc::new(Semaphore::new(READERS_MAX)),
                tap: Tap::default(),
                sent: Arc::default(),
                heard: Arc::default(),
                inbox: Arc::new(Semaphore::new(16)),
                denials: Arc::new(Semaphore::new(DENIALS_MAX)),
                denied: Arc::new(move |session, _, _| hears.lock().push(session)),
            };
            Self { server, denied, _dir: dir }
        }

        fn open(&self, session: u32) {
            self.server.open.lock().insert(SessionId(session), FolderNo(1));
        }
    }

    fn ask(session: u32) -> Ask {
        let pack = PackRef { id: PackId([7; 32]), size: 4096 };
        Ask {
            ask: session,
            session: SessionId(session),
            pack,
            outboard: OutboardWish::Skip,
            first: 0,
            count: 1,
        }
    }

    #[tokio::test]
    async fn asks_are_counted_as_what_comes() {
        let frame = |session| {
            let bytes = BulkFrame::Ask(ask(session)).encode();
            [&u32::try_from(bytes.len()).expect("it is short").to_le_bytes()[..], &bytes].concat()
        };
        let stream = futures::io::Cursor::new([frame(1), frame(2)].concat());
        let (asks_in, mut asks) = channel(ASKS_MAX);
        let heard: Arc<AtomicU64> = Arc::default();
        read_asks(stream, asks_in, Tap::default(), Arc::clone(&heard)).await.expect_err("it ends");
        assert_eq!(heard.load(Ordering::Relaxed), 2);
        assert_eq!(asks.recv().await.map(|ask| ask.ask), Some(1));
    }

    /// Whose ask is answered next.
    async fn next(answers: &mut Receiver<Answer>) -> Option<u32> {
        let Some(Answer::Small(frame)) = answers.recv().await else { return None };
        let Ok(BulkFrame::NotHere { ask }) = decode_bulk(&frame) else { return None };
        Some(ask)
    }

    #[test]
    fn ask_before_its_session_opens_is_answered_then_and_keeps_no_other_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("builds");
        runtime.block_on(async {
            let bench = Bench::new();
            bench.open(2);
            let ((asks_in, asks), (answers_in, mut answers)) = (channel(ASKS_MAX), channel(ANSWERS_MAX));
            for session in [1, 2] {
                asks_in.send(ask(session)).await.expect("there is room");
            }
            let serving = tokio::spawn(fetch_answers(asks, answers_in, bench.server.clone()));
            assert_eq!(next(&mut answers).await, Some(2));
            bench.open(1);
            assert_eq!(next(&mut answers).await, Some(1));
            drop(asks_in);
            assert!(serving.await.is_ok_and(|ended| ended.is_ok()));
            assert_eq!(*bench.denied.lock(), [2, 1].map(SessionId), "it was looked for");
        });
    }
}
