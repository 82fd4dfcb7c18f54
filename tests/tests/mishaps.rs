//! What people run into: a daemon that stands still, a network that is off, acts that lock out whoever does them, a way
//! back that leads to less, and command lines that cannot do what they say.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use cobox_tests::process::{Device, Seeder, can_mount, run, run_on_terminal, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn json(device: &Device, arguments: &[&str]) -> Value {
    let said = device.ctl(&[arguments, &["--json"]].concat()).ok();
    serde_json::from_str(said.out.lines().last().unwrap_or_default()).expect("JSON")
}

fn invite(device: &Device, role: &str) -> String {
    let said = device.ctl(&["folder", "invite", "club", "--role", role]).ok();
    said.out.lines().next().expect("a line").to_owned()
}

/// Ann has the folder "club" with a seeder; Bob has a device.
fn two(dir: &std::path::Path) -> (Device, Device, Seeder) {
    let (mut ann, mut bob) = (Device::set_up(dir, "ann"), Device::set_up(dir, "bob"));
    let mut seeder = Seeder::new(dir, "seeder");
    seeder.start();
    ann.start();
    bob.start();
    ann.ctl(&["folder", "create", "club"]).ok();
    ann.ctl(&["seeder", "add", "club", &seeder.address(), "--quota", "1G"]).ok();
    (ann, bob, seeder)
}

#[test]
fn daemon_that_was_stopped_is_told_of_with_what_to_do_and_answers_when_it_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = Device::set_up(dir.path(), "device");
    device.start();
    let pid = device.pid().and_then(|pid| Pid::from_raw(pid.try_into().expect("small"))).expect("it runs");
    for verb in [&["status"][..], &["daemon", "status"], &["umount", "/nowhere"], &["doctor"]] {
        kill_process(pid, Signal::STOP).expect("stops");
        let mut asking =
            device.command(verb).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("runs");
        let mut said = BufReader::new(asking.stderr.take().expect("piped")).lines();
        let mut line = || said.next().expect("it says something").expect("reads");
        let (what, hint) = (line(), line());
        assert!(what.contains("was stopped and does not answer"), "{verb:?}: {what}");
        assert!(hint.contains(&format!("kill -CONT {}", pid.as_raw_nonzero())), "{verb:?}: {hint}");
        kill_process(pid, Signal::CONT).expect("goes on");
        asking.wait().expect("it ends");
    }
    device.ctl(&["status"]).ok();
}

#[test]
fn device_whose_network_is_off_calls_nobody_and_says_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut ann, bob, seeder) = two(dir.path());
    ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    ann.stop();
    ann.start_with(&[("COBOX_NETWORK", "off")]);
    let link = |device: &Device| json(device, &["peers", "club"])["folders"][0]["seeders"][0].clone();
    until("it says why", || link(&ann)["problem"].to_string().contains("network is off"));
    assert_ne!(link(&ann)["link"], "connected");
    let peers = || {
        let said = seeder.run(&["status", "--json"]).ok();
        let status: Value = serde_json::from_str(&said.out).expect("JSON");
        status["folders"][0]["peers"].as_u64()
    };
    until("nobody is connected", || peers() == Some(0));
    let said = ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "2s"]);
    assert!(said.code == 3 && said.err.contains("network is off"), "{said:?}");
    assert_eq!(peers(), Some(0));
    // Neither does one that is set up from the words.
    let words = dir.path().join("ann-words");
    let again = Device::new(dir.path(), "again");
    let address = seeder.address();
    let words = words.to_str().expect("a temporary path is text");
    let mut recover = again.command(&[
        "recover",
        "--no-passphrase",
        "--words-file",
        words,
        "--seeder",
        &address,
        "--label",
        "again",
    ]);
    let said = run(recover.env("COBOX_NETWORK", "off"));
    assert!(said.code == 4 && said.err.contains("network is off"), "{said:?}");
    drop(bob);
}

