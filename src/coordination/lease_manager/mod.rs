//! The leases of this worker: each row says whether its consumer is to run, hand over or stop.
//!
//! All that the manager knows of a shard is one [`LeaseState`]. Its loop never waits for a table: reads and writes are
//! calls beside it, whose answers come in like any other event.

mod calls;
mod lease_metrics;
mod leaving;
mod progress;
mod stuck;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::calls::{Answer, Calls};
use self::lease_metrics::{begun_because, note_acquired, note_left};
use self::leaving::Leaving;
use super::heartbeat::hint;
use super::overload_monitor::OverloadMonitor;
use super::{Departure, Deps, Error, Notice, WorkerExit};
use crate::aws::lease_table::{BadRow, Outcome};
use crate::consumer::{ConsumerCommand, ConsumerExit, ConsumerHandle};
use crate::model::checkpoint::Checkpoint;
use crate::model::fleet_view::FleetView;
use crate::model::lease::{Lease, ShardId};
use crate::model::worker_record::Hints;
use crate::telemetry::Loop;

/// The interval at which rows are read that are on their way to this worker.
const PENDING_TICK: Duration = Duration::from_millis(100);
/// The interval of everything else.
const TICK: Duration = Duration::from_millis(250);
/// The wait before a lost lease's row is read: it may still be ours, after a pause.
const RECHECK_WAIT: Duration = Duration::from_millis(500);
/// The time for which the counter of a lease that this worker left is remembered. No read takes so long.
const LEFT_KEPT: Duration = Duration::from_secs(60);
/// The time for which a shard that hung on two workers is not moved again.
const HUNG_KEPT: Duration = Duration::from_secs(300);

/// Starts and stops the consumers of one worker as its leases come and go.
pub(super) struct LeaseManager {
    deps: Deps,
    view: watch::Receiver<FleetView>,
    notices: mpsc::UnboundedReceiver<Notice>,
    exits: mpsc::UnboundedReceiver<(ShardId, ConsumerExit)>,
    exit_sender: mpsc::UnboundedSender<(ShardId, ConsumerExit)>,
    leases: BTreeMap<ShardId, KnownLease>,
    /// The leases given away because their processor hung, since when, and with which checkpoint.
    given_away: BTreeMap<ShardId, (Instant, Checkpoint)>,
    calls: Calls,
    /// Whether the next tick reads all rows.
    wants_scan: bool,
    /// Whether leases may be on their way to this worker.
    has_pending: bool,
    leaving: Option<Leaving>,
    overload_monitor: OverloadMonitor,
    rng: Rng,
}

/// The manager's knowledge of one shard's lease.
struct KnownLease {
    /// The highest counter seen in its row: a row with a lower one is out of date.
    counter: u64,
    state: LeaseState,
}

enum LeaseState {
    /// The lease is on its way to this worker; another one still reads.
    Pending,
    /// The manager is writing the row, which no consumer holds.
    Writing,
    /// A consumer reads the shard.
    Running(Running),
    /// The consumer has lost the lease, or a write met another row: what happened is in the table.
    Lost { since: Instant },
    /// The consumer has left the lease.
    Left { since: Instant },
    /// The lease was released because its processor hung, and is not wanted back yet.
    Stuck { since: Instant },
    /// The row cannot be read; the reason was logged.
    Bad { reason: String },
}

struct Running {
    handle: ConsumerHandle,
    since: Instant,
    /// Whether the row names this worker as its owner (and not as the one who hands over).
    is_owned: bool,
    /// When this worker learned that the lease goes to another.
    moving_since: Option<Instant>,
    /// When the lease was last seen to be given away, here or elsewhere, because its processor hung at the same record.
    hung_elsewhere: Option<Instant>,
    /// The hang of its processor, as far as it was acted upon.
    hang: Hang,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hang {
    None,
    /// No other worker could take the lease; logged once.
    WithoutTaker,
    /// The consumer was told to surrender the lease.
    Surrendered,
}

impl LeaseManager {
    pub(super) fn new(
        deps: Deps,
        view: watch::Receiver<FleetView>,
        notices: mpsc::UnboundedReceiver<Notice>,
        mut rng: Rng,
    ) -> Self {
        let (exit_sender, exits) = mpsc::unbounded_channel();
        let calls = Calls::new(&deps, rng.fork());
        Self {
            deps,
            view,
            notices,
            exits,
            exit_sender,
            leases: BTreeMap::new(),
            given_away: BTreeMap::new(),
            calls,
            wants_scan: true,
            has_pending: false,
            leaving: None,
            overload_monitor: OverloadMonitor::new(),
            rng,
        }
    }

