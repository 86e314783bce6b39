//! What one entry means for a layer: header and extensions in, [`Entry`] or refusal out. Pure.
//!
//! The meaning of names and whiteouts follows the OCI image spec, layer.md. Nothing here knows
//! the file system; how an entry takes effect is in `apply`.

use crate::archive::acl;
use crate::archive::header::{Header, in_range};
use crate::archive::pax::{Pax, Time};
use crate::archive::sparse::Sparse;
use crate::error::Fault;
use crate::error::refusal::{Class, Refusal};
use crate::limits::{Devices, Limits};

/// Names and values of extended attributes.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One entry of a layer, checked and normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Entries before this one.
    pub index: u64,
    /// Byte offset of its header block in the uncompressed tar.
    pub offset: u64,
    /// Components joined by single slashes, no leading or trailing one; empty for the root.
    pub path: Vec<u8>,
    /// What it is.
    pub node: Node,
    /// Permission bits, set-id bits and sticky bit (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes that are kept, in the layer's order.
    pub xattrs: Xattrs,
    /// How many extended attributes policy dropped.
    pub dropped_xattrs: u64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symlink.
    Symlink {
        /// Raw, as the layer gives it.
        target: Vec<u8>,
    },
    /// Another name for an inode that exists already.
    Hardlink {
        /// Normalised like [`Entry::path`].
        target: Vec<u8>,
    },
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
    /// Hides [`Entry::path`] (the name without its `.wh.`) of the layers below.
    Whiteout,
    /// Hides all that the layers below have in the directory [`Entry::path`].
    Opaque,
    /// AUFS metadata, skipped.
    Aufs,
    /// A file that AUFS keeps in its `.wh..wh.plnk` for the hard links to it: it has no name of its own
    /// in the tree.
    Pseudo {
        /// Bytes.
        size: u64,
    },
}

impl Node {
    /// The stable name, as in JSON output.
    pub fn name(&self) -> &'static str {
        match self {
            Node::File { .. } => "file",
            Node::Dir => "dir",
            Node::Symlink { .. } => "symlink",
            Node::Hardlink { .. } => "hardlink",
            Node::Char { .. } => "char",
            Node::Block { .. } => "block",
            Node::Fifo => "fifo",
            Node::Whiteout => "whiteout",
            Node::Opaque => "opaque",
            Node::Aufs | Node::Pseudo { .. } => "aufs",
        }
    }
}

/// Where AUFS keeps files of several names that it had to copy: at the root of a layer.
pub(crate) const PSEUDO: &[u8] = b".wh..wh.plnk/";

/// The extension headers before an entry.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    pub(crate) pax: Option<Pax>,
    pub(crate) long_name: Option<Vec<u8>>,
    pub(crate) long_link: Option<Vec<u8>>,
}

/// Parts of an entry that framing has already settled.
#[derive(Debug)]
pub(crate) struct Framing {
    pub(crate) index: u64,
    pub(crate) offset: u64,
    pub(crate) typeflag: u8,
    /// Bytes of body.
    pub(crate) size: u64,
}

