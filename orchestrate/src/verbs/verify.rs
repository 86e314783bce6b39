//! `verify`: does every sealed volume still hold what was sealed? One that does not is condemned. What is compared
//! are the blocks of its device, where their digest was recorded, and else its tree.

use std::collections::BTreeMap;

use registry::{Digest, Volume, VolumeId, VolumeState};
use serde::Serialize;
use unpack::{ImageError, Unfit};

use crate::error::Error;
use crate::error::class::Class;
use crate::error::leaves::whole;
use crate::error::unseen::Unseen;
use crate::host::Host;
use crate::plan::class::class;
use crate::plan::condemned::{Standing, standing};
use crate::store::content::Content;
use crate::verbs::build::ground;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Whether all that was looked at is as it was sealed.
    pub intact: bool,
    /// Each volume.
    pub volumes: Vec<VolumeFinding>,
    /// The condemned volumes among them, also those that were before, and what stands on them.
    #[serde(flatten)]
    pub standing: Standing,
}

/// What was found of one sealed volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeFinding {
    /// The volume.
    pub volume: VolumeId,
    /// Its chain id; none for the template.
    pub chain: Option<Digest>,
    /// The digest of its tree at the seal.
    pub sealed: Option<Digest>,
    /// The digest of its blocks at the seal; none where its store has no images.
    pub blocks: Option<Digest>,
    /// What of it was read and compared; none where nothing was.
    pub compared: Option<Measure>,
    /// What became of it.
    #[serde(flatten)]
    pub now: Now,
}

/// What of a volume is compared with its seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// The blocks of its device that are in use.
    Blocks,
    /// Its tree, node by node.
    Tree,
}

/// What became of a sealed volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "now", rename_all = "lowercase")]
pub enum Now {
    /// It is as it was.
    Intact,
    /// It holds something else.
    Changed {
        /// The digest now, of what was compared.
        found: Digest,
        /// The first chunks of 1 MiB that differ, by number, where blocks were compared and their list is at hand.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        chunks: Vec<u64>,
    },
    /// It cannot be read, or is gone.
    Unreadable {
        /// Why.
        why: String,
    },
    /// It was condemned before, and is not read again.
    Condemned {
        /// Why.
        why: String,
    },
    /// It was not looked at: something was in the way of that, and nothing is said of the volume.
    Unseen {
        /// What.
        why: String,
        /// The word of the failure's class.
        class: &'static str,
    },
    /// No digest was recorded.
    Unknown,
}

impl Now {
    /// Why a volume of which this was found is to be condemned.
    fn condemns(&self, measure: Option<Measure>) -> Option<String> {
        let what = match measure {
            Some(Measure::Blocks) => "its blocks differ from what was sealed: their digest",
            Some(Measure::Tree) | None => "its tree differs from what was sealed: it",
        };
        match self {
            Now::Changed { found, .. } => Some(format!("{what} is {}", found.short())),
            Now::Unreadable { why } => Some(format!("it cannot be read: {why}")),
            Now::Intact | Now::Condemned { .. } | Now::Unseen { .. } | Now::Unknown => None,
        }
    }
}

impl Verified {
    /// What kept volumes from being looked at. What may go away by itself counts for more, as where runs are
    /// taken up: who tries again sees the rest then.
    pub fn unseen(&self) -> Option<Error> {
        let unseen: Vec<(&String, Class)> = self
            .volumes
            .iter()
            .filter_map(|line| match &line.now {
                Now::Unseen { why, class } => Some((why, Class::from_word(class)?)),
                Now::Intact
                | Now::Changed { .. }
                | Now::Unreadable { .. }
                | Now::Condemned { .. }
                | Now::Unknown => None,
            })
            .collect();
        let (why, class) = unseen.iter().max_by_key(|(_, class)| class.exit_code())?;
        Some(Error::Unseen(Unseen { volumes: unseen.len(), class: *class, why: (*why).clone() }))
    }
}

