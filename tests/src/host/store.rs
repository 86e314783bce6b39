//! The image store: a disk image of the S3 server's data folder, made by putting every object
//! through the server's own API (so that it has their ETags), and kept until the images change.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::places::Places;
use super::qemu::{Disk, Keeps};
use crate::images::{self, Set};
use crate::s3::{self, BUCKET, Server};
use crate::scenario::Images;

/// The disk with these images; none for [`Images::None`].
///
/// # Errors
/// The images cannot be built, or the disk cannot be made.
pub fn disk(places: &Places, wanted: Images) -> Result<Option<Disk>> {
    let set = match wanted {
        Images::None => return Ok(None),
        Images::Small => Set::Small,
        Images::Full => Set::Full,
    };
    let file = image(places, set)?;
    Ok(Some(Disk { serial: "store".to_owned(), file, keeps: Keeps::Nothing }))
}

fn image(places: &Places, set: Set) -> Result<PathBuf> {
    let folder = places.images.join(set.name());
    images::build(set, &places.images, false).context("build the images")?;
    let manifest = std::fs::read_to_string(folder.join("manifest.json"))?;
    let disk = places.work.join(format!("store-{}.img", set.name()));
    let made_of = disk.with_extension("json");
    if disk.exists() && std::fs::read_to_string(&made_of).is_ok_and(|old| old == manifest) {
        return Ok(disk);
    }
    println!("store {}: put through the S3 server into a disk image", set.name());
    make(places, &folder, &disk)?;
    std::fs::write(made_of, manifest)?;
    Ok(disk)
}

fn make(places: &Places, folder: &Path, disk: &Path) -> Result<()> {
    let root = disk.with_extension("dir");
    if root.exists() {
        std::fs::remove_dir_all(&root)?;
    }
    std::fs::create_dir_all(&root)?;
    let server = Server::start(&places.s3_server(), &root, None)?;
    s3::make_bucket(server.address, BUCKET)?;
    // Layers that several families share are hard links of one file: keep that on the disk.
    let mut first: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut bytes = 0;
    for family in ["golang", "node", "python"] {
        for number in 1..=5 {
            let key = format!("images/{family}/{number}.tar");
            let source = folder.join(format!("{family}/{number}.tar"));
            let mut file = File::open(&source).with_context(|| source.display().to_string())?;
            let found = file.metadata()?;
            s3::put(server.address, BUCKET, &key, &mut file, found.len())?;
            let stored = root.join(BUCKET).join(&key);
            if std::fs::metadata(&stored)?.len() != found.len() {
                bail!("the S3 server keeps {} elsewhere than expected", stored.display());
            }
            let identity = std::os::unix::fs::MetadataExt::ino(&found);
            match first.get(&(identity, found.len())) {
                None => {
                    bytes += found.len();
                    first.insert((identity, found.len()), stored);
                }
                Some(same) => {
                    std::fs::remove_file(&stored)?;
                    std::fs::hard_link(same, &stored)?;
                }
            }
        }
    }
    drop(server);
    pack(places, &root, disk, bytes)?;
    std::fs::remove_dir_all(&root)?;
    Ok(())
}

/// ext4 from a folder, without root. Room is left for what scenarios put there.
fn pack(places: &Places, root: &Path, disk: &Path, bytes: u64) -> Result<()> {
    let size = bytes + bytes / 32 + (256 << 20);
    File::create(disk)?.set_len(size)?;
    let guest = places.guest_root()?;
    let output = guest
        .command("mke2fs")?
        .env("MKE2FS_CONFIG", guest.path("etc/mke2fs.conf"))
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"])
        .arg(root)
        .arg(disk)
        .output()
        .context("run mke2fs")?;
    if !output.status.success() {
        bail!("mke2fs: {}", String::from_utf8_lossy(&output.stderr).escape_debug());
    }
    Ok(())
}
