//! The other end: the program's verbs, asked of a daemon over its unix socket.

pub(crate) mod asks;
pub(crate) mod files;
pub(crate) mod fleet;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use registry::RunState;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::table::SECONDS_MAX;
use crate::error::Error;
use crate::error::class::Class;
use crate::host::run::RunLine;
use crate::process::cancel::Cancel;
use crate::process::log::{self, Level};
use crate::process::sys;
use crate::serve::socket::connect;
use crate::store::seam::Condition;
use crate::view::health::Readiness;

/// Bytes of an answer.
const ANSWER_MAX: usize = 256 << 20;

/// How long a daemon may take to say that it is there.
const HELLO: Duration = Duration::from_secs(5);

/// How long an answer may take, beyond what was asked to wait for: that the daemon is stopped, or the
/// host is, is not found out later.
const ANSWER_TIME: Duration = Duration::from_secs(45);
const LATE: Duration = Duration::from_secs(10);

/// A pipe comes to its end when who writes it does; the daemon has its own bound for that (`unpack.time_max`).
const STREAM_TIME: Duration = Duration::from_secs(SECONDS_MAX);

/// How long one question waits: that is one request, and not many.
const WAIT_S: u64 = 30;

/// How long the first does: until it is answered the run has no number here, and could not be taken back after
/// a signal.
const FIRST_S: u64 = 0;

/// For so long a turn is waited for also by who waits for nobody: a daemon with nothing else to do needs it.
const TURN: Duration = Duration::from_secs(1);

/// Between two questions, where the daemon lets nobody wait; the shortest and the longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long an answer that has to be heard is waited for after a signal.
const LAST_WORD: Duration = Duration::from_millis(400);

/// How often a signal is looked for.
const SIGNAL: Duration = Duration::from_millis(100);

/// Most places are free again by then; who waits for longer is told.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// How long to wait for a place among the daemon's connections.
const PLACE: Duration = Duration::from_secs(600);

/// Runs of one question.
const PAGE: usize = 1000;

/// A daemon that answers.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    /// How long to wait for others: for a place, for a turn, and for what a run needs.
    wait: Duration,
    cancel: Cancel,
    talk: u8,
    /// What it said of itself; none while it has not.
    status: Option<crate::serve::status::Status>,
    pace: Pace,
}

/// Keeps who is not let wait from asking all the time.
#[derive(Debug)]
struct Pace(Duration);

impl Pace {
    /// After a question that took so long and had no end of it.
    fn rest(&mut self, took: Duration, cancel: &Cancel) -> Result<(), Error> {
        if took >= PAUSE.1 {
            self.0 = PAUSE.0;
            return Ok(());
        }
        cancel.sleep(self.0)?;
        self.0 = (self.0 * 2).min(PAUSE.1);
        Ok(())
    }
}

/// A request.
#[derive(Clone, Copy)]
struct Asking<'a> {
    method: &'a str,
    target: &'a str,
    body: Option<&'a Value>,
    /// What this process opened and passes.
    files: &'a [OwnedFd],
}

impl<'a> Asking<'a> {
    fn new(method: &'a str, target: &'a str, body: Option<&'a Value>) -> Asking<'a> {
        Asking { method, target, body, files: &[] }
    }
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
    /// The daemon behind this socket; none when nobody answers there in time, or not to us. `wait` is
    /// how long to wait for others.
    pub fn find(path: &Path, wait: Duration, cancel: Cancel, talk: u8) -> Option<Client> {
        let (path, pace) = (path.to_owned(), Pace(PAUSE.0));
        let mut client = Client { path, wait, cancel, talk, status: None, pace };
        match client.ask("GET", "/v1/status", None) {
            Ok(status) => client.status = Some(status),
            Err(Error::Io { source, .. }) if is_late(&source) => {
                let (path, time) = (client.path.display(), HELLO.as_secs());
                client.say(&format!(
                    "the daemon at {path} does not answer within {time} s: is it stopped? The work \
                     is done here"
                ));
                return None;
            }
            Err(_) => return None,
        }
        Some(client)
    }

    /// Whether it takes what this process opened: one of another day does not.
    pub fn takes_files(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.descriptors.is_some())
    }

    /// Its settings that decide what comes out of a run, by key.
    pub fn settings(&self) -> Option<&BTreeMap<String, String>> {
        self.status.as_ref().map(|status| &status.settings)
    }

    fn say(&self, line: &str) {
        if self.talk > 0 {
            log::line(Level::Warning, line, &[]);
        }
    }

    fn late(&self, time: Duration) -> String {
        let (path, time) = (self.path.display(), time.as_secs());
        format!(
            "the daemon at {path} has not answered for {time} s: is it stopped? What it was asked for goes \
             on when it does; `orchestrate runs` shows it"
        )
    }

