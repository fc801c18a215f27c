//! Rate limits: a bucket of one second's calls.

use crate::timestamp::Timestamp;

/// Lets through a number of calls a second, with a burst of one second's worth after a pause.
#[derive(Clone, Debug, Default)]
pub(crate) struct RateLimit {
    /// Thousandths of calls left, and when they were counted; `None` before the first call.
    level: Option<(u64, Timestamp)>,
}

impl RateLimit {
    /// Takes one call out of the bucket; false when there is none. No limit lets every call through.
    pub(crate) fn allow(&mut self, now: Timestamp, per_second: Option<u32>) -> bool {
        let Some(per_second) = per_second else {
            return true;
        };
        let capacity = u64::from(per_second) * 1000;
        let level = match self.level {
            None => capacity,
            Some((level, then)) => {
                let elapsed_ms = now.as_millis().saturating_sub(then.as_millis());
                level.saturating_add(elapsed_ms.saturating_mul(u64::from(per_second))).min(capacity)
            }
        };
        let allowed = level >= 1000;
        self.level = Some((if allowed { level - 1000 } else { level }, now));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::{RateLimit, Timestamp};

    #[test]
    fn a_second_lets_its_number_through_and_time_brings_more() {
        let mut limit = RateLimit::default();
        let at = Timestamp::from_millis;
        let allowed = |limit: &mut RateLimit, now| limit.allow(at(now), Some(4));
        assert_eq!((0..6).filter(|_| allowed(&mut limit, 1000)).count(), 4);
        assert!(!allowed(&mut limit, 1249));
        assert!(allowed(&mut limit, 1250));
        assert!((0..100).all(|_| limit.allow(at(1250), None)));
    }
}
