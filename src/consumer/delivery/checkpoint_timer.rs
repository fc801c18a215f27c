//! The timer of automatic checkpoints.

use std::time::Duration;

use tokio::time::Instant;

use crate::options::Checkpoints;

/// The records after which a busy shard is checkpointed before the interval is over.
const CHECKPOINT_RECORDS: usize = 10_000;
/// The part of the interval after which a consumer's first checkpoint is due. The part doubles with each checkpoint, so
/// that a worker that keeps crashing makes progress all the same.
const FIRST_CHECKPOINT_PART: u32 = 16;

/// The time of the next checkpoint, counted from the first record acknowledged after the last one began.
pub(super) struct CheckpointTimer {
    /// `None` for checkpoints by hand.
    interval: Option<Duration>,
    next_delay: Duration,
    due: Option<Instant>,
    /// The records acknowledged since the last checkpoint began.
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

    /// Adds acknowledged records.
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

    /// Makes a checkpoint of acknowledged records due at once.
    pub(super) fn hasten(&mut self) {
        self.due = self.due.map(|_| Instant::now());
    }

    /// Counts anew: a checkpoint of all acknowledged records is on its way.
    pub(super) fn started(&mut self) {
        if let (Some(interval), Some(_)) = (self.interval, self.due.take()) {
            self.next_delay = (self.next_delay * 2).min(interval);
        }
        self.records = 0;
    }
}
