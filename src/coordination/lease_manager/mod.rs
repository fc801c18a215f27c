//! The leases of this worker: each row says whether its consumer is to run, hand over or stop.

mod lease_metrics;
mod stuck;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::lease_metrics::{begun_because, note_acquired, note_left};
use super::heartbeat::hint;
use super::overload_monitor::OverloadMonitor;
use super::watchdog::Watchdog;
use super::{Deps, Error, Notice, WorkerExit};
use crate::aws::TableError;
use crate::aws::lease_table::{BadRow, Outcome};
use crate::consumer::{ConsumerCommand, ConsumerExit, ConsumerHandle};
use crate::error::Refusals;
use crate::model::fleet_view::FleetView;
use crate::model::lag::Stage;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::worker_record::{Hints, LONG_CALL, digest};
use crate::telemetry::Loop;

/// The most blocked records that a heartbeat names.
const MOST_BLOCKED: usize = 20;

/// The interval at which rows are read that are on their way to this worker.
const PENDING_TICK: Duration = Duration::from_millis(100);
/// The interval of everything else.
const TICK: Duration = Duration::from_millis(250);
/// The time that consumers get to drop their calls: a call that blocks its thread cannot be dropped.
const ABORT_LIMIT: Duration = Duration::from_secs(1);
/// The wait before a lost lease's row is read: it may still be ours, after a pause.
const RECHECK_WAIT: Duration = Duration::from_millis(500);

/// Starts and stops the consumers of one worker as its leases come and go.
pub(super) struct LeaseManager {
    deps: Deps,
    view: watch::Receiver<FleetView>,
    notices: mpsc::UnboundedReceiver<Notice>,
    exits: mpsc::UnboundedReceiver<(ShardId, ConsumerExit)>,
    exit_sender: mpsc::UnboundedSender<(ShardId, ConsumerExit)>,
    running: BTreeMap<ShardId, Running>,
    /// The counters of the rows that this worker's consumers wrote last: a row with a lower one is out of date.
    left: BTreeMap<ShardId, u64>,
    /// Leases on their way to this worker.
    pending: BTreeSet<ShardId>,
    /// Rows to read again, and when.
    rechecks: BTreeMap<ShardId, Instant>,
    /// Rows that cannot be read, with the reasons, each logged once.
    bad: BTreeMap<ShardId, String>,
    /// Hints to other workers that are being sent.
    hints: JoinSet<()>,
    /// Whether the next tick reads all rows.
    wants_scan: bool,
    leaving: Option<Leaving>,
    /// The error that the worker leaves for.
    failure: Option<Error>,
    refusals: Refusals,
    overload_monitor: OverloadMonitor,
    watchdog: Watchdog,
    rng: Rng,
}

struct Running {
    handle: ConsumerHandle,
    /// Whether the row names this worker as its owner (and not as the one who hands over).
    is_owned: bool,
    /// When this worker learned that the lease goes to another.
    moving_since: Option<Instant>,
}

/// The progress of leaving.
struct Leaving {
    exit: WorkerExit,
    since: Instant,
    has_released: bool,
    has_timed_out: bool,
}

impl LeaseManager {
    pub(super) fn new(
        deps: Deps,
        view: watch::Receiver<FleetView>,
        notices: mpsc::UnboundedReceiver<Notice>,
        rng: Rng,
    ) -> Self {
        let (exit_sender, exits) = mpsc::unbounded_channel();
        let watchdog = Watchdog::new(deps.options.stuck_after);
        Self {
            deps,
            view,
            notices,
            exits,
            exit_sender,
            running: BTreeMap::new(),
            left: BTreeMap::new(),
            pending: BTreeSet::new(),
            rechecks: BTreeMap::new(),
            bad: BTreeMap::new(),
            hints: JoinSet::new(),
            wants_scan: true,
            leaving: None,
            failure: None,
            refusals: Refusals::default(),
            overload_monitor: OverloadMonitor::new(),
            watchdog,
            rng,
        }
    }

