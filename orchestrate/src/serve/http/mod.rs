//! HTTP/1.1 as far as a small service needs it: requests within limits, answers of known length.
//! What a path means is in `routes`, who may ask in `auth`.
//!
//! Its own, since small libraries without an async runtime have no bound on reads, connections or
//! threads; `httparse` reads the head.

pub(crate) mod conn;
pub(crate) mod files;
pub(crate) mod request;
pub(crate) mod response;

use std::time::Duration;

/// Bytes of a request's line and headers.
pub(super) const HEAD_MAX: usize = 8 << 10;

/// Headers of a request.
pub(super) const HEADERS_MAX: usize = 64;

/// Bytes of a request's body.
pub(super) const BODY_MAX: usize = 64 << 10;

/// Requests on one connection.
pub(super) const REQUESTS_MAX: u32 = 1000;

/// For the first byte of a request on a connection that has nothing to do.
pub(super) const IDLE: Duration = Duration::from_secs(15);

/// From the first byte of a request to its last, however slowly they come.
pub(super) const WHOLE_REQUEST: Duration = Duration::from_secs(10);

/// For each read and each write.
pub(super) const STEP: Duration = Duration::from_secs(5);

/// For an answer as a whole, however slowly it is taken.
pub(super) const WHOLE_ANSWER: Duration = Duration::from_secs(30);
