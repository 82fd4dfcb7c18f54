//! The key slots of a device (`docs/format.md`, "Key slots"): its master key, wrapped once per way of
//! unlocking.
//!
//! `version ‖ suite ‖ count ‖ slot*`; a slot is its kind, the kind's parameters, and the wrapped key.
//! The bytes of a slot before the wrapped key are part of its associated data.

use super::SUITE;
use super::codec::{DecodeError, Reader, Writer};

/// What a slot's associated data begins with.
pub const SLOT_CONTEXT: &[u8] = b"cobox/v1/slot";
/// A wrapped master key: nonce, 32 bytes, tag.
pub const WRAPPED_KEY_BYTES: usize = 24 + 32 + 16;
/// Slots of one device at the most: a few passphrases and files.
pub const SLOTS_MAX: usize = 16;
/// Memory that a slot may ask for at the most, so that a planted file cannot exhaust the machine.
pub const ARGON2_KIB_MAX: u32 = 1024 * 1024;
/// Passes that a slot may ask for at the most.
pub const ARGON2_PASSES_MAX: u32 = 16;

/// How a slot's wrapping key is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotKind {
    /// Argon2id (version 0x13, one lane) of a passphrase.
    Passphrase {
        /// Random.
        salt: [u8; 16],
        /// KiB of memory.
        memory_kib: u32,
        /// Passes over it.
        passes: u32,
    },
    /// `DK("key file slot", the 32 bytes of a file)`.
    KeyFile,
}

impl SlotKind {
    /// The clear part of a slot.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match self {
            Self::Passphrase { salt, memory_kib, passes } => {
                writer.u8(1);
                writer.fixed(salt);
                writer.u32(*memory_kib);
                writer.u32(*passes);
            }
            Self::KeyFile => writer.u8(2),
        }
        writer.into_bytes()
    }

    /// The associated data of the wrapped key.
    #[must_use]
    pub fn associated_data(&self) -> Vec<u8> {
        [SLOT_CONTEXT, &[SUITE], &self.encode()].concat()
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "key slot";
        match reader.u8(field)? {
            1 => {
                let salt = reader.array(field)?;
                let (memory_kib, passes) = (reader.u32(field)?, reader.u32(field)?);
                // Argon2 itself needs 8 KiB and one pass.
                if !(8..=ARGON2_KIB_MAX).contains(&memory_kib) || !(1..=ARGON2_PASSES_MAX).contains(&passes) {
                    return Err(DecodeError::Invalid { field });
                }
                Ok(Self::Passphrase { salt, memory_kib, passes })
            }
            2 => Ok(Self::KeyFile),
            _ => Err(DecodeError::Invalid { field }),
        }
    }
}

/// One way to the master key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slot {
    /// How the wrapping key is found.
    pub kind: SlotKind,
    /// The master key under it.
    pub wrapped: [u8; WRAPPED_KEY_BYTES],
}

/// The whole file.
#[must_use]
pub fn encode_slots(slots: &[Slot]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(1);
    writer.u8(SUITE);
    writer.count(slots.len());
    for slot in slots {
        writer.fixed(&slot.kind.encode());
        writer.fixed(&slot.wrapped);
    }
    writer.into_bytes()
}

/// Reads what [`encode_slots`] wrote.
///
/// # Errors
/// On anything no writer produces.
pub fn decode_slots(bytes: &[u8]) -> Result<Vec<Slot>, DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.version(1, "key slots")?;
    reader.suite()?;
    let count = reader.count(SLOTS_MAX, 1 + WRAPPED_KEY_BYTES, "key slots")?;
    let slots = (0..count)
        .map(|_| Ok(Slot { kind: SlotKind::decode(&mut reader)?, wrapped: reader.array("key slot")? }))
        .collect::<Result<Vec<_>, DecodeError>>()?;
    reader.finish()?;
    if slots.is_empty() {
        return Err(DecodeError::Invalid { field: "key slots" });
    }
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_round_trip_and_bound_their_cost() {
        let kind = SlotKind::Passphrase { salt: [1; 16], memory_kib: 65536, passes: 3 };
        let slots = vec![
            Slot { kind, wrapped: [2; WRAPPED_KEY_BYTES] },
            Slot { kind: SlotKind::KeyFile, wrapped: [3; WRAPPED_KEY_BYTES] },
        ];
        let bytes = encode_slots(&slots);
        assert_eq!(decode_slots(&bytes), Ok(slots));
        for len in 0..bytes.len() {
            assert!(decode_slots(&bytes[..len]).is_err());
        }
        let greedy = SlotKind::Passphrase { salt: [1; 16], memory_kib: ARGON2_KIB_MAX + 1, passes: 3 };
        let bytes = encode_slots(&[Slot { kind: greedy, wrapped: [2; WRAPPED_KEY_BYTES] }]);
        assert!(decode_slots(&bytes).is_err());
        assert!(decode_slots(&encode_slots(&[])).is_err());
    }
}
