//! One page of a shard while records of it are open.

use std::ops::Range;
use std::time::Duration;

use crate::model::record::{PageSummary, RecordBatch};
use crate::model::sequence_number::SequenceNumber;

/// A page, and which of its records are done.
#[derive(Debug)]
pub(super) struct Page<T> {
    /// The number of its first record, counting all records of the shard that came in.
    pub(super) first: u64,
    /// Its records; none any more when all are done.
    pub(super) records: RecordBatch,
    pub(super) count: usize,
    pub(super) bytes: usize,
    /// The shard is dealt with up to here once the page is, and everything before it.
    pub(super) through: SequenceNumber,
    pub(super) created_ms: Option<u64>,
    pub(super) arrived: Duration,
    done: Marks,
    /// Kept until all records are done.
    tag: Option<T>,
}

/// Which of some things are done: mostly a run from the first on.
#[derive(Debug, Default)]
struct Marks {
    /// All before this one are done.
    prefix: usize,
    /// How many are done, in all.
    count: usize,
    /// Those that are done behind the prefix, by place; made when there is one.
    scattered: Vec<bool>,
}

impl<T> Page<T> {
    pub(super) fn new(first: u64, records: RecordBatch, page: &PageSummary, arrived: Duration, tag: T) -> Self {
        let count = records.len();
        let bytes = if count == page.records { page.bytes } else { records.bytes_len() };
        let (through, created_ms) = (page.last.clone(), page.newest_ms);
        let tag = (count > 0).then_some(tag);
        Self { first, records, count, bytes, through, created_ms, arrived, done: Marks::default(), tag }
    }

    /// The number behind its last record's.
    pub(super) fn end(&self) -> u64 {
        self.first + self.count as u64
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.count == self.count
    }

    /// How many records from the first on are done.
    pub(super) fn done_prefix(&self) -> usize {
        self.done.prefix
    }

    /// Whether the record at a place is done.
    pub(super) fn has_done(&self, index: usize) -> bool {
        index < self.done.prefix || self.done.scattered.get(index).copied().unwrap_or_default()
    }

    /// Notes that the records at these places are done. With the last of them, the page lets go of its records and of
    /// what is kept for it.
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
