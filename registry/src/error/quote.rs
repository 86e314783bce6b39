//! Text from outside, as a message has it.

/// The beginning of a text from outside, for a message.
pub(crate) fn beginning(text: &str) -> &str {
    text.char_indices().nth(SHOWN_MAX).map_or(text, |(end, _)| &text[..end])
}

/// At most this many characters of it are shown.
const SHOWN_MAX: usize = 200;
