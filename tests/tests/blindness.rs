//! What a seeder stores and what crosses the wire hold nothing that a member knows.
//!
//! Canary strings stand in names, contents, symbolic links, extended attributes, labels and the
//! passphrase; with the words and the device's key file they are searched, raw and in three
//! encodings, in the seeder's decoded values, in its raw files, in every frame before transport
//! encryption, and in all logs. The search itself is shown to find a canary that is let through.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use cobox_store::blind::{Store, StoreKind};
use cobox_tests::load::Rng;
use cobox_tests::process::{Device, Seeder, can_mount, run};

/// A needle in each of its encodings.
fn encodings(needle: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = needle.iter().map(|byte| format!("{byte:02x}")).collect();
    let wide: Vec<u8> = needle.iter().flat_map(|byte| [*byte, 0]).collect();
    let mut all = vec![needle.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes(), wide];
    // Base64 depends on where in a group of three the needle begins; its inner digits are searched.
    for before in 0..3 {
        let padded = [vec![0; before], needle.to_vec()].concat();
        let digits = base64(&padded);
        let inner = &digits[(before * 8).div_ceil(6)..padded.len() * 8 / 6];
        all.push(inner.to_vec());
    }
    all
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    (0..bytes.len() * 8)
        .step_by(6)
        .map(|start| DIGITS[(start..start + 6).fold(0, |digit, at| digit << 1 | usize::from(bit(at)))])
        .collect()
}

fn finds(haystack: &[u8], needles: &[Vec<u8>]) -> bool {
    needles.iter().any(|needle| {
        let first = needle[0];
        haystack.iter().enumerate().any(|(at, byte)| *byte == first && haystack[at..].starts_with(needle))
    })
}

/// Everything under `dir`, as it is on the disk.
fn raw_files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("lists").map(|entry| entry.expect("lists").path()));
        } else if path.is_file() {
            found.push((path.display().to_string(), fs::read(&path).expect("reads")));
        }
    }
    found
}

/// Every key and value of the closed seeder's store, and every byte of its packs.
fn decoded_values(data: &Path) -> Vec<(String, Vec<u8>)> {
    let store = Store::open(data, StoreKind::Seeder).expect("the seeder's store opens");
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        found.push((format!("row {key:02x?}"), [key, value].concat()));
        ControlFlow::Continue(())
    };
    store.db().scan(&[], &[], &mut visit).expect("scans");
    for (no, _) in store.folders().expect("folders") {
        let mut packs = Vec::new();
        store.packs_live(no, &mut |pack, _| packs.push(pack)).expect("packs");
        for pack in packs {
            let len = usize::try_from(pack.size).expect("fits");
            let bytes = store.pack_range(no, pack.id, 0, len).expect("reads").expect("is complete");
            found.push((format!("pack {}", pack.id), bytes));
        }
    }
    found
}

fn search(places: &[(String, Vec<u8>)], canaries: &[(String, Vec<u8>)]) -> Vec<String> {
    let mut hits = Vec::new();
    for (what, canary) in canaries {
        let needles = encodings(canary);
        let found = places.iter().filter(|(_, bytes)| finds(bytes, &needles));
        hits.extend(found.map(|(place, _)| format!("{what} in {place}")));
    }
    hits
}

#[test]
fn search_finds_a_canary_in_every_encoding() {
    let canary = b"canary-0123456789".to_vec();
    for needle in encodings(&canary) {
        let place = [b"some bytes before ".to_vec(), needle, b" and after".to_vec()].concat();
        let hits = search(&[("place".to_owned(), place)], &[("canary".to_owned(), canary.clone())]);
        assert_eq!(hits, ["canary in place"]);
    }
}

/// All that a seeder stores, what both ends say in their logs, and every frame between them.
fn all_places(seeder: &Seeder, device: &Device, tap: &Path) -> Vec<(String, Vec<u8>)> {
    [
        raw_files(&seeder.data),
        decoded_values(&seeder.data),
        raw_files(&seeder.data.with_extension("log")),
        raw_files(&device.home.with_extension("log")),
        raw_files(&device.home.join("log")),
        raw_files(tap),
    ]
    .concat()
}

/// How the device's keys are locked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Passphrase,
    KeyFile,
}

#[test]
fn seeder_and_wire_show_no_canary() {
    if can_mount("seeder_and_wire_show_no_canary") {
        search_what_a_device_leaves(Lock::Passphrase);
    }
}