    /// Holds leases until `stop` says otherwise or the work is done, and returns once all are handed over.
    pub(super) async fn run(mut self, stop: watch::Receiver<bool>) -> Departure {
        match self.hold_leases(stop).await {
            Ok(()) => {
                let holds_nothing = self.running().next().is_none();
                let exit = self.leaving.map_or(Ok(WorkerExit::Stopped), |leaving| leaving.exit);
                Departure { exit, is_over: true, holds_nothing }
            }
            Err(error) => Departure { is_over: true, ..error.into() },
        }
    }

    async fn hold_leases(&mut self, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        let mut next_tick = Instant::now();
        loop {
            self.deps.telemetry.loop_tick(Loop::LeaseManager, next_tick);
            tokio::select! {
                biased;
                () = asked_to_stop(&mut stop), if self.leaving.is_none() => self.leave(Ok(WorkerExit::Stopped)),
                Some((key, exit)) = self.exits.recv() => self.on_exit(key, exit)?,
                Some(notice) = self.notices.recv() => self.on_notice(notice)?,
                answer = self.calls.next() => match answer {
                    Ok(answer) => self.on_answer(answer),
                    Err(error) => self.fail(error.into())?,
                },
                () = tokio::time::sleep_until(next_tick) => {
                    self.tick();
                    next_tick = Instant::now() + TICK;
                }
            }
            if self.has_pending {
                next_tick = next_tick.min(Instant::now() + PENDING_TICK);
            }
            self.note_emptiness();
            if self.has_left() {
                self.calls.hints_sent().await;
                return Ok(());
            }
        }
    }

    fn on_notice(&mut self, notice: Notice) -> Result<(), Error> {
        match notice {
            Notice::LeasesChanged(hints) if hints.everything => self.wants_scan = true,
            Notice::LeasesChanged(hints) => self.calls.read(hints.keys),
            Notice::Expired => {
                for (_, running) in self.running() {
                    running.handle.command(ConsumerCommand::Abort);
                }
                self.wants_scan = true;
            }
            Notice::StreamEnded => self.leave(Ok(WorkerExit::StreamEnded)),
            Notice::Failed(error) => self.fail(error)?,
        }
        Ok(())
    }

    /// Leaves for an error, with a drain unless nothing may be written any more.
    fn fail(&mut self, error: Error) -> Result<(), Error> {
        if !error.allows_drain() {
            return Err(error);
        }
        self.leave(Err(error));
        Ok(())
    }

    fn tick(&mut self) {
        self.wants_scan |= self.leaving.is_some() && self.holds_nothing();
        self.wants_scan |= self.leaving.is_none() && self.deps.options.until_caught_up && self.is_caught_up_itself();
        if self.wants_scan && self.calls.scan() {
            self.wants_scan = false;
        }
        self.forget_old();
        self.release_hung();
        self.update_record();
        self.continue_leaving();
        self.poll();
    }

    /// Reads the rows of leases that are on their way here, or that may still be ours.
    fn poll(&mut self) {
        self.has_pending = self.leases.values().any(|known| matches!(known.state, LeaseState::Pending));
        let is_due = |known: &KnownLease| match known.state {
            LeaseState::Pending => true,
            LeaseState::Lost { since } => since.elapsed() >= RECHECK_WAIT,
            _ => false,
        };
        let due: BTreeSet<ShardId> =
            self.leases.iter().filter(|(_, known)| is_due(known)).map(|(key, _)| key.clone()).collect();
        if !due.is_empty() {
            self.calls.poll(due);
        }
    }

    fn forget_old(&mut self) {
        let stuck_for = self.deps.options.stuck_after.unwrap_or_default();
        self.leases.retain(|_, known| match known.state {
            LeaseState::Left { since } => since.elapsed() < LEFT_KEPT,
            LeaseState::Stuck { since } => since.elapsed() < stuck_for,
            _ => true,
        });
        self.given_away.retain(|_, (since, _)| since.elapsed() < HUNG_KEPT);
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Rows { keys, rows, are_children } => self.take_rows(keys, rows, are_children),
            Answer::All { asked, rows } => self.take_all(asked, rows),
            Answer::Written { key, outcome } => self.take_written(key, outcome),
        }
    }

    fn take_rows(&mut self, keys: BTreeSet<ShardId>, rows: Vec<Result<Lease, BadRow>>, are_children: bool) {
        let mut gone = keys;
        for row in rows {
            gone.remove(row.as_ref().map_or_else(|bad| &bad.key, |row| &row.key));
            let Some(row) = self.readable(row) else { continue };
            match row.owner.clone().filter(|owner| are_children && *owner != self.deps.me.worker) {
                Some(owner) => self.calls.hint(&owner, hint(&row.key)), // it waits for the parent's end
                None => self.reconcile(row, false),
            }
        }
        for key in gone {
            if self.leases.get(&key).is_some_and(|known| !matches!(known.state, LeaseState::Running(_))) {
                self.leases.remove(&key);
            }
        }
    }

