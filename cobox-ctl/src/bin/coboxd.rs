//! The daemon of a member's device.

use std::process::ExitCode;

fn main() -> ExitCode {
    cobox_ctl::cli::daemon_main()
}
