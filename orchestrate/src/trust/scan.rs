//! What is asked of a scanner, and what becomes of what it found.

use std::path::PathBuf;
use std::{fmt, io};

use registry::{Scan, Severity};
use serde::Serialize;

/// Where the programs are looked for that a scanner is or starts.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What happens to an image that was not scanned, or not well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing; it is scanned when asked.
    #[default]
    Off,
    /// It is scanned before its first activation, and what was found is said.
    Report,
    /// It is not activated.
    Required,
}

/// Who scans, and what is not let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether activations depend on it.
    pub mode: Mode,
    /// The scanner and its words; `{}` in one is the tree's place.
    pub command: Vec<String>,
    /// Findings that are not let through.
    pub block: Vec<Severity>,
    /// It has so many seconds, of the wall and of the processor.
    pub timeout_s: u64,
    /// It may print so many bytes, on both streams together.
    pub output_max: u64,
    /// It may map so many bytes.
    pub memory_max: u64,
    /// A program and its words that print the scanner's version and database; none: only its report tells.
    pub about: Vec<String>,
    /// Whether it has the host's network.
    pub network: bool,
    /// The one directory that it may write to.
    pub cache: PathBuf,
    /// What becomes of a scan whose walls cannot all be put up.
    pub walls: unpack::Walls,
    /// With which codes it ends when it has done its work, found something or not.
    pub exit_codes: Vec<u8>,
    /// Whether what runs and is blocked is taken down.
    pub take_down: bool,
}

/// How many findings of each severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// The worst.
    pub critical: u64,
    /// Bad.
    pub high: u64,
    /// Not so bad.
    pub medium: u64,
    /// Hardly.
    pub low: u64,
    /// Nobody knows.
    pub unknown: u64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { critical, high, medium, low, unknown } = self;
        write!(f, "{critical} critical, {high} high, {medium} medium, {low} low, {unknown} unknown")
    }
}

impl Mode {
    /// The mode of a word of the settings.
    pub fn from_word(word: &str) -> Option<Mode> {
        match word {
            "off" => Some(Mode::Off),
            "report" => Some(Mode::Report),
            "required" => Some(Mode::Required),
            _ => None,
        }
    }

    /// The word of the settings, and in the registry.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Report => "report",
            Mode::Required => "required",
        }
    }
}

impl Policy {
    /// The scanner, as it is set: by its words, whatever its report calls itself.
    pub fn scanner(&self) -> String {
        self.command.join(" ")
    }

    /// Whether a verdict is one by which this policy goes: of the scanner that is set, and where one is
    /// required, made when it was.
    pub fn counts_for(&self, scan: &Scan) -> bool {
        let required = self.mode != Mode::Required || scan.policy == Mode::Required.word();
        scan.command == self.scanner() && required
    }

    /// Whether these counts are not let through. Pure.
    pub fn blocks(&self, counts: &[u64; 5]) -> bool {
        self.block.iter().any(|severity| counts[*severity as usize] > 0)
    }
}

/// Why there is no report.
#[derive(Debug)]
pub enum Failure {
    /// No scanner is set.
    None,
    /// It could not be started.
    Start(io::Error),
    /// It did not end in time and was killed.
    Time {
        /// The bound, seconds.
        seconds: u64,
    },
    /// It printed too much and was killed.
    Flood {
        /// The bound, bytes.
        bytes: u64,
    },
    /// It printed a report, and ended as one does that has not done its work.
    Code {
        /// Its exit code.
        code: Option<i32>,
        /// Those that are set.
        listed: Vec<u8>,
        /// Its last words on stderr.
        words: String,
    },
    /// It ended without a report.
    NoReport {
        /// What is wrong with what it printed.
        why: String,
        /// Its exit code.
        code: Option<i32>,
        /// Its last words on stderr.
        words: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::None => f.write_str(
                "no scanner is set: set scan.command, for example [\"trivy\", \"rootfs\", \"--format\", \
                 \"json\", \"--quiet\", \"{}\"]",
            ),
            Failure::Start(error) => write!(f, "the scanner cannot be started: {error}"),
            Failure::Time { seconds } => {
                write!(f, "the scanner was killed after {seconds} s; scan.timeout allows more")
            }
            Failure::Flood { bytes } => write!(
                f,
                "the scanner was killed after it had printed {bytes} bytes; scan.output_max allows more"
            ),
            Failure::Code { code, listed, words } => {
                let texts = |codes: &[i32]| {
                    let texts: Vec<String> = codes.iter().map(|code| format!("\"{code}\"")).collect();
                    texts.join(", ")
                };
                let mut codes: Vec<i32> = listed.iter().map(|code| i32::from(*code)).collect();
                let now = texts(&codes);
                match code {
                    Some(code) => {
                        codes.push(*code);
                        write!(
                            f,
                            "the scanner printed a report and ended with {code}, so the report does not count; \
                             where it ends so after a scan that worked, scan.exit_codes = [{}] has it count (now: \
                             [{now}])",
                            texts(&codes)
                        )?;
                    }
                    None => f.write_str("the scanner printed a report and was killed, so it does not count")?,
                }
                match words.is_empty() {
                    true => Ok(()),
                    false => write!(f, "; it says: {}", words.escape_debug()),
                }
            }
            Failure::NoReport { why, code, words } => {
                write!(f, "the scanner gave no report: {}", why.escape_debug())?;
                match code {
                    Some(code) => write!(f, ", and ended with {code}")?,
                    None => f.write_str(", and was killed")?,
                }
                match words.is_empty() {
                    true => Ok(()),
                    false => write!(f, "; it says: {}", words.escape_debug()),
                }
            }
        }
    }
}
