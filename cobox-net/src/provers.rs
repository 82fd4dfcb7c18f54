//! Whose challenge is answered next. Called by `link.rs`.
//!
//! An answer lists a folder's packs and reads entries: the dearest question there is. One folder has one answer made at a
//! time and the node two, so that whoever asks without end keeps nobody waiting who asks about another folder, whose
//! copies would count as not proved. Of one folder persons take turns: a member that asks on all connections that it may
//! have is answered once, and then each of the others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_store::id::FolderNo;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::node::REQUEST_WAIT;
use crate::rotation::next_behind;
use crate::sync::Conn;
use crate::transfer::control::Outbox;
use crate::transfer::room::{Name, Party};

/// Answers that are made at once.
const ANSWERS_MAX: usize = 2;
/// Challenges of one connection about one folder that wait or are answered: an auditor has one under way, and one that it
/// gave up. What comes beyond is dropped, and its asker asks again.
const WAITING_MAX: usize = 2;

/// Turns to make answers.
pub struct Provers {
    node: Arc<Semaphore>,
    folders: Mutex<HashMap<FolderNo, Lane>>,
    /// Who asked gives up after so long, and an answer would be made in vain.
    patience: Duration,
}

/// One folder's.
#[derive(Default)]
struct Lane {
    asked: HashMap<Conn, usize>,
    busy: bool,
    /// Who waits, by person: each is handed the turn.
    lines: BTreeMap<Name, VecDeque<oneshot::Sender<FolderTurn>>>,
    last: Option<Name>,
}

impl Lane {
    /// The one who has waited longest, of the next person.
    fn next(&mut self) -> Option<oneshot::Sender<FolderTurn>> {
        let who = next_behind(&self.lines, &mut self.last)?;
        let line = self.lines.get_mut(&who)?;
        let first = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&who);
        }
        first
    }
}

impl Default for Provers {
    fn default() -> Self {
        Self {
            node: Arc::new(Semaphore::new(ANSWERS_MAX)),
            folders: Mutex::default(),
            patience: REQUEST_WAIT,
        }
    }
}

/// The right to make an answer, until it is dropped.
pub struct Turn {
    _node: OwnedSemaphorePermit,
    _folder: FolderTurn,
    _place: Place,
}

/// A folder's one answer; the next one has it when this is dropped.
struct FolderTurn {
    provers: Arc<Provers>,
    no: FolderNo,
    is_over: bool,
}

impl FolderTurn {
    /// Who has the turn next; nobody has it when nobody waits.
    fn next(&self) -> Option<oneshot::Sender<Self>> {
        let mut folders = self.provers.folders.lock();
        let lane = folders.get_mut(&self.no)?;
        let next = lane.next();
        if next.is_none() {
            lane.busy = false;
            if lane.asked.is_empty() {
                folders.remove(&self.no);
            }
        }
        next
    }
}

impl Drop for FolderTurn {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        while let Some(next) = self.next() {
            let turn = Self { provers: Arc::clone(&self.provers), no: self.no, is_over: false };
            match next.send(turn) {
                Ok(()) => return,
                // Who waited has gone: it is the next one's.
                Err(mut turn) => turn.is_over = true,
            }
        }
    }
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
        if let Some(asked) = lane.asked.get_mut(&self.conn) {
            *asked -= 1;
            if *asked == 0 {
                lane.asked.remove(&self.conn);
            }
        }
        if lane.asked.is_empty() && !lane.busy {
            folders.remove(&self.no);
        }
    }
}

impl Provers {
    /// Waits for a turn. Who does not read what it asked for gets none, and holds nobody up meanwhile; nor does who has
    /// gone, asks for more than it may, or has given up by the time that its turn comes.
    pub async fn turn(self: &Arc<Self>, party: Party, conn: Conn, outbox: &Outbox) -> Option<Turn> {
        let (place, asked_at) = (self.enter(party.folder, conn)?, Instant::now());
        loop {
            outbox.low().await;
            if outbox.is_closed() {
                return None;
            }
            let folder = match self.line_up(party) {
                Ok(turn) => turn,
                Err(waiting) => waiting.await.ok()?,
            };
            let node = Arc::clone(&self.node).acquire_owned().await.ok()?;
            if asked_at.elapsed() > self.patience {
                return None;
            }
            if outbox.is_low() {
                return Some(Turn { _node: node, _folder: folder, _place: place });
            }
        }
    }

