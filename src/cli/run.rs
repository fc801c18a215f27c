//! `shardkeeper run`: reads a stream until it is asked to stop.

use super::run_config::RunConfig;

/// Does what `shardkeeper run` is for, as `config` says.
///
/// # Errors
/// Always, in this version: it is not built in yet.
pub fn run(_config: RunConfig) -> Result<(), anyhow::Error> {
    anyhow::bail!("`shardkeeper run` is not built in yet")
}
