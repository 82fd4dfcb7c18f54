//! The programs as people and scripts meet them: the whole story on small files, and what is said and
//! which exit code comes back when something is wrong.
//!
//! Every program runs in a temporary home on loopback and is ended by its own process id.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use cobox_tests::load::Rng;
use cobox_tests::process::{Device, Said, Seeder, can_mount, run, until};

const WORDS: &str = "words";

/// A device and a seeder in one temporary folder; fields are dropped in this order.
struct Scene {
    device: Device,
    seeder: Seeder,
    dir: tempfile::TempDir,
}

impl Scene {
    /// A device with the folder "docs", mounted, and a seeder that was granted `quota`.
    fn new(quota: &str) -> Self {
        let mut scene = Self::without_seeder();
        scene.seeder.start();
        let address = scene.seeder.address();
        let said = scene.device.ctl(&["seeder", "add", "docs", &address, "--quota", quota]).ok();
        assert!(said.out.contains("accepted"), "{said:?}");
        scene
    }

    fn without_seeder() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut device = Device::new(dir.path(), "device");
        init(&device, dir.path());
        device.start();
        device.ctl(&["folder", "create", "docs"]).ok();
        device.mount("docs");
        let seeder = Seeder::new(dir.path(), "seeder");
        Self { device, seeder, dir }
    }

    fn words(&self) -> PathBuf {
        self.dir.path().join(WORDS)
    }

    /// A new machine that has the words and the seeder's address.
    fn recover(&self, name: &str, words: &Path, address: &str) -> (Device, Said) {
        let device = Device::new(self.dir.path(), name);
        let words = words.to_str().expect("a temporary path is text");
        let said = device.ctl(&[
            "recover",
            "--words-file",
            words,
            "--seeder",
            address,
            "--label",
            name,
            "--no-passphrase",
        ]);
        (device, said)
    }
}

fn init(device: &Device, dir: &Path) {
    let words = dir.join(WORDS);
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "laptop", "--no-passphrase", "--words-out", words]).ok();
}

/// Ends the daemon that a verb started by itself.
struct Autostarted<'a>(&'a Device);

impl Drop for Autostarted<'_> {
    fn drop(&mut self) {
        drop(self.0.ctl(&["daemon", "stop", "--force"]));
    }
}

/// Every name below `dir` with all that a copy must keep, and the bytes of files.
fn tree(dir: &Path) -> Vec<(PathBuf, String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).expect("lists") {
            let path = entry.expect("lists").path();
            let name = path.strip_prefix(dir).expect("below").to_path_buf();
            if name.starts_with(".cobox") {
                continue;
            }
            let meta = fs::symlink_metadata(&path).expect("stats");
            let times = (meta.mtime(), meta.mtime_nsec());
            let (kind, bytes) = if meta.is_dir() {
                waiting.push(path.clone());
                ("folder".to_owned(), Vec::new())
            } else if meta.is_symlink() {
                (
                    "link".to_owned(),
                    fs::read_link(&path).expect("reads").as_os_str().as_encoded_bytes().to_vec(),
                )
            } else {
                (format!("file with {} names", meta.nlink()), fs::read(&path).expect("reads"))
            };
            found.push((name, format!("{kind} {:o} {times:?}", meta.mode()), bytes));
        }
    }
    found.sort();
    found
}

fn write_sample(dir: &Path, seed: u64) {
    let mut rng = Rng::new(seed);
    fs::create_dir_all(dir.join("a/b/empty")).expect("makes folders");
    for (at, len) in [0usize, 1, 1024, 1025, 70_000, 300_000, 3_000_000].into_iter().enumerate() {
        fs::write(dir.join(format!("a/file {at}")), rng.bytes(len)).expect("writes");
    }
    fs::set_permissions(dir.join("a/file 2"), fs::Permissions::from_mode(0o640)).expect("sets the mode");
    symlink("../a/file 1", dir.join("a/b/link")).expect("links");
    fs::hard_link(dir.join("a/file 4"), dir.join("a/b/second name")).expect("links");
    fs::rename(dir.join("a/file 3"), dir.join("a/b/moved")).expect("renames");
    fs::remove_file(dir.join("a/file 0")).expect("removes");
}

fn json(said: &Said) -> serde_json::Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// A refusal that a person can act on: the code, a sentence with `word` in it, and what to do.
fn assert_says(said: &Said, code: i32, word: &str) {
    assert_eq!(said.code, code, "{said:?}");
    assert!(said.err.contains(word), "{word:?} is not in {said:?}");
    assert!(!said.err.contains("panicked"), "{said:?}");
    assert!(said.err.trim_end().ends_with('.') && said.err.lines().count() >= 2, "no advice in {said:?}");
}

