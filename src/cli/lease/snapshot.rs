//! The fleet's state before leases are changed by hand: the rows, and whether the workers concerned are alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use super::Operation;
use crate::admin::lease_ops::{FleetSnapshot, Liveness, Request, workers_to_watch};
use crate::aws::stream::Error;
use crate::cli::args::lease::ChangeArgs;
use crate::cli::args::value::format_duration;
use crate::cli::connection::Connection;
use crate::consumer::WallClock;
use crate::coordination::FleetObserver;
use crate::model::checkpoint::Checkpoint;
use crate::model::fleet_view::FleetView;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::liveness::Observations;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Watches the workers concerned until the state of each is known, and then reads all rows.
///
/// # Errors
/// When the application does not exist, or a service cannot be reached.
pub(super) async fn load_snapshot(
    connection: &Connection,
    operation: &Operation<'_>,
) -> Result<FleetSnapshot, anyhow::Error> {
    let (rows, _) = read_rows(connection).await?;
    let rows = operation.shards.iter().filter_map(|key| rows.get(key)).cloned().collect();
    let targets = workers_to_watch(&operation.request, None);
    // A new owner that is not in the fleet table is refused: there is nothing to wait for.
    let targets = |view: &FleetView| targets.iter().filter(|id| view.worker(id).is_some()).cloned().collect();
    let (view, liveness) = watch(connection, &operation.args.change, rows, targets).await?;
    let members = view.workers.iter().map(|seen| (seen.member.id.clone(), seen.member.record.max_leases)).collect();
    let reports = view.workers.iter().flat_map(|seen| seen.member.record.calls.clone());
    let long_calls: Vec<_> = reports.map(|(key, call)| (key, call.since_ms)).collect();
    // The first rows are as old as the watching was long.
    let (rows, bad) = read_rows(connection).await?;
    let missing_positions = match &operation.request {
        Request::Reset { at, since_ms } => {
            let arn = view.leadership.and_then(|leadership| leadership.stream_arn);
            let shards = operation.shards.iter().filter(|key| rows.contains_key(*key));
            missing_positions(connection, arn.as_deref(), at, since_ms.unwrap_or(0), shards).await?
        }
        _ => BTreeMap::new(),
    };
    let now_ms = WallClock::System.now_ms();
    let long_calls =
        long_calls.into_iter().map(|(key, since_ms)| (key, now_ms.saturating_sub(since_ms) / 1_000)).collect();
    Ok(FleetSnapshot { rows, bad, liveness, members, long_calls, missing_positions })
}

/// The rows, and the unreadable ones with the reasons.
pub(super) async fn read_rows(
    connection: &Connection,
) -> Result<(BTreeMap<ShardId, Lease>, BTreeMap<ShardId, String>), anyhow::Error> {
    let (mut rows, mut bad_rows) = (BTreeMap::new(), BTreeMap::new());
    for row in connection.rows().await? {
        match row {
            Ok(row) => drop(rows.insert(row.key.clone(), row)),
            Err(bad) => drop(bad_rows.insert(bad.key, bad.reason)),
        }
    }
    Ok((rows, bad_rows))
}

/// Watches heartbeats, and the counters of leases whose holder has no heartbeat, until each holder of these leases and
/// each of the fleet's workers that `also` names is known to be alive or dead.
pub(super) async fn watch(
    connection: &Connection,
    args: &ChangeArgs,
    mut rows: Vec<Lease>,
    also: impl Fn(&FleetView) -> BTreeSet<WorkerId>,
) -> Result<(FleetView, BTreeMap<WorkerId, Liveness>), anyhow::Error> {
    let keys = rows.iter().map(|row| row.key.clone()).collect();
    let mut observer = FleetObserver::new(connection.fleet.clone(), args.liveness.lease_duration);
    let mut counters: Observations<ShardId, u64> = Observations::default();
    let origin = Instant::now();
    let mut is_logged = false;
    loop {
        let view = observer.refresh_if_there().await?;
        let sent = origin.elapsed();
        if !rows.is_empty() {
            rows = connection.leases.read_many(&keys).await?.into_iter().flatten().collect();
        }
        let arrived = origin.elapsed();
        for row in &rows {
            counters.observe(&row.key, row.counter, sent, arrived);
        }
        let mut workers = also(&view);
        workers.extend(rows.iter().flat_map(|row| workers_to_watch(&Request::Release, Some(row))));
        let state = |worker: &WorkerId| liveness(worker, &view, &rows, &counters, args);
        let liveness: BTreeMap<WorkerId, Liveness> =
            workers.iter().filter_map(|worker| Some((worker.clone(), state(worker)?))).collect();
        workers.retain(|worker| !liveness.contains_key(worker));
        if workers.is_empty() {
            return Ok((view, liveness));
        }
        if !is_logged && origin.elapsed() >= Duration::from_secs(1) {
            is_logged = true;
            let workers: Vec<&str> = workers.iter().map(WorkerId::as_str).collect();
            let limit = format_duration(args.liveness.lease_duration.max(args.kcl.kcl_failover_time));
            tracing::info!(workers = workers.join(","), limit, "watching whether workers are alive");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A worker's state, once it is known.
fn liveness(
    worker: &WorkerId,
    view: &FleetView,
    rows: &[Lease],
    counters: &Observations<ShardId, u64>,
    args: &ChangeArgs,
) -> Option<Liveness> {
    if let Some(seen) = view.worker(worker) {
        return match (seen.is_alive, seen.has_changed) {
            (false, _) => Some(Liveness::Dead),
            (true, true) if seen.member.record.leaving => Some(Liveness::Leaving),
            (true, true) => Some(Liveness::Alive),
            (true, false) => None,
        };
    }
    // Another program's worker has no heartbeat: it renews each lease by its counter, as the KCL does.
    let limit = args.kcl.kcl_failover_time.max(args.liveness.lease_duration);
    let mut held = rows.iter().filter(|row| row.holder() == Some(worker)).map(|row| &row.key);
    if held.clone().any(|key| counters.has_changed(key)) {
        return Some(Liveness::Alive);
    }
    held.all(|key| counters.is_stale(key, limit)).then_some(Liveness::Dead)
}

/// The shards in which the stream lacks the position `at`, with the reasons.
async fn missing_positions(
    connection: &Connection,
    arn: Option<&str>,
    at: &Checkpoint,
    since_ms: u64,
    shards: impl Iterator<Item = &ShardId>,
) -> Result<BTreeMap<ShardId, String>, anyhow::Error> {
    let mut missing = BTreeMap::new();
    let Some(arn) = arn.filter(|_| *at != Checkpoint::ShardEnd) else { return Ok(missing) };
    let stream = connection.stream(arn);
    for key in shards {
        match stream.shard_iterator(key, at, since_ms).await {
            Ok(_) => {}
            Err(Error::NotFound(reason) | Error::Trimmed(reason)) => drop(missing.insert(key.clone(), reason)),
            Err(Error::Refused(error)) => drop(missing.insert(key.clone(), error.to_string())),
            Err(error) => bail!("cannot ask the stream whether shard {key} has that position: {error}"),
        }
    }
    Ok(missing)
}
