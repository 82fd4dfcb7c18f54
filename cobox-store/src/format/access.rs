//! Records of the access log (`docs/format.md`, "Access log"): who may do what in a folder.
//!
//! A clear, signed envelope; labels and secrets inside are sealed or boxed. The records form a DAG by
//! their parents. Resolving it is [`crate::blind::access`]'s work.

use ed25519_dalek::{Signature, VerifyingKey};

use super::agreement::{Notice, SignedTerms, Terms};
use super::codec::{DecodeError, Reader, Writer};
use super::entry::LogHead;
use super::membership::{self, OpenInvite, Redemption};
use super::release::{Call, Release};
pub use super::seeding::SeederGrant;
use super::seeding::{self, CopiesPolicy, OpenSeed, RedeemedSeed};
use super::{BOXES_MAX, HEADS_MAX, PREVIOUS_EPOCHS_MAX};
use crate::id::{EpochId, FolderId, InviteKey, KemKey, LogId, MemberId, RecordHash, hash};

/// What is signed is this and the record's hash.
pub const ACCESS_CONTEXT: &[u8] = b"cobox/v1/access";
/// A sealed label: 24 of nonce, 128 of padded text, 16 of tag.
pub const SEALED_LABEL_BYTES: usize = 24 + LABEL_PLAIN_BYTES + 16;
/// A label's padded plaintext: one byte of length and the text.
pub const LABEL_PLAIN_BYTES: usize = 128;
/// An HPKE box of 32 bytes: encapsulated key, ciphertext, tag.
pub const BOX_BYTES: usize = 32 + 32 + 16;
/// A wrapped parent epoch: nonce, 32 bytes, tag.
pub const WRAPPED_EPOCH_BYTES: usize = 24 + 32 + 16;
/// A libp2p peer id's multihash.
pub const PEER_ID_BYTES_MAX: usize = 64;
/// One address of a seeder in its binary form.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Addresses of one seeder.
pub const ADDRESSES_MAX: usize = 16;

/// What a device may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Role {
    /// A seeder: relays, stores, proves.
    Relay = 0,
    /// Reads.
    Read = 1,
    /// Reads and writes.
    Write = 2,
    /// Changes who may do what.
    Admin = 3,
}

impl Role {
    pub(super) fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        match byte {
            0 => Ok(Self::Relay),
            1 => Ok(Self::Read),
            2 => Ok(Self::Write),
            3 => Ok(Self::Admin),
            _ => Err(DecodeError::Invalid { field: "role" }),
        }
    }
}

/// A label under the folder's keys: see [`SEALED_LABEL_BYTES`].
pub type SealedLabel = [u8; SEALED_LABEL_BYTES];

/// A device as the record that admits it describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its signing key, which names its log.
    pub log: LogId,
    /// Its key for boxes.
    pub kem: KemKey,
    /// Whose it is.
    pub member: MemberId,
    /// The member's recovery key for boxes.
    pub recovery_kem: KemKey,
    /// What it may do.
    pub role: Role,
    /// What people call it.
    pub label: SealedLabel,
}

/// A 32-byte secret boxed to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyBox {
    /// To whom.
    pub recipient: KemKey,
    /// HPKE encapsulated key and ciphertext.
    pub sealed: [u8; BOX_BYTES],
}

/// A new generation of folder keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEpoch {
    /// `DK("epoch commit", E)`.
    pub commit: [u8; 32],
    /// `E` for each device and each member's recovery key, ascending by recipient.
    pub boxes: Vec<KeyBox>,
    /// The swarm secret for each seeder, ascending by recipient.
    pub swarm_boxes: Vec<KeyBox>,
    /// Earlier epochs, each wrapped under this `E`, ascending.
    pub previous: Vec<(EpochId, [u8; WRAPPED_EPOCH_BYTES])>,
}

