//! The rows of admins, codes and commands (`docs/format.md`, section 15.2).

use super::{ANSWER_BYTES_MAX, Admin, NO_ISSUER, OpenClaim, Outcome, Taken};
use crate::blind::tables::{STORE, Table, key};
use crate::format::codec::{DecodeError, Reader, Writer};
use crate::format::command::{ADMIN_NAME_BYTES_MAX, Rank};
use crate::id::{AdminKey, ChainId, ClaimKey};

pub(super) fn admin_key(admin: AdminKey) -> Vec<u8> {
    key(STORE, Table::Admin, &admin.0)
}

pub(super) fn claim_key(claim: ClaimKey) -> Vec<u8> {
    key(STORE, Table::Claim, &claim.0)
}

pub(super) fn used_key(claim: ClaimKey) -> Vec<u8> {
    key(STORE, Table::ClaimUsed, &claim.0)
}

pub(super) fn command_prefix(admin: AdminKey, chain: ChainId) -> Vec<u8> {
    key(STORE, Table::Command, &[&admin.0[..], &chain.0].concat())
}

pub(super) fn command_key(admin: AdminKey, chain: ChainId, seq: u64) -> Vec<u8> {
    [command_prefix(admin, chain), seq.to_be_bytes().to_vec()].concat()
}

pub(super) fn encode_admin(admin: &Admin) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(1);
    writer.u8(admin.rank.map_or(0, |rank| rank as u8));
    writer.fixed(&admin.chain.0);
    writer.u64(admin.seq);
    writer.fixed(&admin.recovery.0);
    writer.u64(admin.since_ms);
    writer.bytes16(admin.name.as_bytes());
    writer.into_bytes()
}

pub(super) fn decode_admin(rest: &[u8], value: &[u8]) -> std::result::Result<Admin, DecodeError> {
    let field = "admin";
    let key = AdminKey(rest.try_into().map_err(|_| DecodeError::Invalid { field })?);
    let mut reader = Reader::new(value);
    reader.version(1, field)?;
    let rank = match reader.u8(field)? {
        0 => None,
        byte => Some(Rank::from_byte(byte)?),
    };
    let admin = Admin {
        key,
        rank,
        chain: ChainId(reader.array(field)?),
        seq: reader.u64(field)?,
        recovery: ClaimKey(reader.array(field)?),
        since_ms: reader.u64(field)?,
        name: name(&mut reader)?,
    };
    reader.finish()?;
    Ok(admin)
}

pub(super) fn encode_claim(claim: &OpenClaim) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(2);
    writer.u8(claim.rank as u8);
    writer.u64(claim.expires_ms);
    writer.fixed(&claim.secret);
    writer.fixed(&claim.issuer.0);
    writer.bytes16(claim.name.as_bytes());
    writer.into_bytes()
}

pub(super) fn decode_claim(rest: &[u8], value: &[u8]) -> std::result::Result<OpenClaim, DecodeError> {
    let field = "claim";
    let key = ClaimKey(rest.try_into().map_err(|_| DecodeError::Invalid { field })?);
    let mut reader = Reader::new(value);
    let version = reader.u8(field)?;
    let claim = OpenClaim {
        key,
        rank: Rank::from_byte(reader.u8(field)?)?,
        expires_ms: reader.u64(field)?,
        secret: reader.array(field)?,
        issuer: match version {
            1 => NO_ISSUER,
            2 => AdminKey(reader.array(field)?),
            _ => return Err(DecodeError::Invalid { field }),
        },
        name: name(&mut reader)?,
    };
    reader.finish()?;
    Ok(claim)
}

pub(super) fn encode_taken(taken: &Taken) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(1);
    writer.fixed(&taken.hash);
    writer.u64(taken.at_ms);
    writer.u8(taken.outcome as u8);
    writer.bytes16(taken.word.as_bytes());
    writer.bytes32(taken.text.as_bytes());
    writer.into_bytes()
}

pub(super) fn decode_taken(
    admin: AdminKey,
    chain: ChainId,
    seq: u64,
    value: &[u8],
) -> std::result::Result<Taken, DecodeError> {
    let field = "command";
    let mut reader = Reader::new(value);
    reader.version(1, field)?;
    let taken = Taken {
        admin,
        chain,
        seq,
        hash: reader.array(field)?,
        at_ms: reader.u64(field)?,
        outcome: Outcome::from_byte(reader.u8(field)?)?,
        word: utf8(reader.bytes16(ADMIN_NAME_BYTES_MAX, field)?)?,
        text: utf8(reader.bytes32(ANSWER_BYTES_MAX, field)?)?,
    };
    reader.finish()?;
    Ok(taken)
}

fn name(reader: &mut Reader<'_>) -> std::result::Result<String, DecodeError> {
    utf8(reader.bytes16(ADMIN_NAME_BYTES_MAX, "name")?)
}

fn utf8(bytes: &[u8]) -> std::result::Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid { field: "text" })
}
