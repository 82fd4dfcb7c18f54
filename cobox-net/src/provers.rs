//! Whose challenge is answered next. Called by `link.rs`.
//!
//! An answer lists a folder's packs and reads entries: the dearest question there is. One folder has one answer made at a
//! time and the node two, so that whoever asks without end keeps nobody waiting who asks about another folder, whose
//! copies would count as not proved.

use std::collections::HashMap;
use std::sync::Arc;

use cobox_store::id::FolderNo;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sync::Conn;
use crate::transfer::control::Outbox;

/// Answers that are made at once.
const ANSWERS_MAX: usize = 2;
/// Challenges of one connection about one folder that wait or are answered: an auditor has one under way, and one that it
/// gave up. What comes beyond is dropped, and its asker asks again.
const WAITING_MAX: usize = 2;

/// Turns to make answers.
pub struct Provers {
    node: Arc<Semaphore>,
    folders: Mutex<HashMap<FolderNo, Lane>>,
}

/// One folder's.
struct Lane {
    turn: Arc<Semaphore>,
    waiting: HashMap<Conn, usize>,
}

impl Default for Provers {
    fn default() -> Self {
        Self { node: Arc::new(Semaphore::new(ANSWERS_MAX)), folders: Mutex::default() }
    }
}

/// The right to make an answer, until it is dropped.
pub struct Turn {
    _node: OwnedSemaphorePermit,
    _folder: OwnedSemaphorePermit,
    _place: Place,
}

/// A place among those who wait.
struct Place {
    provers: Arc<Provers>,
    no: FolderNo,
    conn: Conn,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut folders = self.provers.folders.lock();
        let Some(lane) = folders.get_mut(&self.no) else { return };
        if let Some(waiting) = lane.waiting.get_mut(&self.conn) {
            *waiting -= 1;
            if *waiting == 0 {
                lane.waiting.remove(&self.conn);
            }
        }
        if lane.waiting.is_empty() {
            folders.remove(&self.no);
        }
    }
}

impl Provers {
    /// Waits for a turn. Who does not read what it asked for gets none, and holds nobody up meanwhile; nor does who has
    /// gone, or asks for more than it may.
    pub async fn turn(self: &Arc<Self>, no: FolderNo, conn: Conn, outbox: &Outbox) -> Option<Turn> {
        let (lane, place) = self.enter(no, conn)?;
        loop {
            outbox.low().await;
            if outbox.is_closed() {
                return None;
            }
            let folder = Arc::clone(&lane).acquire_owned().await.ok()?;
            let node = Arc::clone(&self.node).acquire_owned().await.ok()?;
            if outbox.is_low() {
                return Some(Turn { _node: node, _folder: folder, _place: place });
            }
        }
    }

    fn enter(self: &Arc<Self>, no: FolderNo, conn: Conn) -> Option<(Arc<Semaphore>, Place)> {
        let mut folders = self.folders.lock();
        let lane = folders
            .entry(no)
            .or_insert_with(|| Lane { turn: Arc::new(Semaphore::new(1)), waiting: HashMap::new() });
        let waiting = lane.waiting.entry(conn).or_default();
        if *waiting >= WAITING_MAX {
            return None;
        }
        *waiting += 1;
        Some((Arc::clone(&lane.turn), Place { provers: Arc::clone(self), no, conn }))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use cobox_store::id::{FolderId, MemberId};

    use super::*;
    use crate::transfer::control::outbox;
    use crate::wire::{Frame, SessionId};

    /// Answers that the peer does not read.
    fn fill(outbox: &Outbox) {
        while outbox.is_low() {
            outbox
                .send(&Frame::Recover {
                    session: SessionId(2),
                    folder: FolderId([1; 32]),
                    member: MemberId([2; 32]),
                    signature: [3; 64],
                })
                .expect("there is room for more than is read");
        }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().expect("builds").block_on(test);
    }

    #[test]
    fn challenge_whose_asker_has_gone_with_answers_unread_is_not_waited_for() {
        run(async {
            let (outbox, end) = outbox();
            let provers = Arc::new(Provers::default());
            fill(&outbox);
            {
                let turn = provers.turn(FolderNo(1), Conn(1), &outbox);
                tokio::pin!(turn);
                assert!(futures::poll!(turn.as_mut()).is_pending(), "it has not read what it asked for");
                drop(end);
                assert!(matches!(futures::poll!(turn), Poll::Ready(None)), "nobody will read it");
            }
            assert_eq!(provers.node.available_permits(), ANSWERS_MAX, "and nobody else is held up");
            assert!(provers.folders.lock().is_empty(), "nor remembered");
        });
    }

    #[test]
    fn folder_that_is_asked_about_without_end_keeps_no_other_waiting() {
        const CONNS: u64 = 100;
        run(async {
            let (outbox, _end) = outbox();
            let provers = Arc::new(Provers::default());
            let ask = |no, conn| {
                let (provers, outbox) = (&provers, &outbox);
                Box::pin(async move { provers.turn(FolderNo(no), Conn(conn), outbox).await })
            };
            let mut flood: Vec<_> =
                (0..CONNS).flat_map(|conn| [ask(1, conn), ask(1, conn), ask(1, conn)]).collect();
            let (mut dropped, mut turns) = (0, Vec::new());
            for turn in &mut flood {
                match futures::poll!(turn.as_mut()) {
                    Poll::Ready(None) => dropped += 1,
                    Poll::Ready(Some(turn)) => turns.push(turn),
                    Poll::Pending => {}
                }
            }
            assert_eq!((turns.len(), dropped), (1, CONNS), "one at a time, and two of each wait");
            let mut honest = ask(2, 1000);
            let Poll::Ready(Some(turn)) = futures::poll!(honest.as_mut()) else { panic!("it waits") };
            drop((turn, turns, honest));
            let next = futures::future::select_all(flood.split_off(1)).await.0;
            assert!(next.is_some(), "the next one's turn comes");
        });
    }
}
