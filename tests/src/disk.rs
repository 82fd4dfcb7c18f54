//! A disk whose power can be cut, and that can be made to fail.
//!
//! It is a file that a FUSE file system of this process serves, with an ext4 on it (a loop device). Each write and
//! each flush that reaches it is kept in order ([`Tape`]), so that afterwards the disk can be had as it would have
//! been had its power gone at any moment: with all that was flushed, and of what was written since as much or as
//! little as a disk's cache might have kept. This is what dm-log-writes of Linux does for a disk of its own; here it
//! needs neither that module nor a disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};

use crate::load::Rng;
use crate::process::run;

/// What a disk keeps or loses as one: ext4's blocks are as large.
const PAGE_BYTES: usize = 4096;
/// Bytes of one request.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// The kernel may keep what it was told for as long as the disk is there: nobody else changes it.
const TRUST: Duration = Duration::from_secs(3_600);
/// How long it may be in use when it is unmounted.
const BUSY_LIMIT: Duration = Duration::from_secs(30);
const DISK: INodeNo = INodeNo(2);
const NAME: &str = "disk";

/// What a disk holds; pages that were never written are zeros.
#[derive(Clone, Default)]
pub struct Image(BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>);

impl Image {
    fn read(&self, at: u64, bytes: &mut [u8]) {
        for (page, from, to) in parts(at, bytes.len()) {
            let within = (at as usize + from) % PAGE_BYTES;
            match self.0.get(&page) {
                Some(held) => bytes[from..to].copy_from_slice(&held[within..within + to - from]),
                None => bytes[from..to].fill(0),
            }
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8], mut keeps: impl FnMut() -> bool) {
        for (page, from, to) in parts(at, bytes.len()) {
            if keeps() {
                let within = (at as usize + from) % PAGE_BYTES;
                let held = self.0.entry(page).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
                Arc::make_mut(held)[within..within + to - from].copy_from_slice(&bytes[from..to]);
            }
        }
    }
}

/// The pages that `len` bytes from `at` on touch, each with the range of these bytes that lies in it.
fn parts(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let begin = at + from as u64;
        let within = (begin % PAGE_BYTES as u64) as usize;
        let to = len.min(from + PAGE_BYTES - within);
        let part = (from < len).then_some((begin / PAGE_BYTES as u64, from, to));
        from = to;
        part
    })
}

enum Event {
    Write { at: u64, bytes: Vec<u8> },
    Flush,
}

/// What a cache without power keeps of what was written and not flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// All of it.
    All,
    /// None of it.
    Nothing,
    /// Each page by chance: a disk writes in any order.
    ByChance,
}

/// All that happened to a disk.
pub struct Tape {
    begin: Image,
    events: Vec<Event>,
    /// [`Self::begin`] holds the events up to here.
    applied: usize,
}

impl Tape {
    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The disk after its power was cut behind the first `position` events. Positions only grow from call to call.
    ///
    /// # Panics
    /// When `position` is before that of an earlier call, or behind the end.
    pub fn cut(&mut self, position: usize, kept: Kept, rng: &mut Rng) -> Image {
        let new = self.events.get(self.applied..position).expect("positions grow, and not beyond the end");
        let flushed = new.iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
        for event in &new[..flushed] {
            if let Event::Write { at, bytes } = event {
                self.begin.write(*at, bytes, || true);
            }
        }
        self.applied += flushed;
        let mut image = self.begin.clone();
        for event in &self.events[self.applied..position] {
            if let Event::Write { at, bytes } = event {
                image.write(*at, bytes, || match kept {
                    Kept::All => true,
                    Kept::Nothing => false,
                    Kept::ByChance => rng.below(2) == 0,
                });
            }
        }
        image
    }
}

/// What a broken disk answers with `EIO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// Nothing.
    No,
    /// Whatever is read.
    Reads,
    /// Whatever is written or flushed.
    Writes,
}

struct Recorder {
    size: u64,
    broken: Broken,
    now: Image,
    tape: Tape,
}

/// The disk, mounted.
pub struct Disk {
    at: PathBuf,
    recorder: Arc<Mutex<Recorder>>,
    session: Option<BackgroundSession>,
    /// Where the file system lies that has the disk as its only file.
    dir: tempfile::TempDir,
}

