//! Acts of the access log about seeders (`docs/format.md`, "Access log"): codes that a seeder redeems,
//! agreements, and how many copies there should be.
//!
//! Pure layouts, like [`super::membership`]. What they mean together is [`crate::blind::resolve`]'s work.

use ed25519_dalek::{Signature, VerifyingKey};

use super::access::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, Act, BOX_BYTES, PEER_ID_BYTES_MAX};
use super::address::SeederAddress;
use super::agreement::{Notice, SignedTerms, TERMS_BYTES_MAX, Terms};
use super::codec::{DecodeError, Reader, Writer};
use super::invite::FOLDER_PREFIX_BYTES;
use crate::id::{EpochId, FolderId, InviteKey, KemKey, hash};

/// Copies that a folder may ask for: as many as it has seeders at the most.
pub const COPIES_RANGE: std::ops::RangeInclusive<u8> = 1..=64;
/// How long a proof may count: audits would follow each other without pause below an hour, and a proof of a year
/// ago proves nothing.
pub const TOLERANCE_MS_RANGE: std::ops::RangeInclusive<u64> = 3_600_000..=31_536_000_000;

/// What a seed code's key signs is this and the hash of the seeder's keys.
pub const SEED_CONTEXT: &[u8] = b"cobox/v1/seed";

/// A seeder as the record that grants it describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeederGrant {
    /// Its libp2p peer id (multihash bytes).
    pub peer_id: Vec<u8>,
    /// Its key for boxes.
    pub kem: KemKey,
    /// The hard limit of bytes.
    pub quota_bytes: u64,
    /// Milliseconds since 1970; 0 for no end.
    pub until_ms: u64,
    /// Where it listens: binary multiaddrs.
    pub addresses: Vec<Vec<u8>>,
    /// The swarm secret of the epoch named below, boxed to `kem`.
    pub swarm_epoch: EpochId,
    /// See `swarm_epoch`.
    pub swarm_box: [u8; BOX_BYTES],
}

/// What the group wants of its seeders together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopiesPolicy {
    /// Proved copies, in [`COPIES_RANGE`].
    pub copies: u8,
    /// How long a proof counts, in milliseconds and [`TOLERANCE_MS_RANGE`].
    pub tolerance_ms: u64,
}

/// A seed code as the record that opens it describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenSeed {
    /// Its public key; the secret half follows from the code.
    pub code: InviteKey,
    /// How much whoever redeems it may store.
    pub quota_bytes: u64,
    /// Until when; 0 for no end.
    pub until_ms: u64,
    /// Milliseconds since 1970; admins refuse it later, by their own clocks.
    pub expires_ms: u64,
}

/// A grant that was asked for with a seed code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedeemedSeed {
    /// What is granted.
    pub grant: SeederGrant,
    /// With which code.
    pub code: InviteKey,
    /// By the code's key over [`seed_bytes`].
    pub signature: [u8; 64],
}

/// What a seed code's key signs: who passes the request on cannot send members elsewhere. The code names the first half of the folder's id, so no more is signed.
#[must_use]
pub fn seed_bytes(folder: [u8; FOLDER_PREFIX_BYTES], seeder: &SeederAddress) -> Vec<u8> {
    [SEED_CONTEXT, &hash(&[&folder[..], &seeder.encode()].concat())].concat()
}

impl SeederGrant {
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.bytes16(&self.peer_id);
        writer.fixed(&self.kem.0);
        writer.u64(self.quota_bytes);
        writer.u64(self.until_ms);
        writer.count(self.addresses.len());
        for address in &self.addresses {
            writer.bytes16(address);
        }
        writer.fixed(&self.swarm_epoch.0);
        writer.fixed(&self.swarm_box);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let peer_id = reader.bytes16(PEER_ID_BYTES_MAX, "peer id")?.to_vec();
        let kem = reader.kem_key("seeder key")?;
        let quota_bytes = reader.u64("quota")?;
        let until_ms = reader.u64("until")?;
        let count = reader.count(ADDRESSES_MAX, 2, "addresses")?;
        let addresses = (0..count)
            .map(|_| Ok(reader.bytes16(ADDRESS_BYTES_MAX, "address")?.to_vec()))
            .collect::<Result<_, DecodeError>>()?;
        Ok(Self {
            peer_id,
            kem,
            quota_bytes,
            until_ms,
            addresses,
            swarm_epoch: reader.epoch_id("epoch")?,
            swarm_box: reader.array("swarm box")?,
        })
    }
}

impl RedeemedSeed {
    /// Whether the code's key signed for this seeder.
    #[must_use]
    pub fn covers(&self, folder: FolderId) -> bool {
        let mut prefix = [0; FOLDER_PREFIX_BYTES];
        prefix.copy_from_slice(&folder.0[..FOLDER_PREFIX_BYTES]);
        let seeder = SeederAddress {
            peer_id: self.grant.peer_id.clone(),
            kem: self.grant.kem,
            addresses: self.grant.addresses.clone(),
        };
        let bytes = seed_bytes(prefix, &seeder);
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(&self.code.0).is_ok_and(|key| key.verify_strict(&bytes, &signature).is_ok())
    }
}

/// What a seeder that has a code asks of the folder's admins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeedRequest {
    /// The first half of the folder's id.
    pub folder: [u8; FOLDER_PREFIX_BYTES],
    /// Which code.
    pub code: InviteKey,
    /// By the code's key over [`seed_bytes`].
    pub signature: [u8; 64],
    /// Who asks, and where it listens.
    pub seeder: SeederAddress,
}

/// A [`SeedRequest`], encoded, at the most.
pub const SEED_REQUEST_BYTES_MAX: usize = 1
    + FOLDER_PREFIX_BYTES
    + 32
    + 64
    + 1
    + 2
    + PEER_ID_BYTES_MAX
    + 32
    + 2
    + ADDRESSES_MAX * (2 + ADDRESS_BYTES_MAX);

