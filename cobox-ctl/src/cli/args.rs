//! The command line as clap reads it. The verbs are a contract: they are added to, never renamed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use cobox_net::shown::is_odd;

use super::agreement::{AgreementVerb, SeedCode};
use super::conflicts::Conflicts;
use super::member::{DeviceVerb, Invite, Join, MemberVerb, Yes};
use super::owned::{Claim, Manage};
use crate::render::units::{parse_bytes, parse_date, parse_span};

/// A private folder that you mount as a drive, and that others keep for you without being able to read it.
#[derive(Parser, Debug)]
#[command(name = "cobox-ctl", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
    /// Print one JSON object (or one per line while it runs) instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Read the passphrase of this device from a file instead of asking for it
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 not reached in time, 4 refused by permission or policy,
5 damage found. State lives in $COBOX_HOME, or in the XDG folders where that is not set.";

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Set up this device for a new member; shows the 24 words that give everything back
    Init(Init),
    /// Get everything back from the 24 words and one seeder
    Recover(Recover),
    /// Start, stop or look at the daemon (other verbs start it when it is not running)
    #[command(subcommand)]
    Daemon(DaemonVerb),
    /// Make, list and show folders
    #[command(subcommand)]
    Folder(FolderVerb),
    /// Mount a folder at an empty directory
    Mount(Mount),
    /// Take a mount off
    Umount {
        /// Where it is mounted
        dir: PathBuf,
    },
    /// Grant, list and challenge the seeders of a folder
    #[command(subcommand)]
    Seeder(SeederVerb),
    /// What is on this device, on its way, claimed and proved
    Status {
        /// One folder; all without it
        folder: Option<String>,
    },
    /// Which seeders and devices are known, which are connected and how, and why others are not
    Peers {
        /// One folder; all without it
        folder: Option<String>,
    },
    /// Whether each folder has the copies it should have, and how old the proofs are
    Health {
        /// One folder; all without it
        folder: Option<String>,
    },
    /// Who is told when a folder has fewer copies than it should, or a seeder is silent
    #[command(subcommand)]
    Alarm(AlarmVerb),
    /// Who holds the bytes of one file, and when they last proved it
    Whereis {
        /// A file or folder inside a mount
        path: PathBuf,
    },
    /// What several devices did to the same files at the same time, and settling it
    Conflicts(Conflicts),
    /// Wait until so many seeders proved that they hold all that was written so far
    Wait(Wait),
    /// Read everything that this device stores, and say what does not hold
    Check {
        /// One folder; all without it
        folder: Option<String>,
    },
    /// What was agreed with seeders: propose, list, show, accept, end
    #[command(subcommand)]
    Agreement(AgreementVerb),
    /// Give back the space of what nothing in a folder needs any more; seeders keep it for 30 more days
    Prune {
        /// Which
        folder: String,
        /// Only say what could go
        #[arg(long)]
        dry_run: bool,
    },
    /// The public side of this device's keys
    #[command(subcommand)]
    Key(KeyVerb),
    /// People of a folder: list them, change roles, remove them
    #[command(subcommand)]
    Member(MemberVerb),
    /// Devices of a folder: list and remove them
    #[command(subcommand)]
    Device(DeviceVerb),
    /// Where programs reach the daemon over HTTP, and the document that describes it
    #[command(subcommand)]
    Api(ApiVerb),
    /// What is wrong on this machine, and what to do about it
    Doctor,
    /// Not in this version
    #[command(flatten)]
    Later(LaterVerb),
}

/// Verbs that a later version will have.
#[derive(Subcommand, Debug)]
pub enum LaterVerb {
    /// Not in this version
    #[command(hide = true)]
    History(NotYet),
    /// Not in this version
    #[command(hide = true)]
    Undelete(NotYet),
    /// Not in this version
    #[command(hide = true)]
    Snapshot(NotYet),
    /// Not in this version
    #[command(hide = true)]
    Rollback(NotYet),
    /// Not in this version
    #[command(hide = true)]
    Pin(NotYet),
    /// Not in this version
    #[command(hide = true)]
    Evict(NotYet),
}

