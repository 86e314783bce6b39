//! Digests of an image's chunks of 1 MiB, and the digest over all of them: the block digest. It says what
//! the device has to hold wherever the file system says something, so that a flipped bit is found by reading
//! blocks alone, and each chunk can be checked for itself.
//!
//! What a chunk's digest covers are its blocks that are in use; blocks that are free count as zeros, and so do
//! bytes 0 to 895 of the device. Every fixed part of the file system is in use (superblock, descriptors,
//! bitmaps, tables of inodes, journal, copies), whatever a bitmap says, and so the bitmaps that decide about
//! the other blocks are covered themselves. A chunk of zeros has no digest. So the list is a function of geometry
//! and content, whoever made it and however it came to be.

pub(crate) mod list;
pub(crate) mod read;
pub(crate) mod used;