#[test]
fn seeder_and_wire_show_nothing_of_a_key_file() {
    if can_mount("seeder_and_wire_show_nothing_of_a_key_file") {
        search_what_a_device_leaves(Lock::KeyFile);
    }
}

/// Makes the device, with a passphrase that is a canary or with a key file.
fn set_up(
    device: &mut Device,
    lock: Lock,
    [label, words]: [&str; 2],
    canary: &mut dyn FnMut(&str) -> String,
) {
    let mut init = vec!["init", "--label", label, "--words-out", words];
    match lock {
        Lock::Passphrase => {
            let file = device.home.with_extension("passphrase");
            fs::write(&file, canary("passphrase")).expect("writes");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("closes");
            device.passphrase_file = Some(file);
        }
        Lock::KeyFile => init.push("--no-passphrase"),
    }
    device.ctl(&init).ok();
}

fn search_what_a_device_leaves(lock: Lock) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut rng = Rng::new(std::process::id().into());
    let mut canaries: Vec<(String, Vec<u8>)> = Vec::new();
    let mut canary = |what: &str| {
        let text = format!("canary{:016x}{:08x}", rng.draw(), rng.draw() as u32);
        canaries.push((what.to_owned(), text.clone().into_bytes()));
        text
    };
    let tap = dir.path().join("frames");
    let taps = [("COBOX_FRAME_TAP", tap.to_str().expect("text")), ("COBOX_LOG", "trace")];

    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start_with(&taps);
    let mut device = Device::new(dir.path(), "device");
    let words = dir.path().join("words");
    let (label, folder) = (canary("device label"), canary("folder name"));
    set_up(&mut device, lock, [&label, words.to_str().expect("text")], &mut canary);
    device.start_with(&taps);
    device.ctl(&["folder", "create", &folder]).ok();
    device.ctl(&["seeder", "add", &folder, &seeder.address(), "--quota", "1G"]).ok();
    device.mount(&folder);

    let below = device.mount.join(canary("directory name"));
    fs::create_dir(&below).expect("makes a directory");
    let file = below.join(canary("file name"));
    fs::write(&file, canary("short content")).expect("writes");
    let long = canary("long content");
    // Incompressible around the canary, so that as many bytes travel as were written.
    let mut noise = Rng::new(1);
    let text: Vec<u8> =
        (0..1000).flat_map(|_| [noise.bytes(1000), long.clone().into_bytes()].concat()).collect();
    fs::write(below.join("long"), text).expect("writes");
    symlink(canary("link target"), below.join("link")).expect("links");
    let value = canary("xattr value");
    let attribute = format!("user.{}", canary("xattr name"));
    run(std::process::Command::new("setfattr").args(["-n", &attribute, "-v", &value]).arg(&file)).ok();
    fs::rename(&file, below.join(canary("new name"))).expect("renames");
    device.ctl(&["wait", &folder, "--copies", "1", "--timeout", "60s"]).ok();
    device.stop();
    seeder.kill();

    // The words in order, and the bytes of the key file.
    canaries.push(("the words".to_owned(), fs::read_to_string(&words).expect("reads").trim().into()));
    for (path, bytes) in raw_files(&device.home).into_iter().filter(|(path, _)| path.ends_with("/key")) {
        canaries.push((format!("key file {path}"), bytes.iter().copied().take(64).collect()));
    }
    let places = all_places(&seeder, &device, &tap);
    let searched: usize = places.iter().map(|(_, bytes)| bytes.len()).sum();
    let frames = fs::metadata(&tap).map_or(0, |data| data.len());
    println!("{} canaries, {searched} bytes in {} places, {frames} of frames", canaries.len(), places.len());
    let lock_is_searched = match lock {
        Lock::Passphrase => canaries.iter().any(|(what, _)| what == "passphrase"),
        Lock::KeyFile => canaries.iter().any(|(what, _)| what.starts_with("key file")),
    };
    assert!(lock_is_searched);
    assert!(frames > 1_000_000, "the frames were not recorded");
    assert_eq!(search(&places, &canaries), Vec::<String>::new());

    // The same search over the same places finds what is let through on purpose.
    let store = Store::open(&seeder.data, StoreKind::Seeder).expect("the seeder's store opens");
    store.setting_put(cobox_store::id::FolderNo(0), "let-through", &canaries[3].1).expect("writes");
    drop(store);
    let hits = search(&[raw_files(&seeder.data), decoded_values(&seeder.data)].concat(), &canaries);
    assert!(hits.len() > 1, "a canary that was let through was not found: {hits:?}");
}
