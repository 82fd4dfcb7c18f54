//! What a member's device promises, through the public interface: folders, chunks, entries, recovery.

use std::path::Path;
use std::sync::Arc;

use cobox_store::Error;
use cobox_store::blind::kembox::{KemSecret, Purpose};
use cobox_store::blind::{Batch, Table, key};
use cobox_store::format::access::{Act, Record};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::content::ChunkRef;
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::format::pack::ChunkType;
use cobox_store::keyed::{Folder, Home, MemberSecret, PassphraseCost, Unlock};
use zeroize::Zeroizing;

fn unlock(text: &str) -> Unlock {
    Unlock::Passphrase(Zeroizing::new(text.into()))
}

fn home(dir: &Path, secret: &MemberSecret) -> Arc<Home> {
    Home::init_at_cost(dir, "laptop", &unlock("pass"), secret, PassphraseCost::cheapest_for_tests())
        .expect("a home")
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn stow(folder: &Folder, plain: &[u8]) -> ChunkRef {
    folder.stow(folder.seal(ChunkType::Data, plain)).expect("stowed")
}

fn acks(hlcs: std::ops::Range<u64>) -> Vec<OpGroup> {
    hlcs.map(|hlc| OpGroup { hlc, ops: vec![Op::Ack] }).collect()
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("readable").map(|entry| entry.expect("readable")) {
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

/// Gives `to` every pack and entry of `from`.
fn deliver(from: &Folder, to: &Folder) {
    let (source, target) = (from.store(), to.store());
    for head in source.log_heads(from.no()).expect("heads") {
        for seq in 1..=head.seq {
            let entry = source.entry(from.no(), head.log, seq).expect("readable").expect("there");
            for pack in &entry.header().packs {
                let bytes = source.pack_range(from.no(), pack.id, 0, pack.size as usize).expect("readable");
                let outboard = source.outboard(from.no(), pack.id).expect("readable").expect("there");
                target.pack_put(to.no(), *pack, &outboard, &bytes.expect("there")).expect("stored");
            }
            target.entry_add(to.no(), &entry).expect("accepted");
            let mut batch = Batch::default();
            to.index_entry(&entry, &to.open_entry(&entry).expect("opens"), &mut batch).expect("indexed");
            target.db().commit(batch, cobox_store::blind::Durability::Synced).expect("committed");
        }
    }
}

#[test]
fn home_reopened_has_its_folders_and_refuses_a_wrong_passphrase() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = MemberSecret::generate().expect("randomness");
    let made = home(dir.path(), &secret);
    let photos = made.folder_create("photos").expect("created");
    assert!(matches!(made.folder_create("photos"), Err(Error::NameTaken { name }) if name == "photos"));
    assert!(matches!(made.folder_create("a/b"), Err(Error::BadName)));
    let work = made.folder_create("work").expect("created");
    assert_eq!((photos.index(), work.index()), (0, 1));
    assert_eq!(photos.label_of(&photos.log()).as_deref(), Some("laptop"));
    assert_eq!(photos.label_of_number(photos.log_number()).as_deref(), Some("laptop"));
    let (id, log, net) = (photos.id(), photos.log(), made.net_key().expect("a key"));
    drop((photos, work, made));
    assert!(matches!(Home::open(dir.path(), unlock("other")), Err(Error::WrongKey)));
    assert!(Home::needs_passphrase(dir.path()).expect("readable"));
    let again = Home::open(dir.path(), unlock("pass")).expect("opens");
    let names: Vec<String> = again.folders().expect("listed").into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["photos", "work"]);
    let photos = again.folder_by_name("photos").expect("there");
    assert_eq!((photos.id(), photos.log()), (id, log));
    assert_eq!(again.net_key().expect("a key"), net);
    assert!(Arc::ptr_eq(&photos, &again.folder(photos.no()).expect("there")));
    assert!(matches!(again.folder_by_name("none"), Err(Error::NoSuchName)));
}

#[test]
fn folder_that_was_left_is_gone_with_its_keys_and_its_index_is_not_used_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = MemberSecret::generate().expect("randomness");
    let made = home(dir.path(), &secret);
    let (photos, work) =
        (made.folder_create("photos").expect("created"), made.folder_create("work").expect("created"));
    let (no, log) = (work.no(), work.log());
    drop(work);
    made.folder_leave(no).expect("leaves");
    assert!(matches!(made.folder_leave(no), Err(Error::NoSuchName)));
    assert!(matches!(made.folder_by_name("work"), Err(Error::NoSuchName)));
    drop((photos, made));
    let again = Home::open(dir.path(), unlock("pass")).expect("opens");
    let names: Vec<String> = again.folders().expect("listed").into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["photos"]);
    let mut rows = 0;
    let mut count = |_: &[u8], _: &[u8]| {
        rows += 1;
        std::ops::ControlFlow::Continue(())
    };
    again.store().db().scan(&no.0.to_be_bytes(), &[], &mut count).expect("scans");
    assert_eq!(rows, 0, "nothing of it is left");
    let fresh = again.folder_create("work").expect("the name is free");
    assert_eq!(fresh.index(), 2, "recovery keys of a folder that others still have are no other folder's");
    assert!(fresh.no() != no && fresh.log() != log);
}

