//! Rows of format 1 and 2, the table of short numbers, and the cache.

use std::path::Path;

use cobox_store::format::content::{ChunkRef, Extent};
use cobox_store::id::{ChunkTag, EpochId, LinkId};
use cobox_store::keyed::{Home, MemberSecret, PassphraseCost, Unlock};

use super::*;
use crate::tree::row::{Head, LinkRow, Listed, NodeRow, Placement, Seen, SlotEntry, Versions};

fn row_of(target_bytes: usize) -> Option<Row> {
    let mut node = NodeRow::root();
    node.target = vec![7; target_bytes];
    Some(Row::Node(node))
}

fn key_of(n: u64) -> RowKey {
    let mut ino = Ino::ROOT;
    ino.0[..8].copy_from_slice(&n.to_le_bytes());
    RowKey::Node(ino)
}

fn new_home(dir: &Path) -> Arc<Home> {
    let secret = MemberSecret::generate().expect("randomness");
    let unlock = Unlock::Passphrase(zeroize::Zeroizing::new("pass".into()));
    Home::init_at_cost(dir, "d", &unlock, &secret, PassphraseCost::cheapest_for_tests()).expect("a home")
}

fn epoch_of(folder: &Folder) -> EpochId {
    folder.store().access(folder.no()).expect("reads").epoch().expect("it has one")
}

fn some_rows(folder: &Folder) -> Vec<(RowKey, Row)> {
    let id = |hlc: u64| OpId { hlc: (1 << 56) + hlc, log: folder.log_number() };
    let chunk = ChunkRef { epoch: epoch_of(folder), tag: ChunkTag([4; 32]) };
    let mut node = NodeRow::root();
    (node.made, node.changed, node.generation) = (id(0), id(9), 5);
    (node.mode.id, node.mtime_ns.id, node.uid.id, node.gid.id) = (id(0), id(9), id(0), id(0));
    node.heads = vec![Head {
        id: id(4),
        content: Content::Extents(vec![Extent::Data { len: 9, chunk }]),
        mtime_ns: 5,
        seen: Seen::Not,
        settled: None,
    }];
    let (ino, link, parent) = (Ino([1; 16]), LinkId([2; 16]), Ino([6; 16]));
    let place = Placement { id: id(0), parent, name: b"name".to_vec() };
    let row = LinkRow { ino, kind: node.kind, listed: Listed::Yes, dots: vec![id(0)], places: vec![place] };
    let entry = SlotEntry {
        link,
        ino,
        kind: node.kind,
        name: b"name".to_vec(),
        placed: id(0),
        versions: Versions::One,
    };
    vec![
        (RowKey::Node(ino), Row::Node(node)),
        (RowKey::Link(link), Row::Link(row)),
        (RowKey::Dirent(parent, SlotHash([7; 16])), Row::Dirent(Slot { entries: vec![entry] })),
    ]
}

fn sizes(rows: &Rows) -> Vec<usize> {
    let size = |(row_key, _): &(RowKey, Row)| {
        let sealed = rows.folder.store().db().get(&rows.stored_key(row_key));
        sealed.expect("reads").expect("is there").len()
    };
    some_rows(&rows.folder).iter().map(size).collect()
}

#[test]
fn store_of_format_1_is_read_and_its_rows_become_short_as_they_change() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let folder = new_home(dir.path()).folder_create("f").expect("created");
    let rows = Rows::open(Arc::clone(&folder)).expect("opens");
    let mut batch = Batch::default();
    for (row_key, row) in some_rows(&folder) {
        let stored = rows.stored_key(&row_key);
        batch.put(&stored, &folder.local().seal(&stored, &row.encode_first()));
    }
    folder.store().db().commit(batch, Durability::Unsynced).expect("commits");
    let before = sizes(&rows);
    // Written twice: what the first found no number for, the second spells shortly.
    for _ in 0..2 {
        rows.drop_cache();
        for (row_key, row) in some_rows(&folder) {
            assert_eq!(rows.get(&row_key).expect("reads"), Some(row));
        }
        let changes: Vec<Change> =
            some_rows(&folder).into_iter().map(|(row_key, row)| (row_key, Some(row))).collect();
        let mut batch = Batch::default();
        rows.stage(&changes, &mut batch);
        folder.store().db().commit(batch, Durability::Unsynced).expect("commits");
        rows.install(changes);
    }
    let short = sizes(&rows);
    assert!(short[0] * 2 < before[0], "{short:?} {before:?}");
    assert!(short.iter().zip(&before).all(|(now, then)| now + 24 < *then), "{short:?} {before:?}");
    // Numbers are there after a restart.
    let again = Rows::open(Arc::clone(&folder)).expect("opens");
    for (row_key, row) in some_rows(&folder) {
        assert_eq!(again.get(&row_key).expect("reads"), Some(row));
    }
    assert_eq!(again.slots(Ino([6; 16]), [0; 16], 9).expect("reads").len(), 1);
}

