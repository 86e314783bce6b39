//! A file tree as a value, and how two of them differ, path for path. Used to compare what veneer
//! made with what the oracle made; reads with std and rustix only.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// Everything at and below a root, by path relative to it; the root itself is ".".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, Node>);

/// One path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// File type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file or of a link's target; 0 for everything else, where it is the file system's
    /// own affair.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Major and minor of a device node.
    pub device: (u32, u32),
    /// sha256 of a file's bytes.
    pub content: Option<[u8; 32]>,
    /// Where a symbolic link points.
    pub target: Option<PathBuf>,
    /// The first path of the same file, if there are several in the tree.
    pub same_as: Option<PathBuf>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Tree {
    /// Reads the whole tree.
    ///
    /// # Errors
    /// Something cannot be read; the error names it.
    pub fn read(root: &Path) -> Result<Tree> {
        let mut nodes = BTreeMap::new();
        let mut files: HashMap<(u64, u64), Vec<PathBuf>> = HashMap::new();
        let mut open = vec![PathBuf::from(".")];
        while let Some(path) = open.pop() {
            let whole = root.join(&path);
            let found = std::fs::symlink_metadata(&whole)
                .with_context(|| format!("look at {}", whole.display()))?;
            if found.is_dir() {
                for entry in
                    std::fs::read_dir(&whole).with_context(|| path.display().to_string())?
                {
                    let name = entry?.file_name();
                    open.push(if path == Path::new(".") { name.into() } else { path.join(name) });
                }
            } else if found.nlink() > 1 {
                files.entry((found.dev(), found.ino())).or_default().push(path.clone());
            }
            let node = node(&whole, &found).with_context(|| whole.display().to_string())?;
            nodes.insert(path, node);
        }
        for mut names in files.into_values() {
            names.sort();
            if let [first, _, ..] = names.as_slice() {
                for name in &names {
                    if let Some(node) = nodes.get_mut(name) {
                        node.same_as = Some(first.clone());
                    }
                }
            }
        }
        Ok(Tree(nodes))
    }

    /// Reads the root of an ext4 that layers were applied to: without "lost+found", and without the
    /// root's own time, which is mkfs's unless a layer names the root.
    ///
    /// # Errors
    /// As [`Tree::read`].
    pub fn read_volume(root: &Path) -> Result<Tree> {
        let mut tree = Tree::read(root)?.without("lost+found");
        if let Some(top) = tree.0.get_mut(Path::new(".")) {
            top.mtime = (0, 0);
        }
        Ok(tree)
    }

    /// Leaves out the root itself, not what is in it.
    #[must_use]
    pub fn without_root(mut self) -> Tree {
        self.0.remove(Path::new("."));
        self
    }

    /// How many paths.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is not even a root; never so for a tree that was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The node at this path.
    #[must_use]
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Node> {
        self.0.get(path.as_ref())
    }

    /// Leaves out a path and what is below it, such as ext4's own "lost+found".
    #[must_use]
    pub fn without(mut self, path: impl AsRef<Path>) -> Tree {
        self.0.retain(|found, _| !found.starts_with(path.as_ref()));
        self
    }

    /// One line for each difference; empty when both are equal. `self` is what was expected.
    #[must_use]
    pub fn differences(&self, other: &Tree) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, expected) in &self.0 {
            let name = path.display().to_string().escape_debug().to_string();
            match other.0.get(path) {
                None => lines.push(format!("{name}: missing")),
                Some(found) if found == expected => {}
                Some(found) => lines.push(format!("{name}: {}", expected.against(found))),
            }
        }
        for path in other.0.keys().filter(|path| !self.0.contains_key(*path)) {
            lines.push(format!("{}: not expected", path.display().to_string().escape_debug()));
        }
        lines
    }

    /// An error that shows the first differences unless both are equal.
    ///
    /// # Errors
    /// They differ.
    pub fn expect_equal(&self, other: &Tree) -> Result<()> {
        let lines = self.differences(other);
        if lines.is_empty() {
            return Ok(());
        }
        let shown = lines.iter().take(40).cloned().collect::<Vec<_>>().join("\n  ");
        anyhow::bail!("{} of {} paths differ:\n  {shown}", lines.len(), self.len())
    }
}

impl Node {
    fn against(&self, found: &Node) -> String {
        let mut text = String::new();
        let mut show = |what: &str, expected: String, found: String| {
            if expected != found {
                let comma = if text.is_empty() { "" } else { ", " };
                // Writing to a String cannot fail.
                write!(text, "{comma}{what} {found} instead of {expected}").ok();
            }
        };
        show("mode", format!("{:o}", self.mode), format!("{:o}", found.mode));
        let owner = |node: &Node| format!("{}:{}", node.uid, node.gid);
        show("owner", owner(self), owner(found));
        show("size", self.size.to_string(), found.size.to_string());
        show("mtime", format!("{:?}", self.mtime), format!("{:?}", found.mtime));
        show("device", format!("{:?}", self.device), format!("{:?}", found.device));
        let digest = |node: &Node| node.content.map_or("none".to_owned(), |bytes| hex(&bytes[..6]));
        show("content", digest(self), digest(found));
        show("target", format!("{:?}", self.target), format!("{:?}", found.target));
        show("hard link to", format!("{:?}", self.same_as), format!("{:?}", found.same_as));
        show("xattrs", xattr_text(&self.xattrs), xattr_text(&found.xattrs));
        text
    }
}

fn node(path: &Path, found: &Metadata) -> Result<Node> {
    let kind = found.file_type();
    let target = if kind.is_symlink() { Some(std::fs::read_link(path)?) } else { None };
    let content = if kind.is_file() { Some(digest(path)?) } else { None };
    let sized = kind.is_file() || kind.is_symlink();
    let device = if found.mode() & 0o170_000 == 0o020_000 || found.mode() & 0o170_000 == 0o060_000 {
        (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()))
    } else {
        (0, 0)
    };
    Ok(Node {
        mode: found.mode(),
        uid: found.uid(),
        gid: found.gid(),
        size: if sized { found.size() } else { 0 },
        mtime: (found.mtime(), found.mtime_nsec()),
        device,
        content,
        target,
        same_as: None,
        xattrs: xattrs(path)?,
    })
}

fn digest(path: &Path) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.finalize().into())
}

fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    // Most paths have none: the length first, and no room of 64 KiB for each.
    let mut names = match rustix::fs::llistxattr(path, &mut [0u8; 0][..]) {
        Ok(length) => vec![0; length],
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let length = match names.as_mut_slice() {
        [] => 0,
        names => rustix::fs::llistxattr(path, names)?,
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let name_c = CString::new(name)?;
        let length = rustix::fs::lgetxattr(path, &name_c, &mut value[..])?;
        value.truncate(length);
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

fn xattr_text(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let one = |(name, value): (&Vec<u8>, &Vec<u8>)| {
        format!("{}={}", OsStr::from_bytes(name).display(), hex(value))
    };
    format!("{{{}}}", xattrs.iter().map(one).collect::<Vec<_>>().join(" "))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}
