//! Foreign text, made safe to show.

/// `text` without a byte that could move a terminal's cursor or end the quotes around it.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim_end().chars() {
        match c {
            '\n' => out.push_str("; "),
            '\'' => out.push(c),
            other => out.extend(other.escape_debug()),
        }
    }
    out
}
