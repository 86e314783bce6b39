//! The house inside the crates: which file imports which, with every re-export followed to the file
//! that defines the name, and which files do so in a circle. Reads sources; nothing is run.

#[path = "house/graph.rs"]
mod graph;
#[path = "house/source.rs"]
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use graph::Graph;

/// How many files of each crate's `src` still lie in circles. The numbers only go down; 0 is the aim.
const IN_CIRCLES: [(&str, usize); 5] =
    [("fetch", 12), ("unpack", 27), ("thin", 13), ("registry", 3), ("orchestrate", 66)];

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

fn graph_of(member: &str) -> Graph {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's folder");
    let root = workspace.join(member).join("src");
    let mut files = BTreeMap::new();
    collect(&root, &root, &mut files);
    assert!(files.len() > 3, "{member} has only {} files", files.len());
    Graph::new(member, &files)
}

#[test]
fn no_more_files_lie_in_circles() {
    let mut found = Vec::new();
    for (member, known) in IN_CIRCLES {
        let circles = graph_of(member).circles();
        let files: usize = circles.iter().map(|circle| circle.files.len()).sum();
        if files != known {
            let told: Vec<String> = circles.iter().map(ToString::to_string).collect();
            found.push(format!("{member}: {files} files, known are {known}\n{}", told.join("\n")));
        }
    }
    assert!(found.is_empty(), "files in circles:\n{}", found.join("\n"));
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
             #[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n#[cfg(test)]\nmod more;",
        ),
        ("b/more.rs", "use crate::a::A;"),
    ]);
    assert_eq!(graph.circles().len(), 0);
    assert_eq!(graph.imports("a.rs"), ["b.rs"]);
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
