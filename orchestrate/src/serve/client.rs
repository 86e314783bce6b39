//! The other end: the program's verbs, asked of a daemon over its unix socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fetch::ImageRef;
use registry::{Event, Run, RunState};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::listen::connect;
use crate::error::Class;
use crate::health::Readiness;
use crate::log::{self, Level};
use crate::store::Condition;
use crate::{
    ActivateOptions, Activated, Bound, Cancel, Collected, Deactivated, Ensured, Error, Listing,
    Removed, RunLine, Usage, Verbs,
};

/// Bytes of an answer.
const ANSWER_MAX: u64 = 256 << 20;

/// Beyond what was asked to wait for.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// How long one question waits, so that a signal is not overlooked for longer.
const POLL_S: u64 = 2;

/// Runs of one question.
const PAGE: usize = 1000;

/// A daemon that answers.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    /// How long to wait for a place.
    patience: Duration,
    cancel: Cancel,
    talk: u8,
    /// Its settings that decide what comes out of a run, by key.
    settings: Vec<(String, String)>,
}

/// An answer.
struct Answer {
    status: u16,
    joined: bool,
    body: Vec<u8>,
}

#[derive(Deserialize)]
struct Problem {
    detail: String,
    class: String,
}

#[derive(Deserialize)]
struct Runs {
    runs: Vec<RunLine>,
}

/// A run, or at once what it would have given.
#[derive(Deserialize)]
#[serde(untagged)]
enum Given<T> {
    Run(Box<RunLine>),
    Done(T),
}

impl Client {
    /// The daemon behind this socket; none when nobody answers there, or not to us.
    pub fn find(path: &Path, patience: Duration, cancel: Cancel, talk: u8) -> Option<Client> {
        let (path, settings) = (path.to_owned(), Vec::new());
        let mut client = Client { path, patience, cancel, talk, settings };
        let status: super::api::Status = client.ask("GET", "/v1/status", None).ok()?;
        client.settings = status.settings.into_iter().collect();
        Some(client)
    }

    /// The value of a setting there; none when it is the default, or decides nothing.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    /// What it says of this host's readiness.
    ///
    /// # Errors
    /// When it does not say.
    pub fn readiness(&self) -> Result<Readiness, Error> {
        parsed(&self.exchange("GET", "/readyz", None)?.body)
    }

    /// What it says of the store.
    ///
    /// # Errors
    /// When it does not say.
    pub fn condition(&self) -> Result<Condition, Error> {
        let mut pool: Value = self.ask("GET", "/v1/pool", None)?;
        serde_json::from_value(pool["condition"].take()).map_err(garbled)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        parsed(&self.call(method, target, body)?.body)
    }

    /// One exchange, again and again while all places are taken.
    fn call(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Answer, Error> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let answer = self.exchange(method, target, body)?;
            if answer.status < 400 {
                return Ok(answer);
            }
            let problem: Problem = parsed(&answer.body)?;
            let class = Class::from_word(&problem.class).unwrap_or(Class::Bug);
            if class != Class::Throttled || begun.elapsed() >= self.patience {
                return Err(Error::Told { class, message: problem.detail });
            }
            self.cancel.sleep(pause)?;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn exchange(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Answer, Error> {
        let io = |source| Error::Io { doing: "ask the daemon at", path: self.path.clone(), source };
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: veneer\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream: UnixStream = connect(&self.path).map_err(io)?;
        stream.set_read_timeout(Some(ANSWER_TIME)).map_err(io)?;
        stream.set_write_timeout(Some(ANSWER_TIME)).map_err(io)?;
        // Who is turned away may find the door shut before all is said; the answer is there.
        let written = stream.write_all((head + &body).as_bytes());
        let mut bytes = Vec::new();
        match stream.take(ANSWER_MAX).read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(_) if !bytes.is_empty() => {}
            Err(source) => return Err(io(written.err().unwrap_or(source))),
        }
        answer(&bytes).ok_or_else(|| io(std::io::ErrorKind::InvalidData.into()))
    }

    /// Asks for a run and waits for its end.
    fn done<T: DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let first = self.call(method, target, body)?;
        let mut line = match parsed(&first.body)? {
            Given::Done(done) => return Ok(done),
            Given::Run(line) => *line,
        };
        let id = line.run.id;
        let mut told = String::new();
        loop {
            match line.run.state {
                RunState::Done => {
                    return serde_json::from_value(line.run.result.unwrap_or_default())
                        .map_err(garbled);
                }
                RunState::Failed { class, message } => {
                    let class = Class::from_word(&class).unwrap_or(Class::HostBroken);
                    return Err(Error::Told { class, message });
                }
                RunState::Cancelled => {
                    let why = line.run.cancel.unwrap_or_default();
                    return Err(Error::Cancelled { why });
                }
                RunState::Queued | RunState::Running => {}
            }
            if self.talk > 0 && !line.run.step.is_empty() && told != line.run.step {
                told = line.run.step;
                log::line(Level::Info, &told, &[("run", id.into())]);
            }
            if self.cancel.is_set() {
                if !first.joined {
                    let body = json!({"why": "a signal"});
                    let target = format!("/v1/runs/{id}/cancel");
                    drop(self.call("POST", &target, Some(&body)));
                }
                self.cancel.check()?;
            }
            line = self.ask("GET", &format!("/v1/runs/{id}?wait={POLL_S}"), None)?;
        }
    }
}

fn answer(bytes: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(bytes).ok()? else { return None };
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let length: usize = header("Content-Length")?.parse().ok()?;
    let joined = header("Veneer-Joined") == Some("yes");
    let body = bytes.get(head..head.checked_add(length)?)?.to_vec();
    Some(Answer { status: parsed.code?, joined, body })
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(garbled)
}