/// Turns a header and its extensions into an entry. `name` gets the raw name, also on refusal.
pub(crate) fn entry(
    framing: &Framing,
    header: Header,
    extensions: Extensions,
    limits: &Limits,
    name: &mut Vec<u8>,
) -> Result<(Entry, Option<Sparse>), Fault> {
    let mut pax = extensions.pax.unwrap_or_default();
    let mut sparse = pax.sparse.take().map(|said| said.settle()).transpose()?;
    if let Some(name) = sparse.as_mut().and_then(|sparse| sparse.name.take()) {
        // The other one is made up.
        pax.path = Some(name);
    }
    if pax.path.is_some() && extensions.long_name.is_some() {
        return Err(Refusal::new(Class::Extension, "both a PAX path and a GNU long name").into());
    }
    if pax.linkpath.is_some() && extensions.long_link.is_some() {
        return Err(Refusal::new(Class::Extension, "both a PAX and a GNU long link").into());
    }
    *name = match (pax.path.or(extensions.long_name), header.odd) {
        (Some(name), _) => name,
        (None, None) => header.name,
        (None, Some(odd)) => {
            *name = header.name;
            let rule = "a GNU header with neither times nor a path in their place";
            return Err(Refusal::new(Class::Path, rule).bytes(&odd).into());
        }
    };
    let link = pax.linkpath.or(extensions.long_link).unwrap_or(header.link);

    let path = normal(name, limits, Class::Path)?;
    // Before POSIX.1-1988 a directory was a file whose name ends in a slash. All readers take it so
    // where the type is NUL; where it is "0" some do, and some make a file.
    let slashed = name.ends_with(b"/");
    let size = sparse.as_ref().map_or(framing.size, |sparse| sparse.size);
    let node = match framing.typeflag {
        0 if slashed => Node::Dir,
        0 | b'0' | b'7' => Node::File { size },
        // AUFS makes its whiteouts as links to one another: what they link to says nothing.
        b'1' if marks(&path) => Node::Hardlink { target: Vec::new() },
        b'1' => Node::Hardlink { target: hardlink_target(&link, limits)? },
        b'2' => Node::Symlink { target: symlink_target(link, limits)? },
        b'3' => device(Node::Char { major: header.device.0, minor: header.device.1 }, limits)?,
        b'4' => device(Node::Block { major: header.device.0, minor: header.device.1 }, limits)?,
        b'5' => Node::Dir,
        b'6' => Node::Fifo,
        b'S' => return Err(Refusal::new(Class::Sparse, "GNU sparse file").into()),
        other => {
            return Err(Refusal::new(Class::Type, "unknown entry type").bytes(&[other]).into());
        }
    };
    if framing.size != 0 && !matches!(node, Node::File { .. }) {
        return Err(Refusal::new(Class::Frame, "an entry of this type cannot have a body")
            .number(framing.size)
            .into());
    }
    if slashed && matches!(node, Node::File { .. }) {
        return Err(Refusal::new(Class::Path, "a file's name ends in a slash").into());
    }
    if sparse.is_some() && !matches!(node, Node::File { .. }) {
        return Err(Refusal::new(Class::Sparse, "only a regular file can be sparse").into());
    }
    let (path, node) = whiteout(path, node)?;
    let root_dir = matches!(node, Node::Dir | Node::Opaque);
    if path.is_empty() && !root_dir {
        return Err(Refusal::new(Class::Path, "only a directory can be the root").into());
    }

    // Where both are there all readers take the PAX one, and bsdtar's other one is nonsense before 1970.
    let mtime = match pax.mtime {
        Some(time) => time,
        None => Time { sec: in_range(header.mtime)?, nsec: 0 },
    };
    let mut entry = Entry {
        index: framing.index,
        offset: framing.offset,
        path,
        mode: header.mode,
        uid: pax.uid.unwrap_or(header.uid),
        gid: pax.gid.unwrap_or(header.gid),
        mtime,
        xattrs: Vec::new(),
        dropped_xattrs: 0,
        node,
    };
    for text in pax.texts {
        if limits.xattrs_strict {
            return Err(Refusal::new(Class::Xattr, "extended attribute that cannot be kept")
                .bytes(text)
                .into());
        }
        entry.dropped_xattrs += 1;
    }
    for (key, value) in pax.xattrs {
        if value.len() as u64 > limits.xattr_bytes_max {
            return Err(Refusal {
                class: Class::Xattr,
                ..Refusal::limit(
                    "--xattr-bytes-max",
                    "extended attribute too large",
                    value.len() as u64,
                    limits.xattr_bytes_max,
                )
            }
            .into());
        }
        if key.len() > 255 || key.contains(&0) {
            return Err(Refusal::new(Class::Xattr, "extended attribute's name").bytes(&key).into());
        }
        if kept(&key, &entry.node) {
            let value = match key.as_slice() {
                b"system.posix_acl_access" => acl::reconcile(&value, Some(entry.mode))?,
                b"system.posix_acl_default" => acl::reconcile(&value, None)?,
                _ => Some(value),
            };
            entry.xattrs.extend(value.map(|value| (key, value)));
        } else if limits.xattrs_strict {
            return Err(Refusal::new(Class::Xattr, "extended attribute that cannot be kept")
                .bytes(&key)
                .into());
        } else {
            entry.dropped_xattrs += 1;
        }
    }
    Ok((entry, sparse))
}

