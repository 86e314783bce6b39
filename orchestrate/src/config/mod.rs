//! Settings: flag, else variable, else file, else default; and for each where it came from. What they
//! mean to a run is in `settings`.

#[cfg(test)]
mod bounds;
pub(crate) mod cosign;
pub(crate) mod file;
pub(crate) mod fleet;
mod key_file;
pub(crate) mod pool;
pub(crate) mod settings;
pub(crate) mod table;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use crate::config::table::{BYTES_MAX, Kind, SECONDS_MAX, SETTINGS, Setting, setting};

use crate::error::Error;

/// The file that is read when none is named.
pub const FILE: &str = "/etc/veneer/veneer.toml";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file.
    File {
        /// Which.
        path: PathBuf,
        /// The line of its key.
        line: usize,
    },
    /// A variable.
    Environment {
        /// Its name.
        name: &'static str,
    },
    /// An option.
    Flag {
        /// Its name.
        name: &'static str,
    },
}

/// A value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// None.
    None,
    /// A text or word.
    Text(String),
    /// A whole number.
    Number(u64),
    /// Seconds.
    Seconds(f64),
    /// Yes or no.
    Switch(bool),
    /// Texts.
    List(Vec<String>),
}

/// Every setting with its value and origin, in the table's order.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) all: Vec<(&'static Setting, Value, Origin)>,
    /// Whether somebody named the file: then what is not in it was left out on purpose.
    pub(crate) named: bool,
}

/// Options of the command line, by the key of the setting; a switch is `yes`.
pub type Flags = Vec<(&'static str, String)>;

impl Config {
    /// The settings of this process: `flags`, its environment, and `file` or [`FILE`].
    ///
    /// # Errors
    /// [`Error::Usage`] naming what cannot be read; a file that was named has to be there.
    pub fn load(flags: &Flags, file: Option<&Path>) -> Result<Config, Error> {
        let look = |name: &str| std::env::var_os(name).map(|text| text.into_string());
        let path = file.unwrap_or_else(|| Path::new(FILE));
        let text = file::read(path)?;
        if let (None, Some(path)) = (&text, file) {
            return Err(Error::Usage(format!("there is no file {:?} to read settings from", path)));
        }
        let broken = SETTINGS.iter().flat_map(|s| s.env).find(|n| matches!(look(n), Some(Err(_))));
        if let Some(name) = broken {
            return Err(Error::Usage(format!("{name}: not UTF-8")));
        }
        // Where the AWS profile cannot be read, whoever fetches says so.
        let env = |name: &str| {
            let plain = look(name).and_then(Result::ok)?;
            fetch::Options::variable(name, None).unwrap_or(Some(plain))
        };
        let config = Config::resolve(flags, &env, text.as_deref().map(|text| (path, text)))?;
        Ok(Config { named: file.is_some(), ..config })
    }

    /// The settings of these flags, this environment and this file. Pure.
    ///
    /// # Errors
    /// [`Error::Usage`] naming what cannot be read, also where something else counts before it.
    pub fn resolve(
        flags: &Flags,
        env: &dyn Fn(&str) -> Option<String>,
        file: Option<(&Path, &str)>,
    ) -> Result<Config, Error> {
        let filed = file.map_or(Ok(Vec::new()), |(path, text)| file::parse(path, text))?;
        let mut all = Vec::new();
        for setting in SETTINGS {
            let bad = |name: &str, text: &str, why: String| {
                Error::Usage(format!("{name} {}: {why}", crate::error::quote::quoted(text)))
            };
            let value = Value::parse(setting.kind, setting.default)
                .map_err(|why| bad(setting.key, setting.default, why))?;
            let mut best = (setting, value, Origin::Default);
            if let Some(found) = filed.iter().find(|(found, ..)| found.key == setting.key) {
                best = found.clone();
            }
            let set = setting.env.iter().find_map(|name| {
                env(name).filter(|text| !text.is_empty()).map(|text| (*name, text))
            });
            if let Some((name, text)) = set {
                let text = if name == "VENEER_POOL" { format!("thin:{text}") } else { text };
                let value =
                    Value::parse(setting.kind, &text).map_err(|why| bad(name, &text, why))?;
                best = (setting, value, Origin::Environment { name });
            }
            if let Some((_, text)) = flags.iter().rev().find(|(key, _)| *key == setting.key) {
                let name = setting.flag.unwrap_or(setting.key);
                let value = Value::parse(setting.kind, text).map_err(|why| bad(name, text, why))?;
                best = (setting, value, Origin::Flag { name });
            }
            all.push(best);
        }
        Ok(Config { all, named: false })
    }

    /// Every setting, in the table's order.
    pub fn iter(&self) -> impl Iterator<Item = &(&'static Setting, Value, Origin)> {
        self.all.iter()
    }

    /// Whether there is a setting of this key.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.all.iter().any(|(setting, ..)| setting.key == key)
    }

    fn value(&self, key: &str) -> &Value {
        let found = self.all.iter().find(|(setting, ..)| setting.key == key);
        &found.unwrap_or_else(|| panic!("no setting {key:?} in the table")).1
    }

    /// A text or word; none where there is none.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Value::Text(text) => Some(text),
            Value::None
            | Value::Number(_)
            | Value::Seconds(_)
            | Value::Switch(_)
            | Value::List(_) => None,
        }
    }

    /// A number.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.value(key) {
            Value::Number(number) => Some(*number),
            Value::None
            | Value::Text(_)
            | Value::Seconds(_)
            | Value::Switch(_)
            | Value::List(_) => None,
        }
    }

    /// A time.
    pub fn seconds(&self, key: &str) -> Option<std::time::Duration> {
        match self.value(key) {
            Value::Seconds(seconds) => Some(std::time::Duration::from_secs_f64(*seconds)),
            Value::None | Value::Text(_) | Value::Number(_) | Value::Switch(_) | Value::List(_) => {
                None
            }
        }
    }

    /// Whether a switch is on.
    pub fn switch(&self, key: &str) -> bool {
        *self.value(key) == Value::Switch(true)
    }

    /// The texts of a list.
    pub fn list(&self, key: &str) -> &[String] {
        match self.value(key) {
            Value::List(texts) => texts,
            Value::None
            | Value::Text(_)
            | Value::Number(_)
            | Value::Seconds(_)
            | Value::Switch(_) => &[],
        }
    }
}

