//! The metrics: each defined once, with its unit, its labels and what it says.
//!
//! They go through the `metrics` facade: a program that installs no recorder pays next to nothing. Names follow
//! Prometheus' conventions; the program adds the labels `app` and `table` to all of them. Counters hold whole numbers,
//! so what is less than one of a unit is carried over until it makes one.
//!
//! `docs/metrics.md` is made from this list.

use metrics::{Label as Pair, Level, Metadata, Unit};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

/// When there is something to see of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// On every worker, soon after its start.
    Always,
    /// On the worker that leads the fleet, and nowhere else.
    ByLeader,
    /// Once such a thing has happened. Counters with fixed label values and histograms are there at nought before.
    OnEvent,
    /// When one series a shard is asked for (`--metrics-per-shard`).
    PerShard,
    /// By the program `shardkeeper`, not by the library within another one.
    ByProgram,
}

/// Whom a metric is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever runs workers: it is on the dashboard.
    Dashboard,
    /// Whoever looks for the cause of something.
    Debugging,
}

/// The part of a worker that a metric speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// How far behind the delivery is.
    Lag,
    /// Records and pages.
    Throughput,
    /// The user's processor.
    Processor,
    /// Who reads what.
    Leases,
    /// The stream's shards.
    Shards,
    /// Calls of the services.
    Api,
    /// Memory and the like.
    Resources,
    /// The worker as a whole.
    Worker,
}

/// A label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All values it may have; none listed when they are not fixed.
    pub values: &'static [&'static str],
}

/// A metric of shardkeeper.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, as Prometheus sees it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// What it says.
    pub help: &'static str,
    /// Its labels, besides `app` and `table`.
    pub labels: &'static [Label],
    /// The upper bounds of a histogram's buckets.
    pub buckets: &'static [f64],
    /// When it is there.
    pub shown: Shown,
    /// Whom it is for.
    pub audience: Audience,
    /// What it is about.
    pub topic: Topic,
}

/// Which of a worker's shards a figure speaks of.
pub const STAT: Label = Label { name: "stat", values: &["max", "p50", "p99"] };

/// The operations that the worker calls.
pub const OPERATION: Label = Label {
    name: "operation",
    values: &[
        "BatchGetItem",
        "CreateTable",
        "DeleteItem",
        "DescribeStream",
        "DescribeTable",
        "GetItem",
        "GetRecords",
        "GetShardIterator",
        "PutItem",
        "Query",
        "Scan",
        "TransactWriteItems",
        "UpdateItem",
        "other",
    ],
};

/// Upper bounds for calls and processors, in seconds.
const CALL_SECONDS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Upper bounds for hand-offs, take-overs and the ages of records, in seconds.
const WAIT_SECONDS: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0];
/// Upper bounds for numbers of records.
const RECORDS: &[f64] = &[1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0];

const fn metric(topic: Topic, kind: Kind, name: &'static str, unit: Unit) -> Metric {
    Metric {
        name,
        kind,
        unit,
        help: "",
        labels: &[],
        buckets: &[],
        shown: Shown::Always,
        audience: Audience::Dashboard,
        topic,
    }
}

const fn counter(topic: Topic, name: &'static str, unit: Unit) -> Metric {
    metric(topic, Kind::Counter, name, unit)
}

const fn gauge(topic: Topic, name: &'static str, unit: Unit) -> Metric {
    metric(topic, Kind::Gauge, name, unit)
}

const fn histogram(topic: Topic, name: &'static str, unit: Unit, buckets: &'static [f64]) -> Metric {
    Metric { buckets, ..metric(topic, Kind::Histogram, name, unit) }
}

