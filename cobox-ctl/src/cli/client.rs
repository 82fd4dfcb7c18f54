//! Talking to the daemon, and starting it when none runs.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cobox_store::keyed::Home;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zeroize::Zeroizing;

use super::alive::{Quiet, is_answering};
use super::secrets::{PassphraseFrom, existing_passphrase};
use crate::control::{InUse, LineError, REPLY_BYTES_MAX, Reply, Request, read_line, write_line};
use crate::exit::{Exit, Outcome, Problem};
use crate::paths::{Paths, private_dir};
use crate::report::WaitProgress;

/// A daemon that opens a large store after a crash replays its log; half a minute is far beyond that.
const START_WAIT: Duration = Duration::from_secs(60);
const START_POLL: Duration = Duration::from_millis(50);
/// Unmounting, cutting and closing connections.
const STOP_WAIT: Duration = Duration::from_secs(60);
/// One old log is kept; a log this large holds weeks.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// Whether a daemon listens at the socket.
fn is_running(paths: &Paths) -> bool {
    crate::control::connect(&paths.socket()).is_ok()
}

/// Sends a request to the daemon, starting it if need be, and returns its last word.
///
/// # Errors
/// What the daemon says, and when it cannot be reached or started, or gives no sign of life.
pub(crate) fn ask<T: DeserializeOwned>(
    paths: &Paths,
    passphrase: PassphraseFrom<'_>,
    request: &Request,
    progress: &mut dyn FnMut(&WaitProgress),
) -> Outcome<T> {
    is_answering(paths)?;
    let stream = match crate::control::connect(&paths.socket()) {
        Ok(stream) => stream,
        Err(_) => {
            start(paths, passphrase)?;
            crate::control::connect(&paths.socket()).map_err(gone)?
        }
    };
    converse(paths, stream, request, progress).map(|(value, _)| value)
}

/// Ends a running daemon and returns once its process is gone.
///
/// # Errors
/// When programs use its mounts and `in_use` respects them, or when it does not end in time.
pub(crate) fn stop(paths: &Paths, in_use: InUse) -> Outcome<Option<Value>> {
    is_answering(paths)?;
    let Ok(stream) = crate::control::connect(&paths.socket()) else { return Ok(None) };
    let (value, mut reader) = converse(paths, stream, &Request::Stop { in_use }, &mut |_| ())?;
    reader.get_ref().set_read_timeout(Some(STOP_WAIT)).map_err(gone)?;
    let mut rest = Vec::new();
    // The daemon keeps the connection until its process ends.
    match io::Read::read_to_end(&mut reader, &mut rest) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Some(value)),
        Err(_) => Err(Problem::new(
            Exit::NotReached,
            "The daemon has unmounted everything, but its process does not end.",
            "Look at its log (`cobox-ctl doctor` says where), then end the process.",
        )),
    }
}

fn gone(error: io::Error) -> Problem {
    Problem::failed_with(
        format!("The daemon went away: {error}."),
        "Its log says why (`cobox-ctl doctor` shows where it is). Nothing that was written is lost; try again.",
    )
}

fn converse<T: DeserializeOwned>(
    paths: &Paths,
    stream: UnixStream,
    request: &Request,
    progress: &mut dyn FnMut(&WaitProgress),
) -> Outcome<(T, BufReader<UnixStream>)> {
    let mut writing = stream.try_clone().map_err(gone)?;
    write_line(&mut writing, request).map_err(gone)?;
    let mut reader = BufReader::new(stream);
    let mut quiet = Quiet::begin(paths);
    loop {
        let reply: Reply = read_line(&mut reader, REPLY_BYTES_MAX).map_err(|error| match error {
            LineError::Io(error) => gone(error),
            LineError::Ended => gone(io::ErrorKind::UnexpectedEof.into()),
            error => foreign(&error),
        })?;
        match reply {
            Reply::Progress(value) => {
                quiet.end();
                if let Ok(step) = serde_json::from_value(value) {
                    progress(&step);
                }
            }
            Reply::Ok(value) => {
                return serde_json::from_value(value)
                    .map(|value| (value, reader))
                    .map_err(|error| foreign(&LineError::Malformed(error)));
            }
            Reply::Error(problem) => return Err(problem),
        }
    }
}