#[test]
fn home_made_twice_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = MemberSecret::generate().expect("randomness");
    drop(home(dir.path(), &secret));
    assert!(matches!(Home::init(dir.path(), "again", unlock("pass")), Err(Error::Io { .. })));
}

#[test]
fn chunk_stowed_is_readable_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = MemberSecret::generate().expect("randomness");
    let made = home(dir.path(), &secret);
    let folder = made.folder_create("f").expect("created");
    // Three packs' worth, so that some were closed on the way.
    let plains: Vec<Vec<u8>> = (0..100).map(|at| noise(200_000 + at as usize, at)).collect();
    let chunks: Vec<ChunkRef> = plains.iter().map(|plain| stow(&folder, plain)).collect();
    let check = |folder: &Folder| {
        for (chunk, plain) in chunks.iter().zip(&plains) {
            assert_eq!(&*folder.read_chunk(ChunkType::Data, *chunk).expect("readable"), plain);
        }
    };
    check(&folder);
    folder.flush_packs().expect("flushed");
    drop((folder, made));
    let again = Home::open(dir.path(), unlock("pass")).expect("opens");
    let folder = again.folder_by_name("f").expect("there");
    check(&folder);
    assert!(folder.pack_of(chunks[0]).expect("readable").is_some());
    assert!(folder.read_chunk(ChunkType::Node, chunks[0]).is_err(), "another type");
    let head = folder.write_entries(1 << 16, acks(1..2), vec![], Batch::default()).expect("written");
    let entry = folder.store().entry(folder.no(), head.log, head.seq).expect("readable").expect("there");
    assert_eq!(entry.header().packs.len(), 3, "packs of the run before are named");
}

#[test]
fn chunk_stowed_again_is_stored_once_and_two_folders_share_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = MemberSecret::generate().expect("randomness");
    let made = home(dir.path(), &secret);
    let (one, two) =
        (made.folder_create("one").expect("created"), made.folder_create("two").expect("created"));
    let plain = noise(100_000, 1);
    let first = stow(&one, &plain);
    assert_eq!(stow(&one, &plain), first);
    one.flush_packs().expect("flushed");
    let packs = one.store().usage(one.no()).expect("counted").packs;
    assert_eq!(stow(&one, &plain), first);
    one.flush_packs().expect("flushed");
    assert_eq!(one.store().usage(one.no()).expect("counted").packs, packs);
    let other = stow(&two, &plain);
    assert_ne!(other.tag, first.tag);
    assert!(matches!(two.read_chunk(ChunkType::Data, first), Err(Error::UnknownEpoch(_))));
    let foreign = ChunkRef { epoch: other.epoch, tag: first.tag };
    assert!(matches!(two.read_chunk(ChunkType::Data, foreign), Err(Error::Absent(_))));
}

