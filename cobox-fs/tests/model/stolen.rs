//! A writer's device in somebody else's hands: whatever it writes, floods and asks for, what the folder was 29 days
//! of the seeder's running ago can still be read, with what that seeder alone holds.

use std::sync::Arc;

use cobox_fs::vfs::{Called, Copies, Cut, Kind, ROOT, Released};
use cobox_store::Error;
use cobox_store::blind::{PackStatus, Store, StoreKind};
use cobox_store::format::access::{Record, Role};
use cobox_store::format::entry::Entry;
use cobox_store::format::pack::PackRef;
use cobox_store::format::release::Release;
use cobox_store::id::{FolderNo, PackId};

use crate::BY;
use crate::giving::carry;
use crate::home::Device;
use crate::stories::bytes_of;
use crate::tree::{WRITE, resolve};

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
const QUOTA_BYTES: u64 = 6 << 20;

/// A seeder that all go through.
struct Keeper {
    store: Arc<Store>,
    no: FolderNo,
    _dir: tempfile::TempDir,
}

impl Keeper {
    fn new(device: &Device) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = Store::create(dir.path(), StoreKind::Seeder).expect("creates");
        let from = device.vfs().folder();
        let records = from.store().access_records(from.no()).expect("reads");
        let no = store.folder_add(&records[0]).expect("a genesis");
        store.quota_set(no, QUOTA_BYTES, 0).expect("sets");
        Self { store, no, _dir: dir }
    }

    /// Takes what a device has; says what it refuses.
    fn take(&self, device: &Device) -> Result<(), Error> {
        let from = device.vfs().folder();
        device.vfs().cut(Cut::Now).expect("cut");
        for record in from.store().access_records(from.no()).expect("reads") {
            self.store.access_add(self.no, &record)?;
        }
        for head in from.store().log_heads(from.no()).expect("reads") {
            let known = self.store.log_head(self.no, head.log).expect("reads").map_or(0, |head| head.seq);
            for seq in known + 1..=head.seq {
                let entry = from.store().entry(from.no(), head.log, seq).expect("reads").expect("is there");
                self.store.entry_add(self.no, &entry)?;
            }
        }
        carry(from.store(), from.no(), &self.store, self.no);
        Ok(())
    }

    /// Gives a device everything.
    fn give(&self, device: &Device) {
        let to = device.vfs().folder();
        for record in self.store.access_records(self.no).expect("reads") {
            to.store().access_add(to.no(), &record).expect("admitted");
        }
        to.refresh().expect("opens");
        for entry in self.entries() {
            to.store().entry_add(to.no(), &entry).expect("is taken");
        }
        carry(&self.store, self.no, to.store(), to.no());
        device.vfs().catch_up().expect("applies");
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for head in self.store.log_heads(self.no).expect("reads") {
            let of_log = (1..=head.seq).map(|seq| self.store.entry(self.no, head.log, seq));
            entries.extend(of_log.map(|entry| entry.expect("reads").expect("is there")));
        }
        entries
    }

    /// The seeder runs for so long.
    fn pass(&self, ms: u64) {
        for _ in 0..ms / (10 * MINUTE_MS) {
            self.store.retention_advance(10 * MINUTE_MS).expect("goes on");
        }
    }

    fn holds(&self, pack: &PackRef) -> bool {
        self.store.pack_status(self.no, pack.id).expect("reads") == PackStatus::Complete(*pack)
    }
}

fn put(device: &Device, name: &str, bytes: &[u8]) {
    let vfs = device.vfs();
    let _ = vfs.mknod(ROOT, name.as_bytes(), Kind::File, BY, 0);
    let fh = vfs.open_file(resolve(vfs, name.as_bytes()), WRITE).expect("opens");
    vfs.write(fh, 0, bytes).expect("writes");
    vfs.flush(fh).expect("closes");
    vfs.release(fh).expect("closes");
    vfs.cut(Cut::Now).expect("cut");
}

