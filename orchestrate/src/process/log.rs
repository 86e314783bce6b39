//! What the program says on stderr: plain lines for people, or one event a line as logfmt or JSON. The
//! forms are pure; one log is set for the process, by `main`, and everything goes through it.
//!
//! What comes from outside may hold anything, so no control character, and nothing that turns text
//! around on a terminal, ever comes out raw.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use registry::{RunId, VolumeId};

/// A value longer than this is cut, bytes.
const VALUE_BYTES_MAX: usize = 4096;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// A sentence for people; no fields.
    #[default]
    Text,
    /// `level=info msg="..." key=value`.
    Logfmt,
    /// One object.
    Json,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something did not come to its end.
    Error,
    /// It goes on, and somebody should know.
    Warning,
    /// What happens.
    Info,
    /// More of it.
    Debug,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// A text, from wherever.
    Text(String),
}

/// The log of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub form: Form,
    /// Whether journald reads: it has clocks of its own and takes the level from `<N>` before the line.
    pub journald: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Sets the log of this process; the first stays.
pub fn set(log: Log) {
    // Who comes second has been heard already.
    LOG.set(log).ok();
}

/// Says one line. Fields are for machines; people read the message.
pub fn line(level: Level, msg: &str, fields: &[(&str, Field)]) {
    let log = LOG.get().copied().unwrap_or_default();
    // A log that nobody reads any more is no reason to stop.
    drop(std::io::stderr().write_all(log.line(SystemTime::now(), level, msg, fields).as_bytes()));
}

/// Whether programs read the log, who want more lines than people do.
pub fn for_machines() -> bool {
    LOG.get().is_some_and(|log| log.form != Form::Text)
}

impl Log {
    /// The log of this form, on the stderr of this process.
    pub fn of_stderr(form: Form) -> Log {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let meta = std::fs::metadata("/proc/self/fd/2");
        Log { form, journald: meta.is_ok_and(|m| is_journal(&stream, m.dev(), m.ino())) }
    }

    /// One line with its end. Pure.
    pub fn line(
        &self,
        at: SystemTime,
        level: Level,
        msg: &str,
        fields: &[(&str, Field)],
    ) -> String {
        let mut text = String::new();
        if self.journald {
            put(&mut text, format_args!("<{}>", level.priority()));
        }
        match self.form {
            Form::Text => {
                text.push_str(match level {
                    Level::Error => "orchestrate: fatal: ",
                    Level::Warning => "orchestrate: warning: ",
                    Level::Info | Level::Debug => "orchestrate: ",
                });
                escape(&mut text, msg, false);
            }
            Form::Logfmt => {
                if !self.journald {
                    put(&mut text, format_args!("ts={} ", timestamp(at)));
                }
                put(&mut text, format_args!("level={} msg=", level.word()));
                logfmt(&mut text, msg);
                for (key, value) in fields {
                    put(&mut text, format_args!(" {key}="));
                    match value {
                        Field::Number(number) => put(&mut text, format_args!("{number}")),
                        Field::Text(value) => logfmt(&mut text, value),
                    }
                }
            }
            Form::Json => {
                text.push('{');
                if !self.journald {
                    put(&mut text, format_args!("\"ts\":\"{}\",", timestamp(at)));
                }
                put(&mut text, format_args!("\"level\":\"{}\",\"msg\":", level.word()));
                quoted(&mut text, msg);
                for (key, value) in fields {
                    put(&mut text, format_args!(",\"{key}\":"));
                    match value {
                        Field::Number(number) => put(&mut text, format_args!("{number}")),
                        Field::Text(value) => quoted(&mut text, value),
                    }
                }
                text.push('}');
            }
        }
        text.push('\n');
        text
    }
}

impl Level {
    /// The word in a line.
    pub fn word(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }

    /// syslog(3).
    fn priority(self) -> u8 {
        match self {
            Level::Error => 3,
            Level::Warning => 4,
            Level::Info => 6,
            Level::Debug => 7,
        }
    }
}

impl Form {
    /// The form of a word of the settings.
    pub fn from_word(word: &str) -> Option<Form> {
        match word {
            "text" => Some(Form::Text),
            "logfmt" => Some(Form::Logfmt),
            "json" => Some(Form::Json),
            _ => None,
        }
    }
}

