//! A folder of a new device, mounted on a real directory; taken off by its exact path at the end of
//! the test, also when the test panics.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_fs::mount::{Mount, MountError, MountOptions};
use cobox_fs::vfs::{Background, Vfs, VfsOptions};
use cobox_store::Error;
use cobox_store::keyed::{Home, MemberSecret, Unlock};
use tempfile::TempDir;

/// The one folder of the test device.
const FOLDER: &str = "drive";
/// The longest that anything here may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Says why a test does not run here, or that it can.
pub fn can_mount() -> bool {
    let here = Path::new("/dev/fuse").exists();
    if !here {
        println!("skipped: no /dev/fuse on this machine");
    }
    here
}

/// A device's store and the place where its folder is mounted.
pub struct Drive {
    pub at: PathBuf,
    home: PathBuf,
    live: Option<Live>,
    /// What a second device needs to join; known to the device that began the folder.
    secret: Option<MemberSecret>,
    index: u32,
    // Dropped last: the directories go when the mount is off.
    _temp: Option<TempDir>,
}

/// What exists while the folder is mounted. Order matters: the mount ends before the file system.
struct Live {
    mount: Mount,
    background: Option<Background>,
    vfs: Arc<Vfs>,
}

impl Drive {
    /// Makes a device and mounts its folder. `None` where this machine cannot mount.
    pub fn mounted() -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let temp = tempfile::tempdir().expect("a temporary directory");
        let mut drive = Self::at(temp.path());
        drive._temp = Some(temp);
        drive.mount(MountOptions::default()).expect("mounts");
        Some(drive)
    }

    /// A device below `dir`, which the caller keeps; made there if need be, not mounted.
    pub fn at(dir: &Path) -> Self {
        let (home, at) = (dir.join("home"), dir.join("mount"));
        std::fs::create_dir_all(&at).expect("a mount point");
        let at = at.canonicalize().expect("a path without links");
        let mut drive = Self { at, home, live: None, secret: None, index: 0, _temp: None };
        if !drive.home.exists() {
            let (device, secret) =
                Home::init(&drive.home, "first device", key_file(dir)).expect("a new device");
            device.folder_create(FOLDER).expect("a new folder");
            drive.index = device.folders().expect("folders").first().expect("the new one").index;
            drive.secret = Some(secret);
        }
        drive
    }

    /// A device that exists below `dir`, whose mount point may be a dead mount.
    pub fn at_stale(dir: &Path) -> Self {
        let dir = dir.canonicalize().expect("a path without links");
        Self {
            at: dir.join("mount"),
            home: dir.join("home"),
            live: None,
            secret: None,
            index: 0,
            _temp: None,
        }
    }

    /// Opens the store and mounts.
    pub fn mount(&mut self, options: MountOptions) -> Result<(), MountError> {
        let vfs = self.open(options.read_only);
        let background = vfs.start_background();
        let mount = Mount::new(Arc::clone(&vfs), &self.at, options)?;
        self.live = Some(Live { mount, background: Some(background), vfs });
        Ok(())
    }

    /// Opens the store without mounting.
    pub fn open(&self, read_only: bool) -> Arc<Vfs> {
        let dir = self.home.parent().expect("home has a parent");
        let device = open_when_free(&self.home, dir);
        let folder = device.folder_by_name(FOLDER).expect("the folder");
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Vfs::open(folder, VfsOptions { uid, gid, read_only }).expect("the folder opens")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    pub fn vfs(&self) -> &Arc<Vfs> {
        &self.live.as_ref().expect("mounted").vfs
    }

    pub fn live(&self) -> &Mount {
        &self.live.as_ref().expect("mounted").mount
    }

    /// A second device of the same member, mounted as well.
    pub fn second(&self) -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let secret = self.secret.as_ref().expect("the first device made the member");
        let (home, at) = (temp.path().join("home"), temp.path().join("mount"));
        std::fs::create_dir(&at).expect("a mount point");
        {
            let device = Home::init_recovered(&home, "second device", key_file(temp.path()), secret);
            let device = device.expect("a new device");
            let first = self.vfs().folder();
            let records = first.store().access_records(first.no()).expect("the access log");
            device.folder_recover(secret, self.index, FOLDER, records).expect("joins");
        }
        let mut drive = Self { at, home, live: None, secret: None, index: 0, _temp: Some(temp) };
        drive.mount(MountOptions::default()).expect("mounts");
        drive
    }

    /// Takes the mount off and closes the store.
    pub fn unmount(&mut self) {
        let live = self.live.take().expect("mounted");
        unmount_when_free(&live.mount);
        close(live);
    }

    /// Unmounts, closes, opens and mounts again, so that everything is read from the store.
    pub fn remount(&mut self) {
        self.unmount();
        self.mount(MountOptions::default()).expect("mounts again");
    }
}

fn close(mut live: Live) {
    drop(live.mount);
    drop(live.background.take());
    live.vfs.shutdown().expect("everything is written");
}

/// A process that another test starts holds a copy of every lock of this one until it runs its program.
fn open_when_free(home: &Path, dir: &Path) -> Arc<Home> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Home::open(home, key_file(dir)) {
            Ok(device) => return device,
            Err(Error::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Programs that a test ended may be on their way out.
fn unmount_when_free(mount: &Mount) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match mount.unmount() {
            Ok(()) => return,
            Err(MountError::Busy { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        let Some(live) = self.live.take() else { return };
        if std::thread::panicking() {
            // Whatever state it is in, no mount stays behind.
            drop(live.mount);
            return;
        }
        unmount_when_free(&live.mount);
        close(live);
    }
}

fn key_file(dir: &Path) -> Unlock {
    Unlock::KeyFile(dir.join("key"))
}

/// Lets every user pass through a temporary directory.
pub fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).expect("a mode");
}

/// Bytes that no compressor shortens and that differ by `seed`.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            // xorshift64 (Marsaglia 2003)
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}
