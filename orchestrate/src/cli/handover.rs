//! Commands that hand an activation over to what runs it. They are done by this process, also where a daemon runs:
//! a mount is made in the mount namespace of whoever asks.

use std::process::ExitCode;

use orchestrate::log::{self, Level};
use orchestrate::store::seam::StoreName;
use orchestrate::{
    ActivateOptions, BundleOptions, Error, Give, Host, Settings, Unfit, Verbs, new_labels,
    reference,
};

use crate::cli::commands::{Activate, Bundle, Command, Deactivate, Mount, Show, Umount};
use crate::cli::print;
use crate::cli::say::{output, say};

/// To whom the device is to be given; refused before anything is done where there will be none.
pub(crate) fn give(args: &Activate, settings: &Settings) -> Result<Give, Error> {
    let give =
        Give::read(args.device_owner.as_deref(), args.device_mode.as_deref(), args.node.clone())?;
    match &settings.store {
        store @ StoreName::Dir(_) if !give.is_nothing() => {
            Err(Unfit::NoDevice { store: store.to_string() }.into())
        }
        StoreName::Dir(_) => Ok(give),
        StoreName::Thin(_) => {
            give.node.as_deref().map(orchestrate::check_node).transpose()?;
            Ok(give)
        }
    }
}

/// Whoever activates, the device is given away by this process: its node is made where its user sees it.
pub(crate) fn activate(
    host: &mut dyn Verbs,
    args: Activate,
    settings: &Settings,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let give = give(&args, settings)?;
    let Activate { image, name, no_fetch, dry_run, copy, label, read_only, no_journal, .. } = args;
    let (bytes, copies) = (args.size.map(|size| size.0), !copy.is_empty());
    let (labels, ttl_s) = (new_labels(label)?, args.ttl.map(|time| time.0));
    let options = ActivateOptions {
        bytes,
        no_fetch,
        dry_run,
        copies: copy,
        labels,
        ttl_s,
        read_only,
        no_journal,
    };
    let mut done = host.activate(&reference(&image)?, &name, options)?;
    if !dry_run && !give.is_nothing() {
        let mut own = Host::open(settings.clone())?;
        own.makes_nodes();
        done.device = Some(own.give_device(&name, &give)?);
    }
    output(json, &done, |done| print::activated(done, copies))
}

/// Removes the node of an activation that a daemon is about to take down: it does not see it.
pub(crate) fn before_daemon(
    daemon: &mut dyn Verbs,
    command: &Command,
    settings: &Settings,
) -> Result<(), Error> {
    let (name, when_closed) = match command {
        Command::Deactivate(args) if !args.dry_run => (&args.name, args.when_closed),
        Command::Rm(args) if !args.dry_run => (&args.subject, args.when_closed),
        _ => return Ok(()),
    };
    let has_node = |line: &orchestrate::ActivationLine| {
        line.name == *name && line.device.as_ref().is_some_and(|device| device.node.is_some())
    };
    if !daemon.list()?.activations.iter().any(has_node) {
        return Ok(());
    }
    let mut own = Host::open(settings.clone())?;
    own.makes_nodes();
    own.take_node_before(name, when_closed)
}

pub(crate) fn bundle(host: &mut Host, args: Bundle, json: bool) -> anyhow::Result<ExitCode> {
    let options = BundleOptions {
        command: args.command,
        entrypoint: args.entrypoint,
        host_name: args.hostname,
        hosts: args.hosts,
        resolv_conf: args.resolv_conf,
        empty_machine_id: args.empty_machine_id,
    };
    let done = host.bundle(&args.name, &args.dir, &options)?;
    output(json, &done, print::handover::bundled)
}

pub(crate) fn mount(host: &mut Host, args: &Mount, json: bool) -> anyhow::Result<ExitCode> {
    let done = host.mount(&args.name, &args.dir)?;
    output(json, &done, print::handover::mounted)
}

pub(crate) fn unmount(host: &mut Host, args: &Umount, json: bool) -> anyhow::Result<ExitCode> {
    let done = host.unmount(&args.name)?;
    output(json, &done, print::handover::unmounted)
}

/// Takes away this process's mounts of an activation that is about to go down, whoever does that.
pub(crate) fn before(args: &Deactivate, settings: &Settings) -> Result<(), Error> {
    if !args.unmount || args.dry_run {
        return Ok(());
    }
    let done = Host::open(settings.clone())?.unmount(&args.name)?;
    if settings.talk > 0 {
        for point in &done.from {
            let line = format!("{} is no longer mounted at {}", done.name, point.display());
            log::line(Level::Info, &line, &[]);
        }
    }
    Ok(())
}

/// Whether `show` is asked for what only this process looks up.
pub(crate) fn is_of_the_image(args: &Show) -> bool {
    args.image_config || args.vm
}

/// The image's config, or what a virtual machine is started with: JSON, whatever form was asked for.
pub(crate) fn show(host: &mut Host, args: &Show) -> anyhow::Result<ExitCode> {
    let text = match (args.image_config, args.vm) {
        (true, true) => {
            let text = "show: --image-config or --vm, not both";
            return Err(Error::Usage(text.into()).into());
        }
        (true, false) => host.image_json(&args.subject)?.trim_end().to_owned(),
        (false, _) => serde_json::to_string_pretty(&host.machine(&args.subject)?)?,
    };
    say(&log::harmless(text + "\n")).map(|()| ExitCode::SUCCESS)
}
