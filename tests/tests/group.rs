//! Devices of one folder on hosts of their own, as real programs: who finds whom, what is carried over whom, and
//! what happens when cables are pulled.

use std::fs;
use std::path::Path;

use cobox_tests::group::{FOLDER, Group};
use cobox_tests::load::Rng;
use cobox_tests::process::{Device, until};
use serde_json::Value;

const MIB: usize = 1 << 20;

fn reads(dir: &Path, name: &str, content: &str) -> bool {
    fs::read_to_string(dir.join(name)).is_ok_and(|found| found == content)
}

/// `peers` of a device for the folder.
fn peers(device: &Device) -> Value {
    let said = device.ctl(&["peers", FOLDER, "--json"]).ok();
    let all: Value = serde_json::from_str(&said.out).expect("JSON");
    all["folders"][0].clone()
}

fn connected(device: &Device) -> usize {
    let all = peers(device);
    let devices = all["devices"].as_array().expect("a list");
    devices.iter().filter(|peer| peer["link"] == "connected").count()
}

fn missing(device: &Device) -> u64 {
    let said = device.ctl(&["status", FOLDER, "--json"]).ok();
    let all: Value = serde_json::from_str(&said.out).expect("JSON");
    all["folders"][0]["local"]["packs_missing"].as_u64().expect("a number")
}

/// Everybody writes, and everybody sees it.
fn all_write_and_see(group: &Group, what: &str) {
    for at in 0..group.devices.len() {
        fs::write(group.mount(at).join(format!("{what} {at}")), what).expect("writes");
    }
    for at in 0..group.devices.len() {
        for by in 0..group.devices.len() {
            let name = format!("{what} {by}");
            until(&format!("device {at} sees {name}"), || reads(group.mount(at), &name, what));
        }
    }
}

#[test]
fn devices_without_a_living_seeder_find_one_another_on_the_lan_alone() {
    let Some(mut group) =
        Group::with_seeder("devices_without_a_living_seeder_find_one_another_on_the_lan_alone", 3)
    else {
        return;
    };
    all_write_and_see(&group, "with a seeder");
    until("devices are linked directly", || group.devices.iter().all(|device| connected(device) == 2));
    let about = peers(&group.devices[1]);
    let path = about["devices"][0]["path"].as_str().expect("a path");
    assert!(path.starts_with("direct over "), "{about}");
    assert!(about["devices"][0]["since_ms"].as_u64().is_some_and(|since| since > 0), "{about}");
    group.seeder.as_mut().expect("there is one").kill();
    all_write_and_see(&group, "without it");
    // What they remember of one another is no longer true: only the local network tells.
    for device in &mut group.devices {
        device.stop();
    }
    for (host, last) in group.hosts.iter_mut().zip(1..) {
        host.renumber(last);
    }
    for device in &mut group.devices {
        device.start();
        device.await_mount();
    }
    all_write_and_see(&group, "elsewhere");
    // The seeder is still dead, and it says so.
    until("it is said why", || {
        let said = peers(&group.devices[0]).to_string();
        said.contains("nothing answers at") && said.contains("the connection was refused")
    });
}

#[test]
fn devices_that_were_apart_agree_when_they_meet() {
    let Some(group) = Group::with_seeder("devices_that_were_apart_agree_when_they_meet", 3) else { return };
    all_write_and_see(&group, "together");
    let mut rng = Rng::new(41);
    for round in 0..2 {
        let (alone, rest) =
            (&group.hosts[round], [&group.hosts[(round + 1) % 3], &group.hosts[(round + 2) % 3]]);
        group.lan.partition(&[&[alone], &rest]);
        for at in 0..3 {
            work(group.mount(at), &format!("{round} {at}"), &mut rng);
        }
        // The two on one side still see one another.
        let (one, other) = (group.mount((round + 1) % 3), group.mount((round + 2) % 3));
        let name = format!("here {round}");
        fs::write(one.join(&name), "x").expect("writes");
        until("the other on this side sees it", || reads(other, &name, "x"));
        assert!(!group.mount(round).join(&name).exists());
        group.lan.join();
        until("the one apart sees it", || reads(group.mount(round), &name, "x"));
        group.until_equal();
    }
}

/// Some of everything: content, names, attributes, deletions, and the same files as the others.
fn work(mount: &Path, who: &str, rng: &mut Rng) {
    let own = mount.join(format!("of {who}"));
    fs::create_dir(&own).expect("makes a directory");
    for at in 0..20 {
        let len = usize::try_from(rng.below(20_000)).expect("small");
        fs::write(own.join(format!("file {at}")), rng.bytes(len)).expect("writes");
    }
    fs::rename(own.join("file 1"), own.join("moved")).expect("renames");
    fs::remove_file(own.join("file 2")).expect("removes");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    fs::set_permissions(own.join("file 3"), mode).expect("changes");
    std::os::unix::fs::symlink("file 4", own.join("link")).expect("links");
    fs::write(mount.join("together 0"), who).expect("writes over what all have");
}

#[test]
fn devices_behind_routers_meet_at_a_seeder() {
    let test = "devices_behind_routers_meet_at_a_seeder";
    let Some(mut group) = Group::alone(test) else { return };
    group.add_seeder();
    let (Some(one), Some(other)) = (group.lan.nat_host(test, "inside1"), group.lan.nat_host(test, "inside2"))
    else {
        return;
    };
    group.join_on(one);
    group.join_on(other);
    all_write_and_see(&group, "over the seeder");
    // The admin goes: two devices are left that nobody reaches, and the seeder.
    group.devices[0].ctl(&["umount", group.mount(0).to_str().expect("text")]).ok();
    group.devices[0].stop();
    fs::write(group.mount(1).join("from behind"), "one router").expect("writes");
    until("it is behind the other", || reads(group.mount(2), "from behind", "one router"));
    until("nobody is linked directly", || connected(&group.devices[1]) == 0);
    let about = peers(&group.devices[1]);
    assert_eq!(about["seeders"][0]["link"], "connected", "{about}");
    group.devices.remove(0);
    group.until_equal();
}

