//! One call of the program: from its arguments to an exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use fetch::image::RegistryRef;
use fetch::{Client, ImageRef, Kind, Locator};
use nix::sys::signal::{SigSet, Signal};

use crate::cli::args::{self, Args, LATER, NEVER, expect, options, refuse_idle, usage};
use crate::cli::{kept, output, remote};

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
    let client = match registry(args, reference)? {
        Some(at) => {
            let client = Client::registry(&options, &at)?;
            if args.list {
                return remote::list(&client, &at, args.json);
            }
            client
        }
        None => {
            let client = Client::new(&options)?;
            refuse_idle(args)?;
            if args.list {
                let image: ImageRef = reference.parse()?;
                return output::list(&client, &image, args.all, args.json);
            }
            client
        }
    };
    let object: Locator = reference.parse()?;
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
    let judged = expect.sha256.is_some() || matches!(object, Locator::Blob(_));
    if !options.sources.is_empty() && judged {
        return output::verified(&client, &object, &expect, spool, out, show);
    }
    output::as_it_comes(&client, &object, &expect, spool, out, show)
}

/// A reference to a registry, where it is one; what goes with buckets only is refused then.
fn registry(args: &Args, reference: &str) -> anyhow::Result<Option<RegistryRef>> {
    let Some(rest) = reference.strip_prefix("docker://") else { return Ok(None) };
    refuse_idle(args)?;
    args::refuse_of_buckets(args)?;
    if !args.list {
        // It says what is wrong with a reference to bytes.
        reference.parse::<Locator>()?;
    }
    Ok(Some(RegistryRef::parse(rest)?))
}

/// A pinned object that changed stays changed; an unpinned one is simply read anew.
fn exit_code(error: &anyhow::Error, pinned: bool) -> u8 {
    // A document of an image stays what it is.
    if error.downcast_ref::<fetch::image::Error>().is_some() {
        return NEVER;
    }
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
