//! What a leader shows of the application: its lag, its shards by state, and how many workers the load calls for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::Leader;
use super::state::LeaderState;
use crate::model::app_lag::{LagInputs, LagSince, WorkerReport};
use crate::model::checkpoint::Checkpoint;
use crate::model::fleet_state::{ShardState, WorkerState};
use crate::model::lease::{ShardId, Transition, WorkerId};
use crate::model::scaling::{self, DesiredWorkers, Load};
use crate::model::shard_graph::unfinished_parents;
use crate::model::worker_record::ObservedWorker;
use crate::model::worker_record::digest;
use crate::model::worker_record::overdue_after;
use crate::telemetry::Group;
use crate::telemetry::catalogue;

/// How often the application is looked at, at the most.
const INTERVAL: Duration = Duration::from_millis(400);

impl Leader {
    /// Looks at the application as a whole and puts it on the board.
    pub(super) fn measure(&self, state: &mut LeaderState) {
        let now = Instant::now();
        if state.scanned.is_none() || state.measured.is_some_and(|at| now < at + INTERVAL) {
            return;
        }
        state.measured = Some(now);
        let unlisted = self.without_lease(state);
        let (shards, open_shards) = self.census(state, unlisted.len());
        let since = self.lag_since(state, unlisted);
        self.judge_workers(state, since, open_shards, now);
        let (listed, desired_workers) = (state.listed, state.desired_workers);
        self.board.set_group(Some(Group { since, looked: now, shards, desired_workers, listed }));
    }

    /// How long a lease was without a live owner that has one again.
    pub(super) fn note_failover(&self, transition: &Transition) {
        let Some(holder) = transition.before.holder() else { return };
        if self.may_be_alive(holder) || transition.after.holder() == Some(holder) {
            return;
        }
        let silent = match (self.heartbeats.stale_at(holder, Duration::ZERO), self.departed.get(holder)) {
            (Some(since), _) => self.origin.elapsed().saturating_sub(since),
            (None, Some(departure)) => departure.last_seen.elapsed(),
            (None, None) => return, // never seen by this worker
        };
        catalogue::FAILOVER_SECONDS.record([], silent.as_secs_f64());
    }

    /// Shards that are listed and have no lease, while there is a listing that was not yet acted upon.
    fn without_lease(&self, state: &LeaderState) -> BTreeSet<ShardId> {
        let Some(listing) = &state.listing else { return BTreeSet::new() };
        let has_lease = |id: &ShardId| state.rows.contains_key(id) || state.bad.contains(id);
        let missing = listing.graph.missing_leases(has_lease, &Checkpoint::TrimHorizon);
        missing.into_iter().map(|lease| lease.key).collect()
    }

    /// The shards by state, and how many can be read side by side.
    fn census(&self, state: &LeaderState, unlisted: usize) -> (BTreeMap<ShardState, usize>, usize) {
        let mut shards: BTreeMap<ShardState, usize> = BTreeMap::new();
        let silent_after = self.options.lease_duration;
        let lives =
            |id: &WorkerId| self.view.worker(id).is_some_and(|seen| WorkerState::of(seen, silent_after).is_alive());
        let mut open_shards = 0;
        for row in state.rows.values() {
            let is_blocked = unfinished_parents(row, &state.rows).next().is_some()
                || row.parents.iter().any(|parent| state.bad.contains(parent));
            let state = ShardState::of(row, is_blocked, lives);
            open_shards += usize::from(!matches!(state, ShardState::Finished | ShardState::BlockedOnParent));
            *shards.entry(state).or_default() += 1;
        }
        shards.insert(ShardState::BrokenRow, state.bad.len());
        shards.insert(ShardState::NoLease, unlisted);
        (shards, open_shards)
    }

    fn lag_since(&self, state: &mut LeaderState, mut without_row: BTreeSet<ShardId>) -> LagSince {
        without_row.extend(state.bad.iter().cloned());
        let mut owned: BTreeMap<&WorkerId, Vec<&ShardId>> = BTreeMap::new();
        for row in state.rows.values().filter(|row| !row.is_finished()) {
            if let Some(owner) = &row.owner {
                owned.entry(owner).or_default().push(&row.key);
            }
        }
        let now_ms = self.options.clock.now_ms();
        // A worker without lag says so with each heartbeat, and not in between.
        let slack = overdue_after(self.options.lease_duration);
        let slack_ms = u64::try_from(slack.as_millis()).unwrap_or(u64::MAX);
        let unprocessed = |seen: &ObservedWorker, since_ms: u64| match now_ms.saturating_sub(since_ms) <= slack_ms {
            true if seen.still_for < slack => u64::MAX, // none
            _ => since_ms,
        };
        let report = |seen: &ObservedWorker| {
            let presence = &seen.member.record;
            let keys = owned.get(&seen.member.id).map(Vec::as_slice).unwrap_or_default();
            WorkerReport {
                is_alive: seen.is_alive,
                knows_its_leases: digest(keys.iter().copied()) == presence.digest,
                unprocessed_since_ms: presence.unprocessed_since_ms.map(|since_ms| unprocessed(seen, since_ms)),
                unsaved_since_ms: presence.unsaved_since_ms,
            }
        };
        let reports = self.view.workers.iter().map(|seen| (seen.member.id.clone(), report(seen))).collect();
        let started_at_ms = self.view.leadership.as_ref().map_or(0, |leadership| leadership.started_at_ms);
        state.group_lag.update(&LagInputs {
            rows: &state.rows,
            without_row: &without_row,
            reports: &reports,
            started_at_ms,
            now_ms,
        })
    }

    fn judge_workers(&self, state: &mut LeaderState, since: LagSince, open_shards: usize, now: Instant) {
        if state.desired.as_ref().is_some_and(|(_, asked)| now < *asked + scaling::PERIOD) {
            return;
        }
        let lag_ms = since.unprocessed_ms.map_or(0, |since| self.options.clock.now_ms().saturating_sub(since));
        let staying = self.view.live().filter(|seen| !seen.member.record.leaving);
        let kbps: u64 = self.view.live().map(|seen| seen.member.record.kbps).sum();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let kbps = kbps as f64;
        let load = Load { kbps, lag: Duration::from_millis(lag_ms), open_shards, workers: staying.count() };
        let (mut desired, _) =
            state.desired.take().unwrap_or_else(|| (DesiredWorkers::new(self.board.desired_limits()), now));
        let wanted = desired.update(self.origin.elapsed(), &load);
        if wanted != state.desired_workers {
            tracing::info!(wanted, workers = load.workers, kbps, lag = ?load.lag, open_shards, "workers wanted");
        }
        state.desired_workers = wanted;
        state.desired = Some((desired, now));
    }
}
