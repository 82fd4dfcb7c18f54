//! The column families and what bounds them.
//!
//! `default` holds rows, `bulk` slices of packs, and `journal` the rows of [`Table::Dirty`]: bytes of files
//! that no entry holds yet. Those are large, live for seconds, and nearly all of them are removed before
//! their memtable is full. Apart from the others they never reach a file that has to be compacted with the
//! tree's rows, and what they took comes back at once ([`Db::reclaim`]).

use std::ops::ControlFlow;
use std::path::Path;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB,
    DBCompressionType, FlushOptions, LogLevel, LruCacheOptions, Options, WriteBatch, WriteOptions,
};

use super::{Db, scan_from};
use crate::blind::reserve;
use crate::blind::tables::{STORE, Table, key};
use crate::error::{Error, Result};
use crate::id::FolderNo;

/// RocksDB's file that says which manifest counts; without it there is no database for it.
const CURRENT: &str = "CURRENT";
/// Blocks, indexes and filters in memory: enough for the hot rows of a mount, little on a small box.
const CACHE_BYTES: usize = 32 << 20;
/// The cache in so many parts (2^n) of 8 MiB, each with a lock of its own. RocksDB makes 64 of it where it is not
/// told; what is larger than a part is never kept.
const CACHE_PARTS_LOG2: i32 = 2;
/// Unflushed rows in memory, over all column families; also the most that opening must replay.
const MEMTABLES_BYTES: usize = 40 << 20;
/// One memtable of rows.
const MEMTABLE_ROWS_BYTES: usize = 12 << 20;
/// One memtable of the journal: as much as a cut leaves time to remove again.
const MEMTABLE_JOURNAL_BYTES: usize = 12 << 20;
/// One memtable of bulk: small packs only, so it fills slowly.
const MEMTABLE_BULK_BYTES: usize = 8 << 20;
/// Flushed files of the journal that are compacted: most of their rows are removed by then.
const JOURNAL_FILES_MAX: i32 = 2;
/// Filter of a memtable's keys, as a part of its size: some 13 bits for each row of 130 bytes.
const MEMTABLE_FILTER_RATIO: f64 = 0.0125;
/// Write-ahead log on disk at the most: bounds the time to open after a crash.
const WAL_BYTES_MAX: u64 = 64 << 20;
/// Files that RocksDB keeps open: each costs an index in memory and a descriptor of the process.
const OPEN_FILES_MAX: i32 = 512;
/// Threads for flushes and compactions: rows are few, and a small box has two cores.
const BACKGROUND_JOBS: i32 = 2;
/// A block of rows, as large as a page of most disks' firmware.
const BLOCK_BYTES: usize = 16 * 1024;
/// The table format of RocksDB 6.6 and later.
const TABLE_VERSION: i32 = 5;
/// RocksDB's own text log.
const LOG_BYTES_MAX: usize = 1 << 20;
/// Rows up to this size are compacted when a daemon ends: half a second on a fast disk, seconds on a card; larger ones keep
/// superseded rows of a few memtables only, next to their size.
const SETTLED_BYTES_MAX: u64 = 64 << 20;
/// That is worth it where files that lie over others are one part in so many of all,
const SETTLED_OVER_PARTS: u64 = 4;
/// and so large at the least.
const SETTLED_OVER_BYTES_MIN: u64 = 1 << 20;
/// It needs as much room again as the rows take, and leaves others some: so many times that has to be free.
const SETTLED_ROOM_TIMES: u64 = 4;
/// Bytes of rows that move to the journal's family in one commit.
const MOVED_BYTES_MAX: usize = 4 << 20;

const BULK: &str = "bulk";
const JOURNAL: &str = "journal";
pub(super) const NAMES: [&str; 3] = ["default", BULK, JOURNAL];
/// A key begins with the folder's number and the table.
const PREFIX_BYTES: usize = 5;

pub(super) fn bulk(db: &DB) -> &ColumnFamily {
    named(db, BULK)
}

/// The family of the rows whose keys begin with `prefix`. Where that names no table, it is that of all
/// tables but the journal.
pub(super) fn of<'a>(db: &'a DB, prefix: &[u8]) -> &'a ColumnFamily {
    let is_journal = prefix.get(PREFIX_BYTES - 1).is_some_and(|table| *table == Table::Dirty as u8);
    if is_journal { named(db, JOURNAL) } else { named(db, "default") }
}

