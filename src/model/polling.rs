//! The polling policy of one shard: the pace of GetRecords, and the empty pages that prove the tip.
//!
//! The service bills each call and allows some five a second on a shard, without saying how many. So a shard is read
//! without pause while it gives full pages, some five times a second while records arrive, and ever more rarely while
//! it is empty. The allowance is learned: each throttled call widens the interval between calls, each good one narrows
//! it a little.
//!
//! A page may be empty although records follow (API reference, GetRecords), hundreds of them in a row where much of the
//! shard's time is still unread. So the empty pages that prove the tip are few behind a fresh record and many elsewhere.
//! A few shards of a worker at a time read those at full pace.
//!
//! Waits end on a grid of moments that the shards of a worker share: one wake-up of the process serves many shards.

use std::time::Duration;

use fastrand::Rng;

use super::backoff::Backoff;
use super::record::PageSummary;

/// The interval between calls on a shard with records: a rate that the service is known to allow.
pub const ACTIVE_INTERVAL: Duration = Duration::from_millis(200);
/// The empty pages in a row by which the lag of an open shard is 0, behind a fresh record, and the time that they must
/// cover.
const TIP_EMPTY_PAGES: u32 = 3;
/// See [`TIP_EMPTY_PAGES`].
const TIP_PROOF_TIME: Duration = Duration::from_secs(1);
/// The empty pages in a row, behind a fresh record, after which intervals begin to grow. They also prove that an open
/// shard holds nothing older than the last of them. The second takes more than the lag, since the shard's caught-up time
/// is stored and decides when `--until-caught-up` ends. With more than these, that would take minutes at the idle pace.
const FRESH_EMPTY_PAGES: u32 = 10;
/// The pages that prove the same where no fresh record came yet: what is unread may lie behind many empty pages.
const UNREAD_EMPTY_PAGES: u32 = 500;
/// The time after which the lag is 0 there although fewer came: a worker with thousands of such shards takes long.
const UNREAD_PROOF_TIME: Duration = Duration::from_secs(30);
/// The interval at full pace: these pages come in the time that a proof must cover.
const UNREAD_INTERVAL: Duration = Duration::from_millis(2);
/// A record younger than this leaves little unread behind it.
const FRESH: Duration = Duration::from_secs(60);
/// Records older than this are a backlog: more follow at once, however small the page. Their times are whole seconds,
/// rounded down, so this is a second more than the age that is meant.
const BACKLOG_AGE: Duration = Duration::from_secs(3);
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
    /// Records.
    Records {
        /// The age of the newest.
        age: Duration,
        /// Whether the page held as much as a page can.
        is_full: bool,
    },
    /// No record, at this time, whatever its origin.
    Empty(Duration),
    /// The service asked for fewer calls.
    Throttled,
    /// The call failed, or its answer could not be read.
    Failed,
}

impl PollResult {
    /// The result of a call that brought these records, at `now_ms` (ms since the epoch) and `now`.
    pub fn of(page: Option<&PageSummary>, now_ms: u64, now: Duration) -> Self {
        match page {
            None => Self::Empty(now),
            Some(page) => Self::Records {
                age: Duration::from_millis(now_ms.saturating_sub(page.newest_ms.unwrap_or(0))),
                is_full: page.is_full(),
            },
        }
    }
}

/// The proof of the tip that the empty pages since a shard's last record give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tip {
    /// None yet.
    Unproved,
    /// The lag is 0.
    Probable,
    /// The shard holds nothing older than the last page.
    Sure,
}

/// The pace of calls on one shard.
#[derive(Clone, Debug)]
pub struct PollPacer {
    idle_poll: Duration,
    idle_poll_max: Duration,
    /// The empty pages in a row, and when the first of them came.
    empty_pages: u32,
    empty_since: Duration,
    /// The time of the shard that may be unread before the tip; `None` where that is little.
    unread: Option<Duration>,
    tip: Tip,
    throttle_interval: Duration,
    backoff: Backoff,
}

