//! What a folder takes in this store, and the limit that its grant sets.
//!
//! Totals are counted once per opening and then carried in memory; the rows they are counted from are
//! the truth.

use std::ops::ControlFlow;
use std::time::{SystemTime, UNIX_EPOCH};

use super::batch::{Batch, Durability};
use super::packs::decode_size;
use super::store::Store;
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::codec::{DecodeError, Reader, Writer};
use crate::id::FolderNo;

const QUOTA: &[u8] = b"quota";
/// A folder takes up to so many times its quota on the disk: once what is live, once what was released.
const HELD_QUOTAS: u64 = 2;

/// What a folder takes in this store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes of the packs that entries refer to, here or not.
    pub pack_bytes: u64,
    /// Bytes of all entries.
    pub entry_bytes: u64,
    /// Packs that entries refer to.
    pub packs: u64,
    /// Bytes of packs that were released and are kept for a while.
    pub held_bytes: u64,
    /// The grant's limit, for packs and entries together.
    pub quota_bytes: Option<u64>,
    /// The grant's end, milliseconds since 1970; 0 for none.
    pub until_ms: Option<u64>,
}

/// The counted part of a [`Usage`].
#[derive(Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) pack_bytes: u64,
    pub(super) entry_bytes: u64,
    pub(super) packs: u64,
    pub(super) held_bytes: u64,
    /// Of an entry: bytes that were held and are live again.
    pub(super) unheld_bytes: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: &Self) {
        self.pack_bytes += other.pack_bytes;
        self.entry_bytes += other.entry_bytes;
        self.packs += other.packs;
        self.held_bytes = self.held_bytes.saturating_sub(other.unheld_bytes);
    }
}

impl Store {
    /// What the folder takes, and may take.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn usage(&self, no: FolderNo) -> Result<Usage> {
        let Totals { pack_bytes, entry_bytes, packs, held_bytes, .. } = self.totals(no)?;
        let quota = self.quota(no)?;
        Ok(Usage {
            pack_bytes,
            entry_bytes,
            packs,
            held_bytes,
            quota_bytes: quota.map(|(bytes, _)| bytes),
            until_ms: quota.map(|(_, until_ms)| until_ms),
        })
    }

    /// Bytes of the packs and entries of a folder that are in this store: packs that are not wholly here do
    /// not count, nor those that no entry refers to yet.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn bytes_here(&self, no: FolderNo) -> Result<u64> {
        let Totals { pack_bytes, entry_bytes, .. } = self.totals(no)?;
        let missing: u64 = self.packs_missing(no, None, usize::MAX)?.iter().map(|pack| pack.size).sum();
        Ok(pack_bytes.saturating_sub(missing).saturating_add(entry_bytes))
    }

    /// Sets the hard limit of a folder and its end, as its grant says; durable on return. Entries that
    /// would exceed it or come after the end are refused; what is here already stays.
    ///
    /// # Errors
    /// See [`super::Db::commit`].
    pub fn quota_set(&self, no: FolderNo, quota_bytes: u64, until_ms: u64) -> Result<()> {
        // A seeder that starts sets those of all its folders.
        if self.quota(no)? == Some((quota_bytes, until_ms)) {
            return Ok(());
        }
        let mut writer = Writer::new();
        writer.u64(quota_bytes);
        writer.u64(until_ms);
        let mut batch = Batch::default();
        batch.put(&key(no, Table::Quota, QUOTA), &writer.into_bytes());
        self.db().commit(batch, Durability::Synced)?;
        self.watch().bump(no);
        Ok(())
    }

    fn quota(&self, no: FolderNo) -> Result<Option<(u64, u64)>> {
        let Some(bytes) = self.db().get(&key(no, Table::Quota, QUOTA))? else { return Ok(None) };
        let mut reader = Reader::new(&bytes);
        let quota = (reader.u64("quota")?, reader.u64("quota")?);
        reader.finish()?;
        Ok(Some(quota))
    }

    /// Whether the folder's grant is over, by this machine's clock.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn grant_ended(&self, no: FolderNo) -> Result<bool> {
        Ok(self.quota(no)?.is_some_and(|(_, until_ms)| is_over(until_ms)))
    }

    /// Whether the folder may grow by so much.
    pub(super) fn check_quota(&self, no: FolderNo, grown: &Totals) -> Result<()> {
        let Some((quota_bytes, until_ms)) = self.quota(no)? else { return Ok(()) };
        if is_over(until_ms) {
            // A grant that is over gives no room at all.
            return Err(Error::Quota { quota_bytes: 0 });
        }
        let now = self.totals(no)?;
        let wanted = [now.pack_bytes, now.entry_bytes, grown.pack_bytes, grown.entry_bytes];
        let wanted = wanted.into_iter().fold(0u64, u64::saturating_add);
        // What was released has as much room again: it goes by time alone, so that whoever fills it can neither
        // make it go early nor keep others from writing before they have filled the quota twice.
        let kept = wanted.saturating_add(now.held_bytes.saturating_sub(grown.unheld_bytes));
        if wanted > quota_bytes || kept > quota_bytes.saturating_mul(HELD_QUOTAS) {
            Err(Error::Quota { quota_bytes })
        } else {
            Ok(())
        }
    }

    fn totals(&self, no: FolderNo) -> Result<Totals> {
        let mut all = self.logs.totals.lock();
        if let Some(totals) = all.get(&no) {
            return Ok(*totals);
        }
        let (entry_bytes, held_bytes) = (self.count_entry_bytes(no)?, self.held(no)?.bytes);
        let mut totals = Totals { entry_bytes, held_bytes, ..Totals::default() };
        let mut wrong: Result<(), DecodeError> = Ok(());
        self.db().scan(&key(no, Table::Live, &[]), &[], &mut |_, size| match decode_size(size) {
            Ok(size) => {
                totals.packs += 1;
                totals.pack_bytes += size;
                ControlFlow::Continue(())
            }
            Err(error) => {
                wrong = Err(error);
                ControlFlow::Break(())
            }
        })?;
        wrong?;
        all.insert(no, totals);
        Ok(totals)
    }
}

/// Whether an end has come; 0 is none.
fn is_over(until_ms: u64) -> bool {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    until_ms != 0 && since.as_millis() > u128::from(until_ms)
}
