//! The files that AUFS keeps in `.wh..wh.plnk`, where layers made on it have hard links to: `a` there is
//! a link to `.wh..wh.plnk/1.2`. They are made in a directory with a name that no layer can guess, the
//! links are made to them there, and at the end the directory goes and leaves no trace.
//!
//! Names that begin with `.wh.` cannot exist in a layer's tree, so it is in nobody's way.

use std::hash::{BuildHasher, RandomState};

use crate::archive::Archive;
use crate::archive::buffers::Buffers;
use crate::archive::entry::Entry;
use crate::error::Fault;
use crate::error::refusal::Refusal;
use crate::record::Hashed;
use crate::tree::dirs::Missing;
use crate::tree::sink::{At, Sink};
use crate::tree::site::{Target, Writer, missing_target};

impl<S: Sink> Writer<'_, S> {
    /// Keeps a file for the links to it.
    pub(crate) fn pseudo(
        &mut self,
        entry: &Entry,
        size: u64,
        archive: &mut Archive<'_, Buffers>,
    ) -> Result<(), Fault> {
        // What is known of each is in memory, and a layer that was made on AUFS has hundreds of them.
        let max = self.limits.links_max;
        let (number, max) = (self.pseudo.made, max.min((max / 16).max(1024)));
        if number >= max {
            let rule = "too many files for hard links";
            return Err(Refusal::limit("--links-max", rule, number + 1, max).into());
        }
        self.pseudo.made += 1;
        let slot = self.pseudo_dir()?;
        let name = number.to_string().into_bytes();
        let dir = self.dirs.get(slot).handle.clone();
        let at = At { dir: &dir, name: &name, path: &entry.path };
        let sha256 = self.content(entry, &at, size, archive, true)?;
        let content = (size, sha256.unwrap_or_default());
        let key = self.pseudo.key.hash_one(&entry.path);
        self.pseudo.files.insert(key, (number, content));
        Ok(())
    }

    /// Where the file is that a hard link names so.
    pub(crate) fn pseudo_target(&mut self, path: &[u8]) -> Result<Target<S::Dir>, Fault> {
        let known = self.pseudo.files.get(&self.pseudo.key.hash_one(path)).copied();
        let Some((number, content)) = known else { return Err(missing_target(path)) };
        let slot = self.pseudo_dir()?;
        let (dir, name) = (self.dirs.get(slot).handle.clone(), number.to_string().into_bytes());
        Ok(Target { dir, name, path: path.to_vec(), pseudo: Some(content) })
    }

    fn pseudo_dir(&mut self) -> Result<usize, Fault> {
        let name = match &self.pseudo.dir {
            Some(name) => name.clone(),
            None => {
                let random = RandomState::new().hash_one(self.pseudo.made);
                format!(".wh..wh.{random:016x}").into_bytes()
            }
        };
        let made = self.dirs.made;
        let slot = self.dirs.resolve(&name, Missing::Make, &mut self.touched, &mut self.budget)?;
        // No directory of the layer.
        self.dirs.made = made;
        self.pseudo.dir = Some(name);
        slot.ok_or_else(|| Fault::fs("open directory", b".")(nix::errno::Errno::ENOENT))
    }

    /// The record of a new link to such a file: all that a layer says of a file.
    pub(crate) fn pseudo_record(
        &mut self,
        target: &Target<S::Dir>,
        path: &[u8],
        content: Hashed,
    ) -> Result<(), Fault> {
        if !self.limits.digests {
            return Ok(());
        }
        match self.dirs.sink.record(&target.at(), path.to_vec(), content)? {
            Some(record) => self.keep(&record, false),
            None => Err(missing_target(&target.path)),
        }
    }

    /// Takes it all away.
    pub(crate) fn pseudo_end(&mut self) -> Result<(), Fault> {
        match self.pseudo.dir.take() {
            Some(name) => {
                let root = self.dirs.root();
                self.clear(&At { dir: &root, name: &name, path: &name })
            }
            None => Ok(()),
        }
    }
}
