//! Which folder a peer's `Open` means, and what looking for it may cost.
//!
//! A peer calls a folder by a name that is bound to the session and made from a secret (`handshake.rs`), so that it
//! tells a stranger nothing. It is found by making the name of one folder after the other: with thousands of them that
//! costs a thousand times what the frame did. So a peer that opens many is met where it was found last, as both sides
//! have folders in much the same order; and names that are made in vain are bounded. Beyond that an `Open` waits in
//! line, those who are known beside those who are not, and of these each place in turn.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Instant;

use cobox_store::id::FolderNo;

use super::handshake::{Binding, Speaker};
use super::sessions::SECRETS_MAX;
use super::state::{Connection, Folder, Session};
use super::{Conn, Engine, HANDSHAKE_WAIT, Output, Place, Side};
use crate::peer_id::PeerId;
use crate::wire::{Frame, SessionId};

/// Names that are made in vain in one go: a quarter of a second's work.
const NAMES_MAX: u64 = 1 << 20;
/// And so many more each millisecond: an eighth of a core, or half of a small one. Reckoned and not measured, so that a
/// history can be played again exactly.
const NAMES_PER_MS: u64 = 524;
/// Names that a connection has made for nothing, to find folders that it did open: this, and two for each folder here.
const NAMES_FREE: u64 = 1024;
/// `Open`s of one connection that wait. What comes beyond is dropped, and its asker asks again.
const KNOCKS_MAX: usize = 1024;

/// An `Open` that waits.
struct Knock {
    conn: Conn,
    id: SessionId,
    blinded: [u8; 32],
    proof: [u8; 32],
    since: Instant,
}

/// Who waits in one line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Crowd {
    /// Somebody who has a folder open already, or whom we dialed.
    Peer(PeerId),
    /// All others who come from one place.
    Place(Place),
}

impl Crowd {
    fn of(connection: &Connection) -> Self {
        let known = connection.side == Side::Dialer || connection.sessions.values().any(Session::is_open);
        if known { Self::Peer(connection.peer) } else { Self::Place(connection.place) }
    }
}

/// Those who wait, and what was spent.
#[derive(Default)]
pub(super) struct Knocks {
    lines: BTreeMap<Crowd, VecDeque<Knock>>,
    last: Option<Crowd>,
    spent: u64,
    since: Option<Instant>,
}

impl Knocks {
    /// Whether names may be made in vain now.
    fn may(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        if ms > 0 {
            self.spent = self.spent.saturating_sub(ms.saturating_mul(NAMES_PER_MS));
            self.since = Some(now);
        }
        self.spent < NAMES_MAX
    }

    /// The next crowd's first.
    fn next(&mut self) -> Option<Knock> {
        let behind = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.lines.range((behind, Bound::Unbounded)).next().or_else(|| self.lines.iter().next());
        let crowd = *next?.0;
        self.last = Some(crowd);
        let line = self.lines.get_mut(&crowd)?;
        let knock = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&crowd);
        }
        knock
    }

    /// Forgets what a connection asked for.
    pub fn forget(&mut self, conn: Conn) {
        self.lines.retain(|_, line| {
            line.retain(|knock| knock.conn != conn);
            !line.is_empty()
        });
    }
}

impl Engine {
    pub(super) fn on_open(
        &mut self,
        conn: Conn,
        id: SessionId,
        blinded: [u8; 32],
        proof: [u8; 32],
        now: Instant,
    ) {
        let knock = Knock { conn, id, blinded, proof, since: now };
        if self.knocks.may(now) && self.knocks.lines.is_empty() {
            self.look_for(&knock, now);
            return;
        }
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if connection.knocks < KNOCKS_MAX {
            connection.knocks += 1;
            connection.used_at = now;
            let crowd = Crowd::of(connection);
            self.knocks.lines.entry(crowd).or_default().push_back(knock);
        }
    }

    /// Looks for the folders of those who wait, as far as that may be now.
    pub(super) fn answer_knocks(&mut self, now: Instant) {
        while !self.knocks.lines.is_empty() && self.knocks.may(now) {
            let Some(knock) = self.knocks.next() else { return };
            if let Some(connection) = self.conns.get_mut(&knock.conn) {
                connection.knocks = connection.knocks.saturating_sub(1);
            }
            // Who waited for so long has given it up.
            if now <= knock.since + HANDSHAKE_WAIT {
                self.look_for(&knock, now);
            }
        }
    }

    fn look_for(&mut self, knock: &Knock, now: Instant) {
        let Knock { conn, id, .. } = *knock;
        let Some(connection) = self.conns.get(&conn) else { return };
        let (side, taken) = (connection.side, connection.sessions.contains_key(&id));
        // The opener's numbers have its parity; anything else is a peer that does not follow the rules.
        if taken || id.0.is_multiple_of(2) != (side == Side::Listener) {
            self.out.push(Output::Close { conn });
            return;
        }
        let Some(binding) = self.binding(conn, id, Side::Listener) else { return };
        let (found, names) = self.find(connection.found, &binding, knock);
        self.work.names += names;
        let free = NAMES_FREE.saturating_add(2 * self.folders.len() as u64);
        let Some(connection) = self.conns.get_mut(&conn) else { return };
        if found.is_some() {
            connection.names = connection.names.saturating_add(names);
        }
        if found.is_none() || connection.names > free {
            self.knocks.spent = self.knocks.spent.saturating_add(names);
        }
        if let Some((no, secret_at)) = found {
            connection.found = Some(no);
            self.admit(conn, &binding, (no, secret_at), now);
        } else if self.token(conn, now) {
            self.send(conn, Frame::Refuse { session: id });
        } else {
            self.out.push(Output::Close { conn });
        }
    }

    /// The folder and the secret that a name was made from, and how many names were made to find it. The folder that
    /// was opened last is tried first, then those behind it, under their newest secrets before older ones.
    fn find(
        &self,
        last: Option<FolderNo>,
        binding: &Binding,
        knock: &Knock,
    ) -> (Option<(FolderNo, usize)>, u64) {
        let mut names = 0;
        let mut fits = |folder: &Folder, at: usize| {
            folder.secrets.get(at).is_some_and(|secret| {
                names += 1;
                binding.blinded(secret) == knock.blinded
                    && binding.proves(secret, Speaker::Opener, knock.proof)
            })
        };
        if let Some((no, folder)) = last.and_then(|no| Some((no, self.folders.get(&no)?)))
            && let Some(at) = (0..SECRETS_MAX).find(|at| fits(folder, *at))
        {
            return (Some((no, at)), names);
        }
        let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
        for at in 0..SECRETS_MAX {
            let behind = self.folders.range((behind, Bound::Unbounded));
            let before = last.map(|last| self.folders.range(..last)).into_iter().flatten();
            let found = behind.chain(before).find(|(_, folder)| fits(folder, at)).map(|(no, _)| *no);
            if let Some(no) = found {
                return (Some((no, at)), names);
            }
        }
        (None, names)
    }
}
