//! The repository's files against each other and against the program: source, manifests, dashboard, rules and docs.

#![cfg(all(unix, feature = "cli", feature = "local"))]

mod layering;
mod manifests;
mod observability;

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the program's tests use the rest")]
mod support;
