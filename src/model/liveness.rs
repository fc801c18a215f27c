//! Expiry without clocks: a value that has not changed for long enough on the observer's own clock counts as dead.
//!
//! No time is ever compared between machines (KCL's rule for lease counters). The observer notes when it first saw a
//! value; a value is stale once a *later read, sent* a whole lease duration after that, still shows it. So its owner,
//! which counts from before it sent the write of that value, has stopped by its own clock before anyone takes over.

use std::collections::BTreeMap;
use std::time::Duration;

/// The last observed changes of some keys' values. Times are since any fixed moment of the observer's clock.
#[derive(Clone, Debug)]
pub struct Observations<K, V> {
    seen: BTreeMap<K, Observation<V>>,
}

#[derive(Clone, Debug)]
struct Observation<V> {
    value: V,
    /// The arrival of the answer that first showed the value.
    first_seen: Duration,
    /// The sending of the latest read that still showed it.
    last_read_sent: Duration,
    /// Whether the value has changed since the key was first seen.
    changed: bool,
}

impl<K, V> Default for Observations<K, V> {
    fn default() -> Self {
        Self { seen: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: PartialEq> Observations<K, V> {
    /// Notes the value that a read showed, with the moments at which it was sent and its answer arrived.
    pub fn observe(&mut self, key: &K, value: V, sent: Duration, arrived: Duration) {
        match self.seen.get_mut(key) {
            Some(known) if known.value == value => known.last_read_sent = known.last_read_sent.max(sent),
            Some(known) => {
                *known = Observation { value, first_seen: arrived, last_read_sent: sent, changed: true };
            }
            None => {
                let first = Observation { value, first_seen: arrived, last_read_sent: sent, changed: false };
                self.seen.insert(key.clone(), first);
            }
        }
    }

    /// The time for which the key's value is known to be unchanged; `None` for a key never seen.
    pub fn still_for(&self, key: &K) -> Option<Duration> {
        self.seen.get(key).map(|known| known.last_read_sent.saturating_sub(known.first_seen))
    }

    /// Whether the value was seen to change at least once.
    pub fn has_changed(&self, key: &K) -> bool {
        self.seen.get(key).is_some_and(|known| known.changed)
    }

    /// Whether the value has been unchanged for at least `limit`.
    pub fn is_stale(&self, key: &K, limit: Duration) -> bool {
        self.still_for(key).is_some_and(|still| still >= limit)
    }

    /// The first moment at which a read, if it still shows the same, proves the key stale.
    pub fn stale_at(&self, key: &K, limit: Duration) -> Option<Duration> {
        self.seen.get(key).map(|known| known.first_seen + limit)
    }

    /// Forgets all keys but those that `keep` wants.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.seen.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_value_is_stale_only_by_a_read_sent_a_limit_after_it_was_first_seen() {
        let mut seen = Observations::default();
        seen.observe(&"w", 1, ms(0), ms(40));
        seen.observe(&"w", 1, ms(5_020), ms(5_060));
        assert!(!seen.is_stale(&"w", LIMIT), "that read was sent 4.98 s after the first answer");
        seen.observe(&"w", 1, ms(5_040), ms(5_041));
        assert!(seen.is_stale(&"w", LIMIT));
    }

    #[test]
    fn any_change_starts_the_wait_anew() {
        let mut seen = Observations::default();
        seen.observe(&"w", 1, ms(0), ms(1));
        seen.observe(&"w", 2, ms(4_900), ms(4_901));
        seen.observe(&"w", 2, ms(5_500), ms(5_501));
        assert!(!seen.is_stale(&"w", LIMIT));
        assert!(seen.has_changed(&"w"));
        assert_eq!(seen.stale_at(&"w", LIMIT), Some(ms(9_901)));
    }

    #[test]
    fn time_alone_proves_nothing() {
        let mut seen = Observations::<_, u64>::default();
        assert!(!seen.is_stale(&"w", LIMIT), "never seen is not dead");
        seen.observe(&"w", 1, ms(0), ms(1));
        assert!(!seen.is_stale(&"w", LIMIT), "however late it is now: no later read");
    }
}
