//! `send` and `receive`: a disk leaves this host as a stream of blocks, and comes to another.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use orchestrate::{
    Error, Host, Progress, ReceiveOptions, ReceivedDisk, SendOptions, SendTo, SentDisk, full, log,
};

use crate::cli::print::text::{mib, safe};
use crate::cli::say::{output, say};

/// Write the disk of an activation as a stream of its blocks, for receive on another host. Sent are the blocks that differ from its image or, with --since, from a point. Nobody may have the disk open, unless a point is sent.
#[derive(FromArgs)]
#[argh(subcommand, name = "send")]
pub(crate) struct Send {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// send only the blocks that differ from this point, which the receiver has
    #[argh(option)]
    pub(crate) since: Option<String>,
    /// send the disk as it was at this point, whoever has it open now; only after a point can --since follow
    #[argh(option)]
    pub(crate) point: Option<String>,
    /// send all blocks, also those of the image, for a receiver whose image has other blocks
    #[argh(switch)]
    pub(crate) whole: bool,
    /// leave out the blocks below this one, which were received; needs --point
    #[argh(option, default = "0")]
    pub(crate) from: u64,
    /// the file for the stream, made whole or not at all; without it, or as -, it goes to standard output
    #[argh(option, short = 'o')]
    pub(crate) output: Option<PathBuf>,
}

/// Receive the disk of an activation as send wrote it. The activation is there when all of the disk is, and was compared; it is not mapped then. An interrupted receive is gone on with by the same command.
#[derive(FromArgs)]
#[argh(subcommand, name = "receive")]
pub(crate) struct Receive {
    /// the activation's name: a new one, or for a stream of send --since the one that has that point
    #[argh(positional)]
    pub(crate) name: String,
    /// the file with the stream; without it, or as -, it is standard input
    #[argh(positional)]
    pub(crate) file: Option<PathBuf>,
    /// the image's name here, if it is another than in the stream; its layers have to be the same
    #[argh(option)]
    pub(crate) image: Option<String>,
    /// give up what has arrived under this name before, and begin anew
    #[argh(switch)]
    pub(crate) restart: bool,
    /// only tell how far a disk has come that was received in part
    #[argh(switch)]
    pub(crate) progress: bool,
}

fn is_standard(path: Option<&PathBuf>) -> bool {
    path.is_none_or(|path| path.as_os_str() == "-")
}

/// Refuses what cannot be meant, before a host is opened.
pub(crate) fn check_send(args: &Send) -> Result<(), Error> {
    orchestrate::check_name(&args.name)?;
    if is_standard(args.output.as_ref()) && io::stdout().is_terminal() {
        let text = "a disk is no text for a terminal: name a file by -o FILE, or send standard output into a pipe";
        return Err(Error::Usage(text.into()));
    }
    if is_standard(args.output.as_ref()) && full::output_was_closed() {
        let text =
            "standard output is closed, so the disk would go nowhere: name a file by -o FILE";
        return Err(Error::Usage(text.into()));
    }
    Ok(())
}

/// As [`check_send`].
pub(crate) fn check_receive(args: &Receive) -> Result<(), Error> {
    orchestrate::check_name(&args.name)?;
    if let Some(image) = &args.image {
        orchestrate::reference(image)?;
    }
    if !args.progress && is_standard(args.file.as_ref()) && io::stdin().is_terminal() {
        let text =
            "name the file with the stream, or send it into standard input: a terminal has no disk";
        return Err(Error::Usage(text.into()));
    }
    Ok(())
}

pub(crate) fn send(
    host: &mut Host,
    args: &Send,
    talks: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    check_send(args)?;
    let (since, point) = (args.since.clone(), args.point.clone());
    let options = SendOptions { since, point, whole: args.whole, from: args.from };
    let to = match &args.output {
        Some(path) if !is_standard(Some(path)) => SendTo::File(path.clone()),
        Some(_) | None => SendTo::Stream(io::stdout().as_fd().try_clone_to_owned()?.into()),
    };
    let to_stdout = matches!(to, SendTo::Stream(_));
    let done = host.send(&args.name, &options, to)?;
    let text = match json {
        true => log::harmless(serde_json::to_string(&done)? + "\n"),
        false => sent(&done),
    };
    if !to_stdout {
        say(&text)?;
    } else if json || talks {
        // The stream is on standard output, and nothing else. Who does not take this has the stream all the same.
        drop(io::stderr().write_all(text.as_bytes()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn receive(host: &mut Host, args: &Receive, json: bool) -> anyhow::Result<ExitCode> {
    check_receive(args)?;
    if args.progress {
        return output(json, &host.receive_progress(&args.name)?, progress);
    }
    let input: File =
        match &args.file {
            Some(path) if !is_standard(Some(path)) => File::open(path)
                .map_err(|source| Error::Io { doing: "open", path: path.clone(), source })?,
            Some(_) | None => io::stdin().as_fd().try_clone_to_owned()?.into(),
        };
    let options = ReceiveOptions { image: args.image.clone(), restart: args.restart };
    let done = host.receive(&args.name, &options, input)?;
    output(json, &done, received)
}

fn sent(done: &SentDisk) -> String {
    let to = done.to.as_ref().map_or_else(String::new, |to| format!(" to {}", safe(to)));
    let point =
        done.point.as_ref().map_or_else(String::new, |point| format!(" at point {}", safe(point)));
    let since = done.since.as_ref().map_or_else(
        || format!("its image {}", safe(&done.image)),
        |since| format!("point {}", safe(since)),
    );
    format!(
        "sent {}{point}{to}: {} bytes; {} blocks of {} bytes differ from {since}, and {} that read as zeros now\n",
        safe(&done.name),
        done.bytes,
        done.data_blocks,
        done.block_bytes,
        done.zero_blocks,
    )
}

fn received(done: &ReceivedDisk) -> String {
    let name = safe(&done.name);
    if done.already {
        return format!("{name} has this point already: nothing was done\n");
    }
    let point =
        done.point.as_ref().map_or_else(String::new, |point| format!(" at point {}", safe(point)));
    let mut text = format!(
        "received {name}{point}: {}, {} blocks from a stream of {} bytes\n",
        mib(done.bytes),
        done.blocks,
        done.stream_bytes
    );
    if done.resumed_from > 0 {
        text.push_str(&format!("  went on from block {}\n", done.resumed_from));
    }
    if !done.mapped {
        text.push_str(&format!(
            "  not mapped: `orchestrate activate {} --name {name}` brings it up\n",
            safe(&done.image)
        ));
    }
    text
}

fn progress(found: &Progress) -> String {
    format!(
        "{} of {} arrives: blocks below {} of {} are here\n",
        safe(&found.name),
        safe(&found.image),
        found.next,
        mib(found.bytes)
    )
}
