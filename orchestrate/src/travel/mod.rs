//! The stream in which a machine's disk travels, as bytes: what it says of itself, its blocks, and its index. Pure.
//!
//! ```text
//! magic, length, head (JSON), sha256 of these      what the disk is, and what it stands on
//! entry, frame                                     one block of the pool: number, sha256, one zstd frame
//! entry                                            a stretch of blocks that read as zeros
//! ..
//! entry of the end, the same entries once more     the index: each with the place of its record
//! trailer                                          where the index is, the digest of the content, that of all bytes
//! ```
//!
//! Entries have a fixed size, their blocks ascend and do not overlap. Every number in a stream may have been written by
//! a stranger: what is read into memory is bounded by [`head::HEAD_MAX`] and the size of one block.

pub(crate) mod entry;
pub(crate) mod fault;
#[cfg(test)]
mod fuzz;
pub(crate) mod head;
pub(crate) mod read;
pub(crate) mod write;
