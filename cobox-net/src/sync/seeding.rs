//! What travels about a seeder itself: claims and commands of its admins, papers that it lays before a
//! folder's devices, and codes that it redeems.
//!
//! Claims and commands come from strangers as far as the connection knows, so here they are only counted and
//! passed on; whoever answers checks them. A paper is told to each device once a session, until the
//! seeder takes it back, which it does when the access log has it.

use std::time::Instant;

use cobox_store::blind::contracts::SeedState;
use cobox_store::format::agreement::Paper;
use cobox_store::format::invite::FOLDER_PREFIX_BYTES;
use cobox_store::format::seeding::SeedRequest;
use cobox_store::id::{FolderNo, InviteKey, hash};

use super::asks::{Ask, Failure, Reply};
use super::{Conn, Engine, Output};
use crate::status::PeerKind;
use crate::wire::{ClaimAnswer, Frame, QuestionId, SeedingFrame, SessionId};

/// Papers of one folder: an answer, an own proposal and a notice, and as many that were just replaced.
pub const PAPERS_MAX: usize = 8;
/// Requests of seeders that a folder remembers, for members that connect later.
const SEEDS_MAX: usize = 16;

/// A paper that came while its connection had no token left.
pub(super) struct LatePaper {
    conn: Conn,
    session: SessionId,
    paper: Vec<u8>,
}

/// What a peer wants of this node's owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ordered {
    /// To become an admin.
    Claim(Vec<u8>),
    /// To have something done.
    Command(Vec<u8>),
}

impl Engine {
    pub(super) fn on_seeding(&mut self, conn: Conn, frame: SeedingFrame, now: Instant) {
        match frame {
            SeedingFrame::Paper { session, paper } => self.on_paper(conn, session, &paper, now),
            SeedingFrame::Claim { question, claim } => {
                self.on_ordered(conn, question, Ordered::Claim(claim), now);
            }
            SeedingFrame::Command { question, command } => {
                self.on_ordered(conn, question, Ordered::Command(command), now);
            }
            SeedingFrame::Claimed { question, answer } => {
                let reply = match answer {
                    ClaimAnswer::Refused => Err(Failure::Refused),
                    taken @ ClaimAnswer::Taken { .. } => Ok(Reply::Claimed(taken)),
                };
                self.answered(conn, question, reply);
            }
            SeedingFrame::Obeyed { question, outcome, text } => {
                self.answered(conn, question, Ok(Reply::Obeyed { outcome, text }));
            }
            SeedingFrame::RedeemSeed { session, request } => {
                self.on_redeem_seed(conn, session, &request, now);
            }
            SeedingFrame::SeedAsked { session, request } => {
                self.on_seed_asked(conn, session, &request, now);
            }
        }
    }

    fn answered(&mut self, conn: Conn, question: QuestionId, reply: Result<Reply, Failure>) {
        let Some((pending, _)) = self.take_ask(conn, question) else { return };
        let reply = match (pending.asks(), &reply) {
            (Ask::Claim(_), Ok(Reply::Claimed(_)) | Err(Failure::Refused)) => reply,
            (Ask::Command(_), Ok(Reply::Obeyed { .. })) => reply,
            _ => Err(Failure::Protocol),
        };
        self.reply(pending.ticket(), reply);
    }

    fn on_ordered(&mut self, conn: Conn, question: QuestionId, ordered: Ordered, now: Instant) {
        if !self.token(conn, now) {
            return;
        }
        if let Some(peer) = self.conns.get(&conn).map(|connection| connection.peer) {
            self.out.push(Output::Ordered { conn, peer, question, ordered });
        }
    }

    fn on_paper(&mut self, conn: Conn, id: SessionId, paper: &[u8], now: Instant) {
        let open = self.open_folder(conn, id).is_some();
        let seeder = self.session(conn, id).is_some_and(|session| session.kind == PeerKind::Seeder);
        if !open || !seeder {
            return;
        }
        let is_of = |late: &LatePaper| (late.conn, late.session) == (conn, id);
        // What waits is heard first: a later word of the seeder's takes the place of an earlier one.
        let waiting = self.late_papers.iter().filter(|late| is_of(late)).count();
        if waiting == 0 && self.token(conn, now) {
            self.hear_paper(conn, id, paper);
            return;
        }
        if waiting >= PAPERS_MAX {
            let oldest = self.late_papers.iter().position(is_of);
            oldest.map(|oldest| self.late_papers.remove(oldest));
        }
        self.late_papers.push(LatePaper { conn, session: id, paper: paper.to_vec() });
    }

    /// Hears papers that wait, as far as their connections may be heard by now.
    pub(super) fn hear_late_papers(&mut self, now: Instant) {
        for late in std::mem::take(&mut self.late_papers) {
            let LatePaper { conn, session, paper } = &late;
            // Those of one connection stay in their order: while there is no token for one, there is none for the next.
            if self.open_folder(*conn, *session).is_none() {
                continue;
            }
            if self.token(*conn, now) {
                self.hear_paper(*conn, *session, paper);
            } else {
                self.late_papers.push(late);
            }
        }
    }

