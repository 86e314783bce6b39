//! One call of the program: from its arguments to an exit code.

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use argh::{FromArgs as _, SubCommands as _};
use orchestrate::config::Config;
use orchestrate::log::{self, Level, Log};
use orchestrate::{
    Bound, Class, Error, Going, Host, Now, RebuildOptions, Settings, Verbs, class, full, quoted,
    reference, reserve,
};
use registry::{RunId, RunState, VolumeId};
use serde_json::json;

use crate::cli::args::{self, Args};
use crate::cli::before::settle;
use crate::cli::commands::{self, Activate, Command};
use crate::cli::say::{output, say};
use crate::cli::way::By;
use crate::cli::{
    disks, document, export, handover, naming, print, push, route, show, signals, top, travel,
};

/// Does what the arguments ask for.
pub(crate) fn run() -> ExitCode {
    let words: Option<Vec<String>> =
        std::env::args_os().skip(1).map(|word| word.into_string().ok()).collect();
    let Some(words) = words else {
        eprintln!("orchestrate: fatal: an argument is not UTF-8");
        return ExitCode::from(100);
    };
    let args = match Args::from_args(&["orchestrate"], &args::hoist(&words)) {
        Ok(args) => args,
        Err(exit) if exit.status.is_ok() => {
            return finish(say(&exit.output).map(|()| ExitCode::SUCCESS), false);
        }
        Err(exit) => {
            let said = exit.output.split_whitespace().map(cut).collect::<Vec<_>>().join(" ");
            eprintln!("orchestrate: fatal: {said}; see orchestrate --help");
            return ExitCode::from(100);
        }
    };
    let json = args.json;
    finish(answer(args), json)
}

/// A word of argh's, which quotes what it was given whole.
fn cut(word: &str) -> String {
    // A terminal shall show what was typed, and not obey it.
    let plain = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    word.chars().take(WORD_MAX).map(plain).collect()
}

/// Characters of a word that are shown.
const WORD_MAX: usize = 200;

fn finish(outcome: anyhow::Result<ExitCode>, json: bool) -> ExitCode {
    let error = match outcome {
        Ok(code) => return code,
        Err(error) => error,
    };
    let broken_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error.downcast_ref::<io::Error>().is_some_and(broken_pipe) {
        return ExitCode::SUCCESS;
    }
    let class = error.downcast_ref::<Error>().map(class);
    let message = whole(&error);
    let word = class.map_or("usage", |class| class.word());
    log::line(Level::Error, &message, &[("class", word.into())]);
    if json {
        let line = json!({"error": {"class": word, "message": message}});
        // The exit code says it as well; a closed stdout changes nothing.
        drop(say(&log::harmless(format!("{line}\n"))));
    }
    ExitCode::from(class.map_or(100, |class| class.exit_code()))
}

/// The error and its causes; a cause that the text before it names already is not said twice.
fn whole(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        match text.is_empty() {
            true => cause,
            false if text.contains(&cause) => text,
            false => format!("{text}: {cause}"),
        }
    })
}

