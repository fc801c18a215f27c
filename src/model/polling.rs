//! The polling policy of one shard: the pace of GetRecords, and the empty pages that prove the tip.
//!
//! The service bills each call and allows some five a second on a shard, without saying how many. So a shard is read
//! without pause while it gives full pages, some five times a second while records arrive, and ever more rarely while
//! it is empty. The allowance is learned: each throttled call widens the interval between calls, each good one narrows
//! it a little.
//!
//! Waits end on a grid of moments that the shards of a worker share: one wake-up of the process serves many shards.

use std::time::Duration;

use fastrand::Rng;

use super::backoff::Backoff;
use super::record::PageSummary;

/// The interval between calls on a shard with records: a rate that the service is known to allow.
pub const ACTIVE_INTERVAL: Duration = Duration::from_millis(200);
/// The empty pages in a row that prove that an open shard is read to its tip, and the time that they must cover. One
/// proves nothing: a page may be empty although records follow (API reference, GetRecords).
pub const TIP_EMPTY_PAGES: u32 = 3;
/// See [`TIP_EMPTY_PAGES`].
pub const TIP_PROOF_TIME: Duration = Duration::from_secs(1);
/// The empty pages in a row after which intervals begin to grow. They also prove that an open shard holds nothing older
/// than the last of them. The second takes more than the tip, since the shard's caught-up time is stored and decides
/// when `--until-caught-up` ends. With more than these, that would take minutes at the idle pace.
pub const CAUGHT_UP_EMPTY_PAGES: u32 = 10;
/// Records older than this are a backlog: more follow at once, however small the page.
const BACKLOG_AGE_MS: u64 = 2_000;
/// The most doublings of an empty shard's interval: from the active one to beyond the longest idle one, 5 minutes.
const MOST_DOUBLINGS: u32 = 11;
/// The part of the time without a record that an interval may last, where intervals grow with that time.
const QUIET_PART: u32 = 10;
/// The widest interval that throttling alone leads to.
const WIDEST_THROTTLE_INTERVAL: Duration = Duration::from_secs(1);
/// A learned interval below this is forgotten.
const NARROWEST_THROTTLE_INTERVAL: Duration = Duration::from_millis(20);

/// The distance of the moments at which waits end.
const GRID: Duration = Duration::from_millis(20);

/// The result of a call on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollResult {
    /// A full page, or records old enough that more must follow.
    Backlog,
    /// Some records.
    Partial,
    /// No record.
    Empty,
    /// The service asked for fewer calls.
    Throttled,
    /// The call failed, or its answer could not be read.
    Failed,
}

impl PollResult {
    /// The result of a call that brought these records.
    pub fn of(page: Option<&PageSummary>, now_ms: u64) -> Self {
        match page {
            None => Self::Empty,
            Some(page) => {
                let age_ms = now_ms.saturating_sub(page.newest_ms.unwrap_or(0));
                if page.is_full() || age_ms >= BACKLOG_AGE_MS { Self::Backlog } else { Self::Partial }
            }
        }
    }
}

/// The pace of calls on one shard.
#[derive(Clone, Debug)]
pub struct PollPacer {
    idle_poll: Duration,
    idle_poll_max: Duration,
    empty_pages: u32,
    /// The time since the last record, or the beginning.
    quiet: Duration,
    throttle_interval: Duration,
    backoff: Backoff,
}

impl PollPacer {
    /// A pace whose intervals on an empty shard grow up to `idle_poll`, and then with the time without a record up to
    /// `idle_poll_max`: each is a tenth of that time.
    pub fn new(idle_poll: Duration, idle_poll_max: Duration) -> Self {
        Self {
            idle_poll,
            idle_poll_max: idle_poll_max.max(idle_poll),
            empty_pages: 0,
            quiet: Duration::ZERO,
            throttle_interval: Duration::ZERO,
            backoff: Backoff::default(),
        }
    }

    /// The wait from the start of the call that brought `polled` to the start of the next one.
    pub fn next(&mut self, polled: PollResult, rng: &mut Rng) -> Duration {
        match polled {
            PollResult::Throttled => return self.throttled(rng),
            PollResult::Failed => return self.backoff.next(rng),
            PollResult::Backlog | PollResult::Partial => (self.empty_pages, self.quiet) = (0, Duration::ZERO),
            PollResult::Empty => self.empty_pages = self.empty_pages.saturating_add(1),
        }
        self.backoff = Backoff::default();
        self.throttle_interval = narrower(self.throttle_interval);
        let wanted = match polled {
            PollResult::Backlog => Duration::ZERO,
            PollResult::Empty => self.idle_interval(rng),
            _ => ACTIVE_INTERVAL,
        };
        let wait = wanted.max(self.throttle_interval);
        self.quiet += wait;
        wait
    }

    fn throttled(&mut self, rng: &mut Rng) -> Duration {
        self.throttle_interval = (self.throttle_interval * 3 / 2).clamp(ACTIVE_INTERVAL, WIDEST_THROTTLE_INTERVAL);
        self.throttle_interval + self.backoff.next(rng)
    }

