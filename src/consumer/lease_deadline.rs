//! The deadline up to which this worker may rely on its leases, by the monotonic clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::clock::millis;

/// The moment up to which this worker may start deliveries: one lease duration after it sent the last heartbeat that
/// arrived.
///
/// Other workers take over later than that by their own clocks, so a worker that starts deliveries only before its
/// deadline is never one of two that read a shard.
#[derive(Clone, Debug)]
pub struct LeaseDeadline {
    origin: Instant,
    /// Milliseconds since `origin`; 0 before the first heartbeat.
    deadline_ms: Arc<AtomicU64>,
    /// The number of times that leases were lost together: the deadline passed, or the fleet forgot this worker.
    epoch: Arc<AtomicU64>,
}

impl LeaseDeadline {
    /// A deadline before the first heartbeat.
    pub fn new() -> Self {
        Self { origin: Instant::now(), deadline_ms: Arc::default(), epoch: Arc::default() }
    }

    /// The current epoch. A lease is valid only in the epoch in which it was taken.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether deliveries on leases taken in `epoch` may start now.
    pub fn is_held(&self, epoch: u64) -> bool {
        millis(self.origin.elapsed()) < self.deadline_ms.load(Ordering::Acquire) && self.epoch() == epoch
    }

    /// The deadline as a moment; `None` before the first heartbeat.
    pub fn deadline(&self) -> Option<Instant> {
        let deadline = self.deadline_ms.load(Ordering::Acquire);
        (deadline > 0).then(|| self.origin + Duration::from_millis(deadline))
    }

    /// Moves the deadline forward, never back. Returns whether it had passed: that starts a new epoch, because other
    /// workers may hold the leases of the last one.
    pub fn extend_to(&self, deadline: Instant) -> bool {
        let last = self.deadline_ms.load(Ordering::Acquire);
        let has_lapsed = last > 0 && millis(self.origin.elapsed()) >= last;
        if has_lapsed {
            self.end_epoch();
        }
        let deadline = millis(deadline.saturating_duration_since(self.origin));
        self.deadline_ms.fetch_max(deadline, Ordering::AcqRel);
        has_lapsed
    }

    /// Invalidates every lease taken so far.
    pub fn end_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

impl Default for LeaseDeadline {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_delivery_starts_after_the_deadline_and_it_never_moves_back() {
        let deadline = LeaseDeadline::new();
        assert!(!deadline.is_held(0));
        deadline.extend_to(Instant::now() + Duration::from_secs(5));
        deadline.extend_to(Instant::now() + Duration::from_secs(1));
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert!(deadline.is_held(0));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!deadline.is_held(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_heartbeat_revives_no_lease() {
        let deadline = LeaseDeadline::new();
        assert!(!deadline.extend_to(Instant::now() + Duration::from_secs(5)));
        let epoch = deadline.epoch();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(deadline.extend_to(Instant::now() + Duration::from_secs(5)));
        assert!(!deadline.is_held(epoch), "another worker may hold it now");
        assert!(deadline.is_held(deadline.epoch()));
    }
}
