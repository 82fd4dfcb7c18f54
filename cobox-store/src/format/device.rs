//! What a device keeps for itself (`docs/format.md`, "Local rows"): plaintexts of sealed rows, and the
//! high-water marks beside the database.
//!
//! Most of it is secret: what decodes it is cleared when dropped, and has no `Debug`.

use zeroize::{Zeroize as _, Zeroizing};

use super::codec::{DecodeError, Reader, Writer};
use super::locator::LOCATOR_FOLDERS_MAX;
use super::pack::{ChunkType, DirectoryRow, PackRef, decode_directory, encode_directory};
use crate::id::{EntryHash, EpochId, KemKey, LogId, MemberId, PackId, hash};

/// A label or name of this device at the most.
const TEXT_BYTES_MAX: usize = 255;

/// The device itself.
pub struct DeviceRow {
    /// What people call it.
    pub label: String,
    /// Ed25519 seed of its libp2p identity.
    pub net_seed: Zeroizing<[u8; 32]>,
    /// Ed25519 seed of the member's locator.
    pub locator_sign: Zeroizing<[u8; 32]>,
    /// Key of the locator's inside.
    pub locator_seal: Zeroizing<[u8; 32]>,
    /// The member's recovery public keys, by index.
    pub recovery: Vec<(MemberId, KemKey)>,
}

impl DeviceRow {
    /// The row's plaintext.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.bytes16(self.label.as_bytes());
        for secret in [&self.net_seed, &self.locator_sign, &self.locator_seal] {
            writer.fixed(secret.as_ref());
        }
        writer.count(self.recovery.len());
        for (member, kem) in &self.recovery {
            writer.fixed(&member.0);
            writer.fixed(&kem.0);
        }
        Zeroizing::new(writer.into_bytes())
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "device row";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let label = text(&mut reader, field)?;
        let (net_seed, locator_sign) = (secret(&mut reader, field)?, secret(&mut reader, field)?);
        let locator_seal = secret(&mut reader, field)?;
        let count = reader.count(LOCATOR_FOLDERS_MAX, 64, field)?;
        let recovery = (0..count)
            .map(|_| Ok((reader.member_id(field)?, reader.kem_key(field)?)))
            .collect::<Result<_, DecodeError>>()?;
        reader.finish()?;
        Ok(Self { label, net_seed, locator_sign, locator_seal, recovery })
    }
}

/// The device's part in one folder.
pub struct FolderRow {
    /// By which index the member's recovery keys are derived.
    pub index: u32,
    /// What the member calls the folder.
    pub name: String,
    /// Ed25519 seed of the device's key in the folder.
    pub sign_seed: Zeroizing<[u8; 32]>,
    /// Seed of its key for boxes.
    pub kem_seed: Zeroizing<[u8; 32]>,
}

impl FolderRow {
    /// The row's plaintext.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u32(self.index);
        writer.bytes16(self.name.as_bytes());
        writer.fixed(self.sign_seed.as_ref());
        writer.fixed(self.kem_seed.as_ref());
        Zeroizing::new(writer.into_bytes())
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "folder row";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let (index, name) = (reader.u32(field)?, text(&mut reader, field)?);
        let (sign_seed, kem_seed) = (secret(&mut reader, field)?, secret(&mut reader, field)?);
        reader.finish()?;
        Ok(Self { index, name, sign_seed, kem_seed })
    }
}

fn text(reader: &mut Reader<'_>, field: &'static str) -> Result<String, DecodeError> {
    let bytes = reader.bytes16(TEXT_BYTES_MAX, field)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid { field })
}

fn secret(reader: &mut Reader<'_>, field: &'static str) -> Result<Zeroizing<[u8; 32]>, DecodeError> {
    let mut bytes: [u8; 32] = reader.array(field)?;
    let secret = Zeroizing::new(bytes);
    bytes.zeroize();
    Ok(secret)
}

/// Where a chunk is: the value of a row of the tag index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TagRow {
    /// In which pack.
    pub pack: PackId,
    /// From which byte.
    pub offset: u32,
    /// Its sealed length.
    pub len: u32,
    /// What it holds.
    pub chunk_type: ChunkType,
}

