//! `orchestrate serve` inside the guest, and requests to its socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::veneer::Veneer;
use super::{Cmd, Ran, Running};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// A daemon that answers.
#[derive(Debug)]
pub struct Daemon {
    running: Running,
    /// Where it is asked.
    pub socket: PathBuf,
}

impl Daemon {
    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start(veneer: &Veneer, args: &[&str]) -> Result<Daemon> {
        Daemon::of(veneer.cmd(&["serve"]).args(args), veneer.state.join("serve.sock"))
    }

    /// Starts this command of a daemon, and waits until it answers on this socket.
    ///
    /// # Errors
    /// It does not.
    pub fn of(serve: Cmd, socket: PathBuf) -> Result<Daemon> {
        let running = serve.spawn()?;
        wait(|| Ok(get(&socket, "/healthz").is_ok()))?;
        Ok(Daemon { running, socket })
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn kill(mut self) -> Result<Ran> {
        self.running.kill()?;
        self.running.wait()
    }

    /// SIGTERM, and its end in good order.
    ///
    /// # Errors
    /// It ends otherwise.
    pub fn stop(self) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.running.id())?);
        rustix::process::kill_process(pid.context("a process")?, rustix::process::Signal::TERM)?;
        self.running.wait()?.expect(0)?;
        Ok(())
    }
}

/// Looks until it is so.
///
/// # Errors
/// It never is, or a look fails.
pub fn wait(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done()? {
        ensure!(begun.elapsed() < PATIENCE, "waited too long");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The JSON that a GET is answered with.
///
/// # Errors
/// No answer, or not 200.
pub fn get(socket: &Path, target: &str) -> Result<Value> {
    let (status, answer) = exchange(socket, "GET", target, "")?;
    ensure!(status == 200, "{target}: {status} {answer}");
    Ok(serde_json::from_str(&answer)?)
}

/// One request on a connection of its own; gives status and body.
///
/// # Errors
/// No whole answer.
pub fn exchange(socket: &Path, method: &str, target: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: veneer\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // Who is turned away may find the door shut before all is said.
    stream.write_all(request.as_bytes()).ok();
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, body.to_owned()))
}
