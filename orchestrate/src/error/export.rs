//! Why an activation was not exported, beyond what a store or a file says itself.

use std::fmt;
use std::path::PathBuf;

use fetch::image::Digest;

use crate::error::class::Class;

/// What keeps an activation from becoming a layer, or that layer from becoming an image.
#[derive(Debug)]
pub enum NotExported {
    /// Somebody has it open, and may be writing to it.
    Open {
        /// The activation.
        name: String,
        /// Who, in words.
        by: String,
    },
    /// It is being made or removed.
    Passing {
        /// The activation.
        name: String,
        /// The word of its state.
        state: &'static str,
    },
    /// The file that the layer is to be is there, and no regular file.
    NoFile {
        /// Its path.
        path: PathBuf,
    },
    /// There is no directory for the file that the layer is to be.
    NoDirectory {
        /// The file's path.
        path: PathBuf,
    },
    /// The image that it is an activation of has no manifest that a layer could be added to.
    NoManifest {
        /// The activation.
        name: String,
        /// The image.
        image: String,
    },
    /// The layout lacks something of the image that it is an activation of.
    NotThere {
        /// The layout.
        dir: PathBuf,
        /// The image.
        image: String,
        /// What is lacking.
        digest: Digest,
    },
}

impl NotExported {
    /// Its class.
    pub(crate) fn class(&self) -> Class {
        match self {
            NotExported::Open { .. } | NotExported::Passing { .. } => Class::Temporary,
            NotExported::NoFile { .. } | NotExported::NoManifest { .. } => Class::Usage,
            NotExported::NoDirectory { .. } | NotExported::NotThere { .. } => Class::NotFound,
        }
    }
}

impl fmt::Display for NotExported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &PathBuf| path.display().to_string().escape_debug().to_string();
        match self {
            NotExported::Open { name, by } => write!(
                f,
                "activation {name} is in use: {by}. What is exported must not change meanwhile: close it (a mount: \
                 `orchestrate umount`) and try again, or export a fork of it \
                 where the store is a pool"
            ),
            NotExported::Passing { name, state } => {
                write!(f, "activation {name} is {state}: try again when that has ended")
            }
            NotExported::NoFile { path } => write!(
                f,
                "{} is there and is no regular file; without -o the layer goes to standard output",
                shown(path)
            ),
            NotExported::NoDirectory { path } => {
                write!(f, "{}: the directory above it is not there", shown(path))
            }
            NotExported::NoManifest { name, image } => write!(
                f,
                "activation {name} is of {}, which has no manifest that a layer could be added to; export the layer \
                 by -o FILE: as the next number below a prefix it is the next layer of numbered ones",
                image.escape_debug()
            ),
            NotExported::NotThere { dir, image, digest } => write!(
                f,
                "the layout {} does not have {digest}, which is a part of {}: a new image needs all layers of the \
                 old one beside it; copy that there first, such as by `skopeo copy`",
                shown(dir),
                image.escape_debug()
            ),
        }
    }
}
