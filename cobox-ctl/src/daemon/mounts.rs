//! Mounting, unmounting, and the mounts that are wanted again at the next start.
//!
//! The daemon never touches a path inside its own mounts: it would wait for itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cobox_fs::mount::{Mount, MountOptions, check_mount_point, clear_stale};
use cobox_fs::vfs::{Background, Permission, Vfs, VfsOptions};
use cobox_store::format::access::Role;
use cobox_store::keyed::Standing;
use serde::{Deserialize, Serialize};

use super::Daemon;
use super::folder::FolderState;
use super::status::FolderStatusSource;
use crate::control::{Audience, MountAccess};
use crate::exit::{Outcome, Problem};
use crate::report::MountReport;

/// The setting under which the wanted mount of a folder is kept, sealed.
const WANTED: &str = "mount wanted";

const TAKEN_OFF: &str = "Somebody else took the mount off.";
const NOT_NOW: &str = "It is not mounted in this moment.";

/// A folder that is mounted.
pub(crate) struct Mounted {
    pub mount: Mount,
    pub vfs: Arc<Vfs>,
    pub wanted: WantedMount,
    _background: Background,
}

/// A mount that the member asked for and has not taken back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct WantedMount {
    pub dir: PathBuf,
    pub audience: Audience,
    pub access: MountAccess,
}

impl WantedMount {
    fn report(&self, problem: Option<String>) -> MountReport {
        MountReport { dir: self.dir.clone(), read_only: self.access == MountAccess::ReadOnly, problem }
    }
}

impl FolderState {
    /// The live file system, while it is mounted.
    pub fn vfs(&self) -> Option<Arc<Vfs>> {
        self.mounted().map(|mounted| Arc::clone(&mounted.vfs))
    }

    fn mounted(&self) -> Option<Arc<Mounted>> {
        self.mount.lock().clone()
    }

    /// Where it is mounted, or should be.
    pub fn mount_report(&self) -> Option<MountReport> {
        if let Some(mounted) = self.mounted() {
            let gone = (!mounted.mount.is_attached()).then(|| TAKEN_OFF.to_owned());
            let report = mounted.wanted.report(gone);
            let refuses =
                report.read_only || !matches!(self.folder.role(), Ok(role) if role >= Some(Role::Write));
            return Some(MountReport { read_only: refuses, ..report });
        }
        let problem = self.mount_problem.lock().clone().unwrap_or_else(|| NOT_NOW.to_owned());
        self.wanted_mount().map(|wanted| wanted.report(Some(problem)))
    }

    /// Whether the folder must be opened anew: its log cannot go on, its tree does not know of a fork yet, or its mount is a
    /// reader's and its device none.
    pub fn must_renew(&self) -> Outcome<bool> {
        // Who may not write has no log to go on with, and a tree that has to be made anew all the same.
        if self.must_rejoin()? || self.may_take_changes()? {
            return Ok(true);
        }
        match self.vfs() {
            Some(vfs) => Ok(vfs.is_stale()?),
            None => Ok(false),
        }
    }

    /// Whether it is mounted as a reader's, is wanted for changes, and its device may write by now: what a former writer had
    /// not sent then goes out as well.
    fn may_take_changes(&self) -> Outcome<bool> {
        let is_readers = self.mounted().is_some_and(|mounted| mounted.wanted.access == MountAccess::ReadOnly);
        if !is_readers || self.folder.role()? < Some(Role::Write) {
            return Ok(false);
        }
        Ok(self.wanted_mount().is_some_and(|wanted| wanted.access == MountAccess::ReadWrite))
    }

    /// Whether it goes on under a fresh log.
    fn must_rejoin(&self) -> Outcome<bool> {
        let rolled_back = self.folder.standing() == Standing::RolledBack;
        Ok(rolled_back && self.folder.role()? >= Some(Role::Write))
    }

    fn wanted_mount(&self) -> Option<WantedMount> {
        let sealed = self.folder.store().setting(self.no(), WANTED).ok()??;
        let plain = self.folder.local().open(WANTED.as_bytes(), &sealed).ok()?;
        serde_json::from_slice(&plain).ok()
    }

    fn want_mount(&self, wanted: Option<&WantedMount>) -> Outcome<()> {
        let plain = serde_json::to_vec(&wanted)
            .map_err(|error| Problem::failed(format!("The mount cannot be remembered: {error}.")))?;
        let sealed = self.folder.local().seal(WANTED.as_bytes(), &plain);
        Ok(self.folder.store().setting_put(self.no(), WANTED, &sealed)?)
    }

