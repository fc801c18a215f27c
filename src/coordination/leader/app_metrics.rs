//! The application's metrics, by its leader: lag, shards by state, and the number of workers that the load calls for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::election::Election;
use super::state::LeaderState;
use crate::model::app_lag::{LagInputs, LagSince, WorkerReport};
use crate::model::fleet_state::{ShardState, WorkerState};
use crate::model::lease::{ShardId, Transition, WorkerId};
use crate::model::scaling::{self, DesiredWorkers, Load};
use crate::model::shard_graph::{Start, unfinished_parents};
use crate::model::worker_record::ObservedWorker;
use crate::model::worker_record::digest;
use crate::telemetry::AppFigures;
use crate::telemetry::catalogue;

/// The least time between two computations.
const INTERVAL: Duration = Duration::from_millis(400);

impl LeaderState {
    /// Works out the application's metrics, if that is due, and hands them to telemetry.
    pub(super) fn update_app_metrics(&mut self, election: &Election) {
        let now = Instant::now();
        if self.scanned.is_none() || self.measured.is_some_and(|at| now < at + INTERVAL) {
            return;
        }
        self.measured = Some(now);
        let without_lease = self.without_lease();
        let (shards, open_shards) = self.count_shards(election, without_lease.len());
        let lag_since = self.update_lag(election, without_lease);
        self.update_desired_workers(election, lag_since, open_shards, now);
        let (listed, desired_workers) = (self.listed, self.desired_workers);
        let figures = AppFigures { lag_since, measured: now, shards, desired_workers, listed };
        election.deps.telemetry.set_app(Some(figures));
    }

    /// Shards of a listing, not yet acted upon, that have no lease.
    fn without_lease(&self) -> BTreeSet<ShardId> {
        let Some(listing) = &self.listing else { return BTreeSet::new() };
        let has_lease = |id: &ShardId| self.rows.contains_key(id) || self.bad.contains(id);
        let missing = listing.graph.missing_leases(has_lease, &Start::TrimHorizon);
        missing.into_iter().map(|lease| lease.key).collect()
    }

    /// Counts the shards by state, and those that can be read side by side.
    fn count_shards(&self, election: &Election, without_lease: usize) -> (BTreeMap<ShardState, usize>, usize) {
        let mut shards: BTreeMap<ShardState, usize> = BTreeMap::new();
        let silent_after = election.deps.options.lease_duration;
        let is_alive =
            |id: &WorkerId| election.view.worker(id).is_some_and(|seen| WorkerState::of(seen, silent_after).is_alive());
        let mut open_shards = 0;
        for row in self.rows.values() {
            let is_blocked = unfinished_parents(row, &self.rows).next().is_some()
                || row.parents.iter().any(|parent| self.bad.contains(parent));
            let state = ShardState::of(row, is_blocked, is_alive);
            open_shards += usize::from(!matches!(state, ShardState::Finished | ShardState::BlockedOnParent));
            *shards.entry(state).or_default() += 1;
        }
        shards.insert(ShardState::BrokenRow, self.bad.len());
        shards.insert(ShardState::NoLease, without_lease);
        (shards, open_shards)
    }

    fn update_lag(&mut self, election: &Election, mut without_row: BTreeSet<ShardId>) -> LagSince {
        without_row.extend(self.bad.iter().cloned());
        let mut owned: BTreeMap<&WorkerId, Vec<&ShardId>> = BTreeMap::new();
        for row in self.rows.values().filter(|row| !row.is_finished()) {
            if let Some(owner) = &row.owner {
                owned.entry(owner).or_default().push(&row.key);
            }
        }
        let now_ms = election.deps.options.clock.now_ms();
        let report = |seen: &ObservedWorker| {
            let record = &seen.member.record;
            let keys = owned.get(&seen.member.id).map(Vec::as_slice).unwrap_or_default();
            WorkerReport {
                is_alive: seen.is_alive,
                knows_its_leases: digest(keys.iter().copied()) == record.digest,
                unprocessed_since_ms: seen.unprocessed_since_ms(election.deps.options.lease_duration),
                unsaved_since_ms: record.unsaved_since_ms,
            }
        };
        let reports = election.view.workers.iter().map(|seen| (seen.member.id.clone(), report(seen))).collect();
        let started_at_ms = election.view.leadership.as_ref().map_or(0, |leadership| leadership.started_at_ms);
        self.app_lag.update(&LagInputs {
            rows: &self.rows,
            without_row: &without_row,
            reports: &reports,
            started_at_ms,
            now_ms,
        })
    }

    fn update_desired_workers(&mut self, election: &Election, since: LagSince, open_shards: usize, now: Instant) {
        if self.scaling.as_ref().is_some_and(|(_, asked)| now < *asked + scaling::PERIOD) {
            return;
        }
        let lag_ms = since.unprocessed_ms.map_or(0, |since| election.deps.options.clock.now_ms().saturating_sub(since));
        let kbps: u64 = election.view.live().map(|seen| seen.member.record.kbps).sum();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let kbps = kbps as f64;
        let load =
            Load { kbps, lag: Duration::from_millis(lag_ms), open_shards, workers: election.view.staying().count() };
        let (mut desired, _) =
            self.scaling.take().unwrap_or_else(|| (DesiredWorkers::new(election.deps.options.desired_workers), now));
        let wanted = desired.update(election.observer.elapsed(), &load);
        if wanted != self.desired_workers {
            tracing::info!(
                wanted,
                workers = load.workers,
                kbps,
                lag_s = load.lag.as_secs(),
                open_shards,
                "workers wanted"
            );
        }
        self.desired_workers = wanted;
        self.scaling = Some((desired, now));
    }
}

/// Records how long a lease was without a live owner, when an assignment ends that.
pub(super) fn note_failover(election: &Election, transition: &Transition) {
    let Some(holder) = transition.before.holder() else { return };
    if election.may_be_alive(holder) || transition.after.holder() == Some(holder) {
        return;
    }
    if let Some(silent) = election.silent_for(holder) {
        catalogue::FAILOVER_SECONDS.record([], silent.as_secs_f64());
    }
}
