//! What is wrong with a command that did not do all, for people.

use orchestrate::health::Check;
use serde::Serialize;
use unpack::sandbox::Standing;

/// What is wrong with a host, and the walls that this process would have.
#[derive(Serialize)]
pub(crate) struct Diagnosis {
    /// Whether the host can do its work.
    pub(crate) ready: bool,
    /// The setting.
    pub(crate) sandbox: &'static str,
    /// Each wall.
    pub(crate) walls: Vec<Standing>,
    /// The checks that do not hold.
    pub(crate) wrong: Vec<Check>,
}
