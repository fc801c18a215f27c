//! A worker's rate of processing: bytes a second over the last [`WINDOW`].

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::millis;

/// The time over which the rate is measured.
const WINDOW: Duration = Duration::from_secs(15);

/// A total that grows, as seen at moments of the last [`WINDOW`].
#[derive(Debug, Default)]
pub(crate) struct Rate(VecDeque<(Duration, u64)>);

impl Rate {
    /// Notes the total at `now`, a duration since any fixed moment.
    pub(crate) fn note(&mut self, now: Duration, total: u64) {
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back((now, total));
    }

    /// KiB a second.
    pub(crate) fn kbps(&self) -> u64 {
        let (Some((from, before)), Some((to, after))) = (self.0.front(), self.0.back()) else { return 0 };
        let ms = millis(to.saturating_sub(*from));
        (after - before).saturating_mul(1000).checked_div(ms).unwrap_or(0) / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_forgets_what_is_older_than_its_window() {
        let mut rate = Rate::default();
        let second = Duration::from_secs(1);
        (0..60).for_each(|now| rate.note(second * now, u64::from(now) * 2048));
        assert_eq!(rate.kbps(), 2);
        (60..90).for_each(|now| rate.note(second * now, 59 * 2048));
        assert_eq!(rate.kbps(), 0);
        assert!(rate.0.len() < 20);
    }
}
