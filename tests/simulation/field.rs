//! The conditions of the field: what accounts, emulators, operators and other software do to a fleet, and what a
//! service under the documented guarantees may do.
//!
//!     SHARDKEEPER_SIM_SEEDS=17..18 SHARDKEEPER_SIM_TRACE=1 cargo test --test simulation field -- --nocapture

use std::time::Duration;

use fastrand::Rng;
use shardkeeper::{Checkpoints, StartPosition, WorkerOptions};

use super::delivery::DeliveryScenario;
use super::faults::{Kind, Window};
use super::history::Ms;
use super::scenario::{Action, Scenario, below, ms};

/// The number of seeds of each condition that every test run simulates.
const SEEDS: std::ops::Range<u64> = 0..4;

/// A day of a life that passes 240 times as fast.
const DAY: Duration = Duration::from_secs(360);

/// Additions of the field to a scenario; by default none.
#[derive(Clone, Debug, Default)]
pub struct FieldScenario {
    /// Faults of calls at fixed times.
    pub windows: Vec<Window>,
    /// DescribeStream calls that the account allows each second.
    pub describe_stream_per_second: Option<u32>,
    /// The most DescribeStream calls from when the fleet came back to the end.
    pub most_listings: Option<u64>,
    /// The lease durations of processes, by their numbers in turn; the scenario's for all if there are none.
    pub lease_durations: Vec<Duration>,
    /// The start of the application, if not the oldest record.
    pub start: Option<StartPosition>,
    /// When the first processes start.
    pub first_start: Ms,
    pub buffer_bytes: Option<u64>,
    pub stuck_after: Option<Duration>,
    /// Whether processors that hang never return.
    pub hangs_forever: bool,
    pub checkpoints_by_hand: bool,
    /// Whether workers end when everything is delivered.
    pub until_caught_up: bool,
    /// Whether processes live on when their worker has ended.
    pub lives_on: bool,
    /// Whether shards and processes change until the end, so that the fleet never settles.
    pub churns: bool,
    /// The longest from a record's writing to its delivery.
    pub longest_delay: Option<Ms>,
    /// The most items of any table of the application.
    pub most_items: Option<usize>,
    /// The most tasks of any process.
    pub most_tasks: Option<usize>,
}

impl FieldScenario {
    /// The lease duration of a process of its own.
    pub fn lease_duration(&self, process: usize) -> Option<Duration> {
        self.lease_durations.get(process % self.lease_durations.len().max(1)).copied()
    }

    pub fn starts_at_latest(&self) -> bool {
        self.start == Some(StartPosition::Latest)
    }

    /// Sets a worker's options.
    pub fn apply(&self, options: &mut WorkerOptions) {
        if let Some(start) = self.start {
            options.start = start;
        }
        if let Some(bytes) = self.buffer_bytes {
            options.buffer_bytes = bytes;
        }
        if self.checkpoints_by_hand {
            options.checkpoints = Checkpoints::Manual;
        }
        options.stuck_after = self.stuck_after;
        options.until_caught_up = self.until_caught_up;
    }

    fn window(&mut self, kind: Kind, share: f64, from: Ms, until: Ms) {
        self.windows.push(Window { kind, share, process: None, from, until });
    }
}

/// A condition of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// For some seconds parts of the service know neither a new shard nor its records.
    YoungShards,
    /// Pages of open shards lack the next iterator.
    MissingIterators,
    /// Iterators are refused for good, with one error or another.
    DeadIterators,
    /// Shards answer with empty pages before their first record, to workers that end when they have caught up.
    EmptyStarts,
    /// An application begins at the newest record, with clocks that are wrong and tables that come and go.
    LatestStart,
    /// Machines are suspended.
    Suspensions,
    /// The processes of a fleet have different lease durations.
    LeaseDurations,
    /// Calls are refused for seconds.
    Refusals,
    /// Hints get lost while shards roll over and workers come and go.
    LostHints,
    /// The lease table takes no writes for a long time.
    SlowLeaseTable,
    /// The stream is switched off and on.
    StreamToggled,
    /// The table is deleted and made anew.
    TableRemade,
    /// The table is deleted and made anew, and its stream is gone at once.
    StreamPurged,
    /// Records that fail stop shards of which filters leave little, and the workers have little memory.
    SmallBudget,
    /// Calls never return.
    HungCalls,
    /// Processors checkpoint by hand.
    CheckpointsByHand,
    /// The processes of workers that have ended live on.
    LifeAfterRun,
    /// Shards roll over and workers are replaced without an end.
    Churn,
    /// Many shards, all of which are gone when the fleet comes back.
    ManyShards,
    /// A life of days that pass 240 times as fast: each shard rolls over each 4 hours, records stay for 24,
    /// and there is a deploy a day.
    Life,
}

