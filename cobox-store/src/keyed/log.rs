//! Writing this device's log and opening everyone's entries (`docs/format.md`, "Entries").
//!
//! Packs go first and ops last, an entry is opened again before it is committed, and the high-water mark
//! follows the commit. A device whose log was continued by someone else stops signing.

use std::collections::HashSet;

use super::admission::Standing;
use super::aead;
use super::epoch::EpochKeys;
use super::folder::Folder;
use super::highwater::HighWater;
use super::local::LocalKeys;
use super::random::random;
use crate::blind::{Batch, Durability, Store, Table, key};
use crate::error::{Error, Result};
use crate::format::codec::Writer;
use crate::format::device::{Mark, PendingRow};
use crate::format::entry::{BODY_OVERHEAD_BYTES, Body, Entry, Header, LogHead};
use crate::format::op::{Op, OpGroup};
use crate::format::pack::{DIRECTORY_ROW_BYTES, PackRef};
use crate::format::{ENTRY_BODY_BYTES_MAX, ENTRY_GROUPS_MAX, ENTRY_PACKS_MAX, HEADS_MAX};
use crate::id::{EntryHash, EpochId, FolderNo, LogId, PackId, hash};

/// Directories that one entry carries at the most: half a body, so that ops always find room beside.
const DIRECTORIES_BYTES_MAX: usize = 512 * 1024;
/// Fields of a body beside deps, groups and directories: length, counts, clock, state sum.
const BODY_FIXED_BYTES: usize = 4 + 2 + 8 + 2 + 2 + 32;
const DEP_BYTES: usize = 72;

/// What this device wrote last.
pub(super) struct LogWriter {
    head: Option<LogHead>,
    standing: Standing,
}

impl LogWriter {
    /// Compares the database with the mark beside it.
    pub(super) fn open(
        store: &Store,
        no: FolderNo,
        log: LogId,
        local: &LocalKeys,
        marks: &HighWater,
    ) -> Result<Self> {
        let written = written(store, no, log, local)?;
        let mark = marks.get(&log);
        let head = written.map(|mark| LogHead { log, seq: mark.seq, hash: mark.hash });
        let behind = mark.is_some_and(|mark| {
            written.is_none_or(|written| written.seq < mark.seq || written.seq == mark.seq && written != mark)
        });
        // A log that forked goes on under another name as well.
        let closed = store.branches(no)?.is_forked(&log);
        let other = behind || closed || store.log_head(no, log)? != head;
        let standing = if other { Standing::RolledBack } else { Standing::Good };
        if standing == Standing::RolledBack {
            tracing::error!(folder = no.0, log = %log, "the database does not hold what this device signed last");
        }
        Ok(Self { head, standing })
    }
}

/// What the database says this device wrote last.
fn written(store: &Store, no: FolderNo, log: LogId, local: &LocalKeys) -> Result<Option<Mark>> {
    let row_key = written_key(no, log);
    let Some(sealed) = store.db().get(&row_key)? else { return Ok(None) };
    let bytes = local.open(&row_key, &sealed)?.try_into().map_err(|_| Error::Sealed)?;
    Ok(Some(Mark::decode(&bytes).ok_or(Error::Sealed)?))
}

fn written_key(no: FolderNo, log: LogId) -> Vec<u8> {
    key(no, Table::Setting, &[b"written".as_slice(), &log.0].concat())
}

/// What one entry will carry.
#[derive(Default)]
struct Part {
    packs: Vec<PendingRow>,
    /// Packs that are listed again.
    again: Vec<PackRef>,
    directory_bytes: usize,
    groups: Vec<OpGroup>,
    group_bytes: usize,
}

