//! People of a folder as they meet it: two homes with different words and one seeder. Invite, join, write
//! on both sides, change roles, remove; and what the removed one cannot do any more.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Stdio;

use cobox_store::format::invite::InviteCode;
use cobox_tests::process::{Device, Said, Seeder, can_mount, until};

/// Two people's devices and a seeder; fields are dropped in this order.
struct Scene {
    ann: Device,
    bob: Device,
    seeder: Seeder,
    dir: tempfile::TempDir,
}

fn device(dir: &Path, name: &str) -> Device {
    let device = Device::new(dir, name);
    let words = dir.join(format!("{name}-words"));
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", name, "--no-passphrase", "--words-out", words]).ok();
    device
}

impl Scene {
    /// Ann's folder "club" with a seeder; Bob has a device and is in nothing.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (mut ann, mut bob) = (device(dir.path(), "ann"), device(dir.path(), "bob"));
        let mut seeder = Seeder::new(dir.path(), "seeder");
        seeder.start();
        ann.start();
        bob.start();
        ann.ctl(&["folder", "create", "club"]).ok();
        ann.ctl(&["seeder", "add", "club", &seeder.address(), "--quota", "1G"]).ok();
        Self { ann, bob, seeder, dir }
    }

    /// Ann invites, Bob joins.
    fn join(&self, role: &str) {
        let code = invite(&self.ann, role);
        let said = self.bob.ctl(&["folder", "join", &code]).ok();
        assert!(said.out.contains("You are in club"), "{said:?}");
    }
}

fn invite(device: &Device, role: &str) -> String {
    let said = device.ctl(&["folder", "invite", "club", "--role", role]).ok();
    assert!(said.out.contains('█'), "a QR code: {said:?}");
    said.out.lines().next().expect("a line").to_owned()
}

fn people(device: &Device) -> serde_json::Value {
    serde_json::from_str(&device.ctl(&["member", "list", "club", "--json"]).ok().out).expect("JSON")
}

fn reads(dir: &Path, name: &str, content: &str) -> bool {
    fs::read_to_string(dir.join(name)).is_ok_and(|found| found == content)
}

#[test]
fn invited_person_joins_writes_and_is_removed() {
    if !can_mount("invited_person_joins_writes_and_is_removed") {
        return;
    }
    let scene = Scene::new();
    scene.ann.mount("club");
    fs::write(scene.ann.mount.join("before"), "ann wrote this").expect("writes");
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    scene.join("write");
    scene.bob.mount("club");
    until("what was there before is there", || reads(&scene.bob.mount, "before", "ann wrote this"));
    fs::write(scene.bob.mount.join("bobs"), "bob wrote this").expect("writes");
    fs::write(scene.ann.mount.join("anns"), "ann goes on").expect("writes");
    until("Ann sees Bob's", || reads(&scene.ann.mount, "bobs", "bob wrote this"));
    until("Bob sees Ann's", || reads(&scene.bob.mount, "anns", "ann goes on"));

    // What an admin wants holds for all; what somebody else wants, for that device.
    let wanted = |device: &Device| {
        let said = device.ctl(&["folder", "show", "club", "--json"]).ok();
        let report: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
        (report["copies_wanted"].as_u64(), report["policy_of"].as_str().map(str::to_owned))
    };
    assert_eq!(wanted(&scene.bob), (Some(1), Some("nobody".into())));
    let said = scene.ann.ctl(&["folder", "set", "club", "--copies", "2"]).ok();
    assert!(said.out.contains("for all its members"), "{said:?}");
    until("Bob's device knows", || wanted(&scene.bob) == (Some(2), Some("folder".into())));
    let said = scene.bob.ctl(&["folder", "set", "club", "--copies", "3"]).ok();
    assert!(said.out.contains("for this device alone"), "{said:?}");
    assert_eq!(wanted(&scene.bob), (Some(3), Some("device".into())));
    scene.bob.ctl(&["folder", "set", "club", "--follow"]).ok();
    assert_eq!(wanted(&scene.bob), (Some(2), Some("folder".into())));
    scene.ann.ctl(&["folder", "set", "club", "--copies", "1"]).ok();
    assert_eq!(wanted(&scene.ann), (Some(1), Some("folder".into())));

    let list = people(&scene.ann);
    assert_eq!(list["members"].as_array().map(Vec::len), Some(2), "{list}");
    let said = scene.bob.ctl(&["member", "remove", "club", "ann"]);
    assert_eq!(said.code, 4, "a writer removes nobody: {said:?}");

    let said = scene.ann.ctl(&["member", "remove", "club", "bob"]).ok();
    assert!(said.out.contains("New keys are in use"), "{said:?}");
    assert!(
        said.out.contains("What they had they have: the ") && !said.out.contains("the 0 entries"),
        "{said:?}"
    );
    until("Bob learns of it", || people(&scene.bob)["role"].is_null());
    // Whatever Bob's device still writes stays with it.
    let late = fs::write(scene.bob.mount.join("late"), "bob writes on");
    fs::write(scene.ann.mount.join("after"), "ann without bob").expect("writes");
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    assert!(!scene.ann.mount.join("late").exists(), "{late:?}");
    assert!(!scene.bob.mount.join("after").exists());
    assert!(reads(&scene.ann.mount, "bobs", "bob wrote this"), "what was written before stays");
    assert_eq!(scene.ann.ctl(&["health", "club"]).code, 0);
}