impl Metric {
    const fn labels(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    const fn shown(self, shown: Shown) -> Self {
        Self { shown, ..self }
    }

    const fn for_debugging(self) -> Self {
        Self { audience: Audience::Debugging, ..self }
    }

    const fn saying(self, help: &'static str) -> Self {
        Self { help, ..self }
    }
}

macro_rules! metrics {
    ($($constant:ident = $metric:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = $metric.saying($help);
        )*

        /// All metrics.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

use Shown::{ByLeader, ByProgram, OnEvent, PerShard};
use Topic::{Api, Lag, Leases, Processor, Resources, Shards, Throughput, Worker};
use Unit::{Bytes, Count, Seconds};

metrics! {
    // How far behind.
    LAG = gauge(Lag, "shardkeeper_lag_seconds", Seconds).labels(&[STAT]),
        "How long the oldest change that is not yet processed has been waiting, over this worker's shards.";
    FETCH_LAG = gauge(Lag, "shardkeeper_fetch_lag_seconds", Seconds).labels(&[STAT]),
        "How long the oldest change that is not yet fetched has been waiting, over this worker's shards.";
    CHECKPOINT_LAG = gauge(Lag, "shardkeeper_checkpoint_lag_seconds", Seconds).labels(&[STAT]),
        "How long the oldest change that is not yet checkpointed has been waiting, over this worker's shards: what a \
         crash would have delivered again.";
    GROUP_LAG = gauge(Lag, "shardkeeper_group_lag_seconds", Seconds).shown(ByLeader),
        "The lag of the shard that is furthest behind, over all unfinished shards of the application: those that \
         nobody owns, that wait for a parent or that nobody has begun included.";
    TRIM_HEADROOM = gauge(Lag, "shardkeeper_group_trim_headroom_seconds", Seconds).shown(ByLeader),
        "How long until the service trims the oldest change that is not yet checkpointed, over all shards of the \
         application: 24 hours less its age. At nought data is lost.";
    SHARD_LAG = gauge(Lag, "shardkeeper_shard_lag_seconds", Seconds)
        .labels(&[Label { name: "shard", values: &[] }]).shown(PerShard),
        "The lag of one shard, by the worker that reads it.";
    END_TO_END = histogram(Lag, "shardkeeper_end_to_end_latency_seconds", Seconds, WAIT_SECONDS),
        "How old the oldest record of a batch was when the batch was processed, an observation a batch. Records' times \
         are whole seconds, rounded down.";

    // Records and pages.
    RECORDS_FETCHED = counter(Throughput, "shardkeeper_records_fetched_total", Count),
        "Records that came from the service.";
    BYTES_FETCHED = counter(Throughput, "shardkeeper_bytes_fetched_total", Bytes),
        "Bytes of records, as JSON, that came from the service.";
    RECORDS_PROCESSED = counter(Throughput, "shardkeeper_records_processed_total", Count).labels(&[
            Label { name: "result", values: &["ok", "filtered", "skipped", "dead_lettered"] },
            Label { name: "event", values: &["INSERT", "MODIFY", "REMOVE", "other"] },
        ]),
        "Records that are done with, each counted once, at its final outcome.";
    BYTES_PROCESSED = counter(Throughput, "shardkeeper_bytes_processed_total", Bytes),
        "Bytes of records, as JSON, that the processor took.";
    BATCHES = counter(Throughput, "shardkeeper_batches_total", Count),
        "Batches of records that the processor took.";
    BATCH_RECORDS = histogram(Throughput, "shardkeeper_batch_records", Count, RECORDS),
        "How many records a batch held that the processor took.";
    PAGES = counter(Throughput, "shardkeeper_getrecords_pages_total", Count)
        .labels(&[Label { name: "kind", values: &["full", "partial", "empty"] }]),
        "Pages of GetRecords: full ones (1000 records or 1 MB), others, and those without a record.";
    DATA_GAPS = counter(Throughput, "shardkeeper_data_gaps_total", Count)
        .labels(&[Label { name: "reason", values: &["trimmed", "not_found"] }]).shown(OnEvent),
        "Times that data is lost: the service had trimmed records before they were read, or knows a shard no more.";
    ITERATORS_EXPIRED = counter(Throughput, "shardkeeper_iterators_expired_total", Count).shown(OnEvent).for_debugging(),
        "Shard iterators that were too old when they were used. Reading goes on with a new one; nothing is lost.";

    // The user's processor.
    PROCESSOR_SECONDS = histogram(Processor, "shardkeeper_processor_seconds", Seconds, CALL_SECONDS),
        "How long the processor took for a batch, whether it succeeded or failed.";
    PROCESSOR_ERRORS = counter(Processor, "shardkeeper_processor_errors_total", Count).shown(OnEvent),
        "Calls of the processor that failed.";
    RECORD_RETRIES = counter(Processor, "shardkeeper_record_retries_total", Count).shown(OnEvent),
        "Records that were handed to the processor once more after a failure.";
    BATCH_BISECTS = counter(Processor, "shardkeeper_batch_bisects_total", Count).shown(OnEvent),
        "Failed batches that were split in two to find the record at fault.";
    DEAD_LETTERS_FAILED = counter(Processor, "shardkeeper_dead_letters_failed_total", Count).shown(OnEvent),
        "Attempts to write a record to the dead letters that failed.";
    SHARDS_HALTED = gauge(Processor, "shardkeeper_shards_halted", Count),
        "Shards of this worker that stand still at a record which keeps failing, as their failure policy says.";

    // Who reads what.
    LEASES_HELD = gauge(Leases, "shardkeeper_leases_held", Count),
        "Leases that this worker owns.";
    FAIR_SHARE = gauge(Leases, "shardkeeper_leases_fair_share", Count),
        "Leases that each live worker would own if all had the same number.";
    LEASES_ACQUIRED = counter(Leases, "shardkeeper_leases_acquired_total", Count).labels(&[Label {
            name: "reason",
            values: &["new", "child", "assigned", "returned"],
        }]),
        "Leases that this worker began to read: of new shards, of a finished shard's children, assigned by the leader \
         after others had them or nobody, or its own again after a restart or a pause.";
    LEASES_LOST = counter(Leases, "shardkeeper_leases_lost_total", Count)
        .labels(&[Label { name: "reason", values: &["handed_over", "released", "taken", "stuck"] }]).shown(OnEvent),
        "Leases that this worker read no more before the shard's end: handed over to another worker, given up, taken \
         by another (or held in doubt after a pause), or given up because the processor hung.";
    HAND_OFF_SECONDS = histogram(Leases, "shardkeeper_lease_hand_off_seconds", Seconds, WAIT_SECONDS).shown(OnEvent),
        "How long a hand-over took, from when the old owner heard of it until it had finished and let go.";
    FAILOVER_SECONDS = histogram(Leases, "shardkeeper_failover_seconds", Seconds, WAIT_SECONDS).shown(OnEvent),
        "How long a shard was without a live owner: from the last heartbeat seen of the dead one until the leader had \
         assigned the lease. An observation a lease, by the leader.";
    CHECKPOINTS = counter(Leases, "shardkeeper_checkpoints_total", Count)
        .labels(&[Label { name: "result", values: &["ok", "fenced", "error"] }]),
        "Checkpoints: written, refused because the lease was another's by then, or failed.";
    CHECKPOINT_SECONDS = histogram(Leases, "shardkeeper_checkpoint_seconds", Seconds, CALL_SECONDS),
        "How long writing a checkpoint took, its retries included.";
    HEARTBEAT_AGE = gauge(Leases, "shardkeeper_heartbeat_age_seconds", Seconds),
        "How long ago the last heartbeat was sent that arrived. At the lease duration this worker stops delivering and \
         others take over.";
    LEASE_DURATION = gauge(Leases, "shardkeeper_lease_duration_seconds", Seconds),
        "The lease duration that this worker runs with.";

    // The stream's shards.
    GROUP_SHARDS = gauge(Shards, "shardkeeper_group_shards", Count).labels(&[Label {
            name: "state",
            values: &[
                "reading", "blocked_on_parent", "handing_over", "unowned", "owner_silent", "no_lease", "broken_row",
                "finished",
            ],
        }]).shown(ByLeader),
        "Shards of the application by state, as in `shardkeeper status`.";
    SHARDS_STUCK = gauge(Shards, "shardkeeper_shards_stuck", Count)
        .labels(&[Label { name: "cause", values: &["processor", "retrying", "reading"] }]),
        "Shards of this worker that have not moved for longer than --unready-after: a call of the processor lasts, it \
         keeps failing, or reading keeps failing.";
    SHARDS_FINISHED = counter(Shards, "shardkeeper_shards_finished_total", Count).shown(OnEvent),
        "Shards that this worker read to their end.";
    CHILD_START_SECONDS = histogram(Shards, "shardkeeper_child_start_seconds", Seconds, WAIT_SECONDS).shown(OnEvent),
        "How long it took from a shard's end until its children were begun, where this worker reads both.";
    DISCOVERY_AGE = gauge(Shards, "shardkeeper_discovery_age_seconds", Seconds).shown(ByLeader),
        "How long ago the last complete listing of the stream's shards came in.";
    DISCOVERY_SECONDS = histogram(Shards, "shardkeeper_discovery_seconds", Seconds, WAIT_SECONDS)
        .shown(OnEvent).for_debugging(),
        "How long a complete listing of the stream's shards took, by the leader.";

    // Calls of the services.
    API_CALLS = counter(Api, "shardkeeper_api_calls_total", Count).labels(&[
            OPERATION,
            Label { name: "outcome", values: &[
                "ok", "condition_failed", "expired_iterator", "failed", "no_answer", "not_found", "refused", "throttled",
                "trimmed",
            ] },
        ]),
        "Calls of DynamoDB and DynamoDB Streams, each attempt of its own, by what came of it.";
    API_SECONDS = histogram(Api, "shardkeeper_api_seconds", Seconds, CALL_SECONDS)
        .labels(&[OPERATION]),
        "How long a call took until its answer began, an observation an attempt.";
    ESTIMATED_COST = counter(Api, "shardkeeper_estimated_cost_nanodollars_total", Count)
        .labels(&[Label { name: "part", values: &["records", "coordination"] }]),
        "What this worker's calls cost at the list price of us-east-1, on demand, without the free tier, in billionths \
         of a US dollar: GetRecords calls, and what coordination reads and writes in the lease and fleet tables.";

    // Memory and the like.
    IN_FLIGHT_RECORDS = gauge(Resources, "shardkeeper_in_flight_records", Count),
        "Records that are fetched and not yet processed.";
    BUFFERED = gauge(Resources, "shardkeeper_buffered_bytes", Bytes),
        "Bytes of the buffer in use: records fetched and not yet done, and pages on their way.";
    BUFFER_LIMIT = gauge(Resources, "shardkeeper_buffer_limit_bytes", Bytes),
        "The size of the buffer (--buffer-bytes).";
    BACKPRESSURE = counter(Resources, "shardkeeper_backpressure_seconds_total", Seconds),
        "For how long readers have waited for the processor or for memory, summed over this worker's shards.";
    OVERLOADED = gauge(Resources, "shardkeeper_overloaded", Count).for_debugging(),
        "Whether this worker's processors cannot keep up, so that it gets no further leases: 1 or 0.";
    PROCESS_CPU = counter(Resources, "shardkeeper_process_cpu_seconds_total", Seconds).shown(ByProgram),
        "Processor time that this process has used.";
    PROCESS_RESIDENT = gauge(Resources, "shardkeeper_process_resident_memory_bytes", Bytes).shown(ByProgram),
        "Memory that this process has in use.";

    // The worker as a whole.
    READY = gauge(Worker, "shardkeeper_ready", Count),
        "Whether this worker gets on, as /ready says: 1 or 0.";
    IS_LEADER = gauge(Worker, "shardkeeper_is_leader", Count),
        "Whether this worker leads the fleet: 1 or 0.";
    WORKERS_ALIVE = gauge(Worker, "shardkeeper_workers_alive", Count),
        "Live workers of the application, as this worker sees them.";
    DESIRED_WORKERS = gauge(Worker, "shardkeeper_desired_workers", Count).shown(ByLeader),
        "How many workers the present load calls for: by throughput and lag, between --min-workers and --max-workers, \
         and never more than there are shards to read at once.";
    LAST_PROGRESS = gauge(Worker, "shardkeeper_last_progress_timestamp_seconds", Seconds),
        "When this worker last fetched a page or was done with a batch, in seconds since 1970.";
    LOOP_AGE = gauge(Worker, "shardkeeper_loop_age_seconds", Seconds)
        .labels(&[Label { name: "loop", values: &["heartbeat", "keeper", "leader"] }]).for_debugging(),
        "How long ago each of the coordination's loops last came round.";
    START_TIME = gauge(Worker, "shardkeeper_start_time_seconds", Seconds),
        "When this worker started, in seconds since 1970.";
    BUILD_INFO = gauge(Worker, "shardkeeper_build_info", Count).labels(&[Label { name: "version", values: &[] }]),
        "1, with the program's version as a label.";
}

/// Counters with more combinations of label values than this begin with the first that happens.
const MOST_SERIES_AT_ZERO: usize = 16;

/// Tells the recorder, once it is installed, what each metric is, and begins the counters and histograms whose series
/// are known, so that their first step shows.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.help),
        }
        metric.begin();
    }
}

