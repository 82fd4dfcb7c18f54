//! Entries of logs: heads are told, entries are pulled in order, and small news is pushed at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cobox_store::blind::Added;
use cobox_store::error::Result;
use cobox_store::format::DEPS_MAX;
use cobox_store::format::entry::{LogHead, UnverifiedEntry};
use cobox_store::id::{FolderNo, LogId};

use super::state::{Folder, Lack, Pull};
use super::{Conn, Engine, FULL_WAIT, Identity};
use crate::status::PeerKind;
use crate::tally::Refusal;
use crate::wire::{Frame, SessionId};

/// An entry that is pushed without being asked for is at most this long: a cut of a few small files.
const PUSH_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of entries in one answer, so that an asker's memory and ours stay bounded.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Entries in one answer.
const ANSWER_ENTRIES_MAX: usize = 256;
/// A pull that brings nothing new for this long is given to another peer.
const PULL_WAIT: Duration = Duration::from_secs(10);
/// A pull that is older is given to another peer, whatever it brings: an answer of [`ANSWER_BYTES_MAX`] comes in
/// that time over 140 kbit/s, and over a slower line what came is kept and the rest asked for again.
const PULL_MAX: Duration = Duration::from_secs(60);
/// How long a log that a peer could not continue is not asked of it again.
const BAD_LOG_WAIT: Duration = Duration::from_secs(15);
/// A device tells devices what it lacks only if it still does after so long: most packs are there by then.
const LACK_WAIT: Duration = Duration::from_secs(1);
/// Logs of which that is remembered, of one peer: all that a folder may have, and branches of some.
const BAD_LOGS_MAX: usize = 4 * DEPS_MAX;
/// Missing packs read at once while they are counted.
const SURVEY_PAGE: usize = 1024;
/// A survey may take one part in ten of the time: it reads a missing pack in a few microseconds. Reckoned and not
/// measured, so that a history can be played again exactly.
const SURVEY_PAUSE_PER_PACK: Duration = Duration::from_micros(50);

impl Pull {
    fn is_late(&self, now: Instant) -> bool {
        now >= self.since + PULL_WAIT || now >= self.asked_at + PULL_MAX
    }
}

impl Engine {
    /// Reads what changed in the store.
    pub(super) fn refresh(&mut self, no: FolderNo, now: Instant) -> Result<()> {
        self.refresh_access(no)?;
        self.refresh_forks(no)?;
        let heads = self.store.log_heads(no)?;
        let Some(folder) = self.folders.get_mut(&no) else { return Ok(()) };
        folder.heads = heads.into_iter().map(|head| (head.log, head)).collect();
        if !folder.surveyed && now >= folder.next_survey {
            let (mut lack, mut after) = (Lack::default(), None);
            loop {
                let page = self.store.packs_missing(no, after, SURVEY_PAGE)?;
                lack.packs += page.len() as u64;
                lack.bytes += page.iter().map(|pack| pack.size).sum::<u64>();
                after = page.last().map(|pack| pack.id);
                if page.len() < SURVEY_PAGE {
                    break;
                }
            }
            lack.full = folder.full_until.is_some();
            folder.lack = lack;
            folder.surveyed = true;
            folder.next_survey = now + SURVEY_PAUSE_PER_PACK * u32::try_from(lack.packs).unwrap_or(u32::MAX);
        }
        Ok(())
    }

    /// Sends new entries at once to peers that hold everything before them.
    pub(super) fn push_entries(&mut self, no: FolderNo) {
        let Some(folder) = self.folders.get(&no) else { return };
        // Seeders pass on what they get. Devices push their own entries, and tell the heads of others': where
        // several are linked, each entry would come from all of them.
        let pushed = |log: &LogId| match &folder.identity {
            Identity::Seeder => true,
            Identity::Member { log: own, .. } => log == own,
        };
        let heads: Vec<LogHead> = folder.heads.values().filter(|head| pushed(&head.log)).copied().collect();
        for head in heads {
            let listeners = self.who_lacks_only(no, &head);
            if listeners.is_empty() {
                continue;
            }
            // A body may have to be made: not of what is too long, and once for all.
            let size = self.store.entry_header(no, head.log, head.seq).ok().flatten().map(|(_, bytes)| bytes);
            if size.is_none_or(|bytes| bytes > PUSH_BYTES_MAX) {
                continue;
            }
            let Ok(Some(entry)) = self.store.entry_bytes(no, head.log, head.seq) else { continue };
            for (conn, id) in listeners {
                if let Some(session) = self.session(conn, id) {
                    session.told.insert(head.log, head.seq);
                }
                self.send(conn, Frame::Entry { session: id, entry: entry.clone() });
            }
        }
    }

