//! Homes in temporary folders, and carrying a folder from one to another by hand.

use std::path::Path;
use std::sync::Arc;

use cobox_fs::vfs::{Vfs, VfsOptions};
use cobox_store::format::access::{Record, Role};
use cobox_store::id::{LogId, PackId};
use cobox_store::keyed::{Folder, Home, MemberSecret, PassphraseCost, Unlock};
use zeroize::Zeroizing;

const FOLDER: &str = "model";

fn unlock() -> Unlock {
    Unlock::Passphrase(Zeroizing::new(String::from("pass")))
}

/// A device that can be restarted.
pub struct Device {
    pub dir: tempfile::TempDir,
    pub secret: Arc<MemberSecret>,
    pub home: Option<Arc<Home>>,
    pub vfs: Option<Arc<Vfs>>,
}

fn make_home(dir: &Path, secret: &MemberSecret) -> Arc<Home> {
    Home::init_at_cost(dir, "model", &unlock(), secret, PassphraseCost::cheapest_for_tests()).expect("a home")
}

fn options() -> VfsOptions {
    VfsOptions { uid: 1000, gid: 1000, read_only: false }
}

impl Device {
    /// A device with an empty folder.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let secret = Arc::new(MemberSecret::generate().expect("randomness"));
        let home = make_home(dir.path(), &secret);
        let folder = home.folder_create(FOLDER).expect("created");
        let vfs = Vfs::open(folder, options()).expect("opens");
        Self { dir, secret, home: Some(home), vfs: Some(vfs) }
    }

    /// The mounted folder.
    pub fn vfs(&self) -> &Arc<Vfs> {
        self.vfs.as_ref().expect("running")
    }

    /// Ends without a word of goodbye.
    pub fn stop(&mut self) {
        self.vfs = None;
        self.home = None;
    }

    /// A device of the same words that is not running and has no folder of its own.
    pub fn alike(&self) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        Self { dir, secret: Arc::clone(&self.secret), home: None, vfs: None }
    }

    /// Ends without a word of goodbye and starts again.
    pub fn restart(&mut self) {
        self.stop();
        let home = Home::open(self.dir.path(), unlock()).expect("opens");
        self.vfs = Some(Vfs::open(home.folder_by_name(FOLDER).expect("there"), options()).expect("opens"));
        self.home = Some(home);
    }

    /// Another device of the same member with the records that this one has, and nothing else yet.
    pub fn alone(&self) -> Self {
        let from = self.vfs().folder();
        self.with_records(from.store().access_records(from.no()).expect("records"))
    }

    /// A device of another person, who was invited by this one.
    pub fn invited(&self, role: Role) -> Self {
        let folder = self.vfs().folder();
        let dir = tempfile::tempdir().expect("temporary folder");
        let secret = Arc::new(MemberSecret::generate().expect("randomness"));
        let home = make_home(dir.path(), &secret);
        let code = folder.invite(role, u64::MAX >> 1).expect("invites");
        let request = home.join_request(&code).expect("asks");
        folder.admit(&request).expect("lets in");
        let records = folder.store().access_records(folder.no()).expect("records");
        let theirs = home.join_finish(&code, Some(FOLDER), &records).expect("joins").expect("has keys");
        let vfs = Vfs::open(theirs, options()).expect("opens");
        Self { dir, secret, home: Some(home), vfs: Some(vfs) }
    }

    /// Another device of the same member that knows these records, and nothing else yet.
    pub fn with_records(&self, records: Vec<Record>) -> Self {
        let from = self.vfs().folder();
        let dir = tempfile::tempdir().expect("temporary folder");
        let home = make_home(dir.path(), &self.secret);
        let folder = home.folder_recover(&self.secret, from.index(), FOLDER, records).expect("recovered");
        let vfs = Vfs::open(folder, options()).expect("opens");
        Self { dir, secret: Arc::clone(&self.secret), home: Some(home), vfs: Some(vfs) }
    }

    /// Another device of the same member with everything that the log of this one says.
    pub fn recovered(&self) -> Self {
        let from = self.vfs().folder();
        let dir = tempfile::tempdir().expect("temporary folder");
        let home = make_home(dir.path(), &self.secret);
        let records = from.store().access_records(from.no()).expect("records");
        let folder = home.folder_recover(&self.secret, from.index(), FOLDER, records).expect("recovered");
        deliver(from, &folder);
        let vfs = Vfs::open(folder, options()).expect("opens");
        Self { dir, secret: Arc::clone(&self.secret), home: Some(home), vfs: Some(vfs) }
    }
}

