//! Files and what they import: an edge leads to the file that defines a name, whatever re-exports lie between.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::source::{self, Named, Source};

type Module = Vec<String>;

/// The import graph of one crate. Edges carry the names that are imported.
pub(crate) struct Graph {
    /// The files that ship, without the roots.
    files: Vec<String>,
    edges: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

/// Files that import one another, whichever of them one begins at.
pub(crate) struct Circle {
    pub(crate) files: Vec<String>,
    edges: Vec<(String, String, BTreeSet<String>)>,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {} files: {}", self.files.len(), self.files.join(" "))?;
        for (from, to, names) in &self.edges {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            write!(f, "\n    {from} -> {to}: {}", names.join(", "))?;
        }
        Ok(())
    }
}

/// The module that a file is; none for the roots.
fn module(file: &str) -> Module {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let mut parts: Module = stem.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") || is_root(file) {
        parts.pop();
    }
    parts
}

fn is_root(file: &str) -> bool {
    file == "lib.rs" || file == "main.rs"
}

/// A crate being read: its files by module, and what each name in a module stands for.
struct Reading<'a> {
    member: &'a str,
    files: BTreeMap<Module, String>,
    names: BTreeMap<Module, Module>,
}

impl Reading<'_> {
    /// A path as written in `module`, from the crate's root; none if it leads out of the crate.
    fn absolute(&self, named: &Named, module: &[String]) -> Option<Module> {
        let (first, rest) = named.path.split_first()?;
        let mut base = module.to_vec();
        if first == "crate" || first == self.member {
            return Some(rest.to_vec());
        }
        if first != "super" && first != "self" {
            let mut path = base;
            path.extend(named.path.iter().cloned());
            let known = (1..=path.len()).rev().any(|n| {
                n > module.len()
                    && (self.files.contains_key(&path[..n]) || self.names.contains_key(&path[..n]))
            });
            return (known && named.inside == 0).then_some(path);
        }
        let ups = named.path.iter().take_while(|word| *word == "super").count();
        base.truncate(base.len().saturating_sub(ups.saturating_sub(named.inside)));
        let behind = named.path.iter().skip_while(|word| *word == "super" || *word == "self");
        base.extend(behind.cloned());
        Some(base)
    }

    /// The file that defines what a path names, and the name.
    fn defines(&self, path: &[String]) -> Option<(String, String)> {
        let mut path = path.to_vec();
        // A chain of re-exports is short; one that leads back to itself ends here.
        for _ in 0..8 {
            let Some(n) = (1..=path.len()).rev().find(|n| self.names.contains_key(&path[..*n]))
            else {
                break;
            };
            let mut next = self.names[&path[..n]].clone();
            next.extend(path[n..].iter().cloned());
            if next == path {
                break;
            }
            path = next;
        }
        let n = (1..=path.len()).rev().find(|n| self.files.contains_key(&path[..*n]))?;
        Some((self.files[&path[..n]].clone(), path.get(n).cloned().unwrap_or_default()))
    }
}

impl Graph {
    /// Of the files of `member`, by their paths below its `src`.
    pub(crate) fn new(member: &str, files: &BTreeMap<String, String>) -> Graph {
        let read: BTreeMap<&String, Source> =
            files.iter().map(|(file, text)| (file, source::read(text))).collect();
        let mut tests: BTreeSet<Module> = BTreeSet::new();
        for (file, source) in &read {
            for name in &source.tests {
                let mut of_test = module(file);
                of_test.push(name.clone());
                tests.insert(of_test);
            }
        }
        let is_test = |module: &[String]| (1..=module.len()).any(|n| tests.contains(&module[..n]));
        let mut reading = Reading { member, files: BTreeMap::new(), names: BTreeMap::new() };
        for file in files.keys().filter(|file| !is_root(file)) {
            let module = module(file);
            if !is_test(&module) {
                reading.files.insert(module, file.clone());
            }
        }
        // Names first of the roots, which re-export, then of each module.
        for (file, source) in &read {
            let here = module(file);
            for named in source.named.iter().filter(|named| named.inside == 0) {
                let (Some(name), Some(to)) = (&named.here, reading.absolute(named, &here)) else {
                    continue;
                };
                let mut from = here.clone();
                from.push(name.clone());
                if from != to && !reading.files.contains_key(&from) {
                    reading.names.insert(from, to);
                }
            }
        }
        let mut edges: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (here, file) in &reading.files {
            for named in &read[file].named {
                let Some(path) = reading.absolute(named, here) else { continue };
                if let Some((to, name)) = reading.defines(&path)
                    && to != *file
                {
                    edges.entry(file.clone()).or_default().entry(to).or_default().insert(name);
                }
            }
        }
        Graph { files: reading.files.into_values().collect(), edges }
    }

    /// The files that ship, without the roots.
    pub(crate) fn files(&self) -> &[String] {
        &self.files
    }

    /// The files that a file imports, in order.
    pub(crate) fn imports(&self, file: &str) -> Vec<&str> {
        self.edges.get(file).into_iter().flatten().map(|(to, _)| to.as_str()).collect()
    }

    /// Every file that can be reached from `file` by imports.
    fn reach(&self, file: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open = vec![file.to_owned()];
        while let Some(next) = open.pop() {
            for to in self.imports(&next) {
                if seen.insert(to.to_owned()) {
                    open.push(to.to_owned());
                }
            }
        }
        seen
    }

    /// The circles, each the largest set of files that all reach one another.
    pub(crate) fn circles(&self) -> Vec<Circle> {
        let reach: BTreeMap<&String, BTreeSet<String>> =
            self.edges.keys().map(|file| (file, self.reach(file))).collect();
        let mut done: BTreeSet<String> = BTreeSet::new();
        let mut circles = Vec::new();
        for (file, reached) in &reach {
            if done.contains(*file) || !reached.contains(*file) {
                continue;
            }
            let back = |other: &&String| reach.get(other).is_some_and(|from| from.contains(*file));
            let files: Vec<String> = reached.iter().filter(back).cloned().collect();
            done.extend(files.iter().cloned());
            circles.push(self.circle(files));
        }
        circles
    }

    fn circle(&self, files: Vec<String>) -> Circle {
        let mut edges = Vec::new();
        for from in &files {
            for (to, names) in &self.edges[from] {
                if files.contains(to) {
                    edges.push((from.clone(), to.clone(), names.clone()));
                }
            }
        }
        Circle { files, edges }
    }
}
