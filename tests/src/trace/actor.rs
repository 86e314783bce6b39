//! A program, or a thread of one that runs already, that stands still wherever it may meet others: before
//! it takes a lock, before it commits to the registry, before each call on the store or to a server. It
//! goes on only when it is told to, up to the next such place; so who drives several of them chooses the
//! order in which they meet.
//!
//! Only the thread that started or took one may drive it (ptrace(2)). What its other threads and children
//! do, they do as they like; it waits for them itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::call::Tracee;
use super::{Ended, Tracer, Whose, whole};

/// A place where it meets others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// Before it takes a lock of this name.
    Lock(String),
    /// Before it begins to write to the registry.
    Commit,
    /// Before a call that changes the store, or which file is the registry.
    Files(String),
    /// Before it waits for a server: for an answer, or for what a layer's child makes of one.
    Net(&'static str),
    /// Before it sleeps, other than for a lock.
    Pause,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Point::Lock(name) => write!(f, "lock {name}"),
            Point::Commit => write!(f, "commit"),
            Point::Files(what) => write!(f, "{what}"),
            Point::Net(what) => write!(f, "net {what}"),
            Point::Pause => write!(f, "pause"),
        }
    }
}

/// Where it stands.
#[derive(Debug)]
pub enum Stood {
    /// Before this.
    At(Point),
    /// It has found this lock taken, and will try again.
    Waits(String),
    /// A worker without work: it looks for some when it goes on.
    Idle,
    /// It is over.
    Ended(Box<Ended>),
}

/// SQLite's lock for writing: the first of eight bytes at 120 of the `-shm` file (sqlite.org/walformat.html).
const WRITE_LOCK: i64 = 120;

/// See the module.
pub struct Actor {
    pid: Pid,
    program: Option<(Tracer, File, File)>,
    state: PathBuf,
    store: PathBuf,
    /// The call it is in, with its arguments.
    call: Option<(i64, [u64; 6])>,
    /// What the call in progress is to answer.
    answer: Option<i64>,
    /// Locks that it has, by descriptor.
    held: BTreeMap<u64, String>,
    /// A lock that it is about to try without a stop, since it stood before it already.
    tries: Option<String>,
    /// The lock that it has just found taken.
    taken: Option<String>,
    /// Whether it was turned away from SQLite's lock for writing.
    turned_away: bool,
    /// A descriptor: nothing is stopped at until it is closed.
    until_closed: Option<u64>,
    /// Connections to servers.
    servers: Vec<u64>,
    /// The condition at which a worker waits for work.
    idles_at: Option<u64>,
    /// Whether rows or files may be others than before.
    changed: bool,
}

impl std::fmt::Debug for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Actor").field("pid", &self.pid).field("held", &self.held).finish()
    }
}

impl Actor {
    /// Starts a program; it has not come to its first place yet.
    ///
    /// # Errors
    /// It cannot be started or traced.
    pub fn start(command: &Command, state: &Path, store: &Path) -> Result<Actor> {
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let tracer = Tracer::start(command, &[], Whose::Main, [&stdout, &stderr])?;
        let mut actor = Actor::new(tracer.main, state, store);
        actor.program = Some((tracer, stdout, stderr));
        // It is running already, towards a stop.
        actor.wait().context("the first stop")?;
        Ok(actor)
    }

    /// Takes a thread that waits for work.
    ///
    /// # Errors
    /// It cannot be traced, or waits for nothing.
    pub fn take(thread: Pid, state: &Path, store: &Path) -> Result<Actor> {
        let mut actor = Actor::new(thread, state, store);
        let options = Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACESYSGOOD;
        ptrace::seize(thread, options).context("trace a thread")?;
        ptrace::interrupt(thread)?;
        actor.wait()?;
        // Its wait begins anew, or the answer to it comes first.
        for _ in 0..8 {
            ptrace::syscall(thread, None)?;
            actor.wait()?;
            let info = ptrace::syscall_info(thread)?;
            let regs = ptrace::getregs(thread)?;
            let waits = i64::try_from(regs.orig_rax) == Ok(libc::SYS_futex) && is_wait(regs.rsi);
            if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY && waits {
                actor.idles_at = Some(regs.rdi);
                actor.give(regs, 0)?;
                return Ok(actor);
            }
        }
        bail!("thread {thread} does not wait for work")
    }

