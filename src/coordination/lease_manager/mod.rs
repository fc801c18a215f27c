//! The leases of this worker: for each, a consumer is started, told to hand over, or stopped, as the row says.

mod publish;
mod stuck;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::publish::{begun_because, note_acquired, note_left};
use super::fleet_view::FleetView;
use super::heartbeat::{SharedWorkerRecord, hint};
use super::overload_monitor::Pressure;
use super::watchdog::Watchdog;
use super::{Error, Identity, Notice, WorkerExit, other_children};
use crate::aws::TableError;
use crate::aws::fleet_table::FleetTable;
use crate::aws::lease_table::{BadRow, LeaseTable, Outcome};
use crate::consumer::{ConsumerCommand, ConsumerExit, ConsumerHandle, SpawnConsumer};
use crate::model::lag::Stage;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::worker_record::{Hints, digest};
use crate::options::WorkerOptions;
use crate::telemetry::{Loop, WorkerTelemetry};

/// The most shards of which a heartbeat tells what record they wait for.
const MOST_HALTED: usize = 20;

/// How often a row is read that is on its way to this worker.
const PENDING_LOOK: Duration = Duration::from_millis(100);
/// How often everything else is looked after.
const TICK: Duration = Duration::from_millis(250);
/// The wait before a lost lease's row is read: it may still be ours, after a pause.
const RECHECK_WAIT: Duration = Duration::from_millis(500);

/// Keeps the leases of one worker.
pub(super) struct LeaseManager {
    me: Identity,
    options: Arc<WorkerOptions>,
    leases: LeaseTable,
    fleet: FleetTable,
    presence: SharedWorkerRecord,
    view: watch::Receiver<FleetView>,
    starter: Arc<dyn SpawnConsumer>,
    notices: mpsc::UnboundedReceiver<Notice>,
    exits: mpsc::UnboundedReceiver<(ShardId, ConsumerExit)>,
    exit_sender: mpsc::UnboundedSender<(ShardId, ConsumerExit)>,
    /// The consumers that run.
    running: BTreeMap<ShardId, Running>,
    /// The counters of the rows that this worker's consumers left behind: what shows an older row is out of date.
    left: BTreeMap<ShardId, u64>,
    /// Leases on their way to this worker.
    pending: BTreeSet<ShardId>,
    /// Rows to read again, and when.
    rechecks: BTreeMap<ShardId, Instant>,
    /// Rows that cannot be read, named once each.
    bad: BTreeMap<ShardId, String>,
    /// Hints on their way.
    hints: JoinSet<()>,
    /// Whether all rows are to be read.
    wants_scan: bool,
    leaving: Option<Leaving>,
    pressure: Pressure,
    watchdog: Watchdog,
    board: WorkerTelemetry,
    /// When the board was looked after last, and how often.
    posted: Instant,
    posts: u64,
    rng: Rng,
}

struct Running {
    handle: ConsumerHandle,
    /// Whether the row names this worker as its owner (and not as the one who hands over).
    is_owned: bool,
    /// When this worker heard that the lease goes to another.
    told: Option<Instant>,
}

/// How far leaving has come.
struct Leaving {
    ending: WorkerExit,
    since: Instant,
    has_released: bool,
    has_given_up: bool,
}

impl LeaseManager {
    #[expect(clippy::too_many_arguments, reason = "one call, in the coordinator, which wires everything")]
    pub(super) fn new(
        me: Identity,
        options: Arc<WorkerOptions>,
        leases: LeaseTable,
        fleet: FleetTable,
        presence: SharedWorkerRecord,
        view: watch::Receiver<FleetView>,
        starter: Arc<dyn SpawnConsumer>,
        notices: mpsc::UnboundedReceiver<Notice>,
        board: WorkerTelemetry,
        rng: Rng,
    ) -> Self {
        let (exit_sender, exits) = mpsc::unbounded_channel();
        let watchdog = Watchdog::new(options.stuck_after);
        Self {
            me,
            options,
            leases,
            fleet,
            presence,
            view,
            starter,
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
            pressure: Pressure::new(),
            watchdog,
            board,
            posted: Instant::now(),
            posts: 0,
            rng,
        }
    }

