//! Joining with an invite: a restricted opening for who has a code, and the request's way to an admin.
//!
//! A seeder or device that knows the invite as open passes the request on to the members it has sessions
//! with, and answers with the access log once an admin's device has listed the newcomer. Nobody on the
//! way can read the label or answer in an admin's place.

use std::time::Instant;

use cobox_store::blind::InviteState;
use cobox_store::format::access::Record;
use cobox_store::format::invite::{FOLDER_PREFIX_BYTES, JoinRequest};
use cobox_store::id::{FolderNo, InviteKey};

use super::handshake::Binding;
use super::{Conn, Engine, Output};
use crate::status::PeerKind;
use crate::wire::{Frame, SessionId, split_records};

/// Requests that a folder remembers, for members that connect later: invites that are open at once.
const JOINS_MAX: usize = 64;

/// What is known of an invite's standing.
enum Standing {
    /// The request may be passed on.
    Open,
    /// The device is listed.
    Listed,
    /// Unknown, used by another, or taken back.
    Spent,
}

impl Engine {
    /// A peer has a code, and asks for its device to be let in.
    pub(super) fn on_redeem(
        &mut self,
        conn: Conn,
        id: SessionId,
        signature: &[u8; 64],
        bytes: &[u8],
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
        let request = JoinRequest::decode(bytes).ok().filter(|request| {
            granted && binding.invite_signed(request.padded_folder(), request.invite(), signature)
        });
        let found = request.and_then(|request| Some((self.folder_of_invite(&request)?, request)));
        let Some((no, request)) = found else {
            self.send(conn, Frame::Refuse { session: id });
            return;
        };
        match self.standing(no, &request) {
            Standing::Spent => self.send(conn, Frame::Refuse { session: id }),
            Standing::Listed => self.send_log(conn, id, no),
            Standing::Open => {
                self.send(conn, Frame::JoinWait { session: id });
                self.pass_on(no, &request, bytes);
            }
        }
    }

    pub(super) fn send_log(&mut self, conn: Conn, id: SessionId, no: FolderNo) {
        match self.store.access_records(no) {
            Ok(records) => {
                for (part, records) in split_records(records.iter().map(Record::encode).collect()) {
                    self.send(conn, Frame::Records { session: id, part, records });
                }
            }
            Err(error) => {
                tracing::warn!(no = no.0, %error, "the access log cannot be read");
                self.send(conn, Frame::Refuse { session: id });
            }
        }
    }

    fn folder_of_invite(&self, request: &JoinRequest) -> Option<FolderNo> {
        let mut folders = self.folders.iter();
        let (no, _) = folders.find(|(_, folder)| {
            folder.id.0[..FOLDER_PREFIX_BYTES] == request.folder
                && folder.access.invites.contains_key(&request.invite())
        })?;
        Some(*no)
    }

    fn standing(&self, no: FolderNo, request: &JoinRequest) -> Standing {
        let Some(folder) = self.folders.get(&no) else { return Standing::Spent };
        match folder.access.invites.get(&request.invite()).map(|(_, state)| *state) {
            Some(InviteState::Open) => Standing::Open,
            Some(InviteState::Used(log)) if log == request.log => Standing::Listed,
            _ => Standing::Spent,
        }
    }

    /// Gives a request to our own program and to all members that are connected.
    fn pass_on(&mut self, no: FolderNo, request: &JoinRequest, bytes: &[u8]) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        if folder.joins.len() < JOINS_MAX || folder.joins.contains_key(&request.invite()) {
            folder.joins.insert(request.invite(), bytes.to_vec());
        }
        self.out.push(Output::JoinAsked { no, request: request.clone() });
        let Some(folder) = self.folders.get(&no) else { return };
        for (conn, id) in folder.sessions.clone() {
            let member = self
                .session(conn, id)
                .is_some_and(|session| session.is_open() && session.kind == PeerKind::Member);
            if member {
                self.send(conn, Frame::JoinAsked { session: id, request: bytes.to_vec() });
            }
        }
    }

    /// Tells a member that has just connected who waits to be let in.
    pub(super) fn tell_joins(&mut self, conn: Conn, id: SessionId, no: FolderNo) {
        let Some(folder) = self.folders.get(&no) else { return };
        let waiting: Vec<Vec<u8>> = folder.joins.values().cloned().collect();
        for request in waiting {
            self.send(conn, Frame::JoinAsked { session: id, request });
        }
    }

    /// Another peer passes a request on to us.
    pub(super) fn on_join_asked(&mut self, conn: Conn, id: SessionId, bytes: &[u8], now: Instant) {
        let Some(no) = self.open_folder(conn, id) else { return };
        let Ok(request) = JoinRequest::decode(bytes) else { return };
        if self.token(conn, now) && matches!(self.standing(no, &request), Standing::Open) {
            self.out.push(Output::JoinAsked { no, request });
        }
    }

    /// Forgets requests whose invite is not open any more.
    pub(super) fn forget_joins(&mut self, no: FolderNo) {
        let Some(folder) = self.folders.get_mut(&no) else { return };
        let access = &folder.access;
        folder.joins.retain(|invite: &InviteKey, _| {
            access.invites.get(invite).is_some_and(|(_, state)| *state == InviteState::Open)
        });
    }
}
