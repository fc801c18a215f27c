//! The metrics: each defined once, with its unit and what it says.
//!
//! They go through the `metrics` facade: a program that installs no recorder pays next to nothing. Names follow
//! Prometheus' conventions; the program adds the labels `app` and `table`.

use metrics::Unit;

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

/// A metric of shardkeeper.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, as Prometheus sees it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// What it says, in a sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident: $kind:ident, $unit:ident, $name:literal, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, unit: Unit::$unit, help: $help };
        )*

        /// All metrics.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BATCHES: Counter, Count, "shardkeeper_batches_total",
        "Batches of records that the processor took.";
    BYTES_PROCESSED: Counter, Bytes, "shardkeeper_bytes_processed_total",
        "Bytes of records, as JSON, that the processor took.";
    BUFFERED: Gauge, Bytes, "shardkeeper_buffered_bytes",
        "Bytes of the buffer in use: records fetched and not yet done, and pages on their way.";
    CHECKPOINTS: Counter, Count, "shardkeeper_checkpoints_total",
        "Checkpoints written by interval.";
    DATA_GAPS: Counter, Count, "shardkeeper_data_gaps_total",
        "Times that the service had trimmed records before they were read. Data is lost.";
    IS_LEADER: Gauge, Count, "shardkeeper_is_leader",
        "Whether this worker leads the fleet: 1 or 0.";
    LAG: Gauge, Seconds, "shardkeeper_lag_seconds",
        "How long the oldest change not yet delivered has been waiting, over this worker's shards: max, p50 and p99.";
    LEASES_HELD: Gauge, Count, "shardkeeper_leases_held",
        "Leases that this worker owns.";
    PROCESSOR_ERRORS: Counter, Count, "shardkeeper_processor_errors_total",
        "Calls of the processor that failed and were tried again.";
    PROCESSOR_SECONDS: Histogram, Seconds, "shardkeeper_processor_seconds",
        "How long the processor took for a batch.";
    RECORDS_FILTERED: Counter, Count, "shardkeeper_records_filtered_total",
        "Records that were read and, by the filters, not handed to the processor.";
    RECORDS_PROCESSED: Counter, Count, "shardkeeper_records_processed_total",
        "Records that the processor took.";
    WORKERS_ALIVE: Gauge, Count, "shardkeeper_workers_alive",
        "Live workers of the application, as this worker sees them.";
}

/// Tells the recorder, once it is installed, what each metric is.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_prometheus() {
        for metric in ALL {
            assert!(metric.name.starts_with("shardkeeper_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.help.ends_with('.') || metric.help.ends_with(". Data is lost."), "{}", metric.name);
            let names_unit = |unit: &str| metric.name.contains(unit);
            assert!(metric.unit != Unit::Seconds || names_unit("_seconds"), "{}", metric.name);
            assert!(metric.unit != Unit::Bytes || names_unit("_bytes"), "{}", metric.name);
        }
    }
}
