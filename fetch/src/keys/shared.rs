//! The shared files of the AWS tools (`~/.aws/config`, `~/.aws/credentials`), read as botocore reads them: by
//! the rules of Python's `configparser`. Keys may be indented and in capitals; what is indented deeper goes on
//! with the value above it; a section or a key that is there twice is an error.
//!
//! Only text becomes values here, each with its file and line. What they mean is in `configured.rs`
//! and `mod.rs`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::error::fault::Fault;
use crate::s3::keys::Lookup;
use crate::text::words;

/// Larger than any such file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One value, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) text: String,
    /// The `key = value` lines that are indented below a key without a value of its own.
    nested: Option<BTreeMap<String, Value>>,
    pub(crate) file: Arc<Path>,
    pub(crate) line: usize,
    pub(crate) key: String,
}

impl Value {
    /// The refusal of it.
    pub(crate) fn refused(&self, why: impl Into<String>) -> Error {
        let (file, key) = (self.file.to_path_buf(), self.key.clone());
        Error::Shared(Box::new(Fault { file, line: self.line, key, why: why.into() }))
    }

    /// The value of a key that has one line.
    ///
    /// # Errors
    /// What is indented deeper below it belongs to it, which nobody means here.
    pub(crate) fn plain(&self) -> Result<&str, Error> {
        match self.text.contains('\n') {
            false => Ok(&self.text),
            true => Err(self.refused(
                "the lines below it are indented deeper and so belong to it: indent the keys alike",
            )),
        }
    }

    /// `true` or `false`, in any case.
    ///
    /// # Errors
    /// It is neither.
    pub(crate) fn switch(&self) -> Result<bool, Error> {
        match self.plain()?.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" | "" => Ok(false),
            _ => Err(self.refused("expected true or false")),
        }
    }

    /// A value among those indented below this key.
    pub(crate) fn below(&self, key: &str) -> Option<&Value> {
        self.nested.as_ref()?.get(key)
    }
}

pub(crate) type Section = BTreeMap<String, Value>;

/// Both files.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Sections of the credentials file: profiles by their bare names.
    pub(crate) credentials: BTreeMap<String, Section>,
    /// Profiles of the config file.
    pub(crate) config: BTreeMap<String, Section>,
    /// `[services NAME]` of the config file.
    pub(crate) services: BTreeMap<String, Section>,
    /// Sections of the config file that are no profiles of it.
    pub(crate) others: BTreeMap<String, Section>,
    /// The credentials file that a variable names and that is not there.
    pub(crate) absent: Option<PathBuf>,
}

impl Shared {
    /// Reads both, as far as they are there.
    ///
    /// # Errors
    /// [`Error::Unreadable`]; [`Error::Shared`] names the line.
    pub(crate) fn read(look: Lookup<'_>) -> Result<Shared, Error> {
        let mut shared = Shared::default();
        let place = place(look, "AWS_SHARED_CREDENTIALS_FILE", "credentials");
        match place.read("credentials file")? {
            Some((path, text)) => shared.credentials = parse(&path, &text)?,
            None if place.named => shared.absent = Some(place.path),
            None => {}
        }
        if let Some((path, text)) = place_of_config(look).read("config file")? {
            shared.sort_in(parse(&path, &text)?);
        }
        Ok(shared)
    }

    /// Whether a profile of that name is in either file.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.config.contains_key(name) || self.credentials.contains_key(name)
    }

    /// A profile as both files have it together; the credentials file's keys count before the others.
    pub(crate) fn profile(&self, name: &str) -> Section {
        let mut profile = self.config.get(name).cloned().unwrap_or_default();
        profile.extend(self.credentials.get(name).cloned().unwrap_or_default());
        profile
    }

    fn sort_in(&mut self, sections: BTreeMap<String, Section>) {
        // Where `[default]` and `[profile default]` are both there, the lower one counts.
        let mut sections: Vec<_> = sections.into_iter().collect();
        sections.sort_by_key(|(_, section)| section.values().map(|v| v.line).min());
        for (head, section) in sections {
            let named = || {
                let words = words::split(&head).unwrap_or_default();
                <[String; 2]>::try_from(words).ok().map(|[_, name]| name)
            };
            if head == "default" {
                self.config.insert(head, section);
            } else if head.starts_with("profile") {
                self.config.extend(named().map(|name| (name, section)));
            } else if head.starts_with("services") {
                self.services.extend(named().map(|name| (name, section)));
            } else if !head.starts_with("sso-session") {
                self.others.insert(head, section);
            }
        }
    }
}

/// Where a file is to be.
struct Place {
    path: PathBuf,
    /// By a variable.
    named: bool,
    /// A home that the system's list of users has, and no variable: a service's own may be closed to it.
    lenient: bool,
}

