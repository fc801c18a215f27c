//! The making of a status from the rows, the fleet as observed and the listing.

use std::collections::{BTreeMap, BTreeSet};

use super::{KclDeparture, KclWorkerStatus, LeaderStatus, ShardState, ShardStatus, StatusInputs, StreamStatus, Wait};
use super::{WorkerState, WorkerStatus, foreign_leases};
use crate::aws::calls::IdlePolls;
use crate::model::app_lag::{AppLag, LagInputs, LagSince, RETENTION_MS, WorkerReport};
use crate::model::blocked_record::{BlockedRecord, RunningCall, Stall};
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::millis;
use crate::model::shard_graph::{Start, unfinished_parents};
use crate::model::worker_record::{KclAlive, ObservedWorker, WorkerRecord, digest};

/// The obstacle of a worker that holds its limit.
const FULL: &str = "has as many leases as --max-leases allows";

/// The inputs, sorted.
pub(super) struct StatusBuilder<'a> {
    inputs: &'a StatusInputs<'a>,
    rows: BTreeMap<ShardId, Lease>,
    bad: BTreeMap<ShardId, &'a str>,
}

impl<'a> StatusBuilder<'a> {
    pub(super) fn new(inputs: &'a StatusInputs<'a>) -> Self {
        let good = inputs.rows.iter().flatten().map(|row| (row.key.clone(), row.clone()));
        let bad = inputs.rows.iter().filter_map(|row| row.as_ref().err());
        Self { inputs, rows: good.collect(), bad: bad.map(|bad| (bad.key.clone(), bad.reason.as_str())).collect() }
    }

    fn state_of(&self, worker: &WorkerId) -> Option<WorkerState> {
        self.inputs.view.worker(worker).map(|seen| WorkerState::of(seen, self.inputs.lease_duration))
    }

    fn is_alive(&self, worker: &WorkerId) -> bool {
        self.state_of(worker).is_some_and(WorkerState::is_alive)
    }

    pub(super) fn leader(&self) -> Option<LeaderStatus> {
        let leadership = self.inputs.view.leadership.as_ref()?;
        let worker = leadership.worker.as_ref()?;
        let seen = self.inputs.view.worker(worker);
        let is_same = seen.is_some_and(|seen| seen.member.record.incarnation == leadership.incarnation);
        let is_alive = is_same && self.is_alive(worker);
        Some(LeaderStatus { worker: worker.to_string(), term: leadership.term, is_alive })
    }

    pub(super) fn stream(&self) -> StreamStatus {
        let listing = self.inputs.listing;
        StreamStatus {
            arn: self.inputs.stream_arn.map(ToOwned::to_owned),
            bound_arn: self.bound_arn().map(ToOwned::to_owned),
            is_disabled: listing.map(|listing| listing.is_disabled),
            listed_shards: listing.map(|listing| listing.graph.len()),
            open_shards: listing.map(|listing| listing.graph.open_shards()),
        }
    }

    fn bound_arn(&self) -> Option<&str> {
        self.inputs.view.leadership.as_ref()?.stream_arn.as_deref()
    }

    fn is_other_stream(&self) -> bool {
        matches!((self.inputs.stream_arn, self.bound_arn()), (Some(looked), Some(bound)) if looked != bound)
    }

    // Workers.

    pub(super) fn workers(&self) -> Vec<WorkerStatus> {
        self.inputs.view.workers.iter().map(|seen| self.worker(seen)).collect()
    }

    fn worker(&self, seen: &ObservedWorker) -> WorkerStatus {
        let id = &seen.member.id;
        let record = &seen.member.record;
        let owned: Vec<&Lease> = self.owned_by(id).collect();
        let throughputs: Vec<f64> = owned.iter().filter_map(|row| row.throughput_kbps).collect();
        // A worker that has nothing to read has caught up with the end of time.
        let caught_up_to_ms = record.caught_up_to_ms.filter(|moment| *moment != u64::MAX);
        WorkerStatus {
            id: id.to_string(),
            state: WorkerState::of(seen, self.inputs.lease_duration),
            is_leader: self.inputs.view.leadership.as_ref().is_some_and(|item| item.worker.as_ref() == Some(id)),
            version: record.version.clone(),
            shards: owned.len(),
            max_leases: record.max_leases,
            throughput_kbps: (!throughputs.is_empty()).then(|| throughputs.iter().sum()),
            caught_up_to_ms,
            lag_ms: caught_up_to_ms.or(record.unsaved_since_ms).map(|moment| self.inputs.now_ms.saturating_sub(moment)),
            last_heartbeat_ms: record.written_ms,
            heartbeat_still_ms: millis(seen.still_for),
        }
    }

