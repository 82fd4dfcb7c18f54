//! Mount points: which are refused, what a crash leaves, busy mounts, ordinary users.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cobox_fs::mount::{Cleared, FS_TYPE, HeldBy, Holder, Mount, MountError, MountOptions, clear_stale};

use crate::drive::{Drive, can_mount, open_to_all};

/// Makes this test program serve a mount for another test: `serve`, `use` or `allow-other`.
const ROLE: &str = "COBOX_TEST_MOUNT_ROLE";
/// Where the served device lives.
const PLACE: &str = "COBOX_TEST_MOUNT_PLACE";
/// The user and group `nobody` on every Linux.
const NOBODY: &str = "65534";

/// Not a test of its own: what the child processes of the tests below do.
#[test]
fn child_process_serves_a_mount() {
    let (Ok(role), Some(place)) = (std::env::var(ROLE), std::env::var_os(PLACE)) else { return };
    let mut drive = Drive::at(Path::new(&place));
    let allow_other = role == "allow-other";
    match drive.mount(MountOptions { allow_other, read_only: false }) {
        Ok(()) => println!("\nmounted: {}", type_at(&drive.at).unwrap_or_default()),
        Err(error) => return println!("\nrefused: {error:?}"),
    }
    if role == "serve" {
        std::io::stdin().read_to_end(&mut Vec::new()).expect("the other test ends the input");
    } else {
        fs::create_dir(drive.path("d")).expect("mkdir");
        fs::write(drive.path("d/f"), b"by an ordinary user").expect("write");
        drive.remount();
        println!("\nread: {}", fs::read_to_string(drive.path("d/f")).expect("read"));
    }
    drive.unmount();
    println!("\nunmounted: {:?}", type_at(&drive.at));
}

/// Type of the file system on top at `dir`, from the kernel's table.
fn type_at(dir: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    let line = table.lines().rfind(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == dir))?;
    Some(line.split(" - ").nth(1)?.split(' ').next()?.to_owned())
}