/// Deals packs and groups out to entries: packs first, each entry of one epoch and within all bounds.
///
/// # Errors
/// [`Error::TooLarge`] for a group that no entry can hold.
fn deal(
    mut packs: Vec<PendingRow>,
    again: Vec<PackRef>,
    groups: Vec<OpGroup>,
    deps: usize,
    current: EpochId,
) -> Result<Vec<Part>> {
    let room = ENTRY_BODY_BYTES_MAX - BODY_OVERHEAD_BYTES - BODY_FIXED_BYTES - deps * DEP_BYTES;
    packs.sort_by_key(|row| (row.epoch == current, row.epoch));
    let fresh: HashSet<PackId> = packs.iter().map(|row| row.pack.id).collect();
    let (mut parts, mut part) = (Vec::new(), Part::default());
    let mut epoch = packs.first().map_or(current, |row| row.epoch);
    for row in packs {
        let bytes = 1 + 2 + row.directory.len() * DIRECTORY_ROW_BYTES;
        let full =
            part.packs.len() == ENTRY_PACKS_MAX || part.directory_bytes + bytes > DIRECTORIES_BYTES_MAX;
        if full || row.epoch != epoch {
            parts.push(std::mem::take(&mut part));
        }
        epoch = row.epoch;
        part.directory_bytes += bytes;
        part.packs.push(row);
    }
    if epoch != current {
        parts.push(std::mem::take(&mut part));
    }
    for pack in again.into_iter().filter(|pack| !fresh.contains(&pack.id)) {
        if part.packs.len() + part.again.len() == ENTRY_PACKS_MAX {
            parts.push(std::mem::take(&mut part));
        }
        part.again.push(pack);
    }
    for group in groups {
        let mut writer = Writer::new();
        group.encode(&mut writer);
        let bytes = writer.len();
        if bytes > room {
            return Err(Error::TooLarge { bytes: bytes as u64 });
        }
        let full = part.directory_bytes + part.again.len() + part.group_bytes + bytes > room
            || part.groups.len() == ENTRY_GROUPS_MAX;
        if full {
            parts.push(std::mem::take(&mut part));
        }
        part.group_bytes += bytes;
        part.groups.push(group);
    }
    parts.push(part);
    Ok(parts)
}

impl Folder {
    /// Writes entries that carry all stowed chunks and the ops of `groups` (ascending by clock), and commits
    /// `extra` with the last of them. Everything is durable on return.
    ///
    /// `deps` are the heads of the other logs that were applied. Where the ops need several entries, those
    /// before the last are committed first; a group is never split.
    ///
    /// # Errors
    /// [`Error::RolledBack`], [`Error::NotPermitted`], [`Error::TooLarge`], or when the store fails.
    pub fn write_entries(
        &self,
        hlc: u64,
        groups: Vec<OpGroup>,
        deps: Vec<LogHead>,
        extra: Batch,
    ) -> Result<LogHead> {
        self.write_groups(hlc, groups, deps, extra, &|_, _| {})
    }

    /// Like [`Self::write_entries`]; `written` adds to the commit of each entry what follows for a group
    /// that it carries, so that a crash between two entries leaves no group that is written again.
    ///
    /// # Errors
    /// As [`Self::write_entries`].
    pub fn write_groups(
        &self,
        hlc: u64,
        groups: Vec<OpGroup>,
        mut deps: Vec<LogHead>,
        extra: Batch,
        written: &dyn Fn(&OpGroup, &mut Batch),
    ) -> Result<LogHead> {
        let mut writer = self.writer.lock();
        // A commit that was refused on a full disk may appear when the database is opened anew: that comes
        // first, or the next entry would take a number that is taken.
        self.store().db().heal()?;
        let generation = self.store().db().generation();
        self.check_standing(&mut writer)?;
        self.require_epoch()?;
        self.flush_packs()?;
        deps.sort_unstable();
        let current = self.keyring.read().current.id();
        let parts = deal(self.packer.stored(), self.owed()?, groups, deps.len(), current)?;
        let (last, before) = parts.split_last().expect("there is always a last part");
        let with_groups = |part: &Part, mut batch: Batch| {
            part.groups.iter().for_each(|group| written(group, &mut batch));
            batch
        };
        let fresh = || {
            let mut batch = Batch::default();
            batch.made_at(generation);
            batch
        };
        for part in before {
            self.write_part(&mut writer, part, hlc, &deps, with_groups(part, fresh()))?;
        }
        let mut last_batch = fresh();
        last_batch.append(extra);
        self.write_part(&mut writer, last, hlc, &deps, with_groups(last, last_batch))
    }

    /// The last entry of this device that this store wrote itself; entries of its log beyond it come from
    /// before the store was set back, or from a copy, and must be applied as anyone's.
    ///
    /// # Errors
    /// When the store fails.
    pub fn written(&self) -> Result<Option<LogHead>> {
        self.written_under(self.log())
    }

    /// The last entry that this store wrote itself under `log`, which may be one that it gave up.
    ///
    /// # Errors
    /// When the store fails.
    pub fn written_under(&self, log: LogId) -> Result<Option<LogHead>> {
        let mark = written(self.store(), self.no(), log, self.local())?;
        Ok(mark.map(|mark| LogHead { log: mark.log, seq: mark.seq, hash: mark.hash }))
    }

