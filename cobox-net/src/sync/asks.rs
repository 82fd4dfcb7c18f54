//! Questions that somebody here asks of a peer: audits, locators, recovery. Each waits until the peer can
//! be asked, and ends with one reply.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cobox_store::blind::locators::Leaver;
use cobox_store::blind::owners::Outcome;
use cobox_store::blind::receipts::EntriesProof;
use cobox_store::format::HEADS_MAX;
use cobox_store::format::access::{Record, UnverifiedRecord};
use cobox_store::format::entry::LogHead;
use cobox_store::format::invite::JoinRequest;
use cobox_store::format::locator::{Locator, UnverifiedLocator};
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::{Challenge, LeafProof};
use cobox_store::format::receipt::{Receipt, UnverifiedReceipt, live_set_digest};
use cobox_store::format::seeding::SeedRequest;
use cobox_store::id::{FolderId, FolderNo, LocatorId, LogId, PackId, RecordHash};

use super::handshake::{Binding, Speaker};
use super::state::Connection;
use super::{Conn, Engine, Output};
use crate::node::{RecoverySigner, Signer};
use crate::peer_id::PeerId;
use crate::wire::{ClaimAnswer, Frame, LocatorAnswer, Part, QuestionId, SeedingFrame, SessionId};

/// Records that a recovery may bring: far above any folder, below what fills memory.
const RECOVERED_RECORDS_MAX: usize = 65_536;

/// After so long without an answer a question is sent once more: a peer that has much to do drops some without a word.
const AGAIN: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Clone)]
pub enum Ask {
    /// Prove that you hold the folder's live packs.
    Audit { no: FolderNo, entropy: [u8; 32] },
    /// Keep this locator.
    LocatorPut(Vec<u8>),
    /// Give me this locator.
    LocatorGet(LocatorId),
    /// Give me this folder's access log.
    Recover { folder: FolderId, signer: RecoverySigner },
    /// Let this device in; the signer is the invite's key.
    Redeem { request: Box<JoinRequest>, signer: Signer },
    /// Grant us the folder of this code.
    RedeemSeed(Box<SeedRequest>),
    /// Let this device command you.
    Claim(Vec<u8>),
    /// Do this.
    Command(Vec<u8>),
}

/// The good end of an [`Ask`].
#[derive(Debug)]
pub enum Reply {
    /// Of an audit: verified and stored.
    Receipt(Box<Receipt>),
    /// The request was passed on, and no admin has answered yet.
    Waiting,
    /// The locator is kept.
    Stored,
    /// The locator, verified, if the peer has one.
    Locator(Option<Box<Locator>>),
    /// The access log, parents before children, signatures verified.
    Records(Vec<Record>),
    /// This device commands the peer.
    Claimed(ClaimAnswer),
    /// What came of a command.
    Obeyed { outcome: Outcome, text: String },
}

/// The bad end of an [`Ask`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// There was no session in time.
    NotReached,
    /// The connection ended.
    Gone,
    /// The peer said no.
    Refused,
    /// The answer is not well formed.
    Protocol,
    /// No valid proof of this pack.
    NotProved(PackId),
    /// Of the entries that the peer says it has, it could not prove all.
    EntriesNotProved,
    /// The receipt does not fit.
    WrongReceipt,
    /// The store failed.
    Store,
}

/// A question on its way.
pub struct Pending {
    ticket: u64,
    peer: PeerId,
    ask: Ask,
    deadline: Instant,
    asked: Option<Asked>,
}

pub(super) struct Asked {
    conn: Conn,
    question: QuestionId,
    session: SessionId,
    /// What was sent, and when last, where it costs the peer little to hear it twice; it answers both the same.
    sent: Option<(Frame, Instant)>,
    challenge: Option<(Challenge, EntriesProof)>,
    /// The access log's heads when it was asked, where the peer told the same.
    access: Option<Vec<RecordHash>>,
    proofs: BTreeMap<usize, Option<LeafProof>>,
    records: Vec<Record>,
}

impl Pending {
    pub(super) fn conn(&self) -> Option<Conn> {
        self.asked.as_ref().map(|asked| asked.conn)
    }

    pub(super) fn asks(&self) -> &Ask {
        &self.ask
    }

    pub(super) fn ticket(&self) -> u64 {
        self.ticket
    }
}

impl Engine {
    pub(super) fn ask(
        &mut self,
        ticket: u64,
        peer: PeerId,
        addresses: Vec<Vec<u8>>,
        ask: Ask,
        deadline: Instant,
    ) {
        if !addresses.is_empty() {
            self.dialer.once(peer, addresses, deadline);
        }
        self.asks.push(Pending { ticket, peer, ask, deadline, asked: None });
    }