#[test]
fn chunks_stowed_by_many_threads_are_all_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let made = home(dir.path(), &MemberSecret::generate().expect("randomness"));
    let folder = made.folder_create("f").expect("created");
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let folder = &folder;
            scope.spawn(move || {
                for at in 0..60 {
                    // Every second chunk is another thread's too.
                    let plain = noise(250_000, if at % 2 == 0 { at } else { thread * 1000 + at });
                    let chunk = stow(folder, &plain);
                    assert_eq!(&*folder.read_chunk(ChunkType::Data, chunk).expect("readable"), &plain);
                    if at % 25 == 0 {
                        folder.flush_packs().expect("flushed");
                    }
                }
            });
        }
    });
    folder.flush_packs().expect("flushed");
    let head = folder.write_entries(1 << 16, vec![], vec![], Batch::default()).expect("written");
    assert_eq!(head.seq, 1);
}

#[test]
fn entries_carry_packs_first_and_ops_last_within_their_bounds() {
    let dir = tempfile::tempdir().expect("a folder");
    let made = home(dir.path(), &MemberSecret::generate().expect("randomness"));
    let folder = made.folder_create("f").expect("created");
    for at in 0..70 {
        stow(&folder, &noise(100, at));
        folder.flush_packs().expect("flushed");
    }
    let value = Some(vec![7; 60_000]);
    let xattr = Op::Xattr { ino: cobox_store::id::Ino::ROOT, key: b"user.a".to_vec(), value };
    let groups: Vec<OpGroup> = (1..40).map(|hlc| OpGroup { hlc, ops: vec![xattr.clone()] }).collect();
    let mut extra = Batch::default();
    let row = key(folder.no(), Table::Misc, b"extra");
    extra.put(&row, b"committed");
    let head = folder.write_entries(99, groups.clone(), vec![], extra).expect("written");
    assert_eq!(folder.store().db().get(&row).expect("readable").as_deref(), Some(b"committed".as_slice()));
    let (mut packs, mut found) = (0, Vec::new());
    for seq in 1..=head.seq {
        let entry = folder.store().entry(folder.no(), head.log, seq).expect("readable").expect("there");
        let body = folder.open_entry(&entry).expect("opens");
        assert!(body.groups.is_empty() || packs + entry.header().packs.len() == 70, "ops before packs");
        packs += entry.header().packs.len();
        found.extend(body.groups);
    }
    assert_eq!((packs, found), (70, groups));
    let next = folder.write_entries(100, vec![], vec![], Batch::default()).expect("written");
    let entry = folder.store().entry(folder.no(), next.log, next.seq).expect("readable").expect("there");
    assert!(entry.header().packs.is_empty(), "named packs are not named again");
}

#[test]
fn group_larger_than_an_entry_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let made = home(dir.path(), &MemberSecret::generate().expect("randomness"));
    let folder = made.folder_create("f").expect("created");
    let value = Some(vec![7; 60_000]);
    let xattr = Op::Xattr { ino: cobox_store::id::Ino::ROOT, key: b"user.a".to_vec(), value };
    let groups = vec![OpGroup { hlc: 1, ops: vec![xattr; 20] }];
    let refused = folder.write_entries(99, groups, vec![], Batch::default());
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
    assert!(folder.store().log_heads(folder.no()).expect("readable").is_empty());
}

fn records(folder: &Folder) -> Vec<Record> {
    folder.store().access_records(folder.no()).expect("readable")
}

