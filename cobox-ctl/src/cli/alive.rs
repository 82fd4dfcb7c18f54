//! Whether the daemon lives: a process that was stopped or hangs takes connections, and says nothing for ever.
//!
//! Before a request goes out, a ping on a connection of its own is answered or not; a request itself may then take
//! as long as it takes.

use std::io::{BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::control::{Request, connect, write_line};
use crate::exit::{Exit, Outcome, Problem};
use crate::paths::Paths;
use crate::render::units::span;

/// A request that says nothing for so long makes people wonder.
const QUIET: Duration = Duration::from_secs(10);

/// How long a daemon may be silent.
#[derive(Clone, Copy)]
struct Patience {
    /// Before people are told: a ping is answered in a millisecond, and in a second on a machine that swaps.
    notice: Duration,
    /// Before it is given up: one that starts answers when its folders are open, which takes as long as a start may.
    most: Duration,
}

const PATIENCE: Patience = Patience { notice: Duration::from_secs(3), most: Duration::from_secs(60) };

/// What became of a ping.
enum Sign {
    Nobody,
    Connected(Option<Pid>),
    Answered,
}

/// Whether a daemon answers; `false` where none runs.
///
/// # Errors
/// [`Exit::NotReached`] when one runs and gives no sign of life; people are told before, on standard error.
pub(crate) fn is_answering(paths: &Paths) -> Outcome<bool> {
    let say =
        |problem: &Problem| eprintln!("cobox-ctl: {} Still waiting.\n{}", problem.message, problem.hint);
    wait_for_sign(&paths.socket(), &paths.log_file(), PATIENCE, &say)
}

fn wait_for_sign(socket: &Path, log: &Path, patience: Patience, say: &dyn Fn(&Problem)) -> Outcome<bool> {
    let (sender, signs) = channel();
    let at = socket.to_path_buf();
    // A thread of its own, since also connecting waits where many wait already.
    let begun = std::thread::Builder::new().name("ping".into()).spawn(move || ping(&at, &sender));
    begun.map_err(|error| Problem::failed(format!("A thread cannot be started: {error}.")))?;
    let started = Instant::now();
    let (mut daemon, mut told) = (None, false);
    loop {
        let until = if told { patience.most } else { patience.notice };
        match signs.recv_timeout(until.saturating_sub(started.elapsed())) {
            Ok(Sign::Answered) => return Ok(true),
            Ok(Sign::Connected(pid)) => daemon = pid,
            Ok(Sign::Nobody) | Err(RecvTimeoutError::Disconnected) => return Ok(false),
            Err(RecvTimeoutError::Timeout) if told => {
                let waited = format!("has not answered for {}", span(patience.most));
                return Err(silent(daemon, log, &waited));
            }
            Err(RecvTimeoutError::Timeout) => {
                say(&silent(daemon, log, "does not answer"));
                told = true;
            }
        }
    }
}

/// Whatever comes back is a sign of life, also the end of the connection: then the request itself says more.
fn ping(socket: &Path, signs: &Sender<Sign>) {
    let Ok(stream) = connect(socket) else {
        let _ = signs.send(Sign::Nobody);
        return;
    };
    let _ = signs.send(Sign::Connected(pid_of(&stream)));
    let asked = write_line(&mut &stream, &Request::Ping);
    let _ = asked.and_then(|()| BufReader::new(&stream).read(&mut [0]));
    let _ = signs.send(Sign::Answered);
}

/// Who listens at the other end, where it is in sight of this process.
fn pid_of(stream: &UnixStream) -> Option<Pid> {
    rustix::net::sockopt::socket_peercred(stream).ok().map(|credentials| credentials.pid)
}

fn silent(daemon: Option<Pid>, log: &Path, does: &str) -> Problem {
    let Some(pid) = daemon.map(|pid| pid.as_raw_nonzero()) else {
        return Problem::new(
            Exit::NotReached,
            format!("The daemon {does}."),
            format!("Its log may say why: {}. End its process where waiting does not help.", log.display()),
        );
    };
    if is_stopped(pid.get()) {
        return Problem::new(
            Exit::NotReached,
            format!("The daemon (process {pid}) was stopped and {does}."),
            format!("Let it go on with `kill -CONT {pid}`."),
        );
    }
    Problem::new(
        Exit::NotReached,
        format!("The daemon (process {pid}) {does}."),
        format!(
            "It is opening large folders, or hangs: its log may say why ({}). Where waiting does not help, end it with \
             `kill -KILL {pid}`; what was written and closed is kept, and the next command starts it again.",
            log.display()
        ),
    )
}

/// Whether a signal or a debugger stopped the process.
fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before the state is in parentheses, and may hold any.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('T' | 't'))
}

