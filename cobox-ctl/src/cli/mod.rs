//! `cobox-ctl`: reads the command line, asks the daemon, prints the answer.
//!
//! It holds no keys and no state. The only verbs that work without a daemon are those that make a
//! device, and `doctor`.

mod agreement;
mod alive;
mod args;
mod client;
mod conflicts;
mod doctor;
mod member;
mod owned;
mod secrets;
mod setup;
mod whereis;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cobox_net::http::Reach;
use cobox_net::http::recent::Recorder;
use cobox_store::keyed::{Home, Unlock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::control::{Audience, InUse, MountAccess, PolicyFor, Reply, Request, Shortfall, write_line};
use crate::exit::{Exit, Outcome, Problem};
use crate::paths::Paths;
use crate::render::progress::{Progress, Style};
use crate::render::{self, seeders, text};
use crate::report::{
    AlarmSettings, AlarmTest, ApiReport, ArriveReport, AuditReport, CheckReport, FolderReport, Holding,
    KeyReport, LeaveReport, MountReport, PruneReport, PruneState, SeederAddReport, SeederRemoveReport,
    StatusReport, WaitReport,
};
use args::{AlarmVerb, ApiVerb, Cli, DaemonArgs, DaemonVerb, FolderVerb, KeyVerb, SeederVerb, Verb};
use secrets::PassphraseFrom;

/// What a verb produced: an object for scripts, text for people, and the exit code.
struct Answer {
    value: Value,
    text: String,
    exit: Exit,
}

impl Answer {
    fn new(report: &impl Serialize, text: String) -> Outcome<Self> {
        let value = serde_json::to_value(report)
            .map_err(|error| Problem::failed(format!("The answer cannot be written: {error}.")))?;
        Ok(Self { value, text, exit: Exit::Done })
    }

    fn ending(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }
}

/// The program `cobox-ctl`.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match <Cli as clap::Parser>::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let style = Style::of(cli.json);
    let answer = Paths::from_environment().and_then(|paths| Session { paths, cli: &cli, style }.run());
    let exit = match answer {
        Ok(answer) => {
            if cli.json {
                println!("{}", answer.value);
            } else {
                print!("{}", answer.text);
            }
            answer.exit
        }
        Err(problem) => {
            report(&problem, style);
            problem.code
        }
    };
    ExitCode::from(exit.code())
}

/// Tells what is wrong with a command line; help and version, which clap reports the same way, are no error.
fn not_understood(error: &clap::Error) -> ExitCode {
    let asked_for_json =
        std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json");
    if !error.use_stderr() || !asked_for_json {
        error.exit();
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let message = paragraphs.next().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
    let hint = paragraphs.map(str::trim).collect::<Vec<_>>().join(" ").replace('\n', " ");
    let problem = Problem::usage(message, hint);
    let code = problem.code.code();
    report(&problem, Style::Json);
    ExitCode::from(code)
}

fn report(problem: &Problem, style: Style) {
    if style == Style::Json {
        println!("{}", json!({ "error": problem, "exit": problem.code.code() }));
        return;
    }
    eprintln!("cobox-ctl: {}", problem.message);
    if !problem.hint.is_empty() {
        eprintln!("{}", problem.hint);
    }
}

struct Session<'a> {
    paths: Paths,
    cli: &'a Cli,
    style: Style,
}

