//! The primitives of every stored and sent encoding: little-endian, fixed width, length-prefixed.
//!
//! A [`Reader`] checks every length against what is left before anything is allocated, and
//! [`Reader::finish`] refuses trailing bytes. Together with strict enumerations this makes each
//! encoding canonical: what decodes, re-encodes to the same bytes.

use crate::id::{
    ChunkTag, EntryHash, EpochId, FolderId, Ino, InviteKey, KemKey, LinkId, LogId, MemberId, OpId, PackId,
    RecordHash,
};

/// Why foreign bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end in the middle of `field`.
    #[error("{field} is cut short")]
    Short {
        /// What was being read.
        field: &'static str,
    },
    /// There are bytes after the end.
    #[error("{extra} bytes too many")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A field holds a value that no writer produces.
    #[error("{field} is not valid")]
    Invalid {
        /// What was being read.
        field: &'static str,
    },
    /// A newer program wrote this.
    #[error("format version {found} of {field} is unknown")]
    Version {
        /// What was being read.
        field: &'static str,
        /// The version byte.
        found: u8,
    },
    /// Another suite of algorithms; refused, never negotiated.
    #[error("suite {found} is unknown")]
    Suite {
        /// The suite byte.
        found: u8,
    },
}

/// The one suite: BLAKE3, ChaCha20-Poly1305, Ed25519, X25519.
pub const SUITE: u8 = 1;

/// Appends fields to a buffer.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes written so far, owned.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// How many bytes have been written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes, two's complement.
    pub fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes whose length the reader knows.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A `u16` length and the bytes.
    ///
    /// # Panics
    /// When `bytes` is longer than 65,535; the limits of [`crate::format`] keep callers below.
    pub fn bytes16(&mut self, bytes: &[u8]) {
        self.u16(u16::try_from(bytes.len()).expect("a short field is shorter than 64 KiB"));
        self.fixed(bytes);
    }

    /// A `u32` length and the bytes.
    ///
    /// # Panics
    /// When `bytes` is longer than 4 GiB.
    pub fn bytes32(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("a field is shorter than 4 GiB"));
        self.fixed(bytes);
    }

    /// A `u16` count, for a list that follows.
    ///
    /// # Panics
    /// When the list is longer than 65,535.
    pub fn count(&mut self, count: usize) {
        self.u16(u16::try_from(count).expect("a list is shorter than 65,536"));
    }

    /// An op id: `hlc`, `log`.
    pub fn op_id(&mut self, id: OpId) {
        self.u64(id.hlc);
        self.u64(id.log);
    }

    /// A list of op ids with its count.
    pub fn op_ids(&mut self, ids: &[OpId]) {
        self.count(ids.len());
        for id in ids {
            self.op_id(*id);
        }
    }
}

/// Takes fields off the front of foreign bytes.
pub struct Reader<'a> {
    rest: &'a [u8],
}

macro_rules! read_id {
    ($($method:ident -> $id:ident),* $(,)?) => {
        $(
            #[doc = concat!("A [`", stringify!($id), "`].")]
            ///
            /// # Errors
            /// When the bytes end first.
            pub fn $method(&mut self, field: &'static str) -> Result<$id, DecodeError> {
                self.array(field).map($id)
            }
        )*
    };
}

