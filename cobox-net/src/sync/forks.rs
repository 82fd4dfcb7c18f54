//! Logs that forked: proofs are told to everybody, and looked for where two chains do not fit.

use cobox_store::error::Result;
use cobox_store::format::entry::LogHead;
use cobox_store::format::equivocation::UnverifiedEquivocation;
use cobox_store::id::{FolderNo, LogId};

use super::{Conn, Engine, Output};
use crate::wire::{Frame, SessionId};

impl Engine {
    /// Reads which logs are closed.
    pub(super) fn refresh_forks(&mut self, no: FolderNo) -> Result<()> {
        let forks = self.store.forks(no)?;
        if let Some(folder) = self.folders.get_mut(&no) {
            folder.forks = forks;
        }
        Ok(())
    }

    /// Tells each proof once per session, and again where an earlier fork of a log turned up.
    pub(super) fn tell_forks(&mut self, no: FolderNo) {
        let Some(folder) = self.folders.get(&no).filter(|folder| !folder.forks.is_empty()) else { return };
        let (forks, sessions) = (folder.forks.clone(), folder.sessions.clone());
        for (conn, id) in sessions {
            for (log, seq, proof) in &forks {
                let Some(session) = self.session(conn, id).filter(|session| session.is_open()) else { break };
                if session.told_forks.get(log).is_none_or(|told| told > seq) {
                    session.told_forks.insert(*log, *seq);
                    self.send(conn, Frame::Equivocation { session: id, proof: proof.clone() });
                }
            }
        }
    }

    pub(super) fn on_equivocation(&mut self, conn: Conn, id: SessionId, bytes: &[u8]) {
        // A proof speaks for itself, also where the access log does not list who passes it on yet.
        let Some(no) = self.access_folder(conn, id) else { return };
        let Some(folder) = self.folders.get(&no) else { return };
        let claimed = UnverifiedEquivocation::decode(bytes).ok();
        // What is known costs no check of a signature.
        if folder.forks.iter().any(|(_, _, known)| known == bytes) {
            return;
        }
        let Some(proof) = claimed.and_then(|proof| proof.verify().ok()) else {
            tracing::warn!(no = no.0, "a peer sent a proof that does not hold");
            self.out.push(Output::Close { conn });
            return;
        };
        if let Some(session) = self.session(conn, id) {
            session.told_forks.insert(proof.log(), proof.seq());
        }
        if let Err(error) = self.store.equivocation_add(no, &proof) {
            tracing::warn!(no = no.0, log = %proof.log(), %error, "a proof is not taken");
        }
        self.mark(no);
    }

    /// Asks for the entry behind a head that is not the one that is here under its number.
    pub(super) fn doubt_heads(&mut self, conn: Conn, id: SessionId, no: FolderNo, heads: &[LogHead]) {
        let Some(folder) = self.folders.get(&no) else { return };
        let closed =
            |log: &LogId, seq: u64| folder.forks.iter().any(|(known, at, _)| known == log && *at <= seq);
        let doubted: Vec<LogHead> = heads
            .iter()
            .filter(|head| !closed(&head.log, head.seq))
            .filter(|head| folder.heads.get(&head.log).is_some_and(|ours| head.seq <= ours.seq))
            .filter(|head| {
                let ours = self.store.entry_hash(no, head.log, head.seq).ok().flatten();
                ours.is_some_and(|ours| ours != head.hash)
            })
            .copied()
            .collect();
        for head in doubted {
            self.send(conn, Frame::EntriesWant { session: id, log: head.log, from: head.seq });
        }
    }

    /// An entry follows ours by its number and not by what it builds on: asks for the one before it.
    pub(super) fn doubt_chain(&mut self, conn: Conn, id: SessionId, no: FolderNo, log: LogId, seq: u64) {
        let ours = self.folders.get(&no).and_then(|folder| folder.heads.get(&log)).map(|head| head.seq);
        if seq > 1 && ours == Some(seq - 1) {
            self.send(conn, Frame::EntriesWant { session: id, log, from: seq - 1 });
        }
    }
}