impl PollPacer {
    /// A pace whose intervals on an empty shard grow up to `idle_poll`, and then with the time without a record up to
    /// `idle_poll_max`: each is a tenth of that time. Records of the time `unread` may follow.
    pub fn new(idle_poll: Duration, idle_poll_max: Duration, unread: Option<Duration>) -> Self {
        Self {
            idle_poll,
            idle_poll_max: idle_poll_max.max(idle_poll),
            empty_pages: 0,
            empty_since: Duration::ZERO,
            unread,
            tip: Tip::Unproved,
            throttle_interval: Duration::ZERO,
            backoff: Backoff::default(),
        }
    }

    /// The proof of the tip so far.
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Whether empty pages may hide records.
    pub fn is_unread(&self) -> bool {
        self.unread.is_some() && self.tip != Tip::Sure
    }

    /// The wait from the start of the call that brought `polled` to the start of the next one. At full pace, empty pages
    /// that may hide records come without a pause.
    pub fn next(&mut self, polled: PollResult, at_full_pace: bool, rng: &mut Rng) -> Duration {
        let wanted = match polled {
            PollResult::Throttled => return self.throttled(rng),
            PollResult::Failed => return self.backoff.next(rng),
            PollResult::Records { age, is_full } => {
                (self.empty_pages, self.tip) = (0, Tip::Unproved);
                self.unread = Some(age).filter(|age| *age >= FRESH);
                if is_full || age >= BACKLOG_AGE { Duration::ZERO } else { ACTIVE_INTERVAL }
            }
            PollResult::Empty(now) => {
                let interval = self.empty(now, rng);
                if at_full_pace && self.is_unread() { UNREAD_INTERVAL } else { interval }
            }
        };
        self.backoff = Backoff::default();
        self.throttle_interval = narrower(self.throttle_interval);
        wanted.max(self.throttle_interval)
    }

    /// Counts an empty page. The intervals double from the active one to the idle one, which grows with the time without a
    /// record. Each is up to a tenth shorter, so that shards don't beat in time.
    fn empty(&mut self, now: Duration, rng: &mut Rng) -> Duration {
        if self.empty_pages == 0 {
            self.empty_since = now;
        }
        self.empty_pages = self.empty_pages.saturating_add(1);
        let sure = if self.unread.is_some() { UNREAD_EMPTY_PAGES } else { FRESH_EMPTY_PAGES };
        let unread_s = u32::try_from(self.unread.unwrap_or_default().as_secs()).unwrap_or(u32::MAX);
        let probable = TIP_EMPTY_PAGES.saturating_add(unread_s).min(sure);
        self.tip = match self.empty_pages {
            _ if now - self.empty_since < TIP_PROOF_TIME => Tip::Unproved,
            pages if pages >= sure => Tip::Sure,
            pages if pages >= probable => Tip::Probable,
            pages if pages >= FRESH_EMPTY_PAGES && now - self.empty_since >= UNREAD_PROOF_TIME => Tip::Probable,
            _ => Tip::Unproved,
        };
        let doublings = self.empty_pages.saturating_sub(FRESH_EMPTY_PAGES).min(MOST_DOUBLINGS);
        let idle = ((now - self.empty_since) / QUIET_PART).clamp(self.idle_poll, self.idle_poll_max);
        let interval = (ACTIVE_INTERVAL * 2_u32.pow(doublings)).min(idle);
        interval.mul_f64(1.0 - 0.1 * rng.f64())
    }

