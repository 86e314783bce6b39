//! Which images a key of cosign's must have signed, and why one is refused. Pure: the keys are read in `config`, the
//! signatures fetched in `verbs::signatures`.

use std::fmt;

use fetch::image::cosign::PublicKey;
use registry::Digest;

/// A public key, and the file that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As the setting names it.
    pub file: String,
    /// The key.
    pub key: PublicKey,
}

/// The keys that are trusted, and for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cosign {
    /// Each of them alone is enough.
    pub keys: Vec<Key>,
    /// The images that one of them must have signed.
    pub required: Vec<Prefix>,
}

impl Cosign {
    /// Whether an image of this reference must be signed.
    pub fn requires(&self, reference: &str) -> bool {
        self.required.iter().any(|prefix| prefix.covers(reference))
    }

    /// The file of a key that is trusted.
    pub fn file_of(&self, key: Digest) -> Option<&str> {
        let of = self.keys.iter().find(|own| own.key.id().0 == key.0);
        of.map(|own| own.file.as_str())
    }

    /// The files of all keys, as a message has them.
    pub(crate) fn files(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.file.clone()).collect()
    }
}

/// The forms of references that a prefix may begin with; `s3://` is none that can be signed, and may be covered.
const FORMS: [&str; 6] =
    ["docker://", "oci:", "oci-archive:", "docker-archive:", "s3://", "sha256:"];

/// The beginning of references: all of a registry, of a repository, or of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// Reads a prefix; `*` covers every reference.
    ///
    /// # Errors
    /// The rule that it breaks: one that would never cover anything looks like a protection and is none.
    pub fn parse(text: &str) -> Result<Prefix, String> {
        if text == "*" {
            return Ok(Prefix(String::new()));
        }
        let Some(form) = FORMS.into_iter().find(|form| text.starts_with(form)) else {
            return Err(format!("expected *, or a prefix that begins with {}", FORMS.join(", ")));
        };
        let Some(rest) = text.strip_prefix("docker://") else {
            return match form.len() < text.len() || form.ends_with(':') {
                true => Ok(Prefix(text.to_owned())),
                false => Err(format!("what stands after {form} is missing; * covers everything")),
            };
        };
        let (host, name) = rest.split_once('/').unwrap_or((rest, ""));
        // Registries' names are kept in one spelling.
        let plain = !host.is_empty() && !host.bytes().any(|b| b.is_ascii_uppercase());
        match host {
            _ if !plain => Err("a registry is named by its host, in small letters".into()),
            "index.docker.io" => {
                Err("this registry's images are named docker://docker.io/..".into())
            }
            "docker.io" if !name.is_empty() && !name.contains('/') => Err(format!(
                "the images of docker.io have a part before their names; write docker://docker.io/library/{name}, or \
                 docker://docker.io/{name}/ for all of one owner"
            )),
            _ => Ok(Prefix(text.to_owned())),
        }
    }

    /// Whether a reference begins with it, up to where a part of a name ends: `docker://h/team` covers `docker://h/team/app:v1`
    /// and `docker://h/team:v1`, and not `docker://h/teams/app:v1`.
    fn covers(&self, reference: &str) -> bool {
        let Some(rest) = reference.strip_prefix(&self.0) else { return false };
        let ends = |text: &str| text.is_empty() || text.ends_with(['/', ':']);
        ends(&self.0) || rest.is_empty() || rest.starts_with(['/', ':', '@', '#'])
    }
}

/// Why an image that must be signed is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// It has no manifest, so nobody can sign it.
    NoManifest {
        /// The image.
        image: String,
    },
    /// No signature of it counts.
    None {
        /// The image.
        image: String,
        /// The digest of its manifest, or of the index that it was chosen from.
        digest: Digest,
        /// The files of the keys that are trusted.
        files: Vec<String>,
        /// How many signatures were looked at.
        looked: usize,
        /// How many there are besides.
        more: usize,
        /// Why the last one does not count.
        why: Option<String>,
    },
    /// It is here, and was not looked at by a key that is trusted.
    Unknown {
        /// The image.
        image: String,
        /// The digest of its manifest, where that is known.
        digest: Option<Digest>,
        /// The keys that it was found to be signed by, and that are trusted no longer.
        by: Vec<Digest>,
        /// The files of the keys that are trusted.
        files: Vec<String>,
    },
}

impl Unsigned {
    /// Whether somebody has spoken against it, as by taking its key away; else nobody has looked.
    pub fn is_verdict(&self) -> bool {
        match self {
            Unsigned::NoManifest { .. } | Unsigned::None { .. } => true,
            Unsigned::Unknown { by, .. } => !by.is_empty(),
        }
    }
}

