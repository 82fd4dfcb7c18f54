//! Acts of the access log by which people and devices come and go (`docs/format.md`, "Access log").
//!
//! Pure layouts, like [`super::access`], which holds the envelope. What they mean together is
//! [`crate::blind::resolve`]'s work.

use ed25519_dalek::{Signature, VerifyingKey};

use super::DEPS_MAX;
use super::access::{Act, Device, PEER_ID_BYTES_MAX, Role, WRAPPED_EPOCH_BYTES};
use super::codec::{DecodeError, Reader, Writer};
use super::entry::LogHead;
use crate::id::{EntryHash, FolderId, InviteKey, hash};

/// What an invite's key signs is this and the hash of the joining device's keys.
pub const INVITE_CONTEXT: &[u8] = b"cobox/v1/invite";
/// A wrapped label key: nonce, 32 bytes, tag.
pub const WRAPPED_LABEL_KEY_BYTES: usize = WRAPPED_EPOCH_BYTES;

/// An invite as the record that opens it describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenInvite {
    /// Its public key; the secret half follows from the code.
    pub invite: InviteKey,
    /// What the device that redeems it may do.
    pub role: Role,
    /// Milliseconds since 1970; admins refuse it later, by their own clocks.
    pub expires_ms: u64,
    /// The key that the joining device seals its label with, under the folder's label key.
    pub label_key: [u8; WRAPPED_LABEL_KEY_BYTES],
}

/// Proof that whoever owns a device's keys had an invite's code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redemption {
    /// Which invite.
    pub invite: InviteKey,
    /// By its key over [`redemption_bytes`].
    pub signature: [u8; 64],
}

impl Redemption {
    /// Whether the invite's key signed for this device.
    #[must_use]
    pub fn covers(&self, folder: FolderId, device: &Device) -> bool {
        let key = VerifyingKey::from_bytes(&self.invite.0);
        let signature = Signature::from_bytes(&self.signature);
        key.is_ok_and(|key| key.verify_strict(&redemption_bytes(folder, device), &signature).is_ok())
    }
}

/// What an invite's key signs. The code names the first half of the folder's id, so no more is signed;
/// role and label are not the joining device's to choose.
#[must_use]
pub fn redemption_bytes(folder: FolderId, device: &Device) -> Vec<u8> {
    let keys = [
        &folder.0[..16],
        &device.log.0[..],
        &device.kem.0[..],
        &device.member.0[..],
        &device.recovery_kem.0[..],
    ];
    [INVITE_CONTEXT, &hash(&keys.concat())].concat()
}

/// Writes the acts of this file.
pub(super) fn encode(act: &Act, writer: &mut Writer) {
    match act {
        Act::RemoveDevice { last } => {
            writer.u8(3);
            encode_head(last, writer);
        }
        Act::RemoveMember { member, logs } => {
            writer.u8(4);
            writer.fixed(&member.0);
            encode_heads(logs, writer);
        }
        Act::SetRole { member, role, logs } => {
            writer.u8(5);
            writer.fixed(&member.0);
            writer.u8(*role as u8);
            encode_heads(logs, writer);
        }
        Act::OpenInvite(open) => {
            writer.u8(6);
            writer.fixed(&open.invite.0);
            writer.u8(open.role as u8);
            writer.u64(open.expires_ms);
            writer.fixed(&open.label_key);
        }
        Act::VoidInvite { invite } => {
            writer.u8(7);
            writer.fixed(&invite.0);
        }
        Act::RevokeSeeder { peer_id } => {
            writer.u8(9);
            writer.bytes16(peer_id);
        }
        Act::Vouch { last } => {
            writer.u8(10);
            encode_head(last, writer);
        }
        Act::Redeem { device, redemption } => {
            writer.u8(13);
            device.encode(writer);
            writer.fixed(&redemption.invite.0);
            writer.fixed(&redemption.signature);
        }
        Act::Genesis { .. }
        | Act::AddDevice { .. }
        | Act::GrantSeeder(_)
        | Act::NewEpoch(_)
        | Act::Call(_)
        | Act::Release(_) => unreachable!("`Act::encode` writes these itself"),
    }
}