    fn throttled(&mut self, rng: &mut Rng) -> Duration {
        self.throttle_interval = (self.throttle_interval * 3 / 2).clamp(ACTIVE_INTERVAL, WIDEST_THROTTLE_INTERVAL);
        self.throttle_interval + self.backoff.next(rng)
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
    const NONE: Duration = Duration::ZERO;
    const BACKLOG: PollResult = PollResult::Records { age: Duration::from_secs(9), is_full: false };
    const FLOW: PollResult = PollResult::Records { age: Duration::from_secs(2), is_full: false };

    /// The waits after empty pages, one each 50 ms, until the first that makes the tip sure, and the number of those until
    /// the lag was 0.
    fn empty_pages(pacer: &mut PollPacer, at_full_pace: bool, rng: &mut Rng) -> (Vec<Duration>, usize) {
        let (mut waits, mut probable) = (Vec::new(), None);
        while pacer.tip() != Tip::Sure {
            let now = Duration::from_millis(50) * u32::try_from(waits.len()).expect("few");
            waits.push(pacer.next(PollResult::Empty(now), at_full_pace, rng));
            if pacer.tip() != Tip::Unproved {
                probable.get_or_insert(waits.len());
            }
        }
        (waits, probable.expect("it is sure by now"))
    }

    #[test]
    fn a_backlog_is_read_without_a_pause_and_a_flow_at_its_pace() {
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, IDLE, None), Rng::with_seed(1));
        assert_eq!(pacer.next(BACKLOG, true, &mut rng), Duration::ZERO);
        assert_eq!(pacer.next(PollResult::Records { age: NONE, is_full: true }, true, &mut rng), Duration::ZERO);
        assert_eq!(pacer.next(FLOW, true, &mut rng), ACTIVE_INTERVAL);
    }

    #[test]
    fn empty_pages_slow_down_to_the_idle_pace_and_a_record_brings_it_back() {
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, IDLE, Some(NONE)), Rng::with_seed(1));
        pacer.next(FLOW, true, &mut rng);
        let gaps: Vec<_> = (0..16).map(|_| pacer.next(PollResult::Empty(NONE), true, &mut rng)).collect();
        assert!(gaps[..10].iter().all(|gap| *gap <= ACTIVE_INTERVAL && *gap >= ACTIVE_INTERVAL * 9 / 10));
        assert!(gaps[15] <= IDLE && gaps[15] >= IDLE * 9 / 10, "{gaps:?}");
        assert_eq!(pacer.next(FLOW, true, &mut rng), ACTIVE_INTERVAL);
        assert!(pacer.next(PollResult::Empty(NONE), true, &mut rng) <= ACTIVE_INTERVAL);
    }

    #[test]
    fn behind_a_fresh_record_few_empty_pages_over_some_time_prove_the_tip() {
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, IDLE, Some(NONE)), Rng::with_seed(1));
        pacer.next(FLOW, true, &mut rng);
        let mut tip_at = |ms| {
            pacer.next(PollResult::Empty(Duration::from_millis(ms)), true, &mut rng);
            pacer.tip()
        };
        assert_eq!([500, 500, 500, 1_499].map(&mut tip_at), [Tip::Unproved; 4], "too soon");
        assert_eq!(
            [1_500; 6].map(&mut tip_at),
            [Tip::Probable, Tip::Probable, Tip::Probable, Tip::Probable, Tip::Probable, Tip::Sure]
        );
        pacer.next(FLOW, true, &mut rng);
        assert_eq!(pacer.tip(), Tip::Unproved);
    }

    #[test]
    fn where_hours_may_be_unread_hundreds_of_empty_pages_are_read_at_full_pace_before_the_tip() {
        let (hours, mut rng) = (Duration::from_secs(4 * 3_600), Rng::with_seed(1));
        let mut pacer = PollPacer::new(IDLE, IDLE, Some(hours));
        let (waits, probable) = empty_pages(&mut pacer, true, &mut rng);
        assert_eq!((waits.len(), probable), (500, 500));
        assert!(waits[..499].iter().all(|wait| *wait == UNREAD_INTERVAL));
        // So are those behind an old record.
        pacer.next(PollResult::Records { age: hours, is_full: false }, true, &mut rng);
        assert_eq!(empty_pages(&mut pacer, true, &mut rng).0.len(), 500);
        pacer.next(FLOW, true, &mut rng);
        assert_eq!(empty_pages(&mut pacer, true, &mut rng).0.len(), 21, "ten, over a second");
    }

    #[test]
    fn what_is_young_or_waits_for_its_turn_lags_by_little_before_long() {
        let mut rng = Rng::with_seed(1);
        let mut young = PollPacer::new(IDLE, IDLE, Some(Duration::from_secs(30)));
        assert_eq!(empty_pages(&mut young, true, &mut rng).1, 33);
        let mut waiting = PollPacer::new(IDLE, IDLE, Some(Duration::from_secs(4 * 3_600)));
        let (waits, probable) = empty_pages(&mut waiting, false, &mut rng);
        // One each 50 ms.
        assert_eq!((waits.len(), probable), (500, 500));
        assert!(waits[20..].iter().all(|wait| *wait >= IDLE * 9 / 10), "it is polled as any other");
        let mut slow = PollPacer::new(IDLE, IDLE, Some(Duration::from_secs(4 * 3_600)));
        for second in 0..=30 {
            assert_eq!(slow.tip(), Tip::Unproved, "after {second} pages");
            slow.next(PollResult::Empty(Duration::from_secs(second)), false, &mut rng);
        }
        assert_eq!(slow.tip(), Tip::Probable);
    }

    #[test]
    fn a_record_waits_for_a_tenth_of_the_quiet_time_before_it_and_for_the_longest_interval_at_most() {
        let longest = Duration::from_secs(60);
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, longest, None), Rng::with_seed(1));
        let (mut quiet, mut calls_in_an_hour) = (Duration::ZERO, 0);
        while quiet < Duration::from_secs(3600) {
            let wait = pacer.next(PollResult::Empty(quiet), true, &mut rng);
            assert!(wait <= (quiet / 10).clamp(IDLE, longest), "{wait:?} after {quiet:?}");
            quiet += wait;
            calls_in_an_hour += 1;
        }
        assert!(calls_in_an_hour < 150, "{calls_in_an_hour}: at a constant pace they are 3600");
        pacer.next(FLOW, true, &mut rng);
        assert!(pacer.next(PollResult::Empty(quiet), true, &mut rng) <= ACTIVE_INTERVAL, "a record begins all anew");
        let waits = (0..30).map(|second| pacer.next(PollResult::Empty(quiet + IDLE * second), true, &mut rng));
        assert!(waits.max() <= Some(longest.min(IDLE * 3)));
    }

    #[test]
    fn the_longest_idle_pace_is_reached_too() {
        let (mut pacer, mut rng) = (PollPacer::new(Duration::from_secs(300), IDLE, None), Rng::with_seed(1));
        let longest =
            (0..600).map(|second| pacer.next(PollResult::Empty(Duration::from_secs(second)), true, &mut rng)).max();
        assert!(longest > Some(Duration::from_secs(270)), "{longest:?}");
    }

    #[test]
    fn shards_that_wait_are_polled_at_the_same_moments_and_as_often_as_they_ask() {
        let mut rng = Rng::with_seed(1);
        let (mut pacer, mut now, mut asked) =
            (PollPacer::new(IDLE, IDLE, None), Duration::from_micros(7_123), Duration::ZERO);
        for _ in 0..1000 {
            let wait = pacer.next(PollResult::Empty(now), false, &mut rng);
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
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, IDLE, None), Rng::with_seed(1));
        assert!(pacer.next(PollResult::Throttled, true, &mut rng) >= ACTIVE_INTERVAL);
        let after = pacer.next(BACKLOG, true, &mut rng);
        assert!(after > ACTIVE_INTERVAL * 9 / 10, "{after:?}");
        for _ in 0..200 {
            pacer.next(BACKLOG, true, &mut rng);
        }
        assert_eq!(pacer.next(BACKLOG, true, &mut rng), Duration::ZERO);
    }

    #[test]
    fn learned_intervals_settle_near_what_the_service_allows() {
        // A service that allows one call each 250 ms: the share of throttled calls must stay small.
        let (mut pacer, mut rng) = (PollPacer::new(IDLE, IDLE, None), Rng::with_seed(1));
        let (mut now, mut allowed_at, mut throttled) = (Duration::ZERO, Duration::ZERO, 0);
        for _ in 0..1000 {
            let polled = if now >= allowed_at { BACKLOG } else { PollResult::Throttled };
            match polled {
                BACKLOG => allowed_at = now + Duration::from_millis(250),
                _ => throttled += 1,
            }
            now += pacer.next(polled, true, &mut rng) + Duration::from_millis(2);
        }
        assert!(throttled < 250, "{throttled} of 1000");
        assert!(now < Duration::from_secs(1000) * 2 / 5, "{now:?}: too slow for what is allowed");
    }
}
