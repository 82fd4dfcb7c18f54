//! Who has a folder's copies, as people who are not administrators meet it: health, alarms, acceptance,
//! `whereis`, and the first dialogue at a terminal.
//!
//! Every program runs in a temporary home on loopback and is ended by its own process id.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use cobox_tests::process::{Device, Said, Seeder, can_mount, program, until};

/// A device with the folder "docs", not mounted.
fn device(dir: &Path) -> Device {
    let mut device = Device::new(dir, "device");
    let words = dir.join("words");
    let words = words.to_str().expect("a temporary path is text");
    device.ctl(&["init", "--label", "laptop", "--no-passphrase", "--words-out", words]).ok();
    device.start();
    device.ctl(&["folder", "create", "docs"]).ok();
    device
}

fn json(said: &Said) -> serde_json::Value {
    let last = said.out.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn pending(seeder: &Seeder) -> Option<(String, u64)> {
    let list = json(&seeder.run(&["pending", "--json"]).ok());
    let grant = list["grants"].get(0)?;
    Some((grant["id"].as_str()?.to_owned(), grant["quota_bytes"].as_u64()?))
}

#[test]
fn grant_that_changed_since_it_was_listed_is_not_accepted() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = device(dir.path());
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.accept = "owner";
    seeder.start();
    let address = seeder.address();
    let offer = |quota: &str| device.ctl(&["seeder", "add", "docs", &address, "--quota", quota]);
    assert_eq!(json(&device.ctl(&["health", "--json"]))["folders"][0]["light"], "red");
    offer("1G").ok();
    until("the grant waits", || pending(&seeder).is_some());
    let (shown, quota) = pending(&seeder).expect("it waits");
    assert_eq!(quota, 1 << 30);
    offer("50G").ok();
    until("the new offer is there", || pending(&seeder).is_some_and(|(_, quota)| quota == 50 << 30));
    let said = seeder.run(&["accept", &shown]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("50.0 GiB"), "the new terms are not shown: {said:?}");
    let (start, _) = shown.split_once('-').expect("folder and terms");
    assert_eq!(seeder.run(&["accept", start]).code, 4, "terms that nobody named");
    let refused = seeder.run(&["accept", &shown, "--json"]);
    assert_eq!(json(&refused)["error"]["code"], "refused", "{refused:?}");
    assert_eq!(json(&seeder.run(&["status", "--json"]).ok())["folders"].as_array().map(Vec::len), Some(0));
    let (now, _) = pending(&seeder).expect("it waits");
    let accepted = json(&seeder.run(&["accept", &now, "--json"]).ok());
    assert_eq!((&accepted["answer"], &accepted["quota_bytes"]), (&"accepted".into(), &(50u64 << 30).into()));
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let log = fs::read(seeder.data.with_extension("log")).expect("reads");
    assert!(!log.contains(&0x1b), "colours in a log that is a file");
}

#[test]
fn folder_below_its_target_is_told_once_and_its_health_has_an_exit_code() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = device(dir.path());
    let (hook, told) = (dir.path().join("hook"), dir.path().join("told"));
    fs::write(&hook, format!("#!/bin/sh\nexec cat >>{}\n", told.display())).expect("writes");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o700)).expect("sets the mode");
    let hook = hook.to_str().expect("a temporary path is text");
    assert_eq!(device.ctl(&["alarm", "set", "--run", "relative"]).code, 2);
    device.ctl(&["alarm", "set", "--run", hook, "--after", "0s"]).ok();
    let lines = || fs::read_to_string(&told).unwrap_or_default().lines().count();
    until("the alarm is told", || lines() == 1);
    assert_eq!(device.ctl(&["health"]).code, 1);
    let status = json(&device.ctl(&["folder", "show", "docs", "--json"]).ok());
    assert!(status["alarms"][0]["what"].as_str().is_some_and(|text| text.contains("seeder add")), "{status}");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    device.ctl(&["health"]).ok();
    until("all is well again", || lines() == 2);
    device.ctl(&["folder", "set", "docs", "--copies", "2", "--tolerance", "3d"]).ok();
    let health = device.ctl(&["health", "--json"]);
    assert_eq!(health.code, 1, "{health:?}");
    assert_eq!(json(&health)["folders"][0]["copies_wanted"], 2);
    until("the higher target is told", || lines() == 3);
    let notices: Vec<serde_json::Value> = fs::read_to_string(&told)
        .expect("reads")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let what: Vec<&str> = notices.iter().filter_map(|notice| notice["what"].as_str()).collect();
    assert_eq!(what, ["red", "green", "red"]);
    device.ctl(&["alarm", "test"]).ok();
    assert_eq!(lines(), 4);
}

#[test]
fn wait_for_more_copies_than_there_are_seeders_ends_at_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = device(dir.path());
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    // Without a timeout it would wait for ever.
    let said = device.ctl(&["wait", "docs", "--copies", "5"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("only one seeder") && said.err.contains("seeder add"), "{said:?}");
}

