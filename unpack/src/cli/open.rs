//! What is opened to be read and not written.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{Context, anyhow};

use crate::cli::flags::Usage;

/// Opens an image or a device to be read. A pipe would be waited for, and a directory has no blocks.
pub(crate) fn readable(path: &Path) -> anyhow::Result<File> {
    let named = || format!("unable to open {path:?}");
    let kind = std::fs::metadata(path).with_context(named)?.file_type();
    if !(kind.is_file() || kind.is_block_device()) {
        return Err(anyhow!(Usage("it is neither a regular file nor a block device".into())))
            .with_context(named);
    }
    File::open(path).with_context(named)
}