/// Says once that a request takes its time, or that the daemon stands still by now, unless the request ends or tells how far
/// it is before that.
pub(crate) struct Quiet(Option<Sender<()>>);

impl Quiet {
    pub fn begin(paths: &Paths) -> Self {
        let (sender, ends): (_, Receiver<()>) = channel();
        let paths = paths.clone();
        let watch = move || {
            if ends.recv_timeout(QUIET) == Err(RecvTimeoutError::Timeout) && is_answering(&paths) == Ok(true)
            {
                eprintln!(
                    "The daemon is still at it. Ctrl-C ends the waiting, and perhaps not what it does."
                );
            }
        };
        let begun = std::thread::Builder::new().name("quiet".into()).spawn(watch);
        Self(begun.is_ok().then_some(sender))
    }

    pub fn end(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;
    use std::os::unix::net::UnixListener;
    use std::sync::Mutex;

    use super::*;

    const HASTE: Patience = Patience { notice: Duration::from_millis(20), most: Duration::from_millis(60) };
    const CALM: Patience = Patience { notice: Duration::from_secs(600), most: Duration::from_secs(600) };

    fn listening() -> (tempfile::TempDir, std::path::PathBuf, UnixListener) {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let socket = temp.path().join("control.sock");
        let listener = crate::control::listen(&socket).expect("listens");
        (temp, socket, listener)
    }

    #[test]
    fn daemon_that_takes_connections_and_never_answers_is_told_of_and_given_up() {
        let (_temp, socket, _listener) = listening();
        let said = Mutex::new(Vec::new());
        let say = |problem: &Problem| said.lock().expect("not poisoned").push(problem.message.clone());
        let problem = wait_for_sign(&socket, Path::new("/l/daemon.log"), HASTE, &say).expect_err("silent");
        assert_eq!(problem.code, Exit::NotReached);
        let own = std::process::id();
        assert!(problem.message.contains(&format!("process {own}")), "{problem:?}");
        assert!(problem.hint.contains(&format!("kill -KILL {own}")), "{problem:?}");
        assert!(problem.hint.contains("/l/daemon.log"), "{problem:?}");
        assert!(problem.message.contains("has not answered for"), "{problem:?}");
        let said = said.into_inner().expect("not poisoned");
        assert!(matches!(&said[..], [one] if one.contains("does not answer")), "{said:?}");
    }

    #[test]
    fn daemon_that_answers_or_is_not_there_is_known_at_once() {
        let (temp, socket, listener) = listening();
        let nothing = |problem: &Problem| panic!("{problem:?}");
        let answer = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accepts");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("reads");
            assert_eq!(line, "{\"verb\":\"ping\"}\n");
            write_line(&mut &stream, &"anything").expect("writes");
        });
        assert_eq!(wait_for_sign(&socket, Path::new("/l"), CALM, &nothing), Ok(true));
        answer.join().expect("it was asked");
        // The listener is gone, as after a kill, and then the socket as well.
        assert_eq!(wait_for_sign(&socket, Path::new("/l"), CALM, &nothing), Ok(false));
        assert_eq!(wait_for_sign(&temp.path().join("none"), Path::new("/l"), CALM, &nothing), Ok(false));
    }

    #[test]
    fn process_that_was_stopped_is_told_from_one_that_hangs() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("runs");
        let pid = Pid::from_child(&child);
        assert!(!is_stopped(pid.as_raw_nonzero().get()));
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stops");
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED).expect("is told");
        assert!(silent(Some(pid), Path::new("/l"), "rests").hint.contains("kill -CONT"));
        child.kill().expect("ends");
        child.wait().expect("ended");
    }
}