/// All families with rows whose keys begin with `prefix`.
pub(super) fn all_of<'a>(db: &'a DB, prefix: &[u8]) -> Vec<&'a ColumnFamily> {
    if prefix.len() < PREFIX_BYTES {
        vec![named(db, "default"), named(db, JOURNAL)]
    } else {
        vec![of(db, prefix)]
    }
}

fn named<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("the database is opened with all column families")
}

/// Opens the database that is there. It is never made here: RocksDB would take a folder that only lost its file `CURRENT`
/// for an empty one, and remove all tables in it.
pub(super) fn open_rocksdb(path: &Path) -> Result<DB> {
    open_with(&options(), path)
}

/// The same at the start of a program, where what is missing or damaged does not pass by itself.
pub(super) fn open_stored(path: &Path) -> Result<DB> {
    if !exists(&path.join(CURRENT))? {
        return Err(Error::Broken { path: path.to_owned(), why: format!("its file {CURRENT} is missing") });
    }
    open_rocksdb(path).map_err(|error| match error {
        Error::Db(failure) if failure.is_damage() || failure.is_missing_file() => {
            Error::Broken { path: path.to_owned(), why: failure.to_string() }
        }
        other => other,
    })
}

/// Makes the database, or opens what an interrupted attempt left.
pub(super) fn create_rocksdb(path: &Path) -> Result<DB> {
    if exists(&path.join(CURRENT))? || has_data(path)? {
        return open_stored(path);
    }
    let mut options = options();
    options.create_if_missing(true);
    open_with(&options, path)
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Whether there are tables, or a log that is not empty: a database that was just begun has neither.
fn has_data(path: &Path) -> Result<bool> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    if !exists(path)? {
        return Ok(false);
    }
    for entry in std::fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let extension = Path::new(&name).extension().unwrap_or_default();
        if extension == "sst" || (extension == "log" && entry.metadata().map_err(io)?.len() > 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open_with(options: &Options, path: &Path) -> Result<DB> {
    let mut parts = LruCacheOptions::default();
    parts.set_capacity(CACHE_BYTES);
    parts.set_num_shard_bits(CACHE_PARTS_LOG2);
    let cache = Cache::new_lru_cache_opts(&parts);
    let mut rows = Options::default();
    rows.set_write_buffer_size(MEMTABLE_ROWS_BYTES);
    rows.set_compression_type(DBCompressionType::None);
    // Most look-ups of a file that is made are in vain: the filter spares the search.
    rows.set_memtable_whole_key_filtering(true);
    rows.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_RATIO);
    rows.set_block_based_table_factory(&rows_table(&cache));
    let mut journal = Options::default();
    journal.set_write_buffer_size(MEMTABLE_JOURNAL_BYTES);
    journal.set_compression_type(DBCompressionType::None);
    journal.set_level_zero_file_num_compaction_trigger(JOURNAL_FILES_MAX);
    journal.set_block_based_table_factory(&rows_table(&cache));
    let families = [
        ColumnFamilyDescriptor::new("default", rows),
        ColumnFamilyDescriptor::new(BULK, bulk_options(Some(&cache))),
        ColumnFamilyDescriptor::new(JOURNAL, journal),
    ];
    let db = DB::open_cf_descriptors(options, path, families)?;
    move_journal(&db)?;
    Ok(db)
}

/// Opens what is there on a disk that takes no writes.
pub(super) fn open_to_read(path: &Path) -> Result<DB> {
    Ok(DB::open_cf_for_read_only(&options(), path, NAMES, false)?)
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_missing_column_families(true);
    options.set_db_write_buffer_size(MEMTABLES_BYTES);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    // A big store has a file per pack: reading statistics of each would make opening slow.
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(LOG_BYTES_MAX);
    options.set_keep_log_file_num(2);
    options
}

pub(super) fn bulk_options(cache: Option<&Cache>) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(MEMTABLE_BULK_BYTES);
    options.set_compression_type(DBCompressionType::None);
    options.set_block_based_table_factory(&bulk_table(cache));
    options
}

fn rows_table(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(BLOCK_BYTES);
    table.set_format_version(TABLE_VERSION);
    // 10 bits a key: 1 % of look-ups in vain.
    table.set_bloom_filter(10.0, false);
    table.set_block_cache(cache);
    // Indexes and filters count against the cache: memory stays bounded however much is stored.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // And in blocks of their own: a file of 64 MiB has half a million rows, and a filter of 800 KB that would be
    // read whole for each look-up once the cache has let go of it.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(BLOCK_BYTES);
    table.set_pin_top_level_index_and_filter(true);
    table
}

