//! The control socket: one thread per connection, one request each.

use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::Daemon;
use super::mounts::WantedMount;
use crate::control::{InUse, LineError, REQUEST_BYTES_MAX, Reply, Request, read_line, write_line};
use crate::exit::{Exit, Outcome, Problem};
use crate::paths::Paths;
use crate::report::WaitProgress;

/// More people at one machine than this do not type at once; a script that forgets to close is refused.
const CONNECTIONS_MAX: usize = 64;
/// A client sends its request at once; one that does not gets no thread for longer.
const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// A client that stops reading is given up.
const REPLY_WAIT: Duration = Duration::from_secs(30);
/// Progress lines come at most this often.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);

/// Makes the socket, closed to everyone else. A socket that is there belongs to a dead daemon, since the
/// caller holds the store's lock.
pub(crate) fn listen(paths: &Paths) -> Outcome<UnixListener> {
    let socket = paths.socket();
    let problem = |error: io::Error| {
        Problem::failed_with(
            format!("The control socket {} cannot be made: {error}.", socket.display()),
            "Check who owns that folder, or set COBOX_HOME to another place.",
        )
    };
    match std::fs::remove_file(&socket) {
        Ok(()) => tracing::warn!("the socket of a dead daemon was removed"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(problem(error)),
    }
    let listener = crate::control::listen(&socket).map_err(problem)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(problem)?;
    Ok(listener)
}

/// Answers from now on, until the process ends.
pub(crate) fn start(daemon: &Arc<Daemon>, listener: UnixListener) -> Outcome<()> {
    let daemon = Arc::clone(daemon);
    let open = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors, most likely: let some connections end before the next try.
                std::thread::sleep(PROGRESS_PAUSE);
                continue;
            };
            if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let (daemon, open) = (Arc::clone(&daemon), Arc::clone(&open));
            let handle = move || {
                converse(&daemon, stream);
                open.fetch_sub(1, Ordering::SeqCst);
            };
            if let Err(error) = std::thread::Builder::new().name("control".into()).spawn(handle) {
                tracing::error!(%error, "a request could not be answered");
            }
        }
    };
    std::thread::Builder::new()
        .name("accept".into())
        .spawn(accept)
        .map(drop)
        .map_err(|error| Problem::failed(format!("A thread cannot be started: {error}.")))
}

fn converse(daemon: &Arc<Daemon>, stream: UnixStream) {
    let set_up = stream
        .set_read_timeout(Some(REQUEST_WAIT))
        .and_then(|()| stream.set_write_timeout(Some(REPLY_WAIT)))
        .and_then(|()| stream.try_clone());
    let Ok(reading) = set_up else { return };
    let mut writer = BufWriter::new(stream);
    let request: Request = match read_line(&mut BufReader::new(reading), REQUEST_BYTES_MAX) {
        Ok(request) => request,
        Err(LineError::Ended | LineError::Io(_)) => return,
        Err(error) => {
            let text = crate::advice::chain(&error);
            let problem = Problem::usage(
                format!("The daemon does not understand the request: {text}."),
                "Use the cobox-ctl of the same version; `cobox-ctl daemon stop` ends an old daemon.",
            );
            let _ = write_line(&mut writer, &Reply::Error(problem));
            return;
        }
    };
    let stopping = matches!(request, Request::Stop { .. });
    let mut last = None;
    let mut tell = |progress: &WaitProgress| {
        let gone = || Problem::failed("Nobody listens any more.");
        if has_hung_up(writer.get_ref()) {
            return Err(gone());
        }
        if last.is_some_and(|last: Instant| last.elapsed() < PROGRESS_PAUSE) {
            return Ok(());
        }
        last = Some(Instant::now());
        write_line(&mut writer, &Reply::Progress(value(progress)?)).map_err(|_| gone())
    };
    let reply = match answer(daemon, request, &mut tell) {
        Ok(value) => Reply::Ok(value),
        Err(problem) => Reply::Error(problem),
    };
    if write_line(&mut writer, &reply).is_err() {
        tracing::debug!("nobody waited for an answer");
    }
    if stopping && matches!(reply, Reply::Ok(_)) {
        // The client waits for the end of this connection, which is the end of the process.
        std::mem::forget(writer);
    }
}

