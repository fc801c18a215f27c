//! One page of a shard while records of it are open.

use std::ops::Range;
use std::time::Duration;

use crate::model::record::{PageSummary, RecordBatch};
use crate::model::sequence_number::SequenceNumber;

/// A page and its acknowledged records.
#[derive(Debug)]
pub(super) struct Page<T> {
    /// The number of its first record, counting all records of the shard that came in.
    pub(super) first: u64,
    /// Its records; empty once all are acknowledged.
    pub(super) records: RecordBatch,
    pub(super) count: usize,
    /// The records of the whole page, those left out included.
    pub(super) read_records: usize,
    /// The bytes of the whole page.
    pub(super) read_bytes: usize,
    /// The position of its last record, those left out included.
    pub(super) through: SequenceNumber,
    pub(super) created_ms: Option<u64>,
    pub(super) arrived: Duration,
    done: AckBits,
    /// Kept until all records are acknowledged.
    tag: Option<T>,
}

/// The acknowledged records of a page: mostly a run from the first on.
#[derive(Debug, Default)]
struct AckBits {
    /// The length of the acknowledged run from the first record on.
    prefix: usize,
    /// The number of acknowledged records.
    count: usize,
    /// The acknowledged records after the prefix, by place; created when there is one.
    scattered: Vec<bool>,
}

impl<T> Page<T> {
    pub(super) fn new(first: u64, records: RecordBatch, page: &PageSummary, arrived: Duration, tag: T) -> Self {
        let count = records.len();
        let (through, created_ms) = (page.last.clone(), page.newest_ms);
        let (read_records, read_bytes) = (page.records, page.bytes);
        // A page of which nothing is left to deliver keeps no memory.
        let (records, tag) = if count > 0 { (records, Some(tag)) } else { (RecordBatch::default(), None) };
        Self {
            first,
            records,
            count,
            read_records,
            read_bytes,
            through,
            created_ms,
            arrived,
            done: AckBits::default(),
            tag,
        }
    }

    /// The number after its last record's.
    pub(super) fn end(&self) -> u64 {
        self.first + self.count as u64
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.count == self.count
    }

    pub(super) fn done_prefix(&self) -> usize {
        self.done.prefix
    }

    pub(super) fn has_done(&self, index: usize) -> bool {
        index < self.done.prefix || self.done.scattered.get(index).copied().unwrap_or_default()
    }

    /// Acknowledges the records at these places. With the last of them, the page drops its records and its tag.
    pub(super) fn mark(&mut self, places: Range<usize>) {
        if places.start == self.done.prefix && self.done.scattered.is_empty() {
            self.done.count += places.len();
            self.done.prefix = places.end;
        } else {
            self.done.scattered.resize(self.count, false);
            for place in places.start.max(self.done.prefix)..places.end {
                self.done.count += usize::from(!self.done.scattered[place]);
                self.done.scattered[place] = true;
            }
            while self.done.scattered.get(self.done.prefix) == Some(&true) {
                self.done.prefix += 1;
            }
        }
        if self.is_done() {
            (self.records, self.tag, self.done.scattered) = (RecordBatch::default(), None, Vec::new());
        }
    }
}
