//! What was handed over, as text for people.

use orchestrate::{Bundled, Given, Mounted, Unmounted};

use crate::cli::print::text::{put, safe};

pub(crate) fn bundled(done: &Bundled) -> String {
    let name = safe(&done.name);
    let mut text = format!(
        "{} is a bundle of {name}, as {}:{}, with the root directory {}\n",
        done.bundle.display(),
        done.uid,
        done.gid,
        done.root.display()
    );
    if done.mounted {
        put(&mut text, format_args!("`orchestrate umount {name}` ends the mount\n"));
    }
    text
}

/// A line of whose the device is.
pub(crate) fn given(device: &Given) -> String {
    let mut text = String::from("  device");
    if let (Some(uid), Some(gid)) = (device.uid, device.gid) {
        put(&mut text, format_args!(" of {uid}:{gid}"));
    }
    if let Some(mode) = &device.mode {
        put(&mut text, format_args!(" mode {}", safe(mode)));
    }
    if let Some(node) = &device.node {
        put(&mut text, format_args!(" node {}", safe(&node.to_string_lossy())));
    }
    text.push('\n');
    text
}

pub(crate) fn mounted(done: &Mounted) -> String {
    let verb = if done.already { "is already" } else { "is now" };
    format!("{} {verb} mounted at {}\n", safe(&done.name), done.at.display())
}

pub(crate) fn unmounted(done: &Unmounted) -> String {
    let name = safe(&done.name);
    if done.from.is_empty() {
        return format!("{name} is mounted nowhere here\n");
    }
    let line = |point: &std::path::PathBuf| {
        format!("{name} is no longer mounted at {}\n", point.display())
    };
    done.from.iter().map(line).collect()
}
