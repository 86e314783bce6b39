//! The volume of a pool that keeps the believed serials: a header that is written once, and two copies,
//! each in sectors of its own. What is in a copy is in `serials`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use thin::{Access, Pool, SECTOR_BYTES, ThinId};

use crate::error::Error;
use crate::store::seal::SERIALS_MAGIC;
use crate::store::seam::COPY_BYTES;

/// Bytes of the volume: one block of a pool, whose blocks are of this size at least.
pub(super) const VOLUME_BYTES: u64 = 64 << 10;

/// Where the copies are.
const COPIES_AT: [u64; 2] = [4 << 10, 32 << 10];

/// Does something on the volume, active under the first of these names. What a killed process left of it
/// under either goes first: nobody else is at it under the store's lock.
pub(super) fn on<T>(
    pool: &Pool,
    thin: ThinId,
    names: [String; 2],
    access: Access,
    work: impl FnOnce(&Path) -> Result<T, Error>,
) -> Result<T, Error> {
    if let Some(left) = pool.active_as(thin)?
        && names.contains(&left.name)
    {
        pool.deactivate(&left.name)?;
    }
    let block = pool.block_sectors();
    let sectors = (VOLUME_BYTES / SECTOR_BYTES).div_ceil(block) * block;
    let volume = pool.activate(thin, &names[0], sectors, access)?;
    let done = work(&volume.path());
    pool.deactivate(&names[0])?;
    done
}

fn fail(doing: &'static str, device: &Path) -> impl Fn(io::Error) -> Error {
    let device = device.to_owned();
    move |source| Error::Io { doing, path: device.clone(), source }
}

/// Both copies, as they stand; none where the device does not begin with the header.
pub(super) fn read(device: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let fail = fail("read the believed serials on", device);
    let file = File::open(device).map_err(&fail)?;
    let mut header = [0; SERIALS_MAGIC.len()];
    file.read_exact_at(&mut header, 0).map_err(&fail)?;
    if header != *SERIALS_MAGIC {
        return Ok(Vec::new());
    }
    let copy = |at: &u64| {
        let mut bytes = vec![0; COPY_BYTES];
        file.read_exact_at(&mut bytes, *at).map(|()| bytes)
    };
    COPIES_AT.iter().map(copy).collect::<io::Result<_>>().map_err(fail)
}

/// Writes one copy, after the header where that is not there; the other copy is not touched.
pub(super) fn write(device: &Path, copy: usize, bytes: &[u8]) -> Result<(), Error> {
    let fail = fail("write the believed serials on", device);
    if bytes.len() > COPY_BYTES || copy >= COPIES_AT.len() {
        return Err(fail(io::ErrorKind::InvalidInput.into()));
    }
    let file = OpenOptions::new().read(true).write(true).open(device).map_err(&fail)?;
    let mut header = [0; SERIALS_MAGIC.len()];
    file.read_exact_at(&mut header, 0).map_err(&fail)?;
    if header != *SERIALS_MAGIC {
        file.write_all_at(SERIALS_MAGIC, 0).and_then(|()| file.sync_all()).map_err(&fail)?;
    }
    let mut whole = bytes.to_vec();
    whole.resize(COPY_BYTES, 0);
    file.write_all_at(&whole, COPIES_AT[copy]).and_then(|()| file.sync_all()).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_read_as_it_was_written_and_leaves_the_other_alone() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("device");
        std::fs::write(&device, vec![0xff; 64 << 10]).unwrap();
        assert!(read(&device).unwrap().is_empty(), "no header");
        write(&device, 0, b"first").unwrap();
        write(&device, 1, b"second").unwrap();
        let copies = read(&device).unwrap();
        assert!(copies[0].starts_with(b"first\0") && copies[1].starts_with(b"second\0"));
        write(&device, 0, &[7; COPY_BYTES]).unwrap();
        let copies = read(&device).unwrap();
        assert_eq!(copies[0], [7; COPY_BYTES]);
        assert!(copies[1].starts_with(b"second\0"));
        assert_eq!(std::fs::metadata(&device).unwrap().len(), VOLUME_BYTES);
        assert!(write(&device, 0, &[0; COPY_BYTES + 1]).is_err());
        assert!(write(&device, 2, b"").is_err());
    }
}
