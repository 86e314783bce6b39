//! What the reading of one image may cost: blocks, bytes of contents, and time.

use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::error::refusal::Refusal;
use crate::limits::Limits;
use crate::tree::budget::Budget;

/// How often a device's blocks may be read, all in all. A whole tree takes each block once, and those
/// of inodes once more for every level that has names for them.
const TIMES: u64 = 8;

/// Blocks that may be read of the smallest device.
const FREE: u64 = 4096;

/// What was read, and what may be.
#[derive(Debug)]
pub(crate) struct Cost {
    reads: u64,
    reads_max: u64,
    content: u64,
    content_max: u64,
    file_max: u64,
    budget: Budget,
}

impl Cost {
    /// For a device whose size is not known yet.
    pub(crate) fn new(limits: &Limits, budget: Budget) -> Cost {
        Cost {
            reads: 0,
            reads_max: FREE,
            content: 0,
            content_max: limits.bytes_max,
            file_max: limits.file_bytes_max,
            budget,
        }
    }

    /// The device has so many blocks.
    pub(crate) fn device(&mut self, blocks: u64) {
        self.reads_max = blocks.saturating_mul(TIMES).saturating_add(FREE);
    }

    /// So many blocks are about to be read.
    pub(crate) fn read(&mut self, blocks: u64) -> Result<(), Fault> {
        self.reads = self.reads.saturating_add(blocks);
        if self.reads > self.reads_max {
            let rule = "it leads in circles: more blocks were read than a tree on it can have";
            return Err(Flaw::new(FlawKind::Work, rule)
                .value(self.reads)
                .limit(self.reads_max)
                .into());
        }
        self.step()
    }

    /// A file has so many bytes.
    pub(crate) fn file(&mut self, bytes: u64) -> Result<(), Fault> {
        if bytes > self.file_max {
            let rule = "a file is too large";
            return Err(Refusal::limit("--file-bytes-max", rule, bytes, self.file_max).into());
        }
        self.content = self.content.saturating_add(bytes);
        if self.content > self.content_max {
            let rule = "files are too large, all together";
            return Err(Refusal::limit("--bytes-max", rule, self.content, self.content_max).into());
        }
        Ok(())
    }

    /// Looks at the clocks.
    pub(crate) fn step(&mut self) -> Result<(), Fault> {
        Ok(self.budget.step()?)
    }
}
