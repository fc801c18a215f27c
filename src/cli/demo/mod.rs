//! `shardkeeper demo`: shows it all on this machine, and checks it.
//!
//! # Layout
//! `stage` has the course of it. On it are `writer`, which writes phones to the local service through `table`, and
//! `workers`, processes of this same program. `ledger` knows what was written and judges what arrives, in the order
//! that `arrivals` finds out; `phone` reads a record; `screen` shows everything.

#[cfg(unix)]
mod arrivals;
#[cfg(unix)]
mod ledger;
#[cfg(unix)]
mod phone;
#[cfg(unix)]
mod screen;
#[cfg(unix)]
mod stage;
#[cfg(unix)]
mod table;
#[cfg(unix)]
mod workers;
#[cfg(unix)]
mod writer;

use super::demo_config::DemoConfig;

/// Does what `shardkeeper demo` is for, as `config` says.
///
/// # Errors
/// It could not be run, or a record was missing, out of order or never written, or a worker crashed.
/// [`super::output::Closed`] when standard output's reader went away.
#[cfg(unix)]
pub fn run(config: DemoConfig) -> Result<(), anyhow::Error> {
    use anyhow::Context;

    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(stage::run(config))
}

/// Does what `shardkeeper demo` is for, as `config` says.
///
/// # Errors
/// Always: it needs a Unix system.
#[cfg(not(unix))]
pub fn run(_config: DemoConfig) -> Result<(), anyhow::Error> {
    anyhow::bail!("`shardkeeper demo` needs a Unix system, for its processes and signals")
}
