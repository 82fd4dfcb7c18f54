//! Seeders and devices that get another address find each other again, and nobody types a command for it.

use std::fs;

use cobox_tests::group::{FOLDER, Group};
use cobox_tests::process::{Device, Said, Seeder, free_port, until};

fn json(said: &Said) -> serde_json::Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// Whether a device is connected with all seeders of its folder.
fn is_connected(device: &Device, folder: &str) -> bool {
    let shown = json(&device.ctl(&["folder", "show", folder, "--json"]).ok());
    let seeders = shown["seeders"].as_array().expect("seeders");
    !seeders.is_empty() && seeders.iter().all(|seeder| seeder["link"] == "connected")
}

fn until_apart(device: &Device, folder: &str) {
    until("the connection is known to be gone", || !is_connected(device, folder));
}

#[test]
fn seeder_that_is_started_on_another_port_is_found_without_a_command() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = Device::set_up(dir.path(), "device");
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let before = seeder.address();
    seeder.stop();
    until_apart(&device, "docs");
    seeder.listen_at(&[format!("/ip4/127.0.0.1/tcp/{}", free_port())]);
    seeder.start();
    until("ADDR is another one", || seeder.address() != before);
    until("the seeder is found", || is_connected(&device, "docs"));
    device.ctl(&["seeder", "audit", "docs"]).ok();
    // An invite names the new place.
    let code = device.ctl(&["folder", "invite", "docs", "--role", "read", "--json"]).ok();
    assert!(json(&code)["hints"].as_u64() > Some(0));
    // The device knows it from now on, whoever begins.
    device.stop();
    device.start();
    until("the device finds the seeder", || is_connected(&device, "docs"));
    seeder.stop();
    until_apart(&device, "docs");
    seeder.start();
    until("the device finds it where it was", || is_connected(&device, "docs"));
}

#[test]
fn machines_that_are_renumbered_find_each_other_also_when_both_are() {
    let test = "machines_that_are_renumbered_find_each_other_also_when_both_are";
    let Some(mut group) = Group::alone(test) else { return };
    let everywhere = ["/ip4/0.0.0.0/tcp/7740".to_owned(), "/ip4/0.0.0.0/udp/7740/quic-v1".to_owned()];
    let mut seeders = Vec::new();
    for name in ["moves", "stays"] {
        let host = group.lan.host(name);
        let mut seeder = Seeder::on(group.dir.path(), name, &host);
        seeder.listen_at(&everywhere);
        seeder.start();
        group.devices[0].ctl(&["seeder", "add", FOLDER, &seeder.address(), "--quota", "1G"]).ok();
        seeders.push((seeder, host));
    }
    let wait = |group: &Group, number: &str| {
        fs::write(group.mount(0).join(number), vec![7; 100_000]).expect("writes");
        group.devices[0].ctl(&["wait", FOLDER, "--copies", "2", "--timeout", "115s"]).ok();
    };
    wait(&group, "first");
    // Its router gave it another address. The programs are not told.
    let (_, moves) = seeders.first_mut().expect("two seeders");
    moves.renumber(70);
    wait(&group, "second");
    // And both another one, at once.
    moves.renumber(71);
    group.hosts[0].renumber(72);
    wait(&group, "third");
}
