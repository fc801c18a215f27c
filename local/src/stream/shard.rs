//! One shard: a range of the ring, its records, its end.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::answer::PreparedPage;
use super::record::StoredRecord;
use crate::limits::RateLimit;
use crate::timestamp::Timestamp;

/// A shard of a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shard {
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    /// The part of the ring whose changes come here, both ends included.
    pub(crate) range: (u64, u64),
    pub(crate) created: Timestamp,
    /// The sequence number that the shard begins at.
    pub(crate) start: u128,
    /// The time of closing, and the ending sequence number.
    pub(crate) closed: Option<(Timestamp, u128)>,
    /// The records that are not trimmed yet, oldest first.
    pub(crate) records: VecDeque<StoredRecord>,
    /// Prepared answers, by the first position of their pages.
    pub(crate) prepared: BTreeMap<u128, PreparedPage>,
    /// The newest record that is trimmed.
    pub(crate) trimmed_to: Option<u128>,
    pub(crate) reads: RateLimit,
}

/// The limits of a page.
pub(crate) struct PageSize {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// A page of a shard's records.
pub(crate) struct Page<'a> {
    pub(crate) records: Vec<&'a StoredRecord>,
    /// The least sequence number of the next page; `None` when the shard is closed and read to its end.
    pub(crate) next: Option<u128>,
}

impl Shard {
    /// Closes an open shard at its last record's number, or at its first number if it never had one.
    pub(crate) fn close(&mut self, now: Timestamp) {
        debug_assert!(self.closed.is_none(), "a shard closes once");
        let newest = self.records.back().map(|record| record.sequence);
        let ending = newest.or(self.trimmed_to).unwrap_or(self.start);
        self.closed = Some((now, ending));
    }

    /// The oldest position that can still be read.
    pub(crate) fn horizon(&self) -> u128 {
        self.trimmed_to.map_or(self.start, |trimmed| trimmed + 1)
    }

    /// The position of the first record whose creation time, as records tell it in whole seconds, is at or after `time`.
    pub(crate) fn position_at(&self, time: Timestamp) -> Option<u128> {
        let is_before = |record: &StoredRecord| record.created.as_secs() * 1000 < time.as_millis();
        let first = self.records.partition_point(is_before);
        self.records.get(first).map(|record| record.sequence)
    }

    /// Whether records from `position` on are no longer all there.
    pub(crate) fn is_trimmed_at(&self, position: u128) -> bool {
        self.trimmed_to.is_some_and(|trimmed| position <= trimmed)
    }

    /// Drops the records created before `horizon`.
    pub(crate) fn trim(&mut self, horizon: Timestamp) {
        while self.records.front().is_some_and(|record| record.created < horizon) {
            if let Some(record) = self.records.pop_front() {
                self.trimmed_to = Some(record.sequence);
            }
        }
        if let Some(trimmed) = self.trimmed_to {
            self.prepared = self.prepared.split_off(&(trimmed + 1));
        }
    }

    /// The page that begins at `position`; it always takes one record if there is one.
    pub(crate) fn page(&self, position: u128, size: &PageSize) -> Page<'_> {
        let first = self.records.partition_point(|record| record.sequence < position);
        let mut bytes = 0;
        let mut records = Vec::new();
        for record in self.records.range(first..).take(size.records) {
            bytes += record.json.len() + 1;
            if bytes > size.bytes && !records.is_empty() {
                break;
            }
            records.push(record);
        }
        let at_end = first + records.len() == self.records.len();
        let next = match records.last() {
            _ if at_end && self.closed.is_some() => None,
            Some(last) => Some(last.sequence + 1),
            None => Some(position),
        };
        Page { records, next }
    }

    /// The API's `Shard` as it was at a time: an open one has no `EndingSequenceNumber`.
    pub(crate) fn to_json(&self, then: Timestamp) -> Value {
        let mut range = json!({"StartingSequenceNumber": self.start.to_string()});
        if let Some((_, ending)) = self.closed.filter(|(closed, _)| *closed <= then) {
            range["EndingSequenceNumber"] = ending.to_string().into();
        }
        let mut shard = json!({"ShardId": self.id, "SequenceNumberRange": range});
        if let Some(parent) = &self.parent {
            shard["ParentShardId"] = parent.clone().into();
        }
        shard
    }
}
