//! Forges layers byte by byte, honest ones and hostile ones, and applies them to a root that has
//! a canary beside it. Used by the tests of this folder; the bytes are made here and nowhere else.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod twin;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use unpack::{Applied, Class, Error, Geometry, Limits, Root, apply, escaped_whole};

use twin::Twin;

/// A header block, field by field as raw text.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) name: Vec<u8>,
    pub(crate) mode: Vec<u8>,
    pub(crate) uid: Vec<u8>,
    pub(crate) gid: Vec<u8>,
    pub(crate) size: Vec<u8>,
    pub(crate) mtime: Vec<u8>,
    pub(crate) typeflag: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) magic: Vec<u8>,
    pub(crate) major: Vec<u8>,
    pub(crate) minor: Vec<u8>,
    pub(crate) prefix: Vec<u8>,
    /// Overrides the right checksum.
    pub(crate) checksum: Option<Vec<u8>>,
    pub(crate) signed: bool,
    pub(crate) tail: Vec<u8>,
}

pub(crate) const USTAR: &[u8] = b"ustar\x0000";
pub(crate) const GNU: &[u8] = b"ustar  \0";
pub(crate) const V7: &[u8] = &[0; 8];

pub(crate) fn octal(value: u64, width: usize) -> Vec<u8> {
    format!("{value:0width$o}", width = width - 1).into_bytes()
}

/// A base-256 number of `width` bytes.
pub(crate) fn base256(value: i128, width: usize) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let mut out = vec![if value < 0 { 0xff } else { 0 }; width];
    let take = width.min(bytes.len());
    out[width - take..].copy_from_slice(&bytes[bytes.len() - take..]);
    out[0] |= 0x80;
    if value < 0 {
        out[0] = 0xff;
    }
    out
}

impl Head {
    pub(crate) fn new(name: impl AsRef<[u8]>, typeflag: u8, size: u64) -> Head {
        let mode = if typeflag == b'5' { 0o755 } else { 0o644 };
        Head {
            name: name.as_ref().to_vec(),
            mode: octal(mode, 8),
            uid: octal(0, 8),
            gid: octal(0, 8),
            size: octal(size, 12),
            mtime: octal(1000, 12),
            typeflag,
            link: Vec::new(),
            magic: USTAR.to_vec(),
            major: octal(0, 8),
            minor: octal(0, 8),
            prefix: Vec::new(),
            checksum: None,
            signed: false,
            tail: Vec::new(),
        }
    }

    pub(crate) fn block(&self) -> [u8; 512] {
        let mut block = [0u8; 512];
        let mut put = |at: usize, max: usize, bytes: &[u8]| {
            let len = bytes.len().min(max);
            block[at..at + len].copy_from_slice(&bytes[..len]);
        };
        put(0, 100, &self.name);
        put(100, 8, &self.mode);
        put(108, 8, &self.uid);
        put(116, 8, &self.gid);
        put(124, 12, &self.size);
        put(136, 12, &self.mtime);
        put(148, 8, b"        ");
        put(156, 1, &[self.typeflag]);
        put(157, 100, &self.link);
        put(257, 8, &self.magic);
        put(329, 8, &self.major);
        put(337, 8, &self.minor);
        put(345, 155, &self.prefix);
        put(500, 12, &self.tail);
        let sum: i64 = match self.signed {
            false => block.iter().map(|&b| i64::from(b)).sum(),
            true => block.iter().map(|&b| i64::from(b.cast_signed())).sum(),
        };
        let text = format!("{sum:06o}\0 ").into_bytes();
        block[148..156].copy_from_slice(self.checksum.as_deref().unwrap_or(&text));
        block
    }
}

