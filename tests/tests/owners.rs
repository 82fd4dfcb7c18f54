//! Who a seeder belongs to and what was agreed with it, as programs meet it: a claim, commands from afar,
//! admins, agreements, seed codes, and a box that is killed while it obeys.
//!
//! Every program runs in a temporary home on loopback and is ended by its own process id.
//! `COBOX_SOAK=1` kills a thousand times.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cobox_tests::load::Rng;
use cobox_tests::process::{Device, Said, Seeder, can_mount, until};
use serde_json::Value;

/// Two people's devices and a seeder; fields are dropped in this order.
struct Scene {
    ann: Device,
    bob: Device,
    seeder: Seeder,
    dir: tempfile::TempDir,
}

fn words(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}-words"))
}

fn device(dir: &Path, name: &str) -> Device {
    let mut device = Device::new(dir, name);
    let words = words(dir, name);
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", name, "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device
}

impl Scene {
    /// Ann's folder "club", Bob, and a seeder whose owner decides.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (ann, bob) = (device(dir.path(), "ann"), device(dir.path(), "bob"));
        let mut seeder = Seeder::new(dir.path(), "seeder");
        seeder.accept = "owner";
        seeder.start();
        ann.ctl(&["folder", "create", "club"]).ok();
        Self { ann, bob, seeder, dir }
    }

    fn claim_code(&self) -> String {
        let said = json(&self.seeder.run(&["claim", "--json"]).ok());
        said["code"].as_str().unwrap_or_else(|| panic!("no code: {said}")).to_owned()
    }

    /// Ann owns the seeder, and calls it "box".
    fn claimed() -> Self {
        let scene = Self::new();
        let said = scene.ann.ctl(&["seeder", "claim", &scene.claim_code(), "--name", "box"]).ok();
        assert!(said.out.contains("commands box") && said.out.contains("owner"), "{said:?}");
        scene
    }
}

