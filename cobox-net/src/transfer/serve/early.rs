//! Asks that come before their session is open here.
//!
//! A peer asks as soon as it takes a session for open, and what opens it here comes on another stream, and through the
//! engine. Such an ask waits a little. To say that the pack is not here would have the peer take all that it asks for
//! first as absent, and a reader there fail. Others are answered meanwhile; no thread is held. Called by `serve.rs`.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use cobox_store::id::FolderNo;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::super::STREAM_SLICES;
use super::OpenFolders;
use crate::wire::{Ask, SessionId};

/// How long an ask waits for its session: less than the time after which its asker takes the stream for late.
const EARLY_WAIT: Duration = Duration::from_secs(2);
/// Asks of one stream that wait so: an honest asker has no more on the way. One beyond them does not wait.
const EARLY_MAX: usize = STREAM_SLICES;

/// Which sessions of a connection are open, and of which folder.
#[derive(Default)]
pub struct Sessions {
    folders: HashMap<SessionId, FolderNo>,
    /// Told when one opens.
    opened: watch::Sender<()>,
}

impl Sessions {
    pub fn insert(&mut self, session: SessionId, no: FolderNo) {
        self.folders.insert(session, no);
        self.opened.send_replace(());
    }

    pub fn remove(&mut self, session: &SessionId) {
        self.folders.remove(session);
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.folders.len()
    }

    pub(super) fn folder(&self, session: SessionId) -> Option<FolderNo> {
        self.folders.get(&session).copied()
    }
}

/// Asks in the order in which they are answered.
pub(super) struct Early {
    asks: Receiver<Ask>,
    open: OpenFolders,
    opened: watch::Receiver<()>,
    /// Those whose session is not open, each with the time at which it is answered all the same.
    waiting: VecDeque<(Instant, Ask)>,
    /// A session was opened, and who of them waited for it is not known.
    look: bool,
}

impl Early {
    pub(super) fn new(asks: Receiver<Ask>, open: OpenFolders) -> Self {
        let opened = open.lock().opened.subscribe();
        Self { asks, open, opened, waiting: VecDeque::new(), look: false }
    }

    /// The next ask; `None` when no more are to come.
    pub(super) async fn next(&mut self) -> Option<Ask> {
        loop {
            if let Some(ask) = self.due() {
                return Some(ask);
            }
            let until = self.waiting.front().map(|(until, _)| *until);
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // It never ends: the sender is kept with the sessions.
                _ = self.opened.changed() => self.look = true,
                () = over => {}
                ask = self.asks.recv() => {
                    let ask = ask?;
                    if self.is_open(&ask) || self.waiting.len() >= EARLY_MAX {
                        return Some(ask);
                    }
                    self.waiting.push_back((Instant::now() + EARLY_WAIT, ask));
                }
            }
        }
    }

    /// One that has waited, for long enough or for a session that is open now.
    fn due(&mut self) -> Option<Ask> {
        if self.waiting.front().is_some_and(|(until, _)| *until <= Instant::now()) {
            return self.waiting.pop_front().map(|(_, ask)| ask);
        }
        let found = if self.look { self.waiting.iter().position(|(_, ask)| self.is_open(ask)) } else { None };
        self.look = found.is_some();
        self.waiting.remove(found?).map(|(_, ask)| ask)
    }

    fn is_open(&self, ask: &Ask) -> bool {
        self.open.lock().folder(ask.session).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cobox_store::format::pack::PackRef;
    use cobox_store::id::PackId;
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::wire::OutboardWish;

    fn ask(ask: u32) -> Ask {
        let pack = PackRef { id: PackId([7; 32]), size: 4096 };
        Ask { ask, session: SessionId(1), pack, outboard: OutboardWish::Skip, first: 0, count: 1 }
    }

    #[test]
    fn asks_of_a_session_that_never_opens_wait_so_long_and_only_so_many_do() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("builds");
        runtime.block_on(async {
            let (asks_in, asks) = channel(2 * EARLY_MAX);
            let open = OpenFolders::default();
            let mut early = Early::new(asks, Arc::clone(&open));
            let last = u32::try_from(EARLY_MAX).expect("few");
            for number in 0..=last {
                asks_in.send(ask(number)).await.expect("there is room");
            }
            assert_eq!(early.next().await, Some(ask(last)), "no more may wait");
            // The first has waited for long enough.
            early.waiting.front_mut().expect("they wait").0 = Instant::now();
            assert_eq!(early.next().await, Some(ask(0)));
            // The others' session opens.
            open.lock().insert(SessionId(1), FolderNo(1));
            for number in 1..last {
                assert_eq!(early.next().await, Some(ask(number)));
            }
            drop(asks_in);
            assert_eq!(early.next().await, None);
        });
    }
}