impl Metric {
    /// Begins the series of a counter or histogram, unless they are many or not fixed.
    fn begin(&self) {
        let count: usize = self.labels.iter().map(|label| label.values.len()).product();
        if self.kind == Kind::Gauge || count == 0 || count > MOST_SERIES_AT_ZERO {
            return;
        }
        let mut series: Vec<Vec<Pair>> = vec![Vec::new()];
        for label in self.labels {
            let with = |pairs: &Vec<Pair>, value: &'static str| {
                let mut pairs = pairs.clone();
                pairs.push(Pair::from_static_parts(label.name, value));
                pairs
            };
            series = series.iter().flat_map(|pairs| label.values.iter().map(move |value| with(pairs, value))).collect();
        }
        let metadata = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));
        metrics::with_recorder(|recorder| {
            for pairs in series {
                let key = metrics::Key::from_parts(self.name, pairs);
                match self.kind {
                    Kind::Counter => drop(recorder.register_counter(&key, &metadata)),
                    Kind::Histogram => drop(recorder.register_histogram(&key, &metadata)),
                    Kind::Gauge => {}
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_prometheus() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("shardkeeper_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
            assert!(metric.unit != Unit::Seconds || name.contains("_seconds"), "{name}");
            assert!(metric.unit != Unit::Bytes || name.contains("bytes"), "{name}");
            assert_eq!(metric.buckets.is_empty(), metric.kind != Kind::Histogram, "{name}");
            assert!(metric.buckets.is_sorted(), "{name}");
        }
    }

    #[test]
    fn each_name_is_defined_once() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
