//! Directories that root writes into: each is one of our own, which nobody else can change.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::libc;

use crate::error::Error;

/// A directory as a message has it.
#[derive(Clone, Copy)]
pub(crate) struct Named {
    /// What it is.
    pub(crate) what: &'static str,
    /// What names another.
    pub(crate) by: &'static str,
    /// Whether a symbolic link that is root's or ours may lead there.
    pub(crate) may_be_link: bool,
}

/// The state directory.
pub(crate) const STATE: Named =
    Named { what: "the state directory", by: "--state", may_be_link: true };

/// The files of locks in it.
pub(crate) const LOCKS: Named =
    Named { what: "the state directory", by: "--state", may_be_link: false };

/// Where a scanner keeps its database.
pub(crate) const CACHE: Named =
    Named { what: "the scanner's cache", by: "scan.cache", may_be_link: false };

/// Opens a directory that is ours and that others may not write to. With `sticky`, one that has the sticky bit
/// and that others may write to is closed to them: as the root of a file system in memory.
///
/// # Errors
/// [`Error::Usage`] saying what it is instead, and what to do.
pub(crate) fn own(path: &Path, named: Named, sticky: bool) -> Result<File, Error> {
    let Named { what, by, may_be_link } = named;
    let failed = |doing| {
        let path = path.to_owned();
        move |source: io::Error| Error::Io { doing, path, source }
    };
    let refuse = |why: String| {
        Err(Error::Usage(format!("{}: {why}", path.display().to_string().escape_debug())))
    };
    let own = nix::unistd::geteuid().as_raw();
    let link = path.symlink_metadata().ok().filter(|found| found.is_symlink());
    let follow = link.is_some_and(|link| may_be_link && [0, own].contains(&link.uid()));
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let flags = flags | if follow { 0 } else { libc::O_NOFOLLOW };
    let dir = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
            let is = match path.is_symlink() {
                true => format!("a symbolic link, and may lead to what is not {what}'s"),
                false => "no directory".into(),
            };
            return refuse(format!("it is {is}: remove it, or name another {by}"));
        }
        opened => opened.map_err(failed("open"))?,
    };
    let found = dir.metadata().map_err(failed("look at"))?;
    let owner = found.uid();
    if owner != own {
        return refuse(format!(
            "it belongs to uid {owner} and not to uid {own}, as which this runs: who owns it could change \
             what is in {what}; name another {by}, or look at what is in it and `chown {own}` it"
        ));
    }
    let mut mode = found.mode() & 0o7777;
    // Nobody else could rename or remove what is ours in it.
    if sticky && mode & 0o1022 > 0o1000 {
        dir.set_permissions(Permissions::from_mode(mode & !0o022))
            .map_err(failed("set the mode of"))?;
        mode &= !0o022;
    }
    if mode & 0o022 != 0 {
        return refuse(format!(
            "others may write to it (its mode is {mode:04o}): who may could change what is in {what}; name \
             another {by}, or look at what is in it and `chmod go-w` it"
        ));
    }
    Ok(dir)
}
