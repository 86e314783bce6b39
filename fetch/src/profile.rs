//! The shared files of the AWS tools (`~/.aws/credentials`, `~/.aws/config`): profiles of static keys.
//!
//! The format is that of the AWS SDKs and Tools reference guide, "Shared config and credentials
//! files". SSO, `role_arn` and `credential_process` are not followed; a profile that has only those
//! is said to be so instead of being passed over.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::credentials::Keys;
use crate::error::Error;

/// Larger than any such file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the keys of profile `name`; none if the file or the profile is absent or has no keys.
///
/// # Errors
/// [`Error::Unreadable`], [`Error::Credentials`].
pub(crate) fn read(path: &Path, name: &str, is_config: bool) -> Result<Option<Keys>, Error> {
    let failed =
        |source| Error::Unreadable { what: "credentials file", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(failed(e)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let place = || format!("{}, profile {name}", path.display());
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::Credentials { place: place(), why: "the file is larger than 1 MiB" });
    }
    match parse(&bytes, name, is_config) {
        Ok(Some(keys)) => keys.check(&place()).map(Some),
        Ok(None) => Ok(None),
        Err(why) => Err(Error::Credentials { place: place(), why }),
    }
}

/// Pure part of [`read`].
pub(crate) fn parse(
    bytes: &[u8],
    name: &str,
    is_config: bool,
) -> Result<Option<Keys>, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the file is not UTF-8")?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut inside = false;
    let (mut id, mut secret, mut token, mut elsewhere) = (None, None, None, false);
    for line in text.lines() {
        if line.starts_with([' ', '\t']) {
            // A nested value of the line before (`s3 =` and the like); none of ours is.
            continue;
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(head) = line.strip_prefix('[') {
            let (head, _) = head.split_once(']').ok_or("a section without its \"]\"")?;
            inside = section_is(head.trim(), name, is_config);
            continue;
        }
        if !inside {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or("a line without \"=\"")?;
        let value = Some(value.trim().to_owned());
        match key.trim() {
            "aws_access_key_id" => id = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value.filter(|v| !v.is_empty()),
            "role_arn"
            | "source_profile"
            | "credential_source"
            | "sso_start_url"
            | "sso_session"
            | "sso_account_id"
            | "login_session"
            | "credential_process"
            | "web_identity_token_file" => elsewhere = true,
            _ => {}
        }
    }
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Some(Keys::new(&id, &secret, token.as_deref()))),
        (None, None) if elsewhere => {
            Err("the profile gets its keys from a role, SSO or a process, which is not supported: \
                 export them to the environment (`aws configure export-credentials`)")
        }
        (None, None) => Ok(None),
        _ => Err("the profile has only half a key pair"),
    }
}

fn section_is(head: &str, name: &str, is_config: bool) -> bool {
    let plain = head == name;
    if !is_config || name == "default" && plain {
        return plain;
    }
    head.strip_prefix("profile").is_some_and(|rest| {
        rest.starts_with([' ', '\t']) && rest.trim().trim_matches(['"', '\'']) == name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"\xef\xbb\xbf# c\r\n[default]\r\naws_access_key_id = A\r\n\
        aws_secret_access_key=S=s/+\r\n[other]\naws_access_key_id=B\naws_secret_access_key=T\n\
        aws_session_token = tok\nregion = x\n[role]\nrole_arn = arn\n[half]\naws_access_key_id=C\n\
        [none]\ns3 =\n  addressing_style = path\n";

    #[test]
    fn profiles_are_found_by_name() {
        assert_eq!(parse(FILE, "default", false), Ok(Some(Keys::new("A", "S=s/+", None))));
        assert_eq!(parse(FILE, "other", false), Ok(Some(Keys::new("B", "T", Some("tok")))));
        assert_eq!(parse(FILE, "absent", false), Ok(None));
        assert_eq!(parse(FILE, "none", false), Ok(None));
    }

    #[test]
    fn what_is_not_supported_says_so() {
        assert!(parse(FILE, "role", false).unwrap_err().contains("not supported"));
        assert!(parse(FILE, "half", false).is_err());
        assert!(parse(b"[default\n", "default", false).is_err());
        assert!(parse(b"[default]\nnonsense\n", "default", false).is_err());
        assert!(parse(b"\xff", "default", false).is_err());
    }

    #[test]
    fn the_config_file_says_profile() {
        let config = b"[profile \"p q\"]\naws_access_key_id=A\naws_secret_access_key=S\n[x]\n\
            aws_access_key_id=B\naws_secret_access_key=S\n";
        assert!(parse(config, "p q", true).unwrap().is_some());
        assert_eq!(parse(config, "x", true), Ok(None));
    }
}
