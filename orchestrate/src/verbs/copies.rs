//! `activate --copy`: files of the caller's are put into a new activation, after its snapshot was made and before
//! anybody is told of it.
//!
//! They go the way of a layer: as a tar stream through unpack's sandbox, which follows links of the image's own
//! beneath the root and never out of it. What a killed run has put there goes with its snapshot, which recovery
//! removes. A run keeps the digests, so whoever takes it up copies these very bytes or fails.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::sync::Arc;

use nix::libc;
use registry::{Activation, Digest};
use sha2::{Digest as _, Sha256};
use unpack::{Compression, ImageError, Limits};

use crate::error::Error;
use crate::handover::copies::{self, BLOCK, COPY_BYTES_MAX, CopyIn};
use crate::handover::unfit::Unfit;
use crate::host::{Host, walls};
use crate::local::piece::Whole;
use crate::local::way::Way;
use crate::process::cancel::Cancel;
use crate::store::content::Content;
use crate::store::seam::Ground;

/// What the frames of a stream take at most, beside the content.
const FRAMES_MAX: u64 = 1 << 20;

/// Set-id and sticky bits are not taken over from a file; who wants them says so.
const OWN_MODE: u32 = 0o777;

fn place(copy: &CopyIn, why: &'static str) -> Error {
    Unfit::Place { what: "--copy", path: copy.shown(), why }.into()
}

fn io_error(doing: &'static str, copy: &CopyIn) -> impl FnOnce(io::Error) -> Error {
    let path = copy.from.clone();
    move |source| Error::Io { doing, path, source }
}

/// A file of the caller's by its path; a pipe is not waited for.
pub(crate) fn by_path(copy: &CopyIn) -> Result<File, Error> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&copy.from);
    file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => place(copy, "there is no such file"),
        _ => io_error("open", copy)(error),
    })
}

/// A regular file of the caller's, and its mode.
fn open(copy: &CopyIn, way: &Way) -> Result<(Whole, u32), Error> {
    let file = match way.copy(&copy.from, &copy.to)? {
        Some(file) => file,
        None => Arc::new(by_path(copy)?),
    };
    let is = file.metadata().map_err(io_error("look at", copy))?;
    match is.is_file() {
        true => Ok((Whole::new(file), is.permissions().mode() & OWN_MODE)),
        false => Err(place(copy, "not a regular file")),
    }
}

/// The files as they are now: each with its mode, its size and its digest. What was looked at before stays as it is.
pub(crate) fn looked_at(
    copies: &[CopyIn],
    way: &Way,
    cancel: &Cancel,
) -> Result<Vec<CopyIn>, Error> {
    copies::judge(copies)?;
    let mut found: Vec<CopyIn> = Vec::with_capacity(copies.len());
    for copy in copies {
        found.push(match (copy.bytes, copy.sha256, copy.mode) {
            (Some(_), Some(_), Some(_)) => copy.clone(),
            _ => looked_at_one(
                copy,
                way,
                COPY_BYTES_MAX - copies::bytes(&found).min(COPY_BYTES_MAX),
                cancel,
            )?,
        });
        if copies::bytes(&found) > COPY_BYTES_MAX {
            let (found, most) = (copies::bytes(&found), COPY_BYTES_MAX);
            return Err(Unfit::Copies { what: "bytes", found, most }.into());
        }
    }
    Ok(found)
}

fn looked_at_one(copy: &CopyIn, way: &Way, most: u64, cancel: &Cancel) -> Result<CopyIn, Error> {
    let (file, own) = open(copy, way)?;
    let mut file = file.take(most + 1);
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        cancel.check()?;
        let read = file.read(&mut buffer).map_err(io_error("read", copy))?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
        hash.update(part);
        bytes += read as u64;
    }
    let sha256 = Some(Digest(hash.finalize().into()));
    Ok(CopyIn { mode: Some(copy.mode.unwrap_or(own)), bytes: Some(bytes), sha256, ..copy.clone() })
}