fn answer(args: Args) -> anyhow::Result<ExitCode> {
    if args.version {
        say(concat!("orchestrate ", env!("CARGO_PKG_VERSION"), "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (config, json) = (config(&args)?, args.json);
    let form = match (config.text("log").and_then(log::Form::from_word), &args.command) {
        (Some(form), _) => form,
        (None, Some(Command::Serve(_))) => log::Form::Logfmt,
        (None, _) => log::Form::default(),
    };
    log::set(Log::of_stderr(form));
    let mut settings = config.settings()?;
    settings.talk = match (args.quiet, args.verbose) {
        (true, _) => 0,
        (false, false) => 1,
        (false, true) => 2,
    };
    settings.new = args.new;
    // A daemon that has refused a store does not hear of it.
    let no_daemon = args.no_daemon || args.new;
    let (flags, named) = (args.flags(), config_file(&args));
    let (state, places) = (settings.state.clone(), settings.places());
    let done = run_in(args, config, settings, no_daemon, (flags, named), json);
    let done = done.map_err(|error| match error.downcast::<Error>() {
        Ok(error) => full::told(error, &places).into(),
        Err(error) => error,
    });
    if let (Ok(_), Some(what)) = (&done, reserve::lacks(&state)) {
        let line = format!(
            "the state directory is full: the file system of {} has hardly any {what} left",
            state.display()
        );
        log::line(Level::Warning, &line, &[]);
    }
    done
}

/// With the settings that it is to be done with.
fn run_in(
    args: Args,
    config: Config,
    settings: Settings,
    no_daemon: bool,
    (flags, named): (orchestrate::config::Flags, Option<PathBuf>),
    json: bool,
) -> anyhow::Result<ExitCode> {
    let Some(mut command) = args.command else {
        let names: Vec<&str> = Command::COMMANDS.iter().map(|info| info.name).collect();
        return Err(anyhow!("which command? {}; see orchestrate --help", names.join(", ")));
    };
    // References and names are judged before anything is opened or made.
    settle(&mut command)?;
    match &command {
        Command::Activate(args) => {
            orchestrate::check_name(&args.name)?;
            handover::give(args, &settings)?;
        }
        Command::Export(args) => export::check(args)?,
        Command::Send(args) => travel::check_send(args)?,
        Command::Receive(args) => travel::check_receive(args)?,
        Command::Gc(args) => {
            bound(args)?;
            purge(args)?;
        }
        Command::Ttl(args) => drop(naming::time(args)?),
        Command::Rename(args) => orchestrate::check_name(&args.new)?,
        Command::Quarantine(args) => drop(args.release.as_deref().map(digest).transpose()?),
        Command::Rebuild(args) => return rebuild(settings, args, json),
        Command::Config(args) if args.sample => {
            return say(&orchestrate::config::sample()).map(|()| ExitCode::SUCCESS);
        }
        Command::Config(_) => return show::config(&config, json),
        Command::Serve(_) => {
            let again = move || Config::load(&flags, named.as_deref());
            return route::serve(&config, settings.new, again);
        }
        Command::Health(_) => return route::health(&config, &settings, json),
        Command::Doctor(_) => return route::doctor(&config, &settings, json),
        Command::Metrics(_) => return show::metrics(settings, config.settings()?),
        Command::Fleet(args) => {
            return document::fleet(&config, settings, args, no_daemon, json);
        }
        Command::Push(args) => {
            signals::stop_by(settings.cancel.clone())?;
            return push::push(&settings, args, json);
        }
        Command::Top(_) => {
            signals::stop_by(settings.cancel.clone())?;
            return top::top(&config, &settings, no_daemon, json);
        }
        Command::Ensure(_)
        | Command::Deactivate(_)
        | Command::Bundle(_)
        | Command::Mount(_)
        | Command::Umount(_)
        | Command::Ls(_)
        | Command::Show(_)
        | Command::Rm(_)
        | Command::Recover(_)
        | Command::Df(_)
        | Command::Pin(_)
        | Command::Unpin(_)
        | Command::Verify(_)
        | Command::Checked(_)
        | Command::Label(_)
        | Command::Who(_)
        | Command::Scan(_)
        | Command::Catalog(_)
        | Command::Runs(_)
        | Command::Events(_)
        | Command::Resize(_)
        | Command::Fork(_)
        | Command::Snapshot(_)
        | Command::Restore(_)
        | Command::Points(_)
        | Command::Cancel(_) => {}
    }
    signals::stop_by(settings.cancel.clone())?;
    if let Command::Deactivate(args) = &command {
        handover::before(args, &settings)?;
    }
    let way = command.way();
    if !no_daemon
        && way.by == By::Daemon
        && let Some(mut daemon) = route::daemon(&config, &settings, &command)
    {
        handover::before_daemon(&mut daemon, &command, &settings)?;
        return perform(&mut daemon, command, &settings, json);
    }
    if way.mends_first && !way.makes_room {
        reserve::spare(&settings.state)?;
    }
    let _room = way.makes_room.then(|| reserve::give_up(&settings.state)).flatten();
    let mut host = Host::open(settings.clone())?;
    host.makes_nodes();
    if let Command::Activate(args) = &command
        && !args.dry_run
    {
        host.ask_catalog_for(&args.name);
    }
    if way.mends_first {
        host.recover(false)?;
    }
    if let Command::Ensure(commands::Ensure { image, .. })
    | Command::Activate(Activate { image, .. }) = &mut command
    {
        let standard = io::stdin().as_fd().try_clone_to_owned()?;
        *image = host.take_in(&reference(image)?, standard.into())?.to_string();
    }
    match command {
        Command::Recover(args) => recover(&mut host, &args, json),
        Command::Verify(args) => verify(&mut host, &args, json),
        Command::Scan(args) => scan(&mut host, &args, json),
        Command::Catalog(args) => show::catalog(&mut host, &args, json),
        Command::Quarantine(args) => quarantine(&mut host, &args, json),
        Command::Checked(args) => checked(&mut host, &args.name, json),
        Command::Who(args) => naming::who(&host, &args, json),
        Command::Export(args) => export::export(&mut host, &args, settings.talk > 0, json),
        Command::Send(args) => travel::send(&mut host, &args, settings.talk > 0, json),
        Command::Receive(args) => travel::receive(&mut host, &args, json),
        Command::Bundle(args) => handover::bundle(&mut host, args, json),
        Command::Mount(args) => handover::mount(&mut host, &args, json),
        Command::Umount(args) => handover::unmount(&mut host, &args, json),
        Command::Show(args) if handover::is_of_the_image(&args) => handover::show(&mut host, &args),
        command => {
            let done = perform(&mut host, command, &settings, json);
            host.let_archive_go(done.as_ref().err().and_then(|error| error.downcast_ref()));
            done
        }
    }
}

/// What this process and a daemon can do alike.
fn perform(
    host: &mut dyn Verbs,
    command: Command,
    settings: &Settings,
    json: bool,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ensure(args) => {
            let done = host.ensure(&reference(&args.image)?, args.dry_run)?;
            output(json, &done, print::ensured)
        }
        Command::Activate(args) => handover::activate(host, args, settings, json),
        Command::Deactivate(args) => {
            let how = Going { when_closed: args.when_closed, dry_run: args.dry_run };
            let done = host.deactivate(&args.name, how)?;
            output(json, &done, print::deactivated)
        }
        Command::Ls(args) => {
            let mut listing = host.list()?;
            listing.only(&args.label);
            output(json, &listing, print::listing)
        }
        Command::Label(args) => naming::label(host, args, json),
        Command::Ttl(args) => naming::ttl(host, &args, json),
        Command::Rename(args) => naming::rename(host, &args, json),
        Command::Show(args) => show::subject(host, &args.subject, json),
        Command::Rm(args) => {
            let how = Going { when_closed: args.when_closed, dry_run: args.dry_run };
            let done = host.remove(&args.subject, how)?;
            output(json, &done, print::removed)
        }
        Command::Gc(args) => {
            let purge = purge(&args)?;
            let list = purge.as_ref().is_some_and(Vec::is_empty);
            let done = host.gc(bound(&args)?, &purge.unwrap_or_default(), args.dry_run || list)?;
            output(
                json,
                &done,
                if list { print::space::foreign } else { print::space::collected },
            )?;
            Ok(if list || done.whole() { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        Command::Df(_) => output(json, &host.usage()?, print::space::usage),
        Command::Resize(args) => disks::resize(host, &args, json),
        Command::Fork(args) => disks::fork(host, &args, json),
        Command::Snapshot(args) => disks::snapshot(host, &args, json),
        Command::Restore(args) => disks::restore(host, &args, json),
        Command::Points(args) => disks::points(host, &args, json),
        Command::Pin(args) => pin(host, &args.image, true, json),
        Command::Unpin(args) => pin(host, &args.image, false, json),
        Command::Runs(args) => show::runs(host, args.all, json),
        Command::Events(args) => show::events(host, &args, json),
        Command::Cancel(args) => {
            let run = host.cancel(RunId::new(args.run.0), "orchestrate cancel")?;
            let cancelled = run.state == RunState::Cancelled;
            output(json, &run, |run| print::run(run, false))?;
            Ok(if cancelled { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        Command::Recover(_)
        | Command::Export(_)
        | Command::Send(_)
        | Command::Receive(_)
        | Command::Bundle(_)
        | Command::Mount(_)
        | Command::Umount(_)
        | Command::Verify(_)
        | Command::Scan(_)
        | Command::Catalog(_)
        | Command::Fleet(_)
        | Command::Quarantine(_)
        | Command::Rebuild(_)
        | Command::Serve(_)
        | Command::Health(_)
        | Command::Doctor(_)
        | Command::Config(_)
        | Command::Metrics(_)
        | Command::Push(_)
        | Command::Checked(_)
        | Command::Who(_)
        | Command::Top(_) => unreachable!("done by this process, and before"),
    }
}

fn verify(host: &mut Host, args: &commands::Verify, json: bool) -> anyhow::Result<ExitCode> {
    let found = host.verify(args.image.as_deref())?;
    output(json, &found, print::verified::verified)?;
    let is = |now: fn(&Now) -> bool| found.volumes.iter().any(|line| now(&line.now));
    // What nobody could look at may be seen later; what was seen is the worse news.
    let seen = is(|now| !matches!(now, Now::Intact | Now::Unseen { .. }));
    match (found.intact, seen) {
        (true, _) => Ok(ExitCode::SUCCESS),
        (false, true) => Ok(ExitCode::from(1)),
        (false, false) => match found.unseen() {
            Some(unseen) => Err(unseen.into()),
            None => Ok(ExitCode::from(1)),
        },
    }
}

fn scan(host: &mut Host, args: &commands::Scan, json: bool) -> anyhow::Result<ExitCode> {
    let done = if args.show { host.scanned(&args.image)? } else { host.scan(&args.image)? };
    output(json, &done, print::scanned)?;
    Ok(if done.blocks { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn quarantine(
    host: &mut Host,
    args: &commands::Quarantine,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let Some(text) = args.release.as_deref() else { return show::quarantine(host, json) };
    let digest = digest(text)?;
    let released = host.release(digest)?;
    let done = json!({"digest": digest, "released": released});
    output(json, &done, |_| print::released(&digest, released))?;
    Ok(if released { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What a killed run left is mended, then the run is taken up; a run that fails again fails this.
fn recover(host: &mut Host, args: &commands::Recover, json: bool) -> anyhow::Result<ExitCode> {
    if args.retry && !args.dry_run {
        host.allow_retries()?;
    }
    if !args.dry_run {
        host.ask_catalog(true);
        for error in host.sign_unsigned()? {
            log::line(Level::Warning, &orchestrate::whole(&error), &[]);
        }
        host.scan_unscanned()?;
    }
    let recovered = host.recover(args.dry_run)?;
    let resumed = if args.no_resume { Vec::new() } else { host.take_up_runs(args.dry_run)? };
    let done = json!({
        "repairs": recovered.repairs, "unsettled": recovered.unsettled, "resumed": resumed,
        "dry_run": args.dry_run,
    });
    output(json, &done, |_| print::recovered(&recovered, &resumed, args.dry_run))?;
    let of_runs = resumed.iter().filter_map(|run| match &run.end {
        RunState::Failed { class, .. } => Some(class),
        RunState::Queued | RunState::Running | RunState::Done | RunState::Cancelled => None,
    });
    let left = recovered.unsettled.iter().filter_map(|left| left.class.as_ref());
    let codes =
        of_runs.chain(left).map(|word| Class::from_word(word).map_or(100, Class::exit_code));
    // One that may be tried again is the better news of two.
    Ok(codes.max().map_or(ExitCode::SUCCESS, ExitCode::from))
}

fn checked(host: &mut Host, name: &str, json: bool) -> anyhow::Result<ExitCode> {
    let changed = host.checked(name)?;
    let done = json!({"name": name, "changed": changed});
    output(json, &done, |_| print::checked(name, changed))
}

fn rebuild(settings: Settings, args: &commands::Rebuild, json: bool) -> anyhow::Result<ExitCode> {
    if args.facts && args.take_over {
        let text = "--facts only prints, and so cannot --take-over: one or the other";
        return Err(Error::Usage(text.into()).into());
    }
    let options = RebuildOptions { dry_run: args.dry_run || args.facts, take_over: args.take_over };
    let done = orchestrate::rebuild(settings, options)?;
    match args.facts {
        true => output(true, &done.facts, |_| String::new()),
        false => output(json, &done, print::rebuilt),
    }
}

fn pin(host: &mut dyn Verbs, image: &str, pinned: bool, json: bool) -> anyhow::Result<ExitCode> {
    host.pin(image, pinned)?;
    let done = json!({"image": image, "pinned": pinned});
    output(json, &done, |_| print::pinned(image, pinned))
}

fn digest(text: &str) -> Result<registry::Digest, Error> {
    text.parse().map_err(Error::Usage)
}

/// The ids of `--purge-foreign`; none of them where it stands alone.
fn purge(args: &commands::Gc) -> Result<Option<Vec<VolumeId>>, Error> {
    let Some(text) = args.purge_foreign.as_deref() else { return Ok(None) };
    let id = |word: &str| {
        word.parse().ok().filter(|id| *id <= VolumeId::MAX).ok_or_else(|| {
            Error::Usage(format!(
                "--purge-foreign {}: expected ids from 0 to {}, as in --purge-foreign \
                 254,255; without any it lists them",
                quoted(text),
                VolumeId::MAX
            ))
        })
    };
    match text {
        "" => Ok(Some(Vec::new())),
        text => text.split(',').map(id).collect::<Result<_, _>>().map(Some),
    }
}

/// `80%` or `80`.
fn bound(args: &commands::Gc) -> Result<Bound, Error> {
    let part = |text: &String| {
        let number = text.strip_suffix('%').unwrap_or(text);
        number.parse().ok().filter(|part| *part <= 100).ok_or_else(|| {
            Error::Usage(format!(
                "--max-used {}: expected 0% to 100%, as in --max-used 80%",
                quoted(text)
            ))
        })
    };
    let max_used = args.max_used.as_ref().map(part).transpose()?;
    Ok(Bound { keep_bytes: args.keep_bytes.map(|bytes| bytes.0), max_used })
}

/// The settings of this process, as the command line has them and what lies below it.
fn config(args: &Args) -> Result<Config, Error> {
    Config::load(&args.flags(), config_file(args).as_deref())
}

fn config_file(args: &Args) -> Option<PathBuf> {
    args.config.clone().or_else(|| {
        std::env::var_os("VENEER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
    })
}
