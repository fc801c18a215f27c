//! What the consumers of a worker have done, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::WallClock;
use super::reader::seconds_to_ms;
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
    filtered: AtomicU64,
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
    /// Records that the filters left out.
    pub filtered: u64,
}

impl Counters {
    /// A processor's call has returned.
    pub(super) fn batch(&self, records: &RecordBatch, is_ok: bool, took: Duration, clock: WallClock) {
        let inner = &self.0;
        if is_ok {
            inner.records.fetch_add(records.len() as u64, Ordering::Relaxed);
            inner.bytes.fetch_add(records.bytes_len() as u64, Ordering::Relaxed);
            inner.batches.fetch_add(1, Ordering::Relaxed);
            show_batch(records, clock);
        } else {
            inner.failures.fetch_add(1, Ordering::Relaxed);
            ::metrics::counter!(metrics::PROCESSOR_ERRORS.name).increment(1);
        }
        ::metrics::histogram!(metrics::PROCESSOR_SECONDS.name).record(took.as_secs_f64());
        inner.processing_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn checkpoint(&self) {
        self.0.checkpoints.fetch_add(1, Ordering::Relaxed);
    }

    /// Data is lost, for one of the reasons of [`metrics::DATA_GAPS`].
    pub(super) fn gap(&self, reason: &'static str) {
        self.0.gaps.fetch_add(1, Ordering::Relaxed);
        ::metrics::counter!(metrics::DATA_GAPS.name, "reason" => reason).increment(1);
    }

    /// Records were left out by the filters.
    pub(super) fn filtered(&self, records: &Outcomes) {
        self.0.filtered.fetch_add(records.0.iter().sum(), Ordering::Relaxed);
        records.show("filtered");
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
            filtered: read(&inner.filtered),
        }
    }
}

/// Shows a batch that a processor took.
fn show_batch(records: &RecordBatch, clock: WallClock) {
    Outcomes::of(records.iter()).show("ok");
    ::metrics::counter!(metrics::BYTES_PROCESSED.name).increment(records.bytes_len() as u64);
    ::metrics::counter!(metrics::BATCHES.name).increment(1);
    #[expect(clippy::cast_precision_loss, reason = "a page has no more than thousands of records")]
    ::metrics::histogram!(metrics::BATCH_RECORDS.name).record(records.len() as f64);
    if let Some(created) = records.first().and_then(|record| record.created_at()) {
        let age = Duration::from_millis(clock.now_ms().saturating_sub(seconds_to_ms(created)));
        ::metrics::histogram!(metrics::END_TO_END.name).record(age.as_secs_f64());
    }
}

/// Records that are done with, counted by their events.
#[derive(Debug, Default)]
pub(super) struct Outcomes([u64; EVENTS.len()]);

/// The values of the label `event`.
const EVENTS: [&str; 4] = ["INSERT", "MODIFY", "REMOVE", "other"];

impl Outcomes {
    pub(super) fn of<'a>(records: impl Iterator<Item = Record<'a>>) -> Self {
        let mut outcomes = Self::default();
        records.for_each(|record| outcomes.add(&record));
        outcomes
    }

    pub(super) fn add(&mut self, record: &Record<'_>) {
        self.0[match record.event_name() {
            EventName::Insert => 0,
            EventName::Modify => 1,
            EventName::Remove => 2,
            EventName::Other => 3,
        }] += 1;
    }

    /// Shows them with `result`, one of the values of that label of [`metrics::RECORDS_PROCESSED`].
    pub(super) fn show(&self, result: &'static str) {
        for (event, count) in EVENTS.iter().zip(self.0).filter(|(_, count)| *count > 0) {
            ::metrics::counter!(metrics::RECORDS_PROCESSED.name, "result" => result, "event" => *event)
                .increment(count);
        }
    }
}
