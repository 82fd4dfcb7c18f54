//! One connection as the driver sees it: its streams' tasks, its counters, and what is served on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cobox_store::blind::{PackState, Store};
use cobox_store::format::proof::Challenge;
use cobox_store::format::receipt::{Receipt, live_set_digest};
use cobox_store::id::{FolderNo, PackId};
use ed25519_dalek::{Signer as _, SigningKey};
use futures::AsyncReadExt as _;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::behaviour::Kind;
use crate::driver::{Shared, now_ms, random};
use crate::error::Error;
use crate::peer_id::PeerId;
use crate::status::{Connection, Path, PeerStatus};
use crate::swarm::{ByteStream, Way};
use crate::sync::{Conn, Fetched, Input, Side};
use crate::tally::Refusal;
use crate::transfer::control::{Ear, Outbox, OutboxEnd, Overflow, Reader, outbox, read_loop, write_loop};
use crate::transfer::pull::{Job, Means, Puller};
use crate::transfer::room::Party;
use crate::transfer::serve::{DENIALS_MAX, OpenFolders, Server, serve};
use crate::wire::{Frame, PROOFS_MAX, QuestionId, SessionId};

/// How long a fetch waits for the bulk stream after the control stream was ready.
const BULK_WAIT: Duration = Duration::from_secs(10);

/// Of so many of a connection's folders one must have room for a large frame: two seeders may share thousands.
const PARTIES_MAX: usize = 8;

/// A connection over which nothing went for so long, and that answered no ping for [`SILENT_AFTER`], is dead.
const STILL_AFTER: Duration = Duration::from_secs(8);
/// See [`STILL_AFTER`]: three pings. A cable that was pulled shows in no other way for minutes.
const SILENT_AFTER: Duration = Duration::from_secs(15);
/// So is one over which nothing came for so long and no pack was taken, whatever else was sent: small frames go into the
/// system's buffers also where their way is gone, as it is when an address changed. Packs fill these buffers at once, and
/// then stand still; over a thin line they move, and hold up the answers to pings and the next ask.
const UNHEARD_AFTER: Duration = Duration::from_secs(60);

/// A connection.
pub struct Link {
    pub conn: Conn,
    pub peer: PeerId,
    side: Side,
    way: Way,
    pub outbox: Outbox,
    outbox_end: Mutex<Option<OutboxEnd>>,
    pub open: OpenFolders,
    /// Who the peer is in each of them.
    pub parties: Arc<Mutex<BTreeMap<SessionId, Party>>>,
    puller: watch::Sender<Option<Puller>>,
    rtt_ms: AtomicU64,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    rate: Mutex<(Instant, u64, u64)>,
    since_ms: u64,
    /// Parts of frames that were sent and came on the control stream, and asks for packs among what came.
    said: Arc<AtomicU64>,
    heard: Arc<AtomicU64>,
    pulse: Mutex<Pulse>,
}

/// When a connection last showed that its way is there.
struct Pulse {
    /// When a ping was answered last.
    answered: Instant,
    /// All counters together, and when they moved last.
    moved: (u64, Instant),
    /// The same of what came, and of packs that were taken.
    taken: (u64, Instant),
}

impl Pulse {
    const fn new(now: Instant) -> Self {
        Self { answered: now, moved: (0, now), taken: (0, now) }
    }

    fn look(&mut self, moved: u64, taken: u64, now: Instant) {
        for (counted, count) in [(&mut self.moved, moved), (&mut self.taken, taken)] {
            if counted.0 != count {
                *counted = (count, now);
            }
        }
    }

    /// Whether nothing went either way for a while, or nothing came or was taken for a long one, and no ping was answered.
    fn is_gone(&self, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        let still = since(self.moved.1) > STILL_AFTER || since(self.taken.1) > UNHEARD_AFTER;
        still && since(self.answered) > SILENT_AFTER
    }
}

