//! The `orchestrate` program: reads flags, calls the library, prints. No decision is made here.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Layers are applied by this very program, run again behind walls.
    unpack::sandbox::child_entry();
    // And so are scanners.
    orchestrate::scan::child_entry();
    // And who keeps watch over a device that stands still.
    orchestrate::guardian::child_entry();
    cli::run::run()
}
