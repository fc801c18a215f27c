//! The repository's files against each other and against the program: source, manifests, dashboard, rules and docs.

#![cfg(all(unix, feature = "cli", feature = "local"))]

mod layering;
mod manifests;
mod messages;
mod observability;
mod pages;
mod releases;

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the program's tests use the rest")]
mod support;

use std::path::{Path, PathBuf};

/// A file or folder of this package.
fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
