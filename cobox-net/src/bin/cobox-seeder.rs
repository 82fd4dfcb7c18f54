//! `cobox-seeder`: holds folders for others without being able to read them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use cobox_net::LanDiscovery;
use cobox_net::agreement::AgreementView;
use cobox_net::http::recent::Recorder;
use cobox_net::http::{Place, Reach};
use cobox_net::patrol::{self, Pace};
use cobox_net::seeder::asking;
use cobox_net::seeder::commands::{Answer, Request};
use cobox_net::seeder::identity::saved_address;
use cobox_net::seeder::rules::Rule as Limits;
use cobox_net::seeder::{Accept, Exit, Failure, LISTEN_DEFAULT, RunOptions, run};
use cobox_net::shown::bytes as size;
use rustix::fs::Mode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[path = "cobox-seeder/printed.rs"]
mod printed;

use printed::{print_answer, print_line};

/// Holds folders for others, as ciphertext it cannot read.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Args)]
struct Common {
    /// The seeder's data folder.
    #[arg(long)]
    data: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Run until SIGTERM or Ctrl-C.
    Run {
        #[command(flatten)]
        common: Common,
        /// Listen here instead of on TCP and QUIC port 7740; may be repeated.
        #[arg(long)]
        listen: Vec<String>,
        /// Put this multiaddress into ADDR, too, before those it listens on: a name that follows a changing address
        /// (/dns4/box.example.org/tcp/7740), or what a router forwards to this machine; may be repeated.
        #[arg(long, value_name = "MULTIADDR")]
        announce: Vec<String>,
        /// Let devices on the local network find it by mDNS, also after its address there changed. It tells everybody on that
        /// network that it is there.
        #[arg(long)]
        mdns: bool,
        /// Whose grants are taken without asking: the owner decides, or anybody's are.
        #[arg(long, value_enum, default_value_t = Rule::Owner)]
        accept: Rule,
        /// With `--accept rule`: a JSON file with the limits within which grants and agreements are taken.
        #[arg(long, value_name = "FILE", required_if_eq("accept", "rule"))]
        rule: Option<PathBuf>,
        /// How long after it has read all it holds, looking for damage, it begins again (s, m, h or d).
        #[arg(long, default_value = "7d", value_parser = span)]
        scrub_every: std::time::Duration,
        /// How much of that it reads in a second, in MiB.
        #[arg(long, default_value_t = patrol::BYTES_PER_S >> 20, value_parser = clap::value_parser!(u64).range(1..=4096))]
        scrub_rate: u64,
        /// Answer HTTP here too, like 127.0.0.1:7780, with the token in the data folder's api.token.
        #[arg(long, value_name = "ADDR")]
        http: Option<String>,
        /// Let --http be reached from other machines. HTTP is not encrypted: prefer ssh, or a web server
        /// that speaks TLS.
        #[arg(long, requires = "http")]
        http_remote: bool,
    },
    /// Print the document that describes the HTTP API (OpenAPI).
    Openapi,
    /// Print the address that members add: one string, on the last line.
    Address(Common),
    /// What is held, for whom, and how much room is left.
    Status(Common),
    /// Grants that wait for the owner.
    Pending(Common),
    /// Take a pending grant, under the terms that `pending` showed.
    Accept {
        /// Its id, whole, as `pending` prints it: it names the folder and the terms.
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Refuse a pending grant.
    Refuse {
        /// Its id, or the beginning of it, as `pending` prints it.
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Read every pack and check it; damaged ones are fetched again from others.
    Scrub(Common),
    /// Show the code that makes whoever redeems it the owner, until it was used.
    Claim {
        #[command(flatten)]
        common: Common,
        /// Dismiss the owners there are, and show a code for a new one.
        #[arg(long)]
        reset: bool,
    },
    /// Hold the folder of a seed code; the running seeder asks until an admin of the folder granted it.
    Seed {
        /// The code; `-` reads it from standard input.
        code: String,
        #[command(flatten)]
        common: Common,
        /// How many seconds to wait for the grant; the seeder goes on asking afterwards.
        #[arg(long, default_value_t = 120)]
        timeout: u64,
    },
    /// Let a folder go: nothing new is taken, and what is here stays for at least 30 days.
    Unseed {
        /// The beginning of the folder's id.
        folder: String,
        #[command(flatten)]
        common: Common,
    },
    /// Take part in nothing until resumed.
    Pause(Common),
    /// Go on after a pause.
    Resume(Common),
    /// Who commands the seeder over the network; `--dismiss` takes one out.
    Admins {
        #[command(flatten)]
        common: Common,
        /// The key of an admin, or of an open code, in hex.
        #[arg(long, value_name = "KEY")]
        dismiss: Option<String>,
    },
    /// What waits, what was ordered, what was refused and why, and what was agreed.
    Report(Common),
    /// Agreements with the people whose folders are held.
    #[command(subcommand)]
    Agreement(AgreementVerb),
}

#[derive(Subcommand)]
enum AgreementVerb {
    /// All agreements: in force, over, proposed, declined.
    List(Common),
    /// The whole text of those of one folder.
    Show {
        /// The beginning of the folder's id, or of the agreement's.
        folder: String,
        #[command(flatten)]
        common: Common,
    },
    /// Sign the terms that wait, as `pending` showed them.
    Accept {
        /// The id, whole, as `pending` prints it.
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Give notice: the agreement ends after the span of notice.
    End {
        /// The beginning of the folder's id.
        folder: String,
        #[command(flatten)]
        common: Common,
    },
}

/// What clap itself ends with.
const EXIT_USAGE: u8 = 2;

#[derive(Clone, Copy, ValueEnum)]
enum Rule {
    /// `cobox-seeder accept ID` decides.
    Owner,
    /// Every grant is taken, and every agreement signed: for tests and closed networks.
    Any,
    /// Those within the limits of `--rule FILE` are.
    #[value(name = "rule")]
    Limits,
}

fn main() -> ExitCode {
    // All that a seeder writes is its owner's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let filter = EnvFilter::try_from_env("COBOX_LOG").unwrap_or_else(|_| EnvFilter::new("info,libp2p=warn"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let shown = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
    let kept = tracing_subscriber::fmt::layer().with_writer(|| Recorder).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(shown).with(kept).init();
    let json = std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json");
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if json && error.use_stderr() => {
            let text = error.render().to_string();
            print_error(text.trim().trim_start_matches("error: "), "usage", EXIT_USAGE);
            return ExitCode::from(EXIT_USAGE);
        }
        Err(error) => error.exit(),
    };
    match carry_out(arguments.verb) {
        Ok(code) => code,
        Err(failure) => {
            let exit = failure.exit as u8;
            if json {
                print_error(&failure.text, failure.exit.name(), exit);
            } else {
                eprintln!("{}", failure.text);
            }
            ExitCode::from(exit)
        }
    }
}

/// The same shape as the errors of `cobox-ctl --json`.
fn print_error(message: &str, code: &str, exit: u8) {
    print_line(
        &serde_json::json!({ "error": { "code": code, "message": message }, "exit": exit }).to_string(),
    );
}

fn carry_out(verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Openapi => {
            let text = cobox_net::seeder::api::document()
                .to_pretty_json()
                .map_err(|error| Failure::failed(error.to_string()))?;
            print_line(&text);
            Ok(ExitCode::SUCCESS)
        }
        Verb::Run {
            common,
            listen,
            announce,
            mdns,
            accept,
            rule,
            scrub_every,
            scrub_rate,
            http,
            http_remote,
        } => {
            cobox_net::heaps::begin_with_few();
            let reach = if http_remote { Reach::Network } else { Reach::Loopback };
            let http = http.map(|text| Place::parse(&text, reach)).transpose()?;
            let listen = if listen.is_empty() { LISTEN_DEFAULT.map(str::to_owned).to_vec() } else { listen };
            let accept = match accept {
                Rule::Owner => Accept::Owner,
                Rule::Any => Accept::Any,
                Rule::Limits => Accept::Rule(Limits::read(rule.as_deref().unwrap_or(Path::new("rule")))?),
            };
            let stop = stop_on_signals()?;
            let pace = Pace { every: scrub_every, bytes_per_s: scrub_rate << 20 };
            let lan = if mdns { LanDiscovery::On } else { LanDiscovery::Off };
            run(&RunOptions { data: common.data, listen, announce, lan, accept, pace, http }, &stop)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Address(common) => {
            let address = saved_address(&common.data)?.to_text();
            if common.json {
                print_line(&serde_json::json!({ "address": address }).to_string());
            } else {
                print_line(&address);
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Status(common) => ask(&common, &Request::Status),
        Verb::Pending(common) => ask(&common, &Request::Pending),
        Verb::Accept { id, common } => ask(&common, &Request::Accept { id }),
        Verb::Refuse { id, common } => ask(&common, &Request::Refuse { id }),
        Verb::Scrub(common) => ask(&common, &Request::Scrub),
        Verb::Claim { common, reset } => ask(&common, &Request::Claim { reset }),
        Verb::Seed { code, common, timeout } => seed(&common, &code, Duration::from_secs(timeout)),
        Verb::Unseed { folder, common } => ask(&common, &Request::Unseed { folder }),
        Verb::Pause(common) => ask(&common, &Request::Pause),
        Verb::Resume(common) => ask(&common, &Request::Resume),
        Verb::Admins { common, dismiss: Some(key) } => ask(&common, &Request::Dismiss { key }),
        Verb::Admins { common, dismiss: None } => ask(&common, &Request::Admins),
        Verb::Report(common) => ask(&common, &Request::Report),
        Verb::Agreement(AgreementVerb::List(common)) => ask(&common, &Request::Agreements),
        Verb::Agreement(AgreementVerb::Accept { id, common }) => ask(&common, &Request::Accept { id }),
        Verb::Agreement(AgreementVerb::End { folder, common }) => {
            ask(&common, &Request::EndAgreement { folder })
        }
        Verb::Agreement(AgreementVerb::Show { folder, common }) => show_agreement(&common, &folder),
    }
}

/// Waits until a code was granted, or is known to be worth nothing.
fn seed(common: &Common, code: &str, timeout: Duration) -> Result<ExitCode, Failure> {
    let mut typed = String::new();
    let code = if code == "-" {
        std::io::stdin()
            .read_line(&mut typed)
            .map_err(|error| Failure::failed(format!("No code came: {error}.")))?;
        typed.trim()
    } else {
        code
    };
    let before = folders(common)?;
    let Answer::Seeking { key, .. } = answer(common, &Request::Seed { code: code.to_owned() })? else {
        return Err(Failure::failed("The seeder gave another answer."));
    };
    let deadline = Instant::now() + timeout;
    loop {
        let asked = answer(common, &Request::Seeking { key: key.clone() })?;
        let Answer::Seeking { waiting, refused, .. } = asked else {
            return Err(Failure::failed("The seeder gave another answer."));
        };
        if let Some(text) = refused.filter(|_| !waiting) {
            return Err(Failure { exit: Exit::Refused, text, missing: false });
        }
        if !waiting {
            let fresh = folders(common)?.into_iter().find(|folder| !before.contains(folder));
            return match fresh {
                Some((folder, quota)) => {
                    if common.json {
                        print_line(&serde_json::json!({ "folder": folder, "quota_bytes": quota }).to_string());
                    } else {
                        print_line(&format!("held from now on: {folder}, {}", quota.map_or("no limit".into(), size)));
                    }
                    Ok(ExitCode::SUCCESS)
                }
                None => Err(Failure {
                    exit: Exit::Refused,
                    text: "The code was used, taken back, or has expired. Ask whoever gave it to you for a new one.".to_owned(), missing: false }),
            };
        }
        if Instant::now() >= deadline {
            return Err(Failure {
                exit: Exit::NotReached,
                text: "No admin of the folder has granted it yet: one of their devices must be online. The seeder goes on asking; \
                       `cobox-seeder status` shows the folder once it is held."
                    .to_owned(), missing: false });
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn folders(common: &Common) -> Result<Vec<(String, Option<u64>)>, Failure> {
    match answer(common, &Request::Status)? {
        Answer::Status { folders, .. } => {
            Ok(folders.into_iter().map(|folder| (folder.folder, folder.quota_bytes)).collect())
        }
        _ => Err(Failure::failed("The seeder gave another answer.")),
    }
}

fn show_agreement(common: &Common, start: &str) -> Result<ExitCode, Failure> {
    let Answer::Agreements { agreements } = answer(common, &Request::Agreements)? else {
        return Err(Failure::failed("The seeder gave another answer."));
    };
    let fits = |view: &&AgreementView| {
        !start.is_empty() && (view.folder.starts_with(start) || view.id.starts_with(start))
    };
    let found: Vec<&AgreementView> = agreements.iter().filter(fits).collect();
    if found.is_empty() {
        return Err(Failure::failed(format!(
            "No agreement begins with {start:?}. See: cobox-seeder agreement list"
        )));
    }
    for view in found {
        if common.json {
            print_line(&serde_json::to_string(view).map_err(|error| Failure::failed(error.to_string()))?);
        } else {
            print_line(&view.document());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(common: &Common, request: &Request) -> Result<Answer, Failure> {
    asking::ask(&common.data, request)
}

fn ask(common: &Common, request: &Request) -> Result<ExitCode, Failure> {
    let answer = answer(common, request)?;
    if common.json {
        let text = serde_json::to_string(&answer).map_err(|error| Failure::failed(error.to_string()))?;
        print_line(&text);
    } else {
        print_answer(&answer, &common.data);
    }
    match answer {
        Answer::Scrub { damaged, .. } if !damaged.is_empty() => Ok(ExitCode::from(Exit::Damage as u8)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A time like 90s, 30m, 12h or 7d.
fn span(text: &str) -> Result<std::time::Duration, String> {
    let unit_s = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 24 * 3600,
        _ => return Err("say how long with a unit: 90s, 30m, 12h or 7d".to_owned()),
    };
    let number = text.get(..text.len() - 1).and_then(|number| number.parse::<u64>().ok());
    let seconds = number.and_then(|number| number.checked_mul(unit_s)).filter(|seconds| *seconds > 0);
    let seconds = seconds.ok_or_else(|| "say how long with a whole number above 0, such as 7d".to_owned())?;
    Ok(std::time::Duration::from_secs(seconds))
}

/// A flag that SIGTERM and Ctrl-C set.
fn stop_on_signals() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let inner = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("Signals cannot be heard: {error}.")))?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut term), Ok(mut int)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            else {
                return;
            };
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            inner.store(true, Ordering::SeqCst);
        });
    });
    Ok(stop)
}
