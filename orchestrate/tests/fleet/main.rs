//! A fleet as the world has it: the cache that is shipped in a real nginx, a real S3 server behind a front that does
//! what S3 does, and real programs. Needs root and what `./bootstrap` gets.
//!
//! `just soak-cache` and `just soak-sites` ask for more of it.

mod away;
#[path = "../proofs/bench.rs"]
#[allow(dead_code)]
mod bench;
mod cache;
#[path = "../serve/daemon.rs"]
#[allow(dead_code)]
mod daemon;
mod document;
mod front;
#[path = "../proofs/images/layout.rs"]
#[allow(dead_code)]
mod layout;
mod nginx;
mod registry;
#[path = "../serve/signed.rs"]
#[allow(dead_code)]
mod signed;
mod sites;
mod space;

/// A number that a recipe may have set.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}
