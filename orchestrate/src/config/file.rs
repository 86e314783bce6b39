//! The settings' file: TOML of flat tables. Syntax is the `toml` crate's; which keys there are and
//! what they may be is the table's. Every refusal names file, line and key.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::table::{Kind, Setting, nearest, setting};
use crate::config::{Origin, Value};
use crate::error::Error;
use crate::error::quote::quoted;

/// More than any file of settings has.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A setting of the file.
pub(super) type Found = (&'static Setting, Value, Origin);

/// The text of the file; none where there is no such file.
///
/// # Errors
/// [`Error::Io`], and [`Error::Usage`] for a file that anybody may write: settings name programs
/// that are run.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    let fail = |source| Error::Io { doing: "read the settings", path: path.into(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let meta = file.metadata().map_err(fail)?;
    let own = [0, nix::unistd::geteuid().as_raw()].contains(&meta.uid());
    if meta.is_file() && (meta.mode() & 0o002 != 0 || !own) {
        return Err(Error::Usage(format!(
            "{}: others may write to it; chown it to root and chmod o-w",
            shown(path)
        )));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| {
        match error.kind() {
            std::io::ErrorKind::InvalidData => Error::Usage(format!("{}: not UTF-8", shown(path))),
            _ => fail(error),
        }
    })?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::Usage(format!("{}: more than {FILE_BYTES_MAX} bytes", shown(path))));
    }
    Ok(Some(text))
}

/// The settings of a file's text.
///
/// # Errors
/// [`Error::Usage`] for the first thing that is not as the table has it.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Found>, Error> {
    let whole = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(1, |span| line(text, span.start));
        refused(path, at, error.message())
    })?;
    let mut found = Vec::new();
    walk(path, text, "", whole.get_ref(), &mut found)?;
    Ok(found)
}

fn walk(
    path: &Path,
    text: &str,
    prefix: &str,
    table: &DeTable<'_>,
    found: &mut Vec<Found>,
) -> Result<(), Error> {
    // As they stand in the file, so that the first mistake is told first.
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (name, value) in entries {
        let key = format!("{prefix}{}", name.get_ref());
        let at = line(text, name.span().start);
        match (setting(&key), value.get_ref()) {
            (Some(setting), _) => {
                let value = typed(setting.kind, value)
                    .map_err(|why| refused(path, at, &format!("key {}: {why}", quoted(&key))))?;
                found.push((setting, value, Origin::File { path: path.into(), line: at }));
            }
            (None, DeValue::Table(inner)) if is_table(&key) => {
                walk(path, text, &format!("{key}."), inner, found)?;
            }
            (None, _) => {
                let meant =
                    nearest(&key).map_or(String::new(), |key| format!("; did you mean {key:?}?"));
                let what = format!(
                    "unknown key {}{meant} `orchestrate config --sample` shows every one",
                    quoted(&key)
                );
                return Err(refused(path, at, &what));
            }
        }
    }
    Ok(())
}

/// Whether settings have keys of this table.
fn is_table(name: &str) -> bool {
    crate::config::table::SETTINGS
        .iter()
        .any(|s| s.key.strip_prefix(name).is_some_and(|k| k.starts_with('.')))
}

/// What the file says, where it is of the setting's type.
fn typed(kind: Kind, value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
    let value = value.get_ref();
    let wrong = |wanted: &str| format!("expected {wanted}, found {}", value.type_str());
    match kind {
        Kind::Text | Kind::Word(_) => {
            let text = value.as_str().ok_or_else(|| wrong("a \"text\""))?;
            Value::parse(kind, text)
        }
        Kind::Number { .. } => {
            let number = value.as_integer().ok_or_else(|| wrong("a whole number"))?;
            match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::parse(kind, &number.to_string()),
                Err(_) => Value::parse(kind, number.as_str()),
            }
        }
        Kind::Bytes { .. } => match (value.as_str(), value.as_integer()) {
            (Some(text), _) => Value::parse(kind, text),
            (None, Some(number)) => {
                let plain = u64::from_str_radix(number.as_str(), number.radix());
                Value::parse(kind, &plain.map_or(number.as_str().to_owned(), |n| n.to_string()))
            }
            (None, None) => Err(wrong("bytes, such as 4294967296 or \"4G\"")),
        },
        Kind::Seconds => match value {
            DeValue::Integer(number) => Value::parse(kind, number.as_str()),
            DeValue::Float(number) => Value::parse(kind, number.as_str()),
            DeValue::String(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => Err(wrong("seconds")),
        },
        Kind::Switch => value.as_bool().map(Value::Switch).ok_or_else(|| wrong("true or false")),
        Kind::List => {
            let list = value.as_array().ok_or_else(|| wrong("a list of \"texts\""))?;
            let text = |item: &Spanned<DeValue<'_>>| item.get_ref().as_str().map(str::to_owned);
            let texts: Option<Vec<String>> = list.iter().map(text).collect();
            texts.map(Value::List).ok_or_else(|| "expected only \"texts\" in the list".to_owned())
        }
    }
}

fn refused(path: &Path, line: usize, what: &str) -> Error {
    Error::Usage(format!("{}: line {line}: {}", shown(path), printable(what)))
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// Quotes and backslashes stay, since the text has its own.
fn printable(text: &str) -> String {
    let plain = |c: char| matches!(c, '\'' | '"' | '\\');
    text.chars().map(|c| if plain(c) { c.into() } else { c.escape_debug().to_string() }).collect()
}

fn line(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
}
