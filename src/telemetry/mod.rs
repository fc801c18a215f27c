//! Observation of a running worker: its metrics and its health.
//!
//! The tasks of a worker leave here what they know, or channels and shared states in which it can be read; gauges and
//! health are worked out when somebody asks for them. So no figure is stale because the task that would have to renew
//! it hangs, and no task spends its time on metrics.

pub mod catalogue;
mod changes;
#[cfg(test)]
mod docs_page;
mod gauges;
mod health;
mod metric;
mod rate;
#[cfg(feature = "cli")]
mod sample;
pub mod scope;
pub mod spans;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub use self::health::Health;
#[cfg(feature = "cli")]
pub use self::sample::Sample;

use self::changes::LoggedTroubles;
use self::gauges::RecordedGauges;
use self::rate::Rate;
use self::scope::Scope;
use crate::aws::lease_table::LeaseTable;
use crate::aws::table_health::TableHealth;
use crate::consumer::{Budget, ConsumerStatus, Counters, LeaseDeadline};
use crate::model::app_lag::LagSince;
use crate::model::fleet_state::ShardState;
use crate::model::fleet_view::FleetView;
use crate::model::lag::Stage;
use crate::model::lease::{ShardId, WorkerId};
use crate::model::millis;
use crate::model::worker_record::{WorkerRecord, proved_for};
use crate::options::WorkerOptions;

/// The interval at which rates are measured and changes logged.
const INTERVAL: Duration = Duration::from_secs(1);
/// Gauges are recorded at each such interval, for recorders that don't ask for them before they show them.
const RECORDED_EVERY: u64 = 5;

/// The observer of a running worker: its metrics and its health. Clones observe the same worker.
///
/// ```
/// use shardkeeper::WorkerTelemetry;
///
/// /// The status and the text of a server's `/ready`.
/// async fn ready(worker: WorkerTelemetry) -> (u16, String) {
///     let reasons = worker.probe().await.not_ready_reasons;
///     (if reasons.is_empty() { 200 } else { 503 }, reasons.join("\n"))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct WorkerTelemetry(Arc<Inner>);

/// The loops of the coordination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loop {
    Heartbeat,
    LeaseManager,
    Leader,
}

impl Loop {
    const ALL: [Self; 3] = [Self::Heartbeat, Self::LeaseManager, Self::Leader];

    /// The loop's name in metrics and health.
    fn word(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::LeaseManager => "keeper",
            Self::Leader => "leader",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Working,
    Leaving,
    Ended,
}

/// A leader's figures of the application.
#[derive(Clone, Debug)]
pub(crate) struct AppFigures {
    pub(crate) lag_since: LagSince,
    pub(crate) measured: Instant,
    pub(crate) shards: BTreeMap<ShardState, usize>,
    pub(crate) desired_workers: usize,
    /// When the last complete listing came in; before the first, when the leader began.
    pub(crate) listed: Instant,
}

/// The fleet as this worker's tasks know it.
#[derive(Debug)]
struct Fleet {
    me: WorkerId,
    view: watch::Receiver<FleetView>,
    record: watch::Receiver<WorkerRecord>,
}

#[derive(Debug)]
struct Inner {
    options: Arc<WorkerOptions>,
    scope: OnceLock<Scope>,
    /// The shards whose processors did not finish within the drain timeout.
    undrained: Mutex<Vec<ShardId>>,
    alive: LeaseDeadline,
    counters: Counters,
    origin: Instant,
    started_ms: u64,
    /// When each loop last came round, and when it was to come round again at the latest, in milliseconds since
    /// `origin`; 0 before the first time.
    ticks: [(AtomicU64, AtomicU64); 3],
    lease_table: TableHealth,
    fleet_table: TableHealth,
    /// The lease table, for calls that ask whether it answers, one at a time.
    probe: OnceLock<tokio::sync::Mutex<LeaseTable>>,
    budget: OnceLock<Budget>,
    fleet: Mutex<Option<Fleet>>,
    phase: Mutex<Phase>,
    shards: Mutex<BTreeMap<ShardId, Arc<ConsumerStatus>>>,
    app: Mutex<Option<AppFigures>>,
    rate: Mutex<Rate>,
    recorded: Mutex<RecordedGauges>,
    logged: Mutex<LoggedTroubles>,
}

impl WorkerTelemetry {
    /// The observer of a worker that is about to start.
    pub fn new(options: Arc<WorkerOptions>, alive: LeaseDeadline, counters: Counters) -> Self {
        Self(Arc::new(Inner {
            started_ms: options.clock.now_ms(),
            options,
            scope: OnceLock::new(),
            undrained: Mutex::default(),
            alive,
            counters,
            origin: Instant::now(),
            ticks: Default::default(),
            lease_table: TableHealth::default(),
            fleet_table: TableHealth::default(),
            probe: OnceLock::new(),
            budget: OnceLock::new(),
            fleet: Mutex::default(),
            phase: Mutex::new(Phase::Starting),
            shards: Mutex::default(),
            app: Mutex::default(),
            rate: Mutex::default(),
            recorded: Mutex::default(),
            logged: Mutex::default(),
        }))
    }

    /// Sets the scope of the worker's metrics.
    pub(crate) fn set_scope(&self, scope: Scope) {
        let _ = self.0.scope.set(scope);
    }

    fn scope(&self) -> Scope {
        self.0.scope.get().cloned().unwrap_or_default()
    }

    /// Notes the shards whose processors did not finish within the drain timeout.
    pub(crate) fn set_undrained(&self, shards: Vec<ShardId>) {
        *lock(&self.0.undrained) = shards;
    }