impl Condition {
    /// Puts a scenario under the condition.
    fn apply(self, scenario: &mut Scenario) {
        let rng = &mut Rng::with_seed(scenario.seed ^ 0xF1E1D);
        let end = scenario.chaos_ends;
        let field = &mut scenario.field;
        match self {
            Self::YoungShards => {
                field.window(Kind::YoungShard, 0.5, 0, end);
                field.window(Kind::StaleListing, 0.5, 0, end);
                scenario.actions.extend([(3_000, Action::RolloverAll), (9_000, Action::Split)]);
            }
            Self::MissingIterators => field.window(Kind::NoNextIterator, 0.1, 0, end),
            Self::DeadIterators => {
                scenario.service.iterator_ttl = Duration::from_secs(900);
                let kills = (0..3).map(|_| (2_000 + rng.u64(..) % 14_000, Action::KillIterators));
                scenario.actions = kills.chain([(5_000, Action::Rollover), (9_000, Action::Split)]).collect();
            }
            Self::EmptyStarts => {
                field.until_caught_up = true;
                field.window(Kind::EmptyShard, 1.0, 0, 5_000);
                scenario.generations_before = 3;
                scenario.actions.clear();
            }
            Self::LatestStart => {
                field.start = Some(StartPosition::Latest);
                field.first_start = 5_000;
                let from = 5_000 + rng.u64(..) % 1_000;
                field.window(Kind::NoTables, 1.0, from, from + [0, 3_000, 8_000][below(rng, 3)]);
                scenario.actions = vec![(10_000, Action::RollingRestart), (6_000, Action::RolloverAll)];
            }
            Self::Suspensions => {
                scenario.workers = 3;
                scenario.slowest_record = Duration::from_millis(40);
                let lease = ms(scenario.lease_duration);
                scenario.pauses = [lease + 500, lease + 1_500, lease * 2, lease * 3, lease * 4];
                scenario.actions = (0..4).map(|time| (2_000 + time * 3_500, Action::Suspend)).collect();
            }
            Self::LeaseDurations => {
                field.lease_durations = vec![Duration::from_secs(2), Duration::from_secs(8)];
                scenario.lease_duration = Duration::from_secs(8);
                scenario.workers = 3;
                for from in [3_000, 11_000] {
                    let from = from + rng.u64(..) % 1_500;
                    let cut_off = Window { kind: Kind::NoTables, share: 1.0, process: Some(1), from, until: 0 };
                    field.windows.push(Window { until: from + 6_000, ..cut_off });
                }
                scenario.actions = vec![(4_000, Action::RolloverAll), (9_000, Action::Join)];
            }
            Self::Refusals => {
                let from = 3_000 + rng.u64(..) % 3_000;
                let kind = [Kind::DeniedTables, Kind::DeniedStreams][below(rng, 2)];
                field.window(kind, 1.0, from, from + [500, 4_000, 12_000][below(rng, 3)]);
                scenario.actions = vec![(8_000, Action::Rollover), (10_000, Action::Split)];
            }
            Self::LostHints => {
                field.window(Kind::LostHint, 1.0, 3_000, 13_000);
                scenario.chaos_ends = 40_000;
                churn(scenario, 150);
                scenario.workers = 5;
                scenario.service.initial_shards = 12;
                scenario.actions.extend([(4_000, Action::Crash), (5_500, Action::Join), (8_000, Action::Crash)]);
                scenario.field.longest_delay = Some(20_000);
            }
            Self::SlowLeaseTable => {
                field.window(Kind::ThrottledLease, 1.0, 6_000, 46_000);
                field.longest_delay = Some(10_000);
                scenario.chaos_ends = 46_000;
                scenario.workers = 3;
                scenario.generations_before = 0;
                scenario.service.retention = Duration::from_secs(86_400);
                scenario.actions.clear();
                quiet(scenario);
            }
            Self::StreamToggled => {
                field.window(Kind::StaleListing, 0.5, 0, end);
                let off = 6_000 + rng.u64(..) % 4_000;
                let on = off + [200, 3_000][below(rng, 2)];
                scenario.chaos_ends = 60_000; // the end of the old stream takes settled listings
                scenario.actions =
                    vec![(off - 500, Action::RolloverAll), (off, Action::SwitchOff), (on, Action::SwitchOn)];
            }
            Self::TableRemade | Self::StreamPurged => {
                let at = 6_000 + rng.u64(..) % 4_000;
                scenario.chaos_ends = 60_000;
                scenario.actions = vec![(at, Action::RemakeTable), (at + 4_000, Action::CrashAndReturn)];
                if self == Self::StreamPurged {
                    scenario.actions.push((at, Action::PurgeStreams));
                }
            }
            Self::SmallBudget => {
                field.buffer_bytes = Some(1 << 20);
                field.longest_delay = Some(15_000);
                scenario.delivery = DeliveryScenario {
                    concurrency: [1, 4][below(rng, 2)],
                    batch_size: [None, Some(10)][below(rng, 2)],
                    poison_one_in: Some(8),
                    filters: true,
                    is_selective: true,
                    halts: true,
                    ..DeliveryScenario::default()
                };
                scenario.keys = 6;
                scenario.service.initial_shards = 6;
                scenario.actions.clear();
                quiet(scenario);
            }
            Self::HungCalls => {
                field.hangs_forever = true;
                field.stuck_after = Some(Duration::from_secs(3));
                scenario.delivery.concurrency = 2;
                scenario.delivery.in_all = Some(2);
                scenario.delivery.attempts = 5;
                scenario.workers = 4;
                scenario.service.initial_shards = 6;
                quiet(scenario);
                scenario.hangs = 0.1;
                scenario.actions =
                    vec![(3_000, Action::RolloverAll), (8_000, Action::RolloverAll), (9_000, Action::Join)];
            }
            Self::CheckpointsByHand => field.checkpoints_by_hand = true,
            Self::LifeAfterRun => {
                field.lives_on = true;
                scenario.hangs = 0.1;
                scenario.workers = 3;
                scenario.actions = (0..4).map(|time| (3_000 + time * 3_500, Action::Leave)).collect();
                scenario.actions.extend((0..4).map(|time| (3_100 + time * 3_500, Action::Join)));
            }
            Self::Churn => {
                scenario.chaos_ends = 60_000;
                churn(scenario, 1_500);
                scenario.workers = 3;
                scenario.field.longest_delay = Some(12_000);
                let deploys = scenario.ends() / 12_000;
                scenario.actions.extend((0..deploys).map(|deploy| (4_000 + deploy * 12_000, Action::RollingRestart)));
            }
            Self::ManyShards => {
                field.describe_stream_per_second = Some(10);
                field.most_listings = Some(200);
                scenario.service.initial_shards = 100;
                scenario.service.page_shards = 10;
                scenario.service.retention = Duration::from_secs(20);
                scenario.generations_before = 0;
                scenario.workers = 3;
                scenario.actions = vec![(7_000, Action::StayAway), (9_000, Action::RolloverAll)];
                scenario.chaos_ends = 34_000;
                scenario.disables_stream = false;
                quiet(scenario);
            }
            Self::Life => {
                let days = std::env::var("SHARDKEEPER_SIM_DAYS").ok().and_then(|days| days.parse().ok()).unwrap_or(2);
                scenario.chaos_ends = ms(DAY) * days;
                scenario.lease_duration = Duration::from_secs(5);
                churn(scenario, ms(DAY) / 48);
                scenario.field.longest_delay = Some(12_000);
                scenario.field.most_items = Some(40);
                scenario.field.most_tasks = Some(60);
                scenario.workers = 3;
                scenario.generations_before = 0;
                scenario.service.initial_shards = 8;
                scenario.service.retention = DAY;
                let deploys = (0..days).map(|day| (ms(DAY) * day + 200_000, Action::RollingRestart));
                scenario.actions.extend(deploys);
            }
        }
        scenario.actions.sort();
    }
}

