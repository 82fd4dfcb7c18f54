//! A folder in service: its keys, its mount, and what is remembered about its seeders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use cobox_net::PeerId;
use cobox_store::id::{FolderNo, RecordHash};
use cobox_store::keyed::Folder;
use parking_lot::{Mutex, MutexGuard};

use super::alarm::Watch;
use super::mounts::Mounted;
use super::proof::{LOST_AFTER, Lack, LiveSet};
use crate::exit::{Outcome, Problem};

/// One folder of the running daemon.
pub(crate) struct FolderState {
    pub folder: Arc<Folder>,
    /// Locked for as long as a mount is made or taken off, so that two requests cannot cross.
    pub mount_turn: Mutex<()>,
    /// The folder was left, or goes on in another one of these, under a fresh log.
    pub replaced: AtomicBool,
    /// Locked for moments only: the mount's own calls ask for it while a mount is being taken off.
    pub mount: Mutex<Option<Arc<Mounted>>>,
    /// Why a wanted mount is not there.
    pub mount_problem: Mutex<Option<String>>,
    /// One audit of a folder at a time: each reads the whole list of live packs.
    pub audit: Mutex<()>,
    /// The live packs, as of some heads.
    pub live: Mutex<Option<Arc<LiveSet>>>,
    pub seeders: Mutex<BTreeMap<PeerId, SeederNotes>>,
    /// What people were told about the folder's copies.
    pub watch: Mutex<Watch>,
    pub keeping_watch: Mutex<()>,
    /// When a folder's devices were kept last, and what was kept.
    pub contacts: Mutex<(Option<Instant>, Vec<u8>)>,
    /// The access log that the network was told about.
    pub access_told: Mutex<Vec<RecordHash>>,
}

/// What the daemon remembers about a seeder while it runs.
#[derive(Default)]
pub(crate) struct SeederNotes {
    /// Whether a session was open at the last visit.
    pub was_open: bool,
    /// Whether it said at the last visit that it lacks something, and how much that is.
    pub lacks: bool,
    pub lack: Option<Lack>,
    /// What was done since that session began: a new one may be with a seeder that lost its data.
    pub done: Done,
    /// When an audit was last tried.
    pub audit_tried: Option<Instant>,
    /// What the last audit or locator ran into.
    pub problem: Option<String>,
    /// Whether its last answer to an audit did not hold.
    pub failed: bool,
    /// What its newest proof covered when everything was, and since when that is not so any more.
    pub covered: Option<Arc<LiveSet>>,
    pub uncovered: Option<Instant>,
    /// Since when it says at each visit that it lacks more than came since its proof.
    pub said_lost: Option<Instant>,
    /// What was live when it was looked whether its proof covers that.
    pub looked: Option<Arc<LiveSet>>,
    /// What the last audit covered, and when, in milliseconds since 1970: a file's copies are
    /// known while newer ones travel.
    pub proved: Option<(Arc<LiveSet>, u64)>,
    /// Since when it says that it holds everything, and each answer is a proof of something else.
    pub unlike: Option<Instant>,
}

impl SeederNotes {
    /// Its answer did not hold: what it proved before counts for nothing any more.
    pub fn disprove(&mut self) {
        self.forget_proofs();
        self.failed = true;
    }

    /// Whether it has said for [`LOST_AFTER`] by now that it lacks more than came since its proof; then what it proved is
    /// forgotten. `lack` is nothing where what it says cannot be judged.
    pub fn hear_loss(&mut self, lack: Option<Lack>, live: &LiveSet, now: Instant) -> bool {
        let proved = [self.proved.as_ref().map(|(proved, _)| proved), self.covered.as_ref()];
        let lost = |lack: Lack| proved.into_iter().flatten().any(|proved| !lack.came_since(proved, live));
        let says = lack.is_some_and(lost);
        self.said_lost = self.said_lost.or(Some(now)).filter(|_| says);
        let is_sure = self.said_lost.is_some_and(|since| now.duration_since(since) >= LOST_AFTER);
        if is_sure {
            self.forget_proofs();
        }
        is_sure
    }

    /// What it proved before counts for nothing any more.
    pub fn forget_proofs(&mut self) {
        (self.proved, self.covered, self.looked, self.done.proved) = (None, None, None, None);
        self.said_lost = None;
    }
}

/// What was done with a seeder in one session.
#[derive(Default)]
pub(crate) struct Done {
    /// When an audit last proved everything that was live.
    pub proved: Option<Instant>,
    /// The version of the locator that it was left last, and when.
    pub locator: Option<(u64, Instant)>,
    /// When a locator was last offered.
    pub locator_tried: Option<Instant>,
}

impl FolderState {
    pub fn new(folder: Arc<Folder>) -> Self {
        Self {
            folder,
            mount_turn: Mutex::new(()),
            replaced: AtomicBool::new(false),
            mount: Mutex::new(None),
            mount_problem: Mutex::new(None),
            audit: Mutex::new(()),
            live: Mutex::new(None),
            seeders: Mutex::default(),
            watch: Mutex::default(),
            keeping_watch: Mutex::default(),
            contacts: Mutex::default(),
            access_told: Mutex::default(),
        }
    }

    /// Waits for the turn of whoever works in the folder's tree, mounted or not.
    ///
    /// # Errors
    /// Where the folder was left or opened anew meanwhile: what would be written here would be in a log that has ended.
    pub fn turn(&self) -> Outcome<MutexGuard<'_, ()>> {
        let turn = self.mount_turn.lock();
        if self.replaced.load(Ordering::Acquire) {
            return Err(Problem::failed_with(
                format!("The folder {} was closed in this moment.", self.folder.name()),
                "Nothing was done; ask again.",
            ));
        }
        Ok(turn)
    }

    pub fn no(&self) -> FolderNo {
        self.folder.no()
    }
}
