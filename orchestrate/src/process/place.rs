//! Directories that root writes into: each is one of our own, which nobody else can change.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
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

/// A directory store.
pub(crate) const STORE: Named = Named { what: "the store", by: "--store", may_be_link: false };

/// Where a scanner keeps its database.
pub(crate) const CACHE: Named =
    Named { what: "the scanner's cache", by: "scan.cache", may_be_link: false };

/// Makes a directory that nobody else looks into, and those above it; one that is there stays as it is.
///
/// # Errors
/// [`Error::Usage`] saying what is there instead of it, or of one above it.
pub(crate) fn make(path: &Path, named: Named) -> Result<(), Error> {
    let Err(source) = DirBuilder::new().recursive(true).mode(0o700).create(path) else {
        return Ok(());
    };
    Err(match in_the_way(path, named) {
        Some(why) => Error::Usage(why),
        None => Error::Io { doing: "make", path: path.to_owned(), source },
    })
}

fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

/// That there is nothing else where a directory is to be.
///
/// # Errors
/// As [`make`].
pub(crate) fn free(path: &Path, named: Named) -> Result<(), Error> {
    in_the_way(path, named).map_or(Ok(()), |why| Err(Error::Usage(why)))
}

/// What there is instead of a directory, at this path or at the nearest one above it that is there.
pub(crate) fn in_the_way(path: &Path, named: Named) -> Option<String> {
    let (at, found) = path.ancestors().find_map(|at| Some((at, at.symlink_metadata().ok()?)))?;
    let is = match (found.file_type().is_symlink(), at.metadata()) {
        (_, Ok(leads_to)) if leads_to.is_dir() => return None,
        (true, Ok(_)) => "a symbolic link to a file",
        (true, Err(source)) if leads_nowhere(&source) => "a symbolic link that leads nowhere",
        (false, Ok(_)) if found.is_file() => "a file",
        (false, Ok(_)) => "a device, a pipe or a socket",
        // It cannot be looked at, which says nothing of what it is.
        (true | false, Err(_)) => return None,
    };
    let (at, by) = (shown(at), named.by);
    let lies = if at == shown(path) { String::new() } else { format!("{}: ", shown(path)) };
    Some(format!("{lies}{at} is {is}, not a directory: remove it, or name another {by}"))
}

fn leads_nowhere(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP | libc::ENOTDIR))
}

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
    let refuse = |why: String| Err(Error::Usage(format!("{}: {why}", shown(path))));
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
