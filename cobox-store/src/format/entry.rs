//! Entries of a device's log (`docs/format.md`, "Entries"): a clear, signed header and a sealed body.
//!
//! A seeder reads headers; only members open bodies. [`UnverifiedEntry::verify`] is the one way from
//! foreign bytes to an [`Entry`].

use ed25519_dalek::{Signature, VerifyingKey};

use super::codec::{DecodeError, Reader, Writer};
use super::op::OpGroup;
use super::pack::{DirectoryRow, PackRef, decode_directory, encode_directory, is_size_class};
use super::{DEPS_MAX, ENTRY_BODY_BYTES_MAX, ENTRY_GROUPS_MAX, ENTRY_PACKS_MAX, HEADS_MAX, padme};
use crate::id::{EntryHash, EpochId, FolderId, LogId, RecordHash, hash};

/// What is signed is this and the header's hash.
pub const ENTRY_CONTEXT: &[u8] = b"cobox/v1/entry";
/// Bytes that sealing adds to a body: 24 of nonce, 16 of tag.
pub const BODY_OVERHEAD_BYTES: usize = 40;

/// The clear part of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Of which folder.
    pub folder: FolderId,
    /// Whose log.
    pub log: LogId,
    /// 1 for the first entry of a log.
    pub seq: u64,
    /// The entry before; zeros for the first.
    pub prev: EntryHash,
    /// Heads of the access log the author acted under, strictly ascending.
    pub access_heads: Vec<RecordHash>,
    /// Whose keys seal the body and the packs.
    pub epoch: EpochId,
    /// Packs it adds (or lists again), none twice.
    pub packs: Vec<PackRef>,
    /// Bytes of the sealed body.
    pub body_size: u32,
    /// BLAKE3 of the sealed body.
    pub body_hash: [u8; 32],
}

impl Header {
    /// The fields before `body_size`: their hash is the body's associated data.
    #[must_use]
    pub fn encode_start(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u8(super::SUITE);
        writer.fixed(&self.folder.0);
        writer.fixed(&self.log.0);
        writer.u64(self.seq);
        writer.fixed(&self.prev.0);
        writer.count(self.access_heads.len());
        for head in &self.access_heads {
            writer.fixed(&head.0);
        }
        writer.fixed(&self.epoch.0);
        writer.count(self.packs.len());
        for pack in &self.packs {
            writer.fixed(&pack.id.0);
            writer.u64(pack.size);
        }
        writer.into_bytes()
    }

    /// The whole header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.encode_start();
        bytes.extend_from_slice(&self.body_size.to_le_bytes());
        bytes.extend_from_slice(&self.body_hash);
        bytes
    }

    /// The entry's name.
    #[must_use]
    pub fn hash(&self) -> EntryHash {
        EntryHash(hash(&self.encode()))
    }

    /// What the author signs.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        [ENTRY_CONTEXT, &self.hash().0].concat()
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "entry header";
        reader.version(1, field)?;
        reader.suite()?;
        let folder = reader.folder_id("folder")?;
        let log = reader.log_id("log")?;
        let seq = reader.u64("seq")?;
        let prev = reader.entry_hash("prev")?;
        let head_count = reader.count(HEADS_MAX, 32, "access heads")?;
        let access_heads: Vec<RecordHash> =
            (0..head_count).map(|_| reader.record_hash("access heads")).collect::<Result<_, _>>()?;
        let epoch = reader.epoch_id("epoch")?;
        let pack_count = reader.count(ENTRY_PACKS_MAX, 40, "packs")?;
        let packs: Vec<PackRef> = (0..pack_count)
            .map(|_| Ok(PackRef { id: reader.pack_id("packs")?, size: reader.u64("packs")? }))
            .collect::<Result<_, DecodeError>>()?;
        let header = Self {
            folder,
            log,
            seq,
            prev,
            access_heads,
            epoch,
            packs,
            body_size: reader.u32("body size")?,
            body_hash: reader.array("body hash")?,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let ascending = self.access_heads.windows(2).all(|pair| pair[0] < pair[1]);
        let first = self.prev == EntryHash([0; 32]);
        let body = self.body_size as usize;
        let body_right = body > BODY_OVERHEAD_BYTES && body <= ENTRY_BODY_BYTES_MAX;
        if self.access_heads.is_empty() || !ascending {
            return Err(DecodeError::Invalid { field: "access heads" });
        }
        if self.seq == 0 || (self.seq == 1) != first {
            return Err(DecodeError::Invalid { field: "seq" });
        }
        let repeated = |at: usize| self.packs[..at].iter().any(|pack| pack.id == self.packs[at].id);
        if (0..self.packs.len()).any(|at| !is_size_class(self.packs[at].size) || repeated(at)) {
            return Err(DecodeError::Invalid { field: "packs" });
        }
        if !body_right {
            return Err(DecodeError::Invalid { field: "body size" });
        }
        Ok(())
    }
}