impl Link {
    pub fn new(conn: Conn, peer: PeerId, side: Side, way: Way) -> Self {
        let (outbox, end) = outbox();
        Self {
            conn,
            peer,
            side,
            way,
            outbox,
            outbox_end: Mutex::new(Some(end)),
            open: OpenFolders::default(),
            parties: Arc::default(),
            puller: watch::Sender::new(None),
            rtt_ms: AtomicU64::new(u64::MAX),
            sent: Arc::default(),
            received: Arc::default(),
            rate: Mutex::new((Instant::now(), 0, 0)),
            since_ms: now_ms(),
            said: Arc::default(),
            heard: Arc::default(),
            pulse: Mutex::new(Pulse::new(Instant::now())),
        }
    }

    /// Starts the tasks of a stream that is ready. The end of any stream ends the connection: it is
    /// dialed again, and what has arrived is kept.
    pub fn take(self: &Arc<Self>, shared: &Arc<Shared>, kind: Kind, stream: ByteStream) {
        let (conn, peer, closer) = (self.conn, self.peer, Arc::clone(shared));
        let run: futures::future::BoxFuture<'static, crate::error::Result<()>> = match kind {
            Kind::Control => match self.control(shared, stream) {
                Some(run) => run,
                None => return,
            },
            Kind::BulkOurs => {
                let back = Arc::clone(shared);
                let means = Means {
                    store: Arc::clone(&shared.store),
                    credit: Arc::clone(&shared.credit),
                    batcher: shared.batcher.clone(),
                    buffers: shared.buffers.clone(),
                    tap: shared.tap.clone(),
                    received: Arc::clone(&self.received),
                    late: Arc::new(move |late| back.input(Input::Late { conn, late })),
                };
                let (puller, run) = Puller::start(stream, means);
                self.puller.send_replace(Some(puller));
                Box::pin(run)
            }
            Kind::BulkTheirs => {
                let back = Arc::clone(shared);
                let server = Server {
                    store: Arc::clone(&shared.store),
                    open: Arc::clone(&self.open),
                    readers: Arc::clone(&shared.readers),
                    tap: shared.tap.clone(),
                    sent: Arc::clone(&self.sent),
                    heard: Arc::clone(&self.heard),
                    inbox: Arc::clone(&shared.inbox),
                    denials: Arc::new(Semaphore::new(DENIALS_MAX)),
                    denied: Arc::new(move |session, pack, heard| {
                        back.input_with(Input::Denied { conn, session, pack }, Some(heard));
                    }),
                };
                Box::pin(serve(stream, server))
            }
        };
        tokio::spawn(async move {
            if let Err(error) = run.await {
                if matches!(error, Error::Decode(_) | Error::FrameTooLong { .. }) {
                    closer.tally.refuse(Refusal::Frame);
                }
                tracing::debug!(%peer, ?kind, %error, "a stream ended");
            }
            closer.close(conn);
        });
    }

    fn control(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        stream: ByteStream,
    ) -> Option<futures::future::BoxFuture<'static, crate::error::Result<()>>> {
        let end = self.outbox_end.lock().take()?;
        let Ok(nonce) = random() else { return None };
        let (read, write) = stream.split();
        let (conn, peer) = (self.conn, self.peer);
        shared.input(Input::Up { conn, peer, side: self.side, place: self.way.place, nonce });
        let (hearer, parties) = (Arc::clone(shared), Arc::clone(&self.parties));
        let ear = Ear {
            inbox: Arc::clone(&shared.inbox),
            rooms: shared.rooms.clone(),
            outbox: self.outbox.clone(),
            tap: shared.tap.clone(),
            moved: Arc::clone(&self.heard),
            parties: move || parties.lock().values().take(PARTIES_MAX).copied().collect(),
            hand_on: move |frame, heard| hearer.input_with(Input::Frame { conn, frame }, Some(heard)),
        };
        let (tap, sent) = (shared.tap.clone(), Arc::clone(&self.said));
        Some(Box::pin(async move {
            let reading = read_loop(read, ear);
            let writing = write_loop(write, end, tap, sent);
            tokio::select! { end = reading => end, end = writing => end }
        }))
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// When too much waits already; the connection should be closed then.
    pub fn send(&self, frame: &Frame) -> std::result::Result<(), Overflow> {
        let reader = if self.open.lock().len() == 0 { Reader::Stranger } else { Reader::Member };
        self.outbox.send(frame, reader)
    }

    /// Fetches a pack over the bulk stream.
    pub async fn fetch(&self, job: Job) -> Fetched {
        let mut puller = self.puller.subscribe();
        let ready = async { puller.wait_for(Option::is_some).await.ok().and_then(|found| found.clone()) };
        let found = tokio::time::timeout(BULK_WAIT, ready).await.ok().flatten();
        match found {
            Some(puller) => puller.fetch(job).await,
            None => Fetched::Broken,
        }
    }

    /// Ends a fetch, as broken.
    pub fn let_go(&self, session: SessionId, pack: PackId) {
        if let Some(puller) = self.puller.borrow().as_ref() {
            puller.let_go(session, pack);
        }
    }

    pub fn set_rtt(&self, rtt: Duration) {
        self.pulse.lock().answered = Instant::now();
        self.rtt_ms.store(u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX - 1), Ordering::Relaxed);
    }

    /// See [`STILL_AFTER`] and [`UNHEARD_AFTER`].
    pub fn is_dead(&self) -> bool {
        self.pulse.lock().is_gone(Instant::now())
    }

    /// Looks what moved, and computes the rate, since the last call.
    pub fn measure(&self) {
        self.look(Instant::now());
    }

    fn look(&self, now: Instant) {
        let total = self.sent.load(Ordering::Relaxed) + self.received.load(Ordering::Relaxed);
        let taken = total.wrapping_add(self.heard.load(Ordering::Relaxed));
        let moved = taken.wrapping_add(self.said.load(Ordering::Relaxed));
        self.pulse.lock().look(moved, taken, now);
        let mut rate = self.rate.lock();
        let (at, before, _) = *rate;
        let ms = u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX).max(1);
        *rate = (now, total, total.saturating_sub(before).saturating_mul(1000) / ms);
    }

    /// What the connection itself knows, for lists.
    pub fn connection(&self) -> Connection {
        let rtt = self.rtt_ms.load(Ordering::Relaxed);
        Connection {
            peer: self.peer.to_string(),
            path: Path::Direct,
            transport: Some(self.way.transport),
            rtt_ms: (rtt != u64::MAX).then_some(rtt),
            folders: self.open.lock().len() as u64,
            bytes_sent: self.sent.load(Ordering::Relaxed),
            bytes_received: self.received.load(Ordering::Relaxed),
            rate: self.rate.lock().2,
        }
    }

    /// Adds what only the connection knows.
    pub fn describe(&self, status: &mut PeerStatus) {
        status.path = Path::Direct;
        status.transport = Some(self.way.transport);
        status.since_ms = Some(self.since_ms);
        let rtt = self.rtt_ms.load(Ordering::Relaxed);
        status.rtt_ms = (rtt != u64::MAX).then_some(rtt);
        status.bytes_sent = self.sent.load(Ordering::Relaxed);
        status.bytes_received = self.received.load(Ordering::Relaxed);
        status.rate = self.rate.lock().2;
    }
}