#[test]
fn act_that_locks_out_whoever_does_it_is_refused_unless_they_are_sure() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (ann, bob, seeder) = two(dir.path());
    bob.ctl(&["folder", "join", &invite(&ann, "admin")]).ok();
    let said = seeder.run(&["claim", "--json"]).ok();
    let code: Value = serde_json::from_str(&said.out).expect("JSON");
    bob.ctl(&["seeder", "claim", code["code"].as_str().expect("a code"), "--name", "box"]).ok();
    let admins = json(&bob, &["seeder", "manage", "box", "admins", "list"]);
    let key = admins["answer"]["admins"][0]["key"].as_str().expect("a key").to_owned();
    for act in [
        &["device", "remove", "club", "bob"][..],
        &["member", "remove", "club", "bob"],
        &["member", "role", "club", "bob", "write"],
        &["seeder", "manage", "box", "admins", "remove", &key],
    ] {
        let said = bob.ctl(act);
        assert!(said.code == 4 && said.err.contains("--yes"), "{act:?}: {said:?}");
        assert!(said.err.contains("You would"), "{act:?}: {said:?}");
    }
    assert_eq!(json(&bob, &["member", "list", "club"])["role"], "admin");
    // What is done to others asks nothing, and who is sure is not asked.
    ann.ctl(&["member", "role", "club", "bob", "write"]).ok();
    ann.ctl(&["member", "role", "club", "bob", "admin"]).ok();
    until("Bob knows", || json(&bob, &["member", "list", "club"])["role"] == "admin");
    bob.ctl(&["device", "remove", "club", "bob", "--yes"]).ok();
    assert!(json(&bob, &["member", "list", "club"])["role"].is_null());
}

#[test]
fn person_at_a_terminal_is_asked_and_only_a_whole_yes_does_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (ann, bob, _seeder) = two(dir.path());
    bob.ctl(&["folder", "join", &invite(&ann, "admin")]).ok();
    let act = ["member", "role", "club", "bob", "write"];
    let asked = |typed: &str| run_on_terminal(&bob.command(&act), typed);
    let role = || json(&bob, &["member", "list", "club"])["role"].clone();
    // The last one ends the input without a word.
    for typed in ["no\n", "y\n", "\n", ""] {
        let said = asked(typed);
        assert!(said.code == 4 && said.out.contains("You would be no admin"), "{typed:?}: {said:?}");
        assert!(said.out.contains("Type yes") && said.out.contains("Nothing was changed"), "{said:?}");
        assert_eq!(role(), "admin", "{typed:?}");
    }
    let said = asked("yes\n");
    assert!(said.code == 0 && said.out.contains("Type yes"), "{said:?}");
    assert_eq!(role(), "write");
    // Who is sure is asked nothing, also there.
    ann.ctl(&["member", "role", "club", "bob", "admin"]).ok();
    until("Bob knows", || role() == "admin");
    let said = run_on_terminal(&bob.command(&[&act[..], &["--yes"]].concat()), "");
    assert!(said.code == 0 && !said.out.contains("Type yes"), "{said:?}");
}

#[test]
fn writer_who_comes_back_as_a_reader_is_told_that_what_was_not_sent_stays_here() {
    if !can_mount("writer_who_comes_back_as_a_reader_is_told_that_what_was_not_sent_stays_here") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut ann, mut bob, mut seeder) = two(dir.path());
    bob.ctl(&["folder", "join", &invite(&ann, "write")]).ok();
    bob.mount("club");
    fs::write(bob.mount.join("sent"), "with others").expect("writes");
    bob.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    ann.stop();
    seeder.kill();
    fs::write(bob.mount.join("offline"), "bob was alone").expect("writes");
    bob.stop();
    seeder.start();
    ann.start();
    ann.ctl(&["member", "remove", "club", "bob", "--now"]).ok();
    bob.start();
    until("Bob learns of it", || json(&bob, &["member", "list", "club"])["role"].is_null());
    let said = bob.ctl(&["folder", "join", &invite(&ann, "read")]).ok();
    assert!(said.out.contains("may read.") && said.out.contains("stays on this device alone"), "{said:?}");
    let status = bob.ctl(&["status", "club"]).ok();
    assert!(
        status.out.contains("stays on it alone") && status.out.contains("member role club"),
        "{status:?}"
    );
    assert_eq!(fs::read_to_string(bob.mount.join("offline")).expect("it is here"), "bob was alone");
    // An admin who lets him write has it sent, and nothing is wrong any more.
    ann.mount("club");
    ann.ctl(&["member", "role", "club", "bob", "write"]).ok();
    until("it is sent", || {
        fs::read_to_string(ann.mount.join("offline")).is_ok_and(|read| read == "bob was alone")
    });
    until("all is well", || !bob.ctl(&["status", "club"]).out.contains("WRONG"));
    // A reader who wrote nothing is told nothing.
    let carol = Device::set_up(dir.path(), "carol");
    let said = carol.ctl(&["folder", "join", &invite(&ann, "read")]).ok();
    assert!(!said.out.contains("alone"), "{said:?}");
    drop(carol.ctl(&["daemon", "stop"]));
}