    fn enter(self: &Arc<Self>, no: FolderNo, conn: Conn) -> Option<Place> {
        let mut folders = self.folders.lock();
        let asked = folders.entry(no).or_default().asked.entry(conn).or_default();
        if *asked >= WAITING_MAX {
            return None;
        }
        *asked += 1;
        Some(Place { provers: Arc::clone(self), no, conn })
    }

    /// The folder's turn, or what will bring it.
    fn line_up(self: &Arc<Self>, party: Party) -> Result<FolderTurn, oneshot::Receiver<FolderTurn>> {
        let mut folders = self.folders.lock();
        let lane = folders.entry(party.folder).or_default();
        if !std::mem::replace(&mut lane.busy, true) {
            return Ok(FolderTurn { provers: Arc::clone(self), no: party.folder, is_over: false });
        }
        let (sender, waiting) = oneshot::channel();
        lane.lines.entry(party.who).or_default().push_back(sender);
        Err(waiting)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use cobox_store::id::{FolderId, FolderNo, MemberId};

    use super::*;
    use crate::transfer::control::{Reader, outbox};
    use crate::wire::{Frame, SessionId};

    /// Answers that the peer does not read.
    fn fill(outbox: &Outbox) {
        while outbox.is_low() {
            outbox
                .send(
                    &Frame::Recover {
                        session: SessionId(2),
                        folder: FolderId([1; 32]),
                        member: MemberId([2; 32]),
                        signature: [3; 64],
                    },
                    Reader::Member,
                )
                .expect("there is room for more than is read");
        }
    }

    fn party(folder: u32, who: u8) -> Party {
        Party { folder: FolderNo(folder), who: Name([who; 32]) }
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
                let turn = provers.turn(party(1, 1), Conn(1), &outbox);
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
                Box::pin(async move { provers.turn(party(no, 1), Conn(conn), outbox).await })
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
    #[test]
    fn member_that_asks_on_many_connections_is_answered_once_between_the_others() {
        const CONNS: u64 = 100;
        run(async {
            let (outbox, _end) = outbox();
            let provers = Arc::new(Provers::default());
            let ask = |who, conn| {
                let (provers, outbox) = (&provers, &outbox);
                Box::pin(async move {
                    provers.turn(party(1, who), Conn(conn), outbox).await.map(|turn| (who, turn))
                })
            };
            let greedy = (0..CONNS).flat_map(|conn| [ask(9, conn), ask(9, conn)]);
            let mut asked: Vec<_> =
                greedy.chain((1..=8).map(|who| ask(who, 1000 + u64::from(who)))).collect();
            let (mut order, mut turn) = (Vec::new(), None);
            while order.len() < 20 {
                drop(turn.take());
                let mut next = None;
                for (at, one) in asked.iter_mut().enumerate() {
                    if let Poll::Ready(ready) = futures::poll!(one.as_mut()) {
                        next = Some((at, ready.expect("nobody has given up")));
                    }
                }
                let (at, (who, has)) = next.expect("it is somebody's turn");
                drop(asked.swap_remove(at));
                order.push(who);
                turn = Some(has);
            }
            let honest = order.iter().take(10).filter(|who| **who != 9).count();
            assert_eq!(
                honest, 8,
                "eight audits at one moment are all answered among the first ten: {order:?}"
            );
        });
    }

    #[test]
    fn who_has_given_up_or_gone_hands_its_turn_on() {
        run(async {
            let (outbox, _end) = outbox();
            let provers = Arc::new(Provers::default());
            let ask = |who| {
                let (provers, outbox) = (&provers, &outbox);
                Box::pin(async move { provers.turn(party(1, who), Conn(u64::from(who)), outbox).await })
            };
            let (mut first, mut gone, mut late, mut last) = (ask(1), ask(2), ask(3), ask(4));
            let Poll::Ready(Some(turn)) = futures::poll!(first.as_mut()) else { panic!("it waits") };
            for one in [&mut gone, &mut late, &mut last] {
                assert!(futures::poll!(one.as_mut()).is_pending());
            }
            drop((turn, first));
            // It was handed the turn, and has not looked.
            drop(gone);
            drop(late);
            assert!(matches!(futures::poll!(last.as_mut()), Poll::Ready(Some(_))), "the turn was lost");
            drop(last);
            assert!(provers.folders.lock().is_empty(), "it is remembered");
            let hasty = Arc::new(Provers { patience: Duration::ZERO, ..Provers::default() });
            assert!(
                hasty.turn(party(1, 1), Conn(1), &outbox).await.is_none(),
                "nobody waits for this answer"
            );
            assert!(hasty.folders.lock().is_empty());
        });
    }
}
