//! A seeder that this device commands, as the device keeps it (`docs/format.md`, section 15.2). Sealed at
//! rest: the key that signs commands is made for this one seeder.

use zeroize::Zeroizing;

use super::address::SeederAddress;
use super::codec::{DecodeError, Reader, Writer};
use super::command::{ADMIN_NAME_BYTES_MAX, COMMAND_BYTES_MAX, Rank};
use crate::id::ChainId;

/// An address, encoded, at the most: sixteen of 256 bytes, and a head.
const ADDRESS_BYTES_MAX: usize = 8 * 1024;

/// One such seeder.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnedRow {
    /// What the member calls it.
    pub name: String,
    /// Where it is.
    pub address: SeederAddress,
    /// The seed of the key that signs commands to it.
    pub sign_seed: Zeroizing<[u8; 32]>,
    /// This registration.
    pub chain: ChainId,
    /// What may be ordered.
    pub rank: Rank,
    /// The number of the last command that was signed.
    pub seq: u64,
    /// The recovery key's index that may claim this place again; 255 for none.
    pub recovery: u8,
    /// The last command, while its answer has not come; else empty.
    pub unanswered: Vec<u8>,
}

impl OwnedRow {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.bytes16(self.name.as_bytes());
        writer.bytes16(&self.address.encode());
        writer.fixed(self.sign_seed.as_slice());
        writer.fixed(&self.chain.0);
        writer.u8(self.rank as u8);
        writer.u64(self.seq);
        writer.u8(self.recovery);
        writer.bytes16(&self.unanswered);
        Zeroizing::new(writer.into_bytes())
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "owned seeder";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let name = std::str::from_utf8(reader.bytes16(ADMIN_NAME_BYTES_MAX, field)?)
            .map_err(|_| DecodeError::Invalid { field })?
            .to_owned();
        let address = SeederAddress::decode(reader.bytes16(ADDRESS_BYTES_MAX, field)?)?;
        let row = Self {
            name,
            address,
            sign_seed: Zeroizing::new(reader.array(field)?),
            chain: ChainId(reader.array(field)?),
            rank: Rank::from_byte(reader.u8(field)?)?,
            seq: reader.u64(field)?,
            recovery: reader.u8(field)?,
            unanswered: reader.bytes16(COMMAND_BYTES_MAX, field)?.to_vec(),
        };
        reader.finish()?;
        Ok(row)
    }
}