/// Whether such a disk can be made here; otherwise says that the test is skipped.
#[must_use]
pub fn can_cut_power(test: &str) -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "only root can mount a loop device"
    } else if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
        "there is no /dev/fuse or no /dev/loop-control on this machine"
    } else if Command::new("mkfs.ext4").arg("-V").stderr(Stdio::null()).status().is_err() {
        "mkfs.ext4 is not installed"
    } else {
        return true;
    };
    drop(std::io::stderr().write_all(format!("\nskipped: {test}: {missing}\n").as_bytes()));
    false
}

impl Disk {
    /// An empty disk of `size` bytes, formatted and mounted at `at`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(at: &Path, size: u64) -> Self {
        let disk = Self::serve(at, size, Image::default());
        // Everything is written now, and nothing by the kernel in the background afterwards.
        let now = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        let mut format = Command::new("mkfs.ext4");
        format.args(["-q", "-F", "-b", "4096", "-J", "size=8", "-E", now]).arg(disk.file());
        run(&mut format).ok();
        let begin = disk.record().now.clone();
        disk.record().tape = Tape { begin, events: Vec::new(), applied: 0 };
        disk.mount();
        disk
    }

    /// The disk after a power cut, mounted at `at`: ext4 reads its journal now.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn again(at: &Path, size: u64, image: Image) -> Self {
        let disk = Self::serve(at, size, image);
        disk.mount();
        disk
    }

    fn serve(at: &Path, size: u64, image: Image) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let tape = Tape { begin: image.clone(), events: Vec::new(), applied: 0 };
        let recorder = Arc::new(Mutex::new(Recorder { size, broken: Broken::No, now: image, tape }));
        let served = Served(Arc::clone(&recorder));
        let session = fuser::spawn_mount(served, dir.path(), &fuser::Config::default());
        let session = Some(session.expect("mounts the file system with the disk"));
        std::fs::create_dir_all(at).expect("makes a mount point");
        Self { at: at.to_owned(), recorder, session, dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join(NAME)
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop,noatime"]).arg(self.file()).arg(&self.at))
            .ok();
    }

    fn record(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().expect("no thread that served the disk panicked")
    }

    /// How much has happened so far: what a program was told before is durable in each cut from here on.
    ///
    /// # Panics
    /// When a thread that served the disk panicked.
    #[must_use]
    pub fn position(&self) -> usize {
        self.record().tape.len()
    }

    /// Lets it fail from now on, or work again.
    ///
    /// # Panics
    /// When a thread that served the disk panicked.
    pub fn set_broken(&self, broken: Broken) {
        self.record().broken = broken;
    }

    /// Unmounts it and gives out what happened until then.
    ///
    /// # Panics
    /// When a thread that served the disk panicked.
    #[must_use]
    pub fn end(mut self) -> Tape {
        self.unmount();
        let empty = Tape { begin: Image::default(), events: Vec::new(), applied: 0 };
        std::mem::replace(&mut self.record().tape, empty)
    }

    fn unmount(&mut self) {
        let Some(session) = self.session.take() else { return };
        // A process that another test starts holds what is open here until it runs its program, and one that was ended
        // may be on its way out.
        let umount = |how: &[&str]| {
            let status = Command::new("umount").args(how).arg(&self.at).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let begun = Instant::now();
        while !umount(&[]) {
            if begun.elapsed() > BUSY_LIMIT || std::thread::panicking() {
                umount(&["-l"]);
                break;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        // The loop device goes with the last mount, and what ext4 had in memory reaches the disk before. A program that
        // another test put into a network of its own (`ip netns exec`) has a copy of each mount of that moment.
        while self.is_attached() && begun.elapsed() < BUSY_LIMIT && !std::thread::panicking() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let left = self.is_attached();
        drop(session.umount_and_join());
        assert!(!left || std::thread::panicking(), "something kept the disk mounted for {BUSY_LIMIT:?}");
    }

    /// Whether a loop device still has this disk.
    fn is_attached(&self) -> bool {
        let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
        devices.map(|device| device.path().join("loop/backing_file")).any(|backing| {
            std::fs::read_to_string(backing).is_ok_and(|backing| Path::new(backing.trim_end()) == self.file())
        })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

struct Served(Arc<Mutex<Recorder>>);

impl Served {
    fn record(&self) -> MutexGuard<'_, Recorder> {
        self.0.lock().expect("no thread that served the disk panicked")
    }

    fn attr(&self, ino: INodeNo) -> FileAttr {
        let is_disk = ino == DISK;
        let size = if is_disk { self.record().size } else { 0 };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_disk { FileType::RegularFile } else { FileType::Directory },
            perm: if is_disk { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE_BYTES as u32,
            flags: 0,
        }
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if let Err(limit) = config.set_max_write(REQUEST_BYTES_MAX) {
            let _ = config.set_max_write(limit);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&TRUST, &self.attr(DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TRUST, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Past the kernel's pages: what ext4 has written is here.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let record = self.record();
        if record.broken == Broken::Reads {
            return reply.error(Errno::EIO);
        }
        let len = u64::from(size).min(record.size.saturating_sub(offset));
        let mut bytes = vec![0; len as usize];
        record.now.read(offset, &mut bytes);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut record = self.record();
        if record.broken == Broken::Writes {
            return reply.error(Errno::EIO);
        }
        record.now.write(offset, data, || true);
        record.tape.events.push(Event::Write { at: offset, bytes: data.to_vec() });
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut record = self.record();
        if record.broken == Broken::Writes {
            return reply.error(Errno::EIO);
        }
        record.tape.events.push(Event::Flush);
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    const SIZE: u64 = 32 << 20;

    #[test]
    fn image_reads_what_was_written_across_pages() {
        let mut image = Image::default();
        image.write(4_000, &[7; 9_000], || true);
        let mut bytes = vec![1; 10_000];
        image.read(3_900, &mut bytes);
        assert!(
            bytes[..100].iter().all(|byte| *byte == 0) && bytes[100..9_100].iter().all(|byte| *byte == 7)
        );
        assert!(bytes[9_100..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn cut_keeps_what_was_flushed_and_of_the_rest_as_much_as_is_asked_for() {
        let write = |at: u64, byte: u8| Event::Write { at, bytes: vec![byte; 2 * PAGE_BYTES] };
        let events = vec![write(0, 1), Event::Flush, write(4 * PAGE_BYTES as u64, 2), Event::Flush];
        let mut tape = Tape { begin: Image::default(), events, applied: 0 };
        let mut rng = Rng::new(3);
        let pages = |image: &Image| image.0.keys().copied().collect::<Vec<_>>();
        assert!(pages(&tape.cut(1, Kept::Nothing, &mut rng)).is_empty());
        assert_eq!(pages(&tape.cut(1, Kept::All, &mut rng)), [0, 1]);
        assert_eq!(pages(&tape.cut(3, Kept::Nothing, &mut rng)), [0, 1]);
        assert_eq!(pages(&tape.cut(3, Kept::All, &mut rng)), [0, 1, 4, 5]);
        let chances: Vec<_> = (0..20).map(|_| pages(&tape.cut(3, Kept::ByChance, &mut rng))).collect();
        assert!(
            chances.iter().any(|pages| pages.contains(&4)) && chances.iter().any(|pages| !pages.contains(&4))
        );
        assert!(chances.iter().all(|pages| pages.starts_with(&[0, 1])));
        assert_eq!(pages(&tape.cut(4, Kept::Nothing, &mut rng)), [0, 1, 4, 5]);
    }

    #[test]
    fn power_cut_keeps_what_was_synced_and_may_lose_what_was_not() {
        if !can_cut_power("power_cut_keeps_what_was_synced_and_may_lose_what_was_not") {
            return;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let at = dir.path().join("disk");
        let disk = Disk::new(&at, SIZE);
        fs::write(at.join("synced"), b"durable").expect("writes");
        File::open(at.join("synced")).expect("opens").sync_all().expect("syncs");
        File::open(&at).expect("opens").sync_all().expect("syncs");
        let synced = disk.position();
        fs::write(at.join("unsynced"), b"in memory").expect("writes");
        let mut tape = disk.end();

        let mut rng = Rng::new(1);
        for (position, kept, both) in
            [(0, Kept::All, false), (synced, Kept::Nothing, false), (tape.len(), Kept::All, true)]
        {
            let disk = Disk::again(&at, SIZE, tape.cut(position, kept, &mut rng));
            assert_eq!(at.join("synced").exists(), position > 0, "{position}");
            assert_eq!(at.join("unsynced").exists(), both, "{position}");
            drop(disk);
        }
    }
}