/// Bytes that no compression shortens.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("stolen").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// What the thief does with the device of somebody who may write.
fn ravage(thief: &Device, seeder: &Keeper, packs: &[PackRef]) {
    // It overwrites, and removes.
    put(thief, "precious", &noise(7, 700_000));
    thief.vfs().unlink(ROOT, b"other").expect("removes");
    seeder.take(thief).expect("is taken");
    // It asks for deletion, by its own word and with a cut of its own.
    let mut named: Vec<PackId> = packs.iter().map(|pack| pack.id).collect();
    named.sort_unstable();
    let folder = thief.vfs().folder();
    let mut cut: Vec<_> =
        seeder.store.log_heads(seeder.no).expect("reads").iter().map(|head| (head.log, head.seq)).collect();
    cut.sort_unstable();
    let release = Release { cut: cut.clone(), packs: vec![], young: named };
    assert!(matches!(folder.release(release), Err(Error::Access { .. })));
    assert!(matches!(folder.call(cut), Err(Error::Access { .. })));
    // It floods, until nothing is taken any more.
    let refused = (0..40).find_map(|seed| {
        put(thief, &format!("flood {seed}"), &noise(100 + seed, 500_000));
        seeder.take(thief).err()
    });
    assert!(matches!(refused, Some(Error::Quota { .. })), "{refused:?}");
}

#[test]
fn compromised_writer_cannot_make_the_state_of_29_days_ago_unreadable() {
    let ann = Device::new();
    let thief = ann.invited(Role::Write);
    put(&ann, "precious", &noise(1, 300_000));
    put(&ann, "other", &noise(2, 200_000));
    let seeder = Keeper::new(&ann);
    seeder.take(&ann).expect("is taken");
    seeder.give(&thief);
    assert_eq!(bytes_of(thief.vfs(), b"precious"), noise(1, 300_000));
    let records: Vec<Record> = seeder.store.access_records(seeder.no).expect("reads");
    let entries = seeder.entries();
    let packs: Vec<PackRef> = entries.iter().flat_map(|entry| entry.header().packs.clone()).collect();
    seeder.pass(3 * DAY_MS);
    ravage(&thief, &seeder, &packs);
    // Ann notices nothing, and gives back the space of what looks overwritten and removed.
    seeder.give(&ann);
    assert_eq!(bytes_of(ann.vfs(), b"precious"), noise(7, 700_000));
    assert!(matches!(ann.vfs().call_for_release(&Copies::Lacking), Ok(Called::Out(_))));
    ann.vfs().acknowledge().expect("answers");
    let _ = seeder.take(&ann);
    seeder.store.quota_set(seeder.no, 2 * QUOTA_BYTES, 0).expect("sets");
    seeder.take(&ann).expect("is taken");
    seeder.give(&thief);
    thief.vfs().acknowledge().expect("answers, to have it released");
    seeder.take(&thief).expect("is taken");
    seeder.give(&ann);
    assert!(
        matches!(ann.vfs().release_dead(), Ok(Released::Done(released)) if released.len() >= packs.len())
    );
    seeder.take(&ann).expect("is taken");
    ann.vfs().drop_released().expect("lets go");
    // A clock that jumps counts for ten minutes.
    seeder.store.retention_advance(u64::MAX).expect("goes on");
    seeder.pass(29 * DAY_MS);
    assert!(packs.iter().all(|pack| seeder.holds(pack)), "all of that time is still there");
    let past = ann.with_records(records);
    let to = past.vfs().folder();
    for entry in &entries {
        to.store().entry_add(to.no(), entry).expect("is taken");
    }
    carry(&seeder.store, seeder.no, to.store(), to.no());
    past.vfs().catch_up().expect("applies");
    assert_eq!(bytes_of(past.vfs(), b"precious"), noise(1, 300_000));
    assert_eq!(bytes_of(past.vfs(), b"other"), noise(2, 200_000));
    // In the end it goes.
    seeder.pass(DAY_MS + 10 * MINUTE_MS);
    assert!(!packs.iter().any(|pack| seeder.holds(pack)));
}
