//! Rows, slices, and what happens on a full disk.

use super::*;

/// A batch whose write is reported as failed, and which appears when the database is opened anew, as
/// the end of a write-ahead log does that was written and not synced.
#[derive(Default)]
pub enum Tail {
    #[default]
    Off,
    Armed,
    Caught(Vec<(Vec<u8>, Option<Vec<u8>>)>),
}

impl Tail {
    pub fn catch(&mut self, batch: &Batch) -> bool {
        if !matches!(self, Self::Armed) {
            return false;
        }
        let rows = batch.changes.iter().filter_map(|change| match change {
            Change::Put(key, value) => Some((key.clone(), Some(value.clone()))),
            Change::Delete(key) => Some((key.clone(), None)),
            Change::DeletePrefix(_) | Change::PutBulk(..) => None,
        });
        *self = Self::Caught(rows.collect());
        true
    }
}

impl Db {
    /// Makes the next commit fail as on a full disk, and appear once there is room.
    pub(crate) fn fail_next_commit(&self) {
        *self.tail.lock() = Tail::Armed;
    }

    /// Rows that scans have shown so far.
    pub(crate) fn visited(&self) -> u64 {
        self.visited.load(Ordering::Relaxed)
    }

    pub(super) fn bring_back_tail(&self) {
        let Tail::Caught(rows) = std::mem::take(&mut *self.tail.lock()) else { return };
        let mut batch = Batch::default();
        for (key, value) in rows {
            match value {
                Some(value) => batch.put(&key, &value),
                None => batch.delete(&key),
            }
        }
        self.write(&batch, Durability::Synced).expect("written");
    }
}

#[test]
fn batch_from_before_a_reopening_is_refused_and_what_was_refused_may_appear() {
    let (_dir, db) = open();
    let put = |name: &[u8], at: Option<Generation>| {
        let mut batch = Batch::default();
        batch.put(name, b"v");
        if let Some(at) = at {
            batch.made_at(at);
        }
        db.commit(batch, Durability::Synced)
    };
    let before = db.generation();
    db.fail_next_commit();
    assert!(matches!(put(b"tail", None), Err(Error::NoSpace)));
    assert!(!db.contains(b"tail").expect("reads"));
    assert!(matches!(put(b"stale", Some(before)), Err(Error::NoSpace)));
    assert_ne!(db.generation(), before);
    assert!(db.contains(b"tail").expect("reads"), "it appears when the database is opened anew");
    assert!(!db.contains(b"stale").expect("reads"));
    put(b"fresh", Some(db.generation())).expect("commits");
}

fn open() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let db = Db::create(dir.path()).expect("opens");
    (dir, db)
}

fn keys(db: &Db, prefix: &[u8], from: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    db.scan(prefix, from, &mut |key, _| {
        found.push(key.to_vec());
        ControlFlow::Continue(())
    })
    .expect("scans");
    found
}

#[test]
fn scan_stays_inside_its_prefix_and_starts_where_told() {
    let (_dir, db) = open();
    let mut batch = Batch::default();
    for key in [&b"a"[..], b"b", b"b1", b"b2", b"b3", b"c", b"\xff\xff", b"\xff\xff\x01"] {
        batch.put(key, b"v");
    }
    db.commit(batch, Durability::Unsynced).expect("commits");
    assert_eq!(keys(&db, b"b", b"2"), [b"2".to_vec(), b"3".to_vec()]);
    assert_eq!(keys(&db, b"\xff\xff", b""), [b"".to_vec(), b"\x01".to_vec()]);
    assert!(keys(&db, b"d", b"").is_empty());
}

#[test]
fn delete_prefix_takes_earlier_rows_of_the_batch_and_spares_later_ones() {
    let (_dir, db) = open();
    for many in [3u32, 1000] {
        let mut batch = Batch::default();
        for number in 0..many {
            batch.put(&[b"p", &number.to_be_bytes()[..]].concat(), b"v");
        }
        batch.put(b"q", b"v");
        db.commit(batch, Durability::Unsynced).expect("commits");
        let mut batch = Batch::default();
        batch.put(b"p-early", b"v");
        batch.delete_prefix(b"p");
        batch.put(b"p-late", b"v");
        db.commit(batch, Durability::Synced).expect("commits");
        assert_eq!(keys(&db, b"p", b""), [b"-late".to_vec()], "{many}");
        assert!(db.contains(b"q").expect("reads"));
    }
}

#[test]
fn ingested_slices_survive_reopening_and_leave_no_file_behind() {
    let (dir, db) = open();
    let slice = vec![7u8; 65536];
    let rows: Vec<(Vec<u8>, &[u8])> = (0u8..20).map(|at| (vec![0, at], &slice[..])).collect();
    db.ingest(&mut rows.into_iter()).expect("ingests");
    db.ingest(&mut std::iter::empty()).expect("nothing is fine");
    assert_eq!(db.bulk_last_below(&[0, 9]).expect("reads"), Some(vec![0, 8]));
    drop(db);
    let db = Db::open(dir.path(), None).expect("opens");
    assert_eq!(db.bulk_get(&[0, 19]).expect("reads"), Some(slice));
    db.bulk_remove(&[0, 0], &[0, 18, 0]).expect("removes");
    assert_eq!(db.bulk_get(&[0, 18]).expect("reads"), None);
    assert!(db.bulk_get(&[0, 19]).expect("reads").is_some());
    db.bulk_remove(&[0], &[1]).expect("removes");
    assert_eq!(db.bulk_get(&[0, 19]).expect("reads"), None);
    assert_eq!(std::fs::read_dir(dir.path().join("db/incoming")).expect("lists").count(), 0);
}

#[test]
fn reopening_without_the_file_current_fails_as_the_disk_does_and_is_over_once_it_is_back() {
    let (dir, db) = open();
    let mut batch = Batch::default();
    batch.put(b"row of a table", b"value");
    db.commit(batch, Durability::Synced).expect("commits");
    let (current, kept) = (dir.path().join("db/CURRENT"), dir.path().join("kept"));
    std::fs::rename(&current, &kept).expect("moves");
    // Not that the disk is full, and nothing that a peer could be blamed for.
    assert!(matches!(db.make_room(), Err(Error::Db(_))));
    assert!(matches!(db.get(b"row of a table"), Err(Error::Db(_))));
    std::fs::rename(&kept, &current).expect("moves");
    db.make_room().expect("opens");
    db.keep_room();
    assert_eq!(db.get(b"row of a table").expect("reads").as_deref(), Some(&b"value"[..]));
}