    /// Takes back what is ours of all rows, and stops what is not.
    fn take_all(&mut self, asked: Instant, rows: Vec<Result<Lease, BadRow>>) {
        let seen: BTreeSet<ShardId> =
            rows.iter().map(|row| row.as_ref().map_or_else(|bad| &bad.key, |row| &row.key).clone()).collect();
        let is_caught_up = self.deps.options.until_caught_up && self.leaving.is_none() && self.is_caught_up(&rows);
        self.note_rows_left(asked, &rows);
        for row in rows {
            if let Some(row) = self.readable(row) {
                self.reconcile(row, true);
            }
        }
        self.leases.retain(|key, known| match &known.state {
            LeaseState::Running(running) if running.since < asked && !seen.contains(key) => {
                running.handle.command(ConsumerCommand::Abort);
                true
            }
            LeaseState::Running(_) | LeaseState::Writing | LeaseState::Stuck { .. } => true,
            _ => seen.contains(key),
        });
        if is_caught_up {
            self.leave(Ok(WorkerExit::CaughtUp));
        }
    }

    fn take_written(&mut self, key: ShardId, outcome: Outcome) {
        let Some(known) = self.leases.get_mut(&key) else { return };
        let row = match outcome {
            Outcome::Applied(row) => row,
            Outcome::Conflict(found) => {
                if matches!(known.state, LeaseState::Writing) {
                    known.state = LeaseState::Lost { since: Instant::now() };
                }
                return if found.is_none() {
                    drop(self.leases.remove(&key))
                };
            }
        };
        known.counter = known.counter.max(row.counter);
        if matches!(known.state, LeaseState::Writing) {
            known.state = LeaseState::Left { since: Instant::now() };
        }
        match row.owner.clone() {
            Some(owner) if owner != self.deps.me.worker => self.calls.hint(&owner, hint(&key)),
            Some(_) => self.begin(row, "returned"),
            None => tracing::info!(shard = %key, "lease released"),
        }
    }

    /// Does what a row asks for. A row of ours that a scan `returns` is from before a restart or a pause.
    fn reconcile(&mut self, row: Lease, returns: bool) {
        let me = self.deps.me.worker.clone();
        let (is_owner, is_holder) = (row.owner.as_ref() == Some(&me), row.holder() == Some(&me));
        if let Some(known) = self.leases.get_mut(&row.key) {
            if row.counter < known.counter {
                return;
            }
            known.counter = row.counter;
            match &mut known.state {
                LeaseState::Writing => return,
                LeaseState::Running(running) => return running.follow(&row, is_owner, is_holder),
                LeaseState::Stuck { .. } if !row.is_finished() => {
                    return if is_holder {
                        self.vacate(&row)
                    };
                }
                _ => {}
            }
        }
        if row.is_finished() || !(is_owner || is_holder) {
            if matches!(self.leases.get(&row.key), Some(KnownLease { state, .. }) if !matches!(state, LeaseState::Left { .. }))
            {
                self.leases.remove(&row.key);
            }
        } else if !is_holder {
            self.has_pending = true;
            self.set(&row, LeaseState::Pending);
        } else if !is_owner || self.leaving.as_ref().is_some_and(|leaving| leaving.has_released) {
            self.set(&row, LeaseState::Writing);
            self.vacate(&row);
        } else if returns {
            // The higher counter fences writers of that time.
            self.calls.write(row.assign(&me));
            self.set(&row, LeaseState::Writing);
        } else {
            let reason = begun_because(&row);
            self.begin(row, reason);
        }
    }

    /// Lets go of a row that this worker holds without a consumer.
    fn vacate(&mut self, row: &Lease) {
        let (me, checkpoint) = (&self.deps.me.worker, row.checkpoint.clone());
        let vacated = if row.is_handed_over() { row.transfer(me, checkpoint) } else { row.release(me, checkpoint) };
        match vacated {
            Ok(transition) => self.calls.write(transition),
            Err(error) => tracing::debug!(%error, "lease not released"),
        }
    }

    fn set(&mut self, row: &Lease, state: LeaseState) {
        self.leases.insert(row.key.clone(), KnownLease { counter: row.counter, state });
    }

    fn begin(&mut self, row: Lease, reason: &'static str) {
        if self.leaving.as_ref().is_some_and(|leaving| leaving.has_released) {
            self.set(&row, LeaseState::Writing);
            return self.vacate(&row);
        }
        tracing::info!(shard = %row.key, checkpoint = %row.checkpoint, reason, "lease taken");
        note_acquired(reason);
        let (key, counter) = (row.key.clone(), row.counter);
        // Without progress, the processor of the worker between hung as well.
        let hung_elsewhere = self.given_away.get(&key).filter(|(_, at)| *at == row.checkpoint).map(|(since, _)| *since);
        let handle = self.deps.spawner.start(row, self.rng.fork(), self.exit_sender.clone());
        self.deps.telemetry.begin(key.clone(), Arc::clone(&handle.status));
        let running = Running {
            handle,
            since: Instant::now(),
            is_owned: true,
            moving_since: None,
            hung_elsewhere,
            hang: Hang::None,
        };
        self.leases.insert(key, KnownLease { counter, state: LeaseState::Running(running) });
    }

