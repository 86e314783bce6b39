//! The bytes of an object on their way: opened, streamed over as many connections as it takes, spooled, verified,
//! read ahead; and those of a file on their way to one. Threads, sockets and the files of spools are touched here, and no other file.

pub(crate) mod ahead;
pub(crate) mod body;
pub(crate) mod breaker;
pub(crate) mod chain;
pub(crate) mod feed;
pub(crate) mod leave;
pub(crate) mod leftover;
pub(crate) mod nearest;
pub(crate) mod open;
pub(crate) mod pin;
pub(crate) mod pressure;
pub(crate) mod promise;
pub(crate) mod ranges;
pub(crate) mod spool;
pub(crate) mod stream;
pub(crate) mod upload;
pub(crate) mod whole;