fn json(said: &Said) -> Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn manage(device: &Device, order: &[&str]) -> Value {
    let line = [&["seeder", "manage", "box"], order, &["--json"]].concat();
    json(&device.ctl(&line))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn claimed_seeder_obeys_its_owner_and_her_admins_as_far_as_their_rank_goes() {
    let scene = Scene::new();
    let code = scene.claim_code();
    assert_eq!(scene.claim_code(), code, "it is the same until it is used");
    scene.ann.ctl(&["seeder", "claim", &code, "--name", "box"]).ok();
    let said = scene.bob.ctl(&["seeder", "claim", &code, "--name", "box"]);
    assert_eq!(said.code, 4, "a code is good once: {said:?}");
    assert!(json(&scene.seeder.run(&["claim", "--json"]).ok())["code"].is_null());

    // What waits is taken from afar.
    let said = scene.ann.ctl(&["seeder", "add", "club", &scene.seeder.address(), "--quota", "1G"]).ok();
    assert!(said.out.contains("accept"), "it waits: {said:?}");
    let report = manage(&scene.ann, &["report"]);
    let id = list(&report["answer"], "waiting")[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(manage(&scene.ann, &["seed", &id])["outcome"], "done");
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    let lower = manage(&scene.ann, &["quota", "club", "500M"]);
    assert_eq!(lower["outcome"], "done", "{lower}");
    let status = manage(&scene.ann, &["status"]);
    assert_eq!(status["answer"]["folders"][0]["quota_bytes"], 500 << 20, "{status}");

    // A watcher looks and does nothing else, and is logged when trying.
    let added = manage(&scene.ann, &["admins", "add", "--name", "for bob", "--rank", "watcher"]);
    let code = added["code"].as_str().expect("a code").to_owned();
    scene.bob.ctl(&["seeder", "claim", &code, "--name", "box"]).ok();
    assert_eq!(manage(&scene.bob, &["status"])["outcome"], "done");
    let said = scene.bob.ctl(&["seeder", "manage", "box", "pause"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.out.contains("may not order this"), "{said:?}");
    let report = manage(&scene.ann, &["report"]);
    let refused = list(&report["answer"], "refused").last().expect("it is reported").clone();
    assert_eq!((&refused["name"], &refused["what"]), (&"bob".into(), &"pause".into()), "{refused}");

    // Dismissed, he is told so; the last owner cannot go.
    let admins = manage(&scene.ann, &["admins", "list"])["answer"].clone();
    let key = |rank: &str| {
        let found = list(&admins, "admins").iter().find(|admin| admin["rank"] == rank);
        found.expect("an admin")["key"].as_str().expect("text").to_owned()
    };
    let said = scene.ann.ctl(&["seeder", "manage", "box", "admins", "remove", &key("owner")]);
    assert_eq!(said.code, 4, "{said:?}");
    assert_eq!(manage(&scene.ann, &["admins", "remove", &key("watcher")])["outcome"], "done");
    let refused = manage(&scene.bob, &["status"]);
    assert_eq!(refused["outcome"], "refused", "{refused}");
    assert!(refused["answer"]["text"].as_str().expect("text").contains("dismissed"), "{refused}");

    // Paused, it takes part in nothing; then it goes on.
    assert_eq!(manage(&scene.ann, &["pause"])["outcome"], "done");
    assert_eq!(manage(&scene.ann, &["status"])["answer"]["paused"], true);
    assert_eq!(manage(&scene.ann, &["resume"])["outcome"], "done");
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    assert_eq!(manage(&scene.ann, &["unseed", "club"])["outcome"], "done");
    let status = manage(&scene.ann, &["status"]);
    assert_eq!(status["answer"]["folders"][0]["leaving"]["why"], "unseeded", "{status}");
}

#[test]
fn owner_who_lost_the_device_comes_back_with_the_words_or_from_the_console() {
    let mut scene = Scene::claimed();
    scene.ann.ctl(&["seeder", "add", "club", &scene.seeder.address(), "--quota", "1G"]).ok();
    let id = list(&json(&scene.seeder.run(&["pending", "--json"]).ok()), "grants")[0]["id"].clone();
    assert_eq!(manage(&scene.ann, &["seed", id.as_str().expect("text")])["outcome"], "done");
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    scene.ann.kill();
    fs::remove_dir_all(&scene.ann.home).expect("the home is removed");

    let again = Device::new(scene.dir.path(), "again");
    let words = words(scene.dir.path(), "ann");
    let words = words.to_str().expect("text");
    let address = scene.seeder.address();
    let recover =
        ["recover", "--words-file", words, "--seeder", &address, "--label", "new", "--no-passphrase"];
    again.ctl(&recover).ok();
    let _stop = Autostarted(&again);
    let claim = ["seeder", "claim", "--words-file", words, "--seeder", &address, "--name", "box"];
    let said = again.ctl(&claim).ok();
    assert!(said.out.contains("owner"), "{said:?}");
    let admins = manage(&again, &["admins", "list"])["answer"].clone();
    let ranks: Vec<&str> =
        list(&admins, "admins").iter().filter_map(|admin| admin["rank"].as_str()).collect();
    assert_eq!((ranks.len(), ranks.contains(&"dismissed")), (2, true), "the lost device commands no more");
    // Bob has other words.
    let bobs = self::words(scene.dir.path(), "bob");
    let bobs = bobs.to_str().expect("text");
    let said =
        scene.bob.ctl(&["seeder", "claim", "--words-file", bobs, "--seeder", &address, "--name", "box"]);
    assert_eq!(said.code, 4, "{said:?}");

    // Whoever has the box's console can always begin anew.
    let code = json(&scene.seeder.run(&["claim", "--reset", "--json"]).ok())["code"].clone();
    assert_eq!(manage(&again, &["status"])["outcome"], "refused");
    scene.bob.ctl(&["seeder", "claim", code.as_str().expect("a code"), "--name", "box"]).ok();
    assert_eq!(manage(&scene.bob, &["status"])["outcome"], "done");
}

/// Ends the daemon that a verb started by itself.
struct Autostarted<'a>(&'a Device);

impl Drop for Autostarted<'_> {
    fn drop(&mut self) {
        drop(self.0.ctl(&["daemon", "stop", "--force"]));
    }
}

fn stage(device: &Device) -> String {
    let said = json(&device.ctl(&["agreement", "list", "club", "--json"]).ok());
    list(&said, "agreements").first().map_or(String::new(), |view| view["stage"].to_string())
}

#[test]
fn agreement_is_one_text_that_both_sides_signed_and_the_machines_enforce() {
    if !can_mount("agreement_is_one_text_that_both_sides_signed_and_the_machines_enforce") {
        return;
    }
    let scene = Scene::new();
    let address = scene.seeder.address();
    let propose = |quota: &str, more: &[&str]| {
        let line = ["agreement", "propose", "club", &address, "--quota", quota, "--notice", "2s"];
        scene.ann.ctl(&[&line, more].concat())
    };
    assert_eq!(propose("1M", &["--until", "2001-01-01"]).code, 2, "an end that has been makes no sense");
    propose("1M", &["--place", "Leipzig", "--organisation", "Kollektiv", "--contact", "box@example.org"])
        .ok();

    // The owner reads what is to be signed, and signs exactly that.
    let mut pending = Value::Null;
    until("the terms wait", || {
        pending = json(&scene.seeder.run(&["pending", "--json"]).ok());
        !list(&pending, "grants").is_empty()
    });
    let grant = &list(&pending, "grants")[0];
    assert_eq!(grant["agreement"]["place"], "Leipzig", "{grant}");
    let shown = scene.seeder.run(&["pending"]).ok().out;
    assert!(shown.contains("Leipzig") && shown.contains("1.0 MiB") && shown.contains("Hash"), "{shown}");
    scene.seeder.run(&["agreement", "accept", grant["id"].as_str().expect("text")]).ok();
    until("both have signed", || stage(&scene.ann) == "\"agreed\"");
    let ours = json(&scene.ann.ctl(&["agreement", "list", "club", "--json"]).ok());
    let theirs = json(&scene.seeder.run(&["agreement", "list", "--json"]).ok());
    for field in ["id", "signed_bytes", "seeder_signature", "record", "stage", "place", "notice_ms"] {
        assert_eq!(ours["agreements"][0][field], theirs["agreements"][0][field], "{field}");
    }
    let text = scene.ann.ctl(&["agreement", "show", "club"]).ok().out;
    let theirs =
        scene.seeder.run(&["agreement", "show", ours["agreements"][0]["folder"].as_str().expect("id")]);
    assert_eq!(text.trim(), theirs.ok().out.trim(), "one document");
    let seeders = json(&scene.ann.ctl(&["seeder", "list", "club", "--json"]).ok());
    assert_eq!(seeders["seeders"][0]["organisation"], "Kollektiv", "{seeders}");

    limits_are_told_and_hold(&scene);
    end_by_notice(&scene);
}

fn limits_are_told_and_hold(scene: &Scene) {
    // 80 and 95 % are told on both sides, to the member once each also by the alarm's program, and the quota is hard.
    let (hook, told) = (scene.dir.path().join("hook"), scene.dir.path().join("told"));
    fs::write(&hook, format!("#!/bin/sh\nexec cat >>{}\n", told.display())).expect("writes");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).expect("sets the mode");
    scene.ann.ctl(&["alarm", "set", "--run", hook.to_str().expect("text")]).ok();
    let notices = || fs::read_to_string(&told).unwrap_or_default().matches("\"what\":\"quota\"").count();
    scene.ann.mount("club");
    let mut rng = Rng::new(3);
    let mut fill = |name: &str, bytes: usize, word: &str| {
        fs::write(scene.ann.mount.join(name), rng.bytes(bytes)).expect("writes");
        until("both sides are warned", || {
            let status = json(&scene.ann.ctl(&["status", "club", "--json"]).ok());
            let told = list(&status["folders"][0], "alarms")
                .iter()
                .any(|alarm| alarm["what"].as_str().is_some_and(|what| what.contains(word)));
            let theirs = json(&scene.seeder.run(&["status", "--json"]).ok());
            told && list(&theirs["folders"][0], "warnings")
                .iter()
                .any(|said| said.as_str().is_some_and(|said| said.contains(word)))
        });
    };
    fill("a", 860_000, "of the quota are used");
    until("80 % are told", || notices() == 1);
    fill("b", 130_000, "does not fit is refused");
    until("95 % are told", || notices() == 2);
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    fs::write(scene.ann.mount.join("c"), Rng::new(4).bytes(400_000)).expect("writes");
    until("more than was agreed is not taken", || {
        let seeders = json(&scene.ann.ctl(&["seeder", "list", "club", "--json"]).ok());
        let problem = seeders["seeders"][0]["problem"].as_str().unwrap_or_default().to_owned();
        seeders["seeders"][0]["entries_behind"] != 0 || problem.contains("quota")
    });
    let theirs = json(&scene.seeder.run(&["status", "--json"]).ok());
    let used = |name: &str| theirs["folders"][0][name].as_u64().expect("a number");
    assert!(used("pack_bytes") + used("entry_bytes") <= 1 << 20, "{theirs}");
    assert_eq!(notices(), 2);
    let report = json(&scene.seeder.run(&["report", "--json"]).ok());
    let note = &report["folders"][0];
    assert!(note["heard_ms"].as_u64().is_some(), "{report}");
    assert!(note["warnings"][0].as_str().is_some_and(|said| said.contains("of the quota")), "{report}");
}

