//! When to call next: the pace of GetRecords on one shard, and the backoff of anything that fails.
//!
//! The service bills each call and allows some five a second on a shard, without saying how many. So a shard is read
//! without pause while it gives full pages, some five times a second while it flows, and ever more rarely while it is
//! empty. What the service allows is learnt: each throttled call widens the gap between calls, each good one narrows
//! it a little.

use std::time::Duration;

use fastrand::Rng;

/// The gap between calls on a shard that flows: what the service is known to stand.
pub const ACTIVE_INTERVAL: Duration = Duration::from_millis(200);
/// How many empty pages in a row are answered by calls at the flowing pace before the gaps begin to grow. A page may
/// be empty although records follow (API reference, GetRecords).
const EMPTY_PAGES_AT_FLOWING_PACE: u32 = 10;
/// Gaps on an empty shard double this often at most: from the flowing pace to beyond the longest idle one, 5 minutes.
const MOST_DOUBLINGS: u32 = 11;
/// The widest gap that throttling alone leads to.
const WIDEST_LEARNT_GAP: Duration = Duration::from_secs(1);
/// A learnt gap below this is forgotten.
const NARROWEST_LEARNT_GAP: Duration = Duration::from_millis(20);
/// Backoff after faults: the first limit and the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// What a call on a shard brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollResult {
    /// As much as fits a page, or records old enough that more must follow.
    Backlog,
    /// Some records.
    Some,
    /// No record.
    Empty,
    /// The service asked for fewer calls.
    Throttled,
    /// The call failed, or its answer could not be read.
    Failed,
}

/// The pace of one shard.
#[derive(Clone, Debug)]
pub struct PollPacer {
    idle_poll: Duration,
    empty_pages: u32,
    throttle_interval: Duration,
    backoff: Backoff,
}

impl PollPacer {
    /// A pace whose gaps on an empty shard grow up to `idle_poll`.
    pub fn new(idle_poll: Duration) -> Self {
        Self { idle_poll, empty_pages: 0, throttle_interval: Duration::ZERO, backoff: Backoff::default() }
    }

    /// How long to wait, from the start of the call that brought `polled`, until the next one.
    pub fn next(&mut self, polled: PollResult, rng: &mut Rng) -> Duration {
        match polled {
            PollResult::Throttled => return self.throttled(rng),
            PollResult::Failed => return self.backoff.next(rng),
            PollResult::Backlog | PollResult::Some => self.empty_pages = 0,
            PollResult::Empty => self.empty_pages = self.empty_pages.saturating_add(1),
        }
        self.backoff = Backoff::default();
        self.throttle_interval = narrower(self.throttle_interval);
        let wanted = match polled {
            PollResult::Backlog => Duration::ZERO,
            PollResult::Empty => self.idle_gap(rng),
            _ => ACTIVE_INTERVAL,
        };
        wanted.max(self.throttle_interval)
    }

    fn throttled(&mut self, rng: &mut Rng) -> Duration {
        self.throttle_interval = (self.throttle_interval * 3 / 2).clamp(ACTIVE_INTERVAL, WIDEST_LEARNT_GAP);
        self.throttle_interval + self.backoff.next(rng)
    }

    /// Doubles from the flowing pace to the idle one, each gap up to a tenth shorter so that shards don't beat in time.
    fn idle_gap(&self, rng: &mut Rng) -> Duration {
        let doublings = self.empty_pages.saturating_sub(EMPTY_PAGES_AT_FLOWING_PACE).min(MOST_DOUBLINGS);
        let gap = (ACTIVE_INTERVAL * 2_u32.pow(doublings)).min(self.idle_poll);
        gap.mul_f64(1.0 - 0.1 * rng.f64())
    }
}

fn narrower(gap: Duration) -> Duration {
    let gap = gap * 24 / 25;
    if gap < NARROWEST_LEARNT_GAP { Duration::ZERO } else { gap }
}

/// Exponential backoff with full jitter: each wait is drawn between nothing and a limit that doubles.
#[derive(Clone, Debug)]
pub struct Backoff {
    limit: Duration,
    last: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(FIRST_BACKOFF, LAST_BACKOFF)
    }
}

