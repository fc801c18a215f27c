//! What the consumers of a worker have done, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
    pub(super) fn batch(&self, records: usize, bytes: usize, is_ok: bool, took: Duration) {
        let inner = &self.0;
        if is_ok {
            inner.records.fetch_add(records as u64, Ordering::Relaxed);
            inner.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            inner.batches.fetch_add(1, Ordering::Relaxed);
            ::metrics::counter!(metrics::RECORDS_PROCESSED.name).increment(records as u64);
            ::metrics::counter!(metrics::BYTES_PROCESSED.name).increment(bytes as u64);
            ::metrics::counter!(metrics::BATCHES.name).increment(1);
        } else {
            inner.failures.fetch_add(1, Ordering::Relaxed);
            ::metrics::counter!(metrics::PROCESSOR_ERRORS.name).increment(1);
        }
        ::metrics::histogram!(metrics::PROCESSOR_SECONDS.name).record(took.as_secs_f64());
        inner.processing_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn checkpoint(&self) {
        self.0.checkpoints.fetch_add(1, Ordering::Relaxed);
        ::metrics::counter!(metrics::CHECKPOINTS.name).increment(1);
    }

    pub(super) fn gap(&self) {
        self.0.gaps.fetch_add(1, Ordering::Relaxed);
        ::metrics::counter!(metrics::DATA_GAPS.name).increment(1);
    }

    pub(super) fn filtered(&self, records: usize) {
        self.0.filtered.fetch_add(records as u64, Ordering::Relaxed);
        ::metrics::counter!(metrics::RECORDS_FILTERED.name).increment(records as u64);
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