impl SeedRequest {
    /// What the code's key signs.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        seed_bytes(self.folder, &self.seeder)
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.fixed(&self.folder);
        writer.fixed(&self.code.0);
        writer.fixed(&self.signature);
        writer.fixed(&self.seeder.encode());
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote, and checks the code's signature.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "seed request";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let request = Self {
            folder: reader.array(field)?,
            code: reader.invite_key(field)?,
            signature: reader.array(field)?,
            seeder: SeederAddress::decode(reader.rest())?,
        };
        let signature = Signature::from_bytes(&request.signature);
        let signed = VerifyingKey::from_bytes(&request.code.0)
            .is_ok_and(|key| key.verify_strict(&request.signed_bytes(), &signature).is_ok());
        if signed { Ok(request) } else { Err(DecodeError::Invalid { field }) }
    }
}

/// Writes the acts of this file.
pub(super) fn encode(act: &Act, writer: &mut Writer) {
    match act {
        Act::Policy(policy) => {
            writer.u8(12);
            writer.u8(policy.copies);
            writer.u64(policy.tolerance_ms);
        }
        Act::Propose(terms) => {
            writer.u8(20);
            writer.bytes16(&terms.encode());
        }
        Act::Agree(signed) => {
            writer.u8(21);
            signed.encode(writer);
        }
        Act::EndAgreement(notice) => {
            writer.u8(22);
            notice.encode(writer);
        }
        Act::OpenSeed(open) => {
            writer.u8(23);
            writer.fixed(&open.code.0);
            writer.u64(open.quota_bytes);
            writer.u64(open.until_ms);
            writer.u64(open.expires_ms);
        }
        Act::RedeemSeed(redeemed) => {
            writer.u8(24);
            redeemed.grant.encode(writer);
            writer.fixed(&redeemed.code.0);
            writer.fixed(&redeemed.signature);
        }
        _ => unreachable!("`Act::encode` and `membership::encode` write these themselves"),
    }
}

/// Reads the act of type `kind`, where it is of this file.
pub(super) fn decode(kind: u8, reader: &mut Reader<'_>) -> Result<Act, DecodeError> {
    Ok(match kind {
        12 => {
            let policy =
                CopiesPolicy { copies: reader.u8("copies")?, tolerance_ms: reader.u64("tolerance")? };
            if !COPIES_RANGE.contains(&policy.copies) {
                return Err(DecodeError::Invalid { field: "copies" });
            }
            if !TOLERANCE_MS_RANGE.contains(&policy.tolerance_ms) {
                return Err(DecodeError::Invalid { field: "tolerance" });
            }
            Act::Policy(policy)
        }
        20 => Act::Propose(Terms::decode(reader.bytes16(TERMS_BYTES_MAX, "terms")?)?),
        21 => Act::Agree(SignedTerms::decode(reader)?),
        22 => Act::EndAgreement(Notice::decode(reader)?),
        23 => Act::OpenSeed(OpenSeed {
            code: reader.invite_key("seed code")?,
            quota_bytes: reader.u64("seed code")?,
            until_ms: reader.u64("seed code")?,
            expires_ms: reader.u64("seed code")?,
        }),
        24 => Act::RedeemSeed(RedeemedSeed {
            grant: SeederGrant::decode(reader)?,
            code: reader.invite_key("seed code")?,
            signature: reader.array("signature")?,
        }),
        _ => return Err(DecodeError::Invalid { field: "record type" }),
    })
}

/// Whether the signatures inside an act hold, and it speaks of the record's own folder.
pub(super) fn holds(act: &Act, folder: FolderId) -> bool {
    match act {
        Act::Propose(terms) => terms.folder == folder,
        Act::Agree(signed) => signed.terms.folder == folder && signed.holds(),
        Act::EndAgreement(notice) => notice.folder == folder && notice.holds(),
        Act::RedeemSeed(redeemed) => redeemed.covers(folder),
        _ => true,
    }
}

/// An act of each type of this file, of folder `[1; 32]`, for the round trips in `access.rs` and the vectors.
#[cfg(test)]
pub(crate) fn one_of_each() -> Vec<Act> {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::agreement::tests;
    use super::receipt::peer_id_of;

    let key = SigningKey::from_bytes(&[9; 32]);
    let code = InviteKey(key.verifying_key().to_bytes());
    let grant = SeederGrant {
        peer_id: peer_id_of(&tests::key().verifying_key().to_bytes()),
        kem: KemKey([8; 32]),
        quota_bytes: 1 << 40,
        until_ms: 0,
        addresses: vec![vec![4, 127, 0, 0, 1]],
        swarm_epoch: EpochId([6; 32]),
        swarm_box: [9; BOX_BYTES],
    };
    let seeder =
        SeederAddress { peer_id: grant.peer_id.clone(), kem: grant.kem, addresses: grant.addresses.clone() };
    let signature = key.sign(&seed_bytes([1; FOLDER_PREFIX_BYTES], &seeder)).to_bytes();
    let mut ours = tests::notice();
    ours.by = super::agreement::Side::Folder;
    vec![
        Act::Policy(CopiesPolicy { copies: 3, tolerance_ms: 7 * 86_400_000 }),
        Act::Propose(tests::terms()),
        Act::Agree(tests::signed()),
        Act::EndAgreement(tests::notice()),
        Act::EndAgreement(ours),
        Act::OpenSeed(OpenSeed { code, quota_bytes: 1 << 40, until_ms: 0, expires_ms: 9 }),
        Act::RedeemSeed(RedeemedSeed { grant, code, signature }),
    ]
}
