//! One call of the program: from its arguments to an exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use fetch::{Client, ImageRef, Kind, ObjectRef};
use nix::sys::signal::{SigSet, Signal};

use crate::cli::args::{self, Args, LATER, NEVER, expect, options, refuse_idle, usage};
use crate::cli::{kept, output};

/// Does what the arguments ask for.
pub(crate) fn run() -> ExitCode {
    let args = match args::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    // A file that may not be larger is then an error with its name, and not our death without a word.
    let mut file_size = SigSet::empty();
    file_size.add(Signal::SIGXFSZ);
    // Where that cannot be had, it is as it was.
    let _is_blocked = file_size.thread_block();
    kept::watch_signals(output::complain);
    match perform(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = exit_code(&error, args.etag.is_some() || args.size.is_some());
            if !is_broken_pipe(&error) {
                output::complain(&format!("fetch: fatal: {error:#}"));
            }
            if let Some(note) = kept::note() {
                output::complain(&note);
            }
            ExitCode::from(code)
        }
    }
}

fn perform(args: &Args) -> anyhow::Result<()> {
    if args.version {
        return output::line(&format!("fetch {}", env!("CARGO_PKG_VERSION")));
    }
    let Some(reference) = &args.reference else {
        return Err(usage("reference", "", "name an object, s3://bucket/key"));
    };
    let options = options(args)?;
    let client = Client::new(&options)?;
    refuse_idle(args)?;
    if args.list {
        let image: ImageRef = reference.parse()?;
        return output::list(&client, &image, args.all, args.json);
    }
    let object: ObjectRef = reference.parse()?;
    let expect = expect(args)?;
    let show = output::Show {
        quiet: args.quiet,
        json: args.json,
        to_terminal: args.output.as_deref() == Some(Path::new("-")),
    };
    let (out, spool) = match (output::Out::of(args.output.as_deref())?, &args.spool) {
        (output::Out::File(path), None) => {
            return output::to_file(&client, &object, &expect, &path, show);
        }
        (output::Out::File(_), Some(dir)) => {
            let dir = dir.display().to_string();
            let why = "cannot go with -o, which keeps its own partial file";
            return Err(usage("--spool", &dir, why));
        }
        (out, spool) => (out, spool.as_deref()),
    };
    // Without a digest nobody but the origin is asked.
    if !options.sources.is_empty() && expect.sha256.is_some() {
        return output::verified(&client, &object, &expect, spool, out, show);
    }
    output::as_it_comes(&client, &object, &expect, spool, out, show)
}

/// A pinned object that changed stays changed; an unpinned one is simply read anew.
fn exit_code(error: &anyhow::Error, pinned: bool) -> u8 {
    match output::kind(error) {
        Some(Kind::Changed) if pinned => NEVER,
        Some(Kind::Usage | Kind::NotFound | Kind::Denied | Kind::Refused | Kind::Digest) => NEVER,
        Some(Kind::Changed | Kind::Network | Kind::Throttled | Kind::Timeout | Kind::Io) | None => {
            LATER
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    match error.downcast_ref() {
        Some(fetch::Error::File { source, .. }) => broken(source),
        Some(_) => false,
        // A line of text that nobody reads.
        None => error.downcast_ref().is_some_and(broken),
    }
}
