//! The device of an activation that is up and that nobody has open, to be read as it is.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use thin::{ActiveThin, Pool, ThinId};

use crate::error::Error;
use crate::store::content::Content;
use crate::store::pool_read::told;
use crate::store::seam::Reading;

/// See the module. It is opened for itself alone, so that it is mounted by nobody meanwhile.
struct ActiveReading {
    pool: Pool,
    id: ThinId,
    device: File,
}

/// Opens the device.
///
/// # Errors
/// [`Error::Held`] where somebody has it open, or its I/O is held back.
pub(super) fn open(pool: &Pool, active: ActiveThin) -> Result<Box<dyn Reading>, Error> {
    let (path, id) = (Path::new("/dev/mapper").join(&active.name), active.id);
    let held = |by: String| Error::Held { what: active.name.clone(), by };
    if active.suspended || !active.has_table {
        return Err(held("its device is suspended, or was never made whole".into()));
    }
    if let Some(holders) = pool.held(id)? {
        return Err(held(told(&holders)));
    }
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_EXCL);
    match options.open(&path) {
        Ok(device) => Ok(Box::new(ActiveReading { pool: pool.clone(), id, device })),
        Err(source) if source.raw_os_error() == Some(nix::libc::EBUSY) => {
            Err(held("somebody has just taken it for himself, such as by a mount".into()))
        }
        Err(source) => Err(Error::Io { doing: "open", path, source }),
    }
}

impl Reading for ActiveReading {
    fn content(&self) -> Content<'_> {
        Content::Image(&self.device)
    }

    /// # Errors
    /// [`Error::Held`] where somebody has opened it meanwhile: what was read may be neither before nor after.
    fn close(self: Box<Self>) -> Result<(), Error> {
        let ActiveReading { pool, id, device } = *self;
        drop(device);
        match pool.held(id)? {
            None => Ok(()),
            Some(holders) => {
                let by = format!("it was opened while it was read: {}", told(&holders));
                Err(Error::Held { what: format!("volume {id}"), by })
            }
        }
    }
}