/// Which attributes are set. The rest is about the host that made the layer (labels, overlay
/// state, measurement) or cannot be set on that type (xattr(7)).
pub(crate) fn kept(key: &[u8], node: &Node) -> bool {
    // The state of an overlay that is mounted with `userxattr`.
    settable(key, node) && !key.starts_with(b"user.overlay.")
}

fn settable(key: &[u8], node: &Node) -> bool {
    match node {
        Node::File { .. } | Node::Pseudo { .. } => {
            key.starts_with(b"user.") && key.len() > 5
                || matches!(key, b"security.capability" | b"system.posix_acl_access")
        }
        Node::Dir => {
            key.starts_with(b"user.") && key.len() > 5
                || matches!(key, b"system.posix_acl_access" | b"system.posix_acl_default")
        }
        Node::Char { .. } | Node::Block { .. } | Node::Fifo => key == b"system.posix_acl_access",
        Node::Symlink { .. }
        | Node::Hardlink { .. }
        | Node::Whiteout
        | Node::Opaque
        | Node::Aufs => false,
    }
}

/// Whether a layer can set this attribute on anything, or could when trees that are here were made.
pub(crate) fn ours(key: &[u8]) -> bool {
    settable(key, &Node::Dir) || settable(key, &Node::File { size: 0 })
}

/// `name` without empty and `.` components; `..` is refused.
fn normal(name: &[u8], limits: &Limits, class: Class) -> Result<Vec<u8>, Refusal> {
    if name.is_empty() {
        return Err(Refusal::new(class, "empty name"));
    }
    if name.len() as u64 > limits.path_bytes_max {
        return Err(Refusal {
            class,
            ..Refusal::limit(
                "--path-bytes-max",
                "path too long",
                name.len() as u64,
                limits.path_bytes_max,
            )
        });
    }
    let mut path = Vec::with_capacity(name.len());
    let mut depth = 0u64;
    for component in name.split(|&b| b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(Refusal::new(class, "path holds \"..\"").bytes(name)),
            _ if component.len() > 255 => {
                return Err(Refusal::new(class, "path component over 255 bytes").bytes(component));
            }
            _ => {}
        }
        depth += 1;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    if depth > limits.depth_max {
        return Err(Refusal {
            class,
            ..Refusal::limit("--depth-max", "path too deep", depth, limits.depth_max)
        });
    }
    Ok(path)
}

fn hardlink_target(link: &[u8], limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let target = normal(link, limits, Class::Link)?;
    if target.is_empty() {
        return Err(Refusal::new(Class::Link, "hard link to the root"));
    }
    let named = target.strip_prefix(PSEUDO).unwrap_or(&target);
    if marks(named) {
        return Err(Refusal::new(Class::Link, "hard link to a whiteout").bytes(link));
    }
    Ok(target)
}

fn symlink_target(link: Vec<u8>, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    if link.is_empty() {
        return Err(Refusal::new(Class::Link, "empty symlink target"));
    }
    if link.len() as u64 > limits.path_bytes_max {
        return Err(Refusal {
            class: Class::Link,
            ..Refusal::limit(
                "--path-bytes-max",
                "symlink target too long",
                link.len() as u64,
                limits.path_bytes_max,
            )
        });
    }
    Ok(link)
}

fn device(node: Node, limits: &Limits) -> Result<Node, Refusal> {
    let (major, minor, allowed) = match (&node, limits.devices) {
        (&(Node::Char { major, minor } | Node::Block { major, minor }), Devices::Keep) => {
            (major, minor, true)
        }
        (&Node::Char { major, minor }, Devices::Standard) => {
            (major, minor, matches!((major, minor), (1, 3 | 5 | 7 | 8 | 9) | (5, 0..=2)))
        }
        (&Node::Char { major, minor }, Devices::Refuse) => (major, minor, false),
        (&Node::Block { major, minor }, Devices::Standard | Devices::Refuse) => {
            (major, minor, false)
        }
        _ => return Ok(node),
    };
    if allowed {
        return Ok(node);
    }
    let rule = match node {
        Node::Block { .. } => "block device not allowed by --devices",
        _ => "character device not allowed by --devices",
    };
    Err(Refusal::new(Class::Type, rule).bytes(format!("{major}:{minor}").as_bytes()))
}