    /// Holds leases until `stop` says otherwise or the work is done, and returns once all are handed over.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<WorkerExit, Error> {
        let mut next_tick = Instant::now();
        loop {
            self.deps.telemetry.loop_tick(Loop::LeaseManager, next_tick);
            let outcome = tokio::select! {
                biased;
                () = asked_to_stop(&mut stop), if self.leaving.is_none() => {
                    self.leave(WorkerExit::Stopped);
                    Ok(())
                }
                Some((key, exit)) = self.exits.recv() => self.on_exit(key, exit).await,
                Some(notice) = self.notices.recv() => self.on_notice(notice).await,
                Some(_) = self.hints.join_next() => Ok(()),
                () = tokio::time::sleep_until(next_tick) => {
                    let outcome = self.tick().await;
                    let tick = if self.pending.is_empty() { TICK } else { PENDING_TICK };
                    next_tick = Instant::now() + tick;
                    outcome
                }
            };
            if let Err(error) = outcome {
                self.fail(error)?;
            }
            if !self.pending.is_empty() {
                next_tick = next_tick.min(Instant::now() + PENDING_TICK);
            }
            if let Some(exit) = self.has_left() {
                while self.hints.join_next().await.is_some() {}
                return self.failure.map_or(Ok(exit), Err);
            }
        }
    }

    async fn on_notice(&mut self, notice: Notice) -> Result<(), Error> {
        match notice {
            Notice::LeasesChanged(hints) if hints.everything => self.wants_scan = true,
            Notice::LeasesChanged(hints) => self.read(&hints.keys).await?,
            Notice::Expired => {
                for running in self.running.values() {
                    running.handle.command(ConsumerCommand::Abort);
                }
                self.wants_scan = true;
            }
            Notice::StreamEnded => self.leave(WorkerExit::StreamEnded),
            Notice::Failed(error) => return Err(error),
        }
        Ok(())
    }

    async fn tick(&mut self) -> Result<(), Error> {
        if self.wants_scan {
            self.scan().await?;
        }
        let now = Instant::now();
        let mut due: BTreeSet<ShardId> =
            self.rechecks.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        self.rechecks.retain(|key, _| !due.contains(key));
        due.extend(self.pending.iter().cloned());
        if !due.is_empty() {
            self.read(&due).await?;
        }
        self.release_hung().await?;
        self.update_record();
        if self.leaving.is_some() {
            self.continue_leaving();
        } else if self.deps.options.until_caught_up && self.is_caught_up().await? {
            self.leave(WorkerExit::CaughtUp);
        }
        Ok(())
    }

    /// Reads all rows, takes back what is ours, and stops what is not.
    async fn scan(&mut self) -> Result<(), Error> {
        let rows = match self.deps.leases.scan().await {
            Ok(rows) => rows,
            Err(error) => return self.pass(error, "reading the lease table"),
        };
        self.wants_scan = false;
        let mut seen = BTreeSet::new();
        for row in rows {
            let Some(row) = self.readable(row) else { continue };
            seen.insert(row.key.clone());
            let is_mine = row.owner.as_ref() == Some(&self.deps.me.worker);
            let is_held = row.holder() == Some(&self.deps.me.worker) && !row.is_finished();
            if is_held && !self.running.contains_key(&row.key) && !self.watchdog.is_stuck(&row.key) {
                // Ours by id, from before a restart or a pause: raising the counter fences writers of that time. A
                // hand-off that was under way is over: no consumer holds anything back.
                let owner = row.owner.clone().unwrap_or_else(|| self.deps.me.worker.clone());
                match self.deps.leases.apply(&row.assign(&owner)).await {
                    Ok(Outcome::Applied(row)) if is_mine => self.start(row, "returned"),
                    Ok(Outcome::Applied(row)) => self.hint(&owner, hint(&row.key)),
                    Ok(Outcome::Conflict(_)) => self.recheck(row.key.clone()),
                    Err(error) => {
                        self.pass(error, "taking back a lease")?;
                        self.wants_scan = true;
                    }
                }
            } else {
                self.reconcile(row);
            }
        }
        for (key, running) in &self.running {
            if !seen.contains(key) && !self.bad.contains_key(key) {
                running.handle.command(ConsumerCommand::Abort);
            }
        }
        self.left.retain(|key, _| seen.contains(key));
        Ok(())
    }

    async fn read(&mut self, keys: &BTreeSet<ShardId>) -> Result<(), Error> {
        match self.deps.leases.read_many(keys).await {
            Ok(rows) => {
                let mut gone = keys.clone();
                for row in rows {
                    if let Some(row) = self.readable(row) {
                        gone.remove(&row.key);
                        self.reconcile(row);
                    }
                }
                self.pending.retain(|key| !gone.contains(key));
                Ok(())
            }
            Err(error) => {
                keys.iter().for_each(|key| self.recheck(key.clone()));
                self.pass(error, "reading leases")
            }
        }
    }

    /// Does what a row asks for, unless a consumer of ours has written a later one since it was read.
    fn reconcile(&mut self, row: Lease) {
        if self.left.get(&row.key).is_some_and(|left| row.counter < *left) {
            return;
        }
        let me = &self.deps.me.worker;
        let (is_owner, is_holder) = (row.owner.as_ref() == Some(me), row.holder() == Some(me));
        let running = self.running.get_mut(&row.key);
        if row.is_finished() {
            self.pending.remove(&row.key);
        } else if is_owner && is_holder {
            self.pending.remove(&row.key);
            match running {
                Some(running) => {
                    running.handle.recheck_parents();
                    self.watchdog.note_owned(&row.key);
                }
                None if self.watchdog.is_stuck(&row.key) => self.watchdog.note_owned(&row.key),
                None => {
                    let reason = begun_because(&row);
                    self.start(row, reason);
                }
            }
        } else if is_owner {
            self.pending.insert(row.key);
        } else {
            self.pending.remove(&row.key);
            if let Some(running) = running {
                running.is_owned = false;
                running.moving_since.get_or_insert_with(Instant::now);
                running.handle.command(if is_holder { ConsumerCommand::HandOff } else { ConsumerCommand::Abort });
            } else if is_holder {
                self.wants_scan = true; // held by a consumer that has ended: the scan passes it on
            }
        }
    }

    fn start(&mut self, row: Lease, reason: &'static str) {
        tracing::info!(shard = %row.key, checkpoint = %row.checkpoint, reason, "lease taken");
        let key = row.key.clone();
        note_acquired(reason);
        let handle = self.deps.spawner.start(row, self.rng.fork(), self.exit_sender.clone());
        if self.leaving.as_ref().is_some_and(|leaving| leaving.has_released) {
            handle.command(ConsumerCommand::Release);
        }
        self.deps.telemetry.begin(key.clone(), Arc::clone(&handle.status));
        self.running.insert(key, Running { handle, is_owned: true, moving_since: None });
    }

    async fn on_exit(&mut self, key: ShardId, exit: ConsumerExit) -> Result<(), Error> {
        let ended = self.running.remove(&key);
        self.deps.telemetry.end(&key);
        let was_stuck = self.watchdog.note_ended(&key);
        note_left(&exit, was_stuck, ended.as_ref().and_then(|ended| ended.moving_since));
        match exit {
            ConsumerExit::Ended { row, children } => {
                self.left.insert(key, row.counter);
                let ids = row.children.clone();
                self.on_ended(row, children).await?;
                self.note_children_begun(ended, &ids);
                Ok(())
            }
            ConsumerExit::Released(row) => {
                self.left.insert(key.clone(), row.counter);
                match &row.owner {
                    Some(owner) => {
                        tracing::info!(shard = %key, to = %owner, "lease handed over");
                        self.hint(&owner.clone(), hint(&key));
                    }
                    None => tracing::info!(shard = %key, "lease released"),
                }
                Ok(())
            }
            ConsumerExit::LeaseLost => {
                tracing::warn!(shard = %key, "lease lost");
                self.recheck(key);
                Ok(())
            }
            ConsumerExit::Failed(failure) => Err(failure.into()),
        }
    }

    /// Starts the children of a finished shard at once: here, or at their owner's.
    async fn on_ended(&mut self, row: Lease, children: Vec<Lease>) -> Result<(), Error> {
        tracing::info!(shard = %row.key, children = row.children.len(), "shard finished");
        let owner = row.owner.clone().filter(|owner| *owner != self.deps.me.worker);
        let others = other_children(&row, &children);
        match owner {
            None => children.into_iter().for_each(|child| self.reconcile(child)),
            Some(owner) => {
                let keys = children.into_iter().map(|child| child.key).collect();
                self.hint(&owner, Hints { keys, everything: false });
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        // Children that had an owner before: it waits for this end.
        match self.deps.leases.read_many(&others).await {
            Ok(rows) => {
                for child in rows.into_iter().flatten() {
                    match child.owner.clone() {
                        Some(owner) if owner != self.deps.me.worker => self.hint(&owner, hint(&child.key)),
                        _ => self.reconcile(child),
                    }
                }
                Ok(())
            }
            Err(error) => self.pass(error, "reading the children's leases"),
        }
    }

    /// Logs an error whose call a later tick repeats; passes one on that ends the worker.
    fn pass(&self, error: TableError, what: &'static str) -> Result<(), Error> {
        if self.refusals.allow(&error) {
            tracing::debug!(%error, what, "failed, retrying");
            return Ok(());
        }
        Err(error.into())
    }

    fn hint(&mut self, worker: &WorkerId, hints: Hints) {
        let (fleet, worker) = (self.deps.fleet.clone(), worker.clone());
        self.hints.spawn(async move {
            if let Err(error) = fleet.hint(&worker, &hints).await {
                tracing::debug!(%worker, %error, "a hint was lost");
            }
        });
    }

    fn recheck(&mut self, key: ShardId) {
        self.rechecks.insert(key, Instant::now() + RECHECK_WAIT);
    }

    fn readable(&mut self, row: Result<Lease, BadRow>) -> Option<Lease> {
        match row {
            Ok(row) => {
                if self.bad.remove(&row.key).is_some() {
                    tracing::info!(shard = %row.key, "the lease can be read again");
                }
                Some(row)
            }
            Err(bad) => {
                if self.bad.get(&bad.key) != Some(&bad.reason) {
                    tracing::error!(shard = %bad.key, reason = bad.reason, "the lease cannot be read; its shard waits");
                    self.bad.insert(bad.key, bad.reason);
                }
                None
            }
        }
    }

    /// Updates the record that the next heartbeat shows: this worker's leases and its progress.
    fn update_record(&mut self) {
        let owned: BTreeSet<&ShardId> = self
            .running
            .iter()
            .filter(|(_, running)| running.is_owned)
            .map(|(key, _)| key)
            .chain(&self.pending)
            .collect();
        let caught_up_to_ms = self.caught_up_to_ms();
        let since = [Stage::Processed, Stage::Checkpointed].map(|stage| self.deps.telemetry.waiting_since_ms(stage));
        let [unprocessed_since_ms, unsaved_since_ms] = since;
        let overloaded =
            self.overload_monitor.sample(self.running.iter().map(|(key, running)| (key, &*running.handle.status)));
        let stuck = self.watchdog.stuck();
        let blocked =
            self.running.iter().filter_map(|(key, held)| Some((key.clone(), held.handle.status.blocked_record()?)));
        let blocked = blocked.take(MOST_BLOCKED).collect();
        let long_call = LONG_CALL.min(self.deps.options.unready_after);
        let calls =
            self.running.iter().filter_map(|(key, held)| Some((key.clone(), held.handle.status.long_call(long_call)?)));
        let calls = calls.take(MOST_BLOCKED).collect();
        let (leases, digest) = (owned.len() as u64, digest(owned));
        let kbps = self.deps.telemetry.kbps();
        self.deps.record.update(|record| {
            record.leases = leases;
            record.digest = digest;
            record.caught_up_to_ms = caught_up_to_ms;
            record.unprocessed_since_ms = unprocessed_since_ms;
            record.unsaved_since_ms = unsaved_since_ms;
            record.kbps = kbps;
            record.overloaded = overloaded;
            record.stuck = stuck;
            record.blocked = blocked;
            record.calls = calls;
        });
    }

    /// The moment before which everything in this worker's shards is delivered and checkpointed, if it is known.
    fn caught_up_to_ms(&self) -> Option<u64> {
        if !self.pending.is_empty() {
            return None;
        }
        let is_read = |key: &ShardId, running: &Running| {
            !running.handle.status.is_blocked_on_parent() && !self.watchdog.is_stuck(key)
        };
        let reading = self.running.iter().filter(|(key, running)| is_read(key, running));
        let oldest = reading.map(|(_, running)| running.handle.status.caught_up_to_ms()).min();
        match oldest {
            Some(0) => None,
            oldest => oldest.or(Some(u64::MAX)),
        }
    }

    /// Whether all workers together have delivered and checkpointed everything that was in the stream when this worker
    /// started.
    async fn is_caught_up(&mut self) -> Result<bool, Error> {
        let started = self.deps.me.started_ms.next_multiple_of(1000); // records' times are whole seconds
        let is_past = |moment: Option<u64>| moment.is_some_and(|moment| moment >= started);
        let view = self.view.borrow().clone();
        if !view.initial_sync_done() || self.wants_scan || !is_past(self.caught_up_to_ms()) {
            return Ok(false);
        }
        let rows = match self.deps.leases.scan().await {
            Ok(rows) => rows,
            Err(error) => return self.pass(error, "reading the lease table").map(|()| false),
        };
        if rows.iter().any(Result::is_err) {
            return Ok(false);
        }
        let rows: BTreeMap<ShardId, Lease> = rows.into_iter().flatten().map(|row| (row.key.clone(), row)).collect();
        let reading = rows.values().filter(|row| {
            !row.is_finished() && crate::model::shard_graph::unfinished_parents(row, &rows).next().is_none()
        });
        for row in reading {
            let is_done = match row.owner.as_ref() {
                Some(owner) if *owner == self.deps.me.worker => self.running.contains_key(&row.key),
                Some(owner) => {
                    let owned = rows.values().filter(|row| row.owner.as_ref() == Some(owner) && !row.is_finished());
                    let owned = digest(owned.map(|row| &row.key));
                    let seen = view.worker(owner).filter(|seen| seen.is_alive).map(|seen| &seen.member.record);
                    seen.is_some_and(|record| record.digest == owned && is_past(record.caught_up_to_ms))
                }
                None => false,
            };
            if !is_done || row.is_handed_over() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Leaves for an error, with a drain unless nothing may be written any more.
    fn fail(&mut self, error: Error) -> Result<(), Error> {
        if !error.allows_drain() {
            return Err(error);
        }
        self.failure.get_or_insert(error);
        self.leave(WorkerExit::Stopped);
        Ok(())
    }

    fn leave(&mut self, exit: WorkerExit) {
        if self.leaving.is_some() {
            return;
        }
        tracing::info!(leases = self.running.len(), ending = exit.as_str(), "leaving the fleet");
        self.leaving = Some(Leaving { exit, since: Instant::now(), has_released: false, has_timed_out: false });
        self.deps.record.update(|record| record.leaving = true);
        self.deps.telemetry.set_leaving();
        self.deps.record.publish();
        self.continue_leaving();
    }

    /// Leaves hand-offs to the leader, as long as there is one and another worker to take the leases.
    fn continue_leaving(&mut self) {
        let view = self.view.borrow().clone();
        let Some(leaving) = &mut self.leaving else { return };
        let has_taker = view.staying().any(|seen| seen.member.id != self.deps.me.worker);
        let is_led = view.leader().is_some();
        let waited = leaving.since.elapsed();
        let patience = self.deps.options.drain_timeout.min(self.deps.options.lease_duration * 2);
        if !leaving.has_released && (!has_taker || !is_led || waited >= patience || self.failure.is_some()) {
            leaving.has_released = true;
            // Leases that are on their way to another worker are handed over; the others become unowned.
            for running in self.running.values().filter(|running| running.is_owned) {
                running.handle.command(ConsumerCommand::Release);
            }
        }
        if waited >= self.deps.options.drain_timeout && !leaving.has_timed_out {
            leaving.has_timed_out = true;
            for running in self.running.values() {
                running.handle.command(ConsumerCommand::Abort);
            }
            tracing::warn!(
                leases = self.running.len(),
                "processors did not finish in time; their leases are left to expire"
            );
        }
    }

    fn has_left(&self) -> Option<WorkerExit> {
        let leaving = self.leaving.as_ref()?;
        let has_nothing = self.running.is_empty() && (self.pending.is_empty() || leaving.has_timed_out);
        let limit = self.deps.options.drain_timeout + ABORT_LIMIT;
        (has_nothing || leaving.since.elapsed() >= limit).then_some(leaving.exit)
    }
}

/// Resolves when the worker is to stop, or when its owner has dropped the other end.
async fn asked_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The children of a finished row that are not among `known`.
fn other_children(row: &Lease, known: &[Lease]) -> BTreeSet<ShardId> {
    row.children.iter().filter(|child| !known.iter().any(|lease| lease.key == **child)).cloned().collect()
}
