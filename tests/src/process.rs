//! Real programs in temporary homes: a device (`cobox-ctl` and its daemon) and a seeder.
//!
//! Everything that is started here is ended by its own process id when the value is dropped, and what
//! was mounted is unmounted by its own path, also after a panic.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::hosts::Host;

/// How long a program may take for one verb before the test gives up on it.
const VERB_LIMIT: Duration = Duration::from_secs(120);
/// How long a condition may take to become true.
const CONDITION_LIMIT: Duration = Duration::from_secs(60);

/// The folder of the programs: beside the test's own executable.
///
/// # Panics
/// When they were not built; the message says how to.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    if name == "cobox-seeder"
        && let Some(path) = std::env::var_os("COBOX_SEEDER")
    {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let release = test.ancestors().nth(2).expect("tests are in target/PROFILE/deps");
    // A build of the whole workspace gives the seeder the member's code; the one that is shipped is
    // built by itself and kept apart.
    let apart = release.with_file_name("seeder").join(name);
    let path = if apart.exists() { apart } else { release.join(name) };
    assert!(path.exists(), "{} is missing: run `make build` first", path.display());
    path
}

/// Whether a mount can be made here; otherwise says that the test is skipped.
#[must_use]
pub fn can_mount(test: &str) -> bool {
    let there = Path::new("/dev/fuse").exists();
    if !there {
        // Not `println!`, which nobody sees of a test that passes; on a line of its own, to be counted.
        let line = format!("\nskipped: {test}: there is no /dev/fuse on this machine\n");
        drop(std::io::stderr().write_all(line.as_bytes()));
    }
    there
}

/// Polls `condition` until it holds.
///
/// # Panics
/// When it does not within a minute.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < CONDITION_LIMIT, "{what}: not within {CONDITION_LIMIT:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// What one run of a program said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same, if the program succeeded.
    ///
    /// # Panics
    /// When it did not.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// Runs `command` to its end, with a limit.
///
/// # Panics
/// When it cannot be started or does not end.
pub fn run(command: &mut Command) -> Said {
    run_with(command, Stdio::null())
}

fn run_with(command: &mut Command, input: Stdio) -> Said {
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // The pipes are read by threads of their own, so that a talkative program does not stop.
    let mut pipes = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let out = std::thread::spawn(move || {
        let mut text = Vec::new();
        pipes.0.read_to_end(&mut text).map(|_| text)
    });
    let err = std::thread::spawn(move || {
        let mut text = Vec::new();
        pipes.1.read_to_end(&mut text).map(|_| text)
    });
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("the child is ours") {
            Some(status) => break status,
            None if start.elapsed() > VERB_LIMIT => {
                drop(child.kill());
                panic!("{command:?} did not end within {VERB_LIMIT:?}");
            }
            None => std::thread::park_timeout(Duration::from_millis(5)),
        }
    };
    let stdout = out.join().expect("reads").expect("reads");
    let stderr = err.join().expect("reads").expect("reads");
    Said::of(&Output { status, stdout, stderr })
}

/// Runs `command` on a terminal of its own (`script`, of util-linux), where somebody types this and then ends the input.
/// What the program writes to either of its outputs is in [`Said::out`].
///
/// # Panics
/// When it cannot be started, or does not end.
pub fn run_on_terminal(command: &Command, typed: &str) -> Said {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_str().expect("text").replace('\'', r"'\''")));
    let line: Vec<String> = quoted.collect();
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]);
    terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut keys = tempfile::tempfile().expect("a temporary file");
    keys.write_all(typed.as_bytes()).expect("is written");
    keys.rewind().expect("goes back");
    run_with(&mut terminal, keys.into())
}

/// A device: a home, a daemon, and at most one mount.
pub struct Device {
    /// `$COBOX_HOME`.
    pub home: PathBuf,
    /// Where its folder is mounted.
    pub mount: PathBuf,
    /// The file with its passphrase; without one it has a key file.
    pub passphrase_file: Option<PathBuf>,
    /// The host that its programs run on; the machine itself where there is none.
    pub host: Option<Host>,
    daemon: Option<Child>,
}

impl Device {
    /// A device with a home below `dir`; nothing is started yet.
    ///
    /// # Panics
    /// When the folders cannot be made.
    #[must_use]
    pub fn new(dir: &Path, name: &str) -> Self {
        let (home, mount) = (dir.join(format!("{name}-home")), dir.join(format!("{name}-mount")));
        fs::create_dir_all(&mount).expect("makes a mount point");
        Self { home, mount, passphrase_file: None, host: None, daemon: None }
    }

    /// A device that is set up, with a key file; its words are in `NAME-words` below `dir`.
    ///
    /// # Panics
    /// When it cannot be set up.
    #[must_use]
    pub fn set_up(dir: &Path, name: &str) -> Self {
        let device = Self::new(dir, name);
        let words = dir.join(format!("{name}-words"));
        let words = words.to_str().expect("a temporary path is text");
        device.ctl(&["init", "--label", name, "--no-passphrase", "--words-out", words]).ok();
        device
    }

    /// Puts its programs on a host of their own, before they are started.
    #[must_use]
    pub fn on(mut self, host: &Host) -> Self {
        self.host = Some(host.clone());
        self
    }

