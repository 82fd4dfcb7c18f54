//! Claims and commands (`docs/format.md`, "Owners and commands"): how a seeder gets an owner, and what its
//! admins tell it to do.
//!
//! Pure layouts. A command is for one seeder, of one registration of one admin, with a number of its own, and
//! good until it expires. The list of what can be told is closed: nothing here runs a program, names a
//! path or brings an update.

use ed25519_dalek::{Signature, VerifyingKey};

use super::codec::{DecodeError, Reader, Writer};
use crate::id::{AdminKey, ChainId, ClaimKey, FolderId, hash};

/// What both keys of a claim sign is this and the hash of its fields.
pub const CLAIM_CONTEXT: &[u8] = b"cobox/v1/claim";
/// What an admin signs is this and the hash of a command's fields.
pub const COMMAND_CONTEXT: &[u8] = b"cobox/v1/command";
/// What an admin is called.
pub const ADMIN_NAME_BYTES_MAX: usize = 64;
/// The id of a grant that waits is 33 letters; a code at most 1,023.
pub const COMMAND_TEXT_BYTES_MAX: usize = 1_100;
/// A command, encoded, at the most.
pub const COMMAND_BYTES_MAX: usize = 2_048;

/// What an admin may tell a seeder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// Looks.
    Watcher = 1,
    /// Looks, and decides what is held.
    Keeper = 2,
    /// Everything, other admins too.
    Owner = 3,
}

impl Rank {
    /// Reads its byte.
    ///
    /// # Errors
    /// On any other byte.
    pub fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        match byte {
            1 => Ok(Self::Watcher),
            2 => Ok(Self::Keeper),
            3 => Ok(Self::Owner),
            _ => Err(DecodeError::Invalid { field: "rank" }),
        }
    }
}

/// A device asks to become an admin of a seeder: with a code, or with the recovery key that an admin left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The seeder's Ed25519 libp2p key: no other seeder takes this.
    pub seeder: [u8; 32],
    /// The code's key, or a recovery key.
    pub claim: ClaimKey,
    /// The key that will sign commands.
    pub admin: AdminKey,
    /// A key that follows from the member's words, which may claim the same place again; zeros for none.
    pub recovery: ClaimKey,
    /// What the device is called in the seeder's list of admins.
    pub name: String,
    /// By the claim's key.
    pub claim_signature: [u8; 64],
    /// By the admin's key.
    pub admin_signature: [u8; 64],
}

impl Claim {
    fn encode_start(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u8(super::SUITE);
        writer.fixed(&self.seeder);
        writer.fixed(&self.claim.0);
        writer.fixed(&self.admin.0);
        writer.fixed(&self.recovery.0);
        writer.bytes16(self.name.as_bytes());
        writer.into_bytes()
    }

    /// What both keys sign.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        [CLAIM_CONTEXT, &hash(&self.encode_start())].concat()
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.encode_start();
        bytes.extend_from_slice(&self.claim_signature);
        bytes.extend_from_slice(&self.admin_signature);
        bytes
    }

    /// The claim's key in what may be a claim; nothing else of it is looked at.
    #[must_use]
    pub fn key_in(bytes: &[u8]) -> Option<ClaimKey> {
        let field = "claim";
        let mut reader = Reader::new(bytes);
        reader.version(1, field).ok()?;
        reader.suite().ok()?;
        reader.array::<32>(field).ok()?;
        reader.array(field).ok().map(ClaimKey)
    }

    /// Reads what [`Self::encode`] wrote, and checks both signatures.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "claim";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        reader.suite()?;
        let claim = Self {
            seeder: reader.array(field)?,
            claim: ClaimKey(reader.array(field)?),
            admin: AdminKey(reader.array(field)?),
            recovery: ClaimKey(reader.array(field)?),
            name: name(&mut reader)?,
            claim_signature: reader.array(field)?,
            admin_signature: reader.array(field)?,
        };
        reader.finish()?;
        let signed = claim.signed_bytes();
        if verifies(&claim.claim.0, &signed, &claim.claim_signature)
            && verifies(&claim.admin.0, &signed, &claim.admin_signature)
        {
            Ok(claim)
        } else {
            Err(DecodeError::Invalid { field })
        }
    }
}

/// What a seeder is told to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Take a grant that waits, under the terms that its id names.
    Seed {
        /// As the list of what waits shows it.
        id: String,
    },
    /// Refuse one.
    Refuse {
        /// Its id, or the beginning of it.
        id: String,
    },
    /// Redeem a seed code.
    SeedCode {
        /// The code.
        code: String,
    },
    /// Let a folder go.
    Unseed {
        /// Which.
        folder: FolderId,
    },
    /// Change how much is accepted of a folder, and until when.
    Quota {
        /// Which.
        folder: FolderId,
        /// How much.
        quota_bytes: u64,
        /// Until when; 0 for no end.
        until_ms: u64,
    },
    /// Take part in nothing until told to go on.
    Pause,
    /// Go on.
    Resume,
    /// What is held.
    Status,
    /// What waits, what was ordered, and what was refused.
    Report,
    /// Who the admins are.
    Admins,
    /// Let somebody become an admin with a code.
    Invite {
        /// The code's key.
        claim: ClaimKey,
        /// As what.
        rank: Rank,
        /// Until when the code is good.
        expires_ms: u64,
        /// What it is called.
        name: String,
    },
    /// Remove an admin, or take back a code.
    Dismiss {
        /// The admin's key, or the code's.
        key: AdminKey,
    },
    /// Give notice of an agreement's end.
    EndAgreement {
        /// Of which folder.
        folder: FolderId,
    },
}

