//! The throughput of a shard: delivered bytes a second, smoothed.
//!
//! The rate is an exponential mean with a half-life: what was delivered a half-life ago counts half. KCL keeps the
//! same figure in `throughputKBps`, though with a weight that depends on how often it renews.

use std::time::Duration;

/// After this time what was delivered counts half.
pub const HALF_LIFE: Duration = Duration::from_secs(60);
/// A shard that was read for less long has no rate yet, unless it had one before.
const SHORTEST_MEASURE: Duration = Duration::from_secs(10);
/// Rates below this (KiB/s) are nothing.
const LEAST_RATE: f64 = 0.001;

/// The rate of one shard. Moments are durations since any fixed one.
#[derive(Clone, Debug)]
pub struct Throughput {
    /// The exponentially weighted sum of bytes, as a rate in bytes a second, at `at`.
    rate: f64,
    at: Duration,
    /// The part of all weight that lies within the time measured: 1 after long, 0 at the start.
    covered: f64,
    since: Duration,
    /// Whether a rate was known before this measurement began.
    is_continued: bool,
}

impl Throughput {
    /// Begins to measure at `now`, from the rate that was known before (KiB/s), if any.
    pub fn new(now: Duration, before: Option<f64>) -> Self {
        let before = before.filter(|rate| rate.is_finite() && *rate >= 0.0);
        Self {
            rate: before.unwrap_or(0.0) * 1024.0,
            at: now,
            covered: if before.is_some() { 1.0 } else { 0.0 },
            since: now,
            is_continued: before.is_some(),
        }
    }

    /// Notes that `bytes` were delivered just before `now`.
    pub fn note(&mut self, now: Duration, bytes: usize) {
        let (rate, covered) = self.decayed(now);
        #[expect(clippy::cast_precision_loss, reason = "a batch is far below 2^53 bytes")]
        let bytes = bytes as f64;
        // The mean of a steady flow is the flow: all weights together are one.
        self.rate = rate + bytes * std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64();
        self.covered = covered;
        self.at = self.at.max(now);
    }

    /// The rate in KiB/s, to three digits, so that next to nothing is nothing and small changes are none. `None` while
    /// too little was seen.
    pub fn kbps(&self, now: Duration) -> Option<f64> {
        if !self.is_continued && now.saturating_sub(self.since) < SHORTEST_MEASURE {
            return None;
        }
        let (rate, covered) = self.decayed(now);
        Some(three_digits(rate / covered / 1024.0))
    }

    fn decayed(&self, now: Duration) -> (f64, f64) {
        let passed = now.saturating_sub(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        let kept = (-passed).exp2();
        (self.rate * kept, 1.0 - (1.0 - self.covered) * kept)
    }
}

/// Rounds to three digits; exact in decimal, so that the table gives back what was written.
fn three_digits(rate: f64) -> f64 {
    if rate < LEAST_RATE {
        return 0.0;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the logarithm of a finite number")]
    let places = (2 - rate.log10().floor() as i32).clamp(0, 3);
    let scale = 10_f64.powi(places);
    (rate * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A measurement of `kib` KiB each second for `length` seconds.
    fn steady(mut throughput: Throughput, from: u64, length: u64, kib: usize) -> Throughput {
        for second in from..from + length {
            throughput.note(seconds(second + 1), kib * 1024);
        }
        throughput
    }

    #[test]
    fn a_steady_flow_has_its_own_rate_from_the_start() {
        for length in [10, 60, 600] {
            let measured = steady(Throughput::new(seconds(0), None), 0, length, 200);
            let rate = measured.kbps(seconds(length)).expect("long enough");
            assert!((rate - 200.0).abs() < 4.0, "{rate} after {length} s");
        }
    }

    #[test]
    fn after_a_half_life_of_silence_half_is_left() {
        let measured = steady(Throughput::new(seconds(0), None), 0, 1200, 100);
        let rate = measured.kbps(seconds(1200) + HALF_LIFE).expect("known");
        assert!((rate - 50.0).abs() < 1.0, "{rate}");
    }

    #[test]
    fn too_short_a_look_says_nothing_but_what_was_known_before_goes_on() {
        let fresh = steady(Throughput::new(seconds(0), None), 0, 5, 100);
        assert_eq!(fresh.kbps(seconds(5)), None);
        let continued = Throughput::new(seconds(0), Some(80.0));
        assert_eq!(continued.kbps(seconds(0)), Some(80.0));
        assert_eq!(continued.kbps(HALF_LIFE), Some(40.0));
    }

    #[test]
    fn next_to_nothing_is_nothing_and_nonsense_is_unknown() {
        assert_eq!(Throughput::new(seconds(0), Some(5.0)).kbps(seconds(3600)), Some(0.0));
        assert_eq!(Throughput::new(seconds(0), Some(f64::NAN)).kbps(seconds(1)), None);
        assert_eq!(Throughput::new(seconds(0), Some(-1.0)).kbps(seconds(1)), None);
    }

    #[test]
    fn rates_have_three_digits() {
        for (rate, rounded) in [
            (1234.56, 1235.0),
            (123.456, 123.0),
            (12.3456, 12.3),
            (1.23456, 1.23),
            (0.123_456, 0.123),
            (0.001_2, 0.001),
        ] {
            assert_eq!(three_digits(rate).to_string(), f64::to_string(&rounded));
        }
    }
}
