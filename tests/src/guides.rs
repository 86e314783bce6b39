//! The guides for operators, and every command that they print: read out of the documents themselves, so
//! that what is typed by a test is what a reader types.

/// The guides, by name.
pub const GUIDES: [(&str, &str); 2] = [
    ("docs/operations.md", include_str!("../../docs/operations.md")),
    ("docs/recovery.md", include_str!("../../docs/recovery.md")),
];

/// Programs whose lines are commands: ours, and those of the system that the guides use.
pub const PROGRAMS: [&str; 14] = [
    "fetch",
    "unpack",
    "thin",
    "registry",
    "orchestrate",
    "systemctl",
    "journalctl",
    "e2fsck",
    "mount",
    "umount",
    "dmsetup",
    "runuser",
    "setpriv",
    "chown",
];

/// One line of a guide between backticks, or of a block of code.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The guide.
    pub guide: &'static str,
    /// As it is printed.
    pub text: String,
}

impl Line {
    /// Whether a reader would type it: it begins with a program and says more than its name.
    #[must_use]
    pub fn is_command(&self) -> bool {
        let (program, rest) = self.text.split_once(' ').unwrap_or((&self.text, ""));
        PROGRAMS.contains(&program) && !rest.is_empty()
    }

    /// Whether it is for systemd and its journal, which only a whole machine has.
    #[must_use]
    pub fn is_systemds(&self) -> bool {
        self.text.starts_with("systemctl ") || self.text.starts_with("journalctl ")
    }
}

/// Everything in the guides that stands as code, in their order.
#[must_use]
pub fn lines() -> Vec<Line> {
    GUIDES.iter().flat_map(|(guide, text)| of(guide, text)).collect()
}

fn of(guide: &'static str, text: &str) -> Vec<Line> {
    let (mut found, mut paragraph, mut block) = (Vec::new(), String::new(), false);
    let close = |paragraph: &mut String| -> Vec<String> {
        std::mem::take(paragraph).split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    for line in text.lines() {
        if line.starts_with("```") {
            block = !block;
        }
        match (block, line.trim()) {
            (_, "") | (_, "```" | "```sh") => found.extend(close(&mut paragraph)),
            (true, line) => {
                let command = line.split(" #").next().unwrap_or_default().trim();
                found.extend((!command.is_empty()).then(|| command.to_owned()));
            }
            // What stands between two backticks may go over the end of a line.
            (false, line) => paragraph = format!("{paragraph} {line}"),
        }
    }
    found.extend(close(&mut paragraph));
    found.into_iter().map(|text| Line { guide, text }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_words() {
        let text = "| `needs_check` | `thin pool up DIR`, then `orchestrate` |\n\n```sh\nthin ls  # all\n```\nAs `orchestrate\nhealth` has it.\n";
        let lines = of("g", text);
        let commands: Vec<&str> =
            lines.iter().filter(|line| line.is_command()).map(|line| line.text.as_str()).collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(commands, ["thin pool up DIR", "thin ls", "orchestrate health"]);
    }
}