    /// Doubles from the active interval to the idle one, which grows with the time without a record. Each is up to a
    /// tenth shorter, so that shards don't beat in time.
    fn idle_interval(&self, rng: &mut Rng) -> Duration {
        let idle = (self.quiet / QUIET_PART).clamp(self.idle_poll, self.idle_poll_max);
        let doublings = self.empty_pages.saturating_sub(CAUGHT_UP_EMPTY_PAGES).min(MOST_DOUBLINGS);
        let gap = (ACTIVE_INTERVAL * 2_u32.pow(doublings)).min(idle);
        gap.mul_f64(1.0 - 0.1 * rng.f64())
    }
}

/// The wait whose end is moved to the nearest moment of the grid, if it is long enough to have one. `start` is the moment
/// at which it began, since an origin that all shards of the worker share.
pub fn to_grid(start: Duration, wait: Duration) -> Duration {
    if wait < GRID {
        return wait;
    }
    let end = start + wait + GRID / 2;
    let past_grid = Duration::from_nanos(u64::try_from(end.as_nanos() % GRID.as_nanos()).unwrap_or(0));
    end - past_grid - start
}

fn narrower(gap: Duration) -> Duration {
    let gap = gap * 24 / 25;
    if gap < NARROWEST_THROTTLE_INTERVAL { Duration::ZERO } else { gap }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(1);

    #[test]
    fn a_backlog_is_read_without_a_pause_and_a_flow_at_its_pace() {
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, IDLE), Rng::with_seed(1));
        assert_eq!(pacer.next(PollResult::Backlog, &mut rng), Duration::ZERO);
        assert_eq!(pacer.next(PollResult::Partial, &mut rng), ACTIVE_INTERVAL);
    }

    #[test]
    fn empty_pages_slow_down_to_the_idle_pace_and_a_record_brings_it_back() {
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, IDLE), Rng::with_seed(1));
        let gaps: Vec<_> = (0..16).map(|_| pacer.next(PollResult::Empty, &mut rng)).collect();
        assert!(gaps[..10].iter().all(|gap| *gap <= ACTIVE_INTERVAL && *gap >= ACTIVE_INTERVAL * 9 / 10));
        assert!(gaps[15] <= IDLE && gaps[15] >= IDLE * 9 / 10, "{gaps:?}");
        assert_eq!(pacer.next(PollResult::Partial, &mut rng), ACTIVE_INTERVAL);
        assert!(pacer.next(PollResult::Empty, &mut rng) <= ACTIVE_INTERVAL);
    }

    #[test]
    fn a_record_waits_for_a_tenth_of_the_quiet_time_before_it_and_for_the_longest_interval_at_most() {
        let longest = Duration::from_secs(60);
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, longest), Rng::with_seed(1));
        let (mut quiet, mut calls_in_an_hour) = (Duration::ZERO, 0);
        while quiet < Duration::from_secs(3600) {
            let wait = pacer.next(PollResult::Empty, &mut rng);
            assert!(wait <= (quiet / 10).clamp(IDLE, longest), "{wait:?} after {quiet:?}");
            quiet += wait;
            calls_in_an_hour += 1;
        }
        assert!(calls_in_an_hour < 150, "{calls_in_an_hour}: at a constant pace they are 3600");
        pacer.next(PollResult::Partial, &mut rng);
        assert!(pacer.next(PollResult::Empty, &mut rng) <= ACTIVE_INTERVAL, "a record begins all anew");
        let waits = (0..30).map(|_| pacer.next(PollResult::Empty, &mut rng));
        assert!(waits.max() <= Some(IDLE * 3 / 2));
    }

    #[test]
    fn the_longest_idle_pace_is_reached_too() {
        let (mut pacer, mut rng) = (PollPacer::new(Duration::from_secs(300), IDLE), Rng::with_seed(1));
        let longest = (0..100).map(|_| pacer.next(PollResult::Empty, &mut rng)).max();
        assert!(longest > Some(Duration::from_secs(270)), "{longest:?}");
    }

    #[test]
    fn shards_that_wait_are_polled_at_the_same_moments_and_as_often_as_they_ask() {
        let mut rng = Rng::with_seed(1);
        let (mut pacer, mut now, mut asked) =
            (PollPacer::new(IDLE, IDLE), Duration::from_micros(7_123), Duration::ZERO);
        for _ in 0..1000 {
            let wait = pacer.next(PollResult::Empty, &mut rng);
            asked += wait;
            now += to_grid(now, wait);
            assert_eq!(now.as_micros() % GRID.as_micros(), 0, "{now:?}");
            now += Duration::from_micros(rng.u64(..2_000)); // until the call begins
        }
        assert!(now.abs_diff(asked) < asked / 50, "{now:?} where {asked:?} was asked for");
        assert_eq!(to_grid(now, Duration::ZERO), Duration::ZERO, "a backlog does not wait");
    }

    #[test]
    fn throttling_is_learned_and_slowly_forgotten() {
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, IDLE), Rng::with_seed(1));
        assert!(pacer.next(PollResult::Throttled, &mut rng) >= ACTIVE_INTERVAL);
        let after = pacer.next(PollResult::Backlog, &mut rng);
        assert!(after > ACTIVE_INTERVAL * 9 / 10, "{after:?}");
        for _ in 0..200 {
            pacer.next(PollResult::Backlog, &mut rng);
        }
        assert_eq!(pacer.next(PollResult::Backlog, &mut rng), Duration::ZERO);
    }

    #[test]
    fn learned_intervals_settle_near_what_the_service_allows() {
        // A service that allows one call each 250 ms: the share of throttled calls must stay small.
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, IDLE), Rng::with_seed(1));
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
}