/// The tar stream of the files, each held to what the run says of it.
struct Stream<'c> {
    left: std::slice::Iter<'c, CopyIn>,
    way: &'c Way,
    owner: (u32, u32),
    /// Bytes that come next.
    ready: Vec<u8>,
    at: usize,
    open: Option<Open<'c>>,
    ended: bool,
    /// Why it came to no end: what the caller is told, since an I/O error has no room for it.
    failed: Option<Error>,
}

/// The file that is being read.
struct Open<'c> {
    copy: &'c CopyIn,
    file: Whole,
    hash: Sha256,
    left: u64,
}

impl Stream<'_> {
    /// More bytes into `ready`; none at the end.
    fn more(&mut self) -> Result<(), Error> {
        self.at = 0;
        self.ready.clear();
        match self.open.take() {
            Some(open) => self.content(open),
            None => match self.left.next() {
                Some(copy) => {
                    let (file, _) = open(copy, self.way)?;
                    let left = copy.bytes.unwrap_or(0);
                    self.open = Some(Open { copy, file, hash: Sha256::new(), left });
                    self.ready = copies::head(copy, self.owner);
                    Ok(())
                }
                None if self.ended => Ok(()),
                None => {
                    self.ended = true;
                    self.ready = vec![0; 2 * BLOCK];
                    Ok(())
                }
            },
        }
    }
}

impl<'c> Stream<'c> {
    fn content(&mut self, mut open: Open<'c>) -> Result<(), Error> {
        let changed = || Unfit::Changed { path: open.copy.shown() };
        self.ready.resize(1 << 16, 0);
        let want = usize::try_from(open.left).unwrap_or(usize::MAX).min(self.ready.len());
        // One byte more than there should be shows that there is more.
        let part = self.ready.get_mut(..want.max(1)).unwrap_or_default();
        let read = open.file.read(part).map_err(io_error("read", open.copy))?;
        if (read == 0) != (open.left == 0) {
            return Err(changed().into());
        }
        self.ready.truncate(read);
        open.hash.update(&self.ready);
        open.left -= read as u64;
        if read > 0 {
            self.open = Some(open);
            return Ok(());
        }
        if open.copy.sha256 != Some(Digest(open.hash.finalize().into())) {
            return Err(Unfit::Changed { path: open.copy.shown() }.into());
        }
        let bytes = usize::try_from(open.copy.bytes.unwrap_or(0)).unwrap_or(0);
        self.ready.resize(bytes.next_multiple_of(BLOCK) - bytes, 0);
        // Nothing to pad is no end of the stream.
        if self.ready.is_empty() { self.more() } else { Ok(()) }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.ready.len()
            && let Err(error) = self.more()
        {
            self.failed = Some(error);
            return Err(io::Error::other("a file to be copied cannot be read as it was"));
        }
        let rest = self.ready.get(self.at..).unwrap_or_default();
        let part = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..part), rest.get(..part)) {
            to.copy_from_slice(from);
        }
        self.at += part;
        Ok(part)
    }
}

impl Host {
    /// Puts the files into an activation that is only reserved, and to disk. The caller holds its lock.
    pub(crate) fn put_copies(&self, row: &Activation, copies: &[CopyIn]) -> Result<(), Error> {
        if copies.is_empty() {
            return Ok(());
        }
        let work = self.store.open(row.id, row.bytes, &|_| Ok(Ground::Mounted))?;
        let applied = work
            .has_room(copies::bytes(copies))
            .and_then(|()| self.apply_copies(row, work.content(), copies));
        // Whatever came of it, nothing of it stays open.
        let closed = work.close(None);
        applied?;
        closed
    }

