//! What the consumers of a worker have done, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::core::record::{EventName, Record, RecordBatch};
use crate::metrics;

/// The counters of a worker; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    records: AtomicU64,
    bytes: AtomicU64,
    batches: AtomicU64,
    failures: AtomicU64,
    processing_us: AtomicU64,
    checkpoints: AtomicU64,
    gaps: AtomicU64,
    skipped: AtomicU64,
    dead_lettered: AtomicU64,
}

/// What the counters show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records that a processor took.
    pub records: u64,
    /// Their bytes, as JSON.
    pub bytes: u64,
    /// Batches that a processor took.
    pub batches: u64,
    /// Calls of a processor that failed.
    pub failures: u64,
    /// The time spent in processors.
    pub processing: Duration,
    /// Checkpoints written by interval.
    pub checkpoints: u64,
    /// Times that records were trimmed before they were read.
    pub gaps: u64,
    /// Records that were given up and passed over.
    pub skipped: u64,
    /// Records that were given up and are kept as dead letters.
    pub dead_lettered: u64,
}

/// How records came to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The processor took them.
    Ok,
    /// They were given up and passed over.
    Skipped,
    /// They were given up and are kept as dead letters.
    DeadLettered,
}

impl Outcome {
    /// A value of the label `result` of [`metrics::RECORDS_PROCESSED`].
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

impl Counters {
    /// A processor's call has come back; `attempt` says how often its records had failed before.
    pub(super) fn call(&self, records: &RecordBatch, attempt: u32, is_ok: bool, took: Duration) {
        let inner = &self.0;
        if is_ok {
            inner.batches.fetch_add(1, Ordering::Relaxed);
            ::metrics::counter!(metrics::BATCHES.name).increment(1);
        } else {
            inner.failures.fetch_add(1, Ordering::Relaxed);
            ::metrics::counter!(metrics::PROCESSOR_ERRORS.name).increment(1);
        }
        if attempt > 0 {
            ::metrics::counter!(metrics::RECORD_RETRIES.name).increment(records.len() as u64);
        }
        ::metrics::histogram!(metrics::PROCESSOR_SECONDS.name).record(took.as_secs_f64());
        inner.processing_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Records are done with.
    pub(super) fn done(&self, records: &RecordBatch, bytes: usize, outcome: Outcome) {
        let inner = &self.0;
        let count = records.len() as u64;
        match outcome {
            Outcome::Ok => {
                inner.records.fetch_add(count, Ordering::Relaxed);
                inner.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                ::metrics::counter!(metrics::BYTES_PROCESSED.name).increment(bytes as u64);
            }
            Outcome::Skipped => drop(inner.skipped.fetch_add(count, Ordering::Relaxed)),
            Outcome::DeadLettered => drop(inner.dead_lettered.fetch_add(count, Ordering::Relaxed)),
        }
        show_outcomes(records.iter(), outcome.as_str());
    }

    /// A failed batch was cut.
    pub(super) fn bisect(&self) {
        ::metrics::counter!(metrics::BATCH_BISECTS.name).increment(1);
    }

    /// A dead letter could not be kept.
    pub(super) fn dead_letter_failed(&self) {
        ::metrics::counter!(metrics::DEAD_LETTERS_FAILED.name).increment(1);
    }

    pub(super) fn checkpoint(&self) {
        self.0.checkpoints.fetch_add(1, Ordering::Relaxed);
        ::metrics::counter!(metrics::CHECKPOINTS.name).increment(1);
    }

    pub(super) fn gap(&self) {
        self.0.gaps.fetch_add(1, Ordering::Relaxed);
        ::metrics::counter!(metrics::DATA_GAPS.name).increment(1);
    }

    /// What was counted so far.
    pub fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let inner = &self.0;
        Totals {
            records: read(&inner.records),
            bytes: read(&inner.bytes),
            batches: read(&inner.batches),
            failures: read(&inner.failures),
            processing: Duration::from_micros(read(&inner.processing_us)),
            checkpoints: read(&inner.checkpoints),
            gaps: read(&inner.gaps),
            skipped: read(&inner.skipped),
            dead_lettered: read(&inner.dead_lettered),
        }
    }
}

/// Shows that records are done with, by their events. `result` is one of the values of that label of
/// [`metrics::RECORDS_PROCESSED`].
pub(super) fn show_outcomes<'a>(records: impl Iterator<Item = Record<'a>>, result: &'static str) {
    let mut counts = [0_u64; EVENTS.len()];
    for record in records {
        counts[match record.event_name() {
            EventName::Insert => 0,
            EventName::Modify => 1,
            EventName::Remove => 2,
            EventName::Other => 3,
        }] += 1;
    }
    for (event, count) in EVENTS.iter().zip(counts).filter(|(_, count)| *count > 0) {
        ::metrics::counter!(metrics::RECORDS_PROCESSED.name, "result" => result, "event" => *event).increment(count);
    }
}

/// The values of the label `event`.
const EVENTS: [&str; 4] = ["INSERT", "MODIFY", "REMOVE", "other"];
