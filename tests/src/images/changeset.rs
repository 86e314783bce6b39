//! Writes one layer as an OCI changeset: a plain tar of what is new against the layers below, with whiteouts.
//!
//! Package paths go through the merged /usr, parents come before children and directories keep the owner
//! and mode of their first maker. Contents are streamed, never kept, and nothing is extracted: no root is
//! needed for device nodes, owners or setuid bits.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Cursor, Read, Write},
};

use anyhow::{Context, Result, bail, ensure};
use tar::{Builder, EntryType, Header};

use super::{
    header::{Encoded, Meta, encode},
    recipe::{Extra, Format, Whiteout},
    tree::{Kind, Tree},
};

/// Counts of what a layer's tar holds.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize, PartialEq, Eq)]
pub struct Counts {
    /// Members of the archive that are entries of a tree or markers (not extension headers).
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Hard links.
    pub hardlinks: u64,
    /// Device nodes.
    pub devices: u64,
    /// Named pipes.
    pub fifos: u64,
    /// Entries with a setuid or setgid bit that are not directories.
    pub setid: u64,
    /// Extended attributes.
    pub xattrs: u64,
    /// `.wh.<name>` markers.
    pub whiteouts: u64,
    /// `.wh..wh..opq` markers.
    pub opaques: u64,
    /// Names or link targets that needed a PAX record or a GNU long entry.
    pub long: u64,
}

/// One layer being written over a tree.
pub(super) struct Changeset<'a, W: Write> {
    tree: &'a mut Tree,
    tar: Builder<W>,
    format: Format,
    epoch: u64,
    drop: &'a [String],
    xattrs: BTreeMap<String, Vec<(String, Vec<u8>)>>,
    capture: BTreeMap<String, Option<Vec<u8>>>,
    emitted: BTreeSet<String>,
    counts: Counts,
}

