//! A cpio archive in the "newc" form, which the kernel unpacks as its first root
//! (kernel doc, driver-api/early-userspace/buffer-format). Everything in it belongs to root.

use std::collections::BTreeSet;

/// An archive in memory.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
    dirs: BTreeSet<String>,
}

const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const NODE: u32 = 0o020_000;
const LINK: u32 = 0o120_000;

impl Cpio {
    /// A directory and those above it; again is fine.
    pub fn dir(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.dirs.contains(path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent);
        }
        self.dirs.insert(path.to_owned());
        self.entry(path, DIR | 0o755, (0, 0), &[]);
    }

    /// A file with these permission bits.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = self.below(path);
        self.entry(&path, FILE | mode, (0, 0), content);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let path = self.below(path);
        self.entry(&path, LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// A character device. No privilege is needed: it is only bytes here.
    pub fn node(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        let path = self.below(path);
        self.entry(&path, NODE | mode, (major, minor), &[]);
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn below(&mut self, path: &str) -> String {
        let path = path.trim_matches('/').to_owned();
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent);
        }
        path
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode & DIR == DIR { 2 } else { 1 };
        let length = |n: usize| u32::try_from(n).expect("a file of an initramfs is under 4 GiB");
        let fields = [
            self.entries, // inode
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            length(content.len()),
            0, // major, minor of the file system's device
            0,
            device.0,
            device.1,
            length(name.len() + 1),
            0, // checksum, unused in this form
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Cpio;

    #[test]
    fn headers_are_110_bytes_and_data_is_aligned() {
        let mut cpio = Cpio::default();
        cpio.file("a/b", 0o644, b"hello");
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 512, 0);
        assert!(bytes.starts_with(b"070701"));
        // "a" takes 110 + 2 bytes; then the header and name of "a/b", and its data.
        assert_eq!(&bytes[112..118], b"070701");
        assert_eq!(&bytes[112 + 110..112 + 114], b"a/b\0");
        assert_eq!(&bytes[112 + 116..112 + 121], b"hello");
    }
}
