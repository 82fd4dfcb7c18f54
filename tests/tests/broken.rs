//! Broken devices, with real programs: a home that was copied and both copies worked offline, and a home that
//! was restored from an image. Nobody does anything about it, and nothing is lost.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use cobox_tests::process::{Device, Seeder, can_mount, until};

/// Ann's folder "club" with a seeder, in which Bob writes; fields are dropped in this order.
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
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (mut ann, mut bob) = (device(dir.path(), "ann"), device(dir.path(), "bob"));
        let mut seeder = Seeder::new(dir.path(), "seeder");
        seeder.start();
        ann.start();
        bob.start();
        ann.ctl(&["folder", "create", "club"]).ok();
        ann.ctl(&["seeder", "add", "club", &seeder.address(), "--quota", "1G"]).ok();
        let said = ann.ctl(&["folder", "invite", "club", "--role", "write"]).ok();
        let code = said.out.lines().next().expect("a line").to_owned();
        bob.ctl(&["folder", "join", &code]).ok();
        ann.mount("club");
        bob.mount("club");
        fs::write(ann.mount.join("anns"), "ann wrote this").expect("writes");
        fs::create_dir(bob.mount.join("shared")).expect("makes a folder");
        fs::write(bob.mount.join("shared/bobs"), "bob wrote this").expect("writes");
        until("both see both", || tree(&ann.mount).len() == 3 && tree(&ann.mount) == tree(&bob.mount));
        bob.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
        Self { ann, bob, seeder, dir }
    }

    /// Ends a device without leaving a wish to be mounted.
    fn put_away(device: &mut Device) {
        let mount = device.mount.to_str().expect("a temporary path is text").to_owned();
        device.ctl(&["umount", &mount]).ok();
        device.stop();
    }
}

/// What is below a mount, by its path; files with what is in them.
fn tree(dir: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.strip_prefix(root).expect("below it").to_string_lossy().into_owned();
            if path.is_dir() {
                walk(root, &path, found);
            }
            found.insert(name, fs::read_to_string(&path).unwrap_or_default());
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}

fn copy(from: &Path, to: &Path) {
    let said = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp starts");
    assert!(said.success());
}

fn write(device: &Device, files: &[(&str, &str)]) {
    for (name, content) in files {
        fs::write(device.mount.join(name), content).expect("writes");
    }
}

#[test]
fn copied_home_whose_copies_both_worked_offline_ends_with_one_tree() {
    if !can_mount("copied_home_whose_copies_both_worked_offline_ends_with_one_tree") {
        return;
    }
    let mut scene = Scene::new();
    Scene::put_away(&mut scene.bob);
    let mut twin = Device::new(scene.dir.path(), "twin");
    copy(&scene.bob.home, &twin.home);
    scene.seeder.kill();
    // Nobody meets anybody. Ann works too.
    write(&scene.ann, &[("offline", "by ann")]);
    Scene::put_away(&mut scene.ann);
    for (device, files) in [
        (&mut scene.bob, [("ones", "by bob"), ("shared/bobs", "changed by bob"), ("same name", "by bob")]),
        (&mut twin, [("twos", "by the twin"), ("shared/more", "by the twin"), ("same name", "by the twin")]),
    ] {
        device.start();
        device.mount("club");
        write(device, &files);
        Scene::put_away(device);
    }
    // One comes back first, and Ann builds on what it wrote.
    scene.seeder.start();
    scene.ann.start();
    scene.ann.mount("club");
    scene.bob.start();
    scene.bob.mount("club");
    until("Ann sees what Bob wrote", || tree(&scene.ann.mount).contains_key("ones"));
    write(&scene.ann, &[("ones", "changed by ann")]);
    // While her mount is in use her tree cannot be made anew: she is told why nothing of the twin's comes.
    let held = fs::File::open(scene.ann.mount.join("anns")).expect("opens");
    twin.start();
    twin.mount("club");
    until("Ann is told", || scene.ann.ctl(&["status", "club"]).ok().out.contains("it is made anew"));
    drop(held);
    let all = |scene: &Scene, twin: &Device| {
        let found = tree(&scene.ann.mount);
        let names = ["anns", "offline", "ones", "twos", "same name", "shared/bobs", "shared/more"];
        names.iter().all(|name| found.contains_key(*name))
            && tree(&scene.bob.mount) == found
            && tree(&twin.mount) == found
    };
    until("all three show everything", || all(&scene, &twin));
    let found = tree(&scene.ann.mount);
    assert_eq!(found["ones"], "changed by ann");
    assert_eq!(found["shared/bobs"], "changed by bob");
    assert_eq!(found["twos"], "by the twin");
    // Both wrote the file that each of them made: the later keeps the name, the other is beside it.
    let same: Vec<&String> =
        found.iter().filter(|(name, _)| name.starts_with("same name")).map(|(_, content)| content).collect();
    assert!(same.len() == 2 && same.contains(&&"by bob".to_owned()), "{found:?}");
    // Each goes on as a device of its own, and people are told.
    until("the copies have keys of their own", || {
        let list = scene.ann.ctl(&["member", "list", "club", "--json"]).ok().out;
        list.matches("\"label\":\"bob\"").count() >= 3
    });
    let said = scene.ann.ctl(&["status", "club"]).ok();
    assert!(said.out.contains("in use as two copies"), "{said:?}");
    for (at, device) in [&scene.ann, &scene.bob, &twin].into_iter().enumerate() {
        write(device, &[(["after ann", "after bob", "after twin"][at], "all goes on")]);
    }
    until("what each writes now is everywhere", || {
        tree(&scene.ann.mount).len() == found.len() + 3 && all(&scene, &twin)
    });
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
}