    /// What the folder's role leaves of a wish: a reader's mount refuses every change.
    fn bounded(&self, wanted: WantedMount) -> Outcome<WantedMount> {
        let writes = self.folder.role()? >= Some(Role::Write);
        Ok(if writes { wanted } else { WantedMount { access: MountAccess::ReadOnly, ..wanted } })
    }

    /// Mounts the folder and remembers that it is wanted.
    pub fn mount(self: &Arc<Self>, daemon: &Arc<Daemon>, wanted: WantedMount) -> Outcome<MountReport> {
        let turn = self.mount_turn.lock();
        let now = daemon.folder_now(self)?;
        if !Arc::ptr_eq(&now, self) {
            // It was opened anew while this waited for its turn.
            drop(turn);
            return now.mount(daemon, wanted);
        }
        let (wish, wanted) = (wanted.clone(), self.bounded(wanted)?);
        if let Some(mounted) = self.mounted() {
            if mounted.mount.is_attached() && mounted.wanted == wanted {
                return Ok(mounted.wanted.report(None));
            }
            if mounted.mount.is_attached() {
                return Err(Problem::refused(
                    format!(
                        "{} is mounted at {} already.",
                        self.folder.name(),
                        mounted.mount.dir().display()
                    ),
                    "Use it there, or unmount it first with `cobox-ctl umount`.",
                ));
            }
            // Somebody took the mount off without us; end what served it before serving it again.
            mounted.mount.unmount()?;
            self.end_serving(&mounted);
        }
        clear_stale(&wanted.dir)?;
        check_mount_point(&wanted.dir)?;
        let mounted = self.serve(daemon, &wanted)?;
        let wanted = mounted.wanted.clone();
        *self.mount.lock() = Some(Arc::new(mounted));
        *self.mount_problem.lock() = None;
        // As it was asked for: who may write again finds a mount that takes changes at the next start.
        self.want_mount(Some(&WantedMount { dir: wanted.dir.clone(), ..wish }))?;
        Ok(wanted.report(None))
    }

    fn serve(self: &Arc<Self>, daemon: &Arc<Daemon>, wanted: &WantedMount) -> Outcome<Mounted> {
        let read_only = wanted.access == MountAccess::ReadOnly;
        let options = VfsOptions {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            read_only,
        };
        let vfs = Vfs::open(Arc::clone(&self.folder), options)?;
        vfs.set_status_source(Arc::new(FolderStatusSource::new(daemon, self)));
        let allow_other = wanted.audience == Audience::Everyone;
        let mount = Mount::new(Arc::clone(&vfs), &wanted.dir, MountOptions { allow_other, read_only })?;
        let background = vfs.start_background();
        let wanted = WantedMount { dir: mount.dir().to_path_buf(), ..wanted.clone() };
        Ok(Mounted { mount, vfs, wanted, _background: background })
    }

    /// Takes the mount off; with it gone, everything written is in entries.
    fn unmount(&self) -> Outcome<()> {
        let _turn = self.mount_turn.lock();
        self.stop_serving()
    }

    /// The same for whoever has the turn.
    pub fn stop_serving(&self) -> Outcome<()> {
        if let Some(mounted) = self.mounted() {
            mounted.mount.unmount()?;
            self.end_serving(&mounted);
        }
        Ok(())
    }

    /// Says who uses the mount, where it is mounted and somebody does.
    pub fn refuse_if_held(&self) -> Outcome<()> {
        self.mounted().map_or(Ok(()), |mounted| Ok(mounted.mount.refuse_if_held()?))
    }

    /// Takes the mount off, if nobody uses it, and forgets that it is wanted; which one that was.
    pub fn unmount_for_good(&self) -> Outcome<Option<WantedMount>> {
        let wanted = self.wanted_mount();
        self.unmount()?;
        *self.mount_problem.lock() = None;
        self.want_mount(None)?;
        Ok(wanted)
    }

    /// Takes the mount off even while it is used: the daemon ends.
    fn unmount_now(&self) {
        let _turn = self.mount_turn.lock();
        let Some(mounted) = self.mounted() else { return };
        if let Err(error) = mounted.mount.unmount() {
            tracing::warn!(%error, "the mount is detached while it is used");
            if let Err(error) = mounted.mount.unmount_lazily() {
                tracing::error!(%error, "the mount stays behind");
            }
        }
        self.end_serving(&mounted);
    }