/// No filter: a slice is only looked up where the pack's row says that it is here. Its index is a few
/// KiB and stays with the open file, of which there are at most [`OPEN_FILES_MAX`].
fn bulk_table(cache: Option<&Cache>) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(BLOCK_BYTES);
    table.set_format_version(TABLE_VERSION);
    if let Some(cache) = cache {
        table.set_block_cache(cache);
    }
    table
}

/// Stores that were made before the journal had a family of its own hold its rows among the others. Each
/// commit removes what it adds, so a crash in between repeats nothing.
fn move_journal(db: &DB) -> Result<()> {
    let moved = key(STORE, Table::BlindSetting, b"journal moved");
    if db.get(&moved)?.is_some() {
        return Ok(());
    }
    let by_number = key(STORE, Table::FolderByNo, &[]);
    let mut folders = Vec::new();
    let rows = named(db, "default");
    scan_from(db, rows, &by_number, &[], &mut |no, _| {
        folders.extend(no.try_into().map(|bytes| FolderNo(u32::from_be_bytes(bytes))));
        ControlFlow::Continue(())
    })?;
    let mut writes = WriteBatch::default();
    for no in folders {
        let prefix = key(no, Table::Dirty, &[]);
        let mut from = Some(Vec::new());
        while let Some(begin) = from.take() {
            scan_from(db, rows, &prefix, &begin, &mut |rest, value| {
                if writes.size_in_bytes() >= MOVED_BYTES_MAX {
                    from = Some(rest.to_vec());
                    return ControlFlow::Break(());
                }
                let stored = [&prefix[..], rest].concat();
                writes.put_cf(named(db, JOURNAL), &stored, value);
                writes.delete(&stored);
                ControlFlow::Continue(())
            })?;
            if from.is_some() {
                db.write(std::mem::take(&mut writes))?;
            }
        }
    }
    writes.put(&moved, []);
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    Ok(db.write_opt(writes, &synced)?)
}

/// What came of [`Db::settle`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// Rows take the room of those that are left.
    Done,
    /// There would have been little to win.
    NotWorthIt,
    /// The disk has not much room.
    NoRoom,
}

/// Whether files of rows, `all_bytes` of them, are to be compacted. Those that lie over no other file have `lowest_bytes`: the
/// rest came since, and holds what supersedes rows of theirs.
fn settled(all_bytes: u64, lowest_bytes: u64, free_bytes: u64) -> Settled {
    let over_bytes = all_bytes.saturating_sub(lowest_bytes);
    if all_bytes > SETTLED_BYTES_MAX
        || over_bytes < SETTLED_OVER_BYTES_MIN
        || over_bytes < all_bytes / SETTLED_OVER_PARTS
    {
        Settled::NotWorthIt
    } else if free_bytes < all_bytes.saturating_mul(SETTLED_ROOM_TIMES) {
        Settled::NoRoom
    } else {
        Settled::Done
    }
}

impl Db {
    /// Has the disk take back what rows of the journal took that were removed: what is in memory goes to
    /// files without them, the files that hold them are written anew, and the write-ahead log begins anew.
    /// What of the journal is left is written once more, so call it after a cut.
    ///
    /// # Errors
    /// See [`Self::commit`].
    pub fn reclaim(&self) -> Result<()> {
        self.heal()?;
        let flushed = {
            let handle = self.handle();
            let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
            let families = NAMES.map(|name| named(db, name));
            db.flush_cfs_opt(&families, &FlushOptions::default()).map(|()| {
                db.compact_range_cf(named(db, JOURNAL), None::<&[u8]>, None::<&[u8]>);
            })
        };
        self.note(flushed.map_err(Into::into))
    }