    /// What this device wrote under a log that it gave up, beyond the end of that log: nobody takes it any
    /// more. Adds to `batch` that those entries are gone and that their packs wait for the next one.
    ///
    /// # Errors
    /// When the store fails.
    pub fn take_back(&self, log: LogId, batch: &mut Batch) -> Result<Vec<OpGroup>> {
        let access = self.store().access(self.no())?;
        let Some(head) = self.store().log_head(self.no(), log)? else { return Ok(Vec::new()) };
        if access.may_write(&log) {
            return Ok(Vec::new());
        }
        let (mut seq, mut taken) = (head.seq, Vec::new());
        while seq > 0 {
            let Some(entry) = self.store().entry(self.no(), log, seq)? else { break };
            if access.admits(&log, seq, &entry.header().hash()) {
                break;
            }
            let body = self.open_entry(&entry)?;
            let packs = entry.header().packs.iter().zip(body.directories);
            for (pack, directory) in packs {
                let Some(directory) = directory else { continue };
                let row = PendingRow { pack: *pack, epoch: entry.header().epoch, directory };
                self.pending_put(&row, batch);
            }
            taken.push(body.groups);
            seq -= 1;
        }
        self.store().stage_cut_off(self.no(), log, seq, batch)?;
        Ok(taken.into_iter().rev().flatten().collect())
    }

    /// Reads again which packs wait for an entry.
    ///
    /// # Errors
    /// When the store fails.
    pub fn packs_reload(&self) -> Result<()> {
        self.packer.resume(self.pending_load()?);
        Ok(())
    }

    /// Whether this device may go on with its log.
    #[must_use]
    pub fn standing(&self) -> Standing {
        // Who holds the lock is writing, so that all is well.
        let Some(writer) = self.writer.try_lock() else { return Standing::Good };
        let (stored, written) = (self.store().log_head(self.no(), self.log()), self.written());
        let closed = !matches!(self.store().branches(self.no()), Ok(all) if !all.is_forked(&self.log()));
        match (writer.standing, stored, written) {
            (Standing::Good, ..) if closed => Standing::RolledBack,
            (Standing::Good, Ok(stored), Ok(written)) if stored != written => Standing::RolledBack,
            (standing, ..) => standing,
        }
    }

    fn check_standing(&self, writer: &mut LogWriter) -> Result<()> {
        let closed = self.store().branches(self.no())?.is_forked(&self.log());
        let same = !closed && self.store().log_head(self.no(), self.log())? == writer.head;
        if writer.standing == Standing::Good && !same {
            // A commit that failed on a full disk may have reached it all the same: what the database says
            // was written here counts, and anything else is someone else's.
            *writer = LogWriter::open(self.store(), self.no(), self.log(), self.local(), &self.marks)?;
        }
        match writer.standing {
            Standing::Good => Ok(()),
            Standing::RolledBack => Err(Error::RolledBack { log: self.log() }),
        }
    }

    fn write_part(
        &self,
        writer: &mut LogWriter,
        part: &Part,
        hlc: u64,
        deps: &[LogHead],
        extra: Batch,
    ) -> Result<LogHead> {
        let keys = match part.packs.first() {
            Some(row) => self.epoch_keys(row.epoch)?,
            None => self.keyring.read().current.clone(),
        };
        let body = Body {
            deps: deps.to_vec(),
            hlc,
            groups: part.groups.clone(),
            directories: part
                .packs
                .iter()
                .map(|row| Some(row.directory.clone()))
                .chain(part.again.iter().map(|_| None))
                .collect(),
            state_sum: [0; 32],
        };
        let (seq, prev) = writer.head.map_or((1, EntryHash([0; 32])), |head| (head.seq + 1, head.hash));
        // An entry names no more: one with all of many concurrent records would be readable to nobody.
        let access_heads = self.store().access(self.no())?.heads.iter().take(HEADS_MAX).copied().collect();
        let header = Header {
            folder: self.id(),
            log: self.log(),
            seq,
            prev,
            access_heads,
            epoch: keys.id(),
            packs: part.packs.iter().map(|row| row.pack).chain(part.again.iter().copied()).collect(),
            body_size: 0,
            body_hash: [0; 32],
        };
        let (header, sealed) = seal_body(&keys, header, &body, &random());
        let entry = Entry::new(header.clone(), self.sign_bytes(&header.signed_bytes()), sealed);
        if open_body(&keys, &entry)? != body {
            return Err(Error::Sealed);
        }
        let head = LogHead { log: self.log(), seq, hash: header.hash() };
        self.commit_entry(&entry, part, head, extra)?;
        writer.head = Some(head);
        self.packer.named(&part.packs);
        // The entry is written whether or not its mark is: a failure here must not look like one there.
        if let Err(error) = self.marks.raise(Mark { log: head.log, seq: head.seq, hash: head.hash }) {
            tracing::warn!(folder = %self.id(), %error, "the high-water mark was not raised");
        }
        Ok(head)
    }

