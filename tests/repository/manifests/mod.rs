//! What is applied to clusters and accounts: every overlay can be built and fits the schemas, and all of it agrees with
//! the program.
//!
//! kubectl builds the overlays; the schemas are in a Python that .ci/run sets up (tests/repository/manifests/read.py).

mod accounts;
mod copies;
mod local;
mod overlay;
mod workload;

use std::path::{Path, PathBuf};

/// A file or folder of this package.
fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