impl Host {
    /// Reads the sealed volumes of `image`, or all of them, whole, and compares digests. One that is not
    /// as it was sealed is condemned, with those that stand on it. A volume that cannot be read does not
    /// keep the others from being read.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an image that is not here; those of registry and locks.
    pub fn verify(&mut self, image: Option<&str>) -> Result<Verified, Error> {
        let stack: Option<Vec<VolumeId>> = match image {
            None => None,
            Some(name) => {
                let name = &self.own_name(name)?;
                let image = self.registry.image(name)?;
                let image = image.ok_or_else(|| self.unknown("image", name))?;
                Some(image.layers.iter().map(|layer| layer.volume).collect())
            }
        };
        let wanted = |id: VolumeId| stack.as_ref().is_none_or(|stack| stack.contains(&id));
        let mut volumes = Vec::new();
        for volume in self.registry.volumes()? {
            let VolumeState::Sealed(seal) = &volume.state else { continue };
            if !wanted(volume.id) || seal.chain.is_none() {
                continue;
            }
            self.settings.cancel.check()?;
            let sealed = match (seal.blocks, seal.tree) {
                (Some(blocks), _) => Some((Measure::Blocks, blocks)),
                (None, tree) => tree.map(|tree| (Measure::Tree, tree)),
            };
            let (compared, now) = match (&volume.condemned, sealed) {
                (Some(why), _) => (None, Now::Condemned { why: why.clone() }),
                (None, None) => (None, Now::Unknown),
                (None, Some(sealed)) => {
                    self.say(1, format_args!("reading volume {}", volume.id));
                    let found = self.look_at(&volume, sealed);
                    self.settings.cancel.check()?;
                    (Some(sealed.0), found)
                }
            };
            // What was removed before it was looked at is no finding.
            if now != Now::Intact && self.still_sealed(volume.id).is_err() {
                continue;
            }
            let (chain, sealed, blocks) = (seal.chain, seal.tree, seal.blocks);
            volumes.push(VolumeFinding { volume: volume.id, chain, sealed, blocks, compared, now });
        }
        let bad: BTreeMap<VolumeId, String> = volumes
            .iter()
            .filter_map(|line| Some((line.volume, line.now.condemns(line.compared)?)))
            .collect();
        self.condemn(&bad)?;
        let rows = self.registry.volumes()?;
        let (images, activations) = (self.registry.images()?, self.registry.activations()?);
        let mut found = standing(&rows, &images, &activations);
        if let Some(stack) = &stack {
            // Of one image: what others stand on is not asked for.
            let looked: Vec<Volume> =
                rows.into_iter().filter(|row| stack.contains(&row.id)).collect();
            found = standing(&looked, &images, &activations);
        }
        let intact = volumes.iter().all(|line| line.now == Now::Intact);
        Ok(Verified { intact, volumes, standing: found })
    }

    /// What cannot be taken back is decided by two looks: a disk may stumble once.
    fn look_at(&self, volume: &Volume, sealed: (Measure, Digest)) -> Now {
        match self.look_once(volume, sealed) {
            bad if bad.condemns(None).is_some() => self.look_once(volume, sealed),
            now => now,
        }
    }

    fn look_once(&self, volume: &Volume, (measure, sealed): (Measure, Digest)) -> Now {
        match self.found_now(volume, measure) {
            Ok((found, _)) if found == sealed => Now::Intact,
            Ok((found, chunks)) => Now::Changed { found, chunks },
            Err(error) if self.is_of_the_volume(&error) => Now::Unreadable { why: whole(&error) },
            Err(error) => Now::Unseen { why: whole(&error), class: class(&error).word() },
        }
    }

    /// Whether a failed look says something of the volume, and not of what was in the way.
    fn is_of_the_volume(&self, error: &Error) -> bool {
        use nix::errno::Errno;
        let of_the_host = |code: Option<i32>| {
            let short = [Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE, Errno::EAGAIN, Errno::EINTR];
            let missing = [Errno::ENODEV, Errno::ENOSYS, Errno::EBUSY, Errno::ENXIO];
            let errno = code.map(Errno::from_raw);
            errno.is_none_or(|errno| short.contains(&errno) || missing.contains(&errno))
        };
        let bad = match error {
            Error::Lost { .. } => return true,
            Error::Volume { source, .. } => {
                return matches!(**source, Unfit::Changed | Unfit::Unsealed | Unfit::Short { .. });
            }
            Error::Tree { source: unpack::Error::Fs { source, .. }, .. } => {
                let denied = source.kind() == std::io::ErrorKind::PermissionDenied;
                !denied && !of_the_host(source.raw_os_error())
            }
            Error::Tree { source, .. } => source.kind() == unpack::Kind::Refused,
            // The kernel finds no file system that it can mount.
            Error::Thin(thin::Error::Mount { errno, .. }) => {
                let denied = [Errno::EPERM, Errno::EACCES].contains(errno);
                !denied && !of_the_host(Some(*errno as i32))
            }
            _ => false,
        };
        // Of a pool that has failed nothing can be read.
        bad && self.store.condition().is_ok_and(|store| store.mode != "fail")
    }

