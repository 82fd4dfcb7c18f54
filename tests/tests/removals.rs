//! Seeders and the people they belong to, as programs: how a grant ends.
//!
//! Every program runs in a temporary home on loopback and is ended by its own process id.

use std::path::Path;

use cobox_tests::process::{Device, Said, Seeder, until};

/// A device and a seeder in one temporary folder; fields are dropped in this order.
struct Scene {
    ann: Device,
    seeder: Seeder,
    dir: tempfile::TempDir,
}

fn device(dir: &Path, name: &str) -> Device {
    let mut device = Device::new(dir, name);
    let words = dir.join(format!("{name}-words"));
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", name, "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device
}

impl Scene {
    /// Ann's folder "club", which a seeder holds and has proved.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ann = device(dir.path(), "ann");
        let mut seeder = Seeder::new(dir.path(), "seeder");
        seeder.start();
        ann.ctl(&["folder", "create", "club"]).ok();
        ann.ctl(&["seeder", "add", "club", &seeder.address(), "--quota", "1G"]).ok();
        ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
        Self { ann, seeder, dir }
    }

    /// `null` while it starts and does not answer yet.
    fn seeder_status(&self) -> serde_json::Value {
        let said = self.seeder.run(&["status", "--json"]);
        if said.code == 0 { json(&said) } else { serde_json::Value::Null }
    }
}

fn json(said: &Said) -> serde_json::Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

#[test]
fn seeder_that_was_removed_knows_it_takes_nothing_more_and_keeps_what_it_has() {
    let scene = Scene::new();
    let said = scene.ann.ctl(&["seeder", "remove", "club", "12D3"]);
    assert_eq!(said.code, 4, "the last copy does not go unasked: {said:?}");
    assert!(said.err.contains("0 proved copies") && said.err.contains("seeder add"), "{said:?}");
    assert_eq!(scene.ann.ctl(&["seeder", "remove", "club", "nobody", "--force"]).code, 1);

    let said = json(&scene.ann.ctl(&["seeder", "remove", "club", "12D3", "--force", "--json"]).ok());
    assert_eq!((&said["told"], &said["copies_left"]), (&true.into(), &0.into()), "{said}");
    let list = json(&scene.ann.ctl(&["seeder", "list", "club", "--json"]).ok());
    assert_eq!(list["seeders"], serde_json::json!([]), "{list}");
    let status = json(&scene.ann.ctl(&["status", "--json"]).ok());
    assert_eq!(status["folders"][0]["copies_proved"], 0, "{status}");
    until("the seeder says that it leaves", || {
        scene.seeder_status()["folders"][0]["leaving"]["why"] == "revoked"
    });
    assert!(scene.seeder_status()["folders"][0]["entry_bytes"].as_u64().is_some());

    // A new grant brings it back, with what it has.
    scene.ann.ctl(&["seeder", "add", "club", &scene.seeder.address(), "--quota", "1G"]).ok();
    scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "60s"]).ok();
    assert_eq!(scene.seeder_status()["folders"][0]["leaving"], serde_json::Value::Null);
    drop(scene.dir);
}

#[test]
fn seeder_that_was_off_when_it_was_removed_learns_of_it_later() {
    let mut scene = Scene::new();
    scene.seeder.kill();
    let said = scene.ann.ctl(&["seeder", "remove", "club", "12D3", "--force", "--json"]).ok();
    assert_eq!(json(&said)["told"], false, "{said:?}");
    scene.seeder.start();
    until("the seeder says that it leaves", || {
        scene.seeder_status()["folders"][0]["leaving"]["why"] == "revoked"
    });
    // And it is not called any more: nobody is connected once the session was closed.
    until("nobody calls it any more", || scene.seeder_status()["folders"][0]["peers"] == 0);
}

#[test]
fn folder_that_the_seeders_owner_let_go_counts_as_no_copy_until_the_owner_takes_it_again() {
    let scene = Scene::new();
    let code = json(&scene.seeder.run(&["claim", "--json"]).ok())["code"].clone();
    scene.ann.ctl(&["seeder", "claim", code.as_str().expect("a code"), "--name", "box"]).ok();
    scene.ann.ctl(&["health", "club"]).ok();
    scene.ann.ctl(&["seeder", "manage", "box", "unseed", "club"]).ok();
    until("health is red", || scene.ann.ctl(&["health", "club"]).code == 1);
    for verb in ["health", "status"] {
        let said = scene.ann.ctl(&[verb, "club"]);
        assert!(said.out.contains("let the folder go") && said.out.contains("no earlier than"), "{said:?}");
        assert!(!said.out.contains("quota or its disk"), "{said:?}");
    }
    let said = scene.ann.ctl(&["wait", "club", "--copies", "1", "--timeout", "5s"]);
    assert!(said.code == 3 && said.err.contains("let the folder go"), "{said:?}");
    let said = scene.ann.ctl(&["wait", "club", "--copies", "1"]);
    assert!(said.code == 3 && said.err.contains("Waiting longer brings no more"), "{said:?}");

    // A grant of the very same size asks its owner, whatever rule it has, and goes on asking.
    for _ in 0..2 {
        let said = scene.ann.ctl(&["seeder", "add", "club", &scene.seeder.address(), "--quota", "1G"]).ok();
        assert!(said.out.contains("let this folder go") && said.out.contains("accept"), "{said:?}");
        assert!(!said.out.contains("It accepted"), "{said:?}");
    }
    assert_eq!(scene.ann.ctl(&["health", "club"]).code, 1);
    let mut id = serde_json::Value::Null;
    until("the grant waits at the seeder", || {
        id = json(&scene.seeder.run(&["pending", "--json"]).ok())["grants"][0]["id"].clone();
        id.is_string()
    });
    scene.seeder.run(&["accept", id.as_str().expect("text")]).ok();
    until("health is green again", || scene.ann.ctl(&["health", "club"]).code == 0);
    assert_eq!(scene.seeder_status()["folders"][0]["leaving"], serde_json::Value::Null);
}

#[test]
fn seeder_with_an_agreement_is_not_removed_before_its_notice_has_passed() {
    let scene = Scene::new();
    let terms = ["agreement", "propose", "club", "12D3", "--quota", "1G", "--notice", "30d"];
    scene.ann.ctl(&terms).ok();
    until("both have signed", || {
        let list = json(&scene.ann.ctl(&["agreement", "list", "club", "--json"]).ok());
        list["agreements"][0]["stage"] == "agreed"
    });
    let said = scene.ann.ctl(&["seeder", "remove", "club", "12D3", "--force"]);
    assert!(said.code == 4 && said.err.contains("cobox-ctl agreement end club"), "{said:?}");
    let status = json(&scene.ann.ctl(&["status", "--json"]).ok());
    assert_eq!(status["folders"][0]["copies_proved"], 1, "{status}");
    scene.ann.ctl(&["agreement", "end", "club", "12D3", "--force"]).ok();
    let said = scene.ann.ctl(&["seeder", "remove", "club", "12D3", "--force"]);
    assert!(said.code == 4 && said.err.contains("Notice"), "its notice runs: {said:?}");
}
