//! The counters of a worker's consumers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::WallClock;
use crate::model::record::{EventName, Record, RecordBatch};
use crate::telemetry::catalogue;

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
    filtered: AtomicU64,
    skipped: AtomicU64,
    dead_lettered: AtomicU64,
}

/// A snapshot of the [`Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records for which a processor returned `Ok`.
    pub records: u64,
    /// The bytes of these records, as JSON.
    pub bytes: u64,
    /// Batches for which a processor returned `Ok`.
    pub batches: u64,
    /// Processor calls that failed.
    pub failures: u64,
    /// The time spent in processor calls.
    pub processing: Duration,
    /// Automatic checkpoints written.
    pub checkpoints: u64,
    /// Gaps: records were trimmed before they were read.
    pub gaps: u64,
    /// Records that the filters left out.
    pub filtered: u64,
    /// Records that the failure policy skipped.
    pub skipped: u64,
    /// Records that the failure policy dead-lettered.
    pub dead_lettered: u64,
}

/// The way in which records were acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The processor returned `Ok`.
    Ok,
    Skipped,
    DeadLettered,
}

impl Outcome {
    /// A value of the label `result` of [`catalogue::RECORDS_PROCESSED`].
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

impl Counters {
    /// Counts a processor call; `attempt` is the number of earlier calls with its records.
    pub(super) fn call(&self, records: &RecordBatch, attempt: u32, is_ok: bool, took: Duration, clock: WallClock) {
        let inner = &self.0;
        if is_ok {
            inner.batches.fetch_add(1, Ordering::Relaxed);
            count_batch(records, clock);
        } else {
            inner.failures.fetch_add(1, Ordering::Relaxed);
            catalogue::PROCESSOR_ERRORS.inc([]);
        }
        if attempt > 0 {
            catalogue::RECORD_RETRIES.add([], records.len() as u64);
        }
        catalogue::PROCESSOR_SECONDS.record([], took.as_secs_f64());
        inner.processing_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts acknowledged records.
    pub(super) fn done(&self, records: &RecordBatch, bytes: usize, outcome: Outcome) {
        let inner = &self.0;
        let count = records.len() as u64;
        match outcome {
            Outcome::Ok => {
                inner.records.fetch_add(count, Ordering::Relaxed);
                inner.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                catalogue::BYTES_PROCESSED.add([], bytes as u64);
            }
            Outcome::Skipped => {
                inner.skipped.fetch_add(count, Ordering::Relaxed);
            }
            Outcome::DeadLettered => {
                inner.dead_lettered.fetch_add(count, Ordering::Relaxed);
            }
        }
        EventCounts::of(records.iter()).count(outcome.as_str());
    }

    /// Counts a failed batch that was bisected.
    pub(super) fn bisect(&self) {
        catalogue::BATCH_BISECTS.inc([]);
    }

    /// Counts a failed attempt to write a dead letter.
    pub(super) fn dead_letter_failed(&self) {
        catalogue::DEAD_LETTERS_FAILED.inc([]);
    }

    pub(super) fn checkpoint(&self) {
        self.0.checkpoints.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a gap, with one of the reasons of [`catalogue::DATA_GAPS`].
    pub(crate) fn gap(&self, reason: &'static str) {
        self.0.gaps.fetch_add(1, Ordering::Relaxed);
        catalogue::DATA_GAPS.inc([reason]);
    }

    /// Counts records that the filters left out.
    pub(super) fn filtered(&self, records: &EventCounts) {
        self.0.filtered.fetch_add(records.0.iter().sum(), Ordering::Relaxed);
        records.count("filtered");
    }

    /// Returns the counts so far.
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
            filtered: read(&inner.filtered),
            skipped: read(&inner.skipped),
            dead_lettered: read(&inner.dead_lettered),
        }
    }
}

fn count_batch(records: &RecordBatch, clock: WallClock) {
    catalogue::BATCHES.inc([]);
    #[expect(clippy::cast_precision_loss, reason = "a page has no more than thousands of records")]
    catalogue::BATCH_RECORDS.record([], records.len() as f64);
    if let Some(created_ms) = records.first().and_then(|record| record.created_ms()) {
        let age = Duration::from_millis(clock.now_ms().saturating_sub(created_ms));
        catalogue::END_TO_END.record([], age.as_secs_f64());
    }
}

/// Numbers of records by event name.
#[derive(Debug, Default)]
pub(super) struct EventCounts([u64; EVENTS.len()]);

/// The values of the label `event`.
const EVENTS: [&str; 4] = ["INSERT", "MODIFY", "REMOVE", "other"];

impl EventCounts {
    pub(super) fn of<'a>(records: impl Iterator<Item = Record<'a>>) -> Self {
        let mut counts = Self::default();
        records.for_each(|record| counts.add(&record));
        counts
    }

    pub(super) fn add(&mut self, record: &Record<'_>) {
        self.0[match record.event_name() {
            EventName::Insert => 0,
            EventName::Modify => 1,
            EventName::Remove => 2,
            EventName::Other => 3,
        }] += 1;
    }

    /// Adds them to the metric, with `result` one of that label's values of [`catalogue::RECORDS_PROCESSED`].
    pub(super) fn count(&self, result: &'static str) {
        for (event, count) in EVENTS.iter().zip(self.0).filter(|(_, count)| *count > 0) {
            catalogue::RECORDS_PROCESSED.add([result, *event], count);
        }
    }
}
