//! A folder with its keys in memory.

use std::sync::Arc;

use super::chunker::Chunker;
use super::local::LocalKeys;
use super::seal::SealedChunk;
use super::secret::Secret32;
use crate::blind::{Batch, Store};
use crate::error::Result;
use crate::format::access::Record;
use crate::format::address::SeederAddress;
use crate::format::content::ChunkRef;
use crate::format::entry::{Body, Entry, LogHead};
use crate::format::op::OpGroup;
use crate::format::pack::ChunkType;
use crate::id::{FolderId, FolderNo, LogId, PackId};

/// A folder that this device can read and, where its role allows, write.
pub struct Folder {
    local: LocalKeys,
    store: Arc<Store>,
}

impl Folder {
    /// Which folder.
    #[must_use]
    pub fn id(&self) -> FolderId {
        todo!()
    }

    /// Its number in this store.
    #[must_use]
    pub fn no(&self) -> FolderNo {
        todo!()
    }

    /// What the member calls it.
    #[must_use]
    pub fn name(&self) -> String {
        todo!()
    }

    /// This device's log in the folder.
    #[must_use]
    pub fn log(&self) -> LogId {
        todo!()
    }

    /// [`LogId::number`] of [`Self::log`].
    #[must_use]
    pub fn log_number(&self) -> u64 {
        todo!()
    }

    /// Where it is stored.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The keys of its local rows.
    #[must_use]
    pub fn local(&self) -> &LocalKeys {
        &self.local
    }

    /// This device's label.
    #[must_use]
    pub fn device_label(&self) -> String {
        todo!()
    }

    /// The label of the device that writes `log`, where it opens.
    #[must_use]
    pub fn label_of(&self, log: &LogId) -> Option<String> {
        let _ = log;
        todo!()
    }

    /// The label of the device whose [`LogId::number`] is `log_number`.
    #[must_use]
    pub fn label_of_number(&self, log_number: u64) -> Option<String> {
        let _ = log_number;
        todo!()
    }

    /// The swarm secret of the newest epoch.
    ///
    /// # Errors
    /// When no epoch's key is known.
    pub fn swarm_secret(&self) -> Result<Secret32> {
        todo!()
    }

    /// The swarm secrets of all epochs, newest first.
    #[must_use]
    pub fn swarm_secrets(&self) -> Vec<Secret32> {
        todo!()
    }

    /// Signs a session's transcript with the device's key for this folder.
    #[must_use]
    pub fn sign_session(&self, transcript: &[u8]) -> [u8; 64] {
        let _ = transcript;
        todo!()
    }

    /// Grants a seeder and adds the record locally.
    ///
    /// # Errors
    /// When the device is no admin, or the store fails.
    pub fn grant_seeder(&self, address: &SeederAddress, quota_bytes: u64, until_ms: u64) -> Result<Record> {
        let _ = (address, quota_bytes, until_ms);
        todo!()
    }

    /// Reads the access log again and opens boxes of epochs that are new.
    ///
    /// # Errors
    /// When the store fails or a box does not hold what the record commits to.
    pub fn refresh(&self) -> Result<()> {
        todo!()
    }

    /// Where this folder's files are cut.
    #[must_use]
    pub fn chunker(&self) -> Chunker {
        todo!()
    }

    /// Seals one chunk; computes only.
    #[must_use]
    pub fn seal(&self, chunk_type: ChunkType, plain: &[u8]) -> SealedChunk {
        let _ = (chunk_type, plain);
        todo!()
    }

    /// Puts a sealed chunk into the open pack, unless it is stored already.
    ///
    /// # Errors
    /// When the store fails.
    pub fn stow(&self, sealed: SealedChunk) -> Result<ChunkRef> {
        let _ = sealed;
        todo!()
    }

    /// Closes the open pack; all stowed chunks are durable afterwards.
    ///
    /// # Errors
    /// When the store fails.
    pub fn flush_packs(&self) -> Result<()> {
        todo!()
    }

    /// The plaintext of a chunk.
    ///
    /// # Errors
    /// [`crate::Error::Absent`] when it is not on this device, [`crate::Error::PackDamaged`] when its pack is bad.
    pub fn read_chunk(&self, chunk_type: ChunkType, chunk: ChunkRef) -> Result<Arc<[u8]>> {
        let _ = (chunk_type, chunk);
        todo!()
    }

    /// The pack a chunk would be fetched from.
    ///
    /// # Errors
    /// When the store fails.
    pub fn pack_of(&self, chunk: ChunkRef) -> Result<Option<PackId>> {
        let _ = chunk;
        todo!()
    }

    /// Writes entries that carry all stowed chunks and the ops of `groups`, and commits `extra` with
    /// the last of them.
    ///
    /// # Errors
    /// When the store fails, the device may not write, or its log was continued elsewhere.
    pub fn write_entries(&self, hlc: u64, groups: Vec<OpGroup>, deps: Vec<LogHead>, extra: Batch) -> Result<LogHead> {
        let _ = (hlc, groups, deps, extra);
        todo!()
    }

    /// Opens an entry's body.
    ///
    /// # Errors
    /// [`crate::Error::Sealed`], [`crate::Error::UnknownEpoch`] or a decode error.
    pub fn open_entry(&self, entry: &Entry) -> Result<Body> {
        let _ = entry;
        todo!()
    }

    /// Adds the index rows of an opened entry's packs to `batch`.
    ///
    /// # Errors
    /// When header and body disagree about the packs.
    pub fn index_entry(&self, entry: &Entry, body: &Body, batch: &mut Batch) -> Result<()> {
        let _ = (entry, body, batch);
        todo!()
    }
}