#[test]
fn machine_that_is_lost_comes_back_whole_from_the_words() {
    if !can_mount("machine_that_is_lost_comes_back_whole_from_the_words") {
        return;
    }
    let mut scene = Scene::new("1G");
    write_sample(&scene.device.mount, 7);
    let said = scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s", "--json"]).ok();
    assert_eq!(json(&said)["copies_proved"], 1, "{said:?}");
    let status = json(&scene.device.ctl(&["status", "--json"]).ok());
    assert_eq!(status["folders"][0]["copies_proved"], 1, "{status}");
    assert_eq!(status["folders"][0]["seeders"][0]["holding"], "proved", "{status}");
    let before = tree(&scene.device.mount);
    assert!(before.len() > 8);

    let address = scene.seeder.address();
    scene.device.kill();
    fs::remove_dir_all(&scene.device.home).expect("the home is removed");
    let (device, said) = scene.recover("again", &scene.words(), &address);
    let _stop = Autostarted(&device);
    let said = said.ok();
    assert!(said.out.contains("unverified"), "one seeder cannot show what is newest: {said:?}");
    device.mount("docs");
    assert_eq!(tree(&device.mount), before);
    device.ctl(&["check"]).ok();
}

#[test]
fn copy_that_is_cut_off_by_kill_goes_on_after_a_restart() {
    if !can_mount("copy_that_is_cut_off_by_kill_goes_on_after_a_restart") {
        return;
    }
    let mut scene = Scene::new("1G");
    let source = scene.dir.path().join("source");
    for round in 0..8 {
        write_sample(&source.join(round.to_string()), round);
    }
    let to = scene.device.mount.clone();
    let copying = std::thread::spawn({
        let source = source.clone();
        move || Command::new("cp").arg("-a").arg(source.join(".")).arg(&to).output().expect("cp runs")
    });
    until("some of it is there", || scene.device.mount.join("3").exists());
    scene.device.kill();
    assert!(!copying.join().expect("joins").status.success(), "cp was not interrupted");

    scene.device.start();
    until("the mount is back by itself", || scene.device.mount.join("3").exists());
    let said = run(Command::new("cp").arg("-a").arg(source.join(".")).arg(&scene.device.mount));
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(tree(&scene.device.mount), tree(&source));
    scene.device.ctl(&["check"]).ok();
    scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
}

#[test]
fn seeder_that_is_killed_midway_is_resumed() {
    if !can_mount("seeder_that_is_killed_midway_is_resumed") {
        return;
    }
    let mut scene = Scene::new("4G");
    let mut rng = Rng::new(3);
    for at in 0..3 {
        fs::write(scene.device.mount.join(format!("film {at}")), rng.bytes(24 << 20)).expect("writes");
        scene.seeder.kill();
        scene.seeder.start();
    }
    let said = scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "100s"]).ok();
    assert!(said.out.contains("1 proved copy"), "{said:?}");
}

#[test]
fn seeder_that_is_off_is_named_and_its_grant_kept() {
    if !can_mount("seeder_that_is_off_is_named_and_its_grant_kept") {
        return;
    }
    let mut scene = Scene::without_seeder();
    scene.seeder.start();
    let address = scene.seeder.address();
    scene.seeder.kill();
    let said = scene.device.ctl(&["seeder", "add", "docs", &address, "--quota", "1G"]);
    assert_says(&said, 3, "was not reached");
    fs::write(scene.device.mount.join("note"), b"waiting").expect("writes without any seeder");
    let said = scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "2s"]);
    assert_says(&said, 3, "0 of 1 copies");
    let (_, said) = scene.recover("early", &scene.words(), &address);
    assert_says(&said, 3, "not reached");

    scene.seeder.start();
    scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "90s"]).ok();
}

#[test]
fn full_quota_is_visible_and_more_quota_heals_it() {
    if !can_mount("full_quota_is_visible_and_more_quota_heals_it") {
        return;
    }
    let scene = Scene::new("1M");
    fs::write(scene.device.mount.join("film"), Rng::new(5).bytes(8 << 20)).expect("writes locally");
    let said = scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "5s"]);
    assert_says(&said, 3, "full");
    let status = scene.device.ctl(&["status", "docs"]).ok();
    assert!(status.out.contains("quota"), "{status:?}");
    scene.device.ctl(&["seeder", "add", "docs", &scene.seeder.address(), "--quota", "1G"]).ok();
    scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "90s"]).ok();
}

