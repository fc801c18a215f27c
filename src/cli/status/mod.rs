//! `shardkeeper status`: the state of a fleet, read from outside.

pub(super) mod table;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fastrand::Rng;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::args::status::StatusArgs;
use super::connection::Connection;
use super::output;
use crate::admin::status::{FleetStatus, KclInputs, StatusInputs, foreign_leases};
use crate::aws::clients::Endpoints;
use crate::aws::lease_table::{BadRow, KclSign};
use crate::aws::stream::{self, find_stream};
use crate::consumer::WallClock;
use crate::coordination::FleetObserver;
use crate::model::fleet_view::FleetView;
use crate::model::lease::Lease;
use crate::model::shard_directory::Listing;
use crate::options::StreamSelector;
use crate::shard_directory::ShardDirectory;

/// The time between two reads of the fleet table while heartbeats are awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The time for which leases of owners outside the fleet table are watched: KCL's workers renew theirs each 3.3 s by
/// default. And the time between two reads of them.
const RENEWED_WITHIN: Duration = Duration::from_secs(4);
const RENEWAL_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The limit for listing the shards. It is enough for some five thousand of them, at a pace that leaves the workers their
/// share of the calls.
const LISTING_LIMIT: Duration = Duration::from_secs(10);
/// Age limit of the listing for those that look repeatedly: the fleet shares few calls for it.
pub const LISTING_AGE: Duration = Duration::from_secs(60);
/// The most shards read a second on average by those that look repeatedly: as many as a leader reads.
const SHARDS_A_SECOND: u32 = 250;
/// The age from which a listing is replaced that lacks a shard with a lease. Trimmed shards lack for long.
const RELISTED_AFTER: Duration = Duration::from_secs(5);
/// Calls of DescribeStream a second.
const LISTING_RATE: u32 = 5;

/// Runs `shardkeeper status`.
///
/// # Errors
/// When the application does not exist, or a service cannot be reached.
pub fn run(args: &StatusArgs) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    if args.form.watch {
        return runtime.block_on(watch::watch(args));
    }
    let status = runtime.block_on(async { reader(args).await?.read(Duration::ZERO).await })?;
    match args.form.json {
        true => output::print(&format!("{}\n", serde_json::to_string_pretty(&status)?)),
        false => output::print(&table::render(&status, WallClock::System.now_ms())),
    }
}

async fn reader(args: &StatusArgs) -> Result<StatusReader, anyhow::Error> {
    let (source, lease_duration) = (args.source.selector(), args.liveness.lease_duration);
    let endpoints = args.aws.endpoints(args.source.table());
    StatusReader::new(&args.app.app, source, &endpoints, lease_duration).await
}

/// The time after which the tables can be read again without burdening them.
pub fn affordable_pause(status: &FleetStatus) -> Duration {
    Duration::from_secs(1) * u32::try_from(status.shards.len()).unwrap_or(u32::MAX) / SHARDS_A_SECOND
}

/// Reads the status of a fleet from outside, once or repeatedly.
pub struct StatusReader {
    app: String,
    source: Option<StreamSelector>,
    lease_duration: Duration,
    connection: Connection,
    observer: FleetObserver,
    /// The directory of the stream's shards, with the stream's ARN and the directory's task.
    directory: Option<(String, ShardDirectory, AbortOnDropHandle<Infallible>)>,
}

impl StatusReader {
    /// Loads the AWS environment, and checks the application's tables.
    ///
    /// # Errors
    /// As [`Connection::new`].
    pub async fn new(
        app: &str,
        source: Option<StreamSelector>,
        endpoints: &Endpoints,
        lease_duration: Duration,
    ) -> Result<Self, anyhow::Error> {
        let connection = Connection::new(app, endpoints, lease_duration).await?;
        let observer = FleetObserver::new(connection.fleet.clone(), lease_duration);
        Ok(Self { app: app.to_owned(), source, lease_duration, connection, observer, directory: None })
    }