#[test]
fn home_restored_from_an_image_goes_on_by_itself_and_loses_nothing() {
    if !can_mount("home_restored_from_an_image_goes_on_by_itself_and_loses_nothing") {
        return;
    }
    let mut scene = Scene::new();
    Scene::put_away(&mut scene.bob);
    let image = scene.dir.path().join("image");
    copy(&scene.bob.home, &image);
    scene.bob.start();
    scene.bob.mount("club");
    write(&scene.bob, &[("after", "after the image"), ("shared/bobs", "changed after the image")]);
    scene.bob.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    Scene::put_away(&mut scene.bob);
    fs::remove_dir_all(&scene.bob.home).expect("removed");
    copy(&image, &scene.bob.home);
    // It signs before it meets anybody: the mark that would warn it was set back as well.
    scene.seeder.kill();
    scene.bob.start();
    scene.bob.mount("club");
    write(&scene.bob, &[("restored", "before it met anybody")]);
    scene.bob.stop();
    scene.seeder.start();
    scene.bob.start();
    until("both show everything", || {
        let found = tree(&scene.ann.mount);
        found.contains_key("restored") && found.contains_key("after") && tree(&scene.bob.mount) == found
    });
    assert_eq!(tree(&scene.bob.mount)["shared/bobs"], "changed after the image");
    write(&scene.bob, &[("later", "all goes on")]);
    until("Ann sees it", || tree(&scene.ann.mount).contains_key("later"));
}

/// The library that shifts a program's clock (`faketime` in Debian), where it is installed.
fn clock_shifter(test: &str) -> Option<String> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found = folders.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    if found.is_none() {
        // On a line of its own, to be counted.
        let line = format!("\nskipped: {test}: libfaketime is not installed on this machine\n");
        drop(std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()));
    }
    found.map(|path| path.to_string_lossy().into_owned())
}

/// Starts a daemon whose clock is shifted.
fn start_shifted(device: &mut Device, library: &str, shift: &str) {
    device.start_with(&[
        ("LD_PRELOAD", library),
        ("FAKETIME", shift),
        // Timeouts are measured by a clock that nobody sets.
        ("DONT_FAKE_MONOTONIC", "1"),
    ]);
}