fn place(look: Lookup<'_>, variable: &str, usual: &str) -> Place {
    if let Some(text) = look(variable) {
        return Place { path: expand(&text, look), named: !text.is_empty(), lenient: false };
    }
    let path = expand(&format!("~/.aws/{usual}"), look);
    Place { path, named: false, lenient: look("HOME").is_none() }
}

fn place_of_config(look: Lookup<'_>) -> Place {
    place(look, "AWS_CONFIG_FILE", "config")
}

impl Place {
    fn read(&self, what: &'static str) -> Result<Option<(Arc<Path>, String)>, Error> {
        let failed = |source| Error::Unreadable { what, path: self.path.clone(), source };
        let fault = |line, why: &str| {
            let (file, key) = (self.path.clone(), "the file".to_owned());
            Error::Shared(Box::new(Fault { file, line, key, why: why.to_owned() }))
        };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(_) if self.lenient => return Ok(None),
            // Whoever may not even look whether it is there has none, as boto3 has it: `HOME` may still be root's.
            Err(_) if !self.named && self.path.metadata().is_err() => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(fault(1, "it is larger than 1 MiB"));
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let before = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
            fault(1 + before.iter().filter(|b| **b == b'\n').count(), "it is not UTF-8")
        })?;
        Ok(Some((Arc::from(self.path.as_path()), text)))
    }
}

/// A path as a shell's user would have it: `$HOME/x`, `${HOME}/x`, `~/x`, `~user/x`.
pub(crate) fn expand(text: &str, look: Lookup<'_>) -> PathBuf {
    let text = variables(text, look);
    let Some(rest) = text.strip_prefix('~') else { return text.into() };
    let (user, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let home = match user {
        "" => look("HOME").or_else(|| of_passwd(2, &nix::unistd::Uid::current().to_string())),
        user => of_passwd(0, user),
    };
    match home {
        Some(home) => Path::new(&home).join(rest),
        None => text.into(),
    }
}

/// The home of a user of the system. Not by libc, which a static program cannot ask all of.
fn of_passwd(field: usize, is: &str) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let user = users.lines().find(|line| line.split(':').nth(field) == Some(is))?;
    user.split(':').nth(5).map(str::to_owned)
}

/// What is not set stays as it is written.
fn variables(text: &str, look: Lookup<'_>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let bare = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, next) = braced.unwrap_or_else(|| after.split_at(bare.unwrap_or(after.len())));
        match look(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[before.len()..rest.len() - next.len()]),
        }
        rest = next;
    }
    out.push_str(rest);
    out
}

/// Sections by their heads. Pure.
///
/// # Errors
/// [`Error::Shared`].
pub(crate) fn parse(file: &Arc<Path>, text: &str) -> Result<BTreeMap<String, Section>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let mut head: Option<String> = None;
    let mut open: Option<String> = None;
    let mut depth = 0;
    for (at, line) in text.lines().enumerate() {
        let at = at + 1;
        let fault = |key: &str, why: &str| {
            let (file, key) = (file.to_path_buf(), key.to_owned());
            Error::Shared(Box::new(Fault { file, line: at, key, why: why.to_owned() }))
        };
        let value = line.trim();
        if value.starts_with(['#', ';']) {
            continue;
        }
        let section = head.as_ref().and_then(|head| sections.get_mut(head));
        let above = section.and_then(|section| section.get_mut(open.as_ref()?));
        if value.is_empty() {
            if let Some(above) = above {
                above.text.push('\n');
            }
            continue;
        }
        let indent = line.chars().take_while(|c| c.is_whitespace()).count();
        if let Some(above) = above
            && indent > depth
        {
            above.text.push('\n');
            above.text.push_str(value);
            continue;
        }
        depth = indent;
        if let Some(name) = section_head(value) {
            if sections.contains_key(name) {
                return Err(fault(&format!("[{name}]"), "this section is there twice"));
            }
            sections.insert(name.to_owned(), Section::new());
            (head, open) = (Some(name.to_owned()), None);
            continue;
        }
        let Some(section) = head.as_ref().and_then(|head| sections.get_mut(head)) else {
            return Err(fault("the line", "expected a section such as [default] before it"));
        };
        let (key, value) =
            value
                .split_once(['=', ':'])
                .filter(|(key, _)| !key.trim().is_empty())
                .ok_or_else(|| fault("the line", "expected \"key = value\" or a section in [ ]"))?;
        let key = key.trim().to_lowercase();
        let value = Value {
            text: value.trim().to_owned(),
            nested: None,
            file: file.clone(),
            line: at,
            key: key.clone(),
        };
        if section.insert(key.clone(), value).is_some() {
            return Err(fault(&key, "this key is there twice in its section"));
        }
        open = Some(key);
    }
    // configparser's own: what stands here is in every section.
    let defaults = sections.remove("DEFAULT").unwrap_or_default();
    for section in sections.values_mut() {
        for (key, value) in &defaults {
            section.entry(key.clone()).or_insert_with(|| value.clone());
        }
        for value in section.values_mut() {
            value.close()?;
        }
    }
    if !defaults.is_empty() {
        sections.insert("DEFAULT".to_owned(), defaults);
    }
    Ok(sections)
}

