//! A receipt (`docs/format.md`, "Receipts"): what a seeder says, under its own key, that it holds.
//!
//! It answers one challenge. A copy is *proved* for a folder when the newest receipt covers the
//! folder's current heads, the set of packs held is the live set, and every sampled proof verified;
//! the verifier checks the proofs before it keeps the receipt.

use ed25519_dalek::{Signature, VerifyingKey};

use super::access::{PEER_ID_BYTES_MAX, WrongSignature};
use super::codec::{DecodeError, Reader, Writer};
use super::entry::LogHead;
use super::{DEPS_MAX, PROOF_SAMPLES};
use crate::id::{FolderId, PackId, hash};

/// What is signed is this and the hash of the fields before the signature.
pub const RECEIPT_CONTEXT: &[u8] = b"cobox/v1/receipt";
/// What the peer id of an Ed25519 key begins with: an identity multihash of a protobuf-encoded key
/// (libp2p "Peer Ids and Keys").
const ED25519_PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A receipt, signed or about to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Of which folder.
    pub folder: FolderId,
    /// Who holds it: the libp2p peer id (multihash bytes) of an Ed25519 key.
    pub seeder: Vec<u8>,
    /// The challenge's.
    pub nonce: [u8; 32],
    /// Entries held: the head of each log, ascending by log.
    pub heads: Vec<LogHead>,
    /// Live packs that the seeder holds whole.
    pub packs_held: u64,
    /// Live packs that it lacks.
    pub packs_lacking: u64,
    /// Samples in the challenge.
    pub samples_asked: u16,
    /// Samples it answered with a proof.
    pub samples_proved: u16,
    /// Entries in the challenge.
    pub entries_asked: u16,
    /// Entries it has, sound, of those.
    pub entries_proved: u16,
    /// [`super::proof::EntriesDigest`] of those.
    pub entries_digest: [u8; 32],
    /// [`live_set_digest`] of the live packs that it holds whole.
    pub live_set_digest: [u8; 32],
    /// The seeder's clock, milliseconds since 1970.
    pub time_ms: u64,
    /// By the seeder's key, over [`Self::signed_bytes`].
    pub signature: [u8; 64],
}

/// A receipt as it came from a peer or the disk.
#[derive(Debug)]
pub struct UnverifiedReceipt(Receipt);

/// `H` of the ids, one after the other, in the order given; callers give them ascending.
#[must_use]
pub fn live_set_digest<'a>(ascending: impl IntoIterator<Item = &'a PackId>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for id in ascending {
        hasher.update(&id.0);
    }
    *hasher.finalize().as_bytes()
}

/// The Ed25519 key that a peer id spells out, or `None` for a peer id of another kind of key.
#[must_use]
pub fn peer_key(peer_id: &[u8]) -> Option<[u8; 32]> {
    peer_id.strip_prefix(&ED25519_PEER_ID_PREFIX)?.try_into().ok()
}

/// The peer id of an Ed25519 key.
#[must_use]
pub fn peer_id_of(key: &[u8; 32]) -> Vec<u8> {
    [&ED25519_PEER_ID_PREFIX[..], key].concat()
}

impl Receipt {
    fn encode_start(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u8(super::SUITE);
        writer.fixed(&self.folder.0);
        writer.bytes16(&self.seeder);
        writer.fixed(&self.nonce);
        writer.count(self.heads.len());
        for head in &self.heads {
            writer.fixed(&head.log.0);
            writer.u64(head.seq);
            writer.fixed(&head.hash.0);
        }
        writer.u64(self.packs_held);
        writer.u64(self.packs_lacking);
        writer.u16(self.samples_asked);
        writer.u16(self.samples_proved);
        writer.u16(self.entries_asked);
        writer.u16(self.entries_proved);
        writer.fixed(&self.entries_digest);
        writer.fixed(&self.live_set_digest);
        writer.u64(self.time_ms);
        writer.into_bytes()
    }

