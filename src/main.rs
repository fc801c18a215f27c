//! The `shardkeeper` program.

#![forbid(unsafe_code)]

fn main() {}
