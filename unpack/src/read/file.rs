//! One file of a tree, read as somebody reads it whose root directory the tree is.

use std::fs::File;
use std::io::Read as _;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::error::{Error, Fault};
use crate::record::spill::io_fault;
use crate::tree::fd::open::open_within;
use crate::tree::fd::root::Root;

/// What there is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or a link that leads to nothing.
    Absent,
    /// A file of this content.
    Content(Vec<u8>),
    /// Something that is no file.
    Odd(&'static str),
    /// A file of more bytes than may be read.
    Long,
}

/// The content of the regular file at `path`, of at most `bytes_max` bytes. Links are followed and lead nowhere
/// outside of `root`. What is no regular file is not opened, so nothing is waited for and no device is touched.
///
/// # Errors
/// [`Error::Fs`].
pub fn read_file(root: &Root, path: &str, bytes_max: u64) -> Result<Found, Error> {
    read(root, path.as_bytes(), bytes_max).map_err(Fault::nowhere)
}

fn read(root: &Root, path: &[u8], bytes_max: u64) -> Result<Found, Fault> {
    let fault = |call| Fault::fs(call, path);
    let named = match open_within(root, path, OFlag::O_PATH) {
        Ok(named) => named,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(Found::Absent),
        Err(errno) => return Err(fault("open")(errno)),
    };
    let is = fstat(&named).map_err(fault("stat"))?;
    if let Some(odd) = odd(&is) {
        return Ok(Found::Odd(odd));
    }
    // By the path again, since a descriptor of this kind cannot be read. Who writes to the tree may have put something
    // else there, which is not waited for either.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = open_within(root, path, flags).map_err(fault("open"))?;
    let now = fstat(&file).map_err(fault("stat"))?;
    if let Some(odd) = odd(&now) {
        return Ok(Found::Odd(odd));
    }
    let mut content = Vec::new();
    let more = bytes_max.saturating_add(1);
    File::from(file).take(more).read_to_end(&mut content).map_err(io_fault("read", path))?;
    Ok(match u64::try_from(content.len()) {
        Ok(bytes) if bytes <= bytes_max => Found::Content(content),
        Ok(_) | Err(_) => Found::Long,
    })
}

/// What something is that is no regular file.
fn odd(stat: &FileStat) -> Option<&'static str> {
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    Some(match kind {
        SFlag::S_IFREG => return None,
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFCHR | SFlag::S_IFBLK => "a device",
        _ => "no regular file",
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_read_within_its_tree_whatever_is_in_its_place() {
        let (host, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (secret, at) = (host.path().join("secret"), tree.path());
        fs::write(&secret, "of the host").unwrap();
        fs::create_dir_all(at.join("etc/dir")).unwrap();
        fs::create_dir_all(at.join("usr/lib")).unwrap();
        fs::write(at.join("etc/passwd"), "root").unwrap();
        fs::write(at.join("usr/lib/passwd"), "elsewhere").unwrap();
        fs::write(at.join("etc/long"), "12345").unwrap();
        symlink("/usr/lib/passwd", at.join("etc/absolute")).unwrap();
        symlink("../../../../usr/lib/passwd", at.join("etc/above")).unwrap();
        symlink(&secret, at.join("etc/outside")).unwrap();
        symlink("loop", at.join("etc/loop")).unwrap();
        symlink("/proc/self/root", at.join("etc/magic")).unwrap();
        nix::unistd::mkfifo(&at.join("etc/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at.join("etc/socket")).unwrap();
        let root = Root::open(at).unwrap();
        let content = |text: &str| Found::Content(text.as_bytes().to_vec());
        for (path, expected) in [
            ("etc/passwd", content("root")),
            ("/etc/passwd", content("root")),
            ("../../etc/passwd", content("root")),
            ("etc/absolute", content("elsewhere")),
            ("etc/above", content("elsewhere")),
            ("etc/outside", Found::Absent),
            ("etc/loop", Found::Absent),
            ("etc/magic/etc/passwd", Found::Absent),
            ("etc/none", Found::Absent),
            ("etc/passwd/under", Found::Absent),
            ("etc/dir", Found::Odd("a directory")),
            ("etc/fifo", Found::Odd("a FIFO")),
            ("etc/socket", Found::Odd("a socket")),
            ("etc/long", Found::Long),
        ] {
            assert_eq!(
                read_file(&root, path, 9 - u64::from(path == "etc/long") * 5).unwrap(),
                expected,
                "{path}"
            );
        }
        assert_eq!(read_file(&root, "etc/long", 5).unwrap(), content("12345"));
    }
}
