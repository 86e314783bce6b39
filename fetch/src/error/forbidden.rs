//! Addresses that no name may lead to.

use std::net::IpAddr;

/// Why a name was not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its name leads to {0}, where a cloud keeps a machine's metadata: refused")]
pub(crate) struct Forbidden(pub(crate) IpAddr);
