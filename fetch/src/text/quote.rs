//! Foreign text, made safe to show.

/// Quotes a foreign text: control and invisible characters escaped, the length bounded.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// At most this many characters of a foreign text are shown.
pub(crate) const SHOWN_MAX: usize = 200;
