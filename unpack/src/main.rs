//! The program `unpack`: flags, output and exit codes over the library.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Layers are applied by this very program, run again behind walls.
    unpack::sandbox::child_entry();
    cli::run::run()
}
