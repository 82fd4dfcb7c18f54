//! Two signed entries that follow the same one (`docs/format.md`, section 9.3): proof that a device was
//! cloned or lies.
//!
//! Headers say all there is to prove, so anybody can check it without the bodies.

use ed25519_dalek::{Signature, VerifyingKey};

use super::codec::{DecodeError, Reader, Writer};
use super::entry::{Entry, Header};
use crate::error::WrongProof;
use crate::id::{EntryHash, FolderId, LogId};

/// A header and its signature at the most: 64 packs, 64 access heads, and what stands around them.
const SIGNED_BYTES_MAX: usize = 8192;

/// One of the two.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Signed {
    header: Header,
    signature: [u8; 64],
}

/// A proof whose signatures hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Equivocation(Signed, Signed);

/// A proof as it came from a peer or the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnverifiedEquivocation(Equivocation);

impl Equivocation {
    /// Of two verified entries; `None` where they are one, or do not follow the same entry of one log.
    #[must_use]
    pub fn of(one: &Entry, other: &Entry) -> Option<Self> {
        let signed = |entry: &Entry| Signed { header: entry.header().clone(), signature: *entry.signature() };
        let (mut one, mut other) = (signed(one), signed(other));
        if one.header.hash() > other.header.hash() {
            std::mem::swap(&mut one, &mut other);
        }
        let proof = Self(one, other);
        proof.is_one().then_some(proof)
    }

    /// Of an entry that follows the same one as the two that are proved; `None` where it does not, or is the
    /// lower of them.
    #[must_use]
    pub fn beside(&self, entry: &Entry) -> Option<Self> {
        let one = self.0.clone();
        let other = Signed { header: entry.header().clone(), signature: *entry.signature() };
        let swap = one.header.hash() > other.header.hash();
        let proof = if swap { Self(other, one) } else { Self(one, other) };
        proof.is_one().then_some(proof)
    }

    /// Of which folder.
    #[must_use]
    pub fn folder(&self) -> FolderId {
        self.0.header.folder
    }

    /// Whose log.
    #[must_use]
    pub fn log(&self) -> LogId {
        self.0.header.log
    }

    /// The number that both have.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.0.header.seq
    }

    /// The entry that both follow; zeros for none.
    #[must_use]
    pub fn prev(&self) -> EntryHash {
        self.0.header.prev
    }

    /// The two entries, ascending.
    #[must_use]
    pub fn entries(&self) -> [EntryHash; 2] {
        [self.0.header.hash(), self.1.header.hash()]
    }

    /// `version ‖ two of (header ‖ signature), ascending by the headers' hashes`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        for signed in [&self.0, &self.1] {
            writer.bytes32(&[&signed.header.encode()[..], &signed.signature].concat());
        }
        writer.into_bytes()
    }

    fn is_one(&self) -> bool {
        let (one, other) = (&self.0.header, &self.1.header);
        one.hash() < other.hash()
            && (one.folder, one.log, one.seq, one.prev) == (other.folder, other.log, other.seq, other.prev)
    }
}

impl UnverifiedEquivocation {
    /// Reads what [`Equivocation::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "equivocation";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let mut signed = || {
            let mut inner = Reader::new(reader.bytes32(SIGNED_BYTES_MAX, field)?);
            let signed = Signed { header: Header::decode(&mut inner)?, signature: inner.array(field)? };
            inner.finish()?;
            Ok(signed)
        };
        let proof = Equivocation(signed()?, signed()?);
        reader.finish()?;
        if proof.is_one() { Ok(Self(proof)) } else { Err(DecodeError::Invalid { field }) }
    }

    /// The bytes it was read from.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    /// Checks both signatures.
    ///
    /// # Errors
    /// [`WrongProof`]; the proof is consumed either way.
    pub fn verify(self) -> Result<Equivocation, WrongProof> {
        let Self(proof) = self;
        let key = VerifyingKey::from_bytes(&proof.log().0).map_err(|_| WrongProof)?;
        for signed in [&proof.0, &proof.1] {
            let signature = Signature::from_bytes(&signed.signature);
            key.verify_strict(&signed.header.signed_bytes(), &signature).map_err(|_| WrongProof)?;
        }
        Ok(proof)
    }
}
