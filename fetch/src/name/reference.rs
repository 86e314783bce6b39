//! What names an image: numbered layers in S3, a layout or archive, or a registry. The form says which; nothing is
//! guessed from what a server or a directory has.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::image::{ArchivePick, Digest, Error, Pick, Platform, RegistryRef};
use crate::s3::object::ImageRef;

/// What a name in a layout may be made of (image-spec, annotations.md).
const NAME_BYTES: &[u8] = b"-._:@/+";

/// An image, by where it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Where, and which of those that are there.
    pub place: Place,
    /// The platform, where one was asked for; it is part of the name then.
    pub platform: Option<Platform>,
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `s3://bucket/prefix/` with `1.tar`, `2.tar`, ..; or `s3://bucket/key.tar`.
    Numbered(ImageRef),
    /// `oci:s3://bucket/prefix/[:REF|@sha256:..]`: an image layout under a prefix.
    Bucket {
        /// The bucket's name.
        bucket: String,
        /// The prefix, with its last `/`, or empty.
        prefix: String,
        /// Which of its images.
        pick: Pick,
    },
    /// `oci:DIR[:REF|@sha256:..]`: an image layout in a directory.
    Layout {
        /// The directory.
        dir: PathBuf,
        /// Which of its images.
        pick: Pick,
    },
    /// `oci-archive:FILE[:REF|@sha256:..]`: an image layout in a tar; `-` is standard input.
    Archive {
        /// The file.
        file: PathBuf,
        /// Which of its images.
        pick: Pick,
    },
    /// `docker-archive:FILE[:NAME:TAG|@N]`: what `docker save` writes; `-` is standard input.
    DockerArchive {
        /// The file.
        file: PathBuf,
        /// Which of its images.
        pick: ArchivePick,
    },
    /// `docker://host/name:tag`.
    Registry(RegistryRef),
    /// `sha256:..`: an image that is on this host, by the digest of its manifest (or of its config, where it came
    /// without a manifest).
    Here(Digest),
}

impl Reference {
    /// The same with a local path made absolute and written in one way, because the reference is the image's name.
    #[must_use]
    pub fn absolute(mut self, cwd: &Path) -> Reference {
        match &mut self.place {
            Place::Layout { dir: path, .. }
            | Place::Archive { file: path, .. }
            | Place::DockerArchive { file: path, .. } => {
                if path.as_os_str() != "-" {
                    // Without `.` and doubled or last slashes; what `..` leads to only the file system knows.
                    *path = cwd.join(&path).components().collect();
                }
            }
            Place::Numbered(_) | Place::Bucket { .. } | Place::Registry(_) | Place::Here(_) => {}
        }
        self
    }

    /// Numbered layers in S3, if it is those.
    pub fn numbered(&self) -> Option<&ImageRef> {
        match &self.place {
            Place::Numbered(image) => Some(image),
            Place::Bucket { .. }
            | Place::Layout { .. }
            | Place::Archive { .. }
            | Place::DockerArchive { .. }
            | Place::Registry(_)
            | Place::Here(_) => None,
        }
    }

    /// Whether it comes from standard input and can be read once only.
    pub fn is_stream(&self) -> bool {
        match &self.place {
            Place::Archive { file, .. } | Place::DockerArchive { file, .. } => {
                file.as_os_str() == "-"
            }
            Place::Numbered(_)
            | Place::Bucket { .. }
            | Place::Layout { .. }
            | Place::Registry(_)
            | Place::Here(_) => false,
        }
    }
}

impl From<ImageRef> for Reference {
    fn from(image: ImageRef) -> Reference {
        Reference { place: Place::Numbered(image), platform: None }
    }
}

fn refused(text: &str, why: &'static str) -> Error {
    Error::Reference { text: text.to_owned(), why }
}

/// The pick after a place: nothing, `:REF` or `@sha256:..`.
fn pick(text: &str, rest: &str) -> Result<Pick, Error> {
    if rest.is_empty() {
        return Ok(Pick::Only);
    }
    if let Some(digest) = rest.strip_prefix('@') {
        return Ok(Pick::Digest(Digest::parse(digest)?));
    }
    let name = rest.strip_prefix(':').unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || NAME_BYTES.contains(&b);
    match name {
        "" => Err(refused(text, "nothing stands after the last colon")),
        _ if name.len() > 512 => {
            Err(refused(text, "a name in a layout has at most 512 characters"))
        }
        name if name.bytes().all(allowed) => Ok(Pick::Name(name.to_owned())),
        _ => Err(refused(text, "a name in a layout is made of A-Z, a-z, 0-9 and -._:@/+")),
    }
}

