//! The harness: a VM with device-mapper, scenarios, images and the oracle.
