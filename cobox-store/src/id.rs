//! Identifiers: one newtype for each thing that has a name in bytes.
//!
//! Nothing here holds a secret, so all of them print (as the first eight hex digits). Secrets live in
//! [`crate::keyed`] and do not.

use std::fmt;

/// BLAKE3 of `bytes`; `H` in `docs/format.md`.
#[must_use]
pub fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// BLAKE3 `derive_key("cobox 2026-11 v1 " + purpose, parts…)`; `DK` in `docs/format.md`.
///
/// `parts` are concatenated; every caller passes fixed-width parts (or one part of free length,
/// last), so that the concatenation is unambiguous.
#[must_use]
pub fn derive(purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(&format!("cobox 2026-11 v1 {purpose}"));
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Lower-case hex of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// Bytes of `text` in hex, or `None` where it is not hex.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Size of the identifier in bytes.
            pub const LEN: usize = $len;

            /// The identifier's bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The whole identifier in hex.
            #[must_use]
            pub fn to_hex(&self) -> String {
                hex(&self.0)
            }

            /// Reads what [`Self::to_hex`] writes.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                unhex(text)?.try_into().ok().map(Self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex(&self.0[..4]))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0[..4]))
            }
        }
    };
}

id!(/** A folder: the hash of its genesis record. */ FolderId, 32);
id!(/** A generation of folder keys: the hash of its `NewEpoch` record. */ EpochId, 32);
id!(/** A record of the access log: the hash of its unsigned bytes. */ RecordHash, 32);
id!(/** A device in one folder, and its log: the device's Ed25519 key for that folder. */ LogId, 32);
id!(/** A member in one folder: the member's Ed25519 recovery key for that folder. */ MemberId, 32);
id!(/** An invite: the Ed25519 key whose secret half follows from its code. */ InviteKey, 32);
id!(/** An X25519 public key that epoch keys or swarm secrets are boxed to. */ KemKey, 32);
id!(/** An entry: the hash of its header. */ EntryHash, 32);
id!(/** A pack: BLAKE3 of its bytes. */ PackId, 32);
id!(/** A chunk inside one folder and epoch: keyed BLAKE3 of its plaintext. */ ChunkTag, 32);
id!(/** A locator on a seeder, derived from the locator's verifying key. */ LocatorId, 32);
id!(/** Terms of an agreement: the hash of their bytes. */ TermsHash, 32);
id!(/** An admin of a seeder: the Ed25519 key that signs its commands to that seeder. */ AdminKey, 32);
id!(/** A claim of a seeder: the Ed25519 key whose secret half follows from its code. */ ClaimKey, 32);
id!(/** One registration of an admin at a seeder: commands of an earlier one count no more. */ ChainId, 16);
id!(/** An inode of the tree; see `docs/format.md`, "Tree". */ Ino, 16);
id!(/** A name of an inode in a directory. */ LinkId, 16);

impl LogId {
    /// The short name of the log inside an [`OpId`].
    #[must_use]
    pub fn number(&self) -> u64 {
        let full = derive("log number", &[&self.0]);
        u64::from_le_bytes(full[..8].try_into().expect("32 bytes hold 8"))
    }
}

impl Ino {
    /// The root directory of every folder.
    pub const ROOT: Self = Self([0; 16]);
}

/// The id of one op: hybrid logical clock, then the author's log number. Totally ordered.
///
/// `hlc` is milliseconds since 1970 in the upper 48 bits and a counter in the lower 16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId {
    /// Hybrid logical clock.
    pub hlc: u64,
    /// [`LogId::number`] of the author.
    pub log: u64,
}

impl OpId {
    /// The id of ops that nobody wrote: the root directory's.
    pub const ZERO: Self = Self { hlc: 0, log: 0 };

    /// Milliseconds since 1970 of the clock part.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        self.hlc >> 16
    }
}

/// The local number of a folder in one store: short, so that every key can begin with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FolderNo(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_of_any_bytes_round_trips() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&all)), Some(all));
        assert_eq!(unhex("0g"), None);
        assert_eq!(unhex("0"), None);
    }

    #[test]
    fn derive_with_another_purpose_differs() {
        assert_ne!(derive("a", &[b"x"]), derive("b", &[b"x"]));
        assert_eq!(derive("a", &[b"x", b"y"]), derive("a", &[b"xy"]));
    }
}
