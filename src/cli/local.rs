//! `shardkeeper local`: serves DynamoDB with Streams on this machine.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroU32;

use anyhow::Context;
use tokio::net::TcpListener;

use super::local_config::{ClockStart, LocalConfig};
use super::signals;
use shardkeeper_local::{Clock, LocalOptions, LocalService, Timestamp};

/// Does what `shardkeeper local` is for, as `config` says.
///
/// # Errors
/// When the address cannot be listened on, or the listener fails.
pub fn run(config: LocalConfig) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(serve(config))
}

async fn serve(config: LocalConfig) -> Result<(), anyhow::Error> {
    let signal = signals::first_stop().context("cannot listen for signals")?;
    let listener = TcpListener::bind(config.address).await.with_context(|| {
        format!("cannot listen on {}: is another service there? --port chooses one", config.address)
    })?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let service = LocalService::new(options(&config), clock(config.clock));
    tracing::info!(%address, "serving DynamoDB and DynamoDB Streams");
    super::output::print(&format!(
        "DynamoDB with Streams on http://{address} (data lives in memory)\n\
         export AWS_ENDPOINT_URL=http://{address} AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1 \
         AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local\n"
    ))?;
    service
        .serve(listener, async {
            signal.await;
        })
        .await
        .context("the listener failed")
}

fn options(config: &LocalConfig) -> LocalOptions {
    LocalOptions {
        initial_shards: config.shards,
        rollover: Some(config.rollover),
        retention: config.retention,
        iterator_ttl: config.iterator_ttl,
        get_records_per_second: config.get_records_per_second.map(NonZeroU32::get),
        describe_stream_per_second: config.describe_stream_per_second.map(NonZeroU32::get),
        seed: config.seed.unwrap_or_else(any_seed),
        ..LocalOptions::default()
    }
}

fn clock(start: ClockStart) -> Clock {
    match start {
        ClockStart::Real => Clock::system(),
        ClockStart::At { epoch_ms } => Clock::tokio(Timestamp::from_millis(epoch_ms)),
    }
}

/// A seed from the operating system's randomness, which the standard library draws for its hash maps.
fn any_seed() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a service that was given no seed has a new one each time")]
    RandomState::new().build_hasher().finish()
}
