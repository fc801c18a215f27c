//! The number of workers that the load calls for.
//!
//! The arriving load is the delivered load plus the growing backlog: a lag that grows by `g` seconds a second means that
//! `1 - g` of the arriving load is delivered. Working the lag off in a set time comes on top. The sum, divided by the
//! capacity of one worker, is the need.
//!
//! More workers are wanted at once, fewer only when fewer were needed all through the last [`CALM`]: loads come in waves,
//! and each move of a shard costs something. A need that hardly exceeds a whole number of workers is that number. There
//! are never more than there are shards to read side by side, as a further one would have nothing to read.

use std::collections::VecDeque;
use std::time::Duration;

/// The interval between two measurements of the need.
pub const PERIOD: Duration = Duration::from_secs(15);
/// The time for which fewer workers must have been enough before fewer are wanted.
pub const CALM: Duration = Duration::from_secs(300);
/// Lags below this say nothing: records' times are whole seconds, and polls come each second or so.
const NO_LAG: Duration = Duration::from_secs(10);
/// The most that a growing lag multiplies what is delivered by: one whose growth says that nothing at all is delivered
/// has another cause than too few workers.
const MOST_GROWTH: f64 = 0.95;
/// The part of a worker by which a need may exceed a whole number of workers.
const TOLERANCE: f64 = 0.05;

/// Limits and capacity for the desired number of workers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScalingOptions {
    /// Never fewer.
    pub min: usize,
    /// Never more, whatever the load.
    pub max: Option<usize>,
    /// The load that one worker is expected to process, in KiB a second.
    pub capacity_kbps: f64,
    /// The time in which a lag is to be worked off.
    pub catch_up: Duration,
}

/// The load at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// The throughput of all workers together, in KiB a second.
    pub kbps: f64,
    /// The application's lag.
    pub lag: Duration,
    /// Shards that can be read side by side now.
    pub open_shards: usize,
    /// Live workers.
    pub workers: usize,
}

/// The desired number of workers, with the needs of the last [`CALM`].
#[derive(Clone, Debug)]
pub struct DesiredWorkers {
    limits: ScalingOptions,
    /// Needs and their times, the oldest first.
    needs: VecDeque<(Duration, usize)>,
    last_lag: Option<(Duration, Duration)>,
}

impl DesiredWorkers {
    /// A measurement without history.
    pub fn new(limits: ScalingOptions) -> Self {
        Self { limits, needs: VecDeque::new(), last_lag: None }
    }

    /// Returns the desired number of workers for the load at `now` (a duration since any fixed moment). To be called each
    /// [`PERIOD`]. The first call wants no fewer than there are, since the load before it is not known.
    pub fn update(&mut self, now: Duration, load: &Load) -> usize {
        let mut need = self.need(now, load);
        if self.needs.is_empty() {
            need = need.max(load.workers);
        }
        self.last_lag = Some((now, load.lag));
        self.needs.retain(|(at, _)| now.saturating_sub(*at) < CALM);
        self.needs.push_back((now, need));
        let wanted = self.needs.iter().map(|(_, need)| *need).max().unwrap_or(need);
        self.limited(wanted, load.open_shards)
    }

    /// The workers that the load calls for, before limits.
    fn need(&self, now: Duration, load: &Load) -> usize {
        let arriving_kbps = load.kbps / (1.0 - self.growth(now, load.lag));
        let backlog = if load.lag > NO_LAG { load.lag.as_secs_f64() / self.limits.catch_up.as_secs_f64() } else { 0.0 };
        let need = arriving_kbps * (1.0 + backlog) / self.limits.capacity_kbps;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of workers")]
        let need = (need - TOLERANCE).ceil().clamp(0.0, 1e9) as usize;
        need
    }

    /// The growth of the lag since the last update, in seconds a second.
    fn growth(&self, now: Duration, lag: Duration) -> f64 {
        match self.last_lag {
            Some((at, before)) if lag > NO_LAG && now > at => {
                let grown = lag.as_secs_f64() - before.as_secs_f64();
                (grown / (now - at).as_secs_f64()).clamp(0.0, MOST_GROWTH)
            }
            _ => 0.0,
        }
    }

