//! What a command needs before it begins: its references in full.

use std::path::Path;

use fetch::Reference;
use orchestrate::{Error, Unusable, reference};

use crate::cli::commands::{self, Activate, Command};

/// Writes the references of a command in full: a path from the root, a platform that was asked for.
pub(crate) fn settle(command: &mut Command) -> Result<(), Error> {
    let cwd = std::env::current_dir().unwrap_or_default();
    if let Command::Activate(args) = command {
        let copies = std::mem::take(&mut args.copy).into_iter();
        args.copy = copies.map(|copy| copy.absolute(&cwd)).collect();
    }
    match command {
        Command::Ensure(commands::Ensure { image, platform, .. })
        | Command::Activate(Activate { image, platform, .. }) => {
            *image = on(platform.take(), in_full(reference(image)?, &cwd)?)?.to_string();
        }
        Command::Push(commands::Push { from, to, platform, .. }) => {
            *from = on(platform.take(), reference(from)?.absolute(&cwd))?.to_string();
            *to = reference(to)?.to_string();
        }
        Command::Show(commands::Show { subject: image, .. })
        | Command::Rm(commands::Rm { subject: image, .. })
        | Command::Pin(commands::Pin { image, .. })
        | Command::Unpin(commands::Unpin { image, .. })
        | Command::Scan(commands::Scan { image, .. })
        | Command::Verify(commands::Verify { image: Some(image), .. }) => {
            if let Ok(whole) = reference(image) {
                *image = in_full(whole, &cwd)?.to_string();
            }
        }
        Command::Verify(commands::Verify { image: None, .. })
        | Command::Deactivate(_)
        | Command::Ls(_)
        | Command::Recover(_)
        | Command::Gc(_)
        | Command::Df(_)
        | Command::Runs(_)
        | Command::Events(_)
        | Command::Cancel(_)
        | Command::Quarantine(_)
        | Command::Rebuild(_)
        | Command::Serve(_)
        | Command::Health(_)
        | Command::Doctor(_)
        | Command::Config(_)
        | Command::Metrics(_)
        | Command::Catalog(_)
        | Command::Fleet(_)
        | Command::Top(_)
        | Command::Bundle(_)
        | Command::Export(_)
        | Command::Send(_)
        | Command::Receive(_)
        | Command::Mount(_)
        | Command::Umount(_)
        | Command::Label(_)
        | Command::Ttl(_)
        | Command::Rename(_)
        | Command::Who(_)
        | Command::Resize(_)
        | Command::Fork(_)
        | Command::Snapshot(_)
        | Command::Restore(_)
        | Command::Points(_)
        | Command::Checked(_) => {}
    }
    Ok(())
}

/// The reference for the platform that was asked for, where one was.
fn on(platform: Option<String>, image: Reference) -> Result<Reference, Error> {
    let Some(platform) = platform else { return Ok(image) };
    let platform = platform.parse().map_err(|error| Error::Image(Unusable::Reference(error)))?;
    Ok(Reference { platform: Some(platform), ..image })
}

/// A reference with its path from the root. The path becomes a part of the name, and has to be read back as it is.
fn in_full(given: Reference, cwd: &Path) -> Result<Reference, Error> {
    let whole = given.absolute(cwd);
    let text = whole.to_string();
    match reference(&text) {
        Ok(again) if again == whole => Ok(whole),
        Ok(_) | Err(_) => {
            let why = "a path with a colon, an @ or a # cannot be part of a name: use another directory or a link";
            Err(Error::Image(Unusable::Reference(fetch::image::Error::Reference { text, why })))
        }
    }
}