#[test]
fn row_under_a_number_that_is_not_there_is_refused() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let folder = new_home(dir.path()).folder_create("f").expect("created");
    let rows = Rows::open(Arc::clone(&folder)).expect("opens");
    rows.shorts.write().insert(9, Long::Log(folder.log_number()));
    let changes: Vec<Change> =
        some_rows(&folder).into_iter().map(|(row_key, row)| (row_key, Some(row))).collect();
    let mut batch = Batch::default();
    rows.stage(&changes, &mut batch);
    folder.store().db().commit(batch, Durability::Unsynced).expect("commits");
    let again = Rows::open(Arc::clone(&folder)).expect("opens");
    for (row_key, _) in some_rows(&folder) {
        assert!(again.get(&row_key).is_err());
    }
}

/// A file whose chunks are of `count` epochs that nobody ever made.
fn of_made_up_epochs(from: u32, count: u32) -> Change {
    let extent = |number: u32| {
        let mut epoch = [9; 32];
        epoch[..4].copy_from_slice(&number.to_be_bytes());
        Extent::Data { len: 9, chunk: ChunkRef { epoch: EpochId(epoch), tag: ChunkTag([4; 32]) } }
    };
    let mut node = NodeRow::root();
    node.heads = vec![Head {
        id: OpId { hlc: 1 << 60, log: 1_000_000 + u64::from(from) },
        content: Content::Extents((from..from + count).map(extent).collect()),
        mtime_ns: 5,
        seen: Seen::Not,
        settled: None,
    }];
    (key_of(u64::from(from)), Some(Row::Node(node)))
}

#[test]
fn epochs_and_logs_that_a_writer_makes_up_take_no_numbers_and_keep_none_from_others() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let folder = new_home(dir.path()).folder_create("f").expect("created");
    let rows = Rows::open(Arc::clone(&folder)).expect("opens");
    let commit = |changes: Vec<Change>| {
        let mut batch = Batch::default();
        rows.stage(&changes, &mut batch);
        folder.store().db().commit(batch, Durability::Unsynced).expect("commits");
        rows.install(changes);
    };
    for from in (0..4000).step_by(16) {
        commit(vec![of_made_up_epochs(from, 16)]);
    }
    assert!(!rows.shorts.read().knows(&Long::Log(1_000_000)));
    // Where the disk refuses rows, what they name does not gather.
    for from in (0..4000).step_by(16) {
        rows.stage(&[of_made_up_epochs(from, 16)], &mut Batch::default());
        assert!(rows.unknown.lock().len() <= crate::tree::short::UNKNOWN_MAX);
    }
    // What is the folder's gets its number, at the latest with the next change.
    for _ in 0..2 {
        commit(some_rows(&folder).into_iter().map(|(row_key, row)| (row_key, Some(row))).collect());
    }
    let shorts = rows.shorts.read();
    assert!(shorts.knows(&Long::Epoch(epoch_of(&folder))) && shorts.knows(&Long::Log(folder.log_number())));
    drop(shorts);
    rows.drop_cache();
    let (row_key, row) = of_made_up_epochs(160, 16);
    assert_eq!(rows.get(&row_key).expect("reads"), row, "also what names made-up epochs is read back");
}

#[test]
fn cache_of_large_rows_is_bounded_in_bytes_not_in_rows() {
    let mut cache = Cache::default();
    let row_bytes = 64 << 10;
    for n in 0..4096 {
        cache.put(key_of(n), row_of(row_bytes));
    }
    let rows = cache.young.len() + cache.old.len();
    assert!(rows * row_bytes <= 2 * GENERATION_BYTES, "{rows} rows");
    assert!(cache.get(&key_of(4095)).is_some(), "the newest row is there");
}

#[test]
fn cache_replacing_one_row_forever_keeps_the_others() {
    let mut cache = Cache::default();
    cache.put(key_of(0), row_of(0));
    for _ in 0..4096 {
        cache.put(key_of(1), row_of(64 << 10));
    }
    assert!(cache.young.contains_key(&key_of(0)));
    assert_eq!(cache.young_bytes, cache.young.iter().map(|(key, row)| weight(key, row.as_ref())).sum());
}
