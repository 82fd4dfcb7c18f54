//! The access log between peers: heads, then what the other lacks; and the recovery opening.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use cobox_store::blind::Added;
use cobox_store::format::HEADS_MAX;
use cobox_store::format::access::{Record, UnverifiedRecord};
use cobox_store::id::{FolderId, FolderNo, MemberId, RecordHash};

use super::handshake::Binding;
use super::state::Stage;
use super::{Conn, Engine, FULL_WAIT};
use crate::wire::{Frame, Part, SessionId, split_records};

impl Engine {
    /// The folder of a session that may exchange access records.
    pub(super) fn access_folder(&self, conn: Conn, id: SessionId) -> Option<FolderNo> {
        let session = self.conns.get(&conn)?.sessions.get(&id)?;
        matches!(session.stage, Stage::Open | Stage::Restricted).then_some(session.no)
    }

    pub(super) fn on_access_heads(&mut self, conn: Conn, id: SessionId, heads: &[RecordHash], now: Instant) {
        if self.access_folder(conn, id).is_none() {
            return;
        }
        if let Some(session) = self.session(conn, id) {
            session.their_access = heads.to_vec();
            session.access_asked = None;
        }
        self.ask_access(conn, id, now);
    }

    /// Asks again for records behind heads that are not here: an answer may not have brought them.
    pub(super) fn retry_access(&mut self, now: Instant) {
        let sessions = self.conns.iter().flat_map(|(conn, connection)| {
            let lacking = connection.sessions.iter().filter(|(_, session)| !session.their_access.is_empty());
            lacking.map(|(id, _)| (*conn, *id))
        });
        for (conn, id) in sessions.collect::<Vec<_>>() {
            self.ask_access(conn, id, now);
        }
    }

    fn ask_access(&mut self, conn: Conn, id: SessionId, now: Instant) {
        let Some(session) = self.session(conn, id) else { return };
        if session.access_asked.is_some_and(|asked| now < asked + FULL_WAIT) {
            return;
        }
        let (no, heads) = (session.no, session.their_access.clone());
        if heads.iter().all(|head| self.store.access_has(no, head).unwrap_or(true)) {
            if let Some(session) = self.session(conn, id) {
                session.their_access.clear();
            }
            return;
        }
        if let Some(session) = self.session(conn, id) {
            session.access_asked = Some(now);
        }
        let Some(folder) = self.folders.get(&no) else { return };
        let have = folder.access.heads.iter().take(HEADS_MAX).copied().collect();
        self.send(conn, Frame::AccessWant { session: id, have });
    }

    pub(super) fn on_access_want(&mut self, conn: Conn, id: SessionId, have: &[RecordHash], now: Instant) {
        let Some(no) = self.access_folder(conn, id) else { return };
        if !self.token(conn, now) {
            return;
        }
        match self.store.access_records(no) {
            Ok(records) => {
                for (part, records) in split_records(beyond(&records, have)) {
                    self.send(conn, Frame::Records { session: id, part, records });
                }
            }
            Err(error) => tracing::warn!(no = no.0, %error, "the access log cannot be read"),
        }
    }

    pub(super) fn on_records(&mut self, conn: Conn, id: SessionId, part: Part, records: &[Vec<u8>]) {
        if self.recovery_records(conn, id, part, records) {
            return;
        }
        let Some(no) = self.access_folder(conn, id) else { return };
        let mut news = 0;
        for bytes in records {
            let Some(record) = UnverifiedRecord::decode(bytes).ok().and_then(|found| found.verify().ok())
            else {
                tracing::warn!(no = no.0, "a peer sent a malformed access record");
                return;
            };
            match self.store.access_add(no, &record) {
                Ok(Added::New) => news += 1,
                Ok(Added::Known) => {}
                Err(error) => {
                    tracing::debug!(no = no.0, record = %record.hash(), %error, "access record not taken")
                }
            }
        }
        if news > 0 {
            if let Some(folder) = self.folders.get(&no) {
                for key in folder.sessions.clone() {
                    if let Some(session) = self.session(key.0, key.1) {
                        session.bad_logs.clear();
                    }
                }
            }
            self.mark(no);
        }
    }

    /// Reads the access log again when it changed, and tells everybody its heads.
    pub(super) fn refresh_access(&mut self, no: FolderNo) -> cobox_store::error::Result<()> {
        let access = self.store.access(no)?;
        let Some(folder) = self.folders.get_mut(&no) else { return Ok(()) };
        if !Arc::ptr_eq(&folder.access, &access) {
            folder.access = access;
            self.rejudge(no);
            self.forget_joins(no);
            self.forget_contacts(no);
        }
        let Some(folder) = self.folders.get(&no) else { return Ok(()) };
        let heads: Vec<RecordHash> = folder.access.heads.iter().take(HEADS_MAX).copied().collect();
        for (conn, id) in folder.sessions.clone() {
            let Some(session) = self.session(conn, id) else { continue };
            let ready = matches!(session.stage, Stage::Open | Stage::Restricted);
            if ready && session.told_access.as_ref() != Some(&heads) {
                session.told_access = Some(heads.clone());
                self.send(conn, Frame::AccessHeads { session: id, heads: heads.clone() });
            }
        }
        Ok(())
    }

    pub(super) fn on_recover(
        &mut self,
        conn: Conn,
        id: SessionId,
        folder: FolderId,
        member: MemberId,
        signature: &[u8; 64],
        now: Instant,
    ) {
        let granted = self.token(conn, now);
        let Some(connection) = self.conns.get(&conn) else { return };
        let Some(their_nonce) = connection.their_nonce else { return };
        let binding = Binding {
            opener: connection.peer,
            responder: self.me,
            opener_nonce: their_nonce,
            responder_nonce: connection.nonce,
            session: id,
        };
        let found = self.folders.iter().find(|(_, known)| known.id == folder).filter(|(_, known)| {
            granted
                && known.access.members.contains_key(&member)
                && binding.member_signed(folder, member, signature)
        });
        let records = found.and_then(|(no, _)| self.store.access_records(*no).ok());
        match records {
            Some(records) => {
                for (part, records) in split_records(records.iter().map(Record::encode).collect()) {
                    self.send(conn, Frame::Records { session: id, part, records });
                }
            }
            None => self.send(conn, Frame::Refuse { session: id }),
        }
    }
}

/// Records that are neither among `have` nor their ancestors, in the order given, encoded.
fn beyond(records: &[Record], have: &[RecordHash]) -> Vec<Vec<u8>> {
    let mut covered: HashSet<RecordHash> = have.iter().copied().collect();
    // Children stand after their parents, so one pass from the end finds all ancestors.
    for record in records.iter().rev() {
        if covered.contains(&record.hash()) {
            covered.extend(record.content().parents.iter().copied());
        }
    }
    records.iter().filter(|record| !covered.contains(&record.hash())).map(Record::encode).collect()
}