impl Order {
    /// Who may give it.
    #[must_use]
    pub fn rank(&self) -> Rank {
        match self {
            Self::Status | Self::Report => Rank::Watcher,
            Self::Admins | Self::Invite { .. } | Self::Dismiss { .. } => Rank::Owner,
            _ => Rank::Keeper,
        }
    }

    /// What it is called.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Seed { .. } => "seed",
            Self::Refuse { .. } => "refuse",
            Self::SeedCode { .. } => "seed code",
            Self::Unseed { .. } => "unseed",
            Self::Quota { .. } => "quota",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Status => "status",
            Self::Report => "report",
            Self::Admins => "admins list",
            Self::Invite { .. } => "admins add",
            Self::Dismiss { .. } => "admins remove",
            Self::EndAgreement { .. } => "agreement end",
        }
    }

    fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Seed { id } => numbered(writer, 1, id.as_bytes()),
            Self::Refuse { id } => numbered(writer, 2, id.as_bytes()),
            Self::SeedCode { code } => numbered(writer, 3, code.as_bytes()),
            Self::Unseed { folder } => {
                writer.u8(4);
                writer.fixed(&folder.0);
            }
            Self::Quota { folder, quota_bytes, until_ms } => {
                writer.u8(5);
                writer.fixed(&folder.0);
                writer.u64(*quota_bytes);
                writer.u64(*until_ms);
            }
            Self::Pause => writer.u8(6),
            Self::Resume => writer.u8(7),
            Self::Status => writer.u8(8),
            Self::Report => writer.u8(9),
            Self::Admins => writer.u8(10),
            Self::Invite { claim, rank, expires_ms, name } => {
                writer.u8(11);
                writer.fixed(&claim.0);
                writer.u8(*rank as u8);
                writer.u64(*expires_ms);
                writer.bytes16(name.as_bytes());
            }
            Self::Dismiss { key } => {
                writer.u8(12);
                writer.fixed(&key.0);
            }
            Self::EndAgreement { folder } => {
                writer.u8(13);
                writer.fixed(&folder.0);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "order";
        Ok(match reader.u8(field)? {
            1 => Self::Seed { id: text(reader)? },
            2 => Self::Refuse { id: text(reader)? },
            3 => Self::SeedCode { code: text(reader)? },
            4 => Self::Unseed { folder: reader.folder_id(field)? },
            5 => Self::Quota {
                folder: reader.folder_id(field)?,
                quota_bytes: reader.u64(field)?,
                until_ms: reader.u64(field)?,
            },
            6 => Self::Pause,
            7 => Self::Resume,
            8 => Self::Status,
            9 => Self::Report,
            10 => Self::Admins,
            11 => Self::Invite {
                claim: ClaimKey(reader.array(field)?),
                rank: Rank::from_byte(reader.u8(field)?)?,
                expires_ms: reader.u64(field)?,
                name: name(reader)?,
            },
            12 => Self::Dismiss { key: AdminKey(reader.array(field)?) },
            13 => Self::EndAgreement { folder: reader.folder_id(field)? },
            _ => return Err(DecodeError::Invalid { field }),
        })
    }
}

fn numbered(writer: &mut Writer, kind: u8, bytes: &[u8]) {
    writer.u8(kind);
    writer.bytes16(bytes);
}

fn text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let invalid = DecodeError::Invalid { field: "order" };
    let bytes = reader.bytes16(COMMAND_TEXT_BYTES_MAX, "order")?;
    if bytes.is_ascii() { String::from_utf8(bytes.to_vec()).map_err(|_| invalid) } else { Err(invalid) }
}

/// A name without line breaks and other controls, which would spoil lists and logs.
fn name(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let invalid = DecodeError::Invalid { field: "name" };
    let bytes = reader.bytes16(ADMIN_NAME_BYTES_MAX, "name")?;
    let name = std::str::from_utf8(bytes).map_err(|_| invalid)?;
    if name.chars().any(char::is_control) { Err(invalid) } else { Ok(name.to_owned()) }
}

fn verifies(key: &[u8; 32], bytes: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(key)
        .is_ok_and(|key| key.verify_strict(bytes, &Signature::from_bytes(signature)).is_ok())
}

