//! Health says the same everywhere at one moment: `health`, `status`, `whereis`, the xattrs,
//! `.cobox/status.json`, the API, its metrics and `/healthz`; in green, amber and red, with real programs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cobox_tests::http::{exchange, request, unix};
use cobox_tests::process::{Device, Said, Seeder, can_mount, until};
use serde_json::Value;

/// So soon after a write the daemon does not challenge yet (`SETTLED`).
const BEFORE_AUDIT: Duration = Duration::from_secs(4);

fn json(said: &Said) -> Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn xattr(path: &Path, name: &str) -> Option<String> {
    let mut value = [0u8; 4096];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).into_owned())
}

/// What all of them say about the folder and one file of it.
#[derive(PartialEq, Eq, Debug)]
struct View {
    light: String,
    exit: i64,
    copies: u64,
    wanted: u64,
    late: u64,
    proved_at_ms: Option<u64>,
    file_copies: u64,
}

struct Witness<'a> {
    device: &'a Device,
    file: std::path::PathBuf,
}

impl Witness<'_> {
    fn api(&self, path: &str) -> (u16, String) {
        let socket = self.device.home.join("run/api.sock");
        let answer = exchange(unix(&socket), &request("GET", path, &[], None));
        (answer.status, answer.body)
    }

    fn api_json(&self, path: &str) -> Value {
        serde_json::from_str(&self.api(path).1).expect("JSON")
    }

    fn health(&self) -> (Value, i32) {
        let said = self.device.ctl(&["health", "docs", "--json"]);
        (json(&said)["folders"][0].clone(), said.code)
    }

    /// The view of `health`, with what the file itself says.
    fn view(&self) -> View {
        let (health, code) = self.health();
        let number = |name: &str| health[name].as_u64().expect("a number");
        View {
            light: health["light"].as_str().expect("a word").to_owned(),
            exit: code.into(),
            copies: number("copies"),
            wanted: number("copies_wanted"),
            late: number("copies_late"),
            proved_at_ms: health["proved_at_ms"].as_u64(),
            file_copies: xattr(&self.file, "user.cobox.copies")
                .expect("it is mounted")
                .parse()
                .expect("a number"),
        }
    }

    /// Compares all with `health`. What changes in between (a proof is renewed) is looked at again.
    fn agree(&self, light: &str, exit: i64) {
        for _ in 0..5 {
            let before = self.view();
            let faults = self.differences(&before);
            if self.view() == before {
                assert_eq!((before.light.as_str(), before.exit), (light, exit), "{before:?}");
                assert!(faults.is_empty(), "{before:?}: {faults:#?}");
                return;
            }
        }
        panic!("health does not come to rest");
    }

    fn differences(&self, view: &View) -> Vec<String> {
        let mut faults = Vec::new();
        let mut same = |what: &str, left: &Value, right: &Value| {
            if left != right {
                faults.push(format!("{what}: {left} is not {right}"));
            }
        };
        let file = self.file.to_str().expect("a temporary path is text");
        let status = json(&self.device.ctl(&["status", "docs", "--json"]))["folders"][0].clone();
        let inside = fs::read_to_string(self.device.mount.join(".cobox/status.json")).expect("reads");
        let inside: Value = serde_json::from_str(&inside).expect("JSON");
        let by_api = self.api_json("/v1/folders/docs");
        for (name, report) in [("status", &status), ("status.json", &inside), ("API folder", &by_api)] {
            same(name, &report["copies_proved"], &view.copies.into());
            same(name, &report["copies_wanted"], &view.wanted.into());
            same(name, &report["copies_late"], &view.late.into());
            same(name, &report["proved_at_ms"], &view.proved_at_ms.into());
        }
        same("API health", &self.api_json("/v1/health")["folders"][0], &self.health().0);
        let (code, body) = self.api("/healthz");
        let healthz: Value = serde_json::from_str(&body).expect("JSON");
        same("healthz", &healthz["light"], &view.light.clone().into());
        same("healthz", &healthz["exit"], &view.exit.into());
        same("healthz's status", &code.into(), &(if matches!(view.exit, 0 | 3) { 200 } else { 503 }).into());
        let label = &by_api["id"].as_str().expect("an id")[..8];
        let metrics = self.api("/metrics").1;
        let metric = |name: &str| -> Value {
            let begin = format!("{name}{{folder=\"{label}\"}} ");
            let value = metrics.lines().find_map(|line| line.strip_prefix(&begin)?.parse::<u64>().ok());
            value.into()
        };
        same("metric copies", &metric("cobox_copies_proved"), &view.copies.into());
        same("metric wanted", &metric("cobox_copies_wanted"), &view.wanted.into());
        let lights = ["green", "amber", "red"];
        let light = lights.iter().position(|light| *light == view.light).expect("a light");
        same("metric health", &metric("cobox_health"), &light.into());
        same(
            "metric age",
            &(!metric("cobox_proved_age_seconds").is_null()).into(),
            &view.proved_at_ms.is_some().into(),
        );
        let whereis = json(&self.device.ctl(&["whereis", file, "--json"]));
        same("whereis", &whereis["copies"], &view.file_copies.into());
        same("whereis", &whereis["copies_wanted"], &view.wanted.into());
        let proved = whereis["holders"].as_array().expect("holders");
        let proved = proved.iter().filter(|holder| holder["proved"] == true).count();
        same("whereis' holders", &proved.into(), &view.file_copies.into());
        let at = xattr(&self.file, "user.cobox.proved_at");
        same("xattr proved_at", &at.into(), &whereis["proved_at"]);
        // What is in the folder's newest entries is held by who proved the folder.
        same("the file's copies", &view.file_copies.into(), &view.copies.into());
        faults
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it is ours");
}