/// Whether the client has gone: after its request it says nothing, and closes its end only with its own.
fn has_hung_up(stream: &UnixStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let peeked = recv(stream, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    match peeked {
        Ok((_, count)) => count == 0,
        Err(error) => !matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
    }
}

fn value(report: &impl Serialize) -> Outcome<Value> {
    serde_json::to_value(report)
        .map_err(|error| Problem::failed(format!("The answer cannot be written: {error}.")))
}

/// Carries out a request, for the control socket and for the HTTP API.
pub(crate) fn answer(daemon: &Arc<Daemon>, request: Request, tell: super::wait::Tell<'_>) -> Outcome<Value> {
    if daemon.is_ending() && !matches!(request, Request::Stop { .. }) {
        return Err(Problem::failed_with("The daemon is ending.", "Try again in a moment."));
    }
    match request {
        Request::Ping => Ok(json!({ "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id() })),
        Request::Stop { in_use } => {
            match in_use {
                InUse::Refuse => daemon.shut_down_unless_in_use()?,
                InUse::Detach => daemon.shut_down(),
            }
            Ok(json!({ "pid": std::process::id() }))
        }
        Request::FolderCreate { name } => {
            let state = daemon.folder_create(&name)?;
            value(&daemon.folder_report(&state)?)
        }
        Request::FolderLeave { folder, shortfall } => value(&daemon.folder_leave(&folder, shortfall)?),
        Request::FolderSet { folder, copies, tolerance_ms, whom } => {
            let state = daemon.folder(&folder)?;
            state.set_policy(copies, tolerance_ms, whom)?;
            value(&daemon.folder_report(&state)?)
        }
        Request::AlarmShow => value(&daemon.alarm_settings()?),
        Request::AlarmSet { settings } => value(&daemon.alarm_set(&settings)?),
        Request::AlarmTest => value(&daemon.alarm_test()?),
        Request::Status { folder } => value(&daemon.status(folder.as_deref())?),
        Request::Mount { folder, dir, audience, access } => {
            let dir = absolute(dir)?;
            value(&daemon.folder(&folder)?.mount(daemon, WantedMount { dir, audience, access })?)
        }
        Request::Umount { dir } => value(&daemon.umount(&absolute(dir)?)?),
        Request::SeederAdd { folder, address, quota_bytes, until_ms } => {
            value(&daemon.seeder_add(&folder, &address, quota_bytes, until_ms)?)
        }
        Request::SeederAudit { folder, seeder } => value(&daemon.seeder_audit(&folder, seeder.as_deref())?),
        Request::SeederRemove { folder, seeder, shortfall } => {
            value(&daemon.seeder_remove(&folder, &seeder, shortfall)?)
        }
        Request::Wait { folder, copies, timeout_ms } => {
            value(&daemon.wait(&folder, copies, timeout_ms.map(Duration::from_millis), tell)?)
        }
        Request::Arrive { timeout_ms } => {
            value(&daemon.arrive(None, Duration::from_millis(timeout_ms), tell)?)
        }
        Request::Check { folder } => value(&daemon.check(folder.as_deref(), tell)?),
        Request::Prune { folder, dry_run } => {
            let how = if dry_run { super::Prune::Dry } else { super::Prune::Now };
            value(&daemon.prune(&folder, how)?)
        }
        Request::KeyShow => value(&daemon.keys()),
        Request::ApiShow => value(&daemon.api_report()),
        Request::ApiSet { listen, reach } => value(&daemon.api_set(listen, reach)?),
        other => answer_about_seeders(daemon, other, tell),
    }
}

/// Agreements, seed codes, and seeders that this member commands.
fn answer_about_seeders(
    daemon: &Arc<Daemon>,
    request: Request,
    tell: super::wait::Tell<'_>,
) -> Outcome<Value> {
    match request {
        Request::SeedCode { folder, quota_bytes, until_ms, valid_ms } => {
            value(&daemon.seed_code(&folder, quota_bytes, until_ms, valid_ms)?)
        }
        Request::SeedCodeList { folder } => value(&daemon.seed_codes(&folder)?),
        Request::SeedCodeVoid { folder, code } => value(&daemon.void_seed(&folder, &code)?),
        Request::AgreementPropose { folder, seeder, wishes } => {
            value(&daemon.agreement_propose(&folder, &seeder, &wishes)?)
        }
        Request::AgreementList { folder } => value(&daemon.agreements(folder.as_deref())?),
        Request::AgreementAccept { folder, id } => value(&daemon.agreement_accept(&folder, &id)?),
        Request::AgreementEnd { folder, seeder, shortfall } => {
            value(&daemon.agreement_end(&folder, &seeder, shortfall)?)
        }
        Request::SeederClaim { code, name } => value(&daemon.seeder_claim(&code, name.as_deref())?),
        Request::SeederReclaim { address, words, name } => {
            value(&daemon.seeder_reclaim(&address, &words.0, name.as_deref())?)
        }
        Request::SeederOwned => value(&daemon.owned()?),
        Request::SeederForget { name, sure } => value(&daemon.owned_forget(&name, sure)?),
        Request::SeederManage { name, told, sure } => value(&daemon.seeder_manage(&name, &told, sure)?),
        other => answer_about_people(daemon, other, tell),
    }
}

fn answer_about_people(
    daemon: &Arc<Daemon>,
    request: Request,
    tell: super::wait::Tell<'_>,
) -> Outcome<Value> {
    match request {
        Request::Invite { folder, role, valid_ms } => value(&daemon.invite(&folder, role, valid_ms)?),
        Request::InviteList { folder } => value(&daemon.invites(&folder)?),
        Request::InviteVoid { folder, invite } => value(&daemon.void_invite(&folder, &invite)?),
        Request::Join { code, name, timeout_ms } => {
            value(&daemon.join(&code, name.as_deref(), Duration::from_millis(timeout_ms), tell)?)
        }
        Request::MemberList { folder } => value(&daemon.people(&folder)?),
        Request::MemberRole { folder, member, role, unseen, sure } => {
            value(&daemon.person_role(&folder, &member, role, (unseen, sure), tell)?)
        }
        Request::MemberRemove { folder, member, unseen, sure } => {
            value(&daemon.person_remove(&folder, &member, (unseen, sure), tell)?)
        }
        Request::DeviceLapse { folder, device, unseen } => {
            value(&daemon.device_lapse(&folder, &device, unseen, tell)?)
        }
        Request::DeviceRemove { folder, device, unseen, sure } => {
            value(&daemon.device_remove(&folder, &device, (unseen, sure), tell)?)
        }
        other => answer_about_conflicts(daemon, other),
    }
}

fn answer_about_conflicts(daemon: &Daemon, request: Request) -> Outcome<Value> {
    match request {
        Request::Conflicts { folder } => value(&daemon.conflicts(folder.as_deref())?),
        Request::ConflictKeep { path, how } => value(&daemon.conflict_keep(&path, how)?),
        _ => Err(Problem::failed("The request was answered elsewhere.")),
    }
}

fn absolute(dir: PathBuf) -> Outcome<PathBuf> {
    if dir.is_absolute() {
        Ok(dir)
    } else {
        Err(Problem::new(Exit::Usage, format!("{} is not an absolute path.", dir.display()), ""))
    }
}