    /// Sends questions whose peer can be asked now, and ends those that are too late.
    pub(super) fn try_asks(&mut self, now: Instant) {
        if self.asks.is_empty() {
            return;
        }
        for (peer, addresses) in self.dialer.due(now) {
            self.out.push(Output::Dial { peer, addresses });
        }
        for mut pending in std::mem::take(&mut self.asks) {
            if now >= pending.deadline {
                self.reply(pending.ticket, Err(Failure::NotReached));
                continue;
            }
            if let Some(asked) = &mut pending.asked {
                self.send_again(asked, now);
            } else {
                match self.put_question(&pending, now) {
                    Ok(asked) => pending.asked = asked,
                    Err(failure) => {
                        self.reply(pending.ticket, Err(failure));
                        continue;
                    }
                }
            }
            self.asks.push(pending);
        }
    }

    fn send_again(&mut self, asked: &mut Asked, now: Instant) {
        if let Some((frame, last)) = asked.sent.as_mut().filter(|(_, last)| now >= *last + AGAIN) {
            *last = now;
            let frame = frame.clone();
            self.send(asked.conn, frame);
        }
    }

    pub(super) fn reply(&mut self, ticket: u64, reply: Result<Reply, Failure>) {
        self.out.push(Output::Reply { ticket, reply });
    }

    /// Where a question can be asked now: on a connection, or in a session of it.
    fn place_for(&self, pending: &Pending) -> Option<(Conn, SessionId)> {
        let needs = match &pending.ask {
            Ask::Audit { no, .. } => Some(Some(*no)),
            Ask::LocatorPut(_) => Some(None),
            _ => None,
        };
        self.conns.iter().find_map(|(conn, connection)| {
            if connection.peer != pending.peer || connection.their_nonce.is_none() || connection.ends {
                return None;
            }
            let Some(wanted) = needs else { return Some((*conn, SessionId(0))) };
            let mut open = connection.sessions.iter().filter(|(_, session)| session.is_open());
            open.find(|(_, session)| wanted.is_none_or(|no| session.no == no)).map(|(id, _)| (*conn, *id))
        })
    }

    /// Sends the question if the peer is there; `None` to try again later.
    fn put_question(&mut self, pending: &Pending, now: Instant) -> Result<Option<Asked>, Failure> {
        let Some((conn, session)) = self.place_for(pending) else { return Ok(None) };
        let Some(connection) = self.conns.get_mut(&conn) else { return Ok(None) };
        let question = QuestionId(connection.next_question);
        connection.next_question = connection.next_question.wrapping_add(1);
        let mut asked = Asked {
            conn,
            question,
            session,
            sent: None,
            challenge: None,
            access: None,
            proofs: BTreeMap::new(),
            records: Vec::new(),
        };
        let frame = match &pending.ask {
            Ask::Audit { no, entropy } => {
                // Of what it said it has: that it lacks what is newer shows in the receipt's heads.
                let theirs = connection.sessions.get(&session).map(|session| session.theirs.clone());
                let mut heads = self.store.log_heads(*no).map_err(|_| Failure::Store)?;
                for head in &mut heads {
                    let said = theirs.as_ref().and_then(|theirs| theirs.get(&head.log).copied());
                    head.seq = head.seq.min(said.unwrap_or(0));
                }
                let mut challenge = Challenge::draw(&self.live(*no)?, &heads, entropy);
                let honest = self.store.challenge_entries(*no, &mut challenge).map_err(|_| Failure::Store)?;
                asked.challenge = Some((challenge.clone(), honest));
                asked.access = self.agreed_access(*no, conn, session);
                Frame::Challenge { session, question, challenge }
            }
            Ask::LocatorPut(locator) => Frame::LocatorPut { question, locator: locator.clone() },
            Ask::LocatorGet(id) => Frame::LocatorGet { question, id: *id },
            Ask::Redeem { request, signer } => {
                let Some(binding) = restricted(connection, self.me) else { return Ok(None) };
                asked.session = binding.session;
                let folder = request.padded_folder();
                let transcript = binding.transcript(folder, Speaker::Redeemer, &request.invite().0);
                let signature = signer(&transcript);
                Frame::Redeem { session: binding.session, signature, request: request.encode() }
            }
            Ask::RedeemSeed(request) => {
                let Some(binding) = restricted(connection, self.me) else { return Ok(None) };
                asked.session = binding.session;
                let request = request.encode();
                Frame::Seeding(SeedingFrame::RedeemSeed { session: binding.session, request })
            }
            Ask::Claim(claim) => Frame::Seeding(SeedingFrame::Claim { question, claim: claim.clone() }),
            Ask::Command(command) => {
                Frame::Seeding(SeedingFrame::Command { question, command: command.clone() })
            }
            Ask::Recover { folder, signer } => {
                let Some(binding) = restricted(connection, self.me) else { return Ok(None) };
                let id = binding.session;
                asked.session = id;
                let member = signer.member;
                let signature = (signer.sign)(&binding.transcript(*folder, Speaker::Recoverer, &member.0));
                Frame::Recover { session: id, folder: *folder, member, signature }
            }
        };
        // What makes the peer read much, or say much, is asked once.
        let short = !matches!(frame, Frame::Challenge { .. } | Frame::Recover { .. });
        asked.sent = short.then(|| (frame.clone(), now));
        self.send(conn, frame);
        Ok(Some(asked))
    }