#[test]
fn changes_of_a_clock_hours_ahead_are_held_and_told_on_both_ends() {
    let test = "changes_of_a_clock_hours_ahead_are_held_and_told_on_both_ends";
    let Some(library) = clock_shifter(test).filter(|_| can_mount(test)) else { return };
    let mut scene = Scene::new();
    scene.bob.stop();
    start_shifted(&mut scene.bob, &library, "+5h");
    scene.bob.await_mount();
    write(&scene.bob, &[("early", "five hours early")]);
    let status = |device: &Device| device.ctl(&["status", "club"]).ok().out;
    until("Ann is told", || status(&scene.ann).contains("The clock of bob is"));
    let said = status(&scene.ann);
    assert!(said.contains("its changes are held here until"), "{said}");
    assert!(!tree(&scene.ann.mount).contains_key("early"));
    until("Bob is told", || status(&scene.bob).contains("The clock of this device is"));
    // What Ann writes reaches Bob all the same, and nothing of Bob's is lost: when Ann's clock is there, it is too.
    write(&scene.ann, &[("anns too", "on time")]);
    until("Bob sees what Ann writes", || tree(&scene.bob.mount).contains_key("anns too"));
    scene.ann.stop();
    start_shifted(&mut scene.ann, &library, "+5h");
    scene.ann.await_mount();
    until("Ann sees it", || tree(&scene.ann.mount) == tree(&scene.bob.mount));
    assert!(!status(&scene.ann).contains("The clock of bob is"));
}

#[test]
fn device_that_was_removed_and_sets_its_clock_back_is_refused_and_what_it_wrote_before_stays() {
    let test = "device_that_was_removed_and_sets_its_clock_back_is_refused_and_what_it_wrote_before_stays";
    let Some(library) = clock_shifter(test).filter(|_| can_mount(test)) else { return };
    let mut scene = Scene::new();
    // Bob goes away, and is removed.
    Scene::put_away(&mut scene.bob);
    let before = tree(&scene.ann.mount);
    let said = scene.ann.ctl(&["member", "remove", "club", "bob"]).ok();
    assert!(said.out.contains("New keys are in use"), "{said:?}");
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    // Where he hears of nobody, he goes on as if it were three days ago.
    scene.seeder.kill();
    Scene::put_away(&mut scene.ann);
    start_shifted(&mut scene.bob, &library, "-3d");
    scene.bob.mount("club");
    write(&scene.bob, &[("late", "backdated"), ("shared/bobs", "changed late"), ("anns", "changed late")]);
    Scene::put_away(&mut scene.bob);
    scene.seeder.start();
    start_shifted(&mut scene.bob, &library, "-3d");
    let is_out =
        |bob: &Device| bob.ctl(&["member", "list", "club", "--json"]).ok().out.contains("\"role\":null");
    until("Bob learns of it from the seeder", || is_out(&scene.bob));
    scene.ann.start();
    scene.ann.mount("club");
    // What Ann writes now went the way that his would have gone.
    write(&scene.ann, &[("after", "without bob")]);
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    let mut wanted = before;
    wanted.insert("after".into(), "without bob".into());
    assert_eq!(tree(&scene.ann.mount), wanted, "what was written before is there, and nothing later");
    // And so it is for somebody who has everything from the seeder.
    let mut again = Device::new(scene.dir.path(), "again");
    scene.ann.stop();
    let (words, address) = (scene.dir.path().join("ann-words"), scene.seeder.address());
    let words = words.to_str().expect("a temporary path is text");
    again
        .ctl(&["recover", "--words-file", words, "--seeder", &address, "--label", "again", "--no-passphrase"])
        .ok();
    again.ctl(&["daemon", "stop"]).ok();
    again.start();
    again.mount("club");
    until("all that Ann has is there", || tree(&again.mount) == wanted);
    assert!(is_out(&scene.bob));
    again.stop();
}