#[test]
fn words_and_records_give_entries_and_chunks_back() {
    let dirs = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let secret = MemberSecret::generate().expect("randomness");
    let first = home(dirs.0.path(), &secret);
    first.folder_create("other").expect("created");
    let lost = first.folder_create("photos").expect("created");
    let plain = noise(50_000, 3);
    let chunk = stow(&lost, &plain);
    lost.write_entries(1 << 16, acks(1..4), vec![], Batch::default()).expect("written");

    let words = MemberSecret::from_words(&secret.words()).expect("the words");
    let second = home(dirs.1.path(), &words);
    let mut shuffled = records(&lost);
    shuffled.reverse();
    let found = second.folder_recover(&words, lost.index(), "photos", shuffled).expect("recovered");
    assert_eq!(found.id(), lost.id());
    assert_ne!(found.log(), lost.log());
    assert!(matches!(found.read_chunk(ChunkType::Data, chunk), Err(Error::Absent(_))));
    deliver(&lost, &found);
    assert_eq!(&*found.read_chunk(ChunkType::Data, chunk).expect("readable"), &plain);
    let entry = found.store().entry(found.no(), lost.log(), 1).expect("readable").expect("there");
    assert_eq!(found.open_entry(&entry).expect("opens").groups, acks(1..4));

    // The first device learns of the second, and reads what it writes under the new epoch.
    for record in records(&found) {
        lost.store().access_add(lost.no(), &record).expect("accepted");
    }
    lost.refresh().expect("refreshed");
    assert_eq!(lost.swarm_secrets().len(), 2);
    assert_eq!(lost.swarm_secret().expect("there").expose(), found.swarm_secret().expect("there").expose());
    let later = stow(&found, b"written by the second device");
    assert_ne!(later.epoch, chunk.epoch);
    found.write_entries(2 << 16, acks(9..10), vec![], Batch::default()).expect("written");
    deliver(&found, &lost);
    assert_eq!(&*lost.read_chunk(ChunkType::Data, later).expect("readable"), b"written by the second device");

    // Both still open after a restart, without the words.
    drop((found, second));
    let second = Home::open(dirs.1.path(), unlock("pass")).expect("opens");
    let found = second.folder_by_name("photos").expect("there");
    assert_eq!(&*found.read_chunk(ChunkType::Data, chunk).expect("readable"), &plain);
    let again = second.folder_recover(&words, lost.index(), "photos", records(&lost)).expect("known");
    assert!(Arc::ptr_eq(&again, &found));
}

#[test]
fn recovery_with_other_words_or_another_index_is_refused() {
    let dirs = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let secret = MemberSecret::generate().expect("randomness");
    let lost = home(dirs.0.path(), &secret).folder_create("photos").expect("created");
    let stranger = MemberSecret::generate().expect("randomness");
    let second = home(dirs.1.path(), &stranger);
    let refused = second.folder_recover(&stranger, 0, "photos", records(&lost));
    assert!(matches!(refused, Err(Error::NotAMember)));
    let refused = second.folder_recover(&secret, 1, "photos", records(&lost));
    assert!(matches!(refused, Err(Error::NotAMember)));
    assert!(second.folders().expect("listed").is_empty());
    assert!(second.folder_recover(&secret, 0, "photos", records(&lost)).is_ok());
}

