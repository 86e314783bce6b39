//! The flags of `fleet`. What they do is in `document`.

use std::path::PathBuf;

use argh::FromArgs;

/// Show the document of this host's fleet that is in force, whether each roll-out has come to this host, what is missing and what that waits for.
#[derive(FromArgs)]
#[argh(subcommand, name = "fleet")]
pub(crate) struct Fleet {
    /// check a document before it is signed, and name everything that is wrong with it; exit 1 if something is
    #[argh(option)]
    pub(crate) check: Option<PathBuf>,
    /// print what this document would do on this host, and why not, and change nothing
    #[argh(option)]
    pub(crate) plan: Option<PathBuf>,
}