fn foreign(error: &LineError) -> Problem {
    Problem::failed_with(
        format!("The daemon's answer is not understood: {}.", crate::advice::chain(error)),
        "It may be of another version: end it with `cobox-ctl daemon stop` and try again.",
    )
}

/// Starts the daemon in the background and waits until it answers.
///
/// # Errors
/// What it says when it cannot start.
pub(crate) fn start(paths: &Paths, passphrase: PassphraseFrom<'_>) -> Outcome<()> {
    super::setup::require_device(paths)?;
    let passphrase =
        if Home::needs_passphrase(&paths.store)? { Some(existing_passphrase(passphrase)?) } else { None };
    private_dir(&paths.log)?;
    private_dir(&paths.run)?;
    let deadline = Instant::now() + START_WAIT;
    loop {
        let started = launch(paths, passphrase.as_ref());
        // Another command may have started one at the same moment; then that one is ours too.
        if is_running(paths) {
            return Ok(());
        }
        match started {
            Err(problem)
                if problem.code == Exit::Refused && problem.message.contains("in use by another process") =>
            {
                if Instant::now() >= deadline {
                    return Err(problem);
                }
                std::thread::sleep(START_POLL);
                // A daemon that ends just now, or begins just now, holds the lock without answering.
                if !lock_is_fleeting(deadline) {
                    return Err(problem);
                }
            }
            other => return other,
        }
    }
}

/// Whether it is worth trying again: for a few seconds a lock without a socket is a daemon that begins or
/// ends; later it belongs to another one.
fn lock_is_fleeting(deadline: Instant) -> bool {
    deadline.saturating_duration_since(Instant::now()) > START_WAIT - Duration::from_secs(5)
}

/// The first descriptor after standard input, output and error.
const FIRST_OTHER_FD: i32 = 3;

fn launch(paths: &Paths, passphrase: Option<&Zeroizing<String>>) -> Outcome<()> {
    let program = daemon_program();
    let log_path = paths.log_file();
    if std::fs::metadata(&log_path).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
        let _ = std::fs::rename(&log_path, log_path.with_extension("log.1"));
    }
    let problem = |what: &str, error: &io::Error| {
        Problem::failed_with(
            format!("{what} cannot be used: {error}."),
            "Install cobox-ctl and coboxd side by side, and check who owns the device's folder.",
        )
    };
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(|error| problem(&log_path.display().to_string(), &error))?;
    let mut command = Command::new(&program);
    command.arg("--detach").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    if passphrase.is_some() {
        command.arg("--passphrase-stdin");
    }
    // The daemon outlives whoever called us, and must not hold their locks and pipes for so long.
    close_fds::set_fds_cloexec(FIRST_OTHER_FD, &[]);
    let mut child = command.spawn().map_err(|error| problem(&program.display().to_string(), &error))?;
    if let (Some(mut pipe), Some(passphrase)) = (child.stdin.take(), passphrase) {
        // A daemon that died at once does not read; its own words say more than this error.
        let _ = pipe.write_all(passphrase.as_bytes()).and_then(|()| pipe.write_all(b"\n"));
    }
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        let _ = BufReader::new(pipe).read_line(&mut line);
    }
    match serde_json::from_str(&line) {
        Ok(Reply::Ok(_)) => Ok(()),
        Ok(Reply::Error(problem)) => Err(problem),
        _ => Err(Problem::failed_with(
            "The daemon did not start.",
            format!("Its log says why: {}.", log_path.display()),
        )),
    }
}

/// `coboxd` beside this program, else wherever the shell would find it.
fn daemon_program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("coboxd"));
    beside.filter(|program| program.exists()).unwrap_or_else(|| PathBuf::from("coboxd"))
}
