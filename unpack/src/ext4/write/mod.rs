//! An image is made, and a layer goes on in it: appended above what the parent has, never mounted.

pub(crate) mod blank;
pub(crate) mod blocks;
pub(crate) mod body;
pub(crate) mod directories;
pub(crate) mod disk;
pub(crate) mod entry;
pub(crate) mod fresh;
pub(crate) mod grow;
pub(crate) mod image;
pub(crate) mod inodes;
pub(crate) mod later;
pub(crate) mod lower;
pub(crate) mod merge;
pub(crate) mod names;
pub(crate) mod pack;
pub(crate) mod removal;
pub(crate) mod run;
pub(crate) mod sink;
pub(crate) mod unjournal;
pub(crate) mod waiting;
pub(crate) mod zeros;

#[cfg(test)]
mod spilled;