fn garbled(error: serde_json::Error) -> Error {
    let message = format!("the daemon answers what this program does not understand: {error}");
    Error::Told { class: Class::HostBroken, message }
}

/// For a path or query.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b':' => {
                encoded.push(char::from(byte));
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn with_dry_run(target: String, dry_run: bool) -> String {
    let mark = if target.contains('?') { '&' } else { '?' };
    if dry_run { format!("{target}{mark}dry_run=1") } else { target }
}

impl Verbs for Client {
    fn ensure(&mut self, image: &ImageRef, dry_run: bool) -> Result<Ensured, Error> {
        let body = json!({"image": image.to_string(), "dry_run": dry_run});
        self.done("PUT", &format!("/v1/images?wait={POLL_S}"), Some(&body))
    }

    fn activate(
        &mut self,
        image: &ImageRef,
        name: &str,
        options: ActivateOptions,
    ) -> Result<Activated, Error> {
        let ActivateOptions { bytes, no_fetch, dry_run } = options;
        let mut body = json!({"id": name, "image": image.to_string(), "dry_run": dry_run});
        body["bytes"] = bytes.into();
        // A daemon of another day does not know the word: only who means it says it.
        if no_fetch {
            body["no_fetch"] = true.into();
        }
        self.done("POST", &format!("/v1/activations?wait={POLL_S}"), Some(&body))
    }

    fn deactivate(&mut self, name: &str, dry_run: bool) -> Result<Deactivated, Error> {
        let target = format!("/v1/activations/{}/deactivate?wait={POLL_S}", encoded(name));
        self.done("POST", &with_dry_run(target, dry_run), None)
    }

    fn remove(&mut self, name: &str, dry_run: bool) -> Result<Removed, Error> {
        let image = name.starts_with("s3://");
        let target = match image {
            true => format!("/v1/images?wait={POLL_S}&image={}", encoded(name)),
            false => format!("/v1/activations/{}?wait={POLL_S}", encoded(name)),
        };
        match self.done("DELETE", &with_dry_run(target, dry_run), None) {
            // What is no name at all is no name here.
            Err(Error::Told { class: Class::NotFound, .. }) => {
                Err(Error::Unknown { what: "activation or image", name: name.into() })
            }
            Err(Error::Told { class: Class::Usage, .. })
                if !image && crate::check_name(name).is_err() =>
            {
                Err(Error::Unknown { what: "activation or image", name: name.into() })
            }
            done => done,
        }
    }

    fn gc(&mut self, bound: Bound, purge_foreign: bool, dry_run: bool) -> Result<Collected, Error> {
        let body = json!({
            "keep_bytes": bound.keep_bytes,
            "max_used": bound.max_used,
            "purge_foreign": purge_foreign,
        });
        let target = with_dry_run(format!("/v1/gc?wait={POLL_S}"), dry_run);
        self.done("POST", &target, Some(&body))
    }

    fn pin(&mut self, image: &str, pinned: bool) -> Result<(), Error> {
        let body = json!({"image": image, "pinned": pinned});
        self.ask::<Value>("POST", "/v1/images/pin", Some(&body)).map(drop)
    }

    fn cancel(&mut self, run: u64, why: &str) -> Result<Run, Error> {
        let body = json!({"why": why});
        let target = format!("/v1/runs/{run}/cancel?wait={POLL_S}");
        let mut line: RunLine = self.ask("POST", &target, Some(&body))?;
        while !line.run.state.is_end() {
            self.cancel.check()?;
            line = self.ask("GET", &format!("/v1/runs/{run}?wait={POLL_S}"), None)?;
        }
        Ok(line.run)
    }

    fn list(&mut self) -> Result<Listing, Error> {
        self.ask("GET", "/v1/listing", None)
    }

    fn usage(&mut self) -> Result<Usage, Error> {
        self.ask("GET", "/v1/usage", None)
    }

    fn runs(&mut self, all: bool) -> Result<Vec<RunLine>, Error> {
        let status = if all { "all" } else { "live" };
        let mut lines: Vec<RunLine> = Vec::new();
        loop {
            let after = lines.last().map_or(0, |line| line.run.id);
            let target = format!("/v1/runs?status={status}&after={after}&limit={PAGE}");
            let page: Runs = self.ask("GET", &target, None)?;
            let last = page.runs.len() < PAGE;
            lines.extend(page.runs);
            if last {
                return Ok(lines);
            }
        }
    }

    fn events(
        &mut self,
        subject: Option<&str>,
        after: u64,
        time: Duration,
    ) -> Result<Vec<Event>, Error> {
        self.cancel.check()?;
        let mut target = format!("/v1/events?after={after}");
        if !time.is_zero() {
            target.push_str(&format!("&wait={}", time.as_secs().clamp(1, POLL_S)));
        }
        if let Some(subject) = subject {
            target.push_str(&format!("&subject={}", encoded(subject)));
        }
        let answer = self.call("GET", &target, None)?;
        let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(parsed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_a_query() {
        assert_eq!(encoded("s3://b/p q/é&"), "s3://b/p%20q/%C3%A9%26");
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nVeneer-Joined: yes\r\n\r\nabc";
        let read = answer(whole).unwrap();
        assert_eq!((read.status, read.joined, read.body), (200, true, b"abc".to_vec()));
        for cut in 0..whole.len() {
            assert!(answer(&whole[..cut]).is_none(), "{cut}");
        }
    }
}
