//! What a worker sees of its fleet: who is there, and who of them is alive.

use std::time::Duration;

use crate::model::lease::WorkerId;
use crate::model::liveness::Observations;
use crate::model::worker_record::{Fleet, LeaderRecord, ObservedWorker};

/// The fleet as last seen.
#[derive(Clone, Debug, Default)]
pub struct FleetView {
    /// The workers, by id.
    pub workers: Vec<ObservedWorker>,
    /// The leader's item.
    pub leadership: Option<LeaderRecord>,
    /// How often the fleet table was read.
    pub reads: u64,
}

impl FleetView {
    /// What a read of the fleet table shows, with what was observed before.
    pub(super) fn new(fleet: Fleet, seen: &Heartbeats, lease_duration: Duration, reads: u64) -> Self {
        let workers = fleet
            .members
            .into_iter()
            .map(|member| ObservedWorker {
                is_alive: !seen.is_stale(&member.id, lease_duration),
                has_changed: seen.has_changed(&member.id),
                still_for: seen.still_for(&member.id).unwrap_or_default(),
                member,
            })
            .collect();
        Self { workers, leadership: fleet.leadership, reads }
    }

    /// A worker, if it is in the fleet table.
    pub fn worker(&self, id: &WorkerId) -> Option<&ObservedWorker> {
        self.workers.iter().find(|seen| seen.member.id == *id)
    }

    /// Whether a worker is in the fleet table and alive.
    pub fn is_alive(&self, id: &WorkerId) -> bool {
        self.worker(id).is_some_and(|seen| seen.is_alive)
    }

    /// The live workers.
    pub fn live(&self) -> impl Iterator<Item = &ObservedWorker> {
        self.workers.iter().filter(|seen| seen.is_alive)
    }

    /// The leader, if there is one and it is alive.
    pub fn leader(&self) -> Option<&WorkerId> {
        self.leadership.as_ref()?.worker.as_ref().filter(|leader| self.is_alive(leader))
    }
}

/// The heartbeats of all workers, by incarnation and count.
pub(super) type Heartbeats = Observations<WorkerId, (String, u64)>;
