//! What hangs, and where: the kernel's stacks of every task that sleeps uninterruptibly, what the
//! block devices still have in flight, and a watch that tells when a scenario gets no further.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use super::kmsg::KernelLog;

/// Writes all that tells a hang's cause, and leaves the tasks as they are.
///
/// # Errors
/// It cannot be written. What cannot be read is left out.
pub fn report(out: &mut impl Write) -> Result<()> {
    let mut text = String::from("---- what hangs ----\n");
    for task in tasks(Path::new("/proc")) {
        text.push_str(&task);
    }
    for (device, fields) in [("/sys/block", ["inflight", "dm/name", "dm/suspended"])] {
        for entry in std::fs::read_dir(device)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let line: Vec<String> =
                fields.iter().map(|field| first_line(&entry.path().join(field))).collect();
            writeln!(text, "{name}: in flight {}; {} suspended {}", line[0], line[1], line[2])?;
        }
    }
    // Last: the kernel's own list, which also has the locks that it waits for.
    let mut log = KernelLog::from_now()?;
    std::fs::write("/proc/sysrq-trigger", "w")?;
    std::thread::sleep(Duration::from_millis(500));
    for line in log.read()? {
        writeln!(text, "{line}")?;
    }
    text.push_str("---- end ----\n");
    Ok(out.write_all(text.as_bytes())?)
}

/// Every task in D state, and every one of ours, with its kernel stack.
fn tasks(proc: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for process in std::fs::read_dir(proc).into_iter().flatten().flatten() {
        let Ok(list) = std::fs::read_dir(process.path().join("task")) else { continue };
        for task in list.flatten() {
            let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
            let Some((head, rest)) = stat.rsplit_once(") ") else { continue };
            let kernel =
                std::fs::read(process.path().join("cmdline")).unwrap_or_default().is_empty();
            if kernel && !rest.starts_with('D') {
                continue;
            }
            let stack = std::fs::read_to_string(task.path().join("stack")).unwrap_or_default();
            found.push(format!("{head}) {}\n{stack}", rest.chars().next().unwrap_or('?')));
        }
    }
    found
}

fn first_line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reports to stderr whenever nothing is heard for a while.
#[derive(Debug)]
pub struct Watchdog {
    beats: Option<Sender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts a watch with this much patience.
    #[must_use]
    pub fn start(patience: Duration) -> Watchdog {
        let (beats, heard) = channel::<String>();
        let thread = std::thread::spawn(move || {
            let mut last = String::from("nothing yet");
            loop {
                match heard.recv_timeout(patience) {
                    Ok(doing) => last = doing,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        eprintln!("nothing for {patience:?}; the last was: {last}");
                        if let Err(error) = report(&mut std::io::stderr()) {
                            eprintln!("and no report: {error:#}");
                        }
                    }
                }
            }
        });
        Watchdog { beats: Some(beats), thread: Some(thread) }
    }

    /// The scenario has come so far.
    pub fn beat(&self, doing: impl Into<String>) {
        if let Some(beats) = &self.beats {
            // A watch that has panicked hears nothing, and the scenario goes on.
            beats.send(doing.into()).ok();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.beats = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