impl Value {
    /// A value from a flag's or variable's text.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(kind: Kind, text: &str) -> Result<Value, String> {
        match kind {
            Kind::List => {
                let words = text.split([',', ' ']).filter(|word| !word.is_empty());
                Ok(Value::List(words.map(str::to_owned).collect()))
            }
            _ if text.is_empty() => Ok(Value::None),
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Word(words) => match words.contains(&text) {
                true => Ok(Value::Text(text.to_owned())),
                false => Err(format!("expected one of {}", words.join(", "))),
            },
            Kind::Number { min, max } => match text.parse() {
                Ok(number) if (min..=max).contains(&number) => Ok(Value::Number(number)),
                _ => Err(format!("expected a whole number from {min} to {max}")),
            },
            Kind::Bytes { min } => match fetch::parse_bytes(text) {
                Some(bytes) if (min..=BYTES_MAX).contains(&bytes) => Ok(Value::Number(bytes)),
                _ => Err(bytes_rule(min)),
            },
            Kind::Seconds => match text.parse::<f64>() {
                Ok(seconds) if seconds > 0.0 && seconds <= SECONDS_MAX as f64 => {
                    Ok(Value::Seconds(seconds))
                }
                _ => Err(format!("expected seconds, more than 0 and at most {SECONDS_MAX}")),
            },
            Kind::Switch => match text {
                "yes" | "true" | "on" | "1" => Ok(Value::Switch(true)),
                "no" | "false" | "off" | "0" => Ok(Value::Switch(false)),
                _ => Err("expected yes or no".to_owned()),
            },
        }
    }

    /// As a variable would have it; none for none.
    pub(crate) fn plain(&self) -> Option<String> {
        match self {
            Value::None => None,
            Value::Text(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Seconds(seconds) => Some(seconds.to_string()),
            Value::Switch(on) => Some(if *on { "yes" } else { "no" }.to_owned()),
            Value::List(texts) => Some(texts.join(",")),
        }
    }

    /// As the file would have it; none for none.
    pub fn toml(&self) -> Option<String> {
        match self {
            Value::None => None,
            Value::Text(text) => Some(quoted(text)),
            Value::Number(_) | Value::Seconds(_) => self.plain(),
            Value::Switch(on) => Some(on.to_string()),
            Value::List(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
                Some(format!("[{}]", texts.join(", ")))
            }
        }
    }
}

/// What bytes have to be, in words.
pub fn bytes_rule(min: u64) -> String {
    format!(
        "expected bytes: a whole number from {min} to {BYTES_MAX}, with K, M, G or T for powers of 1024 if need be"
    )
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => {
                write!(f, "{} line {line}", path.display().to_string().escape_debug())
            }
            Origin::Environment { name } | Origin::Flag { name } => f.write_str(name),
        }
    }
}