/// `init`.
#[derive(Args, Debug)]
pub struct Init {
    /// What people will call this device
    #[arg(long, value_parser = label, value_name = "NAME")]
    pub label: String,
    /// Write the words into a new file (mode 0600) instead of showing them
    #[arg(long, value_name = "FILE")]
    pub words_out: Option<PathBuf>,
    /// Lock the keys with a key file of mode 0600 instead of a passphrase: weaker, and starts unattended
    #[arg(long, conflicts_with = "passphrase_file")]
    pub no_passphrase: bool,
}

/// `recover`.
#[derive(Args, Debug)]
pub struct Recover {
    /// The file with the 24 words; `-` reads them from standard input
    #[arg(long, value_name = "FILE")]
    pub words_file: PathBuf,
    /// The address of a seeder that keeps the folders; given more than once, they are compared
    #[arg(long, value_name = "ADDR", required = true)]
    pub seeder: Vec<String>,
    /// What people will call this device
    #[arg(long, value_parser = label, value_name = "NAME")]
    pub label: String,
    /// Lock the keys with a key file of mode 0600 instead of a passphrase: weaker, and starts unattended
    #[arg(long, conflicts_with = "passphrase_file")]
    pub no_passphrase: bool,
    /// How long the entries may take to arrive
    #[arg(long, value_parser = span, default_value = "10m", value_name = "SPAN")]
    pub timeout: Duration,
}

/// `daemon`.
#[derive(Subcommand, Debug)]
pub enum DaemonVerb {
    /// Start it in the background
    Start,
    /// End it: unmounts, and keeps what was mounted for the next start
    Stop {
        /// Take mounts off that programs use; those programs get errors
        #[arg(long)]
        force: bool,
    },
    /// Whether it runs
    Status,
    /// Run it here, in the foreground
    Run,
}

/// `folder`.
#[derive(Subcommand, Debug)]
pub enum FolderVerb {
    /// Make a new folder
    Create {
        /// What you will call it
        name: String,
    },
    /// List the folders of this device
    List,
    /// Show one folder
    Show {
        /// Its name
        name: String,
    },
    /// Set how many proved copies a folder should have, and how old a proof may get
    Set(FolderSet),
    /// Remove a folder from this device; the others and the seeders keep it
    Leave {
        /// Its name
        name: String,
        /// Also where something may be lost: too few proved copies, or no other admin
        #[arg(long)]
        force: bool,
    },
    /// Make a code with which one device can join, or list and take back codes
    Invite(Invite),
    /// Join a folder with a code
    Join(Join),
}

/// `folder set`.
#[derive(Args, Debug)]
pub struct FolderSet {
    /// Its name
    pub name: String,
    /// Proved copies besides this device's; 1 unless set
    #[arg(long, value_name = "N", required_unless_present_any = ["tolerance", "follow"])]
    pub copies: Option<u32>,
    /// How long a proof counts, from 1h to 365d; 7d unless set. A number alone counts days. It is renewed after a seventh of
    /// it
    #[arg(long, value_parser = tolerance, value_name = "SPAN")]
    pub tolerance: Option<Duration>,
    /// For this device alone, instead of for everybody (which only admins can say)
    #[arg(long)]
    pub here: bool,
    /// Take back what this device wanted for itself
    #[arg(long, conflicts_with_all = ["copies", "tolerance", "here"])]
    pub follow: bool,
}

/// `alarm`.
#[derive(Subcommand, Debug)]
pub enum AlarmVerb {
    /// Where alarms go
    Show,
    /// Say where alarms go, instead of what was said before
    Set(AlarmSet),
    /// Send one that says it is a test
    Test,
    /// Keep them to the log and `status`
    Off,
}

/// `alarm set`.
#[derive(Args, Debug)]
pub struct AlarmSet {
    /// A program, by its absolute path; it gets the alarm as JSON on its standard input, and again later, for a week, where it does not end with 0 within a minute
    #[arg(long, value_name = "PROGRAM", required_unless_present_any = ["url", "mail", "after"])]
    pub run: Option<PathBuf>,
    /// A web address that the alarm is posted to as JSON, with curl
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// An e-mail address; needs a sendmail on this machine
    #[arg(long, value_name = "ADDRESS")]
    pub mail: Option<String>,
    /// How long trouble lasts before it is told; 30m unless set
    #[arg(long, value_parser = span, value_name = "SPAN")]
    pub after: Option<Duration>,
}