    /// What the seeder signs.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        [RECEIPT_CONTEXT, &hash(&self.encode_start())].concat()
    }

    /// The whole encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.encode_start();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Whether it says that the seeder holds every live pack and proved every sample and entry.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.packs_lacking == 0
            && self.samples_proved == self.samples_asked
            && self.entries_proved == self.entries_asked
    }
}

impl UnverifiedReceipt {
    /// Reads what [`Receipt::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "receipt";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        reader.suite()?;
        let folder = reader.folder_id(field)?;
        let seeder = reader.bytes16(PEER_ID_BYTES_MAX, field)?.to_vec();
        let nonce = reader.array(field)?;
        let count = reader.count(DEPS_MAX, 72, field)?;
        let heads: Vec<LogHead> = (0..count)
            .map(|_| {
                Ok(LogHead {
                    log: reader.log_id(field)?,
                    seq: reader.u64(field)?,
                    hash: reader.entry_hash(field)?,
                })
            })
            .collect::<Result<_, DecodeError>>()?;
        let receipt = Receipt {
            folder,
            seeder,
            nonce,
            heads,
            packs_held: reader.u64(field)?,
            packs_lacking: reader.u64(field)?,
            samples_asked: reader.u16(field)?,
            samples_proved: reader.u16(field)?,
            entries_asked: reader.u16(field)?,
            entries_proved: reader.u16(field)?,
            entries_digest: reader.array(field)?,
            live_set_digest: reader.array(field)?,
            time_ms: reader.u64(field)?,
            signature: reader.array(field)?,
        };
        reader.finish()?;
        let ascending = receipt.heads.windows(2).all(|pair| pair[0].log < pair[1].log);
        let asked = usize::from(receipt.samples_asked.max(receipt.entries_asked));
        let proved = receipt.samples_proved <= receipt.samples_asked
            && receipt.entries_proved <= receipt.entries_asked;
        if !ascending || asked > PROOF_SAMPLES || !proved {
            return Err(DecodeError::Invalid { field });
        }
        Ok(Self(receipt))
    }

    /// The bytes it was read from; what is read re-encodes to the same.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// Checks the seeder's signature.
    ///
    /// # Errors
    /// [`WrongSignature`]; the receipt is consumed either way.
    pub fn verify(self) -> Result<Receipt, WrongSignature> {
        let Self(receipt) = self;
        let key = peer_key(&receipt.seeder).ok_or(WrongSignature)?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| WrongSignature)?;
        key.verify_strict(&receipt.signed_bytes(), &Signature::from_bytes(&receipt.signature))
            .map_err(|_| WrongSignature)?;
        Ok(receipt)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;
    use crate::id::{EntryHash, LogId};

    fn signed() -> Receipt {
        let key = SigningKey::from_bytes(&[7; 32]);
        let mut receipt = Receipt {
            folder: FolderId([1; 32]),
            seeder: peer_id_of(&key.verifying_key().to_bytes()),
            nonce: [2; 32],
            heads: vec![LogHead { log: LogId([3; 32]), seq: 9, hash: EntryHash([4; 32]) }],
            packs_held: 5,
            packs_lacking: 0,
            samples_asked: 459,
            samples_proved: 459,
            entries_asked: 9,
            entries_proved: 9,
            entries_digest: [7; 32],
            live_set_digest: live_set_digest(&[PackId([5; 32])]),
            time_ms: 6,
            signature: [0; 64],
        };
        receipt.signature = key.sign(&receipt.signed_bytes()).to_bytes();
        receipt
    }

    #[test]
    fn receipt_round_trips_and_verifies() {
        let receipt = signed();
        let read = UnverifiedReceipt::decode(&receipt.encode()).expect("decodes").verify();
        assert_eq!(read, Ok(receipt));
    }

    #[test]
    fn receipt_with_any_bit_flipped_is_refused() {
        let bytes = signed().encode();
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 0x10;
            assert!(
                UnverifiedReceipt::decode(&bent).ok().and_then(|found| found.verify().ok()).is_none(),
                "{at}"
            );
        }
    }
}