impl Session<'_> {
    fn run(&self) -> Outcome<Answer> {
        match &self.cli.verb {
            Verb::Init(args) => {
                let value = setup::init(&self.paths, args, self.passphrase_file())?;
                Answer::new(
                    &value,
                    text::init(&self.paths.home, args.words_out.as_deref(), args.no_passphrase),
                )
            }
            Verb::Recover(args) => {
                let mut progress = Progress::new(self.style);
                let report: ArriveReport =
                    setup::recover(&self.paths, args, self.passphrase_file(), &mut progress)?;
                progress.done();
                Answer::new(&report, text::recovered(&report))
            }
            Verb::Daemon(verb) => self.daemon(verb),
            Verb::Folder(verb) => self.folder(verb),
            Verb::Mount(args) => self.mount(args),
            Verb::Umount { dir } => self.umount(dir),
            Verb::Seeder(verb) => self.seeder(verb),
            Verb::Status { folder } => {
                let report = self.status(folder.clone())?;
                Answer::new(&report, text::status(&report))
            }
            Verb::Peers { folder } => self.peers(folder.clone()),
            Verb::Health { folder } => {
                let report = render::health::of(&self.status(folder.clone())?);
                Ok(Answer::new(&report, text::health(&report))?.ending(report.exit()))
            }
            Verb::Whereis { path } => {
                let status = self.status(None)?;
                let report = whereis::of(&resolve_link(path)?, &status)?;
                Answer::new(&report, whereis::text(&report))
            }
            Verb::Alarm(verb) => self.alarm(verb),
            Verb::Conflicts(args) => self.conflicts(args),
            Verb::Wait(args) => {
                let timeout_ms =
                    args.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
                let request = Request::Wait { folder: args.folder.clone(), copies: args.copies, timeout_ms };
                let report: WaitReport = self.ask_slowly(&request)?;
                Answer::new(&report, text::waited(&report))
            }
            Verb::Check { folder } => {
                let report: CheckReport = self.ask_slowly(&Request::Check { folder: folder.clone() })?;
                let damaged = report.folders.iter().any(|folder| !folder.damage.is_empty());
                let exit = if damaged { Exit::Damaged } else { Exit::Done };
                Ok(Answer::new(&report, text::checked(&report))?.ending(exit))
            }
            Verb::Agreement(verb) => self.agreement(verb),
            Verb::Prune { folder, dry_run } => self.prune(folder, *dry_run),
            Verb::Key(verb) => self.key(verb),
            Verb::Member(verb) => self.member(verb),
            Verb::Device(verb) => self.device(verb),
            Verb::Api(verb) => self.api(verb),
            Verb::Doctor => {
                let report = doctor::examine(&self.paths);
                let exit = if report.is_well() { Exit::Done } else { Exit::Failed };
                Ok(Answer::new(&report, doctor::text(&report))?.ending(exit))
            }
            Verb::Later(_) => Err(not_yet()),
        }
    }

    fn prune(&self, folder: &str, dry_run: bool) -> Outcome<Answer> {
        let request = Request::Prune { folder: folder.to_owned(), dry_run };
        let report: PruneReport = self.ask_slowly(&request)?;
        let exit = match report.state {
            PruneState::Waiting | PruneState::Void | PruneState::Copies => Exit::NotReached,
            _ => Exit::Done,
        };
        Ok(Answer::new(&report, render::prune::pruned(&report))?.ending(exit))
    }

    fn peers(&self, folder: Option<String>) -> Outcome<Answer> {
        let folders = self.status(folder)?.folders;
        let peers = |folder: &FolderReport| json!({ "folder": folder.name, "seeders": folder.seeders, "devices": folder.devices });
        let all: Vec<Value> = folders.iter().map(peers).collect();
        Answer::new(&json!({ "folders": all }), text::peers(&folders))
    }

    fn alarm(&self, verb: &AlarmVerb) -> Outcome<Answer> {
        let settings: AlarmSettings = match verb {
            AlarmVerb::Test => {
                let report: AlarmTest = self.ask(&Request::AlarmTest)?;
                let exit = if report.problems.is_empty() { Exit::Done } else { Exit::Failed };
                return Ok(Answer::new(&report, text::alarm_tested(&report))?.ending(exit));
            }
            AlarmVerb::Show => self.ask(&Request::AlarmShow)?,
            AlarmVerb::Off => self.ask(&Request::AlarmSet { settings: AlarmSettings::default() })?,
            AlarmVerb::Set(args) => {
                let after_ms = args.after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                let settings = AlarmSettings {
                    program: args.run.clone(),
                    url: args.url.clone(),
                    mail: args.mail.clone(),
                    after_ms: after_ms.unwrap_or(AlarmSettings::default().after_ms),
                };
                self.ask(&Request::AlarmSet { settings })?
            }
        };
        Answer::new(&settings, text::alarm(&settings))
    }

    fn api(&self, verb: &ApiVerb) -> Outcome<Answer> {
        let report: ApiReport = match verb {
            ApiVerb::Openapi => {
                let document = crate::api::document();
                let text = document.to_pretty_json().unwrap_or_default() + "\n";
                return Answer::new(&document, text);
            }
            ApiVerb::Show => self.ask(&Request::ApiShow)?,
            ApiVerb::Off => self.ask(&Request::ApiSet { listen: None, reach: Reach::Loopback })?,
            ApiVerb::Listen { addr, remote } => {
                let reach = if *remote { Reach::Network } else { Reach::Loopback };
                self.ask(&Request::ApiSet { listen: Some(addr.clone()), reach })?
            }
        };
        Answer::new(&report, text::api(&report))
    }

    fn passphrase_file(&self) -> Option<&PathBuf> {
        self.cli.passphrase_file.as_ref()
    }

    fn passphrase(&self) -> PassphraseFrom<'_> {
        PassphraseFrom::option(self.passphrase_file())
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Outcome<T> {
        client::ask(&self.paths, self.passphrase(), request, &mut |_| ())
    }

    fn ask_slowly<T: DeserializeOwned>(&self, request: &Request) -> Outcome<T> {
        let mut progress = Progress::new(self.style);
        let answer = client::ask(&self.paths, self.passphrase(), request, &mut |step| progress.step(step));
        progress.done();
        answer
    }

    fn status(&self, folder: Option<String>) -> Outcome<StatusReport> {
        self.ask(&Request::Status { folder })
    }

    fn daemon(&self, verb: &DaemonVerb) -> Outcome<Answer> {
        match verb {
            DaemonVerb::Start => {
                let was_running = alive::is_answering(&self.paths)?;
                if !was_running {
                    client::start(&self.paths, self.passphrase())?;
                }
                let words = if was_running { "runs already" } else { "is running" };
                Answer::new(
                    &json!({ "running": true, "started": !was_running }),
                    format!("The daemon {words}.\n"),
                )
            }
            DaemonVerb::Stop { force } => {
                let in_use = if *force { InUse::Detach } else { InUse::Refuse };
                let stopped = client::stop(&self.paths, in_use)?;
                let text = if stopped.is_some() { "The daemon has ended." } else { "No daemon was running." };
                Answer::new(&json!({ "running": false, "stopped": stopped.is_some() }), format!("{text}\n"))
            }
            DaemonVerb::Status if alive::is_answering(&self.paths)? => {
                let pong: Value = self.ask(&Request::Ping)?;
                let pid = pong.get("pid").and_then(Value::as_u64).unwrap_or_default();
                Answer::new(
                    &json!({ "running": true, "pid": pid }),
                    format!("The daemon is running (process {pid}).\n"),
                )
            }
            DaemonVerb::Status => {
                Ok(Answer::new(&json!({ "running": false }), "No daemon is running.\n".to_owned())?
                    .ending(Exit::Failed))
            }
            DaemonVerb::Run => {
                cobox_net::heaps::begin_with_few();
                setup::require_device(&self.paths)?;
                let unlock = if Home::needs_passphrase(&self.paths.store)? {
                    Unlock::Passphrase(secrets::existing_passphrase(self.passphrase())?)
                } else {
                    Unlock::KeyFile(self.paths.key.clone())
                };
                start_log();
                crate::daemon::run(self.paths.clone(), unlock, || ())?;
                Answer::new(&json!({ "running": false }), String::new())
            }
        }
    }

    fn folder(&self, verb: &FolderVerb) -> Outcome<Answer> {
        match verb {
            FolderVerb::Create { name } => {
                let report: FolderReport = self.ask(&Request::FolderCreate { name: name.clone() })?;
                let text = format!(
                    "The folder {name} is there. Mount it with `cobox-ctl mount {name} DIR`, and have it kept with \
                     `cobox-ctl seeder add {name} ADDR --quota 50G`.\n"
                );
                Answer::new(&report, text)
            }
            FolderVerb::List => {
                let report = self.status(None)?;
                Answer::new(&json!({ "folders": report.folders }), text::folders(&report.folders))
            }
            FolderVerb::Show { name } => {
                let report = self.status(Some(name.clone()))?;
                let folder = report.folders.first().ok_or_else(|| Problem::failed("The folder is gone."))?;
                Answer::new(folder, text::folder(folder))
            }
            FolderVerb::Invite(args) => self.invite(args),
            FolderVerb::Join(args) => self.join(args),
            FolderVerb::Leave { name, force } => {
                let shortfall = if *force { Shortfall::Accept } else { Shortfall::Refuse };
                let report: LeaveReport =
                    self.ask(&Request::FolderLeave { folder: name.clone(), shortfall })?;
                Answer::new(&report, text::left(&report))
            }
            FolderVerb::Set(args) => {
                let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                let report: FolderReport = self.ask(&Request::FolderSet {
                    folder: args.name.clone(),
                    copies: args.copies,
                    tolerance_ms: args.tolerance.map(millis),
                    whom: match (args.follow, args.here) {
                        (true, _) => PolicyFor::Nobody,
                        (false, true) => PolicyFor::Device,
                        (false, false) => PolicyFor::Folder,
                    },
                })?;
                Answer::new(&report, text::folder_set(&report))
            }
        }
    }

    /// Before a path is looked at that may lie in a mount: in that of a daemon that hangs, so would the look.
    fn require_answers(&self) -> Outcome<()> {
        alive::is_answering(&self.paths).map(drop)
    }

    fn umount(&self, dir: &Path) -> Outcome<Answer> {
        self.require_answers()?;
        let report: MountReport = self.ask(&Request::Umount { dir: resolve(dir)? })?;
        Answer::new(&report, format!("{} is unmounted; what was written is kept.\n", report.dir.display()))
    }

    fn mount(&self, args: &args::Mount) -> Outcome<Answer> {
        self.require_answers()?;
        let report: MountReport = self.ask(&Request::Mount {
            folder: args.folder.clone(),
            dir: resolve(&args.dir)?,
            audience: if args.allow_other { Audience::Everyone } else { Audience::Owner },
            access: if args.read_only { MountAccess::ReadOnly } else { MountAccess::ReadWrite },
        })?;
        let how = if report.read_only { ", read-only" } else { "" };
        Answer::new(&report, format!("{} is mounted at {}{how}.\n", args.folder, report.dir.display()))
    }

    fn seeder(&self, verb: &SeederVerb) -> Outcome<Answer> {
        match verb {
            SeederVerb::Add(args) => {
                let report: SeederAddReport = self.ask(&Request::SeederAdd {
                    folder: args.folder.clone(),
                    address: args.address.clone(),
                    quota_bytes: args.quota,
                    until_ms: args.until.unwrap_or(0),
                })?;
                Answer::new(&report, text::seeder_added(&report))
            }
            SeederVerb::List { folder } => {
                let report = self.status(Some(folder.clone()))?;
                let seeders: Vec<_> = report.folders.into_iter().flat_map(|folder| folder.seeders).collect();
                Answer::new(&json!({ "folder": folder, "seeders": seeders }), seeders::seeders(&seeders))
            }
            SeederVerb::Audit { folder, seeder } => {
                let request = Request::SeederAudit { folder: folder.clone(), seeder: seeder.clone() };
                let report: AuditReport = self.ask(&request)?;
                let proved = report.proofs.iter().all(|proof| proof.holding == Holding::Proved);
                let asked = report.proofs.iter().all(|proof| proof.time_ms > 0);
                let exit = match (proved, asked) {
                    (true, _) => Exit::Done,
                    (false, true) => Exit::Damaged,
                    (false, false) => Exit::NotReached,
                };
                Ok(Answer::new(&report, text::audited(&report))?.ending(exit))
            }
            SeederVerb::Remove { folder, seeder, force } => {
                let (folder, seeder) = (folder.clone(), seeder.clone());
                let shortfall = if *force { Shortfall::Accept } else { Shortfall::Refuse };
                let report: SeederRemoveReport =
                    self.ask(&Request::SeederRemove { folder, seeder, shortfall })?;
                Answer::new(&report, text::seeder_removed(&report))
            }
            SeederVerb::Code(args) => self.seed_code(args),
            SeederVerb::Claim(args) => self.claim(args),
            SeederVerb::Owned => self.owned(),
            SeederVerb::Forget { seeder, yes } => self.forget_owned(seeder, *yes),
            SeederVerb::Manage(args) => self.manage(args),
        }
    }

    fn key(&self, verb: &KeyVerb) -> Outcome<Answer> {
        let report: KeyReport = match verb {
            KeyVerb::Rotate(_) => return Err(not_yet()),
            KeyVerb::Show | KeyVerb::Export => self.ask(&Request::KeyShow)?,
        };
        let text = match verb {
            KeyVerb::Export => format!("{}\n", serde_json::to_string_pretty(&report).unwrap_or_default()),
            _ => text::keys(&report),
        };
        Answer::new(&report, text)
    }
}

