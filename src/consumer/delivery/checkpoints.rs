//! When the next checkpoint of a shard is due.

use std::time::Duration;

use tokio::time::Instant;

use crate::options::Checkpoints;

/// A busy shard is checkpointed after this many records, however short the time.
const CHECKPOINT_RECORDS: usize = 10_000;
/// A consumer's first checkpoint comes after this part of the interval, the next after twice that, and so on: so a
/// worker that keeps crashing gets on all the same.
const FIRST_CHECKPOINT_PART: u32 = 16;

/// See the file's head.
pub(super) struct CheckpointTimer {
    interval: Option<Duration>,
    next_delay: Duration,
    due: Option<Instant>,
    records: usize,
}

impl CheckpointTimer {
    pub(super) fn new(checkpoints: Checkpoints) -> Self {
        let interval = match checkpoints {
            Checkpoints::Automatic { interval } => Some(interval),
            Checkpoints::Manual => None,
        };
        let next_delay = interval.unwrap_or_default() / FIRST_CHECKPOINT_PART;
        Self { interval, next_delay, due: None, records: 0 }
    }

    /// Notes that this many records are done with.
    pub(super) fn note(&mut self, records: usize) {
        if self.interval.is_some() {
            self.records += records;
            self.due.get_or_insert_with(|| Instant::now() + self.next_delay);
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn is_full(&self) -> bool {
        self.records >= CHECKPOINT_RECORDS
    }

    pub(super) fn saved(&mut self) {
        if let (Some(interval), Some(_)) = (self.interval, self.due.take()) {
            self.next_delay = (self.next_delay * 2).min(interval);
        }
        self.records = 0;
    }
}
