//! The oracle: what a stack of layers looks like when GNU tar applies it. Whiteouts, replaced types
//! and the times of directories are handled here, by other code than that of the crate `unpack`.
//!
//! tar runs in a chroot of the tree, so that a link to an absolute path stays inside. The rules are
//! the OCI image specification's (layer.md, "Applying Changesets"); where that is silent: a directory
//! that no layer names is 0755, root's, of time 0, and one that a layer changes without naming it
//! keeps its time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, Timespec, Timestamps};

/// tar and what it needs, inside the tree while a layer is applied.
const TOOLS: &str = ".oracle";
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const TAR: &str = "/usr/bin/tar";

/// Applies one layer, an uncompressed tar, onto the tree at `root`.
///
/// # Errors
/// tar fails, or the tree cannot be read or changed.
pub fn apply(layer: &Path, root: &Path) -> Result<()> {
    let entries = list(layer)?;
    let before = directories(root)?;
    let mut named = BTreeSet::new();
    let mut kept = Vec::new();

    // Whiteouts first: they hide what lower layers brought, wherever they stand in this layer.
    for entry in &entries {
        let name = entry.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let parent = entry.path.parent().unwrap_or(Path::new(""));
        match name.as_deref() {
            Some(".wh..wh..opq") => {
                let dir = resolve(root, parent);
                if dir.is_dir() {
                    for child in std::fs::read_dir(&dir)? {
                        remove(&child?.path())?;
                    }
                }
            }
            Some(name) if name.starts_with(".wh..wh.") => {}
            Some(name) if name.starts_with(".wh.") => {
                remove(&resolve(root, parent).join(&name[4..]))?;
            }
            Some(_) | None => kept.push(entry),
        }
    }
    for entry in &kept {
        let path = in_tree(root, &entry.path);
        let both_dirs = entry.is_dir
            && std::fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_dir());
        if both_dirs {
            clear(&path)?;
        } else {
            remove(&path)?;
        }
    }
    extract(layer, root)?;
    for entry in kept {
        if entry.is_dir {
            named.insert(in_tree(root, &entry.path));
        }
    }
    restore_times(root, &before, &named)
}

/// One entry of an archive.
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    is_dir: bool,
}

/// Names by `tar -t`; a directory's ends with a slash.
pub(crate) fn list(layer: &Path) -> Result<Vec<Entry>> {
    let output = Command::new(TAR)
        .args(["--list", "--quoting-style=escape", "--file"])
        .arg(layer)
        .output()
        .context("run tar")?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    let mut entries = Vec::new();
    for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let name = unescape(line)?;
        let is_dir = name.last() == Some(&b'/');
        let path = PathBuf::from(OsString::from_vec(name));
        // Without "./" and the trailing slash.
        let path = path.components().filter(|part| *part != Component::CurDir).collect();
        entries.push(Entry { path, is_dir });
    }
    Ok(entries)
}

/// GNU tar's "escape" style: backslash and a letter as in C, or three octal digits.
fn unescape(line: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = line.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'a') => 7,
            Some(b'b') => 8,
            Some(b'v') => 11,
            Some(b'f') => 12,
            Some(b'\\') => b'\\',
            Some(b' ') => b' ',
            Some(first @ b'0'..=b'3') => {
                let mut value = first - b'0';
                for _ in 0..2 {
                    let digit = rest.next().context("an octal escape ends early")?;
                    value = value * 8 + (digit - b'0');
                }
                value
            }
            other => bail!("unknown escape {other:?} in a name of tar's list"),
        });
    }
    Ok(bytes)
}

/// Follows every link below `root` as if it were "/"; what does not exist is taken as it stands.
fn resolve(root: &Path, path: &Path) -> PathBuf {
    let mut at = PathBuf::new();
    let mut todo: Vec<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match std::fs::read_link(root.join(&next)) {
            Ok(target) if links < 40 => {
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::new();
                }
                todo.extend(parts(&target));
            }
            Ok(_) | Err(_) => at = next,
        }
    }
    root.join(at)
}

/// The parent followed, the last part not.
fn in_tree(root: &Path, path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(root, parent).join(name),
        (_, _) => root.to_owned(),
    }
}

