//! What a keeper puts on the board, and counts.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{LeaseManager, Running, pass};
use crate::consumer::ConsumerExit;
use crate::coordination::Error;
use crate::model::lease::{Lease, ShardId};
use crate::telemetry::FleetFigures;
use crate::telemetry::catalogue;

/// How often the board is looked after.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often gauges are set for recorders that are not asked before they show them.
const DRAWN_EVERY: u64 = 5;

impl LeaseManager {
    /// Puts up what this worker sees of its fleet.
    pub(super) fn post(&mut self, owned: usize, is_overloaded: bool) {
        if self.posted.elapsed() < INTERVAL {
            return;
        }
        self.posted = Instant::now();
        self.posts += 1;
        let figures = {
            let view = self.view.borrow();
            let staying = view.live().filter(|seen| !seen.member.record.leaving).count();
            let leases: u64 = view.live().map(|seen| seen.member.record.leases).sum();
            #[expect(clippy::cast_precision_loss, reason = "counts of leases and workers")]
            let fair_share = leases as f64 / staying.max(1) as f64;
            FleetFigures {
                leases_held: owned,
                fair_share,
                workers_alive: view.live().count(),
                is_leader: view.leader() == Some(&self.me.worker),
                is_overloaded,
            }
        };
        self.board.set_fleet(figures);
        self.board.log_changes();
        if self.posts % DRAWN_EVERY == 1 {
            self.board.draw();
        }
    }

    /// ReaderEvents out whether the lease table answers, as somebody wants to know: its client notes it.
    pub(super) async fn probe(&mut self) -> Result<(), Error> {
        let key = self.running.keys().next().cloned().unwrap_or_else(|| ShardId::from("-"));
        match self.leases.read(&key).await {
            Ok(_) => Ok(()),
            Err(error) => pass(error, "asking whether the lease table answers"),
        }
    }

    /// The children of a shard that was read to its end, as far as they are read here.
    pub(super) fn note_children_begun(&self, parent: Option<Running>, children: &BTreeSet<ShardId>) {
        let Some(ended_for) = parent.and_then(|parent| parent.handle.status.ended_for()) else { return };
        for _ in children.iter().filter(|child| self.running.contains_key(*child)) {
            catalogue::CHILD_START_SECONDS.record([], ended_for.as_secs_f64());
        }
    }
}

/// Counts a lease that this worker begins to read.
pub(super) fn note_acquired(reason: &'static str) {
    catalogue::LEASES_ACQUIRED.inc([reason]);
}

/// Why a lease comes to this worker: a value of the label `reason`.
pub(super) fn begun_because(row: &Lease) -> &'static str {
    match row.counter {
        0 if row.parents.is_empty() => "new",
        0 => "child",
        _ => "assigned",
    }
}

/// Counts the end of a consumer, whose lease was to go to another since `told`.
pub(super) fn note_left(exit: &ConsumerExit, was_stuck: bool, told: Option<Instant>) {
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
    if let Some(told) = told.filter(|_| reason == "handed_over") {
        catalogue::HAND_OFF_SECONDS.record([], told.elapsed().as_secs_f64());
    }
}
