//! `cancel` and SIGTERM at random moments of a pull, an apply, a scan, a verify and a gc, from good and from
//! hostile sources: how soon each is heard is a figure, and nothing is left behind. The long form is
//! `just soak-heard`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::dice::Dice;
use tests::guest::proxy::Spoil;
use tests::layer;

use crate::bench::{Bench, Host};

/// What no slow machine takes, and any wait that does not hear does.
const BOUND: Duration = Duration::from_secs(10);

/// Where the image comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Good,
    /// Answers begin, and do not go on.
    Stalls,
    /// A byte now and then.
    Drips,
    /// Nothing is ever answered.
    Silent,
}

struct Act {
    name: &'static str,
    before: &'static [&'static [&'static str]],
    words: &'static [&'static str],
    source: Source,
    /// Whether a scanner that does not end, and does not listen, is asked.
    scans: bool,
    /// Of which file another process holds the lock.
    lock: Option<&'static str>,
}

const A: &str = "s3://bucket/a/";
const SLOW: &str = "s3://bucket/slow/";
const PLAIN: Act = Act {
    name: "pull, good",
    before: &[],
    words: &["ensure", A],
    source: Source::Good,
    scans: false,
    lock: None,
};

const ACTS: &[Act] = &[
    PLAIN,
    Act { name: "pull, stalling", source: Source::Stalls, ..PLAIN },
    Act { name: "pull, dripping", source: Source::Drips, ..PLAIN },
    Act { name: "pull, silent", source: Source::Silent, ..PLAIN },
    Act { name: "apply, slow layer", words: &["ensure", SLOW], ..PLAIN },
    Act {
        name: "activate",
        before: &[&["ensure", SLOW]],
        words: &["activate", SLOW, "--name", "x"],
        ..PLAIN
    },
    Act { name: "scan", words: &["activate", A, "--name", "x"], scans: true, ..PLAIN },
    Act { name: "verify", before: &[&["ensure", SLOW]], words: &["verify"], ..PLAIN },
    Act { name: "gc", before: &[&["ensure", SLOW]], words: &["gc", "--keep-bytes", "0"], ..PLAIN },
    Act {
        name: "store's lock",
        words: &["ensure", A, "--wait", "600"],
        lock: Some("store.lock"),
        ..PLAIN
    },
    Act {
        name: "images' lock",
        words: &["ensure", A, "--wait", "600"],
        lock: Some("images.lock"),
        ..PLAIN
    },
];

/// Answers each request with the head of a listing and then nothing, or a byte now and then.
fn server(drips: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                drop(stream.read(&mut request));
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
                if drips && stream.write_all(head.as_bytes()).is_ok() {
                    while stream.write_all(b" ").is_ok() {
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
                // Until the other side has enough.
                while stream.read(&mut request).is_ok_and(|read| read > 0) {}
            });
        }
    });
    address
}

struct Yard {
    bench: Bench,
    silent: SocketAddr,
    drips: SocketAddr,
}

impl Yard {
    fn new() -> Yard {
        let bench = Bench::new(&[("a", &[1, 2, 3])], 120, 1 << 14);
        // Forty directories down, again and again.
        let deep = "d/".repeat(40);
        let entries: Vec<_> =
            (0..4000).map(|file| (format!("{deep}{}", file % 2000), vec![0; 8])).collect();
        bench.put("slow/1.tar", &layer::of(&entries));
        let scanner = bench.path("scanner");
        std::fs::write(&scanner, "#!/bin/sh\ntrap '' TERM INT\nwhile :; do sleep 1; done\n")
            .unwrap();
        std::fs::set_permissions(&scanner, std::fs::Permissions::from_mode(0o755)).unwrap();
        Yard { bench, silent: server(false), drips: server(true) }
    }