/// A file of every setting, all of them commented out.
pub fn sample() -> String {
    let mut text = String::from(
        "# Settings of veneer. A flag counts before a variable, a variable before this file.\n\
         # What is commented out is the default; `orchestrate config` shows what holds.\n",
    );
    let mut table = "";
    for setting in SETTINGS {
        let (of, key) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
        if of != table {
            text.push_str(&format!("\n[{of}]\n"));
            table = of;
        }
        let value = Value::parse(setting.kind, setting.default).ok().and_then(|value| value.toml());
        let names = setting.flag.iter().chain(setting.env).copied().collect::<Vec<_>>().join(", ");
        let range = match setting.kind {
            Kind::Number { min, max } => format!("; {min} to {max}"),
            Kind::Bytes { min } => {
                format!("; {min} to {BYTES_MAX}, K, M, G and T for powers of 1024")
            }
            Kind::Seconds => format!("; more than 0, at most {SECONDS_MAX}"),
            Kind::Text | Kind::Word(_) | Kind::Switch | Kind::List => String::new(),
        };
        text.push_str(&format!("# {} ({names}{range})\n", setting.doc));
        text.push_str(&format!("#{key} = {}\n", value.unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    fn filed(text: &str) -> Result<Config, Error> {
        Config::resolve(&Flags::new(), &none, Some((Path::new("/f"), text)))
    }

    fn origin(config: &Config, key: &str) -> String {
        config.iter().find(|(s, ..)| s.key == key).unwrap().2.to_string()
    }

    #[test]
    fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
        let text = "store = \"dir:/file\"\n\n[fetch]\ntries = 3\n";
        let file = Some((Path::new("/etc/v"), text));
        let env = |name: &str| (name == "VENEER_POOL").then(|| "env".to_owned());
        let flags = vec![("store", "thin:flag".to_owned())];
        let by = |flags: &Flags, env: &dyn Fn(&str) -> Option<String>, file| {
            let config = Config::resolve(flags, env, file).unwrap();
            (config.text("store").unwrap().to_owned(), origin(&config, "store"))
        };
        let is = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(by(&flags, &env, file), is("thin:flag", "--store"));
        assert_eq!(by(&Flags::new(), &env, file), is("thin:env", "VENEER_POOL"));
        assert_eq!(by(&Flags::new(), &none, file), is("dir:/file", "/etc/v line 1"));
        assert_eq!(by(&Flags::new(), &none, None), is("thin:veneer", "default"));
        let config = filed(text).unwrap();
        assert_eq!(
            (config.number("fetch.tries"), origin(&config, "fetch.tries")),
            (Some(3), "/f line 4".into())
        );
    }

    #[test]
    fn what_the_file_gets_wrong_is_told_by_line_key_and_nearest_key() {
        for (text, wanted) in [
            ("\nsotre = \"x\"", "/f: line 2: unknown key \"sotre\"; did you mean \"store\"?"),
            (
                "[fetch]\n\ntrys = 1",
                "line 3: unknown key \"fetch.trys\"; did you mean \"fetch.tries\"?",
            ),
            ("[fetsch]\ntries = 1", "line 1: unknown key \"fetsch\""),
            ("store = 7", "line 1: key \"store\": expected a \"text\", found integer"),
            ("wait = \"7\"", "key \"wait\": expected a whole number, found string"),
            ("wait = -7", "key \"wait\": expected a whole number from 0 to 31536000"),
            ("wait = 9223372036854775808", "expected a whole number from 0 to 31536000"),
            ("wait = 99999999999999999999999", "expected a whole number from 0 to 31536000"),
            ("[serve]\nconcurrency = 100000000", "expected a whole number from 1 to 256"),
            ("[fetch]\npatience = 1e300", "more than 0 and at most 31536000"),
            ("volume_bytes = 0", "key \"volume_bytes\": expected bytes: a whole number from 1 to"),
            ("anonymous = 1", "key \"anonymous\": expected true or false"),
            ("[fetch]\npatience = 0", "expected seconds, more than 0"),
            ("[fetch]\npatience = nan", "expected seconds, more than 0"),
            ("[fetch]\nsources = \"a\"", "expected a list"),
            ("[fetch]\nsources = [1]", "expected only"),
            ("[fetch]\naddressing = \"x\"", "expected one of auto, path"),
            ("fetch = 3", "line 1: unknown key \"fetch\""),
            ("[[fetch]]\ntries = 1", "line 1: unknown key \"fetch\""),
            ("a = ", "line 1: "),
            ("state = \"a\"\nstate = \"b\"", "line 2: "),
            ("\"\\u001b[31m\" = 1", "unknown key"),
        ] {
            let error = filed(text).expect_err(text);
            let said = error.to_string();
            assert!(said.contains(wanted), "{text:?} says {said:?}");
            assert!(!said.contains(char::is_control), "{said:?}");
            assert_eq!(crate::plan::class::class(&error).exit_code(), 100);
        }
    }

    #[test]
    fn an_empty_state_is_not_the_current_directory() {
        let flagged = Config::resolve(&vec![("state", String::new())], &none, None).unwrap();
        for config in [flagged, filed("state = \"\"").unwrap()] {
            let why = config.settings().unwrap_err().to_string();
            assert!(why.contains("--state is empty"), "{why}");
        }
    }

    #[test]
    fn sizes_have_units_wherever_they_come_from() {
        let flags = vec![("volume_bytes", "20G".to_owned())];
        let bytes = |config: Config| config.number("volume_bytes");
        assert_eq!(bytes(Config::resolve(&flags, &none, None).unwrap()), Some(20 << 30));
        assert_eq!(bytes(filed("volume_bytes = \"64M\"").unwrap()), Some(64 << 20));
        assert_eq!(bytes(filed("volume_bytes = 4096").unwrap()), Some(4096));
        let wrong = filed("volume_bytes = \"20 GB\"").unwrap_err().to_string();
        assert!(wrong.contains("with K, M, G or T"), "{wrong}");
    }

    /// A number that a setting takes is one that whatever it is for can hold.
    #[test]
    fn no_number_is_beyond_its_range_wherever_it_comes_from() {
        for setting in SETTINGS {
            let (min, max, range) = match setting.kind {
                Kind::Number { min, max } => {
                    (min, max, format!("expected a whole number from {min} to {max}"))
                }
                Kind::Bytes { min } => (min, BYTES_MAX, bytes_rule(min)),
                Kind::Text | Kind::Word(_) | Kind::Seconds | Kind::Switch | Kind::List => continue,
            };
            assert!(i64::try_from(max).is_ok(), "{}: {max}", setting.key);
            for bad in [u64::MAX.to_string(), (1_u64 << 63).to_string(), (max + 1).to_string()] {
                let flags = vec![(setting.key, bad.clone())];
                let by_flag = Config::resolve(&flags, &none, None).unwrap_err().to_string();
                let env = |name: &str| (name == setting.env[0]).then(|| bad.clone());
                let by_env = Config::resolve(&Flags::new(), &env, None).unwrap_err().to_string();
                let (of, key) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
                let table = if of.is_empty() { String::new() } else { format!("[{of}]\n") };
                let by_file = filed(&format!("{table}{key} = {bad}")).unwrap_err().to_string();
                for said in [by_flag, by_env, by_file] {
                    assert!(said.contains(&range), "{} = {bad}: {said}", setting.key);
                }
            }
            for good in [min, max] {
                let flags = vec![(setting.key, good.to_string())];
                let config = Config::resolve(&flags, &none, None).unwrap();
                assert_eq!(config.number(setting.key), Some(good));
            }
        }
    }

    #[test]
    fn numbers_may_be_written_as_toml_has_them() {
        let config =
            filed("volume_bytes = 4_294_967_296\nwait = 0x10\n[fetch]\npatience = 1.5").unwrap();
        assert_eq!(config.number("volume_bytes"), Some(1 << 32));
        assert_eq!(config.number("wait"), Some(16));
        assert_eq!(config.seconds("fetch.patience"), Some(std::time::Duration::from_millis(1500)));
    }

    #[test]
    fn the_sample_is_a_file_of_defaults_also_without_its_marks() {
        let sample = sample();
        assert!(filed(&sample).unwrap().iter().all(|(.., origin)| *origin == Origin::Default));
        let bare: String = sample
            .lines()
            .filter(|line| !line.starts_with("# ") && !line.ends_with("= "))
            .map(|line| line.trim_start_matches('#').to_owned() + "\n")
            .collect();
        let (set, default) =
            (filed(&bare).unwrap(), Config::resolve(&Flags::new(), &none, None).unwrap());
        for ((a, b), key) in set.iter().zip(default.iter()).zip(SETTINGS) {
            assert_eq!(a.1, b.1, "{}", key.key);
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let text = quoted("a\"b\\c\n\u{1b}\u{7f}é");
        let config = filed(&format!("state = {text}")).unwrap();
        assert_eq!(config.text("state"), Some("a\"b\\c\n\u{1b}\u{7f}é"));
        assert!(!text.contains(char::is_control));
    }
}
