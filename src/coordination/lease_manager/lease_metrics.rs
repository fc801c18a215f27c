//! Counts of leases that come and go.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{LeaseManager, Running};
use crate::consumer::ConsumerExit;
use crate::model::lease::{Lease, ShardId};
use crate::telemetry::catalogue;

impl LeaseManager {
    /// Records how soon the children of a finished shard were begun, as far as this worker reads them.
    pub(super) fn note_children_begun(&self, parent: &Running, children: &BTreeSet<ShardId>) {
        let Some(ended_for) = parent.handle.status.ended_for() else { return };
        for _ in children.iter().filter(|child| self.is_running(child)) {
            catalogue::CHILD_START_SECONDS.record([], ended_for.as_secs_f64());
        }
    }
}

/// Counts a lease that this worker begins to read.
pub(super) fn note_acquired(reason: &'static str) {
    catalogue::LEASES_ACQUIRED.inc([reason]);
}

/// The reason why a lease comes to this worker: a value of the label `reason`.
pub(super) fn begun_because(row: &Lease) -> &'static str {
    match row.counter {
        0 if row.parents.is_empty() => "new",
        0 => "child",
        _ => "assigned",
    }
}

/// Counts the end of a consumer, whose lease was to go to another worker since `moving_since`.
pub(super) fn note_left(exit: &ConsumerExit, was_stuck: bool, moving_since: Option<Instant>) {
    let reason = match exit {
        ConsumerExit::Ended { .. } => {
            catalogue::SHARDS_FINISHED.inc([]);
            return;
        }
        ConsumerExit::Failed(_) => return,
        _ if was_stuck => "stuck",
        ConsumerExit::Released(row) if row.owner.is_some() => "handed_over",
        ConsumerExit::Released(_) => "released",
        ConsumerExit::LeaseLost => "taken",
    };
    catalogue::LEASES_LOST.inc([reason]);
    if let Some(since) = moving_since.filter(|_| reason == "handed_over") {
        catalogue::HAND_OFF_SECONDS.record([], since.elapsed().as_secs_f64());
    }
}
