//! Keys that a program prints: `credential_process` of the AWS tools (AWS SDKs and Tools reference guide,
//! "Process credential provider"), and the helpers of docker (docker-credential-helpers).
//!
//! It is run without a shell, with a time and an amount of output that end, and with the part of the environment
//! that such programs need. As root only what root wrote down, or what a setting of ours names.

use std::io::{self, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid};
use serde::Deserialize;

use crate::error::Error;
use crate::keys::shared::Value;
use crate::s3::keys::Keys;
use crate::s3::options::Stop;
use crate::text::quote::quoted;
use crate::text::{date, words};

/// Some ask a person, or a browser.
const TIME_MAX: Duration = Duration::from_secs(60);
const OUTPUT_BYTES_MAX: u64 = 64 << 10;
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What such a program gets to see, besides what begins with one of [`SEEN_STARTS`].
const SEEN: [&str; 16] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "TZ",
    "LANG",
    "TMPDIR",
    "GPG_TTY",
    "SSH_AUTH_SOCK",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "DISPLAY",
    "WAYLAND_DISPLAY",
];
const SEEN_STARTS: [&str; 4] = ["AWS_", "LC_", "XDG_", "VAULT_"];
const SEEN_ENDS: [&str; 2] = ["_proxy", "_PROXY"];

/// Runs what a profile names.
///
/// # Errors
/// [`Error::Shared`] with its line; [`Error::Lender`] where it may do later what it did not do now.
pub(crate) fn of_profile(line: &Value, stop: &Stop) -> Result<Keys, Error> {
    if Uid::effective().is_root() {
        let stat = fs::metadata(&line.file);
        if !stat.is_ok_and(|stat| stat.uid() == 0 && stat.mode() & 0o022 == 0) {
            return Err(line.refused(
                "as root it is run only from a file that belongs to root and that nobody else may \
                 write; name it by fetch.credential_process or VENEER_FETCH_CREDENTIAL_PROCESS \
                 if it is meant",
            ));
        }
    }
    run(line.plain()?, TIME_MAX, stop).map_err(|why| match why {
        Failure::Refused(why) => line.refused(why),
        Failure::Late => late(),
    })
}

/// Runs what a setting names.
///
/// # Errors
/// As [`of_profile`], with [`Error::Setting`].
pub(crate) fn of_setting(line: &str, stop: &Stop) -> Result<Keys, Error> {
    run(line, TIME_MAX, stop).map_err(|why| match why {
        Failure::Late => late(),
        Failure::Refused(why) => {
            let value = format!("{line}: {why}");
            Error::Setting { name: "credential process", value, why: "it gave no keys" }
        }
    })
}

fn late() -> Error {
    Error::Lender { place: "credential_process", why: "it did not end within 60 s" }
}

#[derive(Debug, PartialEq, Eq)]
enum Failure {
    Refused(String),
    Late,
}

fn run(line: &str, time_max: Duration, stop: &Stop) -> Result<Keys, Failure> {
    let refused = |why: String| Failure::Refused(why);
    let words = words::split(line).ok_or_else(|| refused("a quote in it does not end".into()))?;
    let [program, arguments @ ..] = &words[..] else {
        return Err(refused("it names no program".into()));
    };
    let run = Run { program, arguments, input: b"", seen: &[] };
    let (output, said, code) = run.end(time_max, stop)?;
    if code != Some(0) {
        let how = code.map_or_else(|| "by a signal".to_owned(), |code| format!("with {code}"));
        let said = String::from_utf8_lossy(&said);
        return Err(refused(format!("it ended {how} and said {}", quoted(said.trim()))));
    }
    keys(&output).map_err(|why| refused(why.to_owned()))
}

/// A program and what it is given.
struct Run<'a> {
    program: &'a str,
    arguments: &'a [String],
    /// What it reads; shorter than a pipe, so that nobody waits for it.
    input: &'a [u8],
    /// Beginnings of further variables that it sees.
    seen: &'a [&'a str],
}

