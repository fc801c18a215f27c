//! `shardkeeper local`: serves DynamoDB with Streams on this machine.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::args::local::{ClockStart, LocalArgs};
use super::signals;
use shardkeeper_local::{Clock, LocalOptions, LocalService, Timestamp};

/// Pause between two snapshots of the data.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// Serves until it is asked to stop.
///
/// # Errors
/// When the address cannot be listened on, or the listener fails.
pub fn run(args: &LocalArgs) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: &LocalArgs) -> Result<(), anyhow::Error> {
    let signal = signals::first_stop().context("cannot listen for signals")?;
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: is another service there? --port chooses one"))?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let service = match &args.data {
        Some(folder) => LocalService::open(folder, options(args), clock(args.clock))
            .with_context(|| format!("cannot load the data in {}", folder.display()))?,
        None => LocalService::new(options(args), clock(args.clock)),
    };
    let place = args.data.as_ref().map_or("in memory".to_owned(), |folder| format!("in {}", folder.display()));
    tracing::info!(%address, "serving DynamoDB and DynamoDB Streams");
    super::output::print(&format!(
        "DynamoDB with Streams on http://{address} (data lives {place})\n\
         export AWS_ENDPOINT_URL=http://{address} AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1 \
         AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local\n"
    ))?;
    let saving = args.data.clone().map(|folder| {
        let stop = CancellationToken::new();
        (tokio::spawn(save_until(stop.clone(), service.clone(), folder)), stop)
    });
    let served = service.serve(listener, async {
        signal.await;
    });
    let served = served.await.context("the listener failed");
    if let Some((saving, stop)) = saving {
        stop.cancel();
        saving.await.context("saving panicked")??;
    }
    served
}

/// Saves at intervals, and a last time when asked to stop.
async fn save_until(stop: CancellationToken, service: LocalService, folder: PathBuf) -> Result<(), anyhow::Error> {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + SAVE_INTERVAL, SAVE_INTERVAL);
    loop {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            _ = ticks.tick() => false,
        };
        let (service, target) = (service.clone(), folder.clone());
        let saved = tokio::task::spawn_blocking(move || service.save(&target)).await.context("saving panicked")?;
        match saved {
            saved if is_last => {
                return saved.with_context(|| format!("cannot save the data in {}", folder.display()));
            }
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, folder = %folder.display(), "saving failed, retrying"),
        }
    }
}

fn options(args: &LocalArgs) -> LocalOptions {
    LocalOptions {
        initial_shards: args.shards,
        rollover: Some(args.rollover),
        retention: args.retention,
        iterator_ttl: args.iterator_ttl,
        get_records_per_second: args.get_records_per_second,
        describe_stream_per_second: args.describe_stream_per_second,
        seed: args.seed.unwrap_or_else(any_seed),
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
