//! What can be asked of this host: each verb takes its steps, one file a verb. Recovery takes them, too.

pub(crate) mod activate;
pub(crate) mod activation;
pub(crate) mod agrees;
pub(crate) mod build;
pub mod catalog;
pub mod condemned;
pub(crate) mod ensure;
pub(crate) mod gc;
pub(crate) mod handover;
pub(crate) mod history;
pub(crate) mod judge;
pub(crate) mod mend;
pub(crate) mod publish;
pub(crate) mod rebuild;
pub(crate) mod remove;
pub(crate) mod resume;
pub mod scan;
pub(crate) mod serials;
pub(crate) mod template;
pub mod unsettled;
pub(crate) mod verdict;
pub(crate) mod verify;
pub(crate) mod volumes;
pub(crate) mod wanted;