#[test]
fn command_lines_that_cannot_do_what_they_say_tell_what_can() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = Device::set_up(dir.path(), "device");
    device.start();
    device.ctl(&["folder", "create", "club"]).ok();
    for dead in [
        &["folder", "invite", "club", "--role", "read", "--expires", "0s"][..],
        &["seeder", "code", "club", "--quota", "1G", "--expires", "0s"],
    ] {
        let said = device.ctl(dead);
        assert!(said.code == 2 && said.err.contains("72h"), "{dead:?}: {said:?}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("bound").to_string();
    let said = device.ctl(&["api", "listen", &address]);
    assert!(said.code == 1 && said.err.contains("choose another port"), "{said:?}");
    let set = json(&device, &["folder", "set", "club", "--tolerance", "3"]);
    assert_eq!((&set["tolerance_ms"], &set["copies_wanted"]), (&(3u64 * 86_400_000).into(), &1.into()));
    let said = device.ctl(&["seeder", "manage", "box", "status"]);
    assert!(said.code == 1 && !said.err.contains("CODE"), "{said:?}");
}

#[test]
fn last_copy_of_a_device_goes_only_once_the_seeders_proved_again_what_they_hold() {
    let test = "last_copy_of_a_device_goes_only_once_the_seeders_proved_again_what_they_hold";
    if !can_mount(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = Device::set_up(dir.path(), "device");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.start();
    device.ctl(&["folder", "create", "club"]).ok();
    device.mount("club");
    device.ctl(&["seeder", "add", "club", &seeder.address(), "--quota", "1G"]).ok();
    fs::write(device.mount.join("minutes"), vec![7; 300_000]).expect("writes");
    device.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    seeder.stop();
    until("it is seen to be off", || device.ctl(&["status", "club"]).out.contains("offline"));
    assert!(device.ctl(&["health", "club"]).code == 0, "the proof of a moment ago counts");
    let said = device.ctl(&["folder", "leave", "club"]);
    assert!(said.code == 4 && said.err.contains("0 of 1 proved now"), "{said:?}");
    assert_eq!(fs::read(device.mount.join("minutes")).expect("reads").len(), 300_000, "it is still a drive");
    // It comes back with its name, and without what it held.
    for part in fs::read_dir(&seeder.data).expect("lists").map(|entry| entry.expect("an entry").path()) {
        if part.file_name().is_some_and(|name| name != "identity") {
            drop(fs::remove_dir_all(&part).or_else(|_| fs::remove_file(&part)));
        }
    }
    seeder.accept = "owner";
    seeder.start();
    let leave = || device.ctl(&["folder", "leave", "club"]);
    until("it answers", || !device.ctl(&["status", "club"]).out.contains("offline"));
    let said = leave();
    assert!(said.code == 4, "the only copy there is: {said:?}");
    let grant = seeder.run(&["pending", "--json"]).ok();
    let grant: Value = serde_json::from_str(grant.out.trim()).expect("JSON");
    seeder.run(&["accept", grant["grants"][0]["id"].as_str().expect("a grant")]).ok();
    device.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    leave().ok();
    assert_eq!(json(&device, &["folder", "list"])["folders"].as_array().map(Vec::len), Some(0));
}