/// Cuts a local path from what names an image in it: at the first `:`, or at `@` before a digest or number.
fn local(text: &str, rest: &str) -> Result<(PathBuf, String), Error> {
    let colon = rest.find(':').unwrap_or(rest.len());
    let digest = rest.find("@sha256:").unwrap_or(rest.len());
    let number = match rest.rsplit_once('@') {
        Some((path, at)) if !at.is_empty() && at.bytes().all(|b| b.is_ascii_digit()) => path.len(),
        Some(_) | None => rest.len(),
    };
    let (path, rest) = rest.split_at(colon.min(digest).min(number));
    match path {
        "" => Err(refused(text, "it names no file or directory")),
        _ if path.chars().any(char::is_control) => {
            Err(refused(text, "a path with control characters is no part of a name"))
        }
        path => Ok((PathBuf::from(path), rest.to_owned())),
    }
}

fn bucket(text: &str, rest: &str) -> Result<Place, Error> {
    let bad = "expected oci:s3://bucket/prefix/, perhaps with :REF or @sha256:.. after the last /";
    // The prefix ends in `/`, so what begins behind one is the name.
    let cut = [rest.find("/:"), rest.find("/@sha256:")].into_iter().flatten().min();
    let (place, rest) = match cut {
        Some(at) => rest.split_at(at + 1),
        None => (rest, ""),
    };
    match format!("s3://{place}").parse::<ImageRef>() {
        Ok(ImageRef::Prefix { bucket, prefix }) if place.ends_with('/') => {
            if prefix.split('/').any(|part| part == "." || part == "..") {
                return Err(refused(text, "a prefix with . or .. cannot be asked for"));
            }
            Ok(Place::Bucket { bucket, prefix, pick: pick(text, rest)? })
        }
        Ok(_) | Err(_) => Err(refused(text, bad)),
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Reference, Error> {
        // No form has a # in front of its platform: a path with one is not taken.
        let (whole, platform) = match text.split_once('#') {
            Some((rest, platform)) if !text.starts_with("s3://") => (rest, Some(platform.parse()?)),
            Some(_) | None => (text, None),
        };
        let place = if let Some(rest) = whole.strip_prefix("oci:s3://") {
            bucket(text, rest)?
        } else if let Some(rest) = whole.strip_prefix("oci:") {
            let (dir, rest) = local(text, rest)?;
            Place::Layout { dir, pick: pick(text, &rest)? }
        } else if let Some(rest) = whole.strip_prefix("oci-archive:") {
            let (file, rest) = local(text, rest)?;
            Place::Archive { file, pick: pick(text, &rest)? }
        } else if let Some(rest) = whole.strip_prefix("docker-archive:") {
            let (file, rest) = local(text, rest)?;
            Place::DockerArchive { file, pick: archive_pick(text, &rest)? }
        } else if let Some(rest) = whole.strip_prefix("docker://") {
            Place::Registry(RegistryRef::parse(rest)?)
        } else if whole.starts_with("sha256:") {
            Place::Here(Digest::parse(whole)?)
        } else if whole.starts_with("s3://") {
            let image = whole.parse::<ImageRef>().map_err(|error| match error {
                crate::error::Error::Reference { why, .. } => refused(text, why),
                _ => refused(text, "this key cannot be asked for by a URL"),
            })?;
            Place::Numbered(image)
        } else {
            return Err(refused(
                text,
                "expected s3://bucket/prefix/, oci:DIR:REF, oci:s3://bucket/prefix/:REF, \
                 oci-archive:FILE, docker-archive:FILE, docker://host/name:tag, or the sha256:.. of an \
                 image that is here",
            ));
        };
        Ok(Reference { place, platform })
    }
}

fn archive_pick(text: &str, rest: &str) -> Result<ArchivePick, Error> {
    if rest.is_empty() {
        return Ok(ArchivePick::Only);
    }
    if let Some(at) = rest.strip_prefix('@') {
        let at =
            at.parse().map_err(|_| refused(text, "@ is followed by the number of an image"))?;
        return Ok(ArchivePick::At(at));
    }
    match pick(text, rest)? {
        Pick::Name(name) => Ok(ArchivePick::Name(name)),
        Pick::Only | Pick::Digest(_) => {
            Err(refused(text, "an image of it is named by NAME:TAG or @N"))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Numbered(image) => image.fmt(f)?,
            Place::Bucket { bucket, prefix, pick } => {
                write!(f, "oci:s3://{bucket}/{prefix}{}", Picked(pick))?
            }
            Place::Layout { dir, pick } => write!(f, "oci:{}{}", dir.display(), Picked(pick))?,
            Place::Archive { file, pick } => {
                write!(f, "oci-archive:{}{}", file.display(), Picked(pick))?;
            }
            Place::DockerArchive { file, pick } => {
                write!(f, "docker-archive:{}", file.display())?;
                match pick {
                    ArchivePick::Only => {}
                    ArchivePick::Name(name) => write!(f, ":{name}")?,
                    ArchivePick::At(at) => write!(f, "@{at}")?,
                }
            }
            Place::Registry(image) => image.fmt(f)?,
            Place::Here(digest) => digest.fmt(f)?,
        }
        match &self.platform {
            Some(platform) => write!(f, "#{platform}"),
            None => Ok(()),
        }
    }
}

struct Picked<'a>(&'a Pick);

