//! The five programs of the very build that a test belongs to.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of the programs that belong to this very build: `target/[<triple>/]<profile>`. They
/// are brought up to date first, which does nothing where cargo has just built the workspace.
///
/// # Panics
/// They do not build, or this is no test that cargo has built.
pub fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| build(&["--bins"]))
}

/// One of them.
///
/// # Panics
/// As [`programs`].
#[must_use]
pub fn program(name: &str) -> PathBuf {
    build(&["--bin", name]).join(name)
}

fn build(which: &[&str]) -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let folder = test.ancestors().nth(2).expect("target/<profile>/deps/<test>").to_owned();
    let profile = folder.file_name().expect("a profile").to_string_lossy().into_owned();
    let above = folder.parent().expect("a target folder");
    let triple = above.file_name().expect("a name").to_string_lossy().into_owned();
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--workspace"]).args(which);
    if profile == "release" {
        cargo.arg("--release");
    }
    if triple.contains("-linux-") {
        let flags = format!("target.{triple}.rustflags=[\"-C\",\"target-feature=+crt-static\"]");
        cargo.args(["--target", &triple, "--config", &flags, "--target-dir"]);
        cargo.arg(above.parent().expect("a target folder"));
    } else {
        cargo.arg("--target-dir").arg(above);
    }
    // What cargo tells a test of its own package would be news to the build scripts of others (ring's
    // asks for all of it), and they and all above them would be built anew.
    for (name, _) in std::env::vars_os() {
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if of_package.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            cargo.env_remove(&name);
        }
    }
    let status = cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).status();
    assert!(status.expect("run cargo").success(), "the programs do not build");
    folder
}