    fn live(&self, no: FolderNo) -> Result<Vec<PackRef>, Failure> {
        let mut live = Vec::new();
        self.store.packs_live(no, &mut |pack, _| live.push(pack)).map_err(|_| Failure::Store)?;
        live.sort_unstable();
        live.dedup();
        Ok(live)
    }

    /// Questions on a connection that ends, or has ended, are asked on another one: a peer answers each as often as it is
    /// asked, and does nothing twice.
    pub(super) fn asks_lost(&mut self, conn: Conn) {
        self.ask_anew(|asked| asked.conn == conn);
    }

    /// The same of a session that is open no more.
    pub(super) fn asks_left(&mut self, conn: Conn, id: SessionId) {
        self.ask_anew(|asked| (asked.conn, asked.session) == (conn, id));
    }

    fn ask_anew(&mut self, is_lost: impl Fn(&Asked) -> bool) {
        for pending in &mut self.asks {
            pending.asked.take_if(|asked| is_lost(asked));
        }
    }

    /// A connection ends: nothing is asked on it any more.
    pub(super) fn ending(&mut self, conn: Conn) {
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.ends = true;
            self.asks_lost(conn);
        }
    }

    pub(super) fn take_ask(&mut self, conn: Conn, question: QuestionId) -> Option<(Pending, Asked)> {
        let at = self.asks.iter().position(|pending| {
            pending.asked.as_ref().is_some_and(|asked| asked.conn == conn && asked.question == question)
        })?;
        let mut pending = self.asks.swap_remove(at);
        let asked = pending.asked.take()?;
        Some((pending, asked))
    }

    /// The pending recovery of a restricted session.
    fn recovery_at(&self, conn: Conn, id: SessionId) -> Option<usize> {
        self.asks.iter().position(|pending| {
            matches!(pending.ask, Ask::Recover { .. } | Ask::Redeem { .. } | Ask::RedeemSeed(_))
                && pending.asked.as_ref().is_some_and(|asked| asked.conn == conn && asked.session == id)
        })
    }

    pub(super) fn recovery_refused(&mut self, conn: Conn, id: SessionId) -> bool {
        let Some(at) = self.recovery_at(conn, id) else { return false };
        let pending = self.asks.swap_remove(at);
        self.reply(pending.ticket, Err(Failure::Refused));
        true
    }

    /// The peer passed our request on.
    pub(super) fn on_join_wait(&mut self, conn: Conn, id: SessionId) {
        let Some(at) = self.recovery_at(conn, id) else { return };
        let pending = self.asks.swap_remove(at);
        self.reply(pending.ticket, Ok(Reply::Waiting));
    }

    /// Collects the access log of a recovery; `false` when the records belong to a usual session.
    pub(super) fn recovery_records(
        &mut self,
        conn: Conn,
        id: SessionId,
        part: Part,
        records: &[Vec<u8>],
    ) -> bool {
        let Some(at) = self.recovery_at(conn, id) else { return false };
        let mut failed = false;
        if let Some(asked) = self.asks[at].asked.as_mut() {
            for bytes in records {
                match UnverifiedRecord::decode(bytes).ok().and_then(|record| record.verify().ok()) {
                    Some(record) if asked.records.len() < RECOVERED_RECORDS_MAX => asked.records.push(record),
                    _ => failed = true,
                }
            }
        }
        if failed || part == Part::Last {
            let mut pending = self.asks.swap_remove(at);
            let records = pending.asked.take().map(|asked| asked.records).unwrap_or_default();
            let right_folder = match (&pending.ask, records.first()) {
                (Ask::Recover { folder, .. }, Some(first)) => {
                    records.iter().all(|record| record.folder() == *folder)
                        && first.content().parents.is_empty()
                }
                (Ask::RedeemSeed(request), Some(first)) => {
                    records.iter().all(|record| record.folder() == first.folder())
                        && first.folder().0.starts_with(&request.folder)
                        && first.content().parents.is_empty()
                }
                (Ask::Redeem { request, .. }, Some(first)) => {
                    records.iter().all(|record| record.folder() == first.folder())
                        && first.folder().0.starts_with(&request.folder)
                        && first.content().parents.is_empty()
                }
                _ => false,
            };
            let reply =
                if failed || !right_folder { Err(Failure::Protocol) } else { Ok(Reply::Records(records)) };
            self.reply(pending.ticket, reply);
        }
        true
    }

    /// Frames that ask or answer.
    pub(super) fn on_question(&mut self, conn: Conn, frame: Frame, now: Instant) {
        match frame {
            Frame::Challenge { session, question, challenge } => {
                if let Some(no) = self.open_folder(conn, session)
                    && self.token(conn, now)
                {
                    self.out.push(Output::Prove { conn, session, no, question, challenge });
                }
            }
            Frame::Proofs { question, first, proofs, .. } => {
                let asked = self.asks.iter_mut().filter_map(|pending| pending.asked.as_mut());
                for asked in asked.filter(|asked| asked.conn == conn && asked.question == question) {
                    asked.proofs.extend((usize::from(first)..).zip(proofs.iter().cloned()));
                }
            }
            Frame::Receipt { question, receipt, .. } => {
                if let Some((pending, asked)) = self.take_ask(conn, question) {
                    let reply = self.check_receipt(&pending, &asked, &receipt);
                    if matches!(
                        reply,
                        Err(Failure::NotProved(_) | Failure::EntriesNotProved | Failure::WrongReceipt)
                    ) {
                        self.disprove(&pending);
                    }
                    self.reply(pending.ticket, reply);
                }
            }
            Frame::LocatorPut { question, locator } => {
                let granted = self.token(conn, now);
                let answer = if granted { self.keep_locator(conn, &locator) } else { LocatorAnswer::Refused };
                self.send(conn, Frame::Locator { question, answer });
            }
            Frame::LocatorGet { question, id } => {
                let found = if self.token(conn, now) { self.store.locator(id).ok().flatten() } else { None };
                let answer = found.map_or(LocatorAnswer::None, |found| LocatorAnswer::Found(found.encode()));
                self.send(conn, Frame::Locator { question, answer });
            }
            Frame::Locator { question, answer } => {
                if let Some((pending, _)) = self.take_ask(conn, question) {
                    let reply = locator_reply(&pending.ask, answer);
                    self.reply(pending.ticket, reply);
                }
            }
            _ => {}
        }
    }

    /// Keeps a locator for a member that has a folder open here.
    fn keep_locator(&self, conn: Conn, bytes: &[u8]) -> LocatorAnswer {
        let Some(leaver) = self.leaver(conn) else { return LocatorAnswer::Refused };
        let locator = UnverifiedLocator::decode(bytes).ok().and_then(|locator| locator.verify().ok());
        match locator.map(|locator| self.store.locator_put(leaver, &locator)) {
            Some(Ok(_)) => LocatorAnswer::Stored,
            _ => LocatorAnswer::Refused,
        }
    }

    /// Whose a connection is, by the device that proved itself in the first of its folders: the same one each time, so
    /// that a member has one share.
    fn leaver(&self, conn: Conn) -> Option<Leaver> {
        let sessions = self.conns.get(&conn)?.sessions.values().filter(|session| session.is_open());
        let mut proved: Vec<(FolderNo, LogId)> =
            sessions.filter_map(|session| Some((session.no, session.log?))).collect();
        proved.sort_unstable();
        proved.into_iter().find_map(|(no, log)| {
            let access = self.store.access(no).ok()?;
            Some(Leaver { folder: access.folder, member: access.devices.get(&log)?.member })
        })
    }

    /// Checks every proof, the receipt's signature and that it fits the question; then stores it.
    fn check_receipt(&self, pending: &Pending, asked: &Asked, bytes: &[u8]) -> Result<Reply, Failure> {
        let (Ask::Audit { no, .. }, Some((challenge, honest))) = (&pending.ask, &asked.challenge) else {
            return Err(Failure::Protocol);
        };
        for (at, sample) in challenge.samples.iter().enumerate() {
            let proof = asked.proofs.get(&at).and_then(Option::as_ref);
            if !proof.is_some_and(|proof| proof.proves(sample.pack, sample.leaf)) {
                return Err(Failure::NotProved(sample.pack.id));
            }
        }
        let receipt = UnverifiedReceipt::decode(bytes).map_err(|_| Failure::Protocol)?;
        let receipt = receipt.verify().map_err(|_| Failure::WrongReceipt)?;
        let folder = self.folders.get(no).ok_or(Failure::Store)?;
        let fits = receipt.folder == folder.id
            && receipt.seeder == pending.peer.to_bytes()
            && receipt.nonce == challenge.nonce
            && usize::from(receipt.samples_asked) == challenge.samples.len()
            && receipt.samples_proved == receipt.samples_asked
            && usize::from(receipt.entries_asked) == challenge.entries.len();
        if !fits {
            return Err(Failure::WrongReceipt);
        }
        if (receipt.entries_proved, receipt.entries_digest) != (honest.proved, honest.digest) {
            return Err(Failure::EntriesNotProved);
        }
        // Where both hold the same entries and know the same releases, the live set is the same, and so must be its
        // digest. One over other releases proves nothing of what is live here, and is no lie.
        let heads: Vec<LogHead> = self.store.log_heads(*no).map_err(|_| Failure::Store)?;
        let access = self.agreed_access(*no, asked.conn, asked.session);
        if heads == receipt.heads && access.is_some() && access == asked.access {
            let live = self.live(*no)?;
            if receipt.packs_lacking == 0
                && receipt.live_set_digest != live_set_digest(live.iter().map(|pack| &pack.id))
            {
                return Err(Failure::WrongReceipt);
            }
        }
        // Heads that nobody here has seen could be made up, and would then cover what is written later.
        if self.are_known(*no, &receipt.heads, &heads) {
            self.store.receipt_put(*no, &receipt).map_err(|_| Failure::Store)?;
        }
        Ok(Reply::Receipt(Box::new(receipt)))
    }

    /// The heads of the access log here, where a peer told the same ones last.
    fn agreed_access(&self, no: FolderNo, conn: Conn, id: SessionId) -> Option<Vec<RecordHash>> {
        let said = self.conns.get(&conn)?.sessions.get(&id)?.said_access.as_ref()?;
        let access = self.store.access(no).ok()?;
        access.heads.iter().take(HEADS_MAX).eq(said).then(|| said.clone())
    }

    /// Whether each of `claimed` is an entry that is here.
    fn are_known(&self, no: FolderNo, claimed: &[LogHead], ours: &[LogHead]) -> bool {
        claimed.iter().all(|head| {
            ours.contains(head)
                || matches!(self.store.entry(no, head.log, head.seq),
                    Ok(Some(entry)) if entry.header().hash() == head.hash)
        })
    }

    /// Drops a kept receipt that says a peer holds everything there is now: it was just shown that it
    /// does not. One over older entries stays, as it may only be behind.
    fn disprove(&self, pending: &Pending) {
        let Ask::Audit { no, .. } = &pending.ask else { return };
        let (Ok(receipts), Ok(heads)) = (self.store.receipts(*no), self.store.log_heads(*no)) else { return };
        let seeder = pending.peer.to_bytes();
        let claims = receipts
            .iter()
            .map(|kept| &kept.receipt)
            .any(|kept| kept.seeder == seeder && heads.iter().all(|head| kept.heads.contains(head)));
        if claims && let Err(error) = self.store.receipt_forget(*no, &seeder) {
            tracing::warn!(no = no.0, %error, "a receipt that no longer holds was not dropped");
        }
    }
}

