//! `top`: what `serve` shows on its page, in a terminal, until q. The terminal and the clock are here,
//! what a frame looks like is in `frame`.

pub(crate) mod frame;

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices, Termios};
use orchestrate::config::Config;
use orchestrate::serve::Client;
use orchestrate::{Error, Host, Settings, Verbs, terminal_size};

use crate::cli::route;
use crate::cli::top::frame::{Facts, frame};

/// How often the facts are asked for.
const TICK: Duration = Duration::from_secs(1);

/// How long a listing is good while no event comes.
const LISTING_AGE: Duration = Duration::from_secs(30);

/// Events that are kept.
const EVENTS: usize = 200;

/// A read of keys waits for so many tenths of a second.
const KEY_TENTHS: u8 = 2;

/// What Ctrl-C sends where it is no signal.
const CTRL_C: u8 = 3;

/// Draws until q, Ctrl-C or a signal.
pub(crate) fn top(
    config: &Config,
    settings: &Settings,
    no_daemon: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let refuse = |why: &str| {
        Error::Usage(format!("top: {why}; `--json df`, `runs` and `events` give the same"))
    };
    if json {
        return Err(refuse("draws, and has no JSON").into());
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(refuse("stdin or stdout is no terminal").into());
    }
    // One answer is not waited for longer than for the next.
    let settings = Settings { wait: TICK, talk: 0, ..settings.clone() };
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let screen = Screen::open()?;
    let mut watch = Watch::new(config, &settings, no_daemon);
    let (mut asked, mut drawn) = (None::<Instant>, None);
    while !settings.cancel.is_set() {
        let size = terminal_size(io::stdout().as_fd())?;
        if asked.is_none_or(|asked| asked.elapsed() >= TICK) {
            watch.look();
            (asked, drawn) = (Some(Instant::now()), None);
        }
        if drawn != Some(size) {
            screen.draw(&watch.facts, size, colours)?;
            drawn = Some(size);
        }
        let mut keys = [0; 16];
        let read = io::stdin().read(&mut keys)?;
        if keys[..read].iter().any(|key| matches!(key, b'q' | b'Q' | &CTRL_C)) {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The terminal while it is ours: another screen, keys as they are typed. Given back when dropped.
struct Screen {
    before: Termios,
}

impl Screen {
    fn open() -> io::Result<Screen> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut ours = before.clone();
        ours.local_flags &= !(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG);
        // A read gives what there is, or nothing after a while (termios(3), MIN == 0, TIME > 0).
        ours.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
        ours.control_chars[SpecialCharacterIndices::VTIME as usize] = KEY_TENTHS;
        termios::tcsetattr(&stdin, SetArg::TCSAFLUSH, &ours)?;
        let screen = Screen { before };
        // Another screen, without a cursor (xterm's control sequences, 1049 and 25).
        put("\x1b[?1049h\x1b[?25l\x1b[2J")?;
        Ok(screen)
    }

    fn draw(&self, facts: &Facts, (width, height): (u16, u16), colours: bool) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (at, line) in frame(facts, height.into()).iter().enumerate() {
            // No line end after the last: it would scroll.
            text.push_str(if at > 0 { "\r\n" } else { "" });
            text.push_str(&line.text(width.into(), colours));
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        put(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Whoever took the terminal away needs neither.
        drop(put("\x1b[?25h\x1b[?1049l"));
        termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.before).unwrap_or_default();
    }
}

fn put(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Who is asked.
enum Source {
    Daemon(Box<Client>),
    Here(Box<Host>),
}

impl Source {
    fn verbs(&mut self) -> &mut dyn Verbs {
        match self {
            Source::Daemon(client) => client.as_mut(),
            Source::Here(host) => host.as_mut(),
        }
    }
}

/// The facts, and what it takes to keep them fresh.
struct Watch<'a> {
    config: &'a Config,
    settings: &'a Settings,
    no_daemon: bool,
    source: Option<Source>,
    seq: u64,
    listed: Option<Instant>,
    facts: Facts,
}

impl<'a> Watch<'a> {
    fn new(config: &'a Config, settings: &'a Settings, no_daemon: bool) -> Watch<'a> {
        let facts = Facts::default();
        Watch { config, settings, no_daemon, source: None, seq: 0, listed: None, facts }
    }

    /// Asks for everything that may have changed. What cannot be had leaves the old and says why.
    fn look(&mut self) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.facts.now_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let looked = self.try_look();
        if looked.is_err() {
            // A daemon that has gone may have left the work to this process, or to another daemon.
            (self.source, self.listed) = (None, None);
        }
        self.facts.trouble = looked.err().map(|error| orchestrate::whole(&error));
    }

    fn try_look(&mut self) -> Result<(), Error> {
        if self.source.is_none() {
            let daemon = match self.no_daemon {
                true => None,
                false => route::any(self.config, self.settings),
            };
            self.source = Some(match daemon {
                Some(client) => Source::Daemon(Box::new(client)),
                None => Source::Here(Box::new(Host::open(self.settings.clone())?)),
            });
        }
        let Some(source) = &mut self.source else { return Ok(()) };
        let facts = &mut self.facts;
        match source {
            Source::Daemon(client) => {
                let readiness = client.readiness()?;
                let mode = readiness.mode.unwrap_or_default();
                facts.head = readiness.why.map_or(mode.clone(), |why| format!("{mode}: {why}"));
                facts.checks = readiness.checks;
            }
            Source::Here(host) => {
                // It looks for as long as somebody has it on a screen.
                host.only_looks();
                host.look_again()?;
                facts.head = "no daemon".into();
            }
        }
        loop {
            let found = source.verbs().events(None, self.seq, Duration::ZERO)?;
            let Some(last) = found.last() else { break };
            self.seq = last.seq;
            self.listed = None;
            facts.events.splice(0..0, found.into_iter().rev().take(EVENTS));
            facts.events.truncate(EVENTS);
        }
        facts.runs = source.verbs().runs(false)?;
        facts.store = Some(match source {
            Source::Daemon(client) => client.condition()?,
            Source::Here(host) => host.store().condition()?,
        });
        if self.listed.is_none_or(|listed| listed.elapsed() >= LISTING_AGE) {
            facts.listing = Some(source.verbs().list()?);
            self.listed = Some(Instant::now());
        }
        Ok(())
    }
}
