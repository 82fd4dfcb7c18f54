//! How people are told: the log, and as configured a program, a web address and an e-mail address.
//!
//! `alarm.json` in the device's home says where to; people may edit it. Nothing goes through a shell. The
//! object of the notice is on the program's standard input; a web address is reached with `curl`, and mail is
//! handed to the system's `sendmail`, so that TLS, proxies and queues are theirs. When and how often is for `outbox.rs`.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cobox_net::shown;

use super::alarm::{ALARM_AFTER_MS, Notice, What};
use super::outbox::{GONE_AFTER, Way};
use super::{Daemon, TICK, now_ms};
use crate::exit::{Outcome, Problem};
use crate::report::{AlarmSettings, AlarmTest};

/// How often the copies are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A program that takes longer is ended.
const PROGRAM_WAIT: Duration = Duration::from_secs(60);
/// How much of what a program says of its failure is read.
const SAID_MAX: usize = 1024;
/// Where `sendmail` is when it is not on the path of a daemon (Filesystem Hierarchy Standard).
const SENDMAIL_DIRS: [&str; 2] = ["/usr/sbin", "/usr/lib"];

impl Default for AlarmSettings {
    fn default() -> Self {
        Self { program: None, url: None, mail: None, after_ms: ALARM_AFTER_MS }
    }
}

/// Starts the thread that looks at the copies.
pub(crate) fn start_watcher(daemon: &Arc<Daemon>) -> Outcome<JoinHandle<()>> {
    let daemon = Arc::clone(daemon);
    super::chores::spawn("watcher", move || {
        let mut last: Option<Instant> = None;
        let mut lately = Lately::default();
        while !daemon.is_ending() {
            if last.is_none_or(|last| last.elapsed() >= LOOK) {
                last = Some(Instant::now());
                daemon.look_at_copies(&mut lately);
            }
            std::thread::park_timeout(TICK);
        }
    })
}

/// Where alarms went when that was read last. Who changes the file by hand may take it away for a moment, or leave it half
/// written: what is noticed meanwhile goes where it went.
#[derive(Default)]
struct Lately(Option<(Instant, AlarmSettings)>);

impl Lately {
    fn settle(&mut self, read: Outcome<Option<AlarmSettings>>, now: Instant) -> AlarmSettings {
        match read {
            Ok(Some(settings)) => self.0 = Some((now, settings)),
            Ok(None) => self.0 = self.0.take().filter(|(at, _)| now < *at + GONE_AFTER),
            Err(problem) => match &self.0 {
                Some(_) => tracing::warn!(%problem, "alarms go where they went"),
                None => tracing::warn!(%problem, "alarms are told in the log only"),
            },
        }
        self.0.as_ref().map(|(_, settings)| settings.clone()).unwrap_or_default()
    }
}

impl Daemon {
    fn look_at_copies(&self, lately: &mut Lately) {
        let settings = lately.settle(self.alarm_settings_if_any(), Instant::now());
        for state in self.folders() {
            let looked =
                self.folder_report(&state).and_then(|report| state.look(&report, &settings, now_ms()));
            match looked {
                Ok(notices) => notices.iter().for_each(log),
                Err(problem) => tracing::debug!(%problem, "a folder's copies were not looked at"),
            }
        }
    }

    /// Delivers a notice by one way.
    pub(super) fn send(&self, way: Way, settings: &AlarmSettings, notice: &Notice) -> Result<(), String> {
        let object = serde_json::to_string(notice).unwrap_or_default() + "\n";
        let ending = || self.is_ending();
        match way {
            Way::Program => settings.program.as_ref().map_or(Ok(()), |program| {
                // What it says is its own affair, however much it is.
                feed(Command::new(program).stderr(Stdio::null()), &object, &ending)
            }),
            Way::Url => settings.url.as_ref().map_or(Ok(()), |url| {
                let mut curl = Command::new("curl");
                curl.args(["--silent", "--show-error", "--fail", "--max-time", "30"]);
                curl.args(["--proto", "=http,https", "--header", "Content-Type: application/json"]);
                curl.args(["--data-binary", "@-", "--", url]).stderr(Stdio::piped());
                feed(&mut curl, &object, &ending)
            }),
            Way::Mail => settings.mail.as_ref().map_or(Ok(()), |mail| {
                let letter = letter(mail, &self.home.label(), notice);
                let mut sendmail = Command::new(sendmail()?);
                feed(sendmail.args(["-i", "-t"]).stderr(Stdio::piped()), &letter, &ending)
            }),
        }
    }

