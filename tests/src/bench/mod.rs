//! `just bench`: ours and what anyone would use instead, side by side in one run.
//!
//! A [`Job`] is a row, a [`Contender`] a column: a shell line, so that the table can show what was
//! run. All contenders of a job run in turn, round after round ([`contest`]), and what counts is the
//! ratio within a round, never a time of its own: a loaded machine slows both sides. A round before
//! the first warms the caches and measures memory ([`measure`]). Nothing here passes or fails, but
//! for `--check` against figures kept earlier ([`kept`]).

pub mod contest;
pub mod counts;
pub mod growth;
pub mod images;
pub mod jobs;
pub mod kept;
pub mod layers;
pub mod measure;
pub mod out;
pub mod peers;
pub mod table;
pub mod vm;

use std::path::PathBuf;

use serde::Serialize;

/// Which of the others ours is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// Of programs that do the same, the fastest.
    Best,
    /// Of the stages of a pipe, the one that all wait for.
    Slowest,
}

/// What contenders write to. A file system that is new each time: of ext4, inodes that were deleted a moment ago are
/// passed over one by one (`recently_deleted`), which a second round would pay for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The scratch directory's own.
    Scratch,
    /// A new ext4.
    Ext4,
    /// A new XFS, on which files can share blocks.
    Xfs,
}

/// One row: the same work by several programs.
#[derive(Debug, Clone)]
pub struct Job {
    /// Short, and the same from run to run.
    pub name: &'static str,
    /// What is done, for the table.
    pub what: String,
    /// Ours to the best peer that is asked for; none where there is only a figure.
    pub aim: Option<f64>,
    /// What the aim is of.
    pub against: Against,
    /// How often the work is done in one run; figures are for once.
    pub times: u32,
    /// What `$OUT` is on.
    pub on: On,
    /// Ours first.
    pub contenders: Vec<Contender>,
    /// Programs that would belong here and are not installed.
    pub missing: Vec<&'static str>,
}

/// One program at one job.
#[derive(Debug, Clone)]
pub struct Contender {
    /// The column.
    pub name: &'static str,
    /// For bash, with `pipefail`. It has `$OUT`, an empty directory, gone after each round.
    pub line: String,
}

/// What a job has shown.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The job.
    pub job: String,
    /// What was done.
    pub what: String,
    /// Asked for, ours to the best peer.
    pub aim: Option<f64>,
    /// Wall time of ours to that of the best peer: the median over the rounds.
    pub ratio: Option<f64>,
    /// The lowest and highest of the rounds.
    pub spread: Option<(f64, f64)>,
    /// Ours first.
    pub results: Vec<Outcome>,
    /// Programs that would belong here and are not installed.
    pub missing: Vec<String>,
}

/// What one program has shown at one job: medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The program.
    pub name: String,
    /// What was run.
    pub line: String,
    /// Wall time, seconds.
    pub wall: f64,
    /// Processor time of all its processes, seconds.
    pub processor: f64,
    /// Most memory of all its processes together (proportional set size), KiB.
    pub peak_kib: u64,
    /// What it has left in its directory, on the disk, KiB; 0 when nobody looked.
    pub space_kib: u64,
}

/// What a bench needs to know of its surroundings.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Our static programs.
    pub programs: PathBuf,
    /// What `./bootstrap --peers` fetched.
    pub peers: PathBuf,
    /// Images, as `just images` makes them.
    pub images: PathBuf,
    /// Scratch on the file system that is written to.
    pub scratch: PathBuf,
    /// Rounds that count.
    pub rounds: usize,
}