    /// Keeps leases until `stop` says otherwise or the work is done, and returns once all are handed over.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<WorkerExit, Error> {
        let mut next_tick = Instant::now();
        loop {
            self.board.beat(Loop::LeaseManager, next_tick);
            tokio::select! {
                biased;
                () = asked_to_stop(&mut stop), if self.leaving.is_none() => self.leave(WorkerExit::Stopped),
                Some((key, exit)) = self.exits.recv() => self.on_exit(key, exit).await?,
                Some(notice) = self.notices.recv() => self.on_notice(notice).await?,
                Some(_) = self.hints.join_next() => {}
                () = self.board.probe_wanted() => self.probe().await?,
                () = tokio::time::sleep_until(next_tick) => {
                    self.tick().await?;
                    let tick = if self.pending.is_empty() { TICK } else { PENDING_LOOK };
                    next_tick = Instant::now() + tick;
                }
            }
            if !self.pending.is_empty() {
                next_tick = next_tick.min(Instant::now() + PENDING_LOOK);
            }
            self.show_presence();
            if let Some(ending) = self.has_left() {
                while self.hints.join_next().await.is_some() {}
                return Ok(ending);
            }
        }
    }

    async fn on_notice(&mut self, notice: Notice) -> Result<(), Error> {
        match notice {
            Notice::Look(hints) if hints.everything => self.wants_scan = true,
            Notice::Look(hints) => self.look(&hints.keys).await?,
            Notice::Lapsed => {
                for running in self.running.values() {
                    running.handle.command(ConsumerCommand::Abort);
                }
                self.wants_scan = true;
            }
            Notice::StreamEnded => self.leave(WorkerExit::StreamEnded),
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
            self.look(&due).await?;
        }
        self.give_up_stuck().await?;
        if self.leaving.is_some() {
            self.go_on_leaving();
        } else if self.options.until_caught_up && self.is_caught_up().await? {
            self.leave(WorkerExit::CaughtUp);
        }
        Ok(())
    }

    /// Reads all rows, takes back what is ours, and stops what is not.
    async fn scan(&mut self) -> Result<(), Error> {
        let rows = match self.leases.scan().await {
            Ok(rows) => rows,
            Err(error) => return pass(error, "reading the lease table"),
        };
        self.wants_scan = false;
        let mut seen = BTreeSet::new();
        for row in rows {
            let Some(row) = self.readable(row) else { continue };
            seen.insert(row.key.clone());
            let is_mine = row.owner.as_ref() == Some(&self.me.worker);
            let is_held = row.holder() == Some(&self.me.worker) && !row.is_finished();
            if is_held && !self.running.contains_key(&row.key) {
                // Ours by id, from before a restart or a pause: raising the counter shuts out whatever of that time
                // may still write. A hand-off that was under way is over: nobody holds anything back.
                let owner = row.owner.clone().unwrap_or_else(|| self.me.worker.clone());
                match self.leases.apply(&row.assign(&owner)).await {
                    Ok(Outcome::Applied(row)) if is_mine => self.start(row, "returned"),
                    Ok(Outcome::Applied(row)) => self.hint(&owner, hint(&row.key)),
                    Ok(Outcome::Conflict(_)) => self.recheck(row.key.clone()),
                    Err(error) => {
                        pass(error, "taking a lease back")?;
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

    async fn look(&mut self, keys: &BTreeSet<ShardId>) -> Result<(), Error> {
        match self.leases.read_many(keys).await {
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
                pass(error, "reading leases")
            }
        }
    }

    /// Does what a row asks for, unless a consumer of ours has written a later one since it was read.
    fn reconcile(&mut self, row: Lease) {
        if self.left.get(&row.key).is_some_and(|left| row.counter < *left) {
            return;
        }
        let me = &self.me.worker;
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
                running.told.get_or_insert_with(Instant::now);
                running.handle.command(if is_holder { ConsumerCommand::HandOff } else { ConsumerCommand::Abort });
            } else if is_holder {
                self.wants_scan = true; // held by a consumer that is no more: passed on there
            }
        }
    }

    fn start(&mut self, row: Lease, reason: &'static str) {
        tracing::info!(shard = %row.key, checkpoint = %row.checkpoint, reason, "lease taken");
        let key = row.key.clone();
        note_acquired(reason);
        let handle = self.starter.start(row, self.rng.fork(), self.exit_sender.clone());
        if self.leaving.as_ref().is_some_and(|leaving| leaving.has_released) {
            handle.command(ConsumerCommand::Release);
        }
        self.board.begin(key.clone(), Arc::clone(&handle.status));
        self.running.insert(key, Running { handle, is_owned: true, told: None });
    }

    async fn on_exit(&mut self, key: ShardId, exit: ConsumerExit) -> Result<(), Error> {
        let ended = self.running.remove(&key);
        self.board.end(&key);
        let was_stuck = self.watchdog.forget(&key);
        note_left(&exit, was_stuck, ended.as_ref().and_then(|ended| ended.told));
        if was_stuck {
            tracing::info!(shard = %key, "the call that hung has returned; what it did is not checkpointed");
            self.show_presence();
            self.presence.publish();
        }
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

    /// The children of a finished shard start at once: here, or at their owner's.
    async fn on_ended(&mut self, row: Lease, children: Vec<Lease>) -> Result<(), Error> {
        tracing::info!(shard = %row.key, children = row.children.len(), "shard finished");
        let owner = row.owner.clone().filter(|owner| *owner != self.me.worker);
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
        match self.leases.read_many(&others).await {
            Ok(rows) => {
                for child in rows.into_iter().flatten() {
                    match child.owner.clone() {
                        Some(owner) if owner != self.me.worker => self.hint(&owner, hint(&child.key)),
                        _ => self.reconcile(child),
                    }
                }
                Ok(())
            }
            Err(error) => pass(error, "reading the children's leases"),
        }
    }

    fn hint(&mut self, worker: &WorkerId, hints: Hints) {
        let (fleet, worker) = (self.fleet.clone(), worker.clone());
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

    /// Puts into the next heartbeat which leases this worker knows to own and how far it has come.
    fn show_presence(&mut self) {
        let owned: BTreeSet<&ShardId> = self
            .running
            .iter()
            .filter(|(_, running)| running.is_owned)
            .map(|(key, _)| key)
            .chain(&self.pending)
            .collect();
        let caught_up_to_ms = self.caught_up_to_ms();
        let since = [Stage::Processed, Stage::Checkpointed].map(|stage| self.board.waiting_since_ms(stage));
        let [unprocessed_since_ms, unsaved_since_ms] = since;
        let overloaded = self.pressure.look(self.running.iter().map(|(key, running)| (key, &*running.handle.status)));
        let stuck = self.watchdog.stuck();
        let halts =
            self.running.iter().filter_map(|(key, held)| Some((key.clone(), held.handle.status.blocked_record()?)));
        let halted = halts.take(MOST_HALTED).collect();
        let (leases, digest) = (owned.len(), digest(owned));
        self.post(leases, overloaded);
        let kbps = self.board.kbps();
        self.presence.update(|presence| {
            presence.leases = leases as u64;
            presence.digest = digest;
            presence.caught_up_to_ms = caught_up_to_ms;
            presence.unprocessed_since_ms = unprocessed_since_ms;
            presence.unsaved_since_ms = unsaved_since_ms;
            presence.kbps = kbps;
            presence.overloaded = overloaded;
            presence.stuck = stuck;
            presence.blocked = halted;
        });
    }

    /// The moment before which everything in this worker's shards is delivered and checkpointed, if it is known.
    fn caught_up_to_ms(&self) -> Option<u64> {
        if !self.pending.is_empty() {
            return None;
        }
        let is_read = |key: &ShardId, running: &Running| {
            !running.handle.status.is_blocked_on_parent() && !self.watchdog.gave_up(key)
        };
        let reading = self.running.iter().filter(|(key, running)| is_read(key, running));
        let oldest = reading.map(|(_, running)| running.handle.status.caught_up_to_ms()).min();
        match oldest {
            Some(0) => None,
            oldest => oldest.or(Some(u64::MAX)),
        }
    }

    /// Whether everything that was in the stream when this worker started is delivered and checkpointed, by whomever.
    async fn is_caught_up(&mut self) -> Result<bool, Error> {
        let started = self.me.started_ms.next_multiple_of(1000); // records' times are whole seconds
        let is_past = |moment: Option<u64>| moment.is_some_and(|moment| moment >= started);
        let view = self.view.borrow().clone();
        let is_listed = view.leadership.as_ref().is_some_and(|leadership| leadership.initial_sync_done);
        if !is_listed || self.wants_scan || !is_past(self.caught_up_to_ms()) {
            return Ok(false);
        }
        let rows = match self.leases.scan().await {
            Ok(rows) => rows,
            Err(error) => return pass(error, "reading the lease table").map(|()| false),
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
                Some(owner) if *owner == self.me.worker => self.running.contains_key(&row.key),
                Some(owner) => {
                    let owned = rows.values().filter(|row| row.owner.as_ref() == Some(owner) && !row.is_finished());
                    let owned = digest(owned.map(|row| &row.key));
                    let seen = view.worker(owner).filter(|seen| seen.is_alive).map(|seen| &seen.member.record);
                    seen.is_some_and(|presence| presence.digest == owned && is_past(presence.caught_up_to_ms))
                }
                None => false,
            };
            if !is_done || row.is_handed_over() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn leave(&mut self, ending: WorkerExit) {
        if self.leaving.is_some() {
            return;
        }
        tracing::info!(leases = self.running.len(), ?ending, "leaving the fleet");
        self.leaving = Some(Leaving { ending, since: Instant::now(), has_released: false, has_given_up: false });
        self.presence.update(|presence| presence.leaving = true);
        self.board.set_leaving();
        self.presence.publish();
        self.go_on_leaving();
    }

    /// Leaves the moving to the leader, as long as there is one and somebody to move leases to.
    fn go_on_leaving(&mut self) {
        let view = self.view.borrow().clone();
        let Some(leaving) = &mut self.leaving else { return };
        let is_taker = |id: &WorkerId| *id != self.me.worker;
        let takers = view.live().filter(|seen| !seen.member.record.leaving && is_taker(&seen.member.id)).count();
        let is_led = view.leader().is_some();
        let waited = leaving.since.elapsed();
        let patience = self.options.drain_timeout.min(self.options.lease_duration * 2);
        if !leaving.has_released && (takers == 0 || !is_led || waited >= patience) {
            leaving.has_released = true;
            // Those that are on their way to another are handed over; the rest is given up.
            for running in self.running.values().filter(|running| running.is_owned) {
                running.handle.command(ConsumerCommand::Release);
            }
        }
        if waited >= self.options.drain_timeout && !leaving.has_given_up {
            leaving.has_given_up = true;
            tracing::warn!(
                leases = self.running.len(),
                "processors did not finish in time; their leases are left to expire"
            );
        }
    }

    fn has_left(&self) -> Option<WorkerExit> {
        let leaving = self.leaving.as_ref()?;
        let has_nothing = self.running.is_empty() && self.pending.is_empty();
        (has_nothing || leaving.has_given_up).then_some(leaving.ending)
    }
}

/// Resolves when the worker is to stop, also when nobody is left who could say so.
async fn asked_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A failed call that may go better the next time is only noted.
fn pass(error: TableError, what: &'static str) -> Result<(), Error> {
    if error.is_transient() {
        tracing::debug!(%error, what, "failed, trying again");
        return Ok(());
    }
    Err(error.into())
}