impl<W: Write> std::fmt::Debug for Changeset<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changeset")
            .field("format", &self.format)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl<'a, W: Write> Changeset<'a, W> {
    /// A layer over `tree`, to `out`. Paths that begin with one of `drop` are left out of packages.
    pub(super) fn new(
        tree: &'a mut Tree,
        out: W,
        format: Format,
        epoch: u64,
        drop: &'a [String],
    ) -> Self {
        Self {
            tree,
            tar: Builder::new(out),
            format,
            epoch,
            drop,
            xattrs: BTreeMap::new(),
            capture: BTreeMap::new(),
            emitted: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// The xattrs to put on entries of this layer, and the package files whose contents `Extra::Copy` will want.
    pub(super) fn expect(
        &mut self,
        xattrs: &BTreeMap<String, Vec<(String, Vec<u8>)>>,
        extras: &[Extra],
    ) {
        self.xattrs = xattrs.clone();
        for extra in extras {
            if let Extra::Copy { from, .. } = extra {
                self.capture.insert(from.clone(), None);
            }
        }
    }

    /// Writes the marker of a whiteout.
    ///
    /// # Errors
    /// The path is in no layer below (the recipe hides nothing), or a write fails.
    pub(super) fn whiteout(&mut self, whiteout: &Whiteout) -> Result<()> {
        let (path, opaque) = match whiteout {
            Whiteout::Remove(path) => (path, false),
            Whiteout::Opaque(path) | Whiteout::OpaqueLate(path) => (path, true),
        };
        let path = self.tree.resolve(path)?;
        ensure!(self.tree.nodes.contains_key(&path), "whiteout of {path}: no layer below has it");
        let marker = if opaque {
            ensure!(
                matches!(self.tree.nodes[&path], Kind::Dir { .. }),
                "opaque {path}: not a directory below"
            );
            self.counts.opaques += 1;
            format!("{path}/.wh..wh..opq")
        } else {
            self.counts.whiteouts += 1;
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path.as_str()));
            format!("{parent}{}.wh.{name}", if parent.is_empty() { "" } else { "/" })
        };
        let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: self.epoch, fraction: false };
        self.parents(&marker, meta.mtime)?;
        self.write(&marker, EntryType::Regular, meta, None, None, 0, &mut std::io::empty())?;
        self.counts.files -= 1;
        match whiteout {
            Whiteout::Remove(_) => {
                self.tree.remove_below(&path);
                self.tree.nodes.remove(&path);
            }
            Whiteout::Opaque(_) => self.tree.remove_below(&path),
            // The layer's own entries stay: forget only what it did not write itself.
            Whiteout::OpaqueLate(_) => {
                let prefix = format!("{path}/");
                let emitted = &self.emitted;
                self.tree
                    .nodes
                    .retain(|name, _| !name.starts_with(&prefix) || emitted.contains(name));
            }
        }
        Ok(())
    }

    /// Writes one entry of the recipe.
    ///
    /// # Errors
    /// A link or copy of something that is not in this layer, or a write fails.
    pub(super) fn extra(&mut self, extra: &Extra) -> Result<()> {
        let meta = |mode| Meta { mode, uid: 0, gid: 0, mtime: self.epoch, fraction: true };
        match extra {
            Extra::Dir { path, mode, uid, gid } => {
                let meta = Meta { uid: *uid, gid: *gid, ..meta(*mode) };
                self.put(path, EntryType::Directory, meta, None, None, 0, &mut std::io::empty())
            }
            Extra::Symlink { path, target } => self.put(
                path,
                EntryType::Symlink,
                meta(0o777),
                Some(target),
                None,
                0,
                &mut std::io::empty(),
            ),
            Extra::Node { path, block, major, minor, mode, gid } => {
                let kind = if *block { EntryType::Block } else { EntryType::Char };
                let meta = Meta { gid: *gid, ..meta(*mode) };
                self.put(path, kind, meta, None, Some((*major, *minor)), 0, &mut std::io::empty())
            }
            Extra::Fifo { path, mode } => {
                self.put(path, EntryType::Fifo, meta(*mode), None, None, 0, &mut std::io::empty())
            }
            Extra::File { path, mode, text } => {
                let bytes = text.as_bytes();
                self.put(
                    path,
                    EntryType::Regular,
                    meta(*mode),
                    None,
                    None,
                    bytes.len() as u64,
                    &mut Cursor::new(bytes),
                )
            }
            Extra::Copy { path, from } => {
                let bytes = self
                    .capture
                    .get(from)
                    .cloned()
                    .flatten()
                    .with_context(|| format!("copy of {from}: not in this layer"))?;
                let meta = meta(0o644);
                self.put(
                    path,
                    EntryType::Regular,
                    meta,
                    None,
                    None,
                    bytes.len() as u64,
                    &mut Cursor::new(bytes),
                )
            }
            Extra::Link { path, target } => {
                let meta = meta(0o644);
                self.put(path, EntryType::Link, meta, Some(target), None, 0, &mut std::io::empty())
            }
        }
    }

    /// A regular file that a package manager would have written.
    ///
    /// # Errors
    /// A write fails.
    pub(super) fn generated(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: self.epoch, fraction: true };
        self.put(
            path,
            EntryType::Regular,
            meta,
            None,
            None,
            bytes.len() as u64,
            &mut Cursor::new(bytes),
        )
    }

    /// Writes a package's files, in the package's order. `place` turns a name of the tar into a path of the image, or leaves it out.
    ///
    /// # Errors
    /// The tar cannot be read, has an entry of an odd type, or a write fails.
    pub(super) fn package(
        &mut self,
        tar: impl Read,
        place: impl Fn(&str) -> Option<String>,
    ) -> Result<()> {
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = String::from_utf8(entry.path_bytes().into_owned())
                .context("a name is not UTF-8")?;
            let Some(name) = place(name.trim_start_matches("./").trim_end_matches('/')) else {
                continue;
            };
            if name.is_empty() || self.drop.iter().any(|prefix| name.starts_with(prefix.as_str())) {
                continue;
            }
            let header = entry.header();
            let kind = header.entry_type();
            let meta = Meta {
                mode: header.mode()? & 0o7777,
                uid: header.uid()?,
                gid: header.gid()?,
                mtime: header.mtime()?,
                fraction: false,
            };
            let link =
                entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
            let size = entry.size();
            match kind {
                EntryType::Directory => {
                    // A directory that is there keeps its owner and mode; one that a lower layer made a link stays a link.
                    if !self.tree.nodes.contains_key(&self.tree.resolve(&name)?) {
                        self.put(&name, kind, meta, None, None, 0, &mut std::io::empty())?;
                    }
                }
                EntryType::Regular | EntryType::Symlink => {
                    self.put(&name, kind, meta, link.as_deref(), None, size, &mut entry)?;
                }
                EntryType::Link => {
                    let target = link.context("a hard link without a target")?;
                    let target = target.trim_start_matches("./");
                    self.put(&name, kind, meta, Some(target), None, 0, &mut std::io::empty())?;
                }
                other => bail!("{name}: a package has an entry of type {other:?}"),
            }
        }
        Ok(())
    }

    /// Ends the archive; gives back the writer and the counts.
    ///
    /// # Errors
    /// A write fails, or an xattr of the recipe found no entry.
    pub(super) fn finish(self) -> Result<(W, Counts)> {
        ensure!(self.xattrs.is_empty(), "no entry for the xattrs of {:?}", self.xattrs.keys());
        Ok((self.tar.into_inner()?, self.counts))
    }

    #[allow(clippy::too_many_arguments)]
    fn put(
        &mut self,
        path: &str,
        kind: EntryType,
        meta: Meta,
        link: Option<&str>,
        device: Option<(u32, u32)>,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<()> {
        let path = self.tree.resolve(path)?;
        // Two packages may ship one file (a diversion): the first has it.
        if kind != EntryType::Directory && self.emitted.contains(&path) {
            return Ok(());
        }
        let link = match (kind, link) {
            (EntryType::Link, Some(target)) => {
                let target = self.tree.resolve(target)?;
                ensure!(
                    self.emitted.contains(&target),
                    "hard link {path} to {target}: not in this layer"
                );
                Some(target)
            }
            (_, link) => link.map(str::to_owned),
        };
        self.parents(&path, meta.mtime)?;
        self.write(&path, kind, meta, link.as_deref(), device, size, content)?;
        let kind = match kind {
            EntryType::Directory => {
                Kind::Dir { mode: meta.mode, uid: meta.uid, gid: meta.gid, mtime: meta.mtime }
            }
            EntryType::Symlink => Kind::Symlink(link.unwrap_or_default()),
            _ => Kind::Other,
        };
        self.tree.set(&path, kind);
        Ok(())
    }

    /// A changeset holds the directories above what it changes; their time moves, the rest is as their maker left it.
    fn parents(&mut self, path: &str, mtime: u64) -> Result<()> {
        let mut at = 0;
        while let Some(slash) = path[at..].find('/') {
            let parent = path[..at + slash].to_owned();
            at += slash + 1;
            if self.emitted.contains(&parent) {
                continue;
            }
            let meta = match self.tree.nodes.get(&parent) {
                Some(Kind::Dir { mode, uid, gid, mtime: old }) => Meta {
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    mtime: mtime.max(*old),
                    fraction: false,
                },
                Some(other) => bail!("{path}: {parent} is not a directory but {other:?}"),
                None => Meta { mode: 0o755, uid: 0, gid: 0, mtime, fraction: false },
            };
            self.write(&parent, EntryType::Directory, meta, None, None, 0, &mut std::io::empty())?;
            self.tree.set(
                &parent,
                Kind::Dir { mode: meta.mode, uid: meta.uid, gid: meta.gid, mtime: meta.mtime },
            );
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn write(
        &mut self,
        path: &str,
        kind: EntryType,
        meta: Meta,
        link: Option<&str>,
        device: Option<(u32, u32)>,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<()> {
        let Encoded { mut header, mut records, long } =
            encode(self.format, path, kind, meta, link, device, size)?;
        let in_records = records.iter().filter(|(key, _)| *key != "mtime").count();
        self.counts.long += (in_records + long.len()) as u64;
        for (kind, text) in long {
            self.long_entry(kind, &text)?;
        }
        for (name, value) in self.xattrs.remove(path).unwrap_or_default() {
            records.push((format!("SCHILY.xattr.{name}"), value));
            self.counts.xattrs += 1;
        }
        if !records.is_empty() {
            self.tar.append_pax_extensions(
                records.iter().map(|(key, value)| (key.as_str(), value.as_slice())),
            )?;
        }
        header.set_cksum();
        if let Some(slot) = self.capture.get_mut(path) {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            self.tar.append(&header, &bytes[..])?;
            *slot = Some(bytes);
        } else {
            self.tar.append(&header, content)?;
        }
        self.count(kind, meta);
        self.emitted.insert(path.to_owned());
        Ok(())
    }

    /// A GNU extension entry: the whole name and a NUL, ahead of the entry it belongs to.
    fn long_entry(&mut self, kind: EntryType, text: &str) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_path("././@LongLink")?;
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(text.len() as u64 + 1);
        header.set_cksum();
        let bytes = [text.as_bytes(), b"\0"].concat();
        self.tar.append(&header, &bytes[..])?;
        self.counts.long += 1;
        Ok(())
    }

    fn count(&mut self, kind: EntryType, meta: Meta) {
        let counts = &mut self.counts;
        counts.entries += 1;
        match kind {
            EntryType::Directory => counts.dirs += 1,
            EntryType::Symlink => counts.symlinks += 1,
            EntryType::Link => counts.hardlinks += 1,
            EntryType::Char | EntryType::Block => counts.devices += 1,
            EntryType::Fifo => counts.fifos += 1,
            _ => {
                counts.files += 1;
                counts.setid += u64::from(meta.mode & 0o6000 != 0);
            }
        }
    }
}