#[test]
fn silent_device_is_lapsed_and_comes_back_with_the_words_and_what_nobody_had() {
    let test = "silent_device_is_lapsed_and_comes_back_with_the_words_and_what_nobody_had";
    let Some(library) = clock_shifter(test).filter(|_| can_mount(test)) else { return };
    let mut scene = Scene::new();
    let said = scene.ann.ctl(&["device", "lapse", "club", "bob"]);
    assert!(said.code == 4 && said.err.contains("silent for 90 days"), "{said:?}");
    // Bob goes away, and works where nobody hears of it.
    Scene::put_away(&mut scene.bob);
    scene.seeder.kill();
    Scene::put_away(&mut scene.ann);
    scene.bob.start();
    scene.bob.mount("club");
    write(&scene.bob, &[("alone", "nobody had this"), ("shared/bobs", "changed alone")]);
    Scene::put_away(&mut scene.bob);
    scene.seeder.start();
    start_shifted(&mut scene.ann, &library, "+100d");
    scene.ann.mount("club");
    let said = scene.ann.ctl(&["device", "lapse", "club", "bob"]).ok();
    assert!(said.out.contains("can write nothing more"), "{said:?}");
    scene.ann.stop();
    scene.ann.start();
    scene.ann.await_mount();
    scene.bob.start();
    until("Bob learns of it", || {
        scene.bob.ctl(&["member", "list", "club", "--json"]).ok().out.contains("\"role\":null")
    });
    assert!(!tree(&scene.ann.mount).contains_key("alone"));
    scene.bob.stop();
    let words = scene.dir.path().join("bob-words");
    let (words, address) = (words.to_str().expect("a temporary path is text"), scene.seeder.address());
    scene
        .bob
        .ctl(&["recover", "--words-file", words, "--seeder", &address, "--label", "bob", "--no-passphrase"])
        .ok();
    scene.bob.mount("club");
    until("Ann has what Bob wrote alone", || {
        let found = tree(&scene.ann.mount);
        found.contains_key("alone") && found == tree(&scene.bob.mount)
    });
    assert_eq!(tree(&scene.ann.mount)["shared/bobs"], "changed alone");
    let mount = scene.bob.mount.to_str().expect("a temporary path is text").to_owned();
    scene.bob.ctl(&["umount", &mount]).ok();
    scene.bob.ctl(&["daemon", "stop"]).ok();
}

/// A file that a store cannot do without is gone: nothing is opened, nothing is made anew over what is left, and it is said
/// what to do. Once the file is back all is as it was.
#[test]
fn store_without_one_of_its_files_is_left_as_it_is_by_device_and_seeder() {
    let test = "store_without_one_of_its_files_is_left_as_it_is_by_device_and_seeder";
    if !can_mount(test) {
        return;
    }
    let mut scene = Scene::new();
    scene.seeder.stop();
    Scene::put_away(&mut scene.bob);
    Scene::put_away(&mut scene.ann);
    let (data, home) = (scene.seeder.data.clone(), scene.ann.home.clone());
    let current = |db: &Path| db.join("CURRENT");
    let db_of_ann = find(&home, "CURRENT").expect("a database");
    for (db, start) in [(data.join("db"), None), (db_of_ann, Some(&scene.ann))] {
        let kept = fs::read(current(&db)).expect("reads");
        fs::remove_file(current(&db)).expect("removes");
        for _ in 0..2 {
            let said = match start {
                None => scene.seeder.run(&["run"]),
                Some(device) => device.ctl(&["daemon", "start"]),
            };
            assert!(said.code == 5 && said.err.contains("its file CURRENT is missing"), "{said:?}");
            assert!(said.err.contains("left as it is"), "{said:?}");
        }
        fs::write(current(&db), kept).expect("writes");
    }
    let identity = fs::read(data.join("identity")).expect("reads");
    fs::remove_file(data.join("identity")).expect("removes");
    let said = scene.seeder.run(&["run"]);
    assert!(said.code == 5 && said.err.contains("identity is missing"), "{said:?}");
    fs::write(data.join("identity"), &identity[..10]).expect("writes");
    let said = scene.seeder.run(&["run"]);
    assert!(said.code != 0 && said.err.contains("not a whole identity"), "{said:?}");
    fs::write(data.join("identity"), identity).expect("writes");
    scene.seeder.start();
    scene.ann.start();
    scene.ann.mount("club");
    until("all is there again", || tree(&scene.ann.mount).len() == 3);
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
}

/// The folder below `dir` in which a file of this name lies.
fn find(dir: &Path, name: &str) -> Option<std::path::PathBuf> {
    let entries: Vec<_> = fs::read_dir(dir).ok()?.filter_map(Result::ok).map(|entry| entry.path()).collect();
    if entries.iter().any(|path| path.file_name().is_some_and(|found| found == name)) {
        return Some(dir.to_owned());
    }
    entries.iter().filter(|path| path.is_dir() && !path.is_symlink()).find_map(|path| find(path, name))
}