macro_rules! read_int {
    ($($method:ident),* $(,)?) => {
        $(
            /// A little-endian integer.
            ///
            /// # Errors
            /// When the bytes end first.
            pub fn $method(&mut self, field: &'static str) -> Result<$method, DecodeError> {
                self.array(field).map($method::from_le_bytes)
            }
        )*
    };
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { extra }),
        }
    }

    /// `len` bytes.
    ///
    /// # Errors
    /// When the bytes end first.
    pub fn fixed(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Short { field })?;
        self.rest = rest;
        Ok(taken)
    }

    /// `N` bytes.
    ///
    /// # Errors
    /// When the bytes end first.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        self.fixed(N, field).map(|bytes| bytes.try_into().expect("fixed returns what was asked"))
    }

    read_int!(u8, u16, u32, u64, i64);

    read_id!(
        folder_id -> FolderId, epoch_id -> EpochId, record_hash -> RecordHash, log_id -> LogId,
        member_id -> MemberId, invite_key -> InviteKey, kem_key -> KemKey, entry_hash -> EntryHash, pack_id -> PackId,
        chunk_tag -> ChunkTag, ino -> Ino, link_id -> LinkId,
    );

    /// A `u16` length of at most `max`, and as many bytes.
    ///
    /// # Errors
    /// When the bytes end first or the length exceeds `max`.
    pub fn bytes16(&mut self, max: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = usize::from(self.u16(field)?);
        if len > max {
            return Err(DecodeError::Invalid { field });
        }
        self.fixed(len, field)
    }

    /// A `u32` length of at most `max`, and as many bytes.
    ///
    /// # Errors
    /// When the bytes end first or the length exceeds `max`.
    pub fn bytes32(&mut self, max: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u32(field)? as usize;
        if len > max {
            return Err(DecodeError::Invalid { field });
        }
        self.fixed(len, field)
    }

    /// A `u16` count of at most `max`, each item taking `item_bytes` or more of what is left.
    ///
    /// # Errors
    /// When the count exceeds `max` or could not fit.
    pub fn count(
        &mut self,
        max: usize,
        item_bytes: usize,
        field: &'static str,
    ) -> Result<usize, DecodeError> {
        let count = usize::from(self.u16(field)?);
        if count > max {
            return Err(DecodeError::Invalid { field });
        }
        if count.saturating_mul(item_bytes) > self.left() {
            return Err(DecodeError::Short { field });
        }
        Ok(count)
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid { field }),
        }
    }

    /// The version byte of a layout that has only version `known`.
    ///
    /// # Errors
    /// [`DecodeError::Version`] for any other.
    pub fn version(&mut self, known: u8, field: &'static str) -> Result<(), DecodeError> {
        match self.u8(field)? {
            found if found == known => Ok(()),
            found => Err(DecodeError::Version { field, found }),
        }
    }

    /// The suite byte.
    ///
    /// # Errors
    /// [`DecodeError::Suite`] for an unknown suite.
    pub fn suite(&mut self) -> Result<(), DecodeError> {
        match self.u8("suite")? {
            SUITE => Ok(()),
            found => Err(DecodeError::Suite { found }),
        }
    }

    /// An op id.
    ///
    /// # Errors
    /// When the bytes end first.
    pub fn op_id(&mut self, field: &'static str) -> Result<OpId, DecodeError> {
        Ok(OpId { hlc: self.u64(field)?, log: self.u64(field)? })
    }

    /// A strictly ascending list of at most `max` op ids.
    ///
    /// # Errors
    /// When the list is too long, cut short or not strictly ascending.
    pub fn op_ids(&mut self, max: usize, field: &'static str) -> Result<Vec<OpId>, DecodeError> {
        let count = self.count(max, 16, field)?;
        let ids = (0..count).map(|_| self.op_id(field)).collect::<Result<Vec<_>, _>>()?;
        if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(DecodeError::Invalid { field });
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_at_a_huge_count_refuses_before_allocating() {
        let mut reader = Reader::new(&[0xff, 0xff, 0, 0]);
        assert_eq!(reader.op_ids(usize::MAX, "ids"), Err(DecodeError::Short { field: "ids" }));
    }

    #[test]
    fn reader_with_trailing_bytes_refuses() {
        let mut reader = Reader::new(&[1, 2]);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.finish(), Err(DecodeError::Trailing { extra: 1 }));
    }

    #[test]
    fn op_ids_out_of_order_are_refused() {
        let mut writer = Writer::new();
        writer.op_ids(&[OpId { hlc: 2, log: 0 }, OpId { hlc: 1, log: 0 }]);
        let bytes = writer.into_bytes();
        assert!(Reader::new(&bytes).op_ids(8, "ids").is_err());
    }
}