/// A session of our own on this connection that opens with a key and no swarm secret.
fn restricted(connection: &mut Connection, me: PeerId) -> Option<Binding> {
    let responder_nonce = connection.their_nonce?;
    let session = SessionId(connection.next_session);
    connection.next_session = connection.next_session.wrapping_add(2);
    Some(Binding {
        opener: me,
        responder: connection.peer,
        opener_nonce: connection.nonce,
        responder_nonce,
        session,
    })
}

fn locator_reply(ask: &Ask, answer: LocatorAnswer) -> Result<Reply, Failure> {
    match (ask, answer) {
        (Ask::LocatorPut(_), LocatorAnswer::Stored) => Ok(Reply::Stored),
        (Ask::LocatorGet(_), LocatorAnswer::None) => Ok(Reply::Locator(None)),
        (Ask::LocatorGet(id), LocatorAnswer::Found(bytes)) => {
            let locator = UnverifiedLocator::decode(&bytes).ok().and_then(|locator| locator.verify().ok());
            match locator.filter(|locator| locator.id() == *id) {
                Some(locator) => Ok(Reply::Locator(Some(Box::new(locator)))),
                None => Err(Failure::Protocol),
            }
        }
        (_, LocatorAnswer::Refused) => Err(Failure::Refused),
        _ => Err(Failure::Protocol),
    }
}
