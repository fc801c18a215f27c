//! The records that wait for their turn, by item: of each item only the oldest may go, and only while none of its
//! records is in flight.

use std::collections::{BTreeMap, VecDeque};

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
}

/// The waiting records of all items.
#[derive(Debug, Default)]
pub(super) struct Queues {
    keys: BTreeMap<u64, Queue>,
    /// Of each item that has records waiting and none in flight, the oldest.
    ready: BTreeMap<u64, u64>,
    ready_records: usize,
    ready_bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    in_flight: usize,
}

impl Queues {
    /// Adds a record behind all others.
    pub(super) fn push(&mut self, key: u64, record: Waiting) {
        let queue = self.keys.entry(key).or_default();
        let is_free = queue.in_flight == 0;
        if is_free && queue.waiting.is_empty() {
            self.ready.insert(record.number, key);
        }
        queue.waiting.push_back(record);
        queue.bytes += record.bytes;
        if is_free {
            self.ready_records += 1;
            self.ready_bytes += record.bytes;
        }
    }

    /// Notes that a record of an item is in flight which never waited here.
    pub(super) fn hold(&mut self, key: u64) {
        self.keys.entry(key).or_default().in_flight += 1;
    }

    /// The number of ready items.
    pub(super) fn ready_keys(&self) -> usize {
        self.ready.len()
    }

    /// The number of ready records, and their bytes.
    pub(super) fn ready(&self) -> (usize, usize) {
        (self.ready_records, self.ready_bytes)
    }

    /// The number of the oldest record that is ready.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.ready.first_key_value().map(|(number, _)| *number)
    }

    /// Takes ready records within the limits, in order; from now on they are in flight. At least one, if any is ready.
    pub(super) fn take(&mut self, limits: TakeLimits) -> Vec<(u64, u64)> {
        let mut heads = BTreeMap::new();
        for _ in 0..limits.keys.min(limits.records).max(1) {
            let Some((number, key)) = self.ready.pop_first() else { break };
            self.count_ready(key, false);
            heads.insert(number, key);
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(head) = heads.first_entry() {
            let (number, key) = (*head.key(), *head.get());
            let queue = self.keys.get_mut(&key).expect("an item that is ready has a queue");
            let record = *queue.waiting.front().expect("an item that is ready has a record waiting");
            let is_full = taken.len() >= limits.records || bytes + record.bytes > limits.bytes;
            if is_full && !taken.is_empty() {
                break;
            }
            head.remove();
            queue.waiting.pop_front();
            queue.bytes -= record.bytes;
            queue.in_flight += 1;
            bytes += record.bytes;
            taken.push((number, key));
            if let Some(next) = queue.waiting.front() {
                heads.insert(next.number, key);
            }
        }
        // Items of which nothing was taken are ready as before.
        for (number, key) in heads {
            if self.keys.get(&key).is_some_and(|queue| queue.in_flight == 0) {
                self.ready.insert(number, key);
                self.count_ready(key, true);
            }
        }
        taken
    }

    /// Notes that one record of an item is no longer in flight.
    pub(super) fn release(&mut self, key: u64) {
        let Some(queue) = self.keys.get_mut(&key) else { return };
        queue.in_flight -= 1;
        if queue.in_flight > 0 {
            return;
        }
        match queue.waiting.front() {
            None => drop(self.keys.remove(&key)),
            Some(next) => {
                self.ready.insert(next.number, key);
                self.count_ready(key, true);
            }
        }
    }

    /// Puts a taken record back, which is older than all waiting ones of its item. To be followed by
    /// [`release`](Self::release).
    pub(super) fn put_back(&mut self, key: u64, record: Waiting) {
        let queue = self.keys.entry(key).or_default();
        debug_assert!(queue.in_flight > 0 && queue.waiting.front().is_none_or(|next| next.number > record.number));
        queue.waiting.push_front(record);
        queue.bytes += record.bytes;
    }

    fn count_ready(&mut self, key: u64, becomes: bool) {
        let Some(queue) = self.keys.get(&key) else { return };
        let (records, bytes) = (queue.waiting.len(), queue.bytes);
        if becomes {
            self.ready_records += records;
            self.ready_bytes += bytes;
        } else {
            self.ready_records -= records;
            self.ready_bytes -= bytes;
        }
    }
}