    fn new(pid: Pid, state: &Path, store: &Path) -> Actor {
        Actor {
            pid,
            program: None,
            state: state.into(),
            store: store.into(),
            call: None,
            answer: None,
            held: BTreeMap::new(),
            tries: None,
            taken: None,
            turned_away: false,
            until_closed: None,
            servers: Vec::new(),
            idles_at: None,
            changed: true,
        }
    }

    /// Its process or thread.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The locks that it has.
    pub fn held(&self) -> Vec<String> {
        self.held.values().cloned().collect()
    }

    /// Whether rows or files may be others than when this was asked last.
    pub fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// `kill -9`; it goes on to its end.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self) -> Result<Stood> {
        kill(self.pid, Signal::SIGKILL)?;
        loop {
            let status = self.wait()?;
            if let WaitStatus::Exited(..) | WaitStatus::Signaled(..) = status {
                return self.over(status);
            }
            ptrace::cont(self.pid, None).ok();
        }
    }

    /// It goes on by itself, and is seen no more.
    ///
    /// # Errors
    /// It cannot be traced.
    pub fn let_go(&mut self) -> Result<()> {
        if let Some(answer) = self.answer.take() {
            ptrace::syscall(self.pid, None)?;
            self.wait()?;
            let mut regs = ptrace::getregs(self.pid)?;
            regs.rax = answer.cast_unsigned();
            ptrace::setregs(self.pid, regs)?;
        }
        Ok(ptrace::detach(self.pid, None)?)
    }

    /// Goes on to where it meets others next.
    ///
    /// # Errors
    /// It cannot be traced.
    pub fn go_on(&mut self) -> Result<Stood> {
        let mut signal = None;
        loop {
            match ptrace::syscall(self.pid, signal.take()) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
            match self.wait()? {
                status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                    return self.over(status);
                }
                WaitStatus::PtraceSyscall(_) => {
                    if let Some(stood) = self.at_call()? {
                        return Ok(stood);
                    }
                }
                WaitStatus::Stopped(_, came) => signal = Some(came),
                _ => {}
            }
        }
    }

    fn wait(&self) -> Result<WaitStatus> {
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Err(Errno::EINTR) => {}
                status => return Ok(status?),
            }
        }
    }

    fn over(&mut self, status: WaitStatus) -> Result<Stood> {
        self.changed = true;
        self.held.clear();
        let (code, signal) = match status {
            WaitStatus::Exited(_, code) => (Some(code), None),
            WaitStatus::Signaled(_, signal, _) => (None, Some(signal)),
            other => bail!("an odd end: {other:?}"),
        };
        let (mut out, mut err) = (String::new(), String::new());
        if let Some((mut tracer, mut stdout, mut stderr)) = self.program.take() {
            tracer.tasks.clear();
            (out, err) = (whole(&mut stdout)?, whole(&mut stderr)?);
        }
        Ok(Stood::Ended(Box::new(Ended { code, signal, stdout: out, stderr: err })))
    }

    fn at_call(&mut self) -> Result<Option<Stood>> {
        // Gone between the stop and now: killed from elsewhere.
        let Ok(info) = ptrace::syscall_info(self.pid) else { return Ok(None) };
        let Ok(mut regs) = ptrace::getregs(self.pid) else { return Ok(None) };
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
            let number = i64::try_from(regs.orig_rax)?;
            self.call = Some((number, args));
            return self.before(number, &args, regs);
        }
        if let Some(answer) = self.answer.take() {
            regs.rax = answer.cast_unsigned();
            ptrace::setregs(self.pid, regs)?;
        } else if let Some((number, args)) = self.call.take() {
            self.after(number, &args, regs.rax.cast_signed());
        }
        Ok(None)
    }

    /// The call that is about to be made is not, and answers so.
    fn give(&mut self, mut regs: user_regs_struct, answer: i64) -> Result<()> {
        regs.orig_rax = u64::try_from(libc::SYS_getpid)?;
        ptrace::setregs(self.pid, regs)?;
        self.answer = Some(answer);
        Ok(())
    }

    fn before(
        &mut self,
        number: i64,
        args: &[u64; 6],
        regs: user_regs_struct,
    ) -> Result<Option<Stood>> {
        let tracee = Tracee { pid: self.pid };
        let quiet = self.until_closed.is_some();
        Ok(match number {
            libc::SYS_flock => {
                let waits = args[1] & u64::try_from(libc::LOCK_NB)? == 0;
                let Some(name) = self.lock_name(args[0]) else {
                    // What is kept back in the state directory is locked shared by all, and kept to the end.
                    if waits && !self.is_reserve(args[0]) {
                        self.until_closed = Some(args[0]);
                    }
                    return Ok(None);
                };
                self.taken = None;
                let stood_before = self.tries.take().is_some_and(|tries| tries == name);
                (!stood_before && !quiet).then_some(Stood::At(Point::Lock(name)))
            }
            libc::SYS_fcntl if args[1] == u64::try_from(libc::F_SETLK)? => {
                // struct flock: type and whence, 16 bits each, then the start at 8.
                let kind = tracee.word(args[2]).unwrap_or_default() & 0xffff;
                let start = tracee.word(args[2] + 8).unwrap_or_default().cast_signed();
                if start != WRITE_LOCK || !self.is_shm(args[0]) {
                    return Ok(None);
                }
                if kind != u64::try_from(libc::F_WRLCK)? {
                    self.changed = true;
                } else if !std::mem::replace(&mut self.turned_away, true) && !quiet {
                    // Turned away as by another writer, it holds no lock of SQLite's when it stops. (A lock
                    // that it found taken before was only tried.)
                    self.taken = None;
                    self.give(regs, -i64::from(libc::EAGAIN))?;
                } else {
                    self.turned_away = false;
                }
                None
            }
            libc::SYS_nanosleep | libc::SYS_clock_nanosleep => {
                if let Some(name) = self.taken.take() {
                    self.tries = Some(name.clone());
                    return Ok(Some(Stood::Waits(name)));
                }
                // The rest of that sleep.
                if self.tries.is_some() {
                    return Ok(None);
                }
                if self.turned_away && !quiet {
                    self.give(regs, 0)?;
                    return Ok(Some(Stood::At(Point::Commit)));
                }
                (!quiet).then_some(Stood::At(Point::Pause))
            }
            libc::SYS_futex if self.idles_at == Some(args[0]) && is_wait(args[1]) => {
                self.give(regs, 0)?;
                Some(Stood::Idle)
            }
            libc::SYS_close => {
                if self.until_closed == Some(args[0]) {
                    self.until_closed = None;
                }
                self.held.remove(&args[0]);
                self.servers.retain(|fd| *fd != args[0]);
                None
            }
            libc::SYS_connect => {
                // The family is in the first 16 bits.
                let family = tracee.word(args[1]).unwrap_or_default() & 0xffff;
                if family == u64::try_from(libc::AF_INET)? {
                    self.servers.push(args[0]);
                }
                None
            }
            libc::SYS_sendto if self.servers.contains(&args[0]) => {
                Some(Stood::At(Point::Net("a request")))
            }
            libc::SYS_wait4 => Some(Stood::At(Point::Net("a layer"))),
            _ => {
                let found = self.on_files(number, args);
                self.changed |= found.is_some();
                found.filter(|_| !quiet).map(|what| Stood::At(Point::Files(what)))
            }
        })
    }

    fn after(&mut self, number: i64, args: &[u64; 6], answer: i64) {
        if number != libc::SYS_flock {
            return;
        }
        let Some(name) = self.lock_name(args[0]) else { return };
        match answer {
            0 if args[1] & u64::from(libc::LOCK_UN.cast_unsigned()) != 0 => {
                self.held.remove(&args[0]);
            }
            0 => drop(self.held.insert(args[0], name)),
            _ => self.taken = Some(name),
        }
    }

    fn lock_name(&self, fd: u64) -> Option<String> {
        let path = Tracee { pid: self.pid }.fd(fd)?;
        let name = path.strip_prefix(self.state.join("locks")).ok()?;
        Some(name.to_string_lossy().into_owned())
    }

    fn is_reserve(&self, fd: u64) -> bool {
        let path = Tracee { pid: self.pid }.fd(fd);
        path.is_some_and(|path| path == self.state.join("reserve"))
    }

    fn is_shm(&self, fd: u64) -> bool {
        let path = Tracee { pid: self.pid }.fd(fd);
        path.is_some_and(|path| path.to_string_lossy().contains("registry.db-shm"))
    }

    /// What a call changes of the store, but for files inside of a volume, or of which file is the registry.
    fn on_files(&self, number: i64, args: &[u64; 6]) -> Option<String> {
        let (tracee, here) = (Tracee { pid: self.pid }, libc::AT_FDCWD.cast_unsigned().into());
        let made = u64::from((libc::O_CREAT | libc::O_TRUNC).cast_unsigned());
        let (name, path) = match number {
            libc::SYS_openat if args[2] & made != 0 => ("make", tracee.path(args[0], args[1])?),
            libc::SYS_mkdir => ("mkdir", tracee.path(here, args[0])?),
            libc::SYS_rmdir => ("rmdir", tracee.path(here, args[0])?),
            libc::SYS_unlink => ("unlink", tracee.path(here, args[0])?),
            libc::SYS_rename => ("rename to", tracee.path(here, args[1])?),
            libc::SYS_symlink => ("symlink", tracee.path(here, args[1])?),
            _ => return None,
        };
        let told = |path: &Path| format!("{name} {}", path.display());
        if let Ok(inside) = path.strip_prefix(&self.store) {
            let hidden = inside.file_name()?.to_string_lossy().starts_with('.');
            return (inside.components().count() <= 2 && !hidden).then(|| told(inside));
        }
        let inside = path.strip_prefix(&self.state).ok()?;
        let registry = inside.to_string_lossy().starts_with("registry.db");
        (registry && number == libc::SYS_rename).then(|| told(inside))
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if self.program.is_none() {
            // A thread goes with its process; one that is left goes on by itself.
            ptrace::detach(self.pid, None).ok();
        }
    }
}

fn is_wait(operation: u64) -> bool {
    let word = operation & u64::from(libc::FUTEX_CMD_MASK.cast_unsigned());
    word == u64::from(libc::FUTEX_WAIT.cast_unsigned())
        || word == u64::from(libc::FUTEX_WAIT_BITSET.cast_unsigned())
}

/// Kills what has not ended in this time, for who waits for them in vain.
#[derive(Debug)]
pub struct Watchdog {
    _alive: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    /// `pids` are asked for when the time is over.
    pub fn over(pids: std::sync::Arc<std::sync::Mutex<Vec<Pid>>>, bound: Duration) -> Watchdog {
        let (alive, gone) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            if gone.recv_timeout(bound) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let pids = pids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                for pid in pids.iter() {
                    eprintln!("hangs: {}", super::stands(*pid));
                    kill(*pid, Signal::SIGKILL).ok();
                }
            }
        });
        Watchdog { _alive: alive }
    }
}