    /// Has the disk take back what superseded and removed rows took, where there are few rows: a small store holds
    /// as many of those as of others until RocksDB compacts it, which it has no reason to do. Does nothing where little was
    /// written since the last time, or the disk has not much room. For the end of a daemon.
    ///
    /// # Errors
    /// See [`Self::commit`].
    pub fn settle(&self) -> Result<Settled> {
        self.heal()?;
        let (_, free_bytes) = reserve::space(&self.path)?;
        let settled = {
            let handle = self.handle();
            let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
            let rows = named(db, "default");
            let bytes =
                |name: &str| -> Result<u64> { Ok(db.property_int_value_cf(rows, name)?.unwrap_or(0)) };
            db.flush_cf(rows).map_err(Error::from).and_then(|()| {
                let all_bytes = bytes("rocksdb.live-sst-files-size")?;
                let lowest_bytes = bytes("rocksdb.estimate-live-data-size")?;
                let settled = settled(all_bytes, lowest_bytes, free_bytes);
                if settled == Settled::Done {
                    db.compact_range_cf(rows, None::<&[u8]>, None::<&[u8]>);
                }
                Ok(settled)
            })
        };
        self.note(settled)
    }

    /// For measurements: of each column family its name, the bytes of its files, and RocksDB's account of them.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn room(&self) -> Result<Vec<(&'static str, u64, String)>> {
        let handle = self.handle();
        let db = handle.as_ref().ok_or_else(|| self.trouble.error())?;
        let of = |name| {
            let family = named(db, name);
            let bytes = db.property_int_value_cf(family, "rocksdb.live-sst-files-size")?.unwrap_or(0);
            let account = db.property_value_cf(family, "rocksdb.aggregated-table-properties")?;
            Ok((name, bytes, account.unwrap_or_default()))
        };
        NAMES.into_iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

    use super::*;
    use crate::blind::{Batch, Durability};
    use crate::id::hash;

    const NO: FolderNo = FolderNo(7);

    fn folder_size(path: &Path) -> u64 {
        let entries = std::fs::read_dir(path).expect("reads").map(|entry| entry.expect("reads"));
        entries.map(|entry| entry.metadata().expect("reads").len()).sum()
    }

