//! The settings that are in force, as the daemon's threads share them.

use std::collections::BTreeMap;

use crate::host::settings::Settings;
use crate::serve::auth::Allow;

/// What is in force now.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) settings: Settings,
    pub(crate) allow: Vec<Allow>,
    pub(crate) values: Values,
    /// Keys of what was read and needs a restart.
    pub(crate) restart: Vec<&'static str>,
    /// Grows with each change, so that nothing opened before is kept.
    pub(crate) age: u64,
}

/// Every setting by its key, as a variable would have it.
pub(crate) type Values = BTreeMap<&'static str, Option<String>>;
