//! Foreign text, made safe to show.

/// What a program says about a failure may be longer than a name.
const SAID_MAX: usize = 2000;

/// At most this many characters of a name are shown.
const SHOWN_MAX: usize = 200;

/// `text` without a byte that could move a terminal's cursor or end the quotes around it, and only its
/// beginning where it is long.
pub(crate) fn clean(text: &str) -> String {
    cleaned(text, SHOWN_MAX)
}

/// As [`clean`], for what a program said.
pub(crate) fn clean_said(text: &str) -> String {
    cleaned(text, SAID_MAX)
}

fn cleaned(text: &str, max: usize) -> String {
    let text = text.trim_end();
    let mut out = String::new();
    for c in text.chars().take(max) {
        match c {
            '\n' => out.push_str("; "),
            '\'' => out.push(c),
            other => out.extend(other.escape_debug()),
        }
    }
    if text.chars().nth(max).is_some() {
        out.push_str(&format!("... ({} bytes)", text.len()));
    }
    out
}
