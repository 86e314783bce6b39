//! Who somebody is at a registry: looked for when a registry asks, and in the places where podman and docker keep it.
//!
//! No name and no secret is printed but the name, and only where a registry has refused it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::error::Error;
use crate::error::gate::{Gate, Who};
use crate::image::authfile::{AuthFile, Found, Login, printed};
use crate::keys::process;
use crate::s3::keys::Lookup;
use crate::s3::options::{CredentialsFrom, Options};

/// No file of logins is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Who asks, and how that is told.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) login: Option<Login>,
    pub(crate) who: Who,
}

/// Finds the login for a repository: the first place that has one.
///
/// # Errors
/// [`Error::Unreadable`] for a file that is there, or that a setting names; [`Error::Gate`] for what it has and cannot
/// be used; [`Error::Lender`] for a program that did not end.
pub(crate) fn find(
    options: &Options,
    subject: &str,
    host: &str,
    name: &str,
    look: Lookup<'_>,
) -> Result<Identity, Error> {
    if options.credentials == CredentialsFrom::Anonymous {
        return Ok(Identity { login: None, who: Who::Anonymous });
    }
    let refused = |place: String, why: String| Error::Gate {
        subject: subject.to_owned(),
        gate: Box::new(Gate::Login { place, why }),
    };
    let (mut places, mut not_run) = (Vec::new(), None);
    for (path, is_named) in files(options, look) {
        let place = path.display().to_string();
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if !is_named && is_absent(&error) => continue,
            Err(source) => {
                return Err(Error::Unreadable { what: "the file with logins", path, source });
            }
        };
        let found = AuthFile::parse(&bytes).and_then(|file| file.find(host, name));
        let login = match found.map_err(|why| refused(place.clone(), why.to_owned()))? {
            Found::Nothing => None,
            Found::Login(login) => Some((login, place.clone())),
            Found::Helper { name: helper, server, otherwise } => {
                let allowed = options.credential_helpers.contains(&helper) && is_plain(&helper);
                match allowed {
                    true => ask(&helper, &server, options, &refused)?
                        .map(|login| (login, format!("docker-credential-{helper}"))),
                    false => {
                        not_run.get_or_insert(helper);
                        otherwise.map(|login| (login, place.clone()))
                    }
                }
            }
        };
        places.push(place);
        if let Some((login, place)) = login {
            let name = match &login {
                Login::Password { name, .. } => Some(name.clone()),
                Login::Identity { .. } => None,
            };
            return Ok(Identity { login: Some(login), who: Who::Known { name, place } });
        }
    }
    let who = Who::Unknown { host: host.to_owned(), places, helper: not_run };
    Ok(Identity { login: None, who })
}

/// What a program has. Its name is one word, so that it is looked for in PATH and nowhere else.
fn ask(
    helper: &str,
    server: &str,
    options: &Options,
    refused: &dyn Fn(String, String) -> Error,
) -> Result<Option<Login>, Error> {
    let place = || format!("docker-credential-{helper}");
    match process::of_helper(helper, server, &options.stop) {
        Ok(None) => Ok(None),
        Ok(Some(output)) => {
            printed(&output).map(Some).map_err(|why| refused(place(), why.to_owned()))
        }
        Err((_, true)) => {
            Err(Error::Lender { place: "a credential helper", why: "it did not end within 60 s" })
        }
        Err((why, false)) => Err(refused(place(), why)),
    }
}

fn is_plain(helper: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    !helper.is_empty() && helper.bytes().all(plain)
}

/// The files in which one may be, and whether a setting names them: then they have to be there. The order is podman's
/// (containers-auth.json(5), `--authfile` of podman-login(1)).
fn files(options: &Options, look: Lookup<'_>) -> Vec<(PathBuf, bool)> {
    let get = |name: &str| look(name).filter(|value| !value.is_empty());
    if let Some(path) = &options.authfile {
        return vec![(path.clone(), true)];
    }
    if let Some(path) = get("REGISTRY_AUTH_FILE") {
        return vec![(PathBuf::from(path), true)];
    }
    let home = get("HOME").map(PathBuf::from);
    let in_home = |below: &str| home.as_ref().map(|home| home.join(below));
    let runtime = match get("XDG_RUNTIME_DIR") {
        Some(dir) => PathBuf::from(dir).join("containers/auth.json"),
        None => PathBuf::from(format!("/run/containers/{}/auth.json", geteuid())),
    };
    let config = match get("XDG_CONFIG_HOME") {
        Some(dir) => Some(PathBuf::from(dir).join("containers/auth.json")),
        None => in_home(".config/containers/auth.json"),
    };
    let docker = match get("DOCKER_CONFIG") {
        Some(dir) => Some(PathBuf::from(dir).join("config.json")),
        None => in_home(".docker/config.json"),
    };
    let paths = [Some(runtime), config, docker].into_iter().flatten();
    paths.map(|path| (path, false)).collect()
}

