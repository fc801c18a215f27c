//! Exponential backoff with jitter from a seeded generator. `crate::retry` waits by it.

use std::time::Duration;

use fastrand::Rng;

const FIRST_LIMIT: Duration = Duration::from_millis(50);
const LAST_LIMIT: Duration = Duration::from_secs(5);

/// Waits with full jitter: each is drawn between zero and a limit that doubles.
#[derive(Clone, Debug)]
pub struct Backoff {
    limit: Duration,
    last: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(FIRST_LIMIT, LAST_LIMIT)
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

    #[test]
    fn backoff_doubles_its_limit_and_draws_below_it() {
        let last = Duration::from_secs(1);
        let (mut backoff, mut rng) = (Backoff::new(Duration::from_millis(100), last), Rng::with_seed(3));
        for limit_ms in [100, 200, 400, 800, 1000, 1000] {
            assert!(backoff.next(&mut rng) <= Duration::from_millis(limit_ms));
        }
    }
}
