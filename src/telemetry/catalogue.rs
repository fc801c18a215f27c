//! The metrics: each defined once, with its unit, its labels and its help text.
//!
//! Names follow Prometheus' conventions; the program adds the labels `app` and `table` to all of them.
//! `docs/metrics.md` is made from this list.

use metrics::Unit;

#[cfg(any(test, feature = "internals"))]
pub use super::metric::Audience;
use super::metric::{Counter, Gauge, Histogram, metric};
pub use super::metric::{Kind, Label, Metric, Shown, Topic};

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

macro_rules! metrics {
    ($($name:ident: $handle:ident $(<$labels:literal>)? = $metric:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $name: $handle $(<$labels>)? = $handle::new($metric.help($help));
        )*

        /// All metrics.
        pub static ALL: &[&Metric] = &[$($name.metric()),*];
    };
}

use Shown::{ByLeader, ByProgram, OnEvent, PerShard};
use Topic::{Api, Lag, Leases, Processor, Resources, Shards, Throughput, Worker};
use Unit::{Bytes, Count, Seconds};

metrics! {
    // Lag.
    LAG: Gauge<1> = metric(Lag, "shardkeeper_lag_seconds", Seconds).labels(&[STAT]),
        "How long the oldest change that is not yet processed has been waiting, over this worker's shards.";
    FETCH_LAG: Gauge<1> = metric(Lag, "shardkeeper_fetch_lag_seconds", Seconds).labels(&[STAT]),
        "How long the oldest change that is not yet fetched has been waiting, over this worker's shards.";
    CHECKPOINT_LAG: Gauge<1> = metric(Lag, "shardkeeper_checkpoint_lag_seconds", Seconds).labels(&[STAT]),
        "How long the oldest change that is not yet checkpointed has been waiting, over this worker's shards: what a \
         crash would have delivered again.";
    GROUP_LAG: Gauge = metric(Lag, "shardkeeper_group_lag_seconds", Seconds).shown(ByLeader),
        "The lag of the shard that is furthest behind, over all unfinished shards of the application: those that \
         nobody owns, that wait for a parent or that nobody has begun included.";
    TRIM_HEADROOM: Gauge = metric(Lag, "shardkeeper_group_trim_headroom_seconds", Seconds).shown(ByLeader),
        "How long until the service trims the oldest change that is not yet checkpointed, over all shards of the \
         application: 24 hours less its age. At zero data is lost.";
    SHARD_LAG: Gauge<1> = metric(Lag, "shardkeeper_shard_lag_seconds", Seconds)
        .labels(&[Label { name: "shard", values: &[] }]).shown(PerShard),
        "The lag of one shard, by the worker that reads it.";
    END_TO_END: Histogram = metric(Lag, "shardkeeper_end_to_end_latency_seconds", Seconds).buckets(WAIT_SECONDS),
        "How old the oldest record of a batch was when the batch was processed, an observation a batch. Records' times \
         are whole seconds, rounded down.";

    // Records and pages.
    RECORDS_FETCHED: Counter = metric(Throughput, "shardkeeper_records_fetched_total", Count),
        "Records that came from the service.";
    BYTES_FETCHED: Counter = metric(Throughput, "shardkeeper_bytes_fetched_total", Bytes),
        "Bytes of records, as JSON, that came from the service.";
    RECORDS_PROCESSED: Counter<2> = metric(Throughput, "shardkeeper_records_processed_total", Count).labels(&[
            Label { name: "result", values: &["ok", "filtered", "skipped", "dead_lettered"] },
            Label { name: "event", values: &["INSERT", "MODIFY", "REMOVE", "other"] },
        ]),
        "Records that are done with, each counted once, at its final outcome.";
    BYTES_PROCESSED: Counter = metric(Throughput, "shardkeeper_bytes_processed_total", Bytes),
        "Bytes of records, as JSON, that the processor took.";
    BATCHES: Counter = metric(Throughput, "shardkeeper_batches_total", Count),
        "Batches of records that the processor took.";
    BATCH_RECORDS: Histogram = metric(Throughput, "shardkeeper_batch_records", Count).buckets(RECORDS),
        "How many records a batch held that the processor took.";
    PAGES: Counter<1> = metric(Throughput, "shardkeeper_getrecords_pages_total", Count)
        .labels(&[Label { name: "kind", values: &["full", "partial", "empty"] }]),
        "Pages of GetRecords: full ones (1000 records or 1 MB), others, and those without a record.";
    DATA_GAPS: Counter<1> = metric(Throughput, "shardkeeper_data_gaps_total", Count)
        .labels(&[Label { name: "reason", values: &["trimmed", "not_found"] }]).shown(OnEvent),
        "Times that data is lost: the service had trimmed records before they were read, or no longer knows a shard.";
    ITERATORS_EXPIRED: Counter = metric(Throughput, "shardkeeper_iterators_expired_total", Count).shown(OnEvent).for_debugging(),
        "Shard iterators that were too old when they were used. Reading continues with a new one; nothing is lost.";

    // The user's processor.
    PROCESSOR_SECONDS: Histogram = metric(Processor, "shardkeeper_processor_seconds", Seconds).buckets(CALL_SECONDS),
        "How long the processor took for a batch, whether it succeeded or failed.";
    PROCESSOR_ERRORS: Counter = metric(Processor, "shardkeeper_processor_errors_total", Count).shown(OnEvent),
        "Calls of the processor that failed.";
    RECORD_RETRIES: Counter = metric(Processor, "shardkeeper_record_retries_total", Count).shown(OnEvent),
        "Records that were handed to the processor once more after a failure.";
    BATCH_BISECTS: Counter = metric(Processor, "shardkeeper_batch_bisects_total", Count).shown(OnEvent),
        "Failed batches that were split in two to find the record at fault.";
    DEAD_LETTERS_FAILED: Counter = metric(Processor, "shardkeeper_dead_letters_failed_total", Count).shown(OnEvent),
        "Attempts to write a record to the dead letters that failed.";
    SHARDS_HALTED: Gauge = metric(Processor, "shardkeeper_shards_halted", Count),
        "Shards of this worker that wait at a record which keeps failing, as their failure policy says.";

    // Leases and shards.
    LEASES_HELD: Gauge = metric(Leases, "shardkeeper_leases_held", Count),
        "Leases that this worker owns.";
    FAIR_SHARE: Gauge = metric(Leases, "shardkeeper_leases_fair_share", Count),
        "Leases that each live worker would own if all had the same number.";
    LEASES_ACQUIRED: Counter<1> = metric(Leases, "shardkeeper_leases_acquired_total", Count).labels(&[Label {
            name: "reason",
            values: &["new", "child", "assigned", "returned"],
        }]),
        "Leases that this worker began to read: of new shards, of a finished shard's children, assigned by the leader \
         after others had them or nobody, or its own again after a restart or a pause.";
    LEASES_LOST: Counter<1> = metric(Leases, "shardkeeper_leases_lost_total", Count)
        .labels(&[Label { name: "reason", values: &["handed_over", "released", "taken", "stuck"] }]).shown(OnEvent),
        "Leases that this worker stopped reading before the shard's end: handed over to another worker, released, taken \
         by another (or held in doubt after a pause), or released because the processor hung.";
    HAND_OFF_SECONDS: Histogram = metric(Leases, "shardkeeper_lease_hand_off_seconds", Seconds).buckets(WAIT_SECONDS).shown(OnEvent),
        "How long a hand-over took, from when the old owner heard of it until it had finished and let go.";
    FAILOVER_SECONDS: Histogram = metric(Leases, "shardkeeper_failover_seconds", Seconds).buckets(WAIT_SECONDS).shown(OnEvent),
        "How long a shard was without a live owner: from the last heartbeat seen of the dead one until the leader had \
         assigned the lease. An observation a lease, by the leader.";
    CHECKPOINTS: Counter<1> = metric(Leases, "shardkeeper_checkpoints_total", Count)
        .labels(&[Label { name: "result", values: &["ok", "fenced", "error"] }]),
        "Checkpoints: written, refused because the lease was another's by then, or failed.";
    CHECKPOINT_SECONDS: Histogram = metric(Leases, "shardkeeper_checkpoint_seconds", Seconds).buckets(CALL_SECONDS),
        "How long writing a checkpoint took, its retries included.";
    HEARTBEAT_AGE: Gauge = metric(Leases, "shardkeeper_heartbeat_age_seconds", Seconds),
        "How long ago the last heartbeat was sent that arrived. At the lease duration this worker stops delivering and \
         others take over.";
    LEASE_DURATION: Gauge = metric(Leases, "shardkeeper_lease_duration_seconds", Seconds),
        "The lease duration that this worker runs with.";

    // The stream's shards.
    GROUP_SHARDS: Gauge<1> = metric(Shards, "shardkeeper_group_shards", Count).labels(&[Label {
            name: "state",
            values: &[
                "reading", "blocked_on_parent", "handing_over", "unowned", "owner_silent", "no_lease", "broken_row",
                "finished",
            ],
        }]).shown(ByLeader),
        "Shards of the application by state, as in `shardkeeper status`.";
    SHARDS_STUCK: Gauge<1> = metric(Shards, "shardkeeper_shards_stuck", Count)
        .labels(&[Label { name: "cause", values: &["processor", "retrying", "unavailable", "dead_letters", "reading", "memory", "concurrency"] }]),
        "Shards of this worker that have not moved for longer than --unready-after: a call of the processor lasts, it \
         keeps failing, it is busy or away, its dead letters cannot be written, reading keeps failing, other shards hold the buffer, or their calls leave none for this one.";
    SHARDS_FINISHED: Counter = metric(Shards, "shardkeeper_shards_finished_total", Count).shown(OnEvent),
        "Shards that this worker read to their end.";
    CHILD_START_SECONDS: Histogram = metric(Shards, "shardkeeper_child_start_seconds", Seconds).buckets(WAIT_SECONDS).shown(OnEvent),
        "How long it took from a shard's end until its children were begun, where this worker reads both.";
    DISCOVERY_AGE: Gauge = metric(Shards, "shardkeeper_discovery_age_seconds", Seconds).shown(ByLeader),
        "How long ago the last complete listing of the stream's shards came in; before the leader's first, how long it has led.";
    DISCOVERY_SECONDS: Histogram = metric(Shards, "shardkeeper_discovery_seconds", Seconds).buckets(WAIT_SECONDS)
        .shown(OnEvent).for_debugging(),
        "How long a complete listing of the stream's shards took, by the leader.";

    // Calls of the services.
    API_CALLS: Counter<2> = metric(Api, "shardkeeper_api_calls_total", Count).labels(&[
            OPERATION,
            Label { name: "outcome", values: &[
                "ok", "condition_failed", "expired_iterator", "failed", "no_answer", "not_found", "refused", "throttled",
                "trimmed",
            ] },
        ]),
        "Calls of DynamoDB and DynamoDB Streams, each attempt of its own, by what came of it.";
    API_SECONDS: Histogram<1> = metric(Api, "shardkeeper_api_seconds", Seconds).buckets(CALL_SECONDS)
        .labels(&[OPERATION]),
        "How long a call took until its answer began, an observation an attempt.";
    ESTIMATED_COST: Counter<1> = metric(Api, "shardkeeper_estimated_cost_nanodollars_total", Count)
        .labels(&[Label { name: "part", values: &["records", "coordination"] }]),
        "What this worker's calls cost at the list price of us-east-1, on demand, without the free tier, in billionths \
         of a US dollar: GetRecords calls, and what coordination reads and writes in the lease and fleet tables.";
    IDLE_POLLS: Gauge = metric(Api, "shardkeeper_idle_polls_per_second", Count).for_debugging(),
        "GetRecords calls a second on this worker's shards without records, at their present intervals (--idle-poll, \
         --idle-poll-max).";
    IDLE_POLLS_COST: Gauge = metric(Api, "shardkeeper_idle_polls_dollars_per_month", Count).for_debugging(),
        "What these calls cost in a month of 730 hours, in US dollars at the list price of us-east-1, without the free tier.";

    // Memory and the like.
    IN_FLIGHT_RECORDS: Gauge = metric(Resources, "shardkeeper_in_flight_records", Count),
        "Records that are fetched and not yet processed.";
    BUFFERED: Gauge = metric(Resources, "shardkeeper_buffered_bytes", Bytes),
        "Bytes of the buffer in use: records fetched and not yet done, and pages on their way.";
    BUFFER_LIMIT: Gauge = metric(Resources, "shardkeeper_buffer_limit_bytes", Bytes),
        "The size of the buffer (--buffer-bytes).";
    BACKPRESSURE: Counter = metric(Resources, "shardkeeper_backpressure_seconds_total", Seconds),
        "For how long readers have waited for the processor or for memory, summed over this worker's shards.";
    OVERLOADED: Gauge = metric(Resources, "shardkeeper_overloaded", Count).for_debugging(),
        "Whether this worker's processors cannot keep up, so that it gets no further leases: 1 or 0.";
    PROCESS_CPU: Counter = metric(Resources, "shardkeeper_process_cpu_seconds_total", Seconds).shown(ByProgram),
        "Processor time that this process has used.";
    PROCESS_RESIDENT: Gauge = metric(Resources, "shardkeeper_process_resident_memory_bytes", Bytes).shown(ByProgram),
        "Memory that this process has in use.";

    // The worker as a whole.
    READY: Gauge = metric(Worker, "shardkeeper_ready", Count),
        "Whether this worker is ready, as /ready says: 1 or 0.";
    IS_LEADER: Gauge = metric(Worker, "shardkeeper_is_leader", Count),
        "Whether this worker leads the fleet: 1 or 0.";
    WORKERS_ALIVE: Gauge = metric(Worker, "shardkeeper_workers_alive", Count),
        "Live workers of the application, as this worker sees them.";
    DESIRED_WORKERS: Gauge = metric(Worker, "shardkeeper_desired_workers", Count).shown(ByLeader),
        "How many workers the present load calls for: by throughput and lag, between --min-workers and --max-workers, \
         and never more than there are shards to read at once.";
    LAST_PROGRESS: Gauge = metric(Worker, "shardkeeper_last_progress_timestamp_seconds", Seconds),
        "When this worker last fetched a page or was done with a batch, in seconds since 1970.";
    LOOP_AGE: Gauge<1> = metric(Worker, "shardkeeper_loop_age_seconds", Seconds)
        .labels(&[Label { name: "loop", values: &["heartbeat", "keeper", "leader"] }]).for_debugging(),
        "How long ago each of the coordination's loops last came round.";
    CONFIG_RELOADS: Counter<1> = metric(Worker, "shardkeeper_config_reloads_total", Count)
        .labels(&[Label { name: "result", values: &["applied", "unchanged", "refused"] }]).shown(ByProgram).for_debugging(),
        "Times that the configuration file was read again, by what came of it.";
    CONFIG_LAST_RELOAD_SUCCESSFUL: Gauge =
        metric(Worker, "shardkeeper_config_last_reload_successful", Count).shown(ByProgram).for_debugging(),
        "Whether the configuration file was right when it was last read: 1 or 0.";
    START_TIME: Gauge = metric(Worker, "shardkeeper_start_time_seconds", Seconds),
        "When this worker started, in seconds since 1970.";
    BUILD_INFO: Gauge<1> = metric(Worker, "shardkeeper_build_info", Count).labels(&[Label { name: "version", values: &[] }]),
        "1, with the program's version as a label.";
}

/// Tells the process's recorder, once it is installed, about all metrics: their units, their help texts, and the zeros
/// that counters begin with.
pub fn describe() {
    ALL.iter().for_each(|metric| metric.describe());
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
