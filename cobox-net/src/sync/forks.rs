//! Logs that forked: proofs are told to everybody, and looked for where two chains do not fit.

use std::sync::Arc;

use cobox_store::error::Result;
use cobox_store::format::entry::LogHead;
use cobox_store::format::equivocation::{Equivocation, UnverifiedEquivocation};
use cobox_store::id::{FolderNo, LogId, hash};

use super::state::Doubt;
use super::{Conn, Engine, Output};
use crate::wire::{Frame, SessionId};

impl Engine {
    /// Reads which logs forked.
    pub(super) fn refresh_forks(&mut self, no: FolderNo) -> Result<()> {
        let branches = self.store.branches(no)?;
        let Some(folder) = self.folders.get_mut(&no) else { return Ok(()) };
        if *branches == *folder.branches {
            return Ok(());
        }
        folder.forks = self.store.proofs(no)?.iter().map(Equivocation::encode).collect();
        folder.branches = Arc::clone(&branches);
        for (conn, id) in folder.sessions.clone() {
            let Some(session) = self.session(conn, id) else { continue };
            session.doubts.clear();
            // What a peer holds beyond a fork it tells again by the names of the branches.
            for (log, seq) in &mut session.theirs {
                *seq = branches.limit(log).map_or(*seq, |limit| limit.min(*seq));
            }
        }
        Ok(())
    }

    /// Tells each proof once per session, before the heads of the branches that it begins.
    pub(super) fn tell_forks(&mut self, no: FolderNo) {
        let Some(folder) = self.folders.get(&no).filter(|folder| !folder.forks.is_empty()) else { return };
        let (forks, sessions) = (folder.forks.clone(), folder.sessions.clone());
        for (conn, id) in sessions {
            for proof in &forks {
                let Some(session) = self.session(conn, id).filter(|session| session.is_open()) else { break };
                if session.told_forks.insert(hash(proof)) {
                    self.send(conn, Frame::Equivocation { session: id, proof: proof.clone() });
                }
            }
        }
    }

    pub(super) fn on_equivocation(&mut self, conn: Conn, id: SessionId, bytes: &[u8]) {
        // A proof speaks for itself, also where the access log does not list who passes it on yet.
        let Some(no) = self.access_folder(conn, id) else { return };
        let Some(folder) = self.folders.get(&no) else { return };
        let known = folder.forks.iter().any(|known| known == bytes);
        let proof = match UnverifiedEquivocation::decode(bytes) {
            // What is known costs no check of a signature.
            Ok(_) if known => None,
            claimed => claimed.ok().and_then(|proof| proof.verify().ok()),
        };
        if proof.is_none() && !known {
            tracing::warn!(no = no.0, "a peer sent a proof that does not hold");
            self.out.push(Output::Close { conn });
            return;
        }
        let Some(proof) = proof else { return };
        match self.store.equivocation_add(no, &proof) {
            Ok(_) => {
                if let Some(session) = self.session(conn, id) {
                    session.told_forks.insert(hash(bytes));
                }
            }
            Err(error) => tracing::warn!(no = no.0, log = %proof.log(), %error, "a proof is not taken"),
        }
        self.mark(no);
    }

    /// What a peer holds that tells this head: a branch, and what it branches off. One that has not heard of a
    /// fork calls its branch by the log's name.
    pub(super) fn held_with(&self, no: FolderNo, head: &LogHead) -> Vec<(LogId, u64)> {
        let Some(folder) = self.folders.get(&no) else { return vec![(head.log, head.seq)] };
        let branches = &folder.branches;
        let limit = branches.limit(&head.log).filter(|limit| head.seq > *limit);
        let within = match limit {
            None => head.log,
            Some(limit) => match self.store.holder(no, head) {
                Ok(Some(within)) => within,
                _ => return vec![(head.log, limit)],
            },
        };
        let mut held = Vec::new();
        let mut seq = head.seq;
        for (id, from) in branches.line(within) {
            held.push((id, seq));
            seq = from - 1;
        }
        held
    }

    /// Asks for the entry behind a head that is not the one that is here under its number.
    pub(super) fn doubt_heads(&mut self, conn: Conn, id: SessionId, no: FolderNo, heads: &[LogHead]) {
        let Some(folder) = self.folders.get(&no) else { return };
        let doubted: Vec<LogHead> = heads
            .iter()
            .filter(|head| folder.branches.limit(&head.log).is_none_or(|limit| head.seq <= limit))
            .filter(|head| folder.heads.get(&head.log).is_some_and(|ours| head.seq <= ours.seq))
            .filter(|head| {
                let ours = self.store.entry_hash(no, head.log, head.seq).ok().flatten();
                ours.is_some_and(|ours| ours != head.hash)
            })
            .copied()
            .collect();
        for head in doubted {
            let origin = self.origin(no, &head.log);
            let Some(session) = self.session(conn, id) else { return };
            session.doubts.insert(origin, Doubt { asked_as: head.log, from: head.seq, step: 1 });
            self.send(conn, Frame::EntriesWant { session: id, log: head.log, from: head.seq });
        }
    }

    /// An entry follows none that is here: its log forked at an earlier one. Asks for entries from before it,
    /// each time twice as far back.
    pub(super) fn doubt_chain(&mut self, conn: Conn, id: SessionId, no: FolderNo, log: LogId, seq: u64) {
        let Some(folder) = self.folders.get(&no) else { return };
        let mut pulls = folder.pulls.iter().filter(|(_, pull)| (pull.conn, pull.session) == (conn, id));
        let pulled = pulls.find(|(asked, _)| folder.branches.origin(asked) == log).map(|(asked, _)| *asked);
        let Some(session) = self.session(conn, id).filter(|_| seq > 1) else { return };
        let doubt = match session.doubts.get(&log) {
            None => Doubt { asked_as: pulled.unwrap_or(log), from: seq - 1, step: 1 },
            Some(doubt) if doubt.from == seq => {
                Doubt { from: seq.saturating_sub(doubt.step * 2).max(1), step: doubt.step * 2, ..*doubt }
            }
            // Those before it were asked for and are on their way.
            Some(_) => return,
        };
        session.doubts.insert(log, doubt);
        self.send(conn, Frame::EntriesWant { session: id, log: doubt.asked_as, from: doubt.from });
    }

    /// The device's log of a log or branch.
    pub(super) fn origin(&self, no: FolderNo, log: &LogId) -> LogId {
        self.folders.get(&no).map_or(*log, |folder| folder.branches.origin(log))
    }
}
