//! `push`: an image of this host's files goes into a bucket.

use std::io;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use orchestrate::{PushOptions, Settings, reference};

use crate::cli::commands::Push;
use crate::cli::print;
use crate::cli::say::output;

/// No run: nothing of this host is opened but the files that are pushed.
pub(crate) fn push(settings: &Settings, args: &Push, json: bool) -> anyhow::Result<ExitCode> {
    let options = PushOptions { numbered: args.numbered, unsafe_index: args.unsafe_index };
    let standard = io::stdin().as_fd().try_clone_to_owned()?;
    let (from, to) = (reference(&args.from)?, reference(&args.to)?);
    let done = orchestrate::push(settings, &from, &to, options, standard.into())?;
    output(json, &done, print::push::pushed)
}