    fn alarm_file(&self) -> PathBuf {
        self.paths.home.join("alarm.json")
    }

    /// Where alarms go.
    pub fn alarm_settings(&self) -> Outcome<AlarmSettings> {
        Ok(self.alarm_settings_if_any()?.unwrap_or_default())
    }

    fn alarm_settings_if_any(&self) -> Outcome<Option<AlarmSettings>> {
        let path = self.alarm_file();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Problem::failed(format!("{} cannot be read: {error}.", path.display())));
            }
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Problem::failed_with(
                format!("{} is not understood: {error}.", path.display()),
                "Correct it, or write it anew with `cobox-ctl alarm set`.",
            )
        })
    }

    /// Changes where alarms go.
    pub fn alarm_set(&self, settings: &AlarmSettings) -> Outcome<AlarmSettings> {
        check(settings)?;
        let path = self.alarm_file();
        let text = serde_json::to_string_pretty(settings).unwrap_or_default() + "\n";
        let part = path.with_extension("new");
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(|error| Problem::failed(format!("{} cannot be written: {error}.", path.display())))?;
        self.alarm_settings()
    }

    /// Sends a notice that says it is a test.
    pub fn alarm_test(&self) -> Outcome<AlarmTest> {
        let settings = self.alarm_settings()?;
        let notice = Notice {
            time_ms: now_ms(),
            folder: "test".to_owned(),
            folder_id: "00".repeat(32),
            what: What::Amber,
            text: "This is a test: nothing is wrong.".to_owned(),
        };
        let send = |way| self.send(way, &settings, &notice).err();
        let problems = Way::ALL.into_iter().filter_map(send).collect();
        Ok(AlarmTest { settings, problems })
    }
}

fn log(notice: &Notice) {
    let folder = notice.folder_id.get(..8).unwrap_or(&notice.folder_id);
    match notice.what {
        What::Red => tracing::error!(folder, "fewer copies than there should be"),
        What::Amber => tracing::warn!(folder, "not all copies are proved in time"),
        What::Silent => tracing::warn!(folder, "a seeder is silent"),
        What::Quota => tracing::warn!(folder, "what a seeder may store is nearly used"),
        What::Ends => tracing::warn!(folder, "a seeder's grant or agreement ends"),
        What::Green | What::Heard => tracing::info!(folder, what = ?notice.what, "copies are well again"),
    }
}

/// Refuses what could never work.
fn check(settings: &AlarmSettings) -> Outcome<()> {
    if let Some(program) = &settings.program
        && (!program.is_absolute() || !program.is_file())
    {
        return Err(Problem::usage(
            format!("{} is not a program.", program.display()),
            "Give the absolute path of a program; it gets the alarm as JSON on its standard input.",
        ));
    }
    if let Some(url) = &settings.url {
        if !(url.starts_with("https://") || url.starts_with("http://"))
            || url.chars().any(char::is_whitespace)
        {
            return Err(Problem::usage(
                format!("{url} is not a web address."),
                "Write it like https://example.org/hook.",
            ));
        }
        if find("curl", &[]).is_none() {
            return Err(Problem::failed_with(
                "curl is not installed, which calls web addresses.",
                "Install the package curl.",
            ));
        }
    }
    if let Some(mail) = &settings.mail {
        let well = mail.contains('@')
            && !mail.chars().any(|char| char.is_control() || char.is_whitespace() || ",;<>".contains(char));
        if !well || mail.starts_with('-') {
            return Err(Problem::usage(
                format!("{mail} is not an e-mail address."),
                "Write it like name@example.org.",
            ));
        }
        sendmail().map_err(|problem| {
            Problem::failed_with(problem, "Install a mail transport, for example msmtp-mta or postfix.")
        })?;
    }
    Ok(())
}

fn find(name: &str, more: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(more.iter().map(PathBuf::from)).collect();
    dirs.iter().map(|dir| dir.join(name)).find(|found| found.is_file())
}

fn sendmail() -> Result<PathBuf, String> {
    find("sendmail", &SENDMAIL_DIRS).ok_or_else(|| "This machine has no sendmail.".to_owned())
}