fn section_head(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix('[')?.rsplit_once(']')?;
    (!name.is_empty()).then_some(name)
}

impl Value {
    /// All its lines are here.
    fn close(&mut self) -> Result<(), Error> {
        self.text.truncate(self.text.trim_end().len());
        let Some(lines) = self.text.strip_prefix('\n') else { return Ok(()) };
        let mut nested = BTreeMap::new();
        for (after, line) in lines.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let Some((key, value)) = line.split_once('=') else {
                return Err(self.refused("below it stands a line that is no \"key = value\""));
            };
            let (file, line) = (self.file.clone(), self.line + 1 + after);
            let key = key.trim().to_owned();
            let text = value.trim().to_owned();
            nested.insert(key.clone(), Value { text, nested: None, file, line, key });
        }
        self.nested = Some(nested);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, Section>, Error> {
        parse(&Arc::from(Path::new("/f")), text)
    }

    #[test]
    fn keys_may_be_indented_and_in_capitals() {
        let all = read(
            "\u{feff}# c\r\n[default]\r\n  AWS_ACCESS_KEY_ID = A\r\n  aws_secret_access_key: S=s/+\r\n\
             ; c\n [other]\nregion=x\ns3 =\n  addressing_style = path\n\n  # c\n  x=y\nlast=1\n",
        )
        .unwrap();
        assert_eq!(all["default"]["aws_access_key_id"].text, "A");
        assert_eq!(all["default"]["aws_secret_access_key"].plain().unwrap(), "S=s/+");
        let s3 = &all["other"]["s3"];
        assert_eq!(s3.below("addressing_style").unwrap().text, "path");
        assert_eq!((s3.below("x").unwrap().text.as_str(), all["other"]["last"].line), ("y", 13));
        assert!(s3.plain().is_err());
    }

    #[test]
    fn what_no_reader_takes_is_named_with_its_line() {
        for (text, says) in [
            ("a = b\n", "line 1"),
            ("[default\n", "line 1"),
            ("[default]\n\nnonsense\n", "line 3"),
            ("[a]\nk=1\n[a]\n", "line 3, [a]"),
            ("[a]\nk=1\nK = 2\n", "line 3, k"),
            ("[a]\nk =\n  nonsense\n", "line 2, k"),
            ("[a]\n= x\n", "line 2"),
        ] {
            let said = read(text).unwrap_err().to_string();
            assert!(said.contains("/f") && said.contains(says), "{text:?}: {said}");
        }
        let deeper = read("[a]\nregion = x\n  aws_access_key_id = A\n").unwrap();
        let said = deeper["a"]["region"].plain().unwrap_err().to_string();
        assert!(said.contains("line 2, region") && said.contains("indent"), "{said}");
    }

    #[test]
    fn paths_are_expanded_as_by_a_shell() {
        let look = |name: &str| match name {
            "HOME" => Some("/h".to_owned()),
            "D" => Some("d".to_owned()),
            _ => None,
        };
        for (text, due) in [
            ("~/x", "/h/x"),
            ("~", "/h"),
            ("$HOME/x", "/h/x"),
            ("/a/${D}b/$D", "/a/db/d"),
            ("/a/$NO/${NO}/$", "/a/$NO/${NO}/$"),
            ("~root/x", "/root/x"),
            ("~nobody-of-that-name/x", "~nobody-of-that-name/x"),
            ("x~", "x~"),
        ] {
            assert_eq!(expand(text, &look), Path::new(due), "{text}");
        }
    }

    #[test]
    fn both_files_make_one_profile() {
        let mut shared = Shared::default();
        shared.sort_in(
            read(
                "[default]\nregion=a\n[profile \"p q\"]\nregion=b\naws_access_key_id=x\n\
                 [services s]\ns3 =\n  endpoint_url = u\n[plain]\nregion=c\n[profile default]\nregion=z\n",
            )
            .unwrap(),
        );
        shared.credentials = read("[p q]\naws_access_key_id=y\n").unwrap();
        let profile = shared.profile("p q");
        assert_eq!((&*profile["region"].text, &*profile["aws_access_key_id"].text), ("b", "y"));
        assert_eq!(shared.profile("default")["region"].text, "z");
        assert!(!shared.has("plain") && shared.others.contains_key("plain"));
        assert_eq!(shared.services["s"]["s3"].below("endpoint_url").unwrap().text, "u");
    }
}
