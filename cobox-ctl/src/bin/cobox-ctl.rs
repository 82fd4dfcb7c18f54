//! The command line for people and scripts.

use std::process::ExitCode;

fn main() -> ExitCode {
    cobox_ctl::cli::main()
}
