//! The seal record on a thin volume: the first 1024 bytes of its device, which ext4 leaves alone; with the
//! mark of a writer in the last 128 of them only the 896 before.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::error::Error;
use crate::store::seal::{Mark, RECORD_BYTES};

/// Writes the seal record. The tree is on disk before it: what has a seal record is whole.
pub(crate) fn write(device: &Path, seal_record: &[u8]) -> Result<(), Error> {
    let fail =
        |source| Error::Io { doing: "write the seal record on", path: device.into(), source };
    if ![RECORD_BYTES, RECORD_BYTES - size_of::<Mark>()].contains(&seal_record.len()) {
        return Err(fail(io::ErrorKind::InvalidInput.into()));
    }
    let mut file = OpenOptions::new().write(true).open(device).map_err(fail)?;
    // A mount without barriers may have come before: this makes the disk keep the order.
    file.sync_all()
        .and_then(|()| file.write_all(seal_record))
        .and_then(|()| file.sync_all())
        .map_err(fail)
}

/// The bytes where a seal record would be, and the superblock after them.
pub(crate) fn read(device: &Path) -> Result<Vec<u8>, Error> {
    // With what follows: the ext4 superblock tells the size of the file system.
    let mut seal_record = vec![0; 2 * RECORD_BYTES];
    File::open(device).and_then(|mut file| file.read_exact(&mut seal_record)).map_err(
        |source| Error::Io { doing: "read the seal record on", path: device.into(), source },
    )?;
    Ok(seal_record)
}
