//! What is mounted where: the table of mounts as the kernel writes it (`mountinfo`, proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// `major:minor` of the file system.
    pub(crate) device: String,
    /// Which directory of the file system is there.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
    /// Of an overlay the directories that it is made of, as they were given when it was mounted.
    pub(crate) parts: Vec<PathBuf>,
}

/// All of them, in the kernel's order: what is mounted over something comes after it.
pub(crate) fn table(text: &[u8]) -> Vec<Mounted> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let (root, point) = (path(fields.next()?), path(fields.next()?));
        // After the optional fields and a lone hyphen: type, source, and options of the file system.
        let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
        let is_overlay = rest.next() == Some(b"overlay");
        let options = rest.nth(1).filter(|_| is_overlay).unwrap_or_default();
        Some(Mounted { device, root, point, parts: parts(options) })
    };
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// The directories in an overlay's options (kernel: filesystems/overlayfs.rst): lower ones have colons between them,
/// or an option each.
fn parts(options: &[u8]) -> Vec<PathBuf> {
    const NAMES: [&str; 5] = ["lowerdir", "upperdir", "workdir", "lowerdir+", "datadir+"];
    let mut parts = Vec::new();
    for option in options.split(|byte| *byte == b',') {
        let Some(equals) = option.iter().position(|byte| *byte == b'=') else { continue };
        if !NAMES.iter().any(|name| name.as_bytes() == &option[..equals]) {
            continue;
        }
        let value = path(&option[equals + 1..]).into_os_string().into_vec();
        let mut part = Vec::new();
        let mut bytes = value.into_iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => part.extend(bytes.next()),
                b':' => parts.push(std::mem::take(&mut part)),
                other => part.push(other),
            }
        }
        parts.push(part);
    }
    parts.retain(|part| !part.is_empty());
    parts.into_iter().map(|part| PathBuf::from(OsString::from_vec(part))).collect()
}

