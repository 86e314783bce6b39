//! The tables of ARCHITECTURE.md, read as rules: the order of a crate's wings, which of them are pure, and the
//! words that only a few places may use.

use crate::source;

/// One wing of a crate: a folder of `src`, or a file beside the folders.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wing {
    pub(crate) name: String,
    /// Whether it does no I/O, starts no thread and reads no clock.
    pub(crate) pure: bool,
}

/// Words that occur only in a few places.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Danger {
    pub(crate) what: String,
    /// Each a sequence of words, such as `Command`, `::`, `new`.
    pub(crate) words: Vec<Vec<String>>,
    /// Files, or folders with a slash at their end, from the workspace's root.
    pub(crate) places: Vec<String>,
}

/// What a pure wing names nothing of: the beginnings of paths, and single words. Calls of `libc` need `unsafe`, which
/// has its own places; its types and those of `nix::errno` are data.
const IMPURE: [&[&str]; 10] = [
    &["std", "::", "fs"],
    &["std", "::", "net"],
    &["std", "::", "process"],
    &["std", "::", "thread"],
    &["Instant"],
    &["SystemTime"],
    &["nix", "::", "unistd"],
    &["nix", "::", "fcntl"],
    &["nix", "::", "sys"],
    &["rusqlite"],
];

/// The part of a document below the heading, up to the next heading of the same rank.
fn section<'a>(text: &'a str, heading: &str) -> Option<&'a str> {
    let from = text.find(&format!("\n{heading}\n"))? + heading.len() + 2;
    let rank = heading.split(' ').next().unwrap_or_default();
    let ends = |at: &(usize, &str)| {
        at.1.split(' ').next().is_some_and(|first| {
            first.starts_with('#')
                && first.len() <= rank.len()
                && first.trim_matches('#').is_empty()
        })
    };
    let mut at = 0;
    let lines = text[from..].split_inclusive('\n').map(|line| {
        let here = (at, line);
        at += line.len();
        here
    });
    let end = lines.into_iter().find(ends).map_or(text.len() - from, |(at, _)| at);
    Some(&text[from..from + end])
}

/// The cells of each row, without the head and the line below it.
fn rows(section: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    section.lines().filter(|line| line.starts_with('|')).skip(2).map(cells).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The wings of a crate, top first.
pub(crate) fn wings(architecture: &str, member: &str) -> Vec<Wing> {
    let section = section(architecture, &format!("### `{member}`"))
        .unwrap_or_else(|| panic!("ARCHITECTURE.md has no wings of {member}"));
    let wing = |cells: Vec<String>| Wing {
        name: quoted(&cells[0]).concat(),
        pure: cells.get(2).is_some_and(|cell| cell == "pure"),
    };
    rows(section).into_iter().map(wing).collect()
}

/// The dangers that have one place.
pub(crate) fn dangers(architecture: &str) -> Vec<Danger> {
    let section =
        section(architecture, "## One place for each danger").expect("the table of dangers");
    let danger = |cells: Vec<String>| Danger {
        what: cells[0].clone(),
        words: quoted(&cells[1]).iter().map(|words| source::split(words)).collect(),
        places: quoted(&cells[2]).into_iter().filter(|place| place.contains("/src/")).collect(),
    };
    rows(section).into_iter().map(danger).collect()
}

impl Danger {
    /// The words of a file that it may not have.
    pub(crate) fn found(&self, path: &str, words: &[String]) -> Vec<String> {
        let allowed = |place: &String| match place.ends_with('/') {
            true => path.starts_with(place.as_str()),
            false => path == place,
        };
        if self.places.iter().any(allowed) {
            return Vec::new();
        }
        let there = self.words.iter().filter(|word| count(words, word) > 0);
        there.map(|word| format!("{path}: {} ({})", word.concat(), self.what)).collect()
    }
}

/// How often a sequence of words occurs.
pub(crate) fn count(words: &[String], wanted: &[String]) -> usize {
    words.windows(wanted.len()).filter(|there| *there == wanted).count()
}

/// What makes a file of a pure wing impure.
pub(crate) fn impure(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let words = source::product(text);
    let imports: Vec<Vec<String>> = source::imports(text);
    for wanted in IMPURE {
        let wanted: Vec<String> = wanted.iter().map(|word| (*word).to_owned()).collect();
        let names: Vec<&String> = wanted.iter().filter(|word| *word != "::").collect();
        let imported = imports.iter().any(|path| {
            let beginning: Vec<&String> = path.iter().take(names.len()).collect();
            beginning == names || (names.len() == 1 && path.last() == Some(names[0]))
        });
        if imported || count(&words, &wanted) > 0 {
            found.push(wanted.concat());
        }
    }
    found
}