#[test]
fn store_from_an_older_copy_never_signs_a_number_again_and_goes_on_under_a_fresh_log() {
    let dir = tempfile::tempdir().expect("a folder");
    let copy = tempfile::tempdir().expect("a folder");
    let made = home(dir.path(), &MemberSecret::generate().expect("randomness"));
    let folder = made.folder_create("f").expect("created");
    let chunk = stow(&folder, b"kept");
    folder.write_entries(1 << 16, acks(1..2), vec![], Batch::default()).expect("written");
    drop((folder, made));
    copy_dir(&dir.path().join("data"), &copy.path().join("data"));
    let made = Home::open(dir.path(), unlock("pass")).expect("opens");
    let folder = made.folder_by_name("f").expect("there");
    let forgotten = folder.write_entries(2 << 16, acks(3..4), vec![], Batch::default()).expect("written");
    let entry = folder.store().entry(folder.no(), forgotten.log, 2).expect("readable").expect("there");
    drop((folder, made));
    std::fs::remove_dir_all(dir.path().join("data")).expect("removed");
    copy_dir(&copy.path().join("data"), &dir.path().join("data"));
    let made = Home::open(dir.path(), unlock("pass")).expect("opens");
    let folder = made.folder_by_name("f").expect("there");
    assert_eq!(&*folder.read_chunk(ChunkType::Data, chunk).expect("readable"), b"kept");
    assert_eq!(folder.set_back().expect("readable"), Some((forgotten.log, 1)));
    let head = folder.write_entries(3 << 16, acks(5..6), vec![], Batch::default()).expect("written");
    assert_ne!(head.log, forgotten.log);
    assert_eq!(head.seq, 1);
    // What it had forgotten is taken from a peer, as another log's.
    folder.store().entry_add(folder.no(), &entry).expect("accepted");
    assert_eq!(folder.open_entry(&entry).expect("opens").groups, acks(3..4));
    drop((folder, made));
    let made = Home::open(dir.path(), unlock("pass")).expect("opens");
    let folder = made.folder_by_name("f").expect("there");
    assert_eq!(folder.log(), head.log, "it joins again once");
    assert_eq!(folder.store().access(folder.no()).expect("readable").devices.len(), 2);
}

#[test]
fn recovery_interrupted_before_its_record_goes_on_at_the_next_opening() {
    let dirs = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let secret = MemberSecret::generate().expect("randomness");
    let lost = home(dirs.0.path(), &secret).folder_create("photos").expect("created");
    let second = home(dirs.1.path(), &secret);
    let before = records(&lost);
    let found = second.folder_recover(&secret, 0, "photos", before.clone()).expect("recovered");
    let (no, log) = (found.no(), found.log());
    let admission = records(&found).into_iter().find(|record| !before.contains(record)).expect("admitted");
    // As a crash leaves it: keys and admission are kept, and no record has entered the access log.
    let mut batch = Batch::default();
    batch.put(&key(no, Table::Setting, b"admission"), &admission.encode());
    for position in before.len() as u64..records(&found).len() as u64 {
        batch.delete(&key(no, Table::AccessRecord, &position.to_be_bytes()));
    }
    for record in records(&found).iter().filter(|record| !before.contains(record)) {
        batch.delete(&key(no, Table::AccessByHash, &record.hash().0));
    }
    second.store().db().commit(batch, cobox_store::blind::Durability::Synced).expect("committed");
    drop((found, second));
    let second = Home::open(dirs.1.path(), unlock("pass")).expect("opens");
    let found = second.folder_recover(&secret, 0, "photos", before.clone()).expect("goes on");
    assert_eq!(found.log(), log, "the same device");
    assert!(found.store().access(no).expect("readable").may_write(&log));
    assert_eq!(records(&found).len(), before.len() + 2, "the admission, and an epoch boxed to it");
    found.write_entries(1 << 16, acks(1..2), vec![], Batch::default()).expect("written");
    assert!(found.store().db().get(&key(no, Table::Setting, b"admission")).expect("readable").is_none());
}

#[test]
fn pack_that_a_crash_left_without_rows_is_swept_at_the_next_opening() {
    let dir = tempfile::tempdir().expect("a folder");
    let made = home(dir.path(), &MemberSecret::generate().expect("randomness"));
    let folder = made.folder_create("f").expect("created");
    let kept = stow(&folder, b"waits for its entry");
    folder.flush_packs().expect("flushed");
    let bytes = noise(1 << 18, 1);
    let outboard = cobox_store::format::proof::Outboard::of(&bytes);
    folder.store().pack_put(folder.no(), outboard.pack(), &outboard, &bytes).expect("stored");
    let status =
        |folder: &Folder| folder.store().pack_status(folder.no(), outboard.pack().id).expect("readable");
    assert_ne!(status(&folder), cobox_store::blind::PackStatus::Unknown);
    drop((folder, made));
    let made = Home::open(dir.path(), unlock("pass")).expect("opens");
    let folder = made.folder_by_name("f").expect("there");
    assert_eq!(status(&folder), cobox_store::blind::PackStatus::Unknown);
    assert_eq!(&*folder.read_chunk(ChunkType::Data, kept).expect("readable"), b"waits for its entry");
}