    fn running(&self) -> impl Iterator<Item = (&ShardId, &Running)> {
        self.leases.iter().filter_map(|(key, known)| match &known.state {
            LeaseState::Running(running) => Some((key, running)),
            _ => None,
        })
    }

    fn is_running(&self, key: &ShardId) -> bool {
        matches!(self.leases.get(key), Some(KnownLease { state: LeaseState::Running(_), .. }))
    }

    fn on_exit(&mut self, key: ShardId, exit: ConsumerExit) -> Result<(), Error> {
        self.deps.telemetry.end(&key);
        let Some(KnownLease { counter, state: LeaseState::Running(ended) }) = self.leases.remove(&key) else {
            return Ok(());
        };
        let is_stuck = ended.hang == Hang::Surrendered;
        note_left(&exit, is_stuck, ended.moving_since);
        let since = Instant::now();
        let (counter, state) = match &exit {
            ConsumerExit::Ended { row, .. } => (row.counter, LeaseState::Left { since }),
            ConsumerExit::Released(row) if !is_stuck => (row.counter, LeaseState::Left { since }),
            ConsumerExit::Released(row) => {
                self.given_away.insert(key.clone(), (since, row.checkpoint.clone()));
                (row.counter, LeaseState::Stuck { since })
            }
            ConsumerExit::LeaseLost if is_stuck => (counter, LeaseState::Stuck { since }),
            ConsumerExit::LeaseLost => (counter, LeaseState::Lost { since }),
            ConsumerExit::Failed(failure) => return self.fail(failure.clone().into()),
        };
        self.leases.insert(key.clone(), KnownLease { counter, state });
        match exit {
            ConsumerExit::Ended { row, children } => {
                let ids = row.children.clone();
                self.on_ended(row, children);
                self.note_children_begun(&ended, &ids);
            }
            ConsumerExit::Released(row) => match &row.owner {
                Some(owner) => {
                    tracing::info!(shard = %key, to = %owner, "lease handed over");
                    self.calls.hint(owner, hint(&key));
                }
                None => tracing::info!(shard = %key, "lease released"),
            },
            _ => tracing::warn!(shard = %key, "lease lost"),
        }
        Ok(())
    }

    /// Starts the children of a finished shard at once: here, or at their owner's.
    fn on_ended(&mut self, row: Lease, children: Vec<Lease>) {
        tracing::info!(shard = %row.key, children = row.children.len(), "shard finished");
        let owner = row.owner.clone().filter(|owner| *owner != self.deps.me.worker);
        let mut others = row.children;
        others.retain(|other| children.iter().all(|child| child.key != *other));
        match owner {
            None => children.into_iter().for_each(|child| self.reconcile(child, false)),
            Some(owner) => {
                let keys = children.into_iter().map(|child| child.key).collect();
                self.calls.hint(&owner, Hints { keys, everything: false });
            }
        }
        if !others.is_empty() {
            self.calls.read_children(others);
        }
    }

    fn readable(&mut self, row: Result<Lease, BadRow>) -> Option<Lease> {
        match row {
            Ok(row) => {
                if matches!(self.leases.get(&row.key), Some(KnownLease { state: LeaseState::Bad { .. }, .. })) {
                    self.leases.remove(&row.key);
                    tracing::info!(shard = %row.key, "the lease can be read again");
                }
                Some(row)
            }
            Err(BadRow { key, reason, .. }) => {
                let known = self.leases.get(&key).map(|known| &known.state);
                let is_known = matches!(known, Some(LeaseState::Bad { reason: known }) if *known == reason);
                if !is_known && !matches!(known, Some(LeaseState::Running(_))) {
                    tracing::error!(shard = %key, reason, "the lease cannot be read; its shard waits");
                    self.leases.insert(key, KnownLease { counter: 0, state: LeaseState::Bad { reason } });
                }
                None
            }
        }
    }
}

impl Running {
    /// Does what a younger row asks of the consumer.
    fn follow(&mut self, row: &Lease, is_owner: bool, is_holder: bool) {
        self.is_owned = is_owner;
        if is_owner {
            self.handle.recheck_parents();
        } else if !row.is_finished() {
            self.moving_since.get_or_insert_with(Instant::now);
            self.handle.command(if is_holder { ConsumerCommand::HandOff } else { ConsumerCommand::Abort });
        }
    }
}

/// Resolves when the worker is to stop, or when its owner has dropped the other end.
async fn asked_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