/// A command, signed or about to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// The seeder's Ed25519 libp2p key: no other seeder obeys.
    pub seeder: [u8; 32],
    /// Who gives it.
    pub admin: AdminKey,
    /// Which registration of the admin: one that was dismissed and came again begins another.
    pub chain: ChainId,
    /// Its number there; each is used once.
    pub seq: u64,
    /// The admin's clock, milliseconds since 1970.
    pub issued_ms: u64,
    /// It is refused later, by the seeder's clock.
    pub expires_ms: u64,
    /// What.
    pub order: Order,
    /// By the admin's key.
    pub signature: [u8; 64],
}

/// A command as it came from a peer.
#[derive(Debug)]
pub struct UnverifiedCommand(Command);

impl Command {
    fn encode_start(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u8(super::SUITE);
        writer.fixed(&self.seeder);
        writer.fixed(&self.admin.0);
        writer.fixed(&self.chain.0);
        writer.u64(self.seq);
        writer.u64(self.issued_ms);
        writer.u64(self.expires_ms);
        self.order.encode(&mut writer);
        writer.into_bytes()
    }

    /// What the admin signs.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        [COMMAND_CONTEXT, &hash(&self.encode_start())].concat()
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.encode_start();
        bytes.extend_from_slice(&self.signature);
        bytes
    }
}

impl UnverifiedCommand {
    /// Reads what [`Command::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "command";
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(DecodeError::Invalid { field });
        }
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        reader.suite()?;
        let command = Command {
            seeder: reader.array(field)?,
            admin: AdminKey(reader.array(field)?),
            chain: ChainId(reader.array(field)?),
            seq: reader.u64(field)?,
            issued_ms: reader.u64(field)?,
            expires_ms: reader.u64(field)?,
            order: Order::decode(&mut reader)?,
            signature: reader.array(field)?,
        };
        reader.finish()?;
        Ok(Self(command))
    }

    /// The bytes it was read from.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// Who it says it is from.
    #[must_use]
    pub fn admin(&self) -> AdminKey {
        self.0.admin
    }

    /// Checks the admin's signature.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn verify(self) -> Result<Command, super::access::WrongSignature> {
        let Self(command) = self;
        if verifies(&command.admin.0, &command.signed_bytes(), &command.signature) {
            Ok(command)
        } else {
            Err(super::access::WrongSignature)
        }
    }
}

/// An order of each kind, for round trips and vectors.
#[doc(hidden)]
#[must_use]
pub fn one_of_each() -> Vec<Order> {
    let folder = FolderId([3; 32]);
    vec![
        Order::Seed { id: "0011-2233".into() },
        Order::Refuse { id: "0011".into() },
        Order::SeedCode { code: "coboxseed1qqq".into() },
        Order::Unseed { folder },
        Order::Quota { folder, quota_bytes: 1 << 30, until_ms: 5 },
        Order::Pause,
        Order::Resume,
        Order::Status,
        Order::Report,
        Order::Admins,
        Order::Invite { claim: ClaimKey([4; 32]), rank: Rank::Keeper, expires_ms: 9, name: "bob".into() },
        Order::Dismiss { key: AdminKey([5; 32]) },
        Order::EndAgreement { folder },
    ]
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn command(order: Order) -> Command {
        let key = SigningKey::from_bytes(&[9; 32]);
        let mut command = Command {
            seeder: [1; 32],
            admin: AdminKey(key.verifying_key().to_bytes()),
            chain: ChainId([2; 16]),
            seq: 7,
            issued_ms: 1,
            expires_ms: 2,
            order,
            signature: [0; 64],
        };
        command.signature = key.sign(&command.signed_bytes()).to_bytes();
        command
    }

    fn verified(bytes: &[u8]) -> Option<Command> {
        UnverifiedCommand::decode(bytes).ok()?.verify().ok()
    }

    #[test]
    fn command_of_every_kind_round_trips_and_any_bit_flipped_is_refused() {
        for order in one_of_each() {
            let command = command(order);
            let bytes = command.encode();
            assert_eq!(verified(&bytes), Some(command));
            for at in 0..bytes.len() {
                let mut bent = bytes.clone();
                bent[at] ^= 0x08;
                assert_eq!(verified(&bent), None, "byte {at}");
            }
        }
    }

    #[test]
    fn claim_round_trips_and_any_bit_flipped_is_refused() {
        let (code, admin) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let mut claim = Claim {
            seeder: [7; 32],
            claim: ClaimKey(code.verifying_key().to_bytes()),
            admin: AdminKey(admin.verifying_key().to_bytes()),
            recovery: ClaimKey([0; 32]),
            name: "laptop".into(),
            claim_signature: [0; 64],
            admin_signature: [0; 64],
        };
        claim.claim_signature = code.sign(&claim.signed_bytes()).to_bytes();
        claim.admin_signature = admin.sign(&claim.signed_bytes()).to_bytes();
        let bytes = claim.encode();
        assert_eq!(Claim::decode(&bytes), Ok(claim));
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 0x08;
            assert!(Claim::decode(&bent).is_err(), "byte {at}");
        }
    }
}
