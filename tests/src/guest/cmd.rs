//! Run a program and look at all that came out of it.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::protocol::printable;

/// A program about to run; stdin is empty unless told otherwise.
#[derive(Debug)]
pub struct Cmd(Command);

impl Cmd {
    /// See [`Guest::cmd`](super::Guest::cmd).
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Cmd {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Cmd(command)
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Cmd {
        self.0.arg(arg);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.0.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Cmd {
        self.0.env(name, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Cmd {
        self.0.current_dir(dir);
        self
    }

    /// Takes stdin from a file, a pipe or another program's output.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Cmd {
        self.0.stdin(stdin);
        self
    }

    /// Runs as this user and group.
    #[must_use]
    pub fn user(mut self, id: u32) -> Cmd {
        self.0.uid(id).gid(id);
        self
    }

    /// What is about to run, for [`trace`](crate::trace).
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.0
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn run(self) -> Result<Ran> {
        self.spawn()?.wait()
    }

    /// Starts, to be waited for or killed.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(mut self) -> Result<Running> {
        let line = self.line();
        let mut child = self
            .0
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {line}"))?;
        let out = drain(child.stdout.take().context("stdout")?);
        let err = drain(child.stderr.take().context("stderr")?);
        Ok(Running { line, child, out, err, started: Instant::now() })
    }

    fn line(&self) -> String {
        let mut line = self.0.get_program().to_string_lossy().into_owned();
        for arg in self.0.get_args() {
            line.push(' ');
            line.push_str(&arg.to_string_lossy());
        }
        line
    }
}

/// Reads on from the start: a daemon whose pipe is full stands still.
fn drain(mut pipe: impl Read + Send + 'static) -> Drain {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        pipe.read_to_end(&mut all).map(|_| all)
    })
}

type Drain = JoinHandle<std::io::Result<Vec<u8>>>;

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    out: Drain,
    err: Drain,
    started: Instant,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`. It may have ended by itself just before.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.line))
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Its output cannot be read.
    pub fn wait(mut self) -> Result<Ran> {
        let status = self.child.wait().with_context(|| self.line.clone())?;
        let all = |pipe: Drain| pipe.join().expect("reading does not panic");
        let (stdout, stderr) = (all(self.out)?, all(self.err)?);
        let ran = Ran {
            line: self.line,
            seconds: self.started.elapsed().as_secs_f64(),
            code: status.code(),
            status,
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        };
        // Into the scenario's output, where a reader of a failure wants it.
        eprintln!("{ran}");
        Ok(ran)
    }
}

/// A program that ended. Displayed, it is the command line, the status and the outputs' tails.
#[derive(Debug)]
pub struct Ran {
    /// The command line, for people.
    pub line: String,
    /// Wall time from start to end.
    pub seconds: f64,
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The whole status.
    pub status: ExitStatus,
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: String,
}

impl Ran {
    /// This very exit code, or an error that shows everything.
    ///
    /// # Errors
    /// It ended otherwise.
    pub fn expect(self, code: i32) -> Result<Ran> {
        if self.code == Some(code) {
            return Ok(self);
        }
        bail!("expected exit code {code}: {self}")
    }

    /// This exit code, and stderr holds this text.
    ///
    /// # Errors
    /// It ended otherwise, or said something else.
    pub fn expect_message(self, code: i32, text: &str) -> Result<Ran> {
        let ran = self.expect(code)?;
        if ran.stderr.contains(text) {
            return Ok(ran);
        }
        bail!("expected \"{text}\" on stderr: {ran}")
    }

    /// Stdout as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.stdout).with_context(|| format!("stdout of {}", self.line))
    }

    /// Stdout as one JSON value.
    ///
    /// # Errors
    /// It is something else.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.stdout).with_context(|| format!("JSON from {self}"))
    }

    /// Stdout as JSON lines.
    ///
    /// # Errors
    /// A line is something else.
    pub fn json_lines(&self) -> Result<Vec<serde_json::Value>> {
        self.text()?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("JSON from {self}")))
            .collect()
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$ {}\n  {:.2} s", self.line, self.seconds)?;
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(f, ", exit code {code}")?,
            (None, Some(signal)) => write!(f, ", ended by signal {signal}")?,
            (None, None) => write!(f, ", {}", self.status)?,
        }
        let stdout = String::from_utf8_lossy(&self.stdout);
        for (name, text) in [("stdout", &*stdout), ("stderr", &*self.stderr)] {
            for line in tail(text, 40) {
                write!(f, "\n  {name}: {}", printable(line))?;
            }
        }
        Ok(())
    }
}

/// The last `count` lines.
fn tail(text: &str, count: usize) -> impl Iterator<Item = &str> {
    let skip = text.lines().count().saturating_sub(count);
    text.lines().skip(skip)
}
