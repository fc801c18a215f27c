//! The two clocks of a worker: the monotonic one for everything it decides, the wall clock for what it reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The time of day, for lag and logs alone: no lease depends on it.
#[derive(Clone, Copy, Debug)]
pub enum WallClock {
    /// The machine's.
    System,
    /// One that runs with the runtime's clock, which may be simulated.
    Simulated {
        /// The time of day at `start`, in milliseconds since the epoch.
        start_ms: u64,
        /// A moment of the runtime's clock.
        start: Instant,
    },
}

impl WallClock {
    /// Milliseconds since the epoch.
    pub fn now_ms(self) -> u64 {
        match self {
            Self::System => {
                #[expect(clippy::disallowed_methods, reason = "the one place where the time of day is read")]
                let now = SystemTime::now();
                millis(now.duration_since(UNIX_EPOCH).unwrap_or_default())
            }
            Self::Simulated { start_ms, start } => start_ms + millis(start.elapsed()),
        }
    }
}

/// Until when this worker may count on its leases: a lease duration from when it sent its last heartbeat that
/// arrived. Others take over later than that, by their own clocks, so whoever delivers only before this moment is
/// never one of two.
#[derive(Clone, Debug)]
pub struct LeaseDeadline {
    origin: Instant,
    /// Milliseconds since `origin`; 0 before the first proof.
    deadline_ms: Arc<AtomicU64>,
    /// How often the deadline passed before the next proof came. Leases held in one term are not held in the next.
    term: Arc<AtomicU64>,
}

impl LeaseDeadline {
    /// Nothing proved yet.
    pub fn new() -> Self {
        Self { origin: Instant::now(), deadline_ms: Arc::default(), term: Arc::default() }
    }

    /// The term of now: leases taken from now on are good for it.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Whether deliveries on leases taken in this term may still begin.
    pub fn holds(&self, term: u64) -> bool {
        millis(self.origin.elapsed()) < self.deadline_ms.load(Ordering::Acquire) && self.term() == term
    }

    /// The moment up to which this worker has proved itself alive; nothing before the first proof.
    pub fn deadline(&self) -> Option<Instant> {
        let deadline = self.deadline_ms.load(Ordering::Acquire);
        (deadline > 0).then(|| self.origin + Duration::from_millis(deadline))
    }

    /// Moves the deadline, never back. Says whether it had passed: then a new term begins, and every lease of the
    /// last one may be another's.
    pub fn extend_to(&self, deadline: Instant) -> bool {
        let last = self.deadline_ms.load(Ordering::Acquire);
        let has_lapsed = last > 0 && millis(self.origin.elapsed()) >= last;
        if has_lapsed {
            self.term.fetch_add(1, Ordering::AcqRel);
        }
        let deadline = millis(deadline.saturating_duration_since(self.origin));
        self.deadline_ms.fetch_max(deadline, Ordering::AcqRel);
        has_lapsed
    }

    /// Ends the term: whatever was held is held no more.
    pub fn end_term(&self) {
        self.term.fetch_add(1, Ordering::AcqRel);
    }
}

impl Default for LeaseDeadline {
    fn default() -> Self {
        Self::new()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_may_be_delivered_after_the_deadline_and_it_never_moves_back() {
        let alive = LeaseDeadline::new();
        assert!(!alive.holds(0));
        alive.extend_to(Instant::now() + Duration::from_secs(5));
        alive.extend_to(Instant::now() + Duration::from_secs(1));
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert!(alive.holds(0));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!alive.holds(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_that_comes_too_late_revives_no_lease() {
        let alive = LeaseDeadline::new();
        assert!(!alive.extend_to(Instant::now() + Duration::from_secs(5)));
        let term = alive.term();
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(alive.extend_to(Instant::now() + Duration::from_secs(5)));
        assert!(!alive.holds(term), "what was held before may be another's");
        assert!(alive.holds(alive.term()));
    }
}
