//! The way out: leases are handed over or released, and no row is left in this worker's name.

use std::time::Duration;

use tokio::time::Instant;

use super::{LeaseManager, LeaseState};
use crate::aws::lease_table::BadRow;
use crate::consumer::{ConsumerCommand, DROP_LIMIT};
use crate::coordination::{Error, WorkerExit};
use crate::model::lease::Lease;

/// The time that consumers get to drop their calls. A call that blocks its thread cannot be dropped: its lease is left to
/// expire, since its consumer waits for longer before it releases it.
const ABORT_LIMIT: Duration = DROP_LIMIT.saturating_sub(Duration::from_millis(200));
/// The longest wait for the last look at the rows, and the time after which a table that refuses all calls is not waited for.
const LAST_SCAN_LIMIT: Duration = Duration::from_secs(2);

/// The progress of leaving.
pub(super) struct Leaving {
    pub(super) exit: Result<WorkerExit, Error>,
    since: Instant,
    /// Whether the leases are released, as nobody hands them over.
    pub(super) has_released: bool,
    pub(super) has_timed_out: bool,
    /// Since when nothing has been held here.
    empty_since: Option<Instant>,
    /// Whether a scan since then has shown no row in this worker's name: a leader may have assigned one just before it
    /// learned of the leave.
    is_clear: bool,
}

impl LeaseManager {
    pub(super) fn leave(&mut self, exit: Result<WorkerExit, Error>) {
        if self.leaving.is_some() {
            return;
        }
        let ending = exit.as_ref().map_or("failed", |exit| exit.as_str());
        tracing::info!(leases = self.running().count(), ending, "leaving the fleet");
        self.leaving = Some(Leaving {
            exit,
            since: Instant::now(),
            has_released: false,
            has_timed_out: false,
            empty_since: None,
            is_clear: false,
        });
        self.deps.record.update(|record| record.leaving = true);
        self.deps.telemetry.set_leaving();
        self.deps.record.publish();
        self.continue_leaving();
    }

    /// Leaves hand-offs to the leader, as long as there is one and another worker to take the leases.
    pub(super) fn continue_leaving(&mut self) {
        let Some(leaving) = &mut self.leaving else { return };
        let (has_taker, is_led) = {
            let view = self.view.borrow();
            (view.staying().any(|seen| seen.member.id != self.deps.me.worker), view.leader().is_some())
        };
        let waited = leaving.since.elapsed();
        let patience = self.deps.options.drain_timeout.min(self.deps.options.lease_duration * 2);
        let releases = !leaving.has_released && (leaving.exit.is_err() || !has_taker || !is_led || waited >= patience);
        let times_out = waited >= self.deps.options.drain_timeout && !leaving.has_timed_out;
        leaving.has_released |= releases;
        leaving.has_timed_out |= times_out;
        if releases {
            // Leases that are on their way to another worker are handed over; the others become unowned.
            for (_, running) in self.running().filter(|(_, running)| running.is_owned) {
                running.handle.command(ConsumerCommand::Release);
            }
        }
        if times_out {
            let mut undrained = Vec::new();
            for (shard, running) in self.running() {
                running.handle.command(ConsumerCommand::Surrender);
                undrained.push(shard.clone());
            }
            if !undrained.is_empty() {
                tracing::warn!(leases = undrained.len(), "processors did not finish in time, dropping their calls");
            }
            self.deps.telemetry.set_undrained(undrained);
        }
    }

    /// Notes whether this worker that leaves holds anything, and once it does not, looks at the rows once more.
    pub(super) fn note_emptiness(&mut self) {
        if self.leaving.is_none() {
            return;
        }
        let holds_nothing = self.holds_nothing();
        let Some(leaving) = &mut self.leaving else { return };
        if !holds_nothing {
            leaving.empty_since = None;
        } else if leaving.empty_since.is_none() {
            leaving.empty_since = Some(Instant::now());
            leaving.has_released = true; // what comes now is released at once
            self.wants_scan = !self.calls.scan();
        }
    }

    /// Whether no consumer runs, and no lease is on its way here that a read or a write of its row can still settle.
    pub(super) fn holds_nothing(&self) -> bool {
        let waits = self.leaving.as_ref().is_some_and(|leaving| !leaving.has_timed_out) && !self.is_cut_off();
        !self.leases.values().any(|known| match known.state {
            LeaseState::Running(_) => true,
            LeaseState::Pending | LeaseState::Writing | LeaseState::Lost { .. } => waits,
            _ => false,
        })
    }

    /// Whether the lease table refuses all calls.
    fn is_cut_off(&self) -> bool {
        let failing = self.deps.telemetry.lease_table().failing_for();
        failing.is_some_and(|(lasts, _)| lasts >= LAST_SCAN_LIMIT)
    }

    /// Notes whether rows read after this worker held nothing name it.
    pub(super) fn note_rows_left(&mut self, asked: Instant, rows: &[Result<Lease, BadRow>]) {
        let me = &self.deps.me.worker;
        if let Some(leaving) = &mut self.leaving
            && leaving.empty_since.is_some_and(|since| since <= asked)
        {
            leaving.is_clear = !rows.iter().flatten().any(|row| !row.is_finished() && row.holder() == Some(me));
        }
    }

    pub(super) fn has_left(&self) -> bool {
        let Some(leaving) = &self.leaving else { return false };
        if leaving.since.elapsed() >= self.deps.options.drain_timeout + ABORT_LIMIT {
            return true;
        }
        let has_looked = |since: Instant| leaving.is_clear || self.is_cut_off() || since.elapsed() >= LAST_SCAN_LIMIT;
        leaving.empty_since.is_some_and(has_looked) && self.holds_nothing()
    }
}
