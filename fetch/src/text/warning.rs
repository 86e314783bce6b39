//! What a registry wants people to know: `Warning: 299 - "text"` (OCI distribution specification, "Warnings", which takes
//! the header from RFC 7234 5.5). Nothing is done by it.

use crate::text::quote::quoted;

/// "A registry MUST NOT send more than 4096 bytes of warning data from all headers combined."
const BYTES_MAX: usize = 4096;

/// The texts of an answer's warnings, quoted to be shown. What has another form is passed over, as clients have to.
pub(crate) fn warnings<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> Vec<String> {
    let (mut found, mut left) = (Vec::new(), BYTES_MAX);
    for value in values {
        let value = value.get(..value.len().min(left)).unwrap_or_default();
        left -= value.len();
        let text = String::from_utf8_lossy(value);
        let mut rest = text.trim_start_matches([' ', '\t', ',']);
        while let Some((warning, after)) = one(rest) {
            found.extend(warning.map(|text| quoted(&text)));
            rest = after.trim_start_matches([' ', '\t', ',']);
        }
    }
    found
}

/// The first of a list, where it is one at all, and what follows it; its text where it is of the one form that is shown.
fn one(list: &str) -> Option<(Option<String>, &str)> {
    let (code, rest) = list.split_once(' ')?;
    let (agent, rest) = rest.trim_start_matches(' ').split_once(' ')?;
    let (text, rest) = quoted_string(rest.trim_start_matches(' '))?;
    let rest = rest.trim_start_matches([' ', '\t']);
    // A date may follow (RFC 7234), which a registry must not send.
    let (dated, rest) = match quoted_string(rest) {
        Some((_, rest)) => (true, rest.trim_start_matches([' ', '\t'])),
        None => (false, rest),
    };
    if !(rest.is_empty() || rest.starts_with(',')) {
        return None;
    }
    let is_shown = code == "299" && agent == "-" && !dated && !text.is_empty();
    Some((is_shown.then_some(text), rest))
}

/// A quoted string at the start, without its quotes and escapes (RFC 9110 5.6.4), and what follows it.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut chars = text.strip_prefix('"')?.char_indices();
    let mut content = String::new();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((content, text.get(at + 2..)?)),
            '\\' => content.push(chars.next()?.1),
            char => content.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Vec<String> {
        warnings(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn only_what_the_specification_has_is_shown() {
        assert_eq!(of(&["299 - \"expires, soon\""]), ["\"expires, soon\""]);
        assert_eq!(of(&["299 - \"a\", 299 - \"b\"", "299 - \"c\""]), ["\"a\"", "\"b\"", "\"c\""]);
        assert_eq!(of(&[r#"299 - "say \"hi\" \\""#]), [r#""say \"hi\" \\""#]);
        // What is no such warning is passed over, and what follows it is not.
        let mixed = "110 - \"stale\", 299 proxy \"x\", 299 - \"d\" \"Wed, 21 Oct 2015 07:28:00 GMT\", 299 - \"good\"";
        assert_eq!(of(&[mixed]), ["\"good\""]);
        for none in ["", "299", "299 -", "299 - text", "299 - \"open", "299 - \"a\"b", "299 - \"\\"]
        {
            assert_eq!(of(&[none]), [""; 0], "{none}");
        }
    }

    #[test]
    fn what_is_shown_is_escaped_and_bounded() {
        assert_eq!(of(&["299 - \"a\u{1b}[2Jb\u{202e}\""]), [r#""a\u{1b}[2Jb\u{202e}""#]);
        let long = format!("299 - \"{}\"", "x".repeat(1000));
        assert_eq!(of(&[&long])[0].chars().count(), 203);
        let values = vec!["299 - \"abcdefghijklmnopqrstuvwxyz\""; 1000];
        assert_eq!(of(&values).len(), BYTES_MAX / values[0].len());
    }
}
