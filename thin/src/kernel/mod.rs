//! What is asked of the kernel: the ioctls, nodes below /dev, loop devices, mounts, holders.

pub(crate) mod dm;
pub(crate) mod holders;
pub(crate) mod lengths;
pub mod loopdev;
pub mod mount;
pub(crate) mod node;
pub(crate) mod removal;
pub(crate) mod sys;
