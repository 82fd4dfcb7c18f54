//! The address of a seeder (`docs/format.md`, "Addresses"): one string that a person can paste.
//!
//! It names the seeder's libp2p peer id, the key that swarm secrets are boxed to, and where it
//! listens. Nothing in it is secret.

use super::access::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, PEER_ID_BYTES_MAX};
use super::codec::{DecodeError, Reader, Writer};
use crate::id::{KemKey, hash};

/// What an address begins with, so that a person knows what it is.
pub const ADDRESS_PREFIX: &str = "cobox-seeder-";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const CHECK_BYTES: usize = 4;

/// How to reach a seeder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeederAddress {
    /// libp2p peer id (multihash bytes).
    pub peer_id: Vec<u8>,
    /// X25519 key for boxes.
    pub kem: KemKey,
    /// Binary multiaddrs.
    pub addresses: Vec<Vec<u8>>,
}

impl SeederAddress {
    /// The binary form, as locators keep it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.bytes16(&self.peer_id);
        writer.fixed(&self.kem.0);
        writer.count(self.addresses.len());
        for address in &self.addresses {
            writer.bytes16(address);
        }
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.version(1, "seeder address")?;
        let peer_id = reader.bytes16(PEER_ID_BYTES_MAX, "peer id")?.to_vec();
        let kem = reader.kem_key("seeder key")?;
        let count = reader.count(ADDRESSES_MAX, 2, "addresses")?;
        let addresses = (0..count)
            .map(|_| Ok(reader.bytes16(ADDRESS_BYTES_MAX, "address")?.to_vec()))
            .collect::<Result<_, DecodeError>>()?;
        reader.finish()?;
        Ok(Self { peer_id, kem, addresses })
    }

    /// The string: prefix, then base32 (RFC 4648, lower case, no padding) of the binary form and the
    /// first four bytes of its hash.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = self.encode();
        let check = hash(&bytes);
        bytes.extend_from_slice(&check[..CHECK_BYTES]);
        format!("{ADDRESS_PREFIX}{}", base32(&bytes))
    }

    /// Reads what [`Self::to_text`] wrote, in either case.
    ///
    /// # Errors
    /// When it is not an address, or was mistyped.
    pub fn from_text(text: &str) -> Result<Self, DecodeError> {
        let invalid = DecodeError::Invalid { field: "seeder address" };
        let text = text.trim().to_ascii_lowercase();
        let bytes = text.strip_prefix(ADDRESS_PREFIX).and_then(unbase32).ok_or(invalid)?;
        let at = bytes.len().checked_sub(CHECK_BYTES).ok_or(invalid)?;
        let (body, check) = bytes.split_at(at);
        if hash(body)[..CHECK_BYTES] != *check {
            return Err(invalid);
        }
        Self::decode(body)
    }
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    for group in bytes.chunks(5) {
        let mut word = [0u8; 8];
        word[3..3 + group.len()].copy_from_slice(group);
        let value = u64::from_be_bytes(word);
        for digit in 0..(group.len() * 8).div_ceil(5) {
            text.push(char::from(ALPHABET[(value >> (35 - 5 * digit)) as usize & 31]));
        }
    }
    text
}

fn unbase32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut value, mut bits) = (0u32, 0u32);
    for byte in text.bytes() {
        let digit = ALPHABET.iter().position(|letter| *letter == byte)?;
        value = value << 5 | u32::try_from(digit).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((value >> bits) as u8);
            value &= (1 << bits) - 1;
        }
    }
    // Left-over bits are zero and fewer than a digit, so that one address has one spelling.
    (value == 0 && bits < 5).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_round_trips_and_a_typing_error_is_found() {
        for peer_bytes in 0..12 {
            let address = SeederAddress {
                peer_id: vec![7; peer_bytes],
                kem: KemKey([1; 32]),
                addresses: vec![vec![4, 127, 0, 0, 1, 6, 0x0f, 0xa1]],
            };
            let text = address.to_text();
            assert_eq!(SeederAddress::from_text(&text), Ok(address.clone()));
            assert_eq!(SeederAddress::from_text(&text.to_uppercase()), Ok(address));
            for at in ADDRESS_PREFIX.len()..text.len() {
                let other = if &text[at..=at] == "a" { "b" } else { "a" };
                let bent = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                assert!(SeederAddress::from_text(&bent).is_err());
            }
        }
    }
}