#[test]
fn health_is_the_same_everywhere_in_green_amber_and_red() {
    if !can_mount("health_is_the_same_everywhere_in_green_amber_and_red") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = Device::new(dir.path(), "device");
    let words = dir.path().join("words");
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "laptop", "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.mount("docs");
    let file = device.mount.join("note");
    fs::write(&file, b"text").expect("writes");
    let witness = Witness { device: &device, file };
    witness.agree("red", 1);
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    witness.agree("green", 0);
    // Amber: it says that it holds what was just written, and is stopped before it can prove it.
    let pid = seeder.pid().expect("it runs");
    let mut tries = 0;
    let amber = loop {
        tries += 1;
        assert!(tries < 10, "never stopped between a claim and a proof");
        let started = Instant::now();
        let file = device.mount.join(format!("new {tries}"));
        fs::write(&file, format!("text {tries}")).expect("writes");
        let status = || json(&device.ctl(&["folder", "show", "docs", "--json"]).ok());
        // Written, and not proved any more: then what it claims is the new state.
        until("the write is noticed", || status()["copies_proved"] == 0 || started.elapsed() > BEFORE_AUDIT);
        until("it claims the write", || status()["copies_claimed"] == 1 || started.elapsed() > BEFORE_AUDIT);
        signal(pid, rustix::process::Signal::STOP);
        let status = status();
        if status["copies_claimed"] == 1 && status["copies_proved"] == 0 {
            break file;
        }
        signal(pid, rustix::process::Signal::CONT);
    };
    let late = Witness { device: &device, file: amber };
    late.agree("amber", 3);
    signal(pid, rustix::process::Signal::CONT);
    until("it is proved", || late.health().1 == 0);
    late.agree("green", 0);
    device.ctl(&["folder", "set", "docs", "--copies", "2"]).ok();
    late.agree("red", 1);
}

#[test]
fn copy_that_waits_for_a_seeder_that_is_off_for_a_moment_is_amber_at_once_and_never_red_or_counted() {
    let test = "copy_that_waits_for_a_seeder_that_is_off_for_a_moment_is_amber_at_once_and_never_red";
    if !can_mount(test) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut device = Device::set_up(dir.path(), "device");
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device.mount("docs");
    let old = device.mount.join("old");
    fs::write(&old, b"text").expect("writes");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    seeder.kill();
    let new = device.mount.join("new");
    fs::write(&new, b"more").expect("writes");
    // Where it is seen first that nobody is connected, an entry of it comes after a minute, unless somebody waits.
    assert_eq!(device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "1s"]).code, 3);
    let witness = Witness { device: &device, file: new };
    let mut lights = Vec::new();
    until("the write is noticed", || {
        let (health, code) = witness.health();
        lights.push((health["light"].as_str().expect("a word").to_owned(), code));
        health["copies"] == 0
    });
    let (last, before) = lights.split_last().expect("it was asked");
    assert_eq!(last, &("amber".to_owned(), 3));
    assert!(before.iter().all(|(light, code)| (light.as_str(), *code) == ("green", 0)), "{lights:?}");
    let said = device.ctl(&["health", "docs"]);
    assert!(said.out.contains("waits for it"), "{said:?}");
    // It is no copy of what was written: the file has none, and nothing but the light is other than it was.
    witness.agree("amber", 3);
    seeder.start();
    until("it is proved", || witness.health().1 == 0);
    witness.agree("green", 0);
}