#[test]
fn wrong_words_and_foreign_addresses_change_nothing() {
    if !can_mount("wrong_words_and_foreign_addresses_change_nothing") {
        return;
    }
    let scene = Scene::new("1G");
    let address = scene.seeder.address();
    let words = fs::read_to_string(scene.words()).expect("reads");
    let mut list: Vec<&str> = words.split_whitespace().collect();
    let bent = scene.dir.path().join("bent");
    // Two words changed places: the checksum finds nearly all of these, the seeder knows none of the rest.
    let other = (1..24).find(|at| list[*at] != list[0]).expect("words differ");
    list.swap(0, other);
    fs::write(&bent, list.join(" ")).expect("writes");
    let (device, said) = scene.recover("bent", &bent, &address);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(!device.home.join("store").exists(), "nothing is left of an attempt");

    let stranger = Device::new(scene.dir.path(), "stranger");
    let strange = scene.dir.path().join("strange words");
    let path = strange.to_str().expect("a temporary path is text");
    stranger.ctl(&["init", "--label", "s", "--no-passphrase", "--words-out", path]).ok();
    let (device, said) = scene.recover("other", &strange, &address);
    assert_says(&said, 4, "keeps nothing for these words");
    assert!(!device.home.join("store").exists(), "nothing is left of an attempt");

    let mut mistyped = address.clone();
    let last = mistyped.pop().expect("an address is not empty");
    mistyped.push(if last == 'a' { 'b' } else { 'a' });
    let (_, said) = scene.recover("typo", &scene.words(), &mistyped);
    assert_says(&said, 2, "mistyped");
}

#[test]
fn passphrase_locks_the_device_and_a_wrong_one_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = Device::new(dir.path(), "device");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("writes");
        path.to_str().expect("a temporary path is text").to_owned()
    };
    let (right, wrong) = (file("right", "correct horse\n"), file("wrong", "battery staple\n"));
    let words = dir.path().join(WORDS);
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "l", "--passphrase-file", &right, "--words-out", words]).ok();
    assert_says(&device.ctl(&["status"]), 2, "passphrase");
    assert_says(&device.ctl(&["status", "--passphrase-file", &wrong]), 4, "passphrase");
    let _stop = Autostarted(&device);
    device.ctl(&["status", "--passphrase-file", &right]).ok();
    let keys = device.ctl(&["key", "show"]).ok();
    assert!(keys.out.contains("passphrase") && !keys.out.contains("correct horse"), "{keys:?}");
}

#[test]
fn second_daemon_on_one_home_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = Device::new(dir.path(), "device");
    init(&device, dir.path());
    device.start();
    let said = device.ctl(&["daemon", "run"]);
    assert_says(&said, 4, "in use by another process");
    device.ctl(&["status"]).ok();
    device.stop();
    assert_eq!(device.ctl(&["daemon", "status"]).code, 1);
    let _stop = Autostarted(&device);
    device.ctl(&["daemon", "start"]).ok();
    device.ctl(&["daemon", "status"]).ok();
}

#[test]
fn daemon_whose_mount_is_used_ends_only_when_forced() {
    if !can_mount("daemon_whose_mount_is_used_ends_only_when_forced") {
        return;
    }
    let scene = Scene::without_seeder();
    let other = scene.dir.path().join("other");
    fs::create_dir(&other).expect("makes");
    scene.device.ctl(&["folder", "create", "more"]).ok();
    scene.device.ctl(&["mount", "more", other.to_str().expect("text")]).ok();
    let note = scene.device.mount.join("note");
    fs::write(&note, b"kept").expect("writes");
    let open = fs::OpenOptions::new().append(true).open(&note).expect("opens");
    let user = format!("({}, open file)", std::process::id());
    let place = scene.device.mount.to_str().expect("text").to_owned();
    for verb in [&["umount", &place][..], &["daemon", "stop"]] {
        let said = scene.device.ctl(verb);
        assert_says(&said, 4, &user);
        assert_eq!(fs::read(&note).expect("reads"), b"kept", "after {verb:?}");
        fs::write(other.join("file"), b"x").expect("the other mount works as well");
    }
    assert!(scene.device.ctl(&["daemon", "stop"]).err.contains("--force"));
    scene.device.ctl(&["daemon", "stop", "--force"]).ok();
    assert_eq!(fs::read_dir(&scene.device.mount).expect("lists").count(), 0, "the mount is off");
    assert!((&open).write(b"x").is_err(), "nobody answers any more");
    drop(open);
    let _stop = Autostarted(&scene.device);
    scene.device.ctl(&["daemon", "start"]).ok();
    assert_eq!(fs::read(&note).expect("reads"), b"kept");
}