#[test]
fn reader_reads_and_cannot_write_until_promoted() {
    if !can_mount("reader_reads_and_cannot_write_until_promoted") {
        return;
    }
    let scene = Scene::new();
    scene.ann.mount("club");
    fs::write(scene.ann.mount.join("notes"), "for all").expect("writes");
    scene.join("read");
    scene.bob.mount("club");
    until("the reader reads", || reads(&scene.bob.mount, "notes", "for all"));
    let refused = fs::write(scene.bob.mount.join("mine"), "x").expect_err("read-only");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    scene.ann.ctl(&["member", "role", "club", "bob", "write"]).ok();
    until("Bob learns of it", || people(&scene.bob)["role"] == "write");
    let mount = scene.bob.mount.to_str().expect("a temporary path is text");
    scene.bob.ctl(&["umount", mount]).ok();
    scene.bob.mount("club");
    fs::write(scene.bob.mount.join("mine"), "now I may").expect("writes");
    until("Ann sees it", || reads(&scene.ann.mount, "mine", "now I may"));
    // And back again: the mount turns read-only by itself.
    scene.ann.ctl(&["member", "role", "club", "bob", "read"]).ok();
    until("Bob's mount refuses", || {
        fs::write(scene.bob.mount.join("more"), "x")
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
    });
    assert!(reads(&scene.bob.mount, "mine", "now I may"));
}

#[test]
fn code_is_good_once_until_it_is_taken_back() {
    let scene = Scene::new();
    let joined =
        |device: &Device, code: &str| -> Said { device.ctl(&["folder", "join", code, "--timeout", "40s"]) };
    let code = invite(&scene.ann, "write");
    let mut bent = code.clone();
    bent.replace_range(20..21, if &code[20..21] == "q" { "p" } else { "q" });
    assert_eq!(joined(&scene.bob, &bent).code, 2);
    // The first to come is in; the code is worth nothing to the next.
    scene.bob.ctl(&["folder", "join", &code, "--name", "Ann's club"]).ok();
    let mut eve = device(scene.dir.path(), "eve");
    eve.start();
    assert_eq!(joined(&eve, &code).code, 4);
    let list = scene.ann.ctl(&["folder", "invite", "club", "--list"]).ok();
    assert!(list.out.contains("used by bob"), "{list:?}");
    // One that is taken back is worth nothing to anybody.
    let code = invite(&scene.ann, "read");
    scene.ann.ctl(&["folder", "invite", "club", "--void", &code]).ok();
    assert_eq!(joined(&eve, &code).code, 4);
    // Nor one that has expired, although it is still open in the log.
    let said = scene.ann.ctl(&["folder", "invite", "club", "--role", "read", "--expires", "1s"]).ok();
    let code = said.out.lines().next().expect("a line").to_owned();
    until("it expires", || {
        scene.ann.ctl(&["folder", "invite", "club", "--list"]).ok().out.contains("expired")
    });
    assert_eq!(joined(&eve, &code).code, 4);
    // From standard input, so that it is in no list of processes.
    let code = invite(&scene.ann, "admin");
    let mut command = eve.command(&["folder", "join", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), code.as_bytes()).expect("writes");
    assert!(child.wait().expect("ends").success());
    assert_eq!(people(&eve)["role"], "admin");
}

