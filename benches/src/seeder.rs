//! The seeder that ships, as a process to be measured.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cobox_net::seeder::commands::{Request, ask_running};
use cobox_net::seeder::identity::saved_address;
use cobox_store::format::address::SeederAddress;

/// How long a start may take.
const START_LIMIT: Duration = Duration::from_secs(600);
/// `USER_HZ`, which is 100 on every Linux that Rust's standard library runs on.
const TICKS_PER_S: f64 = 100.0;

/// A running `cobox-seeder`; ended when dropped.
pub struct Seeder {
    child: Child,
    data: PathBuf,
}

impl Drop for Seeder {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Seeder {
    /// Starts the program that `COBOX_SEEDER` names, or the one beside this, and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub fn start(data: &Path) -> std::io::Result<Self> {
        let beside = || std::env::current_exe().unwrap_or_default().with_file_name("cobox-seeder");
        let program = std::env::var_os("COBOX_SEEDER").map_or_else(beside, PathBuf::from);
        let mut command = Command::new(program);
        command.arg("run").arg("--data").arg(data);
        command.args(["--accept", "any", "--listen", "/ip4/127.0.0.1/tcp/0"]);
        let child = command.env("COBOX_LOG", "error").stdout(Stdio::null()).spawn()?;
        let mut seeder = Self { child, data: data.to_owned() };
        let started = Instant::now();
        while !seeder.answers() {
            if let Some(status) = seeder.child.try_wait()? {
                return Err(std::io::Error::other(format!("the seeder ended: {status}")));
            }
            if started.elapsed() > START_LIMIT {
                return Err(std::io::Error::other("the seeder does not start"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(seeder)
    }

    fn answers(&self) -> bool {
        matches!(ask_running(&self.data, &Request::Pending), Ok(Some(_))) && saved_address(&self.data).is_ok()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When it did not write it down.
    pub fn address(&self) -> std::io::Result<SeederAddress> {
        saved_address(&self.data).map_err(|failure| std::io::Error::other(failure.text))
    }

    /// Processor seconds so far.
    #[must_use]
    pub fn processor_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The fields after the name, which may have spaces and stands in parentheses.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks = after.split_whitespace().skip(11).take(2);
        ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_S
    }

    /// Prints what memory it takes now, and took at most.
    pub fn print_memory(&self, what: &str) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let mib = |field: &str| {
            let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) >> 10
        };
        println!(
            "{what:<44} {:>8} MiB, of it {} MiB of files; {} MiB at most",
            mib("VmRSS"),
            mib("RssFile"),
            mib("VmHWM")
        );
    }
}
