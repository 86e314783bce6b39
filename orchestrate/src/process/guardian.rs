//! A process that has a suspended device run again when the one that suspended it dies, or takes too long.
//!
//! It is this very program, started before the suspend, in a process group of its own, so that whatever kills the other
//! by its group leaves it. It has the device-mapper node open and has said so before anything is suspended. It knows
//! that the other has died by the end of a pipe: the kernel closes that only when the last call of the other, the
//! suspend among them, has returned.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::SigSet;
use thin::{By, Dm};

use crate::error::Error;

/// What it is called, and so known by.
const NAME: &str = "veneer-guardian";

/// A device stands still for no longer: whoever waits for it has waited enough.
const BOUND: Duration = Duration::from_secs(30);

/// How often a resume is tried, and after which pause.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// What it says when it is ready, and what is said to it when it is not needed any more.
const READY: u8 = b'r';
const DONE: u8 = b'd';

/// Whether this program becomes a guardian when it is started as one.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// If this process was started as a guardian, does its work and does not return. To be called first thing in `main`.
pub fn child_entry() {
    ENTERED.store(true, Ordering::Relaxed);
    let mut words = std::env::args_os();
    if words.next().is_none_or(|name| name != NAME) {
        return;
    }
    let uuid = words.next().and_then(|word| word.into_string().ok());
    let code = uuid.map_or(ExitCode::FAILURE, |uuid| guard(&uuid));
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

fn guard(uuid: &str) -> ExitCode {
    // Who stops a service stops all of its processes: this one ends by itself.
    let blocked = SigSet::all().thread_block();
    let Ok(dm) = Dm::open() else { return ExitCode::FAILURE };
    let said = std::io::stdout().write_all(&[READY]).and_then(|()| std::io::stdout().flush());
    if blocked.is_err() || said.is_err() {
        return ExitCode::FAILURE;
    }
    let (told, heard) = channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        let read = std::io::stdin().read(&mut byte);
        told.send(matches!(read, Ok(1)) && byte == [DONE])
    });
    if heard.recv_timeout(BOUND) == Ok(true) {
        return ExitCode::SUCCESS;
    }
    for _ in 0..TRIES {
        match dm.state(By::Uuid(uuid)) {
            Ok(Some(state)) if state.suspended && state.has_table => {}
            Ok(_) => return ExitCode::SUCCESS,
            Err(_) => {}
        }
        if dm.resume(By::Uuid(uuid)).is_err() {
            sleep(PAUSE);
        }
    }
    ExitCode::FAILURE
}

/// The guardian of a device. Dropping it tells it that it is not needed any more, and waits for its end.
#[derive(Debug)]
pub(crate) struct Guardian(Child);

impl Guardian {
    /// Has one over the device of this uuid, and returns when it is ready; none where this is not the program that
    /// becomes one.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be started: nothing is to be suspended then.
    pub(crate) fn over(uuid: &str) -> Result<Option<Guardian>, Error> {
        if !ENTERED.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let failed =
            |source| Error::Io { doing: "run again", path: "/proc/self/exe".into(), source };
        let mut child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(uuid)
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let (stdout, guardian) = (child.stdout.take(), Guardian(child));
        let mut byte = [0];
        let read = stdout.map_or(Ok(()), |mut stdout| stdout.read_exact(&mut byte));
        match read {
            Ok(()) if byte == [READY] => Ok(Some(guardian)),
            Ok(()) => Err(failed(std::io::ErrorKind::InvalidData.into())),
            Err(source) => Err(failed(source)),
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        if let Some(mut line) = self.0.stdin.take() {
            // One that has ended already hears nothing.
            drop(line.write_all(&[DONE]));
        }
        drop(self.0.wait());
    }
}
