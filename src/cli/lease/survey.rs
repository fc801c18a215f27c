//! What has to be known before leases are changed by hand: the rows, and whether those who hold them are alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use super::config::LeaseConfig;
use crate::admin::lease_ops::{FleetSnapshot, Liveness, Request, concerned};
use crate::aws::stream::Error;
use crate::cli::connection::Connection;
use crate::coordination::FleetObserver;
use crate::model::checkpoint::Checkpoint;
use crate::model::fleet_view::FleetView;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::liveness::Observations;

/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Looks for as long as it takes to know whether the workers concerned are alive, and then at all rows.
///
/// # Errors
/// When the application isn't there, or the services cannot be asked.
pub async fn look(connection: &Connection, config: &LeaseConfig) -> Result<FleetSnapshot, anyhow::Error> {
    let mut scene = FleetSnapshot::default();
    sort_rows(connection, &mut scene).await?;
    let view = watch(connection, config, &mut scene).await?;
    scene.members = view.workers.iter().map(|seen| (seen.member.id.clone(), seen.member.record.max_leases)).collect();
    sort_rows(connection, &mut scene).await?;
    if let Request::Reset { at } = &config.request {
        let arn = view.leadership.and_then(|leadership| leadership.stream_arn);
        scene.missing_places = missing_places(connection, arn.as_deref(), at, &config.shards, &scene).await?;
    }
    Ok(scene)
}

async fn sort_rows(connection: &Connection, scene: &mut FleetSnapshot) -> Result<(), anyhow::Error> {
    (scene.rows, scene.bad) = (BTreeMap::new(), BTreeMap::new());
    for row in connection.rows().await? {
        match row {
            Ok(row) => drop(scene.rows.insert(row.key.clone(), row)),
            Err(bad) => drop(scene.bad.insert(bad.key, bad.reason)),
        }
    }
    Ok(())
}

/// Watches heartbeats, and the counters of leases whose holder has none, until each worker concerned is known to be
/// alive or dead.
async fn watch(
    connection: &Connection,
    config: &LeaseConfig,
    scene: &mut FleetSnapshot,
) -> Result<FleetView, anyhow::Error> {
    let mut watcher = FleetObserver::new(connection.fleet.clone(), config.lease_duration);
    let mut counters: Observations<ShardId, u64> = Observations::default();
    let origin = Instant::now();
    let mut has_said = false;
    let mut rows: Vec<Lease> = config.shards.iter().filter_map(|key| scene.rows.get(key)).cloned().collect();
    loop {
        let view = watcher.refresh_if_there().await?;
        let sent = origin.elapsed();
        if !rows.is_empty() {
            rows = connection.leases.read_many(&config.shards).await?.into_iter().flatten().collect();
        }
        let arrived = origin.elapsed();
        for row in &rows {
            counters.observe(&row.key, row.counter, sent, arrived);
        }
        let waiting: Vec<WorkerId> = {
            let mut workers = concerned(&config.request, None);
            // Who isn't in the fleet cannot be assigned to: nothing to wait for.
            workers.retain(|worker| view.worker(worker).is_some());
            workers.extend(rows.iter().flat_map(|row| concerned(&Request::Release, Some(row))));
            scene.lives = lives(&workers, &view, &rows, &counters, config);
            workers.into_iter().filter(|worker| !scene.lives.contains_key(worker)).collect()
        };
        if waiting.is_empty() {
            return Ok(view);
        }
        if !has_said && origin.elapsed() >= Duration::from_secs(1) {
            has_said = true;
            let limit = config.lease_duration.max(config.kcl_failover_time);
            tracing::info!(?waiting, ?limit, "watching whether these workers are alive");
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What is known by now.
fn lives(
    concerned: &BTreeSet<WorkerId>,
    view: &FleetView,
    rows: &[Lease],
    counters: &Observations<ShardId, u64>,
    config: &LeaseConfig,
) -> BTreeMap<WorkerId, Liveness> {
    let of_member = |worker: &WorkerId| {
        let seen = view.worker(worker)?;
        match (seen.is_alive, seen.has_changed) {
            (false, _) => Some(Liveness::Dead),
            (true, true) if seen.member.record.leaving => Some(Liveness::Leaving),
            (true, true) => Some(Liveness::LeaseDeadline),
            (true, false) => None,
        }
    };
    // Another program's worker renews its leases themselves (KCL: each by its counter).
    let of_stranger = |worker: &WorkerId| {
        let limit = config.kcl_failover_time.max(config.lease_duration);
        let mut held = rows.iter().filter(|row| row.holder() == Some(worker)).map(|row| &row.key);
        if held.clone().any(|key| counters.has_changed(key)) {
            return Some(Liveness::LeaseDeadline);
        }
        held.all(|key| counters.is_stale(key, limit)).then_some(Liveness::Dead)
    };
    let life = |worker: &WorkerId| match view.worker(worker) {
        Some(_) => of_member(worker),
        None => of_stranger(worker),
    };
    concerned.iter().filter_map(|worker| Some((worker.clone(), life(worker)?))).collect()
}

/// Asks the stream whether the place is in each of the shards.
async fn missing_places(
    connection: &Connection,
    arn: Option<&str>,
    at: &Checkpoint,
    shards: &BTreeSet<ShardId>,
    scene: &FleetSnapshot,
) -> Result<BTreeMap<ShardId, String>, anyhow::Error> {
    let mut missing = BTreeMap::new();
    let Some(arn) = arn.filter(|_| *at != Checkpoint::ShardEnd) else { return Ok(missing) };
    let stream = connection.stream(arn);
    for key in shards.iter().filter(|key| scene.rows.contains_key(*key)) {
        match stream.shard_iterator(key, at).await {
            Ok(_) => {}
            Err(Error::NotFound(reason) | Error::Trimmed(reason) | Error::Refused(reason)) => {
                missing.insert(key.clone(), reason);
            }
            Err(error) => bail!("the stream cannot be asked whether shard {key} has that place: {error}"),
        }
    }
    Ok(missing)
}
