//! What can go wrong at rest.

use std::path::PathBuf;

use crate::blind::db::DbFailure;
use crate::format::DecodeError;
use crate::format::entry::EntryFault;
use crate::id::{ChunkTag, EpochId, FolderId, FolderNo, LogId, PackId, RecordHash};

/// Why words are not a BIP-39 phrase of 24 English words. It does not repeat them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WordsFault {
    /// There are so many.
    #[error("there are {0} of them")]
    Count(usize),
    /// The word at this place, from 1, is not one of the list's.
    #[error("word {0} is none that is used, so it is misspelt")]
    Unknown(usize),
    /// Each is one of the list's.
    #[error("one of them is wrong, or two are swapped")]
    Checksum,
}

/// Whether the operating system refused a write for want of room: the disk is full, or the quota that whoever runs the
/// program has of it.
#[must_use]
pub fn is_full(kind: std::io::ErrorKind) -> bool {
    matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Every failure of this crate. Messages say what happened; `cobox-ctl` says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk under the store is full, or the user's or folder's quota of it; later writes work again when there is room.
    #[error("no space left on the disk of the store")]
    NoSpace,
    /// The file system under the store was made read-only; writes work again when it is writable.
    #[error("the file system of the store is read-only")]
    ReadOnlyDisk,
    /// RocksDB could not read or write.
    #[error("the database failed")]
    Db(#[source] DbFailure),
    /// The database lacks one of its files, or one is damaged. It was left as it is.
    #[error("the database in {path} is damaged: {why}")]
    Broken {
        /// The database's folder.
        path: PathBuf,
        /// What is missing or damaged, as RocksDB says it.
        why: String,
    },
    /// A file of the store could not be read or written.
    #[error("{path} cannot be used")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process has the store open.
    #[error("{path} is in use by another process")]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// A store written by an unknown program version.
    #[error("the store has format {found}, this program knows {known}")]
    StoreFormat {
        /// What the store says.
        found: u32,
        /// What this program writes.
        known: u32,
    },
    /// Not a store, or of the other kind (device or seeder).
    #[error("{path} is not a store of this kind")]
    NotAStore {
        /// The folder.
        path: PathBuf,
    },
    /// Bytes from a peer or the disk are not well formed.
    #[error("malformed bytes")]
    Decode(#[from] DecodeError),
    /// An entry's body or signature does not hold.
    #[error("an entry of log {log} is not genuine")]
    Entry {
        /// The log it claims.
        log: LogId,
        /// What is wrong.
        #[source]
        source: EntryFault,
    },
    /// An entry does not continue its log.
    #[error("entry {seq} of log {log} does not continue it")]
    Chain {
        /// The log.
        log: LogId,
        /// The entry's number.
        seq: u64,
    },
    /// Two signed entries with one number: proof that a device was cloned or lies.
    #[error("log {log} signed two entries numbered {seq}")]
    Equivocation {
        /// The log.
        log: LogId,
        /// The entry's number.
        seq: u64,
    },
    /// The author may not do this.
    #[error("{log} may not write here")]
    NotPermitted {
        /// The author.
        log: LogId,
    },
    /// An access record that no rule admits.
    #[error("access record {record} is refused")]
    Access {
        /// Which.
        record: RecordHash,
    },
    /// Parents of a record or dependencies of an entry are missing; ask for them first.
    #[error("something it builds on is missing")]
    Premature,
    /// No such folder in this store.
    #[error("folder {0} is not in this store")]
    UnknownFolder(FolderId),
    /// No folder with this local number in this store.
    #[error("folder number {} is not in this store", .0.0)]
    UnknownFolderNo(FolderNo),
    /// A pack's bytes do not match its id.
    #[error("pack {0} is damaged")]
    PackDamaged(PackId),
    /// A pack nobody referred to.
    #[error("pack {0} is not part of the folder")]
    PackUnknown(PackId),
    /// A grant's limit would be exceeded.
    #[error("the quota of {quota_bytes} bytes would be exceeded")]
    Quota {
        /// The limit.
        quota_bytes: u64,
    },
    /// A chunk is not on this device.
    #[error("chunk {0} is not on this device")]
    Absent(ChunkTag),
    /// A chunk, label or body does not open under the keys.
    #[error("sealed bytes do not open")]
    Sealed,
    /// A wrong passphrase, or a damaged slot.
    #[error("the passphrase or key file does not open the key slots")]
    WrongKey,
    /// No keys of this epoch.
    #[error("no key of epoch {0}")]
    UnknownEpoch(EpochId),
    /// Words that are not a BIP-39 phrase of 24 English words.
    #[error("these are not 24 valid recovery words: {0}")]
    Words(WordsFault),
    /// The device met an entry of its own log that it did not write.
    #[error("log {log} was continued by another copy of this device")]
    RolledBack {
        /// The device's log.
        log: LogId,
    },
    /// No folder of this device has the name.
    #[error("no folder has this name")]
    NoSuchName,
    /// It cannot be a folder's name (1 to 127 bytes, printable).
    #[error("a folder cannot have this name")]
    BadName,
    /// A folder of this device has the name.
    #[error("you have a folder {name} already")]
    NameTaken {
        /// What the folder is called.
        name: String,
    },
    /// The member's locator is full.
    #[error("a member has {0} folders at the most")]
    TooManyFolders(usize),
    /// A key file that other users can read or replace.
    #[error("{path} is open to other users")]
    KeyFileMode {
        /// The key file.
        path: PathBuf,
    },
    /// One call's effect is larger than an entry.
    #[error("one change of {bytes} bytes is larger than an entry")]
    TooLarge {
        /// Its encoded size.
        bytes: u64,
    },
    /// The access log does not name the member whose words these are.
    #[error("the folder does not know this member")]
    NotAMember,
    /// An invite that was used, taken back or has expired, or that nobody knows.
    #[error("the invite is not open")]
    InviteSpent,
    /// A list of this store is full.
    #[error("there are {max} {what} already")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many fit.
        max: usize,
    },
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    Random,
}

/// Shorthand of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Two headers do not prove that a log signed two entries with one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not hold")]
pub struct WrongProof;
