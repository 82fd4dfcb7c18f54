//! Attaches a FUSE connection to a directory and takes it off again: with mount(2) where the caller
//! may, else through the setuid helper `fusermount3`.
//!
//! fuser could mount as well, but it cannot name the type `fuse.cobox` when it mounts by itself (by
//! which a mount left by a crash is known), fails for ordinary users where `/dev/fuse` belongs to
//! root, and takes a second mount off when the first was already gone.

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::MountOptions;
use super::error::MountError;
use super::point::{self, FS_TYPE};

const FUSE_DEVICE: &str = "/dev/fuse";
/// The name shown as the mounted source, in `mount` and `df`.
const SOURCE: &str = "cobox";
/// The setuid helper of the package `fuse3`; `FUSERMOUNT_PATH` overrides it, as it does for libfuse.
const HELPER: &str = "fusermount3";
const HELPER_OVERRIDE: &str = "FUSERMOUNT_PATH";
/// Tells the helper on which of its descriptors the socket is.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

/// Mounts at `dir` and returns the connection to the kernel.
pub fn attach(dir: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    match attach_directly(dir, options) {
        Err(Refusal::TryHelper) => attach_by_helper(dir, options),
        Err(Refusal::Final(error)) => Err(error),
        Ok(device) => Ok(device),
    }
}

/// Whether this process may open further descriptors of the FUSE device.
pub fn device_opens() -> bool {
    open_device().is_ok()
}

enum Refusal {
    TryHelper,
    Final(MountError),
}

fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(FUSE_DEVICE)
}

fn attach_directly(dir: &Path, options: &MountOptions) -> Result<OwnedFd, Refusal> {
    let device = open_device().map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => Refusal::TryHelper,
        _ => Refusal::Final(MountError::NoFuse(source)),
    })?;
    let mode =
        std::fs::metadata(dir).map_err(|source| Refusal::Final(point::os(dir, "mounted", source)))?.mode();
    let data = kernel_options(device.as_raw_fd(), mode, options);
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    match rustix::mount::mount(SOURCE, dir, FS_TYPE, flags, data.as_c_str()) {
        Ok(()) => Ok(device.into()),
        Err(Errno::PERM) => Err(Refusal::TryHelper),
        Err(Errno::NODEV) => Err(Refusal::Final(MountError::NoFuse(Errno::NODEV.into()))),
        Err(errno) => Err(Refusal::Final(point::os(dir, "mounted", errno.into()))),
    }
}

fn kernel_options(device: i32, mode: u32, options: &MountOptions) -> CString {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data = format!("fd={device},rootmode={mode:o},user_id={uid},group_id={gid},default_permissions");
    if options.allow_other {
        data.push_str(",allow_other");
    }
    CString::new(data).expect("numbers and names have no zero byte")
}

fn attach_by_helper(dir: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(|source| point::os(dir, "mounted", source))?;
    let mut words = vec!["fsname=cobox", "subtype=cobox", "default_permissions", "nosuid", "nodev"];
    words.extend((options.read_only).then_some("ro"));
    words.extend((options.allow_other).then_some("allow_other"));
    // The socket is the helper's standard input, so that it needs no inherited descriptor of its own.
    let child = helper()
        .arg("-o")
        .arg(words.join(","))
        .arg("--")
        .arg(dir)
        .env(HELPER_SOCKET, "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(MountError::NoHelper)?;
    let device = receive_device(&ours);
    let output = child.wait_with_output().map_err(MountError::NoHelper)?;
    match device {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Err(source) if output.status.success() => Err(point::os(dir, "mounted", source)),
        _ => Err(helper_error(dir, &output)),
    }
}

/// The one descriptor that the helper sends, or nothing when it ended without sending.
fn receive_device(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let device = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(device)
}

/// Takes the topmost mount at `dir` off, unless somebody uses it.
pub fn detach(dir: &Path) -> Result<Detached, MountError> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Detached::Gone),
        Err(Errno::BUSY) => Ok(Detached::Busy),
        Err(Errno::PERM) => detach_by_helper(dir, &["-u"]),
        Err(errno) => Err(point::os(dir, "unmounted", errno.into())),
    }
}

/// Takes the topmost mount at `dir` out of the tree at once; it ends when its last user leaves.
pub fn detach_lazily(dir: &Path) -> Result<(), MountError> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => detach_by_helper(dir, &["-u", "-z"]).map(|_| ()),
        Err(errno) => Err(point::os(dir, "unmounted", errno.into())),
    }
}

/// The outcome of [`detach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// The mount is off.
    Gone,
    /// Somebody uses it.
    Busy,
}

fn detach_by_helper(dir: &Path, flags: &[&str]) -> Result<Detached, MountError> {
    let output = helper()
        .args(flags)
        .arg("--")
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(MountError::NoHelper)?;
    if output.status.success() {
        return Ok(Detached::Gone);
    }
    if String::from_utf8_lossy(&output.stderr).contains("busy") {
        return Ok(Detached::Busy);
    }
    Err(helper_error(dir, &output))
}

/// The helper translates its messages; its reasons are recognised in English.
fn helper() -> Command {
    let mut command =
        Command::new(std::env::var_os(HELPER_OVERRIDE).unwrap_or_else(|| OsString::from(HELPER)));
    command.env("LC_ALL", "C");
    command
}

fn helper_error(dir: &Path, output: &Output) -> MountError {
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.contains("user_allow_other") {
        return MountError::AllowOtherForbidden;
    }
    if message.contains("has no write access") {
        return MountError::NoPermission { dir: dir.to_path_buf() };
    }
    if message.contains("/dev/fuse") {
        return MountError::NoFuse(io::Error::other(message));
    }
    MountError::HelperRefused { message: message.trim_start_matches("fusermount3: ").to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_options_carry_owner_mode_and_audience() {
        let options = MountOptions { allow_other: true, read_only: false };
        let data = kernel_options(7, 0o40755, &options).into_string().expect("text");
        assert!(data.starts_with("fd=7,rootmode=40755,user_id="));
        assert!(data.ends_with("default_permissions,allow_other"));
        let data = kernel_options(7, 0o40755, &MountOptions::default()).into_string().expect("text");
        assert!(data.ends_with("default_permissions"));
    }

    #[test]
    fn helper_reasons_become_errors() {
        let output = |text: &str| Output {
            status: std::process::ExitStatus::default(),
            stdout: Vec::new(),
            stderr: text.as_bytes().to_vec(),
        };
        let text =
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        assert!(matches!(helper_error(Path::new("/m"), &output(text)), MountError::AllowOtherForbidden));
        let text = "fusermount3: user has no write access to mountpoint /m";
        assert!(matches!(helper_error(Path::new("/m"), &output(text)), MountError::NoPermission { .. }));
        let text = "fusermount3: failed to open /dev/fuse: Permission denied";
        assert!(matches!(helper_error(Path::new("/m"), &output(text)), MountError::NoFuse(_)));
        let text = "fusermount3: bad mount point";
        let HelperRefused { message } = reason(helper_error(Path::new("/m"), &output(text)));
        assert_eq!(message, "bad mount point");
    }

    struct HelperRefused {
        message: String,
    }

    fn reason(error: MountError) -> HelperRefused {
        match error {
            MountError::HelperRefused { message } => HelperRefused { message },
            other => panic!("unexpected: {other}"),
        }
    }
}
