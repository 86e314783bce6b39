//! Chunks are read and digested, by two threads: one processor rarely keeps up with what a disk gives.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::thread::{Builder, scope};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::{Whence, lseek};

use crate::error::Error;
use crate::error::stop::Stop;
use crate::ext4::apply::ImageError;
use crate::ext4::chunks::list::{Chunks, count};
use crate::ext4::chunks::used::{Bitmap, Used};
use crate::ext4::format::geometry::Geometry;
use crate::ext4::format::superblock::MARK_OFFSET;
use crate::ext4::write::image::Head;
use crate::record::chunk_set::{CHUNK, ChunkSet};
use crate::sha::Sha256;

/// Chunks that are named where an image differs.
const NAMED: usize = 100;

/// What became of an image since its list was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The block digest of the image as it is.
    pub digest: [u8; 32],
    /// How many chunks differ; with 0 the image is as it was.
    pub differ: u64,
    /// The first of them, by number: chunk n is the n-th MiB of the device, from 0. At most 100.
    pub first: Vec<u64>,
}

impl Chunks {
    /// The list of a sealed image. With the list of the image as it was before one layer more and the chunks
    /// that the layer has changed (see [`crate::Applied::chunks`]), only those are read; otherwise all that is
    /// in use.
    ///
    /// # Errors
    /// [`ImageError::Unfit`] for what is no sealed image; [`ImageError::Layer`] for one that cannot be read, and
    /// where somebody asked to stop.
    pub fn of(
        image: &File,
        below: Option<(&Chunks, &ChunkSet)>,
        stop: &Stop,
    ) -> Result<Chunks, ImageError> {
        let geometry = Head::read(image)?.mark.geometry;
        let chunks = count(geometry);
        let below = below.filter(|(old, set)| old.geometry == geometry && set.is_of(chunks));
        let Some((old, set)) = below else {
            let list = digests(image, geometry, &mut (0..chunks), stop)?;
            let list = list.into_iter().filter_map(|(chunk, found)| Some((chunk, found?)));
            return Ok(Chunks { geometry, list: list.collect() });
        };
        // The mark and the superblock are written with every layer, by the parent of whoever made the set.
        let mut numbers = std::iter::once(0).chain(set.iter().skip_while(|&chunk| chunk == 0));
        let mut new = digests(image, geometry, &mut numbers, stop)?.into_iter().peekable();
        let mut list = Vec::with_capacity(old.list.len() + new.len());
        for &(chunk, digest) in &old.list {
            while let Some((changed, found)) = new.next_if(|&(changed, _)| changed < chunk) {
                list.extend(found.map(|found| (changed, found)));
            }
            match new.next_if(|&(changed, _)| changed == chunk) {
                Some((_, found)) => list.extend(found.map(|found| (chunk, found))),
                None => list.push((chunk, digest)),
            }
        }
        list.extend(new.filter_map(|(chunk, found)| Some((chunk, found?))));
        Ok(Chunks { geometry, list })
    }

    /// Whether this may be the list of the image as it is: it is sealed, has the geometry, and chunk 0, which changes
    /// with every layer, is as listed.
    ///
    /// # Errors
    /// [`Error::Fs`] where it cannot be read.
    pub fn fits(&self, image: &File) -> Result<bool, Error> {
        if Head::read(image).map_or(None, |head| Some(head.mark.geometry)) != Some(self.geometry) {
            return Ok(false);
        }
        let found = digests(image, self.geometry, &mut std::iter::once(0), &Stop::default())?;
        Ok(found.first().and_then(|&(_, found)| found) == self.get(0))
    }

