//! A program under ptrace(2), stopped before and after each of its system calls: to list the places
//! where it can be killed, to kill it there, or to have a call fail. The program under test has no
//! hook for this; what it does is seen from outside, so that a new step of it cannot be forgotten.
//!
//! What a call is and what it touches is in [`call`]; several programs that move in turn are in [`turns`],
//! and those that stand still wherever they meet each other in [`actor`].

pub mod actor;
pub mod call;
pub mod turns;

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use call::View;
pub use call::{Call, Effect};

/// Which side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// It has done nothing yet.
    Before,
    /// It has done all it does; its answer has not been seen.
    After,
}

/// What becomes of a program that stands before or after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It goes on.
    Go,
    /// `kill -9`.
    Kill,
    /// Before a call only: the call does nothing and fails so.
    Fail(Errno),
    /// Before a call only: the call does nothing and answers so.
    Answer(i64),
    /// It goes on, and none of its further calls are of interest: they are not stopped at.
    LetGo,
}

/// Whose calls are stopped at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Those of the program's main thread.
    Main,
    /// Those of its child processes, with their threads; the program's own are not.
    Children,
    /// What `Main` does not see of the program: the calls of its other threads, and those on sockets of
    /// all of them.
    Others,
}

/// How it ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<Signal>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

/// More than any run takes; a program that hangs under a fault is killed and told of.
const BOUND: Duration = Duration::from_secs(120);

/// Runs `command` and stops at each call of the kinds that [`call`] knows, on a path below `within`
/// or on a device. `each` is asked before and after each, and says what happens.
///
/// Only the calling thread may trace what it started, so this returns when the program has ended.
///
/// # Errors
/// It cannot be started or traced, or does not end within two minutes.
pub fn run(
    command: &Command,
    within: &[&Path],
    whose: Whose,
    each: impl FnMut(&Call, Side) -> Act,
) -> Result<Ended> {
    run_as(command, within, whose, false, each)
}

/// As [`run`]; each call also says where in the program it comes from.
///
/// # Errors
/// As [`run`].
pub fn run_with_sites(
    command: &Command,
    within: &[&Path],
    whose: Whose,
    each: impl FnMut(&Call, Side) -> Act,
) -> Result<Ended> {
    run_as(command, within, whose, true, each)
}

fn run_as(
    command: &Command,
    within: &[&Path],
    whose: Whose,
    sites: bool,
    mut each: impl FnMut(&Call, Side) -> Act,
) -> Result<Ended> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut tracer = Tracer::start(command, within, whose, [&stdout, &stderr])?;
    tracer.sites = sites;
    let main = tracer.main;
    let (over, wait) = channel::<()>();
    let status = std::thread::scope(|scope| {
        let hung = scope.spawn(move || match wait.recv_timeout(BOUND) {
            Err(RecvTimeoutError::Timeout) => {
                let stands = stands(main);
                kill(main, Signal::SIGKILL).is_ok().then_some(stands)
            }
            Ok(()) | Err(RecvTimeoutError::Disconnected) => None,
        });
        let status = tracer.follow(&mut each);
        drop(over);
        match hung.join() {
            Ok(Some(stands)) => bail!("{command:?} hangs: {stands}"),
            Ok(None) | Err(_) => status,
        }
    })?;
    let (code, signal) = match status {
        WaitStatus::Exited(_, code) => (Some(code), None),
        WaitStatus::Signaled(_, signal, _) => (None, Some(signal)),
        other => bail!("an odd end: {other:?}"),
    };
    Ok(Ended { code, signal, stdout: whole(&mut stdout)?, stderr: whole(&mut stderr)? })
}

/// Where each thread of a process stands: its name, state and system call.
fn stands(pid: Pid) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let text = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    tasks
        .map(|task| {
            let stat = text(task.path().join("stat"));
            let stat = stat.split(' ').take(3).collect::<Vec<_>>().join(" ");
            format!("{stat}: {}; ", text(task.path().join("syscall")).trim_end())
        })
        .collect()
}