impl Run<'_> {
    fn end(&self, time_max: Duration, stop: &Stop) -> Result<Ended, Failure> {
        let seen = |name: &str| {
            SEEN.contains(&name)
                || SEEN_STARTS.iter().chain(self.seen).any(|start| name.starts_with(start))
                || SEEN_ENDS.iter().any(|end| name.ends_with(end))
        };
        let variables = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(seen));
        let (program, input) = (self.program, self.input);
        let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut child = Command::new(program)
            .args(self.arguments)
            .env_clear()
            .envs(variables)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it begins ends with it.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                Failure::Refused(format!("{} cannot be run: {error}", quoted(program)))
            })?;
        if let Some(mut pipe) = child.stdin.take() {
            // One that does not read it may do without.
            pipe.write_all(input).ok();
        }
        watch(child, time_max, stop)
    }
}

/// What docker's helpers see besides: where they keep what they keep.
const HELPERS_SEEN: [&str; 6] =
    ["DOCKER_CONFIG", "GNUPGHOME", "PASSWORD_STORE_", "GOOGLE_", "CLOUDSDK_", "AZURE_"];

/// What docker's helpers say where they have nothing (docker-credential-helpers, `credentials/error.go`).
const NOTHING: &str = "credentials not found";

/// What the helper `docker-credential-<name>` prints for a registry; none where it has nothing. Only for names that a
/// setting has. It is looked for in PATH, as docker does.
///
/// # Errors
/// Why it printed nothing, and whether it may do so later.
pub(crate) fn of_helper(
    name: &str,
    server: &str,
    stop: &Stop,
) -> Result<Option<Vec<u8>>, (String, bool)> {
    let program = format!("docker-credential-{name}");
    let arguments = ["get".to_owned()];
    let (program, input) = (program.as_str(), server.as_bytes());
    let run = Run { program, arguments: &arguments, input, seen: &HELPERS_SEEN };
    let ended = run.end(TIME_MAX, stop).map_err(|failure| match failure {
        Failure::Refused(why) => (why, false),
        Failure::Late => ("it did not end within 60 s".to_owned(), true),
    });
    let (output, said, code) = ended?;
    if code == Some(0) {
        return Ok(Some(output));
    }
    // They say it on their output.
    let words = [output, said].concat();
    let words = String::from_utf8_lossy(&words);
    if words.contains(NOTHING) {
        return Ok(None);
    }
    let how = code.map_or_else(|| "by a signal".to_owned(), |code| format!("with {code}"));
    Err((format!("it ended {how} and said {}", quoted(words.trim())), false))
}

type Ended = (Vec<u8>, Vec<u8>, Option<i32>);

/// Its output, what it said, and its exit code. Past the time, or past the output, it is killed with all it began.
fn watch(mut child: Child, time_max: Duration, stop: &Stop) -> Result<Ended, Failure> {
    let end = Instant::now() + time_max;
    let group = i32::try_from(child.id()).ok().map(Pid::from_raw);
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let mut late = false;
    let code = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.code(),
            Ok(None) | Err(_) if Instant::now() > end || stop.is_set() => {
                late = true;
                kill(group, &mut child);
                break child.wait().ok().and_then(|status| status.code());
            }
            Ok(None) | Err(_) => thread::sleep(LOOK),
        }
    };
    if late {
        return Err(Failure::Late);
    }
    // A child of its own may hold the pipe open; what it has printed by now is all there is.
    let piece = |pipe: mpsc::Receiver<Vec<u8>>| {
        let left = end.saturating_duration_since(Instant::now()).min(Duration::from_secs(2));
        pipe.recv_timeout(left)
    };
    let (output, said) = (piece(out), piece(err));
    let Ok(output) = output else {
        kill(group, &mut child);
        return Err(Failure::Refused("something that it began keeps its output open".into()));
    };
    if output.len() as u64 > OUTPUT_BYTES_MAX {
        kill(group, &mut child);
        return Err(Failure::Refused("it printed more than 64 KiB".into()));
    }
    Ok((output, said.unwrap_or_default(), code))
}

