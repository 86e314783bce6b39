//! The `fetch` program.

fn main() {}