/// A verb that a later version will have.
#[derive(Args, Debug)]
pub struct NotYet {
    /// Anything
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// `mount`.
#[derive(Args, Debug)]
pub struct Mount {
    /// The folder's name
    pub folder: String,
    /// An empty directory
    pub dir: PathBuf,
    /// Let other users of this machine in, as far as file modes allow
    #[arg(long)]
    pub allow_other: bool,
    /// Refuse every change
    #[arg(long)]
    pub read_only: bool,
}

/// `seeder`.
#[derive(Subcommand, Debug)]
pub enum SeederVerb {
    /// Let a seeder keep a folder, and give it everything
    Add(SeederAdd),
    /// List the seeders of a folder
    List {
        /// The folder's name
        folder: String,
    },
    /// Challenge seeders to prove what they hold
    Audit {
        /// The folder's name
        folder: String,
        /// The beginning of one seeder's id; all without it
        seeder: Option<String>,
    },
    /// End a seeder's grant: it keeps what it has for at least 30 days by its own clock, and counts no more
    Remove {
        /// The folder's name
        folder: String,
        /// The beginning of the seeder's id
        seeder: String,
        /// Also where too few proved copies are left
        #[arg(long)]
        force: bool,
    },
    /// Make a code with which one seeder can take the folder, or list and take back codes
    Code(SeedCode),
    /// Own a seeder: with the code that `cobox-seeder claim` prints, read from standard input, or with the words of a
    /// lost device
    Claim(Claim),
    /// Seeders that this device commands
    Owned,
    /// Forget a seeder that this device commands; the seeder is not told
    Forget {
        /// What you call it
        seeder: String,
        #[command(flatten)]
        yes: Yes,
    },
    /// Tell a seeder that you command what to do, from anywhere
    Manage(Manage),
}

/// `seeder add`.
#[derive(Args, Debug)]
pub struct SeederAdd {
    /// The folder's name
    pub folder: String,
    /// What `cobox-seeder address` prints
    pub address: String,
    /// How much it may store, like 50G
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub quota: u64,
    /// The last day of the grant, like 2027-12-31; no end without it
    #[arg(long, value_parser = date, value_name = "DATE")]
    pub until: Option<u64>,
}

/// `wait`.
#[derive(Args, Debug)]
pub struct Wait {
    /// The folder's name
    pub folder: String,
    /// How many proved copies
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub copies: u32,
    /// Give up (exit code 3) after so long, like 60s or 10m; waits on without it
    #[arg(long, value_parser = span, value_name = "SPAN")]
    pub timeout: Option<Duration>,
}

/// `key`.
#[derive(Subcommand, Debug)]
pub enum KeyVerb {
    /// Show this device's public keys and how its secret ones are locked
    Show,
    /// Write the public keys as JSON; secret keys never leave the device
    Export,
    /// Not in this version
    #[command(hide = true)]
    Rotate(NotYet),
}

/// `api`.
#[derive(Subcommand, Debug)]
pub enum ApiVerb {
    /// Where it answers
    Show,
    /// Answer on TCP too, now and at the next start; requests there must show the token
    Listen {
        /// Like 127.0.0.1:7741
        addr: String,
        /// Let it be reached from other machines. HTTP is not encrypted: prefer ssh, or a web server that
        /// speaks TLS
        #[arg(long)]
        remote: bool,
    },
    /// Answer on the Unix socket only
    Off,
    /// Print the document that describes it (OpenAPI)
    Openapi,
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|problem| format!("{} {}", problem.message, problem.hint))
}

pub(super) fn date(text: &str) -> Result<u64, String> {
    parse_date(text).map_err(|problem| format!("{} {}", problem.message, problem.hint))
}

/// Others see it in lists of their own, between lines that their program writes.
fn label(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.contains(is_odd) {
        return Err("A device's name is text that can be seen, in one line.".to_owned());
    }
    Ok(text.to_owned())
}

/// People count days here, and nobody means seconds.
fn tolerance(text: &str) -> Result<Duration, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { span(&format!("{text}d")) } else { span(text) }
}

pub(super) fn span(text: &str) -> Result<Duration, String> {
    parse_span(text).map_err(|problem| format!("{} {}", problem.message, problem.hint))
}

