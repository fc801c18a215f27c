//! What a running worker shows of itself: as metrics, and whether it gets on.
//!
//! The tasks of a worker put what they know on the board; whoever looks works out the rest at that moment. So no figure
//! stands still because the task that would have to renew it hangs.

pub mod catalogue;
mod changes;
#[cfg(test)]
mod docs_page;
mod gauges;
mod health;
mod metric;
mod rate;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::health::{Health, LONGEST_LOOP};

use self::changes::Wrong;
use self::gauges::RecordedGauges;
use self::rate::Rate;
use crate::aws::table_health::TableHealth;
use crate::consumer::{Budget, ConsumerStatus, Counters, LeaseDeadline};
use crate::model::app_lag::LagSince;
use crate::model::fleet_state::ShardState;
use crate::model::lag::Stage;
use crate::model::lease::ShardId;
use crate::model::scaling::ScalingOptions;
use crate::options::WorkerOptions;

/// What a running worker shows of itself. Clones are the same board.
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

    fn word(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::LeaseManager => "keeper",
            Self::Leader => "leader",
        }
    }
}

/// What a worker is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Working,
    Leaving,
}

/// What a leader knows of the application.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) since: LagSince,
    pub(crate) looked: Instant,
    pub(crate) shards: BTreeMap<ShardState, usize>,
    pub(crate) desired_workers: usize,
    pub(crate) listed: Option<Instant>,
}

/// What each worker sees of its fleet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FleetFigures {
    pub(crate) leases_held: usize,
    pub(crate) fair_share: f64,
    pub(crate) workers_alive: usize,
    pub(crate) is_leader: bool,
    pub(crate) is_overloaded: bool,
}

#[derive(Debug)]
struct Inner {
    options: Arc<WorkerOptions>,
    alive: LeaseDeadline,
    counters: Counters,
    origin: Instant,
    started_ms: u64,
    /// When each loop came round last, and when it was to come round again at the latest, in milliseconds since
    /// `origin`; 0 before the first time.
    beats: [(AtomicU64, AtomicU64); 3],
    lease_table: TableHealth,
    fleet_table: TableHealth,
    /// Wakes the one who can see whether the lease table answers.
    probe: Notify,
    budget: OnceLock<Budget>,
    phase: Mutex<Phase>,
    shards: Mutex<BTreeMap<ShardId, Arc<ConsumerStatus>>>,
    fleet: Mutex<FleetFigures>,
    group: Mutex<Option<Group>>,
    rate: Mutex<Rate>,
    drawn: Mutex<RecordedGauges>,
    wrong: Mutex<Wrong>,
}

impl WorkerTelemetry {
    /// The board of a worker that is about to start.
    pub fn new(options: Arc<WorkerOptions>, alive: LeaseDeadline, counters: Counters) -> Self {
        Self(Arc::new(Inner {
            started_ms: options.clock.now_ms(),
            options,
            alive,
            counters,
            origin: Instant::now(),
            beats: Default::default(),
            lease_table: TableHealth::default(),
            fleet_table: TableHealth::default(),
            probe: Notify::new(),
            budget: OnceLock::new(),
            phase: Mutex::new(Phase::Starting),
            shards: Mutex::default(),
            fleet: Mutex::default(),
            group: Mutex::default(),
            rate: Mutex::default(),
            drawn: Mutex::default(),
            wrong: Mutex::default(),
        }))
    }

    /// Whether the lease table answers, for its clients to note.
    pub fn lease_table(&self) -> &TableHealth {
        &self.0.lease_table
    }

    /// Whether the fleet table answers, for its clients to note.
    pub fn fleet_table(&self) -> &TableHealth {
        &self.0.fleet_table
    }

    /// The worker's budget, once there is one.
    pub fn set_budget(&self, budget: Budget) {
        let _ = self.0.budget.set(budget);
    }

    /// By what the number of desired workers is judged.
    pub(crate) fn desired_limits(&self) -> ScalingOptions {
        self.0.options.desired_workers
    }

    // What the tasks put here.

    pub(crate) fn set_working(&self) {
        *lock(&self.0.phase) = Phase::Working;
    }

    pub(crate) fn set_leaving(&self) {
        *lock(&self.0.phase) = Phase::Leaving;
    }

    /// A loop has come round, and will do so again by `next` if its work takes no time.
    pub(crate) fn beat(&self, which: Loop, next: Instant) {
        let (last, due) = &self.0.beats[which as usize];
        last.store(self.elapsed_ms().max(1), Ordering::Relaxed);
        due.store(millis(next.saturating_duration_since(self.0.origin)), Ordering::Relaxed);
    }

    /// A consumer of this shard has begun, and shows itself by `status`.
    pub fn begin(&self, shard: ShardId, status: Arc<ConsumerStatus>) {
        lock(&self.0.shards).insert(shard, status);
    }

    /// The shard's consumer has ended.
    pub fn end(&self, shard: &ShardId) {
        lock(&self.0.shards).remove(shard);
    }

    pub(crate) fn set_fleet(&self, figures: FleetFigures) {
        *lock(&self.0.fleet) = figures;
        let bytes = self.0.counters.totals().bytes;
        lock(&self.0.rate).note(self.0.origin.elapsed(), bytes);
    }

    /// What this worker knows of the application as its leader; nothing when it isn't.
    pub(crate) fn set_group(&self, group: Option<Group>) {
        *lock(&self.0.group) = group;
    }

    /// Resolves when somebody wants to know whether the lease table answers.
    pub(crate) async fn probe_wanted(&self) {
        self.0.probe.notified().await;
    }

    // What others of the worker read here.

    /// What this worker processes, in KiB a second.
    pub(crate) fn kbps(&self) -> u64 {
        lock(&self.0.rate).kbps()
    }

    /// From when the lag of all this worker's shards together counts (ms since the epoch). Nothing while that is not
    /// known of all of them; a moment far ahead when there are none.
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

    /// How long ago a loop came round, and how long it is overdue.
    fn loop_age(&self, which: Loop) -> Option<(Duration, Duration)> {
        let (last, due) = &self.0.beats[which as usize];
        let (last, due, now) = (last.load(Ordering::Relaxed), due.load(Ordering::Relaxed), self.elapsed_ms());
        let since = |moment: u64| Duration::from_millis(now.saturating_sub(moment));
        (last > 0).then(|| (since(last), since(due)))
    }

    /// How long ago the last heartbeat was sent that arrived.
    fn heartbeat_age(&self) -> Option<Duration> {
        let proved = crate::coordination::heartbeat::proved_for(self.0.options.lease_duration);
        Some((Instant::now() + proved).saturating_duration_since(self.0.alive.deadline()?))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
