//! Splits a line into words as Python's `shlex.split` does, which is how the AWS tools read a
//! `credential_process`. Pure; no shell is ever asked.

/// The words; none where a quote does not end or a backslash is last.
pub(crate) fn split(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(chars.next()?),
            '\'' => loop {
                let word = word.get_or_insert_default();
                match chars.next()? {
                    '\'' => break,
                    c => word.push(c),
                }
            },
            '"' => loop {
                let word = word.get_or_insert_default();
                match chars.next()? {
                    '"' => break,
                    '\\' => match chars.next()? {
                        c @ ('"' | '\\') => word.push(c),
                        c => word.extend(['\\', c]),
                    },
                    c => word.push(c),
                }
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_shlex() {
        for (line, due) in [
            ("/bin/x  a b", vec!["/bin/x", "a", "b"]),
            ("'/a b/x' \"c d\" e\\ f", vec!["/a b/x", "c d", "e f"]),
            ("a\"b\"'c' '' \"\"", vec!["abc", "", ""]),
            (r#""a\"b\\c\d""#, vec![r#"a"b\c\d"#]),
            (r"'a\b' $HOME `x` a;b #c", vec![r"a\b", "$HOME", "`x`", "a;b", "#c"]),
            ("", vec![]),
        ] {
            assert_eq!(split(line).unwrap(), due, "{line}");
        }
        for line in ["'a", "\"a", "a\\", "\"a\\"] {
            assert_eq!(split(line), None, "{line}");
        }
    }
}