/// This test program, where every user can run it.
fn program_in(dir: &Path) -> PathBuf {
    let program = dir.join("program");
    fs::copy(std::env::current_exe().expect("own path"), &program).expect("copy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    program
}

fn child(mut command: Command, role: &str, place: &Path) -> Child {
    command
        .args(["--exact", "points::child_process_serves_a_mount", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(PLACE, place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts")
}

/// Reads the child's output up to the line that begins with `start`, and returns its rest.
fn line_of(output: &mut impl BufRead, start: &str) -> Option<String> {
    output.lines().map_while(Result::ok).find_map(|line| line.strip_prefix(start).map(str::to_owned))
}

#[test]
fn unusable_mount_points_are_refused_by_name() {
    if !can_mount() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary directory");
    let drive = Drive::at(temp.path());
    let vfs = drive.open(false);
    let mount = |dir: &Path| Mount::new(vfs.clone(), dir, MountOptions::default()).expect_err("refused");
    let other = temp.path().join("other");
    assert!(matches!(mount(&other), MountError::Missing { .. }));
    fs::write(&other, b"x").expect("write");
    assert!(matches!(mount(&other), MountError::NotADirectory { .. }));
    assert!(matches!(mount(temp.path()), MountError::NotEmpty { .. }));
    assert!(
        matches!(mount(Path::new("/proc")), MountError::AlreadyMounted { fs_type, .. } if fs_type == "proc")
    );
    let inside = vfs.folder().store().dir().join("inside");
    fs::create_dir(&inside).expect("mkdir");
    assert!(matches!(mount(&inside), MountError::HoldsStore { .. }));
    vfs.shutdown().expect("closes");
}

#[test]
fn second_mount_at_the_same_place_is_refused() {
    let Some(drive) = Drive::mounted() else { return };
    assert_eq!(type_at(&drive.at).as_deref(), Some(FS_TYPE));
    assert_eq!(clear_stale(&drive.at).expect("a live mount is left alone"), Cleared::Nothing);
    let error = Mount::new(drive.vfs().clone(), &drive.at, MountOptions::default()).expect_err("refused");
    assert!(matches!(error, MountError::AlreadyMounted { fs_type, .. } if fs_type == FS_TYPE));
    fs::write(drive.path("f"), b"x").expect("the first mount still works");
}

#[test]
fn busy_mount_names_who_holds_it_and_keeps_working() {
    let Some(mut drive) = Drive::mounted() else { return };
    fs::write(drive.path("f"), b"x").expect("write");
    let open = File::open(drive.path("f")).expect("open");
    let error = drive.live().unmount().expect_err("busy");
    let own = std::process::id();
    let MountError::Busy { holders, .. } = &error else { panic!("unexpected: {error}") };
    let this =
        |holder: &Holder| matches!(holder, Holder::Process { pid, by: HeldBy::OpenFile, .. } if *pid == own);
    assert!(holders.iter().any(this), "{error}");
    assert_eq!(fs::read(drive.path("f")).expect("read"), b"x");
    drop(open);
    drive.unmount();
    assert_eq!(type_at(&drive.at), None);
    assert_eq!(fs::read_dir(&drive.at).expect("opendir").count(), 0);
}

#[test]
fn working_directory_inside_is_named() {
    let Some(mut drive) = Drive::mounted() else { return };
    let mut shell = Command::new("cat").current_dir(&drive.at).stdin(Stdio::piped()).spawn().expect("starts");
    let error = drive.live().unmount().expect_err("busy");
    let MountError::Busy { holders, .. } = &error else { panic!("unexpected: {error}") };
    let pid = shell.id();
    let this = |holder: &Holder| matches!(holder, Holder::Process { pid: found, by: HeldBy::WorkingDirectory, .. } if *found == pid);
    assert!(holders.iter().any(this), "{error}");
    drop(shell.stdin.take());
    shell.wait().expect("ends");
    drive.unmount();
}

#[test]
fn mount_taken_off_by_somebody_else_is_noticed() {
    let Some(mut drive) = Drive::mounted() else { return };
    fs::write(drive.path("f"), b"kept").expect("write");
    let status = Command::new("fusermount3").arg("-u").arg(&drive.at).status();
    match status {
        Ok(status) => assert!(status.success()),
        Err(_) => return println!("skipped: no fusermount3 on this machine"),
    }
    drive.live().unmount().expect("nothing left to do");
    assert!(!drive.live().is_live());
    drive.remount();
    assert_eq!(fs::read(drive.path("f")).expect("read"), b"kept");
}

#[test]
fn mount_left_by_a_killed_daemon_is_cleared_and_its_files_are_there() {
    if !can_mount() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary directory");
    let mut server = child(Command::new(std::env::current_exe().expect("own path")), "serve", temp.path());
    let mut output = BufReader::new(server.stdout.take().expect("piped"));
    assert_eq!(line_of(&mut output, "mounted: ").as_deref(), Some(FS_TYPE));
    let at = temp.path().join("mount");
    fs::write(at.join("closed"), b"written and closed").expect("write");
    server.kill().expect("kill -9");
    server.wait().expect("ends");
    let error = fs::metadata(&at).expect_err("nobody answers");
    assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::NOTCONN));

    let mut drive = Drive::at_stale(temp.path());
    drive.mount(MountOptions::default()).expect("clears the dead mount and mounts");
    assert_eq!(fs::read(drive.path("closed")).expect("read"), b"written and closed");
    drive.unmount();
    assert_eq!(type_at(&drive.at), None);
}

#[test]
fn ordinary_user_mounts_through_the_helper() {
    if !can_mount() || !helper_is_there() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary directory");
    open_to_all(temp.path());
    let place = temp.path().join("place");
    fs::create_dir(&place).expect("mkdir");
    open_to_all(&place);
    let Some(command) = as_ordinary_user(&program_in(temp.path())) else { return };
    let mut server = child(command, "use", &place);
    let mut output = BufReader::new(server.stdout.take().expect("piped"));
    assert_eq!(line_of(&mut output, "mounted: ").as_deref(), Some(FS_TYPE));
    assert_eq!(line_of(&mut output, "read: ").as_deref(), Some("by an ordinary user"));
    assert_eq!(line_of(&mut output, "unmounted: ").as_deref(), Some("None"));
    assert!(server.wait().expect("ends").success());
}

#[test]
fn allow_other_of_an_ordinary_user_needs_the_machines_consent() {
    if !can_mount() || !helper_is_there() {
        return;
    }
    let consent = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if consent.lines().any(|line| line.trim() == "user_allow_other") {
        return println!("skipped: /etc/fuse.conf allows it here");
    }
    let temp = tempfile::tempdir().expect("a temporary directory");
    open_to_all(temp.path());
    let place = temp.path().join("place");
    fs::create_dir(&place).expect("mkdir");
    open_to_all(&place);
    let Some(command) = as_ordinary_user(&program_in(temp.path())) else { return };
    let mut server = child(command, "allow-other", &place);
    let mut output = BufReader::new(server.stdout.take().expect("piped"));
    assert_eq!(line_of(&mut output, "refused: ").as_deref(), Some("AllowOtherForbidden"));
    server.wait().expect("ends");
}

#[test]
fn other_users_are_kept_out_unless_allowed() {
    let Some(mut drive) = Drive::mounted() else { return };
    if !rustix::process::getuid().is_root() {
        return println!("skipped: only root can become another user");
    }
    fs::write(drive.path("f"), b"x").expect("write");
    let temp = drive.at.parent().expect("has a parent").to_path_buf();
    fs::set_permissions(&temp, fs::Permissions::from_mode(0o755)).expect("chmod");
    let reads = |path: &Path| {
        let words = [&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", "cat"];
        Command::new("setpriv")
            .args(words)
            .arg(path)
            .stderr(Stdio::null())
            .output()
            .map(|output| output.stdout)
    };
    let Ok(bytes) = reads(&drive.path("f")) else { return println!("skipped: no setpriv on this machine") };
    assert!(bytes.is_empty());
    drive.unmount();
    drive.mount(MountOptions { allow_other: true, read_only: false }).expect("mounts");
    assert_eq!(reads(&drive.path("f")).expect("runs"), b"x");
    // The kernel still checks modes.
    fs::set_permissions(drive.path("f"), fs::Permissions::from_mode(0o600)).expect("chmod");
    assert!(reads(&drive.path("f")).expect("runs").is_empty());
}

fn helper_is_there() -> bool {
    let there = Command::new("fusermount3").arg("-V").output().is_ok();
    if !there {
        println!("skipped: no fusermount3 on this machine");
    }
    there
}

/// Runs `program` as nobody when this test runs as root, else as the user who runs the test.
fn as_ordinary_user(program: &Path) -> Option<Command> {
    if !rustix::process::getuid().is_root() {
        return Some(Command::new(program));
    }
    if ["setpriv", "unshare"].iter().any(|name| Command::new(name).arg("--version").output().is_err()) {
        println!("skipped: no setpriv and unshare on this machine");
        return None;
    }
    // On most machines everybody may open the FUSE device. Where only root may, the child gets a device
    // of its own in a mount namespace of its own, so that the machine stays as it is.
    let mut command = Command::new("unshare");
    let device = program.with_file_name("fuse");
    let script = "mknod -m 666 \"$1\" c 10 229 && mount --bind \"$1\" /dev/fuse && shift && exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(device);
    command.arg("setpriv").args([
        &format!("--reuid={NOBODY}"),
        &format!("--regid={NOBODY}"),
        "--clear-groups",
    ]);
    command.arg(program);
    Some(command)
}
