//! The proof of each wall on this host's kernel: see `tests::walls`. It runs itself again as the child that
//! misbehaves, so it has its own main.

use std::process::ExitCode;

fn main() -> ExitCode {
    unpack::sandbox::child_entry();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Some(code) = tests::walls::main(&words) {
        return code;
    }
    if words.contains(&"--list") {
        println!("walls: test");
        return ExitCode::SUCCESS;
    }
    let dir = tempfile::tempdir().expect("a directory");
    match tests::walls::prove(dir.path()) {
        Ok(proven) => {
            println!("walls: {} runs, Landlock ABI {}", proven.runs, proven.abi);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
