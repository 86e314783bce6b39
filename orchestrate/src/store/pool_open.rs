//! A thin volume that is open through a mount: to be applied to, or to be read. Both are mounted detached.

use std::os::fd::{AsFd as _, OwnedFd};

use thin::{Pool, SECTOR_BYTES, Volume};

use crate::error::Error;
use crate::store::content::Content;
use crate::store::pool_seal;
use crate::store::seam::{Reading, Tree, View, Work};

/// How a work volume is mounted. Power loss may tear it: an unsealed volume is thrown away, and
/// sealing syncs and commits the pool before anybody relies on it.
const WORK_OPTIONS: &[(&str, Option<&str>)] = &[
    ("noexec", None),
    ("noinit_itable", None),
    ("nodiscard", None),
    ("barrier", Some("0")),
    // The older search for free blocks keeps what is written together in one place: docs/space.md.
    ("mb_optimize_scan", Some("0")),
    ("errors", Some("remount-ro")),
];

/// A volume grows by whole ext4 block groups.
const GROUP_BYTES: u64 = 128 << 20;

pub(super) fn mount(volume: &Volume) -> Result<(OwnedFd, unpack::Root), Error> {
    let mount = thin::mount::detached(&volume.path(), "ext4", WORK_OPTIONS, false)?;
    gather(volume);
    let root = thin::mount::open_root(mount.as_fd())?;
    let root = unpack::Root::from_fd(root)
        .map_err(|source| Error::Tree { doing: "open the volume's root", source })?;
    Ok((mount, root))
}

/// Has ext4 put every file where the last one ended, small ones too: 2 % fewer pool blocks. A kernel
/// or a container without this file does without.
fn gather(volume: &Volume) {
    let knob = format!("/sys/fs/ext4/dm-{}/mb_stream_req", volume.dev.minor);
    drop(std::fs::write(knob, "0"));
}

/// A sealed volume, active read-only and mounted detached.
pub(super) struct ThinView {
    pub(super) pool: Pool,
    /// Its device; none where that is somebody else's, who looks at the volume too.
    pub(super) name: Option<String>,
    pub(super) mount: OwnedFd,
    pub(super) root: unpack::Root,
}

impl View for ThinView {
    fn tree(&self) -> Tree<'_> {
        Tree::Mount(self.mount.as_fd())
    }

    fn root(&self) -> &unpack::Root {
        &self.root
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        let ThinView { pool, name, mount, root } = *self;
        drop((root, mount));
        if let Some(name) = name {
            pool.deactivate(&name)?;
        }
        Ok(())
    }
}

impl Reading for ThinView {
    fn content(&self) -> Content<'_> {
        Content::Tree(&self.root)
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        View::close(self)
    }
}

/// An active work volume with its detached mount.
pub(super) struct ThinWork {
    pub(super) pool: Pool,
    pub(super) volume: Volume,
    pub(super) mount: OwnedFd,
    pub(super) root: unpack::Root,
}

impl ThinWork {
    fn stat(&self) -> Result<nix::sys::statvfs::Statvfs, Error> {
        nix::sys::statvfs::fstatvfs(&self.root).map_err(|errno| Error::Io {
            doing: "measure",
            path: self.volume.path(),
            source: errno.into(),
        })
    }

    /// Grows the file system to the size of its volume.
    pub(super) fn fill_volume(&mut self) -> Result<(), Error> {
        let bytes = self.volume.sectors.bytes();
        let stat = self.stat()?;
        // Metadata is not counted in `blocks`, so only a difference of a group means something.
        if stat.blocks() * stat.fragment_size() + bytes / 8 + GROUP_BYTES < bytes {
            thin::mount::grow_ext4(self.mount.as_fd(), bytes)?;
        }
        Ok(())
    }
}

impl Work for ThinWork {
    fn content(&self) -> Content<'_> {
        Content::Tree(&self.root)
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), Error> {
        admit(&self.pool, bytes, 0)?;
        let stat = self.stat()?;
        let room = stat.blocks_available() * stat.fragment_size();
        // Each file ends in a partly used block, and directories and maps come on top.
        let needs = bytes + bytes / 4 + (16 << 20);
        if needs > room {
            let more = (needs - room).div_ceil(GROUP_BYTES) * GROUP_BYTES;
            let grown = self.volume.sectors.bytes() + more;
            self.volume = self.volume.grow(&self.pool, grown.div_ceil(SECTOR_BYTES))?;
            thin::mount::grow_ext4(self.mount.as_fd(), self.volume.sectors.bytes())?;
        }
        Ok(())
    }

    fn has_room(&self, bytes: u64) -> Result<(), Error> {
        admit(&self.pool, bytes, 0)?;
        let stat = self.stat()?;
        let free = stat.blocks_available() * stat.fragment_size();
        let needs = bytes + bytes / 4;
        match needs <= free {
            true => Ok(()),
            false => {
                let what =
                    "what is to be copied into the activation; a larger --size makes room for it";
                Err(Error::NoSpace { what: what.into(), needs, free, garbage: None })
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.volume.sectors.bytes()
    }

    fn close(self: Box<Self>, seal_record: Option<&[u8]>) -> Result<(), Error> {
        let ThinWork { pool, volume, mount, root } = *self;
        unpack::sync(&root).map_err(|source| Error::Tree { doing: "sync the layer", source })?;
        drop((root, mount));
        if let Some(seal_record) = seal_record {
            pool_seal::write(&volume.path(), seal_record)?;
        }
        pool.deactivate(&volume.name)?;
        pool.commit()?;
        Ok(())
    }
}

/// Asked before work: data and metadata, each with a reserve, so that no build takes the last block
/// from those who write to activations.
pub(crate) fn admit(pool: &Pool, bytes: u64, volumes: u64) -> Result<(), Error> {
    let need = thin::Need { bytes, pieces: 0, volumes };
    match pool.admit(need, thin::Reserve::default()) {
        Ok(_) => Ok(()),
        Err(thin::Error::NoRoom { room, .. }) if room.needs_data > room.free_data => {
            Err(Error::NoSpace {
                what: format!("the layer in pool {:?}", pool.name()),
                needs: bytes,
                free: room.free_data * room.block_bytes,
                garbage: None,
            })
        }
        Err(error) => Err(error.into()),
    }
}
