//! The fleet as one observer sees it: who is there, and who of them is alive.

use std::time::Duration;

use super::lease::WorkerId;
use super::liveness::Observations;
use super::worker_record::{Fleet, LeaderRecord, ObservedWorker, WorkerEnd};

/// The heartbeats of all workers, by incarnation and count.
pub type Heartbeats = Observations<WorkerId, (String, u64)>;

/// The fleet as last seen.
#[derive(Clone, Debug, Default)]
pub struct FleetView {
    /// The workers, by id.
    pub workers: Vec<ObservedWorker>,
    /// The leader's record.
    pub leadership: Option<LeaderRecord>,
    /// The last ends of workers, oldest first.
    pub ends: Vec<WorkerEnd>,
    /// Number of reads of the fleet table so far.
    pub reads: u64,
}

impl FleetView {
    /// Joins a read of the fleet table with the heartbeats observed so far, that read's included.
    pub fn new(fleet: Fleet, heartbeats: &Heartbeats, lease_duration: Duration, reads: u64) -> Self {
        let workers = fleet
            .members
            .into_iter()
            .map(|member| ObservedWorker {
                is_alive: !heartbeats.is_stale(&member.id, member.record.lease_duration(lease_duration)),
                has_changed: heartbeats.has_changed(&member.id),
                still_for: heartbeats.still_for(&member.id).unwrap_or_default(),
                member,
            })
            .collect();
        Self { workers, leadership: fleet.leadership, ends: fleet.ends, reads }
    }

    /// A worker, if it is in the fleet table.
    pub fn worker(&self, id: &WorkerId) -> Option<&ObservedWorker> {
        self.workers.iter().find(|seen| seen.member.id == *id)
    }

    /// Whether a worker is in the fleet table and alive.
    pub fn is_alive(&self, id: &WorkerId) -> bool {
        self.worker(id).is_some_and(|seen| seen.is_alive)
    }

    /// The longest of the workers' lease durations and an observer's own.
    pub fn longest_lease_duration(&self, observers: Duration) -> Duration {
        self.workers.iter().map(|seen| seen.member.record.lease_duration(observers)).fold(observers, Duration::max)
    }

    /// The live workers.
    pub fn live(&self) -> impl Iterator<Item = &ObservedWorker> {
        self.workers.iter().filter(|seen| seen.is_alive)
    }

    /// The live workers that are not about to leave.
    pub fn staying(&self) -> impl Iterator<Item = &ObservedWorker> {
        self.live().filter(|seen| !seen.member.record.leaving)
    }

    /// The leader, if there is one and it is alive.
    pub fn leader(&self) -> Option<&WorkerId> {
        self.leadership.as_ref()?.worker.as_ref().filter(|leader| self.is_alive(leader))
    }

    /// Whether the stream's shards were all listed and given leases once.
    pub fn initial_sync_done(&self) -> bool {
        self.leadership.as_ref().is_some_and(|leadership| leadership.initial_sync_done)
    }
}