/// A PAX record with its right length.
pub(crate) fn record(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let (key, value) = (key.as_ref(), value.as_ref());
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [format!("{len} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

/// A tar being forged.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

pub(crate) fn tar() -> Tar {
    Tar::default()
}

impl Tar {
    pub(crate) fn raw(mut self, bytes: impl AsRef<[u8]>) -> Tar {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub(crate) fn pad(mut self) -> Tar {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn head(self, head: &Head) -> Tar {
        self.raw(head.block())
    }

    /// An entry whose header is changed before it is written.
    pub(crate) fn with(
        self,
        mut head: Head,
        body: impl AsRef<[u8]>,
        change: impl FnOnce(&mut Head),
    ) -> Tar {
        change(&mut head);
        self.head(&head).raw(body).pad()
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Tar {
        let size = body.as_ref().len() as u64;
        self.with(Head::new(name, b'0', size), body, |_| {})
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>) -> Tar {
        self.with(Head::new(name, b'5', 0), "", |_| {})
    }

    pub(crate) fn dir_mode(self, name: impl AsRef<[u8]>, mode: u64) -> Tar {
        self.with(Head::new(name, b'5', 0), "", |h| h.mode = octal(mode, 8))
    }

    pub(crate) fn link(
        self,
        name: impl AsRef<[u8]>,
        typeflag: u8,
        target: impl AsRef<[u8]>,
    ) -> Tar {
        self.with(Head::new(name, typeflag, 0), "", |h| h.link = target.as_ref().to_vec())
    }

    pub(crate) fn sym(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        self.link(name, b'2', target)
    }

    pub(crate) fn hard(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        self.link(name, b'1', target)
    }

    pub(crate) fn node(self, name: &str, typeflag: u8, major: u64, minor: u64) -> Tar {
        self.with(Head::new(name, typeflag, 0), "", |h| {
            h.major = octal(major, 8);
            h.minor = octal(minor, 8);
        })
    }

    /// A PAX header with these records.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let body: Vec<u8> = records.iter().flat_map(|(k, v)| record(k, v)).collect();
        self.extension(b'x', &body)
    }

    /// Any extension header with a raw body.
    pub(crate) fn extension(self, typeflag: u8, body: &[u8]) -> Tar {
        let size = body.len() as u64;
        self.with(Head::new("ext", typeflag, size), body, |h| {
            if matches!(typeflag, b'L' | b'K') {
                h.magic = GNU.to_vec();
            }
        })
    }

    /// The end marker.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw([0; 1024]).0
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A new directory, in memory where that holds what the tests need: attributes of users, and room.
/// A disk that is slow to make and remove files would make minutes of seconds.
pub(crate) fn scratch() -> tempfile::TempDir {
    static FAST: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let shm = Path::new("/dev/shm");
    let fast = *FAST.get_or_init(|| {
        let room = nix::sys::statvfs::statvfs(shm)
            .is_ok_and(|stat| stat.blocks_free() * stat.fragment_size() > 512 << 20);
        let attributes = tempfile::tempdir_in(shm).is_ok_and(|dir| set_xattr(dir.path(), "user.a"));
        std::env::var_os("TMPDIR").is_none() && room && attributes
    });
    if fast { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Whether a file can be given an attribute.
pub(crate) fn set_xattr(path: &Path, name: &str) -> bool {
    rustix::fs::lsetxattr(path, name, b"1", rustix::fs::XattrFlags::empty()).is_ok()
}

/// A root with a canary beside it: everything around the root must stay as it is.
pub(crate) struct Pen {
    pub(crate) dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
    twin: RefCell<Twin>,
    _beside: TempDir,
}

impl Pen {
    pub(crate) fn new() -> Pen {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests set owners and make devices: run them as root (sudo -E cargo test -p unpack)"
        );
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("root")).unwrap();
        fs::create_dir_all(at("outside/sub")).unwrap();
        fs::write(at("outside/secret"), "canary").unwrap();
        fs::set_permissions(at("outside/secret"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::write(at("outside/sub/more"), "canary 2").unwrap();
        symlink("secret", at("outside/link")).unwrap();
        fs::write(at("victim"), "canary 3").unwrap();
        let before = Pen::outside(dir.path());
        let beside = tempfile::tempdir().unwrap();
        let twin = RefCell::new(Twin::new(&beside.path().join("image"), &at("root")));
        Pen { dir, before, twin, _beside: beside }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The canary's own path, for absolute links.
    pub(crate) fn beside(&self, name: &str) -> Vec<u8> {
        self.dir.path().join(name).as_os_str().as_bytes().to_vec()
    }

    /// A pen beside whose directory is an image that becomes larger where a layer does not fit.
    pub(crate) fn growing(geometry: Geometry) -> Pen {
        let pen = Pen::new();
        let image = pen._beside.path().join("growing");
        pen.twin.replace(Twin::growing(&image, &pen.root(), geometry));
        pen
    }

    /// Makes the image larger.
    pub(crate) fn grow(&self) {
        self.twin.borrow().grow();
    }

    /// How often the image was made larger.
    pub(crate) fn doublings(&self) -> u32 {
        self.twin.borrow().doublings()
    }

    /// A pen whose directory nobody reads but the test.
    pub(crate) fn unread() -> Pen {
        let pen = Pen::new();
        pen.twin.borrow_mut().end();
        pen
    }

    /// Applies a layer to the directory, and to an image beside it as long as both are the same.
    pub(crate) fn apply(&self, layer: &[u8], limits: &Limits) -> Result<Applied, Error> {
        let root = self.root();
        let mut twin = self.twin.borrow_mut();
        let both = twin.is_same(&root);
        let result = apply(layer, &Root::open(&root).unwrap(), limits);
        self.unharmed();
        if both {
            twin.apply(layer, limits, &root, &result);
        }
        result
    }

    /// Content, mode, owner, link count, mtime and ctime of all that is not the root.
    fn outside(dir: &Path) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        let mut todo = vec![dir.to_path_buf()];
        while let Some(path) = todo.pop() {
            if path == dir.join("root") {
                continue;
            }
            let meta = fs::symlink_metadata(&path).unwrap();
            let mut line = format!(
                "{:o} {} {} {} {}.{} {}.{}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.nlink(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec()
            );
            if meta.is_file() {
                line += &fs::read_to_string(&path).unwrap();
            } else if meta.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            }
            all.insert(path, line);
        }
        all
    }

    pub(crate) fn unharmed(&self) {
        assert_eq!(self.before, Pen::outside(self.dir.path()), "the host was touched");
    }

    /// The tree as lines `path type mode uid:gid mtime what`, in path order, root left out.
    pub(crate) fn tree(&self) -> Vec<String> {
        lines(&self.root())
    }
}

pub(crate) fn lines(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                todo.push(path.clone());
            }
            lines.push(line(root, &path));
        }
    }
    lines.sort();
    lines
}

pub(crate) fn line(root: &Path, path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let text = |bytes: &[u8]| escaped_whole(bytes).to_string();
    let kind = meta.file_type();
    let (kind, what) = if kind.is_file() {
        ("file", text(&fs::read(path).unwrap()))
    } else if kind.is_dir() {
        ("dir", String::new())
    } else if kind.is_symlink() {
        ("symlink", text(fs::read_link(path).unwrap().as_os_str().as_bytes()))
    } else if kind.is_fifo() {
        ("fifo", String::new())
    } else {
        let kind = if kind.is_char_device() { "char" } else { "block" };
        let (major, minor) =
            (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
        (kind, format!("{major}:{minor}"))
    };
    let nanos = match meta.mtime_nsec() {
        0 => String::new(),
        nanos => format!(".{nanos:09}"),
    };
    format!(
        "{} {kind} {:04o} {}:{} {}{nanos} {what}",
        text(path.strip_prefix(root).unwrap().as_os_str().as_bytes()),
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid(),
        meta.mtime(),
    )
    .trim_end()
    .to_owned()
}

/// Applies `layers` one after another; the last one must be refused, by `class`.
pub(crate) fn refuse(layers: &[Vec<u8>], limits: &Limits, class: Class) -> Pen {
    let pen = Pen::new();
    let (last, lower) = layers.split_last().unwrap();
    for layer in lower {
        pen.apply(layer, &Limits::default()).unwrap();
    }
    match pen.apply(last, limits) {
        Ok(applied) => panic!("accepted: {applied:?}\n{:#?}", pen.tree()),
        Err(error) => {
            assert_eq!(error.class(), Some(class), "{error}: {error:?}");
            let text = error.to_string();
            assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)), "raw bytes in {text:?}");
            assert!(text.len() < 1200, "{} bytes of message", text.len());
        }
    }
    pen
}

/// Applies `layers` one after another; the tree must then be exactly `expected`.
pub(crate) fn accept(layers: &[Vec<u8>], limits: &Limits, expected: &[&str]) -> Pen {
    let pen = Pen::new();
    let mut applied = None;
    for layer in layers {
        let again = Pen::new();
        applied = Some(pen.apply(layer, limits).unwrap_or_else(|e| panic!("{e}: {e:?}")));
        drop(again);
    }
    let mut expected: Vec<&str> = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(pen.tree(), expected);
    let last = layers.last().unwrap();
    let root = Root::open(&pen.root()).unwrap();
    let mut differences = Vec::new();
    let alone = layers.len() == 1;
    let verified = unpack::verify(last.as_slice(), &root, limits, alone, |d| differences.push(d));
    let verified = verified.unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(Some(verified.layer.tree_digest), applied.as_ref().map(|a| a.tree_digest));
    assert_eq!(verified.found_digest, verified.layer.tree_digest);
    pen
}

/// An attribute's value, read by another crate than the one under test.
pub(crate) fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0u8; 1 << 16];
    let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(len);
    Some(value)
}

/// One test per line: `id Class: layers;` the last layer must be refused by that class.
#[macro_export]
macro_rules! refused {
    ($($(#[$doc:meta])* $id:ident $class:ident: $($layer:expr),+;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $id() {
            forge::refuse(&[$($layer),+], &unpack::Limits::default(), unpack::Class::$class);
        }
    )*};
}

/// One test per line: `id: layers => [lines];` the tree must be exactly those lines.
#[macro_export]
macro_rules! accepted {
    ($($(#[$doc:meta])* $id:ident: $($layer:expr),+ => [$($line:expr),* $(,)?];)*) => {$(
        $(#[$doc])*
        #[test]
        fn $id() {
            forge::accept(&[$($layer),+], &unpack::Limits::default(), &[$($line),*]);
        }
    )*};
}
