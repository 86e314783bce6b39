//! The `unpack` program.

fn main() {}