    /// Open sessions of peers that hold all of a log but its last entry, and were not told of that.
    fn who_lacks_only(&self, no: FolderNo, head: &LogHead) -> Vec<(Conn, SessionId)> {
        let Some(folder) = self.folders.get(&no) else { return Vec::new() };
        let lacks = |(conn, id): &(Conn, SessionId)| {
            let session = self.conns.get(conn).and_then(|conn| conn.sessions.get(id));
            session.is_some_and(|session| {
                let theirs = session.theirs.get(&head.log).copied().unwrap_or(0);
                let told = session.told.get(&head.log).copied().unwrap_or(0);
                // Only to peers that have told us their heads: `told_lack` is set when the session began.
                session.is_open()
                    && session.told_lack.is_some()
                    && told < head.seq
                    && theirs.checked_add(1) == Some(head.seq)
            })
        };
        folder.sessions.iter().copied().filter(lacks).collect()
    }

    /// Tells what we lack and what we hold, each head once per session. What we lack goes first, so that
    /// nobody takes us for caught up between the two.
    pub(super) fn announce(&mut self, no: FolderNo, now: Instant) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        if !folder.surveyed {
            return;
        }
        folder.lack.full = folder.full_until.is_some_and(|until| now < until);
        let quiet = Self::is_quiet(folder, now);
        let (lack, heads) = (folder.lack, folder.heads.values().copied().collect::<Vec<_>>());
        for (conn, id) in folder.sessions.clone() {
            let Some(session) = self.session(conn, id).filter(|session| session.is_open()) else { continue };
            let news: Vec<LogHead> = heads
                .iter()
                .filter(|head| session.told.get(&head.log).is_none_or(|told| *told < head.seq))
                .copied()
                .collect();
            let first = session.told_lack.is_none();
            let behind =
                session.told_lack != Some(lack) && (first || !quiet || session.kind != PeerKind::Member);
            if behind {
                session.told_lack = Some(lack);
            }
            session.told.extend(news.iter().map(|head| (head.log, head.seq)));
            if behind {
                let Lack { packs, bytes, full } = lack;
                self.send(conn, Frame::Behind { session: id, packs, bytes, full });
            }
            for heads in news.chunks(DEPS_MAX) {
                self.send(conn, Frame::LogHeads { session: id, heads: heads.to_vec() });
            }
            if first && news.is_empty() {
                self.send(conn, Frame::LogHeads { session: id, heads: Vec::new() });
            }
        }
    }

    /// Whether devices need not hear yet what this one lacks: it has only just begun to.
    fn is_quiet(folder: &mut Folder, now: Instant) -> bool {
        if folder.lack.packs == 0 || folder.lack.full || matches!(folder.identity, Identity::Seeder) {
            folder.tell_lack = None;
            return false;
        }
        let at = *folder.tell_lack.get_or_insert(now + LACK_WAIT);
        if now >= at {
            folder.tell_lack = Some(now + LACK_WAIT);
        }
        now < at
    }

    /// Also from who is not listed here yet: heads are told once, and the record that lists it may be on its
    /// way.
    pub(super) fn on_log_heads(&mut self, conn: Conn, id: SessionId, heads: &[LogHead]) {
        let Some(no) = self.access_folder(conn, id) else { return };
        // Each head is told once; again it costs a look here and nothing else.
        let mut news = Vec::new();
        for head in heads {
            let held = self.held_with(no, head);
            if self.note_held(conn, id, held) {
                news.push(*head);
            }
        }
        let Some(session) = self.session(conn, id) else { return };
        let first = !std::mem::replace(&mut session.told_heads, true);
        if self.open_folder(conn, id).is_some() {
            self.doubt_heads(conn, id, no, &news);
        }
        if first || !news.is_empty() {
            self.dirty.insert(no);
        }
    }

    /// Whether a peer holds more than was known.
    fn note_held(&mut self, conn: Conn, id: SessionId, held: Vec<(LogId, u64)>) -> bool {
        let Some(session) = self.session(conn, id) else { return false };
        let mut news = false;
        for (log, reached) in held {
            if session.theirs.len() < DEPS_MAX || session.theirs.contains_key(&log) {
                let seq = session.theirs.entry(log).or_default();
                news |= reached > *seq;
                *seq = reached.max(*seq);
            }
        }
        news
    }

    /// Asks for entries that a peer holds and we do not, each log from one peer at a time.
    pub(super) fn pull(&mut self, no: FolderNo, now: Instant) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        if folder.full_until.is_some_and(|until| now < until) {
            return;
        }
        // Who did not answer is not asked again at once: somebody else may.
        for (log, pull) in folder.pulls.iter().filter(|(_, pull)| pull.is_late(now)) {
            let session =
                self.conns.get_mut(&pull.conn).and_then(|conn| conn.sessions.get_mut(&pull.session));
            if let Some(session) = session {
                session.bad_logs.insert(*log, now + BAD_LOG_WAIT);
                session.waited += now.duration_since(pull.asked_at);
            }
        }
        folder.pulls.retain(|_, pull| !pull.is_late(now));
        folder.pull_again = None;
        let mut asks = Vec::new();
        // Those first who kept us waiting least, so that one who answers as slowly as it may costs no more time than
        // all others together.
        let open = folder.sessions.iter().filter_map(|(conn, id)| {
            let session = self.conns.get(conn)?.sessions.get(id)?;
            session.is_open().then_some((session.waited, *conn, *id))
        });
        let mut open: Vec<_> = open.collect();
        open.sort_unstable();
        for (_, conn, id) in &open {
            let session = self.conns.get(conn).and_then(|connection| connection.sessions.get(id));
            let Some(session) = session else { continue };
            for (log, seq) in &session.theirs {
                let ours = folder.heads.get(log).map_or(0, |head| head.seq);
                let seq = Self::coming(folder, log, *seq);
                let bad = session.bad_logs.get(log).copied().filter(|until| now < *until);
                if seq <= ours || folder.pulls.contains_key(log) {
                    continue;
                }
                if let Some(until) = bad {
                    let again = folder.pull_again.map_or(until, |at| at.min(until));
                    folder.pull_again = Some(again);
                } else {
                    let pull = Pull { conn: *conn, session: *id, from: ours + 1, since: now, asked_at: now };
                    folder.pulls.insert(*log, pull);
                    asks.push((*conn, Frame::EntriesWant { session: *id, log: *log, from: ours + 1 }));
                }
            }
        }
        for (conn, frame) in asks {
            self.send(conn, frame);
        }
    }

    pub(super) fn on_entries_want(&mut self, conn: Conn, id: SessionId, log: LogId, from: u64) {
        let Some(no) = self.open_folder(conn, id) else {
            // Who asks may know already that it is listed: it asks again, and need not wait till then.
            if self.access_folder(conn, id).is_some() {
                self.send(conn, Frame::EntriesEnd { session: id, log, next: from });
            }
            return;
        };
        let (mut next, mut sent) = (from, 0);
        for _ in 0..ANSWER_ENTRIES_MAX {
            let bytes = match self.store.entry_bytes(no, log, next) {
                Ok(Some(bytes)) if sent == 0 || sent + bytes.len() <= ANSWER_BYTES_MAX => bytes,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(no = no.0, %error, "an entry cannot be read");
                    break;
                }
            };
            sent += bytes.len();
            self.send(conn, Frame::Entry { session: id, entry: bytes });
            next += 1;
        }
        self.send(conn, Frame::EntriesEnd { session: id, log, next });
    }

    pub(super) fn on_entry(&mut self, conn: Conn, id: SessionId, bytes: &[u8], now: Instant) {
        let Some(no) = self.access_folder(conn, id) else { return };
        let entry = UnverifiedEntry::decode(bytes).ok().and_then(|entry| entry.verify().ok());
        let folder_id = self.folders.get(&no).map(|folder| folder.id);
        let Some(entry) = entry.filter(|entry| Some(entry.header().folder) == folder_id) else {
            tracing::warn!(no = no.0, "a peer sent an entry that is not genuine");
            self.tally.refuse(Refusal::Entry);
            self.out.push(super::Output::Close { conn });
            return;
        };
        let header = entry.header();
        let (device, seq) = (header.log, header.seq);
        let head = LogHead { log: device, seq, hash: header.hash() };
        if self.open_folder(conn, id).is_none() {
            // It is asked for once the access log lists who sent it.
            let held = self.held_with(no, &head);
            self.note_held(conn, id, held);
            return;
        }
        let added = self.store.entry_add(no, &entry);
        let held = self.held_with(no, &head);
        let log = held.first().map_or(device, |(log, _)| *log);
        if self.note_held(conn, id, held) {
            self.dirty.insert(no);
        }
        match added {
            Ok(Added::New) => {
                if let Some(folder) = self.folders.get_mut(&no) {
                    // Only what is new, and only from who was asked: else anybody could keep a pull waiting.
                    let asked = folder.pulls.iter_mut().filter(|(asked, pull)| {
                        let same = **asked == log || folder.branches.origin(asked) == device;
                        same && (pull.conn, pull.session) == (conn, id)
                    });
                    asked.for_each(|(_, pull)| pull.since = now);
                }
                if let Some(session) = self.session(conn, id) {
                    session.doubts.remove(&device);
                }
                self.mark(no);
            }
            Ok(Added::Known) => {}
            Err(error) => {
                self.entry_refused(conn, id, no, device, &error, now);
                self.dirty.insert(no);
            }
        }
    }

    fn entry_refused(
        &mut self,
        conn: Conn,
        id: SessionId,
        no: FolderNo,
        log: LogId,
        error: &cobox_store::Error,
        now: Instant,
    ) {
        use cobox_store::Error as E;
        match error {
            E::NoSpace | E::Quota { .. } | E::ReadOnlyDisk | E::Db(_) => {
                tracing::warn!(no = no.0, %error, "entries are not taken for now");
                self.tally.refuse(Refusal::Quota);
                self.set_full(no, now);
            }
            E::Premature => {
                let have =
                    self.folders.get(&no).map(|folder| folder.access.heads.clone()).unwrap_or_default();
                self.bad_log(conn, id, log, now + FULL_WAIT);
                self.send(conn, Frame::AccessWant { session: id, have });
            }
            // A pushed entry may run ahead of one that is being pulled; or the log has two branches.
            E::Chain { seq, .. } => self.doubt_chain(conn, id, no, log, *seq),
            _ => {
                tracing::warn!(no = no.0, %log, %error, "an entry is not taken");
                self.tally.refuse(Refusal::Entry);
                self.bad_log(conn, id, log, now + BAD_LOG_WAIT);
                // A branch is asked for by a name of its own, and not again at once.
                let asked = self.folders.get(&no).and_then(|folder| {
                    let mut pulls = folder.pulls.iter().filter(|(_, it)| (it.conn, it.session) == (conn, id));
                    pulls.find(|(asked, _)| folder.branches.origin(asked) == log).map(|(asked, _)| *asked)
                });
                if let Some(asked) = asked {
                    self.bad_log(conn, id, asked, now + BAD_LOG_WAIT);
                }
            }
        }
    }

    fn bad_log(&mut self, conn: Conn, id: SessionId, log: LogId, until: Instant) {
        if let Some(session) = self.session(conn, id) {
            // Anybody can make up logs; a folder has no more than these, and none is asked for that no head names.
            if session.bad_logs.len() >= BAD_LOGS_MAX && !session.bad_logs.contains_key(&log) {
                return;
            }
            let bad = session.bad_logs.entry(log).or_insert(until);
            *bad = until.max(*bad);
        }
    }

    pub(super) fn on_entries_end(&mut self, conn: Conn, id: SessionId, log: LogId, next: u64, now: Instant) {
        let Some(no) = self.open_folder(conn, id) else { return };
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let Some(pull) = folder.pulls.get(&log).filter(|pull| (pull.conn, pull.session) == (conn, id)) else {
            return;
        };
        let (from, asked_at, ours) = (pull.from, pull.asked_at, self.store.log_heads(no).ok());
        folder.pulls.remove(&log);
        if let Some(session) = self.session(conn, id) {
            session.waited += now.duration_since(asked_at);
        }
        let reached = ours.into_iter().flatten().find(|head| head.log == log).map_or(0, |head| head.seq);
        if next <= from || reached < from {
            // Nothing came, or nothing was taken: somebody else may know better.
            self.bad_log(conn, id, log, now + FULL_WAIT);
        } else {
            // What was asked for has come, and what follows is asked for at once.
            self.pressing.insert(no);
        }
        self.dirty.insert(no);
    }

    pub(super) fn set_full(&mut self, no: FolderNo, now: Instant) {
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.full_until = Some(now + FULL_WAIT);
        }
        self.dirty.insert(no);
    }

    /// The last entry of a log that may come from a peer that holds so many: a log whose device does not write any more
    /// has an end, and what lies beyond it is refused.
    pub(super) fn coming(folder: &Folder, log: &LogId, theirs: u64) -> u64 {
        let device = folder.branches.origin(log);
        let end = folder.access.ends.get(&device).filter(|_| !folder.access.may_write(&device));
        end.map_or(theirs, |end| theirs.min(end.seq))
    }

    /// Entries of ours beyond a peer's, and those of its that may come.
    pub(super) fn distance(
        folder: &Folder,
        heads: &BTreeMap<LogId, LogHead>,
        theirs: &BTreeMap<LogId, u64>,
    ) -> (u64, u64) {
        let behind = heads
            .values()
            .map(|head| head.seq.saturating_sub(theirs.get(&head.log).copied().unwrap_or(0)))
            .fold(0, u64::saturating_add);
        let ahead = theirs
            .iter()
            .map(|(log, seq)| {
                Self::coming(folder, log, *seq).saturating_sub(heads.get(log).map_or(0, |head| head.seq))
            })
            .fold(0, u64::saturating_add);
        (behind, ahead)
    }
}
