//! What of an image's config, or of what was asked beside it, cannot be run.

use std::fmt;

/// At most this many characters of a value are shown.
const SHOWN_MAX: usize = 200;

/// Why nothing can be handed over. Asking again gives the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A user, or a group, that the image's table does not have.
    Nobody {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
        /// The whole of what was asked for.
        asked: String,
        /// The table.
        table: &'static str,
    },
    /// A table of the image's that cannot be read.
    Table {
        /// Which.
        table: &'static str,
        /// What is in its place.
        why: String,
    },
    /// A number that no user or group can have.
    Number {
        /// `user` or `group`.
        what: &'static str,
        /// The number.
        number: i64,
    },
    /// More groups than a process can be in.
    Groups {
        /// The user.
        name: String,
        /// How many there are.
        groups: usize,
    },
    /// Neither an entry point nor a command.
    NoCommand {
        /// The image.
        image: String,
        /// Whether it has a config at all.
        config: bool,
    },
    /// An entry point or command that cannot be handed to a program.
    Word {
        /// Which of them.
        what: &'static str,
        /// The word.
        word: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An environment variable that is none.
    Variable {
        /// What is there.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A directory to begin in that is none.
    Directory {
        /// What is there.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A host name that is none.
    HostName {
        /// What was asked for.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A bundle's directory that has a configuration of something else.
    Foreign {
        /// The file.
        path: String,
    },
    /// A file, or a directory, that cannot be what was asked for.
    Place {
        /// What was asked for.
        what: &'static str,
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A `--copy` that means nothing, or not beside another.
    Copy {
        /// What was asked for.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// More to be copied than is let through.
    Copies {
        /// `files` or `bytes`.
        what: &'static str,
        /// How many, as far as they were counted.
        found: u64,
        /// How many there may be.
        most: u64,
    },
    /// A file to be copied that is another than when it was asked for.
    Changed {
        /// The file.
        path: String,
    },
    /// An owner or a mode of a device that is none.
    Owner {
        /// The option.
        what: &'static str,
        /// What was asked for.
        text: String,
        /// What it has to be.
        why: &'static str,
    },
    /// An activation that is no device.
    NoDevice {
        /// The store.
        store: String,
    },
    /// A place in which no node of a device is made.
    Node {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A config that breaks a rule.
    Config {
        /// The image.
        image: String,
        /// Which.
        source: Box<fetch::image::Error>,
    },
    /// An image of which no config is known.
    NoConfig {
        /// The image.
        image: String,
    },
    /// An activation that is not up.
    NotUp {
        /// Its name.
        name: String,
        /// Its image.
        image: String,
        /// How it is instead.
        state: &'static str,
    },
    /// A path that no configuration can name, since its text is Unicode.
    Path {
        /// The path, as far as it is text.
        path: String,
    },
}

/// In quotes, escaped, and only its beginning where it is long.
fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => {
            format!("{:?}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len())
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Nobody { what, name, asked, table } => write!(
                f,
                "the image wants to run as {}, and its {table} has no {what} {}",
                cut(asked),
                cut(name)
            ),
            Unfit::Table { table, why } => {
                write!(f, "the image's {table} {why}; it is not read")
            }
            Unfit::Number { what, number } => {
                write!(f, "{what} {number}: numbers of users and groups are 0 to {}", i32::MAX)
            }
            Unfit::Groups { name, groups } => write!(
                f,
                "user {} is in {groups} groups of the image, and a process can be in 65536",
                cut(name)
            ),
            Unfit::NoCommand { image, config: true } => write!(
                f,
                "{}: the image has neither Entrypoint nor Cmd; give a command after --",
                cut(image)
            ),
            Unfit::NoCommand { image, config: false } => write!(
                f,
                "{}: the image has no config that says what to run; give a command after --",
                cut(image)
            ),
            Unfit::Word { what, word, why } => write!(f, "{what} {}: {why}", cut(word)),
            Unfit::Variable { text, why } => write!(f, "Env {}: {why}", cut(text)),
            Unfit::Directory { text, why } => write!(f, "WorkingDir {}: {why}", cut(text)),
            Unfit::HostName { text, why } => write!(f, "--hostname {}: {why}", cut(text)),
            Unfit::Foreign { path } => write!(
                f,
                "{} is not of this activation, and is left as it is; name another directory, or remove the file",
                cut(path)
            ),
            Unfit::Place { what, path, why } => write!(f, "{what} {}: {why}", cut(path)),
            Unfit::Copy { text, why } => write!(f, "--copy {}: {why}", cut(text)),
            Unfit::Copies { what, found, most } => {
                write!(
                    f,
                    "--copy: {found} {what}, and at most {most} can be copied into one activation"
                )
            }
            Unfit::Changed { path } => write!(
                f,
                "--copy {} has changed since it was asked for, so it is not copied; ask again to have it copied as \
                 it is now",
                cut(path)
            ),
            Unfit::Owner { what, text, why } => write!(f, "{what} {}: {why}", cut(text)),
            Unfit::NoDevice { store } => write!(
                f,
                "the store {} is a directory, and its activations are directories without a device: \
                 --device-owner, --device-mode and --node are for a pool",
                cut(store)
            ),
            Unfit::Node { path, why } => write!(f, "--node {}: {why}", cut(path)),
            Unfit::Config { image, source } => write!(f, "{}: {source}", cut(image)),
            Unfit::NoConfig { image } => write!(
                f,
                "{}: no config is known of this image; one of numbered layers has none, and after a rebuild \
                 `orchestrate ensure` brings it back",
                cut(image)
            ),
            Unfit::NotUp { name, image, state } => write!(
                f,
                "activation {name} is {state}; `orchestrate activate {} --name {name}` first",
                image.escape_debug()
            ),
            Unfit::Path { path } => {
                write!(f, "{}: not Unicode, so no configuration can name it", cut(path))
            }
        }
    }
}

impl std::error::Error for Unfit {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Its words are in ours.
            Unfit::Config { source, .. } => source.source(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_told_by_its_beginning_and_nothing_in_it_acts_on_a_terminal() {
        let name = format!("\u{1b}[2J{}", "x".repeat(300));
        let told = Unfit::Nobody { what: "user", name, asked: "a\nb".into(), table: "/etc/passwd" };
        let told = told.to_string();
        assert!(told.starts_with(
            r#"the image wants to run as "a\nb", and its /etc/passwd has no user "\u{1b}[2Jxx"#
        ));
        assert!(told.ends_with("… (304 bytes)"), "{told}");
    }
}
