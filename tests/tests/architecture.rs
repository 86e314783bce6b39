//! The workspace keeps its shape: who may depend on whom, what each file looks like, what may be in
//! the dependency tree. Reads manifests and sources; nothing is run but git and cargo.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const LEAVES: [&str; 4] = ["fetch", "unpack", "thin", "registry"];
const MEMBERS: [&str; 6] = ["fetch", "unpack", "thin", "registry", "orchestrate", "tests"];
const LINES_MAX: usize = 500;
const BLOB_BYTES_MAX: u64 = 256 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's folder").to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(root()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} {args:?}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Rust files that git knows, with their text.
fn sources() -> BTreeMap<String, String> {
    let list = output("git", &["ls-files", "*.rs"]);
    let there = list.lines().filter(|path| root().join(path).exists());
    let sources: BTreeMap<_, _> = there.map(|path| (path.to_owned(), read(path))).collect();
    assert!(sources.len() > 30, "git lists only {} Rust files", sources.len());
    sources
}

fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn leaves_do_not_depend_on_one_another() {
    let mut found = Vec::new();
    for leaf in LEAVES {
        for line in read(&format!("{leaf}/Cargo.toml")).lines() {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if name != leaf && MEMBERS.contains(&name) {
                found.push(format!("{leaf}/Cargo.toml: {line}"));
            }
        }
    }
    none("a leaf depends on a member", &found);
}

#[test]
fn only_the_classes_name_all_four_leaves() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let all = LEAVES.iter().all(|leaf| text.contains(&format!("{leaf}::")));
        if all && path.starts_with("orchestrate/src/") {
            found.push(path);
        }
    }
    // The errors of every leaf are put in classes there, which needs their names.
    let classes = ["orchestrate/src/error/mod.rs", "orchestrate/src/plan/class.rs"];
    found.retain(|path| !classes.contains(&path.as_str()));
    none("files beside the errors and their classes that name all four leaves", &found);
}

#[test]
fn every_file_says_what_lives_there() {
    let silent = |(path, text): (String, String)| (!text.starts_with("//!")).then_some(path);
    let found: Vec<String> = sources().into_iter().filter_map(silent).collect();
    none("files that do not open with //!", &found);
}

#[test]
fn unsafe_lives_in_one_file_of_a_crate() {
    let fence = concat!("allow(", "unsafe_code)");
    let mut fenced: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in sources() {
        if text.contains(fence) {
            let member = path.split('/').next().unwrap_or_default().to_owned();
            fenced.entry(member).or_default().push(path);
        }
    }
    let many: Vec<String> =
        fenced.into_values().filter(|files| files.len() > 1).flatten().collect();
    none("several files of one crate with unsafe code", &many);
}

#[test]
fn nothing_is_left_for_later() {
    let marks =
        [concat!("db", "g!("), concat!("to", "do!("), concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("marks of unfinished work", &found);
}

#[test]
fn no_source_file_is_longer_than_one_noun() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > LINES_MAX && path.contains("/src/") {
            found.push(format!("{path}: {lines} lines"));
        }
    }
    none(&format!("files over {LINES_MAX} lines"), &found);
}

#[test]
fn no_blob_in_git_is_large() {
    let mut found = Vec::new();
    for line in output("git", &["ls-tree", "-r", "-l", "HEAD"]).lines() {
        // "100644 blob <object> <size>\t<path>"
        let (head, path) = line.split_once('\t').expect("a tab before the path");
        let size: u64 = head.split_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0);
        if size > BLOB_BYTES_MAX {
            found.push(format!("{path}: {size} bytes"));
        }
    }
    none(&format!("blobs over {BLOB_BYTES_MAX} bytes"), &found);
}

#[test]
fn the_shared_words_are_the_fields_own() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        for line in text.lines() {
            let declares = ["struct ", "enum ", "trait ", "mod "].iter().find_map(|word| {
                let (before, after) = line.split_once(word)?;
                before.trim_start_matches("pub ").trim_start().is_empty().then_some(after)
            });
            let name = declares.unwrap_or_default();
            let name = name.split(|c: char| !(c.is_alphanumeric() || c == '_')).next();
            let name = name.unwrap_or_default();
            let vague = ["Manager", "Helper", "Handler"].iter().any(|word| name.ends_with(word));
            if vague || ["common", "utils", "util", "helpers", "misc"].contains(&name) {
                found.push(format!("{path}: {}", line.trim()));
            }
        }
    }
    none("names that say nothing", &found);
}

/// deny.toml's rules, held without cargo-deny, which takes minutes to build.
mod dependencies {
    use super::{none, output, read};