/// Services have `/dev/null` for a home, too.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A file of logins, which nobody waits for and which ends.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let stat: fs::Metadata = file.metadata()?;
    if !stat.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other("it is longer than 1 MiB")),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn name_of(identity: &Identity) -> Option<String> {
        match &identity.who {
            Who::Known { name, .. } => name.clone(),
            Who::Anonymous | Who::Unknown { .. } => None,
        }
    }

    /// `{"auths":{host:{auth of name:x}}}`.
    fn file(path: &Path, host: &str, name: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let pair = crate::text::base64::encoded(format!("{name}:x").as_bytes());
        fs::write(path, format!(r#"{{"auths":{{"{host}":{{"auth":"{pair}"}}}}}}"#)).unwrap();
    }

    #[test]
    fn the_first_place_that_has_the_host_counts() {
        let dir = tempfile::tempdir().unwrap();
        let at = |below: &str| dir.path().join(below);
        let look = |name: &str| {
            let value = match name {
                "XDG_RUNTIME_DIR" => at("run"),
                "HOME" => at("home"),
                "DOCKER_CONFIG" => at("docker"),
                _ => return None,
            };
            Some(value.display().to_string())
        };
        let find = |host: &str| find(&Options::default(), "x", host, "a", &look);
        let none = find("h").unwrap();
        assert!(none.login.is_none());
        assert!(matches!(none.who, Who::Unknown { places, helper: None, .. } if places.is_empty()));
        file(&at("docker/config.json"), "h", "docker");
        assert_eq!(name_of(&find("h").unwrap()).as_deref(), Some("docker"));
        file(&at("home/.config/containers/auth.json"), "h", "config");
        file(&at("run/containers/auth.json"), "other", "runtime");
        assert_eq!(name_of(&find("h").unwrap()).as_deref(), Some("config"));
        assert_eq!(name_of(&find("other").unwrap()).as_deref(), Some("runtime"));
        let Who::Unknown { places, .. } = find("third").unwrap().who else { panic!() };
        assert_eq!(places.len(), 3);
        let service = |name: &str| (name == "HOME").then(|| "/dev/null".to_owned());
        assert!(super::find(&Options::default(), "x", "h", "a", &service).unwrap().login.is_none());
    }

    #[test]
    fn a_named_file_is_the_only_one_and_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        let home = dir.path().display().to_string();
        file(&dir.path().join(".docker/config.json"), "h", "docker");
        let named = Options { authfile: Some(path.clone()), ..Options::default() };
        let variable = path.display().to_string();
        let by_home = |name: &str| (name == "HOME").then(|| home.clone());
        let by_both = |name: &str| match name {
            "REGISTRY_AUTH_FILE" => Some(variable.clone()),
            _ => by_home(name),
        };
        assert!(matches!(find(&named, "x", "h", "a", &by_home), Err(Error::Unreadable { .. })));
        let options = Options::default();
        assert!(matches!(find(&options, "x", "h", "a", &by_both), Err(Error::Unreadable { .. })));
        file(&path, "h", "named");
        assert_eq!(
            name_of(&find(&named, "x", "h", "a", &by_home).unwrap()).as_deref(),
            Some("named")
        );
        assert_eq!(
            name_of(&find(&options, "x", "h", "a", &by_both).unwrap()).as_deref(),
            Some("named")
        );
        let anonymous = Options { credentials: CredentialsFrom::Anonymous, ..named.clone() };
        fs::write(&path, "hunter2").unwrap();
        assert!(find(&anonymous, "x", "h", "a", &by_home).unwrap().login.is_none(), "none is read");
        let said = find(&named, "x", "h", "a", &by_home).unwrap_err().to_string();
        assert!(said.contains("auth.json") && !said.contains("hunter2"), "{said}");
        fs::write(&path, vec![b' '; 2 << 20]).unwrap();
        assert!(matches!(find(&named, "x", "h", "a", &by_home), Err(Error::Unreadable { .. })));
        let folder = Options { authfile: Some(dir.path().to_owned()), ..Options::default() };
        assert!(matches!(find(&folder, "x", "h", "a", &by_home), Err(Error::Unreadable { .. })));
    }

    /// A helper is found by PATH, which belongs to the whole process: so its name has to be one that nobody has.
    #[test]
    fn a_helper_is_run_only_where_a_setting_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        fs::write(&path, r#"{"credsStore":"none-of-this-name","auths":{"h":{"auth":"YTox"}}}"#)
            .unwrap();
        let none = |_: &str| None;
        let options = Options { authfile: Some(path.clone()), ..Options::default() };
        let got = find(&options, "x", "h", "a", &none).unwrap();
        assert_eq!(name_of(&got).as_deref(), Some("a"), "what the file itself has is used");
        let Who::Unknown { helper, .. } = find(&options, "x", "g", "a", &none).unwrap().who else {
            panic!()
        };
        assert_eq!(helper.as_deref(), Some("none-of-this-name"));
        let credential_helpers = vec!["none-of-this-name".to_owned(), "../x".to_owned()];
        let options = Options { credential_helpers, ..options };
        let said = find(&options, "x", "h", "a", &none).unwrap_err().to_string();
        assert!(
            said.contains("docker-credential-none-of-this-name") && said.contains("run"),
            "{said}"
        );
        let evil = dir.path().join("docker-credential-x");
        fs::write(&evil, "#!/bin/sh\ntouch \"$0.ran\"\n").unwrap();
        fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&path, r#"{"credsStore":"../x"}"#).unwrap();
        assert!(find(&options, "x", "h", "a", &none).unwrap().login.is_none());
        assert!(!dir.path().join("docker-credential-x.ran").exists());
    }
}
