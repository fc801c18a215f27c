//! `shardkeeper demo`: shows it all on this machine.

use super::demo_config::DemoConfig;

/// Does what `shardkeeper demo` is for, as `config` says.
///
/// # Errors
/// Always, in this version: it is not built in yet.
pub fn run(_config: DemoConfig) -> Result<(), anyhow::Error> {
    anyhow::bail!("`shardkeeper demo` is not built in yet")
}