    fn command(&self, host: &Host<'_>, act: &Act) -> Command {
        let mut command = host.command(act.words);
        let other = match act.source {
            Source::Good | Source::Stalls => None,
            Source::Drips => Some(self.drips),
            Source::Silent => Some(self.silent),
        };
        if let Some(address) = other {
            let own = format!("http://{}", self.bench.proxy.address);
            let words: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
            let mut asked = Command::new(command.get_program());
            for (name, value) in command.get_envs() {
                asked.env(name, value.unwrap_or_default());
            }
            let url = format!("http://{address}");
            asked.args(
                words.into_iter().map(|word| if word == *own { url.clone().into() } else { word }),
            );
            command = asked;
        }
        if act.scans {
            let scanner = self.bench.path("scanner");
            command.env("VENEER_SCAN_COMMAND", format!("{} {{}}", scanner.display()));
            command.env("VENEER_SCAN_POLICY", "required");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// How long it takes to its end, but no longer than that.
fn waited(child: &mut Child, longest: Duration) -> Option<(Duration, std::process::ExitStatus)> {
    let begun = Instant::now();
    while begun.elapsed() < longest {
        if let Some(status) = child.try_wait().unwrap() {
            return Some((begun.elapsed(), status));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

/// What one moment came to.
enum Heard {
    /// It had ended before.
    Late,
    /// After so long; whether something was left to recovery.
    After(Duration, bool),
}

/// Begins the act, and stops it `after` so long: by a signal, or by `cancel`.
fn moment(yard: &Yard, start: &Host<'_>, act: &Act, after: Duration, by_signal: bool) -> Heard {
    let host = start.copy_to("host");
    if act.source == Source::Stalls {
        yard.bench.proxy.clear();
        yard.bench.proxy.spoil(0, true, Spoil::Stall(300));
    }
    let _held = act.lock.map(|name| {
        let path = host.state().join("locks");
        std::fs::create_dir_all(&path).unwrap();
        let mut options = std::fs::File::options();
        let lock = options.create(true).truncate(false).write(true).open(path.join(name)).unwrap();
        lock.lock().unwrap();
        lock
    });
    let mut child = yard.command(&host, act).spawn().unwrap();
    let told = format!("{}, {} ms in, by signal {by_signal}", act.name, after.as_millis());
    if waited(&mut child, after).is_some() {
        yard.bench.proxy.release();
        return Heard::Late;
    }
    let run = host.rows("SELECT id FROM runs WHERE state = 'running'").first().cloned();
    let mut canceller = None;
    let asked = Instant::now();
    match run {
        Some(run) if !by_signal => {
            let mut cancel = host.command(&["cancel", &run, "--wait", "0"]);
            cancel.stdout(Stdio::null()).stderr(Stdio::null());
            canceller = Some(cancel.spawn().unwrap());
        }
        // What is no run, or none yet, is stopped by a signal alone.
        Some(_) | None => {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
        }
    }
    let ended = waited(&mut child, BOUND);
    let took = asked.elapsed();
    let Some((_, status)) = ended else {
        let pid = child.id().to_string();
        let stack = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("{told}: not heard after {BOUND:?}, in {stack}");
    };
    yard.bench.proxy.release();
    drop(_held);
    if let Some(mut canceller) = canceller {
        canceller.wait().unwrap();
    }
    // Before it blocks the signal it is ended by it.
    let good =
        matches!(status.code(), Some(111 | 0)) || status.signal() == Some(Signal::SIGTERM as i32);
    assert!(good || act.words[0] == "gc" && status.code() == Some(1), "{told}: {status}");
    let open = host.rows("SELECT state FROM runs WHERE finished_ms IS NULL");
    assert!(open.is_empty() || status.signal().is_some() || act.lock.is_some(), "{told}: {open:?}");
    if !host.state().join("registry.db").exists() {
        return Heard::After(took, false);
    }
    let plan = host.command(&["recover", "--dry-run"]).output().unwrap();
    let left = !String::from_utf8_lossy(&plan.stdout).contains("\"repairs\":[]");
    host.command(&["recover"]).output().unwrap();
    host.check();
    Heard::After(took, left)
}

#[test]
fn a_wish_to_stop_is_heard_at_any_moment() {
    let number =
        |name: &str, usual: u64| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    let (moments, seed) = (number("VENEER_MOMENTS", 1), number("VENEER_SEED", 1));
    let yard = Yard::new();
    let mut dice = Dice::new(seed);
    let mut figures = BTreeMap::new();
    for act in ACTS {
        let start = yard.bench.host("start");
        start.wipe();
        std::fs::create_dir_all(&start.dir).unwrap();
        for words in act.before {
            start.ok(words);
        }
        // How long it takes when nobody stops it, as far as it ends.
        let whole = start.copy_to("host");
        let ends = act.source == Source::Good && !act.scans && act.lock.is_none();
        let length = match ends {
            true => {
                let mut child = yard.command(&whole, act).spawn().unwrap();
                waited(&mut child, Duration::from_secs(600)).expect("an end").0
            }
            false => Duration::from_millis(1500),
        };
        let line = figures.entry(act.name).or_insert_with(|| (Vec::new(), 0, 0));
        for _ in 0..moments {
            for by_signal in [true, false] {
                let after = Duration::from_micros(
                    dice.roll(u64::try_from(length.as_micros()).unwrap().max(1)),
                );
                match moment(&yard, &start, act, after, by_signal) {
                    Heard::Late => line.1 += 1,
                    Heard::After(took, left) => {
                        line.0.push(took);
                        line.2 += usize::from(left);
                    }
                }
            }
        }
    }
    for (name, (mut times, late, left)) in figures {
        times.sort();
        let ms = |at: usize| times.get(at).map_or(0, Duration::as_millis);
        let (count, median, most) = (times.len(), ms(times.len() / 2), ms(times.len().max(1) - 1));
        let slow = times.iter().filter(|time| time.as_millis() > 1000).count();
        eprintln!(
            "{name:<20} {count:>4} heard, median {median:>4} ms, most {most:>5} ms, {slow} over 1 s; {late} had \
             ended; {left} left something to recovery"
        );
    }
}
