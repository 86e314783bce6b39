//! Images that are files of this host: layouts in directories, and archives. As hostile as a tar: opened below one
//! directory, through no link, and read within bounds.

pub(crate) mod archive;
pub(crate) mod layout;
pub(crate) mod piece;
pub(crate) mod spooled;
pub(crate) mod way;