    /// In a child behind the walls, as when it was sealed: a tree is as large and as odd as layers make it,
    /// and whoever had the device may have written another file system. Each layer has its time.
    fn tree_digest(&self, tree: Content<'_>, volume: &Volume) -> Result<Digest, Error> {
        let limits = self.limits_of_tree(volume)?;
        let (digest, _) = tree
            .digest(&[], None, &limits, &self.settings.cancel.stop())
            .map_err(|source| Error::Tree { doing: "read a sealed tree", source })?;
        Ok(Digest(digest))
    }

    /// All blocks of an image that are in use are read; which chunks differ is said where their list is at hand.
    fn blocks(&self, device: Content<'_>, volume: &Volume) -> Result<(Digest, Vec<u64>), Error> {
        let list = self.manifests.chunks(volume);
        let doing = "read the blocks of a sealed volume";
        match device.blocks(list.as_ref(), &self.settings.cancel.stop()) {
            Ok(found) => Ok((Digest(found.digest), found.first)),
            Err(ImageError::Layer(source)) => Err(Error::Tree { doing, source }),
            Err(ImageError::Unfit(Unfit::Io { call, source })) => {
                let name = b"volume".to_vec();
                let source = unpack::Error::Fs { place: None, call: call.into(), name, source };
                Err(Error::Tree { doing, source })
            }
            Err(ImageError::Unfit(source)) => {
                Err(Error::Volume { volume: volume.id, source: Box::new(source) })
            }
        }
    }

    /// What the whole tree of a volume may be and cost: each of its layers had the limits of one.
    pub(crate) fn limits_of_tree(&self, volume: &Volume) -> Result<unpack::Limits, Error> {
        let layers = self.layers_below(volume)?;
        let mut limits = self.settings.limits.clone();
        limits.time_max = limits.time_max.saturating_mul(layers);
        limits.processor_max = limits.processor_max.saturating_mul(layers);
        limits.bytes_max = limits.bytes_max.saturating_mul(layers.into());
        Ok(limits)
    }

    /// How many layers a volume's tree is made of.
    fn layers_below(&self, volume: &Volume) -> Result<u32, Error> {
        let (mut layers, mut next) = (1u32, volume.parent);
        while let Some(id) = next {
            layers = layers.saturating_add(1);
            next = self.registry.volume(id)?.and_then(|below| below.parent);
        }
        Ok(layers)
    }

    /// What is there now, and which chunks differ, where those are looked at.
    fn found_now(&self, volume: &Volume, measure: Measure) -> Result<(Digest, Vec<u64>), Error> {
        // Recovery and collection by another process leave a volume alone whose lock is held.
        let _mine = self.locks.build(&volume.build)?;
        self.still_sealed(volume.id)?;
        let reading = {
            let _store = self.locks.store()?;
            // An image whose record does not vouch for it is as bad as one that differs: nothing can be built on it.
            let ground = |start: Option<Vec<u8>>| ground(self, volume, &start.unwrap_or_default());
            let read = |ground| self.store.read(volume.id, volume.bytes, ground);
            let start = self.store.seal_record(volume.id);
            start.and_then(ground).and_then(read).map_err(of_the_device)?
        };
        let found = match measure {
            Measure::Blocks => self.blocks(reading.content(), volume),
            Measure::Tree => {
                self.tree_digest(reading.content(), volume).map(|tree| (tree, Vec::new()))
            }
        };
        reading.close()?;
        found
    }
}

/// What a device says where it is read, in the form that a tree's reader has for it.
fn of_the_device(error: Error) -> Error {
    match error {
        Error::Io { doing, source, .. } => {
            let name = b"volume".to_vec();
            let source = unpack::Error::Fs { place: None, call: doing.into(), name, source };
            Error::Tree { doing: "read a sealed volume", source }
        }
        other => other,
    }
}
