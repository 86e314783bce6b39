//! What can be asked of a server and where it is: references, options, endpoints, listings; and what can be written
//! to it. No request is made here,
//! and no file is opened.

pub(crate) mod endpoint;
pub(crate) mod fallback;
pub(crate) mod keys;
pub(crate) mod listing;
pub(crate) mod object;
pub(crate) mod options;
pub(crate) mod values;
pub(crate) mod write;
