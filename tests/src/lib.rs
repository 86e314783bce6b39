//! The harness: a VM with device-mapper, scenarios, images and the oracle.
//!
//! Three programs stand on this library. `e2e` ([`host`]) builds an initramfs, boots QEMU and collects
//! results; `guest` ([`guest`]) is `/init` inside and runs [`scenarios`]. They speak [`protocol`].
//! `bench` ([`bench`]) measures ours beside what one would use instead.
//! `README.md` in this folder says how to add a scenario.

pub mod bench;
pub mod corpus;
pub mod cosign;
pub mod descriptors;
pub mod dice;
pub mod distribution;
pub mod guest;
pub mod guides;
pub mod host;
pub mod images;
pub mod layer;
pub mod oci;
pub mod oracle;
pub mod port;
pub mod programs;
pub mod protocol;
pub mod s3;
pub mod scenario;
pub mod scenarios;
pub mod told;
pub mod trace;
pub mod tree;
pub mod walls;