#[test]
fn log_continued_by_a_clone_stops_signing() {
    let dir = tempfile::tempdir().expect("a folder");
    let twin = tempfile::tempdir().expect("a folder");
    let made = home(dir.path(), &MemberSecret::generate().expect("randomness"));
    drop((made.folder_create("f").expect("created"), made));
    copy_dir(dir.path(), twin.path());
    let open = |dir: &Path| {
        let home = Home::open(dir, unlock("pass")).expect("opens");
        home.folder_by_name("f").expect("there")
    };
    let (original, clone) = (open(dir.path()), open(twin.path()));
    let head = clone.write_entries(1 << 16, acks(1..2), vec![], Batch::default()).expect("written");
    let entry = clone.store().entry(clone.no(), head.log, head.seq).expect("readable").expect("there");
    original.store().entry_add(original.no(), &entry).expect("accepted");
    for _ in 0..2 {
        let refused = original.write_entries(2 << 16, acks(3..4), vec![], Batch::default());
        assert!(matches!(refused, Err(Error::RolledBack { .. })));
    }
}

#[test]
fn seeder_granted_opens_its_swarm_secret_and_stands_in_the_locator() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = MemberSecret::generate().expect("randomness");
    let made = home(dir.path(), &secret);
    let folder = made.folder_create("f").expect("created");
    let kem = KemSecret::from_seed(&[5; 32]);
    let address =
        SeederAddress { peer_id: vec![1, 2, 3], kem: kem.public(), addresses: vec![vec![4, 127, 0, 0, 1]] };
    let record = folder.grant_seeder(&address, 1 << 30, 0).expect("granted");
    let Act::GrantSeeder(grant) = &record.content().act else { panic!("a grant") };
    let opened =
        kem.open(Purpose::Swarm, folder.id(), &grant.swarm_epoch.0, &grant.swarm_box).expect("opens");
    assert_eq!(&*opened, folder.swarm_secret().expect("there").expose());

    let rotated = folder.rotate().expect("rotated");
    let Act::NewEpoch(epoch) = &rotated.content().act else { panic!("an epoch") };
    let swarm_box =
        epoch.swarm_boxes.iter().find(|key_box| key_box.recipient == kem.public()).expect("for the seeder");
    let opened = kem.open(Purpose::Swarm, folder.id(), &epoch.commit, &swarm_box.sealed).expect("opens");
    assert_eq!(&*opened, folder.swarm_secret().expect("there").expose());

    let (older, locator) = (made.locator_make().expect("made"), made.locator_make().expect("made"));
    assert!(locator.seq > older.seq);
    let second = tempfile::tempdir().expect("a folder");
    let replaced = home(second.path(), &secret).locator_make_over(Some(&locator)).expect("made");
    assert!(replaced.seq > locator.seq);
    let kept = Home::locator_open(&secret, &replaced).expect("opens");
    assert_eq!(kept[0].folder, folder.id(), "a folder of another device of the member stays");
    let found = Home::locator_open(&secret, &locator).expect("opens");
    assert_eq!(
        (found[0].folder, found[0].index, found[0].name.as_slice()),
        (folder.id(), 0, b"f".as_slice())
    );
    assert_eq!(found[0].seeders, [address]);
    assert_eq!(locator.id(), secret.locator().id());
    let stranger = MemberSecret::generate().expect("randomness");
    assert!(matches!(Home::locator_open(&stranger, &locator), Err(Error::Sealed)));
    let mut bent = locator.clone();
    bent.sealed[40] ^= 1;
    assert!(matches!(Home::locator_open(&secret, &bent), Err(Error::Sealed)));
}