    /// A `cobox-ctl` command for this home.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command_on(self.host.as_ref(), "cobox-ctl");
        command.env("COBOX_HOME", &self.home);
        if self.host.is_none() {
            // On the machine itself nobody else is to hear of it, and many run at once.
            command.env("COBOX_NETWORK", "loopback");
        }
        if let Some(file) = &self.passphrase_file {
            command.arg("--passphrase-file").arg(file);
        }
        command.args(arguments);
        command
    }

    /// Runs `cobox-ctl`.
    pub fn ctl(&self, arguments: &[&str]) -> Said {
        run(&mut self.command(arguments))
    }

    /// Runs the daemon as a child of the test, so that it can be killed by its own process id, and
    /// waits until it answers.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with further environment variables.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.with_extension("log"))
            .expect("makes a log file");
        let child = self
            .command(&["daemon", "run"])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("starts the daemon");
        self.daemon = Some(child);
        until("the daemon answers", || self.ctl(&["daemon", "status"]).code == 0);
    }

    /// Process id of the daemon that [`Self::start`] started.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// `kill -9` of the daemon.
    ///
    /// # Panics
    /// When it was not started.
    pub fn kill(&mut self) {
        let mut child = self.daemon.take().expect("the daemon runs");
        child.kill().expect("the child is ours");
        child.wait().expect("the child is ours");
    }

    /// Asks the daemon to end, and waits until it has.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        self.ctl(&["daemon", "stop"]).ok();
        let mut child = self.daemon.take().expect("the daemon runs");
        until("the daemon ends", || child.try_wait().expect("the child is ours").is_some());
    }

    /// Waits until the restarted daemon has mounted again what was mounted before.
    ///
    /// # Panics
    /// When it does not.
    pub fn await_mount(&self) {
        let dir = format!(" {} ", self.mount.display());
        until("the folder is mounted again", || {
            let mounts = fs::read_to_string("/proc/self/mountinfo").expect("Linux lists its mounts");
            mounts.contains(&dir) && fs::read_dir(&self.mount).is_ok()
        });
    }

    /// Mounts `folder`.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount(&self, folder: &str) {
        let dir = self.mount.to_str().expect("a temporary path is text").to_owned();
        self.ctl(&["mount", folder, &dir]).ok();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            drop(child.kill());
            drop(child.wait());
        }
        // Nothing is mounted there in most cases, and then this says so to nobody.
        let unmount = Command::new("fusermount3").arg("-uzq").arg(&self.mount).stderr(Stdio::null()).status();
        drop(unmount);
    }
}

fn command_on(host: Option<&Host>, name: &str) -> Command {
    let program = program(name);
    host.map_or_else(|| Command::new(&program), |host| host.command(&program))
}

/// A seeder, on a loopback port of its own or on a host.
pub struct Seeder {
    /// Its `--data`.
    pub data: PathBuf,
    /// `any`, or `owner`: then grants wait for `cobox-seeder accept`.
    pub accept: &'static str,
    /// Further options of `run`.
    pub options: Vec<&'static str>,
    listen: Vec<String>,
    host: Option<Host>,
    child: Option<Child>,
}

impl Seeder {
    /// A seeder with its data below `dir` that listens on TCP; nothing is started yet.
    #[must_use]
    pub fn new(dir: &Path, name: &str) -> Self {
        let listen = vec![format!("/ip4/127.0.0.1/tcp/{}", free_port())];
        Self { data: dir.join(name), accept: "any", options: Vec::new(), listen, host: None, child: None }
    }

    /// The same on a host: it listens on TCP and QUIC at the host's address.
    #[must_use]
    pub fn on(dir: &Path, name: &str, host: &Host) -> Self {
        let address = host.address;
        let listen = vec![format!("/ip4/{address}/tcp/7740"), format!("/ip4/{address}/udp/7740/quic-v1")];
        Self {
            data: dir.join(name),
            accept: "any",
            options: Vec::new(),
            listen,
            host: Some(host.clone()),
            child: None,
        }
    }

    /// Starts it and waits until it knows its address.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with further environment variables.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "the seeder runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.data.with_extension("log"))
            .expect("makes a log file");
        let mut command = command_on(self.host.as_ref(), "cobox-seeder");
        command.arg("run").arg("--data").arg(&self.data).args(["--accept", self.accept]);
        for address in &self.listen {
            command.args(["--listen", address]);
        }
        command.args(&self.options).envs(environment.iter().copied()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(command.spawn().expect("starts the seeder"));
        until("the seeder knows its address", || self.run(&["address"]).code == 0);
    }

    /// Runs `cobox-seeder VERB --data DATA`.
    pub fn run(&self, arguments: &[&str]) -> Said {
        run(command_on(self.host.as_ref(), "cobox-seeder").args(arguments).arg("--data").arg(&self.data))
    }

    /// Its `ADDR`.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn address(&self) -> String {
        let said = self.run(&["address"]).ok();
        said.out.lines().last().expect("one line").to_owned()
    }

    /// From the next start on it listens at these multiaddresses.
    pub fn listen_at(&mut self, addresses: &[String]) {
        self.listen = addresses.to_vec();
    }

    /// Ends it as `systemctl stop` does.
    ///
    /// # Panics
    /// When it was not started, or ends with an error.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("the seeder runs");
        run(Command::new("kill").arg(child.id().to_string())).ok();
        assert!(child.wait().expect("the child is ours").success());
    }

    /// Process id of the running seeder.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it was not started.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the seeder runs");
        child.kill().expect("the child is ours");
        child.wait().expect("the child is ours");
    }
}

impl Drop for Seeder {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A TCP port of loopback that was free a moment ago.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}
