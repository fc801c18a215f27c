//! Files that are applied to clusters and accounts: every overlay builds and fits the schemas, and all of them agree
//! with the program.
//!
//! kubectl builds the overlays, helm renders the chart; the schemas are in a Python that .ci/run sets up (tests/repository/manifests/read.py).

mod accounts;
mod chart;
mod copies;
mod local;
mod overlay;
mod workload;

pub use overlay::{PYTHON, read};
