//! Commands that hand an activation over to what runs it. They are done by this process, also where a daemon runs:
//! a mount is made in the mount namespace of whoever asks.

use std::process::ExitCode;

use orchestrate::log::{self, Level};
use orchestrate::{BundleOptions, Error, Host, Settings};

use crate::cli::commands::{Bundle, Deactivate, Mount, Show, Umount};
use crate::cli::print;
use crate::cli::say::{output, say};

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
