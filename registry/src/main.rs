//! The `registry` program: looks into a registry, checks and copies it, or makes a new one. It never
//! writes to one that is there.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run::run()
}