    fn hear_paper(&mut self, conn: Conn, id: SessionId, bytes: &[u8]) {
        let Some(no) = self.open_folder(conn, id) else { return };
        let Some(peer) = self.conns.get(&conn).map(|connection| connection.peer) else { return };
        let Some(folder) = self.folders.get(&no).map(|folder| folder.id) else { return };
        let about_us = |paper: &Paper| match paper {
            Paper::Signed(signed) => signed.terms.folder == folder && signed.terms.seeder == peer.to_bytes(),
            Paper::Ends(notice) => notice.folder == folder && notice.seeder == peer.to_bytes(),
            Paper::Declined(_) | Paper::Held(_) => true,
        };
        match Paper::decode(bytes).ok().filter(about_us) {
            Some(paper) => self.out.push(Output::Paper { no, peer, paper: Box::new(paper) }),
            None => tracing::warn!(no = no.0, "a seeder laid down a paper that does not hold"),
        }
    }

    /// Replaces what this seeder lays before a folder's devices.
    pub(super) fn papers(&mut self, no: FolderNo, mut papers: Vec<Vec<u8>>) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        papers.truncate(PAPERS_MAX);
        if folder.papers != papers {
            folder.papers = papers;
            self.dirty.insert(no);
        }
    }

    /// Tells each device what it was not told in its session.
    pub(super) fn tell_papers(&mut self, no: FolderNo) {
        let Some(folder) = self.folders.get(&no).filter(|folder| !folder.papers.is_empty()) else { return };
        let papers: Vec<([u8; 32], Vec<u8>)> =
            folder.papers.iter().map(|paper| (hash(paper), paper.clone())).collect();
        for (conn, id) in folder.sessions.clone() {
            let Some(session) = self.session(conn, id) else { continue };
            if !session.is_open() || session.kind != PeerKind::Member {
                continue;
            }
            let fresh: Vec<_> =
                papers.iter().filter(|(name, _)| !session.told_papers.contains(name)).cloned().collect();
            session.told_papers = papers.iter().map(|(name, _)| *name).collect();
            for (_, paper) in fresh {
                self.send(conn, Frame::Seeding(SeedingFrame::Paper { session: id, paper }));
            }
        }
    }

    /// A seeder has a code, and asks for a grant.
    fn on_redeem_seed(&mut self, conn: Conn, id: SessionId, bytes: &[u8], now: Instant) {
        let granted = self.token(conn, now);
        let Some(peer) = self.conns.get(&conn).map(|connection| connection.peer) else { return };
        // The connection proves that the seeder is who the code's key signed for.
        let request = SeedRequest::decode(bytes)
            .ok()
            .filter(|request| granted && request.seeder.peer_id == peer.to_bytes());
        let found = request.and_then(|request| Some((self.folder_of_code(&request)?, request)));
        let Some((no, request)) = found else {
            self.send(conn, Frame::Refuse { session: id });
            return;
        };
        match self.seed_state(no, request.code) {
            Some(SeedState::Open) => {
                self.send(conn, Frame::JoinWait { session: id });
                self.pass_seed_on(no, &request, bytes);
            }
            Some(SeedState::Used(peer_id)) if peer_id == request.seeder.peer_id => {
                self.send_log(conn, id, no);
            }
            _ => self.send(conn, Frame::Refuse { session: id }),
        }
    }

    fn folder_of_code(&self, request: &SeedRequest) -> Option<FolderNo> {
        let mut folders = self.folders.iter();
        let (no, _) = folders.find(|(_, folder)| {
            folder.id.0[..FOLDER_PREFIX_BYTES] == request.folder
                && folder.access.seed_codes.contains_key(&request.code)
        })?;
        Some(*no)
    }

    fn seed_state(&self, no: FolderNo, code: InviteKey) -> Option<SeedState> {
        Some(self.folders.get(&no)?.access.seed_codes.get(&code)?.1.clone())
    }

    fn pass_seed_on(&mut self, no: FolderNo, request: &SeedRequest, bytes: &[u8]) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        if folder.seeds.len() < SEEDS_MAX || folder.seeds.contains_key(&request.code) {
            folder.seeds.insert(request.code, bytes.to_vec());
        }
        self.out.push(Output::SeedAsked { no, request: Box::new(request.clone()) });
        let Some(folder) = self.folders.get(&no) else { return };
        for (conn, id) in folder.sessions.clone() {
            let member = self
                .session(conn, id)
                .is_some_and(|session| session.is_open() && session.kind == PeerKind::Member);
            if member {
                let request = bytes.to_vec();
                self.send(conn, Frame::Seeding(SeedingFrame::SeedAsked { session: id, request }));
            }
        }
    }

    /// Tells a member that has just connected which seeders wait for a grant.
    pub(super) fn tell_seeds(&mut self, conn: Conn, id: SessionId, no: FolderNo) {
        let Some(folder) = self.folders.get(&no) else { return };
        let waiting: Vec<Vec<u8>> = folder.seeds.values().cloned().collect();
        for request in waiting {
            self.send(conn, Frame::Seeding(SeedingFrame::SeedAsked { session: id, request }));
        }
    }

    fn on_seed_asked(&mut self, conn: Conn, id: SessionId, bytes: &[u8], now: Instant) {
        let Some(no) = self.open_folder(conn, id) else { return };
        let Ok(request) = SeedRequest::decode(bytes) else { return };
        if self.token(conn, now) && self.seed_state(no, request.code) == Some(SeedState::Open) {
            self.out.push(Output::SeedAsked { no, request: Box::new(request) });
        }
    }

    /// Forgets requests whose code is not open any more.
    pub(super) fn forget_seeds(&mut self, no: FolderNo) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let access = &folder.access;
        folder.seeds.retain(|code: &InviteKey, _| {
            access.seed_codes.get(code).is_some_and(|(_, state)| *state == SeedState::Open)
        });
    }
}
