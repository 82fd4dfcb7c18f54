//! How two peers prove to each other that they belong to one folder (`docs/format.md`, "Sessions").
//!
//! Pure functions over a connection's nonces and peer ids. The folder is named by a blinded id, the swarm
//! secret is proved and never sent, and every value is bound to this connection and this session.

use cobox_store::id::{FolderId, InviteKey, LogId, MemberId, hash};
use ed25519_dalek::{Signature, VerifyingKey};

use crate::peer_id::PeerId;
use crate::wire::SessionId;

/// What a session's signature covers begins with this.
pub const SESSION_CONTEXT: &[u8] = b"cobox/v1/session";

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Speaker {
    /// The side that sent `Open`.
    Opener = 0,
    /// The side that answers.
    Responder = 1,
    /// The side that sent `Recover`.
    Recoverer = 2,
    /// The side that sent `Redeem`.
    Redeemer = 3,
}

/// What a session is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// Who opens.
    pub opener: PeerId,
    /// Who answers.
    pub responder: PeerId,
    /// The opener's nonce of this connection.
    pub opener_nonce: [u8; 32],
    /// The responder's.
    pub responder_nonce: [u8; 32],
    /// The session's number.
    pub session: SessionId,
}

impl Binding {
    fn bytes(&self) -> Vec<u8> {
        [
            &self.opener.key()[..],
            self.responder.key(),
            &self.opener_nonce,
            &self.responder_nonce,
            &self.session.0.to_le_bytes(),
        ]
        .concat()
    }

    /// The folder's name on this connection.
    #[must_use]
    pub fn blinded(&self, swarm: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(swarm, &[&b"blinded"[..], &self.bytes()].concat()).as_bytes()
    }

    /// Proof of the swarm secret.
    #[must_use]
    pub fn proof(&self, swarm: &[u8; 32], speaker: Speaker) -> [u8; 32] {
        *blake3::keyed_hash(swarm, &[&b"session"[..], &self.bytes(), &[speaker as u8]].concat()).as_bytes()
    }

    /// Whether `proof` is the right one; compared in constant time.
    #[must_use]
    pub fn proves(&self, swarm: &[u8; 32], speaker: Speaker, proof: [u8; 32]) -> bool {
        blake3::Hash::from_bytes(self.proof(swarm, speaker)) == blake3::Hash::from_bytes(proof)
    }

    /// What a folder key signs: [`SESSION_CONTEXT`] and the hash of this.
    #[must_use]
    pub fn transcript(&self, folder: FolderId, speaker: Speaker, key: &[u8; 32]) -> Vec<u8> {
        [&[1u8][..], &folder.0, &self.bytes(), &[speaker as u8], key].concat()
    }

    /// Whether a device's key signed the transcript.
    #[must_use]
    pub fn device_signed(
        &self,
        folder: FolderId,
        speaker: Speaker,
        log: LogId,
        signature: &[u8; 64],
    ) -> bool {
        signed(&log.0, &self.transcript(folder, speaker, &log.0), signature)
    }

    /// Whether a member's recovery key signed the transcript.
    #[must_use]
    pub fn member_signed(&self, folder: FolderId, member: MemberId, signature: &[u8; 64]) -> bool {
        signed(&member.0, &self.transcript(folder, Speaker::Recoverer, &member.0), signature)
    }

    /// Whether an invite's key signed the transcript.
    #[must_use]
    pub fn invite_signed(&self, folder: FolderId, invite: InviteKey, signature: &[u8; 64]) -> bool {
        signed(&invite.0, &self.transcript(folder, Speaker::Redeemer, &invite.0), signature)
    }
}

/// What a key signs for a transcript.
#[must_use]
pub fn signed_bytes(transcript: &[u8]) -> Vec<u8> {
    [SESSION_CONTEXT, &hash(transcript)].concat()
}

fn signed(key: &[u8; 32], transcript: &[u8], signature: &[u8; 64]) -> bool {
    let signature = Signature::from_bytes(signature);
    VerifyingKey::from_bytes(key)
        .is_ok_and(|key| key.verify_strict(&signed_bytes(transcript), &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn binding() -> Binding {
        Binding {
            opener: PeerId::of_key([1; 32]),
            responder: PeerId::of_key([2; 32]),
            opener_nonce: [3; 32],
            responder_nonce: [4; 32],
            session: SessionId(5),
        }
    }

    #[test]
    fn proof_of_one_connection_does_not_hold_on_another() {
        let (here, swarm) = (binding(), [9; 32]);
        let proof = here.proof(&swarm, Speaker::Opener);
        assert!(here.proves(&swarm, Speaker::Opener, proof));
        assert!(!here.proves(&swarm, Speaker::Responder, proof));
        assert!(!here.proves(&[8; 32], Speaker::Opener, proof));
        for other in [
            Binding { opener_nonce: [0; 32], ..here },
            Binding { responder: PeerId::of_key([0; 32]), ..here },
            Binding { session: SessionId(6), ..here },
        ] {
            assert!(!other.proves(&swarm, Speaker::Opener, proof));
            assert_ne!(other.blinded(&swarm), here.blinded(&swarm));
        }
    }

    #[test]
    fn signature_of_another_folder_or_speaker_does_not_hold() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let log = LogId(key.verifying_key().to_bytes());
        let (here, folder) = (binding(), FolderId([1; 32]));
        let transcript = here.transcript(folder, Speaker::Opener, &log.0);
        let signature = key.sign(&signed_bytes(&transcript)).to_bytes();
        assert!(here.device_signed(folder, Speaker::Opener, log, &signature));
        assert!(!here.device_signed(folder, Speaker::Responder, log, &signature));
        assert!(!here.device_signed(FolderId([2; 32]), Speaker::Opener, log, &signature));
        assert!(!here.member_signed(folder, MemberId(log.0), &signature));
    }
}