/// Gives `to` every pack and entry of `from` that is of another log than its own.
pub fn deliver(from: &Folder, to: &Folder) {
    deliver_logs(from, to, &|log| *log != to.log(), &[]);
}

/// Gives `to` every pack and entry of one log.
pub fn deliver_log(from: &Folder, to: &Folder, log: LogId) {
    deliver_logs(from, to, &|other| *other == log, &[]);
}

/// Gives `to` every pack and entry of `from`, those of its own log too.
pub fn deliver_all(from: &Folder, to: &Folder) {
    deliver_logs(from, to, &|_| true, &[]);
}

/// Like [`deliver`], without some packs.
pub fn deliver_without(from: &Folder, to: &Folder, without: &[PackId]) {
    deliver_logs(from, to, &|log| *log != to.log(), without);
}

fn deliver_logs(from: &Folder, to: &Folder, wanted: &dyn Fn(&LogId) -> bool, without: &[PackId]) {
    let (source, target) = (from.store(), to.store());
    for record in source.access_records(from.no()).expect("records") {
        target.access_add(to.no(), &record).expect("accepted");
    }
    to.refresh().expect("refreshed");
    for head in source.log_heads(from.no()).expect("heads") {
        if !wanted(&head.log) {
            continue;
        }
        let known = target.log_head(to.no(), head.log).expect("readable").map_or(0, |head| head.seq);
        // Where the two chains do not fit, everything is told again.
        let same = |seq| {
            target.entry_hash(to.no(), head.log, seq).expect("readable")
                == source.entry_hash(from.no(), head.log, seq).expect("readable")
        };
        let known = if same(known.min(head.seq)) { known } else { 0 };
        for seq in known + 1..=head.seq {
            let entry = source.entry(from.no(), head.log, seq).expect("readable").expect("there");
            for pack in entry.header().packs.iter().filter(|pack| !without.contains(&pack.id)) {
                let len = usize::try_from(pack.size).expect("fits");
                let bytes = source.pack_range(from.no(), pack.id, 0, len).expect("readable").expect("there");
                let outboard = source.outboard(from.no(), pack.id).expect("readable").expect("there");
                target.pack_put(to.no(), *pack, &outboard, &bytes).expect("stored");
            }
            target.entry_add(to.no(), &entry).expect("accepted");
        }
    }
}

/// Tells `to` everything that `from` has, from the beginning; what it does not take it does without.
pub fn offer(from: &Folder, to: &Folder) {
    let (source, target) = (from.store(), to.store());
    for record in source.access_records(from.no()).expect("records") {
        target.access_add(to.no(), &record).expect("accepted");
    }
    to.refresh().expect("refreshed");
    for proof in source.proofs(from.no()).expect("proofs") {
        let _ = target.equivocation_add(to.no(), &proof);
    }
    for head in source.log_heads(from.no()).expect("heads") {
        for seq in 1..=head.seq {
            let entry = source.entry(from.no(), head.log, seq).expect("readable").expect("there");
            if target.entry_add(to.no(), &entry).is_err() {
                break;
            }
            for pack in &entry.header().packs {
                let len = usize::try_from(pack.size).expect("fits");
                let bytes = source.pack_range(from.no(), pack.id, 0, len).expect("readable").expect("there");
                let outboard = source.outboard(from.no(), pack.id).expect("readable").expect("there");
                target.pack_put(to.no(), *pack, &outboard, &bytes).expect("stored");
            }
        }
    }
}
