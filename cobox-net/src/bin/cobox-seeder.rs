//! `cobox-seeder`: holds folders for others without being able to read them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand, ValueEnum};
use cobox_net::http::recent::Recorder;
use cobox_net::http::{Place, Reach};
use cobox_net::patrol::{self, Pace};
use cobox_net::seeder::commands::{Answer, FolderStatus, Request, ask_running, ask_store};
use cobox_net::seeder::identity::saved_address;
use cobox_net::seeder::{Accept, Exit, Failure, LISTEN_DEFAULT, RunOptions, run};
use cobox_net::shown::{bytes as size, time};
use rustix::fs::Mode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
        /// Whose grants are taken without asking: the owner decides, or anybody's are.
        #[arg(long, value_enum, default_value_t = Rule::Owner)]
        accept: Rule,
        /// How long after it has read all it holds, looking for damage, it begins again (s, m, h or d).
        #[arg(long, default_value = "7d", value_parser = span)]
        scrub_every: std::time::Duration,
        /// How much of that it reads in a second, in MiB.
        #[arg(long, default_value_t = patrol::BYTES_PER_S >> 20, value_parser = clap::value_parser!(u64).range(1..=4096))]
        scrub_rate: u64,
        /// Answer HTTP here too, like 127.0.0.1:7741, with the token in the data folder's api.token.
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
    /// Not in this version.
    #[command(hide = true)]
    Claim(Common),
    /// Not in this version.
    #[command(hide = true)]
    Seed {
        /// The code.
        code: String,
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
    /// Every grant is taken: for tests and closed networks.
    Any,
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
        Verb::Run { common, listen, accept, scrub_every, scrub_rate, http, http_remote } => {
            let reach = if http_remote { Reach::Network } else { Reach::Loopback };
            let http = http.map(|text| Place::parse(&text, reach)).transpose()?;
            let listen =
                if listen.is_empty() { LISTEN_DEFAULT.map(str::to_owned).to_vec() } else { listen };
            let accept = match accept {
                Rule::Owner => Accept::Owner,
                Rule::Any => Accept::Any,
            };
            let stop = stop_on_signals()?;
            let pace = Pace { every: scrub_every, bytes_per_s: scrub_rate << 20 };
            run(&RunOptions { data: common.data, listen, accept, pace, http }, &stop)?;
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
        Verb::Claim(_) => Err(Failure {
            exit: Exit::Refused,
            text: "Claim codes are not in this version; they come later. Whoever may read the data folder is the seeder's owner."
                .to_owned(),
        }),
        Verb::Seed { .. } => Err(Failure {
            exit: Exit::Refused,
            text: "Seed codes are not in this version. Let a member run: cobox-ctl seeder add FOLDER ADDR --quota 50G"
                .to_owned(),
        }),
    }
}

fn ask(common: &Common, request: &Request) -> Result<ExitCode, Failure> {
    let answer = match ask_running(&common.data, request)? {
        Some(answer) => answer,
        None => ask_store(&common.data, request)?,
    };
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

fn print_answer(answer: &Answer, data: &Path) {
    match answer {
        Answer::Status { running, peer_id, listen, folders, disk_free_bytes } => {
            let state = if *running { "running" } else { "not running" };
            print_line(&format!("seeder {peer_id}, {state}"));
            listen.iter().for_each(|address| print_line(&format!("listens on {address}")));
            print_line(&format!("{} free on the disk", size(*disk_free_bytes)));
            for folder in folders {
                let quota = folder.quota_bytes.map_or("no limit".to_owned(), size);
                print_line(&format!(
                    "folder {}: {} of {quota}, {} packs, {} of them not here yet, {} peers connected",
                    &folder.folder[..8.min(folder.folder.len())],
                    size(folder.pack_bytes + folder.entry_bytes),
                    folder.packs,
                    folder.packs_missing,
                    folder.peers,
                ));
                print_held(folder);
                print_damage(folder);
            }
        }
        Answer::Pending { grants } if grants.is_empty() => print_line("no grant waits"),
        Answer::Pending { grants } => {
            for grant in grants {
                print_line(&format!(
                    "{}  {}{}, asked for by {}",
                    grant.id,
                    size(grant.quota_bytes),
                    end(grant.until_ms),
                    grant.from
                ));
            }
            print_line(&format!("Take one with: cobox-seeder accept ID --data {}", data.display()));
        }
        Answer::Already { folder } => print_line(&format!("already accepted: {folder}")),
        Answer::Accepted { folder, quota_bytes, until_ms } => {
            print_line(&format!("accepted: {folder}, {}{}", size(*quota_bytes), end(*until_ms)));
        }
        Answer::Refused { folder } => print_line(&format!("refused: {folder}")),
        Answer::Scrub { packs, bytes, damaged } => {
            print_line(&format!("{packs} packs, {} read, {} damaged", size(*bytes), damaged.len()));
            damaged.iter().for_each(|pack| print_line(&format!("damaged: {pack}")));
        }
        Answer::Failed { text, .. } => print_line(text),
    }
}

/// Days and hours of the seeder's running.
fn running(ms: u64) -> String {
    let hours = ms.div_ceil(3_600_000);
    format!("{} days {} hours", hours / 24, hours % 24)
}

fn print_held(folder: &FolderStatus) {
    if let Some(next_ms) = folder.held_next_ms {
        let held = size(folder.held_bytes);
        print_line(&format!("  {held} were released; the first of them go in {}", running(next_ms)));
    }
    if let Some(left_ms) = folder.leaving_in_ms {
        print_line(&format!("  the grant is over: all of the folder goes in {}", running(left_ms)));
    }
}

fn print_damage(folder: &FolderStatus) {
    match folder.scrubbed_ms {
        0 => print_line("  not read to its end for damage yet"),
        ms => print_line(&format!("  read for damage until {}", time(ms))),
    }
    if folder.packs_damaged > 0 {
        let unmended = match folder.packs_unmended {
            0 => "all of them mended by other holders".to_owned(),
            count => format!("{count} of them not mended yet: another holder must be reached"),
        };
        print_line(&format!("  damage was found in {} packs, {unmended}", folder.packs_damaged));
    }
    if folder.rows_damaged {
        print_line(
            "  DAMAGED: rows of its database. Stop the seeder, move the folder `db` and the file `FORMAT` of its data away and start it: members and other seeders offer the folders again",
        );
    }
}

fn print_line(text: &str) {
    // A closed pipe is the reader's choice.
    let _ = writeln!(std::io::stdout(), "{text}");
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

/// When a grant ends, as words behind its size.
fn end(until_ms: u64) -> String {
    match until_ms {
        0 => " without an end".to_owned(),
        ms => format!(" until {}", time(ms)),
    }
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
