//! An admin that is behind ends no log of which others have more: with a seeder that holds what a lost device wrote, and
//! a device recovered from the words to which it comes slowly. And nobody is removed for a caller who gave up waiting.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use cobox_store::format::address::SeederAddress;
use cobox_tests::http::{exchange, request, unix};
use cobox_tests::line::Line;
use cobox_tests::load::Rng;
use cobox_tests::process::{Device, Said, Seeder, can_mount, until};
use serde_json::Value;

const FOLDER: &str = "club";
/// Files whose content travels in entries, since they are small.
const FILES: u64 = 1500;
const FILE_BYTES: usize = 1000;
/// What the lost device wrote takes half a minute and more at this pace.
const SLOW_BYTES_PER_S: u64 = 40_000;

/// A lost device's folder, its seeder behind a line, and the device that takes its place, which has not heard of what
/// was written last; fields are dropped in this order.
struct Scene {
    again: Device,
    line: Line,
    _seeder: Seeder,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut seeder = Seeder::new(dir.path(), "seeder");
        seeder.start();
        let real = SeederAddress::from_text(&seeder.address()).expect("an address");
        let [4, 127, 0, 0, 1, 6, high, low] = real.addresses[0][..] else { panic!("{real:?}") };
        let line = Line::to(u16::from_be_bytes([high, low]));
        let address = line.address(&real);
        let mut lost = Device::set_up(dir.path(), "lost");
        lost.start();
        lost.ctl(&["folder", "create", FOLDER]).ok();
        lost.ctl(&["seeder", "add", FOLDER, &address, "--quota", "1G"]).ok();
        lost.mount(FOLDER);
        fs::write(lost.mount.join("first"), "before").expect("writes");
        lost.ctl(&["wait", FOLDER, "--copies", "1", "--timeout", "60s"]).ok();
        let again = Device::new(dir.path(), "again");
        let words = dir.path().join("lost-words");
        let words = words.to_str().expect("a temporary path is text");
        let recover =
            ["recover", "--words-file", words, "--seeder", &address, "--label", "again", "--no-passphrase"];
        // The words find the folder once the lost device has left its locator at the seeder.
        until("the words find the folder", || {
            let found = again.ctl(&recover).code == 0;
            drop(again.ctl(&["daemon", "stop"]));
            if !found {
                drop(fs::remove_dir_all(&again.home));
            }
            found
        });
        let mut rng = Rng::new(5);
        for number in 0..FILES {
            fs::write(lost.mount.join(format!("late {number}")), rng.bytes(FILE_BYTES)).expect("writes");
        }
        lost.ctl(&["wait", FOLDER, "--copies", "1", "--timeout", "60s"]).ok();
        lost.kill();
        line.slow_down(SLOW_BYTES_PER_S);
        let mut scene = Self { again, line, _seeder: seeder, _dir: dir };
        scene.again.start();
        scene
    }

    fn remove(&self, more: &[&str]) -> Said {
        self.again.ctl(&[&["device", "remove", FOLDER, "lost"], more].concat())
    }

    fn devices(&self) -> String {
        let said = self.again.ctl(&["member", "list", FOLDER, "--json"]).ok();
        let report: Value = serde_json::from_str(&said.out).expect("JSON");
        report["members"].to_string()
    }

    /// What arrives: how many of the files there are in the end.
    fn files(&mut self) -> usize {
        self.line.speed_up();
        until("all that comes has come", || {
            let socket = unix(&self.again.home.join("run/api.sock"));
            let path = format!("/v1/folders/{FOLDER}/peers");
            let report = exchange(socket, &request("GET", &path, &[], None)).json();
            let mut peers = report["peers"].as_array().expect("peers").iter();
            peers.any(|peer| peer["told"] == true && peer["entries_to_receive"] == 0)
        });
        self.again.mount(FOLDER);
        fs::read_dir(&self.again.mount).expect("lists").count()
    }
}

/// Whether a connected device told what it has.
fn device_told(device: &Device) -> bool {
    let socket = unix(&device.home.join("run/api.sock"));
    let report = exchange(socket, &request("GET", &format!("/v1/folders/{FOLDER}/peers"), &[], None)).json();
    let peers = report["peers"].as_array().cloned().unwrap_or_default();
    peers.iter().any(|peer| peer["kind"] == "member" && peer["told"] == true)
}

#[test]
fn removal_whose_caller_has_gone_while_it_waited_does_not_happen() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    let mut ann = Device::set_up(dir.path(), "ann");
    ann.start();
    ann.ctl(&["folder", "create", FOLDER]).ok();
    ann.ctl(&["seeder", "add", FOLDER, &seeder.address(), "--quota", "1G"]).ok();
    let others = ["bob", "carol"].map(|name| {
        let mut device = Device::set_up(dir.path(), name);
        device.start();
        let said = ann.ctl(&["folder", "invite", FOLDER, "--role", "write"]).ok();
        device.ctl(&["folder", "join", said.out.lines().next().expect("a code")]).ok();
        device
    });
    until("a device has told what it has", || device_told(&ann));
    // The seeder might have more: for three seconds it is waited for.
    seeder.kill();
    let mut client = ann.command(&["device", "remove", FOLDER, "bob"]);
    let mut client = client.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    let mut says = BufReader::new(client.stderr.take().expect("piped"));
    let mut line = String::new();
    says.read_line(&mut line).expect("reads");
    assert!(line.contains("others are asked what they have"), "{line:?}");
    client.kill().expect("the child is ours");
    client.wait().expect("the child is ours");
    // What was asked later waits for as long, and is done: the other would have been before.
    ann.ctl(&["device", "remove", FOLDER, "carol"]).ok();
    let said = ann.ctl(&["member", "list", FOLDER, "--json"]).ok();
    let report: Value = serde_json::from_str(&said.out).expect("JSON");
    let (members, former) = (report["members"].to_string(), report["former"].to_string());
    assert!(former.contains("\"carol\"") && members.contains("\"bob\""), "{report}");
    drop(others);
}

#[test]
fn device_is_not_removed_while_others_have_entries_of_it_that_are_not_here() {
    if !can_mount("device_is_not_removed_while_others_have_entries_of_it_that_are_not_here") {
        return;
    }
    let mut scene = Scene::new();
    let said = scene.remove(&[]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains(" of lost are at others and not here yet"), "{said:?}");
    assert!(scene.devices().contains("\"lost\""), "it was removed");
    assert_eq!(scene.files(), 1 + usize::try_from(FILES).expect("few"));
    scene.remove(&[]).ok();
    assert!(!scene.devices().contains("\"lost\""), "it was not removed");
}
