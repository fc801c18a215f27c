//! The deadline up to which this worker may rely on its leases, by a clock that a suspension doesn't stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::{Stopwatch, WallClock};
use crate::model::millis;

/// The moment up to which this worker may start deliveries: one lease duration after it sent the last heartbeat that
/// arrived.
///
/// Other workers take over later than that by their own clocks, so a worker that starts deliveries only before its
/// deadline is never one of two that read a shard.
#[derive(Clone, Debug)]
pub struct LeaseDeadline {
    clock: Stopwatch,
    /// Milliseconds of `clock`; 0 before the first heartbeat.
    deadline_ms: Arc<AtomicU64>,
    /// The number of times that leases were lost together: the deadline passed, or the fleet forgot this worker.
    epoch: Arc<AtomicU64>,
}

impl LeaseDeadline {
    /// A deadline before the first heartbeat. `clock` is the worker's.
    pub fn new(clock: WallClock) -> Self {
        Self { clock: Stopwatch::start(clock), deadline_ms: Arc::default(), epoch: Arc::default() }
    }

    /// The present moment, as the deadline counts.
    pub fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// The current epoch. A lease is valid only in the epoch in which it was taken.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether deliveries on leases taken in `epoch` may start now.
    pub fn is_held(&self, epoch: u64) -> bool {
        millis(self.now()) < self.deadline_ms.load(Ordering::Acquire) && self.epoch() == epoch
    }

    /// The deadline as a moment of [`Self::now`]; `None` before the first heartbeat.
    pub fn deadline(&self) -> Option<Duration> {
        let deadline = self.deadline_ms.load(Ordering::Acquire);
        (deadline > 0).then(|| Duration::from_millis(deadline))
    }

    /// Moves the deadline forward to a moment of [`Self::now`], never back. Returns whether it had passed: that starts a new epoch, because other
    /// workers may hold the leases of the last one.
    pub fn extend_to(&self, deadline: Duration) -> bool {
        let last = self.deadline_ms.load(Ordering::Acquire);
        let has_lapsed = last > 0 && millis(self.now()) >= last;
        if has_lapsed {
            self.end_epoch();
        }
        self.deadline_ms.fetch_max(millis(deadline), Ordering::AcqRel);
        has_lapsed
    }

    /// Invalidates every lease taken so far.
    pub fn end_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    static RUNNING: AtomicU64 = AtomicU64::new(0);

    fn clock(suspended_ms: &'static AtomicU64) -> WallClock {
        WallClock::Simulated { start_ms: 0, start: Instant::now(), suspended_ms }
    }

    #[tokio::test(start_paused = true)]
    async fn no_delivery_starts_after_the_deadline_and_it_never_moves_back() {
        let deadline = LeaseDeadline::new(clock(&RUNNING));
        assert!(!deadline.is_held(0));
        deadline.extend_to(deadline.now() + Duration::from_secs(5));
        deadline.extend_to(deadline.now() + Duration::from_secs(1));
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert!(deadline.is_held(0));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!deadline.is_held(0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_suspension_counts() {
        static SUSPENDED_MS: AtomicU64 = AtomicU64::new(0);
        let deadline = LeaseDeadline::new(clock(&SUSPENDED_MS));
        let sent = deadline.now();
        deadline.extend_to(sent + Duration::from_secs(5));
        assert!(deadline.is_held(0));
        SUSPENDED_MS.store(600_000, Ordering::Release);
        assert!(!deadline.is_held(0), "others have taken over meanwhile");
        assert!(deadline.extend_to(deadline.now() + Duration::from_secs(5)));
        assert!(!deadline.is_held(0) && deadline.is_held(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_heartbeat_revives_no_lease() {
        let deadline = LeaseDeadline::new(clock(&RUNNING));
        assert!(!deadline.extend_to(deadline.now() + Duration::from_secs(5)));
        let epoch = deadline.epoch();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(deadline.extend_to(deadline.now() + Duration::from_secs(5)));
        assert!(!deadline.is_held(epoch), "another worker may hold it now");
        assert!(deadline.is_held(deadline.epoch()));
    }
}