/// Takes everything out of a scenario that delays deliveries.
fn quiet(scenario: &mut Scenario) {
    (scenario.fails, scenario.panics, scenario.hangs) = (0.0, 0.0, 0.0);
    scenario.slowest_record = Duration::ZERO;
    scenario.disables_stream = false;
}

/// Rolls a shard over each `interval`, to the end.
fn churn(scenario: &mut Scenario, interval: Ms) {
    quiet(scenario);
    scenario.field.churns = true;
    scenario.service.retention = Duration::from_secs(86_400);
    scenario.service.page_shards = 100;
    let times = 1..scenario.ends() / interval;
    scenario.actions = times.map(|time| (time * interval, Action::Rollover)).collect();
}

fn check(condition: Condition) {
    check_seeds(condition, SEEDS);
}

fn check_seeds(condition: Condition, seeds: std::ops::Range<u64>) {
    super::check(seeds.collect(), |seed| {
        let mut scenario = Scenario::new(seed, super::CHAOS_MS);
        condition.apply(&mut scenario);
        super::simulate_scenario(&scenario, None)
    });
}

#[test]
fn shards_that_parts_of_the_service_do_not_know_yet_are_read_whole() {
    check(Condition::YoungShards);
}

#[test]
fn open_shards_outlive_pages_without_an_iterator() {
    check(Condition::MissingIterators);
}