    fn owned_by<'b>(&'b self, worker: &'b WorkerId) -> impl Iterator<Item = &'b Lease> {
        self.rows.values().filter(move |row| row.owner.as_ref() == Some(worker) && !row.is_finished())
    }

    pub(super) fn kcl_workers(&self) -> Vec<KclWorkerStatus> {
        self.inputs.kcl.workers(&foreign_leases(self.rows.values(), self.inputs.view), self.inputs.now_ms)
    }

    pub(super) fn left_for_kcl(&self) -> Option<KclDeparture> {
        let KclAlive { owner, lease, at_ms, .. } = self.inputs.view.leadership.as_ref()?.kcl_alive.as_ref()?;
        Some(KclDeparture { worker: owner.to_string(), shard: lease.to_string(), at_ms: *at_ms })
    }

    // Shards.

    pub(super) fn shards(&self, workers: &[WorkerStatus]) -> (Vec<ShardStatus>, Vec<Wait>) {
        let lags = self.lags(workers);
        let headrooms = self.headrooms(workers);
        let mut shards: Vec<ShardStatus> = self.rows.values().map(|row| self.shard(row, &lags, &headrooms)).collect();
        shards.extend(self.bad.keys().map(|key| without_row(key, ShardState::BrokenRow, &BTreeSet::new())));
        shards.extend(
            self.without_lease().iter().map(|lease| without_row(&lease.key, ShardState::NoLease, &lease.parents)),
        );
        shards.sort_by(|left, right| left.id.cmp(&right.id));
        let waits = shards.iter().filter_map(|shard| self.wait(shard)).collect();
        (shards, waits)
    }