impl TagRow {
    /// The row's plaintext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.fixed(&self.pack.0);
        writer.u32(self.offset);
        writer.u32(self.len);
        writer.u8(self.chunk_type as u8);
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "tag row";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let row = Self {
            pack: reader.pack_id(field)?,
            offset: reader.u32(field)?,
            len: reader.u32(field)?,
            chunk_type: ChunkType::from_byte(reader.u8(field)?)?,
        };
        reader.finish()?;
        Ok(row)
    }
}

/// A pack that is stored and that no entry names yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingRow {
    /// Which.
    pub pack: PackRef,
    /// Whose keys seal it.
    pub epoch: EpochId,
    /// Its chunks.
    pub directory: Vec<DirectoryRow>,
}

impl PendingRow {
    /// The row's plaintext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.fixed(&self.pack.id.0);
        writer.u64(self.pack.size);
        writer.fixed(&self.epoch.0);
        encode_directory(&self.directory, &mut writer);
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "pending pack";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let row = Self {
            pack: PackRef { id: reader.pack_id(field)?, size: reader.u64(field)? },
            epoch: reader.epoch_id(field)?,
            directory: decode_directory(&mut reader)?,
        };
        reader.finish()?;
        Ok(row)
    }
}

/// How far this device has written one log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Which log.
    pub log: LogId,
    /// Its last entry's number.
    pub seq: u64,
    /// Its last entry's hash.
    pub hash: EntryHash,
}

/// One mark in the file of high-water marks: version, log, seq, hash, zeros, and the first 16 bytes of
/// their hash. 128 bytes never cross a disk sector.
pub const MARK_BYTES: usize = 128;
const MARK_CHECK_BYTES: usize = 16;

impl Mark {
    /// The mark's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; MARK_BYTES] {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.fixed(&self.log.0);
        writer.u64(self.seq);
        writer.fixed(&self.hash.0);
        let mut bytes = writer.into_bytes();
        bytes.resize(MARK_BYTES - MARK_CHECK_BYTES, 0);
        let check = hash(&bytes);
        bytes.extend_from_slice(&check[..MARK_CHECK_BYTES]);
        bytes.try_into().expect("padded to its length")
    }

    /// Reads what [`Self::encode`] wrote; `None` where a write was torn or nothing was written.
    #[must_use]
    pub fn decode(bytes: &[u8; MARK_BYTES]) -> Option<Self> {
        let (body, check) = bytes.split_at(MARK_BYTES - MARK_CHECK_BYTES);
        if hash(body)[..MARK_CHECK_BYTES] != *check {
            return None;
        }
        let mut reader = Reader::new(body);
        reader.version(1, "mark").ok()?;
        Some(Self {
            log: reader.log_id("mark").ok()?,
            seq: reader.u64("mark").ok()?,
            hash: reader.entry_hash("mark").ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_round_trip() {
        let row = DeviceRow {
            label: "laptop".into(),
            net_seed: Zeroizing::new([1; 32]),
            locator_sign: Zeroizing::new([2; 32]),
            locator_seal: Zeroizing::new([3; 32]),
            recovery: vec![(MemberId([4; 32]), KemKey([5; 32])); 64],
        };
        let bytes = row.encode();
        assert_eq!(DeviceRow::decode(&bytes).expect("decodes").encode(), bytes);
        let row = FolderRow {
            index: 3,
            name: "photos".into(),
            sign_seed: Zeroizing::new([1; 32]),
            kem_seed: Zeroizing::new([2; 32]),
        };
        let bytes = row.encode();
        assert_eq!(FolderRow::decode(&bytes).expect("decodes").encode(), bytes);
        assert!(FolderRow::decode(&bytes[1..]).is_err());
    }

    #[test]
    fn torn_mark_is_no_mark() {
        let mark = Mark { log: LogId([1; 32]), seq: 7, hash: EntryHash([2; 32]) };
        let mut bytes = mark.encode();
        assert_eq!(Mark::decode(&bytes), Some(mark));
        bytes[40] ^= 1;
        assert_eq!(Mark::decode(&bytes), None);
        assert_eq!(Mark::decode(&[0; MARK_BYTES]), None);
    }
}
