//! The `orchestrate` program.

fn main() {}