    /// Reads all of the image that is in use and compares it with the list, chunk by chunk. What the page cache
    /// holds of it is dropped before, where it can be: the disk is asked.
    ///
    /// # Errors
    /// [`Error::Fs`] where it cannot be read, as one that is shorter than its file system; [`Error::Stream`] where
    /// somebody asked to stop.
    pub fn compare(&self, image: &File, stop: &Stop) -> Result<Compared, Error> {
        match posix_fadvise(image, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED) {
            Ok(()) | Err(_) => {}
        }
        // A file that was cut short has lost blocks, if only free ones.
        let have = lseek(image, 0, Whence::SeekEnd).map_err(|errno| failed(errno.into()))?;
        if have.cast_unsigned() < self.geometry.bytes() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        let chunks = count(self.geometry);
        let found = digests(image, self.geometry, &mut (0..chunks), stop)?;
        let differing = || found.iter().filter(|&&(chunk, found)| found != self.get(chunk));
        let differ = differing().count() as u64;
        let first = differing().take(NAMED).map(|&(chunk, _)| chunk).collect();
        let list = found.into_iter().filter_map(|(chunk, found)| Some((chunk, found?))).collect();
        let digest = Chunks { geometry: self.geometry, list }.digest();
        Ok(Compared { digest, differ, first })
    }
}

/// A chunk's number and its digest; none where it is zeros.
type Found = (u64, Option<[u8; 32]>);

/// The digests of these chunks, in their order.
fn digests(
    image: &File,
    geometry: Geometry,
    numbers: &mut (dyn Iterator<Item = u64> + Send),
    stop: &Stop,
) -> Result<Vec<Found>, Error> {
    let used = Used::read(image, geometry).map_err(failed)?;
    let numbers = Mutex::new(numbers);
    let work = || {
        let mut reader = Reader::new(image, &used);
        let mut found = Vec::new();
        loop {
            if stop.is_set() {
                return Err(io::Error::other("somebody asked to stop"));
            }
            let next = numbers.lock().map_or(None, |mut numbers| numbers.next());
            let Some(chunk) = next else { return Ok(found) };
            found.push((chunk, reader.chunk(chunk)?));
        }
    };
    let both = scope(|scope| {
        // Without a second thread it takes longer, and that is all.
        let other = Builder::new().name("chunks".into()).spawn_scoped(scope, work).ok();
        let mut found: Vec<Found> = work()?;
        if let Some(other) = other {
            let more = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            found.extend(more?);
        }
        Ok(found)
    });
    let mut found = stop.heard(both.map_err(failed))?;
    found.sort_unstable_by_key(|&(chunk, _)| chunk);
    Ok(found)
}

fn failed(source: io::Error) -> Error {
    Error::Fs { place: None, call: "read a chunk of the".into(), name: b"image".to_vec(), source }
}

/// One thread's place to read into.
struct Reader<'a> {
    image: &'a File,
    used: &'a Used,
    kept: Bitmap,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(image: &'a File, used: &'a Used) -> Reader<'a> {
        let len = usize::try_from(CHUNK).unwrap_or(usize::MAX);
        Reader { image, used, kept: Bitmap::default(), buffer: vec![0; len] }
    }

    fn chunk(&mut self, chunk: u64) -> io::Result<Option<[u8; 32]>> {
        let mask = self.used.mask(self.image, chunk, &mut self.kept)?;
        let Some((first, last)) = mask.span() else { return Ok(None) };
        let block = self.used.geometry.block_len();
        let bytes = &mut self.buffer[..mask.blocks() * block];
        let at = chunk * CHUNK + (first * block) as u64;
        self.image.read_exact_at(&mut bytes[first * block..last * block], at)?;
        for free in mask.free() {
            bytes[free * block..(free + 1) * block].fill(0);
        }
        if chunk == 0 {
            // The seal record of whoever keeps the volume.
            let len = usize::try_from(MARK_OFFSET).unwrap_or(0);
            bytes[..len].fill(0);
        }
        if is_zero(bytes) {
            return Ok(None);
        }
        let mut sha = Sha256::new();
        sha.update(bytes);
        Ok(Some(sha.finish()))
    }
}

/// Whether all are zeros: by words, since most of a table of inodes is.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<4096>();
    let zero = |some: &[u8]| {
        let (words, rest) = some.as_chunks::<16>();
        let all = words.iter().fold(0, |all, word| all | u128::from_ne_bytes(*word));
        all == 0 && rest.iter().all(|&byte| byte == 0)
    };
    words.iter().all(|some| zero(some)) && zero(rest)
}