fn end_by_notice(scene: &Scene) {
    // Less than was agreed needs another agreement; an end needs notice, and something to take its place.
    let code = json(&scene.seeder.run(&["claim", "--json"]).ok())["code"].clone();
    scene.ann.ctl(&["seeder", "claim", code.as_str().expect("a code"), "--name", "box"]).ok();
    let said = scene.ann.ctl(&["seeder", "manage", "box", "quota", "club", "500K"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert_eq!(scene.ann.ctl(&["seeder", "manage", "box", "unseed", "club"]).code, 4);
    let said = scene.ann.ctl(&["agreement", "end", "club", "12D3"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("must be with another seeder first"), "{said:?}");
    let ended = json(&scene.ann.ctl(&["agreement", "end", "club", "12D3", "--force", "--json"]).ok());
    assert_eq!(ended["agreements"][0]["notice"]["by"], "folder", "{ended}");
    until("its time is over on both sides", || {
        let theirs = json(&scene.seeder.run(&["status", "--json"]).ok());
        stage(&scene.ann) == "\"ended\"" && theirs["folders"][0]["leaving"]["why"] == "ended"
    });
}

#[test]
fn terms_of_a_held_folder_are_declined_signed_and_ended_by_the_seeder() {
    let scene = Scene::claimed();
    let address = scene.seeder.address();
    scene.ann.ctl(&["seeder", "add", "club", &address, "--quota", "1G"]).ok();
    let waiting = || list(&manage(&scene.ann, &["report"])["answer"], "waiting").first().cloned();
    let id = waiting().expect("it waits")["id"].as_str().expect("text").to_owned();
    assert_eq!(manage(&scene.ann, &["seed", &id])["outcome"], "done");
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();

    let propose = |quota: &str| {
        scene.ann.ctl(&["agreement", "propose", "club", "12D3", "--quota", quota, "--notice", "1s"]).ok();
        let mut found = None;
        until("the terms wait", || {
            found = waiting();
            found.is_some()
        });
        found.expect("it waits")["id"].as_str().expect("text").to_owned()
    };
    let id = propose("3G");
    assert_eq!(manage(&scene.ann, &["refuse", &id])["outcome"], "done");
    until("the folder's side knows that it was declined", || stage(&scene.ann) == "\"declined\"");
    let id = propose("2G");
    assert_eq!(manage(&scene.ann, &["seed", &id])["outcome"], "done");
    until("both have signed", || stage(&scene.ann) == "\"agreed\"");
    // Asking for the same again changes nothing, and there is nothing to accept.
    assert_eq!(scene.ann.ctl(&["agreement", "accept", "club", "00"]).code, 1);

    let said = manage(&scene.ann, &["end-agreement", "club"]);
    assert_eq!(said["outcome"], "done", "{said}");
    until("the seeder's notice is in the access log, and its time over", || {
        let list = json(&scene.ann.ctl(&["agreement", "list", "club", "--json"]).ok());
        list["agreements"][0]["notice"]["by"] == "seeder" && list["agreements"][0]["stage"] == "ended"
    });
}

#[test]
fn seed_code_brings_one_more_seeder_and_is_good_once() {
    let mut scene = Scene::new();
    scene.seeder.kill();
    scene.seeder.accept = "any";
    scene.seeder.start();
    scene.ann.ctl(&["seeder", "add", "club", &scene.seeder.address(), "--quota", "1G"]).ok();
    let said = json(&scene.ann.ctl(&["seeder", "code", "club", "--quota", "300M", "--json"]).ok());
    let code = said["code"].as_str().expect("a code").to_owned();
    assert!(code.starts_with("coboxseed1") && !code.contains("club"), "{code}");
    let mut second = Seeder::new(scene.dir.path(), "second");
    second.accept = "owner";
    second.start();
    let said = json(&second.run(&["seed", &code, "--json"]).ok());
    assert_eq!(said["quota_bytes"], 300 << 20, "{said}");
    scene.ann.ctl(&["wait", "club", "--copies", "2", "--timeout", "60s"]).ok();
    let codes = json(&scene.ann.ctl(&["seeder", "code", "club", "--list", "--json"]).ok());
    assert_eq!(codes["codes"][0]["state"], "used", "{codes}");
    assert_eq!(second.run(&["seed", "coboxseed1nonsense"]).code, 1);
    let code = json(&scene.ann.ctl(&["seeder", "code", "club", "--quota", "1G", "--json"]).ok());
    let voided = scene.ann.ctl(&["seeder", "code", "club", "--void", code["code"].as_str().expect("a code")]);
    assert!(voided.ok().out.contains("void"));
}

/// Numbers of commands that the seeder's log says it began to carry out, and how often.
fn obeyed(log: &Path) -> BTreeMap<u64, u32> {
    let text = fs::read_to_string(log).expect("the log is there");
    let mut counts = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains("obeying a command")) {
        let seq = line.split("seq=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        *counts.entry(seq.expect("a number")).or_default() += 1;
    }
    counts
}

#[test]
fn seeder_killed_while_it_obeys_does_nothing_twice_and_reports_everything() {
    let rounds = if std::env::var_os("COBOX_SOAK").is_some() { 1000 } else { 20 };
    let mut scene = Scene::claimed();
    let seed = std::env::var("COBOX_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_128);
    println!("COBOX_SEED={seed}");
    let mut rng = Rng::new(seed);
    let mut cut = 0;
    for round in 0..rounds {
        let order = if round % 2 == 0 { "pause" } else { "resume" };
        let mut asking = scene.ann.command(&["seeder", "manage", "box", order, "--json"]);
        let asking = std::thread::spawn(move || cobox_tests::process::run(&mut asking));
        // A command takes some 30 ms from the program's start to its answer: the kill falls anywhere in that.
        let pause = u64::from(rng.bytes(1)[0]) * 250;
        std::thread::park_timeout(std::time::Duration::from_micros(pause));
        scene.seeder.kill();
        scene.seeder.start();
        let said = asking.join().expect("joins");
        let outcome = json(&said)["outcome"].clone();
        // The command is sent again on the next connection by itself, and answered in any case.
        assert!(outcome == "done" || outcome == "interrupted", "{said:?}");
        cut += u32::from(outcome == "interrupted");
    }
    println!("{cut} of {rounds} commands were cut off");
    let log = scene.seeder.data.with_extension("log");
    let counts = obeyed(&log);
    assert!(counts.len() as u64 >= rounds - u64::from(cut), "what is said to be done was: {counts:?}");
    assert!(counts.values().all(|times| *times == 1), "none was carried out twice: {counts:?}");
    let report = manage(&scene.ann, &["report"]);
    let known = list(&report["answer"], "commands");
    let kept = usize::try_from(rounds).expect("small").min(60);
    assert!(known.len() >= kept, "each is reported: {report}");
    assert!(known.iter().all(|taken| taken["outcome"] != "begun" || taken["what"] == "report"), "{report}");
}
