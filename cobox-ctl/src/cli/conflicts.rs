//! `conflicts`: what devices did at the same time, and settling it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Answer, Session, resolve_link};
use crate::conflicts::{ConflictsReport, KeepHow, KeepReport};
use crate::control::Request;
use crate::exit::Outcome;
use crate::render::conflicts as text;

/// `conflicts`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Conflicts {
    /// One folder; all without it
    pub folder: Option<String>,
    /// What to do instead of listing
    #[command(subcommand)]
    pub verb: Option<ConflictsVerb>,
}

/// What `conflicts` does beside listing.
#[derive(Subcommand, Debug)]
pub enum ConflictsVerb {
    /// Keep what this name shows, and drop the other versions
    Keep {
        /// A file or directory inside a mount, under the name it is seen under
        path: PathBuf,
        /// Drop nothing: every version becomes a file of its own
        #[arg(long)]
        both: bool,
    },
}

impl Session<'_> {
    pub(super) fn conflicts(&self, args: &Conflicts) -> Outcome<Answer> {
        match &args.verb {
            None => {
                let report: ConflictsReport =
                    self.ask(&Request::Conflicts { folder: args.folder.clone() })?;
                Answer::new(&report, text::list(&report))
            }
            Some(ConflictsVerb::Keep { path, both }) => {
                self.require_answers()?;
                let how = if *both { KeepHow::Both } else { KeepHow::This };
                let path = resolve_link(path)?.as_os_str().as_bytes().to_vec();
                let report: KeepReport = self.ask(&Request::ConflictKeep { path, how })?;
                Answer::new(&report, text::kept(&report))
            }
        }
    }
}
