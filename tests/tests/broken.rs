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
