//! Images as registries have them: formats, pure.

pub(crate) mod authfile;
pub(crate) mod challenge;
