//! The log of a shard's reading faults, which sums an outage up in a few lines.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::lease::ShardId;

/// The duration of the faults at the first log line.
const FIRST_REPORT: Duration = Duration::from_secs(1);

/// The reading faults of one shard since the last good page.
pub(super) struct FaultLog {
    shard: ShardId,
    count: u64,
    since: Instant,
    next_report: Duration,
}

impl FaultLog {
    pub(super) fn new(shard: ShardId) -> Self {
        Self { shard, count: 0, since: Instant::now(), next_report: FIRST_REPORT }
    }

    /// Counts a fault, and logs it when the faults have lasted four times as long as at the last log line.
    pub(super) fn note(&mut self, reason: &str) {
        if self.count == 0 {
            (self.since, self.next_report) = (Instant::now(), FIRST_REPORT);
        }
        self.count += 1;
        let lasted = self.since.elapsed();
        if lasted >= self.next_report {
            self.next_report = lasted * 4;
            tracing::warn!(shard = %self.shard, faults = self.count, lasted_s = lasted.as_secs(), reason, "reading failed, retrying");
        }
    }

    pub(super) fn note_throttled(&self, reason: &str) {
        tracing::debug!(shard = %self.shard, reason, "reading throttled");
    }

    /// The number of faults since the last good page.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The time of the first of the faults.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Ends the series of faults after a good page.
    pub(super) fn clear(&mut self) {
        if self.count > 0 && self.next_report > FIRST_REPORT {
            tracing::info!(shard = %self.shard, faults = self.count, "reading recovered");
        }
        self.count = 0;
    }
}