fn kill(group: Option<Pid>, child: &mut Child) {
    if let Some(group) = group {
        killpg(group, Signal::SIGKILL).ok();
    }
    child.kill().ok();
}

/// All that comes, up to one byte more than is allowed; the rest is left in the pipe, which then breaks.
fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    let read = move || -> io::Result<()> {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            pipe.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        }
        drop(sender.send(bytes));
        Ok(())
    };
    drop(thread::Builder::new().name("credential process".into()).spawn(read));
    receiver
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u64,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

fn keys(output: &[u8]) -> Result<Keys, &'static str> {
    let printed: Printed = serde_json::from_slice(output).map_err(
        |_| "it did not print the JSON due, with Version, AccessKeyId and SecretAccessKey",
    )?;
    if printed.version != 1 {
        return Err("it printed another Version than 1");
    }
    let (id, secret) = (&printed.access_key_id, &printed.secret_access_key);
    let mut keys = Keys::new(id, secret, printed.session_token.as_deref());
    if let Some(expires) = &printed.expiration {
        keys.expires =
            Some(date::rfc3339(expires).ok_or("it printed an Expiration that is no date")?);
    }
    match keys.check("") {
        Ok(keys) => Ok(keys),
        Err(Error::Credentials { why, .. }) => Err(why),
        Err(_) => Err("it printed no keys"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str =
        r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"S","SessionToken":"T"}"#;

    fn says(line: &str, word: &str) {
        match run(line, TIME_MAX, &Stop::default()) {
            Err(Failure::Refused(why)) => assert!(why.contains(word), "{line}: {why}"),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn keys_are_what_it_prints() {
        let keys = run(&format!("printf %s '{PRINTED}'"), TIME_MAX, &Stop::default()).unwrap();
        assert_eq!(keys, Keys::new("A", "S", Some("T")));
        let lent = PRINTED.replace('}', r#","Expiration":"2026-11-21T05:35:02+00:00"}"#);
        let keys = run(&format!("printf %s '{lent}'"), TIME_MAX, &Stop::default()).unwrap();
        assert_eq!(keys.expires, Some(1_795_239_302));
    }

    #[test]
    fn what_gives_no_keys_says_why() {
        says("/nonexistent/x", "cannot be run");
        says("'x", "quote");
        says("", "no program");
        says("false", "with 1");
        says("sh -c 'echo no login >&2; exit 3'", "with 3 and said \"no login\"");
        says("echo hello", "JSON");
        says("echo {}", "JSON");
        says(&format!("printf %s '{}'", PRINTED.replace('1', "2")), "Version");
        says(&format!("printf %s '{}'", PRINTED.replace("\"A\"", "\"\"")), "access key");
        says("sh -c 'kill -9 $$'", "signal");
        says("head -c 70000 /dev/zero", "64 KiB");
        // No shell takes it.
        says("echo $HOME; echo x", "JSON");
    }

    #[test]
    fn neither_a_hang_nor_what_it_began_stays() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let line = format!("sh -c 'sleep 1000 & echo $! >{path}; wait'");
        let time = Duration::from_millis(300);
        assert_eq!(run(&line, time, &Stop::default()), Err(Failure::Late));
        let pid: i32 = fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
        let gone = || {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        while !gone() {
            thread::sleep(LOOK);
        }
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_ended() {
        let stop = Stop::new(|| true);
        assert_eq!(run("sleep 1000", TIME_MAX, &stop), Err(Failure::Late));
    }

    #[test]
    fn it_sees_what_it_needs_of_the_environment() {
        let line = "sh -c 'test -n \"$PATH\" && test -z \"$CARGO_MANIFEST_DIR\" && exit 7'";
        assert!(std::env::var("CARGO_MANIFEST_DIR").is_ok());
        says(line, "with 7");
    }
}
