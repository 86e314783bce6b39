//! What can be asked for: references to objects and images, and what a server says of an object.
//!
//! Pure. A reference that parses can be asked for: bucket names and keys are checked here, because
//! both end up in a URL and a loose one chooses another host or another object.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Keys are at most this many bytes (S3 user guide, "Creating object key names").
pub(crate) const KEY_BYTES_MAX: usize = 1024;

/// One object: `s3://bucket/key`. The key is taken as it stands, nothing is percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// The bucket's name.
    pub bucket: String,
    /// The key, without a leading `/` of ours.
    pub key: String,
}

impl ObjectRef {
    /// A checked reference.
    ///
    /// # Errors
    /// [`Error::Reference`] for a bad bucket or key, [`Error::Unaddressable`] for a key with a
    /// `.` or `..` segment.
    pub fn new(bucket: &str, key: &str) -> Result<ObjectRef, Error> {
        let object = ObjectRef { bucket: bucket.to_owned(), key: key.to_owned() };
        object.check()?;
        Ok(object)
    }

    /// The fields are public, so whoever sends them checks them again.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |why| Err(Error::Reference { text: self.to_string(), why });
        if let Err(why) = check_bucket(&self.bucket) {
            return bad(why);
        }
        if self.key.is_empty() {
            return bad("no key after the bucket");
        }
        if self.key.len() > KEY_BYTES_MAX {
            return bad("the key is longer than 1024 bytes");
        }
        if self.key.split('/').any(is_dots) {
            return Err(Error::Unaddressable { subject: self.to_string() });
        }
        Ok(())
    }
}

/// The url standard also takes `%2e` for a dot, but a key's `%` goes out as `%25`.
fn is_dots(segment: &str) -> bool {
    segment == "." || segment == ".."
}

/// The rules of S3 for new buckets; old ones with capitals are not reachable, in exchange no name
/// can carry a `/`, `?`, `#`, `:` or `@` into the host.
pub(crate) fn check_bucket(name: &str) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    if !(3..=63).contains(&bytes.len()) {
        return Err("a bucket name has 3 to 63 characters");
    }
    if !bytes.iter().all(|&b| plain(b) || b == b'-' || b == b'.') {
        return Err("a bucket name has only a-z, 0-9, \"-\" and \".\"");
    }
    if name.ends_with("--x-s3") {
        return Err(
            "directory buckets (S3 Express) are not supported: copy the object to another bucket",
        );
    }
    if !plain(bytes[0]) || !plain(bytes[bytes.len() - 1]) || name.contains("..") {
        return Err("a bucket name starts and ends with a-z or 0-9 and has no \"..\"");
    }
    Ok(())
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl FromStr for ObjectRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<ObjectRef, Error> {
        let (bucket, key) = split(text)?;
        ObjectRef::new(bucket, key)
    }
}

fn split(text: &str) -> Result<(&str, &str), Error> {
    let Some(rest) = text.strip_prefix("s3://") else {
        return Err(Error::Reference { text: text.to_owned(), why: "expected s3://bucket/key" });
    };
    Ok(rest.split_once('/').unwrap_or((rest, "")))
}

/// An image: a prefix whose children are its layers, or one object that is its only layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageRef {
    /// `s3://bucket/prefix/`; the prefix ends with `/` or is empty (the whole bucket).
    Prefix {
        /// The bucket's name.
        bucket: String,
        /// The prefix, with its last `/`.
        prefix: String,
    },
    /// `s3://bucket/key.tar`.
    Object(ObjectRef),
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageRef::Prefix { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            ImageRef::Object(object) => object.fmt(f),
        }
    }
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<ImageRef, Error> {
        let (bucket, rest) = split(text)?;
        if !rest.is_empty() && !rest.ends_with('/') {
            return Ok(ImageRef::Object(ObjectRef::new(bucket, rest)?));
        }
        if let Err(why) = check_bucket(bucket) {
            return Err(Error::Reference { text: text.to_owned(), why });
        }
        Ok(ImageRef::Prefix { bucket: bucket.to_owned(), prefix: rest.to_owned() })
    }
}

/// An object as a server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Which.
    pub object: ObjectRef,
    /// Size, bytes.
    pub size: u64,
    /// The entity tag as in the header, with its quotes: `"9b2cf..."`, or `W/"..."` for a weak one.
    pub etag: Option<String>,
}

impl Object {
    /// Bytes of memory that its names take.
    pub(crate) fn held_bytes(&self) -> usize {
        let etag = self.etag.as_ref().map_or(0, String::len);
        self.object.bucket.len() + self.object.key.len() + etag
    }
}

/// A small object, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Small {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The entity tag of the very answer that they came in, with its quotes.
    pub etag: Option<String>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its place, from 1 (the base).
    pub number: u64,
    /// The object that holds it.
    pub object: Object,
}

/// What the caller knows of an object beforehand; whatever is given here is made sure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Digest of all its bytes.
    pub sha256: Option<[u8; 32]>,
    /// Size, bytes.
    pub size: Option<u64>,
    /// Entity tag, as in [`Object::etag`].
    pub etag: Option<String>,
    /// No larger than this many bytes.
    pub size_max: Option<u64>,
}

impl Object {
    /// An expectation of just this object: same size, same entity tag.
    pub fn expect(&self) -> Expect {
        Expect { size: Some(self.size), etag: self.etag.clone(), ..Expect::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_survives_the_round_trip() {
        for text in [
            "s3://bucket/key",
            "s3://b-1.x/a//b",
            "s3://bucket//lead",
            "s3://bucket/a b+c%2F#?\n\u{1f980}\\",
            "s3://bucket/..a/b..",
            "s3://bucket/trail/",
        ] {
            let object: ObjectRef = text.parse().unwrap();
            assert_eq!(object.to_string(), text);
        }
    }

    #[test]
    fn keys_that_a_url_would_change_are_refused() {
        for key in ["..", ".", "a/../b", "../x", "a/.", "a/./b"] {
            let got = ObjectRef::new("bucket", key);
            assert!(matches!(got, Err(Error::Unaddressable { .. })), "{key}");
        }
    }

    #[test]
    fn buckets_that_could_choose_the_host_are_refused() {
        let long = "a".repeat(64);
        for bucket in
            ["", "ab", "evil.com/x?", "a:b@c", "UPPER", "a..b", "-ab", "ab-", "a_b", "a%2fb", &long]
        {
            assert!(ObjectRef::new(bucket, "k").is_err(), "{bucket}");
        }
        assert!("s3://bucket".parse::<ObjectRef>().is_err());
        assert!("http://bucket/key".parse::<ObjectRef>().is_err());
        assert!(ObjectRef::new("bucket", &"k".repeat(1025)).is_err());
    }

    #[test]
    fn an_image_is_a_prefix_or_an_object() {
        let prefix: ImageRef = "s3://bucket/images/golang/".parse().unwrap();
        assert!(matches!(&prefix, ImageRef::Prefix { prefix, .. } if prefix == "images/golang/"));
        let whole: ImageRef = "s3://bucket".parse().unwrap();
        assert!(matches!(&whole, ImageRef::Prefix { prefix, .. } if prefix.is_empty()));
        assert!(matches!("s3://bucket/a.tar".parse().unwrap(), ImageRef::Object(_)));
        assert!("s3://UP/images/".parse::<ImageRef>().is_err());
    }
}
