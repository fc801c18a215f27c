//! The scenario of a seed: the fleet, the stream, the workload and everything that goes wrong, and when.

use std::time::Duration;

use fastrand::Rng;
use shardkeeper_local::LocalOptions;

use super::delivery::DeliveryScenario;
use super::faults::{KINDS, Kind};
use super::field::FieldScenario;
use super::history::Ms;

/// The most shards that a stream here comes to, or nearly so, and the time that a worker takes for a page of them.
const LISTED_SHARDS: u64 = 120;
const LISTED_PAGE_MS: Ms = 400;

/// Something the simulation does at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Calls begin to fail, for some time.
    Fault(Kind),
    /// A process dies and comes back under its id.
    CrashAndReturn,
    /// A process dies for good.
    Crash,
    /// The leader's process dies, and comes back under another id.
    CrashLeader,
    /// Every process dies, and comes back.
    CrashAll,
    /// A process is stopped for a while.
    Pause,
    /// The leader's process is stopped for a while.
    PauseLeader,
    /// A process joins.
    Join,
    /// A process is asked to stop.
    Leave,
    /// Every process is asked to stop, one after the other, and comes back under its id.
    RollingRestart,
    /// A second process is started under the id of one that runs.
    Twin,
    /// A lease row is made unreadable, and mended later.
    BreakRow,
    /// A lease row is given to somebody who doesn't exist.
    GiveAway,
    /// The fleet table loses its items.
    EmptyFleetTable,
    /// A shard's records are trimmed.
    Trim,
    /// An open shard is split.
    Split,
    /// An open shard is rolled over.
    Rollover,
    /// All open shards are rolled over at once.
    RolloverAll,
    /// All open shards are split at once.
    SplitAll,
    /// A process's machine is suspended for a while: its clocks stand still, but for the one that counts suspension.
    Suspend,
    /// Every process dies, and comes back when all records from before are trimmed.
    StayAway,
    /// The shard iterators handed out so far are refused from now on.
    KillIterators,
    /// The stream is switched off.
    SwitchOff,
    /// The table gets a new stream.
    SwitchOn,
    /// The table is deleted and made anew.
    RemakeTable,
    /// The streams from before the newest are gone.
    PurgeStreams,
}

const PROCESS_ACTIONS: [Action; 10] = [
    Action::CrashAndReturn,
    Action::Crash,
    Action::CrashLeader,
    Action::CrashAll,
    Action::Pause,
    Action::PauseLeader,
    Action::Join,
    Action::Leave,
    Action::RollingRestart,
    Action::Twin,
];
const OPERATOR_ACTIONS: [Action; 4] = [Action::BreakRow, Action::GiveAway, Action::EmptyFleetTable, Action::Trim];

/// See the file's head.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub workers: usize,
    pub keys: u64,
    /// Roll-overs and splits before the first worker starts.
    pub generations_before: usize,
    pub lease_duration: Duration,
    pub drain_timeout: Duration,
    /// The lengths of pauses.
    pub pauses: [Ms; 5],
    pub service: LocalOptions,
    /// The slowest time for one record.
    pub slowest_record: Duration,
    pub fails: f64,
    pub panics: f64,
    pub hangs: f64,
    pub actions: Vec<(Ms, Action)>,
    /// When the last fault ends.
    pub chaos_ends: Ms,
    /// Whether the stream is switched off at the end.
    pub disables_stream: bool,
    /// The delivery of records to processors, and the policy for failures.
    pub delivery: DeliveryScenario,
    /// Additions of the field.
    pub field: FieldScenario,
}