/// An entry whose shape, body hash and signature were checked. Whether its author may write, and
/// whether it continues the chain, is the log's question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    header: Header,
    signature: [u8; 64],
    body: Vec<u8>,
}

/// An entry as it came from a peer or the disk: well formed, nothing more.
#[derive(Debug)]
pub struct UnverifiedEntry(Entry);

/// Why an entry's proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// The body is not the one the header names.
    #[error("the body does not match its hash")]
    Body,
    /// The signature is not the author's.
    #[error("the signature is wrong")]
    Signature,
}

impl UnverifiedEntry {
    /// Reads `header ‖ signature ‖ body`.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header = Header::decode(&mut reader)?;
        let signature = reader.array("signature")?;
        let body = reader.fixed(header.body_size as usize, "body")?.to_vec();
        reader.finish()?;
        Ok(Self(Entry { header, signature, body }))
    }

    /// What it claims to be.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// The bytes it was read from; what is read re-encodes to the same.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// Checks the body's hash and the author's signature.
    ///
    /// # Errors
    /// The fault; the entry is consumed either way.
    pub fn verify(self) -> Result<Entry, EntryFault> {
        let Self(entry) = self;
        if hash(&entry.body) != entry.header.body_hash {
            return Err(EntryFault::Body);
        }
        let key = VerifyingKey::from_bytes(&entry.header.log.0).map_err(|_| EntryFault::Signature)?;
        let signature = Signature::from_bytes(&entry.signature);
        key.verify_strict(&entry.header.signed_bytes(), &signature).map_err(|_| EntryFault::Signature)?;
        Ok(entry)
    }
}

impl Entry {
    /// An entry that this device has just signed.
    #[must_use]
    pub fn new(header: Header, signature: [u8; 64], body: Vec<u8>) -> Self {
        Self { header, signature, body }
    }

    /// The clear part.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The author's signature over the header.
    #[must_use]
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// The sealed body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// `header ‖ signature ‖ body`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header.encode();
        bytes.extend_from_slice(&self.signature);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A log's state as an entry depends on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LogHead {
    /// Which log.
    pub log: LogId,
    /// Its last entry's number.
    pub seq: u64,
    /// Its last entry's hash.
    pub hash: EntryHash,
}

/// The plaintext of a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body {
    /// Heads of the other logs that the author had applied, ascending by log.
    pub deps: Vec<LogHead>,
    /// The author's clock when it was cut.
    pub hlc: u64,
    /// In order of their clocks.
    pub groups: Vec<OpGroup>,
    /// For each pack of the header: its directory, or `None` where the pack is listed again.
    pub directories: Vec<Option<Vec<DirectoryRow>>>,
    /// Running check of convergence; zeros where the author did not compute it.
    pub state_sum: [u8; 32],
}

