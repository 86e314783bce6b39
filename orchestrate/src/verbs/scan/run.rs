//! Runs a scanner over a tree and takes what it prints: within a time, within so many bytes, and with
//! nothing of it left behind, whatever it does.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::Error;
use crate::process::cancel::Cancel;
use crate::store::seam::Tree;
use crate::trust::report::{self, Report};
use crate::trust::scan::{Failure, PATH, Policy};
use crate::verbs::scan::child::OUTER;

/// Of the scanner's last words, bytes that are told.
const WORDS_BYTES_MAX: usize = 600;

/// How often a wish to stop is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// How long the kernel may take to end what was killed.
const END: Duration = Duration::from_secs(30);

/// Which of its two streams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Out,
    Err,
}

enum Message {
    Bytes(From, Vec<u8>),
    End,
}

/// Scans `tree`, which the scanner sees at `target`.
pub(super) fn run(
    policy: &Policy,
    tree: Tree<'_>,
    target: &Path,
    cancel: &Cancel,
) -> Result<Report, Error> {
    let (out, err, status) = ran(policy, tree, target, cancel)?;
    let words = String::from_utf8_lossy(&err).trim().to_owned();
    let code = status.code();
    let report = report::parse(&out)
        .map_err(|why| Error::Scan(Failure::NoReport { why, code, words: words.clone() }))?;
    let listed = &policy.exit_codes;
    match code.is_some_and(|code| listed.iter().any(|listed| i32::from(*listed) == code)) {
        true => Ok(report),
        // Whatever it printed, it may have been cut short.
        false => Err(Error::Scan(Failure::Code { code, listed: listed.clone(), words })),
    }
}

/// What the scanner says of itself, by a program that runs as the scanner does.
pub(super) fn about(
    policy: &Policy,
    tree: Tree<'_>,
    target: &Path,
    cancel: &Cancel,
) -> Result<report::About, Error> {
    let policy = Policy { command: policy.about.clone(), ..policy.clone() };
    let (out, err, status) = ran(&policy, tree, target, cancel)?;
    match status.success() {
        true => Ok(report::about(&out)),
        false => {
            let words = String::from_utf8_lossy(&err).trim().to_owned();
            let why = "scan.about did not work".to_owned();
            Err(Error::Scan(Failure::NoReport { why, code: status.code(), words }))
        }
    }
}

/// All of stdout and the end of stderr, and how it ended.
fn ran(
    policy: &Policy,
    tree: Tree<'_>,
    target: &Path,
    cancel: &Cancel,
) -> Result<(Vec<u8>, Vec<u8>, ExitStatus), Error> {
    let mut child = start(policy, tree, target).map_err(Error::Scan)?;
    let (to, from) = channel();
    let readers = [
        child.stdout.take().map(|pipe| read(pipe, From::Out, to.clone())),
        child.stderr.take().map(|pipe| read(pipe, From::Err, to)),
    ];
    let begun = Instant::now();
    let heard = listen(policy, &from, readers.len(), begun, cancel);
    let heard = heard.and_then(|heard| ends(&mut child, policy, begun, cancel).map(|()| heard));
    let status = stop(&mut child).map_err(|error| Error::Scan(Failure::Start(error)))?;
    let (out, err) = heard?;
    Ok((out, err, status))
}

fn start(policy: &Policy, tree: Tree<'_>, target: &Path) -> Result<Child, Failure> {
    let Some((program, args)) = policy.command.split_first() else { return Err(Failure::None) };
    let place = target.to_string_lossy();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(OUTER).process_group(0).env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    let network = if policy.network { "yes" } else { "no" };
    command.args([policy.walls.word(), network]).arg(&policy.cache);
    match tree {
        Tree::Mount(mount) => {
            let mount = mount.try_clone_to_owned().map_err(Failure::Start)?;
            command.stdin(mount).arg("-");
        }
        Tree::Directory(path) => {
            command.stdin(Stdio::null()).arg(path);
        }
    }
    command.arg(target).arg(policy.memory_max.to_string()).arg(policy.timeout_s.to_string());
    command.arg(program).args(args.iter().map(|arg| arg.replace("{}", &place)));
    // What a program needs to find others; nothing of ours, which may hold keys.
    command.env("PATH", PATH);
    command.env("LANG", "C.UTF-8");
    // The one place that it may write; what follows the XDG's rules needs not be told more.
    command.env("XDG_CACHE_HOME", &policy.cache).env("TMPDIR", policy.cache.join("tmp"));
    for name in ["HOME", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.spawn().map_err(Failure::Start)
}

fn read(mut pipe: impl Read + Send + 'static, which: From, to: Sender<Message>) {
    thread::spawn(move || {
        loop {
            let mut chunk = vec![0; 64 << 10];
            match pipe.read(&mut chunk) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                Err(_) => {}
                Ok(n) => {
                    chunk.truncate(n);
                    if to.send(Message::Bytes(which, chunk)).is_err() {
                        return;
                    }
                }
            }
        }
        // Nobody may listen any more.
        drop(to.send(Message::End));
    });
}

/// All of stdout and the end of stderr, when both streams have ended.
fn listen(
    policy: &Policy,
    from: &Receiver<Message>,
    streams: usize,
    begun: Instant,
    cancel: &Cancel,
) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let (mut out, mut err, mut total, mut ended) = (Vec::new(), Vec::new(), 0, 0);
    while ended < streams {
        cancel.check()?;
        let rest = rest(policy, begun)?;
        match from.recv_timeout(rest.min(LOOK)) {
            Ok(Message::Bytes(which, bytes)) => {
                total += bytes.len() as u64;
                if total > policy.output_max {
                    return Err(Error::Scan(Failure::Flood { bytes: policy.output_max }));
                }
                match which {
                    From::Out => out.extend(bytes),
                    From::Err => {
                        err.extend(bytes);
                        err.drain(..err.len().saturating_sub(WORDS_BYTES_MAX));
                    }
                }
            }
            Ok(Message::End) => ended += 1,
            Err(_) => {}
        }
    }
    Ok((out, err))
}

/// The time that is left.
fn rest(policy: &Policy, begun: Instant) -> Result<Duration, Error> {
    let rest = Duration::from_secs(policy.timeout_s).saturating_sub(begun.elapsed());
    match rest.is_zero() {
        true => Err(Error::Scan(Failure::Time { seconds: policy.timeout_s })),
        false => Ok(rest),
    }
}

/// Waits for the end of a scanner that has closed its streams.
fn ends(child: &mut Child, policy: &Policy, begun: Instant, cancel: &Cancel) -> Result<(), Error> {
    let mut pause = Duration::from_millis(1);
    loop {
        let ended = child.try_wait().map_err(|error| Error::Scan(Failure::Start(error)))?;
        if ended.is_some() {
            return Ok(());
        }
        cancel.check()?;
        thread::sleep(pause.min(rest(policy, begun)?));
        pause = (pause * 2).min(LOOK);
    }
}

/// Has the outer process end the namespace, and so whatever the scanner has started: it ends after them.
fn stop(child: &mut Child) -> io::Result<ExitStatus> {
    let begun = Instant::now();
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if !asked {
            let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
            // It may have ended just now.
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
            asked = true;
        }
        if begun.elapsed() > END {
            child.kill()?;
            return child.wait();
        }
        thread::sleep(Duration::from_millis(2));
    }
}
