//! The image as blocks: a bounded cache of those with structure, and one buffer for what streams out.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::error::Fault;
use crate::record::chunk_set::{ChunkBits, ChunkSet};

/// Bytes of blocks that are kept; then all are written and forgotten.
const KEPT: usize = 4 << 20;
/// Bytes that stream out at a time, ended at multiples of it.
const STREAM: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    block: usize,
    cache: HashMap<u64, Cached>,
    /// Where the buffer will be written, in bytes.
    at: u64,
    buffer: Vec<u8>,
    /// What was written, taken or freed.
    touched: ChunkBits,
}

#[derive(Debug)]
struct Cached {
    bytes: Vec<u8>,
    dirty: bool,
}

/// The error of a block, or an inode, of the parent that is not as it was sealed.
pub(crate) fn damaged(what: &'static str, number: u64) -> Fault {
    let call =
        format!("continue: the image is damaged at number {number} ({what}); create it again:");
    let source = io::Error::from_raw_os_error(libc::EUCLEAN);
    Fault::Fs { call: call.into(), name: b"image".to_vec(), source }
}

fn failed(call: &'static str) -> impl FnOnce(io::Error) -> Fault {
    move |source| Fault::Fs { call: call.into(), name: b"image".to_vec(), source }
}

impl Disk {
    pub(crate) fn new(file: File, block: usize) -> Disk {
        let (buffer, touched) = (Vec::with_capacity(STREAM), ChunkBits::default());
        Disk { file, block, cache: HashMap::new(), at: 0, buffer, touched }
    }

    pub(crate) fn block_len(&self) -> usize {
        self.block
    }

    /// The bytes of a block.
    pub(crate) fn read(&mut self, block: u64) -> Result<&[u8], Fault> {
        self.load(block)?;
        Ok(self.cache.get(&block).map_or(&[], |cached| &cached.bytes))
    }

    /// A block, to be changed.
    pub(crate) fn edit(&mut self, block: u64) -> Result<&mut [u8], Fault> {
        self.load(block)?;
        let cached = self.cache.entry(block).or_insert(Cached { bytes: Vec::new(), dirty: true });
        cached.dirty = true;
        Ok(&mut cached.bytes)
    }

    /// A block that becomes this, whatever it was.
    pub(crate) fn put(&mut self, block: u64, bytes: Vec<u8>) -> Result<(), Fault> {
        self.make_room()?;
        self.cache.insert(block, Cached { bytes, dirty: true });
        Ok(())
    }

    fn load(&mut self, block: u64) -> Result<(), Fault> {
        if self.cache.contains_key(&block) {
            return Ok(());
        }
        self.make_room()?;
        // What streams out may be this very block.
        let at = block * self.block as u64;
        if at < self.at + self.buffer.len() as u64 && at + self.block as u64 > self.at {
            self.drain()?;
        }
        let mut bytes = vec![0; self.block];
        self.file.read_exact_at(&mut bytes, at).map_err(failed("read a block of the"))?;
        self.cache.insert(block, Cached { bytes, dirty: false });
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), Fault> {
        if self.cache.len() * self.block >= KEPT {
            self.flush()?;
            self.cache.clear();
        }
        Ok(())
    }

    /// Writes all that was changed, neighbours together.
    pub(crate) fn flush(&mut self) -> Result<(), Fault> {
        self.drain()?;
        let mut dirty: Vec<u64> =
            self.cache.iter().filter(|(_, cached)| cached.dirty).map(|(&block, _)| block).collect();
        dirty.sort_unstable();
        let mut run: Vec<u8> = Vec::new();
        let mut start = 0;
        for block in dirty {
            let Some(cached) = self.cache.get_mut(&block) else { continue };
            cached.dirty = false;
            let end = start + (run.len() / self.block) as u64;
            if run.is_empty() || end != block || run.len() >= STREAM {
                write(&self.file, &mut self.touched, &run, start * self.block as u64)?;
                run.clear();
                start = block;
            }
            run.extend_from_slice(&cached.bytes);
        }
        write(&self.file, &mut self.touched, &run, start * self.block as u64)
    }

    /// Bytes at `offset`, which nobody reads by blocks before they are written.
    pub(crate) fn stream(&mut self, offset: u64, mut bytes: &[u8]) -> Result<(), Fault> {
        if offset != self.at + self.buffer.len() as u64 {
            self.drain()?;
            self.at = offset;
        }
        while !bytes.is_empty() {
            let end = self.at + self.buffer.len() as u64;
            let to_border = STREAM - usize::try_from(end % STREAM as u64).unwrap_or(0);
            let (now, rest) = bytes.split_at(bytes.len().min(to_border));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if now.len() == to_border {
                self.drain()?;
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), Fault> {
        write(&self.file, &mut self.touched, &self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Bytes at any place, as they are there now.
    pub(crate) fn read_at<const LEN: usize>(&self, offset: u64) -> Result<[u8; LEN], Fault> {
        let mut bytes = [0; LEN];
        self.file.read_exact_at(&mut bytes, offset).map_err(failed("read the"))?;
        Ok(bytes)
    }

    /// Bytes at any place, at once. What is kept of the block is not changed by it.
    pub(crate) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        write(&self.file, &mut self.touched, bytes, offset)
    }

    /// Blocks whose chunks count as changed though none of their bytes may be: they are in use now, or free.
    pub(crate) fn touch(&mut self, start: u64, len: u64) {
        self.touched.note(start * self.block as u64, len * self.block as u64);
    }

    /// The chunks that were changed.
    pub(crate) fn touched(&self) -> ChunkSet {
        self.touched.set()
    }
}

fn write(file: &File, touched: &mut ChunkBits, bytes: &[u8], at: u64) -> Result<(), Fault> {
    if bytes.is_empty() {
        return Ok(());
    }
    touched.note(at, bytes.len() as u64);
    file.write_all_at(bytes, at).map_err(failed("write the"))
}
