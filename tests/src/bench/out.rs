//! Where one run of one contender writes to: an empty directory, or an empty file system on a loop device.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{On, measure};

/// Bytes of the file system; sparse, and enough for a million small files.
const BYTES: u64 = 8 << 30;

/// Bytes for each inode, for the same reason.
const BYTES_PER_INODE: &str = "7168";

/// A new file of zeros has inode tables of zeros.
const MADE: &str = "nodiscard,assume_storage_prezeroed=1,lazy_itable_init=0";

/// `$OUT`. To be closed: a drop leaves the mount to whoever looks after the scratch directory.
#[derive(Debug)]
pub struct Out {
    /// Where the file system is mounted.
    at: PathBuf,
    path: PathBuf,
    image: Option<PathBuf>,
    /// Bytes in use of the new file system when it was empty.
    empty: u64,
}

impl Out {
    /// Makes it in the scratch directory. A new file system needs root; without it there is a directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(scratch: &Path, on: On) -> Result<Out> {
        let at = scratch.join("out");
        let path = at.join("empty");
        fs::create_dir_all(&at).with_context(|| at.display().to_string())?;
        let mut image = None;
        if on != On::Scratch && rustix::process::geteuid().is_root() {
            let file = scratch.join("out.img");
            File::create(&file)?.set_len(BYTES)?;
            let (from, at) = (file.display().to_string(), at.display().to_string());
            match on {
                On::Xfs => run("mkfs.xfs", &["-q", "-f", "-m", "reflink=1", &from])?,
                On::Ext4 | On::Scratch => {
                    run("mkfs.ext4", &["-q", "-F", "-i", BYTES_PER_INODE, "-E", MADE, &from])?;
                }
            }
            run("mount", &["-o", "loop,noatime", &from, &at])?;
            image = Some(file);
        }
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let empty = used(&at)?;
        Ok(Out { at, path, image, empty })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// KiB that what lies in it takes on the disk. A new file system says what is in use, where files that share blocks
    /// count once; elsewhere it is the sum over the files.
    ///
    /// # Errors
    /// It cannot be measured.
    pub fn space_kib(&self) -> Result<u64> {
        match self.image {
            Some(_) => {
                run("sync", &["-f", &self.at.display().to_string()])?;
                Ok(used(&self.at)?.saturating_sub(self.empty) / 1024)
            }
            None => Ok(measure::space(&self.path)),
        }
    }

    /// Away with it and all that is in it.
    ///
    /// # Errors
    /// It cannot be unmounted or removed.
    pub fn close(self) -> Result<()> {
        if let Some(image) = &self.image {
            run("umount", &[&self.at.display().to_string()])?;
            fs::remove_file(image)?;
        }
        fs::remove_dir_all(&self.at).with_context(|| self.at.display().to_string())
    }
}

fn used(at: &Path) -> Result<u64> {
    let is = rustix::fs::statvfs(at).with_context(|| at.display().to_string())?;
    Ok((is.f_blocks - is.f_bfree) * is.f_frsize)
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let program = crate::host::places::host_program(program)?;
    let ran = Command::new(&program).args(args).output();
    let ran = ran.with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{} {args:?}: {}", program.display(), said.escape_debug());
    Ok(())
}