/// Whether any component is a name that cannot exist in a layer's tree.
fn marks(path: &[u8]) -> bool {
    path.split(|&b| b == b'/').any(|component| component.starts_with(b".wh."))
}

/// Splits the whiteout prefix off. Names that start with `.wh.` cannot exist in a layer's tree.
fn whiteout(path: Vec<u8>, node: Node) -> Result<(Vec<u8>, Node), Refusal> {
    let cut = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    let (parents, last) = path.split_at(cut);
    if path.split(|&b| b == b'/').any(|c| c.starts_with(b".wh..wh.") && c != b".wh..wh..opq") {
        return Ok(match node {
            Node::File { size } if path.starts_with(PSEUDO) => (path, Node::Pseudo { size }),
            _ => (path, Node::Aufs),
        });
    }
    if parents.split(|&b| b == b'/').any(|c| c.starts_with(b".wh.")) {
        return Err(Refusal::new(Class::Whiteout, "a whiteout cannot be a directory").bytes(&path));
    }
    let Some(hidden) = last.strip_prefix(b".wh.") else {
        return Ok((path, node));
    };
    if !matches!(node, Node::File { .. } | Node::Hardlink { .. }) {
        let rule = "a whiteout has to be a regular file or a hard link";
        return Err(Refusal::new(Class::Whiteout, rule));
    }
    if hidden == b".wh..opq" {
        let dir = parents.strip_suffix(b"/").unwrap_or(parents);
        return Ok((dir.to_vec(), Node::Opaque));
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(Refusal::new(Class::Whiteout, "a whiteout of no name").bytes(last));
    }
    Ok(([parents, hidden].concat(), Node::Whiteout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wh(path: &str) -> Result<(String, Node), Class> {
        whiteout(path.as_bytes().to_vec(), Node::File { size: 0 })
            .map(|(p, n)| (String::from_utf8(p).unwrap(), n))
            .map_err(|r| r.class)
    }

    #[test]
    fn whiteout_names() {
        assert_eq!(wh("a/.wh.b"), Ok(("a/b".into(), Node::Whiteout)));
        assert_eq!(wh(".wh..baz"), Ok((".baz".into(), Node::Whiteout)));
        assert_eq!(wh("a/.wh..wh..opq"), Ok(("a".into(), Node::Opaque)));
        assert_eq!(wh(".wh..wh..opq"), Ok((String::new(), Node::Opaque)));
        assert_eq!(wh(".wh..wh.plnk/1.2").unwrap().1, Node::Pseudo { size: 0 });
        assert_eq!(wh("a/.wh..wh.plnk/1.2").unwrap().1, Node::Aufs);
        assert_eq!(wh(".wh..wh.orph/1.2").unwrap().1, Node::Aufs);
        for bad in [".wh.", "d/.wh..", ".wh...", ".wh.d/x"] {
            assert_eq!(wh(bad), Err(Class::Whiteout), "{bad}");
        }
        let dir = whiteout(b".wh.d".to_vec(), Node::Dir).unwrap_err();
        assert_eq!(dir.class, Class::Whiteout);
    }

    #[test]
    fn names_become_plain_components() {
        let limits = Limits::default();
        let ok = |name: &[u8]| normal(name, &limits, Class::Path);
        assert_eq!(ok(b"/a//./b///c/").unwrap(), b"a/b/c");
        assert_eq!(ok(b"./").unwrap(), b"");
        assert_eq!(ok(b"a/../b").unwrap_err().class, Class::Path);
        assert!(ok(&[b'x'; 255]).is_ok() && ok(&[b'x'; 256]).is_err());
    }
}