/// Reads the act of type `kind`, where it is of this file.
pub(super) fn decode(kind: u8, reader: &mut Reader<'_>) -> Result<Act, DecodeError> {
    Ok(match kind {
        3 => Act::RemoveDevice { last: decode_head(reader)? },
        4 => Act::RemoveMember { member: reader.member_id("member")?, logs: decode_heads(reader)? },
        5 => {
            let member = reader.member_id("member")?;
            let role = Role::from_byte(reader.u8("role")?)?;
            let logs = decode_heads(reader)?;
            // A log that goes on has no end.
            if role == Role::Relay || (role >= Role::Write && !logs.is_empty()) {
                return Err(DecodeError::Invalid { field: "role" });
            }
            Act::SetRole { member, role, logs }
        }
        6 => Act::OpenInvite(OpenInvite {
            invite: reader.invite_key("invite")?,
            role: match Role::from_byte(reader.u8("role")?)? {
                Role::Relay => return Err(DecodeError::Invalid { field: "role" }),
                role => role,
            },
            expires_ms: reader.u64("expiry")?,
            label_key: reader.array("label key")?,
        }),
        7 => Act::VoidInvite { invite: reader.invite_key("invite")? },
        9 => Act::RevokeSeeder { peer_id: reader.bytes16(PEER_ID_BYTES_MAX, "peer id")?.to_vec() },
        10 => {
            let last = decode_head(reader)?;
            if last.seq == 0 {
                return Err(DecodeError::Invalid { field: "vouch" });
            }
            Act::Vouch { last }
        }
        13 => Act::Redeem {
            device: Device::decode(reader)?,
            redemption: Redemption {
                invite: reader.invite_key("invite")?,
                signature: reader.array("signature")?,
            },
        },
        _ => return Err(DecodeError::Invalid { field: "record type" }),
    })
}

fn encode_head(head: &LogHead, writer: &mut Writer) {
    writer.fixed(&head.log.0);
    writer.u64(head.seq);
    writer.fixed(&head.hash.0);
}

fn decode_head(reader: &mut Reader<'_>) -> Result<LogHead, DecodeError> {
    let field = "end of a log";
    let head =
        LogHead { log: reader.log_id(field)?, seq: reader.u64(field)?, hash: reader.entry_hash(field)? };
    if (head.seq == 0) == (head.hash == EntryHash([0; 32])) {
        Ok(head)
    } else {
        Err(DecodeError::Invalid { field })
    }
}

fn encode_heads(heads: &[LogHead], writer: &mut Writer) {
    writer.count(heads.len());
    heads.iter().for_each(|head| encode_head(head, writer));
}

fn decode_heads(reader: &mut Reader<'_>) -> Result<Vec<LogHead>, DecodeError> {
    let field = "ends of logs";
    let count = reader.count(DEPS_MAX, 72, field)?;
    let heads: Vec<LogHead> = (0..count).map(|_| decode_head(reader)).collect::<Result<_, _>>()?;
    if heads.windows(2).any(|pair| pair[0].log >= pair[1].log) {
        return Err(DecodeError::Invalid { field });
    }
    Ok(heads)
}

/// An act of each type of this file, for the round trips in `access.rs`. All are of folder `[1; 32]`.
#[cfg(test)]
pub(crate) fn one_of_each(device: &Device) -> Vec<Act> {
    use ed25519_dalek::{Signer as _, SigningKey};

    use crate::id::{LogId, MemberId};
    let end = |seq: u64| LogHead { log: LogId([7; 32]), seq, hash: EntryHash([u8::from(seq > 0); 32]) };
    let key = SigningKey::from_bytes(&[9; 32]);
    let invite = InviteKey(key.verifying_key().to_bytes());
    let signature = key.sign(&redemption_bytes(FolderId([1; 32]), device)).to_bytes();
    let member = MemberId([3; 32]);
    vec![
        Act::RemoveDevice { last: end(0) },
        Act::RemoveMember { member, logs: vec![end(4)] },
        Act::SetRole { member, role: Role::Read, logs: vec![end(4)] },
        Act::SetRole { member, role: Role::Admin, logs: vec![] },
        Act::OpenInvite(OpenInvite {
            invite,
            role: Role::Write,
            expires_ms: 9,
            label_key: [1; WRAPPED_LABEL_KEY_BYTES],
        }),
        Act::VoidInvite { invite },
        Act::RevokeSeeder { peer_id: vec![0, 1, 2] },
        Act::Vouch { last: end(4) },
        Act::Redeem { device: device.clone(), redemption: Redemption { invite, signature } },
    ]
}
