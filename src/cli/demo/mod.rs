//! `shardkeeper demo`: runs a stream with several workers on this machine, and checks that every record arrives in order.
//!
//! # Layout
//! `scenario` decides what happens when. `writer` writes phones to the local service through `table`; `workers` starts
//! processes of this same program. `reorder` finds the order in which records arrived, and `checker` compares them with
//! the writes; `phone` reads a record; `screen` shows everything, and `browser` opens a worker's page.

#[cfg(unix)]
mod browser;
#[cfg(unix)]
mod checker;
#[cfg(unix)]
mod phone;
#[cfg(unix)]
mod reorder;
#[cfg(unix)]
mod scenario;
#[cfg(unix)]
mod screen;
#[cfg(unix)]
mod table;
#[cfg(unix)]
mod workers;
#[cfg(unix)]
mod writer;

use super::args::demo::DemoArgs;

/// Runs `shardkeeper demo`.
///
/// # Errors
/// When the demonstration could not be run, a record was missing, out of order or never written, or a worker crashed.
/// [`super::output::Closed`] when standard output's reader went away.
#[cfg(unix)]
pub fn run(args: &DemoArgs) -> Result<(), anyhow::Error> {
    use anyhow::Context;

    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(scenario::run(args))
}

/// Fails: `shardkeeper demo` needs a Unix system.
#[cfg(not(unix))]
pub fn run(_args: &DemoArgs) -> Result<(), anyhow::Error> {
    anyhow::bail!("`shardkeeper demo` needs a Unix system, for its processes and signals")
}