#[test]
fn large_transfer_takes_from_two_holders_goes_on_after_a_cut_and_delays_no_names() {
    let test = "large_transfer_takes_from_two_holders_goes_on_after_a_cut_and_delays_no_names";
    let Some(mut group) = Group::new(test, 2) else { return };
    let bytes = Rng::new(7).bytes(96 * MIB);
    fs::write(group.mount(0).join("large"), &bytes).expect("writes");
    until("the second has it", || group.mount(1).join("large").exists() && missing(&group.devices[1]) == 0);
    let host = group.lan.host("late");
    if !host.slow_down(120) {
        eprintln!("\nskipped: {test}: this kernel cannot slow a cable down");
        return;
    }
    group.join_on(host.clone());
    let late = &group.devices[2];
    let took = |device: &Device| -> Vec<u64> {
        let about = peers(device);
        let devices = about["devices"].as_array().expect("a list").clone();
        devices.iter().filter_map(|peer| peer["bytes_received"].as_u64()).collect()
    };
    until("both send", || took(late).iter().filter(|bytes| **bytes > 0).count() == 2);
    // Names are there while content is still on its way.
    fs::create_dir(group.mount(0).join("a name")).expect("makes a directory");
    until("the name is there", || group.mount(2).join("a name").exists());
    assert!(missing(late) > 0, "the transfer was over too soon to show anything");
    let before: u64 = took(late).iter().sum();
    host.cut();
    until("it is noticed", || connected(late) == 0);
    host.heal();
    until("it goes on", || connected(late) > 0);
    until("all is there", || missing(late) == 0);
    let after: u64 = took(late).iter().sum();
    let total = bytes.len() as u64;
    assert!(before > 0 && after + before < total + total / 4, "{before} and {after} bytes of {total}");
    assert_eq!(fs::read(group.mount(2).join("large")).expect("reads"), bytes);
}

#[test]
fn stranger_on_the_lan_learns_of_no_folder() {
    let Some(mut group) = Group::new("stranger_on_the_lan_learns_of_no_folder", 1) else { return };
    let host = group.lan.host("stranger");
    let mut stranger = Device::set_up(group.dir.path(), "stranger").on(&host);
    let tap = group.dir.path().join("tap");
    stranger.start_with(&[("COBOX_FRAME_TAP", tap.to_str().expect("text"))]);
    stranger.ctl(&["folder", "create", "another"]).ok();
    // Both look for peers, find one another, and offer what they have.
    until("they have met", || frames(&tap).iter().any(|(way, frame)| *way == b'<' && frame[0] == OPEN));
    until("and found nothing in common", || frames(&tap).iter().any(|(_, frame)| frame[0] == REFUSE));
    group.join();
    all_write_and_see(&group, "among us");
    let heard = frames(&tap);
    let kinds: Vec<u8> = heard.iter().map(|(_, frame)| frame[0]).collect();
    assert!(kinds.iter().all(|kind| [HELLO, OPEN, REFUSE].contains(kind)), "{kinds:?}");
    let status = group.devices[0].ctl(&["status", "--json"]).ok();
    let status: Value = serde_json::from_str(&status.out).expect("JSON");
    let id = status["folders"][0]["id"].as_str().expect("an id").to_owned();
    let keys = group.devices[0].ctl(&["key", "show", "--json"]).ok();
    let keys: Value = serde_json::from_str(&keys.out).expect("JSON");
    let log = keys["folders"][0]["log"].as_str().expect("a key").to_owned();
    let text: String = heard.iter().map(|(_, frame)| cobox_store::id::hex(frame)).collect();
    assert!(!text.contains(&id) && !text.contains(&log));
    // Nor does either side show the other as a peer.
    assert_eq!(peers(&group.devices[0])["devices"].as_array().map(Vec::len), Some(1));
    let said = stranger.ctl(&["peers", "--json"]).ok();
    assert!(!said.out.contains("peer_id"), "{said:?}");
}

const HELLO: u8 = 1;
const OPEN: u8 = 2;
const REFUSE: u8 = 5;

/// Frames of a tap: which way, and the frame.
fn frames(tap: &Path) -> Vec<(u8, Vec<u8>)> {
    let bytes = fs::read(tap).unwrap_or_default();
    let (mut at, mut found) = (0, Vec::new());
    while let Some(head) = bytes.get(at..at + 5) {
        let len = u32::from_le_bytes(head[1..].try_into().expect("four bytes")) as usize;
        let Some(frame) = bytes.get(at + 5..at + 5 + len) else { break };
        found.push((head[0], frame.to_vec()));
        at += 5 + len;
    }
    found
}

#[test]
fn port_of_a_device_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = Device::set_up(dir.path(), "one");
    let port = || fs::read_to_string(dir.path().join("one-home/port")).expect("it is remembered");
    device.start();
    let first = port();
    device.stop();
    device.start();
    assert_eq!(port(), first);
    device.stop();
    let number: u16 = first.trim().parse().expect("a number");
    let taken = std::net::TcpListener::bind(("127.0.0.1", number)).expect("it was free a moment ago");
    device.start();
    assert_ne!(port(), first);
    drop(taken);
}
