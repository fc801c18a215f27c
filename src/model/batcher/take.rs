//! The records that wait for their turn, by item: of each item only the oldest may go, and only while none of its
//! records is in flight.
//!
//! A record goes out only if few others wait before it: those, and one for each batch in flight, are no more than a lease row
//! can name as open. So whatever is done beyond the position can be stored whole, at the latest when no call is in flight.

use std::collections::{BTreeMap, BTreeSet};

/// A waiting record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Its number among the shard's records.
    pub(super) number: u64,
    /// Its size as JSON.
    pub(super) bytes: usize,
}

/// The limits of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct TakeLimits {
    pub(super) records: usize,
    /// A single record may be larger.
    pub(super) bytes: usize,
    /// The most items.
    pub(super) keys: usize,
    /// The most waiting records that are passed over.
    pub(super) skipped: usize,
}

/// The waiting records of all items.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// By number, the item and the size.
    waiting: BTreeMap<u64, (u64, usize)>,
    keys: BTreeMap<u64, Item>,
    /// Those of items that have no record in flight.
    ready: Count,
}

#[derive(Debug, Default)]
struct Item {
    waiting: Count,
    in_flight: usize,
}

/// Items, their records, and the bytes of these.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    keys: usize,
    records: usize,
    bytes: usize,
}

impl Queues {
    /// Adds a record: behind all others, or one that was taken, which is to be [released](Self::release) then.
    pub(super) fn push(&mut self, key: u64, record: Waiting) {
        self.update(key, |item| item.waiting.add(record.bytes));
        self.waiting.insert(record.number, (key, record.bytes));
    }

    /// Notes that a record of an item is in flight which never waited here.
    pub(super) fn hold(&mut self, key: u64) {
        self.keys.entry(key).or_default().in_flight += 1;
    }

    /// The number of ready items.
    pub(super) fn ready_keys(&self) -> usize {
        self.ready.keys
    }

    /// The number of ready records, and their bytes.
    pub(super) fn ready(&self) -> (usize, usize) {
        (self.ready.records, self.ready.bytes)
    }

    /// The number of the oldest record that may go out when so many are passed over at most.
    pub(super) fn oldest(&self, skipped: usize) -> Option<u64> {
        let mut first = self.waiting.iter().take(skipped.saturating_add(1));
        first.find(|(_, (key, _))| self.is_free(*key)).map(|(number, _)| *number)
    }

    /// Takes ready records within the limits, in order; from now on they are in flight. At least one, if any may go out.
    pub(super) fn take(&mut self, limits: TakeLimits) -> Vec<(u64, u64)> {
        let (mut keys, mut taken, mut bytes, mut skipped) = (BTreeSet::new(), Vec::new(), 0, 0);
        for (number, (key, size)) in &self.waiting {
            let is_full = taken.len() >= limits.records || bytes + size > limits.bytes;
            if skipped > limits.skipped || is_full && !taken.is_empty() {
                break;
            }
            if keys.contains(key) || (keys.len() < limits.keys.max(1) && self.is_free(*key)) {
                keys.insert(*key);
                taken.push((*number, *key));
                bytes += size;
            } else {
                skipped += 1;
            }
        }
        for (number, key) in &taken {
            let Some((_, bytes)) = self.waiting.remove(number) else { continue };
            self.update(*key, |item| {
                item.waiting.remove(bytes);
                item.in_flight += 1;
            });
        }
        taken
    }

    /// Notes that one record of an item is no longer in flight.
    pub(super) fn release(&mut self, key: u64) {
        self.update(key, |item| item.in_flight -= 1);
    }

    fn is_free(&self, key: u64) -> bool {
        self.keys.get(&key).is_none_or(|item| item.in_flight == 0)
    }

    /// Changes an item, and what is ready with it.
    fn update(&mut self, key: u64, change: impl FnOnce(&mut Item)) {
        let item = self.keys.entry(key).or_default();
        let before = item.ready();
        change(item);
        let after = item.ready();
        self.ready.keys = self.ready.keys + after.keys - before.keys;
        self.ready.records = self.ready.records + after.records - before.records;
        self.ready.bytes = self.ready.bytes + after.bytes - before.bytes;
        if item.in_flight == 0 && item.waiting.records == 0 {
            self.keys.remove(&key);
        }
    }
}

impl Item {
    fn ready(&self) -> Count {
        if self.in_flight == 0 { self.waiting } else { Count::default() }
    }
}

impl Count {
    /// Adds a record of one item.
    fn add(&mut self, bytes: usize) {
        (self.keys, self.records, self.bytes) = (1, self.records + 1, self.bytes + bytes);
    }

    fn remove(&mut self, bytes: usize) {
        (self.records, self.bytes) = (self.records - 1, self.bytes - bytes);
        self.keys = self.records.min(1);
    }
}