#[test]
fn code_used_by_two_at_the_same_moment_lets_in_exactly_one() {
    let scene = Scene::new();
    let mut eve = device(scene.dir.path(), "eve");
    eve.start();
    let code = invite(&scene.ann, "write");
    let join = |device: &Device| {
        let mut command = device.command(&["folder", "join", &code, "--timeout", "40s"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
    };
    // One admin: whoever comes first is in.
    let both = [join(&scene.bob), join(&eve)];
    let codes = both.map(|child| child.wait_with_output().expect("ends").status.code());
    assert!(matches!(codes, [Some(0), Some(4)] | [Some(4), Some(0)]), "{codes:?}");
    let list = people(&scene.ann);
    assert_eq!(list["members"].as_array().map(Vec::len), Some(2), "{list}");
    assert_eq!(list["alerts"], serde_json::json!([]), "who came second was refused, and that is all: {list}");
}

/// The code of one invite with the peers that another one names.
fn code_for(invite: &str, peers: &str) -> String {
    let (mut code, peers) = (InviteCode::from_text(invite).expect("a code"), InviteCode::from_text(peers));
    code.hints = peers.expect("a code").hints;
    code.to_text().expect("fits").to_string()
}

#[test]
fn code_used_by_two_while_admins_are_parted_lets_in_neither_and_all_are_told() {
    let mut scene = Scene::new();
    scene.join("admin");
    let (mut cat, mut eve) = (device(scene.dir.path(), "cat"), device(scene.dir.path(), "eve"));
    cat.start();
    eve.start();
    let code = invite(&scene.ann, "write");
    until("Bob knows of the invite", || {
        scene.bob.ctl(&["folder", "invite", "club", "--list"]).ok().out.matches("open").count() >= 1
    });
    // Ann lets Cat in where Bob does not hear of it, and Bob lets Eve in where Ann does not.
    scene.bob.stop();
    scene.seeder.kill();
    cat.ctl(&["folder", "join", &code]).ok();
    cat.stop();
    scene.ann.stop();
    scene.bob.start();
    let bobs = invite(&scene.bob, "read");
    eve.ctl(&["folder", "join", &code_for(&code, &bobs)]).ok();
    assert_eq!(people(&scene.bob)["members"].as_array().map(Vec::len), Some(3));
    // They meet.
    scene.seeder.start();
    scene.ann.start();
    cat.start();
    for (admin, name) in [(&scene.ann, "Ann"), (&scene.bob, "Bob")] {
        until(&format!("{name} is told"), || people(admin)["alerts"].as_array().map(Vec::len) == Some(1));
        let list = people(admin);
        assert!(list["alerts"].to_string().contains("Neither was let in"), "{list}");
        assert_eq!(list["members"].as_array().map(Vec::len), Some(2), "{list}");
        let said = admin.ctl(&["status", "club"]).ok();
        assert!(said.out.contains("used by two devices at the same time"), "{said:?}");
        let said = admin.ctl(&["folder", "invite", "club", "--list"]).ok();
        assert!(said.out.contains("clashed"), "{said:?}");
    }
    for (outsider, name) in [(&cat, "Cat"), (&eve, "Eve")] {
        until(&format!("{name} is out"), || people(outsider)["role"].is_null());
    }
}

#[test]
fn lost_device_is_removed_and_its_owner_comes_back_with_the_words() {
    let mut scene = Scene::new();
    scene.join("write");
    // Bob's words find the club at its seeder, once his device has left its locator there.
    until("the locator is left", || {
        let dir = scene.dir.path().join("try-home");
        drop(fs::remove_dir_all(&dir));
        let again = Device::new(scene.dir.path(), "try");
        recover(&again, scene.dir.path(), &scene.seeder.address()).code == 0
    });
    scene.bob.stop();
    let said = scene.ann.ctl(&["device", "remove", "club", "bob"]).ok();
    assert!(said.out.contains("can write nothing more"), "{said:?}");
    let again = Device::new(scene.dir.path(), "again");
    recover(&again, scene.dir.path(), &scene.seeder.address()).ok();
    until("Ann sees the new device", || people(&scene.ann).to_string().contains("\"label\":\"again\""));
    drop(again.ctl(&["daemon", "stop"]));
}

fn recover(device: &Device, dir: &Path, address: &str) -> Said {
    let words = dir.join("bob-words");
    let words = words.to_str().expect("a temporary path is text");
    let label = device.home.file_name().and_then(|name| name.to_str()).expect("named").replace("-home", "");
    let said = device.ctl(&[
        "recover",
        "--words-file",
        words,
        "--seeder",
        address,
        "--label",
        &label,
        "--no-passphrase",
    ]);
    if said.code != 0 || label == "try" {
        drop(device.ctl(&["daemon", "stop"]));
    }
    said
}

/// The mount as `status` tells it.
fn mount_of(device: &Device) -> serde_json::Value {
    let said = device.ctl(&["status", "club", "--json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    report["folders"][0]["mount"].clone()
}

/// Whether the kernel has a mount at the device's mount point.
fn is_mounted(device: &Device) -> bool {
    let dir = format!(" {} ", device.mount.display());
    fs::read_to_string("/proc/self/mountinfo").expect("Linux lists its mounts").contains(&dir)
}

#[test]
fn who_is_in_a_folder_already_joins_it_with_no_second_code() {
    if !can_mount("who_is_in_a_folder_already_joins_it_with_no_second_code") {
        return;
    }
    let scene = Scene::new();
    scene.ann.mount("club");
    scene.join("read");
    scene.bob.mount("club");
    let code = invite(&scene.ann, "write");
    for (device, role) in [(&scene.bob, "as a reader"), (&scene.ann, "as an admin")] {
        let said = device.ctl(&["folder", "join", &code, "--timeout", "20s"]);
        assert_eq!(said.code, 4, "{said:?}");
        assert!(said.err.contains("You are in club already") && said.err.contains(role), "{said:?}");
        assert!(is_mounted(device), "its mount stays");
    }
    let list = scene.ann.ctl(&["folder", "invite", "club", "--list"]).ok();
    assert!(list.out.contains("write  open"), "the code stays good: {list:?}");
    assert_eq!(people(&scene.ann)["members"].as_array().map(Vec::len), Some(2));
    assert_eq!(people(&scene.bob)["role"], "read");
}

#[test]
fn removed_member_comes_back_with_a_new_invite_and_what_was_never_sent() {
    if !can_mount("removed_member_comes_back_with_a_new_invite_and_what_was_never_sent") {
        return;
    }
    let mut scene = Scene::new();
    scene.ann.mount("club");
    fs::write(scene.ann.mount.join("notes"), "for all").expect("writes");
    scene.join("write");
    scene.bob.mount("club");
    until("Bob reads", || reads(&scene.bob.mount, "notes", "for all"));
    // What Bob writes while nobody can be reached is on his device alone when he is removed.
    scene.ann.stop();
    scene.seeder.kill();
    fs::write(scene.bob.mount.join("offline"), "bob was alone").expect("writes");
    scene.bob.stop();
    scene.seeder.start();
    scene.ann.start();
    scene.ann.ctl(&["member", "remove", "club", "bob", "--now"]).ok();
    scene.bob.start();
    until("Bob learns of it", || people(&scene.bob)["role"].is_null());

    let code = invite(&scene.ann, "write");
    let said = scene.bob.ctl(&["folder", "join", &code]).ok();
    assert!(said.out.contains("You are in club, and may read and write"), "{said:?}");
    assert_eq!(people(&scene.bob)["role"], "write");
    until("what was never sent is sent", || reads(&scene.ann.mount, "offline", "bob was alone"));
    assert!(is_mounted(&scene.bob), "the mount is there again");
    assert!(reads(&scene.bob.mount, "offline", "bob was alone"));
    fs::write(scene.bob.mount.join("more"), "bob goes on").expect("writes");
    until("and so is what comes after", || reads(&scene.ann.mount, "more", "bob goes on"));
    assert_eq!(people(&scene.ann)["members"].as_array().map(Vec::len), Some(2));
    scene.bob.stop();
    scene.bob.start();
    scene.bob.await_mount();
    fs::write(scene.bob.mount.join("later"), "after a restart").expect("writes");
    until("also after a restart", || reads(&scene.ann.mount, "later", "after a restart"));
    let said = scene.bob.ctl(&["status", "club"]).ok();
    assert!(!said.out.contains("WRONG"), "{said:?}");
}

#[test]
fn removed_member_is_told_what_helps_and_is_not_green() {
    if !can_mount("removed_member_is_told_what_helps_and_is_not_green") {
        return;
    }
    let scene = Scene::new();
    scene.ann.mount("club");
    fs::write(scene.ann.mount.join("notes"), "for all").expect("writes");
    scene.join("write");
    scene.bob.mount("club");
    until("Bob reads", || reads(&scene.bob.mount, "notes", "for all"));
    scene.bob.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    assert_eq!(scene.bob.ctl(&["health", "club"]).code, 0);
    scene.ann.ctl(&["member", "remove", "club", "bob", "--now"]).ok();
    until("Bob learns of it", || people(&scene.bob)["role"].is_null());
    let said = scene.bob.ctl(&["health", "club"]);
    assert_eq!(said.code, 1, "what is written here is sent to nobody: {said:?}");
    assert!(said.out.contains("removed"), "{said:?}");
    let said = scene.bob.ctl(&["status", "club"]).ok();
    assert!(said.out.contains("new invite") && said.out.contains("folder join"), "{said:?}");
    assert!(!said.out.contains("recover"), "the words open it no more: {said:?}");
    scene.bob.ctl(&["folder", "set", "club", "--copies", "2"]).ok();
    let said = scene.bob.ctl(&["folder", "leave", "club"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("new invite") && !said.err.contains("wait"), "{said:?}");
    let said = scene.bob.ctl(&["doctor"]);
    assert!(said.out.contains("new invite") && !said.out.contains("cobox-ctl recover"), "{said:?}");
    scene.bob.ctl(&["folder", "leave", "club", "--force"]).ok();
}

#[test]
fn device_that_was_removed_without_its_person_is_told_to_use_the_words() {
    let scene = Scene::new();
    scene.join("write");
    scene.ann.ctl(&["device", "remove", "club", "bob", "--now"]).ok();
    until("Bob learns of it", || people(&scene.bob)["role"].is_null());
    let said = scene.bob.ctl(&["status", "club"]).ok();
    assert!(said.out.contains("cobox-ctl recover"), "{said:?}");
    assert!(!said.out.contains("new invite"), "{said:?}");
}

#[test]
fn name_that_a_folder_has_already_is_refused_and_costs_no_invite() {
    let scene = Scene::new();
    scene.bob.ctl(&["folder", "create", "club"]).ok();
    scene.bob.ctl(&["folder", "create", "own"]).ok();
    let said = scene.bob.ctl(&["folder", "create", "club"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("You have a folder club already"), "{said:?}");
    let code = invite(&scene.ann, "read");
    let said = scene.bob.ctl(&["folder", "join", &code, "--name", "own"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(
        said.err.contains("You have a folder own already: give this one another name with --name"),
        "{said:?}"
    );
    let list = scene.ann.ctl(&["folder", "invite", "club", "--list"]).ok();
    assert!(list.out.contains("read   open"), "the code stays good: {list:?}");
    // The folder's own name is sealed until the device is let in; then the code is this device's, and good for it.
    let said = scene.bob.ctl(&["folder", "join", &code]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(
        said.err.contains("You have a folder club already: give this one another name with --name"),
        "{said:?}"
    );
    assert!(said.err.contains("same code"), "{said:?}");
    let said = scene.bob.ctl(&["folder", "join", &code, "--name", "Ann's club"]).ok();
    assert!(said.out.contains("You are in Ann's club, and may read"), "{said:?}");
}

#[test]
fn mount_that_somebody_else_took_off_is_not_said_to_be_there() {
    if !can_mount("mount_that_somebody_else_took_off_is_not_said_to_be_there") {
        return;
    }
    let scene = Scene::new();
    scene.ann.mount("club");
    assert!(mount_of(&scene.ann)["problem"].is_null());
    // A program keeps the mount alive where nobody finds it any more.
    let open = fs::File::create(scene.ann.mount.join("open")).expect("creates");
    let taken = std::process::Command::new("fusermount3").arg("-uz").arg(&scene.ann.mount).status();
    assert!(taken.expect("runs").success());
    assert!(!is_mounted(&scene.ann));
    let said = scene.ann.ctl(&["status", "club"]).ok();
    assert!(!said.out.contains("  mounted at") && said.out.contains("not mounted"), "{said:?}");
    let said = scene.ann.ctl(&["folder", "list"]).ok();
    assert!(said.out.contains("not mounted"), "{said:?}");
    drop(open);
    until("it can be mounted again", || {
        let dir = scene.ann.mount.to_str().expect("a temporary path is text");
        scene.ann.ctl(&["mount", "club", dir]).code == 0 && is_mounted(&scene.ann)
    });
    assert!(scene.ann.ctl(&["status", "club"]).ok().out.contains("  mounted at"));
}

#[test]
fn names_that_would_write_on_a_terminal_are_refused_or_quoted() {
    if !can_mount("names_that_would_write_on_a_terminal_are_refused_or_quoted") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut ann = Device::new(dir.path(), "ann");
    let words = dir.path().join("words");
    let words = words.to_str().expect("a temporary path is text");
    let init = |label: &str| ann.ctl(&["init", "--label", label, "--no-passphrase", "--words-out", words]);
    for label in ["", " ", "evil\u{1b}[31m\nlaptop (this device)", "turned \u{202e}around"] {
        assert_eq!(init(label).code, 2, "{label:?}");
    }
    init("Ann's laptop").ok();
    ann.start();
    ann.ctl(&["folder", "create", "club"]).ok();
    ann.mount("club");
    let odd = std::ffi::OsStr::from_bytes(b"odd\n\x1b[31m\xff");
    fs::write(ann.mount.join(odd), "x").expect("writes");
    let mut command = ann.command(&["whereis"]);
    let said = command.arg(ann.mount.join(odd)).output().expect("runs");
    let text = String::from_utf8(said.stdout).expect("only text is printed");
    assert!(text.contains("/odd'$'\\n\\033''[31m'$'\\377'"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}