impl Body {
    /// The padded plaintext: `u32 length ‖ payload ‖ zeros` up to the PADMÉ length.
    ///
    /// Near [`ENTRY_BODY_BYTES_MAX`] the padding stops at the maximum.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u32(0);
        writer.count(self.deps.len());
        for dep in &self.deps {
            writer.fixed(&dep.log.0);
            writer.u64(dep.seq);
            writer.fixed(&dep.hash.0);
        }
        writer.u64(self.hlc);
        writer.count(self.groups.len());
        for group in &self.groups {
            group.encode(&mut writer);
        }
        writer.count(self.directories.len());
        for directory in &self.directories {
            writer.u8(u8::from(directory.is_some()));
            if let Some(rows) = directory {
                encode_directory(rows, &mut writer);
            }
        }
        writer.fixed(&self.state_sum);
        let mut bytes = writer.into_bytes();
        let payload_bytes = u32::try_from(bytes.len() - 4).expect("a body is below 1 MiB");
        bytes[..4].copy_from_slice(&payload_bytes.to_le_bytes());
        let padded = padded_bytes(bytes.len());
        bytes.resize(padded, 0);
        bytes
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces, also padding that is not zero or not of the right length.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let payload = reader.bytes32(ENTRY_BODY_BYTES_MAX, "body payload")?;
        let padding = reader.rest();
        if padding.iter().any(|byte| *byte != 0) || padded_bytes(payload.len() + 4) != bytes.len() {
            return Err(DecodeError::Invalid { field: "body padding" });
        }
        let mut reader = Reader::new(payload);
        let dep_count = reader.count(DEPS_MAX, 72, "deps")?;
        let deps: Vec<LogHead> = (0..dep_count)
            .map(|_| {
                Ok(LogHead {
                    log: reader.log_id("deps")?,
                    seq: reader.u64("deps")?,
                    hash: reader.entry_hash("deps")?,
                })
            })
            .collect::<Result<_, DecodeError>>()?;
        if deps.windows(2).any(|pair| pair[0].log >= pair[1].log) {
            return Err(DecodeError::Invalid { field: "deps" });
        }
        let hlc = reader.u64("hlc")?;
        let group_count = reader.count(ENTRY_GROUPS_MAX, 11, "groups")?;
        let groups: Vec<OpGroup> =
            (0..group_count).map(|_| OpGroup::decode(&mut reader)).collect::<Result<_, _>>()?;
        if groups.windows(2).any(|pair| pair[0].hlc_last() >= pair[1].hlc) {
            return Err(DecodeError::Invalid { field: "groups" });
        }
        let directory_count = reader.count(ENTRY_PACKS_MAX, 1, "directories")?;
        let directories = (0..directory_count)
            .map(|_| Ok(if reader.flag("directory")? { Some(decode_directory(&mut reader)?) } else { None }))
            .collect::<Result<_, DecodeError>>()?;
        let state_sum = reader.array("state sum")?;
        reader.finish()?;
        Ok(Self { deps, hlc, groups, directories, state_sum })
    }
}

fn padded_bytes(len: usize) -> usize {
    let most = ENTRY_BODY_BYTES_MAX - BODY_OVERHEAD_BYTES;
    let padded = usize::try_from(padme(len as u64)).expect("a length fits memory");
    padded.min(most.max(len))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;
    use crate::format::op::Op;
    use crate::id::PackId;

    fn signed(key: &SigningKey, body: &[u8]) -> Entry {
        let header = Header {
            folder: FolderId([1; 32]),
            log: LogId(key.verifying_key().to_bytes()),
            seq: 1,
            prev: EntryHash([0; 32]),
            access_heads: vec![RecordHash([2; 32])],
            epoch: EpochId([3; 32]),
            packs: vec![PackRef { id: PackId([4; 32]), size: 4096 }],
            body_size: u32::try_from(body.len()).expect("small"),
            body_hash: hash(body),
        };
        let signature = key.sign(&header.signed_bytes()).to_bytes();
        Entry::new(header, signature, body.to_vec())
    }

    #[test]
    fn entry_round_trips_and_verifies() {
        let entry = signed(&SigningKey::from_bytes(&[7; 32]), &[5; 100]);
        let read = UnverifiedEntry::decode(&entry.encode()).expect("decodes").verify().expect("verifies");
        assert_eq!(read, entry);
    }

    #[test]
    fn entry_with_any_bit_flipped_is_refused() {
        let bytes = signed(&SigningKey::from_bytes(&[7; 32]), &[5; 60]).encode();
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            let verified = UnverifiedEntry::decode(&bent).ok().and_then(|entry| entry.verify().ok());
            assert_eq!(verified, None, "byte {at}");
        }
    }

    #[test]
    fn body_round_trips_and_is_padded() {
        let body = Body {
            deps: vec![LogHead { log: LogId([1; 32]), seq: 4, hash: EntryHash([2; 32]) }],
            hlc: 9,
            groups: vec![
                OpGroup { hlc: 1, ops: vec![Op::Ack, Op::Ack] },
                OpGroup { hlc: 3, ops: vec![Op::Ack] },
            ],
            directories: vec![None],
            state_sum: [0; 32],
        };
        let bytes = body.encode();
        assert_eq!(bytes.len() as u64, padme(bytes.len() as u64));
        assert_eq!(Body::decode(&bytes), Ok(body));
    }
}
