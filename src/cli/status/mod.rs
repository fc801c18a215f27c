//! `shardkeeper status`: looks at a fleet from outside and says how it is.

pub mod config;
pub(super) mod table;

use std::time::Duration;

use anyhow::Context;
use fastrand::Rng;
use tokio::time::Instant;

use self::config::StatusConfig;
use super::connection::Connection;
use super::output;
use super::run_config::{AwsOptions, Source};
use crate::admin::status::{FleetStatus, StatusInputs};
use crate::aws::stream::{self, find_stream};
use crate::consumer::WallClock;
use crate::coordination::{self, FleetObserver, Listing};
use crate::model::fleet_view::FleetView;
use crate::model::worker_record::overdue_after;

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
    let mut looker = Looker::new(&config.app, config.source.clone(), &config.aws, config.lease_duration).await?;
    looker.look(Duration::ZERO).await
}

/// Looks at a fleet from outside, once or again and again.
pub struct Looker {
    app: String,
    source: Option<Source>,
    lease_duration: Duration,
    connection: Connection,
    watcher: FleetObserver,
    /// The last listing, by the stream's ARN, with the moment that it was made.
    listing: Option<(Instant, Option<String>, Option<Listing>)>,
}

impl Looker {
    /// Loads the AWS environment. No call is made yet.
    ///
    /// # Errors
    /// When there is no region or there are no credentials.
    pub async fn new(
        app: &str,
        source: Option<Source>,
        aws: &AwsOptions,
        lease_duration: Duration,
    ) -> Result<Self, anyhow::Error> {
        let connection = Connection::new(app, aws, lease_duration).await?;
        let watcher = FleetObserver::new(connection.fleet.clone(), lease_duration);
        Ok(Self { app: app.to_owned(), source, lease_duration, connection, watcher, listing: None })
    }

    /// Looks; the listing of the shards may be of the last look, if it is no older than `listing_age`.
    ///
    /// # Errors
    /// When the application isn't there, or the services cannot be asked.
    pub async fn look(&mut self, listing_age: Duration) -> Result<FleetStatus, anyhow::Error> {
        let first = self.watcher.refresh_if_there().await?;
        let arn = match &self.source {
            Some(Source::StreamArn(arn)) => Some(arn.clone()),
            Some(Source::Table(table)) => Some(find_stream(&self.connection.clients, table).await?),
            None => first.leadership.as_ref().and_then(|leadership| leadership.stream_arn.clone()),
        };
        let is_fresh = |at: &Instant, listed: &Option<String>| *listed == arn && at.elapsed() < listing_age;
        let known = self.listing.take().filter(|(at, listed, _)| is_fresh(at, listed));
        let connection = &self.connection;
        let listing = async {
            Ok(match known {
                Some((at, _, listing)) => Ok((at, listing)),
                None => list(connection, arn.as_deref()).await.map(|listing| (Instant::now(), listing)),
            })
        };
        let view = watch(&mut self.watcher, self.lease_duration, first);
        let (rows, view, listing) = tokio::try_join!(connection.rows(), view, listing)?;
        let mut status = FleetStatus::new(&StatusInputs {
            app: &self.app,
            rows: &rows,
            view: &view,
            stream_arn: arn.as_deref(),
            listing: listing.as_ref().ok().and_then(|(_, listing)| listing.as_ref()),
            lease_duration: self.lease_duration,
            now_ms: WallClock::System.now_ms(),
        });
        match listing {
            Ok((at, listing)) => self.listing = Some((at, arn, listing)),
            Err(reason) => status.remarks.push(format!("the stream's shards could not be listed: {reason}")),
        }
        Ok(status)
    }
}

/// Looks until each heartbeat has changed or is overdue.
async fn watch(
    watcher: &mut FleetObserver,
    lease_duration: Duration,
    mut view: FleetView,
) -> Result<FleetView, anyhow::Error> {
    let overdue = overdue_after(lease_duration);
    while view.workers.iter().any(|seen| !seen.has_changed && seen.still_for < overdue) {
        tokio::time::sleep(LOOK_INTERVAL).await;
        view = watcher.refresh_if_there().await?;
    }
    Ok(view)
}

/// All shards of the stream, if there is one; an error in words when they cannot be listed in time.
async fn list(connection: &Connection, arn: Option<&str>) -> Result<Option<Listing>, String> {
    let Some(arn) = arn else { return Ok(None) };
    let stream = connection.stream(arn);
    let mut rng = Rng::with_seed(u64::from(std::process::id()));
    match tokio::time::timeout(LISTING_LIMIT, coordination::list(&stream, &mut rng)).await {
        Ok(Ok(listing)) => Ok(Some(listing)),
        Ok(Err(stream::Error::NotFound(_))) => Err(format!("there is no stream {arn}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it took longer than {} s", LISTING_LIMIT.as_secs())),
    }
}