    /// Reads the status. Reuses the last listing of the shards if it is younger than `listing_age`.
    ///
    /// # Errors
    /// When the application does not exist, or a service cannot be reached.
    pub async fn read(&mut self, listing_age: Duration) -> Result<FleetStatus, anyhow::Error> {
        let first = self.observer.refresh_if_there().await?;
        let arn = match &self.source {
            Some(StreamSelector::Arn(arn)) => Some(arn.clone()),
            Some(StreamSelector::Table(table)) => Some(find_stream(&self.connection.clients, table).await?),
            None => first.leadership.as_ref().and_then(|leadership| leadership.stream_arn.clone()),
        };
        let directory = self.directory(arn.as_deref());
        let listed = async { Ok(list(directory.clone(), listing_age).await) };
        let connection = &self.connection;
        let rows = async {
            let (rows, signs) = connection.rows_with_signs().await?;
            let kcl = watch_kcl(connection, &rows, signs, &first).await?;
            anyhow::Ok((rows, kcl))
        };
        let view = watch(&mut self.observer, self.lease_duration, first.clone());
        let ((rows, (kcl, refusal)), view, mut listing) = tokio::try_join!(rows, view, listed)?;
        if let Ok(Some(listed)) = &listing
            && rows.iter().flatten().any(|row| !listed.graph.contains(&row.key))
        {
            // It is from before a roll-over: a finished shard whose lease is cleaned up would look like one without.
            listing = list(directory, listing_age.min(RELISTED_AFTER)).await;
        }
        let mut status = FleetStatus::new(&StatusInputs {
            app: &self.app,
            rows: &rows,
            view: &view,
            kcl: &kcl,
            stream_arn: arn.as_deref(),
            listing: listing.as_ref().ok().and_then(Option::as_deref),
            lease_duration: self.lease_duration,
            now_ms: WallClock::System.now_ms(),
        });
        if let Err(reason) = listing {
            status.remarks.push(format!("the stream's shards could not be listed: {reason}"));
        }
        status.remarks.extend(refusal);
        Ok(status)
    }

    /// The directory of a stream's shards, if there is a stream. A listing that took too long is continued by the next
    /// read.
    fn directory(&mut self, arn: Option<&str>) -> Option<ShardDirectory> {
        if self.directory.as_ref().map(|(listed, ..)| listed.as_str()) != arn {
            self.directory = arn.map(|arn| {
                let (directory, stream) = (ShardDirectory::default(), self.connection.stream(arn));
                let served = directory.clone();
                let rng = Rng::with_seed(u64::from(std::process::id()));
                let task = tokio::spawn(async move { served.serve(&stream, LISTING_RATE, rng).await });
                (arn.to_owned(), directory, AbortOnDropHandle::new(task))
            });
        }
        self.directory.as_ref().map(|(_, directory, _)| directory.clone())
    }
}

/// Watches the workers until each heartbeat has changed or is overdue.
async fn watch(
    observer: &mut FleetObserver,
    lease_duration: Duration,
    mut view: FleetView,
) -> Result<FleetView, anyhow::Error> {
    while view.workers.iter().any(|seen| !seen.has_changed && !seen.is_overdue(lease_duration)) {
        tokio::time::sleep(POLL_INTERVAL).await;
        view = observer.refresh_if_there().await?;
    }
    Ok(view)
}

/// Looks for signs of life of lease owners outside the fleet table, if there are any or the table names no worker.
/// Returns also why KCL's own tables could not be read. `signs`: those in the lease table.
async fn watch_kcl(
    connection: &Connection,
    rows: &[Result<Lease, BadRow>],
    signs: Vec<KclSign>,
    view: &FleetView,
) -> Result<(KclInputs, Option<String>), anyhow::Error> {
    let (mut kcl, mut refusal) = (KclInputs { signs, ..KclInputs::default() }, None);
    let foreign = foreign_leases(rows.iter().flatten(), view);
    if foreign.is_empty() && !view.workers.is_empty() {
        return Ok((kcl, refusal));
    }
    match connection.leases.kcl_signs().await {
        Ok(signs) => kcl.signs.extend(signs),
        Err(error) => refusal = Some(format!("the Kinesis Client Library's tables could not be read: {error}")),
    }
    let until = Instant::now() + RENEWED_WITHIN;
    loop {
        let watched = kcl.to_watch(&foreign, WallClock::System.now_ms());
        if watched.is_empty() || Instant::now() >= until {
            return Ok((kcl, refusal));
        }
        tokio::time::sleep(RENEWAL_POLL_INTERVAL).await;
        let rows = connection.leases.read_many(&watched).await?;
        rows.iter().flatten().for_each(|row| kcl.observe(row, &foreign));
    }
}

/// All shards of the stream, if there is one, or the reason why they could not be listed in time.
async fn list(directory: Option<ShardDirectory>, age: Duration) -> Result<Option<Arc<Listing>>, String> {
    let Some(directory) = directory else { return Ok(None) };
    match tokio::time::timeout(LISTING_LIMIT, directory.listing(age)).await {
        Ok(Ok(listing)) => Ok(Some(listing)),
        Ok(Err(stream::Error::NotFound(reason))) => Err(format!("there is no such stream: {reason}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no complete listing within {} s", LISTING_LIMIT.as_secs())),
    }
}