impl From<u64> for Field {
    fn from(number: u64) -> Field {
        Field::Number(number)
    }
}

impl From<VolumeId> for Field {
    fn from(id: VolumeId) -> Field {
        Field::Number(id.get().into())
    }
}

impl From<RunId> for Field {
    fn from(id: RunId) -> Field {
        Field::Number(id.get())
    }
}

impl From<&str> for Field {
    fn from(text: &str) -> Field {
        Field::Text(text.to_owned())
    }
}

impl From<String> for Field {
    fn from(text: String) -> Field {
        Field::Text(text)
    }
}

/// systemd.exec(5): `JOURNAL_STREAM` is `device:inode` of what stderr was connected to.
fn is_journal(stream: &str, dev: u64, ino: u64) -> bool {
    let Some((a, b)) = stream.split_once(':') else { return false };
    a.parse() == Ok(dev) && b.parse() == Ok(ino)
}

/// Bare where it can be, else in quotes.
fn logfmt(text: &mut String, value: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@+,%".contains(c);
    match !value.is_empty() && value.len() <= VALUE_BYTES_MAX && value.chars().all(plain) {
        true => text.push_str(value),
        false => quoted(text, value),
    }
}

/// A string of JSON, which readers of logfmt take too.
fn quoted(text: &mut String, value: &str) {
    text.push('"');
    escape(text, value, true);
    text.push('"');
}

fn escape(text: &mut String, value: &str, quotes: bool) {
    let cut = value.floor_char_boundary(VALUE_BYTES_MAX);
    for c in value[..cut].chars() {
        match c {
            '"' | '\\' if quotes => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if unsafe_to_show(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    put(text, format_args!("\\u{unit:04x}"));
                }
            }
            c => text.push(c),
        }
    }
    if cut < value.len() {
        put(text, format_args!(".. ({} bytes)", value.len()));
    }
}

/// Controls, line ends of Unicode, and what turns or hides text (Unicode TR 36, 3.1).
fn unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// JSON in which nothing acts on a terminal or turns or hides text: that is written as `\uXXXX`. It stands only
/// in texts, so the JSON says the same.
pub fn harmless(json: String) -> String {
    let bad = |c: char| c >= '\u{7f}' && unsafe_to_show(c);
    if !json.chars().any(bad) {
        return json;
    }
    let mut text = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match bad(c) {
            true => escape(&mut text, c.encode_utf8(&mut [0; 4]), true),
            false => text.push(c),
        }
    }
    text
}