#[test]
fn later_verbs_and_usage_errors_are_told_apart_also_in_json() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = Device::new(dir.path(), "device");
    for line in [&["history", "x"][..], &["undelete", "x"], &["pin", "x"]] {
        let said = device.ctl(line);
        assert_eq!(said.code, 4, "{line:?}: {said:?}");
    }
    for line in [&["frobnicate", "--json"][..], &["--json", "wait", "docs"], &["mount", "--json"]] {
        let said = device.ctl(line);
        assert_eq!(said.code, 2, "{line:?}: {said:?}");
        let error = &json(&said)["error"];
        assert_eq!(error["code"], "usage", "{said:?}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{said:?}");
    }
    let seeder = Seeder::new(dir.path(), "seeder");
    let said = seeder.run(&["frobnicate", "--json"]);
    assert_eq!((said.code, &json(&said)["error"]["code"]), (2, &"usage".into()), "{said:?}");
}

#[test]
fn whereis_names_holders_and_understands_symbolic_links() {
    if !can_mount("whereis_names_holders_and_understands_symbolic_links") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let device = device(dir.path());
    device.mount("docs");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.start();
    device.ctl(&["seeder", "add", "docs", &seeder.address(), "--quota", "1G"]).ok();
    let inside = device.mount.join("note");
    fs::write(&inside, b"text").expect("writes");
    symlink("/etc/passwd", device.mount.join("away")).expect("links");
    device.ctl(&["wait", "docs", "--copies", "1", "--timeout", "60s"]).ok();
    let whereis = |path: &Path| device.ctl(&["whereis", path.to_str().expect("text"), "--json"]);
    let found = json(&whereis(&inside).ok());
    let holder = &found["holders"][0];
    assert!(holder["proved"] == true && holder["proved_at_ms"].as_u64().is_some_and(|ms| ms > 0), "{found}");
    assert_eq!(found["seeders"][0], holder["peer_id"]);
    // The link itself is in the folder, wherever it points.
    let away = json(&whereis(&device.mount.join("away")).ok());
    assert_eq!((&away["copies"], &away["folder"]), (&1.into(), &"docs".into()), "{away}");
    let outside = dir.path().join("outside");
    symlink(&inside, &outside).expect("links");
    let said = whereis(&outside);
    assert!(said.code == 1 && said.out.contains("note"), "it does not say where the link points: {said:?}");
}

/// A program at a terminal of its own.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Runs a line of `cobox-ctl` under script(1), which makes the terminal.
    fn new(home: &Path, line: &str) -> Self {
        let line = format!("{} {line}", program("cobox-ctl").display());
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("COBOX_HOME", home)
            .env("COBOX_NETWORK", "loopback")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts script");
        let keys = child.stdin.take().expect("piped");
        let mut out = child.stdout.take().expect("piped");
        let screen = Arc::new(Mutex::new(String::new()));
        let seen = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(len @ 1..) = out.read(&mut part) {
                seen.lock().expect("no panic").push_str(&String::from_utf8_lossy(&part[..len]));
            }
        });
        Self { child, keys, screen }
    }

    fn screen(&self) -> String {
        self.screen.lock().expect("no panic").clone()
    }

    /// Waits for the `nth` question, and returns the number of the word that it asks for.
    fn question(&self, nth: usize) -> usize {
        let asked = || {
            let screen = self.screen();
            let mut questions = screen.split("  word ").skip(1);
            questions.nth(nth).and_then(|rest| rest.split_once(": ")?.0.parse().ok())
        };
        until("a word is asked for", || asked().is_some());
        asked().expect("it was there a moment ago")
    }

    fn type_line(&mut self, text: &str) {
        writeln!(self.keys, "{text}").expect("the terminal is open");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The words as the screen shows them, in order.
fn words_on(screen: &str) -> Vec<String> {
    let mut numbered: Vec<(usize, String)> = Vec::new();
    let mut tokens = screen.split_whitespace().peekable();
    while let Some(token) = tokens.next() {
        let number = token.strip_suffix('.').and_then(|digits| digits.parse().ok());
        if let (Some(number), Some(word)) = (number, tokens.peek())
            && !numbered.iter().any(|(known, _)| *known == number)
        {
            numbered.push((number, (*word).to_owned()));
        }
    }
    numbered.sort();
    numbered.into_iter().map(|(_, word)| word).collect()
}

#[test]
fn words_are_shown_at_a_terminal_and_asked_back_until_they_are_right() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let home = dir.path().join("home");
    let mut terminal = Terminal::new(&home, "init --label laptop --no-passphrase");
    terminal.question(0);
    let words = words_on(&terminal.screen());
    assert_eq!(words.len(), 24, "{}", terminal.screen());
    terminal.type_line("wrong");
    // The words are shown again, and the same ones asked for.
    let mut nth = 1;
    while !terminal.screen().contains("This device is set up") {
        let place = terminal.question(nth);
        terminal.type_line(&words[place - 1].to_uppercase());
        nth += 1;
        let more = || terminal.screen().matches("  word ").count() > nth;
        until("the next question or the end", || more() || terminal.screen().contains("set up"));
    }
    assert!(terminal.screen().contains("That is not the word"), "{}", terminal.screen());
    assert!(terminal.child.wait().expect("ours").success());
    // Three wrong tries leave nothing behind.
    let home = dir.path().join("other");
    let mut terminal = Terminal::new(&home, "init --label laptop --no-passphrase");
    for nth in 0..3 {
        terminal.question(nth);
        terminal.type_line("wrong");
    }
    until("it gives up", || terminal.screen().contains("not confirmed"));
    assert!(!terminal.child.wait().expect("ours").success());
    assert!(!home.join("store").exists() && !home.join("key").exists());
}
