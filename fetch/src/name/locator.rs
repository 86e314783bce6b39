//! Where the bytes of one layer or document are: an object in a bucket, or a blob in a registry.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::image::{self, Digest, RegistryRef};
use crate::s3::object::{Expect, ObjectRef};

/// One blob of a repository: `docker://host/name@sha256:..` (distribution-spec, "Pulling blobs"). Its name is the
/// digest of its bytes, so that it does not matter who gives them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobRef {
    /// The registry, `host[:port]` in lower case.
    pub host: String,
    /// The repository, such as `team/app`.
    pub name: String,
    /// The digest of the blob.
    pub digest: Digest,
}

impl BlobRef {
    /// The blob of this digest in the repository that `at` is in.
    pub fn new(at: &RegistryRef, digest: Digest) -> BlobRef {
        BlobRef { host: at.host.clone(), name: at.name.clone(), digest }
    }

    /// The fields are public, so whoever sends them checks them again.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let text = self.to_string();
        match text.parse::<BlobRef>()? == *self {
            true => Ok(()),
            false => Err(Error::Reference { text, why: "it is not in the spelling that counts" }),
        }
    }
}

impl fmt::Display for BlobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "docker://{}/{}@{}", self.host, self.name, self.digest)
    }
}

impl FromStr for BlobRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<BlobRef, Error> {
        let at = registry(text)?;
        match at.digest {
            Some(digest) => Ok(BlobRef::new(&at, digest)),
            None => Err(Error::Reference {
                text: text.to_owned(),
                why: "a blob is named by its digest, docker://host/name@sha256:..; fetch --list shows the \
                      digests behind a tag",
            }),
        }
    }
}

/// Reads `docker://host/name:tag` or `docker://host/name@sha256:..`.
///
/// # Errors
/// [`Error::Reference`].
pub(crate) fn registry(text: &str) -> Result<RegistryRef, Error> {
    let refused = |why| Error::Reference { text: text.to_owned(), why };
    let rest =
        text.strip_prefix("docker://").ok_or_else(|| refused("expected docker://host/.."))?;
    RegistryRef::parse(rest).map_err(|error| match error {
        image::Error::Reference { why, .. } | image::Error::Digest { why, .. } => refused(why),
        _ => refused("expected docker://host/name:tag or docker://host/name@sha256:.."),
    })
}

/// Bytes that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Locator {
    /// An object in a bucket.
    Object(ObjectRef),
    /// A blob in a registry.
    Blob(BlobRef),
}

impl Locator {
    /// The fields are public, so whoever sends them checks them again.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Locator::Object(object) => object.check(),
            Locator::Blob(blob) => blob.check(),
        }
    }

    /// What is expected of it, with what its own name says.
    ///
    /// # Errors
    /// [`Error::Setting`] where that is something else.
    pub(crate) fn expect(&self, expect: &Expect) -> Result<Expect, Error> {
        let Locator::Blob(blob) = self else { return Ok(expect.clone()) };
        let own = blob.digest.0;
        if let Some(given) = expect.sha256.filter(|given| *given != own) {
            let value = Digest(given).to_string();
            let why = "the reference itself names another digest";
            return Err(Error::Setting { name: "digest", value, why });
        }
        if let Some(etag) = &expect.etag {
            let why = "a blob of a registry is pinned by its digest, not by an entity tag";
            return Err(Error::Setting { name: "etag", value: etag.clone(), why });
        }
        Ok(Expect { sha256: Some(own), ..expect.clone() })
    }

    /// Whether its name says what its bytes are.
    pub(crate) fn is_blob(&self) -> bool {
        matches!(self, Locator::Blob(_))
    }
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Locator::Object(object) => object.fmt(f),
            Locator::Blob(blob) => blob.fmt(f),
        }
    }
}

impl FromStr for Locator {
    type Err = Error;

    fn from_str(text: &str) -> Result<Locator, Error> {
        match text.starts_with("docker://") {
            true => text.parse().map(Locator::Blob),
            false => text.parse().map(Locator::Object),
        }
    }
}

impl From<ObjectRef> for Locator {
    fn from(object: ObjectRef) -> Locator {
        Locator::Object(object)
    }
}

impl From<&ObjectRef> for Locator {
    fn from(object: &ObjectRef) -> Locator {
        Locator::Object(object.clone())
    }
}

impl From<BlobRef> for Locator {
    fn from(blob: BlobRef) -> Locator {
        Locator::Blob(blob)
    }
}

impl From<&BlobRef> for Locator {
    fn from(blob: &BlobRef) -> Locator {
        Locator::Blob(blob.clone())
    }
}

impl From<&Locator> for Locator {
    fn from(place: &Locator) -> Locator {
        place.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_blob_is_named_by_its_digest() {
        let text = format!("docker://h:5000/a/b@sha256:{HEX}");
        let blob: BlobRef = text.parse().unwrap();
        assert_eq!(blob.to_string(), text);
        blob.check().unwrap();
        let tagged: BlobRef = format!("docker://h:5000/a/b:v1@sha256:{HEX}").parse().unwrap();
        assert_eq!(tagged, blob, "the digest counts");
        for text in ["docker://h:5000/a/b:v1", "docker://a/b", "s3://bucket/key", "docker://"] {
            let error = text.parse::<BlobRef>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
        for (host, name) in [("h:5000", "a/../b"), ("h:5000/x", "b"), ("h@e:1", "b"), ("H:1", "b")]
        {
            let odd = BlobRef { host: host.into(), name: name.into(), ..blob.clone() };
            assert!(odd.check().is_err(), "{odd}");
        }
    }

    #[test]
    fn what_is_expected_of_a_blob_is_its_digest() {
        let blob: Locator = format!("docker://h:1/a@sha256:{HEX}").parse().unwrap();
        let due = blob.expect(&Expect::default()).unwrap();
        assert_eq!(Digest(due.sha256.unwrap()).hex(), HEX);
        let other = Expect { sha256: Some([0; 32]), ..Expect::default() };
        assert!(blob.expect(&other).unwrap_err().to_string().contains("another digest"));
        let tagged = Expect { etag: Some("\"x\"".into()), ..Expect::default() };
        assert!(blob.expect(&tagged).unwrap_err().to_string().contains("entity tag"));
    }
}