impl fmt::Display for Picked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Pick::Only => Ok(()),
            Pick::Name(name) => write!(f, ":{name}"),
            Pick::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_reference_survives_the_round_trip() {
        for text in [
            "s3://bucket/prefix/",
            "s3://bucket/a#b.tar",
            "oci:s3://bucket/images/app/:v2",
            "oci:s3://bucket/images/app/",
            "oci:s3://bucket/:docker.io/library/x:1",
            "oci:/srv/layouts/app:v2",
            "oci:/srv/layouts/app",
            "oci:/srv/app:docker.io/library/x:1",
            "oci-archive:/srv/a.tar:v2",
            "oci-archive:-",
            "docker-archive:/srv/a.tar:app:v2",
            "docker-archive:/srv/a.tar@1",
            "docker-archive:-",
            "docker://registry.example/team/app:v2",
            "docker://registry.example/team/app:v2#linux/arm64/v8.1",
            "oci:/srv/layouts/app:v2#linux/riscv64",
            DIGEST,
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        for text in [format!("oci:s3://bucket/p/@{DIGEST}"), format!("oci:/srv/a@{DIGEST}")] {
            let read: Reference = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "/srv/layout",
            "oci:",
            "oci::v2",
            "oci:/srv/a:",
            "oci:/srv/a:v 2",
            "oci:/srv/a\nb:v2",
            "docker-archive:/srv/a\u{1b}[2J.tar",
            "oci:s3://bucket/app:v2",
            "oci:s3://b/app/:v2",
            "oci:s3://bucket/../x/:v2",
            "oci:s3://bucket/app/@sha256:00",
            "docker-archive:/srv/a@x:y z",
            "docker:registry.example/app:v1",
            "registry.example/app:v1",
            "sha256:00",
            "docker://registry.example/app:v1#windows/amd64",
            "http://bucket/x/",
            "s3://UP/x/",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_local_path_is_made_absolute_and_standard_input_is_not() {
        let absolute =
            |text: &str| text.parse::<Reference>().unwrap().absolute(Path::new("/srv")).to_string();
        assert_eq!(absolute("oci:layouts/app:v2"), "oci:/srv/layouts/app:v2");
        assert_eq!(absolute("oci-archive:a.tar"), "oci-archive:/srv/a.tar");
        assert_eq!(absolute("docker-archive:-"), "docker-archive:-");
        assert_eq!(absolute("oci:/a:v2"), "oci:/a:v2");
        for same in ["oci:./a:v2", "oci:a/:v2", "oci:.//a/.:v2", "oci:/srv/./a:v2"] {
            assert_eq!(absolute(same), "oci:/srv/a:v2");
        }
        assert_eq!(absolute("docker-archive:./-"), "docker-archive:/srv/-");
    }
}