fn not_yet() -> Problem {
    Problem::refused(
        "This is not in this version; it comes later.",
        "The changelog says what each version can do.",
    )
}

/// The absolute path without symbolic links. A dead mount does not answer; then its parent is asked.
fn resolve(path: &Path) -> Outcome<PathBuf> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Problem::usage(format!("{} is not a path: {error}.", path.display()), ""))?;
    if let Ok(found) = std::fs::canonicalize(&absolute) {
        return Ok(found);
    }
    let parent = absolute.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
    Ok(match (parent, absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    })
}

/// The same, with a last part that stays a symbolic link where it is one.
fn resolve_link(path: &Path) -> Outcome<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if path.is_symlink() => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(resolve(parent)?.join(name))
        }
        _ => resolve(path),
    }
}

/// What the daemon says of itself goes to standard error, as much as `COBOX_LOG` asks for.
fn start_log() {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    use tracing_subscriber::{EnvFilter, fmt, registry};
    let filter = EnvFilter::try_from_env("COBOX_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let shown = fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
    let kept = fmt::layer().with_writer(|| Recorder).with_ansi(false);
    // A second subscriber in one process is no reason to stop.
    let _ = registry().with(filter).with(shown).with(kept).try_init();
}

/// The program `coboxd`.
#[must_use]
pub fn daemon_main() -> ExitCode {
    cobox_net::heaps::begin_with_few();
    let args = <DaemonArgs as clap::Parser>::parse();
    // Nothing of the device's is for other users of the machine, RocksDB's own files included.
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o077));
    // Whoever leads a group of processes already has left the terminal's session, or may not.
    if args.detach
        && let Err(error) = rustix::process::setsid()
        && error != rustix::io::Errno::PERM
    {
        eprintln!("coboxd: the session was not left: {error}");
    }
    start_log();
    let announce = |reply: &Reply| {
        if args.detach {
            // Whoever started us may have gone; then nobody needs to know.
            let _ = write_line(&mut std::io::stdout().lock(), reply);
        }
    };
    let ran = Paths::from_environment().and_then(|paths| {
        let unlock = daemon_unlock(&paths, &args)?;
        crate::daemon::run(paths, unlock, || announce(&Reply::Ok(json!({ "pid": std::process::id() }))))
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            tracing::error!("{} {}", problem.message, problem.hint);
            announce(&Reply::Error(problem.clone()));
            ExitCode::from(problem.code.code())
        }
    }
}

fn daemon_unlock(paths: &Paths, args: &DaemonArgs) -> Outcome<Unlock> {
    setup::require_device(paths)?;
    if !args.passphrase_stdin {
        return Ok(Unlock::KeyFile(paths.key.clone()));
    }
    let mut line = Zeroizing::new(String::new());
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Problem::failed(format!("No passphrase came: {error}.")))?;
    Ok(Unlock::Passphrase(Zeroizing::new(line.trim_end_matches('\n').to_owned())))
}