fn whole(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A traced process or thread.
#[derive(Debug)]
struct Task {
    pid: Pid,
    /// The call it is in.
    call: Option<Call>,
    /// What the call in progress is to answer.
    answer: Option<i64>,
}

struct Tracer {
    main: Pid,
    within: Vec<PathBuf>,
    whose: Whose,
    tasks: Vec<Task>,
    /// Nothing is stopped at any more.
    let_go: bool,
    /// Calls say where they come from.
    sites: bool,
}

impl Tracer {
    /// The program is started by a shell that waits until it is traced, so that nothing has to
    /// happen between fork and exec.
    fn start(
        command: &Command,
        within: &[&Path],
        whose: Whose,
        [stdout, stderr]: [&File; 2],
    ) -> Result<Tracer> {
        let shell = ["/bin/sh", "/busybox/sh"].into_iter().find(|shell| Path::new(shell).exists());
        let shell = shell.context("there is no shell")?;
        let mut started = Command::new(shell);
        started.args(["-c", "read line; exec \"$@\"", "sh"]);
        started.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => started.env(name, value),
                None => started.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            started.current_dir(dir);
        }
        let mut child = started
            .stdin(Stdio::piped())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let main = Pid::from_raw(i32::try_from(child.id())?);
        let mut options = Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC;
        match whose {
            Whose::Main => {}
            Whose::Children => {
                options |= Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
            }
            Whose::Others => options |= Options::PTRACE_O_TRACECLONE,
        }
        ptrace::seize(main, options).context("trace")?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        stdin.write_all(b"\n")?;
        drop(stdin);
        let mut first = waitpid(main, Some(WaitPidFlag::__WALL))?;
        // The shell's own start may be seen before that of the program.
        while matches!(first, WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC))
            && std::fs::read(format!("/proc/{main}/cmdline"))?.starts_with(shell.as_bytes())
        {
            ptrace::cont(main, None)?;
            first = waitpid(main, Some(WaitPidFlag::__WALL))?;
        }
        ensure!(
            matches!(first, WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC)),
            "{command:?} was not started: {first:?}"
        );
        let task = Task { pid: main, call: None, answer: None };
        let mut tracer = Tracer {
            main,
            within: within.iter().map(|path| path.to_path_buf()).collect(),
            whose,
            tasks: vec![task],
            let_go: false,
            sites: false,
        };
        tracer.go(main, None)?;
        Ok(tracer)
    }

    fn follow(&mut self, each: &mut impl FnMut(&Call, Side) -> Act) -> Result<WaitStatus> {
        let mut end = None;
        loop {
            // Of this thread only: other threads trace programs of their own.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let status = match waitpid(None, Some(flags)) {
                Err(Errno::ECHILD) => break,
                Err(Errno::EINTR) => continue,
                status => status?,
            };
            let Some(pid) = status.pid() else { continue };
            if let WaitStatus::Exited(..) | WaitStatus::Signaled(..) = status {
                self.tasks.retain(|task| task.pid != pid);
                if pid == self.main {
                    end = Some(status);
                }
                if end.is_some() && self.tasks.is_empty() {
                    break;
                }
                continue;
            }
            let signal = self.stopped(pid, status, each)?;
            self.go(pid, signal)?;
        }
        end.context("the program's end was not seen")
    }

    /// One stop; gives the signal that the program is to see, if one came.
    fn stopped(
        &mut self,
        pid: Pid,
        status: WaitStatus,
        each: &mut impl FnMut(&Call, Side) -> Act,
    ) -> Result<Option<Signal>> {
        match status {
            WaitStatus::PtraceSyscall(_) => self.at_call(pid, each).map(|()| None),
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_STOP) => {
                // A new child or thread; it inherits the options of whoever made it.
                if self.whose == Whose::Children && pid != self.main {
                    let options = Options::PTRACE_O_EXITKILL
                        | Options::PTRACE_O_TRACESYSGOOD
                        | Options::PTRACE_O_TRACEEXEC
                        | Options::PTRACE_O_TRACECLONE;
                    ptrace::setoptions(pid, options)?;
                }
                Ok(None)
            }
            WaitStatus::Stopped(_, signal) => Ok(Some(signal)),
            _ => Ok(None),
        }
    }

    fn at_call(&mut self, pid: Pid, each: &mut impl FnMut(&Call, Side) -> Act) -> Result<()> {
        let at = match self.tasks.iter().position(|task| task.pid == pid) {
            Some(at) => at,
            None => {
                self.tasks.push(Task { pid, call: None, answer: None });
                self.tasks.len() - 1
            }
        };
        if self.whose == Whose::Children && pid == self.main {
            return Ok(());
        }
        // Gone between the stop and now: killed from elsewhere.
        let Ok(info) = ptrace::syscall_info(pid) else { return Ok(()) };
        let Ok(mut regs) = ptrace::getregs(pid) else { return Ok(()) };
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            let view = match self.whose {
                Whose::Main => View::FILES,
                // A fenced child sees other paths than we do; what it works on is all of interest.
                Whose::Children => View::ANYWHERE,
                Whose::Others if pid == self.main => View::SOCKETS,
                Whose::Others => View::FILES_AND_SOCKETS,
            };
            let mut call = Call::at_entry(pid, &regs, &self.within, view);
            if let Some(call) = call.as_mut().filter(|_| self.sites) {
                call.site = call::site(pid, &regs);
            }
            let act = call.as_ref().map_or(Act::Go, |call| each(call, Side::Before));
            self.tasks[at].call = call;
            let answer = match act {
                Act::Go => None,
                Act::Kill => {
                    self.kill()?;
                    None
                }
                Act::LetGo => {
                    self.let_go = true;
                    None
                }
                Act::Fail(errno) => Some(i64::from(-(errno as i32))),
                Act::Answer(answer) => Some(answer),
            };
            if answer.is_some() {
                // A call that changes nothing, which every sandbox allows, in its place.
                regs.orig_rax = u64::try_from(libc::SYS_getpid)?;
                ptrace::setregs(pid, regs)?;
                self.tasks[at].answer = answer;
            }
            return Ok(());
        }
        if let Some(answer) = self.tasks[at].answer.take() {
            regs.rax = answer.cast_unsigned();
            ptrace::setregs(pid, regs)?;
        }
        if let Some(mut call) = self.tasks[at].call.take() {
            call.answer = regs.rax.cast_signed();
            match each(&call, Side::After) {
                Act::Go | Act::Fail(_) | Act::Answer(_) => {}
                Act::Kill => self.kill()?,
                Act::LetGo => self.let_go = true,
            }
        }
        Ok(())
    }

    fn kill(&self) -> Result<()> {
        Ok(kill(self.main, Signal::SIGKILL)?)
    }

    fn go(&mut self, pid: Pid, signal: Option<Signal>) -> Result<()> {
        let gone_on = match self.let_go {
            false => ptrace::syscall(pid, signal),
            true => {
                // The main one is our own child, whose end is waited for; the others are not.
                self.tasks.retain(|task| task.pid != pid || pid == self.main);
                ptrace::detach(pid, signal)
            }
        };
        match gone_on {
            // Killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // After a failure: nothing of it stays.
        if !self.tasks.is_empty() {
            drop(self.kill());
            while waitpid(self.main, Some(WaitPidFlag::__WALL)).is_ok_and(|status| {
                !matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..))
            }) {}
        }
    }
}
