//! Commands about one activation that change none of its content: what is said of it, how long it is kept, what it is
//! called, and who uses it.

use std::process::ExitCode;

use argh::FromArgs;
use orchestrate::{Error, Host, LabelChange, Time, Verbs, label_changes, quoted};

use crate::cli::print;
use crate::cli::say::output;

/// Change the labels of an activation. A label is a key with a value, each of at most 63 of A-Z a-z 0-9 - _ . (a key may have / too), of which the first and last is a letter or digit; an activation has at most 32.
#[derive(FromArgs)]
#[argh(subcommand, name = "label")]
pub(crate) struct Label {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// KEY=VALUE to set a label, KEY- to remove one
    #[argh(positional)]
    pub(crate) labels: Vec<LabelChange>,
}

/// Change for how long an activation is kept. `gc`, which the daemon does too, removes one whose time has ended, unless somebody uses it.
#[derive(FromArgs)]
#[argh(subcommand, name = "ttl")]
pub(crate) struct Ttl {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// the time, from now on: 1s to 3650d, such as 4h; or none, to keep it until somebody removes it
    #[argh(positional)]
    pub(crate) time: String,
}

/// Give an activation another name, also while it is open.
#[derive(FromArgs)]
#[argh(subcommand, name = "rename")]
pub(crate) struct Rename {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
    /// its new name, which nothing else may have
    #[argh(positional)]
    pub(crate) new: String,
}

/// Show what uses an activation: mounts in every mount namespace, processes, loop devices, other device-mapper tables. What this user cannot see is said.
#[derive(FromArgs)]
#[argh(subcommand, name = "who")]
pub(crate) struct Who {
    /// the activation's name
    #[argh(positional)]
    pub(crate) name: String,
}

/// The time of `ttl`; none for `none`.
pub(crate) fn time(args: &Ttl) -> Result<Option<u64>, Error> {
    match args.time.as_str() {
        "none" => Ok(None),
        text => match text.parse() {
            Ok(Time(seconds)) => Ok(Some(seconds)),
            Err(why) => Err(Error::Usage(format!("ttl {why}; or none"))),
        },
    }
}

pub(crate) fn label(host: &mut dyn Verbs, args: Label, json: bool) -> anyhow::Result<ExitCode> {
    if args.labels.is_empty() {
        let name = quoted(&args.name).to_string();
        let text = format!(
            "label {name}: add a label, KEY=VALUE, or KEY- to remove one; `orchestrate show` shows them"
        );
        return Err(Error::Usage(text).into());
    }
    let done = host.label(&args.name, &label_changes(args.labels)?)?;
    output(json, &done, print::naming::labelled)
}

pub(crate) fn ttl(host: &mut dyn Verbs, args: &Ttl, json: bool) -> anyhow::Result<ExitCode> {
    let done = host.set_ttl(&args.name, time(args)?)?;
    output(json, &done, print::naming::timed)
}

pub(crate) fn rename(host: &mut dyn Verbs, args: &Rename, json: bool) -> anyhow::Result<ExitCode> {
    let done = host.rename(&args.name, &args.new)?;
    output(json, &done, print::naming::renamed)
}

/// It is looked for by this process: it tells what its user may see.
pub(crate) fn who(host: &Host, args: &Who, json: bool) -> anyhow::Result<ExitCode> {
    output(json, &host.who(&args.name)?, print::naming::who)
}