fn list(files: &[String]) -> String {
    let shown: Vec<_> = files.iter().map(|file| file.escape_debug().to_string()).collect();
    shown.join(", ")
}

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsigned::NoManifest { image } => write!(
                f,
                "{} must be signed (trust.cosign_required), and it has no manifest that cosign could sign: use an image with \
                 a manifest, or a signed catalog for this one and a narrower prefix in the setting",
                image.escape_debug()
            ),
            Unsigned::None { image, digest, files, looked, more, why } => {
                let (image, files) = (image.escape_debug(), list(files));
                write!(
                    f,
                    "{image} ({digest}) must be signed by a key of trust.cosign_keys ({files}), and "
                )?;
                match (looked, why) {
                    (0, _) => write!(f, "no signature of it was found")?,
                    (1, Some(why)) => write!(f, "its one signature does not count: {why}")?,
                    (_, None) => write!(f, "none of its {looked} signatures counts")?,
                    (_, Some(why)) => {
                        write!(f, "none of its {looked} signatures counts; the last: {why}")?;
                    }
                }
                match more {
                    0 => write!(f, ". Sign it with `cosign sign --key`"),
                    more => write!(f, ". {more} more were not looked at"),
                }
            }
            Unsigned::Unknown { image, by, files, .. } => {
                let (image, files) = (image.escape_debug(), list(files));
                match by.as_slice() {
                    [] => write!(
                        f,
                        "{image} must be signed by a key of trust.cosign_keys ({files}), and its signature was not looked at yet"
                    )?,
                    [key, ..] => write!(
                        f,
                        "{image} was signed by the key {key}, which is trusted no longer (trust.cosign_keys: {files})"
                    )?,
                }
                write!(
                    f,
                    "; `orchestrate activate`, `ensure` or `recover` looks for a signature where the image is"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_whole_parts_of_names() {
        for (prefix, covered, not) in [
            ("*", vec!["docker://h/a:v1", "s3://b/a/", "oci:/a:v1", "sha256:00"], vec![]),
            (
                "docker://reg.example/team",
                vec!["docker://reg.example/team:v1", "docker://reg.example/team/app@sha256:00"],
                vec![
                    "docker://reg.example/teams/app:v1",
                    "docker://reg.example/tea:v1",
                    "oci:/team",
                ],
            ),
            (
                "docker://reg.example",
                vec!["docker://reg.example/a:v1", "docker://reg.example:5000/a:v1"],
                vec!["docker://reg.example.org/a:v1"],
            ),
            (
                "docker://reg.example/",
                vec!["docker://reg.example/a:v1"],
                vec!["docker://reg.example:5000/a:v1"],
            ),
            ("oci:", vec!["oci:/a:v1", "oci:s3://b/a/:v1"], vec!["oci-archive:/a.tar:v1"]),
            (
                "oci:s3://bucket/images/",
                vec!["oci:s3://bucket/images/app/:v1"],
                vec!["oci:s3://bucket/image/:v1"],
            ),
            (
                "oci:/srv/app",
                vec!["oci:/srv/app", "oci:/srv/app:v1", "oci:/srv/app#linux/arm64"],
                vec!["oci:/srv/apps:v1"],
            ),
        ] {
            let read = Prefix::parse(prefix).unwrap();
            for reference in covered {
                assert!(read.covers(reference), "{prefix} covers {reference}");
            }
            for reference in not {
                assert!(!read.covers(reference), "{prefix} does not cover {reference}");
            }
        }
    }

    #[test]
    fn a_prefix_that_could_never_cover_anything_is_refused() {
        for (text, wanted) in [
            ("", "expected *"),
            ("registry.example/team", "expected *"),
            ("docker:/", "expected *"),
            ("docker://", "by its host"),
            ("docker:///a", "by its host"),
            ("docker://Reg.example/a", "small letters"),
            ("docker://index.docker.io/library/x", "docker://docker.io/"),
            ("docker://docker.io/nginx", "docker://docker.io/library/nginx"),
            ("s3://", "after s3:// is missing"),
        ] {
            assert!(
                Prefix::parse(text).unwrap_err().contains(wanted),
                "{text}: {:?}",
                Prefix::parse(text)
            );
        }
        for good in [
            "docker://docker.io",
            "docker://docker.io/",
            "docker://docker.io/library/nginx",
            "docker://localhost:5000",
        ] {
            assert!(Prefix::parse(good).is_ok(), "{good}");
        }
    }
}