    /// Entry, head, what was written, and what the caller adds: one synced batch.
    fn commit_entry(&self, entry: &Entry, part: &Part, head: LogHead, extra: Batch) -> Result<()> {
        let mut batch = Batch::default();
        let staged = self.store().entry_stage(self.no(), entry, &mut batch)?;
        self.stage_kept(self.log(), entry, &mut batch)?;
        for row in &part.packs {
            self.pending_delete(row.pack.id, &mut batch);
        }
        part.again.iter().for_each(|pack| self.stage_listed(pack.id, &mut batch));
        if part.groups.iter().any(|group| group.ops.contains(&Op::Ack)) {
            self.stage_acknowledged(head.seq, &mut batch);
        }
        let row_key = written_key(self.no(), self.log());
        let mark = Mark { log: head.log, seq: head.seq, hash: head.hash };
        batch.put(&row_key, &self.local().seal(&row_key, &mark.encode()));
        batch.append(extra);
        self.store().db().commit(batch, Durability::Synced)?;
        self.store().entry_committed(self.no(), staged);
        tracing::debug!(folder = %self.id(), seq = head.seq, packs = part.packs.len(), "entry written");
        Ok(())
    }

    /// Opens an entry's body.
    ///
    /// # Errors
    /// [`Error::Sealed`], [`Error::UnknownEpoch`] or a decode error.
    pub fn open_entry(&self, entry: &Entry) -> Result<Body> {
        open_body(&*self.epoch_keys(entry.header().epoch)?, entry)
    }
}

/// Seals a body and completes its header.
pub(super) fn seal_body(
    keys: &EpochKeys,
    mut header: Header,
    body: &Body,
    entropy: &[u8; 32],
) -> (Header, Vec<u8>) {
    let plain = body.encode();
    let nonce = aead::hedged_nonce(entropy, &plain);
    let sealed = aead::seal_at(keys.log.expose(), &hash(&header.encode_start()), &nonce, &plain);
    header.body_size = u32::try_from(sealed.len()).expect("a body is below 1 MiB");
    header.body_hash = hash(&sealed);
    (header, sealed)
}

/// Opens an entry's body, and checks that it speaks of the packs its header names.
///
/// # Errors
/// [`Error::Sealed`] or a decode error.
pub fn open_body(keys: &EpochKeys, entry: &Entry) -> Result<Body> {
    let header = entry.header();
    let plain = aead::open(keys.log.expose(), &hash(&header.encode_start()), entry.body())?;
    let body = Body::decode(&plain)?;
    if body.directories.len() == header.packs.len() { Ok(body) } else { Err(Error::Sealed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::{Home, MemberSecret, PassphraseCost, Unlock};

    #[test]
    fn entry_refused_on_a_full_disk_that_appears_later_is_not_signed_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let secret = MemberSecret::generate().expect("randomness");
        let unlock = Unlock::Passphrase(zeroize::Zeroizing::new("pass".into()));
        let home =
            Home::init_at_cost(dir.path(), "d", &unlock, &secret, PassphraseCost::cheapest_for_tests());
        let folder = home.expect("a home").folder_create("f").expect("created");
        let write = |hlc: u64| {
            let groups = vec![OpGroup { hlc, ops: vec![Op::Ack] }];
            folder.write_entries(hlc, groups, Vec::new(), Batch::default())
        };
        write(1 << 16).expect("written");
        folder.store().db().fail_next_commit();
        assert!(matches!(write(2 << 16), Err(Error::NoSpace)));
        // Its second entry is there now, and this one is the third.
        assert_eq!(write(3 << 16).expect("written").seq, 3);
        assert!(folder.store().branches(folder.no()).expect("reads").is_empty());
        let entry = folder.store().entry(folder.no(), folder.log(), 2).expect("reads").expect("there");
        assert_eq!(folder.open_entry(&entry).expect("opens").hlc, 2 << 16);
        assert_eq!(folder.standing(), Standing::Good);
    }
}
