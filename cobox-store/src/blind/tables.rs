//! Every key of the database begins here: local folder number, table, and the rest.
//!
//! One enum lists all tables of all layers, so that two of them can never share a byte. The layers
//! above own the layout of their rows; this file owns the prefix.

use crate::id::FolderNo;

/// Rows that belong to the store itself, not to one folder.
pub const STORE: FolderNo = FolderNo(0);

/// Which table a row belongs to: the fifth byte of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Table {
    // blind: 0x01..=0x1f
    /// [`STORE`]: folder id → folder number (u32 LE).
    FolderById = 0x01,
    /// [`STORE`]: folder number (u32 BE) → folder id.
    FolderByNo = 0x02,
    /// [`STORE`]: name → u64 LE; the ordinals that the next packs take.
    Counter = 0x03,
    /// [`STORE`]: locator id → locator.
    Locator = 0x04,
    /// position (u64 BE) → access record; positions put parents before children.
    AccessRecord = 0x05,
    /// record hash → position (u64 BE).
    AccessByHash = 0x06,
    /// log id → last seq (u64 LE), last hash.
    LogHead = 0x07,
    /// log id, seq (u64 BE) → header, signature.
    EntryHeader = 0x08,
    /// log id, seq (u64 BE) → sealed body.
    EntryBody = 0x09,
    /// log id, seq (u64 BE), hash of the proof → two signed headers that follow one entry.
    Equivocation = 0x0a,
    /// pack id → size, ordinal, have-state of a pack that is here, wholly or partly.
    PackInfo = 0x0b,
    /// pack id → the outboard's chaining values.
    Outboard = 0x0c,
    /// pack id → size: a pack that entries refer to.
    Live = 0x0d,
    /// pack id → size: a live pack that is not wholly here.
    Missing = 0x0e,
    /// counter's name → u64 LE: the folder's bytes and packs.
    Usage = 0x0f,
    /// `quota` → bytes and end of the grant.
    Quota = 0x10,
    /// seeder peer id → its newest receipt.
    Receipt = 0x11,
    /// name → value: settings of the blind layer and of the network.
    BlindSetting = 0x12,
    /// [`STORE`]: pack ordinal (u64 BE) → nothing: slices that no row refers to.
    Garbage = 0x13,
    /// [`STORE`]: folder and member with their length (u8), locator id → size (u64 LE): what a member left here.
    LocatorOf = 0x14,
    /// pack id → size: a live pack in which damage was found, until it is whole again.
    Damaged = 0x15,
    /// pack id, log id → size, the last entry of that log that lists the pack, when it was first seen.
    Listed = 0x16,
    /// pack id, record hash → nothing: a release names the pack.
    Named = 0x17,
    /// pack id → size, until when it is kept: no entry that counts lists it any more.
    Released = 0x18,
    /// [`STORE`]: locator id → folder, member: who left it here.
    LocatorBy = 0x19,
    /// [`STORE`]: folder id → bytes of all locators that its members left here (u64 LE).
    LocatorSum = 0x1a,
    /// branch id → its log, what it branches off, from which seq (u64 LE), its first entry.
    Branch = 0x1b,
    /// [`STORE`]: admin's key → rank, registration, last number, name.
    Admin = 0x1c,
    /// [`STORE`]: claim's key → rank, expiry, name: a code that is open.
    Claim = 0x1d,
    /// [`STORE`]: claim's key → admin's key: a code that was used.
    ClaimUsed = 0x1e,
    /// [`STORE`]: admin's key, registration, number (u64 BE) → a command and what came of it.
    Command = 0x1f,
    // keyed: 0x20..=0x3f
    /// Keys of the folder, sealed.
    Secret = 0x20,
    /// Chunk tag → where it is.
    TagIndex = 0x21,
    /// A pack that no entry names yet.
    PendingPack = 0x22,
    /// Directory of a pending pack.
    PackDirectory = 0x23,
    /// Settings of the member.
    Setting = 0x24,
    /// pack id → size (u64 LE): the next entry lists it again.
    Owed = 0x25,
    /// pack id → what this device called for means with it: u8.
    Candidate = 0x26,
    /// Chunk tag, pack id → where else the chunk is.
    OtherPlace = 0x27,
    /// log id, seq (u64 BE) → what the entry's body is made of, instead of [`Self::EntryBody`].
    EntryKept = 0x28,
    // tree and vfs: 0x40..=0x5f
    /// Inodes.
    Node = 0x40,
    /// Links.
    Link = 0x41,
    /// Names in a directory.
    Dirent = 0x42,
    /// Extended attributes.
    Xattr = 0x43,
    /// Ops that no entry holds yet.
    Pending = 0x44,
    /// Bytes of files that no entry holds yet.
    Dirty = 0x45,
    /// What a dirty file looks like.
    DirtyMark = 0x46,
    /// How far each log was applied.
    Applied = 0x47,
    /// Inodes without a name that are still open.
    Orphan = 0x48,
    /// Moves of directories.
    DirMove = 0x49,
    /// Where people may have to look.
    Note = 0x4a,
    /// number (u64 BE) → what rows call by it.
    Short = 0x4b,
    /// Everything of the tree that is one row.
    Misc = 0x4f,
}

/// The key of a row.
#[must_use]
pub fn key(no: FolderNo, table: Table, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + rest.len());
    key.extend_from_slice(&no.0.to_be_bytes());
    key.push(table as u8);
    key.extend_from_slice(rest);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_two_folders_never_share_a_prefix() {
        assert_eq!(key(FolderNo(1), Table::Node, b"x"), [0, 0, 0, 1, 0x40, b'x']);
        assert!(key(FolderNo(1), Table::Misc, &[0xff; 40]) < key(FolderNo(2), Table::FolderById, b""));
    }
}
