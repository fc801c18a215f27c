//! What is applied to clusters and accounts: every overlay can be built and fits the schemas, and all of it agrees with
//! the program.
//!
//! kubectl builds the overlays; the schemas are in a Python that .ci/run sets up (tests/manifests/read.py).

#![cfg(all(unix, feature = "cli", feature = "local"))]

#[path = "support/mod.rs"]
#[expect(dead_code, reason = "the configuration tests use more of it")]
mod support;

#[path = "support/services.rs"]
mod services;
#[path = "support/tools.rs"]
mod tools;

#[path = "manifests/accounts.rs"]
mod accounts;
#[path = "manifests/copies.rs"]
mod copies;
#[path = "manifests/local.rs"]
mod local;
#[path = "manifests/overlay.rs"]
mod overlay;
#[path = "manifests/workload.rs"]
mod workload;

use std::path::{Path, PathBuf};

/// A file or folder of this package.
fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