impl Scenario {
    /// The scenario of a seed, `chaos_ms` long before the quiet at its end.
    pub fn new(seed: u64, chaos_ms: Ms) -> Self {
        let mut rng = Rng::with_seed(seed);
        let lease_duration = Duration::from_secs([2, 3, 5][below(&mut rng, 3)]);
        let mut service = LocalOptions {
            seed: rng.u64(..),
            initial_shards: 1 + u32::try_from(below(&mut rng, 6)).unwrap_or_default(),
            rollover: None,
            page_records: [20, 200, 1000][below(&mut rng, 3)],
            page_shards: [2, 5, 100][below(&mut rng, 3)],
            iterator_ttl: Duration::from_millis([400, 3_000, 900_000][below(&mut rng, 3)]),
            // Close below a power of ten, so that positions of unequal length meet.
            first_sequence_number: 1_000_000_000_000_000_000_000 - 1 - rng.u64(..) as u128 % 300,
            ..LocalOptions::default()
        };
        let trims_by_age = chance(&mut rng, 0.15);
        if trims_by_age {
            service.retention = Duration::from_secs(20);
        }
        let lease = ms(lease_duration);
        let is_troubled = chance(&mut rng, 0.5);
        let trouble = |share: f64| if is_troubled { share } else { 0.0 };
        Self {
            seed,
            workers: 1 + below(&mut rng, 4),
            keys: 6 + rng.u64(..) % 30,
            generations_before: below(&mut rng, 4),
            lease_duration,
            drain_timeout: Duration::from_secs(6),
            pauses: [300, lease / 2, lease - 300, lease + 500, lease * 3],
            service,
            slowest_record: Duration::from_millis([0, 4, 20][below(&mut rng, 3)]),
            fails: trouble(0.08),
            panics: trouble(0.03),
            hangs: trouble(0.01),
            actions: actions(&mut rng, chaos_ms),
            chaos_ends: chaos_ms,
            // The end of a stream takes longer to prove than such a short retention lasts.
            disables_stream: chance(&mut rng, 0.08) && !trims_by_age,
            delivery: DeliveryScenario::default(),
            field: FieldScenario::default(),
        }
    }

    /// When an owner that isn't in the fleet table counts as dead.
    pub fn kcl_failover_time(&self) -> Duration {
        self.lease_duration * 2
    }

    /// By when the fleet must have settled: two lease durations after the last fault, as the invariant says, and a
    /// margin for what began before: processes that start, calls that time out, backoff that has grown, and leases
    /// that name somebody who isn't in the fleet table. Each generation's end is read twice, one after the other. Where
    /// shards vanish, some seconds prove each one gone. And a listing goes no faster than the service's limit allows:
    /// where a page shows few shards, it takes its time.
    pub fn settled_by(&self) -> Ms {
        let vanishing = if self.trims_by_age() { 90_000 } else { 0 };
        let settled = self.chaos_ends + ms(self.lease_duration * 2) + ms(self.kcl_failover_time()) / 2 + 6_000;
        settled + vanishing + self.listing_time()
    }

    fn listing_time(&self) -> Ms {
        LISTED_SHARDS / self.service.page_shards as Ms * LISTED_PAGE_MS
    }

    /// Whether the stream's records, and its shards, are trimmed by age within the simulation.
    pub fn trims_by_age(&self) -> bool {
        self.service.retention < Duration::from_secs(3_600)
    }

    /// When the simulation ends: some time after that, in which nothing may move. The end of a stream is proved by two
    /// listings, one after the other.
    pub fn ends(&self) -> Ms {
        self.settled_by() + if self.disables_stream { 30_000 + 2 * self.listing_time() } else { 8_000 }
    }
}

/// Each seed has some kinds of trouble, and of those a lot.
fn actions(rng: &mut Rng, chaos_ms: Ms) -> Vec<(Ms, Action)> {
    let mut chosen = Vec::new();
    for kind in KINDS {
        if chance(rng, 0.3) {
            chosen.push(Action::Fault(kind));
        }
    }
    for action in PROCESS_ACTIONS {
        if chance(rng, 0.35) {
            chosen.push(action);
        }
    }
    for action in OPERATOR_ACTIONS {
        if chance(rng, 0.15) {
            chosen.push(action);
        }
    }
    let mut actions = Vec::new();
    let count = if chosen.is_empty() { 0 } else { chosen.len().max(6) };
    for index in 0..count {
        actions.push((1_000 + rng.u64(..) % (chaos_ms - 3_000), chosen[index % chosen.len()]));
    }
    for _ in 0..below(rng, 7) {
        let action =
            [Action::Split, Action::Rollover, Action::Rollover, Action::RolloverAll, Action::SplitAll][below(rng, 5)];
        actions.push((rng.u64(..) % chaos_ms, action));
    }
    actions.sort();
    actions
}

/// A number below `limit`.
pub fn below(rng: &mut Rng, limit: usize) -> usize {
    usize::try_from(rng.u64(..) % limit.max(1) as u64).unwrap_or_default()
}

/// True in a share of cases.
pub fn chance(rng: &mut Rng, share: f64) -> bool {
    rng.f64() < share
}

/// Whole milliseconds.
pub fn ms(duration: Duration) -> Ms {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