/// A field, in which some bytes stand as three octal digits.
fn path(field: &[u8]) -> PathBuf {
    let (mut path, mut rest) = (Vec::new(), field);
    while let Some((first, more)) = rest.split_first() {
        let octal = more.get(..3).filter(|_| *first == b'\\');
        let code = octal.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = &more[3..];
            }
            None => {
                path.push(*first);
                rest = more;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

/// Where the whole of this file system is mounted.
pub(crate) fn of_device(table: &[Mounted], device: &str) -> Vec<PathBuf> {
    let whole = |mount: &&Mounted| mount.device == device && mount.root == Path::new("/");
    table.iter().filter(whole).map(|mount| mount.point.clone()).collect()
}

/// Where this file system, or a directory of it, is mounted.
pub(crate) fn on_device(table: &[Mounted], device: &str) -> Vec<PathBuf> {
    let of = |mount: &&Mounted| mount.device == device;
    table.iter().filter(of).map(|mount| mount.point.clone()).collect()
}

/// Where, by the table of any process, the directory `tree` of this one's `own` table or one inside of it is mounted
/// again, and what is mounted inside of it.
pub(crate) fn of_place(table: &[Mounted], own: &[Mounted], tree: &Path) -> Vec<PathBuf> {
    let place = place(own, tree);
    let found = |mount: &&Mounted| {
        let again = place.as_ref().is_some_and(|(within, root)| {
            mount.device == within.device && mount.root.starts_with(root)
        });
        again || mount.point.starts_with(tree)
    };
    table.iter().filter(found).map(|mount| mount.point.clone()).collect()
}

/// The deepest mount that a directory is in, of those the one on top, and which directory of its file system it is.
fn place<'t>(table: &'t [Mounted], tree: &Path) -> Option<(&'t Mounted, PathBuf)> {
    let above = table.iter().filter(|mount| tree.starts_with(&mount.point));
    let within = above.max_by_key(|mount| mount.point.components().count())?;
    let below = tree.strip_prefix(&within.point).ok()?;
    Some((within, within.root.join(below)))
}

/// Where the directory `tree` is mounted a second time.
pub(crate) fn of_tree(table: &[Mounted], tree: &Path) -> Vec<PathBuf> {
    again(table, tree, |mounted, root| mounted == root)
}

/// Where the directory `tree`, or one inside of it, is mounted a second time.
pub(crate) fn within_tree(table: &[Mounted], tree: &Path) -> Vec<PathBuf> {
    again(table, tree, |mounted, root| mounted.starts_with(root))
}

fn again(table: &[Mounted], tree: &Path, is: impl Fn(&Path, &Path) -> bool) -> Vec<PathBuf> {
    let Some((within, root)) = place(table, tree) else { return Vec::new() };
    let found = |mount: &&Mounted| {
        mount.device == within.device && is(&mount.root, &root) && *mount != within
    };
    table.iter().filter(found).map(|mount| mount.point.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"21 1 0:5 / / rw - overlay none rw\n\
        22 21 8:1 /var/data /srv/a\\040b rw shared:1 - ext4 /dev/sda1 rw\n\
        23 22 0:6 / /srv/a\\040b/volumes/7/proc rw - proc proc rw\n\
        24 21 8:1 /var/data/volumes/7 /mnt/web rw - ext4 /dev/sda1 rw\n\
        25 21 8:1 /var/data/volumes/7/etc /mnt/etc rw - ext4 /dev/sda1 rw\n\
        26 21 8:1 /var/data/volumes/77 /mnt/other rw - ext4 /dev/sda1 rw\n\
        27 21 8:2 /var/data/volumes/7 /mnt/another rw - ext4 /dev/sda2 rw\n\
        28 21 253:7 / /mnt/dev\\134ice rw - ext4 /dev/dm-7 rw\n\
        short 8:1\n";

    fn paths(texts: &[&str]) -> Vec<PathBuf> {
        texts.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let table = table(TEXT);
        assert_eq!(table.len(), 8);
        assert_eq!(table[1].point, Path::new("/srv/a b"));
        assert_eq!(table[1].root, Path::new("/var/data"));
        assert_eq!(of_device(&table, "253:7"), paths(&["/mnt/dev\\ice"]));
        assert_eq!(of_device(&table, "253:70"), paths(&[]));
    }

    #[test]
    fn a_tree_that_is_mounted_a_second_time_is_found_by_its_place_in_the_file_system() {
        let table = table(TEXT);
        let of = |tree: &str| of_tree(&table, Path::new(tree));
        assert_eq!(of("/srv/a b/volumes/7"), paths(&["/mnt/web"]));
        let within = within_tree(&table, Path::new("/srv/a b/volumes/7"));
        assert_eq!(within, paths(&["/mnt/web", "/mnt/etc"]));
        assert_eq!(of("/srv/a b/volumes/77"), paths(&["/mnt/other"]));
        assert_eq!(of("/srv/a b/volumes/8"), paths(&[]));
        assert_eq!(of("/elsewhere/volumes/7"), paths(&[]));
        assert_eq!(of_tree(&[], Path::new("/x")), paths(&[]));
    }

    #[test]
    fn another_process_has_it_at_a_place_of_its_own() {
        let own = table(TEXT);
        let other = table(
            b"1 0 8:1 /var/data/volumes/7 / rw - ext4 /dev/sda1 rw\n2 1 0:9 / /proc rw - proc proc rw\n\
              3 1 8:1 /var/data /srv rw - ext4 /dev/sda1 rw\n4 1 8:1 /var/data/volumes/77 /x rw - e s rw\n",
        );
        let tree = Path::new("/srv/a b/volumes/7");
        assert_eq!(of_place(&other, &own, tree), paths(&["/"]));
        let own_points = of_place(&own, &own, tree);
        assert_eq!(own_points, paths(&["/srv/a b/volumes/7/proc", "/mnt/web", "/mnt/etc"]));
        assert_eq!(on_device(&own, "8:2"), paths(&["/mnt/another"]));
    }

    #[test]
    fn an_overlay_names_what_it_is_made_of() {
        let text = b"30 21 0:50 / /merged rw shared:7 - overlay overlay rw,lowerdir=/v/1:/a\\134:b:/c\\040d,\
            upperdir=/v/2/up,workdir=/v/2/work,index=off\n31 21 0:51 / /x rw - overlay o rw,lowerdir+=/e,datadir+=/f\n\
            32 21 0:52 / /y rw - ext4 /dev/sda1 rw,lowerdir=/v/1\n33 21 0:53 / /z rw - overlay\n";
        let parts: Vec<Vec<PathBuf>> = table(text).into_iter().map(|mount| mount.parts).collect();
        let all = ["/v/1", "/a:b", "/c d", "/v/2/up", "/v/2/work"];
        assert_eq!(parts, [paths(&all), paths(&["/e", "/f"]), paths(&[]), paths(&[])]);
    }

    #[test]
    fn what_lies_on_top_of_another_mount_counts() {
        let text =
            b"21 1 0:5 / / rw - x y z\n22 21 0:6 / /s rw - x y z\n23 22 0:7 / /s rw - x y z\n\
            24 21 0:7 /v/1 /m rw - x y z\n25 21 0:6 /v/1 /n rw - x y z\n";
        assert_eq!(of_tree(&table(text), Path::new("/s/v/1")), paths(&["/m"]));
    }
}