    fn journal(db: &Db) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        db.scan(&key(NO, Table::Dirty, &[]), &[], &mut |rest, value| {
            rows.push((rest.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("scans");
        rows
    }

    fn journal_rows(count: u32) -> Batch {
        let mut batch = Batch::default();
        for number in 0..count {
            batch.put(&key(NO, Table::Dirty, &number.to_be_bytes()), &[number as u8; 64 << 10]);
        }
        batch
    }

    fn write_rows(db: &Db, range: std::ops::Range<u32>, value: u8) {
        let mut batch = Batch::default();
        range
            .for_each(|number| batch.put(&key(NO, Table::Node, &hash(&number.to_be_bytes())), &[value; 200]));
        db.commit(batch, Durability::Unsynced).expect("commits");
    }

    #[test]
    fn settled_rows_take_the_room_of_those_that_are_left_and_are_settled_again_once_enough_was_written() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let db = Db::create(dir.path()).expect("opens");
        let rows_bytes = |db: &Db| db.room().expect("reads")[0].1;
        for round in 0..3 {
            write_rows(&db, 0..10_000, round);
            db.reclaim().expect("flushes");
        }
        let before = rows_bytes(&db);
        assert_eq!(db.settle().expect("settles"), Settled::Done);
        let after = rows_bytes(&db);
        assert!(after * 5 < before * 2, "{after} of {before}");
        assert_eq!(db.settle().expect("settles"), Settled::NotWorthIt);
        write_rows(&db, 0..1000, 8);
        assert_eq!(db.settle().expect("settles"), Settled::NotWorthIt, "a tenth of the rows changed");
        drop(db);
        // Also what an earlier process wrote counts.
        let db = Db::open(dir.path(), None).expect("opens");
        write_rows(&db, 0..8000, 9);
        assert_eq!(db.settle().expect("settles"), Settled::Done);
        let row = key(NO, Table::Node, &hash(&9u32.to_be_bytes()));
        assert_eq!(db.get(&row).expect("reads").as_deref(), Some(&[9; 200][..]));
    }

    #[test]
    fn rows_are_not_settled_where_there_is_little_to_win_or_little_room() {
        let mib = |count: u64| count << 20;
        assert_eq!(settled(mib(20), mib(10), mib(1000)), Settled::Done);
        assert_eq!(settled(mib(20), mib(10), mib(80)), Settled::Done);
        assert_eq!(settled(mib(20), mib(10), mib(79)), Settled::NoRoom);
        assert_eq!(settled(mib(20), mib(16), mib(1000)), Settled::NotWorthIt);
        assert_eq!(settled(1 << 19, 1 << 10, mib(1000)), Settled::NotWorthIt);
        assert_eq!(settled(mib(65), mib(1), mib(1000)), Settled::NotWorthIt);
        assert_eq!(settled(0, 0, 0), Settled::NotWorthIt);
    }

    #[test]
    fn removed_journal_gives_its_room_back_and_what_is_left_stays() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let db = Db::create(dir.path()).expect("opens");
        let path = dir.path().join("db");
        for _ in 0..3 {
            db.commit(journal_rows(600), Durability::Unsynced).expect("commits");
            let mut batch = Batch::default();
            (1..600u32).for_each(|number| batch.delete(&key(NO, Table::Dirty, &number.to_be_bytes())));
            batch.put(&key(NO, Table::DirtyMark, b"mark"), b"m");
            db.commit(batch, Durability::Unsynced).expect("commits");
        }
        let before = folder_size(&path);
        db.reclaim().expect("reclaims");
        let after = folder_size(&path);
        assert!(before > 30 << 20 && after < 2 << 20, "{before} bytes became {after}");
        assert_eq!(journal(&db), [(vec![0; 4], vec![0; 64 << 10])]);
        drop(db);
        let db = Db::open(dir.path(), None).expect("opens");
        assert_eq!(journal(&db).len(), 1);
        assert!(db.contains(&key(NO, Table::DirtyMark, b"mark")).expect("reads"));
    }

    #[test]
    fn search_in_vain_reads_no_filter_of_half_a_million_rows() {
        const ROWS: u32 = 600_000;
        let dir = tempfile::tempdir().expect("temporary folder");
        let db = Db::create(dir.path()).expect("opens");
        // Spread like the keyed hashes that stand in real keys.
        let row = |number: u32| key(NO, Table::Node, &hash(&number.to_be_bytes()));
        for begin in (0..ROWS).step_by(2000) {
            let mut batch = Batch::default();
            (begin..begin + 2000).for_each(|number| batch.put(&row(number), &[7; 80]));
            db.commit(batch, Durability::Unsynced).expect("commits");
        }
        {
            let handle = db.handle();
            let opened = handle.as_ref().expect("is open");
            opened.flush().expect("flushes");
            opened.compact_range(None::<&[u8]>, None::<&[u8]>);
        }
        let search = |from: u32| {
            let mut context = PerfContext::default();
            context.reset();
            (from..from + 2000).for_each(|number| assert_eq!(db.get(&row(number)).expect("reads"), None));
            context.metric(PerfMetric::BlockReadByte) / 2000
        };
        set_perf_stats(PerfStatsLevel::EnableCount);
        // What is searched first brings the filters in, which then stay.
        search(ROWS);
        let read = search(2 * ROWS);
        set_perf_stats(PerfStatsLevel::Disable);
        assert!(read < 4 * BLOCK_BYTES as u64, "{read} bytes for each search");
    }

    #[test]
    fn folder_that_leaves_takes_its_journal_along() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let db = Db::create(dir.path()).expect("opens");
        db.commit(journal_rows(5), Durability::Unsynced).expect("commits");
        let mut batch = Batch::default();
        batch.delete_prefix(&NO.0.to_be_bytes());
        db.commit(batch, Durability::Unsynced).expect("commits");
        assert!(journal(&db).is_empty());
    }

    #[test]
    fn journal_of_a_store_from_before_is_moved_once() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("db");
        {
            // As an earlier version left it: two families, and the journal among the rows.
            let families =
                ["default", BULK].map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
            let mut options = options();
            options.create_if_missing(true);
            let old = DB::open_cf_descriptors(&options, &path, families).expect("makes it");
            old.put(key(STORE, Table::FolderByNo, &NO.0.to_be_bytes()), [1; 32]).expect("puts");
            for number in 0..200u32 {
                let stored = key(NO, Table::Dirty, &number.to_be_bytes());
                old.put(stored, vec![number as u8; 64 << 10]).expect("puts");
            }
        }
        for _ in 0..2 {
            let db = Db::open(dir.path(), None).expect("opens");
            let rows = journal(&db);
            assert_eq!(rows.len(), 200);
            assert!((0..).zip(&rows).all(|(number, (_, value))| *value == vec![number as u8; 64 << 10]));
            let handle = db.handle();
            let left = handle.as_ref().expect("is open").get(key(NO, Table::Dirty, &3u32.to_be_bytes()));
            assert_eq!(left.expect("reads"), None);
        }
    }
}