    /// With how long the run may wait for others, where the daemon itself would for another time.
    fn patient(&self, target: String) -> String {
        let its = self.status.as_ref().and_then(|status| status.wait_s);
        let own = self.wait.as_secs();
        match its.is_some_and(|its| its != own) {
            true => format!("{target}&patience={own}"),
            false => target,
        }
    }

    /// What it says of this host's readiness.
    ///
    /// # Errors
    /// When it does not say.
    pub fn readiness(&self) -> Result<Readiness, Error> {
        parsed(&self.exchange(&Asking::new("GET", "/readyz", None), ANSWER_TIME, true)?.body)
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
        // Who is asked for the first time is only to say that it is there.
        let time = if self.status.is_some() { ANSWER_TIME } else { HELLO };
        self.call_within(&Asking::new(method, target, body), time, true)
    }

    /// As [`Client::call`], with this time for each answer; with `heed` a signal ends it, else a moment after
    /// the signal does.
    fn call_within(
        &self,
        asking: &Asking<'_>,
        time: Duration,
        heed: bool,
    ) -> Result<Answer, Error> {
        let begun = Instant::now();
        let (mut pause, mut told) = (Duration::from_millis(20), false);
        loop {
            let answer = match self.exchange(asking, time, heed) {
                Err(Error::Io { source, .. }) if is_late(&source) && self.status.is_some() => {
                    return Err(Error::Told { class: Class::Temporary, message: self.late(time) });
                }
                answer => answer?,
            };
            if answer.status < 400 {
                return Ok(answer);
            }
            let problem: Problem = parsed(&answer.body)?;
            let class = Class::from_word(&problem.class).unwrap_or(Class::Bug);
            if class != Class::Throttled || begun.elapsed() >= self.wait.min(PLACE) {
                return Err(Error::Told { class, message: problem.detail });
            }
            if !told && begun.elapsed() >= TELL_AFTER {
                told = true;
                self.say(&format!("waits for the daemon: {}", problem.detail));
            }
            self.cancel.sleep(pause)?;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn exchange(&self, asking: &Asking<'_>, time: Duration, heed: bool) -> Result<Answer, Error> {
        let Asking { method, target, body, files } = asking;
        let io = |source| Error::Io { doing: "ask the daemon at", path: self.path.clone(), source };
        let deadline = Instant::now() + time;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: veneer\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream: UnixStream = connect(&self.path, time).map_err(io)?;
        stream.set_read_timeout(Some(SIGNAL)).map_err(io)?;
        stream.set_write_timeout(Some(time)).map_err(io)?;
        // Who is turned away may find the door shut before all is said; the answer is there.
        let text = head + &body;
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let sent = sys::send(stream.as_fd(), text.as_bytes(), &files);
        let written = sent.and_then(|sent| stream.write_all(&text.as_bytes()[sent..]));
        let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        let mut asked: Option<Instant> = None;
        loop {
            // Without its answer nothing could be taken back; one that does not come is not waited for.
            if heed || asked.is_some_and(|asked| asked.elapsed() >= LAST_WORD) {
                self.cancel.check()?;
            }
            if self.cancel.is_set() {
                asked.get_or_insert_with(Instant::now);
            }
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(read) if bytes.len() + read <= ANSWER_MAX => {
                    bytes.extend_from_slice(&piece[..read]);
                }
                Ok(_) => {
                    let text = format!("its answer is longer than {ANSWER_MAX} bytes");
                    return Err(io(std::io::Error::other(text)));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if is_late(&error) && Instant::now() < deadline => {}
                Err(error) if is_late(&error) => {
                    return Err(io(std::io::ErrorKind::TimedOut.into()));
                }
                Err(_) if !bytes.is_empty() => break,
                Err(error) => return Err(io(written.err().unwrap_or(error))),
            }
        }
        answer(&bytes).ok_or_else(|| {
            let text =
                format!("its answer of {} bytes broke off or is no HTTP; try again", bytes.len());
            io(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text))
        })
    }

    /// The run, when it has ended, has something new to say, or the time has passed.
    fn look_at(&self, seen: &RunLine, time: Duration) -> Result<RunLine, Error> {
        let (id, wait) = (seen.run.id, time.as_secs().clamp(1, WAIT_S));
        // What it is at is for who reads it, where it is at it for longer.
        let changes = match self.talk > 0 && time > TURN {
            true => format!("&seen={}", seen.run.updated_ms),
            false => String::new(),
        };
        let target = format!("/v1/runs/{id}?wait={wait}{changes}");
        let time = Duration::from_secs(wait) + LATE;
        parsed(&self.call_within(&Asking::new("GET", &target, None), time, true)?.body)
    }

    /// Asks for a run and waits for its end.
    fn done<T: DeserializeOwned>(
        &mut self,
        method: &str,
        target: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        self.done_with(&Asking::new(method, target, body), false)
    }

    /// As [`Client::done`]; with `stream` the answer comes when a pipe has come to its end.
    fn done_with<T: DeserializeOwned>(
        &mut self,
        asking: &Asking<'_>,
        stream: bool,
    ) -> Result<T, Error> {
        let target = self.patient(asking.target.to_owned());
        let asking = Asking { target: &target, ..*asking };
        let time = if stream { STREAM_TIME } else { ANSWER_TIME };
        let first = self.call_within(&asking, time, stream)?;
        let mut line = match parsed(&first.body)? {
            Given::Done(done) => return Ok(done),
            Given::Run(line) => *line,
        };
        let (id, begun) = (line.run.id, Instant::now());
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
                told.clone_from(&line.run.step);
                log::line(Level::Info, &told, &[("run", id.into())]);
            }
            // What was begun for this request keeps its own time. A turn that does not come is not waited for
            // longer, nor is a run that was begun for somebody else.
            let left = match line.run.state {
                RunState::Running if !first.joined => Duration::from_secs(WAIT_S),
                _ => self.wait.max(TURN).saturating_sub(begun.elapsed()),
            };
            if left.is_zero() {
                let waited_s = begun.elapsed().as_secs();
                if first.joined {
                    let why = format!("it was not at its end after {waited_s} s");
                    let message = goes_on(&line, &why, "somebody else asked for the same");
                    return Err(Error::Told { class: Class::Temporary, message });
                }
                let why = format!("its turn at the daemon did not come in {waited_s} s");
                let message = self.given_back(&line, "its turn did not come in time", &why);
                return Err(Error::Told { class: Class::Temporary, message });
            }
            let asked = Instant::now();
            // Most runs are short: one question for the end, before one for what it is at.
            let left = if begun.elapsed() < TURN { left.min(TURN) } else { left };
            let next = match self.look_at(&line, left) {
                Ok(next) if next.run.state.is_end() => Ok(next),
                Ok(next) => self.pace.rest(asked.elapsed(), &self.cancel).map(|()| next),
                Err(error) => Err(error),
            };
            line = match next {
                Err(Error::Cancelled { why }) => {
                    let why = format!("stopped on request: {why}");
                    let message = match first.joined {
                        true => goes_on(&line, &why, "somebody else asked for the same"),
                        false => self.given_back(&line, "a signal", &why),
                    };
                    return Err(Error::Told { class: Class::Cancelled, message });
                }
                next => next?,
            };
        }
    }

    /// Asks that a run which nobody else asked for be stopped; what became of that.
    fn given_back(&self, seen: &RunLine, reason: &str, why: &str) -> String {
        let (body, id) = (json!({"why": reason}), seen.run.id);
        let ask = |target: String| {
            self.call_within(&Asking::new("POST", &target, Some(&body)), HELLO, false)
        };
        let asked = ask(format!("/v1/runs/{id}/cancel?unless_joined=1"));
        let asked = match asked {
            // A daemon of another day does not know the word.
            Err(Error::Told { class: Class::Usage, .. }) => ask(format!("/v1/runs/{id}/cancel")),
            asked => asked,
        };
        let line: Result<RunLine, Error> = asked.and_then(|answer| parsed(&answer.body));
        match line {
            Ok(line) if line.run.state == RunState::Done => {
                format!("{why}; run {id} was done already")
            }
            Ok(line) if line.run.cancel.is_none() && !line.run.state.is_end() => {
                goes_on(&line, why, "somebody else asked for the same since")
            }
            Ok(_) => format!("{why}; run {id} is cancelled, and nothing half done stays"),
            // The daemon may be gone; then the run waits for the next one.
            Err(error) => goes_on(seen, why, &format!("the daemon could not be told: {error}")),
        }
    }
}

/// Says of a run that is left to itself how it can be followed and ended.
fn goes_on(line: &RunLine, why: &str, since: &str) -> String {
    let (id, verb, subject) = (line.run.id, line.run.verb.word(), line.run.subject.escape_debug());
    format!(
        "{why}; run {id} ({verb} {subject}) goes on at the daemon: {since}. `orchestrate show {id}` tells how \
         it is, `orchestrate cancel {id}` ends it"
    )
}

/// Whether an answer did not come in time.
fn is_late(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
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

#[cfg(test)]
mod tests {
    use super::*;

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