    fn end_serving(&self, mounted: &Mounted) {
        if let Err(errno) = mounted.vfs.shutdown() {
            tracing::warn!(errno = errno.0, "what was written waits for the next mount to be sent");
        }
        *self.mount.lock() = None;
    }
}

impl FolderState {
    /// Lets the mount take changes as long as the device may write.
    pub fn apply_role(&self) -> Outcome<()> {
        if let Some(vfs) = self.vfs() {
            let writes = self.folder.role()? >= Some(Role::Write);
            vfs.set_permission(if writes { Permission::Write } else { Permission::Read });
        }
        Ok(())
    }
}

impl Daemon {
    /// Opens a folder anew where it has to be, and mounts it again; says whether it did.
    ///
    /// A mount that programs use stays until they are done with it: nothing is lost by waiting.
    pub fn renew(self: &Arc<Self>, state: &Arc<FolderState>) -> Outcome<bool> {
        if self.is_ending() || !state.must_renew()? {
            return Ok(false);
        }
        let (fresh, was_mounted) = {
            // Nobody mounts it, or looks at the tree of the old one, meanwhile.
            let _turn = state.mount_turn.lock();
            if !Arc::ptr_eq(&self.folder_now(state)?, state) || !state.must_renew()? {
                return Ok(false);
            }
            let mounted = state.mounted();
            if let Some(mounted) = &mounted {
                if let Err(error) = mounted.mount.refuse_if_held() {
                    tracing::debug!(folder = %state.folder.id(), %error, "the folder is opened anew later");
                    return Ok(false);
                }
                mounted.mount.unmount()?;
                state.end_serving(mounted);
            }
            let fresh = if state.must_rejoin()? {
                tracing::warn!(folder = %state.folder.id(), "the folder goes on under a fresh log");
                let folder = self.home.folder_renew(state.no())?;
                state.replaced.store(true, Ordering::Release);
                self.adopt(folder)?
            } else {
                Arc::clone(state)
            };
            (fresh, mounted.is_some())
        };
        if was_mounted {
            self.mount_wanted(&fresh);
        }
        self.locator_version.fetch_add(1, Ordering::SeqCst);
        Ok(true)
    }

    /// Ends the mount at `dir`, or forgets that it was wanted.
    pub fn umount(&self, dir: &Path) -> Outcome<MountReport> {
        for state in self.folders() {
            let Some(report) = state.mount_report().filter(|report| report.dir == dir) else { continue };
            state.unmount_for_good()?;
            return Ok(MountReport { problem: None, ..report });
        }
        Err(Problem::missing(
            format!("No folder of this device is mounted at {}.", dir.display()),
            "`cobox-ctl status` shows what is mounted where.",
        ))
    }

    /// Mounts what was mounted when the last daemon ended, however it ended.
    pub fn remount(self: &Arc<Self>) {
        self.folders().iter().for_each(|state| self.mount_wanted(state));
    }

    /// Mounts a folder where its member wants it to be.
    pub fn mount_wanted(self: &Arc<Self>, state: &Arc<FolderState>) {
        let Some(wanted) = state.wanted_mount() else { return };
        if let Err(problem) = state.mount(self, wanted) {
            tracing::error!(%problem, "a folder could not be mounted again");
            *state.mount_problem.lock() = Some(problem.message);
        }
    }

    /// Takes all mounts off as far as nobody uses them; where somebody does, all of them stay or come
    /// back.
    pub fn unmount_all_unless_in_use(self: &Arc<Self>) -> Outcome<()> {
        let in_use = |problem: Problem| {
            let hint = "Close those programs, or leave the directory, then try again; \
                        `cobox-ctl daemon stop --force` ends it all the same, and those programs get errors.";
            Problem::new(problem.code, problem.message, hint)
        };
        let mounted: Vec<_> = self.folders().iter().filter_map(|state| state.mounted()).collect();
        for mounted in mounted {
            mounted.mount.refuse_if_held().map_err(|error| in_use(error.into()))?;
        }
        for state in self.folders() {
            if let Err(problem) = state.unmount() {
                self.remount();
                return Err(in_use(problem));
            }
        }
        Ok(())
    }

    /// Takes all mounts off, for the end of the daemon. They stay wanted.
    pub fn unmount_all(&self) {
        for state in self.folders() {
            state.unmount_now();
        }
    }
}
