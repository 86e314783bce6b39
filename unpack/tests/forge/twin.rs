//! The other way to make a tree: whatever a test applies to its directory goes into an image as well, and
//! both have to say the same.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use unpack::{
    Applied, Before, Error, Geometry, ImageError, Limits, Root, apply_image, geometry, grow_image,
    image_manifest_strict, make_blank, tree_digest, tree_manifest,
};

/// An image with the same layers as a directory, as long as nobody else has a hand in that.
#[derive(Debug)]
pub(crate) struct Twin {
    image: PathBuf,
    /// The digest of the directory when both were last the same; none once they are not.
    same: Option<[u8; 32]>,
    /// Whether the image becomes larger where a layer does not fit.
    grows: bool,
}

impl Twin {
    pub(crate) fn new(image: &Path, root: &Path) -> Twin {
        let geometry = Geometry::new(512 << 20, 4096, 40_000, 1 << 20).unwrap();
        Twin::of(image, root, geometry, false)
    }

    /// One whose image becomes larger where a layer does not fit.
    pub(crate) fn growing(image: &Path, root: &Path, geometry: Geometry) -> Twin {
        Twin::of(image, root, geometry, true)
    }

    fn of(image: &Path, root: &Path, geometry: Geometry, grows: bool) -> Twin {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(image);
        let file = file.unwrap();
        file.set_len(geometry.bytes()).unwrap();
        make_blank(&file, geometry, Before::Unknown).unwrap();
        Twin { image: image.to_path_buf(), same: digest(root), grows }
    }

    /// Makes the image larger: the tree in it stays, and e2fsck is content.
    pub(crate) fn grow(&self) {
        if self.same.is_some() {
            grow(&self.image);
        }
    }

    /// How often the image was made larger.
    pub(crate) fn doublings(&self) -> u32 {
        geometry(&File::open(&self.image).unwrap()).map_or(0, |geometry| geometry.doublings)
    }

    /// Applies the layer to what the image was before, at its size or as often doubled as it needs. Failures on the
    /// way are seen in no byte.
    fn fitting(&self, layer: &[u8], limits: &Limits) -> Result<Applied, ImageError> {
        let apply = |image: &Path| {
            let file = File::options().read(true).write(true).open(image).unwrap();
            apply_image(layer, &file, limits, None)
        };
        let at = |name: &str| self.image.with_extension(name);
        let (parent, before) = (at("parent"), at("before"));
        fs::copy(&self.image, &parent).unwrap();
        fs::copy(&self.image, &before).unwrap();
        let mut doublings = 0;
        let applied = loop {
            match apply(&self.image) {
                Err(error) if error.is_full() => {}
                other => break other,
            }
            doublings += 1;
            grow(&before);
            fs::copy(&before, &self.image).unwrap();
        };
        if doublings > 0 && applied.is_ok() {
            (0..doublings).for_each(|_| grow(&parent));
            apply(&parent).unwrap();
            assert!(fs::read(&parent).unwrap() == fs::read(&self.image).unwrap());
            checked(&self.image);
        }
        fs::remove_file(parent).unwrap();
        fs::remove_file(before).unwrap();
        applied
    }

    /// From now on the directory is alone: to compare it is to read it.
    pub(crate) fn end(&mut self) {
        self.same = None;
    }

    /// Whether the directory is still as the layers left it.
    pub(crate) fn is_same(&self, root: &Path) -> bool {
        self.same.is_some() && digest(root) == self.same
    }

    /// Applies the layer here too, and compares.
    pub(crate) fn apply(
        &mut self,
        layer: &[u8],
        limits: &Limits,
        root: &Path,
        there: &Result<Applied, Error>,
    ) {
        let file = File::options().read(true).write(true).open(&self.image).unwrap();
        let here = match self.grows {
            true => self.fitting(layer, limits),
            false => apply_image(layer, &file, limits, None),
        };
        self.same = None;
        match (&here, there) {
            (Ok(here), Ok(there)) => {
                // Not the steps: a kernel gives a number to a new directory that a removed one had, and what was
                // known of that one is known again.
                assert_eq!(
                    (here.entries, here.tree_digest, here.implicit_dirs),
                    (there.entries, there.tree_digest, there.implicit_dirs)
                );
                // An image has a `lost+found` as well, which an opaque root takes away.
                let more = here.removals.checked_sub(there.removals);
                assert!(more.is_some_and(|more| more <= 2), "{here:?} and {there:?}");
                let (mut image, mut directory) = (Vec::new(), Vec::new());
                image_manifest_strict(&file, &mut image, &Limits::default()).unwrap();
                let root_of = Root::open(root).unwrap();
                tree_manifest(&root_of, &mut [], &mut directory).unwrap();
                compare(&image, &directory);
                self.same = digest(root);
            }
            (Err(ImageError::Layer(here)), Err(there)) => {
                let told = |error: &Error| (error.class(), error.kind());
                assert_eq!(told(here), told(there), "{here:?} and {there:?}");
            }
            // Other file systems take more of them than ext4.
            (Err(ImageError::Layer(here)), Ok(there)) if there.hardlinks >= 65_000 => {
                assert!(here.to_string().contains("too many links to one inode"), "{here}");
            }
            (here, there) => panic!("{here:?} and {there:?}"),
        }
    }
}

fn digest(root: &Path) -> Option<[u8; 32]> {
    tree_digest(&Root::open(root).ok()?).ok()
}

fn grow(image: &Path) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let tree = || {
        let mut manifest = Vec::new();
        image_manifest_strict(&file, &mut manifest, &Limits::default()).unwrap();
        manifest
    };
    let before = tree();
    let to = geometry(&file).unwrap().doubled().unwrap();
    file.set_len(to.bytes()).unwrap();
    assert_eq!(grow_image(&file).unwrap(), to);
    assert!(tree() == before);
    checked(image);
}

/// Line for line, but for the root's own time and mode where no entry has set it, and `lost+found`.
fn compare(image: &[u8], directory: &[u8]) {
    let lines = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let ours = |line: &&str| {
            !line.starts_with(r#"{"path":"lost+found""#) && !line.starts_with(r#"{"path":".","#)
        };
        text.lines().filter(ours).map(str::to_owned).collect()
    };
    let (image, directory) = (lines(image), lines(directory));
    for (image, directory) in image.iter().zip(&directory) {
        assert_eq!(image, directory);
    }
    assert_eq!(image.len(), directory.len());
}

/// The image is as e2fsck wants it, where that is installed.
pub(crate) fn checked(image: &Path) {
    let Ok(out) = std::process::Command::new("e2fsck").arg("-fn").arg(image).output() else {
        return;
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

impl Drop for Twin {
    fn drop(&mut self) {
        if self.same.is_some() && !std::thread::panicking() {
            checked(&self.image);
        }
        match fs::remove_file(&self.image) {
            Ok(()) | Err(_) => {}
        }
    }
}
