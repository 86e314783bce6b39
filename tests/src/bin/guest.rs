//! `/init` of the test VM, and, started by itself, one scenario.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::guest::init::main()
}
