//! An archive of images: an OCI layout in a tar, or what `docker save` writes (moby's tarexport). Members are found
//! by a table of offsets; links are resolved among the names of the archive and nowhere else.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use fetch::image::{Digest, Document};
use unpack::{Limits, Member, MemberKind};

use crate::error::Error;
use crate::error::image::Unusable;
use crate::local::piece::Piece;

/// Links to links to a member.
const HOPS_MAX: usize = 8;

/// An archive, by its table of members.
#[derive(Debug)]
pub(crate) struct Archive {
    shown: String,
    file: Arc<File>,
    members: HashMap<Vec<u8>, MemberKind>,
}

impl Archive {
    /// Reads the table of an archive that is not compressed; `shown` names it in messages.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub(crate) fn open(file: Arc<File>, shown: &str, limits: &Limits) -> Result<Archive, Error> {
        let listed = unpack::members(&file, limits).map_err(|source| {
            Error::Image(Unusable::Archive { image: shown.to_owned(), source: Box::new(source) })
        })?;
        let mut members = HashMap::new();
        for Member { path, kind } in listed {
            // As a tar has it, the last of one name counts.
            members.insert(path, kind);
        }
        Ok(Archive { shown: shown.to_owned(), file, members })
    }

    /// The archive, as a message has it.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// A document that has to be there.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Io`].
    pub(crate) fn document(&self, document: Document, name: &str) -> Result<Vec<u8>, Error> {
        let Some(piece) = self.member(name)? else {
            let what = format!("{} has no member {name}", self.shown);
            return Err(Error::Image(Unusable::NoLayout { what }));
        };
        piece.document(document, &self.shown)
    }

    /// A blob of a layout.
    ///
    /// # Errors
    /// [`Error::Image`] also where it is not there: nobody will bring it.
    pub(crate) fn blob(&self, digest: Digest) -> Result<Piece, Error> {
        self.member(&format!("blobs/sha256/{}", digest.hex()))?
            .ok_or_else(|| Error::Image(Unusable::NoBlob { place: self.shown.clone(), digest }))
    }

    /// The bytes that a name stands for; none where no member has it.
    ///
    /// # Errors
    /// [`Error::Image`] for links in a circle, and for what is no file.
    pub(crate) fn member(&self, name: &str) -> Result<Option<Piece>, Error> {
        let strange = |found| {
            let path = format!("{}: {name}", self.shown).into();
            Error::Image(Unusable::Strange { path, found })
        };
        let Some(mut path) = lexical(b"", name.as_bytes()) else { return Ok(None) };
        for _ in 0..=HOPS_MAX {
            path = match self.members.get(&path) {
                None => return Ok(None),
                Some(MemberKind::File { offset, size }) => {
                    return Ok(Some(Piece::new(self.file.clone(), *offset, *size)));
                }
                Some(MemberKind::Other) => return Err(strange("no regular file")),
                Some(MemberKind::Hardlink { target }) => target.clone(),
                Some(MemberKind::Symlink { target }) => {
                    let parent =
                        path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |at| &path[..at]);
                    match lexical(parent, target) {
                        Some(path) => path,
                        // It leads out of the archive, where nothing is.
                        None => return Ok(None),
                    }
                }
            };
        }
        Err(strange("links that lead on and on"))
    }
}

/// `name` as seen from the folder `from`, by its text alone; none where it leads out of the archive.
fn lexical(from: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = match name.first() {
        Some(b'/') | None => Vec::new(),
        Some(_) => from.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect(),
    };
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    match parts.is_empty() {
        true => None,
        false => Some(parts.join(&b'/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, MemberKind)]) -> Archive {
        let members = members.iter().map(|(path, kind)| (path.as_bytes().to_vec(), kind.clone()));
        let file = Arc::new(File::open("/dev/null").unwrap());
        Archive { shown: "a.tar".into(), file, members: members.collect() }
    }

    #[test]
    fn links_are_resolved_among_the_names_of_the_archive_alone() {
        let soft = |target: &str| MemberKind::Symlink { target: target.into() };
        let hard = |target: &str| MemberKind::Hardlink { target: target.into() };
        let file = |size| MemberKind::File { offset: 0, size };
        let archive = archive(&[
            ("abc.tar", file(7)),
            ("x/layer.tar", soft("../abc.tar")),
            ("y/layer.tar", hard("x/layer.tar")),
            ("z/layer.tar", soft("/abc.tar")),
            ("out", soft("../../etc/passwd")),
            ("absolute", soft("/etc/passwd")),
            ("a", soft("b")),
            ("b", soft("a")),
            ("dir", MemberKind::Other),
        ]);
        let size = |name: &str| archive.member(name).unwrap().map(|piece| piece.bytes());
        for name in ["abc.tar", "x/layer.tar", "y/layer.tar", "z/layer.tar", "./x/../abc.tar"] {
            assert_eq!(size(name), Some(7), "{name}");
        }
        for name in ["out", "absolute", "nothing", "../abc.tar", "/", ""] {
            assert_eq!(size(name), None, "{name}");
        }
        for name in ["a", "dir"] {
            assert!(archive.member(name).is_err(), "{name}");
        }
    }
}
