//! The `thin` program.

fn main() {}
