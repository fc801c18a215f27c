//! `shardkeeper local`: serves DynamoDB with Streams on this machine.

use super::local_config::LocalConfig;

/// Does what `shardkeeper local` is for, as `config` says.
///
/// # Errors
/// Always, in this version: it is not built in yet.
pub fn run(_config: LocalConfig) -> Result<(), anyhow::Error> {
    anyhow::bail!("`shardkeeper local` is not built in yet")
}
