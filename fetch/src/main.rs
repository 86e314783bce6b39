//! The program `fetch`: flags, output, exit codes. What it does is in the library.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run::run()
}
