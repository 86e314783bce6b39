//! The house inside the crates: which file imports which, with every re-export followed to the file
//! that defines the name, which files do so in a circle, and whether the tables of ARCHITECTURE.md are true: the
//! order of the wings, the pure ones, and the places of dangerous calls. Reads sources; nothing is run.

#[path = "house/graph.rs"]
mod graph;
#[path = "house/source.rs"]
mod source;
#[path = "house/tables.rs"]
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use graph::Graph;
use tables::{Danger, Wing};

const MEMBERS: [&str; 5] = ["fetch", "unpack", "thin", "registry", "orchestrate"];

fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let name = path.strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned();
            files.insert(name, fs::read_to_string(&path).expect("text"));
        }
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's folder")
}

fn files_of(member: &str) -> BTreeMap<String, String> {
    let root = workspace().join(member).join("src");
    let mut files = BTreeMap::new();
    collect(&root, &root, &mut files);
    assert!(files.len() > 3, "{member} has only {} files", files.len());
    files
}

fn graph_of(member: &str) -> Graph {
    Graph::new(member, &files_of(member))
}

fn architecture() -> String {
    fs::read_to_string(workspace().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md")
}

fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// The wing of a file: its folder, or the file itself beside the folders.
fn wing(file: &str) -> &str {
    file.split_once('/').map_or(file.strip_suffix(".rs").unwrap_or(file), |(folder, _)| folder)
}

/// Imports that lead to a wing further up, and files of wings that the order does not have.
fn upward(graph: &Graph, wings: &[Wing]) -> Vec<String> {
    let place = |file: &str| wings.iter().position(|known| known.name == wing(file));
    let mut found = Vec::new();
    for file in graph.files() {
        let Some(here) = place(file) else {
            found.push(format!("{file}: ARCHITECTURE.md has no wing {}", wing(file)));
            continue;
        };
        let above = |to: &&str| place(to).is_some_and(|there| there < here);
        found.extend(
            graph.imports(file).into_iter().filter(above).map(|to| format!("{file} -> {to}")),
        );
    }
    found
}

#[test]
fn wings_import_only_downwards() {
    let architecture = architecture();
    for member in MEMBERS {
        let found = upward(&graph_of(member), &tables::wings(&architecture, member));
        none(&format!("{member}: imports against the order of ARCHITECTURE.md"), &found);
    }
}

#[test]
fn every_wing_of_the_tables_is_there() {
    let architecture = architecture();
    for member in MEMBERS {
        let graph = graph_of(member);
        for known in tables::wings(&architecture, member) {
            let there = graph.files().iter().any(|file| wing(file) == known.name);
            assert!(there, "{member} has no wing {}", known.name);
        }
    }
}

#[test]
fn pure_wings_do_no_io() {
    let (architecture, mut found) = (architecture(), Vec::new());
    let mut pure = 0;
    for member in MEMBERS {
        let (files, graph) = (files_of(member), graph_of(member));
        let wings = tables::wings(&architecture, member);
        for file in graph.files() {
            if wings.iter().any(|known| known.pure && known.name == wing(file)) {
                pure += 1;
                let what = tables::impure(&files[file]);
                found.extend(what.iter().map(|what| format!("{member}/src/{file}: {what}")));
            }
        }
    }
    assert!(pure > 10, "only {pure} files are in pure wings");
    none("I/O, threads or clocks in pure wings", &found);
}

/// The words of every file that ships, by its path from the workspace's root.
fn product() -> BTreeMap<String, Vec<String>> {
    let mut product = BTreeMap::new();
    for member in MEMBERS {
        let (files, graph) = (files_of(member), graph_of(member));
        let roots = ["lib.rs".to_owned(), "main.rs".to_owned()];
        for file in graph.files().iter().chain(&roots) {
            product.insert(format!("{member}/src/{file}"), source::product(&files[file]));
        }
    }
    product
}

#[test]
fn each_danger_has_its_places() {
    let (product, mut found) = (product(), Vec::new());
    let dangers = tables::dangers(&architecture());
    assert!(dangers.len() >= 8, "only {} dangers were read", dangers.len());
    for danger in &dangers {
        assert!(!danger.words.is_empty() && !danger.places.is_empty(), "{danger:?}");
        for place in &danger.places {
            let there = |path: &String| path.starts_with(place.as_str());
            assert!(product.keys().any(there), "{place} is not there ({})", danger.what);
        }
        found.extend(product.iter().flat_map(|(path, words)| danger.found(path, words)));
    }
    none("words in places that ARCHITECTURE.md does not name", &found);
}

#[test]
fn one_function_issues_device_mapper_ioctls() {
    let issue = ["sys", "::", "dm", "("].map(str::to_owned);
    let count = tables::count(&product()["thin/src/kernel/dm.rs"], &issue);
    assert_eq!(count, 1, "calls of sys::dm in thin/src/kernel/dm.rs");
}

#[test]
fn no_files_import_one_another_in_a_circle() {
    let mut found = Vec::new();
    for member in MEMBERS {
        let circles = graph_of(member).circles();
        found.extend(circles.iter().map(|circle| format!("{member}:{circle}")));
    }
    none("files in circles", &found);
}

fn made(files: &[(&str, &str)]) -> Graph {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Graph::new("made", &files.collect())
}

#[test]
fn a_circle_behind_the_crates_root_is_seen() {
    let graph = made(&[
        ("lib.rs", "mod error;\nmod scan;\npub use error::Error;\npub use scan::{self, Policy};"),
        ("error.rs", "use crate::Policy;\npub enum Error { No(Policy) }"),
        ("scan.rs", "use crate::{Error};\npub struct Policy;"),
    ]);
    let circles = graph.circles();
    assert_eq!(circles.len(), 1);
    assert_eq!(circles[0].files, ["error.rs", "scan.rs"]);
    assert!(circles[0].to_string().contains("error.rs -> scan.rs: Policy"), "{}", circles[0]);
}

#[test]
fn words_in_comments_strings_and_tests_are_no_imports() {
    let graph = made(&[
        ("lib.rs", "mod a;\nmod b;"),
        ("a.rs", "//! Like [`crate::b::B`].\nuse crate::b::B;\npub struct A(B);"),
        (
            "b.rs",
            "/* use crate::a::A; */\npub struct B;\nconst TEXT: &str = \"use crate::a::A;\";\nconst MARK: char = '\"';\n\
             #[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n#[cfg(test)]\nmod more;\nmod other;",
        ),
        ("b/more.rs", "use crate::a::A;"),
        ("b/other.rs", "use crate::b::B;"),
    ]);
    assert_eq!(graph.circles().len(), 0);
    assert_eq!(graph.imports("a.rs"), ["b.rs"]);
    assert_eq!(graph.files(), ["a.rs", "b.rs", "b/other.rs"]);
}

#[test]
fn a_path_without_use_counts_and_so_do_parents_and_nested_trees() {
    let graph = made(&[
        ("lib.rs", "mod flow;\nmod error;"),
        ("flow/mod.rs", "mod feed;\nmod body;\nuse body::Body;\npub const LIMIT: u8 = 1;"),
        ("flow/feed.rs", "use super::{Body, LIMIT as MOST};\nfn f() -> crate::error::Error {}"),
        (
            "flow/body.rs",
            "pub struct Body;\nmod inner {\n    use super::Body;\n    use super::super::feed;\n}",
        ),
        ("error.rs", "pub struct Error;"),
    ]);
    assert_eq!(graph.imports("flow/feed.rs"), ["error.rs", "flow/body.rs", "flow/mod.rs"]);
    assert_eq!(graph.imports("flow/body.rs"), ["flow/feed.rs"]);
    assert_eq!(graph.imports("flow/mod.rs"), ["flow/body.rs"]);
    assert_eq!(graph.circles().len(), 1);
}

const MADE: &str = "# A\n\n## Wings\n### `made`\n| wing | what | |\n|---|---|---|\n| `top` | a | |\n| `low` | b | pure |\n\n\
     ## One place for each danger\n| danger | words | places |\n|---|---|---|\n\
     | a program | `Command::new` `execve` | `made/src/top/run.rs` (why) `made/src/child/` |\n\n## More\n| x |\n";

#[test]
fn an_import_upward_and_an_unknown_wing_are_found() {
    let wings = tables::wings(MADE, "made");
    assert_eq!(wings.iter().map(|wing| wing.pure).collect::<Vec<_>>(), [false, true]);
    let graph = made(&[
        ("lib.rs", "mod top;\nmod low;\nmod odd;"),
        ("top/mod.rs", "pub struct Top;\nuse crate::low::Low;"),
        ("low.rs", "pub struct Low;\nuse crate::top::Top;"),
        ("odd.rs", ""),
    ]);
    let found = upward(&graph, &wings);
    assert_eq!(found, ["low.rs -> top/mod.rs", "odd.rs: ARCHITECTURE.md has no wing odd"]);
}

#[test]
fn impure_words_are_found_in_code_and_in_trees_of_imports() {
    assert_eq!(tables::impure("use std::{fmt, fs::File};"), ["std::fs"]);
    assert_eq!(tables::impure("fn f() { let t = std::time::Instant::now(); }"), ["Instant"]);
    assert_eq!(tables::impure("use std::time::{Duration, SystemTime};"), ["SystemTime"]);
    assert_eq!(tables::impure("use nix::{errno::Errno, unistd};"), ["nix::unistd"]);
    let harmless =
        "//! std::fs\nuse std::fmt;\n#[cfg(test)]\nmod tests { use std::fs; fn f() { libc::x() } }";
    assert_eq!(tables::impure(harmless), Vec::<String>::new());
}

#[test]
fn a_dangerous_word_elsewhere_is_found() {
    let dangers: Vec<Danger> = tables::dangers(MADE);
    assert_eq!(dangers.len(), 1);
    let words = |text: &str| source::product(text);
    let starts = words("fn f() { Command::new(\"x\").arg(y); }");
    assert_eq!(
        dangers[0].found("made/src/low.rs", &starts),
        ["made/src/low.rs: Command::new (a program)"]
    );
    assert_eq!(dangers[0].found("made/src/top/run.rs", &starts), Vec::<String>::new());
    assert_eq!(dangers[0].found("made/src/child/a.rs", &starts), Vec::<String>::new());
    assert_eq!(
        dangers[0].found("made/src/low.rs", &words("// execve\nfn SYS_execve() {}")),
        Vec::<String>::new()
    );
}
