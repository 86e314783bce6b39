//! `verify`: does every sealed volume still hold the tree that was sealed?

use registry::{Digest, Volume, VolumeState};
use serde::Serialize;

use crate::{Error, Host};

/// What was found of one sealed volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeFinding {
    /// The volume.
    pub volume: u32,
    /// Its chain id; none for the template.
    pub chain: Option<Digest>,
    /// The digest of its tree at the seal.
    pub sealed: Option<Digest>,
    /// What became of it.
    #[serde(flatten)]
    pub now: Now,
}

/// What became of a sealed tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "now", rename_all = "lowercase")]
pub enum Now {
    /// It is as it was.
    Intact,
    /// It holds something else.
    Changed {
        /// The digest now.
        found: Digest,
    },
    /// It cannot be read.
    Unreadable {
        /// Why.
        why: String,
    },
    /// No digest was recorded.
    Unknown,
}

impl Host {
    /// Reads the sealed volumes of `image`, or all of them, whole, and compares digests. Changes
    /// nothing. A volume that cannot be read does not keep the others from being read.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an image that is not here; those of registry and locks.
    pub fn verify(&mut self, image: Option<&str>) -> Result<Vec<VolumeFinding>, Error> {
        // What is looked at stays as long as that takes.
        let _using = self.locks.images_shared()?;
        let stack: Option<Vec<u32>> = match image {
            None => None,
            Some(name) => {
                let unknown = || Error::Unknown { what: "image", name: name.into() };
                let image = self.registry.image(name)?.ok_or_else(unknown)?;
                Some(image.layers.iter().map(|layer| layer.volume).collect())
            }
        };
        let mut findings = Vec::new();
        for volume in self.registry.volumes()? {
            let wanted = stack.as_ref().is_none_or(|stack| stack.contains(&volume.id));
            let VolumeState::Sealed(seal) = &volume.state else { continue };
            if !wanted || seal.chain.is_none() {
                continue;
            }
            self.settings.cancel.check()?;
            self.say(1, format_args!("reading volume {}", volume.id));
            let now = match seal.tree {
                None => Now::Unknown,
                Some(sealed) => match self.tree_now(&volume) {
                    Ok(found) if found == sealed => Now::Intact,
                    Ok(found) => Now::Changed { found },
                    Err(error) => Now::Unreadable { why: error.to_string() },
                },
            };
            let (chain, sealed) = (seal.chain, seal.tree);
            findings.push(VolumeFinding { volume: volume.id, chain, sealed, now });
        }
        Ok(findings)
    }

    fn tree_now(&self, volume: &Volume) -> Result<Digest, Error> {
        // Recovery by another process leaves a volume alone whose lock is held.
        let _mine = self.locks.build(&volume.build)?;
        let view = {
            let _store = self.locks.store()?;
            self.store.look(volume.id, volume.bytes)?
        };
        let digest = unpack::tree_digest(view.root())
            .map_err(|source| Error::Tree { doing: "read a sealed tree", source });
        view.close()?;
        Ok(Digest(digest?))
    }
}