    fn limited(&self, wanted: usize, open_shards: usize) -> usize {
        let most = self.limits.max.unwrap_or(usize::MAX);
        let wanted = wanted.clamp(self.limits.min.min(most), most);
        // Before the first listing the open shards are not known.
        if open_shards == 0 { wanted.min(self.limits.min.max(1)) } else { wanted.min(open_shards) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: f64 = 1_000.0;
    const LIMITS: ScalingOptions =
        ScalingOptions { min: 1, max: None, capacity_kbps: CAPACITY, catch_up: Duration::from_secs(600) };

    fn load(kbps: f64, lag_s: u64, open_shards: usize) -> Load {
        Load { kbps, lag: Duration::from_secs(lag_s), open_shards, workers: 0 }
    }

    #[test]
    fn the_first_look_follows_the_table() {
        let cases = [
            // KiB/s, lag, open shards, wanted
            (0.0, 0, 20, 1),
            (900.0, 0, 20, 1),
            (1_040.0, 0, 20, 1),
            (1_060.0, 0, 20, 2),
            (9_000.0, 0, 20, 9),
            (9_000.0, 0, 4, 4),
            (3_000.0, 8, 20, 3),
            (3_000.0, 600, 20, 6),
            (3_000.0, 86_400, 20, 20),
            (0.0, 3_600, 20, 1),
        ];
        for (kbps, lag, open_shards, wanted) in cases {
            let load = load(kbps, lag, open_shards);
            assert_eq!(DesiredWorkers::new(LIMITS).update(Duration::ZERO, &load), wanted, "{load:?}");
        }
    }

    #[test]
    fn limits_hold_and_shards_before_them() {
        let limits = ScalingOptions { min: 3, max: Some(5), ..LIMITS };
        let wanted = |load: Load| DesiredWorkers::new(limits).update(Duration::ZERO, &load);
        assert_eq!(wanted(load(0.0, 0, 20)), 3);
        assert_eq!(wanted(load(90_000.0, 0, 20)), 5);
        assert_eq!(wanted(load(90_000.0, 0, 2)), 2);
        assert_eq!(wanted(load(90_000.0, 0, 0)), 3, "nothing is listed yet");
    }

    #[test]
    fn a_new_leader_sends_nobody_away_before_it_has_seen_enough() {
        let mut desired = DesiredWorkers::new(LIMITS);
        let idle = Load { workers: 6, ..load(0.0, 0, 20) };
        assert_eq!(desired.update(Duration::ZERO, &idle), 6);
        assert_eq!(desired.update(CALM - PERIOD, &idle), 6);
        assert_eq!(desired.update(CALM, &idle), 1);
    }

    /// A fleet under a load: what arrives piles up as far as the workers cannot process it. Workers come and go one
    /// period after they are wanted.
    struct Fleet {
        desired: DesiredWorkers,
        now: Duration,
        workers: usize,
        /// The backlog in KiB.
        backlog: f64,
        wanted: Vec<usize>,
    }

    const OPEN_SHARDS: usize = 16;

    impl Fleet {
        fn new() -> Self {
            let desired = DesiredWorkers::new(LIMITS);
            Self { desired, now: Duration::ZERO, workers: 1, backlog: 0.0, wanted: Vec::new() }
        }

        fn run(&mut self, periods: usize, arriving_kbps: impl Fn(usize) -> f64) {
            let seconds = PERIOD.as_secs_f64();
            for period in 0..periods {
                let arriving = arriving_kbps(period);
                let possible = self.workers as f64 * CAPACITY;
                let processed = possible.min(arriving + self.backlog / seconds);
                self.backlog = (self.backlog + (arriving - processed) * seconds).max(0.0);
                self.now += PERIOD;
                let lag = if self.backlog > 0.0 {
                    Duration::from_secs_f64(self.backlog / arriving.max(1.0))
                } else {
                    Duration::ZERO
                };
                let load = Load { kbps: processed, lag, open_shards: OPEN_SHARDS, workers: self.workers };
                let wanted = self.desired.update(self.now, &load);
                assert!(wanted <= OPEN_SHARDS, "more workers than shards: {wanted}");
                self.wanted.push(wanted);
                self.workers = wanted;
            }
        }

        fn changes(&self, from: usize) -> usize {
            self.wanted[from..].windows(2).filter(|pair| pair[0] != pair[1]).count()
        }
    }

    #[test]
    fn a_load_that_comes_tenfold_and_goes_is_followed_at_once_and_left_calmly() {
        let calm_periods = (CALM.as_secs() / PERIOD.as_secs()) as usize;
        let mut fleet = Fleet::new();
        fleet.run(20, |_| 0.0);
        assert_eq!(fleet.wanted.last(), Some(&1));
        fleet.run(2, |_| 10.0 * CAPACITY);
        assert!(fleet.workers >= 10, "two periods after the load came: {:?}", fleet.wanted);
        let risen = fleet.wanted.len();
        // A load that is not quite even: no worker comes or goes by that.
        fleet.run(200, |period| (9.6 + 0.4 * ((period * 7) % 5) as f64 / 5.0) * CAPACITY);
        assert!(fleet.changes(risen) <= 3, "{:?}", &fleet.wanted[risen..]);
        assert!(fleet.workers >= 10);
        assert!(fleet.backlog == 0.0, "what piled up is worked off");
        let falling = fleet.wanted.len();
        fleet.run(calm_periods + 1, |_| 0.0);
        assert_eq!(fleet.wanted.last(), Some(&1));
        assert_eq!(fleet.changes(falling), 1, "in one step, after the calm: {:?}", &fleet.wanted[falling..]);
    }

    #[test]
    fn waves_shorter_than_the_calm_move_nobody() {
        let mut fleet = Fleet::new();
        fleet.run(40, |period| if period % 4 < 2 { 6.0 * CAPACITY } else { CAPACITY });
        let settled = fleet.wanted.len();
        fleet.run(100, |period| if period % 4 < 2 { 6.0 * CAPACITY } else { CAPACITY });
        assert_eq!(fleet.changes(settled), 0, "{:?}", &fleet.wanted[settled..]);
    }

    #[test]
    fn a_processor_that_hangs_calls_for_no_more_than_its_throughput_can_explain() {
        let mut desired = DesiredWorkers::new(LIMITS);
        let wanted: Vec<usize> = (0..40)
            .map(|period| {
                let now = PERIOD * period;
                let lag = Duration::from_secs(u64::from(period) * PERIOD.as_secs());
                desired.update(now, &Load { kbps: 0.0, lag, open_shards: OPEN_SHARDS, workers: 2 })
            })
            .collect();
        assert!(wanted.iter().all(|wanted| *wanted <= 2), "{wanted:?}");
    }
}
