//! What is wrong with what was asked for, as data.

use std::fmt;

use registry::RunId;

use crate::error::class::Class;

/// A name that is not there, and the run that is making it.
#[derive(Clone, Debug)]
pub struct Making {
    /// `activation` or `image`.
    pub what: &'static str,
    /// The name.
    pub name: String,
    /// The run.
    pub run: RunId,
    /// What it was asked for, as on the command line.
    pub asked: String,
    /// How long it was waited for, seconds; none where nobody waits.
    pub waited_s: Option<u64>,
    /// Whether no process is at work on it, nor will be by itself.
    pub interrupted: bool,
}

impl fmt::Display for Making {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Making { what, name, run, asked, waited_s, interrupted } = self;
        write!(f, "{what} {name:?} is not there yet: run {run} ({asked}) is making it")?;
        if let Some(waited_s) = waited_s {
            write!(f, ", and was not at its end after {waited_s} s")?;
        }
        match interrupted {
            true => write!(
                f,
                ", and was interrupted; `orchestrate recover` takes it up again, `orchestrate cancel {run}` \
                 ends it"
            ),
            false => write!(f, "; wait for its end, or `orchestrate cancel {run}`, then try again"),
        }
    }
}

/// What is asked of something that is not so.
#[derive(Clone, Debug)]
pub enum Amiss {
    /// A run of which nothing is known.
    NoRun {
        /// Its number.
        run: RunId,
        /// The first and the last that are kept; none where there is none.
        kept: Option<(RunId, RunId)>,
    },
    /// An activation with a node that this process does not see, and so cannot remove.
    HasNode {
        /// The activation.
        name: String,
        /// The node's path, as whoever made it sees it.
        node: String,
    },
    /// An image of which there are activations.
    InUse {
        /// The image.
        image: String,
        /// Their names.
        names: Vec<String>,
    },
}

/// Names of one message.
pub(crate) const NAMES_MAX: usize = 20;

impl Amiss {
    /// What it means for whoever asked.
    pub(crate) fn class(&self) -> Class {
        match self {
            Amiss::NoRun { .. } => Class::NotFound,
            Amiss::InUse { .. } => Class::Usage,
            Amiss::HasNode { .. } => Class::Temporary,
        }
    }
}

impl fmt::Display for Amiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amiss::NoRun { run, kept: None } => {
                write!(
                    f,
                    "there is no run {run}: nothing was asked for yet that is still remembered"
                )
            }
            Amiss::NoRun { run, kept: Some((first, last)) } => {
                write!(f, "there is no run {run}: those from {first} to {last} are known here, ")?;
                match run > last {
                    true => f.write_str("and none had that number yet")?,
                    false => f.write_str(
                        "less what is forgotten (history.runs and history.runs_days say how many are kept)",
                    )?,
                }
                f.write_str("; `orchestrate runs --all` lists them")
            }
            Amiss::HasNode { name, node } => write!(
                f,
                "activation {} has the node {}, which the daemon does not see: left behind, it would lead to another's \
                 device later. Nothing was done. The command removes it first, as `orchestrate rm {0}` on this host",
                name.escape_debug(),
                node.escape_debug()
            ),
            Amiss::InUse { image, names } => {
                let shown = |name: &String| name.escape_debug().to_string();
                let all: Vec<String> = names.iter().take(NAMES_MAX).map(shown).collect();
                write!(f, "image {image:?} is in use by its activations {}", all.join(", "))?;
                if names.len() > NAMES_MAX {
                    write!(f, " and {} more", names.len() - NAMES_MAX)?;
                }
                let first = all.first().map_or("NAME", String::as_str);
                write!(
                    f,
                    ". Nothing was removed. `orchestrate rm {first}` deletes one with what was written to it; \
                     when all are gone, try again"
                )
            }
        }
    }
}
