//! A daemon on a host of the bench, and an HTTP client that can misbehave.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bench::Host;

/// Long beyond what anything here takes, on a loaded machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) socket: PathBuf,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Of the bytes of one answer, or of the first of several with the rest.
    pub(crate) fn split(bytes: &[u8]) -> Option<(Answer, &[u8])> {
        let at = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut answer = Answer { status, head, body: Vec::new() };
        let length: usize = answer.header("Content-Length").map_or(0, |text| text.parse().unwrap());
        answer.body = bytes.get(at..at + length)?.to_vec();
        Some((answer, &bytes[at + length..]))
    }
}

/// Waits until `done` gives something.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Daemon {
    /// Starts one, and waits until it answers.
    pub(crate) fn start(host: &Host<'_>, more: &[&str]) -> Daemon {
        Daemon::start_with(host, more, &[])
    }

    /// As [`Daemon::start`], with these variables.
    pub(crate) fn start_with(host: &Host<'_>, more: &[&str], env: &[(&str, &str)]) -> Daemon {
        let mut words = vec!["serve"];
        words.extend(more);
        let mut command = host.command(&words);
        command.envs(env.iter().copied());
        Daemon::start_command(host, command)
    }

    /// Starts this command, which is one, and waits until it answers.
    pub(crate) fn start_command(host: &Host<'_>, mut command: Command) -> Daemon {
        let mut log = std::fs::OpenOptions::new();
        std::fs::create_dir_all(&host.dir).unwrap();
        let log = log.create(true).append(true).open(host.dir.join("serve.log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let socket = host.state().join("serve.sock");
        let mut daemon = Daemon { child, socket };
        until("the daemon to answer", || {
            let over = daemon.child.try_wait().unwrap();
            assert!(over.is_none(), "the daemon ended: {over:?}: {}", log_of(host));
            daemon.try_ask("GET", "/healthz", "").filter(|answer| answer.status == 200)
        });
        daemon
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn try_ask(&self, method: &str, target: &str, body: &str) -> Option<Answer> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        exchange(&mut stream, method, target, body, "")
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, method: &str, target: &str, body: &str) -> Answer {
        let answer = self.try_ask(method, target, body);
        answer.unwrap_or_else(|| panic!("{method} {target}: no answer"))
    }

    pub(crate) fn get(&self, target: &str) -> Value {
        let answer = self.ask("GET", target, "");
        assert_eq!(answer.status, 200, "{target}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// Asks for a run and gives its number.
    pub(crate) fn begin(&self, method: &str, target: &str, body: &Value) -> u64 {
        let answer = self.ask(method, target, &body.to_string());
        let text = String::from_utf8_lossy(&answer.body);
        assert!([200, 202].contains(&answer.status), "{method} {target}: {text}");
        let id = answer.json()["id"].as_u64().unwrap_or_else(|| panic!("no run: {text}"));
        assert_eq!(answer.header("Location"), Some(format!("/v1/runs/{id}").as_str()));
        id
    }

    pub(crate) fn activate(&self, name: &str, image: &str) -> u64 {
        self.begin("POST", "/v1/activations", &json!({"id": name, "image": image}))
    }

    /// The run, when it has ended.
    pub(crate) fn end_of(&self, run: u64) -> Value {
        until("a run's end", || {
            let line = self.get(&format!("/v1/runs/{run}?wait=10s"));
            (!["queued", "running"].contains(&line["state"].as_str().unwrap())).then_some(line)
        })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        until("the daemon's end", || self.child.try_wait().unwrap())
    }

    /// Ends it in good order.
    pub(crate) fn stop(self) {
        self.signal(Signal::SIGTERM);
        assert!(self.wait().success());
    }

    /// Ends it at once.
    pub(crate) fn kill(self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// A number of /proc/PID/status.
    pub(crate) fn status(&self, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn log_of(host: &Host<'_>) -> String {
    std::fs::read_to_string(host.dir.join("serve.log")).unwrap_or_default()
}

/// One request; none when the connection ends before an answer.
pub(crate) fn exchange(
    stream: &mut (impl Read + Write),
    method: &str,
    target: &str,
    body: &str,
    headers: &str,
) -> Option<Answer> {
    let length = body.len();
    let text = format!(
        "{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    drop(stream.write_all(text.as_bytes()));
    receive(stream)
}

/// The next answer.
pub(crate) fn receive(stream: &mut impl Read) -> Option<Answer> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some((answer, rest)) = Answer::split(&bytes) {
            assert!(rest.is_empty(), "more than one answer came");
            return Some(answer);
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
}