/// The daemon's own command line: what starts it, not what people type.
#[derive(Parser, Debug)]
#[command(name = "coboxd", version, about = "The daemon of a member's device. `cobox-ctl` starts it.")]
pub struct DaemonArgs {
    /// Read the passphrase from the first line of standard input
    #[arg(long)]
    pub passphrase_stdin: bool,
    /// Leave the terminal's session, and say on standard output when ready
    #[arg(long)]
    pub detach: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_lines_are_well_formed() {
        Cli::command().debug_assert();
        DaemonArgs::command().debug_assert();
    }

    #[test]
    fn tolerance_without_a_unit_counts_days() {
        let days = |count: u64| Ok(Duration::from_secs(count * 86_400));
        assert_eq!(tolerance("7"), days(7));
        assert_eq!(tolerance("36h"), Ok(Duration::from_secs(36 * 3600)));
        assert!(tolerance("").is_err() && tolerance("7 d ago").is_err());
    }

    #[test]
    fn documented_lines_are_understood() {
        for line in [
            "init --label laptop --words-out w --no-passphrase",
            "init --label laptop --passphrase-file p",
            "recover --words-file w --seeder a --label laptop",
            "daemon start",
            "daemon stop",
            "daemon stop --force",
            "daemon status --json",
            "daemon run",
            "folder create photos",
            "folder list",
            "folder show photos",
            "folder leave photos --force",
            "mount photos /mnt --allow-other --read-only",
            "umount /mnt",
            "seeder add photos addr --quota 50G --until 2027-01-31",
            "seeder list photos",
            "seeder audit photos 12D3",
            "seeder remove photos 12D3",
            "seeder remove photos 12D3 --force",
            "status",
            "status photos --json",
            "peers",
            "peers photos --json",
            "health",
            "whereis /mnt/a",
            "wait photos --copies 1 --timeout 60s",
            "check",
            "key show",
            "key export",
            "doctor",
            "conflicts",
            "conflicts photos --json",
            "conflicts keep /mnt/a",
            "conflicts keep /mnt/a --both",
            "api show",
            "api listen 127.0.0.1:7741 --remote",
            "api off --json",
            "api openapi",
            "folder invite photos --role read",
            "folder invite photos --role admin --expires 24h",
            "folder invite photos --list",
            "folder invite photos --void 0011aabb",
            "folder join cobox1abc --name pictures",
            "folder join -",
            "folder join --code-file code",
            "member list photos",
            "member role photos phone admin",
            "member remove photos phone",
            "device list photos",
            "device remove photos phone",
            "device lapse photos phone",
            "folder set photos --copies 2 --tolerance 3d",
            "alarm set --run /bin/true --url https://example.org --mail a@b --after 10m",
            "alarm show",
            "history /mnt/a --json",
            "prune photos --dry-run",
            "prune photos",
        ] {
            let words = ["cobox-ctl"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn lines_about_owners_and_agreements_are_understood() {
        for line in [
            "seeder code photos --quota 50G --until 2027-01-31 --expires 24h",
            "seeder code photos --list",
            "seeder claim coboxclaim1abc --name box",
            "seeder claim --name box",
            "seeder claim -",
            "seeder claim --words-file w --seeder addr",
            "seeder owned",
            "seeder manage box status",
            "seeder manage box seed 00aa-11bb",
            "seeder manage box quota photos 50G --until 2027-01-31",
            "seeder manage box pause",
            "seeder manage box admins add --name bob --rank watcher",
            "seeder manage box admins remove 00aa",
            "agreement propose photos 12D3 --quota 50G --until 2027-12-31 --notice 30d --audit 1d --place here",
            "agreement list",
            "agreement show photos 12D3",
            "agreement accept photos 00aa",
            "agreement end photos 12D3 --force",
        ] {
            let words = ["cobox-ctl"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn senseless_lines_are_usage_errors() {
        for line in [
            "",
            "init",
            "mount photos",
            "folder set photos",
            "alarm set",
            "seeder add photos addr",
            "seeder add photos addr --quota lots",
            "wait photos --copies 0",
            "folder invite photos",
            "folder join",
            "folder join a --code-file b",
            "member role photos phone king",
            "wait photos --copies 1 --timeout soon",
            "init --label a --no-passphrase --passphrase-file p",
        ] {
            let words = ["cobox-ctl"].into_iter().chain(line.split_whitespace());
            let error = Cli::try_parse_from(words).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
