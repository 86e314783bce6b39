//! From arguments to an exit code.

pub(crate) mod args;
pub(crate) mod care;
pub(crate) mod pool_args;
pub(crate) mod pools;
pub(crate) mod report;
pub(crate) mod sizes;
pub(crate) mod volumes;

use std::io::{self, Write};
use std::process::ExitCode;

use argh::FromArgs;
use thin::{Dm, Error, Kind, Pool};

use crate::cli::args::{Top, Verb};
use crate::cli::report::Report;

/// Done, or yes.
const DONE: u8 = 0;
/// Never worth a second try.
const NEVER: u8 = 100;
/// Worth one later.
const LATER: u8 = 111;

/// What every verb gets.
#[derive(Debug)]
pub(crate) struct Context {
    pool: String,
    wait: Option<u64>,
    json: bool,
}

impl Context {
    fn pool(&self) -> Result<Pool, Error> {
        let pool = Pool::adopt(Dm::open()?, &self.pool)?.with_notes(&thin::notes::dir(), "thin");
        Ok(match self.wait {
            Some(ms) => pool.with_remove_wait(std::time::Duration::from_millis(ms)),
            None => pool,
        })
    }
}

/// How a verb ended well.
enum Done {
    /// With something to print.
    Report(Report),
    /// With another program's exit code.
    Exit(u8),
}

pub(crate) fn run() -> ExitCode {
    let words: Vec<String> = match std::env::args_os().map(|w| w.into_string()).collect() {
        Ok(words) => words,
        Err(word) => return usage(&format!("argument {word:?} is not UTF-8")),
    };
    let words = words.iter().map(|word| if word == "-h" { "--help" } else { word.as_str() });
    let words: Vec<&str> = words.collect();
    let (program, rest) = words.split_first().map_or(("thin", &[][..]), |(p, r)| (*p, r));
    let program = program.rsplit('/').next().unwrap_or(program);
    let top = match Top::from_args(&[program], &args::hoist(rest)) {
        Ok(top) => top,
        Err(early) if early.status.is_ok() => return print(&early.output, DONE),
        Err(early) => return usage(&brief(&early.output)),
    };
    if top.version {
        return print(&format!("thin {}\n", env!("CARGO_PKG_VERSION")), DONE);
    }
    let Some(verb) = top.verb else {
        return usage("no command given: try `thin --help`");
    };
    let from_env = || std::env::var("VENEER_POOL").ok().filter(|name| !name.is_empty());
    let wait = match top.wait_ms.map_or_else(wait_from_env, |ms| Ok(Some(ms))) {
        Ok(wait) => wait,
        Err(text) => return usage(&text),
    };
    let context = Context {
        pool: top.pool.or_else(from_env).unwrap_or_else(|| "veneer".to_owned()),
        wait,
        json: top.json,
    };
    match perform(&context, verb) {
        Ok(Done::Exit(code)) => ExitCode::from(code),
        Ok(Done::Report(report)) => {
            let text = if top.json { report.json() } else { report.text() };
            let text = if top.quiet && !top.json { String::new() } else { text };
            if top.verbose {
                eprintln!("thin: {} device-mapper ioctls", Dm::ioctls());
            }
            print(&text, report.exit())
        }
        Err(err) => {
            eprintln!("thin: fatal: {err}");
            ExitCode::from(exit_code(&err))
        }
    }
}

fn wait_from_env() -> Result<Option<u64>, String> {
    match std::env::var("VENEER_REMOVE_WAIT_MS") {
        Ok(text) if !text.is_empty() => text.parse().map(Some).map_err(|_| {
            format!("VENEER_REMOVE_WAIT_MS={:?}: not a number of milliseconds", brief(&text))
        }),
        Ok(_) | Err(_) => Ok(None),
    }
}

fn perform(context: &Context, verb: Verb) -> Result<Done, Error> {
    match verb {
        Verb::Pool(pool) => pools::perform(context, pool.verb).map(Done::Report),
        Verb::Ls(_) => volumes::list(context).map(Done::Report),
        Verb::Create(verb) => volumes::create(context, &verb).map(Done::Report),
        Verb::Snap(verb) => volumes::snap(context, &verb).map(Done::Report),
        Verb::Delete(verb) => volumes::delete(context, &verb).map(Done::Report),
        Verb::Exists(verb) => volumes::exists(context, &verb).map(Done::Report),
        Verb::Activate(verb) => volumes::activate(context, &verb).map(Done::Report),
        Verb::Look(verb) => volumes::look(context, &verb).map(Done::Report),
        Verb::Deactivate(verb) => volumes::deactivate(context, &verb).map(Done::Report),
        Verb::Grow(verb) => volumes::grow(context, &verb).map(Done::Report),
        Verb::Usage(_) => volumes::usage(context).map(Done::Report),
        Verb::Format(verb) => volumes::format(context, verb).map(Done::Report),
        Verb::Transaction(verb) => volumes::transaction(context, &verb).map(Done::Report),
        Verb::Run(verb) => volumes::run(context, &verb).map(Done::Exit),
        Verb::Rescue(verb) => care::rescue(context, &verb).map(Done::Report),
        Verb::Watch(verb) => care::watch(context, &verb).map(Done::Report),
        Verb::Room(verb) => care::room(context, &verb).map(Done::Report),
        Verb::Doctor(verb) => care::doctor(&verb).map(Done::Report),
        Verb::Loop(verb) => volumes::loops(&verb).map(Done::Report),
    }
}

/// Kept beside the text in `--help`.
fn exit_code(err: &Error) -> u8 {
    match err.kind() {
        // One that is not installed will not be there the next time either.
        Kind::Program if matches!(err, Error::NoProgram { .. }) => NEVER,
        Kind::Busy | Kind::NoSpace | Kind::Program | Kind::Io => LATER,
        Kind::Exists
        | Kind::Absent
        | Kind::NeedsCheck
        | Kind::ReadOnly
        | Kind::Failed
        | Kind::Denied
        | Kind::NoDeviceMapper
        | Kind::PoolMissing
        | Kind::Invalid
        | Kind::Refused => NEVER,
    }
}

/// argh quotes whole what it was given.
fn brief(said: &str) -> String {
    let cut = |word: &str| word.chars().take(WORD_MAX).map(visible).collect::<String>();
    said.trim_end().split(' ').map(cut).collect::<Vec<_>>().join(" ")
}

/// A character that somebody typed: a terminal shall not obey it.
fn visible(c: char) -> String {
    match c.is_control() && c != '\n' {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    }
}

/// Characters of a word from outside that are shown.
const WORD_MAX: usize = 200;

fn usage(text: &str) -> ExitCode {
    eprintln!("thin: fatal: {text}");
    ExitCode::from(NEVER)
}

/// A reader that has gone away is no failure of ours.
fn print(text: &str, code: u8) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(code),
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(code),
        Err(err) => {
            eprintln!("thin: fatal: write to stdout: {err}");
            ExitCode::from(LATER)
        }
    }
}