#[test]
fn mount_points_that_hide_something_are_refused() {
    if !can_mount("mount_points_that_hide_something_are_refused") {
        return;
    }
    let mut scene = Scene::without_seeder();
    let dir = scene.dir.path().to_path_buf();
    let mount = |place: &Path| scene.device.ctl(&["mount", "more", place.to_str().expect("text")]);
    scene.device.ctl(&["folder", "create", "more"]).ok();
    fs::create_dir(dir.join("full")).expect("makes");
    fs::write(dir.join("full/file"), b"x").expect("writes");
    fs::write(dir.join("file"), b"x").expect("writes");
    assert_says(&mount(&dir.join("full")), 4, "is not empty");
    assert_says(&mount(&dir.join("file")), 4, "is not a directory");
    assert_says(&mount(&dir.join("none")), 4, "does not exist");
    assert_says(&mount(&scene.device.mount), 4, "already a mount point");
    let said = scene.device.ctl(&["mount", "nothing", dir.join("none").to_str().expect("text")]);
    assert_says(&said, 1, "no folder named");

    let place = scene.device.mount.to_str().expect("text").to_owned();
    fs::write(scene.device.mount.join("note"), b"kept").expect("writes");
    scene.device.ctl(&["umount", &place]).ok();
    assert_eq!(fs::read_dir(&scene.device.mount).expect("lists").count(), 0);
    scene.device.ctl(&["mount", "docs", &place, "--read-only"]).ok();
    assert_eq!(fs::read(scene.device.mount.join("note")).expect("reads"), b"kept");
    assert!(fs::write(scene.device.mount.join("other"), b"x").is_err(), "a read-only mount takes no writes");
    scene.device.stop();
    assert_eq!(fs::read_dir(&scene.device.mount).expect("lists").count(), 0, "the daemon took its mount off");
}

#[test]
fn store_of_an_unknown_version_is_left_untouched() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = Device::new(dir.path(), "device");
    init(&device, dir.path());
    let format = device.home.join("store/data/FORMAT");
    let known = fs::read(&format).expect("a store says its format");
    let text = String::from_utf8_lossy(&known).replace(|digit: char| digit.is_ascii_digit(), "9");
    fs::write(&format, &text).expect("writes");
    let said = device.ctl(&["status"]);
    assert_says(&said, 4, "format");
    assert_eq!(fs::read_to_string(&format).expect("reads"), text);
    fs::write(&format, known).expect("writes");
    let _stop = Autostarted(&device);
    device.ctl(&["status"]).ok();
}

#[test]
fn usage_errors_and_later_verbs_have_their_exit_codes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = Device::new(dir.path(), "device");
    assert_says(&device.ctl(&["status"]), 1, "There is no device");
    assert_eq!(device.ctl(&["frobnicate"]).code, 2);
    assert_says(&device.ctl(&["init", "--label", "l", "--no-passphrase"]), 2, "--words-out");
    init(&device, dir.path());
    let words = dir.path().join(WORDS);
    assert_eq!(fs::metadata(&words).expect("there").permissions().mode() & 0o777, 0o600);
    let again = dir.path().join("more words");
    let again = again.to_str().expect("a temporary path is text");
    assert_says(
        &device.ctl(&["init", "--label", "l", "--no-passphrase", "--words-out", again]),
        4,
        "already",
    );
    for line in [&["history", "docs"][..], &["key", "rotate", "docs"]] {
        assert_says(&device.ctl(line), 4, "not in this version");
    }
    let said = device.ctl(&["folder", "show", "none", "--json"]);
    let _stop = Autostarted(&device);
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(json(&said)["error"]["code"], "failed", "{said:?}");
    let doctor = device.ctl(&["doctor", "--json"]);
    assert!(json(&doctor)["findings"].is_array(), "{doctor:?}");
}

#[test]
fn status_file_and_attributes_of_the_mount_say_what_status_says() {
    if !can_mount("status_file_and_attributes_of_the_mount_say_what_status_says") {
        return;
    }
    let scene = Scene::new("1G");
    let file = scene.device.mount.join("note");
    fs::write(&file, Rng::new(1).bytes(100_000)).expect("writes");
    scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let inside = fs::read_to_string(scene.device.mount.join(".cobox/status.json")).expect("reads");
    let inside: serde_json::Value = serde_json::from_str(&inside).expect("JSON");
    let outside = json(&scene.device.ctl(&["folder", "show", "docs", "--json"]).ok());
    assert_eq!(inside["copies_proved"], outside["copies_proved"]);
    assert_eq!(inside["id"], outside["id"]);
    let place = json(&scene.device.ctl(&["whereis", file.to_str().expect("text"), "--json"]).ok());
    assert_eq!((&place["state"], &place["copies"]), (&"proved".into(), &1.into()), "{place}");
}

