//! This worker's leases and progress, as its heartbeats show them, and the end of a worker that has caught up.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Hang, LeaseManager, LeaseState};
use crate::aws::lease_table::BadRow;
use crate::consumer::ConsumerStatus;
use crate::model::blocked_record::Stall;
use crate::model::lag::Stage;
use crate::model::lease::{Lease, ShardId};
use crate::model::millis;
use crate::model::shard_graph::unfinished_parents;
use crate::model::worker_record::{LONG_CALL, digest};

/// The most shards that a heartbeat names for each thing that holds shards up.
const MOST_NAMED: usize = 20;

impl LeaseManager {
    /// Updates the record that the next heartbeat shows.
    pub(super) fn update_record(&mut self) {
        let is_owned = |state: &LeaseState| match state {
            LeaseState::Running(running) => running.is_owned,
            LeaseState::Pending | LeaseState::Writing => true,
            _ => false,
        };
        let owned = || self.leases.iter().filter(|(_, known)| is_owned(&known.state)).map(|(key, _)| key);
        let (leases, digest) = (owned().count() as u64, digest(owned()));
        let caught_up_to_ms = self.caught_up_to_ms();
        let since = [Stage::Processed, Stage::Checkpointed].map(|stage| self.deps.telemetry.waiting_since_ms(stage));
        let [unprocessed_since_ms, unsaved_since_ms] = since;
        let stuck = self.stuck();
        let long_call = LONG_CALL.min(self.deps.options.unready_after);
        let blocked = self.shards_with(ConsumerStatus::blocked_record);
        let calls = self.shards_with(|status| status.long_call(long_call));
        let stalls = self.shards_with(|status| self.stall(status, long_call));
        let kbps = self.deps.telemetry.kbps();
        let idle_polls_per_hour = self.deps.telemetry.idle_polls_per_hour();
        let running = self.leases.iter().filter_map(|(key, known)| match &known.state {
            LeaseState::Running(running) => Some((key, &*running.handle.status)),
            _ => None,
        });
        let overloaded = self.overload_monitor.sample(running);
        self.deps.record.update(|record| {
            record.leases = leases;
            record.digest = digest;
            record.caught_up_to_ms = caught_up_to_ms;
            record.unprocessed_since_ms = unprocessed_since_ms;
            record.unsaved_since_ms = unsaved_since_ms;
            record.kbps = kbps;
            record.idle_polls_per_hour = idle_polls_per_hour;
            record.overloaded = overloaded;
            record.stuck = stuck;
            record.blocked = blocked;
            record.calls = calls;
            record.stalls = stalls;
        });
    }

    /// The shards of which a status has something to report.
    fn shards_with<T>(&self, report: impl Fn(&ConsumerStatus) -> Option<T>) -> BTreeMap<ShardId, T> {
        let reports = self.running().filter_map(|(key, held)| Some((key.clone(), report(&held.handle.status)?)));
        reports.take(MOST_NAMED).collect()
    }

    /// A shard's stall: failures for `limit`, waits for other shards until they make the worker unready.
    fn stall(&self, status: &ConsumerStatus, limit: Duration) -> Option<Stall> {
        let options = &self.deps.options;
        let (cause, lasts) = status.stall(limit)?;
        let error = status.last_error(cause);
        let is_reported = error.is_some() || lasts >= options.unready_after;
        let since_ms = options.clock.now_ms().saturating_sub(millis(lasts));
        is_reported.then_some(Stall { cause, error, since_ms })
    }

    /// The moment before which everything in this worker's shards is delivered and checkpointed, if it is known.
    fn caught_up_to_ms(&self) -> Option<u64> {
        let is_coming = |state: &LeaseState| matches!(state, LeaseState::Pending | LeaseState::Writing);
        if self.leases.values().any(|known| is_coming(&known.state)) {
            return None;
        }
        let reading = self.running().map(|(_, running)| running);
        let reading =
            reading.filter(|held| !held.handle.status.is_blocked_on_parent() && held.hang != Hang::Surrendered);
        match reading.map(|running| running.handle.status.caught_up_to_ms()).min() {
            Some(0) => None,
            oldest => oldest.or(Some(u64::MAX)),
        }
    }

    /// Whether a moment is past this worker's start.
    fn is_past(&self, moment: Option<u64>) -> bool {
        let started = self.deps.me.started_ms.next_multiple_of(1000); // records' times are whole seconds
        moment.is_some_and(|moment| moment >= started)
    }

    /// Whether this worker has delivered and checkpointed everything that was in its shards when it started.
    pub(super) fn is_caught_up_itself(&self) -> bool {
        self.view.borrow().initial_sync_done() && !self.wants_scan && self.is_past(self.caught_up_to_ms())
    }

    /// Whether by these rows all workers together have delivered and checkpointed everything that was in the stream when
    /// this worker started.
    pub(super) fn is_caught_up(&self, rows: &[Result<Lease, BadRow>]) -> bool {
        if !self.is_caught_up_itself() || rows.iter().any(Result::is_err) {
            return false;
        }
        let view = self.view.borrow();
        let rows: BTreeMap<ShardId, Lease> = rows.iter().flatten().map(|row| (row.key.clone(), row.clone())).collect();
        let mut reading =
            rows.values().filter(|row| !row.is_finished() && unfinished_parents(row, &rows).next().is_none());
        reading.all(|row| {
            let is_done = match row.owner.as_ref() {
                Some(owner) if *owner == self.deps.me.worker => self.is_running(&row.key),
                Some(owner) => {
                    let owned = rows.values().filter(|row| row.owner.as_ref() == Some(owner) && !row.is_finished());
                    let owned = digest(owned.map(|row| &row.key));
                    let seen = view.worker(owner).filter(|seen| seen.is_alive).map(|seen| &seen.member.record);
                    seen.is_some_and(|record| record.digest == owned && self.is_past(record.caught_up_to_ms))
                }
                None => false,
            };
            is_done && !row.is_handed_over()
        })
    }
}
