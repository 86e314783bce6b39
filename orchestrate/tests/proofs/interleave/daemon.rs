//! A daemon whose workers move only when it is their turn; what it does besides, it does as it likes.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;
use serde_json::Value;
use tests::trace::actor::Actor;

use crate::bench::Host;

/// A daemon, killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    socket: std::path::PathBuf,
}

/// What its workers are called, before a number; all are there before it answers.
const HANDS: &[&str] = &["image", "known", "device", "collect"];

/// How long its start may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Daemon {
    /// Starts one, and gives its workers, who wait for work.
    pub(crate) fn start(host: &Host<'_>) -> Result<(Daemon, Vec<Actor>)> {
        let log = std::fs::File::create(host.dir.join("serve.log"))?;
        let mut command = host.command(&["serve"]);
        command.env("VENEER_SERVE_WEBHOOK_LOOPBACK", "yes");
        let child = command.stdout(Stdio::null()).stderr(log).spawn()?;
        let mut daemon = Daemon { child, socket: host.state().join("serve.sock") };
        let begun = Instant::now();
        while !daemon.ask("GET", "/healthz", "").is_ok_and(|(status, _)| status == 200) {
            ensure!(daemon.child.try_wait()?.is_none(), "the daemon has ended");
            ensure!(begun.elapsed() < PATIENCE, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(2));
        }
        // Its first look round, and its workers, wait for something.
        loop {
            let workers = daemon.workers()?;
            // All for the same: one that waits for anything else comes to it soon.
            let same = |(_, at): &(Pid, Option<String>)| at.is_some() && *at == workers[0].1;
            if !workers.is_empty() && workers.iter().all(same) {
                let (state, store) = (host.state(), host.store());
                let take =
                    |(thread, _): &(Pid, Option<String>)| Actor::take(*thread, &state, &store);
                let taken = workers.iter().map(take).collect::<Result<_>>()?;
                return Ok((daemon, taken));
            }
            ensure!(begun.elapsed() < PATIENCE, "the workers do not come to rest: {workers:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its workers, and where in memory is what they wait for.
    fn workers(&self) -> Result<Vec<(Pid, Option<String>)>> {
        let mut found = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
            let Some((head, rest)) = stat.rsplit_once(')') else { continue };
            if HANDS.iter().any(|hands| head.contains(&format!("({hands}-"))) {
                let thread = task.file_name().and_then(|name| name.to_str()?.parse().ok());
                let thread = Pid::from_raw(thread.context("a thread's number")?);
                let asleep = rest.trim_start().starts_with('S');
                let call = std::fs::read_to_string(task.join("syscall")).unwrap_or_default();
                let mut words = call.split(' ');
                let waits = words.next() == Some("202") && asleep;
                let at = words.next().filter(|_| waits).map(str::to_owned);
                found.push((thread, at));
            }
        }
        found.sort();
        Ok(found)
    }

    pub(crate) fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    /// One request: its status and answer.
    pub(crate) fn ask(&self, method: &str, target: &str, body: &str) -> Result<(u16, Value)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n");
        stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no answer") };
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        Ok((status, serde_json::from_str(body).unwrap_or_default()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