    /// The quoted words between `start` and the next "]".
    fn listed(start: &str) -> Vec<String> {
        let text = read("deny.toml");
        let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("deny.toml: {start}"));
        let list = rest.split(']').next().unwrap_or_default();
        let lines = list.lines().filter(|line| !line.trim_start().starts_with('#'));
        lines.flat_map(|line| line.split('"').skip(1).step_by(2)).map(str::to_owned).collect()
    }

    fn packages() -> Vec<serde_json::Value> {
        let text = output("cargo", &["metadata", "--format-version", "1", "--locked"]);
        let mut whole: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let packages = whole["packages"].take();
        let packages = packages.as_array().expect("packages").clone();
        assert!(packages.len() > 50, "cargo knows only {} packages", packages.len());
        packages
    }

    #[test]
    fn no_async_runtime_and_nothing_else_that_is_banned() {
        let banned = listed("deny = [");
        assert!(banned.iter().any(|name| name == "tokio"), "deny.toml bans no async runtime");
        let lock = read("Cargo.lock");
        let inside = |name: &String| lock.contains(&format!("\nname = \"{name}\"\n"));
        let mut found: Vec<String> = banned.into_iter().filter(inside).collect();
        for runtime in ["tokio", "async-std", "smol", "mio", "async-executor", "futures-executor"] {
            if inside(&runtime.to_owned()) {
                found.push(runtime.to_owned());
            }
        }
        none("banned crates in Cargo.lock", &found);
    }

    #[test]
    fn every_crate_comes_from_the_registry() {
        let mut found = Vec::new();
        for package in packages() {
            let source = package["source"].as_str().unwrap_or("registry+");
            if !source.starts_with("registry+") {
                found.push(format!("{} from {source}", package["name"]));
            }
        }
        none("crates from elsewhere", &found);
    }

    #[test]
    fn every_licence_is_allowed() {
        let allowed = listed("allow = [");
        assert!(allowed.iter().any(|licence| licence == "MIT"), "deny.toml: {allowed:?}");
        let mut found = Vec::new();
        for package in packages() {
            let licence = package["license"].as_str().unwrap_or("none");
            // One line each in deny.toml: { allow = ["<licence>"], crate = "<name>" }
            let exception = format!("{{ allow = [\"{licence}\"], crate = {} }}", package["name"]);
            if !permits(licence, &allowed) && !read("deny.toml").contains(&exception) {
                found.push(format!("{}: {licence}", package["name"]));
            }
        }
        none("licences that deny.toml does not allow", &found);
    }

    /// Whether an SPDX expression can be met with these licences; older crates write "/" for OR.
    fn permits(expression: &str, allowed: &[String]) -> bool {
        let spaced = expression.replace('/', " OR ");
        let mut tokens = Vec::new();
        for word in spaced.replace('(', " ( ").replace(')', " ) ").split_whitespace() {
            tokens.push(word.to_owned());
        }
        let mut at = 0;
        let fine = any(&tokens, &mut at, allowed);
        fine && at == tokens.len()
    }

    fn any(tokens: &[String], at: &mut usize, allowed: &[String]) -> bool {
        let mut fine = all(tokens, at, allowed);
        while tokens.get(*at).is_some_and(|token| token == "OR") {
            *at += 1;
            fine |= all(tokens, at, allowed);
        }
        fine
    }

    fn all(tokens: &[String], at: &mut usize, allowed: &[String]) -> bool {
        let mut fine = term(tokens, at, allowed);
        while tokens.get(*at).is_some_and(|token| token == "AND") {
            *at += 1;
            fine &= term(tokens, at, allowed);
        }
        fine
    }

    fn term(tokens: &[String], at: &mut usize, allowed: &[String]) -> bool {
        let Some(token) = tokens.get(*at) else { return false };
        *at += 1;
        if token == "(" {
            let fine = any(tokens, at, allowed);
            *at += 1;
            return fine;
        }
        let mut name = token.clone();
        if tokens.get(*at).is_some_and(|token| token == "WITH") {
            name = format!("{name} WITH {}", tokens.get(*at + 1).cloned().unwrap_or_default());
            *at += 2;
        }
        allowed.contains(&name)
    }

    #[test]
    fn licence_expressions_are_understood() {
        let allowed = ["MIT".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
        assert!(permits("MIT", &allowed));
        assert!(permits("GPL-3.0 OR MIT", &allowed));
        assert!(permits("Apache-2.0/MIT", &allowed));
        assert!(permits("(MIT OR GPL-3.0) AND Apache-2.0 WITH LLVM-exception", &allowed));
        assert!(!permits("MIT AND GPL-3.0", &allowed));
        assert!(!permits("GPL-3.0", &allowed));
        assert!(!permits("none", &allowed));
    }
}