/// What a record does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// The folder begins: its founder's first device. The record's hash is the folder's id.
    Genesis {
        /// Makes two folders of one founder differ.
        nonce: [u8; 32],
        /// Whether names are compared without case: 0 no, 1 yes.
        fold_case: bool,
        /// Unicode version of names, major and minor.
        unicode: [u8; 2],
        /// The first device, an admin.
        device: Device,
        /// The folder's name.
        name: SealedLabel,
    },
    /// A device joins; signed by an admin device, or by the member's recovery key.
    AddDevice {
        /// Which.
        device: Device,
    },
    /// A device joins with an invite; signed by an admin device.
    Redeem {
        /// Which.
        device: Device,
        /// What shows that its owner had the code.
        redemption: Redemption,
    },
    /// A device's log ends; the member stays.
    RemoveDevice {
        /// The last entry of it that the author knew; number 0 for none.
        last: LogHead,
    },
    /// A person goes, with all devices and the recovery key.
    RemoveMember {
        /// Who.
        member: MemberId,
        /// Where the logs of the member's devices end, ascending by log.
        logs: Vec<LogHead>,
    },
    /// What a person's devices may do from now on.
    SetRole {
        /// Who.
        member: MemberId,
        /// What.
        role: Role,
        /// Where the logs end, if the role does not write; ascending by log.
        logs: Vec<LogHead>,
    },
    /// Whoever has the code may ask to join.
    OpenInvite(OpenInvite),
    /// The code is worth nothing any more.
    VoidInvite {
        /// Which.
        invite: InviteKey,
    },
    /// A seeder may hold the folder.
    GrantSeeder(SeederGrant),
    /// A seeder is to hold it no longer.
    RevokeSeeder {
        /// Its libp2p peer id.
        peer_id: Vec<u8>,
    },
    /// What a device had of another's log when it learned that it ends.
    Vouch {
        /// The last entry.
        last: LogHead,
    },
    /// New keys. The record's hash is the epoch's id.
    NewEpoch(NewEpoch),
    /// Devices are asked to acknowledge entries, so that space can be given back.
    Call(Call),
    /// Packs that nobody needs any more.
    Release(Release),
    /// How many copies there should be.
    Policy(CopiesPolicy),
    /// What the folder's side would agree on with a seeder.
    Propose(Terms),
    /// What both sides agreed on.
    Agree(SignedTerms),
    /// When an agreement ends, said in advance.
    EndAgreement(Notice),
    /// A seeder that has the code may ask for a grant.
    OpenSeed(OpenSeed),
    /// A seeder may hold the folder; it had the code.
    RedeemSeed(RedeemedSeed),
}

impl Act {
    /// The grant in it, if it is one.
    #[must_use]
    pub fn grant(&self) -> Option<&SeederGrant> {
        match self {
            Self::GrantSeeder(grant) => Some(grant),
            Self::RedeemSeed(redeemed) => Some(&redeemed.grant),
            _ => None,
        }
    }
}

/// A record before it is signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsigned {
    /// Of which folder; zeros in the genesis.
    pub folder: FolderId,
    /// Heads of the access log the author knew, strictly ascending; empty in the genesis only.
    pub parents: Vec<RecordHash>,
    /// The key that signs: a device's or a recovery key.
    pub author: [u8; 32],
    /// The author's clock, milliseconds since 1970; for people, no rule reads it.
    pub issued_ms: u64,
    /// What it does.
    pub act: Act,
}

impl Unsigned {
    /// The canonical bytes that the hash covers.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u8(super::SUITE);
        writer.fixed(&self.folder.0);
        writer.count(self.parents.len());
        for parent in &self.parents {
            writer.fixed(&parent.0);
        }
        writer.fixed(&self.author);
        writer.u64(self.issued_ms);
        self.act.encode(&mut writer);
        writer.into_bytes()
    }

    /// The record's name.
    #[must_use]
    pub fn hash(&self) -> RecordHash {
        RecordHash(hash(&self.encode()))
    }

    /// What the author signs.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        [ACCESS_CONTEXT, &self.hash().0].concat()
    }
}

/// A record whose shape and signature were checked. Whether its author may do this is the
/// resolver's question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    content: Unsigned,
    signature: [u8; 64],
}

/// A record as it came from a peer or the disk.
#[derive(Debug)]
pub struct UnverifiedRecord(Record);

/// The author's signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is wrong")]
pub struct WrongSignature;