fn letter(to: &str, device: &str, notice: &Notice) -> String {
    let subject: String =
        format!("CoBox: {}", notice.text).chars().filter(|char| !char.is_control()).take(120).collect();
    // Names may hold any letter, and a header only ASCII; the text below has them.
    let subject: String = subject.chars().map(|char| if char.is_ascii() { char } else { '?' }).collect();
    format!(
        "To: {to}\nSubject: {subject}\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nAuto-Submitted: auto-generated\n\n{}\n\nThe device {device} noticed this at {}.\n",
        notice.text,
        crate::render::units::time(notice.time_ms)
    )
}

/// Runs a program with `input`, for a minute at the most.
fn feed(command: &mut Command, input: &str, ending: &dyn Fn() -> bool) -> Result<(), String> {
    let name = Path::new(command.get_program()).display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .current_dir("/")
        .spawn()
        .map_err(|error| format!("{name} cannot be started: {error}"))?;
    // A notice is far smaller than a pipe holds, so this does not wait. A program may well not read it.
    if let Some(mut pipe) = child.stdin.take() {
        let _ = pipe.write_all(input.as_bytes());
    }
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("{name} ended with {status}{}", said(&mut child))),
            Ok(None) if started.elapsed() < PROGRAM_WAIT && !ending() => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            other => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(match other {
                    Err(error) => format!("{name} cannot be waited for: {error}"),
                    _ => format!("{name} did not end in time"),
                });
            }
        }
    }
}

/// The beginning of what an ended program said of its failure, if it was heard.
fn said(child: &mut std::process::Child) -> String {
    let Some(mut pipe) = child.stderr.take() else { return String::new() };
    let mut bytes = [0; SAID_MAX];
    // What it began may go on and hold the pipe: nobody waits for that.
    let waits_not = rustix::io::ioctl_fionbio(&pipe, true).is_ok();
    let count = if waits_not { pipe.read(&mut bytes).unwrap_or(0) } else { 0 };
    let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { String::new() } else { format!(": {}", shown::name(lines.join("; ").as_bytes())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(text: &str) -> Notice {
        Notice {
            time_ms: 0,
            folder: "f".into(),
            folder_id: String::new(),
            what: What::Red,
            text: text.into(),
        }
    }

    #[test]
    fn letter_cannot_be_given_headers_by_a_folder_name() {
        let letter = letter("a@b", "laptop", &notice("fotos\nBcc: c@d ä: 0 of 1"));
        let head = letter.split("\n\n").next().expect("a head");
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(head.is_ascii());
    }

    #[test]
    fn settings_that_are_gone_or_half_written_for_a_moment_stay_as_they_were() {
        let (mut lately, now) = (Lately::default(), Instant::now());
        let set = AlarmSettings { mail: Some("a@b".into()), ..AlarmSettings::default() };
        assert_eq!(lately.settle(Ok(None), now), AlarmSettings::default());
        assert_eq!(lately.settle(Ok(Some(set.clone())), now), set);
        assert_eq!(lately.settle(Ok(None), now + GONE_AFTER / 2), set);
        assert_eq!(lately.settle(Err(Problem::failed("half")), now + GONE_AFTER / 2), set);
        assert_eq!(lately.settle(Ok(None), now + GONE_AFTER), AlarmSettings::default());
        assert_eq!(lately.settle(Ok(Some(set.clone())), now), set);
        let off = AlarmSettings::default();
        assert_eq!(lately.settle(Ok(Some(off.clone())), now), off, "who switches them off is heard at once");
    }

    #[test]
    fn senseless_settings_are_refused() {
        let base = AlarmSettings::default;
        for bad in [
            AlarmSettings { program: Some("relative".into()), ..base() },
            AlarmSettings { program: Some("/no/such/program".into()), ..base() },
            AlarmSettings { url: Some("ftp://x".into()), ..base() },
            AlarmSettings { url: Some("--output /etc/passwd".into()), ..base() },
            AlarmSettings { mail: Some("-f@b".into()), ..base() },
            AlarmSettings { mail: Some("a@b,c@d".into()), ..base() },
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn program_gets_the_notice_and_its_failure_is_told() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("told");
        let mut tee = Command::new("tee");
        feed(tee.arg(&file), "{}\n", &|| false).expect("runs");
        assert_eq!(std::fs::read_to_string(&file).expect("written"), "{}\n");
        assert!(feed(&mut Command::new("false"), "", &|| false).is_err());
        assert!(feed(Command::new("sleep").arg("600"), "", &|| true).is_err());
    }
}
