//! Addresses that no name may lead to.

use std::net::IpAddr;
use std::{error, fmt};

/// Why a name was not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forbidden(pub(crate) IpAddr);

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its name leads to {}, where a cloud keeps a machine's metadata: refused", self.0)
    }
}

impl error::Error for Forbidden {}
