//! Rust text to the paths that it names. Not a parser: comments, literals and test modules go, and what is
//! left is read as words.

/// A path as it is written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// The words between `::`, first `crate`, `super`, `self` or a name; an item behind `*` is left out.
    pub(crate) path: Vec<String>,
    /// The name that it has here, where it is a `use`.
    pub(crate) here: Option<String>,
    /// How many modules in braces are around it.
    pub(crate) inside: usize,
}

/// What one file says.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) named: Vec<Named>,
    /// Modules of tests that have files of their own.
    pub(crate) tests: Vec<String>,
}

/// Reads a file.
pub(crate) fn read(text: &str) -> Source {
    let words = words(&bare(text));
    let mut source = Source::default();
    let (mut at, mut depth) = (0, 0usize);
    let mut modules: Vec<usize> = Vec::new();
    while at < words.len() {
        match words[at].as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if modules.last() == Some(&depth) {
                    modules.pop();
                }
            }
            "mod" if word(&words, at + 2) == "{" => {
                if is_test(&words, at) {
                    at = behind_braces(&words, at + 2);
                    continue;
                }
                modules.push(depth);
            }
            "mod" if word(&words, at + 2) == ";" && is_test(&words, at) => {
                source.tests.push(words[at + 1].clone());
            }
            "use" => {
                let end = (at..words.len()).find(|end| words[*end] == ";").unwrap_or(words.len());
                let mut from = at + 1;
                tree(&words[..end], &mut from, &mut Vec::new(), modules.len(), &mut source.named);
                at = end;
            }
            "crate" | "super" | "self" if word(&words, at + 1) == "::" => {
                let mut path = vec![words[at].clone()];
                while word(&words, at + 1) == "::" && is_name(word(&words, at + 2)) {
                    path.push(words[at + 2].clone());
                    at += 2;
                }
                source.named.push(Named { path, here: None, inside: modules.len() });
            }
            _ => {}
        }
        at += 1;
    }
    source
}

/// The words of a file that ships: without modules of tests.
pub(crate) fn product(text: &str) -> Vec<String> {
    let words = words(&bare(text));
    let (mut out, mut at) = (Vec::new(), 0);
    while at < words.len() {
        if words[at] == "mod" && word(&words, at + 2) == "{" && is_test(&words, at) {
            at = behind_braces(&words, at + 2);
        } else {
            out.push(words[at].clone());
            at += 1;
        }
    }
    out
}

/// What a file that ships imports, each path whole.
pub(crate) fn imports(text: &str) -> Vec<Vec<String>> {
    read(text).named.into_iter().map(|named| named.path).collect()
}

/// A text as words.
pub(crate) fn split(text: &str) -> Vec<String> {
    words(text)
}

fn word(words: &[String], at: usize) -> &str {
    words.get(at).map_or("", String::as_str)
}

fn is_name(word: &str) -> bool {
    word.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_')
}

/// Whether `#[cfg(test)]` stands before the word at `at`.
fn is_test(words: &[String], at: usize) -> bool {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    // Only `pub` and `pub(crate)` and its like may stand between.
    let visible = |from: usize| words[from..at].first().is_none_or(|word| word == "pub");
    let end = [0, 1, 4]
        .into_iter()
        .filter_map(|back| at.checked_sub(back))
        .find(|end| word(words, end.wrapping_sub(1)) == "]" && visible(*end));
    let Some(start) = end.and_then(|end| end.checked_sub(mark.len())) else { return false };
    (0..mark.len()).all(|n| word(words, start + n) == mark[n])
}

/// The place behind the braces that open at `at`.
fn behind_braces(words: &[String], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at < words.len() {
        match words[at].as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

/// One tree of a `use`, up to its comma, brace or end.
fn tree(
    words: &[String],
    at: &mut usize,
    before: &mut Vec<String>,
    inside: usize,
    named: &mut Vec<Named>,
) {
    let kept = before.len();
    loop {
        match word(words, *at) {
            "::" => *at += 1,
            "{" => {
                *at += 1;
                while !matches!(word(words, *at), "}" | "") {
                    tree(words, at, before, inside, named);
                    if word(words, *at) == "," {
                        *at += 1;
                    }
                }
                *at += 1;
                break;
            }
            "*" => {
                named.push(Named { path: before.clone(), here: None, inside });
                *at += 1;
                break;
            }
            name if is_name(name) => {
                before.push(name.to_owned());
                *at += 1;
                if word(words, *at) == "::" {
                    continue;
                }
                let mut here = name.to_owned();
                if word(words, *at) == "as" {
                    word(words, *at + 1).clone_into(&mut here);
                    *at += 2;
                }
                let mut path = before.clone();
                if path.len() > 1 && name == "self" {
                    path.pop();
                    here = path.last().cloned().unwrap_or_default();
                }
                named.push(Named { path, here: Some(here), inside });
                break;
            }
            _ => break,
        }
    }
    before.truncate(kept);
}

/// The text without comments, strings and characters.
fn bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
        } else if let Some(hashes) = raw(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = hashes + 2;
            rest = rest[from..].find(&end).map_or("", |at| &rest[from + at + end.len()..]);
            out.push(' ');
        } else if first == '"' {
            rest = behind_string(&rest[1..]);
            out.push(' ');
        } else if first == '\'' {
            rest = behind_quote(&rest[1..]);
        } else {
            let length = if is_name(rest) { name_length(rest) } else { first.len_utf8() };
            out.push_str(&rest[..length]);
            rest = &rest[length..];
        }
    }
    out
}

/// How many hashes a raw string has that begins here.
fn raw(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

fn behind_string(mut rest: &str) -> &str {
    while let Some(at) = rest.find(['"', '\\']) {
        if rest[at..].starts_with('"') {
            return &rest[at + 1..];
        }
        let mut chars = rest[at + 1..].chars();
        chars.next();
        rest = chars.as_str();
    }
    ""
}

/// Behind a character, or behind the quote of a lifetime.
fn behind_quote(rest: &str) -> &str {
    let mut chars = rest.chars();
    match chars.next() {
        Some('\\') => {
            chars.next();
            chars.as_str().find('\'').map_or("", |end| &chars.as_str()[end + 1..])
        }
        Some(_) if chars.as_str().starts_with('\'') => &chars.as_str()[1..],
        _ => rest,
    }
}

fn name_length(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len())
}

fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if is_name(rest) {
            name_length(rest)
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            words.push(rest[..length].to_owned());
        }
        rest = &rest[length..];
    }
    words
}