impl Backoff {
    /// Waits of at most `first`, then at most twice that, and so on up to `last`.
    pub fn new(first: Duration, last: Duration) -> Self {
        Self { limit: first, last }
    }

    /// The next wait.
    pub fn next(&mut self, rng: &mut Rng) -> Duration {
        let wait = self.limit.mul_f64(rng.f64());
        self.limit = (self.limit * 2).min(self.last);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(1);

    #[test]
    fn a_backlog_is_read_without_a_pause_and_a_flow_at_its_pace() {
        let (mut pacer, mut rng) = (PollPacer::new(IDLE), Rng::with_seed(1));
        assert_eq!(pacer.next(PollResult::Backlog, &mut rng), Duration::ZERO);
        assert_eq!(pacer.next(PollResult::Some, &mut rng), ACTIVE_INTERVAL);
    }

    #[test]
    fn empty_pages_slow_down_to_the_idle_pace_and_a_record_brings_it_back() {
        let (mut pacer, mut rng) = (PollPacer::new(IDLE), Rng::with_seed(1));
        let gaps: Vec<_> = (0..16).map(|_| pacer.next(PollResult::Empty, &mut rng)).collect();
        assert!(gaps[..10].iter().all(|gap| *gap <= ACTIVE_INTERVAL && *gap >= ACTIVE_INTERVAL * 9 / 10));
        assert!(gaps[15] <= IDLE && gaps[15] >= IDLE * 9 / 10, "{gaps:?}");
        assert_eq!(pacer.next(PollResult::Some, &mut rng), ACTIVE_INTERVAL);
        assert!(pacer.next(PollResult::Empty, &mut rng) <= ACTIVE_INTERVAL);
    }

    #[test]
    fn the_longest_idle_pace_is_reached_too() {
        let (mut pacer, mut rng) = (PollPacer::new(Duration::from_secs(300)), Rng::with_seed(1));
        let longest = (0..100).map(|_| pacer.next(PollResult::Empty, &mut rng)).max();
        assert!(longest > Some(Duration::from_secs(270)), "{longest:?}");
    }

    #[test]
    fn throttling_is_learnt_and_slowly_forgotten() {
        let (mut pacer, mut rng) = (PollPacer::new(IDLE), Rng::with_seed(1));
        assert!(pacer.next(PollResult::Throttled, &mut rng) >= ACTIVE_INTERVAL);
        let after = pacer.next(PollResult::Backlog, &mut rng);
        assert!(after > ACTIVE_INTERVAL * 9 / 10, "{after:?}");
        for _ in 0..200 {
            pacer.next(PollResult::Backlog, &mut rng);
        }
        assert_eq!(pacer.next(PollResult::Backlog, &mut rng), Duration::ZERO);
    }

    #[test]
    fn learnt_gaps_settle_near_what_the_service_allows() {
        // A service that allows one call each 250 ms: the share of throttled calls must stay small.
        let (mut pacer, mut rng) = (PollPacer::new(IDLE), Rng::with_seed(1));
        let (mut now, mut allowed_at, mut throttled) = (Duration::ZERO, Duration::ZERO, 0);
        for _ in 0..1000 {
            let polled = if now >= allowed_at { PollResult::Backlog } else { PollResult::Throttled };
            match polled {
                PollResult::Backlog => allowed_at = now + Duration::from_millis(250),
                _ => throttled += 1,
            }
            now += pacer.next(polled, &mut rng) + Duration::from_millis(2);
        }
        assert!(throttled < 250, "{throttled} of 1000");
        assert!(now < Duration::from_secs(1000) * 2 / 5, "{now:?}: too slow for what is allowed");
    }

    #[test]
    fn backoff_doubles_its_limit_and_draws_below_it() {
        let (mut backoff, mut rng) = (Backoff::new(Duration::from_millis(100), IDLE), Rng::with_seed(3));
        for limit_ms in [100, 200, 400, 800, 1000, 1000] {
            assert!(backoff.next(&mut rng) <= Duration::from_millis(limit_ms));
        }
    }
}