    fn apply_copies(
        &self,
        row: &Activation,
        content: Content<'_>,
        copies: &[CopyIn],
    ) -> Result<(), Error> {
        let limits = Limits {
            blob_bytes_max: COPY_BYTES_MAX + FRAMES_MAX,
            bytes_max: COPY_BYTES_MAX + FRAMES_MAX,
            file_bytes_max: COPY_BYTES_MAX,
            compression: Some(Compression::Plain),
            ..self.settings.limits.clone()
        };
        // Root's; without root's rights a directory store has nothing but the caller's own.
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mut stream = Stream {
            left: copies.iter(),
            way: &self.way,
            owner,
            ready: Vec::new(),
            at: 0,
            open: None,
            ended: false,
            failed: None,
        };
        let stop = self.settings.cancel.stop();
        let applied = content.apply(&mut stream, None, &limits, &stop);
        if let Some(error) = stream.failed {
            return Err(error);
        }
        let doing = "copy the files of --copy into the activation";
        let applied = match applied {
            Ok(applied) => applied,
            Err(ImageError::Layer(source)) => return Err(Error::Tree { doing, source }),
            Err(ImageError::Unfit(source)) => {
                return Err(Error::Volume { volume: row.id, source: Box::new(source) });
            }
        };
        walls::warn(&format!("files were copied into activation {}", row.name), &applied.sandbox);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(words: &[String]) -> Result<Vec<CopyIn>, Error> {
        let copies: Vec<CopyIn> = words.iter().map(|word| word.parse().unwrap()).collect();
        looked_at(&copies, &Way::Own, &Cancel::default())
    }

    fn stream(copies: &[CopyIn]) -> (io::Result<Vec<u8>>, Option<Error>) {
        let mut stream = Stream {
            left: copies.iter(),
            way: &Way::Own,
            owner: (0, 0),
            ready: Vec::new(),
            at: 0,
            open: None,
            ended: false,
            failed: None,
        };
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes).map(|_| bytes);
        (read, stream.failed)
    }

    #[test]
    fn the_stream_is_a_tar_of_these_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut words = Vec::new();
        for (name, length) in [("none", 0), ("one", 1), ("block", 512), ("long", 200_000)] {
            let path = dir.path().join(name);
            fs::write(&path, vec![7; length]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4750)).unwrap();
            words.push(format!("{}:/{}/{name}", path.display(), "d".repeat(150)));
        }
        let copies = found(&words).unwrap();
        assert_eq!(copies[3].bytes, Some(200_000));
        assert_eq!(copies[3].mode, Some(0o750), "set-id is not taken over");
        let (tar, failed) = stream(&copies);
        let (tar, top) = (tar.unwrap(), tempfile::tempdir().unwrap());
        assert!(failed.is_none() && tar.len().is_multiple_of(BLOCK));
        let members =
            unpack::apply(&tar[..], &unpack::Root::open(top.path()).unwrap(), &Limits::default());
        if nix::unistd::geteuid().is_root() {
            members.unwrap();
            let long = top.path().join("d".repeat(150)).join("long");
            assert_eq!(fs::read(&long).unwrap(), vec![7; 200_000]);
            assert_eq!(fs::metadata(&long).unwrap().permissions().mode() & 0o7777, 0o750);
        }
    }

    #[test]
    fn a_file_that_has_changed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        fs::write(&path, "abc").unwrap();
        let copies = found(&[format!("{}:/init", path.display())]).unwrap();
        for other in ["abd", "ab", "abcd", ""] {
            fs::write(&path, other).unwrap();
            let (read, failed) = stream(&copies);
            assert!(read.is_err(), "{other}");
            let failed = failed.unwrap().to_string();
            assert!(failed.contains("init\" has changed"), "{other}: {failed}");
        }
        fs::remove_file(&path).unwrap();
        assert!(stream(&copies).1.unwrap().to_string().contains("there is no such file"));
    }

    #[test]
    fn only_regular_files_are_read_and_not_too_much_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, large) = (dir.path().join("pipe"), dir.path().join("large"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let said = |path: &std::path::Path| {
            found(&[format!("{}:/x", path.display())]).unwrap_err().to_string()
        };
        assert!(said(&pipe).contains("not a regular file"));
        assert!(said(dir.path()).contains("not a regular file"));
        assert!(said(&dir.path().join("none")).contains("there is no such file"));
        File::create(&large).unwrap().set_len(COPY_BYTES_MAX + 1).unwrap();
        assert!(said(&large).contains("1073741825 bytes, and at most 1073741824"));
    }
}
