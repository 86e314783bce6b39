//! What runs an activation is told how: from an image's config and its tables of users to the configuration of a
//! container runtime or of a virtual machine. Pure: bytes and values in, values or a refusal out.

pub(crate) mod accounts;
pub(crate) mod bundle;
pub(crate) mod copies;
pub(crate) mod device;
pub(crate) mod machine;
pub(crate) mod mounts;
pub(crate) mod program;
pub(crate) mod unfit;