    /// The greatest lag of each worker's shards, for workers that know their leases as the rows do.
    fn lags(&self, workers: &[WorkerStatus]) -> BTreeMap<&'a str, u64> {
        self.reports(workers, |_, worker| worker.lag_ms)
    }

    /// The trim headroom of each worker's shards, for the same workers.
    fn headrooms(&self, workers: &[WorkerStatus]) -> BTreeMap<&'a str, u64> {
        self.reports(workers, |record, _| {
            Some(RETENTION_MS.saturating_sub(self.inputs.now_ms.saturating_sub(record.unsaved_since_ms?)))
        })
    }

    fn reports(
        &self,
        workers: &[WorkerStatus],
        of: impl Fn(&WorkerRecord, &WorkerStatus) -> Option<u64>,
    ) -> BTreeMap<&'a str, u64> {
        let seen = self.inputs.view.workers.iter().zip(workers);
        seen.filter(|(seen, worker)| worker.state.is_alive() && self.knows_its_leases(seen))
            .filter_map(|(seen, worker)| Some((seen.member.id.as_str(), of(&seen.member.record, worker)?)))
            .collect()
    }

    fn shard(&self, row: &Lease, lags: &BTreeMap<&str, u64>, headrooms: &BTreeMap<&str, u64>) -> ShardStatus {
        let state = self.shard_state(row);
        let is_read = state == ShardState::Reading;
        let report = self.report(row, state);
        let halted = report.and_then(|report| report.blocked.get(&row.key).cloned());
        let running_call = report.and_then(|report| report.calls.get(&row.key).cloned());
        let is_told = halted.is_some() || running_call.is_some();
        let of_owner = |of: &BTreeMap<&str, u64>| row.owner.as_ref().and_then(|owner| of.get(owner.as_str()).copied());
        ShardStatus {
            id: row.key.to_string(),
            state,
            owner: row.owner.as_ref().map(ToString::to_string),
            handed_over_by: row.checkpoint_owner.as_ref().map(ToString::to_string),
            checkpoint: Some(row.checkpoint.to_string()),
            parents: row.parents.iter().map(ToString::to_string).collect(),
            counter: Some(row.counter),
            throughput_kbps: row.throughput_kbps,
            lag_at_most_ms: of_owner(lags).filter(|_| is_read),
            trim_headroom_at_least_ms: of_owner(headrooms).filter(|_| is_read),
            halted,
            running_call,
            stall: report.filter(|_| !is_told).and_then(|report| report.stalls.get(&row.key).cloned()),
        }
    }

    /// The report of a shard's reader, while it is alive.
    fn report(&self, row: &Lease, state: ShardState) -> Option<&'a WorkerRecord> {
        let is_read = matches!(state, ShardState::Reading | ShardState::HandingOver);
        let holder = row.holder().filter(|_| is_read)?;
        Some(&self.inputs.view.worker(holder)?.member.record)
    }

    /// The call of a shard's reader that does not return, or its stall, in words.
    fn hold_up(&self, row: &Lease) -> Option<String> {
        let (report, holder) = (self.report(row, self.shard_state(row))?, row.holder()?);
        let lasts_s = |since_ms: u64| self.inputs.now_ms.saturating_sub(since_ms) / 1_000;
        let Some(call) = report.calls.get(&row.key) else {
            let Stall { cause, error, since_ms } = report.stalls.get(&row.key)?;
            let error = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let (lasts_s, cause) = (lasts_s(*since_ms), cause.words());
            return Some(format!("worker {holder} has made no progress with it for {lasts_s} s: {cause}{error}"));
        };
        let RunningCall { sequence_number, records, attempts, since_ms } = call;
        let lasts_s = lasts_s(*since_ms);
        let records = match sequence_number {
            Some(first) => format!("attempt {attempts}, {records} records from {first}"),
            None => "a call without records".to_owned(),
        };
        Some(format!("worker {holder}'s processor call has not returned for {lasts_s} s ({records})"))
    }

    fn shard_state(&self, row: &Lease) -> ShardState {
        let (kcl, now_ms) = (self.inputs.kcl, self.inputs.now_ms);
        let reads = |holder: &WorkerId| self.is_alive(holder) || kcl.is_alive(holder, now_ms);
        ShardState::of(row, self.unfinished_parent(row).is_some(), reads)
    }

    /// The first parent that is not finished, or whose row cannot be read.
    fn unfinished_parent(&self, row: &Lease) -> Option<ShardId> {
        let unfinished = unfinished_parents(row, &self.rows).next();
        unfinished.or_else(|| row.parents.iter().find(|parent| self.bad.contains_key(*parent))).cloned()
    }

    /// The leases that the leader will make for listed shards.
    fn without_lease(&self) -> Vec<Lease> {
        let Some(listing) = self.inputs.listing.filter(|_| !self.is_other_stream()) else { return Vec::new() };
        let has_lease = |id: &ShardId| self.rows.contains_key(id) || self.bad.contains_key(id);
        listing.graph.missing_leases(has_lease, &Start::TrimHorizon)
    }

    fn wait(&self, shard: &ShardStatus) -> Option<Wait> {
        let id = ShardId::from(shard.id.as_str());
        let (mut for_shard, mut for_worker) = (None, None);
        let text = match shard.state {
            ShardState::Reading => {
                for_worker = shard.owner.clone();
                let Some(halted) = &shard.halted else {
                    let text = format!("shard {id} waits: {}", self.hold_up(self.rows.get(&id)?)?);
                    return Some(Wait { shard: shard.id.clone(), state: shard.state, for_shard, for_worker, text });
                };
                let BlockedRecord { sequence_number, event_id, keys, error, attempts, since_ms } = halted;
                let (event, owner) = (event_id.as_deref().unwrap_or("unnamed"), or_nobody(&shard.owner));
                let lasts_s = self.inputs.now_ms.saturating_sub(*since_ms) / 1_000;
                format!(
                    "shard {id} waits for record {sequence_number} (event {event}, key {keys}), which worker {owner} has \
                     tried {attempts} times in {lasts_s} s: {error}"
                )
            }
            ShardState::Finished => return None,
            ShardState::BlockedOnParent => {
                let row = self.rows.get(&id)?;
                let parent = self.unfinished_parent(row)?;
                let (text, worker) = self.why_unfinished(&parent);
                (for_shard, for_worker) = (Some(parent.to_string()), worker);
                format!("shard {id} waits for its parent {parent}, {text}")
            }
            ShardState::HandingOver => {
                for_worker = shard.handed_over_by.clone();
                let (from, to) = (or_nobody(&shard.handed_over_by), or_nobody(&shard.owner));
                let hold_up = self.rows.get(&id).and_then(|row| self.hold_up(row));
                let hold_up = hold_up.map(|hold_up| format!("; {hold_up}")).unwrap_or_default();
                format!("shard {id} goes from worker {from} to {to}, once {from} has delivered what it holds{hold_up}")
            }
            ShardState::Unowned => format!("shard {id} has no owner: {}", self.who_assigns(&id)),
            ShardState::OwnerSilent => {
                let holder = self.rows.get(&id)?.holder()?;
                for_worker = Some(holder.to_string());
                format!("shard {id} is not being read: owner {holder} {}", self.silence_of(holder))
            }
            ShardState::NoLease => {
                format!("shard {id} has no lease yet: the leader makes it after its next listing of the shards")
            }
            ShardState::BrokenRow => {
                let reason = self.bad.get(&id)?;
                format!("lease of {id} cannot be read: {reason}; the shard and its children wait until it is mended")
            }
        };
        Some(Wait { shard: shard.id.clone(), state: shard.state, for_shard, for_worker, text })
    }

    fn why_unfinished(&self, parent: &ShardId) -> (String, Option<String>) {
        let Some(row) = self.rows.get(parent) else { return ("whose lease cannot be read".into(), None) };
        let holder = row.holder().map(ToString::to_string);
        let text = match (self.shard_state(row), row.holder()) {
            (ShardState::BlockedOnParent, _) => "which itself waits for its parent".to_owned(),
            (_, None) => "which nobody owns".to_owned(),
            (ShardState::OwnerSilent, Some(holder)) => format!("whose owner {holder} {}", self.silence_of(holder)),
            (_, Some(holder)) => match self.hold_up(row) {
                Some(hold_up) => format!("which worker {holder} reads; {hold_up}"),
                None => format!("which worker {holder} reads"),
            },
        };
        (text, holder)
    }

    fn silence_of(&self, worker: &WorkerId) -> String {
        match self.inputs.view.worker(worker) {
            None => "is not in the fleet table".to_owned(),
            Some(seen) => {
                let still_s = seen.still_for.as_secs_f64();
                format!("shows no sign of life (its heartbeat has not changed for {still_s:.1} s)")
            }
        }
    }

    fn who_assigns(&self, shard: &ShardId) -> String {
        let Some(leader) = self.leader().filter(|leader| leader.is_alive) else {
            return "there is no live leader to assign it".to_owned();
        };
        let live = self.inputs.view.workers.iter().filter(|seen| self.is_alive(&seen.member.id));
        let obstacles: Vec<_> = live.map(|seen| (&seen.member.id, self.obstacle(seen, shard))).collect();
        if obstacles.iter().any(|(_, obstacle)| obstacle.is_none()) {
            return format!("the leader {} is to assign it", leader.worker);
        }
        let is_full = |obstacle: &Option<&str>| *obstacle == Some(FULL);
        if obstacles.iter().all(|(_, obstacle)| is_full(obstacle)) {
            return "no worker may take it: all have as many leases as --max-leases allows; start another worker"
                .into();
        }
        let named = obstacles.iter().map(|(id, obstacle)| format!("{id} {}", obstacle.unwrap_or_default()));
        format!("no worker may take it: {}", named.collect::<Vec<_>>().join(", "))
    }

    /// The reason why the leader does not assign a shard to a live worker, if there is one.
    fn obstacle(&self, seen: &ObservedWorker, shard: &ShardId) -> Option<&'static str> {
        let record = &seen.member.record;
        let owned = self.owned_by(&seen.member.id).count() as u64;
        match record {
            _ if record.leaving => Some("is leaving"),
            _ if record.max_leases.is_some_and(|limit| owned >= limit) => Some(FULL),
            _ if record.stuck.contains(shard) => Some("released it because its processor hung"),
            _ => None,
        }
    }

    /// The moments from which the lag of the whole application counts, if all unfinished shards tell their creation.
    pub(super) fn lag_since(&self) -> Option<LagSince> {
        let without_row = self.bad.keys().cloned().chain(self.without_lease().into_iter().map(|lease| lease.key));
        let without_row: BTreeSet<ShardId> = without_row.collect();
        let unfinished = self.rows.values().filter(|row| !row.is_finished()).map(|row| &row.key);
        if unfinished.chain(&without_row).any(|key| key.created_ms().is_none()) {
            return None;
        }
        let report = |seen: &ObservedWorker| {
            let (id, record) = (seen.member.id.clone(), &seen.member.record);
            let report = WorkerReport {
                is_alive: self.is_alive(&id),
                knows_its_leases: self.knows_its_leases(seen),
                unprocessed_since_ms: record.unprocessed_since_ms,
                unsaved_since_ms: record.unsaved_since_ms,
            };
            (id, report)
        };
        let reports = self.inputs.view.workers.iter().map(report).collect();
        let started_at_ms = self.inputs.view.leadership.as_ref().map_or(0, |leadership| leadership.started_at_ms);
        let (rows, now_ms) = (&self.rows, self.inputs.now_ms);
        let inputs = LagInputs { rows, without_row: &without_row, reports: &reports, started_at_ms, now_ms };
        Some(AppLag::default().update(&inputs))
    }

    pub(super) fn idle_polls(&self) -> IdlePolls {
        IdlePolls::new(self.inputs.view.live().map(|seen| seen.member.record.idle_polls_per_hour).sum())
    }

    fn knows_its_leases(&self, seen: &ObservedWorker) -> bool {
        digest(self.owned_by(&seen.member.id).map(|row| &row.key)) == seen.member.record.digest
    }

    pub(super) fn remarks(
        &self,
        stream: &StreamStatus,
        leader: Option<&LeaderStatus>,
        headroom_ms: Option<u64>,
    ) -> Vec<String> {
        let mut remarks = Vec::new();
        let live = self.inputs.view.workers.iter().filter(|seen| self.is_alive(&seen.member.id)).count();
        let kcl: Vec<String> =
            self.kcl_workers().into_iter().filter(|worker| worker.is_alive).map(|worker| worker.id).collect();
        if !kcl.is_empty() {
            let kcl = kcl.join(", ");
            remarks.push(match live {
                0 => format!("the shards are the Kinesis Client Library's, whose workers are alive: {kcl}"),
                _ => format!("workers of the Kinesis Client Library are alive beside this fleet: stop them ({kcl})"),
            });
        }
        if live == 0 && kcl.is_empty() {
            remarks.push("no worker is alive: nothing is read".to_owned());
            remarks.extend(headroom_ms.map(time_left));
        } else if live > 0 && leader.is_none_or(|leader| !leader.is_alive) {
            remarks.push("no live worker leads: a deputy takes over within a lease duration".to_owned());
        }
        if stream.is_disabled == Some(true) {
            remarks.push("the stream is switched off: nothing is added to it any more".to_owned());
        }
        if let (Some(bound), true) = (&stream.bound_arn, self.is_other_stream()) {
            remarks.push(format!("the application is bound to another stream: {bound}"));
        }
        if self.inputs.view.leadership.as_ref().is_some_and(|leadership| !leadership.initial_sync_done) {
            remarks.push("the stream's shards have not all been listed by a leader yet".to_owned());
        }
        remarks
    }
}

/// The time that is left before the service may trim an undelivered record, in words.
fn time_left(headroom_ms: u64) -> String {
    match headroom_ms / 60_000 {
        0 => "the oldest undelivered record may be older than a day: records may be lost already".to_owned(),
        minutes => format!(
            "no undelivered record is trimmed within the next {} h {} min: start workers before that",
            minutes / 60,
            minutes % 60
        ),
    }
}

fn or_nobody(worker: &Option<String>) -> &str {
    worker.as_deref().unwrap_or("nobody")
}

pub(super) fn without_row(key: &ShardId, state: ShardState, parents: &BTreeSet<ShardId>) -> ShardStatus {
    ShardStatus {
        id: key.to_string(),
        state,
        owner: None,
        handed_over_by: None,
        checkpoint: None,
        parents: parents.iter().map(ToString::to_string).collect(),
        counter: None,
        throughput_kbps: None,
        lag_at_most_ms: None,
        trim_headroom_at_least_ms: None,
        halted: None,
        running_call: None,
        stall: None,
    }
}