    pub(crate) fn take_undrained(&self) -> Vec<ShardId> {
        std::mem::take(&mut *lock(&self.0.undrained))
    }

    /// The health of the lease table, for its clients to note.
    pub(crate) fn lease_table(&self) -> &TableHealth {
        &self.0.lease_table
    }

    /// The health of the fleet table, for its clients to note.
    pub(crate) fn fleet_table(&self) -> &TableHealth {
        &self.0.fleet_table
    }

    /// Observes the worker's memory budget.
    pub(crate) fn follow_budget(&self, budget: Budget) {
        let _ = self.0.budget.set(budget);
    }

    /// Lets `/ready` call the lease table, by a client that notes its health here.
    pub(crate) fn follow_lease_table(&self, table: LeaseTable) {
        let _ = self.0.probe.set(tokio::sync::Mutex::new(table));
    }

    /// Observes the fleet of worker `me`, and its own record.
    pub(crate) fn follow_fleet(
        &self,
        me: WorkerId,
        view: watch::Receiver<FleetView>,
        record: watch::Receiver<WorkerRecord>,
    ) {
        *lock(&self.0.fleet) = Some(Fleet { me, view, record });
    }

    /// Measures rates, logs changes and records gauges, each at its pace.
    pub(crate) async fn run(&self) -> Infallible {
        for round in 0_u64.. {
            let bytes = self.0.counters.totals().bytes;
            lock(&self.0.rate).note(self.0.origin.elapsed(), bytes);
            self.log_changes();
            if round.is_multiple_of(RECORDED_EVERY) {
                self.record_gauges();
            }
            tokio::time::sleep(INTERVAL).await;
        }
        unreachable!("rounds are not that many")
    }

    /// Shows a worker that has left its stream and looks for the next one.
    pub(crate) fn set_starting(&self) {
        *lock(&self.0.phase) = Phase::Starting;
        lock(&self.0.shards).clear();
        self.0.ticks.iter().for_each(|(last, _)| last.store(0, Ordering::Relaxed));
    }

    pub(crate) fn set_working(&self) {
        *lock(&self.0.phase) = Phase::Working;
    }

    pub(crate) fn set_leaving(&self) {
        *lock(&self.0.phase) = Phase::Leaving;
    }

    /// Shows a worker that has ended, and nothing of what it knew.
    pub(crate) fn set_ended(&self) {
        *lock(&self.0.phase) = Phase::Ended;
        lock(&self.0.shards).clear();
        *lock(&self.0.fleet) = None;
        self.0.ticks.iter().for_each(|(last, _)| last.store(0, Ordering::Relaxed));
        self.clear_gauges();
    }

    /// Notes that a loop has come round, and will do so again by `next` if its work takes no time.
    pub(crate) fn loop_tick(&self, which: Loop, next: Instant) {
        let (last, due) = &self.0.ticks[which as usize];
        last.store(self.elapsed_ms().max(1), Ordering::Relaxed);
        due.store(millis(next.saturating_duration_since(self.0.origin)), Ordering::Relaxed);
    }

    /// Observes the consumer of a shard by its `status`.
    pub fn begin(&self, shard: ShardId, status: Arc<ConsumerStatus>) {
        lock(&self.0.shards).insert(shard, status);
    }

    /// Forgets the consumer of a shard.
    pub(crate) fn end(&self, shard: &ShardId) {
        lock(&self.0.shards).remove(shard);
    }

    /// Takes in the figures of the application that this worker leads; none when it leads none.
    pub(crate) fn set_app(&self, app: Option<AppFigures>) {
        *lock(&self.0.app) = app;
    }

    /// The rate of processing, in KiB a second.
    pub(crate) fn kbps(&self) -> u64 {
        lock(&self.0.rate).kbps()
    }

    /// The GetRecords calls an hour on shards that have no records, at their present intervals.
    pub(crate) fn idle_polls_per_hour(&self) -> u64 {
        let intervals =
            lock(&self.0.shards).values().filter_map(|status| status.idle_poll_interval()).collect::<Vec<_>>();
        intervals.into_iter().map(|interval| 3_600_000 / millis(interval).max(1)).sum()
    }

    /// The moment from which the lag of all this worker's shards together counts (ms since the epoch). Nothing while
    /// that is not known of all of them; a moment far ahead when there are none.
    pub(crate) fn waiting_since_ms(&self, stage: Stage) -> Option<u64> {
        let shards = lock(&self.0.shards);
        if shards.values().any(|status| status.lag(crate::model::lag::Lag::is_at_least)) {
            return None;
        }
        let since = shards.values().map(|status| status.waiting_since_ms(stage, self.0.options.idle_poll));
        since.min().unwrap_or(Some(u64::MAX))
    }

    fn elapsed_ms(&self) -> u64 {
        millis(self.0.origin.elapsed())
    }

    /// The time since a loop last came round, and the time by which it is overdue.
    fn loop_age(&self, which: Loop) -> Option<(Duration, Duration)> {
        let (last, due) = &self.0.ticks[which as usize];
        let (last, due, now) = (last.load(Ordering::Relaxed), due.load(Ordering::Relaxed), self.elapsed_ms());
        let since = |moment: u64| Duration::from_millis(now.saturating_sub(moment));
        (last > 0).then(|| (since(last), since(due)))
    }

    /// The age of the last heartbeat that arrived, from when it was sent.
    fn heartbeat_age(&self) -> Option<Duration> {
        let proved = proved_for(self.0.options.lease_duration);
        Some((self.0.alive.now() + proved).saturating_sub(self.0.alive.deadline()?))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
