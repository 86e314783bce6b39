//! What the daemon promises, held against the real program over its sockets: who gets in, what a
//! client may do to it, that nothing asked for is lost, and that the commands say the same through it.
//! Needs root and the S3 server that `./bootstrap` installs.

mod actors;
#[path = "../proofs/bench.rs"]
#[allow(dead_code)]
mod bench;
mod crowd;
mod daemon;
mod document;
mod files;
mod fleet;
mod force;
mod full;
mod gate;
#[path = "../proofs/images/layout.rs"]
#[allow(dead_code)]
mod layout;
mod life;
mod lost;
mod naming;
mod order;
mod past;
mod reader;
mod settings;
mod signed;
mod small;
mod trust;
mod verbs;
mod year;
