//! `shardkeeper status`: looks at a fleet from outside and says how it is.

pub mod config;
pub(super) mod table;

use std::time::Duration;

use anyhow::Context;

use self::config::StatusConfig;
use super::connection::Connection;
use super::output;
use super::run_config::Source;
use crate::aws::stream::{self, find_stream};
use crate::consumer::WallClock;
use crate::core::rng::Rng;
use crate::fleet::status::{FleetStatus, Sources, overdue_after};
use crate::fleet::{self, FleetView, Listing, Watcher};

/// How often the fleet table is looked at while heartbeats are waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long the listing of the shards may take: some five thousand of them, at the pace that leaves the workers their
/// share of the calls.
const LISTING_LIMIT: Duration = Duration::from_secs(10);

/// Does what `shardkeeper status` is for, as `config` says.
///
/// # Errors
/// When the application isn't there, or the services cannot be asked.
pub fn run(config: &StatusConfig) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let status = runtime.block_on(look(config))?;
    match config.json {
        true => output::print(&format!("{}\n", serde_json::to_string_pretty(&status)?)),
        false => output::print(&table::render(&status)),
    }
}

async fn look(config: &StatusConfig) -> Result<FleetStatus, anyhow::Error> {
    let connection = Connection::new(&config.app, &config.aws, config.lease_duration).await?;
    let mut watcher = Watcher::new(connection.fleet.clone(), config.lease_duration);
    let first = watcher.look().await?;
    let arn = match &config.source {
        Some(Source::StreamArn(arn)) => Some(arn.clone()),
        Some(Source::Table(table)) => Some(find_stream(&connection.clients, table).await?),
        None => first.leadership.as_ref().and_then(|leadership| leadership.stream_arn.clone()),
    };
    let listing = async { Ok(list(&connection, arn.as_deref()).await) };
    let view = watch(&mut watcher, config.lease_duration, first);
    let (rows, view, listing) = tokio::try_join!(connection.rows(), view, listing)?;
    let mut status = FleetStatus::new(&Sources {
        app: &config.app,
        rows: &rows,
        view: &view,
        stream_arn: arn.as_deref(),
        listing: listing.as_ref().ok().and_then(Option::as_ref),
        lease_duration: config.lease_duration,
        now_ms: WallClock::System.now_ms(),
    });
    if let Err(reason) = listing {
        status.remarks.push(format!("the stream's shards could not be listed: {reason}"));
    }
    Ok(status)
}

/// Looks until each heartbeat has changed or is overdue.
async fn watch(
    watcher: &mut Watcher,
    lease_duration: Duration,
    mut view: FleetView,
) -> Result<FleetView, anyhow::Error> {
    let overdue = overdue_after(lease_duration);
    while view.workers.iter().any(|seen| !seen.has_changed && seen.still_for < overdue) {
        tokio::time::sleep(LOOK_INTERVAL).await;
        view = watcher.look().await?;
    }
    Ok(view)
}

/// All shards of the stream, if there is one; an error in words when they cannot be listed in time.
async fn list(connection: &Connection, arn: Option<&str>) -> Result<Option<Listing>, String> {
    let Some(arn) = arn else { return Ok(None) };
    let stream = connection.stream(arn);
    let mut rng = Rng::new(u64::from(std::process::id()));
    match tokio::time::timeout(LISTING_LIMIT, fleet::list(&stream, &mut rng)).await {
        Ok(Ok(listing)) => Ok(Some(listing)),
        Ok(Err(stream::Error::NotFound(_))) => Err(format!("there is no stream {arn}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it took longer than {} s", LISTING_LIMIT.as_secs())),
    }
}