/// Normal and ".." components, last first.
fn parts(path: &Path) -> Vec<OsString> {
    let wanted = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(wanted).map(|part| part.as_os_str().to_owned()).rev().collect()
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    }
    .with_context(|| format!("remove {}", path.display()))
}

/// A directory that a layer names has the attributes that it says, and tar takes none away.
fn clear(dir: &Path) -> Result<()> {
    let mut names = vec![0u8; 64 << 10];
    let len = rustix::fs::listxattr(dir, &mut names[..])?;
    for name in names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") {
            rustix::fs::removexattr(dir, name)?;
        }
    }
    Ok(())
}

fn extract(layer: &Path, root: &Path) -> Result<()> {
    let tools = root.join(TOOLS);
    std::fs::create_dir(&tools)?;
    for file in libraries()? {
        let name = file.file_name().context("a library has a name")?;
        std::fs::copy(&file, tools.join(name))?;
    }
    // The guest has this one; elsewhere it is that of the coreutils.
    let guests = Path::new("/busybox/chroot");
    let output = Command::new(if guests.exists() { guests } else { Path::new("chroot") })
        .arg(root)
        .arg(format!("/{TOOLS}/ld-linux-x86-64.so.2"))
        .args(["--library-path", &format!("/{TOOLS}"), &format!("/{TOOLS}/tar")])
        .args(["--extract", "--file=-", "--exclude=.wh.*", "--numeric-owner", "--same-owner"])
        .args(["--preserve-permissions", "--xattrs", "--xattrs-include=*"])
        .args(["--delay-directory-restore", "--warning=no-timestamp"])
        .stdin(File::open(layer)?)
        .output()
        .context("run tar in a chroot")?;
    std::fs::remove_dir_all(&tools)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "tar in a chroot: {said}");
    Ok(())
}

/// tar, the loader, and the libraries it names.
fn libraries() -> Result<Vec<PathBuf>> {
    let output = Command::new(LOADER).args(["--list", TAR]).output().context(LOADER)?;
    let mut files = vec![PathBuf::from(TAR), PathBuf::from(LOADER)];
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((_, path)) = line.split_once("=> ") {
            files.push(PathBuf::from(path.split(' ').next().unwrap_or(path)));
        }
    }
    Ok(files)
}

/// Every directory and its time.
fn directories(root: &Path) -> Result<BTreeMap<PathBuf, (i64, i64)>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        let at = std::fs::symlink_metadata(&dir)?;
        found.insert(dir.clone(), (at.mtime(), at.mtime_nsec()));
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Directories that this layer does not name: the time they had, or the form of an implicit one.
fn restore_times(
    root: &Path,
    before: &BTreeMap<PathBuf, (i64, i64)>,
    named: &BTreeSet<PathBuf>,
) -> Result<()> {
    for dir in directories(root)?.into_keys().filter(|dir| !named.contains(dir)) {
        let (seconds, nanos) = match before.get(&dir) {
            Some(time) => *time,
            None => {
                rustix::fs::chmod(&dir, rustix::fs::Mode::from_raw_mode(0o755))?;
                (0, 0)
            }
        };
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let both = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &dir, &both, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{resolve, unescape};
    use std::path::Path;

    #[test]
    fn names_come_back_from_tars_escapes() {
        assert_eq!(unescape(br"a\nb\\c\303\274").unwrap(), "a\nb\\cü".as_bytes());
        assert!(unescape(br"a\q").is_err());
    }

    #[test]
    fn links_are_followed_inside_the_root() {
        let root = std::env::temp_dir().join(format!("oracle-{}", std::process::id()));
        std::fs::create_dir_all(root.join("run")).unwrap();
        std::fs::create_dir_all(root.join("var")).unwrap();
        std::os::unix::fs::symlink("/run", root.join("var/run")).unwrap();
        std::os::unix::fs::symlink("../../..", root.join("up")).unwrap();
        assert_eq!(resolve(&root, Path::new("var/run/lock")), root.join("run/lock"));
        assert_eq!(resolve(&root, Path::new("up/etc")), root.join("etc"));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