#[test]
fn iterators_that_are_refused_for_good_are_replaced() {
    check(Condition::DeadIterators);
}

#[test]
fn workers_that_end_when_caught_up_pass_over_empty_pages() {
    check(Condition::EmptyStarts);
}

#[test]
fn an_application_that_begins_at_the_newest_record_loses_none_after_its_beginning() {
    check(Condition::LatestStart);
}

#[test]
fn a_suspended_machine_delivers_nothing_beside_the_new_owner() {
    check(Condition::Suspensions);
}

#[test]
fn two_lease_durations_in_one_fleet_are_safe() {
    check(Condition::LeaseDurations);
}

#[test]
fn calls_refused_for_seconds_end_no_worker() {
    check(Condition::Refusals);
}

#[test]
fn lost_hints_are_made_up_for_while_shards_roll_over() {
    check(Condition::LostHints);
}

#[test]
fn deliveries_go_on_while_the_lease_table_takes_no_writes() {
    check(Condition::SlowLeaseTable);
}

#[test]
fn a_stream_switched_off_and_on_is_followed() {
    check(Condition::StreamToggled);
}

#[test]
fn a_table_made_anew_is_followed() {
    check(Condition::TableRemade);
}

#[test]
fn a_table_made_anew_is_followed_when_its_old_stream_is_gone() {
    check(Condition::StreamPurged);
}

#[test]
fn shards_that_wait_for_a_record_hold_up_no_other() {
    check(Condition::SmallBudget);
}

#[test]
fn calls_that_never_return_hold_up_no_other_shard() {
    check(Condition::HungCalls);
}

#[test]
fn processors_may_checkpoint_by_hand() {
    check(Condition::CheckpointsByHand);
}

#[test]
fn workers_that_have_ended_deliver_nothing_more() {
    check(Condition::LifeAfterRun);
}

#[test]
fn roll_overs_and_deploys_without_an_end_delay_no_record() {
    check(Condition::Churn);
}

#[test]
fn a_fleet_that_comes_back_to_many_lost_shards_reads_the_new_ones() {
    check(Condition::ManyShards);
}

#[test]
fn over_days_nothing_is_lost_and_no_table_or_process_grows() {
    check_seeds(Condition::Life, 0..1);
}