/// Answers a challenge: the proofs, then a receipt under this node's own key.
pub async fn prove(
    shared: Arc<Shared>,
    link: Arc<Link>,
    session: SessionId,
    no: FolderNo,
    question: QuestionId,
    challenge: Challenge,
) {
    // Nobody's any more where the session has ended meanwhile.
    let Some(party) = link.parties.lock().get(&session).copied() else { return };
    let Some(turn) = shared.provers.turn(party, link.conn, &link.outbox).await else { return };
    let inner = Arc::clone(&shared);
    let frames = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        answer(&inner.store, no, session, question, &challenge, &inner)
    });
    match frames.await {
        Ok(Ok(frames)) => {
            if frames.iter().any(|frame| link.send(frame).is_err()) {
                shared.close(link.conn);
            }
        }
        Ok(Err(error)) => tracing::warn!(no = no.0, %error, "a challenge cannot be answered"),
        Err(_) => {}
    }
}

fn answer(
    store: &Store,
    no: FolderNo,
    session: SessionId,
    question: QuestionId,
    challenge: &Challenge,
    shared: &Shared,
) -> cobox_store::error::Result<Vec<Frame>> {
    // The heads come first: what arrives while the packs are listed must not count as held.
    let mut heads = store.log_heads(no)?;
    heads.truncate(cobox_store::format::DEPS_MAX);
    let proofs = store.answer(no, challenge)?;
    let entries = store.answer_entries(no, challenge)?;
    let (mut held, mut lacking): (Vec<PackId>, u64) = (Vec::new(), 0);
    store.packs_live(no, &mut |pack, state| match state {
        PackState::Complete => held.push(pack.id),
        PackState::Missing => lacking += 1,
    })?;
    held.sort_unstable();
    held.dedup();
    let count = |many: usize| u16::try_from(many).expect("a challenge has at most 459 samples");
    let mut receipt = Receipt {
        folder: store.folder_id(no)?,
        seeder: shared.me.to_bytes(),
        nonce: challenge.nonce,
        heads,
        packs_held: held.len() as u64,
        packs_lacking: lacking,
        samples_asked: count(challenge.samples.len()),
        samples_proved: count(proofs.iter().flatten().count()),
        entries_asked: count(challenge.entries.len()),
        entries_proved: entries.proved,
        entries_digest: entries.digest,
        live_set_digest: live_set_digest(&held),
        time_ms: now_ms(),
        signature: [0; 64],
    };
    receipt.signature = SigningKey::from_bytes(&shared.seed).sign(&receipt.signed_bytes()).to_bytes();
    let mut frames: Vec<Frame> = (0..proofs.len())
        .step_by(PROOFS_MAX)
        .zip(proofs.chunks(PROOFS_MAX))
        .map(|(first, proofs)| Frame::Proofs {
            session,
            question,
            first: count(first),
            proofs: proofs.to_vec(),
        })
        .collect();
    frames.push(Frame::Receipt { session, question, receipt: receipt.encode() });
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many seconds of at most ten minutes a link is dead over which this happens, and no ping is answered.
    fn dead_after(happens: impl Fn(&Link, u64)) -> Option<u64> {
        let way = Way { transport: crate::status::Transport::Tcp, place: crate::sync::Place::Other };
        let link = Link::new(Conn(1), PeerId::of_key([1; 32]), Side::Dialer, way);
        let start = Instant::now();
        *link.pulse.lock() = Pulse::new(start);
        (1..=600).find(|second| {
            let now = start + Duration::from_secs(*second);
            happens(&link, *second);
            link.look(now);
            link.pulse.lock().is_gone(now)
        })
    }

    fn each(every: u64, second: u64, counter: &AtomicU64) {
        if second.is_multiple_of(every) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn upload_over_a_line_too_thin_for_pings_is_not_dead() {
        // A frame of slices is taken each five seconds, and nothing comes; or asks come now and then.
        assert_eq!(dead_after(|link, second| each(5, second, &link.sent)), None);
        let asked = |link: &Link, second| {
            each(1, second, &link.said);
            each(50, second, &link.heard);
        };
        assert_eq!(dead_after(asked), None);
    }

    #[test]
    fn connection_over_which_nothing_comes_and_no_pack_is_taken_is_dead_whatever_is_said() {
        assert_eq!(dead_after(|link, second| each(1, second, &link.said)), Some(61));
        assert_eq!(dead_after(|_, _| {}), Some(16));
    }
}