#[test]
fn folder_that_nobody_holds_does_not_keep_the_others_from_coming_back() {
    if !can_mount("folder_that_nobody_holds_does_not_keep_the_others_from_coming_back") {
        return;
    }
    let mut scene = Scene::new("1G");
    fs::write(scene.device.mount.join("file"), b"bytes").expect("writes");
    scene.device.ctl(&["folder", "create", "alone"]).ok();
    scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    scene.device.kill();
    let (device, said) = scene.recover("second", &scene.words(), &scene.seeder.address());
    let _stop = Autostarted(&device);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("alone could not be joined"), "{said:?}");
    device.mount("docs");
    assert_eq!(fs::read(device.mount.join("file")).expect("reads"), b"bytes");
}

#[test]
fn recovery_on_the_same_device_does_not_wait_for_a_folder_that_nobody_else_has() {
    if !can_mount("recovery_on_the_same_device_does_not_wait_for_a_folder_that_nobody_else_has") {
        return;
    }
    let mut scene = Scene::new("1G");
    fs::write(scene.device.mount.join("file"), b"bytes").expect("writes");
    scene.device.ctl(&["folder", "create", "alone"]).ok();
    scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    scene.device.stop();
    let (words, address) = (scene.words(), scene.seeder.address());
    let words = words.to_str().expect("a temporary path is text");
    let line =
        ["recover", "--words-file", words, "--seeder", &address, "--label", "laptop", "--timeout", "20s"];
    let said = scene.device.ctl(&line);
    let _stop = Autostarted(&scene.device);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("alone has no seeder") && said.out.contains("docs: "), "{said:?}");
}

#[test]
fn device_that_recovered_and_is_offline_reports_bytes_elsewhere_and_no_damage() {
    if !can_mount("device_that_recovered_and_is_offline_reports_bytes_elsewhere_and_no_damage") {
        return;
    }
    let mut scene = Scene::new("1G");
    // More packs than come in the moment that the seeder is there.
    let files: Vec<String> = (0..150).map(|number| format!("file {number}")).collect();
    for (seed, name) in (12..).zip(&files) {
        fs::write(scene.device.mount.join(name), Rng::new(seed).bytes(1_000_000)).expect("writes");
    }
    scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    scene.device.kill();
    let (device, said) = scene.recover("second", &scene.words(), &scene.seeder.address());
    scene.seeder.kill();
    let _stop = Autostarted(&device);
    assert_eq!(said.code, 0, "{said:?}");
    let offline = || {
        json(&device.ctl(&["status", "docs", "--json"]))["folders"][0]["seeders"][0]["link"] != "connected"
    };
    until("the seeder's end is noticed", offline);
    let status = json(&device.ctl(&["status", "docs", "--json"]));
    if status["folders"][0]["local"]["packs_missing"] == 0 {
        println!("skipped: everything had come before the seeder was ended");
        return;
    }
    let said = device.ctl(&["health", "docs"]);
    // On a slow machine the seeder may have proved its copy before it was ended.
    assert!([0, 3].contains(&said.code), "{said:?}");
    assert!(!said.out.contains("not whole here"), "{said:?}");
    device.mount("docs");
    for name in &files {
        let mut file = fs::File::options().append(true).open(device.mount.join(name)).expect("opens");
        file.write_all(b"changed").expect("writes");
    }
    let said = device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "2s"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(!said.err.contains("damage") && !said.err.contains("os error"), "{said:?}");
}

#[test]
fn seeder_that_lost_its_data_is_no_copy_until_it_proves_again() {
    if !can_mount("seeder_that_lost_its_data_is_no_copy_until_it_proves_again") {
        return;
    }
    let mut scene = Scene::new("1G");
    write_sample(&scene.device.mount, 11);
    scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let address = scene.seeder.address();
    scene.seeder.kill();
    for entry in fs::read_dir(&scene.seeder.data).expect("lists") {
        let path = entry.expect("lists").path();
        if path.is_dir() {
            fs::remove_dir_all(path).expect("removes");
        } else if path.file_name().is_some_and(|name| name != "identity") {
            fs::remove_file(path).expect("removes");
        }
    }
    scene.seeder.start();
    scene.device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "100s"]).ok();
    let before = tree(&scene.device.mount);
    scene.device.kill();
    let (device, said) = scene.recover("second", &scene.words(), &address);
    let _stop = Autostarted(&device);
    assert_eq!(said.code, 0, "{said:?}");
    device.mount("docs");
    assert_eq!(tree(&device.mount), before);
}
