//! What the daemon promises, held against the real program over its sockets: who gets in, what a
//! client may do to it, that nothing asked for is lost, and that the commands say the same through it.
//! Needs root and the S3 server that `./bootstrap` installs.

#[path = "../proofs/bench.rs"]
#[allow(dead_code)]
mod bench;
mod crowd;
mod daemon;
mod document;
mod gate;
mod life;
mod settings;
mod verbs;