/// RFC 3339 in UTC, with milliseconds.
pub(crate) fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days of a 400-year cycle, counted from 1 March of year 0, so that the leap day comes last.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!(
        "{:04}-{month:02}-{of_month:02}T{:02}:{:02}:{:02}.{:03}Z",
        era * 400 + year + carry,
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

fn put(text: &mut String, args: std::fmt::Arguments<'_>) {
    text.write_fmt(args).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn log(form: Form) -> Log {
        Log { form, journald: false }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7)
    }

    #[test]
    fn the_three_forms() {
        let fields: &[(&str, Field)] =
            &[("run", 7.into()), ("layer", "s3://b/1.tar".into()), ("why", "a \"b\"".into())];
        let say = |log: Log, level| log.line(at(0), level, "layer sealed", fields);
        assert_eq!(
            say(log(Form::Logfmt), Level::Info),
            "ts=1970-01-01T00:00:00.007Z level=info msg=\"layer sealed\" run=7 layer=s3://b/1.tar \
             why=\"a \\\"b\\\"\"\n"
        );
        assert_eq!(
            say(log(Form::Json), Level::Error),
            "{\"ts\":\"1970-01-01T00:00:00.007Z\",\"level\":\"error\",\"msg\":\"layer sealed\",\"run\":7,\
             \"layer\":\"s3://b/1.tar\",\"why\":\"a \\\"b\\\"\"}\n"
        );
        assert_eq!(say(log(Form::Text), Level::Info), "orchestrate: layer sealed\n");
        assert_eq!(say(log(Form::Text), Level::Error), "orchestrate: fatal: layer sealed\n");
        let journal = Log { form: Form::Logfmt, journald: true };
        assert_eq!(journal.line(at(0), Level::Warning, "x", &[]), "<4>level=warning msg=x\n");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_799, "2000-02-29T23:59:59.007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.007Z"),
            (1_709_251_200, "2024-03-01T00:00:00.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
        ] {
            assert_eq!(timestamp(at(seconds)), expected);
        }
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_journal("8:1234", 8, 1234));
        for stream in ["", "8", "8:", "8:1235", "9:1234", "8:1234:1", "x:y"] {
            assert!(!is_journal(stream, 8, 1234), "{stream}");
        }
    }

    /// Splits a line as readers of logfmt do.
    fn read_logfmt(line: &str) -> Vec<(String, String)> {
        let (mut pairs, mut rest) = (Vec::new(), line.trim_end_matches('\n'));
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=').expect("key=value");
            let value;
            if after.starts_with('"') {
                let mut stream = serde_json::Deserializer::from_str(after).into_iter::<String>();
                value = stream.next().expect("a value").expect("a JSON string");
                rest = &after[stream.byte_offset()..];
            } else {
                let end = after.find(' ').unwrap_or(after.len());
                value = after[..end].to_owned();
                rest = &after[end..];
            }
            rest = rest.strip_prefix(' ').unwrap_or(rest);
            pairs.push((key.to_owned(), value));
        }
        pairs
    }

    /// A seeded xorshift: the same bytes each time.
    #[test]
    fn hostile_bytes_come_out_harmless_and_can_be_read_back() {
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..20_000 {
            let length = next() % 40;
            let bytes: Vec<u8> = (0..length)
                .map(|_| match next() % 4 {
                    0 => b"\x1b\n\r\0\"\\= \x7f\xc2\x9b"[(next() % 11) as usize],
                    _ => next().to_le_bytes()[0],
                })
                .collect();
            let mut value = String::from_utf8_lossy(&bytes).into_owned();
            if round % 3 == 0 {
                value.extend(char::from_u32((next() % 0x11_0000) as u32));
                value.push(['\u{202e}', '\u{2066}', '\u{feff}', '\u{2028}'][(next() % 4) as usize]);
            }
            let fields = [("layer", Field::Text(value.clone())), ("run", Field::Number(round))];
            for form in [Form::Text, Form::Logfmt, Form::Json] {
                let line = log(form).line(at(0), Level::Info, &value, &fields);
                let body = line.strip_suffix('\n').expect("a line");
                assert!(!body.chars().any(unsafe_to_show), "{line:?}");
                match form {
                    Form::Text => {}
                    Form::Logfmt => {
                        let pairs = read_logfmt(&line);
                        assert_eq!(pairs.len(), 5, "{line:?}");
                        assert_eq!(pairs[2], ("msg".to_owned(), value.clone()), "{line:?}");
                        assert_eq!(pairs[3], ("layer".to_owned(), value.clone()), "{line:?}");
                    }
                    Form::Json => {
                        let object: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                        assert_eq!(object["layer"], value.as_str());
                    }
                }
            }
        }
    }

    #[test]
    fn a_value_without_end_is_cut_at_a_character() {
        let line = log(Form::Logfmt).line(at(0), Level::Info, &"é".repeat(50_000), &[]);
        assert!(line.len() < 5000 && line.contains(".. (100000 bytes)"), "{}", line.len());
    }

    #[test]
    fn json_turns_no_terminal_and_no_text_around() {
        let hostile: String = ('\u{7f}'..='\u{9f}')
            .chain("\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}aä\u{1b}\n".chars())
            .collect();
        let json = serde_json::json!({ "key": hostile.clone(), hostile.clone(): 1 }).to_string();
        let text = harmless(json);
        assert!(
            !text.chars().any(|c| c.is_control() || matches!(c, '\u{200e}'..='\u{2069}')),
            "{text:?}"
        );
        assert!(
            text.contains("\\u009b") && text.contains("\\u202e") && text.contains('ä'),
            "{text:?}"
        );
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["key"], hostile);
    }
}
