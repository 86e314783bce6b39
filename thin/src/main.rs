//! The `thin` program: pools and volumes from a shell. All the work is in the library; here are
//! the flags, the output and the exit codes.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