impl UnverifiedRecord {
    /// Reads `unsigned ‖ signature`.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version(1, "access record")?;
        reader.suite()?;
        let folder = reader.folder_id("folder")?;
        let count = reader.count(HEADS_MAX, 32, "parents")?;
        let parents: Vec<RecordHash> =
            (0..count).map(|_| reader.record_hash("parents")).collect::<Result<_, _>>()?;
        let author = reader.array("author")?;
        let issued_ms = reader.u64("issued")?;
        let act = Act::decode(&mut reader)?;
        let signature = reader.array("signature")?;
        reader.finish()?;
        let genesis = matches!(act, Act::Genesis { .. });
        let ascending = parents.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || genesis != parents.is_empty() || genesis != (folder == FolderId([0; 32])) {
            return Err(DecodeError::Invalid { field: "parents" });
        }
        Ok(Self(Record { content: Unsigned { folder, parents, author, issued_ms, act }, signature }))
    }

    /// The bytes it was read from; what is read re-encodes to the same.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// What it claims.
    #[must_use]
    pub fn content(&self) -> &Unsigned {
        &self.0.content
    }

    /// Checks the author's signature, and those of an invite, a seed code or a seeder where there is one.
    ///
    /// # Errors
    /// [`WrongSignature`]; the record is consumed either way.
    pub fn verify(self) -> Result<Record, WrongSignature> {
        let Self(record) = self;
        let key = VerifyingKey::from_bytes(&record.content.author).map_err(|_| WrongSignature)?;
        key.verify_strict(&record.content.signed_bytes(), &Signature::from_bytes(&record.signature))
            .map_err(|_| WrongSignature)?;
        if let Act::Redeem { device, redemption } = &record.content.act
            && !redemption.covers(record.content.folder, device)
        {
            return Err(WrongSignature);
        }
        if !seeding::holds(&record.content.act, record.content.folder) {
            return Err(WrongSignature);
        }
        Ok(record)
    }
}

impl Record {
    /// A record that this device has just signed.
    #[must_use]
    pub fn new(content: Unsigned, signature: [u8; 64]) -> Self {
        Self { content, signature }
    }

    /// What it says.
    #[must_use]
    pub fn content(&self) -> &Unsigned {
        &self.content
    }

    /// Its name.
    #[must_use]
    pub fn hash(&self) -> RecordHash {
        self.content.hash()
    }

    /// The folder it belongs to, which a genesis names by being it.
    #[must_use]
    pub fn folder(&self) -> FolderId {
        match self.content.act {
            Act::Genesis { .. } => FolderId(self.hash().0),
            _ => self.content.folder,
        }
    }

    /// `unsigned ‖ signature`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.content.encode();
        bytes.extend_from_slice(&self.signature);
        bytes
    }
}

impl Act {
    fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Genesis { nonce, fold_case, unicode, device, name } => {
                writer.u8(1);
                writer.fixed(nonce);
                writer.u8(u8::from(*fold_case));
                writer.fixed(unicode);
                device.encode(writer);
                writer.fixed(name);
            }
            Self::AddDevice { device } => {
                writer.u8(2);
                device.encode(writer);
            }
            Self::GrantSeeder(grant) => {
                writer.u8(8);
                grant.encode(writer);
            }
            Self::NewEpoch(epoch) => {
                writer.u8(11);
                epoch.encode(writer);
            }
            Self::Call(call) => {
                writer.u8(14);
                call.encode(writer);
            }
            Self::Release(release) => {
                writer.u8(15);
                release.encode(writer);
            }
            other => membership::encode(other, writer),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8("record type")? {
            1 => Self::Genesis {
                nonce: reader.array("nonce")?,
                fold_case: reader.flag("fold case")?,
                unicode: reader.array("unicode")?,
                device: Device::decode(reader)?,
                name: reader.array("name")?,
            },
            2 => Self::AddDevice { device: Device::decode(reader)? },
            8 => Self::GrantSeeder(SeederGrant::decode(reader)?),
            11 => Self::NewEpoch(NewEpoch::decode(reader)?),
            14 => Self::Call(Call::decode(reader)?),
            15 => Self::Release(Release::decode(reader)?),
            other => membership::decode(other, reader)?,
        })
    }
}

impl Device {
    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.log.0);
        writer.fixed(&self.kem.0);
        writer.fixed(&self.member.0);
        writer.fixed(&self.recovery_kem.0);
        writer.u8(self.role as u8);
        writer.fixed(&self.label);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            log: reader.log_id("device")?,
            kem: reader.kem_key("device")?,
            member: reader.member_id("device")?,
            recovery_kem: reader.kem_key("device")?,
            role: Role::from_byte(reader.u8("role")?)?,
            label: reader.array("label")?,
        })
    }
}

impl NewEpoch {
    fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.commit);
        for boxes in [&self.boxes, &self.swarm_boxes] {
            writer.count(boxes.len());
            for key_box in boxes {
                writer.fixed(&key_box.recipient.0);
                writer.fixed(&key_box.sealed);
            }
        }
        writer.count(self.previous.len());
        for (epoch, wrapped) in &self.previous {
            writer.fixed(&epoch.0);
            writer.fixed(wrapped);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let commit = reader.array("commit")?;
        let boxes = decode_boxes(reader)?;
        let swarm_boxes = decode_boxes(reader)?;
        let field = "previous epochs";
        let count = reader.count(PREVIOUS_EPOCHS_MAX, 32 + WRAPPED_EPOCH_BYTES, field)?;
        let previous: Vec<_> = (0..count)
            .map(|_| Ok((reader.epoch_id(field)?, reader.array(field)?)))
            .collect::<Result<_, DecodeError>>()?;
        if previous.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(DecodeError::Invalid { field });
        }
        Ok(Self { commit, boxes, swarm_boxes, previous })
    }
}

fn decode_boxes(reader: &mut Reader<'_>) -> Result<Vec<KeyBox>, DecodeError> {
    let field = "boxes";
    let count = reader.count(BOXES_MAX, 32 + BOX_BYTES, field)?;
    let boxes: Vec<KeyBox> = (0..count)
        .map(|_| Ok(KeyBox { recipient: reader.kem_key(field)?, sealed: reader.array(field)? }))
        .collect::<Result<_, DecodeError>>()?;
    if boxes.windows(2).any(|pair| pair[0].recipient >= pair[1].recipient) {
        return Err(DecodeError::Invalid { field });
    }
    Ok(boxes)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn one_of_each() -> Vec<Unsigned> {
        let device = Device {
            log: LogId([1; 32]),
            kem: KemKey([2; 32]),
            member: MemberId([3; 32]),
            recovery_kem: KemKey([4; 32]),
            role: Role::Admin,
            label: [5; SEALED_LABEL_BYTES],
        };
        let epoch = NewEpoch {
            commit: [1; 32],
            boxes: vec![KeyBox { recipient: KemKey([1; 32]), sealed: [2; BOX_BYTES] }],
            swarm_boxes: vec![],
            previous: vec![(EpochId([6; 32]), [7; WRAPPED_EPOCH_BYTES])],
        };
        let grant = SeederGrant {
            peer_id: vec![0, 1, 2],
            kem: KemKey([8; 32]),
            quota_bytes: 1 << 40,
            until_ms: 0,
            addresses: vec![vec![4, 127, 0, 0, 1]],
            swarm_epoch: EpochId([6; 32]),
            swarm_box: [9; BOX_BYTES],
        };
        let genesis = Act::Genesis {
            nonce: [0; 32],
            fold_case: false,
            unicode: [17, 0],
            device: device.clone(),
            name: [1; SEALED_LABEL_BYTES],
        };
        let usual = [
            genesis,
            Act::AddDevice { device: device.clone() },
            Act::GrantSeeder(grant),
            Act::NewEpoch(epoch),
        ];
        usual
            .into_iter()
            .chain(membership::one_of_each(&device))
            .chain(seeding::one_of_each())
            .chain(super::super::release::one_of_each())
            .map(|act| {
                let genesis = matches!(act, Act::Genesis { .. });
                Unsigned {
                    folder: FolderId([if genesis { 0 } else { 1 }; 32]),
                    parents: if genesis { vec![] } else { vec![RecordHash([1; 32])] },
                    author: SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes(),
                    issued_ms: 5,
                    act,
                }
            })
            .collect()
    }

    #[test]
    fn record_of_every_type_round_trips_and_verifies() {
        let key = SigningKey::from_bytes(&[7; 32]);
        for content in one_of_each() {
            let record = Record::new(content.clone(), key.sign(&content.signed_bytes()).to_bytes());
            let read = UnverifiedRecord::decode(&record.encode()).expect("decodes").verify();
            assert_eq!(read, Ok(record));
        }
    }

    #[test]
    fn record_with_any_bit_flipped_is_refused() {
        let key = SigningKey::from_bytes(&[7; 32]);
        for content in one_of_each() {
            let bytes = Record::new(content.clone(), key.sign(&content.signed_bytes()).to_bytes()).encode();
            for at in 0..bytes.len() {
                let mut bent = bytes.clone();
                bent[at] ^= 0x80;
                let verified = UnverifiedRecord::decode(&bent).ok().and_then(|record| record.verify().ok());
                assert_eq!(verified, None, "byte {at}");
            }
        }
    }
}
